"""Convolution with 3 × 3 filters on NumPy by Winograd's minimal filtering: a third of the multiplications.

Along one direction, m neighbouring outputs of a filter g of three taps read d, m + 2 neighbours of the map. Instead of
3·m multiplications they need m + 2 (Winograd 1980; Lavin and Gray 2016):

    y  =  A [(G g) ⊙ (B d)]

with small constant matrices: m outputs are m + 2 values at points of the polynomial product. In both directions, for
tiles of 2 × 4 outputs, C channels and D filters, with ⊗ for "along the height and along the width":

    U = (G⊗G) w      24 matrices (C, D)
    V = (B⊗B) x      24 matrices (tiles, C)
    E4    y  =  (A⊗A) [V_t U_t]                    24 products instead of 72
    E11   dw =  (G⊗G)ᵀ [V_tᵀ dM_t],   dM = (A⊗A)ᵀ dy
    E12   db =  Σ dM at the point (1, 1), where Aᵀ only adds up

E13 at stride 1 is E4 with the rotated bank. All of it, the transforms too, are products of small matrices on memory as
it lies: blocks of images go through in buffers that stay in the cache.

With few channels ``numpy_winograd_rows`` does the same along the height alone.

Rounding errors are about twice those of the plain sum: B and A subtract numbers as large as the map's own from each
other. An infinity or a NaN would spread over its whole tile, so results that are not finite are not served.
"""

from __future__ import annotations

import functools
import math
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy
from numpy.lib.stride_tricks import as_strided

from dualnet.geometry import Windows

from . import blas, threads

BLOCK_BYTES = 2**21
"""V of one block: twice a common L2 cache, for fewer hand-overs of the interpreter's lock."""
LEAST = 16
"""From so many channels and filters on."""
PRODUCTS, PLACES = 2**22, 2**9
"""From so many multiplications (of the plain sum) and output positions on: the bank is transformed for each call."""
UNPACKED = 10**6
"""OpenBLAS multiplies matrices in place, without packing them first, up to so many multiplications."""
ROOMS = 256
"""So many sets of views are kept by each thread."""
THIN = 2**13
"""Up to so many numbers in U_t that pays."""

WIDE = 48
"""From so many channels on, products of 6 rows of C numbers are sooner done than copied into longer rows."""

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
TILES = ((2, 4), (4, 2), (2, 2))
"""Outputs of a tile, by height and width. 4 × 4 would save a little more, with rounding errors five times as large."""

Block = tuple[slice, int, int]  # images, tile rows from … to


class Tiles:
    """How tiles lie on maps of one shape, the constant matrices, and the blocks of a batch."""

    def __init__(self, at: Windows, C: int, D: int, images: int, dtype: Any, team: int) -> None:
        self.at, self.C, self.D, self.dtype = at, C, D, numpy.dtype(dtype)
        self.tile = min(TILES, key=lambda tile: _values(at, tile))
        (self.p, self.q), (P, Q) = self.tile, at.grid
        self.I, self.J = -(-P // self.p), -(-Q // self.q)
        self.points = (self.p + 2) * (self.q + 2)
        self.B_down, self.B_across = (numpy.array(B[m], dtype) for m in self.tile)
        self.A = numpy.kron(A[self.p], A[self.q]).astype(dtype)  # (p·q, points)
        self.G = numpy.kron(G[self.p], G[self.q]).astype(dtype)  # (points, 9)
        self.ones = self.q + 3  # the point (1, 1)
        (self.left, _), W = at.reach[1], at.size[1]
        self.width = self.q * self.J + 2  # columns that tiles read
        self.columns = min(W, self.width - self.left)  # those on the map
        one = self.points * self.I * self.J * max(C, D) * self.dtype.itemsize
        self.blocks = list(blocks_of(images, self.I, one, BLOCK_BYTES, team))


def blocks_of(images: int, rows: int, one: int, limit: int, team: int) -> Iterator[Block]:
    """Blocks of at most ``limit`` bytes, where an image takes ``one``; of fewer images than threads, parts of each."""
    number = -(-images * one // (limit * team)) * team  # as many for each thread
    parts = min(rows, -(-number // images)) if images < team else 1
    number = min(number, images)
    least, more = divmod(images, number)
    for k in range(number):  # those of one size follow each other
        start = k * least + min(k, more)
        for part in range(parts):
            yield slice(start, start + least + (k < more)), part * rows // parts, (part + 1) * rows // parts


def rows_read(at: Windows, p: int, first: int, last: int) -> tuple[slice, slice]:
    """The rows of the map that tile rows first … last − 1 read, and where they stand among those they read."""
    (top, _), H = at.reach[0], at.size[0]
    start, stop = p * first - top, p * last + 2 - top
    inside = slice(min(max(start, 0), H), min(max(stop, 0), H))
    return inside, slice(inside.start - start, inside.stop - start)


class Room:
    """Where a block of one thread is worked on: views of its buffers, made once, since Python's time is paid by all
    threads (they wait for the interpreter's lock).
    """

    def __init__(self, tiles: Tiles, n: int, first: int, last: int, kept: Kept) -> None:
        self.tiles, self.kept = tiles, kept
        self.inside, place = rows_read(tiles.at, tiles.p, first, last)
        C, D, J, (p, q), points = tiles.C, tiles.D, tiles.J, tiles.tile, tiles.points
        rows, taps = last - first, q + 2
        lines, tiled = p * rows + 2, n * rows * J
        self.border = (tiles, n, first, last)
        maps, spread = n * lines * tiles.width * C, taps * n * lines * J * C
        free = max(2 * spread, points * tiled * D, (p * q + points) * tiled * D)
        buffer = kept.buffer(maps + points * tiled * C + free + p * q * tiled * D, tiles.dtype)
        self.padded, buffer = cut(buffer, n, lines, tiles.width, C)
        self.maps = self.padded[:, place, tiles.left : tiles.left + tiles.columns]
        V, buffer = cut(buffer, points, tiled * C)
        free_, results = buffer[:free], buffer[free:]
        self._values(n, rows, lines, V, free_)
        M, lines_ = free_[: points * tiled * D], together(n * rows, J, C * D)
        self.V, self.M = V.reshape(points, -1, lines_, C), M.reshape(points, -1, lines_, D)
        self.by_row = M.reshape(points, n, rows, J * D).transpose(1, 2, 0, 3)
        self.results = results.reshape(n, rows, p * q, J * D)
        self.flat, self.tiled = results, results.reshape(n, rows, p, q, J, D)
        sorted_, deltas = cut(free_, n, rows, p * q, J * D)
        self.deltas, self.sorted = sorted_.reshape(n, rows, p, q, J, D), sorted_
        dM, _ = cut(deltas, points, tiled, D)
        self.dM, self.dM_by_row = dM, dM.reshape(points, n, rows, J * D).transpose(1, 2, 0, 3)
        self.V_turned = V.reshape(points, tiled, C).swapaxes(1, 2)
        self.ones = numpy.ones(tiled, tiles.dtype)

    def _values(self, n: int, rows: int, lines: int, V: numpy.ndarray, free: numpy.ndarray) -> None:
        tiles, size = self.tiles, self.padded.itemsize
        C, J, (p, q), taps = tiles.C, tiles.J, tiles.tile, tiles.tile[1] + 2
        by_image, by_line, by_column, _ = self.padded.strides
        if C >= WIDE:
            self.spread, strides = None, (by_image, by_line, q * by_column, by_column, size)
            across, _ = cut(free, taps, n, lines, J, C)
            self.read = as_strided(self.padded, (n, lines, J, taps, C), strides)
            self.across = across.transpose(1, 2, 3, 0, 4)
        else:
            self.spread, free = cut(free, n, lines, taps, J, C)
            across, _ = cut(free, taps, n, lines, J * C)
            strides = (by_image, by_line, by_column, q * by_column, size)
            self.taps = as_strided(self.padded, self.spread.shape, strides)
            self.read, self.across = self.spread.reshape(n, lines, taps, J * C), across.transpose(1, 2, 0, 3)
        by_point, by_image, by_line = across.strides[:3]
        strides = (by_point, by_image, p * by_line, by_line, size)
        self.down = as_strided(across, (taps, n, rows, p + 2, J * C), strides)
        self.out = V.reshape(p + 2, taps, n, rows, J * C).transpose(1, 2, 3, 0, 4)

    def values(self, x: numpy.ndarray) -> None:
        """V = (B⊗B) x of these images."""
        if self.kept.border != self.border:  # what is around the map was another block's
            self.padded[...] = 0
            self.kept.border = self.border
        self.maps[...] = x[:, self.inside, : self.tiles.columns]
        if self.spread is not None:
            numpy.copyto(self.spread, self.taps)
        numpy.matmul(self.tiles.B_across, self.read, out=self.across)
        numpy.matmul(self.tiles.B_down, self.down, out=self.out)


class Kept(threading.local):
    """What a thread keeps: a buffer for each dtype, the rooms in it, and whose zeros are around the map now."""

    def __init__(self) -> None:
        self.buffers: dict[numpy.dtype, numpy.ndarray] = {}
        self.rooms: dict[Any, Any] = {}
        self.border: Any = None

    def buffer(self, size: int, dtype: numpy.dtype) -> numpy.ndarray:
        if dtype not in self.buffers or self.buffers[dtype].size < size:
            self.rooms.clear()  # they are views of the old one
            self.buffers[dtype], self.border = threads.apart(size, dtype), None
        return self.buffers[dtype][:size]

    def room(self, kind: Callable[..., Any], *arguments: Any) -> Any:
        """``kind(*arguments, self)``, made once."""
        key = (kind, *arguments)
        found = self.rooms.get(key)
        if found is None:
            if len(self.rooms) >= ROOMS:
                self.rooms.clear()
            found = kind(*arguments, self)
            self.rooms[key] = found
        return found


kept = Kept()


def cut(buffer: numpy.ndarray, *shape: int) -> tuple[numpy.ndarray, numpy.ndarray]:
    """The first part of a buffer in this shape, and the rest."""
    size = math.prod(shape)
    return buffer[:size].reshape(shape), buffer[size:]


def _values(at: Windows, tile: tuple[int, int]) -> int:
    (P, Q), (p, q) = at.grid, tile
    return -(-P // p) * -(-Q // q) * (p + 2) * (q + 2)


@functools.lru_cache(maxsize=256)
def _tiles(at: Windows, C: int, D: int, images: int, dtype: Any, team: int, block: int) -> Tiles:
    return Tiles(at, C, D, images, dtype, team)


def serves(at: Windows, C: int, D: int, images: int) -> bool:
    """3 × 3 filters at stride 1, and enough to do?"""
    places = images * at.grid[0] * at.grid[1]
    return (
        at.window == (3, 3)
        and at.stride == at.dilation == (1, 1)
        and min(C, D) >= LEAST
        and places >= PLACES
        and places * 9 * C * D >= PRODUCTS
        and min(*at.reach[0], *at.reach[1]) >= 0
    )


def correlate(x: numpy.ndarray, w: numpy.ndarray, b: numpy.ndarray | None, at: Windows, relu: bool) -> Any:
    """E4, E6 (and E7 with ``relu``, while the block is still in the cache)."""
    (N, _, _, C), D = x.shape, w.shape[3]
    tiles = _tiles(at, C, D, N, x.dtype, threads.count(), BLOCK_BYTES)
    points, (P, Q), p = tiles.points, at.grid, tiles.tile[0]
    with blas.held():
        U = numpy.matmul(tiles.G, w.reshape(9, C * D)).reshape(points, 1, C, D)
    y = numpy.empty((N, P, Q, D), x.dtype)
    finite: list[bool] = []
    whole = _by_tile(y, tiles)

    def work(worker: int, block: Block) -> None:
        images, first, last = block
        part, out = x[images], y[images, p * first : p * last]
        room = kept.room(Room, tiles, len(part), first, last)
        room.values(part)
        numpy.matmul(room.V, U, out=room.M)
        numpy.matmul(tiles.A, room.by_row, out=room.results)
        finite.append(math.isfinite(numpy.dot(room.flat, room.flat)))
        if whole is not None:
            _add(room.tiled, b, whole[images, first:last])
        else:
            _lay_out(room.tiled, b, out)
        if relu:
            numpy.maximum(out, 0, out=out)  # E7

    with numpy.errstate(all="ignore"):
        threads.parallel_for(tiles.blocks, work)
    return y if all(finite) else NotImplemented


def _by_tile(maps: numpy.ndarray, tiles: Tiles) -> numpy.ndarray | None:
    """A view (N, I, p, q, J, D) of maps (N, H', W', D) that are contiguous; None where tiles reach beyond them."""
    (p, q), (N, P, Q, D) = tiles.tile, maps.shape
    if (P, Q) != (p * tiles.I, q * tiles.J):
        return None
    return maps.reshape(N, tiles.I, p, tiles.J, q, D).transpose(0, 1, 2, 4, 3, 5)


def _lay_out(results: numpy.ndarray, b: numpy.ndarray | None, y: numpy.ndarray) -> None:
    """Tiles (n, rows, p, q, J, D), and the bias, into y (n, H', W', D), beyond which they reach."""
    for row in range(results.shape[2]):
        for col in range(results.shape[3]):
            target = y[:, row :: results.shape[2], col :: results.shape[3]]
            _add(results[:, : target.shape[1], row, col, : target.shape[2]], b, target)


def _add(source: numpy.ndarray, b: numpy.ndarray | None, target: numpy.ndarray) -> None:
    if b is None:
        numpy.copyto(target, source)
    else:
        numpy.add(source, b, out=target)  # E4


def together(rows: int, J: int, numbers: int) -> int:
    """How many tiles (lines of V_t) one product takes: so few that BLAS need not pack them, where that pays."""
    if numbers > THIN:
        return rows * J
    most = max(1, min(rows, UNPACKED // (numbers * J)))
    return next(number for number in range(most, 0, -1) if rows % number == 0) * J


def parameter_gradients(x: numpy.ndarray, dy: numpy.ndarray, at: Windows, biased: bool) -> Any:
    """E11 and E12: each portion of the blocks is added up, and the portions' sums in their order."""
    (N, _, _, C), D = x.shape, dy.shape[3]
    tiles = _tiles(at, C, D, N, x.dtype, threads.count(), BLOCK_BYTES)
    points, p = tiles.points, tiles.tile[0]
    portions = threads.portions(tiles.blocks)
    sums, biases = numpy.empty((len(portions), points, C, D), x.dtype), numpy.zeros((len(portions), D))
    back, dy = numpy.ascontiguousarray(tiles.A.T), numpy.ascontiguousarray(dy)
    whole = _by_tile(dy, tiles)

    def work(worker: int, portion: int) -> None:
        for place, (images, first, last) in enumerate(portions[portion]):
            part, deltas = x[images], dy[images, p * first : p * last]
            room = kept.room(Room, tiles, len(part), first, last)
            room.values(part)
            if whole is not None:
                numpy.copyto(room.deltas, whole[images, first:last])
            else:
                _sort(deltas, room.deltas)
            numpy.matmul(back, room.sorted, out=room.dM_by_row)
            product = threads.workspace("dw", (points, C, D), x.dtype) if place else sums[portion]
            numpy.matmul(room.V_turned, room.dM, out=product)  # E11  V_tᵀ dM_t
            if place:
                sums[portion] += product
            if biased:
                biases[portion] += room.ones @ room.dM[tiles.ones]  # E12

    with numpy.errstate(all="ignore"):
        threads.parallel_for(range(len(portions)), work)
    total = sums.sum(axis=0).reshape(points, C * D)
    with blas.held(), numpy.errstate(all="ignore"):
        dw = numpy.matmul(tiles.G.T, total)
        if not numpy.isfinite(numpy.vdot(dw, dw)):
            return NotImplemented
    return dw.reshape(3, 3, C, D), biases.sum(axis=0).astype(x.dtype) if biased else None


def _sort(dy: numpy.ndarray, tiles: numpy.ndarray) -> None:
    """dy (n, H', W', D) by tiles (n, rows, p, q, J, D), 0 where these reach beyond it."""
    tiles[...] = 0
    for row in range(tiles.shape[2]):
        for col in range(tiles.shape[3]):
            source = dy[:, row :: tiles.shape[2], col :: tiles.shape[3]]
            tiles[:, : source.shape[1], row, col, : source.shape[2]] = source
