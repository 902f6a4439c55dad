"""Environment variables as they are now, and a forked child: its locks are open, and it has its own BLAS and
threads."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

import numpy as np
import pytest

import dualnet as dn
from dualnet.backends.cpu import blas, threads
from dualnet.backends.gpu import cudnn_library, cudnn_plans
from dualnet.backends.onednn import library as onednn
from dualnet.shim import kernels, loading
from dualnet.shim.process import cores, lock, reader

can_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
forks = pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")  # that is the point

# -- environment variables ---------------------------------------------------------------------------------------------


def test_the_value_of_now(monkeypatch):
    read = reader("DUALNET_PROBE")
    monkeypatch.delenv("DUALNET_PROBE", raising=False)
    assert read() == ""
    monkeypatch.setenv("DUALNET_PROBE", "größer")
    assert read() == os.environ["DUALNET_PROBE"] == "größer"
    os.environ["DUALNET_PROBE"] = "other"
    assert read() == "other"
    del os.environ["DUALNET_PROBE"]
    assert read() == ""


def test_cores_are_those_that_this_process_may_use(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 5, 9}, raising=False)
    assert cores() == 3
    monkeypatch.delattr(os, "sched_getaffinity")  # neither macOS nor Windows has it
    assert cores() == 64
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert cores() == 1


def test_without_the_dictionary_beneath(monkeypatch):
    class Plain(dict):
        """An os.environ without CPython's inside."""

    monkeypatch.setattr(os, "environ", Plain(DUALNET_PROBE="7"))
    read = reader("DUALNET_PROBE")
    assert read() == "7"
    os.environ.pop("DUALNET_PROBE")
    assert read() == ""


# -- forks -------------------------------------------------------------------------------------------------------------


def in_child(function: Callable[[], bool]) -> bool:
    """What a forked child says, within ten seconds."""
    child = os.fork()
    if child == 0:
        code = 2
        try:
            code = 0 if function() else 1
        finally:
            os._exit(code)
    given_up = threading.Timer(10.0, os.kill, (child, 9))
    given_up.start()
    status = os.waitpid(child, 0)[1]
    given_up.cancel()
    assert status >= 0 and os.waitstatus_to_exitcode(status) != -9, "the child hung"
    return os.waitstatus_to_exitcode(status) == 0


class Elsewhere:
    """``with Elsewhere(manager):`` another thread is inside that manager."""

    def __init__(self, manager: object) -> None:
        self.manager, self.inside, self.leave = manager, threading.Event(), threading.Event()

    def __enter__(self) -> None:
        self.thread = threading.Thread(target=self.stay)
        self.thread.start()
        assert self.inside.wait(10)

    def stay(self) -> None:
        with self.manager:  # type: ignore[attr-defined]
            self.inside.set()
            self.leave.wait(30)

    def __exit__(self, *error: object) -> None:
        self.leave.set()
        self.thread.join()


LOCKS = [
    *(lock(), lock(again=True), threads._team_lock, onednn._lock, loading._lock, kernels.counting),
    *(cudnn_library._lock, cudnn_plans._tuning),
]


@can_fork
@forks
@pytest.mark.parametrize("held", LOCKS)
def test_a_lock_that_another_thread_holds_is_open_in_a_child(held):
    with Elsewhere(held):
        assert in_child(lambda: held.acquire(timeout=1))
        assert not held.acquire(blocking=False), "in the parent it is still held"


@can_fork
@forks
def test_blas_that_another_thread_holds_is_free_in_a_child(rng):
    library = blas.library()
    if library is None:
        pytest.skip("the number of BLAS's threads cannot be set here")
    x, w = rng.random((4, 12, 12, 3), dtype=np.float32), rng.random((3, 3, 3, 8), dtype=np.float32)
    y, before = dn.to_numpy(dn.ops.conv2d(x, w)[0]), library.get()
    library.set(2)
    try:
        with Elsewhere(blas.held()):
            assert library.get() == 1

            def held_again() -> bool:
                found = blas._holders[0] == 0 and library.get() == 2
                with blas.held():
                    found = found and library.get() == 1
                same = np.allclose(dn.to_numpy(dn.ops.conv2d(x, w)[0]), y, rtol=1e-5)
                return found and same and library.get() == 2

            assert in_child(held_again)
        assert library.get() == 2, "and the parent's holder gives it back"
    finally:
        library.set(before)


@can_fork
@forks
def test_children_of_a_busy_program_compute(rng):
    with dn.use_backend("numpy"):
        children_compute(rng)


def children_compute(rng: np.random.Generator) -> None:
    net = dn.Sequential([dn.Conv2D(8, 3), dn.ReLU(), dn.Flatten(), dn.Dense(2)]).init((10, 10, 1), dtype="float64")
    x = rng.random((16, 10, 10, 1))
    want, stop = dn.to_numpy(net(x)), threading.Event()

    def work() -> None:
        while not stop.is_set():
            net(x)

    busy = threading.Thread(target=work)
    busy.start()
    try:
        assert all(in_child(lambda: np.allclose(dn.to_numpy(net(x)), want, rtol=1e-12)) for _ in range(20))
    finally:
        stop.set()
        busy.join()
