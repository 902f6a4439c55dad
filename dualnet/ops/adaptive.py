"""Pooling to a size of your choice: the windows are computed from the size of the map.

    E8    y[n,i,j,c]  =  Σ window / M          the mean of a window of M units
    E15   dx          =  dy / M to every unit

Along an axis of n units, window i of m begins at unit ⌊i·n / m⌋ and ends before ⌈(i+1)·n / m⌉. If m divides n, the
windows lie side by side; otherwise neighbours share a unit, and the deltas of windows that overlap add up. A window is
a rectangle, so its mean is a mean over columns of means over rows: the loops run over H' + W' windows, not H'·W'.
"""

from __future__ import annotations

from ..arguments import extents
from ..geometry import Extent, missing_axes
from ..shim import Array, backend_of, namespace
from ..shim.memory import check_memory
from .pullback import Pullback
from .sums import finite_or, rounded_once, share, summed

__all__ = ["adaptive_avg_pool2d"]


def adaptive_avg_pool2d(x: Array, output_size: Extent) -> tuple[Array, Pullback]:
    """Means of H' × W' windows that cover the map: x (N, H, W, C) -> y (N, H', W', C) (E8).

    ``output_size`` is H' = W' or (H', W'); 1 gives the mean of the whole map, like :func:`global_avg_pool2d` with
    ``keepdims``. A size larger than the map repeats units. ``pullback(dy)`` returns dx (E15). The windows are
    PyTorch's.

    >>> import dualnet as dn
    >>> y, pullback = dn.ops.adaptive_avg_pool2d(dn.asarray([[[[1.0], [2.0], [6.0]]]]), (1, 2))
    >>> dn.to_numpy(y).ravel(), dn.to_numpy(pullback(dn.asarray([[[[2.0], [4.0]]]]))).ravel()
    (array([1.5, 4. ], dtype=float32), array([1., 3., 2.], dtype=float32))
    """
    op = "adaptive_avg_pool2d"
    namespace(op, x=x)
    if x.ndim != 4 or 0 in x.shape[1:3]:
        raise ValueError(
            f"{op}: x has shape {tuple(x.shape)}; expected feature maps (N, H, W, C) of at least one row and one column"
            + missing_axes(x.ndim)
        )
    (N, H, W, C), (P, Q) = x.shape, extents(output_size, "output_size", op=op)
    check_memory(op, x, N * P * Q * C * x.itemsize, "the output", "Use a smaller output_size.")

    y = means(x, P, Q)  # E8

    def pullback(dy: Array) -> Array:
        """dy (N, H', W', C) -> dx (N, H, W, C)."""
        return means_backward(dy, H, W)  # E15

    return y, Pullback(op, pullback, y)


@rounded_once
def means(x: Array, P: int, Q: int) -> Array:
    """E8: the mean of every window, (N, H, W, C) -> (N, P, Q, C)."""
    part = share(x.shape[1] * x.shape[2])
    return finite_or(x, lambda: _means(x, P, Q), lambda: _means(x * part, P, Q) / part)


def _means(x: Array, P: int, Q: int) -> Array:
    xp = backend_of(x).xp
    for axis, count in ((1, P), (2, Q)):
        spans = spans_of(x.shape[axis], count)
        x = xp.concat([summed(x[_at(axis, a, b)], axis) / (b - a) for a, b in spans], axis=axis)  # E8
    return x


@rounded_once
def means_backward(dy: Array, H: int, W: int) -> Array:
    """E15: every unit of a window gets 1 / M of its delta, (N, P, Q, C) -> (N, H, W, C)."""
    xp = backend_of(dy).xp
    for axis, n in ((2, W), (1, H)):
        dx = xp.zeros((*dy.shape[:axis], n, *dy.shape[axis + 1 :]), dtype=dy.dtype)
        for i, (a, b) in enumerate(spans_of(n, dy.shape[axis])):
            dx[_at(axis, a, b)] += dy[_at(axis, i, i + 1)] / (b - a)  # E15  windows that overlap add up
        dy = dx
    return dy


def spans_of(n: int, count: int) -> list[tuple[int, int]]:
    """For each of ``count`` windows along n units: its first unit, and the unit before which it ends.

    >>> spans_of(5, 3)
    [(0, 2), (1, 4), (3, 5)]
    """
    return [(i * n // count, -(-(i + 1) * n // count)) for i in range(count)]


def _at(axis: int, first: int, last: int) -> tuple[slice, ...]:
    return (*(slice(None) for _ in range(axis)), slice(first, last))
