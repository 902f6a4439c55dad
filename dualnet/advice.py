"""What can be told of a training before its first step, and would else be told in its midst or by nobody."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from typing import Any

from .layers.activation import Sigmoid, Softmax
from .layers.containers import Parallel, Residual, Sequential
from .layers.layer import Layer
from .layers.normalization import BatchNorm
from .ops import losses

__all__ = ["look_ahead"]

SQUASHED = {Softmax: losses.softmax_cross_entropy, Sigmoid: losses.binary_cross_entropy}
"""Layers that a loss contains already."""


def look_ahead(net: Layer, examples: int, batch_size: int, loss: Callable[..., Any], optimizer: Any = None) -> None:
    """Raise for a batch that batch norm will refuse; warn of a network that squashes what its loss squashes, and of an
    ``optimizer``, given with a new network, that remembers another one.

    >>> import dualnet as dn
    >>> net = dn.Sequential([dn.Dense(4), dn.BatchNorm()]).init((3,))
    >>> look_ahead(net, 64, 64, dn.losses.mean_squared_error)
    """
    if examples % batch_size == 1:
        for name, layer in _trained("", net):
            if isinstance(layer, BatchNorm) and math.prod((layer.input_shape or (0, 0))[:-1]) == 1:
                raise ValueError(
                    f"fit: {examples} examples in batches of {batch_size} leave one over, and layer {name or 0} "
                    "(BatchNorm) needs two. Choose another batch_size, or leave an example out."
                )
    last = net
    while isinstance(last, Sequential) and last.layers:
        last = last.layers[-1]
    if SQUASHED.get(type(last)) is loss:
        warnings.warn(
            f"fit: the network ends with {type(last).__name__}, and {loss.__name__} does that itself, to what comes "
            "before. Leave the layer out.",
            stacklevel=3,
        )
    if getattr(optimizer, "steps", 0):
        warnings.warn(
            f"fit: the network is new, and {type(optimizer).__name__} has made {optimizer.steps} steps: what it keeps "
            "is another network's, and its schedule goes on. Make an optimizer for each network.",
            stacklevel=3,
        )


def _trained(name: str, layer: Layer) -> Iterator[tuple[str, Layer]]:
    """Every layer of which it is known that it trains; a container of somebody's own may have it frozen."""
    yield name, layer
    for child, inside in layer.children().items() if type(layer) in (Sequential, Residual, Parallel) else ():
        yield from _trained(f"{name}.{child}" if name else child, inside)
