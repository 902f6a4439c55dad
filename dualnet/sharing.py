"""What a rank knows about the whole batch while it computes with its own part (:mod:`dualnet.distributed`).

If several ranks share a batch, each gets one part of it. Two layers must know that their input is only a part: dropout,
which draws a number for each place of the *whole* batch, and synchronised batch norm, whose statistics are those of the
whole batch. Both ask ``part()``, which is None if the batch is not shared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from .shim import Array

__all__ = ["Part", "part", "taking"]


@dataclass(frozen=True)
class Part:
    """The examples ``start`` … ``start + rows − 1`` of a batch of ``whole`` examples.

    ``add(array)`` returns the sum of the arrays of all ranks; every rank calls it. With ``synchronised``, batch norm
    takes its statistics from the whole batch. ``filled(layer, gradients)``, if it is not None, is called as soon as the
    backward pass has the gradients of a layer.
    """

    start: int
    rows: int
    whole: int
    add: Callable[[Array], Array]
    synchronised: bool = False
    filled: Callable[[Any, dict[str, Array]], None] | None = None


_part: ContextVar[Part | None] = ContextVar("dualnet_part", default=None)


def part() -> Part | None:
    """The part of the batch that this rank computes with; None if it has the whole batch.

    >>> part() is None
    True
    """
    return _part.get()


@contextmanager
def taking(mine: Part | None) -> Iterator[None]:
    """Inside, this rank computes with a part of a batch.

    >>> with taking(Part(start=4, rows=4, whole=8, add=lambda array: array)):
    ...     part().start
    4
    """
    before = _part.set(mine)
    try:
        yield
    finally:
        _part.reset(before)
