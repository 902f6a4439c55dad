"""Is a gradient the slope of its own forward pass? This decides if dualnet has no such node, or disagrees."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy

from ... import check
from ...parity.cases.limits import UNIT, adding
from .steps import Arrays, NodeRun, Runner

__all__ = ["Slope", "along", "of_gradients", "rounding"]

Forward = Callable[[Arrays], numpy.ndarray]

COARSE = 1e-2
"""The accuracy of a difference if the forward pass cannot run in float64: half the digits of float32, and a margin."""


@dataclass(frozen=True)
class Slope:
    """The slope along one direction by a gradient and by a difference, their distance, and the allowed distance."""

    says: float
    slope: float
    error: float
    allowed: float

    @property
    def ratio(self) -> float:
        """Which share of the limit was used; NaN counts as more than all of it."""
        return math.inf if math.isnan(self.error) else self.error / self.allowed

    @property
    def ok(self) -> bool:
        return self.ratio <= 1.0


def of_gradients(run: NodeRun, again: Runner) -> tuple[dict[str, Slope], str]:
    """For each value with a gradient, the worst of several directions, and the dtype in which it was measured.

    The dtype is float64; their own dtype, a hundred thousand times as coarse, is used only if their code cannot run in
    float64.
    """
    names = [name for name in run.gradients if run.values[name].size]
    for dtype in dict.fromkeys(("float64", run.dtype)):
        try:
            if dtype == "float64":
                return _in_float64(run, again, names), dtype
            return {name: _coarse(run, again, name) for name in names}, dtype
        except Exception as error:  # whatever their code raises for numbers that it was not written for
            failed = error
    raise ValueError(f"it cannot be run again ({type(failed).__name__}: {failed})")


def _in_float64(run: NodeRun, again: Runner, names: list[str]) -> dict[str, Slope]:
    def compute(values: Arrays) -> tuple[numpy.ndarray, Callable[[numpy.ndarray], Arrays]]:
        return again({**run.values, **values})[0], lambda g: again({**run.values, **values}, g)[1]

    values = {name: run.values[name].astype("float64") for name in run.values if _real(run.values[name])}
    y = again({**run.values, **values})[0]
    if y.dtype != "float64":
        raise TypeError(f"for float64 it returns {y.dtype}")
    found = {}
    for name in names:
        report = check.slopes(check.Problem(run.name, dict(values), [name], compute, along=True))
        rows = [Slope(row.analytic, row.numeric, row.error, row.limit) for row in report.rows]
        found[name] = max(rows, key=lambda slope: slope.ratio)
    return found


def _coarse(run: NodeRun, again: Runner, name: str) -> Slope:
    """In their own dtype, with a step of the cube root of its round-off, half along the gradient."""
    rng, x = numpy.random.default_rng(0), run.values[name].astype("float64")
    g, gradient = numpy.asarray(run.dy, "float64"), run.gradients[name].astype("float64")
    unit = UNIT[run.dtype]
    found = []
    for _ in range(2):
        v = rng.standard_normal(x.shape)
        if size := float(numpy.linalg.norm(gradient)):
            v = v + gradient * (float(numpy.linalg.norm(v)) / size)
        h = unit ** (1 / 3) * max(float(numpy.sqrt(numpy.mean(x * x))), 1e-3) / float(numpy.sqrt(numpy.mean(v * v)))
        ends = [(x + sign * h * v).astype(run.values[name].dtype) for sign in (1, -1)]
        up, down = (again({**run.values, name: end})[0].astype("float64") for end in ends)
        way = (ends[0].astype("float64") - ends[1]) / (2 * h)  # the step that was really taken
        slope, says = float(numpy.vdot(up - down, g)) / (2 * h), float(numpy.vdot(way, gradient))
        scale = float(numpy.linalg.norm(way)) * float(numpy.linalg.norm(gradient)) or 1.0
        noise = 4 * unit * float(numpy.linalg.norm(up * g)) / h / scale
        found.append(Slope(says, slope, abs(says - slope) / scale, COARSE + noise))
    return max(found, key=lambda slope: slope.ratio)


def along(forward: Forward, values: Arrays, name: str, v: numpy.ndarray, dy: numpy.ndarray) -> float:
    """The slope of ⟨forward, dy⟩ as ``values[name]`` moves along v, in float64: the one that shorter steps agree on.

    If a step crosses a kink, the difference jumps; a shorter step crosses fewer kinks.
    """
    unit = v / float(numpy.linalg.norm(v)) * math.sqrt(v.size)
    found = []
    for h in (1e-5, 1e-6, 1e-7):
        up, down = (forward({**values, name: values[name] + sign * h * unit}) for sign in (1, -1))
        found.append(float(numpy.vdot(up - down, dy)) / (2 * h))
    steadiest = min(range(2), key=lambda i: abs(found[i] - found[i + 1]))
    return found[steadiest + 1] * float(numpy.linalg.norm(v)) / math.sqrt(v.size)


def rounding(run: NodeRun, again: Runner, wide: Arrays) -> dict[str, float]:
    """How far each quantity moves, in the norm, if every number that goes into it is rounded.

    It is measured: one run in float64 on numbers that are changed by up to u each, as rounding would do.
    """
    rng, unit = numpy.random.default_rng(0), UNIT[adding(run.dtype)]

    def moved(array: numpy.ndarray) -> numpy.ndarray:
        return array * (1.0 + unit * rng.choice((-1.0, 1.0), array.shape)) if _real(array) else array

    dy = None if run.dy is None else run.dy.astype("float64")
    y, gradients = again(wide, dy)
    y2, gradients2 = again({name: moved(a) for name, a in wide.items()}, None if dy is None else moved(dy))
    pairs = {"y": (y, y2)} | {name: (g, gradients2[name]) for name, g in gradients.items() if name in gradients2}
    return {name: float(numpy.linalg.norm(a - b)) for name, (a, b) in pairs.items()}


def _real(array: numpy.ndarray) -> bool:
    return array.dtype.kind == "f" or array.dtype.name == "bfloat16"
