"""What code of a user's refers to by name, such as the weight of a loss that a callback lowers from epoch to epoch.

A captured step holds such numbers as constants, and is recorded again when one of them is another. Followed are the
loss, the methods of layers and optimizers, and the functions that these call.
"""

from __future__ import annotations

import dis
import functools
import types
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import is_dataclass
from typing import Any

from ..layers.state import LayerTree
from ..optimizers.optimizer import Optimizer
from ..recording import PLAIN, Named

__all__ = ["named_by"]

CONTAINERS = (list, tuple, set, dict)


def named_by(step: Any, owners: list[Any]) -> list[Named]:
    """What the loss of a step of ``fit`` refers to, and the code of these layers and optimizers, if it is a user's.

    >>> import dualnet as dn
    >>> step = functools.partial(dn.capture, functools.partial(dn.losses.huber, delta=2.0))
    >>> [(one.label, one.read()) for one in named_by(step, [dn.ReLU()])]
    [('partial', {'delta': 2.0})]
    """
    waiting: list[Any] = [*step.args] if isinstance(step, functools.partial) and not _is_own(step.func) else []
    for owner in (owner for owner in owners if hasattr(owner, "__dict__")):  # parameters have none
        waiting += [value for value in vars(owner).values() if isinstance(value, types.FunctionType)]  # of a Lambda
        waiting += [value for kind in type(owner).__mro__ if _is_own(kind) for value in vars(kind).values()]
    found: list[Named] = []
    seen: dict[int, Any] = {}
    while waiting:
        one = waiting.pop()
        if id(one) in seen or isinstance(one, (LayerTree, Optimizer, type)):
            continue
        seen[id(one)] = one
        if isinstance(one, functools.partial):
            waiting += [one.func, *one.args, *one.keywords.values()]
            found.append(Named("partial", functools.partial(_of_partial, one)))
        elif isinstance(one, types.MethodType):
            waiting += [one.__func__, one.__self__]
        elif isinstance(one, types.FunctionType):
            if _is_own(one) and (_globals(one) or one.__closure__):
                found.append(Named(one.__qualname__, functools.partial(_of_function, one, _globals(one))))
                waiting += _functions(one)
        elif callable(one) and hasattr(one, "__dict__"):
            waiting += [value for value in vars(one).values() if callable(value)]
            if _is_own(type(one)):
                waiting.append(vars(type(one)).get("__call__"))
                found.append(Named(type(one).__name__, functools.partial(_of_object, one)))
    return found


def _is_own(code: Any) -> bool:
    """Is it code of a user's, and not of dualnet?"""
    return (getattr(code, "__module__", None) or "").partition(".")[0] not in ("dualnet", "builtins", "numpy")


def _of_function(function: types.FunctionType, names: tuple[str, ...]) -> dict[str, Any]:
    held = {name: function.__globals__[name] for name in names if name in function.__globals__}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or ()):
        with suppress(ValueError):  # an empty one
            held[name] = cell.cell_contents
    return _kept(held)


def _of_partial(one: functools.partial) -> dict[str, Any]:
    return _kept({**{str(place): value for place, value in enumerate(one.args)}, **one.keywords})


def _of_object(one: Any) -> dict[str, Any]:
    of_class = {name: getattr(one, name) for kind in type(one).__mro__ if _is_own(kind) for name in vars(kind)}
    return _kept({name: value for name, value in {**of_class, **vars(one)}.items() if name[0] != "_"})


def _kept(held: dict[str, Any]) -> dict[str, Any]:
    """Those that a step holds as constants; other objects, such as networks and arrays, are followed in other ways."""
    return {
        name: value
        for name, value in held.items()
        if type(value) in PLAIN or type(value) in CONTAINERS or (is_dataclass(value) and not isinstance(value, type))
    }


def _functions(function: types.FunctionType) -> Iterator[Any]:
    """The functions that a function calls: of its closure, and of its own module."""
    for cell in function.__closure__ or ():
        with suppress(ValueError):
            if isinstance(cell.cell_contents, (types.FunctionType, types.MethodType, functools.partial)):
                yield cell.cell_contents
    for name in _globals(function):
        value = function.__globals__.get(name)
        if isinstance(value, functools.partial) or (
            isinstance(value, types.FunctionType) and value.__module__ == function.__module__
        ):
            yield value


def _globals(function: types.FunctionType) -> tuple[str, ...]:
    """The global names that a function's code reads, and the code inside it."""
    waiting, names = [function.__code__], dict[str, None]()
    while waiting:
        code = waiting.pop()
        names |= {i.argval: None for i in dis.get_instructions(code) if i.opname == "LOAD_GLOBAL"}
        waiting += [one for one in code.co_consts if isinstance(one, types.CodeType)]
    return tuple(names)
