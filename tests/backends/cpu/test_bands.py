"""Convolution several columns at a time on NumPy: the references' numbers, and the calls that it declines."""

from __future__ import annotations

import numpy as np
import pytest
from cpu_tools import agree, any_layout, arrays, drawn, same_places

from dualnet.backends.cpu import bands, gathering, guards
from dualnet.geometry import windows


def any_number(monkeypatch, q):
    """Compute q columns at a time, for as little work as there is."""
    monkeypatch.setattr(guards, "FEW", 0)
    monkeypatch.setattr(bands, "columns_at_once", lambda at, *a: 1 if at.grid[1] % q or at.dilation[1] > 1 else q)


@pytest.mark.parametrize("case", range(20))
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_references_numbers(team, small_blocks, monkeypatch, rng, case, dtype):
    any_number(monkeypatch, 2 + case % 4)
    at, x, w, b, dy, K = drawn(rng, dtype)
    if bands.columns_at_once(at) > 1:
        agree(bands.correlate, x, w, b, at, K=K)
        agree(bands.correlate, x, w, b, at, relu=True, K=K)
        agree(bands.correlate, x, w, None, at, K=K)
        agree(bands.correlate_filters, x, dy, at, K=K)
    else:
        assert bands.correlate(x, w, b, at) is bands.correlate_filters(x, dy, at) is NotImplemented
    back = gathering.windows(at)
    if back is not None and bands.columns_at_once(back) > 1 and len(x):
        agree(bands.correlate_inputs, dy, w, at, K=K)


def test_where_it_was_measured_to_pay(team, rng):
    first = windows("conv2d", (28, 28), (5, 5), padding=2)
    x, w, b, dy, _ = arrays(rng, first, 20, 1, 6)
    agree(bands.correlate, x, w, b, first, K=25)
    agree(bands.correlate, x, w, b, first, relu=True, K=25)
    agree(bands.correlate, x[:, ::-1, ::-1], w[::-1], None, first, K=25)
    agree(bands.correlate_filters, x, dy[:, ::-1], first, K=20 * 784)
    agree(bands.correlate_inputs, dy[:, :, ::-1], w[::-1], first, K=150)


def test_any_memory_layout(monkeypatch, rng):
    monkeypatch.setattr(guards, "FEW", 0)
    monkeypatch.setattr(bands, "columns_at_once", lambda at, *a: 3 if at.grid[1] % 3 == 0 else 2)
    any_layout(bands, rng)


def test_a_band_matrix_does_not_spread_what_is_not_finite(rng):
    """Beside the band stand zeros, and 0 · ∞ is NaN: E4 and E13 are left to others. E11 has no such zeros."""
    at = windows("conv2d", (28, 28), (5, 5), padding=2)
    x, w, _, dy, _ = arrays(rng, at, 20, 1, 6)
    x[3, 10, 11, 0], dy[5, 2, 3, 0] = np.inf, np.nan
    assert bands.correlate(x, w, None, at) is bands.correlate_inputs(dy, w, at) is NotImplemented
    same_places(bands.correlate_filters, x, np.nan_to_num(dy), at)
    dy[5, 2, 3, 0], w[0, 0, 0, 0] = 0, np.inf
    assert bands.correlate_inputs(dy, w, at) is NotImplemented


def test_what_it_leaves_to_others(rng):
    at = windows("conv2d", (28, 28), (5, 5), padding=2)
    x, w, b, dy, _ = arrays(rng, at, 8, 1, 6)
    assert bands.correlate(x, w, b, at) is not NotImplemented
    assert bands.correlate_inputs(dy, w, at) is NotImplemented, "too few multiplications"
    assert bands.correlate(x[:7], w, b, at) is NotImplemented, "too few images"
    assert bands.correlate(x.astype("f2"), w.astype("f2"), None, at) is NotImplemented
    assert bands.correlate_filters(x, dy.astype("f8"), at) is NotImplemented
    assert bands.correlate(x, w, b, at, 2) is bands.correlate_filters(x, dy, at, 2) is NotImplemented, "groups"
