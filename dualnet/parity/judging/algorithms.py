"""Every algorithm of a convolution alone, where a backend on the host has several to choose from.

The ops' cases ask only the one that comes first, which depends on the shape, the dtype and the processor, and on a file
of measured times. So a different machine asks a different one. (On a GPU, ``DUALNET_CUDNN`` decides which.)
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy

from ...geometry import windows
from ...shim import calls, load
from .pieces import DTYPES, Piece, computed, judged
from .ways import Way, ran_since

__all__ = ["FUNCTIONS", "judge_algorithms"]

FUNCTIONS = ("correlate", "correlate_filters", "correlate_inputs", "parameter_gradients")

CONVOLUTIONS = (  # N, size, C, D, window, stride, padding
    (8, (14, 14), 6, 16, (5, 5), 1, 0),  # LeNet-5's second layer: several columns at a time
    (8, (9, 8), 32, 32, (3, 3), 1, 1),  # Winograd
    (1, (9, 8), 3, 5, (3, 3), 1, 1),  # little to do
    (3, (9, 10), 16, 8, (3, 3), 2, 1),  # a stride, so that dx is scattered
    (2, (5, 6), 130, 140, (2, 3), 1, ((1, 0), (2, 0))),  # more filters than a block of them
)
"""Small ones, of which every algorithm takes at least one."""


def drawn(name: str, dtype: str, seed: int = 0) -> Iterator[Piece]:
    """A call of this function for each of the convolutions."""
    rng = numpy.random.default_rng(numpy.random.SeedSequence([seed, 8]))
    for N, size, C, D, window, stride, padding in CONVOLUTIONS:
        at = windows("parity", size, window, stride=stride, padding=padding)
        shapes = (N, *size, C), (*window, C, D), (D,), (N, *at.grid, D)
        x, w, b, dy = (rng.standard_normal(shape).astype(dtype) for shape in shapes)
        places = N * at.grid[0] * at.grid[1]
        arrays, rest, terms = {
            "correlate": ((x, w, b), (at, 1, stride > 1), (at.taps * C,)),
            "correlate_filters": ((x, dy), (at, 1), (places,)),
            "correlate_inputs": ((dy, w), (at, 1), (at.taps * D,)),
            "parameter_gradients": ((x, dy), (at, 1, True), (places, places)),
        }[name]
        plain = rest[:2] if name == "correlate" else rest  # a sum without its ReLU
        unsigned = *map(abs, arrays), *plain
        yield Piece(name, (*arrays, *rest), terms=terms, unsigned=unsigned)


def judge_algorithms(way: Way, seed: int = 0) -> list[dict[str, Any]]:
    """A row for each function, dtype and algorithm; none where an algorithm takes none of the calls."""
    backend, rows = load(way.backend), []
    for name, dtype in itertools.product(FUNCTIONS if backend.on_host else (), DTYPES):
        pieces = list(drawn(name, dtype, seed))
        for kernel in _several(backend.kernels.get(name, ())):
            with _alone(backend.kernels, name, kernel):
                taken = [piece for piece in pieces if _takes(way, piece)]
                rows += [judged(way, taken, dtype, seed)] if taken else []
    return rows


def _takes(way: Way, piece: Piece) -> bool:
    """Does a kernel serve this call?"""
    before = dict(calls)
    computed(way, piece)
    return any(name == piece.name for name, _ in ran_since(before))


def _several(kernels: Any) -> tuple[Callable[..., Any], ...]:
    return (kernels,) if callable(kernels) else tuple(kernels)


@contextmanager
def _alone(kernels: dict[str, Any], name: str, kernel: Callable[..., Any]) -> Iterator[None]:
    """Inside, this kernel alone is asked for the function; the reference computes what it declines."""
    before = kernels[name]
    kernels[name] = (kernel,)
    try:
        yield
    finally:
        kernels[name] = before
