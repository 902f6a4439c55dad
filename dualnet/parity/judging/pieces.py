"""Kernels that no op calls by itself, against their references: optimizers, batches, columns, random words, and batch
norm after a convolution.

The truth is NumPy's reference in float64, as for the large cases of :mod:`dualnet.parity.judging.kernels`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy

from ...data import augment  # noqa: F401  (marks gather_batch as a reference)
from ...geometry import windows
from ...shim import Array, asarray, backend_of, calls, load, references, to_numpy
from ..cases import limits
from ..cases.case import Case
from .compare import Comparison, Measured, measure
from .judge import REPEATS, Tally
from .ways import Way, ran_since, titles

__all__ = ["DTYPES", "PIECES", "Piece", "computed", "judge_pieces", "judged"]

DTYPES = ("float32", "float64")
ULPS = {
    "add": 1,
    "unscale": 1,
    "gather_batch": 4,
    "sgd_updates": 6,
    "adam_updates": 40,
    "normalise": 8,
    "normalise_add": 8,
    "batch_normalise_add": 16,
    "joined_backward": 40,
}
"""How many roundings of its largest term each formula makes; Adam's ends in a root and two quotients, batch norm's in a
quotient of sums."""


PIECES = (
    *("im2col", "largest", "col2im", "add", "philox", "all_finite", "unscale", "round_all"),
    *("sgd_updates", "adam_updates", "gather_batch", "normalise_add", "batch_normalise_add", "joined_backward"),
    *("channel_sum", "normalise", "correlate_normalise"),
)
"""The accelerated functions that are compared here."""


REFERENCE = Way("numpy")


@dataclass(frozen=True)
class Piece:
    """One call of an accelerated function: its arguments, and how large the numbers are that it rounds (None: none).

    For sums of products, ``terms`` is the number of terms of each output, and the function itself adds up their
    magnitudes: with the arguments ``unsigned``.
    """

    name: str
    arguments: tuple
    size: float | None = None
    terms: tuple[int, ...] = ()
    unsigned: tuple = ()

    @functools.cached_property
    def truth(self) -> list[tuple[Any, ...]]:
        """Each output by the reference in float64; after it, for sums of products, its terms and their magnitude."""
        outputs = computed(REFERENCE, self, "float64")
        if not self.terms:
            return [(r,) for r in outputs]
        sums = computed(REFERENCE, replace(self, arguments=self.unsigned), "float64")
        return list(zip(outputs, self.terms, sums, strict=True))


SIZES = ((5,), (64, 65), (3, 3, 16, 40))
"""Shapes of a few parameters."""


def draw(dtype: str, seed: int = 0) -> Iterator[Piece]:
    """A few calls of each function, with numbers that the dtype can hold."""
    rng = numpy.random.default_rng(numpy.random.SeedSequence([seed, 7]))
    yield from _windows(rng, dtype)
    yield Piece("philox", (_normal(rng, dtype, 1), 1001, 2**40 + 7, 3))
    yield from _gradients(rng, dtype)
    yield from _updates(rng, dtype)
    yield from _batches(rng, dtype)
    yield from _joined(rng, dtype)
    yield from _normalised(rng, dtype)


def _normal(rng: numpy.random.Generator, dtype: str, *shape: int) -> numpy.ndarray:
    return rng.standard_normal(shape).astype(dtype)


def _windows(rng: numpy.random.Generator, dtype: str) -> Iterator[Piece]:
    """Columns, their sums, the largest of a window, and two maps added. Some kernels take no padding."""
    for shape, window, stride in (((8, 16, 14, 32), (2, 2), 2), ((3, 9, 8, 5), (3, 2), 1)):
        at = windows("parity", shape[1:3], window, stride=stride)
        yield Piece("largest", (_normal(rng, dtype, *shape), at))
    for shape, window, stride in (((8, 16, 15, 32), (3, 3), 2), ((3, 9, 8, 5), (2, 3), 1)):
        at = windows("parity", shape[1:3], window, stride=stride, padding=1)
        x = _normal(rng, dtype, *shape)
        columns = _normal(rng, dtype, shape[0] * math.prod(at.grid), at.taps * shape[3])
        yield Piece("im2col", (x, at))
        yield Piece("largest", (x, at))
        yield Piece("col2im", (columns, shape, at), 4.0 * at.taps)
        yield Piece("add", (x, _normal(rng, dtype, *shape), stride > 1), 8.0)


def _gradients(rng: numpy.random.Generator, dtype: str) -> Iterator[Piece]:
    """The functions for a loss scale, and parameters rounded for layers that compute in 16 bits."""
    for spoiled in (None, numpy.nan, numpy.inf):
        several = [_normal(rng, dtype, *size) for size in SIZES]
        if spoiled is not None:
            several[1][3, 4] = spoiled
        yield Piece("all_finite", tuple(several))
    scaled = [_normal(rng, dtype, *size) for size in SIZES]
    yield Piece("unscale", (numpy.array(1 / 1024, dtype), *scaled), 4 / 1024)
    if dtype == "float32":
        yield Piece("round_all", ([_normal(rng, dtype, *size) for size in SIZES], numpy.dtype("float16")))


def _updates(rng: numpy.random.Generator, dtype: str) -> Iterator[Piece]:
    """Steps of SGD and Adam: of one parameter, and of several with every option."""
    for nesterov, finite in ((False, None), (True, numpy.array(True)), (True, numpy.array(False))):
        sizes = (*SIZES, (2**18 + 7,)) if finite is None else SIZES  # kernels may leave small networks to references
        w, g, first, second = ([_normal(rng, dtype, *size) for size in sizes] for _ in range(4))
        rolling = [{"velocity": a} for a in first]
        yield Piece("sgd_updates", (w[1:2], g[1:2], rolling[1:2], 0.1, 0.9, nesterov, 0.0, None, False), 16.0)
        yield Piece("sgd_updates", (w, g, rolling, 0.1, 0.9, nesterov, 5e-4, finite, False), 16.0)
        moments = [{"mean": a, "mean_square": b * b} for a, b in zip(first, second)]
        rule = 0.01, (0.9, 0.999), 1e-8, 2  # lr, betas, epsilon, steps
        yield Piece("adam_updates", (w[1:2], g[1:2], moments[1:2], *rule, (0.0, False), None, False), 16.0)
        yield Piece("adam_updates", (w, g, moments, *rule, (0.01, nesterov), finite, False), 16.0)


def _batches(rng: numpy.random.Generator, dtype: str) -> Iterator[Piece]:
    """Images gathered into a batch, some moved by a few pixels."""
    for kind, shape in (("uint8", (40, 32, 32, 3)), ("float32", (7, 5, 9, 2)), ("float64", (6, 28, 28, 1))):
        images = (rng.integers(0, 256, shape) if kind == "uint8" else rng.random(shape)).astype(kind)
        order = rng.integers(0, shape[0], 50).astype("int32")
        moves = rng.integers(-4, 5, (50, 3)).astype("int8")
        mean, scale = ((rng.random(shape[3]) + more).astype(dtype) for more in (0.0, 1.0))
        for moved in (moves, None):
            yield Piece("gather_batch", (images, order, moved, mean, scale, dtype), 1024.0 if kind == "uint8" else 8.0)


def _joined(rng: numpy.random.Generator, dtype: str) -> Iterator[Piece]:
    """Sums over channels; batch norm, alone and where two branches meet, forward and backward; its output goes to one
    place or two, with or without a ReLU."""
    for sizes in ((8, 17, 15, 32), (5, 7, 3)):  # large maps have kernels of their own
        x = _normal(rng, dtype, *sizes)
        yield Piece("channel_sum", (x,), terms=(math.prod(sizes[:-1]),), unsigned=(abs(x),))
    for shape in ((8, 6, 5, 16), (64, 40), (3, 7, 5, 3)):
        x, other, dy, second, y = (_normal(rng, dtype, *shape) for _ in range(5))
        mean, gamma, beta = (_normal(rng, dtype, shape[-1]) for _ in range(3))
        variance, relu = mean * mean + 1, shape[-1] == 16
        yield Piece("normalise", (x, mean, variance, gamma, beta, 1e-5, relu), 16.0)
        yield Piece("normalise_add", (x, other, mean, variance, gamma, beta, 1e-5, relu), 16.0)
        yield Piece("batch_normalise_add", (x, other, gamma, beta, 1e-5, not relu), 16.0)
        for more, kept in ((None, None), (None, y), (second, None), (second, y)):
            yield Piece("joined_backward", (dy, more, x, mean, variance, gamma, 1e-5, kept), 64.0)


def _normalised(rng: numpy.random.Generator, dtype: str) -> Iterator[Piece]:
    """A convolution followed by batch norm, as in inference: with a bias or without, another branch, a ReLU."""
    for shape, filters, stride, groups, biased, joined, relu in (
        ((4, 9, 8, 16), 32, 1, 1, False, False, False),
        ((4, 9, 8, 16), 32, 2, 1, True, False, True),
        ((3, 8, 10, 12), 24, 1, 3, True, True, False),
        ((16, 8, 8, 32), 32, 1, 1, False, True, True),
    ):
        at = windows("parity", shape[1:3], (3, 3), stride=stride, padding=1)
        x, w = _normal(rng, dtype, *shape), _normal(rng, dtype, 3, 3, shape[3] // groups, filters)
        b = _normal(rng, dtype, filters) if biased else None
        other = _normal(rng, dtype, shape[0], *at.grid, filters) if joined else None
        mean, gamma, beta = (_normal(rng, dtype, filters) for _ in range(3))
        variance = mean * mean + 1
        given = x, w, b, at, groups, (mean, variance, gamma, beta), 1e-5, relu, other
        norm = -abs(mean), variance, abs(gamma), abs(beta)  # |γ| / s (Σ |x||w| + |b| + |μ|) + |β| + |other|
        unsigned = *map(_magnitude, (x, w, b)), at, groups, norm, 1e-5, False, _magnitude(other)
        yield Piece("correlate_normalise", given, terms=(at.taps * w.shape[2],), unsigned=unsigned)


def _magnitude(array: numpy.ndarray | None) -> numpy.ndarray | None:
    return None if array is None else abs(array)


def judge_pieces(way: Way, seed: int = 0) -> list[dict[str, Any]]:
    """A row for each dtype and each function that has a kernel on this backend, like those of :func:`judge_kernels`."""
    rows = []
    for name in [name for name in PIECES if name in load(way.backend).kernels]:
        for dtype in DTYPES:
            drawn = [piece for piece in draw(dtype, seed) if piece.name == name]
            rows += [judged(way, drawn, dtype, seed)] if drawn else []
    return rows


def judged(way: Way, drawn: list[Piece], dtype: str, seed: int) -> dict[str, Any]:
    """A row: some calls of one function in one dtype."""
    tally, different, kernels = Tally(way.name), 0, set[str]()
    for number, piece in enumerate(drawn):
        before = dict(calls)
        first, *again = [computed(way, piece) for _ in range(REPEATS if number == 0 else 1)]
        ran = {kernel for kernel in ran_since(before) if kernel[0] == piece.name}
        results = {
            f"output {i}": _compared(x, piece, dtype, *known) for i, (x, known) in enumerate(zip(first, piece.truth))
        }
        tally.add(Comparison(Case(piece.name, number, seed, dtype, "piece", {}), way.name, results))
        tally.served += bool(ran)
        kernels |= titles(ran)
        different += sum(_bits(outputs) != _bits(first) for outputs in again)
    row = tally.row() | {"different": different}
    row["worst"]["reproducer"] = f"dualnet parity --backend {way.backend} --seed {seed}"
    return {"op": drawn[0].name, "dtype": dtype, **row, "kernels": sorted(kernels)}


def _bits(outputs: list[numpy.ndarray]) -> list[bytes]:
    return [a.tobytes() for a in outputs]


def computed(way: Way, piece: Piece, dtype: str | None = None) -> list[numpy.ndarray]:
    """All outputs as host arrays, in a fixed order; computed in ``dtype`` instead of the piece's own, if given."""
    with way.in_force():
        return list(_flat(references[piece.name](*(_placed(a, dtype) for a in piece.arguments))))


def _placed(value: Any, dtype: str | None) -> Any:
    """The arrays inside, however deep, on the current backend; floating ones in ``dtype``, if given."""
    if isinstance(value, dict):
        return {key: _placed(inner, dtype) for key, inner in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_placed(inner, dtype) for inner in value)
    if isinstance(value, numpy.ndarray):
        return asarray(value.astype(dtype) if dtype and value.dtype.kind == "f" else value.copy())
    return dtype if dtype and isinstance(value, str) else value  # the dtype of a batch


def _flat(found: Any) -> Iterator[numpy.ndarray]:
    """The arrays inside, in a fixed order."""
    if isinstance(found, dict):
        found = [found[key] for key in sorted(found)]
    if isinstance(found, (list, tuple)):
        for inner in found:
            yield from _flat(inner)
    else:
        yield _host(found)


def _host(array: Array) -> numpy.ndarray:
    return numpy.asarray(array) if backend_of(array) is None else to_numpy(array)


def _compared(x: numpy.ndarray, piece: Piece, dtype: str, r: numpy.ndarray, *sums: Any) -> Measured:
    if r.dtype.kind != "f":  # random words, or true and false
        equal = x.dtype == r.dtype and numpy.array_equal(x, r)
        return Measured() if equal else Measured(mismatch="dtype" if x.dtype != r.dtype else "nan", ratio=math.inf)
    if sums:
        limit = limits.products(r, dtype, *sums)
    elif piece.size is None:
        limit = limits.exact(r)
    elif piece.name in ULPS:
        limit = limits.ulps(r, dtype, ULPS[piece.name], numpy.maximum(numpy.abs(r), piece.size))
    else:
        limit = limits.products(r, dtype, int(piece.size), numpy.abs(r) + piece.size)
    return measure(x, r, limit, dtype if r.dtype == numpy.float64 else r.dtype.name)
