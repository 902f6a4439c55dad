"""What the kernels check before they serve a call: dtypes and groups, the amount of work, and finite numbers."""

from __future__ import annotations

import numpy as np
import pytest

from dualnet.backends.cpu import guards
from dualnet.geometry import windows


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_two_arrays_of_one_floating_dtype_are_served(dtype):
    x = np.ones(3, dtype)
    assert guards.served(x, x[:1], 1)
    assert not guards.served(x, x, 2), "groups"
    assert not guards.served(x, x.astype("float16"), 1) and not guards.served(x.astype("float16"), x, 1)


@pytest.mark.parametrize("dtype", ["float16", "int32", "complex64", ">f4", ">f8"])
def test_other_dtypes_are_not_served(dtype):
    x = np.ones(3, dtype)
    assert not guards.served(x, x, 1)


def test_few_counts_multiplications():
    at = windows("conv2d", (8, 16), (4, 2), stride=(4, 2))  # 16 windows of 8 taps
    assert guards.FEW == 16 * 8 * 8192
    assert guards.few(at, 1, 64, 127) and not guards.few(at, 1, 64, 128)
    assert guards.few(at, 127, 8, 8) and not guards.few(at, 128, 8, 8)


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf])
def test_one_number_that_is_not_finite_is_seen(rng, odd):
    x = rng.standard_normal((5, 6, 7), dtype="f4")
    assert guards.finite(x) and guards.finite(x[:, ::2]) and guards.finite(x[:0])
    x[4, 5, 6] = odd
    assert not guards.finite(x) and guards.finite(x[:4]) and not guards.finite(x[:, ::-1].T)


def test_the_squares_may_overflow_and_give_no_warning():
    """A map of huge numbers counts as not finite, so that the next kernel is asked."""
    assert not guards.finite(np.full(9, 1e20, np.float32)) and guards.finite(np.full(9, 1e20))


def test_squares(rng):
    x = rng.standard_normal((8, 9))
    assert guards.squares(x) == pytest.approx((x**2).sum(), rel=1e-14)
