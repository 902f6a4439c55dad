"""Convolution by columns on NumPy: the references' numbers for any window, also if they are not finite."""

from __future__ import annotations

import numpy as np
import pytest
from cpu_tools import agree, any_layout, arrays, drawn, same_places

from dualnet.backends.cpu import columns, gathering
from dualnet.geometry import windows


@pytest.mark.parametrize("case", range(30))
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_references_numbers(team, small_blocks, rng, case, dtype):
    at, x, w, b, dy, K = drawn(rng, dtype, stride=1 + case % 3)
    agree(columns.correlate, x, w, b, at, K=K)
    agree(columns.correlate, x, w, b, at, relu=True, K=K)
    agree(columns.correlate, x, w, None, at, K=K)
    agree(columns.correlate_filters, x, dy, at, K=K)
    if gathering.better(at, w.shape[2], w.shape[3], len(x)):
        agree(columns.correlate_inputs, dy, w, at, K=K)
    else:
        assert columns.correlate_inputs(dy, w, at) is NotImplemented


def test_any_memory_layout(team, small_blocks, rng):
    any_layout(columns, rng)


@pytest.mark.parametrize("odd", [np.nan, np.inf])
def test_what_is_not_finite_stays_where_it_belongs(rng, odd):
    at = windows("conv2d", (8, 9), (3, 3), padding=1)
    x, w, b, dy, _ = arrays(rng, at, 2, 5, 4)
    x[1, 2, 3, 4] = dy[0, 5, 5, 1] = odd
    same_places(columns.correlate, x, w, b, at)
    same_places(columns.correlate_filters, x, dy, at)
    same_places(columns.correlate_inputs, dy, w, at)
    w[1, 1, 1, 1] = odd
    same_places(columns.correlate, x, w, b, at)
    assert columns.correlate_inputs(dy, w, at) is NotImplemented, "the border of 0 would be multiplied by it"


def test_what_is_not_served(rng):
    at = windows("conv2d", (5, 5), (3, 3))
    x, w, b, dy, _ = arrays(rng, at, 1, 4, 4)
    assert columns.correlate(x, w, b, at, 2) is columns.correlate_filters(x, dy, at, 2) is NotImplemented  # groups
    assert columns.correlate_inputs(dy, w, at, 2) is NotImplemented
    assert columns.correlate(x.astype("f2"), w.astype("f2"), None, at) is NotImplemented
    assert columns.correlate_filters(x, dy.astype("f8"), at) is NotImplemented
