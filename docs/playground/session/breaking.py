"""The zoo's wrong backward passes, put into a network that trains: the forward pass stays right.

An exercise is an op of its own, with few options. Here is said which layer it can stand in for, and with which call. A
layer that is broken becomes an instance of a subclass, so that everything that knows its kind goes on working.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy

import dualnet as dn

Fits = Callable[[Any], bool]
Stand = Callable[[Callable, Any, Any, bool], tuple[Any, Callable]]

FORGOTTEN_MEAN = "forgotten-mean"
ONLY_DX = {
    "unturned-kernel",
    "uncropped-padding",
    "crowded-deltas",
    "overwritten-windows",
    "square-weights",
    "frozen-statistics",
}
"""Mistakes of layers with parameters that send a wrong dx and find the right dw and db."""


@dataclass(frozen=True)
class Place:
    """Which layers an exercise fits, in words too, and how its op is called in their place."""

    kind: type
    needs: str
    fits: Fits
    stand: Stand


def convolution(op: Callable, layer: Any, x: Any, train: bool, **options: Any) -> tuple[Any, Callable]:
    """A valid convolution on the padded map; the bias is added here, and dx is cropped."""
    xp = dn.backend.backend_of(x).xp
    (N, H, W, C), ((top, bottom), (left, right)) = x.shape, layer._windows(x.shape[1:3]).pads
    padded = xp.zeros((N, H + top + bottom, W + left + right, C), dtype=x.dtype)
    padded[:, top : top + H, left : left + W] = x
    w = layer.w.cast(x.dtype)
    y, back = op(padded, w, **options)

    def pullback(dy: Any) -> tuple[Any, dict[str, Any]]:
        dpadded, dw = back(dy)
        return dpadded[:, top : top + H, left : left + W], {"w": dw} | bias(layer, dy)

    return shifted(layer, y), pullback


def padded(op: Callable, layer: Any, x: Any, train: bool) -> tuple[Any, Callable]:
    """A convolution that pads by itself, the same on every side."""
    ((side, _), _) = layer._windows(x.shape[1:3]).pads
    y, back = op(x, layer.w.cast(x.dtype), padding=side)

    def pullback(dy: Any) -> tuple[Any, dict[str, Any]]:
        dx, dw = back(dy)
        return dx, {"w": dw} | bias(layer, dy)

    return shifted(layer, y), pullback


def pointwise(op: Callable, layer: Any, x: Any, train: bool) -> tuple[Any, Callable]:
    w = layer.w.cast(x.dtype)
    y, back = op(x, w[0, 0], stride=layer.stride[0])

    def pullback(dy: Any) -> tuple[Any, dict[str, Any]]:
        dx, dw = back(dy)
        return dx, {"w": dw[None, None]} | bias(layer, dy)

    return shifted(layer, y), pullback


def dense(op: Callable, layer: Any, x: Any, train: bool) -> tuple[Any, Callable]:
    y, back = op(x, layer.w.cast(x.dtype), layer.b.cast(x.dtype))

    def pullback(dy: Any) -> tuple[Any, dict[str, Any]]:
        dx, dw, db = back(dy)
        return dx, {"w": dw, "b": db}

    return y, pullback


def square(op: Callable, layer: Any, x: Any, train: bool) -> tuple[Any, Callable]:
    y, back = op(x, layer.w.cast(x.dtype))

    def pullback(dy: Any) -> tuple[Any, dict[str, Any]]:
        dx, dw = back(dy)
        return dx, {"w": dw} | bias(layer, dy)

    return shifted(layer, y), pullback


def batch_norm(op: Callable, layer: Any, x: Any, train: bool) -> tuple[Any, Callable]:
    """The layer itself goes forward and moves its statistics; the op goes back over all places at once."""
    y, _ = type(layer).__mro__[1].forward(layer, x, train)
    _, back = op(x.reshape(-1, x.shape[-1]), layer.gamma.cast(x.dtype), layer.beta.cast(x.dtype))

    def pullback(dy: Any) -> tuple[Any, dict[str, Any]]:
        dx, dgamma, dbeta = back(dy.reshape(-1, dy.shape[-1]))
        return dx.reshape(x.shape), {"gamma": dgamma, "beta": dbeta}

    return y, pullback


def dropout(op: Callable, layer: Any, x: Any, train: bool) -> tuple[Any, Callable]:
    y, back = op(x, rate=layer.rate, key=(layer.seed, layer.step))
    layer.step += 1
    return y, lambda dy: (back(dy), {})


def plain(**named: Callable[[Any], Any]) -> Stand:
    """An op of x alone, with options that are read from the layer."""

    def stand(op: Callable, layer: Any, x: Any, train: bool) -> tuple[Any, Callable]:
        y, back = op(x, **{name: read(layer) for name, read in named.items()})
        return y, lambda dy: (back(dy), {})

    return stand


def with_options(**named: Callable[[Any], Any]) -> Stand:
    def stand(op: Callable, layer: Any, x: Any, train: bool) -> tuple[Any, Callable]:
        return convolution(op, layer, x, train, **{name: read(layer) for name, read in named.items()})

    return stand


def shifted(layer: Any, y: Any) -> Any:
    return y if layer.b is None else y + layer.b.cast(y.dtype)


def bias(layer: Any, dy: Any) -> dict[str, Any]:
    """db, as it should be."""
    return {} if layer.b is None else {"b": dy.reshape(-1, dy.shape[-1]).sum(axis=0)}


# -- which exercise fits which layer -----------------------------------------------------------------------------------


def simple(layer: Any, *but: str) -> bool:
    """Are stride, dilation and groups 1, except for those that are named?"""
    usual = {"stride": (1, 1), "dilation": (1, 1), "groups": 1}
    return layer.mode == "correlation" and all(getattr(layer, n) == v for n, v in usual.items() if n not in but)


def even(layer: Any) -> bool:
    """Is the same, more than none, added on every side?"""
    (top, bottom), (left, right) = layer._windows(layer.input_shape[:2]).pads
    return top == bottom == left == right > 0


def unpadded(layer: Any) -> bool:
    return layer._windows(layer.input_shape[:2]).pads == ((0, 0), (0, 0))


def side_by_side(layer: Any) -> bool:
    """Do square windows stand side by side, without padding, and cover the map?"""
    k, s = layer.pool_size, layer.stride or layer.pool_size
    covers = all(extent % k[0] == 0 for extent in layer.input_shape[:2])
    return k[0] == k[1] and s == k and unpadded(layer) and layer.dilation == (1, 1) and covers


def overlapping(layer: Any) -> bool:
    k, s = layer.pool_size, layer.stride or layer.pool_size
    plain = unpadded(layer) and layer.dilation == (1, 1) and not layer.ceil_mode
    return k[0] == k[1] and s[0] == s[1] < k[0] and plain


def averaging(layer: Any) -> bool:
    k, s = layer.pool_size, layer.stride or layer.pool_size
    return k[0] == k[1] and s == k and layer.dilation == (1, 1) and not layer.ceil_mode and even(layer)


PLAIN = "a convolution with stride, dilation and groups of 1"
PLACES: dict[str, Place] = {
    "averaged-bias": Place(dn.Dense, "a dense layer with a bias", lambda it: it.use_bias, dense),
    "square-weights": Place(
        dn.Dense, "a dense layer with as many units as inputs", lambda it: it.input_shape == (it.units,), square
    ),
    "delta-mask": Place(dn.ReLU, "a ReLU", lambda it: True, plain()),
    "slope-at-zero": Place(dn.ReLU, "a ReLU", lambda it: True, plain()),
    "frozen-statistics": Place(
        dn.BatchNorm, "a batch norm with center and scale", lambda it: it.center and it.scale, batch_norm
    ),
    "overwritten-windows": Place(dn.Conv2D, PLAIN, simple, convolution),
    "turned-gradient": Place(dn.Conv2D, PLAIN, simple, convolution),
    "unturned-kernel": Place(dn.Conv2D, PLAIN, simple, convolution),
    "uncropped-padding": Place(
        dn.Conv2D, 'a convolution with padding, such as "same"', lambda it: simple(it) and even(it), padded
    ),
    "close-taps": Place(
        dn.Conv2D,
        "a convolution with a dilation above 1",
        lambda it: simple(it, "dilation") and it.dilation[0] == it.dilation[1] > 1,
        with_options(dilation=lambda it: it.dilation[0]),
    ),
    "crowded-deltas": Place(
        dn.Conv2D,
        "a convolution with a stride above 1",
        lambda it: simple(it, "stride") and it.stride[0] == it.stride[1] > 1,
        with_options(stride=lambda it: it.stride[0]),
    ),
    "crossed-groups": Place(
        dn.Conv2D,
        "a convolution with groups, and several filters in each",
        lambda it: simple(it, "groups") and 1 < it.groups < it.filters,
        with_options(groups=lambda it: it.groups),
    ),
    "stale-columns": Place(dn.Conv2D, PLAIN, simple, convolution),
    "unwritten-pixels": Place(
        dn.Conv2D,
        "a 1 × 1 convolution with a stride above 1",
        lambda it: (
            simple(it, "stride") and it.kernel_size == (1, 1) and it.stride[0] == it.stride[1] > 1 and unpadded(it)
        ),
        pointwise,
    ),
    "tied-winners": Place(
        dn.MaxPool2D, "max pooling with windows side by side", side_by_side, plain(size=lambda it: it.pool_size[0])
    ),
    "lost-winners": Place(
        dn.MaxPool2D,
        "max pooling with windows that overlap",
        overlapping,
        plain(size=lambda it: it.pool_size[0], stride=lambda it: it.stride[0]),
    ),
    "zero-window": Place(
        dn.L2Pool2D, "L2 pooling with windows side by side", side_by_side, plain(size=lambda it: it.pool_size[0])
    ),
    "counted-padding": Place(
        dn.AveragePool2D,
        "average pooling with padding",
        averaging,
        plain(size=lambda it: it.pool_size[0], padding=lambda it: it._windows(it.input_shape[:2]).pads[0][0]),
    ),
    "second-draw": Place(dn.Dropout, "dropout", lambda it: it.rate > 0, dropout),
}
LEARNING = (dn.Conv2D, dn.Dense, dn.BatchNorm)
"""The kinds in the table that have parameters."""
ONLY_TRAINING = (dn.BatchNorm, dn.Dropout)
"""Layers that compute something else in inference; there they stay right."""


def fitting(net: Any, name: str) -> list[str]:
    """The layers that an exercise can stand in for, by name."""
    place = PLACES.get(name)
    if place is None:
        return []
    return [path for path, layer in net.walk() if kind_of(layer) is place.kind and place.fits(layer)]


def menu(net: Any) -> list[dict[str, Any]]:
    """All exercises, from easy to hard; each with the layers that it breaks here, or with what it needs."""
    rows = []
    for exercise in dn.zoo.exercises():
        row = {"name": exercise.name, "symptom": exercise.symptom, "layers": fitting(net, exercise.name), "needs": ""}
        row["elsewhere"] = exercise.name != FORGOTTEN_MEAN and exercise.name not in PLACES
        if exercise.name == FORGOTTEN_MEAN:
            row["layers"] = ["loss"]
        elif exercise.name not in PLACES:
            row["needs"] = "a network that cannot be drawn here, or an optimizer of its own"
        elif not row["layers"]:
            row["needs"] = PLACES[exercise.name].needs
        row["only_dx"] = exercise.name in PLACES and breaks_only_dx(exercise.name)
        row["hidden"] = bool(row["layers"]) and row["only_dx"] and not learns_in_front(net, row["layers"])
        rows.append(row)
    return rows


def breaks_only_dx(name: str) -> bool:
    """Does the broken layer itself still learn rightly, or have nothing to learn?"""
    return name in ONLY_DX or PLACES[name].kind not in LEARNING


def learns_in_front(net: Any, broken: list[str]) -> bool:
    """Is there something in front of a broken layer that learns, and so learns from a wrong dx?"""
    learns = False
    for path, layer in net.walk():
        if path in broken and learns:
            return True
        learns = learns or (not layer.children() and bool(layer.parameters()))
    return False


# -- breaking ----------------------------------------------------------------------------------------------------------


def kind_of(layer: Any) -> type:
    """What a layer was before it was broken."""
    return type(layer).whole if hasattr(type(layer), "whole") else type(layer)


@functools.cache
def broken_kind(kind: type, name: str) -> type:
    """The layers of a kind, with the backward pass of an exercise."""
    op, stand = dn.zoo.show(name).op, PLACES[name].stand

    def forward(self: Any, x: Any, train: bool = False) -> tuple[Any, Any]:
        if not train and kind in ONLY_TRAINING:
            return kind.forward(self, x, train)
        y, pullback = stand(op, self, x, train)
        return y, dn.Pullback(name, pullback, y)

    # dx of a first layer is computed too, and nothing is done for a neighbour: see dualnet/layers/joining.py
    parts = {"forward": forward, "infer": kind.infer, "whole": kind, "takes_need_dx": False, "__module__": __name__}
    return type(kind.__name__, (kind,), parts)


def break_network(net: Any, name: str) -> str:
    """Break every layer that the exercise fits, and mend all others; "" mends all. Returns the name."""
    if name and name != FORGOTTEN_MEAN and not fitting(mended(net), name):
        exercise = dn.zoo.show(name)  # a name that does not exist is refused in the zoo's words
        needs = PLACES[name].needs if name in PLACES else "a network that cannot be drawn here"
        raise ValueError(f"playground: {exercise.name} needs {needs}")
    mended(net)
    for path in fitting(net, name):
        layer = dict(net.walk())[path]
        layer.__class__ = broken_kind(type(layer), name)
    return name


def mended(net: Any) -> Any:
    """The network itself, with every layer as it was."""
    for _, layer in net.walk():
        layer.__class__ = kind_of(layer)
    return net


def loss(name: str) -> Callable:
    """The loss of the training: softmax cross-entropy, or the zoo's."""
    if name != FORGOTTEN_MEAN:
        return dn.losses.softmax_cross_entropy
    op = dn.zoo.show(name).op

    def broken(y: Any, t: Any) -> tuple[Any, Any]:
        value, back = op(y, t)
        return value, lambda: back(1.0)

    return broken


def report(net: Any, name: str) -> dict[str, Any]:
    """What ``dn.check`` says of the network as it is, and what the zoo knows of the mistake."""
    checks = [dn.check.gradient(net, raises=False)]
    if name == FORGOTTEN_MEAN:
        checks.append(check_of_the_loss(net))
    told = {"text": "\n\n".join(map(str, checks)), "ok": all(checks), "name": name}
    if name:
        exercise = dn.zoo.show(name)
        told |= {
            "symptom": exercise.symptom,
            "story": " ".join(exercise.story.split()),
            "hint": exercise.hint,
            "code": exercise.code,
            "diff": exercise.diff,
            "lesson": " ".join(exercise.lesson.split()),
            "blind": exercise.why_blind,
            "layers": ["loss"] if name == FORGOTTEN_MEAN else fitting_broken(net),
        }
    return told


def check_of_the_loss(net: Any) -> Any:
    """The wrong loss by itself: it stands behind the network, where a check of the network does not look."""
    rows, classes = 4, net.output_shape(net.input_shape)[-1]
    op, t = dn.zoo.show(FORGOTTEN_MEAN).op, dn.asarray([row % classes for row in range(rows)])

    def softmax_cross_entropy(y: Any) -> Any:
        return op(y, t)

    y = dn.asarray(numpy.random.default_rng(0).standard_normal((rows, classes)), "float64")
    return dn.check.gradient(softmax_cross_entropy, y, raises=False)


def fitting_broken(net: Any) -> list[str]:
    return [path for path, layer in net.walk() if kind_of(layer) is not type(layer)]
