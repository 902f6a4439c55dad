"""A pretend GPU on top of NumPy, for machines that have none.

It raises an error for whatever CuPy refuses, and for whatever would make a GPU wait for the host: implicit conversion
(``numpy.asarray(x)``), ``float(x)``, ``if x:``, boolean masks, iteration, host arrays and NumPy scalars as operands,
and every name that is not in the namespace below. Arrays are copied at the border, so a host array never shares memory
with a "device" array. A program that runs with ``DUALNET_BACKEND=strict`` makes no transfers but those that it asks
for.
"""

from __future__ import annotations

import operator
from typing import Any

import numpy

from dualnet.shim import Backend, BackendUnavailable

DTYPES = "bool int8 int16 int32 int64 uint8 uint16 uint32 uint64 float16 float32 float64".split()
CONSTANTS = "pi e inf nan newaxis".split()
FUNCTIONS = """
    empty zeros ones full empty_like zeros_like ones_like full_like arange eye asarray ascontiguousarray
    reshape permute_dims moveaxis swapaxes concat stack flip roll squeeze expand_dims broadcast_to broadcast_arrays tile
    repeat where take take_along_axis tril triu
    add subtract multiply divide floor_divide remainder power negative positive abs sign square sqrt exp expm1 log log1p
    log2 hypot sin cos tan sinh cosh tanh floor ceil trunc rint maximum minimum clip
    equal not_equal less less_equal greater greater_equal logical_and logical_or logical_not logical_xor
    isnan isinf isfinite signbit copysign bitwise_and bitwise_or bitwise_xor
    sum prod mean var std max min argmax argmin any all cumsum argsort sort count_nonzero
    matmul tensordot einsum result_type
""".split()
"""What ops and layers may call: NumPy 2 and CuPy 14 have all of these names (a test checks)."""
SIZED = ("empty", "zeros", "ones", "arange", "eye")


class ImplicitTransfer(TypeError):
    """Raised for code that CuPy refuses, or that would make a GPU stop and wait for the host."""


class StrictArray:
    """An array on the pretend device."""

    __slots__ = ("_held",)
    __array_ufunc__ = None  # so that a NumPy operand on the left defers to us, and is refused
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, held: numpy.ndarray) -> None:
        self._held = held

    dtype = property(lambda self: self._held.dtype)
    shape = property(lambda self: self._held.shape)
    ndim = property(lambda self: self._held.ndim)
    size = property(lambda self: self._held.size)
    nbytes = property(lambda self: self._held.nbytes)
    itemsize = property(lambda self: self._held.itemsize)
    T = property(lambda self: StrictArray(self._held.T))
    mT = property(lambda self: StrictArray(self._held.mT))

    def __len__(self) -> int:
        return len(self._held)

    def __repr__(self) -> str:
        return f"strict({self._held!r})"

    def __getitem__(self, index: Any) -> StrictArray:
        return _wrap(self._held[_index(index)])

    def __setitem__(self, index: Any, value: Any) -> None:
        self._held[_index(index)] = _operand(value)

    def astype(self, dtype: Any, copy: bool = True) -> StrictArray:
        """The array in another dtype; with ``copy=False`` the array itself, if it has that dtype already."""
        return StrictArray(_silent(self._held.astype)(dtype)) if copy or self.dtype != dtype else self

    def copy(self) -> StrictArray:
        """A copy on the device."""
        return StrictArray(self._held.copy())

    def reshape(self, *shape: Any) -> StrictArray:
        """The same numbers in another shape."""
        return StrictArray(self._held.reshape(*shape))

    def __deepcopy__(self, memo: dict) -> StrictArray:
        return self.copy()


def _refused(what: str) -> Any:
    def method(self: StrictArray, *args: Any, **options: Any) -> None:
        raise ImplicitTransfer(
            f"{what} needs the array's values on the host, which on a GPU waits for the device. "
            "Say so with dn.to_numpy(x), or compute it with array functions."
        )

    return method


for _name, _what in {
    "__array__": "numpy.asarray(x)",
    "__float__": "float(x)",
    "__int__": "int(x)",
    "__bool__": "a condition on an array (if x:)",
    "__complex__": "complex(x)",
    "__index__": "using an array as an index number",
    "__iter__": "iterating over an array",
    "__contains__": "`in` on an array",
    "item": "x.item()",
    "tolist": "x.tolist()",
}.items():
    setattr(StrictArray, _name, _refused(_what))


def _wrap(result: Any) -> Any:
    if isinstance(result, (numpy.ndarray, numpy.generic)):
        return StrictArray(numpy.asarray(result))  # reductions stay 0-d arrays, as on a device
    if isinstance(result, (tuple, list)):
        return type(result)(map(_wrap, result))
    return result


def _operand(value: Any) -> Any:
    if isinstance(value, StrictArray):
        return value._held
    if isinstance(value, numpy.ndarray):
        raise ImplicitTransfer("a host array meets an array on the device; copy it there first, with dn.asarray(...)")
    if isinstance(value, numpy.generic):
        raise ImplicitTransfer(f"a {type(value).__name__} scalar meets an array and may promote it; use float(...)")
    if isinstance(value, (list, tuple)):
        return type(value)(map(_operand, value))
    return value


def _index(index: Any) -> Any:
    parts = index if isinstance(index, tuple) else (index,)
    for part in parts:
        if isinstance(part, (bool, list)) or (isinstance(part, StrictArray) and part.dtype.kind == "b"):
            raise ImplicitTransfer("a mask or list as an index: its result's size is known only to the device")
    held = tuple(_operand(part) for part in parts)
    return held if isinstance(index, tuple) else held[0]


def _silent(compute: Any) -> Any:
    """Without NumPy's warnings: a GPU does not warn of an overflow."""
    return numpy.errstate(all="ignore")(compute)


def _binary(name: str, compute: Any) -> None:
    def forward(self: StrictArray, other: Any) -> Any:
        return _wrap(compute(self._held, _operand(other)))

    def reflected(self: StrictArray, other: Any) -> Any:
        return _wrap(compute(_operand(other), self._held))

    setattr(StrictArray, f"__{name}__", forward)
    if name not in ("lt", "le", "gt", "ge", "eq", "ne"):
        setattr(StrictArray, f"__r{name}__", reflected)


def _in_place(name: str, compute: Any) -> None:
    def method(self: StrictArray, other: Any) -> StrictArray:
        self._held = compute(self._held, _operand(other))
        return self

    setattr(StrictArray, f"__{name}__", method)


def _unary(name: str, compute: Any) -> None:
    setattr(StrictArray, f"__{name}__", lambda self: _wrap(compute(self._held)))


for _name in "add sub mul truediv floordiv mod pow matmul lt le gt ge eq ne and or xor lshift rshift".split():
    _binary(_name, _silent(getattr(operator, f"__{_name}__")))
for _name in "iadd isub imul itruediv ifloordiv ipow iand ior ixor ilshift irshift".split():
    _in_place(_name, _silent(getattr(operator, f"__{_name}__")))
for _name in "neg pos abs invert".split():
    _unary(_name, _silent(getattr(operator, f"__{_name}__")))


class Namespace:
    """The array namespace of the pretend device: the names in ``FUNCTIONS`` and nothing else."""

    def __init__(self) -> None:
        for name in (*DTYPES, *CONSTANTS):
            setattr(self, name, getattr(numpy, name))
        for name in FUNCTIONS:
            setattr(self, name, _function(name))

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"the strict backend has no {name!r}: ops use only what NumPy and CuPy share")


def _function(name: str) -> Any:
    compute = getattr(numpy, name)
    run = _silent(compute)

    def call(*args: Any, **options: Any) -> Any:
        _check(name, compute, args, options)
        held = {key: _operand(value) for key, value in options.items()}
        result = run(*map(_operand, args), **held)
        if name in ("empty", "empty_like"):
            _spoil(result)
        return _wrap(result)

    call.__name__ = name
    return call


def _check(name: str, compute: Any, args: tuple, options: dict[str, Any]) -> None:
    """Raise for calls that NumPy accepts and CuPy does not, or not without copying or waiting."""
    if {"where", "initial"} & options.keys():
        raise TypeError(f"{name}(where=, initial=) is not available on every backend")
    if isinstance(compute, numpy.ufunc) and any(isinstance(a, (list, tuple)) for a in args):
        raise TypeError(f"{name}: lists are not arrays on a device")
    if name == "asarray" and isinstance(args[0], (list, tuple)):
        raise ImplicitTransfer("xp.asarray(list) copies from the host; say so with dn.asarray(...)")
    if name == "where" and len(args) == 1:
        raise ImplicitTransfer("where(condition) alone: its result's size is known only to the device")
    if name in SIZED and any(isinstance(a, StrictArray) for a in (*args, *options.values())):
        raise ImplicitTransfer(f"{name}: an array as a size needs its value on the host")


def _spoil(fresh: numpy.ndarray) -> None:
    """Make sure that ``empty`` does not happen to return zeros, so that an element that is never written shows."""
    if fresh.dtype.kind == "f" or fresh.dtype.name == "bfloat16":
        fresh.fill(numpy.nan)
    elif fresh.dtype.kind in "iu":
        fresh.fill(numpy.iinfo(fresh.dtype).max)


def load(device: int | None = None) -> Backend:
    """The pretend device. There is one, number 0."""
    if device not in (None, 0):
        raise BackendUnavailable(f"strict:{device}: there is one pretend device; use 'strict'")
    return Backend(
        name="strict",
        xp=Namespace(),
        array_types=(StrictArray,),
        from_host=lambda host: StrictArray(host.copy()),
        to_host=lambda array: array._held.copy(),
    )
