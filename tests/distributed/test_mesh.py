"""The line beside the work: which faults it notices, how soon, and in which words. All ranks are in this process."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
import types

import pytest

from dualnet.distributed import RankError, launching, meeting, mesh
from dualnet.distributed.meeting import _receive, listener, meet
from dualnet.distributed.mesh import Mesh

TOKEN = b"0123456789abcdef"


@pytest.fixture(autouse=True)
def see_to_the_end(monkeypatch):
    """A rank that does not react to a fault ends its process, and here that would be the tests'. The real function."""
    real = Mesh._see_to_the_end
    monkeypatch.setattr(Mesh, "_see_to_the_end", lambda one: None)
    return real


@contextlib.contextmanager
def meshes(size: int, timeout: float = 300.0):
    """One mesh for each rank. The limit is long, so that nobody who is only slow is taken for silent."""
    door = listener()
    port, found = door.getsockname()[1], [None] * size

    def enter(rank: int) -> None:
        found[rank] = meet(rank, size, None if rank else door, ["127.0.0.1"], port, TOKEN, 120.0)
        found[rank].timeout = timeout

    threads = [threading.Thread(target=enter, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert all(isinstance(one, Mesh) for one in found)
    try:
        yield found
    finally:
        for one in found:
            one.acknowledged = True
            one.close()
            for wire in one.sockets.values():
                wire.close()


def until(true, seconds: float = 60.0) -> None:
    """Wait for something that must come, however busy the machine is."""
    ends = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < ends, "it has not come"
        time.sleep(0.01)


def fault(one: Mesh) -> str:
    """What a rank comes to know."""
    told = []

    def known() -> bool:
        try:
            one.check()
        except RankError as error:
            told.append(str(error))
        return bool(told)

    until(known)
    return told[0]


def test_a_rank_that_dies_is_named_at_once(capsys):
    """Long before it could be missed for its silence: the limit is five minutes."""
    with meshes(3) as found:
        found[2].stop.set()
        found[2].closed = True  # it says nothing more itself
        found[2].sockets[0].shutdown(socket.SHUT_RDWR)
        for one in found[:2]:
            assert "rank 2 (process" in fault(one) and "died without a word" in fault(one)
        assert "rank 0: rank 2 (process" in capsys.readouterr().err


def test_rank_0_that_dies_is_named(capsys):
    with meshes(2) as found:
        found[0].stop.set()
        found[0].closed = True
        found[0].sockets[1].shutdown(socket.SHUT_RDWR)
        assert "rank 0 (process" in fault(found[1])


@pytest.mark.parametrize("silent", [0, 1])
def test_a_rank_that_falls_silent_is_named(silent):
    with meshes(3) as found:
        found[silent].stop.set()  # no more beats
        for one in found[1:] if silent == 0 else found[:1]:  # rank 0 hears everybody, and everybody hears rank 0

            def missed(one=one) -> bool:
                one.heard[silent] = time.monotonic() - 1000.0  # also if a beat was on its way
                return one.fault is not None

            until(missed)
        for rank, one in enumerate(found):
            if rank != silent:
                assert f"rank {silent} (process" in fault(one) and "has said nothing for" in fault(one)


def test_beats_show_that_a_rank_is_there():
    with meshes(2) as found:
        for one, peer in ((found[0], 1), (found[1], 0)):
            one.heard[peer] = long_ago = time.monotonic() - 200
            until(lambda one=one, peer=peer, long_ago=long_ago: one.heard[peer] > long_ago + 100)
            one.check()


def test_what_a_rank_has_done_is_never_forgotten():
    """A beat that was on its way when the rank said goodbye comes last, with an older count."""
    here, there = linked()
    with here, there:
        one = Mesh(0, 2, {1: (here, "process 2 on b")}, 60.0)
        one.place = 7
        there.sendall(mesh.HEAD.pack(b"E", 1, 1) + b"7")
        old = b'{"1": [6, 7.5]}'
        there.sendall(mesh.HEAD.pack(b"B", 1, len(old)) + old)
        until(lambda: one.silent[1] == 7.5)  # the beat has come
        one.check()  # it has taken part in all that this rank waits for
        one.close()


@pytest.mark.parametrize(
    ("seconds", "words"), [(10.0, "is alive, but has not reached"), (200.0, "has said nothing for")]
)
def test_a_rank_counts_as_stopped_after_half_of_the_limit_in_silence(monkeypatch, seconds, words):
    """A long computation that holds the interpreter, or a busy machine, keeps the thread that beats from its work."""
    monkeypatch.setattr(Mesh, "_beat", lambda one: None)
    here, there = linked()
    with here, there:
        one = Mesh(0, 2, {1: (here, "process 2 on b")}, 300.0)
        one.place, one.heard[1] = 1, time.monotonic() - seconds
        assert str(one.late()).startswith(f"rank 1 (process 2 on b) {words}")
        one.close()


@pytest.mark.parametrize(("pauses", "asleep"), [([1e4], True), ([1.0] * 400, False)], ids=["asleep", "awake"])
def test_one_who_has_slept_has_not_listened(monkeypatch, pauses, asleep):
    """A process that was stopped hears nothing; when it wakes, the others are as alive as before. One that was awake
    all the time would have heard them."""
    here, there = linked()
    beat, clock, coming = Mesh._beat, types.SimpleNamespace(now=time.monotonic()), iter(pauses)

    def wait(seconds: float) -> bool:
        pause = next(coming, 0.0)
        clock.now += pause
        return not pause

    with here, there:
        monkeypatch.setattr(Mesh, "_beat", lambda one: None)
        one = Mesh(0, 2, {1: (here, "process 2 on b")}, 300.0)
        one.heard[1] = clock.now
        monkeypatch.setattr(mesh, "time", types.SimpleNamespace(monotonic=lambda: clock.now))
        monkeypatch.setattr(one.stop, "wait", wait)
        beat(one)
        assert (one.fault is None) == asleep
        one.acknowledged = one.closed = True
        one.boxes[1].put(None)


def test_numbers_go_by_way_of_rank_0():
    """``g`` gathers everybody's bytes; ``t`` gives rank r the r-th piece of everybody's."""
    with meshes(3) as found:
        for number, kind, said in ((1, b"g", [b"aA", b"bB", b"cC"]), (2, b"t", [b"abc", b"def", b"ghi"])):
            for one, words in zip(found, said):
                one.place = number
                one.carry(kind, words)
        told = []
        for one in found:
            until(lambda one=one: len(one.answers) == 2)
            told.append((one.answers[1], one.answers[2]))
        assert told == [(b"aAbBcC", b"adg"), (b"aAbBcC", b"beh"), (b"aAbBcC", b"cfi")]
        assert not any(one.parts for one in found)


def test_a_rank_that_is_late_is_told_from_one_that_is_silent():
    with meshes(3) as found:
        for one in found[:2]:
            one.place = 5
        found[2].place = 4
        until(lambda: found[1].places[0] == found[0].places[1] == 5 and found[1].places[2] == found[0].places[2] == 4)
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
        until(lambda: 1 in found[0].gone and 1 in found[2].gone)
        found[0].check()
        found[2].check()
        found[2].place = 8  # and now it waits for rank 1
        assert "rank 1 (process" in fault(found[2]) and "has ended its program, but rank 2 still waits" in fault(
            found[2]
        )


def test_a_rank_that_does_nothing_is_ended(monkeypatch, see_to_the_end):
    """Its main thread may be anywhere, such as in a loop of its own."""
    ended = []
    monkeypatch.setattr(mesh, "os", types.SimpleNamespace(_exit=ended.append))
    monkeypatch.setattr(mesh, "GRACE", 0.2)
    monkeypatch.setattr(Mesh, "_see_to_the_end", see_to_the_end)
    with meshes(2) as found:
        found[1].fail("rank 1: ValueError: bad")
        until(lambda: ended)
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
    there.settimeout(60)
    return here, there


def heard(wire: socket.socket, last: bytes) -> bytes:
    """Read frames up to one of the kind ``last``, and no further; its payload."""
    ends = time.monotonic() + 60
    while time.monotonic() < ends:
        kind, _, length = mesh.HEAD.unpack(_receive(wire, mesh.HEAD.size))
        payload = _receive(wire, length)
        if kind == last:
            return payload
    raise AssertionError(f"no {last!r} came")


def test_who_leaves_waits_until_the_others_have_heard_everything():
    """Else the end of the program throws away what is still on its way over a slow link."""
    here, there = linked()
    with here, there:
        one = Mesh(0, 2, {1: (here, "process 2 on b")}, 300.0)
        one.carry(b"g", b"x" * 1000)
        leaves = threading.Thread(target=one.close, daemon=True)
        leaves.start()
        heard(there, b"E")
        leaves.join(0.3)
        assert leaves.is_alive(), "the other side has not answered yet"
        there.sendall(mesh.HEAD.pack(b"K", 1, 0))
        leaves.join(60)
        assert not leaves.is_alive()


def test_a_goodbye_comes_after_the_last_numbers(monkeypatch):
    """Another thread sends these. Once the goodbye is answered, the program may end, and that thread with it."""
    sent, send, closing = [], Mesh._send, threading.Event()

    def slowly(one, peer, kind, *rest, **options):
        if kind == b"g":
            closing.wait(60)  # until the goodbye waits for this, or is sent before it
        sent.append(kind)
        if kind == b"E":
            closing.set()
        send(one, peer, kind, *rest, **options)

    monkeypatch.setattr(Mesh, "_send", slowly)
    here, there = linked()
    with here, there:
        one = Mesh(1, 2, {0: (here, "process 1 on a")}, 300.0)
        there.sendall(mesh.HEAD.pack(b"E", 0, 1) + b"9")
        (post,) = one.posts
        join = post.join
        monkeypatch.setattr(post, "join", lambda limit: (closing.set(), join(limit)))
        one.carry(b"g", b"x")
        one.close()
        assert [kind for kind in sent if kind in (b"g", b"E")] == [b"g", b"E"]


@pytest.mark.parametrize("first", [True, False])
def test_who_has_said_goodbye_is_not_waited_for(first):
    """It may be held until all ranks have ended, as by MPI, and answer nothing more."""
    here, there = linked()
    with here, there:
        one = Mesh(0, 2, {1: (here, "process 2 on b")}, 300.0)
        goodbye = mesh.HEAD.pack(b"E", 1, 1) + b"0"
        if first:
            there.sendall(goodbye)
            heard(there, b"K")
        leaves = threading.Thread(target=one.close, daemon=True)
        leaves.start()
        heard(there, b"E")
        if not first:
            there.sendall(goodbye)
        leaves.join(60)
        assert not leaves.is_alive()


def test_a_goodbye_is_answered():
    with meshes(3) as found:
        for one in found:
            begun = time.monotonic()
            one.close()
            assert time.monotonic() - begun < 60, "it has waited until its limit"


def test_a_fault_reaches_a_rank_whose_link_is_busy():
    (here, there), (busy, slow) = linked(), linked(narrow=True)
    with here, there, busy, slow:
        one = Mesh(0, 3, {1: (here, "process 2 on b"), 2: (busy, "process 3 on c")}, 60.0)
        one.acknowledged = True
        one.carry(b"g", b"x" * 2_000_000)  # nobody reads it yet
        time.sleep(0.2)
        words = b"rank 1: ValueError: bad"
        there.sendall(mesh.HEAD.pack(b"F", 1, len(words)) + words)
        assert fault(one) == words.decode()
        time.sleep(0.5)
        assert heard(slow, b"F") == words
        one.close()


@pytest.mark.parametrize(("windows", "name"), [(True, "SO_EXCLUSIVEADDRUSE"), (False, "SO_REUSEADDR")])
def test_nobody_else_listens_at_a_port_in_use(monkeypatch, windows, name):
    """On Windows two could, by the option that lets others have a port that was just left."""
    monkeypatch.setattr(socket, "SO_EXCLUSIVEADDRUSE", -5, raising=False)
    monkeypatch.setattr(mesh, "WINDOWS", windows)
    asked = []
    mesh.reserve(types.SimpleNamespace(setsockopt=lambda *given: asked.append(given)))
    assert asked == [(socket.SOL_SOCKET, getattr(socket, name), 1)]


def test_each_door_is_reserved(monkeypatch):
    asked, real = [], mesh.reserve
    for module in (launching, meeting):
        monkeypatch.setattr(module, "reserve", lambda door: (asked.append(door), real(door)))
    launching.free_port()
    listener().close()
    assert len(asked) == 2
