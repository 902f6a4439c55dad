"""An adapted array computes what NumPy does: indices, dtypes, methods and functions, in every library that is
installed."""

from __future__ import annotations

import copy
import itertools
import operator
import pickle

import numpy as np
import pytest

import dualnet as dn
from dualnet.backends.adapter import COUNTED, REAL, SPECIAL, TOGETHER, AdaptedArray, MissingDtype
from dualnet.backends.strict_backend import CONSTANTS, DTYPES, FUNCTIONS

ADAPTED = [name for name in ("array_api_strict", "torch") if name in dn.available_backends()]
pytestmark = pytest.mark.skipif(not ADAPTED, reason="neither array-api-strict nor torch is installed")


@pytest.fixture(params=ADAPTED or ["none"])
def place(request):
    with dn.use_backend(request.param):
        yield request.param


@pytest.fixture
def xp(place):
    return dn.backend.current().xp


def same(found, wanted):
    """The same numbers in the same dtype; float32 and float64 may differ in the last digit."""
    assert isinstance(found, AdaptedArray)
    host, wanted = dn.to_numpy(found), np.asarray(wanted)
    assert (host.dtype, host.shape) == (wanted.dtype, wanted.shape) == (found.dtype, found.shape)
    np.testing.assert_allclose(host, wanted, rtol=1e-6 if wanted.dtype.kind == "f" else 0, atol=0)


# -- indices -----------------------------------------------------------------------------------------------------------

X = np.arange(120.0).reshape(4, 5, 6)
PARTS = [0, -1, slice(None), slice(1, 99), slice(-99, 3), slice(4, 1), slice(None, None, -1), slice(3, 0, -2), None]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_indices_of_whole_numbers_and_slices(place, count):
    x = dn.asarray(X)
    for index in itertools.product(PARTS, repeat=count):
        same(x[index], X[index])
        same(x[(*index, Ellipsis)], X[(*index, Ellipsis)])
    same(x[..., ::-1, 1], X[..., ::-1, 1])
    same(x[...], X)
    same(dn.asarray(np.float64(3.0))[()], np.float64(3.0))


def test_indices_of_arrays(place):
    x, rows = dn.asarray(X), np.array([[3, 0], [1, 1]])
    for kind in ("int64", "uint8", "int32"):
        same(x[dn.asarray(rows, kind)], X[rows])
    flat, mask = X.reshape(-1), X > 60
    same(dn.asarray(flat)[dn.asarray(rows)], flat[rows])
    same(x[dn.asarray(mask)], X[mask])


def test_assigned_elements(place):
    made, wanted = dn.asarray(X), X.copy()
    for index, value in [
        ((0,), 7),
        ((slice(1, 99), Ellipsis, slice(0, 2)), -1.0),
        ((slice(None), 2, slice(None, None, 2)), np.arange(3.0)),
        ((Ellipsis, 1), np.arange(5)),  # integers become float64
    ]:
        made[index] = dn.asarray(value) if isinstance(value, np.ndarray) else value
        wanted[index] = value
        same(made, wanted)
    flat, places = dn.asarray(X.reshape(-1)), np.array([[7, 3], [100, 0]])
    flat[dn.asarray(places)] = dn.asarray(np.array([[1.5, 2.5], [3.5, 4.5]]))
    flat[dn.asarray(places[:, :0])] = dn.asarray(np.zeros((2, 0)))
    wanted = X.reshape(-1).copy()
    wanted[places] = [[1.5, 2.5], [3.5, 4.5]]
    same(flat, wanted)
    flat[dn.asarray(places)] += 1.0
    wanted[places] += 1
    same(flat, wanted)
    with pytest.raises(IndexError, match="cannot assign to a slice with a negative step"):
        made[::-1] = 0.0
    with pytest.raises(TypeError, match="cannot be combined with an array of another backend"):
        made[0] = X[0]


# -- dtypes ------------------------------------------------------------------------------------------------------------

SAMPLES = {
    name: np.array([0, 1, 1, 0] if name == "bool" else [0, 3, 5, 100]).astype(name)
    for name in (
        "bool",
        "int8",
        "int32",
        "int64",
        "uint8",
        "uint16",
        "uint32",
        "uint64",
        "float16",
        "float32",
        "float64",
    )
}
SAMPLES["uint64"] = np.array([0, 3, 5, 2**64 - 7], np.uint64)  # larger than any int64
SAMPLES["uint32"] = np.array([0, 3, 5, 2**32 - 7], np.uint32)
WHOLE = [name for name in SAMPLES if "int" in name]


def outcome(compute, *args):
    """What comes out, or "refused"."""
    try:
        with np.errstate(all="ignore"):
            return compute(*args)
    except (TypeError, OverflowError, np.exceptions.DTypePromotionError):
        return "refused"


@pytest.mark.parametrize("word", "add sub mul truediv lt le gt ge eq ne".split())
def test_two_dtypes_become_one_by_the_rules_of_numpy(place, word):
    compute = getattr(operator, word)
    for one, other in itertools.product(SAMPLES, repeat=2):
        if place == "array_api_strict" and "float16" in (one, other):
            continue
        wanted = outcome(compute, SAMPLES[one], SAMPLES[other])
        if {one, other} <= {"uint64", "int64", "int8", "int32"} and "uint64" in (one, other) and one != other:
            continue  # float64 of numbers that it does not hold
        if isinstance(wanted, str) or (one == other == "bool" and word in ("add", "mul", "lt", "le", "gt", "ge")):
            continue  # bools are not added up, nor put in order
        same(compute(dn.asarray(SAMPLES[one]), dn.asarray(SAMPLES[other])), wanted)


@pytest.mark.parametrize("word", "add sub mul truediv lt le gt ge eq ne".split())
def test_numbers_of_python_on_either_side(place, word):
    compute = getattr(operator, word)
    for name, x in SAMPLES.items():
        if (place, name) == ("array_api_strict", "float16"):
            continue
        for number in (2, 2.5):
            if name == "bool" and word != "mul" and number == 2:
                continue
            with np.errstate(all="ignore"):
                same(compute(dn.asarray(x), number), compute(x, number))
                same(compute(number, dn.asarray(x)), compute(number, x))


@pytest.mark.parametrize("name", WHOLE)
def test_bits_of_whole_numbers(place, name):
    x = dn.asarray(SAMPLES[name])
    for word in ("and_", "or_", "xor"):
        compute = getattr(operator, word)
        same(compute(x, x), compute(SAMPLES[name], SAMPLES[name]))
        same(compute(x, 5), compute(SAMPLES[name], 5))
    for by in (1, 5):
        same(x >> by, SAMPLES[name] >> by)
    for word in ("iadd", "isub", "imul", "ior"):
        with np.errstate(all="ignore"):
            wanted = getattr(operator, word)(SAMPLES[name].copy(), SAMPLES[name])
        same(getattr(operator, word)(dn.asarray(SAMPLES[name]), x), wanted)


@pytest.mark.parametrize("name", WHOLE)
def test_order_of_whole_numbers(xp, name):
    x = SAMPLES[name][[3, 0, 2, 1]]
    for word in ("max", "min", "argmax", "argmin", "sort", "sum"):
        same(getattr(xp, word)(dn.asarray(x)), getattr(np, word)(x))
    same(xp.maximum(dn.asarray(x), 4), np.maximum(x, 4))
    same(xp.minimum(dn.asarray(x), dn.asarray(x[::-1].copy())), np.minimum(x, x[::-1]))


def test_in_place_keeps_the_dtype(place):
    x = dn.asarray([1.0, 2.0])
    held = x.held
    x += dn.asarray(np.array([0.5, 0.5]))  # float64
    x *= 2
    same(x, np.array([3, 5], np.float32))
    assert x.held is held
    with pytest.raises(TypeError, match="iadd: float32 does not fit into int64"):
        n = dn.asarray([1, 2])
        n += x


def test_a_dtype_that_the_library_lacks():
    with dn.use_backend(ADAPTED[0]):
        x = dn.asarray([1.0])
    with pytest.raises(MissingDtype, match=f"{ADAPTED[0]}.* has no complex64; it has bool, int8"):
        x.astype("complex64")


# -- methods -----------------------------------------------------------------------------------------------------------


def test_methods_and_attributes(place):
    x, host = dn.asarray(X, "float32"), X.astype(np.float32)
    same(x.T, host.T)
    same(x.mT, host.mT)
    same(x.reshape(6, -1), host.reshape(6, -1))
    same(x.reshape((20, 6)), host.reshape(20, 6))
    same(x.astype("int32"), host.astype("int32"))
    assert x.astype("float32", copy=False) is x and x.astype("float32") is not x
    assert (x.size, x.ndim, x.nbytes, x.itemsize, len(x)) == (120, 3, 480, 4, 4)
    twins = x.copy(), copy.deepcopy(x), pickle.loads(pickle.dumps(x)), dn.asarray(x, copy=True)
    x += 1.0
    for twin in twins:
        same(twin, host)
    same(-x, -(host + 1))
    same(abs(-x), host + 1)
    same(~(x > 5), ~(host + 1 > 5))
    assert "float32" in repr(x) and dn.get_backend() in repr(x)


def test_values_come_to_the_host_by_name_and_are_counted(place):
    x = dn.asarray([2.0, 3.0])
    with dn.transfers() as moved:
        assert float(x[0]) == 2.0 and int(x[1]) == 3 and bool(x[0] > 1) and x[1].item() == 3.0 and x.tolist() == [2, 3]
        assert [float(part) for part in x] == [2.0, 3.0] and [5, 6, 7][dn.asarray(1)] == 6
    assert moved.to_host == 8
    with dn.transfers("forbid"), pytest.raises(dn.TransferForbidden):
        float(x[0])
    for implicit in (
        np.asarray,
        np.sum,
        lambda x: x + np.ones(2),
        lambda x: np.ones(2) * x,
        lambda x: x * np.float64(2),
    ):
        with pytest.raises(TypeError, match=r"dn.to_numpy\(x\)|of another backend|support ufuncs"):
            implicit(x)


def test_the_host_array_is_not_shared(place):
    host = np.ones(3, np.float32)
    x = dn.asarray(host)
    x += 1.0
    back = dn.to_numpy(x)
    back += 1
    assert host.tolist() == [1, 1, 1] and back.tolist() == [3, 3, 3] and dn.to_numpy(x).tolist() == [2, 2, 2]


def test_arrays_of_two_backends_do_not_meet(place):
    x, other = dn.asarray([[1.0]]), dn.asarray([[1.0]], backend="strict")
    name = dn.get_backend()
    with pytest.raises(TypeError, match=f"dense: x lives on {name} and w on strict; expected all on one backend"):
        dn.ops.dense(x, other)
    for compute in (operator.add, lambda a, b: b - a):
        with pytest.raises(TypeError):
            compute(x, other)
    if len(ADAPTED) == 2:
        with dn.use_backend(next(a for a in ADAPTED if a != place)):
            other = dn.asarray([[1.0]])
        with pytest.raises(TypeError, match="expected one backend"):
            x + other


# -- functions ---------------------------------------------------------------------------------------------------------


def test_the_names_are_those_of_every_backend(xp):
    assert [name for name in (*FUNCTIONS, *DTYPES, *CONSTANTS) if not hasattr(xp, name)] == []
    assert {*SPECIAL, *REAL, *COUNTED, *TOGETHER} <= set(FUNCTIONS)
    with pytest.raises(AttributeError, match="has no 'vecdot': ops use only what all backends share"):
        _ = xp.vecdot


M, V = np.array([[0.5, 3.0, -1.5], [2.0, 0.25, -0.75]]), np.array([[1, 0, 2]])
FLAGS = np.array([[True, False, True], [False, False, True]])
CALLS = {
    "empty_like": None,
    "empty": None,
    "zeros": lambda xp, a: xp.zeros((2, 3)),
    "ones": lambda xp, a: xp.ones((2,), dtype="int32"),
    "full": lambda xp, a: (xp.full((2,), 3), xp.full((), 2.5), xp.full((2,), 1, dtype="float32"))[a(0).ndim],
    "zeros_like": lambda xp, a: xp.zeros_like(a(M)),
    "ones_like": lambda xp, a: xp.ones_like(a(M), dtype="float32"),
    "full_like": lambda xp, a: xp.full_like(a(M), 2.5),
    "arange": lambda xp, a: xp.arange(7, -2, -2),
    "eye": lambda xp, a: xp.eye(3),
    "asarray": lambda xp, a: xp.asarray(a(M), dtype="float32"),
    "ascontiguousarray": lambda xp, a: xp.ascontiguousarray(a(M).T),
    "reshape": lambda xp, a: xp.reshape(a(M), (-1,)),
    "permute_dims": lambda xp, a: xp.permute_dims(a(M), (1, 0)),
    "moveaxis": lambda xp, a: xp.moveaxis(a(X), 0, -1),
    "swapaxes": lambda xp, a: xp.swapaxes(a(X), 0, -1),
    "concat": lambda xp, a: xp.concat([a(M), a(V)], axis=0),
    "stack": lambda xp, a: xp.stack([a(M), a(M)], axis=-1),
    "flip": lambda xp, a: xp.flip(a(M), axis=1),
    "roll": lambda xp, a: xp.roll(a(M), 1, axis=1),
    "squeeze": lambda xp, a: xp.squeeze(a(V)),
    "expand_dims": lambda xp, a: xp.expand_dims(a(M), axis=1),
    "broadcast_to": lambda xp, a: xp.broadcast_to(a(V), (2, 3)),
    "broadcast_arrays": lambda xp, a: xp.broadcast_arrays(a(V), a(M))[0],
    "tile": lambda xp, a: xp.tile(a(M), (2, 1)),
    "repeat": lambda xp, a: xp.repeat(a(M), 2, axis=1),
    "where": lambda xp, a: xp.where(a(FLAGS), a(V), 0.5),
    "take": lambda xp, a: xp.take(a(M), a(V)) if a(0).ndim else xp.take(a(M), a(V), axis=1),
    "take_along_axis": lambda xp, a: xp.take_along_axis(a(M), a(np.array([[2, 0], [1, 1]])), axis=1),
    "clip": lambda xp, a: xp.clip(a(M), -1.0, 1.0),
    "matmul": lambda xp, a: xp.matmul(a(M), a(M.T)),
    "tensordot": lambda xp, a: xp.tensordot(a(M), a(V), axes=((1,), (1,))),
    "einsum": lambda xp, a: xp.einsum("ij,kj->ki", a(M), a(M[:1])),
    "result_type": None,
    "power": lambda xp, a: xp.power(xp.abs(a(M)), 2.5),
    "copysign": lambda xp, a: xp.copysign(a(np.abs(M)), a(M)),
    "hypot": lambda xp, a: xp.hypot(a(M), a(M)),
    "sqrt": lambda xp, a: xp.sqrt(xp.abs(a(M))),
    "argsort": lambda xp, a: xp.argsort(a(M), axis=1),
    "sum": lambda xp, a: xp.sum(a(M), axis=(0, 1), keepdims=True),
    "mean": lambda xp, a: xp.mean(a(V), axis=1),
    "any": lambda xp, a: xp.any(a(FLAGS), axis=1),
    "all": lambda xp, a: xp.all(a(FLAGS), axis=0),
    "argmax": lambda xp, a: xp.argmax(a(FLAGS), axis=1),
    "cumsum": lambda xp, a: xp.cumsum(a(M), axis=1),
    "count_nonzero": lambda xp, a: xp.count_nonzero(a(V)),
    "logical_not": lambda xp, a: xp.logical_not(a(FLAGS)),
    **{
        name: lambda xp, a, name=name: getattr(xp, name)(a(V), a(np.array([[3, 1, 1]])))
        for name in ("bitwise_and", "bitwise_or", "bitwise_xor")
    },
    **{
        name: lambda xp, a, name=name: getattr(xp, name)(a(FLAGS), a(FLAGS[::-1].copy()))
        for name in ("logical_and", "logical_or", "logical_xor")
    },
    **{name: lambda xp, a, name=name: getattr(xp, name)(xp.abs(a(M))) for name in ("log", "log1p", "log2")},
}
TWO = set(
    "add subtract multiply divide floor_divide remainder maximum minimum equal not_equal less less_equal greater "
    "greater_equal".split()
)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_are_those_of_numpy(xp, name):
    if name in ("empty", "empty_like"):
        made = xp.empty((2, 3), dtype="int32") if name == "empty" else xp.empty_like(dn.asarray(M))
        assert (made.shape, made.dtype) == ((2, 3), np.dtype("int32" if name == "empty" else "float64"))
    elif name == "result_type":
        assert xp.result_type(dn.asarray(V), np.float32) == np.float64
    elif name in CALLS:
        call = CALLS[name]
        same(call(xp, dn.asarray), call(np, np.asarray))
    elif name in TWO:
        same(getattr(xp, name)(dn.asarray(M), dn.asarray(V + 1)), getattr(np, name)(M, V + 1))
        same(getattr(xp, name)(dn.asarray(M), 2), getattr(np, name)(M, 2))
    else:  # of one array
        same(getattr(xp, name)(dn.asarray(M)), getattr(np, name)(M))


def test_results_into_an_array_that_is_there(xp):
    x = dn.asarray(M)
    xp.maximum(x, 1.0, out=x)
    same(x, np.maximum(M, 1.0))


def test_whole_numbers_have_roots_and_means(xp):
    for name in ("sqrt", "exp", "mean", "std"):
        same(getattr(xp, name)(dn.asarray(V)), getattr(np, name)(V))
    same(xp.sum(dn.asarray(FLAGS)), np.sum(FLAGS))
    same(xp.max(dn.asarray(SAMPLES["uint8"])), np.max(SAMPLES["uint8"]))
    assert xp.where(dn.asarray(FLAGS), 1.0, 0.0).dtype == np.float64
    same(xp.isfinite(dn.asarray(FLAGS)), np.isfinite(FLAGS))
