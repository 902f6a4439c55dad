"""Plain loops for convolution, pooling, flatten and dense (E4, E6, E8, E9 and their gradients)."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

Array = np.ndarray


def in_float64(function: Callable[..., Any]) -> Callable[..., Any]:
    """Floating arrays go in as float64; infinities and NaN pass through without warnings."""

    @functools.wraps(function)
    def call(*args: Any, **options: Any) -> Any:
        with np.errstate(all="ignore"):
            return function(*map(wide, args), **{name: wide(value) for name, value in options.items()})

    return call


def wide(value: Any) -> Any:
    """A floating array in float64; anything else as it is."""
    floating = isinstance(value, np.ndarray) and (value.dtype.kind == "f" or value.dtype.name == "bfloat16")
    return value.astype(np.float64) if floating else value


# -- where windows stand (E6) ------------------------------------------------------------------------------------------


def both(value: Any) -> tuple:
    """``int | (height, width)`` as a pair."""
    return tuple(value) if isinstance(value, (tuple, list)) else (value, value)


class Axis:
    """The windows along one axis of a map of n units: window i meets unit i·s + m·r − p with its tap m."""

    def __init__(self, n: int, k: int, s: int, r: int, padding: Any, ceil_mode: bool = False) -> None:
        self.n, self.k, self.s, self.r = n, k, s, r
        self.extent = r * (k - 1) + 1
        self.p, self.after = self.pads(padding)
        self.positions = 0
        while self.positions * s + self.extent <= n + self.p + self.after:  # as long as the window fits
            self.positions += 1
        reached = (self.positions - 1) * s + self.extent
        if ceil_mode and reached < n + self.p + self.after and self.positions * s < n + self.p:
            self.positions += 1  # one more, which hangs over but starts on the map (or its front padding)

    def pads(self, padding: Any) -> tuple[int, int]:
        """Zeros in front of the map and behind it."""
        if padding == "valid":
            return 0, 0
        if padding == "full":
            return self.extent - 1, self.extent - 1
        if padding == "same":  # ⌈n / s⌉ positions; the odd one at the end
            total = max(0, (math.ceil(self.n / self.s) - 1) * self.s + self.extent - self.n)
            return total // 2, total - total // 2
        return padding

    def unit(self, i: int, m: int) -> int | None:
        """The unit that window i meets with its tap m; None outside the map."""
        h = i * self.s + m * self.r - self.p
        return h if 0 <= h < self.n else None

    def window(self, h: int, m: int) -> int | None:
        """The window that meets unit h with its tap m; None where stride or border leave none."""
        i = h + self.p - m * self.r
        return i // self.s if i % self.s == 0 and 0 <= i // self.s < self.positions else None

    def padded_taps(self, i: int) -> int:
        """The taps of window i on the map or its padding, but not beyond (where ceil_mode hangs over)."""
        return sum(i * self.s + m * self.r < self.p + self.n + self.after for m in range(self.k))


def axes(size: tuple, window: tuple, stride: Any, padding: Any, dilation: Any, ceil_mode: bool = False) -> tuple:
    """Both axes of a map of this size."""
    sides = (padding, padding) if isinstance(padding, str) else [both(side) for side in both(padding)]
    return tuple(
        Axis(*each, ceil_mode=ceil_mode) for each in zip(size, window, both(stride), both(dilation), sides, strict=True)
    )


# -- convolution -------------------------------------------------------------------------------------------------------


@in_float64
def conv2d(x, w, b=None, *, stride=1, padding=0, dilation=1, groups=1, mode="correlation", need_dx=True) -> Array:
    """E4, E6: y[n,i,j,d] = b[d] + Σ_m Σ_k Σ_c w[m,k,c,d] · x[n, i·s + m·r − p, j·s + k·r − p, c]."""
    (N, H, W, _), (k1, k2, channels, D) = x.shape, w.shape
    rows, cols = axes((H, W), (k1, k2), stride, padding, dilation)
    y = np.zeros((N, rows.positions, cols.positions, D))
    for n, i, j, d in np.ndindex(y.shape):
        first = d // (D // groups) * channels  # filter d reads only the channels of its own group
        for m, k, c in np.ndindex(k1, k2, channels):
            h, v = rows.unit(i, m), cols.unit(j, k)
            if h is not None and v is not None:
                y[n, i, j, d] += w[(*tap(m, k, w, mode), c, d)] * x[n, h, v, first + c]
        if b is not None:
            y[n, i, j, d] += b[d]
    return y


def tap(m: int, k: int, w: Array, mode: str) -> tuple[int, int]:
    """E3: a true convolution meets the filter turned by 180°."""
    return (m, k) if mode == "correlation" else (w.shape[0] - 1 - m, w.shape[1] - 1 - k)


@in_float64
def conv2d_backward(
    dy, x, w, b=None, *, stride=1, padding=0, dilation=1, groups=1, mode="correlation", need_dx=True
) -> tuple:
    """E11, E12 and E13."""
    (N, H, W, _), (k1, k2, channels, D) = x.shape, w.shape
    rows, cols = axes((H, W), (k1, k2), stride, padding, dilation)
    dw, db, dx = np.zeros(w.shape), np.zeros(D), np.zeros(x.shape)

    # E11: dw[m,k,c,d] = Σ_n Σ_i Σ_j dy[n,i,j,d] · x[n, i·s + m·r − p, j·s + k·r − p, c]
    for m, k, c, d in np.ndindex(w.shape):
        first = d // (D // groups) * channels
        for n, i, j in np.ndindex(N, rows.positions, cols.positions):
            h, v = rows.unit(i, m), cols.unit(j, k)
            if h is not None and v is not None:
                dw[(*tap(m, k, w, mode), c, d)] += dy[n, i, j, d] * x[n, h, v, first + c]

    # E12: db[d] = Σ_n Σ_i Σ_j dy[n,i,j,d]
    for n, i, j, d in np.ndindex(dy.shape):
        db[d] += dy[n, i, j, d]

    # E13: dx[n,h,v,c] = Σ_m Σ_k Σ_d dy[n, (h + p − m·r)/s, (v + p − k·r)/s, d] · w[m,k,c,d],
    # over the taps for which the divisions by s are exact: with s = 1 and r = 1 this is the full convolution
    for n, h, v, c in np.ndindex(x.shape):
        group = c // channels
        for m, k, d in np.ndindex(k1, k2, D // groups):
            i, j, f = rows.window(h, m), cols.window(v, k), group * (D // groups) + d
            if i is not None and j is not None:
                dx[n, h, v, c] += dy[n, i, j, f] * w[(*tap(m, k, w, mode), c - group * channels, f)]
    return dx if need_dx else None, dw, db if b is not None else None


def transposed_axes(grid: tuple, window: tuple, stride: Any, padding: Any, output_padding: Any, dilation: Any) -> tuple:
    """The axes of the map that a convolution with this output grid starts from."""
    sides = (padding, padding) if isinstance(padding, str) else [both(side) for side in both(padding)]
    result = []
    for P, k, s, r, side, more in zip(
        grid, window, both(stride), both(dilation), sides, both(output_padding), strict=True
    ):
        extent = r * (k - 1) + 1
        before, after = (0, 0) if side == "valid" else (extent - 1, extent - 1) if side == "full" else side[:2]
        n = P * s if side == "same" else (P - 1) * s + extent - before - after + more
        axis = Axis(n, k, s, r, side)
        axis.positions = P
        result.append(axis)
    return tuple(result)


@in_float64
def conv_transpose2d(x, w, b=None, *, stride=1, padding=0, output_padding=0, dilation=1, groups=1) -> Array:
    """E13 as a forward pass, where each unit paints its filter onto the output:

    y[n, i·s + m·r − p, j·s + k·r − p, c] += w[m,k,c,d] · x[n,i,j,d]
    """
    (N, P, Q, D), (k1, k2, channels, _) = x.shape, w.shape
    rows, cols = transposed_axes((P, Q), (k1, k2), stride, padding, output_padding, dilation)
    y = np.zeros((N, rows.n, cols.n, channels * groups))
    for n, i, j, d in np.ndindex(x.shape):
        first = d // (D // groups) * channels
        for m, k, c in np.ndindex(k1, k2, channels):
            h, v = rows.unit(i, m), cols.unit(j, k)
            if h is not None and v is not None:
                y[n, h, v, first + c] += w[m, k, c, d] * x[n, i, j, d]
    for index in np.ndindex(y.shape if b is not None else (0,)):
        y[index] += b[index[3]]
    return y


@in_float64
def conv_transpose2d_backward(
    dy, x, w, b=None, *, stride=1, padding=0, output_padding=0, dilation=1, groups=1
) -> tuple:
    """E4 for dx, since this op is the adjoint of a convolution; E11 for dw; E12 for db."""
    (_, P, Q, D), (k1, k2, channels, _) = x.shape, w.shape
    rows, cols = transposed_axes((P, Q), (k1, k2), stride, padding, output_padding, dilation)
    dx, dw, db = np.zeros(x.shape), np.zeros(w.shape), np.zeros(channels * groups)
    for n, i, j, d in np.ndindex(x.shape):
        first = d // (D // groups) * channels
        for m, k, c in np.ndindex(k1, k2, channels):
            h, v = rows.unit(i, m), cols.unit(j, k)
            if h is not None and v is not None:
                dx[n, i, j, d] += w[m, k, c, d] * dy[n, h, v, first + c]  # E4: the adjoint of the adjoint
                dw[m, k, c, d] += x[n, i, j, d] * dy[n, h, v, first + c]  # E11: map and delta exchanged
    for n, h, v, c in np.ndindex(dy.shape):
        db[c] += dy[n, h, v, c]  # E12
    return dx, dw, db if b is not None else None


# -- pooling (E8, E15) -------------------------------------------------------------------------------------------------


def pooled(x, pool_size, stride, padding, dilation, ceil_mode) -> tuple[Array, Iterator]:
    """An empty output, and for each of its elements the units of x in its window, in row-major order."""
    (N, H, W, C), size = x.shape, both(pool_size)
    rows, cols = axes((H, W), size, size if stride is None else stride, padding, dilation, ceil_mode)
    y = np.zeros((N, rows.positions, cols.positions, C))

    def windows() -> Iterator:
        for n, i, j, c in np.ndindex(y.shape):
            met = [(rows.unit(i, m), cols.unit(j, k)) for m, k in np.ndindex(size)]
            units = [(n, h, v, c) for h, v in met if h is not None and v is not None]
            yield (n, i, j, c), units, rows.padded_taps(i) * cols.padded_taps(j)

    return y, windows()


def winner(x: Array, units: list) -> tuple | None:
    """The first unit, in row-major order, that none of the others exceeds; a NaN wins over every number."""
    best = None
    for unit in units:
        if best is None or x[unit] > x[best] or (np.isnan(x[unit]) and not np.isnan(x[best])):
            best = unit
    return best


@in_float64
def max_pool2d(x, pool_size, *, stride=None, padding=0, dilation=1, ceil_mode=False) -> Array:
    """E8: y = max(window). Padding never wins."""
    y, windows = pooled(x, pool_size, stride, padding, dilation, ceil_mode)
    for at, units, _ in windows:
        y[at] = x[winner(x, units)] if units else -np.inf
    return y


@in_float64
def max_pool2d_backward(dy, x, pool_size, *, stride=None, padding=0, dilation=1, ceil_mode=False) -> Array:
    """E15: the whole error goes to the winning unit."""
    dx = np.zeros(x.shape)
    for at, units, _ in pooled(x, pool_size, stride, padding, dilation, ceil_mode)[1]:
        if units:
            dx[winner(x, units)] += dy[at]
    return dx


@in_float64
def avg_pool2d(x, pool_size, *, stride=None, padding=0, dilation=1, ceil_mode=False, count_include_pad=False) -> Array:
    """E8: y = Σ window / M. M counts the units on the map; with count_include_pad those of the padding too."""
    y, windows = pooled(x, pool_size, stride, padding, dilation, ceil_mode)
    for at, units, padded in windows:
        M = padded if count_include_pad else len(units)
        for unit in units:
            y[at] += x[unit] / M
    return y


@in_float64
def avg_pool2d_backward(
    dy, x, pool_size, *, stride=None, padding=0, dilation=1, ceil_mode=False, count_include_pad=False
) -> Array:
    """E15: 1/M of the error goes to every unit of the window."""
    dx = np.zeros(x.shape)
    for at, units, padded in pooled(x, pool_size, stride, padding, dilation, ceil_mode)[1]:
        M = padded if count_include_pad else len(units)
        for unit in units:
            dx[unit] += dy[at] / M
    return dx


@in_float64
def l2_pool2d(x, pool_size, *, stride=None, padding=0, dilation=1, ceil_mode=False) -> Array:
    """E8: y = √(Σ window²)."""
    y, windows = pooled(x, pool_size, stride, padding, dilation, ceil_mode)
    for at, units, _ in windows:
        y[at] = np.sqrt(sum(x[unit] ** 2 for unit in units))
    return y


@in_float64
def l2_pool2d_backward(dy, x, pool_size, *, stride=None, padding=0, dilation=1, ceil_mode=False) -> Array:
    """E15: x / y of the error goes to each unit; none where y = 0."""
    dx = np.zeros(x.shape)
    for at, units, _ in pooled(x, pool_size, stride, padding, dilation, ceil_mode)[1]:
        y = np.sqrt(sum(x[unit] ** 2 for unit in units))
        for unit in units:
            dx[unit] += x[unit] / y * dy[at] if y != 0 else 0.0
    return dx


@in_float64
def global_avg_pool2d(x, *, keepdims=False) -> Array:
    """E8 with one window: y[n,c] = Σ_h Σ_v x[n,h,v,c] / (H·W)."""
    N, H, W, C = x.shape
    y = np.zeros((N, 1, 1, C) if keepdims else (N, C))
    for n, h, v, c in np.ndindex(x.shape):
        y[one(n, c, keepdims)] += x[n, h, v, c] / (H * W)
    return y


def one(n: int, c: int, keepdims: bool) -> tuple:
    """Where the one unit of map n, c stands."""
    return (n, 0, 0, c) if keepdims else (n, c)


@in_float64
def global_avg_pool2d_backward(dy, x, *, keepdims=False) -> Array:
    """E15: every unit gets dy / (H·W)."""
    _, H, W, _ = x.shape
    dx = np.zeros(x.shape)
    for n, h, v, c in np.ndindex(x.shape):
        dx[n, h, v, c] = dy[one(n, c, keepdims)] / (H * W)  # E15
    return dx


@in_float64
def global_max_pool2d(x, *, keepdims=False) -> Array:
    """E8 with one window: y[n,c] = max over h, v of x[n,h,v,c]."""
    N, H, W, C = x.shape
    y = np.zeros((N, 1, 1, C) if keepdims else (N, C))
    for n, c in np.ndindex(N, C):
        y[one(n, c, keepdims)] = x[winner(x, [(n, h, v, c) for h, v in np.ndindex(H, W)])]
    return y


@in_float64
def global_max_pool2d_backward(dy, x, *, keepdims=False) -> Array:
    """E15: the whole error goes to the winning unit."""
    N, H, W, C = x.shape
    dx = np.zeros(x.shape)
    for n, c in np.ndindex(N, C):
        dx[winner(x, [(n, h, v, c) for h, v in np.ndindex(H, W)])] += dy[one(n, c, keepdims)]  # E15
    return dx


# -- flatten and dense (E9, E16) ---------------------------------------------------------------------------------------


@in_float64
def flatten(x) -> Array:
    """E9: the units of each image in row-major order."""
    y = np.zeros((x.shape[0], math.prod(x.shape[1:])))
    for n in range(x.shape[0]):
        for i, unit in enumerate(np.ndindex(x.shape[1:])):
            y[n, i] = x[(n, *unit)]
    return y


@in_float64
def flatten_backward(dy, x) -> Array:
    """Each unit gets its delta back, in its own place."""
    dx = np.zeros(x.shape)
    for n in range(x.shape[0]):
        for i, unit in enumerate(np.ndindex(x.shape[1:])):
            dx[(n, *unit)] = dy[n, i]
    return dx


@in_float64
def dense(x, w, b=None) -> Array:
    """E9: y[n,q] = b[q] + Σ_p x[n,p] · w[p,q]."""
    y = np.zeros((*x.shape[:-1], w.shape[1]))
    for at in np.ndindex(y.shape):
        n, q = at[:-1], at[-1]
        for p in range(w.shape[0]):
            y[at] += x[(*n, p)] * w[p, q]
        if b is not None:
            y[at] += b[q]
    return y


@in_float64
def dense_backward(dy, x, w, b=None) -> tuple:
    """E16: dw = xᵀ dy, db = Σ dy, dx = dy wᵀ."""
    dx, dw, db = np.zeros(x.shape), np.zeros(w.shape), np.zeros(w.shape[1])
    for at in np.ndindex(dy.shape):
        n, q = at[:-1], at[-1]
        for p in range(w.shape[0]):
            dw[p, q] += x[(*n, p)] * dy[at]
            dx[(*n, p)] += dy[at] * w[p, q]
        db[q] += dy[at]
    return dx, dw, db if b is not None else None
