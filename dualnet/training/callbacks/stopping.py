"""Callbacks that end a training early: when it stops improving, or when its loss is no longer a number."""

from __future__ import annotations

import math
import warnings
from typing import Any

from ...arguments import flag, integer, number
from .base import Callback, Run, best_of, check_mode, figure

__all__ = ["EarlyStopping", "TerminateOnNaN"]


class EarlyStopping(Callback):
    """Stop when ``monitor`` has not improved by ``least`` for ``patience`` epochs; keep the best weights.

    ``monitor=None`` means ``val_loss`` if there is validation data, else ``loss``. ``mode="max"`` means that the figure
    should grow, ``"min"`` that it should fall; ``"auto"`` is ``"max"`` for accuracy, F1 and the like.

    >>> import dualnet as dn
    >>> dn.EarlyStopping(patience=2, monitor="val_accuracy").patience
    2
    """

    def __init__(
        self,
        patience: int = 3,
        *,
        monitor: str | None = None,
        mode: str = "auto",
        least: float = 0.0,
        restore_best: bool = True,
    ) -> None:
        self.mode = check_mode("EarlyStopping", mode)
        self.patience = integer(patience, "patience", op="EarlyStopping", least=0)
        self.monitor, self.least = monitor, number(least, "least", op="EarlyStopping")
        self.restore_best = flag(restore_best, "restore_best", op="EarlyStopping")

    def on_fit_begin(self, run: Run) -> None:
        self.best, self.waited = math.inf, 0
        self.weights: dict[str, Any] | None = None

    def on_epoch_end(self, run: Run) -> None:
        value = figure("EarlyStopping", run, self.monitor, self.mode)
        if value < self.best - self.least:
            self.best, self.waited = value, 0
            self.weights = run.net.state_dict() if self.restore_best else None
        else:
            self.waited += 1
            run.stop = run.stop or self.waited >= self.patience

    def on_fit_end(self, run: Run) -> None:
        if self.weights is not None:
            run.net.load_state_dict(self.weights)

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "waited": self.waited, "weights": self.weights}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best, self.waited, self.weights = best_of(state), int(state["waited"]), state["weights"]


class TerminateOnNaN(Callback):
    """Stop, with a warning, when the loss is NaN or infinite. It checks after every ``every`` steps: a GPU has to wait.

    A NaN stays in the mean loss that it checks, so it is never missed. ``fit(..., check_finite=True)`` checks every
    step, undoes the one that failed, and says which layer made the first NaN.

    >>> import dualnet as dn
    >>> dn.callbacks.TerminateOnNaN(every=100).every
    100
    """

    def __init__(self, every: int = 10) -> None:
        self.every = integer(every, "every", op="TerminateOnNaN")

    def on_batch_end(self, run: Run) -> None:
        if run.batch % self.every == 0 or run.batch == run.steps_per_epoch:
            loss = run.logs["loss"]
            if not math.isfinite(loss):
                run.stop = True
                warnings.warn(
                    f"TerminateOnNaN: the loss is {loss} in epoch {run.epoch + 1}, after batch {run.batch}; training "
                    "was stopped. fit(..., check_finite=True) names the layer that caused it.",
                    stacklevel=2,
                )
