"""Completion in a shell, by argcomplete if it is installed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import dualnet as dn
from dualnet import cli

ROOT = Path(dn.__file__).parents[1]


def completed(folder: Path, line: str) -> list[str]:
    """What a shell is offered behind this line."""
    out = folder / "offered"
    asked = {"_ARGCOMPLETE": "1", "_ARGCOMPLETE_IFS": "\n", "COMP_LINE": line, "COMP_POINT": str(len(line))}
    asked |= {"_ARGCOMPLETE_STDOUT_FILENAME": str(out), "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-m", "dualnet"], env={**os.environ, **asked}, cwd=folder, timeout=60, check=True)
    return out.read_text("utf-8").split()


def test_a_shell_is_offered_commands_and_options(tmp_path):
    pytest.importorskip("argcomplete")
    assert completed(tmp_path, "dualnet tr") == ["train"]
    assert completed(tmp_path, "dualnet train --checkpoint") == ["--checkpoint-every"]
    assert completed(tmp_path, "dualnet train --dtype float") == ["float16", "float32", "float64"]


def test_the_script_says_that_it_can_be_completed():
    """argcomplete's global completion looks for this mark in the first 1,024 bytes."""
    assert b"PYTHON_ARGCOMPLETE_OK" in Path(cli.__file__).read_bytes()[:1024]


def test_without_argcomplete_nothing_is_offered_and_nothing_breaks(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "argcomplete", None)
    monkeypatch.setenv("_ARGCOMPLETE", "1")
    assert cli.main(["--version"]) == 0 and capsys.readouterr().out == f"dualnet {dn.__version__}\n"
