"""The loop: batches in a seeded order, forward, loss, backward, E17, and what was seen on the way.

Nothing in a step reads a value from the device: loss and hits are added up there and read once an epoch (and, for the
progress bar, a few times a second).
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy

from . import markup, optimizers
from .arguments import flag, integer, real
from .backend import Array, asarray, backend_of, to_numpy
from .layers.containers import forward_of
from .layers.layer import Layer
from .ops import losses
from .progress import Progress

__all__ = ["Callback", "EarlyStopping", "History", "Run", "evaluate", "fit", "predict"]

Loss = str | Callable[..., Any]


class History(dict):
    """One list per figure, one entry per epoch: ``history["loss"]``, ``"accuracy"``, ``"val_loss"``, ``"seconds"``, ...

    >>> import dualnet as dn
    >>> h = dn.History(); h.add({"loss": 0.5}); h.add({"loss": 0.25}); h["loss"], h.epochs
    ([0.5, 0.25], 2)
    """

    @property
    def epochs(self) -> int:
        return max(map(len, self.values()), default=0)

    def add(self, figures: dict[str, float]) -> None:
        """Append one epoch's figures."""
        for name, value in figures.items():
            self.setdefault(name, []).append(value)

    def __str__(self) -> str:
        rows = [{name: values[i] for name, values in self.items() if i < len(values)} for i in range(self.epochs)]
        return "\n".join(f"epoch {i + 1:>3}  {told(row)}" for i, row in enumerate(rows)) or "no epochs"

    __repr__ = __str__

    def _repr_html_(self) -> str:
        """The curves, the smallest or largest value of each figure, and every epoch in a table that unfolds."""
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
    """A figure's row: what grows is best where it is largest."""
    grows = name.endswith("accuracy")
    finite = [value for value in values if math.isfinite(value)]
    best = (max if grows else min)(finite, default=math.nan)
    line = markup.sparkline(values, colour=markup.ORANGE if name.startswith("val_") else markup.BLUE)
    end = ["", ""] if name == "seconds" or not finite else [markup.figure(best, 4), str(values.index(best) + 1)]
    return [name, line, markup.figure(values[0], 4), markup.figure(values[-1], 4), *end]


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
        """``run.logs`` holds the epoch's figures, already in ``run.history``."""

    def on_fit_end(self, run: Run) -> None:
        """After the last epoch, also when training was stopped or broken off by an error."""


class EarlyStopping(Callback):
    """Stop when ``monitor`` has not improved by ``least`` for ``patience`` epochs; keep the best weights.

    A figure whose name ends in ``accuracy`` is to grow, any other to fall. ``monitor=None`` takes ``val_loss`` where
    there is validation data, else ``loss``.

    >>> import dualnet as dn
    >>> dn.EarlyStopping(patience=2, monitor="val_accuracy").patience
    2
    """

    def __init__(
        self, patience: int = 3, *, monitor: str | None = None, least: float = 0.0, restore_best: bool = True
    ) -> None:
        self.patience = integer(patience, "patience", op="EarlyStopping", least=0)
        self.monitor, self.least = monitor, real(least, "least", op="EarlyStopping")
        self.restore_best = flag(restore_best, "restore_best", op="EarlyStopping")

    def on_fit_begin(self, run: Run) -> None:
        self.best, self.waited, self.weights = math.inf, 0, None

    def on_epoch_end(self, run: Run) -> None:
        name = self.monitor or ("val_loss" if "val_loss" in run.logs else "loss")
        if name not in run.logs:
            raise ValueError(f"EarlyStopping: no figure {name!r}; this training shows {', '.join(run.logs)}")
        value = -run.logs[name] if name.endswith("accuracy") else run.logs[name]
        if value < self.best - self.least:
            self.best, self.waited = value, 0
            self.weights = run.net.state_dict() if self.restore_best else None  # values are replaced, never changed
        else:
            self.waited += 1
            run.stop = run.stop or self.waited > self.patience

    def on_fit_end(self, run: Run) -> None:
        if self.weights is not None:
            run.net.load_state_dict(self.weights)


def fit(
    net: Layer,
    x: Any,
    t: Any,
    *,
    epochs: int = 1,
    batch_size: int = 64,
    optimizer: str | optimizers.Optimizer = "adam",
    loss: Loss = "softmax_cross_entropy",
    validation_data: tuple[Any, Any] | None = None,
    callbacks: Iterable[Any] = (),
    seed: int = 0,
    verbose: int = 1,
    shuffle: bool = True,
) -> History:
    """Train a network on inputs x (N, ...) and targets t, and return what was seen.

    x and t may lie on the host (each batch is then copied to the network's backend) or on its device. x is converted to
    the network's dtype batch by batch. A network that has not been initialised takes its input shape from x and its
    weights from ``seed``, which also orders the batches: the same seed gives the same batches on every backend.

    ``verbose`` is 0 for silence, 1 for a progress bar (a line per epoch without tqdm), 2 for a line per epoch.
    Wrong shapes, labels and options raise before the first step.

    >>> import dualnet as dn
    >>> net = dn.Sequential([dn.Flatten(), dn.Dense(2)])
    >>> x, t = dn.asarray([[[[0.0]]], [[[1.0]]]]), dn.asarray([0, 1])
    >>> history = net.fit(x, t, epochs=20, optimizer=dn.SGD(lr=1.0), verbose=0)
    >>> history["accuracy"][-1], history["loss"][-1] < history["loss"][0]
    (1.0, True)
    """
    epochs = integer(epochs, "epochs", op="fit", least=0)
    batch_size = integer(batch_size, "batch_size", op="fit")
    x, t = _examples("fit", x, t)
    held_out = None if validation_data is None else _pair(validation_data)
    function, steps = losses.get(loss), math.ceil(len(x) / batch_size)
    if net.input_shape is None:
        net.init(tuple(x.shape[1:]), seed=seed)
    _fits(net, x, t, function, "fit")
    if held_out is not None:
        _fits(net, *held_out, function, "fit: validation_data")
    net.loss = loss  # type: ignore[attr-defined]
    run = Run(net, optimizers.get(optimizer), History(), epochs, steps)
    hooks = [_hooked(callback) for callback in callbacks]
    _tell(hooks, "on_fit_begin", run)
    try:
        for run.epoch in range(epochs):
            _tell(hooks, "on_epoch_begin", run)
            begun = time.perf_counter()
            with Progress(run.epoch, epochs, steps, verbose) as progress:
                seen = _epoch(
                    run, hooks, x, t, batch_size, function, _order(len(x), seed, run.epoch, shuffle), progress
                )
                run.logs = seen.figures()
                if held_out is not None:
                    scores = evaluate(net, *held_out, loss=loss)
                    run.logs |= {f"val_{name}": value for name, value in scores.items()}
                run.logs["seconds"] = time.perf_counter() - begun
                run.history.add(run.logs)
                progress.done(told(run.logs))
            _observe(run)
            _tell(hooks, "on_epoch_end", run)
            if run.stop:
                break
    finally:
        _tell(hooks, "on_fit_end", run)
    return run.history


def _epoch(
    run: Run,
    hooks: list[Callback],
    x: Any,
    t: Any,
    batch_size: int,
    loss: Callable[..., Any],
    order: numpy.ndarray,
    progress: Progress,
) -> Tally:
    seen, loss = Tally(loss), _unchecked(loss)
    for batch, target in _batches(run.net, x, t, batch_size, order):
        y, pullback = forward_of(run.net, batch, train=True, need_dx=False)
        value, dloss = loss(y, target)
        _, gradients = pullback(dloss())
        pullback.free()
        run.optimizer.step(run.net, gradients)  # E17
        seen.add(y, target, value)
        run.step += 1
        progress.step(seen.figures)
        _tell(hooks, "on_batch_end", run)
        if run.stop:
            break
    return seen


def evaluate(net: Layer, x: Any, t: Any, batch_size: int = 256, *, loss: Loss | None = None) -> dict[str, float]:
    """The mean loss over all examples and, for classes, the accuracy (share of right answers, 0 … 1).

    ``loss`` defaults to the one the network was last trained with, else softmax cross-entropy.

    >>> import dualnet as dn
    >>> net = dn.Sequential([dn.Flatten(), dn.Dense(2, initializer="zeros")]).init((1, 1, 1))
    >>> {name: round(value, 4) for name, value in net.evaluate(dn.asarray([[[[1.0]]]]), dn.asarray([0])).items()}
    {'loss': 0.6931, 'accuracy': 1.0}
    """
    batch_size = integer(batch_size, "batch_size", op="evaluate")
    x, t = _examples("evaluate", x, t)
    function = losses.get(getattr(net, "loss", "softmax_cross_entropy") if loss is None else loss)
    _fits(net, x, t, function, "evaluate")
    seen, function = Tally(function), _unchecked(function)
    for batch, target in _batches(net, x, t, batch_size, numpy.arange(len(x))):
        y = net(batch)
        seen.add(y, target, function(y, target)[0])
    return seen.figures()


def predict(net: Layer, x: Any, batch_size: int = 256) -> numpy.ndarray:
    """The network's outputs for x (N, ...), batch by batch, as a NumPy array on the host. Nothing is kept.

    >>> import dualnet as dn
    >>> net = dn.Sequential([dn.Flatten(), dn.Dense(2, initializer="ones")]).init((1, 1, 1))
    >>> net.predict(dn.asarray([[[[1.0]]], [[[2.0]]]]))
    array([[1., 1.],
           [2., 2.]], dtype=float32)
    """
    batch_size = integer(batch_size, "batch_size", op="predict")
    x = x if backend_of(x) is not None else to_numpy(asarray(x, backend="numpy"))
    if net.input_shape is None:
        net.enter(x)  # says what to do
    if len(x) == 0:
        return numpy.empty((0, *net.output_shape(net.input_shape)), net.dtype)
    parts = [to_numpy(net(batch)) for batch, _ in _batches(net, x, None, batch_size, numpy.arange(len(x)))]
    return numpy.concatenate(parts)


class Tally:
    """Adds up loss and hits over batches, on the device; reading the figures waits for it."""

    def __init__(self, loss: Callable[..., Any]) -> None:
        self.loss, self.examples, self.answers = loss, 0, 0
        self.total: Any = 0.0
        self.hits: Any = None

    def add(self, y: Array, t: Array, value: Array) -> None:
        n = int(y.shape[0])
        self.total, self.examples = self.total + value * n, self.examples + n
        right = _right(self.loss, y, t)
        if right is not None:
            self.answers += math.prod(right.shape)
            hits = backend_of(right).xp.sum(right)
            self.hits = hits if self.hits is None else self.hits + hits

    def figures(self) -> dict[str, float]:
        figures = {"loss": float(to_numpy(self.total)) / max(1, self.examples)}
        if self.hits is not None:
            figures["accuracy"] = float(to_numpy(self.hits)) / self.answers
        return figures


def _right(loss: Callable[..., Any], y: Array, t: Array) -> Array | None:
    """Which answers are right; None where the loss is not about classes."""
    xp = backend_of(y).xp
    if loss is losses.softmax_cross_entropy:
        label = t if t.ndim < y.ndim else xp.argmax(t, axis=-1)
        return xp.argmax(y, axis=-1) == label
    if loss is losses.binary_cross_entropy:
        return (y > 0) == (t > 0.5)
    return None


def _batches(net: Layer, x: Any, t: Any, size: int, order: numpy.ndarray) -> Iterator[tuple[Array, Array]]:
    backend = _backend_of(net)
    for start in range(0, len(order), size):
        chosen = order[start : start + size]
        yield _chosen(x, chosen, backend), None if t is None else _chosen(t, chosen, backend)


def _chosen(x: Any, chosen: numpy.ndarray, backend: str | None) -> Array:
    owner = backend_of(x)
    if owner.on_host:
        return asarray(x[chosen], backend=backend)
    return owner.xp.take(x, asarray(chosen, backend=owner.name), axis=0)


def _backend_of(net: Layer) -> str | None:
    for parameter in net.parameters().values():
        return backend_of(parameter.value).name
    return None


def _order(examples: int, seed: int, epoch: int, shuffle: bool) -> numpy.ndarray:
    if not shuffle:
        return numpy.arange(examples)
    stream = numpy.random.SeedSequence(seed, spawn_key=(2**31, epoch))  # far from the layers' places
    return numpy.random.Generator(numpy.random.PCG64(stream)).permutation(examples)


def _examples(op: str, x: Any, t: Any) -> tuple[Any, Any]:
    x, t = (a if backend_of(a) is not None else to_numpy(asarray(a, backend="numpy")) for a in (x, t))
    if x.ndim < 2 or t.ndim < 1:
        raise ValueError(
            f"{op}: x has shape {tuple(x.shape)} and t {tuple(t.shape)}; expected a batch (N, ...) of each"
        )
    if len(x) != len(t):
        raise ValueError(f"{op}: x holds {len(x)} examples and t {len(t)}; expected a target for each example")
    if len(x) == 0:
        raise ValueError(f"{op}: x holds no examples; expected at least one")
    return x, t


def _pair(validation_data: Any) -> tuple[Any, Any]:
    if not isinstance(validation_data, (tuple, list)) or len(validation_data) != 2:
        raise ValueError("fit: validation_data is a pair (x, t)")
    return _examples("fit: validation_data", *validation_data)


def _fits(net: Layer, x: Any, t: Any, loss: Callable[..., Any], op: str) -> None:
    """One look at all targets, before the first step, instead of one in every step."""
    net.enter(x[:1])
    if loss is losses.softmax_cross_entropy and t.dtype.kind in "iub":
        losses.check_labels(op, t, net.output_shape(tuple(x.shape[1:]))[-1])
    elif loss is losses.softmax_cross_entropy:
        losses.check_probabilities(op, t)
    elif loss is losses.binary_cross_entropy:
        losses.check_answers(op, t)


def _unchecked(loss: Callable[..., Any]) -> Callable[..., Any]:
    if loss in (losses.softmax_cross_entropy, losses.binary_cross_entropy):
        return functools.partial(loss, check_labels=False)
    return loss


def _observe(run: Run) -> None:
    """A schedule that watches the loss (plateau) sees it at each epoch's end."""
    run.optimizer.observe(run.logs.get("val_loss", run.logs["loss"]))


def _hooked(callback: Any) -> Callback:
    if isinstance(callback, Callback):
        return callback
    if callable(callback):
        wrapped = Callback()
        wrapped.on_epoch_end = callback  # type: ignore[method-assign]
        return wrapped
    raise TypeError(f"fit: a callback is a dn.Callback or a function of the run, got {callback!r}")


def _tell(hooks: list[Callback], event: str, run: Run) -> None:
    for hook in hooks:
        getattr(hook, event)(run)


def told(figures: dict[str, float]) -> str:
    """Figures on one line: losses and accuracies with four digits, seconds with one."""
    return "  ".join(
        f"{name} {value:.1f} s" if name == "seconds" else f"{name} {value:.4f}" for name, value in figures.items()
    )
