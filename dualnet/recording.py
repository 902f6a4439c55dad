"""What a training step must say so that a GPU can repeat it without Python (see :mod:`dualnet.training.capture`).

A captured step runs its Python once or twice, and from then on only the device's part of it is repeated. So two things
are said, by layers, optimizers and whoever else keeps something from step to step:

- A number that changes from step to step is read with ``live(self, "name")``. That is the number itself, but in a step
  that is captured an array without axes, which holds the number anew at the beginning of every step. What is only moved
  on and never read is said with ``counted(self, "name")``.
- An array that a step replaces is set with ``assign(self, "name", array)``. That sets the attribute, but in a step that
  is captured the array stays where it is and takes over the values.

In a step that is captured, setting an attribute of a layer, a parameter or an optimizer in any other way raises
:class:`CaptureError`: repeated without Python, it would be forgotten in silence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from .constructors import Constructed
from .shim import Array, Backend, backend_of

__all__ = ["CaptureError", "Recording", "Stateful", "assign", "counted", "lasting", "live", "owned"]

Name = str | tuple[str, ...]
"""An attribute, or one followed by the keys of dictionaries inside it: ``("_slots", "0.w", "velocity")``."""


class CaptureError(RuntimeError):
    """A training step that cannot be captured; the message says what it does and what to do instead."""


class Stateful(Constructed):
    """Base class of whatever keeps something from step to step: watches over its attributes in a captured step.

    >>> import dualnet as dn
    >>> isinstance(dn.ReLU(), Stateful)
    True
    """

    __slots__ = ()
    unwatched: tuple[str, ...] = ()  # attributes that hold nothing that the next step depends on

    def __setattr__(self, name: str, value: Any) -> None:
        recording = _recording.get()
        if recording is not None:
            recording.allow(self, name)
        object.__setattr__(self, name, value)


def live(owner: Any, name: str, dtype: str = "uint64") -> Any:
    """A number that changes from step to step: ``owner.name``, or in a captured step an array that holds it.

    A count is an array of uint64. A whole number that is read so may be set while a step is captured, and the repeated
    steps move it on by as much.

    >>> import dualnet as dn
    >>> live(dn.SGD(lr=0.5), "current_lr")
    0.5
    """
    recording = _recording.get()
    return getattr(owner, name) if recording is None else recording.live(owner, name, dtype)


def counted(owner: Any, name: str) -> None:
    """Say that a step moves on the whole number ``owner.name``, which no array is made of.

    >>> import dualnet as dn
    >>> counted(dn.SGD(lr=0.5), "_steps")  # nothing, as long as nothing is captured
    """
    recording = _recording.get()
    if recording is not None:
        recording.number(owner, name)


def assign(owner: Any, name: Name, value: Array) -> None:
    """Set ``owner.name`` to a new array; in a captured step its old array takes over the values.

    >>> import dualnet as dn
    >>> norm = dn.BatchNorm().init((2,))
    >>> assign(norm, "moving_mean", dn.asarray([1.0, 2.0])); dn.to_numpy(norm.moving_mean)
    array([1., 2.], dtype=float32)
    """
    recording = _recording.get()
    if recording is None:
        _set(owner, name, value)
    else:
        recording.assign(owner, name, value)


def owned(owner: Any, name: Name) -> bool:
    """May the present array be overwritten? In a captured step it may once it was assigned there; else never.

    >>> import dualnet as dn
    >>> owned(dn.BatchNorm().init((2,)), "moving_mean")
    False
    """
    recording = _recording.get()
    return recording is not None and recording.owns(owner, name)


def lasting(make: Callable[[], Any]) -> Any:
    """What ``make()`` makes, for someone who keeps it: in a captured step it does not lie in the graph's own memory.

    That memory is given back when the graph is dropped, but not the block of it in which something is still used.

    >>> lasting(lambda: [1.0])
    [1.0]
    """
    recording = _recording.get()
    return make() if recording is None else recording.lasting(make)


@dataclass
class Number:
    """A number of the host, and the arrays of the device that hold what it was at the beginning of this step."""

    owner: Any
    name: str
    written: float | int
    arrays: dict[str, Array]  # by dtype

    def write(self) -> None:
        value = getattr(self.owner, self.name)
        if value != self.written:
            for array in self.arrays.values():
                array[...] = value
            self.written = value


@dataclass
class Cell:
    """An array that steps overwrite, and where it belongs."""

    owner: Any
    name: Name
    array: Array

    def return_to(self) -> None:
        """What was set from outside between two steps moves into the array that the steps know."""
        value = _get(self.owner, self.name)
        if value is self.array:
            _say_changed(self.owner)  # by the steps that ran without Python
            return
        where = backend_of(value)
        if where is None:
            value = 0 if value is None else value
        elif where is not backend_of(self.array) or value.shape != self.array.shape:
            raise CaptureError(
                f"{_path(self.owner, self.name)} was {_told(self.array)} when the step was captured, and is now "
                f"{_told(value)}. Capture the step anew, with dn.capture(step)."
            )
        self.array[...] = value
        _set(self.owner, self.name, self.array)
        _say_changed(self.owner)


class Recording:
    """The numbers and arrays of one captured step: what it has read with ``live`` and set with ``assign``."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.closed = False  # is Python running for the last time? Then nothing new may turn up
        self.kept: list[Any] = []  # what was made to last while it did: the graph writes there
        self._numbers: dict[tuple[int, str], Number] = {}
        self._cells: dict[tuple[int, Name], Cell] = {}

    @contextmanager
    def running(self) -> Iterator[None]:
        """Inside, ``live`` and ``assign`` speak to this recording."""
        token = _recording.set(self)
        try:
            yield
        finally:
            _recording.reset(token)

    def prepare(self) -> None:
        """Before a step: write the numbers, and take back arrays that were replaced from outside."""
        self.backend.activate()
        for number in self._numbers.values():
            number.write()
        for cell in self._cells.values():
            cell.return_to()

    def counts(self) -> dict[tuple[int, str], int]:
        """Every whole number that steps may move on."""
        numbers = {key: getattr(number.owner, number.name) for key, number in self._numbers.items()}
        return {key: value for key, value in numbers.items() if isinstance(value, int)}

    def move(self, by: dict[tuple[int, str], int]) -> None:
        """Move counts on, as Python would have in the step."""
        for key, amount in by.items():
            number = self._numbers[key]
            setattr(number.owner, number.name, getattr(number.owner, number.name) + amount)

    # -- what live, assign, lasting and Stateful ask

    def live(self, owner: Any, name: str, dtype: str) -> Array:
        number, value = self.number(owner, name), getattr(owner, name)
        if dtype not in number.arrays:
            self._known(owner, name)
            array = number.arrays[dtype] = self.lasting(lambda: self.backend.xp.zeros((), dtype=dtype))
            array[...] = number.written
        if value == number.written:
            return number.arrays[dtype]
        if isinstance(value, int):
            return number.arrays[dtype] + (value - number.written)  # a shared layer, in its second place
        raise CaptureError(
            f"{_path(owner, name)} changes within the step, from {number.written} to {value}. A captured step makes "
            "one step of each optimizer; make two captured steps."
        )

    def number(self, owner: Any, name: str) -> Number:
        number = self._numbers.get((id(owner), name))
        if number is None:
            self._known(owner, name)
            number = self._numbers[id(owner), name] = Number(owner, name, getattr(owner, name), {})
        return number

    def assign(self, owner: Any, name: Name, value: Array) -> None:
        cell = self._cells.get((id(owner), name))
        if cell is None:
            self._known(owner, name)
            old = _get(owner, name)
            dtype = value.dtype if backend_of(old) is None else old.dtype
            # a copy, nobody else's: what held the old array or this one keeps it
            array = self.lasting(lambda: value.astype(dtype))
            _set(owner, name, array)
            self._cells[id(owner), name] = Cell(owner, name, array)
        else:
            if value is not cell.array:
                cell.array[...] = value
            _say_changed(owner)

    def lasting(self, make: Callable[[], Any]) -> Any:
        with self.backend.lasting():
            made = make()
        if self.closed:
            self.kept.append(made)
        return made

    def owns(self, owner: Any, name: Name) -> bool:
        cell = self._cells.get((id(owner), name))
        return cell is not None and cell.array is _get(owner, name)

    def allow(self, owner: Any, name: str) -> None:
        if (id(owner), name) in self._numbers or name in type(owner).unwatched:
            return
        raise CaptureError(
            f"{_path(owner, name)} is set in a step that is captured, and would be forgotten when the step is repeated "
            f"without Python. Set an array with dn.recording.assign(self, {name!r}, array), and read a count with "
            f"dn.recording.live(self, {name!r}) before it changes; or train without capture."
        )

    def _known(self, owner: Any, name: Name) -> None:
        if self.closed:
            raise CaptureError(
                f"{_path(owner, name)} turns up for the first time when the step is captured: it did something else "
                "before. A captured step does the same at every call."
            )


_recording: ContextVar[Recording | None] = ContextVar("dualnet_recording", default=None)


def _get(owner: Any, name: Name) -> Any:
    attribute, *keys = (name,) if isinstance(name, str) else name
    value = getattr(owner, attribute)
    for key in keys:
        value = value.get(key) if value is not None else None
    return value


def _set(owner: Any, name: Name, value: Any) -> None:
    if isinstance(name, str):
        object.__setattr__(owner, name, value)
        return
    attribute, *keys, last = name
    inside = getattr(owner, attribute)
    for key in keys:
        inside = inside.setdefault(key, {})
    inside[last] = value


def _say_changed(owner: Any) -> None:
    """A parameter keeps a copy of its value in 16 bits, and must hear of it."""
    changed = getattr(owner, "changed", None)
    if changed is not None:
        changed()


def _path(owner: Any, name: Name) -> str:
    return f"{type(owner).__name__}.{name if isinstance(name, str) else '.'.join(name)}"


def _told(value: Any) -> str:
    return f"{tuple(value.shape)} on {backend_of(value).name}"
