"""Convolution of maps with few channels on NumPy: several output columns at a time, by a band matrix.

The band matrix T (band_matrix.py) is a wider bank at a larger stride; the columns of its windows are made and
multiplied as for any other bank (columns.py).
"""

from __future__ import annotations

from typing import Any

import numpy

from dualnet.geometry import Windows

from . import columns, gathering
from .band_matrix import along_band, bank, columns_at_once, windows
from .guards import few, finite, served

ALGORITHM = "numpy bands"


def correlate(
    x: numpy.ndarray, w: numpy.ndarray, b: numpy.ndarray | None, at: Windows, groups: int = 1, relu: bool = False
) -> Any:
    """E4, E6 (and E7 with ``relu``), for finite maps: beside the band T holds zeros, and 0 · ∞ is NaN."""
    q = columns_at_once(at, x.shape[3], w.shape[3], x.shape[0])
    if q == 1 or not served(x, w, groups) or not finite(x):
        return NotImplemented
    return _multiply(x, w, b, at, relu, q)


def correlate_filters(x: numpy.ndarray, dy: numpy.ndarray, at: Windows, groups: int = 1) -> Any:
    """E11."""
    q = columns_at_once(at, x.shape[3], dy.shape[3], x.shape[0])
    if q == 1 or not served(x, dy, groups):
        return NotImplemented
    wide = windows(at, q)
    dT = columns.filters(x, dy.reshape(dy.shape[0], *wide.grid, q * dy.shape[3]), wide)
    return along_band(dT, at, q)


def correlate_inputs(dy: numpy.ndarray, w: numpy.ndarray, at: Windows, groups: int = 1) -> Any:
    """E13, gathered, for finite deltas and enough of them."""
    (N, _, _, D), C, back = dy.shape, w.shape[2], gathering.windows(at)
    q = 1 if back is None else columns_at_once(back, D, C, N)
    if back is None or q == 1 or few(back, N, D, C) or not served(dy, w, groups) or not finite(w) or not finite(dy):
        return NotImplemented
    return _multiply(dy, gathering.turned(w), None, back, False, q)


def _multiply(
    x: numpy.ndarray, w: numpy.ndarray, b: numpy.ndarray | None, at: Windows, relu: bool, q: int
) -> numpy.ndarray:
    """E4 with T, q columns at a time."""
    T, biases = bank(w, at, q), None if b is None else numpy.concatenate([b] * q)
    return columns.multiply(x, T, biases, windows(at, q), relu).reshape(x.shape[0], *at.grid, w.shape[3])
