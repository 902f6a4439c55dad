"""Passes over memory on NumPy: ReLU, sums, batch norm and max pooling against their references."""

from __future__ import annotations

import numpy as np
import pytest
from cpu_tools import REFERENCES, agree
from oracles import error, tau

from dualnet.backends.cpu import passes
from dualnet.geometry import windows

SHAPES = [(5, 33, 31, 8), (64, 28, 28, 6), (40, 7, 130), (3, 64, 64, 3)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_passes_over_maps(team, monkeypatch, rng, shape, dtype):
    monkeypatch.setattr(passes, "SHARED", 0)
    x, dy = (rng.standard_normal(shape).astype(dtype) for _ in range(2))
    n, C = x.size // shape[-1], shape[-1]
    agree(passes.rectify, x, K=1)
    agree(passes.rectify_backward, dy, np.maximum(x, 0), K=1)
    x += 3
    gamma, beta = (rng.standard_normal(C).astype(dtype) for _ in range(2))
    mean, variance = REFERENCES["channel_moments"](x)
    agree(passes.channel_sum, x, K=n)
    agree(passes.channel_moments, x, K=n, scale=4)
    agree(passes.normalise, x, mean, variance, gamma, beta, 1e-5, K=n)
    agree(passes.normalise, x, mean, variance, gamma, beta, 1e-5, relu=True, K=n)
    agree(passes.normalise_backward, dy, x, mean, variance, gamma, 1e-5, K=n, scale=4)
    agree(passes.normalise_backward, dy, x, mean, variance, gamma, 1e-5, np.maximum(dy, 0), K=n, scale=4)
    agree(passes.add, x, dy, K=1)
    agree(passes.add, x, dy, relu=True, K=1)


@pytest.mark.parametrize("shape", [(), (7,), (3, 5), (64, 28, 28, 6)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_what_is_left_out_is_exactly_0(team, rng, shape, dtype):
    """ReLU's way back and dropout, in any size and layout: NaN and ∞ do not come through, and pass where they may."""
    active = np.asarray(rng.random(shape) < 0.5)
    for odd in (np.nan, np.inf, -np.inf):
        x = np.asarray(rng.standard_normal(shape)).astype(dtype)
        agree(passes.rectify_backward, np.where(active, x, odd).astype(dtype), active.astype(dtype), K=0)
        agree(passes.masked, np.where(active, x, odd).astype(dtype), active, 1 / 0.7, K=1)
        agree(passes.rectify_backward, np.where(active, odd, x).astype(dtype).T, active.astype(dtype).T, K=0)
        agree(passes.masked, np.full(shape, odd, dtype), active, 2.0, K=0)


def test_a_mask_for_whole_channels(rng):
    x, mask = rng.standard_normal((3, 4, 5, 6)), rng.random((3, 1, 1, 6)) < 0.5
    agree(passes.masked, x, mask, 2.0, K=1)


@pytest.mark.parametrize("variance, epsilon", [(1e20, 1e-5), (np.inf, 1e-5), (np.nan, 1e-5), (0.0, 1e-30)])
def test_batch_norm_whose_powers_of_s_are_no_numbers_is_left_to_the_reference(rng, variance, epsilon):
    x, one = rng.standard_normal((8, 33, 31, 8), dtype="f4"), np.ones(8, "f4")
    of = (x, x, one, np.full(8, variance, "f4"), one, epsilon)
    assert passes.normalise_backward(*of) is NotImplemented
    assert passes.normalise_backward(*of[:3], one, one, 1e-5) is not NotImplemented
    x[0, 0, 0, 0] = np.inf
    assert passes.normalise_backward(*of[:3], one, one, 1e-5) is NotImplemented


def test_moments_far_from_zero(team, rng):
    x = (1e3 + rng.standard_normal((8, 33, 31, 8))).astype("float32")
    mean, variance = passes.channel_moments(x)
    assert error(mean, x.astype(float).mean((0, 1, 2))) <= tau("float32", 8)
    assert error(variance, x.astype(float).var((0, 1, 2))) <= 1e-4


@pytest.mark.parametrize(
    "window, stride, size", [((2, 2), (2, 2), (32, 32)), ((2, 3), (3, 3), (31, 34)), ((3, 3), (2, 1), (33, 30))]
)
def test_max_pooling_is_exact(team, small_blocks, rng, window, stride, size):
    at = windows("max_pool2d", size, window, stride=stride)
    x = np.maximum(rng.standard_normal((9, *size, 5), dtype="f4"), 0)  # half of them ties
    x[0, 3, 4] = x[1, 2:9, 2:9] = np.nan
    x[2, :8] = -np.inf
    y, winners = passes.max_pool(x, at)
    want, first = REFERENCES["max_pool"](x, at)
    assert y.tobytes() == want.tobytes() and winners.tobytes() == first.tobytes()
    dy = rng.standard_normal(y.shape, dtype="f4")
    dy[0, 0, 0, 0], dy[1, 2, 3, 1] = np.inf, np.nan
    dx = passes.max_unpool(dy, winners, at)
    if stride[0] >= window[0] and stride[1] >= window[1]:
        assert np.array_equal(dx, REFERENCES["max_unpool"](dy, winners, at), equal_nan=True)
    else:
        assert dx is NotImplemented


@pytest.mark.parametrize(
    "window, stride, dilation, size",
    [((2, 2), (2, 2), 1, (28, 28)), ((3, 2), (1, 3), 1, (7, 9)), ((1, 3), (2, 1), 1, (6, 5)), ((3, 1), 2, 2, (9, 4))],
)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_largest_unit_rows_first(rng, window, stride, dilation, size, dtype):
    at = windows("max_pool2d", size, window, stride=stride, dilation=dilation)
    x = rng.standard_normal((3, *size, 5)).astype(dtype)
    x[0, 1, 1], x[1, 2, 3, 0], x[2] = np.nan, np.inf, -np.inf
    for maps in (x, x[:, :, ::-1]):
        y = passes.largest(maps, at)
        assert y.flags.c_contiguous and y.tobytes() == REFERENCES["largest"](maps, at).tobytes()


def test_what_is_not_served():
    one, padded = windows("max_pool2d", (4, 4), (1, 1)), windows("max_pool2d", (4, 4), (2, 2), padding=1)
    assert passes.largest(np.ones((1, 4, 4, 2)), one) is passes.largest(np.ones((1, 4, 4, 2)), padded) is NotImplemented
    assert passes.largest(np.ones((1, 4, 4, 2), "f2"), windows("max_pool2d", (4, 4), (2, 2))) is NotImplemented
    padded = windows("max_pool2d", (64, 64), (2, 2), padding=1)
    assert passes.max_pool(np.ones((2, 64, 64, 8)), padded) is NotImplemented
    assert passes.rectify(np.ones(5)) is NotImplemented  # small
    assert passes.rectify(np.ones((400, 400)).T[::2]) is NotImplemented  # not contiguous
    assert passes.rectify(np.ones(10**5, "f2")) is passes.add(np.ones(10**5), np.ones(10**5, "f4")) is NotImplemented
    assert passes.add(np.ones((300, 300)), np.ones(300)) is NotImplemented, "shapes that broadcast"
    assert passes.rectify_backward(np.ones(5, "f2"), np.ones(5, "f2")) is NotImplemented
    assert passes.rectify_backward(np.ones((2, 5)), np.ones(5)) is NotImplemented
    assert passes.masked(np.ones(5), np.ones(5), 2.0) is passes.masked(np.ones(5, "f2"), np.ones(5, bool), 2.0)
