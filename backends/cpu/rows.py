"""Convolution on NumPy by rows: maps are spread out along their width only, and BLAS adds up the rows of taps.

im2col copies every unit k1·k2 times. Here only the rows of the windows are copied, k2 times:

    A[n, i', j]  =  x̂[n, i', j·s : j·s + k2]          (n images, rows of the padded map, H', k2·C)

and the windows of tap row m start m rows further down in A. So, with W_m (k2·C, D) the k1 parts of the bank, and A↓m
the rows of A from the m-th on,

    E4    Y    =  Σ_m  A↓m W_m
    E11   dW_m =  (A↓m)ᵀ dY
    E13   dA↓m += dY W_mᵀ,   dx = the parts of dA added up where they were copied from

Each term is one BLAS product for a whole block of images, added to its output; nothing is copied for it. Between two
images the product has a few meaningless rows: Y skips them, and in dY they are 0. With stride s the rows of A are
sorted by their remainder, so that those of one tap row follow each other. With dilation r, m becomes r·m.
"""

from __future__ import annotations

from typing import Any

import numpy
from numpy.lib.stride_tricks import as_strided

from dualnet.geometry import Windows

from . import blas, gathering, threads, tracing
from .guards import few, finite, served

ALGORITHM = "numpy rows"
BLOCK_BYTES = 2**21
"""A of one block of images: as large as a common L2 cache, so that the interpreter's lock changes hands less often."""
LONG = 24
"""Rows of taps, k2·C numbers, are worth a BLAS product of their own from this length on."""


class Rows:
    """How A is laid out for blocks of n images: (remainders of the stride, n, rows, W', k2·C)."""

    def __init__(self, at: Windows, C: int, images: int, itemsize: int) -> None:
        (self.H, self.W), (self.P, self.Q), (self.k1, self.k2) = at.size, at.grid, at.window
        (self.s1, self.s2), (self.r1, self.r2) = at.stride, at.dilation
        self.top, self.left = at.reach[0][0], at.reach[1][0]
        self.C, self.K = C, self.k2 * C
        self.height = self.P + (self.k1 - 1) * self.r1 // self.s1  # rows of each remainder, for one image
        width = (self.Q - 1) * self.s2 + (self.k2 - 1) * self.r2 + 1
        self.padded = (self.s1 * self.height, max(width, self.left + self.W), C)
        self.kept = min(self.H, self.padded[0] - self.top)  # perhaps no window reads a map's last rows
        bytes_per_image = self.s1 * self.height * self.Q * self.K * itemsize
        team = threads.worth(images * bytes_per_image)
        self.n = max(1, min(BLOCK_BYTES // bytes_per_image, -(-images // team)))
        self.blocks = [slice(i, min(i + self.n, images)) for i in range(0, images, self.n)]

    def lines(self, n: int) -> int:
        """Rows of every product for n images: the last image's end with its last output row."""
        return ((n - 1) * self.height + self.P) * self.Q

    def start(self, m: int) -> int:
        """Where A↓m starts, in elements."""
        remainder, row = (m * self.r1) % self.s1, (m * self.r1) // self.s1
        return (remainder * self.n * self.height + row) * self.Q * self.K

    def spread(self, x: numpy.ndarray) -> numpy.ndarray:
        """A of a block x (n, H, W, C), in this thread's buffer."""
        n = len(x)
        inside = (self.top, self.kept, self.left, self.W)
        padded = threads.zeros("maps", (self.n, *self.padded), x.dtype, inside)[:n]  # the border stays 0
        padded[:, self.top : self.top + self.kept, self.left : self.left + self.W] = x[:, : self.kept]
        by_image, by_row, by_col, by_channel = padded.strides
        outer = (by_row, by_image, self.s1 * by_row, self.s2 * by_col)
        shape = (self.s1, n, self.height, self.Q)
        spread = self.buffer(x.dtype)
        if self.r2 == 1:  # a window's row is in one piece
            view = as_strided(padded, (*shape, self.K), (*outer, by_channel), writeable=False)
            numpy.copyto(spread[:, :n], view)
        else:
            strides = (*outer, self.r2 * by_col, by_channel)
            view = as_strided(padded, (*shape, self.k2, self.C), strides, writeable=False)
            numpy.copyto(spread.reshape(self.s1, self.n, self.height, self.Q, self.k2, self.C)[:, :n], view)
        return spread

    def buffer(self, dtype: Any) -> numpy.ndarray:
        """This thread's memory for A."""
        return threads.workspace("rows", (self.s1, self.n, self.height, self.Q, self.K), dtype)

    def deltas(self, dy: numpy.ndarray) -> numpy.ndarray:
        """dY of a block with rows of 0 between the images, (n, rows, W', D), in this thread's buffer."""
        spaced = threads.zeros("deltas", (self.n, self.height, self.Q, dy.shape[3]), dy.dtype, (self.P,))
        spaced[: len(dy), : self.P] = dy
        return spaced

    def gather(self, spread: numpy.ndarray, dx: numpy.ndarray) -> None:
        """The adjoint of :meth:`spread`: every part of dA is added to the unit it was copied from."""
        n = len(dx)
        padded = threads.workspace("dmaps", (n, *self.padded), dx.dtype)
        padded[...] = 0
        by_tap = spread.reshape(self.s1, self.n, self.height, self.Q, self.k2, self.C)
        for remainder in range(self.s1):
            rows = padded[:, remainder :: self.s1]
            for m in range(self.k2):
                first = m * self.r2
                rows[:, :, first : first + (self.Q - 1) * self.s2 + 1 : self.s2] += by_tap[remainder, :n, :, :, m]
        dx[:, self.kept :] = 0
        dx[:, : self.kept] = padded[:, self.top : self.top + self.kept, self.left : self.left + self.W]


def serves(at: Windows, channels: int, dtype: Any) -> bool:
    """Is there a BLAS to call, and are the rows of taps long enough?"""
    return at.window != (1, 1) and at.window[1] * channels >= LONG and blas.product(dtype) is not None


def correlate(
    x: numpy.ndarray, w: numpy.ndarray, b: numpy.ndarray | None, at: Windows, groups: int = 1, relu: bool = False
) -> Any:
    """E4, E6 (and E7 with ``relu``, while the block is still in the cache)."""
    if not serves(at, x.shape[3], x.dtype) or not served(x, w, groups):
        return NotImplemented
    return _multiply(x, w, b, at, relu)


def _multiply(x: numpy.ndarray, w: numpy.ndarray, b: numpy.ndarray | None, at: Windows, relu: bool) -> numpy.ndarray:
    (N, _, _, C), D, size = x.shape, w.shape[3], x.itemsize
    rows, gemm, bank = Rows(at, C, N, size), blas.product(x.dtype), numpy.ascontiguousarray(w)
    tracing.kept(bank)
    K, starts, from_w = rows.K, [rows.start(m) * size for m in range(rows.k1)], bank.ctypes.data
    y = numpy.empty((N, *at.grid, D), x.dtype)

    def work(worker: int, block: slice) -> None:
        images, out = x[block], y[block]
        spaced = threads.workspace("y", (rows.n, rows.height, rows.Q, D), x.dtype)
        a, c, M = rows.spread(images).ctypes.data, spaced.ctypes.data, rows.lines(len(images))
        for m, start in enumerate(starts):  # E4  Y += A↓m W_m
            gemm(False, False, M, D, K, a + start, K, from_w + m * K * D * size, D, float(m > 0), c, D)
        found = spaced[: len(images), : rows.P]
        if b is not None:
            numpy.add(found, b, out=out)  # E4
            found = out
        if relu:
            numpy.maximum(found, 0, out=out)  # E7
        elif b is None:
            numpy.copyto(out, found)

    threads.parallel_for(rows.blocks, work)
    return y


def correlate_filters(x: numpy.ndarray, dy: numpy.ndarray, at: Windows, groups: int = 1) -> Any:
    """E11, if it is finite: otherwise the cause may be 0 · ∞ of a unit that no window reads."""
    if not serves(at, x.shape[3], x.dtype) or not served(x, dy, groups):
        return NotImplemented
    dw = _filters(x, dy, at)
    return dw if finite(dw) else NotImplemented


def _filters(x: numpy.ndarray, dy: numpy.ndarray, at: Windows) -> numpy.ndarray:
    """Each portion of the blocks is added up, then the portions' sums, in order."""
    (N, _, _, C), D, size = x.shape, dy.shape[3], x.itemsize
    rows, gemm = Rows(at, C, N, size), blas.product(x.dtype)
    K, starts = rows.K, [rows.start(m) * size for m in range(rows.k1)]
    portions = threads.portions(rows.blocks)
    sums = numpy.zeros((len(portions), rows.k1, K, D), x.dtype)
    to_dw = sums.ctypes.data

    def work(worker: int, portion: int) -> None:
        for block in portions[portion]:
            images, c = x[block], to_dw + portion * sums[0].nbytes
            a, deltas = rows.spread(images).ctypes.data, rows.deltas(dy[block]).ctypes.data
            for m, start in enumerate(starts):  # E11  dW_m += (A↓m)ᵀ dY
                gemm(True, False, K, D, rows.lines(len(images)), a + start, K, deltas, D, 1.0, c + m * K * D * size, D)

    threads.parallel_for(range(len(portions)), work)
    return sums.sum(axis=0).reshape(*at.window, C, D)


def correlate_inputs(dy: numpy.ndarray, w: numpy.ndarray, at: Windows, groups: int = 1) -> Any:
    """E13 for a finite w: gathered if the rows of deltas are long enough, else scattered into long rows of dx.

    A border of 0 is multiplied by w, and 0 · ∞ is NaN. Windows so narrow that several columns pay (band_matrix.py) are
    never scattered, and not gathered here if there is little to do.
    """
    (N, _, _, D), C = dy.shape, w.shape[2]
    reads, adds = serves(at, D, dy.dtype), serves(at, C, dy.dtype)
    if not (reads or adds) or not served(dy, w, groups):
        return NotImplemented
    back = gathering.windows(at)
    narrow = back is not None and gathering.narrow(back, C, D, N)
    if back is not None and reads and not (narrow and few(back, N, D, C)):
        return _multiply(dy, gathering.turned(w), None, back, relu=False) if finite(w) else NotImplemented
    if adds and not narrow:
        return _scatter(dy, w, at) if finite(w) else NotImplemented
    return NotImplemented


def _scatter(dy: numpy.ndarray, w: numpy.ndarray, at: Windows) -> numpy.ndarray:
    (N, _, _, D), C, size = dy.shape, w.shape[2], dy.itemsize
    rows, gemm, bank = Rows(at, C, N, size), blas.product(dy.dtype), numpy.ascontiguousarray(w)
    tracing.kept(bank)
    K, starts, from_w = rows.K, [rows.start(m) * size for m in range(rows.k1)], bank.ctypes.data
    dx = numpy.empty((N, *at.size, C), dy.dtype)

    def work(worker: int, block: slice) -> None:
        deltas, spread = rows.deltas(dy[block]).ctypes.data, rows.buffer(dy.dtype)
        spread[...] = 0
        a, M = spread.ctypes.data, rows.lines(len(dx[block]))
        for m, start in enumerate(starts):  # E13  dA↓m += dY W_mᵀ
            gemm(False, True, M, K, D, deltas, D, from_w + m * K * D * size, D, 1.0, a + start, K)
        rows.gather(spread, dx[block])

    threads.parallel_for(rows.blocks, work)
    return dx
