"""Files inside files: the arrays of an ``.npz``, the members of a ``.tar.gz``, read into memory and never unpacked.

Nothing is written to the disk, so no name in an archive can do harm. What an archive claims is compared with its actual
size and with limits before any memory is allocated, and no pickle is ever run.
"""

from __future__ import annotations

import errno
import gzip
import io
import math
import os
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy

from .idx import SMALL, USUAL
from .reading import DataError, npy_header, sizes

__all__ = ["read_npz", "read_tar"]

MOST_UNPACKED = 512 * 2**20
"""CIFAR's archives unpack to 184 MB, MNIST's to 55 MB."""
MOST_MEMBERS = 1000
MALFORMED = (TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RuntimeError)
"""Other errors that reading a malformed archive may raise."""
CHUNK = 2**20


def read_npz(path: Path, names: Sequence[str]) -> list[numpy.ndarray]:
    """The arrays with these names in a file that ``numpy.savez`` or ``numpy.savez_compressed`` wrote.

    >>> import numpy, pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "two.npz"
    >>> numpy.savez_compressed(path, x=numpy.arange(3, dtype="uint8"), t=numpy.array([7], "uint8"))
    >>> read_npz(path, ["t", "x"])
    [array([7], dtype=uint8), array([0, 1, 2], dtype=uint8)]
    """
    with _refusing(path), zipfile.ZipFile(path) as archive:
        members = {member.filename: member for member in archive.infolist()}
        missing = [name for name in names if f"{name}.npy" not in members]
        if missing:
            raise DataError(f"{path}: it has no {', '.join(missing)}, only {', '.join(list(members)[:8])}")
        return [_array(archive, members[f"{name}.npy"], path) for name in names]


@contextmanager
def _refusing(path: Path) -> Iterator[None]:
    """Turn any error that a damaged archive causes into a DataError; real disk errors stay as they are."""
    try:
        yield
    except DataError:
        raise
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, struct.error, *MALFORMED) as error:
        raise DataError(f"{path}: the archive is damaged or cut off ({str(error)[:200]}). Download it again.") from None
    except OSError as error:
        if error.errno not in (None, errno.EINVAL):  # EINVAL: it points to a place before its start
            raise
        raise DataError(f"{path}: the archive is damaged or cut off ({error}). Download it again.") from None


def _array(archive: zipfile.ZipFile, member: zipfile.ZipInfo, path: Path) -> numpy.ndarray:
    name = f"{path}: {member.filename}"
    if member.file_size > min(MOST_UNPACKED, max(SMALL, member.compress_size * USUAL)):
        raise DataError(f"{name} claims to unpack from {member.compress_size} bytes to {member.file_size}; too many")
    file = io.BytesIO(archive.read(member))
    descr, fortran, shape = npy_header(file, Path(name))
    if descr not in ("|u1", "u1"):
        raise DataError(f"{name} holds {descr!r}; expected bytes, '|u1'")
    data = file.read()
    if math.prod(shape) != len(data):
        raise DataError(f"{name}: its header promises {sizes(shape)[:80]} bytes; {len(data)} follow")
    return numpy.frombuffer(data, numpy.uint8).reshape(shape, order="F" if fortran else "C")


def read_tar(path: Path, names: Collection[str], most: int) -> dict[str, bytes]:
    """The regular files with these names, in any folder of a ``.tar.gz``; each has at most ``most`` bytes.

    >>> import io, pathlib, tarfile, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "one.tar.gz"
    >>> with tarfile.open(path, "w:gz") as archive:
    ...     member = tarfile.TarInfo("folder/train.bin")
    ...     member.size = 3
    ...     archive.addfile(member, io.BytesIO(b"abc"))
    >>> read_tar(path, ["train.bin", "test.bin"], most=10)
    {'train.bin': b'abc'}
    """
    found: dict[str, bytes] = {}
    with _refusing(path), open(path, "rb") as raw, gzip.GzipFile(fileobj=raw) as unpacked:
        stream: Any = _Bounded(unpacked, path)
        with tarfile.open(fileobj=stream, mode="r|") as archive:
            for number, member in enumerate(archive):
                if number >= MOST_MEMBERS:
                    raise DataError(f"{path}: it holds more than {MOST_MEMBERS} files; it is the wrong archive")
                name = member.name.rpartition("/")[2]
                if name in names and name not in found and member.isfile():
                    found[name] = _member(archive, member, path, most)
                if len(found) == len(names):
                    break
    return found


def _member(archive: tarfile.TarFile, member: tarfile.TarInfo, path: Path, most: int) -> bytes:
    if member.size > most:
        raise DataError(f"{path}: {member.name} has {member.size} bytes; expected at most {most}")
    file = archive.extractfile(member)
    data = b"" if file is None else file.read()
    if len(data) != member.size:
        raise DataError(
            f"{path}: {member.name} is cut off: {len(data)} of {member.size} bytes. Download the file again."
        )
    return data


class _Bounded:
    """A stream that gives up when it has unpacked far more than any data set here holds."""

    def __init__(self, file: Any, path: str | os.PathLike) -> None:
        self.file, self.path, self.left = file, path, MOST_UNPACKED

    def read(self, size: int) -> bytes:
        """The next bytes, at most ``size`` and at most a chunk."""
        data = self.file.read(min(size, CHUNK))
        self.left -= len(data)
        if self.left < 0:
            raise DataError(f"{self.path}: it unpacks to more than {MOST_UNPACKED} bytes; it is the wrong archive")
        return data
