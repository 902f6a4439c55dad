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
        agree("normalise_backward", dy, x, mean, variance, gamma, 1e-5, y, beta, K=n, scale=8)
        moving = [[rng.random(C).astype(mean.dtype)] for _ in range(2)]
        agree("follow", *moving, [mean], [variance], [0.9], [n], K=1)
        agree("follow", *moving, [mean.astype(dtype)], [variance.astype(dtype)], [0.75], [n], K=1)
    given = (mean.astype(dtype), variance.astype(dtype))  # in inference they may have the dtype of x
    agree("normalise", x, *given, gamma, beta, 1e-5, K=n, scale=4)
    learned = [each.astype(mean.dtype) for each in (gamma, beta)]  # in a network of 16 bits these are float32
    agree("normalise", x, mean, variance, *learned, 1e-5, True, K=n, scale=4)
    if n > 2:
        agree("normalise_backward", dy, x, mean, variance, learned[0], 1e-5, y, K=n, scale=8)


def bits(*results):
    return [dn.to_numpy(a).tobytes() for a in results]


def as_one_pass(name, *arguments):
    """The kernel's own result; and what the reference makes of its parts, each a kernel on the device."""
    cuda_host.launches.clear()
    fused = sums.KERNELS[name](*arguments)
    launched = list(cuda_host.launches)
    return fused, references[name].reference(*arguments), launched


@pytest.mark.parametrize("shape", [(2, 7, 5, 3), (9, 5, 3, 8), (4, 64), (3, 5, 4, 40), (5, 1)])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("relu", [False, True])
def test_what_is_fused_has_the_bits_of_the_passes_that_it_replaces(cupy, rng, monkeypatch, shape, dtype, relu):
    monkeypatch.setattr(sums, "BLOCKS", 4)
    x, other, dy, second = (dn.asarray(rng.standard_normal(shape).astype(dtype)) for _ in range(4))
    gamma, beta = (dn.asarray(rng.standard_normal(shape[-1]).astype(dtype)) for _ in range(2))
    fused, parts, launched = as_one_pass("batch_normalise_add", x, other, gamma, beta, 1e-5, relu)
    assert bits(*fused) == bits(*parts) and launched == ["channel_moments_part", "channel_moments_end", "normalise"]
    y, mean, variance = fused
    fused, parts, launched = as_one_pass("normalise_add", x, other, mean, variance, gamma, beta, 1e-5, relu)
    assert bits(fused) == bits(parts) == bits(y) and launched == ["normalise"]
    kept = y if relu else None
    for more in (None, second):
        given = dy, more, x, mean, variance, gamma, 1e-5, kept
        fused, parts, launched = as_one_pass("joined_backward", *given)
        assert bits(*fused) == bits(*parts) and len(launched) == 3
        assert "rectify_backward" not in launched and "add" not in launched


@pytest.mark.parametrize("dtype", DTYPES)
def test_where_a_relu_is_active_follows_from_x(cupy, rng, dtype):
    """Also where the normalised x is just above or below 0, or so small that it is rounded to 0."""
    values = np.concatenate([rng.standard_normal(3000), 1 + rng.standard_normal(1000) * 1e-3]).reshape(-1, 4)
    x, dy = (dn.asarray(a.astype(dtype)) for a in (values, rng.standard_normal(values.shape)))
    wide = dn.asarray(np.zeros(4, "float64" if dtype == "float64" else "float32")).dtype
    for scale in (1.0, 1e-7):
        numbers = [dn.asarray(np.full(4, v)).astype(wide) for v in (1.0, 0.3, scale, 0.0)]
        y = sums.normalise(x, *numbers, 1e-5, True)
        assert 0 < int((dn.to_numpy(y) == 0).sum()) < y.size
        read = sums.normalise_backward(dy, x, *numbers[:3], 1e-5, y)
        found = sums.normalise_backward(dy, x, *numbers[:3], 1e-5, y, numbers[3])
        assert bits(*read) == bits(*found)


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
    values = [[dn.asarray(np.float32([v]))] for v in (0, 1, 2e38, 3e38)]
    mean, variance = map(dn.to_numpy, sums.follow(*values, [0.9], [4])[0])
    assert error(mean, [2e37]) <= 1e-6 and error(variance, [4e37]) <= 1e-6


@pytest.mark.parametrize("into", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_running_statistics_of_many_layers_move_in_one_launch(cupy, rng, dtype, into):
    """Forty-five layers: two launches, and the bits that each layer gets alone."""
    sizes = [1, 255, 256, 257, 700, *map(int, rng.integers(1, 600, 40))]
    host = [[rng.random(C).astype(dtype) for C in sizes] for _ in range(4)]
    keep, n = [float(k) for k in rng.random(45)], [int(k) for k in rng.integers(2, 99, 45)]
    alone = [sums.follow(*([dn.asarray(a[k])] for a in host), [keep[k]], [n[k]])[0] for k in range(45)]
    there = [[dn.asarray(a) for a in arrays] for arrays in host]
    cuda_host.launches.clear()
    moved = sums.follow(*there, keep, n, into)
    assert cuda_host.launches == ["follow"] * 2
    for k, pair in enumerate(moved):
        assert bits(*pair) == bits(*alone[k]) and [there[0][k] is pair[0], there[1][k] is pair[1]] == [into] * 2
    if not into:
        assert [dn.to_numpy(a).tobytes() for a in there[0]] == [a.tobytes() for a in host[0]]


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
