"""A second opinion on onnxruntime: networks that agree, and mistakes planted on either side, each found at its node."""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np
import pytest
from drawn_nets import drawn_net, examples, one

import dualnet as dn
from dualnet.bridges.against import onnx_pass
from dualnet.bridges.onnx_graph import GraphReader

onnx, _ = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
helper, numpy_helper = onnx.helper, onnx.numpy_helper


def model(nodes: list, shape: tuple, constants: dict[str, np.ndarray] | None = None, opset: int = 21):
    """An ONNX model that takes x, float32, and gives y."""
    kept = [numpy_helper.from_array(np.asarray(array), name) for name, array in (constants or {}).items()]
    x, y = helper.make_tensor_value_info("x", 1, ["N", *shape]), helper.make_tensor_value_info("y", 1, None)
    graph = helper.make_graph(nodes, "made", [x], [y], kept)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def node(operator: str, inputs: str, output: str, **attributes):
    return helper.make_node(operator, inputs.split(), [output], name=f"the {operator}", **attributes)


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype("float32")


# -- agreement ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
def test_networks_agree_node_by_node(layout, tmp_path):
    for seed in range(16):
        draw = np.random.default_rng(seed)
        net = drawn_net(draw)
        path = net.to_onnx(tmp_path / "net.onnx", layout=layout, opset=int(one(draw, 18, 20, 22)))
        x = examples(net, draw)
        report = dn.against(path, x.transpose(0, 3, 1, 2) if layout == "NCHW" and x.ndim == 4 else x)
        assert report.ok and report.first is None, (net, report)
        computing = [n for n in onnx.load(path).graph.node if n.op_type not in ("Constant", "Shape")]
        assert {row.name for row in report.rows} - {"whole graph"} <= {n.name for n in computing}
        assert report.rows and not any("nobody" in note for note in report.notes)


def test_our_whole_network_stands_beside_theirs(tmp_path):
    net = dn.models.get("lenet5")().init((28, 28, 1))
    report = dn.against(net.to_onnx(tmp_path / "net.onnx"), normal(2, 28, 28, 1))
    assert report.ok and 0 < report.logits < 1e-5
    assert [row.witness for row in report.rows if row.kind == "Conv"] == ["Conv2D in float64"] * 2


def test_what_dualnet_does_not_have_is_judged_by_the_reference():
    nodes = [
        node("Mul", "x x", "a"),
        node("Clip", "a low high", "b"),
        node("HardSwish", "b", "c"),
        node("Neg", "c", "y"),
    ]
    made = model(nodes, (4,), {"low": np.float32(0), "high": np.float32(6)})
    report = dn.against(made, normal(3, 4))
    assert report.ok and {row.witness for row in report.rows if row.kind != "optimised"} == {
        "onnx.reference in float64"
    }
    assert np.isnan(report.logits) and "4 of its nodes have no counterpart" in report.notes[0]


def test_integers_and_shapes_are_passed_over_and_the_rest_is_judged():
    nodes = [node("Shape", "x", "s"), node("Gather", "s zero", "n"), node("Concat", "n k", "to", axis=0)]
    nodes += [node("Reshape", "x to", "y")]
    made = model(nodes, (2, 3), {"zero": np.array([0]), "k": np.array([-1])})
    assert [row.name for row in dn.against(made, normal(4, 2, 3)).rows] == ["the Reshape", "whole graph"]


def test_what_nobody_can_judge_is_told():
    made = model([node("RandomUniformLike", "x", "r"), node("Add", "x r", "y")], (3,))
    report = dn.against(made, normal(2, 3))
    assert "nothing could be compared at the RandomUniformLike (RandomUniformLike)" in report.notes
    assert [row.name for row in report.rows][:1] == ["the Add"]


# -- planted -----------------------------------------------------------------------------------------------------------


def session_that(monkeypatch, output: str, factor: float) -> None:
    """Let onnxruntime be wrong at one node: what it computes there is multiplied, and handed on so."""
    real: Callable = onnx_pass._outputs

    def wrong(model, feeds, names, optimised):
        changed = onnx.ModelProto.FromString(model.SerializeToString())
        at = next(i for i, n in enumerate(changed.graph.node) if output in n.output)
        changed.graph.node[at].output[list(changed.graph.node[at].output).index(output)] = "right"
        changed.graph.node.insert(at + 1, helper.make_node("Mul", ["right", "factor"], [output]))
        changed.graph.initializer.append(numpy_helper.from_array(np.float32(factor), "factor"))
        return real(changed, feeds, names, optimised)

    monkeypatch.setattr(onnx_pass, "_outputs", wrong)


def test_a_wrong_node_of_theirs_is_found_wherever_it_stands(monkeypatch, tmp_path):
    found = 0
    for seed in range(4):
        draw = np.random.default_rng(seed)
        net = drawn_net(draw)
        path, x = net.to_onnx(tmp_path / "net.onnx"), examples(net, draw)
        made = onnx.load(path)
        values = onnx_pass._outputs(made, {made.graph.input[0].name: x}, onnx_pass._kept(made), False)
        for one_node in made.graph.node:
            output = one_node.output[0]
            if not onnx_pass.is_real(values.get(output)) or not values[output].any():
                continue
            with monkeypatch.context() as patch:
                session_that(patch, output, 1 + 2**-11)
                report = dn.against(path, x)
            off = [row for row in report.rows if not row.ok]
            assert [(row.name, row.fault) for row in off] == [(one_node.name, "theirs")], (net, report)
            assert "The fault is in onnxruntime." in report.verdict()
            found += 1
    assert found > 30


def test_a_wrong_layer_of_ours_is_ours(monkeypatch):
    """A reader that takes a LeakyRelu for a ReLU: onnxruntime and the reference of the standard say otherwise."""
    readers = dict(onnx_pass.READERS, LeakyRelu=lambda reader, call: reader.put(dn.ReLU(), reader.value(call), call))
    monkeypatch.setattr("dualnet.bridges.against.onnx_twins.READERS", readers)
    made = model([node("LeakyRelu", "x", "a", alpha=0.1), node("Relu", "a", "y")], (5,))
    report = dn.against(made, normal(3, 5))
    assert (report.first, report.culprit.fault) == ("the LeakyRelu", "ours")
    assert "dualnet's ReLU is 1.7e-01 from it" in report.culprit.story and "The fault is in dualnet" in report.verdict()
    assert sum(not row.ok for row in report.rows) == 1


def test_a_wrong_kernel_of_ours_is_ours(monkeypatch):
    """The reference in float64 is right, and what computes in float32 is not."""
    real = onnx_pass.judge.__globals__["_Case"].rows

    def rows(case):
        run = case.twin.run
        case.twin.run = lambda values, dy=None: (run(values, dy)[0] * np.float32(1.01), {})
        return real(case)

    monkeypatch.setattr(onnx_pass.judge.__globals__["_Case"], "rows", rows)
    report = dn.against(model([node("Relu", "x", "y")], (5,)), normal(3, 5))
    assert (report.first, report.culprit.fault) == ("the Relu", "ours")


def test_an_optimisation_that_changes_the_result_is_theirs(monkeypatch):
    real: Callable = onnx_pass._outputs

    def outputs(model, feeds, names, optimised):
        return {
            name: array * (1.01 if optimised else 1) for name, array in real(model, feeds, names, optimised).items()
        }

    monkeypatch.setattr(onnx_pass, "_outputs", outputs)
    report = dn.against(model([node("Relu", "x", "y")], (5,)), normal(3, 5))
    assert (report.first, report.culprit.fault) == ("whole graph", "theirs")


# -- arguments ---------------------------------------------------------------------------------------------------------


def test_wrong_arguments(tmp_path):
    relu = model([node("Relu", "x", "y")], (5,))
    with pytest.raises(ValueError, match=r"x has shape \(3, 4\); expected \(any, 5\)"):
        dn.against(relu, normal(3, 4))
    with pytest.raises(ValueError, match=r"x has shape \(0, 5\)"):
        dn.against(relu, normal(0, 5))
    with pytest.raises(TypeError, match="expected numbers"):
        dn.against(relu, np.array([["a"] * 5]))
    with pytest.raises(ValueError, match="an ONNX model has no backward pass, so leave out t and loss"):
        dn.against(relu, normal(3, 5), np.zeros(3, int))
    with pytest.raises(FileNotFoundError):
        dn.against(tmp_path / "none.onnx", normal(3, 5))
    with pytest.raises(ValueError, match="is a folder"):
        dn.against(tmp_path, normal(3, 5))
    (tmp_path / "m.onnx").write_bytes(b"\xff" * 99)
    with pytest.raises(dn.CheckpointError, match="m.onnx: it is not an ONNX file"):
        dn.against(tmp_path / "m.onnx", normal(3, 5))
    two = model([node("Add", "x z", "y")], (5,))
    two.graph.input.append(helper.make_tensor_value_info("z", 1, ["N", 5]))
    with pytest.raises(ValueError, match="the model has the inputs x, z; expected one"):
        dn.against(two, normal(3, 5))
    with pytest.raises(ValueError, match="onnxruntime cannot run the model"):
        dn.against(model([node("NoSuchThing", "x", "y")], (5,)), normal(3, 5))


def test_numbers_beside_the_file_are_read_from_its_folder_only(tmp_path):
    made = model([node("MatMul", "x w", "y")], (5,), {"w": normal(5, 64)})
    onnx.save(made, tmp_path / "m.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    assert dn.against(tmp_path / "m.onnx", normal(3, 5)).ok
    made = onnx.load(tmp_path / "m.onnx", load_external_data=False)
    (tmp_path / "inside").mkdir()
    next(one for one in made.graph.initializer[0].external_data if one.key == "location").value = "../w.bin"
    (tmp_path / "inside" / "m.onnx").write_bytes(made.SerializeToString())
    with pytest.raises(dn.CheckpointError, match="folder has no such file"):
        dn.against(tmp_path / "inside" / "m.onnx", normal(3, 5))


def test_the_model_that_was_given_stays_as_it_is():
    made = model([node("Relu", "x", "y")], (5,))
    before = made.SerializeToString()
    dn.against(made, normal(3, 5))
    assert made.SerializeToString() == before


def test_without_onnxruntime_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ImportError, match=r'pip install "dualnet\[onnxruntime\]"'):
        dn.against(model([node("Relu", "x", "y")], (5,)), normal(3, 5))


def test_a_layer_that_is_replaced_leaves_no_weights_behind(tmp_path):
    """The convolution that an average pooling was written as goes, and its weights with it."""
    net = dn.Sequential([dn.AveragePool2D(2, padding=1, dilation=(1, 2), count_include_pad=True)]).init((6, 6, 3))
    made = onnx.load(net.to_onnx(tmp_path / "net.onnx", opset=18))
    reader = GraphReader(made, tmp_path / "net.onnx", None, onnx_pass.READERS)
    reader.network()
    assert set(reader.weights) <= {place.does for place in reader.nodes}
