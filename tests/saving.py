"""Shared by the tests of files: a small network with everything that a file must carry, and comparisons."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import pytest

import dualnet as dn

needs_safetensors = pytest.mark.skipif(find_spec("safetensors") is None, reason='needs pip install "dualnet[io]"')
BOTH = pytest.mark.parametrize("suffix", [".npz", pytest.param(".safetensors", marks=needs_safetensors)])


def small(seed: int = 0) -> dn.Sequential:
    """A network with everything that a file must carry: nesting, running statistics, counters, options."""
    block = dn.Sequential([dn.Conv2D(3, 3, padding="same", use_bias=False), dn.BatchNorm(momentum=0.75)])
    net = dn.Sequential(
        [
            dn.Conv2D(3, (3, 2), stride=(2, 1), padding=((1, 0), (2, 1))),
            dn.Residual(block),
            dn.Parallel([dn.MaxPool2D(2), dn.AveragePool2D(2)], merge="concat"),
            dn.Dropout(0.25),
            dn.Flatten(),
            dn.Dense(4, initializer="glorot_uniform"),
        ]
    )
    return net.init((6, 5, 2), seed=seed)


def trained(net: dn.Layer, steps: int = 2) -> dn.Layer:
    """After some steps forward: statistics and counters have left their starts."""
    x = dn.asarray(np.random.default_rng(1).random((3, *net.input_shape)), net.dtype)
    for _ in range(steps):
        net.forward(x, train=True)
    return net


def predictions(net: dn.Layer) -> np.ndarray:
    x = np.random.default_rng(2).random((4, *net.input_shape))
    return dn.to_numpy(net(dn.asarray(x, net.dtype)))


def same_bits(a: dn.Layer, b: dn.Layer) -> bool:
    mine, other = a.state_dict(), b.state_dict()
    return list(mine) == list(other) and all(
        (dn.to_numpy(mine[k]).tobytes() == dn.to_numpy(other[k]).tobytes() and mine[k].dtype == other[k].dtype)
        if hasattr(mine[k], "dtype")
        else mine[k] == other[k]
        for k in mine
    )
