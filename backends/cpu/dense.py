"""E9, E16 on NumPy: the dense product, with its rows or columns shared out among threads."""

from __future__ import annotations

from typing import Any

import numpy

from . import blas, threads
from .guards import FEW, FLOATS

TINY = 2**16
"""With fewer multiplications than this, BLAS uses one thread by itself."""
MANY = 2**24
"""From this many multiplications on, the product is shared out."""


def affine(x: numpy.ndarray, w: numpy.ndarray, b: numpy.ndarray | None = None) -> Any:
    """x w + b, the rows (or, of a wide w, the columns) shared out.

    BLAS is held to one thread for small products too: an extra thread of BLAS, waiting beside oneDNN's, makes a step of
    LeNet-5 take five times as long.
    """
    (M, K), D = x.shape, w.shape[1]
    if x.dtype != w.dtype or x.dtype not in FLOATS:
        return NotImplemented
    if K == 1:  # the gradient of one example: each element is a single product
        y = x * w
        if b is not None:
            y += b
        return y
    if M * K * D < TINY:
        return NotImplemented
    if M * K * D < FEW:
        with blas.held():
            y = x @ w
        if b is not None:
            y += b
        return y
    y = numpy.empty((M, D), x.dtype)
    pieces = threads.count() if M * K * D >= MANY else 1
    cuts = [(k * max(M, D) // pieces, (k + 1) * max(M, D) // pieces) for k in range(pieces)]

    def work(worker: int, cut: tuple[int, int]) -> None:
        part = slice(*cut)
        if M >= D:
            numpy.matmul(x[part], w, out=y[part])
        else:
            y[:, part] = x @ w[:, part]

    threads.parallel_for(cuts, work)
    if b is not None:
        y += b
    return y
