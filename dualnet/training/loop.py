"""The loop: batches in a seeded order, forward, loss, backward, E17, and a tally of what was seen on the way.

A step reads nothing back from the device: loss and right answers are added up there and read once an epoch (and a few
times a second for the progress bar). So a step can be captured (:mod:`dualnet.training.capture`).
"""

from __future__ import annotations

import contextlib
import functools
import math
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy

from .. import optimizers
from ..arguments import flag, integer
from ..data import Augment
from ..history import in_one_line
from ..layers.containers import forward_of
from ..layers.layer import Layer
from ..layers.parameter import cast_all
from ..layers.state import all_or_nothing
from ..ops import losses
from ..ops.sums import wide
from ..optimizers.loss_scale import LossScale, as_loss_scale, guarded
from ..shim import Array, asarray, backend_of, to_numpy
from ..shim.dtypes import is_half
from .batches import batches, batches_of_epoch
from .callbacks import Callback, History, Run, as_callbacks, notify, notify_end
from .capture import capture as captured
from .checks import check_lengths, check_training, check_trial, examples, initialise, output_of_one, validation
from .ending import ends_like_ctrl_c, unbroken
from .finite import FiniteSteps
from .progress import Progress
from .tally import Tally

__all__ = ["evaluate", "fit", "predict", "train_step"]


Loss = str | Callable[..., Any]
GROWN = 1000.0  # a loss that has grown by this factor is warned of


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
    check_finite: bool = False,
) -> History:
    """Train a network on inputs x (N, ...) and targets t, and return the history of its figures.

    x and t may lie on the host, from where each batch is copied to the network's backend, or on its device. Each batch
    of x is converted to the network's dtype. If the network is not initialised, x tells its input shape. Layers without
    parameters draw them from ``seed``, which also orders the batches: the same seed gives the same batches on every
    backend. Layers that have parameters go on from there. ``loss`` is a name or a function; by default the one that the
    network was last trained with, else softmax cross-entropy.

    To go on with a training, pass ``initial_epoch``: ``epochs=5, initial_epoch=3`` trains the fourth and the fifth
    epoch, with the batches that they have in a training of five.

    ``augment`` (:class:`dualnet.data.Augment`) makes the batches from images x, uint8 or floating: it shifts, flips and
    normalises them, differently in every epoch. Images of ``validation_data`` are only normalised.

    ``capture=True`` records the whole step as a CUDA graph and repeats it without Python, see :func:`dualnet.capture`;
    on NumPy it changes nothing. ``loss_scale="auto"`` makes a :class:`dualnet.LossScale` for a float16 network, and
    none for any other; or pass one, or a number. ``verbose`` is 0 for silence, 1 for a progress bar (a line per epoch
    if tqdm is missing, or nobody watches: stderr is no terminal), 2 for a line per epoch. Wrong shapes, labels and
    options raise before the first step.

    Ctrl-C, SIGTERM and SIGHUP end a training in good order: ``on_fit_end`` of every callback is called, and what was
    trained is kept. A step that is broken off changes nothing. ``net.history`` holds the figures of all
    whole epochs, also while training. A signal raises an exception that is both a ``KeyboardInterrupt`` and a
    ``SystemExit`` (exit codes 143 and 129).

    ``check_finite=True`` stops at the first NaN or infinity with a ``FloatingPointError``, which names the epoch, the
    batch and the layer. It reads a number back after every step, which takes time on a GPU, and does not go together
    with ``capture``. Without it, ``fit`` warns once: before the first step of NaN in x and t and of images from 0 to
    255, and after an epoch of a loss that is NaN or has grown a thousandfold.

    >>> import dualnet as dn
    >>> net = dn.Sequential([dn.Flatten(), dn.Dense(2)])
    >>> x, t = dn.asarray([[[[0.0]]], [[[1.0]]]]), dn.asarray([0, 1])
    >>> history = net.fit(x, t, epochs=20, optimizer=dn.SGD(lr=1.0), verbose=0)
    >>> history["accuracy"][-1], history["loss"][-1] < history["loss"][0]
    (1.0, True)
    """
    epochs, initial_epoch, batch_size = check_lengths(epochs, initial_epoch, batch_size)
    (x, t), held_out = examples("fit", x, t), validation(validation_data)
    function = losses.of(net, loss)
    initialise(net, x, seed)
    fine = check_training(net, (x, t), held_out, function, batch_size, augment, optimizer)
    net.loss = losses.known(net) if loss is None else loss
    run = Run(net, optimizers.get(optimizer), History(), epochs, math.ceil(len(x) / batch_size))
    shuffle, hooks, tally = flag(shuffle, "shuffle", op="fit"), as_callbacks(callbacks), Tally(function)
    scale = as_loss_scale(loss_scale, net.dtype)
    step: Callable[..., None]
    trusting = losses.unchecked(function)
    step = functools.partial(train_step, net, run.optimizer, trusting, scale, tally)
    if flag(capture, "capture", op="fit"):
        step = captured(step)
    if flag(check_finite, "check_finite", op="fit"):
        if capture:
            raise ValueError(
                "fit: check_finite=True reads a number back after every step, which a captured step cannot"
            )
        step = FiniteSteps(step, run, trusting, scale, initial_epoch)
    batches_of = functools.partial(batches_of_epoch, net, x, t, batch_size, seed=seed, shuffle=shuffle, augment=augment)
    net.history = run.history
    with ends_like_ctrl_c(), _ending(run, hooks):
        for run.epoch in range(initial_epoch, epochs):
            notify(hooks, "on_epoch_begin", run)
            begun = time.perf_counter()
            with Progress(run.epoch, epochs, run.steps_per_epoch, verbose) as progress:
                tally.begin()
                for batch, target in batches_of(run.epoch):
                    step(batch, target)  # forward, loss, backward, E17
                    run.step += 1
                    progress.step(tally.figures)
                    notify(hooks, "on_batch_end", run)
                    if run.stop:
                        break
                run.logs = tally.figures()
                if held_out is not None:
                    scores = evaluate(net, *held_out, loss=function, augment=augment)
                    run.logs |= {f"val_{name}": value for name, value in scores.items()}
                run.logs["seconds"] = time.perf_counter() - begun
                progress.done(in_one_line(run.logs))
            if fine:
                _warn_of_the_loss(run)
            _end_epoch(run, hooks)
            if run.stop:
                break
    return run.history


@contextlib.contextmanager
def _ending(run: Run, hooks: list[Callback]) -> Iterator[None]:
    """Begin the callbacks; afterwards end all that have begun, whatever happens, also if one of them raises."""
    begun: list[Callback] = []
    try:
        for hook in hooks:
            notify([hook], "on_fit_begin", run)
            begun.append(hook)
        yield
    finally:
        with unbroken():
            notify_end(begun, run)


def train_step(
    net: Layer,
    optimizer: optimizers.Optimizer,
    loss: Callable[..., Any],
    scale: LossScale | None,
    tally: Any,
    x: Array,
    t: Array,
    need_dx: bool = False,
    check: Callable[..., None] | None = None,
) -> None:
    """All that the device does for a batch: forward, loss, backward, E17, tally. With ``scale``, as 16 bits need it.

    If it raises, or is interrupted, nothing has changed. ``check(x, loss, gradients)`` may raise at its end.
    """
    put_back = None if scale is None else guarded(net)
    errors = numpy.errstate() if scale is None else numpy.errstate(over="ignore", invalid="ignore")
    with errors, all_or_nothing(net, optimizer, scale, tally):
        if is_half(net.dtype):
            cast_all(net.parameters().values(), net.dtype)
        y, pullback = forward_of(net, x, train=True, need_dx=need_dx)
        y = wide(y)  # the loss of 16 bits is float32
        value, dloss = loss(y, t)
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
        tally.add(y, t, value)
        if check is not None:
            check(x, value, gradients)


def _warn_of_the_loss(run: Run) -> None:
    """Once in a training: its loss became NaN, or is a thousand times that of the first epoch."""
    now, first = run.logs["loss"], run.history.get("loss", [run.logs["loss"]])[0]
    was_fine = all(math.isfinite(loss) and loss <= GROWN * first for loss in run.history.get("loss", ()))
    if was_fine and not (math.isfinite(now) and now <= GROWN * abs(first)):
        what = f"grew from {first:.4g} to {now:.4g}" if math.isfinite(now) else f"is {now}"
        warnings.warn(
            f"fit: the loss {what} in epoch {run.epoch + 1}. Most often the learning rate is too large: try a tenth. "
            "fit(..., check_finite=True) stops at the first NaN or infinity, and names where it comes from.",
            stacklevel=3,  # where fit was called
        )


def _end_epoch(run: Run, hooks: list[Callback]) -> None:
    """Note the figures, show the loss to a schedule that watches it (plateau), and call the callbacks."""
    run.history.add(run.logs)
    run.optimizer.observe(run.logs.get("val_loss", run.logs["loss"]))
    noted = set(run.logs)
    notify(hooks, "on_epoch_end", run)
    run.history.add({name: value for name, value in run.logs.items() if name not in noted})  # what callbacks added


def evaluate(
    net: Layer,
    x: Any,
    t: Any,
    batch_size: int = 256,
    *,
    loss: Loss | None = None,
    augment: Augment | None = None,
) -> dict[str, float]:
    """The mean loss over all examples and, for classes, the accuracy (the share of right answers, 0 … 1).

    ``loss`` defaults to the one that the network was last trained with, else softmax cross-entropy. Pass the
    ``augment`` that the network was trained with, if there was one: it normalises the images, and moves none.

    >>> import dualnet as dn
    >>> net = dn.Sequential([dn.Flatten(), dn.Dense(2, initializer="zeros")]).init((1, 1, 1))
    >>> {name: round(value, 4) for name, value in net.evaluate(dn.asarray([[[[1.0]]]]), dn.asarray([0])).items()}
    {'loss': 0.6931, 'accuracy': 1.0}
    """
    batch_size = integer(batch_size, "batch_size", op="evaluate")
    x, t = examples("evaluate", x, t)
    function = losses.of(net, loss)
    check_trial(net, x, t, function, "evaluate", augment)
    tally, function = Tally(function), losses.unchecked(function)
    for batch, target in batches(net, x, t, batch_size, augment=augment):
        y = wide(net(batch))
        tally.add(y, target, None if tally.exact else function(y, target)[0])
    return tally.figures()


def predict(net: Layer, x: Any, batch_size: int = 256) -> numpy.ndarray:
    """The network's outputs for x (N, ...), batch by batch, as a NumPy array on the host.

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
        output_of_one(net, x[:1], tuple(x.shape), "predict")  # says what is wrong
    return numpy.concatenate([to_numpy(net(batch)) for batch, _ in batches(net, x, None, batch_size)])
