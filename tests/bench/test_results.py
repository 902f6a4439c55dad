"""Ratios between programs: only if both compute the same."""

from __future__ import annotations

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
