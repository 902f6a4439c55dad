"""The base class of all optimizers: one step of all parameters, and the memory from step to step.

    E17   w ← w − η · ∂E/∂w

The formulas themselves are in :mod:`dualnet.optimizers.rules`. η, the learning rate ``lr``, is a number or a schedule
(see :mod:`dualnet.schedules`), and may be set while training.

A step is all or nothing: it is computed in full before the first parameter changes. Nothing is overwritten: parameters
get new arrays, since a pullback may hold the old ones. (Only a captured step, see :func:`dualnet.capture`, overwrites
arrays, and only those that it has created itself.) What an optimizer remembers about a parameter (its *slots*) starts
at 0, and follows the parameter to another backend.

An optimizer belongs to the parameters of its first step: to these objects, not to their names. Names are for files. Any
other network raises an error, even a copy, because momentum and the number of steps mean nothing to it. An optimizer
that was loaded, copied or unpickled belongs to the network of its next step, whose parameters it finds by name.
"""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Callable, Sequence
from typing import Any

from ..arguments import count, number, positive
from ..layers.parameter import Parameter
from ..ops.sums import wide
from ..recording import Stateful, assign, counted, live, owned, unshared
from ..shim import Array, asarray, backend_of, to_numpy
from ..shim.dtypes import FLOATING
from .gradients import Gradients, check_gradients, clip_by_global_norm, clip_by_value
from .schedules import Rate, Schedule, check_owner, rate, rate_at

__all__ = ["Optimizer", "Slots", "Updated", "decayed", "update_each"]

Slots = dict[str, Array]
"""The memory for one parameter, by name."""
Updated = tuple[Array, Slots]
"""A parameter's new value and new slots."""

AS_SAVED = "Create the optimizer with the arguments of the saved one"


class Optimizer(Stateful):
    """Base class. One of your own defines ``slot_names`` and ``update(w, g, slots, lr) -> (new w, new slots)``.

    ``weight_decay`` λ adds λ·w to the gradient (the L2 penalty ½λ‖w‖²). ``clip_norm`` limits the length of all
    gradients of a step together, ``clip_value`` each of their elements; clipping comes before weight decay.

    ``no_decay`` leaves parameters out of weight decay: by kind (``"b"``, ``"gamma"``, ``"beta"``), by layer (``"0"``)
    or by name (``"0.w"``).

    >>> import dualnet as dn
    >>> class SignDescent(dn.optimizers.Optimizer):
    ...     def update(self, w, g, slots, lr):
    ...         return w - lr * dn.backend.backend_of(g).xp.sign(g), {}
    >>> net = dn.BatchNorm(center=False).init((2,))
    >>> SignDescent(lr=0.5).step(net, {"gamma": dn.asarray([3.0, -0.1])})
    >>> dn.to_numpy(net.gamma.value)
    array([0.5, 1.5], dtype=float32)
    """

    no_decay: tuple[str, ...] = ()
    decoupled = False
    """True if ``update`` applies the weight decay itself, as in AdamW."""

    def __init__(
        self,
        lr: Rate,
        weight_decay: float = 0.0,
        *,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        no_decay: Sequence[str] = (),
    ) -> None:
        owner = type(self).__name__
        self.lr = lr
        self.weight_decay = number(weight_decay, "weight_decay", op=owner)
        self.clip_norm = None if clip_norm is None else positive(clip_norm, "clip_norm", op=owner)
        self.clip_value = None if clip_value is None else positive(clip_value, "clip_value", op=owner)
        if isinstance(no_decay, str) or not all(isinstance(name, str) for name in no_decay):
            raise TypeError(
                f"{owner}: no_decay must be a list of names such as ['b', 'gamma', 'beta'], got {no_decay!r}"
            )
        self.no_decay = tuple(no_decay)
        self._steps = 0
        self._skipped: Array | None = None  # how many of them were skipped: an array, never read back
        self._slots: dict[str, Slots] = {}  # by the parameter's name in the first step
        self._owners: dict[str, weakref.ref[Parameter]] = {}  # their parameters; weak, so no network stays alive

    # -- the methods that an optimizer defines

    slot_names: tuple[str, ...] = ()
    """The names of its slots: for each parameter, arrays of the same shape that start at 0."""

    def update(self, w: Array, g: Array, slots: Slots, lr: float) -> Updated:
        """The new value and the new slots of one parameter, as new arrays; ``self.steps`` counts the steps before."""
        raise TypeError(f"{type(self).__name__} defines no update(w, g, slots, lr)")

    def update_all(
        self,
        values: list[Array],
        gradients: list[Array],
        memory: list[Slots],
        lr: float,
        finite: Array | None,
        into: bool,
    ) -> list[Updated]:
        """:meth:`update` for every parameter, weight decay included.

        ``finite`` is None or a 0-d array: if it is False, everything stays as it is. ``into`` is True in a captured
        step that has created all these arrays itself: a kernel may then overwrite and return them.
        """

        def update(w: Array, g: Array, slots: Slots) -> Updated:
            if not self.decoupled:
                w, g = decayed(w, g, lr, self.weight_decay)
            return _checked(type(self).__name__, self.update(w, g, slots, lr), w, slots)

        return update_each(update, values, gradients, memory, finite)

    # -- a step

    @property
    def lr(self) -> Rate:
        """The learning rate: a number, or a function of the step."""
        return self._lr

    @lr.setter
    def lr(self, value: Rate) -> None:
        value = rate(value, "lr", op=type(self).__name__)
        check_owner(value, self)
        self._lr = value

    @property
    def current_lr(self) -> float:
        """The learning rate of the next step."""
        return rate_at(self._lr, self._steps, op=type(self).__name__)

    @property
    def steps(self) -> int:
        """The number of steps so far."""
        return live(self, "_steps")

    def observe(self, value: float) -> None:
        """Pass the loss at the end of an epoch to a schedule that watches it (``Plateau``)."""
        check_owner(self._lr, self, observing=True)
        getattr(self._lr, "observe", lambda value: None)(value)

    def step(self, net: Any, grads: Gradients, finite: Array | None = None) -> None:
        """Change every parameter in ``net.parameters()`` once, by its gradient in ``grads`` ({name: array}).

        Frozen parameters (:meth:`Layer.freeze`) stay as they are, whether they have a gradient or not.

        ``finite`` is a 0-d bool array. If it is False, the step is skipped: only the number of steps, on which
        schedules depend, still grows (see :class:`dualnet.LossScale`). The value is not read back.

        Raises ``ValueError`` if names or shapes do not fit, or if the optimizer has trained another network, and
        ``TypeError`` if dtypes or backends do not fit; nothing changes then.
        """
        self._check_made()
        if not hasattr(net, "parameters") or not isinstance(grads, dict):
            got = f"({type(net).__name__}, {type(grads).__name__})"
            raise TypeError(f"{type(self).__name__}.step: expected a network and its gradients by name, got {got}")
        parameters = net.parameters()
        frozen = {name: parameter for name, parameter in parameters.items() if parameter.frozen}
        if frozen:
            parameters = {name: parameter for name, parameter in parameters.items() if name not in frozen}
            grads = {name: g for name, g in grads.items() if name not in frozen}
        check_gradients(f"{type(self).__name__}.step", parameters, grads)
        counted(self, "_steps")
        if parameters:
            self._change(parameters, self._clipped({name: grads[name] for name in parameters}), finite)
        for name, parameter in frozen.items():
            self._owners.setdefault(name, weakref.ref(parameter))  # it belongs here too: it may be unfrozen
        self._steps += 1

    def _change(self, parameters: dict[str, Parameter], gradients: Gradients, finite: Array | None) -> None:
        keys = self._keys(parameters, f"{type(self).__name__}.step")
        values = [wide(parameter.value) for parameter in parameters.values()]
        slots = [self._slots_for(key, w) for key, w in zip(keys, values)]
        on_host = backend_of(values[0]).on_host  # there a number has 64 bits until it meets an array
        lr = live(self, "current_lr", "float64" if on_host else values[0].dtype.name)
        into = all(owned(parameter, "value") for parameter in parameters.values())
        into = into and all(owned(self, ("_slots", name, slot)) for name, kept in self._slots.items() for slot in kept)
        updated = self._updated(list(parameters), values, gradients, slots, lr, finite, into)
        rounded = [value.astype(p.dtype, copy=False) for p, (value, _) in zip(parameters.values(), updated)]
        for key, parameter, value, (_, kept) in zip(
            keys, parameters.values(), rounded, updated
        ):  # nothing can fail from here on
            self._owners.setdefault(key, weakref.ref(parameter))
            assign(parameter, "value", value)
            for slot, array in kept.items():
                assign(self, ("_slots", key, slot), array)
        if finite is not None:
            assign(self, "_skipped", self._skipped_near(finite) + (1 - finite.astype("uint64")))

    def _updated(
        self, names: list[str], values: list[Array], gradients: Gradients, memory: list[Slots], lr: float, *how: Any
    ) -> list[Updated]:
        """:meth:`update_all`, without weight decay for the parameters in ``no_decay``."""
        spared = [place for place, name in enumerate(names) if self._spares(name)] if self.weight_decay else []
        if self.no_decay and self.weight_decay and not spared:
            raise ValueError(
                f"{type(self).__name__}: no_decay={list(self.no_decay)} names none of the parameters, which are "
                f"{', '.join(names)}. Nothing was changed."
            )
        if not spared:
            return self.update_all(values, [gradients[name] for name in names], memory, lr, *how)
        updated: dict[int, Updated] = {}
        decay = self.weight_decay
        for weight_decay, places in ((decay, [*{*range(len(names))}.difference(spared)]), (0.0, spared)):
            some = [[part[place] for place in places] for part in (values, [gradients[n] for n in names], memory)]
            try:
                vars(self)["weight_decay"] = weight_decay  # for these only
                if places:
                    updated |= zip(places, self.update_all(some[0], some[1], some[2], lr, *how))
            finally:
                vars(self)["weight_decay"] = decay
        return [updated[place] for place in range(len(names))]

    def _spares(self, name: str) -> bool:
        """Is this parameter left out of weight decay: by its name, its kind, or the layer that it is in?"""
        return any(
            name in (one, f"{name.rpartition('.')[0]}.{one}") or name.startswith(f"{one}.") for one in self.no_decay
        )

    def _clipped(self, gradients: Gradients) -> Gradients:
        if self.clip_value is None and self.clip_norm is None:
            return gradients
        gradients = {name: wide(g) for name, g in gradients.items()}
        if self.clip_value is not None:
            gradients = clip_by_value(gradients, self.clip_value)
        if self.clip_norm is not None:
            gradients, _ = clip_by_global_norm(gradients, self.clip_norm)
        return gradients

    # -- the network it belongs to

    def check_network(self, net: Any, owner: str = "") -> None:
        """Raise ``ValueError`` if the optimizer has trained another network; ``fit`` checks before its first step.

        >>> import dualnet as dn
        >>> net, opt = dn.BatchNorm(center=False).init((2,)), dn.SGD(lr=0.5)
        >>> opt.step(net, {"gamma": dn.asarray([1.0, 2.0])})
        >>> opt.check_network(net)
        >>> opt.check_network(net.copy())  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ...
        ValueError: SGD has trained another network (1 step), and its memory belongs to that one. Create ...
        """
        self._check_made()
        self._keys({name: p for name, p in net.parameters().items() if not p.frozen}, owner)

    def _check_made(self) -> None:
        """Raise ``TypeError`` if a class of the user's has an ``__init__`` that forgets this one's."""
        if "_owners" not in vars(self):
            name = type(self).__name__
            raise TypeError(f"{name}: its __init__ must call super().__init__(lr), which begins its memory")

    def _keys(self, parameters: dict[str, Parameter], owner: str) -> list[str]:
        """The names under which the optimizer stores its memory of these parameters."""
        owners = self._owners
        if all(name in owners and owners[name]() is parameter for name, parameter in parameters.items()):
            return list(parameters)
        alive = {id(parameter): key for key, ref in owners.items() if (parameter := ref()) is not None}
        free = {name for name in parameters if name not in owners and (name in self._slots or not self._remembers)}
        keys = {name: alive.get(id(p), name if name in free else None) for name, p in parameters.items()}
        unknown = [name for name, key in keys.items() if key is None]
        if unknown:
            raise ValueError(self._not_mine(unknown, len(unknown) == len(keys), owner))
        return list(keys.values())  # type: ignore[arg-type]

    @property
    def _remembers(self) -> bool:
        return bool(self._owners or self._slots)

    def _not_mine(self, unknown: list[str], all_of_them: bool, owner: str) -> str:
        """The message for parameters that the optimizer has no memory of, though it has made steps."""
        kind, steps = type(self).__name__, f"{self._steps} step{'s' * (self._steps != 1)}"
        listed = ", ".join(unknown[:4]) + ", ..." * (len(unknown) > 4)
        owner = f"{owner}: " * bool(owner)
        if not self._owners:
            return (
                f"{owner}the state that {kind} has loaded ({steps}) has nothing for {listed}: it belongs to another "
                f"network. Load the state that was saved with this one, or create a new optimizer: {kind}(...)."
            )
        if not all_of_them:
            return (
                f"{owner}{kind} has made {steps} without the parameters {listed}, and has no memory of them. Create "
                f"a new optimizer when a network gets new parameters: {kind}(...)."
            )
        return (
            f"{owner}{kind} has trained another network ({steps}), and its memory belongs to that one. Create an "
            f"optimizer for each network: {kind}(...). A copy of a network, or one that was initialised again, is "
            "another network; to continue with a copy, give it a copy of the optimizer: copy.deepcopy(optimizer)."
        )

    def __getstate__(self) -> dict[str, Any]:
        """For copies and pickles: everything except the owners, since a copy belongs to another network."""
        return {**vars(self), "_owners": {}}

    def _slots_for(self, name: str, w: Array) -> Slots:
        """The slots of a parameter, on its backend; zeros at the beginning."""
        backend = backend_of(w)
        kept = self._slots.get(name)
        if kept is None:
            return {slot: backend.xp.zeros(w.shape, dtype=w.dtype) for slot in self.slot_names}
        for slot, array in kept.items():
            if tuple(array.shape) != tuple(w.shape):
                raise ValueError(
                    f"{type(self).__name__}.step: {slot} of {name} has shape {tuple(array.shape)}, the parameter "
                    f"{tuple(w.shape)}. The loaded state belongs to another network; create a new optimizer."
                )
        return {slot: asarray(array, w.dtype, backend=backend.name) for slot, array in kept.items()}

    def _steps_not_skipped(self, w: Array) -> Any:
        """How many steps changed something: a number, or an array on w's backend."""
        return self.steps if self._skipped is None else self.steps - self._skipped_near(w)

    def _skipped_near(self, w: Array) -> Any:
        """How many steps were skipped: 0, or an array on w's backend."""
        return 0 if self._skipped is None else asarray(self._skipped, backend=backend_of(w).name)

    # -- saving and loading

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next step depends on: ``steps``, the rate or the schedule's state, and arrays by name.

        Later steps do not change these arrays: what a captured step overwrites is copied.

        >>> import dualnet as dn
        >>> net, opt = dn.BatchNorm().init((2,)), dn.SGD(lr=0.5, momentum=0.9)
        >>> opt.step(net, {"gamma": dn.asarray([1.0, 2.0]), "beta": dn.asarray([0.0, 0.0])})
        >>> sorted(opt.state_dict())
        ['beta.velocity', 'gamma.velocity', 'lr', 'steps']
        """
        state: dict[str, Any] = {"steps": self._steps} | ({} if self._skipped is None else {"skipped": self._skipped})
        if not callable(self._lr):
            state["lr"] = self._lr
        elif isinstance(self._lr, Schedule):
            state.update({f"schedule.{name}": value for name, value in self._lr.state_dict().items()})
        for name, slots in self._slots.items():
            state.update({f"{name}.{slot}": array for slot, array in slots.items()})
        return unshared(state)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a saved state: the parameters of the next network get what was saved under their names.

        Raises ``ValueError``, and changes nothing, if a different optimizer saved the state.
        """
        owner, rest = f"{type(self).__name__}.load_state_dict", dict(state)
        if "steps" not in rest:
            raise ValueError(f"{owner}: expected the state of an optimizer, with its steps; got {', '.join(state)}")
        if ("lr" in rest) == callable(self._lr):
            was, now = ("a number", "a schedule") if callable(self._lr) else ("a schedule", "a number")
            raise ValueError(f"{owner}: lr was {was} when saved, but is {now} here. {AS_SAVED}; set its lr afterwards.")
        steps = count(rest.pop("steps"), "steps", op=owner, least=0)
        skipped = rest.pop("skipped", None)
        lr = number(rest.pop("lr"), "lr", op=owner) if "lr" in rest else None
        kept = {key for key in rest if key.rpartition(".")[2] in self.slot_names}
        memory = {key: rest.pop(key) for key in sorted(rest.keys() - kept) if key.startswith("schedule.")}
        slots = self._slots_in(rest, owner)
        if isinstance(self._lr, Schedule):
            try:
                self._lr.load_state_dict({key.removeprefix("schedule."): value for key, value in memory.items()})
            except ValueError as error:
                raise ValueError(f"{owner}: {error}. {AS_SAVED}.") from error
        elif memory:
            raise ValueError(f"{owner}: the state has {', '.join(memory)}, but lr is not a schedule that has a state")
        self._steps, self._slots, self._owners = steps, slots, {}
        self._skipped = None if skipped is None else asarray(skipped, "uint64")
        if lr is not None:
            self._lr = lr

    def config(self) -> dict[str, Any]:
        """The optimizer's name and the arguments that create it again, in a form that JSON can hold."""
        values = {name: getattr(self, name) for name in self._arguments()}
        if "no_decay" in values:
            values["no_decay"] = list(values["no_decay"])
        if callable(self._lr):
            values["lr"] = self._lr.config() if isinstance(self._lr, Schedule) else repr(self._lr)
        return {"name": type(self).__name__.lower(), **values}

    def _arguments(self) -> list[str]:
        """The names of the constructor's arguments; ``no_decay`` only if it was given."""
        names = list(inspect.signature(type(self).__init__).parameters)[1:]
        return [name for name in names if name != "no_decay" or self.no_decay]

    def __repr__(self) -> str:
        given = [f"{name}={getattr(self, name)!r}" for name in self._arguments() if hasattr(self, name)]
        return f"{type(self).__name__}({', '.join(given)})"

    def _slots_in(self, state: dict[str, Any], owner: str) -> dict[str, Slots]:
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
            raise ValueError(f"{owner}: the state does not fit {self!r} ({'; '.join(faults)}). {AS_SAVED}.")
        return {name: {slot: kept[slot] for slot in self.slot_names} for name, kept in result.items()}


# -- parameter by parameter --------------------------------------------------------------------------------------------


def decayed(w: Array, g: Array, lr: float, weight_decay: float, decoupled: bool = False) -> tuple[Array, Array]:
    """w and g after weight decay λ: g + λ·w, the gradient of E + ½λ‖w‖²; or, if ``decoupled``, w·(1 − lr·λ)."""
    if not weight_decay:
        return w, g
    return (w * (1 - lr * weight_decay), g) if decoupled else (w, g + weight_decay * w)


def update_each(
    update: Callable[[Array, Array, Slots], Updated],
    values: list[Array],
    gradients: list[Array],
    memory: list[Slots],
    finite: Array | None,
) -> list[Updated]:
    """``update(w, g, slots)`` for one parameter after another; if ``finite`` is False, w and slots do not change."""
    return [
        _chosen(finite, update(w, g.astype(w.dtype, copy=False), slots), (w, slots))  # g may have 16 bits
        for w, g, slots in zip(values, gradients, memory)
    ]


def _chosen(finite: Array | None, new: Updated, old: Updated) -> Updated:
    if finite is None:
        return new
    (w, slots), (old_w, old_slots), where = new, old, backend_of(finite).xp.where
    return where(finite, w, old_w), {name: where(finite, slot, old_slots[name]) for name, slot in slots.items()}


def _checked(owner: str, result: Any, w: Array, slots: Slots) -> Updated:
    """The result of an optimizer's ``update``, checked to be a value and slots that fit."""
    if not (isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], dict)):
        raise TypeError(f"{owner}.update returned a {type(result).__name__}; expected a pair (new w, new slots)")
    shape = tuple(getattr(result[0], "shape", ()))
    if shape != tuple(w.shape) or slots.keys() != result[1].keys():
        raise ValueError(
            f"{owner}.update returned a w of shape {shape} and the slots {', '.join(result[1]) or 'none'}; expected "
            f"{tuple(w.shape)} and {', '.join(slots) or 'none'}, which the class names in slot_names"
        )
    return result
