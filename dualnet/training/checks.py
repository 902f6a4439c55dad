"""What can be said about a training before its first step."""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy

from ..layers.activation import Sigmoid, Softmax
from ..layers.containers import Container, Parallel, Residual, Sequential
from ..layers.layer import Layer
from ..layers.normalization import BatchNorm
from ..ops import losses
from ..ops.sums import wide
from ..shim import Array, asarray, backend_of, to_numpy
from .batches import _backend_of

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


def _examples(op: str, x: Any, t: Any) -> tuple[Any, Any]:
    x, t = (a if backend_of(a) is not None else to_numpy(asarray(a, backend="numpy")) for a in (x, t))
    if x.ndim < 2 or t.ndim < 1:
        hint = ". x[:, None] has one number for each example." if x.ndim == 1 else ""
        shapes = f"x has shape {tuple(x.shape)} and t {tuple(t.shape)}"
        raise ValueError(f"{op}: {shapes}; expected a batch of each, (N, ...) and (N,) or more{hint}")
    if len(x) != len(t):
        raise ValueError(f"{op}: x holds {len(x)} examples and t {len(t)}; expected a target for each example")
    if len(x) == 0:
        raise ValueError(f"{op}: x holds no examples; expected at least one")
    return x, t


def _ready(net: Layer) -> bool:
    """Has every layer met the shape of its input? (A layer that was put into a trained network has not.)"""
    inside = (child for _, part in net.walk() if isinstance(part, Container) for child in part.children().values())
    return all(layer.input_shape is not None for layer in (net, *inside))


def _pair(validation_data: Any) -> tuple[Any, Any]:
    if not isinstance(validation_data, (tuple, list)) or len(validation_data) != 2:
        raise ValueError("fit: validation_data is a pair (x, t)")
    return _examples("fit: validation_data", *validation_data)


def _fits(net: Layer, x: Any, t: Any, loss: Callable[..., Any], op: str, augment: Any = None) -> None:
    """One look at all targets, before the first step, instead of one in every step."""
    if augment is not None and not (hasattr(augment, "batch") and hasattr(augment, "moves")):
        raise TypeError(f"{op}: augment is a dn.data.Augment, got {augment!r}")
    one = x[:1] if augment is None else augment.batch(x, numpy.zeros(1, int), dtype=net.dtype)
    y, kind = _tried(net, one, tuple(x.shape), op), _bare(loss)
    _fit_together(y, t, loss, op)
    if kind is losses.softmax_cross_entropy and t.ndim < y.ndim:
        losses.check_labels(op, t, y.shape[-1])
    elif kind is losses.softmax_cross_entropy:
        losses.check_probabilities(op, t)
    elif kind is losses.binary_cross_entropy:
        losses.check_answers(op, t)


def _tried(net: Layer, one: Any, shape: tuple[int, ...], op: str) -> Array:
    """The output for one example. (What else is wrong with the numbers the first step will tell.)"""
    try:
        with numpy.errstate(all="ignore"):
            return net(asarray(net.enter(one), backend=_backend_of(net)))
    except (ValueError, TypeError) as error:
        if net.input_shape is None or shape[1:] == net.input_shape:
            raise
        if shape == net.input_shape:
            raise ValueError(f"{op}: x has shape {shape}, that of one example; x[None] is a batch of one") from error
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"{op}: x has shape {shape}, where init was given {net.input_shape}; {error}") from error


def _fit_together(y: Array, t: Any, loss: Callable[..., Any], op: str) -> None:
    """Does the loss take one output of the network and its target?"""
    if t.dtype.kind not in "biufV":
        raise TypeError(
            f"{op}: t has dtype {t.dtype}; expected numbers. numpy.unique(t, return_inverse=True) makes class numbers "
            "of names."
        )
    try:
        with numpy.errstate(all="ignore"):
            result = _unchecked(loss)(wide(y), asarray(t[:1], backend=backend_of(y).name))
    except (ValueError, TypeError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(
            f"{op}: the loss does not take outputs of shape (N, {', '.join(map(str, y.shape[1:]))}) with targets t of "
            f"shape {tuple(t.shape)}, {t.dtype}: {error}"
        ) from error
    parts = result if isinstance(result, (tuple, list)) else (result,)
    if len(parts) != 2 or not callable(parts[1]) or getattr(parts[0], "shape", ()) != ():
        got = ", ".join(f"a {type(part).__name__} {getattr(part, 'shape', '')}".rstrip() for part in parts)
        raise TypeError(f"{op}: the loss returned {got}; expected one number, the batch's mean, and its pullback")


def _unchecked(loss: Callable[..., Any]) -> Callable[..., Any]:
    if _bare(loss) in (losses.softmax_cross_entropy, losses.binary_cross_entropy):
        return functools.partial(loss, check_labels=False)
    return loss


def _bare(loss: Callable[..., Any]) -> Callable[..., Any]:
    """The loss itself, where it was given options by functools.partial."""
    while isinstance(loss, functools.partial):
        loss = loss.func
    return loss
