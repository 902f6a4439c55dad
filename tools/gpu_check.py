"""The work of tools/gpu_check.sh: parts of a check, each a process with a time limit, and always a summary.

Results are JSON files in --out, each with versions, date, command and the hash of the kernels. A part that fails, hangs
or lacks something does not stop the others. The exit code is 0 if all went well, 1 if not, 2 if nothing could be run.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import gpu_options
from gpu_facts import ROOT, TOOLS, environment, read, slug, without_cudnn

GOOD = {"PASS", "ok"}
FULL = 260  # seconds, about what the full certificate takes: with less it is not begun
ALL = {"DUALNET_CUDNN": "all"}
FIRST = 240  # seconds: on a cold machine CuPy, its context, cuBLAS and the first compilations take minutes


@dataclass
class Part:
    """One part of the check, with its running processes and its outcome in one line."""

    name: str
    state: str = "not begun"
    outcome: str = ""
    seconds: float = 0.0
    running: list[subprocess.Popen] = field(default_factory=list)


@dataclass
class Check:
    """The whole check: options, parts, facts about the machine, time, log."""

    options: argparse.Namespace
    parts: dict[str, Part] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    begun: float = field(default_factory=time.monotonic)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def left(self) -> float:
        """Seconds that are left for the check."""
        return self.options.seconds - (time.monotonic() - self.begun)

    def say(self, line: str, part: str = "check", quiet: bool = False) -> None:
        """A line for the log, and for the terminal unless ``quiet``."""
        with self.lock:
            text = f"[{time.monotonic() - self.begun:5.0f} s {part:7}] {line}"
            if not quiet:
                print(text, flush=True)
            try:
                with open(self.options.out / "gpu-check.log", "a", encoding="utf-8") as log:
                    log.write(text + "\n")
            except OSError:
                pass

    def path(self, part: str) -> Path:
        return self.options.out / f"{self.facts['name']}-{part}.json"

    def head(self, part: str) -> dict[str, Any]:
        """The first entries of every result."""
        without = without_cudnn(self.facts["versions"])
        return {
            "kind": f"dualnet gpu {part}",
            "format": 1,
            "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
            "command": self.options.command,
            "gpu": dict(self.facts["gpu"]),
            "machine": {"platform": platform.platform(), "cores": _cores()},
            "versions": self.facts["versions"],
            "kernels": self.facts["kernels"],
            **({"without cudnn": without} if without else {}),
        }

    def write(self, part: str, **found: Any) -> None:
        self.put(self.path(part), {**self.head(part), **found})

    def put(self, path: Path, found: Any) -> None:
        """Write a file as a whole or not at all, without the names of this machine's folders."""
        text = json.dumps(found, indent=1, ensure_ascii=False)
        for folder, name in ((ROOT, "."), (self.options.out, "out"), (sys.prefix, "python"), (Path.home(), "~")):
            if len(str(folder)) > 1:
                text = text.replace(str(folder), name)
        beside = path.with_name(f"{path.name}.new")
        beside.write_text(text + "\n", encoding="utf-8")
        os.replace(beside, path)

    def run(
        self, part: Part, command: list[str], seconds: float, quiet: bool = False, **variables: str
    ) -> tuple[int, list[str]]:
        """Run a process and return its exit code and output; after ``seconds`` it and its children are ended (124).

        Its output goes into the log line by line, and to the terminal unless ``quiet``.
        """
        self.say("$ " + shlex.join(["python" if word == sys.executable else word for word in command]), part.name)
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment(**variables), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, encoding="utf-8", errors="replace", process_group=0,
        )  # fmt: skip
        part.running.append(process)
        lines: list[str] = []

        def listen() -> None:
            with process.stdout as output:  # type: ignore[union-attr]
                for line in output:
                    lines.append(line.rstrip())
                    self.say(lines[-1][:400], part.name, quiet)

        listener = threading.Thread(target=listen, daemon=True)
        listener.start()
        try:
            code = process.wait(max(1.0, seconds))
        except subprocess.TimeoutExpired:
            self.say(f"not finished after {seconds:.0f} s: stopped", part.name)
            code = 124
        end(process)
        part.running.remove(process)
        listener.join(2.0)
        return code, lines


def main() -> int:
    options = gpu_options.options(__doc__ or "")
    check = Check(options, {name: Part(name) for name in options.only})
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    code = 1
    try:
        check.facts = facts(check)
        check.say(f"{check.facts['name']}: {check.facts['title']}; {options.seconds:.0f} s; results in {options.out}")
        warn(check)
        together = [check.parts[name] for name in ("parity", "tests") if name in check.parts]
        rest = [check.parts[name] for name in ("bench", "profile", "cifar") if name in check.parts]
        if len(together) == 2 and _cores() >= 4:  # both spend most of their time in Python
            threads = [threading.Thread(target=perform, args=(check, part, rest), daemon=True) for part in together]
            for thread in threads:
                thread.start()
            for thread in threads:
                while thread.is_alive():
                    thread.join(0.5)
        else:
            rest = [*together, *rest]
        for i, part in enumerate(rest):
            perform(check, part, rest[i + 1 :])
    except NothingRuns as error:
        check.say(str(error))
        code = 2
    except (KeyboardInterrupt, SystemExit):
        check.say("interrupted")
        code = 130
    finally:
        for part in check.parts.values():
            for process in part.running:
                end(process)
    return summary(check, code)


class NothingRuns(RuntimeError):
    """No part can be started."""


def perform(check: Check, part: Part, others: list[Part]) -> None:
    """Run one part, in its share of the time that is left."""
    begun, part.state = time.monotonic(), "running"
    share = WEIGHTS[part.name] / sum(WEIGHTS[one.name] for one in (part, *others))
    try:
        if check.left() < 5:
            part.state, part.outcome = "NOT-RUN", "no time was left"
        else:
            part.state, part.outcome = STEPS[part.name](check, part, share * check.left())
    except Exception as error:  # an error in this script must not cost the other parts
        part.state, part.outcome = "FAILED", f"{type(error).__name__}: {error}"
    part.seconds = time.monotonic() - begun
    check.say(f"{part.state}: {part.outcome}", part.name)


# -- the parts ---------------------------------------------------------------------------------------------------------


def parity(check: Check, part: Part, seconds: float) -> tuple[str, str]:
    """The quick certificates, and then the full one in their place, if there is time."""
    path, verdict, until = check.path("parity"), "FAILED", time.monotonic() + seconds
    against = check.options.backend if check.options.backend.partition(":")[0] != "numpy" else "strict"
    made, cause, runs = check.options.out / "certificate.part", "", []
    for switches, more in certificates(check):
        left = until - time.monotonic()
        if not more and left < FULL:
            cause = f"left out, it takes about {FULL} s; --only parity,tests --seconds 560 has room for it"
            break
        _fresh(made)
        words = ["parity", "--backend", against, *more]
        command = [sys.executable, "-m", "dualnet", *words, "--out", str(made)]
        code, last = check.run(part, command, left, quiet=True, **switches)
        found = read(made)
        if found is None or code == 124:
            cause = f"not finished after {seconds:.0f} s" if code == 124 else _last(last)
            break
        certificate, verdict = found, found["verdict"]
        said = shlex.join([*(f"{name}={value}" for name, value in switches.items()), "dualnet", *words])
        runs.append({"command": said, "verdict": verdict, "seconds": found["seconds"]})
        facts = {key: check.facts[key] for key in ("gpu", "versions")}
        check.put(path, {**certificate, **facts, "command": said, "runs": runs})
        if verdict in ("FAIL", "INVALID"):
            break
    made.unlink(missing_ok=True)
    if verdict == "FAILED":
        return "FAILED", f"no certificate: {cause}"
    reasons = [reason for several in certificate["reasons"].values() for reason in several]
    outcome = f"certificate of {certificate['seconds']:.0f} s" + (", quick" if certificate["quick"] else "")
    outcome += f"; the {'next' if more else 'full'} one: {cause}" if cause else ""
    return verdict, "; ".join([outcome, *dict.fromkeys(reasons)])[:600]


def certificates(check: Check) -> list[tuple[dict[str, str], list[str]]]:
    """Variables and options of each run. With cuDNN, one run goes without it, and in the others it computes every shape
    that it can: if the clock chose, it would get few of the small shapes, and not always the same ones."""
    switches = [{"DUALNET_CUDNN": "0"}, ALL] if _cudnn(check) else [{}]
    runs = [(switch, ["--quick"]) for switch in switches]
    return runs if check.options.quick else [*runs, (switches[-1], [])]


def _cudnn(check: Check) -> bool:
    versions = check.facts["versions"]
    return "cudnn" in versions and not without_cudnn(versions)


def tests(check: Check, part: Part, seconds: float) -> tuple[str, str]:
    """The whole suite without the slow tests, with new arrays on the device."""
    found = check.options.out / "tests.part"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "gpu_suite", "--tb=short"]
    command += ["-W", "default"]  # newer libraries may warn; the log shows it
    workers = min(8, _cores() // 2)
    if workers > 1 and importlib.util.find_spec("xdist") is not None:
        command += ["-p", "xdist", "-n", str(workers)]
    backend = check.options.backend
    switches = ALL if _cudnn(check) else {}  # else cuDNN would get few of the suite's small shapes
    variables = switches | {
        "DUALNET_BACKEND": backend,
        "GPU_SUITE_JSON": str(found),
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
    }
    variables |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "2")
    variables["PYTHONHASHSEED"] = "0"  # all processes must find the tests in the same order
    _fresh(found)
    code, last = check.run(part, [*command, *check.options.tests], seconds, **variables)
    seen = read(found)
    if seen is None:
        return "FAILED", f"pytest did not start: {_last(last)}"
    found.unlink()
    check.write(
        "tests", backend=backend, switches=switches, pytest=shlex.join(command[2:]), timed_out=code == 124, **seen
    )
    outcome = ", ".join(f"{n} {kind}" for kind, n in sorted(seen["counts"].items())) or "no test ran"
    bad = seen["counts"].get("failed", 0) + seen["counts"].get("error", 0)
    first = [f"{f['test']}: {f['why']}" for f in seen["failures"][:5]]
    if code == 124:
        outcome += f", then stopped after {seconds:.0f} s, in {', '.join(seen['running'][:4]) or 'no test'}"
    well = code == 0 and seen["complete"] and not bad and seen["counts"].get("passed")
    return "ok" if well else "FAILED", "; ".join([outcome, *first])


def bench(check: Check, part: Part, seconds: float) -> tuple[str, str]:
    """All networks against plain PyTorch, then against torch.compile, which takes minutes to compile."""
    until, faults, options, runs = time.monotonic() + seconds, [], check.options, []
    before = kept(check)
    for i, peer in enumerate(("torch", "torch.compile")):
        left = until - time.monotonic()
        limit = (left - 15) * (0.5 if i == 0 else 1.0)
        beside = _fresh(options.out / f"bench-{peer}.part")
        command = [sys.executable, "-m", "dualnet", "bench", *options.nets, "--backend", options.backend]
        command += ["--batch", str(options.batch), "--mode", "training", "--dtype", ",".join(options.dtypes)]
        command += ["--momentum", "0.9", "--capture", "--stay", "--rounds", str(options.rounds), "--seconds", "0.7"]
        command += ["--against", f"{peer}={options.torch}", "--limit", f"{max(limit, 1):.0f}", "--json", str(beside)]
        code, last = check.run(part, command, limit + 15)
        if (run := read(beside)) is not None:
            runs.append(run)
            check.write("bench", runs=[*before, *runs])
            beside.unlink()
        elif code:
            faults.append(f"{peer}: {_last(last)}")
        if code == 124:
            faults.append(f"{peer}: stopped after {limit + 15:.0f} s")
    rows = [row for run in runs for row in run["results"]]
    missing = [row for row in rows if "min_ms" not in row or "differs" in row]
    why = dict.fromkeys(
        f"{r['program']}, {r['net']} {r['dtype']}: {r.get('failed') or r.get('differs') or r.get('skipped')}"
        for r in missing
    )
    measured = len(rows) - len(missing)
    outcome = [f"{measured} of {len(rows)} times measured", *faults, *list(why)[:8]]
    return "ok" if rows and not missing and not faults else "FAILED", "; ".join(outcome)[:1500]


def kept(check: Check) -> list[dict[str, Any]]:
    """Earlier runs on such a GPU with the same kernels: a benchmark may be made in several calls."""
    runs: list[dict[str, Any]] = []
    for folder in (ROOT / "docs" / "gpu", check.options.out):
        found = read(folder / check.path("bench").name)
        if found and found["kernels"]["sha256"] == check.facts["kernels"]["sha256"]:
            runs += [run for run in found["runs"] if run not in runs]
    return runs


def profile(check: Check, part: Part, seconds: float) -> tuple[str, str]:
    """Where the time of a step goes, kernel by kernel."""
    command = [check.options.torch, str(TOOLS / "gpu_profile.py"), "--backend", check.options.backend]
    beside = _fresh(check.options.out / "profile.part")
    command += ["--json", str(beside), "--batch", str(check.options.batch), *check.options.nets]
    code, last = check.run(part, [*command, "--dtype", ",".join(check.options.dtypes)], seconds)
    found = read(beside)
    if found is None:
        return "FAILED", _last(last)
    beside.unlink()
    check.write("profile", profiles=found)
    return ("ok", f"{len(found)} steps profiled") if code == 0 else ("FAILED", _last(last))


def cifar(check: Check, part: Part, seconds: float) -> tuple[str, str]:
    """CIFAR-10 with ResNet-18, to an accuracy of at least 93 %."""
    options = check.options
    if options.data is None:
        return "NOT-RUN", "give the folder of CIFAR-10 (the binary version) with --data DIR"
    beside = _fresh(options.out / "cifar.part")
    command = [sys.executable, str(TOOLS / "train_cifar.py"), str(options.data), "--backend", options.backend]
    code, last = check.run(part, [*command, "--json", str(beside), *shlex.split(options.cifar)], seconds)
    found = read(beside)
    if found is None:
        return "FAILED", _last(last)
    beside.unlink()
    check.write("cifar10", **found)
    outcome = f"{100 * found['accuracy']:.2f} % after {found['epochs']} epochs in {found['seconds'] / 60:.2f} minutes"
    if not found["complete"]:
        outcome = f"stopped after epoch {len(found['history']['loss'])}; {outcome}"
    well = code == 0 and found["complete"] and found["accuracy"] >= options.least
    if well:
        return "ok", outcome
    return "FAILED", f"{outcome}; expected {100 * options.least:g} %; {_last(last)}"


STEPS: dict[str, Callable[[Check, Part, float], tuple[str, str]]] = {
    "parity": parity, "tests": tests, "bench": bench, "profile": profile, "cifar": cifar,
}  # fmt: skip
WEIGHTS = {"parity": 4, "tests": 4, "bench": 5, "profile": 1, "cifar": 4}
"""How the parts share the time; what one leaves goes to those after it."""


# -- the machine, and the end ------------------------------------------------------------------------------------------


def facts(check: Check) -> dict[str, Any]:
    """Versions, the GPU, the hash of the kernels. Raises ``NothingRuns`` if the backend does not work."""
    command = [sys.executable, str(TOOLS / "gpu_facts.py"), check.options.backend]
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=environment(), capture_output=True, encoding="utf-8", errors="replace", timeout=FIRST
        )
    except subprocess.TimeoutExpired:
        raise NothingRuns(f"{check.options.backend} does not answer within {FIRST} s") from None
    if done.returncode:
        raise NothingRuns(f"nothing can be run: {_last(done.stderr.splitlines())}")
    found = json.loads(done.stdout.strip().splitlines()[-1])
    title = found["gpu"].get("name") or str(found["versions"].get("gpu", "")).partition(" (")[0]
    found["title"] = title or f"no GPU, a dry run on {check.options.backend}"
    found["name"] = slug(title) if title else f"dry-{check.options.backend.partition(':')[0]}"
    return found


def end(process: subprocess.Popen) -> None:
    """End a process and all its children."""
    for stop, patience in ((signal.SIGTERM, 3.0), (signal.SIGKILL, 3.0)):
        try:
            os.killpg(process.pid, stop)
        except (ProcessLookupError, PermissionError):
            return
        try:
            process.wait(patience)
        except subprocess.TimeoutExpired:
            continue
        time.sleep(0.05)


def summary(check: Check, code: int) -> int:
    """A line for each part, and the exit code."""
    if check.facts and any(part.state in GOOD | {"FAILED", "PARTIAL"} for part in check.parts.values()):
        tables = [sys.executable, str(TOOLS / "gpu_tables.py"), str(check.options.out)]
        if check.options.out == (ROOT / "docs" / "gpu").resolve():
            tables += ["--page", str(ROOT / "docs" / "gpu.md")]
        done = subprocess.run(
            tables, cwd=ROOT, env=environment(), capture_output=True, encoding="utf-8", errors="replace", timeout=60
        )
        for line in (done.stdout if done.returncode == 0 else done.stderr).splitlines():
            check.say(line)
    check.say("-- summary " + "-" * 60)
    for part in check.parts.values():
        check.say(f"{part.name:7} {part.state:9} {part.seconds:4.0f} s  {part.outcome}")
    warn(check)
    wanted = GOOD | ({"PARTIAL"} if check.options.quick else set())
    well = all(part.state in wanted for part in check.parts.values())
    code = 0 if well else code
    check.say(
        f"{'all well' if well else 'NOT all well'} after {time.monotonic() - check.begun:.0f} s; exit code {code}"
    )
    return code


def _fresh(path: Path) -> Path:
    """The path, without the file that a stopped run may have left there."""
    path.unlink(missing_ok=True)
    return path


def warn(check: Check) -> None:
    """Warn if there is no cuDNN: every time then is a different one, and the tables do not show why."""
    if why := without_cudnn(check.facts.get("versions", {})):
        check.say(f"!!! WITHOUT cuDNN: {why}")
        check.say("!!! every convolution runs as im2col and a product by cuBLAS; no result here is about cuDNN")


def _last(lines: list[str]) -> str:
    """The last line that is not empty."""
    said = [line.strip() for line in lines if line.strip()]
    return said[-1][:300] if said else "no output"


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


if __name__ == "__main__":
    sys.exit(main())
