"""ResNet-18 on CIFAR-10, by the usual recipe: python tools/train_cifar.py DATA

DATA holds the binary version (data_batch_1.bin … and test_batch.bin). The images are stored on the device as bytes, and
are shifted, mirrored and normalised there; the training step is one CUDA graph. SGD with Nesterov's momentum, weight
decay, label smoothing and a learning rate that goes up and down once. It also runs on NumPy, for a few examples.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
import time
from pathlib import Path
from typing import Any

import dualnet as dn

DTYPES = ("bfloat16", "tf32", "float32")


def main(arguments: list[str] | None = None) -> int:
    options = _options(arguments)
    if options.backend:
        dn.set_backend(options.backend)
    dn.set_precision("tf32" if options.dtype == "tf32" else "strict")
    training = Training(options)
    print(training.title(), flush=True)
    history = training.run()
    told = training.told(history, complete=True)
    print(f"test accuracy {100 * told['accuracy']:.2f} % after {told['seconds'] / 60:.2f} minutes", flush=True)
    return 0


class Training:
    """Data, network and optimizer, and the report after every epoch."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        (x, t), (self.x_test, self.t_test) = (
            (images[: options.examples], labels[: options.examples])
            for images, labels in dn.data.load_cifar10(options.data, dtype="uint8")
        )
        dn.losses.check_labels("train_cifar", t, 10)  # once, and not in every step
        self.augment = dn.data.Augment.measured(x, shift=options.shift)
        self.x, self.t, self.x_test, self.t_test = map(dn.asarray, (x, t, self.x_test, self.t_test))
        dtype = "float32" if options.dtype == "tf32" else options.dtype
        self.net = dn.models.get(options.model)().init(x.shape[1:], seed=options.seed, dtype=dtype)
        self.steps = options.epochs * -(-len(x) // options.batch)
        schedule = dn.schedules.OneCycle(options.lr, self.steps, warm=options.warm)
        self.optimizer = dn.SGD(schedule, momentum=0.9, nesterov=True, weight_decay=options.weight_decay)
        self.accuracies: list[float] = []
        self.begun = time.perf_counter()

    def title(self) -> str:
        o = self.options
        gpu = dn.info().get("gpu", "no GPU")
        return (
            f"{o.model} in {o.dtype} on {dn.get_backend()} ({gpu}): {len(self.x):,} images to learn, "
            f"{len(self.x_test):,} to test; {o.epochs} epochs of {self.steps // o.epochs} steps of {o.batch}, one "
            f"cycle up to {o.lr:g}, weight decay {o.weight_decay:g}, label smoothing {o.smoothing:g}, seed {o.seed}"
        )

    def run(self) -> Any:
        loss = functools.partial(
            dn.losses.softmax_cross_entropy, label_smoothing=self.options.smoothing, check_labels=False
        )
        self.begun = time.perf_counter()
        return self.net.fit(
            self.x,
            self.t,
            epochs=self.options.epochs,
            batch_size=self.options.batch,
            optimizer=self.optimizer,
            loss=loss,
            augment=self.augment,
            capture=not self.options.eager,
            callbacks=[self.after_epoch],
            seed=self.options.seed,
            verbose=0,
        )

    def after_epoch(self, run: Any) -> None:
        score = self.net.evaluate(
            self.x_test, self.t_test, self.options.batch, loss="softmax_cross_entropy", augment=self.augment
        )
        self.accuracies.append(score["accuracy"])
        seconds = run.logs["seconds"]
        print(
            f"epoch {run.epoch + 1:3} of {run.epochs}: loss {run.logs['loss']:.4f}, test accuracy "
            f"{100 * score['accuracy']:.2f} %, {seconds:.2f} s, {len(self.x) / seconds:,.0f} images/s",
            flush=True,
        )
        self.told(run.history, complete=False)

    def told(self, history: Any, complete: bool) -> dict[str, Any]:
        """All results so far, which also go to the file. The time counts from the first step, with compiling, recording
        and testing."""
        o = self.options
        found = {
            "complete": complete,
            "accuracy": self.accuracies[-1] if self.accuracies else 0.0,
            "best": max(self.accuracies, default=0.0),
            "seconds": round(time.perf_counter() - self.begun, 2),
            "epochs": o.epochs,
            "images_per_second": round(len(self.x) / min(history["seconds"])) if history.get("seconds") else None,
            "settings": {k: v for k, v in vars(o).items() if k not in ("data", "json")} | {"captured": not o.eager},
            "history": {**dict(history), "test_accuracy": self.accuracies},
        }
        if o.json:
            o.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        return found


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tools/train_cifar.py", description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("data", type=Path, metavar="DATA", help="the folder with the files of CIFAR-10, binary version")
    add("--backend", metavar="B", help="cupy, cupy:N, numpy or strict (DUALNET_BACKEND, or numpy)")
    add("--dtype", choices=DTYPES, default="bfloat16", help="the dtype to compute in (bfloat16)")
    add("--model", choices=list(dn.models.NAMES), default="resnet18", help="(resnet18)")
    add("--epochs", type=int, default=30, metavar="N", help="passes over the training data (30)")
    add("--batch", type=int, default=500, metavar="N", help="images in a step (500, so that all steps are equal)")
    add("--lr", type=float, default=0.2, metavar="RATE", help="the highest learning rate (0.2)")
    add(
        "--warm",
        type=float,
        default=0.25,
        metavar="SHARE",
        help="the share of all steps in which the learning rate goes up (0.25)",
    )
    add("--weight-decay", type=float, default=5e-4, metavar="L", help="(5e-4)")
    add("--smoothing", type=float, default=0.1, metavar="E", help="of labels (0.1)")
    add("--shift", type=int, default=4, metavar="PIXELS", help="of images (4)")
    add("--examples", type=int, metavar="N", help="use only this many images of each part, to try it out")
    add("--eager", action="store_true", help="launch each kernel from Python, without a CUDA graph")
    add("--seed", type=int, default=0, metavar="N", help="for weights, order and moves (0)")
    add("--json", type=Path, metavar="FILE", help="write the results so far, after every epoch")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (ValueError, OSError, ImportError, dn.BackendUnavailable) as error:
        sys.exit(f"train_cifar: {' '.join(str(error).split())}")
