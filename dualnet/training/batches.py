"""Batches: in a seeded order, augmented, and copied to where the network is."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy

from ..data import Augment
from ..layers.entering import home
from ..layers.layer import Layer
from ..shim import Array, asarray, backend_of

__all__ = ["batches", "batches_of_epoch"]

Batches = Iterator[tuple[Array, Any]]


def batches_of_epoch(
    net: Layer, x: Any, t: Any, size: int, epoch: int, *, seed: int, shuffle: bool, augment: Augment | None
) -> Batches:
    """The batches of an epoch in training. The same seed and epoch give the same ones, on every backend."""
    moves = None if augment is None else augment.moves(len(x), seed=seed, epoch=epoch)
    return batches(net, x, t, size, _order(len(x), seed, epoch, shuffle), augment, moves)


def batches(
    net: Layer,
    x: Any,
    t: Any,
    size: int,
    order: numpy.ndarray | None = None,
    augment: Augment | None = None,
    moves: numpy.ndarray | None = None,
) -> Batches:
    """Pairs of x (size, ...) and t where the network is, in ``order`` (as they come, without); t may be None.

    ``augment`` normalises the images x, and moves each as ``moves`` (N, 3) says.
    """
    order = numpy.arange(len(x)) if order is None else order
    plain = augment is None
    inputs = _chosen(net, x, order, size) if plain else _augmented(net, x, order, size, augment, moves)
    targets = itertools.repeat(None) if t is None else _chosen(net, t, order, size)
    return zip(inputs, targets)


def _chosen(net: Layer, x: Any, order: numpy.ndarray, size: int) -> Iterator[Array]:
    """x in this order, batch by batch. From the host each batch is copied; to a device only the order is, once."""
    owner, there = backend_of(x), home(net)
    if not owner.on_host:
        order = asarray(order, backend=owner.name)
    for start in range(0, order.shape[0], size):
        chosen = order[start : start + size]
        yield asarray(x[chosen], backend=there) if owner.on_host else owner.xp.take(x, chosen, axis=0)


def _augmented(
    net: Layer, x: Any, order: numpy.ndarray, size: int, augment: Any, moves: numpy.ndarray | None
) -> Iterator[Array]:
    """Images of x in this order, moved and normalised where they are; order and moves are copied there once."""
    owner = backend_of(x)
    there = home(net) if net.parameters() else owner.name
    plan = [None if a is None else a if owner.on_host else asarray(a, backend=owner.name) for a in (order, moves)]
    for start in range(0, len(order), size):
        chosen, moved = (None if a is None else a[start : start + size] for a in plan)
        yield asarray(augment.batch(x, chosen, moved, dtype=net.dtype), backend=there)


def _order(examples: int, seed: int, epoch: int, shuffle: bool) -> numpy.ndarray:
    """The place of each example in an epoch."""
    if not shuffle:
        return numpy.arange(examples)
    stream = numpy.random.SeedSequence(seed, spawn_key=(2**31, epoch))  # far from the layers' places
    return numpy.random.Generator(numpy.random.PCG64(stream)).permutation(examples)
