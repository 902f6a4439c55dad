"""One function for each ONNX operator: it makes the layer, with its weights turned from the file's order into ours."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy

from .. import layers as L
from ..files.formats import CheckpointError
from ..geometry import Pair, elements, placed, windows
from ..layers.layer import Layer, Shape
from ..models import PaddedShortcut
from .onnx_constants import FLOATING, FLOATS, Lacking, dtype_name
from .onnx_export_layers import units_of
from .onnx_graph import GraphReader, Reader, Value
from .onnx_patterns import Call
from .regions import Node

MOST_SPREAD = 10**6
FOLDED_AGAIN = "its input is rows that were reshaped into maps again; expected the rows, or the maps from before"

READERS: dict[str, Reader] = {}


def _reads(*operators: str) -> Callable[[Reader], Reader]:
    def keep(reader: Reader) -> Reader:
        READERS.update(dict.fromkeys(operators, reader))
        return reader

    return keep


def _pair(call: Call, name: str, default: int = 1) -> tuple[int, int]:
    given = call.attributes.get(name) or [default, default]
    if len(given) != 2:
        raise Lacking(f"{name} is {list(given)}; expected two numbers, for height and width")
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
            raise Lacking(f"pads is {list(given)}; expected four numbers, for height and width")
        pads = ((given[0], given[2]), (given[1], given[3]))
    return tuple((int(one[0]) + two[0], int(one[1]) + two[1]) for one, two in zip(pads, x.padding))


@_reads("Conv")
def _conv(reader: GraphReader, call: Call) -> Value:
    x, w, b = reader.maps(call), reader.needed(call, 1), reader.constant(call, 2)
    if w.ndim != 4:
        raise Lacking(f"its weights have {w.ndim} axes; expected 4, with height and width")
    if x.padding != ((0, 0), (0, 0)) and x.padded_with:
        raise Lacking(f"the Pad before it adds {x.padded_with}; a convolution can add only 0")
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
def _conv_transpose(reader: GraphReader, call: Call) -> Value:
    x, w, b = reader.maps(call), reader.needed(call, 1), reader.constant(call, 2)
    if w.ndim != 4:
        raise Lacking(f"its weights have {w.ndim} axes; expected 4, with height and width")
    if "output_shape" in call.attributes or call.attributes.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        raise Lacking("it sets output_shape or auto_pad; expected pads")
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
def _pool(reader: GraphReader, call: Call) -> Value:
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
    if before and x.padded_with != (filler := -math.inf if name == "MaxPool" else 0):
        raise Lacking(f"the Pad before it adds {x.padded_with}; this pooling can add only {filler}")
    if name == "LpPool":
        if call.attributes.get("p", 2) != 2:
            raise Lacking(f"p is {call.attributes['p']}; expected 2, as in L2Pool2D")
        return reader.put(L.L2Pool2D(window, **options), x, call)
    if name == "MaxPool":
        return reader.put(L.MaxPool2D(window, **options), x, call)
    counted = bool(call.attributes.get("count_include_pad", 0))
    if before and not counted and own != ((0, 0), (0, 0)):
        options |= {"padding": x.padding, "ceil_mode": True}  # zeros that count, and how far ceil_mode reaches beyond
        size = (x.shape[0], x.shape[1])
        at = placed(name, size, window, stride, x.padding, dilation, True)
        if ((0, at.overhang[0]), (0, at.overhang[1])) != own:
            raise Lacking("it counts some of the zeros around the maps, but not all; expected all or none")
    return reader.put(L.AveragePool2D(window, count_include_pad=counted or before, **options), x, call)


@_reads("GlobalAveragePool", "GlobalMaxPool")
def _global_pool(reader: GraphReader, call: Call) -> Value:
    kind = L.GlobalAveragePool2D if call.operator == "GlobalAveragePool" else L.GlobalMaxPool2D
    return reader.put(kind(keepdims=True), reader.maps(call), call)


@_reads("ReduceMean", "ReduceMax")
def _reduce(reader: GraphReader, call: Call) -> Value:
    x = reader.value(call)
    axes = reader.integers(call, 1) or call.attributes.get("axes") or []
    over = sorted(x.order[axis] for axis in axes)
    if len(x.shape) != 3 or x.flat or x.flattened or over != [1, 2]:
        raise Lacking(f"it reduces {f'the axes {list(axes)}' if axes else 'all axes'}; expected height and width")
    kind = L.GlobalAveragePool2D if call.operator == "ReduceMean" else L.GlobalMaxPool2D
    return reader.put(kind(keepdims=bool(call.attributes.get("keepdims", 1))), x, call)


@_reads("Gemm", "MatMul")
def _dense(reader: GraphReader, call: Call) -> Value:
    x, w = reader.value(call), reader.needed(call, 1)
    given = call.attributes
    if w.ndim != 2 or given.get("alpha", 1.0) != 1 or given.get("beta", 1.0) != 1 or given.get("transA", 0):
        raise Lacking("it computes more than x · w + b; expected a matrix w, alpha = beta = 1 and transA = 0")
    if not (x.flat or x.flattened) and x.order[-1] != len(x.shape):
        raise Lacking("it multiplies along a different axis; expected the channels")
    if x.flattened and not x.flat:
        raise Lacking(FOLDED_AGAIN)
    w = w.T if given.get("transB", 0) else w
    b = reader.constant(call, 2) if call.operator == "Gemm" else None
    if b is not None:
        b = numpy.broadcast_to(b.ravel(), (w.shape[1],))
    K = elements(x.shape) if x.flat else x.shape[-1]
    if w.shape[0] != K:
        raise CheckpointError(f"its weights have the shape {w.shape}; expected {K} rows, one for each input")
    return reader.put(L.Dense(w.shape[1], use_bias=b is not None), x, call, w=reader.rows_of(x, w), b=b)


@_reads("Flatten")
def _flatten(reader: GraphReader, call: Call) -> Value:
    x, axis = reader.value(call), call.attributes.get("axis", 1)
    if axis % (2 if x.flat else len(x.order)) != 1:
        raise Lacking(f"axis is {axis}; expected 1, which keeps the batch")
    return _as_rows(reader, call, x)


def _as_rows(reader: GraphReader, call: Call, x: Value) -> Value:
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
def _reshape(reader: GraphReader, call: Call) -> Value:
    x = reader.value(call)
    target = reader.integers(call, 1)
    if target is None:
        raise CheckpointError("its second input, the new shape, is missing")
    now = (elements(x.shape),) if x.flat else x.extents
    free = {0, -1, reader.batch}
    rest = [now[place] if n == 0 and place < len(now) else n for place, n in enumerate(target[1:])]
    total, told = elements(x.shape), math.prod(n for n in rest if n != -1)
    if rest.count(-1) == 1 and told > 0 and total % told == 0:
        rest[rest.index(-1)] = total // told
    if not target or target[0] not in free or math.prod(rest) != total:
        raise Lacking(f"it reshapes examples of {total} units to {target}; expected it to keep the batch")
    if tuple(rest) == now:
        return x
    if tuple(rest) == (total,):
        return _as_rows(reader, call, x)
    if x.flat and tuple(rest) == x.extents:
        return replace(x, flat=False)
    raise Lacking(f"it reshapes {now} to {tuple(rest)}; expected ({total},), one row for each example")


@_reads("Squeeze")
def _squeeze(reader: GraphReader, call: Call) -> Value:
    x = reader.value(call)
    axes = reader.integers(call, 1) or call.attributes.get("axes") or []
    if len(x.shape) == 3 and sorted(x.order[axis] for axis in axes) == [1, 2] and x.shape[:2] == (1, 1):
        return _as_rows(reader, call, x)
    raise Lacking(
        f"it removes {f'the axes {list(axes)}' if axes else 'all axes of length 1'}; expected height and width, both 1"
    )


@_reads("Shape")
def _shape(reader: GraphReader, call: Call) -> None:
    """The shape of a value is a constant, except for the batch, which is −1 in a Reshape."""
    x = reader.value(call)
    shape = [-1, *((elements(x.shape),) if x.flat else x.extents)]
    start, end = call.attributes.get("start", 0), call.attributes.get("end", len(shape))
    reader.constants.known[call.outputs[0]] = numpy.array(shape[start:end], "int64")


@_reads("Transpose")
def _transpose(reader: GraphReader, call: Call) -> Value:
    x, order = reader.value(call), call.attributes.get("perm")
    if x.flat or order is None or sorted(order) != list(range(len(x.order))) or order[0] != 0:
        raise Lacking(f"perm is {order}; expected maps, and the batch to stay first")
    return replace(x, order=tuple(x.order[place] for place in order))


@_reads("Identity", "Dropout", "Cast")
def _same(reader: GraphReader, call: Call) -> Value:
    x = reader.value(call)
    if call.operator == "Cast" and call.attributes.get("to") not in FLOATS:
        raise Lacking(f"it converts to {dtype_name(call.attributes.get('to', 0))}; expected {FLOATING}")
    return x


@_reads("Relu", "Sigmoid", "Tanh", "Softplus", "LeakyRelu", "Elu", "Gelu", "Silu", "Swish", "PRelu")
def _activation(reader: GraphReader, call: Call) -> Value:
    x, given = reader.value(call), call.attributes
    if call.operator == "PRelu":
        slope = numpy.unique(reader.needed(call, 1))
        if slope.size != 1 or not slope[0] >= 0:
            raise Lacking("it has several slopes, or a negative one; expected one slope of at least 0, as in LeakyReLU")
        layer: Layer = L.LeakyReLU(float(slope[0]))
    elif call.operator == "LeakyRelu":
        layer = L.LeakyReLU(reader.number(given.get("alpha", 0.01)))
    elif call.operator == "Elu":
        layer = L.ELU(reader.number(given.get("alpha", 1.0)))
    elif call.operator == "Gelu":
        layer = L.GELU(approximate=given.get("approximate", "none") == "tanh")
    elif call.operator == "Swish" and given.get("alpha", 1.0) != 1:
        raise Lacking(f"alpha is {given['alpha']}; expected 1, as in SiLU")
    else:
        kinds = {"Relu": L.ReLU, "Sigmoid": L.Sigmoid, "Tanh": L.Tanh, "Softplus": L.Softplus}
        layer = kinds.get(call.operator, L.SiLU)()
    return reader.put(layer, x, call)


@_reads("Softmax", "LogSoftmax")
def _softmax(reader: GraphReader, call: Call) -> Value:
    x = reader.value(call)
    axes = 2 if x.flat else len(x.order)
    axis = call.attributes.get("axis", -1 if reader.opset >= 13 else 1) % axes
    if reader.opset < 13 and axis != axes - 1:
        raise Lacking(
            "before opset 13 it runs over several axes at once; expected the last one. Export with a newer opset"
        )
    if x.flattened and not x.flat:
        raise Lacking(FOLDED_AGAIN)
    kind = L.Softmax if call.operator == "Softmax" else L.LogSoftmax
    return reader.put(kind(-1 if axis == axes - 1 and x.flat else _last(x, x.order[axis])), x, call)


def _last(x: Value, axis: int) -> int:
    """The channels are the axis −1."""
    return -1 if axis == len(x.shape) else axis


@_reads("BatchNormalization")
def _batch_norm(reader: GraphReader, call: Call) -> Value:
    x = reader.value(call)
    if call.attributes.get("training_mode", 0):
        raise Lacking("it is in training mode. Export the model in inference mode")
    _check_channels_second(x)
    gamma, beta, mean, variance = (reader.rows_of(x, reader.needed(call, place)) for place in (1, 2, 3, 4))
    layer = L.BatchNorm(
        reader.number(call.attributes.get("momentum", 0.9)), reader.number(call.attributes.get("epsilon", 1e-5))
    )
    return reader.put(layer, x, call, gamma=gamma, beta=beta, moving_mean=mean, moving_variance=variance)


def _check_channels_second(x: Value) -> None:
    if x.flattened and not x.flat:
        raise Lacking(FOLDED_AGAIN)
    if not x.flat and x.order[1] != len(x.shape):
        raise Lacking("its channels are not the second axis; expected (N, C, ...)")


@_reads("LayerNormalization")
def _layer_norm(reader: GraphReader, call: Call) -> Value:
    x, gamma, beta = reader.value(call), reader.needed(call, 1), reader.constant(call, 2)
    places = list(range(2 if x.flat else len(x.order)))
    first = call.attributes.get("axis", -1) % len(places)
    told = call.attributes.get("axes", places[first:])  # of a norm in small steps
    if first == 0 or sorted(axis % len(places) for axis in told) != places[first:]:
        raise Lacking(f"it normalises the axes {list(told)}; expected the last ones, without the batch")
    epsilon = reader.number(call.attributes.get("epsilon", 1e-5))
    if x.flattened and not x.flat:
        raise Lacking(FOLDED_AGAIN)
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
    """An array broadcast to a shape, unless it is a trap: a tiny array that would take a huge amount of memory."""
    if elements(shape) > max(array.size, MOST_SPREAD):
        raise Lacking(
            f"its weights {array.shape} would grow to {elements(shape):,} numbers; expected at most {MOST_SPREAD:,}"
        )
    return numpy.broadcast_to(array, shape)


@_reads("GroupNormalization", "InstanceNormalization")
def _group_norm(reader: GraphReader, call: Call) -> Value:
    x, gamma, beta = reader.value(call), reader.needed(call, 1).ravel(), reader.needed(call, 2).ravel()
    _check_channels_second(x)
    if x.flat and not x.in_our_order:
        raise Lacking("its input is flattened maps; expected the maps from before")
    C = elements(x.shape) if x.flat else x.shape[-1]
    groups = call.attributes.get("num_groups", C)
    if call.operator == "GroupNormalization" and reader.opset < 21 and not call.attributes.get("by_channel"):
        gamma, beta = (_spread(one[:, None], (one.size, C // max(1, groups))).ravel() for one in (gamma, beta))
    layer = L.GroupNorm(groups, reader.number(call.attributes.get("epsilon", 1e-5)))
    return reader.put(layer, x, call, gamma=gamma, beta=beta)


@_reads("Add", "Sum")
def _add(reader: GraphReader, call: Call) -> Value:
    fixed = [name for name in call.inputs if name in reader.constants.known]
    if fixed:
        return _with_bias(reader, call, fixed)
    parts = _branches(reader, call)
    if any(part.shape != parts[0].shape for part in parts):
        raise Lacking(f"it adds values of the shapes {_shapes(parts)}; expected equal ones")
    return _merged(reader, call, "add", parts, parts[0].shape)


@_reads("Concat")
def _concat(reader: GraphReader, call: Call) -> Value:
    parts = _branches(reader, call)
    x, axis = parts[0], call.attributes["axis"]
    if len(parts) == 1:
        return x
    if x.flat and not all(part.in_our_order for part in parts):
        raise Lacking("it concatenates flattened maps; expected the maps from before, or other rows")
    axis = 1 if x.flat else x.order[axis]
    if axis != (1 if x.flat else len(x.shape)):
        raise Lacking(f"it concatenates along axis {call.attributes['axis']}; expected the channels")
    if x.flat:
        total = (sum(elements(part.shape) for part in parts),)
        return Value(_merged(reader, call, "concat", parts, total).node, total, (0, 1))
    if any(part.shape[:-1] != x.shape[:-1] for part in parts):
        raise Lacking(f"it concatenates maps of the shapes {_shapes(parts)}; expected equal heights and widths")
    return _merged(reader, call, "concat", parts, (*x.shape[:-1], sum(part.shape[-1] for part in parts)))


def _shapes(parts: list[Value]) -> str:
    return " and ".join(str(part.shape) for part in parts)


def _branches(reader: GraphReader, call: Call) -> list[Value]:
    """The inputs of a merge, which must all have the same layout."""
    parts = [reader.value(call, place) for place in range(len(call.inputs))]
    x = parts[0]
    for part in parts:
        if (part.flat, part.flattened) != (x.flat, x.flattened) or (part.order != x.order):
            raise Lacking("its inputs have their axes in different orders; expected the same order")
    return parts


def _merged(reader: GraphReader, call: Call, does: str, parts: list[Value], shape: Shape) -> Value:
    name = call.outputs[0]
    reader.append(Node(name, tuple(part.node for part in parts), does))
    return replace(parts[0], node=name, shape=shape)


def _with_bias(reader: GraphReader, call: Call, fixed: list[str]) -> Value:
    """Add a constant to the biases of the layer before."""
    x, layer, b = _before_constant(reader, call, fixed)
    weights = reader.weights[layer]
    if isinstance(layer, NORMS):
        weights["beta"], layer.center = b + weights.get("beta", 0), True
    else:
        weights["b"], layer.use_bias = b + weights.get("b", 0), True
    return x


@_reads("Mul")
def _scaled(reader: GraphReader, call: Call) -> Value:
    """Multiply a constant into the weights of the layer before, as a scale for each channel."""
    fixed = [name for name in call.inputs if name in reader.constants.known]
    if not fixed:
        raise Lacking("it multiplies the outputs of two nodes; expected a constant factor")
    x, layer, scale = _before_constant(reader, call, fixed)
    weights, names = reader.weights[layer], ("gamma", "beta") if isinstance(layer, NORMS) else ("w", "b")
    if isinstance(layer, L.Conv2DTranspose):
        raise Lacking("it scales the output of a ConvTranspose. Scale its weights before you export")
    for name in names:
        if name in weights:
            weights[name] = weights[name] * scale  # the last axis of each is the channels
    return x


NORMS = (L.BatchNorm, L.LayerNorm, L.GroupNorm)


def _before_constant(reader: GraphReader, call: Call, fixed: list[str]) -> tuple[Value, Any, numpy.ndarray]:
    """For a sum or product with a constant: the value, the layer that makes it, and a number for each channel."""
    name = next((name for name in call.inputs if name not in fixed), "")
    x = reader.values.get(name)
    if len(call.inputs) != 2 or x is None:
        raise Lacking(f"it takes {len(call.inputs)} inputs; expected the output of a layer, and a constant")
    layer: Any = reader.lone_layer(name)
    along_channels = isinstance(layer, (L.Dense, L.Conv2D, L.Conv2DTranspose, L.BatchNorm, L.GroupNorm))
    if not along_channels and not (isinstance(layer, L.LayerNorm) and layer.axis == -1):
        raise Lacking(
            "it takes a constant, but no layer with weights comes right before it that could absorb the constant"
        )
    constant, axes = reader.constants.array(fixed[0]), 2 if x.flat else len(x.order)
    along = [1] * axes
    along[1 if x.flat else x.order.index(len(x.shape))] = C = elements(x.shape) if x.flat else x.shape[-1]
    if constant.size != 1 and constant.shape != tuple(along[axes - constant.ndim :]) or constant.dtype.kind != "f":
        raise Lacking(
            f"its constant has the shape {constant.shape}; expected one number, or one for each of {C} channels"
        )
    return _renamed(reader, x, call), layer, reader.rows_of(x, numpy.broadcast_to(constant.ravel(), (C,)))


def _renamed(reader: GraphReader, x: Value, call: Call) -> Value:
    """The value under the name of the node that is now part of its layer, so that another node may follow."""
    place, name = reader.places[x.node], call.outputs[0]
    reader.nodes[place] = Node(name, reader.nodes[place].inputs, reader.nodes[place].does)
    reader.places[name] = place
    return replace(x, node=name)


@_reads("Div")
def _div(reader: GraphReader, call: Call) -> Value:
    """Sums of windows, each divided by the number of its units: average pooling that ONNX's operator cannot express."""
    x, counts = reader.value(call), reader.needed(call, 1)
    layer: Any = reader.lone_layer(call.inputs[0])
    node: Any = reader.nodes[-1] if reader.nodes else None
    alone = len(x.shape) == 3 and x.shape[2] == 1
    sums = isinstance(layer, L.DepthwiseConv2D) or (isinstance(layer, L.Conv2D) and layer.groups == 1 and alone)
    if sums and node is not None and node.does is layer and not layer.use_bias and counts.shape == x.shape[:2]:
        w = reader.weights[layer]["w"]
        source = next(one for one in reader.values.values() if one is not None and one.node == node.inputs[0])
        summed = (w == 1).all() and w.shape[2:] == (1, source.shape[2])
        pool = _average(layer, (source.shape[0], source.shape[1]), counts) if summed else None
        if pool is not None:
            reader.nodes[-1] = Node(node.name, node.inputs, pool)
            del reader.weights[layer]
            return x
    raise Lacking("a division is read only as part of a norm or an average pooling")


def _average(layer: Any, size: Pair, counts: numpy.ndarray) -> L.AveragePool2D | None:
    """The average pooling with these sums whose windows have ``counts`` (H', W') units each; None if there is none."""
    (k1, k2), (P, Q), pads = layer.kernel_size, counts.shape, layer.padding
    if max(P * Q, P * k1, Q * k2) > MOST_SPREAD or not ((counts >= 1) & (counts <= k1 * k2)).all():
        return None
    # ceil_mode reaches beyond the pooling's own padding: the convolution has zeros there too, but they never count.
    # That is less than a stride, so of two or more windows only the last one has taps there: its last ones.
    lost = k1 - round(counts[-1, 0] / k2), k2 - round(counts[0, -1] / k1)
    beyond = [1 + (taps - 1) * r if taps else 0 for taps, r in zip(lost, layer.dilation)]
    own: Any = tuple((before, after - more) for (before, after), more in zip(pads, beyond))
    for counted, padding in ((False, pads), (True, own)):
        if min(map(min, padding)) < 0:
            continue
        options: dict[str, Any] = {"stride": layer.stride, "padding": padding, "dilation": layer.dilation}
        options["ceil_mode"] = padding != pads
        at = windows("Div", size, (k1, k2), **options)
        if at.grid == (P, Q) and (units_of(at, counted) == counts).all():
            return L.AveragePool2D((k1, k2), count_include_pad=counted, **options)
    return None


@_reads("Pad")
def _pad(reader: GraphReader, call: Call) -> Value:
    x = reader.maps(call)
    pads = reader.integers(call, 1) or call.attributes.get("pads")
    if pads is None or len(pads) != 8 or call.attributes.get("mode", "constant") != "constant" or len(call.inputs) > 3:
        mode = call.attributes.get("mode", "constant")
        raise Lacking(f"mode is {mode!r} and pads {pads}; expected 'constant', and eight numbers for (N, C, H, W)")
    given = reader.constant(call, 2)
    value = float(call.attributes.get("value", 0.0)) if given is None else float(given.reshape(()))
    (n0, c0, top, left), (n1, c1, bottom, right) = pads[:4], pads[4:]
    if min(pads) < 0 or n0 or n1 or c0:
        raise Lacking(f"pads is {pads}; expected a border around the maps, or zeros after the channels")
    if c1:
        if (top, left, bottom, right) != (0, 0, 0, 0) or value:
            raise Lacking(f"pads is {pads}; expected a border around the maps, or zeros after the channels")
        before = reader.lone_layer(call.inputs[0])
        if isinstance(before, PaddedShortcut):
            before.filters += c1
            return replace(x, shape=(*x.shape[:2], before.filters))
        return reader.put(PaddedShortcut(x.shape[2] + c1), x, call)
    both = tuple((a + p, b + q) for (a, b), (p, q) in zip(x.padding, ((top, bottom), (left, right))))
    if x.padding != ((0, 0), (0, 0)) and x.padded_with != value:
        raise Lacking(f"it adds {value}, but the Pad before it {x.padded_with}; expected the same number")
    return replace(x, padding=both, padded_with=value)  # type: ignore[arg-type]


@_reads("Slice")
def _slice(reader: GraphReader, call: Call) -> Value:
    x = reader.maps(call)
    starts, ends = reader.integers(call, 1) or [], reader.integers(call, 2) or []
    axes = reader.integers(call, 3) or list(range(len(starts)))
    steps = reader.integers(call, 4) or [1] * len(starts)
    by_axis = {axis % 4: (start, end, step) for axis, start, end, step in zip(axes, starts, ends, steps)}
    stride = {by_axis.get(axis, (0, 0, 1))[2] for axis in (2, 3)}
    whole = all(start == 0 and end >= x.extents[axis - 1] for axis, (start, end, _) in by_axis.items() if axis)
    if set(by_axis) - {2, 3} or len(stride) != 1 or not whole:
        raise Lacking("it cuts out a part; expected all of the maps, with a stride, such as x[:, :, ::2, ::2]")
    return reader.put(PaddedShortcut(x.shape[2], stride.pop()), x, call)
