"""The dense product by oneDNN: E9 and E16."""

from __future__ import annotations

from typing import Any

import numpy

from ..cpu import tracing
from .library import count, library, parallel
from .passes import FLOAT32, float32
from .plans import address

ALGORITHM = "oneDNN"
PRODUCT = 2**21
"""With fewer multiplications, BLAS on one thread is faster."""


def affine(x: numpy.ndarray, w: numpy.ndarray, b: numpy.ndarray | None = None) -> Any:
    """E9, E16: x w + b. Either factor may be a transposed view."""
    if not float32(x, w) or x.ndim != 2 or w.ndim != 2 or x.shape[1] != w.shape[0] or 0 in (*x.shape, *w.shape):
        return NotImplemented
    (M, K), D = x.shape, w.shape[1]
    if M * K * D < PRODUCT or b is not None and (b.dtype != FLOAT32 or b.shape != (D,)):
        return NotImplemented
    y = numpy.empty((M, D), FLOAT32)
    return y if _product(x, w, b, y) else NotImplemented


def _product(x: numpy.ndarray, w: numpy.ndarray, b: numpy.ndarray | None, y: numpy.ndarray) -> bool:
    """y = x w + b, of float32 matrices that may be transposed views; False if oneDNN declines."""
    found = library()
    if found is None:
        return False
    number = count()
    parallel(number)
    (x, across, row), (w, down, column) = _layout(x), _layout(w)
    (M, K), D = x.shape, w.shape[1]
    if b is not None:
        y[...] = b
    addresses = [address(a) for a in (x, w, y)]
    given = (across, down, M, D, K, 1.0, addresses[0], row, addresses[1], column, 0.0 if b is None else 1.0,
             addresses[2], D)  # fmt: skip
    before = found.get_threads()
    found.set_threads(number)
    try:
        status = found.slow.dnnl_sgemm(*given)
    finally:
        found.set_threads(before)
    if tracing.tape() is not None:
        tracing.kept(x, w)
        tracing.note_by_address(found.slow.dnnl_sgemm, given, (6, 8), 11, adds=b is not None, threads=(found, number))
    return status == 0


def _layout(matrix: numpy.ndarray) -> tuple[numpy.ndarray, bytes, int]:
    """The matrix (a copy if neither rows nor columns are contiguous), b"N" or b"T", and its leading dimension."""
    (rows, columns), (down, across), size = matrix.shape, matrix.strides, matrix.itemsize
    if matrix.flags.c_contiguous:
        return matrix, b"N", columns
    if matrix.flags.f_contiguous:
        return matrix, b"T", rows
    if across == size and down >= columns * size and down % size == 0:
        return matrix, b"N", down // size
    if down == size and across >= rows * size and across % size == 0:
        return matrix, b"T", across // size
    return numpy.ascontiguousarray(matrix), b"N", columns
