"""Two commands for a machine with an NVIDIA GPU, one after the other: a certificate, tests, times and a profile.

    python3 tools/gpu_run.py first     less than 8 minutes: does it work, is it right, and the first times
    python3 tools/gpu_run.py second    less than 4 minutes: where the time goes, torch.compile, TF32

It installs nothing, and needs neither a network nor git. Results are JSON files in the folder that --out or the
variable OUT names, or in docs/gpu/. They are written as they come, so if a run is interrupted, its results so far are
there. A part that fails or hangs does not disturb the others. The exit code is 0 if all is well, 1 if not, and 2 if
nothing can be run.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import platform
import shlex
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import gpu_facts
from gpu_facts import ROOT, TOOLS, environment, read, slug, without_cudnn
from gpu_parts import RUNS, Ended, Given, Job, Outcome, Part

FACTS = 60.0
"""Seconds for CuPy, a context and cuBLAS on a cold machine."""
WELL = {"ok", "PASS"}
TICK, SAVED = 0.2, 2.0
"""Seconds between two checks of the processes, and between two writes of their results."""
KEPT = Path(tempfile.gettempdir()) / f"dualnet-gpu-{os.getuid() if hasattr(os, 'getuid') else 0}"
"""Files of the first run that the second one uses: the unpacked frontend, cuDNN's plans, and measured times."""


class NothingRuns(RuntimeError):
    """The backend does not work, so no part can begin."""


@dataclass
class Process:
    """A job that has begun: its process, its output, and how far that has been read."""

    job: Job
    process: subprocess.Popen
    output: Path
    read: int = 0
    last: str = "no output"
    code: int | None = None

    def seen(self) -> Ended:
        return Ended(self.code, self.last, read(self.job.made) if self.job.made else None)


@dataclass
class State:
    """How far a part has come."""

    part: Part
    state: str = "waiting"
    words: str = ""
    begun: float | None = None
    seconds: float = 0.0
    processes: list[Process] = field(default_factory=list)
    content: dict[str, Any] = field(default_factory=dict)

    @property
    def ended(self) -> bool:
        return self.state not in ("waiting", "running")


class Run:
    """One of the two runs: its clock, its log, its files, and its parts, which begin when those before have ended."""

    def __init__(self, name: str, out: Path, seconds: float, folder: Path, facts: dict[str, Any], pace: float) -> None:
        self.name, self.out, self.folder, self.facts, self.pace = name, out, folder, facts, pace
        self.begun, self.seconds, self.saved = time.monotonic(), seconds * pace, 0.0
        self.states: list[State] = []
        self.log = out / f"gpu-{name}.log"

    def now(self) -> float:
        return time.monotonic() - self.begun

    def say(self, line: str, part: str = "run", quiet: bool = False) -> None:
        """A line for the log, and for the terminal unless ``quiet``."""
        text = f"[{self.now():5.1f} s {part:12}] {line}"
        if not quiet:
            print(text, flush=True)
        with self.log.open("a", encoding="utf-8") as log:
            log.write(text + "\n")

    # -- files

    def path(self, part: str) -> Path:
        return self.out / f"{self.facts['name']}-{part}.json"

    def save(self, state: State) -> None:
        """Write a part's file: its results so far, and how far it is. Parts of one kind share a file."""
        kind = state.part.name.partition("-")[0]
        if kind in ("kernels", "quick"):  # the summary has all of their text
            return
        content = state.content
        if kind == "bench":
            others = [one.content for one in self.states if one.part.name.startswith("bench") and one is not state]
            content = {"runs": [*self.kept_runs(), *(run for c in [*others, content] for run in c.get("runs", []))]}
        elif kind == "parity":
            content = self.with_the_quick_ones(content)
        same_file = [one for one in self.states if one.part.name.partition("-")[0] == kind]
        bad = [one for one in same_file if one.state not in WELL] or [state]
        words = (
            "; ".join(f"{one.part.name} {one.state}: {one.words}" for one in bad) if len(same_file) > 1 else state.words
        )
        head = self.head(kind)
        same = {key: head[key] for key in ("gpu", "versions")}  # a certificate has its own, in another form
        self.put(self.path(kind), {**head, "state": bad[0].state, "outcome": words, **content, **same})

    def with_the_quick_ones(self, content: dict[str, Any]) -> dict[str, Any]:
        """The certificate: the full one if there is one, or the best of the quick ones; and the words of all of
        them."""
        quick = next((one.content for one in self.states if one.part.name == "quick"), {})
        runs = [*quick.get("runs", []), *content.get("runs", [])]
        found = [one for one in (quick, content) if "verdicts" in one]
        wrong = [one for one in found if one["verdict"] in ("FAIL", "INVALID")]
        return {**(wrong or found[-1:] or [{"verdict": "NOT-RUN"}])[0], "runs": runs}

    def kept_runs(self) -> list[dict[str, Any]]:
        """Times that the first run measured with the same kernels."""
        if self.name != "second":
            return []
        found = read(self.folder / "bench-before.json") or {}
        return found.get("runs", []) if found.get("of") == self.of() else []

    def of(self) -> list[str]:
        return [self.facts["name"], self.facts["kernels"]["sha256"]]

    def summary(self) -> None:
        """All parts in one file."""
        parts = {
            one.part.name: {"state": one.state, "outcome": one.words, "seconds": round(one.seconds, 1)}
            | ({"shares": one.content["shares"]} if "shares" in one.content else {})
            for one in self.states
        }
        self.put(self.path(self.name), {**self.head(self.name), "seconds": round(self.now(), 1), "parts": parts})

    def head(self, part: str) -> dict[str, Any]:
        """The first entries of every file."""
        without = without_cudnn(self.facts["versions"])
        return {
            "kind": f"dualnet gpu {part}",
            "format": 2,
            "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
            "command": f"tools/gpu_run.py {self.name}",
            "gpu": self.facts["gpu"],
            "machine": {"platform": platform.platform(), "cores": gpu_facts.cores()},
            "versions": self.facts["versions"],
            "kernels": self.facts["kernels"],
            **({"without cudnn": without} if without else {}),
        }

    def put(self, path: Path, found: Any) -> None:
        """Write a file as a whole or not at all, without the names of this machine's folders."""
        text = json.dumps(found, indent=1, ensure_ascii=False, default=str)
        for folder, name in ((ROOT, "."), (self.folder, "kept"), (self.out, "out"), (sys.prefix, "python")):
            text = text.replace(str(folder), name) if len(str(folder)) > 1 else text
        text = text.replace(str(Path.home()), "~") if len(str(Path.home())) > 1 else text
        beside = path.with_name(f".{path.name}.new")
        beside.write_text(text + "\n", encoding="utf-8")
        os.replace(beside, path)

    # -- running

    def go(self, parts: list[Part]) -> None:
        """Run all parts. Whatever happens, every file is there at the end."""
        self.states = [State(part) for part in parts]
        for state in self.states:
            self.save(state)
        self.summary()
        try:
            while not all(state.ended for state in self.states):
                self.step()
                time.sleep(TICK * min(1.0, self.pace * 5))
        finally:
            for state in self.states:
                if state.state == "running":
                    self.finish(state, "interrupted")
                self.save(state)
            self.summary()

    def step(self) -> None:
        """Begin the parts that can begin, end those that are done or out of time, and write the results."""
        over = self.now() >= self.seconds
        for state in self.states:
            if state.state == "waiting" and (over or self.ready(state)):
                self.begin(state, over)
            elif state.state == "running":
                self.look(state, over)
        if self.now() - self.saved > SAVED * min(1.0, self.pace * 5):
            self.saved = self.now()
            for state in self.states:
                if state.state == "running":
                    state.content = self.outcome(state).content
                    self.save(state)

    def ready(self, state: State) -> bool:
        return all(one.ended for one in self.states if one.part.name in state.part.after)

    def begin(self, state: State, over: bool) -> None:
        broken = [
            one.part.name
            for one in self.states
            if one.part.needed
            and one.ended
            and "steps" in one.content
            and not any(row["ok"] for row in one.content["steps"][:1])
        ]
        if over or broken:
            state.state, state.words = "NOT-RUN", f"{broken[0]} failed" if broken else "no time was left"
            self.say(f"{state.state}: {state.words}", state.part.name)
            return
        state.state, state.words, state.begun = "running", "", time.monotonic()
        for number, job in enumerate(state.part.jobs):
            if job.made:
                job.made.unlink(missing_ok=True)
            output = self.folder / f"{state.part.name}-{number}.log"
            words = [f"{name}={value}" for name, value in job.variables.items()]
            words += ["python" if word == sys.executable else word for word in job.words]
            self.say("$ " + shlex.join(words), state.part.name, quiet=True)
            with output.open("wb") as file:
                process = subprocess.Popen(
                    job.words, cwd=ROOT, env=environment(**job.variables), stdin=subprocess.DEVNULL, stdout=file,
                    stderr=subprocess.STDOUT, process_group=0,
                )  # fmt: skip
            state.processes.append(Process(job, process, output))

    def look(self, state: State, over: bool) -> None:
        """Read the output of the processes; end them if their time is up."""
        for one in state.processes:
            self.listen(state, one)
            one.code = one.process.poll()
            self.listen(state, one)
        spent = time.monotonic() - state.begun
        if all(one.code is not None for one in state.processes):
            self.finish(state)
        elif over or spent > state.part.seconds * self.pace:
            self.finish(state, f"stopped after {spent:.0f} s" + (", the end of the run" if over else ""))

    def listen(self, state: State, one: Process) -> None:
        """Whole lines go into the log."""
        with one.output.open("rb") as file:
            file.seek(one.read)
            text = file.read()
        whole = text[: text.rfind(b"\n") + 1] if one.code is None else text
        one.read += len(whole)
        for line in whole.decode("utf-8", "replace").splitlines():
            if line.strip():
                one.last = line.strip()[:300]
            self.say(line[:400], state.part.name, quiet=" ms" not in line)

    def finish(self, state: State, why: str = "") -> None:
        """End the processes, and write the outcome."""
        for one in state.processes:
            end(one.process)
            one.code = 124 if why and one.code is None else one.process.returncode
            self.listen(state, one)
        found = self.outcome(state)
        state.seconds, state.content = time.monotonic() - state.begun, found.content
        state.state = "STOPPED" if why else found.state
        state.words = "; ".join(filter(None, [why, found.words]))
        self.say(f"{state.state}: {state.words}", state.part.name)
        self.save(state)
        self.summary()

    def outcome(self, state: State) -> Outcome:
        """The outcome of a part. If its results cannot be read, that error is the outcome: the other parts must not
        suffer."""
        try:
            return state.part.read(state.part.jobs, [one.seen() for one in state.processes])
        except Exception as error:
            words = f"its results cannot be read: {type(error).__name__}: {error}"
            return Outcome("FAILED", words, {})


def end(process: subprocess.Popen) -> None:
    """End a process and all its children."""
    for stop, patience in ((signal.SIGTERM, 2.0), (signal.SIGKILL, 2.0)):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, stop)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(patience)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)  # children that the parent left behind


# -- the machine -------------------------------------------------------------------------------------------------------


def folder(kept: Path) -> tuple[Path, str]:
    """The folder for files that the second run uses. If it cannot be used, a new one, and a line about it."""
    try:
        kept.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=kept):
            return kept, ""
    except OSError as error:
        made = Path(tempfile.mkdtemp(prefix="dualnet-gpu-"))
        return made, f"{kept} cannot be used ({error.strerror}): nothing from another run is used"


def frontend(kept: Path) -> str:
    """Unpack the wheel of cuDNN's frontend from .whl/ of the checkout, unless it is installed; a line about it."""
    if importlib.util.find_spec("cudnn") is not None:
        return "the frontend of cuDNN is installed"
    tag = f"cp{sys.version_info.major}{sys.version_info.minor}-"
    wheels = [w for w in sorted((ROOT / ".whl").glob("nvidia_cudnn_frontend-*.whl")) if tag in w.name]
    if not wheels:
        return f"no frontend of cuDNN: it is not installed, and .whl/ has no nvidia_cudnn_frontend-*-{tag}*.whl"
    site = kept / "site"
    with zipfile.ZipFile(wheels[-1]) as wheel:
        wheel.extractall(site)
    before = os.environ.get("PYTHONPATH", "")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [before, str(site)]))
    return f"the frontend of cuDNN is unpacked from {wheels[-1].name}"


def facts(backend: str, seconds: float = FACTS) -> dict[str, Any]:
    """Versions, the GPU, the hash of the kernels. Raises ``NothingRuns`` if the backend fails or takes too long."""
    command = [sys.executable, str(TOOLS / "gpu_facts.py"), backend]
    options: dict[str, Any] = {"capture_output": True, "encoding": "utf-8", "errors": "replace"}
    try:
        done = subprocess.run(command, cwd=ROOT, env=environment(), timeout=seconds, **options)
    except subprocess.TimeoutExpired:
        raise NothingRuns(f"{backend} does not answer within {seconds:.0f} s") from None
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.strip()]
        raise NothingRuns(f"nothing can be run: {said[-1] if said else 'no output'}")
    found = json.loads(done.stdout.strip().splitlines()[-1])
    title = found["gpu"].get("name") or str(found["versions"].get("gpu", "")).partition(" (")[0]
    found["title"] = title or f"no GPU, a dry run on {backend}"
    found["name"] = slug(title) if title else f"dry-{backend.partition(':')[0]}"
    return found


def _options() -> argparse.Namespace:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="tools/gpu_run.py", description=__doc__, formatter_class=raw)
    add = parser.add_argument
    add("run", choices=list(RUNS), help="which of the two")
    add("--out", type=Path, metavar="DIR", help="the folder for results (the variable OUT, or docs/gpu)")
    add("--backend", default="cupy", metavar="B", help="cupy or cupy:N; numpy to try everything out without a GPU")
    add("--seconds", type=float, metavar="S", help="for the whole run (460 for the first, 232 for the second)")
    add("--small", action="store_true", help="small sizes and few tests, to try everything out in a few minutes")
    options = parser.parse_args()
    options.out = options.out or Path(os.environ.get("OUT") or ROOT / "docs" / "gpu")
    try:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / f"gpu-{options.run}.log").write_text("", encoding="utf-8")
    except OSError as error:
        parser.error(f"--out {options.out}: {error.strerror}")
    options.out = options.out.resolve()
    return options


def main(pace: float = 1.0, kept: Path = KEPT) -> int:
    """Run the command. ``pace`` < 1 shortens all times, for the tests of this file."""
    options = _options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    kept, apart = folder(kept)
    seconds, parts = RUNS[options.run]
    try:
        about = frontend(kept)
    except (zipfile.BadZipFile, OSError) as error:
        about = f"no frontend of cuDNN: the wheel in .whl/ cannot be unpacked: {error}"
    run = Run(options.run, options.out, options.seconds or seconds, kept, {"name": "", "versions": {}}, pace)
    try:
        run.say(apart) if apart else None
        run.say(about)
        run.facts = facts(options.backend, min(FACTS, run.seconds / pace))
        run.say(f"{run.facts['title']}; {run.seconds:.0f} s; results in {options.out}")
        warn(run)
        cudnn = "cudnn" in run.facts["versions"] and not without_cudnn(run.facts["versions"])
        run.go(parts(Given(options.backend, kept, cudnn, options.small)))
    except NothingRuns as error:
        run.say(str(error))
        return 2
    except (KeyboardInterrupt, SystemExit):
        run.say("interrupted")
        if not run.states:
            return 1
    return closing(run)


def closing(run: Run) -> int:
    """Save the files for the next run, print the tables and a line for each part, and return the exit code."""
    runs = (read(run.path("bench")) or {}).get("runs", [])
    run.put(run.folder / "bench-before.json", {"of": run.of(), "runs": runs})
    if (plans := run.folder / "plans.json").exists():
        (run.out / "plans.json").write_bytes(plans.read_bytes())
    words = [sys.executable, str(TOOLS / "gpu_tables.py"), str(run.out)]
    words += ["--page", str(ROOT / "docs" / "gpu.md")] if run.out == (ROOT / "docs" / "gpu").resolve() else []
    options: dict[str, Any] = {"capture_output": True, "encoding": "utf-8", "errors": "replace", "timeout": 60}
    try:
        done = subprocess.run(words, cwd=ROOT, env=environment(), **options)
        said = done.stdout if done.returncode == 0 else done.stderr
    except subprocess.TimeoutExpired:
        said = f"no tables: tools/gpu_tables.py did not end within {options['timeout']} s"
    for line in said.splitlines():
        run.say(line)
    run.say("-- summary " + "-" * 60)
    for one in run.states:
        run.say(f"{one.state:8} {one.seconds:4.0f} s  {one.words}", one.part.name)
    warn(run)
    well = all(one.state in WELL for one in run.states)
    run.say(f"{'all well' if well else 'NOT all well'} after {run.now():.0f} s")
    return 0 if well else 1


def warn(run: Run) -> None:
    """Warn loudly that there is no cuDNN: all times change then, and the tables do not show why."""
    if why := without_cudnn(run.facts.get("versions", {})):
        run.say(f"!!! WITHOUT cuDNN: {why}")
        run.say("!!! every convolution runs as im2col and a product by cuBLAS; these results say nothing about cuDNN")


if __name__ == "__main__":
    sys.exit(main())
