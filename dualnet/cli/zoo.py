"""``dualnet zoo``: exercises, backward passes with one mistake each."""

from __future__ import annotations

import argparse
from typing import Any

from .options import EXIT_WRONG, command

FLAGS = {
    "hint": "show a hint",
    "report": "show what the witnesses say: which gradients are wrong, and by how much",
    "solution": "show what was wrong, and which checks miss it",
}
FILES = {
    "out": "write the wrong code to a new file, for you to mend",
    "grade": "run the file and judge the repair; exit code 1 if wrong",
    "nbgrader": "write a notebook for `nbgrader generate_assignment`",
    "otter": "write a notebook for `otter assign`",
}


def add(commands: Any) -> None:
    parser = command(commands, "zoo", run, "exercises: backward passes with one mistake each, for you to mend")
    parser.add_argument("exercise", nargs="?", metavar="NAME", help="the exercise to show (all are listed)")
    actions = parser.add_mutually_exclusive_group()
    for name, text in FLAGS.items():
        actions.add_argument(f"--{name}", action="store_true", help=text)
    for name, text in FILES.items():
        actions.add_argument(f"--{name}", metavar="FILE", help=text)


def run(options: argparse.Namespace) -> int:
    from ..zoo.command import command

    action = next((name for name in (*FLAGS, *FILES) if getattr(options, name)), None)
    text, well = command(options.exercise, action, getattr(options, action) if action in FILES else None)
    print(text)
    return 0 if well else EXIT_WRONG
