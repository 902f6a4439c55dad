"""The networks to measure, described as plain data from which each peer builds the same network."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .. import models
from ..files.network import load, saved
from ..geometry import elements, windows
from ..layers import (
    BatchNorm,
    Conv2D,
    Dense,
    Dropout,
    Flatten,
    GlobalAveragePool2D,
    Identity,
    MaxPool2D,
    ReLU,
    Residual,
    Sequential,
)
from ..layers.layer import Layer, Shape
from ..shim import to_numpy, use_backend

__all__ = ["DEFAULT", "NAMES", "describe", "network", "plan", "weights"]

DEFAULT = ("lenet5", "vgg6", "resnet20", "wide")
"""The networks that are measured by default."""

LR = 0.01  # of SGD, for cross-entropy
WIDE = 256  # channels, on a map of 16 × 16


def wide() -> Sequential:
    """One wide layer, as in the middle of a network: its input needs a gradient too."""
    return Sequential([Conv2D(WIDE, 3, padding=1)])


def vgg16_bn() -> Sequential:
    """VGG-16 with batch norm and without dropout, whose masks would differ between programs."""
    return models.vgg16(dropout=0.0)


NAMES = (*models.NAMES, "vgg16_bn", "wide")
"""Every network that can be measured by name."""


def network(name: str, seed: int = 0, dtype: str = "float32") -> Layer:
    """The network of this name, or the one in this file, initialised on the backend in use.

    >>> network("lenet5").input_shape
    (28, 28, 1)
    """
    if name == "wide":
        return wide().init((16, 16, WIDE), seed=seed, dtype=dtype)
    if name == "vgg16_bn":
        return vgg16_bn().init((32, 32, 3), seed=seed, dtype=dtype)
    if name in models.NAMES:
        return models.get(name)().init(models.INPUT_SHAPES[name], seed=seed, dtype=dtype)
    if dtype != "float32":
        raise NotImplementedError(f"a network from a file is measured in its own dtype, not in {dtype}")
    if not saved(name):
        raise ValueError(f"bench: {name!r} is neither a file nor a network; the networks are {', '.join(NAMES)}")
    return load(name)


def plan(name: str, seed: int = 0) -> dict[str, Any]:
    """A step of this network as plain data: shapes, loss, learning rate, and the layers for the peers.

    A network with one output per class trains with softmax cross-entropy, any other with squared errors.

    >>> lenet5 = plan("lenet5")
    >>> lenet5["loss"], lenet5["layers"][1], plan("wide")["loss"]
    ('softmax_cross_entropy', ('relu', {}), 'mean_squared_error')
    """
    with use_backend("numpy"):
        net = network(name, seed)
    shape = net.input_shape or ()
    output = net.output_shape(shape)
    classes = len(output) == 1
    steps: dict[str, Any] = {
        "net": name if name in NAMES else str(Path(name).resolve()),
        "input_shape": list(shape),
        "output_shape": list(output),
        "loss": "softmax_cross_entropy" if classes else "mean_squared_error",
        "lr": LR if classes else LR / elements(output),
        "need_dx": name == "wide",
        "multiply_adds": net.multiply_adds(shape),
        "parameters": sum(elements(p.shape) for p in net.parameters().values()),
    }
    try:
        steps["layers"] = describe(net)
    except NotImplementedError as error:
        steps["unsupported"] = str(error)
    return steps


def weights(name: str, seed: int = 0) -> dict[str, Any]:
    """The network's state by name, on the host, so that all peers start from the same weights.

    >>> sorted(weights("lenet5"))[:2]
    ['0.b', '0.w']
    """
    with use_backend("numpy"):
        return {key: to_numpy(value) for key, value in network(name, seed).state_dict().items()}


# -- for the peers -----------------------------------------------------------------------------------------------------


def describe(net: Layer) -> list[tuple[str, dict[str, Any]]]:
    """The layers as plain data. Raises ``NotImplementedError`` with the first layer that the peers' steps lack.

    Each is a pair ``(kind, options)``; w, b, gamma, ... name entries of the network's state.

    >>> describe(network("lenet5"))[-1]
    ('dense', {'w': '11.w', 'b': '11.b', 'map': None})
    """
    if str(net.dtype) != "float32":
        raise NotImplementedError(f"the peers' steps are in float32, but this network is in {net.dtype}")
    leaves = [layer for _, layer in net.walk() if layer.parameters() and not layer.children()]
    if len(set(map(id, leaves))) < len(leaves):
        raise NotImplementedError("the peers' steps have no shared layers")
    return _chain("", net, net.input_shape or ())


def _chain(name: str, layer: Layer, shape: Shape) -> list[tuple[str, dict[str, Any]]]:
    """A layer, or all layers of a chain and of the chains inside it."""
    described: list[tuple[str, dict[str, Any]]] = []
    flattened: Shape | None = None  # the map that was flattened, for peers whose maps are (C, H, W)
    for place, inner, into in _flat(name, layer, shape):
        if not isinstance(inner, Identity):
            described.append(_one(place, inner, into))
        if isinstance(inner, Dense):
            described[-1][1]["map"] = None if flattened is None else list(flattened)
        if isinstance(inner, Flatten):
            flattened = into if len(into) == 3 else flattened
        elif not isinstance(inner, (ReLU, Dropout, Identity)):
            flattened = None
    return described


def _flat(name: str, layer: Layer, shape: Shape) -> Iterator[tuple[str, Layer, Shape]]:
    if not isinstance(layer, Sequential):
        yield name, layer, shape
        return
    for child, inner, into in layer._shapes(shape):
        yield from _flat(f"{name}.{child}" if name else child, inner, into)


def _one(name: str, layer: Layer, shape: Shape) -> tuple[str, dict[str, Any]]:
    """One layer. An option that some peer lacks raises an error here, so that all programs run the same network."""
    kind = type(layer)
    maker = DESCRIBED.get(kind)
    if maker is None:
        raise NotImplementedError(f"the peers' steps have no {kind.__name__}")
    described = maker(name, layer, shape)
    if described is None:
        raise NotImplementedError(f"the peers' steps have no {layer!r}")
    return described


def _conv(name: str, layer: Conv2D, shape: Shape) -> Any:
    padding = _padding(shape, layer.kernel_size, layer.stride, layer.padding)
    if padding is None or layer.dilation != (1, 1) or layer.mode != "correlation":
        return None
    sizes = {"stride": list(layer.stride), "padding": padding, "groups": layer.groups}
    return "conv", {"w": f"{name}.w", "b": f"{name}.b" if layer.use_bias else None, **sizes}


def _pool(name: str, layer: MaxPool2D, shape: Shape) -> Any:
    stride = layer.stride or layer.pool_size
    padding = _padding(shape, layer.pool_size, stride, layer.padding)
    if padding is None or layer.dilation != (1, 1) or layer.ceil_mode:
        return None
    return "pool", {"size": list(layer.pool_size), "stride": list(stride), "padding": padding}


def _dense(name: str, layer: Dense, shape: Shape) -> Any:
    if len(shape) != 1:
        return None
    return "dense", {"w": f"{name}.w", "b": f"{name}.b" if layer.use_bias else None, "map": None}


def _norm(name: str, layer: BatchNorm, shape: Shape) -> Any:
    if len(shape) != 3 or not (layer.center and layer.scale):
        return None
    names = {"gamma": "gamma", "beta": "beta", "mean": "moving_mean", "variance": "moving_variance"}
    return "norm", {
        **{role: f"{name}.{own}" for role, own in names.items()},
        "epsilon": layer.epsilon,
        "momentum": layer.momentum,
    }


def _residual(name: str, layer: Residual, shape: Shape) -> Any:
    prefix = f"{name}." if name else ""
    shortcut: Any = None
    if isinstance(layer.shortcut, models.PaddedShortcut):
        shortcut = {"added": layer.shortcut.filters - shape[-1], "stride": layer.shortcut.stride}
    elif layer.shortcut is not None:
        shortcut = _chain(f"{prefix}shortcut", layer.shortcut, shape) or None
    return "residual", {"layer": _chain(f"{prefix}layer", layer.layer, shape), "shortcut": shortcut}


def _padding(shape: Shape, window: Any, stride: Any, padding: Any) -> list[int] | None:
    """Rows and columns of zeros on each side; None where the two sides differ."""
    (top, bottom), (left, right) = windows("bench", (shape[0], shape[1]), window, stride=stride, padding=padding).pads
    return [top, left] if (top, left) == (bottom, right) else None


DESCRIBED: dict[type[Layer], Any] = {
    Conv2D: _conv,
    MaxPool2D: _pool,
    Dense: _dense,
    BatchNorm: _norm,
    Residual: _residual,
    ReLU: lambda name, layer, shape: ("relu", {}),
    Flatten: lambda name, layer, shape: ("flatten", {}),
    GlobalAveragePool2D: lambda name, layer, shape: ("mean", {}) if len(shape) == 3 else None,
    Dropout: lambda name, layer, shape: ("dropout", {"rate": layer.rate}),
}
