"""What a recorded step does: a flat list of calls on parts of buffers, and which memory each buffer gets.

While a step is recorded (tracing.py) every call that computes something is noted on a :class:`Tape`: the function, and
its arguments, where :class:`Part` stands for an array. After that Python is out of the way, and the tape can be
made shorter (:func:`read_later`, :func:`into_place`), put into an order in which nothing lasting changes before the end
(:func:`put_off`), and planned: the life of each buffer is known, so buffers that are never in use at the same time
share addresses (:func:`plan`).
"""

from __future__ import annotations

import ctypes
import math
from bisect import bisect_right, insort
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any
from weakref import ref

import numpy

ALIGNED = 64
"""Buffers begin at multiples of this many bytes: a cache line, and a vector register."""

FEW = 4096
"""Up to this many truths are compared one by one."""


class Unrecordable(RuntimeError):
    """A step does what cannot be repeated without Python."""


class Buffer:
    """Memory that recorded calls use. ``home`` is the array that it really is, if it outlives a step."""

    __slots__ = ("aligned", "home", "size")

    def __init__(self, size: int, home: numpy.ndarray | None = None, aligned: int = ALIGNED) -> None:
        self.size, self.home, self.aligned = size, home, aligned


@dataclass(frozen=True, slots=True)
class Part:
    """An array in a buffer."""

    buffer: Buffer
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: numpy.dtype

    def bound(self, places: Places) -> numpy.ndarray:
        memory, start = places.of(self.buffer)
        return numpy.ndarray(self.shape, self.dtype, memory, start + self.offset, self.strides)


def covers(part: Part) -> bool:
    """Is this part all that its buffer holds?"""
    return math.prod(part.shape) * part.dtype.itemsize == part.buffer.size


@dataclass(frozen=True, slots=True)
class Address:
    """Where a part of a buffer begins, for a library that takes pointers."""

    buffer: Buffer
    offset: int = 0

    def bound(self, places: Places) -> ctypes.c_void_p:
        memory, start = places.of(self.buffer)
        return ctypes.c_void_p(ctypes.addressof(memory) + start + self.offset)


class Call:
    """One call. ``reads`` and ``writes`` are buffers; ``alone``: was BLAS, if it runs, held to one thread?"""

    threads: tuple[Any, int] | None = None  # of a call of oneDNN: the library, and its number of threads

    def __init__(
        self, function: Callable[..., Any], arguments: Sequence[Any], options: dict[str, Any] | None = None,
        reads: Sequence[Buffer] = (), writes: Sequence[Buffer] = (), alone: bool | None = None,
    ) -> None:  # fmt: skip
        self.function, self.arguments, self.options = function, tuple(arguments), dict(options or {})
        self.reads, self.writes, self.alone = set(reads), set(writes), alone

    def makes(self, part: Part) -> bool:
        """Is this part its whole result, which may lie elsewhere as well?"""
        whole = isinstance(self.function, numpy.ufunc) and self.options.get("where", True) is True
        return whole and self.options.get("out") == part

    def may_write(self, buffer: Buffer) -> bool:
        """May what it :meth:`makes` lie in this buffer, even if the call reads there? A ufunc sees to overlaps."""
        return True

    def redirect(self, source: Part, target: Part) -> None:
        """Write what it :meth:`makes` to another place."""
        self.options["out"], self.writes = target, {target.buffer}

    def bound(self, places: Places) -> Callable[[], Any]:
        """The call with its arrays, ready to be made."""
        arguments = [bound(argument, places) for argument in self.arguments]
        options = {name: bound(value, places) for name, value in self.options.items()}
        return _closed(self.function, arguments, options)


class Section:
    """Items that threads share out, each a list of calls."""

    threads = alone = None

    def __init__(self, items: list[list[Call]], alone: bool) -> None:
        self.items, self.on_one_thread = items, alone
        self.reads: set[Buffer] = set()
        self.writes: set[Buffer] = set()
        self.gather()

    def gather(self) -> None:
        """What its calls read and write."""
        calls = [call for item in self.items for call in item]
        self.reads = {buffer for call in calls for buffer in call.reads}
        self.writes = {buffer for call in calls for buffer in call.writes}


Step = Call | Section


def _closed(function: Callable[..., Any], arguments: list[Any], options: dict[str, Any]) -> Callable[[], Any]:
    if isinstance(function, numpy.ufunc) and function not in (numpy.maximum, numpy.minimum) and set(options) == {"out"}:
        out = options["out"]
        return partial(function, *arguments, *(out if type(out) is tuple else (out,)))  # by position is faster
    return partial(function, *arguments, **options)


def bound(value: Any, places: Places) -> Any:
    """A recorded argument with its arrays."""
    if isinstance(value, (Part, Address)):
        return value.bound(places)
    if type(value) in (list, tuple):
        return type(value)(bound(each, places) for each in value)
    return value


# -- recording ---------------------------------------------------------------------------------------------------------


class Owner(ref):
    """Refers to the array that owns a piece of memory; calls ``gone`` when that array is freed."""

    __slots__ = ("buffer", "start")

    def __new__(cls, array: numpy.ndarray, gone: Callable[[Any], None], start: int, buffer: Buffer) -> Owner:
        return super().__new__(cls, array, gone)

    def __init__(self, array: numpy.ndarray, gone: Callable[[Any], None], start: int, buffer: Buffer) -> None:
        self.start, self.buffer = start, buffer


class Memory:
    """The arrays that are alive while a step is recorded: which buffer does an address belong to?"""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._known: dict[int, tuple[int, Buffer, Any]] = {}

    def add(self, array: numpy.ndarray, home: numpy.ndarray | None = None, aligned: int = ALIGNED) -> Buffer:
        """A new array, of which nothing else knows the memory; it is forgotten when the memory is freed."""
        start, stop = extent(array)
        buffer = Buffer(stop - start, home, aligned)
        if start == stop:
            return buffer
        owner = array
        while isinstance(owner.base, numpy.ndarray):
            owner = owner.base
        if start in self._known:
            self._forget(start)
        insort(self._starts, start)
        self._known[start] = stop, buffer, Owner(owner, self._gone, start, buffer)
        return buffer

    def find(self, address: int) -> tuple[Buffer, int] | None:
        """The buffer at this address, and how far after its start."""
        place = bisect_right(self._starts, address) - 1
        if place < 0:
            return None
        start = self._starts[place]
        stop, buffer, _ = self._known[start]
        return (buffer, address - start) if address < stop else None

    def part(self, array: numpy.ndarray) -> Part | None:
        """The array as a part of a buffer; None if its memory is unknown: it is a constant."""
        start, stop = extent(array)
        found = self.find(start) if start < stop else None
        if found is None:
            return None
        buffer, behind = found
        offset = behind + address_of(array) - start
        return Part(buffer, offset, array.shape, array.strides, array.dtype)

    def clear(self) -> None:
        """Forget everything: notes about arrays refer to this object, which would wait for the garbage collector."""
        self._known.clear()
        self._starts.clear()

    def _gone(self, owner: Any) -> None:
        self._forget(owner.start, owner.buffer)

    def _forget(self, start: int, buffer: Buffer | None = None) -> None:
        known = self._known.get(start)
        if known is not None and buffer in (None, known[1]):
            del self._known[start]
            del self._starts[bisect_right(self._starts, start) - 1]


def address_of(array: numpy.ndarray) -> int:
    """Where the first element is.

    Not by the array interface: its keys, interned at each call and dropped again, double Python's table of strings.
    """
    return array.ctypes.data


def extent(array: numpy.ndarray) -> tuple[int, int]:
    """The bytes from … to that an array covers."""
    start = stop = address_of(array)
    if array.size == 0:
        return start, start
    for length, stride in zip(array.shape, array.strides):
        if stride < 0:
            start += (length - 1) * stride
        else:
            stop += (length - 1) * stride
    return start, stop + array.itemsize


class Tape:
    """The calls of one step, in their order; the arrays that it takes and leaves; and the answers that it found."""

    def __init__(self) -> None:
        self.memory = Memory()
        self.steps: list[Any] = []
        self.found: list[tuple[Part, Any]] = []  # what the step asked, and the answer
        self.lasting = False  # should arrays that are created now outlive the step?
        self.kept: list[Any] = []  # what the calls need beside the buffers
        self.held: list[Any] = []  # arrays whose memory must not become another's before all is recorded
        self.workspaces: dict[str, Any] = {}  # the last one of each name, as a thread keeps it
        self.open = self.steps  # where calls are noted now: here, or in an item of a section

    def note(self, call: Call) -> None:
        """One more call."""
        self.open.append(call)

    def section(self, number: int, work: Callable[[int], None], alone: bool) -> None:
        """Record ``work(item)`` for every item, as lists that threads share out."""
        if self.open is not self.steps:  # inside another section: it is one thread's work
            for item in range(number):
                work(item)
            return
        items: list[list[Call]] = []
        try:
            for item in range(number):
                self.open = []
                items.append(self.open)
                work(item)
                self.workspaces.clear()
        finally:
            self.open = self.steps
        self.steps.append(Section(items, alone))

    def born(self, array: numpy.ndarray) -> None:
        """A new array."""
        self.memory.add(array, array if self.lasting else None)
        if self.lasting:
            self.kept.append(array)


# -- shorter -----------------------------------------------------------------------------------------------------------


def settled(steps: list[Any], others: set[Buffer]) -> list[Any]:
    """Without the calls that fill a buffer with a constant that nothing overwrites: such a buffer gets a home."""
    writers: dict[Buffer, int] = {}
    for call in calls_of(steps):
        for buffer in call.writes:
            writers[buffer] = writers.get(buffer, 0) + 1

    def constant(call: Call) -> bool:
        if call.function is not numpy.copyto or "where" in call.options:
            return False
        target, value = call.arguments
        if not isinstance(target, Part) or isinstance(value, Part) or target.buffer in others:
            return False
        if writers[target.buffer] > 1 or not covers(target):
            return False
        target.buffer.home = numpy.empty(target.buffer.size, numpy.uint8)
        view = numpy.ndarray(target.shape, target.dtype, target.buffer.home, target.offset, target.strides)
        numpy.copyto(view, value, casting="unsafe")
        return True

    for step in steps:
        if isinstance(step, Section):
            step.items = [[call for call in item if not constant(call)] for item in step.items]
            step.gather()
    return [step for step in steps if isinstance(step, Section) or not constant(step)]


def read_later(steps: list[Any], wanted: set[Buffer]) -> list[Any]:
    """Only the calls of whose results something is ``wanted`` in the end, or read by such a call."""
    wanted = set(wanted)
    kept: list[Any] = []
    for step in reversed(steps):
        if isinstance(step, Section):
            before = set(wanted)
            for place, item in enumerate(step.items):
                mine = set(before)
                step.items[place] = read_later(item, mine)
                wanted |= {buffer for call in step.items[place] for buffer in call.reads}
            step.items = [item for item in step.items if item]
            step.gather()
            if step.items:
                kept.append(step)
        elif step.writes & wanted or not step.writes:
            kept.append(step)
            wanted |= step.reads
    return kept[::-1]


def asked_whole(steps: list[Any], found: list[tuple[Part, Any]]) -> tuple[list[Any], list[tuple[Part, bytes]]]:
    """The questions with their answers as bytes: instead of "are all true?" the truths themselves are the answer."""
    writers: dict[Buffer, list[Call]] = {}
    readers: dict[Buffer, int] = {}
    for call in calls_of(steps):
        for buffer in call.writes:
            writers.setdefault(buffer, []).append(call)
        for buffer in call.reads:
            readers[buffer] = readers.get(buffer, 0) + 1
    gone: set[int] = set()
    answers: dict[Buffer, tuple[Part, bytes]] = {}
    for part, answer in found:
        made = writers.get(part.buffer, [])
        if len(made) > 1:
            raise Unrecordable("it asks a value and then overwrites it")
        truths = _all_of(made[0]) if len(made) == 1 and answer and part.buffer not in readers else None
        if truths is not None and len(writers[truths.buffer]) == 1:
            gone.add(id(made[0]))
            answers[truths.buffer] = truths, b"\1" * truths.buffer.size
        else:
            answers[part.buffer] = part, bytes([bool(answer)])
    for step in steps:
        if isinstance(step, Section):
            step.items = [[call for call in item if id(call) not in gone] for item in step.items]
            step.gather()
    return [step for step in steps if id(step) not in gone], list(answers.values())


def _all_of(call: Call) -> Part | None:
    """The few truths, in a buffer of their own, of which the call asks whether all hold."""
    owner, name = getattr(call.function, "__self__", None), getattr(call.function, "__name__", "")
    truths = call.arguments[0] if call.arguments else None
    if owner is not numpy.logical_and or name != "reduce" or not isinstance(truths, Part):
        return None
    whole = math.prod(truths.shape) == truths.buffer.size <= FEW and truths.dtype == bool
    return truths if whole and truths.buffer.home is None else None


def into_place(steps: list[Any], lasting: set[Buffer], wanted: Collection[Buffer] = ()) -> list[Any]:
    """``new = f(...)``, and later ``lasting[...] = new``, become one call that writes there at once.

    Not if ``new`` itself is ``wanted`` at the end of the step.
    """
    used: dict[Buffer, list[int]] = {}
    for place, step in enumerate(steps):
        for buffer in step.reads | step.writes:
            used.setdefault(buffer, []).append(place)
    gone = set()
    for place in range(len(steps)):
        found = _copy_of_new(steps, place, lasting, used)
        if found is None or found[1].buffer in wanted:
            continue
        target, source, maker = found
        steps[maker].redirect(source, target)
        gone.add(place)
    return [step for place, step in enumerate(steps) if place not in gone]


def _copy_of_new(
    steps: list[Step], place: int, lasting: set[Buffer], used: dict[Buffer, list[int]]
) -> tuple[Part, Part, int] | None:
    """Target and source of this copy, and which call made the source: a ufunc, for this copy alone."""
    step = steps[place]
    if not isinstance(step, Call) or step.function is not numpy.copyto:
        return None
    target, source = step.arguments
    if not (isinstance(target, Part) and isinstance(source, Part) and target.buffer in lasting):
        return None
    if (target.shape, target.strides, target.dtype) != (source.shape, source.strides, source.dtype):
        return None
    users = used[source.buffer]
    if len(users) < 2 or users[-1] != place or source.buffer in lasting or "where" in step.options:
        return None
    maker = steps[users[-2]]
    if not isinstance(maker, Call) or not maker.makes(source) or not maker.may_write(target.buffer):
        return None
    if any(users[-2] < other < place for other in used[target.buffer]):
        return None
    return target, source, users[-2]


def put_off(steps: list[Step], lasting: set[Buffer]) -> tuple[list[Step], list[Step]]:
    """The calls in two parts: in the first, nothing lasting is written, as far as the order allows it."""
    first: list[Step] = []
    last: list[Step] = []
    reads: set[Buffer] = set()  # by later calls of the first part
    writes: set[Buffer] = set()
    for step in reversed(steps):
        waits = step.writes and step.writes <= lasting and not (step.writes & (reads | writes) or step.reads & writes)
        if waits:
            last.append(step)
        else:
            first.append(step)
            reads |= step.reads
            writes |= step.writes
    return first[::-1], last[::-1]


def just_before(first: list[Step], last: list[Step]) -> tuple[list[Step], list[Step]]:
    """Calls whose results only the last part reads move there, each to its reader: memory is in use for a shorter time.

    A call moves if nothing between its place and its reader writes what it reads, or uses what it writes.
    """
    kept: list[Step] = []
    reads: set[Buffer] = set()  # of later calls of the first part
    writes: set[Buffer] = set()
    moved: dict[int, list[Step]] = {}
    readers: dict[Buffer, list[int]] = {}
    overwritten = {buffer for step in last for buffer in step.writes}
    for place, step in enumerate(last):
        for buffer in step.reads | step.writes:
            readers.setdefault(buffer, []).append(place)
    for step in reversed(first):
        users = sorted({place for buffer in step.writes for place in readers.get(buffer, ())})
        free = not (step.writes & (reads | writes) or step.reads & (writes | overwritten))  # also by those moved
        small = all(buffer.home is None for buffer in step.writes)
        if users and free and small and isinstance(step, Call) and step.threads is None:
            moved.setdefault(users[0], []).append(step)
            overwritten |= step.writes
            for buffer in step.reads:
                readers.setdefault(buffer, []).append(users[0])
        else:
            kept.append(step)
            reads |= step.reads
            writes |= step.writes
    order = [one for place, step in enumerate(last) for one in (*reversed(moved.get(place, ())), step)]
    return kept[::-1], order


# -- memory ------------------------------------------------------------------------------------------------------------


class Places:
    """Where each buffer lies: its home, or a place in a piece of memory."""

    def __init__(self) -> None:
        self._places: dict[Buffer, tuple[Any, int]] = {}
        self.kept: list[Any] = []

    def put(self, buffer: Buffer, memory: Any, start: int) -> None:
        """A buffer lies in this memory."""
        self._places[buffer] = memory, start

    def of(self, buffer: Buffer) -> tuple[Any, int]:
        """The memory that it lies in, and where."""
        found = self._places.get(buffer)
        if found is None:
            home = buffer.home
            if home is None:
                raise Unrecordable("memory is used that was never made")  # cannot happen: all is planned
            start, stop = extent(home)
            self.kept.append(home)
            found = self._places[buffer] = raw(start, stop - start), 0
        return found


def raw(address: int, size: int) -> Any:
    """The memory at an address, for NumPy and as a pointer."""
    return (ctypes.c_ubyte * size).from_address(address)


def lives(steps: Sequence[Step], to_the_end: set[Buffer]) -> dict[Buffer, tuple[int, int]]:
    """For every buffer without a home the first and the last call that uses it."""
    found: dict[Buffer, tuple[int, int]] = {}
    for place, step in enumerate(steps):
        for buffer in step.reads | step.writes:
            if buffer.home is None:
                found[buffer] = found.get(buffer, (place, place))[0], place
    return {b: (first, len(steps) if b in to_the_end else last) for b, (first, last) in found.items()}


def inside(steps: Sequence[Step], to_the_end: set[Buffer]) -> dict[Buffer, tuple[int, int]]:
    """The buffers that one item of one section alone uses: the numbers of section and item."""
    owner: dict[Buffer, tuple[int, int]] = {}
    shared = set(to_the_end)
    for place, step in enumerate(steps):
        items = step.items if isinstance(step, Section) else [[step]]
        for number, item in enumerate(items):
            key = (place, number if isinstance(step, Section) else -1)
            for buffer in {b for call in item for b in call.reads | call.writes}:
                if key[1] < 0 or owner.setdefault(buffer, key) != key:
                    shared.add(buffer)
    return {buffer: key for buffer, key in owner.items() if buffer not in shared and buffer.home is None}


def plan(needs: dict[Buffer, tuple[int, int]]) -> tuple[dict[Buffer, int], int]:
    """An offset for each buffer, so that two overlap only if their lives do not; and the size of it all.

    The largest buffers first, each at the first place where it fits.
    """
    offsets: dict[Buffer, int] = {}
    placed: list[tuple[int, int, int, int]] = []  # sorted by offset: from, to, first use, last use
    total = 0
    for buffer in sorted(needs, key=lambda b: (-b.size, needs[b])):
        first, last = needs[buffer]
        at = 0
        for start, stop, begun, ended in placed:
            if begun <= last and first <= ended:
                if at + buffer.size <= start:
                    break
                at = max(at, -(-stop // buffer.aligned) * buffer.aligned)
        offsets[buffer] = at
        insort(placed, (at, at + buffer.size, first, last))
        total = max(total, at + buffer.size)
    return offsets, total


def calls_of(steps: Sequence[Step]) -> Iterator[Call]:
    """All calls, those inside sections included."""
    for step in steps:
        if isinstance(step, Section):
            for item in step.items:
                yield from item
        else:
            yield step
