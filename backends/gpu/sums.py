"""CUDA kernels that add up: sums over channels, batch norm, the loss.

Sums are taken in two stages (see kernels/channels.cu), always in the same order: the same bits in every run. All of
these can be captured in a CUDA graph; CuPy converts labels that are not int64.
"""

from __future__ import annotations

from typing import Any

from dualnet.geometry import elements
from dualnet.shim import Array, backend_of

from .launch import contiguous, empty_like, launch, packing, served
from .registry import WIDE, divided_by, layout

BLOCKS = 528
"""Blocks that add up a map together: four for each of the 132 processors of an H100, with several packs in flight for
every thread. More blocks would leave more work to the second stage."""
PASS_BLOCKS = 2 * BLOCKS
"""Blocks of a pass over a map: more, since there is no second stage; not many more, since each thread first computes
the numbers of its channels."""
SHORT = 1024
"""Up to this many rows, one block for 32 channels adds up everything: that costs less than a second launch."""


# -- sums over channels (E12) and batch norm ---------------------------------------------------------------------------


class Shared:
    """How blocks share maps of one shape, and in packs of which size they read them. See kernels/channels.cu."""

    def __init__(self, blocks: int, *maps: Array) -> None:
        self.C, self.types = maps[0].shape[-1], {"real": maps[0].dtype.name, "pack": packing(maps[0].shape[-1], *maps)}
        self.xp, pack = backend_of(maps[0]).xp, self.types["pack"]
        self.layout = layout(maps[0].size // pack, self.C // pack, blocks)
        self.chunks = int(self.layout["chunks"])

    def over(self, name: str, *arguments: Any) -> None:
        """Launch a kernel that walks over the maps."""
        grid = -(-int(self.layout["width"]) // 32), self.chunks
        launch(self.xp, name, grid, *arguments, self.layout, **self.types)

    def end(self, name: str, *arguments: Any) -> None:
        """Launch a kernel that adds up the partial sums of the blocks."""
        launch(self.xp, name, (-(-self.C // 32),), *arguments, **self.types)

    def sums(self, *shape: int) -> Array:
        """(..., C), uninitialised, in the dtype of sums."""
        return self.xp.empty((*shape, self.C), dtype=WIDE[self.types["real"]])


def channel_sum(x: Array) -> Any:
    """E12, and other sums over channels: (N, ..., C) -> (C,)."""
    if not served(x):
        return NotImplemented
    return _channel_sum(backend_of(x).xp.ascontiguousarray(x), x.dtype)


def _channel_sum(x: Array, dtype: Any, scale: float = 1.0) -> Array:
    shared, rows = Shared(BLOCKS, x), x.size // x.shape[-1]
    out = shared.xp.empty((shared.C,), dtype=dtype)
    if rows <= SHORT:
        shared.end("channel_sum_short", out, x, rows, shared.C, scale)
        return out
    partial = shared.sums(shared.chunks)
    shared.over("channel_sum_part", partial, x)
    shared.end("channel_sum_end", out, partial, shared.chunks, shared.C, scale)
    return out


def channel_moments(x: Array) -> Any:
    """The mean and the biased variance of every channel."""
    if not served(x):
        return NotImplemented
    x = backend_of(x).xp.ascontiguousarray(x)
    shared = Shared(BLOCKS, x)
    partial, mean, variance = shared.sums(2, shared.chunks), shared.sums(), shared.sums()
    shared.over("channel_moments_part", partial, x)
    shared.end("channel_moments_end", mean, variance, partial, shared.layout)
    return mean, variance


def follow(
    moving_mean: Array, moving_variance: Array, mean: Array, variance: Array, keep: float, n: int, into: bool = False
) -> Any:
    """The running statistics after a batch: new arrays, or ``into`` the old ones."""
    moving = moving_mean, moving_variance
    real = moving_mean.dtype.name
    if not served(*moving) or WIDE[real] != real or into and not all(a.flags.c_contiguous for a in moving):
        return NotImplemented
    xp, C = backend_of(moving_mean).xp, moving_mean.size
    new = moving if into else tuple(map(empty_like, moving))
    old = moving if into else contiguous(*moving)
    numbers = keep, 1 - keep, n / (n - 1), C
    launch(xp, "follow", C, *new, *old, *_wide(xp, real, mean, variance), *numbers, real=real)
    return new


def normalise(
    x: Array, mean: Array, variance: Array, gamma: Array, beta: Array, epsilon: float, relu: bool = False
) -> Any:
    """y = γ (x − μ) / s + β, and E7 with ``relu``."""
    if not served(x):
        return NotImplemented
    xp, real = backend_of(x).xp, x.dtype.name
    x, (mean, variance, gamma, beta) = xp.ascontiguousarray(x), _wide(xp, real, mean, variance, gamma, beta)
    y = xp.empty(x.shape, dtype=x.dtype)
    Shared(PASS_BLOCKS, x).over("normalise", y, x, mean, variance, gamma, beta, epsilon, relu)
    return y


def normalise_backward(
    dy: Array, x: Array, mean: Array, variance: Array, gamma: Array, epsilon: float, y: Array | None = None
) -> Any:
    """The way back of batch norm: dx, dγ, dβ. If y is given, a ReLU with that output followed (E14)."""
    if not served(dy, x, *(() if y is None else (y,))):
        return NotImplemented
    xp, real = backend_of(dy).xp, x.dtype.name
    dy, x, y = contiguous(dy, x, y)
    mean, variance, gamma = _wide(xp, real, mean, variance, gamma)
    maps = (dy, x) if y is None else (dy, x, y)
    shared, dx = Shared(BLOCKS, *maps), xp.empty(x.shape, dtype=x.dtype)
    partial, totals = shared.sums(2, shared.chunks), shared.sums(2)
    shared.over("normalise_backward_part", partial, dy, x, y, mean)
    shared.end("normalise_backward_end", totals, partial, variance, epsilon, shared.layout)
    inputs = (dx, dy, x, y, totals, mean, variance, gamma, epsilon)
    Shared(PASS_BLOCKS, *maps).over("normalise_backward_dx", *inputs)
    return dx, totals[1], totals[0]


def _wide(xp: Any, real: str, *vectors: Array) -> list[Array]:
    return [xp.ascontiguousarray(v.astype(WIDE[real], copy=False)) for v in vectors]


# -- the loss (E10) ----------------------------------------------------------------------------------------------------


def cross_entropy(y: Array, t: Array, smoothing: float) -> Any:
    """The mean of −Σ q log softmax(y) over all rows, and log softmax(y); for class numbers t."""
    if not served(y) or t.ndim != y.ndim - 1:
        return NotImplemented
    xp, C, real = backend_of(y).xp, y.shape[-1], y.dtype.name
    rows, y, t = elements(y.shape[:-1]), xp.ascontiguousarray(y), _labels(xp, t)
    log_p, losses = xp.empty(y.shape, dtype=y.dtype), xp.empty((rows, 1), dtype=WIDE[real])
    part = 0.5 ** (rows.bit_length() + 1)
    launch(xp, "cross_entropy_rows", (-(-rows // 8),), log_p, losses, y, t, rows, C, smoothing, part, real=real)
    loss = _channel_sum(losses, losses.dtype, 1.0 / (rows * part))
    return xp.reshape(loss, ()).astype(y.dtype, copy=False), log_p


def cross_entropy_backward(log_p: Array, t: Array, dloss: float | Array, smoothing: float) -> Any:
    """(softmax(y) − q) · dloss / rows."""
    if not served(log_p) or t.ndim != log_p.ndim - 1:
        return NotImplemented
    xp, C = backend_of(log_p).xp, log_p.shape[-1]
    rows, log_p, t = log_p.size // C, xp.ascontiguousarray(log_p), _labels(xp, t)
    on_device = dloss.astype(WIDE[log_p.dtype.name], copy=False) if hasattr(dloss, "astype") else None
    factor, by_C = 0.0 if on_device is not None else dloss / rows, divided_by(C)
    dy = xp.empty(log_p.shape, dtype=log_p.dtype)
    arguments = (dy, log_p, t, on_device, factor, dy.size, rows, by_C, smoothing)
    launch(xp, "cross_entropy_backward", dy.size, *arguments, real=log_p.dtype.name)
    return dy


def _labels(xp: Any, t: Array) -> Array:
    return xp.ascontiguousarray(t.astype("int64", copy=False))


KERNELS = {
    kernel.__name__: kernel
    for kernel in (
        channel_moments,
        channel_sum,
        cross_entropy,
        cross_entropy_backward,
        follow,
        normalise,
        normalise_backward,
    )
}
