"""Sums, and 16-bit numbers: ops compute with them in float32 and round each result once, at the end.

In float16 a sum of ones stops at 2048, since the next number is 2050, and no sum can pass 65504; in bfloat16 a
sum of ones stops at 256. So nothing is added up in 16 bits, nor in whatever dtype a library picks for a product of
bfloat16 and 2.0.

Formulas are written as if 16 bits did not exist, in functions marked :func:`rounded_once`, which does the conversions.
If the results differ in dtype, such as a dx in float16 and a dγ in float32, :func:`wide` comes before the formula and
:func:`rounded_to` after it. In float32 and float64 all three do nothing.

A sum or a square may overflow even if the mean or the root does not. :func:`finite_or` then computes it another way.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable
from typing import Any

from ..shim import Array, accelerated, backend_of, references
from ..shim.dtypes import is_half


def summed(x: Array, axes: int | Iterable[int] | None = None, keepdims: bool = True) -> Array:
    """Σ x along one axis, several or all, in the dtype of x; with ``keepdims`` these axes stay, with extent 1.

    Several axes are summed one after another, the outermost first. Each step adds contiguous runs of memory (for
    (N, H, W, C) runs of H·W·C, then W·C, then C), which is several times faster than all at once if C is small. Every
    sum is short, which keeps rounding errors small.

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


# -- sums that overflow -----------------------------------------------------------------------------------------------


def finite_or(x: Array, first: Callable[[], Array], again: Callable[[], Array]) -> Array:
    """``first()``; where that is not finite, ``again()``: the same number, computed so that less overflows.

    The host calls ``again`` only if it is needed. A device would have to stop to find out, so it computes both. So use
    this for small results only. x is any array of the op.

    >>> import dualnet as dn
    >>> x = dn.asarray([2e38, 2e38])
    >>> dn.to_numpy(finite_or(x, lambda: summed(x) / 2, lambda: summed(x / 2)))
    array([2.e+38], dtype=float32)
    """
    backend = backend_of(x)
    with quiet(x):
        result = first()
        fine = backend.xp.isfinite(result)
        if backend.on_host and fine.all():
            return result
        return backend.xp.where(fine, result, again())


def overflowed(*results: Array) -> bool:
    """Is one of these not finite? On a device the answer is always no, since it would have to stop to find out."""
    backend = backend_of(results[0])
    return backend.on_host and not all(backend.xp.isfinite(result).all() for result in results)


def quiet(x: Array) -> Any:
    """``with quiet(x):`` keeps NumPy from warning about an overflow that the code expects."""
    backend = backend_of(x)
    return backend.xp.errstate(over="ignore", invalid="ignore") if backend.on_host else contextlib.nullcontext()


def share(count: int) -> float:
    """A power of 2 so small that ``count`` numbers, each times it, add up to less than half of the largest of them.

    Multiplying by a power of 2 rounds nothing: dividing the sum by it restores every bit.
    """
    return 0.5 ** (count.bit_length() + 1)


# -- 16 bits -----------------------------------------------------------------------------------------------------------


def rounded_once(formula: Callable[..., Any]) -> Callable[..., Any]:
    """Mark a formula to be computed in float32 if x, its first argument, has 16 bits; its results get x's dtype.

    Every 16-bit argument becomes float32, and every float32 result is rounded; all else stays as it is. Write it
    below ``@accelerated``: a kernel for 16 bits is asked first, one for float32 second, and then the formula runs.

    >>> import dualnet as dn
    >>> x = dn.asarray([[60000.0, 60000.0, -60000.0]], "float16")  # the sum of the first two is inf in float16
    >>> dn.to_numpy(dn.ops.dense(x, dn.asarray([[1.0]] * 3, "float16"))[0])
    array([[6.e+04]], dtype=float16)
    """

    @functools.wraps(formula)
    def run(x: Array, *args: Any, **options: Any) -> Any:
        if not is_half(x.dtype):
            return formula(x, *args, **options)
        dispatch: Any = references.get(formula.__name__)
        again = dispatch if getattr(dispatch, "reference", None) is run else formula  # ask the kernels once more
        result = again(*map(_widened, (x, *args)), **{key: _widened(value) for key, value in options.items()})
        if isinstance(result, tuple):
            return tuple(_rounded(part, x) for part in result)
        return _rounded(result, x)

    return run


def wide_dtype(x: Array) -> Any:
    """The dtype to compute in: float32 if x has 16 bits, else x's own."""
    return "float32" if x.dtype.itemsize < 4 else x.dtype


def wide(x: Array) -> Array:
    """A 16-bit array as float32; any other as it is."""
    return x.astype("float32") if x.dtype.itemsize < 4 else x


def narrow(y: Array, x: Array) -> Array:
    """y in the dtype of x: undoes :func:`wide`."""
    return y.astype(x.dtype, copy=False)


def rounded_to(dtypes: Iterable[Any], *results: Array) -> Any:
    """The results, a tuple, each in its dtype: undoes :func:`wide` for several."""
    return tuple([result.astype(dtype, copy=False) for result, dtype in zip(results, dtypes, strict=True)])


def _widened(value: Any) -> Any:
    return wide(value) if hasattr(value, "astype") and is_half(value.dtype) else value


def _rounded(value: Any, x: Array) -> Any:
    return narrow(value, x) if value is not None and value.dtype.name == "float32" else value
