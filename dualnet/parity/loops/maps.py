"""Plain loops for all ops that read maps, for flatten and for dense (E4, E6, E8, E9, E19 and their gradients)."""

from __future__ import annotations

import functools
import itertools
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
            self.positions += 1  # one more: it reaches beyond the end but starts on the map (or its front padding)

    def pads(self, padding: Any) -> tuple[int, int]:
        """Zeros before the map and after it."""
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
        """The window that meets unit h with its tap m; None if stride or border leave none."""
        i = h + self.p - m * self.r
        return i // self.s if i % self.s == 0 and 0 <= i // self.s < self.positions else None

    def padded_taps(self, i: int) -> int:
        """The taps of window i on the map or its padding, but not beyond (where ceil_mode may reach)."""
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
        first = d // (D // groups) * channels  # filter d reads the channels of its own group only
        for m, k, c in np.ndindex(k1, k2, channels):
            h, v = rows.unit(i, m), cols.unit(j, k)
            if h is not None and v is not None:
                y[n, i, j, d] += w[(*tap(m, k, w, mode), c, d)] * x[n, h, v, first + c]
        if b is not None:
            y[n, i, j, d] += b[d]
    return y


def tap(m: int, k: int, w: Array, mode: str) -> tuple[int, int]:
    """E3: a true convolution uses the filter turned by 180°."""
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
    """E15: the whole delta goes to the winning unit."""
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
    """E15: 1/M of the delta goes to every unit of the window."""
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
    """E15: x / y of the delta goes to each unit; 0 where y = 0."""
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
    """The index of the one unit of map n, c."""
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
    """E15: the whole delta goes to the winning unit."""
    N, H, W, C = x.shape
    dx = np.zeros(x.shape)
    for n, c in np.ndindex(N, C):
        dx[winner(x, [(n, h, v, c) for h, v in np.ndindex(H, W)])] += dy[one(n, c, keepdims)]  # E15
    return dx


def span(i: int, n: int, count: int) -> range:
    """The units that window i of ``count`` windows along n units covers: those that it touches if both fill the same
    length."""
    return range(n)[math.floor(i * n / count) : math.ceil((i + 1) * n / count)]


@in_float64
def adaptive_avg_pool2d(x, output_size) -> Array:
    """E8: y[n,i,j,c] is the mean of the units that window i, j of H' × W' touches."""
    (N, H, W, C), (P, Q) = x.shape, both(output_size)
    y = np.zeros((N, P, Q, C))
    for n, i, j, c in np.ndindex(y.shape):
        units = [(h, v) for h in span(i, H, P) for v in span(j, W, Q)]
        for h, v in units:
            y[n, i, j, c] += x[n, h, v, c] / len(units)
    return y


@in_float64
def adaptive_avg_pool2d_backward(dy, x, output_size) -> Array:
    """E15: every unit of a window gets dy / M."""
    (_, H, W, _), (P, Q), dx = x.shape, both(output_size), np.zeros(x.shape)
    for n, i, j, c in np.ndindex(dy.shape):
        units = [(h, v) for h in span(i, H, P) for v in span(j, W, Q)]
        for h, v in units:
            dx[n, h, v, c] += dy[n, i, j, c] / len(units)
    return dx


# -- maps of another size (E19) ----------------------------------------------------------------------------------------


def sources(i: int, n: int, s: int, interpolation: str) -> list[tuple[int, float]]:
    """The rows, out of n, that row i of n·s reads, and the share of each."""
    if interpolation == "nearest":
        return [(i // s, 1.0)]
    u = min(max((i + 0.5) / s - 0.5, 0.0), n - 1.0)  # from the middle of its pixel, and not beyond the edge
    low = math.floor(u)
    return [(row, share) for row, share in ((low, 1.0 - (u - low)), (low + 1, u - low)) if share > 0.0]


@in_float64
def upsample2d(x, size, *, interpolation="nearest") -> Array:
    """E19: y[n,i,j,c] = Σ over the rows and columns that i and j read."""
    (N, H, W, C), (s, t) = x.shape, both(size)
    y = np.zeros((N, H * s, W * t, C))
    for n, i, j, c in np.ndindex(y.shape):
        for (h, a), (v, b) in itertools.product(sources(i, H, s, interpolation), sources(j, W, t, interpolation)):
            y[n, i, j, c] += a * b * x[n, h, v, c]
    return y


@in_float64
def upsample2d_backward(dy, x, size, *, interpolation="nearest") -> Array:
    """E19: every unit gets, from each place that reads it, that place's delta times the unit's share."""
    (_, H, W, _), (s, t), dx = x.shape, both(size), np.zeros(x.shape)
    for n, i, j, c in np.ndindex(dy.shape):
        for (h, a), (v, b) in itertools.product(sources(i, H, s, interpolation), sources(j, W, t, interpolation)):
            dx[n, h, v, c] += a * b * dy[n, i, j, c]
    return dx


def four_sides(value: Any) -> tuple:
    """``number | (height, width) | ((top, bottom), (left, right))`` as top, bottom, left, right."""
    height, width = both(value)
    return (*both(height), *both(width))


@in_float64
def zero_pad2d(x, padding) -> Array:
    """E19: y[n,i,j,c] = x[n,i − top,j − left,c] where that is on the map, else 0."""
    (N, H, W, C), (top, bottom, left, right) = x.shape, four_sides(padding)
    y = np.zeros((N, top + H + bottom, left + W + right, C))
    for n, h, v, c in np.ndindex(x.shape):
        y[n, h + top, v + left, c] = x[n, h, v, c]
    return y


@in_float64
def zero_pad2d_backward(dy, x, padding) -> Array:
    """E19: the part that lies on the map."""
    (top, _, left, _), dx = four_sides(padding), np.zeros(x.shape)
    for n, h, v, c in np.ndindex(x.shape):
        dx[n, h, v, c] = dy[n, h + top, v + left, c]
    return dx


@in_float64
def crop2d(x, cropping) -> Array:
    """E19: y[n,i,j,c] = x[n,i + top,j + left,c]."""
    (N, H, W, C), (top, bottom, left, right) = x.shape, four_sides(cropping)
    y = np.zeros((N, H - top - bottom, W - left - right, C))
    for n, i, j, c in np.ndindex(y.shape):
        y[n, i, j, c] = x[n, i + top, j + left, c]
    return y


@in_float64
def crop2d_backward(dy, x, cropping) -> Array:
    """E19: 0 for what was cut off."""
    (top, _, left, _), dx = four_sides(cropping), np.zeros(x.shape)
    for n, i, j, c in np.ndindex(dy.shape):
        dx[n, i + top, j + left, c] = dy[n, i, j, c]
    return dx


def in_the_mirror(i: int, n: int) -> int:
    """The row at place i, which may lie before the first row or after the last."""
    return -i if i < 0 else 2 * (n - 1) - i if i >= n else i


@in_float64
def reflect_pad2d(x, padding) -> Array:
    """E19: y[n,i,j,c] is the unit that a mirror on the outermost row and column shows there."""
    (N, H, W, C), (top, bottom, left, right) = x.shape, four_sides(padding)
    y = np.zeros((N, top + H + bottom, left + W + right, C))
    for n, i, j, c in np.ndindex(y.shape):
        y[n, i, j, c] = x[n, in_the_mirror(i - top, H), in_the_mirror(j - left, W), c]
    return y


@in_float64
def reflect_pad2d_backward(dy, x, padding) -> Array:
    """E19: each unit gets the deltas of all places that show it."""
    (_, H, W, _), (top, _, left, _), dx = x.shape, four_sides(padding), np.zeros(x.shape)
    for n, i, j, c in np.ndindex(dy.shape):
        dx[n, in_the_mirror(i - top, H), in_the_mirror(j - left, W), c] += dy[n, i, j, c]
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
def reshape(x, shape) -> Array:
    """E9: the units of each example, one after another, in another shape."""
    rows, shape = flatten(x), list(shape) if isinstance(shape, (tuple, list)) else [shape]
    known = math.prod(extent for extent in shape if extent != -1)
    y = np.zeros((x.shape[0], *(rows.shape[1] // known if extent == -1 else extent for extent in shape)))
    for n in range(x.shape[0]):
        for unit, at in enumerate(np.ndindex(y.shape[1:])):
            y[(n, *at)] = rows[n, unit]
    return y


@in_float64
def reshape_backward(dy, x, shape) -> Array:
    """E9 backward: every unit gets its own delta."""
    return flatten_backward(flatten(dy), x)


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
