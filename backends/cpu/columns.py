"""Kernels for NumPy: the same numbers as the references they stand in for (within τ), sooner.

Every kernel cuts the batch into blocks whose columns stay in the L2 cache, and shares the blocks out among threads.
What else pays, by measurement (docs/performance.md):

- columns are copied in runs of k2·C elements through one strided view, instead of tap by tap; where the runs would be
  short (few channels) the matrix is built transposed, in runs of W' elements
- dx at stride 1 gathers: the deltas are correlated with the rotated bank, which writes every unit once (E13 as the
  article has it), where the column form would add k1·k2 times
- buffers for columns and padded maps are kept by each thread
"""

from __future__ import annotations

import functools
from typing import Any

import numpy
from numpy.lib.stride_tricks import as_strided

from dualnet.geometry import Windows

from . import bands as numpy_bands
from . import blas, threads
from . import passes as numpy_passes
from . import rows as numpy_rows
from . import winograd as numpy_winograd
from . import winograd_rows as numpy_winograd_rows

BLOCK_BYTES = 2**20
"""Columns of one block: half of a common L2 cache."""
LEAST_BYTES = 2**17
"""Columns of the smallest block: waking a thread takes as long as filling these."""
FEW = 8
"""Up to so many channels, columns are built transposed if W' makes longer runs."""
SMALL = 2**16
"""Below so many elements, an element-wise pass is not worth sharing out."""

Block = tuple[slice, slice, slice, Windows]


def correlate(
    x: numpy.ndarray, w: numpy.ndarray, b: numpy.ndarray | None, at: Windows, groups: int = 1, relu: bool = False
) -> Any:
    """E4, E6 (and E7 with ``relu``, while the block is still in the cache)."""
    if not _served(x, w, groups):
        return NotImplemented
    if x.shape[0] * at.grid[0] * at.grid[1] * at.taps * x.shape[3] * w.shape[3] < numpy_passes.PRODUCT:
        return _correlate_at_once(x, w, b, at, relu)
    if numpy_winograd.serves(at, x.shape[3], w.shape[3], x.shape[0]):
        y = _winograd(x.shape[3], w.shape[3]).correlate(x, w, b, at, relu)
        if y is not NotImplemented:
            return y
    if (q := numpy_bands.at_once(at, x.shape[3], w.shape[3], x.shape[0])) > 1 and numpy_passes.finite(x):
        T, biases = numpy_bands.bank(w, at, q), None if b is None else numpy.tile(b, q)
        return _by_columns(x, T, biases, numpy_bands.windows(at, q), relu).reshape(x.shape[0], *at.grid, w.shape[3])
    if numpy_rows.serves(at, x.shape[3], w.shape[3], x.dtype):
        return numpy_rows.correlate(x, w, b, at, relu)
    return _by_columns(x, w, b, at, relu)


def _by_columns(x: numpy.ndarray, w: numpy.ndarray, b: numpy.ndarray | None, at: Windows, relu: bool) -> numpy.ndarray:
    """E4, E6 (and E7), each block's columns in the cache."""
    (N, _, _, C), D = x.shape, w.shape[3]
    bank = numpy.ascontiguousarray(w).reshape(-1, D)  # (k1·k2·C, D)
    y = numpy.empty((N, *at.grid, D), x.dtype)
    biases = None if b is None else numpy.tile(b, at.grid[1])  # of a row of the map: NumPy's inner loop is a long one

    def work(worker: int, block: Block) -> None:
        images, rows, inside, part = block
        target = y[images, rows]
        direct = target.flags.c_contiguous
        out = target.reshape(-1, D) if direct else threads.workspace("y", (target.size // D, D), x.dtype)
        numpy.matmul(columns(x[images, inside], part), bank, out=out)  # E4  Y = X W
        if biases is not None:
            numpy.add(by_row := out.reshape(-1, biases.size), biases, out=by_row)  # E4
        if relu:
            numpy.maximum(out, 0, out=out)  # E7
        if not direct:
            target[...] = out.reshape(target.shape)

    threads.parallel_for(_blocks(at, N, C, x.itemsize), work)
    return y


def _correlate_at_once(
    x: numpy.ndarray, w: numpy.ndarray, b: numpy.ndarray | None, at: Windows, relu: bool
) -> numpy.ndarray:
    """E4, E6, E7 for so little (one image of a small network) that blocks and threads take longer than the work."""
    y = numpy.empty((x.shape[0], *at.grid, w.shape[3]), x.dtype)
    out = y.reshape(-1, w.shape[3])
    with blas.held():
        numpy.matmul(columns(x, at), w.reshape(-1, w.shape[3]), out=out)  # E4  Y = X W
    if b is not None:
        out += b  # E4
    if relu:
        numpy.maximum(out, 0, out=out)  # E7
    return y


def parameter_gradients(x: numpy.ndarray, dy: numpy.ndarray, at: Windows, groups: int, biased: bool) -> Any:
    """E11, and E12 where its sums come with it."""
    if not _served(x, dy, groups) or not numpy_winograd.serves(at, x.shape[3], dy.shape[3], x.shape[0]):
        return NotImplemented
    return _winograd(x.shape[3], dy.shape[3]).parameter_gradients(x, dy, at, biased)


def correlate_filters(x: numpy.ndarray, dy: numpy.ndarray, at: Windows, groups: int = 1) -> Any:
    """E11."""
    if not _served(x, dy, groups):
        return NotImplemented
    if numpy_winograd.serves(at, x.shape[3], dy.shape[3], x.shape[0]):
        found = _winograd(x.shape[3], dy.shape[3]).parameter_gradients(x, dy, at, biased=False)
        if found is not NotImplemented:
            return found[0]
    if (q := numpy_bands.at_once(at, x.shape[3], dy.shape[3], x.shape[0])) > 1:
        wide = numpy_bands.windows(at, q)
        dT = _filters_by_columns(x, dy.reshape(dy.shape[0], *wide.grid, q * dy.shape[3]), wide)
        return numpy_bands.along_band(dT, at, q)
    if numpy_rows.serves(at, x.shape[3], dy.shape[3], x.dtype):
        dw = numpy_rows.correlate_filters(x, dy, at)
        if numpy_passes.finite(dw):  # else it may be 0 · ∞ of a unit that no window reads
            return dw
    return _filters_by_columns(x, dy, at)


def _filters_by_columns(x: numpy.ndarray, dy: numpy.ndarray, at: Windows) -> numpy.ndarray:
    """E11: each portion of the blocks is added up, and the portions' sums in their order."""
    (N, _, _, C), D, K = x.shape, dy.shape[3], at.taps * x.shape[3]
    portions = threads.portions(_blocks(at, N, C, x.itemsize))
    sums = numpy.zeros((len(portions), K, D), x.dtype)

    def work(worker: int, portion: int) -> None:
        for images, rows, inside, part in portions[portion]:
            deltas = numpy.ascontiguousarray(dy[images, rows]).reshape(-1, D)
            product = threads.workspace("dw", (K, D), x.dtype)
            numpy.matmul(columns(x[images, inside], part).T, deltas, out=product)  # E11  dW = Xᵀ dY
            sums[portion] += product

    threads.parallel_for(range(len(portions)), work)
    return sums.sum(axis=0).reshape(*at.window, C, D)


def correlate_inputs(dy: numpy.ndarray, w: numpy.ndarray, at: Windows, groups: int = 1) -> Any:
    """E13: as a correlation with the rotated bank where that reads less than col2im would add, else by columns."""
    if not _served(dy, w, groups):
        return NotImplemented
    if not numpy_passes.finite(w):
        return _scattered(dy, w, at)  # the others multiply a border of 0 by w too, and 0 · ∞ is NaN
    back = _gathered(at)
    if back is not None and numpy_winograd.serves(back, w.shape[3], w.shape[2], dy.shape[0]):
        turned = w[::-1, ::-1].transpose(0, 1, 3, 2)  # rot180(w), channels and filters exchanged
        dx = _winograd(*turned.shape[2:]).correlate(dy, turned, None, back, relu=False)
        if dx is not NotImplemented:
            return dx
    if back is not None and numpy_bands.at_once(back, w.shape[3], w.shape[2], dy.shape[0]) > 1:
        return correlate(dy, w[::-1, ::-1].transpose(0, 1, 3, 2), None, back)
    if back is not None and numpy_rows.serves(back, w.shape[3], w.shape[2], dy.dtype):
        return numpy_rows.correlate(dy, w[::-1, ::-1].transpose(0, 1, 3, 2), None, back, relu=False)
    if numpy_rows.serves(at, w.shape[2], w.shape[3], dy.dtype):
        return numpy_rows.correlate_inputs(dy, w, at)
    gathered, scattered = at.size[0] * at.size[1] * w.shape[3], at.grid[0] * at.grid[1] * w.shape[2]
    if back is not None and gathered <= 2 * scattered:
        turned = w[::-1, ::-1].transpose(0, 1, 3, 2)  # rot180(w), channels and filters exchanged
        return correlate(dy, turned, None, back)
    return _scattered(dy, w, at)


def _gathered(at: Windows) -> Windows | None:
    """E13 as a full correlation of the deltas, for stride 1: where its windows stand on the map of deltas."""
    reach = [r * (k - 1) for r, k in zip(at.dilation, at.window)]
    if at.stride != (1, 1) or any(before > e or after > e for (before, after), e in zip(at.reach, reach)):
        return None
    pads = tuple((e - before, n + before - p) for e, n, p, (before, _) in zip(reach, at.size, at.grid, at.reach))
    return Windows(at.grid, at.window, (1, 1), pads, at.dilation, at.size)  # type: ignore[arg-type]


def _scattered(dy: numpy.ndarray, w: numpy.ndarray, at: Windows) -> numpy.ndarray:
    """E13 by columns: dX = dY Wᵀ, and col2im in two steps: rows of taps first, in long runs, then their columns."""
    (N, P, Q, D), C, (H, W), (k1, k2) = dy.shape, w.shape[2], at.size, at.window
    (top, bottom), (left, right) = at.reach
    (s1, s2), (r1, r2) = at.stride, at.dilation
    banks = numpy.ascontiguousarray(w.reshape(k1, k2 * C, D).transpose(0, 2, 1))  # W_mᵀ (k1, D, k2·C)
    dx = numpy.empty((N, H, W, C), dy.dtype)
    step = max(1, min(BLOCK_BYTES // max(1, P * Q * at.taps * C * dy.itemsize), -(-N // threads.count())))

    def work(worker: int, first: int) -> None:
        deltas = numpy.ascontiguousarray(dy[first : first + step]).reshape(-1, D)
        n = len(deltas) // (P * Q)
        product = threads.workspace("columns", (n, P, Q, k2 * C), dy.dtype)
        spread = threads.workspace("rows", (n, top + H + bottom, Q, k2 * C), dy.dtype)
        spread[...] = 0
        for m in range(k1):
            numpy.matmul(deltas, banks[m], out=product.reshape(-1, k2 * C))  # E13  dX = dY Wᵀ, a row of taps at a time
            spread[:, m * r1 : m * r1 + (P - 1) * s1 + 1 : s1] += product
        padded = threads.workspace("padded", (n, top + H + bottom, left + W + right, C), dy.dtype)
        padded[...] = 0
        by_tap = spread.reshape(n, top + H + bottom, Q, k2, C)
        for m in range(k2):
            padded[:, :, m * r2 : m * r2 + (Q - 1) * s2 + 1 : s2] += by_tap[:, :, :, m]
        dx[first : first + step] = padded[:, top : top + H, left : left + W]

    threads.parallel_for(range(0, N, step), work)
    return dx


def columns(x: numpy.ndarray, at: Windows) -> numpy.ndarray:
    """im2col into this thread's buffer: (n, H, W, C) -> (n·H'·W', k1·k2·C), which may be a transposed view."""
    (n, _, _, C), (P, Q), (k1, k2) = x.shape, at.grid, at.window
    if at.window == at.stride == (1, 1) and at.reach == ((0, 0), (0, 0)):
        return x.reshape(-1, C)
    x = _padded(x, at)
    (s1, s2), (r1, r2) = at.stride, at.dilation
    by_image, by_row, by_col, by_channel = x.strides
    if _transposed(at, C):
        out = threads.workspace("columns", (k1 * k2 * C, n * P * Q), x.dtype)
        strides = (r1 * by_row, r2 * by_col, by_channel, by_image, s1 * by_row, s2 * by_col)
        numpy.copyto(out.reshape(k1, k2, C, n, P, Q), strided(x, (k1, k2, C, n, P, Q), strides))
        return out.T
    out = threads.workspace("columns", (n * P * Q, k1 * k2 * C), x.dtype)
    outer = (by_image, s1 * by_row, s2 * by_col, r1 * by_row)
    if r2 == 1 and by_col == C * by_channel:  # a window's row lies in one piece
        view = strided(x, (n, P, Q, k1, k2 * C), (*outer, by_channel))
    else:
        view = strided(x, (n, P, Q, k1, k2, C), (*outer, r2 * by_col, by_channel))
    numpy.copyto(out.reshape(view.shape), view)
    return out


def strided(x: numpy.ndarray, shape: tuple[int, ...], strides: tuple[int, ...]) -> numpy.ndarray:
    """A view of x to be read: as ``as_strided``, in a tenth of the time where x is contiguous."""
    if x.flags.c_contiguous:
        return numpy.ndarray(shape, x.dtype, x, 0, strides)
    return as_strided(x, shape, strides, writeable=False)


def _padded(x: numpy.ndarray, at: Windows) -> numpy.ndarray:
    (n, H, W, C), ((top, bottom), (left, right)) = x.shape, at.reach
    if at.reach == ((0, 0), (0, 0)):
        return x
    padded = threads.workspace("padded", (n, top + H + bottom, left + W + right, C), x.dtype)
    padded[:, :top] = padded[:, top + H :] = 0
    padded[:, top : top + H, :left] = padded[:, top : top + H, left + W :] = 0
    padded[:, top : top + H, left : left + W] = x
    return padded


def _transposed(at: Windows, C: int) -> bool:
    return C <= FEW and at.window[1] * C < at.grid[1]


def _winograd(C: int, D: int) -> Any:
    """In both directions, or for few channels along the height."""
    return numpy_winograd_rows if numpy_winograd_rows.serves(C, D) else numpy_winograd


def _served(x: numpy.ndarray, other: numpy.ndarray, groups: int) -> bool:
    return groups == 1 and x.dtype == other.dtype and x.dtype in (numpy.float32, numpy.float64)


def _blocks(at: Windows, batch: int, C: int, itemsize: int) -> list[Block]:
    """Blocks of the batch, at least one for each thread where there is enough to do."""
    whole = batch * at.grid[0] * at.grid[1] * at.taps * C * itemsize
    most = min(BLOCK_BYTES, max(LEAST_BYTES, -(-whole // threads.count())))
    return _cut(at, batch, at.taps * C * itemsize, most)


@functools.lru_cache(maxsize=256)
def _cut(at: Windows, batch: int, bytes_per_position: int, most: int) -> list[Block]:
    return list(at.blocks(batch, bytes_per_position, most))


KERNELS = {kernel.__name__: kernel for kernel in (correlate, correlate_filters, correlate_inputs, parameter_gradients)}
