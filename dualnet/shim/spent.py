"""Arrays whose values nobody reads after the coming call: a kernel may write its result into their memory.

After a training step's update nobody needs its gradients. If the new parameters are written into them, they take no
extra memory: for a small batch parameters, gradients and new parameters are most of what a step needs.

Whether nobody else has an array is a question of references: an array that its pullback, a container or the user still
holds, or of which there is a view, has more of them than one that only the dictionary of gradients knows. That says
nothing about memory that NumPy did not allocate: a buffer, a file in memory or another library's tensor may have more
users, none of whom refers to the array. So the memory must be NumPy's own: that of the array, or that of the one array
of which it is a view.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy

__all__ = ["reusable", "spent"]

LEAST = 1024
"""Smaller arrays are not worth the look."""

_spent: ContextVar[dict[int, Any]] = ContextVar("dualnet_spent", default={})  # noqa: B039  nobody writes to it


@contextmanager
def spent(arrays: dict[str, Any]) -> Iterator[None]:
    """Inside, kernels may overwrite those of these arrays that only the dictionary holds.

    >>> import numpy
    >>> kept = numpy.zeros(1000)
    >>> arrays = {"mine": numpy.zeros(1000), "kept": kept, "a view": kept[:500]}
    >>> with spent(arrays):
    ...     [reusable(array) for array in arrays.values()]
    [True, False, False]
    >>> reusable(arrays["mine"])
    False
    """
    token = _spent.set(_held_by_nobody_else(arrays))
    try:
        yield
    finally:
        _spent.reset(token)


def reusable(array: Any) -> bool:
    """May a kernel that has read this array write into it?"""
    return _spent.get().get(id(array), _spent) is array


def _held_by_nobody_else(arrays: dict[str, Any]) -> dict[int, Any]:
    held = _references(arrays)
    return {id(array): array for array, count in zip(arrays.values(), held) if count in _ALONE and _in_one_piece(array)}


def _in_one_piece(array: Any) -> bool:
    """Enough memory of its own, in one piece: NumPy allocated it for this array, or for the one that it shows whole."""
    owner = array if array.base is None else array.base
    if type(owner) is not numpy.ndarray or owner.base is not None or not owner.flags.owndata:
        return False
    flags = array.flags
    return LEAST <= array.nbytes == owner.nbytes and flags.c_contiguous and flags.writeable


def _references(arrays: dict[str, Any]) -> list[tuple[int, int]]:
    """How many references there are to each array, and to the array that it is a view of; (0, 0) if not NumPy's."""
    found = []
    for array in arrays.values():
        own = type(array) is numpy.ndarray
        base = array.base if own else None
        found.append((sys.getrefcount(array) if own else 0, 0 if base is None else sys.getrefcount(base)))
    return found


def _alone() -> set[tuple[int, int]]:
    """What :func:`_references` counts for arrays that only a dictionary holds; nothing where Python does not count."""
    if not hasattr(sys, "getrefcount"):
        return set()
    return set(_references({"": numpy.empty(4), "a view": numpy.empty(4).reshape(2, 2)}))


_ALONE = _alone()
