"""Ratios between programs: only if both compute the same."""

from __future__ import annotations

import pytest

from dualnet.bench import results


def test_with_fewer_digits_the_first_value_counts():
    ours = {"net": "n", "batch": 1, "mode": "training", "program": "dualnet", "min_ms": 1.0, "median_ms": 1.0}
    ours |= {"variant": "", "peak_bytes": None, "values": [2.0, 1.9]}
    for dtype, first, later, fits in [
        ("float32", 2.0, 1.8, False), ("bfloat16", 2.0, 1.8, True), ("bfloat16", 2.1, 1.9, False),
        ("tf32", 2.004, 1.0, True), ("tf32", 2.02, 1.9, False), ("float16", 2.01, 0.0, True),
    ]:  # fmt: skip
        rows = [ours | {"dtype": dtype}, ours | {"dtype": dtype, "program": "peer", "values": [first, later]}]
        assert bool(results.ratios(rows)) == fits == ("differs" not in rows[1])


def a_round(best, median, peak):
    return {
        "min_ms": best,
        "median_ms": median,
        "runs": 9,
        "peak_bytes": peak,
        "above_imports_bytes": None,
        "values": [1.0],
    }


def test_the_best_round_counts_and_the_median_of_the_medians():
    row = results.best([a_round(3.0, 7.0, 30), a_round(2.0, 9.0, 10), a_round(4.0, 8.0, 20)])
    assert (row["min_ms"], row["median_ms"], row["peak_bytes"]) == (2.0, 8.0, 20)
    assert row["above_imports_bytes"] is None and len(row["rounds"]) == 3
    assert results.best([a_round(3.0, 7.0, 30), {"failed": "crashed"}]) == {"failed": "crashed"}


def test_a_ratio_above_1_is_in_dualnets_favour():
    """Against the peer's faster variant, and the one with less memory."""
    where = {"net": "n", "batch": 1, "mode": "training", "dtype": "float32", "variant": ""}
    ours = where | a_round(2.0, 3.0, 50) | {"program": "dualnet"}
    peers = [where | a_round(*numbers) | {"program": "peer"} for numbers in ((8.0, 9.0, 100), (6.0, 12.0, 400))]
    (ratio,) = results.ratios([ours, *peers])
    assert (ratio["speed"], ratio["memory"]) == pytest.approx((3.0, 0.5)) and ratio["speed_of_medians"] == 3.0
