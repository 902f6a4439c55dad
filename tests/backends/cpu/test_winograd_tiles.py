"""What both Winograd kernels share: the constants, the shapes that they can compute, how a batch is cut, and what
threads keep."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from dualnet.backends.cpu import gathering, winograd_tiles
from dualnet.geometry import windows


@pytest.mark.parametrize("m", [2, 4])
def test_the_constants_make_a_correlation(rng, m):
    A, G, B = (np.array(constants[m]) for constants in (winograd_tiles.A, winograd_tiles.G, winograd_tiles.B))
    d, g = rng.standard_normal(m + 2), rng.standard_normal(3)
    expected = [d[i : i + 3] @ g for i in range(m)]
    np.testing.assert_allclose(A @ ((G @ g) * (B @ d)), expected, rtol=1e-12, atol=1e-12)
    assert A[0, 1] == 1 and (A[1:, 1] == 1).all(), "E12 is read off at this point"


def test_what_is_served():
    same = windows("conv2d", (32, 32), (3, 3), padding=1)
    assert winograd_tiles.serves(same, 32, 32, 64)
    assert not winograd_tiles.serves(same, 3, 32, 64) and not winograd_tiles.serves(same, 32, 8, 64)
    assert not winograd_tiles.serves(windows("conv2d", (8, 8), (3, 3), padding=1), 16, 16, 1), "too little to do"
    assert not winograd_tiles.serves(windows("conv2d", (8, 8), (3, 3), padding=1), 512, 512, 1), "for so large a bank"
    for options in ({"stride": 2}, {"dilation": 2}):
        assert not winograd_tiles.serves(windows("conv2d", (32, 32), (3, 3), padding=1, **options), 32, 32, 64)
    assert not winograd_tiles.serves(windows("conv2d", (32, 32), (5, 5), padding=2), 32, 32, 64)


def test_e13_is_served_if_its_windows_on_the_deltas_are():
    same = windows("conv2d", (32, 32), (3, 3), padding=1)
    assert winograd_tiles.gathered(same, 32, 48, 64) == gathering.windows(same)
    assert winograd_tiles.gathered(windows("conv2d", (32, 32), (3, 3), stride=2), 32, 48, 64) is None
    assert winograd_tiles.gathered(windows("conv2d", (32, 32), (5, 5)), 32, 48, 64) is None
    assert winograd_tiles.gathered(same, 8, 48, 64) is None


@pytest.mark.parametrize(
    "images, rows, one, team", [(64, 8, 1000, 2), (1, 8, 10**6, 3), (3, 2, 10**6, 4), (5, 7, 1, 1)]
)
def test_blocks_cover_every_row_of_tiles_once(images, rows, one, team):
    covered = np.zeros((images, rows), int)
    sizes = []
    for part, first, last in winograd_tiles.blocks_of(images, rows, one, 10_000, team):
        covered[part, first:last] += 1
        sizes.append((part.stop - part.start) * one * (last - first) // rows)
    assert (covered == 1).all()
    assert max(sizes) <= max(10_000, one // rows + one), "the limit, or the least that there is"


def test_the_rows_that_tiles_read():
    at = windows("t", (10, 9), (3, 3), padding=1)
    assert winograd_tiles.rows_read(at, 4, 0, 1) == (slice(0, 5), slice(1, 6)), "row 0 of the border is skipped"
    assert winograd_tiles.rows_read(at, 4, 1, 3) == (slice(3, 10), slice(0, 7)), "and those below the map"


def test_a_thread_keeps_a_buffer_and_the_rooms_in_it():
    kept, made = winograd_tiles.Kept(), []

    class Room:
        def __init__(self, size, own):
            self.buffer = own.buffer(size, np.dtype("float32"))
            made.append(size)

    first = kept.room(Room, 10)
    assert kept.room(Room, 10) is first and made == [10]
    assert np.shares_memory(kept.room(Room, 5).buffer, first.buffer)
    kept.room(Room, 20)
    assert list(kept.rooms) == [(Room, 20)], "views would keep the smaller buffer alive"
    assert kept.room(Room, 10) is not first
    other = []
    worker = threading.Thread(target=lambda: other.append(dict(kept.rooms)))
    worker.start()
    worker.join()
    assert other == [{}]


def test_rooms_are_cleared_when_there_are_too_many(monkeypatch):
    monkeypatch.setattr(winograd_tiles, "ROOMS", 3)
    kept = winograd_tiles.Kept()
    for n in range(5):
        kept.room(lambda n, own: n, n)
        assert len(kept.rooms) <= 3


def test_a_buffer_is_cut_into_pieces():
    buffer = np.arange(10)
    first, rest = winograd_tiles.cut(buffer, 2, 3)
    assert first.tolist() == [[0, 1, 2], [3, 4, 5]] and rest.tolist() == [6, 7, 8, 9]
    assert np.shares_memory(first, buffer)
