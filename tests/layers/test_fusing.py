"""Batch norm folded into the layer before it: the same outputs, fewer layers, and the network itself untouched."""

from __future__ import annotations

import numpy as np
import pytest
from oracles import error, tau

import dualnet as dn


def trained(net, shape, rng, dtype="float64"):
    """Running statistics that are not those of the start."""
    net.init(shape, seed=1, dtype=dtype)
    for _ in range(3):
        net.forward(dn.asarray(1 + 2 * rng.standard_normal((8, *shape))).astype(dtype), train=True)
    for name, parameter in net.parameters().items():
        if name.endswith(("gamma", "beta")):
            parameter.value = dn.asarray(rng.uniform(0.5, 1.5, parameter.shape), dtype)
    return net


NETS = {
    "convolution": (lambda: [dn.Conv2D(4, 3), dn.BatchNorm(), dn.ReLU()], 2),
    "without a bias": (lambda: [dn.Conv2D(4, 3, use_bias=False), dn.BatchNorm()], 1),
    "true convolution in groups": (lambda: [dn.Conv2D(4, 3, groups=2, mode="convolution"), dn.BatchNorm()], 1),
    "depthwise": (lambda: [dn.DepthwiseConv2D(3, depth_multiplier=2), dn.BatchNorm(center=False)], 1),
    "dense": (lambda: [dn.Flatten(), dn.Dense(5), dn.BatchNorm(scale=False)], 2),
    "first of all": (lambda: [dn.BatchNorm(), dn.Conv2D(3, 3)], 2),
    "twice": (lambda: [dn.Conv2D(3, 3), dn.BatchNorm(), dn.BatchNorm()], 1),
    "after ReLU": (lambda: [dn.Conv2D(3, 3), dn.ReLU(), dn.BatchNorm()], 3),
}


@pytest.mark.parametrize("name", NETS)
def test_the_outputs_stay(backend, rng, name):
    layers, left = NETS[name]
    net = trained(dn.Sequential(layers()), (6, 7, 4), rng)
    before = {key: np.array(dn.to_numpy(v)) for key, v in net.state_dict().items()}
    fused = net.fuse()
    x = dn.asarray(rng.standard_normal((3, 6, 7, 4)))
    assert error(dn.to_numpy(fused(x)), dn.to_numpy(net(x))) <= tau("float64", 100)
    assert len(fused) == left and len(net) == len(layers())
    assert all(np.array_equal(before[key], dn.to_numpy(v)) for key, v in net.state_dict().items())


def test_a_whole_residual_network(backend, rng, tmp_path):
    net = trained(dn.models.resnet20(), (8, 8, 3), rng, "float32")
    fused = net.fuse()
    assert not [layer for _, layer in fused.walk() if isinstance(layer, dn.BatchNorm)]
    x = dn.asarray(rng.standard_normal((2, 8, 8, 3), dtype="f4"))
    assert error(dn.to_numpy(fused(x)), dn.to_numpy(net(x))) <= 20 * tau("float32", 576)
    again = dn.load(fused.save(tmp_path / "fused.npz"))
    assert np.array_equal(dn.to_numpy(again(x)), dn.to_numpy(fused(x)))


def test_shared_layers_stay_as_they_are(backend, rng):
    norm, shared = dn.BatchNorm(), dn.Conv2D(4, 3, padding="same")
    for layers in ([dn.Conv2D(4, 1), norm, dn.Conv2D(4, 1), norm], [shared, dn.BatchNorm(), shared]):
        net = trained(dn.Sequential(layers), (6, 7, 4), rng)
        fused, x = net.fuse(), dn.asarray(rng.standard_normal((3, 6, 7, 4)))
        assert len(fused) == len(layers)
        assert np.array_equal(dn.to_numpy(fused(x)), dn.to_numpy(net(x)))


def test_before_init():
    with pytest.raises(ValueError, match="fuse: Sequential has no parameters yet"):
        dn.Sequential([dn.Conv2D(2, 3)]).fuse()


def test_a_layer_whose_forward_is_replaced_is_not_folded():
    net = dn.Sequential([dn.Conv2D(4, 3), dn.BatchNorm()]).init((6, 6, 1))
    net[0].forward = dn.Conv2D.forward.__get__(net[0])
    assert len(net.fuse()) == 2
