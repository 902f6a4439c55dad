"""Kernels of oneDNN for NumPy arrays: the same numbers as the references they stand in for (within τ), sooner.

Convolution, pooling and the dense product are here, the passes over memory beside, in ``onednn_passes``.

float32 only; results do not depend on the calling thread, and are the same from run to run with the same number of
threads. Activations and filters are described to oneDNN as they lie in memory, so they are not copied; filters
alone are put into the order that the library prefers, on each call, since training changes them (what that takes grows
with the filters, not with the batch).

Not served (``NotImplemented``, so that the next kernel or the reference runs): other dtypes, empty arrays, shapes for
which oneDNN has plain loops only, pooling with dilation, and max pooling of maps with NaN or infinities, which oneDNN
would pass over.
"""

from __future__ import annotations

import math
from typing import Any

import numpy

from dualnet.geometry import Windows

from ..cpu import bands as numpy_bands
from ..cpu import passes as numpy_passes
from ..cpu import winograd as numpy_winograd
from . import passes as onednn_passes
from . import plans as onednn
from .library import Refused, ints
from .passes import AVG_ON_MAP, FLOAT32, RELU, flat, float32
from .plans import Plan

DIRECT = 1
MAX, AVG_WITH_PADDING = 0x1FF, 0x2FF

PRODUCTS_ALONE = 2**22
"""Below so many multiplications (0.1 ms) a convolution is not worth waking another thread, which may have to wait."""
PRODUCT = 2**21
"""Below so many multiplications BLAS on one thread is done first."""
LANES, THIN, WIDE, IMAGES = 16, 8, 12, 8
"""Filters of a vector register; up to so many channels, from so wide a map and so many images on, band matrices pay."""
SUMMED = 2**16
"""From so many deltas on their sums take a tenth of the time that they take together with the filters' gradients."""
MANY_RESULTS, LARGEST = 2**18, 1e70
"""From so many results on a look at the arguments pays, whose squares may multiply to this: float32 ends at (10³⁸)²."""
MANY, LARGE = 9 * 2**14, 2**8
"""From so many weights (3 × 3 filters from 128 to 128 channels), on maps of 16 × 16, Winograd is sooner done."""


# -- convolution -------------------------------------------------------------------------------------------------------


def correlate(
    x: numpy.ndarray, w: numpy.ndarray, b: numpy.ndarray | None, at: Windows, groups: int = 1, relu: bool = False
) -> Any:
    """E4, E6 (and E7 with ``relu``)."""
    if not float32(x, w) or b is not None and b.dtype != FLOAT32:
        return NotImplemented
    if w.size >= MANY and _left_to_winograd(at, w, x.shape[0], groups):
        return NotImplemented
    if groups == 1 and (q := columns_at_once(at, x.shape[3], w.shape[3], x.shape[0])) > 1 and numpy_passes.finite(x):
        return _by_bands(x, w, b, at, relu, q)
    behind = _relu(x, w, b, at) if relu else ()
    run = onednn.plan(_correlate, x.shape, w.shape, None if b is None else b.shape, at, groups, behind)
    if run is None:
        return NotImplemented
    y = numpy.empty((x.shape[0], *at.grid, w.shape[3]), FLOAT32)
    if b is None:
        run(flat(x), flat(w), y)
    else:
        run(flat(x), flat(w), flat(b), y)
    return y


def _relu(x: numpy.ndarray, w: numpy.ndarray, b: numpy.ndarray | None, at: Windows) -> tuple[Any, ...]:
    """How E7 follows: as the library has it where no NaN can be. VGG-6's first layer takes 0.6 of the time.

    None can be if arguments are finite and not huge: |y| ≤ ‖x‖ ‖w‖ + ‖b‖, in every part of the sum (Cauchy, Schwarz).
    """
    if x.shape[0] * at.grid[0] * at.grid[1] * w.shape[3] < MANY_RESULTS or x.shape[3] > w.shape[3]:
        return RELU
    squares = [0.0 if array is None else numpy_passes.squares(array) for array in (x, w, b)]
    return onednn_passes.MAX_0 if squares[0] * squares[1] < LARGEST and squares[2] < LARGEST else RELU


def columns_at_once(at: Windows, C: int, D: int, images: int) -> int:
    """How many columns fill a register with their filters (see :mod:`numpy_bands`); 1 where plain filters do as well.

    LeNet-5's first layer, of six filters, takes 0.6 times as long with two columns, and its dw half as long.
    """
    Q = at.grid[1]
    if not 0 < D <= LANES // 2 or C > THIN or Q < WIDE or images < IMAGES or at.stride[1] != 1 or at.dilation[1] != 1:
        return 1
    return max(q for q in range(1, LANES // D + 1) if Q % q == 0)


def _by_bands(x: numpy.ndarray, w: numpy.ndarray, b: numpy.ndarray | None, at: Windows, relu: bool, q: int) -> Any:
    """E4, E7, q columns at a time."""
    if w.shape != (*at.window, x.shape[3], w.shape[3]) or b is not None and b.shape != (w.shape[3],):
        return NotImplemented
    T, biases = numpy_bands.bank(w, at, q), None if b is None else numpy.concatenate([b] * q)
    y = correlate(x, T, biases, numpy_bands.windows(at, q), 1, relu)
    return y if y is NotImplemented else y.reshape(x.shape[0], *at.grid, w.shape[3])


def _left_to_winograd(at: Windows, w: numpy.ndarray, images: int, groups: int) -> bool:
    """With many channels on large maps NumPy's kernel, with a third of the multiplications, is done sooner."""
    (P, Q), (_, _, C, D) = at.grid, w.shape
    return groups == 1 and P * Q >= LARGE and numpy_winograd.serves(at, C, D, images)


def _correlate(plan: Plan, x: Any, w: Any, b: Any, at: Windows, groups: int, behind: tuple) -> None:
    maps, bank, free, biases, results = _convolution(plan, x, w, b, at, groups)
    attributes = plan.attributes(*behind)
    of = (onednn.INFERENCE, DIRECT, maps, free, biases, results, *_geometry(at), attributes)
    forward = plan.primitive_desc("convolution_forward", *of)
    arguments = {onednn.SRC: plan.slot(maps)}
    arguments[onednn.WEIGHTS] = _preferred(plan, bank, plan.query(forward, onednn.WEIGHTS_MD))
    if b is not None:
        arguments[onednn.BIAS] = plan.slot(biases)
    plan.step(forward, {**arguments, onednn.DST: plan.slot(results)})


def parameter_gradients(x: numpy.ndarray, dy: numpy.ndarray, at: Windows, groups: int, biased: bool) -> Any:
    """E11 and E12."""
    if not float32(x, dy):
        return NotImplemented
    if biased and dy.size >= SUMMED and dy.ndim == 4:
        dy = flat(dy)
        db = onednn_passes.channel_sum(dy)
        gradients = db if db is NotImplemented else parameter_gradients(x, dy, at, groups, False)
        return gradients if gradients is NotImplemented else (gradients[0], db)
    if groups == 1 and (q := columns_at_once(at, x.shape[3], dy.shape[3], x.shape[0])) > 1:
        return _gradients_by_bands(x, dy, at, biased, q)
    run = onednn.plan(_parameter_gradients, x.shape, dy.shape, at, groups, biased)
    if run is None:
        return NotImplemented
    dw = numpy.empty((*at.window, x.shape[3] // groups, dy.shape[3]), FLOAT32)
    db = numpy.empty(dy.shape[3], FLOAT32) if biased else None
    run(flat(x), flat(dy), *(() if db is None else (db,)), dw)
    return dw, db


def _gradients_by_bands(x: numpy.ndarray, dy: numpy.ndarray, at: Windows, biased: bool, q: int) -> Any:
    """E11, E12, q columns at a time: their sums."""
    wide, D = numpy_bands.windows(at, q), dy.shape[3]
    if dy.shape != (x.shape[0], *at.grid, D):
        return NotImplemented
    gradients = parameter_gradients(x, flat(dy).reshape(-1, *wide.grid, q * D), wide, 1, biased)
    if gradients is NotImplemented:
        return NotImplemented
    dT, db = gradients
    return numpy_bands.along_band(dT, at, q), None if db is None else db.reshape(q, D).sum(axis=0)


def correlate_filters(x: numpy.ndarray, dy: numpy.ndarray, at: Windows, groups: int = 1) -> Any:
    """E11."""
    gradients = parameter_gradients(x, dy, at, groups, False)
    return gradients if gradients is NotImplemented else gradients[0]


def _parameter_gradients(plan: Plan, x: Any, dy: Any, at: Windows, groups: int, biased: bool) -> None:
    if x[3] % groups or dy[1:3] != at.grid or x[0] != dy[0]:
        raise Refused("the shapes do not fit")
    w = (*at.window, x[3] // groups, dy[3])
    maps, bank, free, biases, results = _convolution(plan, x, w, (dy[3],) if biased else None, at, groups)
    of = (DIRECT, maps, free, biases, results, *_geometry(at))
    hint = plan.primitive_desc("convolution_forward", onednn.TRAINING, *of, None)
    backward = plan.primitive_desc("convolution_backward_weights", *of, hint, plan.attributes())
    arguments = {onednn.SRC: plan.slot(maps), onednn.DIFF_DST: plan.slot(results)}
    if biased:
        arguments[onednn.DIFF_BIAS] = plan.slot(biases)
    chosen, target = plan.query(backward, onednn.DIFF_WEIGHTS_MD), plan.slot(bank)
    if plan.same(chosen, bank):
        plan.step(backward, {**arguments, onednn.DIFF_WEIGHTS: target})
    else:
        buffer = plan.buffer(chosen)
        plan.step(backward, {**arguments, onednn.DIFF_WEIGHTS: buffer})
        plan.reorder(chosen, bank, buffer, target)


def correlate_inputs(dy: numpy.ndarray, w: numpy.ndarray, at: Windows, groups: int = 1) -> Any:
    """E13."""
    if not float32(dy, w):
        return NotImplemented
    if w.size >= MANY and _left_to_winograd(at, w, dy.shape[0], groups):
        return NotImplemented
    run = onednn.plan(_correlate_inputs, dy.shape, w.shape, at, groups)
    if run is None:
        return NotImplemented
    dx = numpy.empty((dy.shape[0], *at.size, w.shape[2] * groups), FLOAT32)
    run(flat(dy), flat(w), dx)
    return dx


def _correlate_inputs(plan: Plan, dy: Any, w: Any, at: Windows, groups: int) -> None:
    x = (dy[0], *at.size, w[2] * groups)
    if dy[1:3] != at.grid or dy[3] != w[3]:
        raise Refused("the shapes do not fit")
    maps, bank, free, _, results = _convolution(plan, x, w, None, at, groups)
    geometry = _geometry(at)
    hint = plan.primitive_desc(
        "convolution_forward", onednn.TRAINING, DIRECT, maps, free, None, results, *geometry, None
    )
    of = (DIRECT, maps, free, results, *geometry, hint, plan.attributes())
    backward = plan.primitive_desc("convolution_backward_data", *of)
    deltas = plan.slot(results)
    filters = _preferred(plan, bank, plan.query(backward, onednn.WEIGHTS_MD))
    plan.step(backward, {onednn.DIFF_DST: deltas, onednn.WEIGHTS: filters, onednn.DIFF_SRC: plan.slot(maps)})


def _convolution(plan: Plan, x: Any, w: Any, b: Any, at: Windows, groups: int) -> tuple[Any, ...]:
    """Descriptors of x, w as it lies in memory, w as the library likes it, b and y; refuses what does not fit."""
    (N, H, W, C), (k1, k2, inside, D) = x, w
    if (H, W) != at.size or (k1, k2) != at.window or C != inside * groups or D % groups or b not in (None, (D,)):
        raise Refused("the shapes do not fit")
    if 0 in (N, *at.grid, *w) or min(*at.reach[0], *at.reach[1]) < 0:
        raise Refused("nothing to compute")
    plan.alone_below(PRODUCTS_ALONE, N * math.prod(at.grid) * math.prod(w))
    filters, taps = D // groups, ((k2 * inside * D), inside * D)  # strides of k1 and k2
    if groups == 1:
        dims, strides = (D, C, k1, k2), (1, D, *taps)
    else:
        dims, strides = (groups, filters, inside, k1, k2), (filters, 1, D, *taps)  # type: ignore[assignment]
    bank, free = plan.described(dims, strides), plan.described(dims)
    return plan.maps(*x), bank, free, None if b is None else plan.vector(D), plan.maps(N, *at.grid, D)


def _preferred(plan: Plan, bank: Any, chosen: Any) -> Any:
    """The memory of the filters in the layout that the library chose, put there by a step where it is another."""
    given = plan.slot(bank)
    if plan.same(bank, chosen):
        return given
    buffer = plan.buffer(chosen)
    plan.reorder(bank, chosen, given, buffer)
    return buffer


def _geometry(at: Windows) -> tuple[Any, Any, Any, Any]:
    """Strides, dilations (0 where there are none), padding before and after."""
    (top, bottom), (left, right) = at.reach
    return ints(*at.stride), ints(*(r - 1 for r in at.dilation)), ints(top, left), ints(bottom, right)


# -- pooling -----------------------------------------------------------------------------------------------------------


def max_pool(x: numpy.ndarray, at: Windows) -> Any:
    """E8: the library's workspace holds the winners as the reference counts them."""
    if x.dtype != FLOAT32:
        return NotImplemented
    run = onednn.plan(_max_pool, x.shape, at)
    if run is None:
        return NotImplemented
    y = numpy.empty((x.shape[0], *at.grid, x.shape[3]), FLOAT32)
    winners, means = numpy.empty(y.shape, numpy.uint8), numpy.empty((x.shape[0], x.shape[2] * x.shape[3]), FLOAT32)
    run(flat(x), means, y, winners)
    return (y, winners) if numpy.isfinite(means).all() else NotImplemented


def _max_pool(plan: Plan, x: Any, at: Windows) -> None:
    maps, results, winners = _pooling(plan, x, at)
    units = plan.slot(maps)
    onednn_passes.column_means(plan, x, units)  # the library passes over a NaN, but no mean does
    forward = _max_pooling(plan, maps, results, winners, at)
    plan.step(forward, {onednn.SRC: units, onednn.DST: plan.slot(results), onednn.WORKSPACE: plan.slot(winners)})


def max_unpool(dy: numpy.ndarray, winners: numpy.ndarray, at: Windows) -> Any:
    """E15: each unit of the map looks up in which windows it won."""
    if dy.dtype != FLOAT32 or winners.dtype != numpy.uint8:
        return NotImplemented
    run = onednn.plan(_max_unpool, dy.shape, winners.shape, at)
    if run is None:
        return NotImplemented
    dx = numpy.empty((dy.shape[0], *at.size, dy.shape[3]), FLOAT32)
    run(flat(dy), flat(winners), dx)
    return dx


def _max_unpool(plan: Plan, dy: Any, won: Any, at: Windows) -> None:
    if dy[1:3] != at.grid or won != dy:
        raise Refused("the shapes do not fit")
    maps, results, winners = _pooling(plan, (dy[0], *at.size, dy[3]), at)
    hint = _max_pooling(plan, maps, results, winners, at)
    backward = plan.primitive_desc("pooling_backward", MAX, maps, results, *_pool_geometry(at), hint, plan.attributes())
    plan.step(
        backward,
        {onednn.DIFF_DST: plan.slot(results), onednn.WORKSPACE: plan.slot(winners), onednn.DIFF_SRC: plan.slot(maps)},
    )


def avg_pool(x: numpy.ndarray, at: Windows, count_include_pad: bool = False) -> Any:
    """E8."""
    if x.dtype != FLOAT32:
        return NotImplemented
    run = onednn.plan(_avg_pool, x.shape, at, count_include_pad)
    if run is None:
        return NotImplemented
    y = numpy.empty((x.shape[0], *at.grid, x.shape[3]), FLOAT32)
    run(flat(x), y)
    return y


def _avg_pool(plan: Plan, x: Any, at: Windows, count_include_pad: bool) -> None:
    maps, results, _ = _pooling(plan, x, at)
    kind = _average(at, count_include_pad)
    of = (onednn.INFERENCE, kind, maps, results, *_pool_geometry(at), plan.attributes())
    forward = plan.primitive_desc("pooling_forward", *of)
    plan.step(forward, {onednn.SRC: plan.slot(maps), onednn.DST: plan.slot(results)})


def avg_unpool(dy: numpy.ndarray, at: Windows, count_include_pad: bool = False) -> Any:
    """E15."""
    if dy.dtype != FLOAT32:
        return NotImplemented
    run = onednn.plan(_avg_unpool, dy.shape, at, count_include_pad)
    if run is None:
        return NotImplemented
    dx = numpy.empty((dy.shape[0], *at.size, dy.shape[3]), FLOAT32)
    run(flat(dy), dx)
    return dx


def _avg_unpool(plan: Plan, dy: Any, at: Windows, count_include_pad: bool) -> None:
    if dy[1:3] != at.grid:
        raise Refused("the shapes do not fit")
    maps, results, _ = _pooling(plan, (dy[0], *at.size, dy[3]), at)
    kind, geometry = _average(at, count_include_pad), _pool_geometry(at)
    hint = plan.primitive_desc("pooling_forward", onednn.TRAINING, kind, maps, results, *geometry, None)
    backward = plan.primitive_desc("pooling_backward", kind, maps, results, *geometry, hint, plan.attributes())
    plan.step(backward, {onednn.DIFF_DST: plan.slot(results), onednn.DIFF_SRC: plan.slot(maps)})


def _pooling(plan: Plan, x: Any, at: Windows) -> tuple[Any, Any, Any]:
    """Descriptors of x, y and the winners; refuses what does not fit."""
    N, H, W, C = x
    inside = at.taps_inside()
    if (H, W) != at.size or 0 in (N, C, *at.grid) or at.dilation != (1, 1) or at.taps > 255:
        raise Refused("the shapes do not fit, or the windows are spread out")
    if 0 in inside[0] or 0 in inside[1]:
        raise Refused("a window wholly in the padding")
    plan.alone_below(onednn_passes.SMALL, math.prod(x))
    return plan.maps(*x), plan.maps(N, *at.grid, C), plan.maps(N, *at.grid, C, onednn.U8)


def _max_pooling(plan: Plan, maps: Any, results: Any, winners: Any, at: Windows) -> Any:
    of = (onednn.TRAINING, MAX, maps, results, *_pool_geometry(at), plan.attributes())
    forward = plan.primitive_desc("pooling_forward", *of)
    if not plan.same(plan.query(forward, onednn.WORKSPACE_MD), winners):
        raise Refused("the library keeps the winners in another layout")
    return forward


def _pool_geometry(at: Windows) -> tuple[Any, ...]:
    """Strides, window, dilations (0: none), padding before and after."""
    stride, dilation, before, after = _geometry(at)
    return stride, ints(*at.window), dilation, before, after


def _average(at: Windows, count_include_pad: bool) -> int:
    if not count_include_pad:
        return AVG_ON_MAP
    if at.overhang != (0, 0):
        raise Refused("the library counts what ceil_mode reaches beyond the padding")
    return AVG_WITH_PADDING


# -- dense -------------------------------------------------------------------------------------------------------------


def affine(x: numpy.ndarray, w: numpy.ndarray, b: numpy.ndarray | None = None) -> Any:
    """E9, E16: x w + b. Either factor may be a transposed view."""
    if not float32(x, w) or x.ndim != 2 or w.ndim != 2 or x.shape[1] != w.shape[0] or 0 in (*x.shape, *w.shape):
        return NotImplemented
    (M, K), D = x.shape, w.shape[1]
    if M * K * D < PRODUCT or b is not None and (b.dtype != FLOAT32 or b.shape != (D,)):
        return NotImplemented
    y = numpy.empty((M, D), FLOAT32)
    return y if onednn.product(x, w, b, y) else NotImplemented


# -- what is served ----------------------------------------------------------------------------------------------------


KERNELS = {
    kernel.__name__: kernel
    for kernel in (
        correlate,
        correlate_filters,
        correlate_inputs,
        parameter_gradients,
        max_pool,
        max_unpool,
        avg_pool,
        avg_unpool,
        *onednn_passes.KERNELS,
        affine,
    )
}

for _kernel in KERNELS.values():
    _kernel.library = "onednn"  # as counted in dualnet.backend.calls
