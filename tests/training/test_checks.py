"""What fit tells before its first step: a batch that will not do, and a loss that does what a layer has done."""

from __future__ import annotations

import functools

import numpy as np
import pytest

import dualnet as dn

X, T = np.ones((9, 2, 2, 1), np.float32), np.zeros(9, int)


@pytest.mark.parametrize(
    "layers",
    [
        lambda: [dn.Flatten(), dn.Sequential([dn.Dense(3), dn.BatchNorm()]), dn.Dense(2)],
        lambda: [dn.Flatten(), dn.Sequential([dn.Residual(dn.Identity()), dn.BatchNorm()]), dn.Dense(2)],
        lambda: [
            dn.GlobalAveragePool2D(keepdims=True),
            dn.Sequential([dn.ReLU(), dn.BatchNorm()]),
            dn.Flatten(),
            dn.Dense(2),
        ],
    ],
)
def test_one_example_left_over_is_told_before_the_first_step(backend, layers):
    net, optimizer = dn.Sequential(layers()), dn.SGD(lr=0.1)
    with pytest.raises(
        ValueError, match=r"9 examples in batches of 4 leave one over, and layer 1.1 \(BatchNorm\) needs"
    ):
        net.fit(X, T, batch_size=4, optimizer=optimizer, verbose=0)
    assert optimizer.steps == 0
    net.fit(X, T, batch_size=5, optimizer=optimizer, verbose=0)


def test_maps_of_several_positions_have_enough(backend):
    net = dn.Sequential([dn.BatchNorm(), dn.Flatten(), dn.Dense(2)])
    net.fit(X, T, batch_size=4, verbose=0)


@pytest.mark.parametrize(
    "layer, loss, targets",
    [
        (dn.Softmax, "softmax_cross_entropy", T),
        (dn.Softmax, functools.partial(dn.losses.softmax_cross_entropy, label_smoothing=0.1), T),
        (dn.Sigmoid, "binary_cross_entropy", np.zeros((9, 2))),
    ],
)
def test_a_layer_that_the_loss_contains_is_warned_of(layer, loss, targets):
    chain = [dn.Flatten(), dn.Dense(2)]
    with pytest.warns(
        UserWarning, match=f"ends with {layer.__name__}, and [a-z_]*entropy does that itself.*Leave the layer"
    ):
        dn.Sequential([*chain, dn.Sequential([layer()])]).fit(X, targets, loss=loss, verbose=0)
    dn.Sequential([*chain, dn.LogSoftmax()]).fit(X, T, verbose=0)  # a second time it changes nothing
    dn.Sequential([*chain, layer()]).fit(X, np.zeros((9, 2)), loss="mean_squared_error", verbose=0)


def test_a_frozen_batch_norm_needs_no_second_example(backend):
    class Frozen(dn.Sequential):
        def forward(self, x, train=False, need_dx=True):
            return super().forward(x, False, need_dx)

    net = dn.Sequential([dn.Flatten(), Frozen([dn.BatchNorm()]), dn.Dense(2)]).init(X.shape[1:])
    optimizer, begun = dn.SGD(lr=0.1), []
    net.fit(X, T, batch_size=4, optimizer=optimizer, callbacks=lambda run: begun.append(run.step), verbose=0)
    assert begun == [3]


def test_an_optimizer_for_each_network():
    def network():
        return dn.Sequential([dn.Flatten(), dn.Dense(2)])

    optimizer, net = dn.Adam(), network()
    net.fit(X, T, optimizer=optimizer, verbose=0)
    net.fit(X, T, optimizer=optimizer, verbose=0)  # it goes on
    with pytest.warns(UserWarning, match="the network is new, and Adam has made 2 steps.*an optimizer for each"):
        network().fit(X, T, optimizer=optimizer, verbose=0)
