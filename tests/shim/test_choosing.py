"""The seam: which backend arrays are born on, what may meet what, and what stands in for what."""

from __future__ import annotations

import contextvars
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pristine
import pytest

import dualnet as dn
from dualnet import shim as seam
from dualnet.shim import choosing, kernels

BACKENDS = "numpy, cupy, strict, cupy:N, auto"


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    pristine.process(monkeypatch)


# -- which one ---------------------------------------------------------------------------------------------------------


def test_the_first_that_speaks_decides(monkeypatch):
    assert dn.get_backend() == "numpy"
    monkeypatch.setattr(choosing, "_process", choosing._Process())
    monkeypatch.setenv("DUALNET_BACKEND", "strict")
    assert dn.get_backend() == "strict"
    dn.set_backend("numpy")
    assert dn.get_backend() == "numpy"
    with dn.use_backend("strict") as name:
        assert name == dn.get_backend() == "strict"
        with dn.use_backend("numpy"):
            assert dn.get_backend() == "numpy"
            assert seam.backend_of(dn.asarray([1.0], backend="strict")).name == "strict"
        assert dn.get_backend() == "strict"
    assert dn.get_backend() == "numpy"


@pytest.mark.parametrize(
    "text, name", [("STRICT", "strict"), (" Numpy ", "numpy"), ("numpy:0", "numpy"), ("", "numpy")]
)
def test_case_and_blanks_do_not_matter_and_empty_is_unset(monkeypatch, text, name):
    monkeypatch.setenv("DUALNET_BACKEND", text)
    assert dn.get_backend() == name
    if text:
        dn.set_backend(text)
        assert dn.get_backend() == name


def test_the_variable_is_read_on_first_use(monkeypatch):
    monkeypatch.setenv("DUALNET_BACKEND", "strict")  # after the import, before anything was asked
    assert seam.backend_of(dn.asarray([1.0])).name == "strict"


def test_a_late_change_of_the_variable_is_hinted_at_once(monkeypatch):
    assert dn.get_backend() == "numpy"
    monkeypatch.setenv("DUALNET_BACKEND", "Strict")
    with pytest.warns(
        UserWarning, match=r"became 'strict' after 'numpy' was .* call dn.set_backend\('strict'\)"
    ) as seen:
        assert dn.get_backend() == "numpy"
    assert seen[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert dn.get_backend() == "numpy"  # said once
        monkeypatch.setenv("DUALNET_BACKEND", "NUMPY")  # what is in use anyway
        assert dn.get_backend() == "numpy"
        dn.set_backend("strict")
        monkeypatch.setenv("DUALNET_BACKEND", "auto")  # the call speaks louder than the variable
        assert dn.get_backend() == "strict"


CHOOSE = [
    lambda name: dn.set_backend(name),
    lambda name: dn.use_backend(name).__enter__(),
    lambda name: dn.asarray([1.0], backend=name),
]


@pytest.mark.parametrize("choose", CHOOSE, ids=["set_backend", "use_backend", "asarray"])
def test_a_name_that_is_none(choose):
    with pytest.raises(ValueError, match=f"unknown backend 'nunpy'; the backends are: {BACKENDS}"):
        choose("nunpy")
    with pytest.raises(ValueError, match="unknown backend ''"):
        choose("")
    with pytest.raises(ValueError, match="'cupy:x': after the colon stands a device number, as in 'cupy:1'"):
        choose("cupy:x")
    with pytest.raises(ValueError, match="after the colon"):
        choose("numpy:")
    with pytest.raises(dn.BackendUnavailable, match="numpy:3: NumPy has no devices; say 'numpy'"):
        choose("numpy:3")
    with pytest.raises(dn.BackendUnavailable, match="strict:1: there is one pretend device"):
        choose("strict:1")
    with pytest.raises(TypeError, match="a backend's name is a string such as 'numpy', got ndarray"):
        choose(np.ones(1))
    assert dn.get_backend() == "numpy"


def test_a_misspelt_variable_is_never_a_fallback(monkeypatch):
    monkeypatch.setenv("DUALNET_BACKEND", "cuppy")
    for _ in range(2):  # the failure is not remembered as a choice
        with pytest.raises(ValueError, match=f"DUALNET_BACKEND=cuppy: unknown backend 'cuppy'; .*: {BACKENDS}"):
            dn.asarray([1.0])
    monkeypatch.setenv("DUALNET_BACKEND", "strict")
    assert dn.get_backend() == "strict"


def test_only_auto_falls_back_and_info_says_why(monkeypatch):
    pristine.without_cupy(monkeypatch)
    with pytest.raises(dn.BackendUnavailable, match=r'cupy: CuPy is not installed.*pip install "dualnet\[cuda'):
        dn.set_backend("cupy")
    monkeypatch.setenv("DUALNET_BACKEND", "cupy:0")
    with pytest.raises(dn.BackendUnavailable, match="DUALNET_BACKEND=cupy:0: cupy: CuPy is not installed"):
        dn.get_backend()
    monkeypatch.setenv("DUALNET_BACKEND", "auto")
    assert dn.get_backend() == "numpy"
    assert dn.info()["chosen by"].startswith("DUALNET_BACKEND=auto (auto fell back: cupy: CuPy is not installed")
    assert dn.info()["backends"]["cupy"].startswith("CuPy is not installed")
    dn.set_backend("numpy")
    assert dn.info()["chosen by"] == "set_backend"


def test_set_backend_reaches_every_thread_and_use_backend_none_but_its_own():
    with ThreadPoolExecutor(1) as pool:
        dn.set_backend("strict")
        assert pool.submit(dn.get_backend).result() == "strict"
        with dn.use_backend("numpy"):
            assert dn.get_backend() == "numpy"
            assert pool.submit(dn.get_backend).result() == "strict"
            assert contextvars.copy_context().run(dn.get_backend) == "numpy"


def test_use_backend_ends_with_its_block_also_after_an_error():
    with pytest.raises(KeyError), dn.use_backend("strict"):
        raise KeyError
    assert dn.get_backend() == "numpy"


# -- what may meet what ------------------------------------------------------------------------------------------------


def test_arrays_of_two_backends_are_refused():
    x, w = np.ones((1, 3), np.float32), dn.asarray(np.ones((3, 2), np.float32), backend="strict")
    message = r"dense: x lives on numpy and w on strict; .* dn.asarray\(w, backend='numpy'\).* net.to\(...\)"
    with pytest.raises(TypeError, match=message):
        dn.ops.dense(x, w)
    with pytest.raises(TypeError, match="loss: y lives on strict and t on numpy"):
        seam.same_backend("loss", y=w, t=np.ones(2, int))


@pytest.mark.parametrize(
    "arrays, message",
    [
        ({"x": [1.0]}, r"op: x is a list; expected an array. Make one with dn.asarray\(x\)"),
        ({"x": None}, "op: expected at least one array"),
        (
            {"x": np.ones(1, int)},
            r"op: x has dtype int64; expected one of float16, bfloat16, float32, float64. .*dtype='float32'",
        ),
        ({"x": np.ones(1, ">f4")}, "op: x has dtype >f4; expected"),
        (
            {"x": np.ones(1), "b": None, "w": np.ones(1, "f4")},
            r"op: x is float64 and w is float32; .*dtype='float64'\)",
        ),
        ({"x": np.ones((1, 1)).view(np.matrix)}, "op: x is a matrix; expected an array"),
        ({"x": np.ma.masked_array([1.0], [True])}, "op: x is a MaskedArray; expected an array"),
        ({"x": np.array([object()])}, "op: x has dtype object"),
    ],
)
def test_what_an_op_refuses(arrays, message):
    with pytest.raises(TypeError, match=message):
        seam.namespace("op", **arrays)


def test_what_an_op_takes(tmp_path):
    mapped = np.memmap(tmp_path / "x", dtype="f4", mode="w+", shape=(2, 2))
    assert seam.namespace("op", x=mapped, w=np.float32(1), b=None) is np
    assert seam.backend_of(3.0) is seam.backend_of("x") is seam.backend_of(None) is None


# -- asarray and to_numpy ----------------------------------------------------------------------------------------------

MADE = [  # from, dtype asked for, dtype of the result
    ([1.5, 2.0], None, "float32"),
    (1.5, None, "float32"),
    ([np.float64(1.5)], None, "float32"),
    ([1, 2], None, "int64"),
    ([True], None, "bool"),
    (np.array([1.5]), None, "float64"),
    (np.array([1.5], ">f8"), None, "float64"),
    (np.array([1, 2], ">i2"), None, "int16"),
    (np.array([1, 2], "uint8"), "float32", "float32"),
    (np.array([True, False]), "float32", "float32"),
    (np.array([2**40]), None, "int64"),
    (np.array([1.5], "float16"), None, "float16"),
    (np.array([1.5]), ">f4", "float32"),
    (np.array([[1.5]]).view(np.matrix), None, "float64"),
    ([], None, "float32"),
]


@pytest.mark.parametrize("x, asked, dtype", MADE)
def test_asarray_converts_exactly(backend, x, asked, dtype):
    made = dn.asarray(x, asked)
    assert seam.backend_of(made).name == backend
    assert made.dtype == np.dtype(dtype) and made.dtype.isnative
    back = dn.to_numpy(made)
    assert type(back) is np.ndarray and back.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(back, np.asarray(x))


@pytest.mark.parametrize(
    "x, message",
    [
        (np.array([1 + 2j]), "dtype complex128 is not supported; expected real numbers"),
        (["a"], "dtype <U1 is not supported"),
        ([object()], "dtype object is not supported"),
        (None, "dtype object is not supported"),
        (2**70, "dtype object is not supported"),
        (np.array(["2020"], "datetime64[Y]"), "is not supported"),
        (np.longdouble(1), "is not supported"),
        (np.zeros(1, [("a", "f4")]), "is not supported"),
        ([[1.0], [1.0, 2.0]], "cannot make an array of list"),
        (np.ma.masked_array([1.0], [True]), r"a masked array has gaps; fill them first, with x.filled\(value\)"),
    ],
)
def test_asarray_refuses_what_is_no_real_number(backend, x, message):
    with pytest.raises(TypeError, match=f"asarray: .*{message}"):
        dn.asarray(x)


def test_asarray_refuses_dtypes_that_are_none(backend):
    for dtype in ("complex64", object, "S1"):
        with pytest.raises(TypeError, match="not supported"):
            dn.asarray([1.0], dtype)
        with pytest.raises(TypeError, match="not supported"):
            dn.asarray(dn.asarray([1.0]), dtype)
    with pytest.raises(TypeError):
        dn.asarray([1.0], "flaot")


def test_asarray_keeps_what_is_there_already(backend):
    x = dn.asarray([1.0, 2.0])
    assert dn.asarray(x).shape == (2,)
    assert dn.asarray(x, "float64").dtype == np.float64
    if backend == "numpy":
        assert dn.asarray(x) is x
    with dn.transfers("forbid"):
        dn.asarray(x)


def test_between_two_backends_there_and_back():
    host = np.arange(6.0).reshape(2, 3)[:, ::-1]
    there = dn.asarray(host, backend="strict")
    again = dn.asarray(there, backend="numpy")
    np.testing.assert_array_equal(again, host)
    again[:] = 0  # a copy: the device's array is its own
    np.testing.assert_array_equal(dn.to_numpy(there), host)
    assert dn.asarray(there, "float32", backend="numpy").dtype == np.float32


def test_to_numpy_of_other_things():
    x = np.ones(3)
    assert dn.to_numpy(x) is x
    assert dn.to_numpy([1, 2]).tolist() == [1, 2]
    assert type(dn.to_numpy(np.float32(2))) is np.ndarray


def test_default_dtype(monkeypatch):
    monkeypatch.setenv("DUALNET_DTYPE", " Float64 ")
    assert dn.asarray([1.0]).dtype == np.float64
    assert dn.info()["dtype"] == "float64"
    assert dn.asarray(np.ones(1, np.float32)).dtype == np.float32
    monkeypatch.setenv("DUALNET_DTYPE", "")
    assert dn.asarray([1.0]).dtype == np.float32
    monkeypatch.setenv("DUALNET_DTYPE", "int8")
    with pytest.raises(
        ValueError, match="DUALNET_DTYPE: unknown dtype 'int8'; expected one of float16, bfloat16, float32, float64"
    ):
        dn.asarray([1.0])


# -- fast code that stands in by name ----------------------------------------------------------------------------------


@pytest.fixture
def double(monkeypatch):
    """A reference, and a kernel of NumPy that serves float32 alone; both tell how they were called."""
    monkeypatch.setattr(kernels, "references", dict(seam.references))
    before = seam.calls.copy()
    seam.calls.clear()

    @seam.accelerated
    def double(x, times=2, *, plus=0):
        """Twice x."""
        return "reference", x * times + plus

    def kernel(x, times=2, *, plus=0):
        return ("kernel", x * times + plus) if x.dtype == np.float32 else NotImplemented

    monkeypatch.setitem(seam.load("numpy").kernels, "double", kernel)
    yield double
    seam.calls.clear()
    seam.calls.update(before)


def test_a_kernel_stands_in_where_it_can(double):
    assert double(np.ones(1, np.float32), 3, plus=1) == ("kernel", 4.0)
    assert double(np.ones(1)) == ("reference", 2.0)
    by, y = double(dn.asarray([1.0], backend="strict"))  # that backend carries none
    assert by == "reference" and dn.to_numpy(y) == 2.0
    assert double(3) == ("reference", 6)
    assert dict(seam.calls) == {("double", "kernel of numpy"): 1, ("double", "reference"): 3}
    assert dn.info()["ran"] == {"double (kernel of numpy)": "1 times", "double (reference)": "3 times"}
    assert "double" in dn.info()["kernels"]
    assert double.__doc__ == "Twice x." and double.reference(1) == ("reference", 2)
    assert kernels.references["double"] is double


def test_kernels_can_be_turned_off(double, monkeypatch):
    monkeypatch.setenv("DUALNET_KERNELS", "Reference")
    assert double(np.ones(1, np.float32)) == ("reference", 2.0)
    assert dn.info()["kernels"] == "off (DUALNET_KERNELS=reference)"
    monkeypatch.setenv("DUALNET_KERNELS", "auto")
    assert double(np.ones(1, np.float32)) == ("kernel", 2.0)
    monkeypatch.setenv("DUALNET_KERNELS", "of")
    with pytest.raises(ValueError, match="DUALNET_KERNELS is 'auto' or 'reference', got 'of'"):
        double(np.ones(1, np.float32))


def test_two_references_of_one_name_are_refused(double):
    def other(x):
        return x

    other.__name__, other.__qualname__ = "double", "other"
    with pytest.raises(ValueError, match="two references are named 'double'"):
        seam.accelerated(other)


def test_every_kernel_has_a_reference(backend):
    assert set(seam.current().kernels) <= set(seam.references)
