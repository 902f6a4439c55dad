"""Passes through a network for its pictures: a layer by name, its maps, the predicted classes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy

from ...layers import AveragePool2D, L2Pool2D, MaxPool2D
from ...layers.entering import as_batch, home
from ...layers.layer import Layer
from ...layers.state import name_of
from ...shim import Array, asarray, backend_of, to_numpy
from ..watching import Probe, Visit

__all__ = ["batch_of", "forward", "maps_of", "targets", "visit_of"]

POOLING = (AveragePool2D, L2Pool2D, MaxPool2D)


def checked(net: Any, op: str) -> Layer:
    """The network, after a check that it is one."""
    if not isinstance(net, Layer):
        raise TypeError(f"viz.{op}: expected a network or layer, got {type(net).__name__}")
    return net


def batch_of(net: Layer, x: Any, op: str) -> Array:
    """A batch on the network's backend; one example without a batch becomes a batch of one."""
    checked(net, op)
    shape = tuple(getattr(x, "shape", None) or numpy.shape(x))
    if net.input_shape is not None and len(shape) == len(net.input_shape):
        x = asarray(x)[None]
    return as_batch(net, x, f"viz.{op}")


def forward(net: Layer, x: Array) -> tuple[Probe, Array, Any]:
    """A watched pass, as in inference (running statistics, no dropout)."""
    probe = Probe(net)
    y, pullback = probe.run(x, train=False)
    return probe, y, pullback


def visit_of(net: Layer, probe: Probe, layer: str | Layer | None, op: str, default: Callable[[], Visit]) -> Visit:
    """The visit to a layer, given by its name or as itself; without one, the default."""
    if layer is None:
        return default()
    name = name_of(layer, net, f"viz.{op}")
    for visit in probe.visits:
        if visit.name == name:
            return visit
    raise ValueError(f"viz.{op}: layer {name!r} did not run by itself in this pass")


def maps_of(visit: Visit, op: str) -> Visit:
    """The visit, after a check that it has feature maps."""
    if visit.y.ndim != 4:
        raise ValueError(
            f"viz.{op}: {visit.label} gives {tuple(visit.y.shape[1:])} for each example; expected maps (H, W, C)"
        )
    return visit


def last_maps(probe: Probe, op: str) -> Visit:
    """The last layer that still has a map and is not a pooling: the one for Grad-CAM."""
    found = [v for v in probe.visits if v.y.ndim == 4 and v.y.shape[1] * v.y.shape[2] > 1]
    found = [v for v in found if not isinstance(v.layer, POOLING) and v.name] or found
    if not found:
        raise ValueError(
            f"viz.{op}: no layer of this {type(probe.net).__name__} gives maps (H, W, C) larger than 1 × 1"
        )
    return max(found, key=lambda visit: visit.order)


def targets(t: Any, y: Array, op: str) -> numpy.ndarray:
    """Class numbers (N,) on the host: as given, one for all, or by default the network's predictions."""
    if y.ndim != 2:
        raise ValueError(f"viz.{op}: the network gives {tuple(y.shape[1:])}; expected one score for each class")
    N, classes = (int(n) for n in y.shape)
    if t is None:
        return to_numpy(y).argmax(axis=-1)
    chosen = to_numpy(asarray(t, backend="numpy"))
    if chosen.dtype.kind not in "iu" or chosen.shape not in ((), (N,)):
        raise ValueError(
            f"viz.{op}: expected t to be a class, or one for each of the {N} images; got {chosen.dtype} {chosen.shape}"
        )
    if chosen.size and not 0 <= chosen.min() <= chosen.max() < classes:
        raise ValueError(f"viz.{op}: t holds {chosen.min()} … {chosen.max()}; {classes} classes are 0 … {classes - 1}")
    return numpy.broadcast_to(chosen, (N,))


def score_gradient(y: Array, classes: numpy.ndarray) -> Array:
    """∂(score of the class)/∂y for each image: 1 at its class."""
    chosen = numpy.zeros(tuple(y.shape), y.dtype.name)
    chosen[numpy.arange(len(classes)), classes] = 1
    return asarray(chosen, backend=backend_of(y).name)


def target_batch(net: Layer, t: Any, examples: int, op: str) -> Array:
    """Targets on the network's backend; a single one becomes a batch of one."""
    t = asarray(t, backend=home(net))
    t = t[None] if t.ndim == 0 else t
    if t.shape[0] != examples:
        raise ValueError(f"viz.{op}: x holds {examples} examples, but t has shape {tuple(t.shape)}")
    return t
