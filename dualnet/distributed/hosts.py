"""Ranks that are processes: over MPI or, without MPI, over the mesh's sockets."""

from __future__ import annotations

import atexit
import hashlib
import os
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy

from .communicator import Communicator, RankError
from .meeting import addresses, listener, meet
from .mesh import HELD_BACK, Mesh

__all__ = ["MPI", "TCP", "Processes"]


class Processes(Communicator):
    """What communicators of processes share: the mesh, which notices a rank that dies, hangs or fails."""

    mesh: Mesh

    def _watch(self, mesh: Mesh) -> None:
        """When this program ends, tell the others the error if there was one, or say goodbye."""
        self.mesh = mesh
        before = sys.excepthook

        def hook(kind: Any, error: Any, traceback: Any) -> None:
            self.fail(error)
            before(kind, error, traceback)

        sys.excepthook = hook
        atexit.register(self.close)

    def count(self) -> None:
        """A collective begins."""
        if self.mesh.closed:
            raise RankError("this communicator is closed")
        self.mesh.place += 1

    def check(self) -> None:
        """Raise :class:`RankError` if another rank has failed."""
        self.mesh.check()

    def late(self) -> RankError:
        """The error that names the rank that is late."""
        return self.mesh.late()

    def fail(self, error: BaseException) -> None:
        """Tell the other ranks the error with which this one ends."""
        if error is self.together:
            return
        if isinstance(error, SystemExit) and error.code in (None, 0) and not isinstance(error, KeyboardInterrupt):
            return
        words = "Ctrl-C ended it" if type(error) is KeyboardInterrupt else f"{type(error).__name__}: {error}"
        self.mesh.fail(str(error) if isinstance(error, RankError) else f"rank {self.rank}: {words}")

    def close(self) -> None:
        """Say goodbye."""
        self.mesh.close()


class Sent:
    """An MPI collective under way. It keeps both buffers alive."""

    def __init__(self, request: Any, sent: numpy.ndarray, got: numpy.ndarray) -> None:
        self.request, self.sent, self.got = request, sent, got

    def test(self) -> bool:
        return bool(self.request.Test())

    def value(self) -> numpy.ndarray:
        return self.got


class MPI(Processes):
    """Over MPI, by mpi4py: started by ``mpiexec``, or by ``srun`` if Slurm supports MPI.

    Every call is non-blocking and is tested again and again, since a blocking call would wait forever for a rank that
    has died. MPI only moves bytes; all sums are taken here, in the order of the ranks.
    """

    kind = "mpi"

    def __init__(self, **options: Any) -> None:
        library = mpi4py()
        self.library, self.world = library, library.COMM_WORLD.Dup()
        check_world(self.world.size, os.environ)
        super().__init__(self.world.rank, self.world.size, **options)
        door = listener() if self.rank == 0 else None
        found = (addresses(), door.getsockname()[1], os.urandom(16)) if door is not None else None
        where, port, token = self.world.bcast(found)
        self._watch(meet(self.rank, self.size, door, ["127.0.0.1", *where], port, token, self.timeout))

    def _send(self, call: Callable[..., Any], sent: numpy.ndarray, got: numpy.ndarray, *rest: Any) -> Sent:
        self.count()
        return Sent(call(*(part.view("uint8") for part in (sent, got)[: 2 - bool(rest)]), *rest), sent, got)

    def _gather(self, flat: numpy.ndarray) -> Sent:
        return self._send(self.world.Iallgather, flat, numpy.empty((self.size, flat.size), flat.dtype))

    def _trade(self, pieces: numpy.ndarray) -> Sent:
        return self._send(self.world.Ialltoall, pieces, numpy.empty_like(pieces))

    def _spread(self, flat: numpy.ndarray, root: int) -> Sent:
        held = flat.copy()
        return self._send(self.world.Ibcast, held, held, root)

    def close(self) -> None:
        """Say goodbye; after an error, end all ranks, since MPI would wait for those that have died."""
        failed = self.mesh.fault is not None
        super().close()
        if failed and not self.library.Is_finalized():
            sys.stdout.flush()
            sys.stderr.flush()
            time.sleep(HELD_BACK)  # so that the others can learn of it and report it before MPI ends them
            self.world.Abort(self.exit_code)


class Answer:
    """A collective over the sockets, under way."""

    def __init__(self, mesh: Mesh, number: int, shape: tuple[int, ...], dtype: Any) -> None:
        self.mesh, self.number, self.shape, self.dtype = mesh, number, shape, dtype

    def test(self) -> bool:
        with self.mesh.changed:
            return self.number in self.mesh.answers

    def value(self) -> numpy.ndarray:
        with self.mesh.changed:
            held = self.mesh.answers.pop(self.number)
        return numpy.frombuffer(held, self.dtype).reshape(self.shape)


class TCP(Processes):
    """Over sockets, without any library: rank 0 passes everything on. For a few ranks; MPI is faster."""

    kind = "tcp"

    def __init__(self, rank: int, size: int, host: str, port: int, **options: Any) -> None:
        super().__init__(rank, size, **options)
        door = None if rank else listener(port)
        self._watch(meet(rank, size, door, [host], port, _token(), self.timeout, self.meeting))

    def _carry(self, kind: bytes, flat: numpy.ndarray, shape: tuple[int, ...]) -> Answer:
        self.count()
        return Answer(self.mesh, self.mesh.carry(kind, flat.tobytes()), shape, flat.dtype)

    def _gather(self, flat: numpy.ndarray) -> Answer:
        return self._carry(b"g", flat, (self.size, flat.size))

    def _trade(self, pieces: numpy.ndarray) -> Answer:
        return self._carry(b"t", pieces, pieces.shape)

    def _spread(self, flat: numpy.ndarray, root: int) -> Answer:
        return self._carry(b"g", flat if self.rank == root else flat[:0], flat.shape)


def _token() -> bytes:
    """The token that ranks show each other at the door."""
    return hashlib.sha256(b"dualnet ranks" + os.environ.get("DUALNET_TOKEN", "").encode()).digest()[:16]


SIZES = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS")
"""Variables in which an MPI launcher gives each process the number of ranks."""


def check_world(size: int, environment: Mapping[str, str]) -> None:
    """Raise if MPI knows of only one rank although the launcher has started several: each would train alone.

    >>> check_world(4, {"PMI_SIZE": "4"})
    """
    said = next((f"{name}={environment[name]}" for name in SIZES if environment.get(name, "1") != "1"), None)
    if size == 1 and said is not None:
        raise RuntimeError(
            f"init: the launcher says {said}, but MPI knows of only one rank. mpi4py uses a different MPI "
            "than mpiexec or srun: start the ranks with the mpiexec beside this Python, or build mpi4py against the "
            "cluster's MPI (pip install --no-binary=mpi4py mpi4py)."
        )


def mpi4py() -> Any:
    """The module ``mpi4py.MPI``."""
    try:
        from mpi4py import MPI as library  # noqa: PLC0415
    except (ImportError, RuntimeError) as error:  # RuntimeError: no libmpi
        raise ImportError(
            'several ranks under mpiexec need mpi4py and an MPI library: pip install "dualnet[mpi]"', name="mpi4py"
        ) from error
    return library
