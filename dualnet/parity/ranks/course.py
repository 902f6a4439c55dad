"""A training that is recorded step by step, and one that is set back to its weights before each step.

Training magnifies differences, so a limit for one step says nothing about the fiftieth. If each step begins from the
recorded weights, it can be judged by itself.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any

import numpy

from ...layers.layer import Layer
from ...ops import losses
from ...optimizers.rules import SGD
from ...shim import asarray, backend_of, to_numpy
from ...training.callbacks import Callback, Run
from ..networks.network import moved
from .subjects import BATCH, STEPS_OF_EPOCH, Subject

__all__ = ["Note", "train"]

State = dict[str, Any]


@dataclass
class Note:
    """One step: the loss on this rank's images, their number, the gradients, and the state after the step."""

    loss: float
    images: int
    gradients: dict[str, numpy.ndarray]
    state: State
    slots: State = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """All bits of the gradients and of the state."""
        text = hashlib.sha256()
        for several in (self.gradients, self.state):
            for name in sorted(several):
                text.update(name.encode() + numpy.asarray(several[name]).tobytes())
        return text.hexdigest()


class _Noting(SGD):
    """SGD that remembers the gradients that it gets."""

    gradients: dict[str, numpy.ndarray]

    def step(self, net: Any, grads: Any, finite: Any = None) -> None:
        self.gradients = {name: to_numpy(g).copy() for name, g in grads.items()}
        super().step(net, grads, finite)


class _Noter(Callback):
    """Records each step, and sets the training back to the course that it follows."""

    def __init__(self, steps: int, course: list[Note] | None, rng: numpy.random.Generator | None) -> None:
        self.steps, self.course, self.rng = steps, course, rng
        self.notes: list[Note] = []
        self.losses: list[tuple[float, int]] = []

    def loss(self, y: Any, t: Any, *weights: Any) -> Any:
        """Softmax cross-entropy, recorded."""
        value, way = losses.softmax_cross_entropy(y, t, *weights)
        self.losses.append((float(to_numpy(value)), int(y.shape[0])))
        return value, way

    def on_fit_begin(self, run: Run) -> None:
        self._move(run.net)

    def on_epoch_begin(self, run: Run) -> None:
        self.losses.clear()  # fit tries the loss on one example first

    def on_batch_end(self, run: Run) -> None:
        images = sum(n for _, n in self.losses)
        loss = sum(value * n for value, n in self.losses) / images if images else 0.0
        self.losses.clear()
        optimizer: Any = run.optimizer
        note = Note(loss, images, optimizer.gradients, _host(run.net.state_dict()), _host(optimizer.state_dict()))
        self.notes.append(note)
        if self.course is not None:
            there = self.course[len(self.notes) - 1]
            run.net.load_state_dict(_placed(there.state))
            optimizer.load_state_dict(_placed(there.slots))
            self._move(run.net)
        run.stop = len(self.notes) >= self.steps

    def _move(self, net: Layer) -> None:
        """Every weight up or down by one unit in the last place."""
        if self.rng is not None:
            for name, parameter in moved(net, self.rng).parameters().items():
                net.parameters()[name].value = parameter.value


def train(
    subject: Subject,
    seed: int,
    steps: int,
    *,
    follow: list[Note] | None = None,
    rng: numpy.random.Generator | None = None,
    whole: int | None = None,
    **options: Any,
) -> list[Note]:
    """Train, and record every step. With ``follow``, each step begins from the weights of that course.

    ``rng`` moves the first weights by one unit in the last place; if the training follows a course, before every step.
    ``whole`` is the number of images in every step, without a short last one. ``options`` are for ``fit``.
    """
    net, (x, t) = subject.net(seed), subject.data(seed, whole)
    noter = _Noter(steps, follow, rng)
    options = {"batch_size": BATCH, **subject.options, **options}
    if "distributed" not in options:
        options.pop("sync_batch_norm", None)
    epochs = -(-steps // STEPS_OF_EPOCH)
    optimizer = _Noting(subject.rate, momentum=0.9)
    net.fit(
        x, t, epochs=epochs, optimizer=optimizer, loss=noter.loss, seed=seed, callbacks=[noter], verbose=0, **options
    )
    return noter.notes


def _host(state: State) -> State:
    return {key: to_numpy(value).copy() if backend_of(value) is not None else value for key, value in state.items()}


def _placed(state: State) -> State:
    return {key: asarray(value) if isinstance(value, numpy.ndarray) else value for key, value in state.items()}
