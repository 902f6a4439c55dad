"""What every loss does with its targets and weights: it checks them, and takes the mean (E10).

A loss is a mean of terms, ``E = Σ terms / their number`` or, with weights, ``Σ w · terms / Σ w``. A term with weight 0
does not count: its target is not checked, and neither its term nor its delta adds anything, even if it is NaN.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from ..geometry import elements
from ..shim import Array, backend_of, namespace, same_backend, to_numpy
from ..shim.dtypes import dtype_of, is_floating, is_real
from .sums import finite_or, share, summed, wide, wide_dtype

Over = int | Array
"""What terms are averaged over: their number or, with weights, an array with the share of each."""

SLACK = {"bfloat16": 1e-2}
"""How far from 1 the rounded probabilities of a row may add up; for other dtypes 1e-3, which is enough for float16."""

# -- targets -----------------------------------------------------------------------------------------------------------


def check_labels(op: str, t: Array, classes: int) -> None:
    """Raise ``ValueError`` unless t holds integers from 0 to classes − 1. One small copy to the host.

    (On a GPU, a label out of range would silently match no class, or the wrong one.)

    >>> import dualnet as dn
    >>> dn.losses.check_labels("fit", dn.asarray([0, 3]), 3)
    Traceback (most recent call last):
    ValueError: fit: label 3 is out of range; 3 classes have the labels 0 … 2. Labels that start at 1 need t - 1.
    """
    xp = same_backend(op, t=t)
    check_integers(op, t)
    if t.size == 0:
        return
    least, largest = map(int, to_numpy(xp.stack([xp.min(t), xp.max(t)])))
    if least < 0 or largest >= classes:
        wrong, hint = (least, "") if least < 0 else (largest, " Labels that start at 1 need t - 1.")
        raise ValueError(
            f"{op}: label {wrong} is out of range; {classes} classes have the labels 0 … {classes - 1}.{hint}"
        )


def check_classes(op: str, y: Array, t: Array, shares: Array | None = None) -> None:
    """Raise ``ValueError`` unless t holds class numbers or rows of probabilities. One small copy to the host."""
    if are_labels(y, t):
        check_integers(op, t)
        check_labels(op, t if shares is None else counted(t, shares[..., 0]), y.shape[-1])
    else:
        check_probabilities(op, t if shares is None else counted(t, shares, 1 / y.shape[-1]))


def are_labels(y: Array, t: Array) -> bool:
    """Are the targets class numbers (N, ...)? Else they are probabilities (N, ..., C)."""
    return t.ndim < y.ndim


def check_rows(op: str, y: Array, t: Array) -> None:
    """Raise ``ValueError`` unless t has a target for each row of logits."""
    shape = tuple(y.shape)
    if len(shape) < 2 or shape[-1] == 0:
        raise ValueError(f"{op}: y has shape {shape}; expected logits (N, C) or (N, ..., C), with at least one class")
    check_not_empty(op, y)
    if tuple(t.shape) not in (shape, shape[:-1]):
        raise ValueError(
            f"{op}: t has shape {tuple(t.shape)}; for y {shape} expected class numbers {shape[:-1]}, or "
            f"probabilities {shape}{_shape_hint(shape, tuple(t.shape))}"
        )
    if are_labels(y, t):
        check_integers(op, t)


def _shape_hint(y: tuple[int, ...], t: tuple[int, ...]) -> str:
    """What to do if t has one axis too many, or y has those of a map."""
    if t == (*y[:-1], 1):
        return ". t[..., 0] has class numbers."
    if len(y) > 2 and t == y[:1]:
        return ". For one class per example, flatten the maps before the last layer, with Flatten()."
    return ""


def check_integers(op: str, t: Array) -> None:
    if t.dtype.kind not in "iu":
        raise ValueError(
            f"{op}: labels must be integers, got {t.dtype}. Convert them with dn.asarray(t, dtype='int64')."
        )


def check_probabilities(op: str, q: Array) -> None:
    """Raise ``ValueError`` unless each row of q (..., C) holds probabilities."""
    xp = backend_of(q).xp
    slack = SLACK.get(q.dtype.name, 1e-3)
    q = wide(q.astype(dtype_of(q.dtype), copy=False))  # in native byte order
    gap = xp.max(xp.abs(summed(q, -1) - 1.0))
    least, gap = map(float, to_numpy(xp.stack([xp.min(q).astype(gap.dtype), gap])))
    if not (least >= 0.0 and gap <= slack):
        raise ValueError(
            f"{op}: t has y's shape, so it must hold probabilities: at least 0, and each row (the last axis) adds up "
            f"to 1. The smallest value is {least:g}, and one row's sum is off by {gap:g}. Class numbers have y's shape "
            "without the last axis."
        )


def check_answers(op: str, y: Array, t: Array, shares: Array | None = None) -> None:
    """Raise ``ValueError`` unless t lies between 0 (no) and 1 (yes). One small copy to the host."""
    xp = backend_of(t).xp
    t = t if shares is None else counted(t, shares)
    least, largest = map(float, to_numpy(xp.stack([xp.min(t), xp.max(t)])))
    if not 0.0 <= least <= largest <= 1.0:
        raise ValueError(f"{op}: t must lie between 0 (no) and 1 (yes), got values from {least:g} to {largest:g}")


def target_probabilities(xp: Any, t: Array, log_p: Array, smoothing: float) -> Array:
    """The target probabilities q (N, ..., C), from class numbers (N, ...) or probabilities (N, ..., C)."""
    classes = log_p.shape[-1]
    if are_labels(log_p, t):
        t = t[..., None].astype("int64") == xp.arange(classes)  # one-hot   (N, ..., C)
    q = t.astype(log_p.dtype)
    return (1.0 - smoothing) * q + smoothing / classes if smoothing else q


# -- arguments and the mean --------------------------------------------------------------------------------------------


def loss_namespace(op: str, y: Array, t: Array) -> Any:
    same_backend(op, y=y, t=t)
    if not is_real(t.dtype):
        raise TypeError(f"{op}: t has dtype {t.dtype}; expected real numbers")
    if y.dtype.kind in "iu" and is_floating(t.dtype):
        raise TypeError(
            f"{op}: y has dtype {y.dtype} and t {t.dtype}; expected the outputs y first, then the targets t"
        )
    return namespace(op, y=y)


def check_shape(op: str, y: Array, t: Array) -> None:
    if y.ndim == 0 or tuple(t.shape) != tuple(y.shape):
        shapes = f"y has shape {tuple(y.shape)} and t {tuple(t.shape)}"
        hint = ". t[:, None] has it." if tuple(y.shape) == (*t.shape, 1) else ""
        if not hint and tuple(y.shape[:-1]) == tuple(t.shape) and t.dtype.kind in "iu":
            hint = ". Class numbers are for softmax_cross_entropy."
        raise ValueError(f"{op}: {shapes}; expected one shape (N, ...){hint}")
    check_not_empty(op, y)


def check_not_empty(op: str, y: Array) -> None:
    if y.size == 0:
        raise ValueError(f"{op}: y has shape {tuple(y.shape)}; the mean over an empty batch has no value")


def rows_of(y: Array) -> int:
    return y.size // y.shape[-1]


def read_as(y: Array, t: Array) -> Array:
    """The targets, in the dtype in which the loss of y is computed."""
    return t.astype(wide_dtype(y), copy=False)


def shares_of(op: str, y: Array, weights: Array | None, axes: int) -> Array | None:
    """The share that each term has in the loss, w / Σ w, in a shape that broadcasts to y; None without weights.

    The loss is a mean over the first ``axes`` axes of y, and the weights cover the first of these, or more.
    """
    if weights is None:
        return None
    xp, shape = same_backend(op, y=y, weights=weights), tuple(weights.shape)
    if not is_real(weights.dtype):
        raise TypeError(f"{op}: weights has dtype {weights.dtype}; expected real numbers")
    if not shape or len(shape) > axes or shape != tuple(y.shape[: len(shape)]):
        fitting = " or ".join(str(tuple(y.shape[:some])) for some in range(1, axes + 1))
        raise ValueError(f"{op}: weights has shape {shape}; for y {tuple(y.shape)} expected {fitting}")
    w = weights.astype(wide_dtype(y))
    if backend_of(y).on_host and not (xp.min(w) >= 0.0 and xp.max(w) < math.inf):
        raise ValueError(
            f"{op}: weights must be finite numbers of at least 0, got values from {xp.min(w):g} to {xp.max(w):g}"
        )
    w = xp.where(w >= 0.0, w, math.nan)  # on a device
    top = xp.max(w)
    w = w / xp.where(top > 0.0, top, 1.0)  # so that their sum cannot overflow
    total = summed(w, keepdims=False) * elements(y.shape[len(shape) : axes])
    w = w / xp.where(total == 0.0, 1.0, total)
    return xp.reshape(w, (*shape, *(1 for _ in range(y.ndim - len(shape)))))


def counted(values: Array, over: Over, instead: float = 0) -> Array:
    """The values that count; the others, whose share is 0, become ``instead``, even if they are infinite or NaN."""
    return values if isinstance(over, int) else backend_of(values).xp.where(over == 0.0, instead, values)


def mean_of(terms: Array, over: Over, shared: Callable[[float], Array] | None = None) -> Array:
    """Σ terms / their number or, with shares, Σ shares · terms: a 0-d array. In parts if that sum overflows.

    ``shared(part)`` gives part · terms, if a term itself may overflow.
    """
    part = share(terms.size)

    def added(terms: Array, part: float) -> Array:
        if isinstance(over, int):
            return summed(terms, keepdims=False) / (over * part)
        return summed(counted(terms, over) * over, keepdims=False) / part

    def again() -> Array:
        return added(terms * part if shared is None else shared(part), part)

    return finite_or(terms, lambda: added(terms, 1.0), again)


def per_term(dloss: float | Array, y: Array, over: Over) -> float | Array:
    """The share of dE/dE that one term of the mean gets. An array is cast to y's dtype: a float64 would widen dy."""
    dloss = dloss.astype(y.dtype) if hasattr(dloss, "astype") else dloss
    return dloss / over if isinstance(over, int) else dloss * over
