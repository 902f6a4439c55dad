"""Plain loops for the losses (E10)."""

from __future__ import annotations

import math

import numpy as np

from .maps import in_float64
from .units import added, lines, log_softmax, sigma, softmax

Array = np.ndarray


def wanted_probabilities(y: Array, t: Array, label_smoothing: float) -> Array:
    """Class numbers or probabilities as probabilities, of which ``label_smoothing`` is spread over all classes."""
    K = y.shape[-1]
    q = np.zeros(y.shape)
    for at in np.ndindex(y.shape):
        wanted = float(t[at]) if t.ndim == y.ndim else float(int(t[at[:-1]]) == at[-1])
        q[at] = (1.0 - label_smoothing) * wanted + label_smoothing / K
    return q


@in_float64
def softmax_cross_entropy(y, t, *, label_smoothing=0.0) -> float:
    """E10: E = −Σ_k q_k · log softmax(y)_k, the mean over all rows."""
    q, log_p = wanted_probabilities(y, t, label_smoothing), log_softmax(y)
    terms = [q[at] * log_p[at] for at in np.ndindex(y.shape) if q[at]]  # 0 · log 0 = 0
    return -added(terms) / math.prod(y.shape[:-1])


@in_float64
def softmax_cross_entropy_backward(y, t, *, label_smoothing=0.0) -> Array:
    """E10: the delta is softmax(y) − onehot(t), over the number of rows; softmax(y)·Σq − q for any q."""
    q, p, dy = wanted_probabilities(y, t, label_smoothing), softmax(y), np.zeros(y.shape)
    for line in lines(y.shape, -1):
        total = added(q[at] for at in line)
        for at in line:
            dy[at] = (p[at] * total - q[at]) / math.prod(y.shape[:-1])
    return dy


@in_float64
def mean_squared_error(y, t) -> float:
    """E10: E = ½ Σ_p (t_p − y_p)², the mean over the batch (not over the elements)."""
    return added(0.5 * (t[at] - y[at]) ** 2 for at in np.ndindex(y.shape)) / y.shape[0]


@in_float64
def mean_squared_error_backward(y, t) -> Array:
    """E10: the delta is y − t, over the size of the batch."""
    dy = np.zeros(y.shape)
    for at in np.ndindex(y.shape):
        dy[at] = (y[at] - t[at]) / y.shape[0]
    return dy


@in_float64
def binary_cross_entropy(y, t, *, label_smoothing=0.0) -> float:
    """E = −q·log σ(y) − (1 − q)·log σ(−y) = log(1 + e^y) − q·y, the mean over all elements; y are logits."""
    total = 0.0
    for at in np.ndindex(y.shape):
        q = (1.0 - label_smoothing) * float(t[at]) + label_smoothing / 2.0
        v = float(y[at])
        total += (max(v, 0.0) - q * v) + math.log1p(math.exp(-abs(v)))
    return total / y.size


@in_float64
def binary_cross_entropy_backward(y, t, *, label_smoothing=0.0) -> Array:
    """The delta is σ(y) − q."""
    dy = np.zeros(y.shape)
    for at in np.ndindex(y.shape):
        q = (1.0 - label_smoothing) * float(t[at]) + label_smoothing / 2.0
        dy[at] = (sigma(float(y[at])) - q) / y.size
    return dy


@in_float64
def huber(y, t, *, delta=1.0) -> float:
    """E = ½ r² where |r| ≤ δ, else δ·(|r| − ½ δ), with r = y − t; the mean over all elements."""
    total = 0.0
    for at in np.ndindex(y.shape):
        r = abs(float(y[at] - t[at]))
        total += 0.5 * r * r if r <= delta else delta * (r - 0.5 * delta)
    return total / y.size


@in_float64
def huber_backward(y, t, *, delta=1.0) -> Array:
    """The delta is r, cut off at ±δ."""
    dy = np.zeros(y.shape)
    for at in np.ndindex(y.shape):
        dy[at] = min(max(float(y[at] - t[at]), -delta), delta) / y.size
    return dy
