"""E17 on NumPy for all parameters of a network: the references' numbers to the last bit.

Adam's fourteen operations would each read and write whole arrays. Here each works on a piece that stays in the cache,
and writes into existing arrays. SGD has too few operations to gain from that; but with many small parameters (biases,
those of batch norm) it gains from less Python for each.
"""

from __future__ import annotations

from typing import Any

import numpy

from dualnet.shim.spent import reusable

from . import threads, tracing

PIECE = 2**17
"""Elements of one piece."""
LEAST = 2**18
"""Adam: from this many parameters on."""
LARGEST_SQUARE = {"float32": 2.0**126, "float64": 2.0**1022}
"""The reference stores larger mean squares differently."""

Arrays = list[numpy.ndarray]
Slots = dict[str, numpy.ndarray]


def sgd_updates(
    w: Arrays,
    g: Arrays,
    slots: list[Slots],
    lr: float,
    momentum: float,
    nesterov: bool,
    weight_decay: float,
    finite: Any,
    into: bool,
) -> Any:
    """E17 for SGD."""
    fit = all(a.dtype == b.dtype and a.itemsize >= 4 for a, b in zip(w, g))
    if finite is not None or not tracing.is_number(lr) or not fit:
        return NotImplemented
    made = []
    for old, d, kept in zip(w, g, slots):
        room = d if reusable(d) else numpy.empty_like(old)
        if weight_decay:
            d = d + weight_decay * old
        new = {}
        if momentum:
            velocity = momentum * kept["velocity"]
            velocity += d
            d, new = d + momentum * velocity if nesterov else velocity, {"velocity": velocity}
        step = numpy.multiply(lr, d, out=room)
        made.append((numpy.subtract(old, step, out=step), new))  # E17
    return made


def adam_updates(
    w: Arrays,
    g: Arrays,
    slots: list[Slots],
    lr: float,
    betas: tuple[float, float],
    epsilon: float,
    steps: int,
    decay: tuple[float, bool],
    finite: Any,
    into: bool,
) -> Any:
    """E17 for Adam, after this many steps."""
    names, (weight_decay, decoupled) = ("mean", "mean_square"), decay
    if not _served(w, g, slots, names, finite, lr, steps, weight_decay):
        return NotImplemented
    most = LARGEST_SQUARE[w[0].dtype.name]
    bias, rate = (1 - betas[1] ** (steps + 1)) ** 0.5, lr / (1 - betas[0] ** (steps + 1))

    def step(old: Arrays, d: numpy.ndarray, new: Arrays, free: Arrays) -> bool:
        (start, mean, mean_square), (one, other) = old, free
        if weight_decay and decoupled:
            start = numpy.multiply(start, 1 - lr * weight_decay, out=new[0])
        elif weight_decay:
            d = numpy.add(d, numpy.multiply(start, weight_decay, out=new[0]), out=new[0])
        with numpy.errstate(over="ignore"):
            numpy.multiply(d, d, out=one)
        if not (one.max() <= most and mean_square.min() >= 0):
            return False  # too large to be squared, or NaN: see dualnet/optimizers/moments.py
        numpy.multiply(one, 1 - betas[1], out=one)
        numpy.add(numpy.multiply(mean_square, betas[1], out=other), one, out=new[2])
        numpy.multiply(numpy.subtract(d, mean, out=one), 1 - betas[0], out=one)
        numpy.add(mean, one, out=new[1])
        numpy.divide(numpy.sqrt(new[2], out=one), bias, out=one)
        one += epsilon
        numpy.multiply(numpy.divide(new[1], one, out=one), rate, out=one)
        numpy.subtract(start, one, out=new[0])  # E17
        return True

    return _made(w, g, slots, names, step)


def _served(w: Arrays, g: Arrays, slots: list[Slots], names: tuple[str, ...], finite: Any, *numbers: Any) -> bool:
    """Is there enough to do, with plain numbers, on contiguous arrays of one dtype?"""
    if finite is not None or sum(a.size for a in w) < LEAST or not all(map(tracing.is_number, numbers)):
        return False
    arrays = [*w, *g, *(kept[name] for kept in slots for name in names)]
    dtype = w[0].dtype
    return dtype in (numpy.float32, numpy.float64) and all(a.dtype == dtype and a.flags.c_contiguous for a in arrays)


def _made(w: Arrays, g: Arrays, slots: list[Slots], names: tuple[str, ...], step: Any) -> Any:
    """Call ``step(old, gradient, new, free)`` for every piece of every parameter, and return the new arrays if none is
    False."""
    olds = [[value, *(kept[name] for name in names)] for value, kept in zip(w, slots)]
    news = [[numpy.empty_like(a) for a in old] for old in olds]
    flat_olds, flat_news = ([[a.reshape(-1) for a in arrays] for arrays in all_] for all_ in (olds, news))
    flat_g = [a.reshape(-1) for a in g]
    declined: list[bool] = []
    pieces = [(i, slice(k, k + PIECE)) for i, a in enumerate(w) for k in range(0, a.size, PIECE)]

    def work(worker: int, piece: tuple[int, slice]) -> None:
        i, part = piece
        d = flat_g[i][part]
        free = [threads.workspace(name, d.shape, d.dtype) for name in ("step", "second step")]
        if not step([a[part] for a in flat_olds[i]], d, [a[part] for a in flat_news[i]], free):
            declined.append(True)

    threads.parallel_for(pieces, work)
    if declined:
        return NotImplemented
    return [(new[0], dict(zip(names, new[1:]))) for new in news]
