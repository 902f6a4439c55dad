"""Judge one node on its own input: is the result within rounding of the truth, and if not, who is wrong?

Four values decide: theirs in their dtype, theirs in float64, ours in float64, and R, the op's reference in float64.
If theirs and R agree in float64, R is the truth, and theirs is wrong if it is further from R than rounding explains. If
they differ, the slope of the forward pass decides about gradients, and plain loops (:mod:`dualnet.parity.loops`) about
outputs. A node that dualnet does not have is judged by the slope of its own forward pass.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy

from ...parity.cases.limits import ROUNDED, UNIT, Limit, adding, tau
from ...parity.cases.truth import Expected
from ...parity.judging.compare import Measured, measure
from . import slopes
from .report import Row
from .steps import Arrays, NodeRun, Twin

__all__ = ["judge"]

TF32 = (1e-4, 1e-3)
"""Relative errors in float32 if its factors are rounded to 10 binary digits, as TF32 does."""
CANCELS = 10.0
"""If theirs is the same function, in float64 it may be this many times the limit away from R."""


def judge(run: NodeRun) -> list[Row]:
    """A row for y and one for each gradient; none if the node cannot be judged.

    >>> import numpy as np
    >>> from dualnet.bridges.against.twins import SumTwin
    >>> x, dy = np.ones((2, 3), "float32"), np.ones((2, 3), "float32")
    >>> twin = SumTwin("sum", {})
    >>> run = NodeRun("add", "add", {"x0": x, "x1": x}, x + x, dy, {"x0": dy, "x1": -dy}, twin)
    >>> [(row.quantity, row.fault) for row in judge(run)]
    [('y', ''), ('dx0', ''), ('dx1', 'theirs')]
    """
    rows: list[Row] = []
    with numpy.errstate(all="ignore"):
        if run.twin is not None:
            try:
                rows = _Case(run, run.twin).rows()
            except (ValueError, TypeError, LookupError) as error:  # not the same node after all
                run.note = run.note or f"no {run.twin.kind} of ours fits it ({error})"
        return rows or _by_slopes(run)


@dataclass(frozen=True)
class _Truth:
    """R, and how far a correct result may be from it."""

    r: numpy.ndarray
    limit: Limit

    def measured(self, x: numpy.ndarray) -> Measured:
        r = self.r.reshape(x.shape) if self.r.size == x.size else self.r
        return _quickly(x, r, self.limit) or measure(x, r, self.limit, x.dtype.name)


def _truths(found: dict[str, Expected]) -> dict[str, _Truth]:
    return {
        name: _Truth(numpy.asarray(truth.value), truth.limit)
        for name, truth in found.items()
        if truth.value is not None and truth.limit is not None
    }


def _quickly(x: numpy.ndarray, r: numpy.ndarray, limit: Limit) -> Measured | None:
    """The distance in few passes over memory, if it is within the limit; None if a closer look is needed."""
    if x.shape != r.shape or x.size < 2**16:
        return None
    gap = x.astype("float64")
    gap -= r
    if not gap.any():
        return Measured(each=None if limit.each is None else 0.0)
    flat = gap.reshape(-1)
    norm = math.sqrt(float(numpy.dot(flat, flat))) / limit.size if limit.size else math.inf
    ratios = [] if limit.norm is None else [norm / limit.norm if limit.norm else math.inf]
    each = None
    if limit.each is not None:
        numpy.abs(gap, out=gap)
        numpy.divide(gap, limit.scale, out=gap, where=gap != 0)
        each = float(gap.max())
        ratios.append(each / limit.each)
    return Measured(norm, each, max(ratios)) if all(ratio <= 1.0 for ratio in ratios) else None  # NaN is not


# -- compared with a twin ----------------------------------------------------------------------------------------------


@dataclass
class _Wide:
    """Everything again in float64, in our order of axes. ``real``: theirs was really computed again."""

    values: Arrays
    dy: numpy.ndarray | None
    theirs: Arrays
    truth: dict[str, _Truth]
    real: bool


@dataclass(frozen=True)
class _Ruling:
    """Who is wrong, why, and by which limit."""

    fault: str
    story: str
    truth: _Truth
    witness: str = ""


class _Case:
    """A node that dualnet has too. Everything here is in our order of axes."""

    def __init__(self, run: NodeRun, twin: Twin) -> None:
        self.run, self.twin = run, twin
        self.values = {name: twin.turned(name, array) for name, array in run.values.items()}
        self.dy = None if run.dy is None else twin.turned("y", run.dy)
        self.theirs = {"y": twin.turned("y", run.y)}
        self.theirs |= {name: twin.turned(name, g) for name, g in run.gradients.items()}
        self.wide: _Wide | None = None

    def rows(self) -> list[Row]:
        values = {name: _wide(array) for name, array in self.values.items()}
        y, gradients = self.twin.run(values, None if self.dy is None else _wide(self.dy))
        self.ours = {"y": y, **gradients}  # in float64: how our sums round is a matter of dualnet parity
        self.truth = _truths(self.twin.expected(self.values, self.dy))
        return [self._row(name) for name in self.theirs if name in self.truth and name in self.ours]

    def _row(self, name: str) -> Row:
        truth = self.truth[name]
        theirs, ours = truth.measured(self.theirs[name]), truth.measured(self.ours[name])
        if theirs.ok and ours.ok:
            return _row_of(self.run, name, theirs, truth.limit, "", f"{self.twin.kind} in float64")
        ruling = self._ruling(name, theirs, ours)
        shown = ruling.truth.measured(self.theirs[name]) if ruling.fault != "ours" else ours
        witness = ruling.witness or f"{self.twin.kind} in float64"
        return _row_of(self.run, name, shown, ruling.truth.limit, ruling.fault, witness, ruling.story)

    def _ruling(self, name: str, theirs: Measured, ours: Measured) -> _Ruling:
        self.wide = wide = self.wide or self._in_float64()
        truth = self.truth[name]
        if self._settled(name, wide):
            if theirs.ok:
                return _Ruling("ours", f"ours: {_told(self.run, name, ours, truth.limit)}", truth)
            summed = self.run.label(name) == name != "y"  # over all examples and places
            longest = _one_by_one(truth, self.run.dtype) if wide.real and summed else None
            if longest is not None and longest.measured(self.theirs[name]).ok:
                return _Ruling("", self._long_sum(name, theirs), longest)
            return _Ruling("theirs", _told(self.run, name, theirs, truth.limit), truth)
        if name == "y" or not self._settled("y", wide):
            return self._other_function(name, theirs)
        return self._by_slope(name, wide, theirs)

    def _in_float64(self) -> _Wide:
        values = {name: _wide(array) for name, array in self.run.values.items()}
        turned = {name: self.twin.turned(name, array) for name, array in values.items()}
        dy = None if self.run.dy is None else _wide(self.run.dy)
        turned_dy = None if dy is None else self.twin.turned("y", dy)
        truth = _truths(self.twin.expected(turned, turned_dy))
        theirs = {name: _wide(array) for name, array in self.theirs.items()}
        found = _Wide(turned, turned_dy, theirs, truth, False)
        try:
            y, gradients = self.run.again(values, dy) if self.run.again is not None else (self.run.y, {})
        except Exception:  # any error that their code raises for float64; then theirs counts as it is
            return found
        if self.run.again is not None and y.dtype == "float64":
            found.real = True
            found.theirs = {"y": self.twin.turned("y", y)}
            found.theirs |= {n: self.twin.turned(n, g) for n, g in gradients.items() if n in theirs}
        return found

    def _settled(self, name: str, wide: _Wide) -> bool:
        """Do theirs and R agree in float64? If theirs has no float64, do they agree in its own dtype?"""
        if not wide.real:
            return self.truth[name].measured(self.theirs[name]).ok
        return name in wide.theirs and wide.truth[name].measured(wide.theirs[name]).ratio <= CANCELS

    def _other_function(self, name: str, theirs: Measured) -> _Ruling:
        """The forward passes differ: ask loops, which share no code with either."""
        truth = self.truth[name]
        if name != "y":
            label = self.run.label(name)
            return _Ruling("undecided", f"its {label} belongs to a different function than {self.twin.kind}.", truth)
        at = f"at {theirs.at} it is {theirs.got:.7g}, expected {theirs.wanted:.7g}" if theirs.at else ""
        story = f"its output is not that of {self.twin.kind}: {at or theirs.mismatch}"
        judge = getattr(self.twin, "by_loops", None)
        third = None if judge is None else judge(self.values)
        if third is None:
            return _Ruling("undecided", f"{story}.", truth)
        if _Truth(third, truth.limit).measured(self.theirs["y"]).ok:
            return _Ruling("ours", "our output is not what plain loops find; theirs is.", truth, "loops")
        return _Ruling("theirs", f"{story}; plain loops find the same as {self.twin.kind}.", truth, "loops")

    def _by_slope(self, name: str, wide: _Wide, theirs: Measured) -> _Ruling:
        """The forward passes agree, but the gradients do not: the slope along their difference shows which is right."""
        truth, said = self.truth[name], wide.theirs[name]
        r = wide.truth[name].r.reshape(said.shape)
        v = said - r
        story = _told(self.run, name, theirs, truth.limit)
        if wide.dy is None or not numpy.isfinite(v).all() or not v.any():
            return _Ruling("theirs" if not theirs.ok else "ours", story, truth)
        v = v / float(numpy.linalg.norm(v))
        slope = slopes.along(lambda values: self.twin.run(values)[0], wide.values, name, v, wide.dy)
        they_say, we_say = float(numpy.vdot(said, v)), float(numpy.vdot(r, v))
        near = abs(they_say - we_say) / 4
        wrong = [who for who, says in (("theirs", they_say), ("ours", we_say)) if abs(says - slope) > near]
        if wrong == ["ours"]:
            story = f"our {self.run.label(name)} says {we_say:.6g}, the slope of the forward pass {slope:.6g}."
        else:
            story = f"{story[:-1]}; the slope of the forward pass says {slope:.6g}, it says {they_say:.6g}."
        return _Ruling(wrong[0] if len(wrong) == 1 else "undecided", story, truth, "the slope")

    def _long_sum(self, name: str, theirs: Measured) -> str:
        K = _terms(self.truth[name].limit, self.run.dtype)
        return (
            f"{self.run.label(name)} is {theirs.norm:.1e} of its norm off, by rounding alone: {K:,} terms, most of one "
            "sign, are added up one after another. In float64 it agrees"
        )


def _terms(limit: Limit, dtype: str) -> int:
    """K, from τ = u (8 + 4 √K)."""
    return round((((limit.norm or 0.0) - ROUNDED.get(dtype, 0.0)) / UNIT[adding(dtype)] - 8) ** 2 / 16)


def _one_by_one(truth: _Truth, dtype: str) -> _Truth | None:
    """The limit that holds for any order of summation, K u |A||B|; τ assumes that errors of both signs cancel."""
    limit = truth.limit
    if limit.norm is None or limit.each is None:
        return None
    worst = _terms(limit, dtype) * UNIT[adding(dtype)] + ROUNDED.get(dtype, 0.0)
    return _Truth(truth.r, replace(limit, norm=None, each=worst, why="K u"))


# -- in words and rows -------------------------------------------------------------------------------------------------


def _told(run: NodeRun, name: str, off: Measured, limit: Limit) -> str:
    what = f"its output {run.quantity}" if name == "y" else f"its gradient {run.label(name)}"
    if off.mismatch in ("nan", "inf"):
        return f"{what} is not finite where it must be, or finite where it must not: at {off.at} {off.got:g}."
    if off.mismatch:
        return f"{what} has a different {off.mismatch}."
    error, allowed, unit = _numbers(off, limit)
    at = f"; at {off.at} it is {off.got:.6g}, expected {off.wanted:.6g}" if off.at else ""
    if allowed == 0:
        return f"{what} is {off.norm:.1e} of its norm off, though nothing is rounded here{at}."
    if unit:
        return f"{what} is off by {error:.3g} {unit}, allowed {allowed:g}{at}."
    size = "of what it is made of" if math.isinf(error) or not numpy.any(limit.scale) else "of its norm"
    text = f"{what} is off by {error:.1e} {size}, allowed {allowed:.1e}{at}."
    if run.device.startswith("cuda") and run.dtype == "float32" and TF32[0] <= off.norm <= TF32[1]:
        text += " That is as large as TF32 makes it."
    return text


def _numbers(measured: Measured, limit: Limit) -> tuple[float, float, str]:
    """The error, its limit, and the unit, for the bound that is closest to its limit."""
    by_norm = measured.norm / limit.norm if limit.norm else (math.inf if limit.norm == 0 and measured.norm else -1.0)
    by_each = (measured.each or 0.0) / limit.each if limit.each else -1.0
    if limit.each is not None and by_each > by_norm:
        return measured.each or 0.0, limit.each, "ULP" if "ULP" in limit.why else ""
    return measured.norm, limit.norm or 0.0, ""


def _row_of(
    run: NodeRun, name: str, measured: Measured, limit: Limit, fault: str, witness: str, story: str = ""
) -> Row:
    error, allowed, unit = _numbers(measured, limit)
    error = math.inf if measured.mismatch else error
    quantity, backward = (run.quantity, False) if name == "y" else (run.label(name), True)
    return Row(
        run.name, run.kind, quantity, error, allowed, measured.ratio, fault, witness, unit, story, backward=backward
    )


def _wide(array: numpy.ndarray) -> numpy.ndarray:
    real = array.dtype.kind == "f" or array.dtype.name == "bfloat16"
    return array.astype("float64", copy=False) if real else array


# -- alone -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Alone:
    """The comparison for a node without a twin: itself in float64, and how far rounding moves that."""

    value: Arrays
    moved: dict[str, float]


def _by_slopes(run: NodeRun) -> list[Row]:
    """Rows for a node that dualnet does not have."""
    if run.again is None:
        return []
    alone = _again(run, run.again)
    rows = [] if alone is None else [_rerun(run, alone, "y", run.y)]
    if run.dy is None or not run.gradients:
        return rows
    try:
        found, dtype = slopes.of_gradients(run, run.again)
    except ValueError as error:
        run.note = run.note or str(error)
        return rows
    for name, slope in found.items():
        rounded = None if alone is None else _rerun(run, alone, name, run.gradients[name])
        nearer = rounded is not None and (not rounded.ok or rounded.ratio > slope.ratio)
        rows.append(rounded if slope.ok and rounded is not None and nearer else _sloped(run, name, slope, dtype))
    return rows


def _again(run: NodeRun, again: slopes.Runner) -> _Alone | None:
    """The node in float64; None if its code cannot take that."""
    wide = {name: _wide(array) for name, array in run.values.items()}
    try:
        y, gradients = again(wide, None if run.dy is None else _wide(run.dy))
        return _Alone({"y": y, **gradients}, slopes.rounding(run, again, wide)) if y.dtype == "float64" else None
    except Exception:  # any error that their code raises for numbers that it was not written for
        return None


def _rerun(run: NodeRun, alone: _Alone, name: str, array: numpy.ndarray) -> Row:
    """Their result compared with their own in float64. The number of terms is unknown: at most all numbers."""
    r = alone.value.get(name, numpy.zeros(array.shape))
    K = max((a.size for a in run.values.values()), default=1)
    size = max(float(numpy.linalg.norm(r)), alone.moved.get(name, 0.0) / UNIT[adding(run.dtype)])
    limit = Limit("", numpy.abs(r), size, norm=tau(run.dtype, K))
    measured = _Truth(r, limit).measured(array)
    story = "" if measured.ok else f"{_told(run, name, measured, limit)[:-1]}, by its own code in float64."
    return _row_of(run, name, measured, limit, "" if measured.ok else "theirs", "itself in float64", story)


def _sloped(run: NodeRun, name: str, slope: slopes.Slope, dtype: str) -> Row:
    story = ""
    if not slope.ok:
        story = (
            f"its gradient {run.label(name)} is off by {slope.error:.1e}, allowed {slope.allowed:.1e}: along one "
            f"direction the slope of its own forward says {slope.slope:.6g}, it says {slope.says:.6g}"
        )
        story += "; it sends nothing back" if not run.gradients[name].any() else ""
        story += f" ({run.note})." if run.note else "."
    witness = "its own slope" if dtype == "float64" else f"its own slope, in {dtype}"
    return Row(
        run.name, run.kind, run.label(name), slope.error, slope.allowed, slope.ratio,
        "" if slope.ok else "theirs", witness, "", story, backward=True,
    )  # fmt: skip
