"""Activations and normalisation: what happens to each number by itself, or within its set."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy

from ...layers import activation as act
from ...layers import normalization as norm
from ...layers import piecewise
from ...layers.layer import Layer
from .run import Use
from .target import Target
from .terms import Account, Cell, Term, cell

Function = Callable[[float], float]

# -- activations -------------------------------------------------------------------------------------------------------


def logistic(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def curve(layer: Layer) -> tuple[Function, Function, str, str]:
    """An activation that works on each number alone: f, its slope f', and both in words."""
    a = getattr(layer, "alpha", 1.0)
    gate, slope = _gate(getattr(layer, "approximate", False))
    curves: dict[type[Layer], tuple[Function, Function, str, str]] = {
        act.ReLU: (lambda x: max(x, 0.0), lambda x: float(x > 0), "max(0, x)", "1 where x > 0, else 0"),
        act.LeakyReLU: (
            lambda x: x if x > 0 else a * x,
            lambda x: 1.0 if x > 0 else a,
            f"x where x > 0, else {a:g}·x",
            f"1 where x > 0, else {a:g}",
        ),
        act.ELU: (
            lambda x: x if x > 0 else a * math.expm1(x),
            lambda x: 1.0 if x > 0 else a * math.exp(x),
            f"x where x > 0, else {a:g}·(eˣ − 1)",
            f"1 where x > 0, else {a:g}·eˣ",
        ),
        act.Sigmoid: (logistic, lambda x: logistic(x) * logistic(-x), "1 / (1 + e⁻ˣ)", "y · (1 − y)"),
        act.Tanh: (math.tanh, lambda x: (1 - math.tanh(x)) * (1 + math.tanh(x)), "tanh x", "1 − y²"),
        act.Softplus: (
            lambda x: max(x, 0.0) + math.log1p(math.exp(-abs(x))),
            logistic,
            "log(1 + eˣ)",
            "σ(x)",
        ),
        act.SiLU: (
            lambda x: x * logistic(x),
            lambda x: logistic(x) * (1 + x * logistic(-x)),
            "x · σ(x)",
            "σ(x) · (1 + x · (1 − σ(x)))",
        ),
        act.GELU: (lambda x: x * gate(x), lambda x: gate(x) + x * slope(x), "x · Φ(x)", "Φ(x) + x · φ(x)"),
        act.Mish: (
            lambda x: x * mish_gate(x),
            lambda x: mish_gate(x) + x * logistic(x) * (1 - mish_gate(x) ** 2),
            "x · g(x) with g = tanh(log(1 + eˣ))",
            "g(x) + x · σ(x) · (1 − g(x)²)",
        ),
        piecewise.ReLU6: (
            lambda x: min(max(x, 0.0), 6.0),
            lambda x: float(0 < x < 6),
            "min(max(0, x), 6)",
            "1 where 0 < x < 6, else 0",
        ),
        piecewise.Hardsigmoid: (
            lambda x: min(max(x + 3, 0.0), 6.0) / 6,
            lambda x: (-3 < x < 3) / 6,
            "min(max(0, x + 3), 6) / 6",
            "1/6 where −3 < x < 3, else 0",
        ),
        piecewise.Hardswish: (
            lambda x: x * min(max(x + 3, 0.0), 6.0) / 6,
            lambda x: 0.0 if x <= -3 else 1.0 if x >= 3 else x / 3 + 0.5,
            "x · min(max(0, x + 3), 6) / 6",
            "x / 3 + 1/2 between −3 and 3; 0 on the left, 1 on the right",
        ),
    }
    return next(found for kind, found in curves.items() if isinstance(layer, kind))


def mish_gate(x: float) -> float:
    """tanh(log(1 + eˣ))."""
    return math.tanh(max(x, 0.0) + math.log1p(math.exp(-abs(x))))


def _gate(approximate: bool) -> tuple[Function, Function]:
    """Φ and its derivative φ, or GELU's formula for them with tanh."""
    if not approximate:
        return lambda x: 0.5 * math.erfc(-x / math.sqrt(2)), lambda x: math.exp(-x * x / 2) / math.sqrt(2 * math.pi)
    k = 2 * math.sqrt(2 / math.pi)

    def gate(x: float) -> float:
        return logistic(k * (x + 0.044715 * x**3))

    return gate, lambda x: gate(x) * (1 - gate(x)) * k * (1 + 3 * 0.044715 * x * x)


def of_activation(target: Target, use: Use) -> Account:
    name, x = type(use.layer).__name__, cell("x", use.x, *target.index)
    f, slope, formula, words = curve(use.layer)
    if target.name == "y":
        y = f(x.value)
        return Account(
            "E7",
            f"{name} forward",
            f"y = f(x) = {formula}, each number by itself",
            {},
            [Term((x,))],
            how="f of it",
            result=y,
            scale=abs(y) + abs(x.value * slope(x.value)),
        )
    at = slope(x.value)
    term = Term((cell("dy", use.dy, *target.index),), at, f"f'({x})")
    # Where the slope is nearly 0 it is a difference, so its rounding error is that of a slope of 1.
    return Account(
        "E14",
        f"{name} backward",
        f"dx = f'(x) · dy,  f' = {words}",
        {},
        [term],
        scale=abs(term.cells[0].value) * max(1.0, abs(at)) if not isinstance(use.layer, act.ReLU) else abs(term.value),
        notes=[f"{x} = {x.value:.6g}, where the slope is {at:.6g}."],
    )


def of_softmax(target: Target, use: Use) -> Account:
    axis = use.layer.axis % use.x.ndim
    line = [(*target.index[:axis], q, *target.index[axis + 1 :]) for q in range(use.x.shape[axis])]
    x = [cell("x", use.x, *index) for index in line]
    top = max(each.value for each in x)
    powers = [math.exp(each.value - top) for each in x]
    total = math.fsum(powers)
    y = [power / total for power in powers]
    if target.name == "y":
        return _softmax_forward(use, x, y, top, math.log(total), target.index[axis])
    return _softmax_backward(use, line, y, target.index[axis])


def _softmax_forward(use: Use, x: list[Cell], y: list[float], top: float, log: float, i: int) -> Account:
    """``y`` is the softmax of x, ``top`` the largest x, ``log`` the logarithm of Σ_q e^(x_q − top)."""
    if isinstance(use.layer, act.LogSoftmax):
        result, formula = x[i].value - top - log, "y_i = x_i − log Σ_q e^x_q"
    else:
        result, formula = y[i], "y_i = e^x_i / Σ_q e^x_q"
    title = f"{type(use.layer).__name__} forward"
    terms = [Term((each,), note="this one" if q == i else "") for q, each in enumerate(x)]
    size = 1 + abs(result)
    return Account("E7", title, formula, {"i": i}, terms, how="f of them", result=result, scale=size)


def _softmax_backward(use: Use, line: list[tuple[int, ...]], y: list[float], i: int) -> Account:
    """``line`` holds the places over which the softmax runs, ``y`` the softmax there."""
    if isinstance(use.layer, act.LogSoftmax):
        slopes, weight, formula = [(q == i) - y[i] for q in range(len(y))], 1.0, "([q = i] − e^y_i)"
    else:
        slopes, weight, formula = [y[i] * ((q == i) - y[q]) for q in range(len(y))], y[i], "y_i · ([q = i] − y_q)"
    terms = [
        Term((cell("dy", use.dy, *index),), slope, f"∂y[{q}]/∂x[{i}]")
        for q, (index, slope) in enumerate(zip(line, slopes))
    ]
    size = math.fsum(abs(t.cells[0].value) for t in terms) * weight
    title = f"{type(use.layer).__name__} backward"
    return Account("E14", title, f"dx_i = Σ_q dy_q · {formula}", {"i": i}, terms, scale=size)


# -- normalisation -----------------------------------------------------------------------------------------------------


def of_normalization(target: Target, use: Use) -> Account:
    name, x = type(use.layer).__name__, use.x.astype("float64")
    gamma, beta = _learned(use)
    if target.name in ("dgamma", "dbeta"):
        places = [index for index in numpy.ndindex(x.shape) if _owner(use, index) == target.index]
        if target.name == "dbeta":
            terms = [Term((cell("dy", use.dy, *index),)) for index in places]
            return Account("E12", f"{name} backward, to β", "dbeta = Σ dy over all places that share it", {}, terms)
        terms = [Term((cell("dy", use.dy, *index), _standard(use, x, index)[0])) for index in places]
        size = max((_standard(use, x, index)[2] for index in places[:1]), default=1.0)
        return Account(
            "E12",
            f"{name} backward, to γ",
            "dgamma = Σ dy · x̂ over all places that share it,  x̂ = (x − μ) / s",
            {},
            terms,
            scale=math.fsum(abs(term.value) for term in terms) + (size - 1) * _weight(terms),
        )
    here, s, shift = _standard(use, x, target.index)
    g = float(gamma[_owner(use, target.index)])
    notes = [f"In this set of values μ = {_mean(use, x, target.index):.6g} and s = {s:.6g}."]
    if target.name == "y":
        b = Cell("beta", _owner(use, target.index), float(beta[_owner(use, target.index)]))
        terms = [Term((b,)), Term((Cell("gamma", b.index, g), here))]
        formula = "y = β + γ · x̂,  x̂ = (x − μ) / s"
        size = abs(b.value) + abs(g) * (abs(here.value) + shift)
        return Account("E7", f"{name} forward", formula, {}, terms, scale=size, notes=notes)
    if isinstance(use.layer, norm.BatchNorm) and not use.train:
        term = Term((cell("dy", use.dy, *target.index),), g / s, "γ/s")
        return Account("E14", f"{name} backward, inference", "dx = γ / s · dy", {}, [term], notes=notes)
    members = _members(use, target.index)
    terms = []
    for index in members:
        other = _standard(use, x, index)[0].value
        slope = ((index == target.index) - (1 + here.value * other) / len(members)) / s
        term = Term((cell("dy", use.dy, *index),), float(gamma[_owner(use, index)]) * slope, "∂y/∂x")
        terms.append(term)
    reaching = math.fsum(abs(t.cells[0].value * float(gamma[_owner(use, t.cells[0].index)])) for t in terms)
    size = (1 + abs(here.value)) * shift * reaching / s  # the three parts may nearly cancel
    formula = "dx_i = Σ_q dy_q · γ/s · ([q = i] − 1/n − x̂_i · x̂_q / n), over the n values that share μ and s"
    return Account("E14", f"{name} backward, to the input", formula, {}, terms, scale=size, notes=notes)


def _learned(use: Use) -> tuple[numpy.ndarray, numpy.ndarray]:
    shape = tuple(use.x.shape[a] for a in _axes(use)) if isinstance(use.layer, norm.LayerNorm) else use.x.shape[-1:]
    return use.parameters.get("gamma", numpy.ones(shape)), use.parameters.get("beta", numpy.zeros(shape))


def _axes(use: Use) -> list[int]:
    axis = use.layer.axis
    return sorted(a % use.x.ndim for a in (axis if isinstance(axis, tuple) else (axis,)))


def _owner(use: Use, index: tuple[int, ...]) -> tuple[int, ...]:
    """The index of γ and β for this place."""
    if isinstance(use.layer, norm.LayerNorm):
        return tuple(index[a] for a in _axes(use))
    return index[-1:]


def _slices(use: Use, index: tuple[int, ...]) -> tuple[slice | int, ...]:
    """The set of values that a place belongs to, as slices of x."""
    layer, whole = use.layer, slice(None)
    if isinstance(layer, norm.BatchNorm):
        return (*(whole for _ in index[:-1]), index[-1])
    if isinstance(layer, norm.LayerNorm):
        return tuple(whole if a in _axes(use) else i for a, i in enumerate(index))
    width = use.x.shape[-1] // layer.groups
    first = index[-1] // width * width
    return (index[0], *(whole for _ in index[1:-1]), slice(first, first + width))


def _members(use: Use, index: tuple[int, ...]) -> list[tuple[int, ...]]:
    ranges = [
        range(*cut.indices(n)) if isinstance(cut, slice) else range(cut, cut + 1)
        for cut, n in zip(_slices(use, index), use.x.shape)
    ]
    return [tuple(r[i] for r, i in zip(ranges, place)) for place in numpy.ndindex(*(len(r) for r in ranges))]


def _mean(use: Use, x: numpy.ndarray, index: tuple[int, ...]) -> float:
    if isinstance(use.layer, norm.BatchNorm) and not use.train:
        return float(use.state["moving_mean"][index[-1]])
    return float(x[_slices(use, index)].mean())


def _standard(use: Use, x: numpy.ndarray, index: tuple[int, ...]) -> tuple[Cell, float, float]:
    """x̂ at a place, s of its set, and the factor by which |μ| / s enlarges the rounding of x̂."""
    mean = _mean(use, x, index)
    if isinstance(use.layer, norm.BatchNorm) and not use.train:
        variance = float(use.state["moving_variance"][index[-1]])
    else:
        variance = float(x[_slices(use, index)].var())
    s = math.sqrt(variance + use.layer.epsilon)
    return Cell("x̂", index, (float(x[index]) - mean) / s), s, 1 + abs(mean) / s


def set_of(use: Use) -> dict[str, numpy.ndarray]:
    """What the page shows of each place, in arrays of x's shape: x̂, s, γ, β; the means of g = dy · γ and of g · x̂
    over the place's set, which dx leaves out; and for the limits ``shift``, by which |μ| / s enlarges the rounding of
    x̂, and ``size``, that of the numbers that make up dx.
    """
    x, dy = use.x.astype("float64"), use.dy.astype("float64")
    gamma, beta = (_spread(use, array) for array in _learned(use))
    mu, variance = _over_sets(use, x), _over_sets(use, (x - _over_sets(use, x)) ** 2)
    fixed = isinstance(use.layer, norm.BatchNorm) and not use.train
    if fixed:
        mu, variance = (numpy.broadcast_to(use.state[f"moving_{name}"], x.shape) for name in ("mean", "variance"))
    s = numpy.sqrt(variance + use.layer.epsilon)
    xhat, g = (x - mu) / s, dy * gamma
    shift, count = 1 + abs(mu) / s, len(_members(use, (0,) * x.ndim))
    means = [numpy.zeros(x.shape)] * 2 if fixed else [_over_sets(use, g), _over_sets(use, g * xhat)]
    size = (1 + abs(xhat)) * shift * (abs(g) if fixed else count * _over_sets(use, abs(g))) / s
    names = ("xhat", "s", "gamma", "beta", "meanG", "meanGX", "shift", "size")
    return dict(zip(names, (xhat, s, gamma, beta, *means, shift, size)))


def _spread(use: Use, learned: numpy.ndarray) -> numpy.ndarray:
    """γ or β at every place."""
    if isinstance(use.layer, norm.LayerNorm):
        learned = learned.reshape([n if a in _axes(use) else 1 for a, n in enumerate(use.x.shape)])
    return numpy.broadcast_to(learned, use.x.shape).astype("float64")


def _over_sets(use: Use, array: numpy.ndarray) -> numpy.ndarray:
    """The mean over its set, at every place."""
    layer, shape = use.layer, array.shape
    if isinstance(layer, norm.GroupNorm):
        grouped = array.reshape(*shape[:-1], layer.groups, -1)
        axes = (*range(1, array.ndim - 1), array.ndim)
        return numpy.broadcast_to(grouped.mean(axis=axes, keepdims=True), grouped.shape).reshape(shape)
    axes = tuple(_axes(use)) if isinstance(layer, norm.LayerNorm) else tuple(range(array.ndim - 1))
    return numpy.broadcast_to(array.mean(axis=axes, keepdims=True), shape)


def _weight(terms: list[Term]) -> float:
    return math.fsum(abs(term.cells[0].value) for term in terms)


KINDS: list[tuple[type[Layer], Callable[[Target, Use], Account]]] = [
    (act.Softmax, of_softmax),
    *((kind, of_normalization) for kind in (norm.BatchNorm, norm.LayerNorm, norm.GroupNorm)),
    (act.Mish, of_activation),
    (piecewise.ReLU6, of_activation),
    (piecewise.Hardsigmoid, of_activation),
    (piecewise.Hardswish, of_activation),
    (act.ReLU, of_activation),
    (act.LeakyReLU, of_activation),
    (act.ELU, of_activation),
    (act.Sigmoid, of_activation),
    (act.Tanh, of_activation),
    (act.Softplus, of_activation),
    (act.SiLU, of_activation),
    (act.GELU, of_activation),
]
