"""What enters a network: inputs brought to where it is, and layers found by name."""

from __future__ import annotations

from typing import Any

from ..shim import Array, asarray, backend_of, current
from .layer import Layer

__all__ = ["arrived", "one_of"]


def arrived(net: Layer, x: Any, op: str) -> Array:
    """A batch x where the network is, in its dtype; from the host or another device it is copied there."""
    if net.input_shape is None:
        raise ValueError(f"{op}: {type(net).__name__} is not initialised; call net.init(input_shape) first")
    x = net.enter(asarray(x, backend=home(net)))
    if x.shape[0] == 0:
        raise ValueError(f"{op}: x holds no examples; expected at least one")
    return x


def home(net: Layer) -> str:
    """The backend where a network's parameters are; without any, the one in force."""
    for parameter in net.parameters().values():
        return backend_of(parameter.value).name
    return current().name


def one_of(net: Layer, layer: str | Layer, op: str) -> str:
    """The name of a layer inside the network that is given by its name or as itself."""
    names = dict(net.walk())
    if isinstance(layer, str) and layer in names:
        return layer
    for name, inside in names.items():
        if inside is layer:
            return name
    told = ", ".join(repr(name) for name in names if name)
    raise ValueError(f"{op}: the network has no layer {layer!r}; its layers are {told or 'none but itself'}")
