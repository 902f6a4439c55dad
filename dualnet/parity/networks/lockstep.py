"""Two backends in lock-step: op by op, forward and backward, then the optimizer. It stops at the first op that is too
far off.

The first backend trains, and records what goes through each of its layers. The second gets the same numbers at every
layer, and its results must agree within twice the limit of that op. So a difference is always the op's own, and no
rounding adds up from layer to layer or from step to step.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy

from ...arguments import integer
from ...check import CheckError
from ...layers.entering import one_of_each
from ...layers.layer import Layer
from ...ops import losses
from ...optimizers.optimizer import Optimizer
from ...optimizers.rules import get as optimizer_of
from ...shim import asarray, backend_of, to_numpy
from ...shim.dtypes import is_floating
from ..cases.limits import Limit, tau
from ..cases.truth import EXACT, SUMS, expected
from ..judging.compare import measure
from ..judging.ways import Way, function
from .tape import Call, Follower, Tape, as_case

__all__ = ["Divergence", "Twin", "twin"]

SUMMANDS, LONG = 4, 10_000
"""How many terms a container or an optimizer adds up for each element; for running statistics, at most."""


@dataclass(frozen=True)
class Divergence:
    """Where two backends diverge: step, layer, op and result, how far apart they are, and how far apart they may be."""

    step: int
    layer: str
    op: str
    output: str
    ratio: float
    number: float
    bound: float
    mismatch: str = ""
    culprit: str = ""

    def __str__(self) -> str:
        place = f"step {self.step}, {self.layer}" + (f" ({self.op})" if self.op else "") + f", {self.output}"
        distance = f"different {self.mismatch}" if self.mismatch else f"{self.number:.2e} > {self.bound:.2e}"
        return f"{place}: {distance}" + (f"; float64 says that {self.culprit} is wrong" if self.culprit else "")


class _Stopped(Exception):
    """The first divergence, on its way out of the layers."""

    def __init__(self, found: Divergence) -> None:
        self.found = found


@dataclass
class Twin:
    """The result of :func:`twin`: true if the two agreed in every op of every step."""

    ways: tuple[str, str]
    dtype: str
    steps: int = 0
    wanted: int = 0
    compared: int = 0
    worst: float = 0.0  # ratio to the bound
    worst_at: str = ""
    stopped: Divergence | None = None
    losses: list[float] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Did all steps agree, and was anything compared?"""
        return self.stopped is None and self.compared > 0

    def __bool__(self) -> bool:
        return self.ok

    def __str__(self) -> str:
        pair = f"{self.ways[0]} and {self.ways[1]}, {self.dtype}"
        if self.stopped is not None:
            return f"twin: {pair}: they diverge in {self.stopped}"
        word = "step" if self.steps == 1 else "steps"
        agreed = f"{self.steps} {word} in lock-step, {self.compared:,} results compared"
        worst = "all equal" if self.compared else "so this shows nothing"
        if self.worst_at:
            worst = f"the worst at {self.worst:.2g} of its bound ({self.worst_at})"
        return f"twin: {pair}: {agreed}, {worst}"

    __repr__ = __str__

    def _repr_html_(self) -> str:
        from ..certificate.report import twin_html

        return twin_html(self)


def twin(
    net: Layer,
    data: tuple[Any, Any],
    *,
    backends: Sequence[str | Way] = ("numpy", "strict"),
    steps: int = 10,
    batch_size: int = 16,
    optimizer: str | Optimizer = "sgd",
    loss: str | Callable[..., Any] | None = None,
    seed: int = 0,
    raises: bool = True,
) -> Twin:
    """See :func:`dualnet.parity.twin`, which imports this when it is called."""
    first, second = two(backends)
    steps, batch_size = integer(steps, "steps", op="twin"), integer(batch_size, "batch_size", op="twin")
    x, t = examples_of(net, data, "twin")
    run = _Run(net, first, second, optimizer, losses.of(net, loss))
    order = numpy.random.default_rng(seed)
    report = Twin((first.name, second.name), str(numpy.dtype(net.dtype)), wanted=steps)
    run.report = report
    try:
        for _ in range(steps):
            chosen = order.integers(0, len(x), batch_size)
            run.step(x[chosen], t[chosen])
            report.steps += 1
    except _Stopped as stop:
        report.stopped = stop.found
    if raises and not report.ok:
        raise CheckError(str(report))
    return report


def two(backends: Sequence[str | Way]) -> tuple[Way, Way]:
    """Two different ways, from their names."""
    if isinstance(backends, (str, Way)) or len(backends) != 2:
        raise ValueError(f"twin: expected two names as backends, such as ('numpy', 'strict'), got {backends!r}")
    first, second = map(Way.parse, backends)
    if first == second:
        raise ValueError(
            f"twin: {first.name!r} twice; expected two different ways. To compare kernels with references, use "
            f"'{first.backend} reference'"
        )
    return first, second


def examples_of(net: Layer, data: Any, op: str) -> tuple[numpy.ndarray, numpy.ndarray]:
    """x and t on the host. Raises if they do not fit each other and the network."""
    if not isinstance(net, Layer):
        raise TypeError(f"{op}: expected a network, got {type(net).__name__}")
    if net.input_shape is None:
        raise ValueError(f"{op}: the network has no parameters yet; call net.init(input_shape) first")
    one_of_each(net, op)
    if not isinstance(data, (tuple, list)) or len(data) != 2:
        raise ValueError(f"{op}: expected data as a pair (x, t)")
    x, t = (to_numpy(a) if backend_of(a) is not None else numpy.asarray(a) for a in data)
    if x.ndim != len(net.input_shape) + 1 or len(x) != len(t) or not len(x):
        raise ValueError(f"{op}: x {x.shape} and t {t.shape} do not fit; expected (N, {net.input_shape}) and N targets")
    return x.astype(net.dtype), t


class _Run:
    """Both sides of a comparison in lock-step."""

    report: Twin

    def __init__(self, net: Layer, first: Way, second: Way, optimizer: Any, loss: Callable[..., Any]) -> None:
        self.ways, self.loss = (first, second), loss
        self.tape, self.follower = Tape(net), Follower(net, self._seen)
        for way, copied in zip(self.ways, (self.tape.net, self.follower.net)):
            with way.in_force():
                copied.to(way.backend)
        given = optimizer_of(optimizer)
        self.optimizers = (copy.deepcopy(given), copy.deepcopy(given))

    def step(self, x: numpy.ndarray, t: numpy.ndarray) -> None:
        """One training step on both sides."""
        first, second = self.ways
        self.tape.calls.clear()
        with first.in_force():
            y, back = self.tape.net.forward(asarray(x), train=True)
            value, dloss = self.loss(y, asarray(t))
            dy = dloss()
            _, gradients = back(dy)
        self.report.losses.append(float(to_numpy(value)))
        with second.in_force():
            self.follower.follow(self.tape.calls)
            y2, back2 = self.follower.net.forward(asarray(x), train=True)
            self._near("network", "y", y, y2)
            value2, dloss2 = self.loss(asarray(to_numpy(y)), asarray(t))
            classes = int(y.shape[-1])
            self._near("loss", "value", value, value2, K=max(int(y.size), 16 * classes), at_least=1.0)
            dy2 = dloss2()
            self._near("loss", "dy", dy, dy2, K=16 * classes, at_least=1.0 / math.sqrt(max(1, y.size)))
            _, gradients2 = back2(asarray(to_numpy(dy)))
        for name, gradient in gradients.items():
            self._near("network", f"gradient {name}", gradient, gradients2.get(name))
        self._optimize(gradients, gradients2)

    def _optimize(self, gradients: Any, gradients2: Any) -> None:
        """Give both optimizers the same gradients; then the second side continues from the first side's numbers."""
        (first, second), (one, other) = self.ways, self.optimizers
        with first.in_force():
            one.step(self.tape.net, gradients)
        with second.in_force():
            other.step(self.follower.net, {name: asarray(to_numpy(g)) for name, g in gradients.items()})
            kept, kept2 = self.tape.net.state_dict(), self.follower.net.state_dict()
            parameters = self.tape.net.parameters()
            for name, value in kept.items():
                if name in parameters:
                    self._near("optimizer", name, value, kept2[name])
                elif backend_of(value) is not None:  # running statistics; a mean is as exact as its values are spread
                    spread = kept.get(name.replace("moving_mean", "moving_variance"))
                    least = 0.0 if spread is None else float(numpy.sqrt(numpy.sum(to_numpy(spread))))
                    self._near("statistics", name, value, kept2[name], K=LONG, at_least=least)
            self.follower.net.load_state_dict(kept)
            slots, slots2 = one.state_dict(), other.state_dict()
            for name, value in slots.items():
                if backend_of(value) is not None:
                    self._near("optimizer", name, value, slots2[name])
            onward = {k: asarray(to_numpy(v)) if backend_of(v) is not None else v for k, v in slots.items()}
            other.load_state_dict(onward)

    # -- comparing

    def _seen(self, call: Call, output: str, noted: Any, got: Any) -> None:
        """Compare a layer's result: with a quick bound first and, if it is beyond that, with the op's own limits."""
        if output in ("x", "dy"):
            return self._near(f"layer {call.name}", f"{output}, as it arrives", noted, got)
        if noted is None or got is None:
            return self._missing(call, output, noted, got)
        self.report.compared += 1
        case = as_case(call)
        bound = 2.0 * tau(noted.dtype, _terms(call, case, output))
        scale = float(numpy.sqrt(numpy.mean(numpy.square(noted, dtype=numpy.float64)))) if noted.size else 0.0
        same = noted.shape == got.shape and noted.dtype == got.dtype
        if same and numpy.array_equal(noted, got, equal_nan=True):
            return None
        if same and (case is None or case.base not in EXACT):
            off = float(numpy.max(numpy.abs(noted.astype(numpy.float64) - got)))
            if off <= bound * scale:
                return self._worse(off / (bound * scale), call.name, output)
        return self._judge(call, case, output, noted, got, bound)

    def _judge(self, call: Call, case: Any, output: str, noted: Any, got: Any, bound: float) -> None:
        """Compare with the op's own limits; the truth is NumPy's reference in float64."""
        op = "" if case is None else case.op
        if case is None:
            limit = Limit("", numpy.abs(noted), float(numpy.linalg.norm(noted)), norm=bound)
            measured = measure(got, noted, limit, noted.dtype.name)
            culprit = ""
        else:
            truth = expected(case, references)
            right = truth.get(output)
            if right is None or right.value is None or right.limit is None:
                return self._missing(call, output, noted, None)
            sides = self._sides(case, output, noted, got)
            dtype = noted.dtype.name  # γ and β of a network of 16 bits are float32
            each = [measure(side, right.value, right.limit, dtype) for side in sides]
            measured = measure(sides[1], sides[0], right.limit.times(2.0), dtype)
            wrong = [way.name for way, m in zip(self.ways, each) if not m.ok]
            culprit = " and ".join(wrong)
            measured = max([measured, *each], key=lambda m: math.inf if m.mismatch else m.ratio)
            by_norm = right.limit.norm is not None
            bound = right.limit.norm if by_norm else right.limit.each  # type: ignore[assignment]
        if measured.ok:
            return self._worse(measured.ratio, call.name, output)
        number = measured.ratio * bound if bound and math.isfinite(measured.ratio) else measured.norm
        raise _Stopped(
            Divergence(self.report.steps, f"layer {call.name}", op, output, measured.ratio, number, bound,
                       measured.mismatch, culprit)
        )  # fmt: skip

    def _sides(self, case: Any, output: str, noted: Any, got: Any) -> list[Any]:
        """Both results. With a ReLU in the op, a unit within rounding of 0 may be on here and off there. The truth's dy
        is 0 at such units, so both sides compute the gradients again, from that dy."""
        if not case.rectified or output == "y":
            return [noted, got]
        return [way.run(case).values.get(output, side) for way, side in zip(self.ways, (noted, got))]

    def _near(self, where: str, what: str, a: Any, b: Any, *, K: int = SUMMANDS, at_least: float = 0.0) -> None:
        """Compare results that are sums element by element, outside of layers."""
        if (a is None) != (b is None):
            raise _Stopped(Divergence(self.report.steps, where, "", what, math.inf, math.inf, 0.0, "result is missing"))
        if a is None:
            return
        self.report.compared += 1
        a, b = (to_numpy(v) if backend_of(v) is not None else numpy.asarray(v) for v in (a, b))
        if not is_floating(a.dtype):
            if not numpy.array_equal(a, b):
                raise _Stopped(Divergence(self.report.steps, where, "", what, math.inf, math.inf, 0.0, "integers"))
            return
        bound = 2.0 * tau(a.dtype, K)
        size = max(float(numpy.linalg.norm(a[numpy.isfinite(a)])), at_least)
        measured = measure(b, a, Limit("", numpy.abs(a), size, norm=bound), a.dtype.name)
        if not measured.ok:
            raise _Stopped(
                Divergence(self.report.steps, where, "", what, measured.ratio, measured.norm, bound, measured.mismatch)
            )
        self._worse(measured.ratio, where, what)

    def _missing(self, call: Call, output: str, noted: Any, got: Any) -> None:
        if (noted is None) == (got is None):
            return
        raise _Stopped(
            Divergence(self.report.steps, f"layer {call.name}", "", output, math.inf, math.inf, 0.0, "result")
        )

    def _worse(self, ratio: float, where: str, what: str) -> None:
        if ratio > self.report.worst:
            self.report.worst, self.report.worst_at = ratio, f"step {self.report.steps}, {where}, {what}"


def references(op: str) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """An op and its pullback by NumPy's references in float64: a truth for shapes that loops are too slow for."""
    from ..cases.case import Case

    reference = Way("numpy")

    def run(arrays: tuple, options: Any) -> Any:
        wide = [None if a is None else a.astype("float64") if is_floating(a.dtype) else a for a in arrays]
        return function(Case(op, 0, 0, "float64", "", {}))(*wide, **options)

    def forward(*arrays: Any, **options: Any) -> Any:
        with reference.in_force():
            return to_numpy(run(arrays, options)[0])

    def backward(dy: Any, *arrays: Any, **options: Any) -> Any:
        with reference.in_force():
            if op in losses.NAMES:
                return to_numpy(run((dy, *arrays), options)[1]())
            return run(arrays, options)[1](dy.astype("float64"))

    return forward, backward


def _terms(call: Call, case: Any, output: str) -> int:
    """About how many terms the longest sum of a result has."""
    if output in ("y", "dx"):
        w = getattr(call.layer, "w", None)
        if w is not None:
            return math.prod(w.shape[:-1] if output == "y" else (*w.shape[:-2], w.shape[-1]))
        return 1 if case is not None and case.base not in SUMS else max(1, math.prod(call.x.shape[1:3]))
    return max(1, math.prod(call.y.shape[:-1]))
