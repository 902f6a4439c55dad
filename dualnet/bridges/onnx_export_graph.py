"""An ONNX graph while it is being written: its values and their layouts, its nodes, and its constants."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy

from ..layers.layer import Layer, Shape
from ..layers.parameter import Parameter
from ..shim import to_numpy
from ..version import __version__

__all__ = ["OnnxGraph"]

ROWS, FIRST, FLAT = "rows", "channels first", "flat"
MOST_BYTES = 2**31 - 1
"""The largest size of one message in the file's format."""


@dataclass(frozen=True)
class Value:
    """A tensor of the graph: its name, its shape in dualnet (without the batch), and its layout.

    ``ROWS`` is dualnet's own layout; ``FIRST`` is (N, C, H, W) for a map (H, W, C); ``FLAT`` is (N, C·H·W) for a
    flattened map ``map``.
    """

    name: str
    shape: Shape
    lies: str = ROWS
    map: Shape = ()


def told_shape(shape: Shape, first: bool) -> list[int | str]:
    """The shape for the file, with an open batch."""
    return ["N", shape[2], *shape[:2]] if first else ["N", *shape]


class OnnxGraph:
    """An ONNX graph that grows node by node. A layer of your own gets one in its method ``onnx_nodes(graph, x)``.

    ``x`` is the name of the layer's input, with dualnet's layout (N, H, W, C). The method adds nodes that compute the
    same as ``forward`` in inference, and returns the name of its output, with the same layout. ``graph.opset`` is the
    version of the operators, ``graph.dtype`` the network's dtype, and ``graph.shape`` the input's shape without the
    batch.

    >>> import dualnet as dn, tempfile, pathlib
    >>> class Double(dn.Layer):
    ...     def forward(self, x, train=False):
    ...         return 2 * x, dn.Pullback("Double", lambda dy: (2 * dy, {}), x)
    ...     def onnx_nodes(self, graph, x):
    ...         return graph.node("Mul", x, graph.constant(2.0))
    >>> Double().init((3,)).to_onnx(pathlib.Path(tempfile.mkdtemp()) / "double.onnx").name
    'double.onnx'
    """

    def __init__(self, opset: int, dtype: str, exporters: Exporters) -> None:
        self.opset, self.dtype, self._exporters = opset, dtype, exporters
        self.shape: Shape = ()
        self._nodes: list[Any] = []
        self._constants: dict[object, tuple[str, numpy.ndarray]] = {}
        self._kept: list[Any] = []  # keeps alive the objects that the keys above identify
        self._moved: dict[tuple[str, str], str] = {}
        self._names: set[str] = {"input", "output"}
        self._path = ""

    # -- also for layers of your own

    def node(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """Add a node with one output; returns the output's name. An input ``""`` is left out."""
        from onnx import helper

        output = self._name(operator.lower())
        given = {name: value for name, value in attributes.items() if value is not None}
        self._nodes.append(helper.make_node(operator, list(inputs), [output], name=output, **given))
        return output

    def constant(self, value: Any, dtype: str | None = "", *, role: str = "constant") -> str:
        """A constant, in the dtype of the network, in another one or (None) in its own; returns its name.

        A parameter is stored once, even if several layers share it. ``role`` is the last part of its name.
        """
        if isinstance(value, Parameter):
            return self._stored((id(value), role, dtype), role, lambda: to_numpy(value.value), dtype, value)
        return self._stored(len(self._constants), role, lambda: value, dtype)

    # -- layouts

    def first(self, x: Value) -> str:
        """The name of a map with its channels first."""
        if x.lies == FIRST:
            return x.name
        return self.transposed(x.name, (0, 3, 1, 2))

    def rows(self, x: Value) -> str:
        """The name of a value with dualnet's layout."""
        if x.lies == FIRST:
            return self.transposed(x.name, (0, 2, 3, 1))
        if x.lies == FLAT and (x.name, FLAT) not in self._moved:
            H, W, C = x.map
            maps = self.node("Reshape", x.name, self.integers(-1, C, H, W))
            self._moved[x.name, FLAT] = self.node("Flatten", self.transposed(maps, (0, 2, 3, 1)))
        return self._moved[x.name, FLAT] if x.lies == FLAT else x.name

    def transposed(self, name: str, order: Sequence[int]) -> str:
        if (name, str(order)) not in self._moved:
            back = [order.index(axis) for axis in range(len(order))]
            moved = self.node("Transpose", name, perm=list(order))
            self._moved[name, str(order)], self._moved[moved, str(tuple(back))] = moved, name
        return self._moved[name, str(order)]

    # -- for the exporters of the built-in layers

    def layer(self, layer: Layer, path: str, x: Value) -> Value:
        """The output of a layer."""
        before = self._path, self.shape
        self._path, self.shape = path, x.shape
        exporter = exporter_of(layer, self._exporters)
        if exporter is None:
            raise TypeError(no_exporter([(path, layer)]))
        y = exporter(self, layer, x)
        self._path, self.shape = before
        return y

    def inside(self, name: str, layer: Layer, x: Value) -> Value:
        """The output of a layer inside the current one."""
        return self.layer(layer, f"{self._path}.{name}" if self._path else name, x)

    def weights(
        self, parameter: Parameter, role: str, change: Callable[[numpy.ndarray], numpy.ndarray], form: Any = None
    ) -> str:
        """A parameter in ONNX's form; if several forms of one are needed, ``form`` tells them apart."""
        return self._stored((id(parameter), form), role, lambda: change(to_numpy(parameter.value)), "", parameter)

    def wide(self, name: str) -> str:
        """A tensor in the dtype of statistics: float32 if the network computes in 16 bits."""
        return self.node("Cast", name, to=1) if self.dtype == "float16" else name  # 1 is float32's number

    def narrow(self, name: str) -> str:
        return self.node("Cast", name, to=10) if self.dtype == "float16" else name

    @property
    def wide_dtype(self) -> str:
        return "float32" if self.dtype == "float16" else self.dtype

    def number(self, value: float, dtype: str = "") -> str:
        """A scalar, in the wide dtype."""
        return self._stored((value, dtype), "number", lambda: numpy.array(value), dtype or self.wide_dtype)

    def integers(self, *values: int) -> str:
        return self._stored(values, "integers", lambda: numpy.array(values, "int64"), None)

    def _stored(
        self, key: object, role: str, make: Callable[[], Any], dtype: str | None, owner: Parameter | None = None
    ) -> str:
        """The name of a constant; it is stored if its key is new."""
        if key not in self._constants:
            array = numpy.asarray(make())
            self._constants[key] = self._name(role), array if dtype is None else array.astype(dtype or self.dtype)
            self._kept.append(owner)
        return self._constants[key][0]

    def _name(self, kind: str) -> str:
        stem = f"{self._path}.{kind}" if self._path else kind
        name, count = stem, 1
        while name in self._names:
            count += 1
            name = f"{stem}_{count}"
        self._names.add(name)
        return name

    def model(self, takes: list[int | str], result: str, gives: list[int | str], layout: str) -> Any:
        """The whole model, checked by the package ``onnx``."""
        import onnx
        from onnx import helper, numpy_helper

        kind = helper.np_dtype_to_tensor_dtype(numpy.dtype(self.dtype))
        producer = next((node for node in self._nodes if result in node.output), None)
        if producer is None:  # the network does nothing
            self._nodes.append(helper.make_node("Identity", [result], ["output"], name="output"))
        for node in self._nodes if producer is not None else []:
            node.input[:] = ["output" if name == result else name for name in node.input]
            node.output[:] = ["output" if name == result else name for name in node.output]
        graph = helper.make_graph(
            self._nodes,
            "dualnet",
            [helper.make_tensor_value_info("input", kind, takes)],
            [helper.make_tensor_value_info("output", kind, gives)],
            [numpy_helper.from_array(numpy.ascontiguousarray(array), name) for name, array in self._constants.values()],
        )
        opsets = [helper.make_opsetid("", self.opset)]
        model = helper.make_model(
            graph,
            opset_imports=opsets,
            ir_version=helper.find_min_ir_version_for(opsets),
            producer_name="dualnet",
            producer_version=__version__,
        )
        helper.set_model_props(model, {"layout": layout})
        if model.ByteSize() <= MOST_BYTES:
            onnx.checker.check_model(model, full_check=True)
        return model


# -- the exporter of a layer -------------------------------------------------------------------------------------------

Exporter = Callable[[OnnxGraph, Any, Value], Value]
Exporters = Mapping[type[Layer], Exporter]


def exporter_of(layer: Layer, exporters: Exporters) -> Exporter | None:
    """The layer's own exporter, or that of the built-in class whose forward it has."""
    for kind in type(layer).__mro__:
        if "onnx_nodes" in vars(kind):
            return by_own_method
        if kind in exporters:
            return exporters[kind]
        if "forward" in vars(kind) or "infer" in vars(kind):
            return None
    return None


def no_exporter(lacking: list[tuple[str, Layer]]) -> str:
    """What to do about layers without an exporter, each with its place."""
    named = ", ".join(f"{path or 'the network'} ({type(layer).__name__})" for path, layer in lacking)
    code = any(type(layer).__name__ == "Lambda" for _, layer in lacking)
    return (
        f"to_onnx: cannot write {'layer' if len(lacking) == 1 else 'layers'} {named}. Give the class a method "
        "onnx_nodes(self, graph, x) that returns, for example, graph.node('Mul', x, graph.constant(self.g))."
    ) + (" A Lambda is only code: replace it with such a class." if code else "")


def by_own_method(graph: OnnxGraph, layer: Any, x: Value) -> Value:
    """Export a layer of your own, by its ``onnx_nodes``."""
    name, shape = layer.onnx_nodes(graph, graph.rows(x)), layer.output_shape(x.shape)
    if not isinstance(name, str):
        raise TypeError(
            f"to_onnx: {type(layer).__name__}.onnx_nodes returned {name!r}; expected the name of its output, as "
            "graph.node(...) returns it"
        )
    return Value(name, shape)
