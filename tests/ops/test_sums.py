"""Sums along axes, against NumPy's in float64."""

from __future__ import annotations

import numpy as np
import pytest
from oracles import error, on_device, tau

import dualnet as dn
from dualnet.ops.sums import channel_sum, like, summed, wide, wide_dtype

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
def test_wide_and_like(backend, dtype, wanted):
    x = dn.asarray([1.5], dtype)
    assert wide_dtype(x) == wide(x).dtype == wanted
    back, again = like(x, wide(x), x)
    assert back.dtype == again.dtype == dtype and dn.to_numpy(back).tolist() == [1.5]


def test_the_order_of_axes_does_not_matter(backend, rng):
    (x,) = on_device([rng.standard_normal((6, 5, 4))], "float32")
    results = {dn.to_numpy(summed(x, axes)).tobytes() for axes in ((0, 1), (1, 0), [0, 1], iter((1, 0)))}
    assert len(results) == 1
