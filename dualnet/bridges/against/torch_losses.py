"""The losses of PyTorch, and ours that match them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy

from ..pytorch import need_torch
from .steps import NodeRun, Twin
from .twins import LossTwin

__all__ = ["chosen", "twin_of_loss"]


def chosen(loss: Any, y: Any, t: Any) -> tuple[str, Callable[..., Any]]:
    """The loss, by its name and as a function of y and t: the one that was passed, or the one that fits t."""
    torch = need_torch("against")
    F = torch.nn.functional
    if loss is None:
        integers = not t.is_floating_point() and not t.is_complex()
        if integers and t.shape == (y.shape[0], *y.shape[2:]) and y.ndim > 1:
            return "cross_entropy", F.cross_entropy
        if not integers and t.shape == y.shape:
            return "mse_loss", F.mse_loss
        raise ValueError(
            f"against: t has shape {tuple(t.shape)} and dtype {str(t.dtype).removeprefix('torch.')}, and the output "
            f"has shape {tuple(y.shape)}. Expected class numbers (integers) {(y.shape[0], *y.shape[2:])}, or real "
            "numbers of the output's shape; or pass the loss, such as loss=torch.nn.BCEWithLogitsLoss()"
        )
    if not callable(loss):
        raise TypeError(f"against: loss is a {type(loss).__name__}; expected a function of y and t, such as F.mse_loss")
    return getattr(loss, "__name__", type(loss).__name__), loss


def twin_of_loss(loss: Any, name: str, run: NodeRun, t: Any) -> Twin | None:
    """Our loss, if we have one with these options."""
    y = run.values["x"]
    options = {key: getattr(loss, key) for key in ("weight", "pos_weight") if getattr(loss, key, None) is not None}
    if options or getattr(loss, "reduction", "mean") != "mean" or not y.size:
        return None
    targets = _targets(t, y)
    found = _ours(loss, name, y, targets)
    if found is None:
        return None
    op, settings, factor, channels = found

    def last(array: numpy.ndarray) -> numpy.ndarray:
        return numpy.moveaxis(array, 1, -1) if channels and array.ndim > 2 else array

    run.values["t"] = last(targets) if targets.shape == y.shape else targets
    return LossTwin(op, {"x": last}, op, settings, factor)


def _targets(t: Any, y: numpy.ndarray) -> numpy.ndarray:
    array = t.detach().cpu()
    return array.double().numpy() if array.is_floating_point() else array.numpy()


def _ours(loss: Any, name: str, y: numpy.ndarray, t: numpy.ndarray) -> tuple[str, dict[str, Any], float, bool] | None:
    """Op, options, factor, and whether PyTorch has the classes along axis 1."""
    torch = need_torch("against")
    own = getattr(torch.nn.functional, name, None) is loss or type(loss).__module__ == "torch.nn.modules.loss"
    if not own:
        return None
    if name in ("cross_entropy", "CrossEntropyLoss"):
        ignored = getattr(loss, "ignore_index", -100)
        classes = t.dtype.kind in "iu"
        if y.ndim < 2 or (classes and (t == ignored).any()):
            return None
        return "softmax_cross_entropy", {"label_smoothing": getattr(loss, "label_smoothing", 0.0)}, 1.0, True
    if t.shape != y.shape:
        return None
    if name in ("mse_loss", "MSELoss"):
        return "mean_squared_error", {}, 2.0 * len(y) / y.size, False
    if name in ("binary_cross_entropy_with_logits", "BCEWithLogitsLoss"):
        return "binary_cross_entropy", {}, 1.0, False
    if name in ("smooth_l1_loss", "SmoothL1Loss") and getattr(loss, "beta", 1.0) > 0:
        beta = float(getattr(loss, "beta", 1.0))
        return "huber", {"delta": beta}, 1.0 / beta, False
    if name in ("huber_loss", "HuberLoss"):
        return "huber", {"delta": float(getattr(loss, "delta", 1.0))}, 1.0, False
    return None
