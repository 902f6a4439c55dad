"""CUDA kernels on CuPy arrays for a training step: optimizers (E17), the loss scale, parameters of 16 bits, batches.

Each works on many arrays in one launch, whose addresses travel with it. All of these may be captured in a CUDA graph.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy

from dualnet.shim import Array, backend_of

from .launch import contiguous, launch, like, served
from .registry import EACH, LIMIT, MOST, TENSORS, WIDE, divided_by, rule

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
        old = [contiguous(*arrays) for arrays in old]
        new = [[like(a) for a in arrays] for arrays in old]
    sorts: dict[str, list[Parameter]] = {}  # in a network of 16 bits, batch norm's gradients are float32
    for made, before, gradient in zip(new, old, g):
        row = (*_three(made), None, *_three(before), *contiguous(gradient))
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
    w, g, velocity = contiguous(w, g, slots.get("velocity") if momentum else None)
    new_w, new_velocity = like(w), None if velocity is None else like(w)
    step: dict[str, Any] = {"lr": lr, "first": momentum, "nesterov": nesterov}
    update("sgd_update", [(new_w, new_velocity, None, None, w, velocity, None, g)], **step)
    return new_w, {} if new_velocity is None else {"velocity": new_velocity}


def adam_update(w: Array, g: Array, slots: Slots, lr: float, betas: tuple[float, float], epsilon: float, t: int) -> Any:
    """One parameter's step t = 1, 2, …, as new arrays: w, and its mean and mean square."""
    if not served(w, g, *slots.values()):
        return NotImplemented
    w, g, mean, mean_square = contiguous(w, g, slots["mean"], slots["mean_square"])
    new_w, new_mean, new_square = like(w), like(w), like(w)
    step: dict[str, Any] = {"lr": lr, "first": betas[0], "second": betas[1], "epsilon": epsilon, "t": t}
    update("adam_update", [(new_w, new_mean, new_square, None, w, mean, mean_square, g)], **step)
    return new_w, {"mean": new_mean, "mean_square": new_square}


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
    (order, moves), dtype = contiguous(order, moves), numpy.dtype(dtype)
    y = xp.empty((N, H, W, C), dtype=dtype)
    divisors = [divided_by(n) for n in (H, W, C)]
    arguments = (y, images, order, moves, mean, scale, y.size, H, W, *divisors)
    launch(xp, "gather_batch", y.size, *arguments, real=dtype.name, pixel=images.dtype.name)
    return y


KERNELS = {
    kernel.__name__: kernel
    for kernel in (
        adam_update,
        adam_updates,
        all_finite,
        gather_batch,
        round_all,
        sgd_update,
        sgd_updates,
        unscale,
    )
}
