"""Shared by the tests of NumPy's kernels: drawn windows, a comparison with the reference, and checks of Winograd's."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from oracles import error, tau

from dualnet.backend import references
from dualnet.backends.cpu import winograd_tiles
from dualnet.geometry import Windows, windows

REFERENCES = {name: dispatch.reference for name, dispatch in references.items()}


def placed(rng: np.random.Generator, top: int = 14, stride: int = 3) -> Windows:
    """Windows that were drawn: most shapes are odd ones."""
    window, step, dilation = (tuple(int(v) for v in rng.integers(1, n, 2)) for n in (5, stride + 1, 3))
    pads = tuple(tuple(int(v) for v in side) for side in rng.integers(0, 3, (2, 2)))
    extent = [r * (k - 1) + 1 for k, r in zip(window, dilation)]
    size = tuple(int(rng.integers(max(1, e - sum(p)), e + top)) for e, p in zip(extent, pads))
    return windows("conv2d", size, window, stride=step, padding=pads, dilation=dilation)


def arrays(rng: np.random.Generator, at: Windows, N: int, C: int, D: int, dtype: str = "float32") -> tuple[Any, ...]:
    """x, w, b, dy of a convolution, and the number of terms in its longest sum."""
    shapes = ((N, *at.size, C), (*at.window, C, D), (D,), (N, *at.grid, D))
    K = max(at.taps * max(C, D), N * at.grid[0] * at.grid[1], 1)
    return *(rng.standard_normal(shape).astype(dtype) for shape in shapes), K


def drawn(rng: np.random.Generator, dtype: str, stride: int = 3) -> tuple[Any, ...]:
    """Windows, and the arrays of a small convolution."""
    at, N, C, D = placed(rng, stride=stride), int(rng.integers(0, 5)), int(rng.integers(1, 12)), int(rng.integers(1, 9))
    return at, *arrays(rng, at, N, C, D, dtype)


def agree(kernel: Callable[..., Any], *arguments: Any, K: int, scale: float = 1.0, **options: Any) -> None:
    """The kernel serves, its numbers are the reference's, no input changes, and a second run gives the same bits."""
    before = [a.tobytes() if isinstance(a, np.ndarray) else None for a in arguments]
    result, again = (kernel(*arguments, **options) for _ in range(2))
    assert result is not NotImplemented
    assert before == [a.tobytes() if isinstance(a, np.ndarray) else None for a in arguments]
    expected = REFERENCES[kernel.__name__](*arguments, **options)
    as_tuple = lambda r: r if isinstance(r, tuple) else (r,)  # noqa: E731
    for got, twice, want in zip(as_tuple(result), as_tuple(again), as_tuple(expected), strict=True):
        assert got.dtype == want.dtype and got.shape == want.shape
        assert got.tobytes() == twice.tobytes(), "not the same bits from run to run"
        assert error(got, want) <= 2 * scale * tau(got.dtype, K), error(got, want)


def any_layout(kernels: ModuleType, rng: np.random.Generator) -> None:
    """Every convolution of a module, on arrays that lie in memory in all kinds of ways."""
    at = windows("conv2d", (9, 8), (3, 2), padding=((1, 0), (1, 1)))
    x, w, _, dy, K = arrays(rng, at, 3, 4, 5)
    frozen = x.copy()
    frozen.flags.writeable = False
    maps = (frozen, np.asfortranarray(x), x[:, ::-1], x[::-1, :, ::-1], np.repeat(x, 2, axis=3)[..., ::2])
    deltas = (np.asfortranarray(dy), dy[:, :, ::-1], np.broadcast_to(dy[:, :1], dy.shape))
    banks = (np.asfortranarray(w), w[::-1, ::-1], w.transpose(0, 1, 3, 2).copy().transpose(0, 1, 3, 2))
    for name, calls in {
        "correlate": [*((other, w, None, at) for other in maps), *((x, other, None, at) for other in banks)],
        "correlate_filters": [*((other, dy, at) for other in maps), *((x, other, at) for other in deltas)],
        "correlate_inputs": [*((other, w, at) for other in deltas), *((dy, other, at) for other in banks)],
    }.items():
        if hasattr(kernels, name):
            for arguments in calls:
                agree(getattr(kernels, name), *arguments, K=K)


def same_places(kernel: Callable[..., Any], *arguments: Any) -> None:
    """NaN and infinities are where the reference has them."""
    with np.errstate(all="ignore"):
        got, want = kernel(*arguments), REFERENCES[kernel.__name__](*arguments)
    assert got is not NotImplemented
    assert np.array_equal(np.isnan(got), np.isnan(want)) and np.array_equal(np.isinf(got), np.isinf(want))


# -- Winograd ----------------------------------------------------------------------------------------------------------


def winograd_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any channels, and any amount of work, are served by Winograd's kernels."""
    for name, value in (("LEAST", 1), ("PRODUCTS", 0), ("PLACES", 0)):
        monkeypatch.setattr(winograd_tiles, name, value)


def winograd_agrees(by: ModuleType, rng: np.random.Generator, dtype: str) -> None:
    """The references' numbers on a drawn map, by all four kernels of a module."""
    pads = tuple(tuple(int(v) for v in side) for side in rng.integers(0, 3, (2, 2)))
    size = tuple(int(rng.integers(max(1, 3 - sum(p)), 20)) for p in pads)
    at, N = windows("conv2d", size, (3, 3), padding=pads), int(rng.integers(1, 9))
    C, D = (int(rng.choice([1, 2, 5, 16, 50])) for _ in range(2))
    x, w, b, dy, _ = arrays(rng, at, N, C, D, dtype)
    limit, positions = 2 * tau(dtype, 9 * C), N * at.grid[0] * at.grid[1]
    y, expected = by.correlate(x, w, b, at), REFERENCES["correlate"](x, w, b, at)
    assert y.dtype == expected.dtype and error(y, expected) <= limit
    assert np.array_equal(by.correlate(x, w, b, at, relu=True), np.maximum(y, 0)), "and the same bits"
    assert error(by.correlate(x, w, None, at), REFERENCES["correlate"](x, w, None, at)) <= limit
    limit = 2 * tau(dtype, positions)
    dw, db = by.parameter_gradients(x, dy, at, 1, biased=True)
    want, sums = REFERENCES["parameter_gradients"](x, dy, at, 1, True)
    assert dw.dtype == db.dtype == want.dtype and dw.shape == want.shape
    assert error(dw, want) <= limit
    assert np.abs(db - sums).max() <= limit * np.sqrt(positions), "of sums that may be near 0"
    again, none = by.parameter_gradients(x, dy, at, 1, biased=False)
    assert none is None and again.tobytes() == dw.tobytes() == by.correlate_filters(x, dy, at).tobytes()
    dx = by.correlate_inputs(dy, w, at)
    assert error(dx, REFERENCES["correlate_inputs"](dy, w, at)) <= 2 * tau(dtype, 9 * D)


def winograd_case(rng: np.random.Generator, D: int, N: int = 3) -> tuple[Any, ...]:
    """A convolution that Winograd's kernels serve."""
    at = windows("conv2d", (17, 15), (3, 3), padding="same")
    return at, *arrays(rng, at, N, 32, D)[:4]


def winograd_keeps_to_itself(by: ModuleType, rng: np.random.Generator, D: int) -> None:
    """Any layout gives the same bits, and neither do leftovers in the buffers matter."""
    at, x, w, b, dy = winograd_case(rng, D)
    y, dw, dx = by.correlate(x, w, b, at), by.correlate_filters(x, dy, at), by.correlate_inputs(dy, w, at)
    for change in (np.asfortranarray, lambda a: np.repeat(a, 2, axis=-1)[..., ::2], lambda a: a[::-1].copy()[::-1]):
        X, W, B, DY = map(change, (x, w, b, dy))
        for array in (X, W, B, DY):
            array.flags.writeable = False
        assert by.correlate(X, W, B, at).tobytes() == y.tobytes()
        assert by.correlate_filters(X, DY, at).tobytes() == dw.tobytes()
        assert by.correlate_inputs(DY, W, at).tobytes() == dx.tobytes()
    kept = winograd_tiles.kept
    for call in (lambda: by.correlate(x, w, b, at), lambda: by.correlate_filters(x, dy, at)):
        first = call()
        kept.buffers[x.dtype][:], kept.border = np.nan, None
        assert call().tobytes() == first.tobytes()


def winograd_declines_what_is_not_finite(by: ModuleType, rng: np.random.Generator, D: int, value: float) -> None:
    """A tile would spread it. No warning is given (they are errors in tests)."""
    at, x, w, b, dy = winograd_case(rng, D)
    x[1, 8, 8, 3] = value
    assert by.correlate(x, w, b, at, relu=True) is NotImplemented
    assert by.parameter_gradients(x, dy, at, 1, True) is by.correlate_filters(x, dy, at) is NotImplemented
    assert by.correlate_inputs(dy, w, at) is not NotImplemented
    w[1, 1, 3, 3] = value
    assert by.correlate_inputs(dy, w, at) is NotImplemented
