"""E13 at stride 1 as E4: dx is the map of deltas, correlated with the rotated bank.

E13 can be read in two ways. *Gathered*, each unit of dx adds up the deltas of the outputs that it went into, and is
written once (as in the article). *Scattered*, each delta is added to the k1·k2·C units of its window. Both give the
same sums. Gathering needs stride 1, so that each unit of dx has a window on the map of deltas. Any kernel for E4 can do
it.

The map of deltas has a border of zeros, which are multiplied by w. Since 0 · ∞ is NaN, only a finite w may be gathered.
"""

from __future__ import annotations

import functools

import numpy

from dualnet.geometry import Windows

from . import band_matrix


@functools.lru_cache(maxsize=256)
def windows(at: Windows) -> Windows | None:
    """Where the windows of the rotated bank stand on the map of deltas; None where E13 cannot be gathered."""
    reach = [r * (k - 1) for r, k in zip(at.dilation, at.window)]
    if at.stride != (1, 1) or any(before > e or after > e for (before, after), e in zip(at.reach, reach)):
        return None
    pads = tuple((e - before, n + before - p) for e, n, p, (before, _) in zip(reach, at.size, at.grid, at.reach))
    return Windows(at.grid, at.window, (1, 1), pads, at.dilation, at.size)  # type: ignore[arg-type]


def turned(w: numpy.ndarray) -> numpy.ndarray:
    """rot180(w), channels and filters exchanged: (k1, k2, C, D) -> (k1, k2, D, C)."""
    return w[::-1, ::-1].transpose(0, 1, 3, 2)


def narrow(back: Windows, C: int, D: int, images: int) -> bool:
    """Is a row of these windows so short that several columns are computed at a time (see band_matrix.py)?"""
    return band_matrix.columns_at_once(back, D, C, images) > 1


def better(at: Windows, C: int, D: int, images: int) -> Windows | None:
    """:func:`windows` if gathering is better than scattering: rows are short, or gathering does not read much more."""
    back = windows(at)
    if back is None:
        return None
    read, added = at.size[0] * at.size[1] * D, at.grid[0] * at.grid[1] * C
    return back if read <= 2 * added or narrow(back, C, D, images) else None
