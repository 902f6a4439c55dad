"""Running statistics, updated all at once at the end of a forward pass.

In a training pass every batch norm updates its running statistics with those of the batch. Nothing needs them before
the pass is over, and each is only a few hundred numbers: a GPU would spend more time on starting the work than on doing
it. So the statistics of a whole network wait, and are updated together.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from ..ops.normalization import follow
from ..recording import assign, owned
from ..shim import Array, backend_of

__all__ = ["move", "together"]

NAMES = ("moving_mean", "moving_variance")


@dataclass
class Batch:
    """A layer with running statistics, and the statistics of its batch: n values per channel."""

    layer: Any  # with moving_mean, moving_variance and momentum
    mean: Array
    variance: Array
    n: int


_waiting: ContextVar[dict[int, Batch] | None] = ContextVar("dualnet_waiting_statistics", default=None)


def move(layer: Any, mean: Array, variance: Array, n: int) -> None:
    """Move a layer's running statistics: at the end of the pass that is running or, if there is none, now.

    >>> import dualnet as dn
    >>> norm = dn.BatchNorm(momentum=0.5).init((1,))
    >>> with together():
    ...     move(norm, dn.asarray([4.0]), dn.asarray([1.0]), 2)
    ...     before = dn.to_numpy(norm.moving_mean)
    >>> before, dn.to_numpy(norm.moving_mean)
    (array([0.], dtype=float32), array([2.], dtype=float32))
    """
    waiting, batch = _waiting.get(), Batch(layer, mean, variance, n)
    if waiting is None:
        _move([batch])
        return
    if id(layer) in waiting:  # the layer is in the network twice
        _move([waiting.pop(id(layer))])
    waiting[id(layer)] = batch


@contextmanager
def together() -> Iterator[None]:
    """Running statistics that move in this block do so at its end; if the block raises an error, they do not move.

    Inside another such block, they move at the end of the outer one.
    """
    if (waiting := _waiting.get()) is not None:
        before = dict(waiting)
        try:
            yield
        except BaseException:
            waiting.clear()
            waiting.update(before)
            raise
        return
    outside = _waiting.set({})
    try:
        yield
        if waiting := _waiting.get():
            _move([*waiting.values()])
    finally:
        _waiting.reset(outside)


def _move(batches: list[Batch]) -> None:
    """New arrays replace the old ones, since a pullback or a saved state may still hold those."""
    by_backend: dict[Any, list[Batch]] = {}
    for batch in batches:
        by_backend.setdefault(backend_of(batch.layer.moving_mean), []).append(batch)
    for some in by_backend.values():
        _move_on_one(some)


def _move_on_one(batches: list[Batch]) -> None:
    layers = [batch.layer for batch in batches]
    into = all(owned(layer, name) for layer in layers for name in NAMES)  # in a captured step they may be overwritten
    moved = follow(
        *([getattr(layer, name) for layer in layers] for name in NAMES),
        [batch.mean for batch in batches],
        [batch.variance for batch in batches],
        [layer.momentum for layer in layers],
        [batch.n for batch in batches],
        into,
    )
    for layer, statistics in zip(layers, moved, strict=True):
        for name, value in zip(NAMES, statistics, strict=True):
            assign(layer, name, value)
