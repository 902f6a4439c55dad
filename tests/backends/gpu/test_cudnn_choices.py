"""Choices of cuDNN's plans in a file: the next process need not time anything again, and a different machine does not
use them."""

from __future__ import annotations

import json
from collections import Counter

import fake_cudnn
import pytest
from fake_cudnn import agree, asked

import dualnet as dn
from dualnet.backends.gpu import cudnn_choices, cudnn_library, cudnn_plans


@pytest.fixture
def path(world, tmp_path, monkeypatch):
    """The file, named as a user names it."""
    monkeypatch.setenv("DUALNET_CUDNN_AUTOTUNE", str(tmp_path / "plans.json"))
    return tmp_path / "plans.json"


def next_process():
    for kept in (cudnn_plans._choices, cudnn_plans._of_thread.plans, cudnn_plans.reasons):
        kept.clear()


def everything(small):
    at, x, w, b, dy = small
    return [
        agree("correlate", x, w, b, at, 1, True, K=72),
        agree("correlate_inputs", dy, w, at, K=36),
        agree("correlate_filters", x, dy, at, K=60),
    ]


def test_the_next_process_times_nothing_and_runs_the_same_plans(world, small, path):
    first = everything(small)
    counted, zeros = Counter(world.counted), world.cupy.now.called["zeros"]
    next_process()
    executed = len(world.executed)
    again = everything(small)
    assert world.counted["waits"] == counted["waits"] > 0 and world.cupy.now.called["zeros"] == zeros
    ran = [(kind, engine) for kind, engine, _ in world.executed[executed:]]  # one call of each, none to try out
    assert ran == [("forward+bias+relu", "eng_good"), ("inputs", "eng_good"), ("filters", "eng_good")]
    assert world.counted["built"] == counted["built"] + 3
    assert [a.tobytes() for a in again] == [a.tobytes() for a in first]


def test_the_file_says_which_engine_each_shape_has(world, small, path):
    everything(small)
    ((machine, choices),) = json.loads(path.read_text("utf-8")).items()
    assert machine == "Pretend H000, cuDNN 9.19.0, frontend 1.28.0, DUALNET_CUDNN=1"
    assert [choice["engine"] for choice in choices.values()] == ["eng_good"] * 3
    assert all("Windows(" in shape and "way='" in shape for shape in choices)
    assert list(path.parent.iterdir()) == [path]  # nothing is left beside it


def test_what_is_faster_without_cudnn_is_kept_too(world, small, path, monkeypatch):
    at, x, w, b, _ = small
    monkeypatch.setattr(fake_cudnn, "LAUNCH", 0.0)
    world.product = 0.0
    assert asked("correlate", x, w, b, at) is NotImplemented
    next_process()
    executed, graphs = len(world.executed), len(world.graphs)
    assert asked("correlate", x, w, b, at) is NotImplemented
    assert (len(world.executed), len(world.graphs)) == (executed, graphs)
    assert list(cudnn_plans.reasons.values()) == ["faster without"]


@pytest.mark.parametrize("other", ["device", "cuDNN", "switch", "precision"])
def test_choices_of_another_machine_or_precision_are_not_taken(world, small, path, monkeypatch, other):
    at, x, w, _, _ = small
    agree("correlate", x, w, None, at, K=72)
    next_process()
    if other == "device":
        monkeypatch.setattr(world.cupy.cuda.runtime, "getDeviceProperties", lambda number: {"name": b"Another"})
    elif other == "cuDNN":
        world.version = 92000
    elif other == "switch":
        monkeypatch.setenv("DUALNET_CUDNN", "all")
    else:
        dn.set_precision("tf32")
    waits = world.counted["waits"]
    asked("correlate", x, w, None, at)
    assert world.counted["waits"] > waits
    found = json.loads(path.read_text("utf-8"))
    assert sum(map(len, found.values())) == 2  # beside the first one


@pytest.mark.parametrize("plans", [fake_cudnn.PLANS[::-1], fake_cudnn.PLANS[:-2], [("eng_plain", "", 9e-6)]])
def test_a_plan_that_is_not_in_its_place_is_chosen_anew(world, small, path, monkeypatch, plans):
    at, x, w, _, _ = small
    agree("correlate", x, w, None, at, K=72)
    next_process()
    monkeypatch.setattr(fake_cudnn, "PLANS", plans)
    agree("correlate", x, w, None, at, K=72)
    kept = json.loads(path.read_text("utf-8"))
    assert [c["engine"] for c in next(iter(kept.values())).values()] == [world.executed[-1][1]]


def test_a_file_cannot_bring_in_a_plan_that_may_not_be_chosen(world, small, path):
    at, x, w, _, _ = small
    agree("correlate", x, w, None, at, K=72)
    text = path.read_text("utf-8")
    place = [name for name, _, _ in fake_cudnn.PLANS].index("eng_winograd")
    good = [name for name, _, _ in fake_cudnn.PLANS].index("eng_good")
    path.write_text(text.replace("eng_good", "eng_winograd").replace(f'"place": {good}', f'"place": {place}'), "utf-8")
    next_process()
    with pytest.raises(RuntimeError, match="deselected"):
        asked("correlate", x, w, None, at)


def test_processes_share_a_file(path):
    for shape in ("a", "b"):
        cudnn_choices.keep(path, "one", shape, {"without": "slow"})
    cudnn_choices.keep(path, "another", "a", {"without": "slow"})
    assert cudnn_choices.kept(path, "one").keys() == {"a", "b"} and cudnn_choices.kept(path, "none") == {}


@pytest.mark.parametrize("text", ["{", "[]", '{"machine": 1}', ""])
def test_a_file_of_something_else_is_an_error(world, small, path, text):
    at, x, w, _, _ = small
    path.write_text(text, "utf-8")
    with pytest.raises(ValueError, match=r"DUALNET_CUDNN_AUTOTUNE=.*plans.json holds no choices of plans; delete"):
        asked("correlate", x, w, None, at)
    assert path.read_text("utf-8") == text


def test_a_folder_that_is_not_there_is_an_error(world, small, path, monkeypatch):
    at, x, w, _, _ = small
    monkeypatch.setenv("DUALNET_CUDNN_AUTOTUNE", str(path.parent / "missing" / "plans.json"))
    with pytest.raises(OSError, match="plans.json: No such file or directory; name a file that can be written"):
        asked("correlate", x, w, None, at)


def test_the_switch(monkeypatch):
    for value, tunes, name in (
        ("", True, None), ("1", True, None), ("0", False, None), (" 0 ", False, None), ("a.json", True, "a.json"),
    ):  # fmt: skip
        monkeypatch.setenv("DUALNET_CUDNN_AUTOTUNE", value)
        assert cudnn_choices.tuning() is tunes
        assert (cudnn_choices.file() and str(cudnn_choices.file())) == name
    monkeypatch.setenv("DUALNET_CUDNN_AUTOTUNE", "yes")
    with pytest.raises(ValueError, match="must be 0, 1 or a file whose name ends in .json, got 'yes'"):
        cudnn_choices.file()


def test_without_a_file_nothing_is_written(world, small, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    everything(small)
    assert list(tmp_path.iterdir()) == [] and cudnn_library.asked() == "1"
