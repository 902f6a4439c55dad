"""NumPy's BLAS, called directly: its number of threads, and the matrix product that adds to its output.

NumPy cannot compute ``c += a @ b`` without a temporary array, nor multiply parts of larger matrices without copying
them. BLAS can do both. If the library or its functions cannot be found, ``library()`` is None or has no ``gemm``, and
the kernels manage without.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy

from . import tracing

COUNTS = (  # the calls that get and set the number of threads
    ("scipy_openblas_get_num_threads64_", "scipy_openblas_set_num_threads64_"),
    ("scipy_openblas_get_num_threads", "scipy_openblas_set_num_threads"),
    ("openblas_get_num_threads64_", "openblas_set_num_threads64_"),
    ("openblas_get_num_threads", "openblas_set_num_threads"),
    ("MKL_Get_Max_Threads", "MKL_Set_Num_Threads"),
)
PRODUCTS = (  # {} is s or d; and the width of an integer
    ("scipy_cblas_{}gemm64_", ctypes.c_int64),
    ("scipy_cblas_{}gemm", ctypes.c_int),
    ("cblas_{}gemm64_", ctypes.c_int64),
    ("cblas_{}gemm", ctypes.c_int),
)
ROWS, PLAIN, TRANSPOSED = 101, 111, 112


@dataclass
class Library:
    """A BLAS library: reads and sets its threads; ``gemm[dtype](...)`` calls its product, if it can be called."""

    name: str
    get: Callable[[], int]
    set: Callable[[int], Any]
    gemm: dict[numpy.dtype, Callable[..., None]] = field(default_factory=dict)


_found: list[Library | None] = []
_lock = threading.Lock()
_holders = [0, 0]  # how many callers hold BLAS now, and the number of threads to restore


def library() -> Library | None:
    """NumPy's BLAS, searched for once; None if its number of threads cannot be set."""
    if not _found:
        _found.append(_search())
    return _found[0]


class Held:
    """What :func:`held` returns. Every small product enters it, and a generator would take 1 µs longer."""

    def __enter__(self) -> None:
        found = _found[0] if _found else library()
        if found is None:
            return
        with _lock:
            if _holders[0] == 0:
                _holders[1] = found.get()
                if _holders[1] != 1:
                    found.set(1)
            _holders[0] += 1

    def __exit__(self, *error: object) -> None:
        found = _found[0] if _found else library()
        if found is None:
            return
        with _lock:
            _holders[0] = max(0, _holders[0] - 1)  # already 0 if the holder itself has forked
            if _holders[0] == 0 and _holders[1] != 1:
                found.set(_holders[1])


def _let_go() -> None:
    """In a forked child nothing holds BLAS: the holders were other threads, and a fork does not copy those."""
    found = library() if _holders[0] else None
    if found is not None and _holders[1] != 1:
        found.set(_holders[1])
    _holders[0] = 0
    _lock.release()


if hasattr(os, "register_at_fork"):  # so that no thread is in the middle of Held when a fork copies it
    os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_let_go)

_HELD = Held()  # it has no state of its own


def held() -> Held:
    """``with held():`` BLAS uses one thread; the last caller to leave restores the number it had."""
    return _HELD


class Released:
    """What :func:`released` returns."""

    def __enter__(self) -> None:
        found = library()
        if found is not None and _holders[0]:
            found.set(_holders[1])

    def __exit__(self, *error: object) -> None:
        found = library()
        if found is not None and _holders[0]:
            found.set(1)


def released() -> Released:
    """``with released():`` inside ``held()``, BLAS has its own number of threads for a moment."""
    return Released()


def is_held() -> bool:
    """Does BLAS use one thread now, because somebody holds it?"""
    return _holders[0] > 0 or library() is None


tracing._held[0] = is_held


def product(dtype: Any) -> Any:
    """BLAS's gemm for this dtype (:func:`_gemm` says how it is called), or None."""
    found = library()
    return found.gemm.get(numpy.dtype(dtype)) if found else None


def _gemm(call: Any, integer: Any, scalar: Any) -> Callable[..., None]:
    """``gemm(ta, tb, M, N, K, a, lda, b, ldb, beta, c, ldc)``: c (M, N) = op(a) op(b) + beta · c, by addresses.

    All matrices are stored row by row; lda, ldb, ldc are the distances between rows, in elements.
    """
    order = [ctypes.c_int] * 3
    pointer = ctypes.c_void_p
    call.argtypes = [*order, *[integer] * 3, scalar, pointer, integer, pointer, integer, scalar, pointer, integer]
    call.restype = None

    def gemm(ta: bool, tb: bool, M: int, N: int, K: int, *rest: Any) -> None:
        given = ROWS, TRANSPOSED if ta else PLAIN, TRANSPOSED if tb else PLAIN, M, N, K, 1.0, *rest
        call(*given)
        if tracing.tape() is not None:
            tracing.note_by_address(call, given, (7, 9), 12, adds=rest[4] != 0.0)

    return gemm


def _search() -> Library | None:
    for path in _paths():
        try:
            loaded = ctypes.CDLL(path)
        except OSError:
            continue
        for get, set_ in COUNTS:
            if hasattr(loaded, get) and hasattr(loaded, set_):
                return Library(os.path.basename(path), getattr(loaded, get), getattr(loaded, set_), _products(loaded))
    return None


def _products(loaded: ctypes.CDLL) -> dict[numpy.dtype, Callable[..., None]]:
    for name, integer in PRODUCTS:
        if hasattr(loaded, name.format("s")) and hasattr(loaded, name.format("d")):
            kinds = (("s", "float32", ctypes.c_float), ("d", "float64", ctypes.c_double))
            return {
                numpy.dtype(kind): _gemm(getattr(loaded, name.format(letter)), integer, scalar)
                for letter, kind, scalar in kinds
            }
    return {}


def _paths() -> list[str]:
    """The BLAS libraries that came with NumPy, and those that are loaded."""
    root = os.path.dirname(numpy.__file__)
    beside = [os.path.join(os.path.dirname(root), "numpy.libs"), os.path.join(root, ".dylibs")]
    paths = [os.path.join(folder, name) for folder in beside if os.path.isdir(folder) for name in os.listdir(folder)]
    try:
        with open("/proc/self/maps", encoding="utf-8") as maps:
            paths += {line.split(maxsplit=5)[-1].strip() for line in maps if ".so" in line}
    except OSError:
        pass
    return [path for path in sorted(set(paths)) if any(n in os.path.basename(path) for n in ("openblas", "mkl_rt"))]
