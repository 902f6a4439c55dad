"""Convolution of maps with few channels on NumPy: a row of the map times a band matrix.

Where k2·C is small, im2col copies a lot for products too thin for BLAS. A whole row of the map is long enough: with the
row x_i (W·C numbers, as they lie in memory) and for each row m of taps the matrix T_m (W·C, W'·D), which holds
w[m, n, c, d] where output column j meets input column j·s + n·r − p, and 0 elsewhere,

    E4    y_i'   =  Σ_m  x_{i'·s + m·r − p} T_m
    E11   dT_m   =  Σ_i'  x_iᵀ dy_i',    dw[m, n] = the sum of dT_m along the band
    E13   dx_i  +=  dy_i' T_mᵀ

which is a convolution of a map of W·C channels and width 1 along its height alone, and done by the kernels for those.
All the zeros of T_m are multiplied too, W/k2 times the work: still sooner, by measurement, within the limits below.
"""

from __future__ import annotations

from typing import Any

import numpy
from numpy.lib.stride_tricks import as_strided

from dualnet.geometry import Windows

WASTE = 6
"""Up to so many times the work: LeNet-5's first layer (5.6) gains, a 3 × 3 filter on 28 columns (9.3) loses."""
RUN = 10
"""E4 and E11 gain where a window's row has at most so many numbers, k2·C."""
CHANNELS = 8
"""E13 gains where the map has at most so many channels: the deltas' way to few channels is the thinnest product."""
IMAGES = 8
"""From so many images on: the band matrix is made for each call."""


def serves(at: Windows, C: int, images: int) -> bool:
    """Is E4 or E11 sooner by bands?"""
    return at.window[1] * C <= RUN and _worth(at, images)


def serves_inputs(at: Windows, C: int, images: int) -> bool:
    """Is E13 sooner by bands?"""
    return C <= CHANNELS and _worth(at, images)


def _worth(at: Windows, images: int) -> bool:
    return images >= IMAGES and 1 < at.window[1] and at.size[1] <= WASTE * at.window[1]


def along_height(at: Windows) -> Windows:
    """The same windows on a map of width 1."""
    height = (each[0] for each in (at.size, at.window, at.stride, at.dilation, at.grid, at.overhang))
    size, window, stride, dilation, grid, overhang = ((n, 1) for n in height)
    return Windows(size, window, stride, (at.pads[0], (0, 0)), dilation, grid, (overhang[0], 0))


def flattened(maps: numpy.ndarray) -> numpy.ndarray:
    """(N, H, W, C) -> (N, H, 1, W·C)."""
    N, H, W, C = maps.shape
    return maps.reshape(N, H, 1, W * C)


def bands(w: numpy.ndarray, at: Windows) -> numpy.ndarray:
    """T_0 … T_{k1−1}, as a bank (k1, 1, W·C, W'·D)."""
    padded, inside = _empty(at, w.shape[2], w.shape[3], w.dtype)
    _band(padded, at, w.shape[2], w.shape[3])[...] = w[:, :, :, None, :]
    return padded[:, inside][:, None]


def along_bands(dT: numpy.ndarray, at: Windows, C: int, D: int) -> numpy.ndarray:
    """E11: dw (k1, k2, C, D), each weight's sum over the output columns, from dT (k1, 1, W·C, W'·D)."""
    padded, inside = _empty(at, C, D, dT.dtype)
    padded[:, inside] = dT[:, 0]
    return _band(padded, at, C, D).sum(axis=3)


def _empty(at: Windows, C: int, D: int, dtype: Any) -> tuple[numpy.ndarray, slice]:
    """Zeros (k1, (left + W + right)·C, W'·D), and which rows of them are on the map."""
    left, right = at.reach[1]
    padded = numpy.zeros((at.window[0], (left + at.size[1] + right) * C, at.grid[1] * D), dtype)
    return padded, slice(left * C, (left + at.size[1]) * C)


def _band(padded: numpy.ndarray, at: Windows, C: int, D: int) -> numpy.ndarray:
    """The view (k1, k2, C, W', D) of the places of w[m, n, c, d] for each output column."""
    by_tap, by_row, by_number = padded.strides
    shape = (*at.window, C, at.grid[1], D)
    strides = (
        by_tap,
        at.dilation[1] * C * by_row,
        by_row,
        at.stride[1] * C * by_row + D * by_number,
        by_number,
    )
    return as_strided(padded, shape, strides)
