"""What the commands' options have in common, and how their values are read."""

from __future__ import annotations

import argparse
from typing import Any

from ..training.ending import Terminated

EXIT_WRONG, EXIT_USAGE, EXIT_INTERRUPTED, EXIT_CLOSED = 1, 2, 130, 141


def told(error: KeyboardInterrupt) -> str:
    """What ended a command, in words."""
    return str(error) if isinstance(error, Terminated) else "interrupted"


def exit_code(error: KeyboardInterrupt) -> int:
    return 128 + error.number if isinstance(error, Terminated) else EXIT_INTERRUPTED


def command(commands: Any, name: str, run: Any, text: str) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=text, description=text.capitalize() + ".")
    parser.add_argument(
        "--backend", metavar="B", help="numpy, cupy, cupy:N, auto or strict (DUALNET_BACKEND, or numpy)"
    )
    parser.set_defaults(run=run)
    return parser


def whole(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None
    if abs(number) >= 2**63:
        raise argparse.ArgumentTypeError(f"{text[:20]}... is too large")
    return number


def count(text: str) -> int:
    number = whole(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return number


def counts(text: str) -> list[int]:
    return [count(part) for part in text.split(",")]


def words(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def rate(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return number


def loss_scale(text: str) -> str | float | None:
    if text in ("auto", "none"):
        return None if text == "none" else text
    try:
        return rate(text)
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(f"{text} is not auto, none or a positive number") from None


def shape(text: str) -> tuple[int, ...]:
    return tuple(whole(part) for part in text.replace("x", ",").split(","))
