"""Ranks that are threads of this process: the quickest way to try, test and compare, without a launcher."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from ..arguments import integer
from ..shim import Array, backend_of
from .communicator import Communicator, RankError

__all__ = ["run_in_threads"]

Result = TypeVar("Result")


class Table:
    """A table on which the ranks put arrays for each other, by the number of the collective."""

    def __init__(self, size: int) -> None:
        self.size, self.changed = size, threading.Condition()
        self.laid: dict[int, dict[int, Any]] = {}  # collective -> rank -> array
        self.read: dict[int, int] = {}
        self.ended: dict[int, str] = {}  # rank -> why it puts down no more

    def lay(self, number: int, rank: int, array: Any) -> None:
        with self.changed:
            self.laid.setdefault(number, {})[rank] = array
            self.changed.notify_all()

    def take(self, number: int) -> list[Any]:
        """The arrays of all ranks, in their order. The last reader clears the place."""
        with self.changed:
            found = self.laid[number]
            self.read[number] = self.read.get(number, 0) + 1
            if self.read[number] == self.size:
                del self.laid[number], self.read[number]
            return [found[rank] for rank in range(self.size)]


class Laid:
    """A request: is everything there?"""

    def __init__(self, table: Table, number: int, chosen: Callable[[list[Any]], Any]) -> None:
        self.table, self.number, self.chosen = table, number, chosen

    def test(self) -> bool:
        with self.table.changed:
            return len(self.table.laid[self.number]) == self.table.size

    def value(self) -> Any:
        return self.chosen(self.table.take(self.number))


class Threads(Communicator):
    """A rank that is a thread."""

    kind = "threads"

    def __init__(self, rank: int, table: Table, **options: Any) -> None:
        super().__init__(rank, table.size, **options)
        self.table, self.number = table, 0

    def _lay(self, array: Array, chosen: Callable[[list[Any]], Any]) -> Laid:
        self.number += 1
        self.table.lay(self.number, self.rank, array.copy())
        return Laid(self.table, self.number, chosen)

    def _gather(self, flat: Array) -> Any:
        return self._lay(flat, _stacked)

    def _trade(self, pieces: Array) -> Any:
        return self._lay(pieces, lambda parts: _stacked([part[self.rank] for part in parts]))

    def _spread(self, flat: Array, root: int) -> Any:
        return self._lay(flat, lambda parts: parts[root].copy())

    def check(self) -> None:
        """Raise if another thread has ended, and this collective can never be complete."""
        for rank, why in list(self.table.ended.items()):
            if rank != self.rank and rank not in self.table.laid.get(self.number, {}):
                raise RankError(f"rank {rank}: {why}")

    def late(self) -> RankError:
        """The error that names the ranks that are late."""
        missing = sorted(set(range(self.size)) - set(self.table.laid.get(self.number, {})))
        who = f"rank {', '.join(map(str, missing))}" if missing else "another rank"
        return RankError(f"rank {self.rank} has waited {self.timeout:g} s for {who}")

    def fail(self, error: BaseException) -> None:
        """Tell the other threads why this one has ended."""
        if error is self.together:
            return
        with self.table.changed:
            named = "" if isinstance(error, RankError) else f"{type(error).__name__}: "
            self.table.ended.setdefault(self.rank, f"{named}{error}")


def _stacked(parts: list[Any]) -> Any:
    return backend_of(parts[0]).xp.stack(parts)


def run_in_threads(function: Callable[[Communicator], Result], ranks: int, **options: Any) -> list[Result]:
    """Call ``function(communicator)`` once for each of ``ranks`` ranks, each in a thread, and return their results.

    Each call builds its own network. This makes nothing faster, since Python runs one thread at a time; the results are
    those of as many processes. ``options`` are those of :func:`init`: ``timeout``, ``overlap``,
    ``bucket_bytes``. If a rank raises, the others end with :class:`RankError`, and its own error is raised here.

    >>> import dualnet as dn
    >>> def total(ranks):
    ...     return dn.to_numpy(ranks.all_reduce(dn.asarray([1.0 + ranks.rank]))).item()
    >>> dn.distributed.run_in_threads(total, 3)
    [6.0, 6.0, 6.0]
    """
    ranks = integer(ranks, "ranks", op="run_in_threads")
    table, results, errors = Table(ranks), [None] * ranks, [None] * ranks

    def work(rank: int) -> None:
        communicator = Threads(rank, table, **options)
        try:
            results[rank] = function(communicator)  # type: ignore[call-overload]
            error: BaseException = RankError("it has ended and left the others waiting")
        except BaseException as raised:  # it is raised again below
            errors[rank] = error = raised  # type: ignore[call-overload]
        communicator.fail(error)

    threads = [
        threading.Thread(target=contextvars.copy_context().run, args=(work, rank), daemon=True, name=f"rank {rank}")
        for rank in range(ranks)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    causes: list[Any] = [error for error in errors if error is not None]
    if causes:
        raise next((error for error in causes if not isinstance(error, RankError)), causes[0])
    return results  # type: ignore[return-value]
