"""Ranks with a GPU each: arrays go from device to device, while text and numbers on the host take another route."""

from __future__ import annotations

from typing import Any

import numpy

from ..shim import Array, backend_of, current
from .communicator import Communicator, Pending, RankError

__all__ = ["NCCL"]


class NCCL(Communicator):
    """Arrays on devices go over NCCL; ``hosts``, a communicator over MPI or sockets, carries everything else.

    It introduces the ranks to each other, moves what is on the host, and notices a rank that dies or hangs.
    """

    kind = "nccl"

    def __init__(self, hosts: Communicator, **options: Any) -> None:
        super().__init__(hosts.rank, hosts.size, **options)
        backend = current()
        if backend.peers is None:
            raise ValueError(
                f"init: NCCL moves arrays between GPUs, but the backend in use is {backend.name!r}; call "
                "dn.set_backend('cupy') first, or leave out kind"
            )
        self.hosts, self.devices = hosts, backend.peers()
        introduced = hosts.broadcast_bytes(self.devices.unique_id() if self.rank == 0 else None)
        self.devices.join(self.size, introduced, self.rank)

    def broadcast(self, array: Array, root: int = 0) -> Array:
        """The array of rank ``root``, on every rank."""
        return self.hosts.broadcast(array, root) if _on_host(array) else super().broadcast(array, root)

    def all_gather(self, array: Array) -> Array:
        """The arrays of all ranks in their order: (...) -> (size, ...)."""
        return self.hosts.all_gather(array) if _on_host(array) else super().all_gather(array)

    def start_all_reduce(self, array: Array) -> Pending:
        """Begin :meth:`all_reduce` without waiting."""
        return self.hosts.start_all_reduce(array) if _on_host(array) else super().start_all_reduce(array)

    def _flat(self, array: Array) -> Array:
        xp = backend_of(array).xp
        self.sent_bytes += array.size * array.dtype.itemsize
        return xp.reshape(xp.ascontiguousarray(array), (-1,))

    def _gather(self, flat: Array) -> Any:
        self.hosts.count()
        return self.devices.gather(flat)

    def _trade(self, pieces: Array) -> Any:
        self.hosts.count()
        return self.devices.trade(pieces)

    def _spread(self, flat: Array, root: int) -> Any:
        self.hosts.count()
        return self.devices.spread(flat, root)

    def _gather_on_host(self, flat: numpy.ndarray) -> Any:
        return self.hosts._gather_on_host(flat)

    def _spread_on_host(self, flat: numpy.ndarray, root: int) -> Any:
        return self.hosts._spread_on_host(flat, root)

    def check(self) -> None:
        """Raise :class:`RankError` if another rank has failed."""
        try:
            self.hosts.check()
        except RankError:
            self.devices.abort()
            raise

    def late(self) -> RankError:
        """The error that names the rank that is late."""
        self.devices.abort()
        return self.hosts.late()

    def fail(self, error: BaseException) -> None:
        """Tell the other ranks the error with which this one ends."""
        if error is not self.together:
            self.hosts.fail(error)

    def close(self) -> None:
        """Say goodbye."""
        self.hosts.close()


def _on_host(array: Array) -> bool:
    return backend_of(array).on_host
