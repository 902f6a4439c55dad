"""Copies between host and device: counted, or forbidden, inside a ``with`` block."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

__all__ = ["TransferForbidden", "Transfers", "record", "transfers"]


class TransferForbidden(RuntimeError):
    """A copy between host and device inside ``with dn.transfers("forbid")``.

    >>> import dualnet as dn
    >>> with dn.use_backend("strict"), dn.transfers("forbid"):
    ...     x = dn.asarray([1.0, 2.0])
    Traceback (most recent call last):
    ...
    dualnet.TransferForbidden: a copy of 8 bytes from the host to the device, inside dn.transfers("forbid")
    """

    __module__ = "dualnet"  # as users import it


@dataclass
class Transfers:
    """What was copied between host and device inside a ``with dn.transfers(...)`` block: copies, and their bytes.

    >>> import dualnet as dn
    >>> with dn.use_backend("numpy"), dn.transfers() as moved:
    ...     x = dn.to_numpy(dn.asarray([1.0, 2.0]))
    >>> moved
    Transfers(policy='count', to_device=0, to_host=0, nbytes=0)
    """

    policy: str
    to_device: int = 0
    to_host: int = 0
    nbytes: int = 0


_guards: ContextVar[tuple[Transfers, ...]] = ContextVar("dualnet_transfers", default=())


@contextmanager
def transfers(policy: str = "count") -> Iterator[Transfers]:
    """Count this thread's copies between host and device in a block, or ``"forbid"`` them (:class:`TransferForbidden`).

    Blocks may be nested; each counts what happens inside it. Raises ``ValueError`` for another policy.

    >>> import dualnet as dn
    >>> with dn.use_backend("strict"), dn.transfers("count") as moved:
    ...     x = dn.asarray([1.0, 2.0])
    >>> moved.to_device, moved.to_host, moved.nbytes
    (1, 0, 8)
    """
    if policy not in ("count", "forbid"):
        raise ValueError(f"transfers: policy must be 'count' or 'forbid', got {policy!r}")
    guard = Transfers(policy)
    token = _guards.set((*_guards.get(), guard))
    try:
        yield guard
    finally:
        _guards.reset(token)


def record(direction: str, nbytes: int) -> None:
    """Note one copy, ``"to_device"`` or ``"to_host"``, just before it is made.

    >>> record("to_device", 8)  # nobody is counting
    """
    guards = _guards.get()
    if any(guard.policy == "forbid" for guard in guards):
        where = "from the host to the device" if direction == "to_device" else "from the device to the host"
        raise TransferForbidden(f'a copy of {nbytes} bytes {where}, inside dn.transfers("forbid")')
    for guard in guards:
        setattr(guard, direction, getattr(guard, direction) + 1)
        guard.nbytes += nbytes
