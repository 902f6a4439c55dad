"""NumPy on the host: the default, and the measure for every other backend."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy

from dualnet.shim import Backend, BackendUnavailable

from .cpu import columns as numpy_kernels
from .cpu import memory, threads
from .cpu import passes as numpy_passes
from .cpu import steps as numpy_steps
from .onednn import kernels as onednn_kernels
from .onednn import library as onednn

OWN = {**numpy_kernels.KERNELS, **numpy_passes.KERNELS, **numpy_steps.KERNELS}
KERNELS: dict[str, tuple[Callable[..., Any], ...]] = {
    name: tuple(kernels[name] for kernels in (onednn_kernels.KERNELS, OWN) if name in kernels)
    for name in (*OWN, *(name for name in onednn_kernels.KERNELS if name not in OWN))
}
"""oneDNN is asked first; it declines where it is not installed, or switched off."""


def load(device: int | None = None) -> Backend:
    """The NumPy backend. There is one host, so only device 0 exists."""
    if device not in (None, 0):
        raise BackendUnavailable(f"numpy:{device}: NumPy has no devices; say 'numpy'")
    memory.keep()
    return Backend(
        name="numpy",
        xp=numpy,
        array_types=(numpy.ndarray, numpy.generic),
        from_host=lambda host: host,
        to_host=numpy.asarray,  # a NumPy scalar becomes an array
        on_host=True,
        kernels=KERNELS,  # type: ignore[arg-type]
        describe=lambda: {"kernel threads": threads.count(), **onednn.describe()},
    )
