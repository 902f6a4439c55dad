"""Shared by the tests of optimizers: a small stand-in for a network, gradients, and each formula again as a loop."""

from __future__ import annotations

import math

import numpy as np

import dualnet as dn
from dualnet.optimizers import SGD, Adam, AdamW, RMSProp

SHAPES = {"0.w": (3, 4), "0.b": (4,), "1.w": (4, 2)}


class Net:
    """A network as an optimizer sees it."""

    def __init__(self, values, dtype="float64"):
        self.held = {name: dn.Parameter(dn.asarray(value, dtype)) for name, value in values.items()}

    def parameters(self):
        return self.held

    def values(self):
        return {name: dn.to_numpy(p.value).copy() for name, p in self.held.items()}

    def to(self, backend):
        for p in self.held.values():
            p.value = dn.asarray(p.value, backend=backend)


def drawn(rng, steps):
    start = {name: rng.standard_normal(shape) for name, shape in SHAPES.items()}
    return start, [{name: rng.standard_normal(shape) for name, shape in SHAPES.items()} for _ in range(steps)]


def on_device(grads, dtype="float64"):
    return {name: dn.asarray(g, dtype) for name, g in grads.items()}


def run(opt, start, path, dtype="float64"):
    net = Net(start, dtype)
    for grads in path:
        opt.step(net, on_device(grads, dtype))
    return net.values()


def equal(one, other):
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


# -- each formula again, for one number --------------------------------------------------------------------------------


def sgd(w, path, lr=0.1, momentum=0.0, nesterov=False, weight_decay=0.0):
    v = 0.0
    for g in path:
        g += weight_decay * w
        v = momentum * v + g
        w -= lr * (g + momentum * v if nesterov else v)
    return w


def rmsprop(w, path, lr=1e-3, rho=0.99, momentum=0.0, epsilon=1e-8, centered=False, weight_decay=0.0):
    square = mean = v = 0.0
    for g in path:
        g += weight_decay * w
        square = rho * square + (1 - rho) * g * g
        mean = rho * mean + (1 - rho) * g
        v = momentum * v + g / (math.sqrt(square - (mean * mean if centered else 0.0)) + epsilon)
        w -= lr * v
    return w


def adam(w, path, lr=1e-3, beta_1=0.9, beta_2=0.999, epsilon=1e-8, weight_decay=0.0, decoupled=False):
    m = v = 0.0
    for t, g in enumerate(path, 1):
        g, w = (g, w - lr * weight_decay * w) if decoupled else (g + weight_decay * w, w)
        m = beta_1 * m + (1 - beta_1) * g
        v = beta_2 * v + (1 - beta_2) * g * g
        w -= lr * (m / (1 - beta_1**t)) / (math.sqrt(v / (1 - beta_2**t)) + epsilon)
    return w


def adamw(w, path, **options):
    return adam(w, path, decoupled=True, **{"weight_decay": 0.01, **options})


CASES = [
    (SGD, sgd, {"lr": 0.1}),
    (SGD, sgd, {"lr": 0.1, "momentum": 0.9}),
    (SGD, sgd, {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.05}),
    (SGD, sgd, {"lr": 0.1, "weight_decay": 0.3}),
    (RMSProp, rmsprop, {}),
    (RMSProp, rmsprop, {"lr": 0.1, "rho": 0.8, "momentum": 0.5, "weight_decay": 0.05, "epsilon": 1e-2}),
    (RMSProp, rmsprop, {"lr": 0.1, "centered": True}),
    (RMSProp, rmsprop, {"lr": 0.1, "centered": True, "momentum": 0.9}),
    (Adam, adam, {}),
    (Adam, adam, {"lr": 0.1, "beta_1": 0.5, "beta_2": 0.8, "epsilon": 1e-2, "weight_decay": 0.1}),
    (AdamW, adamw, {"lr": 0.1}),
    (AdamW, adamw, {"lr": 0.1, "weight_decay": 0.3, "beta_1": 0.0}),
]
