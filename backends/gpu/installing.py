"""Which CuPy and which driver are installed, and the command that installs the right CuPy."""

from __future__ import annotations

import ctypes
import importlib.metadata

WHEELS = ("cupy", "cupy-cuda11x", "cupy-cuda12x", "cupy-cuda13x")
"""Distributions with a module ``cupy``: two of them would overwrite each other's files."""


def installed(wheel: str) -> bool:
    """Is this distribution installed?"""
    try:
        return bool(importlib.metadata.version(wheel))
    except importlib.metadata.PackageNotFoundError:
        return False


def install_line(driver: int | None = None) -> str:
    """The command that installs the CuPy for a driver, for this machine's if none is given."""
    driver = driver_version() if driver is None else driver
    if driver:
        return f'pip install "dualnet[{"cuda13x" if driver >= 13000 else "cuda12x"}]"'
    return 'pip install "dualnet[cuda12x]" (for a CUDA 13 driver: "dualnet[cuda13x]")'


def driver_version() -> int:
    """The CUDA version that the NVIDIA driver supports, such as 12080; 0 without a driver. Needs no CuPy."""
    for library in ("libcuda.so.1", "nvcuda.dll"):
        version = ctypes.c_int()
        try:
            ctypes.CDLL(library).cuDriverGetVersion(ctypes.byref(version))
        except (OSError, AttributeError):  # in a browser, opening it a second time succeeds, and it is empty
            continue
        return version.value
    return 0


def first_line(error: Exception) -> str:
    """The error's type and the first line of its message that has words."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip(" =*-")]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def dotted(number: int) -> str:
    """12080 -> "12.8"."""
    return f"{number // 1000}.{number % 1000 // 10}"
