"""The wire beside the work: every rank holds a connection to rank 0, over which ranks tell that they live, or why not.

A collective of MPI or NCCL says nothing about the rank that it waits for, and waits for ever. So each rank sends a
*beat* each second, with the number of collectives that it has begun. From this rank 0 knows, and tells everybody:

- a connection that ends without a goodbye: the rank has died (killed, out of memory)
- no beats: it is stopped, or its machine is gone
- beats, but fewer collectives than the others: it is alive and late
- an error: its words

Where there is no MPI the same connections carry the numbers (``carry``): all send to rank 0, which sends each its
answer. Frames are a kind, a number, a length and bytes; nothing in them is ever run.
"""

from __future__ import annotations

import json
import os
import socket
import struct
import threading
import time
from collections.abc import Callable
from typing import Any

from ..terminal import say
from .communicator import RankError

__all__ = ["Mesh", "addresses", "listener", "meet"]

HEAD = struct.Struct("!cQQ")  # kind, number, length
HELLO = struct.Struct("!16sII")  # token, rank, process id
BEAT = 1.0
"""Seconds between two beats."""
GRACE = 10.0
"""A rank that knows of a fault, and does not come to a collective within so many seconds, is ended."""
HELD_BACK = 0.5
"""Seconds that a rank waits before it ends all others, so that they can say why they end."""


class Mesh:
    """The connections of one rank: rank 0 has one to every other, each of these has one to rank 0."""

    def __init__(self, rank: int, size: int, peers: dict[int, tuple[socket.socket, str]], timeout: float) -> None:
        self.rank, self.size, self.timeout = rank, size, timeout
        self.names = {number: name for number, (_, name) in peers.items()}
        self.sockets = {number: wire for number, (wire, _) in peers.items()}
        self.locks = {number: threading.Lock() for number in peers}
        self.place = 0  # collectives that this rank has begun
        self.fault: str | None = None
        self.acknowledged = self.closed = False
        now = time.monotonic()
        self.heard = dict.fromkeys(peers, now)
        self.places = dict.fromkeys(range(size), 0)
        self.silent = dict.fromkeys(range(size), 0.0)
        self.gone: set[int] = set()  # those that have said goodbye
        self.changed = threading.Condition()
        self.asked: dict[int, dict[int, tuple[bytes, bytes]]] = {}  # at rank 0: collective -> rank -> kind, payload
        self.answers: dict[int, bytes] = {}
        self.stop = threading.Event()
        for number, wire in self.sockets.items():
            wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            wire.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", max(1, int(timeout)), 0))
            wire.settimeout(None)
            self._thread(self._read, number)
        if rank == 0:
            self._tell(b"N", 0, json.dumps(self.names).encode(), but=-1)
        self._thread(self._beat)

    def _thread(self, target: Callable[..., None], *args: Any) -> None:
        threading.Thread(target=target, args=args, daemon=True, name="dualnet-ranks").start()

    def name(self, rank: int) -> str:
        """``"rank 1 (process 4711 on host)"``"""
        return f"rank {rank} ({self.names[rank]})" if rank in self.names else f"rank {rank}"

    # -- what the main thread asks

    def check(self) -> None:
        """Raise :class:`RankError` if a rank has failed, or has ended while this one waits for it."""
        fault = self.fault
        if fault is None and self.gone:
            ended = [rank for rank in sorted(self.gone) if self.places[rank] < self.place]
            if ended:
                fault = f"{self.name(ended[0])} has ended its program, and rank {self.rank} still waits for it"
        if fault is not None:
            self.acknowledged = True
            raise RankError(fault)

    def late(self) -> RankError:
        """The error for a collective that took too long: who has not come?"""
        self.check()
        now = time.monotonic()
        silent = self.silent | {rank: now - heard for rank, heard in self.heard.items()}
        behind = [rank for rank in range(self.size) if rank != self.rank and self.places[rank] < self.place]
        quiet = [rank for rank in behind if silent[rank] > 3 * self._period()]
        if quiet or not behind:
            who = self.name(quiet[0]) if quiet else "another rank"
            told = f"{who} has said nothing for {max(self.timeout, 0):g} s: it is stopped, or its machine is gone"
        else:
            told = (
                f"{self.name(behind[0])} is alive, but has not come to where rank {self.rank} has waited for "
                f"{self.timeout:g} s. If it has so much to do there, say so: dn.distributed.init(timeout=300)"
            )
        self._faulty(told)
        self.acknowledged = True
        return RankError(told)

    def fail(self, words: str) -> None:
        """Tell the others that this rank ends with an error."""
        if self.fault is None and not self.closed:
            self.fault, self.acknowledged = words, True
            for number in self.sockets:
                self._send(number, b"F", self.rank, words.encode())

    def close(self) -> None:
        """Say goodbye."""
        if not self.closed:
            self.closed = True
            self.stop.set()
            for number in self.sockets:
                self._send(number, b"E", self.rank, str(self.place).encode())

    # -- numbers, where there is no MPI

    def carry(self, kind: bytes, payload: bytes) -> int:
        """Begin a collective: ``b"g"`` gathers everybody's bytes, ``b"t"`` gives rank r everybody's r-th piece."""
        number = self.place
        if self.rank == 0:
            self._collect(0, kind, number, payload)
        else:
            self._send(0, kind, number, payload)
        return number

    def _collect(self, peer: int, kind: bytes, number: int, payload: bytes) -> None:
        """At rank 0: one more part of a collective. With the last one everybody gets an answer."""
        with self.changed:
            parts = self.asked.setdefault(number, {})
            parts[peer] = kind, payload
            if len(parts) < self.size:
                return
            del self.asked[number]
        bodies = [parts[rank][1] for rank in range(self.size)]
        if kind == b"t":
            piece = len(bodies[0]) // self.size
            answers = [b"".join(body[r * piece : (r + 1) * piece] for body in bodies) for r in range(self.size)]
        else:
            answers = [b"".join(bodies)] * self.size
        for rank in range(1, self.size):
            self._send(rank, b"A", number, answers[rank])
        with self.changed:  # last: rank 0 may end with its own answer
            self.answers[number] = answers[0]

    # -- the threads

    def _period(self) -> float:
        return min(BEAT, self.timeout / 5)

    def _send(self, peer: int, kind: bytes, number: int, payload: bytes, patient: bool = True) -> None:
        if not self.locks[peer].acquire(timeout=self.timeout if patient else 0.1):
            return
        try:
            self.sockets[peer].sendall(HEAD.pack(kind, number, len(payload)) + payload)
        except OSError:
            pass  # the thread that reads will see that the connection is gone
        finally:
            self.locks[peer].release()

    def _exactly(self, peer: int, count: int) -> bytes:
        held = bytearray(count)
        view, at = memoryview(held), 0
        while at < count:
            got = self.sockets[peer].recv_into(view[at:])
            if not got:
                raise EOFError
            at += got
            self.heard[peer] = time.monotonic()
        return bytes(held)

    def _read(self, peer: int) -> None:
        try:
            while True:
                kind, number, length = HEAD.unpack(self._exactly(peer, HEAD.size))
                self._got(peer, kind, number, self._exactly(peer, length))
        except (OSError, EOFError):
            if peer not in self.gone and not self.closed and self.fault is None:
                told = f"{self.name(peer)} has died without a word: it was killed, or its machine ran out of memory"
                say(f"rank {self.rank}: {told}", "stderr")  # now, since a launcher may end this rank as well
                self._faulty(told)

    def _got(self, peer: int, kind: bytes, number: int, payload: bytes) -> None:
        if kind == b"B":
            told = json.loads(payload)
            for rank, (place, silent) in told.items():
                if int(rank) != self.rank:
                    self.places[int(rank)], self.silent[int(rank)] = place, silent
        elif kind == b"N":
            self.names |= {int(rank): name for rank, name in json.loads(payload).items()}
        elif kind == b"F":
            self._faulty(payload.decode(), but=peer)
        elif kind == b"E":
            self.places[number] = int(payload)
            self.gone.add(number)
            if self.rank == 0:
                self._tell(kind, number, payload, but=peer)
        elif kind == b"A":
            with self.changed:
                self.answers[number] = payload
        else:
            self._collect(peer, kind, number, payload)

    def _beat(self) -> None:
        while not self.stop.wait(self._period()):
            now = time.monotonic()
            mine = {self.rank: (self.place, 0.0)}
            if self.rank == 0:
                mine |= {rank: (self.places[rank], now - heard) for rank, heard in self.heard.items()}
            for number in self.sockets:
                self._send(number, b"B", self.rank, json.dumps(mine).encode(), patient=False)
            for number, heard in self.heard.items():
                if now - heard > self.timeout and number not in self.gone and self.fault is None:
                    words = f"has said nothing for {now - heard:.1f} s: it is stopped, or its machine is gone"
                    self._faulty(f"{self.name(number)} {words}")

    def _tell(self, kind: bytes, number: int, payload: bytes, but: int) -> None:
        for rank in self.sockets:
            if rank != but:
                self._send(rank, kind, number, payload, patient=False)

    def _faulty(self, told: str, but: int = -1) -> None:
        """Something is wrong: remember it, let the others know, and see that this rank ends."""
        if self.fault is not None:
            return
        self.fault = told
        if self.rank == 0:
            self._tell(b"F", 0, told.encode(), but)
        self._thread(self._see_to_the_end)

    def _see_to_the_end(self) -> None:
        time.sleep(min(GRACE, self.timeout))
        if not self.acknowledged and not self.closed:
            say(f"rank {self.rank} is ended: {self.fault}", "stderr")
            os._exit(1)


# -- how ranks find each other -----------------------------------------------------------------------------------------


def listener(port: int = 0) -> socket.socket:
    """A socket at which the others can knock; port 0 is any that is free."""
    made = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.bind(("", port))
    made.listen(1024)
    return made


def addresses() -> list[str]:
    """Where this machine may be reached: ``DUALNET_ADDRESS``, its name, and its addresses."""
    host = socket.gethostname()
    try:
        found = [str(entry[4][0]) for entry in socket.getaddrinfo(host, None, socket.AF_INET)]
    except OSError:
        found = []
    given = os.environ.get("DUALNET_ADDRESS")
    return list(dict.fromkeys([*([given] if given else []), *found, host, "127.0.0.1"]))


def meet(
    rank: int, size: int, door: socket.socket | None, where: list[str], port: int, token: bytes, timeout: float
) -> Mesh:
    """Connect with rank 0, whose ``door`` is open; return when everybody has come. ``token`` keeps strangers out."""
    deadline = time.monotonic() + timeout
    me = f"process {os.getpid()} on {socket.gethostname()}"
    if door is not None:
        return Mesh(rank, size, _let_in(size, door, token, me, deadline), timeout)
    return Mesh(rank, size, {0: _knock(rank, where, port, token, me, deadline)}, timeout)


def _let_in(size: int, door: socket.socket, token: bytes, me: str, deadline: float) -> dict[int, Any]:
    peers: dict[int, Any] = {}
    with door:
        while len(peers) < size - 1:
            door.settimeout(max(0.01, deadline - time.monotonic()))
            try:
                wire, _ = door.accept()
                wire.settimeout(5)
                told, rank, length = HELLO.unpack(_receive(wire, HELLO.size))
                name = _receive(wire, length).decode() if told == token and length < 1000 else ""
            except (OSError, EOFError, UnicodeDecodeError) as error:
                if time.monotonic() < deadline:
                    continue  # a stranger, or somebody who hung up
                missing = sorted(set(range(1, size)) - peers.keys())
                raise RankError(
                    f"rank 0 has waited for {size - 1} other ranks, and these have not come: {missing}"
                ) from error
            if told != token or not 0 < rank < size or rank in peers:
                wire.close()
                continue
            try:
                wire.sendall(HELLO.pack(token, 0, len(me.encode())) + me.encode())
            except OSError:
                continue  # it hung up, and will knock again
            peers[rank] = wire, name
    return peers


def _knock(rank: int, where: list[str], port: int, token: bytes, me: str, deadline: float) -> tuple[Any, str]:
    last: Exception | None = None
    while time.monotonic() < deadline:
        for address in where:
            try:
                wire = socket.create_connection((address, port), timeout=5)
                wire.sendall(HELLO.pack(token, rank, len(me.encode())) + me.encode())
                told, _, length = HELLO.unpack(_receive(wire, HELLO.size))
                if told == token and length < 1000:
                    return wire, _receive(wire, length).decode()
                wire.close()
            except (OSError, EOFError) as error:
                last = error
        time.sleep(0.05)
    raise RankError(
        f"rank {rank} cannot reach rank 0 at port {port} of {', '.join(where)} ({last}). Is there a firewall? "
        "The address of rank 0's machine is in MASTER_ADDR or, with MPI, in rank 0's DUALNET_ADDRESS."
    )


def _receive(wire: socket.socket, count: int) -> bytes:
    held = b""
    while len(held) < count:
        more = wire.recv(count - len(held))
        if not more:
            raise EOFError
        held += more
    return held
