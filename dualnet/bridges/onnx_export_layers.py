"""How each layer is exported to ONNX: its nodes, and its weights in ONNX's order.

16-bit numbers are normalised, summed and passed through activations in float32, and rounded once, as in our layers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy

from .. import layers as L
from ..geometry import Windows, elements, transposed
from ..layers.layer import Layer, Shape
from ..layers.merging import merged_shape
from ..models import PaddedShortcut
from ..ops import upsample2d
from ..ops.adaptive import spans_of
from ..shim import asarray, to_numpy
from .onnx_export_graph import FIRST, FLAT, ROWS, Exporter, OnnxGraph, Value, exporter_of

EXPORTERS: dict[type[Layer], Exporter] = {}


def _exports(*kinds: type[Layer]) -> Callable[[Exporter], Exporter]:
    def keep(exporter: Exporter) -> Exporter:
        EXPORTERS.update(dict.fromkeys(kinds, exporter))
        return exporter

    return keep


def _pads(at: Any) -> list[int]:
    """ONNX's order: all that comes before, then all that comes after."""
    (top, bottom), (left, right) = at
    return [top, left, bottom, right]


def _outward(w: numpy.ndarray) -> numpy.ndarray:
    """(k1, k2, C/g, D) -> (D, C/g, k1, k2)."""
    return w.transpose(3, 2, 0, 1)


@_exports(L.Conv2D, L.DepthwiseConv2D)
def _conv(graph: OnnxGraph, layer: L.Conv2D, x: Value) -> Value:
    at = layer._windows((x.shape[0], x.shape[1]))
    turned = layer.mode == "convolution"
    w = graph.weights(layer.w, "w", lambda w: _outward(w[::-1, ::-1] if turned else w), ("Conv", turned))
    b = [] if layer.b is None else [graph.constant(layer.b, role="b")]
    options = {"strides": at.stride, "pads": _pads(at.pads), "dilations": at.dilation, "group": layer.groups}
    y = graph.node("Conv", graph.first(x), w, *b, kernel_shape=at.window, **options)
    return Value(y, layer.output_shape(x.shape), FIRST)


@_exports(L.Conv2DTranspose)
def _conv_transpose(graph: OnnxGraph, layer: L.Conv2DTranspose, x: Value) -> Value:
    options = {"stride": layer.stride, "padding": layer.padding, "dilation": layer.dilation}
    at = transposed(
        "to_onnx", (x.shape[0], x.shape[1]), layer.kernel_size, output_padding=layer.output_padding, **options
    )
    more = [
        n + before + after - (grid - 1) * s - r * (k - 1) - 1
        for n, (before, after), grid, s, r, k in zip(at.size, at.pads, at.grid, at.stride, at.dilation, at.window)
    ]
    w = graph.weights(layer.w, "w", _outward, "Conv")  # D is the input channels here, and ONNX wants those first
    b = [] if layer.b is None else [graph.constant(layer.b, role="b")]
    y = graph.node(
        "ConvTranspose",
        *(graph.first(x), w, *b),
        kernel_shape=at.window,
        strides=at.stride,
        pads=_pads(at.pads),
        output_padding=more,
        dilations=at.dilation,
        group=layer.groups,
    )
    return Value(y, (*at.size, layer.filters), FIRST)


@_exports(L.SeparableConv2D)
def _separable(graph: OnnxGraph, layer: L.SeparableConv2D, x: Value) -> Value:
    return graph.inside("pointwise", layer.pointwise, graph.inside("depthwise", layer.depthwise, x))


def _pool(
    graph: OnnxGraph, layer: Any, x: Value, operator: str, outside: float = 0.0, counted: bool = False, **options: Any
) -> Value:
    """Pooling with all its padding in numbers: how far ceil_mode reaches differs from program to program.

    Programs reject padding as wide as the window; then it becomes part of the map, with the value ``outside``. So does
    padding that is ``counted`` in a mean, since the part that ceil_mode adds beyond it does not count.
    """
    at: Windows = layer._windows((x.shape[0], x.shape[1]))
    name, pads, beyond = graph.first(x), at.pads, ((0, at.overhang[0]), (0, at.overhang[1]))
    if counted or any(pad >= k for pair, k in zip(at.reach, at.window) for pad in pair):
        name, pads = (_padded(graph, name, pads, outside) if any(map(any, pads)) else name), ((0, 0), (0, 0))
        if operator != "AveragePool" and any(map(any, beyond)):
            name, beyond = _padded(graph, name, beyond, outside), ((0, 0), (0, 0))
    (top, bottom), (left, right) = pads
    spread = {
        "kernel_shape": at.window,
        "strides": at.stride,
        "pads": [top, left, bottom + beyond[0][1], right + beyond[1][1]],
        "dilations": list(at.dilation) if at.dilation != (1, 1) else None,
    }
    return Value(graph.node(operator, name, **spread, **options), layer.output_shape(x.shape), FIRST)


def _padded(graph: OnnxGraph, name: str, pads: Any, value: float) -> str:
    (top, bottom), (left, right) = pads
    amounts = graph.integers(0, 0, top, left, 0, 0, bottom, right)
    return graph.node("Pad", name, amounts, graph.number(value, graph.dtype))


@_exports(L.MaxPool2D)
def _max_pool(graph: OnnxGraph, layer: L.MaxPool2D, x: Value) -> Value:
    return _pool(graph, layer, x, "MaxPool", -math.inf)


@_exports(L.AveragePool2D)
def _average_pool(graph: OnnxGraph, layer: L.AveragePool2D, x: Value) -> Value:
    at, counted = layer._windows((x.shape[0], x.shape[1])), layer.count_include_pad
    outside = tuple((0, more) for more in at.overhang) if counted else at.reach  # what cannot become part of the map
    too_wide = any(pad >= k for pair, k in zip(outside, at.window) for pad in pair)
    if not too_wide and (at.dilation == (1, 1) or graph.opset >= 19):
        return _pool(graph, layer, x, "AveragePool", counted=counted, count_include_pad=0)
    (top, bottom), (left, right) = at.reach  # the sums of the windows, each divided by the number of its units
    ones = graph.constant(numpy.ones((x.shape[2], 1, *at.window)))
    options = {"pads": [top, left, bottom, right], "strides": at.stride, "dilations": at.dilation, "group": x.shape[2]}
    sums = graph.node("Conv", graph.first(x), ones, kernel_shape=at.window, **options)
    return Value(graph.node("Div", sums, graph.constant(units_of(at, counted))), (*at.grid, x.shape[2]), FIRST)


def units_of(at: Windows, counted: bool) -> numpy.ndarray:
    """The number of units in each window, with those of the padding if they count: (H', W')."""
    along = []
    for axis in (0, 1):
        start = numpy.arange(at.grid[axis])[:, None] * at.stride[axis] - at.pads[axis][0]
        met = start + numpy.arange(at.window[axis]) * at.dilation[axis]  # the rows that each window covers
        first, end = (-at.pads[axis][0], at.size[axis] + at.pads[axis][1]) if counted else (0, at.size[axis])
        along.append(((met >= first) & (met < end)).sum(axis=1))
    return numpy.outer(*along)


@_exports(L.L2Pool2D)
def _l2_pool(graph: OnnxGraph, layer: L.L2Pool2D, x: Value) -> Value:
    return _pool(graph, layer, x, "LpPool", p=2)


@_exports(L.GlobalAveragePool2D, L.GlobalMaxPool2D)
def _global_pool(graph: OnnxGraph, layer: Any, x: Value) -> Value:
    name = graph.node(type(layer).__name__.removesuffix("Pool2D") + "Pool", graph.first(x))
    if layer.keepdims:
        return Value(name, (1, 1, x.shape[2]), FIRST)
    return Value(graph.node("Flatten", name), (x.shape[2],))


@_exports(L.AdaptiveAveragePool2D)
def _adaptive_pool(graph: OnnxGraph, layer: L.AdaptiveAveragePool2D, x: Value) -> Value:
    """Means down and across, each a product with a matrix of shares: windows of one size are the special case."""
    down, across = (
        _shares(n, [(slice(a, b), 1.0 / (b - a)) for a, b in spans_of(n, count)])
        for n, count in zip(x.shape, layer.output_size)
    )
    return _mixed(graph, layer, x, down, across)


@_exports(L.UpSampling2D)
def _upsampling(graph: OnnxGraph, layer: L.UpSampling2D, x: Value) -> Value:
    shape = layer.output_shape(x.shape)
    if graph.dtype == "float64":  # few programs can resize it
        down, across = (_resized(n, s, layer.interpolation) for n, s in zip(x.shape, layer.size))
        return _mixed(graph, layer, x, down, across)
    nearest = layer.interpolation == "nearest"
    options = {"mode": "nearest", "nearest_mode": "floor"} if nearest else {"mode": "linear"}
    options["coordinate_transformation_mode"] = "asymmetric" if nearest else "half_pixel"
    scales = graph.constant(numpy.array([1.0, 1.0, *layer.size]), "float32", role="scales")
    y = graph.narrow(graph.node("Resize", graph.wide(graph.first(x)), "", scales, **options))
    return Value(y, shape, FIRST)


def _mixed(graph: OnnxGraph, layer: Layer, x: Value, down: numpy.ndarray, across: numpy.ndarray) -> Value:
    """Each map between two matrices, (H', H) and (W', W)."""
    rows = graph.node("MatMul", graph.constant(down, graph.wide_dtype), graph.wide(graph.first(x)))
    y = graph.node("MatMul", rows, graph.constant(across.T, graph.wide_dtype))
    return Value(graph.narrow(y), layer.output_shape(x.shape), FIRST)


def _shares(n: int, parts: Sequence[tuple[Any, float]]) -> numpy.ndarray:
    """A matrix of n columns, with a row for each part: the places that it reads, and their shares."""
    matrix = numpy.zeros((len(parts), n))
    for row, (where, share) in zip(matrix, parts):
        row[where] = share
    return matrix


def _resized(n: int, s: int, interpolation: str) -> numpy.ndarray:
    """What each of n·s rows reads of n rows, as :func:`dualnet.ops.upsample2d` has it: the images of unit vectors."""
    units = asarray(numpy.eye(n)[:, :, None, None], backend="numpy")
    return to_numpy(upsample2d(units, (s, 1), interpolation=interpolation)[0])[:, :, 0, 0].T


@_exports(L.ZeroPadding2D, L.ReflectionPadding2D)
def _padding(graph: OnnxGraph, layer: Any, x: Value) -> Value:
    (top, bottom), (left, right) = layer.padding
    amounts = graph.integers(0, 0, top, left, 0, 0, bottom, right)
    mode = "constant" if isinstance(layer, L.ZeroPadding2D) else "reflect"
    return Value(graph.node("Pad", graph.first(x), amounts, mode=mode), layer.output_shape(x.shape), FIRST)


@_exports(L.Cropping2D)
def _cropping(graph: OnnxGraph, layer: L.Cropping2D, x: Value) -> Value:
    shape, ((top, _), (left, _)) = layer.output_shape(x.shape), layer.cropping
    ends = graph.integers(top + shape[0], left + shape[1])
    y = graph.node("Slice", graph.first(x), graph.integers(top, left), ends, graph.integers(2, 3))
    return Value(y, shape, FIRST)


@_exports(L.Reshape)
def _reshape(graph: OnnxGraph, layer: L.Reshape, x: Value) -> Value:
    shape = layer.output_shape(x.shape)
    return Value(graph.node("Reshape", graph.rows(x), graph.integers(-1, *shape)), shape)


@_exports(L.Conv1D, L.MaxPool1D, L.AveragePool1D, L.GlobalAveragePool1D, L.GlobalMaxPool1D)
def _sequence(graph: OnnxGraph, layer: Any, x: Value) -> Value:
    """As maps of height 1, with the two-dimensional layer."""
    shape, twin, one = layer.output_shape(x.shape), layer.on_maps(), graph.integers(1)
    y = EXPORTERS[type(twin)](graph, twin, Value(graph.node("Unsqueeze", graph.rows(x), one), (1, *x.shape)))
    return Value(graph.node("Squeeze", graph.rows(y), one) if len(y.shape) == 3 else graph.rows(y), shape)


@_exports(L.Flatten)
def _flatten(graph: OnnxGraph, layer: L.Flatten, x: Value) -> Value:
    shape = layer.output_shape(x.shape)
    if len(x.shape) == 1:
        return x
    if x.lies == FIRST and 1 not in (x.shape[2], x.shape[0] * x.shape[1]):  # otherwise both orders are the same
        return Value(graph.node("Flatten", x.name), shape, FLAT, x.shape)
    return Value(graph.node("Flatten", x.name), shape)


@_exports(L.Dense)
def _dense(graph: OnnxGraph, layer: L.Dense, x: Value) -> Value:
    shape, units = layer.output_shape(x.shape), layer.units
    b = [] if layer.b is None else [graph.constant(layer.b, role="b")]
    if x.lies == FIRST:  # a weighted sum of the channels of each unit: a convolution of 1 × 1
        w = graph.weights(layer.w, "w", lambda w: w.T[:, :, None, None], "1 × 1")
        return Value(graph.node("Conv", x.name, w, *b, kernel_shape=[1, 1]), shape, FIRST)
    if x.lies == FLAT:
        turn = (*x.map, units)
        w = graph.weights(layer.w, "w", lambda w: w.reshape(turn).transpose(2, 0, 1, 3).reshape(-1, units), x.map)
    else:
        w = graph.constant(layer.w, role="w")
    if len(x.shape) == 1 and b:
        return Value(graph.node("Gemm", x.name, w, *b), shape)
    y = graph.node("MatMul", x.name, w)
    return Value(graph.node("Add", y, *b) if b else y, shape)


def _activation(graph: OnnxGraph, layer: Layer, x: Value) -> Value:
    """An activation: it works unit by unit, with any layout."""
    return replace(x, name=graph.narrow(_units(graph, layer, graph.wide(x.name))))


_exports(L.Sigmoid, L.Tanh, L.Softplus, L.LeakyReLU, L.ELU, L.GELU, L.SiLU)(_activation)
_exports(L.Mish, L.ReLU6, L.Hardsigmoid, L.Hardswish)(_activation)


@_exports(L.ReLU)
def _relu(graph: OnnxGraph, layer: L.ReLU, x: Value) -> Value:
    return replace(x, name=graph.node("Relu", x.name))


def _units(graph: OnnxGraph, layer: Any, x: str) -> str:
    node, number = graph.node, graph.number
    if isinstance(layer, (L.Sigmoid, L.Tanh, L.Softplus)):
        return node(type(layer).__name__, x)
    if isinstance(layer, L.SiLU):
        return node("Mul", x, node("Sigmoid", x))
    if isinstance(layer, L.Mish):
        return node("Mul", x, node("Tanh", node("Softplus", x)))
    if isinstance(layer, L.ReLU6):
        return node("Clip", x, number(0.0), number(6.0))
    if isinstance(layer, (L.Hardsigmoid, L.Hardswish)):
        gate = node("Div", node("Clip", node("Add", x, number(3.0)), number(0.0), number(6.0)), number(6.0))
        return gate if isinstance(layer, L.Hardsigmoid) else node("Mul", x, gate)
    if isinstance(layer, L.LeakyReLU):
        return (
            node("LeakyRelu", x, alpha=layer.alpha)
            if _exact(graph, layer.alpha)
            else node("PRelu", x, number(layer.alpha))
        )
    if isinstance(layer, L.ELU):
        if _exact(graph, layer.alpha):
            return node("Elu", x, alpha=layer.alpha)
        below = node("Mul", node("Elu", node("Min", x, number(0.0))), number(layer.alpha))
        return node("Add", node("Relu", x), below)
    if graph.opset >= 20 and graph.dtype != "float64":  # the operator's own constants are float32
        return node("Gelu", x, approximate="tanh" if layer.approximate else "none")
    if layer.approximate:
        cubed = node("Mul", node("Mul", node("Mul", x, x), x), number(0.044715))
        gate = node("Tanh", node("Mul", node("Add", x, cubed), number(math.sqrt(2 / math.pi))))
    else:
        gate = node("Erf", node("Mul", x, number(math.sqrt(0.5))))
    return node("Mul", node("Mul", x, node("Add", gate, number(1.0))), number(0.5))


@_exports(L.PReLU)
def _prelu(graph: OnnxGraph, layer: L.PReLU, x: Value) -> Value:
    first = x.lies == FIRST
    alpha = graph.weights(layer.alpha, "alpha", lambda a: a[:, None, None] if first else a, first)
    return Value(graph.node("PRelu", x.name if first else graph.rows(x), alpha), x.shape, FIRST if first else ROWS)


def _exact(graph: OnnxGraph, value: float) -> bool:
    """Attributes are float32: is this as exact for the value as the network's dtype?"""
    return graph.dtype != "float64" or float(numpy.float32(value)) == value


@_exports(L.Softmax, L.LogSoftmax)
def _softmax(graph: OnnxGraph, layer: L.Softmax, x: Value) -> Value:
    axis = layer.axis % (len(x.shape) + 1)
    if x.lies == FIRST:
        axis = (0, 2, 3, 1)[axis]
    name = x.name if x.lies == FIRST else graph.rows(x)
    y = graph.narrow(graph.node(type(layer).__name__, graph.wide(name), axis=axis))
    return Value(y, x.shape, FIRST if x.lies == FIRST else ROWS)


def _spread_and_mean(graph: OnnxGraph, layer: Any, shape: Shape) -> tuple[str, str]:
    """γ and β in the wide dtype; constants if they are not learned."""
    gamma, beta = layer.gamma or numpy.ones(shape), layer.beta or numpy.zeros(shape)
    return graph.constant(gamma, graph.wide_dtype, role="gamma"), graph.constant(beta, graph.wide_dtype, role="beta")


@_exports(L.BatchNorm)
def _batch_norm(graph: OnnxGraph, layer: L.BatchNorm, x: Value) -> Value:
    axes, epsilon = len(x.shape), float(numpy.float32(layer.epsilon))
    mean, variance = to_numpy(layer.moving_mean), to_numpy(layer.moving_variance)
    if graph.dtype == "float64":
        variance = variance + (layer.epsilon - epsilon)  # the attribute is float32: the rest of ε goes here
    statistics = [
        graph.constant(mean, graph.wide_dtype, role="moving_mean"),
        graph.constant(variance, graph.wide_dtype, role="moving_variance"),
    ]
    name, lies = (graph.first(x), FIRST) if axes == 3 else (graph.rows(x), ROWS)
    if axes in (2, 4):  # ONNX wants the channels after the batch
        name = graph.transposed(name, (0, axes, *range(1, axes)))
    parts = *_spread_and_mean(graph, layer, x.shape[-1:]), *statistics
    y = graph.narrow(
        graph.node("BatchNormalization", graph.wide(name), *parts, epsilon=layer.epsilon, momentum=layer.momentum)
    )
    if axes in (2, 4):
        y = graph.transposed(y, (0, *range(2, axes + 1), 1))
    return Value(y, x.shape, lies)


@_exports(L.LayerNorm)
def _layer_norm(graph: OnnxGraph, layer: L.LayerNorm, x: Value) -> Value:
    axes = len(x.shape) + 1
    given = layer.axis if isinstance(layer.axis, tuple) else (layer.axis,)
    inside = sorted(axis % axes for axis in given)
    order = [*(axis for axis in range(axes) if axis not in inside), *inside]  # ONNX normalises the last axes
    moved = order != list(range(axes))
    name = graph.transposed(graph.rows(x), tuple(order)) if moved else graph.rows(x)
    gamma, beta = _spread_and_mean(graph, layer, layer._inside((1, *x.shape)))
    last = list(range(axes - len(inside), axes))
    y = graph.narrow(_normalised(graph, graph.wide(name), gamma, beta, last, layer.epsilon))
    return Value(graph.transposed(y, tuple(order.index(a) for a in range(axes))) if moved else y, x.shape)


def _normalised(graph: OnnxGraph, x: str, gamma: str, beta: str, axes: list[int], epsilon: float) -> str:
    """Layer norm over the last axes. In float64 in small steps: ONNX's operator has its ε and its sums in float32."""
    node = graph.node
    if graph.dtype != "float64":
        return node("LayerNormalization", x, gamma, beta, axis=axes[0], epsilon=epsilon)
    along = graph.integers(*axes)
    centred = node("Sub", x, node("ReduceMean", x, along))
    variance = node("ReduceMean", node("Mul", centred, centred), along)
    x_hat = node("Div", centred, node("Sqrt", node("Add", variance, graph.number(epsilon))))
    return node("Add", node("Mul", x_hat, gamma), beta)


@_exports(L.RMSNorm)
def _rms_norm(graph: OnnxGraph, layer: L.RMSNorm, x: Value) -> Value:
    """In small steps: ONNX has an operator only from opset 23 on."""
    axes, name, node = len(x.shape) + 1, graph.wide(graph.rows(x)), graph.node
    inside = sorted(axis % axes for axis in (layer.axis if isinstance(layer.axis, tuple) else (layer.axis,)))
    square = node("ReduceMean", node("Mul", name, name), graph.integers(*inside))
    y = node("Div", name, node("Sqrt", node("Add", square, graph.number(layer.epsilon))))
    if layer.gamma is not None:
        along = [x.shape[axis - 1] if axis in inside else 1 for axis in range(1, axes)]
        gamma = graph.constant(layer.gamma, graph.wide_dtype, role="gamma")
        y = node("Mul", y, node("Reshape", gamma, graph.integers(*along)))
    return Value(graph.narrow(y), x.shape)


@_exports(L.GroupNorm, L.InstanceNorm)
def _group_norm(graph: OnnxGraph, layer: L.GroupNorm, x: Value) -> Value:
    axes, C, groups = len(x.shape), x.shape[-1], layer.groups
    name, lies = (graph.first(x), FIRST) if axes == 3 else (graph.rows(x), ROWS)
    if axes in (2, 4):
        name = graph.transposed(name, (0, axes, *range(1, axes)))
    name = graph.wide(name)
    if graph.opset >= 21 and graph.dtype != "float64" and axes > 1:
        gamma, beta = _spread_and_mean(graph, layer, (C,))
        y = graph.node("GroupNormalization", name, gamma, beta, num_groups=groups, epsilon=layer.epsilon)
    else:
        y = _group_norm_in_steps(graph, layer, name, x.shape)
    y = graph.narrow(y)
    if axes in (2, 4):
        y = graph.transposed(y, (0, *range(2, axes + 1), 1))
    return Value(y, x.shape, lies)


def _group_norm_in_steps(graph: OnnxGraph, layer: L.GroupNorm, x: str, shape: Shape) -> str:
    """(N, C, ...) -> (N, g, C/g · ...), normalised along its last axis, and back."""
    C, inside = shape[-1], shape[:-1]
    node, groups = graph.node, layer.groups
    rows = node("Reshape", x, graph.integers(-1, groups, elements(shape) // groups))
    ones, zeros = (
        graph.constant(one(elements(shape) // groups), graph.wide_dtype) for one in (numpy.ones, numpy.zeros)
    )
    x_hat = node("Reshape", _normalised(graph, rows, ones, zeros, [2], layer.epsilon), graph.integers(-1, C, *inside))
    gamma, beta = (
        node("Reshape", name, graph.integers(C, *(1 for _ in inside))) for name in _spread_and_mean(graph, layer, (C,))
    )
    return node("Add", node("Mul", x_hat, gamma), beta)


@_exports(L.Dropout, L.SpatialDropout2D, L.Identity)
def _nothing(graph: OnnxGraph, layer: Layer, x: Value) -> Value:
    return x


@_exports(L.Sequential)
def _chain(graph: OnnxGraph, layer: L.Sequential, x: Value) -> Value:
    for name, child in layer.children().items():
        x = graph.inside(name, child, x)
    return x


@_exports(L.Residual)
def _residual(graph: OnnxGraph, layer: L.Residual, x: Value) -> Value:
    branches = [graph.inside("layer", layer.layer, x)]
    return _sum(graph, [*branches, x if layer.shortcut is None else graph.inside("shortcut", layer.shortcut, x)])


@_exports(L.Parallel)
def _parallel(graph: OnnxGraph, layer: L.Parallel, x: Value) -> Value:
    return _merged(graph, layer.merge, [graph.inside(name, child, x) for name, child in layer.children().items()])


@_exports(L.Graph)
def _graph(graph: OnnxGraph, layer: L.Graph, x: Value) -> Value:
    values = {layer.inputs[0]: x}
    for name, node in layer.nodes.items():
        if isinstance(node.inputs, str):
            values[name] = graph.inside(name, node.layer, values[node.inputs])
        else:
            exporter: Any = exporter_of(node.layer, EXPORTERS)  # of a layer that takes several
            values[name] = exporter(graph, node.layer, [values[source] for source in node.inputs])
    return values[layer.ends()[0]]


@_exports(L.Add, L.Average, L.Concatenate, L.Maximum, L.Multiply)
def _merge_of_several(graph: OnnxGraph, layer: Any, several: Any) -> Value:
    return _merged(graph, layer.merge, several)


def _merged(graph: OnnxGraph, merge: str, branches: list[Value]) -> Value:
    if merge == "add":
        return _sum(graph, branches)
    names, lies = _alike(graph, branches)
    if merge in UNIT_BY_UNIT:
        shape = merged_shape("to_onnx", merge, [branch.shape for branch in branches])
        return Value(_unit_by_unit(graph, UNIT_BY_UNIT[merge], names), shape, lies)
    C = sum(branch.shape[-1] for branch in branches)
    axis = 1 if lies == FIRST else len(branches[0].shape)
    return Value(graph.node("Concat", *names, axis=axis), (*branches[0].shape[:-1], C), lies)


UNIT_BY_UNIT = {"average": "Mean", "max": "Max", "multiply": "Mul"}
"""The operator of each merge that takes the branches unit by unit; these stretch axes of extent 1 as ours do."""


def _unit_by_unit(graph: OnnxGraph, operator: str, names: list[str]) -> str:
    if operator != "Mul":  # Mul takes two inputs, the others any number
        return graph.node(operator, *names)
    product = names[0]
    for name in names[1:]:
        product = graph.node("Mul", product, name)
    return product


def _sum(graph: OnnxGraph, branches: list[Value]) -> Value:
    names, lies = _alike(graph, branches)
    total = names[0]
    for name in names[1:]:
        total = graph.node("Add", total, name)
    return Value(total, branches[0].shape, lies)


def _alike(graph: OnnxGraph, branches: list[Value]) -> tuple[list[str], str]:
    """The branches, all with the same layout."""
    if any(branch.lies == FIRST for branch in branches):
        return [graph.first(branch) for branch in branches], FIRST
    return [graph.rows(branch) for branch in branches], ROWS


@_exports(PaddedShortcut)
def _padded_shortcut(graph: OnnxGraph, layer: PaddedShortcut, x: Value) -> Value:
    name, s = graph.first(x), layer.stride
    if s > 1:
        ends = graph.integers(*x.shape[:2])
        name = graph.node("Slice", name, graph.integers(0, 0), ends, graph.integers(2, 3), graph.integers(s, s))
    if layer.filters > x.shape[2]:
        amounts = graph.integers(0, 0, 0, 0, 0, layer.filters - x.shape[2], 0, 0)
        name = graph.node("Pad", name, amounts)
    return Value(name, layer.output_shape(x.shape), FIRST)
