"""The line beside the work: which faults it notices, how soon, and in which words. All ranks are in this process."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time

import pytest

from dualnet.distributed import RankError, mesh
from dualnet.distributed.meeting import listener, meet
from dualnet.distributed.mesh import Mesh

TOKEN = b"0123456789abcdef"


@contextlib.contextmanager
def meshes(size: int, timeout: float = 1.0):
    """One mesh for each rank."""
    door = listener()
    port, found = door.getsockname()[1], [None] * size

    def enter(rank: int) -> None:
        found[rank] = meet(rank, size, None if rank else door, ["127.0.0.1"], port, TOKEN, 5.0)
        found[rank].timeout = timeout

    threads = [threading.Thread(target=enter, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert all(isinstance(one, Mesh) for one in found)
    try:
        yield found
    finally:
        for one in found:
            one.acknowledged = True
            one.close()
            for wire in one.sockets.values():
                wire.close()


def fault(one: Mesh, seconds: float = 15.0) -> str:
    """What a rank comes to know, within so many seconds."""
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        try:
            one.check()
        except RankError as error:
            return str(error)
        time.sleep(0.01)
    raise AssertionError("nothing was noticed")


def test_a_rank_that_dies_is_named_at_once(capsys):
    with meshes(3, timeout=30.0) as found:
        begun = time.monotonic()
        found[2].stop.set()
        found[2].closed = True  # it says nothing more itself
        found[2].sockets[0].shutdown(socket.SHUT_RDWR)
        for one in found[:2]:
            assert "rank 2 (process" in fault(one) and "died without a word" in fault(one)
        assert time.monotonic() - begun < 3
        assert "rank 0: rank 2 (process" in capsys.readouterr().err


def test_rank_0_that_dies_is_named(capsys):
    with meshes(2, timeout=30.0) as found:
        found[0].stop.set()
        found[0].closed = True
        found[0].sockets[1].shutdown(socket.SHUT_RDWR)
        assert "rank 0 (process" in fault(found[1])


@pytest.mark.parametrize("silent", [0, 1])
def test_a_rank_that_falls_silent_is_named(silent):
    with meshes(3, timeout=3.0) as found:
        found[silent].stop.set()  # no more beats
        for rank, one in enumerate(found):
            if rank != silent:
                assert f"rank {silent} (process" in fault(one) and "has said nothing for" in fault(one)


def test_one_who_has_slept_has_not_listened():
    """A process that was stopped hears nothing; when it wakes, the others are as alive as before."""
    with meshes(2, timeout=1.0) as found:
        one, slept = found[0], threading.Event()
        found[1].timeout = 60.0  # it was awake

        def sleeps(seconds: float) -> bool:
            time.sleep(2.0)
            one.heard[1] -= 2.0
            slept.set()
            return False

        one.stop.wait = sleeps
        assert slept.wait(10)
        del one.stop.wait
        time.sleep(0.3)
        one.check()


def test_numbers_go_by_way_of_rank_0():
    """``g`` gathers everybody's bytes; ``t`` gives rank r the r-th piece of everybody's."""
    with meshes(3, timeout=20.0) as found:
        for number, kind, said in ((1, b"g", [b"aA", b"bB", b"cC"]), (2, b"t", [b"abc", b"def", b"ghi"])):
            for one, words in zip(found, said):
                one.place = number
                one.carry(kind, words)
        told = []
        for one in found:
            ends = time.monotonic() + 10
            while len(one.answers) < 2 and time.monotonic() < ends:
                time.sleep(0.01)
            told.append((one.answers[1], one.answers[2]))
        assert told == [(b"aAbBcC", b"adg"), (b"aAbBcC", b"beh"), (b"aAbBcC", b"cfi")]
        assert not any(one.parts for one in found)


def test_a_rank_that_is_late_is_told_from_one_that_is_silent():
    with meshes(3, timeout=2.0) as found:
        for one in found[:2]:
            one.place = 5
        found[2].place = 4
        time.sleep(2.5 * mesh.BEAT)
        told = str(found[1].late())
        assert "rank 2 (process" in told and "is alive, but has not reached" in told
        assert "rank 2 (process" in str(found[0].late())


def test_the_words_of_an_error_reach_everybody():
    with meshes(3) as found:
        found[1].fail("rank 1: ValueError: bad")
        assert fault(found[0]) == fault(found[2]) == "rank 1: ValueError: bad"


def test_a_goodbye_is_no_death():
    with meshes(3) as found:
        for one in found:
            one.place = 7
        found[1].close()
        time.sleep(0.3)
        found[0].check()
        found[2].check()
        found[2].place = 8  # and now it waits for rank 1
        assert "rank 1 (process" in fault(found[2]) and "has ended its program, but rank 2 still waits" in fault(
            found[2]
        )


def test_a_rank_that_does_nothing_is_ended(monkeypatch):
    """Its main thread may be anywhere, such as in a loop of its own."""
    ended = []
    monkeypatch.setattr(mesh.os, "_exit", ended.append)
    monkeypatch.setattr(mesh, "GRACE", 0.2)
    with meshes(2) as found:
        found[1].fail("rank 1: ValueError: bad")
        time.sleep(1.0)
        assert ended == [1]


@pytest.mark.parametrize(("windows", "limit"), [(False, struct.pack("ll", 30, 0)), (True, 30_000)])
def test_how_long_sending_may_take(monkeypatch, windows, limit):
    """Windows wants milliseconds, and would read a timeval of 30 s as 30 ms."""
    monkeypatch.setattr(mesh, "WINDOWS", windows)
    assert mesh.send_limit(30.9) == limit


def linked(narrow: bool = False) -> tuple[socket.socket, socket.socket]:
    """Both ends of a connection. A narrow one holds only a little that nobody has read yet."""
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        door.listen(1)
        there = socket.socket()
        if narrow:
            there.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
        there.connect(door.getsockname())
        here, _ = door.accept()
    if narrow:
        here.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
    there.settimeout(10)
    return here, there


def heard(wire: socket.socket, last: bytes) -> bytes:
    """Read frames up to one of the kind ``last``; its payload."""
    ends = time.monotonic() + 10
    with wire.makefile("rb") as reader:
        while time.monotonic() < ends:
            kind, _, length = mesh.HEAD.unpack(reader.read(mesh.HEAD.size))
            payload = reader.read(length)
            if kind == last:
                return payload
    raise AssertionError(f"no {last!r} came")


def test_who_leaves_waits_until_the_others_have_heard_everything():
    """Else the end of the program throws away what is still on its way over a slow link."""
    here, there = linked()
    with here, there:
        one = Mesh(0, 2, {1: (here, "process 2 on b")}, 20.0)
        one.carry(b"g", b"x" * 1000)
        leaves = threading.Thread(target=one.close, daemon=True)
        leaves.start()
        heard(there, b"E")
        leaves.join(0.3)
        assert leaves.is_alive(), "the other side has not answered yet"
        there.sendall(mesh.HEAD.pack(b"K", 1, 0))
        leaves.join(5)
        assert not leaves.is_alive()


@pytest.mark.parametrize("first", [True, False])
def test_who_has_said_goodbye_is_not_waited_for(first):
    """It may be held until all ranks have ended, as by MPI, and answer nothing more."""
    here, there = linked()
    with here, there:
        one = Mesh(0, 2, {1: (here, "process 2 on b")}, 20.0)
        goodbye = mesh.HEAD.pack(b"E", 1, 1) + b"0"
        if first:
            there.sendall(goodbye)
            heard(there, b"K")
        leaves = threading.Thread(target=one.close, daemon=True)
        leaves.start()
        heard(there, b"E")
        if not first:
            there.sendall(goodbye)
        leaves.join(5)
        assert not leaves.is_alive()


def test_a_goodbye_is_answered():
    with meshes(3, timeout=8.0) as found:
        for one in found:
            begun = time.monotonic()
            one.close()
            assert time.monotonic() - begun < 5


def test_a_fault_reaches_a_rank_whose_link_is_busy():
    (here, there), (busy, slow) = linked(), linked(narrow=True)
    with here, there, busy, slow:
        one = Mesh(0, 3, {1: (here, "process 2 on b"), 2: (busy, "process 3 on c")}, 20.0)
        one.acknowledged = True
        one.carry(b"g", b"x" * 2_000_000)  # nobody reads it yet
        time.sleep(0.2)
        words = b"rank 1: ValueError: bad"
        there.sendall(mesh.HEAD.pack(b"F", 1, len(words)) + words)
        assert fault(one) == words.decode()
        time.sleep(0.5)
        assert heard(slow, b"F") == words
        one.close()
