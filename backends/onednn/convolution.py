"""Convolution by oneDNN: E4, E11, E12 and E13.

Maps and filters are described to oneDNN as they lie in memory, so maps are not copied. Filters are put into the order
that the library prefers on each call, since training changes them; that takes time in proportion to the filters, not to
the batch.
"""

from __future__ import annotations

import math
from typing import Any

import numpy

from dualnet.geometry import Windows

from ..cpu import band_matrix, gathering, guards, machine
from . import passes, plans
from .library import Refused
from .passes import FLOAT32, RELU, flat, float32
from .plans import Plan

ALGORITHM = "oneDNN"
DIRECT = 1

PRODUCTS_ALONE = 2**20
"""With fewer multiplications (0.02 ms), a convolution is not worth sharing with another thread, even if that is awake.
One image of ResNet-20 takes 0.7 times as long as with 2²²."""
LANES, THIN, WIDE, IMAGES = 16, 8, 12, 8
"""Filters of a vector register. Band matrices pay up to THIN channels, from WIDE columns and IMAGES images on."""
SUMMED = 2**16
"""From this many deltas on, adding them up apart takes a tenth of the time that it takes together with dw."""
TAPS = 9
"""With more taps than 3 × 3 oneDNN's direct code is faster on AMD: see :func:`_direct`."""
MANY_RESULTS, LARGEST = 2**18, 1e70
"""From this many results on, it pays to check the arguments. The product of their squared norms may reach LARGEST:
float32 ends at 10³⁸."""


def correlate(
    x: numpy.ndarray, w: numpy.ndarray, b: numpy.ndarray | None, at: Windows, groups: int = 1, relu: bool = False
) -> Any:
    """E4, E6 (and E7 with ``relu``)."""
    if not float32(x, w) or b is not None and b.dtype != FLOAT32:
        return NotImplemented
    if groups == 1 and (q := columns_at_once(at, x.shape[3], w.shape[3], x.shape[0])) > 1 and guards.finite(x):
        return _by_bands(x, w, b, at, relu, q)
    behind = _relu(x, w, b, at) if relu else ()
    run = plans.plan(_correlate, x.shape, w.shape, None if b is None else b.shape, at, groups, behind)
    if run is None:
        return NotImplemented
    y = numpy.empty((x.shape[0], *at.grid, w.shape[3]), FLOAT32)
    if b is None:
        run(flat(x), flat(w), y)
    else:
        run(flat(x), flat(w), flat(b), y)
    return y


def _relu(x: numpy.ndarray, w: numpy.ndarray, b: numpy.ndarray | None, at: Windows) -> tuple[Any, ...]:
    """How E7 follows: by the library's own ReLU if there can be no NaN. VGG-6's first layer then takes 0.6 of the time.

    There is none if the arguments are finite and not huge: |y| ≤ ‖x‖ ‖w‖ + ‖b‖, also for every partial sum (Cauchy,
    Schwarz).
    """
    if x.shape[0] * at.grid[0] * at.grid[1] * w.shape[3] < MANY_RESULTS or x.shape[3] > w.shape[3]:
        return RELU
    squares = [0.0 if array is None else guards.squares(array) for array in (x, w, b)]
    return passes.MAX_0 if squares[0] * squares[1] < LARGEST and squares[2] < LARGEST else RELU


def correlate_normalise(
    x: numpy.ndarray,
    w: numpy.ndarray,
    b: numpy.ndarray | None,
    at: Windows,
    groups: int,
    norm: tuple[numpy.ndarray, ...],
    epsilon: float,
    relu: bool,
    other: numpy.ndarray | None,
) -> Any:
    """E4, E6, then batch norm's inference, the other branch and E7, on each result before it is written."""
    mean, variance, gamma, beta = norm
    if not float32(x, w, *norm) or b is not None and b.dtype != FLOAT32:
        return NotImplemented
    shape = (x.shape[0], *at.grid, w.shape[3])
    if other is not None and (other.dtype != FLOAT32 or other.shape != shape):
        return NotImplemented
    if any(each.shape != shape[3:] for each in norm) or columns_at_once(at, x.shape[3], w.shape[3], x.shape[0]) > 1:
        return NotImplemented
    sizes = x.shape, w.shape, None if b is None else b.shape, at, groups
    run = plans.plan(_correlate_normalise, *sizes, relu, other is not None)
    if run is None:
        return NotImplemented
    scale, y = gamma / numpy.sqrt(variance + epsilon), numpy.empty(shape, FLOAT32)
    given = [x, w, b, mean, scale, beta, other, y]
    run(*[flat(array) for array in given if array is not None])
    return y


def _correlate_normalise(
    plan: Plan, x: Any, w: Any, b: Any, at: Windows, groups: int, relu: bool, joined: bool
) -> None:
    parts = _convolution(plan, x, w, b, at, groups)
    D, results = w[3], parts[-1]
    each = plan.described((1, D, 1, 1), (D, 1, D, D))
    applied = [(passes.SUBTRACT, each), (passes.MULTIPLY, each), (passes.ADD, each)]  # γ/s (x − μ) + β
    if joined:
        applied.append((passes.ADD, results))
    _forward(plan, parts, at, groups, b is not None, RELU if relu else (), applied)


def columns_at_once(at: Windows, C: int, D: int, images: int, thin: int = THIN) -> int:
    """How many columns fill a register with their filters (see band_matrix.py); 1 if plain filters are as good.

    LeNet-5's first layer, of six filters, takes 0.6 times as long with two columns, and its dw half as long.
    """
    Q = at.grid[1]
    if not 0 < D <= LANES // 2 or C > thin or Q < WIDE or images < IMAGES or at.stride[1] != 1 or at.dilation[1] != 1:
        return 1
    return max(q for q in range(1, LANES // D + 1) if Q % q == 0)


def _by_bands(x: numpy.ndarray, w: numpy.ndarray, b: numpy.ndarray | None, at: Windows, relu: bool, q: int) -> Any:
    """E4, E7, q columns at a time."""
    if w.shape != (*at.window, x.shape[3], w.shape[3]) or b is not None and b.shape != (w.shape[3],):
        return NotImplemented
    T, biases = band_matrix.bank(w, at, q), None if b is None else numpy.concatenate([b] * q)
    y = correlate(x, T, biases, band_matrix.windows(at, q), 1, relu)
    return y if y is NotImplemented else y.reshape(x.shape[0], *at.grid, w.shape[3])


def _correlate(plan: Plan, x: Any, w: Any, b: Any, at: Windows, groups: int, behind: tuple) -> None:
    _forward(plan, _convolution(plan, x, w, b, at, groups), at, groups, b is not None, behind)


def _forward(plan: Plan, parts: Any, at: Windows, groups: int, biased: bool, behind: tuple, applied: Any = ()) -> None:
    """A convolution, then the functions ``applied`` with an array each, then those ``behind``, such as ReLU."""
    maps, bank, free, biases, results = parts
    attributes = plan.attributes(*applied, *behind)
    of = (plans.INFERENCE, DIRECT, maps, free, biases, results, *plans.placement(at), attributes)
    forward = plan.primitive_desc("convolution_forward", *of, direct=_direct(at, groups))
    arguments = {plans.SRC: plan.slot(maps)}
    arguments[plans.WEIGHTS] = _preferred(plan, bank, plan.query(forward, plans.WEIGHTS_MD))
    if biased:
        arguments[plans.BIAS] = plan.slot(biases)
    arguments |= {plans.applied(place): plan.slot(function[1]) for place, function in enumerate(applied)}
    plan.step(forward, {**arguments, plans.DST: plan.slot(results)})


def parameter_gradients(x: numpy.ndarray, dy: numpy.ndarray, at: Windows, groups: int, biased: bool) -> Any:
    """E11 and E12."""
    if not float32(x, dy):
        return NotImplemented
    if biased and dy.size >= SUMMED and dy.ndim == 4:
        dy = flat(dy)
        db = passes.channel_sum(dy)
        gradients = db if db is NotImplemented else parameter_gradients(x, dy, at, groups, False)
        return gradients if gradients is NotImplemented else (gradients[0], db)
    if groups == 1 and (q := columns_at_once(at, x.shape[3], dy.shape[3], x.shape[0])) > 1:
        return _gradients_by_bands(x, dy, at, biased, q)
    run = plans.plan(_parameter_gradients, x.shape, dy.shape, at, groups, biased)
    if run is None:
        return NotImplemented
    dw = numpy.empty((*at.window, x.shape[3] // groups, dy.shape[3]), FLOAT32)
    db = numpy.empty(dy.shape[3], FLOAT32) if biased else None
    run(flat(x), flat(dy), *(() if db is None else (db,)), dw)
    return dw, db


def _gradients_by_bands(x: numpy.ndarray, dy: numpy.ndarray, at: Windows, biased: bool, q: int) -> Any:
    """E11, E12, q columns at a time: their sums."""
    wide, D = band_matrix.windows(at, q), dy.shape[3]
    if dy.shape != (x.shape[0], *at.grid, D):
        return NotImplemented
    gradients = parameter_gradients(x, flat(dy).reshape(-1, *wide.grid, q * D), wide, 1, biased)
    if gradients is NotImplemented:
        return NotImplemented
    dT, db = gradients
    return band_matrix.along_band(dT, at, q), None if db is None else db.reshape(q, D).sum(axis=0)


def correlate_filters(x: numpy.ndarray, dy: numpy.ndarray, at: Windows, groups: int = 1) -> Any:
    """E11."""
    gradients = parameter_gradients(x, dy, at, groups, False)
    return gradients if gradients is NotImplemented else gradients[0]


def _parameter_gradients(plan: Plan, x: Any, dy: Any, at: Windows, groups: int, biased: bool) -> None:
    if x[3] % groups or dy[1:3] != at.grid or x[0] != dy[0]:
        raise Refused("the shapes do not fit")
    w = (*at.window, x[3] // groups, dy[3])
    maps, bank, free, biases, results = _convolution(plan, x, w, (dy[3],) if biased else None, at, groups)
    of = (DIRECT, maps, free, biases, results, *plans.placement(at))
    hint = plan.primitive_desc("convolution_forward", plans.TRAINING, *of, None)
    backward = plan.primitive_desc("convolution_backward_weights", *of, hint, plan.attributes())
    arguments = {plans.SRC: plan.slot(maps), plans.DIFF_DST: plan.slot(results)}
    if biased:
        arguments[plans.DIFF_BIAS] = plan.slot(biases)
    chosen, target = plan.query(backward, plans.DIFF_WEIGHTS_MD), plan.slot(bank)
    if plan.same(chosen, bank):
        plan.step(backward, {**arguments, plans.DIFF_WEIGHTS: target})
    else:
        buffer = plan.buffer(chosen)
        plan.step(backward, {**arguments, plans.DIFF_WEIGHTS: buffer})
        plan.reorder(chosen, bank, buffer, target)


def correlate_inputs(dy: numpy.ndarray, w: numpy.ndarray, at: Windows, groups: int = 1) -> Any:
    """E13; for few channels gathered, several columns of dx at a time: LeNet-5's second layer takes 0.8 of the time."""
    if not float32(dy, w):
        return NotImplemented
    back = gathering.windows(at) if groups == 1 and w.shape[2] <= LANES // 2 else None
    if back is not None and (q := columns_at_once(back, dy.shape[3], w.shape[2], dy.shape[0], LANES)) > 1:
        if guards.finite(w) and guards.finite(dy):  # beside the band, and around the deltas, stand zeros
            return _by_bands(dy, gathering.turned(w), None, back, False, q)
    run = plans.plan(_correlate_inputs, dy.shape, w.shape, at, groups)
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
    placed = plans.placement(at)
    hint = plan.primitive_desc("convolution_forward", plans.TRAINING, DIRECT, maps, free, None, results, *placed, None)
    of = (DIRECT, maps, free, results, *placed, hint, plan.attributes())
    backward = plan.primitive_desc("convolution_backward_data", *of, direct=_direct(at, groups, x[3]))
    deltas = plan.slot(results)
    filters = _preferred(plan, bank, plan.query(backward, plans.WEIGHTS_MD))
    plan.step(backward, {plans.DIFF_DST: deltas, plans.WEIGHTS: filters, plans.DIFF_SRC: plan.slot(maps)})


def _direct(at: Windows, groups: int, C: int | None = None) -> bool:
    """Is oneDNN's direct code faster than the one that it prefers, which makes a convolution of small products?

    On AMD's Zen 4 it is where those have much to skip or to gather, by measurement with oneDNN 3.2: with strides (E13
    takes 0.65 times as long for 16 → 32 and 32 → 64 channels, 0.9 from there on); with more taps than 3 × 3 (E4 0.9,
    and half for LeNet-5's E13, which is an E4 with a wide border); and for E13 of so few channels C that they do not
    fill a register (0.9). On Intel's processors nothing was measured, and the library's order stays.
    """
    if groups != 1 or machine.kind() != machine.AMD:
        return False
    return at.stride != (1, 1) or at.taps > TAPS or C is not None and C < LANES and at.taps > 1


def _convolution(plan: Plan, x: Any, w: Any, b: Any, at: Windows, groups: int) -> tuple[Any, ...]:
    """Descriptors of x, w as it is in memory, w as the library prefers it, b and y; refuses shapes that do not fit."""
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
    """The memory of the filters in the layout that the library chose; a step copies them if theirs is different."""
    given = plan.slot(bank)
    if plan.same(bank, chosen):
        return given
    buffer = plan.buffer(chosen)
    plan.reorder(bank, chosen, given, buffer)
    return buffer
