"""The number types by name, bfloat16 included, of which NumPy knows little.

bfloat16 has the exponents of float32 and 8 of its 24 binary digits. It comes from the package ml_dtypes, which is
imported when the name is first used. To NumPy it is a foreign type: its ``kind`` is ``"V"``, ``numpy.finfo`` does not
know it, and together with a Python number it becomes float32 (``x * 2.0``) or even float64 (``where(…, x, 0.0)``). So
ask the functions here what kind a dtype is; ops compute with 16-bit numbers in float32 (:mod:`dualnet.ops.sums`).
"""

from __future__ import annotations

from typing import Any

import numpy

__all__ = ["FLOATING", "HALVES", "dtype_of", "finfo", "is_floating", "is_half", "is_real", "master_dtype"]

HALVES = ("float16", "bfloat16")
"""Types of 16 bits: layers compute with them, but parameters never have them (see :class:`dualnet.Parameter`)."""
FLOATING = (*HALVES, "float32", "float64")


def dtype_of(dtype: Any) -> numpy.dtype:
    """The dtype of this name, in native byte order. Raises ``ImportError`` for bfloat16 without its package.

    A dtype of another library, such as ``torch.float32``, is the one of the same name.

    >>> dtype_of("float32").itemsize
    4
    """
    name = dtype if isinstance(dtype, str) else _name_elsewhere(dtype)
    if name == "bfloat16":
        return _bfloat16()
    try:
        result = numpy.dtype(name or dtype)
    except TypeError:
        raise TypeError(f"dtype {dtype!r} is unknown; expected {', '.join(FLOATING)}, int64, uint8, ...") from None
    return result if result.isnative else result.newbyteorder("=")


def _name_elsewhere(dtype: Any) -> str:
    """``"float32"`` for ``torch.float32``, whose class is called dtype, like NumPy's (or DType); else ``""``."""
    if isinstance(dtype, numpy.dtype) or type(dtype).__name__.lower() != "dtype":
        return ""
    return str(dtype).rpartition(".")[2]


def _bfloat16() -> numpy.dtype:
    try:
        import ml_dtypes
    except ImportError:
        raise ImportError('bfloat16 needs the package ml_dtypes: pip install "dualnet[bfloat16]"') from None
    return numpy.dtype(ml_dtypes.bfloat16)


def is_half(dtype: Any) -> bool:
    """Is it a floating type of 16 bits?

    >>> import numpy
    >>> is_half(numpy.dtype("float16")), is_half(numpy.dtype("int16"))
    (True, False)
    """
    return dtype.itemsize == 2 and dtype.name in HALVES


def is_floating(dtype: Any) -> bool:
    """Is it a floating type: one of :data:`FLOATING` in any byte order, or a longer one?"""
    return dtype.kind == "f" or dtype.name == "bfloat16"


def is_real(dtype: Any) -> bool:
    """Does it hold real numbers: bool, integer or floating?"""
    return dtype.kind in "biuf" or dtype.name == "bfloat16"


def master_dtype(dtype: Any) -> numpy.dtype:
    """The dtype of the parameters of layers that compute in ``dtype``: float32 for 16 bits, else the same.

    >>> import numpy
    >>> master_dtype(numpy.dtype("float16")).name, master_dtype(numpy.dtype("float64")).name
    ('float32', 'float64')
    """
    return numpy.dtype("float32") if is_half(dtype) else dtype


def finfo(dtype: Any) -> Any:
    """``numpy.finfo``, for bfloat16 too."""
    dtype = dtype_of(dtype)
    if dtype.name != "bfloat16":
        return numpy.finfo(dtype)
    import ml_dtypes

    return ml_dtypes.finfo(dtype)
