"""Exercises as notebooks for nbgrader and Otter: what they hold, and how the graders judge right and wrong repairs."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import dualnet as dn
from dualnet import cli
from dualnet.zoo.notebook import GRADERS

NAMES = [exercise.name for exercise in dn.zoo.exercises()]
every_notebook = pytest.mark.parametrize(("name", "grader"), [(name, grader) for name in NAMES for grader in GRADERS])


def written(tmp_path, name, grader):
    path = tmp_path / f"{name}.ipynb"
    assert cli.main(["zoo", name, f"--{grader}", str(path)]) == 0
    return path, json.loads(path.read_text("utf-8"))


def cell(notebook, words):
    (found,) = (c for c in notebook["cells"] if c["id"].endswith(f"-{words}"))
    return found


# -- what is in them ---------------------------------------------------------------------------------------------------


@every_notebook
def test_the_teachers_notebook_runs_and_a_wrong_repair_does_not(tmp_path, name, grader):
    _, notebook = written(tmp_path, name, grader)
    exercise = dn.zoo.show(name)
    for repair in (None, exercise.code):
        where: dict = {}
        *lines, last = [c["source"] for c in notebook["cells"] if c["cell_type"] == "code"]
        lines[-1] = repair or lines[-1]
        for source in lines:
            exec(compile(source, "cell", "exec"), where)  # noqa: S102
        if repair and exercise.caught_by == ("parity",):
            continue  # what was in the memory before may be right
        if repair is None:
            exec(compile(last, "cell", "exec"), where)  # noqa: S102
            continue
        with pytest.raises(AssertionError, match=f"{name}: WRONG"):
            exec(compile(last, "cell", "exec"), where)  # noqa: S102


@every_notebook
def test_a_notebook_is_valid_and_shows_the_task(tmp_path, name, grader):
    path, notebook = written(tmp_path, name, grader)
    exercise = dn.zoo.show(name)
    ids = [c["id"] for c in notebook["cells"]]
    assert len(set(ids)) == len(ids) and all(re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", i) for i in ids)
    task = " ".join(cell(notebook, "task")["source"].split())
    for part in (name, exercise.symptom, " ".join(exercise.story.split()), *exercise.anchors):
        assert part in task
    nbformat = pytest.importorskip("nbformat")
    nbformat.validate(nbformat.read(path, as_version=4))


@pytest.mark.parametrize("grader", ["nbgrader", "otter"])
def test_a_notebook_that_its_grader_would_not_find(tmp_path, capsys, grader):
    assert cli.main(["zoo", "averaged-bias", f"--{grader}", str(tmp_path / "averaged-bias.txt")]) == 2
    assert re.search(rf"--{grader} writes a notebook.*must end with .ipynb", capsys.readouterr().err)
    assert not list(tmp_path.iterdir())


def test_a_notebook_is_not_graded_as_a_file(tmp_path, capsys):
    """It was run as Python: "name 'null' is not defined"."""
    path, _ = written(tmp_path, "averaged-bias", "nbgrader")
    assert cli.main(["zoo", "averaged-bias", "--grade", str(path)]) == 2
    assert "is a notebook: copy your 'dense' from it into a Python file" in capsys.readouterr().err


def test_what_nbgrader_reads(tmp_path):
    _, notebook = written(tmp_path, "averaged-bias", "nbgrader")
    marks = {c["id"]: c["metadata"]["nbgrader"] for c in notebook["cells"]}
    assert all(mark["schema_version"] == 3 and mark["grade_id"] == i for i, mark in marks.items())
    assert [i for i, mark in marks.items() if mark["solution"] and not mark["locked"]] == ["averaged-bias-repair"]
    assert [(i, mark["points"]) for i, mark in marks.items() if mark["grade"]] == [("averaged-bias-grade", 1)]
    repair = cell(notebook, "repair")["source"]
    assert repair.startswith("### BEGIN SOLUTION\n") and repair.endswith("\n### END SOLUTION") and "xp.sum" in repair
    given = cell(notebook, "code")["source"]
    assert "xp.mean(dy" in given and "xp.sum(dy" not in given, "students would see the repair"


def test_what_otter_reads(tmp_path):
    _, notebook = written(tmp_path, "averaged-bias", "otter")
    raw = [c["source"].splitlines()[0] for c in notebook["cells"] if c["cell_type"] == "raw"]
    assert raw == [
        "# ASSIGNMENT CONFIG",
        *(f"# {edge} {what}" for what, edge in [("QUESTION", "BEGIN"), ("SOLUTION", "BEGIN"), ("SOLUTION", "END")]),
        *("# BEGIN TESTS", "# END TESTS", "# END QUESTION"),
    ]
    repair, prompt = cell(notebook, "repair")["source"].split("# END SOLUTION\n")
    assert "xp.sum" in repair and "xp.mean" not in repair and "xp.mean" in prompt and "xp.sum" not in prompt


def test_a_file_that_is_there_is_left_alone(tmp_path, capsys):
    path = tmp_path / "mine.ipynb"
    path.write_text("my work")
    assert cli.main(["zoo", "averaged-bias", "--otter", str(path)]) == 2
    assert "already exists" in capsys.readouterr().err and path.read_text() == "my work"


# -- what the graders make of it ---------------------------------------------------------------------------------------


def tool(name, *arguments, where):
    """Run a command of nbgrader or Otter; their kernels must find this dualnet."""
    env = {**os.environ, "PYTHONPATH": str(Path(dn.__file__).parents[1])}
    path = str(Path(sys.executable).parent)
    env["PATH"] = os.pathsep.join([path, env.get("PATH", "")])
    done = subprocess.run(
        [shutil.which(name, path=path), *map(str, arguments)], cwd=where, env=env, capture_output=True, timeout=300
    )
    assert done.returncode == 0, done.stderr.decode()


def handed_in(notebook, code, path):
    """A learner's notebook with this code in the cell for the repair."""
    (mine,) = (c for c in notebook["cells"] if c["id"].endswith("-repair"))
    mine["source"] = code
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(notebook))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["averaged-bias", "stale-columns"])
def test_nbgrader_gives_the_point_to_who_mended_it(tmp_path, name):
    pytest.importorskip("nbgrader")
    (tmp_path / "source" / "one").mkdir(parents=True)
    (tmp_path / "nbgrader_config.py").write_text("get_config().CourseDirectory.course_id = 'course'\n")
    written(tmp_path / "source" / "one", name, "nbgrader")
    tool("nbgrader", "generate_assignment", "one", where=tmp_path)
    released = (tmp_path / "release" / "one" / f"{name}.ipynb").read_text("utf-8")
    exercise = dn.zoo.show(name)
    untouched = cell(json.loads(released), "repair")["source"]
    assert "NotImplementedError" in "".join(untouched) and exercise.fix[0][1] not in released
    for who, code in {"right": exercise.repaired, "wrong": exercise.code, "nothing": untouched}.items():
        handed_in(json.loads(released), code, tmp_path / "submitted" / who / "one" / f"{name}.ipynb")
    tool("nbgrader", "autograde", "one", where=tmp_path)
    tool("nbgrader", "export", where=tmp_path)
    with (tmp_path / "grades.csv").open() as file:
        points = {row["student_id"]: (float(row["score"]), float(row["max_score"])) for row in csv.DictReader(file)}
    assert points == {"right": (1.0, 1.0), "wrong": (0.0, 1.0), "nothing": (0.0, 1.0)}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["averaged-bias", "stale-columns"])
def test_otter_gives_the_point_to_who_mended_it(tmp_path, name):
    pytest.importorskip("otter")
    path, _ = written(tmp_path, name, "otter")
    tool("otter", "assign", path, tmp_path / "made", where=tmp_path)
    (released,) = (tmp_path / "made" / "student").glob("*.ipynb")
    (judge,) = (tmp_path / "made" / "autograder").glob("*.zip")
    exercise, notebook = dn.zoo.show(name), json.loads(released.read_text("utf-8"))
    (mine,) = (c for c in notebook["cells"] if f"def {exercise.op.__name__}(" in "".join(c["source"]))
    assert "".join(mine["source"]).strip() == exercise.code.strip(), "the learner begins with the wrong code"
    for code, points in ((exercise.repaired, 1.0), (exercise.code, 0.0)):
        mine["source"] = code
        released.write_text(json.dumps(notebook))
        tool("otter", "run", released, "-a", judge, "-o", tmp_path, where=tmp_path)
        results = json.loads((tmp_path / "results.json").read_text())["tests"]
        assert [t["score"] for t in results if t.get("max_score")] == [points]
