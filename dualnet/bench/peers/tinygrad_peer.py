"""The same step in tinygrad on its CPU device: NCHW, one jitted function for forward, loss, backward and SGD.

tinygrad compiles every kernel with clang. The environment variable ``CC`` names the compiler (by default, ``clang``).
"""

from __future__ import annotations

import os
import shutil
from typing import Any

DEVICE = "CPU"


def facts(task: dict) -> dict[str, Any]:
    """Threads, and the compiler."""
    return {
        "threads": os.environ.get("NUM_CPU_THREADS", task["threads"]),
        "blas": "none",
        "kernels": f"compiled by {os.environ.get('CC', 'clang')}",
        "device": "cpu",
    }


def build(task: dict, x: Any, t: Any, weights: dict) -> Any:
    """A jitted step of the network in the task: ``run``, and ``value`` of its result."""
    if shutil.which(compiler := os.environ.get("CC", "clang")) is None:
        raise NotImplementedError(f"tinygrad compiles with {compiler}, which is not installed; CC=... names another")
    from tinygrad import Device, Tensor, TinyJit

    x, t = (Tensor(first(array), device=DEVICE).realize() for array in (x, t))
    state = {name: Tensor(value, device=DEVICE).realize() for name, value in in_order(task, weights).items()}
    moving = {at[name] for kind, at in everywhere(task["layers"]) if kind == "norm" for name in ("mean", "variance")}
    learned = [value for name, value in state.items() if name not in moving]

    def complete(step: Any) -> Any:
        result = step()
        Device[DEVICE].synchronize()
        return result

    if task["mode"] == "inference":
        forward = TinyJit(lambda: chain(task["layers"], state, x, None).realize())
        return lambda: complete(forward), lambda y: y.numpy()

    @TinyJit
    def update() -> Any:
        seen: dict[str, Any] = {}
        y = chain(task["layers"], state, x, seen)
        classes = task["loss"] == "softmax_cross_entropy"
        loss = y.sparse_categorical_crossentropy(t) if classes else 0.5 * (y - t).square().sum() / y.shape[0]
        wanted = [*learned, *([x] if task["need_dx"] else [])]
        gradients = loss.gradient(*wanted)
        steps = [(w, w - task["lr"] * g) for w, g in zip(learned, gradients)]
        steps += [(state[name], value) for name, value in seen.items()]
        return loss.realize(*(old.assign(new) for old, new in steps), *gradients[len(learned) :])

    return lambda: complete(update), lambda loss: loss.numpy()


def in_order(task: dict, weights: dict) -> dict[str, Any]:
    """The weights in tinygrad's layout: filters (D, C/groups, k1, k2), and dense layers for a flattened (C, H, W)."""
    import numpy

    found = {name: numpy.array(value) for name, value in weights.items()}
    for kind, at in everywhere(task["layers"]):
        if kind == "conv":
            found[at["w"]] = numpy.ascontiguousarray(weights[at["w"]].transpose(3, 2, 0, 1))
        elif kind == "dense" and at["map"]:
            H, W, C = at["map"]
            w = weights[at["w"]].reshape(H, W, C, -1).transpose(2, 0, 1, 3)
            found[at["w"]] = numpy.ascontiguousarray(w.reshape(H * W * C, -1))
    return found


def first(array: Any) -> Any:
    """(N, H, W, C) as (N, C, H, W); anything else as it is."""
    import numpy

    return numpy.ascontiguousarray(array.transpose(0, 3, 1, 2)) if array.ndim == 4 else array


def everywhere(layers: list) -> list:
    """Every layer, including those inside others."""
    found = []
    for kind, at in layers:
        found.append((kind, at))
        if kind == "residual":
            found += everywhere(at["layer"])
            found += everywhere(at["shortcut"]) if isinstance(at["shortcut"], list) else []
    return found


def chain(layers: list, state: dict, x: Any, seen: dict | None) -> Any:
    """The output for x. In training ``seen`` collects the running statistics; in inference it is None."""
    for kind, at in layers:
        x = apply(kind, at, state, x, seen)
    return x


def apply(kind: str, at: dict, state: dict, x: Any, seen: dict | None) -> Any:
    """One layer."""
    bias = state[at["b"]] if kind in ("conv", "dense") and at["b"] is not None else None
    if kind == "relu":
        return x.relu()
    if kind == "flatten":
        return x.flatten(1)
    if kind == "mean":
        return x.mean(axis=(2, 3))
    if kind == "pool":
        p1, p2 = at["padding"]
        return x.max_pool2d(tuple(at["size"]), tuple(at["stride"]), padding=(p2, p2, p1, p1))
    if kind == "conv":
        p1, p2 = at["padding"]
        return x.conv2d(state[at["w"]], bias, at["groups"], tuple(at["stride"]), padding=(p2, p2, p1, p1))
    if kind == "dense":
        return x.linear(state[at["w"]], bias)
    if kind == "norm":
        return _norm(at, state, x, seen)
    if kind == "residual":
        y, shortcut = chain(at["layer"], state, x, seen), at["shortcut"]
        if isinstance(shortcut, dict):
            s = shortcut["stride"]
            return y + x[:, :, ::s, ::s].pad(((0, 0), (0, shortcut["added"]), (0, 0), (0, 0)))
        return y + (x if shortcut is None else chain(shortcut, state, x, seen))
    raise NotImplementedError(f"the step in tinygrad has no {kind}")


def _norm(at: dict, state: dict, x: Any, seen: dict | None) -> Any:
    mean, variance = state[at["mean"]], state[at["variance"]]
    if seen is not None:
        n, old, axes = x.numel() // x.shape[1], at["momentum"], (0, *range(2, x.ndim))
        moving = mean, variance
        mean, variance = x.mean(axis=axes), x.var(axis=axes, correction=0)
        for name, before, now in zip(("mean", "variance"), moving, (mean, variance * (n / (n - 1)))):
            seen[at[name]] = before * old + now.detach() * (1 - old)
    return x.batchnorm(state[at["gamma"]], state[at["beta"]], mean, (variance + at["epsilon"]).rsqrt())
