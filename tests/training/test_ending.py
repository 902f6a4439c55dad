"""Signals end a training as Ctrl-C does: in a process of its own, and what it leaves behind."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import threading

import pytest

import dualnet as dn
from dualnet.training.ending import SIGNALS, Terminated, ends_like_ctrl_c, unbroken

pytestmark = pytest.mark.usefixtures("ordinary_signals")
ON_UNIX = pytest.mark.skipif(os.name == "nt", reason="Windows ends a process without asking")

PROGRAM = """
import sys, time
import numpy as np
import dualnet as dn

x, t = np.random.default_rng(0).normal(0, 1, (64, 4)).astype("f4"), np.arange(64) % 2
net = dn.Sequential([dn.Flatten(), dn.Dense(2)])
losses = []

class Waits(dn.Callback):
    def on_epoch_end(self, run):
        losses.append(run.net.evaluate(x, t)["loss"])

    def on_batch_end(self, run):
        if run.epoch == 3 and run.step % 8 == 4:
            print("now", flush=True)
            time.sleep(60)

    def on_fit_end(self, run):
        print("restoring", flush=True)
        if sys.argv[2] == "slowly":
            sys.stdin.readline()
        print("restored", flush=True)

stop = dn.EarlyStopping(patience=99)
try:
    rate = lambda step: 0.1 if step < 8 else 50.0  # the first epoch is the best
    net.fit(x, t, epochs=50, batch_size=8, optimizer=dn.SGD(lr=rate), callbacks=[Waits(), stop],
            validation_data=(x, t), verbose=0)
finally:
    net.save(sys.argv[1])
    print(net.history.epochs, net.evaluate(x, t)["loss"] == losses[0] < losses[-1], flush=True)
"""


def start(path, restores="at once"):
    """The training, in the middle of an epoch. If it restores slowly, it waits for a line meanwhile."""
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(path), restores],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "now\n"
    return process


@ON_UNIX
@pytest.mark.parametrize("name, code", [("SIGTERM", 143), ("SIGHUP", 129), ("SIGINT", -signal.SIGINT)])
def test_what_was_trained_is_kept_and_the_best_weights_are_back(tmp_path, name, code):
    process = start(tmp_path / "net.npz")
    process.send_signal(getattr(signal, name))
    told, errors = process.communicate(timeout=600)
    assert told.split("\n")[:3] == ["restoring", "restored", "3 True"] and process.returncode == code
    assert dn.load(tmp_path / "net.npz").output_shape((4,)) == (2,)
    assert ("Traceback" in errors) == (name == "SIGINT"), errors


@ON_UNIX
def test_a_second_signal_does_not_break_off_what_is_being_restored(tmp_path):
    process = start(tmp_path / "net.npz", "slowly")
    process.send_signal(signal.SIGTERM)
    assert process.stdout.readline() == "restoring\n"
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGTERM)
    told, _ = process.communicate("\n", timeout=600)
    assert told.split("\n")[:2] == ["restored", "3 True"] and process.returncode == 143


@ON_UNIX
def test_after_ctrl_c_a_signal_waits_until_all_is_restored(tmp_path):
    process = start(tmp_path / "net.npz", "slowly")
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "restoring\n"
    process.send_signal(signal.SIGTERM)
    told, _ = process.communicate("\n", timeout=600)
    assert told.split("\n")[:2] == ["restored", "3 True"] and process.returncode == 143


@ON_UNIX
@pytest.mark.parametrize("number", SIGNALS)
def test_inside_a_signal_raises_and_afterwards_all_is_as_it_was(number):
    before = signal.getsignal(number)
    with pytest.raises(Terminated) as caught, ends_like_ctrl_c():
        signal.raise_signal(number)
    assert isinstance(caught.value, (KeyboardInterrupt)) and isinstance(caught.value, SystemExit)
    assert caught.value.code == 128 + number and str(caught.value) == f"ended by {signal.Signals(number).name}"
    assert signal.getsignal(number) is before
    assert pickle.loads(pickle.dumps(caught.value)).code == caught.value.code


@ON_UNIX
def test_the_inner_one_leaves_the_outer_one_in_force_and_later_signals_are_ignored():
    with pytest.raises(Terminated), ends_like_ctrl_c():
        handler = signal.getsignal(signal.SIGTERM)
        with ends_like_ctrl_c():
            assert signal.getsignal(signal.SIGTERM) is handler
        assert signal.getsignal(signal.SIGTERM) is handler
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGHUP)


@ON_UNIX
def test_a_block_that_is_not_to_be_broken_off_ends_first():
    done = []
    with pytest.raises(Terminated) as caught, ends_like_ctrl_c():
        with unbroken(), unbroken():
            signal.raise_signal(signal.SIGHUP)
            signal.raise_signal(signal.SIGTERM)
            done.append("first")
        done.append("not here")
    assert done == ["first"] and caught.value.number == signal.SIGHUP
    with unbroken():
        done.append("without")
    assert done == ["first", "without"]


@ON_UNIX
@pytest.mark.parametrize("handler", [signal.SIG_IGN, lambda number, frame: None], ids=["nohup", "own"])
def test_a_handler_of_ones_own_stays(handler):
    before = signal.signal(signal.SIGHUP, handler)
    try:
        with ends_like_ctrl_c():
            assert signal.getsignal(signal.SIGHUP) is handler
            signal.raise_signal(signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) is handler
    finally:
        signal.signal(signal.SIGHUP, before)


@ON_UNIX
def test_a_handler_that_is_set_inside_stays():
    mine, before = (lambda number, frame: None), signal.getsignal(signal.SIGTERM)
    try:
        with ends_like_ctrl_c():
            signal.signal(signal.SIGTERM, mine)
        assert signal.getsignal(signal.SIGTERM) is mine
    finally:
        signal.signal(signal.SIGTERM, before)


def test_in_another_thread_it_changes_nothing():
    seen = []

    def work():
        before = [signal.getsignal(number) for number in SIGNALS]
        with ends_like_ctrl_c(), unbroken():
            seen.append([signal.getsignal(number) for number in SIGNALS] == before)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [True]


@ON_UNIX
def test_a_block_is_finished_first_also_when_ctrl_c_is_pressed_once():
    done = []
    with pytest.raises(KeyboardInterrupt) as caught, ends_like_ctrl_c() as ending:
        with ends_like_ctrl_c() as inner:  # as fit inside dualnet train
            assert inner is ending
            with inner:
                signal.raise_signal(signal.SIGINT)
                done.append("first")
            done.append("not here")
    assert done == ["first"] and not isinstance(caught.value, Terminated)
    with pytest.raises(KeyboardInterrupt), ends_like_ctrl_c() as ending, ending:
        signal.raise_signal(signal.SIGINT)
        done.append("second")
        signal.raise_signal(signal.SIGINT)  # whoever presses twice means it
        done.append("not here")
    with pytest.raises(Terminated), ends_like_ctrl_c() as ending, ending, ending:
        signal.raise_signal(signal.SIGTERM)
        done.append("third")
    assert done == ["first", "second", "third"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@ON_UNIX
def test_outside_a_block_ctrl_c_raises_at_once_and_an_own_handler_stays():
    with pytest.raises(KeyboardInterrupt), ends_like_ctrl_c() as ending:
        with ending:
            pass
        signal.raise_signal(signal.SIGINT)
    mine = []
    before = signal.signal(signal.SIGINT, lambda number, frame: mine.append(number))
    try:
        with ends_like_ctrl_c() as ending, ending:
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)
    assert mine == [signal.SIGINT]


@ON_UNIX
def test_an_error_in_a_block_stays_the_error():
    with pytest.raises(ZeroDivisionError), ends_like_ctrl_c() as ending, ending:
        signal.raise_signal(signal.SIGTERM)
        raise ZeroDivisionError
