"""Commands that run on several ranks at once: all compute, rank 0 prints and writes, and a mistake is reported once."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import dualnet as dn

from ..terminal import say
from .options import EXIT_USAGE, exit_code

__all__ = ["Ranks", "agreed", "in_turns", "together"]

Ranks = Any
"""A communicator."""
Value = TypeVar("Value")
MISTAKES = (ValueError, OSError, ImportError, MemoryError, dn.BackendUnavailable)
"""Errors that end a command with one line (dualnet/cli/__init__.py)."""
PATIENCE = 60.0
"""Seconds that rank 0 has to save what was trained, after an error."""


@contextmanager
def together() -> Iterator[Ranks]:
    """The communicator of this process. Rank 0 reports what went wrong on any rank, and the others end silently."""
    from ..distributed import RankError, init

    try:
        ranks = init()
    except RuntimeError as error:  # ranks that do not come, or an MPI that is not the launcher's
        raise ValueError(str(error)) from None
    if ranks.size == 1:
        say("--distributed: this is the only rank; mpiexec -n 4 dualnet … starts four", "stderr")
    try:
        yield ranks
    except _Agreed as error:  # all ranks know, and each ends itself
        ranks.close()
        if ranks.rank:
            raise SystemExit(EXIT_USAGE) from None
        raise error.cause from None
    except (*MISTAKES, RankError, KeyboardInterrupt) as error:
        ranks.exit_code = exit_code(error) if isinstance(error, KeyboardInterrupt) else EXIT_USAGE
        ranks.fail(error)
        if not _speaks(ranks, error):
            _let_the_first_finish(ranks, error)
            raise SystemExit(ranks.exit_code) from None
        if isinstance(error, RankError):
            raise ValueError(str(error)) from None
        raise
    else:
        ranks.close()


def _speaks(ranks: Ranks, error: BaseException) -> bool:
    """Should this rank report the error? Rank 0 learns of every error; if rank 0 itself is gone, rank 1 reports
    that."""
    return ranks.rank == 0 or (ranks.rank == 1 and str(error).startswith("rank 0 ("))


def _let_the_first_finish(ranks: Ranks, error: BaseException) -> None:
    """A launcher ends all ranks as soon as one has failed: give rank 0 time to save, and to say why."""
    mesh, until = getattr(ranks, "mesh", None), time.monotonic() + PATIENCE
    while mesh is not None and 0 not in mesh.gone and not str(error).startswith("rank 0 ("):
        if time.monotonic() > until:
            break
        time.sleep(0.05)


def in_turns(ranks: Ranks, fetch: Callable[[], object]) -> None:
    """Call ``fetch()`` on rank 0, then on one rank of each other machine, then on the rest.

    So each disk gets a download only once, whether the machines share a disk or not: later ranks find it there.
    """
    machines = ranks.gather_words(socket.gethostname())
    mine = 0 if ranks.rank == 0 else 1 if machines.index(machines[ranks.rank]) == ranks.rank else 2
    for turn in range(3):
        agreed(ranks, fetch if turn == mine else lambda: None)


def agreed(ranks: Ranks, prepare: Callable[[], Value]) -> Value:
    """What ``prepare()`` returns here. If it fails on one rank, the command ends on all."""
    failed: BaseException | None = None
    try:
        value = prepare()
    except MISTAKES as error:
        failed = error
    with ranks.patient():  # another rank may have more to read
        words = ranks.gather_words("" if failed is None else str(failed) or type(failed).__name__)
    first = next((rank for rank, told in enumerate(words) if told), None)
    if first is None:
        return value
    raise _Agreed(failed if failed is not None and first == ranks.rank else ValueError(f"rank {first}: {words[first]}"))


class _Agreed(Exception):
    """An error that all ranks know of."""

    def __init__(self, cause: BaseException) -> None:
        self.cause = cause
