"""ModelCheckpoint saves the network to files while it trains: after every epoch, or only the best one."""

from __future__ import annotations

import contextlib
import math
import os
from pathlib import Path
from typing import Any

from ...arguments import integer
from ...files.formats import SUFFIXES
from ...files.network import check_can_be_saved, save
from ...writing import check_writable
from .base import Callback, Run, best_of, check_mode, figure

__all__ = ["ModelCheckpoint"]


class ModelCheckpoint(Callback):
    """Save the network at the end of an epoch, if it is the best so far, or every time.

    ``path`` is a file (``.npz`` or ``.safetensors``), which each save replaces; or a folder, for files such as
    ``epoch-0003.npz``, of which the newest ``keep`` stay. The folder is created if it does not exist.

    ``best=True`` compares ``val_loss`` if there is validation data, else ``loss``; or pass the name of a figure.
    ``mode`` says whether it should grow (``"max"``) or fall (``"min"``); ``"auto"`` is ``"max"`` for accuracy, F1 and
    the like. ``best=False`` saves after every ``every`` epochs or, with ``steps``, after that many steps
    (``step-000300.npz``).

    These files hold a network, for ``dn.load``. To continue a training that was interrupted, use
    ``fit(..., resume=folder)``.

    >>> import dualnet as dn, pathlib, tempfile
    >>> (x, t), test = dn.data.load_digits()
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> keep = dn.callbacks.ModelCheckpoint(folder, best=False, keep=2)
    >>> net = dn.Sequential([dn.Flatten(), dn.Dense(10)])
    >>> history = net.fit(x, t, epochs=4, callbacks=keep, verbose=0)
    >>> sorted(path.name for path in folder.iterdir())
    ['epoch-0003.npz', 'epoch-0004.npz']
    """

    writes = True

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        best: str | bool = True,
        mode: str = "auto",
        every: int = 1,
        steps: int | None = None,
        keep: int = 1,
    ) -> None:
        op = "ModelCheckpoint"
        self.path = Path(os.fsdecode(path)).expanduser()
        if self.path.suffix and self.path.suffix not in SUFFIXES and not self.path.is_dir():
            raise ValueError(
                f"{op}: {str(path)!r}; expected a file that ends with {' or '.join(SUFFIXES)}, or a folder"
            )
        if not isinstance(best, (str, bool)):
            raise TypeError(f"{op}: best must be True, False or the name of a figure such as 'val_loss', got {best!r}")
        if best is not False and steps is not None:
            raise ValueError(f"{op}: best is only known at the end of an epoch; with steps={steps!r} pass best=False")
        self.best, self.mode = best, check_mode(op, mode)
        self.every = integer(every, "every", op=op)
        self.steps = None if steps is None else integer(steps, "steps", op=op)
        self.keep = integer(keep, "keep", op=op)
        self.score = math.inf
        self.saved: list[Path] = []

    @property
    def _one_file(self) -> bool:
        return self.path.suffix in SUFFIXES and not self.path.is_dir()

    def on_fit_begin(self, run: Run) -> None:
        self.score, self.saved = math.inf, []
        check_can_be_saved(run.net)
        if not self._one_file:
            self.path.mkdir(parents=True, exist_ok=True)
        check_writable(self.path if self._one_file else self.path / "epoch-0001.npz")

    def on_batch_end(self, run: Run) -> None:
        if self.steps is not None and run.step % self.steps == 0:
            self._save(run, f"step-{run.step:06}.npz")

    def on_epoch_end(self, run: Run) -> None:
        if self.steps is not None or (run.epoch + 1) % self.every:
            return
        if self.best is not False:
            score = figure("ModelCheckpoint", run, None if self.best is True else self.best, self.mode)
            if not score < self.score:
                return
            self.score = score
        self._save(run, f"epoch-{run.epoch + 1:04}.npz")

    def _save(self, run: Run, name: str) -> None:
        target = self.path if self._one_file else self.path / name
        save(run.net, target)
        if not self._one_file:
            self.saved = [*(path for path in self.saved if path != target), target]
            for old in self.saved[: -self.keep]:
                with contextlib.suppress(FileNotFoundError):
                    old.unlink()
            self.saved = self.saved[-self.keep :]

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.score, "saved": [path.name for path in self.saved]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.score, self.saved = best_of(state), [self.path / Path(name).name for name in state["saved"]]
