"""The band matrix: E4 and E11 of several columns at a time, and where measurements show that it pays."""

from __future__ import annotations

import numpy as np
import pytest
from cpu_tools import REFERENCES, drawn
from oracles import error, tau

from dualnet.backends.cpu import band_matrix
from dualnet.geometry import windows


@pytest.mark.parametrize("case", range(20))
def test_the_formulas_hold_for_every_number_of_columns(rng, case):
    at, x, w, _, dy, K = drawn(rng, "float64")
    if at.dilation[1] != 1:
        at = windows("t", at.size, at.window, stride=at.stride, padding=at.pads, dilation=(at.dilation[0], 1))
        dy = rng.standard_normal((len(x), *at.grid, w.shape[3]))
    y, dw = REFERENCES["correlate"](x, w, None, at), REFERENCES["correlate_filters"](x, dy, at)
    for q in (q for q in range(1, at.grid[1] + 1) if at.grid[1] % q == 0):
        wide = band_matrix.windows(at, q)
        T = band_matrix.bank(w, at, q)
        assert T.shape == (*wide.window, w.shape[2], q * w.shape[3])
        assert np.count_nonzero(T) == q * np.count_nonzero(w), "0 beside the band"
        got = REFERENCES["correlate"](x, T, None, wide)
        assert error(got.reshape(y.shape), y) <= tau("float64", K)
        dT = REFERENCES["correlate_filters"](x, dy.reshape(len(x), *wide.grid, q * dy.shape[3]), wide)
        assert error(band_matrix.along_band(dT, at, q), dw) <= tau("float64", K)


def test_the_sum_along_the_band_is_the_adjoint_of_the_band(rng):
    at = windows("t", (6, 12), (3, 2), stride=(1, 2))
    w = rng.standard_normal((3, 2, 4, 5))
    T = band_matrix.bank(w, at, 3)
    dT = rng.standard_normal(T.shape)
    assert (T * dT).sum() == pytest.approx((w * band_matrix.along_band(dT, at, 3)).sum(), rel=1e-12)
    assert np.array_equal(band_matrix.along_band(np.asfortranarray(dT), at, 3), band_matrix.along_band(dT, at, 3))


def test_several_columns_at_a_time_where_that_was_measured_to_pay():
    first, inner = windows("conv2d", (28, 28), (5, 5), padding=2), windows("conv2d", (14, 14), (5, 5))
    assert band_matrix.columns_at_once(first, 1, 6, 64) == 14 and band_matrix.columns_at_once(first, 1, 6, 1) == 1
    assert band_matrix.columns_at_once(inner, 6, 16, 64) in (2, 5)
    assert band_matrix.columns_at_once(inner, 60, 16, 64) == 1, "long rows"
    assert band_matrix.columns_at_once(inner, 6, 17, 64) == 1, "many filters"
    assert band_matrix.columns_at_once(windows("conv2d", (32, 32), (3, 3), padding=1), 3, 32, 64) == 1
    apart = windows("conv2d", (28, 28), (5, 5), padding=2, dilation=(1, 2))
    assert band_matrix.columns_at_once(apart, 1, 6, 64) == 1
