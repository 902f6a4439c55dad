"""tools/gpu_check.sh, the one command for a machine with a GPU, tried without one; and its messages on errors."""

from __future__ import annotations

import importlib.util
import json
import mmap
import os
import re
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
from test_gpu_results import ROOT, tool

import dualnet as dn

TOOLS = ROOT / "tools"
check_tool, options_tool = tool("gpu_check"), tool("gpu_options")


def command(*words, timeout=100, **variables):
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("DUALNET_", "PYTEST_", "GPU_SUITE"))}
    environment |= {"PYTHON": sys.executable, "OMP_NUM_THREADS": "1", **variables}
    done = subprocess.run([str(w) for w in words], env=environment, capture_output=True, text=True, timeout=timeout)
    return done.returncode, done.stdout, done.stderr


def check(out, *words, **variables):
    return command(TOOLS / "gpu_check.sh", "--backend", "numpy", "--out", out, *words, **variables)


def summary(out):
    """The lines after the last headline, by part."""
    lines = [line.partition("] ")[2] for line in out.splitlines()]
    begin = max(i for i, line in enumerate(lines) if line.startswith("-- summary"))
    return {line.split()[0]: line for line in lines[begin + 1 :]}


# -- the command -------------------------------------------------------------------------------------------------------


def test_the_command_tells_its_options():
    code, out, _ = command("bash", TOOLS / "gpu_check.sh", "--help")
    assert code == 0 and all(f"--{option}" in out for option in ("only", "out", "data", "torch", "seconds", "backend"))
    assert os.access(TOOLS / "gpu_check.sh", os.X_OK)
    page = (ROOT / "docs" / "gpu.md").read_text("utf-8")
    assert (
        all(f"| `{part}` |" in page for part in options_tool.PARTS) and f"`--seconds`, {options_tool.SECONDS} " in page
    )
    split = [line.split() for line in page.splitlines() if line.startswith("tools/gpu_check.sh --only bench --nets")][
        :2
    ]
    assert sorted(net for line in split for net in line[4].split(",")) == sorted(options_tool.NETS)  # none is left out


def test_failing_tests_are_listed_and_the_rest_goes_on(tmp_path):
    (tmp_path / "test_mixed.py").write_text(
        textwrap.dedent(
            """
            import os, warnings, pytest
            def test_good():
                warnings.warn("new in this version", DeprecationWarning)  # no error there
                assert os.environ["DUALNET_BACKEND"] == "numpy"
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
    out = tmp_path / "results"
    code, said, _ = check(out, "--only", "tests,cifar", "--tests", tmp_path / "test_mixed.py", DUALNET_BACKEND="strict")
    parts = summary(said)
    assert code == 1 and "exit code 1" in parts["NOT"]
    assert "FAILED" in parts["tests"] and "1 error, 1 failed, 1 passed, 1 skipped" in parts["tests"]
    assert "test_bad: AssertionError: one is not two" in parts["tests"]
    assert "NOT-RUN" in parts["cifar"] and "--data DIR" in parts["cifar"]
    (path,) = out.glob("*.json")
    found = json.loads(path.read_text("utf-8"))
    assert path.name == "dry-numpy-tests.json" and found["complete"] and found["skips"] == {"not here": 1}
    assert [f["when"] for f in found["failures"]] == ["call", "setup"] and len(found["kernels"]["sha256"]) == 64
    assert str(tmp_path) not in path.read_text("utf-8") and str(ROOT) not in path.read_text("utf-8")
    assert (out / "gpu-check.log").read_text("utf-8").count("\n") > 10
    assert "**Tests** with `DUALNET_BACKEND=numpy`" in said  # the tables


def test_all_well_is_exit_code_0(tmp_path):
    code, said, error = check(tmp_path, "--only", "tests", "--tests", "tests/test_arguments.py")
    assert code == 0, said + error
    assert "all well" in said and summary(said)["tests"].split()[1] == "ok"


@pytest.mark.skipif("cupy" in dn.available_backends(), reason="there is a device")
def test_without_a_device_nothing_is_run(tmp_path):
    code, said, _ = command(TOOLS / "gpu_check.sh", "--out", tmp_path)
    assert code == 2 and "nothing can be run: cupy: " in said and "pip install" in said
    assert not list(tmp_path.glob("*.json"))


@pytest.mark.parametrize(
    "words, message",
    [
        (["--only", "speed"], "unknown part 'speed'; the parts are parity, tests, bench, profile, cifar"),
        (["--out", "/dev/null/there"], "--out /dev/null/there"),
        (["--seconds", "soon"], "invalid float value: 'soon'"),
    ],
)
def test_wrong_options_are_one_line_and_exit_code_2(words, message):
    code, _, error = command(TOOLS / "gpu_check.sh", *words)
    assert code == 2 and message in error and "Traceback" not in error


def test_an_interruption_still_sums_up(tmp_path):
    (tmp_path / "test_slow.py").write_text(
        "import os, pathlib, time\n"
        "def test_slow():\n"
        f"    pathlib.Path({str(tmp_path / 'pid')!r}).write_text(str(os.getpid()))\n"
        "    time.sleep(60)\n"
    )
    words = [sys.executable, TOOLS / "gpu_check.py", "--backend", "numpy", "--out", tmp_path / "out", "--only", "tests"]
    process = subprocess.Popen(
        [*map(str, words), "--tests", str(tmp_path / "test_slow.py")], stdout=subprocess.PIPE, text=True
    )
    until = time.monotonic() + 60
    while not (tmp_path / "pid").exists() and time.monotonic() < until:
        time.sleep(0.1)
    process.terminate()
    said, _ = process.communicate(timeout=30)
    assert process.returncode == 130 and "interrupted" in said and "tests" in summary(said)
    assert not alive(int((tmp_path / "pid").read_text()))


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


# -- its parts, one by one ---------------------------------------------------------------------------------------------


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A check whose ``run`` gives the answers of the test instead of starting processes."""
    monkeypatch.setattr(sys, "argv", ["gpu_check", "--backend", "cupy", "--out", str(tmp_path)])
    made = check_tool.Check(options_tool.options(""))
    made.facts = {"name": "h100", "title": "H100", "gpu": {"name": "H100"}, "versions": {}, "kernels": {"sha256": "0"}}

    def answering(*answers):
        answers, asked = list(answers), []

        def run(part, words, seconds, quiet=False, **variables):
            asked.append(words)
            made.variables.append(variables)
            code, lines, content = answers.pop(0)
            if content is not None:
                path = next(w for i, w in enumerate(words) if words[i - 1] in ("--json", "--out"))
                Path(path).write_text(json.dumps(content))
            return code, lines

        monkeypatch.setattr(made, "run", run)
        return asked

    made.answering, made.variables = answering, []
    return made


def ran(machine, name, seconds=500.0):
    state, outcome = check_tool.STEPS[name](machine, check_tool.Part(name), seconds)
    path = machine.path("cifar10" if name == "cifar" else name)
    return state, outcome, json.loads(path.read_text("utf-8")) if path.exists() else None


CERTIFICATE = {"reasons": {"cupy:0": []}, "seconds": 20.0, "kind": "dualnet parity certificate"}


def test_the_full_certificate_follows_the_quick_one(machine):
    quick, full = ({**CERTIFICATE, "verdict": v, "quick": q} for v, q in (("PARTIAL", True), ("PASS", False)))
    asked = machine.answering((3, [], quick), (0, [], full))
    state, outcome, found = ran(machine, "parity")
    assert state == "PASS" and not found["quick"] and found["command"] == "dualnet parity --backend cupy"
    assert "--quick" in asked[0] and "--quick" not in asked[1]
    machine.answering((3, [], quick), (124, [], None))
    state, outcome, found = ran(machine, "parity")
    assert state == "PARTIAL" and "quick; the full one: not finished after 500 s" in outcome and found["quick"]
    machine.answering((1, [], {**quick, "verdict": "FAIL", "reasons": {"cupy:0": ["FAIL: relu differs"]}}))
    assert ran(machine, "parity")[:2] == ("FAIL", "certificate of 20 s, quick; FAIL: relu differs")
    machine.answering((2, ["dualnet parity: no room"], None))
    assert ran(machine, "parity")[:2] == ("FAILED", "no certificate: dualnet parity: no room")


def test_there_is_a_certificate_with_cudnn_and_one_without(machine):
    """Of both, and not of the one that the clock chose: cuDNN would get few small shapes or none."""
    machine.facts["versions"] = {"cudnn": "9.19.0, frontend 1.28.0"}
    quick, full = ({**CERTIFICATE, "verdict": v, "quick": q} for v, q in (("PARTIAL", True), ("PASS", False)))
    asked = machine.answering((3, [], quick), (3, [], quick), (0, [], full))
    state, _, found = ran(machine, "parity")
    assert state == "PASS" and ["--quick" in words for words in asked] == [True, True, False]
    assert [v["DUALNET_CUDNN"] for v in machine.variables] == ["0", "all", "all"]
    assert found["command"] == "DUALNET_CUDNN=all dualnet parity --backend cupy"
    assert [run["verdict"] for run in found["runs"]] == ["PARTIAL", "PARTIAL", "PASS"]
    assert found["runs"][0]["command"] == "DUALNET_CUDNN=0 dualnet parity --backend cupy --quick"
    machine.answering((3, [], {**quick, "verdict": "FAIL"}))
    assert ran(machine, "parity")[0] == "FAIL"  # and no other certificate replaces it
    machine.variables.clear()
    machine.facts["versions"] = {"cudnn": "no: not installed"}
    machine.answering((3, [], quick), (0, [], full))
    assert ran(machine, "parity")[0] == "PASS" and machine.variables == [{}, {}]


@pytest.mark.parametrize("cudnn", [True, False])
def test_the_suite_uses_cudnn_wherever_it_can(machine, cudnn):
    machine.facts["versions"] = {"cudnn": "9.19.0" if cudnn else "no: not installed"}
    machine.answering((1, ["nothing"], None))
    assert ran(machine, "tests")[:2] == ("FAILED", "pytest did not start: nothing")
    assert machine.variables[0].get("DUALNET_CUDNN") == ("all" if cudnn else None)


def test_a_full_certificate_is_not_begun_without_time_for_it(machine):
    asked = machine.answering((3, [], {**CERTIFICATE, "verdict": "PARTIAL", "quick": True}))
    state, outcome, _ = ran(machine, "parity", 200.0)
    assert state == "PARTIAL" and len(asked) == 1
    assert "the full one: left out, it takes about 260 s; --only parity,tests --seconds 560 has room" in outcome


def measured(program, **more):
    return {"program": program, "net": "lenet5", "dtype": "tf32", **({"min_ms": 1.0} if not more else more)}


def test_the_benchmark_keeps_what_it_has(machine):
    good = {"results": [measured("dualnet"), measured("torch")]}
    bad = {"results": [measured("dualnet"), measured("torch.compile", failed="no C compiler")]}
    asked = machine.answering((0, [], good), (0, [], good))
    assert ran(machine, "bench")[:2] == ("ok", "4 of 4 times measured")
    assert f"torch={sys.executable}" in asked[0] and f"torch.compile={sys.executable}" in asked[1]
    assert {"--capture", "--stay"} <= set(asked[0]) and "bfloat16,tf32" in asked[0]
    machine.answering((0, [], good), (1, [], bad))
    state, outcome, found = ran(machine, "bench")
    assert state == "FAILED" and "3 of 4 times measured; torch.compile, lenet5 tf32: no C compiler" in outcome
    assert len(found["runs"]) == 4
    assert [run["results"][1]["program"] for run in found["runs"][2:]] == ["torch", "torch.compile"]  # two from before
    machine.facts["kernels"] = {"sha256": "1"}  # the earlier runs were with other kernels
    machine.answering((124, [], good), (2, ["dualnet bench: no device"], None))
    state, outcome, found = ran(machine, "bench")
    assert (
        state == "FAILED" and "torch: stopped after" in outcome and "torch.compile: dualnet bench: no device" in outcome
    )
    assert len(found["runs"]) == 1  # the run before the limit
    machine.answering((0, [], {"results": [measured("torch", skipped="torch cannot be imported")]}), (0, [], good))
    assert "torch, lenet5 tf32: torch cannot be imported" in ran(machine, "bench")[1]


def test_the_benchmark_adds_to_the_runs_of_earlier_calls(machine, tmp_path, monkeypatch):
    """One net in each call, earlier results in docs/gpu; and files that are incomplete."""
    before, folder = machine.path("bench"), tmp_path / "root" / "docs" / "gpu"
    folder.mkdir(parents=True)
    monkeypatch.setattr(check_tool, "ROOT", tmp_path / "root")
    machine.options.nets = ["vgg16_bn"]
    run = {"results": [measured("dualnet")]}
    text = json.dumps({"kernels": {"sha256": "0"}, "runs": [run, {**run, "nets": 2}]})
    for mine, other, runs in ((text, "", 2), ("", text, 2), (text, text, 2), (text[:-9], "{", 0), (text, "{", 2)):
        before.write_text(mine), (folder / before.name).write_text(other)
        (tmp_path / "bench-torch.compile.part").write_text(json.dumps({"results": [], "stale": 1}))
        asked = machine.answering((0, [], {**run, "nets": 3}), (124, [], None))
        state, _, found = ran(machine, "bench")
        assert state == "FAILED" and len(found["runs"]) == runs + 1 and found["runs"][-1]["nets"] == 3
        assert asked[0][asked[0].index("bench") + 1] == "vgg16_bn" and asked[0].count("lenet5") == 0


def test_an_incomplete_file_costs_no_other_part(machine):
    quick = {**CERTIFICATE, "verdict": "PARTIAL", "quick": True}
    machine.answering((3, [], quick), (0, ["killed"], "no certificate"))
    run = machine.run

    def half(part, words, *rest, **variables):
        code, lines = run(part, words, *rest, **variables)
        path = Path(next(w for i, w in enumerate(words) if words[i - 1] in ("--json", "--out")))
        if "certificate" in path.read_text()[:20]:
            path.write_text(path.read_text()[:-5])
        return code, lines

    machine.run = half
    state, outcome, found = ran(machine, "parity")
    assert state == "PARTIAL" and "the full one: killed" in outcome and found["quick"]


def test_the_suites_report_is_written_as_a_whole_or_not_at_all(tmp_path, monkeypatch):
    suite, path = tool("gpu_suite"), tmp_path / "tests.part"
    report = suite.Report(path)
    report.write(complete=False)
    before = path.read_text()

    def broken(source, target):
        raise KeyboardInterrupt

    monkeypatch.setattr(suite.os, "replace", broken)
    with pytest.raises(KeyboardInterrupt):
        report.write(complete=True)
    assert path.read_text() == before


def test_cifar_must_reach_its_accuracy(machine, tmp_path):
    machine.options.data = tmp_path
    found = {"accuracy": 0.941, "epochs": 30, "seconds": 60.0, "complete": True, "history": {"loss": [1.0] * 30}}
    machine.answering((0, [], found))
    assert ran(machine, "cifar")[:2] == ("ok", "94.10 % after 30 epochs in 1.00 minutes")
    machine.answering((0, ["test accuracy 92.00 %"], {**found, "accuracy": 0.92}))
    assert ran(machine, "cifar")[0] == "FAILED"
    machine.answering((124, [], {**found, "complete": False, "history": {"loss": [1.0] * 9}}))
    state, outcome, _ = ran(machine, "cifar")
    assert state == "FAILED" and "stopped after epoch 9" in outcome
    machine.answering((1, ["train_cifar: CIFAR-10: the folder 'x' does not exist."], None))
    assert ran(machine, "cifar")[:2] == ("FAILED", "train_cifar: CIFAR-10: the folder 'x' does not exist.")


def test_a_part_has_its_share_of_the_time(machine, monkeypatch):
    seconds = {}
    monkeypatch.setattr(
        check_tool, "STEPS", {n: lambda c, p, s: seconds.update({p.name: s}) or ("ok", "") for n in ("tests", "bench")}
    )
    tests, bench = check_tool.Part("tests"), check_tool.Part("bench")
    check_tool.perform(machine, tests, [bench])
    check_tool.perform(machine, bench, [])
    assert seconds == {"tests": pytest.approx(540 * 4 / 9, abs=3), "bench": pytest.approx(540, abs=3)}
    machine.options.seconds = 0.0
    check_tool.perform(machine, bench, [])
    assert (bench.state, bench.outcome) == ("NOT-RUN", "no time was left")


def test_an_error_in_a_part_costs_only_that_part(machine, monkeypatch):
    monkeypatch.setattr(check_tool, "STEPS", {"tests": lambda *_: 1 / 0})
    part = check_tool.Part("tests")
    check_tool.perform(machine, part, [])
    assert (part.state, part.outcome) == ("FAILED", "ZeroDivisionError: division by zero")


def test_a_process_that_hangs_is_ended_with_its_children(machine, tmp_path):
    child = f"import os, time; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    parent = f"import subprocess, sys; print('begun', flush=True); subprocess.run([sys.executable, '-c', {child!r}])"
    part = check_tool.Part("tests")
    begun = time.monotonic()
    code, lines = machine.run(part, [sys.executable, "-c", parent], 2.0)
    assert code == 124 and lines[:1] == ["begun"] and time.monotonic() - begun < 12 and part.running == []
    assert not alive(int((tmp_path / "pid").read_text()))


@pytest.mark.parametrize("said", ["no: not installed; pip install it", "9.19.0, frontend 1.28.0", None])
def test_a_gpu_without_cudnn_gives_a_loud_warning(machine, capsys, said):
    machine.facts["versions"] = {"cudnn": said} if said else {}  # none: a dry run on NumPy
    machine.write("tests", counts={})
    found = json.loads(machine.path("tests").read_text("utf-8"))
    check_tool.summary(machine, 0)
    output = capsys.readouterr().out
    assert ("!!! WITHOUT cuDNN: not installed; pip install it" in output) == bool(said and said.startswith("no"))
    assert found.get("without cudnn") == ("not installed; pip install it" if said and said.startswith("no") else None)


def test_a_cold_machine_has_time_to_begin(machine, monkeypatch):
    def run(command, timeout, **options):
        assert timeout >= 240
        raise subprocess.TimeoutExpired(command, timeout)

    monkeypatch.setattr(check_tool.subprocess, "run", run)
    with pytest.raises(check_tool.NothingRuns, match="cupy does not answer within 240 s"):
        check_tool.facts(machine)


@pytest.mark.parametrize(
    "title, name",
    [
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA A100-SXM4-40GB", "a100"),
        ("NVIDIA GeForce RTX 4090", "geforce-rtx-4090"),
        ("Tesla T4", "tesla-t4"),
        ("NVIDIA H100 PCIe", "h100"),
    ],
)
def test_results_are_named_after_the_gpu(title, name):
    assert check_tool.slug(title) == name


# -- CIFAR-10 ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def cifar(tmp_path):
    """Six small files: dark images are class 0, light ones class 1."""
    rng = np.random.default_rng(0)
    for name in [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]:
        labels = rng.integers(0, 2, (12, 1), dtype="uint8")
        pixels = rng.integers(0, 100, (12, 3072), dtype="uint8") + 120 * labels
        np.concatenate([labels, pixels], axis=1).astype("uint8").tofile(tmp_path / name)
    return tmp_path


def test_training_on_cifar(cifar, backend, capsys, monkeypatch):
    train = tool("train_cifar")
    options = ["--backend", backend, "--dtype", "float32", "--model", "digits_cnn", "--epochs", "4", "--batch", "20"]
    found = []
    for _ in range(2):
        assert train.main([str(cifar), *options, "--lr", "0.005", "--json", str(cifar / "found.json")]) == 0
        found.append(json.loads((cifar / "found.json").read_text("utf-8")))
    said = capsys.readouterr().out
    assert "digits_cnn in float32 on" in said and said.count("epoch   4 of 4: loss ") == 2
    assert found[0]["complete"] and found[0]["accuracy"] == found[1]["accuracy"] >= 0.9  # the same seed
    assert found[0]["history"]["loss"] == found[1]["history"]["loss"] and len(found[0]["history"]["test_accuracy"]) == 4
    assert str(cifar) not in json.dumps(found)


def test_cifar_that_is_not_there(tmp_path):
    code, _, error = command(sys.executable, TOOLS / "train_cifar.py", tmp_path, PYTHONPATH=str(ROOT))
    assert code == 1 and error.startswith("train_cifar: CIFAR-10: not in") and "Traceback" not in error


# -- kernel by kernel --------------------------------------------------------------------------------------------------


def test_profiles_without_pytorch(tmp_path):
    words = [sys.executable, TOOLS / "gpu_profile.py", "lenet5", "--backend", "numpy", "--batch", "2"]
    code, said, error = command(*words, "--json", tmp_path / "p.json", PYTHONPATH=str(ROOT))
    if importlib.util.find_spec("torch") is None:
        assert code == 1 and error == "gpu_profile: No module named 'torch'\n"
        return
    assert code == 0 and "lenet5 bfloat16, batch 2, dualnet: " in said
    assert [found["program"] for found in json.loads((tmp_path / "p.json").read_text())] == ["dualnet", "torch"]


# -- strangers' files, very many of them -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fuzz():
    pytest.importorskip("resource", reason="the tool needs a Unix")
    return tool("fuzz")


def test_inputs_are_the_same_for_the_same_seed(fuzz):
    for name, kind in fuzz.kinds().items():
        drawn = [fuzz.drawn(kind, name, seed, number) for seed, number in ((0, 0), (0, 0), (1, 0), (0, 1))]
        assert drawn[0] == drawn[1] and len({*drawn[1:]}) == 3, name


def test_a_few_strangers_of_each_kind(fuzz, tmp_path, capsys):
    """Those of all kinds, each in a process of its own; the command's own table says that none was let through."""
    code = fuzz.main(["--inputs", "10", "--processes", "1", "--out", str(tmp_path / "failures")])
    said = capsys.readouterr().out
    assert code == 0 and f"{10 * len(fuzz.kinds())} inputs in " in said and "; 0 were not" in said, said
    assert not (tmp_path / "failures").exists()


def badly(content: bytes, folder: Path) -> str:
    """A judge to whom all that can go wrong happens, by the first byte of the input."""
    match content[0]:
        case 1:
            raise KeyError("no such key")
        case 2:
            fresh = mmap.mmap(-1, 2**25)  # 32 MB that nobody has used before
            fresh[:: mmap.PAGESIZE] = b"1" * (2**25 // mmap.PAGESIZE)
        case 3:
            end = time.process_time() + 1.2
            while time.process_time() < end:
                pass
        case 4:
            raise SystemExit(0)
        case 5:
            raise RecursionError("1 of 2")
        case 6:
            raise RecursionError("3 of 4")  # the same cause as the last one
        case 9:
            os._exit(7)
    return "read"


def test_whatever_goes_wrong_is_found_and_kept(fuzz, tmp_path, capsys, monkeypatch):
    drawn = iter(range(100))
    # The one drawn first, which is no byte, is for warming up.
    kind = fuzz.Kind(lambda rng: bytes([next(drawn) - 1]), badly, seconds=1.0, megabytes=16, chunk=9)
    monkeypatch.setattr(fuzz, "kinds", lambda: {"odd": kind})
    assert fuzz.main(["--inputs", "9", "--processes", "1", "--out", str(tmp_path)]) == 1
    said = capsys.readouterr().out
    assert "9 inputs in" in said and "6 were not answered as documented" in said and "read 3" in said
    for told in ("KeyError: 'no such key'", "N MB; at most N are allowed", "N.N s; at most N.N are", "SystemExit: N"):
        assert re.search(f"odd, 1 times: .*{told}", said), said
    assert "odd, 2 times: RecursionError: N of N" in said
    assert sorted(path.name for path in tmp_path.iterdir() if not path.suffix) == [f"odd-{n}" for n in range(1, 7)]
    assert (tmp_path / "odd-4").read_bytes() == b"\4" and "SystemExit" in (tmp_path / "odd-4.txt").read_text()


def test_a_process_that_dies_is_a_finding_too(fuzz, tmp_path, capsys, monkeypatch):
    kind = fuzz.Kind(lambda rng: b"\x09", badly, chunk=5)
    monkeypatch.setattr(fuzz, "kinds", lambda: {"odd": kind})
    assert fuzz.main(["--inputs", "5", "--processes", "2", "--out", str(tmp_path), "--first", "3"]) == 1
    assert (
        "the process ended with N; the rest" in capsys.readouterr().out and (tmp_path / "odd-3").read_bytes() == b"\x09"
    )


def test_the_kinds_are_named(fuzz, capsys):
    with pytest.raises(SystemExit) as caught:
        fuzz.main(["--only", "npz,tar"])
    assert caught.value.code == 2 and "unknown kind 'tar'; the kinds are npz, " in capsys.readouterr().err


@pytest.mark.slow
def test_1000_strangers_of_each_kind(tmp_path):
    pytest.importorskip("resource")
    words = [sys.executable, TOOLS / "fuzz.py", "--inputs", "1000", "--out", tmp_path / "failures"]
    code, said, error = command(*words, timeout=1800)
    assert code == 0, said + error


# -- what must not break -----------------------------------------------------------------------------------------------


def test_every_item_of_the_list_names_tests_that_exist():
    reliability = tool("reliability")
    items = [item for group in reliability.ITEMS.values() for item in group]
    assert [item.number for item in items] == list(range(1, 36))
    for item in items:
        assert item.tests or item.left, item.number
        for test in item.tests:
            file, _, name = test.partition("::")
            source = (ROOT / "tests" / file).read_text("utf-8")
            assert not name or re.search(rf"^def {name}\(", source, flags=re.MULTILINE), test


def test_the_page_shows_the_whole_list_and_nothing_failed():
    page = (ROOT / "docs" / "reliability.md").read_text("utf-8")
    for group in tool("reliability").ITEMS.values():
        for item in group:
            assert f"\n| {item.number} | {item.what} | " in page, "run python tools/reliability.py --page"
    assert " failed**" not in page


def test_a_result_counts_the_cases_of_its_item():
    reliability = tool("reliability")
    item = reliability.Item(1, "what", ("ops/test_a.py", "test_b.py::test_one"))
    report = reliability.xml.fromstring(
        """<suite><testcase classname="tests.ops.test_a" name="test_x[1]"/>
        <testcase classname="tests.ops.test_a" name="test_y"><skipped/></testcase>
        <testcase classname="tests.test_b" name="test_one[2]"><failure/></testcase>
        <testcase classname="tests.test_b" name="test_two"><failure/></testcase></suite>"""
    )
    result = reliability.judged(item, list(report.iter("testcase")))
    assert (result.passed, result.skipped, result.failed) == (1, 1, ["test_b.py::test_one[2]"])
    assert str(result) == "**1 failed**, 1 passed"
