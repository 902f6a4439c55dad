"""Plans: one computation of oneDNN for one shape, ready to run again.

A :class:`Plan` holds a primitive of the library with all that it needs, made once for a shape. Running it sets the
addresses of the arrays and calls ``dnnl_primitive_execute``. On a CPU that call returns when the work is done, so there
is no stream to wait for. Plans, their buffers and streams belong to one thread, so that threads neither wait for each
other nor see each other's numbers. What the library itself caches (compiled code) is shared and safe.

A plan is not re-entrant: while one runs, its addresses and the thread's working memory are taken. Code that the same
thread runs in between, in a signal handler or a finaliser, must not compute with a network.
"""

from __future__ import annotations

import sys
import threading
from collections import OrderedDict
from collections.abc import Callable
from ctypes import Structure, byref, c_char_p, c_int, c_size_t, c_void_p
from typing import Any

import numpy

from dualnet.geometry import Windows

from ..cpu import threads, tracing
from ..cpu.tape import ALIGNED, Address, Buffer, Call, Part, Places, Tape, Unrecordable, covers
from .library import Library, Refused, count, ints, library, parallel

KEPT = 256
"""Each thread keeps this many plans; a new one replaces the least recently used."""

# Constants from the C header dnnl_types.h, the same in every version 3
IN_ORDER = 1
F32, U8 = 3, 6
ANY = 1  # a layout of the library's choice
STRICT, USER = 0, 1  # no float16 inside float32; the scratchpad is ours
INFERENCE, TRAINING, BACKWARD = 96, 64, 128
IMPLEMENTATION, WEIGHTS_MD, DIFF_WEIGHTS_MD, WORKSPACE_MD, SCRATCHPAD_MD = 8, 131, 132, 135, 136
SRC, OTHER, DST, WEIGHTS, BIAS, WORKSPACE, SCRATCHPAD = 1, 2, 17, 33, 41, 64, 80
MEAN, VARIANCE, SCALE, SHIFT = 49, 50, 51, 52
DIFF_SRC, DIFF_DST, DIFF_WEIGHTS, DIFF_BIAS, DIFF_SCALE, DIFF_SHIFT = 129, 145, 161, 169, 255, 256


def applied(place: int) -> int:
    """The argument number of the other array of the function in this place, of those applied to each result."""
    return 32768 * (place + 1) | OTHER


_HEAD = sys.getsizeof(object())
_pointer_at = c_size_t.from_address


def address(array: numpy.ndarray) -> int:
    """The address of an array's data: 0.2 µs instead of the array interface's 1.1, four times for each layer.

    A NumPy array holds the pointer right after the header that every Python object has. The code below checks once that
    it is there.
    """
    return _pointer_at(id(array) + _HEAD).value


def _by_interface(array: numpy.ndarray) -> int:
    return array.__array_interface__["data"][0]


def _pointer_is_there() -> bool:
    if sys.implementation.name != "cpython":
        return False
    probes = [numpy.empty(n) for n in (1, 5, 1000)]
    return all(address(probe) == _by_interface(probe) for probe in (*probes, probes[2][7:]))


if not _pointer_is_there():
    address = _by_interface


class _Argument(Structure):
    _fields_ = [("number", c_int), ("memory", c_void_p)]


# -- plans -------------------------------------------------------------------------------------------------------------


class Plan:
    """Steps of the library for one shape: ``plan(x, w, y)`` runs them on arrays in the order of its :meth:`slot` calls.

    The arrays must be contiguous, and have the sizes and dtypes described; they are not checked here.
    """

    def __init__(self, found: Library, number: int) -> None:
        self.library, self.threads = found, number
        self._handles: list[tuple[Callable[[Any], Any], c_void_p]] = []
        self._buffers: list[tuple[int | None, int]] = []  # memories of its own, each with its place
        self._buffer_bytes = 0
        self._slots: list[int | None] = []
        self._steps: list[tuple[Any, int, Any]] = []
        self._scratchpads: list[int | None] = []
        self._scratch_bytes = 0
        self._scratch_at = 0  # where these memories and scratchpads lie now
        self._stream = _of_thread.stream(found)
        self.implementations: list[str] = []
        self.sizes: list[int] = []  # bytes of what the library lays out as it likes

    def __del__(self) -> None:
        for destroy, handle in reversed(self.__dict__.get("_handles", [])):
            destroy(handle)

    def made(self, kind: str, *arguments: Any) -> c_void_p:
        """A new handle, destroyed with the plan."""
        handle = self.library.made(kind, *arguments)
        name = "primitive_desc" if kind.endswith("primitive_desc") else kind.split("_create_")[0]
        self._handles.append((getattr(self.library.quick, f"dnnl_{name}_destroy"), handle))
        return handle

    def alone_below(self, limit: int, work: int) -> None:
        """Use one thread if there is less to do than waking another would take. Call it before anything else."""
        if work < limit:
            self.threads = 1
            self.library.set_threads(1)  # plan() puts it back

    def described(self, dims: tuple[int, ...], strides: tuple[int, ...] | None = None, dtype: int = F32) -> c_void_p:
        """A memory descriptor of these dims; strides in elements, or None: the library chooses the layout."""
        if strides is None:
            return self.made("memory_desc_create_with_tag", len(dims), ints(*dims), dtype, ANY)
        return self.made("memory_desc_create_with_strides", len(dims), ints(*dims), dtype, ints(*strides))

    def maps(self, N: int, H: int, W: int, C: int, dtype: int = F32) -> c_void_p:
        """Feature maps (N, H, W, C) as they are in memory; the library counts their dims as N, C, H, W."""
        return self.described((N, C, H, W), (H * W * C, 1, W * C, C), dtype)

    def vector(self, C: int) -> c_void_p:
        """C numbers."""
        return self.described((C,), (1,))

    def attributes(self, *applied: tuple[Any, ...]) -> c_void_p:
        """Attributes of a primitive: exact float32, our scratchpad, and functions applied to each result.

        A function is (kind, α, β) of one element, or (kind, descriptor) of one element and another array's.
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

    def primitive_desc(self, kind: str, *arguments: Any, direct: bool = False) -> c_void_p:
        """A primitive descriptor; raises ``Refused`` if the library has only plain loops.

        With ``direct``, a convolution is computed as it stands, if the library would make it of small products.
        """
        descriptor = self.made(f"{kind}_primitive_desc", self.library.engine, *arguments)
        words = self._implementation(descriptor)
        if words.startswith("ref"):
            raise Refused(f"oneDNN has only {words} for this {kind}")
        if direct and words.startswith("brg"):
            descriptor, words = self._as_it_stands(descriptor, words, kind, arguments)
        self.implementations.append(words)
        return descriptor

    def _as_it_stands(self, first: c_void_p, words: str, kind: str, arguments: tuple) -> tuple[c_void_p, str]:
        """The library's next code for the same instructions that is not made of products; the first, if it has none."""
        wanted = "jit:" + words.rpartition(":")[2]
        other = self.made(f"{kind}_primitive_desc", self.library.engine, *arguments)
        while not self.library.slow.dnnl_primitive_desc_next_impl(other):
            if self._implementation(other) == wanted:
                return other, wanted
        return first, words

    def _implementation(self, descriptor: c_void_p) -> str:
        """What the library calls its code for this primitive, such as ``"jit:avx512_core"``."""
        name = c_char_p()
        self.library.call("dnnl_primitive_desc_query", descriptor, IMPLEMENTATION, 0, byref(name))
        return (name.value or b"").decode()

    def query(self, descriptor: c_void_p, what: int) -> c_void_p:
        """A memory descriptor that the library chose; it is valid as long as the primitive descriptor exists."""
        return c_void_p(self.library.slow.dnnl_primitive_desc_query_md(descriptor, what, 0))

    def same(self, one: c_void_p, other: c_void_p) -> bool:
        """Are two memory descriptors equal?"""
        return bool(self.library.slow.dnnl_memory_desc_equal(one, other))

    def slot(self, descriptor: c_void_p) -> c_void_p:
        """The memory of an array that each call brings."""
        memory = self.made("memory", descriptor, self.library.engine, None)
        self._slots.append(memory.value)
        return memory

    def buffer(self, descriptor: c_void_p) -> c_void_p:
        """Memory that holds something while the plan runs, and not longer: beside the scratchpad that plans share."""
        memory = self.made("memory", descriptor, self.library.engine, None)
        self._buffers.append((memory.value, self._buffer_bytes))
        self._buffer_bytes += _lines(self.library.slow.dnnl_memory_desc_get_size(descriptor))
        return memory

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

    def finished(self) -> None:
        """Destroy what only building needs: descriptors and attributes, nearly all of the memory that a plan takes."""
        lasting = (self.library.quick.dnnl_memory_destroy, self.library.quick.dnnl_primitive_destroy)
        for destroy, handle in reversed(self._handles):
            if destroy not in lasting:
                destroy(handle)
        self._handles = [(destroy, handle) for destroy, handle in self._handles if destroy in lasting]

    def __call__(self, *arrays: numpy.ndarray) -> None:
        self._run(*arrays)
        if (on := tracing.tape()) is not None:
            recorded(on, self, arrays)

    def _run(self, *arrays: numpy.ndarray) -> None:
        library = self.library
        set_address, execute, stream = library.set_address, library.execute, self._stream
        for memory, array in zip(self._slots, arrays, strict=True):
            set_address(memory, address(array))
        if self._scratchpads or self._buffers:
            start = _of_thread.scratch(_lines(self._scratch_bytes) + self._buffer_bytes)
            if start != self._scratch_at:
                self._lie_at(start)
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

    def _lie_at(self, start: int) -> None:
        """The scratchpad of all steps begins here, and the buffers follow."""
        for memory in self._scratchpads:
            self.library.set_address(memory, start)
        behind = start + _lines(self._scratch_bytes)
        for memory, offset in self._buffers:
            self.library.set_address(memory, behind + offset)
        self._scratch_at = start


def _lines(size: int) -> int:
    """Bytes in whole cache lines."""
    return -(-size // ALIGNED) * ALIGNED


class _Stream:
    """Where primitives run; destroyed with its thread."""

    def __init__(self, found: Library) -> None:
        self.handle, self.destroy = found.made("stream", found.engine, IN_ORDER), found.quick.dnnl_stream_destroy

    def __del__(self) -> None:
        self.destroy(self.handle)


class _Kept(threading.local):
    """What a thread keeps: its plans, a stream, and one piece of memory in which each plan works while it runs."""

    def __init__(self) -> None:
        self.plans: OrderedDict[Any, Plan | None] = OrderedDict()
        self.streams: dict[Library, _Stream] = {}
        self.memory = numpy.empty(0, numpy.uint8)
        self.address = 0

    def stream(self, found: Library) -> c_void_p:
        if found not in self.streams:
            self.streams[found] = _Stream(found)
        return self.streams[found].handle

    def scratch(self, size: int) -> int:
        if self.memory.size < size + 4096:
            self.memory = numpy.empty(0, numpy.uint8)  # gone before the larger one is there
            self.memory = threads.apart(size + 4096, numpy.dtype(numpy.uint8))
            self.address = -(-self.memory.ctypes.data // 4096) * 4096
        return self.address

    def let_go(self) -> None:
        """Free the plans and the memory."""
        self.plans.clear()
        self.memory, self.address = numpy.empty(0, numpy.uint8), 0


_of_thread = _Kept()
threads.also_kept.append(_of_thread.let_go)


def plan(build: Callable[..., None], *shapes: Any) -> Plan | None:
    """The plan that ``build(plan, *shapes)`` makes, kept by this thread; None if oneDNN declines.

    ``shapes`` must hold everything that the plan depends on, and be hashable.
    """
    found = library()
    if found is None:
        return None
    number, plans = count(), _of_thread.plans
    key = (build, number, shapes)
    if key in plans:
        plans.move_to_end(key)
        return plans[key]
    parallel(number)
    before = found.get_threads()
    found.set_threads(number)  # the generated code depends on it
    try:
        made: Plan | None = Plan(found, number)
        build(made, *shapes)
        made.finished()
    except Refused:
        made = None
    finally:
        found.set_threads(before)
    plans[key] = made
    while len(plans) > KEPT:
        plans.popitem(last=False)
    return made


# -- in a recorded step ------------------------------------------------------------------------------------------------

BOTH = (MEAN, VARIANCE, WORKSPACE)
WRITTEN = (DST, *BOTH, SCRATCHPAD, DIFF_SRC, DIFF_WEIGHTS, DIFF_BIAS, DIFF_SCALE, DIFF_SHIFT)


class OnTape:
    """A plan for one call of a recorded step: the same primitives, on memories that stay where the tape puts them."""

    def __init__(self, plan: Plan) -> None:
        self.plan, self.library, self.threads = plan, plan.library, plan.threads
        self.stream = _Stream(plan.library)  # not the thread's: another thread may repeat the step
        self.memories: dict[int | None, int | None] = {}  # by the plan's memory in the same place

    def __del__(self) -> None:
        for memory in self.memories.values():
            self.library.quick.dnnl_memory_destroy(memory)

    def sized(self, memory: int | None) -> int:
        """Bytes of one of the plan's memories."""
        return self.library.slow.dnnl_memory_desc_get_size(self._described(memory))

    def step(self, number: int, packed: Any) -> Any:
        """The arguments of a step, on memories of this call."""
        for argument in packed:
            if argument.memory not in self.memories:
                described = self._described(argument.memory)
                memory = self.library.made("memory", described, self.library.engine, None)
                self.memories[argument.memory] = memory.value
        return (_Argument * number)(*[_Argument(one.number, self.memories[one.memory]) for one in packed])

    def _described(self, memory: int | None) -> c_void_p:
        found = c_void_p()
        self.library.call("dnnl_memory_get_memory_desc", memory, byref(found))
        return found


class Primitive(Call):
    """One primitive on memories of its own."""

    def __init__(self, plan: OnTape, step: tuple[Any, int, Any], at: dict[int | None, Address]) -> None:
        primitive, number, theirs = step
        packed = plan.step(number, theirs)
        at = {plan.memories[one.memory]: at[one.memory] for one in theirs}
        of = [(argument.number, at[argument.memory].buffer) for argument in packed]
        reads = [buffer for n, buffer in of if n not in WRITTEN or n in BOTH]
        super().__init__(
            plan.library.execute, (primitive, plan.stream.handle, c_int(number), packed), {}, reads,
            [buffer for n, buffer in of if n in WRITTEN], True,
        )  # fmt: skip
        self.plan, self.at, self.threads = plan, at, (plan.library, plan.threads)

    def makes(self, part: Part) -> bool:
        """A new contiguous result, all of it: the primitive writes as much as it was made for, wherever that lies."""
        address = Address(part.buffer, part.offset)
        written = {self.at[one.memory] for one in self.arguments[3] if one.number in WRITTEN}
        whole = address in written and covers(part) and part.strides == _in_one_piece(part)
        return whole and part.buffer not in self.reads

    def may_write(self, buffer: Buffer) -> bool:
        """Not where it reads: a convolution would read what it has just written."""
        return buffer not in self.reads

    def redirect(self, source: Part, target: Part) -> None:
        of, to = Address(source.buffer, source.offset), Address(target.buffer, target.offset)
        self.at = {memory: to if address == of else address for memory, address in self.at.items()}
        self.writes = self.writes - {source.buffer} | {target.buffer}

    def bound(self, places: Places) -> Callable[[], Any]:
        for argument in self.arguments[3]:
            self.plan.library.set_address(argument.memory, self.at[argument.memory].bound(places))
        return super().bound(places)


def _in_one_piece(part: Part) -> tuple[int, ...]:
    sizes = [part.dtype.itemsize]
    for length in part.shape[:0:-1]:
        sizes.insert(0, sizes[0] * length)
    return tuple(sizes[: len(part.shape)])


def recorded(on: Tape, plan: Plan, arrays: tuple[numpy.ndarray, ...]) -> None:
    """Note the primitives of a plan that has just run on these arrays."""
    mine = OnTape(plan)
    on.kept.append(mine)
    tracing.kept(*arrays)
    at: dict[int | None, Address] = {}
    for memory, array in zip(plan._slots, arrays, strict=True):
        part = on.memory.find(address(array))
        if part is None:
            raise Unrecordable("it computes with memory that was made outside the step")
        at[memory] = Address(*part)
    at |= {memory: Address(Buffer(mine.sized(memory))) for memory, _ in plan._buffers}
    scratch = Buffer(plan._scratch_bytes, aligned=4096)
    at |= {memory: Address(scratch) for memory in plan._scratchpads}
    for step in plan._steps:
        on.note(Primitive(mine, step, at))


def placement(at: Windows) -> tuple[Any, Any, Any, Any]:
    """Where windows stand, as oneDNN takes it: strides, dilations (0 if there are none), padding before and after."""
    (top, bottom), (left, right) = at.reach
    return ints(*at.stride), ints(*(r - 1 for r in at.dilation)), ints(top, left), ints(bottom, right)
