"""Captured steps and the code of a user's: what it refers to by name may change between two steps."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import pytest

import dualnet as dn

WEIGHT = 1.0
BOX = {"weight": 1.0}


def weighted(y, t, weight):
    r = y - t
    loss = (r * r).mean() * weight
    return loss, dn.LossPullback("weighted", lambda d: d * 2 * weight * r / r.size, loss)


def by_global(y, t):
    return weighted(y, t, WEIGHT)


def helper(y, t):
    return weighted(y, t, BOX["weight"])


def by_box(y, t):
    return helper(y, t)


class Loss:
    weight = 1.0

    def __call__(self, y, t):
        return weighted(y, t, self.weight)


@dataclass
class Settings:
    weight: float = 1.0


def set_global(weight):
    global WEIGHT  # noqa: PLW0603
    WEIGHT = weight


def global_name():
    return by_global, set_global


def dictionary():
    return by_box, functools.partial(BOX.__setitem__, "weight")


def closure():
    weight = 1.0

    def loss(y, t):
        return weighted(y, t, weight)

    def change(now):
        nonlocal weight
        weight = now

    return loss, change


def of_an_object():
    loss = Loss()
    return loss, functools.partial(setattr, loss, "weight")


def bound_method():
    loss = Loss()
    return loss.__call__, functools.partial(setattr, loss, "weight")


def of_a_partial():
    loss = functools.partial(weighted, weight=1.0)
    return loss, functools.partial(loss.keywords.__setitem__, "weight")


def of_dualnets_own():
    loss = functools.partial(dn.losses.huber, delta=1.0)
    return loss, functools.partial(loss.keywords.__setitem__, "delta")


def of_a_dataclass():
    held = Settings()
    return lambda y, t: weighted(y, t, held.weight), functools.partial(setattr, held, "weight")


WAYS = [global_name, dictionary, closure, of_an_object, bound_method, of_a_partial, of_dualnets_own, of_a_dataclass]


def learned(capture, loss, change, layers=()):
    """What a network has learned while a callback changes a number after each epoch."""
    rng = np.random.default_rng(0)
    x, t = rng.standard_normal((24, 4)).astype("f4"), rng.standard_normal((24, 2)).astype("f4")
    with dn.use_backend("numpy"):
        net = dn.Sequential([dn.Dense(3), *layers, dn.Dense(2)]).init((4,), seed=0)
        change(1.0)
        options = {"epochs": 4, "batch_size": 4, "callbacks": lambda run: change(1 / (run.epoch + 2)), "verbose": 0}
        net.fit(x, t, loss=loss, optimizer=dn.SGD(0.1), capture=capture, **options)
        return net.state_dict()


def same(one, other):
    return all(dn.to_numpy(one[name]).tobytes() == dn.to_numpy(other[name]).tobytes() for name in one)


@pytest.mark.parametrize("way", WAYS)
def test_a_number_of_the_loss_changes_between_steps(way):
    """A weight that a callback lowers from epoch to epoch stayed as it was recorded."""
    loss, change = way()
    expected = learned(False, loss, change)
    assert same(learned(True, loss, change), expected)
    assert not same(learned(True, loss, lambda weight: None), expected)


def test_a_number_of_a_layer_and_of_a_lambda_changes_between_steps():
    class Scaled(dn.Layer):
        def forward(self, x, train=False):
            k = BOX["weight"]
            return k * x, dn.Pullback("scaled", lambda dy: (k * dy, {}), x)

    change = functools.partial(BOX.__setitem__, "weight")
    by_lambda = dn.Lambda(lambda x: BOX["weight"] * x, lambda dy, x, y: BOX["weight"] * dy)
    for layer in (Scaled(), by_lambda):
        expected = learned(False, "mean_squared_error", change, [layer])
        assert same(learned(True, "mean_squared_error", change, [layer]), expected)


def test_a_number_of_an_optimizer_changes_between_steps():
    class Slower(dn.optimizers.Optimizer):
        def update(self, w, g, slots, lr):
            return w - lr * BOX["weight"] * g, {}

    with dn.use_backend("numpy"):
        found = []
        for capture in (False, True):
            net, x = dn.Dense(2).init((3,), seed=0), np.ones((8, 3), "f4")
            BOX["weight"] = 1.0
            options = {"callbacks": lambda run: BOX.update(weight=1 / (run.epoch + 2)), "verbose": 0, "epochs": 6}
            net.fit(x, x[:, :2], loss="huber", optimizer=Slower(0.1), batch_size=4, capture=capture, **options)
            found.append(net.state_dict())
        assert same(*found)


def test_a_loss_that_counts_its_calls_is_told():
    """Without Python nothing would count them."""
    calls = []

    def loss(y, t):
        calls.append(1)
        return weighted(y, t, 1.0)

    with pytest.raises(dn.CaptureError, match=r"calls of .*loss is changed by the captured step"):
        learned(True, loss, lambda weight: None)
