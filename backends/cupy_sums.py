"""CUDA kernels on CuPy arrays that add up: channels, batch norm, the loss; and those of a step: optimizers, batches.

Sums are taken in two stages (see kernels/channels.cu), always in the same order: the same bits in every run. All of
these may be captured in a CUDA graph; labels of another type than int64 are converted by a kernel of CuPy's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy

from dualnet.backend import Array, backend_of
from dualnet.geometry import elements

from .cuda_launch import launch, packing, served
from .cuda_registry import EACH, LIMIT, MOST, TENSORS, WIDE, divisor, layout, rule, structure

BLOCKS = 528
"""Blocks that add up a map together: four for each of the 132 processors of an H100, each with several packs under way
for every thread. More would leave more for the second stage."""
PASS_BLOCKS = 2 * BLOCKS
"""Blocks that pass over a map: more, since nobody has to add up what they leave; not many more, since each thread first
works out the numbers of its channels."""
SHORT = 1024
"""Rows that one block for 32 channels adds up by itself: what it takes is less than a second launch."""


# -- sums over channels (E12) and batch norm ---------------------------------------------------------------------------


class Shared:
    """How blocks share maps of one shape, and as which packs they read them. See kernels/channels.cu."""

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
        """Launch a kernel that adds up what the blocks left."""
        launch(self.xp, name, (-(-self.C // 32),), *arguments, **self.types)

    def sums(self, *shape: int) -> Array:
        """(..., C), as wide as sums are kept."""
        return self.xp.empty((*shape, self.C), dtype=WIDE[self.types["real"]])


def channel_sum(x: Array) -> Any:
    """E12 and others: (N, ..., C) -> (C,)."""
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
    """Mean and biased variance of every channel."""
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
    """Running statistics after a batch, as new arrays or ``into`` the old."""
    moving = moving_mean, moving_variance
    real = moving_mean.dtype.name
    if not served(*moving) or WIDE[real] != real or into and not all(a.flags.c_contiguous for a in moving):
        return NotImplemented
    xp, C = backend_of(moving_mean).xp, moving_mean.size
    new = moving if into else tuple(map(_like, moving))
    old = moving if into else _contiguous(*moving)
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
    """The way back of batch norm, with y first that of the ReLU behind it (E14): dx, dγ, dβ."""
    if not served(dy, x, *(() if y is None else (y,))):
        return NotImplemented
    xp, real, learned = backend_of(dy).xp, x.dtype.name, gamma.dtype
    dy, x, y = _contiguous(dy, x, y)
    mean, variance, gamma = _wide(xp, real, mean, variance, gamma)
    maps = (dy, x) if y is None else (dy, x, y)
    shared, dx = Shared(BLOCKS, *maps), xp.empty(x.shape, dtype=x.dtype)
    partial, roads = shared.sums(2, shared.chunks), shared.sums(2)
    shared.over("normalise_backward_part", partial, dy, x, y, mean)
    shared.end("normalise_backward_end", roads, partial, variance, epsilon, shared.layout)
    inputs = (dx, dy, x, y, roads, mean, variance, gamma, epsilon)
    Shared(PASS_BLOCKS, *maps).over("normalise_backward_dx", *inputs)
    dbeta, dgamma = roads[0].astype(learned, copy=False), roads[1].astype(learned, copy=False)
    return dx, dgamma, dbeta


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
    launch(xp, "cross_entropy_rows", (-(-rows // 8),), log_p, losses, y, t, rows, C, smoothing, real=real)
    loss = _channel_sum(losses, losses.dtype, 1.0 / rows)
    return xp.reshape(loss, ()).astype(y.dtype, copy=False), log_p


def cross_entropy_backward(log_p: Array, t: Array, dloss: float | Array, smoothing: float) -> Any:
    """(softmax(y) − q) · dloss / rows."""
    if not served(log_p) or t.ndim != log_p.ndim - 1:
        return NotImplemented
    xp, C = backend_of(log_p).xp, log_p.shape[-1]
    rows, log_p, t = log_p.size // C, xp.ascontiguousarray(log_p), _labels(xp, t)
    on_device = dloss.astype(WIDE[log_p.dtype.name], copy=False) if hasattr(dloss, "astype") else None
    factor, by_C = 0.0 if on_device is not None else dloss / rows, structure("Divisor", **_divisor(C))
    dy = xp.empty(log_p.shape, dtype=log_p.dtype)
    arguments = (dy, log_p, t, on_device, factor, dy.size, rows, by_C, smoothing)
    launch(xp, "cross_entropy_backward", dy.size, *arguments, real=log_p.dtype.name)
    return dy


def _labels(xp: Any, t: Array) -> Array:
    return xp.ascontiguousarray(t.astype("int64", copy=False))


def _divisor(n: int) -> dict[str, int]:
    return dict(zip(("divisor", "magic", "shift"), divisor(n)))


# -- optimizers (E17) --------------------------------------------------------------------------------------------------


Slots = dict[str, Array]


def sgd_updates(
    w: list[Array], g: list[Array], slots: list[Slots], lr: float | Array, momentum: float, nesterov: bool,
    weight_decay: float, finite: Array | None, into: bool,
) -> Any:  # fmt: skip
    """All parameters' step."""
    names = ("velocity",) if momentum else ()
    step: dict[str, Any] = {"lr": lr, "first": momentum, "nesterov": nesterov, "weight_decay": weight_decay}
    return _step("sgd_update", w, g, slots, names, into, finite=finite, **step)


def adam_updates(
    w: list[Array], g: list[Array], slots: list[Slots], lr: float | Array, betas: tuple[float, float], epsilon: float,
    steps: int | Array, decay: tuple[float, bool], finite: Array | None, into: bool,
) -> Any:  # fmt: skip
    """All parameters' step, after so many steps."""
    step: dict[str, Any] = {"lr": lr, "first": betas[0], "second": betas[1], "epsilon": epsilon}
    step |= {"t": steps if _on_device(steps) else steps + 1, "weight_decay": decay[0], "decoupled": decay[1]}
    return _step("adam_update", w, g, slots, ("mean", "mean_square"), into, finite=finite, **step)


def _step(
    kernel: str, w: list[Array], g: list[Array], slots: list[Slots], names: tuple[str, ...], into: bool, **step: Any
) -> Any:
    """Parameters, and what is remembered of each under ``names``, by one kernel: new arrays, or ``into`` the old."""
    old = [[value, *(kept[name] for name in names)] for value, kept in zip(w, slots)]
    if not served(*(a for arrays in old for a in arrays)) or not all(served(gradient) for gradient in g):
        return NotImplemented
    if any(WIDE[gradient.dtype.name] != w[0].dtype.name for gradient in g):
        return NotImplemented
    if into and not all(a.flags.c_contiguous for arrays in old for a in arrays):
        return NotImplemented
    if into:
        new = old
    else:
        old = [_contiguous(*arrays) for arrays in old]
        new = [[_like(a) for a in arrays] for arrays in old]
    sorts: dict[str, list[Parameter]] = {}  # in a network of 16 bits, batch norm's gradients are float32
    for made, before, gradient in zip(new, old, g):
        row = (*_three(made), None, *_three(before), *_contiguous(gradient))
        sorts.setdefault(gradient.dtype.name, []).append(row)
    for rows in sorts.values():
        update(kernel, rows, **step)
    return [(made[0], dict(zip(names, made[1:]))) for made in new]


def _three(arrays: list[Array]) -> Any:
    return tuple((*arrays, None, None)[:3])


def sgd_update(w: Array, g: Array, slots: Slots, lr: float, momentum: float, nesterov: bool) -> Any:
    """One parameter's step, as new arrays: w, and its velocity where there is one."""
    if not served(w, g, *slots.values()):
        return NotImplemented
    w, g, velocity = _contiguous(w, g, slots.get("velocity") if momentum else None)
    new_w, new_velocity = _like(w), None if velocity is None else _like(w)
    step: dict[str, Any] = {"lr": lr, "first": momentum, "nesterov": nesterov}
    update("sgd_update", [(new_w, new_velocity, None, None, w, velocity, None, g)], **step)
    return new_w, {} if new_velocity is None else {"velocity": new_velocity}


def adam_update(w: Array, g: Array, slots: Slots, lr: float, betas: tuple[float, float], epsilon: float, t: int) -> Any:
    """One parameter's step t = 1, 2, …, as new arrays: w, and its mean and mean square."""
    if not served(w, g, *slots.values()):
        return NotImplemented
    w, g, mean, mean_square = _contiguous(w, g, slots["mean"], slots["mean_square"])
    new_w, new_mean, new_square = _like(w), _like(w), _like(w)
    step: dict[str, Any] = {"lr": lr, "first": betas[0], "second": betas[1], "epsilon": epsilon, "t": t}
    update("adam_update", [(new_w, new_mean, new_square, None, w, mean, mean_square, g)], **step)
    return new_w, {"mean": new_mean, "mean_square": new_square}


def _contiguous(*arrays: Array | None) -> list[Array | None]:
    return [None if a is None else backend_of(a).xp.ascontiguousarray(a) for a in arrays]


def _like(w: Array) -> Array:
    return backend_of(w).xp.empty(w.shape, dtype=w.dtype)


Parameter = tuple[Array, Array | None, Array | None, Array | None, Array, Array | None, Array | None, Array]


def update(
    kernel: str,
    parameters: Sequence[Parameter],
    *,
    lr: float | Array,
    first: float = 0.0,
    second: float = 0.0,
    epsilon: float = 0.0,
    t: int | Array = 1,
    weight_decay: float = 0.0,
    nesterov: bool = False,
    decoupled: bool = False,
    unscale: Array | None = None,
    finite: Array | None = None,
) -> None:
    """Step many parameters at once, in place if wanted: 40 in a launch.

    Each is (w, a, b, shadow, old w, old a, old b, gradient): a is the velocity or the mean, b the mean square, shadow
    the value again in the gradient's dtype; None where there is none. ``lr`` and ``t`` may be arrays of one element on
    the device, as in a captured step: lr in the dtype of w; t, in uint64, then counts the steps made before. With a
    loss scale, ``unscale`` (in the dtype of w) is what gradients are multiplied by, and where ``finite`` (bool) is
    false nothing changes.
    """
    w, g = parameters[0][0], parameters[0][-1]
    xp, real, wide = backend_of(w).xp, g.dtype.name, w.dtype.name
    made = numpy.zeros((), rule(wide))
    given = {"weight_decay": weight_decay, "first": first, "second": second, "epsilon": epsilon, "nesterov": nesterov}
    given |= {"rest_1": 1 - first, "rest_2": 1 - second, "beta_1": first, "beta_2": second, "decoupled": decoupled}
    for name, value in given.items():
        made[name] = value
    if _on_device(lr):
        made["device_lr"] = lr.data.ptr
    else:
        made["lr"] = lr
    if _on_device(t):
        made["device_steps"] = t.data.ptr
    else:
        made["correction_1"], made["correction_2"] = 1 - first**t, (1 - second**t) ** 0.5
    for name, array in (("unscale", unscale), ("finite", finite)):
        made[name] = 0 if array is None else array.data.ptr
    parameters = [p for p in parameters if p[0].size]
    for start in range(0, len(parameters), MOST):
        table, blocks = _table(xp, parameters[start : start + MOST])
        launch(xp, kernel, (blocks,), table, made, real=real)


def _on_device(value: Any) -> bool:
    return hasattr(getattr(value, "data", None), "ptr")  # a NumPy scalar has data, but no address on a device


def _table(xp: Any, parameters: Sequence[Parameter]) -> tuple[numpy.ndarray, int]:
    """The addresses of up to MOST parameters, and the blocks that they need. The arrays must be C-contiguous."""
    table, blocks = numpy.zeros((), TENSORS), 0
    for k, arrays in enumerate(parameters):
        size = arrays[-1].size
        blocks += -(-size // EACH)
        table["at"][k] = (*(0 if a is None else a.data.ptr for a in arrays), size, blocks)
    return table, blocks


# -- the loss scale ----------------------------------------------------------------------------------------------------


def all_finite(first: Array, *others: Array) -> Any:
    """Is every number of every gradient finite? A bool without axes; nothing is read back."""
    xp, gradients = backend_of(first).xp, _by_dtype(first, *others)
    if gradients is None:
        return NotImplemented
    finite = xp.ones((), dtype="bool")
    for real, same in gradients.items():
        for start in range(0, len(same), MOST):
            table, blocks = _table(xp, [(*[None] * 7, g) for g in same[start : start + MOST]])
            launch(xp, "all_finite", (blocks,), table, finite, real=real)
    return finite


def unscale(by: Array, *gradients: Array) -> Any:
    """Every gradient times ``by``, in float32."""
    xp, sorts = backend_of(by).xp, _by_dtype(*gradients)
    if sorts is None or any(WIDE[real] != by.dtype.name for real in sorts):
        return NotImplemented
    made: dict[int, Array] = {}
    for real, same in sorts.items():
        for start in range(0, len(same), MOST):
            part = same[start : start + MOST]
            rows = [(xp.empty(g.shape, dtype=by.dtype), *[None] * 6, g) for g in part]
            table, blocks = _table(xp, rows)
            launch(xp, "unscale", (blocks,), table, by, real=real)
            made.update((id(g), row[0]) for g, row in zip(part, rows))
    return tuple(made[id(g)] for g in gradients)


def round_all(values: list[Array], dtype: Any) -> Any:
    """Every parameter in 16 bits, by a launch for forty of them."""
    if dtype.itemsize > 2 or WIDE.get(dtype.name) != values[0].dtype.name or not served(*values):
        return NotImplemented
    if not all(w.flags.c_contiguous for w in values):
        return NotImplemented
    xp = backend_of(values[0]).xp
    made = [xp.empty(w.shape, dtype=dtype) for w in values]
    for start in range(0, len(values), MOST):
        part = slice(start, start + MOST)
        rows = [(None, None, None, shadow, w, None, None, w) for shadow, w in zip(made[part], values[part])]
        table, blocks = _table(xp, rows)
        launch(xp, "round_all", (blocks,), table, real=dtype.name)
    return made


def _by_dtype(*gradients: Array) -> dict[str, list[Array]] | None:
    """Gradients that kernels take as they are, by the name of their dtype."""
    sorts: dict[str, list[Array]] = {}
    for g in gradients:
        if not served(g) or not g.flags.c_contiguous:
            return None
        sorts.setdefault(g.dtype.name, []).append(g)
    return sorts or None


# -- a batch of images that live on the device -------------------------------------------------------------------------


def gather_batch(
    images: Array, order: Array, moves: Array | None, mean: Array, scale: Array, dtype: Any = "float32"
) -> Any:
    """(images[order] − mean) · scale, each shifted and flipped: (M, H, W, C) -> (N, H, W, C).

    images are uint8 or floating, order (N,) int32, mean and scale (C,) in the dtype that sums have; moves (N, 3) int8
    holds how far down and right each image is read, and whether it is flipped. What lies off an image is 0 before it
    is normalised.
    """
    xp, (_, H, W, C), N = backend_of(images).xp, images.shape, order.size
    if not 0 < N * H * W * C < LIMIT or not images.flags.c_contiguous:  # a copy of all images would be no gain
        return NotImplemented
    (order, moves), dtype = _contiguous(order, moves), numpy.dtype(dtype)
    y = xp.empty((N, H, W, C), dtype=dtype)
    divisors = [structure("Divisor", **_divisor(n)) for n in (H, W, C)]
    arguments = (y, images, order, moves, mean, scale, y.size, H, W, *divisors)
    launch(xp, "gather_batch", y.size, *arguments, real=dtype.name, pixel=images.dtype.name)
    return y


KERNELS = {
    kernel.__name__: kernel
    for kernel in (
        adam_update,
        adam_updates,
        all_finite,
        channel_moments,
        channel_sum,
        cross_entropy,
        cross_entropy_backward,
        follow,
        gather_batch,
        normalise,
        normalise_backward,
        round_all,
        sgd_update,
        sgd_updates,
        unscale,
    )
}
