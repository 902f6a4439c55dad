"""Maps of a different size: enlarged, padded, reflected at their edges, or cropped.

    E19   forward    y = A x                 each unit of y is a fixed mixture of units of x
    E19   pullback   ∂E/∂x = Aᵀ δ            each unit of x gets back as much of a delta as it gave to that unit of y

A is the same for every image and channel, consists almost entirely of zeros, and is never built: the loops run over its
few parts, never over the map. Nothing is learned.

Shapes: x (N, H, W, C), y (N, H', W', C).
"""

from __future__ import annotations

from typing import Any

from ..arguments import extents
from ..geometry import Extent, Pads, check_padding, missing_axes
from ..shim import Array, backend_of, namespace
from ..shim.memory import check_memory
from .pullback import Pullback
from .sums import rounded_once

__all__ = ["crop2d", "reflect_pad2d", "upsample2d", "zero_pad2d"]

INTERPOLATIONS = ("nearest", "bilinear")


# -- larger ------------------------------------------------------------------------------------------------------------


def upsample2d(x: Array, size: Extent, *, interpolation: str = "nearest") -> tuple[Array, Pullback]:
    """A map ``size`` times as large: x (N, H, W, C) -> y (N, H·s, W·t, C), with size s or (s, t) (E19).

    ``"nearest"`` repeats each unit in a field of s × t. ``"bilinear"`` draws straight lines between the units, which
    are in the middle of their fields: row i of y reads x at ``(i + ½) / s − ½``, and beyond the edge the edge unit.
    This is Keras's convention, and PyTorch's with ``align_corners=False``. ``pullback(dy)`` returns dx.

    >>> import dualnet as dn
    >>> y, pullback = dn.ops.upsample2d(dn.asarray([[[[0.0], [4.0]]]]), (1, 2), interpolation="bilinear")
    >>> dn.to_numpy(y).ravel(), dn.to_numpy(pullback(y)).ravel()
    (array([0., 1., 3., 4.], dtype=float32), array([1.5, 6.5], dtype=float32))
    """
    op = "upsample2d"
    namespace(op, x=x)
    (N, H, W, C), (s, t) = _map_shape(op, x), extents(size, "size", op=op)
    check_interpolation(interpolation, op)
    check_memory(op, x, N * H * s * W * t * C * x.itemsize, "the output", "Use a smaller size.")
    nearest = interpolation == "nearest"

    y = repeated(x, s, t) if nearest else interpolated(x, s, t)  # E19

    def pullback(dy: Array) -> Array:
        """dy (N, H·s, W·t, C) -> dx (N, H, W, C)."""
        return repeated_backward(dy, s, t) if nearest else interpolated_backward(dy, s, t)  # E19

    return y, Pullback(op, pullback, y)


def repeated(x: Array, s: int, t: int) -> Array:
    """E19: each unit in a field of s × t, (N, H, W, C) -> (N, H·s, W·t, C)."""
    xp, (N, H, W, C) = backend_of(x).xp, x.shape
    fields = xp.broadcast_to(xp.reshape(x, (N, H, 1, W, 1, C)), (N, H, s, W, t, C))
    return xp.reshape(fields.copy(), (N, H * s, W * t, C))


@rounded_once
def repeated_backward(dy: Array, s: int, t: int) -> Array:
    """E19: the sum of each field of s × t, (N, H·s, W·t, C) -> (N, H, W, C)."""
    xp, (N, P, Q, C) = backend_of(dy).xp, dy.shape
    dx = xp.zeros((N, P // s, Q // t, C), dtype=dy.dtype)
    for m in range(s):
        for n in range(t):
            dx += dy[:, m::s, n::t]  # E19
    return dx


@rounded_once
def interpolated(x: Array, s: int, t: int) -> Array:
    """E19: straight lines between the units, first down, then across."""
    return _lines(_lines(x, s, 1), t, 2)


@rounded_once
def interpolated_backward(dy: Array, s: int, t: int) -> Array:
    """E19: the transposes, in reverse order."""
    return _lines_backward(_lines_backward(dy, t, 2), s, 1)


def _lines(x: Array, s: int, axis: int) -> Array:
    """s rows for each row along an axis. Row i·s + m lies d = (m + ½) / s − ½ rows after row i of x."""
    xp, n = backend_of(x).xp, x.shape[axis]
    y = xp.empty((*x.shape[:axis], n * s, *x.shape[axis + 1 :]), dtype=x.dtype)
    for m, (d, near, far, edge) in enumerate(_phases(n, s)):
        part = (1.0 - d) * x  # E19  the nearest row
        if d:
            part[_at(axis, near)] += d * x[_at(axis, far)]  # E19  its neighbour
            part[_at(axis, edge)] += d * x[_at(axis, edge)]  # E19  at the edge, which has no neighbour, itself
        y[_at(axis, slice(m, None, s))] = part
    return y


def _lines_backward(dy: Array, s: int, axis: int) -> Array:
    """The transpose of :func:`_lines`: each row gets what it gave."""
    xp, n = backend_of(dy).xp, dy.shape[axis] // s
    dx = xp.zeros((*dy.shape[:axis], n, *dy.shape[axis + 1 :]), dtype=dy.dtype)
    for m, (d, near, far, edge) in enumerate(_phases(n, s)):
        part = dy[_at(axis, slice(m, None, s))]
        dx += (1.0 - d) * part  # E19
        if d:
            dx[_at(axis, far)] += d * part[_at(axis, near)]  # E19
            dx[_at(axis, edge)] += d * part[_at(axis, edge)]  # E19
    return dx


def _phases(n: int, s: int) -> list[tuple[float, slice, slice, slice]]:
    """For each of the s rows made from one: the neighbour's share, the rows that have a neighbour, their neighbours,
    and the rows that have none."""
    found = []
    for m in range(s):
        d = (m + 0.5) / s - 0.5  # before (negative) or after, by less than half a row
        if d < 0:
            found.append((-d, slice(1, n), slice(0, n - 1), slice(0, 1)))
        else:
            found.append((d, slice(0, n - 1), slice(1, n), slice(n - 1, n)))
    return found


def _at(axis: int, part: slice) -> tuple[slice, ...]:
    return (*(slice(None) for _ in range(axis)), part)


# -- padded and cropped ------------------------------------------------------------------------------------------------


def zero_pad2d(x: Array, padding: Any) -> tuple[Array, Pullback]:
    """Zeros around the map: x (N, H, W, C) -> y (N, top + H + bottom, left + W + right, C) (E19).

    ``padding`` is a number for all sides, (height, width), or ((top, bottom), (left, right)). ``pullback(dy)`` returns
    dx, the part of dy on the map.

    >>> import dualnet as dn
    >>> y, pullback = dn.ops.zero_pad2d(dn.asarray([[[[5.0]]]]), ((0, 0), (1, 2)))
    >>> dn.to_numpy(y).ravel(), dn.to_numpy(pullback(y)).ravel()
    (array([0., 5., 0., 0.], dtype=float32), array([5.], dtype=float32))
    """
    op = "zero_pad2d"
    namespace(op, x=x)
    _map_shape(op, x)
    sides = check_sides(padding, "padding", op)
    _check_room(op, x, sides)

    y = surrounded(x, sides)  # E19

    def pullback(dy: Array) -> Array:
        """dy (N, H', W', C) -> dx (N, H, W, C)."""
        return inside(dy, sides).copy()  # E19

    return y, Pullback(op, pullback, y)


def crop2d(x: Array, cropping: Any) -> tuple[Array, Pullback]:
    """The map without its borders: x (N, H, W, C) -> y (N, H − top − bottom, W − left − right, C) (E19).

    ``cropping`` is a number for all sides, (height, width), or ((top, bottom), (left, right)). ``pullback(dy)`` returns
    dx, which is 0 on the borders. Raises ``ValueError`` if nothing would be left.

    >>> import dualnet as dn
    >>> y, pullback = dn.ops.crop2d(dn.asarray([[[[1.0], [2.0], [3.0]]]]), ((0, 0), (1, 0)))
    >>> dn.to_numpy(y).ravel(), dn.to_numpy(pullback(y)).ravel()
    (array([2., 3.], dtype=float32), array([0., 2., 3.], dtype=float32))
    """
    op = "crop2d"
    namespace(op, x=x)
    sides = check_sides(cropping, "cropping", op)
    cropped_size(_map_shape(op, x)[1:3], sides, op)

    y = inside(x, sides).copy()  # E19

    def pullback(dy: Array) -> Array:
        """dy (N, H', W', C) -> dx (N, H, W, C)."""
        return surrounded(dy, sides)  # E19

    return y, Pullback(op, pullback, y)


def reflect_pad2d(x: Array, padding: Any) -> tuple[Array, Pullback]:
    """The map reflected at its outermost rows and columns (E19).

    x (N, H, W, C) -> y (N, top + H + bottom, left + W + right, C): 1 2 3 with 2 on both sides is 3 2 1 2 3 2 1.
    ``padding`` is a number for all sides, (height, width), or ((top, bottom), (left, right)), each less than the
    map's length. ``pullback(dy)`` returns dx: the delta of a mirror image is added to that of its original.

    >>> import dualnet as dn
    >>> y, pullback = dn.ops.reflect_pad2d(dn.asarray([[[[1.0], [2.0], [3.0]]]]), ((0, 0), (2, 1)))
    >>> dn.to_numpy(y).ravel(), dn.to_numpy(pullback(y)).ravel()
    (array([3., 2., 1., 2., 3., 2.], dtype=float32), array([1., 6., 6.], dtype=float32))
    """
    op = "reflect_pad2d"
    namespace(op, x=x)
    shape, sides = _map_shape(op, x), check_sides(padding, "padding", op)
    check_mirrors(shape[1:3], sides, op)
    _check_room(op, x, sides)

    y = mirrored(mirrored(x, 1, *sides[0]), 2, *sides[1])  # E19

    def pullback(dy: Array) -> Array:
        """dy (N, H', W', C) -> dx (N, H, W, C)."""
        return unmirrored(dy, sides)  # E19

    return y, Pullback(op, pullback, y)


def surrounded(x: Array, sides: Pads) -> Array:
    """E19: the map with zeros around it."""
    (N, H, W, C), ((top, bottom), (left, right)) = x.shape, sides
    y = backend_of(x).xp.zeros((N, top + H + bottom, left + W + right, C), dtype=x.dtype)
    y[:, top : top + H, left : left + W] = x
    return y


def inside(x: Array, sides: Pads) -> Array:
    """E19: a view of the map without its borders."""
    (_, H, W, _), ((top, bottom), (left, right)) = x.shape, sides
    return x[:, top : H - bottom, left : W - right]


def mirrored(x: Array, axis: int, before: int, after: int) -> Array:
    """E19: the map with mirror images before and after it along an axis."""
    xp, n = backend_of(x).xp, x.shape[axis]
    front, back = x[_at(axis, slice(1, before + 1))], x[_at(axis, slice(n - 1 - after, n - 1))]
    return xp.concat([xp.flip(front, axis=axis), x, xp.flip(back, axis=axis)], axis=axis)


@rounded_once
def unmirrored(dy: Array, sides: Pads) -> Array:
    """E19: the transpose of :func:`mirrored` along both axes: a unit gets the deltas of its mirror images."""
    xp = backend_of(dy).xp
    for axis in (2, 1):
        before, after = sides[axis - 1]
        n = dy.shape[axis] - before - after
        dx = dy[_at(axis, slice(before, before + n))].copy()  # E19
        front, back = dy[_at(axis, slice(0, before))], dy[_at(axis, slice(before + n, None))]
        dx[_at(axis, slice(1, before + 1))] += xp.flip(front, axis=axis)  # E19
        dx[_at(axis, slice(n - 1 - after, n - 1))] += xp.flip(back, axis=axis)  # E19
        dy = dx
    return dy


# -- arguments ---------------------------------------------------------------------------------------------------------


def check_interpolation(interpolation: Any, op: str) -> str:
    """One of the names, or ``ValueError``."""
    if interpolation not in INTERPOLATIONS:
        raise ValueError(f"{op}: interpolation must be 'nearest' or 'bilinear', got {interpolation!r}")
    return interpolation


def check_sides(value: Any, name: str, op: str) -> Pads:
    """``number | (height, width) | ((top, bottom), (left, right))`` in its last form."""
    if isinstance(value, str):
        raise TypeError(
            f"{op}: {name} must be a number, (height, width) or ((top, bottom), (left, right)), got {value!r}"
        )
    try:
        return check_padding(value, op=op)  # type: ignore[return-value]  # not a string: that raised an error above
    except (TypeError, ValueError) as error:
        raise type(error)(str(error).replace(": padding", f": {name}", 1)) from None


def cropped_size(size: tuple[int, ...], sides: Pads, op: str) -> tuple[int, int]:
    """The size of a map (H, W) without its borders, or ``ValueError`` if nothing is left."""
    rest = size[0] - sum(sides[0]), size[1] - sum(sides[1])
    if min(rest) < 1:
        raise ValueError(f"{op}: cropping={sides} leaves nothing of a map of {size[0]} × {size[1]}; use less")
    return rest


def check_mirrors(size: tuple[int, ...], sides: Pads, op: str) -> None:
    """Raise ``ValueError`` unless each mirror image shows less than the whole map."""
    if any(max(sides[axis]) >= size[axis] for axis in (0, 1)):
        raise ValueError(
            f"{op}: padding={sides} does not fit a map of {size[0]} × {size[1]}; a reflection shows all but the "
            "outermost row or column, so each side must be smaller than the map. Use less."
        )


def _check_room(op: str, x: Array, sides: Pads) -> None:
    N, H, W, C = x.shape
    units = N * (H + sum(sides[0])) * (W + sum(sides[1])) * C
    check_memory(op, x, units * x.itemsize, "the padded map", "Use less padding.")


def _map_shape(op: str, x: Array) -> tuple[int, int, int, int]:
    if x.ndim != 4 or 0 in x.shape[1:3]:
        raise ValueError(
            f"{op}: x has shape {tuple(x.shape)}; expected feature maps (N, H, W, C) of at least one row and one column"
            + missing_axes(x.ndim)
        )
    return tuple(x.shape)
