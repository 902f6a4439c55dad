"""A network that records what goes through each of its layers, and one that follows such a recording.

Copies are recorded: the network itself is not touched. In chains, residual blocks and graphs only the layers inside are
recorded, since they do the computing; a merge shows in the input of the next layer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy

from ...layers import BatchNorm, Conv2D, Conv2DTranspose, Dense, Dropout, Flatten, GroupNorm, InstanceNorm, LayerNorm
from ...layers.bases import OpLayer
from ...layers.layer import Layer
from ...layers.merging import Merge
from ...layers.normalization import Normalization
from ...ops.pullback import Pullback
from ...seeing.watching import Run, Visit, Watch
from ...shim import Array, asarray, backend_of, to_numpy
from ..cases.case import OPS, Case
from ..cases.limits import UNIT

__all__ = ["Call", "Follower", "Tape", "as_case"]


@dataclass
class Call:
    """One layer in one pass: what went in and what came out, forward and backward, as host arrays."""

    path: str
    layer: Layer
    x: numpy.ndarray
    y: numpy.ndarray
    options: dict[str, Any]
    state: dict[str, Any]  # the layer's state before the pass
    train: bool
    dy: numpy.ndarray | None = None
    dx: numpy.ndarray | None = None
    gradients: dict[str, numpy.ndarray] = field(default_factory=dict)
    switches: numpy.ndarray | None = None  # which units are on, which tap won: when these change, gradients jump

    @property
    def name(self) -> str:
        """The layer's path and kind: ``"3.layer.0 Conv2D"``."""
        kind = type(self.layer).__name__ + (" + ReLU" if self.options.get("relu") else "")
        return f"{self.path} {kind}".strip()


class Tape:
    """A copy of a network whose layers record their calls, in order."""

    def __init__(self, net: Layer) -> None:
        self.net = net.copy()
        self.calls: list[Call] = []
        Watch(self.net, self._note, at=_leaves(self.net))

    def _note(self, visit: Visit, run: Run, x: Array) -> tuple[Array, Callable[[Array], Any]]:
        layer, options = visit.layer, visit.options
        state = {name: getattr(layer, name) for name in layer.state_names}
        y, way = run(x)
        switches = _switches(layer, way, y, options)
        call = Call(visit.first, layer, _host(x), _host(y), options, state, visit.train, switches=switches)
        self.calls.append(call)

        def back(dy: Array) -> Any:
            dx, gradients = way(dy)
            call.dy, call.dx = _host(dy), None if dx is None else _host(dx)
            call.gradients = {name: _host(g) for name, g in gradients.items()}
            return dx, gradients

        return y, back


class Follower:
    """A copy of a network whose layers run on the numbers of a tape, and report their results to ``check``.

    ``check(call, name, noted, got)`` gets each input (``"x"``, ``"dy"``), output and gradient. The next layer continues
    from the recorded numbers, so a difference is always the layer's own.
    """

    def __init__(self, net: Layer, check: Callable[[Call, str, Any, Any], None]) -> None:
        self.net, self.check = net.copy(), check
        self.calls: list[Call] = []
        self.place = 0
        Watch(self.net, self._follow, at=_leaves(self.net))

    def follow(self, calls: list[Call]) -> None:
        """Start again at the first of these calls."""
        self.calls, self.place = calls, 0

    def _follow(self, visit: Visit, run: Run, x: Array) -> tuple[Array, Callable[[Array], Any]]:
        path = visit.first
        if self.place >= len(self.calls) or self.calls[self.place].path != path:
            expected = self.calls[self.place].path if self.place < len(self.calls) else "nothing more"
            raise ValueError(f"twin: layer {path!r} was called where the other side called {expected!r}")
        call = self.calls[self.place]
        self.place += 1
        self.check(call, "x", call.x, _host(x))
        y, way = run(_on_backend_of(call.x, x))
        self.check(call, "y", call.y, _host(y))

        def back(dy: Array) -> Any:
            self.check(call, "dy", call.dy, _host(dy))
            dx, gradients = way(_on_backend_of(call.dy, dy))
            self.check(call, "dx", call.dx, None if dx is None else _host(dx))
            for name, noted in call.gradients.items():
                self.check(call, f"d{name}", noted, _host(gradients[name]) if name in gradients else None)
            onward = {name: _on_backend_of(noted, dy) for name, noted in call.gradients.items()}
            return None if call.dx is None else _on_backend_of(call.dx, dy), onward

        return _on_backend_of(call.y, y), back


def as_case(call: Call) -> Case | None:
    """A layer's call as a case of its op, whose truth can be computed; None for a layer that has no such op."""
    layer, found = call.layer, _op(call)
    if found is None or call.x.dtype.name not in UNIT:
        return None
    op, names, options = found
    if op + "_relu" * bool(call.options.get("relu")) not in OPS:
        return None
    norm = isinstance(layer, Normalization)
    learned = {name: p for name in names if (p := getattr(layer, name)) is not None}
    parameters = {name: to_numpy(p.value if norm else p.cast(call.x.dtype)) for name, p in learned.items()}
    arrays: dict[str, Any] = {"x": call.x, **{name: parameters.get(name) for name in names}}
    if op in ("batch_norm", "batch_norm_inference", "layer_norm", "group_norm"):
        shape = call.x.shape[-1:] if op != "layer_norm" else next(iter(parameters.values()), call.x[:1, ..., :1]).shape
        for name, fill in (("gamma", 1.0), ("beta", 0.0)):
            if arrays[name] is None:
                arrays[name] = numpy.full(shape, fill, call.x.dtype)
    if op == "batch_norm_inference":
        arrays |= {"mean": to_numpy(call.state["moving_mean"]), "variance": to_numpy(call.state["moving_variance"])}
    op += "_relu" * bool(call.options.get("relu"))
    return Case(op, 0, 0, call.x.dtype.name, "a layer's call", arrays, options, dy=call.dy)


def _op(call: Call) -> tuple[str, tuple[str, ...], dict[str, Any]] | None:
    """The op behind a layer, the names of its parameters, and its options."""
    layer = call.layer
    if isinstance(layer, Conv2D):
        options = {name: getattr(layer, name) for name in ("stride", "padding", "dilation", "groups", "mode")}
        options |= {"need_dx": call.options.get("need_dx", True)}
        return "conv2d", ("w", "b"), options
    if type(layer) is Conv2DTranspose:
        options = {name: getattr(layer, name) for name in ("stride", "padding", "output_padding", "dilation", "groups")}
        return "conv_transpose2d", ("w", "b"), options
    if type(layer) is Dense:
        return "dense", ("w", "b"), {"need_dx": call.options.get("need_dx", True)}
    if type(layer) is Flatten:
        return "flatten", (), {}
    if type(layer) is BatchNorm:
        return ("batch_norm" if call.train else "batch_norm_inference"), ("gamma", "beta"), {"epsilon": layer.epsilon}
    if type(layer) is LayerNorm:
        return "layer_norm", ("gamma", "beta"), {"axis": layer.axis, "epsilon": layer.epsilon}
    if isinstance(layer, GroupNorm) and type(layer) in (GroupNorm, InstanceNorm):
        return "group_norm", ("gamma", "beta"), {"groups": layer.groups, "epsilon": layer.epsilon}
    if isinstance(layer, Dropout) and call.train:
        key = (call.state["seed"], call.state["step"])
        return "dropout", (), {"rate": layer.rate, "key": key, "shared_axes": layer.shared_axes}
    if isinstance(layer, OpLayer):
        return layer.op.__name__, (), layer.config()
    return None


def _leaves(net: Layer) -> list[str]:
    """The paths of the layers that compute on one array: those that hold no layers and merge nothing."""
    return [path for path, layer in net.walk() if not layer.children() and not isinstance(layer, Merge)]


def _switches(layer: Layer, way: Pullback, y: Array, options: dict[str, Any]) -> numpy.ndarray | None:
    rectified = type(layer).__name__ in ("ReLU", "LeakyReLU") or options.get("relu")
    passes = _host(y) > 0 if rectified else None
    if "winners" not in way.saved:
        return passes
    winners = _host(way.saved["winners"])
    return winners if passes is None else numpy.where(passes, winners.astype(numpy.int32), -1)


def _host(array: Array) -> numpy.ndarray:
    """A copy on the host, which no later step can change."""
    return numpy.array(to_numpy(array))


def _on_backend_of(host: Any, array: Array) -> Array:
    """The recorded numbers on the backend of ``array``."""
    return asarray(host, backend=backend_of(array).name)
