"""The pickles of CIFAR's Python version, read as data: nothing that a pickle names is imported or called.

A pickle is a program: Python's own reader runs whatever functions it names. Here its instructions are only listed
(:func:`pickletools.genops` just parses), and those that build dictionaries, lists, texts, numbers and NumPy arrays of
bytes are carried out on a stack of our own. Every other instruction, and every other name, raises an error.
"""

from __future__ import annotations

import math
import pickletools
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy

from .reading import DataError

__all__ = ["read_pickle"]

RECONSTRUCT = ("numpy.core.multiarray _reconstruct", "numpy._core.multiarray _reconstruct")
NDARRAY, DTYPE = "numpy ndarray", "numpy dtype"
KNOWN = (*RECONSTRUCT, NDARRAY, DTYPE, "_codecs encode")
BYTES = ("u1", "|u1", "uint8")
CONSTANTS = {"EMPTY_TUPLE": (), "NONE": None, "NEWTRUE": True, "NEWFALSE": False}
PUTS, GETS, IDLE = ("BINPUT", "LONG_BINPUT", "PUT"), ("GET", "BINGET", "LONG_BINGET"), ("PROTO", "FRAME", "STOP")
VALUES = (
    "INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING BINBYTES "
    "SHORT_BINBYTES BINBYTES8 UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8"
).split()


class Name(str):
    """A function or a class that the pickle names."""


class Bytes:
    """An array as the pickle describes it: its shape and its bytes."""

    state: Any = None


class Kind:
    """The type of an array's elements."""

    def __init__(self, name: Any) -> None:
        self.name = name


MARK = object()


def read_pickle(data: bytes, path: Path) -> dict[str, Any]:
    """The dictionary in a pickle, with its texts as ``str`` and its arrays of bytes as NumPy arrays.

    Raises :class:`DataError` for a pickle that holds or names anything else; the message names ``path``.

    >>> import numpy, pathlib, pickle
    >>> batch = pickle.dumps({b"labels": [3, 5], b"data": numpy.array([[1, 2]], "uint8")}, protocol=2)
    >>> read_pickle(batch, pathlib.Path("data_batch_1"))
    {'labels': [3, 5], 'data': array([[1, 2]], dtype=uint8)}
    >>> read_pickle(pickle.dumps(print), pathlib.Path("batch"))
    Traceback (most recent call last):
    dualnet.data.DataError: batch: it is a pickle that names builtins print, which is not data; dualnet never runs it.
    """
    try:
        with warnings.catch_warnings(action="ignore"):  # about odd escapes in damaged text
            content = _Machine().run(data)
        if not isinstance(content, dict) or not all(isinstance(key, (str, bytes)) for key in content):
            raise Refused("does not hold the dictionary of a data set")
        return {_text(key): _finished(value) for key, value in content.items()}
    except Refused as error:
        raise DataError(f"{path}: it is a pickle that {error}") from None
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise DataError(f"{path}: it is not a pickle, or a damaged one ({error}). Download it again.") from None


class Refused(Exception):
    """What is wrong with a pickle that can be read."""


class _Machine:
    """The stack on which a pickle's instructions work, and the values that they store for later."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def run(self, data: bytes) -> Any:
        for opcode, argument, _ in pickletools.genops(data):
            self.step(opcode.name, argument)
        (result,) = self.stack
        return result

    def step(self, code: str, argument: Any) -> None:
        stack = self.stack
        if code in IDLE:
            return
        if code in VALUES:
            stack.append(argument)
        elif code in PUTS:
            self.memo[argument] = stack[-1]
        elif code == "MEMOIZE":
            self.memo[len(self.memo)] = stack[-1]
        elif code in GETS:
            stack.append(self.memo[argument])
        elif code in CONSTANTS:
            stack.append(CONSTANTS[code])
        elif code == "MARK":
            stack.append(MARK)
        elif code in OPERATIONS:
            OPERATIONS[code](self, argument)
        else:
            raise Refused(f"uses the instruction {code}, which no data set needs; dualnet never runs it.")

    def pop_marked(self) -> list[Any]:
        """Everything above the last mark."""
        place = len(self.stack) - 1
        while place >= 0 and self.stack[place] is not MARK:
            place -= 1
        if place < 0:
            raise ValueError("a mark is missing")
        above = self.stack[place + 1 :]
        del self.stack[place:]
        return above

    def make_list(self, _: Any) -> None:
        self.stack.append(self.pop_marked())

    def empty_list(self, _: Any) -> None:
        self.stack.append([])

    def empty_dict(self, _: Any) -> None:
        self.stack.append({})

    def make_dict(self, _: Any) -> None:
        made: dict[Any, Any] = {}
        _fill(made, self.pop_marked())
        self.stack.append(made)

    def append(self, _: Any) -> None:
        value = self.stack.pop()
        _a(list, self.stack[-1]).append(value)

    def appends(self, _: Any) -> None:
        values = self.pop_marked()
        _a(list, self.stack[-1]).extend(values)

    def setitem(self, _: Any) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        _fill(_a(dict, self.stack[-1]), [key, value])

    def setitems(self, _: Any) -> None:
        pairs = self.pop_marked()
        _fill(_a(dict, self.stack[-1]), pairs)

    def make_tuple(self, _: Any) -> None:
        self.stack.append(tuple(self.pop_marked()))

    def last(self, count: int) -> None:
        """The last ``count`` values as a tuple."""
        if len(self.stack) < count:
            raise ValueError("a value is missing")
        self.stack[-count:] = [tuple(self.stack[-count:])]

    def named(self, argument: Any) -> None:
        """A name, from the instruction itself or from the stack."""
        if argument is None:
            name, module = self.stack.pop(), self.stack.pop()
            argument = f"{module} {name}"
        if argument not in KNOWN:
            raise Refused(f"names {str(argument)[:80]}, which is not data; dualnet never runs it.")
        self.stack.append(Name(argument))

    def reduce(self, _: Any) -> None:
        """How NumPy begins an array or a type; also text as bytes."""
        arguments, name = _a(tuple, self.stack.pop()), _a(Name, self.stack.pop())
        if name in RECONSTRUCT and arguments[:1] == (NDARRAY,):
            self.stack.append(Bytes())
        elif name == DTYPE and arguments:
            self.stack.append(Kind(arguments[0]))
        elif name == "_codecs encode" and len(arguments) == 2:
            self.stack.append(_a(str, arguments[0]).encode("latin-1"))
        else:
            raise Refused(f"uses {name} in a way that no array does; dualnet never runs it.")

    def build(self, _: Any) -> None:
        """The state of an array. (The state of a type is its byte order, and bytes have none.)"""
        state = _a(tuple, self.stack.pop())
        made = self.stack[-1]
        if isinstance(made, Bytes):
            made.state = state
        elif not isinstance(made, Kind):
            raise Refused("sets the state of something other than an array; dualnet never runs it.")


OPERATIONS: dict[str, Callable[[_Machine, Any], None]] = {
    "LIST": _Machine.make_list,
    "EMPTY_LIST": _Machine.empty_list,
    "EMPTY_DICT": _Machine.empty_dict,
    "DICT": _Machine.make_dict,
    "APPEND": _Machine.append,
    "APPENDS": _Machine.appends,
    "SETITEM": _Machine.setitem,
    "SETITEMS": _Machine.setitems,
    "TUPLE": _Machine.make_tuple,
    "TUPLE1": lambda machine, _: machine.last(1),
    "TUPLE2": lambda machine, _: machine.last(2),
    "TUPLE3": lambda machine, _: machine.last(3),
    "GLOBAL": _Machine.named,
    "STACK_GLOBAL": _Machine.named,
    "REDUCE": _Machine.reduce,
    "BUILD": _Machine.build,
}


def _a(kind: Any, value: Any) -> Any:
    if not isinstance(value, kind):
        raise ValueError(f"a {kind.__name__} is missing")
    return value


def _fill(made: dict[Any, Any], pairs: list[Any]) -> None:
    keys, values = pairs[::2], pairs[1::2]
    if len(keys) != len(values) or not all(isinstance(key, (str, bytes)) for key in keys):
        raise Refused("holds a dictionary whose keys are not all texts")
    made.update(zip(keys, values))


def _text(value: Any) -> Any:
    return value.decode("latin-1") if isinstance(value, bytes) else value


def _finished(value: Any) -> Any:
    """A value of the dictionary: an array's bytes as an array, a list with its texts as ``str``."""
    if isinstance(value, Bytes):
        return _array(value)
    return [_text(item) for item in value] if isinstance(value, list) else _text(value)


def _array(made: Bytes) -> numpy.ndarray:
    state = _a(tuple, made.state)
    if len(state) != 5:
        raise ValueError("the state of an array is incomplete")
    _, shape, kind, fortran, data = state
    if not isinstance(kind, Kind) or kind.name not in BYTES:
        raise Refused(f"holds an array of {getattr(kind, 'name', kind)!r}; expected bytes, 'u1'")
    data = data.encode("latin-1") if isinstance(data, str) else _a(bytes, data)  # Python 2 had one type for both
    if not all(type(length) is int and length >= 0 for length in _a(tuple, shape)) or math.prod(shape) != len(data):
        raise ValueError(f"an array of shape {str(shape)[:80]} has {len(data)} bytes")
    return numpy.frombuffer(data, numpy.uint8).reshape(shape, order="F" if fortran else "C")
