"""Convolution with so little to do (one image of a small network) that blocks and threads would only cost time.

The whole batch goes through im2col and one matrix product at once, on the calling thread.
"""

from __future__ import annotations

from typing import Any

import numpy

from dualnet.geometry import Windows

from . import blas, gathering
from .guards import few, finite, served
from .im2col import columns

ALGORITHM = "numpy tiny"


def correlate(
    x: numpy.ndarray, w: numpy.ndarray, b: numpy.ndarray | None, at: Windows, groups: int = 1, relu: bool = False
) -> Any:
    """E4, E6 (and E7 with ``relu``)."""
    if not few(at, x.shape[0], x.shape[3], w.shape[3]) or not served(x, w, groups):
        return NotImplemented
    return _at_once(x, w, b, at, relu)


def correlate_inputs(dy: numpy.ndarray, w: numpy.ndarray, at: Windows, groups: int = 1) -> Any:
    """E13, gathered."""
    (N, _, _, D), C = dy.shape, w.shape[2]
    back = gathering.better(at, C, D, N)
    if back is None or not few(back, N, D, C) or not served(dy, w, groups) or not finite(w):
        return NotImplemented
    return _at_once(dy, gathering.turned(w), None, back, relu=False)


def _at_once(x: numpy.ndarray, w: numpy.ndarray, b: numpy.ndarray | None, at: Windows, relu: bool) -> numpy.ndarray:
    y = numpy.empty((x.shape[0], *at.grid, w.shape[3]), x.dtype)
    out = y.reshape(-1, w.shape[3])
    with blas.held():
        numpy.matmul(columns(x, at), w.reshape(-1, w.shape[3]), out=out)  # E4  Y = X W
    if b is not None:
        out += b  # E4
    if relu:
        numpy.maximum(out, 0, out=out)  # E7
    return y
