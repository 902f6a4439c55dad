"""What comes out of a training: its history, and the callbacks that watch it and may stop it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from .. import markup, optimizers
from ..arguments import flag, integer, real
from ..layers.layer import Layer
from ..shim import backend_of

__all__ = ["Callback", "EarlyStopping", "History", "Run", "as_callbacks", "best_epoch", "in_one_line", "notify"]


class History(dict):
    """One list per figure, one entry per epoch: ``history["loss"]``, ``"accuracy"``, ``"val_loss"``, ``"seconds"``, ...

    >>> import dualnet as dn
    >>> h = dn.History(); h.add({"loss": 0.5}); h.add({"loss": 0.25}); h["loss"], h.epochs
    ([0.5, 0.25], 2)
    """

    @property
    def epochs(self) -> int:
        """How many epochs there are."""
        return max(map(len, self.values()), default=0)

    def add(self, figures: dict[str, float]) -> None:
        """Append one epoch's figures."""
        for name, value in figures.items():
            if isinstance(value, (str, bytes, list, tuple, dict)):
                raise TypeError(f"History: {name} is {value!r}; expected a number, one for each epoch")
            self.setdefault(name, []).append(value)

    def __str__(self) -> str:
        rows = [{name: values[i] for name, values in self.items() if i < len(values)} for i in range(self.epochs)]
        return "\n".join(f"epoch {i + 1:>3}  {in_one_line(row)}" for i, row in enumerate(rows)) or "no epochs"

    __repr__ = __str__

    def _repr_html_(self) -> str:
        """The curve and the best value of each figure, and a table of all epochs that unfolds."""
        rows = [_curve(name, values) for name, values in self.items() if values]
        headings = ("figure", "curve", "first", "last", "best", "epoch")
        epochs = [
            [str(i + 1), *(markup.figure(values[i], 4) if i < len(values) else "" for values in self.values())]
            for i in range(self.epochs)
        ]
        curves = markup.scrolling(markup.table(f"{self.epochs} epochs", headings, rows, left=2, raw=(1,)))
        return curves + markup.card(
            "every epoch", markup.scrolling(markup.table("", ("epoch", *self), epochs)), opened=False
        )


def _curve(name: str, values: list[float]) -> list[str]:
    """The row of a figure: its name, its curve, and its first, last and best value."""
    best = best_epoch(name, values)
    line = markup.sparkline(values, colour=markup.ORANGE if name.startswith("val_") else markup.BLUE)
    end = ["", ""] if best is None else [markup.figure(values[best], 4), str(best + 1)]
    return [name, line, markup.figure(values[0], 4), markup.figure(values[-1], 4), *end]


def best_epoch(name: str, values: Sequence[float]) -> int | None:
    """The place of the best value: the largest accuracy, the smallest loss. None for any other figure.

    >>> best_epoch("val_loss", [2.0, 1.0, 1.5]), best_epoch("f1", [0.5, 0.7])
    (1, None)
    """
    finite = [value for value in values if math.isfinite(value)]
    if not finite or not name.endswith(("accuracy", "loss")):
        return None
    return values.index((max if name.endswith("accuracy") else min)(finite))


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
        self.monitor, self.least = monitor, real(least, "least", op="EarlyStopping")
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


def in_one_line(figures: dict[str, float]) -> str:
    """Losses and accuracies with four digits, seconds with one.

    >>> in_one_line({"loss": 0.12345, "seconds": 3.21})
    'loss 0.1235  seconds 3.2 s'
    """
    return "  ".join(
        f"{name} {value:.1f} s" if name == "seconds" else f"{name} {value:.4f}" for name, value in figures.items()
    )


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
