"""One forward and one backward pass, and what chosen layers computed in them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy

from ... import ops
from ...layers.entering import as_batch, home
from ...layers.layer import Layer
from ...layers.normalization import Normalization
from ...layers.parameter import Parameter
from ...ops.pullback import Pullback
from ...shim import Array, asarray, backend_of, to_numpy
from ..watching import Run, Visit, Watch, sharing_copy
from .target import Target


@dataclass
class Use:
    """One use of a layer: its arrays, on the host and in the dtype of the network."""

    layer: Any  # a copy; Any, since each explainer expects its own kind
    title: str  # as it prints
    train: bool
    x: numpy.ndarray
    y: numpy.ndarray
    parameters: dict[str, numpy.ndarray]
    state: dict[str, Any]  # before the pass
    way: Pullback
    home: str  # the backend
    dy: Any = None  # set in the backward pass
    dx: Any = None
    gradients: dict[str, numpy.ndarray] = field(default_factory=dict)

    def array(self, target: Target) -> numpy.ndarray:
        """The library's array that holds the target."""
        if target.parameter is None:
            return getattr(self, target.name)
        return self.gradients[target.parameter]

    def shape_of(self, target: Target) -> tuple[int, ...]:
        return self.array(target).shape

    def backward(self, dy: numpy.ndarray) -> tuple[numpy.ndarray, dict[str, numpy.ndarray]]:
        """The library's own pullback for another dy: dx, and gradients by parameter."""
        dx, gradients = self.way(asarray(dy, self.y.dtype.name, backend=self.home))
        return to_numpy(dx), {name: to_numpy(gradient) for name, gradient in gradients.items()}

    def largest(self, target: Target) -> tuple[int, ...]:
        array = numpy.abs(self.array(target))
        return tuple(int(i) for i in numpy.unravel_index(int(array.argmax()), array.shape))


@dataclass
class Ending:
    """What the last layer returned (N, ...), the targets, the loss and its dy, and the gradients by parameter."""

    y: numpy.ndarray
    t: numpy.ndarray
    loss: float
    dy: numpy.ndarray
    gradients: dict[str, numpy.ndarray]


class Call:
    """A network and what it is run on."""

    def __init__(self, net: Layer, x: Any, t: Any, dy: Any, loss: Any, train: bool) -> None:
        if t is not None and dy is not None:
            raise ValueError("explain: give t or dy, not both; dy follows from t and the loss")
        self.net, self.train = net, bool(train)
        self.x = as_batch(net, x, "explain")
        self.loss: Any = None if t is None and loss is None else ops.losses.of(net, loss)
        self.t = None if t is None else asarray(t, backend=home(net))
        self.dy = None if dy is None else asarray(dy, net.dtype, backend=home(net))

    @property
    def source(self) -> str:
        """Where the deltas come from, in words."""
        if self.t is not None:
            return f"dy is the delta of {getattr(self.loss, '__name__', 'the loss')} for the given targets"
        if self.dy is not None:
            return "dy was given"
        return "dy was drawn at random (always the same); give t=targets or dy="

    def uses(self, target: Target) -> list[Use]:
        """The uses of the target's layer: one, or several for the parameters of a shared layer."""
        found = self.everything([target.path], backward=target.name != "y")
        return found[target.path] if target.parameter is None else [u for us in found.values() for u in us]

    def everything(self, paths: list[str], backward: bool = True) -> dict[str, list[Use]]:
        """Run, and return the uses of the layers at these paths, for shared layers at all their places."""
        net = sharing_copy(self.net)
        seen: list[tuple[Visit, Use]] = []
        with Watch(net, partial(_use, seen), at=paths, apart=True):
            y, way = net.forward(net.enter(self.x), self.train)
            if backward:
                way(self._delta(y))
        layers = dict(net.walk())
        for path in paths:
            _check_once(path, layers, [use for _, use in seen if use.layer is layers[path]])
        return {visit.name: [use] for visit, use in seen}

    def ending(self) -> Ending | None:
        """The loss and one step of training; None without targets, since the loss needs them."""
        if self.t is None:
            return None
        net = sharing_copy(self.net)
        y, way = net.forward(net.enter(self.x), self.train)
        loss, back = self.loss(y, self.t)
        dy = back()
        gradients = {name: to_numpy(gradient) for name, gradient in way(dy)[1].items()}
        return Ending(to_numpy(y), to_numpy(self.t), float(to_numpy(loss)), to_numpy(dy), gradients)

    def loss_after(self, rate: float, ending: Ending) -> float:
        """The loss on the same batch after one step of E17, w − rate · dw; the network itself does not change."""
        net = self.net.copy()  # with weights of its own
        with numpy.errstate(over="ignore", invalid="ignore"):
            for name, parameter in net.parameters().items():
                if name in ending.gradients:
                    value = to_numpy(parameter.value).astype("float64") - rate * ending.gradients[name]
                    parameter.value = asarray(value, parameter.dtype.name, backend=backend_of(parameter.value).name)
            y, _ = net.forward(net.enter(self.x), self.train)
            return float(to_numpy(self.loss(y, self.t)[0]))

    def _delta(self, y: Array) -> Array:
        if self.t is not None:
            return self.loss(y, self.t)[1]()
        if self.dy is not None:
            if tuple(self.dy.shape) != tuple(y.shape):
                raise ValueError(f"explain: dy has shape {tuple(self.dy.shape)}; the output has {tuple(y.shape)}")
            return self.dy
        drawn = numpy.random.default_rng(0).standard_normal(tuple(y.shape)).round(2)
        return asarray(drawn, y.dtype.name, backend=backend_of(y).name)


def _use(seen: list[tuple[Visit, Use]], visit: Visit, run: Run, x: Array) -> tuple[Array, Callable[[Array], Any]]:
    """Run the layer, and add its arrays to the list."""
    layer = visit.layer
    visit.options.pop("need_dx", None)  # a chain leaves out its first layer's dx, which can be explained too
    state = {name: _host(getattr(layer, name)) for name in layer.state_names}
    y, way = run(x)
    as_it_is = isinstance(layer, Normalization)  # others compute in the layer's dtype, which may have 16 bits
    parameters = {name: p for name, p in vars(layer).items() if isinstance(p, Parameter)}
    values = {name: to_numpy(p.value if as_it_is else p.cast(x.dtype)) for name, p in parameters.items()}
    use = Use(layer, repr(layer), visit.train, to_numpy(x), to_numpy(y), values, state, way, backend_of(y).name)
    seen.append((visit, use))

    def back(dy: Array) -> tuple[Array, dict[str, Array]]:
        dx, gradients = way(dy)
        use.dy, use.dx = to_numpy(dy), to_numpy(dx)
        use.gradients = {name: to_numpy(gradient) for name, gradient in gradients.items()}
        return dx, gradients

    return y, back


def _check_once(path: str, layers: dict[str, Layer], uses: list[Use]) -> None:
    """Check that the layer ran once at each of its places; otherwise a place would not identify a run."""
    places = [place for place, layer in layers.items() if layer is layers[path]]
    if len(places) != len(uses):
        raise ValueError(
            f"explain: layer {places[0]} ({repr(layers[path]) if uses else 'unused'}) has {len(places)} "
            f"place(s) and ran {len(uses)} time(s); expected one run for each place"
        )


def _host(value: Any) -> Any:
    return to_numpy(value) if backend_of(value) is not None else value
