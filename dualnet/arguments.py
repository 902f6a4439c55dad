"""Checks of single arguments: integers, real numbers, flags and functions.

Each check is called as ``check(value, name, op=...)`` and returns the value, always as a Python number: a NumPy scalar
would promote float32 to float64. It raises ``TypeError`` for a value of the wrong kind (True is not a number, "3" is
not an integer) and ``ValueError`` for one out of bounds, NaN included. ``op`` names the op, layer or function in the
message.
"""

from __future__ import annotations

import inspect
import math
import operator
from collections.abc import Callable
from typing import Any

LIMIT = 2**31 - 1
"""The largest extent."""
PAIR = "an integer or (height, width)"


def integer(value: Any, name: str, *, op: str, least: int = 1) -> int:
    """One integer from ``least`` to ``LIMIT``; 3.0 is not one.

    >>> integer(3, "units", op="Dense")
    3
    """
    return _bounded(value, name, value, op, least)


def extents(value: Any, name: str, *, op: str, least: int = 1) -> tuple[int, int]:
    """``int | (height, width)`` as two integers.

    >>> extents(3, "stride", op="conv2d")
    (3, 3)
    """
    if type(value) is tuple and len(value) == 2 and type(value[0]) is type(value[1]) is int:
        if least <= value[0] <= LIMIT and least <= value[1] <= LIMIT:
            return value  # the form in which layers pass it, in every step
    both = value if isinstance(value, (tuple, list)) else (value, value)
    if len(both) != 2:
        raise ValueError(f"{op}: {name} must be {PAIR}, got {value!r}")
    height, width = (_bounded(one, name, value, op, least, PAIR) for one in both)
    return height, width


def _bounded(value: Any, name: str, whole: Any, op: str, least: int, kind: str = "an integer") -> int:
    try:
        number = _index(value)
    except TypeError:
        raise TypeError(f"{op}: {name} must be {kind}, got {whole!r}") from None
    if not least <= number <= LIMIT:
        bound = f"at least {least}" if number < least else f"at most {LIMIT}"
        raise ValueError(f"{op}: {name} must be {bound}, got {whole!r}")
    return number


def index(value: Any, name: str, *, op: str) -> int:
    """One integer of any sign and size, such as an axis, which the caller compares with a shape.

    >>> index(-1, "axis", op="softmax")
    -1
    """
    try:
        return _index(value)
    except TypeError:
        raise TypeError(f"{op}: {name} must be an integer, got {value!r}") from None


def _index(value: Any) -> int:
    if isinstance(value, bool):
        raise TypeError
    return operator.index(value)


def count(value: Any, name: str, *, op: str, least: int = 1) -> int:
    """A whole number of at least ``least``; it may be a float, such as 1e4 or a number from a file.

    >>> count(1e4, "steps", op="Cosine")
    10000
    """
    result = real(value, name, op=op)
    if not math.isfinite(result) or result != int(result) or result < least:
        raise ValueError(f"{op}: {name} must be a whole number of at least {least}, got {value!r}")
    return int(result)


def real(value: Any, name: str, *, op: str) -> float:
    """Any real number, NaN and ±inf included.

    >>> real(1, "the observed loss", op="Plateau")
    1.0
    """
    try:
        if isinstance(value, (bool, str, bytes)) or getattr(value, "shape", ()) != ():
            raise TypeError
        return float(value)
    except OverflowError:  # an integer of more than 308 digits
        return math.inf if value > 0 else -math.inf
    except (TypeError, ValueError):
        raise TypeError(f"{op}: {name} must be a number, got {value!r}") from None


def number(value: Any, name: str, *, op: str, most: float = math.inf) -> float:
    """A finite number from 0 to ``most``.

    >>> number(1, "alpha", op="elu")
    1.0
    """
    result = real(value, name, op=op)
    if not (0 <= result <= most and math.isfinite(result)):
        bounds = f"from 0 to {most:g}" if most < math.inf else "of at least 0"
        raise ValueError(f"{op}: {name} must be a finite number {bounds}, got {value!r}")
    return result


def positive(value: Any, name: str, *, op: str, most: float = math.inf) -> float:
    """A finite number above 0, up to ``most``.

    >>> positive(1e-5, "epsilon", op="batch_norm", most=1)
    1e-05
    """
    result = real(value, name, op=op)
    if not (0 < result <= most and math.isfinite(result)):
        bounds = f"number above 0 and at most {most:g}" if most < math.inf else "finite number above 0"
        raise ValueError(f"{op}: {name} must be a {bounds}, got {value!r}")
    return result


def fraction(value: Any, name: str, *, op: str) -> float:
    """A number from 0 to below 1.

    >>> fraction(0.5, "rate", op="dropout")
    0.5
    """
    result = real(value, name, op=op)
    if not 0 <= result < 1:
        raise ValueError(f"{op}: {name} must be a number from 0 to below 1, got {value!r}")
    return result


def flag(value: Any, name: str, *, op: str) -> bool:
    """True or False, and nothing else: otherwise ``use_bias="no"`` would count as true.

    >>> flag(False, "use_bias", op="Dense")
    False
    """
    if not isinstance(value, bool):
        raise TypeError(f"{op}: {name} must be True or False, got {value!r}")
    return value


def can_take(function: Callable[..., Any], count: int) -> bool:
    """Can a function be called with ``count`` positional arguments? If its signature is unknown, the answer is yes.

    >>> can_take(lambda x: x, 1), can_take(lambda x: x, 3), can_take(max, 2)
    (True, False, True)
    """
    try:
        inspect.signature(function).bind(*[None] * count)
    except TypeError:
        return False
    except ValueError:  # written in C, and its arguments are unknown
        return True
    return True
