"""The body of ``dualnet zoo``: what it prints and writes."""

from __future__ import annotations

from pathlib import Path

from ..writing import replace_file
from . import ORDER, exercises, grade, report, show, solution
from .exercise import Exercise, paragraph, read
from .notebook import GRADERS

HAND_OUT = {"nbgrader": "`nbgrader generate_assignment`", "otter": "`otter assign`"}


def command(name: str | None = None, action: str | None = None, file: str | None = None) -> tuple[str, bool]:
    """The text to print, and whether all is well. ``action`` is an option of the command, ``file`` its argument.

    >>> command("averaged-bias", "hint")[0][:32]
    'The same bias is added to each o'
    """
    if name is None:
        if action:
            raise ValueError("name the exercise; `dualnet zoo` lists them")
        return f"{exercises()}\n\nBegin with:  dualnet zoo {ORDER[0]}", True
    exercise = show(name)
    if file is not None:
        return _graded(exercise, file) if action == "grade" else (_written(exercise, Path(file), action), True)
    if action == "hint":
        return paragraph(exercise.hint), True
    if action == "report":
        return str(report(name)), True
    return (str(solution(name)) if action == "solution" else _task(exercise)), True


def _task(exercise: Exercise) -> str:
    name = exercise.name
    rows = [
        ("Mend it:", f"--out {name}.py"),
        ("A hint:", "--hint"),
        ("What the witnesses say:", "--report"),
    ]
    return f"{exercise}\n\n" + "\n".join(f"{what:<24} dualnet zoo {name} {option}" for what, option in rows)


def _written(exercise: Exercise, path: Path, grader: str | None) -> str:
    if path.exists():
        raise ValueError(f"{path} already exists, and may hold a repair; choose another name")
    if grader in GRADERS:
        if path.suffix != ".ipynb":
            raise ValueError(
                f"--{grader} writes a notebook, and its grader finds only those: {path} must end with .ipynb"
            )
        replace_file(path, GRADERS[grader](exercise).encode())
        return f"wrote {path}, your own copy with the repair in it; {HAND_OUT[grader]} makes the one to hand out"
    replace_file(path, exercise.file(str(path)).encode())
    return f"wrote {path}: mend it, then  dualnet zoo {exercise.name} --grade {path}"


def _graded(exercise: Exercise, path: str) -> tuple[str, bool]:
    found = grade(exercise.name, read(path, exercise.op.__name__))
    if not found.passed:
        return f"{found}\n\nA hint:  dualnet zoo {exercise.name} --hint", False
    following = ORDER[ORDER.index(exercise.name) + 1 :]
    onwards = f"Next:  dualnet zoo {following[0]}" if following else "That was the last one."
    return f"{found}\n\n{paragraph(exercise.lesson)}\n\n{onwards}", True
