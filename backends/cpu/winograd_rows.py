"""Winograd's minimal filtering along the height alone, for few channels: half of the multiplications, and hardly any
copying.

With few channels the products of winograd.py take less time than the transforms before and after them. Here a tile is a
column of p = 4 outputs, with p + 2 points t. The three taps along the width stay as they are: 3·C numbers that lie
together in memory if the rows of the map are padded:

    V_t = Σ_a B[t,a] x̂[p·i + a]                          rows of (W' + 2)·C numbers
    E4    y[p·i + s]  =  Σ_t A[s,t] (V_t U_t),           U_t = Σ_m G[t,m] w[m]   (3·C, D)
    E11   dw[m]  =  Σ_t G[t,m] (V_tᵀ dM_t),              dM_t = Σ_s A[s,t] dy[p·i + s]
    E12   db  =  Σ dM_1, where Aᵀ only adds up

BLAS takes no matrix whose rows overlap. But every third window overlaps no other, so V_t is read as three matrices of
3·C columns, which start at the first, second and third column of the map. Two windows between one row of the map and
the next are meaningless: y skips them, and in dM they are 0.
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

ALGORITHM = "numpy winograd rows"
BLOCK_BYTES = 2**20
"""V of one block: half of a common L2 cache."""


class Tiles:
    """How tiles lie on maps of one shape, the constant matrices, and the blocks of a batch."""

    def __init__(self, at: Windows, C: int, D: int, images: int, dtype: Any, team: int) -> None:
        self.at, self.C, self.D, self.dtype = at, C, D, numpy.dtype(dtype)
        (P, Q), (self.left, _), W = at.grid, at.reach[1], at.size[1]
        self.p = min((4, 2), key=lambda p: -(-P // p) * (p + 2))
        self.I, self.points, self.width = -(-P // self.p), self.p + 2, Q + 2
        self.columns = min(W, self.width - self.left)  # of the map
        self.A, self.B, self.G = (numpy.array(constants[self.p], dtype) for constants in (A, B, G))
        self.A_back = numpy.ascontiguousarray(self.A.T)
        one = self.points * self.I * self.width * max(C, D) * self.dtype.itemsize
        self.blocks = list(blocks_of(images, self.I, one, BLOCK_BYTES, threads.worth(images * one, team)))


class Room:
    """Where one thread works on a block: views of its buffers, made once."""

    def __init__(self, tiles: Tiles, n: int, first: int, last: int, back: bool, own: Kept) -> None:
        self.tiles, self.back, self.kept = tiles, back, own
        self.inside, place = rows_read(tiles.at, tiles.p, first, last)
        C, D, p, points, width, size = tiles.C, tiles.D, tiles.p, tiles.points, tiles.width, tiles.dtype.itemsize
        rows, Q = last - first, width - 2
        lines = n * rows * width
        thirds = -(-lines // 3)  # rows of each of the three matrices
        number = 1 if back else max(1, -(-thirds * 3 * C * D // UNPACKED))
        each = -(-thirds // number)
        long = 3 * number * each + 2
        maps = n * (p * rows + 2) * width * C
        buffer = own.buffer(maps + points * long * (C + D) + n * rows * p * Q * D, tiles.dtype)
        self.padded, buffer = cut(buffer, n, p * rows + 2, width, C)
        self.V, buffer = cut(buffer, points, long, C)
        self.M, buffer = cut(buffer, points, long, D)
        self.results, _ = cut(buffer, n, rows, p, Q * D)
        self.maps = self.padded[:, place, tiles.left : tiles.left + tiles.columns]
        self.rest = self.V[:, lines:]
        by_image, by_line = self.padded.strides[:2]
        self.down = as_strided(self.padded, (n, rows, points, width * C), (by_image, p * by_line, by_line, size))
        self.out = self.V[:, :lines].reshape(points, n, rows, width * C).transpose(1, 2, 0, 3)
        self.by_row = self.M[:, :lines].reshape(points, n, rows, width * D)[..., : Q * D].transpose(1, 2, 0, 3)
        (by_point, by_col, _), (by_point_M, by_col_M, _) = self.V.strides, self.M.strides
        shape, strides = (points, 3, number, each), (by_point, by_col, each * 3 * by_col, 3 * by_col)
        self.windows = as_strided(self.V, (*shape, 3 * C), (*strides, size))
        strides = (by_point_M, by_col_M, each * 3 * by_col_M, 3 * by_col_M)
        self.products = as_strided(self.M, (*shape, D), (*strides, size))
        self.turned, self.deltas = self.windows[:, :, 0].swapaxes(2, 3), self.products[:, :, 0]
        self.ones = numpy.ones(long, tiles.dtype)

    def values(self, x: numpy.ndarray) -> None:
        """V of these images."""
        if self.kept.border is not self:  # another room has written around the map, or between or after the rows
            self.padded[...] = 0
            self.rest[...] = 0
            if self.back:
                self.M[...] = 0
            self.kept.border = self
        self.maps[...] = x[:, self.inside, : self.tiles.columns]
        numpy.matmul(self.tiles.B, self.down, out=self.out)


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
    (N, _, _, C), D, (P, Q) = x.shape, w.shape[3], at.grid
    tiles = _tiles(at, C, D, N, x.dtype, threads.count(), BLOCK_BYTES)
    p, points = tiles.p, tiles.points
    with blas.held():
        U = numpy.matmul(tiles.G, w.reshape(3, 3 * C * D)).reshape(points, 1, 1, 3 * C, D)
    y = numpy.empty((N, P, Q, D), x.dtype)
    whole = y.reshape(N, tiles.I, p, Q * D) if P == p * tiles.I else None
    biases = None if b is None else numpy.tile(b, Q)
    finite: list[bool] = []

    def work(worker: int, block: Block) -> None:
        images, first, last = block
        part, out = x[images], y[images, p * first : p * last].reshape(-1, Q * D)
        room = kept.room(Room, tiles, len(part), first, last, False)
        room.values(part)
        numpy.matmul(room.windows, U, out=room.products)
        if whole is not None:
            numpy.matmul(tiles.A, room.by_row, out=whole[images, first:last])
        else:
            numpy.matmul(tiles.A, room.by_row, out=room.results)
            rows = room.results.reshape(len(part), -1, Q * D)[:, : P - p * first]
            numpy.copyto(out.reshape(len(part), -1, Q * D), rows)
        flat = out.reshape(-1)
        finite.append(math.isfinite(numpy.dot(flat, flat)))
        if biases is not None:
            numpy.add(out, biases, out=out)  # E4
        if relu:
            numpy.maximum(out, 0, out=out)  # E7

    with numpy.errstate(all="ignore"):
        threads.parallel_for(tiles.blocks, work)
    return y if all(finite) else NotImplemented


def _gradients(x: numpy.ndarray, dy: numpy.ndarray, at: Windows, biased: bool) -> Any:
    """E11 and E12. Each portion of the blocks is added up, then the portions' sums, in order."""
    (N, _, _, C), D, (P, Q) = x.shape, dy.shape[3], at.grid
    tiles = _tiles(at, C, D, N, x.dtype, threads.count(), BLOCK_BYTES)
    p, points = tiles.p, tiles.points
    portions = threads.portions(tiles.blocks)
    shape = (points, 3, 3 * C, D)
    sums, biases = numpy.empty((len(portions), *shape), x.dtype), numpy.zeros((len(portions), D))
    whole = numpy.ascontiguousarray(dy).reshape(N, tiles.I, p, Q * D) if P == p * tiles.I else None

    def work(worker: int, portion: int) -> None:
        for place, (images, first, last) in enumerate(portions[portion]):
            part = x[images]
            room = kept.room(Room, tiles, len(part), first, last, True)
            room.values(part)
            if whole is not None:
                numpy.matmul(tiles.A_back, whole[images, first:last], out=room.by_row)
            else:
                deltas = dy[images, p * first : p * last]
                rows = room.results.reshape(len(part), -1, Q, D)
                rows[:, deltas.shape[1] :] = 0
                rows[:, : deltas.shape[1]] = deltas
                numpy.matmul(tiles.A_back, room.results, out=room.by_row)
            product = threads.workspace("dw", shape, x.dtype) if place else sums[portion]
            numpy.matmul(room.turned, room.deltas, out=product)  # E11  V_tᵀ dM_t
            if place:
                sums[portion] += product
            if biased:
                biases[portion] += room.ones @ room.M[1]  # E12

    with numpy.errstate(all="ignore"):
        threads.parallel_for(range(len(portions)), work)
    with blas.held(), numpy.errstate(all="ignore"):
        total = sums.sum(axis=(0, 2)).reshape(points, 3 * C * D)
        dw = numpy.matmul(tiles.G.T, total)
        if not math.isfinite(numpy.vdot(dw, dw)):
            return NotImplemented
    return dw.reshape(3, 3, C, D), biases.sum(axis=0).astype(x.dtype) if biased else None
