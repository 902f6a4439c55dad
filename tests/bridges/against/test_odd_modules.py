"""What people write in forward: in place, in several pieces, with layers that dualnet lacks. All of it is right."""

from __future__ import annotations

import pytest

import dualnet as dn

torch = pytest.importorskip("torch")
F, nn = torch.nn.functional, torch.nn


class Does(nn.Module):
    """A module that does something with its parts."""

    def __init__(self, does, **parts):
        super().__init__()
        self.does = does
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x):
        return self.does(self, x)


def gate(m, x):
    a, b = x.chunk(2, 1)
    return torch.cat([a * torch.sigmoid(b)] * 2, 1)


def attention(m, x):
    rows = x.flatten(2).transpose(1, 2)
    return (torch.softmax(rows @ rows.transpose(1, 2), -1) @ rows).transpose(1, 2).unflatten(2, (8, 8))


def in_place(m, x):
    y = x.clone()
    y.relu_()
    return y + x  # y is what relu_ left


MAPS = {
    "arithmetic": Does(lambda m, x: 0.5 * x + 1 - x / 3),
    "gate": Does(gate),
    "attention": Does(attention),
    "in place": Does(in_place),
    "slices": Does(lambda m, x: x[:, :, ::2, 1:]),
    "bilinear": Does(lambda m, x: F.interpolate(x, scale_factor=2, mode="bilinear")),
    "prelu": nn.PReLU(4),
    "twice": Does(lambda m, x: m.c(m.c(x)), c=nn.Conv2d(4, 4, 1)),
    "standardised weights": Does(lambda m, x: F.conv2d(x, m.w - m.w.mean()), w=nn.Parameter(torch.randn(4, 4, 3, 3))),
    "reflection": nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"),
    "zero padding": nn.Sequential(nn.ZeroPad2d((1, 0, 2, 1)), nn.Conv2d(4, 4, 3)),
    "weight norm": nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 4, 3)),
    "no running statistics": nn.BatchNorm2d(4, track_running_stats=False),
    "straight through": Does(lambda m, x: x + (x.round() - x).detach()),
    "random slopes": nn.RReLU(),
    "checkpoint": Does(
        lambda m, x: torch.utils.checkpoint.checkpoint(m.b, x, use_reentrant=False), b=nn.Conv2d(4, 4, 1)
    ),
    "branch": Does(lambda m, x: x * 2 if x.mean() > 0 else -x),
}


@pytest.mark.parametrize("kind", MAPS)
def test_between_convolutions(kind):
    torch.manual_seed(0)
    head = nn.Sequential(nn.Conv2d(4, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))
    report = dn.against(nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), MAPS[kind], head), torch.randn(3, 4, 8, 8), T)
    assert report and not report.unjudged, str(report)
    assert any(row.name.startswith("1") for row in report.rows)


T = torch.tensor([0, 1, 2])
WHOLE = {
    "lstm": (
        Does(lambda m, x: m.h(m.l(x)[0][:, -1]), l=nn.LSTM(6, 7, batch_first=True), h=nn.Linear(7, 5)),
        torch.randn(3, 9, 6),
    ),
    "embedding": (
        Does(lambda m, x: m.h(m.e(x).mean(1)), e=nn.Embedding(11, 6), h=nn.Linear(6, 5)),
        torch.randint(11, (3, 8)),
    ),
    "transformer": (
        Does(
            lambda m, x: m.h(m.e(x).mean(1)),
            e=nn.TransformerEncoderLayer(8, 2, 16, batch_first=True),
            h=nn.Linear(8, 5),
        ),
        torch.randn(3, 8, 8),
    ),
    "signals": (
        nn.Sequential(nn.Conv1d(4, 6, 3), nn.BatchNorm1d(6), nn.ReLU(), nn.Flatten(), nn.Linear(42, 5)),
        torch.randn(3, 4, 9),
    ),
    "volumes": (
        nn.Sequential(nn.Conv3d(2, 3, 3), nn.BatchNorm3d(3), nn.MaxPool3d(2), nn.Flatten(), nn.Linear(24, 5)),
        torch.randn(3, 2, 6, 6, 6),
    ),
    "channels last": (
        nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 5)).to(
            memory_format=torch.channels_last
        ),
        torch.randn(3, 4, 8, 8).to(memory_format=torch.channels_last),
    ),
}


@pytest.mark.parametrize("kind", WHOLE)
def test_whole_networks(kind):
    report = dn.against(*WHOLE[kind], T)
    assert report and not report.unjudged, str(report)


@pytest.mark.filterwarnings("ignore:.torch.jit")
def test_a_module_that_nobody_can_judge_is_told():
    report = dn.against(torch.jit.trace(nn.Linear(3, 5), torch.ones(1, 3)), torch.randn(3, 3), T)
    assert report.unjudged == ["module"] and "nothing could be compared at module" in report.verdict()
