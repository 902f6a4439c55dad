"""What the tests of oneDNN's kernels share: the library, threads, arrays, and whom to ask."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from dualnet.backend import references
from dualnet.backends.onednn import kernels
from dualnet.backends.onednn import library as onednn
from dualnet.backends.onednn import passes as onednn_passes
from dualnet.backends.onednn import plans as onednn_plans

WORKS, WHY = onednn.available()
needs_library = pytest.mark.skipif(not WORKS, reason=f"oneDNN: {WHY}")


@pytest.fixture(params=["1", "2"])
def number(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Threads, which share out even the smallest work."""
    monkeypatch.setenv("DUALNET_THREADS", request.param)
    monkeypatch.setattr(kernels, "PRODUCTS_ALONE", 0)
    monkeypatch.setattr(kernels, "SUMMED", 0 if request.param == "2" else 10**9)  # biases: apart, or with the filters
    monkeypatch.setattr(kernels, "MANY_RESULTS", 0 if request.param == "2" else 10**9)  # ReLU: the library's, or ELU
    monkeypatch.setattr(onednn_passes, "SMALL", 0)
    onednn_plans._of_thread.plans.clear()
    yield request.param
    onednn_plans._of_thread.plans.clear()


def float32(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape, dtype=np.float32)


def expected(name: str, *arrays: Any) -> Any:
    """The reference in float64."""
    wide = [a.astype(np.float64) if isinstance(a, np.ndarray) and a.dtype == np.float32 else a for a in arrays]
    return references[name].reference(*wide)


def served(name: str, *arguments: Any, **options: Any) -> Any:
    result = kernels.KERNELS[name](*arguments, **options)
    assert result is not NotImplemented, f"{name} was not served"
    return result
