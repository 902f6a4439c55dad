"""The text of the CUDA kernels, and the arguments of their entry points.

The kernels are in ``kernels/*.cu``. Each file includes ``common.h``, whose text replaces that line before compilation,
so the text alone identifies what was compiled. Signatures are written in the sources and nowhere else; a launch
converts its arguments by them. Nothing is read before a kernel is first needed.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy

FOLDER = Path(__file__).parent / "kernels"
INCLUDE = '#include "common.h"\n'
INTEGERS: dict[str, Callable[[Any], numpy.integer]] = {"int": numpy.int32, "unsigned int": numpy.uint32}
WIDE = "wide"
"""Besides integers the one type of number that kernels take by value: float, or double for float64 arrays."""

_COMMENT = re.compile(r"//.*")
_STRUCTURE = re.compile(r"^struct (\w+) \{", re.MULTILINE)
_BEGIN = re.compile(r"^(?:\w+_)?ENTRY\b", re.MULTILINE)
_ENTRY = re.compile(r"\w*ENTRY\s+(\w+)\(([^(){};]*)\)\s*\{")
_ARGUMENT = re.compile(r"(\w[\w ]*\*?) (\w+)")


@functools.cache
def source(file: str) -> str:
    """A kernel file as it is compiled, with ``common.h`` in it; compilers report the line numbers of both files."""
    text, common = _read(file), _read("common.h")
    before, found, after = text.partition(INCLUDE)
    if not found:
        raise ValueError(f"{file} has no line {INCLUDE.strip()}")
    line = before.count("\n") + 2
    return f'{before}#line 1 "common.h"\n{common}\n#line {line} "{file}"\n{after}'


@functools.cache
def entries(file: str) -> dict[str, tuple[str, ...]]:
    """The types that each kernel in a file takes: ``{"rectify": ("Pack*", "const Pack*", "int"), ...}``.

    A kernel begins with ``ENTRY name(type name, ...) {`` at the start of a line. Raises ``ValueError``, with file and
    line, if that cannot be read, or if an argument is neither a pointer nor of a type that a launch can convert.
    """
    text = _COMMENT.sub("", _read(file))
    values = {*INTEGERS, WIDE, *_STRUCTURE.findall(source(file))}
    found: dict[str, tuple[str, ...]] = {}
    for begin in _BEGIN.finditer(text):
        where = f"{file}, line {text.count(chr(10), 0, begin.start()) + 1}"
        entry = _ENTRY.match(text, begin.start())
        if entry is None:
            line = text[begin.start() :].partition("\n")[0].strip()
            raise ValueError(f"{where}: expected ENTRY name(type name, ...) {{, got {line!r}")
        name, arguments = entry[1], [" ".join(argument.split()) for argument in entry[2].split(",")]
        found[name] = tuple(_type(argument, values, f"{where}: {name}") for argument in arguments)
    return found


def _type(argument: str, values: set[str], where: str) -> str:
    """ "const Pack* x" -> "const Pack*"."""
    parts = _ARGUMENT.fullmatch(argument)
    if parts is None:
        raise ValueError(f"{where}: expected an argument such as 'const real* x' or 'int count', got {argument!r}")
    if not parts[1].endswith("*") and parts[1] not in values:
        raise ValueError(
            f"{where}: {argument!r} is passed by value, which works for {', '.join(sorted(values))}; "
            f"expected one of these, or a pointer"
        )
    return parts[1]


def _read(file: str) -> str:
    return (FOLDER / file).read_text(encoding="utf-8")
