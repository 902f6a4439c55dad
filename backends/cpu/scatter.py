"""E13 on NumPy by columns: dX = dY Wᵀ, and col2im in two steps. Rows of taps first, in long runs, then their columns.

Any window, stride, dilation and w will do: each delta meets the weights of its own window and nothing else.
"""

from __future__ import annotations

from typing import Any

import numpy

from dualnet.geometry import Windows

from . import im2col, threads
from .guards import served

ALGORITHM = "numpy scatter"


def correlate_inputs(dy: numpy.ndarray, w: numpy.ndarray, at: Windows, groups: int = 1) -> Any:
    """E13, scattered."""
    if not served(dy, w, groups):
        return NotImplemented
    (N, P, Q, D), C, (H, W), (k1, k2) = dy.shape, w.shape[2], at.size, at.window
    (top, bottom), (left, right) = at.reach
    (s1, s2), (r1, r2) = at.stride, at.dilation
    banks = numpy.ascontiguousarray(w.reshape(k1, k2 * C, D).transpose(0, 2, 1))  # W_mᵀ (k1, D, k2·C)
    dx = numpy.empty((N, H, W, C), dy.dtype)
    bytes_per_image = max(1, P * Q * at.taps * C * dy.itemsize)
    step = max(1, min(im2col.BLOCK_BYTES // bytes_per_image, -(-N // threads.worth(N * bytes_per_image))))

    def work(worker: int, first: int) -> None:
        deltas = numpy.ascontiguousarray(dy[first : first + step]).reshape(-1, D)
        n = len(deltas) // (P * Q)
        product = threads.workspace("columns", (n, P, Q, k2 * C), dy.dtype)
        spread = threads.workspace("rows", (n, top + H + bottom, Q, k2 * C), dy.dtype)
        spread[...] = 0
        for m in range(k1):
            numpy.matmul(deltas, banks[m], out=product.reshape(-1, k2 * C))  # E13  dX = dY Wᵀ, a row of taps at a time
            spread[:, m * r1 : m * r1 + (P - 1) * s1 + 1 : s1] += product
        padded = threads.workspace("padded", (n, top + H + bottom, left + W + right, C), dy.dtype)
        padded[...] = 0
        by_tap = spread.reshape(n, top + H + bottom, Q, k2, C)
        for m in range(k2):
            padded[:, :, m * r2 : m * r2 + (Q - 1) * s2 + 1 : s2] += by_tap[:, :, :, m]
        dx[first : first + step] = padded[:, top : top + H, left : left + W]

    threads.parallel_for(range(0, N, step), work)
    return dx
