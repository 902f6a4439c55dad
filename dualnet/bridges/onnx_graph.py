"""The graph of an ONNX file as a network: what is known about each value, and the layers in the order of the nodes.

The functions that turn a node into a layer are in onnx_nodes.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy

from .. import layers as L
from ..files.formats import MALFORMED, CheckpointError
from ..geometry import check_shape, elements
from ..layers.initializers import Draw
from ..layers.layer import Layer, Shape
from ..layers.sketch import sketch
from .onnx_constants import FLOATING, FLOATS, FOLDS, MOST_FOLDED, Constants, Lacking, dtype_name
from .onnx_patterns import Call, simplified
from .regions import Node, nest

MOST_NODES = 10_000
FIRST = (0, 3, 1, 2)
UNITWISE = set("Relu LeakyRelu Elu Gelu Sigmoid Tanh Softplus PRelu Swish Identity Dropout Cast Add Silu".split())
BEFORE_WINDOWS = "a Pad is read only right before a convolution or a pooling"
TAKES_PADDING = {"Conv", "MaxPool", "AveragePool", "LpPool", "Pad"}


@dataclass(frozen=True)
class Value:
    """What the importer knows about a tensor.

    ``node`` names the node that makes it, in the graph for regions.py. ``shape`` is its shape here, without the batch;
    ``order[i]`` is the axis here (counting the batch, 0) that is axis i in the file. ``flat`` means that the file has
    it as (N, K), and ``flattened`` that our network has.
    """

    node: str
    shape: Shape
    order: tuple[int, ...]
    flat: bool = False
    flattened: bool = False
    padding: tuple[tuple[int, int], tuple[int, int]] = ((0, 0), (0, 0))  # of a Pad, for the layer after it
    padded_with: float = 0.0

    @property
    def extents(self) -> tuple[int, ...]:
        """The axes after the batch, as the file orders them."""
        return tuple(self.shape[axis - 1] for axis in self.order[1:])

    @property
    def in_our_order(self) -> bool:
        """Are its units in the same order as here?"""
        long = [axis for axis in self.order[1:] if self.shape[axis - 1] > 1]
        return long == sorted(long)


Reader = Callable[["GraphReader", Call], Value | None]
"""Adds the layer of a node, if it needs one, and returns what is known about the node's value."""


class GraphReader:
    """Reads one model; ``readers`` has a function for each operator that is covered."""

    def __init__(self, model: Any, path: Path, input_shape: Shape | None, readers: Mapping[str, Reader]) -> None:
        self.readers = readers
        self.model, self.graph, self.path, self.given = model, model.graph, path, input_shape
        self.opset = max((one.version for one in model.opset_import if one.domain in ("", "ai.onnx")), default=0)
        self.constants = Constants(model, path)
        self.nodes: list[Node] = []
        self.places: dict[str, int] = {}  # the position of each in the list
        self.weights: dict[Layer, dict[str, numpy.ndarray]] = {}
        self.values: dict[str, Value | None] = {}
        self.uses: Counter[str] = Counter()
        self.batch: int = -1
        self.dtype = ""

    # -- the whole

    def network(self) -> L.Sequential:
        if not self.graph.node or not self.opset:
            raise CheckpointError("it is not an ONNX file, or it holds no graph")
        if len(self.graph.node) > MOST_NODES:
            raise CheckpointError(f"the graph has {len(self.graph.node):,} nodes; expected at most {MOST_NODES:,}")
        entry = self._only([one for one in self.graph.input if one.name not in self.constants.known], "inputs")
        result = self._only(list(self.graph.output), "outputs").name
        named = Counter(name for node in self.graph.node for name in node.output if name)
        if max(named.values(), default=0) > 1 or entry.name in named:
            raise CheckpointError(f"several nodes make {named.most_common(1)[0][0]!r}; expected one")
        calls = simplified([Call.of(node) for node in self.graph.node], self.constants.get)
        calls = self._needed(calls, result)
        self.uses.update([result, *(name for call in calls for name in call.inputs)])
        x = self._input(entry, calls)
        self.values[entry.name] = x
        self._read_all(calls)
        y = self.values.get(result)
        if y is None:
            raise CheckpointError(f"no node makes the output {result!r}")
        self._at_the_end(y)
        try:
            net, _ = nest(self.nodes, entry.name, y.node)
        except ValueError as error:
            raise Lacking(str(error)) from error
        return self._filled(net, x.shape, self.dtype)

    def _only(self, found: list[Any], what: str) -> Any:
        if len(found) != 1:
            named = f" ({', '.join(one.name for one in found)})" if found else ""
            raise Lacking(
                f"it has {len(found)} {what}{named}; expected one. Export a model with one input and one output"
            )
        return found[0]

    def _needed(self, calls: list[Call], result: str) -> list[Call]:
        """The nodes that lead to the output."""
        wanted, needed = {result}, []
        for call in reversed(calls):
            if wanted & set(call.outputs) and call.outputs[0] not in self.constants.known:
                wanted.update(name for name in call.inputs if name)
                needed.append(call)
        return needed[::-1]

    def _input(self, entry: Any, calls: list[Call]) -> Value:
        kind = entry.type.tensor_type
        if kind.elem_type not in FLOATS:
            raise Lacking(f"its input {entry.name!r} has dtype {dtype_name(kind.elem_type)}; expected {FLOATING}")
        dims = [one.dim_value if one.HasField("dim_value") and one.dim_value > 0 else None for one in kind.shape.dim]
        if not 2 <= len(dims) <= 5:
            raise Lacking(f"its input {entry.name!r} has {len(dims)} axes; expected 2 to 5, with the batch")
        self.batch, self.dtype = dims[0] or -1, FLOATS[kind.elem_type]
        first = len(dims) == 4 and self._channels_first(entry.name, calls)
        order = FIRST if first else tuple(range(len(dims)))
        told = [dims[order.index(axis)] for axis in range(1, len(dims))]
        if self.given is not None:
            fits = len(self.given) == len(told) and all(one in (None, two) for one, two in zip(told, self.given))
            if not fits:
                raise Lacking(f"input_shape={self.given} does not fit its input {tuple(told)}; only None is open")
            told = list(self.given)
        if None in told:
            letters = {1: "(K,)", 3: "(H, W, C)"}.get(len(told), "(...)")
            raise Lacking(
                f"it leaves the shape of its input open, {tuple(told)}. Pass it: from_onnx(path, input_shape={letters})"
            )
        shape = tuple(one for one in told if one is not None)
        return Value(entry.name, check_shape(shape, "from_onnx"), order)

    def _channels_first(self, name: str, calls: list[Call]) -> bool:
        """Usually yes; but a file made for images (N, H, W, C) has a transpose or a dense layer before its maps."""
        layout = next((one.value for one in self.model.metadata_props if one.key == "layout"), "")
        if self.model.producer_name == "dualnet" and layout in ("NHWC", "NCHW"):
            return layout == "NCHW"
        alike = {name}
        for call in calls:
            if alike & set(call.inputs):
                if call.operator == "Transpose":
                    return list(call.attributes.get("perm", ())) != list(FIRST)
                if call.operator == "MatMul":
                    return False
                if call.operator not in UNITWISE:
                    return True
                alike.update(call.outputs)
        return True

    def _read_all(self, calls: list[Call]) -> None:
        lacking: dict[str, list[str]] = {}  # nodes, by the operator and the reason
        for call in calls:
            if all(name in self.constants.known or not name for name in call.inputs) and self._fold(call):
                continue
            reader = self.readers.get(call.operator) if call.domain in ("", "ai.onnx") else None
            known = all(n in self.constants.known or self.values.get(n, 0) is not None for n in call.inputs)
            value = None
            try:
                if reader is None and (known or call.operator not in FOLDS):  # after what is lacking, shapes are too
                    raise Lacking(f"dualnet has no layer for {call.domain + '.' if call.domain else ''}{call.operator}")
                self._check_outputs(call)
                if known and reader is not None:
                    value = reader(self, call)
            except Lacking as error:
                lacking.setdefault(f"({call.operator}: {error})", []).append(call.name)
            except MALFORMED as error:
                raise CheckpointError(f"node {call.name} ({call.operator}): {error}") from error
            self.values |= {name: value if place == 0 else None for place, name in enumerate(call.outputs) if name}
        if lacking:
            count = sum(map(len, lacking.values()))
            told = "; ".join(f"{_some(names)} {why}" for why, names in lacking.items())
            raise Lacking(
                f"{count} of its nodes {'has' if count == 1 else 'have'} no counterpart in dualnet: {told}. Use layers "
                "that dualnet has, and export again; or keep the part before with onnx.utils.extract_model"
            )

    def _check_outputs(self, call: Call) -> None:
        """Raise if more than the first output of a node is used: a layer has one output."""
        used = [name for name in call.outputs[1:] if name and self.uses[name]]
        if used:
            raise Lacking(f"the graph uses its output {used[0]!r}, but a layer gives only the first output")

    def _at_the_end(self, y: Value) -> None:
        if y.padding != ((0, 0), (0, 0)):
            raise Lacking(f"it ends with a Pad, but {BEFORE_WINDOWS}. Export the model without it")
        if y.flat and not y.in_our_order:
            raise Lacking(
                f"it ends with maps {y.shape} that are flattened in a different order than in dualnet, so the outputs "
                "would be in a different order. Export the model without its last node"
            )

    def _filled(self, net: L.Sequential, shape: Shape, dtype: str) -> L.Sequential:
        """The network with the file's weights."""
        sketch(net, shape, dtype)
        state = net.state_dict()
        for place, layer in net.walk():
            state |= {f"{place}.{name}": array for name, array in self.weights.get(layer, {}).items()}
        draw = Draw(0)
        for at, name in enumerate(state):
            if name.endswith(".seed"):  # so that masks differ if it is trained
                state[name] = draw.child(at).key()
        net.load_state_dict(state)
        return net

    # -- used by the readers

    def value(self, call: Call, place: int = 0) -> Value:
        """The input of a node."""
        name = call.inputs[place] if place < len(call.inputs) else ""
        value = self.values.get(name)
        if value is None:
            if name in self.constants.known:
                raise Lacking("its input is a constant; expected the output of another node")
            raise CheckpointError(f"it takes {name!r}, which no earlier node makes")
        if value.padding != ((0, 0), (0, 0)) and call.operator not in TAKES_PADDING:
            raise Lacking(f"it comes after a Pad, but {BEFORE_WINDOWS}")
        return value

    def maps(self, call: Call) -> Value:
        """The maps that are a node's input, with their channels first."""
        x = self.value(call)
        if x.order != FIRST or x.flat or x.flattened:
            got = "maps with their axes in a different order" if len(x.shape) == 3 else f"{len(x.shape) + 1} axes"
            raise Lacking(f"it takes {'rows' if x.flat or x.flattened else got}; expected maps (N, C, H, W)")
        return x

    def constant(self, call: Call, place: int) -> numpy.ndarray | None:
        """A constant input; None if it is left out."""
        name = call.inputs[place] if place < len(call.inputs) else ""
        if not name:
            return None
        if name not in self.constants.known:
            raise Lacking(f"another node computes its input {place} ({name}); expected a constant")
        array = self.constants.array(name)
        if not array.size and array.dtype.kind == "f":
            raise CheckpointError(f"its input {place} ({name}) is empty: it has the shape {array.shape}")
        return array

    def needed(self, call: Call, place: int) -> numpy.ndarray:
        array = self.constant(call, place)
        if array is None:
            raise CheckpointError(f"its input {place} is missing")
        return array

    def integers(self, call: Call, place: int) -> list[int] | None:
        array = self.constant(call, place)
        if array is None:
            return None
        if array.dtype.kind != "i" or array.size > MOST_FOLDED:
            raise CheckpointError(
                f"its input {place} holds {array.size:,} numbers of dtype {array.dtype}; expected at most "
                f"{MOST_FOLDED:,} integers"
            )
        return [int(one) for one in array.ravel()]

    def number(self, value: float) -> float:
        """An attribute is float32, such as 0.009999999776; it was meant as the shortest number that rounds to it, 0.01.

        In a float64 network the difference counts, so it stays as it is.
        """
        return float(value) if self.dtype == "float64" else float(str(numpy.float32(value)))

    def put(self, layer: Layer, x: Value, call: Call, **weights: numpy.ndarray | None) -> Value:
        """Add a layer after a value."""
        shape = (elements(x.shape),) if x.flattened else x.shape
        after = layer.output_shape(shape)
        name = call.outputs[0]
        self.append(Node(name, (x.node,), layer))
        self.weights[layer] = {key: array for key, array in weights.items() if array is not None}
        plain = replace(x, node=name, padding=((0, 0), (0, 0)))
        if after == shape and not isinstance(layer, L.Dense):
            return plain
        if x.flat or len(after) != len(x.shape):
            return Value(name, after, tuple(range(len(after) + 1)))
        return replace(plain, shape=after)

    def lone_layer(self, name: str) -> Layer | None:
        """The layer that makes this tensor, if only one node takes the tensor."""
        value, place = self.values.get(name), self.places.get(name)
        if value is None or place is None or value.node != name or self.uses[name] != 1:
            return None
        does = self.nodes[place].does
        return does if isinstance(does, Layer) else None

    def append(self, node: Node) -> None:
        """Add a node to the graph for regions.py."""
        self.places[node.name] = len(self.nodes)
        self.nodes.append(node)

    def rows_of(self, x: Value, array: numpy.ndarray) -> numpy.ndarray:
        """An array with one row for each unit of a flattened value, its rows put in our order."""
        if x.in_our_order or not x.flat:
            return array
        back = [x.order.index(axis) - 1 for axis in range(1, len(x.order))]
        rest = array.shape[1:]
        turned = array.reshape(*x.extents, *rest).transpose(*back, *range(len(back), len(back) + len(rest)))
        return turned.reshape(array.shape)

    def _fold(self, call: Call) -> bool:
        """Compute a node of constants now, if it only moves numbers about."""
        return self.constants.fold(call) if call.domain in ("", "ai.onnx") else False


def _some(names: list[str], most: int = 3) -> str:
    """The first of the names, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
