"""Compiling and launching the kernels of the registry through CuPy, on its current device and stream.

A launch allocates nothing and copies nothing between host and device: everything that a kernel needs, such as sizes and
the addresses of many arrays, is an argument of the launch. So every launch can be captured in a CUDA graph.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy

from dualnet.shim import Array, backend_of

from . import sources
from .registry import KERNELS, LIMIT, REAL, TAP, WIDE, Kernel

NULL = numpy.uint64(0)
VECTOR_BYTES = 16
"""Bytes that one thread can read at once."""


def launch(
    xp: Any,
    name: str,
    grid: int | tuple[int, ...],
    *arguments: Any,
    real: str,
    pack: int = 1,
    tap: str = "uint8",
    pixel: str = "uint8",
) -> None:
    """Run a kernel. ``grid`` is the number of threads, or the number of blocks as a tuple.

    Arrays must be C-contiguous, in the dtypes that the kernel's signature and ``real`` say; None is a null pointer.
    """
    kernel = KERNELS[name]
    blocks = grid if isinstance(grid, tuple) else (-(-grid // kernel.block[0]),)
    function = _function(xp, kernel, real, pack, tap, pixel)
    function(blocks, kernel.block, _converted(kernel, arguments, WIDE[real]))


def _converted(kernel: Kernel, arguments: tuple, wide: str) -> tuple:
    """Each argument as its type requires; structures become plain bytes, in a NumPy array without axes.

    CuPy passes such an array by value. It asks NumPy for the address, and NumPy then describes every field as well:
    51 µs for the fields of ``Windows``, 2 µs for bytes.
    """
    made = []
    for kind, value in zip(kernel.types, arguments, strict=True):
        if kind in sources.INTEGERS:
            value = sources.INTEGERS[kind](value)
        elif kind == sources.WIDE:
            value = numpy.dtype(wide).type(value)
        elif value is None:
            value = NULL
        elif isinstance(value, numpy.ndarray):
            value = value.view(_plain(value.itemsize))
        made.append(value)
    return tuple(made)


@functools.cache
def _plain(size: int) -> numpy.dtype:
    """The dtype of ``size`` bytes without fields."""
    return numpy.dtype((numpy.void, size))


@functools.cache
def _function(xp: Any, kernel: Kernel, real: str, pack: int, tap: str, pixel: str) -> Any:
    options = defines(kernel, real, pack, tap, pixel)
    return _module(xp, kernel.file, options).get_function(kernel.name)


@functools.cache
def _module(xp: Any, file: str, options: tuple[str, ...]) -> Any:
    return xp.RawModule(code=sources.source(file), options=options)


def defines(kernel: Kernel, real: str, pack: int = 1, tap: str = "uint8", pixel: str = "uint8") -> tuple[str, ...]:
    """The compiler's options for one combination of types, such as ``-DREAL=float``."""
    chosen = {"REAL": REAL[real], "PACK": str(pack), "TAP": TAP[tap], "PIXEL": _c_name(pixel)}
    return tuple(f"-D{name}={chosen[name]}" for name in kernel.options)


def _c_name(dtype: str) -> str:
    return "unsigned char" if dtype == "uint8" else REAL[dtype]


# -- what kernels can take ---------------------------------------------------------------------------------------------


def served(*arrays: Array) -> bool:
    """Do the arrays share a dtype that kernels compute with, and is none empty or too large?"""
    first = arrays[0].dtype
    return first.name in REAL and all(a.dtype == first and 0 < a.size < LIMIT for a in arrays)


def packing(channels: int, *arrays: Array) -> int:
    """How many neighbouring channels one thread reads at once: as many as divide ``channels``, in aligned arrays."""
    itemsize = arrays[0].itemsize
    pack = VECTOR_BYTES // itemsize
    while pack > 1 and (channels % pack or any(a.data.ptr % (pack * a.itemsize) for a in arrays)):
        pack //= 2
    return pack


def contiguous(*arrays: Array | None) -> list[Array | None]:
    """Each array C-contiguous, as kernels read it; None stays None."""
    return [None if a is None else backend_of(a).xp.ascontiguousarray(a) for a in arrays]


def empty_like(w: Array) -> Array:
    """A new array with the shape and dtype of ``w``."""
    return backend_of(w).xp.empty(w.shape, dtype=w.dtype)
