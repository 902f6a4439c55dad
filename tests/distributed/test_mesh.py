"""The wire beside the work: who is noticed, how soon, and in which words. All ends are in this process."""

from __future__ import annotations

import contextlib
import socket
import threading
import time

import pytest

from dualnet.distributed import RankError, mesh
from dualnet.distributed.mesh import Mesh, listener, meet

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


def test_a_rank_that_is_late_is_told_from_one_that_is_silent():
    with meshes(3, timeout=2.0) as found:
        for one in found[:2]:
            one.place = 5
        found[2].place = 4
        time.sleep(2.5 * mesh.BEAT)
        told = str(found[1].late())
        assert "rank 2 (process" in told and "is alive, but has not come" in told
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
        assert "rank 1 (process" in fault(found[2]) and "has ended its program, and rank 2 still waits" in fault(
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


def test_strangers_are_not_let_in():
    door = listener()
    port = door.getsockname()[1]
    with socket.create_connection(("127.0.0.1", port)) as wire:
        wire.sendall(mesh.HELLO.pack(b"x" * 16, 1, 3) + b"abc")
        with pytest.raises(RankError, match=r"these have not come: \[1\]"):
            meet(0, 2, door, [], port, TOKEN, 0.5)


def test_nobody_at_the_door():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(RankError, match="cannot reach rank 0 at port .* Is there a firewall"):
        meet(1, 2, None, ["127.0.0.1"], port, TOKEN, 0.3)


def test_addresses(monkeypatch):
    monkeypatch.setenv("DUALNET_ADDRESS", "10.0.0.7")
    assert mesh.addresses()[0] == "10.0.0.7" and "127.0.0.1" in mesh.addresses()
