"""oneDNN's passes over memory against their references: batch norm, sums, ReLU, SGD."""

from __future__ import annotations

import gc

import numpy as np
import pytest
from onednn_tools import expected, float32, needs_library, served
from oracles import error, tau

from dualnet.backend import references
from dualnet.backends.onednn import passes


@needs_library
@pytest.mark.parametrize("shape", [(2, 3, 4, 1), (4, 5, 6, 17), (1, 9, 2, 8), (64, 5), (8, 7, 3, 2, 16)])
@pytest.mark.parametrize("offset", [0, 30])
def test_batch_norm_agrees_with_its_reference(
    shape: tuple[int, ...], offset: float, number: str, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, dy = float32(rng, *shape) + np.float32(offset), float32(rng, *shape)
    axes, C = tuple(range(x.ndim - 1)), shape[-1]
    mean, variance, gamma, beta = x.mean(axes), x.var(axes), float32(rng, C), float32(rng, C)
    limit = tau("float32", x.size // C) * (1 + offset)
    y = served("normalise", x, mean, variance, gamma, beta, 1e-5)
    assert error(y, expected("normalise", x, mean, variance, gamma, beta, 1e-5)) <= limit
    found = served("normalise_backward", dy, x, mean, variance, gamma, 1e-5)
    for g, wanted in zip(found, expected("normalise_backward", dy, x, mean, variance, gamma, 1e-5), strict=True):
        assert error(g, wanted) <= limit
    monkeypatch.setattr(passes, "SMALL", 0)
    for relu in (False, True):
        found = served("batch_normalise", x, gamma, beta, 1e-5, relu)
        for g, wanted in zip(found, expected("batch_normalise", x, gamma, beta, 1e-5, relu), strict=True):
            assert g.dtype == np.float32 and error(g, wanted) <= 2 * limit
    y = found[0]
    kept = [a.tobytes() for a in (x, y, dy)]
    found = served("normalise_backward", dy, x, mean, variance, gamma, 1e-5, y)
    for g, wanted in zip(found, expected("normalise_backward", dy, x, mean, variance, gamma, 1e-5, y), strict=True):
        assert error(g, wanted) <= limit
    assert kept == [a.tobytes() for a in (x, y, dy)], "an input was changed"


@needs_library
def test_batch_norm_remembers_where_relu_is_active_as_long_as_the_result_lives(
    number: str, rng: np.random.Generator
) -> None:
    gc.collect()
    before = len(passes._of_results)
    x, dy, gamma, beta = (float32(rng, *shape) for shape in ((8, 7, 6, 19), (8, 7, 6, 19), (19,), (19,)))
    y, mean, variance = served("batch_normalise", x, gamma, beta, 1e-5, True)
    served("batch_normalise", x, gamma, beta, 1e-5, False)
    assert passes._remembered(y) is not None and len(passes._of_results) == before + 1
    twin = y.copy()
    wanted = expected("normalise_backward", dy, x, mean, variance, gamma, 1e-5, y)
    for result in (y, twin):
        found = served("normalise_backward", dy, x, mean, variance, gamma, 1e-5, result)
        assert all(error(g, want) <= tau("float32", 336) for g, want in zip(found, wanted, strict=True))
    del result
    del y
    assert len(passes._of_results) == before and passes._remembered(twin) is None


@needs_library
def test_batch_norm_with_relu_leaves_nan_to_the_reference(number: str) -> None:
    one, x = np.ones(4, np.float32), np.ones((2, 3, 3, 4), np.float32)
    x[0, 0, 0, 1] = np.nan
    assert passes.batch_normalise(x, one, one, 1e-5, True) is NotImplemented
    assert passes.batch_normalise(x, one, one, 1e-5, False) is NotImplemented
    assert passes.normalise(x, one, one, one, one, 1e-5, True) is NotImplemented


@needs_library
@pytest.mark.parametrize("far, served_here", [(9e2, True), (1e4, False), (-1e5, False)])
def test_a_variance_far_from_0_is_left_to_numpy(number: str, far: float, served_here: bool) -> None:
    """The library adds one by one: at a mean of 10⁴ spreads its variance was 0.4 % off, at 10⁵ 500 times as large."""
    x = float32(np.random.default_rng(0), 16, 32, 32, 3)
    x[..., 1] += np.float32(far)
    gamma, beta = np.ones(3, np.float32), np.zeros(3, np.float32)
    found = passes.batch_normalise(x, gamma, beta, 1e-5, False)
    assert (found is not NotImplemented) == served_here
    variance = references["batch_normalise"](x, gamma, beta, 1e-5, False)[2]
    assert error(variance, x.astype(np.float64).var(axis=(0, 1, 2))) < 1e-3


@needs_library
@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (3, 5, 4, 7), (2, 1, 9, 16), (64, 32, 3, 33)])
def test_sums_over_channels(number: str, shape: tuple[int, ...], rng: np.random.Generator) -> None:
    x = float32(rng, *shape) + np.float32(3)
    got, want = served("channel_sum", x), expected("channel_sum", x)
    assert got.dtype == np.float32 and error(got, want) <= tau("float32", x.size // shape[-1])
    assert np.array_equal(served("channel_sum", np.asfortranarray(x)), got)
    for odd in (np.nan, np.inf, -np.inf):
        x[-1, 0, -1, -1] = odd
        assert np.array_equal(served("channel_sum", x)[-1], odd, equal_nan=True)
        assert np.array_equal(np.isfinite(served("channel_sum", x)[:-1]), np.ones(shape[-1] - 1, bool))
    assert passes.channel_sum(x[:0]) is passes.channel_sum(x[0]) is NotImplemented


@needs_library
@pytest.mark.parametrize("relu", [False, True])
def test_sums_are_exact(number: str, relu: bool, rng: np.random.Generator) -> None:
    x, other = float32(rng, 3, 50, 40, 7), float32(rng, 3, 50, 40, 7)
    for odd in (np.nan, np.inf, -np.inf, 0.0, -0.0):
        for array in (x, other):
            array.flat[rng.integers(0, x.size, 50)] = odd
    for X, Y in ((x, other), (x[:, ::-1], other), (x, np.asfortranarray(other))):
        with np.errstate(invalid="ignore"):
            got, want = passes.add(X, Y, relu), references["add"].reference(X, Y, relu)
        assert np.array_equal(got, want, equal_nan=True)
        assert got.tobytes() == passes.add(X, Y, relu).tobytes()
    assert passes.add(x, other[:1], relu) is NotImplemented
    assert passes.add(x.astype("f8"), other.astype("f8"), relu) is NotImplemented


@needs_library
def test_the_derivative_of_relu_is_exact(number: str, rng: np.random.Generator) -> None:
    for shape in ((3, 5, 7, 2), (1,), (4, 33)):
        y, dy = np.maximum(float32(rng, *shape), 0), float32(rng, *shape)
        special = (np.nan, np.inf, 0.0, -0.0, 1e-45)
        y.reshape(-1)[: len(special)] = special[: y.size]
        assert np.array_equal(served("rectify_backward", dy, y), dy * (y > 0))
        for odd in (np.nan, np.inf, -np.inf):  # where y is 0, the library would make 0 · ∞ of it
            spoilt = dy.copy()
            spoilt.reshape(-1)[-1] = odd
            assert passes.rectify_backward(spoilt, y) is NotImplemented
        dy.reshape(-1)[-3:] = (np.nan, np.inf, -np.inf)[: dy.size]
        with np.errstate(invalid="ignore"):
            for x in (y, dy, -y):
                rectified = served("rectify", x)
                assert np.array_equal(rectified, np.maximum(x, 0), equal_nan=True)
                assert not np.signbit(rectified[~np.isnan(rectified)]).any(), "ReLU made −0"


@needs_library
@pytest.mark.parametrize("momentum, nesterov", [(0.0, False), (0.9, False), (0.9, True)])
def test_sgd_is_exact(
    number: str, momentum: float, nesterov: bool, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(passes, "SMALL", 100)  # NumPy computes the second parameter
    w, g, velocities = ([float32(rng, 33, 70), float32(rng, 7)] for _ in range(3))
    for d in g:
        d.flat[:6] = (np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-44)
    slots = [{"velocity": velocity} if momentum else {} for velocity in velocities]
    for decay in (0.0, 0.01):
        rest = (momentum, nesterov, decay)
        with np.errstate(invalid="ignore"):
            made = passes.sgd_updates(w, list(map(np.asfortranarray, g)), slots, 0.1, *rest, None, False)
            wanted = references["sgd_updates"].reference(w, g, slots, 0.1, *rest, None, False)
        for (got, after), (want, kept) in zip(made, wanted, strict=True):
            assert got.tobytes() == want.tobytes() and after.keys() == kept.keys()
            assert all(after[name].tobytes() == kept[name].tobytes() for name in kept)
    assert passes.sgd_updates(w, g, slots, np.float32(0.1), *rest, None, False) is NotImplemented
    assert passes.sgd_updates(w, g, slots, 0.1, *rest, np.array(True), False) is NotImplemented  # may be skipped
    assert passes.sgd_updates(w[1:], g[1:], slots[1:], 0.1, *rest, None, False) is NotImplemented  # little to do


@needs_library
@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_other_dtypes_are_left_to_the_next(dtype: str) -> None:
    x, vector, units = np.ones((9, 9, 99, 9), dtype), np.ones(9, dtype), np.ones(10**5, dtype)
    assert passes.normalise(x, vector, vector, vector, vector, 1e-5) is NotImplemented
    assert passes.normalise_backward(x, x, vector, vector, vector, 1e-5) is NotImplemented
    assert passes.batch_normalise(x, vector, vector, 1e-5, False) is passes.channel_sum(x) is NotImplemented
    assert passes.rectify(units) is passes.rectify_backward(units, units) is NotImplemented
    assert passes.sgd_updates([units], [units], [{}], 0.1, 0.0, False, 0.0, None, False) is NotImplemented


@needs_library
@pytest.mark.parametrize("odd", [np.nan, np.inf])
def test_batch_norm_leaves_what_is_not_finite_to_others(number: str, rng: np.random.Generator, odd: float) -> None:
    """Without the library's own note of active units, its product makes NaN of 0 · ∞."""
    x, dy, gamma = float32(rng, 3, 5, 4, 2), float32(rng, 3, 5, 4, 2), np.ones(2, "f4")
    mean, variance = references["channel_moments"].reference(x)
    y = np.maximum(x - mean, 0)
    served("normalise_backward", dy, x, mean, variance, gamma, 1e-5, y)
    dy[y == 0] = odd
    assert passes.normalise_backward(dy, x, mean, variance, gamma, 1e-5, y) is NotImplemented
