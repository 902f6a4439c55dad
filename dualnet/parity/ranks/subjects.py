"""The networks that ranks train together, their images, and how."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy

from ...data import Augment
from ...layers import Conv2D, Dense, Dropout, Flatten, MaxPool2D, ReLU, Sequential
from ...layers.layer import Layer
from ..networks.training import NETWORKS, RATE, images

__all__ = ["BATCH", "SUBJECTS", "Subject"]

BATCH, TAIL = 16, 5
"""Images in a step, and in the last step of an epoch, which no two ranks can share evenly."""
STEPS_OF_EPOCH = 6


def dropped() -> Sequential:
    """A small network with dropout after a convolution and before the last layer."""
    layers = [Conv2D(6, 3), ReLU(), Dropout(0.2), MaxPool2D(2), Flatten(), Dense(32), ReLU(), Dropout(0.5), Dense(10)]
    return Sequential(layers)


@dataclass(frozen=True)
class Subject:
    """A network, and the part of its training that ranks may get wrong."""

    name: str
    title: str
    build: Callable[[], Layer]
    shape: tuple[int, ...]
    rate: float
    options: dict[str, Any] = field(default_factory=dict)  # of ``fit``
    exact: bool = False  # are the parts of a batch independent, so that their sum in order has the same bits?
    normalised: bool = False  # does it take statistics over the batch?

    def net(self, seed: int) -> Layer:
        """The network with its first weights, in float64."""
        return self.build().init(self.shape, seed=seed, dtype="float64")

    def data(self, seed: int, whole: int | None = None) -> tuple[numpy.ndarray, numpy.ndarray]:
        """An epoch of images and their classes, with a shorter last batch; or batches of ``whole`` images."""
        x, t = images(self.shape, seed)
        n = STEPS_OF_EPOCH * whole if whole else (STEPS_OF_EPOCH - 1) * BATCH + TAIL
        return x[:n].astype("float64"), t[:n]


SUBJECTS = {
    one.name: one
    for one in (
        Subject("lenet5", "LeNet-5", *NETWORKS["lenet5"], RATE["lenet5"], exact=True),
        Subject(
            "resnet20",
            "ResNet-20, synchronised batch norm",
            *NETWORKS["resnet20"],
            RATE["resnet20"],
            {"sync_batch_norm": True},
            normalised=True,
        ),
        Subject(
            "dropped", "dropout and augmentation", dropped, (16, 16, 3), 0.005, {"augment": Augment(shift=2, flip=True)}
        ),
    )
}
"""The networks by name."""
