"""CUDA kernels that add up, run on the host: sums over channels, batch norm and the loss, against their references."""

from __future__ import annotations

import cuda_host
import numpy as np
import pytest
from cuda_oracles import DTYPES, agree, scalar, there
from oracles import error, tau

import dualnet as dn
from dualnet.backend import references
from dualnet.backends.gpu import sums


@pytest.fixture(scope="module", autouse=True)
def compiled():
    """Compile both files at once: the tests would do it one after the other."""
    cuda_host.compile_together("channels.cu", "cross_entropy.cu")


# -- channels and batch norm -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "shape",
    [(5, 3, 3, 1), (2, 7, 5, 3), (300, 10), (7, 2, 3, 31), (3, 5, 4, 40), (9, 5, 3, 8), (4, 64), (37, 272), (2, 1)],
)
@pytest.mark.parametrize("dtype", DTYPES)
def test_channels_and_batch_norm(cupy, rng, monkeypatch, shape, dtype):
    monkeypatch.setattr(sums, "BLOCKS", 4)
    C, n = shape[-1], int(np.prod(shape[:-1]))
    x, dy = (rng.standard_normal(shape).astype(dtype) for _ in range(2))
    gamma, beta = (rng.standard_normal(C).astype(dtype) for _ in range(2))
    agree("channel_sum", x, K=n)  # by one block for 32 channels
    monkeypatch.setattr(sums, "SHORT", 0)
    agree("channel_sum", x, K=n)
    x += scalar(3, dtype)
    agree("channel_moments", x, K=n, scale=8)
    mean, variance = references["channel_moments"].reference(x)
    agree("normalise", x, mean, variance, gamma, beta, 1e-5, K=n, scale=4)
    agree("normalise", x, mean, variance, gamma, beta, 1e-5, True, K=n, scale=4)
    if n > 2:
        y = references["normalise"].reference(x, mean, variance, gamma, beta, 1e-5, True)
        agree("normalise_backward", dy, x, mean, variance, gamma, 1e-5, K=n, scale=8)
        agree("normalise_backward", dy, x, mean, variance, gamma, 1e-5, y, K=n, scale=8)
        moving = [rng.random(C).astype(mean.dtype) for _ in range(2)]
        agree("follow", *moving, mean, variance, 0.9, n, K=1)
        agree("follow", *moving, mean.astype(dtype), variance.astype(dtype), 0.75, n, K=1)
    given = (mean.astype(dtype), variance.astype(dtype))  # in inference they may have the dtype of x
    agree("normalise", x, *given, gamma, beta, 1e-5, K=n, scale=4)
    learned = [each.astype(mean.dtype) for each in (gamma, beta)]  # in a network of 16 bits these are float32
    agree("normalise", x, mean, variance, *learned, 1e-5, True, K=n, scale=4)
    if n > 2:
        agree("normalise_backward", dy, x, mean, variance, learned[0], 1e-5, y, K=n, scale=8)


@pytest.mark.parametrize("dtype", DTYPES)
def test_channels_of_unaligned_maps(cupy, rng, dtype):
    """Maps that do not begin on 16 bytes are read in smaller packs; all maps of a launch in packs of one size."""
    maps, packs = [dn.asarray(rng.standard_normal(41 * 16).astype(dtype)) for _ in range(3)], set()
    for starts in [(0, 0, 0), (1, 0, 0), (0, 2, 0), (0, 4, 4)]:
        dy, x, y = (whole[start : start + 40 * 16].reshape(40, 16) for whole, start in zip(maps, starts))
        packs.add(sums.Shared(3, dy, x, y).types["pack"])
        on_host = [dn.to_numpy(a) for a in (dy, x, y)]
        mean, variance = references["channel_moments"].reference(on_host[1])
        got = sums.normalise_backward(dy, x, *map(there, (mean, variance, mean + 1)), 1e-5, y)
        want = references["normalise_backward"].reference(*on_host[:2], mean, variance, mean + 1, 1e-5, on_host[2])
        for ours, theirs in zip(got, want, strict=True):
            assert error(dn.to_numpy(ours), theirs) <= 16 * tau(ours.dtype, 40)
    assert len(packs) > 1


def test_moments_far_from_zero(cupy, rng):
    x = (1e3 + rng.standard_normal((8, 33, 31, 8))).astype("float32")
    x[0, 0, 0] = 0  # an estimate of the mean from one value would be far off
    mean, variance = map(dn.to_numpy, sums.channel_moments(dn.asarray(x)))
    assert error(mean, x.astype(float).mean((0, 1, 2))) <= tau("float32", 8)
    assert error(variance, x.astype(float).var((0, 1, 2))) <= 1e-5


def test_running_statistics_near_the_top(cupy):
    """3e38 · 4/3 · 0.1: the product of the first two overflows."""
    values = [dn.asarray(np.float32([v])) for v in (0, 1, 2e38, 3e38)]
    mean, variance = map(dn.to_numpy, sums.follow(*values, 0.9, 4))
    assert error(mean, [2e37]) <= 1e-6 and error(variance, [4e37]) <= 1e-6


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_deltas_of_inactive_units_do_not_count(cupy, rng, value):
    x, dy = rng.standard_normal((2, 6, 5, 4, 3)).astype("float32")
    mean, variance = references["channel_moments"].reference(x)
    y = references["normalise"].reference(x, mean, variance, mean + 1, mean, 1e-5, True)
    dy[y <= 0] = value
    agree("normalise_backward", dy, x, mean, variance, mean + 1, 1e-5, y, K=120, scale=8)


# -- the loss ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(5, 10), (3, 1), (4, 100), (2, 3, 5), (9, 1024), (3, 1025), (11, 4099)])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy(cupy, rng, shape, dtype, smoothing):
    y, t = (5 * rng.standard_normal(shape)).astype(dtype), rng.integers(0, shape[-1], shape[:-1])
    if smoothing == 0 and shape[-1] == 10:
        y[0, :4], t[0], y[1, 2] = [np.inf, np.inf, -np.inf, 0], 0, np.nan
        y[2], t[3], y[3] = -np.inf, 1, 1e4
        y[3, 1] = -1e4
    agree("cross_entropy", y, t, smoothing, K=shape[-1], scale=4)
    log_p = references["cross_entropy"].reference(y, t, smoothing)[1]
    for dloss in (1.0, np.asarray(0.25, dtype)):
        agree("cross_entropy_backward", log_p, t.astype("uint8"), dloss, smoothing, K=shape[-1], scale=4)


@pytest.mark.parametrize("C", [1025, 2500])
def test_every_class_of_a_long_row_counts(cupy, C):
    """The largest logit and the label stand where a part of the row may end. A class too few or too many changes E."""
    for place in (0, 31, 32, 1023, 1024, C - 1):
        for label, top in ((0, 2.0), (1024, 2.0), (C - 1, 2.0), (C - 1, 1000.0)):  # e¹⁰⁰⁰ overflows
            y = np.zeros((3, C), "float32")
            y[:, place] = top
            t = np.full(3, label)
            loss, log_p = sums.cross_entropy(dn.asarray(y), dn.asarray(t), 0.0)
            log_sum = top + np.log1p((C - 1) * np.exp(-top))
            assert abs(dn.to_numpy(loss) - (log_sum - y[0, label])) <= tau("float32", C) * log_sum
            dy = dn.to_numpy(sums.cross_entropy_backward(log_p, dn.asarray(t), 1.0, 0.0))
            p = np.exp(y.astype(float) - log_sum)
            assert np.linalg.norm(dy - (p - np.eye(C)[t]) / 3) <= tau("float32", C)


@pytest.mark.parametrize(
    "y, t, smoothing, right",
    [
        ([[3e38, 0.0]] * 50, [1] * 50, 0.0, 3e38),  # the sum is 1.5e40
        ([[3e38, -3e38], [0.0, 0.0], [0.0, 0.0]], [1, 0, 0], 0.0, 2e38),  # one loss is 6e38
        ([[3e38, -3e38]], [0], 0.1, 3e37),
        ([[3e38] + [-3e38] * 4999] * 7, [0] * 7, 1e-3, 5.9988e35),  # Σ log p over the classes is 3e42
    ],
)
def test_a_mean_of_losses_is_finite_where_their_sum_is_not(cupy, y, t, smoothing, right):
    loss, _ = sums.cross_entropy(dn.asarray(np.float32(y)), dn.asarray(np.asarray(t)), smoothing)
    assert error(dn.to_numpy(loss), right) <= 1e-5
