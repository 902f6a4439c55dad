"""Losses (E10): one number E that says how far a prediction y is from its target t, and its gradient.

    loss, pullback = dn.losses.softmax_cross_entropy(y, t)
    dy = pullback()          # ∂E/∂y;   pullback(s) is s · ∂E/∂y

Each is an average, so that its size does not grow with the batch. The loss is a 0-d array of y's dtype, where y lives.
The targets t are constants: they may have any real dtype, are read as y's, and get no gradient. With a y of 16 bits
everything between is float32; a loss that must not be rounded to them, nor dy yet, is that of ``y.astype("float32")``.

Targets that cannot be meant are refused (class 10 of 10, a probability of 255). To look at them a device has to wait
for one small copy to the host; ``check_labels=False`` trusts them, for a loop that has looked at all of them before.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..arguments import fraction, positive
from ..shim import Array, accelerated, backend_of, namespace, same_backend, to_numpy
from ..shim.dtypes import is_half, is_real
from .activation import log_softmax, logistic
from .pullback import LossPullback
from .sums import narrow, rounded_once, summed, wide, wide_dtype

__all__ = [
    "binary_cross_entropy",
    "check_labels",
    "get",
    "huber",
    "mean_squared_error",
    "softmax_cross_entropy",
]

Loss = Callable[..., tuple[Array, LossPullback]]

SLACK = {"bfloat16": 1e-2}
"""How far the probabilities of a row may be from 1 in sum, for their rounding; else 1e-3, enough for float16."""


def softmax_cross_entropy(
    y: Array, t: Array, *, label_smoothing: float = 0.0, check_labels: bool = True
) -> tuple[Array, LossPullback]:
    """``E = −Σ_p q_p log softmax(y)_p``, the mean over all rows (E10); ``∂E/∂y = (softmax(y) − q) / rows``.

    y (N, C) or (N, ..., C): LOGITS, not probabilities. t: class numbers (N, ...), integers from 0 to C − 1; or the
    wanted probabilities q, of y's shape, that add up to 1 in each row (one-hot or soft). ``label_smoothing`` ε spreads
    a share of q over all classes, ``q ← (1 − ε) q + ε / C`` (Szegedy et al. 2016, section 7). ``pullback()`` is dy.

    A logit of −inf is fine where q is 0 (0 · log 0 = 0); elsewhere the loss is inf. Raises ``ValueError`` for labels
    that are no integers, of another shape or outside 0 … C − 1, for rows that are no probabilities and empty batches.

    >>> import dualnet as dn
    >>> y, t = dn.asarray([[0.0, 0.0], [1e4, 0.0]]), dn.asarray([1, 0])
    >>> loss, pullback = dn.losses.softmax_cross_entropy(y, t)
    >>> round(float(dn.to_numpy(loss)), 4)  # (log 2 + 0) / 2
    0.3466
    >>> dn.to_numpy(pullback()).tolist()
    [[0.25, -0.25], [0.0, 0.0]]
    """
    _namespace("softmax_cross_entropy", y, t)
    smoothing = fraction(label_smoothing, "label_smoothing", op="softmax_cross_entropy")
    _check_classes("softmax_cross_entropy", y, t, check_labels)

    loss, log_p = cross_entropy(y, t, smoothing)  # E10

    def pullback(dloss: float | Array) -> Array:
        return cross_entropy_backward(log_p, t, dloss, smoothing)  # E10

    return loss, LossPullback("softmax_cross_entropy", pullback, loss, log_p=log_p, t=t)


@accelerated
@rounded_once
def cross_entropy(y: Array, t: Array, smoothing: float) -> tuple[Array, Array]:
    """E10: the loss, −Σ q log softmax(y) averaged over the rows, and log softmax(y) (N, ..., C)."""
    xp = backend_of(y).xp
    log_p, _ = log_softmax(y)  # (N, ..., C)
    q = _wanted(xp, t, log_p, smoothing)  # (N, ..., C)
    return _mean(-q * xp.where(q > 0.0, log_p, 0.0), _rows(y)), log_p  # E10  with 0 · log 0 = 0


@accelerated
@rounded_once
def cross_entropy_backward(log_p: Array, t: Array, dloss: float | Array, smoothing: float) -> Array:
    """E10: dy (N, ..., C), the delta softmax(y) − q of each row, times its share of dloss."""
    xp = backend_of(log_p).xp
    q = _wanted(xp, t, log_p, smoothing)  # made again rather than kept
    return (xp.exp(log_p) - q) * _per_term(dloss, log_p, _rows(log_p))  # E10  the delta softmax(y) − q


def mean_squared_error(y: Array, t: Array) -> tuple[Array, LossPullback]:
    """``E = ½ Σ_p (t_p − y_p)²``, summed over the outputs of an example and averaged over the N of the batch (E10).

    y (N, ...) floating, t of the same shape and any real dtype; ``pullback()`` is dy = (y − t) / N. Mind the factor: a
    mean over all elements would be 2 / (number of outputs) times this. Raises ``ValueError`` for another shape of t (a
    t of (N,) beside a y of (N, 1) would silently make N × N differences) and for an empty batch.

    >>> import dualnet as dn
    >>> y, t = dn.asarray([[1.0, 2.0], [3.0, 4.0]]), dn.asarray([[1, 2], [3, 2]])
    >>> loss, pullback = dn.losses.mean_squared_error(y, t)
    >>> float(dn.to_numpy(loss)), dn.to_numpy(pullback()).tolist()
    (1.0, [[0.0, 0.0], [0.0, 1.0]])
    """
    _namespace("mean_squared_error", y, t)
    _check_shape("mean_squared_error", y, t)
    N = y.shape[0]
    residual, dtype = _less(y, t), y.dtype
    loss = _mean(0.5 * residual * residual, N).astype(dtype, copy=False)  # E10

    def pullback(dloss: float | Array) -> Array:
        return (residual * _per_term(dloss, residual, N)).astype(dtype, copy=False)  # E10

    return loss, LossPullback("mean_squared_error", pullback, loss, residual=residual)


def binary_cross_entropy(
    y: Array, t: Array, *, label_smoothing: float = 0.0, check_labels: bool = True
) -> tuple[Array, LossPullback]:
    """Cross-entropy of independent yes-or-no answers. **y ARE LOGITS**: leave the sigmoid out of the network's end.

    ``E = −q log σ(y) − (1 − q) log(1 − σ(y))``, the mean over all elements (E10); ``∂E/∂y = (σ(y) − q) / elements``.
    y of any shape (N, ...), floating; t of the same shape and any real dtype, from 0 (no) to 1 (yes).
    ``label_smoothing`` ε moves q towards ½, ``q = (1 − ε) t + ε / 2``. ``pullback()`` is dy.

    It is computed as log(1 + e^−|y|) + |y| · (the share of q on the wrong side), which cannot overflow; the loss is inf
    only for an infinite logit on the wrong side. Raises ``ValueError`` for another shape of t, for values outside 0 … 1
    (labels of −1 and 1, say) and for an empty batch.

    >>> import dualnet as dn
    >>> loss, pullback = dn.losses.binary_cross_entropy(dn.asarray([0.0, 1e4]), dn.asarray([1, 1]))
    >>> round(float(dn.to_numpy(loss)), 4), dn.to_numpy(pullback()).tolist()  # (log 2 + 0) / 2
    (0.3466, [-0.25, 0.0])
    """
    op = "binary_cross_entropy"
    xp = _namespace(op, y, t)
    smoothing = fraction(label_smoothing, "label_smoothing", op=op)
    _check_shape(op, y, t)
    if check_labels:
        check_answers(op, t)
    q = (1.0 - smoothing) * t.astype(wide_dtype(y)) + 0.5 * smoothing
    wrong = xp.abs((y > 0.0) - q)  # 1 − q where the logit says yes, q where it says no
    far = xp.where(wrong > 0.0, xp.abs(wide(y)), 0.0)  # 0 · ∞ would be NaN
    loss = narrow(_mean(xp.log1p(xp.exp(-xp.abs(wide(y)))) + wrong * far, y.size), y)  # E10

    def pullback(dloss: float | Array) -> Array:
        return narrow((logistic(xp, wide(y)) - q) * _per_term(dloss, q, y.size), y)  # E10

    return loss, LossPullback(op, pullback, loss, y=y, q=q)


def huber(y: Array, t: Array, *, delta: float = 1.0) -> tuple[Array, LossPullback]:
    """``E = ½ r²`` where |r| ≤ δ, else ``δ (|r| − ½ δ)``, with r = y − t: squared near, linear far, so that outliers
    pull no harder than δ. The mean over all elements (E10); ``∂E/∂y = r``, cut off at ±δ, over their number.

    y of any shape (N, ...), floating; t of the same shape and any real dtype; δ > 0. ``pullback()`` is dy. Raises
    ``ValueError`` for another shape of t and for an empty batch. Source: Huber (1964).

    >>> import dualnet as dn
    >>> loss, pullback = dn.losses.huber(dn.asarray([1.0, 10.0]), dn.asarray([0.0, 0.0]))
    >>> float(dn.to_numpy(loss)), dn.to_numpy(pullback()).tolist()  # (0.5 + 9.5) / 2
    (5.0, [0.5, 0.5])
    """
    xp = _namespace("huber", y, t)
    delta = positive(delta, "delta", op="huber")
    _check_shape("huber", y, t)
    residual, dtype, elements = _less(y, t), y.dtype, y.size
    far = xp.abs(residual)
    near = xp.minimum(far, delta)
    loss = _mean(near * (far - 0.5 * near), elements)  # E10  both cases in one: near is |r| or δ
    loss = loss.astype(dtype, copy=False)

    def pullback(dloss: float | Array) -> Array:
        dy = xp.clip(residual, -delta, delta) * _per_term(dloss, residual, elements)  # E10
        return dy.astype(dtype, copy=False)

    return loss, LossPullback("huber", pullback, loss, residual=residual)


# -- by name -----------------------------------------------------------------------------------------------------------

NAMES: dict[str, Loss] = {
    loss.__name__: loss for loss in (softmax_cross_entropy, mean_squared_error, binary_cross_entropy, huber)
}


def get(loss: str | Loss) -> Loss:
    """The loss of this name, or the function itself: any ``(y, t) -> (loss, LossPullback)``.

    >>> import dualnet as dn
    >>> dn.losses.get("huber") is dn.losses.huber
    True
    """
    if callable(loss):
        return loss
    if not isinstance(loss, str):
        raise TypeError(f"loss is a name or a function (y, t) -> (loss, pullback), got {loss!r}")
    if loss not in NAMES:
        raise ValueError(f"unknown loss {loss!r}; choose from {', '.join(NAMES)}, or give a function")
    return NAMES[loss]


def of(net: Any, loss: str | Loss | None = None) -> Loss:
    """The loss given, else the one that the network was last trained with, else softmax cross-entropy.

    >>> import dualnet as dn
    >>> dn.losses.of(dn.Dense(2)) is dn.losses.softmax_cross_entropy
    True
    """
    return get(known(net) if loss is None else loss)


def known(net: Any) -> str | Loss:
    """The loss that the network was last trained with, as it was given, else softmax cross-entropy's name."""
    loss = getattr(net, "loss", softmax_cross_entropy.__name__)
    if loss is None:
        raise ValueError(
            "this network was trained with a loss of your own, which its file does not hold; say which, with loss=..."
        )
    return loss


# -- targets -----------------------------------------------------------------------------------------------------------


def check_labels(op: str, t: Array, classes: int) -> None:
    """Raise ``ValueError`` unless t holds integers from 0 to classes − 1. One small copy to the host.

    (On a GPU, a label out of range would match no class or another one, without a word.)

    >>> import dualnet as dn
    >>> dn.losses.check_labels("fit", dn.asarray([0, 3]), 3)
    Traceback (most recent call last):
    ValueError: fit: label 3 is out of range; 3 classes have the labels 0 … 2. Labels that start at 1 need t - 1.
    """
    xp = same_backend(op, t=t)
    _check_integers(op, t)
    if t.size == 0:
        return
    least, largest = map(int, to_numpy(xp.stack([xp.min(t), xp.max(t)])))
    if least < 0 or largest >= classes:
        wrong, hint = (least, "") if least < 0 else (largest, " Labels that start at 1 need t - 1.")
        raise ValueError(
            f"{op}: label {wrong} is out of range; {classes} classes have the labels 0 … {classes - 1}.{hint}"
        )


def _check_classes(op: str, y: Array, t: Array, check: bool) -> None:
    """Do y and t fit, and is t what it should be?"""
    shape = tuple(y.shape)
    if len(shape) < 2 or shape[-1] == 0:
        raise ValueError(f"{op}: y has shape {shape}; expected logits (N, C) or (N, ..., C), of at least one class")
    _check_not_empty(op, y)
    if tuple(t.shape) not in (shape, shape[:-1]):
        raise ValueError(
            f"{op}: t has shape {tuple(t.shape)}; for y {shape} expected class numbers {shape[:-1]}, or "
            f"probabilities {shape}"
        )
    if t.ndim < y.ndim:
        _check_integers(op, t)
    if check and t.ndim < y.ndim:
        check_labels(op, t, shape[-1])
    elif check:
        check_probabilities(op, t if is_half(t.dtype) else t.astype(wide_dtype(y)))


def _check_integers(op: str, t: Array) -> None:
    if t.dtype.kind not in "iu":
        raise ValueError(f"{op}: labels are integers, got {t.dtype}. Convert them with dn.asarray(t, dtype='int64').")


def check_probabilities(op: str, q: Array) -> None:
    xp = backend_of(q).xp
    slack = SLACK.get(q.dtype.name, 1e-3)
    q = wide(q)
    gap = xp.max(xp.abs(summed(q, -1) - 1.0))
    least, gap = map(float, to_numpy(xp.stack([xp.min(q).astype(gap.dtype), gap])))
    if not (least >= 0.0 and gap <= slack):
        raise ValueError(
            f"{op}: t of y's shape holds probabilities, at least 0 and 1 in sum over the last axis; got {least:g} as "
            f"the least, and a row whose sum is off by {gap:g}. Class numbers have y's shape without the last axis."
        )


def check_answers(op: str, t: Array) -> None:
    xp = backend_of(t).xp
    least, largest = map(float, to_numpy(xp.stack([xp.min(t), xp.max(t)])))
    if not 0.0 <= least <= largest <= 1.0:
        raise ValueError(f"{op}: t goes from 0 (no) to 1 (yes), got values from {least:g} to {largest:g}")


def _wanted(xp: Any, t: Array, log_p: Array, smoothing: float) -> Array:
    """The wanted probabilities q (N, ..., C), from class numbers (N, ...) or probabilities (N, ..., C)."""
    classes = log_p.shape[-1]
    if t.ndim < log_p.ndim:
        t = t[..., None].astype("int64") == xp.arange(classes)  # one-hot   (N, ..., C)
    q = t.astype(log_p.dtype)
    return (1.0 - smoothing) * q + smoothing / classes if smoothing else q


# -- arguments and the mean --------------------------------------------------------------------------------------------


def _namespace(op: str, y: Array, t: Array) -> Any:
    same_backend(op, y=y, t=t)
    if not is_real(t.dtype):
        raise TypeError(f"{op}: t has dtype {t.dtype}; expected real numbers")
    return namespace(op, y=y)


def _check_shape(op: str, y: Array, t: Array) -> None:
    if y.ndim == 0 or tuple(t.shape) != tuple(y.shape):
        shapes = f"y has shape {tuple(y.shape)} and t {tuple(t.shape)}"
        hint = ". t[:, None] has it." if tuple(y.shape) == (*t.shape, 1) else ""
        raise ValueError(f"{op}: {shapes}; expected one shape (N, ...){hint}")
    _check_not_empty(op, y)


def _check_not_empty(op: str, y: Array) -> None:
    if y.size == 0:
        raise ValueError(f"{op}: y has shape {tuple(y.shape)}; the mean over an empty batch has no value")


def _rows(y: Array) -> int:
    return y.size // y.shape[-1]


def _less(y: Array, t: Array) -> Array:
    """y − t, of 16 bits in float32."""
    y = wide(y)
    return y - t.astype(y.dtype, copy=False)


def _mean(terms: Array, count: int) -> Array:
    """Σ terms / count, a 0-d array."""
    return summed(terms, keepdims=False) / count


def _per_term(dloss: float | Array, y: Array, count: int) -> float | Array:
    """dE/dE / count: what one term of the mean gets. An array is cast to y's dtype, lest a float64 widens dy."""
    return (dloss.astype(y.dtype) if hasattr(dloss, "astype") else dloss) / count
