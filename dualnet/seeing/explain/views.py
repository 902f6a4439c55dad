"""What the page shows of a layer: its numbers, under the names that the script's classes use (model.js, units.js)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy

from ... import ops
from ...layers import activation, containers, dense, dropout, normalization, piecewise, pooling
from ...layers.convolution import Conv2D
from ...layers.layer import Layer
from .maps import units, windows_of
from .run import Use
from .units import curve, set_of

View = dict[str, Any]
Shown = tuple[list[int], list[int]]
"""The channels of the input and of the output that are shown."""


def view_of_convolution(use: Use, image: int, shown: Shown) -> View:
    """E4, E11, E12 and E13 between some channels of one image; ``rest…`` is the part of each sum from all others."""
    layer, (cs, ds) = use.layer, shown
    at, w = layer._windows(use.x.shape[1:3]), use.parameters["w"]
    dw, db = use.gradients["w"], use.gradients.get("b")
    width, each = w.shape[2], w.shape[3] // layer.groups
    pairs = numpy.zeros((2, *at.window, len(cs), len(ds)), w.dtype)
    for i, c in enumerate(cs):
        for j, d in enumerate(ds):
            if c // width == d // each:
                pairs[0, :, :, i, j], pairs[1, :, :, i, j] = w[:, :, c % width, d], dw[:, :, c % width, d]
    view = {
        "form": "convolution",
        "size": at.size,
        "grid": at.grid,
        "window": at.window,
        "stride": at.stride,
        "dilation": at.dilation,
        "pads": at.pads,
        "mode": layer.mode,
        "perGroup": [width, each],
        "shape": [list(use.x.shape), list(w.shape), list(use.y.shape)],
        "image": image,
        "cs": cs,
        "ds": ds,
        "x": use.x[image][..., cs],
        "dx": use.dx[image][..., cs],
        "y": use.y[image][..., ds],
        "dy": use.dy[image][..., ds],
        "w": pairs[0],
        "dw": pairs[1],
    }
    if db is not None:
        view |= {"b": use.parameters["b"][ds], "db": db[ds]}
    return view | _rest(use, image, cs, ds, pairs.shape[1:])


def _rest(use: Use, image: int, cs: list[int], ds: list[int], shape: tuple[int, ...]) -> View:
    """The part of each sum from channels, filters and images that are not shown: the op in float64, with the shown ones
    at 0."""
    layer, (N, C, D) = use.layer, (use.x.shape[0], use.x.shape[-1], use.y.shape[-1])
    options = {key: getattr(layer, key) for key in ("stride", "padding", "dilation", "groups", "mode")}
    x, w, dy = (a.astype("float64") for a in (use.x, use.parameters["w"], use.dy))
    width, each = w.shape[2], w.shape[3] // layer.groups
    rest: View = {}
    if len(cs) < C:
        hidden = x[image : image + 1].copy()
        hidden[..., cs] = 0
        rest["restY"] = ops.conv2d(hidden, w, **options)[0][0][..., ds]
    if len(ds) < D:
        hidden = dy[image : image + 1].copy()
        hidden[..., ds] = 0
        rest["restDx"] = ops.conv2d(x[image : image + 1], w, **options)[1](hidden)[0][0][..., cs]
    if N > 1:
        others = dy.copy()
        others[image] = 0
        dw = ops.conv2d(x, w, **options)[1](others)[1]
        rest["restDw"] = numpy.zeros(shape)
        for i, c in enumerate(cs):
            for j, d in enumerate(ds):
                if c // width == d // each:
                    rest["restDw"][:, :, i, j] = dw[:, :, c % width, d]
        rest["restDb"] = others.sum(axis=(0, 1, 2))[ds]
    return rest


def view_of_pooling(use: Use, image: int, shown: Shown) -> View:
    """E8 and E15, one channel at a time; for an average, with M of every window."""
    layer, (cs, _), at = use.layer, shown, windows_of(use)
    kinds = {pooling.MaxPool2D: "max", pooling.GlobalMaxPool2D: "max", pooling.L2Pool2D: "l2"}
    (P, Q), flat = at.grid, (*at.grid, use.y.shape[-1])
    view = {
        "form": "pooling",
        "how": next((how for kind, how in kinds.items() if isinstance(layer, kind)), "average"),
        "size": at.size,
        "grid": at.grid,
        "window": at.window,
        "stride": at.stride,
        "dilation": at.dilation,
        "pads": at.pads,
        "shape": [list(use.x.shape), [], list(use.y.shape)],
        "image": image,
        "cs": cs,
        "flat": use.y.ndim == 2,
        "x": use.x[image][..., cs],
        "dx": use.dx[image][..., cs],
        "y": use.y[image].reshape(flat)[..., cs],
        "dy": use.dy[image].reshape(flat)[..., cs],
    }
    if view["how"] == "average":
        view["M"] = numpy.array([[units(layer, at, i, j) for j in range(Q)] for i in range(P)], "float32")
    return view


def _each(use: Use, image: int, cs: list[int], form: str) -> View:
    """What all these layers share: four maps, or four vectors."""
    arrays = {name: getattr(use, name)[image] for name in ("x", "y", "dx", "dy")}
    arrays = {name: array[..., cs] if array.ndim == 3 else array for name, array in arrays.items()}
    return {"form": form, "shape": [list(use.x.shape), [], list(use.y.shape)], "image": image, "cs": cs, **arrays}


def view_of_activation(use: Use, image: int, shown: Shown) -> View:
    """E7 and E14, with the slope at every unit."""
    f, slope, formula, words = curve(use.layer)
    view = _each(use, image, shown[0], "activation")
    x = view["x"].astype("float64")
    curves = {name: numpy.vectorize(g, otypes=["float64"])(x) for name, g in (("f", f), ("slope", slope))}
    return view | {"formula": formula, "slopes": words, **curves}


def view_of_softmax(use: Use, image: int, shown: Shown) -> View | None:
    """E7 and E14 of one row; a softmax over maps is not drawn."""
    if use.x.ndim != 2:
        return None
    return _each(use, image, shown[0], "softmax") | {"log": isinstance(use.layer, activation.LogSoftmax)}


def view_of_dropout(use: Use, image: int, shown: Shown) -> View:
    """E7 and E14, with the factor of every unit, which the op's own pullback shows."""
    view = _each(use, image, shown[0], "moved")
    factor = use.backward(numpy.ones_like(use.y))[0][image]
    return view | {"factor": factor[..., shown[0]] if use.x.ndim == 4 else factor}


def view_of_identity(use: Use, image: int, shown: Shown) -> View:
    return _each(use, image, shown[0], "moved")


def view_of_flatten(use: Use, image: int, _: Shown) -> View:
    """All channels: the row holds all of them."""
    return _each(use, image, list(range(use.x.shape[-1])), "moved")


def view_of_dense(use: Use, image: int, shown: Shown) -> View | None:
    """E9 and E16 of some outputs; ``rest…`` is the part from the other outputs and the other images."""
    if use.x.ndim != 2:
        return None
    ds, w, b = shown[1], use.parameters["w"], use.parameters.get("b")
    view = {
        "form": "dense",
        "shape": [list(use.x.shape), list(w.shape), list(use.y.shape)],
        "image": image,
        "cs": [0],
        "ds": ds,
        "x": use.x[image],
        "dx": use.dx[image],
        "y": use.y[image, ds],
        "dy": use.dy[image, ds],
        "w": w[:, ds],
        "dw": use.gradients["w"][:, ds],
    }
    if b is not None:
        view |= {"b": b[ds], "db": use.gradients["b"][ds]}
    hidden = [d for d in range(w.shape[1]) if d not in ds]
    if hidden:
        view["restDx"] = w[:, hidden].astype("float64") @ use.dy[image, hidden].astype("float64")
    if len(use.x) > 1:
        x, dy = (numpy.delete(a, image, axis=0).astype("float64") for a in (use.x, use.dy[:, ds]))
        view |= {"restDw": x.T @ dy, "restDb": dy.sum(axis=0)}
    return view


def view_of_normalization(use: Use, image: int, shown: Shown) -> View | None:
    """Each place with the mean and the spread of its set; and with the two means of g = dy · γ that dx leaves out."""
    if isinstance(use.layer, normalization.RMSNorm) or use.x.ndim not in (2, 4):
        return None
    view, sets = _each(use, image, shown[0], "normal"), set_of(use)
    pick = (lambda a: a[image][..., shown[0]]) if use.x.ndim == 4 else (lambda a: a[image])
    view |= {name: pick(array) for name, array in sets.items()}
    if "gamma" in use.gradients and "beta" in use.gradients and use.gradients["gamma"].ndim == 1 and _by_channel(use):
        channels = shown[0] if use.x.ndim == 4 else slice(None)
        view |= {f"d{name}": use.gradients[name][channels] for name in ("gamma", "beta")}
        if len(use.x) > 1:
            others = numpy.delete(use.dy, image, axis=0).astype("float64")
            axes, xhat = tuple(range(use.x.ndim - 1)), numpy.delete(sets["xhat"], image, axis=0)
            view["rest_dgamma"] = (others * xhat).sum(axis=axes)[channels]
            view["rest_dbeta"] = others.sum(axis=axes)[channels]
    return view


def _by_channel(use: Use) -> bool:
    """Whether γ has one value for each channel; if not, it has one for each place of the map."""
    return use.gradients["gamma"].shape == use.x.shape[-1:]


VIEWERS: list[tuple[tuple[type[Layer], ...], Callable[[Use, int, Shown], View | None]]] = [
    ((Conv2D,), view_of_convolution),
    ((dense.Dense,), view_of_dense),
    ((pooling._Pool2D, pooling._GlobalPool2D), view_of_pooling),
    ((dense.Flatten,), view_of_flatten),
    ((containers.Identity,), view_of_identity),
    ((dropout.Dropout,), view_of_dropout),
    ((normalization.BatchNorm, normalization.LayerNorm, normalization.GroupNorm), view_of_normalization),
    ((activation.Softmax,), view_of_softmax),
    (
        (
            activation.ReLU,
            activation.LeakyReLU,
            activation.ELU,
            activation.Sigmoid,
            activation.Tanh,
            activation.Softplus,
            activation.SiLU,
            activation.GELU,
            activation.Mish,
            piecewise.ReLU6,
            piecewise.Hardsigmoid,
            piecewise.Hardswish,
        ),
        view_of_activation,
    ),
]


def viewer_of(layer: Layer) -> Callable[[Use, int, Shown], View | None] | None:
    return next((viewer for kinds, viewer in VIEWERS if isinstance(layer, kinds)), None)
