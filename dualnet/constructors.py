"""Constructors that say what they take: a call that does not fit is answered with the line to write."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any


def takes(function: Callable[..., Any], count: int) -> bool:
    """Can a function be called with so many arguments, by position? One of which that is not known is believed to.

    >>> takes(lambda x: x, 1), takes(lambda x: x, 3), takes(max, 2)
    (True, False, True)
    """
    try:
        inspect.signature(function).bind(*[None] * count)
    except TypeError:
        return False
    except ValueError:  # written in C, and silent
        return True
    return True


class Constructed:
    """Base class of what users make: a call that does not fit the constructor is told with the line to write.

    >>> import dualnet as dn
    >>> dn.Dense(64, 10)
    Traceback (most recent call last):
    ...
    TypeError: Dense(64, 10): too many positional arguments; expected Dense(units, *, use_bias=True, \
initializer='he_normal'). Write Dense(10), if 64 counts what comes in: init finds that.
    """

    __slots__ = ()

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "__init__" in vars(cls):
            cls.__init__ = _telling(cls, cls.__init__)  # type: ignore[method-assign]


def _telling(kind: type, init: Callable[..., None]) -> Callable[..., None]:
    """The constructor of a class, or of those below it that have no other."""

    @functools.wraps(init)
    def told(self: Any, *given: Any, **named: Any) -> None:
        try:
            init(self, *given, **named)
        except TypeError:
            signature = inspect.signature(init)
            try:
                signature.bind(self, *given, **named)
            except TypeError as misfit:
                owner = type(self) if type(self).__init__ is told else kind  # else it is super().__init__
                raise TypeError(_misfit(owner.__name__, signature, given, named, str(misfit))) from None
            raise  # it took these arguments, and found fault with one

    return told


def _misfit(owner: str, signature: inspect.Signature, given: tuple, named: dict[str, Any], why: str) -> str:
    """What is wrong with a call, what the constructor takes, and the lines that were probably meant."""
    takes = {p.name: p.replace(annotation=p.empty) for p in list(signature.parameters.values())[1:]}
    places = [name for name, p in takes.items() if p.kind is p.POSITIONAL_OR_KEYWORD]
    options = [name for name, p in takes.items() if p.kind is p.KEYWORD_ONLY and name not in named]
    shown, rest = [_shown(value) for value in given], [f"{name}={_shown(value)}" for name, value in named.items()]

    def line(values: list[str]) -> str:
        by_name = [f"{name}={value}" for name, value in zip(options, values[len(places) :])]
        return f"{owner}({', '.join([*values[: len(places)], *by_name, *rest])})"

    hints, first, over = [], places[:1], len(given) - len(places)
    if why.startswith("too many") and first == ["layers"]:
        hints = [line([f"[{', '.join(shown)}]"])]
    elif why.startswith("too many"):
        counts = all(isinstance(value, (int, tuple)) for value in given)
        if first in (["filters"], ["units"]) and counts and over - 1 <= len(options):  # as in PyTorch
            hints = [f"{line(shown[1:])}, if {shown[0]} counts what comes in: init finds that"]
        if first != ["units"] and over <= len(options):
            hints.append(line(shown))
    for name in named.keys() - takes.keys():
        hints += [f"{meant}={_shown(named[name])}" for meant in takes if name in meant or name == f"{meant}s"]
        why += f", and there is no {name!r}" if name not in why else ""
    expected = f"{owner}{inspect.Signature(list(takes.values()))}"
    call = f"{owner}({', '.join(shown + rest)})"
    return f"{call}: {why}; expected {expected}" + (f". Write {', or '.join(hints)}." if hints else "")


def _shown(value: Any) -> str:
    """An argument in few characters."""
    text = repr(value)
    return text if len(text) <= 40 and "\n" not in text else f"{type(value).__name__}(...)"
