"""What a network has learned: parameters and running statistics, by name, through all the layers inside."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any, Self, TypeVar

from ..recording import Stateful, unshared
from ..shim import Array, asarray, backend_of, load, to_numpy
from .following import together
from .parameter import Parameter

Forward = TypeVar("Forward", bound=Callable[..., Any])


class LayerTree(Stateful):
    """A layer with the layers inside it, and what all of them have learned. Every :class:`dualnet.Layer` is one.

    >>> import dualnet as dn
    >>> net = dn.Sequential([dn.Dense(3), dn.BatchNorm()]).init((2,))
    >>> [f"{name}: {type(layer).__name__}" for name, layer in net.walk() if name]
    ['0: Dense', '1: BatchNorm']
    >>> sorted(net.state_dict())
    ['0.b', '0.w', '1.beta', '1.gamma', '1.moving_mean', '1.moving_variance']
    """

    state_names: tuple[str, ...] = ()  # attributes in the state besides parameters (running statistics)

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(vars(self).get(name), Parameter) and backend_of(value) is not None:
            owner = type(self).__name__
            raise TypeError(f"{owner}: {name} is a parameter, not an array. Write layer.{name}.value = array instead")
        super().__setattr__(name, value)

    # -- the layers inside

    def children(self) -> dict[str, Any]:
        """The layers inside, by name."""
        return {}

    def walk(self, prefix: str = "") -> Iterator[tuple[str, LayerTree]]:
        """Every layer inside, this one first (``""``), by its dotted name; a shared one at each of its places."""
        yield prefix, self
        for name, child in self.children().items():
            yield from child.walk(f"{prefix}.{name}" if prefix else name)

    # -- what they have learned

    def parameters(self) -> dict[str, Parameter]:
        """Every trainable parameter by its name, such as ``"0.w"``; a shared one has its first name."""
        found: dict[str, Parameter] = {}
        self._gather("", found, set())
        return found

    def _gather(self, prefix: str, found: dict[str, Parameter], seen: set[int]) -> None:
        for name, value in vars(self).items():
            if isinstance(value, Parameter) and id(value) not in seen:
                seen.add(id(value))
                found[prefix + name] = value
        for name, child in self.children().items():
            child._gather(f"{prefix}{name}.", found, seen)

    def _statistics(self) -> dict[str, tuple[LayerTree, str]]:
        """The layer and the attribute that hold the rest of the state, by name; a shared one has its first name."""
        found: dict[str, tuple[LayerTree, str]] = {}
        seen: set[tuple[int, str]] = set()
        for path, layer in self.walk():
            for attribute in layer.state_names:
                if (id(layer), attribute) not in seen:
                    seen.add((id(layer), attribute))
                    found[f"{path}.{attribute}" if path else attribute] = layer, attribute
        return found

    def state_dict(self) -> dict[str, Array]:
        """Parameters and running statistics by name: everything that the layer has learned.

        Training does not change these arrays: a step sets new ones, and what a captured step overwrites is copied.
        """
        return unshared(self._state())

    def _state(self) -> dict[str, Array]:
        """The very arrays, which a captured step may overwrite."""
        state = {name: parameter.value for name, parameter in self.parameters().items()}
        return state | {name: getattr(*place) for name, place in self._statistics().items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load all values of ``state``. If anything does not fit, the error lists it, and nothing changes."""
        if not isinstance(state, Mapping):
            raise TypeError(
                f"load_state_dict: state is a {type(state).__name__}; expected arrays by name, as state_dict() returns "
                "them. To read a file, call dn.load(path)."
            )
        mine = self._state()
        self._check_state(state, mine)
        values = {name: _converted_copy(state[name], old) for name, old in mine.items()}
        for name, parameter in self.parameters().items():
            parameter.value = values[name]
        for name, (layer, attribute) in self._statistics().items():
            setattr(layer, attribute, values[name])

    def _check_state(self, state: Mapping[str, Any], mine: dict[str, Any]) -> None:
        misshaped = [
            f"{name} {_shape(state[name])}, expected {_shape(mine[name])}"
            for name in mine.keys() & state.keys()
            if _shape(state[name]) != _shape(mine[name])
        ]
        missing, unexpected = mine.keys() - state.keys(), state.keys() - mine.keys()
        faults = {"missing": sorted(missing), "unexpected": sorted(unexpected), "of the wrong shape": sorted(misshaped)}
        if any(faults.values()):
            listed = "; ".join(f"{fault}: {', '.join(names)}" for fault, names in faults.items() if names)
            raise ValueError(f"load_state_dict: the state does not fit this {type(self).__name__} ({listed})")

    # -- where they are

    def to(self, backend: str) -> Self:
        """Move every value to a backend. Parameters keep their identity, so an optimizer stays valid."""
        name = load(backend).name
        for parameter in self.parameters().values():
            parameter.value = asarray(parameter.value, backend=name)
        for layer, attribute in self._statistics().values():
            value = getattr(layer, attribute)
            if backend_of(value) is not None:
                setattr(layer, attribute, asarray(value, backend=name))
        return self

    def copy(self) -> Self:
        """An independent copy; what is shared inside stays shared inside."""
        return copy.deepcopy(self)


# -- all or nothing ----------------------------------------------------------------------------------------------------


@contextmanager
def all_or_nothing(net: LayerTree, *others: Any) -> Iterator[None]:
    """If the block raises an error, restore the network and the others, such as an optimizer, to their earlier state.

    Layers and optimizers never overwrite an array; they set new ones. So it is enough to remember the arrays and
    numbers that their attributes and dictionaries held; no array is copied. (A captured step does overwrite arrays:
    :mod:`dualnet.training.capture` takes care of those.)

    >>> import dualnet as dn
    >>> norm = dn.BatchNorm().init((1,))
    >>> try:
    ...     with all_or_nothing(norm):
    ...         y, pullback = norm.forward(dn.asarray([[1.0], [3.0]]), train=True)
    ...         raise MemoryError
    ... except MemoryError:
    ...     print(dn.to_numpy(norm.moving_mean))
    [0.]
    """
    layers = {id(layer): layer for _, layer in net.walk()}
    owners = (*layers.values(), *(other for other in others if other is not None))
    before = [(owner, _remembered(vars(owner))) for owner in owners]
    values = [(parameter, parameter.value) for parameter in net.parameters().values()]
    outer = _guarded.set(layers)
    try:
        yield
    except BaseException:
        for owner, had in before:
            _put_back(vars(owner), had)
        for parameter, value in values:
            if parameter.value is not value:
                object.__setattr__(parameter, "value", value)  # its 16-bit copy belongs to the other value
        raise
    finally:
        _guarded.reset(outer)


def undone_if_it_fails(forward: Forward) -> Forward:
    """Mark the ``forward`` of a container: if it raises an error in training, no layer inside moves its statistics.

    If another marked container or a training step surrounds it, that one takes care of everything.

    >>> @undone_if_it_fails
    ... def forward(self, x, train=False): ...
    """

    @functools.wraps(forward)
    def marked(self: LayerTree, x: Array, train: bool = False, *arguments: Any, **options: Any) -> Any:
        if not train:
            return forward(self, x, train, *arguments, **options)
        guard = nullcontext() if id(self) in _guarded.get() else all_or_nothing(self)
        with guard, together():
            return forward(self, x, train, *arguments, **options)

    return marked  # type: ignore[return-value]


_guarded: ContextVar[Mapping[int, Any]] = ContextVar("dualnet_guarded_layers", default=MappingProxyType({}))
"""The layers, by identity, that a surrounding :func:`all_or_nothing` restores."""


def _remembered(attributes: dict[str, Any]) -> dict[str, Any]:
    """A copy of the attributes, dictionaries included; their values are not copied."""
    return {name: _remembered(value) if type(value) is dict else value for name, value in attributes.items()}


def _put_back(attributes: dict[str, Any], had: dict[str, Any]) -> None:
    for name in attributes.keys() - had.keys():
        del attributes[name]
    attributes.update(had)


def name_of(layer: str | LayerTree, net: LayerTree, op: str) -> str:
    """The dotted name of a layer inside a network; pass that name or the layer itself.

    >>> import dualnet as dn
    >>> net = dn.Sequential([dn.Dense(3), dn.ReLU()])
    >>> name_of(net[1], net, "viz.maps"), name_of("0", net, "viz.maps")
    ('1', '0')
    """
    names = dict(net.walk())
    if isinstance(layer, str) and layer in names:
        return layer
    for name, inside in names.items():
        if inside is layer:
            return name
    listed = ", ".join(repr(name) for name in names if name)
    raise ValueError(f"{op}: the network has no layer {layer!r}; its layers are {listed or 'none but itself'}")


def _converted_copy(value: Any, old: Any) -> Any:
    """A copy of ``value`` that can replace ``old``: an array of its dtype on its backend, or a number of its type."""
    backend = backend_of(old)
    if backend is None:
        return type(old)(value)
    copied = to_numpy(value) if backend_of(value) is not None else value
    return asarray(copied.copy() if hasattr(copied, "copy") else copied, old.dtype, backend=backend.name)


def _shape(value: Any) -> Any:
    """The shape of an array, () for a number; for a list, which is not an array, the name of its type."""
    return type(value).__name__ if isinstance(value, (list, tuple)) else tuple(getattr(value, "shape", ()))
