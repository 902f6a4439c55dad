"""What a target such as ``"0.dw[0,1,2,5]"`` means: which layer, which of its arrays, which entry."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ...layers.containers import Sequential
from ...layers.convolution import Conv2D, Conv2DTranspose, SeparableConv2D
from ...layers.layer import Layer
from ...layers.parameter import Parameter
from .target import Target

if TYPE_CHECKING:
    from .run import Call, Use


FORM = re.compile(r"\s*(?:(?P<layer>[\w.]+)\.)?(?P<name>[^\W\d]\w*)\s*\[(?P<index>[^\[\]]*)\]\s*")


EXAMPLE = 'a target is an array and an index, such as "y[0,3,4,1]", "dx[0,3,4,1]", "dw[0,1,2,5]" or "0.dw[0,1,2,5]"'


def read(text: Any, net: Layer) -> Target:
    """Parse a target and find its layer; the index is checked once the array's shape is known."""
    if not isinstance(text, str):
        raise TypeError(f"explain: {EXAMPLE}; got {text!r}")
    match = FORM.fullmatch(text)
    if match is None:
        raise ValueError(f"explain: {EXAMPLE}; got {text!r}")
    path, layer = _leaf(net, match["layer"] or "", match["name"], text)
    names = computed(layer)
    if match["name"] not in names:
        raise ValueError(_unknown(match["name"], path, layer, names, net))
    return Target(path, match["name"], _index(match["index"], text))


def located(target: Target, uses: list[Use]) -> Target:
    """The target with its index checked against the array's shape; negative indices count from the end."""
    shape = uses[0].shape_of(target)
    if len(target.index) != len(shape):
        raise ValueError(
            f"explain: {target} has {len(target.index)} indices, but {_where(target)} has shape {shape}; "
            f"expected {len(shape)}"
        )
    for axis, (i, extent) in enumerate(zip(target.index, shape)):
        if not -extent <= i < extent:
            raise ValueError(
                f"explain: {target}: index {i} of axis {axis} is outside; {_where(target)} has shape {shape}, "
                f"so expected 0 … {extent - 1}"
            )
    return replace(target, index=tuple(i % extent for i, extent in zip(target.index, shape)))


def computed(layer: Layer) -> list[str]:
    """The arrays that a layer computes in its two passes."""
    return ["y", "dx", *(f"d{name}" for name, value in vars(layer).items() if isinstance(value, Parameter))]


def default(call: Call) -> Target:
    """The largest dx of the first convolution; without one, dw of the first layer with weights, or dx of the first."""
    leaves = [(path, layer) for path, layer in call.net.walk() if not layer.children()]
    convolutions = [leaf for leaf in leaves if isinstance(leaf[1], (Conv2D, Conv2DTranspose))]
    weighted = [leaf for leaf in leaves if "dw" in computed(leaf[1])]
    path, layer = (convolutions or weighted or leaves)[0]
    name = "dw" if not convolutions and "dw" in computed(layer) else "dx"
    target = Target(path, name, ())
    return replace(target, index=call.uses(target)[0].largest(target))


def _leaf(net: Layer, path: str, name: str, text: str) -> tuple[str, Layer]:
    """The layer that computes ``name``: a chain's y is that of its last layer, and its dx that of its first."""
    layers = dict(net.walk())
    if path not in layers:
        raise ValueError(f"explain: {text!r}: there is no layer {path!r}; the layers are {_leaves(net)}")
    layer = layers[path]
    while layer.children() and isinstance(layer, (Sequential, SeparableConv2D)) and name in ("y", "dx"):
        child = list(layer.children())[-1 if name == "y" else 0]
        path, layer = f"{path}.{child}" if path else child, layer.children()[child]
    if layer.children():
        raise ValueError(
            f"explain: {text!r}: {type(layer).__name__} is made of layers; name one of them, such as "
            f'"{_example(path, layer, name)}". They are {_leaves(layer, path)}'
        )
    return path, layer


def _example(path: str, layer: Layer, name: str) -> str:
    inside = [(p, part) for p, part in layer.walk(path) if not part.children()]
    fits = [p for p, part in inside if name in computed(part)] or [p for p, _ in inside]
    return f"{fits[0]}.{name}[…]"


def _leaves(net: Layer, prefix: str = "") -> str:
    found = [f"{path or '(itself)'} {type(part).__name__}" for path, part in net.walk(prefix) if not part.children()]
    return ", ".join(found[:20]) + (f" and {len(found) - 20} more" if len(found) > 20 else "")


def _unknown(name: str, path: str, layer: Layer, names: list[str], net: Layer) -> str:
    kind = type(layer).__name__
    here = f"layer {path} ({kind})" if path else kind
    message = f"explain: {here} computes no {name!r}; it has {', '.join(names)}."
    if name in ("x", "o"):
        return message + " x comes from the layer before; ask for that layer's y."
    if name == "dy":
        return message + " dy comes from the layer after; ask for that layer's dx."
    if f"d{name}" in names:
        return message + f" {name} is a parameter; ask for its gradient, d{name}."
    others = [p for p, part in net.walk() if not part.children() and name in computed(part)]
    return message + (f" {name} is computed by layer {', '.join(others[:8])}." if others else "")


def _index(text: str, whole: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(",")) if text.strip() else ()
    except ValueError:
        raise ValueError(f"explain: {whole!r}: an index holds integers, such as [0,1,2,5]; got [{text}]") from None


def _where(target: Target) -> str:
    return f"{target.name} of layer {target.path}" if target.path else target.name
