"""The witnesses for and against a pullback, and the report of what they say.

    loops     plain loops in float64, forward and every gradient; float32 within τ of them
    slopes    two dot products where the op is linear, central differences elsewhere (dn.check)
    parity    the same numbers on every backend that runs here, within 2 τ
    pytorch   numbers that PyTorch computed once, stored beside this file

These are the witnesses of docs/numerics.md. Two more look at what gradients alone do not show: ``forward`` (is y right
at all?) and ``manners`` (are inputs left alone, may forward run twice, does float32 stay float32?). And ``all ones`` is
a bad witness, kept to show how bad it is: the check that many people write first.
"""

from __future__ import annotations

import functools
import inspect
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy

from .. import check
from ..parity.cases.limits import tau
from ..shim import asarray, available_backends, to_numpy, use_backend
from .exercise import Case, Exercise, hung, line_of, words_of

WITNESSES = ("loops", "slopes", "parity", "pytorch")
JUDGES = ("forward", *WITNESSES, "manners")
TERMS = 1024
"""K of τ: more terms than any sum of the zoo has."""
SEEDS = (0, 1)
LOOPS = "the loops say"


@dataclass(frozen=True)
class Trial:
    """One comparison: which witness made it, and what it found wrong; nothing if all is well."""

    witness: str
    found: str = ""
    error: float = 0.0
    what: str = ""  # the gradient that was compared

    @property
    def ok(self) -> bool:
        """Is nothing wrong?"""
        return not self.found


@dataclass
class Report:
    """What the witnesses say about an op; true if none of them found anything."""

    exercise: str
    trials: list[Trial] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Did every witness speak, and none find anything?"""
        return {trial.witness for trial in self.trials} == set(JUDGES) and not self.caught_by

    @property
    def caught_by(self) -> tuple[str, ...]:
        """The witnesses that found something."""
        wrong = {trial.witness for trial in self.trials if not trial.ok}
        return tuple(judge for judge in JUDGES if judge in wrong)

    @property
    def worst(self) -> float:
        """The largest error that was found, relative to the size of the right result."""
        return max((trial.error for trial in self.trials if not trial.ok), default=0.0)

    def __bool__(self) -> bool:
        return self.passed

    def __str__(self) -> str:
        lines = [f"{self.exercise}: {'PASSED' if self.passed else 'WRONG'}"]
        shown: set[str] = set()
        for judge in JUDGES:
            trials = [trial for trial in self.trials if trial.witness == judge]
            wrong = [trial for trial in trials if not trial.ok]
            lines.append(f"  {judge:<8}  {'wrong' if wrong else 'ok':<6}  {tally(trials, wrong)}")
            for first in wrong[:1]:
                lines[-1] += ", the same" * (first.found in shown)
                lines += [] if first.found in shown else [f"{'':20}{hung(first.found, 20)}"]
                shown.add(first.found)
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        from ..markup import escape
        from .highlighting import monospaced

        return monospaced(escape(str(self)))


def tally(trials: list[Trial], wrong: list[Trial]) -> str:
    """How many comparisons failed, for which gradients, and which gradients are right."""
    if not wrong:
        return f"{len(trials)} comparisons agree"
    bad, all_of_them = ({trial.what: None for trial in some if trial.what} for some in (wrong, trials))
    good = [what for what in all_of_them if what not in bad]
    names = f": {' and '.join(bad)}" if bad else ""
    return f"{len(wrong)} of {len(trials)}{names}" + (
        f"; {' and '.join(good)} agree{'s' * (len(good) == 1)}" * bool(good)
    )


def examine(exercise: Exercise, op: Callable[..., Any]) -> Report:
    """Hear every witness."""
    report = Report(exercise.name)
    with numpy.errstate(all="ignore"):
        for judge, hear in zip(JUDGES, (forward, by_loops, slopes, parity, pytorch, manners)):
            report.trials += heard(judge, hear, exercise, op)
    return report


def heard(judge: str, hear: Callable[..., Iterator[Trial]], exercise: Exercise, op: Callable[..., Any]) -> list[Trial]:
    """What one witness says. An exception is a finding too."""
    trials = []
    try:
        for trial in hear(exercise, op):
            trials.append(trial)
    except KeyboardInterrupt:  # the user's own
        raise
    except BaseException as error:  # SystemExit too: the code is a learner's, and may raise anything
        trials.append(Trial(judge, f"{type(error).__name__}{line_of(error, file_of(op))}: {words_of(error)}", math.inf))
    return trials


def file_of(op: Callable[..., Any]) -> str | None:
    """The learner's own file."""
    return getattr(getattr(op, "__code__", None), "co_filename", None)


# -- the witnesses -----------------------------------------------------------------------------------------------------


def forward(exercise: Exercise, op: Callable[..., Any]) -> Iterator[Trial]:
    """Is y what the loops say?"""
    for case in drawn(exercise):
        for dtype in ("float64", "float32"):
            given = rounded(case, dtype)
            y = exercise.truth(*given.arrays, **given.options)[0]
            got = run(op, given, dtype)[0]
            yield compared("forward", "y", got, y, tau(dtype, TERMS), shapes(exercise, case), "", LOOPS)


def by_loops(exercise: Exercise, op: Callable[..., Any]) -> Iterator[Trial]:
    """Is every gradient what the loops say?"""
    for case, dy in with_deltas(exercise):
        for dtype in ("float64", "float32"):
            given, delta = rounded(case, dtype), dy.astype(dtype).astype("float64")
            expected = exercise.truth(*given.arrays, **given.options)[1](delta)
            yield from each(
                "loops", exercise, run(op, given, dtype)[1](delta), expected, tau(dtype, TERMS), given, LOOPS
            )


def slopes(exercise: Exercise, op: Callable[..., Any]) -> Iterator[Trial]:
    """Is the pullback the transpose of the derivative?"""
    for seed, case in enumerate(drawn(exercise)):
        arrays = [asarray(a) for a in case.arrays]
        for i in (i for i, a in enumerate(case.arrays) if a.dtype.kind == "f"):
            prove, d = (check.adjoint if i in exercise.linear else check.gradient), names(exercise)[i]
            try:
                rows = prove(op, *arrays, wrt=[i], seed=seed, raises=False, **case.options).rows
            except check.NoGradient:
                yield Trial("slopes", f"no {d} came back", math.inf, d)
                continue
            for row in rows:
                where = f"{shapes(exercise, case)}: along a random direction"
                found = f"{where}, {d} says {row.analytic:+.3g}, but the slope of y is {row.numeric:+.3g}"
                error = math.inf if math.isnan(row.error) else row.error
                yield Trial("slopes", "" if row.ok else found, error, d)


def parity(exercise: Exercise, op: Callable[..., Any]) -> Iterator[Trial]:
    """Do NumPy, a GPU and the pretend one compute the same? With more libraries, the result would depend on luck."""
    first, *others = [name for name in available_backends() if name in ("numpy", "cupy", "strict")]
    for case, dy in with_deltas(exercise):
        here = on(first, op, case, dy)
        for other in others:
            there = on(other, op, case, dy)
            for what, a, b in zip(["y", *names(exercise)], here, there):
                limit = 2 * tau("float32", TERMS)
                yield compared("parity", what, b, a, limit, shapes(exercise, case), f"on {other}", f"{first} says")


def on(backend: str, op: Callable[..., Any], case: Case, dy: numpy.ndarray) -> list[numpy.ndarray]:
    """y and all gradients in float32, computed by one backend."""
    with use_backend(backend):
        y, pull = run(op, case, "float32")
        return [y, *pull(dy)]


def pytorch(exercise: Exercise, op: Callable[..., Any]) -> Iterator[Trial]:
    """Are the gradients those that PyTorch computed?"""
    case, dy, _, expected = stored(exercise.name)
    for dtype in ("float64", "float32"):  # the inputs are float32 numbers
        gradients = run(op, case, dtype)[1](dy)
        yield from each("pytorch", exercise, gradients, expected, tau(dtype, TERMS), case, "PyTorch says")


def manners(exercise: Exercise, op: Callable[..., Any]) -> Iterator[Trial]:
    """Does it leave its inputs alone, keep float32, and still work after a second call and another forward pass?"""
    for case, dy in with_deltas(exercise):
        given = [asarray(a.astype("float32") if a.dtype.kind == "f" else a.copy()) for a in case.arrays]
        before = [to_numpy(a).copy() for a in given]
        y, pullback = op(*given, **case.options)
        delta = asarray(dy.astype("float32"))
        first = as_tuple(pullback(delta))
        kept = [to_numpy(g).copy() for g in first]
        for name, a, b in zip([*arguments(exercise), "dy"], [*given, delta], [*before, dy.astype("float32")]):
            changed = not numpy.array_equal(to_numpy(a), b)
            yield Trial(
                "manners", f"{shapes(exercise, case)}: {name}, which belongs to the caller, was changed" * changed
            )
        for name, a in zip(["y", *names(exercise)], [y, *first]):
            wrong = a.dtype.name != "float32"
            yield Trial("manners", f"{shapes(exercise, case)}: {name} is {a.dtype} for float32 inputs" * wrong)
        again = as_tuple(pullback(asarray(dy.astype("float32"))))
        yield same("a second call of the pullback gives a different", exercise, case, kept, again)
        op(*(asarray(a.astype("float32")[::-1] * 3 if a.dtype.kind == "f" else a) for a in case.arrays), **case.options)
        later = as_tuple(pullback(asarray(dy.astype("float32"))))
        yield same("after another forward pass, the first pullback gives a different", exercise, case, kept, later)


def all_ones(exercise: Exercise, op: Callable[..., Any]) -> bool:
    """A bad check: dy = 1 everywhere, every element moved by the same h. Does it see the mistake? (One case.)"""
    case = drawn(exercise)[0]
    h = 1e-6
    with numpy.errstate(all="ignore"):
        y, pull = run(op, case, "float64")
        gradients = pull(numpy.ones_like(y))
        for i, gradient in enumerate(gradients):
            up, down = (
                Case((*case.arrays[:i], case.arrays[i] + step, *case.arrays[i + 1 :]), case.options) for step in (h, -h)
            )
            slope = float(numpy.sum(run(op, up, "float64")[0]) - numpy.sum(run(op, down, "float64")[0])) / (2 * h)
            if not abs(slope - float(numpy.sum(gradient))) <= 1e-6 * (1 + float(numpy.sum(numpy.abs(gradient)))):
                return True
    return False


# -- how they are heard ------------------------------------------------------------------------------------------------


def drawn(exercise: Exercise) -> list[Case]:
    """The cases of every seed."""
    return [case for seed in SEEDS for case in exercise.cases(numpy.random.default_rng(seed))]


def with_deltas(exercise: Exercise) -> Iterator[tuple[Case, numpy.ndarray]]:
    """Every case with a random dy."""
    for seed, case in enumerate(drawn(exercise)):
        shape = numpy.shape(exercise.truth(*case.arrays, **case.options)[0])
        yield case, numpy.asarray(numpy.random.default_rng(100 + seed).standard_normal(shape))


def rounded(case: Case, dtype: str) -> Case:
    """The case with its numbers rounded to this dtype, as an op sees it."""
    return Case(
        tuple(a.astype(dtype).astype("float64") if a.dtype.kind == "f" else a for a in case.arrays), case.options
    )


def run(op: Callable[..., Any], case: Case, dtype: str) -> tuple[numpy.ndarray, Callable[[numpy.ndarray], list]]:
    """y, and a function from dy to the gradients. All arrays are on the host, and nothing else refers to them."""
    arrays = (asarray(a.astype(dtype) if a.dtype.kind == "f" else a.copy()) for a in case.arrays)
    y, pullback = op(*arrays, **case.options)

    def pull(dy: numpy.ndarray) -> list[numpy.ndarray]:
        return [to_numpy(gradient) for gradient in as_tuple(pullback(asarray(dy.astype(dtype))))]

    return to_numpy(y), pull


def as_tuple(gradients: Any) -> tuple:
    """The gradients as a tuple, also if there is only one."""
    return gradients if isinstance(gradients, tuple) else (gradients,)


def arguments(exercise: Exercise) -> list[str]:
    """The names of an op's arrays."""
    parameters = inspect.signature(exercise.op).parameters.values()
    return [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]


def names(exercise: Exercise) -> list[str]:
    """The names of an op's gradients."""
    return [f"d{name}" for name in arguments(exercise)]


def shapes(exercise: Exercise, case: Case) -> str:
    """The arguments of a call, as text: shapes and options."""
    arrays = [f"{name} {a.shape}" for name, a in zip(arguments(exercise), case.arrays)]
    return ", ".join([*arrays, *(f"{key}={value}" for key, value in case.options.items())])


def each(
    witness: str, exercise: Exercise, gradients: list, expected: tuple, limit: float, case: Case, they: str
) -> Iterator[Trial]:
    """One comparison for every gradient."""
    if len(gradients) != len(expected):
        several = "1 gradient" if len(gradients) == 1 else f"{len(gradients)} gradients"
        yield Trial(witness, f"{several} came back, expected {len(expected)}", math.inf)
    for name, gradient, right in zip(names(exercise), gradients, expected):
        yield compared(witness, name, gradient, right, limit, shapes(exercise, case), "", they)


def compared(
    witness: str, name: str, got: numpy.ndarray, expected: Any, limit: float, where: str, on: str, they: str
) -> Trial:
    """How far apart two arrays are, with the worst element and what the wrong ones have in common."""
    got, expected = numpy.asarray(got, "float64"), numpy.asarray(expected, "float64")
    if got.shape != expected.shape:
        return Trial(witness, f"{where}: {name} has shape {got.shape}; expected {expected.shape}", math.inf, name)
    gap = numpy.abs(got - expected)
    gap = numpy.where(numpy.isnan(got) != numpy.isnan(expected), math.inf, numpy.where(numpy.isnan(got), 0.0, gap))
    size = float(numpy.linalg.norm(expected[numpy.isfinite(expected)]))
    error = float(numpy.linalg.norm(gap)) / (size or 1.0)
    if error <= limit:
        return Trial(witness, what=name)
    at = numpy.unravel_index(int(numpy.argmax(gap)), gap.shape)
    entry = f"{name}[{', '.join(map(str, at))}]" if at else name
    entry += f" is {got[at]:+.3g}{' ' * bool(on)}{on}, {they} {expected[at]:+.3g}"
    return Trial(witness, f"{where}: {entry}.{pattern(name, got, expected, gap)}", error, name)


def pattern(name: str, got: numpy.ndarray, expected: numpy.ndarray, gap: numpy.ndarray) -> str:
    """What the wrong entries have in common: a constant factor if there is one, else how many they are."""
    if got.size == 1:
        return ""
    factor = float(numpy.vdot(got, expected) / (numpy.vdot(expected, expected) or 1.0))
    if abs(factor) > 1e-9 and abs(factor - 1) > 1e-3 and numpy.allclose(got, factor * expected, rtol=1e-5, atol=1e-9):
        return f" All of {name} is {factor:.3g} times what is right."
    wrong = int(numpy.count_nonzero(gap > 1e-5 * (numpy.abs(expected) + 1e-3)))
    return f" {wrong} of {got.size} entries of {name} are wrong."


def same(what: str, exercise: Exercise, case: Case, kept: list[numpy.ndarray], later: tuple) -> Trial:
    """Two results that must be equal to the bit."""
    for name, a, b in zip(names(exercise), kept, later):
        if not numpy.array_equal(a, to_numpy(b), equal_nan=True):
            return Trial("manners", f"{shapes(exercise, case)}: {what} {name}", math.inf)
    return Trial("manners")


# -- what PyTorch computed ---------------------------------------------------------------------------------------------

FILE = Path(__file__).with_name("pytorch.npz")


@functools.cache
def _stored() -> dict[str, numpy.ndarray]:
    with numpy.load(FILE, allow_pickle=False) as archive:
        return dict(archive)


def stored(name: str) -> tuple[Case, numpy.ndarray, numpy.ndarray, tuple[numpy.ndarray, ...]]:
    """A stored case: what the op is called with, dy, y and the gradients."""
    file = _stored()
    entry = json.loads(str(file["index"]))[name]
    options = {key: tuple(value) if isinstance(value, list) else value for key, value in entry["options"].items()}
    arrays = tuple(file[f"{name}.input{i}"] for i in range(entry["inputs"]))
    wide = tuple(a.astype("float64") if a.dtype.kind == "f" else a for a in arrays)
    gradients = tuple(file[f"{name}.gradient{i}"] for i in range(entry["gradients"]))
    return Case(wide, options), file[f"{name}.dy"].astype("float64"), file[f"{name}.y"], gradients
