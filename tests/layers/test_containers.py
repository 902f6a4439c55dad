"""Chains, detours, branches, shared layers, and layers of two functions."""

from __future__ import annotations

import numpy as np
import pytest
from oracles import error, tau
from small_nets import batch, conv

import dualnet as dn
from dualnet.layers.watching import Watch


def squeeze(channels):
    """A gate for each channel, from the means of all of them (Hu et al. 2018)."""
    pool = dn.GlobalAveragePool2D(keepdims=True)
    return dn.Sequential([pool, dn.Dense(2), dn.Tanh(), dn.Dense(channels), dn.Sigmoid()])


NETS = {
    "chain": lambda: dn.Sequential([conv(3), dn.Conv2D(2, 2, stride=2)]),
    "nested chain": lambda: dn.Sequential([dn.Sequential([conv(3)]), dn.Sequential([conv(2), dn.Identity()])]),
    "detour": lambda: dn.Residual(dn.Sequential([conv(4), conv(2)])),
    "detour with a shortcut": lambda: dn.Residual(conv(5, stride=2), dn.Conv2D(5, 1, stride=2)),
    "branches added": lambda: dn.Parallel([conv(3), conv(3, 1), conv(3, 5)]),
    "branches averaged": lambda: dn.Parallel([conv(3), conv(3, 1)], merge="average"),
    "the largest branch": lambda: dn.Parallel([conv(3), conv(3, 1), conv(3)], merge="max"),
    "squeeze and excitation": lambda: dn.Parallel([conv(4), squeeze(4), conv(1)], merge="multiply"),
    "branches side by side": lambda: dn.Parallel([conv(3), dn.Identity(), conv(1, 1)], merge="concat"),
    "U-Net": lambda: dn.Sequential(
        [
            conv(3),
            dn.Parallel(
                [dn.Identity(), dn.Sequential([conv(4, 2, stride=2), dn.Conv2DTranspose(3, 2, stride=2)])], "concat"
            ),
            conv(2),
        ]
    ),
}


@pytest.mark.parametrize("name", NETS)
def test_gradients(backend, rng, name):
    net = NETS[name]().init((6, 4, 2), seed=2, dtype="float64")
    x = batch(rng, 6, 4, 2)
    y, pullback = net.forward(x, train=True)
    assert tuple(y.shape[1:]) == net.output_shape((6, 4, 2))
    assert np.array_equal(dn.to_numpy(net(x)), dn.to_numpy(y))
    dx, grads = pullback(y)
    assert list(grads) == list(net.parameters()) and dx.shape == x.shape
    dn.check.gradient(net)


def test_a_shared_layer_adds_up_its_gradients(backend, rng):
    """The shared network's gradient is the sum over two independent layers that happen to be equal."""
    shared = conv(2)
    tied = dn.Sequential([shared, shared]).init((4, 4, 2), dtype="float64")
    free = dn.Sequential([conv(2), conv(2)]).init((4, 4, 2), dtype="float64")
    for layer in free:
        layer.load_state_dict(shared.state_dict())
    x = batch(rng, 4, 4, 2)
    (y, way), (z, other) = tied.forward(x, train=True), free.forward(x, train=True)
    (dx, grads), (dz, parts) = way(y), other(z)
    assert list(tied.parameters()) == ["0.w", "0.b"] == list(grads)
    assert np.array_equal(dn.to_numpy(dx), dn.to_numpy(dz))
    for name in "wb":
        total = dn.to_numpy(parts[f"0.{name}"]) + dn.to_numpy(parts[f"1.{name}"])
        assert error(dn.to_numpy(grads[f"0.{name}"]), total) <= tau("float64", 32)
    dn.check.gradient(tied)


def test_sharing_across_nested_containers(backend):
    shared = conv(2)
    net = dn.Sequential([dn.Residual(shared), dn.Parallel([dn.Sequential([shared]), shared])]).init((4, 4, 2))
    assert list(net.parameters()) == ["0.layer.w", "0.layer.b"]
    assert list(net.state_dict()) == ["0.layer.w", "0.layer.b"]
    dn.check.gradient(net)


def test_a_shared_layer_needs_inputs_alike():
    shared = conv(3)
    with pytest.raises(ValueError, match="used in two places with different inputs, .4, 4, 2. and .4, 4, 3."):
        dn.Sequential([shared, shared]).init((4, 4, 2))


def test_two_forwards_before_a_backward(backend, rng):
    net = NETS["detour"]().init((6, 4, 2), dtype="float64")
    a, b = batch(rng, 6, 4, 2), batch(rng, 6, 4, 2)
    (ya, way_a), _ = net.forward(a, train=True), net.forward(b, train=True)
    late = way_a(ya)
    alone = net.forward(a, train=True)[1](ya)
    assert np.array_equal(dn.to_numpy(late[0]), dn.to_numpy(alone[0]))
    assert all(np.array_equal(dn.to_numpy(late[1][k]), dn.to_numpy(alone[1][k])) for k in late[1])


def test_need_dx_reaches_only_the_first_layer(backend, rng):
    net = dn.Sequential([dn.Sequential([conv(3), conv(2)]), conv(2)]).init((4, 4, 2), dtype="float64")
    x = batch(rng, 4, 4, 2)
    y, pullback = net.forward(x, train=True, need_dx=False)
    dx, grads = pullback(y)
    full = net.forward(x, train=True)[1](y)[1]
    assert dx is None
    assert all(np.array_equal(dn.to_numpy(grads[k]), dn.to_numpy(full[k])) for k in full)


def test_lambda(backend, rng):
    square = dn.Lambda(lambda x: x * x, lambda dy, x, y: 2.0 * dy * x)
    net = dn.Sequential([conv(3), square]).init((4, 4, 2), dtype="float64")
    assert net.output_shape((4, 4, 2)) == (4, 4, 3)
    dn.check.gradient(net)
    wrong = dn.Lambda(lambda x: x * x, lambda dy, x, y: dy * x).init((4, 4, 2))
    with pytest.raises(dn.check.CheckError, match="wrong"):
        dn.check.gradient(wrong)
    crooked = dn.Lambda(lambda x: x * x, lambda dy, x, y: dy[..., :1]).init((4, 4, 2))
    y, pullback = crooked.forward(batch(rng, 4, 4, 2))
    with pytest.raises(ValueError, match="backward returned shape .2, 4, 4, 1.; expected that of x"):
        pullback(y)


@pytest.mark.parametrize(
    "make, words",
    [
        (
            lambda: dn.Residual(conv(3)).init((4, 4, 2)),
            "the layer turns .4, 4, 2. into .4, 4, 3., the shortcut into .4, 4, 2.",
        ),
        (
            lambda: dn.Parallel([conv(3), conv(2)]).init((4, 4, 2)),
            "the branches have shapes .4, 4, 3., .4, 4, 2..*equal shapes",
        ),
        (lambda: dn.Parallel([conv(3), dn.Conv2D(3, 2)], "concat").init((4, 4, 2)), "equal heights and widths"),
        (lambda: dn.Parallel([conv(3)], merge="divide"), "merge must be one of 'add', .* got 'divide'"),
        (lambda: dn.Parallel([]), "expected at least one layer"),
        (
            lambda: dn.Sequential([conv(3), dn.Sequential([dn.Conv2D(2, 9)])]).init((4, 4, 2)),
            "layer 1 .Sequential.: layer 0 .Conv2D.: .*does not fit",
        ),
    ],
)
def test_what_cannot_be_put_together(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_the_functions_of_a_lambda_are_looked_at_when_it_is_made():
    with pytest.raises(TypeError, match=r"called as backward\(dy, x, y\), got \(dy\)"):
        dn.Lambda(lambda x: 2.0 * x, lambda dy: 2.0 * dy)
    with pytest.raises(TypeError, match=r"called as forward\(x\), got \(x, train\)"):
        dn.Lambda(lambda x, train: 2.0 * x, lambda dy, x, y: 2.0 * dy)
    dn.Lambda(np.tanh, lambda *given: given[0])  # what C says, and what takes anything, is believed


def test_a_sequence_of_layers():
    net = dn.Sequential([conv(3), dn.Identity()])
    assert len(net) == 2 and net[1] is list(net)[1] and isinstance(net[0], dn.Conv2D)
    assert [name for name, _ in dn.Sequential([net]).walk()] == ["", "0", "0.0", "0.1"]


def test_the_shortcut_runs_first_whether_layers_are_watched_or_not(backend, rng):
    """A layer that both branches share, and that has a state, must see them in one order: so must all ranks."""
    x, found = dn.asarray(rng.random((5, 3)) + 7, "float64"), []
    for watched in (False, True):
        shared = dn.BatchNorm(momentum=0.5)
        branches = [dn.Sequential([dn.Dense(4), shared]) for _ in range(2)]
        net = dn.Residual(branches[0], shortcut=branches[1]).init((3,), seed=0, dtype="float64")
        watch = Watch(net, lambda visit, run, x: run(x)) if watched else None
        net.forward(x, train=True)
        if watch:
            watch.end()
        found.append([dn.to_numpy(shared.moving_mean), dn.to_numpy(shared.moving_variance)])
    assert np.allclose(found[0], found[1], rtol=1e-12)
