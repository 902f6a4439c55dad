"""Arrays: which may be arguments of one op, and how they are made and copied."""

from __future__ import annotations

import numpy as np
import pytest

import dualnet as dn
from dualnet import shim

pytestmark = pytest.mark.usefixtures("fresh")

# -- what may meet what ------------------------------------------------------------------------------------------------


def test_arrays_of_two_backends_are_refused():
    x, w = np.ones((1, 3), np.float32), dn.asarray(np.ones((3, 2), np.float32), backend="strict")
    message = r"dense: x lives on numpy and w on strict; .* dn.asarray\(w, backend='numpy'\).* net.to\(...\)"
    with pytest.raises(TypeError, match=message):
        dn.ops.dense(x, w)
    with pytest.raises(TypeError, match="loss: y lives on strict and t on numpy"):
        shim.same_backend("loss", y=w, t=np.ones(2, int))


@pytest.mark.parametrize(
    "arrays, message",
    [
        ({"x": [1.0]}, r"op: x is a list; expected an array. Make one with dn.asarray\(x\)"),
        ({"x": None}, "op: x is None; expected an array"),
        ({"x": np.ones(1), "b": None}, "op: b is None; expected an array"),
        ({}, "op: expected at least one array"),
        ({"b": None, "optional": "b"}, "op: expected at least one array"),
        (
            {"x": np.ones(1, int)},
            r"op: x has dtype int64; expected one of float16, bfloat16, float32, float64. .*dtype='float32'",
        ),
        ({"x": np.ones(1, ">f4")}, "op: x has dtype >f4; expected"),
        (
            {"x": np.ones(1), "b": None, "w": np.ones(1, "f4"), "optional": ("b",)},
            r"op: x is float64 and w is float32; .*dtype='float64'\)",
        ),
        ({"x": np.ones((1, 1)).view(np.matrix)}, "op: x is a matrix; expected an array"),
        ({"x": np.ma.masked_array([1.0], [True])}, "op: x is a MaskedArray; expected an array"),
        ({"x": np.array([object()])}, "op: x has dtype object"),
    ],
)
def test_what_an_op_refuses(arrays, message):
    with pytest.raises(TypeError, match=message):
        shim.namespace("op", **arrays)


def test_what_an_op_takes(tmp_path):
    mapped = np.memmap(tmp_path / "x", dtype="f4", mode="w+", shape=(2, 2))
    assert shim.namespace("op", x=mapped, w=np.float32(1), b=None, optional=("b",)) is np
    assert shim.backend_of(3.0) is shim.backend_of("x") is shim.backend_of(None) is None


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
    assert shim.backend_of(made).name == backend
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
        (None, "got None; expected numbers, or an array"),
        (2**70, "dtype object is not supported"),
        (np.array(["2020"], "datetime64[Y]"), "is not supported"),
        (np.longdouble(1), "is not supported"),
        (np.zeros(1, [("a", "f4")]), "is not supported"),
        ([[1.0], [1.0, 2.0]], "cannot make an array from a list"),
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


# -- arrays of other libraries -----------------------------------------------------------------------------------------


class Tensor:
    """An array of some library: it lends its memory through DLPack, and knows where it is. It has no ``__array__``."""

    def __init__(self, array: np.ndarray, place: int = 1, requires_grad: bool = False) -> None:
        self.array, self.place, self.requires_grad = array, place, requires_grad
        self.dtype, self.nbytes = array.dtype, array.nbytes

    def __dlpack_device__(self):
        return self.place, 0

    def __dlpack__(self, **options):
        if self.requires_grad:
            raise BufferError("Can't export tensors that require gradient, use tensor.detach()")
        if self.place != 1:
            raise BufferError("not on the CPU")
        return self.array.__dlpack__(**options)

    def detach(self):
        return Tensor(self.array, self.place)


class Movable(Tensor):
    def cpu(self):
        return Tensor(self.array)


def test_an_array_of_another_library_is_lent_and_not_copied(backend):
    array = np.arange(6.0).reshape(2, 3)
    made = dn.asarray(Tensor(array))
    assert shim.backend_of(made).name == backend and made.dtype == np.float64
    np.testing.assert_array_equal(dn.to_numpy(made), array)
    if backend == "numpy":
        assert np.shares_memory(made, array)
        assert np.shares_memory(dn.asarray(Tensor(array, requires_grad=True), copy=False), array)


@pytest.mark.parametrize("requires_grad", [False, True])
def test_its_gradient_is_left_behind(backend, requires_grad):
    made = dn.asarray(Tensor(np.array([1.0, 2.0]), requires_grad=requires_grad), "float32")
    assert made.dtype == np.float32 and dn.to_numpy(made).tolist() == [1, 2]


def test_an_array_on_a_device_is_copied_to_the_host_if_it_can_be(backend):
    with dn.transfers("count") as moved:
        made = dn.asarray(Movable(np.array([1.0, 2.0]), place=2))
    assert dn.to_numpy(made).tolist() == [1, 2] and moved.to_host == 1
    with pytest.raises(dn.TransferForbidden), dn.transfers("forbid"):
        dn.asarray(Movable(np.ones(2), place=2))
    with pytest.raises(ValueError, match="copy=False, but the Movable must be copied: it lives on a CUDA device"):
        dn.asarray(Movable(np.ones(2), place=2), copy=False)


@pytest.mark.parametrize(("place", "name"), [(2, "a CUDA device"), (8, "Metal"), (99, "device 99 of DLPack")])
def test_a_device_that_is_not_there(backend, place, name):
    with pytest.raises(TypeError, match=f"asarray: a Tensor on {name} cannot be read by the backend {backend}"):
        dn.asarray(Tensor(np.ones(2), place))


def test_what_a_library_says_when_it_cannot_lend():
    class Lazy(Tensor):
        def __dlpack_device__(self):
            raise RuntimeError("no numbers yet")

    with pytest.raises(TypeError, match="asarray: cannot read this Lazy: no numbers yet"):
        dn.asarray(Lazy(np.ones(2)))
    with pytest.raises(TypeError, match="asarray: dtype complex128 is not supported"):
        dn.asarray(Tensor(np.array([1j])))


WHY = [
    (lambda: [1.0], {}, "the list must be copied: it is not an array"),
    (lambda: np.ones(2), {"dtype": "float32"}, "the ndarray must be copied: it is float64, and the result float32"),
    (lambda: np.ones(2, ">f8"), {}, "it is >f8, and the result float64"),
    (lambda: np.ones(2), {"backend": "strict"}, "it lives on numpy, and the result on strict"),
    (lambda: Tensor(np.ones(2)), {"dtype": "float32"}, "the Tensor must be copied: it is float64"),
    (lambda: dn.asarray([1.0], backend="strict"), {"backend": "numpy"}, "it lives on strict, and the result on numpy"),
]


@pytest.mark.parametrize(("x", "options", "why"), WHY)
def test_copy_false_says_why_a_copy_is_needed(x, options, why):
    with pytest.raises(ValueError, match=f"asarray: copy=False, but .*{why}"):
        dn.asarray(x(), copy=False, **options)


def test_copy_true_always_makes_one(backend):
    x = dn.asarray([1.0, 2.0])
    assert dn.asarray(x, copy=False) is x or backend != "numpy"
    made = dn.asarray(x, copy=True)
    made[...] = 7.0
    assert dn.to_numpy(x).tolist() == [1, 2]
    array = np.ones(2)
    assert not np.shares_memory(dn.to_numpy(dn.asarray(Tensor(array), copy=True)), array)


def test_pytorch():
    torch = pytest.importorskip("torch")
    x = torch.arange(6.0).reshape(2, 3)
    with dn.use_backend("numpy"):
        made = dn.asarray(x, copy=False)
        made[0, 0] = 7
        assert x[0, 0] == 7 and made.dtype == np.float32
        assert dn.asarray(torch.nn.Parameter(x).t(), copy=False).tolist() == x.t().tolist()
        assert dn.asarray(torch.empty(0, 3)).shape == (0, 3) and dn.asarray(torch.tensor(2)).dtype == np.int64
        assert dn.asarray(torch.tensor([True])).dtype == bool
        for refused in (torch.ones(2, dtype=torch.complex64), torch.eye(2).to_sparse(), torch.ones(2, device="meta")):
            with pytest.raises(TypeError, match="asarray: "):
                dn.asarray(refused)
        net = dn.Sequential([dn.Dense(3)]).init((3,))
        y = torch.from_dlpack(net(dn.asarray(x)))  # and back
        assert y.shape == (2, 3)


def test_bfloat16_of_pytorch():
    torch, ml_dtypes = pytest.importorskip("torch"), pytest.importorskip("ml_dtypes")
    x = torch.tensor([[1.0, -2.5], [1e30, 3.0]]).bfloat16()
    with dn.use_backend("numpy"):
        made = dn.asarray(torch.nn.Parameter(x).t(), copy=False)
        assert made.dtype == ml_dtypes.bfloat16
        np.testing.assert_array_equal(made.astype("float32"), x.t().float().numpy())
        made[0, 0] = 4
        assert x[0, 0] == 4
        assert dn.asarray(x, "float32").dtype == np.float32


def test_a_library_on_the_same_device_lends_to_the_backend_there(monkeypatch):
    """What CuPy does for a tensor on its GPU, played by the pretend one: nothing crosses to the host."""
    strict = dn.backend.load("strict")
    there = dn.asarray([1.0, 2.0], backend="strict")
    lent = []
    monkeypatch.setattr(strict.xp, "from_dlpack", lambda x: lent.append(x) or there, raising=False)
    with dn.use_backend("strict"), dn.transfers("forbid"):
        x = Movable(np.array([1.0, 2.0]), place=2)
        assert dn.asarray(x) is there and lent == [x]
        monkeypatch.setattr(strict.xp, "from_dlpack", lambda x: x.__dlpack__(), raising=False)
        with pytest.raises(TypeError, match="asarray: cannot read this Movable: not on the CPU"):
            dn.asarray(x)
