"""The team of threads: who does what, the same sums whoever does it, errors, forks, and each thread's own buffers."""

from __future__ import annotations

import importlib
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence

import numpy as np
import pytest

from dualnet.backends.cpu import blas, threads
from dualnet.geometry import windows


@pytest.fixture(autouse=True)
def three(monkeypatch):
    monkeypatch.setenv("DUALNET_THREADS", "3")


needs_blas = pytest.mark.skipif(blas.library() is None, reason="the threads of this BLAS cannot be set")


@needs_blas
def test_every_item_once():
    done = []
    threads.parallel_for(range(8), lambda worker, item: done.append((worker, item)))
    assert sorted(item for _, item in done) == list(range(8)) and {worker for worker, _ in done} <= {0, 1, 2}
    threads.parallel_for([], lambda worker, item: pytest.fail("nothing to do"))
    seen = []
    threads.parallel_for("a", lambda worker, item: seen.append((worker, item, threading.current_thread())))
    assert seen == [(0, "a", threading.current_thread())]


@needs_blas
def test_a_slow_worker_gets_less():
    done, meet, others = [[] for _ in range(3)], threading.Barrier(3, timeout=60), threading.Event()

    def work(worker, item):
        if item < 3:
            meet.wait()
        if worker == 1:
            assert others.wait(60), "the others wait until it has done its share"
        done[worker].append(item)
        if sum(map(len, done)) == 8:
            others.set()

    threads.parallel_for(range(9), work)
    assert len(done[1]) == 1 and sorted(sum(done, [])) == list(range(9))


@needs_blas
@pytest.mark.parametrize("items", [0, 1, 5, 6, 7, 100])
def test_portions_are_fixed(items):
    portions = threads.portions(range(items))
    assert [i for portion in portions for i in portion] == list(range(items))
    assert len(portions) == max(1, min(items, 3 * threads.PORTIONS))
    assert max(map(len, portions)) - min(map(len, portions)) <= 1


@needs_blas
def test_the_work_is_really_shared():
    meet = threading.Barrier(3, timeout=60)
    threads.parallel_for(range(3), lambda worker, item: meet.wait())  # no thread passes alone


class Slow(Sequence):
    """Items that take a while to get: Python's own iterator over them, a generator, serves one thread at a time."""

    def __len__(self):
        return 40

    def __getitem__(self, i):
        time.sleep(1e-4)
        return range(40)[i]


@needs_blas
@pytest.mark.parametrize("items", [Slow(), range(40), list(range(40))])
def test_each_item_goes_to_one_thread(items):
    """Threads take from a deque and share no iterator, which need not be safe without the interpreter's lock."""
    done, meet, before = [], threading.Barrier(3, timeout=60), sys.getswitchinterval()

    def work(worker, item):
        if item < 3:
            meet.wait()  # all three take part
        done.append(item)

    sys.setswitchinterval(1e-6)
    try:
        for _ in range(20):
            threads.parallel_for(items, work)
            assert sorted(done) == list(range(40))
            done.clear()
    finally:
        sys.setswitchinterval(before)


@needs_blas
@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="no signals to threads on this system")
@pytest.mark.usefixtures("ordinary_signals")
def test_an_interrupt_waits_for_the_others():
    """Ctrl-C while the caller waits: until the others are done they write into its arrays, and their answers must not
    be taken for those of the next call."""
    done, meet, me = [], threading.Barrier(3, timeout=60), threading.main_thread().ident
    assert threading.get_ident() == me, "signals go to the main thread"

    def work(worker, item):
        meet.wait()
        if worker:
            if worker == 1:
                time.sleep(0.05)
                signal.pthread_kill(me, signal.SIGINT)
            time.sleep(0.1)
            done.append(worker)

    with pytest.raises(KeyboardInterrupt):
        threads.parallel_for(range(3), work)
    assert sorted(done) == [1, 2]
    late = np.zeros(3)

    def slowly(worker, item):
        meet.wait()
        if worker:
            time.sleep(0.05)
        late[item] = 1

    threads.parallel_for(range(3), slowly)
    assert late.all(), "it waited for its own answers"


@needs_blas
@pytest.mark.parametrize("culprit", [0, 2])
def test_an_error_reaches_the_caller_and_the_team_lives_on(culprit):
    meet = threading.Barrier(3, timeout=60)

    def work(worker, item):
        if item < 3:
            meet.wait()  # each worker has one of these
        if worker == culprit:
            raise ValueError(f"worker {worker}")

    with pytest.raises(ValueError, match=f"worker {culprit}"):
        threads.parallel_for(range(6), work)
    test_every_item_once()


@needs_blas
def test_a_busy_team_leaves_the_work_to_the_caller():
    """Several threads predict with one model: each item is done, whoever does it."""
    inside, go, done = threading.Event(), threading.Event(), []

    def slow(worker, item):
        inside.set()
        go.wait(60)

    first = threading.Thread(target=threads.parallel_for, args=(range(3), slow))
    first.start()
    inside.wait(60)
    me = threading.current_thread()
    threads.parallel_for(range(6), lambda worker, item: done.append((item, threading.current_thread() is me)))
    go.set()
    first.join()
    assert done == [(i, True) for i in range(6)]


@needs_blas
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.skipif(sys.version_info >= (3, 12), reason="forking a process with threads warns since Python 3.12")
def test_a_forked_child_makes_its_own_team():
    threads.parallel_for(range(3), lambda worker, item: None)
    child = os.fork()
    if child == 0:
        ok = []
        threads.parallel_for(range(3), lambda worker, item: ok.append(item))
        os._exit(0 if sorted(ok) == [0, 1, 2] else 1)
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
@pytest.mark.parametrize("size", [10, threads.APART])
def test_a_forked_child_has_buffers_of_its_own(size):
    mine = threads.workspace("forked", (size,), np.float32)
    mine[...] = 1
    child = os.fork()
    if child == 0:
        threads.workspace("forked", (size,), np.float32)[...] = 2
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert (mine == 1).all()


def test_buffers_are_kept_by_thread_and_borders_stay_zero():
    a = threads.workspace("test", (4, 5), np.float32)
    assert threads.workspace("test", (2, 3), np.float32).base is a.base
    mine = threads.zeros("test", (3, 3), np.float64, (1, 1))
    mine[1, 1] = 5
    assert threads.zeros("test", (3, 3), np.float64, (1, 1)) is mine
    assert not threads.zeros("test", (3, 3), np.float64, (0, 2)).any(), (
        "a caller that writes elsewhere has a border elsewhere"
    )
    for n in range(threads.KEPT):
        threads.zeros("test", (n + 4,), np.float64, ())
    assert len(threads._local.zeros) == threads.KEPT
    other = []
    worker = threading.Thread(target=lambda: other.append(threads.workspace("test", (4, 5), np.float32)))
    worker.start()
    worker.join()
    assert other[0].base is not a.base


@needs_blas
def test_the_whole_team_lets_its_buffers_go():
    meet = threading.Barrier(3, timeout=60)

    def work(worker, item):
        threads.workspace("test", (1000,), np.float32)
        meet.wait()  # so each thread has one

    threads.parallel_for(range(3), work)
    threads.let_go()
    kept = []
    threads._team(3).run(lambda worker: kept.append(len(threads._local.__dict__)), 3)
    assert kept == [0, 0, 0]


@pytest.mark.parametrize("value", ["0", "-1", "two", "1.5", "100000"])
def test_a_number_of_threads_that_makes_no_sense(monkeypatch, value):
    monkeypatch.setenv("DUALNET_THREADS", value)
    with pytest.raises(ValueError, match="DUALNET_THREADS must be a number from 1 to 1024, got"):
        threads.count()


def test_without_a_blas_to_hold_the_team_is_one(monkeypatch):
    monkeypatch.setattr(blas, "_found", [None])
    assert threads.count() == 1 and threads.workers(9) == 1


def test_workers_are_no_more_than_items():
    assert [threads.workers(items) for items in (0, 1, 2, 9)] == [1, 1, min(2, threads.count()), threads.count()]


@needs_blas
def test_the_team_holds_blas_and_leaves_it_as_it_was():
    library, seen = blas.library(), []
    found = library.get()
    library.set(2)
    try:
        threads.parallel_for(range(3), lambda worker, item: seen.append(library.get()))
        assert seen == [1, 1, 1] and library.get() == 2
    finally:
        library.set(found)


def test_work_is_cut_into_pieces_that_are_worth_a_thread(monkeypatch):
    monkeypatch.setenv("DUALNET_THREADS", "64")
    assert [threads.worth(size) for size in (0, 4 * threads.LEAST, 1000 * threads.LEAST)] == [2, 4, 64]
    assert threads.worth(4 * threads.LEAST, team=3) == 3
    monkeypatch.setenv("DUALNET_THREADS", "1")
    assert threads.worth(4 * threads.LEAST) == 1


@needs_blas
@pytest.mark.parametrize("kernel", ["columns", "lines", "passes", "rows", "scatter", "winograd", "winograd_rows"])
def test_many_threads_do_not_get_tiny_pieces(kernel, monkeypatch):
    """64 images of LeNet-5's second layer, or of 8 × 8 with 32 channels: work for a few threads, not for 64."""
    monkeypatch.setenv("DUALNET_THREADS", "64")
    pieces: list[int] = []
    monkeypatch.setattr(threads, "parallel_for", lambda items, work, alone=False: pieces.append(len(items)))
    used = importlib.import_module(f"dualnet.backends.cpu.{kernel}")
    if kernel == "lines":
        at = windows("conv2d", (14, 14), (5, 5))
        x, w, y = (np.ones(shape, np.float32) for shape in ((64, 14, 14, 6), (5, 5, 6, 16), (64, 10, 10, 16)))
    else:
        at = windows("conv2d", (8, 8), (3, 3), padding=1)
        x, w, y = (np.ones(shape, np.float32) for shape in ((64, 8, 8, 32), (3, 3, 32, 32), (64, 8, 8, 32)))
    if kernel == "passes":
        used.add(np.ones((256, 8, 8, 32), np.float32), np.ones((256, 8, 8, 32), np.float32))
    elif kernel in ("lines", "scatter"):
        used.correlate_inputs(y, w, at)
    else:
        used.correlate(x, w, None, at)
    assert len(pieces) == 1 and pieces[0] <= 16
