"""Printing that works everywhere: on a terminal without Greek letters, into a closed pipe, on a full disk.

Windows consoles and files often use cp1252, and ``LC_ALL=C`` is ASCII. Python would end with a ``UnicodeEncodeError``
at the first Σ, and the result would be lost.
"""

from __future__ import annotations

import codecs
import os
import sys
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["draws_over", "readable", "readable_output", "say"]

STAND_INS = {
    "Σ": "sum",
    "∂": "d",
    "√": "sqrt",
    "∞": "inf",
    "·": "*",
    "×": "x",
    "÷": "/",
    "−": "-",
    "–": "-",
    "—": "-",
    "±": "+-",
    "→": "->",
    "←": "<-",
    "↔": "<->",
    "≥": ">=",
    "≤": "<=",
    "≠": "!=",
    "≈": "~",
    "∈": "in",
    "‖": "||",
    "⌈": "ceil(",
    "⌊": "floor(",
    "⌉": ")",
    "⌋": ")",
    "°": " degrees",
    "…": "...",
    "\u2044": "/",  # the bar of ½
    "‘": "'",
    "’": "'",
    "“": '"',
    "”": '"',
    "\u0302": "^",  # the hat of x̂
    "\u0304": "_",  # the bar of a mean
}
KINDS = {"<super>": "^", "<sub>": "_", "<fraction>": ""}
"""The mark before the digits of an exponent, an index, a fraction."""


def readable(text: str, encoding: str | None) -> str:
    """The text in the characters of an encoding; missing ones are replaced, such as Σ by ``sum`` and × by ``x``.

    Characters without a replacement are written as Python escapes, so that nothing is lost.

    >>> readable("Σ 2 × x², 3 → ∞", "ascii")
    'sum 2 x x^2, 3 -> inf'
    >>> readable("Σ 2 × x², 3 → ∞", "cp1252")
    'sum 2 × x², 3 -> inf'
    """
    encoding = encoding or "utf-8"
    return text.encode(encoding, HANDLER).decode(encoding)


def _stand_in(letter: str) -> str:
    if letter in STAND_INS:
        return STAND_INS[letter]
    name = unicodedata.name(letter, "")
    if name.startswith("GREEK ") and " LETTER " in name:
        word = name.split(" LETTER ")[1].split(" WITH ")[0].lower()
        return word.capitalize() if "CAPITAL" in name else word
    kind, _, codes = unicodedata.decomposition(letter).partition(" ")
    if kind in KINDS:
        return KINDS[kind] + "".join(_stand_in(chr(int(code, 16))) for code in codes.split())
    return letter.encode("ascii", "backslashreplace").decode()


def _readably(error: UnicodeError) -> tuple[str, int]:
    """For Python's encoders: the replacement for characters that they cannot write."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    words = list(map(_stand_in, error.object[error.start : error.end]))
    for i in reversed(range(1, len(words))):
        if words[i][0] == words[i - 1][0] == "^":  # one mark for all digits of an exponent
            words[i] = words[i][1:]
    return "".join(words), error.end


HANDLER = "dualnet.readable"
codecs.register_error(HANDLER, _readably)


@contextmanager
def readable_output() -> Iterator[None]:
    """Inside, everything printed to stdout and stderr is :func:`readable` there."""
    streams = [stream for stream in (sys.stdout, sys.stderr) if hasattr(stream, "reconfigure")]
    before = [stream.errors for stream in streams]
    for stream in streams:
        stream.reconfigure(errors=HANDLER)
    try:
        yield
    finally:
        for stream, errors in zip(streams, before):
            if not stream.closed:
                stream.reconfigure(errors=errors)


def say(text: str, to: str = "stdout") -> OSError | ValueError | None:
    """Print a line for which no training should fail: if it cannot be written, return the error, do not raise it.

    >>> say("epoch 1/3")
    epoch 1/3
    """
    stream = getattr(sys, to)
    if stream is None:  # a program without a console; print() would write to the other stream
        return None
    try:
        stream.write(readable(f"{text}\n", getattr(stream, "encoding", None)))
        stream.flush()
    except (OSError, ValueError) as error:  # a full disk, a closed pipe, a closed file
        return error
    return None


def draws_over(stream: Any) -> bool:
    """Can a line on this stream be drawn over, for someone who watches? Not in a file, a pipe, or ``TERM=dumb``."""
    try:
        return bool(stream.isatty()) and os.environ.get("TERM") != "dumb"
    except (AttributeError, ValueError):  # None, or closed
        return False
