"""The loop: batches in a seeded order, forward, loss, backward, E17, and what was seen on the way.

Nothing in a step reads a value from the device: loss and hits are added up there and read once an epoch (and, for the
progress bar, a few times a second). So a step can be captured (:mod:`dualnet.training.capture`).
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Iterable
from typing import Any

import numpy

from .. import optimizers
from ..arguments import flag, integer
from ..data import Augment
from ..layers.containers import forward_of
from ..layers.layer import Layer
from ..layers.parameter import cast_all
from ..ops import losses
from ..ops.sums import wide
from ..optimizers.loss_scale import LossScale, as_loss_scale, guarded
from ..shim import Array, asarray, backend_of, to_numpy
from ..shim.dtypes import is_half
from .batches import _batches, _order
from .callbacks import Callback, History, Run, hooked, told
from .capture import capture as captured
from .checks import _bare, _examples, _fits, _pair, _ready, _tried, _unchecked, look_ahead
from .progress import Progress
from .tally import Tally

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
        _step, net, run.optimizer, _unchecked(function), as_loss_scale(loss_scale, net.dtype), seen
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


def _observe(run: Run) -> None:
    """A schedule that watches the loss (plateau) sees it at each epoch's end."""
    run.optimizer.observe(run.logs.get("val_loss", run.logs["loss"]))


def _tell(hooks: list[Callback], event: str, run: Run) -> None:
    for hook in hooks:
        getattr(hook, event)(run)
