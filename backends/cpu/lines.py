"""E13 of few channels on NumPy: from rows of deltas as they lie in memory, by a band matrix.

bands.py computes several columns of dx at a time, from windows that it copies first. Where such a window is no shorter
than a row of deltas, there is nothing to copy, and no border to multiply: q columns of dx read a run of dY's columns,
which lies in one piece. With T_m, the rows of the band matrix (band_matrix.py) of tap row m that meet this run,

    E13   q columns of dx  =  Σ_m  dY↓m T_m       dY↓m: the run's rows, with rows of 0 between the images, from m on

and each term is one BLAS product for a whole block of images, added to its output. It serves stride 1 without padding
above and below: then the zero rows above an image also serve as those below the previous image, so no row of a product
is wasted.
"""

from __future__ import annotations

from typing import Any

import numpy

from dualnet.geometry import Windows

from . import band_matrix, blas, gathering, threads, tracing
from .guards import few, finite, served

ALGORITHM = "numpy lines"


def correlate_inputs(dy: numpy.ndarray, w: numpy.ndarray, at: Windows, groups: int = 1) -> Any:
    """E13 for finite deltas and filters, and enough of them: beside the band stand zeros, and 0 · ∞ is NaN."""
    (N, _, _, D), C, back = dy.shape, w.shape[2], gathering.windows(at)
    if back is None or blas.product(dy.dtype) is None or not serves(back, D, C, N):
        return NotImplemented
    if few(back, N, D, C) or not served(dy, w, groups) or not finite(w) or not finite(dy):
        return NotImplemented
    return _multiply(dy, gathering.turned(w), back, columns_at_once(back, C))


def serves(back: Windows, D: int, C: int, images: int) -> bool:
    """Is a row of deltas no longer than a window of the columns that bands.py would take?"""
    q = band_matrix.columns_at_once(back, D, C, images)
    wide = band_matrix.windows(back, q).window[1]
    (top, _), _ = back.reach
    padded = top != (back.window[0] - 1) * back.dilation[0] or back.grid[0] != back.size[0] + top
    return 1 < back.size[1] <= wide and q > 1 and not padded


def columns_at_once(back: Windows, C: int) -> int:
    """As many columns of dx as fill a vector register, or at least one: more of them multiply more zeros.

    LeNet-5's second layer takes 1.0 ms on one thread by one or two columns, 1.15 by seven, 1.3 by all fourteen.
    """
    return max(q for q in range(1, max(2, band_matrix.LANES // C + 1)) if back.grid[1] % q == 0)


def _multiply(x: numpy.ndarray, w: numpy.ndarray, at: Windows, q: int) -> numpy.ndarray:
    """E4 of x (N, H, W, C), q columns of y (N, H', W', D) at a time."""
    (N, H, W, C), D, size, gemm = x.shape, w.shape[3], x.itemsize, blas.product(x.dtype)
    (k1, _), (P, Q), ((top, _), (left, _)) = at.window, at.grid, at.reach
    T = band_matrix.bank(w, at, q)  # (k1, columns of a window, C, q·D)
    tracing.kept(T)
    from_T, width, by_column = T.ctypes.data, T.shape[1], C * q * D * size
    y = numpy.empty((N, P, Q, D), x.dtype)
    n = -(-N // threads.worth(x.nbytes + y.nbytes))

    def work(worker: int, block: slice) -> None:
        images, out = x[block], y[block].ctypes.data
        spaced = threads.zeros("lines", (n + 1, P, W, C), x.dtype, (top, H))
        spaced[: len(images), top : top + H] = images
        a, M = spaced.ctypes.data, len(images) * P
        for column in range(0, Q, q):
            first, end = max(0, column - left), min(W, column - left + width)  # the columns of x that are read
            c = out + column * D * size
            for m in range(k1):  # E13  dX += dY↓m T_m
                run = a + (m * at.dilation[0] * W + first) * C * size
                band = from_T + (m * width + first - column + left) * by_column
                gemm(False, False, M, q * D, (end - first) * C, run, W * C, band, q * D, float(m > 0), c, Q * D)

    threads.parallel_for([slice(i, min(i + n, N)) for i in range(0, N, n)], work)
    return y
