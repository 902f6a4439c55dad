"""The loop: batches in a seeded order, forward, loss, backward, E17, and a tally of losses and right answers.

A step reads nothing back from the device: loss and right answers are added up there, and read once per epoch (and a few
times a second for the progress bar). So a step can be captured (:mod:`dualnet.training.capture`).
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy

from .. import optimizers
from ..arguments import flag, integer
from ..data import Augment, Augmentation, Transform, augmentation
from ..data.inputs import InputSpec, learned
from ..distributed import Communicator
from ..history import in_one_line
from ..layers.containers import forward_of
from ..layers.entering import home
from ..layers.layer import Layer
from ..layers.parameter import cast_all
from ..layers.several import as_dtype, each, first, rows
from ..layers.state import all_or_nothing
from ..ops import losses
from ..ops.sums import wide
from ..optimizers.loss_scale import LossScale, as_loss_scale, guarded
from ..recording import leave
from ..shim import Array, asarray, backend_of, to_numpy
from ..shim.dtypes import is_half
from ..shim.spent import spent
from .accumulating import apart, grouped
from .batches import batches
from .callbacks import Callback, History, Run, as_callbacks, notify, notify_end
from .checks import check_lengths, check_mixing, check_training, check_trial, initialise, output_of_one
from .ending import ends_like_ctrl_c, unbroken
from .finite import FiniteSteps
from .given import Given, data_of, inputs_of, tested
from .judging import Judge
from .progress import Progress
from .ranks import ALONE, Alone, ranks_of
from .resume import Keeper, described, made_with
from .several import captured, loss_of, targets_of, validation_of

__all__ = ["evaluate", "fit", "predict", "train_step"]


Loss = str | Callable[..., Any] | Mapping[str, Any]
SEE_GRADIENTS = ("step", "_change", "_clipped", "_updated", "update_all", "update")  # methods of an optimizer
GROWN = 1000.0  # fit warns of a loss that has grown by this factor


def fit(
    net: Layer,
    x: Any,
    t: Any = None,
    *,
    epochs: int = 1,
    initial_epoch: int = 0,
    batch_size: int = 64,
    optimizer: str | optimizers.Optimizer = "adam",
    loss: Loss | None = None,
    validation_data: Any = None,
    validation_split: float = 0.0,
    steps_per_epoch: int | None = None,
    accumulate: int = 1,
    sample_weight: Any = None,
    class_weight: Any = None,
    ignore_label: int | None = None,
    metrics: Any = (),
    callbacks: Any = (),
    seed: int = 0,
    verbose: int = 1,
    shuffle: bool = True,
    augment: Augment | Augmentation | Sequence[Transform] | None = None,
    capture: bool = False,
    loss_scale: str | float | LossScale | None = "auto",
    check_finite: bool = False,
    resume: str | os.PathLike[str] | None = None,
    checkpoint_every: int | None = None,
    distributed: bool | Communicator = False,
    sync_batch_norm: bool = False,
) -> History:
    """Train a network on inputs x (N, ...) and targets t, and return the history of its figures.

    x and t may be on the host, from where each batch is copied to the network's backend, or on its device. Each batch
    of x is converted to the network's dtype. If the network is not initialised, x gives its input shape. Layers without
    parameters draw them from ``seed``, which also orders the batches: the same seed gives the same batches on every
    backend. Layers that have parameters continue from those. ``loss`` is a name or a function; the default is the one
    that the network was last trained with, or else softmax cross-entropy.

    Instead of x and t, you can pass anything that yields batches ``(x, t)``: a list, a data loader, a generator, or a
    function that starts a new one for each epoch. Or pass a data set with a length and numbered examples: it is
    shuffled by ``seed`` and cut into batches of ``batch_size``. If a generator never ends, ``steps_per_epoch`` says
    where an epoch ends. The guide "Train from a loader, a data set or a generator" (docs/how-to/loaders.md) shows them
    all.

    ``validation_data`` is ``(x, t)``, ``(x, t, weights)`` or any of the above; ``validation_split=0.1`` holds out the
    last tenth of the examples, before they are shuffled. ``metrics`` are names ("top5", "precision", "recall", "f1",
    "roc_auc", "average_precision") and functions of y and t that return the mean over a batch.

    ``sample_weight`` (N,) and ``class_weight`` (``{class: weight}``, or an array) make the loss a weighted mean,
    Σ wᵢ Eᵢ / Σ wᵢ, also on validation data. Answers with ``ignore_label`` do not count. Metrics are not weighted.
    With ``accumulate=k``, k batches make one step, with the gradient of one batch k times as large; batch norm still
    takes its statistics from each of them.

    ``resume`` names a folder for checkpoints, one folder for each training. If it holds some, the training continues
    from the newest, even in the middle of an epoch, bit for bit as if it had not stopped; so just repeat the same call.
    A checkpoint is written after every epoch, after every ``checkpoint_every`` steps, and when Ctrl-C, SIGTERM or
    SIGHUP ends the training; the newest three are kept. Damaged ones are skipped with a warning. Those of a different
    training (a different network, seed, batch size, ...) raise ``ValueError`` before anything changes. A finished
    training returns its history at once, and continues if ``epochs`` is larger now.

    To continue with a network and an optimizer that you have loaded yourself, pass ``initial_epoch``: ``epochs=5,
    initial_epoch=3`` trains the fourth and the fifth epoch, with the same batches as in a training of five.

    ``augment`` changes the images x, uint8 or floating, differently in every epoch: a list of changes, such as
    ``[dn.data.RandomCrop(32, padding=4), dn.data.Flip()]``, or a :class:`dualnet.data.Augment`. Images of
    ``validation_data`` are only cropped in the middle and normalised. ``net.input`` stores the normalisation.

    ``capture=True`` records the whole step and repeats it without Python, see :func:`dualnet.capture`.
    ``loss_scale="auto"`` creates a :class:`dualnet.LossScale` for a float16 network, and none for any other; or pass
    one, or a number. ``verbose`` is 0 for silence, 1 for a progress bar (or a line per epoch, if tqdm is missing or
    stderr is not a terminal), 2 for a line per epoch. Wrong shapes, labels and options raise an error before the first
    step.

    Ctrl-C, SIGTERM and SIGHUP end a training cleanly: ``on_fit_end`` of every callback is called, and the network keeps
    what it has learned. An interrupted step changes nothing. ``net.history`` holds the figures of all complete epochs,
    even during the training. A signal raises an exception that is both a ``KeyboardInterrupt`` and a ``SystemExit``
    (exit codes 143 and 129).

    ``distributed=True`` trains with all ranks that mpiexec, srun or torchrun have started, each of which makes this
    call; or pass the result of :func:`dualnet.distributed.init`. ``batch_size`` is the size of the whole batch; each
    rank takes its part, and the result is the same as with one rank, up to the order of sums. Batch norm takes its
    statistics from a rank's part, or with ``sync_batch_norm=True`` from the whole batch. Only rank 0 shows progress and
    writes files; see the page "Beyond one machine" (docs/distributed.md).

    ``check_finite=True`` stops at the first NaN or infinity with a ``FloatingPointError``, which names the epoch, the
    batch and the layer. It reads a number back after every step, which takes time on a GPU, and cannot be combined with
    ``capture``. Without it, ``fit`` warns once: before the first step, about NaN in x and t and about images from 0 to
    255; after an epoch, about a loss that is NaN or has grown a thousandfold.

    >>> import dualnet as dn
    >>> net = dn.Sequential([dn.Flatten(), dn.Dense(2)])
    >>> x, t = dn.asarray([[[[0.0]]], [[[1.0]]]]), dn.asarray([0, 1])
    >>> history = net.fit(x, t, epochs=20, optimizer=dn.SGD(lr=1.0), verbose=0)
    >>> history["accuracy"][-1], history["loss"][-1] < history["loss"][0]
    (1.0, True)
    """
    accumulate = integer(accumulate, "accumulate", op="fit")
    ranks = ranks_of("fit", distributed, accumulate, flag(sync_batch_norm, "sync_batch_norm", op="fit"))
    with ranks.guard():
        epochs, initial_epoch, batch_size = check_lengths(epochs, initial_epoch, batch_size)
        augment = augmentation(augment, "fit")
        check_mixing(augment, class_weight, ignore_label)
        t, validation_data = targets_of(net, t), validation_of(net, validation_data)
        given = Given(x, t, sample_weight, validation_data, validation_split, steps_per_epoch, resume)
        options = {"size": batch_size, "seed": seed, "shuffle": shuffle, "augment": augment}
        data, held_out = data_of(given, epochs - initial_epoch, accumulate, **options)
        function = loss_of(net, loss, "fit")
        initialise(net, data.inputs(net), seed, augment)
        if isinstance(net.input, InputSpec):
            net.input.check(net)
        ranks.cut(data, held_out)
        judge = Judge.of("fit", net, data, held_out, function, class_weight, ignore_label)
        judge.ranks = ranks
        seen = judge.cleaned(data)
        seen_too = None if held_out is None else judge.cleaned(held_out)
        fine = check_training(net, seen, seen_too, function, data.extent(batch_size), augment, optimizer, callbacks)
        judge.watch(*[one for one in (data, held_out) if one is not None])
        judge.choose(metrics, data, capture is True)
        steps = math.ceil((data.steps or 0) / accumulate)
        run = Run(net, optimizers.get(optimizer), History(), epochs, steps, initial_epoch)
        shuffle, hooks, tally = flag(shuffle, "shuffle", op="fit"), ranks.hooks(as_callbacks(callbacks)), judge.tally()
        scale = as_loss_scale(loss_scale, net.dtype)
        step: Callable[..., None]
        step = functools.partial(train_step, net, run.optimizer, judge.loss, scale, tally, ranks=ranks)
        if flag(capture, "capture", op="fit"):
            ranks.check_capture()
            step = captured(step, *seen)
        if flag(check_finite, "check_finite", op="fit"):
            if capture:
                raise ValueError(
                    "fit: check_finite=True reads a number back after every step, but a captured step cannot do that"
                )
            step = FiniteSteps(step, run, judge.loss, scale, ranks)
        parts = {"net": net, "optimizer": run.optimizer, "scale": scale, "tally": tally}
        verbose = verbose if ranks.leads else 0
        keeper = Keeper(resume, checkpoint_every, run, parts, hooks, verbose, ranks)
        settings = {"seed": seed, "batch_size": batch_size, "shuffle": shuffle, "augment": augment}
        settings |= {"accumulate": accumulate, "class_weight": class_weight, "ignore_label": ignore_label}
        settings |= {"steps_per_epoch": steps, "metrics": [metric.key for metric in judge.metrics]}
        settings["the number of examples"] = data.examples
        description = functools.partial(described, net, *seen, function, run.optimizer, scale, **settings)
        others: dict[str, Any] = {"epochs": epochs, "initial_epoch": initial_epoch, "check_finite": check_finite}
        others |= {"resume": resume is not None, "checkpoint_every": checkpoint_every}
        others |= {"callbacks": [type(hook).__name__ for hook in hooks if not hook.writes]}
        others |= {"the optimizer's steps": run.optimizer.steps} | made_with(net, run.optimizer)
        ranks.agree("fit", net, data, held_out, lambda: description() | others)
        ranks.follow_the_first(net)
        keeper.find(description)
        leave(net, "loss", losses.known(net) if loss is None else loss)
        if (expected := learned(net.input, net.input_shape, augment)) is not None:
            leave(net, "input", expected)
        leave(net, "history", run.history)
        plain = accumulate == 1 and judge.weighting is None
        group = functools.partial(grouped, accumulate=accumulate, plain=plain)
        return _train(
            _Training(run, data, held_out, judge, group, step, tally, hooks, keeper, ranks, verbose, fine, not capture)
        )


@dataclass
class _Training:
    """A training, with everything known and checked.

    group     groups the batches of one step
    step      everything that the device does for a group
    fine      are all numbers of the data finite, so that a loss that is not finite is worth a warning?
    ahead     should the next batch be prepared while this one is in use?
    """

    run: Run
    data: Any
    held_out: Any
    judge: Judge
    group: Callable[..., Iterable[tuple[Any, ...]]]
    step: Callable[..., None]
    tally: Any
    hooks: list[Callback]
    keeper: Keeper
    ranks: Alone
    verbose: int
    fine: bool
    ahead: bool


def _train(it: _Training) -> History:
    """Train the epochs that are left."""
    run, keeper, ranks = it.run, it.keeper, it.ranks
    with ends_like_ctrl_c() as keeper.ending, _ending(run, it.hooks, keeper):
        for run.epoch in keeper.epochs():
            with keeper:
                notify(it.hooks, "on_epoch_begin", run)
                keeper.epoch_began()
            with (
                Progress(run.epoch, run.epochs, run.steps_per_epoch, it.verbose, run.batch) as progress,
                contextlib.closing(it.data.epoch(run.net, run.epoch, ahead=it.ahead)) as batches,
            ):
                _steps_of_epoch(it, it.group(batches), progress)
                if it.held_out is not None:
                    run.logs |= {f"val_{name}": value for name, value in it.judge.figures(it.held_out).items()}
                run.logs["seconds"] = ranks.seconds(time.perf_counter() - keeper.begun)
                progress.done(in_one_line(run.logs))
            if it.fine and ranks.leads:
                _warn_of_the_loss(run)
            with keeper:
                _end_epoch(run, it.hooks)
                run.stop = ranks.any(run.stop)
                keeper.epoch_done()
            if run.stop:
                break
    return run.history


def _steps_of_epoch(it: _Training, groups: Iterable[tuple[Any, ...]], progress: Progress) -> None:
    """Make the steps of an epoch that are left, and then compute its figures."""
    run, keeper, hooks = it.run, it.keeper, it.hooks
    for group in it.ranks.steps(keeper.rest(groups), run):
        with keeper:
            it.step(*group)  # forward, loss, backward, E17
            run.step += 1
            run.batch += 1
            progress.step(it.tally.glance)
            notify(hooks, "on_batch_end", run)
            keeper.step_done()
    with keeper:
        notify(hooks, "on_steps_end", run)
    run.logs = it.tally.figures()


@contextlib.contextmanager
def _ending(run: Run, hooks: list[Callback], keeper: Keeper) -> Iterator[None]:
    """Begin the callbacks; afterwards end all that have begun, whatever happens, even if one of them raises."""
    begun: list[Callback] = []
    try:
        for hook in hooks:
            notify([hook], "on_fit_begin", run)
            begun.append(hook)
        keeper.callbacks_begun()
        yield
    except KeyboardInterrupt as error:
        keeper.interrupted(error)
        raise
    finally:
        with unbroken():
            notify_end(begun, run)


def train_step(
    net: Layer,
    optimizer: optimizers.Optimizer,
    loss: Callable[..., Any],
    scale: LossScale | None,
    tally: Any,
    *given: Any,
    need_dx: bool = False,
    check: Callable[..., None] | None = None,
    ranks: Alone = ALONE,
) -> None:
    """All that the device does for a batch x, t: forward, loss, backward, E17, tally. 16 bits also need ``scale``.

    ``given`` may also be several small batches, ``x, t, w, x, t, w, ...``, whose gradients make one step; w are weights
    of the examples, or None. If the step raises or is interrupted, nothing changes. ``check([x, loss, ...],
    gradients)`` may raise at its end. With several ``ranks``, x and t are this rank's part of the batch.
    """
    batches, met = apart(given), []
    gradients: dict[str, Array] = {}
    parts = ranks.shares(batches, getattr(loss, "weighting", None))
    put_back = None if scale is None else guarded(net)
    errors = numpy.errstate() if scale is None else numpy.errstate(over="ignore", invalid="ignore")
    with errors, all_or_nothing(net, optimizer, scale, *getattr(tally, "parts", [tally])):
        if is_half(net.dtype):
            cast_all(net.parameters().values(), net.dtype)
        for place, ((x, t, w), share) in enumerate(zip(batches, parts)):
            weights = () if w is None else (w,)
            with ranks.part(net, place, len(batches), gradients):
                y, pullback = forward_of(net, x, train=True, need_dx=need_dx)
                y = each(wide, y)  # the loss of a 16-bit y is float32
                if rows(x):
                    value, dloss = loss(y, t, *weights)
                    start = 1.0 if scale is None else scale.on(first(y))
                    dy = dloss(start if share is None else start * share)
                else:  # the small batch had no examples left for this rank: its gradients are 0
                    value, dy = 0.0, y
                gradients = ranks.added(gradients, pullback.spend(each(as_dtype, dy, pullback.dtype))[1])
            tally.add(y, t, value, *weights)
            met += [x, value] if rows(x) else []
        gradients = dict(ranks.summed(net, gradients))  # a layer of the user's may keep the dictionary that it returned
        ranks.add_up(tally, net)
        if scale is None:
            with spent(gradients if check is None and _forgets(optimizer) else {}):
                optimizer.step(net, gradients)  # E17
        else:
            gradients, finite = scale.unscale(gradients)
            optimizer.step(net, gradients, finite=finite)  # E17
            put_back(finite)  # type: ignore[misc]
            scale.update(finite)
        if check is not None:
            check(met, gradients)


def _forgets(optimizer: optimizers.Optimizer) -> bool:
    """Are all methods that see the gradients dualnet's? A method of the user's may keep the gradients."""
    for name in SEE_GRADIENTS:
        owner = next(kind for kind in type(optimizer).__mro__ if name in vars(kind))
        if name in vars(optimizer) or not owner.__module__.startswith("dualnet."):
            return False
    return True


def _warn_of_the_loss(run: Run) -> None:
    """Warn once in a training if its loss becomes NaN, or a thousand times that of the first epoch."""
    now, first = run.logs["loss"], run.history.get("loss", [run.logs["loss"]])[0]
    was_fine = all(math.isfinite(loss) and loss <= GROWN * abs(first) for loss in run.history.get("loss", ()))
    if was_fine and not (math.isfinite(now) and now <= GROWN * abs(first)):
        what = f"grew from {first:.4g} to {now:.4g}" if math.isfinite(now) else f"is {now}"
        warnings.warn(
            f"fit: the loss {what} in epoch {run.epoch + 1}. Most often the learning rate is too large: try a tenth. "
            "fit(..., check_finite=True) stops at the first NaN or infinity, and says where it comes from.",
            stacklevel=4,  # where fit was called
        )


def _end_epoch(run: Run, hooks: list[Callback]) -> None:
    """Record the figures, pass the loss to a schedule that watches it (plateau), and call the callbacks."""
    run.history.add(run.logs)
    run.optimizer.observe(run.logs.get("val_loss", run.logs["loss"]))
    noted = set(run.logs)
    notify(hooks, "on_epoch_end", run)
    run.history.add({name: value for name, value in run.logs.items() if name not in noted})  # what callbacks added


def evaluate(
    net: Layer,
    x: Any,
    t: Any = None,
    batch_size: int = 256,
    *,
    loss: Loss | None = None,
    augment: Augment | Augmentation | Sequence[Transform] | None = None,
    sample_weight: Any = None,
    class_weight: Any = None,
    ignore_label: int | None = None,
    metrics: Any = (),
    distributed: bool | Communicator = False,
) -> dict[str, float]:
    """The mean loss over all examples and, for classes, the accuracy (the share of right answers, 0 … 1).

    Instead of x and t, pass batches or a data set, as to :func:`fit`; weights, ``ignore_label`` and ``metrics`` mean
    the same as there. ``loss`` defaults to the one that the network was last trained with, or else to softmax
    cross-entropy. If the network was trained with ``augment``, pass it here too: it normalises the images, and changes
    nothing else. With ``distributed``, as in :func:`fit`, each rank evaluates a part, and all ranks return
    the figures of the whole.

    >>> import dualnet as dn
    >>> net = dn.Sequential([dn.Flatten(), dn.Dense(2, initializer="zeros")]).init((1, 1, 1))
    >>> figures = net.evaluate(dn.asarray([[[[1.0]]]]), dn.asarray([0]))
    >>> {name: round(value, 4) for name, value in figures.items()}
    {'loss': 0.6931, 'accuracy': 1.0}
    """
    ranks = ranks_of("evaluate", distributed)
    with ranks.guard():
        augment = augmentation(augment, "evaluate")
        batch_size = integer(batch_size, "batch_size", op="evaluate")
        data = tested(x, targets_of(net, t), sample_weight, size=batch_size, augment=augment)
        function = loss_of(net, loss, "evaluate")
        judge = Judge.of("evaluate", net, data, None, function, class_weight, ignore_label)
        check_trial(net, *judge.cleaned(data), function, "evaluate", augment)
        ranks.agree("evaluate", net, data, None, lambda: {"batch_size": batch_size, "augment": repr(augment)})
        ranks.cut(data)
        judge.ranks = ranks
        judge.watch(data)
        judge.choose(metrics, data)
        return judge.figures(data)


def predict(net: Layer, x: Any, batch_size: int = 256) -> numpy.ndarray:
    """The network's outputs for x (N, ...), batch by batch, as NumPy on the host; several outputs as a dictionary.

    Instead of x, pass batches or a data set, as to :func:`fit`; in pairs ``(x, t)``, targets are ignored.

    >>> import dualnet as dn
    >>> net = dn.Sequential([dn.Flatten(), dn.Dense(2, initializer="ones")]).init((1, 1, 1))
    >>> net.predict(dn.asarray([[[[1.0]]], [[[2.0]]]]))
    array([[1., 1.],
           [2., 2.]], dtype=float32)
    """
    batch_size = integer(batch_size, "batch_size", op="predict")
    data = inputs_of(net, x, batch_size)
    if data is not None:
        with contextlib.closing(data.epoch(net)) as found:
            return _joined([each(to_numpy, net(x)) for x, _, _ in found])
    if isinstance(x, Mapping):
        x = {name: to_numpy(a if backend_of(a) is not None else asarray(a, backend="numpy")) for name, a in x.items()}
        net.enter({name: asarray(a[:1], backend=home(net)) for name, a in x.items()})  # its error says what is wrong
        return _joined([each(to_numpy, net(batch)) for batch, _ in batches(net, x, None, batch_size)])
    x = x if backend_of(x) is not None else to_numpy(asarray(x, backend="numpy"))
    if net.input_shape is None:
        net.enter(x)  # its error says what to do
    elif len(x) == 0:
        return each(lambda shape: numpy.empty((0, *shape), net.dtype), net.output_shape(net.input_shape))
    elif tuple(x.shape[1:]) != net.input_shape:
        output_of_one(net, x[:1], tuple(x.shape), "predict")  # its error says what is wrong
    return _joined([each(to_numpy, net(batch)) for batch, _ in batches(net, x, None, batch_size)])


def _joined(outputs: list[Any]) -> Any:
    """The outputs of all batches in one array; with several outputs, one array for each."""
    if isinstance(outputs[0], dict):
        return {name: numpy.concatenate([y[name] for y in outputs]) for name in outputs[0]}
    return numpy.concatenate(outputs)
