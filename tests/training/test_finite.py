"""``check_finite=True``: the error names the epoch, the batch and where the first NaN or infinity came from."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from bars import bars, small

import dualnet as dn


def fit(net, x, t, **options):
    options = {"batch_size": 8, "epochs": 2, "optimizer": dn.SGD(lr=0.01), "shuffle": False, "verbose": 0} | options
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # NaN in x is warned of as well
        return net.fit(x, t, check_finite=True, **options)


def state(net):
    return {n: np.array(dn.to_numpy(v) if hasattr(v, "shape") else v) for n, v in net.state_dict().items()}


def stops(words, net, x, t, **options):
    with pytest.raises(FloatingPointError, match=rf"^fit: {words}.*undone.*Find where a NaN comes from"):
        fit(net, x, t, **options)


def test_finite_numbers_train_as_without_it(backend):
    x, t = bars(24)
    one, other = small(), small()
    fit(one, x, t)
    other.fit(x, t, batch_size=8, epochs=2, optimizer=dn.SGD(lr=0.01), shuffle=False, verbose=0)
    assert all(np.array_equal(v, state(other)[name]) for name, v in state(one).items())


def test_the_input_and_the_batch_that_holds_it(backend):
    x, t = bars(24)
    x[17, 2, 2] = np.nan
    x[18, 2, 2] = np.inf
    net = small()
    stops(r"epoch 1, batch 3: the batch of inputs x holds 1 NaN and 1 infinity among 288 numbers", net, x, t)
    twin = small()
    fit(twin, x[:16], t[:16], epochs=1)
    assert all(np.array_equal(v, state(twin)[name]) for name, v in state(net).items())  # two steps, and no third


def test_the_targets(backend):
    x, t = bars(16)
    target = t[:, None].astype("float32")
    target[3] = np.nan
    net = dn.Sequential([dn.Flatten(), dn.Dense(1)])
    stops("epoch 1, batch 1: the batch of targets t holds 1 NaN among 8", net, x, target, loss="mean_squared_error")


class Breaks(dn.Layer):
    """Spoils one number in the first pass of an epoch's second batch, forward or backward."""

    def __init__(self, forward=False, backward=False):
        self.spoils = forward, backward

    def config(self):
        return {"forward": self.spoils[0], "backward": self.spoils[1]}

    def forward(self, x, train=False):
        xp = dn.backend.backend_of(x).xp
        huge = dn.to_numpy(xp.max(x)) > 50  # the second batch holds a mark

        def spoilt(a):
            return a + xp.where(xp.arange(a.size).reshape(a.shape) == 0, float("inf"), 0.0).astype(a.dtype)

        y = spoilt(x) if huge and self.spoils[0] else x
        return y, dn.Pullback("breaks", lambda dy: (spoilt(dy) if huge and self.spoils[1] else dy, {}), y)


@pytest.mark.parametrize("forward", [True, False])
def test_the_innermost_layer_and_its_way(backend, forward):
    x, t = bars(24)
    x[9, 0, 0] = 99.0
    breaks = Breaks(forward, not forward)
    net = dn.Sequential([dn.Identity(), dn.Residual(dn.Sequential([dn.Identity(), breaks])), dn.Flatten(), dn.Dense(2)])
    net = dn.Sequential([dn.Conv2D(1, 1, initializer="ones"), net])
    where = r"layer 1.1.layer.1 \(Breaks\)"
    words = f"the output of {where}" if forward else f"in the backward pass, the gradient of its input in {where}"
    stops(f"epoch 1, batch 2: {words} holds 1 infinity among 288", net, x, t)


def test_a_parameter_that_was_spoilt_before(backend):
    x, t = bars(16)
    net = small()
    w = np.array(dn.to_numpy(net[-1].w.value))
    w[0, 1] = np.nan
    net[-1].w.value = dn.asarray(w)
    stops(r"epoch 1, batch 1: the output of layer 6 \(Dense\) holds 8 NaN.*Its w held 1 NaN among 32", net, x, t)


def test_a_step_that_is_too_long(backend):
    x, t = bars(16)
    net = small()
    before = state(net)
    stops("epoch 1, batch 1: the step leaves .* in 0.w, though the gradients", net, x, t, optimizer=dn.SGD(lr=1e39))
    assert all(np.array_equal(v, state(net)[name]) for name, v in before.items())


def test_a_loss_that_is_infinite(backend):
    x, t = bars(16)
    net = dn.Sequential([dn.Flatten(), dn.Dense(1)])
    stops("epoch 1, batch 1: the loss is inf", net, x * 1e25, t[:, None], loss="mean_squared_error")


def test_what_a_loss_scale_mends_is_no_error_and_what_it_cannot_is(backend):
    x, t = bars(16)
    scale = dn.LossScale(2.0**24)
    fit(small(dtype="float16"), x, t, loss_scale=scale)
    assert scale.state_dict()["skipped"] > 0
    words = (
        r"epoch 1, batch 1: in the backward pass, the gradient of .* holds|epoch 1, batch 1: the gradient of the loss"
    )
    stops(f"(?:{words})", small(dtype="float16"), x, t, loss_scale=dn.FixedLossScale(2.0**24))
    words = r"epoch 1, batch 1: the output of layer 0 \(Conv2D\) holds .* infinit.*float16 is 65504"
    stops(words, small(dtype="float16"), x * 60000, t)


def test_it_counts_from_the_epoch_where_it_goes_on():
    x, t = bars(16)
    x[9] = np.nan
    stops("epoch 4, batch 2: the batch of inputs", small(), x, t, epochs=5, initial_epoch=3)


def test_a_captured_step_reads_nothing():
    with pytest.raises(ValueError, match="check_finite=True reads a number back after every step.*captured"):
        fit(small(), *bars(8), capture=True)
    with pytest.raises(TypeError, match="check_finite must be True or False, got 1"):
        small().fit(*bars(8), check_finite=1, verbose=0)
