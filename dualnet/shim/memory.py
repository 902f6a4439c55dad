"""An op checks that there is enough memory before it asks for it, and warns of gigabytes for a small input."""

from __future__ import annotations

import functools
import os
import sys
import warnings

from .loading import Array, backend_of

__all__ = ["check_memory", "machine_memory"]

LARGE = 2**30
"""Fewer bytes are not worth a message."""
MANY = 1000
"""A result this many times larger than the input comes from the layer's arguments, not from the size of the batch."""
CONTAINER = "/sys/fs/cgroup/memory.max"
"""Where Linux says how much a container, such as a hosted notebook, may use: a number, or ``max``."""


def check_memory(op: str, x: Array, nbytes: int, what: str, fix: str) -> None:
    """Check whether an op on x may ask for at least ``nbytes`` of memory.

    Raises ``MemoryError`` for more than the machine has. Warns of gigabytes if they are many times the size of x.
    A GPU counts its own memory, and raises its own error.

    >>> import dualnet as dn
    >>> with dn.use_backend("numpy"):
    ...     check_memory("conv2d", dn.asarray([1.0]), 10**15, "the output", "Use a larger stride.")
    Traceback (most recent call last):
        ...
    MemoryError: conv2d: for x of shape (1,), the output needs at least 1,000,000.0 GB; ... Use a larger stride.
    """
    if nbytes >= LARGE and backend_of(x).on_host:
        _judge(op, x, nbytes, what, fix)


def _judge(op: str, x: Array, nbytes: int, what: str, fix: str) -> None:
    told = f"{op}: for x of shape {tuple(x.shape)}, {what} needs at least {_gigabytes(nbytes)}"
    if nbytes > machine_memory():
        raise MemoryError(f"{told}; this machine has {_gigabytes(machine_memory())}. {fix}")
    if nbytes > MANY * x.nbytes:
        warnings.warn(f"{told}, {nbytes // max(x.nbytes, 1):,} times as much as x. {fix}", stacklevel=4)


def _gigabytes(nbytes: int) -> str:
    return f"{nbytes / 1e9:,.1f} GB" if nbytes < 10**18 else "more than a billion GB"


@functools.cache
def machine_memory() -> int:
    """How many bytes of memory this process could have: the machine's, or a container's share of it.

    >>> machine_memory() > 10**8
    True
    """
    most = sys.maxsize  # for systems that do not report it: there, asking for too much fails at once
    try:
        most = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        pass
    try:
        with open(CONTAINER, encoding="ascii") as file:
            most = min(most, int(file.read()))
    except (OSError, ValueError):  # no such limit
        pass
    return most if most > 0 else sys.maxsize
