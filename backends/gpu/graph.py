"""Recording a training step as a CUDA graph, through CuPy.

Everything that the step allocates comes from a memory pool of the graph's own, which nobody else draws from: the graph
writes to the same addresses at every launch. The pool gives it back when the graph is dropped, in whole blocks, so what
outlives a step (parameters, what an optimizer remembers, workspaces) is allocated elsewhere: see :func:`lasting`.
"""

from __future__ import annotations

import functools
import gc
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any

OUT_OF_MEMORY = (
    "out of memory while a step was recorded as a CUDA graph: CuPy has returned memory to the device that the graph "
    "would go on using. Nothing was done. Take smaller batches, or free memory first, such as captured steps that are "
    "done with, or cupy.get_default_memory_pool().free_all_blocks()"
)


class Recorder:
    """The stream, the memory and the graph of one captured step on one device."""

    def __init__(self, cupy: Any, device: Any) -> None:
        self.cupy, self.device = cupy, device
        with device:
            self.stream = _stream(cupy, device.id)
            self.taken = Taken(cupy)
            self.pool = cupy.cuda.MemoryPool(self.taken.malloc)
        _empty_left()
        self.graph: Any = None
        self.outputs: Any = None  # what the step returned: arrays in the pool, which the next step overwrites

    def run(self, step: Callable[[], Any]) -> Any:
        """Run a step from Python, on the stream and in the memory that it will be recorded with."""
        with self._here():
            self.outputs = step()
            self.stream.synchronize()
        return self.outputs

    def record(self, step: Callable[[], Any]) -> Any:
        """Run a step's Python without computing anything; its launches become the graph."""
        with self._here(), _no_finalisers():
            before = self._given_back()
            self.stream.begin_capture()
            try:
                self.outputs = step()
            except BaseException:
                self._break_off()
                raise
            graph = self.stream.end_capture()
            if self._given_back() != before:
                raise MemoryError(OUT_OF_MEMORY)  # the graph would write to what is nobody's, or another's
            self.graph = graph
            self.graph.upload(self.stream)
            self.stream.synchronize()
        return self.outputs

    def launch(self) -> None:
        """Repeat the step, on the stream that is current, after whatever was queued there."""
        with self.device:
            self.graph.launch(self.cupy.cuda.get_current_stream())

    def __del__(self) -> None:
        """A pool that is merely dropped keeps its memory for ever: free blocks and their list hold each other."""
        if "outputs" not in self.__dict__ or sys.is_finalizing():  # then the driver may be gone already
            return
        self.graph = self.outputs = None
        _left.append((self.device, self.pool))
        _empty_left()

    @contextmanager
    def _here(self) -> Iterator[None]:
        with self.device:
            self.cupy.cuda.get_current_stream().synchronize()  # what the step reads has been written
            with self.stream, self.cupy.cuda.using_allocator(self.pool.malloc):
                yield

    def _given_back(self) -> int:
        """How many bytes the pool has ever returned to the device: more than before, and what was there is gone."""
        return self.taken.bytes - self.pool.total_bytes()

    def _break_off(self) -> None:
        """End a recording that failed; what failed in it is raised, not what CUDA says of the end."""
        try:
            self.stream.end_capture()
        except Exception:
            pass  # the recording was invalid already


class Taken:
    """Takes memory from the device for a pool, and counts it in bytes."""

    def __init__(self, cupy: Any) -> None:
        self.cupy, self.bytes = cupy, 0

    def malloc(self, size: int) -> Any:
        memory = self.cupy.cuda.Memory(size)
        self.bytes += size
        return self.cupy.cuda.MemoryPointer(memory, 0)


def lasting(cupy: Any) -> AbstractContextManager[None]:
    """Inside, memory comes from CuPy's own pool, for what is still there when the graph is dropped."""
    return cupy.cuda.using_allocator(cupy.get_default_memory_pool().malloc)


_left: list[tuple[Any, Any]] = []
"""Devices and pools of graphs that were dropped: a pool stays while something lies in it that a step gave away."""


def _empty_left() -> None:
    """Give back what nobody uses any more."""
    for device, pool in tuple(_left):
        with device:
            pool.free_all_blocks()
            if not pool.total_bytes():
                with suppress(ValueError):  # another thread was sooner
                    _left.remove((device, pool))


@functools.cache
def _stream(cupy: Any, device: int) -> Any:
    """The stream on which steps are recorded: one for a device, since cuBLAS keeps a workspace for each stream."""
    return cupy.cuda.Stream(non_blocking=True)  # a blocking one cannot be recorded


@contextmanager
def _no_finalisers() -> Iterator[None]:
    """A finaliser that frees memory or unloads a module while a stream is recorded makes the recording invalid."""
    gc.collect()
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
