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

E13 at stride 1 is E4 with the rotated bank. The transforms, too, are products of small matrices. Images are processed
in blocks, in buffers that stay in the cache.

With few channels winograd_rows.py does the same along the height alone.

Rounding errors are about twice those of the plain sum: B and A subtract numbers as large as the map's own from each
other. An infinity or a NaN would spread over its whole tile, so if a result is not finite, the kernel declines.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy
from numpy.lib.stride_tricks import as_strided

from dualnet.geometry import Windows

from . import blas, threads
from .gathering import turned
from .guards import finite, served
from .winograd_tiles import (
    UNPACKED,
    A,
    B,
    Block,
    G,
    Kept,
    blocks_of,
    cut,
    gathered,
    kept,
    rows_read,
    serves,
)

ALGORITHM = "numpy winograd"
BLOCK_BYTES = 2**21
"""V of one block: twice a common L2 cache, so that the interpreter's lock changes hands less often."""
THIN = 2**13
"""Products of up to this many numbers in U_t are faster a few tiles at a time, unpacked."""
WIDE = 48
"""From this many channels on, products of 6 rows of C numbers are faster than copying them into longer rows first."""
TILES = ((2, 4), (4, 2), (2, 2))
"""Outputs of a tile, by height and width. 4 × 4 would save a little more, with rounding errors five times as large."""


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
        self.blocks = list(blocks_of(images, self.I, one, BLOCK_BYTES, threads.worth(images * one, team)))


class Room:
    """Where one thread works on a block: views of its buffers, made once. (All threads wait while one runs Python.)"""

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
        if self.kept.border != self.border:  # another block has written around the map
            self.padded[...] = 0
            self.kept.border = self.border
        self.maps[...] = x[:, self.inside, : self.tiles.columns]
        if self.spread is not None:
            numpy.copyto(self.spread, self.taps)
        numpy.matmul(self.tiles.B_across, self.read, out=self.across)
        numpy.matmul(self.tiles.B_down, self.down, out=self.out)


def _values(at: Windows, tile: tuple[int, int]) -> int:
    (P, Q), (p, q) = at.grid, tile
    return -(-P // p) * -(-Q // q) * (p + 2) * (q + 2)


@functools.lru_cache(maxsize=256)
def _tiles(at: Windows, C: int, D: int, images: int, dtype: Any, team: int, block: int) -> Tiles:
    return Tiles(at, C, D, images, dtype, team)


def correlate(
    x: numpy.ndarray, w: numpy.ndarray, b: numpy.ndarray | None, at: Windows, groups: int = 1, relu: bool = False
) -> Any:
    """E4, E6 (and E7 with ``relu``, while the block is still in the cache)."""
    (N, _, _, C), D = x.shape, w.shape[3]
    if not serves(at, C, D, N) or not served(x, w, groups):
        return NotImplemented
    return _correlate(x, w, b, at, relu)


def correlate_inputs(dy: numpy.ndarray, w: numpy.ndarray, at: Windows, groups: int = 1) -> Any:
    """E13, gathered."""
    (N, _, _, D), C = dy.shape, w.shape[2]
    back = gathered(at, C, D, N)
    if back is None or not served(dy, w, groups) or not finite(w):
        return NotImplemented
    return _correlate(dy, turned(w), None, back, relu=False)


def parameter_gradients(x: numpy.ndarray, dy: numpy.ndarray, at: Windows, groups: int, biased: bool) -> Any:
    """E11 and E12."""
    (N, _, _, C), D = x.shape, dy.shape[3]
    if not serves(at, C, D, N) or not served(x, dy, groups):
        return NotImplemented
    return _gradients(x, dy, at, biased)


def correlate_filters(x: numpy.ndarray, dy: numpy.ndarray, at: Windows, groups: int = 1) -> Any:
    """E11."""
    gradients = parameter_gradients(x, dy, at, groups, biased=False)
    return gradients if gradients is NotImplemented else gradients[0]


def _correlate(x: numpy.ndarray, w: numpy.ndarray, b: numpy.ndarray | None, at: Windows, relu: bool) -> Any:
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
    """A view (N, I, p, q, J, D) of maps (N, H', W', D) that are contiguous; None if tiles reach beyond them."""
    (p, q), (N, P, Q, D) = tiles.tile, maps.shape
    if (P, Q) != (p * tiles.I, q * tiles.J):
        return None
    return maps.reshape(N, tiles.I, p, tiles.J, q, D).transpose(0, 1, 2, 4, 3, 5)


def _lay_out(results: numpy.ndarray, b: numpy.ndarray | None, y: numpy.ndarray) -> None:
    """Write tiles (n, rows, p, q, J, D), plus the bias, into y (n, H', W', D), where they reach beyond y."""
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
    """How many tiles (lines of V_t) go into one product: so few that BLAS need not pack them, if that pays."""
    if numbers > THIN:
        return rows * J
    most = max(1, min(rows, UNPACKED // (numbers * J)))
    return next(number for number in range(most, 0, -1) if rows % number == 0) * J


def _gradients(x: numpy.ndarray, dy: numpy.ndarray, at: Windows, biased: bool) -> Any:
    """E11 and E12. Each portion of the blocks is added up, then the portions' sums, in order."""
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
    with blas.held(), numpy.errstate(all="ignore"):
        total = sums.sum(axis=0).reshape(points, C * D)
        dw = numpy.matmul(tiles.G.T, total)
        if not numpy.isfinite(numpy.vdot(dw, dw)):
            return NotImplemented
    return dw.reshape(3, 3, C, D), biases.sum(axis=0).astype(x.dtype) if biased else None


def _sort(dy: numpy.ndarray, tiles: numpy.ndarray) -> None:
    """Sort dy (n, H', W', D) into tiles (n, rows, p, q, J, D), with 0 where they reach beyond it."""
    tiles[...] = 0
    for row in range(tiles.shape[2]):
        for col in range(tiles.shape[3]):
            source = dy[:, row :: tiles.shape[2], col :: tiles.shape[3]]
            tiles[:, : source.shape[1], row, col, : source.shape[2]] = source
