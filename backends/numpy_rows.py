"""Convolution on NumPy by rows: each image is spread out along its width only, and BLAS adds up the rows of taps.

im2col copies every unit k1·k2 times. Here the windows' rows alone are copied (k2 times): for one image

    A[i', j]  =  x̂[i', j·s : j·s + k2]            (rows of the padded map, H', k2·C)

and the windows of tap row m start at row m of A, so that with the k1 parts W_m of the bank (k2·C, D)

    E4    Y    =  Σ_m A[m : m + P] W_m
    E11   dW_m =  Σ_n A[m : m + P]ᵀ dY
    E13   dA[m : m + P] += dY W_mᵀ,   dx = the parts of dA put back where they were copied from

Each term is one BLAS product on memory as it lies, added to what is there. With stride s the rows of A are sorted by
their remainder, so that those of one tap row follow each other; with dilation r tap row m starts r·m rows on.
"""

from __future__ import annotations

from typing import Any

import numpy
from numpy.lib.stride_tricks import as_strided

from dualnet.geometry import Windows

from . import blas, threads


class Rows:
    """How one image's A is laid out: (remainders of the stride, rows, W', k2·C), and where tap row m starts in it."""

    def __init__(self, at: Windows, C: int) -> None:
        (self.H, self.W), (self.P, self.Q), (self.k1, self.k2) = at.size, at.grid, at.window
        (self.s1, self.s2), (self.r1, self.r2) = at.stride, at.dilation
        self.top, self.left = at.reach[0][0], at.reach[1][0]
        self.C, self.K = C, self.k2 * C
        self.height = max(self.P + (m * self.r1) // self.s1 for m in range(self.k1))  # rows of each remainder
        width = (self.Q - 1) * self.s2 + (self.k2 - 1) * self.r2 + 1
        self.padded = (self.s1 * self.height, max(width, self.left + self.W), C)
        self.kept = min(self.H, self.padded[0] - self.top)  # the last rows of a map may be read by no window
        self.shape = (self.s1, self.height, self.Q, self.K)

    def start(self, m: int) -> int:
        """Where tap row m starts in A, in elements."""
        remainder, row = (m * self.r1) % self.s1, (m * self.r1) // self.s1
        return (remainder * self.height + row) * self.Q * self.K

    def spread(self, x: numpy.ndarray) -> numpy.ndarray:
        """A of one image x (H, W, C), in this thread's buffer."""
        padded = threads.zeros("map", self.padded, x.dtype)  # its border stays 0
        padded[self.top : self.top + self.kept, self.left : self.left + self.W] = x[: self.kept]
        by_row, by_col, by_channel = padded.strides
        outer = (by_row, self.s1 * by_row, self.s2 * by_col)
        if self.r2 == 1:  # a window's row lies in one piece
            view = as_strided(padded, self.shape, (*outer, by_channel), writeable=False)
        else:
            shape = (*self.shape[:3], self.k2, self.C)
            view = as_strided(padded, shape, (*outer, self.r2 * by_col, by_channel), writeable=False)
        spread = threads.workspace("rows", self.shape, x.dtype)
        numpy.copyto(spread.reshape(view.shape), view)
        return spread

    def gather(self, spread: numpy.ndarray, dx: numpy.ndarray) -> None:
        """The adjoint of :meth:`spread`: every part of dA is added to the unit it was copied from."""
        padded = threads.workspace("dmap", self.padded, dx.dtype)
        padded[...] = 0
        by_tap = spread.reshape(*self.shape[:3], self.k2, self.C)
        for remainder in range(self.s1):
            rows = padded[remainder :: self.s1]
            for n in range(self.k2):
                first = n * self.r2
                rows[:, first : first + (self.Q - 1) * self.s2 + 1 : self.s2] += by_tap[remainder, :, :, n]
        dx[self.kept :] = 0
        dx[: self.kept] = padded[self.top : self.top + self.kept, self.left : self.left + self.W]


def serves(at: Windows, C: int, D: int, dtype: Any) -> bool:
    """Is there a BLAS to call, and is there enough to do for each of its calls? (Each costs Python some 10 µs.)"""
    long, enough = at.window[1] * C >= 32, at.grid[0] * at.grid[1] * at.taps * C * D >= 2**20
    return at.window != (1, 1) and long and enough and blas.product(dtype) is not None


def correlate(x: numpy.ndarray, w: numpy.ndarray, b: numpy.ndarray | None, at: Windows, relu: bool) -> numpy.ndarray:
    """E4, E6 (and E7 with ``relu``, while the image is still in the cache)."""
    (N, _, _, C), D = x.shape, w.shape[3]
    rows, gemm, size = Rows(at, C), blas.product(x.dtype), x.itemsize
    bank = numpy.ascontiguousarray(w)
    M, K, starts = rows.P * rows.Q, rows.K, [rows.start(m) * size for m in range(rows.k1)]
    y = numpy.empty((N, *at.grid, D), x.dtype)
    from_w, to_y = bank.ctypes.data, y.ctypes.data

    def work(worker: int, n: int) -> None:
        a, c = rows.spread(x[n]).ctypes.data, to_y + n * M * D * size
        if b is not None:
            y[n] = b  # E4
        for m, start in enumerate(starts):  # E4  Y += A_m W_m
            beta = 0.0 if b is None and m == 0 else 1.0
            gemm(False, False, M, D, K, a + start, K, from_w + m * K * D * size, D, beta, c, D)
        if relu:
            numpy.maximum(y[n], 0, out=y[n])  # E7

    threads.share(range(N), work)
    return y


def correlate_filters(x: numpy.ndarray, dy: numpy.ndarray, at: Windows) -> numpy.ndarray:
    """E11: each worker adds up its own images, and the workers' sums are added in their order."""
    (N, _, _, C), D = x.shape, dy.shape[3]
    rows, gemm, size = Rows(at, C), blas.product(x.dtype), x.itemsize
    dy = numpy.ascontiguousarray(dy)
    M, K, starts = rows.P * rows.Q, rows.K, [rows.start(m) * size for m in range(rows.k1)]
    sums = numpy.zeros((threads.workers(N), rows.k1, K, D), x.dtype)
    from_dy, to_dw = dy.ctypes.data, sums.ctypes.data

    def work(worker: int, n: int) -> None:
        a, delta, c = rows.spread(x[n]).ctypes.data, from_dy + n * M * D * size, to_dw + worker * sums[0].nbytes
        for m, start in enumerate(starts):  # E11  dW_m += A_mᵀ dY
            gemm(True, False, K, D, M, a + start, K, delta, D, 1.0, c + m * K * D * size, D)

    threads.share(range(N), work)
    return sums.sum(axis=0).reshape(*at.window, C, D)


def correlate_inputs(dy: numpy.ndarray, w: numpy.ndarray, at: Windows) -> numpy.ndarray:
    """E13."""
    (N, _, _, D), C = dy.shape, w.shape[2]
    rows, gemm, size = Rows(at, C), blas.product(dy.dtype), dy.itemsize
    dy, bank = numpy.ascontiguousarray(dy), numpy.ascontiguousarray(w)
    M, K, starts = rows.P * rows.Q, rows.K, [rows.start(m) * size for m in range(rows.k1)]
    dx = numpy.empty((N, *at.size, C), dy.dtype)
    from_dy, from_w = dy.ctypes.data, bank.ctypes.data

    def work(worker: int, n: int) -> None:
        spread = threads.workspace("rows", rows.shape, dy.dtype)
        spread[...] = 0
        a, delta = spread.ctypes.data, from_dy + n * M * D * size
        for m, start in enumerate(starts):  # E13  dA_m += dY W_mᵀ
            gemm(False, True, M, K, D, delta, D, from_w + m * K * D * size, D, 1.0, a + start, K)
        rows.gather(spread, dx[n])

    threads.share(range(N), work)
    return dx
