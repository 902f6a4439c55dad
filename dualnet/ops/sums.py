"""Sums that stay right: float16 adds up in float32, and one axis follows another.

In float16 itself a sum of ones stops at 2048, where the next number is 2050, and one of large numbers at 65504. What is
added up here is rounded back once, at the end; what comes after a sum and needs its range too starts from ``wide(x)``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..backend import Array, accelerated, backend_of


def summed(x: Array, axes: int | Iterable[int] | None = None, keepdims: bool = True) -> Array:
    """Σ x along one axis, several or all, in the dtype of x; with ``keepdims`` they keep extent 1.

    Several: one axis after another, the outermost first. Every step adds runs that lie together in memory (for
    (N, H, W, C) runs of H·W·C, then W·C, then C), which is several times faster than all at once where C is small. The
    sums are short ones of short ones, so that their rounding errors stay small.

    >>> import dualnet as dn
    >>> dn.to_numpy(summed(dn.asarray([[1.0, 2.0], [3.0, 4.0]]), 0))
    array([[4., 6.]], dtype=float32)
    """
    xp, dtype = backend_of(x).xp, wide_dtype(x)
    if axes is None:
        return xp.sum(x, keepdims=keepdims, dtype=dtype).astype(x.dtype, copy=False)
    axes = (axes,) if isinstance(axes, int) else tuple(sorted(axes))
    total = x
    for axis in axes:
        total = xp.sum(total, axis=axis, keepdims=True, dtype=dtype)
    total = total.astype(x.dtype, copy=False)
    return total if keepdims else xp.squeeze(total, axis=axes)


@accelerated
def channel_sum(x: Array) -> Array:
    """(N, ..., C) -> (C,): Σ over all places, as for the gradient of a bias."""
    return summed(x, range(x.ndim - 1), keepdims=False)


def wide_dtype(x: Array) -> Any:
    """The dtype to add up x in: float32 for float16, else x's own."""
    return "float32" if x.dtype.itemsize < 4 else x.dtype


def wide(x: Array) -> Array:
    """float16 as float32; the others as they are."""
    return x.astype(wide_dtype(x), copy=False)


def like(dy: Array, *gradients: Array) -> Any:
    """The gradients, a tuple of as many, in the dtype of dy: undoes :func:`wide`."""
    return tuple(gradient.astype(dy.dtype, copy=False) for gradient in gradients)
