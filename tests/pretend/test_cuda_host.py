"""The harness around the kernels can fail: wrong arguments, writes beyond an array, threads that wait in vain."""

from __future__ import annotations

import cuda_host
import fake_cupy
import numpy as np
import pytest

import dualnet as dn
from dualnet.backends.gpu import registry, sources


@pytest.fixture
def cupy(monkeypatch):
    """A pretend CuPy whose kernels run on the host."""
    with fake_cupy.in_force(monkeypatch) as module:
        yield module


def test_wrong_arguments_are_caught(cupy):
    x, y = dn.asarray(np.zeros(8, "f4")), cupy.empty((8,), dtype="float32")
    function = cupy.RawModule(code=sources.source("elementwise.cu"), options=("-DREAL=float", "-DPACK=1"))
    rectify = function.get_function("rectify")
    rectify((1,), (256,), (y, x, np.int32(8)))
    for arguments, message in [
        ((dn.asarray(np.zeros(7, "u1")), x, np.int32(8)), "packs do not fit"),
        ((y, x, 8), "8 for int32"),
        ((y, x, np.int64(8)), "for int32"),
        ((y, x), "2 arguments"),
    ]:
        with pytest.raises(AssertionError, match=message):
            rectify((1,), (256,), arguments)
    with pytest.raises(AssertionError, match="written beyond the array"):
        rectify((1,), (256,), (y, x, np.int32(9)))
    with pytest.raises(AssertionError, match="grid"):
        rectify((0,), (256,), (y, x, np.int32(8)))


def test_threads_that_wait_in_vain_are_caught(cupy, monkeypatch):
    text = sources.source("channels.cu")
    planted = text.replace(
        "wide sum = 0;\n    if (c < C)", "wide sum = 0;\n    if (threadIdx.x == 3) return;\n    if (c < C)"
    )
    assert planted != text
    monkeypatch.setattr(sources, "source", lambda file: planted)
    function = cuda_host.library.__wrapped__("channels.cu", ("-DREAL=float",))
    kernel = cuda_host.Function(registry.KERNELS["channel_sum_end"], function)
    arrays = [np.zeros(4, "f4"), np.zeros((2, 4), "f4")]
    with pytest.raises(AssertionError, match="wait for each other in vain"):
        kernel((1,), (32, 32), (*arrays, np.int32(2), np.int32(4), np.float32(1)))


def test_kernels_whose_threads_wait_for_each_other_are_found():
    """Also where the waiting is in a function that they call, or in one that this one calls."""
    together = {kernel for kernel in registry.KERNELS.values() if kernel.name in cuda_host.cooperative(kernel.file)}
    assert {kernel.name for kernel in together} == {
        "channel_sum_part", "channel_sum_end", "channel_sum_short", "channel_moments_part", "channel_moments_end",
        "normalise_backward_part", "joined_backward_part", "normalise_backward_end", "cross_entropy_rows", "turn",
        "turn_all", "turn_gradients",
    }  # fmt: skip
    assert all(kernel.block != registry.THREADS for kernel in together)


def test_threads_run_in_both_orders(cupy, monkeypatch):
    """So that a kernel in which one thread reads what another writes gives other bits."""
    text = sources.source("elementwise.cu")
    planted = text.replace(
        "Pack in = x[i], out;", "Pack in = x[i], out = y[i > 0 ? i - 1 : 0];\n    in.at[0] += out.at[0];"
    )
    assert planted != text
    monkeypatch.setattr(sources, "source", lambda file: planted)
    library = cuda_host.library.__wrapped__("elementwise.cu", ("-DREAL=float", "-DPACK=1"))
    results = []
    for backwards in (False, True):
        monkeypatch.setitem(cuda_host.order, "backwards", backwards)
        y, x = np.zeros(4, "f4"), np.ones(4, "f4")
        cuda_host.Function(registry.KERNELS["rectify"], library)((1,), (256,), (y, x, np.int32(4)))
        results.append(y.tolist())
    assert results == [[1, 2, 3, 4], [1, 1, 1, 1]]
