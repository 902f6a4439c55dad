"""Plain loops for the losses (E10)."""

from __future__ import annotations

import math

import numpy as np

from .maps import in_float64
from .units import added, lines, log_softmax, sigma, softmax

Array = np.ndarray


def wanted_probabilities(y: Array, t: Array, label_smoothing: float) -> Array:
    """Class numbers or probabilities as probabilities; the part ``label_smoothing`` is spread over all classes."""
    K = y.shape[-1]
    q = np.zeros(y.shape)
    for at in np.ndindex(y.shape):
        wanted = float(t[at]) if t.ndim == y.ndim else float(int(t[at[:-1]]) == at[-1])
        q[at] = (1.0 - label_smoothing) * wanted + label_smoothing / K
    return q


def parts(y: Array, weights: Array | None, axes: int) -> Array:
    """The share of each place of y in a mean over the first ``axes``: w / Σ w, or without weights 1 / their number."""
    w, share = np.ones(y.shape[:axes]), np.zeros(y.shape)
    if weights is not None:
        for at in np.ndindex(w.shape):
            w[at] = float(weights[at[: weights.ndim]])
    total = added(float(v) for v in w.flat)
    for at in np.ndindex(y.shape):
        share[at] = w[at[:axes]] / total if total else 0.0
    return share


@in_float64
def softmax_cross_entropy(y, t, weights=None, *, label_smoothing=0.0) -> float:
    """E10: E = −Σ_k q_k · log softmax(y)_k, the mean over all rows."""
    q, log_p, share = wanted_probabilities(y, t, label_smoothing), log_softmax(y), parts(y, weights, y.ndim - 1)
    terms = [share[at] * q[at] * log_p[at] for at in np.ndindex(y.shape) if q[at] and share[at]]  # 0 · log 0 = 0
    return -added(terms)


@in_float64
def softmax_cross_entropy_backward(y, t, weights=None, *, label_smoothing=0.0) -> Array:
    """E10: the delta is softmax(y) − onehot(t), over the number of rows; softmax(y)·Σq − q for any q."""
    q, p, dy = wanted_probabilities(y, t, label_smoothing), softmax(y), np.zeros(y.shape)
    share = parts(y, weights, y.ndim - 1)
    for line in lines(y.shape, -1):
        total = added(q[at] for at in line)
        for at in line:
            dy[at] = (p[at] * total - q[at]) * share[at]
    return dy


@in_float64
def mean_squared_error(y, t, weights=None) -> float:
    """E10: E = ½ Σ_p (t_p − y_p)², the mean over the batch (not over the elements)."""
    share = parts(y, weights, 1)
    return added(share[at] * 0.5 * (t[at] - y[at]) ** 2 for at in np.ndindex(y.shape))


@in_float64
def mean_squared_error_backward(y, t, weights=None) -> Array:
    """E10: the delta is y − t, over the size of the batch."""
    dy, share = np.zeros(y.shape), parts(y, weights, 1)
    for at in np.ndindex(y.shape):
        dy[at] = (y[at] - t[at]) * share[at]
    return dy


@in_float64
def binary_cross_entropy(y, t, weights=None, *, label_smoothing=0.0) -> float:
    """E = −q·log σ(y) − (1 − q)·log σ(−y) = log(1 + e^y) − q·y, the mean over all elements; y are logits."""
    total, share = 0.0, parts(y, weights, y.ndim)
    for at in np.ndindex(y.shape):
        q = (1.0 - label_smoothing) * float(t[at]) + label_smoothing / 2.0
        v = float(y[at])
        total += float(share[at]) * ((max(v, 0.0) - q * v) + math.log1p(math.exp(-abs(v))))
    return total


@in_float64
def binary_cross_entropy_backward(y, t, weights=None, *, label_smoothing=0.0) -> Array:
    """The delta is σ(y) − q."""
    dy, share = np.zeros(y.shape), parts(y, weights, y.ndim)
    for at in np.ndindex(y.shape):
        q = (1.0 - label_smoothing) * float(t[at]) + label_smoothing / 2.0
        dy[at] = (sigma(float(y[at])) - q) * share[at]
    return dy


@in_float64
def huber(y, t, weights=None, *, delta=1.0) -> float:
    """E = ½ r² where |r| ≤ δ, else δ·(|r| − ½ δ), with r = y − t; the mean over all elements."""
    total, share = 0.0, parts(y, weights, y.ndim)
    for at in np.ndindex(y.shape):
        r = abs(float(y[at] - t[at]))
        total += float(share[at]) * (0.5 * r * r if r <= delta else delta * (r - 0.5 * delta))
    return total


@in_float64
def huber_backward(y, t, weights=None, *, delta=1.0) -> Array:
    """The delta is r, cut off at ±δ."""
    dy, share = np.zeros(y.shape), parts(y, weights, y.ndim)
    for at in np.ndindex(y.shape):
        dy[at] = min(max(float(y[at] - t[at]), -delta), delta) * share[at]
    return dy


@in_float64
def softmax_focal(y, t, weights=None, *, gamma=2.0) -> float:
    """E = −Σ_k q_k·(1 − p_k)^γ·log p_k with p = softmax(y), the mean over all rows."""
    q, log_p, share = wanted_probabilities(y, t, 0.0), log_softmax(y), parts(y, weights, y.ndim - 1)
    hard = [(at, (-math.expm1(log_p[at])) ** gamma) for at in np.ndindex(y.shape) if q[at] and share[at]]
    return -added(share[at] * q[at] * (factor * log_p[at] if factor else 0.0) for at, factor in hard)


@in_float64
def softmax_focal_backward(y, t, weights=None, *, gamma=2.0) -> Array:
    """dE/dp_k = q_k·[γ (1 − p_k)^(γ−1) log p_k − (1 − p_k)^γ / p_k], and dp_k/dy_j = p_k·([k = j] − p_j)."""
    q, log_p, share = wanted_probabilities(y, t, 0.0), log_softmax(y), parts(y, weights, y.ndim - 1)
    dy = np.zeros(y.shape)
    for line in lines(y.shape, -1):
        for k in line:
            p, rest = math.exp(log_p[k]), -math.expm1(log_p[k])
            if not q[k] or not share[k]:
                continue
            easy = gamma * rest ** (gamma - 1) * p * log_p[k] if gamma and rest and p else 0.0
            steep = q[k] * (easy - rest**gamma)  # dE/dp_k · p_k
            for j in line:
                dy[j] += share[k] * steep * (float(k == j) - math.exp(log_p[j]))
    return dy


def minus_log_sigma(v: float) -> float:
    """−log σ(v)."""
    return max(-v, 0.0) + math.log1p(math.exp(-abs(v)))


@in_float64
def binary_focal(y, t, weights=None, *, gamma=2.0) -> float:
    """E = −t·(1 − p)^γ·log p − (1 − t)·p^γ·log(1 − p) with p = σ(y), the mean over all elements."""
    share = parts(y, weights, y.ndim)

    def term(v: float, answer: float) -> float:
        yes, no = answer * sigma(-v) ** gamma, (1.0 - answer) * sigma(v) ** gamma
        return (yes * minus_log_sigma(v) if yes else 0.0) + (no * minus_log_sigma(-v) if no else 0.0)

    return added(float(share[at]) * term(float(y[at]), float(t[at])) for at in np.ndindex(y.shape))


@in_float64
def binary_focal_backward(y, t, weights=None, *, gamma=2.0) -> Array:
    """By the product rule, with dσ/dy = σ·(1 − σ)."""
    dy, share = np.zeros(y.shape), parts(y, weights, y.ndim)
    for at in np.ndindex(y.shape):
        v, answer = float(y[at]), float(t[at])
        p, rest = sigma(v), sigma(-v)
        yes = rest**gamma * (rest + gamma * (p * minus_log_sigma(v) if p else 0.0))
        no = p**gamma * (p + gamma * (rest * minus_log_sigma(-v) if rest else 0.0))
        dy[at] = share[at] * ((1.0 - answer) * no - answer * yes)
    return dy


@in_float64
def hinge(y, t, weights=None) -> float:
    """E = max(0, 1 − s·y) with s = 2t − 1, the mean over all elements."""
    share = parts(y, weights, y.ndim)
    return added(
        float(share[at]) * max(0.0, 1.0 - (2.0 * float(t[at]) - 1.0) * float(y[at])) for at in np.ndindex(y.shape)
    )


@in_float64
def hinge_backward(y, t, weights=None) -> Array:
    """The delta is −s where the margin is missed."""
    dy, share = np.zeros(y.shape), parts(y, weights, y.ndim)
    for at in np.ndindex(y.shape):
        s = 2.0 * float(t[at]) - 1.0
        dy[at] = -s * share[at] if s * float(y[at]) < 1.0 else 0.0
    return dy


@in_float64
def kl_divergence(y, t, weights=None) -> float:
    """E = Σ_k q_k·(log q_k − log softmax(y)_k), the mean over all rows."""
    log_p, share = log_softmax(y), parts(y, weights, y.ndim - 1)
    return added(share[at] * t[at] * (math.log(t[at]) - log_p[at]) for at in np.ndindex(y.shape) if t[at] and share[at])


@in_float64
def kl_divergence_backward(y, t, weights=None) -> Array:
    """The delta is softmax(y)·Σq − q."""
    return softmax_cross_entropy_backward(y, t, weights)


def region(y: Array, t: Array, n: int, c: int) -> list[tuple]:
    """The places of example n and channel c."""
    return [(n, *at, c) for at in np.ndindex(y.shape[1:-1])]


@in_float64
def dice(y, t, weights=None, *, smooth=1.0) -> float:
    """E = 1 − (2 Σ p·t + ε) / (Σ p + Σ t + ε) with p = σ(y), the mean over all examples and channels."""
    share, total = parts(y[:, 0], weights, 1), 0.0
    for n, c in np.ndindex(y.shape[0], y.shape[-1]):
        places = region(y, t, n, c)
        both = added(2.0 * sigma(float(y[at])) * float(t[at]) for at in places) + smooth
        whole = added(sigma(float(y[at])) + float(t[at]) for at in places) + smooth
        total += float(share[(n, *(0,) * (share.ndim - 1))]) * (1.0 - both / whole) / y.shape[-1]
    return total


@in_float64
def dice_backward(y, t, weights=None, *, smooth=1.0) -> Array:
    """The quotient rule, and dσ/dy = σ·(1 − σ)."""
    share, dy = parts(y[:, 0], weights, 1), np.zeros(y.shape)
    for n, c in np.ndindex(y.shape[0], y.shape[-1]):
        places = region(y, t, n, c)
        both = added(2.0 * sigma(float(y[at])) * float(t[at]) for at in places) + smooth
        whole = added(sigma(float(y[at])) + float(t[at]) for at in places) + smooth
        for at in places:
            slope = (both - 2.0 * float(t[at]) * whole) / whole**2
            v = float(y[at])
            dy[at] = share[(n, *(0,) * (share.ndim - 1))] / y.shape[-1] * slope * sigma(v) * sigma(-v)
    return dy


def unit(x: Array, line: list[tuple]) -> tuple[list[float], float]:
    """The unit vector of a line, zeros if it has none, and its length."""
    length = math.hypot(*(float(x[at]) for at in line))
    return [float(x[at]) / length if length else 0.0 for at in line], length


@in_float64
def cosine_distance(y, t, weights=None) -> float:
    """E = 1 − y·t / (|y|·|t|), the mean over all rows; 1 for a row of zeros."""
    share = parts(y, weights, y.ndim - 1)
    cosines = [
        (line[0], added(a * b for a, b in zip(unit(y, line)[0], unit(t, line)[0]))) for line in lines(y.shape, -1)
    ]
    return added(share[at] * (1.0 - cosine) for at, cosine in cosines)


@in_float64
def cosine_distance_backward(y, t, weights=None) -> Array:
    """(cos·ŷ − t̂) / |y|."""
    dy, share = np.zeros(y.shape), parts(y, weights, y.ndim - 1)
    for line in lines(y.shape, -1):
        (a, length), (b, _) = unit(y, line), unit(t, line)
        cosine = added(v * w for v, w in zip(a, b))
        for at, v, w in zip(line, a, b):
            dy[at] = share[at] * (cosine * v - w) / length if length else 0.0
    return dy
