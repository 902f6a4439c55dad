"""Figures in files: what they hold, and that they continue with the training whatever was in them."""

from __future__ import annotations

import csv
import json
import math
import sys

import pytest
from bars import bars, small

import dualnet as dn

X, T = bars(32)


def rows(path):
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def logger(path):
    return (dn.callbacks.JSONLLogger if path.suffix == ".jsonl" else dn.callbacks.CSVLogger)(path)


def train(path, epochs, first=0, *others):
    return small().fit(X, T, epochs=epochs, initial_epoch=first, callbacks=[*others, logger(path)], verbose=0)


BOTH = pytest.mark.parametrize("name", ["log.csv", "log.jsonl"])


@BOTH
def test_every_epoch_is_a_line_with_all_digits(tmp_path, name):
    history = train(tmp_path / name, 3)
    found = rows(tmp_path / name)
    assert [int(row["epoch"]) for row in found] == [1, 2, 3] and [int(row["step"]) for row in found] == [1, 2, 3]
    for figure in ("loss", "accuracy", "seconds"):
        assert [float(row[figure]) for row in found] == history[figure]


@BOTH
def test_it_is_on_the_disk_at_the_end_of_each_epoch(tmp_path, name):
    seen = []

    class Look(dn.Callback):
        def on_epoch_begin(self, run):
            seen.append(len(rows(tmp_path / name)))

    train(tmp_path / name, 3, 0, Look())
    assert seen == [0, 1, 2]


@BOTH
@pytest.mark.parametrize("damage", ["cut", "again", "garbage", "sound"])
def test_a_training_that_goes_on_goes_on_in_the_file(tmp_path, name, damage):
    path = tmp_path / name
    train(path, 3 if damage == "again" else 2)
    before = path.read_bytes()
    if damage == "cut":
        path.write_bytes(before + (b'{"epoch": 3, "lo' if name.endswith("l") else b"3,12,0."))
    elif damage == "garbage":
        path.write_bytes(before + b"\x00\xff\x00\xff\n")
    train(path, 4, 2)
    assert [int(row["epoch"]) for row in rows(path)] == [1, 2, 3, 4]
    assert path.read_bytes().startswith(before if damage != "again" else b"".join(before.splitlines(True)[:-1]))


@BOTH
def test_a_new_training_begins_a_new_file(tmp_path, name):
    train(tmp_path / name, 3)
    train(tmp_path / name, 2)
    assert [int(row["epoch"]) for row in rows(tmp_path / name)] == [1, 2]


@BOTH
def test_figures_that_come_later_and_odd_ones(tmp_path, name):
    def add(run):
        run.logs["größe, 'x'"] = float("nan")
        if run.epoch == 1:
            run.logs["late"] = math.inf

    train(tmp_path / name, 3, 0, add)
    found = rows(tmp_path / name)
    assert [row.get("late") for row in found] == (["", "inf", ""] if name == "log.csv" else [None, None, None])
    assert {row["größe, 'x'"] for row in found} == ({"nan"} if name == "log.csv" else {None})
    assert "late" in found[1]


@BOTH
def test_a_folder_that_is_not_there_is_told_before_the_first_step(tmp_path, name):
    with pytest.raises(FileNotFoundError, match="no such folder"):
        train(tmp_path / "nowhere" / name, 1)


# -- TensorBoard -------------------------------------------------------------------------------------------------------


def test_without_tensorboardx_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(ImportError, match=r'needs tensorboardX; pip install "dualnet\[log\]"'):
        dn.callbacks.TensorBoard("folder")


def test_a_writer_is_told_the_figures(tmp_path, monkeypatch):
    """The library itself is tried below, where it is installed."""
    told = []

    class SummaryWriter:
        def __init__(self, folder, **options):
            told.append(("open", folder, options))

        def __getattr__(self, name):
            return lambda *arguments: told.append((name, *arguments[:1], *arguments[2:]))

    monkeypatch.setitem(sys.modules, "tensorboardX", type("module", (), {"SummaryWriter": SummaryWriter}))
    board = dn.callbacks.TensorBoard(tmp_path, weights=True)
    small().fit(X, T, epochs=3, initial_epoch=2, callbacks=board, verbose=0)
    names = sorted(small().parameters())
    assert told[0] == ("open", str(tmp_path), {"purge_step": 3})
    assert [one for one in told if one[0] == "add_scalar"] == [
        ("add_scalar", name, 3) for name in ("loss", "accuracy", "seconds", "learning rate")
    ]
    assert sorted(one[1] for one in told if one[0] == "add_histogram") == names
    assert [one[0] for one in told[-2:]] == ["flush", "close"]


def test_tensorboard_can_read_it(tmp_path):
    pytest.importorskip("tensorboardX")
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.record_writer import masked_crc32c

    history = small().fit(X, T, epochs=2, callbacks=dn.callbacks.TensorBoard(tmp_path), verbose=0)
    (path,) = tmp_path.iterdir()
    data, found = path.read_bytes(), []
    while data:
        length = int.from_bytes(data[:8], "little")
        record = data[12 : 12 + length]
        assert int.from_bytes(data[12 + length : 16 + length], "little") == masked_crc32c(record)
        event = Event.FromString(record)
        found += [(event.step, value.tag, value.simple_value) for value in event.summary.value]
        data = data[16 + length :]
    losses = [(step, value) for step, tag, value in found if tag == "loss"]
    assert losses == [(1, pytest.approx(history["loss"][0])), (2, pytest.approx(history["loss"][1]))]
