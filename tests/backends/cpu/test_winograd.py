"""Winograd's minimal filtering on NumPy: its constants, its numbers at drawn shapes, and what it must not serve."""

from __future__ import annotations

import numpy as np
import pytest
from oracles import error, tau

from dualnet.backend import references
from dualnet.backends.cpu import columns as numpy_kernels
from dualnet.backends.cpu import rows as numpy_rows
from dualnet.backends.cpu import winograd as numpy_winograd
from dualnet.backends.cpu import winograd_rows as numpy_winograd_rows
from dualnet.geometry import windows

REFERENCES = {name: dispatch.reference for name, dispatch in references.items()}


@pytest.mark.parametrize("m", [2, 4])
def test_the_constants_make_a_correlation(rng, m):
    A, G, B = (np.array(constants[m]) for constants in (numpy_winograd.A, numpy_winograd.G, numpy_winograd.B))
    d, g = rng.standard_normal(m + 2), rng.standard_normal(3)
    expected = [d[i : i + 3] @ g for i in range(m)]
    np.testing.assert_allclose(A @ ((G @ g) * (B @ d)), expected, rtol=1e-12, atol=1e-12)
    assert A[0, 1] == 1 and (A[1:, 1] == 1).all(), "E12 is read off at this point"


def drawn(rng, dtype):
    pads = tuple(tuple(int(v) for v in side) for side in rng.integers(0, 4, (2, 2)))
    size = tuple(int(rng.integers(max(1, 3 - sum(p)), 20)) for p in pads)
    at, N = windows("conv2d", size, (3, 3), padding=pads), int(rng.integers(1, 9))
    C, D = (int(rng.choice([1, 2, 5, 16, 50])) for _ in range(2))
    shapes = ((N, *size, C), (3, 3, C, D), (D,), (N, *at.grid, D))
    return at, *(rng.standard_normal(shape).astype(dtype) for shape in shapes)


@pytest.mark.parametrize("case", range(20))
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("threads", ["1", "2", "3"])
@pytest.mark.parametrize("by", [numpy_winograd, numpy_winograd_rows], ids=["both ways", "rows"])
def test_the_references_numbers(monkeypatch, rng, case, dtype, threads, by):
    monkeypatch.setenv("DUALNET_THREADS", threads)
    if case % 2:  # several blocks, of rows of tiles where there are few images
        monkeypatch.setattr(by, "BLOCK_BYTES", 20000)
        monkeypatch.setattr(by, "UNPACKED", 3000)
    monkeypatch.setattr(numpy_winograd, "LEAST", 1)
    monkeypatch.setattr(numpy_winograd, "PRODUCTS", 0)
    monkeypatch.setattr(numpy_winograd, "PLACES", 0)
    at, x, w, b, dy = drawn(rng, dtype)
    N, D, limit = len(x), w.shape[3], 2 * tau(dtype, 9 * w.shape[2])
    y = by.correlate(x, w, b, at, relu=False)
    expected = REFERENCES["correlate"](x, w, b, at)
    assert y.dtype == expected.dtype and error(y, expected) <= limit
    assert np.array_equal(by.correlate(x, w, b, at, relu=True), np.maximum(y, 0)), "and the same bits"
    assert error(by.correlate(x, w, None, at, relu=False), REFERENCES["correlate"](x, w, None, at)) <= limit
    limit = 2 * tau(dtype, N * at.grid[0] * at.grid[1])
    dw, db = by.parameter_gradients(x, dy, at, biased=True)
    want, sums = REFERENCES["parameter_gradients"](x, dy, at, 1, True)
    assert dw.dtype == db.dtype == want.dtype and dw.shape == want.shape
    assert error(dw, want) <= limit
    assert np.abs(db - sums).max() <= limit * np.sqrt(N * at.grid[0] * at.grid[1]), "of sums that may be near 0"
    again, none = by.parameter_gradients(x, dy, at, biased=False)
    assert none is None and again.tobytes() == dw.tobytes()
    monkeypatch.setattr(numpy_winograd_rows, "serves", lambda C, D: by is numpy_winograd_rows)
    dx = numpy_kernels.correlate_inputs(dy, w, at)
    assert error(dx, REFERENCES["correlate_inputs"](dy, w, at)) <= 2 * tau(dtype, 9 * D)


def served(rng, D, N=3):
    at = windows("conv2d", (17, 15), (3, 3), padding="same")
    shapes = ((N, 17, 15, 32), (3, 3, 32, D), (D,), (N, *at.grid, D))
    return at, *(rng.standard_normal(shape, dtype="f4") for shape in shapes)


@pytest.mark.parametrize("D, by", [(80, numpy_winograd), (48, numpy_winograd_rows)])
def test_it_stands_in_for_rows_and_any_memory_layout_does(monkeypatch, rng, D, by):
    at, x, w, b, dy = served(rng, D)
    assert numpy_kernels._winograd(32, D) is by
    monkeypatch.setattr(numpy_rows, "serves", lambda *a: pytest.fail("rows were asked"))
    monkeypatch.setattr(numpy_kernels, "columns", lambda *a: pytest.fail("columns were made"))
    y, (dw, _) = numpy_kernels.correlate(x, w, b, at), numpy_kernels.parameter_gradients(x, dy, at, 1, True)
    dx = numpy_kernels.correlate_inputs(dy, w, at)
    assert numpy_kernels.correlate_filters(x, dy, at).tobytes() == dw.tobytes()
    for change in (np.asfortranarray, lambda a: np.repeat(a, 2, axis=-1)[..., ::2], lambda a: a[::-1].copy()[::-1]):
        X, W, B, DY = map(change, (x, w, b, dy))
        for array in (X, W, B, DY):
            array.flags.writeable = False
        assert numpy_kernels.correlate(X, W, B, at).tobytes() == y.tobytes()
        assert numpy_kernels.parameter_gradients(X, DY, at, 1, True)[0].tobytes() == dw.tobytes()
        assert numpy_kernels.correlate_inputs(DY, W, at).tobytes() == dx.tobytes()


@pytest.mark.parametrize("D, by", [(80, numpy_winograd), (48, numpy_winograd_rows)])
def test_what_others_left_in_the_buffers_does_not_matter(monkeypatch, rng, D, by):
    monkeypatch.setenv("DUALNET_THREADS", "1")
    at, x, w, b, dy = served(rng, D)
    kept = numpy_winograd.kept
    for call in (lambda: by.correlate(x, w, b, at, relu=False), lambda: by.parameter_gradients(x, dy, at, True)[0]):
        first = call()
        kept.buffers[x.dtype][:], kept.border = np.nan, None
        assert call().tobytes() == first.tobytes()
    assert kept.rooms
    kept.buffer(kept.buffers[x.dtype].size + 1, x.dtype)
    assert not kept.rooms, "views would keep the smaller buffer alive"


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30])
@pytest.mark.parametrize("D, by", [(80, numpy_winograd), (48, numpy_winograd_rows)])
def test_what_is_not_finite_stays_where_it_belongs(rng, value, D, by):
    """A tile would spread it: rows serve instead, and no warning is given (they are errors here)."""
    at, x, w, b, dy = served(rng, D)
    x[1, 8, 8, 3] = dy[1, 8, 8, 3] = value
    assert by.correlate(x, w, b, at, relu=True) is NotImplemented
    with np.errstate(all="ignore"):
        pairs = [
            (numpy_kernels.correlate(x, w, b, at), REFERENCES["correlate"](x, w, b, at)),
            (numpy_kernels.correlate(x, w, b, at, relu=True), REFERENCES["correlate"](x, w, b, at, relu=True)),
            (numpy_kernels.correlate_inputs(dy, w, at), REFERENCES["correlate_inputs"](dy, w, at)),
            (numpy_kernels.correlate_filters(x, dy, at), REFERENCES["correlate_filters"](x, dy, at)),
        ]
    for got, want in pairs:
        assert np.array_equal(np.isfinite(got), np.isfinite(want))
    with np.errstate(all="ignore"):
        gradients = references["parameter_gradients"](x, dy, at, 1, True)
    assert np.array_equal(np.isfinite(gradients[1]), np.isfinite(REFERENCES["channel_sum"](dy)))


def test_what_is_not_served(rng):
    same = windows("conv2d", (32, 32), (3, 3), padding=1)
    assert numpy_winograd.serves(same, 32, 32, 64)
    assert not numpy_winograd.serves(same, 3, 32, 64) and not numpy_winograd.serves(same, 32, 8, 64)
    assert not numpy_winograd.serves(windows("conv2d", (8, 8), (3, 3), padding=1), 16, 16, 1), "too little to do"
    assert not numpy_winograd.serves(windows("conv2d", (8, 8), (3, 3), padding=1), 512, 512, 1), "for so large a bank"
    for options in ({"stride": 2}, {"dilation": 2}):
        assert not numpy_winograd.serves(windows("conv2d", (32, 32), (3, 3), padding=1, **options), 32, 32, 64)
    assert not numpy_winograd.serves(windows("conv2d", (32, 32), (5, 5), padding=2), 32, 32, 64)
    at, x, w, b, dy = served(rng, 48)
    assert numpy_kernels.parameter_gradients(x.astype("f2"), dy.astype("f2"), at, 1, True) is NotImplemented
