"""One item ahead: the same items, errors where they belong, and no thread left over."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import threading

import pytest

import dualnet as dn
from dualnet.training.ahead import one_ahead


def threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("dualnet-batches")]


@pytest.mark.parametrize("ahead", [True, False])
def test_the_same_items_in_their_order(ahead):
    assert list(one_ahead(range(100), ahead)) == list(range(100))
    assert list(one_ahead([], ahead)) == [] and threads() == []


def test_one_item_is_prepared_while_another_is_in_use_and_no_more():
    made, third = [], threading.Event()

    def items():
        for i in range(9):
            made.append((i, threading.current_thread() is threading.main_thread()))
            if i == 2:
                third.set()
            yield i

    found = one_ahead(items())
    assert next(found) == 0 and next(found) == 1
    assert third.wait(10)  # the third is made though nobody asks for it
    found.close()
    assert [i for i, _ in made] == [0, 1, 2] and not any(main for _, main in made) and threads() == []


def test_an_error_comes_when_its_turn_does():
    def items():
        yield 0
        yield 1
        raise KeyError("two")

    seen = []
    with pytest.raises(KeyError, match="two"), contextlib.closing(one_ahead(items())) as found:
        for item in found:
            seen.append(item)
    assert seen == [0, 1] and threads() == []


SLOW = """
import itertools, signal, threading, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever runs the tests in the background ignores it
import numpy as np
import dualnet as dn

def batches():
    for step in itertools.count():
        time.sleep(0.02)
        if step == 5:  # by now the training has begun
            print("begun", flush=True)
        yield np.ones((4, 2), "float32"), np.array([0, 1, 0, 1])

try:
    dn.Sequential([dn.Dense(2)]).fit(batches(), steps_per_epoch=100_000, verbose=0)
except KeyboardInterrupt:
    print("ended with", threading.active_count(), "thread", flush=True)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows sends Ctrl-C to a whole group")
def test_ctrl_c_ends_the_thread_too():
    with subprocess.Popen([sys.executable, "-c", SLOW], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "begun\n"
        process.send_signal(signal.SIGINT)
        try:
            assert process.communicate(timeout=60)[0] == "ended with 1 thread\n" and process.returncode == 0
        finally:
            process.kill()


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_the_thread_ends_when_the_loop_is_left_by_an_error(error):
    with pytest.raises(error) as caught, contextlib.closing(one_ahead(range(9))) as found:
        for item in found:
            if item == 3:
                raise error
    assert caught and threads() == []  # though the traceback still holds the loop's frame


def test_the_thread_sees_the_backend_in_force():
    with dn.use_backend("strict"):
        assert list(one_ahead(dn.get_backend() for _ in range(2))) == ["strict", "strict"]
