"""im2col for NumPy's kernels: the windows of a block of images as one matrix, in a buffer that stays in the cache.

What makes it fast, by measurement (docs/performance.md):

- a batch is cut into blocks whose columns fit in the L2 cache
- columns are copied in runs of k2·C elements through one strided view, not tap by tap; where the runs would be short
  (few channels), the matrix is built transposed, in runs of W' elements
- each thread keeps its buffers for columns and padded maps
"""

from __future__ import annotations

import functools

import numpy
from numpy.lib.stride_tricks import as_strided

from dualnet.geometry import Windows

from . import threads, tracing

BLOCK_BYTES = 2**20
"""Columns of one block: half of a common L2 cache."""
LEAST_BYTES = 2**17
"""Columns of the smallest block: filling these takes as long as waking a thread."""
FEW = 8
"""Up to this many channels, columns are built transposed if W' makes longer runs."""

Block = tuple[slice, slice, slice, Windows]


def blocks(at: Windows, batch: int, C: int, itemsize: int) -> list[Block]:
    """Blocks of the batch, at least one for each thread if there is enough to do."""
    whole = batch * at.grid[0] * at.grid[1] * at.taps * C * itemsize
    most = min(BLOCK_BYTES, max(LEAST_BYTES, -(-whole // threads.worth(whole))))
    return _cut(at, batch, at.taps * C * itemsize, most)


@functools.lru_cache(maxsize=256)
def _cut(at: Windows, batch: int, bytes_per_position: int, most: int) -> list[Block]:
    return list(at.blocks(batch, bytes_per_position, most))


def columns(x: numpy.ndarray, at: Windows) -> numpy.ndarray:
    """im2col into this thread's buffer: (n, H, W, C) -> (n·H'·W', k1·k2·C), which may be a transposed view."""
    (n, _, _, C), (P, Q), (k1, k2) = x.shape, at.grid, at.window
    if at.window == at.stride == (1, 1) and at.reach == ((0, 0), (0, 0)):
        return x.reshape(-1, C)
    x = padded(x, at)
    (s1, s2), (r1, r2) = at.stride, at.dilation
    by_image, by_row, by_col, by_channel = x.strides
    if _transposed(at, C):
        out = threads.workspace("columns", (k1 * k2 * C, n * P * Q), x.dtype)
        strides = (r1 * by_row, r2 * by_col, by_channel, by_image, s1 * by_row, s2 * by_col)
        numpy.copyto(out.reshape(k1, k2, C, n, P, Q), strided(x, (k1, k2, C, n, P, Q), strides))
        return out.T
    out = threads.workspace("columns", (n * P * Q, k1 * k2 * C), x.dtype)
    outer = (by_image, s1 * by_row, s2 * by_col, r1 * by_row)
    if r2 == 1 and by_col == C * by_channel:  # a window's row is in one piece
        view = strided(x, (n, P, Q, k1, k2 * C), (*outer, by_channel))
    else:
        view = strided(x, (n, P, Q, k1, k2, C), (*outer, r2 * by_col, by_channel))
    numpy.copyto(out.reshape(view.shape), view)
    return out


def strided(x: numpy.ndarray, shape: tuple[int, ...], strides: tuple[int, ...]) -> numpy.ndarray:
    """A view of x to read from: what ``as_strided`` makes, in a tenth of the time if x is contiguous."""
    if x.flags.c_contiguous:
        return tracing.laid_out(x, shape, strides)
    return as_strided(x, shape, strides, writeable=False)


def padded(x: numpy.ndarray, at: Windows) -> numpy.ndarray:
    """The maps with zeros around them, in this thread's buffer: (n, H, W, C) -> (n, top + H + bottom, …, C)."""
    (n, H, W, C), ((top, bottom), (left, right)) = x.shape, at.reach
    if at.reach == ((0, 0), (0, 0)):
        return x
    larger = threads.workspace("padded", (n, top + H + bottom, left + W + right, C), x.dtype)
    larger[:, :top] = larger[:, top + H :] = 0
    larger[:, top : top + H, :left] = larger[:, top : top + H, left + W :] = 0
    larger[:, top : top + H, left : left + W] = x
    return larger


def _transposed(at: Windows, C: int) -> bool:
    return C <= FEW and at.window[1] * C < at.grid[1]
