"""The seam between readable mathematics and machines.

The environment variable ``DUALNET_BACKEND`` decides where arrays are born; the arrays decide what computes on them.
Everything above this file is written once, against an array namespace ``xp``; everything below it (``backends/``)
knows one array library on one kind of device.

Which backend new arrays are born on, the first of these that speaks:

1. the ``backend=`` argument of :func:`asarray`
2. ``with dn.use_backend("cupy"):`` (this thread and its context only)
3. ``dn.set_backend("cupy")`` (the whole process; survives notebook cells)
4. the environment variable ``DUALNET_BACKEND``, read on first use
5. ``numpy``

Names are ``numpy | cupy | cupy:N | auto | strict`` and whatever plug-ins add; case does not matter. Only ``auto`` ever
falls back, and :func:`info` says why. Only :func:`asarray`, :func:`to_numpy` and ``net.to(...)`` copy between host and
device.
"""

from __future__ import annotations

import functools
import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import numpy

from .dtypes import FLOATING, dtype_of, is_floating, is_half, is_real
from .environment import reader as reader  # for the kernels, as in_forked_child and lock
from .loading import (
    Array,
    Backend,
    BackendUnavailable,
    available_backends,
    backend_of,
    backend_states,
    get_precision,
    load,
    resolve,
    set_precision,
)
from .locks import in_forked_child as in_forked_child
from .locks import lock as lock
from .traffic import TransferForbidden, Transfers, record, transfers

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
    "current",
    "default_dtype",
    "get_backend",
    "get_precision",
    "info",
    "kernels_allowed",
    "load",
    "namespace",
    "same_backend",
    "set_backend",
    "set_precision",
    "to_numpy",
    "transfers",
    "use_backend",
]

_kernels = reader("DUALNET_KERNELS")
_FLOATING_DTYPES = frozenset(map(numpy.dtype, ("float16", "float32", "float64")))  # of native byte order alone


# -- choosing ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Choice:
    """A backend, what chose it, and why ``auto`` fell back, where it did.

    >>> with use_backend("strict"):
    ...     chosen().by, chosen().backend.name
    ('use_backend', 'strict')
    """

    backend: Backend
    by: str
    fell_back: str = ""


@dataclass
class _Process:
    """What holds for the whole process."""

    called: Choice | None = None  # by set_backend
    environment: Choice | None = None  # by DUALNET_BACKEND when it was first needed, or the default
    seen: str = ""  # the value of DUALNET_BACKEND when it was last looked at


_process = _Process()
_in_context: ContextVar[Choice | None] = ContextVar("dualnet_backend", default=None)


def set_backend(name: str) -> None:
    """Choose the backend on which new arrays are born, for the whole process.

    Raises ``ValueError`` for an unknown name and :class:`BackendUnavailable` for one that cannot run here.

    >>> import dualnet as dn
    >>> before = dn.get_backend()
    >>> dn.set_backend("numpy"); dn.get_backend()
    'numpy'
    >>> dn.set_backend(before)
    """
    _process.called = _choose(name, "set_backend")


@contextmanager
def use_backend(name: str) -> Iterator[str]:
    """Choose the backend inside a ``with`` block, for this thread (or task) alone.

    >>> import dualnet as dn
    >>> with dn.use_backend("strict"):
    ...     dn.get_backend()
    'strict'
    """
    choice = _choose(name, "use_backend")
    token = _in_context.set(choice)
    try:
        yield choice.backend.name
    finally:
        _in_context.reset(token)


def get_backend() -> str:
    """The name of the backend on which new arrays are born, such as ``"numpy"`` or ``"cupy:0"``.

    >>> import dualnet as dn
    >>> dn.get_backend() in dn.available_backends() + ["cupy:0"]
    True
    """
    return current().name


def current() -> Backend:
    """The backend in force (see the order at the top of this file).

    >>> import dualnet as dn
    >>> current().name == dn.get_backend()
    True
    """
    return chosen().backend


def chosen() -> Choice:
    """The backend in force, and what chose it.

    >>> import dualnet as dn
    >>> with dn.use_backend("numpy"):
    ...     chosen().by
    'use_backend'
    """
    return _in_context.get() or _process.called or _from_environment()


def _from_environment() -> Choice:
    asked = os.environ.get("DUALNET_BACKEND", "").strip().lower()
    choice = _process.environment
    if choice is None:
        try:
            choice = _choose(asked or "numpy", f"DUALNET_BACKEND={asked}" if asked else "default")
        except (ValueError, BackendUnavailable) as error:
            raise type(error)(f"DUALNET_BACKEND={asked}: {error}") from None
        _process.environment, _process.seen = choice, asked
    elif asked != _process.seen:
        _process.seen = asked
        wanted = asked or "numpy"
        if wanted not in (choice.backend.name, choice.by.partition("=")[2]):
            warnings.warn(
                f"DUALNET_BACKEND became {asked!r} after {choice.backend.name!r} was already in use, and is not read "
                f"again. To change the backend now, call dn.set_backend({wanted!r}).",
                stacklevel=5,
            )
    return choice


def _choose(name: str, by: str) -> Choice:
    backend, cause = resolve(name)
    return Choice(backend, by, cause)


# -- arrays and where they live ----------------------------------------------------------------------------------------


def namespace(op: str, **arrays: Array | None) -> Any:
    """The array namespace ``xp`` of an op's arguments, once they are known to fit together.

    They must be arrays, of one backend and of one floating dtype; None is passed over. Otherwise a ``TypeError``
    names the argument, where it lives and the fix.

    >>> import dualnet as dn
    >>> xp = namespace("double", x=dn.asarray([1.0]), b=None)
    >>> namespace("double", x=[1.0])
    Traceback (most recent call last):
    ...
    TypeError: double: x is a list; expected an array. Make one with dn.asarray(x).
    """
    first = None
    for argument, array in arrays.items():
        if array is None:
            continue
        backend = _owner(op, argument, array)
        if first is None:
            first, one, where = argument, array, backend
            if array.dtype not in _FLOATING_DTYPES and array.dtype.name != "bfloat16":
                raise TypeError(
                    f"{op}: {argument} has dtype {array.dtype}; expected one of {', '.join(FLOATING)}. "
                    f"Convert it with dn.asarray({argument}, dtype='float32')."
                )
        elif backend is not where:
            raise _apart(op, first, where, argument, backend)
        elif array.dtype != one.dtype:
            raise TypeError(
                f"{op}: {first} is {one.dtype} and {argument} is {array.dtype}; expected one dtype. "
                + _way_to_one(first, one, argument, array)
            )
    if first is None:
        raise TypeError(f"{op}: expected at least one array")
    return where.xp


def _way_to_one(first: str, one: Array, argument: str, array: Array) -> str:
    if is_half(one.dtype) and array.dtype.name == "float32":
        return (
            f"If {argument} is a parameter: in a network of {one.dtype} its value is float32, and a layer computes "
            f"with self.{argument}.cast({first}.dtype) in place of self.{argument}.value. Else convert one with "
            f"dn.asarray({argument}, dtype='{one.dtype}')."
        )
    return f"Convert one with dn.asarray({argument}, dtype='{one.dtype}')."


def same_backend(op: str, **arrays: Array) -> Any:
    """Like :func:`namespace`, for arguments of any dtype (integer targets beside floating predictions).

    >>> import dualnet as dn
    >>> xp = same_backend("loss", y=dn.asarray([0.5]), t=dn.asarray([1]))
    """
    (first, where), *others = ((argument, _owner(op, argument, array)) for argument, array in arrays.items())
    for argument, backend in others:
        if backend is not where:
            raise _apart(op, first, where, argument, backend)
    return where.xp


def _apart(op: str, first: str, where: Backend, argument: str, backend: Backend) -> TypeError:
    return TypeError(
        f"{op}: {first} lives on {where.name} and {argument} on {backend.name}; expected all on one backend. "
        f"Move one with dn.asarray({argument}, backend={where.name!r}), or a whole network with net.to(...)."
    )


def _owner(op: str, argument: str, array: Array) -> Backend:
    backend = backend_of(array)
    if backend is None:
        raise TypeError(
            f"{op}: {argument} is a {type(array).__name__}; expected an array. Make one with dn.asarray({argument})."
        )
    return backend


def asarray(x: Any, dtype: Any = None, *, backend: str | None = None) -> Array:
    """An array on the backend in force (or on ``backend``), copied from host or device only where it must be.

    Arrays keep their dtype; Python numbers become the default dtype if they are floating. Objects, strings and complex
    numbers raise ``TypeError``; big-endian arrays become native ones. On NumPy the result may share memory with ``x``.

    >>> import dualnet as dn
    >>> dn.asarray([[1.0, 2.0]]).dtype.name
    'float32'
    """
    target = load(backend) if backend is not None else current()
    source = backend_of(x)
    if source is target and not target.on_host:
        return x.astype(_dtype(x.dtype if dtype is None else dtype), copy=False)
    host = _host_array(x if source is None else to_numpy(x), dtype)
    if not target.on_host:
        record("to_device", host.nbytes)
    return target.from_host(host)


def _host_array(x: Any, dtype: Any) -> numpy.ndarray:
    if hasattr(x, "filled"):
        raise TypeError("asarray: a masked array has gaps; fill them first, with x.filled(value)")
    try:
        host = numpy.asarray(x)
    except (ValueError, TypeError) as error:
        raise TypeError(f"asarray: cannot make an array of {type(x).__name__}: {error}") from None
    own = _dtype(host.dtype)
    if dtype is None:
        dtype = default_dtype() if is_floating(own) and not hasattr(x, "dtype") else own
    return host.astype(_dtype(dtype), copy=False)


def _dtype(dtype: Any) -> numpy.dtype:
    result = dtype_of(dtype)
    if not is_real(result) or result.itemsize > 8:
        raise TypeError(f"asarray: dtype {result} is not supported; expected real numbers (bool, integer, float)")
    return result


def to_numpy(x: Array) -> numpy.ndarray:
    """The array on the host, as a NumPy array. Copies from a device; a host array is returned as it is.

    >>> import dualnet as dn
    >>> dn.to_numpy(dn.asarray([1.0, 2.0]))
    array([1., 2.], dtype=float32)
    """
    backend = backend_of(x)
    if backend is None:
        return numpy.asarray(x)
    if not backend.on_host:
        record("to_host", x.nbytes)
    return backend.to_host(x)


def default_dtype() -> str:
    """What new networks compute in: ``DUALNET_DTYPE``, or ``"float32"``.

    >>> default_dtype() in ("float16", "bfloat16", "float32", "float64")
    True
    """
    name = os.environ.get("DUALNET_DTYPE", "").strip().lower() or "float32"
    if name not in FLOATING:
        raise ValueError(f"DUALNET_DTYPE: unknown dtype {name!r}; expected one of {', '.join(FLOATING)}")
    return name


# -- fast code that stands in by name ----------------------------------------------------------------------------------

references: dict[str, Callable[..., Any]] = {}
"""Every function marked :func:`accelerated`, by name."""

calls: Counter[tuple[str, str]] = Counter()
"""How often each accelerated function was served, by ``(name, "kernel of numpy" or "reference")``."""


def accelerated(reference: Callable[..., Any]) -> Callable[..., Any]:
    """Mark a readable function as a reference, for which a backend may carry a kernel of the same name and signature.

    The kernels of the first argument's backend (an array's, or that of a list's first) are asked in their order; one
    that cannot serve the call returns ``NotImplemented``, and the next or in the end the reference runs.
    ``DUALNET_KERNELS=reference`` turns all off.

    >>> from dualnet.ops.convolution import im2col
    >>> im2col is references["im2col"]
    True
    """
    name = reference.__name__
    place = (reference.__module__, reference.__qualname__)
    if name in references and (references[name].__module__, references[name].__qualname__) != place:
        raise ValueError(f"two references are named {name!r}: a kernel would stand in for both")

    @functools.wraps(reference)
    def dispatch(x: Array, /, *args: Any, **options: Any) -> Any:
        backend = backend_of(x[0] if type(x) is list else x)
        if backend is not None and name in backend.kernels and kernels_allowed():
            standing_in = backend.kernels[name]
            for kernel in (standing_in,) if callable(standing_in) else standing_in:
                result = kernel(x, *args, **options)
                if result is not NotImplemented:
                    calls[name, f"kernel of {getattr(kernel, 'library', backend.name)}"] += 1
                    return result
        calls[name, "reference"] += 1
        return reference(x, *args, **options)

    dispatch.reference = reference  # type: ignore[attr-defined]
    references[name] = dispatch
    return dispatch


def kernels_allowed() -> bool:
    """False under ``DUALNET_KERNELS=reference``.

    >>> kernels_allowed() in (True, False)
    True
    """
    if (asked := _kernels()) == "":
        return True  # as in most calls
    asked = asked.strip().lower()
    if asked not in ("", "auto", "reference"):
        raise ValueError(f"DUALNET_KERNELS is 'auto' or 'reference', got {asked!r}")
    return asked != "reference"


def info() -> dict[str, Any]:
    """What runs here: versions, the backend in force and why, the others and why not, kernels, BLAS and threads.

    The dictionary prints as a table.

    >>> import dualnet as dn
    >>> list(dn.info())[:3]
    ['dualnet', 'python', 'numpy']
    """
    from .about import report

    return report()
