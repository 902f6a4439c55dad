"""Loss and hits, added up on the device."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from ..ops import losses
from ..recording import assign, counted
from ..shim import Array, backend_of, to_numpy
from .checks import _bare


class Tally:
    """Adds up loss and hits over batches, on the device; reading the figures waits for it."""

    def __init__(self, loss: Callable[..., Any]) -> None:
        self.loss = loss
        self.begin()

    def begin(self) -> None:
        """Nothing was seen."""
        self.examples, self.answers = 0, 0
        self.total: Any = 0.0
        self.hits: Any = None

    def add(self, y: Array, t: Array, value: Array) -> None:
        counted(self, "examples")
        n = int(y.shape[0])
        self.examples += n
        assign(self, "total", self.total + value * n)
        right = _right(self.loss, y, t)
        if right is not None:
            counted(self, "answers")
            self.answers += math.prod(right.shape)
            hits = backend_of(right).xp.sum(right)
            assign(self, "hits", hits if self.hits is None else self.hits + hits)

    def figures(self) -> dict[str, float]:
        figures = {"loss": float(to_numpy(self.total)) / max(1, self.examples)}
        if self.hits is not None:
            figures["accuracy"] = float(to_numpy(self.hits)) / self.answers
        return figures


def _right(loss: Callable[..., Any], y: Array, t: Array) -> Array | None:
    """Which answers are right; None where the loss is not about classes."""
    xp, loss = backend_of(y).xp, _bare(loss)
    if loss is losses.softmax_cross_entropy:
        label = t if t.ndim < y.ndim else xp.argmax(t, axis=-1)
        return xp.argmax(y, axis=-1) == label
    if loss is losses.binary_cross_entropy:
        return (y > 0) == (t > 0.5)
    return None
