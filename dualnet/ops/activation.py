"""Activations: functions of one number applied element by element, softmax over an axis, and their pullbacks.

    E7    forward    o = f(x)
    E14   pullback   δ = f'(x) · ∂E/∂o

After each activation come its two formulas, E7 and E14. Its pullback keeps whatever makes the derivative cheapest.
Often that is the result y, which the next layer keeps anyway; f' is then written in terms of y: f' = y (1 − y) for the
sigmoid.

All give correct results at 0, at ±inf and everywhere in between, without a warning: exp never overflows, and products
of 0 and ∞ are avoided if their limit is known. NaN stays NaN. The branch that an element did not take adds exactly
0 to its gradient, even if the delta is infinite or NaN: dy is never multiplied by a condition, since 0 · ∞ is NaN.
A choice between two finite slopes may be a product with a condition (0 or 1), which is many times faster than ``where``
if the signs of x follow no pattern. 16-bit numbers are converted to float32, and the result is rounded once.

Shapes: x of any shape and floating dtype, and y of the same.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ..arguments import flag, index, number
from ..shim import Array, accelerated, backend_of, namespace
from .pullback import Pullback
from .sums import finite_or, quiet, rounded_once, share, summed, wide

__all__ = [
    "elu",
    "gelu",
    "leaky_relu",
    "log_softmax",
    "mish",
    "relu",
    "sigmoid",
    "silu",
    "softmax",
    "softplus",
    "tanh",
]

SATURATED = 800.0
"""σ(−800) is 0 in every floating type."""
FAR = 40.0
"""Φ(−40), φ(40) and the gates of both GELUs at −40 are 0 in every floating type."""


# -- piecewise linear --------------------------------------------------------------------------------------------------


def relu(x: Array) -> tuple[Array, Pullback]:
    """Rectified linear unit ``y = max(0, x)`` (E7); its derivative is 1 where x > 0, else 0, also at 0 itself (E14).

    x of any shape and floating dtype -> y of the same. ``pullback(dy)`` returns dx: dy where x > 0, else exactly 0, for
    any dy. It keeps y, not x. ``relu(NaN)`` is NaN. Source: Nair and Hinton (2010).

    >>> import dualnet as dn
    >>> y, pullback = dn.ops.relu(dn.asarray([-1.0, 0.0, 2.0]))
    >>> dn.to_numpy(y), dn.to_numpy(pullback(dn.asarray([10.0, 10.0, 10.0])))
    (array([0., 0., 2.], dtype=float32), array([ 0.,  0., 10.], dtype=float32))
    """
    namespace("relu", x=x)
    y = rectify(x)  # E7

    def pullback(dy: Array) -> Array:
        return rectify_backward(dy, y)  # E14

    return y, Pullback("relu", pullback, y, y=y)


@accelerated
@rounded_once
def rectify(x: Array) -> Array:
    """E7: max(0, x)."""
    return backend_of(x).xp.maximum(x, 0.0)


@accelerated
@rounded_once
def rectify_backward(dy: Array, y: Array) -> Array:
    """E14: dy where y > 0, which is exactly where x > 0, else 0, for any dy."""
    return backend_of(dy).xp.where(y > 0.0, dy, 0.0)


@accelerated
@rounded_once
def add(x: Array, other: Array, relu: bool = False) -> Array:
    """x + other, for two branches that meet; max(0, x + other) with ``relu`` (E7)."""
    y = x + other
    return rectify(y) if relu else y


def leaky_relu(x: Array, *, alpha: float = 0.01) -> tuple[Array, Pullback]:
    """ReLU with a slope ``alpha`` ≥ 0 below zero: ``y = max(0, x) + alpha · min(0, x)`` (E7); f' is 1 or alpha (E14).

    x of any shape and floating dtype -> y of the same; ``pullback(dy)`` returns dx, with slope alpha at 0, and keeps y.
    Source: Maas, Hannun and Ng (2013).

    >>> import dualnet as dn
    >>> y, pullback = dn.ops.leaky_relu(dn.asarray([-1.0, 2.0]), alpha=0.5)
    >>> dn.to_numpy(y), dn.to_numpy(pullback(dn.asarray([10.0, 10.0])))
    (array([-0.5,  2. ], dtype=float32), array([ 5., 10.], dtype=float32))
    """
    namespace("leaky_relu", x=x)
    alpha = number(alpha, "alpha", op="leaky_relu")
    y = leaky_relu_forward(x, alpha)  # E7

    def pullback(dy: Array) -> Array:
        return leaky_relu_backward(dy, y, alpha)  # E14

    return y, Pullback("leaky_relu", pullback, y, y=y)


@rounded_once
def leaky_relu_forward(x: Array, alpha: float) -> Array:
    """E7: max(0, x) + alpha · min(0, x)."""
    xp = backend_of(x).xp
    y = xp.maximum(x, 0.0)
    return y + alpha * xp.minimum(x, 0.0) if alpha > 0.0 else y  # E7  0 · −∞ would be NaN


@rounded_once
def leaky_relu_backward(dy: Array, y: Array, alpha: float) -> Array:
    """E14: dy where y > 0, else alpha · dy. y has the sign of x."""
    if alpha == 0.0:
        return rectify_backward(dy, y)
    active = (y > 0.0).astype(dy.dtype)  # 1 or 0
    return dy * (active + alpha * (1.0 - active))


# -- with exp ----------------------------------------------------------------------------------------------------------


def elu(x: Array, *, alpha: float = 1.0) -> tuple[Array, Pullback]:
    """Exponential linear unit: ``y = x`` where x > 0, else ``alpha (eˣ − 1)``, alpha ≥ 0 (E7).

    f' = 1 where x > 0, else alpha eˣ = y + alpha (E14). x of any shape and floating dtype -> y of the same;
    ``pullback(dy)`` returns dx and keeps y. Source: Clevert, Unterthiner and Hochreiter (2016), equation 15.

    >>> import dualnet as dn
    >>> y, pullback = dn.ops.elu(dn.asarray([-1e4, 0.0, 2.0]))
    >>> dn.to_numpy(y), dn.to_numpy(pullback(dn.asarray([1.0, 1.0, 1.0])))
    (array([-1.,  0.,  2.], dtype=float32), array([0., 1., 1.], dtype=float32))
    """
    namespace("elu", x=x)
    alpha = number(alpha, "alpha", op="elu")
    y = elu_forward(x, alpha)  # E7

    def pullback(dy: Array) -> Array:
        return elu_backward(dy, y, alpha)  # E14

    return y, Pullback("elu", pullback, y, y=y)


@rounded_once
def elu_forward(x: Array, alpha: float) -> Array:
    """E7: max(0, x) + alpha (e^min(0, x) − 1); one of the two terms is 0."""
    xp = backend_of(x).xp
    return xp.maximum(x, 0.0) + alpha * xp.expm1(xp.minimum(x, 0.0))


@rounded_once
def elu_backward(dy: Array, y: Array, alpha: float) -> Array:
    """E14: dy where y > 0, else dy (y + alpha). y has the sign of x."""
    if alpha == 0.0:
        return rectify_backward(dy, y)
    active = (y > 0.0).astype(dy.dtype)  # 1 or 0
    return dy * (active + (backend_of(dy).xp.minimum(y, 0.0) + alpha) * (1.0 - active))


def sigmoid(x: Array) -> tuple[Array, Pullback]:
    """Logistic function ``y = σ(x) = 1 / (1 + e⁻ˣ)`` (E7), f' = y (1 − y) (E14).

    x of any shape and floating dtype -> y of the same, exact in both tails; ``pullback(dy)`` returns dx and keeps y.

    >>> import dualnet as dn
    >>> y, pullback = dn.ops.sigmoid(dn.asarray([-1e4, 0.0, 1e4]))
    >>> dn.to_numpy(y), dn.to_numpy(pullback(dn.asarray([1.0, 1.0, 1.0])))
    (array([0. , 0.5, 1. ], dtype=float32), array([0.  , 0.25, 0.  ], dtype=float32))
    """
    namespace("sigmoid", x=x)
    y = sigmoid_forward(x)  # E7

    def pullback(dy: Array) -> Array:
        return sigmoid_backward(dy, y)  # E14

    return y, Pullback("sigmoid", pullback, y, y=y)


@rounded_once
def sigmoid_forward(x: Array) -> Array:
    """E7: σ(x)."""
    return logistic(backend_of(x).xp, x)


@rounded_once
def sigmoid_backward(dy: Array, y: Array) -> Array:
    """E14: dy · y (1 − y)."""
    return dy * (y * (1.0 - y))


def tanh(x: Array) -> tuple[Array, Pullback]:
    """Hyperbolic tangent ``y = tanh x`` (E7), f' = 1 − y² (E14).

    x of any shape and floating dtype -> y of the same; ``pullback(dy)`` returns dx and keeps y.

    >>> import dualnet as dn
    >>> y, pullback = dn.ops.tanh(dn.asarray([-1e4, 0.0, 1e4]))
    >>> dn.to_numpy(y), dn.to_numpy(pullback(dn.asarray([1.0, 1.0, 1.0])))
    (array([-1.,  0.,  1.], dtype=float32), array([0., 1., 0.], dtype=float32))
    """
    namespace("tanh", x=x)
    y = tanh_forward(x)  # E7

    def pullback(dy: Array) -> Array:
        return tanh_backward(dy, y)  # E14

    return y, Pullback("tanh", pullback, y, y=y)


@rounded_once
def tanh_forward(x: Array) -> Array:
    """E7: tanh x."""
    return backend_of(x).xp.tanh(x)


@rounded_once
def tanh_backward(dy: Array, y: Array) -> Array:
    """E14: dy (1 − y²), without the rounding of y²."""
    return dy * ((1.0 - y) * (1.0 + y))


def softplus(x: Array) -> tuple[Array, Pullback]:
    """A smooth ReLU, ``y = log(1 + eˣ)`` (E7), f' = σ(x) = 1 − e⁻ʸ (E14).

    x of any shape and floating dtype -> y of the same, exact in both tails; ``pullback(dy)`` returns dx and keeps y.
    Source: Dugas et al. (2001).

    >>> import dualnet as dn
    >>> y, pullback = dn.ops.softplus(dn.asarray([-1e4, 0.0, 1e4]))
    >>> dn.to_numpy(y).round(3), dn.to_numpy(pullback(dn.asarray([1.0, 1.0, 1.0])))
    (array([0.00e+00, 6.93e-01, 1.00e+04], dtype=float32), array([0. , 0.5, 1. ], dtype=float32))
    """
    namespace("softplus", x=x)
    y = softplus_forward(x)  # E7

    def pullback(dy: Array) -> Array:
        return softplus_backward(dy, y)  # E14

    return y, Pullback("softplus", pullback, y, y=y)


@rounded_once
def softplus_forward(x: Array) -> Array:
    """E7: log(1 + eˣ) = max(0, x) + log(1 + e^−|x|), where no exponential overflows."""
    xp = backend_of(x).xp
    return xp.maximum(x, 0.0) + xp.log1p(xp.exp(-xp.abs(x)))


@rounded_once
def softplus_backward(dy: Array, y: Array) -> Array:
    """E14: dy (1 − e⁻ʸ)."""
    return dy * -backend_of(dy).xp.expm1(-y)


# -- gated: x times a gate between 0 and 1 -----------------------------------------------------------------------------


def silu(x: Array) -> tuple[Array, Pullback]:
    """Sigmoid linear unit (swish) ``y = x σ(x)`` (E7), f' = σ (1 + x (1 − σ)) (E14).

    x of any shape and floating dtype -> y of the same; ``silu(−inf)`` is its limit, 0. ``pullback(dy)`` returns dx
    and keeps x. Source: Elfwing, Uchibe and Doya (2018).

    >>> import dualnet as dn
    >>> y, pullback = dn.ops.silu(dn.asarray([0.0, 1e4]))
    >>> dn.to_numpy(y), dn.to_numpy(pullback(dn.asarray([1.0, 1.0])))
    (array([    0., 10000.], dtype=float32), array([0.5, 1. ], dtype=float32))
    """
    namespace("silu", x=x)
    y = silu_forward(x)  # E7

    def pullback(dy: Array) -> Array:
        return silu_backward(dy, x)  # E14

    return y, Pullback("silu", pullback, y, x=x)


@rounded_once
def silu_forward(x: Array) -> Array:
    """E7: x σ(x)."""
    xp = backend_of(x).xp
    return xp.maximum(x, -SATURATED) * logistic(xp, x)  # E7  σ is 0 at −800, and 0 · −∞ would be NaN


@rounded_once
def silu_backward(dy: Array, x: Array) -> Array:
    """E14: dy · σ (1 + x (1 − σ))."""
    xp = backend_of(dy).xp
    near = xp.clip(x, -SATURATED, SATURATED)
    gate = logistic(xp, near)
    return dy * (gate * (1.0 + near * (1.0 - gate)))  # E14


def gelu(x: Array, *, approximate: bool = False) -> tuple[Array, Pullback]:
    """Gaussian error linear unit ``y = x Φ(x)`` (E7), f' = Φ(x) + x φ(x) (E14): Φ is the normal distribution, φ its
    density.

    ``approximate=True`` replaces Φ(x) by ½ (1 + tanh v) = σ(2v), v = √(2/π) (x + 0.044715 x³), and φ by its derivative.
    x of any shape and floating dtype -> y of the same; ``gelu(−inf)`` is its limit, 0. ``pullback(dy)`` returns dx
    and keeps x and the gate Φ(x). Source: Hendrycks and Gimpel (2016), sections 2 and 4.

    >>> import dualnet as dn
    >>> y, pullback = dn.ops.gelu(dn.asarray([-1.0, 0.0, 1e4]))
    >>> dn.to_numpy(y).round(4)
    array([-1.587e-01,  0.000e+00,  1.000e+04], dtype=float32)
    >>> dn.to_numpy(pullback(dn.asarray([1.0, 1.0, 1.0]))).round(4)
    array([-0.0833,  0.5   ,  1.    ], dtype=float32)
    """
    namespace("gelu", x=x)
    approximate = flag(approximate, "approximate", op="gelu")
    gate = (tanh_gate if approximate else normal_cdf)(wide(x))  # Φ(x), kept for the pullback without rounding
    y = gelu_forward(x, gate)  # E7

    def pullback(dy: Array) -> Array:
        return gelu_backward(dy, x, gate, approximate)  # E14

    return y, Pullback("gelu", pullback, y, x=x, gate=gate)


@rounded_once
def gelu_forward(x: Array, gate: Array) -> Array:
    """E7: x Φ(x)."""
    return backend_of(x).xp.maximum(x, -FAR) * gate  # E7  Φ is 0 at −40, and 0 · −∞ would be NaN


@rounded_once
def gelu_backward(dy: Array, x: Array, gate: Array, approximate: bool) -> Array:
    """E14: dy (Φ(x) + x φ(x))."""
    xp = backend_of(dy).xp
    near = xp.clip(x, -FAR, FAR)
    if approximate:
        density = gate * (1.0 - gate) * (SLOPE * (1.0 + 3.0 * CUBIC * near * near))  # σ'(2v) · 2v'
    else:
        density = xp.exp(-0.5 * near * near) * (1.0 / math.sqrt(2.0 * math.pi))
    return dy * (gate + near * density)  # E14


def mish(x: Array) -> tuple[Array, Pullback]:
    """``y = x g(x)`` with the gate ``g(x) = tanh(log(1 + eˣ))`` (E7), f' = g + x σ(x) (1 − g²) (E14).

    x of any shape and floating dtype -> y of the same; ``mish(−inf)`` is its limit, 0. ``pullback(dy)`` returns dx
    and keeps x. Source: Misra (2020).

    >>> import dualnet as dn
    >>> y, pullback = dn.ops.mish(dn.asarray([0.0, 1e4]))
    >>> dn.to_numpy(y), dn.to_numpy(pullback(dn.asarray([1.0, 1.0])))
    (array([    0., 10000.], dtype=float32), array([0.6, 1. ], dtype=float32))
    """
    namespace("mish", x=x)
    y = mish_forward(x)  # E7

    def pullback(dy: Array) -> Array:
        return mish_backward(dy, x)  # E14

    return y, Pullback("mish", pullback, y, x=x)


@rounded_once
def mish_forward(x: Array) -> Array:
    """E7: x tanh(log(1 + eˣ))."""
    xp = backend_of(x).xp
    return xp.maximum(x, -SATURATED) * mish_gate(xp, x)  # E7  the gate is 0 at −800, and 0 · −∞ would be NaN


@rounded_once
def mish_backward(dy: Array, x: Array) -> Array:
    """E14: dy (g + x σ(x) (1 − g²))."""
    xp = backend_of(dy).xp
    near = xp.clip(x, -SATURATED, SATURATED)
    gate = mish_gate(xp, near)
    return dy * (gate + near * logistic(xp, near) * ((1.0 - gate) * (1.0 + gate)))  # E14


def mish_gate(xp: Any, x: Array) -> Array:
    """tanh(log(1 + eˣ)) = n / (n + 2) with n = eˣ (eˣ + 2); written with e⁻ˣ for x > 0, so that nothing overflows."""
    e = xp.exp(-xp.abs(x))
    left = e * (e + 2.0)
    right = 1.0 + 2.0 * e  # n e⁻²ˣ
    return xp.where(x > 0.0, right / (right + 2.0 * e * e), left / (left + 2.0))


# -- over an axis ------------------------------------------------------------------------------------------------------


def softmax(x: Array, *, axis: int = -1) -> tuple[Array, Pullback]:
    """Shares that add up to 1 along an axis, ``yᵢ = eˣⁱ / Σⱼ eˣʲ`` (E7); ``dxᵢ = yᵢ (dyᵢ − Σⱼ dyⱼ yⱼ)`` (E14).

    x of any shape and floating dtype -> y of the same; ``pullback(dy)`` returns dx and keeps y. Infinite logits get
    their limit: those at +inf share the whole equally, and if all are −inf, all shares are equal. Raises ``ValueError``
    for an axis that x does not have, or that has no elements.

    >>> import dualnet as dn
    >>> y, pullback = dn.ops.softmax(dn.asarray([[2.0, 2.0]]))
    >>> dn.to_numpy(y), dn.to_numpy(pullback(dn.asarray([[1.0, 0.0]])))
    (array([[0.5, 0.5]], dtype=float32), array([[ 0.25, -0.25]], dtype=float32))
    >>> dn.to_numpy(dn.ops.softmax(dn.asarray([[1e4, -1e4], [float("inf"), 0.0]]))[0]).tolist()
    [[1.0, 0.0], [1.0, 0.0]]
    """
    namespace("softmax", x=x)
    axis = check_axis(axis, x.shape, op="softmax")
    y = softmax_forward(x, axis)  # E7

    def pullback(dy: Array) -> Array:
        return softmax_backward(dy, y, axis)  # E14

    return y, Pullback("softmax", pullback, y, y=y)


@rounded_once
def softmax_forward(x: Array, axis: int) -> Array:
    """E7: eˣⁱ / Σⱼ eˣʲ."""
    xp = backend_of(x).xp
    e = xp.exp(below_top(xp, x, axis))
    return e / summed(e, axis)  # E7


@rounded_once
def softmax_backward(dy: Array, y: Array, axis: int) -> Array:
    """E14: yᵢ (dyᵢ − Σⱼ dyⱼ yⱼ)."""
    common = summed(dy * y, axis)
    return finite_or(dy, lambda: y * (dy - common), lambda: y * dy - y * common)


def log_softmax(x: Array, *, axis: int = -1) -> tuple[Array, Pullback]:
    """The logarithm of :func:`softmax`, ``yᵢ = xᵢ − log Σⱼ eˣʲ`` (E7); ``dxᵢ = dyᵢ − eʸⁱ Σⱼ dyⱼ`` (E14).

    It stays exact even if softmax is too small for a floating number. x of any shape and floating dtype -> y of the
    same; ``pullback(dy)`` returns dx and keeps y. Infinite logits get the limits of softmax: log 0 is −inf, and if k
    logits are +inf (or all k are −inf) they become −log k. Raises ``ValueError`` like softmax.

    >>> import dualnet as dn
    >>> y, pullback = dn.ops.log_softmax(dn.asarray([[1e4, 0.0]]))
    >>> dn.to_numpy(y).tolist(), dn.to_numpy(pullback(dn.asarray([[0.0, 1.0]]))).tolist()
    ([[0.0, -10000.0]], [[-1.0, 1.0]])
    """
    namespace("log_softmax", x=x)
    axis = check_axis(axis, x.shape, op="log_softmax")
    y = log_softmax_forward(x, axis)  # E7

    def pullback(dy: Array) -> Array:
        return log_softmax_backward(dy, y, axis)  # E14

    return y, Pullback("log_softmax", pullback, y, y=y)


@rounded_once
def log_softmax_forward(x: Array, axis: int) -> Array:
    """E7: xᵢ − log Σⱼ eˣʲ."""
    xp = backend_of(x).xp
    below = below_top(xp, x, axis)
    return below - xp.log(summed(xp.exp(below), axis))  # E7


@rounded_once
def log_softmax_backward(dy: Array, y: Array, axis: int) -> Array:
    """E14: dyᵢ − eʸⁱ Σⱼ dyⱼ."""
    p, part = backend_of(dy).xp.exp(y), share(dy.shape[axis])
    return finite_or(
        dy, lambda: dy - p * summed(dy, axis), lambda: (part * dy - p * summed(part * dy, axis)) * (1.0 / part)
    )


# -- shared by several formulas ----------------------------------------------------------------------------------------


def logistic(xp: Any, x: Array) -> Array:
    """σ(x) = 1 / (1 + e⁻ˣ) = eˣ / (1 + eˣ): the first if x > 0, else the second, so that no exponential overflows."""
    return xp.exp(xp.minimum(x, 0.0)) / (1.0 + xp.exp(-xp.abs(x)))


def below_top(xp: Any, x: Array, axis: int) -> Array:
    """x − max x along the axis: 0 for the largest x, even if it is infinite (∞ − ∞ would be NaN)."""
    top = xp.max(x, axis=axis, keepdims=True)
    largest = x == top
    with quiet(x):  # two logits may be further apart than the largest number
        return xp.where(largest, 0.0, x) - xp.where(largest, 0.0, top)


SLOPE, CUBIC = 2.0 * math.sqrt(2.0 / math.pi), 0.044715


def tanh_gate(x: Array) -> Array:
    """½ (1 + tanh v) = σ(2v) with v = √(2/π) (x + 0.044715 x³), close to Φ(x)."""
    xp = backend_of(x).xp
    near = xp.clip(x, -FAR, FAR)
    return logistic(xp, SLOPE * (near + CUBIC * near * near * near))


# Φ(−a) = e^(−a²/2) · P(u) / (a + 4) for a ≥ 0, with u = (a − 4) / (a + 4), which takes a = 0 … ∞ to u = −1 … 1. P is
# smooth on that interval. We interpolated it with mpmath, at 60 digits, at the 80 zeros of the Chebyshev polynomial
# T80, cut the Chebyshev series where the rest is below 1e-17 (1e-8 for float32), and wrote it in powers of u. The
# coefficients below start at u⁰. None is above 1, so Horner's rule loses nothing. The relative error of Φ(−a) is
# below 6e-16, even in the tail; a test in 60-digit arithmetic checks that.
TAIL_FLOAT64 = (
    0.7552851304157514921, -0.6078966419718921245, 0.3871374007422149175, -0.1865218579596548288,
    0.06039657489091787225, -0.007540188966825239981, -0.00347969236704797363, 0.001630818459394585977,
    0.0001333443094118325439, -0.0002310949532401943852, -1.908246351414571053e-6, 0.00003514479478753355308,
    7.166587641195120991e-7, -5.920586519556890842e-6, -6.298367338492369051e-7, 1.022560415829603766e-6,
    2.724629695114587208e-7, -1.565023646199310662e-7, -8.68664701599789276e-8, 1.463072740565117473e-8,
    2.142760384345235588e-8, 1.432991840108861293e-9, -3.730645081868370279e-9, -8.546521899880147143e-10,
    3.403312308649494648e-10, 1.175478991480774029e-10,
)  # fmt: skip
TAIL_FLOAT32 = (
    0.755285130517, -0.607896631366, 0.38713739386, -0.18652215984, 0.060396648278, -0.00753771715968,
    -0.00347995463744, 0.00162204010553, 0.000133653387094, -0.000215573776286, -1.73108230148e-6, 2.11829842552e-5,
)  # fmt: skip


@rounded_once
def normal_cdf(x: Array) -> Array:
    """Φ(x) = ½ erfc(−x/√2), the probability that a standard normal variable is below x; exact in the left tail too."""
    xp = backend_of(x).xp
    a = xp.minimum(xp.abs(x), FAR)
    p = polynomial(xp, (a - 4.0) / (a + 4.0), TAIL_FLOAT64 if x.dtype.name == "float64" else TAIL_FLOAT32)
    h = xp.floor(256.0 * a) * (1.0 / 256.0)  # few digits, so that h² is exact; e^(−a²/2) would magnify a rounding of a²
    tail = xp.exp(-0.5 * h * h) * xp.exp(-0.5 * (a - h) * (a + h)) * p / (a + 4.0)  # a² = h² + (a − h)(a + h)
    return xp.abs((x > 0.0) - tail)  # 1 − tail on the right, tail on the left


def polynomial(xp: Any, u: Array, coefficients: Sequence[float]) -> Array:
    """Σ coefficients[i] uⁱ, by Horner's rule."""
    p = xp.full_like(u, coefficients[-1])
    for coefficient in coefficients[-2::-1]:
        p *= u
        p += coefficient
    return p


# -- arguments ---------------------------------------------------------------------------------------------------------


def check_axis(axis: Any, shape: tuple[int, ...], *, op: str) -> int:
    """An axis that the shape has, with at least one element."""
    axis = index(axis, "axis", op=op)
    if not -len(shape) <= axis < len(shape):
        raise ValueError(f"{op}: x has shape {tuple(shape)}, which has no axis {axis}")
    if shape[axis] == 0:
        raise ValueError(f"{op}: axis {axis} of x {tuple(shape)} has no elements; expected at least one")
    return axis
