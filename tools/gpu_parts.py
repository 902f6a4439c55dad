"""The parts of both runs of tools/gpu_run.py, their commands, and how to read their results.

A part is one process or several side by side, with a limit in seconds. It begins when the parts that it waits for have
ended, with or without success. Its processes write JSON as they work; at any moment, :attr:`Part.read` makes one result
of that.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from gpu_facts import TOOLS

SHARES = 10
"""Processes that compile CuPy's kernels: about 570 for the quick certificate, 0.23 s each on one core."""
WORKERS = 8
"""Processes of pytest."""
TESTS = (
    "tests/ops",
    "tests/layers",
    "tests/optimizers",
    "tests/test_fixtures.py",
    "tests/test_mixed_precision.py",
    "tests/test_recording.py",
    "tests/training/test_loop.py",
    "tests/data/test_augment.py",
    "tests/shim",
)
"""The tests that compute on the device. Every worker collects them, and the whole suite has twice as many."""
WITHOUT, ALL = {"DUALNET_CUDNN": "0"}, {"DUALNET_CUDNN": "all"}
STEADY = {"DUALNET_CUDNN_AUTOTUNE": "0", "CUPY_ACCELERATORS": ""} | dict.fromkeys(
    ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "DUALNET_THREADS"), "2"
)
"""For certificates and tests: no plan is timed (2 s a shape), no reduction is compiled with CUB (3.5 s each), and NumPy
has two threads, because many processes share the cores."""
COMPILED = ("torch.reduce-overhead", "torch.compile")
"""``torch.compile`` in two modes; the first compiles faster."""


class Ended(NamedTuple):
    """What we know about one process: its exit code (None: it is running), its last line, and the JSON that it has
    written."""

    code: int | None
    last: str
    found: Any


class Outcome(NamedTuple):
    """The state of a part (``ok``, ``FAILED``, or the verdict of a certificate), one line about it, and the results."""

    state: str
    words: str
    content: dict[str, Any]


@dataclass(frozen=True)
class Job:
    """One process: its command, its variables, and the file that it writes (None: only its exit code counts)."""

    words: list[str]
    made: Path | None = None
    variables: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Part:
    """A part of a run. ``needed``: if its first step fails, nothing else can work."""

    name: str
    seconds: float
    jobs: list[Job]
    read: Callable[[list[Job], list[Ended]], Outcome]
    after: tuple[str, ...] = ()
    needed: bool = False


@dataclass(frozen=True)
class Given:
    """What the parts need to know: the backend, a folder for their files, whether cuDNN works, whether sizes are
    small."""

    backend: str
    folder: Path
    cudnn: bool
    small: bool = False

    def python(self, *words: str) -> list[str]:
        return [sys.executable, *words]

    def dualnet(self, *words: str) -> list[str]:
        return self.python("-m", "dualnet", *words)

    def bench(self, nets: list[str], dtype: str, peers: list[str], seconds: float) -> Job:
        """One call measures dualnet and all peers in turn, each in a process that stays."""
        made = self.folder / f"bench-{'-'.join(nets)}-{dtype}.json"
        sizes = ["--batch", "2", "--rounds", "1", "--seconds", "0.01"] if self.small else ["--batch", "256"]
        sizes += [] if self.small else ["--rounds", "2", "--seconds", "0.4"]
        words = ["bench", *nets, "--backend", self.backend, *sizes, "--mode", "training", "--dtype", dtype]
        words += ["--momentum", "0.9", "--capture", "--stay", "--against", ",".join(peers), "--limit", f"{seconds:.0f}"]
        return Job(self.dualnet(*words, "--json", str(made)), made, {"DUALNET_CUDNN_AUTOTUNE": str(self.plans)})

    @property
    def plans(self) -> Path:
        """Which engine of cuDNN each shape has: chosen once, for all processes of both runs."""
        return self.folder / "plans.json"

    def parity(self, made: str, *more: str, **variables: str) -> Job:
        against = "strict" if self.backend == "numpy" else self.backend
        path = self.folder / f"{made}.json"
        words = ["parity", "--backend", against, *more, "--out", str(path)]
        return Job(self.dualnet(*words), path, STEADY | variables)


# -- the two runs ------------------------------------------------------------------------------------------------------


def first(given: Given) -> list[Part]:
    """Does it work, is it right, and how fast is it? Less than 8 minutes."""
    nets = ["lenet5"] if given.small else ["lenet5", "resnet18", "vgg16_bn"]
    few = ("--ops", "relu,dense", "--networks", "none") if given.small else ()
    shares = _shares(given)
    switches = [WITHOUT, ALL] if given.cudnn else [{}]
    quick = [given.parity(f"quick-{i}", "--quick", *few, **switch) for i, switch in enumerate(switches)]
    return [
        Part("smoke", 60, [_smoke(given)], smoke, needed=True),
        Part("bench", 135, [given.bench(nets, "bfloat16", ["torch"], 110)], bench, after=("smoke",)),
        Part("kernels", 90, shares, kernels, after=("bench",)),
        Part("parity", 290, [given.parity("full", *few, **switches[-1])], partial if few else parity, after=("bench",)),
        Part("quick", 200, quick, partial, after=("kernels",)),
        Part("tests", 200, [_tests(given, switches[-1])], tests, after=("kernels",)),
    ]


def second(given: Given) -> list[Part]:
    """Where the time goes, ``torch.compile``, and TF32: less than 4 minutes, directly after the first run."""
    from dualnet.bench.measure import PROGRAMS

    compiled = [peer for peer in COMPILED if peer in PROGRAMS]
    nets = ["lenet5"] if given.small else ["resnet18", "vgg16_bn", "lenet5"]
    made, batch = given.folder / "profile.json", "2" if given.small else "256"
    words = [str(TOOLS / "gpu_profile.py"), *nets, "--backend", given.backend, "--dtype", "bfloat16", "--batch", batch]
    profiled = Job(given.python(*words, "--json", str(made)), made, {"DUALNET_CUDNN_AUTOTUNE": str(given.plans)})
    large = "lenet5" if given.small else "resnet18"
    return [
        Part("profile", 50, [profiled], profile),
        Part("bench", 105, [given.bench([large], "bfloat16", compiled, 95)], bench, after=("profile",)),
        Part("bench-lenet5", 40, [given.bench(["lenet5"], "bfloat16", compiled, 35)], bench, after=("bench",)),
        Part("bench-tf32", 30, [given.bench([large], "tf32", ["torch"], 25)], bench, after=("bench-lenet5",)),
    ]


RUNS: dict[str, tuple[float, Callable[[Given], list[Part]]]] = {"first": (460.0, first), "second": (232.0, second)}
"""Seconds of each run, well under the 8 and 4 minutes that it may take, and its parts."""


def _smoke(given: Given) -> Job:
    made = given.folder / "smoke.json"
    words = [str(TOOLS / "gpu_smoke.py"), str(made), "--backend", given.backend, *(["--small"] if given.small else [])]
    return Job(given.python(*words), made, STEADY | ({"DUALNET_CUDNN": "all"} if given.cudnn else {}))


def _shares(given: Given) -> list[Job]:
    from dualnet.parity.cases.case import OPS

    ops, shares = (["relu", "dense"], 2) if given.small else (list(OPS), SHARES)
    several = [",".join(ops[i::shares]) for i in range(shares)]
    variables = WITHOUT if given.cudnn else {}
    return [
        given.parity(f"share-{i}", "--quick", "--ops", some, "--networks", "none", **variables)
        for i, some in enumerate(several)
    ]


def _tests(given: Given, switch: dict[str, str]) -> Job:
    made = given.folder / "tests.json"
    words = ["pytest", "-q", "-p", "no:cacheprovider", "-p", "gpu_suite", "--tb=line", "-W", "default"]
    words += ["-m", "not slow", "-k", given.backend.partition(":")[0]]
    several = not given.small and importlib.util.find_spec("xdist") is not None
    words += ["-p", "xdist", "-n", str(WORKERS)] if several else []
    words += ["tests/ops/test_activation.py"] if given.small else TESTS
    variables = {"GPU_SUITE_JSON": str(made), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONHASHSEED": "0"}
    return Job(given.python("-m", *words), made, STEADY | switch | variables | {"DUALNET_BACKEND": given.backend})


# -- one result from the files of the processes ---------------------------------------------------------------------


def smoke(jobs: list[Job], ended: list[Ended]) -> Outcome:
    """The steps that failed."""
    steps = (ended[0].found or {}).get("steps", [])
    bad = [f"{row['step']}: {row['why']}" for row in steps if not row["ok"]]
    words = "; ".join([f"{len(steps) - len(bad)} of {len(steps)} steps", *bad])
    well = ended[0].code == 0 and steps and not bad
    return Outcome("ok" if well else "FAILED", words if steps else ended[0].last, ended[0].found or {"steps": []})


def bench(jobs: list[Job], ended: list[Ended]) -> Outcome:
    """How many times were measured, and why the others were not."""
    runs = [one.found for one in ended if one.found]
    rows = [row for run in runs for row in run["results"]]
    missing = [row for row in rows if "min_ms" not in row or "differs" in row]
    why = dict.fromkeys(
        f"{row['program']}, {row['net']} {row['dtype']}: "
        f"{row.get('failed') or row.get('differs') or row.get('skipped') or 'not measured'}"
        for row in missing
    )
    words = [f"{len(rows) - len(missing)} of {len(rows)} times measured", *why]
    words += [one.last for one in ended if one.code and not one.found]
    well = rows and not missing and all(one.code == 0 for one in ended)
    return Outcome("ok" if well else "FAILED", "; ".join(words)[:1500], {"runs": runs})


def kernels(jobs: list[Job], ended: list[Ended]) -> Outcome:
    """The verdict of each process; PARTIAL is the best for a few of the ops."""
    verdicts = [one.found["verdict"] if one.found else f"no certificate ({one.last})" for one in ended]
    wrong = [f"{_option(job, '--ops')}: {v}" for job, v in zip(jobs, verdicts) if v not in ("PASS", "PARTIAL")]
    words = [f"{len(verdicts) - len(wrong)} of {len(verdicts)} shares of the ops agree", *wrong]
    content = {"shares": [{"ops": _option(job, "--ops"), "verdict": v} for job, v in zip(jobs, verdicts)]}
    return Outcome("FAILED" if wrong else "ok", "; ".join(words)[:1500], content)


def parity(jobs: list[Job], ended: list[Ended]) -> Outcome:
    """The certificate of the last process that has one (they are ordered from the smallest to the largest), and all
    runs."""
    runs, best, wrong = [], None, []
    for job, one in zip(jobs, ended):
        said = " ".join([*(f"{n}={v}" for n, v in job.variables.items() if n == "DUALNET_CUDNN"), *_command(job)])
        if one.found is None:
            runs.append({"command": said, "verdict": "NOT-RUN", "why": one.last})
            continue
        runs.append({"command": said, "verdict": one.found["verdict"], "seconds": one.found["seconds"]})
        wrong += [one.found] if one.found["verdict"] in ("FAIL", "INVALID") else []
        best = one.found | {"command": said}
    if best is None:
        why = "; ".join(run["why"] for run in runs)
        return Outcome("FAILED", f"no certificate: {why}", {"verdict": "NOT-RUN", "runs": runs})
    found = wrong[0] if wrong else best  # one certificate must not hide a mistake that another has found
    reasons = list(dict.fromkeys(reason for several in found["reasons"].values() for reason in several))
    more = [f"and {len(reasons) - 3} more reasons"] if len(reasons) > 3 else []
    words = [*(f"{run['verdict']}: {run['command']}" for run in runs), *(reason[:200] for reason in reasons[:3]), *more]
    state = found["verdict"] if all(one.found for one in ended) else "FAILED"
    return Outcome(state, "; ".join(words), {**found, "runs": runs})


def partial(jobs: list[Job], ended: list[Ended]) -> Outcome:
    """Certificates that leave something out on purpose: PARTIAL is the best verdict that they can have."""
    state, words, content = parity(jobs, ended)
    return Outcome("ok" if state == "PARTIAL" else state, words, content)


def tests(jobs: list[Job], ended: list[Ended]) -> Outcome:
    """The counts, and the first failures."""
    seen = ended[0].found
    if seen is None:
        return Outcome("FAILED", f"pytest wrote nothing: {ended[0].last}", {"counts": {}, "complete": False})
    bad = seen["counts"].get("failed", 0) + seen["counts"].get("error", 0)
    words = [", ".join(f"{n} {kind}" for kind, n in sorted(seen["counts"].items())) or "no test ran"]
    words += [] if seen["complete"] else [f"not finished: in {', '.join(seen['running'][:4]) or 'no test'}"]
    words += [f"{failure['test']}: {failure['why']}" for failure in seen["failures"][:5]]
    well = ended[0].code == 0 and seen["complete"] and not bad and seen["counts"].get("passed")
    switches = {n: v for n, v in jobs[0].variables.items() if n == "DUALNET_CUDNN"}
    content = {"backend": jobs[0].variables["DUALNET_BACKEND"], "switches": switches, **seen}
    return Outcome("ok" if well else "FAILED", "; ".join(words), content)


def profile(jobs: list[Job], ended: list[Ended]) -> Outcome:
    """How many steps were profiled."""
    found = ended[0].found or []
    words = f"{len(found)} steps profiled" + (f"; {ended[0].last}" if ended[0].code else "")
    return Outcome("ok" if found and ended[0].code == 0 else "FAILED", words, {"profiles": found})


def _command(job: Job) -> list[str]:
    """The command as a user would type it, without the file that it writes."""
    words = job.words[job.words.index("dualnet") :]
    return words[: words.index("--out")]


def _option(job: Job, name: str) -> str:
    return job.words[job.words.index(name) + 1]
