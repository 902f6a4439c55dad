"""Winograd's minimal filtering on NumPy: the numbers of both kernels, the calls that they decline, and the tiles of the
larger one."""

from __future__ import annotations

import numpy as np
import pytest
from cpu_tools import (
    winograd_agrees,
    winograd_case,
    winograd_declines_what_is_not_finite,
    winograd_keeps_to_itself,
    winograd_serves,
)

from dualnet.backends.cpu import winograd, winograd_rows
from dualnet.geometry import windows

BOTH = pytest.mark.parametrize("by, D", [(winograd, 80), (winograd_rows, 48)], ids=["both directions", "rows"])


@BOTH
@pytest.mark.parametrize("case", range(20))
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("threads", ["1", "2", "3"])
def test_the_references_numbers(monkeypatch, rng, by, D, case, dtype, threads):
    monkeypatch.setenv("DUALNET_THREADS", threads)
    if case % 2:  # several blocks, of rows of tiles where there are few images
        monkeypatch.setattr(by, "BLOCK_BYTES", 20000)
        monkeypatch.setattr(by, "UNPACKED", 3000)
    winograd_serves(monkeypatch)
    winograd_agrees(by, rng, dtype)


@BOTH
def test_any_memory_layout_and_any_leftovers(monkeypatch, rng, by, D):
    monkeypatch.setenv("DUALNET_THREADS", "1")
    winograd_keeps_to_itself(by, rng, D)


@BOTH
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30])
def test_what_is_not_finite_is_declined(rng, by, D, value):
    winograd_declines_what_is_not_finite(by, rng, D, value)


@BOTH
def test_what_is_not_served(rng, by, D):
    at, x, w, b, dy = winograd_case(rng, D)
    assert by.parameter_gradients(x.astype("f2"), dy.astype("f2"), at, 1, True) is NotImplemented
    assert by.correlate(x, w.astype("f8"), None, at) is NotImplemented
    assert by.correlate(x, w, b, at, 2) is by.correlate_inputs(dy, w, at, 2) is NotImplemented  # groups
    assert by.correlate_filters(x, dy, at, 2) is NotImplemented


@BOTH
@pytest.mark.parametrize("filters", [24, 80])
def test_both_serve_few_channels_and_many(rng, by, D, filters):
    """Which one is faster is for the table to say."""
    at, x, w, b, dy = winograd_case(rng, filters)
    for result in (
        by.correlate(x, w, b, at),
        by.parameter_gradients(x, dy, at, 1, True),
        by.correlate_filters(x, dy, at),
        by.correlate_inputs(dy, w, at),
    ):
        assert result is not NotImplemented


def test_tiles_fit_the_map():
    """The shape of a tile is the one that computes the least beyond the map."""

    def tile(P, Q):
        at = windows("t", (P, Q), (3, 3), padding=1)
        return winograd.Tiles(at, 32, 80, 8, "float32", 1).tile

    assert tile(32, 32) == (2, 4) and tile(32, 30) == (4, 2) and tile(30, 30) == (2, 4)
    assert tile(2, 2) == (2, 2)


@pytest.mark.parametrize("rows, J, numbers", [(12, 5, 2**10), (7, 3, 2**13), (12, 5, 2**14), (1, 1, 1)])
def test_tiles_of_a_product_are_so_few_that_nothing_is_packed(rows, J, numbers):
    lines = winograd.together(rows, J, numbers)
    assert rows * J % lines == 0 and lines % J == 0
    if numbers > winograd.THIN:
        assert lines == rows * J
    else:
        assert lines * numbers <= winograd.UNPACKED or lines == J
