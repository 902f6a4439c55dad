"""``dualnet train``: train a network, show its test accuracy and save it."""

from __future__ import annotations

import argparse
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import dualnet as dn

from .. import data, models
from ..files.formats import SUFFIXES
from ..files.network import file_of, saved
from ..shim.dtypes import FLOATING
from ..terminal import say
from ..training.callbacks import Run
from ..training.ending import unbroken
from ..writing import check_writable
from .options import command, count, exit_code, loss_scale, rate, told
from .subjects import DATASETS, load


def add(commands: Any) -> None:
    parser = command(commands, "train", run, "train a network, show its test accuracy and save it")
    parser.add_argument("dataset", nargs="?", choices=DATASETS, default="digits", help="what to learn (digits)")
    parser.add_argument("--data", metavar="DIR", help="the folder with the files of mnist or cifar10")
    parser.add_argument("--model", metavar="NAME", help=f"one of {', '.join(models.NAMES)}")
    parser.add_argument("--epochs", type=count, metavar="N", help="passes over the training data")
    parser.add_argument("--batch-size", type=count, default=64, metavar="N", help="images in a step (64)")
    parser.add_argument("--lr", type=rate, metavar="RATE", help="the highest learning rate of the one-cycle schedule")
    parser.add_argument("--optimizer", default="adam", metavar="NAME", help="sgd, rmsprop, adam or adamw (adam)")
    parser.add_argument("--augment", action="store_true", help="shift the images, and mirror those of cifar10")
    parser.add_argument("--capture", action="store_true", help="the whole step as one CUDA graph, on a GPU")
    parser.add_argument("--dtype", choices=FLOATING, help="what layers compute in (DUALNET_DTYPE, or float32)")
    parser.add_argument(
        "--loss-scale",
        type=loss_scale,
        default="auto",
        metavar="S",
        help="auto (dynamic for float16), none, or a number",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="for the weights and the order (0)")
    parser.add_argument(
        "--out", default=".", metavar="PATH", help="the folder for the model (this one), or a file: .npz, .safetensors"
    )
    parser.add_argument("--quiet", action="store_true", help="print the result alone, no progress")


def run(options: argparse.Namespace) -> int:
    model, epochs, peak = DATASETS[options.dataset]
    model, epochs = options.model or model, options.epochs or epochs
    place = _place(options.out, f"{options.dataset}-{model}")
    net = models.get(model)()
    (x, t), test = load(options.dataset, options.data)
    net.init(x.shape[1:], seed=options.seed, dtype=options.dtype)
    place.parent.mkdir(parents=True, exist_ok=True)
    target = place if place.suffix in SUFFIXES else place.with_name(f"{place.name}.npz")
    check_writable(target, sum(p.value.nbytes for p in net.parameters().values()))  # before the training
    steps = epochs * -(-len(x) // options.batch_size)
    optimizer = dn.optimizers.get(options.optimizer)
    peak = options.lr or (peak if isinstance(optimizer, dn.Adam | dn.AdamW) else optimizer.current_lr)
    optimizer.lr = dn.schedules.OneCycle(peak, steps)

    size = sum(p.value.size for p in net.parameters().values())
    if not options.quiet:
        say(f"{model} ({size:,} parameters) on {options.dataset}: {len(x):,} images to learn, {len(test[0]):,} to test")
        say(f"backend {dn.get_backend()}, {options.optimizer}, one cycle up to {peak:g}, seed {options.seed}")
    augment = data.Augment(max(1, x.shape[1] // 8), options.dataset == "cifar10") if options.augment else None
    x, t = (dn.asarray(x), dn.asarray(t)) if augment else (x, t)  # batches are made where the images are
    begun, watch = time.perf_counter(), _Watch()
    try:
        net.fit(
            x,
            t,
            epochs=epochs,
            batch_size=options.batch_size,
            optimizer=optimizer,
            seed=options.seed,
            verbose=0 if options.quiet else 1,
            callbacks=watch,
            augment=augment,
            capture=options.capture,
            loss_scale=options.loss_scale,
        )
        seconds = time.perf_counter() - begun
        score = net.evaluate(*test)
    except KeyboardInterrupt as error:
        if watch.run is None or not watch.run.step:
            raise  # nothing was trained
        with unbroken():
            words, _ = _save(net, place)  # before anything else: who ends a training may not wait
            say(f"{told(error)} after epoch {watch.run.history.epochs} of {epochs}; {words}", "stderr")
        return exit_code(error)
    with unbroken():
        unheard = say(f"trained in {seconds:.1f} s, test accuracy {100 * score['accuracy']:.2f} %")
        words, failed = _save(net, place)
        if failed is None:
            unheard = say(words) or unheard
    if failed is not None:
        raise OSError(words) from failed
    if unheard is not None:
        raise unheard
    return 0


class _Watch(dn.Callback):
    """Keeps the run, to know how far it came."""

    run: Run | None = None

    def on_fit_begin(self, run: Run) -> None:
        self.run = run


def _place(out: str, name: str) -> Path:
    """The file that ``--out`` names, or one of this name in the folder that it names."""
    path = Path(out).expanduser()
    if path.suffix in SUFFIXES and not path.is_dir():
        return file_of(path)
    if path.exists() and not path.is_dir():
        raise ValueError(f"--out {out} is a file; expected a folder, or a name that ends with {' or '.join(SUFFIXES)}")
    return path / name


def _save(net: dn.Layer, place: Path) -> tuple[str, OSError | None]:
    """Save the network, if not in its place, then in another folder. Returns where it is, and what went wrong."""
    try:
        return _saved(net, place), None
    except OSError as error:
        for folder in (Path.cwd, tempfile.gettempdir, Path.home):
            with suppress(OSError, RuntimeError):  # RuntimeError: nobody knows where home is
                instead = _saved(net, Path(folder()) / place.name.removesuffix(place.suffix))
                return f"{error.strerror or error}: {str(place.parent)!r}; {instead} instead", error
        raise


def _saved(net: dn.Layer, place: Path) -> str:
    """Save the network under a file's name, or under a name without a suffix and, if that is taken, with a number."""
    if place.suffix in SUFFIXES:
        there = " in place of the one that was there" if place.exists() else ""
        return f"saved as {net.save(place)}{there}"
    path = _reserved(place)
    try:
        net.save(path)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    there = "" if path.stem == place.name else f" ({next(iter(saved(place)), place).name} was there already)"
    return f"saved as {path}{there}"


def _reserved(place: Path) -> Path:
    """NAME.npz, or the first of NAME-2.npz, NAME-3.npz, ... that no network has, in either format.

    It is an empty file by now: of two trainings that end at once, only one gets the name.
    """
    name, number = place.name, 1
    while True:
        if not saved(place.with_name(name)):
            path = place.with_name(f"{name}.npz")
            with suppress(FileExistsError), open(path, "xb"):
                return path
        number += 1
        name = f"{place.name}-{number}"
