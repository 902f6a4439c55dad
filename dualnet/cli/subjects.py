"""The networks and data sets that a command is given by name."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dualnet as dn

from .. import data, models
from ..data.inputs import InputSpec, border_of
from ..data.sources import SOURCES, placed
from ..files.network import saved

DATASETS = {  # name: (model, epochs, learning rate for Adam)
    "digits": ("digits_cnn", 12, 2e-3),
    "mnist": ("lenet5", 5, 2e-3),
    "fashion_mnist": ("lenet5", 10, 2e-3),
    "kmnist": ("lenet5", 10, 2e-3),
    "cifar10": ("vgg6", 10, 1e-3),
    "cifar100": ("resnet20", 20, 1e-3),
}
NAMED = {
    "fashion_mnist": data.FASHION_MNIST_CLASSES,
    "cifar10": data.CIFAR10_CLASSES,
    "cifar100": data.CIFAR100_CLASSES,
}
"""The names of classes that are not numbers."""
READERS = {"cifar10": data.load_cifar10, "cifar100": data.load_cifar100}
MIRRORED = ("cifar10", "cifar100", "fashion_mnist")
"""Data sets whose images may be mirrored: not digits, and not writing."""


def network(name: str, input_shape: tuple[int, ...] | None) -> dn.Layer:
    if name in models.NAMES:
        return models.get(name)().init(input_shape or models.INPUT_SHAPES[name])
    if not saved(name) and not Path(name).exists():
        raise ValueError(f"{name!r} is neither a file nor a model; the models are {', '.join(models.NAMES)}")
    net = dn.load(name)
    if input_shape not in (None, net.input_shape):
        raise ValueError(f"{name} was made for inputs of {net.input_shape}; --input-shape is for models without a file")
    return net


def fresh_or_saved(name: str, seed: int) -> dn.Layer:
    """A fresh network for the name of a data set or model; otherwise the network in the file."""
    model = DATASETS[name][0] if name in DATASETS else name
    if model in models.NAMES:
        return models.get(model)().init(models.INPUT_SHAPES[model], seed=seed)
    if not saved(name) and not Path(name).exists():
        raise ValueError(
            f"{name!r} is neither a file, a model nor a data set; the models are {', '.join(models.NAMES)}, and the "
            f"data sets {', '.join(DATASETS)}"
        )
    return network(name, None)


def load(dataset: str, folder: str | None) -> Any:
    """A data set by its name: from the files in ``folder`` or one of the usual places, or downloaded."""
    if dataset == "digits":
        if folder is not None:
            raise ValueError("--data is for the files of other data sets; the digits come with the package")
        return data.load_digits()
    if folder is None:
        return getattr(data, dataset)()
    return READERS.get(dataset, data.load_mnist)(folder)


def fetch(dataset: str, folder: str | None) -> None:
    """Download a data set that has a name, if it is needed and not on the disk."""
    if dataset in SOURCES and folder is None:
        placed(dataset)


# -- what a network learns from ----------------------------------------------------------------------------------------

PHOTOS = ("resnet20", 20, 2e-3)
LOOKED_AT = 256
SIDE = 64
"""By default photos are scaled to this many pixels each way."""


@dataclass(frozen=True)
class Subject:
    """Images to learn from and to test on, the names of the classes, and ``advice``: (model, epochs, learning rate for
    Adam)."""

    name: str
    train: tuple[Any, Any]
    test: tuple[Any, Any]
    classes: tuple[str, ...]
    advice: tuple[str, int, float]
    mirrored: bool = False
    photos: bool = False

    @property
    def input(self) -> InputSpec:
        """What a network that has learned this expects."""
        x = self.train[0]
        some = x[:: max(1, len(x) // LOOKED_AT)]
        return InputSpec(x.shape[1:3], x.shape[3], classes=self.classes, border=float(border_of(some).mean()))

    @property
    def of_classes(self) -> str:
        """The classes in words, if their names say more than their numbers."""
        some = ", ".join(self.classes[:5]) + ", …" * (len(self.classes) > 5)
        return f"; {len(self.classes)} classes: {some}" if self.photos else ""


def learnt(options: argparse.Namespace) -> Subject:
    """What ``dualnet train`` is to learn: a data set by its name, or a folder of photos."""
    what = options.dataset
    if what in DATASETS:
        for option in ("size", "grey"):
            if getattr(options, option):
                raise ValueError(f"--{option} is for photos in folders; the images of {what} have a fixed size")
        train, test = load(what, options.data)
        names = NAMED.get(what, tuple(map(str, range(10))))
        return Subject(what, train, test, names, DATASETS[what], mirrored=what in MIRRORED)
    folder = Path(what).expanduser()
    if not folder.is_dir():
        packed = folder.suffix.lower() in (".zip", ".gz", ".tar", ".tgz", ".7z", ".rar")
        file = "is an archive; unpack it first" if packed else "is a file"
        kind = file if folder.exists() else "does not exist"
        raise ValueError(f"{what!r} {kind}; expected a folder of photos, or one of {', '.join(DATASETS)}")
    if options.data is not None:
        raise ValueError(f"--data is for data sets with a name; {what} is a folder itself")
    size = options.size or [SIDE]
    if len(size) > 2:
        raise ValueError(f"--size: {', '.join(map(str, size))} are {len(size)} numbers; expected H or H,W")
    train, test, names = data.load_folder(folder, (size[0], size[-1]), grey=options.grey, seed=options.seed)
    return Subject(folder.resolve().name, train, test, names, PHOTOS, mirrored=True, photos=True)
