"""``accumulate=k``: k small batches make one step, with the gradient of one large batch.

The gradient of a mean over all examples is the sum of the gradients of the small batches, each times its share of the
examples, or of their weights. So the backward pass of each batch starts from its share instead of from 1, and the
gradients are added up. A smaller last group needs no special care.

Only one thing differs from one large batch: batch norm takes its statistics from each small batch.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Any

from ..layers.several import rows
from ..ops.sums import wide
from ..shim import Array, backend_of
from .weighting import Weighting, total

__all__ = ["added", "apart", "grouped", "shares"]

Batch = tuple[Any, Any, Any]


def grouped(batches: Iterable[Batch], accumulate: int, plain: bool) -> Iterator[tuple[Any, ...]]:
    """The arguments of each step: x, t, w of ``accumulate`` batches, one after another; if ``plain``, just x and t.

    >>> list(grouped([(1, 2, None), (3, 4, None), (5, 6, None)], 2, plain=False))
    [(1, 2, None, 3, 4, None), (5, 6, None)]
    >>> list(grouped([(1, 2, None)], 1, plain=True))
    [(1, 2)]
    """
    left = iter(batches)
    while group := list(itertools.islice(left, accumulate)):
        yield group[0][:2] if plain else tuple(itertools.chain(*group))


def apart(arguments: tuple[Any, ...]) -> list[Batch]:
    """The batches ``(x, t, w)`` in the arguments of a step.

    >>> apart((1, 2)), apart((1, 2, None, 3, 4, None))
    ([(1, 2, None)], [(1, 2, None), (3, 4, None)])
    """
    if len(arguments) == 2:
        return [(*arguments, None)]
    return list(zip(arguments[::3], arguments[1::3], arguments[2::3], strict=True))


def shares(batches: list[Batch], weighting: Weighting | None) -> list[Any]:
    """The share of each batch in the mean over all: numbers or, with weights, 0-d arrays; None for a single batch.

    >>> shares([([1, 1, 1], None, None), ([1], None, None)], None), shares([([1], None, None)], None)
    ([0.75, 0.25], [None])
    """
    if len(batches) == 1:
        return [None]
    if weighting is None:
        counts = [rows(x) for x, _, _ in batches]
        return [count / sum(counts) for count in counts]
    totals = [total(weighting(t, w)) for _, t, w in batches]
    whole = sum(totals[1:], totals[0])
    whole = backend_of(whole).xp.where(whole > 0.0, whole, 1.0)
    return [one / whole for one in totals]


def added(gradients: dict[str, Array], more: dict[str, Array]) -> dict[str, Array]:
    """The sums of the gradients of each parameter; 16-bit gradients become float32."""
    if not gradients:
        return more
    return {name: wide(gradients[name]) + wide(g) for name, g in more.items()}
