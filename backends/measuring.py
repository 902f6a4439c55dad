"""Measuring which kernel is the fastest for one shape.

The kernels take turns, and the time that a quarter of its calls stay below counts for each: what disturbs the machine
only ever adds time, and the very best call would be luck. Before each call oneDNN runs a short pass, as it does in a
network between two convolutions, so its threads are awake when the kernel begins. If the kernel has threads of its own,
the two teams get in each other's way for a while, more or less so from call to call.

Everything happens on arrays drawn for this, in a separate thread, whose buffers are freed with it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy

from .cpu.table import FILTERS, FORWARD, ONEDNN, Shape
from .onednn import passes

ROUNDS, SECONDS = 3, 0.4
"""At least this many rounds for one shape, and as many more as fit in this time."""
SLOW = 1.5
"""A kernel that took this many times as long as the best one in these rounds is left out of the others."""
TIE = 0.95
"""A kernel comes before the one that the table puts first only if it takes less than this share of its time, ..."""
OTHER_TEAM = 5e-4
"""... and, instead of oneDNN, only if it takes this many seconds less: its threads and NumPy's get in each other's way
in the layers around it, too. In ResNet-20 kernels that saved 0.2 ms of 1.4 each made the step longer by a tenth."""


def times(shape: Shape, kernels: Sequence[Callable[..., Any]], usual: Sequence[str] = ()) -> list[tuple[str, float]]:
    """The algorithms that serve this shape, with their seconds, the fastest first; ties keep the ``usual`` order."""
    found: list[tuple[str, float]] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            found.extend(_times(shape, kernels, usual))
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run, name="dualnet-measuring")
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return found


def _times(shape: Shape, kernels: Sequence[Callable[..., Any]], usual: Sequence[str]) -> list[tuple[str, float]]:
    arguments = drawn(shape)
    with numpy.errstate(all="ignore"):
        seen: dict[Any, list[float]] = {
            kernel: [] for kernel in kernels if kernel(*arguments) is not NotImplemented
        }  # which also prepares it
        until, turn = time.perf_counter() + SECONDS, 0
        while turn < ROUNDS or time.perf_counter() < until:
            most = SLOW * min(map(min, seen.values()), default=0.0) if turn >= ROUNDS else float("inf")
            for kernel in [kernel for kernel in seen if turn == 0 or min(seen[kernel]) <= most]:
                seen[kernel].append(_once(kernel, arguments))
            turn += 1
    names = {kernel.algorithm: _quarter(seconds) for kernel, seconds in seen.items()}
    return sorted_by_time(names, usual)


def _quarter(seconds: list[float]) -> float:
    return sorted(seconds)[len(seconds) // 4]


def _once(kernel: Callable[..., Any], arguments: Sequence[Any]) -> float:
    passes.channel_sum(arguments[0])
    start = time.perf_counter()
    kernel(*arguments)
    return time.perf_counter() - start


def sorted_by_time(seconds: dict[str, float], usual: Sequence[str]) -> list[tuple[str, float]]:
    """The fastest first, but what is usually first stays in front unless another one is clearly faster.

    >>> sorted_by_time({"a": 1.0, "b": 0.97, "c": 0.5}, ["a"])
    [('c', 0.5), ('b', 0.97), ('a', 1.0)]
    >>> sorted_by_time({"a": 1.0, "b": 0.97}, ["a"])
    [('a', 1.0), ('b', 0.97)]
    """
    found = sorted(seconds.items(), key=lambda item: item[1])
    first = next((name for name in usual if name in seconds), next(iter(seconds), ""))
    least = OTHER_TEAM if first == ONEDNN else 0.0
    if found and found[0][1] > TIE * seconds[first] - least:
        found.sort(key=lambda item: item[0] != first)
    return found


def drawn(shape: Shape) -> tuple[Any, ...]:
    """Arguments of this shape: numbers without NaN, so that every kernel that can serve does."""
    rng, at = numpy.random.default_rng(0), shape.at
    x = (shape.images, *at.size, shape.channels)
    w, dy = (*at.window, shape.channels, shape.filters), (shape.images, *at.grid, shape.filters)
    asked = {FORWARD: (x, w), FILTERS: (x, dy)}.get(shape.function, (dy, w))
    one, other = (rng.random(size, numpy.float32).astype(shape.dtype) - 0.5 for size in asked)
    return (one, other, None, at) if shape.function == FORWARD else (one, other, at)
