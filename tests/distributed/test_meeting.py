"""The door of rank 0: every rank gets in once, and anybody else who knocks neither ends a run nor delays it."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
import time
import types

import pytest

from dualnet.distributed import RankError, meeting, mesh
from dualnet.distributed.meeting import HELLO, Door, listener, meet

TOKEN = b"0123456789abcdef"


class Opened:
    """A door that a thread keeps open for so many ranks. What waits at it before it listens comes first."""

    def __init__(self, size: int, seconds: float, listens: bool) -> None:
        self.door = listener()
        self.port = self.door.getsockname()[1]
        self.found: dict[int, tuple[socket.socket, str]] = {}
        self.error: Exception | None = None
        self.wires: list[socket.socket] = []
        self.thread = threading.Thread(target=self._open, args=(size, seconds), daemon=True)
        if listens:
            self.thread.start()

    def _open(self, size, seconds):
        try:
            self.found = Door(size, self.door, TOKEN, "process 1 on a").welcome(time.monotonic() + seconds)
        except RankError as error:
            self.error = error

    def knock(self, said: bytes = b"") -> socket.socket:
        wire = socket.create_connection(("127.0.0.1", self.port), timeout=60)
        self.wires.append(wire)
        wire.sendall(said)
        return wire

    def answer(self, wire: socket.socket) -> tuple[int, str]:
        _, number, _, length = HELLO.unpack(meeting._receive(wire, HELLO.size))
        return number, meeting._receive(wire, length).decode()

    def come(self, rank: int, name: str, size: int = 3) -> socket.socket:
        """A rank that knocks, gets its answer, and says that it stays."""
        wire = self.knock(hello(rank, name, size=size))
        assert self.answer(wire) == (0, "process 1 on a")
        wire.sendall(meeting.STAY)
        return wire

    def news(self, wire: socket.socket) -> tuple[bytes, str]:
        """What rank 0 tells one who stays."""
        kind, _, length = mesh.HEAD.unpack(meeting._receive(wire, mesh.HEAD.size))
        return kind, meeting._receive(wire, length).decode()

    def hears(self, wire: socket.socket, missing: str) -> None:
        """Sooner or later, one who stays is told that these are missing."""
        for _ in range(400):
            if (news := self.news(wire)) == (b"W", missing):
                return
        pytest.fail(f"the last news is {news}")

    def names(self) -> dict[int, str]:
        self.thread.join(60)
        assert not self.thread.is_alive() and self.error is None
        return {rank: name for rank, (_, name) in self.found.items()}


@contextlib.contextmanager
def opened(size: int, seconds: float = 120.0, listens: bool = True):
    made = Opened(size, seconds, listens)
    yield made
    for wire in [*made.wires, *(wire for wire, _ in made.found.values())]:
        wire.close()


def hello(rank: int, name: str, token: bytes = TOKEN, size: int = 3) -> bytes:
    return HELLO.pack(token, rank, size, len(name)) + name.encode()


STRANGERS = {
    "silence": b"",
    "a browser": b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "another token": hello(1, "x", b"x" * 16),
    "rank 0": hello(0, "x"),
    "a rank too many": hello(3, "x"),
    "a name without end": HELLO.pack(TOKEN, 1, 3, 2**32 - 1),
    "half a hello": hello(1, "process 2 on b")[:-3],
    "no text": HELLO.pack(TOKEN, 2, 3, 2)[:24],
}


@pytest.mark.parametrize("stays", [True, False], ids=["stays", "hangs up"])
def test_strangers_keep_nobody_waiting(monkeypatch, stays):
    monkeypatch.setattr(meeting, "PATIENCE", 300.0)  # whoever waits for a stranger waits longer than this test
    with opened(3) as door:
        for said in STRANGERS.values():
            wire = door.knock(said)
            if not stays:
                wire.close()
        for rank in (2, 1):
            door.come(rank, f"process {rank} on b")
        assert door.names() == {1: "process 1 on b", 2: "process 2 on b"}


def test_a_crowd_at_the_door(monkeypatch):
    monkeypatch.setattr(meeting, "STRANGERS", 3)
    with opened(2) as door:
        crowd = [door.knock() for _ in range(20)]
        assert not crowd[0].recv(1)  # the first was turned away for the others
        door.come(1, "process 2 on b", size=2)
        assert door.names() == {1: "process 2 on b"}


def test_a_rank_that_knocks_again_gets_in():
    """It has waited too long for its answer, and has hung up: its last hello counts."""
    with opened(3) as door:
        first = door.knock(hello(1, "process 2 on b"))
        assert door.answer(first)[0] == 0
        first.close()
        second = door.come(1, "process 2 on b")
        assert door.news(second) == (b"W", "rank 2")
        door.come(2, "process 3 on c")
        assert door.names()[1] == "process 2 on b"
        door.found[1][0].sendall(b"!")
        assert second.recv(1) == b"!"


def test_the_last_hello_counts_before_the_end_of_the_first_is_seen():
    """It is the same process; or another in its place, if the connection of the one before has ended."""
    ends = []
    with listener() as made, (door := Door(3, made, TOKEN, "process 1 on a")).waiting:
        for name in ("process 2 on b", "process 2 on b", "process 3 on b"):
            if name == "process 3 on b":
                ends[-1].close()
            wire, end = socket.socketpair()
            ends.append(end)
            door._let_in(wire, 1, 3, name)
            assert door.peers[1] == (wire, name)
        wire, end = socket.socketpair()
        ends.append(end)
        door._let_in(wire, 1, 3, "process 4 on b")
        assert door.peers[1][1] == "process 3 on b", "that one is still here"
        door._leave(1)
        for end in ends:
            end.close()


def test_the_last_one_hangs_up_and_knocks_again():
    """It has waited too long for its answer, which comes when it listens no more."""
    with opened(2) as door:
        first = door.knock(hello(1, "process 2 on b", size=2))
        assert door.answer(first)[0] == 0
        first.close()  # and has not said that it stays
        door.come(1, "process 2 on b", size=2)
        assert door.names() == {1: "process 2 on b"} and not meeting._ended(door.found[1][0])


def test_who_leaves_is_missing_again():
    """Even if it leaves in the moment in which the last one comes: then nobody would listen to it any more."""
    ends = {}
    with listener() as made, (door := Door(3, made, TOKEN, "process 1 on a")).waiting:
        for rank in (1, 2):
            wire, ends[rank] = socket.socketpair()
            door._let_in(wire, rank, 3, f"process {rank} on b")
        assert door._missing() == [1, 2], "who has an answer has not yet said that it stays"
        for rank in (1, 2):
            ends[rank].sendall(meeting.STAY)
            for key, _ in door.waiting.select(60):
                door._hear(key.fileobj)
        assert door._missing() == []
        ends[1].close()
        assert door.waiting.select(60) and door._missing() == [1] and list(door.peers) == [2]
        ends[2].close()
        for key, _ in door.waiting.select(60):
            door._hear(key.fileobj)
        assert door._missing() == [1, 2] and not door.peers


def test_a_second_process_with_the_same_rank_is_told_and_the_first_stays():
    with opened(3) as door:
        door.come(1, "process 2 on b")
        with pytest.raises(RankError, match=r"says that it is rank 1, and so does process 2 on b"):
            meeting._knock(1, 3, ["127.0.0.1"], door.port, TOKEN, "process 9 on z", time.monotonic() + 60)
        door.come(2, "process 3 on c")
        assert door.names() == {1: "process 2 on b", 2: "process 3 on c"}


def test_strangers_are_not_let_in():
    with opened(2, seconds=0.5, listens=False) as door:
        door.knock(hello(1, "abc", b"x" * 16))
        door.thread.start()  # only now: it is open for half a second
        door.thread.join(60)
        words = str(door.error)
        assert f"rank 0 has waited 0 s at port {door.port}, and rank 1 did not come" in words
        assert "MASTER_ADDR, MASTER_PORT and WORLD_SIZE" in words
        assert words.endswith("Turned away: somebody with a different token (without MPI: a different DUALNET_TOKEN).")


@pytest.mark.parametrize("size", [2, 4])
def test_a_rank_that_counts_other_ranks_is_told_and_stays_outside(size):
    """It would wait for a rank that nobody starts, or take part without one that somebody does."""
    with opened(3) as door:
        says = rf"is rank 1 of {size}, but rank 0 \(process 1 on a\) counts 3 ranks. WORLD_SIZE must be the same"
        with pytest.raises(RankError, match=says):
            meeting._knock(1, size, ["127.0.0.1"], door.port, TOKEN, "process 9 on z", time.monotonic() + 60)
        for rank in (1, 2):
            door.come(rank, f"process {rank} on b")
        assert door.names() == {1: "process 1 on b", 2: "process 2 on b"}


@pytest.mark.parametrize(("rank", "size", "here"), [(2, 3, 2), (1, 2, 3)])
def test_who_was_turned_away_is_named_when_the_time_is_up(rank, size, here):
    with opened(here, seconds=1.5, listens=False) as door:
        door.knock(hello(rank, "process 9 on z", size=size))
        door.thread.start()
        door.thread.join(60)
        assert str(door.error).endswith(f"Turned away: process 9 on z, rank {rank} of {size}; here are {here}.")


def test_who_waits_says_so(monkeypatch, capsys):
    monkeypatch.setattr(meeting, "MOMENT", 0.0)
    with opened(4, seconds=1.5) as door:
        door.thread.join(60)
    said = rf"rank 0 is waiting at port {door.port} for ranks 1, 2, 3; it gives up in \d s\n"
    assert re.fullmatch(said, capsys.readouterr().err)
    monkeypatch.setattr(meeting, "MOMENT", 0.1)
    with pytest.raises(RankError):
        meet(1, 2, None, ["127.0.0.1"], door.port, TOKEN, 0.05, patience=1.5)
    said = capsys.readouterr().err
    assert (
        said.count("\n") == 1 and f"rank 1 is still trying to reach rank 0 at port {door.port} of 127.0.0.1 (" in said
    )


def test_nobody_at_the_door():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))  # and does not listen; nobody else can
        port = free.getsockname()[1]
        with pytest.raises(RankError, match="cannot reach rank 0 at port .* Is rank 0 running"):
            meet(1, 2, None, ["127.0.0.1"], port, TOKEN, 0.3)


def test_a_port_that_is_taken_is_told_and_leaves_nothing_open(monkeypatch):
    made, real = [], socket.socket
    with listener() as door:
        watched = {"socket": lambda *given: made.append(real(*given)) or made[-1]}
        monkeypatch.setattr(meeting, "socket", types.SimpleNamespace(**vars(socket) | watched))
        port = door.getsockname()[1]
        says = f"rank 0 cannot listen at port {port}: another program.*a different MASTER_PORT"
        with pytest.raises(OSError, match=says):
            listener(port)
    assert [wire.fileno() for wire in made] == [-1]


def test_addresses(monkeypatch):
    monkeypatch.setenv("DUALNET_ADDRESS", "10.0.0.7")
    assert meeting.addresses()[0] == "10.0.0.7" and "127.0.0.1" in meeting.addresses()


class Rounds:
    """A deadline that comes after so many looks at the clock, however long they take."""

    def __init__(self, looks: int) -> None:
        self.left = looks

    def __gt__(self, now: float) -> bool:
        self.left -= 1
        return self.left >= 0


def test_who_is_turned_away_is_told_why_and_leaves_nothing_open(monkeypatch):
    made, connect = [], socket.create_connection

    def watched(*given, **options):
        made.append(connect(*given, **options))
        return made[-1]

    with opened(2) as door:
        with monkeypatch.context() as patch:
            patch.setattr(socket, "create_connection", watched)
            with pytest.raises(
                RankError, match=r"\(it hung up: without MPI, DUALNET_TOKEN must be the same on all ranks\)"
            ):
                meeting._knock(1, 2, ["127.0.0.1"], door.port, b"x" * 16, "process 9 on z", Rounds(3))
        assert len(made) == 3 and [wire.fileno() for wire in made] == [-1] * 3
        door.come(1, "process 2 on b", size=2)
        assert door.names() == {1: "process 2 on b"}


def entering(size: int, ranks: list[int], found: dict, door: socket.socket, timeout: float, patience: float = 600.0):
    """Threads in which these ranks meet; ``found`` gets their meshes, or their errors."""

    def enter(rank: int) -> None:
        here = None if rank else door
        try:
            found[rank] = meet(rank, size, here, ["127.0.0.1"], door.getsockname()[1], TOKEN, timeout, patience)
        except RankError as error:
            found[rank] = error

    threads = [threading.Thread(target=enter, args=(rank,), daemon=True) for rank in ranks]
    for thread in threads:
        thread.start()
    return threads


def leave(found: dict) -> None:
    for one in found.values():
        if isinstance(one, mesh.Mesh):
            one.acknowledged = one.closed = True
            one.stop.set()
            for wire in one.sockets.values():
                wire.close()


@pytest.mark.parametrize("collective", [False, True], ids=["at once", "in a collective"])
def test_nobody_is_taken_for_dead_before_all_are_here(monkeypatch, collective):
    """The last of three comes after the timeout, but within the patience."""
    monkeypatch.setattr(mesh.Mesh, "_see_to_the_end", lambda one: None)
    answered, let_in = threading.Event(), Door._let_in
    monkeypatch.setattr(Door, "_let_in", lambda door, *given: (let_in(door, *given), answered.set()))
    found, timeout = {}, 0.5
    door = listener()
    early = entering(3, [0, 1], found, door, timeout)
    assert answered.wait(60)
    time.sleep(4 * timeout)
    assert not found, "a rank has begun before all are here"
    late = entering(3, [2], found, door, timeout)
    for thread in early + late:
        thread.join(600)
    for one in found.values():
        one.timeout = 300.0  # from here on nobody who is only slow shall be taken for dead
    if collective:
        for one in found.values():
            one.place += 1
            one.carry(b"g", bytes([one.rank]))
        for one in found.values():
            ends = time.monotonic() + 60
            while 1 not in one.answers:
                one.check()
                assert time.monotonic() < ends
                time.sleep(0.01)
            assert one.answers[1] == b"\0\1\2"
    for one in found.values():
        one.check()
        assert len(one.names) == (2 if one.rank == 0 else 3)
    leave(found)


def test_who_stays_is_told_who_did_not_come():
    """By rank 0, whose time is up, to each who came."""
    found: dict = {}
    for thread in entering(3, [0], found, door := listener(), 300.0, patience=2.0) + entering(
        3, [1], found, door, 300.0
    ):
        thread.join(60)
    assert str(found[0]) == str(found[1]) and ", and rank 2 did not come. Start all ranks" in str(found[1])


def test_who_stays_and_whose_own_time_is_up_names_who_is_missing(monkeypatch):
    monkeypatch.setattr(meeting, "NEWS", 0.05)
    with opened(4) as door:
        with pytest.raises(RankError, match=r"rank 1 has waited 2 s, and rank 0 .* still waits for ranks 2, 3. Start"):
            meet(1, 4, None, ["127.0.0.1"], door.port, TOKEN, 300.0, patience=2.0)
        wires = [door.come(rank, f"process {rank} on b", size=4) for rank in (2, 3)]
        door.hears(wires[0], "rank 1")  # which has left
        door.come(1, "process 9 on z", size=4)
        assert door.names()[1] == "process 9 on z"


def test_who_stays_hears_who_is_missing_now(monkeypatch):
    monkeypatch.setattr(meeting, "NEWS", 0.05)
    with opened(4) as door:
        first = door.come(1, "process 2 on b", size=4)
        first.settimeout(20)
        assert door.news(first) == (b"W", "ranks 2, 3")
        door.come(2, "process 3 on c", size=4)
        door.hears(first, "rank 3")
        door.come(3, "process 4 on d", size=4)
        assert len(door.names()) == 3


def test_who_stays_gives_up_by_its_own_clock():
    """However long rank 0 says nothing: its machine may be gone."""
    here, there = socket.socketpair()
    found: list[str] = []

    def stay() -> None:
        try:
            meeting._stay(here, 1, "process 1 on a", time.monotonic() + 0.1, 300.0)
        except RankError as error:
            found.append(str(error))

    thread = threading.Thread(target=stay, daemon=True)
    thread.start()
    thread.join(10)
    with here, there:
        assert found and found[0].startswith("rank 1 has waited 300 s, and rank 0 (process 1 on a) still waits for the")


def test_who_stays_notices_that_rank_0_ends():
    """At once: it does not wait for the end of its patience."""
    with listener() as door:
        found: dict = {}
        (thread,) = entering(3, [1], found, door, 300.0, patience=300.0)
        wire, _ = door.accept()
        with wire:
            *_, length = HELLO.unpack(meeting._receive(wire, HELLO.size))
            meeting._receive(wire, length)
            wire.sendall(hello(0, "process 1 on a"))
            assert meeting._receive(wire, 1) == meeting.STAY
        thread.join(60)
        assert "rank 0 (process 1 on a) has ended while rank 1 waited" in str(found[1])
