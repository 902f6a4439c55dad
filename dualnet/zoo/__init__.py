"""The bug zoo: wrong backward passes as exercises.

Each exercise is a small op with its pullback on one page, and exactly one mistake in the pullback. Its forward pass,
its shapes and its dtypes are right, and a network that uses it trains, only worse. The learner reads the story and the
code, finds the mistake and has the repair graded.

    print(dn.zoo.exercises())                    all of them, from easy to hard
    print(dn.zoo.show("averaged-bias"))          the task: a story, the code, and a question
    print(dn.zoo.report("averaged-bias"))        a first help: which gradients are wrong, and who says so
    print(dn.zoo.grade("averaged-bias", mine))   a verdict on my repair, a function of the same arguments
    print(dn.zoo.solution("averaged-bias"))      what was wrong, and which witnesses could not see it

The same from a terminal: ``dualnet zoo``. docs/exercises.md shows how to work through one.
"""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches
from typing import Any

from . import convolution, dense, pooling, programs
from .exercise import Exercise, Solution
from .witnesses import Report, examine

__all__ = ["Exercise", "Report", "Solution", "exercises", "grade", "report", "show", "solution"]

ORDER = """
    forgotten-mean averaged-bias square-weights delta-mask forgotten-shortcut uphill-decay
    overwritten-windows turned-gradient unturned-kernel uncropped-padding close-taps crowded-deltas crossed-groups
    counted-padding slope-at-zero tied-winners zero-window lost-winners
    frozen-statistics last-use second-draw borrowed-delta unwritten-pixels stale-columns
""".split()
"""From easy to hard."""

_ALL = {e.name: e for module in (dense, convolution, pooling, programs) for e in module.EXERCISES}


class Exercises(tuple[Exercise, ...]):
    """All exercises; prints as a list."""

    def __str__(self) -> str:
        width = max(len(exercise.name) for exercise in self)
        return "\n".join(f"{i:2}  {e.name:<{width}}  {e.symptom}" for i, e in enumerate(self, start=1))

    def _repr_html_(self) -> str:
        from ..markup import table, wrapped

        rows = [(str(i), e.name, ", ".join(e.anchors), wrapped(e.symptom)) for i, e in enumerate(self, start=1)]
        return table("", ("", "exercise", "equations", "symptom"), rows, left=4, raw=(3,))


def exercises() -> Exercises:
    """All exercises, from easy to hard.

    >>> import dualnet as dn
    >>> dn.zoo.exercises()[1]
    <exercise averaged-bias: The network learns, but its biases hardly move from zero.>
    """
    return Exercises(_ALL[name] for name in ORDER)


def show(name: str) -> Exercise:
    """An exercise. Print it to see the task: the story, the wrong code, and what to look for.

    A notebook shows the same in colour, with a hint that unfolds. A name that does not exist raises a ValueError.

    >>> import dualnet as dn
    >>> exercise = dn.zoo.show("averaged-bias")
    >>> exercise.anchors, exercise.hint[:42]
    (('E16', 'E12'), 'The same bias is added to each of the N ro')
    """
    if name not in _ALL:
        near = get_close_matches(str(name), ORDER, n=1)
        meant = f"Did you mean {near[0]!r}?" if near else "`dualnet zoo` lists them."
        raise ValueError(f"there is no exercise {name!r} in the zoo. {meant}")
    return _ALL[name]


def report(name: str) -> Report:
    """What the witnesses say about the wrong code of an exercise: which gradients are wrong, and by how much.

    A great help, so try without it first.

    >>> import dualnet as dn
    >>> dn.zoo.report("averaged-bias").caught_by
    ('loops', 'slopes', 'pytorch')
    """
    return examine(show(name), show(name).op)


def grade(name: str, repaired: Callable[..., Any]) -> Report:
    """Judge a repair: ``repaired`` takes the same arrays and options as the exercise's op, and returns (y, pullback).

    Its results are compared, at several shapes and seeds, with plain loops, with two dot products or central
    differences, across all backends, and with stored results of PyTorch. It must also leave its inputs alone, return
    float32 for float32, and give the same gradients if another forward pass comes before its pullback. The report is
    true if nothing was found; ``print`` shows the numbers. An exception in ``repaired`` counts as a finding.

    >>> import dualnet as dn
    >>> dn.zoo.grade("averaged-bias", dn.ops.dense).passed
    True
    """
    exercise = show(name)
    if not callable(repaired):
        raise TypeError(
            f"zoo: grade expects the repaired function {exercise.op.__name__}, got {type(repaired).__name__}"
        )
    return examine(exercise, repaired)


def solution(name: str) -> Solution:
    """The repaired op, to call, to grade and to print: the lines that changed, why, and which witnesses were blind.

    >>> import dualnet as dn
    >>> print(dn.zoo.solution("averaged-bias").exercise.diff)
             dw = x.T @ dy  # E16
    -        db = xp.mean(dy, axis=0)  # E16
    +        db = xp.sum(dy, axis=0)  # E16
             return dx, dw, db
    """
    return Solution(show(name))
