"""Single nodes of an ONNX graph: each becomes a small model, for the standard's reference and for dualnet.

A node becomes a graph of one node, whose weights are constants. :func:`dualnet.from_onnx` reads it as a layer, which is
the node's twin; ``onnx.reference``, the definition of the operators in Python, runs it in float64.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy

from ...files.formats import MALFORMED
from ...geometry import elements
from ...layers.parameter import Parameter
from ...parity.cases.limits import ulps
from ...parity.cases.truth import ULPS_OF_EXP, Expected
from ...shim import to_numpy
from ..onnx_constants import FLOATS
from ..onnx_graph import GraphReader
from ..onnx_nodes import READERS
from .steps import Arrays, Twin
from .twins import CopyTwin, JoinTwin, LayerTwin, SumTwin, Turn

__all__ = ["OneNode", "is_real", "turn"]

NUMBERS = {name: number for number, name in FLOATS.items()}
MOVES = {"Flatten", "Reshape", "Squeeze", "Unsqueeze", "Identity", "Dropout", "Transpose", "Cast"}
"""Operators whose output holds the numbers of their first input."""
THROUGH = {"ELU": "alpha", "Sigmoid": 1.0}
"""Activations that a runtime may compute as exp(x) − 1, or by a polynomial, with the rounding of this number."""


def is_real(array: Any) -> bool:
    """Does it hold real numbers in a dtype that is judged?"""
    return getattr(getattr(array, "dtype", None), "name", "") in NUMBERS


@dataclass
class OneNode:
    """A node with its inputs, by their names in the graph, as onnxruntime had them.

    ``computed`` names the inputs that depend on the network's input, and ``output`` the output in question.
    """

    node: Any
    inputs: Arrays
    computed: set[str]
    output: str
    opset: Any

    def reals(self) -> dict[str, str]:
        """The inputs of real numbers: the name that a report gives each, and its name in the graph."""
        names = [name for name in dict.fromkeys(self.node.input) if name in self.inputs and is_real(self.inputs[name])]
        return {"x" if len(names) == 1 else f"x{i}": name for i, name in enumerate(names)}

    def again(self, values: Arrays, dy: numpy.ndarray | None = None) -> tuple[numpy.ndarray, Arrays]:
        """The node by ``onnx.reference``, in the dtype of the values."""
        from onnx.reference import ReferenceEvaluator

        dtype = values["x" if "x" in values else "x0"].dtype
        named = self.reals()
        given = self.inputs | {named[name]: array for name, array in values.items() if name in named}
        given = {name: array.astype(dtype) if is_real(array) else array for name, array in given.items()}
        if "x" in values and "x" not in named:  # a layer's input, beside its weights
            given[self.x()] = values["x"]
        y: Any = ReferenceEvaluator(self._model(given, set())).run([self.output], {})
        return numpy.asarray(y[0]), {}

    def x(self) -> str:
        """The only input that is computed."""
        return next(name for name in self.node.input if name in self.computed)

    def twin(self, y: numpy.ndarray) -> tuple[Twin | None, Arrays]:
        """The node as dualnet computes it, with its values; None if there is no such layer."""
        op, parts = self.node.op_type, {name: self.inputs[at] for name, at in self.reals().items()}
        if self.node.domain not in ("", "ai.onnx"):
            return None, parts
        if op in MOVES and is_real(self.inputs.get(self.node.input[0])):
            return self._copied(y)
        if op in ("Add", "Sum") and self.computed.issuperset(self.node.input):
            return SumTwin("sum", {}), {f"x{i}": self.inputs[name] for i, name in enumerate(self.node.input)}
        if op == "Concat":
            return self._joined(parts)
        if len([name for name in self.node.input if name in self.computed]) != 1:
            return None, parts
        found = self._layer(y)
        return (None, parts) if found is None else found

    def _copied(self, y: numpy.ndarray) -> tuple[Twin | None, Arrays]:
        x = self.inputs[self.node.input[0]]
        training = self.inputs.get(self.node.input[2]) if len(self.node.input) > 2 else None
        if x.size != y.size or (self.node.op_type == "Dropout" and training is not None and training.any()):
            return None, {"x": x}
        if self.node.op_type == "Cast":
            return CopyTwin("copy", {"x": lambda a: a.astype(y.dtype)}), {"x": x}
        axes = next((list(one.ints) for one in self.node.attribute if one.name == "perm"), None)
        transposes = self.node.op_type == "Transpose"
        return CopyTwin("copy", {"x": lambda a: a.transpose(axes) if transposes else a.reshape(y.shape)}), {"x": x}

    def _joined(self, parts: Arrays) -> tuple[Twin | None, Arrays]:
        axis = next(one.i for one in self.node.attribute if one.name == "axis")
        if len(parts) < 2 or len(parts) != len(self.node.input):
            return None, parts

        def last(array: numpy.ndarray) -> numpy.ndarray:
            return numpy.moveaxis(array, axis, -1)

        return JoinTwin("join", dict.fromkeys([*parts, "y"], last)), parts

    def _layer(self, y: numpy.ndarray) -> tuple[Twin, Arrays] | None:
        """The layer that ``from_onnx`` makes of the node."""
        x = self.inputs[self.x()]
        if not is_real(x) or self.output != self.node.output[0]:
            return None
        reader = GraphReader(self._model(self.inputs, {self.x()}), Path(), None, READERS)
        try:
            layers = reader.network().layers
        except (*MALFORMED, OSError):
            return None
        before, after = reader.values.get(self.x()), reader.values.get(self.output)
        if len(layers) != 1 or layers[0].children() or before is None or after is None:
            return None
        layer: Any = layers[0]
        shape = (len(y), *layer.output_shape(before.shape))
        if elements(shape) != y.size or (after.flat and not after.in_our_order):
            return None
        turns = {"x": turn(before.order, x.ndim, (len(x), *before.shape)), "y": turn(after.order, y.ndim, shape)}
        weights = {name: to_numpy(p.value) for name, p in vars(layer).items() if isinstance(p, Parameter)}
        state = {name: to_numpy(getattr(layer, name)) for name in layer.state_names}
        twin = NodeTwin(type(layer).__name__, turns, layer, {name: name for name in weights}, state)
        return twin, {"x": x, **weights}

    def _model(self, given: Arrays, entries: set[str]) -> Any:
        """A model of this node only; every input that is not an entry is a constant."""
        from onnx import helper, numpy_helper

        constants = [numpy_helper.from_array(numpy.asarray(given[name]), name) for name in given if name not in entries]
        inputs = [
            helper.make_tensor_value_info(name, NUMBERS[given[name].dtype.name], given[name].shape) for name in entries
        ]
        outputs = [helper.make_tensor_value_info(self.output, 1, None)]
        graph = helper.make_graph([self.node], "node", inputs, outputs, constants)
        return helper.make_model(graph, opset_imports=self.opset, ir_version=10)


def turn(order: tuple[int, ...], axes: int, shape: tuple[int, ...]) -> Turn:
    """Their array to ours: ``order[i]`` is our axis for their axis i."""

    def turned(array: numpy.ndarray) -> numpy.ndarray:
        if axes == len(order):
            array = array.transpose(numpy.argsort(order))
        return array.reshape(shape)

    return turned


class NodeTwin(LayerTwin):
    """A layer of ours, judged as a runtime may compute it."""

    def expected(self, values: Arrays, dy: numpy.ndarray | None = None) -> dict[str, Expected]:
        found = super().expected(values, dy)
        through: Any = THROUGH.get(self.kind)
        if through is not None and (r := found["y"].value) is not None:
            least = abs(getattr(self.layer, through) if isinstance(through, str) else through)
            dtype = values["x"].dtype.name
            found["y"] = Expected(r, ulps(r, dtype, ULPS_OF_EXP[dtype], numpy.maximum(numpy.abs(r), least)))
        return found
