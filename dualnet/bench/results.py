"""Results: the rounds of a program as one row, and ratios between rows."""

from __future__ import annotations

import statistics
from typing import Any

__all__ = ["TOLERANCE", "best", "ratios"]

TOLERANCE = {"float32": 1e-3, "tf32": 5e-3, "float16": 1e-2, "bfloat16": 3e-2}
"""How far two programs may be apart, relative. float32 differs by far less; with fewer digits only the first value
counts, since the difference grows with every step."""


def best(answers: list[dict[str, Any]]) -> dict[str, Any]:
    """All rounds of one program as one row: best time, median of the medians, memory of the median round."""
    good = [answer for answer in answers if "min_ms" in answer]
    if not good or good != answers:
        return {key: answers[-1][key] for key in ("skipped", "failed") if answers and answers[-1].get(key)}
    told = {
        "min_ms": min(answer["min_ms"] for answer in good),
        "median_ms": statistics.median(answer["median_ms"] for answer in good),
        "rounds": [{key: answer[key] for key in ("min_ms", "median_ms", "runs")} for answer in good],
        **{key: _middle([answer[key] for answer in good]) for key in ("peak_bytes", "above_imports_bytes")},
        "values": good[0]["values"],
    }
    return {**told, **{key: good[-1][key] for key in ("ran", "device", "ready_seconds") if key in good[-1]}}


def _middle(values: list[int | None]) -> int | None:
    known = [value for value in values if value is not None]
    return statistics.median_low(known) if known else None


def ratios(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A ratio for each peer in each cell. A row that computes something else than dualnet is marked, and gets none."""
    return [ratio for cell in _cells(results) for ratio in _ratios(cell)]


def _cells(results: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """The rows that belong together: those of one network, batch, mode and dtype."""
    cells: dict[Any, list[dict[str, Any]]] = {}
    for row in results:
        cells.setdefault((row["net"], row["batch"], row["mode"], row["dtype"]), []).append(row)
    return list(cells.values())


def _ratios(cell: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """dualnet's speed over that of each peer's faster variant, and its memory over that peer's smallest."""
    (ours, *_), found = (row for row in cell if row["program"] == "dualnet"), []
    for name in dict.fromkeys(row["program"] for row in cell if row is not ours):
        rows = [row for row in cell if row["program"] == name and "min_ms" in row]
        if not rows or "min_ms" not in ours:
            continue
        for row in rows:
            if not _same(ours["values"], row["values"], row["dtype"]):
                row["differs"] = f"{name} computes {row['values']}, dualnet {ours['values']}"
        rows = [row for row in rows if "differs" not in row]
        if rows:
            found.append(_ratio(ours, rows))
    return found


def _ratio(ours: dict[str, Any], rows: list[dict[str, Any]]) -> dict[str, Any]:
    fastest = min(rows, key=lambda row: row["min_ms"])
    peaks = [row["peak_bytes"] for row in rows if row["peak_bytes"]]
    return {
        **{key: fastest[key] for key in ("net", "batch", "mode", "dtype")},
        "peer": fastest["program"],
        "variant": fastest["variant"],
        "speed": fastest["min_ms"] / ours["min_ms"],
        "speed_of_medians": min(row["median_ms"] for row in rows) / ours["median_ms"],
        "memory": ours["peak_bytes"] / min(peaks) if peaks and ours["peak_bytes"] is not None else None,
    }


def _same(ours: list[float], theirs: list[float], dtype: str) -> bool:
    compared = list(zip(ours, theirs))[: None if dtype == "float32" else 1]
    return all(abs(a - b) <= TOLERANCE[dtype] * max(abs(a), abs(b), 1e-3) for a, b in compared)
