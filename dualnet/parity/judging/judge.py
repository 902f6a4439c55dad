"""Judge an op: every case in every way, against the truth and against each other."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from ..cases.case import Case, draw
from ..cases.truth import Expected, Source, expected
from .compare import MISMATCHES, Comparison, compare
from .ways import Outcome, Way

__all__ = ["REPEATS", "Tally", "judge", "judge_case", "pairs_of", "repeats"]

REPEATS = 20
"""How many times one case of each op is computed again. It must give the same bits."""


@dataclass
class Tally:
    """All cases of one op added up, for one way or one pair of ways."""

    what: str
    cases: int = 0
    failed: int = 0
    norm: float = 0.0
    each: float | None = None
    ratio: float = 0.0
    mismatches: Counter = field(default_factory=Counter)
    worst: dict[str, Any] | None = None
    served: int = 0  # cases in which kernels took part

    def add(self, comparison: Comparison) -> None:
        """Count one case, and remember it if it is the worst so far."""
        self.cases += 1
        self.failed += not comparison.ok
        self.mismatches.update(comparison.mismatches)
        for output, measured in comparison.results.items():
            self.norm = max(self.norm, measured.norm)
            if measured.each is not None:
                self.each = max(self.each or 0.0, measured.each)
            if self.worst is None or measured.ratio > self.ratio:
                self.ratio = max(self.ratio, measured.ratio)
                self.worst = {"output": output, **where(comparison, output)}
        if comparison.mismatch:
            self.ratio = math.inf
            self.worst = {"output": "", "note": comparison.note, **where(comparison, "")}

    def row(self) -> dict[str, Any]:
        """As plain data."""
        return {
            **{name: getattr(self, name) for name in ("what", "cases", "failed", "norm", "each", "ratio")},
            "mismatches": {name: self.mismatches[name] for name in MISMATCHES},
            "served": self.served,
            "worst": self.worst,
        }


def where(comparison: Comparison, output: str) -> dict[str, Any]:
    """The case and the element, and the command that shows them."""
    case = comparison.case
    place: dict[str, Any] = {"case": case.number, "kind": case.kind, "reproducer": case.reproducer}
    if found := comparison.results.get(output):
        place |= {"mismatch": found.mismatch, "at": list(found.at), "got": found.got, "wanted": found.wanted}
    return place


def pairs_of(ways: Iterable[Way]) -> list[tuple[Way, Way]]:
    """The ways to compare: each backend's references with NumPy's, and kernels with the references of their backend."""
    pairs = []
    references = {way.backend: way for way in ways if not way.kernels}
    for way in ways:
        if way.kernels:
            pairs.append((way, references[way.backend]))
        elif way.backend != "numpy" and "numpy" in references:
            pairs.append((way, references["numpy"]))
    return pairs


def judge(op: str, dtype: str, ways: list[Way], *, seed: int = 0, cases: int = 10) -> dict[str, Any]:
    """One row of the certificate: an op in one dtype."""
    drawn = [draw(op, number, seed, dtype) for number in range(cases)]
    tallies, apart = {way: Tally(way.name) for way in ways}, {pair: _tally_of(pair) for pair in pairs_of(ways)}
    for case in drawn:
        truth, outcomes = judge_case(case, ways)
        for way, outcome in outcomes.items():
            tallies[way].add(compare(case, way.name, outcome, truth))
            tallies[way].served += bool(outcome.kernels)
        for (way, other), tally in apart.items():
            tally.add(compare(case, tally.what, outcomes[way], truth, outcomes[other]))
    bits = {way.name: repeats(way, drawn[0]) for way in ways}
    return {
        "op": op,
        "dtype": dtype,
        "cases": len(drawn),
        "kinds": dict(Counter(case.kind for case in drawn)),
        "ways": [tally.row() for tally in tallies.values()],
        "pairs": [tally.row() for tally in apart.values()],
        "repeats": {"times": REPEATS, "different": bits},
        "verdict": "PASS" if _good(tallies, apart, bits) else "FAIL",
    }


def judge_case(
    case: Case, ways: Iterable[Way], source: Source | None = None
) -> tuple[dict[str, Expected] | None, dict[Way, Outcome]]:
    """The truth about a case (None if it must raise an error), and the outcome in each way."""
    truth = None if case.refused else expected(case, source)
    return truth, {way: way.run(case) for way in ways}


def repeats(way: Way, case: Case, times: int = REPEATS) -> int:
    """How many of ``times`` further runs give different bits from the first."""
    first = way.run(case).bits()
    return sum(way.run(case).bits() != first for _ in range(times))


def _tally_of(pair: tuple[Way, Way]) -> Tally:
    return Tally(f"{pair[0].name} ↔ {pair[1].name}")


def _good(tallies: dict, apart: dict, bits: dict[str, int]) -> bool:
    return not any(t.failed for t in (*tallies.values(), *apart.values())) and not any(bits.values())
