"""``dualnet parity --ranks R``: real processes, the verdict and the exit code, and mistakes in one line."""

from __future__ import annotations

import json

import pytest

from dualnet import cli
from dualnet.distributed import launching
from dualnet.parity.ranks import command

QUICK = ("--quick", "--networks", "lenet5")


def run(capsys, *arguments):
    code = cli.main(["parity", *map(str, arguments)])
    out = capsys.readouterr()
    return code, out.out, out.err


@pytest.fixture
def few_seconds(monkeypatch):
    """Ranks that hang fail the test, and not the suite."""
    monkeypatch.setattr(command, "LONGEST", 150.0)
    monkeypatch.setattr(command, "FEW", 2)


@pytest.mark.parametrize("how", ["mpiexec", "processes"])
def test_ranks_that_are_processes(capsys, few_seconds, monkeypatch, tmp_path, how):
    if how == "processes":
        monkeypatch.setattr(launching, "mpiexec", lambda: None)
    elif launching.mpiexec() is None:
        pytest.skip("mpi4py and mpiexec are not installed")
    code, out, err = run(capsys, "--ranks", 2, *QUICK, "--out", tmp_path / "ranks.json")
    assert code == 3, out + err
    data = json.loads((tmp_path / "ranks.json").read_text())
    assert data["verdict"] == "PARTIAL" and data["communicator"] == {"mpiexec": "mpi", "processes": "tcp"}[how]
    assert all(row["ok"] for row in data["rows"]) and len(data["rows"]) == 7
    assert [control["found"] for control in data["controls"]] == [True] * 3
    assert not any("FAIL" in line for line in out.splitlines()) and "2 steps instead of 50" in out


def test_ranks_that_end_with_an_error_are_a_failure(capsys, few_seconds, monkeypatch):
    said = launching.Launched("processes", 1, "Traceback\nValueError: no\n")
    monkeypatch.setattr(command, "launch", lambda *args, **options: said)
    code, out, _ = run(capsys, "--ranks", 2, *QUICK)
    assert code == 1 and "FAIL: ValueError: no" in out and out.endswith("verdict: FAIL\n")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--ranks", 1), "--ranks 1: expected at least 2"),
        (
            ("--ranks", 2, "--networks", "vgg6"),
            "unknown network 'vgg6'; with --ranks they are lenet5, resnet20, dropped",
        ),
        (("--ranks", 2, "--backend", "strict"), "--backend cannot be used with --ranks"),
        (("--ranks", 2, "--op", "conv2d"), "--op cannot be used with --ranks"),
        (("--ranks", 2, "--out", "nowhere/x.json"), "no such folder; create it first"),
    ],
)
def test_mistakes(capsys, arguments, words):
    code, out, err = run(capsys, *arguments)
    assert code == 2 and not out and words in err
