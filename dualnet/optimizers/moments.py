"""Running means and mean squares of gradients, for gradients of any size.

float32 cannot hold the square of a gradient of 1e20, but it can hold the root of the mean square. So a mean square
above LARGE² is stored as its root, with a minus sign to mark it:

    s ≥ 0   the mean square is s              s < 0   the mean square is s², and its root is −s

``hypot`` averages roots without squaring them. So a single gradient of 1e30 is forgotten as fast as the formula says.
Up to LARGE every bit is that of the plain formula; :func:`large` finds the places that need the other form.
"""

from __future__ import annotations

from ..shim import Array, backend_of

__all__ = ["LARGE", "averaged", "averaged_square", "deviation", "large"]

LARGE = {"float32": 2.0**63, "float64": 2.0**511}
"""Up to this size a number can be squared: its square is a quarter of the largest number."""


def large(g: Array, mean_square: Array) -> Array | None:
    """Where a gradient, or the mean square of earlier ones, is too large: an array of bools, or None for nowhere.

    On a device the answer is always an array, since a look at the numbers would have to wait for the device.

    >>> import dualnet as dn
    >>> with dn.use_backend("numpy"):
    ...     large(dn.asarray([1.0, 1e10]), dn.asarray([0.0, 0.0]))
    >>> dn.to_numpy(large(dn.asarray([1.0, 1e20]), dn.asarray([0.0, 0.0])))
    array([False,  True])
    """
    backend, most = backend_of(g), LARGE[g.dtype.name]
    xp = backend.xp
    if backend.on_host and (g.size == 0 or (g.max() <= most and g.min() >= -most and mean_square.min() >= 0)):
        return None  # with a NaN this is never true: there may also be a large number
    return (xp.abs(g) > most) | (mean_square < 0)


def averaged(old: Array, g: Array, beta: float, where: Array | None) -> Array:
    """old ← beta · old + (1 − beta) · g."""
    if where is None:
        return old + (1 - beta) * (g - old)
    xp = backend_of(g).xp
    plain = old + (1 - beta) * (xp.where(where, 0, g) - old)
    return xp.where(where, beta * old + (1 - beta) * g, plain)  # g − old may overflow


def averaged_square(old: Array, g: Array, beta: float, where: Array | None) -> tuple[Array, Array]:
    """old ← beta · old + (1 − beta) · g², stored as described above; and its root.

    >>> import dualnet as dn
    >>> g, old = dn.asarray([2.0, 1e30]), dn.asarray([0.0, 0.0])
    >>> for values in averaged_square(old, g, 0.75, large(g, old)):
    ...     print(dn.to_numpy(values))
    [ 1.e+00 -5.e+29]
    [1.e+00 5.e+29]
    """
    xp = backend_of(g).xp
    if where is None:
        new = beta * old + (1 - beta) * (g * g)
        return new, xp.sqrt(new)
    g_small, most = xp.where(where, 0, g), LARGE[g.dtype.name]
    plain = beta * xp.maximum(old, 0) + (1 - beta) * (g_small * g_small)
    before = xp.where(old < 0, -old, xp.sqrt(xp.maximum(old, 0)))
    root = xp.where(where, xp.hypot(beta**0.5 * before, (1 - beta) ** 0.5 * g), xp.sqrt(plain))
    squared = xp.minimum(root, most)
    return xp.where(where, xp.where(root > most, -root, squared * squared), plain), root


def deviation(mean_square: Array, root: Array, mean: Array, where: Array | None) -> Array:
    """√(mean square − mean²), from the results of :func:`averaged_square`."""
    xp = backend_of(mean).xp
    if where is None:
        return xp.sqrt(xp.maximum(mean_square - mean * mean, 0.0))  # rounding may leave less than 0
    small = xp.where(where, 0, mean)
    plain = xp.sqrt(xp.maximum(mean_square - small * small, 0.0))
    share = xp.minimum(xp.abs(mean) / xp.where(where, root, 1), 1.0)
    return xp.where(where, root * xp.sqrt((1 - share) * (1 + share)), plain)
