"""The loop: batches in a seeded order, forward, loss, backward, E17, and what was seen on the way.

Nothing in a step reads a value from the device: loss and hits are added up there and read once an epoch (and, for the
progress bar, a few times a second). So a step can be captured (:mod:`dualnet.capture`).
"""

from __future__ import annotations

import functools
import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy

from . import optimizers
from .advice import look_ahead
from .arguments import flag, integer
from .backend import Array, asarray, backend_of, to_numpy
from .callbacks import Callback, History, Run, hooked, told
from .capture import capture as captured
from .data import Augment
from .dtypes import is_half
from .initializers import cast_all
from .layers.containers import Container, forward_of
from .layers.layer import Layer
from .loss_scale import LossScale, guarded
from .loss_scale import get as scale_of
from .ops import losses
from .ops.sums import wide
from .progress import Progress
from .recording import assign, counted

__all__ = ["evaluate", "fit", "predict"]

Loss = str | Callable[..., Any]


def fit(
    net: Layer,
    x: Any,
    t: Any,
    *,
    epochs: int = 1,
    initial_epoch: int = 0,
    batch_size: int = 64,
    optimizer: str | optimizers.Optimizer = "adam",
    loss: Loss | None = None,
    validation_data: tuple[Any, Any] | None = None,
    callbacks: Any = (),
    seed: int = 0,
    verbose: int = 1,
    shuffle: bool = True,
    augment: Augment | None = None,
    capture: bool = False,
    loss_scale: str | float | LossScale | None = "auto",
) -> History:
    """Train a network on inputs x (N, ...) and targets t, and return what was seen.

    x and t may lie on the host (each batch is then copied to the network's backend) or on its device. x is converted to
    the network's dtype batch by batch. A network that has not been initialised takes its input shape from x. Layers
    without parameters draw them from ``seed``, which also orders the batches: the same seed gives the same batches on
    every backend. Layers that have parameters go on from there, and ``loss`` is by default the one that the network was
    last trained with, else softmax cross-entropy.

    ``initial_epoch`` is for going on with a training: ``epochs=5, initial_epoch=3`` trains the fourth and the fifth
    epoch, with the batches that they have in a training of five.

    ``augment`` (:class:`dualnet.data.Augment`) makes the batches from images x, uint8 or floating: it shifts, flips and
    normalises, anew in every epoch. Images of ``validation_data`` are only normalised.

    ``capture=True`` records the whole step as a CUDA graph and repeats it without Python, see :func:`dualnet.capture`;
    on NumPy it changes nothing. ``loss_scale="auto"`` makes a :class:`dualnet.LossScale` for a network of float16 and
    none else; or give one, or a number. ``verbose`` is 0 for silence, 1 for a progress bar (a line per epoch without
    tqdm), 2 for a line per epoch. Wrong shapes, labels and options raise before the first step.

    >>> import dualnet as dn
    >>> net = dn.Sequential([dn.Flatten(), dn.Dense(2)])
    >>> x, t = dn.asarray([[[[0.0]]], [[[1.0]]]]), dn.asarray([0, 1])
    >>> history = net.fit(x, t, epochs=20, optimizer=dn.SGD(lr=1.0), verbose=0)
    >>> history["accuracy"][-1], history["loss"][-1] < history["loss"][0]
    (1.0, True)
    """
    epochs = integer(epochs, "epochs", op="fit", least=0)
    initial_epoch = integer(initial_epoch, "initial_epoch", op="fit", least=0)
    if initial_epoch > epochs:
        raise ValueError(
            f"fit: initial_epoch={initial_epoch} lies beyond epochs={epochs}, where the training ends. Both count "
            f"from its beginning; for {epochs} more, epochs={initial_epoch + epochs}."
        )
    batch_size = integer(batch_size, "batch_size", op="fit")
    x, t = _examples("fit", x, t)
    held_out = None if validation_data is None else _pair(validation_data)
    loss = losses.known(net) if loss is None else loss
    function, steps = losses.get(loss), math.ceil(len(x) / batch_size)
    new = net.input_shape is None
    if not _ready(net):
        net.init(net.input_shape or tuple(x.shape[1:]), seed=seed, keep=True)
    _fits(net, x, t, function, "fit", augment)
    if held_out is not None:
        _fits(net, *held_out, function, "fit: validation_data", augment)
    if (shift := getattr(augment, "shift", 0)) and shift >= min(x.shape[1:3]):
        raise ValueError(f"fit: augment shifts images of {tuple(x.shape[1:])} by up to {shift} pixels, out of sight")
    look_ahead(net, len(x), batch_size, _bare(function), optimizer if new else None)
    net.loss = loss
    run = Run(net, optimizers.get(optimizer), History(), epochs, steps)
    order = functools.partial(_order, len(x), seed, flag(shuffle, "shuffle", op="fit"))
    several = isinstance(callbacks, Iterable) and not isinstance(callbacks, (str, Callback))
    hooks = [hooked(callback) for callback in (callbacks if several else [callbacks])]
    seen = Tally(function)
    step: Callable[..., None] = functools.partial(
        _step, net, run.optimizer, _unchecked(function), scale_of(loss_scale, net.dtype), seen
    )
    step = captured(step) if flag(capture, "capture", op="fit") else step
    _tell(hooks, "on_fit_begin", run)
    try:
        for run.epoch in range(initial_epoch, epochs):
            _tell(hooks, "on_epoch_begin", run)
            begun = time.perf_counter()
            with Progress(run.epoch, epochs, steps, verbose) as progress:
                seen.begin()
                moves = None if augment is None else augment.moves(len(x), seed=seed, epoch=run.epoch)
                batches = _batches(net, x, t, batch_size, order(run.epoch), augment, moves)
                _epoch(run, hooks, step, seen, batches, progress)
                run.logs = seen.figures()
                if held_out is not None:
                    scores = evaluate(net, *held_out, loss=loss, augment=augment)
                    run.logs |= {f"val_{name}": value for name, value in scores.items()}
                run.logs["seconds"] = time.perf_counter() - begun
                run.history.add(run.logs)
                progress.done(told(run.logs))
            _observe(run)
            told_already = set(run.logs)
            _tell(hooks, "on_epoch_end", run)
            run.history.add({name: value for name, value in run.logs.items() if name not in told_already})
            if run.stop:
                break
    finally:
        _tell(hooks, "on_fit_end", run)
    return run.history


def _step(
    net: Layer,
    optimizer: optimizers.Optimizer,
    loss: Callable[..., Any],
    scale: LossScale | None,
    seen: Any,
    batch: Array,
    target: Array,
    need_dx: bool = False,
) -> None:
    """All that the device does for a batch."""
    put_back = None if scale is None else guarded(net)
    if is_half(net.dtype):
        cast_all(net.parameters().values(), net.dtype)
    with numpy.errstate() if scale is None else numpy.errstate(over="ignore", invalid="ignore"):
        y, pullback = forward_of(net, batch, train=True, need_dx=need_dx)
        y = wide(y)  # the loss of 16 bits is float32
        value, dloss = loss(y, target)
        dy = dloss() if scale is None else dloss(scale.on(y))
        _, gradients = pullback(dy.astype(pullback.dtype, copy=False))
        pullback.free()
        if scale is None:
            optimizer.step(net, gradients)  # E17
        else:
            gradients, finite = scale.unscale(gradients)
            optimizer.step(net, gradients, finite=finite)  # E17
            put_back(finite)  # type: ignore[misc]
            scale.update(finite)
        seen.add(y, target, value)


def _epoch(
    run: Run,
    hooks: list[Callback],
    step: Callable[[Array, Array], None],
    seen: Tally,
    batches: Iterable[tuple[Array, Array]],
    progress: Progress,
) -> None:
    for batch, target in batches:
        step(batch, target)
        run.step += 1
        progress.step(seen.figures)
        _tell(hooks, "on_batch_end", run)
        if run.stop:
            break


def evaluate(
    net: Layer,
    x: Any,
    t: Any,
    batch_size: int = 256,
    *,
    loss: Loss | None = None,
    augment: Augment | None = None,
) -> dict[str, float]:
    """The mean loss over all examples and, for classes, the accuracy (share of right answers, 0 … 1).

    ``loss`` defaults to the one the network was last trained with, else softmax cross-entropy. ``augment`` is the one
    it was trained with, if any: it normalises the images, and moves none.

    >>> import dualnet as dn
    >>> net = dn.Sequential([dn.Flatten(), dn.Dense(2, initializer="zeros")]).init((1, 1, 1))
    >>> {name: round(value, 4) for name, value in net.evaluate(dn.asarray([[[[1.0]]]]), dn.asarray([0])).items()}
    {'loss': 0.6931, 'accuracy': 1.0}
    """
    batch_size = integer(batch_size, "batch_size", op="evaluate")
    x, t = _examples("evaluate", x, t)
    function = losses.of(net, loss)
    _fits(net, x, t, function, "evaluate", augment)
    seen, function = Tally(function), _unchecked(function)
    for batch, target in _batches(net, x, t, batch_size, numpy.arange(len(x)), augment):
        y = wide(net(batch))
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
    elif len(x) == 0:
        return numpy.empty((0, *net.output_shape(net.input_shape)), net.dtype)
    elif tuple(x.shape[1:]) != net.input_shape:
        _tried(net, x[:1], tuple(x.shape), "predict")
    parts = [to_numpy(net(batch)) for batch, _ in _batches(net, x, None, batch_size, numpy.arange(len(x)))]
    return numpy.concatenate(parts)


class Tally:
    """Adds up loss and hits over batches, on the device; reading the figures waits for it."""

    def __init__(self, loss: Callable[..., Any]) -> None:
        self.loss = loss
        self.begin()

    def begin(self) -> None:
        """Nothing was seen."""
        self.examples, self.answers = 0, 0
        self.total: Any = 0.0
        self.hits: Any = None

    def add(self, y: Array, t: Array, value: Array) -> None:
        counted(self, "examples")
        n = int(y.shape[0])
        self.examples += n
        assign(self, "total", self.total + value * n)
        right = _right(self.loss, y, t)
        if right is not None:
            counted(self, "answers")
            self.answers += math.prod(right.shape)
            hits = backend_of(right).xp.sum(right)
            assign(self, "hits", hits if self.hits is None else self.hits + hits)

    def figures(self) -> dict[str, float]:
        figures = {"loss": float(to_numpy(self.total)) / max(1, self.examples)}
        if self.hits is not None:
            figures["accuracy"] = float(to_numpy(self.hits)) / self.answers
        return figures


def _right(loss: Callable[..., Any], y: Array, t: Array) -> Array | None:
    """Which answers are right; None where the loss is not about classes."""
    xp, loss = backend_of(y).xp, _bare(loss)
    if loss is losses.softmax_cross_entropy:
        label = t if t.ndim < y.ndim else xp.argmax(t, axis=-1)
        return xp.argmax(y, axis=-1) == label
    if loss is losses.binary_cross_entropy:
        return (y > 0) == (t > 0.5)
    return None


def _batches(
    net: Layer,
    x: Any,
    t: Any,
    size: int,
    order: numpy.ndarray,
    augment: Augment | None = None,
    moves: numpy.ndarray | None = None,
) -> Iterator[tuple[Array, Array]]:
    backend = _backend_of(net)
    plain = augment is None
    inputs = _chosen(x, order, size, backend) if plain else _augmented(augment, x, order, moves, size, net)
    targets = itertools.repeat(None) if t is None else _chosen(t, order, size, backend)
    return zip(inputs, targets)


def _chosen(x: Any, order: numpy.ndarray, size: int, backend: str | None) -> Iterator[Array]:
    """x in this order, in batches: those of the host are copied one by one, for the others the order is."""
    owner = backend_of(x)
    if not owner.on_host:
        order = asarray(order, backend=owner.name)
    for start in range(0, order.shape[0], size):
        chosen = order[start : start + size]
        yield asarray(x[chosen], backend=backend) if owner.on_host else owner.xp.take(x, chosen, axis=0)


def _augmented(
    augment: Any, x: Any, order: numpy.ndarray, moves: numpy.ndarray | None, size: int, net: Layer
) -> Iterator[Array]:
    """Images of x in this order, moved and normalised where they are; order and moves are sent there once."""
    backend, owner = _backend_of(net), backend_of(x)
    there = [None if a is None else a if owner.on_host else asarray(a, backend=owner.name) for a in (order, moves)]
    for start in range(0, len(order), size):
        chosen, moved = (None if a is None else a[start : start + size] for a in there)
        yield asarray(augment.batch(x, chosen, moved, dtype=net.dtype), backend=backend or owner.name)


def _backend_of(net: Layer) -> str | None:
    for parameter in net.parameters().values():
        return backend_of(parameter.value).name
    return None


def _order(examples: int, seed: int, shuffle: bool, epoch: int) -> numpy.ndarray:
    if not shuffle:
        return numpy.arange(examples)
    stream = numpy.random.SeedSequence(seed, spawn_key=(2**31, epoch))  # far from the layers' places
    return numpy.random.Generator(numpy.random.PCG64(stream)).permutation(examples)


def _examples(op: str, x: Any, t: Any) -> tuple[Any, Any]:
    x, t = (a if backend_of(a) is not None else to_numpy(asarray(a, backend="numpy")) for a in (x, t))
    if x.ndim < 2 or t.ndim < 1:
        hint = ". x[:, None] has one number for each example." if x.ndim == 1 else ""
        shapes = f"x has shape {tuple(x.shape)} and t {tuple(t.shape)}"
        raise ValueError(f"{op}: {shapes}; expected a batch of each, (N, ...) and (N,) or more{hint}")
    if len(x) != len(t):
        raise ValueError(f"{op}: x holds {len(x)} examples and t {len(t)}; expected a target for each example")
    if len(x) == 0:
        raise ValueError(f"{op}: x holds no examples; expected at least one")
    return x, t


def _ready(net: Layer) -> bool:
    """Has every layer met the shape of its input? (A layer that was put into a trained network has not.)"""
    inside = (child for _, part in net.walk() if isinstance(part, Container) for child in part.children().values())
    return all(layer.input_shape is not None for layer in (net, *inside))


def _pair(validation_data: Any) -> tuple[Any, Any]:
    if not isinstance(validation_data, (tuple, list)) or len(validation_data) != 2:
        raise ValueError("fit: validation_data is a pair (x, t)")
    return _examples("fit: validation_data", *validation_data)


def _fits(net: Layer, x: Any, t: Any, loss: Callable[..., Any], op: str, augment: Any = None) -> None:
    """One look at all targets, before the first step, instead of one in every step."""
    if augment is not None and not (hasattr(augment, "batch") and hasattr(augment, "moves")):
        raise TypeError(f"{op}: augment is a dn.data.Augment, got {augment!r}")
    one = x[:1] if augment is None else augment.batch(x, numpy.zeros(1, int), dtype=net.dtype)
    y, kind = _tried(net, one, tuple(x.shape), op), _bare(loss)
    _fit_together(y, t, loss, op)
    if kind is losses.softmax_cross_entropy and t.ndim < y.ndim:
        losses.check_labels(op, t, y.shape[-1])
    elif kind is losses.softmax_cross_entropy:
        losses.check_probabilities(op, t)
    elif kind is losses.binary_cross_entropy:
        losses.check_answers(op, t)


def _tried(net: Layer, one: Any, shape: tuple[int, ...], op: str) -> Array:
    """The output for one example. (What else is wrong with the numbers the first step will tell.)"""
    try:
        with numpy.errstate(all="ignore"):
            return net(asarray(net.enter(one), backend=_backend_of(net)))
    except (ValueError, TypeError) as error:
        if net.input_shape is None or shape[1:] == net.input_shape:
            raise
        if shape == net.input_shape:
            raise ValueError(f"{op}: x has shape {shape}, that of one example; x[None] is a batch of one") from error
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"{op}: x has shape {shape}, where init was given {net.input_shape}; {error}") from error


def _fit_together(y: Array, t: Any, loss: Callable[..., Any], op: str) -> None:
    """Does the loss take one output of the network and its target?"""
    if t.dtype.kind not in "biufV":
        raise TypeError(
            f"{op}: t has dtype {t.dtype}; expected numbers. numpy.unique(t, return_inverse=True) makes class numbers "
            "of names."
        )
    try:
        with numpy.errstate(all="ignore"):
            result = _unchecked(loss)(wide(y), asarray(t[:1], backend=backend_of(y).name))
    except (ValueError, TypeError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(
            f"{op}: the loss does not take outputs of shape (N, {', '.join(map(str, y.shape[1:]))}) with targets t of "
            f"shape {tuple(t.shape)}, {t.dtype}: {error}"
        ) from error
    parts = result if isinstance(result, (tuple, list)) else (result,)
    if len(parts) != 2 or not callable(parts[1]) or getattr(parts[0], "shape", ()) != ():
        got = ", ".join(f"a {type(part).__name__} {getattr(part, 'shape', '')}".rstrip() for part in parts)
        raise TypeError(f"{op}: the loss returned {got}; expected one number, the batch's mean, and its pullback")


def _unchecked(loss: Callable[..., Any]) -> Callable[..., Any]:
    if _bare(loss) in (losses.softmax_cross_entropy, losses.binary_cross_entropy):
        return functools.partial(loss, check_labels=False)
    return loss


def _bare(loss: Callable[..., Any]) -> Callable[..., Any]:
    """The loss itself, where it was given options by functools.partial."""
    while isinstance(loss, functools.partial):
        loss = loss.func
    return loss


def _observe(run: Run) -> None:
    """A schedule that watches the loss (plateau) sees it at each epoch's end."""
    run.optimizer.observe(run.logs.get("val_loss", run.logs["loss"]))


def _tell(hooks: list[Callback], event: str, run: Run) -> None:
    for hook in hooks:
        getattr(hook, event)(run)
