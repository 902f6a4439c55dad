"""E17 as pure functions: what becomes of parameters and of what is remembered of them; how gradients are checked and
clipped.

    E17   w ← w − η · ∂E/∂w

``sgd_updates`` and ``adam_updates`` step all parameters of a network at once, as one kernel does on a GPU. Where
``finite``, an array without axes, holds False, all stays as it is (see :class:`dualnet.LossScale`); with ``into`` a
kernel may overwrite the old arrays, which a reference never does.
"""

from __future__ import annotations

from typing import Any

from ..ops.sums import wide
from ..shim import Array, accelerated, backend_of

__all__ = ["adam_update", "adam_updates", "choose_all", "sgd_update", "sgd_updates", "updated"]


Gradients = dict[str, Array]


Slots = dict[str, Array]


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


def choose_all(finite: Array | None, new: tuple[Array, Slots], old: tuple[Array, Slots]) -> tuple[Array, Slots]:
    """A parameter's new value and slots, or the old ones where ``finite`` is False."""
    if finite is None:
        return new
    where = backend_of(finite).xp.where
    return where(finite, new[0], old[0]), {name: where(finite, array, old[1][name]) for name, array in new[1].items()}


def _like(number: Any, w: Array) -> Any:
    """A number, or in a captured step an array of float64, as w can be multiplied with it."""
    return number.astype(w.dtype) if hasattr(number, "astype") else number
