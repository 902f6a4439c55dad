"""Layers that convolve: shapes, gradients by name, depthwise, multiply-adds, errors."""

from __future__ import annotations

import numpy as np
import pytest
from oracles import error, on_device, tau

import dualnet as dn

LAYERS = [
    (dn.Conv2D(4, 3), (6, 7, 3)),
    (dn.Conv2D(4, (2, 3), stride=2, padding="same", dilation=2, groups=2, mode="convolution"), (6, 7, 4)),
    (dn.Conv2D(4, 3, padding=((1, 0), (2, 1)), use_bias=False), (6, 7, 3)),
    (dn.Conv2DTranspose(6, 3, stride=2, padding="same", groups=2), (4, 3, 4)),
    (dn.Conv2DTranspose(3, (3, 2), stride=(2, 3), padding=1, output_padding=(1, 2), use_bias=False), (4, 3, 2)),
    (dn.DepthwiseConv2D(3, depth_multiplier=2, padding="same"), (6, 7, 3)),
    (dn.SeparableConv2D(5, 3, stride=2, padding="full"), (6, 7, 3)),
    (dn.SeparableConv2D(5, 2, depth_multiplier=3, use_bias=False, mode="convolution"), (6, 7, 3)),
]


@pytest.mark.parametrize("layer, shape", LAYERS, ids=[repr(layer)[:60] for layer, _ in LAYERS])
def test_layers(backend, rng, layer, shape):
    """Shape inference, both checks, and every parameter's gradient under its own name."""
    layer = layer.copy().init(shape, seed=3, dtype="float64")
    x = dn.asarray(rng.standard_normal((2, *shape)))
    y, pullback = layer.forward(x, train=True)
    assert tuple(y.shape[1:]) == layer.output_shape(shape)
    assert np.array_equal(dn.to_numpy(layer(x)), dn.to_numpy(y))
    dx, grads = pullback(y)
    assert list(grads) == list(layer.parameters()) and dx.shape == x.shape
    assert all(g.shape == layer.parameters()[name].shape for name, g in grads.items())
    dn.check.gradient(layer)
    if not isinstance(layer, dn.SeparableConv2D):  # linear in each of x, w and b
        dn.check.adjoint(layer)


def test_depthwise_is_one_convolution_per_channel(backend, rng):
    layer = dn.DepthwiseConv2D(3, depth_multiplier=2, use_bias=False).init((5, 5, 3), dtype="float64")
    x = rng.standard_normal((1, 5, 5, 3))
    y, w = dn.to_numpy(layer(dn.asarray(x))), dn.to_numpy(layer.w.value)
    for c in range(3):
        own, _ = dn.ops.conv2d(*on_device([x[..., c : c + 1], w[..., 2 * c : 2 * c + 2]]))
        assert error(y[..., 2 * c : 2 * c + 2], dn.to_numpy(own)) <= tau("float64", 9)


def test_multiply_adds():
    assert dn.Conv2D(16, 5).multiply_adds((14, 14, 6)) == 10 * 10 * 16 * 25 * 6
    assert dn.Conv2D(16, 3, groups=2, stride=2, padding="same").multiply_adds((14, 14, 6)) == 7 * 7 * 16 * 9 * 3
    assert dn.DepthwiseConv2D(3, padding="same").multiply_adds((8, 8, 4)) == 8 * 8 * 4 * 9
    assert dn.SeparableConv2D(5, 3, padding="same").multiply_adds((8, 8, 4)) == 8 * 8 * 4 * (9 + 5)
    assert dn.Conv2DTranspose(3, 4, stride=2, padding="same").multiply_adds((7, 7, 8)) == 7 * 7 * 8 * 16 * 3


def test_a_chain_takes_the_relu_along(backend, rng):
    """Behind a convolution ReLU runs in its pass; another ReLU behind that is a layer as ever."""
    x = dn.asarray(rng.standard_normal((2, 9, 8, 3)))
    net = dn.Sequential([dn.Conv2D(4, 3), dn.ReLU(), dn.Conv2D(2, 3), dn.ReLU(), dn.ReLU()])
    net.init((9, 8, 3), dtype="float64")
    y, pullback = net.forward(x, train=True)
    plain = x
    for layer in net:
        plain = layer(plain)
    assert np.array_equal(dn.to_numpy(y), dn.to_numpy(plain))
    assert np.array_equal(dn.to_numpy(net(x)), dn.to_numpy(plain))
    assert list(pullback.children) == list("01234")
    dn.check.gradient(net)


@pytest.mark.parametrize("kind", [dn.Conv2D, dn.Conv2DTranspose])
def test_groups_of_a_layer_divide_its_channels_and_filters(kind):
    with pytest.raises(ValueError, match=f"{kind.__name__}: groups=3 must divide filters=4"):
        kind(4, 1, groups=3)
    with pytest.raises(ValueError, match=f"{kind.__name__}: groups=2 must divide the 5 channels"):
        kind(4, 1, groups=2).init((6, 6, 5))


BAD = [None, "three", float("nan"), 1e18, -1, 0, (1, 2, 3), (), 2.5, [1], True, object()]
ARGUMENTS = {
    dn.Conv2D: "filters kernel_size stride dilation groups padding initializer mode",
    dn.Conv2DTranspose: "filters kernel_size stride dilation groups padding output_padding initializer",
    dn.DepthwiseConv2D: "depth_multiplier kernel_size stride dilation padding initializer mode",
    dn.SeparableConv2D: "filters depth_multiplier kernel_size stride dilation padding initializer mode",
}
FUZZ = [
    (kind, name, value)
    for kind, names in ARGUMENTS.items()
    for name in names.split()
    for value in BAD
    if not (value == 0 and value is not False and "padding" in name)
]


@pytest.mark.parametrize("kind, name, value", FUZZ)
def test_constructors_refuse_nonsense(kind, name, value):
    good = {"kernel_size": 3} if kind is dn.DepthwiseConv2D else {"filters": 4, "kernel_size": 3}
    with pytest.raises((TypeError, ValueError)):
        kind(**{**good, name: value})


def test_a_separable_convolution_has_one_bias():
    """A second one, before the pointwise product, would add nothing."""
    assert set(dn.SeparableConv2D(5, 3).init((6, 6, 4)).parameters()) == {"depthwise.w", "pointwise.w", "pointwise.b"}
