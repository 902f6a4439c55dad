"""tools/gpu_run.py, the two commands for a machine with a GPU, without one: every file is there, whatever goes wrong.

Most tests run the real plan with processes that only pretend to work, by a clock that only they move: how busy the
machine is changes nothing. The slow ones run the real programs, in small sizes, on the pretend GPU.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
import types
import zipfile
from dataclasses import replace
from pathlib import Path

import cuda_host
import pytest
from test_gpu_results import ROOT, tool

import dualnet as dn
from dualnet.bench import measure

TOOLS, TESTS = ROOT / "tools", ROOT / "tests"
run_tool, parts_tool, facts_tool = tool("gpu_run"), tool("gpu_parts"), tool("gpu_facts")
run_tool.RUNS, run_tool.Outcome = parts_tool.RUNS, parts_tool.Outcome
PACE = 0.05
"""A second of the plan takes so many seconds here."""
BRIEF = 0.15
"""Where time is not what is tested, a job takes this share of its time."""

WORKER = """
import json, os, sys, time
path, some, whole, first, rest, code = sys.argv[1:7]
def write(text):
    if path and text:
        with open(path + ".tmp", "w") as file:
            file.write(text)
        os.replace(path + ".tmp", path)
time.sleep(float(first))
write(some)
time.sleep(float(rest))
write(whole)
print("the last line")
sys.exit(int(code))
"""

ROW = {"net": "lenet5", "dtype": "bfloat16", "batch": 256, "mode": "training"}
TIMES = [ROW | {"program": "dualnet", "min_ms": 1.0}, ROW | {"program": "torch", "min_ms": 2.0}]
SETTINGS = {"capture": True, "rounds": 2, "momentum": 0.9}
BENCH = {"settings": SETTINGS, "results": TIMES, "ratios": [ROW | {"peer": "torch", "speed": 2.0}]}
TESTED = {"complete": True, "counts": {"passed": 9}, "failures": [], "running": [], "skips": {}, "seconds": 9.0}


def certificate(verdict):
    kernels = {"sha256": "0" * 64}
    return {"kind": "dualnet parity certificate", "verdict": verdict, "verdicts": {"cupy:0": verdict}, "seconds": 9.0,
            "reasons": {"cupy:0": []}, "controls": [], "ops": [], "networks": [], "kernels": kernels,
            "date": "2026-01-02 03:04 UTC"}  # fmt: skip


def works(job):
    """About how long a job takes on a GPU, and what it has written after a fifth of that time and at its end."""
    words = " ".join(job.words)
    if "gpu_smoke" in words:
        steps = [{"step": "one", "ok": True, "seconds": 1.0}, {"step": "two", "ok": True, "seconds": 1.0}]
        return 25, {"seconds": 1.0, "steps": steps[:1]}, {"seconds": 2.0, "steps": steps}
    if " bench " in words:
        limit = float(job.words[job.words.index("--limit") + 1])
        return 0.9 * limit, {**BENCH, "results": TIMES[:1], "ratios": []}, BENCH
    if "gpu_profile" in words:
        step = {"program": "dualnet", "net": "lenet5", "dtype": "bfloat16", "busy_us": 9.0, "launches": 3}
        return 45, [step | {"kernels": []}], [step | {"kernels": []}] * 2
    if " pytest " in words:
        return 150, {**TESTED, "complete": False, "running": ["test_x"]}, TESTED
    quick = "--quick" in words
    return (40 if quick else 285), None, certificate("PARTIAL" if quick else "PASS")


def pretended(job, share=1.0, fails=False, changes=None, stays=False):
    """The job with a process that only pretends to work. One that ``stays`` has some results soon, and never ends."""
    seconds, half, whole = works(job)
    seconds *= share * PACE
    change = changes or (lambda job, text: text)
    texts = [change(job, json.dumps(found)) if found else "" for found in (half, whole)]
    texts = ["", ""] if fails else texts
    words = [
        sys.executable,
        "-S",
        "-E",
        "-c",
        WORKER,
        str(job.made or ""),
        *texts,
        str(seconds / 5),
        str(600 if stays else seconds * 4 / 5),
        str(int(fails)),
    ]
    shown = [*words, *job.words]  # the results are read with the options of the real command
    return replace(job, words=shown)


class Clock:
    """A clock that moves only while somebody sleeps."""

    def __init__(self):
        self.now = 0.0

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


class Working:
    """A process that does what WORKER does, at the same moments of that clock."""

    def __init__(self, clock, words, stdout, **_):
        self.clock, self.output, self.returncode = clock, Path(stdout.name), None
        path, some, whole, first, rest, code = words[5:11]
        self.path, self.code = path, int(code)
        self.to_do = [(clock.now + float(first), some), (clock.now + float(first) + float(rest), whole)]

    def poll(self):
        while self.returncode is None and self.to_do[0][0] <= self.clock.now:
            _, text = self.to_do.pop(0)
            if self.path and text:
                Path(self.path).write_text(text, encoding="utf-8")
            if not self.to_do:
                self.output.write_text("the last line\n", encoding="utf-8")
                self.returncode = self.code
        return self.returncode

    def end(self):
        if self.poll() is None:
            self.returncode = -signal.SIGTERM


def files_in(folder, name):
    """The results of a machine, by part."""
    return {path.stem.removeprefix(name): json.loads(path.read_text("utf-8")) for path in folder.glob(f"{name}*.json")}


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """``machine("first", ...)`` runs the plan with pretended work; returns the exit code and the files by part."""
    versions = {"cudnn": "9.19.0, frontend 1.28.0", "numpy": "2.5", "python": "3.12", "dualnet": "0.1"}
    found = {"name": "h200", "title": "NVIDIA H200", "gpu": {"name": "NVIDIA H200"}, "versions": versions}
    found["kernels"] = {"sha256": "0" * 64}
    monkeypatch.setattr(parts_tool, "SHARES", 3)
    monkeypatch.setattr(run_tool, "facts", lambda backend, seconds: json.loads(json.dumps(found)))
    monkeypatch.setattr(run_tool.signal, "signal", lambda *_: None)
    clock, real = Clock(), vars(subprocess)
    monkeypatch.setattr(run_tool, "time", clock)
    starts = types.SimpleNamespace(**real | {"Popen": lambda words, **options: Working(clock, words, **options)})
    monkeypatch.setattr(run_tool, "subprocess", starts)
    monkeypatch.setattr(run_tool, "end", Working.end)

    def go(name, seconds=None, fails=(), changes=None, share=BRIEF):
        total, parts = parts_tool.RUNS[name]

        def pretend(given):
            plan = parts(given)
            return [
                replace(part, jobs=[pretended(job, share, part.name in fails, changes) for job in part.jobs])
                for part in plan
            ]

        monkeypatch.setattr(run_tool, "RUNS", {name: (seconds or total, pretend)})
        out = tmp_path / "out"
        monkeypatch.setattr(sys, "argv", ["gpu_run", name, "--out", str(out)])
        code = run_tool.main(PACE, tmp_path / "kept")
        return code, {
            path.stem.removeprefix("h200-"): json.loads(path.read_text("utf-8")) for path in out.glob("h200-*")
        }

    go.found, go.out = found, tmp_path / "out"
    return go


FILES = {"first": {"smoke", "bench", "parity", "tests", "first"}, "second": {"profile", "bench", "second"}}


# -- every file is there -----------------------------------------------------------------------------------------------


def test_the_first_run_to_its_end(machine, capsys):
    code, files = machine("first")
    said = capsys.readouterr().out
    assert code == 0 and "all well" in said, said
    assert files.keys() == FILES["first"]
    assert {name: found["state"] for name, found in files.items() if name != "first"} == {
        "smoke": "ok", "bench": "ok", "parity": "PASS", "tests": "ok",
    }  # fmt: skip
    assert len(files["smoke"]["steps"]) == 2 and files["tests"]["counts"] == {"passed": 9}
    assert files["bench"]["runs"] == [BENCH] and "2 of 2 times" in files["bench"]["outcome"]
    runs = files["parity"]["runs"]
    assert [run["verdict"] for run in runs] == ["PARTIAL", "PARTIAL", "PASS"] and files["parity"]["verdict"] == "PASS"
    assert [run["command"].split()[0] for run in runs] == ["DUALNET_CUDNN=0", "DUALNET_CUDNN=all", "DUALNET_CUDNN=all"]
    parts = files["first"]["parts"]
    assert {part["state"] for part in parts.values()} == {"ok", "PASS"} and len(parts["kernels"]["shares"]) == 3
    assert "**Certificate: PASS**" in said and "| lenet5 | bfloat16 | 256 | 1.000 |" in said
    files_back = list(machine.out.iterdir())
    assert len(files_back) <= 8 and all(re.fullmatch(r"[A-Za-z0-9._-]+", path.name) for path in files_back)


def test_the_second_run_to_its_end_takes_up_the_times_of_the_first(machine):
    machine("first")
    (machine.out.parent / "kept" / "plans.json").write_text("{}")
    code, files = machine("second")
    assert code == 0 and {"profile", "bench", "second"} <= files.keys()
    assert len(files["bench"]["runs"]) == 1 + 3 and len(files["profile"]["profiles"]) == 2
    assert (machine.out / "plans.json").exists()
    for entry, other in ((machine.found["kernels"], {"sha256": "1" * 64}), (machine.found, {"name": "dry-numpy"})):
        before = dict(entry)
        entry.update(other)
        machine("first")
        entry.update(before)
        assert len(machine("second")[1]["bench"]["runs"]) == 3  # the first run was of other kernels, or another device


@pytest.mark.parametrize("bad", ["smoke", "bench", "kernels", "parity", "quick", "tests"])
def test_a_part_that_fails_leaves_the_others(machine, bad):
    code, files = machine("first", fails=[bad])
    parts = files["first"]["parts"]
    assert code == 1 and files.keys() == FILES["first"]
    assert parts[bad]["state"] == "FAILED" and "the last line" in parts[bad]["outcome"]
    others = {name: part["state"] for name, part in parts.items() if name != bad}
    if bad == "smoke":  # nothing can work
        assert set(others.values()) == {"NOT-RUN"} and parts["bench"]["outcome"] == "smoke failed"
        assert all(files[name]["state"] == "NOT-RUN" for name in ("bench", "parity", "tests"))
    else:
        assert set(others.values()) <= {"ok", "PASS"}, others
    if bad == "parity":
        assert files["parity"]["verdict"] == "PARTIAL"  # that of a quick one


@pytest.mark.parametrize("bad", ["profile", "bench", "bench-lenet5", "bench-tf32"])
def test_in_the_second_run_too(machine, bad):
    code, files = machine("second", fails=[bad])
    assert code == 1 and files.keys() == FILES["second"]
    parts = files["second"]["parts"]
    assert parts[bad]["state"] == "FAILED" and sum(part["state"] == "ok" for part in parts.values()) == 3
    assert len(files["bench"]["runs"]) == (3 if bad == "profile" else 2)
    if bad != "profile":  # three parts share this file, and the last of them may be well
        assert files["bench"]["state"] == "FAILED" and f"{bad} FAILED: " in files["bench"]["outcome"]


@pytest.mark.parametrize("how", ["import os; os.abort()", "import time; time.sleep(60)", "raise SystemExit(1)"])
def test_a_smoke_test_that_crashes_or_hangs_stops_the_rest(tmp_path, how):
    found = {"name": "h200", "versions": {}, "gpu": {}, "kernels": {"sha256": "0" * 64}}
    hangs = "sleep" in how
    run = run_tool.Run("first", tmp_path, 600, tmp_path, found, 1.0)
    smoke = parts_tool.Job([sys.executable, "-S", "-E", "-c", how])
    other = parts_tool.Job([sys.executable, "-S", "-E", "-c", "print(1)"])
    run.go([parts_tool.Part("smoke", 0.5 if hangs else 300, [smoke], parts_tool.smoke, needed=True),
            parts_tool.Part("profile", 300, [other], parts_tool.profile, after=("smoke",))])  # fmt: skip
    assert [state.state for state in run.states] == ["STOPPED" if hangs else "FAILED", "NOT-RUN"]
    assert run.states[1].words == "smoke failed" and not run.states[1].processes


@pytest.mark.parametrize(
    ("seconds", "ended", "stopped"),
    [
        (60, {"smoke"}, {"bench"}),
        (200, {"smoke", "bench"}, {"parity"}),
        (400, {"smoke", "bench", "kernels", "quick"}, {"parity"}),
    ],
)
def test_when_time_runs_out(machine, seconds, ended, stopped):
    code, files = machine("first", seconds, share=1.0)
    assert code == 1 and files.keys() == FILES["first"]
    assert files["first"]["seconds"] <= seconds * PACE + 0.1  # a moment between two looks at the processes
    states = {name: part["state"] for name, part in files["first"]["parts"].items()}
    assert {name for name, state in states.items() if state in ("ok", "PASS")} >= ended, states
    assert {name for name, state in states.items() if state == "STOPPED"} >= stopped, states
    assert set(states.values()) <= {"ok", "PASS", "STOPPED", "NOT-RUN"} and set(states.values()) & {
        "STOPPED",
        "NOT-RUN",
    }
    for name, part in files["first"]["parts"].items():
        if part["state"] == "NOT-RUN":
            assert part["outcome"] == "no time was left", name
    if seconds == 60:  # some of the times were there
        assert files["bench"]["state"] == "STOPPED" and files["bench"]["runs"][0]["results"] == TIMES[:1]
        assert "the end of the run" in files["bench"]["outcome"] and files["tests"]["state"] == "NOT-RUN"
    if seconds == 400:
        assert files["parity"]["verdicts"] and files["tests"]["counts"] == {"passed": 9}


def test_a_part_has_a_limit_of_its_own(machine, monkeypatch):
    """A benchmark that hangs is ended, and what waits for it goes on."""
    ordinary = works

    def hanging(job):
        seconds, *texts = ordinary(job)
        return (9999 if " bench " in " ".join(job.words) else seconds), *texts

    monkeypatch.setitem(globals(), "works", hanging)
    code, files = machine("first", 250)
    parts = files["first"]["parts"]
    assert code == 1 and parts["bench"]["state"] == "STOPPED" and "stopped after" in parts["bench"]["outcome"]
    assert parts["tests"]["state"] == "ok" and parts["quick"]["state"] == "ok"


def test_results_that_cannot_be_read_cost_no_other_part(machine):
    def changed(job, text):
        return '{"steps": 3}' if "gpu_smoke" in " ".join(job.words) else text

    code, files = machine("first", changes=changed)
    assert code == 1 and "cannot be read: TypeError" in files["smoke"]["outcome"]
    assert files["first"]["parts"]["tests"]["state"] == "ok"


def test_a_mistake_that_one_certificate_finds_is_not_hidden_by_another(machine):
    def changed(job, text):
        without = job.variables.get("DUALNET_CUDNN") == "0" and "none" not in job.words
        return text.replace("PARTIAL", "FAIL") if without and "--quick" in job.words else text

    code, files = machine("first", changes=changed)
    assert code == 1 and files["first"]["parts"]["quick"]["state"] == "FAIL"
    assert files["parity"]["verdict"] == "FAIL" and [r["verdict"] for r in files["parity"]["runs"]][0] == "FAIL"


# -- ended from outside ------------------------------------------------------------------------------------------------

DRIVER = """
import sys
sys.path[:0] = [{tests!r}, {pretend!r}, {tools!r}]
import test_gpu_run as t
from pathlib import Path
t.run_tool.facts = lambda backend, seconds: {facts!r}
total, parts = t.parts_tool.RUNS["first"]
t.run_tool.RUNS = {{"first": (9999, lambda given: [
    t.replace(part, seconds=9999, jobs=[t.pretended(job, stays=part.name == "bench") for job in part.jobs])
    for part in parts(given)])}}
sys.argv = ["gpu_run", "first", "--out", {out!r}]
sys.exit(t.run_tool.main(t.PACE, Path({kept!r})))
"""


@pytest.mark.parametrize("stop", ["SIGKILL", "SIGTERM"])
def test_whatever_ends_it_the_files_have_what_was_found(machine, tmp_path, stop):
    out = tmp_path / "out"
    text = DRIVER.format(tests=str(TESTS), pretend=str(TESTS / "pretend"), tools=str(TOOLS), facts=machine.found,
                         out=str(out), kept=str(tmp_path / "kept"))  # fmt: skip
    process = subprocess.Popen([sys.executable, "-c", text], stdout=subprocess.PIPE, cwd=ROOT, encoding="utf-8")
    until = time.monotonic() + 120
    while time.monotonic() < until:  # the benchmark stays, so the signal comes in the middle of it
        bench = facts_tool.read(out / "h200-bench.json") or {}
        if bench.get("runs"):
            break
        time.sleep(0.05)
    process.send_signal(getattr(signal, stop))
    said, _ = process.communicate(timeout=120)
    files = files_in(out, "h200-")
    assert files.keys() == FILES["first"] and files["smoke"]["state"] == "ok"
    assert files["bench"]["runs"][0]["results"][:1] == TIMES[:1]
    if stop == "SIGTERM":
        assert process.returncode == 1 and "interrupted" in said and "-- summary" in said
        assert files["bench"]["state"] == "STOPPED" and files["first"]["parts"]["tests"]["state"] == "waiting"
    else:
        assert files["bench"]["state"] == "running"
        for line in Path("/proc").glob("[0-9]*/cmdline") if Path("/proc/self").exists() else []:
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it may end meanwhile
                words = line.read_bytes().decode(errors="replace").split("\0")
                if str(tmp_path) in "".join(words) and "-S" in words:
                    os.kill(int(line.parent.name), signal.SIGKILL)


def test_children_of_a_part_end_with_it(tmp_path):
    child = f"import os, time; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    process = subprocess.Popen([sys.executable, "-c", parent], process_group=0)
    until = time.monotonic() + 120
    while not ((tmp_path / "pid").exists() and (tmp_path / "pid").read_text()) and time.monotonic() < until:
        time.sleep(0.05)
    pid = int((tmp_path / "pid").read_text())
    run_tool.end(process)
    until = time.monotonic() + 60  # a killed process may run for a moment before the kernel has ended it
    while runs(pid) and time.monotonic() < until:
        time.sleep(0.05)
    assert not runs(pid)


def runs(pid: int) -> bool:
    """Whether a process is there and is more than an entry that waits for its parent."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


# -- where results go, and in which environment ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "variable", "folder"),
    [([], None, "docs/gpu"), ([], "out", "out"), (["--out", "mine"], "out", "mine"), ([], "", "docs/gpu")],
)
def test_where_results_go(tmp_path, monkeypatch, words, variable, folder):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run_tool, "ROOT", tmp_path)
    monkeypatch.delenv("OUT", raising=False)
    if variable is not None:
        monkeypatch.setenv("OUT", variable)
    monkeypatch.setattr(sys, "argv", ["gpu_run", "first", *words])
    assert run_tool._options().out == tmp_path / folder


def given(tmp_path, cudnn=True):
    return parts_tool.Given("cupy", tmp_path, cudnn)


def test_certificates_and_tests_time_no_plans_and_compile_no_cub(tmp_path):
    by_name = {part.name: part for part in parts_tool.first(given(tmp_path))}
    for name in ("kernels", "parity", "quick", "tests"):
        for job in by_name[name].jobs:
            assert job.variables["DUALNET_CUDNN_AUTOTUNE"] == "0" and job.variables["CUPY_ACCELERATORS"] == ""
            assert job.variables["DUALNET_THREADS"] == job.variables["OMP_NUM_THREADS"] == "2"  # many share the cores
    assert {job.variables["DUALNET_CUDNN"] for job in by_name["quick"].jobs} == {"0", "all"}
    assert by_name["tests"].jobs[0].variables["DUALNET_CUDNN"] == "all"
    for part in parts_tool.second(given(tmp_path)) + [by_name["bench"]]:
        for job in part.jobs:  # times are taken with timed plans, which the next process takes up
            assert job.variables == {"DUALNET_CUDNN_AUTOTUNE": str(tmp_path / "plans.json")}
    without = {part.name: part for part in parts_tool.first(given(tmp_path, cudnn=False))}
    assert len(without["quick"].jobs) == 1 and "DUALNET_CUDNN" not in without["tests"].jobs[0].variables


def test_a_part_gets_its_variables_and_yours(monkeypatch):
    monkeypatch.setenv("DUALNET_CUDNN_AUTOTUNE", "1")
    monkeypatch.setenv("DUALNET_KERNELS", "reference")
    made = facts_tool.environment(DUALNET_CUDNN_AUTOTUNE="0", CUPY_ACCELERATORS="")
    assert (made["DUALNET_CUDNN_AUTOTUNE"], made["CUPY_ACCELERATORS"], made["DUALNET_KERNELS"]) == (
        "0",
        "",
        "reference",
    )
    assert made["PYTHONPATH"].split(os.pathsep)[:2] == [str(ROOT), str(TOOLS)]


def test_ten_processes_share_all_ops(tmp_path):
    from dualnet.parity.cases.case import OPS

    (shares,) = (part for part in parts_tool.first(given(tmp_path)) if part.name == "kernels")
    several = [job.words[job.words.index("--ops") + 1].split(",") for job in shares.jobs]
    assert len(several) == 10 and sorted(op for some in several for op in some) == sorted(OPS)
    assert max(map(len, several)) - min(map(len, several)) <= 1


@pytest.mark.parametrize("name", list(parts_tool.RUNS))
def test_the_plan_fits_its_time_and_knows_its_peers(tmp_path, name):
    seconds, parts = parts_tool.RUNS[name]
    plan = {part.name: part for part in parts(given(tmp_path))}

    def longest(part):
        return part.seconds + max((longest(plan[name]) for name in part.after), default=0.0)

    assert all(name in plan for part in plan.values() for name in part.after)
    serial = [part for part in plan.values() if part.name not in ("parity", "quick", "tests")]  # they take what is left
    assert max(map(longest, serial)) <= seconds and seconds < {"first": 480, "second": 240}[name]
    for part in plan.values():
        for job in part.jobs:
            if "--against" in job.words:
                assert set(job.words[job.words.index("--against") + 1].split(",")) <= measure.PROGRAMS.keys()
                assert float(job.words[job.words.index("--limit") + 1]) < part.seconds
    if name == "second":
        assert "torch.compile" in plan["bench"].jobs[0].words[plan["bench"].jobs[0].words.index("--against") + 1]


def test_the_files_that_are_tested_exist_and_ask_for_the_backend():
    for path in map(ROOT.joinpath, parts_tool.TESTS):
        files = sorted(path.glob("test_*.py")) if path.is_dir() else [path]
        assert files and any(re.search(r"def test_\w+\([^)]*\bbackend\b", f.read_text("utf-8")) for f in files), path


# -- the frontend ------------------------------------------------------------------------------------------------------


def test_the_frontend_is_unpacked_from_its_wheel(tmp_path, monkeypatch):
    tag = f"cp{sys.version_info.major}{sys.version_info.minor}"
    monkeypatch.setattr(run_tool, "ROOT", tmp_path)
    monkeypatch.setattr(run_tool.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setenv("PYTHONPATH", "mine")
    assert run_tool.frontend(tmp_path / "kept").startswith(
        "no frontend of cuDNN: it is not installed, and .whl/ has no"
    )
    (tmp_path / ".whl").mkdir()
    for version, other in (("1.27.0", tag), ("1.28.0", tag), ("1.28.0", "cp27")):
        name = f"nvidia_cudnn_frontend-{version}-{other}-{other}-manylinux_2_28_x86_64.whl"
        with zipfile.ZipFile(tmp_path / ".whl" / name, "w") as wheel:
            wheel.writestr("cudnn/__init__.py", f"__version__ = {version!r}; tag = {other!r}")
    assert "1.28.0" in run_tool.frontend(tmp_path / "kept")
    text = (tmp_path / "kept" / "site" / "cudnn" / "__init__.py").read_text()
    assert "1.28.0" in text and tag in text
    assert os.environ["PYTHONPATH"] == os.pathsep.join(["mine", str(tmp_path / "kept" / "site")])


def test_a_broken_wheel_does_not_end_the_run(machine, tmp_path, monkeypatch, capsys):
    tag = f"cp{sys.version_info.major}{sys.version_info.minor}"
    (tmp_path / ".whl").mkdir()
    (tmp_path / ".whl" / f"nvidia_cudnn_frontend-1.28.0-{tag}-{tag}-any.whl").write_text("half a wheel")
    there = run_tool.importlib.util.find_spec
    monkeypatch.setattr(run_tool.importlib.util, "find_spec", lambda name: None if name == "cudnn" else there(name))
    monkeypatch.setattr(run_tool, "ROOT", tmp_path)
    code, files = machine("first")
    assert code == 0 and files.keys() == FILES["first"]
    assert "no frontend of cuDNN: the wheel in .whl/ cannot be unpacked: " in capsys.readouterr().out


def test_an_installed_frontend_is_left_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(run_tool.importlib.util, "find_spec", lambda name: object())
    before = os.environ.get("PYTHONPATH")
    assert run_tool.frontend(tmp_path) == "the frontend of cuDNN is installed"
    assert os.environ.get("PYTHONPATH") == before and not list(tmp_path.iterdir())


def test_without_cudnn_it_says_so_loudly(machine, capsys):
    machine.found["versions"]["cudnn"] = "no: not installed; pip install it"
    _, files = machine("first")
    assert capsys.readouterr().out.count("!!! WITHOUT cuDNN: not installed; pip install it") == 2
    assert files["bench"]["without cudnn"] == "not installed; pip install it"


def test_a_folder_that_cannot_be_used_is_replaced(machine, tmp_path, capsys):
    (tmp_path / "kept").write_text("a file, not a folder")
    code, files = machine("first")
    assert code == 0 and files.keys() == FILES["first"]
    assert "kept cannot be used (File exists): nothing from another run is used" in capsys.readouterr().out
    assert (tmp_path / "kept").read_text() == "a file, not a folder"


def test_tables_that_take_too_long_cost_no_result(machine, monkeypatch, capsys):
    ordinary = subprocess.run

    def hangs(words, **options):
        if "gpu_tables.py" in str(words):
            raise subprocess.TimeoutExpired(words, options["timeout"])
        return ordinary(words, **options)

    monkeypatch.setattr(run_tool.subprocess, "run", hangs)
    code, files = machine("first")
    said = capsys.readouterr().out
    assert code == 0 and files.keys() == FILES["first"] and "all well" in said
    assert "no tables: tools/gpu_tables.py did not end within 60 s" in said


# -- as a user runs it -------------------------------------------------------------------------------------------------


def command(*words, timeout=100, **variables):
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("DUALNET_", "PYTEST_", "GPU_SUITE"))}
    environment |= {"OMP_NUM_THREADS": "1", **{name: str(value) for name, value in variables.items()}}
    done = subprocess.run([sys.executable, *map(str, words)], env=environment, capture_output=True, text=True,
                          timeout=timeout)  # fmt: skip
    return done.returncode, done.stdout, done.stderr


def test_the_page_shows_the_commands():
    code, out, _ = command(TOOLS / "gpu_run.py", "--help")
    assert code == 0 and all(f"--{option}" in out for option in ("out", "backend", "seconds", "small"))
    page = (ROOT / "docs" / "gpu.md").read_text("utf-8")
    assert all(f"python3 tools/gpu_run.py {name}" in page for name in parts_tool.RUNS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parts_tool, "SHARES", 1)
        for _, parts in parts_tool.RUNS.values():
            for part in parts(given(Path("kept"))):
                assert f"| `{part.name}` |" in page, part.name


@pytest.mark.skipif("cupy" in dn.available_backends(), reason="there is a device")
def test_without_a_device_nothing_is_run(tmp_path):
    code, said, _ = command(TOOLS / "gpu_run.py", "first", OUT=tmp_path)
    assert code == 2 and "nothing can be run: cupy: " in said and "pip install" in said
    assert [path.name for path in tmp_path.iterdir()] == ["gpu-first.log"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["third"], "invalid choice: 'third' (choose from "),
        (["first", "--out", "/dev/null/there"], "--out /dev/null/there"),
        (["first", "--seconds", "soon"], "invalid float value: 'soon'"),
    ],
)
def test_wrong_options_are_one_line_and_exit_code_2(words, message):
    code, _, error = command(TOOLS / "gpu_run.py", *words)
    assert code == 2 and message in error and "Traceback" not in error


@pytest.mark.parametrize(
    ("title", "name"),
    [
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H200", "h200"),
        ("NVIDIA A100-SXM4-40GB", "a100"),
        ("NVIDIA GeForce RTX 4090", "geforce-rtx-4090"),
        ("Tesla T4", "tesla-t4"),
        ("NVIDIA H100 PCIe", "h100"),
    ],
)
def test_results_are_named_after_the_gpu(title, name):
    assert facts_tool.slug(title) == name


def test_the_smoke_test_on_numpy(tmp_path):
    code, said, error = command(TOOLS / "gpu_smoke.py", tmp_path / "s.json", "--backend", "numpy", "--small",
                                PYTHONPATH=ROOT)  # fmt: skip
    found = json.loads((tmp_path / "s.json").read_text("utf-8"))
    bfloat16 = [row for row in found["steps"] if "bfloat16" in row["step"]]
    others = [row for row in found["steps"] if "bfloat16" not in row["step"]]
    assert all(row["ok"] for row in others) and len(others) >= 14, said + error
    assert code == (0 if all(row["ok"] for row in bfloat16) else 2)  # without ml_dtypes there is no bfloat16


def test_the_smoke_test_finds_a_wrong_result(tmp_path, monkeypatch):
    smoke = tool("gpu_smoke")
    made = smoke.Smoke(tmp_path / "s.json", "numpy", True)
    with dn.use_backend("numpy"):
        assert made.step("dense", made.dense, "float32")
    ordinary = dn.ops.dense

    def wrong(x, w, b):
        y, pullback = ordinary(x, w, b)
        return y * (1 + 1e-4 * (x.dtype == "float32")), pullback

    monkeypatch.setattr(dn.ops, "dense", wrong)
    with dn.use_backend("numpy"):
        assert not made.step("dense", made.dense, "float32")
    found = json.loads((tmp_path / "s.json").read_text("utf-8"))
    assert [row["ok"] for row in found["steps"]] == [True, False] and "is off by 1.0e-04" in found["steps"][1]["why"]


def test_the_suites_report_is_written_as_a_whole_or_not_at_all(tmp_path, monkeypatch):
    suite, path = tool("gpu_suite"), tmp_path / "tests.json"
    report = suite.Report(path)
    report.write(complete=False)
    before = path.read_text()

    def broken(source, target):
        raise KeyboardInterrupt

    monkeypatch.setattr(suite.os, "replace", broken)
    with pytest.raises(KeyboardInterrupt):
        report.write(complete=True)
    assert path.read_text() == before


def test_failing_tests_are_listed(tmp_path):
    (tmp_path / "test_mixed.py").write_text(
        textwrap.dedent(
            """
            import pytest
            def test_good():
                pass
            def test_bad():
                assert 1 == 2, "one is not two"
            def test_skipped():
                pytest.skip("not here")
            @pytest.fixture
            def broken():
                raise OSError("no such fixture")
            def test_error(broken):
                pass
            """
        )
    )
    path = tmp_path / "tests.json"
    command("-m", "pytest", "-q", "-p", "gpu_suite", "-p", "no:cacheprovider", tmp_path / "test_mixed.py",
            PYTHONPATH=TOOLS, GPU_SUITE_JSON=path, PYTEST_DISABLE_PLUGIN_AUTOLOAD="1")  # fmt: skip
    found = json.loads(path.read_text("utf-8"))
    assert found["counts"] == {"passed": 1, "failed": 1, "skipped": 1, "error": 1} and found["complete"]
    assert [failure["when"] for failure in found["failures"]] == ["call", "setup"]
    job = parts_tool.Job(["python"], path, {"DUALNET_BACKEND": "cupy", "DUALNET_CUDNN": "all"})
    state, words, content = parts_tool.tests([job], [parts_tool.Ended(1, "", found)])
    assert state == "FAILED" and "test_bad: AssertionError: one is not two" in words
    assert content["switches"] == {"DUALNET_CUDNN": "all"} and content["backend"] == "cupy"


# -- kernel by kernel --------------------------------------------------------------------------------------------------


def test_a_profile_counts_kernels_and_not_the_regions_around_them():
    profile = tool("gpu_profile")

    def event(name, device, us, annotation=False):
        time_range = types.SimpleNamespace(elapsed_us=lambda: us)
        return types.SimpleNamespace(
            name=name, device_type=device, time_range=time_range, is_user_annotation=annotation
        )

    step = [event("conv", "CUDA", 30.0), event("conv", "CUDA", 10.0), event("add", "CUDA", 5.0),
            event("Optimizer.step#SGD.step", "CUDA", 45.0, True), event("aten::conv2d", "CPU", 99.0)]  # fmt: skip
    assert profile.rows_of(step * profile.STEPS, "CUDA") == [
        {"kernel": "conv", "launches": 2.0, "us": 40.0}, {"kernel": "add", "launches": 1.0, "us": 5.0},
    ]  # fmt: skip


def test_what_sums_in_any_order_would_cost(monkeypatch):
    from dualnet.backends.gpu import cudnn_plans

    profile = tool("gpu_profile")
    monkeypatch.setattr(cudnn_plans, "NEVER", cudnn_plans.NEVER)  # puts it back
    monkeypatch.setenv("DUALNET_CUDNN_AUTOTUNE", "plans.json")
    with pytest.raises(ValueError, match="must neither use the plans in plans.json"):
        profile.allow_any_order()
    assert "NONDETERMINISTIC" in cudnn_plans.NEVER
    monkeypatch.delenv("DUALNET_CUDNN_AUTOTUNE")
    profile.allow_any_order()
    assert cudnn_plans.NEVER and "NONDETERMINISTIC" not in cudnn_plans.NEVER


def test_a_pytorch_without_cuda_profiles_no_gpu(monkeypatch):
    profile = tool("gpu_profile")
    without = types.SimpleNamespace(cuda=types.SimpleNamespace(is_available=lambda: False))
    monkeypatch.setitem(sys.modules, "torch", without)
    monkeypatch.setattr(profile.dn, "get_backend", lambda: "cupy:0")
    monkeypatch.setattr(profile, "profiled", lambda *_: pytest.fail("it must not begin"))
    monkeypatch.setattr(sys, "argv", ["gpu_profile", "lenet5"])
    with pytest.raises(OSError, match="this PyTorch has no CUDA"):
        profile.main()


def test_profiles_without_pytorch(tmp_path):
    words = [TOOLS / "gpu_profile.py", "lenet5", "--backend", "numpy", "--batch", "2"]
    code, said, error = command(*words, "--json", tmp_path / "p.json", PYTHONPATH=ROOT)
    try:
        import torch  # noqa: F401
    except ImportError:
        assert code == 1 and error == "gpu_profile: No module named 'torch'\n"
        return
    assert code == 0 and "lenet5 bfloat16, batch 2, dualnet: " in said
    assert [found["program"] for found in json.loads((tmp_path / "p.json").read_text())] == ["dualnet", "torch"]


# -- the real programs, on the pretend GPU -----------------------------------------------------------------------------

SITE = """
import os
kept = {name: value for name, value in os.environ.items() if name.startswith("DUALNET_CUDNN")}
import pretend_device, fake_cudnn, sys
world = fake_cudnn.install(pretend_device.patch, sys.modules["cupy"])
os.environ.update(kept)
"""


@pytest.fixture
def pretend_gpu(tmp_path):
    """Variables for a process in which CuPy and cuDNN are pretended, and so in all its children."""
    if cuda_host.COMPILER is None:
        pytest.skip("g++ is not installed")
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(SITE, "utf-8")
    paths = [tmp_path / "site", ROOT, TESTS, TESTS / "pretend"]
    return {"PYTHONPATH": os.pathsep.join(map(str, paths)), "OUT": tmp_path / "out", "TMPDIR": tmp_path}


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [60, 200, 400, 900])
def test_both_runs_on_the_pretend_gpu(pretend_gpu, tmp_path, seconds):
    """Small sizes. PyTorch finds no GPU there, or is not installed: its times are missing, and only those."""
    begun = time.monotonic()
    words = ["--small", "--seconds", seconds]
    code, said, error = command(TOOLS / "gpu_run.py", "first", *words, timeout=seconds + 60, **pretend_gpu)
    assert code == 1 and error == "" and time.monotonic() - begun < seconds + 60, said + error  # and its tables
    files = {
        p.stem.removeprefix("pretend-h000-"): json.loads(p.read_text("utf-8")) for p in (tmp_path / "out").glob("p*h*")
    }
    assert FILES["first"] <= files.keys(), said
    if seconds < 900:
        return
    assert files["smoke"]["state"] == "ok" and files["tests"]["state"] == "ok", said
    assert {row["program"] for run in files["bench"]["runs"] for row in run["results"] if "min_ms" in row} == {
        "dualnet"
    }
    assert files["parity"]["verdict"] == "PARTIAL" and len(files["parity"]["runs"]) == 3  # of two ops
    assert (tmp_path / "out" / "plans.json").exists()
    code, said, error = command(TOOLS / "gpu_run.py", "second", *words, timeout=seconds + 60, **pretend_gpu)
    assert code == 1 and error == "", said + error
    files = {
        p.stem.removeprefix("pretend-h000-"): json.loads(p.read_text("utf-8")) for p in (tmp_path / "out").glob("p*h*")
    }
    assert FILES["second"] <= files.keys() and len(files["bench"]["runs"]) == 4


@pytest.mark.slow
def test_how_many_tests_are_collected(pretend_gpu):
    """Each worker collects them all, to run those of one backend."""
    given = parts_tool.Given("cupy", Path("kept"), True)
    (part,) = (part for part in parts_tool.first(given) if part.name == "tests")
    words = [
        word for word in part.jobs[0].words[1:] if word not in ("-n", str(parts_tool.WORKERS), "xdist", "gpu_suite")
    ]
    words = [word for i, word in enumerate(words) if word != "-p" or words[i + 1].startswith("no:")]
    _, said, error = command(*words, "--collect-only", timeout=400, **pretend_gpu)
    chosen, collected = map(int, re.search(r"(\d+)/(\d+) tests collected", said).groups())
    print(f"{chosen} of {collected} tests")
    assert 2000 < chosen < 5000 and collected < 20_000, error
