"""The certificate: every op, every kernel, three networks and the negative controls, on every backend that works here.

PASS      all was compared, all agreed, and every control failed as it must
FAIL      something differs
PARTIAL   what was compared agrees, but not everything was: ops, dtypes or networks were left out
INVALID   a negative control passed, so that agreement means nothing
NOT-RUN   the backend does not work on this machine; the cause is given
"""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ...shim import BackendUnavailable, calls, info, load, use_backend
from ...shim.dtypes import HALVES
from ..cases import case as cases
from ..judging import controls, pieces
from ..judging import kernels as kernel_cases
from ..judging.compare import compare
from ..judging.judge import judge, judge_case, pairs_of
from ..judging.ways import Way, ways_of
from ..networks import training
from ..networks.lockstep import references
from . import report
from .sources import KIND, fingerprint

__all__ = ["BACKENDS", "DTYPES", "Certificate", "VERDICTS", "certify"]

BACKENDS = ("strict", "cupy")
DTYPES = ("float32", "float64")
VERDICTS = ("PASS", "PARTIAL", "NOT-RUN", "FAIL", "INVALID")
"""From best to worst: the verdict on several backends is the worst of theirs."""

FULL, QUICK, FEW = 40, 10, 20
"""Cases of each op and dtype, of which ten hold one of every kind; and training steps of ``quick``."""


@dataclass
class Certificate:
    """What :func:`certify` found, as plain data. Prints as Markdown, and as HTML in a notebook."""

    data: dict[str, Any]

    @property
    def verdict(self) -> str:
        return self.data["verdict"]

    def markdown(self) -> str:
        """The certificate as a page."""
        return report.markdown(self.data)

    def json(self) -> str:
        """The certificate as JSON; numbers that JSON lacks are strings."""
        return json.dumps(report.plain(self.data), indent=1, ensure_ascii=False, allow_nan=False) + "\n"

    def write(self, path: str | os.PathLike) -> Path:
        """Write the JSON to a file."""
        target = Path(path)
        target.write_text(self.json(), encoding="utf-8")
        return target

    def page(self) -> str:
        """The certificate as a page for a browser, light or dark as the browser is."""
        return report.page(self.data)

    def __str__(self) -> str:
        return self.markdown()

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return report.html(self.data)


def certify(
    *,
    backends: Iterable[str] = BACKENDS,
    ops: Iterable[str] | None = None,
    dtypes: Iterable[str] = DTYPES,
    networks: Iterable[str] | None = None,
    seed: int = 0,
    quick: bool = False,
    command: str = "",
    tell: Callable[[str, float], None] = lambda what, share: None,
) -> Certificate:
    """Compare NumPy, each of ``backends`` and float64, and say what came of it.

    A backend that does not work here is NOT-RUN, and the others are compared all the same. ``ops`` and ``networks``
    choose some instead of all, which makes the verdict PARTIAL; so does ``quick``, which trains less. ``tell`` is
    called with what is going on, and the share that is done. Raises ``ValueError`` for names that are not there.

    >>> from dualnet.parity import certify
    >>> certificate = certify(backends=["strict"], ops=["relu"], networks=[], dtypes=["float32"])
    >>> certificate.verdict, certificate.data["verdicts"]
    ('PARTIAL', {'numpy': 'PARTIAL', 'strict': 'PARTIAL'})
    """
    return _Run(list(backends), ops, list(dtypes), networks, seed, quick, command, tell).certificate()


class _Run:
    """One run, from its arguments to the verdict."""

    def __init__(self, backends: list[str], ops: Any, dtypes: list[str], networks: Any, seed: int, quick: bool,
                 command: str, tell: Callable[[str, float], None]) -> None:  # fmt: skip
        self.ops = _chosen(ops, cases.OPS, "op")
        self.networks = _chosen(networks, tuple(training.NETWORKS), "network")
        self.networks = self.networks[:1] if quick and networks is None else self.networks
        self.dtypes = _chosen(dtypes, (*HALVES, *DTYPES), "dtype")
        self.seed, self.quick, self.command, self.tell = seed, quick, command, tell
        self.causes, self.backends = {}, ["numpy"]
        for name in dict.fromkeys(backends):
            if name == "numpy":
                continue
            try:
                self.backends.append(load(name).name)
            except BackendUnavailable as cause:
                self.causes[name] = str(cause).removeprefix(f"{name}: ")
        self.ways = [way for name in self.backends for way in ways_of(name)]
        self.skipped = sorted({*cases.skipped(), *(set(cases.OPS) - set(self.ops))})
        self.begun = time.perf_counter()

    def certificate(self) -> Certificate:
        before = dict(calls)
        number = QUICK if self.quick else FULL
        jobs = [(op, dtype) for op in self.ops for dtype in self.dtypes]
        weight = {"ops": 0.25, "kernels": 0.05, "controls": 0.1, "networks": 0.6}
        found: dict[str, Any] = {"ops": [], "kernel_checks": [], "networks": [], "controls": []}
        for i, (op, dtype) in enumerate(jobs):
            self.tell(f"{op} {dtype}", weight["ops"] * i / len(jobs))
            found["ops"].append(judge(op, dtype, self.ways, seed=self.seed, cases=number))
        self.tell("kernels", weight["ops"])
        chosen = [op for op in kernel_cases.LARGE if op in self.ops]
        for way in self.ways:
            found["kernel_checks"] += kernel_cases.judge_kernels(way, chosen, self.seed) if way.kernels else []
            found["kernel_checks"] += pieces.judge_pieces(way, self.seed) if way.kernels else []
        self.tell("controls", 0.3)
        references_of = [way for way in self.ways if not way.kernels]
        found["controls"] += controls.controls(references_of, self.ops, self.seed, 4 if self.quick else QUICK)
        for i, name in enumerate(self.networks):
            self.tell(f"network {name}", 0.4 + weight["networks"] * i / len(self.networks))
            steps, seeds = (FEW, 1) if self.quick else (training.STEPS, None)
            found["networks"].append(training.judge_network(name, self.ways, seed=self.seed, steps=steps, seeds=seeds))
        self.tell("done", 1.0)
        served = {key: n - before.get(key, 0) for key, n in calls.items() if n > before.get(key, 0)}
        found["kernels_reached"] = kernel_cases.reached(self.backends, served)
        return Certificate({**self._head(found), **found})

    def _head(self, found: dict[str, Any]) -> dict[str, Any]:
        facts = {name: _facts(name) for name in self.backends}
        reasons = {name: self._reasons(name, found) + _idle(name, found, facts[name]) for name in self.backends}
        verdicts = {name: _verdict(reasons[name]) for name in self.backends}
        verdicts |= dict.fromkeys(self.causes, "NOT-RUN")
        told = {name: [f"{kind}: {text}" for kind, text in rs] for name, rs in reasons.items()}
        told |= {name: [f"NOT-RUN: {cause}"] for name, cause in self.causes.items()}
        return {
            "kind": KIND,
            "format": 1,
            "verdict": max(verdicts.values(), key=VERDICTS.index),
            "verdicts": verdicts,
            "reasons": told,
            "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
            "seconds": round(time.perf_counter() - self.begun, 1),
            "seed": self.seed,
            "quick": self.quick,
            "command": self.command or f"dualnet parity --seed {self.seed}{' --quick' if self.quick else ''}",
            "machine": {"platform": platform.platform(), "processor": _processor(), "command line": sys.argv[0]},
            "backends": facts,
            "kernels": fingerprint(),
            "skipped": self.skipped,
        }

    def _reasons(self, name: str, found: dict[str, Any]) -> list[tuple[str, str]]:
        """What keeps a backend from a PASS: (verdict, why). A backend has NumPy's faults as well."""
        mine = {way.name for way in self.ways if way.backend in (name, "numpy")}
        reasons = []
        for row in found["ops"]:
            for tally in (*row["ways"], *row["pairs"]):
                if tally["failed"] and set(tally["what"].split(" ↔ ")) <= mine:
                    reasons.append(("FAIL", f"{row['op']} {row['dtype']}, {tally['what']}: {_told(tally)}"))
            for way, different in row["repeats"]["different"].items():
                if different and way in mine:
                    reasons.append(("FAIL", f"{row['op']} {row['dtype']}, {way}: {different} of 20 repeats differ"))
        for row in found["kernel_checks"]:
            if row["what"] in mine and row["failed"]:
                reasons.append(("FAIL", f"kernels of {row['op']} {row['dtype']}, {row['what']}: {_told(row)}"))
            if row["what"] in mine and row["different"]:
                told = f"{row['what']}: {row['different']} of 20 repeats differ"
                reasons.append(("FAIL", f"kernels of {row['op']} {row['dtype']}, {told}"))
        for row in found["networks"]:
            reasons += [("FAIL", f"{row['network']}: {why}") for way, why in _network_faults(row) if way in mine]
        for row in found["controls"]:
            if row["way"] in mine and row["found"] < row["made"]:
                told = f"{row['control']} in {row['op']} on {row['way']} was found in {row['found']} of {row['made']}"
                reasons.append(("INVALID", told))
        if not found["controls"]:
            reasons.append(("INVALID", "no negative control was run"))
        for kernel in found["kernels_reached"].get(name, {}).get("never", []):
            reasons.append(("PARTIAL", f"the kernel {kernel} was never asked to serve"))
        return reasons + self._left_out()

    def _left_out(self) -> list[tuple[str, str]]:
        reasons = []
        for what, left in (
            ("ops", self.skipped),
            ("dtypes", [d for d in DTYPES if d not in self.dtypes]),
            ("networks", [n for n in training.NETWORKS if n not in self.networks]),
        ):
            if left:
                reasons.append(("PARTIAL", f"{what} left out: {', '.join(left)}"))
        if self.quick:
            reasons.append(("PARTIAL", f"--quick: {QUICK} cases of each op instead of {FULL}, {FEW} training steps"))
        return reasons


def _idle(name: str, found: dict[str, Any], facts: dict[str, Any]) -> list[tuple[str, str]]:
    """A library that is there and was never asked leaves what it would compute unknown."""
    idle = kernel_cases.idle(found["kernels_reached"][name]["libraries"], facts)
    return [("PARTIAL", f"{library} works here and was never asked to serve") for library in idle]


def _verdict(reasons: list[tuple[str, str]]) -> str:
    return max((kind for kind, _ in reasons), key=VERDICTS.index, default="PASS")


def _told(tally: dict[str, Any]) -> str:
    worst = tally["worst"] or {}
    return f"{tally['failed']} of {tally['cases']} cases, e.g. {worst.get('reproducer', '')}"


def _network_faults(row: dict[str, Any]) -> list[tuple[str, str]]:
    """(way, why) for all that is wrong with a network."""
    faults = []
    for dtype, first in row["first_step"].items():
        faults += [(told.partition(":")[0], f"{dtype}, first step, {told}") for told in first["wrong"]]
        if not first["ok"] and not first["wrong"]:
            told = "; ".join(first["lock_step"]) or "other answers than float64"
            faults += [(way, f"{dtype}, first step, {told}") for way in first["ratio"]]
    faults += [(step["way"], step["told"]) for step in row["lock_step"] if not step["ok"]]
    for run in row["training"]["rows"]:
        if not run["ok"]:
            told = f"training strays to {run['ratio']:.2g} of what is allowed, accuracies {run['accuracies']}"
            faults.append((run["way"], f"{run['way']}: {told}, range {row['training']['range']}"))
    return faults


def _chosen(names: Iterable[str] | None, known: tuple[str, ...], what: str) -> list[str]:
    chosen = list(known) if names is None else list(dict.fromkeys(names))
    for name in chosen:
        if name not in known:
            raise ValueError(f"unknown {what} {name!r}; choose from {', '.join(known)}")
    return chosen


def _facts(backend: str) -> dict[str, Any]:
    """Versions, BLAS, threads; GPU, driver, CUDA, precision: what ``dn.info()`` says of this backend."""
    with use_backend(backend):
        table = dict(info())
    for word in ("chosen by", "backends", "ran", "gpu memory", "kernels"):
        table.pop(word, None)
    return {**table, "kernels": len(load(backend).kernels)}


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


def one_case(
    op: str, number: int, *, seed: int, dtype: str, backends: Iterable[str], large: bool = False
) -> tuple[str, bool]:
    """One case, shown with its numbers, and whether it agrees: what a reproducer runs."""
    if number < 0:
        raise ValueError(f"the number of a case is at least 0, got {number}")
    if large:
        several = kernel_cases.large_cases(op, dtype, seed) if op in kernel_cases.LARGE else []
        if number >= len(several):
            raise ValueError(f"op {op!r} has {len(several)} large cases, and so no number {number}")
        case, source = several[number], references
    else:
        case, source = cases.draw(op, number, seed, dtype), None
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
    text, ok = report.case_text(compared, truth), all(c.ok for c in compared)
    return "\n".join([*filter(None, lines), text, "agrees" if ok else "DISAGREES"]), ok
