"""The same step in JAX: NHWC, one compiled function for forward, loss, backward and SGD."""

from __future__ import annotations

from typing import Any


def facts(task: dict) -> dict[str, Any]:
    """Threads, and the XLA that compiles."""
    import jax
    import jaxlib

    return {
        "threads": task["threads"],
        "blas": f"XLA of jaxlib {jaxlib.__version__}",
        "kernels": "compiled by XLA",
        "device": str(jax.devices()[0].device_kind),
    }


def build(task: dict, x: Any, t: Any, weights: dict) -> Any:
    """A compiled step of the network in the task: ``run``, and ``value`` of its result."""
    import jax
    import numpy
    from jax import numpy as jnp

    x, t = jnp.asarray(x), jnp.asarray(t)
    state = {name: jnp.asarray(value) for name, value in weights.items()}
    moving = {at[name] for kind, at in everywhere(task["layers"]) if kind == "norm" for name in ("mean", "variance")}
    learned = {name: value for name, value in state.items() if name not in moving}
    running = {name: value for name, value in state.items() if name in moving}
    if task["mode"] == "inference":
        forward = jax.jit(lambda state, x: chain(task["layers"], state, x, None))
        return lambda: forward(state, x).block_until_ready(), numpy.asarray

    def loss(learned: Any, x: Any, running: Any) -> Any:
        seen = dict(running)
        y = chain(task["layers"], {**learned, **running}, x, seen)
        if task["loss"] == "softmax_cross_entropy":
            picked = jnp.take_along_axis(jax.nn.log_softmax(y), t[:, None], axis=1)
            return -picked.mean(), seen
        return 0.5 * jnp.sum((y - t) ** 2) / len(y), seen

    @jax.jit
    def update(learned: Any, running: Any, x: Any) -> Any:
        wanted = (0, 1) if task["need_dx"] else (0,)
        (value, running), gradients = jax.value_and_grad(loss, wanted, has_aux=True)(learned, x, running)
        learned = jax.tree.map(lambda w, g: w - task["lr"] * g, learned, gradients[0])
        return value, learned, running, gradients[1:]

    held = [learned, running]

    def train() -> Any:
        value, *held[:], dx = jax.block_until_ready(update(*held, x))
        return value

    return train, numpy.asarray


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
    import jax
    from jax import lax
    from jax import numpy as jnp

    if kind == "relu":
        return jax.nn.relu(x)
    if kind == "flatten":
        return x.reshape(len(x), -1)
    if kind == "mean":
        return x.mean(axis=(1, 2))
    if kind == "pool":
        size, stride = (1, *at["size"], 1), (1, *at["stride"], 1)
        around = [(0, 0), *((p, p) for p in at["padding"]), (0, 0)]
        return lax.reduce_window(x, -jnp.inf, lax.max, size, stride, around)
    if kind == "conv":
        around = [(p, p) for p in at["padding"]]
        names = ("NHWC", "HWIO", "NHWC")
        options = {"dimension_numbers": names, "feature_group_count": at["groups"]}
        y = lax.conv_general_dilated(x, state[at["w"]], at["stride"], around, **options)
        return y if at["b"] is None else y + state[at["b"]]
    if kind == "dense":
        y = x @ state[at["w"]]
        return y if at["b"] is None else y + state[at["b"]]
    if kind == "norm":
        return _norm(at, state, x, seen)
    if kind == "residual":
        y, shortcut = chain(at["layer"], state, x, seen), at["shortcut"]
        if isinstance(shortcut, dict):
            s = shortcut["stride"]
            return y + jnp.pad(x[:, ::s, ::s, :], ((0, 0), (0, 0), (0, 0), (0, shortcut["added"])))
        return y + (x if shortcut is None else chain(shortcut, state, x, seen))
    raise NotImplementedError(f"the step in JAX has no {kind}")


def _norm(at: dict, state: dict, x: Any, seen: dict | None) -> Any:
    from jax import lax

    mean, variance = state[at["mean"]], state[at["variance"]]
    if seen is not None:
        n, old = x.size // x.shape[-1], at["momentum"]
        moving = mean, variance
        mean, variance = x.mean(axis=(0, 1, 2)), x.var(axis=(0, 1, 2))
        for name, before, now in zip(("mean", "variance"), moving, (mean, variance * (n / (n - 1)))):
            seen[at[name]] = lax.stop_gradient(before * old + now * (1 - old))
    return (x - mean) * (lax.rsqrt(variance + at["epsilon"]) * state[at["gamma"]]) + state[at["beta"]]
