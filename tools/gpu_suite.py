"""A pytest plug-in that writes the results of a run, as they come, into the JSON file that GPU_SUITE_JSON names."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from pathlib import Path
from typing import Any

EVERY = 2.0  # seconds between two writes
MOST = 60  # failures that are listed


class Report:
    """Counts outcomes, and lists the tests that fail (or whose fixtures fail), each with a line of its error."""

    def __init__(self, path: Path) -> None:
        self.path, self.begun, self.written = path, time.time(), 0.0
        self.counts: Counter[str] = Counter()
        self.failures: list[dict[str, str]] = []
        self.skips: Counter[str] = Counter()
        self.slowest: list[tuple[float, str]] = []
        self.running: dict[str, None] = {}

    def pytest_runtest_logstart(self, nodeid: str, location: Any) -> None:
        self.running[nodeid] = None

    def pytest_runtest_logfinish(self, nodeid: str, location: Any) -> None:
        self.running.pop(nodeid, None)

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.when == "call" or not report.passed:
            self.counts["error" if report.failed and report.when != "call" else report.outcome] += 1
        if report.failed:
            self.failures.append({"test": report.nodeid, "when": report.when, "why": _why(report)})
        if report.skipped and isinstance(report.longrepr, tuple):
            self.skips[str(report.longrepr[2]).removeprefix("Skipped: ")] += 1
        if report.when == "call":
            self.slowest = sorted([*self.slowest, (round(report.duration, 2), report.nodeid)], reverse=True)[:10]
        if time.time() - self.written > EVERY:
            self.write(complete=False)

    def pytest_collectreport(self, report: Any) -> None:
        if report.failed:
            self.counts["error"] += 1
            self.failures.append({"test": report.nodeid, "when": "collect", "why": _why(report)})

    def pytest_sessionfinish(self, session: Any, exitstatus: int) -> None:
        self.write(complete=True, exit_code=int(exitstatus))

    def write(self, **state: Any) -> None:
        self.written = time.time()
        report = {
            **state,
            "seconds": round(self.written - self.begun, 1),
            "counts": dict(self.counts),
            "failures": self.failures[:MOST],
            "skips": dict(self.skips.most_common()),
            "slowest": self.slowest,
            "running": list(self.running)[-16:],
        }
        beside = self.path.with_name(f"{self.path.name}.new")
        beside.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        os.replace(beside, self.path)


def _why(report: Any) -> str:
    crash = getattr(report.longrepr, "reprcrash", None)
    said = crash.message if crash is not None else str(report.longrepr)
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return lines[0 if crash is not None else -1][:300] if lines else "?"


def pytest_configure(config: Any) -> None:
    path = os.environ.get("GPU_SUITE_JSON")
    if path and not hasattr(config, "workerinput"):  # with xdist, only the controller
        config.pluginmanager.register(Report(Path(path)), "gpu-suite")
