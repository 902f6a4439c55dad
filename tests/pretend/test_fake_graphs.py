"""The pretend device's graphs: they record without computing, repeat, and overwrite what a step leaves behind."""

from __future__ import annotations

import fake_cupy
import numpy as np
import pytest

import dualnet as dn
from dualnet.backends.gpu import cublas


@pytest.fixture
def cupy(monkeypatch):
    """A pretend CuPy whose kernels run on the host."""
    with fake_cupy.in_force(monkeypatch) as module:
        yield module


def test_a_step_does_not_find_the_memory_of_the_last_one(cupy):
    """The pretend graph fills it with NaN, which exposes an array that one step secretly leaves to the next."""
    kept = []

    def step(x):
        y = x + (kept[-1] if kept else 0.0)
        kept.append(y)
        return y

    captured = dn.capture(step)
    x = dn.asarray(np.ones(2, "f4"))
    seen = [dn.to_numpy(captured(x))[0] for _ in range(5)]
    assert seen[:3] == [1.0, 2.0, 3.0] and seen[3] == seen[4] == 3.0  # the array of the warm-up is read again


def test_recorded_work_is_not_computed(cupy):
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


def test_a_pool_keeps_freed_memory_and_gives_it_back_when_asked(cupy):
    device, pool = cupy.now.graphs.device, cupy.cuda.MemoryPool()
    with cupy.cuda.using_allocator(pool.malloc):
        a, b = cupy.zeros((1000,), dtype="uint8"), cupy.zeros((3000,), dtype="uint8")
        del b
        c = cupy.zeros((500,), dtype="uint8")
    assert (pool.used_bytes(), pool.total_bytes()) == (1024 + 512, 1024 + 3072) and device.taken >= 4096
    del a
    pool.free_all_blocks()
    assert (pool.used_bytes(), pool.total_bytes()) == (512, 3072)  # b's block stays, since c lies in it
    del c, pool
    assert device.beside_the_default_pool() == 3072  # dropped, not emptied: lost forever


def test_cupys_own_products_are_not_recorded(cupy):
    """As in CuPy 14. Products by our handle are."""
    a, stream = dn.asarray(np.ones((2, 2), "f4")), cupy.cuda.Stream(non_blocking=True)
    with stream:
        stream.begin_capture()
        with pytest.raises(NotImplementedError, match="cuBLAS"):
            cupy.matmul(a, a)
        cublas.product(a, a)
        stream.end_capture()
