"""IDX files, the format of MNIST: a header, then the elements in row-major order, all big-endian.

    bytes 0, 1   zero
    byte 2       the type of the elements
    byte 3       the number of axes
    then         the length of each axis, 4 bytes each

The content of a file, not its name, decides whether it is gzipped. Source: LeCun, Cortes and Burges, "The MNIST
database".
"""

from __future__ import annotations

import gzip
import math
import os
import struct
import zlib
from pathlib import Path
from typing import BinaryIO

import numpy

from ..writing import replace_file
from .reading import DataError, sizes

__all__ = ["read_idx", "write_idx"]

TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
CODES = {numpy.dtype(kind).newbyteorder("="): code for code, kind in TYPES.items()}
GZIP = b"\x1f\x8b"
MOST_AXES = 16
LIMIT = 2**32
DEFLATE = 1032
"""Deflate never compresses data by more than this factor, so a header that promises more is wrong."""
SMALL, USUAL = 32 * 2**20, 64
"""Images shrink 2 to 20 times. A file that grows more than ``USUAL`` times, beyond ``SMALL`` bytes, may be a trap."""
CHUNK = 2**20

IF_RIGHT = "If the file is genuine, read it with read_idx(path, limit=…)"


def read_idx(path: str | os.PathLike, *, limit: int | None = None) -> numpy.ndarray:
    """The array in an IDX file, gzipped or not, in native byte order.

    The header is checked against the file's size before anything is allocated; a gzipped file is decompressed to at
    most one byte more than its header promises. Arrays of more than 4 GB are read only if ``limit``, in bytes, allows
    it, and so are arrays of more than 32 MB that were compressed to less than a 64th.

    Raises :class:`DataError` for a malformed file and ``FileNotFoundError`` for a missing one.

    >>> import dualnet as dn, numpy, tempfile, pathlib
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "labels-idx1-ubyte.gz"
    >>> dn.data.write_idx(path, numpy.array([7, 2, 1], "uint8"))
    >>> dn.data.read_idx(path)
    array([7, 2, 1], dtype=uint8)
    """
    path = Path(path)
    with open(path, "rb") as raw:
        zipped = raw.read(2) == GZIP
        raw.seek(0)
        size = os.fstat(raw.fileno()).st_size
        try:
            if zipped:
                with gzip.GzipFile(fileobj=raw) as file:
                    return _read(file, path, limit, packed=size)
            return _read(raw, path, limit, size=size)
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise DataError(f"{path}: the gzip data is damaged or cut off ({error}). Download it again.") from None


def _read(
    file: BinaryIO | gzip.GzipFile, path: Path, limit: int | None, packed: int | None = None, size: int | None = None
) -> numpy.ndarray:
    kind, shape = _header(file, path)
    expected = math.prod(shape) * kind.itemsize
    claim = f"its header promises {sizes(shape)} elements of {kind.name}, {expected} bytes"
    if expected > (most := LIMIT if limit is None else limit):
        raise DataError(f"{path}: {claim}; the limit is {most}. {IF_RIGHT}")
    if size is not None and size - file.tell() != expected:
        raise DataError(
            f"{path}: {claim}; {size - file.tell()} follow. The file is damaged or cut off: download it again."
        )
    if packed is not None and expected > packed * DEFLATE:
        raise DataError(f"{path}: {claim}; a gzip file of {packed} bytes cannot hold them. Download it again.")
    if packed is not None and limit is None and expected > max(SMALL, packed * USUAL):
        raise DataError(f"{path}: {claim}, {expected // packed} times the size of the gzip file. {IF_RIGHT}")
    data = _take(file, expected + 1)
    if len(data) != expected:
        got = f"{len(data)} follow" if len(data) < expected else "more follow"
        raise DataError(f"{path}: {claim}; {got}. The file is damaged or cut off: download it again.")
    array = numpy.frombuffer(data, kind).reshape(shape)
    return array if kind.isnative else array.astype(kind.newbyteorder("="))


def _header(file: BinaryIO | gzip.GzipFile, path: Path) -> tuple[numpy.dtype, tuple[int, ...]]:
    magic = file.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in TYPES or not 1 <= magic[3] <= MOST_AXES:
        raise DataError(
            f"{path}: starts with {magic.hex(' ') or 'nothing'}; expected an IDX header, which is 00 00, a type "
            f"({', '.join(f'{code:02x}' for code in TYPES)}) and 1 to {MOST_AXES} axes. Is it the right file?"
        )
    lengths = file.read(4 * magic[3])
    if len(lengths) < 4 * magic[3]:
        raise DataError(f"{path}: the header is cut off; expected {4 + 4 * magic[3]} bytes. Download the file again.")
    shape = struct.unpack(f">{magic[3]}I", lengths)
    if math.prod(max(length, 1) for length in shape) >= 2**60:  # an empty array with absurd axes is an error too
        raise DataError(f"{path}: its header promises {sizes(shape)} elements. The file is damaged: download it again.")
    return numpy.dtype(TYPES[magic[2]]), shape


def _take(file: BinaryIO | gzip.GzipFile, most: int) -> bytearray:
    """At most ``most`` bytes; memory grows with what the file really holds, not with what its header promises."""
    data = bytearray()
    while len(data) < most and (chunk := file.read(min(CHUNK, most - len(data)))):
        data += chunk
    return data


def write_idx(path: str | os.PathLike, array: numpy.ndarray) -> None:
    """Write an array as an IDX file, gzipped if the name ends with ``.gz``. The same array gives the same bytes.

    Element types are those of the format: uint8, int8, int16, int32, float32, float64; others raise ``TypeError``.

    >>> import dualnet as dn, numpy, tempfile, pathlib
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "numbers-idx1-short"
    >>> dn.data.write_idx(path, numpy.array([1, 256], "int16"))
    >>> path.read_bytes().hex(" ", 4)  # zero, zero, type, axes; length; two elements
    '00000b01 00000002 00010100'
    """
    array = numpy.asarray(array)
    code = CODES.get(array.dtype.newbyteorder("="))
    if code is None:
        raise TypeError(f"write_idx: dtype {array.dtype} has no IDX type; expected one of {', '.join(map(str, CODES))}")
    if not 1 <= array.ndim <= MOST_AXES or max(array.shape) >= 2**32:
        raise ValueError(f"write_idx: shape {array.shape} does not fit; expected 1 to {MOST_AXES} axes below 2³²")
    header = struct.pack(f">4B{array.ndim}I", 0, 0, code, array.ndim, *array.shape)
    data = header + array.astype(TYPES[code]).tobytes()
    # Without a file name and a time, the same array gives the same bytes.
    replace_file(path, gzip.compress(data, 9, mtime=0) if os.fspath(path).endswith(".gz") else data)
