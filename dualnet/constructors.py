"""Constructors that explain their arguments: if a call does not fit, the error shows the line to write."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any


class Constructed:
    """Base class of what users create: if a call does not fit the constructor, the error shows the line to write.

    >>> import dualnet as dn
    >>> dn.Dense(64, 10)
    Traceback (most recent call last):
    ...
    TypeError: Dense(64, 10): too many positional arguments; expected Dense(units, *, use_bias=True, \
initializer='he_normal'). Write Dense(10), if 64 is the number of inputs: init infers that.
    """

    __slots__ = ()

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "__init__" in vars(cls):
            cls.__init__ = _explaining(cls, cls.__init__)  # type: ignore[method-assign]


def _explaining(kind: type, init: Callable[..., None]) -> Callable[..., None]:
    """The constructor of a class, with an explanation of its arguments; subclasses without their own inherit it."""

    @functools.wraps(init)
    def explained(self: Any, *given: Any, **named: Any) -> None:
        try:
            init(self, *given, **named)
        except TypeError:
            signature = inspect.signature(init)
            try:
                signature.bind(self, *given, **named)
            except TypeError as misfit:
                owner = type(self) if type(self).__init__ is explained else kind  # else it is super().__init__
                raise TypeError(_misfit(owner.__name__, signature, given, named, str(misfit))) from None
            raise  # the arguments fit the signature, but the constructor rejected one

    return explained


ALSO_CALLED = {"learning_rate": "lr", "out_channels": "filters", "out_features": "units", "eps": "epsilon"}
"""Names of arguments in other frameworks, and here."""
ELSEWHERE = {
    "activation": "An activation is a separate layer, such as ReLU()",
    "input_shape": "The shape of the input is for init: net.init(input_shape)",
}
"""Arguments of layers in other frameworks, and what to write here instead."""


def _misfit(owner: str, signature: inspect.Signature, given: tuple, named: dict[str, Any], why: str) -> str:
    """A message: what is wrong with a call, which arguments the constructor takes, and what was probably meant."""
    parameters = {p.name: p.replace(annotation=p.empty) for p in list(signature.parameters.values())[1:]}
    hints = _lines_meant(owner, parameters, given, named) if why.startswith("too many") else []
    for name in named.keys() - parameters.keys():
        also = ALSO_CALLED.get(name)
        hints += [
            f"{meant}={_shown(named[name])}"
            for meant in parameters
            if name in meant or name == f"{meant}s" or meant == also
        ]
        why += f", and there is no {name!r}" if name not in why else ""
    expected = f"{owner}{inspect.Signature(list(parameters.values()))}"
    hint = f". Write {', or '.join(hints)}." if hints else ""
    hint += "".join(f". {ELSEWHERE[name]}" for name in named if name in ELSEWHERE and name not in parameters)
    return f"{owner}({', '.join(_texts(given, named))}): {why}; expected {expected}{hint}"


def _lines_meant(owner: str, parameters: dict[str, inspect.Parameter], given: tuple, named: dict) -> list[str]:
    """The lines that a call with too many positional arguments may have meant."""
    places = [name for name, p in parameters.items() if p.kind is p.POSITIONAL_OR_KEYWORD]
    options = [name for name, p in parameters.items() if p.kind is p.KEYWORD_ONLY and name not in named]

    def line(values: list[str]) -> str:
        by_name = [f"{name}={value}" for name, value in zip(options, values[len(places) :])]
        return f"{owner}({', '.join([*values[: len(places)], *by_name, *_texts((), named)])})"

    first, over, shown = places[:1], len(given) - len(places), _texts(given, {})
    if first == ["layers"]:
        return [line([f"[{', '.join(shown)}]"])]
    lines = []
    if first in (["filters"], ["units"]) and over - 1 <= len(options):  # as in PyTorch, which takes the inputs first
        if all(isinstance(value, (int, tuple)) for value in given):
            lines.append(f"{line(shown[1:])}, if {shown[0]} is the number of inputs: init infers that")
    if first != ["units"] and over <= len(options):
        lines.append(line(shown))
    return lines


def _texts(given: tuple, named: dict[str, Any]) -> list[str]:
    """The arguments of a call as they were written, shortened."""
    return [*map(_shown, given), *(f"{name}={_shown(value)}" for name, value in named.items())]


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 and "\n" not in text else f"{type(value).__name__}(...)"
