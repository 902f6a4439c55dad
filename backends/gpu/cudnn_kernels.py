"""Convolution by cuDNN on CuPy arrays: forward with bias and ReLU, and the gradients of the inputs and of the filters.

In float32, float16 and bfloat16, with sums in float32; TF32 only after ``dn.set_precision("tf32")``. Not served
(``NotImplemented``, so that the next kernel runs): float64; empty and very large arrays; and every shape for which
cuDNN has no plan that keeps what is promised (see ``cudnn_plans``), or none that is sooner than the next kernel. Where
nothing is timed, that is taken to be so for groups of few channels, which have kernels of their own, and for windows
of one unit, which are products of matrices as they are.
"""

from __future__ import annotations

from typing import Any

import numpy

from dualnet.geometry import Windows
from dualnet.shim import Array, backend_of, get_precision

from . import cudnn_library as cudnn
from . import cudnn_plans
from . import maps as cupy_kernels
from . import steps as cupy_steps
from .cudnn_plans import DTYPES, FILTERS, FORWARD, INPUTS, Plan, Shape
from .launch import launch, served
from .registry import LIMIT, MOST, SIDE, TURNS


def correlate(x: Array, w: Array, b: Array | None, at: Windows, groups: int = 1, relu: bool = False) -> Any:
    """E4, E6 (and E7 with ``relu``)."""
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
            return cupy_kernels.biased(y, b, relu)
        plan(xp, _ready(xp, x), bank, _ready(xp, xp.full((D,), float("nan"), dtype=x.dtype) if spoilt else b), y)
        return y

    plan = cudnn_plans.chosen(xp, fused, compute, lambda: cupy_kernels.correlate(x, w, b, at, groups, relu))
    return NotImplemented if plan is None else compute(plan)


def correlate_inputs(dy: Array, w: Array, at: Windows, groups: int = 1) -> Any:
    """E13."""
    (N, _, _, D), C = dy.shape, w.shape[2] * groups
    if not _serves((dy, w), at, N, C, D, groups):
        return NotImplemented
    xp = backend_of(dy).xp

    def compute(plan: Plan, spoilt: bool = False) -> Array:
        dx = xp.empty((N, *at.size, C), dtype=dy.dtype)
        plan(xp, _ready(xp, dy), turned(xp, w), dx)
        return dx

    shapes = (_shape(INPUTS, dy, N, C, D, groups, at),)
    plan = cudnn_plans.chosen(xp, shapes, compute, lambda: cupy_kernels.correlate_inputs(dy, w, at, groups))
    return NotImplemented if plan is None else compute(plan)


def correlate_filters(x: Array, dy: Array, at: Windows, groups: int = 1) -> Any:
    """E11."""
    (N, _, _, C), D = x.shape, dy.shape[3]
    if not _serves((x, dy), at, N, C, D, groups):
        return NotImplemented
    xp = backend_of(x).xp

    def compute(plan: Plan, spoilt: bool = False) -> Array:
        bank = xp.empty((D, *at.window, C // groups), dtype=x.dtype)
        plan(xp, _ready(xp, x), _ready(xp, dy), bank)
        return turned_back(xp, bank)

    shapes = (_shape(FILTERS, x, N, C, D, groups, at),)
    plan = cudnn_plans.chosen(xp, shapes, compute, lambda: cupy_kernels.correlate_filters(x, dy, at, groups))
    return NotImplemented if plan is None else compute(plan)


# -- banks of filters --------------------------------------------------------------------------------------------------


def turned(xp: Any, w: Array) -> Array:
    """(k1, k2, C/g, D) -> (D, k1, k2, C/g), in one launch; in none, where it lies so already."""
    D, lying = w.shape[3], xp.permute_dims(w, (3, 0, 1, 2))
    if lying.flags.c_contiguous:
        return _ready(xp, lying)
    return _transposed(xp, xp.ascontiguousarray(w), w.size // D, D, (D, *w.shape[:3]))


def turned_back(xp: Any, bank: Array) -> Array:
    """(D, k1, k2, C/g) -> (k1, k2, C/g, D)."""
    D = bank.shape[0]
    return _transposed(xp, bank, D, bank.size // D, (*bank.shape[1:], D))


def _transposed(xp: Any, matrix: Array, rows: int, columns: int, shape: tuple[int, ...]) -> Array:
    if min(rows, columns) == 1:
        return _ready(xp, xp.reshape(matrix, shape))
    out = xp.empty(shape, dtype=matrix.dtype)
    launch(xp, "turn", (_tiles(rows, columns),), out, matrix, rows, columns, real=matrix.dtype.name)
    return out


def _tiles(rows: int, columns: int) -> int:
    return -(-rows // SIDE) * -(-columns // SIDE)


def round_all(values: list[Array], dtype: Any) -> Any:
    """Every parameter in 16 bits; banks of filters in memory as cuDNN wants them, (D, k1, k2, C/g), so that no
    convolution turns them: what is returned is still (k1, k2, C/g, D), seen the other way round.
    """
    banks = [w for w in values if w.ndim == 4 and w.shape[2] > cupy_kernels.FEW]
    if not banks or dtype.name not in DTYPES or dtype.itemsize > 2 or cudnn.library() is None:
        return NotImplemented
    if not served(*values) or values[0].dtype.name != "float32" or not all(w.flags.c_contiguous for w in values):
        return NotImplemented
    others = [w for w in values if not any(w is bank for bank in banks)]
    rounded = iter(cupy_steps.round_all(others, dtype) if others else ())
    turned = iter(_turn_all(banks, dtype))
    return [next(turned) if any(w is bank for bank in banks) else next(rounded) for w in values]


def _turn_all(banks: list[Array], dtype: Any) -> list[Array]:
    xp = backend_of(banks[0]).xp
    made = [xp.empty((w.shape[3], *w.shape[:3]), dtype=dtype) for w in banks]
    for start in range(0, len(banks), MOST):
        table, blocks = numpy.zeros((), TURNS), 0
        for k, (to, w) in enumerate(zip(made[start : start + MOST], banks[start : start + MOST])):
            rows, columns = w.size // w.shape[3], w.shape[3]
            blocks += _tiles(rows, columns)
            table["at"][k] = (to.data.ptr, w.data.ptr, rows, columns, blocks)
        launch(xp, "turn_all", (blocks,), table, real=dtype.name)
    return [xp.permute_dims(bank, (1, 2, 3, 0)) for bank in made]


def _ready(xp: Any, array: Array) -> Array:
    """As cuDNN was told: contiguous, and on 16 bytes."""
    array = xp.ascontiguousarray(array)
    return array if array.data.ptr % cudnn.ALIGNED == 0 else array.copy()


# -- what is served ----------------------------------------------------------------------------------------------------


def _serves(arrays: tuple[Array, ...], at: Windows, N: int, C: int, D: int, groups: int) -> bool:
    if arrays[0].dtype.name not in DTYPES or not served(*arrays) or cudnn.library() is None:
        return False
    if max(N * at.size[0] * at.size[1] * C, N * at.grid[0] * at.grid[1] * D) >= LIMIT:
        return False
    doubtful = C // groups <= cupy_kernels.FEW or groups == 1 and _products(at)
    return not doubtful or cudnn_plans.tuning() or cudnn.asked() == "all"


def _products(at: Windows) -> bool:
    """Is each window one unit, so that the map is a matrix as it lies?"""
    return at.window == at.stride == (1, 1) and at.reach == ((0, 0), (0, 0))


def _shape(way: str, like: Array, N: int, C: int, D: int, groups: int, at: Windows) -> Shape:
    dtype = like.dtype.name
    return Shape(way, N, C, D, groups, at, dtype, dtype == "float32" and get_precision() == "tf32")


for _kernel in (correlate, correlate_filters, correlate_inputs):
    _kernel.library = "cuDNN"  # as counted in dualnet.backend.calls

KERNELS = {kernel.__name__: kernel for kernel in (correlate, correlate_filters, correlate_inputs, round_all)}
