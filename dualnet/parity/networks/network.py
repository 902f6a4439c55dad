"""A whole network on several backends: outputs, loss, gradients and answers against float64, then layer by layer.

The lengths of its sums do not say how far apart a network's results may be: it magnifies errors as it magnifies any
change. So its own envelope is the measure. In five copies every weight is moved by one unit in the last place, up or
down; a backend may be ten times as far from the truth as the worst of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy

from ...check import CheckError, _in_float64
from ...layers.layer import Layer
from ...ops import losses
from ...ops.sums import narrow, wide
from ...shim import asarray, to_numpy
from ..cases import limits
from ..judging.ways import Way
from .lockstep import Twin, examples_of, twin
from .tape import Tape

__all__ = ["NetworkParity", "Verdict", "envelope_of", "moved", "parity"]

RUNS = 5
"""How many copies have moved weights."""
ROOM = 10.0
"""A backend may be this many times as far from the truth as the worst copy."""


@dataclass(frozen=True)
class Verdict:
    """One result on one backend: ‖X − R‖ / ‖R‖, and the most that it may be."""

    result: str
    way: str
    error: float
    limit: float
    mismatch: str = ""
    note: str = ""

    @property
    def ok(self) -> bool:
        """Is it near enough to float64, or has a note left it to the lock-step?"""
        return not self.mismatch and (bool(self.note) or self.error <= self.limit)

    @property
    def ratio(self) -> float:
        """The error in units of the limit."""
        return self.error / self.limit if self.limit else 0.0


@dataclass
class NetworkParity:
    """The result of :func:`parity`: true if every backend is near enough to float64, and each layer to its twin."""

    name: str
    dtype: str
    images: int
    rows: list[Verdict] = field(default_factory=list)
    top_1: dict[str, int] = field(default_factory=dict)
    wrong_answers: dict[str, int] = field(default_factory=dict)
    switched: dict[str, int] = field(default_factory=dict)
    twins: list[Twin] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Does every backend agree with float64 in results and answers, and with the first backend in lock-step?"""
        return (
            bool(self.rows)
            and all(r.ok for r in self.rows)
            and all(self.twins)
            and not any(self.wrong_answers.values())
        )

    def __bool__(self) -> bool:
        return self.ok

    @property
    def worst(self) -> Verdict:
        """The result that is furthest from the truth, in units of its limit."""
        return max(self.rows, key=lambda row: numpy.inf if row.mismatch else -1.0 if row.note else row.ratio)

    def __str__(self) -> str:
        lines = [f"{self.name}, {self.dtype}, {self.images} images: {'agrees' if self.ok else 'DISAGREES'}"]
        for row in self.rows:
            distance = f"{row.error:.1e} {'≤' if row.ok else '>'} {row.limit:.1e}"
            text = row.note or (f"different {row.mismatch}" if row.mismatch else distance)
            lines.append(f"  {row.way:<16} {row.result:<20} {text}{'' if row.ok else '   <-- wrong'}")
        lines += [f"  {way:<16} top-1 {n} of {self.images} as in float64" for way, n in self.top_1.items()]
        return "\n".join([*lines, *(f"  {t}" for t in self.twins)])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        from ..certificate.report import network_html

        return network_html(self)


def parity(
    net: Layer,
    x: Any,
    t: Any,
    *,
    backends: Sequence[str | Way] = ("numpy", "strict"),
    loss: str | Callable[..., Any] | None = None,
    seed: int = 0,
    raises: bool = False,
) -> NetworkParity:
    """See :func:`dualnet.parity.parity`, which imports this when it is called."""
    ways = list(dict.fromkeys(Way.parse(name) for name in _names(backends)))
    x, t = examples_of(net, (x, t), "parity")
    function = losses.of(net, loss)
    report = NetworkParity(type(net).__name__, numpy.dtype(net.dtype).name, len(x))
    truth, envelope = envelope_of(net, x, t, function, report.dtype, seed)
    for way in ways:
        _compare(report, way, results(net, way, x, t, function), truth, envelope)
    for other in ways[1:]:
        report.twins.append(twin(net, (x, t), backends=(ways[0], other), steps=1, batch_size=len(x), loss=loss,
                                 seed=seed, raises=False))  # fmt: skip
    if raises and not report.ok:
        raise CheckError(str(report))
    return report


def _names(backends: Any) -> list[Any]:
    if isinstance(backends, (str, Way)) or not len(backends):
        raise ValueError(f"parity: expected names as backends, such as ('numpy', 'strict'), got {backends!r}")
    return list(backends)


@dataclass
class Results:
    """Outputs, loss and gradients by name; which units are on and which taps won; usual sizes of bias gradients."""

    values: dict[str, numpy.ndarray]
    switches: list[numpy.ndarray]
    sizes: dict[str, float]

    def apart(self, other: Results, name: str) -> float:
        """‖X − R‖ / ‖R‖ of another result, with this as R."""
        return distance(other.values[name], self.values[name], self.sizes.get(name, 0.0))


def results(net: Layer, way: Way, x: numpy.ndarray, t: numpy.ndarray, loss: Callable[..., Any]) -> Results:
    """One forward and one backward pass."""
    tape = Tape(net)
    with way.in_force():
        tape.net.to(way.backend)
        y, back = tape.net.forward(asarray(x), train=True)
        value, dloss = loss(wide(y), asarray(t))
        _, gradients = back(narrow(dloss(), y))
        found = {"y": y, "loss": value, **{f"gradient {name}": g for name, g in gradients.items()}}
        switches = [call.switches for call in tape.calls if call.switches is not None]
        return Results({name: numpy.array(to_numpy(a)) for name, a in found.items()}, switches, _sizes(tape))


def _sizes(tape: Tape) -> dict[str, float]:
    """For every bias, the usual size of a sum of that many deltas: Σ|dy| / √K.

    The true gradient of a bias before batch norm is 0, so any computed one is pure rounding.
    """
    sizes = {}
    for call in tape.calls:
        for name in {"b", "beta"} & call.gradients.keys():
            dy = numpy.abs(call.dy.astype(numpy.float64)).reshape(-1, call.dy.shape[-1])
            sizes[f"gradient {call.path}.{name}".replace(" .", " ")] = float(
                numpy.linalg.norm(dy.sum(0)) / numpy.sqrt(max(1, len(dy)))
            )
    return sizes


def envelope_of(
    net: Layer, x: numpy.ndarray, t: numpy.ndarray, loss: Callable[..., Any], dtype: str, seed: int = 0
) -> tuple[Results, dict[str, float]]:
    """The results in float64, and how far 1 ULP of the weights moves each of them: the worst of five runs.

    A run in which a unit switches counts for the outputs but not for the gradients, which jump then. Five runs are
    few, so a gradient's envelope counts as at least the median of all gradients' envelopes.
    """
    reference, wide = Way("numpy"), x.astype(numpy.float64)
    with reference.in_force():
        truth = results(_in_float64(net), reference, wide, t, loss)
        rng = numpy.random.default_rng(numpy.random.SeedSequence([seed, 1]))
        widest = dict.fromkeys(truth.values, limits.tau(dtype, 1))
        for _ in range(RUNS):
            found = results(_in_float64(moved(net, rng)), reference, wide, t, loss)
            jumped = _switched(found.switches, truth.switches)
            for name in truth.values:
                if not (jumped and name.startswith("gradient")):
                    widest[name] = max(widest[name], truth.apart(found, name))
    gradients = [name for name in widest if name.startswith("gradient")]
    usual = float(numpy.median([widest[name] for name in gradients])) if gradients else 0.0
    return truth, widest | {name: max(widest[name], usual) for name in gradients}


def moved(net: Layer, rng: numpy.random.Generator) -> Layer:
    """A copy with every weight one unit in the last place higher or lower, in the dtype that the layers compute in."""
    other = net.copy()
    for parameter in other.parameters().values():
        value = to_numpy(parameter.cast(net.dtype))
        towards = numpy.where(rng.random(value.shape) < 0.5, -numpy.inf, numpy.inf).astype(value.dtype)
        parameter.value = asarray(numpy.nextafter(value, towards).astype(parameter.dtype, copy=False))
    return other


def distance(x: numpy.ndarray, r: numpy.ndarray, least: float = 0.0) -> float:
    """‖X − R‖ / ‖R‖ in float64, with ‖R‖ at least ``least``; infinite if NaN or ∞ are in different places."""
    x, r = x.astype(numpy.float64), r.astype(numpy.float64)
    finite = numpy.isfinite(r)
    if not numpy.array_equal(numpy.isfinite(x), finite):
        return float("inf")
    norm = max(float(numpy.linalg.norm(r[finite])), least)
    return float(numpy.linalg.norm(x[finite] - r[finite])) / (norm or 1.0)


def _switched(one: list[numpy.ndarray], other: list[numpy.ndarray]) -> int:
    if [a.shape for a in one] != [b.shape for b in other]:
        return 1
    return sum(int(numpy.sum(a != b)) for a, b in zip(one, other))


def _compare(report: NetworkParity, way: Way, found: Results, truth: Results, envelope: dict[str, float]) -> None:
    switched = _switched(found.switches, truth.switches)
    report.switched[way.name] = switched
    for name, r in truth.values.items():
        value = found.values.get(name)
        if value is None or value.shape != r.shape:
            report.rows.append(Verdict(name, way.name, float("inf"), 0.0, "shape"))
        elif value.dtype.name not in (report.dtype, report.dtype if name == "y" else limits.adding(report.dtype)):
            report.rows.append(Verdict(name, way.name, float("inf"), 0.0, f"dtype, {value.dtype}"))
        else:
            gap = truth.apart(found, name)
            jumps = switched and name.startswith("gradient") and numpy.isfinite(gap)
            note = f"{switched} units switched, distance {gap:.1e}" if jumps else ""
            report.rows.append(Verdict(name, way.name, gap, ROOM * envelope[name], note=note))
    y, r = found.values["y"], truth.values["y"]
    if y.ndim == 2 and y.shape == r.shape and y.shape[1] > 1:
        _answers(report, way, y, r)


def _answers(report: NetworkParity, way: Way, y: numpy.ndarray, r: numpy.ndarray) -> None:
    """Top-1. A different answer is wrong, unless the two best are as near to each other as the outputs are to the
    truth."""
    same = numpy.argmax(y, 1) == numpy.argmax(r, 1)
    best = numpy.sort(r, 1)
    margin, off = best[:, -1] - best[:, -2], numpy.abs(y - r).max(1)
    report.top_1[way.name] = int(same.sum())
    report.wrong_answers[way.name] = int((~same & (margin > 2.0 * off)).sum())
