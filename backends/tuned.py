"""Files of measured choices: which algorithm is the fastest for each shape of a network, on one machine.

``dualnet tune`` writes such a file, and ``DUALNET_TUNED`` names the one to use. It can be committed: JSON, sorted, with
every time in ms. It says on which processor, with which versions and with how many threads it was measured. Where one
of these differs, the times mean nothing, so the file is ignored, and one warning says why. A file that is damaged, or
that names something that does not exist, raises an error.
"""

from __future__ import annotations

import json
import math
import os
import warnings
from typing import Any

import numpy

from dualnet.shim.process import lock
from dualnet.version import __version__
from dualnet.writing import check_writable, replace_file

from .cpu import blas, machine
from .cpu.table import Shape
from .onednn import library

FORMAT = 1
Times = list[tuple[str, float]]  # algorithms with their seconds, in the order in which they are asked

ALGORITHMS: dict[str, tuple[str, ...]] = {}
"""The algorithms of each function that has a choice; numpy_backend.py fills it in."""

_lock = lock()
_read: dict[tuple[str, int], dict[str, Any] | None] = {}


def order(path: str, shape: Shape, number: int, missing: bool) -> tuple[str, ...] | None:
    """The algorithms to ask first for this shape; None if the file does not know it, or was measured elsewhere.

    A file that does not exist is an error, unless it may be ``missing``.
    """
    document = _document(path, number, missing)
    times = document["choices"].get(words(shape)) if document else None
    return None if times is None else tuple(name for name, _ in times)


def add(path: str, shape: Shape, number: int, times: Times) -> None:
    """Add a shape to the file, unless it was measured elsewhere."""
    document = _document(path, number, True)
    if document is not None:
        document["choices"][words(shape)] = [[name, round(1e3 * seconds, 4)] for name, seconds in times]
        replace_file(path, _text(document).encode())


def ready(path: str, number: int) -> None:
    """Raise ``ValueError`` if a shape cannot be added to the file: to be asked before anything is measured."""
    if _document(path, number, True) is None:
        return  # measured elsewhere: nothing will be added
    try:
        check_writable(path)
    except OSError as error:
        raise ValueError(
            f"DUALNET_TUNED={path} cannot be written: {error.strerror} ({error.filename}). Name a writable file, or "
            "unset DUALNET_AUTOTUNE or DUALNET_TUNED. Nothing was measured."
        ) from None


def forget() -> None:
    """Read files again, and warn again."""
    _read.clear()


def facts(number: int) -> dict[str, Any]:
    """What must be the same for times to mean something."""
    found, name = library.library(), blas.library()
    return {
        "processor": machine.processor(),
        "instructions": machine.kind(),
        "threads": number,
        "dualnet": __version__,
        "numpy": numpy.__version__,
        "blas": name.name if name else "unknown",
        "onednn": found.version if found else "none",
    }


def words(shape: Shape) -> str:
    """A shape in words, as it is written in the file.

    >>> from dualnet.geometry import windows
    >>> at = windows("conv2d", (32, 32), (3, 3), stride=2, padding=1)
    >>> words(Shape("correlate", 64, 16, 32, at, "f"))
    'correlate 64x32x32x16 to 32, 3x3, stride 2x2, padding 1 1 1 1, float32'
    """
    at = shape.at
    (H, W), (k1, k2), (s1, s2), (r1, r2) = at.size, at.window, at.stride, at.dilation
    parts = [f"{shape.function} {shape.images}x{H}x{W}x{shape.channels} to {shape.filters}", f"{k1}x{k2}"]
    parts += [f"stride {s1}x{s2}"] * (at.stride != (1, 1))
    parts += [f"padding {' '.join(str(n) for side in at.reach for n in side)}"] * (at.reach != ((0, 0), (0, 0)))
    parts += [f"dilation {r1}x{r2}"] * (at.dilation != (1, 1))
    return ", ".join([*parts, numpy.dtype(shape.dtype).name])


def _text(document: dict[str, Any]) -> str:
    """JSON with a line for each shape."""
    head = json.dumps({name: value for name, value in document.items() if name != "choices"}, indent=1)
    lines = ",\n".join(
        f"  {json.dumps(what)}: {json.dumps(times)}" for what, times in sorted(document["choices"].items())
    )
    return head[:-2] + ',\n "choices": {\n' + lines + "\n }\n}\n"


def _document(path: str, number: int, missing: bool) -> dict[str, Any] | None:
    with _lock:
        if (path, number) not in _read:
            _read[path, number] = _checked(path, number, missing)
        return _read[path, number]


def _checked(path: str, number: int, missing: bool) -> dict[str, Any] | None:
    here = facts(number)
    if not os.path.exists(path) and missing:
        return {"format": FORMAT, "measured on": here, "choices": {}}
    document = _parsed(path)
    if document["format"] != FORMAT:
        how = f"another version of dualnet: its format is {document['format']}, and this version knows {FORMAT}"
        _say_ignored(path, how)
        return None
    there = document["measured on"]
    differ = [f"{name} {there.get(name)!r}, here {value!r}" for name, value in here.items() if there.get(name) != value]
    if differ:
        _say_ignored(path, "; ".join(differ))
        return None
    for row, times in document["choices"].items():
        _check_names(path, row, [name for name, _ in times])
    return document


def _say_ignored(path: str, how: str) -> None:
    warnings.warn(
        f"{path} was measured with {how}. It is ignored, and the table decides which algorithms run. Measure here "
        "with: dualnet tune",
        stacklevel=2,
    )


def _parsed(path: str) -> dict[str, Any]:
    """The file's content, or ``ValueError`` that says what is wrong with it."""
    try:
        with open(path, encoding="utf-8") as file:
            document = json.load(file)
    except OSError as error:
        raise ValueError(
            f"DUALNET_TUNED={path} cannot be read: {error.strerror}. Write it with: dualnet tune"
        ) from None
    except RecursionError:
        raise _damaged(path, "lists nested too deeply") from None
    except UnicodeDecodeError:
        raise _damaged(path, "bytes that are not UTF-8 text") from None
    except json.JSONDecodeError as error:
        got = f"{error.msg} in line {error.lineno}, column {error.colno}" if error.doc.strip() else "an empty file"
        raise _damaged(path, got) from None
    if not isinstance(document, dict) or not isinstance(document.get("format"), int):
        raise _damaged(path, f"JSON of type {type(document).__name__}, without a format")
    if document["format"] != FORMAT:
        return document  # of which nothing is known
    for name in ("measured on", "choices"):
        if not isinstance(document.get(name), dict):
            got = f"a {type(document[name]).__name__}" if name in document else "nothing"
            raise _damaged(path, f'{got} for "{name}"')
    for row, times in document["choices"].items():
        _check_row(path, row, times)
    return document


def _damaged(path: str, got: str) -> ValueError:
    return ValueError(
        f'{path} is not a file of dualnet tune, or it is damaged: got {got}, expected JSON such as {{"format": '
        f'{FORMAT}, "measured on": {{...}}, "choices": {{...}}}}. Name another file, or delete this one and measure '
        "again with: dualnet tune"
    )


def _check_row(path: str, row: str, times: Any) -> None:
    """Each row is a list of pairs: an algorithm, and its time in ms."""
    if not isinstance(times, list) or not times:
        raise _wrong(path, row, repr(times), "at least one pair [algorithm, milliseconds]")
    for pair in times:
        if not isinstance(pair, list) or len(pair) != 2 or not isinstance(pair[0], str) or not _is_time(pair[1]):
            raise _wrong(path, row, repr(pair), "a pair [algorithm, milliseconds]")


def _is_time(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) and value >= 0


def _check_names(path: str, row: str, names: list[str]) -> None:
    """A row begins with a function that has a choice, and names algorithms of it, each once."""
    function = row.partition(" ")[0]
    if ALGORITHMS and function not in ALGORITHMS:
        raise _wrong(path, row, repr(function), f"a function with a choice ({', '.join(ALGORITHMS)})")
    for place, name in enumerate(names):
        if ALGORITHMS and name not in ALGORITHMS[function]:
            raise _wrong(path, row, f"the algorithm {name!r}", f"one of {', '.join(ALGORITHMS[function])}")
        if name in names[:place]:
            raise _wrong(path, row, f"the algorithm {name!r} twice", "each algorithm once")


def _wrong(path: str, row: str, got: str, expected: str) -> ValueError:
    return ValueError(
        f"{path}, row {row!r}: got {got}, expected {expected}. Fix the row, or delete it and measure it again with: "
        "dualnet tune"
    )
