"""A team of threads that share out the blocks of a batch, while BLAS is held to one thread.

Two pools of threads on the same cores cost a factor of two, so the team works alone: BLAS's own thread count is set to
one while a kernel runs, and put back afterwards. NumPy lets go of the interpreter's lock inside copies, ufuncs and
matrix products, so plain Python threads are enough.

Items are dealt out in fixed runs, by number, and each worker adds up its own part: with the same number of threads the
result is the same to the last bit, whichever thread was faster. ``DUALNET_THREADS`` sets the number (default: the cores
that this process may use). Where BLAS cannot be held, the team is one and BLAS keeps its threads.
"""

from __future__ import annotations

import ctypes
import math
import os
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy

CALLS = (
    ("scipy_openblas_get_num_threads64_", "scipy_openblas_set_num_threads64_"),
    ("scipy_openblas_get_num_threads", "scipy_openblas_set_num_threads"),
    ("openblas_get_num_threads64_", "openblas_set_num_threads64_"),
    ("openblas_get_num_threads", "openblas_set_num_threads"),
    ("MKL_Get_Max_Threads", "MKL_Set_Num_Threads"),
)
_local = threading.local()


def count() -> int:
    """How many threads share the work: ``DUALNET_THREADS``, or the cores that this process may use."""
    asked = os.environ.get("DUALNET_THREADS", "").strip()
    if asked:
        if not (asked.isascii() and asked.isdigit() and 1 <= int(asked) <= 1024):
            raise ValueError(f"DUALNET_THREADS is a number from 1 to 1024, got {asked!r}")
        wanted = int(asked)
    else:
        wanted = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return wanted if wanted == 1 or blas() is not None else 1


def share(items: Sequence[Any], work: Callable[[int, Any], None], threads: int | None = None) -> None:
    """Call ``work(worker, item)`` for every item: worker k takes the k-th of equal runs of items, in order.

    The calling thread is worker 0. If the team is busy with another caller, the caller does all runs itself, in the
    same portions, so that the result stays the same.
    """
    threads = min(count() if threads is None else threads, len(items))
    runs = [items[k * len(items) // threads : (k + 1) * len(items) // threads] for k in range(threads)]

    def run(worker: int) -> None:
        for item in runs[worker]:
            work(worker, item)

    with held():
        if threads > 1:
            _team(threads).run(run, threads)
        elif threads:
            run(0)


def workspace(name: str, shape: tuple[int, ...], dtype: Any) -> numpy.ndarray:
    """A buffer of this thread's own, kept from call to call: a fresh one costs a page fault for every 4 KiB."""
    kept = _local.__dict__.setdefault("workspaces", {})
    size, key = math.prod(shape), (name, numpy.dtype(dtype))
    if key not in kept or kept[key].size < size:
        kept[key] = numpy.empty(size, dtype)
    return kept[key][:size].reshape(shape)


class Team:
    """Threads that wait for work: ``run(f, n)`` calls f(0) here and f(1) … f(n − 1) there, and waits for all."""

    def __init__(self, threads: int) -> None:
        self.pid, self.size = os.getpid(), threads
        self._busy = threading.Lock()
        self._inboxes: list[queue.SimpleQueue] = [queue.SimpleQueue() for _ in range(threads - 1)]
        self._outbox: queue.SimpleQueue = queue.SimpleQueue()
        for worker, inbox in enumerate(self._inboxes, start=1):
            threading.Thread(target=self._work, args=(worker, inbox), name=f"dualnet-{worker}", daemon=True).start()

    def _work(self, worker: int, inbox: queue.SimpleQueue) -> None:
        while True:
            function = inbox.get()
            try:
                function(worker)
                error = None
            except BaseException as caught:  # handed to the caller, who raises it
                error = caught
            del function
            self._outbox.put(error)

    def run(self, function: Callable[[int], None], threads: int) -> None:
        if not self._busy.acquire(blocking=False):
            for worker in range(threads):
                function(worker)
            return
        errors: list[BaseException | None] = []
        try:
            for inbox in self._inboxes[: threads - 1]:
                inbox.put(function)
            try:
                function(0)
            except BaseException as caught:
                errors.append(caught)
            errors += [self._outbox.get() for _ in range(threads - 1)]
        finally:
            self._busy.release()
        for error in errors:
            if error is not None:
                raise error


_team_in_force: list[Team] = []
_team_lock = threading.Lock()


def _team(threads: int) -> Team:
    """The team, made anew when it is too small and in a forked child, where its threads are gone."""
    with _team_lock:
        team = _team_in_force[0] if _team_in_force else None
        if team is None or team.size < threads or team.pid != os.getpid():
            team = Team(threads)
            _team_in_force[:] = [team]
        return team


# -- BLAS --------------------------------------------------------------------------------------------------------------


class Blas:
    """Read and set how many threads BLAS uses."""

    def __init__(self, name: str, get: Callable[[], int], set: Callable[[int], Any]) -> None:
        self.name, self.get, self.set = name, get, set


_found: list[Blas | None] = []
_hold_lock = threading.Lock()
_holders = [0, 0]  # how many callers hold BLAS now, and the number of threads to give back


def blas() -> Blas | None:
    """NumPy's BLAS, if its number of threads can be set: through threadpoolctl where present, else its own calls."""
    if not _found:
        _found.append(_by_threadpoolctl() or _by_its_own_calls())
    return _found[0]


@contextmanager
def held() -> Iterator[None]:
    """BLAS uses one thread inside; the last one out puts back what was found."""
    library = blas()
    if library is None:
        yield
        return
    with _hold_lock:
        if _holders[0] == 0:
            _holders[1] = library.get()
            if _holders[1] != 1:
                library.set(1)
        _holders[0] += 1
    try:
        yield
    finally:
        with _hold_lock:
            _holders[0] -= 1
            if _holders[0] == 0 and _holders[1] != 1:
                library.set(_holders[1])


def _by_threadpoolctl() -> Blas | None:
    try:
        from threadpoolctl import ThreadpoolController
    except ImportError:
        return None
    found = ThreadpoolController().select(user_api="blas").lib_controllers
    if len(found) != 1:  # more than one BLAS in the process: which is NumPy's?
        return None
    return Blas(found[0].internal_api, found[0].get_num_threads, found[0].set_num_threads)


def _by_its_own_calls() -> Blas | None:
    for path in _libraries():
        try:
            library = ctypes.CDLL(path)
        except OSError:
            continue
        for get, set_ in CALLS:
            if hasattr(library, get) and hasattr(library, set_):
                return Blas(os.path.basename(path), getattr(library, get), getattr(library, set_))
    return None


def _libraries() -> list[str]:
    """The BLAS libraries that NumPy brought or that are loaded already."""
    beside = os.path.join(os.path.dirname(os.path.dirname(numpy.__file__)), "numpy.libs")
    paths = [os.path.join(beside, name) for name in sorted(os.listdir(beside))] if os.path.isdir(beside) else []
    try:
        with open("/proc/self/maps", encoding="utf-8") as maps:
            paths += sorted({line.split(maxsplit=5)[-1].strip() for line in maps if ".so" in line})
    except OSError:
        pass
    return [path for path in paths if any(name in os.path.basename(path) for name in ("openblas", "mkl_rt"))]
