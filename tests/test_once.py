"""A second run on another backend leaves out what cannot differ, and nothing else."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import once
import pytest

import dualnet as dn


@pytest.mark.parametrize("folder", ["ops", "layers", "optimizers", "training", "files", "bridges", "seeing", "zoo"])
def test_what_computes_on_the_backend_in_force_is_run_again(folder):
    inside = [path for path in (once.HERE / folder).rglob("test_*.py") if once.is_listed(path)]
    assert (once.HERE / folder).is_dir() and inside == []


@pytest.mark.parametrize("entry", once.ONCE)
def test_what_is_listed_is_there(entry):
    assert (once.HERE / entry).exists() and once.is_listed(once.HERE / entry)


def test_tests_of_each_backend_in_turn_are_marked(backend, request):
    assert request.node.get_closest_marker("once") and dn.get_backend().partition(":")[0] == backend.partition(":")[0]


def test_others_are_not_marked(request):
    assert not request.node.get_closest_marker("once")
    assert dn.get_backend()  # and may ask


@pytest.mark.once
def test_what_is_marked_may_not_ask_and_nor_may_its_processes():
    with pytest.raises(AssertionError, match="marked `once` asked which backend"):
        dn.asarray([1.0])
    [place] = once.taken()
    assert "test_once.py, line " in place and "dn.asarray([1.0])" in place
    assert "DUALNET_BACKEND" not in os.environ


ASKS = """
import threading
import pytest
import dualnet as dn

def ask():
    try:
        dn.get_backend()
    except BaseException:
        pass

@pytest.fixture
def late():
    yield
    ask()

@pytest.mark.once
def test_that_swallows():
    ask()

@pytest.mark.once
def test_in_a_thread():
    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()

@pytest.mark.once
def test_that_asks_late(late):
    pass

@pytest.mark.once
def test_that_does_not_ask():
    pass

def test_that_may_ask():
    ask()
"""


def test_an_error_that_is_swallowed_fails_the_test_all_the_same(tmp_path):
    (tmp_path / "test_it.py").write_text(ASKS, encoding="utf-8")
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = once\n", encoding="utf-8")
    paths = [once.HERE, once.HERE.parent, os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "once", "-p", "no:cacheprovider", "-q", "-rE", "test_it.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths))},
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
    failed = re.findall(r"^ERROR test_it.py::(\w+)", done.stdout, re.MULTILINE)
    assert failed == ["test_that_swallows", "test_in_a_thread", "test_that_asks_late"], done.stdout + done.stderr
    assert "5 passed, 3 errors" in done.stdout and "test_it.py, line 8: dn.get_backend()" in done.stdout
