"""Loss, right answers and other figures, added up on the device."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from ..ops import losses
from ..recording import assign, counted
from ..shim import Array, backend_of, to_numpy
from .metrics import Collected, Metric
from .weighting import Weighting, total

__all__ = ["Tally"]

AT_ONCE = 2**21
"""How many outputs are read in float64 at a time: 16 MB."""


class Tally:
    """Adds up the loss and the right answers of all batches, on the device. Reading them waits for it.

    A mean must not depend on how the examples are cut into batches. So the loss of each batch is computed again from
    the outputs in float64, and not taken from the training step, where float32 has rounded it. That costs little
    compared to the network itself. Only a loss of your own is taken from the step.

    With a ``weighting`` the loss is the weighted mean over all examples, and answers with an ignored label never
    count; otherwise each answer counts once. ``metrics`` are further figures.

    >>> import dualnet as dn
    >>> tally = Tally(dn.losses.softmax_cross_entropy)
    >>> tally.add(dn.asarray([[0.0, 0.0], [0.0, -1e4]]), dn.asarray([1, 0]))  # (log 2 + 0) / 2
    >>> {name: round(value, 15) for name, value in tally.figures().items()}
    {'loss': 0.346573590279973, 'accuracy': 0.5}
    """

    names = ("examples", "answers", "total", "weight", "hits", "kept")

    def __init__(
        self, loss: Callable[..., Any], weighting: Weighting | None = None, metrics: Sequence[Metric] = ()
    ) -> None:
        about = losses.about(loss)
        self.weighting, self.metrics = weighting, tuple(metrics)
        self.right = about.right
        self.exact = losses.unchecked(loss) if about.function in losses.NAMES.values() else None
        self.begin()

    def begin(self) -> None:
        """Start again from nothing."""
        self.examples, self.answers = 0, 0
        self.total: Any = 0.0
        self.weight: Any = 0.0
        self.hits: Any = None
        self.kept: Any = None
        self.sums: dict[str, Any] = {}

    def add(self, y: Array, t: Array, value: Any = None, w: Array | None = None) -> None:
        """A batch: outputs y, targets t, its mean loss (needed only for a loss of your own), the examples' weights."""
        counted(self, "examples")
        n = int(y.shape[0])
        self.examples += n
        weights = None if self.weighting is None else self.weighting(t, w)
        assign(self, "total", self.total + self._sum(y, t, value, weights))
        if weights is not None:
            assign(self, "weight", self.weight + total(weights))
        kept = None if self.weighting is None else self.weighting.kept(t)
        if self.right is not None:
            right = self.right(y, t)
            counted(self, "answers")
            self.answers += math.prod(right.shape)
            if kept is not None:
                right = right & (kept > 0.0)
                self._move("kept", total(kept))
            self._move("hits", backend_of(right).xp.sum(right))
        for metric in self.metrics:
            self._count(metric, metric.of(y, t, kept))

    def _move(self, name: str, by: Array) -> None:
        before = getattr(self, name)
        assign(self, name, by if before is None else before + by)

    def _count(self, metric: Metric, part: Any) -> None:
        before = self.sums.get(metric.key)
        now = part if before is None else before + part
        if isinstance(now, Collected):
            self.sums[metric.key] = now
        else:
            assign(self, ("sums", metric.key), now)

    def _sum(self, y: Array, t: Array, value: Any, weights: Array | None) -> Any:
        """The losses of all examples of a batch, each times its weight, added up in float64."""
        n = int(y.shape[0])
        if self.exact is None:
            return (value.astype("float64") if hasattr(value, "astype") else value) * (
                n if weights is None else total(weights)
            )
        few = max(1, AT_ONCE * n // max(1, y.size))
        added: Any = 0.0
        for start in range(0, n, few):
            part = slice(start, min(start + few, n))
            if weights is None:
                added = added + self.exact(y[part].astype("float64"), t[part])[0] * (part.stop - start)
            else:
                w = weights[part]
                added = added + self.exact(y[part].astype("float64"), t[part], weights=w)[0] * total(w)
        return added

    def state_dict(self) -> dict[str, Any]:
        """The sums so far."""
        collected = {key: sums.batches for key, sums in self.sums.items() if isinstance(sums, Collected)}
        sums = {key: sums for key, sums in self.sums.items() if key not in collected}
        return {**{name: getattr(self, name) for name in self.names}, "sums": sums, "collected": collected}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from these sums. Arrays are on the network's backend."""
        for name in self.names:
            setattr(self, name, None if state[name] is None else to_numpy(state[name]).item())
        self.sums = dict(state["sums"]) | {key: Collected(batches) for key, batches in state["collected"].items()}

    def figures(self) -> dict[str, float]:
        """The mean ``loss``; for classes, the ``accuracy``; and the figures of the metrics."""
        figures = self.glance()
        for metric in self.metrics:
            if metric.key in self.sums:
                figures |= metric.figures(self.sums[metric.key])
        return figures

    def glance(self) -> dict[str, float]:
        """Only loss and accuracy, for a look in the middle of an epoch."""
        weight = max(1, self.examples) if self.weighting is None else float(to_numpy(self.weight)) or 1.0
        figures = {"loss": float(to_numpy(self.total)) / weight}
        if self.hits is not None:
            answers = self.answers if self.kept is None else float(to_numpy(self.kept))
            figures["accuracy"] = float(to_numpy(self.hits)) / max(1, answers)
        return figures
