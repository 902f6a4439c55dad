"""Shared by the tests of oneDNN's kernels: the library, threads, arrays, and the kernels by name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from dualnet.backend import references
from dualnet.backends.onednn import convolution, dense, library, passes, plans, pooling
from dualnet.geometry import windows

WORKS, WHY = library.available()
needs_library = pytest.mark.skipif(not WORKS, reason=f"oneDNN: {WHY}")

SPECIAL = [  # N, size, C, window, D, stride, padding, dilation, groups
    (1, (28, 28), 1, (5, 5), 6, 1, "same", 1, 1),
    (3, (14, 14), 6, (5, 5), 16, 1, 0, 1, 1),
    (2, (8, 9), 3, (3, 3), 32, 1, 1, 1, 1),
    (2, (8, 8), 32, (3, 3), 32, (2, 2), "same", 1, 1),
    (2, (7, 10), 4, (3, 2), 5, (2, 3), ((1, 0), (0, 1)), 1, 1),  # (H + 2p − k) mod s ≠ 0, padding on one side
    (1, (11, 12), 5, (3, 3), 7, 1, ((2, 3), (0, 4)), (2, 3), 1),
    (4, (6, 6), 64, (1, 1), 32, 1, 0, 1, 1),
    (2, (9, 9), 16, (1, 1), 32, 2, 0, 1, 1),
    (2, (9, 9), 6, (3, 3), 6, 1, 1, 1, 6),  # depthwise
    (2, (9, 9), 32, (3, 3), 16, 2, 1, 1, 4),
    (1, (5, 5), 2, (5, 5), 3, 1, "full", 1, 1),
    (1, (1, 1), 1, (1, 1), 1, 1, 0, 1, 1),
    (8, (11, 12), 1, (5, 5), 6, 1, 2, 1, 1),  # from here on, several columns at a time: 2
    (9, (9, 15), 3, (3, 2), 5, (2, 1), ((1, 0), (0, 1)), 1, 1),  # 3
    (8, (3, 17), 8, (1, 2), 2, 1, 0, 1, 1),  # 8
    (8, (4, 13), 2, (3, 3), 1, 1, 1, 1, 1),  # 13, a whole row
]
"""Convolutions with something special about them."""


@pytest.fixture(params=["1", "2"])
def number(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Threads, which share out even the smallest work."""
    monkeypatch.setenv("DUALNET_THREADS", request.param)
    monkeypatch.setattr(convolution, "PRODUCTS_ALONE", 0)
    monkeypatch.setattr(convolution, "SUMMED", 0 if request.param == "2" else 10**9)  # biases: apart, or with filters
    monkeypatch.setattr(convolution, "MANY_RESULTS", 0 if request.param == "2" else 10**9)  # the library's ReLU, or ELU
    monkeypatch.setattr(passes, "SMALL", 0)
    plans._of_thread.plans.clear()
    yield request.param
    plans._of_thread.plans.clear()


def float32(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape, dtype=np.float32)


def expected(name: str, *arrays: Any) -> Any:
    """The reference in float64."""
    wide = [a.astype(np.float64) if isinstance(a, np.ndarray) and a.dtype == np.float32 else a for a in arrays]
    return references[name].reference(*wide)


def kernel(name: str) -> Any:
    """oneDNN's kernel of this name."""
    return next(getattr(module, name) for module in (convolution, pooling, dense, passes) if hasattr(module, name))


def served(name: str, *arguments: Any, **options: Any) -> Any:
    result = kernel(name)(*arguments, **options)
    assert result is not NotImplemented, f"{name} was not served"
    return result


def convolved(rng: np.random.Generator, case: tuple[Any, ...]) -> tuple[Any, ...]:
    """x, w, b, dy, the windows and groups of a case such as those in ``SPECIAL``."""
    N, size, C, window, D, stride, padding, dilation, groups = case
    at = windows("test", size, window, stride=stride, padding=padding, dilation=dilation)
    x, w, b = float32(rng, N, *size, C), float32(rng, *window, C // groups, D), float32(rng, D)
    return x, w, b, float32(rng, N, *at.grid, D), at, groups
