"""Mistakes that people make in backward passes, planted in a small network: they are found, named and explained."""

from __future__ import annotations

from types import MethodType

import pytest

import dualnet as dn

torch = pytest.importorskip("torch")
F, nn = torch.nn.functional, torch.nn
Function = torch.autograd.Function
T = torch.tensor([0, 3, 1])


class Conv(Function):
    """A convolution with padding 1 and the right gradients; what is planted changes one of them."""

    @staticmethod
    def forward(ctx, x, w, b, mistake):
        ctx.save_for_backward(x, w)
        ctx.mistake = mistake
        y = F.conv2d(x, w, b, padding=1)
        return y * 1.001 if mistake == "forward" else y

    @staticmethod
    def backward(ctx, dy):
        x, w = ctx.saved_tensors
        dx = torch.nn.grad.conv2d_input(x.shape, w, dy, padding=1)
        dw = torch.nn.grad.conv2d_weight(x, w.shape, dy, padding=1)
        db = dy.sum((0, 2, 3))
        if ctx.mistake == "dw turned":
            dw = dw.flip(2, 3)
        if ctx.mistake == "dx not flipped":
            dx = torch.nn.grad.conv2d_input(x.shape, w.flip(2, 3), dy, padding=1)
        if ctx.mistake == "db averaged":
            db = dy.mean((0, 2, 3))
        if ctx.mistake == "dx a little":
            dx = dx * (1 + 1e-4)
        if ctx.mistake == "dw a little":
            dw = dw * (1 + 1e-4)
        if ctx.mistake == "no dw":
            dw = None
        return dx, dw, db, None


class MyConv(nn.Module):
    def __init__(self, channels, filters, mistake="", train=True):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(filters, channels, 3, 3) / 5)
        self.bias = nn.Parameter(torch.randn(filters) / 5)
        self.mistake = mistake

    def forward(self, x):
        return Conv.apply(x, self.weight, self.bias, self.mistake)


def net_with(module, channels=8):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()),
        module,
        nn.Sequential(nn.Tanh(), nn.Conv2d(channels, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
    )


def run(module, dtype=torch.float32, **options):
    torch.manual_seed(1)
    return dn.against(module.to(dtype), torch.randn(3, 3, 8, 8, dtype=dtype), T, **options)


@pytest.mark.parametrize(
    ("mistake", "quantity"),
    [
        ("dw turned", "weight"),
        ("dx not flipped", "dx"),
        ("db averaged", "bias"),
        ("dx a little", "dx"),
        ("dw a little", "weight"),
        ("no dw", "weight"),
        ("forward", "dx"),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_convolution_with_a_mistake(mistake, quantity, dtype):
    report = run(net_with(MyConv(8, 8, mistake)), dtype)
    assert not report and report.first == "1.Conv"
    assert {row.name for row in report.rows if not row.ok} == {"1.Conv"}  # and nothing else is blamed
    assert report.culprit.fault == "theirs" and "slope of its own forward says" in report.culprit.story
    assert quantity in {row.quantity for row in report.rows if not row.ok}
    if mistake != "forward":
        assert {row.quantity for row in report.rows if not row.ok} == {quantity}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_convolution_without_one(dtype):
    report = run(net_with(MyConv(8, 8)), dtype)
    assert report and report.first is None
    assert {row.quantity for row in report.rows if row.name == "1.Conv"} == {"y", "dx", "weight", "bias"}


class LeakingReLU(Function):
    @staticmethod
    def forward(ctx, x):
        return x.clamp(min=0)

    @staticmethod
    def backward(ctx, dy):
        return dy


class SilentPool(Function):
    @staticmethod
    def forward(ctx, x):
        return F.avg_pool2d(x, 2)

    @staticmethod
    def backward(ctx, dy):
        return None


class NormWithoutMeanTerm(Function):
    @staticmethod
    def forward(ctx, x):
        mean, deviation = x.mean((0, 2, 3), keepdim=True), (x.var((0, 2, 3), correction=0, keepdim=True) + 1e-5).sqrt()
        x_hat = (x - mean) / deviation
        ctx.save_for_backward(x_hat, deviation)
        return x_hat

    @staticmethod
    def backward(ctx, dy):
        x_hat, deviation = ctx.saved_tensors
        return (dy - x_hat * (dy * x_hat).mean((0, 2, 3), keepdim=True)) / deviation  # without − mean(dy)


my_relu = LeakingReLU.apply  # as the tutorials of PyTorch write it


class Calls(nn.Module):
    """A module that calls a function."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


class NoGrad(nn.Module):
    def forward(self, x):
        with torch.no_grad():
            return F.avg_pool2d(x, 2)


class Branching(nn.Module):
    """torch.fx cannot follow it, so it is judged as one."""

    def forward(self, x):
        return LeakingReLU.apply(x) if x.sum() > -1e9 else x


@pytest.mark.parametrize(
    ("module", "first"),
    [
        (Calls(LeakingReLU.apply), "1.LeakingReLU"),
        (Calls(lambda x: my_relu(x)), "1.LeakingReLU"),
        (Calls(SilentPool.apply), "1.SilentPool"),
        (Calls(NormWithoutMeanTerm.apply), "1.NormWithoutMeanTerm"),
        (NoGrad(), "1.avg_pool2d"),
        (Branching(), "1"),
    ],
    ids=["relu", "relu by another name", "pool", "norm", "no_grad", "unfollowed"],
)
def test_a_function_of_ones_own(module, first):
    report = run(net_with(module))
    assert (bool(report), report.first) == (False, first)
    assert (report.culprit.fault, report.culprit.quantity) == ("theirs", "dx")
    assert {row.name for row in report.rows if not row.ok} == {first}
    assert str(report).startswith(f"OFF at {first}")


def test_a_layer_whose_forward_was_replaced_is_another_function():
    bad = nn.BatchNorm2d(8, eps=1e-5)
    bad.forward = MethodType(lambda m, x: F.batch_norm(x, None, None, m.weight, m.bias, True, 0.1, 1e-2), bad)
    report = run(net_with(bad))
    assert (report.first, report.culprit.quantity, report.culprit.fault) == ("1", "y", "theirs")
    assert "plain loops find the same as BatchNorm" in report.culprit.story


def test_a_mistake_of_ours_is_ours(monkeypatch):
    from dualnet.layers import ReLU

    forward = ReLU.forward

    def wrong(self, x, **options):
        y, pullback = forward(self, x, **options)
        return y, pullback.then("ReLU", lambda result: (result[0] * 2, result[1]))

    monkeypatch.setattr(ReLU, "forward", wrong)
    report = run(net_with(nn.Identity()))
    assert (report.first, report.culprit.fault) == ("0.2", "ours") and "in dualnet" in report.verdict()


def test_a_mistake_in_our_op_is_ours_by_the_slope(monkeypatch):
    from dualnet import ops

    conv2d = ops.conv2d

    def wrong(x, w, b=None, **options):
        y, pullback = conv2d(x, w, b, **options)

        def turned(result):
            return result[0], result[1][::-1, ::-1].copy(), result[2]

        return y, pullback.then("conv2d", turned)

    monkeypatch.setattr(ops, "conv2d", wrong)
    report = run(net_with(nn.Identity()))
    assert (report.first, report.culprit.fault, report.culprit.quantity) == ("2.1", "ours", "weight")
    assert "slope" in report.culprit.witness


def test_a_bias_before_batch_norm_has_no_gradient_and_passes():
    report = run(net_with(nn.Identity()))
    row = next(row for row in report.rows if (row.name, row.quantity) == ("0.0", "bias"))
    assert report and row.ok and row.ratio < 1


def test_two_mistakes_are_both_told_and_the_earlier_is_first():
    torch.manual_seed(0)
    both = nn.Sequential(MyConv(3, 4, "dw turned"), nn.ReLU(), MyConv(4, 4, "dx a little"), nn.Flatten())
    report = run(both)
    assert report.first == "2.Conv"  # on the way back it comes first
    assert {row.name for row in report.rows if not row.ok} == {"0.Conv", "2.Conv"}
    assert "1 more layer is off" in report.verdict()


class Hidden(nn.Module):
    """A function's apply under no_grad: the graph does not show it."""

    def forward(self, x):
        with torch.no_grad():
            y = Scaled.apply(x)
        return x + y


class Scaled(Function):
    @staticmethod
    def forward(ctx, x):
        return 3 * x

    @staticmethod
    def backward(ctx, dy):
        return 3 * dy


def test_what_is_hidden_from_the_graph_is_told():
    report = run(net_with(Hidden()))
    assert (bool(report), report.culprit.fault, report.first) == (False, "undecided", "0.0")
    assert "hidden from torch.fx" in report.verdict()


class OnlyFloat32(Function):
    """Code that refuses float64: it can be judged only coarsely."""

    @staticmethod
    def forward(ctx, x, factor):
        if x.dtype != torch.float32:
            raise TypeError("float32 only")
        ctx.save_for_backward(x)
        ctx.factor = factor
        return x**3

    @staticmethod
    def backward(ctx, dy):
        return ctx.factor * ctx.saved_tensors[0] ** 2 * dy, None


@pytest.mark.parametrize(("factor", "fault"), [(3.0, ""), (3.3, "theirs")])
def test_code_that_refuses_float64(factor, fault):
    report = run(net_with(Calls(lambda x: OnlyFloat32.apply(x, factor))))
    row = next(row for row in report.rows if row.name == "1.OnlyFloat32")
    assert (row.quantity, row.fault, row.witness) == ("dx", fault, "its own slope, in float32")
    assert bool(report) == (not fault) and report.first == (row.name if fault else None)


def test_what_rounding_alone_does_to_a_long_sum_is_a_note():
    """A bias gives its delta to every place: 400,000 equal terms, which PyTorch adds up one after another."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    report = dn.against(module, torch.rand(8, 3, 224, 224), torch.zeros(8).long())
    row = next(row for row in report.rows if row.quantity == "bias")
    assert report and row.ok and row.allowed < 0.1
    if row.story:  # it depends on the processor
        assert "by rounding alone: 401,408 terms" in str(report)
    wrong = nn.Sequential(MyConv(3, 4, "db averaged"), *module[1:])
    assert dn.against(wrong, torch.rand(8, 3, 64, 64), torch.zeros(8).long()).first == "0.Conv"


def test_a_function_with_an_inherited_forward_is_judged_by_its_own_backward():
    class Double(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return 2 * x

        @staticmethod
        def backward(ctx, dy):
            return 2 * dy

    class Wrong(Double):
        @staticmethod
        def backward(ctx, dy):
            return 3 * dy

    class Calls(nn.Module):
        def __init__(self, function):
            super().__init__()
            self.function = function

        def forward(self, x):
            return self.function.apply(x)

    for function, fine in ((Double, True), (Wrong, False)):
        module = nn.Sequential(nn.Linear(4, 4), Calls(function), nn.Linear(4, 3))
        report = dn.against(module, torch.randn(5, 4), torch.tensor([0, 1, 2, 0, 1]))
        assert bool(report) is fine, str(report)
        assert fine or report.first == "1.Wrong"
    assert "forward" not in vars(Wrong) and Double.forward(None, 1) == 2, "put back as they were"
