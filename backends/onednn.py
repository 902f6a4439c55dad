"""oneDNN through its C API: finding the library, and plans that run one computation for one shape.

oneDNN is the open library of convolutions that the large frameworks call on a CPU. Any ``libdnnl`` of version 3 serves,
the first of these that loads:

1. the path in ``DUALNET_ONEDNN_LIBRARY``; one that does not load is an error
2. the wheel ``onednn-cpu-gomp`` (``pip install dualnet[onednn]``)
3. ``lib`` of this Python's environment (conda), then the system's

``DUALNET_ONEDNN=0`` switches it off. Nothing is loaded before the first kernel call.

A :class:`Plan` holds a primitive of the library with all that it needs, made once for a shape; running it sets the
addresses of the arrays and calls ``dnnl_primitive_execute``. On a CPU that call returns when the work is done, so no
stream is waited for. Plans, their buffers and streams belong to one thread, so that threads neither wait for each
other nor see each other's numbers; what the library itself caches (compiled code) is shared and safe.

Threads: OpenMP's, as many as ``threads.count()``; the number that the calling thread had is put back after each call.
OpenMP's threads do not survive a fork, and waiting for them would never end: a forked child of a process that has used
them computes on one thread.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import os
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from ctypes import byref, c_char, c_char_p, c_float, c_int, c_int64, c_size_t, c_uint, c_void_p
from typing import Any

import numpy

from . import threads

KEPT = 256
"""So many plans are kept by each thread; then the one that was not used for longest is destroyed."""
WHEELS = ("onednn-cpu-gomp", "onednn-cpu-iomp", "onednn-cpu-tbb")
NAMES = ("libdnnl.so.3", "libdnnl.3.dylib", "dnnl.dll")
RUNTIMES = {1: "sequential", 2: "OpenMP", 4: "TBB"}  # those that are done when execute returns

# Numbers of the C headers (dnnl_types.h, the same in all of version 3)
CPU, IN_ORDER = 1, 1
F32, U8 = 3, 6
ANY = 1  # a layout of the library's choice
UNIMPLEMENTED = 3
STRICT, USER = 0, 1  # no float16 inside float32; the scratchpad is ours
INFERENCE, TRAINING, BACKWARD = 96, 64, 128
IMPLEMENTATION, WEIGHTS_MD, DIFF_WEIGHTS_MD, WORKSPACE_MD, SCRATCHPAD_MD = 8, 131, 132, 135, 136
SRC, OTHER, DST, WEIGHTS, BIAS, WORKSPACE, SCRATCHPAD = 1, 2, 17, 33, 41, 64, 80
MEAN, VARIANCE, SCALE, SHIFT = 49, 50, 51, 52
DIFF_SRC, DIFF_DST, DIFF_WEIGHTS, DIFF_BIAS, DIFF_SCALE, DIFF_SHIFT = 129, 145, 161, 169, 255, 256
FACTOR = 32768 | 2  # what the first function applied to each result reads

_P, _I = c_void_p, c_int
_CREATED: dict[str, list[Any]] = {  # what follows the new handle, which comes first
    "engine": [_I, c_size_t],
    "stream": [_P, _I],
    "primitive_attr": [],
    "post_ops": [],
    "primitive": [_P],
    "memory": [_P, _P, _P],
    "memory_desc_create_with_tag": [_I, _P, _I, _I],
    "memory_desc_create_with_strides": [_I, _P, _I, _P],
    "reorder_primitive_desc": [_P] * 5,
    "convolution_forward_primitive_desc": [_P, _I, _I, *[_P] * 9],
    "convolution_backward_data_primitive_desc": [_P, _I, *[_P] * 9],
    "convolution_backward_weights_primitive_desc": [_P, _I, *[_P] * 10],
    "pooling_forward_primitive_desc": [_P, _I, _I, *[_P] * 8],
    "pooling_backward_primitive_desc": [_P, _I, *[_P] * 9],
    "eltwise_forward_primitive_desc": [_P, _I, _I, _P, _P, c_float, c_float, _P],
    "binary_primitive_desc": [_P, _I, _P, _P, _P, _P],
    "batch_normalization_forward_primitive_desc": [_P, _I, _P, _P, c_float, c_uint, _P],
    "batch_normalization_backward_primitive_desc": [_P, _I, _P, _P, _P, c_float, c_uint, _P, _P],
}
_CALLED: dict[str, list[Any]] = {
    "dnnl_primitive_attr_set_scratchpad_mode": [_P, _I],
    "dnnl_primitive_attr_set_fpmath_mode": [_P, _I],
    "dnnl_primitive_attr_set_post_ops": [_P, _P],
    "dnnl_post_ops_append_eltwise": [_P, _I, c_float, c_float],
    "dnnl_post_ops_append_binary": [_P, _I, _P],
    "dnnl_primitive_desc_query": [_P, _I, _I, _P],
    "dnnl_memory_desc_equal": [_P, _P],
    "dnnl_memory_set_data_handle": [_P, _P],
    "dnnl_primitive_execute": [_P, _P, _I, _P],
    "dnnl_sgemm": [c_char, c_char, *[c_int64] * 3, c_float, _P, c_int64, _P, c_int64, c_float, _P, c_int64],
}
_DESTROYED = ("stream", "primitive_attr", "post_ops", "primitive", "primitive_desc", "memory", "memory_desc")


class Refused(Exception):
    """oneDNN does not serve this shape, or not faster than plain loops."""


class _Version(ctypes.Structure):
    _fields_ = [
        ("major", c_int),
        ("minor", c_int),
        ("patch", c_int),
        ("hash", c_char_p),
        ("cpu_runtime", c_uint),
        ("gpu_runtime", c_uint),
    ]


class _Argument(ctypes.Structure):
    _fields_ = [("number", c_int), ("memory", c_void_p)]


# -- the library -------------------------------------------------------------------------------------------------------


class Library:
    """A loaded ``libdnnl``; raises ``OSError`` with the reason where it cannot serve."""

    def __init__(self, path: str) -> None:
        self.path = path
        slow = ctypes.CDLL(path)  # lets go of the interpreter's lock during a call
        quick = ctypes.PyDLL(path)  # keeps it, which is sooner for calls of nanoseconds
        self.version, self.runtime = self._checked(slow)
        for name, arguments in _CREATED.items():
            name = f"dnnl_{name}" if "_create_" in name else f"dnnl_{name}_create"
            getattr(slow, name).argtypes = [_P, *arguments]
        for loaded in (slow, quick):
            for name, arguments in _CALLED.items():
                getattr(loaded, name).argtypes = arguments
        for name in _DESTROYED:
            getattr(quick, f"dnnl_{name}_destroy").argtypes = [_P]
        slow.dnnl_primitive_desc_query_md.argtypes, slow.dnnl_primitive_desc_query_md.restype = [_P, _I, _I], _P
        slow.dnnl_memory_desc_get_size.argtypes, slow.dnnl_memory_desc_get_size.restype = [_P], c_size_t
        self.slow, self.quick = slow, quick
        self.execute, self.set_address = slow.dnnl_primitive_execute, quick.dnnl_memory_set_data_handle
        if self.runtime == "OpenMP":  # its own OpenMP, whichever that is
            self.get_threads, self.set_threads = quick.omp_get_max_threads, quick.omp_set_num_threads
        else:
            self.get_threads, self.set_threads = (lambda: 0), (lambda number: None)
        self.engine = self.made("engine", CPU, 0)

    @staticmethod
    def _checked(loaded: ctypes.CDLL) -> tuple[str, str]:
        if not hasattr(loaded, "dnnl_version"):
            raise OSError("it is not oneDNN: it has no dnnl_version")
        loaded.dnnl_version.restype = ctypes.POINTER(_Version)
        found = loaded.dnnl_version().contents
        version = f"{found.major}.{found.minor}.{found.patch}"
        if found.major != 3:
            raise OSError(f"it is oneDNN {version}; expected version 3")
        if found.cpu_runtime not in RUNTIMES:
            raise OSError(f"its CPU runtime is number {found.cpu_runtime}; expected OpenMP, TBB or sequential")
        return version, RUNTIMES[found.cpu_runtime]

    def made(self, kind: str, *arguments: Any) -> c_void_p:
        """A new handle from the library's create function of this kind."""
        handle = c_void_p()
        name = f"dnnl_{kind}" if "_create_" in kind else f"dnnl_{kind}_create"
        status = getattr(self.slow, name)(byref(handle), *arguments)
        if status:
            raise Refused(f"{name}: oneDNN status {status}")
        return handle

    def call(self, name: str, *arguments: Any) -> None:
        status = getattr(self.slow, name)(*arguments)
        if status:
            raise Refused(f"{name}: oneDNN status {status}")


_found: list[tuple[Library | None, str]] = []
_lock = threading.Lock()
_process = {"forked": False, "parallel": False}


def library() -> Library | None:
    """The library in force, loaded on the first call; None where there is none, or ``DUALNET_ONEDNN=0``.

    Raises ``ValueError`` where ``DUALNET_ONEDNN_LIBRARY`` names something that does not serve.
    """
    if not _switched_on():
        return None
    if not _found:
        with _lock:
            if not _found:
                _found.append(_search())
    return _found[0][0]


def available() -> tuple[bool, str]:
    """Whether oneDNN serves here, and which library, or why not, in one line."""
    try:
        if not _switched_on():
            return False, "switched off by DUALNET_ONEDNN=0"
        found = library()
    except ValueError as error:
        return False, str(error)
    if found is None:
        return False, _found[0][1]
    return True, f"{found.version}, {found.runtime}, {found.path}"


def describe() -> dict[str, str]:
    """The lines of ``dn.info()``."""
    works, words = available()
    if not works:
        return {"onednn": f"no: {words}"}
    return {"onednn": words, "onednn threads": str(count())}


def count() -> int:
    """How many threads oneDNN uses: ``threads.count()``, or one in a forked child of a process that used more."""
    return 1 if _process["forked"] else threads.count()


def _switched_on() -> bool:
    asked = os.environ.get("DUALNET_ONEDNN", "")
    if asked in ("", "1", "auto"):
        return True
    if asked.strip() != "0":
        raise ValueError(f"DUALNET_ONEDNN is 0 or 1, got {asked!r}")
    return False


def _search() -> tuple[Library | None, str]:
    asked = os.environ.get("DUALNET_ONEDNN_LIBRARY", "").strip()
    if asked:
        try:
            return _loaded(asked), ""
        except OSError as error:
            raise ValueError(
                f"DUALNET_ONEDNN_LIBRARY={asked} does not serve: {error}. Expected the path of a libdnnl of version 3."
            ) from None
    said = ["no library found; pip install dualnet[onednn], or set DUALNET_ONEDNN_LIBRARY to a libdnnl.so.3"]
    for path in _candidates():
        try:
            return _loaded(path), ""
        except OSError as error:
            if os.path.exists(path) or "it is" in str(error):
                said = [f"{path} does not serve: {error}"]
    return None, said[0]


def _loaded(path: str) -> Library:
    """Load it; OpenMP's threads are told to sleep rather than spin while they wait, unless the user has said."""
    ours = "OMP_WAIT_POLICY" not in os.environ and "GOMP_SPINCOUNT" not in os.environ
    if ours:
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"  # read once, when OpenMP is loaded
    try:
        return Library(path)
    except (AttributeError, Refused) as error:
        raise OSError(f"it lacks what is needed: {error}") from None
    finally:
        if ours:
            del os.environ["OMP_WAIT_POLICY"]


def _candidates() -> Iterator[str]:
    for wheel in WHEELS:
        try:
            files: Iterable[Any] = importlib.metadata.files(wheel) or ()
        except importlib.metadata.PackageNotFoundError:
            continue
        yield from (os.path.abspath(f.locate()) for f in files if f.name in NAMES)  # type: ignore[type-var]
    for name in NAMES:
        yield os.path.join(sys.prefix, "lib", name)
    yield from NAMES  # wherever the system's loader looks


# -- plans -------------------------------------------------------------------------------------------------------------


class Plan:
    """Steps of the library for one shape: ``plan(x, w, y)`` runs them on arrays in the order of its :meth:`slot` calls.

    The arrays must be contiguous, and of the sizes and dtypes described: nothing checks them here.
    """

    def __init__(self, number: int) -> None:
        found = library()
        assert found is not None
        self.library, self.threads = found, number
        self._handles: list[tuple[Callable[[Any], Any], c_void_p]] = []
        self._buffers: list[numpy.ndarray] = []
        self._slots: list[int | None] = []
        self._steps: list[tuple[Any, int, Any]] = []
        self._scratchpads: list[int | None] = []
        self._scratch_bytes = 0
        self._stream = _kept().stream(found)
        self.implementations: list[str] = []

    def __del__(self) -> None:
        for destroy, handle in reversed(self.__dict__.get("_handles", [])):
            destroy(handle)

    def made(self, kind: str, *arguments: Any) -> c_void_p:
        """A new handle, destroyed with the plan."""
        handle = self.library.made(kind, *arguments)
        name = "primitive_desc" if kind.endswith("primitive_desc") else kind.split("_create_")[0]
        self._handles.append((getattr(self.library.quick, f"dnnl_{name}_destroy"), handle))
        return handle

    def described(self, dims: tuple[int, ...], strides: tuple[int, ...] | None = None, dtype: int = F32) -> c_void_p:
        """A memory descriptor of these dims; strides in elements, or None: the library chooses the layout."""
        if strides is None:
            return self.made("memory_desc_create_with_tag", len(dims), ints(*dims), dtype, ANY)
        return self.made("memory_desc_create_with_strides", len(dims), ints(*dims), dtype, ints(*strides))

    def maps(self, N: int, H: int, W: int, C: int, dtype: int = F32) -> c_void_p:
        """Feature maps (N, H, W, C) as they lie in memory; the library counts their dims as N, C, H, W."""
        return self.described((N, C, H, W), (H * W * C, 1, W * C, C), dtype)

    def vector(self, C: int) -> c_void_p:
        return self.described((C,), (1,))

    def attributes(self, *applied: tuple[Any, ...]) -> c_void_p:
        """Attributes of a primitive: exact float32, our scratchpad, and functions applied to each result.

        A function is (kind, α, β) of the element, or (kind, descriptor) of the element and that of another array.
        """
        attributes = self.made("primitive_attr")
        self.library.call("dnnl_primitive_attr_set_scratchpad_mode", attributes, USER)
        self.library.call("dnnl_primitive_attr_set_fpmath_mode", attributes, STRICT)
        if applied:
            functions = self.made("post_ops")
            for each in applied:
                kind = "eltwise" if len(each) == 3 else "binary"
                self.library.call(f"dnnl_post_ops_append_{kind}", functions, *each)
            self.library.call("dnnl_primitive_attr_set_post_ops", attributes, functions)
        return attributes

    def primitive_desc(self, kind: str, *arguments: Any) -> c_void_p:
        """A primitive descriptor; plain loops are refused."""
        descriptor = self.made(f"{kind}_primitive_desc", self.library.engine, *arguments)
        name = c_char_p()
        self.library.call("dnnl_primitive_desc_query", descriptor, IMPLEMENTATION, 0, byref(name))
        words = (name.value or b"").decode()
        if words.startswith("ref"):
            raise Refused(f"oneDNN has only {words} for this {kind}")
        self.implementations.append(words)
        return descriptor

    def query(self, descriptor: c_void_p, what: int) -> c_void_p:
        """A memory descriptor that the library chose; it lives as long as the primitive descriptor."""
        return c_void_p(self.library.slow.dnnl_primitive_desc_query_md(descriptor, what, 0))

    def same(self, one: c_void_p, other: c_void_p) -> bool:
        return bool(self.library.slow.dnnl_memory_desc_equal(one, other))

    def slot(self, descriptor: c_void_p) -> c_void_p:
        """The memory of an array that is given on each call."""
        memory = self.made("memory", descriptor, self.library.engine, None)
        self._slots.append(memory.value)
        return memory

    def buffer(self, descriptor: c_void_p) -> c_void_p:
        """Memory of the plan's own."""
        buffer = numpy.empty(self.library.slow.dnnl_memory_desc_get_size(descriptor) + 64, numpy.uint8)
        self._buffers.append(buffer)
        aligned = -(-buffer.ctypes.data // 64) * 64
        return self.made("memory", descriptor, self.library.engine, aligned)

    def reorder(self, source: c_void_p, target: c_void_p, slot: c_void_p, buffer: c_void_p) -> None:
        """A step that copies from one layout to another."""
        engine = self.library.engine
        descriptor = self.made("reorder_primitive_desc", source, engine, target, engine, self.attributes())
        self.step(descriptor, {SRC: slot, DST: buffer})

    def step(self, descriptor: c_void_p, arguments: dict[int, c_void_p]) -> None:
        """Run this primitive as the next step, on these memories by argument number."""
        scratch = self.query(descriptor, SCRATCHPAD_MD)
        size = self.library.slow.dnnl_memory_desc_get_size(scratch) if scratch.value else 0
        if size:
            memory = self.made("memory", scratch, self.library.engine, None)
            arguments = {**arguments, SCRATCHPAD: memory}
            self._scratchpads.append(memory.value)
            self._scratch_bytes = max(self._scratch_bytes, size)
        primitive = self.made("primitive", descriptor)
        packed = (_Argument * len(arguments))(*[_Argument(n, memory) for n, memory in arguments.items()])
        self._steps.append((primitive, len(arguments), packed))

    def __call__(self, *arrays: numpy.ndarray) -> None:
        library = self.library
        set_address, execute, stream = library.set_address, library.execute, self._stream
        for memory, array in zip(self._slots, arrays):
            set_address(memory, array.__array_interface__["data"][0])
        if self._scratchpads:
            address = _kept().scratch(self._scratch_bytes)
            for memory in self._scratchpads:
                set_address(memory, address)
        before = library.get_threads()
        if before != self.threads:
            library.set_threads(self.threads)
        try:
            for primitive, number, arguments in self._steps:
                status = execute(primitive, stream, number, arguments)
                if status:
                    raise RuntimeError(f"dnnl_primitive_execute: oneDNN status {status}")
        finally:
            if before != self.threads:
                library.set_threads(before)


class _Kept(threading.local):
    """What a thread keeps: its plans, a stream, and one scratchpad for all plans."""

    def __init__(self) -> None:
        self.plans: OrderedDict[Any, Plan | None] = OrderedDict()
        self.streams: dict[Library, c_void_p] = {}
        self.memory = numpy.empty(0, numpy.uint8)
        self.address = 0

    def stream(self, found: Library) -> c_void_p:
        if found not in self.streams:
            self.streams[found] = found.made("stream", found.engine, IN_ORDER)
        return self.streams[found]

    def scratch(self, size: int) -> int:
        if self.memory.size < size + 4096:
            self.memory = numpy.empty(size + 4096, numpy.uint8)
            self.address = -(-self.memory.ctypes.data // 4096) * 4096
        return self.address


_of_thread = _Kept()


def _kept() -> _Kept:
    return _of_thread


def plan(build: Callable[..., None], *shapes: Any) -> Plan | None:
    """The plan that ``build(plan, *shapes)`` makes, kept by this thread; None where oneDNN does not serve.

    ``shapes`` must say everything that the plan depends on, and be hashable.
    """
    found = library()
    if found is None:
        return None
    number, plans = count(), _of_thread.plans
    key = (build, number, shapes)
    if key in plans:
        plans.move_to_end(key)
        return plans[key]
    if number > 1:
        _process["parallel"] = True
    before = found.get_threads()
    found.set_threads(number)  # the code that is made depends on it
    try:
        made: Plan | None = Plan(number)
        build(made, *shapes)
    except Refused:
        made = None
    finally:
        found.set_threads(before)
    plans[key] = made
    while len(plans) > KEPT:
        plans.popitem(last=False)
    return made


def ints(*values: int) -> Any:
    """An array of int64 for the library."""
    return (c_int64 * len(values))(*values)


def _after_fork() -> None:
    _process["forked"] = _process["forked"] or _process["parallel"]
    _lock._at_fork_reinit()  # type: ignore[attr-defined]  # another thread may have held it


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


# -- the matrix product ------------------------------------------------------------------------------------------------


def product(x: numpy.ndarray, w: numpy.ndarray, b: numpy.ndarray | None, y: numpy.ndarray) -> bool:
    """y = x w + b, of float32 matrices that may be transposed views; False where oneDNN does not serve."""
    found = library()
    if found is None:
        return False
    number = count()
    if number > 1:
        _process["parallel"] = True
    (x, across, row), (w, down, column) = _as_it_lies(x), _as_it_lies(w)
    (M, K), D = x.shape, w.shape[1]
    if b is not None:
        y[...] = b
    addresses = [a.__array_interface__["data"][0] for a in (x, w, y)]
    before = found.get_threads()
    found.set_threads(number)
    try:
        status = found.slow.dnnl_sgemm(
            across, down, M, D, K, 1.0, addresses[0], row, addresses[1], column, 0.0 if b is None else 1.0,
            addresses[2], D,
        )  # fmt: skip
    finally:
        found.set_threads(before)
    return status == 0


def _as_it_lies(matrix: numpy.ndarray) -> tuple[numpy.ndarray, bytes, int]:
    """The matrix (a copy, if its rows and columns are both apart), b"N" or b"T", and the distance between its runs."""
    (rows, columns), (down, across), size = matrix.shape, matrix.strides, matrix.itemsize
    if matrix.flags.c_contiguous:
        return matrix, b"N", columns
    if matrix.flags.f_contiguous:
        return matrix, b"T", rows
    if across == size and down >= columns * size and down % size == 0:
        return matrix, b"N", down // size
    if down == size and across >= rows * size and across % size == 0:
        return matrix, b"T", across // size
    return numpy.ascontiguousarray(matrix), b"N", columns
