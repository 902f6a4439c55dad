"""Activations made of straight pieces, or of x times such a function: ReLU6, hard sigmoid, hard swish and PReLU.

    E7    forward    o = f(x)
    E14   pullback   δ = f'(x) · ∂E/∂o

Small and quantised networks use them instead of exp: MobileNetV2 has ReLU6, MobileNetV3 hard swish. At a lower corner
f' is the slope to its left, and at an upper corner the slope to its right, as in PyTorch. The branch that an
element did not take adds exactly 0 to its gradient, even if the delta is infinite or NaN. NaN stays NaN. 16-bit
numbers are converted to float32, and the result is rounded once.

Shapes: x of any shape and floating dtype, and y of the same.
"""

from __future__ import annotations

from ..shim import Array, backend_of, namespace
from .pullback import Pullback
from .sums import rounded_once, summed

__all__ = ["hardsigmoid", "hardswish", "prelu", "relu6"]


def relu6(x: Array) -> tuple[Array, Pullback]:
    """ReLU that is cut off at 6: ``y = min(max(0, x), 6)`` (E7); its derivative is 1 where 0 < x < 6, else 0 (E14).

    x of any shape and floating dtype -> y of the same; ``pullback(dy)`` returns dx and keeps y. Source: Howard et al.
    (2017), MobileNets; Krizhevsky (2010).

    >>> import dualnet as dn
    >>> y, pullback = dn.ops.relu6(dn.asarray([-1.0, 2.0, 7.0]))
    >>> dn.to_numpy(y), dn.to_numpy(pullback(dn.asarray([10.0, 10.0, 10.0])))
    (array([0., 2., 6.], dtype=float32), array([ 0., 10.,  0.], dtype=float32))
    """
    namespace("relu6", x=x)
    y = relu6_forward(x)  # E7

    def pullback(dy: Array) -> Array:
        return relu6_backward(dy, y)  # E14

    return y, Pullback("relu6", pullback, y, y=y)


@rounded_once
def relu6_forward(x: Array) -> Array:
    """E7: min(max(0, x), 6)."""
    return backend_of(x).xp.clip(x, 0.0, 6.0)


@rounded_once
def relu6_backward(dy: Array, y: Array) -> Array:
    """E14: dy where 0 < y < 6, which is exactly where 0 < x < 6, else 0, for any dy."""
    return backend_of(dy).xp.where((y > 0.0) & (y < 6.0), dy, 0.0)


def hardsigmoid(x: Array) -> tuple[Array, Pullback]:
    """A sigmoid of three straight pieces: ``y = min(max(0, x + 3), 6) / 6`` (E7); f' = 1/6 where −3 < x < 3 (E14).

    x of any shape and floating dtype -> y of the same; ``pullback(dy)`` returns dx and keeps y. Source: Howard et al.
    (2019), MobileNetV3, section 5.2; Courbariaux, Bengio and David (2015).

    >>> import dualnet as dn
    >>> y, pullback = dn.ops.hardsigmoid(dn.asarray([-4.0, 0.0, 3.0]))
    >>> dn.to_numpy(y), dn.to_numpy(pullback(dn.asarray([6.0, 6.0, 6.0])))
    (array([0. , 0.5, 1. ], dtype=float32), array([0., 1., 0.], dtype=float32))
    """
    namespace("hardsigmoid", x=x)
    y = hardsigmoid_forward(x)  # E7
    inside = inner(x)

    def pullback(dy: Array) -> Array:
        return hardsigmoid_backward(dy, inside)  # E14

    return y, Pullback("hardsigmoid", pullback, y, inside=inside)


@rounded_once
def hardsigmoid_forward(x: Array) -> Array:
    """E7: min(max(0, x + 3), 6) / 6."""
    return backend_of(x).xp.clip(x + 3.0, 0.0, 6.0) / 6.0


@rounded_once
def hardsigmoid_backward(dy: Array, inside: Array) -> Array:
    """E14: dy / 6 on the slope, else 0, for any dy."""
    return backend_of(dy).xp.where(inside, dy / 6.0, 0.0)


def hardswish(x: Array) -> tuple[Array, Pullback]:
    """SiLU with the hard sigmoid: ``y = x · min(max(0, x + 3), 6) / 6`` (E7).

    f' = 0 where x ≤ −3, 1 where x ≥ 3, and x / 3 + 1/2 in between (E14). x of any shape and floating dtype -> y of the
    same; ``pullback(dy)`` returns dx and keeps x. Source: Howard et al. (2019), MobileNetV3, section 5.2.

    >>> import dualnet as dn
    >>> y, pullback = dn.ops.hardswish(dn.asarray([-1.5, 0.0, 3.0]))
    >>> dn.to_numpy(y), dn.to_numpy(pullback(dn.asarray([2.0, 2.0, 2.0])))
    (array([-0.375,  0.   ,  3.   ], dtype=float32), array([0., 1., 2.], dtype=float32))
    """
    namespace("hardswish", x=x)
    y = hardswish_forward(x)  # E7

    def pullback(dy: Array) -> Array:
        return hardswish_backward(dy, x)  # E14

    return y, Pullback("hardswish", pullback, y, x=x)


@rounded_once
def hardswish_forward(x: Array) -> Array:
    """E7: x · min(max(0, x + 3), 6) / 6."""
    xp = backend_of(x).xp
    return xp.maximum(x, -3.0) * (xp.clip(x + 3.0, 0.0, 6.0) / 6.0)  # E7  0 · −∞ would be NaN


@rounded_once
def hardswish_backward(dy: Array, x: Array) -> Array:
    """E14: dy (x / 3 + 1/2) between −3 and 3; 0 on the left, for any dy, and dy on the right."""
    xp = backend_of(dy).xp
    return xp.where(x <= -3.0, 0.0, dy) * xp.where(inner(x) | (x != x), xp.clip(x, -3.0, 3.0) / 3.0 + 0.5, 1.0)  # E14


def inner(x: Array) -> Array:
    """Where −3 < x < 3."""
    return (x > -3.0) & (x < 3.0)


def prelu(x: Array, alpha: Array) -> tuple[Array, Pullback]:
    """ReLU with a slope below zero that is learned: ``y = max(0, x) + α min(0, x)`` (E7).

    x (N, ..., C) floating -> y like x; alpha (C,), one slope for each channel, or (1,), one for all. f' = 1 where
    x > 0, else α (E14), and ``∂y/∂α = min(0, x)``. ``pullback(dy)`` returns ``(dx, dalpha)`` and keeps x. Raises
    ``ValueError`` if alpha has a different shape. Source: He et al. (2015), equations 8 to 10.

    >>> import dualnet as dn
    >>> y, pullback = dn.ops.prelu(dn.asarray([[-2.0, 4.0]]), dn.asarray([0.25]))
    >>> dn.to_numpy(y), [dn.to_numpy(each).tolist() for each in pullback(dn.asarray([[1.0, 1.0]]))]
    (array([[-0.5,  4. ]], dtype=float32), [[[0.25, 1.0]], [-2.0]])
    """
    namespace("prelu", x=x, alpha=alpha)
    if x.ndim < 2:
        raise ValueError(f"prelu: x has shape {tuple(x.shape)}; expected (N, ..., C), with a batch and channels")
    if tuple(alpha.shape) not in ((x.shape[-1],), (1,)):
        raise ValueError(
            f"prelu: alpha has shape {tuple(alpha.shape)}; for x {tuple(x.shape)} expected ({x.shape[-1]},), a slope "
            "for each channel, or (1,), one for all"
        )
    y = prelu_forward(x, alpha)  # E7

    def pullback(dy: Array) -> tuple[Array, Array]:
        """dy (N, ..., C) -> dx (N, ..., C), dalpha like alpha."""
        return prelu_backward(dy, x, alpha)  # E14

    return y, Pullback("prelu", pullback, y, x=x, alpha=alpha)


@rounded_once
def prelu_forward(x: Array, alpha: Array) -> Array:
    """E7: max(0, x) + α min(0, x)."""
    xp = backend_of(x).xp
    below = xp.where(alpha == 0.0, xp.maximum(xp.minimum(x, 0.0), -1.0), xp.minimum(x, 0.0))  # 0 · −∞ would be NaN
    return xp.maximum(x, 0.0) + alpha * below


@rounded_once
def prelu_backward(dy: Array, x: Array, alpha: Array) -> tuple[Array, Array]:
    """E14: dx = dy where x > 0, else α dy; dα = Σ dy min(0, x) over all places that share the slope."""
    xp = backend_of(dy).xp
    active = (x > 0.0).astype(dy.dtype)  # 1 or 0
    dx = dy * (active + alpha * (1.0 - active))  # E14
    each = xp.where(x < 0.0, dy, 0.0) * xp.minimum(x, 0.0)  # E14  ∂y/∂α = min(0, x)
    shared = range(x.ndim - (alpha.shape[0] == x.shape[-1]))
    return dx, xp.reshape(summed(each, shared), alpha.shape)
