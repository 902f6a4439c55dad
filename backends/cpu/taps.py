"""Convolution of small maps with many filters on NumPy: tap by tap, each thread with its own filters.

On such layers the bank is larger than the maps. Other kernels share out the images, so every thread reads the whole
bank, or adds up sums as large as dw. Here every number of the bank, and of dw, is read or written once:

    E4    Y[:, D_j]   =  Σ_mn  X_mn W_mn[:, D_j]
    E11   dW_mn[C_j]  =  (X_mn[:, C_j])ᵀ dY
    E13   dX[:, C_j]  =  Σ_mn  dY_mn W_mn[C_j]ᵀ          at stride 1

X_mn (N·H'·W', C) holds the units that tap (m, n) meets on the whole batch, dY_mn those that it meets on the map of
deltas (gathering.py); C_j and D_j are some of the channels and filters.
"""

from __future__ import annotations

from typing import Any

import numpy

from dualnet.geometry import Windows

from . import blas, gathering, threads
from .guards import finite, served
from .im2col import padded

ALGORITHM = "numpy taps"
FILTERS = 128
"""Columns of one product, in E4 and E13."""
CHANNELS = 256
"""Rows of one product in E11, where nothing else is copied for each of them."""


def correlate(
    x: numpy.ndarray, w: numpy.ndarray, b: numpy.ndarray | None, at: Windows, groups: int = 1, relu: bool = False
) -> Any:
    """E4, E6 (and E7 with ``relu``)."""
    if blas.product(x.dtype) is None or not served(x, w, groups):
        return NotImplemented
    y = numpy.empty((x.shape[0], *at.grid, w.shape[3]), x.dtype)
    bank = numpy.ascontiguousarray(w)
    _add_up(x, at, bank.reshape(at.taps, *w.shape[2:]), y, False)
    if b is not None:
        numpy.add(y, b, out=y)  # E4
    return numpy.maximum(y, 0, out=y) if relu else y  # E7


def correlate_inputs(dy: numpy.ndarray, w: numpy.ndarray, at: Windows, groups: int = 1) -> Any:
    """E13, gathered."""
    back = gathering.windows(at)
    if back is None or blas.product(dy.dtype) is None or not served(dy, w, groups) or not finite(w):
        return NotImplemented
    dx = numpy.empty((dy.shape[0], *at.size, w.shape[2]), dy.dtype)
    bank = numpy.ascontiguousarray(w).reshape(at.taps, *w.shape[2:])
    _add_up(dy, back, bank[::-1], dx, True)  # rot180(w), channels and filters exchanged
    return dx


def _add_up(x: numpy.ndarray, at: Windows, bank: numpy.ndarray, y: numpy.ndarray, turned: bool) -> None:
    """y (N, H', W', B) = Σ X_t bank_t, for a bank (taps, A, B), or (taps, B, A) if it is ``turned``."""
    gemm, size, maps, taps = blas.product(x.dtype), x.itemsize, padded(x, at), list(at.slices())
    M, K, B, row = y.size // y.shape[3], x.shape[3], y.shape[3], bank.shape[2]
    to_y, from_bank = y.ctypes.data, bank.ctypes.data

    def work(worker: int, first: int) -> None:
        number = min(FILTERS, B - first)
        met = threads.workspace("columns", (x.shape[0], *at.grid, K), x.dtype)
        start = from_bank + first * (row if turned else 1) * size
        for tap, (rows, cols) in enumerate(taps):
            numpy.copyto(met, maps[:, rows, cols])
            from_tap, beta = start + tap * bank.strides[0], float(tap > 0)
            gemm(
                False, turned, M, number, K, met.ctypes.data, K, from_tap, row, beta, to_y + first * size, B
            )  # E4, E13

    threads.parallel_for(range(0, B, FILTERS), work)


def correlate_filters(x: numpy.ndarray, dy: numpy.ndarray, at: Windows, groups: int = 1) -> Any:
    """E11, with one product over the whole batch for each tap."""
    if not served(x, dy, groups):
        return NotImplemented
    (N, _, _, C), D, (P, Q) = x.shape, dy.shape[3], at.grid
    maps, deltas = padded(x, at), numpy.ascontiguousarray(dy).reshape(-1, D)
    dw = numpy.empty((*at.window, C, D), x.dtype)
    taps = [(*divmod(tap, at.window[1]), *place) for tap, place in enumerate(at.slices())]
    items = [(*tap, slice(first, min(first + CHANNELS, C))) for tap in taps for first in range(0, C, CHANNELS)]

    def work(worker: int, item: Any) -> None:
        m, n, rows, cols, channels = item
        met = maps[:, rows, cols, channels]  # (N, H', W', some of C)
        copy = threads.workspace("columns", met.shape, x.dtype)
        numpy.copyto(copy, met)
        met = copy.reshape(N * P * Q, met.shape[3])
        numpy.matmul(met.T, deltas, out=dw[m, n, channels])  # E11  dW_mn = X_mnᵀ dY

    threads.parallel_for(items, work)
    return dw
