"""Dropout layers: training alone drops, the state is two integers, seeds, whole channels, errors."""

from __future__ import annotations

import json

import numpy as np
import pytest
from oracles import on_device

import dualnet as dn


def test_layer_drops_in_training_alone(backend, rng):
    layer = dn.Dropout(0.5).init((30,), seed=4)
    (x,) = on_device([rng.standard_normal((6, 30)).astype(np.float32)])
    y, pullback = layer.forward(x)
    assert y is x and layer(x) is x and layer.step == 0
    dx, grads = pullback(x)
    assert dx is x and grads == {}
    first, way = layer.forward(x, train=True)
    second, _ = layer.forward(x, train=True)
    assert layer.step == 2
    np.testing.assert_array_equal(dn.to_numpy(first), dn.to_numpy(dn.ops.dropout(x, 0.5, key=(layer.seed, 0))[0]))
    np.testing.assert_array_equal(dn.to_numpy(second), dn.to_numpy(dn.ops.dropout(x, 0.5, key=(layer.seed, 1))[0]))
    dx, grads = way(x)  # the first mask, although another was drawn since
    np.testing.assert_array_equal(dn.to_numpy(dx), dn.to_numpy(first))
    assert grads == {} and way.op == "Dropout"


def masks(layer, steps=3):
    x = dn.asarray(np.ones((2, 4, 5, 6), np.float32))
    return [dn.to_numpy(layer.forward(x, train=True)[0]).tobytes() for _ in range(steps)]


def test_layer_state_is_two_integers_and_goes_on(backend):
    layer = dn.Dropout(0.3).init((4, 5, 6), seed=1)
    masks(layer)
    state = layer.state_dict()
    assert state == {"seed": layer.seed, "step": 3} and layer.parameters() == {}
    assert json.loads(json.dumps(state)) == state
    twin, loaded = layer.copy(), dn.Dropout(0.3).init((4, 5, 6), seed=2)
    loaded.load_state_dict({name: np.asarray(value) for name, value in state.items()})
    assert type(loaded.seed) is int and loaded.seed == layer.seed
    want = masks(layer)
    assert masks(loaded) == want and masks(twin) == want
    assert len(set(want)) == 3


def test_layer_seeds(backend):
    net = dn.Sequential([dn.Dropout(0.5), dn.Dropout(0.5)]).init((4, 5, 6), seed=0)
    again = dn.Sequential([dn.Dropout(0.5), dn.Dropout(0.5)]).init((4, 5, 6), seed=0)
    other = dn.Sequential([dn.Dropout(0.5), dn.Dropout(0.5)]).init((4, 5, 6), seed=1)
    assert masks(net[0]) == masks(again[0]) != masks(other[0])
    assert net[0].seed != net[1].seed
    net.init((4, 5, 6), seed=0)
    assert net[0].step == 0


def test_layer_masks_do_not_depend_on_the_backend():
    layer = dn.Dropout(0.5).init((4, 5, 6), seed=3)
    drawn = []
    for name in dn.available_backends():
        with dn.use_backend(name):
            drawn.append(masks(layer.copy()))
    assert all(mask == drawn[0] for mask in drawn)


def test_spatial_dropout_drops_whole_channels(backend):
    layer = dn.SpatialDropout2D(0.5).init((5, 6, 40), seed=2)
    x = dn.asarray(np.ones((8, 5, 6, 40), np.float32))
    y = dn.to_numpy(layer.forward(x, train=True)[0])
    assert (y == y[:, :1, :1, :]).all() and set(np.unique(y)) == {0.0, 2.0}
    assert len({row.tobytes() for row in y[:, 0, 0, :]}) == 8
    assert layer(x) is x and layer.output_shape((5, 6, 40)) == (5, 6, 40)
    with pytest.raises(ValueError, match="SpatialDropout2D: expected feature maps"):
        dn.SpatialDropout2D(0.5).init((40,))


def test_layer_is_written_as_it_is_made():
    assert repr(dn.Dropout(0.25)) == "Dropout(rate=0.25)"
    assert dn.SpatialDropout2D(np.float64(0.5)).config() == {"rate": 0.5}


@pytest.mark.parametrize("rate", [1.0, 1, -0.1, float("nan"), float("inf"), 2, 1e18, None, "0.5", (0.5,), True, 1j])
def test_rates_that_are_refused(rate):
    with pytest.raises((TypeError, ValueError), match="SpatialDropout2D: rate"):
        dn.SpatialDropout2D(rate)
    with pytest.raises((TypeError, ValueError), match="Dropout: rate"):
        dn.Dropout(rate)
