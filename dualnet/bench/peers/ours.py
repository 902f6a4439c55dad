"""dualnet's own step, measured by the same program as the peers'."""

from __future__ import annotations

from typing import Any

from dualnet.bench.layers import layer_times
from dualnet.bench.nets import network
from dualnet.ops import losses
from dualnet.optimizers import loss_scale
from dualnet.optimizers.rules import SGD
from dualnet.shim import asarray, calls, current, set_precision, to_numpy, transfers
from dualnet.shim.info import info as report
from dualnet.shim.kernels import why
from dualnet.training.capture import capture
from dualnet.training.loop import train_step


def facts(task: dict) -> dict[str, Any]:
    """What ``dn.info()`` says."""
    return {name: value for name, value in report().items() if name not in ("ran", "why", "backends")}


def waiting(task: dict) -> Any:
    """A function that waits for the device."""
    return current().synchronize


def build(task: dict, x: Any, t: Any, weights: dict) -> Any:
    """A step of the network in the task: ``run``, and ``value`` of its result."""
    net, x, t = placed(task, x, t)
    if task["mode"] == "inference":
        predict = capture(net) if task["variant"] == "captured" else net
        return lambda: predict(x), to_numpy
    train = training_step(net, task)
    if task["variant"] == "captured":
        train = capture(train)

    def run() -> Any:
        return train(x, t)

    steps["last"] = run
    return run, to_numpy


def placed(task: dict, x: Any, t: Any) -> tuple[Any, Any, Any]:
    """The network, and the data on its backend and in its dtype."""
    set_precision("tf32" if task["dtype"] == "tf32" else "strict")
    dtype = "float32" if task["dtype"] == "tf32" else task["dtype"]
    net = network(task["net"], task["seed"], dtype)
    return net, asarray(x, dtype), asarray(t, dtype if t.dtype.kind == "f" else None)


def training_step(net: Any, task: dict) -> Any:
    """A step as ``fit`` makes it: forward, loss, backward, SGD; with a loss scale in float16."""
    loss = losses.unchecked(task["loss"])  # as in fit, which checks all labels once before the first step
    optimizer, scale, seen = (
        SGD(lr=task["lr"], momentum=task["momentum"]),
        loss_scale.as_loss_scale("auto", net.dtype),
        Seen(),
    )

    def train(x: Any, t: Any) -> Any:
        train_step(net, optimizer, loss, scale, seen, x, t, need_dx=task["need_dx"])
        return seen.value

    return train


class Seen:
    """Keeps the loss of the last step."""

    value: Any = None

    def add(self, y: Any, t: Any, value: Any) -> None:
        """Keep the loss."""
        self.value = value


def layers(task: dict, x: Any, t: Any, weights: dict) -> dict[str, Any]:
    """The times of a training step, layer by layer."""
    net, x, t = placed(task, x, t)
    step = training_step(net, task)
    return layer_times(net, lambda: step(x, t), task["batch"], task["seconds"], need_dx=task["need_dx"])


steps: dict[str, Any] = {}
"""The step that was built last."""


def after(task: dict) -> dict[str, Any]:
    """Which kernels ran, and why; on a GPU also the memory used, and how many copies a step makes."""
    ran = {f"{name} ({by})": times for (name, by), times in sorted(calls.items())}
    answer: dict[str, Any] = {"ran": ran, "why": why()}
    if task["device"] == "cuda" and steps:
        with transfers() as moved:
            steps["last"]()
        copies = {"to_device": moved.to_device, "to_host": moved.to_host}
        answer["device"] = {"memory": current().describe().get("gpu memory", ""), "copies_in_a_step": copies}
    return answer
