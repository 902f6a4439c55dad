"""NCCL of a pretend CuPy: ranks are threads, and bytes move between addresses of the host when all have come.

As on a device nothing has arrived when a call returns: an event says that it is done after it was asked a few times.
"""

from __future__ import annotations

import ctypes
import itertools
import threading
import types
from typing import Any

SLOW = 3
"""So often does an event say that it is not done yet."""


class World:
    """What the ranks with one unique id have asked for, one call after another."""

    worlds: dict[tuple, World] = {}

    def __init__(self, size: int) -> None:
        self.size, self.changed = size, threading.Condition()
        self.calls: dict[tuple, dict[int, Any]] = {}

    def complete(self, key: tuple, rank: int, ask: Any) -> list[Any]:
        """Lay down what a rank asks; the list of all, which is filled once everybody has come."""
        with self.changed:
            asked = self.calls.setdefault(key, {})
            asked[rank] = ask
            return asked  # type: ignore[return-value]


class Event:
    """Is done when everything before it on its stream is."""

    def __init__(self, disable_timing: bool = False) -> None:
        self.work: list[Any] = []
        self.asked = 0

    def record(self, stream: Any) -> None:
        self.work = list(getattr(stream, "work", ()))

    @property
    def done(self) -> bool:
        self.asked += 1
        return self.asked > SLOW and all(one() for one in self.work)


class Stream:
    """A stream whose work is done when the other ranks have come."""

    numbers = itertools.count(1)
    by_ptr: dict[int, Stream] = {}

    def __init__(self, non_blocking: bool = False) -> None:
        self.ptr, self.work, self.waited = next(self.numbers), [], 0
        self.by_ptr[self.ptr] = self

    def wait_event(self, event: Event) -> None:
        self.waited += 1


class NcclCommunicator:
    """The calls of CuPy's, with its arguments in its order."""

    aborted = False

    def __init__(self, size: int, unique_id: tuple, rank: int) -> None:
        assert len(unique_id) == 128 and all(isinstance(number, int) for number in unique_id)
        self.world = World.worlds.setdefault(unique_id, World(size))
        self.size, self.rank, self.calls = size, rank, 0
        self.sent: dict[int, bytes] = {}

    def _when_all(self, stream: int, ask: Any, finish: Any) -> None:
        assert Stream.by_ptr[stream].waited, "what is sent was not waited for"
        self.calls += 1
        asked = self.world.complete(("all", self.calls), self.rank, ask)
        moved = []

        def done() -> bool:
            if not moved and len(asked) == self.size:
                moved.append(finish([asked[rank] for rank in range(self.size)]))
            return bool(moved)

        Stream.by_ptr[stream].work.append(done)

    def allGather(self, sent: int, got: int, count: int, kind: int, stream: int) -> None:  # noqa: N802
        def finish(asked: list) -> None:
            for rank, held in enumerate(asked):
                assert len(held) == count and kind == NCCL_UINT8
                ctypes.memmove(got + rank * count, held, count)

        self._when_all(stream, ctypes.string_at(sent, count), finish)

    def broadcast(self, sent: int, got: int, count: int, kind: int, root: int, stream: int) -> None:
        def finish(asked: list) -> None:
            ctypes.memmove(got, asked[root], count)

        self._when_all(stream, ctypes.string_at(sent, count), finish)

    def send(self, sent: int, count: int, kind: int, peer: int, stream: int) -> None:
        assert GROUP.depth == 1, "a send outside a group waits forever"
        self.sent[peer] = ctypes.string_at(sent, count)

    def recv(self, got: int, count: int, kind: int, peer: int, stream: int) -> None:
        GROUP.asked = [*getattr(GROUP, "asked", []), (self, got, count, peer, stream)]

    def _end(self, received: list) -> None:
        places, self.sent = self.sent, {}

        def finish(asked: list) -> None:
            for _, got, count, peer, _ in received:
                ctypes.memmove(got, asked[peer][self.rank], count)

        self._when_all(received[0][4], places, finish)

    def abort(self) -> None:
        self.aborted = True


GROUP = threading.local()
NCCL_UINT8 = 1


def install(monkeypatch, cupy: Any) -> types.ModuleType:
    """Give a pretend CuPy events, streams that wait, and NCCL."""
    import sys

    numbers = itertools.count(1)
    made = types.ModuleType("cupy.cuda.nccl")
    made.NcclCommunicator, made.NCCL_UINT8 = NcclCommunicator, NCCL_UINT8
    made.get_unique_id = lambda: tuple([next(numbers) % 256 - 128] * 64 + [id(made) % 251 - 128] * 64)

    def start() -> None:
        GROUP.depth, GROUP.asked = 1, []

    def end() -> None:
        GROUP.depth = 0
        GROUP.asked[0][0]._end(GROUP.asked)

    made.groupStart, made.groupEnd = start, end
    monkeypatch.setattr(cupy.cuda, "Event", Event, raising=False)
    monkeypatch.setattr(cupy.cuda, "Stream", Stream)
    monkeypatch.setitem(sys.modules, "cupy.cuda.nccl", made)
    return made
