"""The state of a program in a file: whatever is saved can be loaded, and an error names whatever cannot be saved."""

from __future__ import annotations

import math

import numpy as np
import pytest

import dualnet as dn
from dualnet.files.state import read_state, snapshot, write_state


def test_what_went_in_comes_out(tmp_path, backend):
    state = {
        "numbers": [1, 2.5, True, None, 2**63, -0.0, 1e-320],
        "words": {"name": "Größe", "": ""},
        "empty": {"list": [], "dict": {}},
        "odd": [math.inf, -math.inf],
        "many": [0.1 * k for k in range(100)] + [math.nan],
        "arrays": {"a/b": dn.asarray(np.arange(6.0).reshape(2, 3), "float64"), "a": {"b": dn.asarray([1, 2], "int64")}},
        "scalar": np.float32(0.1),
        "none": dn.asarray(np.zeros((0, 3))),
    }
    write_state(tmp_path / "state.npz", state)
    read = read_state(tmp_path / "state.npz")
    assert read["numbers"] == state["numbers"] and [type(v) for v in read["numbers"]] == [
        type(v) for v in state["numbers"]
    ]
    assert math.copysign(1, read["numbers"][5]) == -1 and read["odd"] == state["odd"]
    assert read["words"] == state["words"] and read["empty"] == state["empty"]
    assert read["many"][:100] == state["many"][:100] and math.isnan(read["many"][100])
    assert read["arrays"]["a/b"].tolist() == [[0, 1, 2], [3, 4, 5]] and read["arrays"]["a"]["b"].tolist() == [1, 2]
    assert read["arrays"]["a/b"].dtype == "float64" and read["none"].shape == (0, 3)
    assert read["scalar"] == float(np.float32(0.1))


def test_equal_states_make_equal_bytes(tmp_path):
    for name in "ab":
        write_state(tmp_path / f"{name}.npz", {"w": dn.asarray([1.0]), "n": 1})
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


@pytest.mark.parametrize("odd", [print, {1: 2}, {1, 2}, b"bytes", object()])
def test_what_a_file_cannot_hold_is_named_and_nothing_is_written(tmp_path, odd):
    with pytest.raises(TypeError, match="state/a/1 is .*; a checkpoint holds numbers"):
        write_state(tmp_path / "state.npz", {"a": [0, odd]})
    assert list(tmp_path.iterdir()) == []


def test_a_network_is_no_state_and_a_state_no_network(tmp_path):
    path = dn.Sequential([dn.Dense(1)]).init((1,)).save(tmp_path / "net.npz")
    with pytest.raises(dn.CheckpointError, match="its description has no state"):
        read_state(path)
    write_state(tmp_path / "state.npz", {"a": 1})
    with pytest.raises(dn.CheckpointError, match="its description has no layers"):
        dn.load(tmp_path / "state.npz")


def test_a_state_that_means_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("dualnet.files.state._packed", lambda *_: {"code": "print(1)"})
    write_state(tmp_path / "state.npz", {})
    with pytest.raises(dn.CheckpointError, match="the state holds 'code'"):
        read_state(tmp_path / "state.npz")


def test_a_snapshot_stays_as_it_was():
    state = {"list": [1], "dict": {"list": [2]}, "array": np.zeros(1)}
    kept = snapshot(state)
    state["list"].append(3)
    state["dict"]["list"].clear()
    assert kept["list"] == [1] and kept["dict"]["list"] == [2] and kept["array"] is state["array"]
