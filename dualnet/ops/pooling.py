"""Pooling: one number for every window of a feature map, and the pullback to the units it came from.

    E8    y[n,i,j,c]  =  max window,   Σ window / M   or   √(Σ window²)
    E15   dx          =  all of dy to the winning unit,   dy / M to every unit   or   x / y · dy to every unit

where window is the units x[n, i·s + m·r − p, j·s + n'·r − p, c] for the taps m, n' that are on the map. The deltas of
windows that overlap add up. Pooling shrinks the map and learns nothing; every channel is pooled by itself.

Each pooling is a pair, forward and backward: max_pool and max_unpool, avg_pool and avg_unpool, l2_pool and l2_unpool.
The loops run over the taps of a window, of which there are few, and never over the map.

Shapes: x (N, H, W, C), y (N, H', W', C). Source: Jefkine (2016); LeCun et al. (1998) for averages, Jarrett et al.
(2009) and Boureau et al. (2010) for maxima, Sermanet et al. (2012) for L2; Lin et al. (2014) for global pooling.
"""

from __future__ import annotations

import functools
import math
from dataclasses import replace
from typing import Any

from ..arguments import extents, flag
from ..geometry import Extent, Padding, Windows, missing_axes, windows
from ..shim import Array, accelerated, backend_of, namespace
from ..shim.memory import check_memory
from .activation import rectify, rectify_backward
from .convolution import pad
from .pullback import Pullback
from .sums import finite_or, narrow, overflowed, quiet, rounded_once, share, wide

__all__ = ["avg_pool2d", "global_avg_pool2d", "global_max_pool2d", "l2_pool2d", "max_pool2d"]


def max_pool2d(
    x: Array,
    pool_size: Extent,
    *,
    stride: Extent | None = None,
    padding: Padding = 0,
    dilation: Extent = 1,
    ceil_mode: bool = False,
    relu: bool = False,
) -> tuple[Array, Pullback]:
    """The largest unit of every window (E8), which gets the whole delta in the backward pass (E15).

    x (N, H, W, C) -> y (N, H', W', C). ``pullback(dy)`` returns dx. ``stride=None`` is ``pool_size``: windows side by
    side. Among equal units the first in row-major order wins, on every backend; NaN wins over any number, and padding
    never wins. ``pullback.saved["winners"]`` (N, H', W', C) holds the tap of each winner, counted row by row.
    ``relu=True`` applies ReLU to y, in the same pass over memory.

    Raises ``ValueError`` if the windows do not fit, or if one lies wholly in the padding and so has no largest unit.

    >>> import dualnet as dn
    >>> x = dn.asarray([[[[1.0], [5.0]], [[5.0], [2.0]]]])  # a 2×2 map with a tie
    >>> y, pullback = dn.ops.max_pool2d(x, 2)
    >>> dn.to_numpy(y).ravel(), dn.to_numpy(pullback.saved["winners"]).ravel()
    (array([5.], dtype=float32), array([1], dtype=uint8))
    >>> dn.to_numpy(pullback(dn.asarray([[[[10.0]]]]))).ravel()
    array([ 0., 10.,  0.,  0.], dtype=float32)
    """
    options = {"stride": stride, "padding": padding, "dilation": dilation, "ceil_mode": ceil_mode}
    at = _placed("max_pool2d", x, pool_size, **options)

    y, winners = max_pool_relu(x, at) if relu else max_pool(x, at)  # E8, and E7 with relu
    kept = y if relu else None

    def pullback(dy: Array) -> Array:
        """dy (N, H', W', C) -> dx (N, H, W, C)."""
        return max_unpool_relu(dy, kept, winners, at) if relu else max_unpool(dy, winners, at)  # E15, and E14 with relu

    return y, Pullback("max_pool2d", pullback, y, winners=winners, y=kept)


def avg_pool2d(
    x: Array,
    pool_size: Extent,
    *,
    stride: Extent | None = None,
    padding: Padding = 0,
    dilation: Extent = 1,
    ceil_mode: bool = False,
    count_include_pad: bool = False,
) -> tuple[Array, Pullback]:
    """The mean of every window (E8), whose units share the delta equally in the backward pass (E15).

    x (N, H, W, C) -> y (N, H', W', C). ``pullback(dy)`` returns dx. ``stride=None`` is ``pool_size``. The sum is
    divided by M, the number of the window's units; with ``count_include_pad`` the zeros of the padding count too (but
    not what ``ceil_mode`` reaches beyond the padding).

    Raises ``ValueError`` if the windows do not fit, or if one lies wholly in the padding and so has no mean.

    >>> import dualnet as dn
    >>> y, pullback = dn.ops.avg_pool2d(dn.asarray([[[[1.0], [5.0]], [[4.0], [2.0]]]]), 2)
    >>> dn.to_numpy(y).ravel(), dn.to_numpy(pullback(dn.asarray([[[[8.0]]]]))).ravel()
    (array([3.], dtype=float32), array([2., 2., 2., 2.], dtype=float32))
    """
    counted = flag(count_include_pad, "count_include_pad", op="avg_pool2d")
    options = {"stride": stride, "padding": padding, "dilation": dilation, "ceil_mode": ceil_mode}
    at = _placed("avg_pool2d", x, pool_size, **options, empty_windows=counted)

    y = avg_pool(x, at, counted)  # E8

    def pullback(dy: Array) -> Array:
        """dy (N, H', W', C) -> dx (N, H, W, C)."""
        return avg_unpool(dy, at, counted)  # E15

    return y, Pullback("avg_pool2d", pullback, y)


def l2_pool2d(
    x: Array,
    pool_size: Extent,
    *,
    stride: Extent | None = None,
    padding: Padding = 0,
    dilation: Extent = 1,
    ceil_mode: bool = False,
) -> tuple[Array, Pullback]:
    """The Euclidean length of every window (E8); each unit gets x / y of the delta, or 0 if y = 0 (E15).

    x (N, H, W, C) -> y (N, H', W', C). ``pullback(dy)`` returns dx. ``stride=None`` is ``pool_size``. No square
    overflows on the way: y is finite whenever the length itself is. If y is infinite while x is not, the host still
    finds dx; a device skips the check and returns 0 there. The gradient of an infinite unit is NaN.

    Raises ``ValueError`` if the windows do not fit. A window wholly in the padding has length 0.

    >>> import dualnet as dn
    >>> y, pullback = dn.ops.l2_pool2d(dn.asarray([[[[3.0], [0.0]], [[0.0], [4.0]]]]), 2)
    >>> dn.to_numpy(y).ravel(), dn.to_numpy(pullback(dn.asarray([[[[10.0]]]]))).ravel()
    (array([5.], dtype=float32), array([6., 0., 0., 8.], dtype=float32))
    """
    options = {"stride": stride, "padding": padding, "dilation": dilation, "ceil_mode": ceil_mode}
    at = _placed("l2_pool2d", x, pool_size, **options, empty_windows=True)

    y = l2_pool(x, at)  # E8

    def pullback(dy: Array) -> Array:
        """dy (N, H', W', C) -> dx (N, H, W, C)."""
        if overflowed(y):  # dx is the same if the map is scaled down
            smaller = wide(x) * share(at.taps)
            return narrow(l2_unpool(wide(dy), smaller, l2_pool(smaller, at), at), dy)
        return l2_unpool(dy, x, y, at)  # E15

    return y, Pullback("l2_pool2d", pullback, y, x=x, y=y)


def global_avg_pool2d(x: Array, *, keepdims: bool = False) -> tuple[Array, Pullback]:
    """The mean of every channel's whole map: x (N, H, W, C) -> y (N, C), or (N, 1, 1, C) with ``keepdims``.

    ``pullback(dy)`` returns dx. Raises ``ValueError`` for a map without units.

    >>> import dualnet as dn
    >>> y, pullback = dn.ops.global_avg_pool2d(dn.asarray([[[[1.0], [2.0]], [[3.0], [6.0]]]]))
    >>> dn.to_numpy(y), dn.to_numpy(pullback(dn.asarray([[4.0]]))).ravel()
    (array([[3.]], dtype=float32), array([1., 1., 1., 1.], dtype=float32))
    """
    xp = namespace("global_avg_pool2d", x=x)
    N, _, _, C = shape = _map_shape("global_avg_pool2d", x)
    keepdims = flag(keepdims, "keepdims", op="global_avg_pool2d")

    mean = global_avg_pool(x)  # (N, C)  E8
    y = xp.reshape(mean, (N, 1, 1, C)) if keepdims else mean

    def pullback(dy: Array) -> Array:
        """dy (N, C) or (N, 1, 1, C) -> dx (N, H, W, C)."""
        return global_avg_unpool(dy, shape)  # E15

    return y, Pullback("global_avg_pool2d", pullback, y)


def global_max_pool2d(x: Array, *, keepdims: bool = False) -> tuple[Array, Pullback]:
    """The largest unit of every channel's map: x (N, H, W, C) -> y (N, C), or (N, 1, 1, C) with ``keepdims``.

    ``pullback(dy)`` returns dx: the whole delta goes to the winner, the first in row-major order among equals; NaN
    wins over any number. ``pullback.saved["winners"]`` (N, C) holds its position, counted row by row. Raises
    ``ValueError`` for a map without units.

    >>> import dualnet as dn
    >>> y, pullback = dn.ops.global_max_pool2d(dn.asarray([[[[1.0], [7.0]], [[7.0], [6.0]]]]))
    >>> dn.to_numpy(y), dn.to_numpy(pullback(dn.asarray([[4.0]]))).ravel()
    (array([[7.]], dtype=float32), array([0., 4., 0., 0.], dtype=float32))
    """
    xp = namespace("global_max_pool2d", x=x)
    N, _, _, C = shape = _map_shape("global_max_pool2d", x)
    keepdims = flag(keepdims, "keepdims", op="global_max_pool2d")

    largest, winners = global_max_pool(x)  # (N, C) both  E8
    y = xp.reshape(largest, (N, 1, 1, C)) if keepdims else largest

    def pullback(dy: Array) -> Array:
        """dy (N, C) or (N, 1, 1, C) -> dx (N, H, W, C)."""
        return global_max_unpool(dy, winners, shape)  # E15

    return y, Pullback("global_max_pool2d", pullback, y, winners=winners)


# -- forward and backward, in pairs ------------------------------------------------------------------------------------


@accelerated
@rounded_once
def max_pool(x: Array, at: Windows) -> tuple[Array, Array]:
    """E8: (N, H, W, C) -> the largest unit of every window, and its tap; both (N, H', W', C)."""
    xp = backend_of(x).xp
    padded = pad(x, at, -math.inf)
    # Copying one tap of every window takes one strided pass, and all later passes run over memory without gaps.
    taps = (padded[:, rows, cols, :].copy() for rows, cols in at.slices())  # k1·k2 times (N, H', W', C)
    y = next(taps)
    winners = xp.zeros(y.shape, dtype=_tap_dtype(xp, at.taps))
    winners += _first_on_map(xp, at).astype(winners.dtype)  # padding never wins, not even over −inf
    for tap, units in enumerate(taps, start=1):
        wins = ~(units <= y) & (y == y)  # E8  larger, not equal: ties stay with the first; so does a NaN
        xp.maximum(y, units, out=y)
        xp.maximum(winners, wins.astype(winners.dtype) * tap, out=winners)  # taps come in rising order
    return y, winners


@accelerated
@rounded_once
def largest(x: Array, at: Windows) -> Array:
    """E8: the largest unit of every window, (N, H, W, C) -> (N, H', W', C), without its tap: for inference."""
    xp = backend_of(x).xp
    padded = pad(x, at, -math.inf)
    y = None
    for rows, cols in at.slices():
        units = padded[:, rows, cols, :]
        y = units if y is None else xp.maximum(y, units)  # E8
    return y.copy() if at.taps == 1 else y


@accelerated
@rounded_once
def max_unpool(dy: Array, winners: Array, at: Windows) -> Array:
    """E15: the whole delta of a window goes to its winning unit. (N, H', W', C) twice -> (N, H, W, C)."""
    xp = backend_of(dy).xp
    (N, P, Q, C), (H, W) = dy.shape, at.size
    to = _addresses(xp, winners, at)
    # Windows that do not overlap have different winners, so they are written together: every down-th, every across-th.
    down, across = (-(-(r * (k - 1) + 1) // s) for r, k, s in zip(at.dilation, at.window, at.stride))
    dx = xp.zeros((N * H * W * C,), dtype=dy.dtype)
    for i in range(min(down, P)):
        for j in range(min(across, Q)):
            dx[to[:, i::down, j::across]] += dy[:, i::down, j::across]  # E15  windows that overlap add up
    return xp.reshape(dx, (N, H, W, C))


@accelerated
def max_pool_relu(x: Array, at: Windows) -> tuple[Array, Array]:
    """E8, then E7, in any order, as max(0, ·) is monotonic: (N, H, W, C) -> y and winners, both (N, H', W', C)."""
    y, winners = max_pool(x, at)
    return rectify(y), winners


@accelerated
def max_unpool_relu(dy: Array, y: Array, winners: Array, at: Windows) -> Array:
    """E14, then E15: the whole delta of a window goes to its winning unit, if y > 0."""
    return max_unpool(rectify_backward(dy, y), winners, at)


@accelerated
@rounded_once
def avg_pool(x: Array, at: Windows, count_include_pad: bool = False) -> Array:
    """E8: the mean of every window, (N, H, W, C) -> (N, H', W', C)."""
    xp, part = backend_of(x).xp, share(at.taps)
    M = _units(xp, x, at, count_include_pad)
    return finite_or(x, lambda: _sums(xp, x, at) / M, lambda: _sums(xp, x * part, at) / (M * part))  # E8


@accelerated
@rounded_once
def avg_unpool(dy: Array, at: Windows, count_include_pad: bool = False) -> Array:
    """E15: every unit of a window gets 1 / M of its delta, (N, H', W', C) -> (N, H, W, C)."""
    xp = backend_of(dy).xp
    share = dy / _units(xp, dy, at, count_include_pad)  # E15
    dx = _padded_zeros(xp, dy, at)
    for rows, cols in at.slices():
        dx[:, rows, cols, :] += share  # E15  the adjoint of the sums: windows that overlap add up
    return _crop(dx, at)


@accelerated
@rounded_once
def l2_pool(x: Array, at: Windows) -> Array:
    """E8: the length of every window, (N, H, W, C) -> (N, H', W', C)."""
    xp = backend_of(x).xp
    padded = pad(xp.abs(x), at)
    scale = xp.zeros((x.shape[0], *at.grid, x.shape[3]), dtype=x.dtype)
    for rows, cols in at.slices():
        xp.maximum(scale, padded[:, rows, cols, :], out=scale)
    scale = xp.where((scale == 0) | xp.isinf(scale), 1.0, scale)
    squares = xp.zeros(scale.shape, dtype=x.dtype)
    for rows, cols in at.slices():
        part = padded[:, rows, cols, :] / scale  # between 0 and 1: its square neither overflows nor vanishes
        squares += part * part
    with quiet(x):
        return scale * xp.sqrt(squares)  # E8


@accelerated
@rounded_once
def l2_unpool(dy: Array, x: Array, y: Array, at: Windows) -> Array:
    """E15: a unit gets x / y of the delta of each of its windows, (N, H', W', C) -> (N, H, W, C)."""
    xp = backend_of(dy).xp
    padded, dx = pad(x, at), _padded_zeros(xp, dy, at)
    length, dy = xp.where(y == 0, 1.0, y), xp.where(y == 0, 0.0, dy)  # a window of zeros sends 0 / 1 · 0
    for rows, cols in at.slices():
        dx[:, rows, cols, :] += padded[:, rows, cols, :] / length * dy  # E15  windows that overlap add up
    return _crop(dx, at)


@rounded_once
def global_avg_pool(x: Array) -> Array:
    """E8: the mean of every map, (N, H, W, C) -> (N, C)."""
    part = share(x.shape[1] * x.shape[2])
    return finite_or(x, lambda: _mean_of_maps(x), lambda: _mean_of_maps(x * part) / part)  # E8


def _mean_of_maps(x: Array) -> Array:
    """Row by row: rounding grows with H + W, not with H·W."""
    xp = backend_of(x).xp
    return xp.mean(xp.mean(x, axis=2), axis=1)


@rounded_once
def global_avg_unpool(dy: Array, shape: tuple[int, int, int, int]) -> Array:
    """E15: every unit of a map gets 1 / (H·W) of its delta, (N, C) or (N, 1, 1, C) -> (N, H, W, C)."""
    xp, (N, H, W, C) = backend_of(dy).xp, shape
    share = xp.reshape(dy, (N, 1, 1, C)) / (H * W)  # E15
    return xp.broadcast_to(share, shape).copy()


@rounded_once
def global_max_pool(x: Array) -> tuple[Array, Array]:
    """E8: the largest unit of every map, and its position, (N, H, W, C) -> (N, C) both."""
    xp, (N, H, W, C) = backend_of(x).xp, x.shape
    units = xp.reshape(x, (N, H * W, C))
    largest = xp.max(units, axis=1, keepdims=True)  # (N, 1, C)  E8
    equals = (units == largest) | (units != units)  # where the largest is; if it is NaN, where a NaN is
    winners = xp.argmax(equals, axis=1).astype(_tap_dtype(xp, H * W))  # (N, C)  the first of them
    return xp.reshape(largest, (N, C)), winners


@rounded_once
def global_max_unpool(dy: Array, winners: Array, shape: tuple[int, int, int, int]) -> Array:
    """E15: the whole delta of a map goes to its winning unit, (N, C) or (N, 1, 1, C) -> (N, H, W, C)."""
    xp, (N, H, W, C) = backend_of(dy).xp, shape
    won = xp.arange(H * W)[:, None] == winners[:, None, :]  # (N, H·W, C)
    return xp.reshape(xp.where(won, xp.reshape(dy, (N, 1, C)), 0.0), shape)  # E15


# -- taps and units ----------------------------------------------------------------------------------------------------


def _first_on_map(xp: Any, at: Windows) -> Array:
    """(H', W', 1): the first tap of each window that is not padding."""
    m, n = (
        xp.maximum(-((xp.arange(positions) * s - before) // r), 0)  # the smallest m with i·s + m·r − before ≥ 0
        for positions, s, r, (before, _) in zip(at.grid, at.stride, at.dilation, at.pads)
    )
    return (m[:, None] * at.window[1] + n)[:, :, None]


def _addresses(xp: Any, winners: Array, at: Windows) -> Array:
    """(N, H', W', C): where the winners are in the flattened map, N·H·W·C."""
    (N, P, Q, C), (H, W), (k1, k2) = winners.shape, at.size, at.window
    (s1, s2), (r1, r2), ((top, _), (left, _)) = at.stride, at.dilation, at.pads
    images = xp.arange(N)[:, None, None, None] * (H * W)
    corners = (xp.arange(P) * s1 - top)[:, None] * W + (xp.arange(Q) * s2 - left)  # (H', W')
    taps = xp.reshape((xp.arange(k1) * r1)[:, None] * W + xp.arange(k2) * r2, (-1,))  # (k1·k2,)
    place = corners[:, :, None] * C + xp.arange(C)  # (H', W', C)
    return xp.take(taps * C, winners) + (images * C + place)


def _sums(xp: Any, x: Array, at: Windows) -> Array:
    """(N, H, W, C) -> (N, H', W', C): the sum of every window, padding counting as 0."""
    padded = pad(x, at)
    total = xp.zeros((x.shape[0], *at.grid, x.shape[3]), dtype=x.dtype)
    for rows, cols in at.slices():
        total += padded[:, rows, cols, :]
    return total


def _units(xp: Any, x: Array, at: Windows, count_include_pad: bool) -> Array | int:
    """M, the number of units in each window: (1, H', W', 1), or one number if no window leaves the map."""
    if at.reach == ((0, 0), (0, 0)):
        return at.taps
    if count_include_pad:  # the padding becomes part of the map; what ceil_mode reaches beyond it does not
        (H, W), ((top, bottom), (left, right)) = at.size, at.pads
        at = replace(at, size=(top + H + bottom, left + W + right), pads=((0, 0), (0, 0)))
    return _sums(xp, xp.ones((1, *at.size, 1), dtype=x.dtype), at)  # on a map of ones, the sum counts


def _padded_zeros(xp: Any, dy: Array, at: Windows) -> Array:
    """A padded map of zeros, to which the parts of dy are added."""
    (H, W), ((top, bottom), (left, right)) = at.size, at.reach
    return xp.zeros((dy.shape[0], top + H + bottom, left + W + right, dy.shape[3]), dtype=dy.dtype)


def _crop(padded: Array, at: Windows) -> Array:
    """The map without its padding."""
    (H, W), ((top, _), (left, _)) = at.size, at.reach
    return padded[:, top : top + H, left : left + W, :]


def _tap_dtype(xp: Any, taps: int) -> Any:
    """The smallest dtype that can number this many taps."""
    return xp.uint8 if taps <= 256 else xp.int32


# -- checks ------------------------------------------------------------------------------------------------------------


def pool_windows(
    op: str,
    size: tuple[int, int],
    pool_size: Extent,
    *,
    stride: Extent | None = None,
    padding: Padding = 0,
    dilation: Extent = 1,
    ceil_mode: bool = False,
    empty_windows: bool = False,
) -> Windows:
    """The windows of a pooling. Unless ``empty_windows`` are allowed, each must have a tap on the map."""
    pool_size = extents(pool_size, "pool_size", op=op)
    stride = pool_size if stride is None else stride
    ceil_mode = flag(ceil_mode, "ceil_mode", op=op)
    at = windows(op, size, pool_size, stride=stride, padding=padding, dilation=dilation, ceil_mode=ceil_mode)
    if not empty_windows:
        check_no_window_is_empty(op, at)
    return at


@functools.lru_cache(maxsize=1024)
def check_no_window_is_empty(op: str, at: Windows) -> None:
    """Raise ``ValueError`` if a window lies wholly in the padding: it has no largest unit and no mean."""
    if at.reach == ((0, 0), (0, 0)):
        return
    for axis, n, k, r, pads, empty in zip(
        ("row", "column"), at.size, at.window, at.dilation, at.pads, at.first_empty()
    ):
        if empty is not None:
            raise ValueError(
                f"{op}: the windows of output {axis} {empty} lie wholly in the padding and have no unit "
                f"({n} {axis}s, padding {pads[0]} + {pads[1]}, pool_size {k}, dilation {r}). Expected padding smaller "
                "than the window; use less, or padding='same'."
            )


def _placed(op: str, x: Array, pool_size: Extent, **options: Any) -> Windows:
    """Check x, and place the windows on it."""
    namespace(op, x=x)
    at = pool_windows(op, _map_shape(op, x)[1:3], pool_size, **options)
    check_room(op, x, at)
    return at


def check_room(op: str, x: Array, at: Windows) -> None:
    """Raise ``MemoryError`` unless there is memory for the padded map and the output."""
    nbytes = x.shape[0] * x.shape[3] * at.units * x.itemsize
    check_memory(op, x, nbytes, "the padded map with the output", "Use less padding or a larger stride.")


def _map_shape(op: str, x: Array) -> tuple[int, int, int, int]:
    if x.ndim != 4 or 0 in x.shape[1:3]:
        raise ValueError(
            f"{op}: x has shape {tuple(x.shape)}; expected feature maps (N, H, W, C) of at least one row and one column"
            + missing_axes(x.ndim)
        )
    return tuple(x.shape)
