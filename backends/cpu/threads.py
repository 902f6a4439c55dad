"""A team of threads that share out the blocks of a batch, while BLAS is held to one thread.

Two pools of threads on the same cores make everything take twice as long, so the team works alone: BLAS's own thread
count is set to one while a kernel runs, and restored afterwards. NumPy releases the interpreter's lock inside copies,
ufuncs and matrix products, so plain Python threads are enough.

Whichever thread is free takes the next item. Sums over items are added up in fixed portions, so with the same number of
threads the result is the same to the last bit, no matter which thread was faster. ``DUALNET_THREADS`` sets the number
(by default, the cores that this process may use). If BLAS cannot be held, the team has one thread and BLAS keeps its
own.
"""

from __future__ import annotations

import functools
import math
import mmap
import os
import queue
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import numpy

from dualnet.shim.process import cores, lock, reader

from . import blas, tracing

KEPT = 64
"""Each thread keeps this many buffers with borders of 0: enough for the layers of a large network, each of its own
shape."""
APART = 2**18
"""Buffers of this many bytes come from the system, not from the heap."""
PORTIONS = 4
"""Portions of a sum for each thread."""
LEAST = 2**19
"""Bytes of work for each thread beyond the second. With smaller pieces many threads take longer than eight: between any
two NumPy calls they queue for the interpreter's lock."""

_local = threading.local()
_asked = reader("DUALNET_THREADS")


def count() -> int:
    """How many threads share the work: ``DUALNET_THREADS``, or the cores that this process may use."""
    return _count(_asked(), blas.library() is not None)


@functools.lru_cache(maxsize=64)
def _count(asked: str, held: bool) -> int:
    if asked := asked.strip():
        if not (asked.isascii() and asked.isdigit() and 1 <= int(asked) <= 1024):
            raise ValueError(f"DUALNET_THREADS must be a number from 1 to 1024, got {asked!r}")
        wanted = int(asked)
    else:
        wanted = cores()
    return wanted if held else 1


def workers(items: int) -> int:
    """How many threads :func:`parallel_for` uses for this many items; at least one."""
    return max(1, min(count(), items))


def worth(size: int, team: int | None = None) -> int:
    """How many threads of a team should share work that reads and writes about ``size`` bytes."""
    return min(count() if team is None else team, max(2, size // LEAST))


def parallel_for(items: Sequence[Any], work: Callable[[int, Any], None], alone: bool = False) -> None:
    """Call ``work(worker, item)`` for every item: a free thread takes the next, since cores are not equally fast.

    The calling thread is worker 0. If the team is busy with another caller, this thread does all items itself; with
    ``alone`` too, because there is too little to do to wake another. What ``work`` does for an item must not depend on
    the worker.
    """
    threads = 1 if alone else workers(len(items))
    recorded = tracing.tape()
    if recorded is not None:
        with blas.held():
            recorded.section(len(items), lambda place: work(0, items[place]), threads == 1)
        return
    with blas.held():
        if threads > 1:
            _team(threads).run(_sharing(items, work), threads)
        else:
            for item in items:
                work(0, item)


def _sharing(items: Sequence[Any], work: Callable[[int, Any], None]) -> Callable[[int], None]:
    """A function of the worker's number that works until nothing is left, for any number of threads at a time.

    The threads share one deque, whose ``popleft`` gives each item to one thread only. An iterator does not promise
    that: without the interpreter's lock, ``next()`` may give two threads the same item.
    """
    left = deque(items)

    def run(worker: int) -> None:
        while True:
            try:
                item = left.popleft()
            except IndexError:
                return
            work(worker, item)

    return run


def portions(items: Sequence[Any]) -> list[Sequence[Any]]:
    """The items in a fixed number of equal runs, a few for each thread.

    A sum over each run, and then over the runs, is the same to the last bit whichever thread did which.
    """
    number = max(1, min(PORTIONS * count(), len(items)))
    return [items[k * len(items) // number : (k + 1) * len(items) // number] for k in range(number)]


def workspace(name: str, shape: tuple[int, ...], dtype: Any) -> numpy.ndarray:
    """A buffer of this thread's own, kept from call to call: a fresh one costs a page fault for every 4 KiB."""
    if (recorded := tracing.tape()) is not None:  # a fresh one: what is recorded is planned as a whole
        recorded.workspaces[name] = numpy.empty(shape, dtype)
        return recorded.workspaces[name]
    kept = _local.__dict__.setdefault("workspaces", {})
    size, key = math.prod(shape), (name, numpy.dtype(dtype))
    if key not in kept or kept[key].size < size:
        kept[key] = apart(size, key[1])
    return kept[key][:size].reshape(shape)


def let_go() -> None:
    """Free the buffers that this thread and the team keep from call to call; a kernel that needs one makes it again."""
    with _team_lock:
        team = _team_in_force[0] if _team_in_force and _team_in_force[0].pid == os.getpid() else None
    if team is None:
        _let_go(0)
    else:
        team.run(_let_go, team.size)


def _let_go(worker: int) -> None:
    _local.__dict__.clear()
    for free in also_kept:
        free()


also_kept: list[Callable[[], Any]] = []
"""Functions that free the buffers that other modules keep for each thread."""


def apart(size: int, dtype: numpy.dtype) -> numpy.ndarray:
    """An array in pages of its own: on the heap, a large array that stays would be in the way of arrays that come and
    go."""
    if size * dtype.itemsize < APART or tracing.tape() is not None:
        return numpy.empty(size, dtype)
    private = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_PRIVATE") else {}  # not on Windows
    return numpy.frombuffer(mmap.mmap(-1, size * dtype.itemsize, **private), dtype)  # a forked child has its own


def zeros(name: str, shape: tuple[int, ...], dtype: Any, written: tuple[int, ...]) -> numpy.ndarray:
    """A buffer of this thread's own that is 0 where nobody writes (its border).

    ``written`` says where the caller writes: one that writes elsewhere in a buffer of the same shape gets another one.
    """
    if (recorded := tracing.tape()) is not None:
        recorded.workspaces[name] = numpy.zeros(shape, dtype)
        return recorded.workspaces[name]
    kept = _local.__dict__.setdefault("zeros", {})
    key = (name, shape, numpy.dtype(dtype), written)
    if key not in kept:
        while len(kept) >= KEPT:
            del kept[next(iter(kept))]  # the oldest
        kept[key] = numpy.zeros(shape, dtype)
    return kept[key]


class Team:
    """Threads that wait for work: ``run(f, n)`` calls f(0) here and f(1) … f(n − 1) there, and waits for all."""

    def __init__(self, threads: int) -> None:
        self.pid, self.size = os.getpid(), threads
        self._busy = threading.Lock()
        self._inboxes: list[queue.SimpleQueue] = [queue.SimpleQueue() for _ in range(threads - 1)]
        for worker, inbox in enumerate(self._inboxes, start=1):
            threading.Thread(target=_wait_for_work, args=(worker, inbox), name=f"dualnet-{worker}", daemon=True).start()

    def run(self, function: Callable[[int], None], threads: int) -> None:
        """Call ``function(worker)`` once for each of this many threads; raises the first error.

        An interrupt (Ctrl-C) while this thread waits is raised when the others are done: until then they write into the
        caller's arrays.
        """
        if not self._busy.acquire(blocking=False):
            for worker in range(threads):
                function(worker)
            return
        answers = _Answers()  # of this run only: none is left over for the next one
        errors: list[BaseException] = []
        try:
            try:
                for inbox in self._inboxes[: threads - 1]:
                    inbox.put((function, answers))
                    answers.wanted += 1
                function(0)
            except BaseException as caught:
                errors.append(caught)
            while not answers.complete:
                try:
                    answers.wait()
                except BaseException as caught:
                    errors.append(caught)
        finally:
            self._busy.release()
        errors += answers.errors
        if errors:
            raise errors[0]


class _Answers:
    """What the threads of one run report: how many are done, and the errors of those that failed."""

    def __init__(self) -> None:
        self.wanted = 0
        self.errors: list[BaseException] = []
        self._done: list[int] = []  # appending is one step, counting up is not
        self._news: queue.SimpleQueue = queue.SimpleQueue()

    @property
    def complete(self) -> bool:
        return len(self._done) >= self.wanted

    def say(self, worker: int, error: BaseException | None) -> None:
        if error is not None:
            self.errors.append(error)
        self._done.append(worker)
        self._news.put(None)  # after the append: the thread that wakes up finds it there

    def wait(self) -> None:
        """Wait until there is news. An interrupt may swallow the news, but not the answer itself."""
        self._news.get()


def _wait_for_work(worker: int, inbox: queue.SimpleQueue) -> None:
    numpy.seterr(all="ignore")  # warnings are for the calling thread, which computes its part
    while True:
        function, answers = inbox.get()
        error = None
        try:
            function(worker)
        except BaseException as caught:  # the caller raises it
            error = caught
        del function
        answers.say(worker, error)
        del answers, error


_team_in_force: list[Team] = []
_team_lock = lock()


def _team(threads: int) -> Team:
    """The team; a new one if it is too small, or in a forked child, where its threads are gone."""
    with _team_lock:
        team = _team_in_force[0] if _team_in_force else None
        if team is None or team.size < threads or team.pid != os.getpid():
            team = Team(threads)
            _team_in_force[:] = [team]
        return team
