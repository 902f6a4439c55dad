"""Pooling by oneDNN: E8 and E15.

In max pooling oneDNN ignores NaN and infinities, so the next kernel gets maps that hold any.
"""

from __future__ import annotations

import math
from typing import Any

import numpy

from dualnet.geometry import Windows

from ..cpu.guards import finite
from . import passes, plans
from .library import Refused, ints
from .passes import AVG_ON_MAP, FLOAT32, flat
from .plans import Plan

ALGORITHM = "oneDNN"
MAX, AVG_WITH_PADDING = 0x1FF, 0x2FF


def max_pool(x: numpy.ndarray, at: Windows) -> Any:
    """E8: the library's workspace holds the winners as the reference counts them."""
    if x.dtype != FLOAT32:
        return NotImplemented
    run = plans.plan(_max_pool, x.shape, at)
    if run is None:
        return NotImplemented
    y = numpy.empty((x.shape[0], *at.grid, x.shape[3]), FLOAT32)
    winners, means = numpy.empty(y.shape, numpy.uint8), numpy.empty((x.shape[0], x.shape[2] * x.shape[3]), FLOAT32)
    run(flat(x), means, y, winners)
    return (y, winners) if numpy.isfinite(means).all() else NotImplemented


def _max_pool(plan: Plan, x: Any, at: Windows) -> None:
    maps, results, winners = _pooling(plan, x, at)
    units = plan.slot(maps)
    passes.column_means(plan, x, units)  # the library ignores a NaN, but a mean does not
    forward = _max_pooling(plan, maps, results, winners, at)
    plan.step(forward, {plans.SRC: units, plans.DST: plan.slot(results), plans.WORKSPACE: plan.slot(winners)})


def max_unpool(dy: numpy.ndarray, winners: numpy.ndarray, at: Windows) -> Any:
    """E15: each unit of the map looks up in which windows it won."""
    if dy.dtype != FLOAT32 or winners.dtype != numpy.uint8:
        return NotImplemented
    run = plans.plan(_max_unpool, dy.shape, winners.shape, at)
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
    backward = plan.primitive_desc("pooling_backward", MAX, maps, results, *_placement(at), hint, plan.attributes())
    plan.step(
        backward,
        {plans.DIFF_DST: plan.slot(results), plans.WORKSPACE: plan.slot(winners), plans.DIFF_SRC: plan.slot(maps)},
    )


def avg_pool(x: numpy.ndarray, at: Windows, count_include_pad: bool = False) -> Any:
    """E8."""
    if x.dtype != FLOAT32:
        return NotImplemented
    run = plans.plan(_avg_pool, x.shape, at, count_include_pad)
    if run is None:
        return NotImplemented
    y = numpy.empty((x.shape[0], *at.grid, x.shape[3]), FLOAT32)
    run(flat(x), y)
    return y if finite(y) else NotImplemented  # a sum may have overflowed where the mean does not


def _avg_pool(plan: Plan, x: Any, at: Windows, count_include_pad: bool) -> None:
    maps, results, _ = _pooling(plan, x, at)
    kind = _average(at, count_include_pad)
    of = (plans.INFERENCE, kind, maps, results, *_placement(at), plan.attributes())
    forward = plan.primitive_desc("pooling_forward", *of)
    plan.step(forward, {plans.SRC: plan.slot(maps), plans.DST: plan.slot(results)})


def avg_unpool(dy: numpy.ndarray, at: Windows, count_include_pad: bool = False) -> Any:
    """E15."""
    if dy.dtype != FLOAT32:
        return NotImplemented
    run = plans.plan(_avg_unpool, dy.shape, at, count_include_pad)
    if run is None:
        return NotImplemented
    dx = numpy.empty((dy.shape[0], *at.size, dy.shape[3]), FLOAT32)
    run(flat(dy), dx)
    return dx


def _avg_unpool(plan: Plan, dy: Any, at: Windows, count_include_pad: bool) -> None:
    if dy[1:3] != at.grid:
        raise Refused("the shapes do not fit")
    maps, results, _ = _pooling(plan, (dy[0], *at.size, dy[3]), at)
    kind, placed = _average(at, count_include_pad), _placement(at)
    hint = plan.primitive_desc("pooling_forward", plans.TRAINING, kind, maps, results, *placed, None)
    backward = plan.primitive_desc("pooling_backward", kind, maps, results, *placed, hint, plan.attributes())
    plan.step(backward, {plans.DIFF_DST: plan.slot(results), plans.DIFF_SRC: plan.slot(maps)})


def _pooling(plan: Plan, x: Any, at: Windows) -> tuple[Any, Any, Any]:
    """Descriptors of x, y and the winners; refuses shapes that do not fit."""
    N, H, W, C = x
    if (H, W) != at.size or 0 in (N, C, *at.grid) or at.dilation != (1, 1) or at.taps > 255:
        raise Refused("the shapes do not fit, or the windows are spread out")
    if at.first_empty() != (None, None):
        raise Refused("a window lies wholly in the padding")
    plan.alone_below(passes.SMALL, math.prod(x))
    return plan.maps(*x), plan.maps(N, *at.grid, C), plan.maps(N, *at.grid, C, plans.U8)


def _max_pooling(plan: Plan, maps: Any, results: Any, winners: Any, at: Windows) -> Any:
    of = (plans.TRAINING, MAX, maps, results, *_placement(at), plan.attributes())
    forward = plan.primitive_desc("pooling_forward", *of)
    if not plan.same(plan.query(forward, plans.WORKSPACE_MD), winners):
        raise Refused("the library keeps the winners in another layout")
    return forward


def _placement(at: Windows) -> tuple[Any, ...]:
    """Strides, window, dilations (0: none), padding before and after."""
    stride, dilation, before, after = plans.placement(at)
    return stride, ints(*at.window), dilation, before, after


def _average(at: Windows, count_include_pad: bool) -> int:
    if not count_include_pad:
        return AVG_ON_MAP
    if at.overhang != (0, 0):
        raise Refused("the library counts what ceil_mode reaches beyond the padding")
    return AVG_WITH_PADDING
