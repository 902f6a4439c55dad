"""The certificate: all ops, all kernels, three networks and the negative controls, on every backend that works here."""

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
from ...writing import replace_file
from ..cases.case import OPS, skipped
from ..judging import algorithms, controls, kernels, pieces
from ..judging.judge import judge
from ..judging.ways import ways_of
from ..networks import training
from . import report
from .sources import KIND, fingerprint
from .verdict import VERDICTS, Reason, faults, idle, never_asked, verdict

__all__ = ["BACKENDS", "DTYPES", "Certificate", "certify"]

BACKENDS = ("strict", "cupy")
DTYPES = ("float32", "float64")

FULL, QUICK = 40, 10
"""Cases of each op and dtype: any ten in a row hold one of each kind."""
FEW = 20  # training steps with ``quick``

BEGINS = {"kernels": 0.25, "controls": 0.3, "networks": 0.4}
"""How much of the work is done when each part begins. The ops come first."""


@dataclass
class Certificate:
    """The result of :func:`certify`, as plain data. Prints as Markdown, and as HTML in a notebook."""

    data: dict[str, Any]

    @property
    def verdict(self) -> str:
        """The worst verdict on a backend: PASS, PARTIAL, NOT-RUN, FAIL or INVALID."""
        return self.data["verdict"]

    def markdown(self) -> str:
        """The certificate as a page."""
        return report.markdown(self.data)

    def json(self) -> str:
        """The certificate as JSON; NaN and infinities, which JSON lacks, are strings."""
        return json.dumps(report.plain(self.data), indent=1, ensure_ascii=False, allow_nan=False) + "\n"

    def write(self, path: str | os.PathLike) -> Path:
        """Write the JSON to a file."""
        target = Path(path)
        replace_file(target, self.json().encode())
        return target

    def page(self) -> str:
        """The certificate as a page for a browser; light or dark, as the browser prefers."""
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
    """Compare NumPy, each of ``backends`` and float64, and give a verdict.

    A backend that does not work here is NOT-RUN, and the others are still compared. ``ops`` and ``networks`` choose
    some instead of all, which makes the verdict PARTIAL; so does ``quick``, which trains less. ``tell`` is called with
    the name of each part and how much of the work is done. Raises ``ValueError`` for unknown names.

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
        self.ops = _chosen(ops, OPS, "op")
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
        self.skipped = sorted({*skipped(), *(set(OPS) - set(self.ops))})
        self.begun = time.perf_counter()

    def certificate(self) -> Certificate:
        """Compare everything, and sum it up."""
        before = dict(calls)
        ops, checks, mistakes, networks = self._ops(), self._kernels(), self._controls(), self._networks()
        self.tell("done", 1.0)
        served = {key: n - before.get(key, 0) for key, n in calls.items() if n > before.get(key, 0)}
        facts = {name: _facts(name) for name in self.backends}
        found = {
            "ops": ops,
            "kernel_checks": checks,
            "networks": networks,
            "controls": mistakes,
            "kernels_reached": kernels.reached(self.backends, served, facts),
        }
        return Certificate({**self._head(found, facts), **found})

    def _ops(self) -> list[dict[str, Any]]:
        jobs = [(op, dtype) for op in self.ops for dtype in self.dtypes]
        rows = []
        for i, (op, dtype) in enumerate(jobs):
            self.tell(f"{op} {dtype}", BEGINS["kernels"] * i / len(jobs))
            rows.append(judge(op, dtype, self.ways, seed=self.seed, cases=QUICK if self.quick else FULL))
        return rows

    def _kernels(self) -> list[dict[str, Any]]:
        self.tell("kernels", BEGINS["kernels"])
        chosen, rows = [op for op in kernels.LARGE if op in self.ops], []
        for way in self.ways:
            if way.kernels:
                rows += kernels.judge_kernels(way, chosen, self.seed)
                rows += pieces.judge_pieces(way, self.seed)
                rows += algorithms.judge_algorithms(way, self.seed)
        return rows

    def _controls(self) -> list[dict[str, Any]]:
        self.tell("controls", BEGINS["controls"])
        references = [way for way in self.ways if not way.kernels]
        return list(controls.controls(references, self.ops, self.seed, 4 if self.quick else QUICK))

    def _networks(self) -> list[dict[str, Any]]:
        rows, begins = [], BEGINS["networks"]
        steps, seeds = (FEW, 1) if self.quick else (training.STEPS, None)
        for i, name in enumerate(self.networks):
            self.tell(f"network {name}", begins + (1.0 - begins) * i / len(self.networks))
            rows.append(training.judge_network(name, self.ways, seed=self.seed, steps=steps, seeds=seeds))
        return rows

    def _head(self, found: dict[str, Any], facts: dict[str, dict[str, Any]]) -> dict[str, Any]:
        reasons = {name: self._reasons(name, found, facts[name]) for name in self.backends}
        verdicts = {name: verdict(reasons[name]) for name in self.backends}
        verdicts |= dict.fromkeys(self.causes, "NOT-RUN")
        texts = {name: [f"{kind}: {text}" for kind, text in several] for name, several in reasons.items()}
        texts |= {name: [f"NOT-RUN: {cause}"] for name, cause in self.causes.items()}
        return {
            "kind": KIND,
            "format": 1,
            "verdict": max(verdicts.values(), key=VERDICTS.index),
            "verdicts": verdicts,
            "reasons": texts,
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

    def _reasons(self, name: str, found: dict[str, Any], facts: dict[str, Any]) -> list[Reason]:
        """The reasons that keep a backend from a PASS."""
        reached = found["kernels_reached"][name]
        return [
            *faults(name, self.ways, found),
            *never_asked(reached),
            *self._left_out(),
            *idle(reached, facts),
        ]

    def _left_out(self) -> list[Reason]:
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


def _chosen(names: Iterable[str] | None, known: tuple[str, ...], what: str) -> list[str]:
    chosen = list(known) if names is None else list(dict.fromkeys(names))
    for name in chosen:
        if name not in known:
            raise ValueError(f"unknown {what} {name!r}; choose from {', '.join(known)}")
    return chosen


def _facts(backend: str) -> dict[str, Any]:
    """What ``dn.info()`` says about this backend: versions, BLAS, threads; GPU, driver, CUDA, precision."""
    with use_backend(backend):
        table = dict(info())
    for word in ("chosen by", "backends", "ran", "why", "gpu memory", "kernels"):
        table.pop(word, None)
    return {**table, "kernels": len(load(backend).kernels)}


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()
