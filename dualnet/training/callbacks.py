"""The callbacks that watch a training and may stop it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from .. import optimizers
from ..arguments import flag, integer, number
from ..history import History
from ..layers.layer import Layer
from ..shim import backend_of

__all__ = ["Callback", "EarlyStopping", "History", "Run", "as_callbacks", "notify", "notify_end"]


@dataclass
class Run:
    """What a callback sees, and may change: ``run.stop = True`` ends the training after this step or epoch."""

    net: Layer
    optimizer: optimizers.Optimizer
    history: History
    epochs: int
    steps_per_epoch: int
    epoch: int = 0
    step: int = 0
    logs: dict[str, float] = field(default_factory=dict)
    stop: bool = False


class Callback:
    """Hooks into :func:`fit`. Override what you need; a plain function is called as ``on_epoch_end``.

    >>> import dualnet as dn
    >>> class Stop(dn.Callback):
    ...     def on_epoch_end(self, run):
    ...         run.stop = run.logs["loss"] < 0.1
    """

    def on_fit_begin(self, run: Run) -> None:
        """Before the first epoch."""

    def on_epoch_begin(self, run: Run) -> None:
        """``run.epoch`` counts from 0."""

    def on_batch_end(self, run: Run) -> None:
        """After each step of the optimizer; ``run.step`` counts all steps."""

    def on_epoch_end(self, run: Run) -> None:
        """``run.logs`` holds the epoch's figures, which are in ``run.history`` already; what you add goes there too."""

    def on_fit_end(self, run: Run) -> None:
        """After the last epoch, even if training was stopped or an error ended it."""


class EarlyStopping(Callback):
    """Stop when ``monitor`` has not improved by ``least`` for ``patience`` epochs; keep the best weights.

    ``monitor=None`` takes ``val_loss`` if there is validation data, else ``loss``. ``mode="max"`` means that the figure
    should grow, ``"min"`` that it should fall; ``"auto"`` is ``"max"`` for names that end in ``accuracy``.

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
        if mode not in ("auto", "max", "min"):
            raise ValueError(f"EarlyStopping: mode is 'auto', 'max' or 'min', got {mode!r}")
        self.mode = mode
        self.patience = integer(patience, "patience", op="EarlyStopping", least=0)
        self.monitor, self.least = monitor, number(least, "least", op="EarlyStopping")
        self.restore_best = flag(restore_best, "restore_best", op="EarlyStopping")

    def on_fit_begin(self, run: Run) -> None:
        self.best, self.waited = math.inf, 0
        self.weights: dict[str, Any] | None = None

    def on_epoch_end(self, run: Run) -> None:
        name = self.monitor or ("val_loss" if "val_loss" in run.logs else "loss")
        if name not in run.logs:
            raise ValueError(f"EarlyStopping: no figure {name!r}; this training has {', '.join(run.logs)}")
        grows = name.endswith("accuracy") if self.mode == "auto" else self.mode == "max"
        value = -run.logs[name] if grows else run.logs[name]
        if value < self.best - self.least:
            self.best, self.waited = value, 0
            self.weights = _copied(run.net.state_dict()) if self.restore_best else None
        else:
            self.waited += 1
            run.stop = run.stop or self.waited >= self.patience

    def on_fit_end(self, run: Run) -> None:
        if self.weights is not None:
            run.net.load_state_dict(self.weights)


def _copied(state: dict[str, Any]) -> dict[str, Any]:
    """The state with arrays of its own: a captured step overwrites the network's."""
    return {name: value if backend_of(value) is None else value.copy() for name, value in state.items()}


def as_callbacks(given: Any) -> list[Callback]:
    """The ``callbacks`` of ``fit``: one or several, each a :class:`Callback` or a function of the run.

    >>> len(as_callbacks(print)), len(as_callbacks([EarlyStopping(), print]))
    (1, 2)
    """
    several = isinstance(given, Iterable) and not isinstance(given, (str, Callback))
    return [_as_callback(callback) for callback in (given if several else [given])]


def _as_callback(callback: Any) -> Callback:
    if isinstance(callback, Callback):
        return callback
    if callable(callback) and not isinstance(callback, type):
        wrapped = Callback()
        wrapped.on_epoch_end = callback  # type: ignore[method-assign]
        return wrapped
    hint = f" Write {callback.__name__}()." if isinstance(callback, type) else ""
    raise TypeError(f"fit: a callback is a dn.Callback or a function of the run, got {callback!r}.{hint}")


def notify(callbacks: list[Callback], event: str, run: Run) -> None:
    """Call the hook of this name, such as ``"on_epoch_end"``, on all callbacks."""
    for callback in callbacks:
        getattr(callback, event)(run)


def notify_end(callbacks: list[Callback], run: Run) -> None:
    """Call ``on_fit_end`` on all callbacks, even if one of them raises; an error before it stays its context."""
    if callbacks:
        try:
            callbacks[0].on_fit_end(run)
        finally:
            notify_end(callbacks[1:], run)
