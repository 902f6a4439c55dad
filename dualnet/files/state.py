"""The state of a program in a file: nested dictionaries and lists of numbers, strings and arrays.

A checkpoint of a training is such a state. It is an ``.npz`` file like that of a network (formats.py): no pickle, a
checksum over everything, replaced as a whole or not at all. The description holds the state as JSON, with
``{"array": name}`` instead of an array, and similar objects for other values that JSON does not have.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy

from ..shim import backend_of
from ..version import __version__
from .formats import FORMAT, MALFORMED, Arrays, CheckpointError, on_host, read, shortened, write

__all__ = ["read_state", "snapshot", "write_state"]

MANY = 16
"""A list of more floats than this is stored as an array."""
DEEPEST = 50

State = dict[str, Any]


def write_state(path: Path, state: State) -> None:
    """Replace the file by one that holds the state. Arrays of any backend are copied to the host.

    Raises ``TypeError`` for a value that a file cannot hold, before it writes anything.

    >>> import dualnet as dn, pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "state.npz"
    >>> write_state(path, {"step": 3, "best": float("inf"), "net": {"w": dn.asarray([1.0, 2.0])}})
    >>> read_state(path)
    {'step': 3, 'best': inf, 'net': {'w': array([1., 2.], dtype=float32)}}
    """
    arrays: Arrays = {}
    described = _packed(state, "state", arrays, 0)
    write(path, {"format": FORMAT, "dualnet": __version__, "state": described}, arrays)


def read_state(path: Path) -> State:
    """The state in a file that :func:`write_state` wrote; arrays are on the host, and read-only.

    Raises :class:`CheckpointError` if the file is damaged or holds something else.
    """
    document, arrays = read(path, {"state": dict})
    try:
        state = _unpacked(document["state"], arrays)
        if not isinstance(state, dict):
            raise ValueError("it holds no state")
        return state
    except MALFORMED as error:
        raise CheckpointError(f"{path}: {shortened(str(error) or type(error).__name__)}") from error


def snapshot(value: Any) -> Any:
    """The state with copies of its dictionaries and lists; arrays are shared.

    >>> before = {"losses": [1.0]}
    >>> now = snapshot(before); before["losses"].append(2.0); now
    {'losses': [1.0]}
    """
    if isinstance(value, dict):
        return {name: snapshot(item) for name, item in value.items()}
    return [snapshot(item) for item in value] if isinstance(value, (list, tuple)) else value


def _packed(value: Any, where: str, arrays: Arrays, depth: int) -> Any:
    """A value as JSON; arrays go to ``arrays``, under their path."""
    if isinstance(value, numpy.generic) and not isinstance(value, numpy.ndarray):
        value = value.item()
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"float": repr(value)}
    if depth > DEEPEST:
        raise TypeError(f"{where}: a state can nest dictionaries and lists at most {DEEPEST} deep")
    if isinstance(value, dict) and all(isinstance(name, str) for name in value):
        return {"dict": [[name, _packed(v, f"{where}/{name}", arrays, depth + 1)] for name, v in value.items()]}
    if isinstance(value, (list, tuple)):
        if len(value) > MANY and all(type(item) is float for item in value):
            return {"floats": _kept(numpy.array(value, "float64"), where, arrays)}
        return [_packed(item, f"{where}/{place}", arrays, depth + 1) for place, item in enumerate(value)]
    if backend_of(value) is not None:
        return {"array": _kept(on_host(value), where, arrays)}
    raise TypeError(
        f"{where} is {value!r}; a checkpoint holds numbers, strings, None, arrays, and lists and dictionaries of these"
    )


def _kept(array: numpy.ndarray, where: str, arrays: Arrays) -> str:
    name = where.removeprefix("state/")
    while name in arrays:
        name += "'"  # names that contain a slash
    arrays[name] = array
    return name


def _unpacked(value: Any, arrays: Arrays) -> Any:
    if isinstance(value, list):
        return [_unpacked(item, arrays) for item in value]
    if not isinstance(value, dict):
        return value
    ((kind, held),) = value.items()
    if kind == "dict":
        return {name: _unpacked(item, arrays) for name, item in held}
    if kind == "array":
        return arrays[held]
    if kind == "floats":
        return [float(item) for item in arrays[held]]
    if kind == "float" and held in ("inf", "-inf", "nan"):
        return float(held)
    raise ValueError(f"the state holds {kind!r}: {held!r}, which has no meaning")
