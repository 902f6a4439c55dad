"""The pretend device refuses what a GPU refuses, computes what NumPy computes, and knows no name that CuPy lacks."""

from __future__ import annotations

import copy
import operator

import numpy as np
import pytest

import dualnet as dn
from dualnet.backends import strict_backend
from dualnet.backends.strict_backend import CONSTANTS, DTYPES, FUNCTIONS, ImplicitTransfer, Namespace, StrictArray

xp = Namespace()


@pytest.fixture
def x():
    return dn.asarray([[1.0, -2.0, 3.0], [4.0, 5.0, -6.0]], backend="strict")


# -- names -------------------------------------------------------------------------------------------------------------


def test_every_name_is_one_of_numpy():
    names = [*FUNCTIONS, *DTYPES, *CONSTANTS]
    assert [name for name in names if not hasattr(np, name)] == []
    assert len(names) == len(set(names))


def test_every_name_is_one_of_cupy():
    cupy = pytest.importorskip("cupy")
    assert [name for name in (*FUNCTIONS, *DTYPES, *CONSTANTS) if not hasattr(cupy, name)] == []
    members = {name for name in vars(StrictArray) if not name.startswith("_")}
    assert [name for name in members if not hasattr(cupy.ndarray, name)] == []


def test_no_other_name_is_there():
    for name in ("vecdot", "nonzero", "save", "errstate", "linalg", "random", "asnumpy"):
        with pytest.raises(AttributeError, match=f"the strict backend has no '{name}'"):
            getattr(xp, name)


# -- what needs the host -----------------------------------------------------------------------------------------------

WAITS = {
    "numpy.asarray": lambda x: np.asarray(x),
    "a numpy function": lambda x: np.sum(x),
    "float": lambda x: float(x[0, 0]),
    "int": lambda x: int(x[0, 0]),
    "complex": lambda x: complex(x[0, 0]),
    "bool": lambda x: bool(x[0, 0]),
    "if": lambda x: 1 if x[0, 0] > 0 else 0,
    "and": lambda x: x[0, 0] and x[0, 1],
    "index": lambda x: [1, 2][xp.argmax(x)],
    "range": lambda x: range(xp.argmax(x)),
    "iteration": lambda x: list(x),
    "unpacking": lambda x: operator.add(*x),
    "in": lambda x: 1.0 in x,
    "item": lambda x: x[0, 0].item(),
    "tolist": lambda x: x.tolist(),
    "mask": lambda x: x[x > 0],
    "mask among others": lambda x: x[:, x[0] > 0],
    "mask assignment": lambda x: operator.setitem(x, x > 0, 0.0),
    "list index": lambda x: x[[0, 1]],
    "True as an index": lambda x: x[True],
    "host array +": lambda x: x + np.ones(3),
    "+ host array": lambda x: np.ones(3) + x,
    "host array in a function": lambda x: xp.add(x, np.ones(3)),
    "host array in a list": lambda x: xp.concat([x, np.ones((1, 3))]),
    "host array assigned": lambda x: operator.setitem(x, 0, np.ones(3)),
    "host array in place": lambda x: operator.iadd(x, np.ones(3)),
    "host index": lambda x: x[np.array([0])],
    "NumPy scalar": lambda x: x * np.float64(2),
    "NumPy scalar on the left": lambda x: np.float64(2) * x,
    "NumPy scalar in a function": lambda x: xp.maximum(x, np.float32(0)),
    "NumPy scalar as an option": lambda x: xp.clip(x, min=np.float64(0)),
    "asarray of a list": lambda x: xp.asarray([1.0]),
    "where of a condition alone": lambda x: xp.where(x > 0),
    "an array as a size": lambda x: xp.zeros(xp.argmax(x)),
    "an array as an end": lambda x: xp.arange(xp.argmax(x)),
}


@pytest.mark.parametrize("what", WAITS.values(), ids=WAITS.keys())
def test_what_makes_a_gpu_wait_or_copy_is_refused(x, what):
    with pytest.raises(TypeError) as caught:
        what(x)
    assert isinstance(caught.value, ImplicitTransfer) or "__array_ufunc__" in str(caught.value)
    np.testing.assert_array_equal(dn.to_numpy(x)[0], [1, -2, 3])


def test_what_cupy_does_not_take_is_refused(x):
    with pytest.raises(TypeError, match=r"max\(where=, initial=\) is not available on every backend"):
        xp.max(x, initial=0.0)
    with pytest.raises(TypeError, match="maximum: lists are not arrays on a device"):
        xp.maximum(x, [0.0])
    with pytest.raises(TypeError, match="unhashable"):
        hash(x)


def test_a_message_names_the_way_out(x):
    with pytest.raises(TypeError, match=r"float\(x\) needs the array's values on the host.*dn.to_numpy\(x\)"):
        float(x[0, 0])


# -- what it computes --------------------------------------------------------------------------------------------------

BINARY = "add sub mul truediv floordiv mod pow lt le gt ge eq ne".split()
BITS = "and_ or_ xor lshift rshift".split()


@pytest.mark.parametrize("name", [*BINARY, *BITS])
def test_operators_are_numpys(name):
    operate = getattr(operator, name)
    kind = np.int64 if name in BITS else np.float32
    a, b = np.array([3, 5, 7], kind), np.array([2, 5, 1], kind)
    p, q = (dn.asarray(v, backend="strict") for v in (a, b))
    for ours, theirs in (
        (operate(p, q), operate(a, b)),
        (operate(p, 2), operate(a, 2)),
        (operate(2, p), operate(2, a)),
    ):
        assert type(ours) is StrictArray and ours.dtype == theirs.dtype
        np.testing.assert_array_equal(dn.to_numpy(ours), theirs)


@pytest.mark.parametrize("name", "iadd isub imul itruediv ifloordiv ipow iand ior ixor ilshift irshift".split())
def test_operators_in_place_write_into_the_array(name):
    operate = getattr(operator, name)
    kind = np.int64 if name in "iand ior ixor ilshift irshift".split() else np.float32
    host = np.array([[3, 5], [7, 1]], kind)
    there = dn.asarray(host, backend="strict")
    row = there[0]
    row_before = row
    operate(row, 2)
    assert row is row_before
    operate(host[0], 2)
    np.testing.assert_array_equal(dn.to_numpy(there), host)  # the row is a view of it


def test_unary_operators_and_products(x):
    host = dn.to_numpy(x)
    for operate in (operator.neg, operator.pos, operator.abs):
        np.testing.assert_array_equal(dn.to_numpy(operate(x)), operate(host))
    np.testing.assert_array_equal(dn.to_numpy(~(x > 0)), ~(host > 0))
    np.testing.assert_array_equal(dn.to_numpy(x @ x.T), host @ host.T)
    np.testing.assert_array_equal(dn.to_numpy(x.mT), host.T)
    np.testing.assert_array_equal(dn.to_numpy(x.reshape(3, 2)), host.reshape(3, 2))


def test_shape_and_size(x):
    assert (x.shape, x.ndim, x.size, x.nbytes, x.itemsize, len(x)) == ((2, 3), 2, 6, 24, 4, 2)
    assert repr(x).startswith("strict(array([[ 1., -2.")


def test_functions_take_and_give_device_arrays(x):
    total = xp.sum(x)
    assert type(total) is StrictArray and total.shape == () and total.dtype == np.float32  # never a NumPy scalar
    assert type(xp.concat([x, x])) is StrictArray
    parts = xp.broadcast_arrays(x, xp.asarray(1.0))
    assert all(type(part) is StrictArray for part in parts)
    assert xp.result_type(x, xp.float64) == np.float64
    np.testing.assert_array_equal(dn.to_numpy(xp.take(x, xp.argmax(x, axis=1), axis=1)), [[3, -2], [-6, 5]])
    x[0] = x[1]
    np.testing.assert_array_equal(dn.to_numpy(x)[0], [4, 5, -6])


def test_float32_stays_float32_with_any_python_number(x):
    for made in (x * 2.0, 2 * x, x / 3, x**2, x + True, xp.maximum(x, 0.0), xp.mean(x), xp.where(x > 0, x, 0.0)):
        assert made.dtype == np.float32


def test_what_empty_returns_is_not_zero_by_luck():
    assert np.isnan(dn.to_numpy(xp.empty((2, 2), dtype=xp.float32))).all()
    assert (dn.to_numpy(xp.empty_like(xp.zeros(3, dtype=xp.int8))) == 127).all()
    assert dn.to_numpy(xp.empty(0, dtype=xp.bool)).shape == (0,)


def test_copies_share_nothing(x):
    host = np.ones(3)
    there = dn.asarray(host, backend="strict")
    host[:] = 2
    for other in (there.copy(), copy.deepcopy(there), there.astype("float64")):
        other[:] = 5.0
    back = dn.to_numpy(there)
    back[:] = 7
    assert dn.to_numpy(there).tolist() == [1, 1, 1]


def test_there_is_one_device():
    assert strict_backend.load(0).name == "strict"
    with pytest.raises(dn.BackendUnavailable, match="strict:1: there is one pretend device; use 'strict'"):
        strict_backend.load(1)
