"""What ranks send to each other: the same few collectives, whatever carries them (MPI, TCP, NCCL, threads).

A *rank* is one of ``size`` processes that train one network together; each has a number from 0. A *collective* is a
call that all ranks make, in the same order. Sums are taken in the order of the ranks, ((a₀ + a₁) + a₂) + …, never in
the order in which the parts arrive, so that every run and every rank gets the same bits.

How a sum is made: an array is cut into ``size`` pieces. Each rank gets one piece from every rank (all to all), adds the
parts up in the order of the ranks, and sends the sum to all (all gather). So each rank sends and gets about twice the
array, however many ranks there are, as in the ring of Patarasu and Yuan (2009), but in a fixed order.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy

from ..ops.sums import wide
from ..shim import Array, asarray, backend_of, to_numpy

__all__ = ["Communicator", "Null", "Pending", "RankError"]

TIMEOUT = 30.0
"""Seconds that a collective waits for the other ranks."""
MEETING = 300.0
"""Seconds to wait at the start, until all ranks have come: they start one by one, and a cluster's disk may be slow."""
LONG = 3600.0
"""Seconds to wait when one rank may have much to do before the others can continue."""
BUCKET_BYTES = 4 * 2**20
"""Gradients travel in buckets of about this many bytes."""
SMALL = 2**13
"""An array of fewer elements goes to all ranks as a whole: one message instead of two."""
ASLEEP = 1.0
"""If this many seconds pass between two tests, instead of milliseconds, this process was stopped, and was not
waiting."""
SPINS, PAUSE = 0.01, 0.0005
"""A waiting rank tests again and again without a pause for SPINS seconds; then it pauses each time."""


class RankError(RuntimeError):
    """Another rank has died, hangs, or raised an error: the message names it. This step has changed nothing."""

    __module__ = "dualnet.distributed"  # as users import it


class Pending:
    """A collective that is under way. ``wait()`` returns the result.

    ``steps`` are functions that each take what the one before has returned; all but the last return the next message.
    All ranks must send their messages in the same order. So only ``forward()`` and ``wait()``, which the program calls,
    begin the next message. ``test()`` begins none, even if an answer happens to have arrived on this rank.
    """

    def __init__(self, owner: Communicator, begin: Any, *steps: Callable[[Any], Any]) -> None:
        self.owner, self.request, self.steps = owner, begin, list(steps)
        self.result: Any = None
        self.done = False

    def test(self) -> bool:
        """Is it done? Checks the message that is under way, without waiting, and begins no other."""
        if not self.done and self.request.test() and len(self.steps) <= 1:
            value = self.request.value()
            self.result, self.done = (self.steps.pop()(value) if self.steps else value), True
        return self.done

    def forward(self) -> None:
        """Wait until the last of its messages is under way."""
        while len(self.steps) > 1:
            self.owner.poll(self.request.test)
            self.request = self.steps.pop(0)(self.request.value())

    def wait(self) -> Any:
        """The result. Raises :class:`RankError` if it does not come within the communicator's ``timeout``."""
        begun = time.perf_counter()
        self.forward()
        self.owner.poll(self.test)
        self.owner.seconds += time.perf_counter() - begun
        return self.result


class Ready:
    """A request that is done already."""

    def __init__(self, value: Any) -> None:
        self.held = value

    def test(self) -> bool:
        return True

    def value(self) -> Any:
        return self.held


class Communicator:
    """What all communicators offer; get yours from :func:`dualnet.distributed.init`.

    ``rank`` is this process's number, 0 … ``size`` − 1; ``kind`` is "null", "mpi", "tcp", "nccl" or "threads".
    ``timeout`` is the longest wait in seconds for another rank; ``overlap`` says whether gradients travel while the
    backward pass still runs; ``bucket_bytes`` is the size of their buckets. ``seconds`` counts the time that this rank
    has spent waiting in collectives, and ``sent_bytes`` the bytes that it has sent with them.

    Arrays may be on the host or on a device; the results are in the same place. All ranks pass arrays of one shape and
    dtype.

    >>> import dualnet as dn
    >>> ranks = dn.distributed.init()  # started by itself, a program is the only rank
    >>> ranks.rank, ranks.size, dn.to_numpy(ranks.all_reduce(dn.asarray([1.0, 2.0])))
    (0, 1, array([1., 2.], dtype=float32))
    """

    kind = ""
    exit_code = 1
    """The exit code after an error, if an MPI launcher ends all ranks."""

    def __init__(
        self,
        rank: int,
        size: int,
        *,
        timeout: float | None = None,
        overlap: bool = True,
        bucket_bytes: int = BUCKET_BYTES,
    ) -> None:
        self.rank, self.size = rank, size
        self.timeout, self.meeting = (TIMEOUT, MEETING) if timeout is None else (timeout, timeout)
        self.overlap, self.bucket_bytes = overlap, bucket_bytes
        self.seconds, self.sent_bytes = 0.0, 0
        self.together: BaseException | None = None  # an error that all ranks know of already

    # -- the collectives that programs call

    def broadcast(self, array: Array, root: int = 0) -> Array:
        """The array of rank ``root``, on every rank. The others pass one of the same shape and dtype."""
        there = backend_of(array)
        flat = self._wait(self._spread(self._flat(array), root))
        return asarray(flat.reshape(array.shape), backend=there.name)

    def all_reduce(self, array: Array) -> Array:
        """The sum over all ranks, in the array's dtype (16-bit numbers are added in float32), as a new array on every
        rank."""
        return self.start_all_reduce(array).wait()

    def all_gather(self, array: Array) -> Array:
        """The arrays of all ranks in their order: (...) -> (size, ...)."""
        there = backend_of(array)
        found = self._wait(self._gather(self._flat(array)))  # (size, n)
        return asarray(found.reshape((self.size, *array.shape)), backend=there.name)

    def start_all_reduce(self, array: Array) -> Pending:
        """Begin :meth:`all_reduce` without waiting. Leave the array alone until ``wait()`` has returned the sum."""
        flat, shape, there = self._flat(array), array.shape, backend_of(array)
        n = flat.shape[0]

        def back(total: Array) -> Array:
            return asarray(total[:n].reshape(shape), backend=there.name)

        if n <= SMALL or self.size == 2:  # with two ranks, each needs the other's part and nothing else
            return Pending(self, self._gather(flat), lambda parts: back(in_order(parts)))
        pieces = self._pieces(flat)  # (size, ⌈n / size⌉)
        return Pending(
            self,
            self._trade(pieces),
            lambda parts: self._gather(in_order(parts)),  # every rank's part of my piece -> its sum, to every rank
            lambda sums: back(sums.reshape((-1,))),
        )

    def barrier(self) -> None:
        """Wait until every rank has reached this call."""
        self.gather_words("")

    def gather_words(self, words: str) -> list[str]:
        """The text of every rank, in their order."""
        told = numpy.frombuffer(words.encode(), "uint8")
        lengths = self.gather_numbers(told.size)[:, 0].astype("int64")
        padded = numpy.zeros(max(1, int(lengths.max())), "uint8")
        padded[: told.size] = told
        found = self._wait(self._gather_on_host(padded))
        return [bytes(row[:length]).decode() for row, length in zip(found, lengths)]

    def gather_numbers(self, *numbers: float) -> numpy.ndarray:
        """Every rank's numbers, on the host: (size, how many), float64."""
        return self._wait(self._gather_on_host(numpy.array(numbers, "float64")))

    def broadcast_bytes(self, data: bytes | None, root: int = 0) -> bytes:
        """Bytes of rank ``root``, of any length; the others pass None."""
        length = int(self.gather_numbers(0 if data is None else len(data))[root, 0])
        mine = numpy.frombuffer(data, "uint8") if self.rank == root and data else numpy.zeros(length, "uint8")
        return bytes(self._wait(self._spread_on_host(mine, root))) if length else b""

    # -- what a carrier defines: requests with test() and value(), for flat arrays in memory that it can reach

    def _gather(self, flat: Array) -> Any:
        """(n,) -> (size, n), the parts of all ranks."""
        raise NotImplementedError

    def _trade(self, pieces: Array) -> Any:
        """(size, n) -> (size, n): piece r goes to rank r, and row r of the result came from there."""
        raise NotImplementedError

    def _spread(self, flat: Array, root: int) -> Any:
        """(n,) -> (n,), that of rank ``root``."""
        raise NotImplementedError

    def _gather_on_host(self, flat: numpy.ndarray) -> Any:
        return self._gather(flat)

    def _spread_on_host(self, flat: numpy.ndarray, root: int) -> Any:
        return self._spread(flat, root)

    def _flat(self, array: Array) -> Array:
        """The array as a row, in memory that the carrier can reach."""
        self.sent_bytes += array.nbytes if hasattr(array, "nbytes") else array.size * array.dtype.itemsize
        return numpy.ascontiguousarray(to_numpy(array)).reshape(-1)

    def _pieces(self, flat: Array) -> Array:
        """A row, cut into a piece for each rank: (n,) -> (size, ⌈n / size⌉), with zeros at the end."""
        xp, rest = backend_of(flat).xp, -flat.shape[0] % self.size
        if rest:
            flat = xp.concat([flat, xp.zeros((rest,), dtype=flat.dtype)])
        return flat.reshape((self.size, -1))

    def _wait(self, request: Any) -> Any:
        return Pending(self, request).wait()

    def poll(self, test: Callable[[], bool]) -> None:
        """Call ``test`` until it says yes. Raises :class:`RankError` if that takes longer than ``timeout``."""
        begun = last = time.monotonic()
        while not test():
            self.check()
            now = time.monotonic()
            if now - last > ASLEEP:
                begun += now - last
            if now - begun > self.timeout:
                raise self.late()
            time.sleep(0 if now - begun < SPINS else PAUSE)
            last = now

    @contextmanager
    def patient(self, seconds: float = LONG) -> Iterator[None]:
        """Inside, wait longer for ranks that are alive, since one may be reading data. A dead rank still ends the
        wait."""
        before, self.timeout = self.timeout, max(seconds, self.timeout)
        try:
            yield
        finally:
            self.timeout = before

    def count(self) -> None:
        """A collective begins."""

    def check(self) -> None:
        """Raise :class:`RankError` if it is known that another rank has ended."""

    def late(self) -> RankError:
        """The error when the time is up: it says which rank we wait for."""
        return RankError(f"rank {self.rank}: another rank has not answered for {self.timeout:g} s")

    def fail(self, error: BaseException) -> None:
        """Tell the other ranks that this one ends with an error, so that they end too."""

    def close(self) -> None:
        """Say goodbye. A program that ends without an error does this automatically."""

    def __enter__(self) -> Communicator:
        return self

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        if error is None:
            self.close()
        else:
            self.fail(error)  # closed when the program ends; the others must learn of the error first

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: rank {self.rank} of {self.size}>"


def in_order(parts: Array) -> Array:
    """a₀ + a₁ + a₂ + …, in this order: (size, n) -> (n,). Numbers of 16 bits are added in float32.

    >>> in_order(numpy.array([[1e16, 1.0], [1.0, 2.0], [-1e16, 3.0]]))  # another order would give 1
    array([0., 6.])
    """
    dtype = parts.dtype
    total = wide(parts[0])
    for part in range(1, parts.shape[0]):
        total = total + wide(parts[part])
    return total.astype(dtype, copy=False)


class Null(Communicator):
    """The only rank: nothing is sent, and every sum is the array itself.

    >>> import dualnet as dn
    >>> dn.distributed.Null()
    <Null: rank 0 of 1>
    """

    kind = "null"

    def __init__(self, **options: Any) -> None:
        super().__init__(0, 1, **options)

    def start_all_reduce(self, array: Array) -> Pending:
        """The array itself."""
        return Pending(self, Ready(array.copy()))

    def _gather(self, flat: Array) -> Any:
        return Ready(flat.reshape((1, -1)))

    def _trade(self, pieces: Array) -> Any:
        return Ready(pieces)

    def _spread(self, flat: Array, root: int) -> Any:
        return Ready(flat)
