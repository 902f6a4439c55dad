"""ReLU6, hard sigmoid and hard swish are their ops; PReLU has slopes that learn, and are saved."""

from __future__ import annotations

import numpy as np
import pytest
from oracles import on_device

import dualnet as dn


@pytest.mark.parametrize(
    "layer, op", [(dn.ReLU6(), "relu6"), (dn.Hardsigmoid(), "hardsigmoid"), (dn.Hardswish(), "hardswish")]
)
def test_layer_is_its_op(backend, rng, layer, op):
    layer.init((3, 4, 5))
    x, dy = on_device(4 * rng.standard_normal((2, 2, 3, 4, 5)).astype(np.float32))
    y, pullback = layer.forward(x, train=True)
    want, way = getattr(dn.ops, op)(x)
    dx, grads = pullback(dy)
    np.testing.assert_array_equal(dn.to_numpy(y), dn.to_numpy(want))
    np.testing.assert_array_equal(dn.to_numpy(dx), dn.to_numpy(way(dy)))
    assert grads == {} and layer.parameters() == {} and layer.config() == {}


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_prelu_learns_its_slopes(backend, rng, shared, dtype):
    net = dn.Sequential([dn.PReLU(initial=0.1, shared=shared)]).init((5, 4), dtype=dtype)
    alpha = net[0].alpha
    assert alpha.shape == ((1,) if shared else (4,)) and alpha.dtype == "float32"
    assert np.allclose(dn.to_numpy(alpha.value), 0.1) and repr(net[0]).startswith("PReLU(initial=0.1")
    x, dy = on_device(rng.standard_normal((2, 3, 5, 4)).astype(dtype))
    y, pullback = net.forward(x, train=True)
    dx, grads = pullback(dy)
    want = dn.ops.prelu(x, alpha.value.astype(dtype))[1](dy)
    np.testing.assert_array_equal(dn.to_numpy(dx), dn.to_numpy(want[0]))
    assert list(grads) == ["0.alpha"]
    np.testing.assert_array_equal(dn.to_numpy(grads["0.alpha"]), dn.to_numpy(want[1]))
    dn.SGD(lr=0.1).step(net, grads)
    assert not np.array_equal(dn.to_numpy(alpha.value), np.full(alpha.shape, np.float32(0.1)))


def test_prelu_finds_the_slope_of_its_data(rng):
    """y = −0.3 x below zero."""
    x = rng.standard_normal((400, 2)).astype("float32")
    t = np.where(x > 0, x, -0.3 * x)
    net = dn.Sequential([dn.PReLU()]).init((2,))
    net.fit(x, t, epochs=20, optimizer=dn.Adam(lr=0.05), loss="mean_squared_error", verbose=0)
    np.testing.assert_allclose(dn.to_numpy(net[0].alpha.value), -0.3, atol=0.01)


@pytest.mark.parametrize("initial", [None, "0.1", True, float("nan"), float("inf"), (0.1,), 10**400])
def test_strange_slopes_are_refused(initial):
    with pytest.raises((TypeError, ValueError), match="PReLU: initial"):
        dn.PReLU(initial)
    with pytest.raises(TypeError, match="PReLU: shared"):
        dn.PReLU(shared=initial if initial is not True else 1)
