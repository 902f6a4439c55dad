"""Running statistics wait for the end of the pass, and move together."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
from small_nets import batch, conv

import dualnet as dn
from dualnet.backend import calls
from dualnet.shim import backend_of


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


class Trying(dn.Layer):
    """Goes on if the network inside fails."""

    def __init__(self, net):
        self.net = net

    def children(self):
        return {}

    def forward(self, x, train=False):
        with contextlib.suppress(ZeroDivisionError):
            self.net.forward(x, train=train)
        return x, dn.Pullback("Trying", lambda dy: (dy, {}), x)


def test_statistics_of_an_inner_pass_that_failed_do_not_move(backend, rng):
    inner = dn.Sequential([dn.BatchNorm(), dn.Lambda(lambda x: x, lambda dy, x, y: dy)]).init((3,), dtype="float64")
    inner[1].function = lambda x: 1 / 0
    net = dn.Sequential([dn.BatchNorm(), Trying(inner)]).init((3,), dtype="float64")
    before, outer = moved(inner), moved(net)
    net.forward(dn.asarray(rng.random((5, 3)) + 7), train=True)
    assert all(np.array_equal(a, b) for a, b in zip(moved(inner), before, strict=True))
    assert not np.array_equal(moved(net)[0], outer[0]), "those of the pass around it do"


class To(dn.Layer):
    """Goes on with another backend."""

    def __init__(self, backend):
        self.backend = backend

    def forward(self, x, train=False):
        here, y = backend_of(x).name, dn.asarray(dn.to_numpy(x), backend=self.backend)
        return y, dn.Pullback("To", lambda dy: (dn.asarray(dn.to_numpy(dy), backend=here), {}), y)


def test_layers_on_two_backends_move_each_on_its_own(rng):
    if "strict" not in dn.available_backends():
        pytest.skip("there is one backend only")
    first, second = dn.BatchNorm(momentum=0.5), dn.BatchNorm(momentum=0.5)
    x = rng.random((5, 3)) + 7
    with dn.use_backend("strict"):
        net = dn.Sequential([first, To("numpy"), second]).init((3,), dtype="float64")
        second.to("numpy")
        before = calls.copy()
        net.forward(dn.asarray(x), train=True)
    assert np.allclose(dn.to_numpy(first.moving_mean), 0.5 * x.mean(0), rtol=1e-12)
    assert np.allclose(dn.to_numpy(second.moving_variance), 0.5 + 0.5 * 1.25, rtol=1e-3)
    assert sum(times for (name, _), times in (calls - before).items() if name == "follow") == 2
    assert [backend_of(layer.moving_mean).name for layer in (first, second)] == ["strict", "numpy"]
