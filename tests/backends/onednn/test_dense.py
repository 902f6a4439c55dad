"""oneDNN's dense product against its reference: factors that are transposed or parts of larger arrays, and the rest."""

from __future__ import annotations

import numpy as np
import pytest
from onednn_tools import expected, float32, needs_library, served
from oracles import error, tau

from dualnet.backends.onednn import dense


@needs_library
def test_products_agree_whichever_factor_is_transposed(
    number: str, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dense, "PRODUCT", 0)
    for M, K, D in ((64, 400, 120), (1, 7, 3), (5, 1, 4), (9, 6, 1), (33, 65, 17)):
        whole = float32(rng, 2 * M, 2 * K)
        b = float32(rng, D)
        factors = (float32(rng, M, K), float32(rng, K, M).T, whole[:M, :K], whole[::2, ::2], whole[:M, K:])
        for x in factors:
            for w in (float32(rng, K, D), float32(rng, D, K).T, float32(rng, K, 2 * D)[:, :D]):
                for bias in (None, b):
                    assert error(served("affine", x, w, bias), expected("affine", x, w, bias)) <= tau("float32", K)


@needs_library
def test_what_is_left_to_the_next(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    x, w, b = float32(rng, 128, 128), float32(rng, 128, 128), float32(rng, 128)
    assert dense.affine(x, w, b) is not NotImplemented and 128**3 == dense.PRODUCT
    assert dense.affine(x[1:], w, b) is NotImplemented, "BLAS is done first"
    assert dense.affine(x.astype("f8"), w.astype("f8")) is dense.affine(x, w.astype("f2")) is NotImplemented
    assert dense.affine(x, w, b.astype("f8")) is dense.affine(x, w, b[1:]) is NotImplemented
    monkeypatch.setattr(dense, "PRODUCT", 0)
    assert dense.affine(x[:0], w) is dense.affine(x[:, :5], w) is dense.affine(x[None], w) is NotImplemented
