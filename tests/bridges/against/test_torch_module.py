"""``dn.against`` for modules: right ones agree, nothing of the user's changes, and anything that does not fit is
reported."""

from __future__ import annotations

import copy

import numpy as np
import pytest

import dualnet as dn

torch = pytest.importorskip("torch")
F, nn = torch.nn.functional, torch.nn


class Block(nn.Module):
    """A residual block, with everything in place that can be."""

    def __init__(self, channels):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)
        self.conv2, self.bn2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        y += x
        return self.relu(y)


class Mobile(nn.Module):
    """Depthwise convolutions, functions instead of modules, a concatenation, a factor for each channel."""

    def __init__(self):
        super().__init__()
        self.depthwise = nn.Conv2d(6, 6, 3, padding=1, groups=6)
        self.pointwise = nn.Conv2d(6, 4, 1)
        self.scale = nn.Parameter(torch.rand(4, 1, 1) + 0.5)
        self.head = nn.Linear(10, 5)

    def forward(self, x):
        y = F.relu6(self.depthwise(x))
        y = F.silu(self.pointwise(y)) * self.scale
        y = torch.cat([y, x], 1)
        return self.head(F.dropout(y.mean((2, 3)), 0.3, self.training))


class LastChannels(nn.Module):
    """Maps are permuted, normalised and mixed along their last axis, as ConvNeXt does."""

    def __init__(self):
        super().__init__()
        self.norm, self.mix = nn.LayerNorm(6), nn.Linear(6, 12)

    def forward(self, x):
        return F.gelu(self.mix(self.norm(x.permute(0, 2, 3, 1)))).permute(0, 3, 1, 2)


def head(channels):
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 5))


NETS = {
    "convolutions": lambda: nn.Sequential(
        nn.Conv2d(6, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, stride=2, dilation=2, padding=2, groups=4),
        nn.LeakyReLU(0.1), nn.ConvTranspose2d(8, 4, 3, stride=2), nn.Tanh(), nn.Conv2d(4, 5, (2, 3)), head(5),
    ),
    "pools": lambda: nn.Sequential(
        nn.Conv2d(6, 6, 1), nn.MaxPool2d(3, 2, padding=1), nn.ELU(), nn.AvgPool2d(2, ceil_mode=True), nn.Softplus(),
        nn.Flatten(), nn.Linear(6 * 4, 9), nn.Sigmoid(), nn.Linear(9, 5),
    ),
    "norms": lambda: nn.Sequential(
        nn.Conv2d(6, 6, 3), nn.BatchNorm2d(6), nn.GroupNorm(3, 6), nn.SiLU(), nn.LayerNorm((6, 6, 5)),
        nn.InstanceNorm2d(6, affine=True), nn.Dropout2d(0.4), head(6),
    ),
    "residual": lambda: nn.Sequential(nn.Conv2d(6, 6, 3), Block(6), Block(6), head(6)),
    "mobile": Mobile,
    "last channels": lambda: nn.Sequential(LastChannels(), nn.Conv2d(12, 4, 3), head(4)),
    "perceptron": lambda: nn.Sequential(
        nn.Flatten(), nn.Linear(6 * 8 * 7, 20), nn.BatchNorm1d(20), nn.ReLU(), nn.Dropout(0.5), nn.Linear(20, 5)
    ),
}  # fmt: skip


def data(dtype=torch.float32, batch=4):
    torch.manual_seed(3)
    return torch.randn(batch, 6, 8, 7, dtype=dtype), torch.arange(batch)


def made(kind, train=True, dtype=torch.float32):
    torch.manual_seed(0)
    return NETS[kind]().to(dtype).train(train)


@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("kind", NETS)
def test_right_networks_agree(kind, train):
    for dtype in (torch.float32, torch.float64):
        report = dn.against(made(kind, train, dtype), *data(dtype))
        assert report and report.first is None and str(report).startswith("agrees:"), str(report)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", ["convolutions", "residual", "perceptron"])
def test_right_networks_of_16_bits_agree(kind, dtype):
    report = dn.against(made(kind, True, dtype), *data(dtype))
    assert report, str(report)


def test_every_quantity_of_every_layer_is_judged():
    report = dn.against(made("residual"), *data())
    rows = {(row.name, row.quantity) for row in report.rows}
    assert {("0", "y"), ("0", "weight"), ("0", "bias")} <= rows and ("0", "dx") not in rows  # x needs no gradient
    assert {("1.bn1", "y"), ("1.bn1", "dx"), ("1.bn1", "weight"), ("1.bn1", "bias")} <= rows
    assert {("1.add", "y"), ("1.add", "dx0"), ("1.add", "dx1"), ("1.relu (2)", "dx")} <= rows
    assert {("cross_entropy", "loss"), ("cross_entropy", "dx")} <= rows
    assert len({id(row) for row in report.rows}) == len(rows)
    assert {row.witness for row in report.rows if row.name == "1.conv1"} == {"Conv2D in float64"}


def test_rows_come_in_the_order_of_computation():
    report = dn.against(made("perceptron", False), *data())
    order = [(row.name, row.quantity) for row in report.rows if row.quantity in ("y", "dx", "loss")]
    names = ["0", "1", "2", "3", "4", "5"]
    assert order[:7] == [*((name, "y") for name in names), ("cross_entropy", "loss")]
    assert order[7:] == [("cross_entropy", "dx"), *((name, "dx") for name in reversed(names[2:]))]


def test_the_module_and_the_generators_stay_as_they_are():
    module = made("norms")
    (x, t), before = data(), copy.deepcopy(module.state_dict())
    module[0].weight.grad = torch.ones_like(module[0].weight)
    random, x_before = torch.get_rng_state(), x.clone()
    dn.against(module, x, t)
    assert torch.equal(torch.get_rng_state(), random) and torch.equal(x, x_before) and not x.requires_grad
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert module.training and all(part.training for part in module.modules())
    assert bool((module[0].weight.grad == 1).all()) and module[1].weight.grad is None
    assert torch.is_grad_enabled()
    with torch.no_grad():
        assert dn.against(module, x, t)
        assert not torch.is_grad_enabled()


def test_the_losses_of_the_whole_networks_are_near():
    report = dn.against(made("residual"), *data())
    assert set(report.losses) == {"theirs", "theirs in float64", "ours"}
    values = list(report.losses.values())
    assert max(values) - min(values) < 1e-5 * max(values) and report.logits < 1e-5
    dropping = dn.against(made("perceptron"), *data())
    assert set(dropping.losses) == {"theirs"} and "dropout is on" in str(dropping)


REAL = torch.rand(4, 5, generator=torch.Generator().manual_seed(0))
LOSSES = [
    (None, REAL, "mean_squared_error in float64"),
    (F.mse_loss, REAL, "mean_squared_error in float64"),
    (nn.BCEWithLogitsLoss(), REAL, "binary_cross_entropy in float64"),
    (nn.SmoothL1Loss(beta=0.3), REAL, "huber in float64"),
    (nn.HuberLoss(delta=0.3), REAL, "huber in float64"),
    (nn.CrossEntropyLoss(label_smoothing=0.1), torch.tensor([0, 1, 4, 2]), "softmax_cross_entropy in float64"),
    (nn.CrossEntropyLoss(), REAL.softmax(1), "softmax_cross_entropy in float64"),
    (nn.CrossEntropyLoss(reduction="sum"), torch.tensor([0, 1, 4, 2]), "itself in float64"),
    (nn.CrossEntropyLoss(), torch.tensor([0, -100, 4, 2]), "itself in float64"),
    (lambda y, t: ((y - t) ** 4).sum(), REAL, "itself in float64"),
]


@pytest.mark.parametrize(("loss", "t", "witness"), LOSSES)
def test_losses(loss, t, witness):
    report = dn.against(made("pools", False), data()[0], t, loss=loss)
    assert report, str(report)
    assert [row.witness for row in report.rows if row.quantity == "loss"] == [witness]
    assert sum(row.name == next(r.name for r in report.rows if r.quantity == "loss") for row in report.rows) == 2


def test_a_loss_with_a_wrong_gradient_is_found():
    class Wrong(torch.autograd.Function):
        @staticmethod
        def forward(ctx, y, t):
            ctx.save_for_backward(y, t)
            return ((y - t) ** 2).mean()

        @staticmethod
        def backward(ctx, dloss):
            y, t = ctx.saved_tensors
            return dloss * (y - t) / y.numel(), None  # the 2 is missing

    report = dn.against(made("pools"), data()[0], REAL, loss=lambda y, t: Wrong.apply(y, t))
    assert (report.first, report.culprit.fault, report.culprit.quantity) == ("<lambda>", "theirs", "dx")


def test_maps_as_output():
    x, _ = data()
    module = nn.Sequential(nn.Conv2d(6, 3, 3, padding=1))
    report = dn.against(module, x, torch.randint(3, (4, 8, 7)))
    assert report and "softmax_cross_entropy in float64" in str(report)
    assert dn.against(module, x.numpy().astype("float64"), np.zeros((4, 3, 8, 7)))  # arrays are cast


def test_frozen_parameters_are_left_out_and_said():
    module = made("residual")
    module[0].requires_grad_(False)
    report = dn.against(module, *data())
    assert report and not [row for row in report.rows if row.name == "0" and row.backward]
    assert "left out, since they require no gradient: 0.weight, 0.bias" in str(report)


def test_a_module_used_twice_has_two_rows():
    conv = nn.Conv2d(6, 6, 3, padding=1)
    report = dn.against(nn.Sequential(conv, nn.ReLU(), conv, head(6)), *data())
    assert report and {"0", "0 (2)"} <= {row.name for row in report.rows}


def test_html():
    html = dn.against(made("residual"), *data())._repr_html_()
    assert "PASS" in html and "1.bn1" in html and html.count("<tr>") > 10


class Two(nn.Module):
    def forward(self, x):
        return x, x


META = nn.Sequential(nn.Linear(3, 3, device="meta"))
MIXED = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3).double())


@pytest.mark.parametrize(
    ("module", "x", "t", "loss", "error", "told"),
    [
        (3, None, None, None, TypeError, "expected a torch.nn.Module, got int"),
        (META, torch.ones(2, 3), torch.tensor([0, 1]), None, ValueError, "on the device 'meta'"),
        (MIXED, torch.ones(2, 3), torch.tensor([0, 1]), None, ValueError, "expected one dtype"),
        (nn.Linear(3, 3), torch.ones(2, 4), torch.tensor([0, 1]), None, ValueError, r"does not take x \(2, 4\)"),
        (nn.Linear(3, 3), torch.ones(2, 3).double(), torch.tensor([0, 1]), None, ValueError, "x is float64"),
        (nn.Linear(3, 3), torch.ones(0, 3), torch.tensor([0, 1]), None, ValueError, "at least one example"),
        (nn.Linear(3, 3), "cat", torch.tensor([0, 1]), None, TypeError, "x is a str"),
        (nn.Linear(3, 3), torch.ones(2, 3), torch.tensor([0, 1, 2]), None, ValueError, r"t has shape \(3,\)"),
        (nn.Linear(3, 3), torch.ones(2, 3), torch.tensor([0, 7]), None, ValueError, "cross_entropy does not take"),
        (nn.Linear(3, 3), torch.ones(2, 3), torch.tensor([0, 1]), "mse", TypeError, "loss is a str"),
        (nn.Linear(3, 3), torch.ones(2, 3), torch.ones(2, 3), lambda y, t: y - t, ValueError, "expected one number"),
        (Two(), torch.ones(2, 3), torch.tensor([0, 1]), None, TypeError, "returns a tuple; expected one tensor"),
    ],
)
def test_what_does_not_fit(module, x, t, loss, error, told):
    with pytest.raises(error, match=told):
        dn.against(module, x, t, loss=loss)
