"""Shared by all readers: finding files, errors for malformed ones, bytes to numbers."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import numpy

from ..shim.dtypes import is_real

Split = tuple[numpy.ndarray, numpy.ndarray]  # images (N, H, W, C), labels (N,)

COPY = re.compile(r" ?\(\d{1,3}\)")
"""What a browser adds to the name of a file that it has already downloaded."""
MOST_HEADER = 10_000
MOST_AXES = 32
NPY = re.compile(
    r"\{'descr':'([<>=|]?[a-zA-Z][0-9]{0,9})','fortran_order':(True|False),"
    r"'shape':\(((?:[0-9]{1,20}L?,)*(?:[0-9]{1,20}L?)?)\),?\}"
)
NOT_NPY = {
    b"PK": " It is a zip archive, such as .npz. Save only the images: numpy.save(path, images).",
    b"\x80": " It looks like a pickle; dualnet never reads these.",
}


class DataError(ValueError):
    """The data file is damaged or the wrong one; the message says what it holds, what was expected, and the fix."""

    __module__ = "dualnet.data"  # users import it from there


def find(folder: str | os.PathLike, places: Iterable[str], names: Iterable[str]) -> Path | None:
    """The first file of ``folder/place/name`` that exists.

    Capitals do not matter, nor does the number that a browser adds to a second download, as in ``data (1).gz``.
    """
    names = tuple(names)
    for place in places:
        inside = _inside(Path(folder), place)
        if inside is None:
            continue
        for name in names:
            if (inside / name).is_file():
                return inside / name
        alike = {COPY.sub("", path.name).lower(): path for path in sorted(inside.iterdir(), reverse=True)}
        for name in names:
            path = alike.get(name.lower())
            if path is not None and path.is_file():
                return path
    return None


def _inside(folder: Path, place: str) -> Path | None:
    """The folder ``folder/place``, in capitals or not; None if it does not exist."""
    for part in Path(place).parts:
        exact = folder / part
        if not exact.is_dir():
            alike = [path for path in folder.iterdir() if path.name.lower() == part.lower() and path.is_dir()]
            if not alike:
                return None
            exact = min(alike)
        folder = exact
    return folder if folder.is_dir() else None


def check_folder(folder: str | os.PathLike, data: str, how: str) -> Path:
    """The folder as a path; an error if it is not a folder."""
    path = Path(folder).expanduser()
    if not path.is_dir():
        state = "is a file, not a folder" if path.exists() else "does not exist"
        raise FileNotFoundError(f"{data}: the folder {str(path)!r} {state}. {how}")
    return path


def check_dtype(dtype: str, owner: str) -> str:
    if not isinstance(dtype, str) or dtype not in ("float32", "uint8"):
        raise ValueError(
            f"{owner}: dtype must be 'float32' (in [0, 1]) or 'uint8' (the file's own bytes), got {dtype!r}"
        )
    return dtype


def scaled(images: numpy.ndarray, dtype: str, whole: int = 255, out: numpy.ndarray | None = None) -> numpy.ndarray:
    """Bytes as they are, or as float32 fractions of ``whole``, in one pass."""
    if dtype == "float32":
        return numpy.divide(images, whole, out=out, dtype=numpy.float32)
    if out is None:
        return images
    out[...] = images
    return out


def check_labels(labels: numpy.ndarray, path: Path, classes: int = 10, hint: str = "", first: int = 0) -> numpy.ndarray:
    """Labels as int64, counted from 0; the file counts ``classes`` of them from ``first``."""
    if labels.max(initial=0) >= first + classes or first and labels.min(initial=first) < first:
        place = int(((labels >= first + classes) | (labels < first)).argmax())
        raise DataError(
            f"{path}: record {place} has label {int(labels[place])}; expected {first} to {first + classes - 1}.{hint} "
            "The file is damaged or holds another data set."
        )
    return labels.astype(numpy.int64) - first


def sizes(shape: tuple[int, ...]) -> str:
    """A shape in words.

    >>> sizes((60000, 28, 28))
    '60000 × 28 × 28'
    """
    return " × ".join(map(str, shape))


def read_npy(path: str | os.PathLike) -> numpy.ndarray:
    """The images of an ``.npy`` file, mapped into memory: they take no more memory than the file's size.

    NumPy would run the header through Python's parser. Here the header is first compared with the few forms that it can
    have, and its shape with the size of the file.
    """
    with open(path, "rb") as file:
        descr, fortran, shape = npy_header(file, Path(path))
        offset, size = file.tell(), os.fstat(file.fileno()).st_size
    try:
        dtype = numpy.dtype(descr)
    except TypeError:
        raise DataError(f"{path}: it holds {descr!r}, a type unknown to NumPy") from None
    if not is_real(dtype):
        raise DataError(f"{path}: it holds {dtype}; expected images, as real numbers")
    if len(shape) > MOST_AXES or math.prod(max(length, 1) for length in shape) * dtype.itemsize >= 2**60:
        raise DataError(f"{path}: its header promises an array of shape {_short(shape)}. The file is damaged.")
    if (promised := math.prod(shape) * dtype.itemsize) > size - offset:
        raise DataError(
            f"{path}: its header promises {promised} bytes, for an array of shape {shape} and type {dtype}; "
            f"{size - offset} follow. The file is damaged or cut off."
        )
    order: Literal["C", "F"] = "F" if fortran else "C"
    if not promised:
        return numpy.empty(shape, dtype, order)  # there is nothing to map
    return numpy.memmap(path, dtype, "r", offset, shape, order)


def npy_header(file: Any, path: Path) -> tuple[str, bool, tuple[int, ...]]:
    """The type, the order and the shape in the header of an ``.npy`` file; the file is left after the header.

    The header is the magic, a version, a length, and a dictionary as Python writes it, with its keys in this order:
    ``{'descr': '<f4', 'fortran_order': False, 'shape': (9, 28, 28, 1), }``
    """
    start = file.read(8)
    if start[:6] != b"\x93NUMPY" or len(start) < 8:
        hint = next((hint for first, hint in NOT_NPY.items() if first and start.startswith(first)), "")
        raise DataError(f"{path}: it starts with {start.hex(' ') or 'nothing'}; expected an .npy file.{hint}")
    if start[6:] not in (b"\1\0", b"\2\0", b"\3\0"):
        raise DataError(f"{path}: it is an .npy file of version {'.'.join(map(str, start[6:]))}; expected 1.0 to 3.0")
    length = int.from_bytes(file.read(2 if start[6] == 1 else 4), "little")
    header = file.read(min(length, MOST_HEADER)).decode("latin-1")
    found = None if length > MOST_HEADER or len(header) < length else NPY.fullmatch(_compact(header))
    if found is None:
        raise DataError(
            f"{path}: its header is {header[:80]!r}; expected descr, fortran_order and shape of an array of numbers. "
            "Records and Python objects are not supported. If you did not save any, the file is damaged."
        )
    return found[1], found[2] == "True", tuple(int(n.rstrip("L")) for n in found[3].split(",") if n)


def _compact(header: str) -> str:
    """A header with one kind of quotes, and without the spaces in which writers of ``.npy`` files differ."""
    text = " ".join(header.split()).replace('"', "'")
    for mark in "{}():,":
        text = text.replace(f" {mark}", mark).replace(f"{mark} ", mark)
    return text


def _short(shape: tuple[int, ...]) -> str:
    text = ", ".join(map(str, shape[:8]))
    return f"({text}, … {len(shape)} axes)" if len(shape) > 8 else f"({text})"
