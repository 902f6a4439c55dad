"""Two results side by side: shape, dtype, NaN, infinities and exceptions must be equal, numbers within their limit."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy

from ...shim.dtypes import finfo
from ..cases.case import Case
from ..cases.limits import Limit
from ..cases.truth import Expected
from .ways import Outcome

__all__ = ["Comparison", "MISMATCHES", "Measured", "compare", "measure"]

MISMATCHES = ("shape", "dtype", "nan", "inf", "exception")
"""Things that must be equal, whatever the limit is."""


@dataclass
class Measured:
    """The distance of two arrays. ``ratio`` is the distance in units of the limit: above 1 is too far."""

    norm: float = 0.0
    each: float | None = None
    ratio: float = 0.0
    mismatch: str = ""
    at: tuple[int, ...] = ()
    got: float = math.nan
    wanted: float = math.nan

    @property
    def ok(self) -> bool:
        """Is it within the limit, and is everything equal that must be?"""
        return not self.mismatch and self.ratio <= 1.0


@dataclass
class Comparison:
    """All outputs of one case, one way against the truth or against another way."""

    case: Case
    what: str  # "numpy", "strict ↔ numpy", ...
    results: dict[str, Measured] = field(default_factory=dict)
    mismatch: str = ""
    note: str = ""

    @property
    def ok(self) -> bool:
        """Is every output right, and the exception the expected one?"""
        return not self.mismatch and all(m.ok for m in self.results.values())

    @property
    def ratio(self) -> float:
        """The worst of all outputs; infinite if something that must be equal differs."""
        if self.mismatch or any(m.mismatch for m in self.results.values()):
            return math.inf
        return max((m.ratio for m in self.results.values()), default=0.0)

    @property
    def mismatches(self) -> list[str]:
        """Everything that differs although it must be equal."""
        return [m for m in (self.mismatch, *(m.mismatch for m in self.results.values())) if m]


def compare(
    case: Case, what: str, got: Outcome, truth: dict[str, Expected] | None, other: Outcome | None = None
) -> Comparison:
    """One way against the truth; or, with ``other``, against another way within twice the limit."""
    comparison = Comparison(case, what)
    error = case.refused if other is None else other.error
    if got.error != error:
        comparison.mismatch = "exception"
        comparison.note = f"{got.error or 'nothing'} raised, expected {error or 'none'}. {got.message}".strip()
    elif not error and truth is not None:
        for name, expected in truth.items():
            comparison.results[name] = _one_output(case, got.values.get(name), expected, name, other)
    return comparison


def _one_output(
    case: Case, value: numpy.ndarray | None, expected: Expected, name: str, other: Outcome | None
) -> Measured:
    against = expected.value if other is None else other.values.get(name)
    if value is None or against is None or expected.limit is None:
        missing = (value is None) != (against is None)
        return Measured(mismatch="shape" if missing else "", ratio=math.inf if missing else 0.0)
    if other is None:
        return measure(value, numpy.asarray(against), expected.limit, case.dtype)
    return measure(value, numpy.asarray(against), expected.limit.times(2.0), against.dtype.name)


def measure(x: numpy.ndarray, r: numpy.ndarray, limit: Limit, dtype: str) -> Measured:
    """X against R, in float64. Subnormal numbers count as 0 on both sides: a GPU may flush them."""
    if tuple(x.shape) != tuple(r.shape):
        return Measured(mismatch="shape", ratio=math.inf)
    if x.dtype.name != dtype:
        return Measured(mismatch="dtype", ratio=math.inf)
    x, r = _flushed(x, r, dtype)
    if not numpy.array_equal(numpy.isnan(x), numpy.isnan(r)):
        return Measured(mismatch="nan", ratio=math.inf, **_first(numpy.isnan(x) != numpy.isnan(r), x, r))
    one, other = (numpy.where(numpy.isinf(a), numpy.sign(a), 0.0) for a in (x, r))
    if not numpy.array_equal(one, other):
        return Measured(mismatch="inf", ratio=math.inf, **_first(one != other, x, r))
    finite = numpy.isfinite(r)
    gap = numpy.where(finite, numpy.abs(numpy.where(finite, x, 0.0) - numpy.where(finite, r, 0.0)), 0.0)
    return _judged(x, r, gap, limit)


def _judged(x: numpy.ndarray, r: numpy.ndarray, gap: numpy.ndarray, limit: Limit) -> Measured:
    off = float(numpy.linalg.norm(gap))
    norm = off / limit.size if limit.size else (math.inf if off else 0.0)
    with numpy.errstate(divide="ignore", invalid="ignore"):
        shares = numpy.where(gap == 0.0, 0.0, gap / limit.scale) if limit.each is not None else gap
    each = None if limit.each is None else float(shares.max(initial=0.0))
    ratios = [_ratio(norm, limit.norm)] if limit.norm is not None else []
    ratios += [_ratio(each, limit.each)] if each is not None else []
    measured = Measured(norm, each, max(ratios, default=0.0))
    if off:
        at = tuple(int(i) for i in numpy.unravel_index(int(numpy.argmax(shares)), gap.shape))
        measured.at, measured.got, measured.wanted = at, float(x[at]), float(r[at])
    return measured


def _ratio(error: float | None, bound: float | None) -> float:
    """error / bound, where a bound of 0 allows nothing."""
    if not error:
        return 0.0
    return error / bound if bound else math.inf


def _flushed(x: numpy.ndarray, r: numpy.ndarray, dtype: str) -> tuple[numpy.ndarray, numpy.ndarray]:
    """Both as float64, and 0 where both are at most about the smallest normal number."""
    x, r = x.astype(numpy.float64), r.astype(numpy.float64)
    small = numpy.maximum(numpy.abs(x), numpy.abs(r)) < 1.01 * float(finfo(dtype).tiny)
    return numpy.where(small, 0.0, x), numpy.where(small, 0.0, r)


def _first(where: numpy.ndarray, x: numpy.ndarray, r: numpy.ndarray) -> dict[str, Any]:
    at = tuple(int(i) for i in numpy.argwhere(where)[0])
    return {"at": at, "got": float(x[at]), "wanted": float(r[at])}
