"""Layers that change a map's size or shape: each is its op; shapes that do not fit, errors of constructors."""

from __future__ import annotations

import numpy as np
import pytest

import dualnet as dn

LAYERS = [
    (dn.UpSampling2D(), "upsample2d"),
    (dn.UpSampling2D((3, 2), interpolation="bilinear"), "upsample2d"),
    (dn.ZeroPadding2D(), "zero_pad2d"),
    (dn.ZeroPadding2D(((1, 0), (2, 3))), "zero_pad2d"),
    (dn.ReflectionPadding2D((2, 1)), "reflect_pad2d"),
    (dn.Cropping2D(((1, 0), (2, 1))), "crop2d"),
    (dn.Reshape((3, -1)), "reshape"),
    (dn.Reshape(126), "reshape"),
    (dn.AdaptiveAveragePool2D((2, 3)), "adaptive_avg_pool2d"),
]


@pytest.mark.parametrize("layer, op", LAYERS, ids=lambda v: repr(v)[:50])
@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_layer_is_its_op(backend, rng, layer, op, dtype):
    """Shape inference, the op's numbers, no parameters, and a copy made from the configuration."""
    again = type(layer)(**layer.config())
    assert again.config() == layer.config() and repr(again) == repr(layer)
    again.init((6, 7, 3), dtype=dtype)
    x = dn.asarray(rng.standard_normal((2, 6, 7, 3)), dtype)
    y, pullback = again.forward(x, train=True)
    assert tuple(y.shape[1:]) == layer.output_shape((6, 7, 3))
    dx, grads = pullback(y)
    assert dx.shape == x.shape and grads == {} and again.parameters() == {} and again.multiply_adds((6, 7, 3)) == 0
    assert np.array_equal(dn.to_numpy(again(x)), dn.to_numpy(y))
    same, way = getattr(dn.ops, op)(x, **layer.config())
    assert np.array_equal(dn.to_numpy(same), dn.to_numpy(y))
    assert np.array_equal(dn.to_numpy(way(same)), dn.to_numpy(dx)) and pullback.op == type(layer).__name__


@pytest.mark.parametrize("layer, shape, words", [
    (dn.UpSampling2D(2), (10,), r"UpSampling2D: expected feature maps \(H, W, C\), got \(10,\)"),
    (dn.ZeroPadding2D(2), (10, 3), "ZeroPadding2D: expected feature maps"),
    (dn.ReflectionPadding2D(3), (3, 9, 1), "ReflectionPadding2D: padding=.* does not fit a map of 3 × 9"),
    (dn.Cropping2D((2, 1)), (4, 9, 1), "Cropping2D: cropping=.* leaves nothing of a map of 4 × 9"),
    (dn.Reshape((4, -1)), (3, 3, 2), "Reshape: an example of shape .* has 18 units, which do not fit shape=.4, -1."),
    (dn.AdaptiveAveragePool2D(2), (8,), "AdaptiveAveragePool2D: expected feature maps"),
])  # fmt: skip
def test_layers_that_do_not_fit_their_input(layer, shape, words):
    with pytest.raises(ValueError, match=words):
        layer.init(shape)
    assert layer.input_shape is None


@pytest.mark.parametrize("value", [None, "two", float("nan"), -1, (1, 2, 3), (), 2.5, True, object()])
def test_constructors_refuse_nonsense(value):
    for kind, name in [
        (dn.UpSampling2D, "size"),
        (dn.ZeroPadding2D, "padding"),
        (dn.ReflectionPadding2D, "padding"),
        (dn.Cropping2D, "cropping"),
        (dn.AdaptiveAveragePool2D, "output_size"),
    ]:
        with pytest.raises((TypeError, ValueError), match=f"{kind.__name__}: {name}"):
            kind(value)
    with pytest.raises(ValueError, match="UpSampling2D: interpolation"):
        dn.UpSampling2D(interpolation=value)


@pytest.mark.parametrize("shape", [None, "seven", (), (2.5,), (0, 3), (-1, -1), (-2,), (True, 3), 2.0, (None, 3)])
def test_reshape_refuses_nonsense(shape):
    with pytest.raises((TypeError, ValueError), match="Reshape: shape"):
        dn.Reshape(shape)


def test_an_encoder_and_a_decoder_learn_their_input(rng):
    """Every layer of this file in one network that is trained, copied and run."""
    decoder = [dn.Dense(18), dn.Reshape((3, 3, 2)), dn.UpSampling2D(2, interpolation="bilinear")]
    tidy = [dn.ReflectionPadding2D(2), dn.Conv2D(1, 3), dn.ZeroPadding2D(1), dn.Cropping2D(2), dn.UpSampling2D((1, 1))]
    net = dn.Sequential([dn.AdaptiveAveragePool2D(3), dn.Flatten(), *decoder, *tidy]).init((6, 6, 1))
    x = rng.standard_normal((20, 6, 6, 1)).astype("float32")
    history = net.fit(x, x, epochs=8, optimizer=dn.Adam(lr=0.01), loss="mean_squared_error", verbose=0)
    assert history["loss"][-1] < history["loss"][0]
    assert np.array_equal(net.copy().predict(x), net.predict(x))
