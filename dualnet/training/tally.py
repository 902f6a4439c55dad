"""Loss and right answers, added up on the device."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from ..ops import losses
from ..recording import assign, counted
from ..shim import Array, backend_of, to_numpy

__all__ = ["Tally"]


class Tally:
    """Adds up the loss (in float64) and the right answers of all batches, on the device. Reading them waits for it.

    >>> import dualnet as dn
    >>> tally = Tally(dn.losses.softmax_cross_entropy)
    >>> tally.add(dn.asarray([[1.0, 0.0], [1.0, 0.0]]), dn.asarray([0, 1]), dn.asarray(0.5))
    >>> tally.figures()
    {'loss': 0.5, 'accuracy': 0.5}
    """

    def __init__(self, loss: Callable[..., Any]) -> None:
        self.right = losses.about(loss).right
        self.begin()

    def begin(self) -> None:
        """Start again from nothing."""
        self.examples, self.answers = 0, 0
        self.total: Any = 0.0
        self.hits: Any = None

    def add(self, y: Array, t: Array, value: Array) -> None:
        """A batch: the outputs y, the targets t, and the loss, which is a mean over them."""
        counted(self, "examples")
        n = int(y.shape[0])
        self.examples += n
        exact = value.astype("float64") if hasattr(value, "astype") else value  # float32 loses digits as the sum grows
        assign(self, "total", self.total + exact * n)
        if self.right is not None:
            right = self.right(y, t)
            counted(self, "answers")
            self.answers += math.prod(right.shape)
            hits = backend_of(right).xp.sum(right)
            assign(self, "hits", hits if self.hits is None else self.hits + hits)

    def figures(self) -> dict[str, float]:
        """The mean ``loss`` and, for classes, the ``accuracy``."""
        figures = {"loss": float(to_numpy(self.total)) / max(1, self.examples)}
        if self.hits is not None:
            figures["accuracy"] = float(to_numpy(self.hits)) / self.answers
        return figures
