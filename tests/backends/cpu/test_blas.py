"""NumPy's BLAS, called directly: held to one thread and left as it was, and the product that adds to its output."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from dualnet.backends.cpu import blas

needs_blas = pytest.mark.skipif(blas.library() is None, reason="the threads of this BLAS cannot be set")


@needs_blas
def test_blas_is_held_and_left_as_found():
    library = blas.library()
    found = library.get()
    library.set(2)
    try:
        with blas.held():
            assert library.get() == 1
            with blas.held():
                assert library.get() == 1
            assert library.get() == 1
        assert library.get() == 2
        with pytest.raises(KeyError), blas.held():
            raise KeyError
        assert library.get() == 2
    finally:
        library.set(found)


@needs_blas
def test_the_last_of_several_threads_restores_the_number():
    library, inside, go = blas.library(), threading.Event(), threading.Event()
    found = library.get()
    library.set(2)

    def stay():
        with blas.held():
            inside.set()
            go.wait(10)

    try:
        other = threading.Thread(target=stay)
        with blas.held():
            other.start()
            assert inside.wait(10)
        assert library.get() == 1, "the other thread still holds it"
        go.set()
        other.join()
        assert library.get() == 2
    finally:
        go.set()
        library.set(found)


@needs_blas
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_product_adds_to_its_output(rng, dtype):
    gemm = blas.product(dtype)
    if gemm is None:
        pytest.skip("this BLAS has no product that can be called")
    for ta, tb in ((False, False), (True, False), (False, True)):
        a = rng.standard_normal((4, 3) if not ta else (3, 4)).astype(dtype)
        b = rng.standard_normal((3, 5) if not tb else (5, 3)).astype(dtype)
        c = rng.standard_normal((4, 5)).astype(dtype)
        expected = (a.T if ta else a) @ (b.T if tb else b) + c
        gemm(ta, tb, 4, 5, 3, a.ctypes.data, a.shape[1], b.ctypes.data, b.shape[1], 1.0, c.ctypes.data, 5)
        assert np.allclose(c, expected, rtol=1e-5)


def test_without_the_library_there_is_nothing_to_hold(monkeypatch):
    monkeypatch.setattr(blas, "_found", [])
    monkeypatch.setattr(blas, "_paths", list)
    assert blas.library() is None and blas.product("float32") is None
    with blas.held():
        pass


@needs_blas
def test_a_product_of_parts_of_larger_matrices(rng):
    gemm = blas.product("float64")
    if gemm is None:
        pytest.skip("this BLAS has no product that can be called")
    a, b, c = rng.standard_normal((4, 9)), rng.standard_normal((3, 8)), rng.standard_normal((4, 7))
    left, expected = c.copy(), a[:, 2:5] @ b[:, 1:6]
    gemm(False, False, 4, 5, 3, a[:, 2:].ctypes.data, 9, b[:, 1:].ctypes.data, 8, 0.0, c.ctypes.data, 7)
    assert np.allclose(c[:, :5], expected, rtol=1e-12) and np.array_equal(c[:, 5:], left[:, 5:])


def test_other_dtypes_have_no_product():
    assert blas.product("float16") is blas.product("int32") is None
