"""The two kinds of layers that most layers are: an op with its options, and one with w and b."""

from __future__ import annotations

import pytest

import dualnet as dn
from dualnet.layers.bases import OpLayer, WeightedLayer


class Power(OpLayer):
    """xⁿ, an op of a user's own."""

    @staticmethod
    def op(x, n):
        y = x**n
        return y, dn.Pullback("power", lambda dy: dy * n * x ** (n - 1), y, x=x)

    def __init__(self, n=2):
        self.n = n


class Rows(WeightedLayer):
    def __init__(self, use_bias=True, initializer="ones"):
        self._set_weights(use_bias, initializer)

    def build(self, input_shape, draw):
        self._build_weights(draw, (input_shape[-1], 2), 2, fan_in=input_shape[-1], fan_out=2)

    def forward(self, x, train=False):
        y, way = dn.ops.dense(x, *self._weights(x))
        return y, dn.Pullback("rows", lambda dy: (lambda dx, *grads: (dx, dict(zip("wb", grads))))(*way(dy)), y)


def test_the_constructors_arguments_are_the_ops_options(backend):
    layer = Power(3).init((2,), dtype="float64")
    y, pullback = layer.forward(dn.asarray([[2.0, -1.0]], "float64"))
    dx, gradients = pullback(y)
    assert dn.to_numpy(y).tolist() == [[8.0, -1.0]] and dn.to_numpy(dx).tolist() == [[96.0, -3.0]]
    assert gradients == {} and pullback.op == "Power" and repr(layer) == "Power(n=3)"
    dn.check.gradient(layer)


@pytest.mark.parametrize("use_bias", [True, False])
def test_weights_and_a_bias_that_starts_at_0(backend, use_bias):
    layer = Rows(use_bias).init((3,))
    assert list(layer.parameters()) == ["w", "b"][: 1 + use_bias] and (layer.b is not None) == use_bias
    assert dn.to_numpy(layer(dn.asarray([[1.0, 2.0, 3.0]]))).tolist() == [[6.0, 6.0]]
    dn.check.gradient(layer)


def test_a_network_of_16_bits_computes_with_copies(backend):
    layer = Rows().init((3,), dtype="float16")
    w, b = layer._weights(dn.asarray([[1.0, 2.0, 3.0]], "float16"))
    assert (w.dtype.name, b.dtype.name, layer.w.dtype.name) == ("float16", "float16", "float32")
    with pytest.raises(TypeError, match="^dense: .*list"):  # said by the op
        layer.forward([[1.0, 2.0, 3.0]])


def test_wrong_arguments():
    with pytest.raises(TypeError, match="^Rows: use_bias must be True or False, got 'no'"):
        Rows("no")
    with pytest.raises(ValueError, match="^Rows: unknown initializer 'he'"):
        Rows(initializer="he")
