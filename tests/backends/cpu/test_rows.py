"""Convolution by rows on NumPy: the references' numbers, borders that stay 0, and units that no window reads."""

from __future__ import annotations

import numpy as np
import pytest
from cpu_tools import agree, any_layout, arrays, drawn, same_places

from dualnet.backends.cpu import band_matrix, blas, gathering, rows
from dualnet.geometry import windows

pytestmark = pytest.mark.skipif(blas.product("float32") is None, reason="this BLAS has no product that can be called")


@pytest.fixture(params=["1", "2", "3"])
def threads(request, monkeypatch):
    monkeypatch.setenv("DUALNET_THREADS", request.param)


@pytest.mark.parametrize("case", range(30))
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_references_numbers(threads, monkeypatch, rng, case, dtype):
    monkeypatch.setattr(rows, "serves", lambda at, channels, dtype: True)
    monkeypatch.setattr(rows, "BLOCK_BYTES", 3000 if case % 2 else 2**21)
    at, x, w, b, dy, K = drawn(rng, dtype)
    agree(rows.correlate, x, w, b, at, K=K)
    agree(rows.correlate, x, w, b, at, relu=True, K=K)
    agree(rows.correlate, x, w, None, at, K=K)
    agree(rows.correlate_filters, x, dy, at, K=K)
    agree(rows.correlate_inputs, dy, w, at, K=K)  # gathered at stride 1 ...
    monkeypatch.setattr(gathering, "windows", lambda at: None)
    agree(rows.correlate_inputs, dy, w, at, K=K)  # ... and scattered


def test_any_memory_layout(threads, monkeypatch, rng):
    monkeypatch.setattr(rows, "serves", lambda at, channels, dtype: True)
    any_layout(rows, rng)


def test_maps_of_one_padded_shape_and_several_borders(rng):
    """What a kernel keeps between calls must not be taken for another layer's."""
    for top, left, size in [(0, 0, (14, 14)), (2, 2, (10, 10)), (4, 0, (10, 14)), (0, 2, (14, 10)), (1, 3, (10, 10))]:
        pads = ((top, 14 - size[0] - top), (left, 14 - size[1] - left))
        for window, dilation in (((5, 5), 1), ((3, 3), 2), ((5, 1), 1)):
            at = windows("conv2d", size, window, padding=pads, dilation=dilation)
            x, w, _, dy, _ = arrays(rng, at, 9, 24, 24)
            agree(rows.correlate, x, w, None, at, K=600)
            agree(rows.correlate_filters, x, dy, at, K=1000)
            agree(rows.correlate_inputs, dy, w, at, K=600)


def test_rows_do_not_reach_what_no_window_reads(rng):
    """The rows between two windows, and the border, are multiplied by 0, and 0 · ∞ is NaN."""
    at = windows("conv2d", (6, 7), (3, 3), stride=2)  # the last row is read by none
    x, w, _, dy, _ = arrays(rng, at, 16, 32, 6)
    for place in ((0, 5, 6, 0), (0, 4, 3, 0)):
        spoiled = x.copy()
        spoiled[place] = np.inf
        same_places(rows.correlate, spoiled, w, None, at)
        assert rows.correlate_filters(spoiled, dy, at) is NotImplemented
    w[0, 0, 0, 0] = np.inf
    assert rows.correlate_inputs(dy, w, at) is NotImplemented
    dy[2, 1, 1, 3], w[0, 0, 0, 0] = np.inf, 1
    same_places(rows.correlate_inputs, dy, w, at)


def test_long_rows_are_served(rng):
    at = windows("conv2d", (8, 8), (3, 3), padding=1)
    assert rows.serves(at, 8, "float32") and not rows.serves(at, 7, "float32")
    assert not rows.serves(windows("conv2d", (8, 8), (1, 1)), 99, "float32"), "each window is one unit"
    x, w, b, dy, _ = arrays(rng, at, 2, 7, 8)
    assert rows.correlate(x, w, b, at) is rows.correlate_filters(x, dy, at) is NotImplemented
    assert rows.correlate_inputs(dy, w, at) is not NotImplemented, "rows of deltas are long enough"


def test_without_a_blas_to_call_nothing_is_served(monkeypatch, rng):
    at = windows("conv2d", (8, 8), (3, 3), padding=1)
    x, w, b, dy, _ = arrays(rng, at, 2, 16, 16)
    monkeypatch.setattr(blas, "_found", [None])
    assert rows.correlate(x, w, b, at) is rows.correlate_filters(x, dy, at) is NotImplemented
    assert rows.correlate_inputs(dy, w, at) is NotImplemented


def test_narrow_windows_are_gathered_here_only_if_there_is_much_to_do(rng):
    at = windows("conv2d", (16, 16), (5, 5), padding=2)
    x, w, _, dy, _ = arrays(rng, at, 40, 1, 6)
    back = gathering.windows(at)
    assert band_matrix.columns_at_once(back, 6, 1, 8) > 1 and rows.serves(back, 6, "float32")
    assert rows.correlate_inputs(dy, w, at) is not NotImplemented
    assert rows.correlate_inputs(dy[:8], w, at) is NotImplemented
    assert rows.correlate_inputs(dy[:7], w, at) is not NotImplemented, "narrow from 8 images on"


def test_what_is_not_served(rng):
    at = windows("conv2d", (8, 8), (3, 3), padding=1)
    x, w, b, dy, _ = arrays(rng, at, 2, 16, 16)
    assert rows.correlate(x, w, b, at, 2) is rows.correlate_filters(x, dy, at, 2) is NotImplemented  # groups
    assert rows.correlate_inputs(dy, w, at, 2) is NotImplemented
    assert rows.correlate(x.astype("f2"), w.astype("f2"), None, at) is NotImplemented
    assert rows.correlate_filters(x, dy.astype("f8"), at) is rows.correlate_inputs(dy, w.astype("f8"), at)
