"""The zoo's exercises by themselves: the task as it stands in the library, help on demand, and the library's verdict.

What the page gets before the repair tells nothing of the solution. The lesson comes with the verdict that it is right.
"""

from __future__ import annotations

import contextlib
import re
import tokenize
from typing import Any

import dualnet as dn
from dualnet.zoo.exercise import ASK, load
from dualnet.zoo.highlighting import pieces

from .printed import Printed

LONGEST = 4000
"""The most characters that are shown of what a repair prints: the witnesses call it a hundred times."""
LINE = re.compile(r"(?:,|\bin)\s+line\s+(\d+)")


def course() -> list[dict[str, Any]]:
    """All exercises, from easy to hard."""
    return [{"name": e.name, "symptom": e.symptom, "anchors": e.anchors} for e in dn.zoo.exercises()]


def task(name: str) -> dict[str, Any]:
    """What a learner gets to see first: the story and the wrong code."""
    try:
        exercise = dn.zoo.show(name)
    except ValueError as error:  # here is no terminal
        raise ValueError(str(error).replace("`dualnet zoo` lists them", "The menu “Exercise” lists them")) from None
    told = {"name": name, "symptom": exercise.symptom, "story": " ".join(exercise.story.split()), "ask": ASK}
    return told | {
        "anchors": exercise.anchors,
        "op": exercise.op.__name__,
        "code": f"{exercise.preamble}\n\n\n{exercise.code}",
    }


def verdict(name: str, code: str) -> dict[str, Any]:
    """What the witnesses say about a repair, and the first line of it that raises an error, if one does."""
    exercise, printed, passed = dn.zoo.show(name), Printed(LONGEST), False
    backend = dn.get_backend()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        try:
            report = dn.zoo.grade(name, load(code, f"{name}.py", exercise.op.__name__))
            passed, text = report.passed, str(report)
        except ValueError as error:  # it cannot be run at all
            text = str(error)
        except KeyboardInterrupt:  # raised by the code itself: a browser has no Ctrl-C
            text = f"{name}.py raises KeyboardInterrupt"
        finally:  # a repair may choose another backend, and the training goes on with the one that it had
            if dn.get_backend() != backend:
                dn.set_backend(backend)
    found = None if passed else LINE.search(text)
    told = {"passed": passed, "text": text, "line": int(found[1]) if found else None, "printed": printed.shown()}
    return told | (_learned(exercise) if passed else {})


def _learned(exercise: Any) -> dict[str, Any]:
    names = [each.name for each in dn.zoo.exercises()]
    following = names[names.index(exercise.name) + 1 :]
    lesson = " ".join(exercise.lesson.split())
    return {"lesson": lesson, "blind": exercise.why_blind, "next": following[0] if following else ""}


def coloured(code: str) -> list[list[tuple[str, str]]]:
    """Code in lines, and each line in pieces with their kinds. What does not read as Python yet has no colour."""
    lines: list[list[tuple[str, str]]] = [[]]
    for kind, piece in _as_far_as_it_reads(code):
        first, *others = piece.split("\n")
        lines[-1].append((kind, first))
        lines.extend([(kind, other)] for other in others)
    return [[(kind, text) for kind, text in line if text] for line in lines]


def _as_far_as_it_reads(code: str) -> Any:
    done = 0
    try:
        for kind, piece in pieces(code):
            done += len(piece)
            yield kind, piece
    except (tokenize.TokenError, SyntaxError):
        yield "", code[done:]
