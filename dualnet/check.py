"""Proofs that you can run on any op, layer or network: is this pullback the transpose of the derivative?

    gradient   ⟨v, dx⟩ = d/dh ⟨f(x + h·v), g⟩ at h = 0, by central differences along random directions v
    adjoint    ⟨A v, g⟩ = ⟨v, Aᵀ g⟩ exactly, without any step, where f is linear in an argument

Both use a random g (a gradient of all ones hides bugs) and float64. The limits (docs/numerics.md) are 1e-7 and 1e-13,
relative to the norms of the two vectors in the product. A difference may also be off by its own rounding.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy

from . import markup
from .arguments import integer
from .layers.containers import forward_of
from .layers.layer import Layer
from .layers.several import each, parts
from .shim import asarray, backend_of, to_numpy
from .shim.dtypes import is_floating

DIFFERENCE = 1e-7
ADJOINT = 1e-13
STEP, SHORTEST = 1e-6, 1e-9
REDRAWS = 20

__all__ = ["ADJOINT", "CheckError", "Comparison", "DIFFERENCE", "Report", "adjoint", "gradient"]


class CheckError(AssertionError):
    """A gradient is wrong. The message is the report."""


@dataclass(frozen=True)
class Comparison:
    """One direction in one argument: both sides of the identity, and their distance relative to the norms.

    ``limit`` is the allowed distance: that of the method, and for differences also their own rounding.
    """

    argument: str
    analytic: float
    numeric: float
    error: float
    limit: float

    @property
    def ok(self) -> bool:
        return self.error <= self.limit

    @property
    def _share(self) -> float:
        """Which share of the limit was used; NaN counts as more than all of it."""
        return math.inf if math.isnan(self.error) else self.error / self.limit


HEADINGS = ("error", "allowed")


@dataclass
class Report:
    """The comparisons. A report is true if everything agreed, and nothing is in ``manners``: what the pullback changes
    that belongs to its caller, or does differently in a second call."""

    subject: str
    method: str
    rows: list[Comparison] = field(default_factory=list)
    manners: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return bool(self.rows) and all(row.ok for row in self.rows) and not self.manners

    @property
    def worst(self) -> float:
        """The error that comes closest to its limit, or goes furthest beyond it."""
        return self._worst.error if self.rows else math.nan

    @property
    def _worst(self) -> Comparison:
        return max(self.rows, key=lambda row: row._share)

    def __bool__(self) -> bool:
        return self.ok

    def line(self) -> str:
        """The verdict in one line: the worst error, and its limit.

        >>> Report("Dense", "difference", [Comparison("x", 1.0, 1.0 + 3e-10, 3e-10, 1e-7)]).line()
        'ok     worst error 3.0e-10, allowed 1.0e-07'
        """
        if not self.rows:
            return "WRONG  nothing was compared"
        if self.manners:
            return f"WRONG  {'; '.join(self.manners)}"
        return f"{'ok' if self.ok else 'WRONG':<6} worst error {self.worst:.1e}, allowed {self._worst.limit:.1e}"

    def __str__(self) -> str:
        table = [("argument", "pullback", self.method, *HEADINGS), *map(_cells, self.rows)]
        widths = [max(map(len, column)) for column in zip(*table)]
        marks = ["", *("" if row.ok else "   <-- wrong" for row in self.rows)]
        lines = [
            "  " + "  ".join([cells[0].ljust(widths[0]), *map(str.rjust, cells[1:], widths[1:])]) + mark
            for cells, mark in zip(table, marks)
        ]
        verdict = "DISAGREES" if not all(row.ok for row in self.rows) else "agrees, BUT" if self.manners else "agrees"
        told = [f"  {fault}   <-- wrong" for fault in self.manners]
        return "\n".join([f"{self.subject}: {self.method}, {verdict}", *lines, *told])

    def _repr_html_(self) -> str:
        rows = [[*_cells(row), "" if row.ok else "✗"] for row in self.rows]
        head = f"{markup.badge('PASS' if self.ok else 'FAIL')} <b>{markup.escape(self.subject)}</b>"
        table = markup.table("", ("argument", "pullback", self.method, *HEADINGS, ""), rows)
        told = "".join(f"<div>✗ {markup.escape(fault)}</div>" for fault in self.manners)
        return f"<div>{head}</div>{table}{told}"


def _cells(row: Comparison) -> tuple[str, ...]:
    return row.argument, f"{row.analytic:+.9e}", f"{row.numeric:+.9e}", f"{row.error:.1e}", f"{row.limit:.1e}"


def gradient(
    f: Layer | Callable[..., Any],
    *arrays: Any,
    wrt: Sequence[int] | None = None,
    directions: int = 2,
    seed: int = 0,
    train: bool = True,
    raises: bool = True,
    **options: Any,
) -> Report:
    """Compare a pullback with central differences, for every array argument and every parameter.

    ``f`` is a layer or network, or any function that returns ``(y, pullback)`` like the ops; a function gets the
    ``options``. For a layer, ``arrays`` is one batch x; without it the check draws two random inputs. A layer that is
    not in float64 is checked as a float64 copy. ``wrt`` picks arguments by position. If a direction crosses a kink
    (ReLU at 0, two equal maxima), the check moves to another point, with a shorter step.

    It also looks whether the pass leaves its inputs and ``dy`` as they were, and whether a second call of the pullback
    returns the same: a pullback that writes into ``dy`` is right by itself, but spoils the gradients of other layers.
    Raises :class:`CheckError` with the report unless ``raises=False``.

    >>> import dualnet as dn
    >>> net = dn.Sequential([dn.Conv2D(2, 3), dn.Tanh(), dn.Flatten(), dn.Dense(3)]).init((5, 5, 1))
    >>> report = dn.check.gradient(net)
    >>> report.ok, sorted({row.argument for row in report.rows})
    (True, ['0.b', '0.w', '3.b', '3.w', 'x'])
    """
    return _compared("difference", _difference, _problem(f, arrays, train, options, wrt), directions, seed, raises)


def adjoint(
    f: Layer | Callable[..., Any],
    *arrays: Any,
    wrt: Sequence[int] | None = None,
    directions: int = 2,
    seed: int = 0,
    raises: bool = True,
    **options: Any,
) -> Report:
    """Prove with two dot products that a pullback is the transpose of a map that is linear in an argument.

    The arguments of a layer are its input and its parameters; ``wrt`` picks those of a function by position. The check
    varies one argument at a time, with the others fixed: A v = f(v) − f(0). If an op is not linear in that argument,
    the check fails, as it should.

    >>> import dualnet as dn
    >>> x, w = dn.asarray([[[[1.0], [2.0], [4.0]]]], "float64"), dn.asarray([[[[10.0]], [[1.0]]]], "float64")
    >>> bool(dn.check.adjoint(dn.ops.conv2d, x, w, padding="full"))
    True
    """
    return _compared("adjoint", _two_products, _problem(f, arrays, False, options, wrt), directions, seed, raises)


@dataclass
class Problem:
    """A function of named float64 host arrays: ``run(values) -> y, gradients(dy) by name``.

    With ``along`` each direction is half random and half the gradient itself, so the slope along it is steep. Along a
    purely random direction in a million dimensions it is a thousand times smaller, and a small error would be missed.
    """

    name: str
    values: dict[str, numpy.ndarray]
    arguments: list[str]
    run: Callable[[dict[str, numpy.ndarray]], tuple[numpy.ndarray, Callable[[numpy.ndarray], dict[str, numpy.ndarray]]]]
    along: bool = False
    changed: dict[str, None] = field(default_factory=dict)
    """What a pass has changed that belongs to its caller."""


def slopes(problem: Problem, directions: int = 2, seed: int = 0) -> Report:
    """:func:`gradient`, for a function that is already a :class:`Problem`; it raises nothing."""
    return _compared("difference", _difference, problem, directions, seed, False, twice=False)


def _compared(
    method: str,
    compare: Callable[..., Comparison],
    problem: Problem,
    directions: int,
    seed: int,
    raises: bool,
    twice: bool = True,
) -> Report:
    """Each argument along several random directions; with ``twice`` the pullback is also called twice."""
    directions = integer(directions, "directions", op="check")
    rng = numpy.random.default_rng(integer(seed, "seed", op="check", least=0))
    for argument in problem.arguments:
        if problem.values[argument].size == 0:
            shape = problem.values[argument].shape
            raise ValueError(f"check: {argument} has shape {shape}; it has no elements, so there is nothing to compare")
    rows = [compare(problem, argument, rng) for argument in problem.arguments for _ in range(directions)]
    again = _in_a_second_call(problem, rng) if twice else []
    report = Report(problem.name, method, rows, [*problem.changed, *again])
    if raises and not report.ok:
        raise CheckError(str(report))
    return report


def _in_a_second_call(problem: Problem, rng: numpy.random.Generator) -> list[str]:
    """What goes wrong if the pullback is called twice with the same dy: an error, or gradients that differ."""
    y, pull = problem.run(problem.values)
    g = rng.standard_normal(y.shape)
    first = pull(g)
    try:
        second = pull(g)
    except Exception as error:  # whatever the pullback raises, such as for what it has freed
        return [f"a second call of the pullback raises {type(error).__name__}: {error}"]
    return [
        f"a second call of the pullback returns a different gradient of {name}"
        for name in problem.arguments
        if name not in second or not _alike(first[name], second[name])
    ]


def _alike(first: numpy.ndarray, second: numpy.ndarray) -> bool:
    """Equal but for rounding, which is relative to the largest element: the order of a sum may differ."""
    largest = float(numpy.abs(first[numpy.isfinite(first)]).max(initial=0.0))
    return numpy.allclose(first, second, rtol=1e-9, atol=1e-9 * largest, equal_nan=True)


def _note_changes(changed: dict[str, None], who: str, now: dict[str, Any], before: dict[str, numpy.ndarray]) -> None:
    """Remember which arrays are no longer what they were."""
    for name, array in now.items():
        if not numpy.array_equal(to_numpy(array), before[name], equal_nan=True):
            changed[f"{who} writes into {name}, which belongs to its caller"] = None


def _difference(problem: Problem, argument: str, rng: numpy.random.Generator) -> Comparison:
    for draw in range(REDRAWS):
        h = max(STEP / 4**draw, SHORTEST)  # a shorter step crosses fewer kinks
        v = rng.standard_normal(problem.values[argument].shape)
        y, pull = problem.run(problem.values)
        g = rng.standard_normal(y.shape)
        gradient = _of(pull(g), argument)
        if problem.along and (size := float(numpy.linalg.norm(gradient))):
            v = v + gradient * (float(numpy.linalg.norm(v)) / size)
        up, down = (_value(problem, argument, sign * h * v, g) for sign in (1, -1))
        here = float(numpy.vdot(y, g))
        numeric = (up - down) / (2 * h)
        norm = float(numpy.linalg.norm(v) * numpy.linalg.norm(gradient))
        analytic = float(numpy.vdot(v, gradient))
        terms = 2 * float(numpy.linalg.norm(y * g))  # they may cancel in the sum, but their rounding errors stay
        rounding = 4e-16 * (abs(up) + abs(down) + terms) / h
        scale, rounding = (norm, rounding / norm) if norm else (1.0, 0.0)
        row = Comparison(argument, analytic, numeric, abs(analytic - numeric) / scale, DIFFERENCE + rounding)
        bend = abs((up - here) - (here - down)) / h  # as large as the error that kinks cause
        if row.ok or bend < min(abs(analytic - numeric) / 100, 1e-4 * max(norm, abs(numeric))):
            return row
        problem.values[argument] = problem.values[argument] + 1e-3 * rng.standard_normal(v.shape)
    return row


class NoGradient(ValueError):
    """A pullback returned nothing for an argument."""


def _of(gradients: dict[str, numpy.ndarray], argument: str) -> numpy.ndarray:
    if argument not in gradients:
        hint = ", or choose the arguments that have one with wrt=[0]" if argument.startswith("argument") else ""
        raise NoGradient(
            f"check: the pullback returned no gradient for {argument}, only for {', '.join(gradients) or 'nothing'}. "
            f"Return one{hint}."
        )
    return gradients[argument]


def _value(problem: Problem, argument: str, step: numpy.ndarray, g: numpy.ndarray) -> float:
    moved = {**problem.values, argument: problem.values[argument] + step}
    return float(numpy.vdot(problem.run(moved)[0], g))


def _two_products(problem: Problem, argument: str, rng: numpy.random.Generator) -> Comparison:
    v = rng.standard_normal(problem.values[argument].shape)
    zero = problem.run({**problem.values, argument: numpy.zeros_like(v)})[0]
    moved = problem.run({**problem.values, argument: v})[0] - zero
    g = rng.standard_normal(moved.shape)
    transposed = _of(problem.run(problem.values)[1](g), argument)
    forward, backward = float(numpy.vdot(moved, g)), float(numpy.vdot(v, transposed))
    norm = float(numpy.linalg.norm(moved) * numpy.linalg.norm(g) + numpy.linalg.norm(v) * numpy.linalg.norm(transposed))
    return Comparison(argument, backward, forward, abs(forward - backward) / norm if norm else 0.0, ADJOINT)


def _problem(
    f: Layer | Callable[..., Any], arrays: tuple, train: bool, options: dict[str, Any], wrt: Sequence[int] | None
) -> Problem:
    if isinstance(f, Layer):
        return _of_layer(f, arrays, train)
    if not callable(f):
        raise TypeError(f"check: got {f!r}; expected a layer, or a function that returns (y, pullback)")
    names = [f"argument {i}" for i in range(len(arrays))]
    given = {
        name: to_numpy(a).astype(numpy.float64) for name, a in zip(names, arrays) if a is not None and _floating(a)
    }

    changed: dict[str, None] = {}

    def run(values: dict[str, numpy.ndarray]) -> tuple[numpy.ndarray, Callable]:
        mine = {name: asarray(values[name].copy()) for name in names if name in values}
        y, pullback = _y_and_pullback(f(*(mine.get(name, a) for name, a in zip(names, arrays)), **options))
        _note_changes(changed, "the forward pass", mine, values)

        def pull(g: numpy.ndarray) -> dict[str, numpy.ndarray]:
            dy = asarray(g.astype(y.dtype.name))
            before = {"dy": to_numpy(dy).copy()} | {name: to_numpy(a).copy() for name, a in mine.items()}
            result = pullback(dy)
            result = result if isinstance(result, tuple) else (result,)
            found = {name: to_numpy(d).copy() for name, d in zip(names, result) if d is not None}
            _note_changes(changed, "the pullback", {"dy": dy, **mine}, before)
            return _of_their_shapes(found, values)

        return to_numpy(y), pull

    return Problem(getattr(f, "__name__", str(f)), given, _chosen(names, given, arrays, wrt), run, changed=changed)


def _of_their_shapes(gradients: dict[str, numpy.ndarray], values: dict[str, numpy.ndarray]) -> dict[str, numpy.ndarray]:
    """The gradients; ``ValueError`` if the shape of one differs from its argument's."""
    for name, gradient in gradients.items():
        if name in values and gradient.shape != values[name].shape:
            raise ValueError(
                f"check: the pullback returned a gradient of {name} of shape {gradient.shape}; expected "
                f"{values[name].shape}, the shape of {name}"
            )
    return gradients


def _chosen(names: list[str], given: dict[str, numpy.ndarray], arrays: tuple, wrt: Sequence[int] | None) -> list[str]:
    """The arguments to differentiate with respect to: floating arrays, those in ``wrt`` if it is given."""
    if any(not -len(arrays) <= i < len(arrays) for i in wrt or ()):
        raise ValueError(f"check: wrt={list(wrt or ())}, but there are {len(arrays)} arrays; they are counted from 0")
    chosen = [names[i] for i in (range(len(arrays)) if wrt is None else wrt) if names[i] in given]
    if not chosen:
        kinds = ", ".join(str(getattr(a, "dtype", type(a).__name__)) for a in arrays) or "nothing"
        raise ValueError(f"check: got {kinds}; expected an array of floating dtype, to differentiate with respect to")
    return chosen


def _y_and_pullback(result: Any) -> tuple[Any, Callable[..., Any]]:
    """The result of the function, checked to be ``(y, pullback)``."""
    if not (isinstance(result, tuple) and len(result) == 2 and callable(result[1])):
        raise TypeError(f"check: the function returned a {type(result).__name__}; expected a pair (y, pullback)")
    return result


def _floating(array: Any) -> bool:
    return backend_of(array) is not None and is_floating(array.dtype)


def _of_layer(layer: Layer, arrays: tuple, train: bool) -> Problem:
    if layer.input_shape is None:
        raise ValueError("check: the layer has no parameters yet; call init(input_shape) first")
    if len(arrays) > 1:
        raise ValueError(f"check: a layer takes one batch x, got {len(arrays)} arrays")
    layer = _in_float64(layer)
    rng = numpy.random.default_rng(1)
    shapes = layer.input_shape if not _is_list_of_shapes(layer.input_shape) else list(layer.input_shape)  # type: ignore[arg-type]
    x = each(to_numpy, arrays[0]) if arrays else each(lambda shape: rng.standard_normal((2, *shape)), shapes)
    parameters = layer.parameters()
    inputs = {name: a.astype(numpy.float64) for name, a in parts(x)}  # "x", or with several inputs "x['image']"
    values = {**inputs, **{name: to_numpy(p.value) for name, p in parameters.items()}}

    changed: dict[str, None] = {}

    def run(values: dict[str, numpy.ndarray]) -> tuple[numpy.ndarray, Callable]:
        mine = {name: asarray(value.copy()) for name, value in values.items()}
        with _undisturbed(layer):
            for name, parameter in parameters.items():
                parameter.value = mine[name]
            given = iter([mine[name] for name in inputs])
            y, pullback = forward_of(layer, layer.enter(each(lambda a: next(given), x)), train, need_dx=True)
        outputs = [to_numpy(a) for _, a in parts(y)]
        _note_changes(changed, "the forward pass", mine, values)

        def pull(g: numpy.ndarray) -> dict[str, numpy.ndarray]:
            dy = _apart(g.copy(), y, outputs)
            deltas = {"dy": dy} if len(outputs) == 1 else dict(parts(dy, "dy"))
            before = {name: to_numpy(a).copy() for name, a in (mine | deltas).items()}
            dx, gradients = pullback(dy)
            found = {name: to_numpy(d).copy() for name, d in (*parts(dx), *gradients.items())}
            _note_changes(changed, "the pullback", mine | deltas, before)
            return _of_their_shapes(found, values)

        return numpy.concatenate([a.ravel() for a in outputs]) if len(outputs) > 1 else outputs[0], pull

    return Problem(type(layer).__name__, values, list(values), run, changed=changed)


def _is_list_of_shapes(shape: Any) -> bool:
    """Is it the input shape of a layer such as Add, which takes a list of arrays?"""
    return isinstance(shape, tuple) and bool(shape) and isinstance(shape[0], tuple)


def _apart(g: numpy.ndarray, y: Any, outputs: list[numpy.ndarray]) -> Any:
    """g as the gradient of y. Several outputs were joined in one row, so g is cut into a part for each."""
    if len(outputs) == 1:
        return asarray(g)
    ends = numpy.cumsum([a.size for a in outputs])
    cut = iter([asarray(part.reshape(a.shape)) for part, a in zip(numpy.split(g, ends[:-1]), outputs)])
    return each(lambda a: next(cut), y)


def _in_float64(layer: Layer) -> Layer:
    layer = layer.copy()
    for _, part in layer.walk():
        part.dtype = numpy.dtype("float64")
        for name in part.state_names:
            state = getattr(part, name)
            if backend_of(state) is not None and is_floating(state.dtype):
                setattr(part, name, state.astype("float64"))
    for parameter in layer.parameters().values():
        parameter.value = asarray(to_numpy(parameter.value), "float64")
    return layer


@contextmanager
def _undisturbed(layer: Layer) -> Iterator[None]:
    """Restore what a forward pass in training changes: running statistics, the dropout counter."""
    before = [(part, name, getattr(part, name)) for _, part in layer.walk() for name in part.state_names]
    yield
    for part, name, value in before:
        setattr(part, name, value)
