"""The body of ``dualnet zoo``: what it prints and writes."""

from __future__ import annotations

from pathlib import Path

from ..writing import replace_file
from . import ORDER, exercises, grade, show, solution
from .exercise import Exercise, paragraph, read


def command(
    name: str | None = None,
    *,
    hint: bool = False,
    solved: bool = False,
    out: str | None = None,
    graded: str | None = None,
) -> tuple[str, bool]:
    """The text to print, and whether all is well. ``out`` is a file to write, ``graded`` a file to judge.

    >>> command("averaged-bias", hint=True)[0][:32]
    'The same bias is added to each o'
    """
    if name is None:
        if hint or solved or out or graded:
            raise ValueError("say which exercise; `dualnet zoo` lists them")
        return f"{exercises()}\n\nBegin with:  dualnet zoo {ORDER[0]}", True
    exercise = show(name)
    if hint:
        return paragraph(exercise.hint), True
    if solved:
        return str(solution(name)), True
    if out:
        return _written(exercise, Path(out)), True
    if graded:
        return _graded(exercise, graded)
    return f"{exercise}\nMend it:  dualnet zoo {name} --out {name}.py", True


def _written(exercise: Exercise, path: Path) -> str:
    if path.exists():
        raise ValueError(f"{path} already exists, and may hold a repair; choose another name")
    replace_file(path, exercise.file(str(path)).encode())
    return f"wrote {path}: mend it, then  dualnet zoo {exercise.name} --grade {path}"


def _graded(exercise: Exercise, path: str) -> tuple[str, bool]:
    report = grade(exercise.name, read(path, exercise.op.__name__))
    if not report.passed:
        return f"{report}\n\nA hint:  dualnet zoo {exercise.name} --hint", False
    following = ORDER[ORDER.index(exercise.name) + 1 :]
    onwards = f"Next:  dualnet zoo {following[0]}" if following else "That was the last one."
    return f"{report}\n\n{paragraph(exercise.lesson)}\n\n{onwards}", True
