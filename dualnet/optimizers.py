"""Gradient descent and its descendants: how parameters change once their gradients are known.

    E17   w ← w − η · ∂E/∂w

All four put a direction in the place of the plain gradient; the formulas are PyTorch's, so that its results are ours.
η, the learning rate ``lr``, is a number or a schedule (see :mod:`dualnet.schedules`), and may be set while training.

A step is all or nothing: it is computed in full before the first parameter changes. Nothing is overwritten: parameters
get new arrays, since a pullback may hold the old ones. What an optimizer remembers of a parameter (its *slots*) is kept
under the parameter's name, made when first needed, and follows the parameter to another backend.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from .arguments import count, flag, number, positive, share
from .backend import FLOATING, Array, accelerated, asarray, backend_of, namespace, to_numpy
from .initializers import Parameter
from .ops.sums import wide
from .schedules import Schedule, rate, rate_at

__all__ = ["SGD", "Adam", "AdamW", "Optimizer", "RMSProp", "clip_by_global_norm", "clip_by_value", "get"]

Gradients = dict[str, Array]
Slots = dict[str, Array]
Rate = float | Callable[[int], float]


class Optimizer:
    """Base class. One of your own defines ``slot_names`` and ``update(w, g, slots, lr) -> (new w, new slots)``.

    ``weight_decay`` λ adds λ·w to the gradient (the L2 penalty ½λ‖w‖²). ``clip_norm`` shortens the gradients of a step
    together to a greatest length, ``clip_value`` each of their elements; clipping comes before weight decay.

    >>> import dualnet as dn
    >>> class SignDescent(dn.optimizers.Optimizer):
    ...     def update(self, w, g, slots, lr):
    ...         return w - lr * dn.backend.backend_of(g).xp.sign(g), {}
    >>> net = dn.BatchNorm(center=False).init((2,))
    >>> SignDescent(lr=0.5).step(net, {"gamma": dn.asarray([3.0, -0.1])})
    >>> dn.to_numpy(net.gamma.value)
    array([0.5, 1.5], dtype=float32)
    """

    decoupled = False  # does update() see to the weight decay itself?

    def __init__(
        self, lr: Rate, weight_decay: float = 0.0, *, clip_norm: float | None = None, clip_value: float | None = None
    ) -> None:
        owner = type(self).__name__
        self.lr = lr
        self.weight_decay = number(weight_decay, "weight_decay", op=owner)
        self.clip_norm = None if clip_norm is None else positive(clip_norm, "clip_norm", op=owner)
        self.clip_value = None if clip_value is None else positive(clip_value, "clip_value", op=owner)
        self.steps = 0
        self._slots: dict[str, Slots] = {}

    # -- what an optimizer defines

    @property
    def slot_names(self) -> tuple[str, ...]:
        """The names of what is remembered of each parameter: arrays of its shape that start at 0."""
        return ()

    def update(self, w: Array, g: Array, slots: Slots, lr: float) -> tuple[Array, Slots]:
        """The new value and the new slots of one parameter, as new arrays; ``self.steps`` steps were made before."""
        raise TypeError(f"{type(self).__name__} defines no update(w, g, slots, lr)")

    # -- what every optimizer can do

    @property
    def lr(self) -> Rate:
        """The learning rate: a number, or a function of the step."""
        return self._lr

    @lr.setter
    def lr(self, value: Rate) -> None:
        self._lr = rate(value, "lr", op=type(self).__name__)

    @property
    def current_lr(self) -> float:
        """The learning rate of the coming step."""
        return rate_at(self._lr, self.steps, op=type(self).__name__)

    def observe(self, value: float) -> None:
        """Tell a schedule that listens (``Plateau``) the loss at the end of an epoch."""
        listen = getattr(self._lr, "observe", None)
        if listen is not None:
            listen(value)

    def step(self, net: Any, grads: Gradients) -> None:
        """Change every parameter in ``net.parameters()`` once, by its gradient in ``grads`` ({name: array}).

        Raises ``ValueError`` where names or shapes do not fit and ``TypeError`` where dtypes or backends do not; then
        nothing has changed.
        """
        if not hasattr(net, "parameters") or not isinstance(grads, dict):
            got = f"({type(net).__name__}, {type(grads).__name__})"
            raise TypeError(f"{type(self).__name__}.step: expected a network and its gradients by name, got {got}")
        parameters = net.parameters()
        self._check(parameters, grads)
        gradients = self._clipped({name: wide(grads[name]) for name in parameters})
        lr, values, slots = self.current_lr, {}, {}
        for name, parameter in parameters.items():
            w, g = wide(parameter.value), gradients[name]
            if self.weight_decay and not self.decoupled:
                g = g + self.weight_decay * w
            value, slots[name] = self.update(w, g, self._slots_of(name, w), lr)
            values[name] = value.astype(parameter.dtype, copy=False)
        for name, parameter in parameters.items():  # from here on nothing can fail
            parameter.value = values[name]
        self._slots.update({name: kept for name, kept in slots.items() if kept})
        self.steps += 1

    def state_dict(self) -> dict[str, Any]:
        """All that the next step depends on, flat: ``steps``, the rate or the schedule's memory, arrays by name.

        >>> import dualnet as dn
            >>> net, opt = dn.BatchNorm().init((2,)), dn.SGD(lr=0.5, momentum=0.9)
        >>> opt.step(net, {"gamma": dn.asarray([1.0, 2.0]), "beta": dn.asarray([0.0, 0.0])})
        >>> sorted(opt.state_dict())
        ['beta.velocity', 'gamma.velocity', 'lr', 'steps']
        """
        state: dict[str, Any] = {"steps": self.steps}
        if not callable(self._lr):
            state["lr"] = self._lr
        elif isinstance(self._lr, Schedule):
            state.update({f"schedule.{name}": value for name, value in self._lr.state_dict().items()})
        for name, slots in self._slots.items():
            state.update({f"{name}.{slot}": array for slot, array in slots.items()})
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state. Raises ``ValueError`` for one of another optimizer; then nothing has changed."""
        owner, rest = f"{type(self).__name__}.load_state_dict", dict(state)
        if "steps" not in rest or ("lr" in rest) == callable(self._lr):
            expected = "steps" if callable(self._lr) else "steps and lr"
            raise ValueError(f"{owner}: the state of such an optimizer has {expected}; got {', '.join(sorted(state))}")
        steps = count(rest.pop("steps"), "steps", op=owner, least=0)
        lr = number(rest.pop("lr"), "lr", op=owner) if "lr" in rest else None
        kept = {key for key in rest if key.rpartition(".")[2] in self.slot_names}
        memory = {key: rest.pop(key) for key in sorted(rest.keys() - kept) if key.startswith("schedule.")}
        slots = self._slots_from(rest, owner)
        if isinstance(self._lr, Schedule):
            self._lr.load_state_dict({key.removeprefix("schedule."): value for key, value in memory.items()})
        elif memory:
            raise ValueError(f"{owner}: the state has {', '.join(memory)}, but lr is no schedule that keeps a state")
        self.steps, self._slots = steps, slots
        if lr is not None:
            self._lr = lr

    def config(self) -> dict[str, Any]:
        """The optimizer's name and the arguments that make it again, as JSON can hold them."""
        names = list(inspect.signature(type(self).__init__).parameters)[1:]
        values = {name: getattr(self, name) for name in names}
        if callable(self._lr):
            values["lr"] = self._lr.config() if isinstance(self._lr, Schedule) else repr(self._lr)
        return {"name": type(self).__name__.lower(), **values}

    def __repr__(self) -> str:
        names = list(inspect.signature(type(self).__init__).parameters)[1:]
        return f"{type(self).__name__}({', '.join(f'{name}={getattr(self, name)!r}' for name in names)})"

    def _check(self, parameters: dict[str, Parameter], grads: Gradients) -> None:
        owner = f"{type(self).__name__}.step"
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
            namespace(owner, **{name: parameter.value, f"the gradient of {name}": grads[name]})

    def _clipped(self, gradients: Gradients) -> Gradients:
        if self.clip_value is not None:
            gradients = clip_by_value(gradients, self.clip_value)
        if self.clip_norm is not None:
            gradients, _ = clip_by_global_norm(gradients, self.clip_norm)
        return gradients

    def _slots_of(self, name: str, w: Array) -> Slots:
        """What is remembered of a parameter, where the parameter is now; zeros at the beginning."""
        backend = backend_of(w)
        kept = self._slots.get(name)
        if kept is None:
            return {slot: backend.xp.zeros(w.shape, dtype=w.dtype) for slot in self.slot_names}
        for slot, array in kept.items():
            if tuple(array.shape) != tuple(w.shape):
                raise ValueError(
                    f"{type(self).__name__}.step: {slot} of {name} has shape {tuple(array.shape)}, the parameter "
                    f"{tuple(w.shape)}. The state belongs to another network; use a new optimizer."
                )
        return {slot: asarray(array, w.dtype, backend=backend.name) for slot, array in kept.items()}

    def _slots_from(self, state: dict[str, Any], owner: str) -> dict[str, Slots]:
        result: dict[str, Slots] = {}
        faults = []
        for key, value in state.items():
            name, _, slot = key.rpartition(".")
            if slot in self.slot_names and backend_of(value) is not None and value.dtype.name in FLOATING:
                result.setdefault(name, {})[slot] = asarray(to_numpy(value).copy(), backend=backend_of(value).name)
            else:
                faults.append(key)
        faults += [f"{name} without its {s}" for name, kept in result.items() for s in self.slot_names if s not in kept]
        if faults:
            raise ValueError(f"{owner}: the state does not fit this optimizer ({'; '.join(faults)})")
        return {name: {slot: kept[slot] for slot in self.slot_names} for name, kept in result.items()}


class SGD(Optimizer):
    """Gradient descent, with momentum (Polyak 1964) and Nesterov's look ahead (Sutskever et al. 2013).

        v ← momentum · v + g          w ← w − lr · v          with nesterov   w ← w − lr · (g + momentum · v)

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
    ) -> None:
        super().__init__(lr, weight_decay, clip_norm=clip_norm, clip_value=clip_value)
        self.momentum = share(momentum, "momentum", op="SGD")
        self.nesterov = flag(nesterov, "nesterov", op="SGD")
        if nesterov and not self.momentum:
            raise ValueError("SGD: nesterov=True needs a momentum above 0, such as momentum=0.9")

    @property
    def slot_names(self) -> tuple[str, ...]:
        return ("velocity",) if self.momentum else ()

    def update(self, w: Array, g: Array, slots: Slots, lr: float) -> tuple[Array, Slots]:
        return sgd_update(w, g, slots, lr, self.momentum, self.nesterov)  # E17


@accelerated
def sgd_update(w: Array, g: Array, slots: Slots, lr: float, momentum: float, nesterov: bool) -> tuple[Array, Slots]:
    """E17 as SGD does it: the new w, and the new velocity if there is one."""
    if not momentum:
        return w - lr * g, {}  # E17
    velocity = momentum * slots["velocity"] + g
    return w - lr * (g + momentum * velocity if nesterov else velocity), {"velocity": velocity}  # E17


class RMSProp(Optimizer):
    """The gradient over the root of its mean square (Tieleman and Hinton 2012; ``centered``: Graves 2013).

        s ← rho · s + (1 − rho) · g²          w ← w − lr · g / (√s + epsilon)

    ``centered`` subtracts the square of the mean gradient from s; ``momentum`` gathers the quotients as in SGD.

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
    ) -> None:
        super().__init__(lr, weight_decay, clip_norm=clip_norm, clip_value=clip_value)
        self.rho, self.momentum = share(rho, "rho", op="RMSProp"), share(momentum, "momentum", op="RMSProp")
        self.epsilon = positive(epsilon, "epsilon", op="RMSProp")
        self.centered = flag(centered, "centered", op="RMSProp")

    @property
    def slot_names(self) -> tuple[str, ...]:
        mean, velocity = ("mean",) if self.centered else (), ("velocity",) if self.momentum else ()
        return ("mean_square", *mean, *velocity)

    def update(self, w: Array, g: Array, slots: Slots, lr: float) -> tuple[Array, Slots]:
        xp = backend_of(w).xp
        kept = {"mean_square": self.rho * slots["mean_square"] + (1 - self.rho) * (g * g)}
        spread = kept["mean_square"]
        if self.centered:
            kept["mean"] = slots["mean"] + (1 - self.rho) * (g - slots["mean"])
            spread = xp.maximum(spread - kept["mean"] * kept["mean"], 0.0)  # rounding may leave less than 0
        direction = g / (xp.sqrt(spread) + self.epsilon)
        if self.momentum:
            direction = kept["velocity"] = self.momentum * slots["velocity"] + direction
        return w - lr * direction, kept  # E17


class Adam(Optimizer):
    """The mean gradient over the root of the mean square, both freed of their start at 0 (Kingma and Ba 2015).

        m ← beta_1 · m + (1 − beta_1) · g          m̂ = m / (1 − beta_1^t)
        v ← beta_2 · v + (1 − beta_2) · g²         v̂ = v / (1 − beta_2^t)          w ← w − lr · m̂ / (√v̂ + epsilon)

    >>> import dualnet as dn
    >>> net = dn.BatchNorm(center=False).init((2,))
    >>> dn.Adam(lr=0.5).step(net, {"gamma": dn.asarray([1.0, -20.0])})  # a first step is always lr long
    >>> dn.to_numpy(net.gamma.value).round(4)
    array([0.5, 1.5], dtype=float32)
    """

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
    ) -> None:
        super().__init__(lr, weight_decay, clip_norm=clip_norm, clip_value=clip_value)
        owner = type(self).__name__
        self.beta_1, self.beta_2 = share(beta_1, "beta_1", op=owner), share(beta_2, "beta_2", op=owner)
        self.epsilon = positive(epsilon, "epsilon", op=owner)

    @property
    def slot_names(self) -> tuple[str, ...]:
        return ("mean", "mean_square")

    def update(self, w: Array, g: Array, slots: Slots, lr: float) -> tuple[Array, Slots]:
        return adam_update(w, g, slots, lr, (self.beta_1, self.beta_2), self.epsilon, self.steps + 1)  # E17


@accelerated
def adam_update(
    w: Array, g: Array, slots: Slots, lr: float, betas: tuple[float, float], epsilon: float, t: int
) -> tuple[Array, Slots]:
    """E17 as Adam does it in step t = 1, 2, …: the new w, mean and mean square."""
    mean = slots["mean"] + (1 - betas[0]) * (g - slots["mean"])
    mean_square = betas[1] * slots["mean_square"] + (1 - betas[1]) * (g * g)
    spread = backend_of(w).xp.sqrt(mean_square) / (1 - betas[1] ** t) ** 0.5 + epsilon
    return w - lr / (1 - betas[0] ** t) * (mean / spread), {"mean": mean, "mean_square": mean_square}  # E17


class AdamW(Adam):
    """Adam whose weight decay is a step of its own, w ← (1 − lr · weight_decay) · w (Loshchilov and Hutter 2019).

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
    ) -> None:
        super().__init__(lr, beta_1, beta_2, epsilon, weight_decay, clip_norm=clip_norm, clip_value=clip_value)

    def update(self, w: Array, g: Array, slots: Slots, lr: float) -> tuple[Array, Slots]:
        return super().update(w * (1 - lr * self.weight_decay), g, slots, lr)


def clip_by_global_norm(grads: Gradients, max_norm: float) -> tuple[Gradients, Array]:
    """Shorten all gradients by one factor, so that together they are at most ``max_norm`` long (Pascanu et al. 2013).

    Returns the gradients, g · min(1, max_norm / (‖g‖ + 10⁻⁶)) as in PyTorch, and ‖g‖ as an array without axes: nothing
    is read back from the device.

    >>> import dualnet as dn
    >>> grads = {"w": dn.asarray([3.0, 0.0]), "b": dn.asarray([4.0])}
    >>> clipped, norm = dn.optimizers.clip_by_global_norm(grads, max_norm=1.0)
    >>> dn.to_numpy(clipped["w"]).round(4), float(dn.to_numpy(norm))
    (array([0.6, 0. ], dtype=float32), 5.0)
    """
    max_norm = positive(max_norm, "max_norm", op="clip_by_global_norm")
    if not grads:
        return {}, asarray(0.0)
    xp = namespace("clip_by_global_norm", **grads)
    norm = xp.sqrt(sum(xp.sum(w * w) for w in map(wide, grads.values())))
    factor = xp.minimum(max_norm / (norm + 1e-6), 1.0)
    return {name: g * factor.astype(g.dtype) for name, g in grads.items()}, norm


def clip_by_value(grads: Gradients, limit: float) -> Gradients:
    """Every element of every gradient brought into [−limit, limit].

    >>> import dualnet as dn
    >>> dn.to_numpy(dn.optimizers.clip_by_value({"w": dn.asarray([3.0, -0.5])}, 1.0)["w"])
    array([ 1. , -0.5], dtype=float32)
    """
    limit = positive(limit, "limit", op="clip_by_value")
    if not grads:
        return {}
    xp = namespace("clip_by_value", **grads)
    return {name: xp.clip(g, -limit, limit) for name, g in grads.items()}


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
        raise TypeError(f"optimizer is a name ({', '.join(NAMES)}) or an Optimizer, got {optimizer!r}")
    if optimizer.strip().lower() not in NAMES:
        raise ValueError(f"unknown optimizer {optimizer!r}; choose from {', '.join(NAMES)}, or give an Optimizer")
    return NAMES[optimizer.strip().lower()]()
