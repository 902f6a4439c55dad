"""Exercises in which the formula is right and the program around it is not: memory, random numbers, sharing."""

from __future__ import annotations

from itertools import count
from typing import Any

import numpy

from ..ops.dropout import philox
from ..parity import loops
from ..shim import namespace
from .convolution import TRUTH, maps
from .dense import residual_by_loops
from .exercise import NAMESPACE, Case, Exercise, normal

__all__ = ["EXERCISES"]


def used_twice(x, w):
    """One layer, used twice: y = tanh(tanh(x w) w), with x (N, C), w (C, C). pullback(dy) -> dx, dw."""
    xp = namespace("used_twice", x=x, w=w)
    h = xp.tanh(x @ w)  # E9, E7
    y = xp.tanh(h @ w)  # E9, E7, with the same w

    def pullback(dy):
        delta = dy * (1.0 - y * y)  # E14
        dw = h.T @ delta  # E16
        dh = delta @ w.T  # E16
        delta = dh * (1.0 - h * h)  # E14
        dw = x.T @ delta  # E16
        dx = delta @ w.T  # E16
        return dx, dw

    return y, pullback


def _twice_by_loops(x: numpy.ndarray, w: numpy.ndarray) -> Any:
    a = loops.dense(x, w)
    h = loops.tanh(a)
    b = loops.dense(h, w)

    def backward(dy: numpy.ndarray) -> tuple:
        dh, second, _ = loops.dense_backward(loops.tanh_backward(dy, b), h, w)
        dx, first, _ = loops.dense_backward(loops.tanh_backward(dh, a), x, w)
        return dx, first + second

    return loops.tanh(b), backward


def _square(rng: numpy.random.Generator) -> list[Case]:
    return [Case(normal(rng, (N, C), (C, C)), {}) for N, C in ((3, 4), (5, 2))]


LAST_USE = Exercise(
    name="last-use",
    symptom="A layer that is used twice learns as if it were used once.",
    story="""Two branches of the network share their weights, which halved the file. Training is stable, and the
    deltas that reach the input are right. But the shared layer follows only one of its uses and serves the other
    badly. Give each branch its own layer, and all is well.""",
    op=used_twice,
    anchors=("E16", "E18"),
    hint="w appears twice in the formula of y. How many of its two gradients reach the return?",
    fix=(("dw = x.T @ delta  # E16", "dw = dw + x.T @ delta  # E16, for the other use too"),),
    lesson="""Weight sharing in the forward pass is a sum in the backward pass. It is the same sum as in E11, where
    all windows share a filter (E18), and as for the bias: used twice, two deltas. Real programs make this mistake with
    a dictionary of gradients that is *updated* instead of added to.""",
    truth=_twice_by_loops,
    cases=_square,
)


def dropout(x, *, rate, key):
    """Drop each unit with probability rate; key is (seed, step). pullback(dy) -> dx."""
    xp = namespace("dropout", x=x)
    seed, step = key
    steps = count(step)

    def mask():
        """True for the units that are kept: random numbers of the next step."""
        words = philox(x, x.size, seed, next(steps))
        return xp.reshape(words, x.shape) >= int(rate * 2**32)

    y = x * mask() / (1.0 - rate)  # E7

    def pullback(dy):
        return dy * mask() / (1.0 - rate)  # E14

    return y, pullback


def _dropout_by_loops(x: numpy.ndarray, *, rate: float, key: tuple[int, int]) -> Any:
    return loops.dropout(x, rate, key=key), lambda dy: (loops.dropout_backward(dy, x, rate, key=key),)


def _units(rng: numpy.random.Generator) -> list[Case]:
    sizes = (((6, 5), 0.5, (3, 0)), ((2, 3, 4, 2), 0.25, (7, 11)))
    return [Case(normal(rng, shape), {"rate": rate, "key": key}) for shape, rate, key in sizes]


SECOND_DRAW = Exercise(
    name="second-draw",
    symptom="Dropout hurts: the higher its rate, the less the network learns, even on its training images.",
    story="""At a rate of 0 the network learns perfectly, at 0.1 it learns worse, at 0.5 the loss jumps about. Forward,
    the share of zeros and the mean are just as they should be. Backward, the share of zeros and the mean are just as
    they should be, too.""",
    op=dropout,
    anchors=("E14",),
    hint="Which units were dropped on the way there, and which on the way back?",
    fix=(
        ("    y = x * mask() / (1.0 - rate)  # E7", "    kept = mask()\n    y = x * kept / (1.0 - rate)  # E7"),
        ("return dy * mask() / (1.0 - rate)  # E14", "return dy * kept / (1.0 - rate)  # E14"),
    ),
    lesson="""The pullback belongs to the function that *was* computed, and that function had one particular mask. A
    new draw gives the gradient of another network. Everything random is decided in the forward pass and kept, or kept
    as a key from which the same numbers can be computed again.""",
    truth=_dropout_by_loops,
    cases=_units,
    linear=(0,),
    caught_by=("loops", "slopes", "pytorch", "manners"),
    blind={"parity": "The random numbers are computed from a counter: both backends draw the same wrong mask."},
    preamble=f"from itertools import count\n\n{NAMESPACE}\nfrom dualnet.ops.dropout import philox",
)


def residual_in_place(x, w):
    """y = x + relu(x w), with x (N, C), w (C, C). pullback(dy) -> dx, dw."""
    xp = namespace("residual_in_place", x=x, w=w)
    h = x @ w  # E9
    y = x + xp.maximum(h, 0.0)  # E7, and the shortcut

    def pullback(dy):
        dh = dy
        dh *= h > 0.0  # E14  in place, which saves memory
        dw = x.T @ dh  # E16
        dx = dy + dh @ w.T  # E16, and the shortcut
        return dx, dw

    return y, pullback


BORROWED_DELTA = Exercise(
    name="borrowed-delta",
    symptom="A block sends back only what its branch lets through, and a layer elsewhere gets wrong deltas.",
    story="""Both summands are there, the shortcut and the branch. Each formula, computed on paper, is right. In the
    network the block is wrong. So, at times, is a layer in another branch that is given the same dy: it depends on
    which of the two runs first.""",
    op=residual_in_place,
    anchors=("E14", "E16"),
    hint="How many arrays are there: one with two names, or two?",
    fix=(
        (
            "        dh = dy\n        dh *= h > 0.0  # E14  in place, which saves memory\n",
            "        dh = dy * (h > 0.0)  # E14\n",
        ),
    ),
    lesson="""An assignment gives a name and copies nothing. dy belongs to the caller, who may hand it to other
    branches, or look at it later. A pullback changes nothing that it was given; it works in place only on arrays of its
    own.""",
    truth=residual_by_loops,
    cases=_square,
    caught_by=("loops", "slopes", "pytorch", "manners"),
    blind={"parity": "The lines run in the same order on every backend, and spoil the same array."},
)


def pointwise_conv2d(x, w, *, stride):
    """The 1 × 1 convolution of a shortcut: x (N, H, W, C), w (C, D) -> y (N, P, Q, D). pullback(dy) -> dx, dw."""
    xp = namespace("pointwise_conv2d", x=x, w=w)
    s = stride
    y = x[:, ::s, ::s] @ w  # E4, E6

    def pullback(dy):
        dx = xp.empty(x.shape, dtype=x.dtype)
        dx[:, ::s, ::s] = dy @ w.T  # E13
        dw = xp.einsum("nijc,nijd->cd", x[:, ::s, ::s], dy)  # E11
        return dx, dw

    return y, pullback


def _pointwise_by_loops(x: numpy.ndarray, w: numpy.ndarray, *, stride: int) -> Any:
    bank = w[None, None]

    def backward(dy: numpy.ndarray) -> tuple:
        dx, dw, _ = loops.conv2d_backward(dy, x, bank, stride=stride)
        return dx, dw[0, 0]

    return loops.conv2d(x, bank, stride=stride), backward


def _points(rng: numpy.random.Generator) -> list[Case]:
    sizes = ((2, 5, 6, 2, 3, 2), (1, 6, 4, 3, 2, 3))
    return [Case(normal(rng, (N, H, W, C), (C, D)), {"stride": s}) for N, H, W, C, D, s in sizes]


UNWRITTEN_PIXELS = Exercise(
    name="unwritten-pixels",
    symptom="NaN after a few hundred steps, on one machine only; under the debugger all is well.",
    story="""On the author's laptop the tests have been green for months. On the server, training ends in NaN:
    sometimes after a hundred steps, sometimes after ten thousand, never twice at the same step. A fresh process is
    always right at first.""",
    op=pointwise_conv2d,
    anchors=("E13",),
    hint="With stride 2, no window reads three out of four pixels. Which line gives them their gradient?",
    fix=(("dx = xp.empty(x.shape, dtype=x.dtype)", "dx = xp.zeros(x.shape, dtype=x.dtype)"),),
    lesson="""A pixel that no window reads has the gradient 0, and a sum without terms is 0 only if somebody writes
    that 0. empty() hands out memory as it is: often zeros, because the system has just cleared it, sometimes
    yesterday's numbers. The backend strict, a pretend device, fills such memory with NaN, so that nothing is right by
    luck.""",
    truth=_pointwise_by_loops,
    cases=_points,
    linear=(0, 1),
    caught_by=("parity",),
    luck=("loops", "slopes", "pytorch", "manners"),
)


workspace: dict = {}


def conv2d_by_columns(x, w):
    """x (N, H, W, C), w (k1, k2, C, D) -> y (N, P, Q, D), as one matrix product. pullback(dy) -> dx, dw."""
    xp = namespace("conv2d_by_columns", x=x, w=w)
    (N, H, W, C), (k1, k2, _, D) = x.shape, w.shape
    P, Q = H - k1 + 1, W - k2 + 1
    place = (type(x), x.dtype.name, N, P, Q, k1, k2, C)
    if place not in workspace:  # made once, used in every step: columns are large
        workspace[place] = xp.empty((N, P, Q, k1, k2, C), dtype=x.dtype)
    columns = workspace[place]
    for m in range(k1):
        for n in range(k2):
            columns[:, :, :, m, n] = x[:, m : m + P, n : n + Q]  # E6  each window becomes a row
    X, bank = xp.reshape(columns, (N * P * Q, k1 * k2 * C)), xp.reshape(w, (k1 * k2 * C, D))
    y = xp.reshape(X @ bank, (N, P, Q, D))  # E4

    def pullback(dy):
        delta = xp.reshape(dy, (N * P * Q, D))
        dw = xp.reshape(X.T @ delta, w.shape)  # E11
        dcolumns = xp.reshape(delta @ bank.T, (N, P, Q, k1, k2, C))  # E13
        dx = xp.zeros(x.shape, dtype=x.dtype)
        for m in range(k1):
            for n in range(k2):
                dx[:, m : m + P, n : n + Q] += dcolumns[:, :, :, m, n]  # E13
        return dx, dw

    return y, pullback


STALE_COLUMNS = Exercise(
    name="stale-columns",
    symptom="Every check is green, yet a network that uses one layer twice learns nonsense.",
    story="""Keeping the large array of columns between steps made training faster, and every gradient check still
    passes to the last digit. A plain network trains as before. A siamese network, which runs the same layer on two
    images before it goes back, does not learn; nor does one whose author prints a prediction between forward and
    backward.""",
    op=conv2d_by_columns,
    anchors=("E11",),
    hint="Run forward on A, then on B of the same shape, and then the pullback of A. Whose columns does it read?",
    fix=(
        (
            """\
    place = (type(x), x.dtype.name, N, P, Q, k1, k2, C)
    if place not in workspace:  # made once, used in every step: columns are large
        workspace[place] = xp.empty((N, P, Q, k1, k2, C), dtype=x.dtype)
    columns = workspace[place]
""",
            "    columns = xp.empty((N, P, Q, k1, k2, C), dtype=x.dtype)  # this call's own\n",
        ),
    ),
    lesson="""A pullback is the derivative *at the point where the op was called*, and whatever it needs from that
    point must be its own. Memory that outlives the call belongs to whoever calls next. No witness that compares the
    numbers of one forward and one backward pass can see this: it takes two calls, in the wrong order. That is why the
    grader tests manners too, and why dualnet's ops keep nothing on a layer.""",
    truth=TRUTH,
    cases=maps((2, 4, 5, 2, 2, 3, 3), (1, 5, 4, 1, 3, 2, 2)),
    linear=(0, 1),
    caught_by=("manners",),
    blind={
        "loops": "One forward pass and one pullback: the columns are still those of this call.",
        "slopes": "The pullback is called right after its own forward pass, before the next one.",
        "parity": "Each backend has columns of its own, and goes forward and back without a break.",
        "pytorch": "One forward pass and one pullback here too.",
    },
    preamble=f"{NAMESPACE}\n\nworkspace = {{}}",
)


EXERCISES = (LAST_USE, SECOND_DRAW, BORROWED_DELTA, UNWRITTEN_PIXELS, STALE_COLUMNS)
