"""Recording a training step as a CUDA graph, through CuPy.

The graph writes to the same addresses at every launch, so everything that the step allocates comes from a memory pool
that belongs to the graph alone. When the graph is dropped, the pool gives its memory back in whole blocks. Arrays that
outlive a step (parameters, an optimizer's state, workspaces) are therefore allocated elsewhere: see :func:`lasting`.
"""

from __future__ import annotations

import functools
import gc
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any

OUT_OF_MEMORY = (
    "out of memory while a step was recorded as a CUDA graph: CuPy returned memory to the device that the graph would "
    "still use. The step was not run. Use smaller batches, or free memory first: drop captured steps that you do not "
    "need any more, or call cupy.get_default_memory_pool().free_all_blocks()"
)


class Recorder:
    """The stream, the memory and the graph of one captured step on one device."""

    checked = True  # a graph holds every launch, no matter which library made it

    def __init__(self, cupy: Any, device: Any) -> None:
        self.cupy, self.device = cupy, device
        with device:
            self.stream = _stream(cupy, device.id)
            self.taken = Taken(cupy)
            self.pool = cupy.cuda.MemoryPool(self.taken.malloc)
        _free_dropped()
        self.graph: Any = None
        self.outputs: Any = None  # what the step returned: arrays in the pool, which the next step overwrites

    def run(self, step: Callable[[], Any]) -> Any:
        """Run a step from Python, on the stream and in the memory that the recording will use.

        A step that raises may have queued work all the same. We wait for that work before the error is passed on: the
        parameters are restored on another stream.
        """
        with self._here():
            try:
                self.outputs = step()
            finally:
                self.stream.synchronize()
        return self.outputs

    def record(self, step: Callable[[], Any]) -> Any:
        """Run a step's Python code without computing anything; its launches become the graph."""
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
                raise MemoryError(OUT_OF_MEMORY)  # the graph would write to memory that it no longer owns
            self.graph = graph
            self.graph.upload(self.stream)
            self.stream.synchronize()
        return self.outputs

    def launch(self) -> bool:
        """Repeat the step on the current stream, after everything queued there."""
        with self.device:
            self.graph.launch(self.cupy.cuda.get_current_stream())
        return True

    def __del__(self) -> None:
        """Empty the pool: if it were only dropped, free blocks and their list would keep each other alive forever."""
        if "outputs" not in self.__dict__ or sys.is_finalizing():  # at exit the driver may be gone already
            return
        self.graph = self.outputs = None
        _dropped.append((self.device, self.pool))
        _free_dropped()

    @contextmanager
    def _here(self) -> Iterator[None]:
        with self.device:
            self.cupy.cuda.get_current_stream().synchronize()  # wait until the step's inputs are written
            with self.stream, self.cupy.cuda.using_allocator(self.pool.malloc):
                yield

    def _given_back(self) -> int:
        """Bytes that the pool has returned to the device so far: if the number grows, the step has lost memory."""
        return self.taken.bytes - self.pool.total_bytes()

    def _break_off(self) -> None:
        """End a recording that failed, so that the step's own error is raised, not CUDA's."""
        try:
            self.stream.end_capture()
        except Exception:
            pass  # the recording was invalid already


class Taken:
    """Takes memory from the device for a pool, and counts its bytes."""

    def __init__(self, cupy: Any) -> None:
        self.cupy, self.bytes = cupy, 0

    def malloc(self, size: int) -> Any:
        memory = self.cupy.cuda.Memory(size)
        self.bytes += size
        return self.cupy.cuda.MemoryPointer(memory, 0)


def lasting(cupy: Any) -> AbstractContextManager[None]:
    """Inside, memory comes from CuPy's own pool: for arrays that outlive the graph."""
    return cupy.cuda.using_allocator(cupy.get_default_memory_pool().malloc)


_dropped: list[tuple[Any, Any]] = []
"""Devices and pools of dropped graphs: a pool stays as long as it holds an array that a step returned."""


def _free_dropped() -> None:
    """Give back memory that is no longer used."""
    for device, pool in tuple(_dropped):
        with device:
            pool.free_all_blocks()
            if not pool.total_bytes():
                with suppress(ValueError):  # another thread has removed it already
                    _dropped.remove((device, pool))


@functools.cache
def _stream(cupy: Any, device: int) -> Any:
    """The stream on which steps are recorded: one for each device, since cuBLAS keeps a workspace for each stream."""
    return cupy.cuda.Stream(non_blocking=True)  # a blocking one cannot be recorded


@contextmanager
def _no_finalisers() -> Iterator[None]:
    """Inside, no finaliser runs: if one freed memory or unloaded a module, the recording would be invalid."""
    gc.collect()
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
