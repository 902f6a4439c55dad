"""The pretend device's graphs record without computing, repeat, and spoil what a step leaves behind."""

from __future__ import annotations

import fake_cupy
import numpy as np
import pytest

import dualnet as dn
from dualnet.backends.gpu import cublas


@pytest.fixture
def cupy(monkeypatch):
    with fake_cupy.in_force(monkeypatch) as module:
        yield module


def test_memory_of_the_last_step_is_not_there_in_the_next(cupy):
    """The pretend graph spoils it: an array that one step leaves to the next in secret shows as NaN."""
    kept = []

    def step(x):
        y = x + (kept[-1] if kept else 0.0)
        kept.append(y)
        return y

    captured = dn.capture(step)
    x = dn.asarray(np.ones(2, "f4"))
    seen = [dn.to_numpy(captured(x))[0] for _ in range(5)]
    assert seen[:3] == [1.0, 2.0, 3.0] and seen[3] == seen[4] == 3.0  # it no longer goes on: the warm-up's is read


def test_what_is_recorded_is_not_computed(cupy):
    a = dn.asarray(np.ones(2, "f4"))
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        stream.begin_capture()
        a[...] = a + 1.0
        graph = stream.end_capture()
    assert dn.to_numpy(a).tolist() == [1.0, 1.0]
    graph.upload(stream)
    graph.launch(stream)
    graph.launch(stream)
    assert dn.to_numpy(a).tolist() == [3.0, 3.0]


def test_a_pool_keeps_what_arrays_leave_and_gives_it_back_when_asked(cupy):
    device, pool = cupy.now.graphs.device, cupy.cuda.MemoryPool()
    with cupy.cuda.using_allocator(pool.malloc):
        a, b = cupy.zeros((1000,), dtype="uint8"), cupy.zeros((3000,), dtype="uint8")
        del b
        c = cupy.zeros((500,), dtype="uint8")
    assert (pool.used_bytes(), pool.total_bytes()) == (1024 + 512, 1024 + 3072) and device.taken >= 4096
    del a
    pool.free_all_blocks()
    assert (pool.used_bytes(), pool.total_bytes()) == (512, 3072)  # the block of b, since c lies in it
    del c, pool
    assert device.beside_the_default_pool() == 3072  # dropped and not asked: lost for ever


def test_cupys_own_products_are_not_recorded(cupy):
    """As in CuPy 14; ours are."""
    a, stream = dn.asarray(np.ones((2, 2), "f4")), cupy.cuda.Stream(non_blocking=True)
    with stream:
        stream.begin_capture()
        with pytest.raises(NotImplementedError, match="cuBLAS"):
            cupy.matmul(a, a)
        cublas.product(a, a)
        stream.end_capture()
