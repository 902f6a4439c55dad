"""E13 by whole rows of deltas on NumPy: the reference's numbers, and what it leaves to others."""

from __future__ import annotations

import numpy as np
import pytest
from cpu_tools import agree, arrays

from dualnet.backends.cpu import blas, gathering, guards, lines
from dualnet.geometry import windows

SERVED = [  # size, window, padding, dilation, columns at a time
    ((14, 14), (5, 5), 0, 1, 7),
    ((14, 12), (5, 5), 0, 1, 2),
    ((9, 7), (3, 3), 0, 1, 7),
    ((9, 8), (2, 4), ((0, 0), (1, 3)), 1, 2),
    ((11, 6), (3, 2), ((0, 0), (1, 0)), (2, 1), 3),
]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("case", SERVED, ids=repr)
def test_the_references_numbers(team, monkeypatch, rng, case, dtype):
    if blas.product(dtype) is None:
        pytest.skip("no BLAS to call")
    size, window, padding, dilation, q = case
    monkeypatch.setattr(guards, "FEW", 0)
    monkeypatch.setattr(lines, "serves", lambda *given: True)
    monkeypatch.setattr(lines, "columns_at_once", lambda *given: q)
    at = windows("conv2d", size, window, padding=padding, dilation=dilation)
    for N in (7, 2, 1):  # a smaller batch finds the larger one's numbers in the thread's memory
        _, w, _, dy, K = arrays(rng, at, N, 3, 5, dtype)
        agree(lines.correlate_inputs, dy, w, at, K=K)
        agree(lines.correlate_inputs, np.asfortranarray(dy), w[::-1, ::-1], at, K=K)


def test_where_it_was_measured_to_pay(team, rng):
    second = windows("conv2d", (14, 14), (5, 5))
    _, w, _, dy, _ = arrays(rng, second, 64, 6, 16)
    if blas.product("float32") is None:
        assert lines.correlate_inputs(dy, w, second) is NotImplemented
        return
    agree(lines.correlate_inputs, dy, w, second, K=400)
    assert lines.correlate_inputs(dy[:2], w, second) is NotImplemented, "too few images"
    assert lines.correlate_inputs(dy.astype("f2"), w.astype("f2"), second) is NotImplemented


def test_a_band_matrix_does_not_spread_what_is_not_finite(rng):
    at = windows("conv2d", (14, 14), (5, 5))
    _, w, _, dy, _ = arrays(rng, at, 64, 6, 16)
    dy[5, 2, 3, 0] = np.nan
    assert lines.correlate_inputs(dy, w, at) is NotImplemented
    dy[5, 2, 3, 0], w[0, 0, 0, 0] = 0, np.inf
    assert lines.correlate_inputs(dy, w, at) is NotImplemented


def test_whose_rows_are_short_enough():
    def of(size, window, **options):
        back = gathering.windows(windows("conv2d", size, window, **options))
        return lines.serves(back, 16, 6, 64)

    assert of((14, 14), (5, 5))
    assert not of((14, 40), (5, 5)), "a row of deltas is longer than a window of several columns"
    for above in (1, 0):
        padding = ((above, 1 - above), (0, 0))
        assert not of((14, 14), (5, 5), padding=padding), "rows of a product would be lost between two images"
    assert gathering.windows(windows("conv2d", (14, 14), (5, 5), stride=2)) is None


def test_columns_that_fill_a_register():
    back = gathering.windows(windows("conv2d", (14, 14), (5, 5)))
    assert [lines.columns_at_once(back, C) for C in (1, 2, 3, 6, 8, 9, 16, 17)] == [14, 7, 2, 2, 2, 1, 1, 1]
