"""What a captured step returns: arrays, and the tuples, lists, dictionaries and dataclasses that hold them.

A recorded step computes arrays and nothing else. So what its Python returns is taken apart once: into the arrays, which
are new at every step, and the rest, which is built around them again. The rest cannot change from step to step: names,
None and numbers are constants, and must be the same each time that Python runs.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from typing import Any

import numpy

from ..recording import CaptureError
from ..shim import Array, Backend, backend_of

__all__ = ["Results"]

PLAIN = (bool, int, float, complex, str, bytes, range, slice, type(None))
"""Types whose values are compared by their repr."""


class Results:
    """What one run of a step returned: its ``arrays``, and ``filled``, which builds the same around other arrays.

    ``name`` is the step's, for messages. Raises :class:`CaptureError` for anything that cannot be built again.

    >>> import dualnet as dn
    >>> x = dn.asarray([1.0], backend="numpy")
    >>> found = Results({"loss": x, "parts": (x + 1, None)}, dn.backend.load("numpy"), "step")
    >>> [array.tolist() for array in found.arrays], found.filled([10, 20])
    ([[1.0], [2.0]], {'loss': 10, 'parts': (20, None)})
    """

    def __init__(self, results: Any, backend: Backend, name: str) -> None:
        self.backend, self.name = backend, name
        self.arrays: list[Array] = []
        self.constants: dict[str, Any] = {}  # by their place, such as "[0]['n']"
        self.kinds: list[Any] = []  # what holds what, in the order of a walk through all
        self._build = self._taken_apart(results, "", ())

    def filled(self, arrays: list[Any]) -> Any:
        """The results, with other arrays instead of these."""
        return self._build(arrays)

    def check(self, now: Results) -> None:
        """Raise :class:`CaptureError` unless another run returned the same, apart from the arrays' values."""
        for place, was in self.constants.items():
            if place in now.constants and not _same(was, now.constants[place]):
                raise CaptureError(
                    f"the captured step {self.name} returned {_short(now.constants[place])} at result{place}, but "
                    f"{_short(was, 'another one')} before. A repeated step runs no Python, so it would always return "
                    "the same value. Return arrays, and keep Python values out of the result."
                )
        if self.kinds != now.kinds:
            there, here = (_few(kinds) for kinds in (self.kinds, now.kinds))
            raise CaptureError(
                f"the captured step {self.name} returned {here}, but {there} before. Only values may differ from call "
                "to call: return the same containers, with the same dtype and shape for each array."
            )

    def _taken_apart(self, value: Any, place: str, around: tuple[Any, ...]) -> Callable[[list[Any]], Any]:
        """Note what the value holds, and return a function that builds it again from all arrays.

        ``around`` are the containers that hold it.
        """
        if backend_of(value) is self.backend:
            self.kinds.append((place, "array"))
            at = len(self.arrays)
            self.arrays.append(numpy.asarray(value) if isinstance(value, numpy.generic) else value)
            return lambda arrays: arrays[at]
        inside = _inside(value, self.name, place)
        if inside is None:
            self.kinds.append((place, type(value)))
            self.constants[place] = value
            return lambda arrays: value
        if any(one is value for one in around):
            raise CaptureError(
                f"the captured step {self.name} returned a {type(value).__name__} that contains itself, at "
                f"result{place}. That cannot be rebuilt. Return the arrays in a tuple, a list or a dictionary."
            )
        keys, values, made = inside
        self.kinds.append((place, type(value), *map(str, keys)))
        parts = [self._taken_apart(each, f"{place}[{key!r}]", (*around, value)) for key, each in zip(keys, values)]
        return lambda arrays: made([part(arrays) for part in parts])


Inside = tuple[list[Any], list[Any], Callable[[list[Any]], Any]]
"""The keys or places of what something holds, what it holds, and the function that makes one with other contents."""


def _inside(value: Any, name: str, place: str) -> Inside | None:
    """What a result holds; None if it holds nothing that we look at."""
    kind = type(value)
    if isinstance(value, tuple):
        if kind is not tuple and not hasattr(kind, "_make"):
            raise CaptureError(
                f"the captured step {name} returned a {kind.__name__} at result{place}, a tuple subclass, "
                "which cannot be rebuilt. Return a tuple, a namedtuple, a list, a dictionary or a "
                "dataclass of arrays."
            )
        return [*range(len(value))], [*value], tuple if kind is tuple else kind._make
    if isinstance(value, list):
        return (
            [*range(len(value))],
            [*value],
            _maker(value, len(value), lambda new, made: new.__setitem__(slice(None), made)),
        )
    if isinstance(value, dict):
        keys = [*value]
        return keys, [*value.values()], _maker(value, len(value), lambda new, made: new.update(zip(keys, made)))
    if is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in fields(value) if hasattr(value, field.name)]

        def put(new: Any, made: list[Any]) -> None:
            for field, each in zip(names, made):
                object.__setattr__(new, field, each)  # of a frozen one, too

        return names, [getattr(value, field) for field in names], _maker(value, len(names), put)
    return None


def _maker(value: Any, number: int, fill: Callable[[Any, list[Any]], Any]) -> Callable[[list[Any]], Any]:
    """A function that makes one like ``value``, with other contents."""

    def made(contents: list[Any], like: Any) -> Any:
        new = copy.copy(like)
        fill(new, contents)
        return new

    empty = made([None] * number, value)
    return lambda contents: made(contents, empty)  # which keeps no array alive


def _same(one: Any, other: Any) -> bool:
    """Are these the same constant? Arrays on the host are if their bytes are equal, other objects if they are one."""
    if one is other:
        return True
    if type(one) is not type(other):
        return False
    if type(one) in PLAIN:
        return repr(one) == repr(other)  # NaN equals itself here, and 0.0 is not -0.0
    if isinstance(one, (numpy.ndarray, numpy.generic)):
        return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()
    return False


def _few(kinds: list[Any]) -> str:
    """What was returned, in a few words."""

    def words() -> Iterator[str]:
        for place, kind, *keys in kinds[:6]:
            name = kind if isinstance(kind, str) else kind.__name__
            yield f"result{place}: {name}" + f" of {', '.join(keys)}" * bool(keys)

    return "; ".join(words()) + "; ..." * (len(kinds) > 6)


def _short(value: Any, otherwise: str = "") -> str:
    """A constant as it reads; an object as its kind."""
    text = repr(value)
    reads = type(value) in PLAIN or isinstance(value, (numpy.ndarray, numpy.generic))
    return text if reads and len(text) <= 60 and "\n" not in text else otherwise or f"a {type(value).__name__}"
