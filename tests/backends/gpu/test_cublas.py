"""Products by our own cuBLAS handle, over a pretend library: layouts, types, streams, threads, and calls that it
declines."""

from __future__ import annotations

import gc
import threading
import weakref

import fake_graphs
import numpy as np
import pytest

import dualnet as dn
from dualnet.backends.gpu import cublas, maps


def drawn(rng, shape, dtype):
    """Random numbers; for bfloat16 still in float32."""
    return rng.standard_normal(shape).astype("float32" if dtype == "bfloat16" else dtype)


def views(host):
    """The same matrix in every layout that cuBLAS takes, and in some that it does not take."""
    rows, columns = host.shape
    there = dn.asarray(host)
    wide = dn.asarray(np.concatenate([host, host], axis=1))
    tall = dn.asarray(np.concatenate([host, host]).T.copy())
    yield "C", there, True
    yield "F", dn.asarray(host.T.copy()).T, True
    yield "columns of a wider one", wide[:, :columns], True
    yield "rows of a taller one, transposed", tall.T[:rows], True
    yield "every other column", dn.asarray(np.repeat(host, 2, axis=1))[:, ::2], False
    yield "backwards", dn.asarray(host[::-1].copy())[::-1], rows == 1


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
@pytest.mark.parametrize(("M", "K", "D"), [(5, 7, 3), (1, 4, 6), (6, 1, 2), (4, 3, 1), (1, 1, 1)])
def test_every_layout(cupy, rng, dtype, M, K, D):
    a, b = drawn(rng, (M, K), dtype), drawn(rng, (K, D), dtype)
    exact = a.astype("f8") @ b.astype("f8")
    for layout_a, x, takes_a in views(a):
        for layout_b, y, takes_b in views(b):
            np.testing.assert_array_equal(dn.to_numpy(x), a)
            before = cublas.library().products
            z = maps.product(x, y)
            close = {"float16": 2e-3, "float32": 1e-5, "float64": 1e-13}[dtype]
            np.testing.assert_allclose(dn.to_numpy(z), exact, rtol=0, atol=close * 10, err_msg=f"{layout_a} {layout_b}")
            assert z.dtype == dtype and tuple(z.shape) == (M, D)
            if min(M, K, D) > 1:
                assert (cublas.library().products > before) == (takes_a and takes_b), f"{layout_a} {layout_b}"


def test_into_an_array(cupy, rng):
    a, b = drawn(rng, (4, 5), "f4"), drawn(rng, (5, 3), "f4")
    whole = cupy.zeros((9, 3), dtype="float32")
    out = whole[2:6]
    assert cublas.product(dn.asarray(a), dn.asarray(b), out) is out
    np.testing.assert_allclose(dn.to_numpy(whole)[2:6], a @ b, rtol=1e-5)
    assert not dn.to_numpy(whole)[[0, 1, 6, 7, 8]].any()


@pytest.mark.parametrize("ours", [True, False])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_a_product_is_added_to_an_array(cupy, rng, monkeypatch, dtype, ours):
    """Factors of 16 bits into float32, without rounding: by our handle, and by CuPy's."""
    if not ours:
        monkeypatch.setattr(cublas, "library", lambda: None)
    a, b = drawn(rng, (4, 5), dtype), drawn(rng, (5, 3), dtype)
    wide = "float64" if dtype == "float64" else "float32"
    out = cupy.full((4, 3), 1000.0, dtype=wide)
    exact = a.astype("f8") @ b.astype("f8")
    for add, expected in ((True, exact + 1000.0), (False, exact)):
        maps.product(dn.asarray(a), dn.asarray(b), out, add)
        np.testing.assert_allclose(dn.to_numpy(out), expected, rtol=1e-6, atol=2e-6)


def test_what_it_leaves_to_cupy(cupy):
    f4, f8, empty = (dn.asarray(np.ones((2, 2), kind)) for kind in ("f4", "f8", "f4"))
    integers = dn.asarray(np.ones((2, 2), "i4"))
    assert cublas.product(f4, f8) is NotImplemented
    assert cublas.product(integers, integers) is NotImplemented
    assert cublas.product(f4, f4, f8) is NotImplemented
    assert cublas.product(empty[:0], f4) is NotImplemented
    assert dn.to_numpy(maps.product(empty[:0], f4)).shape == (0, 2)


def test_precision(cupy):
    x, half = dn.asarray(np.ones((2, 2), "f4")), dn.asarray(np.ones((2, 2), "f2"))
    library = cublas.library()
    try:
        for precision, compute in (("strict", 68), ("tf32", 77)):
            dn.set_precision(precision)
            cublas.product(x, x)
            assert library.computed[-1] == compute
            cublas.product(half, half)
            assert library.computed[-1] == 68  # its sums are float32
    finally:
        dn.set_precision("strict")
    cublas.product(dn.asarray(np.ones((2, 2))), dn.asarray(np.ones((2, 2))))
    assert library.computed[-1] == 70


def test_parts_of_a_sum_are_not_rounded_to_16_bits(cupy):
    """60000 + 60000 − 60000 − 60000 = 0, but its first half exceeds the largest float16."""
    a = dn.asarray(np.array([[300, 300, 300, 300]], "f2"))
    b = dn.asarray(np.array([[200], [200], [-200], [-200]], "f2"))
    assert dn.to_numpy(cublas.product(a, b)) == 0.0
    assert set(cublas.library().modes.values()) == {16}


def test_one_handle_for_a_thread_and_one_workspace_for_a_stream(cupy):
    """The pretend library refuses a handle on another stream, or without a workspace."""
    x, library = dn.asarray(np.ones((2, 2), "f4")), cublas.library()
    cublas.product(x, x)
    workspaces = [library.handles[7000]["workspace"]]
    stream = cupy.cuda.Stream(non_blocking=True)
    for _ in range(2):
        with stream:
            cublas.product(x, x)
            workspaces.append(library.handles[7000]["workspace"])
        cublas.product(x, x)
        workspaces.append(library.handles[7000]["workspace"])
    assert workspaces[0] == workspaces[2] == workspaces[4] != workspaces[1] == workspaces[3]
    other = threading.Thread(target=cublas.product, args=(x, x))
    other.start()
    other.join()
    assert len(library.handles) == 2


def test_the_workspace_of_a_recorded_product_outlives_its_thread(cupy):
    """The workspace of any other product does not: threads may come and go."""
    x, stream, held = dn.asarray(np.ones((2, 2), "f4")), cupy.cuda.Stream(non_blocking=True), []

    def workspaces():
        cublas.product(x, x)
        with stream:
            cublas.product(x, x)
            stream.begin_capture()
            cublas.product(x, x)
            stream.end_capture()
        (handle,) = cublas._held.handles.values()
        held.extend(weakref.ref(fake_graphs._base(handle.workspaces[s]._held)) for s in (0, stream.ptr))

    other = threading.Thread(target=workspaces)
    other.start()
    other.join()
    gc.collect()
    assert [ref() is not None for ref in held] == [False, True]


def test_a_failure_is_named(cupy, monkeypatch):
    monkeypatch.setattr(fake_graphs.Cublas, "cublasGemmEx", lambda *args: 13)
    x = dn.asarray(np.ones((2, 2), "f4"))
    with pytest.raises(RuntimeError, match="cublasGemmEx failed with status 13"):
        cublas.product(x, x)


def test_the_version(cupy):
    assert cublas.version(cupy) == "12.8.4"


def test_a_library_that_lacks_something_is_not_used():
    class Old:
        cublasCreate_v2 = cublasSetStream_v2 = None

    assert cublas.declared(Old()) is None
    cublas.library.cache_clear()


def test_without_a_library(cupy, monkeypatch):
    monkeypatch.setattr(cublas, "library", lambda: None)
    x = dn.asarray(np.full((2, 2), 2.0, "f4"))
    assert cublas.product(x, x) is NotImplemented and cublas.version(cupy) == ""
    assert dn.to_numpy(maps.product(x, x)).tolist() == [[8, 8], [8, 8]]
