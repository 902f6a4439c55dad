"""How ranks find each other: rank 0 opens a door, the others knock, and nobody else gets in.

A process that knocks sends a *hello*: a token, a rank, the number of ranks and a name. Rank 0 listens to all of them at
once, so a stranger who sends nothing keeps nobody waiting. A rank that gets no answer knocks again, and its last hello
counts. If anybody has to wait for longer than a moment, a line says for whom and where.

Rank 0 answers at once, and a rank that has its answer says that it *stays*: from then on it does not knock again, and
counts as here. When the last one is here, rank 0 tells them all, and only then do ranks send beats, or take one another
for dead. Until then, rank 0 tells those who stay, from time to time, for whom they wait.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import selectors
import socket
import struct
import time
from typing import Any

from ..terminal import say
from .communicator import RankError
from .mesh import HEAD, Mesh, reserve

__all__ = ["addresses", "listener", "meet"]

HELLO = struct.Struct("!16sIII")  # token, rank, number of ranks, length of the name that follows
LONGEST = 1000
"""Bytes of a name."""
STRANGERS = 64
"""How many strangers may wait at the door; after that, the one who came first is turned away."""
PATIENCE = 5.0
"""Seconds for one attempt to be let in."""
MOMENT = 5.0
"""Seconds until a line says for whom we wait."""
NEWS = 5.0
"""Seconds between two messages to those who stay, about those who are missing."""
STAY = b"!"
"""What a rank sends when it has its answer."""


def listener(port: int = 0) -> socket.socket:
    """A socket at which the others can knock; port 0 is any that is free. ``OSError`` if the port is taken."""
    made = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    reserve(made)
    try:
        made.bind(("", port))
        made.listen(1024)
    except OSError as error:
        made.close()
        taken = error.errno == errno.EADDRINUSE
        why = "another program listens there, perhaps another training" if taken else error.strerror
        raise OSError(
            error.errno,
            f"rank 0 cannot listen at port {port}: {why}. Pass a different MASTER_PORT, the same on all ranks",
        ) from None
    return made


def addresses() -> list[str]:
    """Where to reach this machine: ``DUALNET_ADDRESS``, its name, and its addresses."""
    host = socket.gethostname()
    try:
        found = [str(entry[4][0]) for entry in socket.getaddrinfo(host, None, socket.AF_INET)]
    except OSError:
        found = []
    given = os.environ.get("DUALNET_ADDRESS")
    return list(dict.fromkeys([*([given] if given else []), *found, host, "127.0.0.1"]))


def meet(
    rank: int,
    size: int,
    door: socket.socket | None,
    where: list[str],
    port: int,
    token: bytes,
    timeout: float,
    patience: float | None = None,
) -> Mesh:
    """Connect to rank 0, whose ``door`` is open; return when every rank has come, within ``patience`` seconds (those of
    the ``timeout``). ``token`` keeps strangers out."""
    patience = timeout if patience is None else patience
    deadline = time.monotonic() + patience
    me = f"process {os.getpid()} on {socket.gethostname()}"
    if door is not None:
        return Mesh(rank, size, Door(size, door, token, me).welcome(deadline), timeout)
    wire, name = _knock(rank, size, where, port, token, me, deadline)
    try:
        names = _stay(wire, rank, name, deadline, patience)
    except BaseException:
        wire.close()
        raise
    return Mesh(rank, size, {0: (wire, name)}, timeout, names)


class Door:
    """Rank 0's side: lets every other rank in once."""

    def __init__(self, size: int, door: socket.socket, token: bytes, me: str) -> None:
        self.size, self.door, self.token, self.me = size, door, token, me
        self.waiting = selectors.DefaultSelector()
        self.heard: dict[Any, bytes] = {}  # what those at the door have sent so far
        self.peers: dict[int, tuple[socket.socket, str]] = {}  # those who have an answer
        self.here: set[int] = set()  # those of them who have said that they stay
        self.refused: dict[str, None] = {}  # those who were turned away, and why

    def welcome(self, deadline: float) -> dict[int, tuple[socket.socket, str]]:
        """The connection and the name of each rank. :class:`RankError` names those that have not come in time."""
        begun, port = time.monotonic(), self.door.getsockname()[1]
        patient, moment, news = deadline - begun, begun + MOMENT, begun + NEWS
        self.door.setblocking(False)
        self.waiting.register(self.door, selectors.EVENT_READ)
        with self.door, self.waiting:
            while self._missing():
                now = time.monotonic()
                if now >= deadline:
                    raise self._not_come(port, patient)
                if now >= moment:
                    moment = deadline
                    missing, left = _listed(self._missing()), deadline - now
                    say(f"rank 0 is waiting at port {port} for {missing}; it gives up in {left:.0f} s", "stderr")
                if now >= news:
                    news = now + NEWS
                    self._tell(b"W", _listed(self._missing()), *self.here)
                for key, _ in self.waiting.select(min(moment, news, deadline) - now):
                    if key.fileobj is self.door:
                        self._knocked()
                    elif key.fileobj in self.heard:
                        self._listen(key.fileobj)
                    else:
                        self._hear(key.fileobj)
            for wire in list(self.heard):
                self._turn_away(wire)
        return self.peers

    def _not_come(self, port: int, seconds: float) -> RankError:
        """The error when the time is up."""
        refused = "".join(f" Turned away: {who}." for who in self.refused)
        words = (
            f"rank 0 has waited {seconds:.0f} s at port {port}, and {_listed(self._missing())} did not come. {START}"
        )
        self._tell(b"F", words + refused, *self.here)
        for wire in [*self.heard, *(wire for wire, _ in self.peers.values())]:
            wire.close()
        return RankError(words + refused)

    def _missing(self) -> list[int]:
        """The ranks that are missing, or have left again."""
        if len(self.here) == self.size - 1:
            for rank in [rank for rank in self.here if _ended(self.peers[rank][0])]:
                self._leave(rank)
        return sorted(set(range(1, self.size)) - self.here)

    def _tell(self, kind: bytes, words: str, *ranks: int) -> None:
        """Send words to some of those who stay."""
        message = HEAD.pack(kind, 0, len(words.encode())) + words.encode()
        for rank in ranks:
            try:
                self.peers[rank][0].sendall(message)
            except OSError:
                self._leave(rank)

    def _hear(self, wire: Any) -> None:
        """A rank that has its answer says that it stays, or hangs up: it waited too long for it, and knocks again."""
        rank = next((rank for rank, (one, _) in self.peers.items() if one is wire), None)
        if rank is None:  # it has just been replaced
            return
        try:
            said = wire.recv(1)
        except BlockingIOError:
            return
        except OSError:
            said = b""
        if said:
            self.here.add(rank)
            if missing := self._missing():
                self._tell(b"W", _listed(missing), *{rank} & self.here)
        else:
            self._leave(rank)

    def _leave(self, rank: int) -> None:
        wire, _ = self.peers.pop(rank)
        self.here.discard(rank)
        self.waiting.unregister(wire)
        wire.close()

    def _knocked(self) -> None:
        try:
            wire, _ = self.door.accept()
        except OSError:  # it has hung up
            return
        wire.setblocking(False)
        self.waiting.register(wire, selectors.EVENT_READ)
        self.heard[wire] = b""
        if len(self.heard) > self.size + STRANGERS:
            self._turn_away(next(iter(self.heard)))

    def _turn_away(self, wire: Any) -> None:
        self.waiting.unregister(wire)
        del self.heard[wire]
        wire.close()

    def _listen(self, wire: Any) -> None:
        """Somebody at the door sends something, or hangs up."""
        try:
            more = wire.recv(HELLO.size + LONGEST - len(self.heard[wire]))
        except BlockingIOError:
            return
        except OSError:
            more = b""
        said = self.heard[wire] = self.heard[wire] + more
        begun = len(said) >= HELLO.size
        token, rank, size, length = HELLO.unpack(said[: HELLO.size]) if begun else (self.token, 1, self.size, 0)
        if token != self.token:
            self.refused["somebody with a different token (without MPI: a different DUALNET_TOKEN)"] = None
        if not more or token != self.token or not 0 < rank < size or length >= LONGEST:
            self._turn_away(wire)
        elif begun and len(said) >= HELLO.size + length:
            self.waiting.unregister(wire)
            del self.heard[wire]
            self._let_in(wire, rank, size, said[HELLO.size : HELLO.size + length].decode(errors="replace"))

    def _let_in(self, wire: socket.socket, rank: int, size: int, name: str) -> None:
        """It has the token. If it counts a different number of ranks, or if a process with this rank is already in, we
        stay as we are, and the new one gets an error."""
        if size != self.size:
            self.refused[f"{name}, rank {rank} of {size}; here are {self.size}"] = None
            with wire, contextlib.suppress(OSError):
                wire.settimeout(PATIENCE)
                wire.sendall(_hello(self.token, 0, self.size, self.me))
            return
        there = self.peers.get(rank)
        taken = there is not None and there[1] != name and not _ended(there[0])
        if there is not None and not taken:
            self._leave(rank)
        wire.settimeout(PATIENCE)
        try:
            number, called = (rank, there[1]) if taken and there else (0, self.me)
            wire.sendall(_hello(self.token, number, self.size, called))
        except OSError:  # it has hung up, and will knock again
            taken = True
        if taken:
            wire.close()
        else:
            wire.setblocking(False)
            self.waiting.register(wire, selectors.EVENT_READ)
            self.peers[rank] = wire, name


START = "Start all ranks with the same MASTER_ADDR, MASTER_PORT and WORLD_SIZE, each with its own RANK."


def _hello(token: bytes, rank: int, size: int, name: str) -> bytes:
    return HELLO.pack(token, rank, size, len(name.encode())) + name.encode()


def _listed(ranks: list[int]) -> str:
    """``_listed([1, 2])`` is "ranks 1, 2"."""
    some = ", ".join(map(str, ranks[:8])) + f" and {len(ranks) - 8} more" * (len(ranks) > 8)
    return f"rank{'s' * (len(ranks) > 1)} {some}"


def _ended(wire: socket.socket) -> bool:
    """Has the other side hung up?"""
    wire.setblocking(False)
    try:
        return not wire.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return False
    except OSError:
        return True


def _knock(
    rank: int, size: int, where: list[str], port: int, token: bytes, me: str, deadline: float
) -> tuple[Any, str]:
    last: Exception | None = None
    moment = time.monotonic() + MOMENT
    place = f"port {port} of {', '.join(where)}"
    while (now := time.monotonic()) < deadline:
        if now >= moment:
            moment = deadline
            left = f"it gives up in {deadline - now:.0f} s"
            say(f"rank {rank} is still trying to reach rank 0 at {place} ({last}); {left}", "stderr")
        for address in where:
            wire = None
            try:
                wire = socket.create_connection((address, port), timeout=PATIENCE)
                wire.sendall(_hello(token, rank, size, me))
                told, number, theirs, length = HELLO.unpack(_receive(wire, HELLO.size))
                if told == token and length < LONGEST:
                    name = _receive(wire, length).decode()
                    if theirs != size:
                        wire.close()
                        raise RankError(
                            f"this process ({me}) says that it is rank {rank} of {size}, but rank 0 ({name}) counts "
                            f"{theirs} ranks. WORLD_SIZE must be the same on all ranks."
                        )
                    if number == 0:
                        wire.sendall(STAY)
                        return wire, name
                    wire.close()
                    raise RankError(f"this process ({me}) says that it is rank {rank}, and so does {name}")
                wire.close()
            except (OSError, EOFError) as error:
                last = error.with_traceback(None)
                if wire is not None:
                    wire.close()
        time.sleep(0.05)
    raise RankError(
        f"rank {rank} cannot reach rank 0 at {place} ({last}). Is rank 0 running? Is there a firewall? "
        "The address of rank 0's machine is in MASTER_ADDR or, with MPI, in rank 0's DUALNET_ADDRESS."
    )


def _stay(wire: socket.socket, rank: int, name: str, deadline: float, patience: float) -> dict[int, str]:
    """Wait until rank 0 says that all ranks are here: their names. :class:`RankError` if they do not come in time."""
    missing = "the others"
    try:
        while True:
            wire.settimeout(max(0.001, deadline - time.monotonic()))
            kind, _, length = HEAD.unpack(_receive(wire, HEAD.size))
            words = _receive(wire, length).decode()
            if kind == b"N":
                return {int(number): called for number, called in json.loads(words).items()}
            if kind == b"F":
                raise RankError(words)
            missing = words
    except TimeoutError:
        told = f"rank {rank} has waited {patience:.0f} s, and rank 0 ({name}) still waits for {missing}. {START}"
    except (OSError, EOFError):
        told = f"rank 0 ({name}) has ended while rank {rank} waited with it for {missing}"
    raise RankError(told)


def _receive(wire: socket.socket, count: int) -> bytes:
    held = b""
    while len(held) < count:
        more = wire.recv(count - len(held))
        if not more:
            raise EOFError("it hung up: without MPI, DUALNET_TOKEN must be the same on all ranks")
        held += more
    return held
