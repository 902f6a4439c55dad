"""What is measured on this machine, beside the prediction."""

from __future__ import annotations

import tracemalloc

import pytest

import dualnet as dn
from dualnet.bench.scaling import check, here, measured, rank


def test_a_line_through_two_batches(monkeypatch):
    rows = [{"min_ms": 14.0}, {"min_ms": 26.0}]
    monkeypatch.setattr(here, "measure", lambda nets, **options: {"results": rows})
    per_image, fixed = measured(dn.models.lenet5().init((28, 28, 1)))
    assert per_image == pytest.approx(1e-3) and fixed == pytest.approx(10e-3)


def test_a_network_that_cannot_be_measured_says_what_to_do(monkeypatch):
    monkeypatch.setattr(here, "measure", lambda nets, **options: {"results": [{"failed": "no memory"}]})
    with pytest.raises(ValueError, match=r"cannot be measured here \(no memory\); give its time with --step-seconds"):
        measured(dn.models.lenet5().init((28, 28, 1)))


def test_two_ranks_of_this_machine():
    found = check("digits_cnn", None, 2, 8)
    one, two = found.rows
    assert (one["ranks"], two["ranks"]) == (1, 2) and one["predicted"] == pytest.approx(one["measured"])
    assert two["predicted"] > 0 and two["measured"] > 0 and 0 < two["waiting"] < 1
    assert 1e-7 < two["latency"] < 1 and 1e6 < two["bandwidth"] < 1e12
    assert found.work.parameters == 94_314 and found.data()["rows"] == found.rows
    assert "predicted / measured" in str(found) and len(str(found).splitlines()) == 6


def test_a_check_holds_one_batch_in_memory_and_not_all():
    """On each of 64 ranks, 12 batches of all of them would be 64 times as much as it trains with."""
    net = dn.Sequential([dn.Flatten(), dn.Dense(2)]).init((128, 128, 1), seed=0)
    tracemalloc.start()
    try:
        x, t = rank.examples((128, 128, 1), 192, 2)
        net.fit(x, t, batch_size=2, verbose=0)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert x.shape == (192, 128, 128, 1) and t.shape == (192,) and peak < x.nbytes / 3


def test_what_cannot_be_checked():
    with pytest.raises(ValueError, match="check: expected one of the models with classes, digits_cnn, .*; got 'unet'"):
        check("unet", None, 2, 8)
