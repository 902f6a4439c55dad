"""dualnet's own step, measured by the same program as the peers'."""

from __future__ import annotations

from typing import Any

from dualnet.about import report
from dualnet.backend import asarray, calls, current, to_numpy
from dualnet.bench.layers import layer_times
from dualnet.bench.nets import network
from dualnet.layers.containers import forward_of
from dualnet.ops import losses
from dualnet.optimizers import SGD


def facts(task: dict) -> dict[str, Any]:
    return {name: value for name, value in report().items() if name not in ("ran", "backends")}


def build(task: dict, x: Any, t: Any, weights: dict) -> Any:
    net = network(task["net"], seed=task["seed"])
    x, t, wait = asarray(x), asarray(t), current().synchronize
    if task["mode"] == "inference":

        def infer() -> Any:
            y = net(x)
            wait()
            return y

        return infer, to_numpy

    train = training_step(net, x, t, task)

    def run() -> Any:
        loss = train()
        wait()
        return loss

    return run, to_numpy


def training_step(net: Any, x: Any, t: Any, task: dict) -> Any:
    """Forward, loss, backward, SGD, as ``fit`` does it."""
    loss, options = losses.get(task["loss"]), {}
    if loss is losses.softmax_cross_entropy:
        options = {"check_labels": False}  # fit looks at all labels once, before the first step
    optimizer = SGD(lr=task["lr"])

    def train() -> Any:
        y, pullback = forward_of(net, x, train=True, need_dx=task["need_dx"])
        value, dloss = loss(y, t, **options)
        _, gradients = pullback(dloss())
        pullback.free()
        optimizer.step(net, gradients)
        return value

    return train


def layers(task: dict, x: Any, t: Any, weights: dict) -> dict[str, Any]:
    net = network(task["net"], seed=task["seed"])
    step = training_step(net, asarray(x), asarray(t), task)
    return layer_times(net, step, task["batch"], task["seconds"], need_dx=task["need_dx"])


def after(task: dict) -> dict[str, Any]:
    return {"ran": {f"{name} ({by})": times for (name, by), times in sorted(calls.items())}}
