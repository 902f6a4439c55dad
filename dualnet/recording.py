"""How a training step describes itself, so that it can be repeated without Python (:mod:`dualnet.training.capture`).

A captured step runs its Python code a few times; from then on only its computations are repeated. So layers, optimizers
and everything else that remembers something from step to step must follow two rules:

- Read a number that changes from step to step with ``live(self, "name")``. This is the number itself; in a captured
  step it is a 0-d array, which is updated with the number at the start of every step. If a step only counts a number
  up, and never reads it, call ``counted(self, "name")``.
- Set an array that a step replaces with ``assign(self, "name", array)``. This sets the attribute; in a captured step
  the old array stays where it is and gets the new values.

While a step is captured, setting an attribute of a layer, a parameter or an optimizer in any other way raises
:class:`CaptureError`: without Python, the repeated steps would silently forget it.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from itertools import chain
from operator import is_
from typing import Any
from weakref import ref

from .constructors import Constructed
from .shim import Array, Backend, backend_of

__all__ = ["CaptureError", "Recording", "Stateful", "assign", "counted", "lasting", "live", "owned", "unshared"]

Name = str | tuple[str, ...]
"""An attribute, or one followed by the keys of dictionaries inside it: ``("_slots", "0.w", "velocity")``."""


class CaptureError(RuntimeError):
    """A training step cannot be captured; the message says why, and what to do instead."""

    __module__ = "dualnet"  # users import it from there


class Stateful(Constructed):
    """Base class of everything that remembers something between steps: in a captured step it guards its attributes.

    >>> import dualnet as dn
    >>> isinstance(dn.ReLU(), Stateful)
    True
    """

    __slots__ = ()
    unwatched: tuple[str, ...] = ()  # attributes on which the next step does not depend

    def __setattr__(self, name: str, value: Any) -> None:
        recording = _recording.get()
        if recording is not None:
            recording.allow(self, name)
        elif name[0] != "_" and not (name == "value" and backend_of(value) is not None):  # a parameter's new array
            if not isinstance(getattr(type(self), name, None), property):
                _changes[0] += 1
        object.__setattr__(self, name, value)

    def __delattr__(self, name: str) -> None:
        recording = _recording.get()
        if recording is not None:
            recording.allow(self, name)
        _changes[0] += 1
        object.__delattr__(self, name)


@contextmanager
def noting() -> Iterator[dict[tuple[int, str], Any]]:
    """Inside, note each attribute that this thread reads from something :class:`Stateful`, with its owner.

    So we know a step's networks, however it reaches them. The class listens only inside, so that all other reads stay
    fast; reads in other threads are not noted.

    >>> import dualnet as dn
    >>> net = dn.ReLU()
    >>> with noting() as read:
    ...     net.frozen
    False
    >>> read[id(net), "frozen"] is net
    True
    """
    read: dict[tuple[int, str], Any] = {}
    token = _read.set(read)
    with _listening:
        _listeners[0] += 1
        Stateful.__getattribute__ = _noted  # type: ignore[method-assign]
    try:
        yield read
    finally:
        with _listening:
            _listeners[0] -= 1
            if not _listeners[0]:
                del Stateful.__getattribute__
        _read.reset(token)


def _noted(self: Any, name: str) -> Any:
    read = _read.get()
    if read is not None:
        read[id(self), name] = self
    return super(Stateful, self).__getattribute__(name)


_read: ContextVar[dict[tuple[int, str], Any] | None] = ContextVar("dualnet_read", default=None)
_listening, _listeners = threading.Lock(), [0]

PLAIN = (bool, int, float, complex, str, bytes, type(None))
"""Settings of these types are compared by value; others, such as a layer or a function, by identity."""
_changes = [0]  # how many times a setting was set so far, anywhere


MOST = 64
"""Containers that the user's code names are compared by content up to this many things in all, then by length."""


class Named:
    """The current values of some names in the user's code: ``get(name)`` returns the value of one.

    It iterates over the values. They are attributes of ``one``, if it is given.
    """

    def __init__(self, label: str, get: Callable[[str], Any], names: Iterable[str], one: Any = None) -> None:
        self.label, self.get, self.names, self.one = label, get, [*names], one

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[Any]:
        return map(self.get, self.names)

    def leave_out(self, moved: frozenset[tuple[Any, str]]) -> None:
        """Leave out names that a step changes itself: those of ``one``, or of this label."""
        self.names = [name for name in self.names if moved.isdisjoint([(id(self.one), name), (self.label, name)])]


class Settings:
    """A snapshot of the settings of some layers, parameters and optimizers, such as ``frozen`` and ``momentum``.

    A recorded step holds them as constants. A setting is a public attribute that no step changes, or sets with
    :func:`assign`, and that is neither part of a state nor ``unwatched``, and was not set with :func:`leave`. Lists
    and dictionaries are settings, including everything in them. The check is cheap as long as no setting was assigned:
    then it looks only at what can change in place.

    >>> import dualnet as dn
    >>> opt = dn.SGD(lr=0.5, momentum=0.9)
    >>> opt.no_decay = ["b"]
    >>> settings = Settings([opt])
    >>> opt.lr = 0.1  # read again in every step
    >>> settings.changed()
    False
    >>> opt.no_decay.append("gamma")
    >>> settings.difference()
    'SGD.no_decay'
    """

    def __init__(self, owners: Iterable[Any] = (), moved: Collection[tuple[Any, str]] = ()) -> None:
        self.owners, self.moved = list(owners), frozenset(moved)
        for owner in self.owners:
            if isinstance(owner, Named):
                owner.leave_out(self.moved)
        self._keep(_changes[0], *self._read())

    def changed(self) -> bool:
        """Has one of them changed since the snapshot?"""
        return self.difference() != ""

    def difference(self) -> str:
        """One that has changed since the snapshot; "" if none has."""
        for owner, name in self.differences():
            return f"{name} of {owner.label}" if isinstance(owner, Named) else f"{type(owner).__name__}.{name}"
        return ""

    def differences(self) -> list[tuple[Any, str]]:
        """All that have changed since the snapshot, each with its owner."""
        if self.changes == _changes[0] and self._untouched():
            return []
        changes, (values, inside) = _changes[0], self._read()
        found = [
            (owner, name)
            for owner, now, was in zip(self.owners, values, self.values)
            if now != was
            for name in {**was, **now}
            if was.get(name, _recording) != now.get(name, _recording)
        ]
        if not found:
            self._keep(changes, values, inside)
        return found

    def _keep(self, changes: int, values: list[dict[str, Any]], inside: list[Any]) -> None:
        self.changes, self.values, self.inside = changes, values, inside
        self.lengths, self.contents = [*map(len, inside)], [*chain.from_iterable(inside)]

    def _untouched(self) -> bool:
        """Do lists and dictionaries still hold the same objects? All at once: this comes before every step."""
        same = [*map(len, self.inside)] == self.lengths
        return same and all(map(is_, chain.from_iterable(self.inside), self.contents))

    def _read(self) -> tuple[list[dict[str, Any]], list[Any]]:
        inside: list[Any] = []  # what can change in place, to go through again
        return [self._of(owner, inside) for owner in self.owners], inside

    def _of(self, owner: Any, inside: list[Any]) -> dict[str, Any]:
        if not hasattr(owner, "__dict__"):  # a parameter
            return {"frozen": owner.frozen}
        if isinstance(owner, Named):
            inside.append(owner)
            return {name: _known(value, inside, MOST) for name, value in zip(owner.names, owner)}
        no_settings = (*_unwatched(owner.__class__), *getattr(owner, "state_names", ()))
        left = vars(owner).get("_left", {})
        return {
            name: _known(value, inside)
            for name, value in vars(owner).items()
            if name[0] != "_" and name not in no_settings and (id(owner), name) not in self.moved
            if left.get(name, _recording) is not value
        }


@cache
def _unwatched(kind: type) -> frozenset[str]:
    """The attributes that a class and its bases name."""
    return frozenset(name for base in kind.__mro__ for name in vars(base).get("unwatched", ()))


class _Itself:
    """An object, equal only to itself."""

    __slots__ = ("one",)

    def __init__(self, one: Any) -> None:
        self.one = one

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Itself) and self.one is other.one

    __hash__ = None  # type: ignore[assignment]


def _known(value: Any, inside: list[Any], most: float = math.inf) -> list[Any]:
    """All that a walk through a setting meets, to compare it by; ``inside`` gets everything that can change in place.

    If the walk meets an object again, such as the parent of a node in a tree, it only names it; otherwise a walk in a
    circle would never end. With the limit ``most``, which the user's code has, containers beyond it count by their
    length, and arrays are left out.
    """
    met: list[Any] = []
    seen: dict[int, tuple[int, Any]] = {}
    waiting = [value]
    while waiting:
        one = waiting.pop()
        kind = type(one)
        if kind in PLAIN:
            # as text, NaN equals itself, and 0.0 is not -0.0
            met.append((kind, repr(one) if kind in (float, complex) else one))
            continue
        if most < math.inf and backend_of(one) is not None:
            scalar = type(one).__hash__ is not None  # of NumPy; arrays have no hash
            met.append((one.dtype, one.tobytes()) if scalar else "array")
            continue
        if id(one) in seen:
            met.append(("again", seen[id(one)][0]))
            continue
        seen[id(one)] = len(seen), one  # held, so that no other gets its id
        parts = [one] if kind is tuple else _parts(one)
        if not parts:
            met.append(_Itself(one))
            continue
        if len(met) + sum(map(len, parts)) > most:
            met += [_Itself(one), len(parts[0])]
            inside.append(_Length(one))
            continue
        if kind is not tuple and not (is_dataclass(one) and one.__dataclass_params__.frozen):
            inside += parts
        held = [*chain.from_iterable(parts)]
        met.append((kind, len(held)))
        waiting += held
    return met


def _parts(value: Any) -> list[Any]:
    """What a list, a set, a dictionary or a dataclass holds, now and later; nothing for anything else."""
    if type(value) in (list, set):
        return [value]
    if type(value) is dict:
        return [value, value.values()]
    return [_Fields(value)] if is_dataclass(value) and not isinstance(value, type) else []


class _Length:
    """Only how much a container holds."""

    def __init__(self, one: Any) -> None:
        self.one = one

    def __len__(self) -> int:
        return len(self.one) if hasattr(self.one, "__len__") else 0

    def __iter__(self) -> Iterator[Any]:
        return iter(())


class _Fields:
    """The values of a dataclass."""

    def __init__(self, one: Any) -> None:
        self.one, self.names = one, [field.name for field in fields(one)]

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[Any]:
        return (getattr(self.one, name, None) for name in self.names)


def live(owner: Any, name: str, dtype: str = "uint64") -> Any:
    """A number that changes from step to step: ``owner.name``, or in a captured step an array that holds it.

    Counts are uint64 arrays. A whole number read this way may be set while the step is captured: the repeated steps
    change it by the same amount.

    >>> import dualnet as dn
    >>> live(dn.SGD(lr=0.5), "current_lr")
    0.5
    """
    recording = _recording.get()
    return getattr(owner, name) if recording is None else recording.live(owner, name, dtype)


def leave(owner: Any, name: str, value: Any) -> None:
    """Set an attribute on which no step depends, such as the figures that ``fit`` leaves in a network.

    It is not a setting until somebody else sets it: a user's layer may have a setting of the same name.

    >>> import dualnet as dn
    >>> net = dn.ReLU()
    >>> settings = Settings([net])
    >>> leave(net, "loss", "mean_squared_error"); settings.changed()
    False
    >>> net.loss = "cosine"; settings.changed()
    True
    """
    object.__setattr__(owner, "_left", {**vars(owner).get("_left", {}), name: value})
    object.__setattr__(owner, name, value)


def within() -> bool:
    """Is Python running a captured step right now?

    >>> within()
    False
    """
    return _recording.get() is not None


def counted(owner: Any, name: str) -> None:
    """Announce that a step changes the whole number ``owner.name`` without reading it.

    >>> import dualnet as dn
    >>> counted(dn.SGD(lr=0.5), "_steps")  # does nothing unless a step is being captured
    """
    recording = _recording.get()
    if recording is not None:
        recording.number(owner, name)


def assign(owner: Any, name: Name, value: Array) -> None:
    """Set ``owner.name`` to a new array; in a captured step the old array gets the values.

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
    """May the array be overwritten in place? Only in a captured step, once :func:`assign` has set it there.

    >>> import dualnet as dn
    >>> owned(dn.BatchNorm().init((2,)), "moving_mean")
    False
    """
    recording = _recording.get()
    return recording is not None and recording.owns(owner, name)


def lasting(make: Callable[[], Any]) -> Any:
    """Call ``make()`` for arrays that outlive the step: in a captured step they stay out of the recording's own memory.

    That memory is freed with the recording, except for blocks that are still in use.

    >>> lasting(lambda: [1.0])
    [1.0]
    """
    recording = _recording.get()
    return make() if recording is None else recording.lasting(make)


def unshared(state: dict[str, Any]) -> dict[str, Any]:
    """A state by name, with copies of those arrays that captured steps overwrite; all others are never overwritten.

    >>> import dualnet as dn
    >>> x = dn.asarray([1.0])
    >>> unshared({"x": x})["x"] is x
    True
    """
    alive = [recording for one in tuple(_recordings) if (recording := one()) is not None]
    overwritten = {id(known.array) for recording in alive for known in tuple(recording._arrays.values())}
    return {name: value.copy() if id(value) in overwritten else value for name, value in state.items()}


@dataclass
class LiveNumber:
    """A number on the host, and the arrays on the device that hold its value at the start of the step."""

    owner: Any
    name: str
    written: float | int  # the value in the arrays
    arrays: dict[str, Array]  # by dtype

    def write(self) -> None:
        value = getattr(self.owner, self.name)
        if value != self.written:
            for array in self.arrays.values():
                array[...] = value
            self.written = value


@dataclass
class LiveArray:
    """An array that every step overwrites in place, and the attribute that holds it."""

    owner: Any
    name: Name
    array: Array
    before: Any = None  # what was there when a step set it for the first time, until that step is done

    def __post_init__(self) -> None:
        self.changed = getattr(self.owner, "changed", None)

    def take_back(self) -> None:
        """If the attribute was set between two steps, copy the new values into the array that the steps use."""
        value = getattr(self.owner, self.name) if type(self.name) is str else _get(self.owner, self.name)
        if value is self.array:
            if self.changed is not None:
                self.changed()  # by the steps that ran without Python
            return
        backend = backend_of(value)
        if backend is None:
            value = 0 if value is None else value
        elif backend is not backend_of(self.array) or value.shape != self.array.shape or self._other_dtype(value):
            raise CaptureError(
                f"{_path(self.owner, self.name)} was {_described(self.array)} when the step was captured, but is now "
                f"{_described(value)}. Capture the step again, with dn.capture(step)."
            )
        self.array[...] = value
        _set(self.owner, self.name, self.array)
        _mark_changed(self.owner)

    def _other_dtype(self, value: Array) -> bool:
        """What an optimizer remembers is converted, with and without a recording; what layers hold is not."""
        return isinstance(self.name, str) and value.dtype != self.array.dtype


class Recording:
    """The numbers that a captured step has read with ``live``, and the arrays that it has set with ``assign``."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.closed = False  # is this the last run of Python? Then nothing new may appear
        self.changing: set[tuple[str, str]] = set()  # what the user's code changes itself, by label and name
        self.kept: list[Any] = []  # lasting arrays made during that run: the graph writes there
        self._numbers: dict[tuple[int, str], LiveNumber] = {}
        self._arrays: dict[tuple[int, Name], LiveArray] = {}
        _recordings.append(ref(self, _recordings.remove))
        self._shown: dict[int, Array] = {}  # how the running step sees an array, by the array's identity

    @contextmanager
    def running(self) -> Iterator[None]:
        """Inside, ``live`` and ``assign`` use this recording, and attributes hold arrays as the step sees them."""
        token, self._shown = _recording.set(self), {}
        for known in self._arrays.values():
            if _get(known.owner, known.name) is known.array:
                _set(known.owner, known.name, self.show(known.array))
        try:
            yield
        finally:
            _recording.reset(token)
            for known in self._arrays.values():
                if _get(known.owner, known.name) is self.show(known.array):
                    _set(known.owner, known.name, known.array)
            self._shown = {}

    def show(self, array: Array, number: bool = False) -> Array:
        """An array that lasts, or holds a live number, as the running step sees it."""
        if id(array) not in self._shown:
            self._shown[id(array)] = self.backend.watched(array, number)
        return self._shown[id(array)]

    def prepare(self) -> None:
        """Before a step: write the numbers, and copy back arrays that were replaced from outside."""
        self.backend.activate()
        for number in self._numbers.values():
            number.write()
        for array in self._arrays.values():
            array.take_back()

    def follow(self, owner: Any, name: Name) -> None:
        """Steps read this array: if it is set between two steps, the next step sees the new values."""
        value = _get(owner, name)
        if (id(owner), name) not in self._arrays and backend_of(value) is self.backend:
            array = self.backend.plain(self.lasting(value.copy))
            _set(owner, name, array)
            self._arrays[id(owner), name] = LiveArray(owner, name, array)

    def counts(self) -> dict[tuple[int, str], int]:
        """Every whole number that steps may change."""
        numbers = {key: getattr(number.owner, number.name) for key, number in self._numbers.items()}
        return {key: value for key, value in numbers.items() if isinstance(value, int)}

    def move(self, by: dict[tuple[int, str], int]) -> None:
        """Change the counts as Python would have done in the step."""
        for key, amount in by.items():
            number = self._numbers[key]
            _set(number.owner, number.name, getattr(number.owner, number.name) + amount)  # not a setting

    @contextmanager
    def on_trial(self) -> Iterator[None]:
        """Inside, a step may run that does not count: afterwards every count is as it was."""
        before, self.closed = self.counts(), True
        try:
            yield
        finally:
            self.closed = False
            after = self.counts()
            self.move({key: before[key] - after[key] for key in before})

    def owners(self) -> list[Any]:
        """All objects whose numbers steps have read, or whose arrays steps have set."""
        numbers = [number.owner for number in self._numbers.values()]
        return list({id(owner): owner for owner in [*numbers, *(a.owner for a in self._arrays.values())]}.values())

    def settings(self, owners: Iterable[Any]) -> Settings:
        """Their current settings, without the numbers that steps change."""
        arrays = {(owner, name if isinstance(name, str) else name[0]) for owner, name in self._arrays}
        return Settings(owners, {*self._numbers, *arrays, *self.changing})

    def values(self) -> list[tuple[Array, Array]]:
        """Every array that steps overwrite, each with a copy."""
        return [(known.array, known.array.copy()) for known in self._arrays.values()]

    @contextmanager
    def undoing(self, in_place: bool) -> Iterator[None]:
        """If a step raises, restore the counts that it changed and, if it ran ``in_place``, the arrays it overwrote.

        Whatever the step met for the first time is as it was before, and is forgotten again.
        """
        before, known = self.counts(), (dict(self._numbers), dict(self._arrays))
        held = self.values() if in_place else []
        try:
            yield
        except BaseException:
            for array, values in held:
                array[...] = values
            for known_array in known[1].values() if in_place else ():
                _mark_changed(known_array.owner)
            after = self.counts()
            self.move({key: before[key] - after[key] for key in before})
            for key, number in self._numbers.items():
                if key not in known[0] and isinstance(number.written, int):
                    _set(number.owner, number.name, number.written)
            for place, new in self._arrays.items():
                if place not in known[1]:
                    _put_back(new.owner, new.name, new.before)
            self._numbers, self._arrays = known
            raise
        for met in self._arrays.values():
            met.before = None

    # -- called by live, counted, assign, owned, lasting and Stateful

    def live(self, owner: Any, name: str, dtype: str) -> Array:
        number, value = self.number(owner, name), getattr(owner, name)
        if dtype not in number.arrays:
            self._check_known(owner, name)
            array = number.arrays[dtype] = self.lasting(lambda: self.backend.xp.zeros((), dtype=dtype))
            array[...] = number.written
        if value == number.written:
            return self.show(number.arrays[dtype], number=True)
        if isinstance(value, int):
            return self.show(number.arrays[dtype], number=True) + (
                value - number.written
            )  # a shared layer, at its second place
        raise CaptureError(
            f"{_path(owner, name)} changes within the step, from {number.written} to {value}. A captured step makes "
            "one step of each optimizer; make two captured steps."
        )

    def number(self, owner: Any, name: str) -> LiveNumber:
        number = self._numbers.get((id(owner), name))
        if number is None:
            self._check_known(owner, name)
            number = self._numbers[id(owner), name] = LiveNumber(owner, name, getattr(owner, name), {})
        return number

    def assign(self, owner: Any, name: Name, value: Array) -> None:
        known = self._arrays.get((id(owner), name))
        if known is None:
            self._check_known(owner, name)
            old = _get(owner, name)
            dtype = value.dtype if backend_of(old) is None else old.dtype
            # a copy that only the steps write to: anyone who holds the old array or this one keeps its values
            made = self.backend.xp.asarray(value) if self.backend.on_host else value  # even for a NumPy scalar
            array = self.backend.plain(self.lasting(lambda: made.astype(dtype)))
            _set(owner, name, self.show(array))
            self._arrays[id(owner), name] = LiveArray(owner, name, array, old)
        else:
            place = self.show(known.array)
            if value is not place:
                place[...] = value
            _mark_changed(owner)

    def owns(self, owner: Any, name: Name) -> bool:
        known = self._arrays.get((id(owner), name))
        return known is not None and self.show(known.array) is _get(owner, name)

    def lasting(self, make: Callable[[], Any]) -> Any:
        with self.backend.lasting():
            made = make()
        if self.closed:
            self.kept.append(made)
        return made

    def allow(self, owner: Any, name: str) -> None:
        if (id(owner), name) in self._numbers or name in _unwatched(owner.__class__):
            return
        raise CaptureError(
            f"{_path(owner, name)} is set in a captured step, and would be forgotten when the step is repeated "
            f"without Python. Set an array with dn.recording.assign(self, {name!r}, array), and read a count with "
            f"dn.recording.live(self, {name!r}) before it changes; or train without capture."
        )

    def _check_known(self, owner: Any, name: Name) -> None:
        if self.closed:
            raise CaptureError(
                f"{_path(owner, name)} appears for the first time while the step is captured, so earlier calls did "
                "something different. A captured step must do the same in every call."
            )


_recording: ContextVar[Recording | None] = ContextVar("dualnet_recording", default=None)
_recordings: list[ref[Recording]] = []
"""All that are alive: their steps may run again."""


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


def _put_back(owner: Any, name: Name, value: Any) -> None:
    """Undo a :func:`_set`: what was not in a dictionary is taken out of it, and an empty one as well."""
    if isinstance(name, str) or value is not None:
        _set(owner, name, value)
        _mark_changed(owner)
        return
    attribute, *keys = name
    inside = [getattr(owner, attribute)]
    for key in keys[:-1]:
        inside.append(inside[-1].get(key, {}))
    for holder, key in zip(reversed(inside), reversed(keys)):
        holder.pop(key, None)
        if holder:
            break


def _mark_changed(owner: Any) -> None:
    """Mark a parameter as changed: its 16-bit copy of the value is out of date."""
    changed = getattr(owner, "changed", None)
    if changed is not None:
        changed()


def _path(owner: Any, name: Name) -> str:
    return f"{type(owner).__name__}.{name if isinstance(name, str) else '.'.join(name)}"


def _described(value: Any) -> str:
    return f"{tuple(value.shape)} {value.dtype} on {backend_of(value).name}"
