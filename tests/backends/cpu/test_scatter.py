"""E13 scattered on NumPy: the reference's numbers for any window, and for a bank that is not finite."""

from __future__ import annotations

import numpy as np
import pytest
from cpu_tools import agree, any_layout, arrays, drawn, same_places

from dualnet.backends.cpu import scatter
from dualnet.geometry import windows


@pytest.mark.parametrize("case", range(30))
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_references_numbers(team, small_blocks, rng, case, dtype):
    at, _, w, _, dy, K = drawn(rng, dtype)
    agree(scatter.correlate_inputs, dy, w, at, K=K)


def test_any_memory_layout(team, small_blocks, rng):
    any_layout(scatter, rng)


def test_the_reference_knows_no_kernel_that_is_not_here():
    assert not hasattr(scatter, "correlate") and not hasattr(scatter, "correlate_filters")


@pytest.mark.parametrize("size, channels, step", [((9, 9), 32, 2), ((22, 9), 3, 1)])
@pytest.mark.parametrize("odd", [np.nan, np.inf])
def test_a_bank_that_is_not_finite_meets_no_border(rng, size, channels, step, odd):
    at = windows("conv2d", size, (3, 3), stride=step, padding=1)
    _, w, _, dy, _ = arrays(rng, at, 3, channels, 6)
    w[0, 0, 0, 0] = odd
    same_places(scatter.correlate_inputs, dy, w, at)
    dy[1, 2, 2, 3] = -odd
    same_places(scatter.correlate_inputs, dy, w, at)


def test_what_is_not_served(rng):
    at = windows("conv2d", (5, 5), (3, 3))
    _, w, _, dy, _ = arrays(rng, at, 1, 4, 4)
    assert scatter.correlate_inputs(dy, w, at, 2) is NotImplemented  # groups
    assert scatter.correlate_inputs(dy.astype("f2"), w.astype("f2"), at) is NotImplemented
    assert scatter.correlate_inputs(dy, w.astype("f8"), at) is NotImplemented
