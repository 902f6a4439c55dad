"""Find our layer for each node of PyTorch's graph, with the reader of ``from_torch``, node by node."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy

from ...layers.dropout import Dropout
from ...layers.layer import Layer
from ..pytorch import FLAGGED, _attribute, _called, _Graphs, _Reader, _values_in
from ..torch_layers import MAPS, Value
from .steps import NodeRun, Twin
from .torch_pass import Done
from .twins import CopyTwin, JoinTwin, LayerTwin, MaskTwin, SumTwin, Turn

__all__ = ["Finder", "turn"]

DROPPING = ("dropout", "dropout2d", "feature_dropout", "stochastic_depth")
OURS = {"weight": ("w", "gamma"), "bias": ("b", "beta")}


class Finder:
    """Goes through the graph with the reader of ``from_torch``, and finds a layer for each node.

    After a node that the reader does not know, it continues from the shape that the tensor really had.
    """

    def __init__(self, root: Any, nodes: list[Any], dtype: str | None) -> None:
        self.root = root
        flags = {node.name: self._flag(node) for node in nodes if _is_flagged(node)}
        self.reader = _Reader(_Graphs(root, nodes, flags, []), dtype)
        self.found: dict[str, Callable[[NodeRun], Twin | None]] = {}

    def _flag(self, node: Any) -> tuple[bool, bool]:
        return (False, True) if _called(node) == "batch_norm" else (False, False)

    def read(self, nodes: list[Any], shapes: dict[str, tuple[int, ...]], values: dict[str, Any]) -> None:
        """Find the twins of all nodes. ``shapes`` are those of the tensors; ``values`` holds everything else."""
        for node in nodes:
            if node.op == "get_attr":
                value: Any = _attribute(self.root, node.target)
            elif node.op == "placeholder":
                value = _fresh(node.name, shapes[node.name]) if node.name in shapes else values.get(node.name)
            elif node.op == "output":
                return
            else:
                value = self._visited(node, shapes, values)
            self.reader.values[node.name] = value

    def _visited(self, node: Any, shapes: dict[str, tuple[int, ...]], values: dict[str, Any]) -> Any:
        reader = self.reader
        args, kwargs = reader._filled(tuple(node.args)), reader._filled(dict(node.kwargs))
        given = _values_in((args, kwargs))
        result = None
        for inputs in self._guesses(given):
            reader.made.clear(), reader.owners.clear(), reader.weights.clear(), reader.nodes.clear()  # type: ignore[func-returns-value]
            reader.problems.clear()
            for name, value in list(reader.values.items()):
                for old, new in zip(given, inputs):
                    if value is old:
                        reader.values[name] = new
            given = inputs
            result = reader._visited(node)
            if not reader.problems:
                break
        shape = shapes.get(node.name)
        if shape is None:
            return values.get(node.name) if reader.problems or result is None else result
        if reader.problems or not isinstance(result, Value) or result.pads or not _fits(result, shape):
            return _fresh(node.name, shape)
        self._note(node, given, result)
        return result

    def _guesses(self, given: list[Value]) -> list[list[Value]]:
        """Guesses for the inputs: as they are known, and, for maps, with the channels on the last axis."""
        guesses = [given]
        maps = [len(value.shape) == 3 and value.axes == MAPS for value in given]
        if any(maps):
            last = (0, 1, 2, 3)
            guesses.append([_turned(value, last) if guess else value for value, guess in zip(given, maps)])
        return guesses

    def _note(self, node: Any, given: list[Value], y: Value) -> None:
        reader = self.reader
        turns = {"y": turn(y)}
        if len(given) == 1:
            turns["x"] = turn(given[0])
        else:
            turns |= {f"x{i}": turn(value) for i, value in enumerate(given)}
        if not reader.nodes:
            self.found[node.name] = lambda run: CopyTwin("copy", turns) if "x" in run.values else None
            return
        does = reader.nodes[-1].does
        if does == "add":
            self.found[node.name] = lambda run: SumTwin("sum", turns)
        elif does == "concat":
            self.found[node.name] = lambda run: JoinTwin("concatenation", turns)
        elif isinstance(does, Layer):
            weights = reader.weights.get(does, {})
            self.found[node.name] = self._layer(node, does, weights, given[0], turns)

    def _layer(
        self, node: Any, layer: Layer, weights: dict[str, Any], x: Value, turns: dict[str, Turn]
    ) -> Callable[[NodeRun], Twin | None]:
        train = self._trains(node)
        if isinstance(layer, Dropout) and not train:
            return lambda run: CopyTwin("copy", turns)

        def make(run: NodeRun) -> Twin | None:
            names = {}
            learned = [name for name in run.values if name not in ("x", "running_mean", "running_var")]
            for name in learned:
                ours = next((ours for ours in OURS.get(name, ("w",)) if ours in weights), None)
                if ours is None or "x" not in run.values:
                    return None
                names[name] = ours
            more = {name: _parameter(layer, ours, x, run.values[name].shape) for name, ours in names.items()}
            state = {n: a for n, a in weights.items() if n in layer.state_names}
            return LayerTwin(type(layer).__name__, turns | more, layer, names, state, train)

        return make

    def _trains(self, node: Any) -> bool:
        if node.op == "call_module":
            return bool(self.root.get_submodule(node.target).training)
        return bool(_its_flag(node)) if _is_flagged(node) else False

    def twin(self, done: Done, run: NodeRun) -> Twin | None:
        """The twin of a node that has run."""
        p = self._drops(done.node)
        if p is not None:
            back = run.gradients.get("x", run.y)
            mask = numpy.where(run.values["x"] != 0, run.y != 0, back != 0) if "x" in run.values else None
            return None if mask is None or not 0 < p < 1 else MaskTwin("its own mask", {}, mask, p)
        make = self.found.get(done.node.name)
        return None if make is None else make(run)

    def _drops(self, node: Any) -> float | None:
        """The rate of a dropout in training; None for anything else."""
        if node.op == "call_module":
            module = self.root.get_submodule(node.target)
            plain = type(module).__name__ in ("Dropout", "Dropout1d", "Dropout2d", "Dropout3d")
            return float(module.p) if plain and module.training and module.p else None
        if _called(node).rstrip("_") in DROPPING and _its_flag(node):
            return float(node.args[1] if len(node.args) > 1 else node.kwargs.get("p", 0.5)) or None
        return None


def turn(value: Value) -> Turn:
    """How to turn PyTorch's tensor of a value into our array."""
    axes, shape, order = value.axes, value.shape, value.order
    by_axis = numpy.argsort(axes)

    def turned(array: numpy.ndarray) -> numpy.ndarray:
        array = array.transpose(by_axis).reshape((array.shape[0], *shape))
        return array if order is None else array[..., order]

    return turned


def _parameter(layer: Layer, ours: str, x: Value, shape: tuple[int, ...]) -> Turn:
    """How to turn PyTorch's parameter into ours."""
    if ours == "w" and len(shape) == 4:
        return lambda w: w.transpose(2, 3, 1, 0)  # (D, C/g, k1, k2) -> (k1, k2, C/g, D)
    if ours == "w" and type(layer).__name__ == "Dense":
        return lambda w: (w if x.order is None else w[:, x.order]).T
    if ours == "b":
        return lambda b: b
    if ours == "w":  # a factor for each channel
        return lambda w: w.reshape(1, 1, 1, -1)
    if len(shape) > 1:  # a layer norm along several axes
        turned = numpy.argsort(x.axes[-len(shape) :])
        return lambda v: v.transpose(turned)
    return lambda v: v if x.order is None else v[x.order]


def _fresh(name: str, shape: tuple[int, ...]) -> Value:
    """A tensor with a known shape and nothing else."""
    if len(shape) == 4:
        return Value(name, (shape[2], shape[3], shape[1]), MAPS)
    return Value(name, tuple(shape[1:]), tuple(range(len(shape))))


def _turned(value: Value, axes: tuple[int, ...]) -> Value:
    theirs = tuple(value.shape[axis - 1] for axis in value.axes[1:])
    return Value(value.node, theirs, axes)


def _fits(value: Value, shape: tuple[int, ...]) -> bool:
    return tuple(value.theirs[1:]) == tuple(shape[1:])


def _is_flagged(node: Any) -> bool:
    return node.op == "call_function" and _called(node) in FLAGGED


def _its_flag(node: Any) -> Any:
    place = FLAGGED.get(_called(node), 2)
    default = _called(node) != "batch_norm"
    return node.args[place] if len(node.args) > place else node.kwargs.get("training", default)
