"""Run the ops on any library that follows the array API standard, through the part of NumPy that they use.

The standard has no methods (``x.astype``), no ``out=``, no rules for operands of two dtypes, and fewer ways to index.
An :class:`AdaptedArray` holds an array of the library and adds what is missing. It has NumPy's dtypes, and NumPy's
rules bring two operands to one dtype, so that every backend rounds in the same places. As on a GPU, its values reach
the host only when you ask for them: ``dn.to_numpy(x)``, ``float(x)`` and ``x.item()`` copy, and ``dn.transfers()``
counts the copies.

To write a backend, describe your library as a :class:`Library` and pass it to :func:`backend`;
array_api_strict_backend.py is the shortest example. The library must have the standard's functions among
``strict_backend.FUNCTIONS``; the six others are built from them here.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy

from dualnet.shim import Backend, load
from dualnet.shim.dtypes import dtype_of, is_floating
from dualnet.shim.transfers import record

from .strict_backend import CONSTANTS, DTYPES, FUNCTIONS

__all__ = ["AdaptedArray", "Library", "MissingDtype", "backend"]

Held = Any
"""An array of the library itself."""


class MissingDtype(TypeError):
    """The library has no such dtype."""


def _as_it_is(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    return function


def _write(held: Held, index: Any, value: Any) -> Held:
    held[index] = value
    return held


@dataclass(frozen=True, eq=False)
class Library:
    """What dualnet needs to know about a library on one device.

    ``standard`` is its namespace. ``dtypes`` gives the library's own dtype for the name of each of NumPy's that it has.
    ``to_held`` and ``to_host`` copy between NumPy and the library. ``options`` go to every function that makes a new
    array, such as ``{"device": "cuda:1"}``. ``write(held, index, value)`` returns held with the value in place, or a
    new array if the library's arrays cannot change. ``mend(name, function)`` returns the function to call instead of a
    function or an operator, for a library whose own lacks some dtypes. Its arguments are arrays of one dtype.
    """

    name: str
    standard: Any
    dtypes: dict[str, Any]
    to_held: Callable[[numpy.ndarray], Held]
    to_host: Callable[[Held], numpy.ndarray]
    options: dict[str, Any] = field(default_factory=dict)
    write: Callable[[Held, Any, Any], Held] = _write
    mend: Callable[[str, Callable[..., Any]], Callable[..., Any]] = _as_it_is

    def dtype(self, dtype: Any) -> Any:
        """The library's own dtype for one of NumPy's, or its name."""
        name = dtype_of(dtype).name
        try:
            return self.dtypes[name]
        except KeyError:
            raise MissingDtype(f"{self.name} has no {name}; it has {', '.join(self.dtypes)}") from None


def backend(library: Library, **options: Any) -> Backend:
    """Make a backend of this library, with its own array type. ``options`` are those of ``Backend``."""
    kind = _array_type(library)
    return Backend(
        name=library.name,
        xp=Namespace(kind),
        array_types=(kind,),
        from_host=lambda host: kind(_held_copy(library, host)),
        to_host=lambda array: library.to_host(array._held),
        **options,
    )


def _held_copy(library: Library, host: numpy.ndarray) -> Held:
    library.dtype(host.dtype)
    return library.to_held(host)


# -- arrays ------------------------------------------------------------------------------------------------------------


class AdaptedArray:
    """An array of a library, with NumPy's dtypes, methods and rules. ``array.held`` is the library's own."""

    __slots__ = ("_held",)
    __array_ufunc__ = None  # so that a NumPy operand on the left defers to us, and is refused
    __hash__ = None  # type: ignore[assignment]
    _library: Library
    _dtypes: dict[Any, numpy.dtype]

    def __init__(self, held: Held) -> None:
        self._held = held

    held = property(lambda self: self._held)
    dtype = property(lambda self: self._dtypes[self._held.dtype])
    shape = property(lambda self: tuple(self._held.shape))
    ndim = property(lambda self: len(self._held.shape))
    size = property(lambda self: math.prod(self._held.shape))
    itemsize = property(lambda self: self.dtype.itemsize)
    nbytes = property(lambda self: self.size * self.dtype.itemsize)
    mT = property(lambda self: type(self)(self._library.standard.matrix_transpose(self._held)))

    @property
    def T(self) -> AdaptedArray:
        """With its axes in reverse order."""
        return type(self)(self._library.standard.permute_dims(self._held, tuple(reversed(range(self.ndim)))))

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        return f"{self._library.name}({self._library.to_host(self._held)!r})"

    def __getitem__(self, index: Any) -> AdaptedArray:
        if isinstance(index, AdaptedArray) and index.dtype.kind in "iu" and self.ndim > 1:
            return _take(type(self), self, index, axis=0)
        parts, backwards = _parts(self, index)
        found = self._held[parts]
        return type(self)(self._library.standard.flip(found, axis=backwards) if backwards else found)

    def __setitem__(self, index: Any, value: Any) -> None:
        parts, backwards = _parts(self, index)
        if backwards:
            raise IndexError("cannot assign to a slice with a negative step; flip the value instead")
        value = _in(type(self), _operand(value), self.dtype)
        self._held = self._library.write(self._held, parts, value)

    def astype(self, dtype: Any, copy: bool = True) -> AdaptedArray:
        """The array in another dtype; with ``copy=False`` the array itself, if it has that dtype already."""
        if not copy and self.dtype == dtype_of(dtype):
            return self
        return type(self)(self._library.standard.astype(self._held, self._library.dtype(dtype), copy=True))

    def copy(self) -> AdaptedArray:
        """A copy on the device."""
        return type(self)(self._library.standard.asarray(self._held, copy=True))

    def reshape(self, *shape: Any) -> AdaptedArray:
        """The same numbers in another shape."""
        return type(self)(self._library.standard.reshape(self._held, _shape(shape[0] if len(shape) == 1 else shape)))

    def item(self) -> Any:
        """The array's only element, as a Python number. Copies it to the host."""
        record("to_host", self.nbytes)
        return self._library.to_host(self._held).item()

    def tolist(self) -> Any:
        """The elements as Python numbers, in nested lists. Copies them to the host."""
        record("to_host", self.nbytes)
        return self._library.to_host(self._held).tolist()

    def __float__(self) -> float:
        return float(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __bool__(self) -> bool:
        return bool(self.item())

    def __index__(self) -> int:
        return operator.index(self.item())

    def __iter__(self) -> Iterator[AdaptedArray]:
        return (self[i] for i in range(len(self)))

    def __array__(self, *args: Any, **options: Any) -> Any:
        raise TypeError(f"numpy.asarray(x) would copy from {self._library.name}; say so with dn.to_numpy(x)")

    def __dlpack__(self, **options: Any) -> Any:
        return self._held.__dlpack__(**options)

    def __dlpack_device__(self) -> Any:
        return self._held.__dlpack_device__()

    def __deepcopy__(self, memo: dict) -> AdaptedArray:
        return self.copy()

    def __reduce__(self) -> Any:
        return _restored, (self._library.name, self._library.to_host(self._held))


def _restored(name: str, host: numpy.ndarray) -> AdaptedArray:
    """Rebuild a pickled array, on the same backend."""
    return load(name).from_host(host)


def _array_type(library: Library) -> type[AdaptedArray]:
    named = "".join(part.capitalize() for part in library.name.replace(":", "_").split("_"))
    dtypes = {own: dtype_of(name) for name, own in library.dtypes.items()}
    kind = type(f"{named}Array", (AdaptedArray,), {"__slots__": (), "_library": library, "_dtypes": dtypes})
    for name in "add sub mul truediv floordiv mod pow lt le gt ge eq ne and or xor lshift rshift".split():
        _binary(kind, name, library.mend(name, getattr(operator, f"__{name}__")))
    for name in "add sub mul truediv floordiv mod pow and or xor lshift rshift".split():
        _in_place(kind, f"i{name}", library.mend(f"i{name}", getattr(operator, f"__i{name}__")))
    for name in "neg pos abs invert".split():
        _unary(kind, name, library.mend(name, getattr(operator, f"__{name}__")))
    _binary(kind, "matmul", operator.matmul)
    return kind


def _binary(kind: Any, name: str, compute: Callable[..., Held]) -> None:
    divides = name == "truediv"

    def forward(self: AdaptedArray, other: Any) -> AdaptedArray:
        left, right = _together(kind, (self, other), divides)
        return kind(compute(left, right))

    def reflected(self: AdaptedArray, other: Any) -> AdaptedArray:
        right, left = _together(kind, (self, other), divides)
        return kind(compute(left, right))

    setattr(kind, f"__{name}__", forward)
    if name not in ("lt", "le", "gt", "ge", "eq", "ne"):
        setattr(kind, f"__r{name}__", reflected)


def _in_place(kind: Any, name: str, compute: Callable[..., Held]) -> None:
    def method(self: AdaptedArray, other: Any) -> AdaptedArray:
        if isinstance(_operand(other), AdaptedArray):
            if not numpy.can_cast(other.dtype, self.dtype, "same_kind"):
                raise TypeError(f"{name}: {other.dtype} does not fit into {self.dtype}")
            other = other.astype(self.dtype, copy=False)._held
        self._held = compute(self._held, other)
        return self

    setattr(kind, f"__{name}__", method)


def _unary(kind: Any, name: str, compute: Callable[..., Held]) -> None:
    setattr(kind, f"__{name}__", lambda self: kind(compute(self._held)))


# -- operands ----------------------------------------------------------------------------------------------------------


def _operand(value: Any) -> Any:
    """Accept an array or a Python number. An array of another backend raises ``TypeError``."""
    if isinstance(value, (AdaptedArray, bool, int, float)) and not isinstance(value, numpy.generic):
        return value
    raise TypeError(
        f"a {type(value).__name__} cannot be combined with an array of another backend; expected one of the same, or a "
        "Python number: copy an array with dn.asarray(...), convert a NumPy scalar with float(...)"
    )


def _together(kind: type[AdaptedArray], operands: tuple[Any, ...], divides: bool = False) -> list[Any]:
    """The library's arrays, converted to one dtype by NumPy's rules; Python numbers stay as they are."""
    first, *others = operands
    dtype = first.dtype if type(first) is kind else None
    if dtype is None or any(type(o) is not kind or o.dtype != dtype for o in others) or (divides and dtype.kind != "f"):
        dtype = _common([_operand(o) for o in operands])
        if divides and not is_floating(dtype):
            dtype = numpy.dtype("float64")
    return [_in(kind, operand, dtype) for operand in operands]


def _common(operands: list[Any]) -> numpy.dtype:
    dtypes = {o.dtype for o in operands if isinstance(o, AdaptedArray)}
    if len(dtypes) == 1:
        (dtype,) = dtypes
        if is_floating(dtype):
            return dtype  # a Python number does not change it
    return numpy.result_type(*dtypes, *(o for o in operands if not isinstance(o, AdaptedArray)))


def _in(kind: type[AdaptedArray], operand: Any, dtype: numpy.dtype) -> Any:
    if type(operand) is kind:
        return operand.astype(dtype, copy=False)._held
    if isinstance(operand, AdaptedArray):
        got = f"{operand._library.name} and {kind._library.name}"
        raise TypeError(f"arrays of {got} cannot be combined; expected arrays of one backend")
    return float(operand) if is_floating(dtype) and not isinstance(operand, float) else operand


def _parts(x: AdaptedArray, index: Any) -> tuple[tuple[Any, ...], tuple[int, ...]]:
    """An index that spells out every axis, without negative steps, and the axes of the result that are to be flipped.

    In the standard a slice stays inside the array, and only ``...`` leaves axes out.
    """
    given = index if isinstance(index, tuple) else (index,)
    rest = x.ndim - sum(map(_axes_of, given))
    if rest and not any(part is Ellipsis for part in given):
        given = (*given, Ellipsis)
    if any(isinstance(part, AdaptedArray) for part in given) and any(_turns(part) for part in given):
        raise IndexError("cannot index with an array and a slice of negative step at once; use one after the other")
    parts: list[Any] = []
    backwards: list[int] = []
    axis = place = 0
    for part in given:
        if isinstance(part, slice):
            start, stop, step = part.indices(x.shape[axis])
            if step < 0:
                backwards.append(place)
                count = len(range(start, stop, step))
                start, stop, step = start + (count - 1) * step, start + 1, -step
                stop = stop if count else start
            parts.append(slice(start, max(start, stop), step))
        elif isinstance(part, AdaptedArray):
            parts.append(part._held if part.dtype.kind == "b" else part.astype("int64", copy=False)._held)
        else:
            parts.append(part if part is None or part is Ellipsis else operator.index(part))
        axis += rest if part is Ellipsis else _axes_of(part)
        place += rest if part is Ellipsis else (part is None or isinstance(part, slice))
    return tuple(parts), tuple(backwards)


def _turns(part: Any) -> bool:
    return isinstance(part, slice) and part.step is not None and operator.index(part.step) < 0


def _axes_of(part: Any) -> int:
    """How many axes of the array one part of an index covers."""
    if part is None or part is Ellipsis:
        return 0
    return part.ndim if isinstance(part, AdaptedArray) and part.dtype.kind == "b" else 1


def _shape(shape: Any) -> tuple[int, ...]:
    return tuple(map(operator.index, shape)) if isinstance(shape, (tuple, list)) else (operator.index(shape),)


# -- functions ---------------------------------------------------------------------------------------------------------

NEW = {"empty", "zeros", "ones", "full", "arange", "eye"}
LIKE = {"empty_like", "zeros_like", "ones_like", "full_like"}
REAL = set("sqrt exp expm1 log log1p log2 hypot sin cos tan sinh cosh tanh mean var std".split())
"""Functions that turn integers into float64."""
TOGETHER = set(
    "add subtract multiply divide floor_divide remainder power maximum minimum hypot copysign clip matmul tensordot "
    "equal not_equal less less_equal greater greater_equal logical_and logical_or logical_xor bitwise_and bitwise_or "
    "bitwise_xor".split()
)
"""Functions whose arguments are converted to one dtype."""
ADDED = {"sum", "prod", "cumsum"}
"""Functions that add up whole numbers in 64 bits."""
COUNTED = {*ADDED, "argmax", "argmin"}
"""Functions that take bools in NumPy, but not in the standard."""


class Namespace:
    """The array namespace: the names in ``FUNCTIONS``, with NumPy's arguments, and nothing else."""

    def __init__(self, kind: type[AdaptedArray]) -> None:
        for name in (*DTYPES, *CONSTANTS):
            setattr(self, name, getattr(numpy, name))
        for name in FUNCTIONS:
            setattr(self, name, _function(kind, name))
        self._name = kind._library.name

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"{self._name} has no {name!r}: ops use only what all backends share")


def _function(kind: type[AdaptedArray], name: str) -> Callable[..., Any]:
    library = kind._library
    if name in SPECIAL:
        return _named(name, lambda *args, **options: SPECIAL[name](kind, *args, **options))
    compute = library.mend(name, getattr(library.standard, SAME.get(name, name)))

    def call(*args: Any, out: AdaptedArray | None = None, **options: Any) -> Any:
        if name in NEW:
            args, options = _new(name, args, options)
            options = {**library.options, **options}
        elif name in REAL or name in COUNTED:
            args = (_countable(name, args[0], options.get("dtype")), *args[1:])
        if options.get("dtype") is not None:
            options["dtype"] = library.dtype(options["dtype"])
        given = _together(kind, args, name == "divide") if name in TOGETHER else map(_unwrapped, args)
        held = compute(*given, **{key: _unwrapped(value) for key, value in options.items()})
        if out is None:
            return _wrapped(kind, held)
        out[...] = kind(held)
        return out

    return _named(name, call)


SAME = {"ascontiguousarray": "asarray", "power": "pow", "rint": "round", "cumsum": "cumulative_sum"}
"""The standard's names for the functions that it calls something else."""


def _named(name: str, function: Any) -> Callable[..., Any]:
    function.__name__ = name
    return function


def _new(name: str, args: tuple[Any, ...], options: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """NumPy's default dtype: int64 for integers, else float64."""
    numbers = args if name == "arange" else args[1:2] if name == "full" else (1.0,)
    if options.get("dtype") is None:
        options = {**options, "dtype": numpy.result_type(*map(type, numbers))}
    if name == "full" and is_floating(dtype_of(options["dtype"])):
        args = (args[0], float(args[1]))
    return args, options


def _countable(name: str, x: AdaptedArray, dtype: Any) -> AdaptedArray:
    """Converted to a dtype for which the standard gives NumPy's result."""
    kind = x.dtype.kind
    if name in REAL:
        return x if is_floating(x.dtype) else x.astype("float64")
    if name in ADDED and dtype is None and kind in "biu":
        return x.astype("uint64" if kind == "u" else "int64", copy=False)
    return x.astype("uint8") if kind == "b" else x


def _unwrapped(value: Any) -> Any:
    if isinstance(value, AdaptedArray):
        return value._held
    if isinstance(value, (numpy.ndarray, numpy.generic)):
        return _operand(value)
    return type(value)(map(_unwrapped, value)) if isinstance(value, (list, tuple)) else value


def _wrapped(kind: type[AdaptedArray], result: Any) -> Any:
    if isinstance(result, (list, tuple)):
        return type(result)([kind(part) for part in result])
    return kind(result) if hasattr(result, "shape") else result


# -- functions that the standard has with fewer arguments, or not at all -----------------------------------------------


def _where(kind: type[AdaptedArray], condition: AdaptedArray, x: Any, y: Any) -> AdaptedArray:
    library, dtype = kind._library, _common([_operand(x), _operand(y)])
    x, y = (_in(kind, operand, dtype) for operand in (x, y))
    if not hasattr(x, "shape") and not hasattr(y, "shape"):
        x = library.standard.asarray(x, dtype=library.dtype(dtype), **library.options)
    return kind(library.standard.where(condition._held, x, y))


def _take(kind: type[AdaptedArray], x: AdaptedArray, indices: AdaptedArray, axis: int | None = None) -> AdaptedArray:
    if axis is None:
        x, axis = x.reshape(-1), 0
    axis %= x.ndim
    flat = indices.astype("int64", copy=False).reshape(-1)
    taken = kind(kind._library.standard.take(x._held, flat._held, axis=axis))
    return taken.reshape((*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]))


def _take_along_axis(kind: Any, x: AdaptedArray, indices: AdaptedArray, axis: int = -1) -> AdaptedArray:
    held = indices.astype("int64", copy=False)._held
    return kind(kind._library.standard.take_along_axis(x._held, held, axis=axis))


def _joined(name: str) -> Callable[..., AdaptedArray]:
    def join(kind: type[AdaptedArray], arrays: Any, axis: int = 0) -> AdaptedArray:
        return kind(getattr(kind._library.standard, name)(_together(kind, tuple(arrays)), axis=axis))

    return join


def _reshape(kind: type[AdaptedArray], x: AdaptedArray, shape: Any) -> AdaptedArray:
    return x.reshape(shape)


def _squeeze(kind: type[AdaptedArray], x: AdaptedArray, axis: Any = None) -> AdaptedArray:
    axes = tuple(a for a, extent in enumerate(x.shape) if extent == 1) if axis is None else axis
    return kind(kind._library.standard.squeeze(x._held, axis=axes))


def _swapaxes(kind: type[AdaptedArray], x: AdaptedArray, one: int, other: int) -> AdaptedArray:
    order = list(range(x.ndim))
    order[one], order[other] = order[other], order[one]
    return kind(kind._library.standard.permute_dims(x._held, tuple(order)))


def _asarray(kind: type[AdaptedArray], x: Any, dtype: Any = None, copy: bool | None = None) -> AdaptedArray:
    if isinstance(_operand(x), AdaptedArray):
        return x.astype(x.dtype if dtype is None else dtype, copy=bool(copy))
    dtype = kind._library.dtype(numpy.result_type(type(x)) if dtype is None else dtype)
    return kind(kind._library.standard.asarray(x, dtype=dtype, **kind._library.options))


def _result_type(kind: type[AdaptedArray], *given: Any) -> numpy.dtype:
    return numpy.result_type(*(g.dtype if isinstance(g, AdaptedArray) else g for g in given))


def _einsum(kind: type[AdaptedArray], formula: str, *arrays: AdaptedArray) -> AdaptedArray:
    """Multiply over all letters at once, then sum: for small arrays. Each letter occurs once in a term."""
    terms, _, result = formula.replace(" ", "").partition("->")
    letters = result + "".join(sorted(set(terms) - set(result) - {","}))
    product: Any = 1
    for term, array in zip(terms.split(","), arrays, strict=True):
        order = sorted(range(array.ndim), key=lambda axis: letters.index(term[axis]))  # noqa: B023  used at once
        turned = kind(kind._library.standard.permute_dims(array._held, tuple(order)))
        extents = dict(zip(term, array.shape, strict=True))
        product = product * turned.reshape(tuple(extents.get(letter, 1) for letter in letters))
    summed = tuple(range(len(result), len(letters)))
    return kind(kind._library.standard.sum(product._held, axis=summed)) if summed else product


def _like(name: str) -> Callable[..., AdaptedArray]:
    def make(kind: type[AdaptedArray], x: AdaptedArray, *value: Any, dtype: Any = None) -> AdaptedArray:
        own = x._library.dtype(x.dtype if dtype is None else dtype)
        return kind(getattr(kind._library.standard, name)(x._held, *value, dtype=own))

    return make


def _isnumber(name: str) -> Callable[..., AdaptedArray]:
    """isfinite and others, which the standard does not define for bools."""

    def ask(kind: type[AdaptedArray], x: AdaptedArray) -> AdaptedArray:
        x = x.astype("uint8") if x.dtype.kind == "b" else x
        return kind(getattr(kind._library.standard, name)(x._held))

    return ask


SPECIAL: dict[str, Callable[..., Any]] = {
    "where": _where,
    "take": _take,
    "take_along_axis": _take_along_axis,
    "stack": _joined("stack"),
    "concat": _joined("concat"),
    "reshape": _reshape,
    "squeeze": _squeeze,
    "swapaxes": _swapaxes,
    "asarray": _asarray,
    "result_type": _result_type,
    "einsum": _einsum,
    **{name: _like(name) for name in LIKE},
    **{name: _isnumber(name) for name in ("isnan", "isinf", "isfinite")},
}
