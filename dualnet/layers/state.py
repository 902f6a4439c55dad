"""What a network has learned: parameters and running statistics, by name, through all the layers inside."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Self

from ..recording import Stateful
from ..shim import Array, asarray, backend_of, load, to_numpy
from .parameter import Parameter


class LayerTree(Stateful):
    """The layers inside a layer, and what all of them have learned. Every :class:`dualnet.Layer` is one.

    >>> import dualnet as dn
    >>> net = dn.Sequential([dn.Dense(3), dn.BatchNorm()]).init((2,))
    >>> [f"{name}: {type(layer).__name__}" for name, layer in net.walk() if name]
    ['0: Dense', '1: BatchNorm']
    >>> sorted(net.state_dict())
    ['0.b', '0.w', '1.beta', '1.gamma', '1.moving_mean', '1.moving_variance']
    """

    state_names: tuple[str, ...] = ()  # attributes beside the parameters that belong to the state (running statistics)

    def children(self) -> dict[str, Any]:
        """The layers inside, by name."""
        return {}

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(vars(self).get(name), Parameter) and backend_of(value) is not None:
            owner = type(self).__name__
            raise TypeError(f"{owner}: {name} is a parameter, not an array. Write layer.{name}.value = array")
        super().__setattr__(name, value)

    def parameters(self) -> dict[str, Parameter]:
        """Every trainable parameter by its name, such as ``"0.w"``; a shared one stands under its first name."""
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

    def state_dict(self) -> dict[str, Array]:
        """Parameters and running statistics by name: all that the layer has learned."""
        states = self._all(lambda layer: {name: layer for name in layer.state_names})
        seen: set[tuple[int, str]] = set()
        result = {name: parameter.value for name, parameter in self.parameters().items()}
        for name, layer in states:
            attribute = name.rpartition(".")[2]
            if (id(layer), attribute) not in seen:
                seen.add((id(layer), attribute))
                result[name] = getattr(layer, attribute)
        return result

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over all values of ``state``. Whatever does not fit is listed, and then nothing has changed."""
        if not isinstance(state, Mapping):
            raise TypeError(
                f"load_state_dict: state is a {type(state).__name__}; expected arrays by name, as state_dict() has "
                "them. A file is read with dn.load(path)."
            )
        mine = self.state_dict()
        missing, unexpected = mine.keys() - state.keys(), state.keys() - mine.keys()
        misshaped = [
            f"{name} {_form(state[name])}, expected {_form(mine[name])}"
            for name in mine.keys() & state.keys()
            if _form(state[name]) != _form(mine[name])
        ]
        faults = {"missing": sorted(missing), "unexpected": sorted(unexpected), "of another shape": sorted(misshaped)}
        if any(faults.values()):
            told = "; ".join(f"{fault}: {', '.join(names)}" for fault, names in faults.items() if names)
            raise ValueError(f"load_state_dict: the state does not fit this {type(self).__name__} ({told})")
        values = {name: _like(state[name], mine[name]) for name in mine}
        parameters = self.parameters()
        for name, value in values.items():
            if name in parameters:
                parameters[name].value = value
            else:
                layer, attribute = self._at(name)
                setattr(layer, attribute, value)

    def to(self, backend: str) -> Self:
        """Move every value to a backend. Parameters keep their identity, so an optimizer stays valid."""
        name = load(backend).name
        for parameter in self.parameters().values():
            parameter.value = asarray(parameter.value, backend=name)
        for path, value in self.state_dict().items():
            if path not in self.parameters() and backend_of(value) is not None:
                layer, attribute = self._at(path)
                setattr(layer, attribute, asarray(value, backend=name))
        return self

    def copy(self) -> Self:
        """An independent copy; what is shared inside stays shared inside."""
        return copy.deepcopy(self)

    def walk(self, prefix: str = "") -> Iterator[tuple[str, LayerTree]]:
        """Every layer inside, this one first (``""``), by its dotted name; a shared one at each of its places."""
        yield prefix, self
        for name, child in self.children().items():
            yield from child.walk(f"{prefix}.{name}" if prefix else name)

    def _all(self, pick: Callable[[LayerTree], dict[str, Any]]) -> list[tuple[str, Any]]:
        found = []
        for path, layer in self.walk():
            found += [(f"{path}.{name}" if path else name, value) for name, value in pick(layer).items()]
        return found

    def _at(self, name: str) -> tuple[LayerTree, str]:
        path, _, attribute = name.rpartition(".")
        return dict(self.walk())[path], attribute


def _like(value: Any, mine: Any) -> Any:
    backend = backend_of(mine)
    if backend is None:
        return type(mine)(value)
    copied = to_numpy(value) if backend_of(value) is not None else value
    return asarray(copied.copy() if hasattr(copied, "copy") else copied, mine.dtype, backend=backend.name)


def _form(value: Any) -> Any:
    """The shape of an array; of a number there is none, and a list of numbers is no array."""
    return type(value).__name__ if isinstance(value, (list, tuple)) else tuple(getattr(value, "shape", ()))
