"""RMS normalisation: layer norm without the mean.

A set of n values is divided by its root mean square, and multiplied by a learned spread γ:

    s = √(Σ x² / n + ε)      x̂ = x / s      y = γ x̂

The pullback, with dx̂ = γ · dy. The delta reaches x in two ways, directly and through s (∂s/∂x = x / (n s) = x̂ / n):

    dx = ( dx̂  −  x̂ · Σ dx̂ x̂ / n ) / s      dγ = Σ dy x̂

It costs less than layer norm, which also subtracts the mean, and many networks learn as well with it. 16-bit numbers
are converted to float32. On the host a set whose squares overflow is divided by its largest value first; a device skips
this check, since it would have to stop.

Source: Zhang and Sennrich (2019), equation 4.
"""

from __future__ import annotations

from ..geometry import elements
from ..shim import Array, backend_of
from .normalization import _check_shapes, _check_some, _namespace, check_axes, check_epsilon
from .pullback import Pullback
from .sums import narrow, overflowed, quiet, rounded_to, share, summed, wide

__all__ = ["rms_norm"]


def rms_norm(
    x: Array, gamma: Array, *, axis: int | tuple[int, ...] = -1, epsilon: float = 1e-5
) -> tuple[Array, Pullback]:
    """Divide every example by its root mean square along some axes (Zhang and Sennrich 2019, equation 4).

    x (N, ...), gamma of the shape that x has along ``axis`` -> y like x, all of one floating dtype (if x has 16
    bits, gamma may be float32). ``axis`` is one axis of x or several, and never the batch, axis 0. ``pullback(dy)``
    returns ``(dx, dgamma)``.

    >>> import dualnet as dn
    >>> y, pullback = dn.ops.rms_norm(dn.asarray([[3.0, 4.0], [0.0, 5.0]]), dn.asarray([1.0, 1.0]))
    >>> dn.to_numpy(y).round(3)
    array([[0.849, 1.131],
           [0.   , 1.414]], dtype=float32)
    """
    xp = _namespace("rms_norm", x, gamma=gamma)
    axes = check_axes(axis, x.ndim, "rms_norm")
    epsilon = check_epsilon(epsilon, "rms_norm")
    inside = tuple(x.shape[a] for a in axes)
    _check_shapes("rms_norm", inside, f"that of x {tuple(x.shape)} along axis {axis}", gamma=gamma)
    _check_some("rms_norm", x, elements(inside))
    along = tuple(extent if a in axes else 1 for a, extent in enumerate(x.shape))
    others = [a for a in range(x.ndim) if a not in axes]

    dtypes = x.dtype, gamma.dtype  # those of dx, dgamma
    gamma = xp.reshape(wide(gamma), along)
    x_hat, inverse = scaled(wide(x), axes, epsilon)
    y = narrow(x_hat * gamma, x)

    def pullback(dy: Array) -> tuple[Array, Array]:
        """dy like x -> dx like x, dgamma of the shape of gamma."""
        dy = wide(dy)
        dx = scaled_backward(dy, gamma, x_hat, inverse, axes)
        dgamma = summed(dy * x_hat, others, keepdims=False)  # Σ dy x̂
        return rounded_to(dtypes, dx, dgamma)

    return y, Pullback("rms_norm", pullback, y, x_hat=x_hat, inverse=inverse, gamma=gamma)


def scaled(x: Array, axes: tuple[int, ...], epsilon: float) -> tuple[Array, Array]:
    """x̂ = x / s with s along ``axes``; returns x̂ like x, and 1/s with extent 1 along ``axes``."""
    xp, n = backend_of(x).xp, elements(tuple(x.shape[a] for a in axes))
    with quiet(x):
        square = summed(x * x, axes) / n
        inverse = 1 / xp.sqrt(square + epsilon)
        if not overflowed(square):
            return x * inverse, inverse
        fine, top = xp.isfinite(square), xp.max(xp.abs(x), axis=axes, keepdims=True)
        unit = xp.where(fine | ~xp.isfinite(top), 1.0, top)  # divided by it first, no square overflows
        root = xp.sqrt(summed((x / unit) * (x / unit), axes) / n)
        x_hat = xp.where(fine, x * inverse, x / unit / root)
        return x_hat, xp.where(fine, inverse, 1 / root / unit)


def scaled_backward(dy: Array, gamma: Array, x_hat: Array, inverse: Array, axes: tuple[int, ...]) -> Array:
    """dx = (dx̂ − x̂ · Σ dx̂ x̂ / n) / s with dx̂ = γ dy, the sum along ``axes``.

    A power of 2 is multiplied into γ and divided out of 1/s: it rounds nothing, and keeps the sum from overflowing.
    """
    n = elements(tuple(x_hat.shape[a] for a in axes))
    part = share(n)
    dx_hat = dy * (gamma * part)
    dx = x_hat * (-summed(dx_hat * x_hat, axes) / n)  # through s: −x̂ · Σ dx̂ x̂ / n
    dx += dx_hat  # directly
    dx *= inverse * (1.0 / part)
    return dx
