"""oneDNN's pooling against its references: ties, ceil_mode, and maps that are not finite."""

from __future__ import annotations

import numpy as np
import pytest
from onednn_tools import expected, float32, kernel, needs_library, served
from oracles import error, tau

from dualnet.backend import references
from dualnet.backends.onednn import pooling
from dualnet.geometry import Windows
from dualnet.ops.pooling import pool_windows


@needs_library
@pytest.mark.parametrize("seed", range(60))
def test_pooling_agrees_with_its_reference(seed: int, number: str) -> None:
    rng = np.random.default_rng(seed)
    window, stride = (tuple(int(i) for i in rng.integers(1, 5, 2)) for _ in range(2))
    size = tuple(int(k + i) for k, i in zip(window, rng.integers(0, 10, 2), strict=True))
    padding = tuple(tuple(int(p) for p in rng.integers(0, -(-k // 2), 2)) for k in window)
    at = pool_windows("test", size, window, stride=stride, padding=padding, ceil_mode=bool(seed % 2))
    shape = (int(rng.integers(1, 4)), *size, int(rng.choice([1, 2, 3, 6, 16, 17, 40])))
    x = np.round(rng.standard_normal(shape)).astype(np.float32)  # full of ties
    x = np.maximum(x, 0) if seed % 3 else x

    y, winners = served("max_pool", x, at)
    wanted, first = references["max_pool"].reference(x, at)
    assert np.array_equal(y, wanted) and np.array_equal(winners, first) and winners.dtype == first.dtype
    dy = float32(rng, *y.shape)
    assert error(served("max_unpool", dy, winners, at), expected("max_unpool", dy, first, at)) <= tau("float32", 9)
    for counted in (False, True):
        for name, array in (("avg_pool", x), ("avg_unpool", dy)):
            result = kernel(name)(array, at, counted)
            if counted and at.overhang != (0, 0):
                assert result is NotImplemented, "oneDNN counts the overhang"
                continue
            assert error(result, expected(name, array, at, counted)) <= tau("float32", at.taps)


@needs_library
@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf])
def test_max_pooling_leaves_what_it_would_ignore_to_numpy(odd: float, rng: np.random.Generator) -> None:
    x, at = float32(rng, 2, 5, 4, 3), pool_windows("test", (5, 4), 2)
    x[1, 2, 3, 1] = 1e38
    assert pooling.max_pool(x, at)[0][1, 1, 1, 1] == 1e38
    x[1, 4, 2, 0] = odd  # in no window, which the kernel does not know
    assert pooling.max_pool(x, at) is NotImplemented
    x[1, 2, 3, 1], x[1, 4, 2, 0] = odd, 0
    assert pooling.max_pool(x, at) is NotImplemented


@needs_library
@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_other_dtypes_are_left_to_the_next(dtype: str) -> None:
    x, at = np.ones((2, 8, 9, 3), dtype), pool_windows("test", (8, 9), 2)
    assert pooling.max_pool(x, at) is pooling.avg_pool(x, at) is NotImplemented
    dy = np.ones((2, 4, 4, 3), dtype)
    assert pooling.avg_unpool(dy, at) is pooling.max_unpool(dy, dy.astype(np.uint8), at) is NotImplemented


@needs_library
def test_nothing_and_misfits_are_left_to_the_reference(rng: np.random.Generator) -> None:
    x = float32(rng, 2, 8, 9, 3)
    apart = pool_windows("test", x.shape[1:3], 3, stride=2, dilation=2)
    assert pooling.max_pool(x, apart) is pooling.avg_pool(x, apart) is NotImplemented
    at = pool_windows("test", x.shape[1:3], 2)
    y, winners = served("max_pool", x, at)
    assert pooling.max_pool(x[:0], at) is pooling.max_unpool(y[1:], winners, at) is NotImplemented
    assert pooling.max_unpool(y, winners.astype(np.int32), at) is NotImplemented
    assert pooling.avg_unpool(y[:, 1:], at) is NotImplemented
    empty = Windows((4, 4), (2, 2), (2, 2), ((2, 0), (0, 0)), (1, 1), (3, 2))
    assert pooling.avg_pool(float32(rng, 1, 4, 4, 1), empty, True) is NotImplemented, "a window wholly in the padding"
