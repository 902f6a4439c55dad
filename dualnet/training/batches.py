"""Batches in a seeded order, copied to where the network is."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy

from ..data import Augment
from ..layers.layer import Layer
from ..shim import Array, asarray, backend_of


def _batches(
    net: Layer,
    x: Any,
    t: Any,
    size: int,
    order: numpy.ndarray,
    augment: Augment | None = None,
    moves: numpy.ndarray | None = None,
) -> Iterator[tuple[Array, Array]]:
    backend = _backend_of(net)
    plain = augment is None
    inputs = _chosen(x, order, size, backend) if plain else _augmented(augment, x, order, moves, size, net)
    targets = itertools.repeat(None) if t is None else _chosen(t, order, size, backend)
    return zip(inputs, targets)


def _chosen(x: Any, order: numpy.ndarray, size: int, backend: str | None) -> Iterator[Array]:
    """x in this order, in batches: those of the host are copied one by one, for the others the order is."""
    owner = backend_of(x)
    if not owner.on_host:
        order = asarray(order, backend=owner.name)
    for start in range(0, order.shape[0], size):
        chosen = order[start : start + size]
        yield asarray(x[chosen], backend=backend) if owner.on_host else owner.xp.take(x, chosen, axis=0)


def _augmented(
    augment: Any, x: Any, order: numpy.ndarray, moves: numpy.ndarray | None, size: int, net: Layer
) -> Iterator[Array]:
    """Images of x in this order, moved and normalised where they are; order and moves are sent there once."""
    backend, owner = _backend_of(net), backend_of(x)
    there = [None if a is None else a if owner.on_host else asarray(a, backend=owner.name) for a in (order, moves)]
    for start in range(0, len(order), size):
        chosen, moved = (None if a is None else a[start : start + size] for a in there)
        yield asarray(augment.batch(x, chosen, moved, dtype=net.dtype), backend=backend or owner.name)


def _backend_of(net: Layer) -> str | None:
    for parameter in net.parameters().values():
        return backend_of(parameter.value).name
    return None


def _order(examples: int, seed: int, shuffle: bool, epoch: int) -> numpy.ndarray:
    if not shuffle:
        return numpy.arange(examples)
    stream = numpy.random.SeedSequence(seed, spawn_key=(2**31, epoch))  # far from the layers' places
    return numpy.random.Generator(numpy.random.PCG64(stream)).permutation(examples)
