"""Layers that normalise: running statistics, forward twice, without γ or β, in a network, errors."""

from __future__ import annotations

import numpy as np
import pytest
import reference
from oracles import error, on_device, tau

import dualnet as dn


def test_running_statistics(backend, rng):
    """The batch is normalised by 1/n; 1/(n − 1) goes into the running variance."""
    layer = dn.BatchNorm(momentum=0.8).init((5, 3), dtype="float64")
    mean, variance = np.zeros(3), np.ones(3)
    for _ in range(3):
        x = rng.normal(2.0, 3.0, (4, 5, 3))
        y, _ = layer.forward(dn.asarray(x), train=True)
        wanted = (x - x.mean((0, 1))) / np.sqrt(x.var((0, 1)) + 1e-5)
        assert error(dn.to_numpy(y), wanted) < 1e-14
        mean = 0.8 * mean + 0.2 * x.mean((0, 1))
        variance = 0.8 * variance + 0.2 * x.var((0, 1), ddof=1)
    assert error(dn.to_numpy(layer.moving_mean), mean) < 1e-15
    assert error(dn.to_numpy(layer.moving_variance), variance) < 1e-15
    before = layer.moving_mean
    assert error(dn.to_numpy(layer(dn.asarray(x))), (x - mean) / np.sqrt(variance + 1e-5)) < 1e-14
    assert layer.moving_mean is before, "inference moved the running statistics"


def test_statistics_are_replaced_and_never_written_into(backend, rng):
    layer = dn.BatchNorm().init((3,))
    first = layer.state_dict()
    y, pullback = layer.forward(dn.asarray(rng.standard_normal((4, 3)), "float32"), train=False)
    dy = dn.asarray(rng.standard_normal((4, 3)), "float32")
    wanted = dn.to_numpy(pullback(dy)[0]).copy()
    kept = {name: dn.to_numpy(value).copy() for name, value in first.items()}
    layer.forward(dn.asarray(rng.standard_normal((4, 3)) + 7, "float32"), train=True)
    assert all(np.array_equal(dn.to_numpy(first[name]), kept[name]) for name in kept)
    assert not np.array_equal(dn.to_numpy(layer.moving_mean), kept["moving_mean"])
    assert np.array_equal(dn.to_numpy(pullback(dy)[0]), wanted)


def test_a_forward_pass_that_fails_leaves_the_statistics(backend):
    layer = dn.BatchNorm().init((3,))
    before = layer.moving_mean, layer.moving_variance
    with pytest.raises(ValueError, match="1 value"):
        layer.forward(dn.asarray(np.zeros((1, 3), np.float32)), train=True)
    assert (layer.moving_mean, layer.moving_variance) == before


@pytest.mark.parametrize("make", [dn.BatchNorm, dn.LayerNorm, lambda: dn.GroupNorm(2)])
def test_forward_twice_before_backward(backend, rng, make):
    layer = make().init((2, 4), dtype="float64")
    layer.gamma.value, layer.beta.value = on_device([rng.standard_normal(4), rng.standard_normal(4)])
    xs = [rng.standard_normal((3, 2, 4)) for _ in range(2)]
    dys = [rng.standard_normal((3, 2, 4)) for _ in range(2)]
    passes = [layer.forward(dn.asarray(x), train=True) for x in xs]
    gamma, beta = dn.to_numpy(layer.gamma.value).copy(), dn.to_numpy(layer.beta.value).copy()
    layer.gamma.value, layer.beta.value = on_device([np.ones(4), np.zeros(4)])  # an optimizer was here
    name = {"BatchNorm": "batch_norm", "LayerNorm": "layer_norm", "GroupNorm": "group_norm"}[type(layer).__name__]
    options = {"groups": 2} if name == "group_norm" else {}
    for x, dy, (_, pullback) in reversed(list(zip(xs, dys, passes, strict=True))):
        dx, grads = pullback(dn.asarray(dy))
        wanted = getattr(reference, f"{name}_backward")(dy, x, gamma, beta, **options)
        for got, exact in zip((dx, grads["gamma"], grads["beta"]), wanted, strict=True):
            assert error(dn.to_numpy(got), exact) < 1e-13


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("center, scale", [(True, False), (False, True), (False, False)])
@pytest.mark.parametrize("kind, first", [(dn.BatchNorm, ()), (dn.LayerNorm, ()), (dn.GroupNorm, (2,))])
def test_without_gamma_or_beta(backend, rng, kind, first, center, scale, train):
    layer, full = kind(*first, center=center, scale=scale).init((4,)), kind(*first).init((4,))
    learned = {name for name, there in (("beta", center), ("gamma", scale)) if there}
    assert set(layer.parameters()) == learned
    x, dy = (dn.asarray(rng.standard_normal((3, 4)), "float32") for _ in range(2))
    (y, pullback), (whole, all_of_it) = layer.forward(x, train), full.forward(x, train)
    dx, grads = pullback(dy)
    assert set(grads) == learned and y.dtype == np.float32
    assert np.array_equal(dn.to_numpy(y), dn.to_numpy(whole))
    assert np.array_equal(dn.to_numpy(dx), dn.to_numpy(all_of_it(dy)[0]))


def test_in_a_network(backend, rng):
    net = dn.Sequential([dn.BatchNorm(), dn.LayerNorm(axis=(1, 2)), dn.GroupNorm(2)]).init((3, 4))
    assert {name: p.shape for name, p in net.parameters().items()} == {
        **{"0.gamma": (4,), "0.beta": (4,), "1.gamma": (3, 4), "1.beta": (3, 4), "2.gamma": (4,), "2.beta": (4,)}
    }
    assert {"0.moving_mean", "0.moving_variance"} < set(net.state_dict())
    y, pullback = net.forward(dn.asarray(rng.standard_normal((5, 3, 4)), "float32"), train=True)
    dx, grads = pullback(y)
    assert set(grads) == set(net.parameters())
    assert {a.dtype.name for a in (y, dx, *grads.values(), *net.state_dict().values())} == {"float32"}
    other = dn.Sequential([dn.BatchNorm(), dn.LayerNorm(axis=(1, 2)), dn.GroupNorm(2)]).init((3, 4), seed=1)
    other.load_state_dict(net.state_dict())
    x = dn.asarray(rng.standard_normal((2, 3, 4)), "float32")
    assert np.array_equal(dn.to_numpy(net(x)), dn.to_numpy(other(x)))
    y = dn.to_numpy(net(x))
    net.to("strict")
    limit = 0.0 if backend in ("numpy", "strict") else tau("float32", 12)  # another library rounds in its own way
    assert error(dn.to_numpy(net(dn.asarray(dn.to_numpy(x), backend="strict"))), y) <= limit


BAD = [None, "three", float("nan"), 1e18, -1, -0.5, (1, 2, 3), [], ..., 10**30, {"a": 1}]


@pytest.mark.parametrize("bad", BAD, ids=repr)
def test_constructors_refuse(bad):
    for make in (
        lambda: dn.BatchNorm(momentum=bad),
        lambda: dn.BatchNorm(epsilon=bad),
        lambda: dn.BatchNorm(center=bad),
        lambda: dn.LayerNorm(scale=bad),
        lambda: dn.GroupNorm(bad),
    ):
        with pytest.raises((TypeError, ValueError), match="Norm: "):
            make()
    for wrong in (None, "channels", 1.5, True, (), (1, 1), 0, (1, 0), 10**30):
        with pytest.raises((TypeError, ValueError), match="LayerNorm"):
            dn.LayerNorm(axis=wrong)


def test_layers_that_do_not_fit_their_input():
    with pytest.raises(ValueError, match="groups=3 must divide the 4 channels"):
        dn.GroupNorm(3).init((5, 5, 4))
    with pytest.raises(ValueError, match="axis=3 does not fit"):
        dn.LayerNorm(axis=3).init((5, 4))
    with pytest.raises(ValueError, match="init"):
        dn.BatchNorm().forward(dn.asarray(np.zeros((2, 3), np.float32)), train=True)


def test_numpy_hyper_parameters_promote_nothing(backend):
    x = dn.asarray(np.arange(12.0).reshape(4, 3), "float32")
    layer = dn.BatchNorm(momentum=np.float64(0.5), epsilon=np.float64(1e-3)).init((3,))
    y, pullback = layer.forward(x, train=True)
    dx, grads = pullback(y)
    assert {a.dtype.name for a in (y, dx, *grads.values(), *layer.state_dict().values())} == {"float32"}
    assert type(layer.momentum) is float and type(layer.epsilon) is float
    assert repr(layer) == "BatchNorm(momentum=0.5, epsilon=0.001)"


# -- instance and RMS norm ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_instance_norm_is_a_group_norm_of_single_channels(backend, rng, dtype):
    layer, twin = (make.init((4, 3, 5), dtype=dtype) for make in (dn.InstanceNorm(1e-3), dn.GroupNorm(5, 1e-3)))
    values = rng.uniform(0.5, 2, 5), rng.standard_normal(5)
    for each in (layer, twin):
        each.gamma.value, each.beta.value = on_device(values, each.gamma.dtype)
    x = dn.asarray(3 + rng.standard_normal((2, 4, 3, 5)), dtype)
    (y, pullback), (want, way) = layer.forward(x, train=True), twin.forward(x, train=True)
    assert np.array_equal(dn.to_numpy(y), dn.to_numpy(want)) and pullback.op == "InstanceNorm"
    (dx, grads), (same, same_grads) = pullback(y), way(want)
    assert np.array_equal(dn.to_numpy(dx), dn.to_numpy(same)) and list(grads) == ["gamma", "beta"]
    assert all(np.array_equal(dn.to_numpy(grads[name]), dn.to_numpy(same_grads[name])) for name in grads)
    if dtype == "float64":
        z = dn.to_numpy(dn.InstanceNorm(center=False, scale=False).init((4, 3, 5), dtype=dtype)(x))
        assert np.abs(z.mean((1, 2))).max() < 1e-14 and np.abs(z.std((1, 2)) - 1).max() < 1e-4
    assert repr(layer) == "InstanceNorm(epsilon=0.001)" and type(layer)(**layer.config()).config() == layer.config()


def test_instance_norm_needs_several_places():
    for shape in [(5,), (1, 1, 5)]:
        with pytest.raises(ValueError, match="InstanceNorm: in an input .* each channel has only one value"):
            dn.InstanceNorm().init(shape)


@pytest.mark.parametrize("axis, inside", [(-1, (5,)), ((1, 3), (4, 5))])
@pytest.mark.parametrize("scale", [True, False])
def test_rms_norm_is_its_op(backend, rng, axis, inside, scale):
    layer = dn.RMSNorm(axis, 1e-3, scale).init((4, 3, 5), dtype="float64")
    gamma = np.ones(inside)
    if scale:
        gamma = rng.uniform(0.5, 2, inside)
        layer.gamma.value = dn.asarray(gamma)
    x = dn.asarray(rng.standard_normal((2, 4, 3, 5)))
    (y, pullback), (want, way) = layer.forward(x), dn.ops.rms_norm(x, dn.asarray(gamma), axis=axis, epsilon=1e-3)
    (dx, grads), (same, dgamma) = pullback(y), way(want)
    assert np.array_equal(dn.to_numpy(y), dn.to_numpy(want)) and np.array_equal(dn.to_numpy(dx), dn.to_numpy(same))
    assert list(grads) == list(layer.parameters()) == (["gamma"] if scale else []) and pullback.op == "RMSNorm"
    assert not scale or np.array_equal(dn.to_numpy(grads["gamma"]), dn.to_numpy(dgamma))
    assert type(layer)(**layer.config()).config() == layer.config()


@pytest.mark.parametrize("kind", [dn.LayerNorm, dn.RMSNorm])
def test_axes_that_are_none(kind):
    for axis in (0, (), (1, 1), (1, 0), None, "1", 1.0):
        with pytest.raises((TypeError, ValueError), match=f"{kind.__name__}: axis"):
            kind(axis)
    with pytest.raises(ValueError, match=f"{kind.__name__}: axis=4 does not fit"):
        kind(4).init((4, 3, 5))
