"""A description (JSON) and arrays in one file, ``.safetensors`` or ``.npz``: never a pickle, never code.

``.safetensors`` holds the description in its metadata (key ``dualnet``); ``.npz`` is a zip archive, not compressed, of
the member ``dualnet.json`` and a ``NAME.npy`` per array, which ``numpy.load`` opens too. Equal content makes equal
bytes. A checksum in the description covers the rest of it and all arrays.

Before anything is allocated, the header's claims are compared with the file's size. A file is replaced as a whole or
not at all.
"""

from __future__ import annotations

import errno
import io
import json
import math
import os
import re
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy

from ..shim import to_numpy
from ..version import __version__
from ..writing import replace_file

__all__ = ["CheckpointError"]

FORMAT = 1
SUFFIXES = (".safetensors", ".npz")
TEXT = "dualnet.json"
KEY = "dualnet"
MOST_TEXT = 2 * 2**20
MOST_HEADER = 16 * 2**20
MOST_AXES = 32
MOST_TOLD = 2000
DTYPES = "bool int8 int16 int32 int64 uint8 uint16 uint32 uint64 float16 float32 float64".split()
SAFE_DTYPES = "BOOL I8 I16 I32 I64 U8 U16 U32 U64 F16 F32 F64".split()
NPY = re.compile(r"\{'descr': '([<|][a-z][0-9])', 'fortran_order': False, 'shape': \(([0-9, ]*)\), \} *\n")

Arrays = dict[str, numpy.ndarray]


MALFORMED = (TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RecursionError)
"""The errors that reading a malformed file may raise."""


class CheckpointError(ValueError):
    """The file is damaged, or not a network that dualnet saved; the message names the file and the reason."""

    __module__ = "dualnet"  # users import it from there


def write(path: Path, document: dict[str, Any], arrays: Arrays) -> None:
    """Replace the file by one with this content; ``arrays`` are little-endian and in C order."""
    text = _text({**document, "crc32": _checksum(document, arrays)})
    if len(text.encode()) > MOST_TEXT:
        raise ValueError(f"save: the description of the network is longer than {MOST_TEXT} bytes")
    replace_file(path, _npz(text, arrays) if path.suffix == ".npz" else _safe(path, text, arrays))


OF_NETWORK = {"layers": list, "network": int, "input_shape": list, "numbers": dict, "tied": dict}
"""The fields that every description of a network has."""


def read(path: Path, fields: Mapping[str, type] = OF_NETWORK) -> tuple[dict[str, Any], Arrays]:
    """The description and the arrays (read-only) of a file. Raises :class:`CheckpointError` if it is damaged.

    ``fields`` are the fields that its description must have.
    """
    with _refusing(path), open(path, "rb") as file:
        start, size = file.read(9), os.fstat(file.fileno()).st_size
        file.seek(0)
        if start[:4] == b"PK\3\4":
            text, arrays = _read_npz(file, size)
        elif start[8:] == b"{" and int.from_bytes(start[:8], "little") <= min(size - 8, MOST_HEADER):
            text, arrays = _read_safe(path)
        else:
            pickled = " It looks like a pickle; dualnet never reads these." if start[:1] == b"\x80" else ""
            if not size:
                raise CheckpointError("it is empty; expected a .safetensors or .npz file")
            raise CheckpointError(f"it is not a .safetensors or .npz file: it starts with {start.hex(' ')}.{pickled}")
        document = _parse(text, fields)
        if document.pop("crc32", None) != _checksum(document, arrays):
            raise CheckpointError("its content does not match its checksum: the file was damaged or edited")
        return document, arrays


@contextmanager
def _refusing(path: Path) -> Iterator[None]:
    """Turn any error that a malformed file causes into a CheckpointError; real disk errors stay as they are."""
    try:
        yield
    except (zipfile.BadZipFile, EOFError, zlib.error) as error:
        why = str(error) or type(error).__name__
        raise CheckpointError(f"{path}: the file is damaged or cut off ({shortened(why)})") from error
    except (NotImplementedError, RuntimeError, *MALFORMED) as error:
        raise CheckpointError(f"{path}: {shortened(str(error) or type(error).__name__)}") from error
    except OSError as error:
        if error.errno not in (None, errno.EINVAL):  # EINVAL: the file points to a place before its start
            raise
        raise CheckpointError(f"{path}: the file is damaged ({error})") from error


def on_host(value: Any) -> numpy.ndarray:
    """A little-endian array in C order: safetensors 0.8.0 silently writes wrong numbers for any other order."""
    host = to_numpy(value)
    if host.dtype.name not in DTYPES:
        raise TypeError(f"save: dtype {host.dtype} cannot be stored; expected one of {', '.join(DTYPES)}")
    return numpy.array(host, dtype=host.dtype.newbyteorder("<"), order="C")


def shortened(message: str) -> str:
    """A message of at most a page: it may quote the file, and a quote could be a megabyte long."""
    return message if len(message) <= MOST_TOLD else f"{message[:MOST_TOLD]} … ({len(message)} characters)"


def _text(document: dict[str, Any]) -> str:
    return json.dumps(document, sort_keys=True, allow_nan=False)


def _checksum(document: dict[str, Any], arrays: Arrays) -> int:
    crc = zlib.crc32(_text(document).encode())
    for name, array in sorted(arrays.items()):
        crc = zlib.crc32(f"{name} {array.dtype.name} {array.shape}".encode(), crc)
        crc = zlib.crc32(array.reshape(-1).view(numpy.uint8).data, crc) if array.size else crc
    return crc


def _parse(text: str, fields: Mapping[str, type]) -> dict[str, Any]:
    if len(text) > MOST_TEXT:
        raise CheckpointError(f"its description is longer than {MOST_TEXT} bytes")
    document = json.loads(text)
    if not isinstance(document, dict) or type(document.get("format")) is not int:
        raise CheckpointError("its description was not written by dualnet")
    if document["format"] > FORMAT:
        raise CheckpointError(
            f"it was written by dualnet {document.get('dualnet')} in format {document['format']}; this is dualnet "
            f"{__version__}, which reads formats up to {FORMAT}. Upgrade dualnet."
        )
    for field, kind in fields.items():
        if not isinstance(document.get(field), kind):
            raise CheckpointError(f"its description has no {field}")
    return document


def _npz(text: str, arrays: Arrays) -> bytes:
    """A zip archive without compression and with one fixed date, so that equal content makes equal bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in [(TEXT, text.encode()), *((f"{key}.npy", _npy(array)) for key, array in arrays.items())]:
            member = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            member.create_system = 3
            archive.writestr(member, data)
    return buffer.getvalue()


def _npy(array: numpy.ndarray) -> bytes:
    """The .npy format, version 1.0: magic, length of the header, header padded to a multiple of 64, elements."""
    header = f"{{'descr': {array.dtype.str!r}, 'fortran_order': False, 'shape': {array.shape!r}, }}".encode()
    header += b" " * (-(10 + len(header) + 1) % 64) + b"\n"
    return b"\x93NUMPY\1\0" + len(header).to_bytes(2, "little") + header + array.tobytes()


def _read_npz(file: Any, size: int) -> tuple[str, Arrays]:
    with zipfile.ZipFile(file) as archive:
        members = {member.filename: member for member in archive.infolist()}
        if TEXT not in members:
            names = ", ".join(list(members)[:3]) or "nothing"
            pickled = " That is a pickle in a zip archive; dualnet never reads these." if "data.pkl" in names else ""
            raise CheckpointError(f"it is a zip archive, but not of a network: it holds {names}.{pickled}")
        if len(members) != len(archive.infolist()):
            raise CheckpointError("it holds two members with the same name")
        packed = [name for name, m in members.items() if m.compress_type or m.file_size != m.compress_size]
        if packed or sum(member.file_size for member in members.values()) > size:
            raise CheckpointError(
                f"its members are compressed or overlap ({', '.join(packed)[:80]}); dualnet's never do"
            )
        text = archive.read(TEXT).decode()
        return text, {name.removesuffix(".npy"): _array(archive.read(name)) for name in members if name != TEXT}


def _array(data: bytes) -> numpy.ndarray:
    start = 10 + int.from_bytes(data[8:10], "little")
    header = NPY.fullmatch(data[10:start].decode("ascii"))
    if data[:8] != b"\x93NUMPY\1\0" or header is None:
        raise CheckpointError("a member is not an array in the form that dualnet writes")
    kind = numpy.dtype(header[1])
    shape = tuple(int(n) for n in header[2].split(",") if n.strip())
    if kind.name not in DTYPES or len(shape) > MOST_AXES or math.prod(shape) * kind.itemsize != len(data) - start:
        raise CheckpointError(f"an array of {kind} and shape {shape} cannot have {len(data) - start} bytes")
    return numpy.frombuffer(data, kind, offset=start).reshape(shape)


def safetensors() -> Any:
    """The package, or None if it is not installed."""
    try:
        import safetensors.numpy
    except ImportError:
        return None
    return safetensors


def need_safetensors(path: Path) -> Any:
    package = safetensors()
    if package is None:
        raise ImportError(
            f'{path}: the format .safetensors needs a package; pip install "dualnet[io]". The format .npz needs none.'
        )
    return package


def _safe(path: Path, text: str, arrays: Arrays) -> bytes:
    return need_safetensors(path).numpy.save(arrays, {KEY: text})


def _read_safe(path: Path) -> tuple[str, Arrays]:
    package = need_safetensors(path)
    try:
        with package.safe_open(path, framework="numpy") as file:
            text = (file.metadata() or {}).get(KEY)
            if text is None:
                raise CheckpointError(
                    "it is a safetensors file that another program wrote. To use its arrays, give them the names of "
                    "net.state_dict(): net.load_state_dict(safetensors.numpy.load_file(path))."
                )
            kinds = {name: file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118 (not a mapping)
            if foreign := {name: kind for name, kind in kinds.items() if kind not in SAFE_DTYPES}:
                raise CheckpointError(f"its arrays have dtypes that dualnet never writes: {foreign}")
            return text, {name: file.get_tensor(name) for name in kinds}
    except package.SafetensorError as error:
        raise CheckpointError(f"the file is damaged or cut off ({error})") from error
