"""Arrays that report every call that computes with them, while a step is recorded.

Inside :func:`recording` new arrays are :class:`Watched`, NumPy arrays whose class learns of each ufunc and each
function of NumPy, and notes it on the thread's tape (tape.py) with the results as ``out=``. Views are not noted: they
are addresses, and are gone once the step is recorded. Kernels that work with addresses note their calls themselves.

Only this thread is watched; the others compute as ever.

A value that is read (``if x:``, ``float(x)``) would be missing from the repeated step. dualnet's own code may read one
to choose its path, and then the tape holds the question and the answer: before a repeated step changes anything, all
answers must be the same. The user's code may not.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy

from dualnet.shim.transfers import TransferForbidden

from .tape import Address, Buffer, Call, Tape, Unrecordable

ndarray = numpy.ndarray
_tapes: dict[int, Tape] = {}
_rehearsals: dict[int, dict[int, tuple[ndarray, ndarray]]] = {}
_running: set[int] = set()
_patched: list[int] = []
_lock = threading.RLock()
OURS = "dualnet."


def tape() -> Tape | None:
    """The tape on which this thread records, if it does."""
    return _tapes.get(threading.get_ident()) if _tapes else None


# -- while a step runs -------------------------------------------------------------------------------------------------


@contextmanager
def recording(made: Tape) -> Iterator[None]:
    """Inside, this thread's calls are noted on the tape, and computed as well."""
    thread = threading.get_ident()
    _tapes[thread] = made
    try:
        with _births_watched():
            yield
    finally:
        del _tapes[thread]


@contextmanager
def running() -> Iterator[None]:
    """Inside, a step runs as it will be recorded: reading a value back raises an error from the first call on."""
    thread = threading.get_ident()
    _running.add(thread)
    try:
        yield
    finally:
        _running.discard(thread)


@contextmanager
def rehearsing(copies: dict[int, tuple[ndarray, ndarray]]) -> Iterator[None]:
    """Inside, a step works on copies of everything that lasts: ``copies`` is filled with pairs (array, copy)."""
    thread = threading.get_ident()
    _rehearsals[thread] = copies
    try:
        yield
    finally:
        del _rehearsals[thread]


def watched(array: ndarray, number: bool = False) -> ndarray:
    """How a step sees an array that lasts: while it is recorded or rehearsed, as a copy.

    A ``number`` stands for a Python number: see :class:`Number`.
    """
    thread, kind = threading.get_ident(), Number if number else Watched
    on, copies = _tapes.get(thread), _rehearsals.get(thread)
    if on is not None:
        copy = numpy.copy(array, order="K")
        on.memory.add(copy, array)
        on.held.append((array, copy))
        return copy.view(kind)
    if copies is not None:
        copies[id(array)] = array, numpy.copy(array, order="K")
        return copies[id(array)][1].view(kind)
    return array.view(kind) if thread in _running else array


def plain(array: Any) -> Any:
    """The array without the watching; everything else as it is."""
    return array.view(ndarray) if isinstance(array, Watched) else array


@contextmanager
def lasting() -> Iterator[None]:
    """Inside, new arrays will outlive the step."""
    on = tape()
    if on is None:
        yield
        return
    before, on.lasting = on.lasting, True
    try:
        yield
    finally:
        on.lasting = before


# -- what is noted -----------------------------------------------------------------------------------------------------


def _bare(value: Any) -> Any:
    """Arrays without the watching, also inside lists."""
    if isinstance(value, Watched):
        return value.view(ndarray)
    return type(value)(map(_bare, value)) if type(value) in (list, tuple) else value


def _arrays(values: Iterable[Any]) -> Iterator[ndarray]:
    for value in values:
        if type(value) in (list, tuple):
            yield from _arrays(value)
        elif isinstance(value, ndarray):
            yield value


def _parts(on: Tape, value: Any) -> Any:
    if isinstance(value, ndarray):
        return on.memory.part(value) or value  # a constant
    return type(value)(_parts(on, each) for each in value) if type(value) in (list, tuple) else value


def note(
    function: Callable[..., Any], arguments: Iterable[Any], options: dict[str, Any],
    reads: Iterable[Any], writes: Iterable[ndarray], alone: bool | None = None,
) -> None:  # fmt: skip
    """Note a call, if this thread records; ``reads`` and ``writes`` are the arrays that it uses."""
    on = tape()
    if on is None:
        return
    written = [_written(on, array) for array in writes if array.size]
    read = [part.buffer for array in _arrays(reads) if (part := on.memory.part(array)) is not None]
    arguments = [_parts(on, value) for value in arguments]
    options = {name: _parts(on, value) for name, value in options.items()}
    if written or not any(True for _ in writes):
        on.note(Call(function, arguments, options, read, written, alone))


def note_by_address(
    function: Callable[..., Any], given: Sequence[Any], read: Sequence[int], written: int, adds: bool,
    threads: tuple[Any, int] | None = None,
) -> None:  # fmt: skip
    """Note a call that gets arrays as addresses, in these places; with ``adds`` it adds to what the last one holds.

    Constants among them must have been :func:`kept`.
    """
    on = tape()
    if on is None:
        return
    arguments, buffers = list(given), {}
    for place in (*read, written):
        found = on.memory.find(given[place])
        if found is None:
            raise Unrecordable("it computes with memory that was made outside the step")
        arguments[place], buffers[place] = Address(*found), found[0]
    reads = [buffer for place, buffer in buffers.items() if place != written or adds]
    call = Call(function, arguments, {}, reads, [buffers[written]], True)
    call.threads = threads
    on.note(call)


def kept(*arrays: ndarray) -> None:
    """Arrays whose addresses will be used: the recorded step keeps those that it has not made."""
    on = tape()
    for array in arrays if on is not None else ():
        if array.size and on.memory.part(array) is None:
            on.memory.add(array, array)
            on.kept.append(array)


def laid_out(x: ndarray, shape: tuple[int, ...], strides: tuple[int, ...]) -> Any:
    """A view of x, which is contiguous: what ``as_strided`` makes, in a tenth of the time."""
    return (Watched if type(x) is Watched else ndarray)(shape, x.dtype, x, 0, strides)


def _written(on: Tape, array: ndarray) -> Buffer:
    part = on.memory.part(array)
    if part is None:
        raise Unrecordable(
            f"it writes to an array {array.shape} that was made outside the step, and this would be forgotten or "
            "counted twice; set it with dn.recording.assign(owner, name, array)"
        )
    return part.buffer


def _born(made: Any) -> Any:
    """A new result, watched from now on."""
    array = _real["asarray"](made)
    on = tape()
    if on is not None:
        on.born(array)
    return array.view(Watched)


def _computed(function: Callable[..., Any], arguments: Any, options: dict[str, Any]) -> Any:
    """Call a function, and note it. Results that are views of an argument are only watched."""
    given = list(_arrays([*arguments, *options.values()]))
    made = function(*arguments, **options)
    if tape() is None:
        return _watched_results(made)
    several = type(made) in (tuple, list)
    results = [_result(each, given) for each in (made if several else (made,))]
    new = [result for result, fresh in results if fresh]
    if new:
        whole = len(new) == len(results)
        if not whole:
            raise Unrecordable(f"{_name(function)} returns views and new arrays together")
        note(_into, [list(map(_bare, new)) if several else _bare(new[0]), function, arguments, options],
             {}, given, list(map(_bare, new)), _blas(function, given))  # fmt: skip
    answers = [result for result, _ in results]
    return type(made)(answers) if several else answers[0]


def _result(made: Any, given: list[ndarray]) -> tuple[Any, bool]:
    if not isinstance(made, (ndarray, numpy.generic)):
        return made, False
    if isinstance(made, ndarray) and any(numpy.may_share_memory(made, array) for array in given if array.size):
        return made.view(Watched), False
    return _born(made), True


def _watched_results(made: Any) -> Any:
    if type(made) in (tuple, list):
        return type(made)(map(_watched_results, made))
    return _real["asarray"](made).view(Watched) if isinstance(made, (ndarray, numpy.generic)) else made


def _into(out: Any, function: Callable[..., Any], arguments: Any, options: dict[str, Any]) -> None:
    """Compute, and copy the results to where the step has them."""
    made = function(*arguments, **options)
    if type(out) is list:
        for target, each in zip(out, made):
            numpy.copyto(target, each)
    else:
        numpy.copyto(out, made)


def _name(function: Any) -> str:
    return getattr(function, "__name__", str(function))


# -- the arrays --------------------------------------------------------------------------------------------------------

SMALL = 2**16
"""BLAS uses one thread by itself if there are so few multiplications."""
PRODUCTS = {numpy.matmul, numpy.dot, numpy.vdot, numpy.inner, numpy.tensordot, numpy.einsum}
TAKE_OUT = {numpy.dot, numpy.concatenate, numpy.stack, numpy.argmax, numpy.argmin}
BY_UFUNCS = {numpy.sum, numpy.max, numpy.min, numpy.amax, numpy.amin, numpy.all, numpy.any, numpy.prod, numpy.mean,
             numpy.clip, numpy.round}  # fmt: skip


def _blas(function: Any, given: Sequence[Any]) -> bool | None:
    """Does BLAS use one thread for this product? None for a call without BLAS."""
    if function not in PRODUCTS:
        return None
    factors = list(_arrays(given))
    if len(factors) != 2 or not factors[0].ndim or not factors[0].size:
        return _held[0]()
    return factors[0].size * factors[1].size // factors[0].shape[-1] < SMALL or _held[0]()


_held: list[Callable[[], bool]] = [lambda: True]
"""blas.py puts its answer here: it needs this module."""


class Watched(ndarray):
    """A NumPy array that notes what is computed with it. In every other way it is one."""

    recorded = True
    """The mark of a value that belongs to one step, and is not a constant."""

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, out: Any = None, **options: Any) -> Any:
        given, options = [_bare(a) for a in inputs], {name: _bare(value) for name, value in options.items()}
        call = getattr(ufunc, method)
        if method == "at":
            call(*given, **options)
            return note(call, given, options, given, given[:1])
        function = ufunc if method == "__call__" else call
        alone = _blas(ufunc, given)
        if out is not None:
            outs = _bare(out)
            function(*given, out=outs if method == "__call__" else outs[0], **options)
            more = outs if options.get("where", True) is not True else ()
            note(function, given, {**options, "out": outs if len(outs) > 1 else outs[0]},
                 [*given, *options.values(), *more], outs, alone)  # fmt: skip
            result = tuple(each if isinstance(each, Watched) else each.view(Watched) for each in out)
            return result if len(result) > 1 else result[0]
        made = function(*given, **options)
        result = tuple(_born(each) for each in (made if type(made) is tuple else (made,)))
        outs = tuple(map(_bare, result))
        note(function, given, {**options, "out": outs if len(outs) > 1 else outs[0]},
             [*given, *options.values()], outs, alone)  # fmt: skip
        return result if len(result) > 1 else result[0]

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        if func in BY_UFUNCS:
            return super().__array_function__(func, types, args, kwargs)
        given, options = _bare(tuple(args)), {name: _bare(value) for name, value in kwargs.items()}
        if func is numpy.copyto:
            func(*given, **options)
            target, rest = given[0], [*given[1:], *options.values()]
            return note(func, given, options, rest + ([target] if "where" in options else []), [target])
        if options.get("out") is not None:
            func(*given, **options)
            note(func, given, options, [*given, *options.values()], [options["out"]], _blas(func, given))
            return kwargs["out"]
        if func is numpy.where and len(given) == 3 and not options:
            return _chosen(*given)
        if func in TAKE_OUT:
            made = _born(func(*given, **options))
            if type(made) is Watched and made.dtype != object:
                note(func, given, {**options, "out": _bare(made)}, [*given, *options.values()], [_bare(made)],
                     _blas(func, given))  # fmt: skip
                return made
        if func in _LIKE:
            return func(*given, **options)
        if func in (numpy.shape, numpy.ndim, numpy.size, numpy.may_share_memory, numpy.shares_memory, numpy.result_type,
                    numpy.can_cast, numpy.iscomplexobj, numpy.isrealobj):  # fmt: skip
            return func(*given, **options)
        if func in (numpy.array_equal, numpy.allclose, numpy.array_repr, numpy.array_str):
            _refuse("(a comparison, or its text)")
        return _computed(func, given, options)

    # -- methods that NumPy's C code would not report

    def __getitem__(self, key: Any) -> Any:
        source, key = _bare(self), _bare(key)
        made = source[key]
        if not isinstance(made, ndarray):  # one element: a view without axes
            made = source[(*key, ...) if type(key) is tuple else (key, ...)]
        if made.size and numpy.may_share_memory(made, source):
            return made.view(Watched)
        result = _born(made)
        note(_into, [_bare(result), _item, (source, key), {}], {}, [source, *_arrays([key])], [_bare(result)])
        return result

    def __setitem__(self, key: Any, value: Any) -> None:
        target, key, value = _bare(self), _bare(key), _bare(value)
        target[key] = value
        if tape() is None:
            return
        view = (
            target[key] if not _is_element(key, target) else target[(*key, ...) if type(key) is tuple else (key, ...)]
        )
        if not view.size:
            return
        if numpy.may_share_memory(view, target):
            value = value if isinstance(value, (ndarray, int, float, numpy.generic)) else numpy.asarray(value)
            note(numpy.copyto, [view, value], {"casting": "unsafe"}, [value], [view])
        else:
            note(_set_item, [target, key, value], {}, [value, target, *_arrays([key])], [target])

    def __iter__(self) -> Iterator[Any]:
        return (self[place] for place in range(len(self)))

    def _same_order(self, made: ndarray) -> ndarray:
        """The result of a method that may copy, element by element."""
        if not self.size or numpy.may_share_memory(made, self):
            return made.view(Watched)
        result, source = _born(_bare(made)), _bare(self)
        target = _bare(result) if made.shape == self.shape else _bare(result).reshape(self.shape)
        if not numpy.may_share_memory(target, result):
            raise Unrecordable("an array was copied in its own order of memory")
        note(numpy.copyto, [target, source], {"casting": "unsafe"}, [source], [target])
        return result

    def reshape(self, *shape: Any, **options: Any) -> Any:
        return self._same_order(_bare(self).reshape(*shape, **options))

    def ravel(self, order: Any = "C") -> Any:
        return self._same_order(_bare(self).ravel(order)) if order == "C" else self._called("ravel", order)

    def flatten(self, order: Any = "C") -> Any:
        return self._same_order(_bare(self).flatten(order)) if order == "C" else self._called("flatten", order)

    def astype(self, dtype: Any, *args: Any, **options: Any) -> Any:
        made = _bare(self).astype(dtype, *args, **options)
        return self if made.dtype == self.dtype and numpy.may_share_memory(made, self) else self._same_order(made)

    def copy(self, order: Any = "C") -> Any:
        return self._same_order(_bare(self).copy(order))

    def fill(self, value: Any) -> None:
        self[...] = value

    def argmax(self, axis: Any = None, **options: Any) -> Any:  # type: ignore[override]
        return numpy.argmax(self, axis, **options)

    def argmin(self, axis: Any = None, **options: Any) -> Any:  # type: ignore[override]
        return numpy.argmin(self, axis, **options)

    def dot(self, other: Any, out: Any = None) -> Any:
        return numpy.dot(self, other) if out is None else numpy.dot(self, other, out=out)

    def view(self, *args: Any, **options: Any) -> Any:
        made = super().view(*args, **options)
        wanted = [*args, *options.values()]
        return made if any(isinstance(kind, type) and issubclass(kind, ndarray) for kind in wanted) else (
            ndarray.view(made, Watched))  # fmt: skip

    def _called(self, method: str, *args: Any, **options: Any) -> Any:
        return _computed(_method(method), [_bare(self), *map(_bare, args)], options)

    def _changed(self, method: str, *args: Any, **options: Any) -> None:
        """A method that works in place."""
        bare = _bare(self)
        getattr(bare, method)(*map(_bare, args), **options)
        note(_method(method), [bare, *map(_bare, args)], options, [bare, *args], [bare])

    # -- reading

    def __bool__(self) -> bool:
        value = bool(_bare(self))
        _asked(self, numpy.not_equal, False, value)
        return value

    def __float__(self) -> float:
        value = float(_bare(self))
        _asked(self, numpy.isfinite, None, bool(numpy.isfinite(value)))
        return value

    def __int__(self) -> int:
        value = int(_bare(self))
        _asked(self, numpy.equal, value, True)
        return value

    def __index__(self) -> int:
        value = _bare(self).__index__()
        _asked(self, numpy.equal, value, True)
        return value

    def __complex__(self) -> complex:
        _refuse("(complex(x))")
        return complex(_bare(self))

    def item(self, *place: Any) -> Any:
        _refuse("(x.item())")
        return _bare(self).item(*place)

    def tolist(self) -> Any:
        _refuse("(x.tolist())")
        return _bare(self).tolist()

    def tobytes(self, *order: Any) -> bytes:
        _refuse("(x.tobytes())")
        return _bare(self).tobytes(*order)


class Number(Watched):
    """An array without axes that stands for a Python number, and takes part in computing as one.

    Numbers among themselves have 64 bits; beside an array a number takes the array's dtype.
    """

    born_among: Any = None  # the list of calls that it was made in; None for the step itself

    @property
    def made(self) -> dict[Any, Any]:
        """What was computed from it, and need not be computed again."""
        return self.__dict__.setdefault("_made", {})

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, out: Any = None, **options: Any) -> Any:
        others = [a for a in inputs if isinstance(a, (ndarray, numpy.generic)) and not isinstance(a, Number)]
        if not others and out is None and method == "__call__":
            # 0.0 is equal to -0.0, and does not read the same
            key = ufunc, *((Number, id(a)) if isinstance(a, Number) else (type(a), repr(a)) for a in inputs)
            if key in self.made and not options:
                return self.made[key]
            if ufunc is numpy.power:
                made = _born(_power(*map(_bare, inputs)))
                note(_power, [*map(_bare, inputs)], {"out": _bare(made)}, map(_bare, inputs), [_bare(made)])
            else:
                made = Watched.__array_ufunc__(self, ufunc, method, *inputs, **options)
            made = made.view(Number)
            made.born_among = _list_open()
            if made.born_among is None:
                self.made[key] = made
            return made
        dtype = numpy.result_type(*others) if others else None
        given = [_beside(a, dtype) if isinstance(a, Number) and dtype is not None else a for a in inputs]
        return Watched.__array_ufunc__(self, ufunc, method, *given, out=out, **options)

    def astype(self, dtype: Any, *args: Any, **options: Any) -> Any:
        """Itself: a Python number has no dtype."""
        return self


def _beside(number: Number, dtype: numpy.dtype) -> Watched:
    """The number in an array's dtype, once for each."""
    whole = number.dtype.kind in "iu"
    if dtype.kind != "f" and not (whole and dtype.kind in "iu"):
        dtype = number.dtype
    known = number.made
    if dtype not in known:
        with _noted_in(number.born_among):  # others may use it too, not this thread's item alone
            known[dtype] = number.view(Watched).astype(dtype)
    return known[dtype]


def _list_open() -> Any:
    on = tape()
    return None if on is None or on.open is on.steps else on.open


@contextmanager
def _noted_in(calls: Any) -> Iterator[None]:
    """Note calls where a number was created: in an item, or (None) outside of all items."""
    on = tape()
    if on is None:
        yield
        return
    before, on.open = on.open, on.steps if calls is None else calls
    try:
        yield
    finally:
        on.open = before


def _power(base: Any, exponent: Any, out: ndarray | None = None) -> Any:
    """As Python computes it, to the last bit."""
    value = (base.item() if isinstance(base, ndarray) else base) ** (
        exponent.item() if isinstance(exponent, ndarray) else exponent
    )
    if out is None:
        return value
    out[...] = value
    return out


def is_number(value: Any) -> bool:
    """A Python number, or what stands for one in a captured step."""
    return type(value) in (int, float, Number)


def _method(name: str) -> Callable[..., Any]:
    return getattr(ndarray, name)


for _named in ("argsort", "repeat", "take", "choose", "compress", "searchsorted", "nonzero", "trace", "argpartition"):
    setattr(Watched, _named, lambda self, *a, _named=_named, **o: self._called(_named, *a, **o))
for _named in ("sort", "partition", "put", "byteswap"):
    setattr(Watched, _named, lambda self, *a, _named=_named, **o: self._changed(_named, *a, **o))


def _item(source: ndarray, key: Any) -> Any:
    return source[key]


def _set_item(target: ndarray, key: Any, value: Any) -> None:
    target[key] = value


def _is_element(key: Any, target: ndarray) -> bool:
    keys = key if type(key) is tuple else (key,)
    return len(keys) == target.ndim and all(isinstance(each, (int, numpy.integer)) for each in keys)


def _chosen(where: Any, first: Any, second: Any) -> Any:
    """``numpy.where`` in two copies, which need no memory of their own."""
    result = _born(numpy.where(where, first, second))
    out = _bare(result)
    where = numpy.asarray(where)
    note(numpy.copyto, [out, second], {"casting": "unsafe"}, [second], [out])
    note(numpy.copyto, [out, first], {"casting": "unsafe", "where": where if where.dtype == bool else where != 0},
         [first, where, out], [out])  # fmt: skip
    if where.dtype != bool:
        raise Unrecordable("numpy.where got a condition that is not an array of bools")
    return result


# -- values that are read ----------------------------------------------------------------------------------------------


def _asked(array: Watched, test: Any, against: Any, answer: bool) -> None:
    """dualnet's code has read a value to choose its path: note the question and the answer. Other code may not."""
    frame: Any = sys._getframe(2)
    while frame is not None and str(frame.f_globals.get("__name__", "")).startswith("numpy."):
        frame = frame.f_back
    if frame is not None and not str(frame.f_globals.get("__name__", "")).startswith(OURS):
        _refuse("(float(x), int(x) or if x:)")
    on = tape()
    if on is None:
        return
    bare = array.view(ndarray)
    known = on.memory.part(bare) if bare.dtype == bool and against is False else None
    if known is not None and known.buffer.size == 1 and known.buffer.home is None:
        on.found.append((known, answer))  # it is the answer itself
        on.held.append(array)
        return
    given = [bare] if against is None else [bare, against]
    verdict = _real["empty"]((), bool)
    on.born(verdict)
    note(test, given, {"out": verdict}, [bare], [verdict])
    test(*given, out=verdict)
    part = on.memory.part(verdict)
    if part is not None:
        on.found.append((part, answer))
        on.held.append(verdict)  # its memory must not be another array's while the step is recorded


def _refuse(what: str) -> None:
    raise TransferForbidden(f"a Python value of an array {what}") from None


def read(array: Any) -> ndarray:
    """The array for the host: in a captured step nothing is read."""
    if isinstance(array, Watched):
        raise TransferForbidden(f"a copy of {array.nbytes} bytes for the host (dn.to_numpy)")
    return numpy.asarray(array)


# -- where arrays are created ------------------------------------------------------------------------------------------

_BORN = {"empty": None, "zeros": 0, "ones": 1, "full": None, "arange": None}
_ALIKE = {"empty_like": None, "zeros_like": 0, "ones_like": 1, "full_like": None}
_CONVERTED = ("ascontiguousarray", "asarray", "asanyarray", "array")
_real = {name: getattr(numpy, name) for name in (*_BORN, *_ALIKE, *_CONVERTED, "take")}


@contextmanager
def _births_watched() -> Iterator[None]:
    """Replace what makes arrays; in other threads it does what it always did."""
    with _lock:
        _patched.append(1)
        if len(_patched) == 1:
            for name, make in _MAKERS.items():
                setattr(numpy, name, make)
    try:
        yield
    finally:
        with _lock:
            _patched.pop()
            if not _patched:
                for name, make in _real.items():
                    setattr(numpy, name, make)


def _filled(made: ndarray, value: Any, empty: bool = False) -> Any:
    on = tape()
    if on is None:
        return made
    result, bare = _born(made), _bare(made)
    if not empty and made.size:
        note(numpy.copyto, [bare, _bare(value)], {"casting": "unsafe"}, [value], [bare])
    return result


_LIKE = {_real[name] for name in _ALIKE}


def _maker(name: str, value: Any) -> Callable[..., Any]:
    real = _real[name]

    def make(*args: Any, **options: Any) -> Any:
        if tape() is None:
            return real(*args, **options)
        made, fill = real(*map(_bare, args), **{key: _bare(option) for key, option in options.items()}), value
        if type(made) is not ndarray:
            return made
        if name.startswith("full"):
            fill = args[1] if len(args) > 1 else options["fill_value"]
        elif name == "arange":
            fill = made.copy()
        return _filled(made, fill, empty=name.startswith("empty"))

    make.__name__ = name
    return make


def _converter(name: str) -> Callable[..., Any]:
    real = _real[name]

    def convert(x: Any, *args: Any, **options: Any) -> Any:
        made = real(x, *args, **options)
        if isinstance(x, Watched) and type(made) is ndarray:
            return x._same_order(made) if made.shape == x.shape else made
        return made

    convert.__name__ = name
    return convert


def _take(a: Any, indices: Any, *args: Any, **options: Any) -> Any:
    """``numpy.take``, which does not report a call to the class of its indices."""
    if isinstance(indices, Watched) and tape() is not None:
        return _computed(_real["take"], (_bare(a), _bare(indices), *args), options)
    return _real["take"](a, indices, *args, **options)


_MAKERS: dict[str, Callable[..., Any]] = {
    **{name: _maker(name, value) for name, value in {**_BORN, **_ALIKE}.items()},
    **{name: _converter(name) for name in _CONVERTED},
    "take": _take,
}
