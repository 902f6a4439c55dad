"""Batches: in a seeded order, augmented, and copied to where the network is."""

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

__all__ = ["batches", "mixed_targets", "order_of"]

Batches = Iterator[tuple[Array, Any]]


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
    order = numpy.arange(rows(x)) if order is None else order
    plain = augment is None
    inputs = _chosen(net, x, order, size) if plain else _augmented(net, x, order, size, augment, moves)
    targets = itertools.repeat(None) if t is None else _chosen(net, t, order, size)
    if t is not None and moves is not None and getattr(augment, "mixes", False):
        targets = _mixed(net, targets, size, augment, moves, tuple(x.shape[1:]))
    return zip(inputs, targets)


def _chosen(net: Layer, x: Any, order: numpy.ndarray, size: int) -> Iterator[Any]:
    """x in this order, batch by batch. From the host each batch is copied; to a device only the order is, once."""
    if isinstance(x, dict):  # the batches of each array, as dictionaries
        for several in zip(*(_chosen(net, part, order, size) for part in x.values())):
            yield dict(zip(x, several))
        return
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


def _mixed(
    net: Layer, targets: Iterator[Any], size: int, augment: Any, moves: numpy.ndarray, shape: tuple[int, ...]
) -> Iterator[Any]:
    """Targets in the shares in which ``augment`` mixes images of this shape; moves are copied there once."""
    there, start = asarray(moves, backend=home(net)), 0
    for t in targets:
        yield mixed_targets(net, t, augment, there[start : start + size], shape)
        start += size


def mixed_targets(net: Layer, t: Any, augment: Any, moves: Any, shape: tuple[int, ...]) -> Any:
    """The targets of a batch, mixed as its images are if ``augment`` mixes them."""
    if t is None or moves is None or not getattr(augment, "mixes", False):
        return t
    output = net.output_shape(net.input_shape or ())
    if isinstance(t, dict) or isinstance(output, dict) or (t.dtype.kind in "iu" and 1 < t.ndim <= len(output)):
        raise ValueError(
            f"fit: {augment} mixes images, and their targets with them: it needs a class for each image, or targets of "
            "the shape of the output. Leave MixUp and CutMix out."
        )
    return augment.targets(t, moves, classes=output[-1], shape=shape)


def order_of(examples: int, seed: int, epoch: int, shuffle: bool) -> numpy.ndarray:
    """Which example comes at each place of an epoch: the same for the same seed, on every backend."""
    if not shuffle:
        return numpy.arange(examples)
    stream = numpy.random.SeedSequence(seed, spawn_key=(2**31, epoch))  # far from the layers' places
    return numpy.random.Generator(numpy.random.PCG64(stream)).permutation(examples)
