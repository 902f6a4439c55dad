"""How large may the learning rate be? Try many rates, from small to large, on a copy of the network."""

from __future__ import annotations

import copy
import math
from typing import Any, Self

from ... import optimizers
from ...arguments import integer, positive
from ...layers.layer import Layer
from .base import Callback, Run

__all__ = ["LearningRateFinder"]

SMOOTH = 0.9
"""The share of the old value in the running mean of the losses."""
GROWN = 4.0
"""The search ends when the loss is this many times the smallest one."""


class LearningRateFinder(Callback):
    """Train a copy of the network for some steps, with a learning rate that grows from step to step.

    While the rate is too small, the loss barely changes; in a good range it falls; then it grows again. :meth:`find`
    returns the finder itself, which holds ``rates``, ``losses`` (of each batch) and ``suggestion``: a tenth of the rate
    at which the smoothed loss was lowest. Your network, and an optimizer that you pass, do not change.

    Source: Smith (2017), "Cyclical learning rates for training neural networks", section 3.3.

    >>> import dualnet as dn
    >>> (x, t), test = dn.data.load_digits()
    >>> net = dn.models.digits_cnn()
    >>> found = dn.callbacks.LearningRateFinder(steps=60).find(net, x, t, optimizer=dn.SGD(0.01, momentum=0.9))
    >>> 1e-4 < found.suggestion < 1.0, len(found.rates) == len(found.losses), net.input_shape
    (True, True, None)
    """

    def __init__(self, least: float = 1e-6, most: float = 10.0, steps: int = 100) -> None:
        op = "LearningRateFinder"
        self.least, self.most = positive(least, "least", op=op), positive(most, "most", op=op)
        self.steps = integer(steps, "steps", op=op, least=10)
        if self.most <= self.least:
            raise ValueError(f"{op}: least={least!r} and most={most!r}; expected most to be larger")
        self.rates: list[float] = []
        self.losses: list[float] = []

    def find(self, net: Layer, x: Any, t: Any = None, *, optimizer: Any = "adam", **options: Any) -> Self:
        """Train a copy of ``net``. ``options`` are those of ``fit``, such as ``batch_size`` and ``loss``."""
        taken = {"epochs", "initial_epoch", "callbacks", "verbose", "validation_data", "resume"} & options.keys()
        if taken:
            raise ValueError(f"LearningRateFinder.find: leave out {', '.join(sorted(taken))}; it sets them itself")
        net.copy().fit(
            x, t, optimizer=copy.deepcopy(optimizers.get(optimizer)), callbacks=self, epochs=self.steps, verbose=0,
            **options,
        )  # fmt: skip
        return self

    def rate(self, step: int) -> float:
        """The rate of a step, counted from 0."""
        return self.least * (self.most / self.least) ** (step / (self.steps - 1))

    @property
    def smoothed(self) -> list[float]:
        """A running mean of the losses, corrected for its start."""
        mean, result = 0.0, []
        for count, loss in enumerate(self.losses, 1):
            mean = SMOOTH * mean + (1 - SMOOTH) * loss
            result.append(mean / (1 - SMOOTH**count))
        return result

    @property
    def suggestion(self) -> float:
        """A tenth of the rate at which the smoothed loss was lowest."""
        if not self.losses:
            raise ValueError("LearningRateFinder: no rates have been tried yet; call find(net, x, t)")
        smoothed = self.smoothed
        return self.rates[smoothed.index(min(smoothed))] / 10

    def plot(self, ax: Any = None) -> Any:
        """Draw the losses over the rates, with the suggestion; returns the Axes. Needs matplotlib."""
        from ...seeing.viz.canvas import BLUE, ORANGE, one_axes, plain

        ax = one_axes(ax, "LearningRateFinder")
        plain(ax).plot(self.rates, self.losses, color=BLUE, alpha=0.3, linewidth=1.0)
        ax.plot(self.rates, self.smoothed, color=BLUE, linewidth=1.8)
        ax.axvline(self.suggestion, color=ORANGE, linewidth=1.2)
        ax.set_xscale("log")
        ax.set_xlabel("learning rate")
        ax.set_ylabel("loss")
        ax.set_title(f"suggestion: {self.suggestion:.2g}", fontsize=10)
        return ax

    # -- a callback in the training of the copy

    def on_fit_begin(self, run: Run) -> None:
        self.rates, self.losses, self._sum = [], [], 0.0
        run.optimizer.lr = self.rate(0)

    def on_epoch_begin(self, run: Run) -> None:
        self._sum = 0.0

    def on_batch_end(self, run: Run) -> None:
        total = run.logs["loss"] * run.batch  # from the mean so far; all batches count the same, even a smaller one
        loss, self._sum = total - self._sum, total
        if not math.isfinite(loss):
            run.stop = True
            return
        self.rates.append(run.optimizer.current_lr)
        self.losses.append(loss)
        grown = len(self.losses) > 10 and self.smoothed[-1] > GROWN * min(self.smoothed)
        run.stop = grown or len(self.losses) == self.steps
        if not run.stop:
            run.optimizer.lr = self.rate(len(self.losses))
