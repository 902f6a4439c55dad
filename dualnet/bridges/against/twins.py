"""Nodes as dualnet computes them, each with the truth in float64 and the distance from it that rounding explains.

A layer's truth and limits are those of ``dualnet parity``: the op's reference in float64, and the limits of
:mod:`dualnet.parity.cases.limits`. Nodes without a layer (sums, concatenations, copies) are defined here.
"""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy

from ...layers.initializers import Draw
from ...layers.layer import Layer, Shape
from ...layers.parameter import Parameter
from ...ops import losses
from ...parity.cases import limits
from ...parity.cases.case import FACTORS, Case
from ...parity.cases.truth import ULPS_OF_EXP, Expected, by_loops, expected
from ...parity.judging.ways import Way, function
from ...parity.networks.tape import Call, as_case
from ...shim import asarray, to_numpy, use_backend
from ...shim.dtypes import is_floating, master_dtype
from .steps import Arrays

__all__ = ["CopyTwin", "JoinTwin", "LayerTwin", "LossTwin", "MaskTwin", "SumTwin", "by_references"]

LOOPS = 2_000_000
"""Plain loops take some seconds for this many products."""
Turn = Callable[[numpy.ndarray], numpy.ndarray]


def kept(array: numpy.ndarray) -> numpy.ndarray:
    """An array that needs no turning."""
    return array


@dataclass
class _Turning:
    """Base class of all twins: how to turn each array, by its name; an array without a name is already in our order."""

    kind: str
    turns: dict[str, Turn]

    def turned(self, name: str, array: numpy.ndarray) -> numpy.ndarray:
        """Their array in our order."""
        return numpy.asarray(self.turns.get(name, kept)(array), order="C")


# -- layers ------------------------------------------------------------------------------------------------------------


class _Blank(Draw):
    """Creates parameters whose values come later; really drawing a hundred million weights would take seconds."""

    def parameter(self, initializer: Any, shape: Shape, *, fan_in: int = 1, fan_out: int = 1) -> Parameter:
        return Parameter(asarray(numpy.zeros(shape, master_dtype(self.dtype))))


@dataclass
class LayerTwin(_Turning):
    """A layer of ours. ``names`` maps their names of parameters to ours; ``state`` holds running statistics."""

    layer: Layer
    names: dict[str, str] = field(default_factory=dict)  # {"weight": "w"}
    state: Arrays = field(default_factory=dict)
    train: bool = False

    def run(self, values: Arrays, dy: numpy.ndarray | None = None) -> tuple[numpy.ndarray, Arrays]:
        with Way("numpy").in_force():  # the references: kernels have a certificate of their own
            layer = self._made(values)
            y, pullback = layer.forward(asarray(values["x"]), train=self.train)
            if dy is None:
                return to_numpy(y), {}
            dx, gradients = pullback(asarray(dy))
        theirs = {ours: name for name, ours in self.names.items()}
        found = {theirs[name]: to_numpy(gradient) for name, gradient in gradients.items() if name in theirs}
        return to_numpy(y), {"x": to_numpy(dx), **found}

    def expected(self, values: Arrays, dy: numpy.ndarray | None = None) -> dict[str, Expected]:
        case = self._case(values, dy)
        if case is None:
            return {}
        found = expected(case, by_references())
        if case.op == "gelu":  # 1 + erf cancels where x < 0, and leaves an error of the order of x
            r = numpy.asarray(found["y"].value)
            scale = numpy.maximum(numpy.abs(r), numpy.abs(values["x"].astype("float64")))
            found["y"] = Expected(r, limits.ulps(r, case.dtype, ULPS_OF_EXP[case.dtype], scale))
        if case.op in ("conv2d", "conv_transpose2d"):
            found = {name: _as_by_tiles(name, truth) for name, truth in found.items()}
        theirs = {f"d{ours}": name for name, ours in self.names.items()} | {"y": "y", "dx": "x"}
        return {theirs[name]: truth for name, truth in found.items() if name in theirs and truth.value is not None}

    def by_loops(self, values: Arrays) -> numpy.ndarray | None:
        """y by plain loops in float64, which share no code with our ops; None if they would take minutes."""
        case = self._case(values, None)
        if case is None or case.dy is None:
            return None
        w = case.arrays.get("w")
        if case.dy.size * (1 if w is None else math.prod(w.shape[:-1])) > LOOPS:
            return None
        with numpy.errstate(all="ignore"):
            forward, known = by_loops(case.base)[0], inspect.signature(by_loops(case.base)[0]).parameters
            options = {k: v for k, v in case.options.items() if k in known or "options" in known}
            return numpy.asarray(forward(*case.arrays.values(), **options))

    def _case(self, values: Arrays, dy: numpy.ndarray | None) -> Case | None:
        """The layer's op on these numbers."""
        with use_backend("numpy"):
            layer, x = self._made(values), values["x"]
            state = {name: getattr(layer, name) for name in layer.state_names}
            if dy is None:
                dy = numpy.zeros((len(x), *layer.output_shape(x.shape[1:])), x.dtype)
            case = as_case(Call("", layer, x, x, {}, state, self.train, dy=dy))
        if case is not None:
            factors = {name: case.options[name] for name in FACTORS if name in case.options}
            case.options |= {name: float(numpy.asarray(v, limits.adding(case.dtype))) for name, v in factors.items()}
        return case

    def _made(self, values: Arrays) -> Layer:
        """The layer with these parameters, for their dtype."""
        x = values["x"]
        layer = copy.copy(self.layer)
        layer.init_from(tuple(x.shape[1:]), _Blank(0, x.dtype))
        dtype = master_dtype(x.dtype)
        for name, ours in self.names.items():
            getattr(layer, ours).value = asarray(values[name].astype(dtype, copy=False))
        for name, array in self.state.items():
            setattr(layer, name, asarray(array.astype(dtype)))
        return layer


def _as_by_tiles(name: str, truth: Expected) -> Expected:
    """Limits for the Winograd and Fourier algorithms, which round each unit of a tile as if it were the largest.

    So an element is measured by the largest sum of sizes in its channel; the limit for the norm is as strict as usual.
    """
    if truth.limit is None or truth.limit.scale.ndim != 4:
        return truth
    axes = (0, 1) if name == "dw" else (1, 2)  # taps, or places
    scale = numpy.broadcast_to(truth.limit.scale.max(axes, keepdims=True), truth.limit.scale.shape)
    return Expected(truth.value, replace(truth.limit, scale=scale))


def by_references() -> Callable[[str], tuple[Callable[..., Any], Callable[..., Any]]]:
    """NumPy's references in float64 as a source of truth. The forward results are kept for the backward pass."""
    way, last = Way("numpy"), {}  # type: ignore[var-annotated]

    def source(op: str) -> tuple[Callable[..., Any], Callable[..., Any]]:
        is_loss = op in losses.NAMES

        def ran(arrays: tuple[Any, ...], options: dict[str, Any]) -> tuple[Any, Any]:
            key = (op, *map(id, arrays))
            if last.get("key") != key:
                wide = [
                    a.astype("float64", copy=False) if a is not None and is_floating(a.dtype) else a for a in arrays
                ]
                last.clear()
                y, pullback = function(Case(op, 0, 0, "float64", "", {}))(*wide, **options)
                last.update(key=key, arrays=arrays, result=(y, pullback))
            return last["result"]

        def forward(*arrays: Any, **options: Any) -> Any:
            with way.in_force():
                return to_numpy(ran(arrays, options)[0])

        def backward(*arrays: Any, **options: Any) -> Any:
            with way.in_force():
                if is_loss:
                    return to_numpy(ran(arrays, options)[1]())
                return ran(arrays[1:], options)[1](arrays[0].astype("float64"))

        return forward, backward

    return source


# -- nodes without a layer ---------------------------------------------------------------------------------------------


@dataclass
class CopyTwin(_Turning):
    """The same numbers in a different shape, or under different names: flattened, permuted, passed on."""

    def run(self, values: Arrays, dy: numpy.ndarray | None = None) -> tuple[numpy.ndarray, Arrays]:
        return values["x"], {} if dy is None else {"x": dy}

    def expected(self, values: Arrays, dy: numpy.ndarray | None = None) -> dict[str, Expected]:
        y, gradients = self.run(values, dy)
        return {name: _exact(r) for name, r in {"y": y, **gradients}.items()}


@dataclass
class SumTwin(_Turning):
    """x0 + x1 + ...; the delta goes to each of them unchanged."""

    def run(self, values: Arrays, dy: numpy.ndarray | None = None) -> tuple[numpy.ndarray, Arrays]:
        parts = list(values.values())
        return sum(parts[1:], parts[0]), {} if dy is None else {name: dy for name in values}

    def expected(self, values: Arrays, dy: numpy.ndarray | None = None) -> dict[str, Expected]:
        parts, dtype = _wide(values), next(iter(values.values())).dtype.name
        y = sum(parts.values())
        magnitude = sum(map(numpy.abs, parts.values()))
        truth = {"y": Expected(y, limits.products(y, dtype, len(parts), magnitude))}  # type: ignore[arg-type]
        return truth | ({} if dy is None else {name: _exact(dy) for name in values})


@dataclass
class JoinTwin(_Turning):
    """x0, x1, ... one after the other along the last axis; the delta is cut at the same places."""

    def run(self, values: Arrays, dy: numpy.ndarray | None = None) -> tuple[numpy.ndarray, Arrays]:
        parts = list(values.values())
        y = numpy.concatenate(parts, -1)
        if dy is None:
            return y, {}
        cuts = numpy.cumsum([part.shape[-1] for part in parts])[:-1]
        return y, dict(zip(values, numpy.split(dy, cuts, -1)))

    def expected(self, values: Arrays, dy: numpy.ndarray | None = None) -> dict[str, Expected]:
        y, gradients = self.run(values, dy)
        return {name: _exact(r) for name, r in {"y": y, **gradients}.items()}


@dataclass
class MaskTwin(_Turning):
    """Dropout in training, with the mask that they drew: y = x / (1 − p) where ``mask``, else 0; dx likewise."""

    mask: numpy.ndarray
    p: float

    def run(self, values: Arrays, dy: numpy.ndarray | None = None) -> tuple[numpy.ndarray, Arrays]:
        return self._kept(values["x"]), {} if dy is None else {"x": self._kept(dy)}

    def expected(self, values: Arrays, dy: numpy.ndarray | None = None) -> dict[str, Expected]:
        dtype = values["x"].dtype.name
        y, gradients = self.run(_wide(values), None if dy is None else dy.astype("float64"))
        return {name: Expected(r, limits.ulps(r, dtype, 2)) for name, r in {"y": y, **gradients}.items()}

    def _kept(self, array: numpy.ndarray) -> numpy.ndarray:
        return numpy.where(self.mask, array / numpy.asarray(1.0 - self.p, array.dtype), numpy.asarray(0, array.dtype))


def _wide(values: Arrays) -> Arrays:
    return {name: array.astype("float64") for name, array in values.items()}


def _exact(array: numpy.ndarray) -> Expected:
    r = array.astype("float64")
    return Expected(r, limits.exact(r))


# -- losses ------------------------------------------------------------------------------------------------------------


@dataclass
class LossTwin(_Turning):
    """A loss of ours, times ``factor``. Values are ``x``, the network's output, and ``t``."""

    op: str
    options: dict[str, Any] = field(default_factory=dict)
    factor: float = 1.0

    def run(self, values: Arrays, dy: numpy.ndarray | None = None) -> tuple[numpy.ndarray, Arrays]:
        with use_backend("numpy"), numpy.errstate(all="ignore"):
            x, t = (asarray(values[name]) for name in ("x", "t"))
            loss, pullback = getattr(losses, self.op)(x, t, **self.options)
            y = to_numpy(loss) * numpy.asarray(self.factor, x.dtype)
            return y, {} if dy is None else {"x": to_numpy(pullback(float(dy) * self.factor))}

    def expected(self, values: Arrays, dy: numpy.ndarray | None = None) -> dict[str, Expected]:
        x, t = values["x"], values["t"]
        case = Case(self.op, 0, 0, x.dtype.name, "a loss", {"y": x, "t": t}, self.options)
        found = expected(case, by_references())
        times = self.factor * (1.0 if dy is None else float(dy))
        truth = {"y": _times(found["loss"], self.factor)}
        return truth | ({} if dy is None else {"x": _times(found["dy"], times)})


def _times(truth: Expected, factor: float) -> Expected:
    """The truth and its limit, both times ``factor``."""
    if truth.value is None or truth.limit is None:
        return truth
    limit = replace(truth.limit, scale=truth.limit.scale * abs(factor), size=truth.limit.size * abs(factor))
    return Expected(truth.value * factor, limit)
