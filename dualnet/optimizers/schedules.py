"""Learning rates that change with the step: functions ``step -> lr``, counted in optimizer steps from 0.

    opt = dn.SGD(dn.schedules.Warmup(dn.schedules.Cosine(0.1, steps=10_000), steps=500), momentum=0.9)

Any function of the step can be a schedule. Those here also have a ``config()``, which returns their arguments for JSON,
and :func:`from_config` creates them again. A schedule that watches the loss has ``observe(value)``, which ``fit`` calls
at the end of every epoch, and a ``state_dict()`` that belongs in a checkpoint.
"""

from __future__ import annotations

import inspect
import math
import weakref
from collections.abc import Callable, Sequence
from typing import Any

from ..arguments import can_take, count, number, real
from ..constructors import Constructed

__all__ = ["Cosine", "OneCycle", "Plateau", "Schedule", "Step", "Warmup", "from_config"]

Rate = float | Callable[[int], float]
"""A number, or a function of the step."""


class Schedule(Constructed):
    """Base class: a function of the step that can be saved. One of your own defines ``__call__(step)``.

    >>> import dualnet as dn
    >>> class Harmonic(dn.schedules.Schedule):
    ...     def __init__(self, lr):
    ...         self.lr = lr
    ...
    ...     def __call__(self, step):
    ...         return self.lr / (1 + step)
    >>> Harmonic(1.0)(3), Harmonic(1.0).config()
    (0.25, {'name': 'Harmonic', 'lr': 1.0})
    """

    def __init__(self) -> None:
        """A schedule without arguments."""

    def __call__(self, step: int) -> float:
        """The learning rate of this step."""
        raise TypeError(f"{type(self).__name__} defines no __call__(step)")

    def observe(self, value: float) -> None:
        """Receive the loss at the end of an epoch; most schedules ignore it."""

    _owner: weakref.ref | None = None  # the optimizer that passed it losses, if it remembers any

    def state_dict(self) -> dict[str, float]:
        """The schedule's memory, by name; most schedules have none."""
        return {}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Continue from a saved state."""
        if state:
            raise ValueError(f"{type(self).__name__} has no state, got {', '.join(sorted(state))}")

    def __getstate__(self) -> dict[str, Any]:
        """For copies and pickles: a copy belongs to another optimizer."""
        return {name: value for name, value in vars(self).items() if name != "_owner"}

    def config(self) -> dict[str, Any]:
        """The class's name and the arguments that create this schedule again."""
        names = list(inspect.signature(type(self).__init__).parameters)[1:]
        return {"name": type(self).__name__, **{name: _written(getattr(self, name)) for name in names}}

    def __repr__(self) -> str:
        names = list(inspect.signature(type(self).__init__).parameters)[1:]
        given = [f"{name}={getattr(self, name)!r}" for name in names if hasattr(self, name)]
        return f"{type(self).__name__}({', '.join(given)})"

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and self.config() == other.config()

    __hash__ = None  # type: ignore[assignment]


class Step(Schedule):
    """Multiplies the rate by ``factor`` after ``every`` steps, or at the steps in ``at``: lr · factor^k after k times.

    >>> import dualnet as dn
    >>> schedule = dn.schedules.Step(0.5, every=100, factor=0.5)
    >>> schedule(0), schedule(99), schedule(100), schedule(250)
    (0.5, 0.5, 0.25, 0.125)
    >>> schedule = dn.schedules.Step(1.0, at=[30, 80], factor=0.5)
    >>> schedule(29), schedule(30), schedule(80)
    (1.0, 0.5, 0.25)
    """

    def __init__(
        self, lr: float, every: int | None = None, factor: float = 0.1, at: Sequence[int] | None = None
    ) -> None:
        self.lr = number(lr, "lr", op="Step")
        self.factor = number(factor, "factor", op="Step")
        if (every is None) == (at is None):
            raise ValueError(f"Step: pass either every=100 or at=[30, 80], got every={every!r} and at={at!r}")
        self.every = None if every is None else count(every, "every", op="Step")
        self.at = None if at is None else _places(at)

    def __call__(self, step: int) -> float:
        done = step // self.every if self.every is not None else sum(step >= place for place in self.at or ())
        return _times_power(self.lr, self.factor, int(done))


class Cosine(Schedule):
    """Half a cosine from ``lr`` down to ``final`` (a learning rate) at step ``steps``; ``final`` from then on.

    Source: Loshchilov and Hutter (2017), equation 5, without restarts.

    >>> import dualnet as dn
    >>> schedule = dn.schedules.Cosine(1.0, steps=100)
    >>> schedule(0), round(schedule(50), 12), schedule(100), schedule(1000)
    (1.0, 0.5, 0.0, 0.0)
    """

    def __init__(self, lr: float, steps: int, final: float = 0.0) -> None:
        self.lr, self.final = number(lr, "lr", op="Cosine"), number(final, "final", op="Cosine")
        self.steps = count(steps, "steps", op="Cosine")

    def __call__(self, step: int) -> float:
        return _half_cosine(self.lr, self.final, step / self.steps)


class OneCycle(Schedule):
    """Up from ``start · lr`` to ``lr`` in a fraction ``warm`` of all steps, then down to ``final · lr`` at the end.

    Both parts are half cosines, as in PyTorch: the top is at step ``warm · steps − 1``, the end at ``steps − 1``.
    Source: Smith and Topin (2019).

    >>> import dualnet as dn
    >>> schedule = dn.schedules.OneCycle(1.0, steps=101, warm=0.5, start=0.25, final=0.5)
    >>> schedule(0), round(schedule(50), 2), schedule(100)
    (0.25, 1.0, 0.5)
    """

    def __init__(self, lr: float, steps: int, warm: float = 0.3, start: float = 1 / 25, final: float = 1e-4) -> None:
        self.lr, self.steps = number(lr, "lr", op="OneCycle"), count(steps, "steps", op="OneCycle")
        self.warm = number(warm, "warm", op="OneCycle", most=1)
        self.start = number(start, "start", op="OneCycle", most=1)
        self.final = number(final, "final", op="OneCycle", most=1)

    def __call__(self, step: int) -> float:
        top, end = max(self.warm * self.steps - 1, 0.0), self.steps - 1
        if step < top:
            return _half_cosine(self.start * self.lr, self.lr, step / top)
        down = max(end - top, 1e-9)  # with warm=1 there are no steps left
        return _half_cosine(self.lr, self.final * self.lr, (step - top) / down)


class Warmup(Schedule):
    """A straight line from ``start`` times a schedule's first rate up to that rate; then the schedule itself.

    The schedule's step 0 is step ``steps`` here: ``Warmup(Cosine(0.1, 900), 100)`` takes 1000 steps in all. A number
    means a constant rate. Source: Goyal et al. (2017), section 2.2.

    >>> import dualnet as dn
    >>> schedule = dn.schedules.Warmup(0.5, steps=4)
    >>> [schedule(step) for step in (0, 1, 2, 4, 100)]
    [0.0, 0.125, 0.25, 0.5, 0.5]
    """

    def __init__(self, schedule: Rate, steps: int, start: float = 0.0) -> None:
        self.schedule = rate(schedule, "schedule", op="Warmup")
        self.steps, self.start = count(steps, "steps", op="Warmup"), number(start, "start", op="Warmup", most=1)

    def __call__(self, step: int) -> float:
        target = rate_at(self.schedule, max(step - self.steps, 0), op="Warmup")
        return target * (self.start + (1 - self.start) * min(float(step / self.steps), 1.0))

    def observe(self, value: float) -> None:
        if isinstance(self.schedule, Schedule):
            self.schedule.observe(value)

    def state_dict(self) -> dict[str, float]:
        return self.schedule.state_dict() if isinstance(self.schedule, Schedule) else {}

    def load_state_dict(self, state: dict[str, float]) -> None:
        if isinstance(self.schedule, Schedule):
            self.schedule.load_state_dict(state)
        else:
            super().load_state_dict(state)


class Plateau(Schedule):
    """Multiplies the rate by ``factor`` when the loss stops falling, but never goes below ``minimum``.

    An epoch is better if its loss is below the best so far by more than the fraction ``threshold`` of it. After
    ``patience`` epochs in a row that are not better, the next one lowers the rate (as in PyTorch). NaN is never better.
    A schedule remembers the losses that it has seen, so create a new one for each optimizer.

    >>> import dualnet as dn
    >>> schedule = dn.schedules.Plateau(1.0, factor=0.5, patience=1)
    >>> for loss in (3.0, 2.0, 2.0, 2.0):
    ...     schedule.observe(loss)
    >>> schedule(0)
    0.5
    """

    def __init__(
        self, lr: float, factor: float = 0.1, patience: int = 3, minimum: float = 0.0, threshold: float = 1e-4
    ) -> None:
        self.lr, self.factor = number(lr, "lr", op="Plateau"), number(factor, "factor", op="Plateau", most=1)
        self.patience = count(patience, "patience", op="Plateau", least=0)
        self.minimum = number(minimum, "minimum", op="Plateau")
        self.threshold = number(threshold, "threshold", op="Plateau")
        self._now, self._best, self._waited = self.lr, math.inf, 0

    def __call__(self, step: int) -> float:
        return self._now

    def observe(self, value: float) -> None:
        value = real(value, "the observed loss", op="Plateau")
        limit = self._best - self.threshold * abs(self._best) if math.isfinite(self._best) else self._best
        if value < limit:
            self._best, self._waited = value, 0
            return
        self._waited += 1
        if self._waited > self.patience:
            self._now, self._waited = max(self._now * self.factor, min(self.minimum, self._now)), 0

    def state_dict(self) -> dict[str, float]:
        """The current rate, the number of epochs waited and, once there is one, the best loss."""
        state: dict[str, float] = {"now": self._now, "waited": self._waited}
        return {**state, "best": self._best} if math.isfinite(self._best) else state

    def load_state_dict(self, state: dict[str, float]) -> None:
        if not {"now", "waited"} <= state.keys() <= {"now", "waited", "best"}:
            got = ", ".join(sorted(state)) or "nothing"
            raise ValueError(f"Plateau: expected a state with now, waited and perhaps best, got {got}")
        now, waited = number(state["now"], "now", op="Plateau"), count(state["waited"], "waited", op="Plateau", least=0)
        best = state.get("best", math.inf)
        self._now, self._waited, self._best = now, waited, real(best, "best", op="Plateau")


def from_config(config: dict[str, Any]) -> Schedule:
    """The schedule that a ``config()`` describes.

    >>> import dualnet as dn
    >>> dn.schedules.from_config({"name": "Cosine", "lr": 0.1, "steps": 100})
    Cosine(lr=0.1, steps=100, final=0.0)
    """
    kinds = {kind.__name__: kind for kind in (Step, Cosine, OneCycle, Warmup, Plateau)}
    if not isinstance(config, dict) or config.get("name") not in kinds:
        raise ValueError(f"unknown schedule {config!r}; expected a dictionary whose name is one of {', '.join(kinds)}")
    arguments = {key: from_config(v) if isinstance(v, dict) else v for key, v in config.items() if key != "name"}
    kind = kinds[config["name"]]
    unknown = arguments.keys() - inspect.signature(kind.__init__).parameters.keys()
    if unknown:
        raise ValueError(f"{kind.__name__}: unknown arguments {', '.join(sorted(unknown))}")
    return kind(**arguments)  # type: ignore[arg-type]


# -- rates -------------------------------------------------------------------------------------------------------------


def rate(value: Any, name: str, *, op: str) -> Rate:
    """A learning rate: a number, or a function of the step."""
    if isinstance(value, type):
        raise TypeError(f"{op}: {name} is the class {value.__name__}; write {value.__name__}(...)")
    if isinstance(value, (dict, list, tuple)):
        raise TypeError(
            f"{op}: {name} is a {type(value).__name__}; expected a number or a schedule. Do not pass parameters "
            "here; pass the network and its gradients to step(net, grads)."
        )
    if callable(value) and not can_take(value, 1):
        raise TypeError(f"{op}: {name} takes {inspect.signature(value)}; expected a function of the step, or a number")
    return value if callable(value) else number(value, name, op=op)


def rate_at(lr: Rate, step: int, *, op: str) -> float:
    """The learning rate of a step."""
    return number(lr(step), f"the schedule's rate at step {step}", op=op) if callable(lr) else lr


def check_owner(lr: Rate, optimizer: Any, observing: bool = False) -> None:
    """Raise if a schedule has seen the losses of another optimizer; ``observing`` makes it belong to this one."""
    while isinstance(lr, Warmup):
        lr = lr.schedule
    if not isinstance(lr, Schedule):
        return
    if lr._owner is not None and lr._owner() is not optimizer:
        kind, owner = type(lr).__name__, type(optimizer).__name__
        raise ValueError(
            f"{owner}: this {kind} has watched the training of another optimizer, and remembers its losses. Create a "
            f"schedule for each optimizer: {kind}(...)."
        )
    if observing and lr.state_dict():
        lr._owner = weakref.ref(optimizer)


def _places(at: Any) -> list[int]:
    if not isinstance(at, (list, tuple)):
        raise TypeError(f"Step: at must be a list of steps such as [30, 80], got {at!r}")
    return sorted(count(place, "at", op="Step", least=0) for place in at)


def _half_cosine(first: float, last: float, fraction: float) -> float:
    """From ``first`` to ``last`` as the fraction goes from 0 to 1."""
    return last + (first - last) * ((1 + math.cos(math.pi * min(max(fraction, 0.0), 1.0))) / 2)


def _times_power(lr: float, factor: float, k: int) -> float:
    """lr · factorᵏ, even if factorᵏ alone is too large or too small for a float; ∞ if the product is too large."""
    try:
        power = factor**k
        if power or not (lr and factor):
            return lr * power
    except OverflowError:
        if not lr:
            return 0.0
    logarithm = math.log(lr) + k * math.log(factor)
    return math.exp(logarithm) if logarithm < 709 else math.inf  # for which rate_at raises an error


def _written(value: Any) -> Any:
    """An argument as JSON can hold it: a schedule's config, a plain function's name."""
    if isinstance(value, Schedule):
        return value.config()
    return getattr(value, "__name__", repr(value)) if callable(value) else value
