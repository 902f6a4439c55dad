"""The truth about a case: the result of plain loops in float64, and how far from it a right result may be.

R is the right result, as an array. X, the result to judge, may differ from it by the rounding errors of its sums.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy

from ... import ops
from . import limits
from .case import Case, with_dy
from .limits import Limit

__all__ = ["Expected", "expected", "gradient_names", "output_name"]

Source = Callable[[str], tuple[Callable[..., Any], Callable[..., Any]]]
"""Gives forward(*arrays, **options) and backward(dy, *arrays, **options) of an op, both in float64."""

EXACT = ("flatten", "reshape", "relu", "relu6", "global_max_pool2d", "zero_pad2d", "crop2d")
ONE_PRODUCT = ("leaky_relu", "dropout")
WITH_EXP = ("elu", "gelu", "silu", "mish", "sigmoid", "tanh", "softplus", "hardsigmoid", "hardswish")
RESIZED = {"upsample2d": "size", "reflect_pad2d": "padding", "adaptive_avg_pool2d": "output_size"}
SUMS = (
    *("conv2d", "conv_transpose2d", "dense"),
    *("max_pool2d", "avg_pool2d", "l2_pool2d", "global_avg_pool2d"),
)
SHARES = ("softmax", "log_softmax")
NORMS = ("batch_norm", "batch_norm_inference", "layer_norm", "group_norm")
ULPS_OF_EXP = {"float16": 2, "bfloat16": 2, "float32": 8, "float64": 8}
"""For exp, log, tanh and functions of them. In 16 bits the result is rounded, and y too if f' is computed from y."""


@dataclass(frozen=True)
class Expected:
    """R and its limit; None for a gradient that must be absent (no bias, ``need_dx=False``)."""

    value: numpy.ndarray | None
    limit: Limit | None


def output_name(case: Case) -> str:
    """``y``, or ``loss`` for a loss."""
    return "loss" if case.loss else "y"


def gradient_names(case: Case) -> list[str]:
    """``dx``, ``dw``, ``db``: one for each array argument, except for the targets of a loss."""
    return ["dy"] if case.loss else [f"d{name}" for name in case.arrays]


def expected(case: Case, source: Source | None = None) -> dict[str, Expected]:
    """R for the output and each gradient, by name: from the loops, or from another ``source`` that uses float64.

    Also gives the case its ``dy``.
    """
    with numpy.errstate(all="ignore"):
        return _expected(case, source or by_loops)


def _expected(case: Case, source: Source) -> dict[str, Expected]:
    forward, backward = source(case.base)
    arrays = list(case.arrays.values())
    known = inspect.signature(forward).parameters
    options = {k: v for k, v in case.options.items() if k in known or "options" in known}
    y = numpy.asarray(forward(*arrays, **options))
    if case.loss:
        found = {"loss": y, "dy": backward(*arrays, **options)}
    else:
        y, passed = _rectified(case, y, forward, options) if case.rectified else (y, with_dy(case, y.shape).dy)
        gradients = backward(passed, *arrays, **options)
        found = {"y": y, **dict(zip(gradient_names(case), gradients if isinstance(gradients, tuple) else (gradients,)))}
        if not case.options.get("need_dx", True):
            found["dx"] = None
    bounds = _limits(case, found, options, source)
    return {name: Expected(r, None if r is None else bounds[name]) for name, r in found.items()}


def by_loops(op: str) -> tuple[Any, Any]:
    """Forward and backward of an op as plain loops."""
    from .. import loops  # more than a thousand lines, which only a certificate needs

    return getattr(loops, op), getattr(loops, f"{op}_backward")


def _rectified(case: Case, y: numpy.ndarray, forward: Any, options: Any) -> tuple[numpy.ndarray, numpy.ndarray]:
    """max(0, y), and dy where y > 0. Where rounding may give y either sign, dy is set to 0."""
    if case.base in SUMS:
        doubt = limits.tau(case.dtype, _terms(case)["y"]) * forward(*_unsigned(case.arrays), **options)
    else:
        ratio, n = _spread(case)
        doubt = limits.tau(case.dtype, n) * ratio * numpy.max(numpy.abs(y), initial=1.0)
    dy = with_dy(case, y.shape, numpy.abs(y) > doubt).dy
    return numpy.maximum(y, 0.0), dy * (y > 0)  # type: ignore[operator]


def _upstream(case: Case, found: dict[str, Any]) -> numpy.ndarray:
    """|dy|, where it gets through the ReLU."""
    dy = numpy.abs(case.dy.astype(numpy.float64))
    return dy * (found["y"] > 0) if case.rectified else dy


def _unsigned(arrays: Any) -> list[numpy.ndarray | None]:
    return [None if a is None else numpy.abs(a.astype(numpy.float64)) for a in arrays.values()]


# -- limits ------------------------------------------------------------------------------------------------------------


def _limits(case: Case, found: dict[str, Any], options: dict[str, Any], source: Source) -> dict[str, Limit]:
    for names, rule in (
        (EXACT, _exact),
        (ONE_PRODUCT, _one_product),
        (WITH_EXP, _with_exp),
        (SUMS, _sums),
        (tuple(RESIZED), _resized),
        (("prelu",), _prelu),
        (("rms_norm",), _rms),
        (SHARES, _shares),
        (NORMS, _norms),
        (tuple(ops.losses.NAMES), _losses),
    ):
        if case.base in names:
            return rule(case, found, options, source)
    raise ValueError(f"parity: no limits for op {case.op!r}")


def _exact(case: Case, found: dict[str, Any], options: dict[str, Any], source: Source) -> dict[str, Limit]:
    return {name: limits.exact(r) for name, r in found.items()}


def _one_product(case: Case, found: dict[str, Any], options: dict[str, Any], source: Source) -> dict[str, Limit]:
    return {name: limits.ulps(r, case.dtype, 1) for name, r in found.items()}


def _with_exp(case: Case, found: dict[str, Any], options: dict[str, Any], source: Source) -> dict[str, Limit]:
    """f' is a difference that cancels, 1 − y or the like, so its error is counted in units of dy.

    Both GELUs round an exponent. In the approximate one the error is of the order of x. In the exact one it is the
    truth's own, x²/2 in the erfc of the loops, and shows in float64.
    """
    n, x, scale = ULPS_OF_EXP[case.dtype], case.arrays["x"].astype(numpy.float64), None
    if case.op == "gelu" and case.options.get("approximate"):
        scale = x
    elif case.op == "gelu" and case.dtype == "float64":
        scale = found["y"] * numpy.clip(numpy.abs(x), 1.0, 40.0) ** 2
    return {
        "y": limits.ulps(found["y"], case.dtype, n, scale),
        "dx": limits.ulps(found["dx"], case.dtype, n, _steep(case)),
    }


def _steep(case: Case) -> numpy.ndarray:
    """|dy| times the size of the terms of f': about 1, x for SiLU, and x · v(x) for GELU with its exponent v."""
    dy, x = (numpy.abs(a.astype(numpy.float64)) for a in (case.dy, case.arrays["x"]))
    x = numpy.clip(x, 1.0, 8.0)
    return dy * {"silu": x, "mish": x, "gelu": x * x}.get(case.op, 1.0)


def _prelu(case: Case, found: dict[str, Any], options: dict[str, Any], source: Source) -> dict[str, Limit]:
    """One product each; a slope's gradient sums over the places that share it."""
    dy, x = (numpy.abs(a.astype(numpy.float64)) for a in (case.dy, case.arrays["x"]))
    x = x * (numpy.asarray(case.arrays["x"], numpy.float64) < 0.0)
    shared = tuple(range(x.ndim - (case.arrays["alpha"].size == x.shape[-1])))
    K = max(1, x.size // found["dalpha"].size)
    magnitude = numpy.sum(dy * x, shared).reshape(found["dalpha"].shape)
    one = {name: limits.ulps(found[name], case.dtype, 1) for name in ("y", "dx")}
    return one | {"dalpha": limits.products(found["dalpha"], case.dtype, K, magnitude)}


def _resized(case: Case, found: dict[str, Any], options: dict[str, Any], source: Source) -> dict[str, Limit]:
    """Sums with fixed shares. K is roughly how many units a place reads, or how many places read a unit."""
    forward, backward = source(case.base)
    x, dy = (numpy.abs(a.astype(numpy.float64)) for a in (case.arrays["x"], case.dy))
    larger = [max(n, m) / max(1, min(n, m)) for n, m in zip(x.shape[1:3], dy.shape[1:3])]
    K = 4 * math.ceil(larger[0]) * math.ceil(larger[1])
    return {
        "y": limits.products(found["y"], case.dtype, K, forward(x, **options)),
        "dx": limits.products(found["dx"], case.dtype, K, backward(dy, x, **options)),
    }


def _rms(case: Case, found: dict[str, Any], options: dict[str, Any], source: Source) -> dict[str, Limit]:
    """τ over the values that share a root; no mean is subtracted, so nothing cancels."""
    x, gamma, dy = (a.astype(numpy.float64) for a in (case.arrays["x"], case.arrays["gamma"], case.dy))
    axes = tuple(range(x.ndim - gamma.ndim, x.ndim))
    n, several = math.prod(gamma.shape), max(1, math.prod(x.shape[: x.ndim - gamma.ndim]))
    s = numpy.sqrt(numpy.mean(x * x, axes, keepdims=True) + options.get("epsilon", 1e-5))
    dy, x_hat, added = numpy.abs(dy), numpy.abs(x / s), limits.adding(case.dtype)
    whole = numpy.sum(dy * x_hat, tuple(range(x.ndim - gamma.ndim)))
    tau = limits.tau(added, n)
    return {
        "y": limits.normed(found["y"], case.dtype, tau, f"τ, K = {n}", numpy.abs(gamma) * x_hat),
        "dx": limits.normed(found["dx"], case.dtype, tau, f"τ, K = {n}", dy * numpy.abs(gamma) / s),
        "dgamma": limits.normed(
            found["dgamma"], case.dtype, limits.tau(added, several), f"τ, K = {several}", whole, several
        ),
    }


def _sums(case: Case, found: dict[str, Any], options: dict[str, Any], source: Source) -> dict[str, Limit]:
    """Sums of products, with |A||B| from the same loops."""
    forward, backward = source(case.base)
    if case.base == "max_pool2d":
        largest = limits.exact(found["y"])  # dy goes to the winner; where windows overlap, several add up
        magnitude = backward(_upstream(case, found), case.arrays["x"], **options)
        return {"y": largest, "dx": limits.products(found["dx"], case.dtype, _terms(case)["dx"], magnitude)}
    arrays = _unsigned(case.arrays)
    back = backward(_upstream(case, found), *arrays, **options)
    whole = [forward(*arrays, **options), *(back if isinstance(back, tuple) else (back,))]
    terms = _terms(case)
    return {
        name: limits.products(r, case.dtype, terms[name], magnitude)
        for (name, r), magnitude in zip(found.items(), whole)
        if r is not None
    }


def _terms(case: Case) -> dict[str, int]:
    """K, the number of terms in the longest sum, for the output and each gradient."""
    x, w = case.arrays["x"], case.arrays.get("w")
    shape = tuple(x.shape)
    if case.base == "dense":
        rows = math.prod(shape[:-1])
        return {"y": w.shape[0], "dx": w.shape[1], "dw": rows, "db": rows}
    if case.op == "global_avg_pool2d":
        return {"y": shape[1] * shape[2], "dx": 1}
    if w is None:
        size = case.options["pool_size"]
        taps = size**2 if isinstance(size, int) else math.prod(size)
        return {"y": taps, "dx": taps}
    (k1, k2, channels, D), groups = w.shape, case.options.get("groups", 1)
    there = k1 * k2 * channels, k1 * k2 * D // groups
    dy = case.dy if case.dy is not None else numpy.empty(shape)
    places = max(math.prod(dy.shape[:-1]), math.prod(shape[:-1]))
    if case.op == "conv_transpose2d":
        there = there[::-1]
    return {"y": there[0], "dx": there[1], "dw": places, "db": places}


def _shares(case: Case, found: dict[str, Any], options: dict[str, Any], source: Source) -> dict[str, Limit]:
    """u (16 + 4 √C). A gradient is a difference, dy − Σ dy y, whose two parts have the size of dy."""
    bound, why = _of_classes(case.dtype, case.arrays["x"].shape[case.options.get("axis", -1)])
    y = found["y"] if case.op == "softmax" else numpy.exp(found["y"])
    axis = case.options.get("axis", -1)
    dy = numpy.abs(case.dy.astype(numpy.float64))
    if case.op == "softmax":
        parts = y * (dy + numpy.sum(dy * y, axis, keepdims=True))
    else:
        parts = dy + y * numpy.sum(dy, axis, keepdims=True)
    whole = numpy.abs(found["y"]) if case.op == "softmax" else 1.0 + numpy.abs(found["y"])
    return {
        "y": limits.normed(found["y"], case.dtype, bound, why, whole),
        "dx": limits.normed(found["dx"], case.dtype, bound, why, parts),
    }


def _of_classes(dtype: str, C: int) -> tuple[float, str]:
    return limits.UNIT[limits.adding(dtype)] * (16 + 4 * math.sqrt(C)), f"u (16 + 4 √C), C = {C}"


def _norms(case: Case, found: dict[str, Any], options: dict[str, Any], source: Source) -> dict[str, Limit]:
    """τ · (1 + |μ| / σ), over the values that share a mean; gradients of γ, β, μ, σ² sum over all that share those."""
    arrays = {name: a.astype(numpy.float64) for name, a in case.arrays.items()}
    x, gamma = arrays["x"], numpy.abs(arrays["gamma"])
    mean, deviation, n = statistics(case.base, x, case.arrays, case.options)
    ratio = _spread(case)[0]
    dy, x_hat = _upstream(case, found), numpy.abs((x - mean) / deviation)
    axes = tuple(range(x.ndim - gamma.ndim))
    several = max(1, math.prod(x.shape[a] for a in axes))
    parts = {"y": gamma * x_hat + numpy.abs(arrays["beta"]), "dx": dy * gamma / deviation}
    added_up = {"dgamma": dy * x_hat, "dbeta": dy}
    if case.base == "batch_norm_inference":
        added_up |= {"dmean": dy * gamma / deviation, "dvariance": 0.5 * dy * x_hat * gamma / deviation**2}
    result = {}
    for name, r in found.items():
        K = several if name in added_up else n
        magnitude = parts[name] if name in parts else numpy.sum(added_up[name], axes)
        bound = limits.tau(limits.adding(case.dtype), K) * ratio
        result[name] = limits.normed(
            r, case.dtype, bound, f"τ (1 + |μ|/σ), K = {K}", magnitude, 1 if name in parts else K
        )
    return result


def _spread(case: Case) -> tuple[float, int]:
    """The largest 1 + |μ| / σ of all sets that are normalised, and how many values a set has."""
    mean, deviation, n = statistics(case.base, case.arrays["x"], case.arrays, case.options)  # type: ignore[arg-type]
    return 1.0 + float(numpy.max(numpy.abs(mean) / deviation, initial=0.0)), n


def statistics(
    op: str, x: numpy.ndarray, arrays: dict[str, Any], options: dict[str, Any]
) -> tuple[numpy.ndarray, numpy.ndarray, int]:
    """Mean and deviation of the sets that are normalised, in shapes that broadcast to x, and the size of a set."""
    x = x.astype(numpy.float64)
    epsilon = options.get("epsilon", 1e-5)
    if op == "batch_norm_inference":
        mean, variance = (arrays[name].astype(numpy.float64) for name in ("mean", "variance"))
        return mean, numpy.sqrt(variance + epsilon), 1
    if op == "group_norm":
        groups = options["groups"]
        split = x.reshape(*x.shape[:-1], groups, x.shape[-1] // groups)
        axes: Any = (*range(1, x.ndim - 1), x.ndim)
        mean, variance = split.mean(axes, keepdims=True), split.var(axes, keepdims=True)
        mean, variance = (numpy.broadcast_to(a, split.shape).reshape(x.shape) for a in (mean, variance))
        return mean, numpy.sqrt(variance + epsilon), math.prod(x.shape[1:]) // groups
    axes = tuple(range(x.ndim - 1)) if op == "batch_norm" else options.get("axis", -1)
    n = math.prod(x.shape[a] for a in (axes if isinstance(axes, tuple) else (axes,)))
    return x.mean(axes, keepdims=True), numpy.sqrt(x.var(axes, keepdims=True) + epsilon), n


def _losses(case: Case, found: dict[str, Any], options: dict[str, Any], source: Source) -> dict[str, Limit]:
    """A loss is a mean of terms of one sign. Its gradient is a difference, of probabilities or of y and t."""
    y, t = (numpy.asarray(case.arrays[name], numpy.float64) for name in ("y", "t"))
    loss, dy, share = found["loss"], found["dy"], shares(case.arrays.get("weights"), y)
    if case.op in ("softmax_cross_entropy", "softmax_focal", "kl_divergence"):
        bound, why = _of_classes(case.dtype, y.shape[-1])
        p = numpy.exp(y - y.max(-1, keepdims=True))
        p /= p.sum(-1, keepdims=True)
        parts = 2.0 * p * share * y.shape[-1] - dy  # (p + q) · share, where dy is (p − q) · share
        if case.op == "softmax_focal":
            parts = 4.0 * (1.0 + options.get("gamma", 2.0)) * share * y.shape[-1]  # of g, at most γ + 1, and p Σ g
        return {
            "loss": limits.normed(loss, case.dtype, bound, why, numpy.maximum(numpy.abs(loss), 1.0)),
            "dy": limits.normed(dy, case.dtype, bound, why, parts),
        }
    total = limits.tau(limits.adding(case.dtype), y.size)
    parts = numpy.abs(dy)
    if case.op == "binary_cross_entropy":
        parts = (1.0 / (1.0 + numpy.exp(-y)) + numpy.abs(t)) * share  # σ(y) + q
    whole: Any = None
    if case.op == "binary_focal":
        parts, whole = (
            (2.0 + 2.0 * options.get("gamma", 2.0)) * share * numpy.clip(numpy.abs(y), 1.0, 40.0),
            numpy.ones(()),
        )
    if case.op == "hinge":
        whole = numpy.sum(share * (1.0 + numpy.abs(y)))
    if case.op == "dice":
        parts, whole = 3.0 * share * y.size / (y.shape[0] * y.shape[-1]), numpy.ones(())
        total = limits.tau(limits.adding(case.dtype), max(1, y.size))
        return {
            "loss": limits.normed(loss, case.dtype, total, f"τ, K = {y.size}", whole),
            "dy": limits.products(dy, case.dtype, y.size // max(1, y.shape[0] * y.shape[-1]), parts),
        }
    if case.op == "cosine_distance":
        length = numpy.sqrt(numpy.sum(y * y, -1, keepdims=True))
        parts, whole = 2.0 * share * y.shape[-1] / numpy.where(length > 0.0, length, 1.0), numpy.ones(())
        return {
            "loss": limits.normed(loss, case.dtype, total, f"τ, K = {y.size}", whole),
            "dy": limits.products(dy, case.dtype, y.shape[-1], parts),
        }
    return {
        "loss": limits.normed(loss, case.dtype, total, f"τ, K = {y.size}", whole),
        "dy": limits.products(dy, case.dtype, 1, parts),
    }


def shares(weights: numpy.ndarray | None, y: numpy.ndarray) -> numpy.ndarray:
    """The share of each element of y in the mean over all: w / Σ w, for weights over the first axes of y."""
    w = numpy.ones(y.shape) if weights is None else numpy.asarray(weights, numpy.float64)
    w = numpy.broadcast_to(w.reshape(*w.shape, *(1,) * (y.ndim - w.ndim)), y.shape)
    return w / (numpy.sum(w) or 1.0)
