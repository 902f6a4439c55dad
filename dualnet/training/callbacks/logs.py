"""The figures of each epoch in a file: as a table (CSV), as lines of JSON, or for TensorBoard.

The file grows during the training, and is written to disk after each epoch. A process that is killed loses one line at
most. When the training continues, so does the file: a line that was cut off, and lines of epochs that are trained
again, are removed first.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
from pathlib import Path
from typing import Any

from ...arguments import flag
from ...ops.sums import wide
from ...shim import to_numpy
from ...writing import check_writable, replace_file
from .base import Callback, Run

__all__ = ["CSVLogger", "JSONLLogger", "TensorBoard"]

Row = dict[str, Any]


class _Lines(Callback):
    """A text file with one line per epoch."""

    writes = True

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(os.fsdecode(path)).expanduser()

    def on_fit_begin(self, run: Run) -> None:
        check_writable(self.path)
        rows = self._read() if run.goes_on and self.path.exists() else []
        self._begin([row for row in rows if row["epoch"] <= run.epoch])

    def on_epoch_end(self, run: Run) -> None:
        figures = {name: _number(value) for name, value in run.logs.items()}
        self._add({"epoch": run.epoch + 1, "step": run.step, **figures})

    def _append(self, text: str) -> None:
        with open(self.path, "a", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())

    def _read(self) -> list[Row]:
        """The complete lines of the file."""
        raise NotImplementedError

    def _begin(self, rows: list[Row]) -> None:
        """Write these rows to the file, and nothing else."""
        raise NotImplementedError

    def _add(self, row: Row) -> None:
        raise NotImplementedError


class CSVLogger(_Lines):
    """Write the figures of each epoch to a CSV file: one column per figure, one line per epoch.

    The columns are ``epoch`` (from 1), ``step`` (all steps so far) and the figures. A figure that appears later gets a
    column at the end. A new training begins a new file; one that continues (``resume``, ``initial_epoch``) adds to
    the old one.

    >>> import dualnet as dn, pathlib, tempfile
    >>> (x, t), test = dn.data.load_digits()
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "log.csv"
    >>> net = dn.Sequential([dn.Flatten(), dn.Dense(10)])
    >>> history = net.fit(x, t, epochs=2, callbacks=dn.callbacks.CSVLogger(path), verbose=0)
    >>> lines = path.read_text().splitlines()
    >>> lines[0], len(lines)
    ('epoch,step,loss,accuracy,seconds', 3)
    """

    def _read(self) -> list[Row]:
        text = self.path.read_text(encoding="utf-8", errors="replace")
        whole = text[: text.rfind("\n") + 1]
        rows = []
        for line in csv.DictReader(io.StringIO(whole, newline="")):
            known = {name: value for name, value in line.items() if name and isinstance(value, str) and value}
            if known.get("epoch", "").isdigit():
                rows.append({**known, "epoch": int(known["epoch"])})
        return rows

    def _begin(self, rows: list[Row]) -> None:
        self.rows, self.columns = rows, list(dict.fromkeys(name for row in rows for name in row))
        replace_file(self.path, self._text([self.columns, *map(self._in_columns, rows)] if rows else []).encode())

    def _add(self, row: Row) -> None:
        self.rows.append(row)
        if row.keys() <= set(self.columns):
            self._append(self._text([self._in_columns(row)]))
        else:
            self._begin(self.rows)

    def _in_columns(self, row: Row) -> list[Any]:
        return [row.get(name, "") for name in self.columns]

    @staticmethod
    def _text(lines: list[list[Any]]) -> str:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(lines)
        return text.getvalue()


class JSONLLogger(_Lines):
    """Write the figures of each epoch to a file as JSON, one object per line (``.jsonl``).

    An object holds ``epoch`` (from 1), ``step`` (all steps so far) and the figures. JSON has no NaN and no infinity;
    they are ``null``. A new training begins a new file; one that continues (``resume``, ``initial_epoch``) adds to
    the old one.

    >>> import dualnet as dn, json, pathlib, tempfile
    >>> (x, t), test = dn.data.load_digits()
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "log.jsonl"
    >>> net = dn.Sequential([dn.Flatten(), dn.Dense(10)])
    >>> history = net.fit(x, t, epochs=2, callbacks=dn.callbacks.JSONLLogger(path), verbose=0)
    >>> rows = [json.loads(line) for line in path.read_text().splitlines()]
    >>> [row["loss"] for row in rows] == history["loss"]
    True
    """

    def _read(self) -> list[Row]:
        rows = []
        for line in self.path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                row = json.loads(line)
            except ValueError:
                continue  # a line that was cut off
            if isinstance(row, dict) and isinstance(row.get("epoch"), int):
                rows.append(row)
        return rows

    def _begin(self, rows: list[Row]) -> None:
        replace_file(self.path, "".join(map(self._line, rows)).encode())

    def _add(self, row: Row) -> None:
        self._append(self._line(row))

    @staticmethod
    def _line(row: Row) -> str:
        finite = {n: None if isinstance(v, float) and not math.isfinite(v) else v for n, v in row.items()}
        return json.dumps(finite, ensure_ascii=False, allow_nan=False) + "\n"


class TensorBoard(Callback):
    """Write the figures of each epoch to a folder that TensorBoard shows: ``tensorboard --logdir FOLDER``.

    This needs tensorboardX: ``pip install "dualnet[log]"``. ``weights=True`` adds a histogram of each parameter, which
    has to be read from the device. A training that continues writes into the same folder.
    """

    writes = True

    def __init__(self, folder: str | os.PathLike[str], *, weights: bool = False) -> None:
        self.folder = Path(os.fsdecode(folder)).expanduser()
        self.weights = flag(weights, "weights", op="TensorBoard")
        self._writer: Any = None
        _tensorboard()

    def on_fit_begin(self, run: Run) -> None:
        # Hide the earlier figures of the epochs that are trained again now.
        again = {"purge_step": run.epoch + 1} if run.goes_on else {}
        self._writer = _tensorboard().SummaryWriter(str(self.folder), **again)

    def on_epoch_end(self, run: Run) -> None:
        for name, value in run.logs.items():
            self._writer.add_scalar(name, _number(value), run.epoch + 1)
        self._writer.add_scalar("learning rate", run.optimizer.current_lr, run.epoch + 1)
        for name, parameter in run.net.parameters().items() if self.weights else ():
            self._writer.add_histogram(name, to_numpy(wide(parameter.value)), run.epoch + 1)
        self._writer.flush()

    def on_fit_end(self, run: Run) -> None:
        self._writer.close()


def _tensorboard() -> Any:
    try:
        import tensorboardX
    except ImportError as error:
        raise ImportError('TensorBoard: it needs tensorboardX; pip install "dualnet[log]"') from error
    return tensorboardX


def _number(value: Any) -> Any:
    """A figure as a Python number."""
    return value.item() if hasattr(value, "item") else value
