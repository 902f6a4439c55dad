"""What plug-in backends, layers of your own and curious notebooks import: the names of :mod:`dualnet.shim`.

>>> from dualnet.backend import Backend, BackendUnavailable, backend_of
>>> import dualnet as dn
>>> backend_of(dn.asarray([1.0], backend="numpy")).name
'numpy'
"""

from .shim import (
    Array,
    Backend,
    BackendUnavailable,
    TransferForbidden,
    Transfers,
    accelerated,
    asarray,
    available_backends,
    backend_of,
    backend_states,
    calls,
    current,
    default_dtype,
    get_backend,
    get_precision,
    info,
    kernels_allowed,
    load,
    namespace,
    references,
    same_backend,
    set_backend,
    set_precision,
    to_numpy,
    transfers,
    use_backend,
)

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
