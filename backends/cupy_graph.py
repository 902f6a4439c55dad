"""Recording a training step as a CUDA graph, through CuPy.

Everything that the step allocates comes from a memory pool of the graph's own, which nobody else draws from: the graph
writes to the same addresses at every launch.
"""

from __future__ import annotations

import functools
import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


class Recorder:
    """The stream, the memory and the graph of one captured step on one device."""

    def __init__(self, cupy: Any, device: Any) -> None:
        self.cupy, self.device = cupy, device
        with device:
            self.stream = _stream(cupy, device.id)
            self.pool = cupy.cuda.MemoryPool()
        self.graph: Any = None

    def run(self, step: Callable[[], Any]) -> Any:
        """Run a step from Python, on the stream and in the memory that it will be recorded with."""
        with self._here():
            outputs = step()
            self.stream.synchronize()
        return outputs

    def record(self, step: Callable[[], Any]) -> Any:
        """Run a step's Python without computing anything; its launches become the graph."""
        with self._here(), _no_finalisers():
            self.stream.begin_capture()
            try:
                outputs = step()
            except BaseException:
                self._break_off()
                raise
            self.graph = self.stream.end_capture()
            self.graph.upload(self.stream)
            self.stream.synchronize()
        return outputs

    def launch(self) -> None:
        """Repeat the step, on the stream that is current, after whatever was queued there."""
        with self.device:
            self.graph.launch(self.cupy.cuda.get_current_stream())

    @contextmanager
    def _here(self) -> Iterator[None]:
        with self.device:
            self.cupy.cuda.get_current_stream().synchronize()  # what the step reads has been written
            with self.stream, self.cupy.cuda.using_allocator(self.pool.malloc):
                yield

    def _break_off(self) -> None:
        """End a recording that failed; what failed in it is raised, not what CUDA says of the end."""
        try:
            self.stream.end_capture()
        except Exception:
            pass  # the recording was invalid already


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
