"""im2col for NumPy's kernels: every window becomes a row, in blocks that cover the batch."""

from __future__ import annotations

import numpy as np
import pytest
from cpu_tools import REFERENCES, placed

from dualnet.backends.cpu import im2col
from dualnet.geometry import windows


@pytest.mark.parametrize("case", range(30))
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_columns_are_the_references(rng, case, dtype):
    at, C = placed(rng), int(rng.integers(1, 12))
    x = rng.standard_normal((3, *at.size, C)).astype(dtype)
    for layout in (x, np.asfortranarray(x), x[:, ::-1], np.repeat(x, 2, axis=3)[..., ::2], x[::-1, :, ::-1]):
        want = REFERENCES["im2col"](layout, at)
        got = im2col.columns(layout, at)
        assert got.dtype == want.dtype and np.array_equal(got, want)


def test_columns_of_few_channels_are_built_transposed(rng):
    narrow, wide = windows("t", (9, 20), (3, 3)), windows("t", (9, 8), (3, 3))
    x = rng.standard_normal((2, 9, 20, 2), dtype="f4")
    assert im2col.columns(x, narrow).flags.f_contiguous, "runs of 18 columns instead of 6 numbers"
    assert im2col.columns(x[:, :, :8], wide).flags.c_contiguous, "6 columns are no longer than 6 numbers"
    assert im2col.columns(np.repeat(x, 5, axis=3), narrow).flags.c_contiguous


def test_a_map_of_single_units_is_a_matrix_already(rng):
    x = rng.standard_normal((2, 5, 4, 3), dtype="f4")
    assert np.shares_memory(im2col.columns(x, windows("t", (5, 4), (1, 1))), x)
    assert not np.shares_memory(im2col.columns(x, windows("t", (5, 4), (1, 1), padding=1)), x)
    assert not np.shares_memory(im2col.columns(x, windows("t", (5, 4), (1, 1), stride=2)), x)


def test_the_border_is_zero_whatever_the_buffer_held(rng):
    x = rng.standard_normal((2, 4, 5, 3), dtype="f4")
    at = windows("t", (4, 5), (3, 3), padding=((1, 2), (0, 3)))
    im2col.padded(x, at).fill(np.nan)
    got = im2col.padded(x, at)
    assert np.array_equal(got, np.pad(x, ((0, 0), (1, 2), (0, 3), (0, 0))))
    assert im2col.padded(x, windows("t", (4, 5), (3, 3))) is x


def test_a_strided_view_reads_the_array_itself(rng):
    x = rng.standard_normal((4, 6))
    for array in (x, x[:, ::2], x[::-1]):
        down, across = array.strides
        view = im2col.strided(array, (2, 2, 2), (down, down, across))
        assert np.shares_memory(view, x)
        assert np.array_equal(view, [array[:2, :2], array[1:3, :2]])


@pytest.mark.parametrize("threads", ["1", "2", "3"])
@pytest.mark.parametrize("batch, limit", [(1, 10**9), (7, 10**9), (64, 20_000), (5, 1)])
def test_blocks_cover_the_batch_and_fit(monkeypatch, threads, batch, limit):
    monkeypatch.setenv("DUALNET_THREADS", threads)
    monkeypatch.setattr(im2col, "BLOCK_BYTES", limit)
    monkeypatch.setattr(im2col, "LEAST_BYTES", 1)
    at = windows("t", (12, 10), (3, 3), padding=1)
    covered = np.zeros((batch, *at.grid), int)
    for images, rows, inside, part in im2col.blocks(at, batch, 4, 4):
        covered[images, rows] += 1
        assert part.grid == (rows.stop - rows.start, 10) and part.size == (inside.stop - inside.start, 10)
        positions = (images.stop - images.start) * part.grid[0] * 10
        assert positions * 9 * 4 * 4 <= limit or positions == 10, "one row is the least"
    assert (covered == 1).all()


def test_small_work_is_not_cut_into_blocks(monkeypatch):
    monkeypatch.setenv("DUALNET_THREADS", "4")
    at = windows("t", (8, 8), (3, 3))
    assert 36 * 9 * 8 * 4 * 9 < im2col.LEAST_BYTES and len(im2col.blocks(at, 9, 8, 4)) == 1
    assert len(im2col.blocks(at, 90, 8, 4)) == 2 and len(im2col.blocks(at, 400, 8, 4)) >= 4
