"""From PyTorch: outputs, deltas, gradients and statistics are the same, and everything that cannot be converted is
listed."""

from __future__ import annotations

import numpy as np
import pytest

import dualnet as dn

torch = pytest.importorskip("torch")
F, nn = torch.nn.functional, torch.nn

import torch_tools as tools  # noqa: E402

from dualnet.bridges.pytorch import converted  # noqa: E402

torch.manual_seed(0)  # for the weights of the modules below
MAP, ROW = (7, 9, 6), (12,)
MODULES = [
    (nn.Conv2d(6, 8, (3, 2), stride=(2, 1), padding=(1, 0), dilation=(1, 2)), MAP),
    (nn.Conv2d(6, 9, 4, padding="same", groups=3), MAP),
    (nn.Conv2d(6, 4, 3, padding="valid", bias=False), MAP),
    (nn.Conv2d(6, 12, 3, padding=1, groups=6), MAP),
    (nn.ConvTranspose2d(6, 4, 3, stride=2, padding=1, output_padding=1), MAP),
    (nn.ConvTranspose2d(6, 9, (2, 4), stride=(1, 3), dilation=2, groups=3, bias=False), MAP),
    (nn.Sequential(nn.ZeroPad2d((1, 0, 2, 3)), nn.Conv2d(6, 4, 3, stride=2, padding=(0, 1))), MAP),
    (nn.Linear(12, 5), ROW),
    (nn.Linear(12, 5, bias=False), ROW),
    (nn.BatchNorm2d(6, eps=1e-3, momentum=0.3), MAP),
    (nn.BatchNorm2d(6, affine=False), MAP),
    (nn.BatchNorm1d(12), ROW),
    (nn.LayerNorm(12, eps=1e-4), ROW),
    (nn.LayerNorm(12, bias=False), ROW),
    (nn.LayerNorm((6, 7, 9)), MAP),
    (nn.LayerNorm((7, 9)), MAP),
    (nn.GroupNorm(3, 6), MAP),
    (nn.InstanceNorm2d(6, affine=True), MAP),
    (nn.MaxPool2d(3, stride=2, padding=1), MAP),
    (nn.MaxPool2d(2, ceil_mode=True), MAP),
    (nn.MaxPool2d((2, 3), stride=(1, 2), dilation=2), MAP),
    (nn.AvgPool2d(3, stride=2, padding=1), MAP),
    (nn.AvgPool2d(3, stride=2, padding=1, count_include_pad=False, ceil_mode=True), MAP),
    (nn.AvgPool2d(2, ceil_mode=True), MAP),
    (nn.AdaptiveAvgPool2d(1), MAP),
    (nn.AdaptiveAvgPool2d((None, 3)), MAP),
    (nn.AdaptiveAvgPool2d((4, 2)), MAP),
    (nn.Upsample(scale_factor=2), MAP),
    (nn.Upsample(size=(14, 27), mode="bilinear"), MAP),
    (nn.UpsamplingNearest2d(scale_factor=3), MAP),
    (nn.ReflectionPad2d((1, 2, 3, 0)), MAP),
    (nn.PReLU(6), MAP),
    (nn.PReLU(), ROW),
    (nn.RMSNorm(12, eps=1e-4, elementwise_affine=False), ROW),
    *[(kind(), MAP) for kind in (nn.Mish, nn.ReLU6, nn.Hardswish)],
    (nn.AdaptiveMaxPool2d((7, 1)), MAP),
    (nn.AdaptiveMaxPool2d(1), MAP),
    *[(kind(), MAP) for kind in (nn.ReLU, nn.SiLU, nn.Sigmoid, nn.Tanh, nn.LeakyReLU, nn.ELU, nn.GELU, nn.Softplus)],
    (nn.LeakyReLU(0.3), MAP),
    (nn.ELU(0.5), MAP),
    (nn.GELU(approximate="tanh"), MAP),
    *[(kind(dim=dim), MAP) for kind in (nn.Softmax, nn.LogSoftmax) for dim in (1, 2, -1)],
    (nn.Softmax(dim=1), ROW),
]


def agree(module, shape, rng, batch=3):
    """The same outputs in float32 and float64, and the same steps in float64; returns the network."""
    for dtype in (torch.float32, torch.float64):
        net = dn.from_torch(tools.drawn(module, dtype), shape)
        assert np.dtype(net.dtype).name == str(dtype).removeprefix("torch.")
        tools.outputs_agree(module, net, shape, rng, batch)
    for train in (False, True):
        tools.steps_agree(module, net, shape, rng, train, batch)
    return net


@pytest.mark.parametrize(("module", "shape"), MODULES, ids=lambda value: str(value).replace(" ", ""))
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
def test_a_module_alone(module, shape, rng):
    if not list(module.parameters()):  # its dtype is that of the layer before it
        module = nn.Sequential(nn.Linear(12, 12) if shape == ROW else nn.Conv2d(6, 6, 1, bias=False), module)
    agree(module, shape, rng)


def test_hardsigmoid_alone(rng):
    """PyTorch's slope of 1/6 is rounded to float32, also in float64: outputs are compared, and steps in float32."""
    module = nn.Sequential(nn.Conv2d(6, 6, 1, bias=False), nn.Hardsigmoid())
    net = dn.from_torch(module, MAP)
    tools.outputs_agree(module, net, MAP, rng)
    tools.steps_agree(module, net, MAP, rng, True)
    assert type(net[1]) is dn.Hardsigmoid


def test_a_module_without_weights_has_the_default_dtype():
    assert np.dtype(dn.from_torch(nn.Sequential(nn.ReLU(), nn.AvgPool2d(1, 1)), MAP).dtype).name == "float32"


# -- networks ----------------------------------------------------------------------------------------------------------


class LeNet(nn.Module):
    """Functions and methods instead of modules, and a Linear behind maps that are not square."""

    def __init__(self, row=lambda x: x.view(x.size(0), -1)):
        super().__init__()
        self.c1, self.c2 = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 5, 3)
        self.f1, self.f2 = nn.Linear(5 * 2 * 3, 7), nn.Linear(7, 4)
        self.row = row

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.c1(x)), 2)
        x = F.leaky_relu(torch.tanh(self.c2(x)), 0.2)
        return F.log_softmax(self.f2(self.f1(self.row(x)).sigmoid()), dim=1)


ROWS = [
    lambda x: x.view(x.size(0), -1),
    lambda x: x.view(-1, 30),
    lambda x: x.reshape(x.shape[0], -1),
    lambda x: torch.flatten(x, 1),
    lambda x: x.flatten(start_dim=1),
    lambda x: x.contiguous().view(x.size()[0], 30),
]


@pytest.mark.parametrize("row", ROWS)
def test_a_linear_behind_maps_in_every_way_of_writing_it(row, rng):
    net = agree(LeNet(row), (8, 10, 3), rng)
    assert [type(layer).__name__ for layer in net][4:8] == ["Tanh", "LeakyReLU", "Flatten", "Dense"]


class Block(nn.Module):
    """A residual block as torchvision writes it: ReLU in place, += in place, a shared nn.ReLU."""

    def __init__(self, C, D, stride):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(C, D, 3, stride, 1, bias=False), nn.BatchNorm2d(D)
        self.conv2, self.bn2 = nn.Conv2d(D, D, 3, 1, 1, bias=False), nn.BatchNorm2d(D)
        self.relu = nn.ReLU(inplace=True)
        self.down = nn.Sequential(nn.Conv2d(C, D, 1, stride, bias=False), nn.BatchNorm2d(D)) if stride > 1 else None

    def forward(self, x):
        identity = x
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        if self.down is not None:
            identity = self.down(x)
        out += identity
        return self.relu(out)


class Preactivated(nn.Module):
    """ReLU in place before the block: what goes along the shortcut is its result."""

    def __init__(self):
        super().__init__()
        self.bn, self.conv, self.mix = nn.BatchNorm2d(6), nn.Conv2d(6, 6, 3, padding=1), nn.Conv2d(6, 6, 1)

    def forward(self, x):
        x = self.bn(x)
        y = self.conv(F.relu(x, inplace=True))
        return self.mix(x + y)  # x is changed


class DenseBlock(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(6 + 2 * i, 2, 3, padding=1) for i in range(3))

    def forward(self, x):
        features = [x]
        for layer in self.layers:
            features.append(torch.relu(layer(torch.cat(features, 1))))
        return torch.cat(features, dim=1)


class UNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.down, self.inside = nn.Conv2d(6, 4, 3, padding=1), nn.Conv2d(4, 8, 3, padding=1)
        self.up, self.out = nn.ConvTranspose2d(8, 4, 2, stride=2), nn.Conv2d(8, 2, 1)

    def forward(self, x):
        skip = F.gelu(self.down(x))
        y = self.up(F.silu(self.inside(F.avg_pool2d(skip, 2))))
        return self.out(torch.cat([y, skip], dim=1))


class ConvNeXtBlock(nn.Module):
    """Channels last in between, a LayerNorm over channels, and a learned factor for each channel."""

    def __init__(self):
        super().__init__()
        self.depthwise, self.norm = nn.Conv2d(6, 6, 3, padding=1, groups=6), nn.LayerNorm(6, eps=1e-6)
        self.wide, self.narrow = nn.Linear(6, 12), nn.Linear(12, 6)
        self.scale = nn.Parameter(torch.linspace(0.5, 1.5, 6).reshape(6, 1, 1))

    def forward(self, x):
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        y = self.narrow(F.gelu(self.wide(y))).permute(0, 3, 1, 2)
        return x + self.scale * y


class Rows(nn.Module):
    """Flattened maps that go through norms and are joined before a Linear reads them."""

    def __init__(self):
        super().__init__()
        self.conv, self.bn, self.norm = nn.Conv2d(6, 3, 3), nn.BatchNorm1d(105), nn.LayerNorm(105)
        self.head = nn.Linear(210 + 6, 4)

    def forward(self, x):
        row = torch.flatten(self.conv(x), 1)
        means = x.mean((2, 3))
        return self.head(torch.cat([self.norm(row), torch.tanh(self.bn(row)), means], dim=1))


class Twice(nn.Module):
    """One convolution and one norm, used twice."""

    def __init__(self):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6)

    def forward(self, x):
        torch._assert(x.shape[1] == 6, "channels")
        return self.conv(self.bn(self.conv(x)))


class Functional(nn.Module):
    """Functions with their defaults, and weights of the module itself; softplus stays below PyTorch's threshold."""

    def __init__(self):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(4, 3, 3, 3)), nn.Parameter(torch.randn(4))
        self.up, self.head = nn.Parameter(torch.randn(4, 3, 2, 2) / 8), nn.Parameter(torch.randn(5, 3))
        self.gamma, self.beta = nn.Parameter(torch.rand(3) + 0.5), nn.Parameter(torch.randn(3))

    def forward(self, x):
        x = F.pad(x, (0, 1, 0, 1))
        y = F.elu(F.conv2d(x, self.weight, self.bias, padding=1, groups=2))
        y = F.avg_pool2d(F.max_pool2d(y, 3, 2, 1), 3, padding=1)
        y = F.softplus(F.conv_transpose2d(y, self.up, None, 2, groups=1))
        y = F.layer_norm(F.group_norm(y, 1, self.gamma, self.beta), y.shape[1:], eps=1e-3)
        y = F.linear(y.mean(dim=(-2, -1)), self.head)
        return torch.softmax(y.mul(1), dim=-1)


class Squeezed(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(6, 4, 1)

    def forward(self, x):
        return F.adaptive_avg_pool2d(self.conv(x), 1).squeeze(-1).squeeze(-1)


NETWORKS = [
    (nn.Sequential(Block(6, 6, 1), Block(6, 8, 2)), "Residual"),
    (Preactivated(), "Residual"),
    (DenseBlock(), "Parallel"),
    (UNet(), "Parallel"),
    (ConvNeXtBlock(), "Residual"),
    (Rows(), "Parallel"),
    (Twice(), "Conv2D"),
    (Functional(), "Conv2DTranspose"),
    (Squeezed(), "Flatten"),
]


@pytest.mark.parametrize(("module", "holds"), NETWORKS, ids=lambda value: type(value).__name__)
def test_networks(module, holds, rng):
    net = agree(module, (8, 8, 6) if isinstance(module, UNet) else MAP, rng)
    assert holds in {type(layer).__name__ for _, layer in net.walk()}


def test_a_shared_module_is_a_shared_layer():
    net = dn.from_torch(Twice(), MAP)
    assert sorted(net.parameters()) == ["0.b", "0.w", "1.beta", "1.gamma"] and net[2] is net[0]


def test_names_lead_back_to_the_module():
    made = converted(nn.Sequential(Block(6, 6, 1), Block(6, 8, 2)), MAP)
    assert made.names["0.layer.0"] == "0.conv1" and made.names["2.shortcut.1"] == "1.down.1"
    inside = dict(made.net.walk())
    assert all(name in inside for name in made.names)


@pytest.mark.parametrize(
    ("library", "name", "shape", "batch"),
    [
        ("torchvision.models", "resnet18", (64, 64, 3), 4),
        ("torchvision.models", "squeezenet1_1", (64, 64, 3), 2),
        ("timm", "convnext_atto", (64, 64, 3), 2),
        ("timm", "resnetv2_18", (64, 64, 3), 4),
    ],
)
def test_architectures(library, name, shape, batch, rng):
    models = pytest.importorskip(library)
    module = models.create_model(name) if library == "timm" else getattr(models, name)()
    net = dn.from_torch(tools.drawn(module, torch.float64), shape)
    tools.outputs_agree(module, net, shape, rng, batch)
    tools.steps_agree(module, net, shape, rng, False, batch)
    net = dn.from_torch(module.float(), shape)
    tools.outputs_agree(module, net, shape, rng, batch)


# -- state -------------------------------------------------------------------------------------------------------------


def test_the_module_stays_as_it_was_and_shares_no_memory():
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()).train()
    module[0].eval()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    net = dn.from_torch(module, (5, 5, 3))
    net.forward(dn.asarray(np.ones((2, 5, 5, 3), "float32")), train=True)
    net.parameters()["0.w"].value[...] = 7.0
    assert [inside.training for inside in module] == [False, True, True]
    assert all((value == before[name]).all() for name, value in module.state_dict().items())


def test_dropout_is_dropout_in_every_way_of_writing_it():
    class Written(nn.Module):
        def __init__(self):
            super().__init__()
            self.drop, self.drop2 = nn.Dropout(0.3), nn.Dropout2d(0.2)

        def forward(self, x):
            return F.dropout(self.drop2(self.drop(x)), 0.4, training=self.training)

    net = dn.from_torch(Written(), MAP)
    assert [(type(layer).__name__, layer.rate) for layer in net] == [
        ("Dropout", 0.3),
        ("SpatialDropout2D", 0.2),
        ("Dropout", 0.4),
    ]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_sixteen_bits(dtype):
    if dtype == "bfloat16":
        pytest.importorskip("ml_dtypes")
    module = nn.Sequential(nn.Linear(12, 5)).to(getattr(torch, dtype))
    net = dn.from_torch(module, ROW)
    assert np.dtype(net.dtype).name == dtype
    np.testing.assert_array_equal(
        dn.to_numpy(net.parameters()["0.w"].value), module[0].weight.detach().float().numpy().T
    )


# -- what cannot be converted ------------------------------------------------------------------------------------------


def refused(module, shape=MAP):
    with pytest.raises(ValueError) as caught:
        dn.from_torch(module, shape)
    return str(caught.value)


def test_everything_that_is_not_covered_is_listed_at_once():
    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.SELU(), nn.CELU()
            self.conv = nn.Conv2d(6, 6, 3, padding=1, padding_mode="reflect")

        def forward(self, x):
            y = self.conv(self.b(self.a(x)))
            return F.interpolate(x * torch.sigmoid(y), scale_factor=1.5) + 1

    message = refused(nn.Sequential(Mixed(), nn.SELU()))
    assert message.startswith("from_torch: cannot convert 7 parts of Sequential:")
    for part in (
        "SELU (0.a, 1): Use nn.ELU instead",
        "CELU (0.b): Write a dn.Layer for it",
        "Conv2d (0.conv): padding_mode='reflect'; expected 'zeros'",
        "mul (0: mul): dualnet multiplies two maps in dn.Parallel",
        "interpolate (0: interpolate): it enlarges the maps 1.5 × 1.5 times; expected integers",
        "add (0: add): it adds a constant or a parameter",
    ):
        assert part in message


class _Function(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function
        self.weight = nn.Parameter(torch.ones(6, 6, 3, 3))
        self.conv, self.other = nn.Conv2d(6, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
        self.register_buffer("constant", torch.ones(6, 1, 1))

    def forward(self, x):
        return self.function(self, x)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda m, x: x.view(-1, 9), r"view (view): it reshapes \(N, 6, 7, 9\) to \(-1, 9\)"),
        (lambda m, x: x.flatten(1), "it returns .*, in an order that dualnet does not use"),
        (lambda m, x: x.permute(0, 2, 3, 1), "it returns .*, in an order that dualnet does not use"),
        (lambda m, x: x.permute(1, 0, 2, 3), "it moves the batch"),
        (lambda m, x: (x, x), "it returns several tensors; expected one tensor"),
        (lambda m, x: x * m.constant, "it multiplies by a tensor that is not learned"),
        (lambda m, x: F.max_pool2d(F.pad(x, (0, 1, 0, 1)), 2), "its input was padded with zeros"),
        (lambda m, x: m.conv(F.pad(x, (0, 1, 0, 1), mode="replicate")), "mode='replicate', pad="),
        (lambda m, x: F.pad(x, (0, 1, 0, 1)), "it returns .* with zeros around it"),
        (lambda m, x: x.squeeze(), "without an axis"),
        (lambda m, x: x.mean(1), "it takes the mean along 1"),
        (lambda m, x: torch.cat([x, x], 2), "it joins along axis 2"),
        (lambda m, x: F.dropout(x, 0.5), "it drops units in inference, too"),
        (lambda m, x: x[:, :3], r"getitem .*: a layer of dualnet takes its whole input"),
        (lambda m, x: F.conv2d(m.conv(x), m.conv.weight, padding=1), "it shares its weights with 'conv'"),
        (lambda m, x: F.adaptive_max_pool2d(x, 4), "it pools maps of 7 × 9 to 4 × 4"),
        (lambda m, x: m.conv(x) if m.training else x, "it computes different things in training and in inference"),
        (lambda m, x: torch.relu(x) if m.training else torch.tanh(x), "it computes different things in training"),
        (lambda m, x: x if x.sum() > 0 else -x, "torch.fx cannot follow the forward of _Function"),
        (lambda m, x: m.other(x) * m.conv(x), "dualnet multiplies two maps in dn.Parallel"),
    ],
)
def test_what_is_refused_is_told(function, message):
    import re

    assert re.search(message.replace("view (view)", r"view \(view\)"), refused(_Function(function)))


def test_ways_that_cross_are_refused():
    def crossed(m, x):
        a = m.conv(x)
        b = m.other(a)
        return torch.cat([x + b, a], 1)

    assert "branches in a way that Residual and Parallel cannot express" in refused(_Function(crossed))


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (nn.BatchNorm2d(6, track_running_stats=False), "track_running_stats=False"),
        (nn.BatchNorm2d(6, momentum=None), "momentum=None"),
        (nn.Softplus(beta=2.0), "beta=2.0; expected 1"),
        (nn.RMSNorm(9), "eps=None; expected a number"),
        (nn.Upsample(scale_factor=2, mode="bicubic"), "mode='bicubic'"),
        (nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True), "align_corners=True"),
        (nn.MaxPool2d(2, return_indices=True), "it returns several tensors|return_indices=True"),
        (nn.AvgPool2d(2, divisor_override=3), "divisor_override=3"),
        (nn.Linear(9, 3), "it works along the last axis of"),
        (nn.Conv2d(3, 4, 3), "channels"),
        (nn.utils.parametrizations.weight_norm(nn.Conv2d(6, 4, 3)), "ParametrizedConv2d"),
    ],
)
def test_modules_that_are_refused(module, message):
    import re

    assert re.search(message, refused(module))


def test_hooks_are_refused():
    module = nn.Sequential(nn.ReLU())
    module[0].register_forward_hook(lambda *_: None)
    assert "it has hooks" in refused(module)


def test_what_is_no_module():
    with pytest.raises(TypeError, match="expected a torch.nn.Module, got dict"):
        dn.from_torch({}, MAP)
    with pytest.raises(ValueError, match="input_shape must be a shape without the batch"):
        dn.from_torch(nn.ReLU(), None)
    with pytest.raises(ValueError, match="weights of float32 and float64"):
        dn.from_torch(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2).double()), (2,))
    with pytest.raises(ValueError, match="'meta'"):
        dn.from_torch(nn.Linear(2, 2, device="meta"), (2,))
