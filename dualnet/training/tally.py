"""Loss and right answers, added up on the device."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from ..ops import losses
from ..recording import assign, counted
from ..shim import Array, backend_of, to_numpy

__all__ = ["Tally"]

AT_ONCE = 2**21
"""So many outputs are read in float64 at a time: 16 MB."""


class Tally:
    """Adds up the loss and the right answers of all batches, on the device. Reading them waits for it.

    A mean must not depend on how the examples are cut into batches. So the loss of each batch is taken in float64 from
    the outputs, and not from the training step, where float32 has rounded it: outputs are small beside what a network
    computes for them. Only a loss of one's own is taken as the step has it.

    >>> import dualnet as dn
    >>> tally = Tally(dn.losses.softmax_cross_entropy)
    >>> tally.add(dn.asarray([[0.0, 0.0], [0.0, -1e4]]), dn.asarray([1, 0]))  # (log 2 + 0) / 2
    >>> {name: round(value, 15) for name, value in tally.figures().items()}
    {'loss': 0.346573590279973, 'accuracy': 0.5}
    """

    def __init__(self, loss: Callable[..., Any]) -> None:
        about = losses.about(loss)
        self.right = about.right
        self.exact = losses.unchecked(loss) if about.function in losses.NAMES.values() else None
        self.begin()

    def begin(self) -> None:
        """Start again from nothing."""
        self.examples, self.answers = 0, 0
        self.total: Any = 0.0
        self.hits: Any = None

    def add(self, y: Array, t: Array, value: Any = None) -> None:
        """A batch: the outputs y, the targets t, and its mean loss, which is needed of a loss of one's own only."""
        counted(self, "examples")
        n = int(y.shape[0])
        self.examples += n
        assign(self, "total", self.total + self._sum(y, t, value))
        if self.right is not None:
            right = self.right(y, t)
            counted(self, "answers")
            self.answers += math.prod(right.shape)
            hits = backend_of(right).xp.sum(right)
            assign(self, "hits", hits if self.hits is None else self.hits + hits)

    def _sum(self, y: Array, t: Array, value: Any) -> Any:
        """The losses of all examples of a batch, added up in float64."""
        n = int(y.shape[0])
        if self.exact is None:
            return (value.astype("float64") if hasattr(value, "astype") else value) * n
        few = max(1, AT_ONCE * n // y.size)
        total: Any = 0.0
        for start in range(0, n, few):
            part = slice(start, min(start + few, n))
            total = total + self.exact(y[part].astype("float64"), t[part])[0] * (part.stop - start)
        return total

    def figures(self) -> dict[str, float]:
        """The mean ``loss`` and, for classes, the ``accuracy``."""
        figures = {"loss": float(to_numpy(self.total)) / max(1, self.examples)}
        if self.hits is not None:
            figures["accuracy"] = float(to_numpy(self.hits)) / self.answers
        return figures
