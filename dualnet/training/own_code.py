"""What the user's code refers to by name, such as the weight of a loss that a callback lowers from epoch to epoch.

A captured step holds such numbers as constants, and is recorded again when one of them changes. This file follows the
loss, the methods of layers and optimizers, and the functions, objects and classes that these name.
"""

from __future__ import annotations

import dis
import functools
import types
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from ..layers.state import LayerTree
from ..optimizers.optimizer import Optimizer
from ..recording import Named
from ..shim import backend_of

__all__ = ["named_by"]

NOT_IN_A_STEP = ("__init__", "build", "output_shape")


def named_by(step: Any, owners: list[Any]) -> list[Named]:
    """What the loss of a step of ``fit`` refers to, and what the user's own layers and optimizers refer to.

    >>> import dualnet as dn
    >>> step = functools.partial(dn.capture, functools.partial(dn.losses.huber, delta=2.0))
    >>> [(one.label, one.names, [*one]) for one in named_by(step, [dn.ReLU()])]
    [('partial', ['delta'], [2.0])]
    """
    waiting: list[Any] = [step] if isinstance(step, functools.partial) and not _is_own(step.func) else []
    for owner in (owner for owner in owners if hasattr(owner, "__dict__")):  # parameters have none
        waiting += [value for value in vars(owner).values() if isinstance(value, types.FunctionType)]  # of a Lambda
        waiting += [kind for kind in type(owner).__mro__ if _is_own(kind)]
        waiting += _code(type(owner))
    found: list[Named] = []
    seen: dict[int, Any] = {}
    while waiting:
        one = waiting.pop()
        if id(one) in seen or isinstance(one, (LayerTree, Optimizer)):
            continue
        seen[id(one)] = one
        if isinstance(one, functools.partial):
            waiting += [one.func, *one.args, *one.keywords.values()]
            if not _module(one.func).startswith("dualnet.training"):  # those of fit hold what it counts
                given = {str(place): value for place, value in enumerate(one.args)}
                found += [_named("partial", given.get, given), _named("partial", one.keywords.get, one.keywords)]
        elif isinstance(one, types.MethodType):
            waiting += [one.__func__, one.__self__]
        elif isinstance(one, types.FunctionType):
            if _is_own(one):
                found += _of_function(one)
                waiting += _referred(one)
        elif isinstance(one, type):
            if _is_own(one):
                found.append(_named(one.__qualname__, vars(one).get, _plain(one)))
        elif hasattr(one, "__dict__") and (callable(one) or _is_own(type(one))):
            waiting += [*_code(type(one)), *(kind for kind in type(one).__mro__ if _is_own(kind))]
            for value in vars(one).values():
                waiting += [part for part in (value.values() if type(value) is dict else [value]) if callable(part)]
            if _is_own(type(one)):
                names = {
                    **vars(one),
                    **{name: None for kind in type(one).__mro__ if _is_own(kind) for name in _plain(kind)},
                }
                found.append(_named(type(one).__name__, vars(one).get, names, one))
            elif type(weights := vars(one).get("weights")) is dict:  # of the losses of several outputs
                found.append(_named(type(one).__name__, weights.get, weights))
    return [one for one in found if one.names]


def _is_own(code: Any) -> bool:
    """Is it the user's code, and not dualnet's?"""
    return _module(code).partition(".")[0] not in ("dualnet", "builtins", "numpy")


def _module(code: Any) -> str:
    return getattr(code, "__module__", None) or ""


def _named(label: str, get: Callable[[str], Any], names: Iterable[str], one: Any = None) -> Named:
    """These names, except modules, which nobody replaces, and arrays, which steps compute."""
    return Named(label, get, [name for name in names if name[:2] != "__" and _is_constant(get(name))], one)


def _is_constant(value: Any) -> bool:
    is_array = backend_of(value) is not None and type(value).__hash__ is None  # NumPy's scalars have one
    return not is_array and not isinstance(value, types.ModuleType)


def _plain(kind: type) -> Iterator[str]:
    """The attributes of a class that hold plain values: no methods, no properties, no slots."""
    return (name for name, value in vars(kind).items() if not hasattr(type(value), "__get__"))


def _code(kind: type) -> Iterator[Any]:
    """The functions of the user's classes that a step may call, including those behind properties."""
    for name, value in (pair for base in kind.__mro__ if _is_own(base) for pair in vars(base).items()):
        if isinstance(value, (staticmethod, classmethod)):
            value = value.__func__
        elif isinstance(value, property):
            value = value.fget
        if isinstance(value, types.FunctionType) and name not in NOT_IN_A_STEP:
            yield value


def _of_function(function: types.FunctionType) -> Iterator[Named]:
    """Its global names, and its closure and defaults."""
    label, of_globals = function.__qualname__, function.__globals__
    yield _named(label, of_globals.get, [name for name in _globals(function) if name in of_globals])
    cells = dict(zip(function.__code__.co_freevars, function.__closure__ or ()))
    yield _named(label, functools.partial(_held, cells), cells)
    defaults = {str(place): value for place, value in enumerate(function.__defaults__ or ())}
    yield _named(f"the defaults of {label}", defaults.get, defaults)


def _held(cells: dict[str, types.CellType], name: str) -> Any:
    try:
        return cells[name].cell_contents
    except ValueError:  # an empty one
        return None


def _referred(function: types.FunctionType) -> Iterator[Any]:
    """The functions, classes and objects that a function names in its closure, defaults and globals, to follow next."""
    cells = dict(zip(function.__code__.co_freevars, function.__closure__ or ()))
    for value in [*(_held(cells, name) for name in cells), *(function.__defaults__ or ())]:
        if isinstance(value, types.FunctionType) or _is_beside(value, function):
            yield value
    for name in _globals(function):
        if _is_beside(value := function.__globals__.get(name), function):
            yield value


def _is_beside(value: Any, function: types.FunctionType) -> bool:
    """Is it a function, class or object of the same module? From elsewhere, only objects that can be called count."""
    if isinstance(value, (types.FunctionType, type)):
        return value.__module__ == function.__module__
    return callable(value) or isinstance(value, types.SimpleNamespace) or type(value).__module__ == function.__module__


def _globals(function: types.FunctionType) -> tuple[str, ...]:
    """The global names that a function's code reads, and the code inside it."""
    waiting, names = [function.__code__], dict[str, None]()
    while waiting:
        code = waiting.pop()
        names |= {i.argval: None for i in dis.get_instructions(code) if i.opname == "LOAD_GLOBAL"}
        waiting += [one for one in code.co_consts if isinstance(one, types.CodeType)]
    return tuple(names)
