"""Recording a step on the CPU: run it once while its arrays are watched, and from then on repeat only its calls.

A recorder does what backends/gpu/graph.py does with a CUDA graph; here the graph is a list of calls, each with its
arrays, ready to be made (tape.py). Nothing is checked, chosen, allocated or freed between two of them.

Watching could miss something: a library that computes behind NumPy's back leaves a constant where a number should be.
So we take nothing on trust. Before a recording counts, Python runs the step once more, with another batch, on copies of
all that lasts, and every array must come out with the same bits.

A step may take a different path than the recorded one: for a NaN, dualnet's kernels take slower paths. The recorded
step asks the same questions, and if an answer differs, nothing has changed yet, and Python runs the step.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

import numpy

from . import blas, memory, threads, tracing
from .tape import (
    Buffer,
    Call,
    Part,
    Places,
    Section,
    Step,
    Tape,
    Unrecordable,
    asked_whole,
    calls_of,
    inside,
    into_place,
    just_before,
    lives,
    plan,
    put_off,
    raw,
    read_later,
    settled,
)

PAGE = 4096


class Recorder:
    """The calls and the memory of one captured step."""

    def __init__(self) -> None:
        self.outputs: Any = None  # what the step returned, which the next step overwrites
        self.tape: Tape | None = None
        self.first: list[Callable[[], Any]] = []  # nothing that lasts is written before all of them are done
        self.last: list[Callable[[], Any]] = []
        self.saved: list[tuple[numpy.ndarray, numpy.ndarray]] = []  # but what they do write, and its copy
        self.answers, self.expected = numpy.empty(0, bool), b""
        self.arena: Any = None
        self.library: Any = None  # oneDNN, if it computes
        self.held: Any = blas.held()  # what keeps BLAS at one thread, if that is needed
        self.changes = True  # does the step write what lasts?
        self.checked = False  # is the recorded step known to be right?
        self.rehearsed: Any = None  # what Python made of the coming step
        self.leftovers = False  # is there memory that Python's steps needed, but repeated ones do not?

    def run(self, step: Callable[[], Any]) -> Any:
        """Run a step from Python."""
        with tracing.running():
            return _mapped(tracing.plain, step())

    def record(self, step: Callable[[], Any]) -> Any:
        """Run a step on copies of all that lasts, and keep its calls."""
        made = Tape()
        with tracing.recording(made):
            results = step()
            parts: dict[int, Any] = {}
            for array in _arrays_in(results):
                parts[id(array)] = made.memory.part(tracing.plain(array))
        self.count = threads.count()

        def placed(places: Places, array: numpy.ndarray) -> numpy.ndarray:
            part = parts[id(array)]
            return tracing.plain(array) if part is None else part.bound(places)

        returned = {part.buffer for part in parts.values() if part is not None}
        made.memory.clear()
        self._bind(made, returned, lambda places: _mapped(partial(placed, places), results))
        memory.give_back()
        return self.outputs

    def _bind(self, made: Tape, results: set, outputs: Callable[[Places], Any]) -> None:
        """Shorten the tape, give every buffer its place, and make the calls ready."""
        lasting = {buffer for buffer in _buffers(made.steps) if buffer.home is not None}
        noted, found = asked_whole(made.steps, made.found)
        self.answers = numpy.empty(sum(len(answer) for _, answer in found), bool)
        self.expected = b"".join(answer for _, answer in found)
        place = 0
        for part, answer in found:
            part.buffer.home = self.answers[place : place + len(answer)]
            place += len(answer)
        asked = {part.buffer for part, _ in found}
        steps = read_later(settled(noted, asked | lasting), results | asked | lasting)
        first, last = just_before(*put_off(into_place(steps, lasting - asked, results | asked), lasting))
        steps = first + last
        self.arena = Arena(steps, results)
        places = self.arena.places
        calls = _Calls(places, self.arena.workers)
        self.first, self.last = calls.of(first), calls.of(last)
        written = {buffer for step in first for buffer in step.writes} & lasting
        homes = [buffer.home for buffer in written if buffer.home is not None]
        self.saved = [(home, numpy.empty_like(home)) for home in homes]
        self.outputs = outputs(places)
        self.library = next((step.threads[0] for step in steps if step.threads is not None), None)
        self.held = blas.held() if any(map(_needs_blas_held, calls_of(steps))) else nullcontext()
        self.changes = any(step.writes & lasting for step in steps)
        self.kept = made.kept, places.kept
        self.arena.placed()

    def launch(self) -> bool:
        """Repeat the step. False if it would take a different path than the recorded one: then nothing has changed."""
        rehearsed, self.rehearsed = self.rehearsed, None
        if self.leftovers:  # only now: until the last launch returned, there were copies to compare with
            self._tidy_up()
        if threads.count() != self.count:
            return False
        for array, copy in self.saved:
            numpy.copyto(copy, array)
        before = None if self.library is None else self.library.get_threads()
        try:
            with self.held, numpy.errstate(all="ignore"):
                same = self._repeat()
        finally:
            if self.library is not None:
                self.library.set_threads(before)
        if same and rehearsed is not None:
            self._compare(*rehearsed)
        return same

    def _repeat(self) -> bool:
        try:
            for call in self.first:
                call()
            same = not self.expected or self.answers.tobytes() == self.expected
        except BaseException:
            self._undo()
            raise
        if same:
            _whole(self.last)
        else:
            self._undo()
        return same

    def _undo(self) -> None:
        for array, copy in self.saved:
            numpy.copyto(array, copy)

    # -- is it the same?

    def rehearse(self, step: Callable[[], Any]) -> None:
        """Run the step by Python on copies of all that lasts: the next launch must end with the same bits."""
        copies: dict[int, tuple[numpy.ndarray, numpy.ndarray]] = {}
        with tracing.rehearsing(copies):
            results = _mapped(tracing.plain, step())
        self.rehearsed = results, [(array, copy, array.copy()) for array, copy in copies.values()]

    def _compare(self, results: Any, arrays: list[tuple[numpy.ndarray, numpy.ndarray, numpy.ndarray]]) -> None:
        pairs = zip(_arrays_in(results), _arrays_in(self.outputs), strict=True)
        wrong = [f"what it returns ({a.dtype} {a.shape})" for a, b in pairs if not _same(a, b)]
        wrong += [f"an array that it keeps ({a.dtype} {a.shape})" for a, b, _ in arrays if not _same(a, b)]
        if wrong:
            for array, _, before in arrays:
                numpy.copyto(array, before)
            raise Unrecordable(
                f"repeated with another batch, it gives different numbers than Python does: {_few(wrong)}. It computes "
                "something where NumPy cannot be watched, such as in another library, or by constant[x] instead of "
                "numpy.take(constant, x)"
            )
        self.checked = self.leftovers = True

    def _tidy_up(self) -> None:
        """Free what kernels keep from call to call when Python calls them, and return it to the system."""
        self.leftovers = False
        threads.let_go()
        memory.give_back()


def _needs_blas_held(call: Call) -> bool:
    """Is it a product that was computed on one thread, and of which BLAS would make more?"""
    if call.alone is None or call.threads is not None:
        return False
    factors = [a for a in call.arguments if isinstance(a, Part)]
    if not call.alone or call.function is not numpy.matmul or len(factors) != 2:
        return True
    first, second = (math.prod(factor.shape) for factor in factors)
    return first * second // max(1, factors[0].shape[-1]) >= tracing.SMALL


def _few(words: list[str]) -> str:
    return ", ".join(words[:3]) + f" and {len(words) - 3} more" * (len(words) > 3)


def _whole(calls: list[Callable[[], Any]]) -> None:
    """Make all of these calls, also if Ctrl-C comes in between: it is raised when they are done."""
    left = iter(calls)
    try:
        for call in left:
            call()
    except BaseException:
        for call in left:
            call()
        raise


def _same(one: numpy.ndarray, other: numpy.ndarray) -> bool:
    return one.shape == other.shape and one.dtype == other.dtype and one.tobytes() == other.tobytes()


class Arena:
    """One piece of memory for all buffers of a step that have no home."""

    def __init__(self, steps: list[Step], to_the_end: set) -> None:
        self.workers: dict[int, tuple[Any, int, dict]] = {}  # by section: memory, size, offsets of items' own buffers
        local = inside(steps, to_the_end)
        needs = {buffer: life for buffer, life in lives(steps, to_the_end).items() if buffer not in local}
        rooms: dict[int, Any] = {}
        for place, step in enumerate(steps):
            if isinstance(step, Section):
                rooms[place] = room = Room(step, {b for b, key in local.items() if key[0] == place})
                needs[room.buffer] = place, place
        offsets, self.size = plan(needs)
        self.places = Places()
        self.memory = threads.apart(self.size + PAGE, numpy.dtype(numpy.uint8))
        start = -(-self.memory.ctypes.data // PAGE) * PAGE
        self.all = raw(start, max(1, self.size))
        for buffer, offset in offsets.items():
            self.places.put(buffer, self.all, offset)
        for place, room in rooms.items():
            room.start = offsets[room.buffer]
            self.workers[id(steps[place])] = room

    def placed(self) -> None:
        """All calls know their addresses: forget where each buffer lies."""
        self.places, self.workers = Places(), {}

    def spoil(self) -> None:
        """Fill it with NaN: no step may read what an earlier one has left."""
        ctypes.memset(self.all, 0xFF, self.size)


class Room:
    """What the items of a section need for themselves: each thread has one such room."""

    def __init__(self, section: Section, own: set) -> None:
        self.own = own
        self.offsets: dict = {}
        size = 0
        for item in section.items:
            offsets, needed = plan({b: life for b, life in lives(item, set()).items() if b in own})
            self.offsets |= offsets
            size = max(size, needed)
        self.size = -(-size // PAGE) * PAGE
        self.number = 1 if section.on_one_thread else threads.workers(len(section.items))
        self.buffer = Buffer(self.size * self.number, aligned=PAGE)
        self.start = 0


class _Calls:
    """Makes recorded calls ready."""

    def __init__(self, places: Places, rooms: dict) -> None:
        self.places, self.rooms = places, rooms

    def of(self, steps: list[Step]) -> list[Callable[[], Any]]:
        """In their order, with the number of oneDNN's and BLAS's threads set where it changes."""
        calls: list[Callable[[], Any]] = []
        number = None
        for step in steps:
            if isinstance(step, Section):
                calls.append(self._section(step))
                continue
            if step.threads is not None and step.threads != number:
                number = step.threads
                calls.append(partial(number[0].set_threads, number[1]))
            call = step.bound(self.places)
            calls.append(partial(_unheld, call) if step.alone is False else call)
        return calls

    def _section(self, section: Section) -> Callable[[], Any]:
        room = self.rooms[id(section)]
        items = []
        for item in section.items:
            each = []
            for worker in range(room.number):
                for buffer in room.own:
                    if buffer in room.offsets:
                        at = room.start + worker * room.size + room.offsets[buffer]
                        self.places.put(buffer, self.places.of(room.buffer)[0], at)
                each.append([call.bound(self.places) for call in item])
            items.append(each)
        if section.on_one_thread:
            flat = [call for each in items for call in each[0]]
            return partial(_all, flat)
        return partial(threads.parallel_for, items, _item)


def _all(calls: list[Callable[[], Any]]) -> None:
    for call in calls:
        call()


def _item(worker: int, each: list[list[Callable[[], Any]]]) -> None:
    for call in each[worker]:
        call()


def _unheld(call: Callable[[], Any]) -> None:
    """A product that BLAS may share out among its own threads, as it did when it was recorded."""
    with blas.released():
        call()


def _buffers(steps: list[Any]) -> set:
    return {buffer for call in calls_of(steps) for buffer in call.reads | call.writes}


def _mapped(function: Callable[[Any], Any], results: Any) -> Any:
    """The results of a step with each array replaced."""
    if isinstance(results, dict):
        return {name: _mapped(function, value) for name, value in results.items()}
    if isinstance(results, (tuple, list)):
        return type(results)(_mapped(function, value) for value in results)
    return function(results) if isinstance(results, numpy.ndarray) else results


def _arrays_in(results: Any) -> list[numpy.ndarray]:
    found: list[numpy.ndarray] = []
    _mapped(found.append, results)
    return found


__all__ = ["Recorder", "Unrecordable"]
