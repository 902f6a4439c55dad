"""The verdict on a backend, and the reasons for it.

PASS      everything was compared, everything agreed, and every control failed as it must
FAIL      something differs
PARTIAL   everything that was compared agrees, but ops, dtypes or networks were left out
INVALID   a negative control passed, so that agreement means nothing
NOT-RUN   the backend does not work on this machine; the cause is given
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from ..judging import kernels
from ..judging.judge import REPEATS
from ..judging.ways import Way

__all__ = ["VERDICTS", "Reason", "faults", "idle", "never_asked", "verdict"]

VERDICTS = ("PASS", "PARTIAL", "NOT-RUN", "FAIL", "INVALID")
"""From best to worst: the verdict on several backends is the worst of their verdicts."""

Reason = tuple[str, str]
"""A verdict, and why it is no better."""


def verdict(reasons: Iterable[Reason]) -> str:
    """The worst verdict that a reason calls for.

    >>> verdict([]), verdict([("PARTIAL", "ops left out: conv2d"), ("FAIL", "relu float32")])
    ('PASS', 'FAIL')
    """
    return max((kind for kind, _ in reasons), key=VERDICTS.index, default="PASS")


def faults(backend: str, ways: Iterable[Way], found: dict[str, Any]) -> Iterator[Reason]:
    """What is wrong on a backend. NumPy's faults count against all others too, since all are compared with it."""
    mine = {way.name for way in ways if way.backend in (backend, "numpy")}
    yield from (("FAIL", text) for text in _in_ops(found["ops"], mine))
    yield from (("FAIL", text) for text in _in_kernels(found["kernel_checks"], mine))
    yield from (("FAIL", text) for text in _in_networks(found["networks"], mine))
    yield from (("INVALID", text) for text in _in_controls(found["controls"], mine))


def _in_ops(rows: list[dict[str, Any]], mine: set[str]) -> Iterator[str]:
    for row in rows:
        where = f"{row['op']} {row['dtype']}"
        for tally in (*row["ways"], *row["pairs"]):
            if tally["failed"] and set(tally["what"].split(" ↔ ")) <= mine:
                yield f"{where}, {tally['what']}: {_example(tally)}"
        for way, different in row["repeats"]["different"].items():
            if different and way in mine:
                yield f"{where}, {way}: {different} of {REPEATS} repeats differ"


def _in_kernels(rows: list[dict[str, Any]], mine: set[str]) -> Iterator[str]:
    for row in rows:
        where = f"kernels of {row['op']} {row['dtype']}, {row['what']}"
        if row["failed"] and row["what"] in mine:
            yield f"{where}: {_example(row)}"
        if row["different"] and row["what"] in mine:
            yield f"{where}: {row['different']} of {REPEATS} repeats differ"


def _example(tally: dict[str, Any]) -> str:
    worst = tally["worst"] or {}
    return f"{tally['failed']} of {tally['cases']} cases, e.g. {worst.get('reproducer', '')}"


def _in_networks(rows: list[dict[str, Any]], mine: set[str]) -> Iterator[str]:
    for row in rows:
        for way, text in (*_in_first_step(row), *_in_lock_step(row), *_in_training(row["training"])):
            if way in mine:
                yield f"{row['network']}: {text}"


def _in_first_step(row: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for dtype, first in row["first_step"].items():
        for wrong in first["wrong"]:
            yield wrong.partition(":")[0], f"{dtype}, first step, {wrong}"
        if not first["ok"] and not first["wrong"]:
            why = "; ".join(first["lock_step"]) or "answers differ from those of float64"
            yield from ((way, f"{dtype}, first step, {why}") for way in first["ratio"])


def _in_lock_step(row: dict[str, Any]) -> Iterator[tuple[str, str]]:
    return ((step["way"], step["told"]) for step in row["lock_step"] if not step["ok"])


def _in_training(training: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for run in training["rows"]:
        if not run["ok"]:
            strays = f"training strays to {run['ratio']:.2g} of what is allowed, accuracies {run['accuracies']}"
            yield run["way"], f"{run['way']}: {strays}, range {training['range']}"


def _in_controls(rows: list[dict[str, Any]], mine: set[str]) -> Iterator[str]:
    for row in rows:
        if row["way"] in mine and row["found"] < row["made"]:
            yield f"{row['control']} in {row['op']} on {row['way']} was found in {row['found']} of {row['made']}"
    if not rows:
        yield "no negative control was run"


def never_asked(reached: dict[str, Any]) -> list[Reason]:
    """The kernels of a backend that served no call: their results are unknown."""
    return [("PARTIAL", f"the kernel {kernel} was never asked to serve") for kernel in reached["never"]]


def idle(reached: dict[str, Any], facts: dict[str, Any]) -> list[Reason]:
    """The libraries that work on a backend but served no call: their results are unknown."""
    libraries = kernels.idle(reached["libraries"], facts)
    return [("PARTIAL", f"{library} works here and was never asked to serve") for library in libraries]
