"""What NumPy's two Winograd kernels share: constants, the shapes that they can compute, blocks, and buffers.

winograd.py explains the method; winograd_rows.py uses it along the height alone, for few channels.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy

from dualnet.geometry import Windows

from . import gathering, threads, tracing

LEAST = 16
"""From this many channels and filters on, ..."""
PRODUCTS, PLACES = 2**22, 2**9
"""... and from this many multiplications (of the plain sum) and output positions on: the bank is transformed for each
call."""
UNPACKED = 10**6
"""OpenBLAS multiplies matrices in place, without packing them first, up to this many multiplications."""
ROOMS = 256
"""Each thread keeps this many sets of views."""

A = {
    2: ((1, 1, 1, 0), (0, 1, -1, 1)),  # points 0, 1, −1, ∞
    4: ((1, 1, 1, 1, 1, 0), (0, 1, -1, 2, -2, 0), (0, 1, 1, 4, 4, 0), (0, 1, -1, 8, -8, 1)),  # and 2, −2
}
G = {
    2: ((1, 0, 0), (1 / 2, 1 / 2, 1 / 2), (1 / 2, -1 / 2, 1 / 2), (0, 0, 1)),
    4: (
        (1 / 4, 0, 0),
        (-1 / 6, -1 / 6, -1 / 6),
        (-1 / 6, 1 / 6, -1 / 6),
        (1 / 24, 1 / 12, 1 / 6),
        (1 / 24, -1 / 12, 1 / 6),
        (0, 0, 1),
    ),
}
B = {
    2: ((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, -1, 0, 1)),
    4: (
        (4, 0, -5, 0, 1, 0),
        (0, -4, -4, 1, 1, 0),
        (0, 4, -4, -1, 1, 0),
        (0, -2, -1, 2, 1, 0),
        (0, 2, -1, -2, 1, 0),
        (0, 4, 0, -5, 0, 1),
    ),
}
Block = tuple[slice, int, int]  # images, tile rows from … to


def serves(at: Windows, C: int, D: int, images: int) -> bool:
    """Are the filters 3 × 3 at stride 1, and is there enough to do?"""
    places = images * at.grid[0] * at.grid[1]
    return (
        at.window == (3, 3)
        and at.stride == at.dilation == (1, 1)
        and min(C, D) >= LEAST
        and places >= PLACES
        and places * 9 * C * D >= PRODUCTS
        and min(*at.reach[0], *at.reach[1]) >= 0
    )


def gathered(at: Windows, C: int, D: int, images: int) -> Windows | None:
    """The windows of E13 on the map of deltas, if these kernels can compute them."""
    back = gathering.windows(at) if at.window == (3, 3) else None
    return back if back is not None and serves(back, D, C, images) else None


def blocks_of(images: int, rows: int, one: int, limit: int, team: int) -> Iterator[Block]:
    """Blocks of at most ``limit`` bytes, if an image takes ``one``; with fewer images than threads, parts of images."""
    number = -(-images * one // (limit * team)) * team  # as many for each thread
    parts = min(rows, -(-number // images)) if images < team else 1
    number = min(number, images)
    least, more = divmod(images, number)
    for k in range(number):  # blocks of one size follow each other
        start = k * least + min(k, more)
        for part in range(parts):
            yield slice(start, start + least + (k < more)), part * rows // parts, (part + 1) * rows // parts


def rows_read(at: Windows, p: int, first: int, last: int) -> tuple[slice, slice]:
    """The rows of the map that tile rows first … last − 1 read, and their places among all rows that are read."""
    (top, _), H = at.reach[0], at.size[0]
    start, stop = p * first - top, p * last + 2 - top
    inside = slice(min(max(start, 0), H), min(max(stop, 0), H))
    return inside, slice(inside.start - start, inside.stop - start)


class Kept(threading.local):
    """What a thread keeps: a buffer for each dtype, the rooms in it, and the room whose zeros are around the map
    now."""

    def __init__(self) -> None:
        self.buffers: dict[numpy.dtype, numpy.ndarray] = {}
        self.rooms: dict[Any, Any] = {}
        self.border: Any = None

    def buffer(self, size: int, dtype: numpy.dtype) -> numpy.ndarray:
        """The first ``size`` numbers of this thread's buffer, which grows if it is too small."""
        if dtype not in self.buffers or self.buffers[dtype].size < size:
            self.rooms.clear()  # they are views of the old one
            self.buffers[dtype], self.border = threads.apart(size, dtype), None
        return self.buffers[dtype][:size]

    def room(self, kind: Callable[..., Any], *arguments: Any) -> Any:
        """``kind(*arguments, self)``, made once."""
        if tracing.tape() is not None:
            return kind(*arguments, Kept())  # a room of its own
        key = (kind, *arguments)
        found = self.rooms.get(key)
        if found is None:
            if len(self.rooms) >= ROOMS:
                self.rooms.clear()
            found = kind(*arguments, self)
            self.rooms[key] = found
        return found

    def let_go(self) -> None:
        """Free the buffers."""
        self.rooms.clear()
        self.buffers.clear()
        self.border = None


kept = Kept()
threads.also_kept.append(kept.let_go)


def cut(buffer: numpy.ndarray, *shape: int) -> tuple[numpy.ndarray, numpy.ndarray]:
    """The first part of a buffer in this shape, and the rest."""
    size = math.prod(shape)
    return buffer[:size].reshape(shape), buffer[size:]
