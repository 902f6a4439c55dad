"""The plan: where efficiency falls, why, and what helps."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dualnet.bench.scaling import Links, Work, plan, step

WORK = Work("net", ((2_500_000, 1),) * 10, per_image=1e-3, image_bytes=3072, variation=0.0)
SLOW = Links(latency=1e-6, bandwidth=1e9)


def test_efficiency_is_images_per_second_over_those_of_one_rank():
    found = plan(WORK, ranks=12, batch=32, links=SLOW, reduction="ring")
    assert [one.ranks for one in found.steps] == [1, 2, 4, 8, 12] and found.efficiencies[0] == 1.0
    alone, last = found.steps[0].seconds, step(WORK, 32, 12, SLOW, "ring").seconds
    assert found.efficiency == pytest.approx(alone / last)


def test_one_rank_is_a_plan_too():
    found = plan(WORK, ranks=1, batch=32, links=SLOW)
    assert found.efficiencies == [1.0] and found.below(0.8) is None and found.cause == "" and found.advice == []
    assert "100.0%" in str(found)


def test_where_it_falls_and_why():
    found = plan(WORK, ranks=256, batch=64, links=SLOW, reduction="ring")
    below = [one.ranks for one, share in zip(found.steps, found.efficiencies) if share < 0.8]
    assert found.below(0.8).ranks == below[0] and found.cause == "transfer"
    assert f"falls below 80% at {below[0]} ranks" in str(found)
    late = plan(WORK, ranks=256, batch=64, links=Links(latency=1e-2, bandwidth=1e15), reduction="ring")
    assert late.cause == "latency"
    assert plan(replace(WORK, variation=0.2), ranks=64, batch=64, links=Links(1e-9, 1e15)).cause == "waiting"
    assert plan(replace(WORK, supply=1e6), ranks=64, batch=64, links=Links(1e-9, 1e15)).cause == "starving"


def test_a_fixed_cost_is_told_where_the_batch_is_shared():
    heavy = replace(WORK, fixed=0.05)
    found = plan(heavy, ranks=64, global_batch=256, links=Links(1e-9, 1e15))
    assert found.cause == "fixed" and found.efficiency == pytest.approx((0.05 + 0.256) / 64 / (0.05 + 0.004), rel=1e-3)


def test_each_advice_is_what_the_change_would_bring():
    found = plan(WORK, ranks=64, batch=16, links=SLOW, reduction="tree")
    advice = dict(found.advice)
    halved = plan(replace(WORK, gradient_bytes=2), ranks=64, batch=16, links=SLOW, reduction="tree").efficiency
    larger = plan(WORK, ranks=64, batch=64, links=SLOW, reduction="tree").efficiency
    assert advice["gradients in 16 bits"] == pytest.approx(halved)
    assert advice["a larger batch, 64 images on each rank"] == pytest.approx(larger)
    *useful, (last, share) = found.advice
    assert [share for _, share in useful] == sorted((share for _, share in useful), reverse=True)
    assert last.startswith("fewer ranks") and share >= found.efficiency


def test_no_advice_where_none_is_needed():
    assert plan(WORK, ranks=4, batch=4096, links=Links()).advice == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"ranks": 4}, "give either batch"),
        ({"ranks": 4, "batch": 2, "global_batch": 8}, "give either batch"),
        ({"ranks": 9, "global_batch": 8}, "9 ranks cannot share 8 images in a step; use at most 8 ranks"),
        ({"ranks": 0, "batch": 2}, "ranks must be a whole number of at least 1"),
        ({"ranks": 2, "batch": 0}, "batch must be at least 1"),
        ({"ranks": 2, "batch": 2, "reduction": "star"}, "unknown way 'star'"),
    ],
)
def test_mistakes(options, words):
    with pytest.raises(ValueError, match=words):
        plan(WORK, **options)
