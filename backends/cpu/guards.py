"""What the kernels check before they serve a call: one dtype, the amount of work, finite numbers.

Each kernel in a chain checks for itself; if it declines, the next one is asked. So declining has to be cheap: a kernel
looks at shapes first, then at dtypes, and at the numbers themselves last.
"""

from __future__ import annotations

import math

import numpy

from dualnet.geometry import Windows

from . import blas

FLOATS = (numpy.dtype(numpy.float32), numpy.dtype(numpy.float64))
FEW = 2**20
"""With fewer multiplications than this, a product takes less time than sharing it out among threads."""


def served(x: numpy.ndarray, other: numpy.ndarray, groups: int) -> bool:
    """Is there one group, and do both arrays have one dtype, float32 or float64?"""
    return groups == 1 and x.dtype == other.dtype and x.dtype in FLOATS


def few(at: Windows, images: int, C: int, D: int) -> bool:
    """Are there so few multiplications that blocks and threads would take longer than the work itself?"""
    return images * at.grid[0] * at.grid[1] * at.taps * C * D < FEW


def finite(x: numpy.ndarray) -> bool:
    """Is the array free of NaN and infinity? One number shows it: the sum of squares, where nothing cancels. (It may
    overflow.)"""
    return math.isfinite(squares(x))


def squares(x: numpy.ndarray) -> float:
    """The sum of squares."""
    units = x.reshape(-1)
    with blas.held(), numpy.errstate(over="ignore", invalid="ignore"):
        return float(numpy.dot(units, units))
