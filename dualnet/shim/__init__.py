"""The shim between readable mathematics and machines.

The environment variable ``DUALNET_BACKEND`` decides where arrays are created; the arrays decide what computes on them.
Everything above this folder is written once, against an array namespace ``xp``; everything below it (``backends/``)
knows one array library on one kind of device.

New arrays are created on the backend that the first of these names:

1. the ``backend=`` argument of :func:`asarray`
2. ``with dn.use_backend("cupy"):`` (this thread and its context only)
3. ``dn.set_backend("cupy")`` (the whole process; survives notebook cells)
4. the environment variable ``DUALNET_BACKEND``, read on first use
5. ``numpy``

Names are ``numpy | cupy | cupy:N | auto | strict | torch | torch:DEVICE | array_api_strict`` and whatever plug-ins add;
case does not matter. Only ``auto`` ever falls back, and :func:`info` says why. Only :func:`asarray`, :func:`to_numpy`
and ``net.to(...)`` copy between host and device.
"""

from .arrays import asarray, default_dtype, namespace, same_backend, to_numpy
from .choosing import current, get_backend, set_backend, use_backend
from .info import info
from .kernels import accelerated, calls, kernels_allowed, references
from .loading import (
    Array,
    Backend,
    BackendUnavailable,
    available_backends,
    backend_of,
    backend_states,
    get_precision,
    load,
    set_precision,
)
from .transfers import TransferForbidden, Transfers, transfers

__all__ = [
    "Array",
    "Backend",
    "BackendUnavailable",
    "TransferForbidden",
    "Transfers",
    "accelerated",
    "asarray",
    "available_backends",
    "backend_of",
    "backend_states",
    "calls",
    "current",
    "default_dtype",
    "get_backend",
    "get_precision",
    "info",
    "kernels_allowed",
    "load",
    "namespace",
    "references",
    "same_backend",
    "set_backend",
    "set_precision",
    "to_numpy",
    "transfers",
    "use_backend",
]
