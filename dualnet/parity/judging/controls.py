"""Negative controls: mistakes made on purpose, which the comparison must find. A check that cannot fail proves nothing.

Each control is a way to compute a case like any other, but with a mistake built in, and goes through the same
comparison. If one of them passes, the certificate is INVALID, whatever else is in it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy

from ...shim import get_precision, set_precision
from ..cases.case import OPS, Case, draw
from ..cases.truth import SUMS, expected
from ..networks.lockstep import references
from .compare import Comparison, compare
from .kernels import large_cases
from .ways import Outcome, Way

__all__ = ["PLANTED", "controls", "tf32"]

PLANTED = 1e-4
"""The relative error that is planted: a tenth of the field's usual tolerance."""

PRODUCTS = ("conv2d", "conv2d_relu", "conv_transpose2d", "dense", "dense_relu")
LARGE = 2**26
"""With this many multiplications every library uses tensor cores if it may. A smaller product may be faster in full
precision, and then there would be nothing to find."""
VISIBLE = ("plain", "one image", "long sums", "short sums", "wide")
"""Kinds of cases with factors that have more digits than TF32."""


@dataclass(frozen=True)
class TF32(Way):
    """Both factors of every product rounded to the 10 bits of TF32, on any machine."""

    def compute(self, case: Case) -> dict[str, numpy.ndarray | None]:
        arrays = {name: None if a is None else tf32(a) for name, a in case.arrays.items()}
        return super().compute(dataclasses.replace(case, arrays=arrays, dy=tf32(case.dy)))  # type: ignore[arg-type]


@dataclass(frozen=True)
class SwitchedOn(Way):
    """TF32 as the GPU does it: ``dn.set_precision("tf32")``."""

    def run(self, case: Case) -> Outcome:
        before = get_precision()
        try:
            set_precision("tf32")
            return super().run(case)
        finally:
            set_precision(before)


@dataclass(frozen=True)
class Planted(Way):
    """One result off by 1e-4: all of it, or (with ``scale``, which is |A||B|) its first element alone."""

    output: str = ""
    scale: Any = None

    def compute(self, case: Case) -> dict[str, numpy.ndarray | None]:
        found = super().compute(case)
        wrong = numpy.array(found[self.output])
        if self.scale is None:
            wrong = (wrong * (1.0 + PLANTED)).astype(wrong.dtype)
        else:
            at = numpy.unravel_index(int(numpy.argmax(self.scale)), wrong.shape)
            wrong[at] += PLANTED * self.scale[at]
        return found | {self.output: wrong}


@dataclass(frozen=True)
class Swapped(Way):
    """Height and width of the stride swapped (and of the output padding, so that the shape stays)."""

    def compute(self, case: Case) -> dict[str, numpy.ndarray | None]:
        turned = {name: case.options[name][::-1] for name in ("stride", "output_padding") if name in case.options}
        options = case.options | turned
        return super().compute(dataclasses.replace(case, options=options))


def controls(ways: Iterable[Way], ops: Iterable[str] = OPS, seed: int = 0, cases: int = 10) -> Iterator[dict[str, Any]]:
    """Every control in every way, as rows: the mistake, the op, how many cases had it, and in how many it was found."""
    ways, ops = list(ways), list(ops)
    for op in ops:
        if op in PRODUCTS:
            yield from _rounding(ways, op, seed, cases)
        yield from _planted(ways, op, seed)
        if (base := op.removesuffix("_relu")) in SUMS and base not in ("dense", "global_avg_pool2d"):
            yield from _swapped(ways, op, seed)


def _rounding(ways: list[Way], op: str, seed: int, cases: int) -> Iterator[dict[str, Any]]:
    drawn = [case for i in range(cases) if (case := draw(op, i, seed, "float32")).kind in VISIBLE]
    known = [(case, expected(case)) for case in drawn]
    for way in ways:
        what, mistaken = "factors rounded to TF32's 10 bits", TF32(way.backend, way.kernels)
        yield _row(what, op, way, [compare(case, what, mistaken.run(case), truth) for case, truth in known])
    for backend in dict.fromkeys(way.backend for way in ways if way.backend.startswith("cupy")):
        yield from _switched_on(SwitchedOn(backend, kernels=True), op, seed)


def _switched_on(way: SwitchedOn, op: str, seed: int) -> Iterator[dict[str, Any]]:
    """Products as large as in networks: for a small one, a library may decide that tensor cores are not worth it."""
    what = 'TF32 switched on: set_precision("tf32")'
    drawn = [case for case in large_cases(op, "float32", seed) if _multiplications(case) >= LARGE]
    known = [(case, expected(case, references)) for case in drawn]
    found = [compare(case, what, way.run(case), truth) for case, truth in known]
    if found:
        yield _row(what, op, way, found)


def _multiplications(case: Case) -> int:
    """Rows × terms × columns of the op's matrix product; 0 if it is narrow, or if there are several products
    (groups)."""
    x, w = case.arrays["x"], case.arrays["w"]
    rows = math.prod(x.shape[:-1]) // case.options.get("stride", 1) ** 2 if case.options.get("groups", 1) == 1 else 0
    return rows * w.size if min(w.shape[-2:]) >= 32 else 0


def _planted(ways: list[Way], op: str, seed: int) -> Iterator[dict[str, Any]]:
    """An error in each output in turn; for sums of products also in a single element, where a norm would hide it."""
    case = draw(op, 0, seed, "float32")
    truth = expected(case)
    for way in ways:
        found = []
        for output, right in truth.items():
            if right.value is None or right.limit is None:
                continue
            scales = [None, right.limit.scale] if case.base in SUMS and right.limit.each is not None else [None]
            for scale in scales:
                wrong = Planted(way.backend, way.kernels, output, scale)
                found.append(compare(case, f"{output} wrong", wrong.run(case), truth))
        yield _row("an error of 1e-4 planted", op, way, found)


def _swapped(ways: list[Way], op: str, seed: int) -> Iterator[dict[str, Any]]:
    """On a map where both strides give the same output shape, so that only the numbers differ."""
    rng = numpy.random.default_rng(numpy.random.SeedSequence([seed, 3]))
    side = 2 if op == "conv_transpose2d" else 5
    x, options = rng.standard_normal((2, side, side, 3)).astype("float32"), {"stride": (2, 3)}
    arrays: dict[str, numpy.ndarray | None] = {"x": x}
    if "conv" in op:
        arrays |= {"w": rng.standard_normal((2, 2, 3, 3)).astype("float32"), "b": None}
        options |= {"output_padding": (1, 0)} if op == "conv_transpose2d" else {}
    else:
        options |= {"pool_size": (2, 2)}
    case = Case(op, 0, seed, "float32", "swapped stride", arrays, options)
    truth = expected(case)
    for way in ways:
        wrong = Swapped(way.backend, way.kernels).run(case)
        yield _row("height and width of the stride swapped", op, way, [compare(case, "swapped", wrong, truth)])


def _row(what: str, op: str, way: Way, comparisons: list[Comparison]) -> dict[str, Any]:
    return {
        "control": what,
        "op": op,
        "way": way.name,
        "made": len(comparisons),
        "found": sum(not c.ok and c.mismatch != "exception" for c in comparisons),  # a crash does not count as found
        "least_ratio": min((c.ratio for c in comparisons), default=0.0),
    }


def tf32(array: numpy.ndarray) -> numpy.ndarray:
    """float32 rounded to 10 bits after the point, to nearest with ties to even; other dtypes as they are.

    >>> float(tf32(numpy.float32([1 + 2**-11 + 2**-20]))[0]) == 1 + 2**-10
    True
    """
    if array.dtype != numpy.float32:
        return array
    bits = numpy.ascontiguousarray(array).view(numpy.uint32).astype(numpy.uint64)
    rounded = (bits + 0xFFF + ((bits >> 13) & 1)) & 0xFFFFE000
    return numpy.where(numpy.isfinite(array), rounded.astype(numpy.uint32).view(numpy.float32), array)
