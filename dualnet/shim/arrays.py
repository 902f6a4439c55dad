"""Arrays: where they live, whether they fit together, and how to make and copy them."""

from __future__ import annotations

import os
import sys
from collections.abc import Collection
from typing import Any

import numpy

from .choosing import current
from .dtypes import FLOATING, dtype_of, is_floating, is_half, is_real
from .loading import Array, Backend, backend_of, load
from .transfers import record

__all__ = ["asarray", "default_dtype", "namespace", "same_backend", "to_numpy"]


_FLOATING_DTYPES = frozenset(map(numpy.dtype, ("float16", "float32", "float64")))  # in native byte order only


def namespace(op: str, /, *, optional: Collection[str] = (), **arrays: Array | None) -> Any:
    """Check that an op's arguments fit together, and return the array namespace ``xp`` to compute with.

    They must be arrays of one backend and one floating dtype. Only those named in ``optional`` may be None. Otherwise a
    ``TypeError`` names the argument, where it lives and the fix.

    >>> import dualnet as dn
    >>> xp = namespace("double", x=dn.asarray([1.0]), b=None, optional=["b"])
    >>> namespace("double", x=[1.0])
    Traceback (most recent call last):
    ...
    TypeError: double: x is a list; expected an array. Make one with dn.asarray(x).
    """
    first = None
    for argument, array in arrays.items():
        if array is None and argument in optional:
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
            f"If {argument} is a parameter, write self.{argument}.cast({first}.dtype) instead of "
            f"self.{argument}.value: in a network of {one.dtype} the value is float32. Else convert one with "
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
        raise TypeError(f"{op}: {not_an_array(argument, array)}")
    return backend


def not_an_array(argument: str, value: Any) -> str:
    """What to say about an argument that is not an array.

    >>> not_an_array("x", None), not_an_array("x", (1.0, 2.0))
    ('x is None; expected an array.', 'x is a tuple; expected an array. Make one with dn.asarray(x).')
    """
    if value is None:
        return f"{argument} is None; expected an array."
    return f"{argument} is a {type(value).__name__}; expected an array. Make one with dn.asarray({argument})."


def asarray(x: Any, dtype: Any = None, *, backend: str | None = None, copy: bool | None = None) -> Array:
    """An array on the current backend (or on ``backend``), copied from host or device only if it must be.

    x is an array, numbers in lists, or any object that lends its memory through ``__dlpack__``: a tensor of PyTorch
    (its gradient is left behind, as by ``detach``; bfloat16 needs ``pip install "dualnet[bfloat16]"``), or JAX's.
    On NumPy the result may share memory with x, and so may arrays of another library on the same GPU.

    ``copy=False`` raises ``ValueError`` where a copy is needed, and says why; ``copy=True`` always makes one.

    Arrays keep their dtype; floating Python numbers get the default dtype. Objects, strings and complex numbers raise
    ``TypeError``, and so does an array on a device that the backend cannot read; big-endian arrays become native ones.

    >>> import dualnet as dn
    >>> dn.asarray([[1.0, 2.0]]).dtype.name
    'float32'
    """
    target = load(backend) if backend is not None else current()
    given, source = x, backend_of(x)
    if source is None and (adopted := target.adopt(x)) is not None:
        x, source = adopted, target
    if source is None and hasattr(x, "__dlpack__") and not isinstance(x, numpy.ndarray):
        x = _borrowed(x, target, copy)
        source = backend_of(x)
    why = "" if copy is None else _why_copied(x, dtype, source, target)
    if copy is False and why:
        raise ValueError(f"asarray: copy=False, but the {type(given).__name__} must be copied: {why}")
    if source is target and (not target.on_host or hasattr(x, "recorded")):  # the value is not looked at
        made = x.astype(_dtype(x.dtype if dtype is None else dtype), copy=False)
    else:
        host = _host_array(x if source is None else to_numpy(x), dtype)
        if not target.on_host:
            record("to_device", host.nbytes)
        made = target.from_host(host)
    return made.copy() if copy and not why else made


def _why_copied(x: Any, dtype: Any, source: Backend | None, target: Backend) -> str:
    """Why :func:`asarray` makes new memory for x; "" if it does not."""
    if source is None:
        return "it is not an array"
    if source is not target:
        return f"it lives on {source.name}, and the result on {target.name}"
    wanted = _dtype(x.dtype if dtype is None else dtype)
    return f"it is {x.dtype}, and the result {wanted}" if x.dtype != wanted else ""


# -- arrays of other libraries, by DLPack ------------------------------------------------------------------------------

_ON_HOST = (1, 3, 11)  # the CPU's memory, and that of it which CUDA or ROCm may read too
_PLACES = {2: "a CUDA device", 4: "an OpenCL device", 7: "Vulkan", 8: "Metal", 10: "a ROCm device", 13: "CUDA's memory"}
_REFUSALS = (BufferError, TypeError, ValueError, RuntimeError, AttributeError, NotImplementedError)
"""What libraries raise when they cannot lend an array."""


def _borrowed(x: Any, target: Backend, copy: bool | None) -> Array:
    """An array of another library as one of the target's or of NumPy's, of the same memory where that is possible."""
    kind = type(x).__name__
    if getattr(x, "requires_grad", False):
        x = x.detach()
    try:
        place = int(x.__dlpack_device__()[0])
        if place in _ON_HOST:
            return _read_by(numpy, x)
        if not target.on_host and hasattr(target.xp, "from_dlpack"):
            return _read_by(target.xp, x)
    except _REFUSALS as error:
        raise TypeError(f"asarray: cannot read this {kind}: {error}") from error
    where = _PLACES.get(place, f"device {place} of DLPack")
    if copy is False:
        raise ValueError(f"asarray: copy=False, but the {kind} must be copied: it lives on {where}")
    if not hasattr(x, "cpu"):
        raise TypeError(
            f"asarray: a {kind} on {where} cannot be read by the backend {target.name}. Copy it to the host first."
        )
    record("to_host", int(getattr(x, "nbytes", 0)))
    return _read_by(numpy, x.cpu())


def _read_by(library: Any, x: Any) -> Array:
    """x in an array of this library, which does not copy it. bfloat16, unknown to NumPy, is read by its bits."""
    if not str(x.dtype).endswith("bfloat16"):
        return library.from_dlpack(x)
    dtype, owner = dtype_of("bfloat16"), sys.modules[type(x).__module__.partition(".")[0]]
    if hasattr(x, "view") and hasattr(owner, "int16"):
        return library.from_dlpack(x.view(owner.int16)).view(dtype)
    return library.asarray(x)


def _host_array(x: Any, dtype: Any) -> numpy.ndarray:
    if x is None:
        raise TypeError("asarray: got None; expected numbers, or an array")
    if hasattr(x, "filled"):
        raise TypeError("asarray: a masked array has gaps; fill them first, with x.filled(value)")
    try:
        host = numpy.asarray(x)
    except (ValueError, TypeError) as error:
        why = "its rows have different lengths; expected equal ones" if "inhomogeneous" in str(error) else error
        raise TypeError(f"asarray: cannot make an array from a {type(x).__name__}: {why}") from None
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
    """The array on the host, as a NumPy array. Copies from a device; returns a host array as it is.

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
