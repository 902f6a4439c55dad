"""SGD, RMSProp, Adam and AdamW: each replaces the plain gradient with a better direction.

    E17   w ← w − η · ∂E/∂w

The formulas are PyTorch's, so that the results agree. Each is a function ``update`` of one parameter. Those of SGD and
Adam are inside ``sgd_updates`` and ``adam_updates``, which apply them to all parameters at once: a kernel may replace
these, and on a GPU that takes one launch. ``decayed`` is the weight decay λ: g + λ·w, or with AdamW w·(1 − lr·λ).
:meth:`Optimizer.update_all` describes ``finite`` and ``into``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..arguments import flag, fraction, positive
from ..shim import Array, accelerated
from .moments import averaged, averaged_square, deviation, large
from .optimizer import Optimizer, Slots, Updated, decayed, update_each
from .schedules import Rate

__all__ = ["Adam", "AdamW", "RMSProp", "SGD", "get"]


# -- SGD ---------------------------------------------------------------------------------------------------------------


@accelerated
def sgd_updates(
    values: list[Array],
    gradients: list[Array],
    memory: list[Slots],
    lr: float,
    momentum: float,
    nesterov: bool,
    weight_decay: float,
    finite: Array | None,
    into: bool,
) -> list[Updated]:
    """One step of SGD: the new value and slots of every parameter."""

    def update(w: Array, g: Array, slots: Slots) -> Updated:
        w, g = decayed(w, g, lr, weight_decay)
        if not momentum:
            return w - lr * g, {}  # E17
        velocity = momentum * slots["velocity"] + g
        direction = g + momentum * velocity if nesterov else velocity
        return w - lr * direction, {"velocity": velocity}  # E17

    return update_each(update, values, gradients, memory, finite)


class SGD(Optimizer):
    """Gradient descent, with momentum (Polyak 1964) and Nesterov's look-ahead (Sutskever et al. 2013).

        v ← momentum · v + g          w ← w − lr · v          with nesterov   w ← w − lr · (g + momentum · v)

    ``momentum`` is the share of the last step that continues. ``nesterov`` looks ahead along that step.

    >>> import dualnet as dn
    >>> net = dn.BatchNorm(center=False).init((2,))
    >>> dn.SGD(lr=0.5).step(net, {"gamma": dn.asarray([1.0, 2.0])})
    >>> dn.to_numpy(net.gamma.value)
    array([0.5, 0. ], dtype=float32)
    """

    def __init__(
        self,
        lr: Rate,
        momentum: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
        *,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        no_decay: Sequence[str] = (),
    ) -> None:
        super().__init__(lr, weight_decay, clip_norm=clip_norm, clip_value=clip_value, no_decay=no_decay)
        self.momentum = fraction(momentum, "momentum", op="SGD")
        self.nesterov = flag(nesterov, "nesterov", op="SGD")
        if nesterov and not self.momentum:
            raise ValueError("SGD: nesterov=True needs a momentum above 0, such as momentum=0.9")

    @property
    def slot_names(self) -> tuple[str, ...]:  # type: ignore[override]
        return ("velocity",) if self.momentum else ()

    def update(self, w: Array, g: Array, slots: Slots, lr: float) -> Updated:
        return sgd_updates([w], [g], [slots], lr, self.momentum, self.nesterov, 0.0, None, False)[0]

    def update_all(
        self, values: list[Array], gradients: list[Array], memory: list[Slots], lr: float, *how: Any
    ) -> list[Updated]:
        if type(self).update is not SGD.update:  # a class of your own
            return super().update_all(values, gradients, memory, lr, *how)
        return sgd_updates(values, gradients, memory, lr, self.momentum, self.nesterov, self.weight_decay, *how)


# -- RMSProp -----------------------------------------------------------------------------------------------------------


class RMSProp(Optimizer):
    """The gradient divided by the root of its mean square (Tieleman and Hinton 2012; ``centered``: Graves 2013).

        s ← rho · s + (1 − rho) · g²          w ← w − lr · g / (√s + epsilon)

    ``rho`` is the share of the mean square that stays at each step, and ``epsilon`` keeps the quotient finite.
    ``centered`` subtracts the square of the mean gradient from s. ``momentum`` accumulates the quotients as in SGD.

    >>> import dualnet as dn
    >>> net = dn.BatchNorm(center=False).init((2,))
    >>> dn.optimizers.RMSProp(lr=0.1, rho=0.75).step(net, {"gamma": dn.asarray([3.0, -0.1])})  # √s is |g| / 2
    >>> dn.to_numpy(net.gamma.value).round(4)
    array([0.8, 1.2], dtype=float32)
    """

    def __init__(
        self,
        lr: Rate = 1e-3,
        rho: float = 0.99,
        momentum: float = 0.0,
        epsilon: float = 1e-8,
        centered: bool = False,
        weight_decay: float = 0.0,
        *,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        no_decay: Sequence[str] = (),
    ) -> None:
        super().__init__(lr, weight_decay, clip_norm=clip_norm, clip_value=clip_value, no_decay=no_decay)
        self.rho, self.momentum = fraction(rho, "rho", op="RMSProp"), fraction(momentum, "momentum", op="RMSProp")
        self.epsilon = positive(epsilon, "epsilon", op="RMSProp")
        self.centered = flag(centered, "centered", op="RMSProp")

    @property
    def slot_names(self) -> tuple[str, ...]:  # type: ignore[override]
        mean, velocity = ("mean",) if self.centered else (), ("velocity",) if self.momentum else ()
        return ("mean_square", *mean, *velocity)

    def update(self, w: Array, g: Array, slots: Slots, lr: float) -> Updated:
        new, where = {}, large(g, slots["mean_square"])
        new["mean_square"], spread = averaged_square(slots["mean_square"], g, self.rho, where)
        if self.centered:
            new["mean"] = averaged(slots["mean"], g, self.rho, where)
            spread = deviation(new["mean_square"], spread, new["mean"], where)
        direction = g / (spread + self.epsilon)
        if self.momentum:
            direction = new["velocity"] = self.momentum * slots["velocity"] + direction
        return w - lr * direction, new  # E17


# -- Adam and AdamW ----------------------------------------------------------------------------------------------------


@accelerated
def adam_updates(
    values: list[Array],
    gradients: list[Array],
    memory: list[Slots],
    lr: float,
    betas: tuple[float, float],
    epsilon: float,
    steps: int,
    decay: tuple[float, bool],
    finite: Array | None,
    into: bool,
) -> list[Updated]:
    """The step of Adam or AdamW after ``steps`` others. ``decay`` is (weight decay, whether it is decoupled)."""
    dtype, (beta_1, beta_2), t = values[0].dtype, betas, steps + 1
    correction_1, correction_2 = _in_dtype(1 - beta_1**t, dtype), _in_dtype((1 - beta_2**t) ** 0.5, dtype)

    def update(w: Array, g: Array, slots: Slots) -> Updated:
        w, g = decayed(w, g, lr, *decay)
        where = large(g, slots["mean_square"])
        mean = averaged(slots["mean"], g, beta_1, where)
        mean_square, root = averaged_square(slots["mean_square"], g, beta_2, where)
        direction = mean / (root / correction_2 + epsilon)
        return w - lr / correction_1 * direction, {"mean": mean, "mean_square": mean_square}  # E17

    return update_each(update, values, gradients, memory, finite)


def _in_dtype(number: Any, dtype: Any) -> Any:
    """A number that depends on the step. In a captured step it is a float64 array, and is cast to ``dtype``."""
    return number.astype(dtype) if hasattr(number, "astype") else number


class Adam(Optimizer):
    """The mean gradient divided by the root of the mean square, both corrected for their start at 0 (Kingma, Ba 2015).

        m ← beta_1 · m + (1 − beta_1) · g          m̂ = m / (1 − beta_1^t)
        v ← beta_2 · v + (1 − beta_2) · g²         v̂ = v / (1 − beta_2^t)          w ← w − lr · m̂ / (√v̂ + epsilon)

    ``beta_1`` is the share of the mean that stays at each step, ``beta_2`` that of the mean square, and ``epsilon``
    keeps the quotient finite.

    >>> import dualnet as dn
    >>> net = dn.BatchNorm(center=False).init((2,))
    >>> dn.Adam(lr=0.5).step(net, {"gamma": dn.asarray([1.0, -20.0])})  # a first step is always lr long
    >>> dn.to_numpy(net.gamma.value).round(4)
    array([0.5, 1.5], dtype=float32)
    """

    slot_names = ("mean", "mean_square")

    def __init__(
        self,
        lr: Rate = 1e-3,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        no_decay: Sequence[str] = (),
    ) -> None:
        super().__init__(lr, weight_decay, clip_norm=clip_norm, clip_value=clip_value, no_decay=no_decay)
        owner = type(self).__name__
        self.beta_1, self.beta_2 = fraction(beta_1, "beta_1", op=owner), fraction(beta_2, "beta_2", op=owner)
        self.epsilon = positive(epsilon, "epsilon", op=owner)

    def update(self, w: Array, g: Array, slots: Slots, lr: float) -> Updated:
        betas, steps = (self.beta_1, self.beta_2), self._steps_not_skipped(w)
        return adam_updates([w], [g], [slots], lr, betas, self.epsilon, steps, (0.0, False), None, False)[0]

    def update_all(
        self, values: list[Array], gradients: list[Array], memory: list[Slots], lr: float, *how: Any
    ) -> list[Updated]:
        if type(self).update not in (Adam.update, AdamW.update):  # a class of your own
            return super().update_all(values, gradients, memory, lr, *how)
        betas, steps = (self.beta_1, self.beta_2), self._steps_not_skipped(values[0])
        decay = self.weight_decay, self.decoupled
        return adam_updates(values, gradients, memory, lr, betas, self.epsilon, steps, decay, *how)


class AdamW(Adam):
    """Adam with decoupled weight decay: first w ← (1 − lr · weight_decay) · w (Loshchilov and Hutter 2019).

    >>> import dualnet as dn
    >>> net = dn.BatchNorm(center=False).init((2,))
    >>> dn.optimizers.AdamW(lr=0.5, weight_decay=0.5).step(net, {"gamma": dn.asarray([0.0, 3.0])})
    >>> dn.to_numpy(net.gamma.value).round(4)
    array([0.75, 0.25], dtype=float32)
    """

    decoupled = True

    def __init__(
        self,
        lr: Rate = 1e-3,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        weight_decay: float = 0.01,
        *,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        no_decay: Sequence[str] = (),
    ) -> None:
        super().__init__(
            lr, beta_1, beta_2, epsilon, weight_decay, clip_norm=clip_norm, clip_value=clip_value, no_decay=no_decay
        )

    def update(self, w: Array, g: Array, slots: Slots, lr: float) -> Updated:
        w, g = decayed(w, g, lr, self.weight_decay, decoupled=True)
        return super().update(w, g, slots, lr)


# -- by name -----------------------------------------------------------------------------------------------------------


NAMES: dict[str, Callable[[], Optimizer]] = {
    "sgd": lambda: SGD(lr=0.01, momentum=0.9),
    "rmsprop": RMSProp,
    "adam": Adam,
    "adamw": AdamW,
}


def get(optimizer: str | Optimizer) -> Optimizer:
    """The optimizer itself, or a new one: ``sgd`` (lr=0.01, momentum=0.9), ``rmsprop``, ``adam`` or ``adamw``.

    >>> import dualnet as dn
    >>> dn.optimizers.get("adam").current_lr
    0.001
    """
    if isinstance(optimizer, Optimizer):
        return optimizer
    if isinstance(optimizer, type) and issubclass(optimizer, Optimizer):
        raise TypeError(f"optimizer is the class {optimizer.__name__}; write {optimizer.__name__}(lr=...)")
    if not isinstance(optimizer, str):
        raise TypeError(f"optimizer must be a name ({', '.join(NAMES)}) or an Optimizer, got {optimizer!r}")
    if optimizer.strip().lower() not in NAMES:
        raise ValueError(f"unknown optimizer {optimizer!r}; choose from {', '.join(NAMES)}, or pass an Optimizer")
    return NAMES[optimizer.strip().lower()]()
