"""The body of ``dualnet parity --ranks R``: it starts the ranks, and prints what they found."""

from __future__ import annotations

import argparse
import json
import shlex
import tempfile
import time
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ...distributed.launching import launch
from ...markup import listed
from ...writing import check_writable, replace_file
from ..certificate.command import CODES
from ..certificate.report import number, plain
from ..certificate.verdict import Reason, verdict
from .controls import CONTROLS
from .judging import FEW, STEPS, judge
from .subjects import SUBJECTS

__all__ = ["compare", "run", "text"]

LONGEST = 3600.0
"""The ranks have this many seconds."""
OTHERS = ("against", "ops", "dtype", "html", "markdown", "op", "case", "large", "network")


def run(options: argparse.Namespace, words: list[str]) -> tuple[str, int]:
    """The text to print, and the exit code."""
    for name in OTHERS:
        if getattr(options, name) is not None:
            option = {"against": "backend"}.get(name, name)
            raise ValueError(f"--{option} cannot be used with --ranks, which compares ranks and not backends")
    if options.ranks < 2:
        raise ValueError(f"--ranks {options.ranks}: expected at least 2; one rank has nothing to compare with")
    if options.out:
        check_writable(Path(options.out))  # fail before computing anything
    found = compare(
        options.ranks,
        networks=options.networks,
        steps=FEW if options.quick else STEPS,
        seed=options.seed,
        command=shlex.join(["dualnet", "parity", *words]),
    )
    if options.out:
        replace_file(options.out, (json.dumps(plain(found), indent=1, ensure_ascii=False) + "\n").encode())
    return text(found), CODES[found["verdict"]]


def compare(
    ranks: int, *, networks: Sequence[str] | None = None, steps: int = STEPS, seed: int = 0, command: str = ""
) -> dict[str, Any]:
    """Start this many ranks on this machine, and compare them with one. Returns everything that was found, as plain
    data.

    Raises ``ValueError`` for networks that do not exist.
    """
    for name in networks or ():
        if name not in SUBJECTS:
            raise ValueError(f"parity: unknown network {name!r}; with --ranks they are {', '.join(SUBJECTS)}")
    chosen, begun = list(networks or SUBJECTS), time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="dualnet-ranks-") as folder:
        words = ["-m", "dualnet.parity.ranks.rank", folder, ",".join(chosen), str(steps), str(seed)]
        launched = launch(ranks, words, timeout=LONGEST)
        files = [Path(folder) / f"{rank}.json" for rank in range(ranks)]
        ended = launched.code or not all(file.exists() for file in files)  # otherwise a file may be cut off
        there = [] if ended else [json.loads(file.read_text(encoding="utf-8")) for file in files]
    whole = len(there) == ranks and not launched.code
    found = judge(there) if whole else {"rows": [], "controls": []}
    head = {
        "kind": "dualnet parity of ranks",
        "format": 1,
        "ranks": ranks,
        "steps": steps,
        "seed": seed,
        "started by": launched.how,
        "communicator": there[0]["kind"] if there else "",
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "seconds": round(time.perf_counter() - begun, 1),
        "command": command or f"dualnet parity --ranks {ranks} --seed {seed}",
    }
    reasons = list(_reasons(found, chosen, steps)) if whole else [("FAIL", launched.last_words)]
    return {**head, "verdict": verdict(reasons), "reasons": [f"{kind}: {why}" for kind, why in reasons], **found}


def _reasons(found: dict[str, Any], networks: Sequence[str], steps: int) -> Iterable[Reason]:
    """The reasons against a PASS."""
    for row in found["rows"]:
        if not row["ok"]:
            yield "FAIL", f"{row['network']}: {row['compared']}: step {row['at']} is the worst"
    for control in found["controls"]:
        if not control["found"]:
            yield "INVALID", f"{control['mistake']} in {control['network']} was not noticed"
    missing = [mistake for mistake, name in CONTROLS.items() if name not in networks]
    left = [name for name in SUBJECTS if name not in networks]
    if left:
        yield "PARTIAL", f"networks left out: {', '.join(left)}"
    if missing:
        yield "PARTIAL", f"mistakes that were not made: {', '.join(missing)}"
    if steps < STEPS:
        yield "PARTIAL", f"{steps} steps instead of {STEPS}"


def text(found: dict[str, Any]) -> str:
    """The table, the controls and the verdict, as lines of text."""
    head = f"{found['ranks']} ranks against one, float64, {found['steps']} steps, seed {found['seed']}"
    if found["communicator"]:
        head += f" ({found['communicator']}, started by {found['started by']})"
    lines = [head]
    if found["rows"]:
        lines += listed([("compared", "worst", "limit", "worst / limit", ""), *map(_row, found["rows"])])
    if found["controls"]:
        headings = ("mistake made on purpose", "shows in", "worst", "limit", "")
        lines += ["", *listed([headings, *map(_control, found["controls"])])]
    return "\n".join([*lines, "", *found["reasons"], f"verdict: {found['verdict']}"])


def _row(row: dict[str, Any]) -> tuple[str, ...]:
    verdict, what = "PASS" if row["ok"] else "FAIL", f"{row['network']}: {row['compared']}"
    if "equal" in row:
        return what, f"{row['equal']} of {row['of']} steps", "all", "", verdict
    return what, number(row["error"]), number(row["limit"]), number(row["ratio"]), verdict


def _control(row: dict[str, Any]) -> tuple[str, ...]:
    found = "found" if row["found"] else "NOT FOUND"
    return f"{row['mistake']}, {row['network']}", row["result"], number(row["error"]), number(row["limit"]), found
