"""A user's layers, losses, optimizers and schedules: if they return the wrong thing, the error says what to return."""

from __future__ import annotations

import numpy as np
import pytest

import dualnet as dn
from dualnet import optimizers
from dualnet.optimizers import schedules

X, T = np.ones((4, 3), np.float32), np.zeros(4, int)


@pytest.mark.parametrize("returned", [lambda dy: dy, lambda dy: (dy, None), lambda dy: (dy, {}, {})])
def test_a_layers_way_back_returns_dx_and_gradients_by_name(backend, returned):
    class Crooked(dn.Layer):
        def forward(self, x, train=False):
            return x, dn.Pullback("Crooked", returned, x)

    net = dn.Sequential([dn.Dense(2), Crooked()]).init((3,))
    y, pullback = net.forward(dn.asarray([[1.0, 2.0, 3.0]]), train=True)
    with pytest.raises(TypeError, match=r"Crooked pullback: it returned \(.*\); expected dx and the gradients by"):
        pullback(y)


@pytest.mark.parametrize(
    "loss, got",
    [
        (lambda y, t: (y * y).mean(), "a [a-z0-9]+( .*)?"),
        (lambda y, t: ((y * y).mean(), y), r"a .*, a ndarray \(1, 2\)"),
        (lambda y, t: ((y * y).mean(axis=1), lambda: y), r"a ndarray \(1,\), a function"),
    ],
)
def test_a_loss_of_ones_own_returns_a_number_and_its_way_back(loss, got):
    message = f"fit: the loss returned {got}; expected one number, the batch's mean, and its pullback"
    with dn.use_backend("numpy"), pytest.raises(TypeError, match=message):
        dn.Sequential([dn.Dense(2)]).fit(X, T, loss=loss, verbose=0)


def test_figures_are_numbers():
    with pytest.raises(TypeError, match="History: rate is 'high'; expected a number"):
        dn.Sequential([dn.Dense(2)]).fit(X, T, callbacks=lambda run: run.logs.update(rate="high"), verbose=0)


def test_an_update_of_ones_own_is_looked_at(backend):
    class Own(optimizers.Optimizer):
        slot_names = ("mean",)

        def __init__(self, rate):
            super().__init__(rate)

        def update(self, w, g, slots, lr):
            return self.results(w, slots)

    layer = dn.BatchNorm(center=False).init((3,))
    for results, words in [
        (lambda w, slots: w, r"^Own.update returned a .*; expected a pair \(new w, new slots\)"),
        (lambda w, slots: (w, {}), r"returned a w of shape \(3,\) and the slots none; expected \(3,\) and mean"),
        (
            lambda w, slots: (w, slots | {"step": w}),
            r"the slots mean, step; expected \(3,\) and mean, which the class names",
        ),
        (lambda w, slots: (w[:1], slots), r"returned a w of shape \(1,\) and the slots mean; expected \(3,\) and mean"),
    ]:
        Own.results = staticmethod(results)
        with pytest.raises((TypeError, ValueError), match=words):
            Own(0.1).step(layer, {"gamma": layer.gamma.value})
    assert repr(Own(0.1)) == "Own()", "an argument that is kept under another name is left out"


def test_an_optimizer_that_forgets_the_init_of_its_base():
    class Own(optimizers.Optimizer):
        def __init__(self, lr):
            self.lr = lr

        def update(self, w, g, slots, lr):
            return w - lr * g, {}

    layer = dn.BatchNorm(center=False).init((3,))
    for use in (lambda: Own(0.1).step(layer, {"gamma": layer.gamma.value}), lambda: Own(0.1).check_network(layer)):
        with pytest.raises(TypeError, match=r"^Own: its __init__ must call super\(\).__init__\(lr\)"):
            use()


@pytest.mark.parametrize("clip", [optimizers.clip_by_global_norm, optimizers.clip_by_value])
def test_gradients_are_clipped_by_name(clip):
    with pytest.raises(TypeError, match=f"^{clip.__name__}: grads is a list; expected gradients by name"):
        clip([np.zeros(3)], 1.0)


def test_repr_of_a_schedule_that_keeps_an_argument_under_another_name():
    class Own(schedules.Schedule):
        def __init__(self, rate):
            self.value = rate

        def __call__(self, step):
            return self.value

    assert repr(dn.SGD(Own(0.1))).startswith("SGD(lr=Own(), momentum=0.0")


def test_repr_of_a_layer_that_keeps_an_argument_under_another_name():
    class Own(dn.Identity):
        def __init__(self, size, depth=1):
            self.n, self.depth = size, depth

    net = dn.Sequential([Own(3, depth=2)])
    assert repr(net) == "Sequential(layers=[Own(depth=2)])" and net._repr_html_()
    with pytest.raises(TypeError, match="save: Own does not keep its arguments"):
        net.init((3,)).save("own.npz")
