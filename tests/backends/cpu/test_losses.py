"""Cross-entropy on NumPy: the reference's numbers for class numbers, and the calls that it declines."""

from __future__ import annotations

import numpy as np
import pytest
from cpu_tools import agree

from dualnet.backends.cpu.losses import cross_entropy


@pytest.mark.parametrize("shape", [(64, 10), (3, 5, 7), (1, 1)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_references_numbers(rng, shape, dtype):
    y = (rng.standard_normal(shape) * 20).astype(dtype)
    for kind in ("int64", "uint8", "int32"):
        agree(cross_entropy, y, rng.integers(0, shape[-1], shape[:-1]).astype(kind), 0.0, K=y.size)
    t = rng.integers(0, shape[-1], shape[:-1])
    far = t.copy()
    far.flat[0] = shape[-1]
    for labels, smoothing in ((np.eye(shape[-1], dtype=dtype)[t], 0.0), (t, 0.1), (far, 0.0), (t - 99, 0.0)):
        assert cross_entropy(y, labels, smoothing) is NotImplemented
    assert cross_entropy(y.astype("f2"), t, 0.0) is NotImplemented


def test_the_limits_are_the_references(rng):
    y, t = rng.standard_normal((4, 3), dtype="f4"), np.array([0, 1, 2, 0])
    y[0, 1] = -np.inf
    agree(cross_entropy, y, t, 0.0, K=12)
    for odd in (np.inf, np.nan, -np.inf):
        y[0, 0] = odd
        assert cross_entropy(y, t, 0.0) is NotImplemented
