"""Winograd's minimal filtering along the height alone: its tiles. test_winograd.py proves its numbers."""

from __future__ import annotations

from dualnet.backends.cpu import winograd_rows
from dualnet.geometry import windows


def test_tiles_fit_the_height():
    def tile(P):
        at = windows("t", (P, 9), (3, 3), padding=1)
        return winograd_rows.Tiles(at, 32, 48, 8, "float32", 1).p

    assert [tile(P) for P in (1, 2, 3, 4, 6, 9)] == [2, 2, 4, 4, 4, 4]
