"""Networks as ONNX files: two programs that are not ours compute the same from them."""

from __future__ import annotations

import copy
import os
import sys
from collections import Counter
from importlib.util import find_spec

import numpy as np
import pytest
from bridge_nets import EVERY, NOT_IN_C
from drawn_nets import drawn_net, examples, one

import dualnet as dn
from dualnet.bridges import onnx_export

HAS_ONNX = pytest.importorskip("onnx", reason="ONNX files need the package onnx") is not None
if HAS_ONNX:
    import onnx
    from onnx.reference import ReferenceEvaluator

DRAWN = 200
HAS_RUNTIME = find_spec("onnxruntime") is not None


def reference_is_wrong(model: onnx.ModelProto, dtype: str) -> bool:
    """Does it hold what the package's own evaluator (1.23) does wrong? It fails there, or it rounds to float32."""
    for node in model.graph.node:
        groups = next((one.i for one in node.attribute if one.name == "group"), 1)
        if (node.op_type == "ConvTranspose" and groups > 1) or (node.op_type == "Erf" and dtype == "float64"):
            return True
    return False


def by_reference(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    return ReferenceEvaluator(model).run(["output"], {"input": x})[0]


def by_runtime(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    import onnxruntime as runtime

    options = runtime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    session = runtime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(["output"], {"input": x})[0]


def computed(
    net: dn.Layer, x: np.ndarray, layout: str = "NHWC", opset: int = 21, truth: bool = True
) -> list[np.ndarray]:
    """What the file computes, by each program that can, its maps as here."""
    model = onnx_export.onnx_model(net, opset=opset, layout=layout)
    turned = layout == "NCHW" and x.ndim == 4
    given, found = np.ascontiguousarray(x.transpose(0, 3, 1, 2)) if turned else x, []
    dtype = np.dtype(net.dtype).name
    if truth and not reference_is_wrong(model, dtype):
        found.append(by_reference(model, given))
    if HAS_RUNTIME and dtype != "float64":  # for which onnxruntime has no convolution on the CPU
        found.append(by_runtime(model, given))
    assert all(y.dtype == net.dtype for y in found)
    return [y.transpose(0, 2, 3, 1) if layout == "NCHW" and y.ndim == 4 else y for y in found]


def in_float64(net: dn.Layer) -> dn.Layer:
    state = {name: value for name, value in net.state_dict().items()}
    wide = copy.deepcopy(net).init(net.input_shape, dtype="float64")
    wide.load_state_dict(
        {n: np.asarray(dn.to_numpy(v), "float64") if hasattr(v, "shape") else v for n, v in state.items()}
    )
    return wide


def check(net: dn.Layer, x: np.ndarray, **options) -> float:
    """Each program is as near to the truth as this library is, but for a factor; returns the worst difference."""
    y, truth = net.predict(x).astype("float64"), in_float64(net).predict(x.astype("float64"))
    unit = {"float16": 1e-3, "float32": 1e-7, "float64": 1e-15}[np.dtype(net.dtype).name]
    scale, ours, worst = np.abs(truth).max() + 1e-30, np.abs(y - truth).max(), 0.0
    found = computed(net, x, **options)
    for z in found:
        assert z.shape == y.shape
        assert np.abs(z - truth).max() <= 8 * ours + 20 * unit * scale, (options, net)
        worst = max(worst, float(np.abs(z - y).max() / scale))
    return worst


# -- every layer -------------------------------------------------------------------------------------------------------


def test_every_layer_has_an_exporter():
    layers = {kind for kind in vars(dn).values() if isinstance(kind, type) and issubclass(kind, dn.Layer)}
    assert layers - {dn.Layer, dn.Lambda} == set(onnx_export.EXPORTERS) - {dn.models.PaddedShortcut}


@pytest.mark.parametrize("name", [*EVERY, *NOT_IN_C])
@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
def test_every_layer(name, layout, rng):
    layer, shape = {**EVERY, **NOT_IN_C}[name]
    net = copy.deepcopy(layer).init(shape, seed=1)
    for batch in (1, 3):
        check(net, examples(net, rng, batch), layout=layout)


@pytest.mark.parametrize("dtype", ["float16", "float64"])
@pytest.mark.parametrize("name", NOT_IN_C)
def test_other_dtypes(name, dtype, rng):
    layer, shape = NOT_IN_C[name]
    net = copy.deepcopy(layer).init(shape, seed=1, dtype=dtype)
    check(net, examples(net, rng, 2), opset=18)


MERGES = {
    "average": lambda: dn.Parallel([dn.Tanh(), dn.Identity(), dn.Conv2D(3, 1)], merge="average"),
    "max": lambda: dn.Parallel([dn.Tanh(), dn.Identity(), dn.Conv2D(3, 1)], merge="max"),
    "gate": lambda: dn.Parallel(
        [dn.Identity(), dn.Sequential([dn.GlobalAveragePool2D(keepdims=True), dn.Dense(3), dn.Sigmoid()])], "multiply"
    ),
    "graph": lambda: dn.Graph(
        "x",
        [
            ("a", dn.Conv2D(3, 3, padding="same"), "x"),
            ("b", dn.Sequential([dn.Tanh(), dn.Conv2D(3, 1)]), "a"),
            *(("p", dn.Multiply(), ["a", "b", "x"]), ("q", dn.Maximum(), ["p", "b"]), ("r", dn.Average(), ["q", "a"])),
            *(("s", dn.Concatenate(), ["r", "p"]), ("t", dn.Add(), ["s", "s"])),
        ],
    ),
}


@pytest.mark.parametrize("name", MERGES)
@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
def test_merges_and_graphs(name, layout, rng):
    net = dn.Sequential([MERGES[name](), dn.Flatten(), dn.Dense(2)]).init((4, 5, 3), seed=1)
    check(net, examples(net, rng, 2), layout=layout)


def test_several_inputs_are_refused(tmp_path):
    net = dn.Graph(["x", "y"]).add("sum", dn.Add(), ["x", "y"]).init({"x": (2,), "y": (2,)})
    with pytest.raises(ValueError, match="to_onnx is for networks with one of each"):
        net.to_onnx(tmp_path / "net.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("opset", range(18, 24))
def test_every_opset(opset, rng):
    layers = [dn.Conv2D(4, 3, padding=1), dn.GroupNorm(2), dn.GELU(), dn.GELU(approximate=True), dn.LayerNorm()]
    net = dn.Sequential([*layers, dn.AveragePool2D(2, dilation=2, padding=1), dn.L2Pool2D(2, ceil_mode=True)]).init(
        (7, 7, 3)
    )
    check(net, examples(net, rng), opset=opset)


def test_drawn_networks(rng):
    """200 random networks, in every opset and both layouts, by the checker, the reference evaluator and onnxruntime."""
    worst, operators = 0.0, Counter()
    for seed in range(DRAWN):
        draw = np.random.default_rng(seed)
        net = drawn_net(draw)
        options = {"opset": int(one(draw, *range(18, 24))), "layout": one(draw, "NHWC", "NCHW")}
        worst = max(worst, check(net, examples(net, draw), **options))
        operators.update(node.op_type for node in onnx_export.onnx_model(net, **options).graph.node)
    print(f"{DRAWN} networks, {len(operators)} operators, worst difference {worst:.1e}")
    assert worst < 1e-4 and len(operators) >= 30, operators


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_drawn_networks_of_other_precisions(dtype):
    for seed in range(40):
        draw = np.random.default_rng(1000 + seed)
        net = drawn_net(draw, dtype, most=4)
        check(net, examples(net, draw), opset=int(one(draw, 18, 21)))


@pytest.mark.parametrize("name", ["lenet5", "resnet20"])
def test_models(name, rng):
    net = dn.models.get(name)().init(dn.models.INPUT_SHAPES[name], seed=2)
    check(net, examples(net, rng, 2), truth=False)


def test_transposes_stand_at_the_edges_only():
    net = dn.models.lenet5().init((28, 28, 1))
    nodes = Counter(node.op_type for node in onnx_export.onnx_model(net).graph.node)
    assert nodes == {"Transpose": 1, "Conv": 2, "Relu": 4, "MaxPool": 2, "Flatten": 1, "Gemm": 3}
    assert "Transpose" not in {node.op_type for node in onnx_export.onnx_model(net, layout="NCHW").graph.node}


def test_a_flattened_map_that_is_seen_in_our_order(rng):
    """The network's output, a sum of two kinds, and a norm of each unit."""
    maps = dn.Conv2D(3, 2)
    for behind in ([], [dn.BatchNorm()], [dn.Flatten(), dn.Dense(4)], [dn.Residual(dn.Dense(36))], [dn.GroupNorm(4)]):
        net = dn.Sequential([maps, dn.Flatten(), dn.ReLU(), *behind]).init((5, 4, 2))
        net.load_state_dict(
            net.state_dict() | {n: rng.random(v.shape).astype("f4") for n, v in net.state_dict().items()}
        )
        check(net, examples(net, rng))


def test_padding_that_programs_refuse(rng):
    """As wide as the window or wider, and counted or not."""
    wide = {"dilation": 4, "padding": ((3, 2), (3, 3)), "stride": 2, "ceil_mode": True}
    layers = [dn.MaxPool2D(2, **wide), dn.AveragePool2D(2, **wide), dn.AveragePool2D(2, **wide, count_include_pad=True)]
    for layer in [*layers, dn.L2Pool2D(2, **wide), dn.AveragePool2D(2, padding=3, count_include_pad=True)]:
        for opset in (18, 21):
            net = dn.Sequential([layer]).init((6, 7, 2))
            check(net, examples(net, rng), opset=opset)
    far = {"stride": (4, 3), "padding": ((0, 3), (1, 3))}  # no window meets the rows behind
    beyond = {"stride": (1, 5), "padding": ((0, 2), (3, 1)), "dilation": (2, 3), "ceil_mode": True}
    for layer, shape in [
        (dn.AveragePool2D((2, 4), **far), (2, 1, 3)),
        (dn.AveragePool2D((4, 3), **beyond, count_include_pad=True), (5, 5, 2)),
    ]:
        for opset in (18, 21):
            net = dn.Sequential([layer]).init(shape)
            check(net, examples(net, rng), opset=opset)


def test_a_shared_layer_is_stored_once(rng):
    shared = dn.Dense(4)
    net = dn.Sequential([shared, dn.Tanh(), shared]).init((4,))
    model = onnx_export.onnx_model(net)
    assert sorted(one.name for one in model.graph.initializer) == ["0.b", "0.w"]
    check(net, examples(net, rng))


def test_a_network_that_does_nothing(rng):
    for net in (dn.Sequential([]), dn.Dropout(0.5), dn.Parallel([dn.Identity()])):
        check(net.init((3, 3, 2)), rng.random((2, 3, 3, 2)).astype("float32"))
        check(net.init((3,)), rng.random((2, 3)).astype("float32"))


# -- layers of one's own -----------------------------------------------------------------------------------------------


class Scale(dn.Layer):
    def build(self, input_shape, draw):
        self.g = draw.parameter("he_normal", (input_shape[-1],), fan_in=1)

    def forward(self, x, train=False):
        y = x * self.g.cast(x.dtype)
        return y, dn.Pullback("Scale", lambda dy: (dy, {}), y)


class Exported(Scale):
    def onnx_nodes(self, graph, x):
        assert graph.shape == self.input_shape and graph.opset == 21 and graph.dtype == "float32"
        return graph.node("Mul", x, graph.constant(self.g))


class Renamed(dn.Conv2D):
    """The same computation under another name."""


class Other(dn.ReLU):
    def forward(self, x, train=False):
        return super().forward(-x, train)


def test_a_layer_with_a_method_of_its_own(rng):
    net = dn.Sequential([dn.Conv2D(3, 2), Exported(), Renamed(2, 2), dn.Flatten(), Exported(), dn.Dense(2)]).init(
        (5, 5, 2)
    )
    check(net, examples(net, rng))


def test_layers_without_a_form_are_named_all_at_once():
    code = dn.Lambda(lambda x: x, lambda dy, x, y: dy)
    net = dn.Sequential([Scale(), dn.Residual(code), Other(), dn.ReLU()]).init((3,))
    with pytest.raises(
        TypeError, match=r"layers 0 \(Scale\), 1.layer \(Lambda\), 2 \(Other\)\. Give .* A Lambda is only code"
    ):
        net.to_onnx("never.onnx")
    assert not os.path.exists("never.onnx")


def test_a_method_that_forgets_to_return():
    class Forgets(Scale):
        def onnx_nodes(self, graph, x):
            graph.node("Mul", x, graph.constant(self.g))

    with pytest.raises(TypeError, match="returned None; expected the name of its output"):
        onnx_export.onnx_model(Forgets().init((3,)))


# -- files and messages ------------------------------------------------------------------------------------------------


def test_the_file(tmp_path):
    net = dn.models.lenet5().init((28, 28, 1))
    path = net.to_onnx(tmp_path / "net")
    assert path == tmp_path / "net.onnx" and os.listdir(tmp_path) == ["net.onnx"]
    model = onnx.load(path)
    assert (model.producer_name, model.producer_version) == ("dualnet", dn.__version__)
    dims = [
        [one.dim_param or one.dim_value for one in v.type.tensor_type.shape.dim]
        for v in (model.graph.input[0], model.graph.output[0])
    ]
    assert dims == [["N", 28, 28, 1], ["N", 10]]
    assert [node.name for node in model.graph.node][1] == "0.conv"
    content = path.read_bytes()
    assert net.to_onnx(path).read_bytes() == content  # equal networks make equal bytes


def test_the_old_file_stays_if_the_new_one_cannot_be_written(tmp_path, monkeypatch):
    net = dn.Dense(2).init((3,))
    content = net.to_onnx(tmp_path / "net.onnx").read_bytes()
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "no space")))
    with pytest.raises(OSError, match="no space"):
        dn.Dense(4).init((3,)).to_onnx(tmp_path / "net.onnx")
    assert (tmp_path / "net.onnx").read_bytes() == content and len(os.listdir(tmp_path)) == 1


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"opset": 17}, ValueError, "opset must be from 18 to"),
        ({"opset": 999}, ValueError, "opset must be from 18 to"),
        ({"opset": "21"}, TypeError, "opset"),
        ({"layout": "CHW"}, ValueError, "layout must be 'NHWC' or 'NCHW'"),
    ],
)
def test_options(options, error, message):
    with pytest.raises(error, match=message):
        dn.Dense(2).init((3,)).to_onnx("never.onnx", **options)


def test_what_cannot_be_written(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="call net.init"):
        dn.Dense(2).to_onnx("never.onnx")
    with pytest.raises(ValueError, match="is a folder"):
        dn.Dense(2).init((3,)).to_onnx(tmp_path)
    monkeypatch.setattr(onnx_export, "MOST_BYTES", 100)
    with pytest.raises(ValueError, match="ONNX allows at most 100"):
        dn.Dense(200).init((3,)).to_onnx(tmp_path / "never.onnx")
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ImportError, match=r'pip install "dualnet\[onnx\]"'):
        dn.Dense(2).init((3,)).to_onnx(tmp_path / "never.onnx")
    assert not os.listdir(tmp_path)


def test_bfloat16_is_refused():
    pytest.importorskip("ml_dtypes")
    with pytest.raises(ValueError, match="computes in bfloat16; expected float16, float32 or float64"):
        dn.Dense(2).init((3,), dtype="bfloat16").to_onnx("never.onnx")
