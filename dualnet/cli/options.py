"""Options that several commands share, and how to read their values."""

from __future__ import annotations

import argparse
import json
from typing import Any

import numpy

from ..shim.dtypes import FLOATING
from ..training.ending import Terminated

EXIT_WRONG, EXIT_USAGE, EXIT_INTERRUPTED, EXIT_CLOSED = 1, 2, 130, 141


def told(error: KeyboardInterrupt) -> str:
    """Why a command ended, in words."""
    return str(error) if isinstance(error, Terminated) else "interrupted"


def exit_code(error: KeyboardInterrupt) -> int:
    return 128 + error.number if isinstance(error, Terminated) else EXIT_INTERRUPTED


def sentence(text: str) -> str:
    """A command's help as its description.

    >>> sentence("save MNIST as files")
    'Save MNIST as files.'
    """
    return f"{text[:1].upper()}{text[1:]}."


def command(commands: Any, name: str, run: Any, text: str) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=text, description=sentence(text))
    parser.add_argument(
        "--backend", metavar="B", help="numpy, cupy, cupy:N, auto or strict (DUALNET_BACKEND, or numpy)"
    )
    parser.set_defaults(run=run)
    return parser


def with_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def in_json(value: Any) -> str:
    """Numbers, words, lists and tables in one line of JSON; NaN and infinities as null, as JSON has none.

    >>> in_json({"loss": float("nan"), "shape": (2, 3), "rows": [numpy.float32(0.5)]})
    '{"loss": null, "shape": [2, 3], "rows": [0.5]}'
    """
    return json.dumps(_plain(value), ensure_ascii=False, allow_nan=False)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    if isinstance(value, (bool, int, str)) or value is None:
        return value
    if isinstance(value, (float, numpy.floating)):
        return float(value) if numpy.isfinite(value) else None
    return int(value) if isinstance(value, numpy.integer) else str(value)


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


def loss_scale(text: str) -> str | float:
    if text in ("auto", "none"):
        return text
    try:
        return rate(text)
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(f"{text} is not auto, none or a positive number") from None


def switch(text: str) -> bool:
    if text not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")
    return text == "true"


def floating(text: str) -> str:
    if text not in FLOATING:
        raise argparse.ArgumentTypeError(f"{text!r} is not one of {', '.join(FLOATING)}")
    return text


def shape(text: str) -> tuple[int, ...]:
    return tuple(whole(part) for part in text.replace("x", ",").split(","))
