"""An exercise as a notebook for a course: the task, a cell for the repair, and a cell that grades it.

Each grader has its own marks: nbgrader reads the metadata of cells, Otter raw cells around a question. The
notebook is the teacher's: it holds the repair, which ``nbgrader generate_assignment`` and ``otter assign`` take out.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from .exercise import ASK, Exercise, paragraph

__all__ = ["GRADERS", "for_nbgrader", "for_otter"]

Cell = dict[str, Any]


def for_nbgrader(exercise: Exercise) -> str:
    """The text of a notebook for ``nbgrader generate_assignment``.

    >>> import dualnet as dn
    >>> cells = json.loads(for_nbgrader(dn.zoo.show("averaged-bias")))["cells"]
    >>> [cell["id"] for cell in cells if cell["metadata"]["nbgrader"]["solution"]]
    ['averaged-bias-repair']
    """
    name = exercise.name

    def marked(kind: str, words: str, source: str, *, solution: bool = False, **points: int) -> Cell:
        cell = _cell(kind, f"{name}-{words}", source)
        cell["metadata"]["nbgrader"] = {
            "schema_version": 3,
            "grade_id": cell["id"],
            "locked": not solution,
            "solution": solution,
            "grade": bool(points),
            "task": False,
            **points,
        }
        return cell

    return _notebook(
        marked("markdown", "task", f"{_task(exercise)}\n\nCopy the function into the empty cell and mend it there."),
        marked("code", "code", f"{exercise.preamble}\n\n\n{exercise.code}"),
        marked("code", "repair", f"### BEGIN SOLUTION\n{exercise.repaired}### END SOLUTION", solution=True),
        marked("code", "grade", _graded(exercise), points=1),
    )


def for_otter(exercise: Exercise) -> str:
    """The text of a notebook for ``otter assign``.

    >>> import dualnet as dn
    >>> cells = json.loads(for_otter(dn.zoo.show("averaged-bias")))["cells"]
    >>> [cell["source"].splitlines()[0] for cell in cells if cell["cell_type"] == "raw"][:2]
    ['# ASSIGNMENT CONFIG', '# BEGIN QUESTION']
    """
    name = exercise.name

    def mark(words: str, more: str = "") -> Cell:
        return _cell("raw", f"{name}-{words.lower().replace(' ', '-')}", f"# {words}{more}")

    repair = f"# BEGIN SOLUTION NO PROMPT\n{exercise.repaired}# END SOLUTION"
    prompt = f"''' # BEGIN PROMPT\n{exercise.code}''' # END PROMPT"  # the learner's cell begins with the wrong code
    return _notebook(
        mark("ASSIGNMENT CONFIG", f"\nname: {name}\ninit_cell: true\nexport_cell: true\ngenerate: true"),
        _cell("code", f"{name}-imports", exercise.preamble),
        mark("BEGIN QUESTION", f"\nname: {exercise.op.__name__}\npoints: 1"),
        _cell("markdown", f"{name}-task", f"{_task(exercise)}\n\nMend the function in its cell."),
        mark("BEGIN SOLUTION"),
        _cell("code", f"{name}-repair", f"{repair}\n{prompt}"),
        mark("END SOLUTION"),
        mark("BEGIN TESTS"),
        _cell("code", f"{name}-grade", _graded(exercise)),
        mark("END TESTS"),
        mark("END QUESTION"),
    )


GRADERS: dict[str, Callable[[Exercise], str]] = {"nbgrader": for_nbgrader, "otter": for_otter}


def _task(exercise: Exercise) -> str:
    """The task in Markdown."""
    title = f"# {exercise.name} ({', '.join(exercise.anchors)})"
    return f"{title}\n\n**{exercise.symptom}**\n\n{paragraph(exercise.story)}\n\n{ASK}"


def _graded(exercise: Exercise) -> str:
    """Code that raises an error if the repair is wrong. The error shows what the witnesses say."""
    op = exercise.op.__name__
    return f'import dualnet as dn\n\nreport = dn.zoo.grade("{exercise.name}", {op})\nassert report, f"\\n{{report}}"'


def _cell(kind: str, name: str, source: str) -> Cell:
    cell = {"cell_type": kind, "id": name[:64], "metadata": {}, "source": source}
    return cell if kind != "code" else {**cell, "execution_count": None, "outputs": []}


def _notebook(*cells: Cell) -> str:
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    whole = {"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(whole, indent=1, ensure_ascii=False) + "\n"
