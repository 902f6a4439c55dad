"""A network as a list of steps, for generated programs that run without dualnet.

Each step is one function called on one example: the arrays it reads, the array it makes, and the numbers it needs.
Chains, shortcuts and branches are gone; so are layers that do nothing in inference.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy

from .. import layers as kinds
from ..arguments import integer
from ..geometry import elements, transposed
from ..layers.entering import as_batch, one_of_each
from ..layers.joining import check_classes
from ..layers.layer import Layer, Shape
from ..layers.parameter import Parameter
from ..models import PaddedShortcut
from ..ops.normalization import check_axes
from ..shim import to_numpy
from .targets import AS_FLOAT32

__all__ = ["Plan", "Step", "Value", "plan", "text_size", "vectors"]

LIMIT = 64 * 2**20
"""A longer text, in bytes, raises an error: compilers and editors choke on it."""
NUMBERS_OF_TESTS = 20_000
"""How many numbers of test inputs are written by default, but at least one example."""


@dataclass(frozen=True)
class Value:
    """The input or the output of a step for one example. Flatten makes another value at the same place."""

    place: int
    shape: Shape

    @property
    def size(self) -> int:
        return elements(self.shape)


@dataclass(frozen=True)
class Step:
    """One function, called on one example. ``arrays`` names its parameters; ``numbers`` are its other arguments."""

    kind: str
    title: str
    inputs: tuple[Value, ...]
    output: Value
    numbers: Mapping[str, Any] = field(default_factory=dict)
    arrays: Mapping[str, str] = field(default_factory=dict)
    terms: int = 1
    """How many terms its sums have."""


@dataclass
class Plan:
    """Steps in the order in which they run. Place 0 is the input."""

    input: Value
    output: Value
    steps: list[Step]
    arrays: dict[str, numpy.ndarray]
    dtype: numpy.dtype

    @property
    def tolerance(self) -> float:
        """How far apart two correct results may be, ‖y − r‖ / ‖r‖: τ = u (8 + 4 √K) of every step, added up."""
        return float(numpy.finfo(self.dtype).eps) / 2 * sum(8 + 4 * math.sqrt(step.terms) for step in self.steps)


def plan(net: Layer, op: str, *, fused: bool = False) -> Plan:
    """The steps of an initialised float32 or float64 network; ``ValueError`` names every layer without a step.

    ``fused`` gives the steps of ``net.fuse()``.

    >>> import dualnet as dn
    >>> net = dn.Sequential([dn.Conv2D(4, 3), dn.ReLU(), dn.Flatten(), dn.Dense(2)]).init((5, 5, 1))
    >>> [(step.kind, step.output.shape) for step in plan(net, "to_c").steps]
    [('conv2d', (3, 3, 4)), ('relu', (3, 3, 4)), ('dense', (2,))]
    """
    if not isinstance(net, Layer):
        raise TypeError(f"{op}: expected a layer or network, got {type(net).__name__}")
    if net.input_shape is None:
        raise ValueError(f"{op}: {type(net).__name__} has no parameters yet: call net.init(input_shape) first")
    one_of_each(net, op)
    check_classes(net, op)
    dtype = numpy.dtype(net.dtype)
    if dtype.name not in ("float32", "float64"):
        raise ValueError(f"{op}: the network computes in {dtype.name}; expected float32 or float64. {AS_FLOAT32}")
    writer = _Writer(net, dtype)
    start = Value(0, tuple(net.input_shape))
    output = writer.write("", net, start)
    if writer.refused:
        raise ValueError(
            f"{op}: cannot write {'; '.join(writer.refused)}. Use other layers, or keep the network with "
            "net.save(path)."
        )
    for name, array in writer.arrays.items():
        if not numpy.isfinite(array).all():
            raise ValueError(f"{op}: {name} holds NaN or infinity. Train the network again, or load a good file.")
    if fused:  # only now, so that messages use the original names of the layers
        return plan(net.fuse(), op)
    return Plan(start, output, writer.steps, writer.arrays, dtype)


def vectors(net: Layer, x: Any, seed: int, op: str) -> tuple[numpy.ndarray, numpy.ndarray]:
    """Test inputs, drawn by ``seed`` unless x is given, and the network's outputs for them."""
    shape = tuple(net.input_shape or ())
    if x is None:
        seed = integer(seed, "seed", op=op, least=0)
        count = max(1, min(4, NUMBERS_OF_TESTS // elements(shape)))
        x = numpy.random.default_rng(seed).standard_normal((count, *shape)).astype(net.dtype)
    batch = as_batch(net, x, op)
    if tuple(batch.shape[1:]) != shape:
        raise ValueError(f"{op}: x has shape {tuple(batch.shape)}; expected (N, {', '.join(map(str, shape))})")
    x, y = to_numpy(batch), to_numpy(net(batch))
    for what, array in (("x", x), ("the network's output for x", y)):
        if not numpy.isfinite(array).all():
            raise ValueError(f"{op}: {what} holds NaN or infinity, so it cannot serve as a test. Pass another x.")
    return x, y


def text_size(op: str, made: Plan, tests: int, bytes_per_number: float) -> None:
    """Raise ``ValueError`` for a text above the limit, before it is written."""
    size = (sum(array.size for array in made.arrays.values()) + tests) * bytes_per_number
    if size > LIMIT:
        raise ValueError(
            f"{op}: the file would have about {size / 2**20:.0f} MB; the limit is {LIMIT // 2**20} MB. Use fewer "
            "filters or fewer examples as x, or keep the network with net.save(path)."
        )


class _Writer:
    """Walks through a network and collects its steps."""

    def __init__(self, net: Layer, dtype: numpy.dtype) -> None:
        self.steps: list[Step] = []
        self.arrays: dict[str, numpy.ndarray] = {}
        self.refused: list[str] = []
        self.dtype, self.places = dtype, 1
        self.names = {id(parameter): name for name, parameter in reversed(net.parameters().items())}

    def write(self, path: str, layer: Layer, x: Value) -> Value:
        """Add the steps of a layer; returns its output."""
        writers = {**CONTAINERS, **LEAVES}
        if type(layer) not in writers:
            self._refuse(path, layer, "")
            return Value(x.place, tuple(layer.output_shape(x.shape)))
        return writers[type(layer)](self, path, layer, x)

    def _refuse(self, path: str, layer: Layer, why: str) -> None:
        kind = type(layer).__name__
        ours = "its functions are code" if kind == "Lambda" else "not supported yet"
        why = why or (ours if type(layer).__module__.startswith("dualnet.") else "a class of your own")
        self.refused.append(f"layer {path or 'outermost'} ({kind}: {why})")

    def note(self, kind: str, path: str, layer: Layer, inputs: tuple[Value, ...], shape: Shape, **more: Any) -> Value:
        output = Value(self.places, tuple(shape))
        self.places += 1
        title = f"{path} {_shown(layer)}".strip()
        self.steps.append(Step(kind, title, inputs, output, **more))
        return output

    def array(self, path: str, layer: Layer, name: str) -> dict[str, str]:
        """The parameter or statistic as ``{name: its name in the plan}``; nothing for one that the layer lacks."""
        value = getattr(layer, name)
        if value is None:
            return {}
        full = f"{path}.{name}" if path else name
        if isinstance(value, Parameter):
            full, value = self.names[id(value)], value.value
        return self.constant(name, full, to_numpy(value))

    def constant(self, name: str, full: str, value: numpy.ndarray) -> dict[str, str]:
        self.arrays[full] = numpy.ascontiguousarray(value, dtype=self.dtype)
        return {name: full}


def _shown(layer: Layer) -> str:
    """The layer with its arguments; a container, and a layer with an initializer, which may be code, by its name."""
    text = type(layer).__name__ if layer.children() else repr(layer)
    return type(layer).__name__ if "initializer" in text else text


# -- containers --------------------------------------------------------------------------------------------------------


def _inside(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _chain(writer: _Writer, path: str, layer: Any, x: Value) -> Value:
    for name, part in layer.children().items():
        x = writer.write(_inside(path, name), part, x)
    return x


def _residual(writer: _Writer, path: str, layer: Any, x: Value) -> Value:
    y = writer.write(_inside(path, "layer"), layer.layer, x)
    direct = x if layer.shortcut is None else writer.write(_inside(path, "shortcut"), layer.shortcut, x)
    return _sum(writer, path, layer, [y, direct])


def _parallel(writer: _Writer, path: str, layer: Any, x: Value) -> Value:
    outputs = [writer.write(_inside(path, name), part, x) for name, part in layer.children().items()]
    if layer.merge not in ("add", "concat"):
        writer._refuse(path, layer, f"merge={layer.merge!r} is not supported yet")
        return outputs[0]
    if layer.merge == "add" or len(outputs) == 1:
        return _sum(writer, path, layer, outputs)
    shape = (*outputs[0].shape[:-1], sum(y.shape[-1] for y in outputs))
    numbers = {"positions": elements(shape[:-1]), "channels": shape[-1]}
    return writer.note("concat", path, layer, tuple(outputs), shape, numbers=numbers)


def _sum(writer: _Writer, path: str, layer: Layer, outputs: list[Value]) -> Value:
    total = outputs[0]
    for y in outputs[1:]:
        total = writer.note("add", path, layer, (total, y), total.shape, numbers={"n": total.size})
    return total


# -- layers ------------------------------------------------------------------------------------------------------------


def _same(writer: _Writer, path: str, layer: Layer, x: Value) -> Value:
    return Value(x.place, tuple(layer.output_shape(x.shape)))


def _conv(writer: _Writer, path: str, layer: Any, x: Value) -> Value:
    at, C = layer._windows(x.shape[:2]), x.shape[2]
    if layer.mode == "convolution":  # E3: rotated once, here
        turned = to_numpy(layer.w.value)[::-1, ::-1]
        arrays = writer.constant("w", f"{writer.names[id(layer.w)]}.turned", turned)
    else:
        arrays = writer.array(path, layer, "w")
    numbers = {"at": at, "C": C, "D": layer.filters, "groups": layer.groups}
    terms = at.taps * C // layer.groups
    arrays |= writer.array(path, layer, "b")
    shape = (*at.grid, layer.filters)
    return writer.note("conv2d", path, layer, (x,), shape, numbers=numbers, arrays=arrays, terms=terms)


def _conv_transpose(writer: _Writer, path: str, layer: Any, x: Value) -> Value:
    options = {name: getattr(layer, name) for name in ("stride", "padding", "output_padding", "dilation")}
    at = transposed("Conv2DTranspose", (x.shape[0], x.shape[1]), layer.kernel_size, **options)
    numbers = {"at": at, "C": layer.filters, "D": x.shape[2], "groups": layer.groups}
    arrays = writer.array(path, layer, "w") | writer.array(path, layer, "b")
    terms = at.taps * x.shape[2] // layer.groups
    shape = (*at.size, layer.filters)
    return writer.note("conv2d_transpose", path, layer, (x,), shape, numbers=numbers, arrays=arrays, terms=terms)


def _pool(kind: str) -> Callable[..., Value]:
    def write(writer: _Writer, path: str, layer: Any, x: Value) -> Value:
        at, C = layer._windows(x.shape[:2]), x.shape[2]
        numbers = {"at": at, "C": C, "D": C, "groups": C}
        if kind == "average_pool":
            numbers["count_include_pad"] = layer.count_include_pad
        terms = 1 if kind == "max_pool" else at.taps
        return writer.note(kind, path, layer, (x,), (*at.grid, C), numbers=numbers, terms=terms)

    return write


def _global_pool(kind: str) -> Callable[..., Value]:
    def write(writer: _Writer, path: str, layer: Any, x: Value) -> Value:
        H, W, C = x.shape
        numbers, terms = {"H": H, "W": W, "C": C}, 1 if kind == "global_max_pool" else H * W
        return writer.note(kind, path, layer, (x,), layer.output_shape(x.shape), numbers=numbers, terms=terms)

    return write


def _dense(writer: _Writer, path: str, layer: Any, x: Value) -> Value:
    numbers = {"rows": elements(x.shape[:-1]), "K": x.shape[-1], "units": layer.units}
    arrays = writer.array(path, layer, "w") | writer.array(path, layer, "b")
    shape = layer.output_shape(x.shape)
    return writer.note("dense", path, layer, (x,), shape, numbers=numbers, arrays=arrays, terms=x.shape[-1])


def _activation(kind: str, *options: str) -> Callable[..., Value]:
    def write(writer: _Writer, path: str, layer: Any, x: Value) -> Value:
        numbers = {"n": x.size} | {name: getattr(layer, name) for name in options}
        return writer.note(kind, path, layer, (x,), x.shape, numbers=numbers)

    return write


def _gelu(writer: _Writer, path: str, layer: Any, x: Value) -> Value:
    return _activation("gelu_tanh" if layer.approximate else "gelu")(writer, path, layer, x)


def _softmax(kind: str) -> Callable[..., Value]:
    def write(writer: _Writer, path: str, layer: Any, x: Value) -> Value:
        axis = layer.axis - 1 if layer.axis > 0 else layer.axis + len(x.shape)  # without the batch
        outer, n, inner = elements(x.shape[:axis]), x.shape[axis], elements(x.shape[axis + 1 :])
        numbers = {"outer": outer, "n": n, "inner": inner}
        return writer.note(kind, path, layer, (x,), x.shape, numbers=numbers, terms=n)

    return write


def _batch_norm(writer: _Writer, path: str, layer: Any, x: Value) -> Value:
    variance = to_numpy(layer.moving_variance).astype(writer.dtype)
    inverse = 1 / numpy.sqrt(variance + writer.dtype.type(layer.epsilon))  # 1/s
    arrays = writer.array(path, layer, "gamma") | writer.array(path, layer, "beta")
    arrays |= writer.constant("mean", _inside(path, "moving_mean"), to_numpy(layer.moving_mean))
    arrays |= writer.constant("inverse", _inside(path, "inverse"), inverse)
    numbers = {"positions": elements(x.shape[:-1]), "C": x.shape[-1]}
    return writer.note("batch_norm", path, layer, (x,), x.shape, numbers=numbers, arrays=arrays)


def _layer_norm(writer: _Writer, path: str, layer: Any, x: Value) -> Value:
    """Along some of at most 4 axes: they form at most two runs, n1 and n2; A is before, B between, I after."""
    axes = [axis - 1 for axis in check_axes(layer.axis, len(x.shape) + 1, "LayerNorm")]
    runs: list[list[int]] = [[], [], [], [], []]  # A, n1, B, n2, I
    run = 0
    for axis in range(len(x.shape)):
        if (axis in axes) != (run in (1, 3)):
            run += 1
        runs[run].append(axis)
    A, n1, B, n2, inner = (elements(tuple(x.shape[axis] for axis in run)) for run in runs)
    sets = {"A": A, "n1": n1, "B": B, "n2": n2, "I": inner}
    return _normalise(writer, path, layer, x, sets | {"of_n1": n2, "of_B": 0})


def _group_norm(writer: _Writer, path: str, layer: Any, x: Value) -> Value:
    width = x.shape[-1] // layer.groups
    sets = {"A": 1, "n1": elements(x.shape[:-1]), "B": layer.groups, "n2": width, "I": 1}
    return _normalise(writer, path, layer, x, sets | {"of_n1": 0, "of_B": width})


def _normalise(writer: _Writer, path: str, layer: Any, x: Value, numbers: dict[str, int]) -> Value:
    arrays = writer.array(path, layer, "gamma") | writer.array(path, layer, "beta")
    options: dict[str, Any] = {**numbers, "epsilon": layer.epsilon}
    terms = numbers["n1"] * numbers["n2"]
    return writer.note("normalise", path, layer, (x,), x.shape, numbers=options, arrays=arrays, terms=terms)


def _padded_shortcut(writer: _Writer, path: str, layer: Any, x: Value) -> Value:
    shape = layer.output_shape(x.shape)
    numbers = {"H": x.shape[0], "W": x.shape[1], "C": x.shape[2], "stride": layer.stride, "D": layer.filters}
    return writer.note("padded_shortcut", path, layer, (x,), shape, numbers=numbers)


CONTAINERS: dict[type, Callable[..., Value]] = {
    kinds.Sequential: _chain,
    kinds.SeparableConv2D: _chain,
    kinds.Residual: _residual,
    kinds.Parallel: _parallel,
}
UNWRITTEN = {
    *(kinds.Graph, kinds.Add, kinds.Average, kinds.Concatenate, kinds.Maximum, kinds.Multiply),
    *(kinds.Mish, kinds.ReLU6, kinds.Hardsigmoid, kinds.Hardswish, kinds.PReLU, kinds.RMSNorm),
    *(kinds.UpSampling2D, kinds.ZeroPadding2D, kinds.ReflectionPadding2D, kinds.Cropping2D, kinds.Reshape),
    *(kinds.AdaptiveAveragePool2D, kinds.Conv1D, kinds.MaxPool1D, kinds.AveragePool1D),
    *(kinds.GlobalAveragePool1D, kinds.GlobalMaxPool1D),
}
"""Layers that have no form yet."""
LEAVES: dict[type, Callable[..., Value]] = {
    kinds.Identity: _same,
    kinds.Dropout: _same,
    kinds.SpatialDropout2D: _same,
    kinds.Flatten: _same,
    kinds.Conv2D: _conv,
    kinds.DepthwiseConv2D: _conv,
    kinds.Conv2DTranspose: _conv_transpose,
    kinds.MaxPool2D: _pool("max_pool"),
    kinds.AveragePool2D: _pool("average_pool"),
    kinds.L2Pool2D: _pool("l2_pool"),
    kinds.GlobalAveragePool2D: _global_pool("global_average_pool"),
    kinds.GlobalMaxPool2D: _global_pool("global_max_pool"),
    kinds.Dense: _dense,
    kinds.ReLU: _activation("relu"),
    kinds.LeakyReLU: _activation("leaky_relu", "alpha"),
    kinds.ELU: _activation("elu", "alpha"),
    kinds.GELU: _gelu,
    kinds.SiLU: _activation("silu"),
    kinds.Sigmoid: _activation("sigmoid"),
    kinds.Tanh: _activation("tanh"),
    kinds.Softplus: _activation("softplus"),
    kinds.Softmax: _softmax("softmax"),
    kinds.LogSoftmax: _softmax("log_softmax"),
    kinds.BatchNorm: _batch_norm,
    kinds.LayerNorm: _layer_norm,
    kinds.GroupNorm: _group_norm,
    kinds.InstanceNorm: _group_norm,
    PaddedShortcut: _padded_shortcut,
}
