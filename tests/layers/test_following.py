"""Running statistics wait for the end of the pass, and move together."""

from __future__ import annotations

import numpy as np
import pytest
from small_nets import batch, conv

import dualnet as dn
from dualnet.backend import calls


def moved(net):
    return [dn.to_numpy(value) for name, value in net.state_dict().items() if "moving" in name]


def test_all_layers_of_a_network_move_at_once(backend, rng):
    """As each moves by itself, and with one call for all."""
    block = dn.Residual(dn.Sequential([conv(3), dn.BatchNorm(momentum=0.5)]))
    net = dn.Sequential([conv(3), dn.BatchNorm(), dn.ReLU(), block, dn.BatchNorm(momentum=0.0)])
    net.init((6, 4, 2), dtype="float64")
    x, before = batch(rng, 6, 4, 2), calls.copy()
    _, pullback = net.forward(x, train=True)
    assert sum(times for (name, _), times in (calls - before).items() if name == "follow") == 1
    ways = [pullback.children["1"], pullback.children["3"].children["layer"].children["1"], pullback.children["4"]]
    n = 2 * 6 * 4
    for layer, way in zip([net[1], net[3].layer[1], net[4]], ways, strict=True):
        mean, variance = (dn.to_numpy(way.saved[name]) for name in ("mean", "variance"))
        keep = layer.momentum
        assert np.allclose(dn.to_numpy(layer.moving_mean), (1 - keep) * mean, rtol=1e-12)
        assert np.allclose(dn.to_numpy(layer.moving_variance), keep + (1 - keep) * variance * n / (n - 1), rtol=1e-12)


def test_a_layer_that_stands_twice_moves_twice(backend, rng):
    shared = dn.BatchNorm(momentum=0.5)
    net = dn.Sequential([shared, dn.ReLU(), shared]).init((3,), dtype="float64")
    x = dn.asarray(rng.random((5, 3)) + 7)
    _, pullback = net.forward(x, train=True)
    first, second = (dn.to_numpy(pullback.children[place].saved["mean"]) for place in ("0", "2"))
    assert np.allclose(dn.to_numpy(shared.moving_mean), 0.5 * (0.5 * first) + 0.5 * second, rtol=1e-12)


def test_nothing_moves_if_the_pass_fails_or_only_infers(backend, rng):
    net = dn.Sequential([dn.BatchNorm(), dn.Lambda(lambda x: x, lambda dy, x, y: dy)]).init((3,), dtype="float64")
    x, before = dn.asarray(rng.random((5, 3))), moved(net)
    net.forward(x)
    net[1].function = lambda x: 1 / 0
    with pytest.raises(ZeroDivisionError):
        net.forward(x, train=True)
    assert all(np.array_equal(a, b) for a, b in zip(moved(net), before, strict=True))
    net[0].forward(x, train=True)
    assert not np.array_equal(moved(net)[0], before[0]), "and what failed is forgotten"
