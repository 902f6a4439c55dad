"""To PyTorch: a network as a ``torch.nn.Module`` with the same weights, which takes maps with the channels first."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy

from .. import layers as kinds
from ..geometry import transposed
from ..layers.entering import one_of_each
from ..layers.joining import check_classes
from ..layers.layer import Layer, Shape
from ..models import PaddedShortcut
from ..ops.normalization import check_axes
from ..shim import to_numpy
from .orders import Order, order_after, same_order
from .pytorch import need_torch

__all__ = ["to_torch"]


def to_torch(net: Layer) -> Any:
    """An initialised network as a ``torch.nn.Module`` with copies of its weights, statistics and dtype.

    The module takes (N, C, H, W) instead of (N, H, W, C), and gives the same output and gradients as the network. It is
    in ``eval()`` mode; in ``train()`` mode it updates its statistics as the network does. Chains become
    ``nn.Sequential``, layers keep their names (``0.weight`` is ``0.w``), and ``from_torch`` reads the module back,
    unless a pooling needed a separate padding.

    If PyTorch has no counterpart for some layers, such as ``Lambda`` or a class of your own, one ``ValueError`` lists
    them all. ``ImportError`` says how to install PyTorch.

    >>> import dualnet as dn
    >>> net = dn.Sequential([dn.Conv2D(8, 3, padding="same"), dn.ReLU(), dn.Flatten(), dn.Dense(5)])
    >>> print(dn.to_torch(net.init((4, 4, 3))))
    Sequential(
      (0): Conv2d(3, 8, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1))
      (1): ReLU()
      (2): Flatten(start_dim=1, end_dim=-1)
      (3): Linear(in_features=128, out_features=5, bias=True)
    )
    """
    if not isinstance(net, Layer):
        raise TypeError(f"to_torch: expected a layer or network, got {type(net).__name__}")
    if net.input_shape is None:
        raise ValueError(f"to_torch: {type(net).__name__} has no parameters yet: call net.init(input_shape) first")
    one_of_each(net, "to_torch")
    check_classes(net, "to_torch")
    torch = need_torch("to_torch")
    if len(net.input_shape) not in (1, 3):
        raise ValueError(f"to_torch: the network's input is {tuple(net.input_shape)}; expected (H, W, C) or (K,)")
    writer = _Writer(torch)
    module = writer.written("", net, tuple(net.input_shape), None)
    if not writer.problems and order_after(net, tuple(net.input_shape)) is not None:
        writer.problems.append(
            "the output is flattened maps, which PyTorch puts in a different order. Leave out the last Flatten"
        )
    if writer.problems:
        listed = "".join(f"\n  {problem}." for problem in writer.problems)
        raise ValueError(f"to_torch: cannot convert {type(net).__name__}:{listed}")
    return module.to(getattr(torch, numpy.dtype(net.dtype).name)).train(False)


class Misfit(ValueError):
    """Why a layer has no counterpart in PyTorch."""


class _Writer:
    """Goes through a network once."""

    def __init__(self, torch: Any) -> None:
        self.torch, self.nn, self.own = torch, torch.nn, _own_modules()
        self.problems: list[str] = []
        self.made: dict[int, tuple[Any, Shape, Order]] = {}

    def written(self, path: str, layer: Layer, shape: Shape, order: Order) -> Any:
        """The module for a layer whose input has this shape and order; a shared layer has only one module."""
        if id(layer) in self.made:
            module, before, ordered = self.made[id(layer)]
            if before == shape and same_order(ordered, order):
                return module
            if layer.parameters():
                self._problem(
                    path, layer, "it is used in two places whose inputs differ in shape or order. Use two layers"
                )
        write = WRITERS.get(type(layer))
        try:
            if write is None:
                raise Misfit(_why_not(layer))
            module = write(self, path, layer, shape, order)
        except Misfit as error:
            self._problem(path, layer, str(error))
            module = self.nn.Identity()
        self.made[id(layer)] = module, shape, order
        return module

    def _problem(self, path: str, layer: Layer, why: str) -> None:
        self.problems.append(f"layer {path or 'outermost'} ({type(layer).__name__}): {why}")

    def chain(self, path: str, layers: dict[str, Layer], shape: Shape, order: Order) -> Any:
        modules = []
        for name, layer in layers.items():
            modules.append(self.written(_inside(path, name), layer, shape, order))
            shape, order = layer.output_shape(shape), order_after(layer, shape, order)
        return self.nn.Sequential(*modules)

    def filled(self, module: Any, **values: Any) -> Any:
        """The module with these values; a parameter that the layer does not have (None) stays as it is, frozen."""
        with self.torch.no_grad():
            for name, value in values.items():
                target = getattr(module, name, None)
                if value is not None and target is not None:
                    array = numpy.ascontiguousarray(value)
                    array = array.astype("float32") if array.dtype.name == "bfloat16" else array.copy()
                    setattr(module, name, _like(self.torch, target, self.torch.from_numpy(array)))
                elif target is not None:
                    target.requires_grad_(False)
        return module


def _why_not(layer: Layer) -> str:
    """Why there is no module for a layer of this class."""
    kind = type(layer).__name__
    if kind == "Lambda":
        return "its functions are code, which cannot be converted. Put it after the conversion"
    ours = type(layer).__module__.startswith("dualnet.")
    return f"{kind} is not supported yet" if ours else "it is a class of your own. Convert the parts around it"


def _like(torch: Any, target: Any, tensor: Any) -> Any:
    return torch.nn.Parameter(tensor) if isinstance(target, torch.nn.Parameter) else tensor


def _inside(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _value(parameter: Any) -> numpy.ndarray | None:
    """A parameter or statistic on the host, or None."""
    return None if parameter is None else to_numpy(getattr(parameter, "value", parameter))


def _ordered(vector: Any, order: Order) -> Any:
    """A number for each unit, in PyTorch's order."""
    if vector is None or order is None:
        return vector
    theirs = numpy.empty_like(vector)
    theirs[order] = vector
    return theirs


# -- layers ------------------------------------------------------------------------------------------------------------


def _sequential(to: _Writer, path: str, layer: Any, shape: Shape, order: Order) -> Any:
    return to.chain(path, layer.children(), shape, order)


def _residual(to: _Writer, path: str, layer: Any, shape: Shape, order: Order) -> Any:
    ways = {name: to.written(_inside(path, name), way, shape, order) for name, way in layer.children().items()}
    _check_merge(layer, shape, order)
    return to.own["Residual"](ways["layer"], ways.get("shortcut", to.nn.Identity()))


def _parallel(to: _Writer, path: str, layer: Any, shape: Shape, order: Order) -> Any:
    ways = [to.written(_inside(path, name), way, shape, order) for name, way in layer.children().items()]
    _check_merge(layer, shape, order)
    return to.own["Parallel"](ways, layer.merge)


def _check_merge(layer: Layer, shape: Shape, order: Order) -> None:
    try:
        order_after(layer, shape, order)
    except ValueError as error:
        raise Misfit(str(error)) from None


def _conv(to: _Writer, path: str, layer: Any, shape: Shape, order: Order) -> Any:
    at, w = layer._windows(shape[:2]), to_numpy(layer.w.value)
    options = {"stride": at.stride, "dilation": at.dilation, "groups": layer.groups, "bias": layer.b is not None}
    (t, b), (left, right) = at.pads
    even = t == b and left == right
    conv = to.nn.Conv2d(shape[2], layer.filters, at.window, padding=(t, left) if even else 0, **options)
    w = w[::-1, ::-1] if layer.mode == "convolution" else w  # E3: rotated once, here
    to.filled(conv, weight=w.transpose(3, 2, 0, 1), bias=_value(layer.b))
    return conv if even else to.nn.Sequential(to.nn.ZeroPad2d((left, right, t, b)), conv)


def _conv_transpose(to: _Writer, path: str, layer: Any, shape: Shape, order: Order) -> Any:
    names = ("stride", "padding", "output_padding", "dilation")
    at = transposed(
        "Conv2DTranspose", (shape[0], shape[1]), layer.kernel_size, **{name: getattr(layer, name) for name in names}
    )
    places = list(zip(at.size, at.grid, at.window, at.stride, at.dilation, at.pads))
    whole = [(grid - 1) * s + r * (k - 1) + 1 for _, grid, k, s, r, _ in places]  # without padding
    extra = [n - (m - 2 * before) for (n, *_, (before, _)), m in zip(places, whole)]  # if both sides lose the same
    even = all(0 <= more < max(s, r) for more, (_, _, _, s, r, _) in zip(extra, places))
    if not even:
        extra = [max(0, before + n - m) for (n, *_, (before, _)), m in zip(places, whole)]
        if any(more >= max(s, r) for more, (_, _, _, s, r, _) in zip(extra, places)):
            raise Misfit(
                f"PyTorch cannot combine padding={layer.padding!r} with stride={layer.stride}. Change one of them"
            )
    (t, b), (left, right) = [
        (before, m + more - before - n) for (n, *_, (before, _)), m, more in zip(places, whole, extra)
    ]
    conv = to.nn.ConvTranspose2d(
        shape[2],
        layer.filters,
        at.window,
        stride=at.stride,
        padding=(t, left) if even else 0,
        output_padding=extra,
        groups=layer.groups,
        bias=layer.b is not None,
        dilation=at.dilation,
    )
    to.filled(conv, weight=to_numpy(layer.w.value).transpose(3, 2, 0, 1), bias=_value(layer.b))
    return conv if even else to.nn.Sequential(conv, to.nn.ZeroPad2d((-left, -right, -t, -b)))


def _max_pool(to: _Writer, path: str, layer: Any, shape: Shape, order: Order) -> Any:
    at = layer._windows(shape[:2])
    if _fits(at):
        padding = (at.pads[0][0], at.pads[1][0])
        return to.nn.MaxPool2d(at.window, at.stride, padding, at.dilation, ceil_mode=layer.ceil_mode)
    (t, b), (left, right) = at.reach
    pad = to.nn.ConstantPad2d((left, right, t, b), -float("inf"))
    return to.nn.Sequential(pad, to.nn.MaxPool2d(at.window, at.stride, dilation=at.dilation))


def _average_pool(to: _Writer, path: str, layer: Any, shape: Shape, order: Order) -> Any:
    at = layer._windows(shape[:2])
    if at.dilation != (1, 1):
        raise Misfit(f"dilation={layer.dilation}; expected 1, since nn.AvgPool2d has no dilation")
    if _fits(at):
        padding = (at.pads[0][0], at.pads[1][0])
        return to.nn.AvgPool2d(at.window, at.stride, padding, layer.ceil_mode, layer.count_include_pad)
    if not layer.count_include_pad or any(at.overhang):
        raise Misfit(
            f"padding={layer.padding!r} with windows of {at.window}; expected the same on both sides, and at most half "
            "a window"
        )
    (t, b), (left, right) = at.pads
    return to.nn.Sequential(to.nn.ZeroPad2d((left, right, t, b)), to.nn.AvgPool2d(at.window, at.stride))


def _fits(at: Any) -> bool:
    """Does PyTorch accept this padding? It must be the same on both sides, and at most half a window."""
    return all(before == after and 2 * before <= k for (before, after), k in zip(at.pads, at.window))


def _l2_pool(to: _Writer, path: str, layer: Any, shape: Shape, order: Order) -> Any:
    at = layer._windows(shape[:2])
    if at.dilation != (1, 1) or any(at.overhang) or at.pads != ((0, 0), (0, 0)):
        raise Misfit("expected no padding, dilation or ceil_mode, since nn.LPPool2d has none")
    return to.nn.LPPool2d(2, at.window, at.stride)


def _global_pool(name: str) -> Callable[..., Any]:
    def write(to: _Writer, path: str, layer: Any, shape: Shape, order: Order) -> Any:
        pool = getattr(to.nn, name)(1)
        return pool if layer.keepdims else to.nn.Sequential(pool, to.nn.Flatten())

    return write


def _dense(to: _Writer, path: str, layer: Any, shape: Shape, order: Order) -> Any:
    w, bias = to_numpy(layer.w.value), _value(layer.b)
    if len(shape) == 3:  # every pixel is one input
        conv = to.nn.Conv2d(shape[2], layer.units, 1, bias=bias is not None)
        return to.filled(conv, weight=w.T[:, :, None, None], bias=bias)
    linear = to.nn.Linear(shape[-1], layer.units, bias=bias is not None)
    return to.filled(linear, weight=_ordered(w, order).T, bias=bias)


def _batch_norm(to: _Writer, path: str, layer: Any, shape: Shape, order: Order) -> Any:
    if len(shape) not in (1, 3):
        raise Misfit(f"its input is {shape}; expected (H, W, C) or (K,)")
    kind = to.nn.BatchNorm2d if len(shape) == 3 else to.nn.BatchNorm1d
    module = kind(shape[-1], eps=layer.epsilon, momentum=1.0 - layer.momentum, affine=layer.center or layer.scale)
    values = {"weight": layer.gamma, "bias": layer.beta}
    values |= {"running_mean": layer.moving_mean, "running_var": layer.moving_variance}
    return to.filled(module, **{name: _ordered(_value(value), order) for name, value in values.items()})


def _layer_norm(to: _Writer, path: str, layer: Any, shape: Shape, order: Order) -> Any:
    axes = check_axes(layer.axis, len(shape) + 1, "LayerNorm")
    values = {"weight": _value(layer.gamma), "bias": _value(layer.beta)}
    affine = {"elementwise_affine": layer.center or layer.scale, "bias": layer.center}
    if len(shape) == 1 or tuple(axes) == (len(shape),):
        module = to.filled(to.nn.LayerNorm(shape[-1], layer.epsilon, **affine), **_all_ordered(values, order))
        return module if len(shape) != 3 else to.own["ChannelNorm"](module)
    if tuple(axes) not in ((1, 2, 3), (1, 2)) or len(shape) != 3:
        raise Misfit(f"axis={layer.axis}; expected -1, (1, 2) or (1, 2, 3), for an input (H, W, C) or (K,)")
    inside = [shape[2], shape[0], shape[1]] if len(axes) == 3 else list(shape[:2])
    turned = {name: v if v is None or v.ndim == 2 else v.transpose(2, 0, 1) for name, v in values.items()}
    return to.filled(to.nn.LayerNorm(inside, layer.epsilon, **affine), **turned)


def _all_ordered(values: dict[str, Any], order: Order) -> dict[str, Any]:
    return {name: _ordered(value, order) for name, value in values.items()}


def _group_norm(to: _Writer, path: str, layer: Any, shape: Shape, order: Order) -> Any:
    if order is not None or len(shape) not in (1, 3):
        raise Misfit(f"its input is {shape if order is None else 'flattened maps'}; expected (H, W, C) or (K,)")
    module = to.nn.GroupNorm(layer.groups, shape[-1], layer.epsilon, affine=layer.center or layer.scale)
    return to.filled(module, weight=_value(layer.gamma), bias=_value(layer.beta))


def _softmax(name: str) -> Callable[..., Any]:
    def write(to: _Writer, path: str, layer: Any, shape: Shape, order: Order) -> Any:
        axis = layer.axis % (len(shape) + 1)
        return getattr(to.nn, name)(dim={1: 2, 2: 3, 3: 1}[axis] if len(shape) == 3 else axis)

    return write


def _instance_norm(to: _Writer, path: str, layer: Any, shape: Shape, order: Order) -> Any:
    if len(shape) != 3:
        raise Misfit(f"its input is {shape}; expected (H, W, C)")
    module = to.nn.InstanceNorm2d(shape[2], layer.epsilon, affine=layer.center or layer.scale)
    return to.filled(module, weight=_value(layer.gamma), bias=_value(layer.beta))


def _rms_norm(to: _Writer, path: str, layer: Any, shape: Shape, order: Order) -> Any:
    if tuple(check_axes(layer.axis, len(shape) + 1, "RMSNorm")) != (len(shape),) or len(shape) == 2:
        raise Misfit(f"axis={layer.axis} of an input {shape}; expected -1, for an input (H, W, C) or (K,)")
    module = to.nn.RMSNorm(shape[-1], layer.epsilon, elementwise_affine=layer.scale)
    to.filled(module, weight=_ordered(_value(layer.gamma), order))
    return module if len(shape) == 1 else to.own["ChannelNorm"](module)


def _prelu(to: _Writer, path: str, layer: Any, shape: Shape, order: Order) -> Any:
    if len(shape) not in (1, 3):
        raise Misfit(f"its input is {shape}; expected (H, W, C) or (K,)")
    alpha = _value(layer.alpha)
    module = to.nn.PReLU(1 if layer.shared else shape[-1])
    return to.filled(module, weight=alpha if layer.shared else _ordered(alpha, order))


def _upsampling(to: _Writer, path: str, layer: Any, shape: Shape, order: Order) -> Any:
    return to.nn.Upsample(scale_factor=tuple(map(float, layer.size)), mode=layer.interpolation)


def _sides(name: str, of: str = "padding", sign: int = 1) -> Callable[..., Any]:
    def write(to: _Writer, path: str, layer: Any, shape: Shape, order: Order) -> Any:
        (top, bottom), (left, right) = getattr(layer, of)
        return getattr(to.nn, name)((sign * left, sign * right, sign * top, sign * bottom))

    return write


def _refused(why: str) -> Callable[..., Any]:
    def write(to: _Writer, path: str, layer: Any, shape: Shape, order: Order) -> Any:
        raise Misfit(why)

    return write


def _padded_shortcut(to: _Writer, path: str, layer: Any, shape: Shape, order: Order) -> Any:
    return to.own["PaddedShortcut"](layer.stride, layer.filters - shape[2])


def _plain(name: str, **options: str) -> Callable[..., Any]:
    """Makes a module with these arguments, each read from an attribute of the layer."""

    def write(to: _Writer, path: str, layer: Any, shape: Shape, order: Order) -> Any:
        return getattr(to.nn, name)(**{theirs: getattr(layer, ours) for theirs, ours in options.items()})

    return write


def _gelu(to: _Writer, path: str, layer: Any, shape: Shape, order: Order) -> Any:
    return to.nn.GELU(approximate="tanh" if layer.approximate else "none")


WRITERS: dict[type, Callable[..., Any]] = {
    kinds.Sequential: _sequential,
    kinds.SeparableConv2D: _sequential,
    kinds.Residual: _residual,
    kinds.Parallel: _parallel,
    kinds.Identity: _plain("Identity"),
    kinds.Conv2D: _conv,
    kinds.DepthwiseConv2D: _conv,
    kinds.Conv2DTranspose: _conv_transpose,
    kinds.MaxPool2D: _max_pool,
    kinds.AveragePool2D: _average_pool,
    kinds.L2Pool2D: _l2_pool,
    kinds.GlobalAveragePool2D: _global_pool("AdaptiveAvgPool2d"),
    kinds.GlobalMaxPool2D: _global_pool("AdaptiveMaxPool2d"),
    kinds.Flatten: _plain("Flatten"),
    kinds.Dense: _dense,
    kinds.BatchNorm: _batch_norm,
    kinds.LayerNorm: _layer_norm,
    kinds.GroupNorm: _group_norm,
    kinds.InstanceNorm: _instance_norm,
    kinds.RMSNorm: _rms_norm,
    kinds.PReLU: _prelu,
    kinds.Mish: _plain("Mish"),
    kinds.ReLU6: _plain("ReLU6"),
    kinds.Hardsigmoid: _plain("Hardsigmoid"),
    kinds.Hardswish: _plain("Hardswish"),
    kinds.UpSampling2D: _upsampling,
    kinds.ZeroPadding2D: _sides("ZeroPad2d"),
    kinds.ReflectionPadding2D: _sides("ReflectionPad2d"),
    kinds.Cropping2D: _sides("ZeroPad2d", "cropping", -1),
    kinds.AdaptiveAveragePool2D: _plain("AdaptiveAvgPool2d", output_size="output_size"),
    kinds.Reshape: _refused(
        "PyTorch puts the units of a map in a different order. Reshape before or after the network"
    ),
    **dict.fromkeys(
        (kinds.Conv1D, kinds.MaxPool1D, kinds.AveragePool1D, kinds.GlobalAveragePool1D, kinds.GlobalMaxPool1D),
        _refused("layers for sequences are not supported yet"),
    ),
    kinds.Dropout: _plain("Dropout", p="rate"),
    kinds.SpatialDropout2D: _plain("Dropout2d", p="rate"),
    kinds.ReLU: _plain("ReLU"),
    kinds.LeakyReLU: _plain("LeakyReLU", negative_slope="alpha"),
    kinds.ELU: _plain("ELU", alpha="alpha"),
    kinds.GELU: _gelu,
    kinds.SiLU: _plain("SiLU"),
    kinds.Sigmoid: _plain("Sigmoid"),
    kinds.Tanh: _plain("Tanh"),
    kinds.Softplus: _plain("Softplus"),
    kinds.Softmax: _softmax("Softmax"),
    kinds.LogSoftmax: _softmax("LogSoftmax"),
    PaddedShortcut: _padded_shortcut,
}


@functools.cache
def _own_modules() -> dict[str, Any]:
    """Modules that PyTorch does not have; the classes can only be defined once it is imported."""
    torch = need_torch("to_torch")
    nn = torch.nn

    class Residual(nn.Module):  # type: ignore[name-defined]
        def __init__(self, layer: Any, shortcut: Any) -> None:
            super().__init__()
            self.layer, self.shortcut = layer, shortcut

        def forward(self, x: Any) -> Any:
            return self.layer(x) + self.shortcut(x)

    class Parallel(nn.ModuleList):  # type: ignore[name-defined]
        def __init__(self, ways: list[Any], merge: str) -> None:
            super().__init__(ways)
            self.merge = merge

        def forward(self, x: Any) -> Any:
            first, *others = [way(x) for way in self]
            if self.merge == "concat":
                return torch.cat([first, *others], dim=1)
            join = {"multiply": torch.mul, "max": torch.maximum}.get(self.merge, torch.add)
            for y in others:
                first = join(first, y)
            return first / len(self) if self.merge == "average" else first

    class ChannelNorm(nn.Module):  # type: ignore[name-defined]
        """A LayerNorm along the channels."""

        def __init__(self, norm: Any) -> None:
            super().__init__()
            self.norm = norm

        def forward(self, x: Any) -> Any:
            return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    class PaddedShortcut(nn.Module):  # type: ignore[name-defined]
        def __init__(self, stride: int, channels: int) -> None:
            super().__init__()
            self.stride, self.channels = stride, channels

        def forward(self, x: Any) -> Any:
            return nn.functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.channels))

    return {kind.__name__: kind for kind in (Residual, Parallel, ChannelNorm, PaddedShortcut)}
