"""Winograd's minimal filtering along the height alone: its numbers, its tiles, and what it must not serve."""

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

from dualnet.backends.cpu import winograd_rows
from dualnet.geometry import windows


@pytest.mark.parametrize("case", range(20))
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("threads", ["1", "2", "3"])
def test_the_references_numbers(monkeypatch, rng, case, dtype, threads):
    monkeypatch.setenv("DUALNET_THREADS", threads)
    if case % 2:  # several blocks, of rows of tiles where there are few images
        monkeypatch.setattr(winograd_rows, "BLOCK_BYTES", 20000)
        monkeypatch.setattr(winograd_rows, "UNPACKED", 3000)
    winograd_serves(winograd_rows, monkeypatch)
    winograd_agrees(winograd_rows, rng, dtype)


def test_any_memory_layout_and_any_leftovers(monkeypatch, rng):
    monkeypatch.setenv("DUALNET_THREADS", "1")
    winograd_keeps_to_itself(winograd_rows, rng, 48)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30])
def test_what_is_not_finite_is_declined(rng, value):
    winograd_declines_what_is_not_finite(winograd_rows, rng, 48, value)


def test_few_channels_are_served(rng):
    for D, served in ((64, True), (65, False)):
        at, x, w, b, dy = winograd_case(rng, D)
        for result in (
            winograd_rows.correlate(x, w, b, at),
            winograd_rows.parameter_gradients(x, dy, at, 1, True),
            winograd_rows.correlate_filters(x, dy, at),
            winograd_rows.correlate_inputs(dy, w, at),
        ):
            assert (result is not NotImplemented) == served


def test_what_is_not_served(rng):
    at, x, w, b, dy = winograd_case(rng, 48)
    assert winograd_rows.parameter_gradients(x.astype("f2"), dy.astype("f2"), at, 1, True) is NotImplemented
    assert winograd_rows.correlate(x, w.astype("f8"), None, at) is NotImplemented
    assert winograd_rows.correlate(x, w, b, at, 2) is winograd_rows.correlate_inputs(dy, w, at, 2) is NotImplemented
    assert winograd_rows.correlate_filters(x, dy, at, 2) is NotImplemented


def test_tiles_fit_the_height():
    def tile(P):
        at = windows("t", (P, 9), (3, 3), padding=1)
        return winograd_rows.Tiles(at, 32, 48, 8, "float32", 1).p

    assert [tile(P) for P in (1, 2, 3, 4, 6, 9)] == [2, 2, 4, 4, 4, 4]
