"""NumPy on the host: the default, the reference for every other backend; and in which order its kernels are asked."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy

from dualnet.shim import Backend, BackendUnavailable

from . import choice, tuned
from .cpu import (
    bands,
    columns,
    lines,
    losses,
    memory,
    rows,
    scatter,
    steps,
    table,
    taps,
    threads,
    tiny,
    tracing,
    winograd,
    winograd_rows,
)
from .cpu import dense as cpu_dense
from .cpu import passes as cpu_passes
from .cpu.recorder import Recorder
from .onednn import convolution as onednn
from .onednn import dense as onednn_dense
from .onednn import library as onednn_library
from .onednn import passes as onednn_passes
from .onednn import pooling as onednn_pooling

ORDER: dict[str, tuple[ModuleType, ...]] = {
    # convolution
    "correlate": (onednn, tiny, winograd_rows, winograd, bands, rows, columns, taps),
    "correlate_normalise": (onednn,),
    "parameter_gradients": (onednn, winograd_rows, winograd),
    "correlate_filters": (onednn, winograd_rows, winograd, bands, rows, columns, taps),
    "correlate_inputs": (onednn, winograd_rows, winograd, lines, bands, rows, tiny, columns, scatter, taps),
    # dense
    "affine": (onednn_dense, cpu_dense),
    # pooling
    "max_pool": (onednn_pooling, cpu_passes),
    "largest": (cpu_passes,),
    "max_unpool": (onednn_pooling, cpu_passes),
    "avg_pool": (onednn_pooling,),
    "avg_unpool": (onednn_pooling,),
    # activation, sums, batch norm
    "rectify": (onednn_passes, cpu_passes),
    "rectify_backward": (onednn_passes, cpu_passes),
    "add": (onednn_passes, cpu_passes),
    "channel_sum": (onednn_passes, cpu_passes),
    "channel_moments": (cpu_passes,),
    "batch_normalise": (onednn_passes,),
    "normalise": (onednn_passes, cpu_passes),
    "normalise_backward": (onednn_passes, cpu_passes),
    "masked": (cpu_passes,),
    # loss, optimizers
    "cross_entropy": (losses,),
    "sgd_updates": (onednn_passes, steps),
    "adam_updates": (steps,),
}
"""For each reference the algorithms that may stand in for it, in their usual order.

Each module holds a function with the reference's name, which returns ``NotImplemented`` to decline a call. oneDNN
declines every call if it is not installed, or is switched off. For a convolution, a different order may be faster for
some shapes on some machines: choice.py says which is asked first.
"""


def _kernel(name: str, algorithm: ModuleType) -> Callable[..., Any]:
    kernel: Any = getattr(algorithm, name)
    kernel.algorithm = getattr(algorithm, "ALGORITHM", "numpy")  # as counted in dualnet.backend.calls
    return kernel


KERNELS = {name: tuple(_kernel(name, algorithm) for algorithm in order) for name, order in ORDER.items()}
KERNELS.update({name: choice.Choice(KERNELS[name]) for name in choice.SHAPES})
choice.CANDIDATES.update({name: KERNELS[name] for name in table.ALL})
tuned.ALGORITHMS.update({name: tuple(getattr(one, "ALGORITHM", "numpy") for one in ORDER[name]) for name in table.ALL})


def load(device: int | None = None) -> Backend:
    """The NumPy backend. There is one host, so only device 0 exists."""
    if device not in (None, 0):
        raise BackendUnavailable(f"numpy:{device}: NumPy has no devices; use 'numpy'")
    memory.keep()
    return Backend(
        name="numpy",
        xp=numpy,
        array_types=(numpy.ndarray, numpy.generic),
        from_host=lambda host: host,
        to_host=tracing.read,
        on_host=True,
        kernels=KERNELS,  # type: ignore[arg-type]
        recorder=Recorder,
        lasting=tracing.lasting,
        watched=tracing.watched,
        plain=tracing.plain,
        describe=lambda: {"kernel threads": threads.count(), **onednn_library.describe()},
    )
