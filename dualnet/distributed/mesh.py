"""A line beside the work: every rank keeps a connection to rank 0, over which it reports that it is alive, or why it
ends.

A collective of MPI or NCCL does not say which rank it waits for, and waits forever. So each rank sends a *beat* each
second, with the number of collectives that it has begun. From this, rank 0 can tell what has happened, and reports it
to every rank:

- a connection that ends without a goodbye: the rank has died (killed, out of memory)
- no beats: it is stopped, or its machine is gone
- beats, but fewer collectives than the others: it is alive, but late
- an error: its message

Without MPI the same connections carry the numbers (``carry``): all send to rank 0, which passes each part on as soon as
it arrives. Threads send and receive, so numbers travel while the main thread computes. A frame is a kind, a number, a
length and bytes; nothing in it is ever executed.
"""

from __future__ import annotations

import json
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Mapping
from queue import SimpleQueue
from typing import Any

from ..terminal import say
from .communicator import RankError

__all__ = ["Mesh", "reserve", "send_limit"]

SOURCE = struct.Struct("!I")  # the rank that sent the numbers which rank 0 passes on
WINDOWS = os.name == "nt"
HEAD = struct.Struct("!cQQ")  # kind, number, length
BEAT = 1.0
"""Seconds between two beats."""
GRACE = 10.0
"""A rank that knows of a fault, but does not reach a collective within this many seconds, is ended."""
HELD_BACK = 0.5
"""Seconds that a rank waits before it ends all others, so that they can say why they end."""


class Mesh:
    """The connections of one rank: rank 0 has one to every other rank, and each of those has one to rank 0."""

    def __init__(
        self,
        rank: int,
        size: int,
        peers: dict[int, tuple[socket.socket, str]],
        timeout: float,
        names: Mapping[int, str] | None = None,
    ) -> None:
        self.rank, self.size, self.timeout = rank, size, timeout
        self.names = {**(names or {}), **{number: name for number, (_, name) in peers.items()}}
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
        self.parted = {number: threading.Event() for number in peers}  # has it our goodbye, or has it left?
        self.changed = threading.Condition()
        self.parts: dict[int, dict[int, bytes]] = {}  # collective -> rank -> what came from there
        self.boxes: dict[int, SimpleQueue] = {number: SimpleQueue() for number in peers}  # numbers to be sent
        self.answers: dict[int, bytes] = {}
        self.stop = threading.Event()
        self.telling: list[threading.Thread] = []  # threads that tell the others of a fault
        for number, wire in self.sockets.items():
            wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            wire.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, send_limit(timeout))
            wire.settimeout(None)
            self._thread(self._read, number)
        self.posts = [self._thread(self._post, number) for number in peers]
        if rank == 0:  # all are here: only now do the others make their mesh
            self._tell(b"N", 0, json.dumps(self.names).encode(), but=-1)
        self._thread(self._beat)

    def _thread(self, target: Callable[..., None], *args: Any) -> threading.Thread:
        thread = threading.Thread(target=target, args=args, daemon=True, name="dualnet-ranks")
        thread.start()
        return thread

    def name(self, rank: int) -> str:
        """``"rank 1 (process 4711 on host)"``"""
        return f"rank {rank} ({self.names[rank]})" if rank in self.names else f"rank {rank}"

    # -- what the main thread calls

    def check(self) -> None:
        """Raise :class:`RankError` if a rank has failed, or has ended while this one waits for it."""
        fault = self.fault
        if fault is None and self.gone:
            ended = [rank for rank in sorted(self.gone) if self.places[rank] < self.place]
            if ended:
                fault = f"{self.name(ended[0])} has ended its program, but rank {self.rank} still waits for it"
        if fault is not None:
            self.acknowledged = True
            raise RankError(fault)

    def late(self) -> RankError:
        """The error for a collective that took too long: it names the rank that has not come."""
        self.check()
        now = time.monotonic()
        silent = self.silent | {rank: now - heard for rank, heard in self.heard.items()}
        behind = [rank for rank in range(self.size) if rank != self.rank and self.places[rank] < self.place]
        quiet = [rank for rank in behind if silent[rank] > max(3 * self._period(), self.timeout / 2)]
        if quiet or not behind:
            who = self.name(quiet[0]) if quiet else "another rank"
            told = f"{who} has said nothing for {max(self.timeout, 0):g} s: it is stopped, or its machine is gone"
        else:
            told = (
                f"{self.name(behind[0])} is alive, but has not reached the point where rank {self.rank} has waited for "
                f"{self.timeout:g} s. If it needs that long, raise the limit: dn.distributed.init(timeout=300)"
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
            for box in self.boxes.values():
                box.put(None)
            for post in self.posts if self.fault is None else ():  # the others may wait for what is still in a box
                post.join(self.timeout)
            for thread in self.telling:
                thread.join(self.timeout)
            for number in self.sockets:
                self._send(number, b"E", self.rank, str(self.place).encode())
            until = time.monotonic() + self.timeout  # if this program ended first, messages under way would be lost
            for parted in self.parted.values() if self.fault is None else ():
                parted.wait(max(0.0, until - time.monotonic()))

    # -- numbers, where there is no MPI

    def carry(self, kind: bytes, payload: bytes) -> int:
        """Begin a collective: ``b"g"`` gathers every rank's bytes, ``b"t"`` gives rank r every rank's r-th piece."""
        number = self.place
        if self.rank:
            self.boxes[0].put((kind, number, payload))
        self._part(self.rank, kind, number, payload)
        return number

    def _part(self, source: int, kind: bytes, number: int, payload: bytes) -> None:
        """Take a part of a collective: this rank's own or, on rank 0, another's, which is passed on to all others at
        once."""
        if self.rank == 0:
            for rank in self.boxes:
                if rank != source:
                    self.boxes[rank].put((b"A", number, SOURCE.pack(source) + self._for(rank, kind, payload)))
        self._keep(source, number, self._for(self.rank, kind, payload))

    def _for(self, rank: int, kind: bytes, payload: bytes) -> bytes:
        if kind == b"g":
            return payload
        piece = len(payload) // self.size
        return payload[rank * piece : (rank + 1) * piece]

    def _keep(self, source: int, number: int, part: bytes) -> None:
        with self.changed:
            parts = self.parts.setdefault(number, {})
            parts[source] = part
            if len(parts) == self.size:
                del self.parts[number]
                self.answers[number] = b"".join(parts[rank] for rank in range(self.size))

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

    def _post(self, peer: int) -> None:
        """Send what is in this rank's box, while the main thread computes."""
        while (letter := self.boxes[peer].get()) is not None:
            self._send(peer, *letter)

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
            self.parted[peer].set()
            if peer not in self.gone and not self.closed and self.fault is None:
                told = f"{self.name(peer)} has died without a word: it was killed, or its machine ran out of memory"
                say(f"rank {self.rank}: {told}", "stderr")  # now, since a launcher may end this rank too
                self._faulty(told)

    def _got(self, peer: int, kind: bytes, number: int, payload: bytes) -> None:
        if kind == b"B":
            told = json.loads(payload)
            for rank, (place, silent) in told.items():
                if int(rank) != self.rank:  # a goodbye may have overtaken this beat, with a higher place
                    self.places[int(rank)] = max(place, self.places[int(rank)])
                    self.silent[int(rank)] = silent
        elif kind == b"F":
            self._faulty(payload.decode(), but=peer)
        elif kind == b"E":
            self.places[number] = int(payload)
            self.gone.add(number)
            if number == peer:
                self._send(peer, b"K", self.rank, b"")
                self.parted[peer].set()  # it needs nothing more, and may not answer: MPI holds it until all have ended
            if self.rank == 0:
                self._tell(kind, number, payload, but=peer)
        elif kind == b"K":
            self.parted[peer].set()
        elif kind == b"A":
            self._keep(SOURCE.unpack_from(payload)[0], number, payload[SOURCE.size :])
        else:
            self._part(peer, kind, number, payload)

    def _beat(self) -> None:
        last = time.monotonic()
        while not self.stop.wait(self._period()):
            now = time.monotonic()
            if now - last > 3 * self._period():  # this process itself was stopped, and could not listen
                self.heard.update(dict.fromkeys(self.heard, now))
            mine = {self.rank: (self.place, 0.0)}
            if self.rank == 0:
                mine |= {rank: (self.places[rank], now - heard) for rank, heard in self.heard.items()}
            for number in self.sockets:
                self._send(number, b"B", self.rank, json.dumps(mine).encode(), patient=False)
            for number, heard in self.heard.items():
                if now - heard > self.timeout and number not in self.gone and self.fault is None:
                    words = f"has said nothing for {now - heard:.1f} s: it is stopped, or its machine is gone"
                    self._faulty(f"{self.name(number)} {words}")
            last = time.monotonic()

    def _tell(self, kind: bytes, number: int, payload: bytes, but: int) -> None:
        for rank in self.sockets:
            if rank != but:
                self._send(rank, kind, number, payload, patient=False)

    def _faulty(self, told: str, but: int = -1) -> None:
        """Something is wrong: remember it, tell the others, and make sure that this rank ends."""
        if self.fault is not None:
            return
        if self.rank == 0:
            others = [rank for rank in self.sockets if rank != but]
            # each by a thread of its own: a slow link must not keep the news from the others, nor lose it
            self.telling = [self._thread(self._send, rank, b"F", 0, told.encode()) for rank in others]
        self.fault = told  # from here on the main thread may end this program, after waiting for ``telling``
        self._thread(self._see_to_the_end)

    def _see_to_the_end(self) -> None:
        time.sleep(min(GRACE, self.timeout))
        if not self.acknowledged and not self.closed:
            say(f"rank {self.rank} is ended: {self.fault}", "stderr")
            os._exit(1)


def reserve(door: socket.socket) -> None:
    """Let this socket take a port that a program has just left, and let no other program listen there.

    On Windows, ``SO_REUSEADDR`` would let two processes listen at one port.
    """
    name = "SO_EXCLUSIVEADDRUSE" if WINDOWS else "SO_REUSEADDR"
    door.setsockopt(socket.SOL_SOCKET, getattr(socket, name), 1)


def send_limit(seconds: float) -> int | bytes:
    """How long a message may take to be sent, in the form that this system's sockets expect: milliseconds, or a
    ``timeval``.

    >>> send_limit(30.0) in (30_000, struct.pack("ll", 30, 0))
    True
    """
    whole = max(1, int(seconds))
    return 1000 * whole if WINDOWS else struct.pack("ll", whole, 0)
