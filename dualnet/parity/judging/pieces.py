"""What kernels do that no op asks for by itself: optimizers, batches, columns, random words; against the references.

The truth is the reference in float64 on NumPy, as for the large cases of :mod:`dualnet.parity.judging.kernels`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy

from ...data import augment  # noqa: F401  (marks gather_batch as a reference)
from ...geometry import windows
from ...shim import Array, asarray, backend_of, calls, load, references, to_numpy
from ..cases import limits
from ..cases.case import Case
from .compare import Comparison, Measured, measure
from .judge import REPEATS, Tally
from .ways import Way

__all__ = ["PIECES", "judge_pieces"]

DTYPES = ("float32", "float64")
ULPS = {
    "add": 1,
    "unscale": 1,
    "gather_batch": 4,
    "sgd_update": 6,
    "sgd_updates": 6,
    "adam_update": 40,
    "adam_updates": 40,
}
"""Roundings in the formula of each, of its largest term; Adam's end in a root and two quotients."""


PIECES = (
    *("im2col", "largest", "col2im", "add", "philox", "all_finite", "unscale", "round_all"),
    *("sgd_update", "sgd_updates", "adam_update", "adam_updates", "gather_batch"),
)
"""The accelerated functions that are asked here."""


@dataclass(frozen=True)
class Piece:
    """One call of an accelerated function: its arguments, and the size of what is rounded (None: nothing is)."""

    name: str
    arguments: tuple
    size: float | None = None


def draw(dtype: str, seed: int = 0) -> Iterator[Piece]:
    """A few calls of each, with numbers that the dtype can hold."""
    rng = numpy.random.default_rng(numpy.random.SeedSequence([seed, 7]))

    def normal(*shape: int) -> numpy.ndarray:
        return rng.standard_normal(shape).astype(dtype)

    for shape, window, stride in (((8, 16, 15, 32), (3, 3), 2), ((3, 9, 8, 5), (2, 3), 1)):
        at, x = windows("parity", shape[1:3], window, stride=stride, padding=1), normal(*shape)
        columns = normal(shape[0] * math.prod(at.grid), at.taps * shape[3])
        yield Piece("im2col", (x, at))
        yield Piece("largest", (x, at))
        yield Piece("col2im", (columns, shape, at), 4.0 * at.taps)
        yield Piece("add", (x, normal(*shape), bool(stride - 1)), 8.0)
    yield Piece("philox", (normal(1), 1001, 2**40 + 7, 3))
    sizes = ((5,), (64, 65), (3, 3, 16, 40))
    for spoiled in (None, numpy.nan, numpy.inf):
        several = [normal(*s) for s in sizes]
        if spoiled is not None:
            several[1][3, 4] = spoiled
        yield Piece("all_finite", tuple(several))
    yield Piece("unscale", (numpy.array(1 / 1024, dtype), *(normal(*s) for s in sizes)), 4 / 1024)
    if dtype == "float32":  # parameters, as layers of 16 bits compute with them
        yield Piece("round_all", ([normal(*s) for s in sizes], numpy.dtype("float16")))
    for nesterov, finite in ((False, None), (True, numpy.array(True)), (True, numpy.array(False))):
        larger = (*sizes, (2**18 + 7,)) if finite is None else sizes  # kernels may leave small networks to references
        w, g, v, b = ([normal(*s) for s in larger] for _ in range(4))
        rolling = [{"velocity": a} for a in v]
        yield Piece("sgd_update", (w[1], g[1], rolling[1], 0.1, 0.9, nesterov), 16.0)
        yield Piece("sgd_updates", (w, g, rolling, 0.1, 0.9, nesterov, 5e-4, finite, False), 16.0)
        met = [{"mean": a, "mean_square": c * c} for a, c in zip(v, b)]
        yield Piece("adam_update", (w[1], g[1], met[1], 0.01, (0.9, 0.999), 1e-8, 3), 16.0)
        yield Piece("adam_updates", (w, g, met, 0.01, (0.9, 0.999), 1e-8, 2, (0.01, nesterov), finite, False), 16.0)
    for kind, shape in (("uint8", (40, 32, 32, 3)), ("float32", (7, 5, 9, 2)), ("float64", (6, 28, 28, 1))):
        images = (rng.integers(0, 256, shape) if kind == "uint8" else rng.random(shape)).astype(kind)
        order, moves = (rng.integers(low, high, n) for low, high, n in ((0, shape[0], 50), (-4, 5, (50, 3))))
        mean, scale = (rng.random(shape[3]) + more for more in (0.0, 1.0))
        vectors = (v.astype(dtype) for v in (mean, scale))
        for moved in (moves.astype("int8"), None):
            size = 1024.0 if kind == "uint8" else 8.0
            yield Piece("gather_batch", (images, order.astype("int32"), moved, *vectors, dtype), size)
            vectors = (v.astype(dtype) for v in (mean, scale))


def judge_pieces(way: Way, seed: int = 0) -> list[dict[str, Any]]:
    """A row for each function that has a kernel here and each dtype, as :func:`judge_kernels` has them."""
    rows = []
    for name in [name for name in PIECES if name in load(way.backend).kernels]:
        for dtype in DTYPES:
            tally, different, kernels = Tally(way.name), 0, set()
            drawn = [piece for piece in draw(dtype, seed) if piece.name == name]
            for number, piece in enumerate(drawn):
                before = dict(calls)
                found = [computed(way, piece) for _ in range(REPEATS if not number else 1)]
                ran = {k for k, n in calls.items() if k[1] != "reference" and n > before.get(k, 0) and k[0] == name}
                kernels |= {f"{n} ({by.removeprefix('kernel of ')})" for n, by in ran}
                truth = computed(Way("numpy"), piece, "float64")
                case = Case(name, number, seed, dtype, "piece", {})
                results = {
                    f"output {i}": _compared(a, r, piece, dtype) for i, (a, r) in enumerate(zip(found[0], truth))
                }
                tally.add(Comparison(case, way.name, results))
                tally.served += bool(ran)
                different += sum([a.tobytes() for a in more] != [a.tobytes() for a in found[0]] for more in found)
            if not drawn:
                continue
            row = tally.row() | {"different": different}
            row["worst"]["reproducer"] = f"dualnet parity --backend {way.backend} --seed {seed}"
            rows.append({"op": name, "dtype": dtype, **row, "kernels": sorted(kernels)})
    return rows


def computed(way: Way, piece: Piece, dtype: str | None = None) -> list[numpy.ndarray]:
    """All that comes out, as host arrays in a fixed order; in ``dtype`` instead of the piece's own."""
    with way.in_force():
        return list(_flat(references[piece.name](*(_placed(a, dtype) for a in piece.arguments))))


def _placed(value: Any, dtype: str | None) -> Any:
    """Arrays on the backend in force, wherever they stand; floating ones in another dtype, if wanted."""
    if isinstance(value, dict):
        return {key: _placed(inner, dtype) for key, inner in value.items()}
    if isinstance(value, list):
        return [_placed(inner, dtype) for inner in value]
    if isinstance(value, numpy.ndarray):
        return asarray(value.astype(dtype) if dtype and value.dtype.kind == "f" else value.copy())
    return dtype if dtype and isinstance(value, str) else value  # the dtype of a batch


def _flat(found: Any) -> Iterator[numpy.ndarray]:
    if isinstance(found, dict):
        found = [found[key] for key in sorted(found)]
    if isinstance(found, (list, tuple)):
        for inner in found:
            yield from _flat(inner)
    else:
        yield _host(found)


def _host(array: Array) -> numpy.ndarray:
    return numpy.asarray(array) if backend_of(array) is None else to_numpy(array)


def _compared(x: numpy.ndarray, r: numpy.ndarray, piece: Piece, dtype: str) -> Measured:
    if r.dtype.kind != "f":  # words, yes or no
        equal = x.dtype == r.dtype and numpy.array_equal(x, r)
        return Measured() if equal else Measured(mismatch="dtype" if x.dtype != r.dtype else "nan", ratio=math.inf)
    if piece.size is None:
        limit = limits.exact(r)
    elif piece.name in ULPS:
        limit = limits.ulps(r, dtype, ULPS[piece.name], numpy.maximum(numpy.abs(r), piece.size))
    else:
        limit = limits.products(r, dtype, int(piece.size), numpy.abs(r) + piece.size)
    return measure(x, r, limit, dtype if r.dtype == numpy.float64 else r.dtype.name)
