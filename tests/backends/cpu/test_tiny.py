"""Convolution with very little to do on NumPy: all at once, on the calling thread."""

from __future__ import annotations

import numpy as np
import pytest
from cpu_tools import REFERENCES, agree, any_layout, arrays, drawn

from dualnet.backends.cpu import gathering, threads, tiny
from dualnet.geometry import windows


@pytest.mark.parametrize("case", range(20))
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_references_numbers(monkeypatch, rng, case, dtype):
    monkeypatch.setattr(threads, "parallel_for", lambda *a: pytest.fail("another thread was woken"))
    at, x, w, b, dy, K = drawn(rng, dtype, stride=1 + case % 3)
    agree(tiny.correlate, x, w, b, at, K=K)
    agree(tiny.correlate, x, w, b, at, relu=True, K=K)
    agree(tiny.correlate, x, w, None, at, K=K)
    if gathering.better(at, w.shape[2], w.shape[3], len(x)):
        agree(tiny.correlate_inputs, dy, w, at, K=K)
    else:
        assert tiny.correlate_inputs(dy, w, at) is NotImplemented


def test_any_memory_layout(rng):
    any_layout(tiny, rng)


def test_more_work_is_left_to_others(rng):
    at = windows("conv2d", (16, 16), (3, 3), padding=1)
    x, w, b, dy, _ = arrays(rng, at, 8, 8, 8)
    assert tiny.correlate(x[:7], w, b, at) is not NotImplemented
    assert tiny.correlate_inputs(dy[:7], w, at) is not NotImplemented
    assert tiny.correlate(x, w, b, at) is tiny.correlate_inputs(dy, w, at) is NotImplemented


def test_what_is_not_served(rng):
    at = windows("conv2d", (6, 6), (3, 3), padding=1)
    x, w, b, dy, _ = arrays(rng, at, 1, 4, 4)
    assert tiny.correlate_inputs(dy, w, at) is not NotImplemented
    assert tiny.correlate(x, w, b, at, 2) is tiny.correlate_inputs(dy, w, at, 2) is NotImplemented  # groups
    assert tiny.correlate(x.astype("f2"), w.astype("f2"), None, at) is NotImplemented
    assert tiny.correlate_inputs(dy, w.astype("f8"), at) is NotImplemented
    w[0, 0, 0, 0] = np.inf
    assert tiny.correlate_inputs(dy, w, at) is NotImplemented, "the border of 0 would be multiplied by it"
    with np.errstate(invalid="ignore"):
        got, want = tiny.correlate(x, w, b, at), REFERENCES["correlate"](x, w, b, at)
    assert np.array_equal(np.isinf(got), np.isinf(want))
