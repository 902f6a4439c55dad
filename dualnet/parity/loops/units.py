"""Plain loops for activations, softmax, normalisation and dropout (E7, E14)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from .maps import in_float64

Array = np.ndarray


# -- activations, element by element (E7 forward, E14 backward) --------------------------------------------------------


def each(f: Callable[[float], float], x: Array) -> Array:
    """E7: y = f(x) for every element."""
    y = np.zeros(x.shape)
    for at in np.ndindex(x.shape):
        y[at] = f(float(x[at]))
    return y


def each_backward(slope: Callable[[float], float], dy: Array, x: Array) -> Array:
    """E14: dx = f'(x) · dy for every element."""
    dx = np.zeros(x.shape)
    for at in np.ndindex(x.shape):
        dx[at] = slope(float(x[at])) * dy[at]
    return dx


def added(values: Iterable[float]) -> float:
    """The exact sum, rounded once; infinities and NaN behave as usual."""
    values = list(values)
    return math.fsum(values) if all(map(math.isfinite, values)) else sum(values)


def times(a: float, b: float) -> float:
    """a·b, and 0 for 0·∞: the limit of each product below, where the 0 is an exponentially small factor."""
    return 0.0 if {0.0, math.inf} == {abs(a), abs(b)} else a * b


def sigma(v: float) -> float:
    """1 / (1 + e^−v), written so that the exponential never overflows."""
    return 1.0 / (1.0 + math.exp(-v)) if v >= 0 else math.exp(v) / (1.0 + math.exp(v))


@in_float64
def relu(x) -> Array:
    """f(x) = max(0, x)."""
    return each(lambda v: 0.0 if v <= 0 else v, x)


@in_float64
def relu_backward(dy, x) -> Array:
    """f'(x) = 1 where x > 0; elsewhere dx is 0, whatever dy is."""
    dx = np.zeros(x.shape)
    for at in np.ndindex(x.shape):
        if x[at] > 0:
            dx[at] = dy[at]
    return dx


@in_float64
def leaky_relu(x, alpha=0.01) -> Array:
    """f(x) = x where x > 0, else α·x."""
    return each(lambda v: v if v > 0 else times(alpha, v), x)


@in_float64
def leaky_relu_backward(dy, x, alpha=0.01) -> Array:
    """f'(x) = 1 where x > 0, else α."""
    return each_backward(lambda v: 1.0 if v > 0 else alpha, dy, x)


@in_float64
def elu(x, alpha=1.0) -> Array:
    """f(x) = x where x > 0, else α·(e^x − 1)."""
    return each(lambda v: v if v > 0 else alpha * math.expm1(v), x)


@in_float64
def elu_backward(dy, x, alpha=1.0) -> Array:
    """f'(x) = 1 where x > 0, else α·e^x."""
    return each_backward(lambda v: 1.0 if v > 0 else alpha * math.exp(v), dy, x)


def bell(v: float) -> float:
    """Φ(v), the share of a normal distribution that lies below v; erfc keeps the left tail's digits."""
    return 0.5 * math.erfc(-v / math.sqrt(2.0))


def inner(v: float) -> float:
    """The argument of the tanh that stands in for the error function."""
    return math.sqrt(2.0 / math.pi) * (v + 0.044715 * v * v * v)


@in_float64
def gelu(x, approximate=False) -> Array:
    """f(x) = x·Φ(x); approximately ½·x·(1 + tanh(√(2/π)·(x + 0.044715·x³)))."""
    if approximate:
        return each(lambda v: times(v, 0.5 * (1.0 + math.tanh(inner(v)))), x)
    return each(lambda v: times(v, bell(v)), x)


@in_float64
def gelu_backward(dy, x, approximate=False) -> Array:
    """f'(x) = Φ(x) + x·φ(x) with φ = Φ'; the approximate one by the chain rule through tanh."""

    def exact(v: float) -> float:
        return bell(v) + times(v, math.exp(-0.5 * v * v)) / math.sqrt(2.0 * math.pi)

    def approximately(v: float) -> float:
        th = math.tanh(inner(v))
        steep = math.sqrt(2.0 / math.pi) * (1.0 + 3 * 0.044715 * v * v)
        return 0.5 * (1.0 + th) + times(0.5 * v * steep, (1.0 - th) * (1.0 + th))

    return each_backward(approximately if approximate else exact, dy, x)


@in_float64
def silu(x) -> Array:
    """f(x) = x·σ(x)."""
    return each(lambda v: times(v, sigma(v)), x)


@in_float64
def silu_backward(dy, x) -> Array:
    """f'(x) = σ(x) + x·σ(x)·(1 − σ(x)); 1 − σ(x) = σ(−x) keeps its digits."""
    return each_backward(lambda v: sigma(v) + times(v, sigma(v) * sigma(-v)), dy, x)


@in_float64
def sigmoid(x) -> Array:
    """f(x) = σ(x) = 1 / (1 + e^−x)."""
    return each(sigma, x)


@in_float64
def sigmoid_backward(dy, x) -> Array:
    """f'(x) = σ(x)·(1 − σ(x)) = σ(x)·σ(−x)."""
    return each_backward(lambda v: sigma(v) * sigma(-v), dy, x)


@in_float64
def tanh(x) -> Array:
    """f(x) = tanh(x)."""
    return each(math.tanh, x)


@in_float64
def tanh_backward(dy, x) -> Array:
    """f'(x) = 1 − tanh²(x) = 4·σ(2x)·σ(−2x), which keeps its digits for large x."""
    return each_backward(lambda v: 4.0 * sigma(2.0 * v) * sigma(-2.0 * v), dy, x)


@in_float64
def softplus(x) -> Array:
    """f(x) = log(1 + e^x), written so that the exponential never overflows."""
    return each(lambda v: (v if v > 0 else 0.0) + math.log1p(math.exp(-abs(v))), x)


@in_float64
def softplus_backward(dy, x) -> Array:
    """f'(x) = σ(x)."""
    return each_backward(sigma, dy, x)


@in_float64
def mish(x) -> Array:
    """f(x) = x·tanh(log(1 + e^x))."""
    return each(lambda v: times(v, math.tanh(plus(v))), x)


@in_float64
def mish_backward(dy, x) -> Array:
    """f'(x) = t + x·σ(x)·(1 − t²) with t = tanh(log(1 + e^x)), and 1 − tanh² = 1 / cosh²."""

    def slope(v: float) -> float:
        steep = 1.0 / math.cosh(plus(v)) ** 2 if plus(v) < 300.0 else 0.0
        return math.tanh(plus(v)) + times(v, sigma(v) * steep)

    return each_backward(slope, dy, x)


def plus(v: float) -> float:
    """log(1 + e^v)."""
    return (v if v > 0 else 0.0) + math.log1p(math.exp(-abs(v)))


@in_float64
def relu6(x) -> Array:
    """f(x) = min(max(0, x), 6)."""
    return each(lambda v: 0.0 if v <= 0 else 6.0 if v > 6 else v, x)


@in_float64
def relu6_backward(dy, x) -> Array:
    """f'(x) = 1 where 0 < x < 6; elsewhere dx is 0, whatever dy is."""
    return where_inside(dy, x, 0.0, 6.0, 1.0)


def where_inside(dy: Array, x: Array, low: float, high: float, slope: float) -> Array:
    """dx = slope · dy where x is inside, else 0."""
    dx = np.zeros(x.shape)
    for at in np.ndindex(x.shape):
        if low < x[at] < high:
            dx[at] = slope * dy[at]
    return dx


def part_of_6(v: float) -> float:
    """min(max(0, v + 3), 6) / 6."""
    return 0.0 if v <= -3 else 1.0 if v >= 3 else (v + 3.0) / 6.0


@in_float64
def hardsigmoid(x) -> Array:
    """f(x) = min(max(0, x + 3), 6) / 6."""
    return each(part_of_6, x)


@in_float64
def hardsigmoid_backward(dy, x) -> Array:
    """f'(x) = 1/6 where −3 < x < 3; elsewhere dx is 0."""
    return where_inside(dy, x, -3.0, 3.0, 1.0 / 6.0)


@in_float64
def hardswish(x) -> Array:
    """f(x) = x · min(max(0, x + 3), 6) / 6."""
    return each(lambda v: times(v, part_of_6(v)), x)


@in_float64
def hardswish_backward(dy, x) -> Array:
    """f'(x) = 0 where x ≤ −3, 1 where x ≥ 3, else x/3 + 1/2."""
    return each_backward(lambda v: 0.0 if v <= -3 else 1.0 if v >= 3 else v / 3.0 + 0.5, dy, x)


@in_float64
def prelu(x, alpha) -> Array:
    """f(x) = x where x > 0, else α·x, with the α of the channel (or the only one)."""
    y = np.zeros(x.shape)
    for at in np.ndindex(x.shape):
        y[at] = x[at] if x[at] > 0 else times(float(alpha[at[-1] % alpha.size]), float(x[at]))
    return y


@in_float64
def prelu_backward(dy, x, alpha) -> tuple:
    """f'(x) = 1 where x > 0, else α; ∂f/∂α = x where x < 0, else 0."""
    dx, dalpha = np.zeros(x.shape), np.zeros(alpha.shape)
    for at in np.ndindex(x.shape):
        c = at[-1] % alpha.size
        dx[at] = dy[at] if x[at] > 0 else alpha[c] * dy[at]
        dalpha[c] += dy[at] * x[at] if x[at] < 0 else 0.0
    return dx, dalpha


# -- softmax: each element depends on its whole line -------------------------------------------------------------------


def lines(shape: tuple, axis: int) -> Iterator[list[tuple]]:
    """The indices of every line along ``axis``."""
    axis %= len(shape)
    for start in np.ndindex(*shape[:axis], 1, *shape[axis + 1 :]):
        yield [(*start[:axis], k, *start[axis + 1 :]) for k in range(shape[axis])]


@in_float64
def log_softmax(x, axis=-1) -> Array:
    """y_k = x_k − log Σ_j e^{x_j}, with the largest element factored out of the sum."""
    y = np.zeros(x.shape)
    for line in lines(x.shape, axis):
        top, total = top_and_sum(x, line)
        for at in line:
            y[at] = below(x[at], top) - math.log(total)
    return y


def below(v: float, top: float) -> float:
    """v − top; 0 for the largest element itself, also where it is infinite."""
    return 0.0 if v == top else float(v) - top


def top_and_sum(x: Array, line: list[tuple]) -> tuple[float, float]:
    """The largest element x* of a line (NaN if there is one) and Σ_j e^{x_j − x*}, which is at least 1."""
    top = max((float(x[at]) for at in line), key=lambda v: (math.isnan(v), v))
    return top, added(math.exp(below(x[at], top)) for at in line)


@in_float64
def softmax(x, axis=-1) -> Array:
    """y_k = e^{x_k} / Σ_j e^{x_j}, both with the largest element factored out."""
    y = np.zeros(x.shape)
    for line in lines(x.shape, axis):
        top, total = top_and_sum(x, line)
        for at in line:
            y[at] = math.exp(below(x[at], top)) / total
    return y


@in_float64
def softmax_backward(dy, x, axis=-1) -> Array:
    """E14 for a function of a line: dx_k = y_k·(dy_k − Σ_j dy_j·y_j)."""
    y, dx = softmax(x, axis), np.zeros(x.shape)
    for line in lines(x.shape, axis):
        common = sum(dy[at] * y[at] for at in line)
        for at in line:
            dx[at] = y[at] * (dy[at] - common)
    return dx


@in_float64
def log_softmax_backward(dy, x, axis=-1) -> Array:
    """E14 for a function of a line: dx_k = dy_k − softmax(x)_k · Σ_j dy_j."""
    y, dx = softmax(x, axis), np.zeros(x.shape)
    for line in lines(x.shape, axis):
        total = sum(dy[at] for at in line)
        for at in line:
            dx[at] = dy[at] - y[at] * total
    return dx


# -- normalisation: the three differ in who shares a mean --------------------------------------------------------------
# Batch norm: Ioffe and Szegedy (2015); layer norm: Ba, Kiros and Hinton (2016); group norm: Wu and He (2018).

Crowds = dict[tuple, list[tuple]]  # the indices of the elements that share a mean and a variance
Place = Callable[[tuple], tuple]  # where the gamma and beta of an element are


def crowds(shape: tuple, key: Place) -> Crowds:
    """The elements that have the same key, by key."""
    result: Crowds = {}
    for at in np.ndindex(shape):
        result.setdefault(key(at), []).append(at)
    return result


def standardised(x: Array, crowd: list[tuple], epsilon: float) -> tuple[float, float]:
    """Mean μ = Σx / M and s = √(Σ(x − μ)² / M + ε) of a crowd of M."""
    mean = added(x[at] for at in crowd) / len(crowd)
    variance = added((x[at] - mean) ** 2 for at in crowd) / len(crowd)
    return mean, np.sqrt(variance + epsilon)


def normalise(x: Array, gamma: Array, beta: Array, together: Crowds, place: Place, epsilon: float) -> Array:
    """y = γ·(x − μ)/s + β."""
    y = np.zeros(x.shape)
    for crowd in together.values():
        mean, s = standardised(x, crowd, epsilon)
        for at in crowd:
            y[at] = gamma[place(at)] * (x[at] - mean) / s + beta[place(at)]
    return y


def normalise_backward(dy: Array, x: Array, gamma: Array, together: Crowds, place: Place, epsilon: float) -> tuple:
    """The chain rule as Ioffe and Szegedy write it: through the variance, through the mean, and directly."""
    dx, dgamma, dbeta = np.zeros(x.shape), np.zeros(gamma.shape), np.zeros(gamma.shape)
    for crowd in together.values():
        mean, s = standardised(x, crowd, epsilon)
        M = len(crowd)
        for at in crowd:
            dgamma[place(at)] += dy[at] * (x[at] - mean) / s
            dbeta[place(at)] += dy[at]
        d_hat = {at: dy[at] * gamma[place(at)] for at in crowd}
        d_variance = added(d_hat[at] * (x[at] - mean) for at in crowd) * -0.5 * s**-3
        d_mean = added(-d_hat[at] / s for at in crowd)  # the variance does not change with the mean: Σ(x − μ) = 0
        for at in crowd:
            dx[at] = d_hat[at] / s + d_variance * 2.0 * (x[at] - mean) / M + d_mean / M
    return dx, dgamma, dbeta


def channel(at: tuple) -> tuple:
    """The place of an element's channel."""
    return at[-1:]


@in_float64
def batch_norm(x, gamma, beta, *, epsilon=1e-5) -> Array:
    """A channel's elements in the whole batch share a mean and a variance (divided by M, not M − 1)."""
    return normalise(x, gamma, beta, crowds(x.shape, channel), channel, epsilon)


@in_float64
def batch_norm_backward(dy, x, gamma, beta, *, epsilon=1e-5) -> tuple:
    """As batch_norm: a channel's elements share a mean."""
    return normalise_backward(dy, x, gamma, crowds(x.shape, channel), channel, epsilon)


@in_float64
def batch_norm_inference(x, gamma, beta, mean, variance, *, epsilon=1e-5) -> Array:
    """y = γ·(x − μ)/√(σ² + ε) + β with given μ and σ²."""
    y = np.zeros(x.shape)
    for at in np.ndindex(x.shape):
        c = at[-1]
        y[at] = gamma[c] * (x[at] - mean[c]) / np.sqrt(variance[c] + epsilon) + beta[c]
    return y


@in_float64
def batch_norm_inference_backward(dy, x, gamma, beta, mean, variance, *, epsilon=1e-5) -> tuple:
    """With μ and σ² given, each y depends on its own x alone."""
    dx, dgamma, dbeta = np.zeros(x.shape), np.zeros(gamma.shape), np.zeros(gamma.shape)
    dmean, dvariance = np.zeros(gamma.shape), np.zeros(gamma.shape)
    for at in np.ndindex(x.shape):
        c = at[-1]
        s = np.sqrt(variance[c] + epsilon)
        dx[at] = dy[at] * gamma[c] / s
        dgamma[c] += dy[at] * (x[at] - mean[c]) / s
        dbeta[c] += dy[at]
        dmean[c] -= dy[at] * gamma[c] / s
        dvariance[c] -= dy[at] * gamma[c] * (x[at] - mean[c]) / (2.0 * s**3)
    return dx, dgamma, dbeta, dmean, dvariance


def layer_groups(shape: tuple, axis: Any) -> tuple[Crowds, Place]:
    """The elements that differ only along ``axis`` share a mean; each place along it has its own gamma."""
    inside = sorted(a % len(shape) for a in (axis if isinstance(axis, (tuple, list)) else (axis,)))

    def outside(at: tuple) -> tuple:
        return tuple(k for a, k in enumerate(at) if a not in inside)

    return crowds(shape, outside), lambda at: tuple(at[a] for a in inside)


@in_float64
def layer_norm(x, gamma, beta, *, axis=-1, epsilon=1e-5) -> Array:
    """Gamma and beta have the shape of x along ``axis`` (one axis or several, in the order of x)."""
    return normalise(x, gamma, beta, *layer_groups(x.shape, axis), epsilon)


@in_float64
def layer_norm_backward(dy, x, gamma, beta, *, axis=-1, epsilon=1e-5) -> tuple:
    """As layer_norm: the elements along ``axis`` share a mean."""
    return normalise_backward(dy, x, gamma, *layer_groups(x.shape, axis), epsilon)


@in_float64
def rms_norm(x, gamma, *, axis=-1, epsilon=1e-5) -> Array:
    """y = γ·x / √(Σx²/M + ε) over the M elements along ``axis`` (Zhang and Sennrich 2019)."""
    y, (together, place) = np.zeros(x.shape), layer_groups(x.shape, axis)
    for crowd in together.values():
        s = np.sqrt(added(x[at] ** 2 for at in crowd) / len(crowd) + epsilon)
        for at in crowd:
            y[at] = gamma[place(at)] * x[at] / s
    return y


@in_float64
def rms_norm_backward(dy, x, gamma, *, axis=-1, epsilon=1e-5) -> tuple:
    """Directly, and through s: ∂E/∂s = −Σ dy·γ·x / s², and ∂s/∂x = x / (M·s)."""
    dx, dgamma, (together, place) = np.zeros(x.shape), np.zeros(gamma.shape), layer_groups(x.shape, axis)
    for crowd in together.values():
        s = np.sqrt(added(x[at] ** 2 for at in crowd) / len(crowd) + epsilon)
        ds = added(-dy[at] * gamma[place(at)] * x[at] / s**2 for at in crowd)
        for at in crowd:
            dx[at] = dy[at] * gamma[place(at)] / s + ds * x[at] / (len(crowd) * s)
            dgamma[place(at)] += dy[at] * x[at] / s
    return dx, dgamma


def channel_groups(shape: tuple, groups: int) -> Crowds:
    """The elements of one image in one of ``groups`` runs of neighbouring channels."""
    return crowds(shape, lambda at: (at[0], at[-1] // (shape[-1] // groups)))


@in_float64
def group_norm(x, gamma, beta, *, groups, epsilon=1e-5) -> Array:
    """The elements of one image in a run of neighbouring channels share a mean and a variance."""
    return normalise(x, gamma, beta, channel_groups(x.shape, groups), channel, epsilon)


@in_float64
def group_norm_backward(dy, x, gamma, beta, *, groups, epsilon=1e-5) -> tuple:
    """As group_norm: a run of neighbouring channels shares a mean."""
    return normalise_backward(dy, x, gamma, channel_groups(x.shape, groups), channel, epsilon)


# -- dropout -----------------------------------------------------------------------------------------------------------

WORD = 2**32


def philox4x32(counter: tuple, key: tuple) -> tuple:
    """Philox4x32-10: four random 32-bit words for a counter of four words and a key of two (Salmon et al. 2011)."""
    a, b, c, d = counter
    k0, k1 = key
    for _ in range(10):
        first, second = 0xD2511F53 * a, 0xCD9E8D57 * c
        a, b, c, d = second // WORD ^ b ^ k0, second % WORD, first // WORD ^ d ^ k1, first % WORD
        k0, k1 = (k0 + 0x9E3779B9) % WORD, (k1 + 0xBB67AE85) % WORD
    return a, b, c, d


def dropout_factors(shape: tuple, rate: float, key: Any, shared_axes: tuple) -> Array:
    """0 for a dropped element, 1/(1 − rate) for a kept one; all elements along ``shared_axes`` share one factor.

    Element i in row-major order gets word i % 4 of counter (i // 4, step), and is kept where word ≥ ⌈rate · 2³²⌉.
    """
    seed, step = key if isinstance(key, (tuple, list)) else (key, 0)
    shared = [axis % len(shape) for axis in shared_axes]
    factors = np.zeros([1 if axis in shared else n for axis, n in enumerate(shape)])
    for i, at in enumerate(np.ndindex(factors.shape)):
        block = i // 4
        counter = (block % WORD, block // WORD, step % WORD, step // WORD)
        word = philox4x32(counter, (seed % WORD, seed // WORD))[i % 4]
        factors[at] = 1.0 / (1.0 - rate) if word >= math.ceil(rate * WORD) else 0.0
    return factors


@in_float64
def dropout(x, rate, *, key, shared_axes=()) -> Array:
    """y = x / (1 − rate) where kept, 0 where dropped; the mean stays (Srivastava et al. 2014, scaled in training)."""
    return multiplied(x, dropout_factors(x.shape, rate, key, shared_axes))


@in_float64
def dropout_backward(dy, x, rate, *, key, shared_axes=()) -> Array:
    """Each delta gets the factor that its element got."""
    return multiplied(dy, dropout_factors(x.shape, rate, key, shared_axes))


def multiplied(x: Array, factors: Array) -> Array:
    """x times its factor; a dropped infinity or NaN is 0 too."""
    y = np.zeros(x.shape)
    for at in np.ndindex(x.shape):
        factor = factors[tuple(min(k, n - 1) for k, n in zip(at, factors.shape, strict=True))]
        y[at] = x[at] * factor if factor else 0.0
    return y
