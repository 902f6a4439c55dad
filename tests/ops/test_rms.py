"""RMS norm: what it keeps, its neighbours, and huge numbers."""

from __future__ import annotations

import numpy as np
import pytest
from oracles import error, on_device, tau

import dualnet as dn


def run(x, gamma, dy, **options):
    y, pullback = dn.ops.rms_norm(*on_device([x, gamma]), **options)
    return [dn.to_numpy(a) for a in (y, *pullback(dn.asarray(dy)))]


@pytest.mark.parametrize("axis, inside", [(-1, (5,)), ((1, 3), (3, 5)), ((2, -1), (4, 5))])
def test_the_root_mean_square_becomes_1(backend, rng, axis, inside):
    x = 7.0 * rng.standard_normal((2, 3, 4, 5))
    y, dx, dgamma = run(x, np.ones(inside), x, axis=axis, epsilon=1e-12)
    axes = axis if isinstance(axis, tuple) else (axis,)
    np.testing.assert_allclose(np.sqrt((y**2).mean(axes)), 1.0, rtol=1e-10)
    assert dgamma.shape == inside and np.abs((dx * x).sum(axes)).max() < 1e-9  # a longer x has the same y


def test_where_means_are_0_it_is_layer_norm(backend, rng):
    x, dy = rng.standard_normal((2, 6, 8))
    x -= x.mean(1, keepdims=True)
    gamma = rng.uniform(0.5, 2, 8)
    y, _, dgamma = run(x, gamma, dy)
    same, pullback = dn.ops.layer_norm(*on_device([x, gamma, np.zeros(8)]))
    assert error(y, dn.to_numpy(same)) <= tau("float64", 8)
    assert error(dgamma, dn.to_numpy(pullback(dn.asarray(dy))[1])) <= tau("float64", 8)


def test_on_the_host_huge_numbers_are_normalised(rng):
    """Their squares are no numbers of float32."""
    with dn.use_backend("numpy"):
        x, dy = rng.standard_normal((2, 4, 6)).astype("float32")
        gamma = np.ones(6, "float32")
        want = run(x, gamma, dy, epsilon=1e-12)
        big = x.copy()
        big[1:3] *= np.float32(2.0**100)
        y, dx, dgamma = run(big, gamma, dy, epsilon=1e-12)
        dx[1:3] *= np.float32(2.0**100)
        for got, right in zip((y, dx, dgamma), want):
            assert error(got, right) <= 4 * tau("float32", 6)


def test_16_bits_are_added_up_in_float32(backend):
    """Σ x² of 5000 ones stops at 2048 in float16."""
    y, *_ = run(np.ones((1, 5000), "float16"), np.ones(5000, "float16"), np.ones((1, 5000), "float16"))
    assert (y == 1).all()
