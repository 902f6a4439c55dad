"""CUDA kernels that add up: sums over channels, batch norm, the loss.

Sums are taken in two stages (see kernels/channels.cu), always in the same order: the same bits in every run. All of
these can be captured in a CUDA graph; CuPy converts labels that are not int64.
"""

from __future__ import annotations

from typing import Any

import numpy

from dualnet.geometry import elements
from dualnet.shim import Array, backend_of

from .launch import contiguous, empty_like, launch, packing, served
from .registry import PER_LAUNCH, THREADS, WIDE, divided_by, followed, layout

BLOCKS = 528
"""Blocks that walk over a map together: four for each of the 132 processors of an H100, which hold four at a time if a
thread has at most 64 registers. So all run at once, in one wave, with several packs in flight for every thread. More
blocks would leave more work to the second stage."""
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
    means: list[Array],
    variances: list[Array],
    batch_means: list[Array],
    batch_variances: list[Array],
    keep: list[float],
    n: list[int],
    into: bool = False,
) -> Any:
    """The running statistics of several layers after a batch, 40 in a launch: new arrays, or ``into`` the old ones."""
    moving, real = [*means, *variances], means[0].dtype.name
    if not served(*moving) or WIDE[real] != real or (into and not all(a.flags.c_contiguous for a in moving)):
        return NotImplemented
    xp, old = backend_of(means[0]).xp, list(zip(means, variances))
    if not into:
        old = [tuple(contiguous(*pair)) for pair in old]  # type: ignore[misc]
    new = old if into else [tuple(map(empty_like, pair)) for pair in old]
    batch = [_wide(xp, real, *pair) for pair in zip(batch_means, batch_variances)]
    for start in range(0, len(old), PER_LAUNCH):
        table, blocks = numpy.zeros((), followed(real)), 0
        for k, at in enumerate(range(start, min(start + PER_LAUNCH, len(old)))):
            addresses = [a.data.ptr for a in (*new[at], *old[at], *batch[at])]
            C = old[at][0].size
            blocks += -(-C // THREADS[0])
            table["at"][k] = (*addresses, keep[at], 1 - keep[at], n[at] / (n[at] - 1), C, blocks)
        launch(xp, "follow", (blocks,), table, real=real)
    return new


def normalise(
    x: Array, mean: Array, variance: Array, gamma: Array, beta: Array, epsilon: float, relu: bool = False
) -> Any:
    """y = γ (x − μ) / s + β, and E7 with ``relu``."""
    if not served(x):
        return NotImplemented
    return _normalise(x, None, mean, variance, gamma, beta, epsilon, relu)


def normalise_add(
    x: Array, other: Array, mean: Array, variance: Array, gamma: Array, beta: Array, epsilon: float, relu: bool
) -> Any:
    """The same, with another branch added before E7."""
    if not served(x, other):
        return NotImplemented
    return _normalise(x, other, mean, variance, gamma, beta, epsilon, relu)


def batch_normalise_add(x: Array, other: Array, gamma: Array, beta: Array, epsilon: float, relu: bool) -> Any:
    """The same with the batch's own moments, which are returned too."""
    if not served(x, other):
        return NotImplemented
    mean, variance = channel_moments(x)
    return _normalise(x, other, mean, variance, gamma, beta, epsilon, relu), mean, variance


def _normalise(x: Array, other: Array | None, *vectors: Any) -> Array:
    *vectors, epsilon, relu = vectors  # type: ignore[assignment]
    xp, (x, other) = backend_of(x).xp, contiguous(x, other)
    y = xp.empty(x.shape, dtype=x.dtype)
    maps = (x,) if other is None else (x, other)
    Shared(BLOCKS, *maps).over("normalise", y, x, other, *_wide(xp, x.dtype.name, *vectors), epsilon, relu)
    return y


def normalise_backward(
    dy: Array,
    x: Array,
    mean: Array,
    variance: Array,
    gamma: Array,
    epsilon: float,
    y: Array | None = None,
    beta: Array | None = None,
) -> Any:
    """The backward pass of batch norm: dx, dγ, dβ. If y is given, a ReLU with that output followed (E14).

    With β, y itself is not read: x shows where it is above 0.
    """
    if y is not None and beta is None:
        result = joined_backward(dy, None, x, mean, variance, gamma, epsilon, y)
        return result if result is NotImplemented else result[:3]
    if not served(dy, x):
        return NotImplemented
    dy, x = contiguous(dy, x)
    numbers = _numbers(x, mean, variance, gamma, None if y is None else beta)
    shared = Shared(BLOCKS, dy, x)
    partial = shared.sums(2, shared.chunks)
    shared.over("normalise_backward_part", partial, dy, x, *numbers, epsilon)
    return _end_backward(shared, partial, dy, x, numbers, epsilon)


def joined_backward(
    dy: Array,
    second: Array | None,
    x: Array,
    mean: Array,
    variance: Array,
    gamma: Array,
    epsilon: float,
    y: Array | None,
) -> Any:
    """The backward pass if another branch was added: dx, dγ, dβ, and that branch's delta.

    The first pass applies the ReLU's derivative (E14) and adds up the deltas (E12); the second reads these deltas.
    """
    if second is None and y is None:  # the delta is dy
        alone = normalise_backward(dy, x, mean, variance, gamma, epsilon)
        return alone if alone is NotImplemented else (*alone, dy)
    maps = [a for a in (dy, second, x, y) if a is not None]
    if not served(*maps):
        return NotImplemented
    dy, second, x, y = contiguous(dy, second, x, y)
    numbers, shared = _numbers(x, mean, variance, gamma, None), Shared(BLOCKS, *maps)
    partial, delta = shared.sums(2, shared.chunks), shared.xp.empty(x.shape, dtype=x.dtype)
    shared.over("joined_backward_part", partial, delta, dy, second, x, y, numbers[0])
    return *_end_backward(shared, partial, delta, x, numbers, epsilon), delta


def _numbers(x: Array, *vectors: Array | None) -> list[Any]:
    """μ, σ², γ and β in the dtype of sums; None stays None."""
    return [None if v is None else _wide(backend_of(x).xp, x.dtype.name, v)[0] for v in vectors]


def _end_backward(
    shared: Shared, partial: Array, dy: Array, x: Array, numbers: list[Any], epsilon: float
) -> tuple[Array, Array, Array]:
    """dx, dγ, dβ from the sums of the blocks."""
    totals, dx = shared.sums(2), shared.xp.empty(x.shape, dtype=x.dtype)
    shared.end("normalise_backward_end", totals, partial, numbers[1], epsilon, shared.layout)
    shared.over("normalise_backward_dx", dx, dy, x, totals, *numbers, epsilon)
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
        batch_normalise_add,
        channel_moments,
        channel_sum,
        cross_entropy,
        cross_entropy_backward,
        follow,
        joined_backward,
        normalise,
        normalise_add,
        normalise_backward,
    )
}
