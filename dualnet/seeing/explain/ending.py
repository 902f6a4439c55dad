"""Where the backward pass begins: the loss, which the page draws last, and one step of gradient descent."""

from __future__ import annotations

import functools
from typing import Any

import numpy

from ...ops import losses
from .run import Call, Ending
from .views import View

RATES = (0.001, 0.01, 0.1, 0.5, 1.0, 2.0)
"""The learning rates that the page offers."""


def view_of_loss(call: Call, ending: Ending, image: int) -> View | None:
    """E10 for one row of outputs: the usual losses with their sums, any other loss with its deltas alone."""
    y, dy, t = ending.y, ending.dy, ending.t
    if y.ndim != 2:
        return None
    how = _how(call.loss)
    function = losses.about(call.loss).function
    name = getattr(function, "__name__", "the loss")
    view: View = {
        "form": "loss",
        "how": how,
        "loss": name,
        "ours": losses.NAMES.get(name) is function,
        "shape": [list(y.shape), [], list(y.shape)],
        "image": image,
        "cs": [0],
        "x": y[image],
        "y": y[image],
        "dy": dy[image],
        "E": ending.loss,
        "over": y.size if how in ("binary", "huber") else len(y),
    }
    if how == "other":
        return view
    rows = y.astype("float64")
    if how == "softmax":
        apart = rows - rows.max(axis=-1, keepdims=True)
        log_p = apart - numpy.log(numpy.exp(apart).sum(axis=-1, keepdims=True))  # p itself may be 0
        q = numpy.eye(y.shape[1])[t.astype(int)] if t.ndim == 1 else t.astype("float64")
        terms = -(q * numpy.where(q > 0, log_p, 0.0)).sum(axis=-1)
        view |= {"p": numpy.exp(log_p[image]), "t": q[image]}
    else:
        view["t"] = t[image].astype("float64")
        far = abs(rows - t)
        if how == "squared":
            terms = 0.5 * (far**2).sum(axis=-1)
        elif how == "huber":
            terms = numpy.where(far <= 1.0, 0.5 * far**2, far - 0.5).sum(axis=-1)
        else:  # log(1 + e^−|y|) + |y| · (the share of t on the wrong side), in which 0 · ∞ is 0
            wrong = abs((rows > 0.0) - t.astype("float64"))
            terms = (numpy.log1p(numpy.exp(-abs(rows))) + wrong * numpy.where(wrong > 0.0, abs(rows), 0.0)).sum(axis=-1)
            view["p"] = numpy.exp(-numpy.logaddexp(0.0, -rows[image]))
    return view | {"restE": float(numpy.delete(terms, image).sum() / view["over"])}


def _how(loss: Any) -> str:
    """Which sum the page can write; not that of a loss with options of its own."""
    options: dict[str, Any] = {}
    while isinstance(loss, functools.partial):
        loss, options = loss.func, options | loss.keywords
    if options.keys() - {"check_labels"}:
        return "other"
    return {
        losses.softmax_cross_entropy: "softmax",
        losses.mean_squared_error: "squared",
        losses.binary_cross_entropy: "binary",
        losses.huber: "huber",
    }.get(loss, "other")


def step_of(call: Call, ending: Ending) -> View | None:
    """E17: the loss after one step of each size, computed by the network itself; and ‖∂E/∂w‖², its slope over η."""
    if not ending.gradients:
        return None
    after = [call.loss_after(rate, ending) for rate in RATES]
    if not all(map(numpy.isfinite, (ending.loss, *after))):
        return None
    squared = sum(float((g.astype("float64") ** 2).sum()) for g in ending.gradients.values())
    return {"rates": RATES, "losses": after, "before": ending.loss, "squared": squared}
