"""The tools that train, fuzz and list the promises, each with little work. For the GPU's tools see test_gpu_run.py."""

from __future__ import annotations

import json
import mmap
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from test_gpu_results import ROOT, tool

TOOLS = ROOT / "tools"


def command(*words, timeout=100, **variables):
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("DUALNET_", "PYTEST_", "GPU_SUITE"))}
    environment |= {"PYTHON": sys.executable, "OMP_NUM_THREADS": "1", **variables}
    done = subprocess.run([str(w) for w in words], env=environment, capture_output=True, text=True, timeout=timeout)
    return done.returncode, done.stdout, done.stderr


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
