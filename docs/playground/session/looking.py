"""What the page shows of a network: maps, filters, deltas, the sum behind each number, an answer with Grad-CAM."""

from __future__ import annotations

import base64
from typing import Any

import numpy

import dualnet as dn
from dualnet.seeing.explain.run import Call
from dualnet.seeing.viz.attention import class_activation, saliency_map

from .breaking import kind_of
from .training import Training

MOST = 12
"""Channels of a map that are shown."""
TERMS = 13
"""Terms of a sum that are listed; of more, the largest, and what the others come to."""
CELLS = 4096
"""Cells that light up."""

Numbers = numpy.ndarray


def packed(array: Any) -> dict[str, Any]:
    """Shape and bytes of float32, which the page reads without rounding."""
    array = numpy.ascontiguousarray(dn.to_numpy(array), "<f4")
    return {"shape": list(array.shape), "bytes": base64.b64encode(array.tobytes()).decode()}


def picture(training: Training, place: int, pixels: list[float] | None = None) -> tuple[Any, Any, int]:
    """One image (1, H, W, C) with its class (1,): one that was held back, or what the reader has just drawn."""
    if pixels is not None:
        x = numpy.asarray(pixels, "float32").reshape(1, *training.pictures.shape)
        return x, numpy.array([answer_of(training, x)]), -1
    place = place % len(training.pictures.xv)
    chosen = slice(place, place + 1)
    return training.pictures.xv[chosen], training.pictures.tv[chosen], place


def inside(training: Training, layer: str, place: int = 0, pixels: list[float] | None = None) -> dict[str, Any]:
    """What a layer saw and computed, forward and back, for one image; without dropout, by running statistics."""
    x, t, place = picture(training, place, pixels)
    names = [path for path, part in training.net.walk() if path]
    if layer not in names:
        raise ValueError(f"playground: there is no layer {layer!r}; they are {', '.join(names)}")
    with numpy.errstate(all="ignore"):
        (use,) = Call(training.net, x, t, None, None, False).everything([layer])[layer]
    arrays = {"x": use.x[0], "y": use.y[0], "dx": use.dx[0], "dy": use.dy[0]}
    arrays |= use.parameters | {f"d{name}": gradient for name, gradient in use.gradients.items()}
    kind = kind_of(use.layer).__name__
    return {
        "layer": layer,
        "title": repr(use.layer),
        "kind": kind,
        "image": packed(x[0]),
        "place": place,
        "class": training.pictures.classes[int(t[0])],
        "answer": training.pictures.classes[answer_of(training, x)],
        "last": layer == names[-1],
        "next": names[names.index(layer) + 1] if layer != names[-1] else "",
        "arrays": {name: packed(shown(array)) for name, array in arrays.items()},
        "whole": {name: list(array.shape) for name, array in arrays.items()},
    }


def answer_of(training: Training, x: Any) -> int:
    return int(dn.to_numpy(training.net(dn.asarray(x)))[0].argmax())


def shown(array: Numbers) -> Numbers:
    """The first channels, filters and units: what a screen has room for."""
    if array.ndim == 4:  # a filter bank
        return array[:, :, :4, :MOST]
    if array.ndim == 3:
        return array[:, :, :MOST]
    if array.ndim == 2:
        return array[:64, :16]
    return array[:128]


def filters(training: Training) -> dict[str, Any]:
    """The first bank of filters, to be drawn while it learns."""
    for name, parameter in training.net.parameters().items():
        if len(parameter.shape) == 4:
            return {"name": name, "w": packed(parameter.value[:, :, 0, :MOST])}
    return {}


def explained(training: Training, target: str, place: int = 0, pixels: list[float] | None = None) -> dict[str, Any]:
    """``dn.explain``: one number of the two passes, as the sum that it is."""
    x, t, _ = picture(training, place, pixels)
    with numpy.errstate(all="ignore"):
        why = dn.explain(training.net, x, target, t=t, train=False)
    terms = [
        {
            "cells": [[cell.name, list(cell.index), cell.value] for cell in term.cells],
            "factor": [term.what, term.factor] if term.what else None,
            "value": term.value,
        }
        for term in why.terms
    ]
    order = sorted(range(len(terms)), key=lambda i: (-abs(terms[i]["value"]), i))
    kept = {i for i in order[:TERMS] if terms[i]["value"] or len(terms) <= TERMS}
    return {
        "target": why.target,
        "title": why.account.title,
        "anchor": why.anchor,
        "formula": why.formula,
        "value": why.value,
        "sum": why.sum,
        "ok": why.ok,
        "verdict": why._verdict(),
        "how": why.account.how,
        "terms": [term for i, term in enumerate(terms) if i in kept],
        "others": len(terms) - len(kept),
        "zeros": all(term["value"] == 0 for i, term in enumerate(terms) if i not in kept),
        "rest": sum(term["value"] for i, term in enumerate(terms) if i not in kept),
        "cells": {name: [list(index) for index in indices[:CELLS]] for name, indices in why.cells.items()},
        "notes": why._notes(),
    }


def page(training: Training, target: str, place: int = 0, pixels: list[float] | None = None) -> str:
    """The interactive page of ``dn.explain``, as one HTML file."""
    x, t, _ = picture(training, place, pixels)
    return dn.explain(training.net, x, target or None, t=t, train=False).page().html


def answer(training: Training, pixels: list[float]) -> dict[str, Any]:
    """What the network says of a drawing: a probability for each class, and where it looked."""
    x = numpy.asarray(pixels, "float32").reshape(1, *training.pictures.shape)
    y = dn.to_numpy(training.net(dn.asarray(x)))[0].astype("float64")
    odds = numpy.exp(y - y.max())
    told: dict[str, Any] = {"probabilities": (odds / odds.sum()).tolist(), "classes": training.pictures.classes}
    try:
        strength, _ = class_activation(training.net, training.net.enter(dn.asarray(x)))
    except ValueError as error:  # a network without maps
        return told | _saliency(training, x, f"There is no Grad-CAM ({error}).")
    if not strength.any():
        return told | _saliency(training, x, "Grad-CAM is 0 everywhere: no map speaks for the answer as a whole.")
    return told | {"cam": packed(strength[0]), "how": "Grad-CAM", "why": ""}


def _saliency(training: Training, x: Numbers, why: str) -> dict[str, Any]:
    """Where Grad-CAM has nothing to show: the pixels on which the score depends most."""
    strength, _ = saliency_map(training.net, training.net.enter(dn.asarray(x)))
    return {"cam": packed(strength[0]), "how": "saliency", "why": f"{why} Shown are the pixels that count most."}
