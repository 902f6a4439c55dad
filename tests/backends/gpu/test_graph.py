"""Recording a step as a CUDA graph, on a pretend device: streams, memory, and what happens when a step fails.

Whole training steps are in tests/training/test_capture.py, and their memory in test_capture_memory.py beside it.
"""

from __future__ import annotations

import contextlib
import gc

import numpy as np
import pytest

import dualnet as dn
from dualnet.backends.gpu import graph


@pytest.fixture
def recorder(cupy):
    return graph.Recorder(cupy, cupy.cuda.Device(0))


def doubled(x, seen=None):
    def step():
        return x + x

    return step


def test_a_recording_computes_nothing_and_a_launch_repeats_it(cupy, recorder):
    x = dn.asarray(np.array([1.0, 2.0], "f4"))
    assert dn.to_numpy(recorder.run(doubled(x))).tolist() == [2, 4]
    y = recorder.record(doubled(x))
    assert recorder.outputs is y and np.isnan(dn.to_numpy(y)).all()
    for value in (3.0, 5.0):
        x[...] = value
        recorder.launch()
        assert dn.to_numpy(y).tolist() == [2 * value] * 2


def test_a_step_runs_on_the_recorders_stream_and_a_graph_on_the_current_one(cupy, recorder, monkeypatch):
    x, streams = dn.asarray(np.ones(2, "f4")), []

    def step():
        streams.append(cupy.cuda.get_current_stream())
        return x * 2.0

    recorder.run(step), recorder.record(step)
    assert streams == [recorder.stream] * 2 and recorder.stream.non_blocking
    assert cupy.cuda.get_current_stream() is not recorder.stream
    launched, mine = [], cupy.cuda.Stream(non_blocking=True)
    monkeypatch.setattr(recorder.graph, "launch", launched.append)
    with mine:
        recorder.launch()
    assert launched == [mine]
    assert graph.Recorder(cupy, cupy.cuda.Device(0)).stream is recorder.stream


@pytest.mark.parametrize("fails", [False, True])
def test_all_work_of_a_step_is_done_when_it_returns_or_raises(cupy, recorder, monkeypatch, fails):
    """What comes next runs on another stream, such as putting back parameters that a failed step has overwritten."""
    waited = []
    monkeypatch.setattr(recorder.stream, "synchronize", lambda: waited.append(cupy.cuda.get_current_stream()))

    def step():
        assert waited == []
        if fails:
            raise ValueError("no such label")

    with pytest.raises(ValueError, match="no such label") if fails else contextlib.nullcontext():
        recorder.run(step)
    assert waited == [recorder.stream]


def test_a_step_allocates_in_the_recorders_pool_and_lasting_arrays_outside_it(cupy, recorder):
    default, kept = cupy.get_default_memory_pool(), []

    def step():
        with graph.lasting(cupy):
            kept.append(cupy.zeros((1000,), dtype="uint8"))
        return cupy.zeros((3000,), dtype="uint8")

    before = default.used_bytes()
    recorder.run(step)
    assert recorder.pool.used_bytes() == 3072 and default.used_bytes() == before + 1024
    assert recorder.taken.bytes == recorder.pool.total_bytes() == 3072
    cupy.zeros((3000,), dtype="uint8")
    assert recorder.taken.bytes == 3072  # outside a step memory is CuPy's


def test_memory_goes_back_when_the_recorder_is_dropped(cupy):
    device, recorder = cupy.now.graphs.device, graph.Recorder(cupy, cupy.cuda.Device(0))
    given = recorder.run(lambda: (cupy.zeros((1000,), dtype="uint8"), cupy.zeros((2000,), dtype="uint8")))[0]
    del recorder
    gc.collect()
    assert device.beside_the_default_pool() == 1024 and len(graph._dropped) == 1  # an array lies in it still
    del given
    graph.Recorder(cupy, cupy.cuda.Device(0))
    gc.collect()
    assert device.beside_the_default_pool() == 0 and graph._dropped == []


def test_a_step_that_fails_ends_the_recording_with_its_own_error(cupy, recorder):
    x = dn.asarray(np.ones(2, "f4"))

    def fails():
        raise ValueError("no such label")

    def waits():
        return (x + x).item()

    for step, error, message in ((fails, ValueError, "no such label"), (waits, RuntimeError, "reads a value")):
        with pytest.raises(error, match=message):
            recorder.record(step)
        assert not recorder.stream.is_capturing() and recorder.graph is None and gc.isenabled()
    assert dn.to_numpy(recorder.run(doubled(x))).tolist() == [2, 2]


def test_an_end_that_cuda_refuses_hides_no_error(cupy, recorder, monkeypatch):
    end = recorder.stream.end_capture

    def invalid():
        end()
        raise RuntimeError("cudaErrorStreamCaptureInvalidated")

    def fails():
        raise ValueError("no such label")

    monkeypatch.setattr(recorder.stream, "end_capture", invalid)
    with pytest.raises(ValueError, match="no such label"):
        recorder.record(fails)


def test_memory_that_goes_back_during_a_recording_is_an_error(cupy, recorder):
    recorder.run(lambda: cupy.zeros((1000,), dtype="uint8"))
    recorder.outputs = None

    def step():
        recorder.pool.free_all_blocks()
        return cupy.zeros((10,), dtype="uint8")

    with pytest.raises(MemoryError, match="out of memory while a step was recorded .* Use smaller batches, or free"):
        recorder.record(step)
    assert recorder.graph is None


@pytest.mark.parametrize("enabled", [True, False])
def test_no_finaliser_runs_during_a_recording(cupy, recorder, enabled):
    seen = []
    (gc.enable if enabled else gc.disable)()
    try:
        recorder.record(lambda: seen.append(gc.isenabled()))
        assert seen == [False] and gc.isenabled() == enabled
    finally:
        gc.enable()
