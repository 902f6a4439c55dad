"""A training that can be stopped after each step, and taken back to any step before.

A step is that of ``net.fit``, with the same batches in the same order. So a run in the page and the same run as code
end with the same weights, bit for bit, and going back is exact: to the nearest snapshot, and on by the same steps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy

import dualnet as dn
from dualnet.arguments import integer
from dualnet.training.batches import order_of

from . import breaking, plan
from .pictures import Pictures
from .plan import Settings

ROOM = 48 * 2**20
"""Bytes for snapshots. When they are used up, every second one goes."""


@dataclass
class Snapshot:
    """All that the next step depends on. Training never overwrites an array, so none is copied."""

    net: dict[str, Any]
    optimizer: dict[str, Any]
    broken: str
    pinned: bool = False

    @property
    def size(self) -> int:
        arrays = [value for value in [*self.net.values(), *self.optimizer.values()] if hasattr(value, "nbytes")]
        return sum(array.nbytes for array in arrays)


class Training:
    """A network, its optimizer, and how far they have come."""

    def __init__(self, settings: Settings, pictures: Pictures, net: Any = None, optimizer: Any = None) -> None:
        self.settings, self.pictures = plan.complete(settings), pictures
        self.size = integer(plan.value(self.settings["batch_size"]), "batch_size", op="playground")
        self.net = plan.network(self.settings, pictures.shape) if net is None else net
        self.optimizer = plan.optimizer(self.settings) if optimizer is None else optimizer
        self.net.evaluate(pictures.x[:2], pictures.t[:2])  # what does not fit is said now
        self.step, self.losses, self.trials = 0, [], []  # type: int, list[float], list[dict[str, float]]
        self.accuracies: list[float] = []
        self.changes: dict[int, float] = {}  # learning rates that were set on the way, by step
        self.broken = ""
        self.snapshots: dict[int, Snapshot] = {}
        self.spacing, self.kept = 1, 0  # steps from one to the next, and bytes
        self.break_(self.settings["broken"])

    # -- steps

    @property
    def steps_per_epoch(self) -> int:
        return math.ceil(len(self.pictures.x) / self.size)

    @property
    def epoch(self) -> int:
        return self.step // self.steps_per_epoch

    def batch(self, step: int) -> tuple[Any, Any]:
        """The images and classes of a step: those that ``fit`` takes there."""
        epoch, place = divmod(step, self.steps_per_epoch)
        order = order_of(len(self.pictures.x), self.settings["seed"], epoch, True)
        chosen = order[place * self.size : (place + 1) * self.size]
        return self.net.enter(dn.asarray(self.pictures.x[chosen])), dn.asarray(self.pictures.t[chosen])

    def advance(self, steps: int) -> dict[str, Any]:
        """So many steps, or fewer if the loss is no number any more; returns what is new."""
        first, tried = self.step, len(self.trials)
        for _ in range(steps):
            self._advance()
            if self.step % self.steps_per_epoch == 0:
                self.trials.append({"step": self.step} | self.try_out())
            if not math.isfinite(self.losses[-1]):
                break
        return self.told() | {
            "losses": self.losses[first:],
            "accuracies": self.accuracies[first:],
            "trials": self.trials[tried:],
        }

    def _advance(self) -> None:
        x, t = self.batch(self.step)
        with numpy.errstate(all="ignore"):
            y, pullback = self.net.forward(x, train=True)
            loss, dloss = breaking.loss(self.broken)(y, t)
            _, gradients = pullback(dloss())
            self.optimizer.step(self.net, gradients)
        self.losses.append(float(dn.to_numpy(loss)))
        self.accuracies.append(float((dn.to_numpy(y).argmax(axis=1) == dn.to_numpy(t)).mean()))
        self.step += 1
        self.remember()

    def try_out(self) -> dict[str, float]:
        """Loss and accuracy on the images that are held back."""
        with numpy.errstate(all="ignore"):
            return self.net.evaluate(self.pictures.xv, self.pictures.tv)

    def told(self) -> dict[str, Any]:
        """How far it has come."""
        loss = self.losses[-1] if self.losses else None
        fine = loss is None or math.isfinite(loss)
        told = {"step": self.step, "epoch": self.epoch, "steps_per_epoch": self.steps_per_epoch, "fine": fine}
        told |= {"broken": self.broken, "lr": self.optimizer.current_lr, "oldest": min(self.snapshots)}
        if not fine:
            told["message"] = (
                f"The loss is {loss} after step {self.step}. Most often the learning rate is too large: go back, and "
                "try a tenth."
            )
        return told

    # -- back

    def remember(self, pinned: bool = False) -> None:
        """A snapshot of this step, if one is due; a pinned one stays."""
        if not pinned and self.step % self.spacing:
            return
        before = self.snapshots.get(self.step)
        pinned = pinned or (before is not None and before.pinned)
        state = self.net.state_dict(), self.optimizer.state_dict()
        self.snapshots[self.step] = Snapshot(*state, self.broken, pinned)
        self.kept = (
            sum(one.size for one in self.snapshots.values()) if before else self.kept + self.snapshots[self.step].size
        )
        if self.kept > ROOM:
            self.thin_out()

    def thin_out(self) -> None:
        """Let every second snapshot go; those before and after a change stay."""
        self.spacing *= 2
        self.snapshots = {s: one for s, one in self.snapshots.items() if one.pinned or s % self.spacing == 0}
        self.kept = sum(one.size for one in self.snapshots.values())

    def rewind(self, step: int) -> dict[str, Any]:
        """Be where the training was after so many steps, as if the later ones had not been made."""
        if not 0 <= step <= self.step:
            raise ValueError(f"playground: there are the steps 0 … {self.step}; got {step}")
        nearest = max(one for one in self.snapshots if one <= step)
        snapshot = self.snapshots[nearest]
        self._put_back(snapshot)
        self.snapshots = {s: one for s, one in self.snapshots.items() if s <= nearest}
        self.kept = sum(one.size for one in self.snapshots.values())
        self.changes = {s: lr for s, lr in self.changes.items() if s <= nearest}
        self.step, self.losses, self.accuracies = nearest, self.losses[:nearest], self.accuracies[:nearest]
        while self.step < step:
            self._advance()
        self.trials = [trial for trial in self.trials if trial["step"] <= step]
        return self.told()

    def _put_back(self, snapshot: Snapshot) -> None:
        self.net.load_state_dict(snapshot.net)
        self.optimizer.load_state_dict(snapshot.optimizer)
        self.broken = breaking.break_network(self.net, snapshot.broken)

    # -- what may be changed on the way

    def set_lr(self, lr: float) -> dict[str, Any]:
        self.optimizer.lr = lr
        self.changes[self.step] = lr
        self.remember(pinned=True)
        return self.told()

    def break_(self, name: str) -> dict[str, Any]:
        """From this step on, go back by a wrong backward pass of the zoo; "" is the right one."""
        self.broken = breaking.break_network(self.net, name)
        self.remember(pinned=True)
        return self.told()
