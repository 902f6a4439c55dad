"""The layers in inference form, in plain NumPy: to_numpy copies from here, word for word, what a network needs.

Each is written to be read alone. x is a batch, maps are (N, H, W, C), and ``pads`` is ((top, bottom), (left, right)).
"""

from __future__ import annotations

import math

import numpy as np

Pair = tuple[int, int]
Pads = tuple[Pair, Pair]


def windows(x: np.ndarray, taps: Pair, stride: Pair, dilation: Pair, pads: Pads, fill: float = 0.0) -> np.ndarray:
    """E6: every window on the maps, (N, H, W, C) -> (N, H', W', C, k1, k2), without a copy but for the padding."""
    x = np.pad(x, ((0, 0), *pads, (0, 0)), constant_values=fill)
    extents = [r * (k - 1) + 1 for k, r in zip(taps, dilation)]
    views = np.lib.stride_tricks.sliding_window_view(x, extents, axis=(1, 2))
    return views[:, :: stride[0], :: stride[1], :, :: dilation[0], :: dilation[1]]


def conv2d(
    x: np.ndarray, w: np.ndarray, b: np.ndarray | None, stride: Pair, dilation: Pair, pads: Pads, groups: int
) -> np.ndarray:
    """E6: y = b + Σ w · window, as a product of matrices, for each group of channels. w is (k1, k2, C/groups, D)."""
    (k1, k2, C, D), views = w.shape, windows(x, w.shape[:2], stride, dilation, pads)
    N, P, Q = views.shape[:3]
    y, part = np.empty((N, P, Q, D), x.dtype), D // groups
    for g in range(groups):
        columns = views[:, :, :, g * C : (g + 1) * C].transpose(0, 1, 2, 4, 5, 3).reshape(N * P * Q, k1 * k2 * C)
        bank = w[..., g * part : (g + 1) * part].reshape(k1 * k2 * C, part)
        y[..., g * part : (g + 1) * part] = (columns @ bank).reshape(N, P, Q, part)
    return y if b is None else y + b


def conv2d_transpose(
    x: np.ndarray,
    w: np.ndarray,
    b: np.ndarray | None,
    size: Pair,
    stride: Pair,
    dilation: Pair,
    pads: Pads,
    groups: int,
) -> np.ndarray:
    """E13: every unit adds its filter to the map of ``size``. x (N, P, Q, D), w (k1, k2, C/groups, D)."""
    (N, P, Q, D), (k1, k2, C, _), ((top, bottom), (left, right)) = x.shape, w.shape, pads
    y, part = np.zeros((N, top + size[0] + bottom, left + size[1] + right, C * groups), x.dtype), D // groups
    for m in range(k1):
        for n in range(k2):
            rows = slice(m * dilation[0], m * dilation[0] + (P - 1) * stride[0] + 1, stride[0])
            cols = slice(n * dilation[1], n * dilation[1] + (Q - 1) * stride[1] + 1, stride[1])
            for g in range(groups):
                units, bank = x[..., g * part : (g + 1) * part], w[m, n, :, g * part : (g + 1) * part]
                y[:, rows, cols, g * C : (g + 1) * C] += units @ bank.T
    y = y[:, top : top + size[0], left : left + size[1]]
    return y if b is None else y + b


def max_pool(x: np.ndarray, taps: Pair, stride: Pair, dilation: Pair, pads: Pads) -> np.ndarray:
    """E8: the largest unit of every window; padding never wins."""
    return windows(x, taps, stride, dilation, pads, -np.inf).max(axis=(4, 5))


def average_pool(
    x: np.ndarray, taps: Pair, stride: Pair, dilation: Pair, pads: Pads, counted: Pads, overhang: Pair
) -> np.ndarray:
    """E8: the mean of every window, over its units on the map and on as much padding as is ``counted``."""
    (top, bottom), (left, right) = pads
    beyond = ((top, bottom + overhang[0]), (left, right + overhang[1]))
    ones = np.pad(np.ones((1, *x.shape[1:3], 1), x.dtype), ((0, 0), *counted, (0, 0)), constant_values=1)
    rest = tuple((a - c, b - d) for (a, b), (c, d) in zip(beyond, counted))
    sums = windows(x, taps, stride, dilation, beyond).sum(axis=(4, 5))
    return sums / windows(ones, taps, stride, dilation, rest).sum(axis=(4, 5))  # type: ignore[arg-type]


def l2_pool(x: np.ndarray, taps: Pair, stride: Pair, dilation: Pair, pads: Pads) -> np.ndarray:
    """E8: the length of every window, measured in its largest unit, so that no square overflows."""
    views = windows(np.abs(x), taps, stride, dilation, pads)
    unit = views.max(axis=(4, 5), keepdims=True)
    unit = np.where((unit == 0) | np.isinf(unit), x.dtype.type(1), unit)
    return unit[..., 0, 0] * np.sqrt(((views / unit) ** 2).sum(axis=(4, 5)))


def global_average_pool(x: np.ndarray, keepdims: bool) -> np.ndarray:
    """E8: the mean of every channel, row by row."""
    return x.mean(axis=2, keepdims=keepdims).mean(axis=1, keepdims=keepdims)


def global_max_pool(x: np.ndarray, keepdims: bool) -> np.ndarray:
    """E8: the largest unit of every channel."""
    return x.max(axis=(1, 2), keepdims=keepdims)


def dense(x: np.ndarray, w: np.ndarray, b: np.ndarray | None) -> np.ndarray:
    """E9: y = x w + b."""
    return x @ w if b is None else x @ w + b


def relu(x: np.ndarray) -> np.ndarray:
    """E7: max(0, x)."""
    return np.maximum(x, 0)


def leaky_relu(x: np.ndarray, alpha: float) -> np.ndarray:
    """E7: x above zero, alpha x below."""
    return np.maximum(x, 0) + alpha * np.minimum(x, 0) if alpha > 0 else np.maximum(x, 0)


def elu(x: np.ndarray, alpha: float) -> np.ndarray:
    """E7: x above zero, alpha (eˣ − 1) below."""
    return np.maximum(x, 0) + alpha * np.expm1(np.minimum(x, 0))


def sigmoid(x: np.ndarray) -> np.ndarray:
    """E7: 1 / (1 + e⁻ˣ), with powers that do not overflow."""
    return np.exp(np.minimum(x, 0)) / (1 + np.exp(-np.abs(x)))


def tanh(x: np.ndarray) -> np.ndarray:
    """E7: tanh x."""
    return np.tanh(x)


def softplus(x: np.ndarray) -> np.ndarray:
    """E7: log(1 + eˣ) = max(0, x) + log(1 + e^−|x|)."""
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


def silu(x: np.ndarray) -> np.ndarray:
    """E7: x σ(x); σ is 0 at −800."""
    return np.maximum(x, -800) * sigmoid(x)


def gelu(x: np.ndarray) -> np.ndarray:
    """E7: x Φ(x) with the normal distribution Φ, which is 0 at −40. NumPy has no erfc; Python's takes one number."""
    erfc = np.vectorize(math.erfc, otypes=[np.float64])
    return np.maximum(x, -40) * (0.5 * erfc(-math.sqrt(0.5) * x.astype(np.float64))).astype(x.dtype)


def gelu_tanh(x: np.ndarray) -> np.ndarray:
    """E7: x σ(2v) with v = √(2/π) (x + 0.044715 x³), close to x Φ(x)."""
    near = np.clip(x, -40, 40)
    return np.maximum(x, -40) * sigmoid(2 * math.sqrt(2 / math.pi) * (near + 0.044715 * near * near * near))


def below_top(x: np.ndarray, axis: int) -> np.ndarray:
    """x minus the largest along an axis: 0 where x is the largest, even if that is infinite."""
    top = x.max(axis=axis, keepdims=True)
    return np.where(x == top, 0, x) - np.where(x == top, 0, top)


def softmax(x: np.ndarray, axis: int) -> np.ndarray:
    """E7: eˣⁱ / Σⱼ eˣʲ along an axis."""
    e = np.exp(below_top(x, axis))
    return e / e.sum(axis=axis, keepdims=True)


def log_softmax(x: np.ndarray, axis: int) -> np.ndarray:
    """E7: xᵢ − log Σⱼ eˣʲ along an axis."""
    below = below_top(x, axis)
    return below - np.log(np.exp(below).sum(axis=axis, keepdims=True))


def batch_norm(
    x: np.ndarray, gamma: np.ndarray | None, beta: np.ndarray | None, mean: np.ndarray, inverse: np.ndarray
) -> np.ndarray:
    """γ (x − μ) / s + β by the running statistics; ``inverse`` is 1/s."""
    y = (x - mean) * (inverse if gamma is None else gamma * inverse)
    return y if beta is None else y + beta


def normalise(
    x: np.ndarray,
    gamma: np.ndarray | None,
    beta: np.ndarray | None,
    sets: tuple[int, ...],
    own: tuple[int, ...],
    epsilon: float,
) -> np.ndarray:
    """Layer and group norm, γ (x − μ) / s + β: an example is laid out as ``sets``, five axes, of which each set runs
    along the second and the fourth. γ and β are laid out as ``own``."""
    blocks = x.reshape(len(x), *sets)
    centred = blocks - blocks.mean(axis=(2, 4), keepdims=True)
    y = centred / np.sqrt((centred * centred).mean(axis=(2, 4), keepdims=True) + x.dtype.type(epsilon))
    y = y if gamma is None else y * gamma.reshape(own)
    return (y if beta is None else y + beta.reshape(own)).reshape(x.shape)


def concat(*branches: np.ndarray) -> np.ndarray:
    """Branches side by side along the channels."""
    return np.concatenate(branches, axis=-1)


def padded_shortcut(x: np.ndarray, stride: int, filters: int) -> np.ndarray:
    """Every stride-th row and column, and channels of zeros up to ``filters``."""
    return np.pad(x[:, ::stride, ::stride], ((0, 0), (0, 0), (0, 0), (0, filters - x.shape[3])))
