"""Measuring beside peers that compute the same, and beside peers that fail. No test depends on how long a step took."""

from __future__ import annotations

import importlib.util
import json
import sys

import numpy as np
import pytest
from benching import QUICK, honest

import dualnet as dn
from dualnet import bench
from dualnet.bench import measure


def test_a_peer_that_computes_the_same(fake, tiny):
    fake(honest(), variants=("slow", "fast"))
    lines: list[str] = []
    result = bench.run([tiny], batches=[5], against=["fake"], **{**QUICK, "rounds": 2}, tell=lines.append)
    rows = result["results"]
    assert [(row["mode"], row["program"], row["variant"]) for row in rows] == [
        (mode, *who) for mode in measure.MODES for who in [("dualnet", ""), ("fake", "slow"), ("fake", "fast")]
    ]
    for ours, *theirs in (rows[:3], rows[3:]):
        assert all("differs" not in row and len(row["rounds"]) == 2 for row in theirs)
        assert np.allclose(ours["values"], theirs[0]["values"], rtol=1e-5)
        assert len(set(ours["values"])) == (3 if ours["mode"] == "training" else 1)  # the loss moves
        ratio = next(r for r in result["ratios"] if r["mode"] == ours["mode"])
        best = min(theirs, key=lambda row: row["min_ms"])
        assert ratio["variant"] == best["variant"] and ratio["speed"] == best["min_ms"] / ours["min_ms"]
        assert ours["min_ms"] == min(one["min_ms"] for one in ours["rounds"]) > 0
    turns = [line.split(": ")[1] for line in lines if "training, round" in line]
    assert turns == ["dualnet", "fake slow", "fake fast", "fake fast", "fake slow", "dualnet"]  # to and fro
    assert result["programs"]["fake"]["facts"]["limits"] == ["1"] * len(measure.LIMITS)
    assert "ran" in rows[0] and rows[0]["ran"]
    json.dumps(result, allow_nan=False)
    assert not bench.wrong(result)


def test_peers_that_fail(fake, tiny):
    """One is not installed, one computes something else, others fail: the result names each, and the rest goes on."""
    fake(honest(), "absent", library="no_such_library")
    fake(honest(sign=-1), "wrong")
    for name, body in (
        ("raises", "raise ValueError('no room')"),
        ("dies", "import os; os._exit(3)"),
        ("babbles", "import os; os.write(1, b'hello'); os._exit(0)"),
    ):
        fake(f"def facts(task):\n    return {{}}\ndef build(task, x, t, weights):\n    {body}\n", name)
    peers = ["absent", "wrong", "raises", "dies", "babbles"]
    result = bench.run([tiny], batches=[5], modes=["training"], against=peers, **QUICK)
    rows = {row["program"]: row for row in result["results"]}
    text = bench.markdown(result)
    assert "min_ms" in rows["dualnet"] and result["ratios"] == [] and bench.wrong(result)
    assert "absent: left out, no_such_library cannot be imported (ModuleNotFoundError" in text
    assert text.count("left out") == 1
    assert "tiny, batch 5, training, wrong: no ratio, since: wrong computes [" in text
    assert rows["raises"]["failed"] == "ValueError: no room"
    assert rows["dies"]["failed"] == "ended with exit code 3"
    assert rows["babbles"]["failed"] == "no answer, but 'hello'"
    assert "tiny, batch 5, training, dies: failed: ended with exit code 3" in text
    assert not bench.wrong({**result, "results": [rows["dualnet"], rows["absent"]]})  # being left out is not a failure
    assert bench.wrong({**result, "results": [rows["wrong"]]}) and bench.wrong({**result, "results": [rows["dies"]]})


def test_a_peer_that_never_answers(monkeypatch):
    monkeypatch.setattr(measure, "LONGEST", 0.001)
    answer = measure.Bench({}, 1, 0.0, 1, 0, print).ask("dualnet", {"measure": "import"})
    assert answer == {"failed": "no answer within 0.001 s"}


def test_networks_that_peers_do_not_know_are_measured_alone(fake):
    fake(honest())
    net = dn.Sequential([dn.Flatten(), dn.Dense(3), dn.Tanh()]).init((2, 3, 2))
    ours, theirs = bench.run([net], batches=[2], modes=["inference"], against=["fake"], **QUICK)["results"]
    assert ours["net"] == "Sequential" and "min_ms" in ours and theirs["skipped"] == "the peers' steps have no Tanh"


@pytest.mark.parametrize("peer", [name for name in measure.PROGRAMS if name != "dualnet"])
def test_the_peers_compute_what_dualnet_does(peer):
    """Loss before and after two updates, and outputs, for everything that the peers' steps know."""
    if importlib.util.find_spec(measure.PROGRAMS[peer].library) is None:
        pytest.skip(f"{measure.PROGRAMS[peer].library} is not installed")
    block = dn.Sequential([dn.Conv2D(4, 3, stride=2, padding=1, use_bias=False), dn.BatchNorm()])
    projection = dn.Sequential([dn.Conv2D(4, 1, stride=2), dn.BatchNorm()])
    maps = [dn.Conv2D(4, 3), dn.ReLU(), dn.Residual(block, projection), dn.Residual(dn.ReLU()), dn.MaxPool2D(2)]
    first = dn.Sequential([*maps, dn.Sequential([dn.Flatten(), dn.ReLU()]), dn.Dense(5)]).init((10, 14, 2), seed=1)
    again = dn.Sequential([dn.Conv2D(4, 3), dn.GlobalAveragePool2D(), dn.Dense(3)]).init((5, 5, 2), seed=1)
    result = bench.run([first, again], batches=[3], against=[peer], **QUICK)
    assert len(result["ratios"]) == 4 and not bench.wrong(result), bench.markdown(result)


def test_it_runs_on_the_backend_in_force(backend, tiny):
    result = bench.run([tiny], batches=[2], modes=["training"], layers=True, **QUICK)
    assert result["programs"]["dualnet"]["facts"]["backend"] == backend == result["settings"]["backend"]
    (shares,) = result["layers"]
    assert [row["layer"] for row in shares["rows"]] == ["Flatten", "Dense"]


def test_two_networks_of_one_name_stay_apart(tiny, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    twin = dn.Sequential([dn.Dense(2)]).init((4,)).save(other / "tiny.npz")
    result = bench.run([tiny, str(twin)], batches=[1], modes=["inference"], **QUICK)
    assert [row["net"] for row in result["results"]] == ["tiny", "tiny (2)"]


def test_programmatic_mistakes():
    for wrong in ({"nets": "lenet5"}, {"against": "torch"}, {"batches": ["1"]}, {"rounds": 1.5}, {"seconds": "1"}):
        with pytest.raises(TypeError):
            bench.run(**{"nets": ["lenet5"], **wrong})
    for wrong in ({"batches": [0]}, {"modes": ["both"]}, {"seconds": -1}, {"threads": 0}, {"seed": -1}):
        with pytest.raises(ValueError):
            bench.run(["lenet5"], **wrong)
    with pytest.raises(ValueError, match="no parameters yet"):
        bench.run([dn.Sequential([dn.ReLU()])])


def test_measured_processes_use_this_python():
    assert measure.Bench({}, 1, 0.0, 1, 0, print).pythons == {"dualnet": sys.executable}
