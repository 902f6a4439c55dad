"""oneDNN's passes over memory: ReLU and its backward pass, sums, batch norm and SGD's step."""

from __future__ import annotations

import math
import weakref
from typing import Any

import numpy

from dualnet.shim.spent import reusable

from ..cpu import tracing
from . import plans
from .library import Refused, ints
from .plans import Plan

ALGORITHM = "oneDNN"
FLOAT32 = numpy.dtype(numpy.float32)
USE_GLOBAL_STATS, USE_SCALE, USE_SHIFT, FUSE_RELU = 1, 2, 4, 8
AVG_ON_MAP = 0x3FF
ADD, MULTIPLY, LARGER, SUBTRACT, GREATER = 0x1FFF0, 0x1FFF1, 0x1FFF2, 0x1FFF5, 0x1FFF7
OWN_RELU, ELU, LINEAR = 0x20, 0x22, 0x26

RELU = ((ELU, 0.0, 0.0), (LINEAR, 1.0, 0.0))
"""E7, after another function. oneDNN's own ReLU turns NaN into 0. Its ELU, x if x > 0 and α (eˣ − 1) otherwise, keeps
NaN, and with α = 0 it is ReLU. The linear function adds 0, which turns −0 into 0."""
MAX_0 = ((OWN_RELU, 0.0, 0.0),)
"""E7 where there can be no NaN. It computes no eˣ."""

ZERO = numpy.zeros((1, 1), numpy.float32)
FAR = 1e3
SMALL = 2**15
"""With fewer elements than this, a pass takes less time than waking another thread."""


def float32(*arrays: numpy.ndarray) -> bool:
    """Are all of them float32?"""
    for array in arrays:  # noqa: SIM110  a generator would take twice as long, and every call asks
        if array.dtype != FLOAT32:
            return False
    return True


def flat(x: numpy.ndarray) -> numpy.ndarray:
    """x, or a contiguous copy."""
    return x if x.flags.c_contiguous else numpy.ascontiguousarray(x)


# -- E7, E14: ReLU -----------------------------------------------------------------------------------------------------


def rectify(x: numpy.ndarray) -> Any:
    """E7: max(0, x)."""
    if x.size < SMALL or x.dtype != FLOAT32:
        return NotImplemented
    run = plans.plan(_rectify, x.size)
    if run is None:
        return NotImplemented
    y = numpy.empty(x.shape, FLOAT32)
    run(flat(x), ZERO, y)
    return y


def _rectify(plan: Plan, size: int) -> None:
    units, zero = plan.described((1, size), (size, 1)), plan.described((1, 1), (1, 1))
    total = plan.primitive_desc("binary", ADD, units, zero, units, plan.attributes(*RELU))  # x + 0, then max(0, ·)
    arguments = {plans.SRC: plan.slot(units), plans.OTHER: plan.slot(zero)}
    plan.step(total, {**arguments, plans.DST: plan.slot(units)})


def rectify_backward(dy: numpy.ndarray, y: numpy.ndarray) -> Any:
    """E14: (y > 0) · dy, for a finite dy: otherwise it may contain 0 · ∞, which the mean of each column shows."""
    if y.size < SMALL or not float32(dy, y) or dy.shape != y.shape:
        return NotImplemented
    N, H, W, C = y.shape if y.ndim == 4 else (1, y.size // y.shape[-1], 1, y.shape[-1])
    run = plans.plan(_rectify_backward, (N, H, W, C))
    if run is None:
        return NotImplemented
    dx, means = numpy.empty(y.shape, FLOAT32), numpy.empty((N, W * C), FLOAT32)
    run(flat(y), ZERO, flat(dy), dx, means)
    return dx if numpy.isfinite(means).all() else NotImplemented


def _rectify_backward(plan: Plan, x: Any) -> None:
    column_means(plan, x, _masked(plan, math.prod(x)))


def _masked(plan: Plan, size: int) -> Any:
    """max(y, 0), then > 0, then · dy. In the library NaN > 0 is true, but max(NaN, 0) is 0. Returns dx's slot."""
    units, zero = plan.described((1, size), (size, 1)), plan.described((1, 1), (1, 1))
    applied = plan.attributes((GREATER, zero), (MULTIPLY, units))
    largest = plan.primitive_desc("binary", LARGER, units, zero, units, applied)
    arguments = {plans.SRC: plan.slot(units), plans.OTHER: plan.slot(zero), plans.applied(1): plan.slot(units)}
    arguments[plans.applied(0)] = arguments[plans.OTHER]
    dx = plan.slot(units)
    plan.step(largest, {**arguments, plans.DST: dx})
    return dx


# -- a sum, followed by E7 ---------------------------------------------------------------------------------------------


def add(x: numpy.ndarray, other: numpy.ndarray, relu: bool = False) -> Any:
    """x + other, and E7 with ``relu``."""
    if x.size < SMALL or not float32(x, other) or x.shape != other.shape:
        return NotImplemented
    run = plans.plan(_add, x.size, relu)
    if run is None:
        return NotImplemented
    y = numpy.empty(x.shape, FLOAT32)
    run(flat(x), flat(other), y)
    return y


def _add(plan: Plan, size: int, relu: bool) -> None:
    units = plan.described((1, size), (size, 1))
    total = plan.primitive_desc("binary", ADD, units, units, units, plan.attributes(*(RELU if relu else ())))
    arguments = {plans.SRC: plan.slot(units), plans.OTHER: plan.slot(units)}
    plan.step(total, {**arguments, plans.DST: plan.slot(units)})


# -- E12: sums over channels -------------------------------------------------------------------------------------------


def channel_sum(x: numpy.ndarray) -> Any:
    """E12 and others: (N, H, W, C) -> (C,), column by column first, which keeps the sums short."""
    if x.size < max(1, SMALL) or x.ndim != 4 or x.dtype != FLOAT32:
        return NotImplemented
    run = plans.plan(_channel_sum, x.shape)
    if run is None:
        return NotImplemented
    N, H, W, C = x.shape
    means = numpy.empty((N, W * C), FLOAT32)
    run(flat(x), means)
    return means.sum(axis=0).reshape(W, C).sum(axis=0) * numpy.float32(H)


def _channel_sum(plan: Plan, x: Any) -> None:
    column_means(plan, x, plan.slot(plan.maps(*x)))


def column_means(plan: Plan, x: Any, units: Any) -> None:
    """A step: the mean of each column of each map, (N, H, W, C) -> (N, W·C). It is finite only if each unit is."""
    N, H, W, C = x
    rows, means = plan.maps(N, H, 1, W * C), plan.maps(N, 1, 1, W * C)
    whole = (ints(1, 1), ints(H, 1), ints(0, 0), ints(0, 0), ints(0, 0))  # stride, window, no dilation, no padding
    mean = plan.primitive_desc("pooling_forward", plans.INFERENCE, AVG_ON_MAP, rows, means, *whole, plan.attributes())
    plan.step(mean, {plans.SRC: units, plans.DST: plan.slot(means)})


# -- E17: SGD ----------------------------------------------------------------------------------------------------------


def sgd_updates(
    w: list[Any],
    g: list[Any],
    slots: list[dict[str, Any]],
    lr: float,
    momentum: float,
    nesterov: bool,
    weight_decay: float,
    finite: Any,
    into: bool,
) -> Any:
    """E17 for SGD, to the last bit. NumPy steps the small parameters among large ones."""
    if finite is not None or not tracing.is_number(lr) or not _large_and_float32(w, g, slots):
        return NotImplemented
    runs = [None if old.size < SMALL else plans.plan(_scaled_sum, old.size) for old in w]
    if all(run is None for run in runs):
        return NotImplemented
    made = []
    for old, d, kept, run in zip(w, g, slots, runs):
        d = d + weight_decay * old if weight_decay else d
        made.append(_sgd(run, old, d, kept, lr, momentum, nesterov))
    return made


def _large_and_float32(w: list[Any], g: list[Any], slots: list[dict[str, Any]]) -> bool:
    if all(a.size < SMALL for a in w) or any(old.shape != d.shape for old, d in zip(w, g)):
        return False
    return float32(*w, *g, *(a for kept in slots for a in kept.values()))


def _sgd(run: Plan | None, w: Any, d: Any, kept: dict[str, Any], lr: float, momentum: float, nesterov: bool) -> Any:
    room = d if run is not None and reusable(d) else None

    def scaled_sum(x: numpy.ndarray, factor: float, other: numpy.ndarray, y: numpy.ndarray | None = None) -> Any:
        if run is None:
            return x * factor + other
        y = numpy.empty(w.shape, FLOAT32) if y is None else y
        run(flat(x), numpy.full((1, 1), factor, FLOAT32), flat(other), y)
        return y

    if not momentum:
        return scaled_sum(d, -lr, w, room), {}  # E17
    velocity = scaled_sum(kept["velocity"], momentum, d)
    direction = scaled_sum(velocity, momentum, d) if nesterov else velocity
    return scaled_sum(direction, -lr, w, room), {"velocity": velocity}  # E17


def _scaled_sum(plan: Plan, size: int) -> None:
    """x · factor + other."""
    units, factor = plan.described((1, size), (size, 1)), plan.described((1, 1), (1, 1))
    product = plan.primitive_desc("binary", MULTIPLY, units, factor, units, plan.attributes((ADD, units)))
    arguments = {plans.SRC: plan.slot(units), plans.OTHER: plan.slot(factor), plans.applied(0): plan.slot(units)}
    plan.step(product, {**arguments, plans.DST: plan.slot(units)})


# -- batch norm --------------------------------------------------------------------------------------------------------


def batch_normalise(x: numpy.ndarray, gamma: numpy.ndarray, beta: numpy.ndarray, epsilon: float, relu: bool) -> Any:
    """Batch norm with the batch's own moments, and E7 with ``relu``, in which the library would lose a NaN."""
    if not float32(x, gamma, beta):
        return NotImplemented
    run = plans.plan(_batch_normalise, x.shape, gamma.shape, beta.shape, epsilon, relu)
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
    """Is a mean not finite, or so many standard deviations from 0 that the variance is not exact enough?

    The library adds up a channel's units one by one. At 10³ standard deviations the variance is off by 4 · 10⁻⁵, at 10⁵
    it is worthless.
    """
    with numpy.errstate(over="ignore", invalid="ignore"):
        return not (mean * mean <= FAR**2 * (variance + epsilon)).all()


def _batch_normalise(plan: Plan, x: Any, gamma: Any, beta: Any, epsilon: float, relu: bool) -> None:
    maps, each = _normalisation(plan, x, gamma, beta)
    flags = USE_SCALE | USE_SHIFT | (FUSE_RELU if relu else 0)
    forward = plan.primitive_desc(
        "batch_normalization_forward", plans.TRAINING, maps, maps, epsilon, flags, plan.attributes()
    )
    arguments = {plans.SRC: plan.slot(maps)}
    arguments |= {n: plan.slot(each) for n in (plans.MEAN, plans.VARIANCE, plans.SCALE, plans.SHIFT)}
    if relu:
        arguments[plans.WORKSPACE] = plan.slot(_active(plan, forward))
    plan.step(forward, {**arguments, plans.DST: plan.slot(maps)})


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
    run = plans.plan(_normalise, x.shape, mean.shape, variance.shape, gamma.shape, beta.shape, epsilon)
    if run is None:
        return NotImplemented
    y = numpy.empty(x.shape, FLOAT32)
    run(flat(x), flat(mean), flat(variance), flat(gamma), flat(beta), y)
    return y


def _normalise(plan: Plan, x: Any, mean: Any, variance: Any, gamma: Any, beta: Any, epsilon: float) -> None:
    maps, each = _normalisation(plan, x, mean, variance, gamma, beta)
    flags = USE_GLOBAL_STATS | USE_SCALE | USE_SHIFT
    of = (plans.INFERENCE, maps, maps, epsilon, flags, plan.attributes())
    forward = plan.primitive_desc("batch_normalization_forward", *of)
    arguments = {plans.SRC: plan.slot(maps)}
    arguments |= {n: plan.slot(each) for n in (plans.MEAN, plans.VARIANCE, plans.SCALE, plans.SHIFT)}
    plan.step(forward, {**arguments, plans.DST: plan.slot(maps)})


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
    if not float32(dy, x, mean, variance, gamma) or dy.shape != x.shape:
        return NotImplemented
    if y is not None and (not float32(y) or y.shape != x.shape):
        return NotImplemented
    active = None if y is None else _remembered(y)
    relu = "" if y is None else "y" if active is None else "active"
    run = plans.plan(_normalise_backward, x.shape, mean.shape, variance.shape, gamma.shape, epsilon, relu)
    if run is None:
        return NotImplemented
    dx, dgamma, dbeta = (numpy.empty(shape, FLOAT32) for shape in (x.shape, gamma.shape, gamma.shape))
    masked = (flat(y), ZERO, flat(dy), dx) if relu == "y" else ()  # type: ignore[arg-type]
    deltas = dx if relu == "y" else flat(dy)
    known = () if active is None else (active,)
    run(*masked, deltas, flat(x), flat(mean), flat(variance), flat(gamma), dgamma, dbeta, *known, dx)
    return (dx, dgamma, dbeta) if numpy.isfinite(dbeta).all() else NotImplemented  # it may contain 0 · ∞


def _normalise_backward(plan: Plan, x: Any, mean: Any, variance: Any, gamma: Any, epsilon: float, relu: str) -> None:
    maps, each = _normalisation(plan, x, mean, variance, gamma)
    if relu == "y":  # E14, into dx, which then overwrites the deltas
        _masked(plan, math.prod(x))
    flags = USE_SCALE | USE_SHIFT | (FUSE_RELU if relu == "active" else 0)
    hint = plan.primitive_desc("batch_normalization_forward", plans.TRAINING, maps, maps, epsilon, flags, None)
    of = (plans.BACKWARD, maps, maps, maps, epsilon, flags, hint, plan.attributes())
    backward = plan.primitive_desc("batch_normalization_backward", *of)
    arguments = {plans.DIFF_DST: plan.slot(maps), plans.SRC: plan.slot(maps)}
    vectors = (plans.MEAN, plans.VARIANCE, plans.SCALE, plans.DIFF_SCALE, plans.DIFF_SHIFT)
    arguments |= {n: plan.slot(each) for n in vectors}
    if relu == "active":
        arguments[plans.WORKSPACE] = plan.slot(_active(plan, hint))
    plan.step(backward, {**arguments, plans.DIFF_SRC: plan.slot(maps)})


def _active(plan: Plan, forward: Any) -> Any:
    """The descriptor of one bit per unit: is it > 0? Its size becomes the plan's first."""
    bits = plan.query(forward, plans.WORKSPACE_MD)
    plan.sizes.append(plan.library.slow.dnnl_memory_desc_get_size(bits))
    return bits


_of_results: dict[int, tuple[weakref.ref, numpy.ndarray]] = {}
"""Which units of a result are > 0, as the library noted them, for as long as the result exists. Because the backward
pass need not read the units again, it takes two thirds of the time."""


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
