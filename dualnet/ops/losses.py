"""Losses (E10): one number E that says how far a prediction y is from its target t, and its gradient.

    loss, pullback = dn.losses.softmax_cross_entropy(y, t)
    dy = pullback()          # ∂E/∂y;   pullback(s) is s · ∂E/∂y

Each is an average, so that its size does not grow with the batch. The loss is a 0-d array of y's dtype, on y's backend.
The targets t are constants: they may have any real dtype, are converted to y's, and get no gradient. If y has 16 bits,
everything in between is float32, and only the loss and dy are rounded; ``y.astype("float32")`` avoids that too.
A loss is finite whenever its true value is: if the sum of the terms overflows, their mean is computed another way.

With ``weights`` the average is a weighted one, ``E = Σ wᵢ Eᵢ / Σ wᵢ`` over examples i: w (N,), or one weight for each
place, of y's first axes, such as (N, H, W). A weight of 0 leaves its term out: y and t may be anything there, NaN or a
label such as 255, and dy is exactly 0. If all weights are 0, so are the loss and dy. On the host, weights that are
negative or not finite raise an error. A device would have to stop for this check, so there they make the loss NaN.

Impossible targets raise an error (class 10 of 10, a probability of 255). To check them, a device has to wait for one
small copy to the host; ``check_labels=False`` skips the check, for a loop that has already checked all of them.

Everything else that differs from loss to loss, such as which answers are right, is in one table: :class:`About`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..arguments import fraction, positive
from ..shim import Array, accelerated, backend_of, to_numpy
from .activation import below_top, log_softmax, logistic, sigmoid, softmax
from .more_losses import binary_focal, cosine_distance, dice, hinge, kl_divergence, softmax_focal
from .pullback import LossPullback
from .sums import finite_or, quiet, rounded_once, summed
from .targets import (
    Over,
    are_labels,
    check_answers,
    check_classes,
    check_labels,
    check_rows,
    check_shape,
    counted,
    loss_namespace,
    mean_of,
    per_term,
    read_as,
    rows_of,
    shares_of,
    target_probabilities,
)

__all__ = [
    "binary_cross_entropy",
    "binary_focal",
    "check_labels",
    "cosine_distance",
    "dice",
    "get",
    "hinge",
    "huber",
    "kl_divergence",
    "mean_squared_error",
    "softmax_cross_entropy",
    "softmax_focal",
]

Loss = Callable[..., tuple[Array, LossPullback]]


def softmax_cross_entropy(
    y: Array, t: Array, weights: Array | None = None, *, label_smoothing: float = 0.0, check_labels: bool = True
) -> tuple[Array, LossPullback]:
    """``E = −Σ_p q_p log softmax(y)_p``, the mean over all rows (E10); ``∂E/∂y = (softmax(y) − q) / rows``.

    y (N, C) or (N, ..., C): LOGITS, not probabilities. t: class numbers (N, ...), integers from 0 to C − 1; or target
    probabilities q of y's shape, each row adding up to 1 (one-hot or soft). ``label_smoothing`` ε spreads a share of q
    over all classes, ``q ← (1 − ε) q + ε / C`` (Szegedy et al. 2016, section 7). ``weights``: one for each example,
    (N,), or for each row, (N, ...). ``pullback()`` is dy.

    A logit of −inf is fine if its q is 0 (0 · log 0 = 0); otherwise the loss is inf. Raises ``ValueError`` for labels
    that are not integers, have the wrong shape or lie outside 0 … C − 1, for rows that are not probabilities, and for
    empty batches.

    >>> import dualnet as dn
    >>> y, t = dn.asarray([[0.0, 0.0], [1e4, 0.0]]), dn.asarray([1, 0])
    >>> loss, pullback = dn.losses.softmax_cross_entropy(y, t)
    >>> round(float(dn.to_numpy(loss)), 4)  # (log 2 + 0) / 2
    0.3466
    >>> dn.to_numpy(pullback()).tolist()
    [[0.25, -0.25], [0.0, 0.0]]
    >>> loss, pullback = dn.losses.softmax_cross_entropy(y, dn.asarray([1, 255]), weights=dn.asarray([1.0, 0.0]))
    >>> round(float(dn.to_numpy(loss)), 4), dn.to_numpy(pullback()).tolist()  # log 2 alone
    (0.6931, [[0.5, -0.5], [0.0, 0.0]])
    """
    op = "softmax_cross_entropy"
    loss_namespace(op, y, t)
    smoothing = fraction(label_smoothing, "label_smoothing", op=op)
    check_rows(op, y, t)
    shares = shares_of(op, y, weights, y.ndim - 1)
    if check_labels:
        check_classes(op, y, t, shares)

    with quiet(y):  # log softmax(y) may be out of range even if the loss is not
        if shares is None:
            loss, log_p = cross_entropy(y, t, smoothing)  # E10
        else:
            loss, log_p = entropy_over(y, t, shares, smoothing)  # E10

    def pullback(dloss: float | Array) -> Array:
        if shares is None:
            return cross_entropy_backward(log_p, t, dloss, smoothing)  # E10
        return entropy_over_backward(log_p, t, dloss, shares, smoothing)  # E10

    return loss, LossPullback(op, pullback, loss, log_p=log_p, t=t, shares=shares)


@accelerated
@rounded_once
def cross_entropy(y: Array, t: Array, smoothing: float) -> tuple[Array, Array]:
    """E10 without weights: the loss, and log softmax(y) (N, ..., C)."""
    return entropy_over(y, t, rows_of(y), smoothing)


@accelerated
@rounded_once
def cross_entropy_backward(log_p: Array, t: Array, dloss: float | Array, smoothing: float) -> Array:
    """E10 without weights: dy (N, ..., C)."""
    return entropy_over_backward(log_p, t, dloss, rows_of(log_p), smoothing)


@rounded_once
def entropy_over(y: Array, t: Array, over: Over, smoothing: float) -> tuple[Array, Array]:
    """E10: the loss, −Σ q log softmax(y) averaged over the rows, and log softmax(y) (N, ..., C)."""
    xp = backend_of(y).xp
    log_p, _ = log_softmax(y)  # (N, ..., C)
    q = target_probabilities(xp, t, log_p, smoothing)  # (N, ..., C)

    def shared(part: float) -> Array:
        """Each term times ``part``, since log softmax(y) itself may be out of range: two logits can be 6e38 apart."""
        below = below_top(xp, y * part, -1)
        log_sums = xp.log(summed(xp.exp(below / part), -1))
        return -q * xp.where(q > 0.0, below - part * log_sums, 0.0)

    return mean_of(-q * xp.where(q > 0.0, log_p, 0.0), over, shared), log_p  # E10  with 0 · log 0 = 0


@rounded_once
def entropy_over_backward(log_p: Array, t: Array, dloss: float | Array, over: Over, smoothing: float) -> Array:
    """E10: dy (N, ..., C), the delta softmax(y) − q of each row, times its share of dloss."""
    xp = backend_of(log_p).xp
    q = target_probabilities(xp, t, log_p, smoothing)  # computed again rather than kept
    return counted(xp.exp(log_p) - q, over) * per_term(dloss, log_p, over)  # E10  the delta softmax(y) − q


def mean_squared_error(y: Array, t: Array, weights: Array | None = None) -> tuple[Array, LossPullback]:
    """``E = ½ Σ_p (t_p − y_p)²``, summed over the outputs of an example and averaged over the N of the batch (E10).

    y (N, ...) floating, t of the same shape and any real dtype; ``weights`` (N,), one for each example. ``pullback()``
    is dy = (y − t) / N. Mind the factor: a mean over all elements would be 2 / (number of outputs) times this. Raises
    ``ValueError`` if t has a different shape (a t of (N,) with a y of (N, 1) would silently make N × N differences) and
    for an empty batch.

    >>> import dualnet as dn
    >>> y, t = dn.asarray([[1.0, 2.0], [3.0, 4.0]]), dn.asarray([[1, 2], [3, 2]])
    >>> loss, pullback = dn.losses.mean_squared_error(y, t)
    >>> float(dn.to_numpy(loss)), dn.to_numpy(pullback()).tolist()
    (1.0, [[0.0, 0.0], [0.0, 1.0]])
    """
    loss_namespace("mean_squared_error", y, t)
    check_shape("mean_squared_error", y, t)
    t = read_as(y, t)
    shares = shares_of("mean_squared_error", y, weights, 1)
    over = y.shape[0] if shares is None else shares

    loss = squared_error(y, t, over)  # E10

    def pullback(dloss: float | Array) -> Array:
        return squared_error_backward(y, t, dloss, over)  # E10

    return loss, LossPullback("mean_squared_error", pullback, loss, y=y, t=t, shares=shares)


@rounded_once
def squared_error(y: Array, t: Array, over: Over) -> Array:
    """E10: ½ Σ r² with r = y − t, averaged over the N examples."""
    with quiet(y):
        residual = y - t
        terms = 0.5 * residual * residual
    return mean_of(terms, over, lambda part: (0.5 * part * residual) * residual)  # E10


@rounded_once
def squared_error_backward(y: Array, t: Array, dloss: float | Array, over: Over) -> Array:
    """E10: dy (N, ...), the residual of each output, times its share of dloss."""
    factor = per_term(dloss, y, over)
    return finite_or(
        y,
        lambda: counted(y - t, over) * factor,  # E10
        lambda: counted(0.5 * y - 0.5 * t, over) * (2.0 * factor),  # E10
    )


def binary_cross_entropy(
    y: Array, t: Array, weights: Array | None = None, *, label_smoothing: float = 0.0, check_labels: bool = True
) -> tuple[Array, LossPullback]:
    """Cross-entropy of independent yes-or-no answers. **y ARE LOGITS**: do not end the network with a sigmoid.

    ``E = −q log σ(y) − (1 − q) log(1 − σ(y))``, the mean over all elements (E10); ``∂E/∂y = (σ(y) − q) / elements``.
    y of any shape (N, ...), floating; t of the same shape and any real dtype, from 0 (no) to 1 (yes).
    ``label_smoothing`` ε moves q towards ½, ``q = (1 − ε) t + ε / 2``. ``weights``: one for each example, (N,), or of
    more of y's axes, up to one for each answer. ``pullback()`` is dy.

    It is computed as log(1 + e^−|y|) + |y| · (the share of q on the wrong side), which cannot overflow; the loss is inf
    only for an infinite logit on the wrong side. Raises ``ValueError`` if t has a different shape or values outside
    0 … 1 (labels of −1 and 1, say), and for an empty batch.

    >>> import dualnet as dn
    >>> loss, pullback = dn.losses.binary_cross_entropy(dn.asarray([0.0, 1e4]), dn.asarray([1, 1]))
    >>> round(float(dn.to_numpy(loss)), 4), dn.to_numpy(pullback()).tolist()  # (log 2 + 0) / 2
    (0.3466, [-0.25, 0.0])
    """
    op = "binary_cross_entropy"
    loss_namespace(op, y, t)
    smoothing = fraction(label_smoothing, "label_smoothing", op=op)
    check_shape(op, y, t)
    shares = shares_of(op, y, weights, y.ndim)
    if check_labels:
        check_answers(op, y, t, shares)
    q = (1.0 - smoothing) * read_as(y, t) + 0.5 * smoothing
    over = y.size if shares is None else shares

    loss = binary_entropy(y, q, over)  # E10

    def pullback(dloss: float | Array) -> Array:
        return binary_entropy_backward(y, q, dloss, over)  # E10

    return loss, LossPullback(op, pullback, loss, y=y, q=q, shares=shares)


@rounded_once
def binary_entropy(y: Array, q: Array, over: Over) -> Array:
    """E10: −q log σ(y) − (1 − q) log(1 − σ(y)), averaged over all elements."""
    xp = backend_of(y).xp
    wrong = xp.abs((y > 0.0) - q)  # 1 − q if the logit says yes, q if it says no
    far = xp.where(wrong > 0.0, xp.abs(y), 0.0)  # 0 · ∞ would be NaN
    return mean_of(xp.log1p(xp.exp(-xp.abs(y))) + wrong * far, over)  # E10


@rounded_once
def binary_entropy_backward(y: Array, q: Array, dloss: float | Array, over: Over) -> Array:
    """E10: dy (N, ...), the delta σ(y) − q of each answer, times its share of dloss."""
    return counted(logistic(backend_of(y).xp, y) - q, over) * per_term(dloss, y, over)  # E10


def huber(y: Array, t: Array, weights: Array | None = None, *, delta: float = 1.0) -> tuple[Array, LossPullback]:
    """``E = ½ r²`` where |r| ≤ δ, else ``δ (|r| − ½ δ)``, with r = y − t: squared near, linear far, so that outliers
    pull no harder than δ. The mean over all elements (E10); ``∂E/∂y = r``, cut off at ±δ, over their number.

    y of any shape (N, ...), floating; t of the same shape and any real dtype; δ > 0. ``weights``: one for each example,
    (N,), or of more of y's axes, up to one for each element. ``pullback()`` is dy. Raises ``ValueError`` if t has
    a different shape and for an empty batch. Source: Huber (1964).

    >>> import dualnet as dn
    >>> loss, pullback = dn.losses.huber(dn.asarray([1.0, 10.0]), dn.asarray([0.0, 0.0]))
    >>> float(dn.to_numpy(loss)), dn.to_numpy(pullback()).tolist()  # (0.5 + 9.5) / 2
    (5.0, [0.5, 0.5])
    """
    loss_namespace("huber", y, t)
    delta = positive(delta, "delta", op="huber")
    check_shape("huber", y, t)
    t = read_as(y, t)
    shares = shares_of("huber", y, weights, y.ndim)
    over = y.size if shares is None else shares

    loss = huber_error(y, t, over, delta)  # E10

    def pullback(dloss: float | Array) -> Array:
        return huber_error_backward(y, t, dloss, over, delta)  # E10

    return loss, LossPullback("huber", pullback, loss, y=y, t=t, shares=shares)


@rounded_once
def huber_error(y: Array, t: Array, over: Over, delta: float) -> Array:
    """E10: ½ r² near and δ (|r| − ½ δ) far, with r = y − t, averaged over all elements."""
    xp = backend_of(y).xp

    def shared(part: float) -> Array:
        """Each term times ``part``: ½ r² near, δ (|r| − ½ δ) far. Both cases in one: near is |r| or δ."""
        far = xp.abs(y - t) if part == 1.0 else xp.abs(y * part - t * part)
        near = xp.minimum(far if part == 1.0 else far / part, delta)
        return near * (far - 0.5 * part * near)

    with quiet(y):
        terms = shared(1.0)
    return mean_of(terms, over, shared)  # E10


@rounded_once
def huber_error_backward(y: Array, t: Array, dloss: float | Array, over: Over, delta: float) -> Array:
    """E10: dy (N, ...), the residual of each element, cut off at ±δ, times its share of dloss."""
    with quiet(y):
        return counted(backend_of(y).xp.clip(y - t, -delta, delta), over) * per_term(dloss, y, over)  # E10


# -- what each loss is -------------------------------------------------------------------------------------------------


def right_classes(y: Array, t: Array) -> Array:
    """Is the largest logit of each row that of its class? y (N, ..., C) -> bool (N, ...)."""
    xp = backend_of(y).xp
    return xp.argmax(y, axis=-1) == (t if are_labels(y, t) else xp.argmax(t, axis=-1))


def right_answers(y: Array, t: Array) -> Array:
    """Does each logit have the sign of its answer? y (N, ...) -> bool (N, ...)."""
    return (y > 0) == (t > 0.5)


def classes_in_words(y: Array, p: Array) -> list[str]:
    """The class of each row, and its probability: y, p (N, C). A single output is a number, not a class.

    >>> import dualnet as dn
    >>> classes_in_words(dn.asarray([[0.0, 1.0], [2.0, 2.0]]), dn.asarray([[0.269, 0.731], [0.5, 0.5]]))
    ['class 1 (73.1 %)', 'class 0 (50.0 %)']
    """
    if y.shape[-1] == 1:
        return numbers_in_words(y, p)
    classes = to_numpy(backend_of(y).xp.argmax(y, axis=-1))
    return [f"class {label} ({100 * row[label]:.1f} %)" for label, row in zip(classes, to_numpy(p))]


def answers_in_words(y: Array, p: Array) -> list[str]:
    """Yes or no for an example with one output; with several outputs, the labels that apply: p (N, L).

    >>> import dualnet as dn
    >>> answers_in_words(None, dn.asarray([[0.731], [0.2]]))
    ['yes (73.1 %)', 'no (80.0 %)']
    >>> answers_in_words(None, dn.asarray([[0.731, 0.1, 0.9], [0.3, 0.4, 0.2]]))
    ['label 0 (73.1 %), label 2 (90.0 %)', 'none of the 3 labels (the likeliest is label 1, 40.0 %)']
    """
    return [_answer(row[0]) if len(row) == 1 else _labels_that_apply(row) for row in to_numpy(p)]


def _answer(p: Any) -> str:
    return f"yes ({100 * p:.1f} %)" if p > 0.5 else f"no ({100 - 100 * p:.1f} %)"


def _labels_that_apply(row: Any) -> str:
    apply = [f"label {label} ({100 * p:.1f} %)" for label, p in enumerate(row) if p > 0.5]
    best = row.argmax()
    return ", ".join(apply) or (
        f"none of the {len(row)} labels (the likeliest is label {best}, {100 * row[best]:.1f} %)"
    )


def numbers_in_words(y: Array, p: Array) -> list[str]:
    """The outputs of each example as they are: y (N, M). If there are more than 20, the first ten.

    >>> import dualnet as dn
    >>> numbers_in_words(dn.asarray([[0.5, -1.25]]), None)
    ['0.5, -1.25']
    """
    most = y.shape[-1] if y.shape[-1] <= 20 else 10
    rest = f", … ({y.shape[-1]:,} numbers)" if y.shape[-1] > most else ""
    return [", ".join(f"{value:.6g}" for value in row[:most]) + rest for row in to_numpy(y)]


def outputs_in_words(y: Array, p: Array) -> list[str]:
    """The outputs of a network whose loss is unknown, and which of them is the largest: y (N, M).

    >>> import dualnet as dn
    >>> outputs_in_words(dn.asarray([[0.5, 1.25]]), None)
    ['0.5, 1.25 (the largest is output 1)']
    """
    lines = numbers_in_words(y, p)
    if y.shape[-1] == 1:
        return lines
    return [f"{line} (the largest is output {row.argmax()})" for line, row in zip(lines, to_numpy(y))]


def maps_in_words(y: Array) -> list[str]:
    """One line about the feature maps or the image of each example: y (N, ..., C).

    >>> import dualnet as dn
    >>> maps_in_words(dn.asarray([[[[0.0], [1.0]]]]))
    ['1 × 2 × 1 numbers from 0 to 1, on average 0.5']
    """
    shape = " × ".join(map(str, y.shape[1:]))
    return [
        f"{shape} numbers from {values.min():.6g} to {values.max():.6g}, on average {values.mean():.6g}"
        for values in to_numpy(y)
    ]


@dataclass(frozen=True)
class About:
    """What the rest of the package needs to know about a loss. The defaults are for a loss of your own.

    check           ``check(op, y, t)`` raises ``ValueError`` for impossible targets; None if any number will do
    unchecked       the options that make the loss skip the check of its targets
    right           ``right(y, t)`` says which answers are right; None if there are no classes
    contains        the op that the loss applies to y, so that the network need not; None if it applies none
    in_words        what ``dualnet predict`` prints for outputs y (N, M) and p, the result of ``contains`` on y: one
                    line per example
    """

    function: Loss
    check: Callable[[str, Array, Array], None] | None = None
    unchecked: Mapping[str, Any] = field(default_factory=dict)
    right: Callable[[Array, Array], Array] | None = None
    contains: Callable[..., Any] | None = None
    in_words: Callable[[Array, Array], list[str]] = outputs_in_words


UNCHECKED = {"check_labels": False}

TABLE = (
    About(softmax_cross_entropy, check_classes, UNCHECKED, right_classes, softmax, classes_in_words),
    About(mean_squared_error, in_words=numbers_in_words),
    About(binary_cross_entropy, check_answers, UNCHECKED, right_answers, sigmoid, answers_in_words),
    About(huber, in_words=numbers_in_words),
    About(softmax_focal, check_classes, UNCHECKED, right_classes, softmax, classes_in_words),
    About(binary_focal, check_answers, UNCHECKED, right_answers, sigmoid, answers_in_words),
    About(hinge, check_answers, UNCHECKED, right_answers, in_words=numbers_in_words),
    About(kl_divergence, check_classes, UNCHECKED, right_classes, softmax, classes_in_words),
    About(dice, check_answers, UNCHECKED, right_answers, sigmoid),
    About(cosine_distance, in_words=numbers_in_words),
)

NAMES: dict[str, Loss] = {row.function.__name__: row.function for row in TABLE}


def about(loss: str | Loss) -> About:
    """What the package knows about a loss: one of ours, with or without ``functools.partial``, or one of your own.

    >>> import dualnet as dn, functools
    >>> smooth = functools.partial(dn.losses.softmax_cross_entropy, label_smoothing=0.1)
    >>> about(smooth).function.__name__, about("huber").right is None, about(lambda y, t: None).check is None
    ('softmax_cross_entropy', True, True)
    """
    loss = get(loss)
    while isinstance(loss, functools.partial):
        loss = loss.func
    return next((row for row in TABLE if row.function is loss), About(loss))


def unchecked(loss: str | Loss) -> Loss:
    """The loss without the check of its targets, for a loop that has already checked all of them.

    >>> import dualnet as dn
    >>> unchecked("softmax_cross_entropy").keywords, unchecked("huber") is dn.losses.huber
    ({'check_labels': False}, True)
    """
    loss, options = get(loss), about(loss).unchecked
    return functools.partial(loss, **options) if options else loss


def get(loss: str | Loss) -> Loss:
    """The loss of this name, or the function itself: any ``(y, t) -> (loss, LossPullback)``.

    >>> import dualnet as dn
    >>> dn.losses.get("huber") is dn.losses.huber
    True
    """
    if callable(loss):
        return loss
    if not isinstance(loss, str):
        raise TypeError(f"loss must be a name or a function (y, t) -> (loss, pullback), got {loss!r}")
    if loss not in NAMES:
        raise ValueError(f"unknown loss {loss!r}; choose from {', '.join(NAMES)}, or give a function")
    return NAMES[loss]


def of(net: Any, loss: str | Loss | None = None) -> Loss:
    """The given loss, or else the one that the network was last trained with, or else softmax cross-entropy.

    >>> import dualnet as dn
    >>> dn.losses.of(dn.Dense(2)) is dn.losses.softmax_cross_entropy
    True
    """
    return get(known(net) if loss is None else loss)


def known(net: Any) -> str | Loss:
    """The loss that the network was last trained with, as ``fit`` got it; otherwise softmax cross-entropy's name."""
    loss = getattr(net, "loss", softmax_cross_entropy.__name__)
    if loss is None:
        raise ValueError(
            "this network was trained with a loss of your own, which is not in its file; pass it with loss=..."
        )
    return loss


def in_words(net: Any, y: Array) -> list[str]:
    """The outputs y of a network as ``dualnet predict`` prints them, according to the loss it was last trained with.

    >>> import dualnet as dn
    >>> in_words(dn.Dense(2), dn.asarray([[0.0, 1.0], [0.0, float("nan")]]))
    ['class 1 (73.1 %)', 'no answer: the network gave NaN or infinity']
    """
    shape = tuple(y.shape)
    if len(shape) > 2 and any(extent != 1 for extent in shape[1:-1]):
        lines = maps_in_words(y)
    else:
        y = y.reshape(shape[0], shape[-1] if len(shape) > 1 else 1)
        words, contains = reading(net)
        lines = words(y, y if contains is None or ends_with(net, contains) else contains(y)[0])
    usable = [math.isfinite(values.max()) for values in to_numpy(y)]  # a logit of −∞ is fine
    return [line if fine else "no answer: the network gave NaN or infinity" for line, fine in zip(lines, usable)]


def reading(net: Any) -> tuple[Callable[[Array, Array], list[str]], Callable[..., Any] | None]:
    """How to read a network's outputs: its loss decides, or else its last layer; with neither, as logits of classes."""
    loss = getattr(net, "loss", None)
    known = [row for row in TABLE if loss is not None and row == about(loss)]
    last = [row for row in TABLE if row.contains is not None and ends_with(net, row.contains)]
    for row in known + last:
        return row.in_words, row.contains
    return (outputs_in_words, None) if hasattr(net, "loss") else (classes_in_words, softmax)


def ends_with(net: Any, op: Callable[..., Any]) -> bool:
    """Is this op the last thing that a network does?

    >>> import dualnet as dn
    >>> ends_with(dn.Sequential([dn.Dense(2), dn.Softmax()]), dn.ops.softmax)
    True
    """
    while getattr(net, "layers", None):
        net = net.layers[-1]
    return getattr(net, "op", None) is op
