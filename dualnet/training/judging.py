"""How outputs are judged: by a loss, by how much each answer counts in it, and by further figures."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import numpy

from ..layers.entering import home
from ..layers.layer import Layer
from ..layers.several import each, rows
from ..ops import losses
from ..ops.sums import wide
from ..shim import asarray
from .checks import check_inputs, output_of_one
from .metrics import Curve, Metric, metrics_of
from .ranks import ALONE, Alone
from .several import LossOfSeveral, tally_of
from .sources import Arrays, Source
from .tally import Tally
from .weighting import WeightedLoss, Weighting

__all__ = ["Judge"]


class Judge:
    """The loss of a training or an evaluation, with its weights and metrics.

    ``loss`` skips the check of the targets, which is done before. It takes y, t and, with a weighting, the weights of
    the examples.
    """

    def __init__(self, op: str, net: Layer, function: Callable[..., Any], weighting: Weighting | None) -> None:
        self.op, self.net, self.function, self.weighting = op, net, function, weighting
        self.loss = losses.unchecked(function)
        if weighting is not None:
            self.loss = WeightedLoss(self.loss, weighting)
        self.metrics: list[Metric] = []
        self.ranks: Alone = ALONE

    @classmethod
    def of(
        cls,
        op: str,
        net: Layer,
        data: Source,
        held_out: Source | None,
        function: Callable[..., Any],
        class_weight: Any,
        ignore_label: Any,
    ) -> Judge:
        """From the arguments of ``fit`` or ``evaluate``. Some examples of the data show what the targets are."""
        samples = any(one.sample()[2] is not None for one in (data, held_out) if one is not None)
        options = {"samples": samples, "classes": class_weight, "ignore": ignore_label}
        return cls(op, net, function, Weighting.asked(op, net, data.sample()[1], function, **options))

    def cleaned(self, data: Source) -> tuple[Any, Any]:
        """Some examples, or all, for a check: x and t, without ignored labels."""
        x, t, _ = data.sample()
        return x, t if self.weighting is None else self.weighting.cleaned(t)

    def watch(self, *sources: Source) -> None:
        """From now on, check each batch of a source whose batches could not all be checked before."""
        for data in sources:
            if not isinstance(data, Arrays):
                self._watch(data)

    def _watch(self, data: Source) -> None:
        x, known, _ = data.sample()
        y, check = self._output(x, data.augment, slice(0, 1)), losses.about(self.function).check

        def look(x: Any, t: Any) -> None:
            if data.augment is None:  # it may crop
                check_inputs(self.net, x, data.op)
            _check_alike(t, known)
            if check is not None:
                check(data.op, y, t if self.weighting is None else self.weighting.cleaned(t))

        if not isinstance(y, dict):
            data.look = look

    def choose(self, metrics: Any, data: Source, capture: bool = False) -> None:
        """Choose the metrics that fit some examples, and try them."""
        if isinstance(metrics, (tuple, list)) and not metrics:
            return
        x, t, _ = data.sample()
        some = slice(0, min(rows(t), TRIED))
        y, t = self._output(x, data.augment, some), each(lambda a: asarray(a[some], backend=home(self.net)), t)
        if isinstance(y, dict):
            raise ValueError(f"{self.op}: metrics are for networks with one output; this one has several")
        self.metrics = metrics_of(self.op, metrics, self.function, y, t)
        for metric in self.metrics:
            if capture and isinstance(metric, Curve):
                raise ValueError(
                    f"{self.op}: the metric {metric.key!r} needs all outputs of an epoch, but a captured step does not "
                    "keep them; use evaluate(metrics=...) for it"
                )
            metric.of(y, t, None)

    def _output(self, x: Any, augment: Any, some: Any) -> Any:
        few = each(lambda a: a[some], x)
        if augment is not None:
            few = augment.batch(few, numpy.arange(len(few)), dtype=self.net.dtype)
        return each(wide, output_of_one(self.net, few, each(lambda a: tuple(a.shape), x), self.op))

    def tally(self) -> Any:
        """A new tally, for a training or for validation data."""
        if isinstance(self.function, LossOfSeveral):
            return self.ranks.tally(tally_of(self.function))
        return self.ranks.tally(Tally(self.function, self.weighting, self.metrics))

    def figures(self, data: Source) -> dict[str, float]:
        """The loss and the other figures over all examples of a source."""
        tally = self.tally()
        with contextlib.closing(data.epoch(self.net)) as batches:
            for x, t, w in batches:
                y = each(wide, self.net(x))
                weights = () if w is None else (w,)
                known = None if tally.exact else self.loss(y, t, *weights)[0] if rows(x) else 0.0
                tally.add(y, t, known, *weights)
        self.ranks.add_up(tally, self.net)
        return tally.figures()


def _check_alike(t: Any, known: Any) -> None:
    """Raise unless these targets are like those that were checked before the first step."""
    if t.shape[1:] != known.shape[1:] or (t.dtype.kind in "iub") != (known.dtype.kind in "iub"):
        raise ValueError(
            f"t is {t.dtype.name} of shape {tuple(t.shape)}; before, it was {known.dtype.name} of shape "
            f"(N, {', '.join(map(str, known.shape[1:]))})"
        )


TRIED = 64
"""A metric is tried on at most this many examples."""
