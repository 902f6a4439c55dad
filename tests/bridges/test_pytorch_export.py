"""To PyTorch: every layer gives the same output, deltas and gradients there, and comes back."""

from __future__ import annotations

import numpy as np
import pytest

import dualnet as dn

torch = pytest.importorskip("torch")

import torch_tools as tools  # noqa: E402

MAP, ROW = (7, 9, 6), (12,)
LAYERS = [
    (dn.Conv2D(8, (3, 2), stride=(2, 1), padding=(1, 0), dilation=(1, 2)), MAP),
    (dn.Conv2D(9, 3, padding="same", groups=3, mode="convolution"), MAP),
    (dn.Conv2D(4, 3, padding="full", use_bias=False), MAP),
    (dn.DepthwiseConv2D(3, depth_multiplier=2, padding=1), MAP),
    (dn.SeparableConv2D(5, 3, padding=1), MAP),
    (dn.Conv2DTranspose(4, 3, stride=2, padding=1, output_padding=1), MAP),
    (dn.Conv2DTranspose(9, (2, 4), stride=(1, 3), dilation=2, groups=3, use_bias=False), MAP),
    (dn.Conv2DTranspose(4, 4, stride=2, padding="same"), MAP),
    (dn.MaxPool2D(3, stride=2, padding=1), MAP),
    (dn.MaxPool2D(2, ceil_mode=True), MAP),
    (dn.AveragePool2D(3, stride=2, padding=1, ceil_mode=True), MAP),
    (dn.AveragePool2D(3, stride=2, padding=1, count_include_pad=True), MAP),
    (dn.GlobalAveragePool2D(), MAP),
    (dn.GlobalMaxPool2D(keepdims=True), MAP),
    (dn.Dense(5), ROW),
    (dn.Dense(5, use_bias=False), MAP),
    (dn.BatchNorm(0.7, 1e-3), MAP),
    (dn.BatchNorm(), ROW),
    (dn.LayerNorm(epsilon=1e-4), ROW),
    (dn.LayerNorm(), MAP),
    (dn.LayerNorm((1, 2, 3)), MAP),
    (dn.LayerNorm((1, 2), center=False), MAP),
    (dn.GroupNorm(3), MAP),
    *[(layer, MAP) for layer in (dn.ReLU(), dn.LeakyReLU(0.3), dn.ELU(0.5), dn.GELU(), dn.GELU(True), dn.SiLU())],
    *[(layer, MAP) for layer in (dn.Sigmoid(), dn.Tanh(), dn.Softplus(), dn.Softmax(), dn.LogSoftmax(2))],
    *[(layer, MAP) for layer in (dn.Mish(), dn.ReLU6(), dn.Hardsigmoid(), dn.Hardswish(), dn.PReLU())],
    *[(layer, ROW) for layer in (dn.PReLU(), dn.PReLU(shared=True), dn.RMSNorm(epsilon=1e-3), dn.RMSNorm(scale=False))],
    (dn.RMSNorm(), MAP),
    (dn.InstanceNorm(), MAP),
    (dn.UpSampling2D((3, 2)), MAP),
    (dn.UpSampling2D((2, 3), interpolation="bilinear"), MAP),
    (dn.ReflectionPadding2D(((1, 0), (2, 3))), MAP),
    (dn.AdaptiveAveragePool2D((3, 2)), MAP),
    (dn.Softmax(), ROW),
    (dn.Residual(dn.Conv2D(6, 1), dn.Conv2D(6, 3, padding=1)), MAP),
    (dn.Parallel([dn.Identity(), dn.Conv2D(3, 1), dn.Tanh()], merge="concat"), MAP),
    (dn.Parallel([dn.Identity(), dn.ReLU(), dn.Tanh()]), MAP),
]
ONE_WAY = [  # PyTorch needs a padding of its own for these
    (dn.Conv2D(4, 2, padding="same"), MAP),
    (dn.Conv2D(4, 3, stride=2, padding="same"), (8, 8, 6)),
    (dn.Conv2D(4, 3, padding=((0, 2), (1, 0))), MAP),
    (dn.Conv2DTranspose(4, 3, stride=2, padding=((0, 1), (1, 0))), MAP),
    (dn.MaxPool2D(2, padding="same"), MAP),
    (dn.MaxPool2D(3, stride=2, padding="same", ceil_mode=True), (8, 8, 6)),
    (dn.MaxPool2D(3, padding=((0, 1), (1, 0)), ceil_mode=True), MAP),
    (dn.AveragePool2D(2, padding="same", count_include_pad=True), MAP),
    (dn.L2Pool2D(2), MAP),
    (dn.BatchNorm(scale=False), MAP),
    (dn.models.PaddedShortcut(8, stride=2), MAP),
    (dn.ZeroPadding2D(((1, 0), (2, 3))), MAP),
    (dn.Cropping2D(((1, 0), (2, 3))), MAP),
    (dn.InstanceNorm(scale=False), MAP),
]


def ready(layer: dn.Layer, shape: tuple, rng: np.random.Generator, dtype: str) -> dn.Layer:
    """The layer with random values, statistics included."""
    net = layer.copy().init(shape, dtype=dtype)
    values = {name: rng.standard_normal(v.shape) for name, v in net.state_dict().items() if hasattr(v, "shape")}
    positive = {name: np.abs(v) + 0.5 for name, v in values.items() if "variance" in name}
    net.load_state_dict({**net.state_dict(), **values, **positive})
    return net


def shown(value: object) -> str:
    return repr(value).replace(" ", "")


@pytest.mark.parametrize(("layer", "shape"), LAYERS, ids=shown)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_there_and_back(layer, shape, dtype, rng):
    net = ready(layer, shape, rng, dtype)
    module = dn.to_torch(net)
    assert not module.training
    tools.outputs_agree(module, net, shape, rng)
    back = dn.from_torch(module, shape)
    x = dn.asarray(rng.standard_normal((2, *shape)).astype(net.dtype if net.parameters() else "float32"))
    tau = tools.limit(net, 2)
    if net.parameters():
        assert tools.distance(back(x), net(x)) <= tau
    if dtype == "float64" and net.parameters():
        for train in (False, True):
            tools.steps_agree(module, back, shape, rng, train, batch=5)


@pytest.mark.parametrize(("layer", "shape"), ONE_WAY, ids=shown)
def test_layers_for_which_pytorch_needs_two(layer, shape, rng):
    for dtype in ("float32", "float64"):
        net = ready(layer, shape, rng, dtype)
        module = dn.to_torch(net)
        x = rng.standard_normal((2, *shape)).astype(dtype)
        with torch.no_grad():
            expected = tools.last(module(tools.first(x)))
        assert tools.distance(dn.to_numpy(net(dn.asarray(x))), expected) <= 100 * np.finfo(dtype).eps
        if type(layer) is dn.Conv2D:
            assert tools.distance(dn.to_numpy(dn.from_torch(module, shape)(dn.asarray(x))), expected) <= 1e-5


@pytest.mark.parametrize("name", ["lenet5", "vgg6", "resnet20", "digits_cnn"])
def test_networks(name, rng):
    shape = {"lenet5": (12, 12, 1), "digits_cnn": (8, 8, 1)}.get(name, (16, 16, 3))
    net = ready(dn.models.get(name)(), shape, rng, "float64")
    tools.outputs_agree(dn.to_torch(net), net, shape, rng)


def test_the_rows_behind_a_flatten_are_put_in_order_by_the_weights(rng):
    layers = [dn.Flatten(), dn.BatchNorm(), dn.LayerNorm(), dn.Parallel([dn.Tanh(), dn.ReLU()], merge="concat")]
    net = ready(dn.Sequential([*layers, dn.Dense(4)]), MAP, rng, "float64")
    module = dn.to_torch(net)
    tools.outputs_agree(module, net, MAP, rng)
    tools.steps_agree(module, dn.from_torch(module, MAP), MAP, rng, True, batch=3)
    assert type(module[0]) is torch.nn.Flatten and type(module[4]) is torch.nn.Linear


def test_names_are_the_networks_own():
    net = dn.Sequential([dn.Conv2D(6, 1), dn.Residual(dn.Sequential([dn.Conv2D(6, 1), dn.BatchNorm()]))]).init(MAP)
    names = set(dn.to_torch(net).state_dict())
    assert {"0.weight", "0.bias", "1.layer.0.weight", "1.layer.1.running_mean"} <= names


def test_a_shared_layer_is_a_shared_module(rng):
    layer = dn.Conv2D(6, 3, padding=1)
    module = dn.to_torch(dn.Sequential([layer, dn.ReLU(), layer]).init(MAP))
    assert module[0] is module[2]


def test_it_learns_as_the_network_does(rng):
    net = dn.Sequential([dn.Conv2D(4, 3), dn.BatchNorm(momentum=0.7), dn.ReLU(), dn.Flatten(), dn.Dense(3)])
    net.init((6, 6, 2), dtype="float64")
    module = dn.to_torch(net).train()
    x, t = rng.standard_normal((8, 6, 6, 2)), rng.integers(0, 3, 8)
    ours, theirs = dn.SGD(lr=0.1), torch.optim.SGD(module.parameters(), lr=0.1)
    for _ in range(5):
        y, pullback = net.forward(dn.asarray(x), train=True)
        loss, dloss = dn.losses.softmax_cross_entropy(y, dn.asarray(t))
        ours.step(net, pullback(dloss())[1])
        theirs.zero_grad()
        expected = torch.nn.functional.cross_entropy(module(tools.first(x)), torch.from_numpy(t))
        expected.backward()
        theirs.step()
        assert abs(float(dn.to_numpy(loss)) - expected.item()) < 1e-12
    tools.outputs_agree(module, net, (6, 6, 2), rng)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_sixteen_bits(dtype):
    if dtype == "bfloat16":
        pytest.importorskip("ml_dtypes")
    net = dn.Sequential([dn.Dense(3)]).init((4,), dtype=dtype)
    module = dn.to_torch(net)
    assert module[0].weight.dtype == getattr(torch, dtype)
    expected = dn.to_numpy(net.parameters()["0.w"].cast(net.dtype)).astype("float32").T
    np.testing.assert_array_equal(module[0].weight.detach().float().numpy(), expected)


def test_the_weights_are_copies():
    net = dn.Sequential([dn.Dense(3)]).init((4,))
    module = dn.to_torch(net)
    net.parameters()["0.w"].value[...] = 7
    assert not (module[0].weight == 7).any()


def test_all_that_pytorch_lacks_is_listed_at_once():
    class Mine(dn.Layer):
        def forward(self, x, train=False):
            return x, dn.Pullback("Mine", lambda dy: (dy, {}), x)

    net = dn.Sequential(
        [
            Mine(),
            dn.AveragePool2D(2, padding="same"),
            dn.L2Pool2D(2, padding=1),
            dn.Lambda(lambda x: x, lambda d, x, y: d),
        ]
    ).init(MAP)
    with pytest.raises(ValueError) as caught:
        dn.to_torch(net)
    for part in ("layer 0 (Mine)", "layer 1 (AveragePool2D): padding='same'", "layer 2 (L2Pool2D)", "layer 3 (Lambda)"):
        assert part in str(caught.value)
    with pytest.raises(ValueError, match="the output is flattened maps"):
        dn.to_torch(dn.Sequential([dn.Flatten()]).init(MAP))
    with pytest.raises(ValueError, match="it adds flattened maps and other rows"):
        dn.to_torch(dn.Parallel([dn.Flatten(), dn.Sequential([dn.Flatten(), dn.Dense(378)])]).init(MAP))


def test_what_is_no_network():
    with pytest.raises(TypeError, match="expected a layer or network, got int"):
        dn.to_torch(3)
    with pytest.raises(ValueError, match="call net.init"):
        dn.to_torch(dn.Dense(3))
    with pytest.raises(ValueError, match=r"the network's input is \(3, 4\)"):
        dn.to_torch(dn.Dense(3).init((3, 4)))


@pytest.mark.parametrize("merge", ["average", "max", "multiply"])
def test_merges(merge, rng):
    other = dn.GlobalAveragePool2D(keepdims=True) if merge == "multiply" else dn.Conv2D(6, 1)
    net = dn.Parallel([dn.Identity(), dn.Tanh(), other], merge=merge).init(MAP)
    x = rng.standard_normal((2, *MAP)).astype("float32")
    theirs = dn.to_torch(net)(torch.tensor(x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1).detach().numpy()
    assert np.abs(theirs - dn.to_numpy(net(dn.asarray(x)))).max() <= 1e-6


def test_graphs_are_refused():
    net = dn.Graph("x").add("twice", dn.Add(), ["x", "x"]).init(MAP)
    with pytest.raises(ValueError, match="Graph is not supported yet"):
        dn.to_torch(net)
