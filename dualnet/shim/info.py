"""What runs here, and why: the table behind ``dn.info()`` and ``dualnet info``."""

from __future__ import annotations

import os
import platform
from typing import Any

import numpy

from ..version import __version__
from .arrays import default_dtype
from .choosing import chosen
from .kernels import calls, counting, kernels_allowed, why
from .loading import backend_states, get_precision

__all__ = ["Info", "info"]

THREADS = ("DUALNET_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class Info(dict):
    """A dictionary that prints as a table.

    >>> Info({"backend": "numpy", "backends": {"numpy": "available", "cupy": "CuPy is not installed"}})
    backend   numpy
    backends  numpy: available
              cupy: CuPy is not installed
    """

    def __str__(self) -> str:
        width = max(map(len, self), default=0)
        rows = ((key, line) for key, value in self.items() for key, line in _rows(key, value))
        return "\n".join(f"{key:<{width}}  {line}".rstrip() for key, line in rows)

    __repr__ = __str__


def _rows(key: str, value: Any) -> list[tuple[str, str]]:
    if isinstance(value, dict):
        lines = [f"{name}: {item}" for name, item in value.items()]
    else:
        lines = [", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)]
    lines = [line for line in lines if line] or ["none"]
    return [("" if i else key, line) for i, line in enumerate(lines)]


def info() -> Info:
    """What runs here: versions, the current backend and what chose it, why others do not run, kernels, BLAS, threads.

    The dictionary prints as a table.

    >>> import dualnet as dn
    >>> list(dn.info())[:3]
    ['dualnet', 'python', 'numpy']
    """
    choice = chosen()
    backend = choice.backend
    with counting:
        ran = sorted(calls.items())
    blas = numpy.show_config(mode="dicts").get("Build Dependencies", {}).get("blas", {})
    table = Info(
        {
            "dualnet": __version__,
            "python": platform.python_version(),
            "numpy": numpy.__version__,
            "blas": f"{blas.get('name', 'unknown')} {blas.get('version', '')}".strip(),
            "cores": os.cpu_count(),
            "threads": {name: os.environ[name] for name in THREADS if name in os.environ} or "not limited",
            "backend": backend.name,
            "chosen by": f"{choice.by} (auto fell back: {choice.fell_back})" if choice.fell_back else choice.by,
            "backends": backend_states(),
            "dtype": default_dtype(),
            "precision": get_precision(),
            "kernels": sorted(backend.kernels) if kernels_allowed() else "off (DUALNET_KERNELS=reference)",
            "ran": {f"{name} ({by})": f"{times} times" for (name, by), times in ran},
            "why": why(),
        }
    )
    table.update(backend.describe())
    return table
