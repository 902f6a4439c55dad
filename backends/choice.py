"""Which of several kernels are asked first for a call, and why: the table, a tuned file, or a measurement.

Kernels of a convolution add up in different orders, so a choice decides the last digits. There is one for each
function, shape, dtype and number of threads, made when the shape is first seen and kept: a process computes the same
bits from its first step on. The first of these that knows the shape decides:

1. :func:`forced`, for tests
2. the file that ``DUALNET_TUNED`` names, if it was measured on such a machine
3. with ``DUALNET_AUTOTUNE=1`` a measurement, here and now; it is added to that file, if one is named
4. the table of this kind of processor (cpu/table.py), followed by the order of numpy_backend.py

Without these two variables nothing is measured, and no file is read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from dualnet.shim.process import lock, reader

from . import measuring, tuned
from .cpu import machine, table, threads
from .cpu.guards import FLOATS
from .cpu.table import FILTERS, FORWARD, INPUTS, Shape

Kernel = Callable[..., Any]

KEPT = 1024
"""Orders are remembered for this many kinds of calls."""

_autotune, _tuned, _threads = reader("DUALNET_AUTOTUNE"), reader("DUALNET_TUNED"), reader("DUALNET_THREADS")
_lock = lock()
_measured: dict[tuple[Shape, int], list[tuple[str, float]]] = {}
_state: dict[str, Any] = {"settings": None, "forced": ""}
_choices: list[Choice] = []


class Order(tuple):
    """Kernels in the order in which they are asked, ``why`` it is this one, and whose windows it is for."""

    why: str
    at: Any

    def __new__(cls, kernels: Sequence[Kernel], why: str, at: Any) -> Order:
        made = super().__new__(cls, kernels)
        made.why, made.at = why, at
        return made


class Choice(tuple):
    """The kernels of a function; the shape of the call decides which is asked first."""

    def __new__(cls, kernels: Sequence[Kernel]) -> Choice:
        made = super().__new__(cls, kernels)
        made.name = made[0].__name__
        made.place = 3 if made.name in (FORWARD, "correlate_normalise") else 2  # of the windows among the arguments
        made.known = {}
        _choices.append(made)
        return made

    name: str
    place: int
    known: dict[Any, Order]

    def order(self, *arguments: Any, **options: Any) -> Order:
        """The kernels for this call, in the order in which they are asked.

        A call is known by its arrays' shapes and by the windows themselves: an order keeps them, so that no others can
        have their place in memory. Looking at their contents would take longer than everything else here.
        """
        settings = _autotune(), _tuned(), _threads()
        if settings != _state["settings"]:
            _forget_orders()
            _state["settings"] = settings
        x, other, place = arguments[0], arguments[1], self.place
        groups = options.get("groups", arguments[place + 1 : place + 2])
        key = (x.shape, other.shape, x.dtype.char, id(arguments[place]), groups)
        found = self.known.get(key)
        if found is None:
            with _lock:  # so that a second thread waits for a measurement, and does not disturb it
                found = self.known.get(key)
                if found is None:
                    if len(self.known) >= KEPT:
                        self.known.clear()
                    found = self.known[key] = self._ordered(arguments[place], SHAPES[self.name](*arguments, **options))
        return found

    def _ordered(self, at: Any, shape: Shape | None) -> Order:
        own = {kernel.algorithm: kernel for kernel in self}
        names, why = ((), "usual order") if shape is None else _first(shape)
        rest = [] if _state["forced"] else [name for name in own if name not in names]
        if self.name not in table.ALL:  # two things at once
            # use the order only up to the first algorithm that cannot do both
            strange = next((i for i, name in enumerate(names) if name not in own), None)
            names, rest = names[:strange], rest if strange is None else []
        return Order([own[name] for name in (*names, *rest) if name in own], why, at)


def _first(shape: Shape) -> tuple[tuple[str, ...], str]:
    """The algorithms to ask first, and why."""
    if _state["forced"]:
        return (_state["forced"],), "forced"
    autotune, path = switched_on(), _tuned()
    number = threads.count()
    if path:
        names = tuned.order(path, shape, number, missing=autotune)
        if names is not None:
            return names, f"tuned in {path}"
    if autotune:
        if (shape, number) not in _measured:
            if path:
                tuned.ready(path, number)
            _measured[shape, number] = measuring.times(shape, CANDIDATES[shape.function], table.first(shape))
            if path:
                tuned.add(path, shape, number, _measured[shape, number])
        return tuple(name for name, _ in _measured[shape, number]), "measured in this process"
    names = table.first(shape)
    return names, f"table for {machine.kind()}" if names else "usual order"


def switched_on() -> bool:
    """Is ``DUALNET_AUTOTUNE`` 1?"""
    asked = _autotune().strip()
    if asked not in ("", "0", "1"):
        raise ValueError(f"DUALNET_AUTOTUNE must be 0 or 1, got {asked!r}")
    return asked == "1"


@contextmanager
def forced(algorithm: str) -> Iterator[None]:
    """Ask this algorithm alone, for functions that have it; the reference serves what it declines."""
    before = _state["forced"]
    _state["forced"] = algorithm
    _forget_orders()
    try:
        yield
    finally:
        _state["forced"] = before
        _forget_orders()


def ready() -> None:
    """Raise ``ValueError`` if nothing can be added to the file that ``DUALNET_TUNED`` names."""
    if path := _tuned():
        tuned.ready(path, threads.count())


def forget() -> None:
    """Forget all choices, as in a new process."""
    _forget_orders()
    _measured.clear()
    tuned.forget()


def _forget_orders() -> None:
    for choice in _choices:
        choice.known.clear()


# -- the shape of a call -----------------------------------------------------------------------------------------------


def _of_correlate(x: Any, w: Any, b: Any, at: Any, groups: int = 1, relu: bool = False) -> Shape | None:
    return _shape(FORWARD, x, x.shape[3], w.shape[3], at, groups)


def _of_correlate_normalise(x: Any, w: Any, b: Any, at: Any, groups: int, *rest: Any) -> Shape | None:
    return _shape(FORWARD, x, x.shape[3], w.shape[3], at, groups)


def _of_inputs(dy: Any, w: Any, at: Any, groups: int = 1) -> Shape | None:
    return _shape(INPUTS, dy, w.shape[2], w.shape[3], at, groups)


def _of_filters(x: Any, dy: Any, at: Any, groups: int = 1, biased: bool = False) -> Shape | None:
    return _shape(FILTERS, x, x.shape[3], dy.shape[3], at, groups)


def _shape(function: str, maps: Any, C: int, D: int, at: Any, groups: int) -> Shape | None:
    """None where only oneDNN serves: there is nothing to choose."""
    return Shape(function, maps.shape[0], C, D, at, maps.dtype.char) if groups == 1 and maps.dtype in FLOATS else None


SHAPES: dict[str, Callable[..., Shape | None]] = {
    "correlate": _of_correlate,
    "correlate_normalise": _of_correlate_normalise,
    "correlate_inputs": _of_inputs,
    "correlate_filters": _of_filters,
    "parameter_gradients": _of_filters,
}
"""The functions whose calls have a choice, and how their shape is read from the arguments."""

CANDIDATES: dict[str, tuple[Kernel, ...]] = {}
"""All kernels of each of :data:`table.ALL`; numpy_backend.py fills it in."""
