"""Networks with several inputs or outputs: their data, targets and losses are dictionaries by name."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ..arguments import number
from ..layers.graph import Graph
from ..layers.layer import Layer
from ..layers.several import parts
from ..ops import losses
from ..shim import Array, asarray, backend_of, to_numpy
from .capture import capture
from .tally import Tally

__all__ = [
    "LossOfSeveral",
    "TallyOfSeveral",
    "captured",
    "examples",
    "loss_of",
    "tally_of",
    "targets_of",
    "terms",
    "validation_of",
]

Loss = Callable[..., Any]


class LossOfSeveral:
    """The sum of the losses of several outputs, each with a weight: ``loss(y, t)`` of dictionaries is ``E, pullback``.

    E = Σ wᵢ Eᵢ, so the delta of each output is wᵢ ∂Eᵢ/∂yᵢ.

    >>> import dualnet as dn
    >>> loss = LossOfSeveral({"size": (0.5, "mean_squared_error"), "kind": "softmax_cross_entropy"})
    >>> y = {"size": dn.asarray([[3.0]]), "kind": dn.asarray([[0.0, 0.0]])}
    >>> value, pullback = loss(y, {"size": dn.asarray([[1.0]]), "kind": dn.asarray([0])})
    >>> round(float(dn.to_numpy(value)), 4), {name: dn.to_numpy(dy).tolist() for name, dy in pullback().items()}
    (1.6931, {'size': [[1.0]], 'kind': [[-0.5, 0.5]]})
    """

    def __init__(self, given: Mapping[str, Any]) -> None:
        self.weights: dict[str, float] = {}
        self.losses: dict[str, Loss] = {}
        for name, loss in given.items():
            weight, loss = loss if isinstance(loss, (tuple, list)) and len(loss) == 2 else (1.0, loss)
            self.weights[name] = number(weight, f"weight of {name!r}", op="loss")
            self.losses[name] = losses.get(loss)

    def __call__(self, y: dict[str, Array], t: dict[str, Array]) -> tuple[Array, Callable[..., dict[str, Array]]]:
        total: Any = 0.0
        backs = {}
        for name, loss in self.losses.items():
            value, backs[name] = losses.unchecked(loss)(y[name], t[name])  # fit has checked all targets
            total = total + self.weights[name] * value

        def pullback(dloss: float | Array = 1.0) -> dict[str, Array]:
            return {name: back(self.weights[name] * dloss) for name, back in backs.items()}  # E10

        return total, pullback


def loss_of(net: Layer, loss: Any, op: str) -> Loss:
    """The given loss, or the one that trained the network: a function of y and t, or of dictionaries of both."""
    given: Any = losses.known(net) if loss is None else loss
    ends = _ends(net)
    if len(ends) > 1:
        if not isinstance(given, Mapping) or set(given) != set(ends):
            pairs = ", ".join(f"{name!r}: loss" for name in ends)
            got = repr(given) if loss is not None or isinstance(given, Mapping) else "none"
            raise ValueError(f"{op}: the network has several outputs: loss must be a dictionary {{{pairs}}}; got {got}")
        return LossOfSeveral({name: given[name] for name in ends})
    if isinstance(given, Mapping):
        if list(given) != ends or isinstance(given[ends[0]], (tuple, list)):
            raise ValueError(f"{op}: the network has one output: loss must be a name or a function; got {given!r}")
        given = given[ends[0]]
    return losses.get(given)


def targets_of(net: Layer, t: Any) -> Any:
    """The targets t; for a graph with one output, ``{"name": t}`` is fine too."""
    ends = _ends(net)
    return t[ends[0]] if isinstance(t, Mapping) and len(ends) == 1 and list(t) == ends else t


def validation_of(net: Layer, given: Any) -> Any:
    """``validation_data`` with the targets of :func:`targets_of`."""
    if isinstance(given, (tuple, list)) and len(given) in (2, 3) and isinstance(given[1], Mapping):
        return (given[0], targets_of(net, given[1]), *given[2:])
    return given


def examples(op: str, x: Any, t: Any) -> tuple[Any, Any]:
    """Inputs and targets, at least one of them a dictionary: as arrays on their own backend, equally many of each."""
    x, t = ({k: _as_array(part) for k, part in a.items()} if isinstance(a, Mapping) else _as_array(a) for a in (x, t))
    counts = {}
    for (name, a), least in [*((p, 2) for p in parts(x, "x")), *((p, 1) for p in parts(t, "t"))]:
        if a.ndim < least:
            raise ValueError(f"{op}: {name} has shape {tuple(a.shape)}; expected a batch of examples")
        counts[name] = len(a)
    if len(set(counts.values())) != 1 or 0 in counts.values():
        listed = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise ValueError(f"{op}: all arrays must hold the same number of examples, at least one; got {listed}")
    return x, t


def _as_array(a: Any) -> Any:
    return a if backend_of(a) is not None else to_numpy(asarray(a, backend="numpy"))


def terms(op: str, y: Any, t: Any, loss: Loss) -> Iterator[tuple[str, Any, Any, Loss]]:
    """For each output: a name for messages, y, t and the loss. ``ValueError`` if targets do not match the outputs.

    >>> [op for op, _, _, _ in terms("fit", 1, 2, losses.huber)]
    ['fit']
    """
    if isinstance(y, dict) != isinstance(t, dict) or (isinstance(y, dict) and set(y) != set(t)):
        wanted = f"a dictionary of {', '.join(map(repr, y))}" if isinstance(y, dict) else "one array"
        got = f"one of {', '.join(map(repr, t))}" if isinstance(t, dict) else "one array"
        raise ValueError(f"{op}: for this network t must be {wanted}; got {got}")
    if not isinstance(y, dict):
        yield op, y, t, loss
        return
    for name in y:
        yield f"{op}: output {name!r}", y[name], t[name], loss.losses[name]  # type: ignore[attr-defined]


class TallyOfSeveral:
    """A tally for each output. The figures: ``loss``, the weighted sum, and those of each output, ``kind_loss``, …

    >>> import dualnet as dn
    >>> tally = TallyOfSeveral(LossOfSeveral({"a": "huber", "b": (0.5, "mean_squared_error")}))
    >>> y, t = dn.asarray([[2.0]]), dn.asarray([[0.0]])
    >>> tally.add({"a": y, "b": y}, {"a": t, "b": t}); tally.figures()
    {'loss': 2.5, 'a_loss': 1.5, 'b_loss': 2.0}
    """

    exact = False

    def __init__(self, loss: LossOfSeveral) -> None:
        self.weights, self.losses = loss.weights, loss.losses
        self.tallies = {name: Tally(one) for name, one in loss.losses.items()}

    @property
    def parts(self) -> list[Tally]:
        """The parts that must be restored when a step is undone."""
        return list(self.tallies.values())

    def begin(self) -> None:
        """Start again from nothing."""
        for tally in self.parts:
            tally.begin()

    def add(self, y: dict[str, Array], t: dict[str, Array], value: Any = None, w: Any = None) -> None:
        """A batch: outputs and targets by name."""
        for name, tally in self.tallies.items():
            known = None
            if not tally.exact:  # a rank may have no examples, and no examples have no mean
                known = losses.unchecked(self.losses[name])(y[name], t[name])[0] if len(t[name]) else 0.0
            tally.add(y[name], t[name], known)

    def state_dict(self) -> dict[str, Any]:
        """The sums so far."""
        return {name: tally.state_dict() for name, tally in self.tallies.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from these sums."""
        for name, tally in self.tallies.items():
            tally.load_state_dict(state[name])

    def glance(self) -> dict[str, float]:
        """Only the weighted sum, for a look in the middle of an epoch."""
        return {"loss": self.figures()["loss"]}

    def figures(self) -> dict[str, float]:
        """The weighted sum, and the figures of each output under its name."""
        each_one = {name: tally.figures() for name, tally in self.tallies.items()}
        total = sum(self.weights[name] * figures["loss"] for name, figures in each_one.items())
        named = {f"{name}_{what}": value for name, figures in each_one.items() for what, value in figures.items()}
        return {"loss": total, **named}


def tally_of(loss: Loss) -> Any:
    """The tally for a loss, of one output or of several."""
    return TallyOfSeveral(loss) if isinstance(loss, LossOfSeveral) else Tally(loss)


def captured(step: Callable[..., None], x: Any, t: Any) -> Callable[..., Any]:
    """The captured step, see :func:`dualnet.capture`: for dictionaries, as a function of the arrays in them."""
    if not isinstance(x, dict) and not isinstance(t, dict):
        return capture(step)
    made: dict[tuple, Callable[..., Any]] = {}

    def run(*batch: Any) -> Any:
        names = tuple(tuple(part) if isinstance(part, dict) else None for part in batch)
        if names not in made:
            made[names] = capture(functools.partial(_of_parts, step, names))
        return made[names](*(array for part in batch for _, array in parts(part)))

    return run


def _of_parts(step: Callable[..., Any], names: tuple, *arrays: Array) -> Any:
    """A step of the arrays in its dictionaries."""
    return step(*_joined(names, iter(arrays)))


def _joined(names: tuple, arrays: Iterator[Array]) -> Iterator[Any]:
    """The arrays in the dictionaries from which they were taken."""
    for known in names:
        yield next(arrays) if known is None else {name: next(arrays) for name in known}


def _ends(net: Layer) -> list[str]:
    """The names of a graph's outputs; none for another network."""
    return net.ends() if isinstance(net, Graph) else []
