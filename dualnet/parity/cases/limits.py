"""How far apart two right results may be: every tolerance, and the reason for it (docs/numerics.md).

u is the unit round-off and K the number of terms in the longest sum. Rounding errors of either sign add up like a
random walk, so a sum may be off by √K of them:

    τ = u · (8 + 4 √K)

Numbers of 16 bits are added up in float32 and rounded at the end, so their bound is float32's τ plus that rounding.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy

from ...shim.dtypes import HALVES, dtype_of, finfo

UNIT = {"float16": 4.88e-4, "bfloat16": 3.91e-3, "float32": 5.96e-8, "float64": 1.11e-16}
"""Half the distance from 1 to the next number."""

ROUNDED = {"float16": 1e-3, "bfloat16": 1e-2}
"""For 16-bit results of sums in float32: twice their unit, with room to spare. One rounding is necessary; a second
happens if a matrix product in 16 bits is summed again."""
NORMALISED = {"float16": 2e-3, "bfloat16": 2e-2}
"""The same, for results of a normalisation."""


def tau(dtype: Any, K: int) -> float:
    """The bound on ‖X − R‖ / ‖R‖ for a reduction over K terms.

    >>> f"{tau('float32', 576):.1e}"
    '6.2e-06'
    """
    name = dtype_of(dtype).name
    return UNIT[adding(name)] * (8 + 4 * math.sqrt(K)) + ROUNDED.get(name, 0.0)


def adding(dtype: str) -> str:
    """The dtype that sums are kept in: float32 for the 16-bit dtypes."""
    return "float32" if dtype in HALVES else dtype


@dataclass(frozen=True)
class Limit:
    """A bound ``norm`` on ‖X − R‖ / ``size``, and a bound ``each`` on max |X − R| / ``scale``. None is no bound.

    ``scale`` is an array like R. For sums of products it is |A||B|, the same sum without its signs: an element whose
    terms cancel is small, but its rounding error is not. ``norm == 0`` allows no difference at all.
    """

    why: str
    scale: numpy.ndarray
    size: float
    norm: float | None = None
    each: float | None = None

    def times(self, factor: float) -> Limit:
        """A wider limit: the distance of two backends may be twice that of each from the truth."""
        wider = {name: value * factor for name in ("norm", "each") if (value := getattr(self, name)) is not None}
        return replace(self, **wider)


def exact(r: numpy.ndarray) -> Limit:
    """Nothing is rounded: copies, comparisons, ReLU, maxima, integers."""
    return Limit("exact", numpy.abs(r), _norm(r), norm=0.0)


def ulps(r: numpy.ndarray, dtype: str, n: int, scale: numpy.ndarray | None = None) -> Limit:
    """n units in the last place of R, or of ``scale`` where R is a difference that cancels."""
    what = f"{n} ULP" if scale is None else f"{n} ULP of the factors"
    return Limit(what, _spacing(numpy.abs(r if scale is None else scale), dtype), _norm(r), each=float(n))


def products(r: numpy.ndarray, dtype: str, K: int, magnitude: numpy.ndarray) -> Limit:
    """A sum of K products, in the norm and in every element.

    The few elements of a small result may all cancel by chance, and then its norm says nothing; so ‖R‖ counts as at
    least ‖|A||B|‖ / √K, the usual size of a sum of K random terms.
    """
    bound = tau(dtype, K)
    size = max(_norm(r), _norm(magnitude) / math.sqrt(max(K, 1)))
    return Limit(f"τ, K = {K}", magnitude, size, norm=bound, each=bound)


def normed(
    r: numpy.ndarray, dtype: str, bound: float, why: str, magnitude: numpy.ndarray | None = None, K: int = 1
) -> Limit:
    """A bound on the norm alone, for results of a normalisation: each element depends on all others.

    ``bound`` is for the dtype that sums are kept in.
    """
    size = max(_norm(r), 0.0 if magnitude is None else _norm(magnitude) / math.sqrt(max(K, 1)))
    return Limit(why, numpy.abs(r), size, norm=bound + NORMALISED.get(dtype, 0.0))


def _norm(r: numpy.ndarray) -> float:
    return float(numpy.linalg.norm(r[numpy.isfinite(r)]))


def _spacing(scale: numpy.ndarray, dtype: str) -> numpy.ndarray:
    """The distance between neighbouring numbers of the dtype, at each element."""
    limits = finfo(dtype)
    inside = numpy.clip(numpy.nan_to_num(scale, nan=1.0, posinf=1.0), float(limits.tiny), float(limits.max))
    return numpy.spacing(inside.astype(dtype)).astype(numpy.float64)
