"""The tables of planted mistakes are up to date, and the command that plants them reports what it sees."""

from __future__ import annotations

import re
from pathlib import Path

import mutants
import pytest
from mutants import Mutant

PACKAGE = 'def double(x):\n    """Twice x."""\n    return 2 * x\n\n\ndef triple(x):\n    return 3 * x\n'
TESTS = """
import small, pytest

def test_double():
    assert small.double(4) == 8

def test_double_of_zero():
    assert small.double(0) == 0

@pytest.mark.skipif(True, reason="no device")
def test_on_a_device():
    assert small.double(1) == 2

@pytest.mark.slow
def test_that_takes_minutes():
    assert small.double(1) == 2
"""
OPTIONS = "[pytest]\naddopts = -m 'not slow'\nmarkers = slow: takes minutes\n"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A package of one module, with its tests."""
    (tmp_path / "small.py").write_text(PACKAGE, encoding="utf-8")
    (tmp_path / "pytest.ini").write_text(OPTIONS, encoding="utf-8")
    (tmp_path / "test_small.py").write_text(TESTS, encoding="utf-8")
    return tmp_path


def a_mutant(name: str, new: str, test: str = "test_double", old: str = "2 * x", **more) -> Mutant:
    return Mutant("small", name, "small.py", "a mistake", old, new, (f"test_small.py::{test}",), **more)


def test_every_row_fits_the_code_of_today():
    """Each text stands in its file once, what it becomes is Python, and the tests that are named exist."""
    assert mutants.faults(mutants.planted()) == []


def test_there_are_many_in_every_room():
    rows = mutants.planted()
    rooms = {row.room for row in rows}
    assert len(rows) >= 300 and len(rooms) >= 12
    assert sum(row.room == "backward passes" for row in rows) >= 30


def test_a_row_that_does_not_fit_is_told(checkout):
    for row, fault in [
        (a_mutant("gone", "x", old="5 * x"), "the text is gone from small.py"),
        (a_mutant("several", "y", old="x"), "the text stands 5 times in small.py"),
        (a_mutant("same", "2 * x"), "nothing changes"),
        (a_mutant("no-python", "2 *"), r"is not Python \(invalid syntax\)"),
        (a_mutant("no-test", "x", test="test_tripel"), "there is no test test_small.py::test_tripel"),
        (Mutant("small", "no-file", "large.py", "", "2", "3", ("test_small.py::test_double",)), "no file large.py"),
        (Mutant("small", "no-killer", "small.py", "", "2 *", "3 *", ()), "no test is named"),
    ]:
        (found,) = mutants.faults([row], checkout)
        assert re.search(f"mutant {row.name}: .*{fault}.*mend its row", found), found
    twice = a_mutant("one", "x")
    assert mutants.faults([twice, twice], checkout) == ["mutant one: the name stands twice"]
    assert mutants.faults([twice], checkout) == []


def test_what_becomes_of_a_mistake(checkout):
    rows = [
        a_mutant("noticed", "3 * x"),
        a_mutant("lives", "3 * x", test="test_double_of_zero"),
        a_mutant("skipped", "3 * x", test="test_on_a_device"),
        a_mutant("never-run", "3 * x", test="test_that_takes_minutes"),
        a_mutant("not-imported", "2 * x\n\n\nimport nowhere"),
        a_mutant("endless", "2 * x if [None for _ in iter(int, 1)] else 0"),
        a_mutant("said-to-be-endless", "2 * x if [None for _ in iter(int, 1)] else 0", hangs=True),
    ]
    said: list[str] = []
    before = (checkout / "small.py").read_bytes()
    found = mutants.fates(rows[:5], root=checkout, tell=said.append)
    found |= mutants.fates(rows[5:], root=checkout, limit=1.0, tell=said.append)
    assert found["noticed"] == mutants.KILLED and found["lives"] == mutants.LIVES
    assert found["skipped"] == mutants.UNTESTED
    assert found["never-run"] == "its tests are not among those of every run"
    assert found["not-imported"].startswith("the tests did not run (exit code ")
    assert found["endless"] == "did not end within 1 s" and found["said-to-be-endless"] == mutants.KILLED
    assert [line.split()[1] for line in said if line.startswith(mutants.KILLED)] == ["noticed", "said-to-be-endless"]
    assert (checkout / "small.py").read_bytes() == before


def test_the_end_of_the_report(checkout, capsys):
    rows = [a_mutant("one", "3 * x"), a_mutant("two", "4 * x"), a_mutant("three", "5 * x")]
    assert mutants._conclude(rows, {"one": "killed", "two": "killed", "three": "killed"}) == 0
    assert capsys.readouterr().out.endswith("3 of 3 killed\n")
    assert mutants._conclude(rows, {"one": "killed", "two": "LIVES", "three": "not tested here"}) == 1
    out = capsys.readouterr().out
    assert "two: LIVES (small.py; test_small.py::test_double)" in out and out.endswith("1 of 2 killed\n")
    assert mutants._conclude(rows[:1], {"one": "not tested here"}) == 1
    table = mutants.markdown(rows, {"one": "killed", "two": "LIVES", "three": "killed"})
    assert "| small | 3 | 2 |" in table and "a mistake **LIVES** | `small.py` | `test_small.py::test_double`" in table


def test_nothing_is_planted_while_a_test_fails(checkout):
    (checkout / "small.py").write_text(PACKAGE.replace("2 * x", "5 * x"), encoding="utf-8")
    with pytest.raises(SystemExit, match="must pass before anything is planted"):
        mutants.fates([a_mutant("late", "3 * x", old="5 * x")], root=checkout)


def test_the_list(capsys):
    assert mutants.main(["--list", "--only", "relu-zero-passes"]) == 0
    out = capsys.readouterr().out
    assert "relu-zero-passes" in out and "dualnet/ops/activation.py" in out and out.endswith("1 mistakes\n")


@pytest.mark.slow
def test_a_sample_is_killed():
    """Every tenth; `python tests/mutants.py` plants all of them."""
    rows = mutants.planted()[::10]
    found = mutants.fates(rows)
    assert {name: fate for name, fate in found.items() if fate not in (mutants.KILLED, mutants.UNTESTED)} == {}
    assert sum(fate == mutants.KILLED for fate in found.values()) > len(rows) // 2
