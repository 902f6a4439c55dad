"""What the readers share: finding files, refusing malformed ones, bytes to numbers."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import numpy

from ..shim.dtypes import is_real

Split = tuple[numpy.ndarray, numpy.ndarray]  # images (N, H, W, C), labels (N,)


class DataError(ValueError):
    """A data file that is damaged or the wrong one; the message says what it holds, what was expected, and the fix."""

    __module__ = "dualnet.data"  # as users import it


def find(folder: str | os.PathLike, places: Iterable[str], names: Iterable[str]) -> Path | None:
    """The first file of ``folder/place/name`` that exists."""
    names = tuple(names)
    for place in places:
        for name in names:
            path = Path(folder) / place / name
            if path.is_file():
                return path
    return None


def check_folder(folder: str | os.PathLike, data: str, how: str) -> Path:
    """The folder as a path, if it is one."""
    path = Path(folder).expanduser()
    if not path.is_dir():
        state = "is a file, not a folder" if path.exists() else "does not exist"
        raise FileNotFoundError(f"{data}: the folder {str(path)!r} {state}. {how}")
    return path


def check_dtype(dtype: str, owner: str) -> str:
    if not isinstance(dtype, str) or dtype not in ("float32", "uint8"):
        raise ValueError(f"{owner}: dtype is 'float32' (in [0, 1]) or 'uint8' (the file's own bytes), got {dtype!r}")
    return dtype


def scaled(images: numpy.ndarray, dtype: str, whole: int = 255, out: numpy.ndarray | None = None) -> numpy.ndarray:
    """Bytes as they are, or as float32 fractions of ``whole``, in one pass."""
    if dtype == "float32":
        return numpy.divide(images, whole, out=out, dtype=numpy.float32)
    if out is None:
        return images
    out[...] = images
    return out


def check_labels(labels: numpy.ndarray, path: Path, classes: int = 10, hint: str = "") -> numpy.ndarray:
    """Labels as int64, each below ``classes``."""
    if labels.max(initial=0) >= classes:
        place = int((labels >= classes).argmax())
        raise DataError(
            f"{path}: record {place} has label {int(labels[place])}; expected 0 to {classes - 1}.{hint} "
            "The file is damaged or holds another data set."
        )
    return labels.astype(numpy.int64)


def read_npy(path: str | os.PathLike) -> numpy.ndarray:
    """The images of an ``.npy`` file, mapped into memory: they take no more of it than the file's size."""
    try:
        images = numpy.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise DataError(f"{path}: it cannot be read as an array ({error})") from error
    if not is_real(images.dtype):
        raise DataError(f"{path}: it holds {images.dtype}; expected images, as real numbers")
    return images
