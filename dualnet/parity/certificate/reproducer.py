"""The code behind a reproducer: it runs one case of an op in every way and shows the numbers."""

from __future__ import annotations

from collections.abc import Iterable

from ...shim import BackendUnavailable, load
from ..cases.case import Case, draw
from ..cases.truth import Source
from ..judging.compare import compare
from ..judging.judge import judge_case, pairs_of
from ..judging.kernels import LARGE, large_cases
from ..judging.ways import Way, ways_of
from ..networks.lockstep import references
from .report import case_text

__all__ = ["one_case"]


def one_case(
    op: str, number: int, *, seed: int, dtype: str, backends: Iterable[str], large: bool = False
) -> tuple[str, bool]:
    """The text to print, and whether everything agrees. ``large`` takes one of the kernels' large cases instead.

    >>> text, agrees = one_case("relu", 3, seed=0, dtype="float32", backends=["strict"])
    >>> text.splitlines()[0], agrees
    ('relu case 3 (long sums, sliced): x 2x700', True)
    """
    case, source = _chosen(op, number, seed, dtype, large)
    ways: list[Way] = []
    lines = [str(case), f"must raise {case.refused}" if case.refused else ""]
    for name in dict.fromkeys(("numpy", *backends)):
        try:
            ways += ways_of(load(name).name)
        except BackendUnavailable as cause:
            lines.append(f"{name}: NOT-RUN: {cause}")
    truth, outcomes = judge_case(case, ways, source)
    compared = [compare(case, way.name, outcome, truth) for way, outcome in outcomes.items()]
    compared += [
        compare(case, f"{way.name} ↔ {other.name}", outcomes[way], truth, outcomes[other])
        for way, other in pairs_of(ways)
    ]
    agrees = all(comparison.ok for comparison in compared)
    return "\n".join([*filter(None, lines), case_text(compared, truth), "agrees" if agrees else "DISAGREES"]), agrees


def _chosen(op: str, number: int, seed: int, dtype: str, large: bool) -> tuple[Case, Source | None]:
    """The case, and the source of its truth: for a large case, NumPy's references in float64."""
    if number < 0:
        raise ValueError(f"the number of a case must be at least 0, got {number}")
    if not large:
        return draw(op, number, seed, dtype), None
    several = large_cases(op, dtype, seed) if op in LARGE else []
    if number >= len(several):
        raise ValueError(f"op {op!r} has {len(several)} large cases, numbered from 0; got {number}")
    return several[number], references
