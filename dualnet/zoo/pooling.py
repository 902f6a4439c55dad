"""Exercises on pooling. Each op is wrong on purpose, in one place of its backward pass."""

from __future__ import annotations

from typing import Any

import numpy

from ..parity import loops
from ..shim import namespace
from .exercise import Case, Exercise, normal, steps

__all__ = ["EXERCISES"]


def avg_pool2d(x, *, size, padding):
    """The mean of the units of each window (padding does not count), windows side by side. pullback(dy) -> dx."""
    xp = namespace("avg_pool2d", x=x)
    (N, H, W, C), k, p = x.shape, size, padding
    P, Q = (H + 2 * p - k) // k + 1, (W + 2 * p - k) // k + 1  # E6
    padded = xp.zeros((N, H + 2 * p, W + 2 * p, C), dtype=x.dtype)
    inside = xp.zeros((1, H + 2 * p, W + 2 * p, 1), dtype=x.dtype)  # 1 on the map, 0 on its padding
    padded[:, p : p + H, p : p + W], inside[:, p : p + H, p : p + W] = x, 1.0
    total, units = xp.zeros((N, P, Q, C), dtype=x.dtype), xp.zeros((1, P, Q, 1), dtype=x.dtype)
    for m in range(k):
        for n in range(k):
            total += padded[:, m : m + k * P : k, n : n + k * Q : k]
            units += inside[:, m : m + k * P : k, n : n + k * Q : k]
    y = total / units  # E8

    def pullback(dy):
        dpadded = xp.zeros(padded.shape, dtype=x.dtype)
        share = dy / (k * k)  # E15
        for m in range(k):
            for n in range(k):
                dpadded[:, m : m + k * P : k, n : n + k * Q : k] += share
        return dpadded[:, p : p + H, p : p + W]

    return y, pullback


def _average_by_loops(x: numpy.ndarray, *, size: int, padding: int) -> Any:
    options = {"pool_size": size, "padding": padding}
    return loops.avg_pool2d(x, **options), lambda dy: (loops.avg_pool2d_backward(dy, x, **options),)


def _padded_maps(rng: numpy.random.Generator) -> list[Case]:
    sizes = ((1, 6, 5, 2, 3, 1), (2, 4, 4, 1, 2, 1), (1, 7, 6, 2, 4, 2))
    return [Case(normal(rng, (N, H, W, C)), {"size": k, "padding": p}) for N, H, W, C, k, p in sizes]


COUNTED_PADDING = Exercise(
    name="counted-padding",
    symptom="Objects at the border of the image are learned more slowly than those in the middle.",
    story="""Average pooling with padding, and the padding does not count: this was checked with images of ones, whose
    borders come out as ones. Yet whatever lies at the border, and most of all in the corners, is learned as if the
    learning rate were smaller there.""",
    op=avg_pool2d,
    anchors=("E15", "E8"),
    hint="A window in the corner was divided by fewer units. By how many is its delta divided?",
    fix=(("share = dy / (k * k)  # E15", "share = dy / units  # E15"),),
    lesson="""Window by window, the way back must use the same number M as the way there: y = Σ / M, so each unit
    gets 1/M. In the middle of the map M is k · k, and all is right. A check that looks only at the middle, or only at
    maps without padding, passes.""",
    truth=_average_by_loops,
    cases=_padded_maps,
    linear=(0,),
)


def max_pool2d(x, *, size):
    """The largest unit of each window, the first among equals; windows side by side. pullback(dy) -> dx."""
    xp = namespace("max_pool2d", x=x)
    k = size  # it divides H and W
    y = x[:, ::k, ::k]
    for m in range(k):
        for n in range(k):
            y = xp.maximum(y, x[:, m::k, n::k])  # E8

    def pullback(dy):
        dx = xp.zeros(x.shape, dtype=x.dtype)
        for m in range(k):
            for n in range(k):
                won = x[:, m::k, n::k] == y
                dx[:, m::k, n::k] = dy * won  # E15
        return dx

    return y, pullback


def _max_by_loops(x: numpy.ndarray, *, size: int) -> Any:
    return loops.max_pool2d(x, size), lambda dy: (loops.max_pool2d_backward(dy, x, size),)


def _maps_with_ties(rng: numpy.random.Generator) -> list[Case]:
    return [Case(normal(rng, (2, 4, 6, 2)), {"size": 2}), Case((steps(rng, (1, 6, 6, 2)),), {"size": 3})]


TIED_WINNERS = Exercise(
    name="tied-winners",
    symptom="On flat drawings the layers in front of the pooling overshoot; on photographs all is well.",
    story="""The pooling was tested by itself: random maps, finite differences, PyTorch's results, all green. On
    photographs the network trains as it should. On pictures with flat areas the layers in front of the pooling jump
    about, as if their learning rate were up to four times too high.""",
    op=max_pool2d,
    anchors=("E15",),
    hint="Over a flat area a filter gives one number everywhere. How many units of a window equal the maximum there?",
    fix=(
        (
            "dx = xp.zeros(x.shape, dtype=x.dtype)",
            'dx = xp.zeros(x.shape, dtype=x.dtype)\n        free = xp.ones(y.shape, dtype="bool")  # no winner yet',
        ),
        (
            "won = x[:, m::k, n::k] == y",
            "won = (x[:, m::k, n::k] == y) & free\n                free = free & ~won",
        ),
    ),
    lesson="""E15 sends the *whole* error to *the* winner: one unit. Asking which units equal the maximum finds all of
    them, and each is paid in full. Ties are not rare: wherever the image is flat, so is the map. (Ties of zeros after
    a ReLU are common too, but go unnoticed: E14 stops what they are paid.) Random test data have no ties, so a test
    needs small integers on purpose. Dividing dy among the equals would be another, milder mistake: dualnet pays the
    first in row-major order, on every backend.""",
    truth=_max_by_loops,
    cases=_maps_with_ties,
    caught_by=("loops",),
    blind={
        "slopes": "A tie is a kink: the check moves to another point, where there is no tie, and no mistake.",
        "pytorch": "The stored map holds random numbers, and no two of them are equal.",
    },
)


def l2_pool2d(x, *, size):
    """The Euclidean length of each window, windows side by side. pullback(dy) -> dx."""
    xp = namespace("l2_pool2d", x=x)
    k = size  # it divides H and W
    squares = xp.zeros(x[:, ::k, ::k].shape, dtype=x.dtype)
    for m in range(k):
        for n in range(k):
            squares += x[:, m::k, n::k] * x[:, m::k, n::k]
    y = xp.sqrt(squares)  # E8

    def pullback(dy):
        dx = xp.zeros(x.shape, dtype=x.dtype)
        length = y
        for m in range(k):
            for n in range(k):
                dx[:, m::k, n::k] = x[:, m::k, n::k] / length * dy  # E15
        return dx

    return y, pullback


def _length_by_loops(x: numpy.ndarray, *, size: int) -> Any:
    return loops.l2_pool2d(x, size), lambda dy: (loops.l2_pool2d_backward(dy, x, size),)


def _maps_with_empty_windows(rng: numpy.random.Generator) -> list[Case]:
    (x,) = normal(rng, (1, 6, 6, 2))
    x[:, :3, 3:, 0] = 0.0
    return [Case(normal(rng, (2, 4, 6, 2)), {"size": 2}), Case((x,), {"size": 3})]


ZERO_WINDOW = Exercise(
    name="zero-window",
    symptom="NaN after the first step, but only with scanned pages: one empty margin is enough.",
    story="""Photographs train for days. A page with a blank margin, where no unit fires, turns the weights to NaN in
    one step. The loss of that step was still a perfectly good number. Adding a little noise to the images "repairs"
    it.""",
    op=l2_pool2d,
    anchors=("E15", "E8"),
    hint="E15 has two halves for L2. What is y in a window of zeros, and what is x / y?",
    fix=(("length = y", "length = xp.where(y == 0.0, 1.0, y)  # E15  a window of zeros sends 0 / 1"),),
    lesson="""x / y is 0 / 0 where a window is all zeros: a kink, at which E15 says 0. One NaN in dx meets every
    weight in E11, and all are lost. The forward pass shows nothing, because √0 is a number. Replace y *before*
    dividing: choosing between a NaN and a 0 afterwards is too late if the NaN has already been multiplied into a
    sum.""",
    truth=_length_by_loops,
    cases=_maps_with_empty_windows,
    caught_by=("loops",),
    blind={
        "slopes": "At a window of zeros the length has a kink: the check moves to another point, without such windows.",
        "parity": "0 / 0 is NaN on every machine.",
        "pytorch": "The stored map has no window of zeros.",
    },
)


def overlapping_max_pool2d(x, *, size, stride):
    """The largest unit of each window; windows stride apart, so they may overlap. pullback(dy) -> dx."""
    xp = namespace("overlapping_max_pool2d", x=x)
    (N, H, W, C), k, s = x.shape, size, stride
    P, Q = (H - k) // s + 1, (W - k) // s + 1  # E6
    taps = [x[:, m : m + s * P : s, n : n + s * Q : s] for m in range(k) for n in range(k)]
    winners = xp.argmax(xp.stack(taps, axis=-1), axis=-1)  # (N, P, Q, C)  the first among equals
    y = xp.max(xp.stack(taps, axis=-1), axis=-1)  # E8

    def pullback(dy):
        dx = xp.zeros(x.shape, dtype=x.dtype)
        row = xp.arange(P)[:, None, None] * s + winners // k
        column = xp.arange(Q)[:, None] * s + winners % k
        dx[xp.arange(N)[:, None, None, None], row, column, xp.arange(C)] += dy  # E15
        return dx

    return y, pullback


def _overlap_by_loops(x: numpy.ndarray, *, size: int, stride: int) -> Any:
    options = {"pool_size": size, "stride": stride}
    return loops.max_pool2d(x, **options), lambda dy: (loops.max_pool2d_backward(dy, x, **options),)


def _overlapping(rng: numpy.random.Generator) -> list[Case]:
    first, second = normal(rng, (1, 7, 7, 2), (2, 5, 6, 1))
    return [Case((first,), {"size": 3, "stride": 2}), Case((second,), {"size": 3, "stride": 1})]


LOST_WINNERS = Exercise(
    name="lost-winners",
    symptom="The brightest spots of an image get too little gradient, though the code says +=.",
    story="""With 2 × 2 windows side by side the pooling is right to the last digit. With 3 × 3 windows two apart, as
    in AlexNet, the network learns less than it should. Three people have read the code: each of them found the +=, and
    was content. On a GPU the result is not even the same twice.""",
    op=overlapping_max_pool2d,
    anchors=("E15",),
    hint="Try z = zeros(1); z[[0, 0, 0]] += 1. What is z?",
    fix=(
        (
            """\
        row = xp.arange(P)[:, None, None] * s + winners // k
        column = xp.arange(Q)[:, None] * s + winners % k
        dx[xp.arange(N)[:, None, None, None], row, column, xp.arange(C)] += dy  # E15
""",
            """\
        for tap in range(k * k):
            m, n = tap // k, tap % k
            dx[:, m : m + s * P : s, n : n + s * Q : s] += dy * (winners == tap)  # E15
""",
        ),
    ),
    lesson="""z[index] += v reads all the places, adds, and writes all of them back. A place that appears in the index
    three times is written three times, with one summand each: the last one stays. A unit that wins in four windows is
    owed four deltas. For one tap alone no two windows share a unit, so a loop over the taps adds safely.""",
    truth=_overlap_by_loops,
    cases=_overlapping,
)


EXERCISES = (COUNTED_PADDING, TIED_WINNERS, ZERO_WINDOW, LOST_WINNERS)
