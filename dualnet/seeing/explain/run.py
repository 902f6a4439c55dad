"""One forward and backward pass of a copy of the network, in which chosen layers note what passes through them."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

import numpy

from ... import ops
from ...layers.containers import Sequential
from ...layers.entering import arrived, home
from ...layers.layer import Layer
from ...layers.normalization import Normalization
from ...layers.parameter import Parameter
from ...ops.pullback import Pullback
from ...shim import Array, asarray, backend_of, to_numpy
from .target import Target


@dataclass
class Use:
    """What one layer saw when it was used once: host arrays in the dtype of the network."""

    layer: Any  # of the kind that the explainer knows
    title: str  # as it prints
    train: bool
    x: numpy.ndarray
    y: numpy.ndarray
    parameters: dict[str, numpy.ndarray]
    state: dict[str, Any]  # before the pass
    way: Pullback
    home: str  # the backend
    dy: Any = None  # set on the way back
    dx: Any = None
    gradients: dict[str, numpy.ndarray] = field(default_factory=dict)

    def array(self, target: Target) -> numpy.ndarray:
        """The array of the library in which the target is an entry."""
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


class Call:
    """A network and what it is run on."""

    def __init__(self, net: Layer, x: Any, t: Any, dy: Any, loss: Any, train: bool) -> None:
        if t is not None and dy is not None:
            raise ValueError("explain: give t or dy, not both: from t and the loss follows dy")
        self.net, self.train = net, bool(train)
        self.loss: Any = None if t is None and loss is None else ops.losses.of(net, loss)
        self.x = arrived(net, x, "explain")
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
        """The uses of the target's layer: one, except for the parameters of a layer that is shared."""
        found = self.everything([target.path], backward=target.name != "y")
        return found[target.path] if target.parameter is None else [u for us in found.values() for u in us]

    def everything(self, paths: list[str], backward: bool = True) -> dict[str, list[Use]]:
        """Run, and return what the layers at these paths saw. A shared layer's other places come along."""
        # Parameters are shared with the copy: nothing writes into them. Everything else is the copy's own.
        net = copy.deepcopy(self.net, {id(p): p for p in self.net.parameters().values()})
        layers = dict(net.walk())
        for layer in layers.values():
            if isinstance(layer, Sequential):
                layer.together = False  # each layer by itself, in its place
        seen: dict[int, list[Use]] = {}
        for path in paths:
            if id(layers[path]) not in seen:
                seen[id(layers[path])] = _watch(layers[path])
        y, way = net.forward(net.enter(self.x), self.train)
        if backward:
            way(self._delta(y))
        found: dict[str, list[Use]] = {}
        for identity, uses in seen.items():
            places = [path for path, layer in net.walk() if id(layer) == identity]
            if len(places) != len(uses):
                raise ValueError(
                    f"explain: layer {places[0]} ({uses[0].title if uses else 'unused'}) stands in {len(places)} "
                    f"place(s) and ran {len(uses)} time(s); expected once for each"
                )
            found |= {path: [use] for path, use in zip(places, uses)}
        return found

    def _delta(self, y: Array) -> Array:
        if self.t is not None:
            return self.loss(y, self.t)[1]()
        if self.dy is not None:
            if tuple(self.dy.shape) != tuple(y.shape):
                raise ValueError(f"explain: dy has shape {tuple(self.dy.shape)}; the output has {tuple(y.shape)}")
            return self.dy
        drawn = numpy.random.default_rng(0).standard_normal(tuple(y.shape)).round(2)
        return asarray(drawn, y.dtype.name, backend=backend_of(y).name)


def _watch(layer: Layer) -> list[Use]:
    """From now on the layer notes each of its uses in the list. It keeps its class's name and behaviour."""
    uses: list[Use] = []
    kind, title = type(layer), repr(layer)

    class Watched(kind):  # type: ignore[misc, valid-type]
        def forward(self, x: Array, train: bool = False, need_dx: bool = True) -> tuple[Array, Pullback]:
            """As before; ``need_dx=False``, by which a chain leaves out the first layer's dx, is not passed on."""
            state = {name: _host(getattr(self, name)) for name in kind.state_names}
            y, way = super().forward(x, train)
            as_it_is = isinstance(self, Normalization)  # else in the layer's dtype, which may be one of 16 bits
            parameters = {name: p for name, p in vars(self).items() if isinstance(p, Parameter)}
            values = {name: to_numpy(p.value if as_it_is else p.cast(x.dtype)) for name, p in parameters.items()}
            use = Use(self, title, train, to_numpy(x), to_numpy(y), values, state, way, backend_of(y).name)
            uses.append(use)

            def pullback(dy: Array) -> tuple[Array, dict[str, Array]]:
                dx, gradients = way(dy)
                use.dy, use.dx = to_numpy(dy), to_numpy(dx)
                use.gradients = {name: to_numpy(gradient) for name, gradient in gradients.items()}
                return dx, gradients

            return y, Pullback(kind.__name__, pullback, y, x=x)

    Watched.__name__ = kind.__name__
    layer.__class__ = Watched
    return uses


def _host(value: Any) -> Any:
    return to_numpy(value) if backend_of(value) is not None else value
