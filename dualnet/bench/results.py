"""Results: the rounds of a program as one row, and ratios between rows."""

from __future__ import annotations

import statistics
from typing import Any

__all__ = ["TOLERANCE", "best", "grouped", "ratios"]

Row = dict[str, Any]

TOLERANCE = {"float32": 1e-3, "tf32": 5e-3, "float16": 1e-2, "bfloat16": 3e-2}
"""How far apart the results of two programs may be, relatively. float32 differs by far less; with fewer digits only the
first value counts, since the difference grows with every step."""


def best(answers: list[Row]) -> Row:
    """All rounds of one program as one row or, if a round failed or was left out, the reason."""
    if answers and all("min_ms" in answer for answer in answers):
        return _together(answers)
    return {key: answers[-1][key] for key in ("skipped", "failed") if answers and answers[-1].get(key)}


def _together(rounds: list[Row]) -> Row:
    """The best time, the median of the medians, the memory of the median round."""
    return {
        "min_ms": min(one["min_ms"] for one in rounds),
        "median_ms": statistics.median(one["median_ms"] for one in rounds),
        "rounds": [{key: one[key] for key in ("min_ms", "median_ms", "runs")} for one in rounds],
        **{key: _middle([one[key] for one in rounds]) for key in ("peak_bytes", "above_imports_bytes")},
        "values": rounds[0]["values"],
        **{key: rounds[-1][key] for key in ("ran", "why", "device", "ready_seconds") if key in rounds[-1]},
    }


def _middle(values: list[int | None]) -> int | None:
    known = [value for value in values if value is not None]
    return statistics.median_low(known) if known else None


def grouped(rows: list[Row], *keys: str) -> dict[tuple, list[Row]]:
    """The rows that agree in these keys, in the order in which they first appear.

    >>> grouped([{"net": "a", "batch": 1}, {"net": "b", "batch": 1}, {"net": "a", "batch": 8}], "net")[("a",)]
    [{'net': 'a', 'batch': 1}, {'net': 'a', 'batch': 8}]
    """
    groups: dict[tuple, list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[key] for key in keys), []).append(row)
    return groups


def ratios(results: list[Row]) -> list[Row]:
    """A ratio for each peer in each cell. A row whose results differ from dualnet's is marked, and gets none."""
    return [ratio for cell in grouped(results, "net", "batch", "mode", "dtype").values() for ratio in _ratios(cell)]


def _ratios(cell: list[Row]) -> list[Row]:
    """dualnet's speed, captured or not, over that of each peer's faster variant, and its memory over the smallest."""
    programs = grouped(cell, "program")
    ours = [row for row in programs.pop(("dualnet",)) if "min_ms" in row]
    found = []
    for rows in programs.values() if ours else ():
        measured = [row for row in rows if "min_ms" in row]
        for row in measured:
            if not _same(ours[0]["values"], row["values"], row["dtype"]):
                row["differs"] = f"{row['program']} computes {row['values']}, dualnet {ours[0]['values']}"
        alike = [row for row in measured if "differs" not in row]
        found += [_ratio(row, alike) for row in ours] if alike else []
    return found


def _ratio(ours: Row, rows: list[Row]) -> Row:
    fastest = min(rows, key=lambda row: row["min_ms"])
    peaks = [row["peak_bytes"] for row in rows if row["peak_bytes"]]
    return {
        **{key: fastest[key] for key in ("net", "batch", "mode", "dtype")},
        "peer": fastest["program"],
        "variant": fastest["variant"],
        "ours": ours["variant"],
        "speed": fastest["min_ms"] / ours["min_ms"],
        "speed_of_medians": min(row["median_ms"] for row in rows) / ours["median_ms"],
        "memory": ours["peak_bytes"] / min(peaks) if peaks and ours["peak_bytes"] is not None else None,
    }


def _same(ours: list[float], theirs: list[float], dtype: str) -> bool:
    compared = list(zip(ours, theirs))[: None if dtype == "float32" else 1]
    return all(abs(a - b) <= TOLERANCE[dtype] * max(abs(a), abs(b), 1e-3) for a, b in compared)
