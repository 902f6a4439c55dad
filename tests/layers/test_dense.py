"""The layers Dense and Flatten: their ops with parameters, the first draw, multiply-adds, errors."""

from __future__ import annotations

import numpy as np
import pytest

import dualnet as dn


@pytest.mark.parametrize("options", [{}, {"use_bias": False}, {"initializer": "orthogonal"}])
@pytest.mark.parametrize("shape", [(4,), (3, 4)])
def test_dense_layer(backend, rng, options, shape):
    layer = dn.Dense(5, **options)
    layer = dn.Dense(**layer.config()).init(shape, seed=3, dtype="float64")
    x = dn.asarray(rng.standard_normal((2, *shape)))
    y, pullback = layer.forward(x, train=True)
    assert tuple(y.shape[1:]) == layer.output_shape(shape) == (*shape[:-1], 5)
    assert np.array_equal(dn.to_numpy(layer(x)), dn.to_numpy(y))
    dx, grads = pullback(y)
    assert list(grads) == list(layer.parameters()) == (["w", "b"] if layer.use_bias else ["w"])
    assert dx.shape == x.shape and all(g.shape == layer.parameters()[n].shape for n, g in grads.items())
    assert layer.forward(x, train=True, need_dx=False)[1](y)[0] is None
    same, way = dn.ops.dense(x, layer.w.value, layer.b.value if layer.use_bias else None)
    assert np.array_equal(dn.to_numpy(same), dn.to_numpy(y))
    assert np.array_equal(dn.to_numpy(way(y)[1]), dn.to_numpy(grads["w"]))


def test_the_draw_scales_with_the_inputs():
    """He: variance 2 / fan_in, whatever the number of units; biases start at 0."""
    layer = dn.Dense(50).init((800,), dtype="float64")
    w = dn.to_numpy(layer.w.value)
    assert abs(w.var() * 800 / 2 - 1) < 0.05 and not dn.to_numpy(layer.b.value).any()
    w = dn.to_numpy(dn.Dense(50, initializer="glorot_normal").init((800,), dtype="float64").w.value)
    assert abs(w.var() * 850 / 2 - 1) < 0.05


def test_flatten_layer(backend, rng):
    layer = dn.Flatten().init((3, 4, 2), dtype="float64")
    x = dn.asarray(rng.standard_normal((2, 3, 4, 2)))
    y, pullback = layer.forward(x, train=True)
    dx, grads = pullback(y)
    assert layer.output_shape((3, 4, 2)) == (24,) == tuple(y.shape[1:]) and grads == {} and layer.parameters() == {}
    assert np.array_equal(dn.to_numpy(dx), dn.to_numpy(x))


def test_multiply_adds():
    assert dn.Dense(10).multiply_adds((84,)) == 840
    assert dn.Dense(10).multiply_adds((6, 84)) == 5040
    assert dn.Flatten().multiply_adds((3, 3, 2)) == 0


BAD = [None, "three", float("nan"), 1e18, -1, 0, (1, 2), (), 2.5, [1], True, object()]


@pytest.mark.parametrize("value", BAD)
def test_constructors_refuse_nonsense(value):
    with pytest.raises((TypeError, ValueError), match="Dense: units"):
        dn.Dense(value)
    with pytest.raises((TypeError, ValueError)):
        dn.Dense(3, initializer=value)
