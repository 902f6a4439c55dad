"""Convolution tap by tap: the references' numbers, layouts, threads, and the calls that it declines."""

from __future__ import annotations

import numpy as np
import pytest
from cpu_tools import REFERENCES, agree, arrays, drawn, same_places

from dualnet.backends.cpu import blas, gathering, taps
from dualnet.geometry import windows

needs_blas = pytest.mark.skipif(blas.product("float32") is None, reason="this BLAS has no product that can be called")


@pytest.fixture(params=["1", "3"], autouse=True)
def team(request, monkeypatch):
    monkeypatch.setenv("DUALNET_THREADS", request.param)
    monkeypatch.setattr(taps, "FILTERS", 3)  # several products, and a short one at the end
    monkeypatch.setattr(taps, "CHANNELS", 4)


def calls(at, x, w, b, dy):
    yield taps.correlate, (x, w, b, at, 1, True)
    yield taps.correlate, (x, w, None, at)
    yield taps.correlate_filters, (x, dy, at)
    if gathering.windows(at) is not None:
        yield taps.correlate_inputs, (dy, w, at)


@needs_blas
@pytest.mark.parametrize("case", range(20))
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_references_numbers(rng, case, dtype):
    at, x, w, b, dy, K = drawn(rng, dtype, stride=1 + case % 2)
    for kernel, arguments in calls(at, x, w, b, dy):
        agree(kernel, *arguments, K=K)


@needs_blas
def test_many_filters_on_a_small_map(monkeypatch, rng):
    monkeypatch.undo()
    at = windows("t", (4, 4), (3, 3), padding=1)
    x, w, b, dy, K = arrays(rng, at, 3, 300, 270)
    for kernel, arguments in calls(at, x, w, b, dy):
        agree(kernel, *arguments, K=K)


@needs_blas
def test_any_memory_layout(rng):
    at = windows("t", (5, 6), (3, 2), padding=1)
    x, w, b, dy, _ = arrays(rng, at, 2, 7, 8)
    wanted = [kernel(*arguments).tobytes() for kernel, arguments in calls(at, x, w, b, dy)]
    for change in (np.asfortranarray, lambda a: np.repeat(a, 2, axis=-1)[..., ::2], lambda a: a[::-1].copy()[::-1]):
        found = [kernel(*arguments).tobytes() for kernel, arguments in calls(at, *map(change, (x, w, b, dy)))]
        assert found == wanted


@needs_blas
def test_what_is_not_finite_is_where_the_reference_has_it(rng):
    at = windows("t", (5, 6), (3, 3), padding=1)
    x, w, b, dy, _ = arrays(rng, at, 2, 4, 5)
    x[0, 1, 1, 0], x[1, 0, 0, 1], dy[1, 2, 3, 1] = np.nan, np.inf, -np.inf
    for kernel, arguments in calls(at, x, w, b, dy):
        same_places(kernel, *arguments)
    w[0, 0, 0, 0] = np.inf
    assert taps.correlate_inputs(dy, w, at) is NotImplemented, "a border of 0 would be multiplied by it"


def test_what_is_not_served(monkeypatch, rng):
    at, far = windows("t", (5, 6), (3, 3), padding=1), windows("t", (5, 6), (3, 3), stride=2)
    x, w, b, dy, _ = arrays(rng, at, 2, 4, 4)
    for other in ("float16", "int32"):
        assert taps.correlate(x.astype(other), w.astype(other), None, at) is NotImplemented
        assert taps.correlate_filters(x.astype(other), dy.astype(other), at) is NotImplemented
    assert taps.correlate(x, w[:, :, :2], None, at, 2) is taps.correlate_filters(x, dy, at, 2) is NotImplemented
    assert taps.correlate_inputs(dy[:, :2, :2], w, far) is NotImplemented, "a stride is not gathered"
    monkeypatch.setattr(blas, "_found", [None])
    assert taps.correlate(x, w, b, at) is taps.correlate_inputs(dy, w, at) is NotImplemented
    assert np.allclose(taps.correlate_filters(x, dy, at), REFERENCES["correlate_filters"](x, dy, at), atol=1e-4)
