"""CUDA kernels of a training step: optimizers (E17), the loss scale, parameters of 16 bits, batches.

Each works on many arrays in one launch; their addresses are arguments. All of these can be captured in a CUDA graph.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy

from dualnet.shim import Array, backend_of

from .launch import contiguous, empty_like, launch, served
from .registry import LIMIT, PER_BLOCK, PER_LAUNCH, TENSORS, WIDE, divided_by, rule, turns

# -- optimizers (E17) --------------------------------------------------------------------------------------------------


Slots = dict[str, Array]


def sgd_updates(
    w: list[Array], g: list[Array], slots: list[Slots], lr: float | Array, momentum: float, nesterov: bool,
    weight_decay: float, finite: Array | None, into: bool,
) -> Any:  # fmt: skip
    """One step of all parameters."""
    names = ("velocity",) if momentum else ()
    step: dict[str, Any] = {"lr": lr, "first": momentum, "nesterov": nesterov, "weight_decay": weight_decay}
    return _step("sgd_update", w, g, slots, names, into, finite=finite, **step)


def adam_updates(
    w: list[Array], g: list[Array], slots: list[Slots], lr: float | Array, betas: tuple[float, float], epsilon: float,
    steps: int | Array, decay: tuple[float, bool], finite: Array | None, into: bool,
) -> Any:  # fmt: skip
    """One step of all parameters, after ``steps`` others."""
    step: dict[str, Any] = {"lr": lr, "first": betas[0], "second": betas[1], "epsilon": epsilon}
    step |= {"t": steps if _on_device(steps) else steps + 1, "weight_decay": decay[0], "decoupled": decay[1]}
    return _step("adam_update", w, g, slots, ("mean", "mean_square"), into, finite=finite, **step)


def _step(
    kernel: str, w: list[Array], g: list[Array], slots: list[Slots], names: tuple[str, ...], into: bool, **step: Any
) -> Any:
    """Parameters and the slots called ``names``, by one kernel: new arrays, or ``into`` the old ones."""
    old = [[value, *(kept[name] for name in names)] for value, kept in zip(w, slots)]
    if not _served([a for arrays in old for a in arrays], g, into):
        return NotImplemented
    if into:
        new = old
    else:
        old = [contiguous(*arrays) for arrays in old]
        new = [[empty_like(a) for a in arrays] for arrays in old]
    by_dtype: dict[str, list[Parameter]] = {}  # in a network of 16 bits, batch norm's gradients are float32
    for made, before, gradient in zip(new, old, turned_gradients(g)):
        row = (*_three(made), None, *_three(before), *contiguous(gradient))
        by_dtype.setdefault(gradient.dtype.name, []).append(row)
    for rows in by_dtype.values():
        update(kernel, rows, **step)
    return [(made[0], dict(zip(names, made[1:]))) for made in new]


def _served(old: list[Array], g: list[Array], into: bool) -> bool:
    """Do kernels take these parameters and slots, with these gradients?"""
    if not served(*old) or not all(served(gradient) for gradient in g):
        return False
    if any(WIDE[gradient.dtype.name] != old[0].dtype.name for gradient in g):
        return False
    return not into or all(a.flags.c_contiguous for a in old)


def stored(g: Array) -> Array:
    """The gradient as it lies in memory. That of a filter bank may lie as cuDNN made it, (D, k1, k2, C/g)."""
    if g.ndim != 4 or g.flags.c_contiguous:
        return g
    bank = backend_of(g).xp.permute_dims(g, (3, 0, 1, 2))
    return bank if bank.flags.c_contiguous else g


def turned_gradients(gradients: list[Array]) -> list[Array]:
    """Gradients of filter banks that lie as cuDNN made them, in the order of their parameters: one launch for 40."""
    made = list(gradients)
    rows: dict[str, list[tuple[int, int, int, int]]] = {}
    for place, g in enumerate(gradients):
        if (bank := stored(g)) is not g:
            made[place] = backend_of(g).xp.empty(g.shape, dtype=g.dtype)
            row = (made[place].data.ptr, bank.data.ptr, bank.shape[0], bank.size // bank.shape[0])
            rows.setdefault(g.dtype.name, []).append(row)
    for real, same in rows.items():
        for start in range(0, len(same), PER_LAUNCH):
            table, blocks = turns(same[start : start + PER_LAUNCH])
            launch(backend_of(gradients[0]).xp, "turn_gradients", (blocks,), table, real=real)
    return made


def _three(arrays: list[Array]) -> Any:
    return tuple((*arrays, None, None)[:3])


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
    """Step many parameters at once, 40 in a launch; in place if new and old arrays are the same.

    Each parameter is (w, a, b, shadow, old w, old a, old b, gradient): a is the velocity or the mean, b the mean
    square, shadow the value again in the gradient's dtype; these may be None. In a captured step, ``lr`` and ``t`` are
    arrays of one element on the device: lr in the dtype of w, and t, in uint64, counts the steps before this one. With
    a loss scale, gradients are multiplied by ``unscale`` (in the dtype of w), and nothing changes if ``finite`` (bool)
    is false.
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
    for start in range(0, len(parameters), PER_LAUNCH):
        table, blocks = _table(xp, parameters[start : start + PER_LAUNCH])
        launch(xp, kernel, (blocks,), table, made, real=real)


def _on_device(value: Any) -> bool:
    return hasattr(getattr(value, "data", None), "ptr")  # a NumPy scalar has data, but no address on a device


def _table(xp: Any, parameters: Sequence[Parameter]) -> tuple[numpy.ndarray, int]:
    """The addresses of up to PER_LAUNCH parameters, which must be C-contiguous, and how many blocks they need."""
    table, blocks = numpy.zeros((), TENSORS), 0
    for k, arrays in enumerate(parameters):
        size = arrays[-1].size
        blocks += -(-size // PER_BLOCK)
        table["at"][k] = (*(0 if a is None else a.data.ptr for a in arrays), size, blocks)
    return table, blocks


# -- the loss scale ----------------------------------------------------------------------------------------------------


def all_finite(first: Array, *others: Array) -> Any:
    """Is every number in every gradient finite? A bool without axes on the device; nothing is read back."""
    xp, gradients = backend_of(first).xp, _by_dtype(*map(stored, (first, *others)))
    if gradients is None:
        return NotImplemented
    finite = xp.ones((), dtype="bool")
    for real, same in gradients.items():
        for start in range(0, len(same), PER_LAUNCH):
            table, blocks = _table(xp, [(*[None] * 7, g) for g in same[start : start + PER_LAUNCH]])
            launch(xp, "all_finite", (blocks,), table, finite, real=real)
    return finite


def unscale(by: Array, *gradients: Array) -> Any:
    """Every gradient times ``by``, in float32."""
    xp, kept = backend_of(by).xp, [stored(g) for g in gradients]
    by_dtype = _by_dtype(*kept)
    if by_dtype is None or any(WIDE[real] != by.dtype.name for real in by_dtype):
        return NotImplemented
    made: dict[int, Array] = {}
    for real, same in by_dtype.items():
        for start in range(0, len(same), PER_LAUNCH):
            part = same[start : start + PER_LAUNCH]
            rows = [(xp.empty(g.shape, dtype=by.dtype), *[None] * 6, g) for g in part]
            table, blocks = _table(xp, rows)
            launch(xp, "unscale", (blocks,), table, by, real=real)
            made.update((id(g), row[0]) for g, row in zip(part, rows))
    return tuple(
        made[id(g)] if g is bank else xp.permute_dims(made[id(bank)], (1, 2, 3, 0)) for g, bank in zip(gradients, kept)
    )


def round_all(values: list[Array], dtype: Any) -> Any:
    """Every parameter in 16 bits: one launch for forty of them."""
    if dtype.itemsize > 2 or WIDE.get(dtype.name) != values[0].dtype.name or not served(*values):
        return NotImplemented
    if not all(w.flags.c_contiguous for w in values):
        return NotImplemented
    xp = backend_of(values[0]).xp
    made = [xp.empty(w.shape, dtype=dtype) for w in values]
    for start in range(0, len(values), PER_LAUNCH):
        part = slice(start, start + PER_LAUNCH)
        rows = [(None, None, None, shadow, w, None, None, w) for shadow, w in zip(made[part], values[part])]
        table, blocks = _table(xp, rows)
        launch(xp, "round_all", (blocks,), table, real=dtype.name)
    return made


def _by_dtype(*gradients: Array) -> dict[str, list[Array]] | None:
    """Gradients by the name of their dtype; None if kernels cannot take them as they are."""
    by_dtype: dict[str, list[Array]] = {}
    for g in gradients:
        if not served(g) or not g.flags.c_contiguous:
            return None
        by_dtype.setdefault(g.dtype.name, []).append(g)
    return by_dtype or None


# -- a batch from images on the device ---------------------------------------------------------------------------------


def gather_batch(
    images: Array, order: Array, moves: Array | None, mean: Array, scale: Array, dtype: Any = "float32"
) -> Any:
    """(images[order] − mean) · scale, each shifted and flipped: (M, H, W, C) -> (N, H, W, C).

    images are uint8 or floating, order (N,) is int32, mean and scale (C,) have the dtype of sums; moves (N, 3) int8
    holds how far down and right each image is read, and whether it is flipped. Pixels off an image are 0 before they
    are normalised.
    """
    xp, (_, H, W, C), N = backend_of(images).xp, images.shape, order.size
    if not 0 < N * H * W * C < LIMIT or not images.flags.c_contiguous:  # copying all images would gain nothing
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
        adam_updates,
        all_finite,
        gather_batch,
        round_all,
        sgd_updates,
        unscale,
    )
}
