"""``dualnet train``: train a network, show its test accuracy and save it."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import dualnet as dn

from .. import data, models
from ..shim.dtypes import FLOATING
from .options import command, count, loss_scale, rate
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
    parser.add_argument("--out", default=".", metavar="DIR", help="where the model is saved (this folder)")


def run(options: argparse.Namespace) -> None:
    model, epochs, peak = DATASETS[options.dataset]
    model, epochs = options.model or model, options.epochs or epochs
    out = Path(options.out)
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out {out} is a file; expected a folder")
    net = models.get(model)()
    (x, t), (x_test, t_test) = load(options.dataset, options.data)
    net.init(x.shape[1:], seed=options.seed, dtype=options.dtype)
    out.mkdir(parents=True, exist_ok=True)  # if this fails, it fails before the training
    steps = epochs * -(-len(x) // options.batch_size)
    optimizer = dn.optimizers.get(options.optimizer)
    peak = options.lr or (peak if isinstance(optimizer, dn.Adam | dn.AdamW) else optimizer.current_lr)
    optimizer.lr = dn.schedules.OneCycle(peak, steps)

    count = sum(p.value.size for p in net.parameters().values())
    print(f"{model} ({count:,} parameters) on {options.dataset}: {len(x):,} images to learn, {len(x_test):,} to test")
    print(f"backend {dn.get_backend()}, {options.optimizer}, one cycle up to {peak:g}, seed {options.seed}", flush=True)
    augment = data.Augment(max(1, x.shape[1] // 8), options.dataset == "cifar10") if options.augment else None
    x, t = (dn.asarray(x), dn.asarray(t)) if augment else (x, t)  # batches are made where the images are
    begun = time.perf_counter()
    net.fit(
        x,
        t,
        epochs=epochs,
        batch_size=options.batch_size,
        optimizer=optimizer,
        seed=options.seed,
        augment=augment,
        capture=options.capture,
        loss_scale=options.loss_scale,
    )
    seconds = time.perf_counter() - begun
    score = net.evaluate(x_test, t_test)
    path = net.save(out / f"{options.dataset}-{model}")
    print(f"trained in {seconds:.1f} s, saved as {path}")
    print(f"test accuracy {100 * score['accuracy']:.2f} %")
