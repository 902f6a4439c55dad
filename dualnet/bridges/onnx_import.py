"""ONNX files as networks: nodes become layers, and the graph around them becomes containers.

Each value of the graph is known by the layer that makes it, by its shape here (H, W, C), and by the order in which the
file lays out those axes. So a ``Transpose`` is no layer: it only changes that order. What a layer needs of its weights
is turned from the file's order into ours. regions.py then makes nested containers of the flat list.

Nothing in a file is run. What it claims is compared with its size before anything is allocated, and weights that lie
in files beside it are read from its own folder only.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy

from .. import layers as L
from ..files.formats import MALFORMED, CheckpointError, shortened
from ..geometry import check_shape, elements, placed
from ..layers.initializers import Draw
from ..layers.layer import Layer, Shape
from ..layers.sketch import sketch
from ..models import PaddedShortcut
from .onnx_export import MOST_BYTES, need_onnx, units_of
from .onnx_patterns import Call, simplified
from .regions import Node, nest

__all__ = ["from_onnx"]

FLOATS = {1: "float32", 10: "float16", 11: "float64"}  # ONNX's numbers of dtypes
MOST_NODES = 10_000
MOST_FOLDED = 1000
"""Elements of an array that is computed from others: it is the shape for a Reshape."""
MOST_SPREAD = 10**6
FIRST = (0, 3, 1, 2)
UNITWISE = set("Relu LeakyRelu Elu Gelu Sigmoid Tanh Softplus PRelu Swish Identity Dropout Cast Add Silu".split())


class Lacking(ValueError):
    """There is no layer that does this."""


@dataclass(frozen=True)
class Value:
    """What the importer knows of a tensor.

    ``node`` names the node that makes it, in the graph for regions.py. ``shape`` is its shape here, without the batch;
    ``order[i]`` is the axis here (with the batch, 0) that lies at place i in the file. ``flat`` says that the file has
    it as (N, K), and ``flattened`` that our network has.
    """

    node: str
    shape: Shape
    order: tuple[int, ...]
    flat: bool = False
    flattened: bool = False
    padding: tuple[tuple[int, int], tuple[int, int]] = ((0, 0), (0, 0))  # of a Pad, for the layer behind it
    padded_with: float = 0.0

    @property
    def extents(self) -> tuple[int, ...]:
        """The axes behind the batch, as the file orders them."""
        return tuple(self.shape[axis - 1] for axis in self.order[1:])

    @property
    def in_our_order(self) -> bool:
        """Would it read the same, unit by unit, in the order here?"""
        long = [axis for axis in self.order[1:] if self.shape[axis - 1] > 1]
        return long == sorted(long)


def from_onnx(path: str | os.PathLike, *, input_shape: Shape | None = None) -> L.Sequential:
    """The network in an ONNX file, of layers that can be looked into, trained and saved like any others.

    Images go in and maps come out as (N, H, W, C), however the file has them. ``input_shape`` (H, W, C) is needed only
    if the file leaves height or width open; the number of examples is always free. The network computes in the dtype
    of the file's input (float16, float32 or float64), on the backend in force.

    What the layers of dualnet cover is read: convolutions, dense layers, pooling, normalisation, activations, sums and
    concatenations of branches, also where an exporter has written an activation or a norm in small steps. A layer that
    was used twice becomes two of the same weights.

    Raises ``ValueError`` that names every node without a counterpart here, or the node where the graph is no nest of
    containers; :class:`dualnet.CheckpointError` (a ``ValueError``) for a file that is damaged or something else;
    ``FileNotFoundError`` if there is none, and ``ImportError`` without ``dualnet[onnx]``.

    >>> import dualnet as dn, tempfile, pathlib
    >>> net = dn.Sequential([dn.Conv2D(4, 3), dn.ReLU(), dn.Flatten(), dn.Dense(2)]).init((5, 5, 1))
    >>> path = net.to_onnx(pathlib.Path(tempfile.mkdtemp()) / "net.onnx")
    >>> same = dn.from_onnx(path)
    >>> [type(layer).__name__ for layer in same], same.input_shape
    (['Conv2D', 'ReLU', 'Flatten', 'Dense'], (5, 5, 1))
    """
    onnx = need_onnx("from_onnx")
    found = Path(os.fsdecode(path)).expanduser()
    if found.is_dir():
        raise ValueError(f"from_onnx: {str(path)!r} is a folder; expected a file, such as model.onnx")
    with open(found, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size > MOST_BYTES:
            raise CheckpointError(f"{found}: it has {size:,} bytes; one ONNX file has at most {MOST_BYTES:,}")
        content = file.read()
    try:
        model = onnx.ModelProto.FromString(content)
    except Exception as error:  # the package protobuf has errors of its own
        raise CheckpointError(f"{found}: it is not an ONNX file ({shortened(str(error))})") from error
    given = None if input_shape is None else check_shape(input_shape, "from_onnx")
    try:
        return _Reader(model, found, given).network()
    except CheckpointError:
        raise
    except Lacking as error:
        raise ValueError(f"{found}: {shortened(str(error))}") from error
    except (*MALFORMED, OSError) as error:
        raise CheckpointError(f"{found}: {shortened(str(error) or type(error).__name__)}") from error


class _Reader:
    """Reads one model."""

    def __init__(self, model: Any, path: Path, input_shape: Shape | None) -> None:
        self.model, self.graph, self.path, self.given = model, model.graph, path, input_shape
        self.opset = max((one.version for one in model.opset_import if one.domain in ("", "ai.onnx")), default=0)
        self.constants = _Constants(model, path)
        self.nodes: list[Node] = []
        self.places: dict[str, int] = {}  # where each of them stands in the list
        self.weights: dict[int, dict[str, numpy.ndarray]] = {}
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
        entry = self._only(
            [one for one in self.graph.input if one.name not in self.constants.known], "inputs without a value"
        )
        result = self._only(list(self.graph.output), "outputs").name
        named = Counter(name for node in self.graph.node for name in node.output if name)
        if max(named.values(), default=0) > 1 or entry.name in named:
            raise CheckpointError(f"several nodes make {named.most_common(1)[0][0]!r}")
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
            named = ", ".join(one.name for one in found)
            raise Lacking(f"the graph has {len(found)} {what} ({named}); a network here has one")
        return found[0]

    def _needed(self, calls: list[Call], result: str) -> list[Call]:
        """The nodes that lead to the output."""
        wanted, needed = {result}, []
        for call in reversed(calls):
            if wanted & set(call.outputs) and call.outputs[0] not in self.constants.known:
                wanted.update(call.inputs)
                needed.append(call)
        return needed[::-1]

    def _input(self, entry: Any, calls: list[Call]) -> Value:
        kind = entry.type.tensor_type
        if kind.elem_type not in FLOATS:
            raise Lacking(f"its input {entry.name!r} has dtype number {kind.elem_type}; expected {FLOATS}")
        dims = [one.dim_value if one.HasField("dim_value") and one.dim_value > 0 else None for one in kind.shape.dim]
        if not 2 <= len(dims) <= 5:
            raise Lacking(f"its input {entry.name!r} has {len(dims)} axes; expected a batch and one to four more")
        self.batch, self.dtype = dims[0] or -1, FLOATS[kind.elem_type]
        first = len(dims) == 4 and self._channels_first(entry.name, calls)
        order = FIRST if first else tuple(range(len(dims)))
        told = [dims[order.index(axis)] for axis in range(1, len(dims))]
        if self.given is not None:
            fits = len(self.given) == len(told) and all(one in (None, two) for one, two in zip(told, self.given))
            if not fits:
                raise Lacking(f"input_shape is {self.given}, but its input is {tuple(told)} (None is open)")
            told = list(self.given)
        if None in told:
            raise Lacking(
                f"it leaves the shape of its input open, {tuple(told)}: say it, from_onnx(path, input_shape=(H, W, C))"
            )
        shape = tuple(one for one in told if one is not None)
        return Value(entry.name, check_shape(shape, "from_onnx"), order)

    def _channels_first(self, name: str, calls: list[Call]) -> bool:
        """As a rule; but a file made for images (N, H, W, C) has a transpose or a dense layer before its maps."""
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
        lacking = []
        for call in calls:
            if all(name in self.constants.known or not name for name in call.inputs) and self._fold(call):
                continue
            reader = READERS.get(call.operator) if call.domain in ("", "ai.onnx") else None
            known = all(self.values.get(name, 0) is not None for name in call.inputs)
            value = None
            try:
                if reader is None:
                    raise Lacking(f"no layer is {call.domain + '.' if call.domain else ''}{call.operator}")
                if known:
                    value = reader(self, call)
            except Lacking as error:
                lacking.append(f"{call.name} ({call.operator}: {error})")
            except MALFORMED as error:
                raise CheckpointError(f"node {call.name} ({call.operator}): {error}") from error
            self.values[call.outputs[0]] = value
        if lacking:
            raise Lacking(f"{len(lacking)} of its nodes have no counterpart among the layers: {'; '.join(lacking)}")

    def _at_the_end(self, y: Value) -> None:
        if y.padding != ((0, 0), (0, 0)):
            raise Lacking("it ends with a Pad, which only a convolution or a pooling behind it can take over")
        if y.flat and not y.in_our_order:
            raise Lacking(
                f"it ends with maps {y.shape} that are flattened in another order of axes than here, so the outputs "
                "would stand in another order"
            )

    def _filled(self, net: L.Sequential, shape: Shape, dtype: str) -> L.Sequential:
        """The network with the file's weights."""
        sketch(net, shape, dtype)
        state = net.state_dict()
        for place, layer in net.walk():
            state |= {f"{place}.{name}": array for name, array in self.weights.get(id(layer), {}).items()}
        draw = Draw(0)
        for at, name in enumerate(state):
            if name.endswith(".seed"):  # so that masks differ, should it be trained
                state[name] = draw.child(at).key()
        net.load_state_dict(state)
        return net

    # -- what readers use

    def value(self, call: Call, place: int = 0) -> Value:
        """The tensor that a node takes."""
        name = call.inputs[place] if place < len(call.inputs) else ""
        value = self.values.get(name)
        if value is None:
            if name in self.constants.known:
                raise Lacking("it takes a constant where a layer takes its input")
            raise CheckpointError(f"it takes {name!r}, which no node before it makes")
        if value.padding != ((0, 0), (0, 0)) and call.operator not in TAKES_PADDING:
            raise Lacking("it stands behind a Pad, which only a convolution or a pooling can take over")
        return value

    def maps(self, call: Call) -> Value:
        """The maps that a node takes, with their channels first."""
        x = self.value(call)
        if x.order != FIRST or x.flat or x.flattened:
            raise Lacking(
                f"it takes {'rows' if x.flat or x.flattened else 'axes in another order'}; expected (N, C, H, W)"
            )
        return x

    def constant(self, call: Call, place: int) -> numpy.ndarray | None:
        """A constant input; None if it is left out."""
        name = call.inputs[place] if place < len(call.inputs) else ""
        if not name:
            return None
        if name not in self.constants.known:
            raise Lacking(f"its input {place} ({name}) is computed; expected a constant")
        array = self.constants.array(name)
        if not array.size and array.dtype.kind == "f":
            raise CheckpointError(f"its input {place} ({name}) has the shape {array.shape}, without elements")
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
            raise CheckpointError(f"its input {place} holds {array.size} numbers of dtype {array.dtype}")
        return [int(one) for one in array.ravel()]

    def number(self, value: float) -> float:
        """An attribute: it is float32, 0.009999999776, and was meant to be the shortest number that rounds to it, 0.01.

        Not in a network of float64, where the difference counts.
        """
        return float(value) if self.dtype == "float64" else float(str(numpy.float32(value)))

    def put(self, layer: Layer, x: Value, call: Call, **weights: numpy.ndarray | None) -> Value:
        """Add a layer behind a value."""
        shape = (elements(x.shape),) if x.flattened else x.shape
        after = layer.output_shape(shape)
        name = call.outputs[0]
        self.append(Node(name, (x.node,), layer))
        self.weights[id(layer)] = {key: array for key, array in weights.items() if array is not None}
        plain = replace(x, node=name, padding=((0, 0), (0, 0)))
        if after == shape and not isinstance(layer, L.Dense):
            return plain
        if x.flat or len(after) != len(x.shape):
            return Value(name, after, tuple(range(len(after) + 1)))
        return replace(plain, shape=after)

    def lone_layer(self, name: str) -> Layer | None:
        """The layer that makes this tensor, if nobody else takes the tensor."""
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


class _Constants:
    """The numbers in a file, read when they are asked for."""

    def __init__(self, model: Any, path: Path) -> None:
        self.folder = path.parent
        self.known: dict[str, Any] = {one.name: one for one in model.graph.initializer}
        for node in model.graph.node:
            if node.op_type == "Constant" and node.domain in ("", "ai.onnx") and node.output:
                self.known[node.output[0]] = node

    def get(self, name: str) -> numpy.ndarray | None:
        """A constant; None for anything else."""
        return self.array(name) if name in self.known else None

    def array(self, name: str) -> numpy.ndarray:
        found = self.known[name]
        if not isinstance(found, numpy.ndarray):
            try:
                found = _of_node(found, self.folder) if hasattr(found, "op_type") else _array(found, self.folder)
            except MALFORMED as error:
                raise CheckpointError(f"constant {name!r}: {error}") from error
            self.known[name] = found
        return found

    def fold(self, call: Call) -> bool:
        arrays = [self.array(name) if name else None for name in call.inputs]
        if not arrays or arrays[0] is None or call.operator not in FOLDS:
            return False
        self.known[call.outputs[0]] = numpy.asarray(FOLDS[call.operator](call, *arrays))
        return True


def _of_node(node: Any, folder: Path) -> numpy.ndarray:
    """The value of a Constant."""
    given = {one.name: one for one in node.attribute}
    if "value" in given:
        return _array(given["value"].t, folder)
    for name, dtype in (("value_int", "int64"), ("value_float", "float32")):
        if name in given:
            return numpy.array(given[name].i if name == "value_int" else given[name].f, dtype)
    if "value_ints" in given or "value_floats" in given:
        ints = "value_ints" in given
        return numpy.array(
            list(given["value_ints"].ints if ints else given["value_floats"].floats), "int64" if ints else "float32"
        )
    raise ValueError("a Constant without numbers")


def _array(tensor: Any, folder: Path) -> numpy.ndarray:
    """A tensor of the file, after its size was compared with what it claims."""
    from onnx import TensorProto, helper, numpy_helper

    kinds = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.INT64, TensorProto.INT32}
    if tensor.data_type not in kinds:
        raise ValueError(f"it has dtype number {tensor.data_type}; expected floats of 16, 32 or 64 bits, or integers")
    dtype, dims = numpy.dtype(helper.tensor_dtype_to_np_dtype(tensor.data_type)), tuple(tensor.dims)
    if len(dims) > 8 or any(n < 0 for n in dims):
        raise ValueError(f"it has the shape {dims[:9]}")
    count = math.prod(dims)
    if tensor.data_location == TensorProto.EXTERNAL:
        return _beside(tensor, folder, dtype, count).reshape(dims)
    held = len(tensor.raw_data) // dtype.itemsize if tensor.HasField("raw_data") else None
    if held is None:
        held = len(getattr(tensor, helper.tensor_dtype_to_field(tensor.data_type)))
    if held != count or len(tensor.raw_data) % dtype.itemsize:
        raise ValueError(f"its shape {dims} has {count} elements, but the file holds {held}")
    return numpy_helper.to_array(tensor)


def _beside(tensor: Any, folder: Path, dtype: numpy.dtype, count: int) -> numpy.ndarray:
    """Numbers in a file beside the model: in its folder or one inside it, never elsewhere."""
    told = {one.key: one.value for one in tensor.external_data}
    home = os.path.realpath(folder)
    where = os.path.realpath(os.path.join(home, told.get("location", "")))
    if "location" not in told or os.path.commonpath([home, where]) != home or not os.path.isfile(where):
        raise CheckpointError(
            f"its numbers are to be read from {shortened(told.get('location', ''))!r}, which is no file in the folder "
            "of the model"
        )
    offset, size = int(told.get("offset", 0)), count * dtype.itemsize
    if int(told.get("length", size)) != size or offset < 0 or offset + size > os.path.getsize(where):
        raise CheckpointError(f"its {count} elements do not lie in {told['location']!r} where it says")
    return numpy.fromfile(where, dtype.newbyteorder("<"), count, offset=offset)


def _folded(make: Callable[..., numpy.ndarray]) -> Callable[..., numpy.ndarray]:
    """For nodes that make one array of several: only of few elements, which is what shapes have."""

    def fold(call: Call, *arrays: numpy.ndarray) -> numpy.ndarray:
        if sum(array.size for array in arrays if array is not None) > MOST_FOLDED:
            raise Lacking("it computes with constants")
        return make(call, *arrays)

    return fold


def _axes_of(call: Call, array: numpy.ndarray, axes: numpy.ndarray | None) -> tuple[int, ...]:
    given = call.attributes.get("axes") if axes is None else axes.ravel().tolist()
    return tuple(int(axis) for axis in given or ())


FOLDS: dict[str, Callable[..., numpy.ndarray]] = {
    "Identity": lambda call, array: array,
    "Cast": lambda call, array: array.astype(FLOATS.get(call.attributes["to"], "int64")),
    "Transpose": lambda call, array: array.transpose(call.attributes.get("perm")),
    "Reshape": lambda call, array, shape: array.reshape([int(n) for n in shape.ravel()]),
    "Unsqueeze": lambda call, array, axes=None: numpy.expand_dims(array, _axes_of(call, array, axes)),
    "Squeeze": lambda call, array, axes=None: numpy.squeeze(array, _axes_of(call, array, axes) or None),
    "Concat": _folded(lambda call, *arrays: numpy.concatenate(arrays, axis=call.attributes["axis"])),
    "Gather": _folded(lambda call, array, at: numpy.take(array, at, axis=call.attributes.get("axis", 0))),
}


# -- one reader for each operator --------------------------------------------------------------------------------------

Reader = Callable[[_Reader, Call], Value | None]
READERS: dict[str, Reader] = {}
TAKES_PADDING = {"Conv", "MaxPool", "AveragePool", "LpPool"}


def _reads(*operators: str) -> Callable[[Reader], Reader]:
    def keep(reader: Reader) -> Reader:
        READERS.update(dict.fromkeys(operators, reader))
        return reader

    return keep


def _pair(call: Call, name: str, default: int = 1) -> tuple[int, int]:
    given = call.attributes.get(name) or [default, default]
    if len(given) != 2:
        raise Lacking(f"{name} is {list(given)}; the layers here have two axes of space")
    return int(given[0]), int(given[1])


def _pads(call: Call, x: Value, window: Any, stride: Any, dilation: Any) -> Any:
    """The padding of a node, with that of a Pad before it."""
    auto = call.attributes.get("auto_pad", "NOTSET")
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        at = placed(call.operator, (x.shape[0], x.shape[1]), window, stride, "same", dilation)
        pads = at.pads if auto == "SAME_UPPER" else tuple(pair[::-1] for pair in at.pads)
    elif auto == "VALID":
        pads = ((0, 0), (0, 0))
    else:
        given = call.attributes.get("pads") or [0, 0, 0, 0]
        if len(given) != 4:
            raise Lacking(f"pads are {list(given)}; the layers here have two axes of space")
        pads = ((given[0], given[2]), (given[1], given[3]))
    return tuple((int(one[0]) + two[0], int(one[1]) + two[1]) for one, two in zip(pads, x.padding))


@_reads("Conv")
def _conv(reader: _Reader, call: Call) -> Value:
    x, w, b = reader.maps(call), reader.needed(call, 1), reader.constant(call, 2)
    if w.ndim != 4:
        raise Lacking(f"its weights have {w.ndim} axes; the layers here have two axes of space")
    if x.padding != ((0, 0), (0, 0)) and x.padded_with:
        raise Lacking(f"it stands behind a Pad with {x.padded_with}; a convolution pads with 0")
    D, _, k1, k2 = w.shape
    stride, dilation, groups = _pair(call, "strides"), _pair(call, "dilations"), call.attributes.get("group", 1)
    options: dict[str, Any] = {
        "stride": stride,
        "padding": _pads(call, x, (k1, k2), stride, dilation),
        "dilation": dilation,
        "use_bias": b is not None,
    }
    C = x.shape[2]
    if groups == C > 1 and w.shape[1] == 1 and D % C == 0:
        layer: Layer = L.DepthwiseConv2D((k1, k2), depth_multiplier=D // C, **options)
    else:
        layer = L.Conv2D(D, (k1, k2), groups=groups, **options)
    return reader.put(layer, x, call, w=w.transpose(2, 3, 1, 0), b=b)


@_reads("ConvTranspose")
def _conv_transpose(reader: _Reader, call: Call) -> Value:
    x, w, b = reader.maps(call), reader.needed(call, 1), reader.constant(call, 2)
    if w.ndim != 4:
        raise Lacking(f"its weights have {w.ndim} axes; the layers here have two axes of space")
    if "output_shape" in call.attributes or call.attributes.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        raise Lacking("it gives the output's shape; expected pads")
    stride, dilation, groups = _pair(call, "strides"), _pair(call, "dilations"), call.attributes.get("group", 1)
    layer = L.Conv2DTranspose(
        w.shape[1] * groups,
        (w.shape[2], w.shape[3]),
        stride=stride,
        padding=_pads(call, x, None, stride, dilation),
        output_padding=_pair(call, "output_padding", 0),
        dilation=dilation,
        groups=groups,
        use_bias=b is not None,
    )
    return reader.put(layer, x, call, w=w.transpose(2, 3, 1, 0), b=b)


@_reads("MaxPool", "AveragePool", "LpPool")
def _pool(reader: _Reader, call: Call) -> Value:
    x, name = reader.maps(call), call.operator
    window, stride, dilation = _pair(call, "kernel_shape", 0), _pair(call, "strides"), _pair(call, "dilations")
    own = _pads(call, replace(x, padding=((0, 0), (0, 0))), window, stride, dilation)
    options: dict[str, Any] = {
        "stride": stride,
        "padding": _pads(call, x, window, stride, dilation),
        "dilation": dilation,
        "ceil_mode": bool(call.attributes.get("ceil_mode", 0)),
    }
    before = x.padding != ((0, 0), (0, 0))
    if before and x.padded_with != (-math.inf if name == "MaxPool" else 0):
        raise Lacking(f"it stands behind a Pad with {x.padded_with}")
    if name == "LpPool":
        if call.attributes.get("p", 2) != 2:
            raise Lacking(f"p is {call.attributes['p']}; L2Pool2D has 2")
        return reader.put(L.L2Pool2D(window, **options), x, call)
    if name == "MaxPool":
        if len([one for one in call.outputs if one]) > 1:
            raise Lacking("it gives the places of the largest units too")
        return reader.put(L.MaxPool2D(window, **options), x, call)
    counted = bool(call.attributes.get("count_include_pad", 0))
    if before and not counted and own != ((0, 0), (0, 0)):
        options |= {"padding": x.padding, "ceil_mode": True}  # zeros that count, and how far ceil_mode reaches beyond
        size = (x.shape[0], x.shape[1])
        at = placed(name, size, window, stride, x.padding, dilation, True)
        if ((0, at.overhang[0]), (0, at.overhang[1])) != own:
            raise Lacking("some of its zeros count and others do not")
    return reader.put(L.AveragePool2D(window, count_include_pad=counted or before, **options), x, call)


@_reads("GlobalAveragePool", "GlobalMaxPool")
def _global_pool(reader: _Reader, call: Call) -> Value:
    kind = L.GlobalAveragePool2D if call.operator == "GlobalAveragePool" else L.GlobalMaxPool2D
    return reader.put(kind(keepdims=True), reader.maps(call), call)


@_reads("ReduceMean", "ReduceMax")
def _reduce(reader: _Reader, call: Call) -> Value:
    x = reader.value(call)
    axes = reader.integers(call, 1) or call.attributes.get("axes") or []
    over = sorted(x.order[axis] for axis in axes)
    if len(x.shape) != 3 or x.flat or x.flattened or over != [1, 2]:
        raise Lacking("it reduces other axes than height and width")
    kind = L.GlobalAveragePool2D if call.operator == "ReduceMean" else L.GlobalMaxPool2D
    return reader.put(kind(keepdims=bool(call.attributes.get("keepdims", 1))), x, call)


@_reads("Gemm", "MatMul")
def _dense(reader: _Reader, call: Call) -> Value:
    x, w = reader.value(call), reader.needed(call, 1)
    given = call.attributes
    if w.ndim != 2 or given.get("alpha", 1.0) != 1 or given.get("beta", 1.0) != 1 or given.get("transA", 0):
        raise Lacking("it is more than x · w + b")
    if not (x.flat or x.flattened) and x.order[-1] != len(x.shape):
        raise Lacking("it multiplies along another axis than the channels")
    if x.flattened and not x.flat:
        raise Lacking("it takes rows that were made maps again")
    w = w.T if given.get("transB", 0) else w
    b = reader.constant(call, 2) if call.operator == "Gemm" else None
    if b is not None:
        b = numpy.broadcast_to(b.ravel(), (w.shape[1],))
    K = elements(x.shape) if x.flat else x.shape[-1]
    if w.shape[0] != K:
        raise CheckpointError(f"its weights {w.shape} do not fit {K} inputs")
    return reader.put(L.Dense(w.shape[1], use_bias=b is not None), x, call, w=reader.rows_of(x, w), b=b)


@_reads("Flatten")
def _flatten(reader: _Reader, call: Call) -> Value:
    x, axis = reader.value(call), call.attributes.get("axis", 1)
    if axis % (2 if x.flat else len(x.order)) != 1:
        raise Lacking(f"axis is {axis}; expected 1, behind the batch")
    return _as_rows(reader, call, x)


def _as_rows(reader: _Reader, call: Call, x: Value) -> Value:
    if len(x.shape) == 1 or x.flat:
        return x
    if x.flattened:
        return Value(x.node, (elements(x.shape),), (0, 1)) if x.in_our_order else replace(x, flat=True)
    pooled = reader.lone_layer(call.inputs[0])
    if isinstance(pooled, (L.GlobalAveragePool2D, L.GlobalMaxPool2D)):
        pooled.keepdims = False
        return Value(x.node, x.shape[-1:], (0, 1))
    name = call.outputs[0]
    reader.append(Node(name, (x.node,), L.Flatten()))
    if x.in_our_order:
        return Value(name, (elements(x.shape),), (0, 1))
    return replace(x, node=name, flat=True, flattened=True)


@_reads("Reshape")
def _reshape(reader: _Reader, call: Call) -> Value:
    x = reader.value(call)
    target = reader.integers(call, 1)
    if target is None:
        raise CheckpointError("its shape is missing")
    now = (elements(x.shape),) if x.flat else x.extents
    free = {0, -1, reader.batch}
    rest = [now[place] if n == 0 and place < len(now) else n for place, n in enumerate(target[1:])]
    total, told = elements(x.shape), math.prod(n for n in rest if n != -1)
    if rest.count(-1) == 1 and told > 0 and total % told == 0:
        rest[rest.index(-1)] = total // told
    if not target or target[0] not in free or math.prod(rest) != total:
        raise Lacking(f"it makes {target} of examples of {total} units; expected the batch to stay")
    if tuple(rest) == now:
        return x
    if tuple(rest) == (total,):
        return _as_rows(reader, call, x)
    if x.flat and tuple(rest) == x.extents:
        return replace(x, flat=False)
    raise Lacking(f"it makes {tuple(rest)} of {now}; the layers here make rows of maps only")


@_reads("Squeeze")
def _squeeze(reader: _Reader, call: Call) -> Value:
    x = reader.value(call)
    axes = reader.integers(call, 1) or call.attributes.get("axes") or []
    if len(x.shape) == 3 and sorted(x.order[axis] for axis in axes) == [1, 2] and x.shape[:2] == (1, 1):
        return _as_rows(reader, call, x)
    raise Lacking("it leaves out other axes than a height and width of 1")


@_reads("Shape")
def _shape(reader: _Reader, call: Call) -> None:
    """The shape of a value is a constant, but for the batch, which a Reshape has as −1."""
    x = reader.value(call)
    shape = [-1, *((elements(x.shape),) if x.flat else x.extents)]
    start, end = call.attributes.get("start", 0), call.attributes.get("end", len(shape))
    reader.constants.known[call.outputs[0]] = numpy.array(shape[start:end], "int64")


@_reads("Transpose")
def _transpose(reader: _Reader, call: Call) -> Value:
    x, order = reader.value(call), call.attributes.get("perm")
    if x.flat or order is None or sorted(order) != list(range(len(x.order))) or order[0] != 0:
        raise Lacking("it moves the batch, or rows")
    return replace(x, order=tuple(x.order[place] for place in order))


@_reads("Identity", "Dropout", "Cast")
def _same(reader: _Reader, call: Call) -> Value:
    x = reader.value(call)
    if call.operator == "Cast" and call.attributes.get("to") not in FLOATS:
        raise Lacking("it makes something else than floating-point numbers")
    return x


@_reads("Relu", "Sigmoid", "Tanh", "Softplus", "LeakyRelu", "Elu", "Gelu", "Silu", "Swish", "PRelu")
def _activation(reader: _Reader, call: Call) -> Value:
    x, given = reader.value(call), call.attributes
    if call.operator == "PRelu":
        slope = numpy.unique(reader.needed(call, 1))
        if slope.size != 1 or not slope[0] >= 0:
            raise Lacking("it learns several slopes; LeakyReLU has one, at least 0")
        layer: Layer = L.LeakyReLU(float(slope[0]))
    elif call.operator == "LeakyRelu":
        layer = L.LeakyReLU(reader.number(given.get("alpha", 0.01)))
    elif call.operator == "Elu":
        layer = L.ELU(reader.number(given.get("alpha", 1.0)))
    elif call.operator == "Gelu":
        layer = L.GELU(approximate=given.get("approximate", "none") == "tanh")
    elif call.operator == "Swish" and given.get("alpha", 1.0) != 1:
        raise Lacking(f"alpha is {given['alpha']}; SiLU has 1")
    else:
        kinds = {"Relu": L.ReLU, "Sigmoid": L.Sigmoid, "Tanh": L.Tanh, "Softplus": L.Softplus}
        layer = kinds.get(call.operator, L.SiLU)()
    return reader.put(layer, x, call)


@_reads("Softmax", "LogSoftmax")
def _softmax(reader: _Reader, call: Call) -> Value:
    x = reader.value(call)
    axes = 2 if x.flat else len(x.order)
    axis = call.attributes.get("axis", -1 if reader.opset >= 13 else 1) % axes
    if reader.opset < 13 and axis != axes - 1:
        raise Lacking("before opset 13 it takes all axes behind one together")
    if x.flattened and not x.flat:
        raise Lacking("it takes rows that were made maps again")
    kind = L.Softmax if call.operator == "Softmax" else L.LogSoftmax
    return reader.put(kind(-1 if axis == axes - 1 and x.flat else _last(x, x.order[axis])), x, call)


def _last(x: Value, axis: int) -> int:
    """The channels are the axis −1."""
    return -1 if axis == len(x.shape) else axis


@_reads("BatchNormalization")
def _batch_norm(reader: _Reader, call: Call) -> Value:
    x = reader.value(call)
    if call.attributes.get("training_mode", 0):
        raise Lacking("it normalises by the batch; expected the form of inference")
    _check_channels_second(x)
    gamma, beta, mean, variance = (reader.rows_of(x, reader.needed(call, place)) for place in (1, 2, 3, 4))
    layer = L.BatchNorm(
        reader.number(call.attributes.get("momentum", 0.9)), reader.number(call.attributes.get("epsilon", 1e-5))
    )
    return reader.put(layer, x, call, gamma=gamma, beta=beta, moving_mean=mean, moving_variance=variance)


def _check_channels_second(x: Value) -> None:
    if x.flattened and not x.flat:
        raise Lacking("it takes rows that were made maps again")
    if not x.flat and x.order[1] != len(x.shape):
        raise Lacking("it takes axes in another order; expected the channels behind the batch")


@_reads("LayerNormalization")
def _layer_norm(reader: _Reader, call: Call) -> Value:
    x, gamma, beta = reader.value(call), reader.needed(call, 1), reader.constant(call, 2)
    places = list(range(2 if x.flat else len(x.order)))
    first = call.attributes.get("axis", -1) % len(places)
    told = call.attributes.get("axes", places[first:])  # of a norm in small steps
    if first == 0 or sorted(axis % len(places) for axis in told) != places[first:]:
        raise Lacking("it normalises over the batch, or over other axes than the last")
    epsilon = reader.number(call.attributes.get("epsilon", 1e-5))
    if x.flattened and not x.flat:
        raise Lacking("it takes rows that were made maps again")
    if x.flat:
        parts = [None if one is None else reader.rows_of(x, one.ravel()) for one in (gamma, beta)]
        return reader.put(L.LayerNorm(-1, epsilon, center=beta is not None), x, call, gamma=parts[0], beta=parts[1])
    axes = [x.order[place] for place in places[first:]]
    shape = tuple(x.shape[axis - 1] for axis in axes)
    back = [axes.index(axis) for axis in sorted(axes)]
    parts = [None if one is None else _spread(one, shape).transpose(back) for one in (gamma, beta)]
    axis: Any = _last(x, axes[0]) if len(axes) == 1 else tuple(sorted(axes))
    return reader.put(L.LayerNorm(axis, epsilon, center=beta is not None), x, call, gamma=parts[0], beta=parts[1])


def _spread(array: numpy.ndarray, shape: Shape) -> numpy.ndarray:
    """An array broadcast to a shape, if that is no bomb: the file says little, and memory for much would be taken."""
    if elements(shape) > max(array.size, MOST_SPREAD):
        raise Lacking(f"its weights {array.shape} stand for {elements(shape):,} numbers")
    return numpy.broadcast_to(array, shape)


@_reads("GroupNormalization", "InstanceNormalization")
def _group_norm(reader: _Reader, call: Call) -> Value:
    x, gamma, beta = reader.value(call), reader.needed(call, 1).ravel(), reader.needed(call, 2).ravel()
    _check_channels_second(x)
    if x.flat and not x.in_our_order:
        raise Lacking("it takes maps that were flattened; expected the maps")
    C = elements(x.shape) if x.flat else x.shape[-1]
    groups = call.attributes.get("num_groups", C)
    if call.operator == "GroupNormalization" and reader.opset < 21 and not call.attributes.get("by_channel"):
        gamma, beta = (_spread(one[:, None], (one.size, C // max(1, groups))).ravel() for one in (gamma, beta))
    layer = L.GroupNorm(groups, reader.number(call.attributes.get("epsilon", 1e-5)))
    return reader.put(layer, x, call, gamma=gamma, beta=beta)


@_reads("Add", "Sum")
def _add(reader: _Reader, call: Call) -> Value:
    fixed = [name for name in call.inputs if name in reader.constants.known]
    if fixed:
        return _with_bias(reader, call, fixed)
    parts = _branches(reader, call)
    if any(part.shape != parts[0].shape for part in parts):
        raise Lacking("it adds values of different shapes")
    return _merged(reader, call, "add", parts, parts[0].shape)


@_reads("Concat")
def _concat(reader: _Reader, call: Call) -> Value:
    parts = _branches(reader, call)
    x, axis = parts[0], call.attributes["axis"]
    if len(parts) == 1:
        return x
    if x.flat and not all(part.in_our_order for part in parts):
        raise Lacking("it concatenates maps that were flattened; expected maps, or rows")
    axis = 1 if x.flat else x.order[axis]
    if axis != (1 if x.flat else len(x.shape)):
        raise Lacking("it concatenates along another axis than the channels")
    if x.flat:
        total = (sum(elements(part.shape) for part in parts),)
        return Value(_merged(reader, call, "concat", parts, total).node, total, (0, 1))
    if any(part.shape[:-1] != x.shape[:-1] for part in parts):
        raise Lacking("it concatenates maps of different sizes")
    return _merged(reader, call, "concat", parts, (*x.shape[:-1], sum(part.shape[-1] for part in parts)))


def _branches(reader: _Reader, call: Call) -> list[Value]:
    """What a merge takes: all of it lies alike."""
    parts = [reader.value(call, place) for place in range(len(call.inputs))]
    x = parts[0]
    for part in parts:
        if (part.flat, part.flattened) != (x.flat, x.flattened) or (part.order != x.order):
            raise Lacking("it takes values whose axes lie in different orders")
    return parts


def _merged(reader: _Reader, call: Call, does: str, parts: list[Value], shape: Shape) -> Value:
    name = call.outputs[0]
    reader.append(Node(name, tuple(part.node for part in parts), does))
    return replace(parts[0], node=name, shape=shape)


def _with_bias(reader: _Reader, call: Call, fixed: list[str]) -> Value:
    """A constant is added: to the biases of the layer before."""
    x, layer, b = _before_constant(reader, call, fixed)
    weights = reader.weights[id(layer)]
    if isinstance(layer, NORMS):
        weights["beta"], layer.center = b + weights.get("beta", 0), True
    else:
        weights["b"], layer.use_bias = b + weights.get("b", 0), True
    return x


@_reads("Mul")
def _scaled(reader: _Reader, call: Call) -> Value:
    """A constant is multiplied: into the weights of the layer before, as a scale for each channel."""
    fixed = [name for name in call.inputs if name in reader.constants.known]
    if not fixed:
        raise Lacking("it multiplies two computed values")
    x, layer, scale = _before_constant(reader, call, fixed)
    weights, names = reader.weights[id(layer)], ("gamma", "beta") if isinstance(layer, NORMS) else ("w", "b")
    if isinstance(layer, L.Conv2DTranspose):
        raise Lacking("it scales what a Conv2DTranspose makes")
    for name in names:
        if name in weights:
            weights[name] = weights[name] * scale  # the last axis of each is the channels
    return x


NORMS = (L.BatchNorm, L.LayerNorm, L.GroupNorm)


def _before_constant(reader: _Reader, call: Call, fixed: list[str]) -> tuple[Value, Any, numpy.ndarray]:
    """For a sum or product with a constant: the value, the layer that makes it, and a number for each channel."""
    name = next((name for name in call.inputs if name not in fixed), "")
    x = reader.values.get(name)
    if len(call.inputs) != 2 or x is None:
        raise Lacking("it takes several constants")
    layer: Any = reader.lone_layer(name)
    along_channels = isinstance(layer, (L.Dense, L.Conv2D, L.Conv2DTranspose, L.BatchNorm, L.GroupNorm))
    if not along_channels and not (isinstance(layer, L.LayerNorm) and layer.axis == -1):
        raise Lacking("it takes a constant, and no layer with weights stands before it, whose part that could be")
    constant, axes = reader.constants.array(fixed[0]), 2 if x.flat else len(x.order)
    along = [1] * axes
    along[1 if x.flat else x.order.index(len(x.shape))] = C = elements(x.shape) if x.flat else x.shape[-1]
    if constant.size != 1 and constant.shape != tuple(along[axes - constant.ndim :]) or constant.dtype.kind != "f":
        raise Lacking(f"it takes a constant {constant.shape}, which is not one number for each channel")
    return _renamed(reader, x, call), layer, reader.rows_of(x, numpy.broadcast_to(constant.ravel(), (C,)))


def _renamed(reader: _Reader, x: Value, call: Call) -> Value:
    """The value under the name of the node that is now a part of its layer, so that another one may follow."""
    place, name = reader.places[x.node], call.outputs[0]
    reader.nodes[place] = Node(name, reader.nodes[place].inputs, reader.nodes[place].does)
    reader.places[name] = place
    return replace(x, node=name)


@_reads("Div")
def _div(reader: _Reader, call: Call) -> Value:
    """Sums of windows, each divided by the number of its units: average pooling that ONNX's own cannot say."""
    x, counts = reader.value(call), reader.needed(call, 1)
    layer: Any = reader.lone_layer(call.inputs[0])
    node, alone = reader.nodes[-1] if reader.nodes else None, len(x.shape) == 3 and x.shape[2] == 1
    sums = isinstance(layer, L.DepthwiseConv2D) or (isinstance(layer, L.Conv2D) and layer.groups == 1 and alone)
    if sums and node is not None and node.does is layer and not layer.use_bias and counts.shape == x.shape[:2]:
        w, k = reader.weights[id(layer)]["w"], layer.kernel_size
        source = next(one for one in reader.values.values() if one is not None and one.node == node.inputs[0])
        for counted in (False, True) if (w == 1).all() and w.shape[2:] == (1, source.shape[2]) else ():
            options: dict[str, Any] = {"stride": layer.stride, "padding": layer.padding, "dilation": layer.dilation}
            pool = L.AveragePool2D(k, count_include_pad=counted, **options)
            at = placed("Div", (source.shape[0], source.shape[1]), k, layer.stride, layer.padding, layer.dilation)
            if elements(at.grid) * at.taps < 10**6 and (units_of(at, counted) == counts).all():
                reader.nodes[-1] = Node(node.name, node.inputs, pool)
                return x
    raise Lacking("it divides")


@_reads("Pad")
def _pad(reader: _Reader, call: Call) -> Value:
    x = reader.maps(call)
    pads = reader.integers(call, 1) or call.attributes.get("pads")
    if pads is None or len(pads) != 8 or call.attributes.get("mode", "constant") != "constant" or len(call.inputs) > 3:
        raise Lacking("it pads otherwise than with a constant around (N, C, H, W)")
    given = reader.constant(call, 2)
    value = float(call.attributes.get("value", 0.0)) if given is None else float(given.reshape(()))
    (n0, c0, top, left), (n1, c1, bottom, right) = pads[:4], pads[4:]
    if min(pads) < 0 or n0 or n1 or c0:
        raise Lacking(f"it pads by {pads}; expected zeros behind the channels, or maps")
    if c1:
        if (top, left, bottom, right) != (0, 0, 0, 0) or value:
            raise Lacking(f"it pads by {pads}; expected zeros behind the channels, or maps")
        before = reader.lone_layer(call.inputs[0])
        if isinstance(before, PaddedShortcut):
            before.filters += c1
            return replace(x, shape=(*x.shape[:2], before.filters))
        return reader.put(PaddedShortcut(x.shape[2] + c1), x, call)
    both = tuple((a + p, b + q) for (a, b), (p, q) in zip(x.padding, ((top, bottom), (left, right))))
    if x.padding != ((0, 0), (0, 0)) and x.padded_with != value:
        raise Lacking("it pads twice, with different numbers")
    return replace(x, padding=both, padded_with=value)  # type: ignore[arg-type]


TAKES_PADDING.add("Pad")


@_reads("Slice")
def _slice(reader: _Reader, call: Call) -> Value:
    x = reader.maps(call)
    starts, ends = reader.integers(call, 1) or [], reader.integers(call, 2) or []
    axes = reader.integers(call, 3) or list(range(len(starts)))
    steps = reader.integers(call, 4) or [1] * len(starts)
    by_axis = {axis % 4: (start, end, step) for axis, start, end, step in zip(axes, starts, ends, steps)}
    stride = {by_axis.get(axis, (0, 0, 1))[2] for axis in (2, 3)}
    whole = all(start == 0 and end >= x.extents[axis - 1] for axis, (start, end, _) in by_axis.items() if axis)
    if set(by_axis) - {2, 3} or len(stride) != 1 or not whole:
        raise Lacking("it cuts; only every so many rows and columns can be left out")
    return reader.put(PaddedShortcut(x.shape[2], stride.pop()), x, call)
