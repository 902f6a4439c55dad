"""The fully-connected part after the maps: flatten and reshape, and the dense layer's matrix product.

    E9    x^l  =  o^{l−1} W^l + b^l                  one row of o for each image
    E16   ∂E/∂W = oᵀ δ      ∂E/∂b = Σ δ      ∂E/∂o = δ Wᵀ

Forward and backward are the same matrix product, with one factor transposed.

Shapes: x (N, K), w (K, D), b (D,), y (N, D). Source: Jefkine (2016); Rumelhart, Hinton and Williams (1986).
"""

from __future__ import annotations

import math
from typing import Any

from ..arguments import index
from ..shim import Array, accelerated, backend_of, namespace
from .activation import rectify, rectify_backward
from .pullback import Pullback
from .sums import channel_sum, rounded_once

__all__ = ["dense", "flatten", "reshape"]


def flatten(x: Array) -> tuple[Array, Pullback]:
    """Lay every image's units out in one row (E9): x (N, ...) -> y (N, K). ``pullback(dy)`` folds them back.

    If the layout in memory allows it, y is a view of x.

    >>> import dualnet as dn
    >>> y, pullback = dn.ops.flatten(dn.asarray([[[[1.0], [2.0]], [[3.0], [4.0]]]]))
    >>> dn.to_numpy(y), pullback(y).shape
    (array([[1., 2., 3., 4.]], dtype=float32), (1, 2, 2, 1))
    """
    xp = namespace("flatten", x=x)
    if x.ndim < 2:
        raise ValueError(f"flatten: x has shape {tuple(x.shape)}; expected (N, ...), the batch first")
    shape = tuple(x.shape)
    y = xp.reshape(x, (shape[0], math.prod(shape[1:])))  # E9

    def pullback(dy: Array) -> Array:
        """dy (N, K) -> dx (N, ...)."""
        return xp.reshape(dy, shape)  # E9  nothing was computed: every delta goes back to its unit

    return y, Pullback("flatten", pullback, y)


def reshape(x: Array, shape: tuple[int, ...]) -> tuple[Array, Pullback]:
    """Every image's units in a different shape, in the same order (E9): x (N, ...) -> ``y (N, *shape)``.

    ``shape`` leaves out the batch; one of its numbers may be −1, which means "whatever is left". ``pullback(dy)``
    returns dx. If the layout in memory allows it, y is a view of x. Raises ``ValueError`` if the two shapes do not have
    the same number of units.

    >>> import dualnet as dn
    >>> y, pullback = dn.ops.reshape(dn.asarray([[1.0, 2.0, 3.0, 4.0]]), (2, -1, 1))
    >>> y.shape, dn.to_numpy(pullback(y))
    ((1, 2, 2, 1), array([[1., 2., 3., 4.]], dtype=float32))
    """
    xp = namespace("reshape", x=x)
    if x.ndim < 2:
        raise ValueError(f"reshape: x has shape {tuple(x.shape)}; expected (N, ...), the batch first")
    before = tuple(x.shape)
    y = xp.reshape(x, (before[0], *fitted(check_target(shape, "reshape"), before[1:], "reshape")))  # E9

    def pullback(dy: Array) -> Array:
        """dy (N, *shape) -> dx (N, ...)."""
        return xp.reshape(dy, before)  # E9  nothing was computed: every delta goes back to its unit

    return y, Pullback("reshape", pullback, y)


def check_target(shape: Any, op: str) -> tuple[int, ...]:
    """The shape of an example: positive integers, one of which may be −1."""
    given = (shape,) if isinstance(shape, int) else shape
    if not isinstance(given, (tuple, list)) or not given:
        raise TypeError(f"{op}: shape must be a tuple of integers without the batch, such as (7, 7, 16), got {shape!r}")
    target = tuple(index(extent, "shape", op=op) for extent in given)
    if any(extent < 1 and extent != -1 for extent in target) or target.count(-1) > 1:
        raise ValueError(f"{op}: shape must hold positive integers, and -1 at most once, got {shape!r}")
    return target


def fitted(target: tuple[int, ...], shape: tuple[int, ...], op: str) -> tuple[int, ...]:
    """The target with its −1 filled in, for examples of this shape; ``ValueError`` if the number of units differs."""
    units, known = math.prod(shape), math.prod(extent for extent in target if extent != -1)
    if (units % known if -1 in target else units != known) or (-1 in target and not units):
        raise ValueError(
            f"{op}: an example of shape {tuple(shape)} has {units} units, which do not fit shape={target}. The "
            f"numbers in shape must multiply to {units}; one of them may be -1, for whatever is left."
        )
    return tuple(units // known if extent == -1 else extent for extent in target)


def dense(
    x: Array, w: Array, b: Array | None = None, *, need_dx: bool = True, relu: bool = False
) -> tuple[Array, Pullback]:
    """The fully-connected layer (E9): x (N, K), w (K, D), b (D,) or None -> y (N, D).

    x may have more axes in the middle, (N, ..., K) -> (N, ..., D): each row is one input. ``pullback(dy)`` returns
    ``(dx, dw, db)`` (E16); db is None without b, dx is None with ``need_dx=False``. ``relu=True`` applies ReLU to y, in
    the same pass over memory.

    Raises ``ValueError`` for shapes that do not fit and ``TypeError`` for dtypes or backends that do not.

    >>> import dualnet as dn
    >>> x, w, b = dn.asarray([[1.0, 2.0]]), dn.asarray([[10.0], [1.0]]), dn.asarray([0.5])
    >>> y, pullback = dn.ops.dense(x, w, b)
    >>> dn.to_numpy(y)
    array([[12.5]], dtype=float32)
    >>> dx, dw, db = pullback(dn.asarray([[2.0]]))
    >>> dn.to_numpy(dx), dn.to_numpy(dw).ravel(), dn.to_numpy(db)
    (array([[20.,  2.]], dtype=float32), array([2., 4.], dtype=float32), array([2.], dtype=float32))
    """
    xp = namespace("dense", x=x, w=w, b=b, optional=("b",))
    _check(x, w, b)
    shape, (K, D), biased = tuple(x.shape), w.shape, b is not None
    inputs = xp.reshape(x, (math.prod(shape[:-1]), K))  # (M, K)

    rows = affine_relu(inputs, w, b) if relu else affine(inputs, w, b)  # (M, D)  E9, and E7 with relu
    y, kept = xp.reshape(rows, (*shape[:-1], D)), rows if relu else None

    def pullback(dy: Array) -> tuple[Array | None, Array, Array | None]:
        """dy (N, ..., D) -> dx (N, ..., K), dw (K, D), db (D,)."""
        deltas = xp.reshape(dy, (-1, D))  # (M, D)
        deltas = rectify_backward(deltas, kept) if relu else deltas  # E14
        dw = affine(inputs.T, deltas)  # E16  ∂E/∂W = oᵀ δ
        db = channel_sum(deltas) if biased else None  # E16  ∂E/∂b = Σ δ
        dx = xp.reshape(affine(deltas, w.T), shape) if need_dx else None  # E16  ∂E/∂o = δ Wᵀ
        return dx, dw, db

    return y, Pullback("dense", pullback, y, x=inputs, w=w, y=kept)


@accelerated
@rounded_once
def affine(x: Array, w: Array, b: Array | None = None) -> Array:
    """x w + b: (M, K), (K, D), (D,) -> (M, D)."""
    y = backend_of(x).xp.matmul(x, w)
    if b is not None:
        y += b
    return y


@accelerated
def affine_relu(x: Array, w: Array, b: Array | None = None) -> Array:
    """max(0, x w + b): (M, K), (K, D), (D,) -> (M, D)."""
    return rectify(affine(x, w, b))  # E7


def _check(x: Array, w: Array, b: Array | None) -> None:
    if x.ndim < 2:
        raise ValueError(f"dense: x has shape {tuple(x.shape)}; expected (N, ..., K), the batch first")
    if w.ndim != 2 or 0 in w.shape:
        raise ValueError(f"dense: w has shape {tuple(w.shape)}; expected a matrix (K, D)")
    if x.shape[-1] != w.shape[0]:
        raise ValueError(
            f"dense: x {tuple(x.shape)} has rows of {x.shape[-1]}, but w {tuple(w.shape)} reads {w.shape[0]}. "
            f"Expected w of shape ({x.shape[-1]}, D)." + (" Feature maps are flattened first." if x.ndim == 4 else "")
        )
    if b is not None and tuple(b.shape) != (w.shape[1],):
        raise ValueError(f"dense: b has shape {tuple(b.shape)}; expected ({w.shape[1]},), one bias per unit")
