"""Schedules against values worked out by hand (and PyTorch's, for the cycle)."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

import dualnet as dn
from dualnet.optimizers import schedules
from dualnet.optimizers.schedules import Cosine, OneCycle, Plateau, Step, Warmup


def values(schedule, *steps):
    return [schedule(step) for step in steps]


def test_step():
    assert values(Step(0.5, 10, factor=0.5), 0, 9, 10, 19, 20, 30) == [0.5, 0.5, 0.25, 0.25, 0.125, 0.0625]
    assert values(Step(1.0, at=[7, 3], factor=0.5), 0, 2, 3, 6, 7, 99) == [1.0, 1.0, 0.5, 0.5, 0.25, 0.25]
    assert Step(1.0, 5)(5) == pytest.approx(0.1)


def test_cosine():
    schedule = Cosine(2.0, steps=6, final=1.0)
    assert values(schedule, 0, 2, 3, 4, 6, 60) == pytest.approx([2.0, 1.75, 1.5, 1.25, 1.0, 1.0], abs=1e-15)


def test_one_cycle():
    # torch.optim.lr_scheduler.OneCycleLR(opt, 1.0, total_steps=10, pct_start=0.4, div_factor=10, final_div_factor=10)
    wanted = [0.1, 0.325, 0.775, 1.0, 0.9336825748732973, 0.7525, 0.505, 0.2575, 0.07631742512670287, 0.01]
    schedule = OneCycle(1.0, steps=10, warm=0.4, start=0.1, final=0.01)
    assert values(schedule, *range(10)) == pytest.approx(wanted, rel=1e-12)
    assert schedule(50) == pytest.approx(0.01)
    assert values(OneCycle(1.0, 1), 0, 1) == [1.0, 1e-4]
    assert values(OneCycle(1.0, 5, warm=1.0, start=0.5), 0, 4) == [0.5, 1.0]
    assert values(OneCycle(1.0, 5, warm=0.0, final=0.5), 0, 4) == [1.0, 0.5]


def test_warmup():
    assert values(Warmup(0.5, steps=4, start=0.5), 0, 2, 4, 9) == [0.25, 0.375, 0.5, 0.5]
    schedule = Warmup(Step(1.0, every=10, factor=0.5), steps=5)
    assert values(schedule, 0, 1, 4, 5, 14, 15, 25) == [0.0, 0.2, 0.8, 1.0, 1.0, 0.5, 0.25]
    assert Warmup(lambda step: 3.0 + step, steps=2)(4) == 5.0


def test_plateau():
    schedule = Plateau(1.0, factor=0.5, patience=2, minimum=0.2, threshold=0.1)
    rates = []
    for loss in (10.0, 9.5, 9.2, 8.0, 8.0, 7.9, 7.9, 7.9, 7.9, float("nan"), 7.9, 7.9, 1.0, -1.0, -1.05, -1.2):
        schedule.observe(loss)
        rates.append(schedule(0))
    # 9.5 and 9.2 are within a tenth of 10: no better. 8.0 is. Then every third epoch that is no better halves the rate.
    assert rates == [1.0] * 6 + [0.5] * 3 + [0.25] * 3 + [0.25] * 4
    for _ in range(9):
        schedule.observe(5.0)
    assert schedule(0) == 0.2, "below the minimum"
    frozen = Plateau(0.1, patience=0, minimum=0.5)
    frozen.observe(1.0), frozen.observe(1.0)
    assert frozen(0) == 0.1, "the minimum may not raise the rate"


@pytest.mark.parametrize(
    "losses, better",
    [
        ([10.0, 9.1, 9.0, 8.9], [True, False, False, True]),  # a tenth of 10 is 1
        ([-10.0, -10.9, -11.0, -11.1, -12.2, -12.22], [True, False, False, True, False, True]),  # and below 0
        ([1.0, 0.0, -1e-9, -1.0], [True, True, True, True]),  # of a best of 0 the fraction is 0
        ([-1.0, -0.9, -0.5, 1.0], [True, False, False, False]),  # nearer to 0 is worse
        ([math.inf, 1e300, math.nan, 1e299], [False, True, False, True]),
    ],
)
def test_what_a_plateau_counts_as_better(losses, better):
    schedule = Plateau(1.0, factor=0.5, patience=0, threshold=0.1)
    for loss, wanted in zip(losses, better, strict=True):
        before = schedule(0)
        schedule.observe(loss)
        assert (schedule(0) == before) is wanted and schedule(0) in (before, before / 2), loss


def test_rates_whose_parts_leave_the_range_of_floats():
    """The product is right where the power alone is too large or too small, and no rate is infinite in silence."""
    assert Step(1e-300, 1, factor=10.0)(310) == pytest.approx(1e10, rel=1e-12)
    assert Step(1e300, 1, factor=0.1)(330) == pytest.approx(1e-30, rel=1e-12)
    assert Step(0.0, 1, factor=10.0)(400) == Step(1.0, 1, factor=0.0)(400) == Step(1.0, 1, factor=0.1)(400) == 0
    assert Step(1.0, 1, factor=0.0)(0) == 1.0
    for schedule in (Step(0.1, 1, factor=10.0), Warmup(Step(0.1, 1, factor=10.0), 1), Step(1e300, 1, factor=10.0)):
        with pytest.raises(ValueError, match="rate at step 500 must be a finite number of at least 0, got inf"):
            dn.optimizers.schedules.rate_at(schedule, 500, op="SGD") if isinstance(schedule, Step) else schedule(501)
    top = 1.7e308
    assert Cosine(top, 10)(0) == top and Cosine(top, 10, final=1e308)(10) == 1e308
    assert OneCycle(top, 10)(2) == top and Warmup(top, 10)(10) == top


def test_plateau_goes_on_where_it_was():
    losses = [3.0, 2.0, 2.0, 2.0, 2.0, 1.0, 1.0, 1.0, 1.0]
    whole = Warmup(Plateau(1.0, factor=0.5, patience=1), steps=3)
    for place, loss in enumerate(losses):
        if place == 3:
            state = json.loads(json.dumps(whole.state_dict()))
            other = Warmup(Plateau(1.0, factor=0.5, patience=1), steps=3)
            other.load_state_dict(state)
        whole.observe(loss)
        if place >= 3:
            other.observe(loss)
            assert values(other, 0, 2, 7) == values(whole, 0, 2, 7)
    assert whole(7) == 0.25
    json.dumps(Plateau(1.0).state_dict(), allow_nan=False)
    for state in ({"now": 1.0}, {"now": 1.0, "waited": 0, "more": 1}, {"now": -1.0, "waited": 0}):
        with pytest.raises(ValueError, match="Plateau"):
            Plateau(1.0).load_state_dict(state)
    for still in (Cosine(1.0, 3), Warmup(1.0, 3), Warmup(Cosine(1.0, 3), 3)):
        still.observe(1.0)
        assert still.state_dict() == {}
        still.load_state_dict({})
    with pytest.raises(ValueError, match="has no state"):
        Cosine(1.0, 3).load_state_dict({"now": 1.0})


EXAMPLES = [
    Step(0.5, 10),
    Step(0.5, at=[3, 9], factor=0.2),
    Cosine(0.1, 100, final=0.01),
    OneCycle(0.1, 100),
    Warmup(0.1, 10),
    Warmup(Cosine(0.1, 90), 10, start=0.1),
    Plateau(0.1, patience=7),
]


@pytest.mark.parametrize("schedule", EXAMPLES, ids=repr)
def test_config_makes_it_again(schedule):
    written = json.loads(json.dumps(schedule.config()))
    again = schedules.from_config(written)
    assert again == schedule and type(again) is type(schedule) and again is not schedule
    assert values(again, *range(0, 120, 7)) == values(schedule, *range(0, 120, 7))
    assert eval(repr(schedule), vars(schedules)) == schedule


@pytest.mark.parametrize("config", [None, {}, {"name": "Sine"}, {"name": "Cosine", "lr": 1, "steps": 1, "stop": 2}])
def test_unknown_config(config):
    with pytest.raises(ValueError, match="Cosine"):
        schedules.from_config(config)


@pytest.mark.parametrize("bad", [None, "fast", float("nan"), float("inf"), -1, (1, 2), [], ..., True], ids=repr)
def test_constructors_refuse(bad):
    for kind, arguments in (
        (Step, {"lr": bad, "every": 1}),
        (Step, {"lr": 1, "every": bad}),
        (Step, {"lr": 1, "every": 1, "factor": bad}),
        (Step, {"lr": 1, "at": [bad]}),
        (Cosine, {"lr": bad, "steps": 1}),
        (Cosine, {"lr": 1, "steps": bad}),
        (Cosine, {"lr": 1, "steps": 1, "final": bad}),
        (OneCycle, {"lr": 1, "steps": bad}),
        (OneCycle, {"lr": 1, "steps": 1, "warm": bad}),
        (Warmup, {"schedule": bad, "steps": 1}),
        (Warmup, {"schedule": 1.0, "steps": bad}),
        (Plateau, {"lr": 1, "patience": bad}),
        (Plateau, {"lr": 1, "threshold": bad}),
    ):
        with pytest.raises((TypeError, ValueError), match=f"{kind.__name__}: "):
            kind(**arguments)


def test_more_refusals():
    with pytest.raises(ValueError, match="pass either"):
        Step(1.0)
    with pytest.raises(ValueError, match="pass either"):
        Step(1.0, 3, at=[4])
    with pytest.raises(TypeError, match="list of steps"):
        Step(1.0, at=4)
    with pytest.raises(ValueError, match="from 0 to 1, got 30"):
        OneCycle(1.0, 10, warm=30)
    with pytest.raises(TypeError, match="write Cosine"):
        Warmup(Cosine, 10)
    with pytest.raises(ValueError, match="rate at step"):
        Warmup(lambda step: math.nan, 1)(5)
    with pytest.raises(TypeError, match="Plateau"):
        Plateau(1.0).observe("low")
    with pytest.raises(TypeError, match="defines no"):
        schedules.Schedule()(0)


def test_rates_are_python_floats():
    for schedule in (
        Step(np.float64(0.1), np.int64(3)),
        Cosine(np.float32(0.1), np.int64(3)),
        OneCycle(np.float64(0.1), np.int64(9)),
        Warmup(np.float64(0.1), np.int64(3)),
        Warmup(lambda step: np.float64(0.1), 3),
        Plateau(np.float64(0.1), factor=np.float64(0.1)),
    ):
        assert {type(schedule(np.int64(step))) for step in range(12)} <= {float}, schedule
    assert dn.schedules is schedules
