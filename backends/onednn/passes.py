"""oneDNN's passes over memory: ReLU and its way back, sums, batch norm and SGD's step.

What holds for all is said in onednn_kernels.
"""

from __future__ import annotations

import math
import weakref
from typing import Any

import numpy

from . import plans as onednn
from .library import Refused, ints
from .plans import Plan

FLOAT32 = numpy.dtype(numpy.float32)
USE_GLOBAL_STATS, USE_SCALE, USE_SHIFT, FUSE_RELU = 1, 2, 4, 8
AVG_ON_MAP = 0x3FF
ADD, MULTIPLY, LARGER, GREATER = 0x1FFF0, 0x1FFF1, 0x1FFF2, 0x1FFF7
OWN_RELU, ELU, LINEAR = 0x20, 0x22, 0x26

RELU = ((ELU, 0.0, 0.0), (LINEAR, 1.0, 0.0))
"""E7, after another function. oneDNN's own ReLU makes 0 of NaN; its ELU, x where x > 0 and else α (eˣ − 1), keeps NaN,
and with α = 0 it is the ReLU. The linear function adds 0, which makes 0 of −0."""
MAX_0 = ((OWN_RELU, 0.0, 0.0),)
"""E7 where no NaN can be. It computes no eˣ."""

ZERO = numpy.zeros((1, 1), numpy.float32)
FAR = 1e3
SMALL = 2**15
"""Below so many elements a pass over them is done before another thread is awake."""


def float32(*arrays: numpy.ndarray) -> bool:
    for array in arrays:  # noqa: SIM110  a generator would take twice as long, and this is asked for every call
        if array.dtype != FLOAT32:
            return False
    return True


def flat(x: numpy.ndarray) -> numpy.ndarray:
    return x if x.flags.c_contiguous else numpy.ascontiguousarray(x)


# -- E7, E14: ReLU -----------------------------------------------------------------------------------------------------


def rectify(x: numpy.ndarray) -> Any:
    """E7: max(0, x)."""
    if x.size < SMALL or x.dtype != FLOAT32:
        return NotImplemented
    run = onednn.plan(_rectify, x.size)
    if run is None:
        return NotImplemented
    y = numpy.empty(x.shape, FLOAT32)
    run(flat(x), ZERO, y)
    return y


def _rectify(plan: Plan, size: int) -> None:
    units, zero = plan.described((1, size), (size, 1)), plan.described((1, 1), (1, 1))
    total = plan.primitive_desc("binary", ADD, units, zero, units, plan.attributes(*RELU))  # x + 0, then max(0, ·)
    arguments = {onednn.SRC: plan.slot(units), onednn.OTHER: plan.slot(zero)}
    plan.step(total, {**arguments, onednn.DST: plan.slot(units)})


def rectify_backward(dy: numpy.ndarray, y: numpy.ndarray) -> Any:
    """E14: (y > 0) · dy."""
    if y.size < SMALL or not float32(dy, y) or dy.shape != y.shape:
        return NotImplemented
    run = onednn.plan(_masked, y.size)
    if run is None:
        return NotImplemented
    dx = numpy.empty(y.shape, FLOAT32)
    run(flat(y), ZERO, flat(dy), dx)
    return dx


def _masked(plan: Plan, size: int) -> None:
    """max(y, 0), then > 0, then · dy. The library's > is true of NaN, of which its max makes 0."""
    units, zero = plan.described((1, size), (size, 1)), plan.described((1, 1), (1, 1))
    applied = plan.attributes((GREATER, zero), (MULTIPLY, units))
    largest = plan.primitive_desc("binary", LARGER, units, zero, units, applied)
    arguments = {onednn.SRC: plan.slot(units), onednn.OTHER: plan.slot(zero), onednn.SECOND[1]: plan.slot(units)}
    arguments[onednn.SECOND[0]] = arguments[onednn.OTHER]
    plan.step(largest, {**arguments, onednn.DST: plan.slot(units)})


# -- a sum, and E7 behind it -------------------------------------------------------------------------------------------


def add(x: numpy.ndarray, other: numpy.ndarray, relu: bool = False) -> Any:
    """x + other, and E7 with ``relu``."""
    if x.size < SMALL or not float32(x, other) or x.shape != other.shape:
        return NotImplemented
    run = onednn.plan(_add, x.size, relu)
    if run is None:
        return NotImplemented
    y = numpy.empty(x.shape, FLOAT32)
    run(flat(x), flat(other), y)
    return y


def _add(plan: Plan, size: int, relu: bool) -> None:
    units = plan.described((1, size), (size, 1))
    total = plan.primitive_desc("binary", ADD, units, units, units, plan.attributes(*(RELU if relu else ())))
    arguments = {onednn.SRC: plan.slot(units), onednn.OTHER: plan.slot(units)}
    plan.step(total, {**arguments, onednn.DST: plan.slot(units)})


# -- E12: sums over channels -------------------------------------------------------------------------------------------


def channel_sum(x: numpy.ndarray) -> Any:
    """E12 and others: (N, H, W, C) -> (C,), column by column first, so that short sums are added up."""
    if x.size < max(1, SMALL) or x.ndim != 4 or x.dtype != FLOAT32:
        return NotImplemented
    run = onednn.plan(_channel_sum, x.shape)
    if run is None:
        return NotImplemented
    N, H, W, C = x.shape
    means = numpy.empty((N, W * C), FLOAT32)
    run(flat(x), means)
    return means.sum(axis=0).reshape(W, C).sum(axis=0) * numpy.float32(H)


def _channel_sum(plan: Plan, x: Any) -> None:
    column_means(plan, x, plan.slot(plan.maps(*x)))


def column_means(plan: Plan, x: Any, units: Any) -> None:
    """A step: the mean of every column of every map, (N, H, W, C) -> (N, W·C). It is finite only where each unit is."""
    N, H, W, C = x
    rows, means = plan.maps(N, H, 1, W * C), plan.maps(N, 1, 1, W * C)
    whole = (ints(1, 1), ints(H, 1), ints(0, 0), ints(0, 0), ints(0, 0))  # stride, window, no dilation, no padding
    mean = plan.primitive_desc("pooling_forward", onednn.INFERENCE, AVG_ON_MAP, rows, means, *whole, plan.attributes())
    plan.step(mean, {onednn.SRC: units, onednn.DST: plan.slot(means)})


# -- E17: SGD ----------------------------------------------------------------------------------------------------------


def sgd_update(w: Any, g: Any, slots: dict[str, Any], lr: float, momentum: float, nesterov: bool) -> Any:
    """E17 of one parameter, to the last bit."""
    if w.size < SMALL or not float32(w, g, *slots.values()) or w.shape != g.shape or type(lr) is not float:
        return NotImplemented
    run = onednn.plan(_scaled_sum, w.size)
    if run is None:
        return NotImplemented

    def scaled_sum(x: numpy.ndarray, factor: float, other: numpy.ndarray) -> numpy.ndarray:
        y = numpy.empty(w.shape, FLOAT32)
        run(flat(x), numpy.full((1, 1), factor, FLOAT32), flat(other), y)
        return y

    if not momentum:
        return scaled_sum(g, -lr, w), {}  # E17
    velocity = scaled_sum(slots["velocity"], momentum, g)
    direction = scaled_sum(velocity, momentum, g) if nesterov else velocity
    return scaled_sum(direction, -lr, w), {"velocity": velocity}  # E17


def _scaled_sum(plan: Plan, size: int) -> None:
    """x · factor + other."""
    units, factor = plan.described((1, size), (size, 1)), plan.described((1, 1), (1, 1))
    product = plan.primitive_desc("binary", MULTIPLY, units, factor, units, plan.attributes((ADD, units)))
    arguments = {onednn.SRC: plan.slot(units), onednn.OTHER: plan.slot(factor), onednn.SECOND[0]: plan.slot(units)}
    plan.step(product, {**arguments, onednn.DST: plan.slot(units)})


# -- batch norm --------------------------------------------------------------------------------------------------------


def batch_normalise(x: numpy.ndarray, gamma: numpy.ndarray, beta: numpy.ndarray, epsilon: float, relu: bool) -> Any:
    """The batch's own moments, and what they make of it (and E7 with ``relu``, whose NaN the library would lose)."""
    if not float32(x, gamma, beta):
        return NotImplemented
    run = onednn.plan(_batch_normalise, x.shape, gamma.shape, beta.shape, epsilon, relu)
    if run is None:
        return NotImplemented
    y, mean, variance = (numpy.empty(shape, FLOAT32) for shape in (x.shape, gamma.shape, gamma.shape))
    if not relu:
        run(flat(x), mean, variance, flat(gamma), flat(beta), y)
        return NotImplemented if _far_off(mean, variance, epsilon) else (y, mean, variance)
    active = numpy.empty(run.sizes[0], numpy.uint8)
    run(flat(x), mean, variance, flat(gamma), flat(beta), active, y)
    if not numpy.isfinite(gamma).all() or not numpy.isfinite(beta).all() or _far_off(mean, variance, epsilon):
        return NotImplemented
    _remember(y, active)
    return y, mean, variance


def _far_off(mean: numpy.ndarray, variance: numpy.ndarray, epsilon: float) -> bool:
    """Is a mean so far from 0, in spreads, that it is not exact enough for the variance, or not finite?

    The library adds up a channel's units one by one. At 10³ spreads the variance is 4 · 10⁻⁵ off, at 10⁵ nothing is
    left of it.
    """
    with numpy.errstate(over="ignore", invalid="ignore"):
        return not (mean * mean <= FAR**2 * (variance + epsilon)).all()


def _batch_normalise(plan: Plan, x: Any, gamma: Any, beta: Any, epsilon: float, relu: bool) -> None:
    maps, each = _normalisation(plan, x, gamma, beta)
    flags = USE_SCALE | USE_SHIFT | (FUSE_RELU if relu else 0)
    forward = plan.primitive_desc(
        "batch_normalization_forward", onednn.TRAINING, maps, maps, epsilon, flags, plan.attributes()
    )
    arguments = {onednn.SRC: plan.slot(maps)}
    arguments |= {n: plan.slot(each) for n in (onednn.MEAN, onednn.VARIANCE, onednn.SCALE, onednn.SHIFT)}
    if relu:
        arguments[onednn.WORKSPACE] = plan.slot(_active(plan, forward))
    plan.step(forward, {**arguments, onednn.DST: plan.slot(maps)})


def normalise(
    x: numpy.ndarray,
    mean: numpy.ndarray,
    variance: numpy.ndarray,
    gamma: numpy.ndarray,
    beta: numpy.ndarray,
    epsilon: float,
    relu: bool = False,
) -> Any:
    """y = γ (x − μ) / s + β."""
    if relu or not float32(x, mean, variance, gamma, beta):
        return NotImplemented
    run = onednn.plan(_normalise, x.shape, mean.shape, variance.shape, gamma.shape, beta.shape, epsilon)
    if run is None:
        return NotImplemented
    y = numpy.empty(x.shape, FLOAT32)
    run(flat(x), flat(mean), flat(variance), flat(gamma), flat(beta), y)
    return y


def _normalise(plan: Plan, x: Any, mean: Any, variance: Any, gamma: Any, beta: Any, epsilon: float) -> None:
    maps, each = _normalisation(plan, x, mean, variance, gamma, beta)
    flags = USE_GLOBAL_STATS | USE_SCALE | USE_SHIFT
    of = (onednn.INFERENCE, maps, maps, epsilon, flags, plan.attributes())
    forward = plan.primitive_desc("batch_normalization_forward", *of)
    arguments = {onednn.SRC: plan.slot(maps)}
    arguments |= {n: plan.slot(each) for n in (onednn.MEAN, onednn.VARIANCE, onednn.SCALE, onednn.SHIFT)}
    plan.step(forward, {**arguments, onednn.DST: plan.slot(maps)})


def normalise_backward(
    dy: numpy.ndarray,
    x: numpy.ndarray,
    mean: numpy.ndarray,
    variance: numpy.ndarray,
    gamma: numpy.ndarray,
    epsilon: float,
    y: numpy.ndarray | None = None,
) -> Any:
    """The way back of batch norm, with y first that of the ReLU behind it (E14): dx, dγ, dβ."""
    if not float32(dy, x, mean, variance, gamma) or dy.shape != x.shape:
        return NotImplemented
    if y is not None and (not float32(y) or y.shape != x.shape):
        return NotImplemented
    active = None if y is None else _remembered(y)
    relu = "" if y is None else "y" if active is None else "active"
    run = onednn.plan(_normalise_backward, x.shape, mean.shape, variance.shape, gamma.shape, epsilon, relu)
    if run is None:
        return NotImplemented
    dx, dgamma, dbeta = (numpy.empty(shape, FLOAT32) for shape in (x.shape, gamma.shape, gamma.shape))
    masked = (flat(y), ZERO, flat(dy), dx) if relu == "y" else ()  # type: ignore[arg-type]
    deltas = dx if relu == "y" else flat(dy)
    known = () if active is None else (active,)
    run(*masked, deltas, flat(x), flat(mean), flat(variance), flat(gamma), dgamma, dbeta, *known, dx)
    return dx, dgamma, dbeta


def _normalise_backward(plan: Plan, x: Any, mean: Any, variance: Any, gamma: Any, epsilon: float, relu: str) -> None:
    maps, each = _normalisation(plan, x, mean, variance, gamma)
    if relu == "y":  # E14, into dx, where the deltas are then overwritten
        _masked(plan, math.prod(x))
    flags = USE_SCALE | USE_SHIFT | (FUSE_RELU if relu == "active" else 0)
    hint = plan.primitive_desc("batch_normalization_forward", onednn.TRAINING, maps, maps, epsilon, flags, None)
    of = (onednn.BACKWARD, maps, maps, maps, epsilon, flags, hint, plan.attributes())
    backward = plan.primitive_desc("batch_normalization_backward", *of)
    arguments = {onednn.DIFF_DST: plan.slot(maps), onednn.SRC: plan.slot(maps)}
    vectors = (onednn.MEAN, onednn.VARIANCE, onednn.SCALE, onednn.DIFF_SCALE, onednn.DIFF_SHIFT)
    arguments |= {n: plan.slot(each) for n in vectors}
    if relu == "active":
        arguments[onednn.WORKSPACE] = plan.slot(_active(plan, hint))
    plan.step(backward, {**arguments, onednn.DIFF_SRC: plan.slot(maps)})


def _active(plan: Plan, forward: Any) -> Any:
    """The descriptor of a bit for each unit, which says whether it is > 0; its size is the plan's first."""
    bits = plan.query(forward, onednn.WORKSPACE_MD)
    plan.sizes.append(plan.library.slow.dnnl_memory_desc_get_size(bits))
    return bits


_of_results: dict[int, tuple[weakref.ref, numpy.ndarray]] = {}
"""Which units of a result are > 0, as the library has noted it, as long as the result lives: the way back takes two
thirds of the time where it need not read them."""


def _remember(y: numpy.ndarray, active: numpy.ndarray) -> None:
    key = id(y)
    _of_results[key] = (weakref.ref(y, lambda gone: _of_results.pop(key, None)), active)


def _remembered(y: numpy.ndarray) -> numpy.ndarray | None:
    result, active = _of_results.get(id(y), (lambda: None, None))
    return active if result() is y else None


def _normalisation(plan: Plan, x: Any, *vectors: Any) -> tuple[Any, Any]:
    """Descriptors of x (N, ..., C), seen as (N, M, 1, C), and of one number per channel."""
    C, M = x[-1], math.prod(x[1:-1])
    if any(vector != (C,) for vector in vectors) or 0 in x:
        raise Refused("the shapes do not fit")
    plan.alone_below(SMALL, math.prod(x))
    return plan.maps(x[0], M, 1, C), plan.vector(C)


KERNELS = (add, channel_sum, rectify, rectify_backward, sgd_update, batch_normalise, normalise, normalise_backward)
