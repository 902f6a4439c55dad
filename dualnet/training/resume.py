"""``fit(..., resume=folder)``: checkpoints of a training, from which the same call continues, bit for bit.

A checkpoint is a file such as ``checkpoint-000000046.npz`` (the number counts the steps so far). It holds everything
that the rest of the training depends on:

    place        epoch, batch, step, whether the epoch has begun, whether a callback has stopped the training
    net          parameters, running statistics, seeds and counters of dropout
    optimizer    its moments, its step count, and its rate or the state of its schedule
    scale        the loss scale, if there is one
    tally        the sums of the epoch so far
    history      the figures of all complete epochs
    callbacks    the state of each of them
    training     what identifies this training: network, data, loss, seed, ...; compared before continuing
    made_with    what may change, with a warning: the optimizer's arguments, versions, the backend

The batches, the moves of the images and the dropout masks follow from these: they depend only on the seed, the epoch
and the step. Checkpoints are written when all of this is consistent: between two steps, after every callback has seen
the last one. Signals wait for that moment.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy

from ..arguments import integer
from ..files.formats import CheckpointError
from ..files.state import read_state, snapshot, write_state
from ..layers.entering import home
from ..layers.layer import Layer
from ..layers.several import parts
from ..optimizers.optimizer import Optimizer
from ..shim import asarray, backend_of
from ..terminal import say
from ..version import __version__
from ..writing import check_writable
from .callbacks.base import Callback, Run
from .ending import Ending, unbroken
from .ranks import ALONE, Alone

__all__ = ["Keeper", "described", "made_with"]

KEPT = 3
"""How many checkpoints stay in the folder: if one is damaged, there are others."""
NAME = re.compile(r"checkpoint-(\d{9,})\.npz")
MOST_TOLD = 6

State = dict[str, Any]


class Keeper:
    """Writes the checkpoints of a training and finds the newest; without a folder it does nothing.

    ``with keeper:`` is a block in which the state is temporarily inconsistent, such as between a step and its counter.
    """

    def __init__(
        self,
        folder: Any,
        every: Any,
        run: Run,
        parts: State,
        hooks: list[Callback],
        verbose: int,
        ranks: Alone = ALONE,
    ) -> None:
        if every is not None and folder is None:
            raise ValueError(f"fit: checkpoint_every={every!r} needs a folder; pass one, such as resume='runs/first'")
        self.every = None if every is None else integer(every, "checkpoint_every", op="fit")
        self.folder = None if folder is None else Path(os.fsdecode(folder)).expanduser()
        self.run, self.parts, self.hooks, self.verbose, self.ranks = run, parts, hooks, verbose, ranks
        self.training: State = {}
        self.made_with: State = {}
        self.ending: Ending | None = None  # set once signals are handled
        self.next_epoch: int | None = run.epoch  # between two epochs; None within one
        self.torn = False  # was a block interrupted?
        self.over = False  # had a callback already stopped the epoch in which the training continues?
        self.begun = time.perf_counter()  # when this epoch began
        self._states: list[State] | None = None  # the states of the callbacks, until these have begun

    # -- at the beginning

    def find(self, describe: Callable[[], State]) -> None:
        """Continue from the newest undamaged checkpoint; ``ValueError`` if it belongs to a different training."""
        if self.folder is None:
            return
        self.training = describe()
        self.made_with = made_with(self.parts["net"], self.parts["optimizer"])
        if self.ranks.leads:
            found = self._newest(self.folder)
            self.ranks.bytes_of_the_first(b"" if found is None else found[0].read_bytes())
        else:  # on another machine the folder may not exist
            found = _handed(self.ranks.bytes_of_the_first(None))
        if found is not None:
            self._restore(*found)

    def _newest(self, folder: Path) -> tuple[Path, State] | None:
        """The newest undamaged checkpoint, if there is one."""
        if folder.exists() and not folder.is_dir():
            raise ValueError(f"fit: resume={str(folder)!r} is a file; expected a folder for checkpoints")
        folder.mkdir(parents=True, exist_ok=True)
        check_writable(folder / "checkpoint-000000000.npz")
        for path in reversed(self._files()):
            try:
                state = read_state(path)
                self._check(path, state)
            except CheckpointError as error:
                warnings.warn(f"fit: skipping a damaged checkpoint: {error}", stacklevel=3)
                continue
            return path, state
        return None

    def _files(self) -> list[Path]:
        """All checkpoints, the oldest first."""
        found = ((NAME.fullmatch(path.name), path) for path in self.folder.iterdir())
        return [path for _, path in sorted((int(match[1]), path) for match, path in found if match)]

    def _check(self, path: Path, state: State) -> None:
        """Raise unless the checkpoint is complete and belongs to this training."""
        expected = {"place", "net", "optimizer", "scale", "tally", "history", "callbacks", "training", "made_with"}
        if not expected <= state.keys():
            raise CheckpointError(f"{path}: it is not a checkpoint of a training")
        if found := _differences(state["training"], self.training):
            raise ValueError(
                f"fit: {path} is a checkpoint of a different training: {_listed(found)}. Continue with the arguments "
                "of that training, or pass a different folder for this one. Nothing was changed."
            )
        for what in _differences(state["made_with"], self.made_with):
            warnings.warn(f"fit: continuing from {path}, though {what}", stacklevel=4)

    def _restore(self, path: Path, state: State) -> None:
        place, run, there = state["place"], self.run, home(self.parts["net"])
        for name in ("optimizer", "net", "scale", "tally"):  # each of them loads all or nothing
            if state[name] is not None:
                self.parts[name].load_state_dict(_at(there, state[name]))  # a captured step copies nothing to a device
        run.history.update({name: list(values) for name, values in state["history"].items()})
        run.epoch, run.batch, run.step, run.stop = (place[name] for name in ("epoch", "batch", "step", "stop"))
        self.next_epoch, self.over = None if place["begun"] else run.epoch, place["begun"] and run.stop
        self.seconds = place["seconds"]
        self._states = state["callbacks"]
        if self.verbose:
            where = f", batch {run.batch + 1}" if run.batch else ""
            done = run.stop or run.epoch >= run.epochs
            say(f"{path}: {'this training is finished' if done else f'continuing with epoch {run.epoch + 1}{where}'}")

    seconds = 0.0  # how long the epoch had already trained

    def epochs(self) -> range:
        """The epochs that are left to train."""
        finished = self.run.stop and self.next_epoch is not None
        return range(self.run.epoch, self.run.epoch if finished else self.run.epochs)

    def callbacks_begun(self) -> None:
        """``on_fit_begin`` was called: restore the callbacks' states, unless an epoch has to begin first."""
        if self.next_epoch is not None:
            self._give_back()

    def _give_back(self) -> None:
        states, self._states = self._states, None
        if states is None:
            return
        for hook in self.hooks:
            remembered = next((s for s in states if s["class"] == type(hook).__name__), None)
            if remembered is not None:
                states.remove(remembered)
                hook.load_state_dict(remembered["state"])
            elif hook.state_dict():
                warnings.warn(
                    f"fit: the checkpoint has no state for {type(hook).__name__}, which starts afresh", stacklevel=4
                )

    # -- while it trains

    def __enter__(self) -> Keeper:
        if self.folder is not None:
            self.torn = True
            if self.ending is not None:
                self.ending.__enter__()
        return self

    def __exit__(self, kind: Any, error: BaseException | None, traceback: TracebackType | None) -> None:
        if self.folder is not None:
            self.torn = kind is not None
            if self.ending is not None:
                self.ending.__exit__(kind, error, traceback)

    def epoch_began(self) -> None:
        """``on_epoch_begin`` was called."""
        if self.next_epoch is None:  # in the middle of an epoch
            self._give_back()
        self.begun, self.seconds = time.perf_counter() - self.seconds, 0.0
        self.next_epoch = None
        if not self.run.batch:
            self.parts["tally"].begin()
        self.run.follow(self.parts["tally"].glance)

    def rest(self, steps: Iterable[Any]) -> Iterable[Any]:
        """The batches that are left in an epoch."""
        if self.over:
            return ()
        return itertools.islice(steps, self.run.batch, None) if self.run.batch else steps

    def step_done(self) -> None:
        """A step is done, and all callbacks have seen it."""
        run = self.run
        if self.every is not None and run.step % self.every == 0 and run.batch != run.steps_per_epoch:
            self.write()

    def epoch_done(self) -> None:
        """An epoch is done, its figures are in the history, and all callbacks have seen it."""
        self.run.batch, self.next_epoch, self.over = 0, self.run.epoch + 1, False
        if self.folder is not None:
            self.write()

    def interrupted(self, error: BaseException) -> None:
        """A signal ends the training: save the state, and say so."""
        run, words = self.run, ""
        if self.folder is not None and run.step:
            with unbroken():
                kept = not self.torn and self.write()
            words = f"the same call continues {'there' if kept else 'from the newest checkpoint'} ({self.folder})"
        whole = run.history.epochs
        place = f"fit: stopped in epoch {min(run.epoch + 1, run.epochs)} of {run.epochs}"
        note = f"{place}; net.history holds {whole} epoch{'s' * (whole != 1)}"
        note += f", and {words}" if words else ". With fit(..., resume=FOLDER) the same call continues."
        error.add_note(note)
        error._render_traceback_ = lambda: [note]  # type: ignore[attr-defined]  # what a notebook shows
        if words and self.verbose:
            say(note, "stderr")

    def write(self) -> bool:
        """Write a checkpoint, on one rank only. If that fails, warn, and continue the training."""
        run = self.run
        if not self.ranks.leads:
            return True
        path = Path(self.folder or "") / f"checkpoint-{run.step:09}.npz"
        try:
            write_state(path, self.state())
        except OSError as error:
            warnings.warn(f"fit: could not write a checkpoint ({error}); training continues", stacklevel=3)
            return False
        older = [old for old in self._files() if old.name < path.name]
        for old in older[: -(KEPT - 1)]:
            with contextlib.suppress(OSError):  # an old file does no harm
                old.unlink()
        return True

    def state(self) -> State:
        """Everything that the rest of the training depends on."""
        run, between = self.run, self.next_epoch is not None
        place: State = {"epoch": self.next_epoch if between else run.epoch, "batch": run.batch, "step": run.step}
        place |= {"begun": not between, "stop": bool(run.stop)}
        place["seconds"] = 0.0 if between else time.perf_counter() - self.begun
        kept = {name: None if part is None else part.state_dict() for name, part in self.parts.items()}
        told = [{"class": type(hook).__name__, "state": hook.state_dict()} for hook in self.hooks]
        return snapshot(
            {
                "place": place,
                **kept,
                "tally": None if between else kept["tally"],
                "history": dict(run.history),
                "callbacks": [one for one in told if one["state"]],
                "training": self.training,
                "made_with": self.made_with,
            }
        )


# -- what identifies a training ----------------------------------------------------------------------------------------


def described(net: Layer, x: Any, t: Any, loss: Any, optimizer: Optimizer, scale: Any, **settings: Any) -> State:
    """Everything that must be the same when a training continues, by name, as words and numbers."""
    layers = {
        f"layer {name}" if name else "the network": (type(layer).__name__ if layer.children() else _words(layer))
        + " (frozen)" * layer.frozen
        for name, layer in net.walk()
    }
    arrays = {name: _kind(value) for name, value in net.state_dict().items() if backend_of(value) is not None}
    data = {
        f"an example of {called}": f"{array.dtype.name} {tuple(array.shape[1:])}"
        for called, array in (*parts(x, "x"), *parts(t, "t"))
        if array is not None
    }
    return {
        **{name: value if type(value) in (int, bool, float) else _words(value) for name, value in settings.items()},
        **data,
        "the loss": _words(loss),
        "the optimizer": type(optimizer).__name__,
        "the loss scale": _words(scale),
        "dtype": str(net.dtype),
        **layers,
        **arrays,
    }


def made_with(net: Layer, optimizer: Optimizer) -> State:
    """What may differ, with a warning, when a training continues."""
    first = next(iter(net.parameters().values()), None)
    backend = "none" if first is None else backend_of(first.value).name.partition(":")[0]  # on any of its devices
    given = {
        f"{type(optimizer).__name__}'s {name}": _words(v) for name, v in optimizer.config().items() if name != "name"
    }
    return {**given, "dualnet": __version__, "NumPy": numpy.__version__, "the backend": backend}


def _handed(data: bytes) -> tuple[Path, State] | None:
    """The checkpoint that rank 0 has read."""
    if not data:
        return None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "checkpoint.npz"
        path.write_bytes(data)
        return path, read_state(path)


def _words(value: Any) -> str:
    """A value as text that is the same in every process: functions by their name, objects without their address."""
    if callable(value) and hasattr(value, "__qualname__"):
        return str(value.__qualname__)
    return re.sub(r" at 0x[0-9a-fA-F]+", "", repr(value))


def _at(backend: str, value: Any) -> Any:
    """The state with its arrays on this backend."""
    if isinstance(value, dict):
        return {name: _at(backend, item) for name, item in value.items()}
    if isinstance(value, list):
        return [_at(backend, item) for item in value]
    return value if backend_of(value) is None else asarray(value, value.dtype, backend=backend)


def _kind(array: Any) -> str:
    return f"{array.dtype.name} {tuple(array.shape)}"


def _differences(there: State, here: State) -> list[str]:
    names = dict.fromkeys([*there, *here])
    return [
        f"{name} is {there.get(name, 'missing')} in the checkpoint, {here.get(name, 'missing')} here"
        for name in names
        if there.get(name) != here.get(name)
    ]


def _listed(found: list[str]) -> str:
    return "; ".join(found[:MOST_TOLD]) + (f"; and {len(found) - MOST_TOLD} more" if len(found) > MOST_TOLD else "")
