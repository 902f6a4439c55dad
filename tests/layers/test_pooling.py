"""Pooling layers: each is its op, with the op's options; windows and maps that do not fit, errors of constructors."""

from __future__ import annotations

import numpy as np
import pytest

import dualnet as dn

LAYERS = {"max_pool2d": dn.MaxPool2D, "avg_pool2d": dn.AveragePool2D, "l2_pool2d": dn.L2Pool2D}
GLOBAL = {"global_avg_pool2d": dn.GlobalAveragePool2D, "global_max_pool2d": dn.GlobalMaxPool2D}
EVERY = [
    dn.MaxPool2D(2),
    dn.MaxPool2D((3, 2), stride=(2, 1), padding="same", ceil_mode=True),
    dn.AveragePool2D(3, stride=2, padding=1, ceil_mode=True, count_include_pad=True),
    dn.AveragePool2D(2, stride=1, dilation=(2, 1), padding=((1, 0), (0, 1))),
    dn.L2Pool2D(3, stride=2, padding="full"),
    dn.GlobalAveragePool2D(),
    dn.GlobalAveragePool2D(keepdims=True),
    dn.GlobalMaxPool2D(),
    dn.GlobalMaxPool2D(keepdims=True),
]


@pytest.mark.parametrize("layer", EVERY, ids=lambda layer: repr(layer)[:50])
def test_layers(backend, rng, layer):
    """Shape inference, the op's numbers, no parameters, and a copy made from the configuration."""
    again = type(layer)(**layer.config())
    assert again.config() == layer.config()
    again.init((6, 7, 3), dtype="float64")
    x = dn.asarray(rng.standard_normal((2, 6, 7, 3)))
    y, pullback = again.forward(x, train=True)
    assert tuple(y.shape[1:]) == layer.output_shape((6, 7, 3))
    dx, grads = pullback(y)
    assert dx.shape == x.shape and grads == {} and again.parameters() == {} and again.multiply_adds((6, 7, 3)) == 0
    assert np.array_equal(dn.to_numpy(again(x)), dn.to_numpy(y))
    op = next(op for op, kind in {**LAYERS, **GLOBAL}.items() if kind is type(layer))
    same, way = getattr(dn.ops, op)(x, **layer.config())
    assert np.array_equal(dn.to_numpy(same), dn.to_numpy(y))
    assert np.array_equal(dn.to_numpy(way(same)), dn.to_numpy(dx)) and pullback.op == type(layer).__name__


EMPTY = [
    ({"pool_size": 2, "padding": 2}, "output row 0 lie wholly .*5 rows, padding 2 . 2, pool_size 2"),
    ({"pool_size": 3, "stride": 1, "padding": ((2, 2), (2, 3))}, "output column 8 .*6 columns, padding 2 . 3"),
    ({"pool_size": (1, 2), "padding": ((0, 1), (0, 0)), "stride": 1}, "output row 5"),
]


@pytest.mark.parametrize("options, words", EMPTY)
def test_windows_wholly_in_the_padding(options, words):
    for kind in (dn.MaxPool2D, dn.AveragePool2D):
        with pytest.raises(ValueError, match=f"{kind.__name__}: .*{words}"):
            kind(**options).output_shape((5, 6, 3))


def test_layers_that_do_not_fit_their_input():
    with pytest.raises(ValueError, match="MaxPool2D: a window of height 4 .* does not fit on a map of height 3"):
        dn.MaxPool2D(4).init((3, 3, 1))
    for layer in (dn.MaxPool2D(2), dn.GlobalAveragePool2D()):
        with pytest.raises(ValueError, match=r"expected feature maps \(H, W, C\), got \(10,\)"):
            layer.init((10,))


BAD = [None, "three", float("nan"), 1e18, -1, 0, (1, 2, 3), (), 2.5, [1], True, object(), "2"]
ARGUMENTS = {"pool_size": BAD, "stride": BAD[1:], "dilation": BAD, "padding": [b for b in BAD if b is True or b != 0]}
FUZZ = [(name, value) for name, values in ARGUMENTS.items() for value in values]


@pytest.mark.parametrize("name, value", FUZZ)
def test_constructors_refuse_nonsense(name, value):
    for kind in LAYERS.values():
        with pytest.raises((TypeError, ValueError), match=f"{kind.__name__}: {name}"):
            kind(**{"pool_size": 2, name: value})


@pytest.mark.parametrize("value", [b for b in BAD if b is not True])
def test_flags_are_true_or_false(value):
    flags = [(kind, "ceil_mode", (2,)) for kind in LAYERS.values()] + [(dn.AveragePool2D, "count_include_pad", (2,))]
    for kind, name, pool_size in flags + [(kind, "keepdims", ()) for kind in GLOBAL.values()]:
        with pytest.raises(TypeError, match=f"{kind.__name__}: {name} must be True or False, got"):
            kind(*pool_size, **{name: value})
