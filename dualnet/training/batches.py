"""Batches: in a seeded order, augmented, and copied to the network's backend."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy

from ..data import Augment
from ..layers.entering import home
from ..layers.layer import Layer
from ..layers.several import rows
from ..shim import Array, asarray, backend_of

__all__ = ["batches", "cuts", "mixed_targets", "order_of", "parted"]

Batches = Iterator[tuple[Array, Any]]


def batches(
    net: Layer,
    x: Any,
    t: Any,
    size: int | list[slice],
    order: numpy.ndarray | None = None,
    augment: Augment | None = None,
    moves: numpy.ndarray | None = None,
    extra: int = 0,
) -> Batches:
    """Pairs of x (size, ...) and t on the network's backend, in ``order`` (by default as they are); t may be None.

    ``augment`` normalises the images x, and moves each according to ``moves`` (N, 3). ``size`` may be a list of slices
    of the order, one for each batch. The last ``extra`` examples of each batch only serve for mixing, and are left out.
    """
    order = numpy.arange(rows(x)) if order is None else order
    plain, size = augment is None, cuts(order.shape[0], size) if isinstance(size, int) else size
    inputs = _chosen(net, x, order, size) if plain else _augmented(net, x, order, size, augment, moves)
    targets = itertools.repeat(None) if t is None else _chosen(net, t, order, size)
    if t is not None and moves is not None and getattr(augment, "mixes", False):
        targets = _mixed(net, targets, size, augment, moves, tuple(x.shape[1:]))
    pairs = zip(inputs, targets)
    return ((x[:-extra], None if t is None else t[:-extra]) for x, t in pairs) if extra else pairs


def cuts(count: int, size: int) -> list[slice]:
    """The batches of ``count`` examples, as slices of their order.

    >>> cuts(5, 2)
    [slice(0, 2, None), slice(2, 4, None), slice(4, 6, None)]
    """
    return [slice(start, start + size) for start in range(0, count, size)]


def parted(count: int, size: int, rank: int, ranks: int, extra: int = 0) -> tuple[numpy.ndarray, list[slice]]:
    """The part of each batch that belongs to one of several ranks: places in the order of all, and their slices.

    After each part come the ``extra`` examples that follow it in the batch (the first follows the last); the last ones
    of the part may be mixed with them. If a batch has no part for a rank, the rank gets no extra examples either.

    >>> places, slices = parted(7, 4, rank=1, ranks=2)  # batches 0 1 2 3 and 4 5 6
    >>> [places[one].tolist() for one in slices]
    [[2, 3], [5, 6]]
    """
    places, slices, at = [], [], 0
    for start in range(0, count, size):
        n = min(size, count - start)
        first, last = part_of(n, rank, ranks)
        mine = start + numpy.arange(first, last + (extra if last > first else 0)) % n
        places.append(mine)
        slices.append(slice(at, at := at + mine.size))
    return numpy.concatenate(places), slices


def part_of(count: int, rank: int, ranks: int) -> tuple[int, int]:
    """Where a rank's part of ``count`` examples begins, and where it ends.

    >>> [part_of(5, rank, 3) for rank in range(3)]
    [(0, 1), (1, 3), (3, 5)]
    """
    return count * rank // ranks, count * (rank + 1) // ranks


def _chosen(net: Layer, x: Any, order: numpy.ndarray, size: list[slice]) -> Iterator[Any]:
    """x in this order, batch by batch. From the host, each batch is copied; to a device, only the order, once."""
    if isinstance(x, dict):  # a dictionary for each batch
        for several in zip(*(_chosen(net, part, order, size) for part in x.values())):
            yield dict(zip(x, several))
        return
    owner, there = backend_of(x), home(net)
    if not owner.on_host:
        order = asarray(order, backend=owner.name)
    for place in size:
        chosen = order[place]
        yield asarray(x[chosen], backend=there) if owner.on_host else owner.xp.take(x, chosen, axis=0)


def _augmented(
    net: Layer, x: Any, order: numpy.ndarray, size: list[slice], augment: Any, moves: numpy.ndarray | None
) -> Iterator[Array]:
    """Images of x in this order, moved and normalised on their own backend; order and moves are copied there once."""
    owner = backend_of(x)
    there = home(net) if net.parameters() else owner.name
    plan = [None if a is None else a if owner.on_host else asarray(a, backend=owner.name) for a in (order, moves)]
    for place in size:
        chosen, moved = (None if a is None else a[place] for a in plan)
        yield asarray(augment.batch(x, chosen, moved, dtype=net.dtype), backend=there)


def _mixed(
    net: Layer, targets: Iterator[Any], size: list[slice], augment: Any, moves: numpy.ndarray, shape: tuple[int, ...]
) -> Iterator[Any]:
    """Targets, mixed in the same shares in which ``augment`` mixes images of this shape; moves are copied once."""
    there = asarray(moves, backend=home(net))
    for place, t in zip(size, targets):
        yield mixed_targets(net, t, augment, there[place], shape)


def mixed_targets(net: Layer, t: Any, augment: Any, moves: Any, shape: tuple[int, ...]) -> Any:
    """The targets of a batch, mixed like its images if ``augment`` mixes them."""
    if t is None or moves is None or not getattr(augment, "mixes", False):
        return t
    output = net.output_shape(net.input_shape or ())
    if isinstance(t, dict) or isinstance(output, dict) or (t.dtype.kind in "iu" and 1 < t.ndim <= len(output)):
        raise ValueError(
            f"fit: {augment} mixes images together with their targets, so it needs a class for each image, or targets "
            "of the shape of the output. Leave out MixUp and CutMix."
        )
    return augment.targets(t, moves, classes=output[-1], shape=shape)


def order_of(examples: int, seed: int, epoch: int, shuffle: bool) -> numpy.ndarray:
    """The order of the examples in an epoch: the same for the same seed, on every backend."""
    if not shuffle:
        return numpy.arange(examples)
    stream = numpy.random.SeedSequence(seed, spawn_key=(2**31, epoch))  # far from the keys of the layers
    return numpy.random.Generator(numpy.random.PCG64(stream)).permutation(examples)
