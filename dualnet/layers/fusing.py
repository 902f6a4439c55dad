"""Batch norm folded into the layer before it, for inference.

In inference batch norm is y = γ (x − μ) / s + β with numbers that no longer change: one factor and one summand for each
channel. After a convolution or dense layer, x = o ∗ w + b, both can be built into its parameters,

    w ← w · γ / s,        b ← (b − μ) · γ / s + β

which saves a pass over memory.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

from ..shim import Array, backend_of
from . import BatchNorm, Conv2D, Dense, DepthwiseConv2D, Graph, Parallel, Residual, Sequential
from .joining import METHODS, replaced
from .layer import Layer
from .parameter import Parameter

__all__ = ["fuse"]

FOLDS = (Conv2D, DepthwiseConv2D, Dense)
"""Layers whose w and b can take in a factor and a summand for each channel: classes whose ``forward`` is known."""

Net = TypeVar("Net", bound=Layer)


def fuse(net: Net) -> Net:
    """A copy of an initialised network, for inference only, in which every batch norm that follows a convolution or
    dense layer of a chain is folded into it. The outputs agree within rounding.

    A layer that is used in several places is not folded. The copy is a network of ordinary layers and can be saved,
    unless a class of your own creates the layers inside it: loading such a file would create the original layers.

    >>> import dualnet as dn
    >>> net = dn.Sequential([dn.Conv2D(4, 3, use_bias=False), dn.BatchNorm(), dn.ReLU()]).init((6, 6, 1))
    >>> [type(layer).__name__ for layer in net.fuse()]
    ['Conv2D', 'ReLU']
    """
    if net.input_shape is None:
        raise ValueError(f"fuse: {type(net).__name__} has no parameters yet: call net.init(input_shape) first")
    places: dict[int, int] = {}
    net = net.copy()
    for _, layer in net.walk():
        places[id(layer)] = places.get(id(layer), 0) + 1
    return _fused(net, places)


def _fused(layer: Net, places: dict[int, int]) -> Net:
    if isinstance(layer, (Sequential, Parallel)):
        layer.layers = [_fused(part, places) for part in layer.layers]
    if isinstance(layer, Sequential):
        layer.layers = _chain(layer.layers, places)
    if isinstance(layer, Graph):
        layer.nodes = {name: replace(node, layer=_fused(node.layer, places)) for name, node in layer.nodes.items()}
    if isinstance(layer, Residual):
        layer.layer = _fused(layer.layer, places)
        layer.shortcut = None if layer.shortcut is None else _fused(layer.shortcut, places)
    return layer


def _chain(layers: list[Layer], places: dict[int, int]) -> list[Layer]:
    kept: list[Layer] = []
    for layer in layers:
        before = kept[-1] if kept else None
        alone = before is not None and places.get(id(before)) == places.get(id(layer)) == 1
        if type(layer) is BatchNorm and type(before) in FOLDS and alone and not replaced((before, layer), *METHODS):
            _fold(before, layer)  # type: ignore[arg-type]
        else:
            kept.append(layer)
    return kept


def _fold(layer: Conv2D | Dense, norm: BatchNorm) -> None:
    """Build γ / s and the new bias into w and b; the last axis of w is the output channels."""
    w: Array = layer.w.value
    xp = backend_of(w).xp
    factor = 1.0 / xp.sqrt(norm.moving_variance + norm.epsilon)  # 1/s
    factor = factor if norm.gamma is None else norm.gamma.value * factor  # γ / s
    b = -norm.moving_mean if layer.b is None else layer.b.value - norm.moving_mean
    b = b * factor  # (b − μ) γ / s
    layer.w = Parameter(w * factor)
    layer.b = Parameter(b if norm.beta is None else b + norm.beta.value)
    layer.use_bias = True
