"""Activations as layers: each is its op, with the op's options; errors of constructors."""

from __future__ import annotations

import numpy as np
import pytest
from oracles import on_device

import dualnet as dn

INF, NAN = float("inf"), float("nan")
LAYERS = [
    (dn.ReLU(), "relu", {}),
    (dn.LeakyReLU(), "leaky_relu", {}),
    (dn.LeakyReLU(0.2), "leaky_relu", {"alpha": 0.2}),
    (dn.ELU(), "elu", {}),
    (dn.ELU(0.7), "elu", {"alpha": 0.7}),
    (dn.GELU(), "gelu", {}),
    (dn.GELU(approximate=True), "gelu", {"approximate": True}),
    (dn.SiLU(), "silu", {}),
    (dn.Mish(), "mish", {}),
    (dn.Sigmoid(), "sigmoid", {}),
    (dn.Tanh(), "tanh", {}),
    (dn.Softplus(), "softplus", {}),
    (dn.Softmax(), "softmax", {}),
    (dn.Softmax(axis=1), "softmax", {"axis": 1}),
    (dn.LogSoftmax(), "log_softmax", {}),
    (dn.LogSoftmax(-2), "log_softmax", {"axis": -2}),
]


@pytest.mark.parametrize("layer, op, options", LAYERS, ids=lambda v: repr(v))
def test_layer_is_its_op(backend, rng, layer, op, options):
    layer.init((3, 4, 5))
    x, dy = on_device(rng.standard_normal((2, 2, 3, 4, 5)).astype(np.float32))
    y, pullback = layer.forward(x, train=True)
    want, way = getattr(dn.ops, op)(x, **options)
    dx, grads = pullback(dy)
    np.testing.assert_array_equal(dn.to_numpy(y), dn.to_numpy(want))
    np.testing.assert_array_equal(dn.to_numpy(layer(x)), dn.to_numpy(want))
    np.testing.assert_array_equal(dn.to_numpy(dx), dn.to_numpy(way(dy)))
    assert grads == {} and layer.parameters() == {} and layer.state_dict() == {}
    assert layer.output_shape((3, 4, 5)) == (3, 4, 5)
    again = type(layer)(**layer.config())
    assert repr(again) == repr(layer) and again.config() == layer.config()
    assert pullback.op == type(layer).__name__ and list(pullback.saved) == list(way.saved)


STRANGE = [None, "0.1", NAN, INF, -1, -1e-9, (0.1, 0.2), [], {}, object(), 1j, 10**400, True, np.ones(2)]


@pytest.mark.parametrize("layer", [dn.LeakyReLU, dn.ELU])
@pytest.mark.parametrize("alpha", STRANGE, ids=lambda v: type(v).__name__ + repr(v)[:8])
def test_strange_slopes_are_refused(layer, alpha):
    with pytest.raises((TypeError, ValueError), match=f"{layer.__name__}: alpha"):
        layer(alpha)


@pytest.mark.parametrize("value", [None, "yes", 1, 0.0, (True,)])
def test_strange_options_are_refused(value):
    with pytest.raises(TypeError, match="GELU: approximate"):
        dn.GELU(value)
    if not isinstance(value, int):
        with pytest.raises(TypeError, match="Softmax: axis"):
            dn.Softmax(value)


def test_softmax_layer_does_not_mix_examples():
    with pytest.raises(ValueError, match="LogSoftmax: axis 0 is the batch"):
        dn.LogSoftmax(0)
    for axis in (2, -2, 10**18):
        with pytest.raises(ValueError, match=r"Softmax: the input \(N, 3\) has no axis"):
            dn.Softmax(axis).init((3,))


def test_options_are_python_numbers():
    assert type(dn.ELU(np.float64(0.5)).alpha) is float
