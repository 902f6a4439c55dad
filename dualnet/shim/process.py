"""The process: environment variables that every kernel call reads, locks that are open in a forked child, and cores.

``os.environ.get`` takes 1.3 µs for a variable that is not set, the dictionary beneath it 0.05 µs, and a network of
twelve layers asks some forty times for one image.

A fork copies every lock as it is at that moment, but no thread except the one that forks. If another thread holds a
lock at that moment, nobody in the child will ever release it.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any


def reader(name: str) -> Callable[[], str]:
    """A function that returns the variable's present value, or ``""`` if it is not set.

    >>> read = reader("DUALNET_NOT_SET")
    >>> read()
    ''
    """
    try:
        values, key = os.environ._data, os.environ.encodekey(name)  # type: ignore[attr-defined]
        decode = os.environ.decodevalue
    except AttributeError:  # another Python
        return lambda: os.environ.get(name, "")

    def read() -> str:
        value = values.get(key)
        return "" if value is None else decode(value)

    return read


def lock(again: bool = False) -> Any:
    """A lock; with ``again`` one that its holder may take again.

    >>> one = lock()
    >>> with one:
    ...     one.locked()
    True
    """
    made = threading.RLock() if again else threading.Lock()
    in_forked_child(made._at_fork_reinit)
    return made


def in_forked_child(function: Any) -> None:
    """Call a function in every forked child, before anything else runs there. (Windows has no fork.)"""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=function)


def cores() -> int:
    """How many cores this process may use; a container or ``taskset`` can allow fewer than the machine has.

    >>> cores() >= 1
    True
    """
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
