"""Sums along axes, against NumPy's in float64; and formulas that are rounded once."""

from __future__ import annotations

import numpy as np
import pytest
from oracles import error, on_device, tau

import dualnet as dn
from dualnet.ops.sums import channel_sum, narrow, rounded_once, rounded_to, summed, wide, wide_dtype

DTYPES = ["float16", "float32", "float64"]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("axes", [None, 0, -1, (1,), (0, 2), (2, 0), [3, 1, 0], range(3), (0, 1, 2, 3), (-1, 0)])
def test_summed(backend, rng, dtype, axes):
    x = rng.standard_normal((4, 3, 5, 2)).astype(dtype)
    along = axes if axes is None or isinstance(axes, int) else tuple(axes)
    for keepdims in (True, False):
        want = x.astype("float64").sum(axis=along, keepdims=keepdims)
        got = dn.to_numpy(summed(dn.asarray(x), axes, keepdims))
        assert got.dtype == dtype and got.shape == want.shape
        assert np.abs(got - want).max() <= tau(dtype, x.size) * np.abs(x.astype("float64")).sum()


@pytest.mark.parametrize("shape", [(3, 2), (4, 3, 5, 2), (0, 3, 3, 2), (5,)])
def test_channel_sum(backend, rng, shape):
    x = rng.standard_normal(shape)
    want = x.sum(axis=tuple(range(x.ndim - 1)))
    assert error(dn.to_numpy(channel_sum(dn.asarray(x, "float64"))), want) <= tau("float64", x.size)


def test_float16_adds_up_in_float32(backend):
    """In float16 itself a sum of ones stops at 2048, and the second of these is inf on the way."""
    ones = dn.asarray(np.ones((64, 64, 2)), "float16")
    for total in (summed(ones, (0, 1), keepdims=False), channel_sum(ones)):
        assert total.dtype == "float16" and dn.to_numpy(total).tolist() == [4096, 4096]
    up_and_down = dn.asarray([[6e4, 6e4], [6e4, 6e4], [-6e4, -6e4], [-6e4, -6e4]], "float16")
    assert dn.to_numpy(channel_sum(up_and_down)).tolist() == [0, 0]
    assert dn.to_numpy(summed(up_and_down, (0, 1))).tolist() == [[0]]
    half = dn.asarray(np.full((60000, 2), 1.0), "float16")
    assert dn.to_numpy(summed(wide(half))).tolist() == [[120000]], "the range of what was wide stays"


@pytest.mark.parametrize("dtype, wanted", [("float16", "float32"), ("float32", "float32"), ("float64", "float64")])
def test_there_and_back(backend, dtype, wanted):
    x = dn.asarray([1.5], dtype)
    assert wide_dtype(x) == wide(x).dtype == wanted
    back = narrow(wide(x), x)
    one, other = rounded_to((x.dtype, np.dtype(wanted)), wide(x), wide(x))
    assert back.dtype == one.dtype == dtype and other.dtype == wanted
    assert dn.to_numpy(back).tolist() == dn.to_numpy(one).tolist() == [1.5]


@pytest.mark.parametrize("dtype, inside", [("float16", "float32"), ("float32", "float32"), ("float64", "float64")])
def test_a_formula_is_rounded_once(backend, dtype, inside):
    """16 bits come in as float32, also as options; what is not float32 comes out as it is."""
    seen = []

    @rounded_once
    def formula(x, factor, *, shift):
        seen.extend(a.dtype.name for a in (x, shift))
        return x * factor - shift, x > 1.0, None

    x = dn.asarray([1.0, 60000.0], dtype)
    y, above, nothing = formula(x, 2.0, shift=x)
    assert seen == [inside, inside] and nothing is None
    assert y.dtype == dtype and dn.to_numpy(y).tolist() == [1, 60000]  # 2 · 60000 is inf in float16
    assert above.dtype == "bool" and dn.to_numpy(above).tolist() == [False, True]


def test_a_formula_does_not_take_a_namesake_for_its_kernels(backend):
    @rounded_once
    def rectify(x):
        return x - 3.0

    assert dn.to_numpy(rectify(dn.asarray([1.0], "float16"))).tolist() == [-2]


def test_the_order_of_axes_does_not_matter(backend, rng):
    (x,) = on_device([rng.standard_normal((6, 5, 4))], "float32")
    results = {dn.to_numpy(summed(x, axes)).tobytes() for axes in ((0, 1), (1, 0), [0, 1], iter((1, 0)))}
    assert len(results) == 1
