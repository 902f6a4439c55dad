"""CUDA graphs on the pretend device: a stream records launches, and a graph repeats them.

As on a GPU, nothing is computed while recording: afterwards memory is as it was before. A launch of the graph repeats
every call with the arrays and numbers of the recording. Memory allocated while recording is filled with NaN before each
launch, which exposes a step that reads what an earlier one left there. Copies to and from the host, waiting for the
device, and CuPy's own cuBLAS fail while a stream records, as in CuPy 14.
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Callable
from typing import Any

import fake_memory
import numpy as np

CUBLAS_OF_CUPY = {"matmul", "__matmul__", "__rmatmul__"}
REAL = {0: np.float32, 1: np.float64, 2: np.float16}
HALVES = {2, 14}
DISALLOW_REDUCED_PRECISION_REDUCTION = 16
TF32 = 77  # the compute type that keeps 10 bits of each factor


class Graphs:
    """The streams of a pretend machine, and the recording of one of them."""

    def __init__(self) -> None:
        self.streams = [Stream(self, 0)]  # the last one is current; the first is CUDA's default stream
        self.made = 0
        self.recording: list[Any] | None = None  # (call, its result) one after another
        self.inside = 0  # calls inside a recorded call are not recorded
        self.memory: dict[int, weakref.ref] = {}
        self.fresh: list[np.ndarray] = []  # what was allocated while recording
        self.launched = 0
        self.device = fake_memory.DeviceMemory()

    def cuda(self) -> dict[str, Any]:
        """The part of ``cupy.cuda`` that it stands for."""

        def stream(non_blocking: bool = False) -> Stream:
            self.made += 1
            return Stream(self, 1000 + self.made, non_blocking)

        return {
            "Stream": stream,
            **self.device.cuda(),
            "get_current_stream": lambda: self.streams[-1],
        }

    # -- calls on the device

    def call(self, name: str, function: Callable[[], Any]) -> Any:
        if self.recording is None or self.inside:
            return function()
        if name in CUBLAS_OF_CUPY:
            raise NotImplementedError("calling cuBLAS API during stream capture is currently unsupported")
        self.inside += 1
        try:
            result = function()
        finally:
            self.inside -= 1
        self.recording.append((function, result))
        return result

    def refuse(self, what: str) -> None:
        if self.recording is not None:
            raise RuntimeError(f"cudaErrorStreamCaptureUnsupported: a step {what} while a stream records it")

    def forbidden(self, what: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            self.refuse(what)
            return function(*args, **options)

        return call

    def born(self, held: np.ndarray) -> None:
        """Note a new array of the device, in old memory or new."""
        base = _base(held)
        known = self.memory.get(id(base))
        if known is not None and known() is base:
            return
        self.memory[id(base)] = weakref.ref(base)
        self.device.born(base)
        if self.recording is not None:
            self.fresh.append(base)

    # -- recording

    def begin(self) -> None:
        assert self.recording is None, "two streams record at once"
        self.memory = {key: ref for key, ref in self.memory.items() if ref() is not None}
        self.before = [(base, base.copy()) for base in (ref() for ref in self.memory.values()) if base is not None]
        self.recording, self.fresh = [], []

    def end(self) -> Graph:
        steps, self.recording = self.recording, None
        for base, content in self.before:
            if base.flags.writeable:
                base[...] = content
        del self.before
        fresh, self.fresh = self.fresh, []
        return Graph(self, steps, fresh)


class Graph:
    def __init__(self, graphs: Graphs, steps: list[Any], fresh: list[np.ndarray]) -> None:
        self.graphs, self.steps, self.fresh, self.uploaded = graphs, steps, fresh, False
        self.spoil()

    def upload(self, stream: Stream) -> None:
        self.uploaded = True

    def launch(self, stream: Stream) -> None:
        assert self.uploaded and self.graphs.recording is None
        self.graphs.launched += 1
        self.spoil()
        self.graphs.device.replays = True
        for function, result in self.steps:
            with np.errstate(all="ignore"):  # a GPU does not warn of an overflow
                again = function()
            for new, old in zip(_arrays(again), _arrays(result), strict=True):
                if not np.may_share_memory(new, old):
                    old[...] = new
        self.graphs.device.replays = False

    def spoil(self) -> None:
        for base in self.fresh:
            if base.flags.writeable:
                base.fill(
                    True if base.dtype == bool else np.iinfo(base.dtype).max if base.dtype.kind in "iu" else np.nan
                )


class Stream:
    def __init__(self, graphs: Graphs, ptr: int, non_blocking: bool = False) -> None:
        self.graphs, self.ptr, self.non_blocking = graphs, ptr, non_blocking

    def __enter__(self) -> Stream:
        self.graphs.streams.append(self)
        return self

    def __exit__(self, *error: object) -> None:
        assert self.graphs.streams.pop() is self

    def synchronize(self) -> None:
        self.graphs.refuse("waits for a stream")

    def is_capturing(self) -> bool:
        return self.graphs.recording is not None

    def begin_capture(self) -> None:
        assert self.non_blocking, "cudaErrorStreamCaptureImplicit: a blocking stream cannot be recorded"
        assert self.graphs.streams[-1] is self, "the stream that records is not the current one"
        self.graphs.begin()

    def end_capture(self) -> Graph:
        return self.graphs.end()


class Cublas:
    """cuBLAS's own functions, over addresses of the host.

    Like the real one it splits a sum into parts, which have the type of the result unless the mode forbids that.
    """

    def __init__(self, graphs: Graphs) -> None:
        self.graphs, self.handles, self.products, self.computed = graphs, {}, 0, []
        self.modes: dict[int, int] = {}

    def cublasCreate_v2(self, handle: Any) -> int:
        handle._obj.value = 7000 + len(self.handles)
        self.handles[handle._obj.value] = {"stream": None, "workspace": None}
        self.modes[handle._obj.value] = 0
        return 0

    def cublasSetMathMode(self, handle: Any, mode: int) -> int:
        self.modes[handle.value] = mode
        return 0

    def cublasSetStream_v2(self, handle: Any, stream: int) -> int:
        self.handles[handle.value] = {"stream": stream, "workspace": None}
        return 0

    def cublasSetWorkspace_v2(self, handle: Any, address: int, size: int) -> int:
        assert address % 256 == 0 or size == 256
        self.handles[handle.value]["workspace"] = address
        return 0

    def cublasGetVersion_v2(self, handle: Any, version: Any) -> int:
        version._obj.value = 120804
        return 0

    def cublasGemmEx(self, handle, ta, tb, m, n, k, alpha, a, a_type, lda, b, b_type, ldb, beta, c, c_type, ldc, *how):
        at = self.handles[handle.value]
        assert at["stream"] == self.graphs.streams[-1].ptr and at["workspace"], "the handle is on another stream"
        assert lda >= (k if ta else m) and ldb >= (n if tb else k) and ldc >= m
        assert alpha._obj.value == 1.0 and beta._obj.value in (0.0, 1.0) and how[1] == -1
        assert type(alpha._obj) is type(beta._obj) is (ctypes.c_double if c_type == 1 else ctypes.c_float)
        assert a_type == b_type and c_type in {a_type, 0 if a_type in HALVES else a_type}, (
            "cuBLAS has no such combination of types"
        )
        adds = beta._obj.value == 1.0
        self.products += 1
        self.computed.append(how[0])
        full = self.modes[handle.value] & DISALLOW_REDUCED_PRECISION_REDUCTION

        def multiply() -> None:
            first = _matrix(a, a_type, m, k, lda, ta)
            second = _matrix(b, b_type, k, n, ldb, tb)
            wide = np.float64 if c_type == 1 else np.float32
            part, result = wide if full else _dtype(c_type), _memory(c, c_type, ldc, m, n)
            first, second = first.astype(wide), second.astype(wide)
            if how[0] == TF32:
                first, second = _ten_bits(first), _ten_bits(second)
            with np.errstate(all="ignore"):  # a GPU does not warn of an overflow
                parts = [(first[:, s] @ second[s]).astype(part) for s in (np.s_[: k // 2], np.s_[k // 2 :])]
                total = parts[0].astype(wide) + parts[1]
                result[...] = (total + result.astype(wide) if adds else total).astype(result.dtype)

        self.graphs.call("cublasGemmEx", multiply)
        return 0


def _ten_bits(factor: np.ndarray) -> np.ndarray:
    return (np.ascontiguousarray(factor).view(np.uint32) & 0xFFFFE000).view(np.float32)


def _matrix(address: int, kind: int, rows: int, columns: int, ld: int, transposed: int) -> np.ndarray:
    """A column-major matrix, transposed if asked for."""
    down, across = (columns, rows) if transposed else (rows, columns)
    whole = _memory(address, kind, ld, down, across)
    return whole.T if transposed else whole


def _memory(address: int, kind: int, ld: int, rows: int, columns: int) -> np.ndarray:
    dtype = _dtype(kind)
    size = (ld * (columns - 1) + rows) * dtype.itemsize
    flat = np.frombuffer((ctypes.c_char * size).from_address(address), dtype)
    return np.lib.stride_tricks.as_strided(flat, (rows, columns), (dtype.itemsize, ld * dtype.itemsize))


def _dtype(kind: int) -> np.dtype:
    if kind in REAL:
        return np.dtype(REAL[kind])
    import ml_dtypes

    return np.dtype(ml_dtypes.bfloat16)


def _base(held: np.ndarray) -> np.ndarray:
    while isinstance(held.base, np.ndarray):
        held = held.base
    return held


def _arrays(result: Any) -> list[np.ndarray]:
    if isinstance(result, (tuple, list)):
        return [array for part in result for array in _arrays(part)]
    return [result._held] if hasattr(result, "_held") else []
