"""The part of PyTorch that our layers cover: modules, functions and methods of tensors, each as a layer with weights.

PyTorch has its channels first, dualnet has them last. No layer transposes the maps for that: each :class:`Value` says
where the axes of PyTorch's tensor are in our array, and the weights are transposed instead, once. So ``x.permute``
costs nothing. PyTorch also counts the units of flattened maps in a different order, so the weights after them are
reordered.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy

from .. import layers as kinds
from ..geometry import elements
from ..layers.layer import Layer, Shape
from ..shim import asarray

MAPS = (0, 3, 1, 2)
"""Where the axes of (N, C, H, W) are in (N, H, W, C)."""


class _Batch:
    """The number of examples, which stays open."""

    def __repr__(self) -> str:
        return "N"


BATCH = _Batch()


@dataclass(frozen=True)
class Value:
    """The result of a node in the graph: an array of ours that holds the numbers of PyTorch's tensor.

    ``axes[d]`` is our axis, batch included, for PyTorch's axis d. ``order[j]`` is the position of our unit j in
    PyTorch; None if both orders are equal. ``pads`` are zeros around the maps, (top, bottom) and (left, right), which
    the next convolution adds. ``guessed``: something before it was not understood.
    """

    node: str
    shape: Shape
    axes: tuple[int, ...]
    order: numpy.ndarray | None = None
    pads: tuple[tuple[int, int], tuple[int, int]] | None = None
    guessed: bool = False

    @property
    def theirs(self) -> tuple[Any, ...]:
        """The shape as PyTorch has it, without ``pads``."""
        return (BATCH, *(self.shape[axis - 1] for axis in self.axes[1:]))

    def axis(self, dim: int) -> int:
        """Our axis for an axis of PyTorch's."""
        return self.axes[dim]


class Unsupported(ValueError):
    """Why something in the graph cannot be expressed with our layers, and what to do."""


class Misfit(Unsupported):
    """It cannot be expressed for an input of this shape."""


@dataclass
class Step:
    """A layer for a node, its weights in our order, and the axes of its output (None: as before)."""

    layer: Layer
    weights: dict[str, Any] = field(default_factory=dict)
    axes: tuple[int, ...] | None = None
    order: Any = None  # "kept", or the new order


def _array(tensor: Any) -> numpy.ndarray:
    return asarray(tensor, backend="numpy")


def _as_maps(x: Value) -> None:
    if x.axes != MAPS or len(x.shape) != 3:
        raise Misfit(f"its input has the shape {shown(x.theirs)}; expected maps (N, C, H, W)")


def _width(x: Value, expected: int) -> None:
    if x.shape[-1] != expected:
        raise Misfit(
            f"it takes {expected} channels or units, but its input {shown(x.theirs)} has {x.shape[-1]}. input_shape is "
            "(H, W, C) or (K,)"
        )


def shown(shape: tuple[Any, ...]) -> str:
    return f"({', '.join(map(str, shape))})"


def _in_order(x: Value, vector: Any) -> numpy.ndarray:
    """A vector with a number for each unit or channel of x, in our order."""
    array = _array(vector).reshape(-1)
    return array if x.order is None else array[x.order]


def _single(value: Any) -> Any:
    """PyTorch's (3, 3) and [3] as an extent."""
    value = tuple(value) if isinstance(value, (tuple, list)) else value
    return value[0] if isinstance(value, tuple) and len(value) == 1 else value


# -- functions that our layers compute ---------------------------------------------------------------------------------
# Each takes x as a Value and then the arguments of the function of the same name in torch.nn.functional.


def conv2d(
    x: Value,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    padding_mode: str = "zeros",
) -> Step:
    _as_maps(x)
    if padding_mode != "zeros":
        raise Unsupported(f"padding_mode={padding_mode!r}; expected 'zeros'")
    D, per_group, k1, k2 = weight.shape
    _width(x, per_group * groups)
    layer = kinds.Conv2D(
        D,
        (k1, k2),
        stride=_single(stride),
        padding=_single(padding) if x.pads is None else _more_padding(x.pads, padding),
        dilation=_single(dilation),
        groups=groups,
        use_bias=bias is not None,
    )
    return Step(layer, _bank(weight, bias))


def padded(x: Value, pad: Any, mode: str = "constant", value: float | None = None) -> Value:
    """Zeros around the maps, in PyTorch's order: left, right, top, bottom. The next convolution adds them."""
    _as_maps(x)
    if mode != "constant" or value not in (None, 0) or len(pad) != 4 or min(pad) < 0:
        raise Unsupported(f"mode={mode!r}, pad={tuple(pad)}, value={value}; expected zeros around the maps")
    left, right, top, bottom = pad
    return replace(x, pads=((top, bottom), (left, right)))


def _more_padding(pads: Any, padding: Any) -> Any:
    if padding == "same":
        raise Unsupported("padding='same' comes after another padding. Pad in only one of the two")
    own = (0, 0) if padding == "valid" else _both(padding)
    return tuple((before + more, after + more) for (before, after), more in zip(pads, own))


def _both(extent: Any) -> tuple[int, int]:
    """A number for height and width, or one for each."""
    extent = _single(extent)
    return (extent, extent) if isinstance(extent, int) else extent


def _bank(weight: Any, bias: Any) -> dict[str, Any]:
    """(D, C/g, k1, k2) -> (k1, k2, C/g, D)"""
    w = _array(weight).transpose(2, 3, 1, 0)
    return {"w": w} if bias is None else {"w": w, "b": _array(bias)}


def conv_transpose2d(
    x: Value,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
    padding_mode: str = "zeros",
) -> Step:
    _as_maps(x)
    _width(x, weight.shape[0])
    _, filters, k1, k2 = weight.shape  # (D, C/g, k1, k2): the bank of the convolution in the other direction
    layer = kinds.Conv2DTranspose(
        filters * groups,
        (k1, k2),
        stride=_single(stride),
        padding=_single(padding),
        output_padding=_single(output_padding),
        dilation=_single(dilation),
        groups=groups,
        use_bias=bias is not None,
    )
    return Step(layer, _bank(weight, bias))


def linear(x: Value, weight: Any, bias: Any = None) -> Step:
    if x.axes[-1] != len(x.shape):
        raise Misfit(
            f"it works along the last axis of {shown(x.theirs)}; expected the channels. Flatten the maps first, or "
            "permute them to (N, H, W, C)"
        )
    _width(x, weight.shape[1])
    w = _array(weight)  # (out, in)
    w = (w if x.order is None else w[:, x.order]).T  # (in, out), its rows in our order
    weights = {"w": w} if bias is None else {"w": w, "b": _array(bias)}
    return Step(kinds.Dense(weight.shape[0], use_bias=bias is not None), weights, x.axes)


def batch_norm(
    x: Value,
    running_mean: Any,
    running_var: Any,
    weight: Any = None,
    bias: Any = None,
    training: Any = (False, True),
    momentum: float | None = 0.1,
    eps: float = 1e-5,
) -> Step:
    if running_mean is None:
        raise Unsupported("track_running_stats=False; expected True, so that inference does not depend on the batch")
    if momentum is None:
        raise Unsupported("momentum=None; expected a number, such as 0.1")
    if training != (False, True):
        raise Unsupported(
            f"training={training[1]} in training and in inference. Pass training=self.training, or use nn.BatchNorm2d"
        )
    if x.axes[1] != len(x.shape):
        raise Misfit(f"its input is {shown(x.theirs)}; expected the channels as axis 1")
    _width(x, running_mean.shape[0])
    layer = kinds.BatchNorm(1.0 - momentum, eps, center=bias is not None, scale=weight is not None)
    weights = {"moving_mean": running_mean, "moving_variance": running_var, "gamma": weight, "beta": bias}
    return Step(layer, _known(x, weights), order="kept")


def _known(x: Value, vectors: dict[str, Any]) -> dict[str, Any]:
    return {name: _in_order(x, vector) for name, vector in vectors.items() if vector is not None}


def layer_norm(
    x: Value, normalized_shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5, cudnn_enable: Any = True
) -> Step:
    shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
    ours = x.axes[-len(shape) :]  # our axes, in PyTorch's order
    if x.theirs[-len(shape) :] != shape or 0 in ours:
        raise Misfit(f"normalized_shape={shape}, but its input is {shown(x.theirs)}; expected its last axes")
    axis: Any = -1 if sorted(ours) == [len(x.shape)] else tuple(sorted(ours))
    turned = numpy.argsort(ours)
    vectors = {name: value for name, value in (("gamma", weight), ("beta", bias)) if value is not None}
    weights = (
        _known(x, vectors) if x.order is not None else {n: _array(v).transpose(turned) for n, v in vectors.items()}
    )
    return Step(kinds.LayerNorm(axis, eps, center=bias is not None, scale=weight is not None), weights, order="kept")


def group_norm(x: Value, num_groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5) -> Step:
    if x.order is not None or x.axes[1] != len(x.shape):
        raise Misfit(f"its input is {shown(x.theirs)}; expected the channels as axis 1, and no flattened maps")
    layer = kinds.GroupNorm(num_groups, eps, center=bias is not None, scale=weight is not None)
    return Step(layer, _known(x, {"gamma": weight, "beta": bias}))


def instance_norm(x: Value, running_mean: Any, weight: Any, bias: Any, eps: float) -> Step:
    _as_maps(x)
    if running_mean is not None:
        raise Unsupported("track_running_stats=True; expected False")
    layer = kinds.InstanceNorm(eps, center=bias is not None, scale=weight is not None)
    return Step(layer, _known(x, {"gamma": weight, "beta": bias}))


def rms_norm(x: Value, normalized_shape: Any, weight: Any = None, eps: float | None = None) -> Step:
    step: Any = layer_norm(x, normalized_shape, weight, None, 1e-5)
    if eps is None:
        raise Unsupported("eps=None; expected a number, such as 1e-6")
    weights = {name: value for name, value in step.weights.items() if name == "gamma"}
    return replace(step, layer=kinds.RMSNorm(step.layer.axis, eps, scale=weight is not None), weights=weights)


def max_pool2d(
    x: Value,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Step:
    _as_maps(x)
    if return_indices:
        raise Unsupported("return_indices=True; expected False")
    options = {"padding": _single(padding), "dilation": _single(dilation), "ceil_mode": ceil_mode}
    return Step(kinds.MaxPool2D(_single(kernel_size), stride=_single(stride) or None, **options))


def avg_pool2d(
    x: Value,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Step:
    _as_maps(x)
    if divisor_override is not None:
        raise Unsupported(f"divisor_override={divisor_override}; expected None")
    padded = {"padding": _single(padding), "ceil_mode": ceil_mode, "count_include_pad": count_include_pad}
    return Step(kinds.AveragePool2D(_single(kernel_size), stride=_single(stride) or None, **padded))


def adaptive_avg_pool2d(x: Value, output_size: Any) -> Step | None:
    size = _adaptive(x, output_size)
    if size == (1, 1):
        return Step(kinds.GlobalAveragePool2D(keepdims=True))
    return None if size == x.shape[:2] else Step(kinds.AdaptiveAveragePool2D(size))


def adaptive_max_pool2d(x: Value, output_size: Any, return_indices: bool = False) -> Step | None:
    size = _adaptive(x, output_size)
    if return_indices:
        raise Unsupported("return_indices=True; expected False")
    if size == (1, 1):
        return Step(kinds.GlobalMaxPool2D(keepdims=True))
    return None if size == x.shape[:2] else Step(kinds.MaxPool2D(_window(x, size)))


def _adaptive(x: Value, output_size: Any) -> tuple[int, int]:
    _as_maps(x)
    sizes = tuple(output_size) if isinstance(output_size, (tuple, list)) else (output_size,) * 2
    P, Q = (extent if size is None else size for size, extent in zip(sizes, x.shape))
    return P, Q


def _window(x: Value, size: tuple[int, int]) -> tuple[int, int]:
    """Windows side by side do the same as an adaptive pooling, if they fill the map."""
    (H, W), (P, Q) = x.shape[:2], size
    if H % P or W % Q:
        raise Misfit(
            f"it pools maps of {H} × {W} to {P} × {Q} with windows of different sizes; expected equal ones. Choose an "
            f"input_shape with which these maps are a multiple of {P} × {Q}, such as (224, 224, 3) for torchvision"
        )
    return H // P, W // Q


def mean(x: Value, dim: Any = None, keepdim: bool = False, dtype: Any = None) -> Step:
    dims = tuple(dim) if isinstance(dim, (tuple, list)) else (dim,)
    if dim is None or len(x.shape) != 3 or sorted(x.axes[d] for d in dims) != [1, 2] or dtype is not None:
        raise Unsupported(f"it takes the mean along {dim}; expected height and width, as in x.mean((2, 3))")
    return Step(kinds.GlobalAveragePool2D(keepdims=keepdim), axes=x.axes if keepdim else (0, 1))


def scale(x: Value, factor: Any) -> Step | None:
    """A factor for each channel is a convolution of each channel with a filter of 1 × 1."""
    if isinstance(factor, (int, float)) and factor == 1:
        return None
    C, shape = x.shape[-1], tuple(getattr(factor, "shape", ()))
    aligned = (1,) * (len(x.axes) - len(shape)) + shape
    expected = tuple(C if axis == len(x.shape) else 1 for axis in x.axes)
    if len(x.shape) != 3 or aligned != expected:
        raise Unsupported(f"it multiplies by {_told_factor(factor)}; expected one learned factor for each channel")
    if not getattr(factor, "requires_grad", False):
        raise Unsupported(
            "it multiplies by a tensor that is not learned. Scale the input instead, or the weights of the next layer"
        )
    return Step(kinds.DepthwiseConv2D(1, use_bias=False), {"w": _array(factor).reshape(1, 1, 1, C)}, x.axes)


def _told_factor(factor: Any) -> str:
    return f"a tensor {tuple(factor.shape)}" if hasattr(factor, "shape") else repr(factor)


def dropout(x: Value, p: float = 0.5, training: Any = (False, True), inplace: bool = False) -> Step | None:
    return _dropout(kinds.Dropout, x, p, training)


def dropout2d(x: Value, p: float = 0.5, training: Any = (False, True), inplace: bool = False) -> Step | None:
    _as_maps(x)
    return _dropout(kinds.SpatialDropout2D, x, p, training)


def _dropout(kind: type[Layer], x: Value, p: float, training: Any) -> Step | None:
    if p == 0 or training == (False, False):
        return None
    if training != (False, True):
        raise Unsupported("it drops units in inference, too. Pass training=self.training, or use nn.Dropout")
    return Step(kind(p), order="kept")  # type: ignore[call-arg]


def stochastic_depth(x: Value, p: float, mode: str, training: Any = (False, True)) -> None:
    if p != 0 and training != (False, False):
        raise Unsupported(f"it drops whole branches in training, with p={p}. Set p to 0")


def flatten(x: Value, start_dim: int = 0, end_dim: int = -1) -> Step | None:
    rank = len(x.axes)
    first, last = start_dim % rank, end_dim % rank
    if first == last:
        return None
    if first != 1 or last != rank - 1:
        raise Misfit(
            f"it flattens axes {first} to {last} of {shown(x.theirs)}; expected all but the batch, as in x.flatten(1)"
        )
    if len(x.shape) == 1:
        return None
    places = numpy.arange(elements(x.shape)).reshape(x.theirs[1:])  # the position of each unit in PyTorch
    ours = places.transpose([x.axes.index(axis) - 1 for axis in range(1, rank)]).reshape(-1)
    moved = (ours != numpy.arange(ours.size)).any()
    return Step(kinds.Flatten(), axes=(0, 1), order=ours if moved else None)


def view(x: Value, *shape: Any) -> Step | None:
    wanted = tuple(shape[0]) if len(shape) == 1 and isinstance(shape[0], (tuple, list)) else shape
    theirs, K = x.theirs, elements(x.shape)
    if wanted == theirs or (len(wanted) == len(theirs) and all(a in (b, -1) for a, b in zip(wanted, theirs))):
        return None
    if wanted in ((BATCH, -1), (BATCH, K), (-1, K)):
        return flatten(x, 1)
    raise Misfit(f"it reshapes {shown(theirs)} to {shown(wanted)}; expected (N, -1), one row for each example")


def softmax(x: Value, dim: int | None = None, _stacklevel: int = 3, dtype: Any = None) -> Step:
    return Step(kinds.Softmax(_channels_or(x, dim)), order="kept")


def log_softmax(x: Value, dim: int | None = None, _stacklevel: int = 3, dtype: Any = None) -> Step:
    return Step(kinds.LogSoftmax(_channels_or(x, dim)), order="kept")


def _channels_or(x: Value, dim: int | None) -> int:
    if dim is None:
        raise Unsupported("dim=None; expected the axis, such as dim=1")
    axis = x.axes[dim]
    return -1 if axis == len(x.shape) else axis


def softplus(x: Value, beta: float = 1, threshold: float = 20) -> Step:
    if beta != 1:
        raise Unsupported(f"beta={beta}; expected 1")
    return Step(kinds.Softplus(), order="kept")


def _plain(kind: Callable[[], Layer]) -> Callable[..., Step]:
    return lambda x, inplace=False: Step(kind(), order="kept")


def prelu(x: Value, weight: Any) -> Step:
    shared = weight.shape[0] == 1
    if not shared and x.axes[1] != len(x.shape):
        raise Misfit(f"its input is {shown(x.theirs)}; expected the channels as axis 1")
    if not shared:
        _width(x, weight.shape[0])
    alpha = _array(weight) if shared else _in_order(x, weight)
    return Step(kinds.PReLU(shared=shared), {"alpha": alpha}, order="kept")


def interpolate(
    x: Value,
    size: Any = None,
    scale_factor: Any = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> Step:
    _as_maps(x)
    if mode not in ("nearest", "bilinear") or align_corners or antialias:
        raise Unsupported(
            f"mode={mode!r}, align_corners={align_corners}, antialias={antialias}; expected 'nearest', or 'bilinear' "
            "without align_corners and antialias"
        )
    if size is not None:
        sizes = tuple(size) if isinstance(size, (tuple, list)) else (size, size)
        factors = tuple(wanted / extent for wanted, extent in zip(sizes, x.shape))
    else:
        factors = tuple(scale_factor) if isinstance(scale_factor, (tuple, list)) else (scale_factor,) * 2
    if any(factor != int(factor) or factor < 1 for factor in factors):
        raise Unsupported(
            f"it enlarges the maps {' × '.join(f'{factor:g}' for factor in factors)} times; expected integers"
        )
    return Step(kinds.UpSampling2D((int(factors[0]), int(factors[1])), interpolation=mode))


def reflected(x: Value, pad: Any) -> Step:
    _as_maps(x)
    left, right, top, bottom = pad
    return Step(kinds.ReflectionPadding2D(((top, bottom), (left, right))))


def leaky_relu(x: Value, negative_slope: float = 0.01, inplace: bool = False) -> Step:
    return Step(kinds.LeakyReLU(negative_slope), order="kept")


def elu(x: Value, alpha: float = 1.0, inplace: bool = False) -> Step:
    return Step(kinds.ELU(alpha), order="kept")


def gelu(x: Value, approximate: str = "none") -> Step:
    return Step(kinds.GELU(approximate == "tanh"), order="kept")


def same(x: Value, *_: Any, **__: Any) -> None:
    """This changes nothing."""


relu, silu, sigmoid, tanh = map(_plain, (kinds.ReLU, kinds.SiLU, kinds.Sigmoid, kinds.Tanh))
PLAIN = {
    "mish": _plain(kinds.Mish),
    "relu6": _plain(kinds.ReLU6),
    "hardsigmoid": _plain(kinds.Hardsigmoid),
    "hardswish": _plain(kinds.Hardswish),
}

FUNCTIONS: dict[str, Callable[..., Step | None]] = {
    function.__name__: function
    for function in (
        *(conv2d, conv_transpose2d, linear, batch_norm, layer_norm, group_norm, rms_norm, prelu, interpolate),
        *(max_pool2d, avg_pool2d, adaptive_avg_pool2d, adaptive_max_pool2d, mean),
        *(dropout, dropout2d, stochastic_depth, flatten, view, softmax, log_softmax, softplus, leaky_relu, elu, gelu),
    )
} | {
    **{"relu": relu, "silu": silu, "sigmoid": sigmoid, "tanh": tanh, "feature_dropout": dropout2d},
    **PLAIN,
    **{"reshape": view, "contiguous": same, "clone": same, "identity": same},
}
"""Functions of ``torch`` and ``torch.nn.functional`` and methods of tensors; ``relu_`` is ``relu``."""

MODULES: dict[str, Callable[[Any, Value], Step | None]] = {
    "Conv2d": lambda m, x: conv2d(
        x, m.weight, m.bias, m.stride, m.padding, m.dilation, m.groups, padding_mode=m.padding_mode
    ),
    "ConvTranspose2d": lambda m, x: conv_transpose2d(
        x, m.weight, m.bias, m.stride, m.padding, m.output_padding, m.groups, m.dilation
    ),
    "Linear": lambda m, x: linear(x, m.weight, m.bias),
    "BatchNorm2d": lambda m, x: _batch_norm_module(m, x, 3),
    "BatchNorm1d": lambda m, x: _batch_norm_module(m, x, 1),
    "LayerNorm": lambda m, x: layer_norm(x, m.normalized_shape, m.weight, m.bias, m.eps),
    "GroupNorm": lambda m, x: group_norm(x, m.num_groups, m.weight, m.bias, m.eps),
    "InstanceNorm2d": lambda m, x: instance_norm(x, m.running_mean, m.weight, m.bias, m.eps),
    "RMSNorm": lambda m, x: rms_norm(x, m.normalized_shape, m.weight, m.eps),
    "MaxPool2d": lambda m, x: max_pool2d(
        x, m.kernel_size, m.stride, m.padding, m.dilation, m.ceil_mode, m.return_indices
    ),
    "AvgPool2d": lambda m, x: avg_pool2d(
        x, m.kernel_size, m.stride, m.padding, m.ceil_mode, m.count_include_pad, m.divisor_override
    ),
    "AdaptiveAvgPool2d": lambda m, x: adaptive_avg_pool2d(x, m.output_size),
    "AdaptiveMaxPool2d": lambda m, x: adaptive_max_pool2d(x, m.output_size, m.return_indices),
    "Flatten": lambda m, x: flatten(x, m.start_dim, m.end_dim),
    "Dropout": lambda m, x: dropout(x, m.p),
    "Dropout2d": lambda m, x: dropout2d(x, m.p),
    "Identity": lambda m, x: None,
    "ReLU": lambda m, x: relu(x),
    "SiLU": lambda m, x: silu(x),
    "Sigmoid": lambda m, x: sigmoid(x),
    "Tanh": lambda m, x: tanh(x),
    "Mish": lambda m, x: PLAIN["mish"](x),
    "ReLU6": lambda m, x: PLAIN["relu6"](x),
    "Hardsigmoid": lambda m, x: PLAIN["hardsigmoid"](x),
    "Hardswish": lambda m, x: PLAIN["hardswish"](x),
    "PReLU": lambda m, x: prelu(x, m.weight),
    "Upsample": lambda m, x: interpolate(x, m.size, m.scale_factor, m.mode, m.align_corners),
    "UpsamplingNearest2d": lambda m, x: interpolate(x, m.size, m.scale_factor, m.mode, m.align_corners),
    "ReflectionPad2d": lambda m, x: reflected(x, m.padding),
    "LeakyReLU": lambda m, x: leaky_relu(x, m.negative_slope),
    "ELU": lambda m, x: elu(x, m.alpha),
    "GELU": lambda m, x: gelu(x, m.approximate),
    "Softplus": lambda m, x: softplus(x, m.beta, m.threshold),
    "Softmax": lambda m, x: softmax(x, m.dim),
    "LogSoftmax": lambda m, x: log_softmax(x, m.dim),
}
"""Modules of ``torch.nn`` by name."""


def _batch_norm_module(m: Any, x: Value, axes: int) -> Step:
    if len(x.shape) != axes:
        raise Misfit(f"its input has the shape {shown(x.theirs)}; expected {axes + 1} axes")
    return batch_norm(x, m.running_mean, m.running_var, m.weight, m.bias, momentum=m.momentum, eps=m.eps)


HINTS = {
    "SELU": "Use nn.ELU instead, and train the network a little longer",
    **dict.fromkeys(
        ("mul", "imul"),
        "dualnet multiplies two maps in dn.Parallel([...], merge='multiply'). Write this part with it",
    ),
    **dict.fromkeys(
        ("chunk", "split", "getitem"),
        "a layer of dualnet takes its whole input, and has one output. Write this part as a dn.Layer",
    ),
    **dict.fromkeys(("MultiheadAttention", "scaled_dot_product_attention"), "dualnet has no layer for attention"),
}
"""What to do about functions that our layers do not cover."""
OTHERWISE = "Write a dn.Layer for it, convert the parts before and after it, and put all three into a dn.Sequential"
