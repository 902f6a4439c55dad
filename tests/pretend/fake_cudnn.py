"""A module that looks like NVIDIA's cuDNN frontend, as far as dualnet uses it, beside the pretend CuPy.

It is stricter than the real one: dims, strides, dtypes and the order of calls must be exact, and addresses must be
aligned and belong to the described arrays. ``execute_plan_at_index`` computes the declared convolution from the raw
addresses, in plain loops over taps, after it has overwritten the whole workspace. Each plan takes as long as
:data:`PLANS` says, by a clock that the pretend events read (fake_clock.py); other kernels and products move it too.
"""

from __future__ import annotations

import ctypes
import sys
import threading
import time
import types
from collections import Counter
from dataclasses import dataclass, field
from enum import Enum
from math import prod
from typing import Any

import cuda_host
import fake_clock
import fake_cupy
import numpy as np
import pytest
from oracles import error, tau

import dualnet as dn
from dualnet.backend import references
from dualnet.backends.gpu import cublas, cudnn_kernels, cudnn_library, cudnn_plans
from dualnet.geometry import windows

data_type = Enum("data_type", "FLOAT HALF BFLOAT16 DOUBLE NOT_SET")
numerical_note = Enum(
    "numerical_note",
    "TENSOR_CORE DOWN_CONVERT_INPUTS REDUCED_PRECISION_REDUCTION FFT NONDETERMINISTIC WINOGRAD STRICT_NAN_PROP",
)
heur_mode = Enum("heur_mode", "A B FALLBACK")
RESULT = {"forward": "y", "inputs": "x", "filters": "w"}
DTYPES = {data_type.FLOAT: "float32", data_type.HALF: "float16", data_type.BFLOAT16: "bfloat16"}

PLANS: list[tuple[str, str, float]] = [  # name, notes, seconds
    ("eng_quick_but_atomic", "NONDETERMINISTIC", 1e-6),
    ("eng_winograd", "WINOGRAD", 1e-6),
    ("eng_fft", "FFT", 1e-6),
    ("eng_half_sums", "REDUCED_PRECISION_REDUCTION", 1e-6),
    ("eng_tf32", "TENSOR_CORE DOWN_CONVERT_INPUTS", 2e-6),
    ("eng_huge", "", 2e-6),
    ("eng_broken", "", 2e-6),
    ("eng_loses_nan", "", 6e-6),
    ("eng_plain", "", 9e-6),
    ("eng_good", "", 5e-6),
    ("eng_alike", "", 4.9e-6),
]
LAUNCH, PRODUCT, FILLING = 1e-6, 1e-4, 4e-5  # seconds of a kernel, a product and 128 MiB of zeros beside cuDNN
LIMITS = {"float16": 1e-3, "bfloat16": 1e-2}


class cudnnGraphNotSupportedError(Exception):
    pass


@dataclass(eq=False)
class Tensor:
    graph: Any
    dim: list[int] | None = None
    stride: list[int] | None = None
    data_type: Any = None
    uid: int = -1
    output: bool = False

    def __post_init__(self) -> None:
        self.graph.tensors.append(self)

    def set_output(self, output: bool) -> Tensor:
        self.output = output
        return self

    def set_data_type(self, kind: Any) -> Tensor:
        assert kind in DTYPES
        self.data_type = kind
        return self

    def set_dim(self, dim: list[int]) -> Tensor:
        self.dim = _ints(dim)
        return self

    def set_stride(self, stride: list[int]) -> Tensor:
        self.stride = _ints(stride)
        return self

    def set_uid(self, uid: int) -> None:
        self.uid = uid

    @property
    def bytes(self) -> int:
        return prod(self.dim) * (4 if self.data_type is data_type.FLOAT else 2)


def _ints(values: Any) -> list[int]:
    assert isinstance(values, list) and all(type(v) is int for v in values), values
    return values


@dataclass
class Handle:
    device: int
    thread: int
    stream: int = 0
    alive: bool = True


@dataclass
class World:
    """The calls of cuDNN so far, and its clock."""

    cupy: Any
    clock: float = 0.0
    handles: list[Handle] = field(default_factory=list)
    graphs: list[Any] = field(default_factory=list)
    executed: list[tuple[str, str, Any]] = field(default_factory=list)  # operation, plan, data type
    streams: list[int] = field(default_factory=list)
    workspaces: list[tuple[int, int]] = field(default_factory=list)  # stream, address
    counted: Counter = field(default_factory=Counter)
    refuse: Any = staticmethod(lambda graph: False)
    version: int = 91900
    product: float = PRODUCT

    def __post_init__(self) -> None:
        self.clocks = fake_clock.Clock(self.busy, self.calls)

    def busy(self) -> float:
        beside = LAUNCH * len(cuda_host.launches) + self.product * cublas.library().products
        return self.clock + beside + FILLING * self.cupy.now.called["zeros"]

    def calls(self) -> int:
        beside = len(cuda_host.launches) + cublas.library().products + self.cupy.now.called["zeros"]
        return len(self.executed) + beside

    def event(self) -> fake_clock.Event:
        return fake_clock.Event(self.clocks, self.cupy.now.graphs.refuse, lambda: self.counted.update({"waits": 1}))


def install(monkeypatch: Any, cupy: Any) -> World:
    """Put the module into ``sys.modules``, beside this pretend CuPy, in a process without any plan yet."""
    world = World(cupy)
    module = fake_cupy.module(
        "cudnn",
        __version__="1.28.0",
        backend_version=lambda: world.version,
        data_type=data_type,
        numerical_note=numerical_note,
        heur_mode=heur_mode,
        cudnnGraphNotSupportedError=cudnnGraphNotSupportedError,
        create_handle=lambda: _create_handle(world),
        destroy_handle=_destroy_handle,
        set_stream=lambda handle, stream: _set_stream(world, handle, stream),
        pygraph=lambda **options: Graph(world, **options),
    )
    monkeypatch.setitem(sys.modules, "cudnn", module)
    monkeypatch.setattr(cupy.cuda, "Event", world.event, raising=False)
    monkeypatch.setattr(cupy.cuda, "get_elapsed_time", fake_clock.elapsed, raising=False)
    clocks = types.SimpleNamespace(monotonic=time.monotonic, perf_counter=world.clocks.host)
    monkeypatch.setattr(cudnn_plans, "time", clocks)
    fresh(monkeypatch)
    return world


def fresh(monkeypatch: Any) -> None:
    """A process that has not looked for cuDNN yet, and has no plan."""
    monkeypatch.setattr(cudnn_library, "_found", [])
    monkeypatch.setattr(cudnn_library, "_of_thread", cudnn_library._Kept())
    monkeypatch.setattr(cudnn_library, "_captured", {})
    monkeypatch.setattr(cudnn_plans, "_of_thread", cudnn_plans._Kept())
    monkeypatch.setattr(cudnn_plans, "_choices", {})
    monkeypatch.setattr(cudnn_plans, "reasons", {})
    for variable in ("DUALNET_CUDNN", "DUALNET_CUDNN_AUTOTUNE"):
        monkeypatch.delenv(variable, raising=False)


def _create_handle(world: World) -> Handle:
    handle = Handle(world.cupy.cuda.runtime.getDevice(), threading.get_ident())
    world.handles.append(handle)
    return handle


def _destroy_handle(handle: Handle) -> None:
    assert handle.alive
    handle.alive = False


def _set_stream(world: World, handle: Handle, stream: int) -> None:
    assert handle.alive and type(stream) is int
    handle.stream = stream
    world.streams.append(stream)


# -- graphs ------------------------------------------------------------------------------------------------------------


class Graph:
    def __init__(self, world: World, *, io_data_type, intermediate_data_type, compute_data_type, handle) -> None:
        assert intermediate_data_type is compute_data_type is data_type.FLOAT and io_data_type in DTYPES
        assert handle.alive and handle.device == world.cupy.cuda.runtime.getDevice()
        assert not world.cupy.now.graphs.streams[-1].is_capturing(), "planned while a stream is captured"
        self.world, self.io, self.step = world, io_data_type, 0
        self.inputs: dict[int, Tensor] = {}
        self.tensors: list[Tensor] = []
        self.conv: dict[str, Any] = {}
        self.steps: list[str] = []
        self.barred: set[str] = set()
        self.built: dict[int, int] = {}
        world.graphs.append(self)

    def tensor(self, *, dim, stride, data_type, name, uid) -> Tensor:  # noqa: A002
        made = self.inputs[uid] = Tensor(self, _ints(dim), _ints(stride), data_type, uid)
        assert len(dim) == len(stride) == 4 and data_type is self.io
        N, C, H, W = dim
        assert stride == [H * W * C, 1, W * C, C], "not (N, H, W, C) in memory"
        self.inputs[uid] = made
        return made

    def conv_fprop(self, *, image, weight, **places) -> Tensor:
        return self._convolution("forward", image, weight, None, places)

    def conv_dgrad(self, *, loss, filter, **places) -> Tensor:  # noqa: A002
        return self._convolution("inputs", None, filter, loss, places)

    def conv_wgrad(self, *, image, loss, **places) -> Tensor:
        return self._convolution("filters", image, None, loss, places)

    def _convolution(self, kind, image, weight, loss, places) -> Tensor:
        assert set(places) == {"pre_padding", "post_padding", "stride", "dilation"} and not self.conv
        assert all(len(_ints(v)) == 2 for v in places.values())
        self.conv = {"kind": kind, "x": image, "w": weight, "y": loss, **places}
        self.steps.append(kind)
        return Tensor(self)

    def bias(self, *, input, bias) -> Tensor:  # noqa: A002
        assert self.steps == ["forward"] and bias.dim[0] == bias.dim[2] == bias.dim[3] == 1
        self.conv["b"] = bias
        self.steps.append("bias")
        return Tensor(self)

    def relu(self, *, input) -> Tensor:  # noqa: A002
        assert self.steps == ["forward", "bias"], "cuDNN has no plan for a convolution with ReLU and without bias"
        self.steps.append("relu")
        self.conv["relu"] = True
        return Tensor(self)

    def validate(self) -> None:
        self._next(1)
        self.conv[RESULT[self.conv["kind"]]] = self.output
        x, w, y = (self.conv[n] for n in "xwy")
        (N, C, H, W), (D, c, k1, k2), (M, E, P, Q) = x.dim, w.dim, y.dim
        top, left, bottom, right = (*self.conv["pre_padding"], *self.conv["post_padding"])
        (s1, s2), (r1, r2) = self.conv["stride"], self.conv["dilation"]
        assert (N, D) == (M, E) and C % c == 0 and D % (C // c) == 0
        assert P == (H + top + bottom - r1 * (k1 - 1) - 1) // s1 + 1
        assert Q == (W + left + right - r2 * (k2 - 1) - 1) // s2 + 1
        for t in (x, w, y):
            a, b, h, v = t.dim
            assert t.stride == [h * v * b, 1, v * b, b] and t.data_type is self.io
        if "b" in self.conv:
            assert self.conv["b"].dim[1] == D
        assert self.output.uid == len(self.inputs) + 1 and sorted(self.inputs) == list(range(1, len(self.inputs) + 1))

    @property
    def output(self) -> Tensor:
        (last,) = (t for t in self.tensors if t.output)
        return last

    def build_operation_graph(self) -> None:
        self._next(2)

    def create_execution_plans(self, modes) -> None:
        self._next(3)
        assert modes == [heur_mode.A, heur_mode.FALLBACK]
        if self.world.refuse(self):
            raise cudnnGraphNotSupportedError("No valid engine configs for this graph\nand more lines")
        self.world.counted["planned"] += 1

    def deselect_numeric_notes(self, notes) -> Graph:
        assert self.step == 3
        self.barred |= {note.name for note in notes}
        return self

    def get_execution_plan_count(self) -> int:
        return len(PLANS)

    def get_plan_name_at_index(self, index: int) -> str:
        return PLANS[index][0]

    def build_plan_at_index(self, index: int) -> None:
        assert self.step == 3
        name, notes, _ = PLANS[index]
        if name == "eng_broken" or set(notes.split()) & self.barred:
            raise RuntimeError(f"plan {index} is not for this device, or deselected")
        self.world.counted["built"] += 1
        self.built[index] = 2**31 if name == "eng_huge" else 64 * index

    def get_workspace_size_plan_at_index(self, index: int) -> int:
        return self.built[index]

    def _next(self, step: int) -> None:
        assert self.step == step - 1, "out of order"
        self.step = step

    # -- computing

    def execute_plan_at_index(self, addresses, workspace, index, handle) -> None:
        world, name = self.world, PLANS[index][0]
        assert handle.alive and handle.thread == threading.get_ident(), "a handle of another thread"
        assert handle.device == world.cupy.cuda.runtime.getDevice(), "a handle of another device"
        assert handle.stream == world.cupy.now.graphs.streams[-1].ptr, "a handle on another stream"
        tensors = {**self.inputs, self.output.uid: self.output}
        assert addresses.keys() == tensors.keys() and index in self.built
        assert all(type(a) is int and a % 16 == 0 for a in (*addresses.values(), workspace)), "not aligned"
        assert sum(owned(world, a, tensors[u].bytes) for u, a in addresses.items()) == len(addresses)
        assert owned(world, workspace, self.built[index])
        world.executed.append(("+".join(self.steps), name, self.io))
        world.workspaces.append((handle.stream, workspace))
        world.clock += PLANS[index][2]

        def compute() -> None:
            ctypes.memset(workspace, 0xFF, self.built[index])
            arrays = {id(t): view(addresses[u], t) for u, t in tensors.items()}
            value = convolved(self.conv, arrays, name == "eng_loses_nan", name == "eng_tf32")
            with np.errstate(all="ignore"):
                arrays[id(self.output)][...] = value.astype(arrays[id(self.output)].dtype)

        world.cupy.now.graphs.call("cudnnBackendExecute", compute)
        fake_cupy.check_fences()


def owned(world: World, address: int, size: int) -> bool:
    """Does an array of the device have ``size`` bytes at this address?"""
    for ref in list(world.cupy.now.graphs.memory.values()):
        base = ref()
        if base is not None and base.ctypes.data <= address and address + size <= base.ctypes.data + base.nbytes:
            return True
    return False


def view(address: int, tensor: Tensor) -> np.ndarray:
    """The memory of a tensor, as an array with its dims."""
    dtype = np.dtype(_named(DTYPES[tensor.data_type]))
    flat = np.frombuffer((ctypes.c_char * tensor.bytes).from_address(address), dtype)
    strides = [s * dtype.itemsize for s in tensor.stride]
    return np.lib.stride_tricks.as_strided(flat, tensor.dim, strides, writeable=True)


def _named(name: str) -> Any:
    if name == "bfloat16":
        import ml_dtypes

        return ml_dtypes.bfloat16
    return name


def convolved(conv: dict[str, Any], arrays: dict[int, np.ndarray], loses_nan: bool, tf32: bool) -> np.ndarray:
    """The declared sum, in dims N, C, H, W: loops over groups and taps, sums in float32."""
    kind, (s1, s2), (r1, r2) = conv["kind"], conv["stride"], conv["dilation"]
    (N, C, H, W), (D, c, k1, k2), (_, _, P, Q) = (conv[n].dim for n in "xwy")
    (top, left), (bottom, right) = conv["pre_padding"], conv["post_padding"]
    x, w, y = np.zeros((N, C, H + top + bottom, W + left + right), "f4"), np.zeros((D, c, k1, k2), "f4"), None
    inside = x[:, :, top : top + H, left : left + W]
    y = np.zeros((N, D, P, Q), "f4")
    for name, held in (("x", inside), ("w", w), ("y", y)):
        if name != RESULT[kind]:
            held[...] = arrays[id(conv[name])].astype("f4")
            if tf32 and conv[name].data_type is data_type.FLOAT:
                held[...] = (held.copy().view("u4") & 0xFFFFE000).view("f4")
    filters = D // (C // c)
    for g in range(C // c):
        ins, outs = slice(g * c, g * c + c), slice(g * filters, g * filters + filters)
        for m in range(k1):
            for n in range(k2):
                rows, columns = _span(m * r1, P, s1), _span(n * r2, Q, s2)
                if kind == "forward":
                    y[:, outs] += np.einsum("nchw,dc->ndhw", x[:, ins, rows, columns], w[outs, :, m, n])
                elif kind == "inputs":
                    x[:, ins, rows, columns] += np.einsum("ndhw,dc->nchw", y[:, outs], w[outs, :, m, n])
                else:
                    w[outs, :, m, n] = np.einsum("nchw,ndhw->dc", x[:, ins, rows, columns], y[:, outs])
    if kind != "forward":
        return inside if kind == "inputs" else w
    if "b" in conv:
        y += arrays[id(conv["b"])].astype("f4")
    if "relu" in conv:
        y = np.where((y > 0) | (np.isnan(y) & (not loses_nan)), y, 0)
    return y


def _span(start: int, positions: int, stride: int) -> slice:
    return slice(start, start + (positions - 1) * stride + 1, stride)


# -- calling dualnet's kernels -----------------------------------------------------------------------------------------


def dtype_of(name):
    """A name that NumPy knows, or ml_dtypes' type for bfloat16."""
    return pytest.importorskip("ml_dtypes").bfloat16 if name == "bfloat16" else name


def arrays(rng, at, N, C, D, groups, dtype="float32"):
    """x, w, b and dy."""
    shapes = (N, *at.size, C), (*at.window, C // groups, D), (D,), (N, *at.grid, D)
    return [rng.standard_normal(shape).astype(dtype_of(dtype)) for shape in shapes]


def placed(rng):
    """Windows drawn at random: oblong, with other padding on one side than on the other."""
    window, stride, dilation = (tuple(int(v) for v in rng.integers(1, n, 2)) for n in (5, 4, 4))
    pads = tuple(tuple(int(v) for v in rng.integers(0, 4, 2)) for _ in range(2))
    extent = [r * (k - 1) + 1 for k, r in zip(window, dilation)]
    size = tuple(int(rng.integers(max(1, e - sum(p)), e + 6)) for e, p in zip(extent, pads))
    return windows("conv2d", size, window, stride=stride, padding=pads, dilation=dilation)


def asked(kernel, *given, **options):
    """A kernel's result on the host, or ``NotImplemented``."""
    moved = [dn.asarray(a) if isinstance(a, np.ndarray) else a for a in given]
    before = [dn.to_numpy(a).tobytes() for a in moved if hasattr(a, "shape")]
    result = getattr(cudnn_kernels, kernel)(*moved, **options)
    assert before == [dn.to_numpy(a).tobytes() for a in moved if hasattr(a, "shape")], f"{kernel}: an input changed"
    assert not set(cudnn_plans.reasons.values()) - {"faster without"}, cudnn_plans.reasons
    return result if result is NotImplemented else dn.to_numpy(result)


def agree(kernel, *given, K, **options):
    """The kernel serves, and gives the numbers of the reference in float64."""
    got = asked(kernel, *given, **options)
    assert got is not NotImplemented, kernel
    dtype = got.dtype.name
    wide = [a.astype(np.float64) if isinstance(a, np.ndarray) else a for a in given]
    want = references[kernel].reference(*wide, **options)
    assert (got.shape, got.dtype) == (want.shape, given[0].dtype)
    limit = LIMITS.get(dtype) or tau("float32", K)
    assert error(got.astype(np.float64), want) <= limit, f"{kernel}: {error(got.astype(np.float64), want):.1e}"
    return got


def captured(world, work):
    """A stream, a graph of this work recorded on it, and the arrays that the work returned."""
    stream = world.cupy.cuda.Stream(non_blocking=True)
    with stream:
        work()
        stream.begin_capture()
        try:
            result = work()
        finally:
            graph = stream.end_capture()
        graph.upload(stream)
    return stream, graph, result
