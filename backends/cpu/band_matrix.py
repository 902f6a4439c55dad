"""Band matrices: a bank of filters for several output columns at a time.

With few channels and filters, the rows of a window are too short to copy quickly, and the products too thin for BLAS.
So q neighbouring columns are computed at a time. They read one window of (q − 1)·s + k2 columns, and their matrix T
holds

    T[m, j·s + n, c, j·D + d]  =  w[m, n, c, d]        for the columns j = 0 … q − 1, and 0 elsewhere

E4 and E11 with T are those of a convolution with stride q·s and q·D filters, on the same maps:

    E4    y, seen as (N, H', W'/q, q·D), is x ∗ T
    E11   dw[m, n]  =  the sum of dT along the band

The zeros of T are multiplied too, up to some three times the work, and it is still faster. But 0 · ∞ is NaN, so E4 with
T is for finite maps only. E11 reads dT along the band alone, where there are no such zeros.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy

from dualnet.geometry import Windows

from . import tracing

FILTERS = 16
"""NumPy's kernels compute several columns at a time up to this many filters, ..."""
RUN = 80
"""... up to this many numbers in a row of the window, k2·C, ..."""
IMAGES = 8
"""... and from this many images on, since T is made for each call."""
LANES = 16
PRODUCTS, COPIED, STARTED = 85.0, 0.3, 8.0
"""The cost of a window, by measurement: products per ns (with filters in whole lanes), ns for each number that is
copied, and ns for each row of the window."""


def columns_at_once(at: Windows, C: int, D: int, images: int) -> int:
    """How many columns q NumPy's kernels compute at a time; 1 if a plain bank is as good."""
    if images < IMAGES or D > FILTERS or at.window[1] * C > RUN or at.dilation[1] != 1:
        return 1
    return _best(at, C, D)


@functools.lru_cache(maxsize=256)
def _best(at: Windows, C: int, D: int) -> int:
    (k1, _), Q = at.window, at.grid[1]

    def cost(q: int) -> float:
        K, lanes = k1 * _width(at, q) * C, -(-q * D // LANES) * LANES
        return (K * lanes / PRODUCTS + K * COPIED + k1 * STARTED) / q

    return min((q for q in range(1, Q + 1) if Q % q == 0), key=cost, default=1)


def _width(at: Windows, q: int) -> int:
    return (q - 1) * at.stride[1] + at.window[1]


@functools.lru_cache(maxsize=256)
def windows(at: Windows, q: int) -> Windows:
    """The windows of q columns each."""
    (k1, _), (s1, s2), (P, Q) = at.window, at.stride, at.grid
    return Windows(at.size, (k1, _width(at, q)), (s1, q * s2), at.pads, at.dilation, (P, Q // q), at.overhang)


def bank(w: numpy.ndarray, at: Windows, q: int) -> numpy.ndarray:
    """T, as a bank (k1, (q − 1)·s + k2, C, q·D)."""
    k1, _, C, D = w.shape
    T = numpy.zeros((k1, _width(at, q), C, q * D), w.dtype)
    _band(T, at, q)[...] = w[:, :, :, None, :]
    return T


def along_band(dT: numpy.ndarray, at: Windows, q: int) -> numpy.ndarray:
    """E11: dw (k1, k2, C, D), each weight's sum over the q columns."""
    return _band(numpy.ascontiguousarray(dT), at, q).sum(axis=3)


def _band(T: numpy.ndarray, at: Windows, q: int) -> Any:
    """A view (k1, k2, C, q, D): the places of w[m, n, c, d] for each column."""
    by_row, by_col, by_channel, by_filter = T.strides
    D = T.shape[3] // q
    shape = (*at.window, T.shape[2], q, D)
    strides = (by_row, by_col, by_channel, at.stride[1] * by_col + D * by_filter, by_filter)
    return tracing.laid_out(T, shape, strides)
