"""Losses (E10) that the four common ones do not cover: rare classes, margins, distributions, overlap, directions.

Each is a mean as described in :mod:`dualnet.ops.losses`: with weights, in y's dtype, with float32 in between for 16
bits. If y holds logits, p is softmax(y) or σ(y).

    softmax_focal, binary_focal   −(1 − p)^γ log p of the right answer: easy examples count little
    hinge                         max(0, 1 − s y) with s = ±1: an answer that is right by a margin of 1 costs nothing
    kl_divergence                 Σ q (log q − log p): how far p is from a distribution q
    dice                          1 − 2 |p ∩ t| / (|p| + |t|): how little two regions overlap
    cosine_distance               1 − cos ∠(y, t): the angle between two vectors, whatever their lengths
"""

from __future__ import annotations

from typing import Any

from ..arguments import number
from ..geometry import elements
from ..shim import Array, backend_of
from .activation import SATURATED, below_top, log_softmax, logistic
from .pullback import LossPullback
from .sums import quiet, rounded_once, summed, wide
from .targets import (
    Over,
    check_answers,
    check_classes,
    check_probabilities,
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

__all__ = ["binary_focal", "cosine_distance", "dice", "hinge", "kl_divergence", "softmax_focal"]


# -- rare classes ------------------------------------------------------------------------------------------------------


def softmax_focal(
    y: Array, t: Array, weights: Array | None = None, *, gamma: float = 2.0, check_labels: bool = True
) -> tuple[Array, LossPullback]:
    """``E = −Σ_c q_c (1 − p_c)^γ log p_c`` with p = softmax(y), the mean over all rows (E10).

    Cross-entropy in which an example that is already right counts little, so that the many easy examples of a common
    class do not drown the few of a rare one. y (N, C) or (N, ..., C): LOGITS. t: class numbers (N, ...), or
    probabilities q of y's shape. γ ≥ 0; with 0 it is cross-entropy. ``weights``: one for each example or row; a factor
    for each class is ``weights=alpha[t]``. ``pullback()`` is dy. Raises ``ValueError`` as
    :func:`dualnet.losses.softmax_cross_entropy` does. Source: Lin et al. (2017), equation 4.

    >>> import dualnet as dn
    >>> loss, pullback = dn.losses.softmax_focal(dn.asarray([[0.0, 0.0]]), dn.asarray([0]))
    >>> round(float(dn.to_numpy(loss)), 4), dn.to_numpy(pullback()).round(4)  # log 2 / 4
    (0.1733, array([[-0.2983,  0.2983]], dtype=float32))
    """
    op = "softmax_focal"
    loss_namespace(op, y, t)
    gamma = number(gamma, "gamma", op=op)
    check_rows(op, y, t)
    shares = shares_of(op, y, weights, y.ndim - 1)
    if check_labels:
        check_classes(op, y, t, shares)
    over = rows_of(y) if shares is None else shares

    with quiet(y):
        loss, log_p = focal(y, t, over, gamma)  # E10

    def pullback(dloss: float | Array) -> Array:
        return focal_backward(log_p, t, dloss, over, gamma)  # E10

    return loss, LossPullback(op, pullback, loss, log_p=log_p, t=t, shares=shares)


@rounded_once
def focal(y: Array, t: Array, over: Over, gamma: float) -> tuple[Array, Array]:
    """E10: −Σ q (1 − p)^γ log p averaged over the rows, and log p (N, ..., C)."""
    xp = backend_of(y).xp
    log_p, _ = log_softmax(y)  # (N, ..., C)
    q = target_probabilities(xp, t, log_p, 0.0)  # (N, ..., C)
    hard = q * xp.power(-xp.expm1(log_p), gamma)  # q (1 − p)^γ

    def shared(part: float) -> Array:
        """Each term times ``part``, since log p itself may be out of range: two logits can be 6e38 apart."""
        below = below_top(xp, y * part, -1)
        log_sums = xp.log(summed(xp.exp(below / part), -1))
        return -hard * xp.where(hard > 0.0, below - part * log_sums, 0.0)

    return mean_of(-hard * xp.where(hard > 0.0, log_p, 0.0), over, shared), log_p  # E10  with 0 · log 0 = 0


@rounded_once
def focal_backward(log_p: Array, t: Array, dloss: float | Array, over: Over, gamma: float) -> Array:
    """E10: with g = ∂E/∂log p, the delta of each row is g − p Σ g."""
    xp = backend_of(log_p).xp
    q, p, rest = target_probabilities(xp, t, log_p, 0.0), xp.exp(log_p), -xp.expm1(log_p)  # rest = 1 − p
    p_log_p = p * xp.where(p > 0.0, log_p, 0.0)  # 0 · log 0 = 0
    ratio = xp.where(rest > 0.0, p_log_p / xp.where(rest > 0.0, rest, 1.0), -1.0)  # its limit at p = 1 is −1
    g = -q * xp.power(rest, gamma) * (1.0 - gamma * ratio)  # E10  −q [(1 − p)^γ − γ (1 − p)^(γ−1) p log p]
    return counted(g - p * summed(g, -1), over) * per_term(dloss, log_p, over)  # E10


def binary_focal(
    y: Array, t: Array, weights: Array | None = None, *, gamma: float = 2.0, check_labels: bool = True
) -> tuple[Array, LossPullback]:
    """``E = −t (1 − p)^γ log p − (1 − t) p^γ log(1 − p)`` with p = σ(y), the mean over all elements (E10).

    The focal form of :func:`dualnet.losses.binary_cross_entropy`; with γ = 0 they are equal. **y ARE LOGITS**, any
    shape (N, ...); t of the same shape, from 0 (no) to 1 (yes). ``weights``: one for each example, or of more of y's
    axes. ``pullback()`` is dy. Source: Lin et al. (2017).

    >>> import dualnet as dn
    >>> loss, pullback = dn.losses.binary_focal(dn.asarray([0.0, 1e4]), dn.asarray([1, 1]))
    >>> round(float(dn.to_numpy(loss)), 4), dn.to_numpy(pullback()).round(4)
    (0.0866, array([-0.1491,  0.    ], dtype=float32))
    """
    op = "binary_focal"
    loss_namespace(op, y, t)
    gamma = number(gamma, "gamma", op=op)
    check_shape(op, y, t)
    shares = shares_of(op, y, weights, y.ndim)
    if check_labels:
        check_answers(op, y, t, shares)
    t = read_as(y, t)
    over = y.size if shares is None else shares

    loss = focal_answers(y, t, over, gamma)  # E10

    def pullback(dloss: float | Array) -> Array:
        return focal_answers_backward(y, t, dloss, over, gamma)  # E10

    return loss, LossPullback(op, pullback, loss, y=y, t=t, shares=shares)


@rounded_once
def focal_answers(y: Array, t: Array, over: Over, gamma: float) -> Array:
    """E10: −t (1 − p)^γ log p − (1 − t) p^γ log(1 − p), averaged over all elements."""
    xp = backend_of(y).xp
    yes = t * xp.power(logistic(xp, -y), gamma)  # t (1 − p)^γ
    no = (1.0 - t) * xp.power(logistic(xp, y), gamma)
    with quiet(y):  # 0 · ∞, where the 0 counts
        cost = xp.where(yes == 0.0, 0.0, yes * _minus_log(xp, y)) + xp.where(no == 0.0, 0.0, no * _minus_log(xp, -y))
    return mean_of(cost, over)  # E10


@rounded_once
def focal_answers_backward(y: Array, t: Array, dloss: float | Array, over: Over, gamma: float) -> Array:
    """E10: −t (1 − p)^γ (γ p (−log p) + 1 − p) + (1 − t) p^γ (γ (1 − p) (−log(1 − p)) + p)."""
    xp = backend_of(y).xp
    near = xp.clip(y, -SATURATED, SATURATED)  # p is 0 at −800, and 0 · ∞ would be NaN
    p, rest = logistic(xp, near), logistic(xp, -near)
    yes = t * xp.power(rest, gamma) * (gamma * p * _minus_log(xp, near) + rest)
    no = (1.0 - t) * xp.power(p, gamma) * (gamma * rest * _minus_log(xp, -near) + p)
    return counted(no - yes, over) * per_term(dloss, y, over)  # E10


def _minus_log(xp: Any, y: Array) -> Array:
    """−log σ(y) = log(1 + e^−y), where no exponential overflows."""
    return xp.maximum(-y, 0.0) + xp.log1p(xp.exp(-xp.abs(y)))


# -- margins -----------------------------------------------------------------------------------------------------------


def hinge(y: Array, t: Array, weights: Array | None = None, *, check_labels: bool = True) -> tuple[Array, LossPullback]:
    """``E = max(0, 1 − s y)`` with s = 2t − 1, the mean over all elements (E10); ``∂E/∂y`` is −s where 1 − s y > 0.

    The loss of a support vector machine: an answer that is right by a margin of 1 costs nothing. y of any shape
    (N, ...), floating; t of the same shape, 0 (no) or 1 (yes), as for :func:`dualnet.losses.binary_cross_entropy`:
    answers of −1 and 1 need ``(t + 1) / 2``. ``weights``: one for each example, or of more of y's axes. ``pullback()``
    is dy. Source: Cortes and Vapnik (1995).

    >>> import dualnet as dn
    >>> loss, pullback = dn.losses.hinge(dn.asarray([0.5, 3.0]), dn.asarray([0, 1]))
    >>> float(dn.to_numpy(loss)), dn.to_numpy(pullback()).tolist()  # (1.5 + 0) / 2
    (0.75, [0.5, 0.0])
    """
    loss_namespace("hinge", y, t)
    check_shape("hinge", y, t)
    shares = shares_of("hinge", y, weights, y.ndim)
    if check_labels:
        check_answers("hinge", y, t, shares)
    t = read_as(y, t)
    over = y.size if shares is None else shares

    loss = margin(y, t, over)  # E10

    def pullback(dloss: float | Array) -> Array:
        return margin_backward(y, t, dloss, over)  # E10

    return loss, LossPullback("hinge", pullback, loss, y=y, t=t, shares=shares)


@rounded_once
def margin(y: Array, t: Array, over: Over) -> Array:
    """E10: max(0, 1 − s y), averaged over all elements."""
    return mean_of(backend_of(y).xp.maximum(1.0 - (2.0 * t - 1.0) * y, 0.0), over)  # E10


@rounded_once
def margin_backward(y: Array, t: Array, dloss: float | Array, over: Over) -> Array:
    """E10: −s where the margin is missed, else 0."""
    xp, s = backend_of(y).xp, 2.0 * t - 1.0
    return counted(xp.where(1.0 - s * y > 0.0, -s, 0.0), over) * per_term(dloss, y, over)  # E10


# -- distributions -----------------------------------------------------------------------------------------------------


def kl_divergence(
    y: Array, t: Array, weights: Array | None = None, *, check_labels: bool = True
) -> tuple[Array, LossPullback]:
    """``E = Σ_c q_c (log q_c − log p_c)`` with p = softmax(y), the mean over all rows (E10).

    How far p is from the distribution q: 0 if they are equal. Its gradient (p − q) / rows is that of cross-entropy,
    since the two losses differ by a constant that depends only on q. y (N, C) or (N, ..., C): LOGITS. t: the
    probabilities q, of y's shape; those of a teacher are ``dn.ops.softmax(z / temperature)[0]``. ``weights``: one for
    each example or row. ``pullback()`` is dy. Source: Kullback and Leibler (1951); Hinton, Vinyals and Dean (2015), for
    networks that teach other networks.

    >>> import dualnet as dn
    >>> loss, pullback = dn.losses.kl_divergence(dn.asarray([[0.0, 0.0]]), dn.asarray([[1.0, 0.0]]))
    >>> round(float(dn.to_numpy(loss)), 4), dn.to_numpy(pullback()).tolist()
    (0.6931, [[-0.5, 0.5]])
    """
    op = "kl_divergence"
    loss_namespace(op, y, t)
    check_shape(op, y, t)
    check_rows(op, y, t)
    shares = shares_of(op, y, weights, y.ndim - 1)
    if check_labels:
        check_probabilities(op, t if shares is None else counted(wide(t), shares, 1 / y.shape[-1]))
    over = rows_of(y) if shares is None else shares

    with quiet(y):
        loss, log_p = divergence(y, t, over)  # E10

    def pullback(dloss: float | Array) -> Array:
        return divergence_backward(log_p, t, dloss, over)  # E10

    return loss, LossPullback(op, pullback, loss, log_p=log_p, t=t, shares=shares)


@rounded_once
def divergence(y: Array, t: Array, over: Over) -> tuple[Array, Array]:
    """E10: Σ q (log q − log p) averaged over the rows, and log p (N, ..., C)."""
    xp = backend_of(y).xp
    log_p, _ = log_softmax(y)  # (N, ..., C)
    q = t.astype(log_p.dtype)
    log_q = xp.log(xp.where(q > 0.0, q, 1.0))

    def shared(part: float) -> Array:
        """Each term times ``part``, since log p itself may be out of range."""
        below = below_top(xp, y * part, -1)
        log_sums = xp.log(summed(xp.exp(below / part), -1))
        return q * xp.where(q > 0.0, part * log_q - (below - part * log_sums), 0.0)

    return mean_of(q * xp.where(q > 0.0, log_q - log_p, 0.0), over, shared), log_p  # E10  with 0 · log 0 = 0


@rounded_once
def divergence_backward(log_p: Array, t: Array, dloss: float | Array, over: Over) -> Array:
    """E10: the delta p − q of each row, times its share of dloss."""
    xp = backend_of(log_p).xp
    return counted(xp.exp(log_p) - t.astype(log_p.dtype), over) * per_term(dloss, log_p, over)  # E10


# -- overlap -----------------------------------------------------------------------------------------------------------


def dice(
    y: Array, t: Array, weights: Array | None = None, *, smooth: float = 1.0, check_labels: bool = True
) -> tuple[Array, LossPullback]:
    """``E = 1 − (2 Σ p t + ε) / (Σ p + Σ t + ε)`` with p = σ(y), the sums over an example's places (E10).

    How little the region p overlaps the region t, however small both are: for segmentation of images that are mostly
    background. The mean over all examples and channels. **y ARE LOGITS**, (N, ..., C), with a region for each
    channel; t of the same shape, from 0 (outside) to 1 (inside). With ``smooth`` ε > 0, an empty region that is
    predicted as empty costs 0. ``weights`` (N,), one for each example. ``pullback()`` is dy. Source: Milletari, Navab
    and Ahmadi (2016), with p for p².

    >>> import dualnet as dn
    >>> loss, pullback = dn.losses.dice(dn.asarray([[[1e4], [-1e4]]]), dn.asarray([[[1], [1]]]))
    >>> round(float(dn.to_numpy(loss)), 4)  # 1 − (2 + 1) / (1 + 2 + 1)
    0.25
    """
    loss_namespace("dice", y, t)
    smooth = number(smooth, "smooth", op="dice")
    if smooth == 0.0:
        raise ValueError(
            "dice: smooth must be a number above 0, got 0; an empty region predicted as empty would be 0 / 0"
        )
    check_shape("dice", y, t)
    if y.ndim < 3:
        raise ValueError(
            f"dice: y has shape {tuple(y.shape)}; expected maps of regions (N, ..., C), such as (N, H, W, 1)"
        )
    shares = shares_of("dice", y, weights, 1)
    if check_labels:
        check_answers("dice", y, t, shares)
    t = read_as(y, t)

    loss = overlap(y, t, shares, smooth)  # E10

    def pullback(dloss: float | Array) -> Array:
        return overlap_backward(y, t, dloss, shares, smooth)  # E10

    return loss, LossPullback("dice", pullback, loss, y=y, t=t, shares=shares)


@rounded_once
def overlap(y: Array, t: Array, shares: Array | None, smooth: float) -> Array:
    """E10: 1 − (2 Σ p t + ε) / (Σ p + Σ t + ε), averaged over the examples and channels."""
    both, whole = _regions(y, t, shares, smooth)
    return mean_of(1.0 - both / whole, _regions_over(y, shares))  # E10


@rounded_once
def overlap_backward(y: Array, t: Array, dloss: float | Array, shares: Array | None, smooth: float) -> Array:
    """E10: ∂E/∂p = (both − 2 t whole) / whole², and ∂p/∂y = p (1 − p)."""
    xp, over = backend_of(y).xp, _regions_over(y, shares)
    both, whole = _regions(y, t, shares, smooth)
    t = t if shares is None else counted(t, shares)
    slope = (both / whole - 2.0 * t) / whole * (logistic(xp, y) * logistic(xp, -y))  # E10
    return counted(slope, over) * per_term(dloss, y, over)  # E10


def _regions(y: Array, t: Array, shares: Array | None, smooth: float) -> tuple[Array, Array]:
    """2 Σ p t + ε and Σ p + Σ t + ε of each example and channel, (N, 1, ..., C)."""
    p, places = logistic(backend_of(y).xp, y), range(1, y.ndim - 1)
    if shares is not None:
        p, t = counted(p, shares), counted(t, shares)
    return 2.0 * summed(p * t, places) + smooth, summed(p, places) + summed(t, places) + smooth


def _regions_over(y: Array, shares: Array | None) -> Over:
    """What the regions are averaged over."""
    return y.shape[0] * y.shape[-1] if shares is None else shares / y.shape[-1]


# -- directions --------------------------------------------------------------------------------------------------------


def cosine_distance(y: Array, t: Array, weights: Array | None = None) -> tuple[Array, LossPullback]:
    """``E = 1 − cos ∠(y, t)``, the mean over rows (E10): 0 for equal directions, 1 for a right angle, 2 for opposites.

    y (N, ..., C) floating, t of the same shape and any real dtype; rows are vectors of C numbers, and their lengths do
    not matter. ``∂E/∂y = (cos · ŷ − t̂) / |y|``, with the unit vectors ŷ and t̂. A row of zeros has no direction: it
    costs 1, and its dy is 0. ``weights``: one for each example or row. ``pullback()`` is dy.

    >>> import dualnet as dn
    >>> loss, pullback = dn.losses.cosine_distance(dn.asarray([[2.0, 0.0]]), dn.asarray([[3.0, 4.0]]))
    >>> round(float(dn.to_numpy(loss)), 4), dn.to_numpy(pullback()).round(4)
    (0.4, array([[ 0. , -0.4]], dtype=float32))
    """
    op = "cosine_distance"
    loss_namespace(op, y, t)
    check_shape(op, y, t)
    if y.ndim < 2:
        raise ValueError(f"{op}: y has shape {tuple(y.shape)}; expected vectors (N, ..., C)")
    shares = shares_of(op, y, weights, y.ndim - 1)
    t = read_as(y, t)
    over = elements(y.shape[:-1]) if shares is None else shares

    loss = turned_away(y, t, over)  # E10

    def pullback(dloss: float | Array) -> Array:
        return turned_away_backward(y, t, dloss, over)  # E10

    return loss, LossPullback(op, pullback, loss, y=y, t=t, shares=shares)


@rounded_once
def turned_away(y: Array, t: Array, over: Over) -> Array:
    """E10: 1 − ŷ·t̂, averaged over the rows."""
    return mean_of(1.0 - summed(_direction(y, over)[0] * _direction(t, over)[0], -1), over)  # E10


@rounded_once
def turned_away_backward(y: Array, t: Array, dloss: float | Array, over: Over) -> Array:
    """E10: (cos · ŷ − t̂) / |y|, times the row's share of dloss."""
    (y_hat, length), (t_hat, _) = _direction(y, over), _direction(t, over)
    cosine = summed(y_hat * t_hat, -1)
    delta = counted(cosine * y_hat - t_hat, over) * per_term(dloss, y, over)  # E10
    return backend_of(y).xp.where(length > 0.0, delta / _or_1(length), 0.0)


def _direction(x: Array, over: Over) -> tuple[Array, Array]:
    """The unit vector of each row, or 0 if the row is 0, and its length. Each row is divided by its largest number, so
    that no square overflows or vanishes."""
    xp, x = backend_of(x).xp, counted(x, over)
    top = xp.max(xp.abs(x), axis=-1, keepdims=True)
    scaled = x / _or_1(top)
    length = xp.sqrt(summed(scaled * scaled, -1))
    with quiet(x):
        return scaled / _or_1(length), length * top


def _or_1(x: Array) -> Array:
    return backend_of(x).xp.where(x == 0.0, 1.0, x)
