"""Matrix products by cuBLAS, through our own handle.

CuPy does not call cuBLAS while a CUDA graph is recorded, because its handle has no workspace of its own. Ours has one
for each stream, and a workspace that a recording used stays until the process ends. So products can be recorded, and a
step launched from Python makes the same calls. The library is the one that CuPy uses.
"""

from __future__ import annotations

import ctypes
import functools
import threading
from typing import Any

from dualnet.shim import Array, backend_of, get_precision

from .graph import lasting
from .registry import WIDE

WORKSPACE_BYTES = 32 * 2**20
"""The size that cuBLAS chooses by itself on an H100."""
TYPES = {"float32": 0, "float64": 1, "float16": 2, "bfloat16": 14}
"""cudaDataType."""
COMPUTE = {"float32": 68, "float64": 70, "float16": 68, "bfloat16": 68}
"""cublasComputeType: sums in float32, or in float64."""
TF32 = 77
"""cublasComputeType: float32 with the factors rounded to TF32."""
FULL_SUMS = 16
"""CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION: when blocks share a sum, its parts stay in float32 too.

By default the parts may have the type of the result. Then a part can exceed the largest float16 even if the sum does
not. The mode does not choose the precision of the factors: each product does, with its compute type.
"""
SYMBOLS = (
    "cublasCreate_v2",
    "cublasSetMathMode",  # without _v2: it was added after the second interface
    "cublasSetStream_v2",
    "cublasSetWorkspace_v2",
    "cublasGemmEx",
    "cublasGetVersion_v2",
)


def product(a: Array, b: Array, out: Array | None = None, add: bool = False) -> Any:
    """(M, K) × (K, D) -> (M, D), into ``out`` if given; ``NotImplemented`` for arrays that cuBLAS does not take.

    a and b may be transposed views; ``out`` is C-contiguous, and may be float32 if they have 16 bits. With ``add`` the
    product is added to ``out``.
    """
    cublas, kind = library(), a.dtype.name
    result = kind if out is None else out.dtype.name
    if cublas is None or kind not in TYPES or b.dtype != a.dtype or result not in (kind, WIDE.get(kind)):
        return NotImplemented
    (M, K), D = a.shape, b.shape[1]
    ours, theirs = _layout(a), _layout(b)
    if ours is None or theirs is None or not (M and K and D):
        return NotImplemented
    xp = backend_of(a).xp
    if out is None:
        out = xp.empty((M, D), dtype=a.dtype)
    compute = TF32 if kind == "float32" and get_precision() == "tf32" else COMPUTE[kind]
    one, zero = _SCALARS[kind == "float64"]
    # cuBLAS is column-major: it computes the transposed product, outᵀ (D, M) = bᵀ aᵀ
    _check(
        cublas.cublasGemmEx(
            _handle(cublas, xp), theirs[0], ours[0], D, M, K, one,
            b.data.ptr, TYPES[kind], theirs[1], a.data.ptr, TYPES[kind], ours[1],
            one if add else zero, out.data.ptr, TYPES[result], D, compute, -1,
        ),
        "cublasGemmEx",
    )  # fmt: skip
    return out


def _layout(a: Array) -> tuple[int, int] | None:
    """Whether cuBLAS must transpose (0 or 1), and the leading dimension; None for a layout that it does not take."""
    (rows, columns), (down, right), size = a.shape, a.strides, a.itemsize
    if right == size and (down >= columns * size or rows == 1) and down % size == 0:
        return 0, max(down // size, columns) if rows > 1 else columns
    if down == size and (right >= rows * size or columns == 1) and right % size == 0:
        return 1, max(right // size, rows) if columns > 1 else rows
    return None


@functools.cache
def library() -> Any:
    """cuBLAS, or None if it cannot be loaded."""
    try:
        from cuda.pathfinder import load_nvidia_dynamic_lib

        found = ctypes.CDLL(load_nvidia_dynamic_lib("cublas").abs_path)
    except Exception:  # the finder raises its own exceptions
        return None
    return declared(found)


def declared(found: Any) -> Any:
    """The library with the argument types of its functions; None if one of them is missing."""
    if not all(hasattr(found, symbol) for symbol in SYMBOLS):
        return None
    pointer, integer = ctypes.c_void_p, ctypes.c_int
    found.cublasCreate_v2.argtypes = [ctypes.POINTER(pointer)]
    found.cublasSetMathMode.argtypes = [pointer, integer]
    found.cublasSetStream_v2.argtypes = [pointer, pointer]
    found.cublasSetWorkspace_v2.argtypes = [pointer, pointer, ctypes.c_size_t]
    found.cublasGetVersion_v2.argtypes = [pointer, ctypes.POINTER(integer)]
    matrix = [pointer, integer, integer]
    found.cublasGemmEx.argtypes = [
        pointer, *[integer] * 5, pointer, *matrix, *matrix, pointer, *matrix, integer, integer,
    ]  # fmt: skip
    return found


def version(xp: Any) -> str:
    """The library's version, such as ``"12.8.4"``; "" if it is not used."""
    cublas, number = library(), ctypes.c_int()
    if cublas is None:
        return ""
    _check(cublas.cublasGetVersion_v2(_handle(cublas, xp), ctypes.byref(number)), "cublasGetVersion")
    return f"{number.value // 10000}.{number.value // 100 % 100}.{number.value % 100}"


# -- handles -----------------------------------------------------------------------------------------------------------

_held = threading.local()
_recorded: dict[int, Array] = {}
"""Workspaces that graphs use: never freed, even after the thread that recorded has ended."""


class Handle:
    """A cuBLAS handle of one thread on one device, with a workspace for each stream that it has worked on."""

    def __init__(self, cublas: Any) -> None:
        self.pointer, self.stream = ctypes.c_void_p(), None
        self.workspaces: dict[int, Array] = {}
        _check(cublas.cublasCreate_v2(ctypes.byref(self.pointer)), "cublasCreate")
        _check(cublas.cublasSetMathMode(self.pointer, FULL_SUMS), "cublasSetMathMode")


def _handle(cublas: Any, xp: Any) -> ctypes.c_void_p:
    """This thread's handle, set to CuPy's current device and stream."""
    handles = _held.__dict__.setdefault("handles", {})
    device = xp.cuda.runtime.getDevice()
    handle = handles.get((cublas, device))
    if handle is None:
        handle = handles[cublas, device] = Handle(cublas)
    current = xp.cuda.get_current_stream()
    stream = current.ptr
    if stream != handle.stream:
        if stream not in handle.workspaces:
            with lasting(xp):
                handle.workspaces[stream] = xp.empty((WORKSPACE_BYTES,), dtype="uint8")
        workspace = handle.workspaces[stream]
        _check(cublas.cublasSetStream_v2(handle.pointer, stream), "cublasSetStream")  # this drops the workspace
        _check(cublas.cublasSetWorkspace_v2(handle.pointer, workspace.data.ptr, WORKSPACE_BYTES), "cublasSetWorkspace")
        handle.stream = stream
    if current.is_capturing():
        _recorded[id(handle.workspaces[stream])] = handle.workspaces[stream]
    return handle.pointer


def _check(status: int, call: str) -> None:
    if status:
        raise RuntimeError(f"{call} failed with status {status}")


def _scalar(kind: Any, value: float) -> Any:
    return ctypes.byref(kind(value))


_SCALARS = {
    double: tuple(_scalar(ctypes.c_double if double else ctypes.c_float, value) for value in (1.0, 0.0))
    for double in (False, True)
}
"""1 and 0 for α and β, at addresses of the host that cuBLAS can read."""
