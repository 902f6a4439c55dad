"""R ranks against one: what agrees, and mistakes that are found."""

from __future__ import annotations

import copy

import pytest

import dualnet as dn
from dualnet.parity.ranks import command, controls, judging
from dualnet.parity.ranks.subjects import SUBJECTS

STEPS = 2
SMALL = {"timeout": 120.0, "bucket_bytes": 2**15}


def compared(ranks: int, networks: list[str], steps: int = STEPS):
    """What so many ranks find, as threads of this process."""
    return dn.distributed.run_in_threads(lambda one: judging.of_rank(one, networks, steps, seed=0), ranks, **SMALL)


@pytest.fixture(scope="module")
def found():
    return compared(2, list(SUBJECTS))


@pytest.fixture
def changed(found):
    """A copy, to be falsified."""
    return copy.deepcopy(found)


def wrong(found) -> set[str]:
    return {f"{row['network']}: {row['compared']}" for row in judging.judge(found)["rows"] if not row["ok"]}


def test_two_ranks_agree_with_one(found):
    rows = judging.judge(found)["rows"]
    assert wrong(found) == set()
    assert {row["network"] for row in rows} == {subject.title for subject in SUBJECTS.values()}
    of = {row["compared"] for row in rows if row["network"] == SUBJECTS["resnet20"].title}
    assert {"loss, each step", "gradients, each step", "weights, each step", "statistics, each step"} <= of
    assert {"weights, free", "bits, run to run", "bits, rank to rank"} <= of


def test_parts_that_are_added_up_in_order_have_the_same_bits(found):
    assert found[0]["networks"]["lenet5"]["bits"] == found[1]["networks"]["lenet5"]["bits"] == [True] * STEPS


def test_three_ranks_agree_with_one_too():
    """16 images on 3 ranks are no even parts; where bits are compared, each rank has 5."""
    found = compared(3, ["dropped", "lenet5"])
    assert wrong(found) == set() and found[0]["networks"]["lenet5"]["bits"] == [True] * STEPS


def test_the_short_last_batch_is_among_the_steps():
    found = dn.distributed.run_in_threads(
        lambda one: judging.of_rank(one, ["dropped"], 7, 0, controls=False), 2, **SMALL
    )
    images = [[step["images"] for step in one["networks"]["dropped"]["close"]] for one in found]
    assert sorted(together for together in zip(*images)) == [(2, 3), *[(8, 8)] * 6] and wrong(found) == set()


def test_every_mistake_is_found(found):
    caught = judging.judge(found)["controls"]
    assert {control["mistake"] for control in caught} == set(controls.CONTROLS)
    assert all(control["found"] and control["ratio"] > 1e3 for control in caught)


@pytest.mark.parametrize("mistake", controls.CONTROLS)
def test_a_training_with_a_mistake_fails_wherever_it_shows(found, changed, mistake):
    """The numbers of a training with the mistake in place of the right ones: the table says FAIL."""
    name = controls.CONTROLS[mistake]
    for one in changed:
        network = one["networks"][name]
        network["close"] = next(c["close"] for c in one["controls"] if c["mistake"] == mistake)
    failed = wrong(changed)
    assert f"{SUBJECTS[name].title}: gradients, each step" in failed
    assert f"{SUBJECTS[name].title}: loss, each step" not in failed or mistake == "unsynchronised statistics"


def test_a_mistake_that_is_none_makes_the_verdict_invalid(monkeypatch):
    monkeypatch.setattr(controls, "_wrong", lambda ranks, mistake, right: right)
    data = judging.judge(compared(2, ["lenet5"]))
    reasons = list(command._reasons(data, ["lenet5"], judging.STEPS))
    assert ("INVALID", "a lost bucket in LeNet-5 was not noticed") in reasons
    assert command.verdict(reasons) == "INVALID"


@pytest.mark.parametrize("result", ["gradients", "weights", "statistics"])
def test_one_step_of_one_rank_that_is_off_is_seen(changed, result):
    changed[1]["networks"]["resnet20"]["close"][1][result] = 1e-12
    assert wrong(changed) == {f"{SUBJECTS['resnet20'].title}: {result}, each step"}


def test_a_loss_that_is_off_is_seen(changed):
    changed[1]["networks"]["lenet5"]["close"][0]["loss"] *= 1 + 1e-12
    assert wrong(changed) == {"LeNet-5: loss, each step"}


def test_nan_is_no_agreement(changed):
    changed[0]["networks"]["lenet5"]["close"][0]["gradients"] = float("nan")
    assert wrong(changed) == {"LeNet-5: gradients, each step"}


@pytest.mark.parametrize(
    ("key", "value", "row"),
    [
        ("repeats", [True, False], "bits, run to run"),
        ("bits", [False, True], "bits, parts added in order"),
        ("digests", ["other"] * 2 * STEPS, "bits, rank to rank"),
        ("free", [0.0, 1e-9], "weights, free"),
    ],
)
def test_other_bits_are_seen(changed, key, value, row):
    changed[1]["networks"]["lenet5"][key] = value
    assert wrong(changed) == {f"LeNet-5: {row}"}
