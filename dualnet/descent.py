"""E17 as pure functions: what becomes of parameters and of what is remembered of them; how gradients are checked and
clipped.

    E17   w ← w − η · ∂E/∂w

``sgd_updates`` and ``adam_updates`` step all parameters of a network at once, as one kernel does on a GPU. Where
``finite``, an array without axes, holds False, all stays as it is (see :mod:`dualnet.loss_scale`); with ``into`` a
kernel may overwrite the old arrays, which a reference never does.
"""

from __future__ import annotations

from typing import Any

from .arguments import positive
from .backend import Array, accelerated, asarray, backend_of, namespace
from .initializers import Parameter
from .ops.sums import wide

__all__ = [
    "adam_update",
    "adam_updates",
    "check_gradients",
    "choose_all",
    "clip_by_global_norm",
    "clip_by_value",
    "sgd_update",
    "sgd_updates",
    "updated",
]

Gradients = dict[str, Array]
Slots = dict[str, Array]


def check_gradients(owner: str, parameters: dict[str, Parameter], grads: Gradients) -> None:
    """Raise unless there is one gradient for each parameter, of its shape, its dtype (or 16 bits of it) and backend."""
    if len(grads) == len(parameters) and all(_fits(grads.get(name), p.value) for name, p in parameters.items()):
        return
    shapes = {name: tuple(getattr(g, "shape", ())) for name, g in grads.items() if g is not None}
    faults = {
        "missing": parameters.keys() - shapes.keys(),
        "unknown": shapes.keys() - parameters.keys(),
        "of another shape": {
            f"{name} {shapes[name]}, expected {parameter.shape}"
            for name, parameter in parameters.items()
            if shapes.get(name, parameter.shape) != parameter.shape
        },
    }
    if any(faults.values()):
        told = "; ".join(f"{fault}: {', '.join(sorted(names))}" for fault, names in faults.items() if names)
        raise ValueError(f"{owner}: the gradients do not fit the parameters ({told}). Nothing was changed.")
    for name, parameter in parameters.items():
        namespace(owner, **{name: parameter.cast(grads[name].dtype), f"the gradient of {name}": grads[name]})


def _fits(gradient: Any, value: Array) -> bool:
    """Is it a gradient of this value beyond doubt? (One of 16 bits, or with something amiss, is looked at closely.)"""
    backend = backend_of(gradient)
    if backend is None or backend is not backend_of(value):
        return False
    return gradient.shape == value.shape and gradient.dtype == value.dtype and value.dtype.kind == "f"


@accelerated
def sgd_updates(
    w: list[Array],
    g: list[Array],
    slots: list[Slots],
    lr: float,
    momentum: float,
    nesterov: bool,
    weight_decay: float,
    finite: Array | None,
    into: bool,
) -> list[tuple[Array, Slots]]:
    """E17 as SGD does it, for all parameters."""
    made = []
    for old, gradient, kept in zip(w, g, slots):
        direction = wide(gradient) + weight_decay * old if weight_decay else wide(gradient)
        made.append(choose_all(finite, sgd_update(old, direction, kept, lr, momentum, nesterov), (old, kept)))
    return made


@accelerated
def sgd_update(w: Array, g: Array, slots: Slots, lr: float, momentum: float, nesterov: bool) -> tuple[Array, Slots]:
    """E17 as SGD does it: the new w, and the new velocity if there is one."""
    if not momentum:
        return w - lr * g, {}  # E17
    velocity = momentum * slots["velocity"] + g
    return w - lr * (g + momentum * velocity if nesterov else velocity), {"velocity": velocity}  # E17


@accelerated
def adam_updates(
    w: list[Array],
    g: list[Array],
    slots: list[Slots],
    lr: float,
    betas: tuple[float, float],
    epsilon: float,
    steps: int,
    decay: tuple[float, bool],
    finite: Array | None,
    into: bool,
) -> list[tuple[Array, Slots]]:
    """E17 as Adam does it, for all parameters, after so many steps; ``decay`` is the weight decay, and if decoupled."""
    (weight_decay, decoupled), made = decay, []
    for old, gradient, kept in zip(w, g, slots):
        direction, start = wide(gradient), old
        if weight_decay and decoupled:
            start = old * (1 - lr * weight_decay)
        elif weight_decay:
            direction = direction + weight_decay * old
        made.append(choose_all(finite, adam_update(start, direction, kept, lr, betas, epsilon, steps + 1), (old, kept)))
    return made


@accelerated
def adam_update(
    w: Array, g: Array, slots: Slots, lr: float, betas: tuple[float, float], epsilon: float, t: int
) -> tuple[Array, Slots]:
    """E17 as Adam does it in step t = 1, 2, …: the new w, mean and mean square."""
    mean = slots["mean"] + (1 - betas[0]) * (g - slots["mean"])
    mean_square = betas[1] * slots["mean_square"] + (1 - betas[1]) * (g * g)
    spread = backend_of(w).xp.sqrt(mean_square) / _like((1 - betas[1] ** t) ** 0.5, w) + epsilon
    rate = lr / _like(1 - betas[0] ** t, w)
    return w - rate * (mean / spread), {"mean": mean, "mean_square": mean_square}  # E17


def clip_by_global_norm(grads: Gradients, max_norm: float) -> tuple[Gradients, Array]:
    """Shorten all gradients by one factor, so that together they are at most ``max_norm`` long (Pascanu et al. 2013).

    Returns the gradients, g · min(1, max_norm / (‖g‖ + 10⁻⁶)) as in PyTorch, and ‖g‖ as an array without axes: nothing
    is read back from the device.

    >>> import dualnet as dn
    >>> grads = {"w": dn.asarray([3.0, 0.0]), "b": dn.asarray([4.0])}
    >>> clipped, norm = dn.clip_by_global_norm(grads, max_norm=1.0)
    >>> dn.to_numpy(clipped["w"]).round(4), float(dn.to_numpy(norm))
    (array([0.6, 0. ], dtype=float32), 5.0)
    """
    max_norm = positive(max_norm, "max_norm", op="clip_by_global_norm")
    _named(grads, "clip_by_global_norm")
    if not grads:
        return {}, asarray(0.0)
    xp = namespace("clip_by_global_norm", **grads)
    norm = xp.sqrt(sum(xp.sum(w * w) for w in map(wide, grads.values())))
    factor = xp.minimum(max_norm / (norm + 1e-6), 1.0)
    return {name: g * factor.astype(g.dtype) for name, g in grads.items()}, norm


def clip_by_value(grads: Gradients, limit: float) -> Gradients:
    """Every element of every gradient brought into [−limit, limit].

    >>> import dualnet as dn
    >>> dn.to_numpy(dn.clip_by_value({"w": dn.asarray([3.0, -0.5])}, 1.0)["w"])
    array([ 1. , -0.5], dtype=float32)
    """
    limit = positive(limit, "limit", op="clip_by_value")
    _named(grads, "clip_by_value")
    if not grads:
        return {}
    xp = namespace("clip_by_value", **grads)
    return {name: xp.clip(g, -limit, limit) for name, g in grads.items()}


def updated(owner: str, result: Any, w: Array, slots: Slots) -> tuple[Array, Slots]:
    """What the ``update`` of an optimizer returned, once it is known to fit."""
    if not (isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], dict)):
        raise TypeError(f"{owner}.update returned a {type(result).__name__}; expected a pair (new w, new slots)")
    shape = tuple(getattr(result[0], "shape", ()))
    if shape != tuple(w.shape) or slots.keys() - result[1].keys():
        raise ValueError(
            f"{owner}.update returned a w of shape {shape} and the slots {', '.join(result[1]) or 'none'}; expected "
            f"{tuple(w.shape)} and {', '.join(slots) or 'none'}"
        )
    return result


def _named(grads: Any, op: str) -> None:
    if not isinstance(grads, dict):
        raise TypeError(f"{op}: grads is a {type(grads).__name__}; expected gradients by name, as from a pullback")


def choose_all(finite: Array | None, new: tuple[Array, Slots], old: tuple[Array, Slots]) -> tuple[Array, Slots]:
    """A parameter's new value and slots, or the old ones where ``finite`` is False."""
    if finite is None:
        return new
    where = backend_of(finite).xp.where
    return where(finite, new[0], old[0]), {name: where(finite, array, old[1][name]) for name, array in new[1].items()}


def _like(number: Any, w: Array) -> Any:
    """A number, or in a captured step an array of float64, as w can be multiplied with it."""
    return number.astype(w.dtype) if hasattr(number, "astype") else number
