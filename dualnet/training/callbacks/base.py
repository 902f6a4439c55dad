"""The base class of callbacks, the ``Run`` that they see, and how they are called."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from ... import optimizers
from ...history import History, should_grow
from ...layers.layer import Layer

__all__ = ["Callback", "History", "Run", "as_callbacks", "notify", "notify_end"]


@dataclass
class Run:
    """The training as a callback sees it, and may change it: ``run.stop = True`` ends it after this step or epoch.

    ``epoch`` counts from 0; ``step`` counts all steps so far, and ``batch`` those of this epoch. If the training
    continues an earlier one (``resume``, ``initial_epoch``), ``epoch`` may be above 0 when ``on_fit_begin`` is called.
    """

    net: Layer
    optimizer: optimizers.Optimizer
    history: History
    epochs: int
    steps_per_epoch: int
    epoch: int = 0
    step: int = 0
    stop: bool = False
    batch: int = 0
    _logs: dict[str, float] = field(default_factory=dict, repr=False)
    _look: Callable[[], dict[str, float]] | None = field(default=None, repr=False)
    _looked: int = field(default=-1, repr=False)

    @property
    def logs(self) -> dict[str, float]:
        """The figures. At the end of an epoch, those of the whole epoch; within it, the means over its batches so far.

        Within an epoch they are read when you ask for them, and a GPU has to wait for that: asking once in a hundred
        steps costs nothing, asking after every step does.
        """
        if self._look is not None and self._looked != self.step:
            self._logs, self._looked = self._look(), self.step
        return self._logs

    @logs.setter
    def logs(self, figures: dict[str, float]) -> None:
        self._logs, self._look = figures, None

    def follow(self, look: Callable[[], dict[str, float]]) -> None:
        """From now on, ``logs`` is the result of ``look()``."""
        self._look, self._looked = look, -1

    @property
    def goes_on(self) -> bool:
        """Was a part of this training done before this call of ``fit``? Ask in ``on_fit_begin``."""
        return bool(self.epoch or self.step)


class Callback:
    """Hooks into :func:`fit`. Override what you need; a plain function is called as ``on_epoch_end``.

    >>> import dualnet as dn
    >>> class Stop(dn.Callback):
    ...     def on_epoch_end(self, run):
    ...         run.stop = run.logs["loss"] < 0.1
    """

    writes = False
    """True if it writes files or prints: with several ranks (``fit(..., distributed=True)``) only rank 0 calls it."""

    def on_fit_begin(self, run: Run) -> None:
        """Before the first epoch."""

    def on_epoch_begin(self, run: Run) -> None:
        """``run.epoch`` counts from 0."""

    def on_batch_end(self, run: Run) -> None:
        """After each step of the optimizer. ``run.logs`` holds the means of this epoch so far, read when you look."""

    def on_steps_end(self, run: Run) -> None:
        """After the last step of an epoch, before the validation data are evaluated."""

    def on_epoch_end(self, run: Run) -> None:
        """``run.logs`` holds the epoch's figures, already in ``run.history``; figures that you add go there too."""

    def on_fit_end(self, run: Run) -> None:
        """After the last epoch, even if training was stopped or an error ended it."""

    def state_dict(self) -> dict[str, Any]:
        """What the callback must remember for ``fit(..., resume=...)``: numbers, strings, None and arrays, by name.

        Lists and dictionaries of these are fine too. A callback that remembers nothing needs neither this nor
        :meth:`load_state_dict`.
        """
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from what :meth:`state_dict` returned; called after ``on_fit_begin``.

        Arrays are on the host and read-only: copy them if you change them in place.
        """


def figure(op: str, run: Run, monitor: str | None, mode: str) -> float:
    """The figure that a callback watches, as a number that falls when it gets better.

    ``monitor=None`` means ``val_loss`` if there is validation data, else ``loss``. With ``mode="auto"`` accuracy
    and the other metrics that ``fit`` knows should grow, and any other figure should fall.
    """
    name = monitor or ("val_loss" if "val_loss" in run.logs else "loss")
    if name not in run.logs:
        raise ValueError(f"{op}: there is no figure {name!r}; this training has {', '.join(run.logs)}")
    grows = should_grow(name) if mode == "auto" else mode == "max"
    return -run.logs[name] if grows else run.logs[name]


def check_mode(op: str, mode: Any) -> str:
    if mode not in ("auto", "max", "min"):
        raise ValueError(f"{op}: mode must be 'auto', 'max' or 'min', got {mode!r}")
    return mode


def best_of(state: dict[str, Any]) -> float:
    """The best figure in a saved state; infinity before the first."""
    return math.inf if state.get("best") is None else float(state["best"])


def as_callbacks(given: Any) -> list[Callback]:
    """The ``callbacks`` of ``fit``: one or several, each a :class:`Callback` or a function of the run.

    >>> import dualnet as dn
    >>> len(as_callbacks(print)), len(as_callbacks([dn.EarlyStopping(), print]))
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
    is_class = isinstance(callback, type)
    got = f"the class {callback.__name__}. Write {callback.__name__}()" if is_class else repr(callback)
    raise TypeError(f"fit: a callback must be a dn.Callback or a function of the run, got {got}.")


def notify(callbacks: list[Callback], event: str, run: Run) -> None:
    """Call the hook of this name, such as ``"on_epoch_end"``, on all callbacks."""
    for callback in callbacks:
        getattr(callback, event)(run)


def notify_end(callbacks: list[Callback], run: Run) -> None:
    """Call ``on_fit_end`` on all callbacks, even if one of them raises; an earlier error stays as its context."""
    if callbacks:
        try:
            callbacks[0].on_fit_end(run)
        finally:
            notify_end(callbacks[1:], run)
