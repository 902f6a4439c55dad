"""A module that looks like CuPy on a machine with several GPUs, made from the strict backend's namespace.

It does what CuPy does and the strict backend does not: every array lies on one device, and computing with it fails
while another device is current; arrays have addresses and flags, and CUDA kernels run, on the host (cuda_host.py). An
array from ``empty`` lies between two fences, so that a kernel that writes beyond it is caught. Arrays lie in memory
pools (fake_memory.py), a stream records graphs (fake_graphs.py), and cuBLAS computes products from addresses.
"""

from __future__ import annotations

import ctypes
import functools
import math
import sys
import types
import weakref
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import ModuleSpec

import cuda_host
import fake_graphs
import numpy
import pristine
import pytest

import dualnet as dn
from dualnet.backends import strict_backend
from dualnet.backends.gpu import cublas, cudnn_library, installing
from dualnet.backends.strict_backend import StrictArray

COMPUTE_TYPES = {"COMPUTE_TYPE_DEFAULT": 1, "COMPUTE_TYPE_TF32": 7}


def install(monkeypatch, devices: int = 2) -> types.ModuleType:
    """Put a fresh fake into ``sys.modules``, with this many devices."""
    cupy = module("cupy", __version__="14.2.0", __file__="fake")
    now = types.SimpleNamespace(device=0, synchronized=[], called=Counter(), graphs=fake_graphs.Graphs())
    names = {name: getattr(strict_backend.Namespace(), name) for name in strict_backend.FUNCTIONS}
    dtypes = {name: getattr(numpy, name) for name in (*strict_backend.DTYPES, *strict_backend.CONSTANTS)}
    cupy.ndarray = _array_type(now)
    for name, function in names.items():
        setattr(cupy, name, _on_device(cupy.ndarray, now, function, name))
    for name, value in dtypes.items():
        setattr(cupy, name, value)
    cupy.empty = _on_device(cupy.ndarray, now, lambda shape, dtype=float: StrictArray(fenced(shape, dtype)), "empty")
    cupy.RawModule = functools.partial(RawModule, now.graphs)
    cupy.asarray = now.graphs.forbidden(
        "copies from the host", lambda host: cupy.ndarray(numpy.array(host), now.device)
    )
    cupy.asnumpy = now.graphs.forbidden("copies to the host", lambda array: array._held.copy())
    library = fake_graphs.Cublas(now.graphs)
    monkeypatch.setattr(cublas, "library", lambda: library)
    monkeypatch.setattr(cublas, "WORKSPACE_BYTES", 256)
    cupy.get_default_memory_pool = lambda: now.graphs.device.default
    cupy.now = now
    cupy.cuda = types.SimpleNamespace(Device=_device_type(now), runtime=_runtime(now, devices), **now.graphs.cuda())
    computed = {}
    linalg = module(
        "cupy._core._routines_linalg",
        set_compute_type=lambda dtype, kind: computed.__setitem__(numpy.dtype(dtype).name, kind),
        computed=computed,
        **COMPUTE_TYPES,
    )
    for fake in (cupy, module("cupy._core", __path__=[]), linalg):
        monkeypatch.setitem(sys.modules, fake.__name__, fake)
    cupy.computed = computed
    monkeypatch.setattr(cudnn_library, "_found", [(None, "none beside a pretend device")])  # fake_cudnn.py adds one
    return cupy


@contextmanager
def in_force(monkeypatch) -> Iterator[types.ModuleType]:
    """A machine with one pretend GPU, whose kernels run on the host; new arrays are born there."""
    if cuda_host.COMPILER is None:
        pytest.skip("g++ is not installed")
    pristine.without_cupy(monkeypatch)
    monkeypatch.setattr(installing, "installed", lambda wheel: wheel == "cupy-cuda12x")
    cupy = install(monkeypatch, devices=1)
    with dn.use_backend("cupy"):
        yield cupy


def module(name: str, **members: object) -> types.ModuleType:
    """A module with these members."""
    made = types.ModuleType(name)
    made.__spec__ = ModuleSpec(name, None)
    vars(made).update(members)
    return made


def _array_type(now: types.SimpleNamespace) -> type:
    class ndarray(StrictArray):
        __slots__ = ("data",)

        def __init__(self, held: numpy.ndarray, device: int | None = None) -> None:
            super().__init__(held)
            now.graphs.born(held)
            number = now.device if device is None else device
            self.data = types.SimpleNamespace(device_id=number, ptr=held.ctypes.data)

    def guarded(method, name):
        return _on_device(ndarray, now, method, name)

    ndarray.__module__ = "cupy"
    methods = [name for name, member in vars(StrictArray).items() if callable(member) and name.startswith("__")]
    for name in {*methods, "astype", "copy", "reshape"} - {
        "__init__",
        "__repr__",
        "__len__",
        "__class__",
        "__deepcopy__",
    }:
        setattr(ndarray, name, guarded(getattr(StrictArray, name), name))
    for name in ("T", "mT"):
        setattr(ndarray, name, property(guarded(getattr(StrictArray, name).fget, name)))
    ndarray.item = now.graphs.forbidden("reads a value", lambda self: self._held.item())
    ndarray.strides = property(lambda self: self._held.strides)
    ndarray.flags = property(lambda self: self._held.flags)
    ndarray.view = lambda self, dtype: ndarray(self._held.view(dtype))
    return ndarray


def _on_device(kind: type, now: types.SimpleNamespace, function, name: str):
    def call(*args, **options):
        now.called[name] += 1
        for value in _flat((*args, *options.values())):
            if isinstance(value, kind) and value.data.device_id != now.device:
                raise ValueError(
                    f"Array device must be same as the current device: array device = {value.data.device_id} "
                    f"while current = {now.device}"
                )
        return now.graphs.call(name, lambda: _convert(kind, function(*args, **options)))

    return call


def _flat(values):
    for value in values:
        if isinstance(value, (list, tuple)):
            yield from _flat(value)
        else:
            yield value


def _convert(kind: type, result):
    if isinstance(result, StrictArray) and not isinstance(result, kind):
        return kind(result._held)
    if isinstance(result, (list, tuple)):
        return type(result)(_convert(kind, part) for part in result)
    return result


def _device_type(now: types.SimpleNamespace) -> type:
    class Device:
        def __init__(self, number: int) -> None:
            self.id = number

        def use(self) -> None:
            now.device = self.id

        def __enter__(self) -> None:
            self.before, now.device = now.device, self.id

        def __exit__(self, *error: object) -> None:
            now.device = self.before

        def synchronize(self) -> None:
            now.graphs.refuse("waits for the device")
            now.synchronized.append(self.id)

    return Device


def _runtime(now: types.SimpleNamespace, devices: int) -> types.SimpleNamespace:
    return types.SimpleNamespace(
        getDeviceCount=lambda: devices,
        getDevice=lambda: now.device,
        driverGetVersion=lambda: 12080,
        runtimeGetVersion=lambda: 12090,
        getDeviceProperties=lambda number: {"name": f"Pretend H{number}00".encode()},
        memGetInfo=lambda: (60 * 2**20, 80 * 2**20),
    )


# -- memory and kernels ------------------------------------------------------------------------------------------------

FENCE = 64


class Fences:
    """Where the arrays that are alive lie, and between which bytes; looked at after each launch, so in C."""

    CODE = """
    #include <cstdint>
    #include <cstring>
    struct Row { uint64_t begin, front, size, behind; };
    extern "C" int broken(const Row* rows, int n) {
        unsigned char fence[128];
        memset(fence, 0xFF, sizeof fence);
        for (int i = 0; i < n; i++) {
            const char* begin = (const char*)rows[i].begin;
            if (memcmp(begin, fence, rows[i].front)) return 1;
            if (memcmp(begin + rows[i].front + rows[i].size, fence, rows[i].behind)) return 1;
        }
        return 0;
    }
    """

    def __init__(self) -> None:
        self.rows = numpy.zeros((256, 4), numpy.uint64)  # one of zeros is of no array
        self.refs: list[weakref.ref | None] = [None] * len(self.rows)
        self.free = list(range(len(self.rows)))

    def put(self, whole: numpy.ndarray, start: int, size: int) -> None:
        if not self.free:
            self.free = list(range(len(self.rows), 2 * len(self.rows)))
            self.refs += [None] * len(self.rows)
            self.rows = numpy.concatenate([self.rows, numpy.zeros_like(self.rows)])
        row = self.free.pop()

        def gone(_: weakref.ref) -> None:
            self.rows[row] = 0
            self.free.append(row)

        self.refs[row] = weakref.ref(whole, gone)
        self.rows[row] = whole.ctypes.data, start, size, whole.size - start - size

    def broken(self) -> bool:
        return bool(_broken()(ctypes.c_void_p(self.rows.ctypes.data), len(self.rows)))


@functools.cache
def _broken():
    return ctypes.CDLL(str(cuda_host.built(Fences.CODE, "fences.cpp", ["-fPIC", "-shared"], ".so"))).broken


_fences = Fences()


def fenced(shape: object, dtype: object) -> numpy.ndarray:
    """An array full of NaN (or of the largest integer), between two fences."""
    shape = shape if isinstance(shape, tuple) else (shape,)
    size = math.prod(shape) * numpy.dtype(dtype).itemsize
    whole = numpy.full(size + 3 * FENCE, 0xFF, numpy.uint8)
    start = -whole.ctypes.data % FENCE + FENCE
    held = whole[start : start + size].view(dtype).reshape(shape)
    if held.dtype == bool:
        held[...] = True
    _fences.put(whole, start, size)
    return held


def check_fences() -> None:
    """Has nothing written beyond an array?"""
    assert not _fences.broken(), "written beyond the array"


class RawModule(cuda_host.RawModule):
    """Kernels on the host; the fences are checked after each launch."""

    def __init__(self, graphs: fake_graphs.Graphs, **options: object) -> None:
        super().__init__(**options)
        self.graphs = graphs

    def get_function(self, name: str):
        function = super().get_function(name)

        def call(grid: tuple, block: tuple, arguments: tuple) -> None:
            self.graphs.call(name, lambda: function(grid, block, arguments))
            check_fences()

        return call
