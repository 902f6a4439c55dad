"""Numbers of 16 bits: they are computed with in float32, and each result is rounded once, at its end.

In float16 itself a sum of ones stops at 2048, where the next number is 2050, and one of large numbers at 65504; in
bfloat16, at 256. So nothing is added up in 16 bits, nor in a dtype that depends on what a library makes of a product of
bfloat16 and 2.0. A formula starts from ``wide(x)`` and ends with ``narrow(y, x)``, which both do nothing in float32 and
float64; a function of its own may be marked :func:`rounded_once` instead.

Sums follow one axis after another, so that their rounding errors stay small.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any

from ..shim import Array, accelerated, backend_of, references
from ..shim.dtypes import is_half


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
    """The dtype to compute with x in: float32 for those of 16 bits, else x's own."""
    return "float32" if x.dtype.itemsize < 4 else x.dtype


def wide(x: Array) -> Array:
    """16 bits as float32; the others as they are."""
    return x.astype(wide_dtype(x), copy=False)


def narrow(y: Array, x: Array) -> Array:
    """y in the dtype of x: undoes :func:`wide`."""
    return y.astype(x.dtype, copy=False)


def like(dy: Array, *gradients: Array) -> Any:
    """The gradients, a tuple of as many, in the dtype of dy: undoes :func:`wide`."""
    return tuple(gradient.astype(dy.dtype, copy=False) for gradient in gradients)


def rounded_once(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of arrays that computes with those of 16 bits in float32, and rounds its floating results at the end.

    It stands below ``@accelerated``: a kernel that knows 16 bits comes first, one for float32 second.

    >>> import dualnet as dn
    >>> x = dn.asarray([[60000.0, 60000.0, -60000.0]], "float16")  # the sum of the first two is inf in float16
    >>> dn.to_numpy(dn.ops.dense(x, dn.asarray([[1.0]] * 3, "float16"))[0])
    array([[6.e+04]], dtype=float16)
    """
    name = function.__name__

    @functools.wraps(function)
    def run(x: Array, *args: Any, **options: Any) -> Any:
        if not is_half(x.dtype):
            return function(x, *args, **options)
        again = references[name]  # the dispatcher: kernels are asked once more
        result = again(*map(_widened, (x, *args)), **{key: _widened(value) for key, value in options.items()})
        if isinstance(result, tuple):
            return tuple(_rounded(part, x) for part in result)
        return _rounded(result, x)

    return run


def _widened(value: Any) -> Any:
    return wide(value) if hasattr(value, "astype") and is_half(value.dtype) else value


def _rounded(value: Any, x: Array) -> Any:
    return narrow(value, x) if value is not None and value.dtype.name == "float32" else value
