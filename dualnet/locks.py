"""Locks that a forked child finds open.

A fork copies every lock as it is at that moment, and no thread but the one that forks: what another thread holds,
nobody will ever give back in the child.
"""

from __future__ import annotations

import os
import threading
from typing import Any


def lock(again: bool = False) -> Any:
    """A lock; with ``again`` one that its holder may take once more.

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
