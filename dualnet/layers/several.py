"""Several arrays instead of the usual one: a dictionary of them by name, or a list."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

__all__ = ["as_dtype", "each", "first", "parts", "rows"]


def each(function: Callable[..., Any], x: Any, *others: Any) -> Any:
    """``function(x, ...)``; for a dictionary or a list, a dictionary or a list of the results.

    >>> each(len, {"image": [1, 2], "meta": [3]}), each(len, "abc")
    ({'image': 2, 'meta': 1}, 3)
    """
    if isinstance(x, dict):
        return {name: function(x[name], *(other[name] for other in others)) for name in x}
    if isinstance(x, list):
        return [function(*of_one) for of_one in zip(x, *others, strict=True)]
    return function(x, *others)


def parts(x: Any, name: str = "x") -> Iterator[tuple[str, Any]]:
    """The arrays, each with its name for error messages.

    >>> [called for called, _ in parts({"image": 1, "meta": 2})], [called for called, _ in parts(1)]
    (["x['image']", "x['meta']"], ['x'])
    """
    if isinstance(x, dict):
        yield from ((f"{name}[{key!r}]", part) for key, part in x.items())
    elif isinstance(x, list):
        yield from ((f"{name}[{place}]", part) for place, part in enumerate(x))
    else:
        yield name, x


def first(x: Any) -> Any:
    """The only array, or the first of several.

    >>> first({"image": 1, "meta": 2})
    1
    """
    return next(part for _, part in parts(x))


def as_dtype(x: Any, dtype: Any) -> Any:
    """The array in this dtype; the array itself if it has this dtype already.

    >>> import dualnet as dn
    >>> as_dtype(dn.asarray([1.0]), "float64").dtype.name
    'float64'
    """
    return x.astype(dtype, copy=False)


def rows(x: Any) -> int:
    """How many examples x holds; each of its parts holds the same number.

    >>> rows({"image": [1, 2], "meta": [3, 4]})
    2
    """
    return len(first(x) if isinstance(x, dict) else x)
