"""The limits: those of the page, and tight enough for a single wrong element."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dualnet.parity.cases import limits
from dualnet.parity.judging.compare import measure

ROOT = Path(__file__).resolve().parents[3]


def test_tau_is_that_of_the_page():
    page = (ROOT / "docs" / "numerics.md").read_text("utf-8") if (ROOT / "docs").exists() else ""
    for K in (9, 576, 4608):
        shown = f"{limits.tau('float32', K):.1e}".replace("e-0", "e-")
        assert not page or f"| {K} | {shown} |" in page


def test_one_wrong_element_shows_although_the_norm_is_right(rng):
    a, b = rng.standard_normal((200, 50)), rng.standard_normal((50, 200))
    r = a @ b
    limit = limits.products(r, "float32", 50, np.abs(a) @ np.abs(b))
    x = r.copy()
    x[0, 0] += 5e-5 * limit.scale[0, 0]
    found = measure(x, r, limit, "float64")
    assert found.norm <= limit.norm and found.each > limit.each and not found.ok
    assert found.at == (0, 0)
