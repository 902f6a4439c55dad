"""Passes over memory on NumPy: ReLU, dropout, sums over channels, batch norm, max pooling.

Each is a few short operations on a block that stays in the cache, and the blocks are shared out among threads.
Channels are few, so NumPy's inner loops would be short if it broadcast (C,) against (N, H, W, C). Instead maps are seen
as rows of W·C numbers, and the vector is repeated W times. Sums are products with a row of ones; the sums of the blocks
are added up in float64.
"""

from __future__ import annotations

import math
from typing import Any

import numpy

from dualnet.geometry import Windows

from . import threads
from .guards import FLOATS

BLOCK = 2**18
"""Elements of one block: a megabyte in float32, half of a common L2 cache. With smaller ones two threads take as long
as one: between any two NumPy calls they wait for the interpreter's lock."""
SMALL = 2**15
"""With fewer elements than this, one NumPy pass beats blocks."""
SHARED = 2**18
"""From this many elements on, it pays to wake a thread, which takes some 50 µs."""
USUAL = 1e-16, 1e16
"""Between these s², the 1/s³ of batch norm's backward pass has all its digits in float32."""


def served(*arrays: numpy.ndarray) -> bool:
    """Large, C-contiguous and of one dtype, float32 or float64."""
    first = arrays[0]
    return (
        first.size >= SMALL
        and first.dtype in FLOATS
        and all(a.flags.c_contiguous and a.dtype == first.dtype for a in arrays)
    )


# -- E7, E14: ReLU -----------------------------------------------------------------------------------------------------


def rectify(x: numpy.ndarray) -> Any:
    """E7: max(0, x)."""
    if not served(x):
        return NotImplemented
    y = numpy.empty_like(x)
    flat_x, flat_y = x.reshape(-1), y.reshape(-1)

    def work(worker: int, part: slice) -> None:
        numpy.maximum(flat_x[part], 0, out=flat_y[part])

    threads.parallel_for(_parts(x.size), work, alone=x.size < SHARED)
    return y


def rectify_backward(dy: numpy.ndarray, y: numpy.ndarray) -> Any:
    """E14: dy where y > 0, else 0."""
    if dy.dtype not in FLOATS or dy.dtype != y.dtype or dy.shape != y.shape:
        return NotImplemented
    if not served(dy, y):
        return _kept(dy, y > 0)
    dx = numpy.empty_like(dy)
    flat_dy, flat_y, flat_dx = dy.reshape(-1), y.reshape(-1), dx.reshape(-1)

    def work(worker: int, part: slice) -> None:
        active = threads.workspace("active", (flat_y[part].size,), bool)
        numpy.greater(flat_y[part], 0, out=active)
        _kept(flat_dy[part], active, out=flat_dx[part])

    threads.parallel_for(_parts(dy.size), work, alone=dy.size < SHARED)
    return dx


def _kept(x: numpy.ndarray, active: numpy.ndarray, out: numpy.ndarray | None = None) -> numpy.ndarray:
    """x where active, else 0, also if x is NaN or ∞: its bits times 1 or 0, ten times as fast as ``where``."""
    bits = numpy.dtype(f"i{x.dtype.itemsize}")
    kept = numpy.multiply(x.view(bits), active, out=None if out is None else out.view(bits))
    return kept.view(x.dtype)


# -- E7, E14: dropout --------------------------------------------------------------------------------------------------


def masked(x: numpy.ndarray, mask: numpy.ndarray, scale: float) -> Any:
    """x · scale where the mask is 1, else 0."""
    if x.dtype not in FLOATS or mask.dtype != bool:
        return NotImplemented
    y = _kept(x, mask)
    y *= scale
    return y


def add(x: numpy.ndarray, other: numpy.ndarray, relu: bool = False) -> Any:
    """x + other, and E7 with ``relu``."""
    if x.shape != other.shape or not served(x, other):
        return NotImplemented
    y = numpy.empty_like(x)
    flat_x, flat_other, flat_y = x.reshape(-1), other.reshape(-1), y.reshape(-1)

    def work(worker: int, part: slice) -> None:
        out = numpy.add(flat_x[part], flat_other[part], out=flat_y[part])
        if relu:
            numpy.maximum(out, 0, out=out)  # E7

    threads.parallel_for(_parts(x.size), work, alone=x.size < SHARED)
    return y


# -- sums and batch norm -----------------------------------------------------------------------------------------------


def channel_sum(x: numpy.ndarray) -> Any:
    """E12 and others: (N, ..., C) -> (C,)."""
    if x.ndim == 2 and x.dtype in FLOATS:
        return x.sum(axis=0)  # the reference's numbers; it sums one axis at a time
    if x.ndim < 3 or not served(x):
        return NotImplemented
    return _channel_sums(x).astype(x.dtype)


def channel_moments(x: numpy.ndarray) -> Any:
    """Mean and biased variance of every channel, reading x once: (N, ..., C) -> (C,), (C,).

    Each block's own mean and squares come from the two passes of the formula, while it is in the cache. They are then
    combined in float64, after Chan, Golub and LeVeque (1979).
    """
    if x.ndim < 3 or not served(x):
        return NotImplemented
    rows, C = _rows(x), x.shape[-1]
    parts = _parts(len(rows), rows.shape[1])
    means, squares = (numpy.empty((len(parts), rows.shape[1])) for _ in range(2))
    lengths = numpy.array([[part.stop - part.start] for part in parts], numpy.float64)

    def work(worker: int, number: int) -> None:
        block = rows[parts[number]]
        ones = numpy.full(len(block), 1, x.dtype)
        with numpy.errstate(over="ignore", invalid="ignore"):  # the op finds it in the variance
            mean = (ones @ block) / x.dtype.type(len(block))
            off = numpy.subtract(block, mean, out=threads.workspace("off", block.shape, x.dtype))
            means[number], squares[number] = mean, ones @ numpy.multiply(off, off, out=off)

    threads.parallel_for(range(len(parts)), work, alone=x.size < SHARED)
    n = x.size // C
    with numpy.errstate(over="ignore", invalid="ignore"):
        mean = _by_channel((means * lengths).sum(axis=0), C) / n
        squares += lengths * (means - numpy.tile(mean, rows.shape[1] // C)) ** 2
        variance = _by_channel(squares.sum(axis=0), C) / n
        return mean.astype(x.dtype), variance.astype(x.dtype)


def normalise(
    x: numpy.ndarray,
    mean: numpy.ndarray,
    variance: numpy.ndarray,
    gamma: numpy.ndarray,
    beta: numpy.ndarray,
    epsilon: float,
    relu: bool = False,
) -> Any:
    """y = γ (x − μ) / s + β as (γ/s) x + (β − μ γ/s), and E7 with ``relu``."""
    if x.ndim < 3 or not served(x):
        return NotImplemented
    y = numpy.empty_like(x)
    rows_x, rows_y, width = _rows(x), _rows(y), x.shape[-2]
    scale = gamma / numpy.sqrt(variance + epsilon)
    scale, shift = numpy.tile(scale, width), numpy.tile(beta - mean * scale, width)

    def work(worker: int, part: slice) -> None:
        out = numpy.multiply(rows_x[part], scale, out=rows_y[part])
        out += shift
        if relu:
            numpy.maximum(out, 0, out=out)  # E7

    threads.parallel_for(_parts(len(rows_x), rows_x.shape[1]), work, alone=x.size < SHARED)
    return y


def normalise_backward(
    dy: numpy.ndarray,
    x: numpy.ndarray,
    mean: numpy.ndarray,
    variance: numpy.ndarray,
    gamma: numpy.ndarray,
    epsilon: float,
    y: numpy.ndarray | None = None,
    beta: numpy.ndarray | None = None,
) -> Any:
    """The backward pass of batch norm; if y is given, first that of the ReLU that followed (E14). Returns dx, dγ,
    dβ."""
    if x.ndim < 3 or not served(x, dy) or y is not None and not served(x, y):
        return NotImplemented
    if not usual(variance, epsilon):
        return NotImplemented
    n, width, C = x.size // x.shape[-1], x.shape[-2], x.shape[-1]
    inverse = 1 / numpy.sqrt(variance + epsilon)  # 1/s
    dx = numpy.empty_like(x)
    rows_dx, rows_x = _rows(dx), _rows(x)
    rows_dy, rows_y = _rows(dy), None if y is None else _rows(y)
    parts = _parts(len(rows_x), rows_x.shape[1])
    sums = numpy.zeros((2, len(parts), rows_x.shape[1]))

    def add_up(worker: int, number: int) -> None:
        part = parts[number]
        deltas, block = rows_dy[part], rows_x[part]
        if rows_y is not None:
            active = numpy.greater(rows_y[part], 0, out=threads.workspace("active", block.shape, bool))
            deltas = _kept(deltas, active, out=rows_dx[part])  # E14
        ones = numpy.ones(len(block), x.dtype)
        with numpy.errstate(over="ignore", invalid="ignore"):  # the op finds it in dγ and dβ
            sums[0, number] = ones @ deltas
            sums[1, number] = ones @ numpy.multiply(block, deltas, out=threads.workspace("off", block.shape, x.dtype))

    threads.parallel_for(range(len(parts)), add_up, alone=x.size < SHARED)
    dbeta, products = (_by_channel(each.sum(axis=0), C) for each in sums)  # E12  Σ dy;  Σ dy x
    if not (numpy.isfinite(dbeta).all() and numpy.isfinite(products).all()):
        return NotImplemented
    products -= mean * dbeta  # Σ dy (x − μ)
    scale = gamma * inverse  # dx̂ = γ dy, and 1/s
    through = -scale * inverse * inverse * products / n  # through the variance, times x − μ
    shift = -scale * dbeta / n - through * mean  # through the mean
    scale, through, shift = (numpy.tile(v.astype(x.dtype, copy=False), width) for v in (scale, through, shift))

    def spread(worker: int, part: slice) -> None:
        out = rows_dx[part]
        off = numpy.multiply(rows_x[part], through, out=threads.workspace("off", out.shape, x.dtype))
        numpy.multiply(rows_dy[part] if rows_y is None else out, scale, out=out)  # directly
        out += off
        out += shift

    threads.parallel_for(parts, spread, alone=x.size < SHARED)
    with numpy.errstate(over="ignore"):
        return dx, (products * inverse).astype(x.dtype), dbeta.astype(x.dtype)  # Σ dy x̂


def usual(variance: numpy.ndarray, epsilon: float) -> bool:
    """Is s² = σ² + ε of a size whose powers are still finite numbers?"""
    return bool(((USUAL[0] <= variance + epsilon) & (variance <= USUAL[1])).all())


def _channel_sums(x: numpy.ndarray) -> numpy.ndarray:
    """Σ over all axes but the channels', in float64: a product with ones for each block, then the sum of the blocks."""
    rows = _rows(x)
    parts = _parts(len(rows), rows.shape[1])
    sums = numpy.empty((len(parts), rows.shape[1]))

    def work(worker: int, number: int) -> None:
        block = rows[parts[number]]
        sums[number] = numpy.full(len(block), 1, x.dtype) @ block

    threads.parallel_for(range(len(parts)), work, alone=x.size < 4 * SHARED)  # one short operation
    return _by_channel(sums.sum(axis=0), x.shape[-1])


def _by_channel(sums: numpy.ndarray, C: int) -> numpy.ndarray:
    """(W·C,) -> (C,)."""
    return sums.reshape(-1, C).sum(axis=0)


def _rows(x: numpy.ndarray) -> numpy.ndarray:
    """(N, ..., W, C) -> (N·…, W·C)."""
    return x.reshape(-1, x.shape[-2] * x.shape[-1])


# -- E8, E15: max pooling ----------------------------------------------------------------------------------------------


def max_pool(x: numpy.ndarray, at: Windows) -> Any:
    """E8: the largest unit of every window and its tap, for maps without padding."""
    if at.reach != ((0, 0), (0, 0)) or at.taps > 256 or not served(x):
        return NotImplemented
    N, C = x.shape[0], x.shape[3]
    y = numpy.empty((N, *at.grid, C), x.dtype)
    winners = numpy.empty(y.shape, numpy.uint8)
    slices = list(at.slices())

    def work(worker: int, part: slice) -> None:
        take(x[part], y[part], winners[part], larger)
        largest = y[part].max()
        if largest != largest:  # a NaN: no comparison finds it larger, but it has to win
            take(x[part], y[part], winners[part], larger_or_nan)

    def take(images: numpy.ndarray, best: numpy.ndarray, won: numpy.ndarray, wins: Any) -> None:
        units = threads.workspace("units", best.shape, x.dtype)
        hit = threads.workspace("hit", best.shape, bool)
        taps = threads.workspace("taps", best.shape, numpy.uint8)
        for tap, (rows, cols) in enumerate(slices):
            if tap == 0:
                numpy.copyto(best, images[:, rows, cols])
                won[...] = 0
                continue
            numpy.copyto(units, images[:, rows, cols])
            wins(units, best, hit)
            numpy.maximum(best, units, out=best)
            numpy.multiply(hit.view(numpy.uint8), tap, out=taps, casting="unsafe")
            numpy.maximum(won, taps, out=won)

    def larger(units: numpy.ndarray, best: numpy.ndarray, hit: numpy.ndarray) -> None:
        numpy.greater(units, best, out=hit)  # E8  larger, not equal: ties stay with the first

    def larger_or_nan(units: numpy.ndarray, best: numpy.ndarray, hit: numpy.ndarray) -> None:
        numpy.less_equal(units, best, out=hit)
        numpy.logical_not(hit, out=hit)
        numpy.logical_and(hit, best == best, out=hit)  # the first NaN stays

    threads.parallel_for(_parts(N, math.prod(y.shape[1:]) * 2), work, alone=x.size < SHARED)
    return y, winners


def largest(x: numpy.ndarray, at: Windows) -> Any:
    """E8: the largest unit of every window, for maps without padding.

    Rows first, in runs of W·C numbers: then half of the short runs are left, of C, for windows of 2 × 2.
    """
    if at.reach != ((0, 0), (0, 0)) or at.taps == 1 or x.dtype not in FLOATS:
        return NotImplemented
    slices, across = list(at.slices()), at.window[1]
    y = _largest([x[:, rows] for rows, _ in slices[::across]])
    return numpy.ascontiguousarray(_largest([y[:, :, columns] for _, columns in slices[:across]]))


def _largest(parts: list[numpy.ndarray]) -> numpy.ndarray:
    """Unit by unit."""
    if len(parts) == 1:
        return parts[0]
    y = numpy.maximum(parts[0], parts[1])
    for part in parts[2:]:
        numpy.maximum(y, part, out=y)
    return y


def max_unpool(dy: numpy.ndarray, winners: numpy.ndarray, at: Windows) -> Any:
    """E15: the whole delta goes to the winning unit, if windows do not overlap and maps are not padded."""
    apart = at.stride[0] >= at.window[0] and at.stride[1] >= at.window[1] and at.dilation == (1, 1)
    if at.reach != ((0, 0), (0, 0)) or not apart or at.taps > 256 or dy.dtype not in FLOATS:
        return NotImplemented
    if not (dy.flags.c_contiguous and winners.flags.c_contiguous):
        return NotImplemented
    (H, W), (P, Q), (s1, s2) = at.size, at.grid, at.stride
    tiled = at.stride == at.window and (H, W) == (P * s1, Q * s2)
    dx = (numpy.empty if tiled else numpy.zeros)((dy.shape[0], H, W, dy.shape[3]), dy.dtype)
    bits = numpy.dtype(f"i{dy.itemsize}")  # the bits of dy times 0 or 1: exact, also for NaN and Inf
    slices = list(at.slices())

    def work(worker: int, part: slice) -> None:
        deltas, won, out = dy[part].view(bits), winners[part], dx[part].view(bits)
        hit = threads.workspace("hit", won.shape, bool)
        for tap, (rows, cols) in enumerate(slices):
            numpy.equal(won, tap, out=hit)
            numpy.multiply(deltas, hit, out=out[:, rows, cols])  # E15

    threads.parallel_for(_parts(len(dy), math.prod(dy.shape[1:]) * 2), work, alone=dx.size < SHARED)
    return dx


# -- sharing out -------------------------------------------------------------------------------------------------------


def _parts(length: int, width: int = 1) -> list[slice]:
    """Slices of at most BLOCK elements, at least one for each thread that is worth waking."""
    step = max(1, min(BLOCK // max(1, width), -(-length // threads.worth(4 * length * width))))
    return [slice(i, min(i + step, length)) for i in range(0, length, step)]
