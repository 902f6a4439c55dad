"""Networks from ONNX files: our own, those of other exporters, and files from strangers."""

from __future__ import annotations

import copy
import time
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bridge_nets import EVERY
from drawn_nets import drawn_net, examples, one
from strangers import mutated

import dualnet as dn

HAS_ONNX = pytest.importorskip("onnx", reason="ONNX files need the package onnx") is not None
if HAS_ONNX:
    import onnx
    from onnx import helper, numpy_helper
    from onnx.reference import ReferenceEvaluator


# -- there and back ----------------------------------------------------------------------------------------------------


def back(net: dn.Layer, folder: Path, **options: Any) -> dn.Sequential:
    return dn.from_onnx(net.to_onnx(folder / "net.onnx", **options))


def same(net: dn.Layer, other: dn.Layer, x: np.ndarray, tolerance: float = 2e-6) -> None:
    y, z = net.predict(x), other.predict(x)
    assert y.dtype == z.dtype and y.shape == z.shape
    assert np.abs(y - z).max() <= tolerance * np.abs(y).max(), (net, other)


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
def test_every_layer_comes_back(name, layout, tmp_path, rng):
    layer, shape = EVERY[name]
    net = copy.deepcopy(layer).init(shape, seed=1)
    same(net, back(net, tmp_path, layout=layout), examples(net, rng))


@pytest.mark.parametrize(("dtype", "networks"), [("float32", 200), ("float16", 40), ("float64", 40)])
def test_drawn_networks_come_back(dtype, networks, tmp_path):
    for seed in range(networks):
        draw = np.random.default_rng(seed)
        net = drawn_net(draw, dtype)
        options = {"opset": int(one(draw, *range(18, 24))), "layout": one(draw, "NHWC", "NCHW")}
        other = back(net, tmp_path, **options)
        assert other.dtype == net.dtype and other.input_shape == net.input_shape
        same(net, other, examples(net, draw), {"float16": 2e-3, "float32": 2e-6, "float64": 1e-14}[dtype])


def drawn_pooling(draw: np.random.Generator) -> dn.Layer:
    def pair(least: int, most: int) -> tuple[int, int]:
        return int(draw.integers(least, most + 1)), int(draw.integers(least, most + 1))

    options = {
        "stride": one(draw, None, pair(1, 5), pair(1, 5)),
        "padding": one(draw, "same", "valid", "full", (pair(0, 3), pair(0, 3)), (pair(0, 3), pair(0, 3))),
        "dilation": one(draw, 1, pair(1, 3), pair(1, 3)),
        "ceil_mode": one(draw, False, True),
    }
    kind = one(draw, dn.MaxPool2D, dn.L2Pool2D, dn.AveragePool2D, dn.AveragePool2D, dn.AveragePool2D)
    if kind is dn.AveragePool2D:
        options["count_include_pad"] = one(draw, False, True)
    return kind(pair(1, 4), **options)


def test_drawn_poolings_come_back(tmp_path):
    """Half of them in opset 18, which has no dilation in a mean: it is written as a sum and a division."""
    poolings = divided = 0
    newest = onnx.defs.onnx_opset_version()
    for seed in range(600):
        draw = np.random.default_rng(seed)
        pooling, shape = drawn_pooling(draw), tuple(int(n) for n in draw.integers(1, (9, 9, 5)))
        x = draw.standard_normal((2, *shape)).astype("float32")
        try:
            net = dn.Sequential([pooling]).init(shape)
            net.predict(x)
        except ValueError:  # a window does not fit on the map, or lies beside it
            continue
        options = {"opset": int(one(draw, 18, draw.integers(18, newest + 1))), "layout": one(draw, "NHWC", "NCHW")}
        other = back(net, tmp_path, **options)
        assert [type(layer) for layer in other] == [type(pooling)], (pooling, shape, options)
        same(net, other, x)
        poolings += 1
        divided += b"Div" in (tmp_path / "net.onnx").read_bytes()
    assert poolings > 250 and divided > 80, (poolings, divided)


def test_what_ceil_mode_reaches_does_not_count(tmp_path, rng):
    """Of the last window, two taps of three lie beyond the padding."""
    mean = dn.AveragePool2D(3, stride=5, padding=1, dilation=2, ceil_mode=True, count_include_pad=True)
    net = dn.Sequential([mean]).init((5, 5, 2))
    other = back(net, tmp_path, opset=18)
    assert repr(other[0]) == repr(mean)
    same(net, other, examples(net, rng))


def test_a_pooling_of_many_windows_comes_back(tmp_path, rng):
    net = dn.Sequential([dn.AveragePool2D(9, stride=1, padding=2, dilation=2, count_include_pad=True)])
    net.init((150, 140, 1))
    same(net, back(net, tmp_path, opset=18), examples(net, rng, 1))


@pytest.mark.parametrize("name", ["lenet5", "resnet20", "vgg6"])
def test_models_come_back_layer_by_layer(name, tmp_path, rng):
    net = dn.models.get(name)().init(dn.models.INPUT_SHAPES[name], seed=2)
    other = back(net, tmp_path)
    assert [type(layer) for _, layer in other.walk()] == [type(layer) for _, layer in net.walk()]
    assert {n: p.shape for n, p in other.parameters().items()} == {n: p.shape for n, p in net.parameters().items()}
    same(net, other, examples(net, rng, 2))


def test_what_comes_back_can_be_trained_and_saved(tmp_path, rng):
    layers = [dn.Conv2D(3, 3), dn.BatchNorm(), dn.ReLU(), dn.Dropout(0.5), dn.Flatten(), dn.Dense(2)]
    net = back(dn.Sequential(layers).init((5, 5, 1), seed=3), tmp_path)
    x, t = rng.random((8, 5, 5, 1)).astype("float32"), np.arange(8) % 2
    before = net.evaluate(x, t)["loss"]
    net.fit(x, t, epochs=30, optimizer=dn.Adam(1e-2), verbose=0)
    assert net.evaluate(x, t)["loss"] < before / 2
    same(net, dn.load(net.save(tmp_path / "net.npz")), x)


# -- nodes as other exporters write them -------------------------------------------------------------------------------

Step = tuple[Any, ...]


def model(
    steps: list[Step], shape: list[Any], constants: dict[str, Any] | None = None, opset: int = 21
) -> onnx.ModelProto:
    """A model of nodes (operator, inputs, attributes); each makes a tensor of its number, the last one ``y``."""
    nodes = []
    for place, (operator, inputs, *attributes) in enumerate(steps):
        name = "y" if place == len(steps) - 1 else str(place)
        nodes.append(helper.make_node(operator, inputs.split(), [name], **(attributes[0] if attributes else {})))
    kept = [numpy_helper.from_array(np.asarray(array), name) for name, array in (constants or {}).items()]
    graph = helper.make_graph(
        nodes,
        "made",
        [helper.make_tensor_value_info("x", 1, ["n", *shape])],
        [helper.make_tensor_value_info("y", 1, None)],
        kept,
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    return made


def agree(made: onnx.ModelProto, folder: Path, rng: np.random.Generator, maps: bool = True) -> dn.Sequential:
    """The network computes what the model does."""
    onnx.save(made, folder / "made.onnx")
    net = dn.from_onnx(folder / "made.onnx")
    dims = [one.dim_value for one in made.graph.input[0].type.tensor_type.shape.dim][1:]
    x = rng.standard_normal((3, *dims)).astype("float32")
    if find_spec("onnxruntime"):
        import onnxruntime

        session = onnxruntime.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
        y = session.run(None, {"x": x})[0]
    else:
        y = ReferenceEvaluator(made).run(None, {"x": x})[0]
    z = net.predict(x.transpose(0, 2, 3, 1) if x.ndim == 4 and maps else x)
    z = z.transpose(0, 3, 1, 2) if z.ndim == 4 and maps else z
    assert z.shape == y.shape
    np.testing.assert_allclose(z, y, atol=3e-6 * np.abs(y).max())
    return net


F = np.float32
W = np.random.default_rng(5).standard_normal((4, 3, 3, 3)).astype(F)
M = np.random.default_rng(6).standard_normal((48, 5)).astype(F)
B = np.arange(1, 5, dtype=F)
SQUARE = {"kernel_shape": [3, 3]}

GRAPHS: dict[str, tuple[list[Step], list[int], dict[str, Any]]] = {
    "same upper": ([("Conv", "x w", {**SQUARE, "auto_pad": "SAME_UPPER", "strides": [2, 2]})], [3, 6, 8], {"w": W}),
    "same lower": ([("Conv", "x w", {**SQUARE, "auto_pad": "SAME_LOWER", "strides": [2, 2]})], [3, 6, 8], {"w": W}),
    "valid": ([("Conv", "x w", {**SQUARE, "auto_pad": "VALID"})], [3, 6, 8], {"w": W}),
    "ceil mode": (
        [("MaxPool", "x", {**SQUARE, "strides": [2, 3], "ceil_mode": 1, "pads": [1, 0, 0, 1]})],
        [2, 6, 9],
        {},
    ),
    "ceil mode, counted": (
        [
            (
                "AveragePool",
                "x",
                {**SQUARE, "strides": [2, 2], "ceil_mode": 1, "pads": [1, 1, 1, 1], "count_include_pad": 1},
            )
        ],
        [2, 6, 8],
        {},
    ),
    "average": ([("AveragePool", "x", {**SQUARE, "pads": [1, 0, 1, 2], "strides": [2, 1]})], [2, 6, 8], {}),
    "pad before a convolution": (
        [("Pad", "x p"), ("Conv", "0 w", {**SQUARE, "pads": [0, 1, 0, 1]})],
        [3, 6, 7],
        {"p": np.array([0, 0, 2, 1, 0, 0, 0, 3]), "w": W},
    ),
    "bias added to a bias": (
        [("Conv", "x w b", SQUARE), ("Add", "0 c")],
        [3, 6, 7],
        {"w": W, "b": B, "c": 2 * B.reshape(4, 1, 1)},
    ),
    "bias added": ([("Conv", "x w", SQUARE), ("Add", "0 b")], [3, 6, 7], {"w": W, "b": B.reshape(4, 1, 1)}),
    "scaled": (
        [("Conv", "x w", SQUARE), ("Mul", "b 0"), ("Add", "1 b"), ("Relu", "2")],
        [3, 6, 7],
        {"w": W, "b": B.reshape(1, 4, 1, 1)},
    ),
    "norm scaled": (
        [("BatchNormalization", "x b b b b"), ("Mul", "0 s"), ("Add", "1 s")],
        [4, 3, 3],
        {"b": B, "s": B.reshape(4, 1, 1)},
    ),
    "dense of a flattened map": (
        [("Flatten", "x"), ("MatMul", "0 w"), ("Add", "1 b")],
        [3, 4, 4],
        {"w": M, "b": np.ones(5, F)},
    ),
    "dense of a flattened map, transposed": (
        [("Flatten", "x"), ("Relu", "0"), ("Gemm", "1 w b", {"transB": 1})],
        [3, 4, 4],
        {"w": np.ascontiguousarray(M.T), "b": F(2)},
    ),
    "reshaped": ([("Reshape", "x s"), ("MatMul", "0 w")], [3, 4, 4], {"w": M, "s": np.array([-1, 48])}),
    "reshaped by computed numbers": (
        [("Shape", "x"), ("Gather", "0 i", {"axis": 0}), ("Unsqueeze", "1 z"), ("Concat", "2 m", {"axis": 0})]
        + [("Reshape", "x 3"), ("MatMul", "4 w")],
        [3, 4, 4],
        {"w": M, "i": np.array(0), "z": np.array([0]), "m": np.array([-1])},
    ),
    "reshaped to a shape": (
        [("Flatten", "x"), ("Shape", "0"), ("Reshape", "x 1"), ("MatMul", "2 w")],
        [3, 4, 4],
        {"w": M},
    ),
    "pooled and squeezed": ([("GlobalAveragePool", "x"), ("Squeeze", "0 a")], [3, 4, 5], {"a": np.array([2, 3])}),
    "pooled by a mean": ([("ReduceMean", "x a", {"keepdims": 0})], [3, 4, 5], {"a": np.array([-1, -2])}),
    "channels last inside": (
        [("Transpose", "x", {"perm": [0, 2, 3, 1]}), ("LayerNormalization", "0 b"), ("MatMul", "1 v")]
        + [("Gelu", "2"), ("Transpose", "3", {"perm": [0, 3, 1, 2]}), ("Conv", "4 w", SQUARE)],
        [4, 5, 6],
        {"b": B, "v": np.ones((4, 3), F), "w": W},
    ),
    "norm over maps": (
        [("LayerNormalization", "x g h", {"axis": 1})],
        [2, 3, 4],
        {"g": np.arange(24, dtype=F).reshape(2, 3, 4), "h": np.ones((2, 3, 4), F)},
    ),
    "norm over the width": ([("LayerNormalization", "x g", {"axis": -1})], [2, 3, 4], {"g": B}),
    "softmax over the height": ([("Softmax", "x", {"axis": 2})], [2, 3, 4], {}),
    "norm of a flattened map": (
        [("Flatten", "x"), ("BatchNormalization", "0 u u u u"), ("LayerNormalization", "1 u u"), ("MatMul", "2 w")],
        [3, 4, 4],
        {"u": np.linspace(0.5, 2, 48, dtype=F), "w": M},
    ),
    "gelu, divided": (
        [("Div", "x r"), ("Erf", "0"), ("Add", "1 i"), ("Mul", "x 2"), ("Mul", "3 h")],
        [5],
        {"r": F(2**0.5), "i": F(1), "h": F(0.5)},
    ),
    "gelu, its parts in other orders": (
        [("Div", "x r"), ("Erf", "0"), ("Add", "i 1"), ("Mul", "2 h"), ("Mul", "3 x")],
        [5],
        {"r": F(2**0.5), "i": F(1), "h": F(0.5)},
    ),
    "silu": ([("Sigmoid", "x"), ("Mul", "0 x")], [5], {}),
    "softplus of PyTorch": ([("Softplus", "x"), ("Greater", "x t"), ("Where", "1 x 0")], [5], {"t": F(20)}),
    "group norm by instance norm": (
        [("Reshape", "x s"), ("InstanceNormalization", "0 i o"), ("Reshape", "1 t"), ("Mul", "2 b"), ("Add", "3 b")],
        [4, 3, 5],
        {
            "s": np.array([0, 2, -1]),
            "i": np.ones(2, F),
            "o": np.zeros(2, F),
            "t": np.array([-1, 4, 3, 5]),
            "b": B.reshape(4, 1, 1),
        },
    ),
    "layer norm in steps": (
        [("ReduceMean", "x a"), ("Sub", "x 0"), ("Pow", "1 q"), ("ReduceMean", "2 a"), ("Add", "3 e"), ("Sqrt", "4")]
        + [("Div", "1 5"), ("Mul", "6 b"), ("Add", "7 b")],
        [3, 4],
        {"a": np.array([-1]), "q": F(2), "e": F(1e-5), "b": B},
    ),
    "one slope": ([("PRelu", "x s")], [3, 4, 4], {"s": np.full((3, 1, 1), 0.25, F)}),
    "a residual": (
        [("Conv", "x w", {**SQUARE, "pads": [1, 1, 1, 1]}), ("Relu", "0"), ("Add", "x 1")],
        [3, 5, 5],
        {"w": W[:3]},
    ),
    "branches that part later": (
        [("Relu", "x"), ("Sigmoid", "0"), ("Tanh", "0"), ("Softplus", "x"), ("Concat", "3 1 2 x", {"axis": 1})],
        [2, 3, 4],
        {},
    ),
}


@pytest.mark.parametrize("name", GRAPHS)
def test_nodes(name, tmp_path, rng):
    steps, shape, constants = GRAPHS[name]
    agree(model(steps, shape, constants), tmp_path, rng)


def test_images_with_channels_last(tmp_path, rng):
    steps = [
        ("Relu", "x"),
        ("Transpose", "0", {"perm": [0, 3, 1, 2]}),
        ("Conv", "1 w", SQUARE),
        ("GlobalMaxPool", "2"),
        ("Flatten", "3"),
    ]
    net = agree(model(steps, [5, 6, 3], {"w": W}), tmp_path, rng, maps=False)
    assert net.input_shape == (5, 6, 3) and [type(layer) for layer in net] == [dn.ReLU, dn.Conv2D, dn.GlobalMaxPool2D]


def test_attributes_read_as_they_were_meant(tmp_path):
    """They are float32: 0.01 lies in the file as 0.009999999776482582."""
    options = {"epsilon": 1e-3, "momentum": 0.99}
    steps = [("LeakyRelu", "x", {"alpha": 0.01}), ("BatchNormalization", "0 b b b b", options)]
    onnx.save(model(steps, [4], {"b": B}), tmp_path / "made.onnx")
    net = dn.from_onnx(tmp_path / "made.onnx")
    assert (net[0].alpha, net[1].epsilon, net[1].momentum) == (0.01, 1e-3, 0.99)


def test_open_height_and_width(tmp_path):
    onnx.save(model([("Conv", "x w", SQUARE)], [3, "h", "w"], {"w": W}), tmp_path / "made.onnx")
    with pytest.raises(ValueError, match=r"leaves the shape of its input open, \(None, None, 3\)\. Pass it"):
        dn.from_onnx(tmp_path / "made.onnx")
    assert dn.from_onnx(tmp_path / "made.onnx", input_shape=(9, 8, 3)).output_shape((9, 8, 3)) == (7, 6, 4)
    with pytest.raises(ValueError, match=r"input_shape=\(9, 8, 4\) does not fit its input \(None, None, 3\)"):
        dn.from_onnx(tmp_path / "made.onnx", input_shape=(9, 8, 4))


# -- what PyTorch writes -----------------------------------------------------------------------------------------------


def small_vgg(torch: Any, torchvision: Any) -> Any:
    net = torchvision.models.vgg11_bn(num_classes=10)
    net.avgpool, net.classifier = (
        torch.nn.Identity(),
        torch.nn.Sequential(torch.nn.Dropout(), torch.nn.Linear(2048, 10)),
    )
    return net


def lenet(torch: Any, torchvision: Any) -> Any:
    nn = torch.nn
    maps = [nn.Conv2d(3, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), nn.Tanh(), nn.AvgPool2d(2)]
    return nn.Sequential(*maps, nn.Flatten(), nn.Linear(3136, 84), nn.GELU(), nn.Linear(84, 10), nn.LogSoftmax(1))


TORCH = {
    "lenet": lenet,
    "vgg11_bn": small_vgg,
    "resnet18": lambda torch, vision: vision.models.resnet18(),
    "googlenet": lambda torch, vision: vision.models.googlenet(init_weights=False, aux_logits=False),
    "densenet121": lambda torch, vision: vision.models.densenet121(),
}


@pytest.mark.parametrize("name", TORCH)
def test_models_of_pytorch(name, tmp_path):
    torch = pytest.importorskip("torch")
    vision = pytest.importorskip("torchvision")
    torch.manual_seed(0)
    net = TORCH[name](torch, vision).eval()
    with torch.no_grad():
        for part, buffer in net.named_buffers():
            if part.endswith("running_var"):
                buffer.uniform_(0.5, 1.5)
    x = torch.randn(2, 3, 64, 64)
    free = {"input_names": ["x"], "dynamic_axes": {"x": {0: "n"}}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(net, (x,), str(tmp_path / "net.onnx"), dynamo=False, **free)
    y = net(x).detach().numpy()
    z = dn.from_onnx(tmp_path / "net.onnx").predict(x.numpy().transpose(0, 2, 3, 1))
    assert np.abs(y - z).max() <= 2e-5 * np.abs(y).max()


# -- what has no counterpart -------------------------------------------------------------------------------------------

REFUSED: dict[str, tuple[list[Step], list[Any], dict[str, Any], str]] = {
    "all at once": (
        [("Clip", "x"), ("Relu", "0"), ("HardSwish", "1"), ("Sin", "2")],
        [3],
        {},
        "3 of its nodes have no counterpart in dualnet: 0 .Clip: dualnet has .* Clip.; 2 .HardSwish: .*; y .Sin: ",
    ),
    "a product": ([("Relu", "x"), ("Tanh", "x"), ("Mul", "0 1")], [3], {}, "multiplies the outputs of two nodes"),
    "a sum with constants": (
        [("Relu", "x"), ("Add", "0 c")],
        [3],
        {"c": F(1)},
        "no layer with weights comes right before it",
    ),
    "other axes": (
        [("ReduceMean", "x a")],
        [3, 4, 4],
        {"a": np.array([1])},
        r"reduces the axes \[1\]; expected height and width",
    ),
    "space in three axes": ([("Conv", "x w")], [3, 5, 5, 5], {"w": np.ones((2, 3, 2, 2, 2), F)}, "Conv: "),
    "flattened at the end": ([("Flatten", "x")], [2, 3, 4], {}, "in a different order"),
    "a pad at the end": ([("Pad", "x p")], [2, 3, 4], {"p": np.array([0, 0, 1, 1, 0, 0, 1, 1])}, "ends with a Pad"),
    "a region that leaks": (
        [("Relu", "x"), ("Tanh", "0"), ("Add", "x 1"), ("Concat", "2 0", {"axis": 1})],
        [3],
        {},
        "node '0' branches in a way that Residual and Parallel cannot express",
    ),
    "another domain": ([("Relu", "x")], [3], {}, "dualnet has no layer for com.other.Relu"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_no_counterpart(name, tmp_path):
    steps, shape, constants, message = REFUSED[name]
    made = model(steps, shape, constants)
    if name == "another domain":
        made.graph.node[0].domain = "com.other"
    onnx.save(made, tmp_path / "made.onnx")
    with pytest.raises(ValueError, match=message) as caught:
        dn.from_onnx(tmp_path / "made.onnx")
    assert type(caught.value) is ValueError  # the file is no worse for it


def of_nodes(
    nodes: list[onnx.NodeProto], result: str, constants: dict[str, Any] | None = None, shape: tuple[int, ...] = (4,)
) -> onnx.ModelProto:
    """A model of nodes that may have several outputs, or leave some out."""
    made = model([("Relu", "x")], list(shape), constants)
    del made.graph.node[:]
    made.graph.node.extend(nodes)
    made.graph.output[0].name = result
    return made


def node(operator: str, inputs: list[str], outputs: list[str], **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(operator, inputs, outputs, name=f"n.{operator}.{outputs[-1]}", **attributes)


def refusal(made: onnx.ModelProto, folder: Path) -> str:
    onnx.save(made, folder / "made.onnx")
    with pytest.raises(ValueError) as caught:
        dn.from_onnx(folder / "made.onnx")
    assert type(caught.value) is ValueError, caught.value  # the file is no worse for it
    return str(caught.value).partition("made.onnx: ")[2]


TAIL = ". Use layers that dualnet has, and export again; or keep the part before with onnx.utils"


def test_a_node_of_several_outputs_is_told_once(tmp_path):
    """And what takes its outputs, at any distance, is no news."""
    parts = [node("Split", ["x"], ["a", "b", "c"], axis=1, num_outputs=3)]
    ways = [node("Sigmoid", ["b"], ["d"]), node("MatMul", ["c", "w"], ["e"]), node("Relu", ["a"], ["f"])]
    ways += [node("Mul", ["d", "e"], ["g"]), node("Add", ["g", "w"], ["h"]), node("Concat", ["f", "h"], ["y"], axis=1)]
    told = refusal(of_nodes(parts + ways, "y", {"w": np.ones((4, 4), F)}), tmp_path)
    one, several = (f"of its nodes {verb} no counterpart in dualnet: " for verb in ("has", "have"))
    why = "(Split: dualnet has no layer for Split)"
    assert told.startswith(f"1 {one}n.Split.c {why}{TAIL}"), told
    for place, name in enumerate("abc"):  # also when one of them is the whole result
        told = refusal(of_nodes(parts, name), tmp_path)
        assert told.startswith(f"1 {one}n.Split.c {why}{TAIL}"), (place, told)
    many = [node("Erf", ["x" if not place else str(place - 1)], [str(place)]) for place in range(8)]
    told = refusal(of_nodes(many, "7"), tmp_path)
    eight = f"8 {several}n.Erf.0, n.Erf.1, n.Erf.2 and 5 more (Erf: dualnet has no layer for Erf)"
    assert told.startswith(f"{eight}{TAIL}"), told
    two = [node("Relu", ["x"], ["r"]), *parts, node("Split", ["r"], ["k", "l"], num_outputs=2)]
    told = refusal(of_nodes([*two, node("Add", ["b", "l"], ["y"])], "y"), tmp_path)
    assert told.startswith(f"2 {several}n.Split.c, n.Split.l {why}{TAIL}"), told


def test_shapes_behind_what_is_lacking_are_no_news(tmp_path):
    """An exporter computes the shape for a Reshape from that of the tensor, which is not known here."""
    nodes = [node("Erf", ["x"], ["e"]), node("Shape", ["e"], ["s"]), node("Gather", ["s", "i"], ["g"])]
    nodes += [node("Unsqueeze", ["g", "o"], ["u"]), node("Concat", ["u", "m"], ["c"], axis=0)]
    nodes += [node("Reshape", ["e", "c"], ["r"]), node("Relu", ["r"], ["y"])]
    numbers = {"i": np.array(0), "o": np.array([0]), "m": np.array([4])}
    told = refusal(of_nodes(nodes, "y", numbers), tmp_path)
    assert told.startswith("1 of its nodes") and "n.Erf.e (Erf: dualnet has no layer for Erf)." in told, told
    told = refusal(of_nodes([node("Gather", ["x", "i"], ["y"], axis=1)], "y", numbers), tmp_path)
    assert told.startswith("1 of its nodes") and "n.Gather.y (Gather: dualnet has no layer for Gather)." in told, told


def test_outputs_and_inputs_that_are_left_out(tmp_path):
    """The name "" says that there is none: no node makes it, and no node waits for it."""
    lstm = node("LSTM", ["x", "w", "r", "", "", "h"], ["", "hidden", "cell"], hidden_size=2)
    behind = [node("Tanh", ["hidden"], ["t"]), node("Add", ["t", "cell"], ["y"])]
    numbers = {name: np.ones((1, 8, 2), F) for name in "wrh"}
    told = refusal(of_nodes([lstm, *behind], "y", numbers), tmp_path)
    assert told.startswith("1 of its nodes") and "n.LSTM.cell (LSTM: dualnet has no layer for LSTM)." in told
    doubled = node("Gemm", ["x", "m", ""], ["g"], alpha=2.0)
    nodes = [lstm, doubled, node("Concat", ["hidden", "g"], ["y"], axis=1)]
    told = refusal(of_nodes(nodes, "y", {**numbers, "m": np.ones((4, 2), F)}), tmp_path)
    assert (
        told.startswith("2 of its nodes")
        and "n.Gemm.g (Gemm: it computes more than x · w + b; expected a matrix w, alpha = beta = 1 and transA = 0)."
        in told
    )
    lone = node("LSTM", ["x", "w", "r"], ["", "hidden"], hidden_size=2)  # does not lead to the result
    clip = node("Clip", ["x", "", "m"], ["y"])
    told = refusal(of_nodes([lone, clip], "y", {**numbers, "m": F(6)}), tmp_path)
    assert told.startswith("1 of its nodes") and "n.Clip.y (Clip: dualnet has no layer for Clip)." in told
    gemm = [lone, node("Gemm", ["x", "m", ""], ["y"])]  # it is read, though a node without first output stands before
    onnx.save(of_nodes(gemm, "y", {**numbers, "m": np.eye(4, 3, dtype=F)}), tmp_path / "made.onnx")
    net = dn.from_onnx(tmp_path / "made.onnx")
    assert [type(layer) for layer in net] == [dn.Dense] and net[0].b is None


def test_a_second_output_that_is_used(tmp_path):
    """A layer has one output; the second one of a node may be there, but nothing may need it."""
    drop = node("Dropout", ["x"], ["d", "mask"])
    onnx.save(of_nodes([drop, node("Relu", ["d"], ["y"])], "y"), tmp_path / "made.onnx")
    assert [type(layer) for layer in dn.from_onnx(tmp_path / "made.onnx")] == [dn.ReLU]
    pool = node("MaxPool", ["x"], ["p", "places"], kernel_shape=[2, 2])
    onnx.save(of_nodes([pool], "p", shape=(3, 5, 5)), tmp_path / "made.onnx")
    assert [type(layer) for layer in dn.from_onnx(tmp_path / "made.onnx")] == [dn.MaxPool2D]
    assert "the graph uses its output 'places'" in refusal(of_nodes([pool], "places", shape=(3, 5, 5)), tmp_path)
    for behind, result in (([], "mask"), ([node("Cast", ["mask"], ["k"], to=1), node("Add", ["d", "k"], ["y"])], "y")):
        told = refusal(of_nodes([drop, *behind], result), tmp_path)
        why = "n.Dropout.mask (Dropout: the graph uses its output 'mask', but a layer gives only the first output)."
        assert told.startswith("1 of its nodes has no counterpart") and why in told, told


# -- files from strangers ----------------------------------------------------------------------------------------------


def damaged(made: onnx.ModelProto, folder: Path, message: str) -> None:
    (folder / "made.onnx").write_bytes(made.SerializeToString())
    with pytest.raises(dn.CheckpointError, match=message):
        dn.from_onnx(folder / "made.onnx")


def dense(w: Any = None) -> onnx.ModelProto:
    return model([("MatMul", "x w")], [3], {"w": np.ones((3, 2), F) if w is None else w})


def test_what_is_no_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        dn.from_onnx(tmp_path / "none.onnx")
    with pytest.raises(ValueError, match="is a folder"):
        dn.from_onnx(tmp_path)
    for content in (b"", b"\x80\x04", b"PK\3\4" * 100, b"\n\0"):
        (tmp_path / "made.onnx").write_bytes(content)
        with pytest.raises(dn.CheckpointError, match="not an ONNX file"):
            dn.from_onnx(tmp_path / "made.onnx")


def test_claims_are_compared_with_the_size(tmp_path):
    made = dense()
    made.graph.initializer[0].dims[:] = [3, 10**12]
    damaged(made, tmp_path, "has 3000000000000 elements, but the file holds 6")
    made.graph.initializer[0].dims[:] = [0, 2**31]
    made.graph.initializer[0].raw_data = b""
    damaged(made, tmp_path, "is empty: it has the shape")
    made.graph.initializer[0].dims[:] = [-3, -2]
    damaged(made, tmp_path, "has the shape")


def test_little_weights_do_not_stand_for_many(tmp_path):
    made = model([("LayerNormalization", "x g", {"axis": 1})], [8, 40_000, 40_000], {"g": np.ones((1, 1, 1), F)})
    onnx.save(made, tmp_path / "made.onnx")
    with pytest.raises(ValueError, match="would grow to 12,800,000,000 numbers"):
        dn.from_onnx(tmp_path / "made.onnx")


def external(made: onnx.ModelProto, **told: Any) -> onnx.ModelProto:
    tensor = made.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    del tensor.external_data[:]
    for key, value in told.items():
        tensor.external_data.add(key=key, value=str(value))
    return made


def test_numbers_beside_the_file(tmp_path, rng):
    folder = tmp_path / "model"
    (folder / "inside").mkdir(parents=True)
    w = rng.standard_normal((3, 2)).astype(F)
    (folder / "inside" / "w.bin").write_bytes(b"12345678" + w.tobytes())
    (tmp_path / "secret.bin").write_bytes(w.tobytes())
    (folder / "link.bin").symlink_to(tmp_path / "secret.bin")
    (folder / "made.onnx").write_bytes(
        external(dense(w), location="inside/w.bin", offset=8, length=24).SerializeToString()
    )
    np.testing.assert_array_equal(dn.to_numpy(dn.from_onnx(folder / "made.onnx")[0].w.value), w)
    for location in ("../secret.bin", str(tmp_path / "secret.bin"), "link.bin", "none.bin", "inside", ""):
        damaged(external(dense(w), location=location), folder, "folder has no such file")
    damaged(external(dense(w)), folder, "folder has no such file")
    for told in ({"offset": 9}, {"offset": -1}, {"length": 4}, {"offset": 2**62}):
        damaged(external(dense(w), location="inside/w.bin", **told), folder, "do not fit into")
    damaged(external(dense(w), location="inside/w.bin", offset="x"), folder, "invalid literal")


def test_weights_that_do_not_fit(tmp_path):
    damaged(dense(np.ones((4, 2), F)), tmp_path, r"weights have the shape \(4, 2\); expected 3 rows")
    damaged(model([("Conv", "x w")], [3, 2, 2], {"w": W}), tmp_path, "does not fit on a map")
    damaged(model([("Conv", "x w")], [2, 5, 5], {"w": W}), tmp_path, "of the wrong shape")
    made = dense()
    made.graph.node[0].input[0] = "z"
    damaged(made, tmp_path, "takes 'z', which no earlier node makes")


def test_damaged_files(tmp_path, rng):
    """Whatever a file says: a network, or one of the errors of the docstring, and soon."""
    sources = [
        drawn_net(np.random.default_rng(seed)).to_onnx(tmp_path / f"{seed}.onnx").read_bytes() for seed in range(8)
    ]
    steps, shape, constants = GRAPHS["reshaped by computed numbers"]
    sources.append(model(steps, shape, constants).SerializeToString())
    told = {"read": 0, "refused": 0}
    for place in range(1500):
        content = mutated(sources[place % len(sources)], rng, header=len(sources[place % len(sources)]) // 2)
        (tmp_path / "made.onnx").write_bytes(content)
        start = time.thread_time()
        try:
            dn.from_onnx(tmp_path / "made.onnx")
            told["read"] += 1
        except ValueError:  # CheckpointError is one
            told["refused"] += 1
        assert time.thread_time() - start < 5
    assert told["read"] > 50 and told["refused"] > 300, told


def test_many_nodes(tmp_path):
    nodes = [("Relu", "x" if not place else str(place - 1)) for place in range(10_001)]
    damaged(model(nodes, [3]), tmp_path, "has 10,001 nodes; expected at most 10,000")
    onnx.save(model(nodes[:2000], [3]), tmp_path / "made.onnx")
    assert len(dn.from_onnx(tmp_path / "made.onnx")) == 2000
