"""The dense product on NumPy: the reference's numbers at every size, and factors that are transposed."""

from __future__ import annotations

import numpy as np
import pytest
from cpu_tools import agree

from dualnet.backends.cpu import dense, guards


@pytest.mark.parametrize("few", [0, guards.FEW])
@pytest.mark.parametrize(
    "M, K, D", [(64, 400, 120), (7, 3, 2), (64, 2048, 256), (900, 300, 70), (3, 2000, 3000), (0, 4, 2)]
)
def test_the_references_numbers(team, monkeypatch, rng, few, M, K, D):
    monkeypatch.setattr(dense, "TINY", 0)
    monkeypatch.setattr(dense, "FEW", few)
    x, w, b = (rng.standard_normal(s, dtype="f4") for s in ((M, K), (K, D), (D,)))
    agree(dense.affine, x, w, b, K=K)
    agree(dense.affine, x, w, K=K)
    agree(dense.affine, x.T, rng.standard_normal((M, D), dtype="f4"), K=max(M, 1))
    agree(dense.affine, rng.standard_normal((M, D), dtype="f4"), w.T, K=D)
    agree(dense.affine, x.astype("f8"), w.astype("f8"), K=K)


def test_what_is_not_served(rng):
    x, w = np.ones((64, 32)), np.ones((32, 32))
    assert dense.affine(x, w) is not NotImplemented and x.size * 32 == dense.TINY
    assert dense.affine(x[:-1], w) is NotImplemented, "BLAS needs no help"
    assert dense.affine(x.astype("f2"), w.astype("f2")) is dense.affine(x, w.astype("f4")) is NotImplemented
