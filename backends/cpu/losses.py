"""E10 on NumPy: cross-entropy with softmax for class numbers, without one-hot rows."""

from __future__ import annotations

import math
from typing import Any

import numpy

from .guards import FLOATS


def cross_entropy(y: numpy.ndarray, t: numpy.ndarray, smoothing: float) -> Any:
    """E10 for class numbers: the loss, and log softmax(y). If that is not finite, the reference takes the limits."""
    if smoothing or t.ndim >= y.ndim or not y.size or y.dtype not in FLOATS:
        return NotImplemented
    rows, classes = y.reshape(-1, y.shape[-1]), t.reshape(-1).astype(numpy.uint64)
    if classes.max() >= rows.shape[1]:
        return NotImplemented  # a label that is not a class (−1 is a large number here)
    with numpy.errstate(invalid="ignore", over="ignore"):
        log_p = rows - rows.max(axis=1, keepdims=True)
        log_p -= numpy.log(numpy.exp(log_p).sum(axis=1, keepdims=True))
        loss = -log_p[numpy.arange(len(rows)), classes].sum() / y.dtype.type(len(rows))  # E10
    return (loss, log_p.reshape(y.shape)) if math.isfinite(loss) else NotImplemented
