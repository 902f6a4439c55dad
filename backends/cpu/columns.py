"""Convolution on NumPy by columns: im2col and one matrix product for each block of images, shared out among threads.

E13 is gathered (gathering.py), so that every unit is written once. Any window, stride and dilation will do.
"""

from __future__ import annotations

from typing import Any

import numpy

from dualnet.geometry import Windows

from . import gathering, threads
from .guards import finite, served
from .im2col import Block, blocks, columns

ALGORITHM = "numpy columns"


def correlate(
    x: numpy.ndarray, w: numpy.ndarray, b: numpy.ndarray | None, at: Windows, groups: int = 1, relu: bool = False
) -> Any:
    """E4, E6 (and E7 with ``relu``, while the block is still in the cache)."""
    return multiply(x, w, b, at, relu) if served(x, w, groups) else NotImplemented


def correlate_filters(x: numpy.ndarray, dy: numpy.ndarray, at: Windows, groups: int = 1) -> Any:
    """E11."""
    return filters(x, dy, at) if served(x, dy, groups) else NotImplemented


def correlate_inputs(dy: numpy.ndarray, w: numpy.ndarray, at: Windows, groups: int = 1) -> Any:
    """E13, gathered."""
    back = gathering.better(at, w.shape[2], dy.shape[3], dy.shape[0])
    if back is None or not served(dy, w, groups) or not finite(w):
        return NotImplemented
    return multiply(dy, gathering.turned(w), None, back, relu=False)


def multiply(x: numpy.ndarray, w: numpy.ndarray, b: numpy.ndarray | None, at: Windows, relu: bool) -> numpy.ndarray:
    """E4, E6 and E7, for any bank (k1, k2, C, D) that fits ``at``."""
    (N, _, _, C), D = x.shape, w.shape[3]
    bank = numpy.ascontiguousarray(w).reshape(-1, D)  # (k1·k2·C, D)
    y = numpy.empty((N, *at.grid, D), x.dtype)
    # for a row of the map: a longer inner loop for NumPy
    biases = None if b is None else numpy.concatenate([b] * at.grid[1])

    def work(worker: int, block: Block) -> None:
        images, rows, inside, part = block
        target = y[images, rows]
        direct = target.flags.c_contiguous
        out = target.reshape(-1, D) if direct else threads.workspace("y", (target.size // D, D), x.dtype)
        numpy.matmul(columns(x[images, inside], part), bank, out=out)  # E4  Y = X W
        if biases is not None:
            numpy.add(by_row := out.reshape(-1, biases.size), biases, out=by_row)  # E4
        if relu:
            numpy.maximum(out, 0, out=out)  # E7
        if not direct:
            target[...] = out.reshape(target.shape)

    threads.parallel_for(blocks(at, N, C, x.itemsize), work)
    return y


def filters(x: numpy.ndarray, dy: numpy.ndarray, at: Windows) -> numpy.ndarray:
    """E11: dw (k1, k2, C, D). Each portion of the blocks is added up, then the portions' sums, in order."""
    (N, _, _, C), D, K = x.shape, dy.shape[3], at.taps * x.shape[3]
    portions = threads.portions(blocks(at, N, C, x.itemsize))
    sums = numpy.zeros((len(portions), K, D), x.dtype)

    def work(worker: int, portion: int) -> None:
        for images, rows, inside, part in portions[portion]:
            deltas = numpy.ascontiguousarray(dy[images, rows]).reshape(-1, D)
            product = threads.workspace("dw", (K, D), x.dtype)
            numpy.matmul(columns(x[images, inside], part).T, deltas, out=product)  # E11  dW = Xᵀ dY
            sums[portion] += product

    threads.parallel_for(range(len(portions)), work)
    return sums.sum(axis=0).reshape(*at.window, C, D)
