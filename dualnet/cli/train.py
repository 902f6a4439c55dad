"""``dualnet train``: train a network, show its test accuracy and save it."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import dualnet as dn

from .. import data, models
from ..files.formats import SUFFIXES
from ..shim.dtypes import FLOATING
from ..terminal import say
from ..training.callbacks import Run
from ..training.ending import unbroken
from ..writing import check_writable, replace_file
from .configuration import Configured, beside, in_toml, optimizer_of, read_toml, setting
from .options import EXIT_USAGE, command, count, counts, exit_code, in_json, loss_scale, rate, told, with_json
from .places import checkpoints_of, file_with, place_of, save, stopped_of
from .subjects import DATASETS, fetch, learnt
from .together import Ranks, agreed, in_turns, together

DEFAULTS = {
    "dataset": "digits",
    "batch_size": 64,
    "optimizer": "adam",
    "loss_scale": "auto",
    "seed": 0,
    "out": ".",
    "augment": False,
    "capture": False,
    "grey": False,
    "distributed": False,
    "sync_batch_norm": False,
}
"""The defaults, for what neither the command line nor a configuration sets."""
NAMES = (
    *("dataset", "data", "size", "grey", "model", "epochs", "batch_size", "lr", "optimizer", "augment", "capture"),
    *("dtype", "loss_scale", "seed", "out", "resume", "checkpoint_every", "log", "tensorboard"),
    *("distributed", "sync_batch_norm"),
)
"""The options that a configuration may set: those that decide what is computed, and what is written."""


_switch: Any = {"action": "store_true", "default": None}


def add(commands: Any) -> None:
    parser = command(commands, "train", run, "train a network, show its test accuracy and save it")
    parser.add_argument(
        "dataset", nargs="?", metavar="WHAT", help=f"{', '.join(DATASETS)}, or a folder with a folder for each class"
    )
    parser.add_argument("--data", metavar="DIR", help="the folder with the files of the data set (the usual places)")
    parser.add_argument("--size", type=counts, metavar="H[,W]", help="photos are scaled to this size (64)")
    parser.add_argument("--grey", **_switch, help="turn photos grey")
    parser.add_argument("--model", metavar="NAME", help=f"one of {', '.join(models.NAMES)}")
    parser.add_argument("--epochs", type=count, metavar="N", help="passes over the training data")
    parser.add_argument("--batch-size", type=count, metavar="N", help="images in a step (64)")
    parser.add_argument("--lr", type=rate, metavar="RATE", help="the highest learning rate of the one-cycle schedule")
    parser.add_argument("--optimizer", metavar="NAME", help="sgd, rmsprop, adam or adamw (adam)")
    parser.add_argument("--augment", **_switch, help="shift the images, and mirror them unless they show writing")
    parser.add_argument("--capture", **_switch, help="record the whole step, and repeat it without Python")
    parser.add_argument("--dtype", choices=FLOATING, help="what layers compute in (DUALNET_DTYPE, or float32)")
    parser.add_argument(
        "--loss-scale", type=loss_scale, metavar="S", help="auto (dynamic for float16), none, or a number (auto)"
    )
    parser.add_argument("--seed", type=int, metavar="N", help="the seed of the weights and of the order (0)")
    parser.add_argument(
        "--out", metavar="PATH", help="the folder for the model (this one), or a file: .npz, .safetensors"
    )
    parser.add_argument(
        "--resume", **_switch, help="keep checkpoints beside the model, and continue from the newest one"
    )
    parser.add_argument(
        "--checkpoint-every",
        type=count,
        metavar="STEPS",
        help="write a checkpoint after every STEPS steps, and after each epoch",
    )
    parser.add_argument("--log", metavar="FILE", help="write the figures of each epoch, as .csv or .jsonl")
    parser.add_argument("--tensorboard", metavar="DIR", help="write the figures of each epoch, for TensorBoard")
    parser.add_argument(
        "--config", metavar="FILE", help="read options from a file (TOML); the command line wins over it"
    )
    parser.add_argument(
        "--set",
        type=setting,
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="set one such option, such as optimizer.momentum=0.9",
    )
    parser.add_argument(
        "--distributed",
        **_switch,
        help="train on all ranks that mpiexec, srun or torchrun has started; they share each batch",
    )
    parser.add_argument(
        "--sync-batch-norm",
        **_switch,
        help="with --distributed: batch norm takes its statistics from all ranks' images",
    )
    parser.add_argument("--quiet", action="store_true", help="print only the result, without progress")
    with_json(parser)


def run(options: argparse.Namespace) -> int:
    arguments = _configured(options)
    if options.sync_batch_norm and not options.distributed:
        raise ValueError("--sync-batch-norm needs --distributed; a single rank already has the whole batch")
    if not options.distributed:
        return _Training(options, arguments).run()
    with together() as ranks:
        in_turns(ranks, lambda: fetch(options.dataset, options.data))
        return agreed(ranks, lambda: _Training(options, arguments, ranks)).run()


class _Training:
    """A training, from the options to the saved network, on one rank; with a communicator, on one of several."""

    def __init__(self, options: argparse.Namespace, arguments: dict[str, Any], ranks: Ranks = None) -> None:
        """Read the data and check everything, before anything is trained."""
        self.options, self.arguments, self.ranks = options, arguments, ranks
        self.speaks = ranks is None or ranks.rank == 0
        self.subject = subject = learnt(options)
        model, epochs, peak = subject.advice
        self.model, self.epochs = options.model or model, options.epochs or epochs
        self.place = place_of(options.out, f"{subject.name}-{self.model}")
        self.net = net = models.get(self.model)(classes=len(subject.classes))
        x = subject.train[0]
        net.init(x.shape[1:], seed=options.seed, dtype=options.dtype)
        net.input = subject.input
        if self.speaks:
            self._check_place()
        self.optimizer = optimizer_of(options.optimizer, arguments)
        adam = isinstance(self.optimizer, dn.Adam | dn.AdamW)
        self.peak = options.lr or (peak if adam else self.optimizer.current_lr)
        self.optimizer.lr = dn.schedules.OneCycle(self.peak, self.epochs * -(-len(x) // options.batch_size))
        self.watch = _Watch()
        self.callbacks = [self.watch, *(_logs(options) if self.speaks else [])]
        self.folder = checkpoints_of(self.place) if options.resume or options.checkpoint_every else None

    def _check_place(self) -> None:
        place = self.place
        place.parent.mkdir(parents=True, exist_ok=True)
        target = place if place.suffix in SUFFIXES else place.with_name(f"{place.name}.npz")
        check_writable(target, sum(p.value.nbytes for p in self.net.parameters().values()))

    def run(self) -> int:
        """Train, save and print the result. Returns the exit code."""
        self._tell()
        begun = time.perf_counter()
        try:
            together = {} if self.ranks is None else {"distributed": self.ranks}
            self._fit(together)
            seconds = time.perf_counter() - begun
            score = self.net.evaluate(*self.subject.test, **together)
        except (KeyboardInterrupt, dn.distributed.RankError) as error:
            if not self.speaks or self.watch.run is None or not self.watch.run.step:
                raise  # nothing was trained
            return self._broken_off(error)
        return self._end(seconds, score) if self.speaks else 0

    def _tell(self) -> None:
        options, subject = self.options, self.subject
        if options.quiet or options.json or not self.speaks:
            return
        size = sum(p.value.size for p in self.net.parameters().values())
        say(
            f"{self.model} ({size:,} parameters) on {subject.name}: "
            f"{len(subject.train[0]):,} images to learn, {len(subject.test[0]):,} to test" + subject.of_classes
        )
        several = self.ranks is not None and self.ranks.size > 1
        ranks = f", {self.ranks.size} ranks ({self.ranks.kind})" if several else ""
        cycle = f"one cycle up to {self.peak:g}, seed {options.seed}"
        say(f"backend {dn.get_backend()}, {options.optimizer}, {cycle}{ranks}")

    def _fit(self, together: dict[str, Any]) -> None:
        options, (x, t) = self.options, self.subject.train
        augment = data.Augment(max(1, x.shape[1] // 8), self.subject.mirrored) if options.augment else None
        x, t = (dn.asarray(x), dn.asarray(t)) if augment else (x, t)  # batches are made on the backend of the images
        together = together | ({"sync_batch_norm": True} if options.sync_batch_norm else {})
        self.net.fit(
            x,
            t,
            epochs=self.epochs,
            batch_size=options.batch_size,
            optimizer=self.optimizer,
            seed=options.seed,
            verbose=1 if self.speaks and not options.quiet else 0,
            callbacks=self.callbacks,
            augment=augment,
            capture=options.capture,
            loss_scale=None if options.loss_scale == "none" else options.loss_scale,
            resume=self.folder,
            checkpoint_every=options.checkpoint_every,
            validation_data=self.subject.test if self.subject.photos else None,
            **together,
        )

    def _broken_off(self, error: BaseException) -> int:
        """Save what was trained, and print how far it got."""
        epochs = self.watch.run.history.epochs
        with unbroken():
            half = self.place if self.folder is None else stopped_of(self.place)
            done = save(self.net, half)  # first of all: the system may not wait long
            more = "; with --resume the same command continues" if self.folder is not None else ""
            why = told(error) if isinstance(error, KeyboardInterrupt) else f"dualnet train: {error}; stopped"
            say(f"{why} after epoch {epochs} of {self.epochs}; {done.words}{more}", "stderr")
        code = exit_code(error) if isinstance(error, KeyboardInterrupt) else EXIT_USAGE
        if self.ranks is not None:
            self.ranks.exit_code = code
            self.ranks.fail(error)
        return code

    def _end(self, seconds: float, score: dict[str, float]) -> int:
        subject, options = self.subject, self.options
        kept = {**vars(options), "model": self.model, "epochs": self.epochs, "lr": self.peak}
        kept["dtype"] = str(self.net.dtype)
        kept["size"] = subject.train[0].shape[1:3] if subject.photos else None
        with unbroken():
            result = {
                "model": self.model,
                "parameters": sum(p.value.size for p in self.net.parameters().values()),
                "data": subject.name,
                "train": len(subject.train[0]),
                "test": len(subject.test[0]),
                "classes": list(subject.classes),
                "epochs": self.epochs,
                "seconds": round(seconds, 3),
                **score,
            }
            made = self.watch.steps or self.folder is None
            there = None if made else file_with(self.net, self.place)
            if there is not None:  # the same command again
                words = f"trained already: {there}; to continue, pass --epochs"
                return _told(words, {**result, "saved": str(there)}, options)
            return _end(self.net, self.place, result, in_toml(_table(kept, self.arguments)), options)


def _told(words: str, result: dict[str, Any], options: argparse.Namespace) -> int:
    unheard = say(in_json(result) if options.json else words)
    if unheard is not None:
        raise unheard
    return 0


def _end(net: dn.Layer, place: Path, result: dict[str, Any], configuration: str, options: argparse.Namespace) -> int:
    """Print the result, and save the network and its configuration."""
    unheard = None
    if not options.json:
        unheard = say(f"trained in {result['seconds']:.1f} s, test accuracy {100 * result['accuracy']:.2f} %")
    done = save(net, place)
    if done.failed is not None:
        raise OSError(done.words) from done.failed
    try:
        replace_file(beside(done.path), configuration.encode("utf-8"))
    except OSError as error:
        raise OSError(f"{done.words}, without its configuration ({error.strerror or error})") from error
    words = in_json({**result, "saved": str(done.path)}) if options.json else done.words
    unheard = say(words) or unheard
    if unheard is not None:
        raise unheard
    return 0


def _configured(options: argparse.Namespace) -> dict[str, Any]:
    """Fill in what the command line leaves open. Returns the optimizer's arguments that have no option."""
    given = [name for name in NAMES if getattr(options, name) is not None]
    configured = Configured(options, NAMES, given)
    if options.config is not None:
        configured.take(read_toml(options.config), options.config)
    for name, value in options.set:
        configured.take({name: value}, f"--set {name}")
    for name, value in DEFAULTS.items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    return configured.of_optimizer


def _table(options: dict[str, Any], arguments: dict[str, Any]) -> dict[str, Any]:
    """The options as a configuration, with which you can train the same network again."""
    table = {name: options[name] for name in NAMES if name not in ("optimizer", "lr") and options[name] is not False}
    return {**table, "optimizer": {"name": options["optimizer"], "lr": options["lr"], **arguments}}


def _logs(options: argparse.Namespace) -> list[dn.Callback]:
    """What writes the figures of each epoch to a file."""
    logs: list[dn.Callback] = []
    if options.log is not None:
        kinds = {".csv": dn.callbacks.CSVLogger, ".jsonl": dn.callbacks.JSONLLogger}
        kind = kinds.get(Path(options.log).suffix.lower())
        if kind is None:
            raise ValueError(f"--log {options.log}: expected a name that ends with .csv or .jsonl")
        logs.append(kind(options.log))
    if options.tensorboard is not None:
        logs.append(dn.callbacks.TensorBoard(options.tensorboard))
    return logs


class _Watch(dn.Callback):
    """Remembers the run, to know how far it got, and counts the steps of this call."""

    run: Run | None = None
    steps = 0

    def on_fit_begin(self, run: Run) -> None:
        self.run = run

    def on_batch_end(self, run: Run) -> None:
        self.steps += 1
