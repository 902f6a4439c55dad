"""Convolution by cuDNN on CuPy arrays: forward with bias and ReLU, and the gradients of the inputs and the filters.

In float32, float16 and bfloat16, with sums in float32; TF32 only after ``dn.set_precision("tf32")``. These kernels
return ``NotImplemented``, so that the next kernel runs, for float64, for empty and very large arrays, and for every
shape for which cuDNN has no plan that may be chosen (see ``cudnn_plans``), or none that is faster than the next kernel.
If nothing is timed, the next kernel is assumed to be faster for groups of few channels, which have kernels of their
own, and for windows of one unit, which are matrix products already.
"""

from __future__ import annotations

from typing import Any

from dualnet.geometry import Windows
from dualnet.shim import Array, backend_of, get_precision

from . import cudnn_choices, cudnn_library, cudnn_plans, maps, steps
from .cudnn_plans import DTYPES, FILTERS, FORWARD, INPUTS, Plan, Shape
from .launch import launch, served
from .registry import LIMIT, PER_LAUNCH, tiles, turns


def correlate(x: Array, w: Array, b: Array | None, at: Windows, groups: int = 1, relu: bool = False) -> Any:
    """Convolution: E4, E6, and E7 with ``relu``."""
    arrays = (x, w) if b is None else (x, w, b)
    if not _serves(arrays, at, x.shape[0], x.shape[3], w.shape[3], groups):
        return NotImplemented
    xp, N, D = backend_of(x).xp, x.shape[0], w.shape[3]
    alone = _shape(FORWARD, x, N, x.shape[3], D, groups, at)
    fused = (alone._replace(biased=True, relu=relu), alone) if b is not None else (alone,)

    def compute(plan: Plan, spoilt: bool = False) -> Array:
        y = xp.empty((N, *at.grid, D), dtype=x.dtype)
        bank = turned(xp, w)
        if not plan.shape.biased:
            plan(xp, _ready(xp, x), bank, y)
            return maps.biased(y, b, relu)
        plan(xp, _ready(xp, x), bank, _ready(xp, xp.full((D,), float("nan"), dtype=x.dtype) if spoilt else b), y)
        return y

    plan = cudnn_plans.chosen(xp, fused, compute, lambda: maps.correlate(x, w, b, at, groups, relu))
    return NotImplemented if plan is None else compute(plan)


def correlate_inputs(dy: Array, w: Array, at: Windows, groups: int = 1) -> Any:
    """The gradient of the inputs: E13."""
    (N, _, _, D), C = dy.shape, w.shape[2] * groups
    if not _serves((dy, w), at, N, C, D, groups):
        return NotImplemented
    xp = backend_of(dy).xp

    def compute(plan: Plan, spoilt: bool = False) -> Array:
        dx = xp.empty((N, *at.size, C), dtype=dy.dtype)
        plan(xp, _ready(xp, dy), turned(xp, w), dx)
        return dx

    shapes = (_shape(INPUTS, dy, N, C, D, groups, at),)
    plan = cudnn_plans.chosen(xp, shapes, compute, lambda: maps.correlate_inputs(dy, w, at, groups))
    return NotImplemented if plan is None else compute(plan)


def correlate_filters(x: Array, dy: Array, at: Windows, groups: int = 1) -> Any:
    """The gradient of the filters: E11."""
    (N, _, _, C), D = x.shape, dy.shape[3]
    if not _serves((x, dy), at, N, C, D, groups):
        return NotImplemented
    xp = backend_of(x).xp

    def compute(plan: Plan, spoilt: bool = False) -> Array:
        bank = xp.empty((D, *at.window, C // groups), dtype=x.dtype)
        plan(xp, _ready(xp, x), _ready(xp, dy), bank)
        return xp.permute_dims(bank, (1, 2, 3, 0))  # a view: an optimizer turns the gradients of all banks at once

    shapes = (_shape(FILTERS, x, N, C, D, groups, at),)
    plan = cudnn_plans.chosen(xp, shapes, compute, lambda: maps.correlate_filters(x, dy, at, groups))
    return NotImplemented if plan is None else compute(plan)


# -- filter banks ------------------------------------------------------------------------------------------------------


def turned(xp: Any, w: Array) -> Array:
    """(k1, k2, C/g, D) -> (D, k1, k2, C/g), in one launch, or in none if memory has that order already."""
    D, view = w.shape[3], xp.permute_dims(w, (3, 0, 1, 2))
    if view.flags.c_contiguous:
        return _ready(xp, view)
    return _transposed(xp, xp.ascontiguousarray(w), w.size // D, D, (D, *w.shape[:3]))


def _transposed(xp: Any, matrix: Array, rows: int, columns: int, shape: tuple[int, ...]) -> Array:
    if min(rows, columns) == 1:
        return _ready(xp, xp.reshape(matrix, shape))
    out = xp.empty(shape, dtype=matrix.dtype)
    launch(xp, "turn", (tiles(rows, columns),), out, matrix, rows, columns, real=matrix.dtype.name)
    return out


def round_all(values: list[Array], dtype: Any) -> Any:
    """Every parameter in 16 bits; filter banks in the memory order of cuDNN, so that no convolution has to turn them.

    They lie as (D, k1, k2, C/g); the arrays returned are views of that, still of shape (k1, k2, C/g, D).
    """
    banks, others = [w for w in values if _is_bank(w)], [w for w in values if not _is_bank(w)]
    if not banks or dtype.name not in DTYPES or dtype.itemsize > 2 or cudnn_library.library() is None:
        return NotImplemented
    if values[0].dtype.name != "float32" or not _readable(values):
        return NotImplemented
    rounded = iter(steps.round_all(others, dtype) if others else ())
    rounded_banks = iter(_turn_all(banks, dtype))
    return [next(rounded_banks if _is_bank(w) else rounded) for w in values]


def _readable(values: list[Array]) -> bool:
    """Can kernels read these arrays without a copy?"""
    return served(*values) and all(w.flags.c_contiguous for w in values)


def _is_bank(w: Array) -> bool:
    """Is this a filter bank that cuDNN may read, and not one for the kernels without columns?"""
    return w.ndim == 4 and w.shape[2] > maps.FEW


def _turn_all(banks: list[Array], dtype: Any) -> list[Array]:
    xp = backend_of(banks[0]).xp
    made = [xp.empty((w.shape[3], *w.shape[:3]), dtype=dtype) for w in banks]
    for start in range(0, len(banks), PER_LAUNCH):
        part = slice(start, start + PER_LAUNCH)
        pairs = zip(made[part], banks[part])
        table, blocks = turns([(to.data.ptr, w.data.ptr, w.size // w.shape[3], w.shape[3]) for to, w in pairs])
        launch(xp, "turn_all", (blocks,), table, real=dtype.name)
    return [xp.permute_dims(bank, (1, 2, 3, 0)) for bank in made]


def _ready(xp: Any, array: Array) -> Array:
    """The array as cuDNN needs it: contiguous and aligned to 16 bytes."""
    array = xp.ascontiguousarray(array)
    return array if array.data.ptr % cudnn_library.ALIGNED == 0 else array.copy()


# -- which calls are served --------------------------------------------------------------------------------------------


def _serves(arrays: tuple[Array, ...], at: Windows, N: int, C: int, D: int, groups: int) -> bool:
    if arrays[0].dtype.name not in DTYPES or not served(*arrays) or cudnn_library.library() is None:
        return False
    if max(N * at.size[0] * at.size[1] * C, N * at.grid[0] * at.grid[1] * D) >= LIMIT:
        return False
    slower = C // groups <= maps.FEW or groups == 1 and _products(at)
    return not slower or cudnn_choices.tuning() or cudnn_library.asked() == "all"


def _products(at: Windows) -> bool:
    """Is each window one unit, so that the map already is a matrix?"""
    return at.window == at.stride == (1, 1) and at.reach == ((0, 0), (0, 0))


def _shape(way: str, x: Array, N: int, C: int, D: int, groups: int, at: Windows) -> Shape:
    dtype = x.dtype.name
    return Shape(way, N, C, D, groups, at, dtype, dtype == "float32" and get_precision() == "tf32")


for _kernel in (correlate, correlate_filters, correlate_inputs):
    _kernel.algorithm = "cuDNN"  # the name in dualnet.backend.calls

KERNELS = {kernel.__name__: kernel for kernel in (correlate, correlate_filters, correlate_inputs, round_all)}
