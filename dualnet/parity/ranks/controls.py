"""Mistakes in the communication, made on purpose: a comparison that does not find them proves nothing."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

__all__ = ["CONTROLS", "broken"]

CONTROLS = {
    "a lost bucket": "lenet5",
    "a rank counted twice": "lenet5",
    "a mean where a sum belongs": "lenet5",
    "unsynchronised statistics": "resnet20",
}
"""Each mistake, and the network in which it is made."""


@contextlib.contextmanager
def broken(ranks: Any, mistake: str) -> Iterator[dict[str, Any]]:
    """The communicator makes the mistake until the block ends. Yields further options for ``fit``."""
    if mistake == "unsynchronised statistics":
        yield {"sync_batch_norm": False}
        return
    right = ranks.start_all_reduce
    ranks.start_all_reduce = _wrong(ranks, mistake, right)
    try:
        yield {}
    finally:
        del ranks.start_all_reduce  # uncovers the method of its class again


def _wrong(ranks: Any, mistake: str, right: Callable[[Any], Any]) -> Callable[[Any], Any]:
    seen = 0

    def start(array: Any) -> Any:
        nonlocal seen
        seen += 1
        if mistake == "a rank counted twice":
            return right(array * 2.0 if ranks.rank == ranks.size - 1 else array)
        if mistake == "a lost bucket" and seen % 3 == 0:
            return _Replaced(right(array), lambda total: array)
        if mistake == "a mean where a sum belongs":
            return _Replaced(right(array), lambda total: total / ranks.size)
        return right(array)

    return start


class _Replaced:
    """A sum that is under way, and whose result is changed at the end."""

    def __init__(self, pending: Any, change: Callable[[Any], Any]) -> None:
        self.pending, self.change = pending, change

    def test(self) -> bool:
        return self.pending.test()

    def forward(self) -> None:
        self.pending.forward()

    def wait(self) -> Any:
        return self.change(self.pending.wait())
