"""The networks and data sets that a command is given by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dualnet as dn

from .. import data, models
from ..files.network import saved

DATASETS = {  # name: (model, epochs, learning rate for Adam)
    "digits": ("digits_cnn", 12, 2e-3),
    "mnist": ("lenet5", 5, 2e-3),
    "cifar10": ("vgg6", 10, 1e-3),
}


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
    """A fresh network for the name of a data set or model; else the one in the file."""
    model = DATASETS[name][0] if name in DATASETS else name
    if model in models.NAMES:
        return models.get(model)().init(models.INPUT_SHAPES[model], seed=seed)
    return network(name, None)


def load(dataset: str, folder: str | None) -> Any:
    if dataset == "digits":
        return data.load_digits()
    if folder is None:
        raise ValueError(f"{dataset}: say where its files lie, with --data DIR")
    return data.load_mnist(folder) if dataset == "mnist" else data.load_cifar10(folder)
