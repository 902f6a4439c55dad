"""Piecewise activations: corners, the branch not taken, infinities, and one another."""

from __future__ import annotations

import numpy as np
import pytest
from oracles import error, on_device, tau

import dualnet as dn

INF, NAN = float("inf"), float("nan")


def both(name, x, dy, *more):
    """y and the gradients as NumPy arrays."""
    y, pullback = getattr(dn.ops, name)(*on_device([np.asarray(a) for a in (x, *more)]))
    found = pullback(dn.asarray(np.asarray(dy)))
    return dn.to_numpy(y), *map(dn.to_numpy, found if isinstance(found, tuple) else (found,))


def test_relu6_by_hand(backend):
    y, dx = both("relu6", [-INF, -1.0, 0.0, 3.0, 6.0, 7.0, INF, NAN], np.full(8, 2.0))
    np.testing.assert_array_equal(y, [0, 0, 0, 3, 6, 6, 6, NAN])
    assert dx.tolist() == [0, 0, 0, 2, 0, 0, 0, 0]


def test_hardsigmoid_by_hand(backend):
    y, dx = both("hardsigmoid", [-INF, -3.0, -1.5, 0.0, 3.0, INF, NAN], np.full(7, 12.0))
    np.testing.assert_array_equal(y, [0, 0, 0.25, 0.5, 1, 1, NAN])
    assert dx.tolist() == [0, 0, 2, 2, 0, 0, 0]


def test_hardswish_by_hand(backend):
    y, dx = both("hardswish", [-INF, -3.0, -1.5, 0.0, 3.0, INF, NAN], np.full(7, 2.0))
    np.testing.assert_array_equal(y, [0, 0, -0.375, 0, 3, INF, NAN])
    np.testing.assert_array_equal(dx, [0, 0, 0, 1, 2, 2, NAN])


@pytest.mark.parametrize("name, dead", [
    ("relu6", [-1.0, 0.0, 6.0, 9.0]),
    ("hardsigmoid", [-4.0, -3.0, 3.0, 9.0]),
    ("hardswish", [-4.0, -3.0, -INF, -9.0]),
])  # fmt: skip
def test_the_branch_not_taken_adds_exactly_0(backend, name, dead):
    for dy in (INF, -INF, NAN):
        assert not both(name, dead, np.full(4, dy))[1].any()


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_hardswish_is_x_times_hardsigmoid(backend, rng, dtype):
    x = (4 * rng.standard_normal((40, 5))).astype(dtype)
    gate = both("hardsigmoid", *2 * [x.astype("float64")])[0]
    assert error(both("hardswish", x, x)[0], x.astype("float64") * gate) <= tau(dtype, 1)


def test_prelu_by_hand(backend):
    """A slope for each channel, of any sign; 0 · −∞ is 0."""
    x = [[-2.0, -2.0, -INF], [4.0, 0.0, 5.0]]
    y, dx, dalpha = both("prelu", x, [[1.0, 10.0, 1.0], [100.0, INF, NAN]], [0.5, -3.0, 0.0])
    np.testing.assert_array_equal(y, [[-1, 6, 0], [4, 0, 5]])
    np.testing.assert_array_equal(dx, [[0.5, -30, 0], [100, -INF, NAN]])
    assert dalpha.tolist() == [-2, -20, -INF]  # what is not below zero adds exactly 0


def test_prelu_slopes_learn_from_what_is_below_zero_alone(backend, rng):
    x, dy = rng.standard_normal((2, 6, 3, 4))
    dy[x > 0] = NAN
    y, dx, dalpha = both("prelu", x, dy, np.full(4, 0.25))
    np.testing.assert_allclose(dalpha, np.where(x < 0, x * dy, 0).sum((0, 1)), rtol=1e-12)
    shared = both("prelu", x, dy, np.full(1, 0.25))
    assert np.array_equal(shared[0], y) and shared[2] == pytest.approx([dalpha.sum()], rel=1e-12)


def test_prelu_with_one_slope_is_leaky_relu(backend, rng):
    x, dy = rng.standard_normal((2, 5, 3))
    for ours, theirs in zip(both("prelu", x, dy, [0.2])[:2], dn.ops.leaky_relu(dn.asarray(x), alpha=0.2)):
        np.testing.assert_allclose(
            ours, dn.to_numpy(theirs(dn.asarray(dy)) if callable(theirs) else theirs), rtol=1e-15
        )


def test_prelu_keeps_one_axis_apart(backend):
    with pytest.raises(
        ValueError, match=r"prelu: alpha has shape \(2, 3\); for x \(4, 2, 3\) expected \(3,\), a slope"
    ):
        dn.ops.prelu(*on_device([np.ones((4, 2, 3)), np.ones((2, 3))]))
