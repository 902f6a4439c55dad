"""``dualnet zoo``: exercises, backward passes with one mistake each."""

from __future__ import annotations

import argparse
from typing import Any

from .options import EXIT_WRONG, command


def add(commands: Any) -> None:
    parser = command(commands, "zoo", run, "exercises: backward passes with one mistake each, for you to mend")
    parser.add_argument("exercise", nargs="?", metavar="NAME", help="the exercise to show (all are listed)")
    actions = parser.add_mutually_exclusive_group()
    actions.add_argument("--out", metavar="FILE", help="write the wrong code to a file, to mend it there")
    actions.add_argument("--grade", metavar="FILE", help="run the file and judge the repair; exit code 1 if wrong")
    actions.add_argument("--hint", action="store_true", help="show a hint")
    actions.add_argument("--solution", action="store_true", help="show what was wrong, and which checks miss it")


def run(options: argparse.Namespace) -> int:
    from ..zoo.command import command

    text, well = command(
        options.exercise, hint=options.hint, solved=options.solution, out=options.out, graded=options.grade
    )
    print(text)
    return 0 if well else EXIT_WRONG
