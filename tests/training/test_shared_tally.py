"""A tally of all ranks: the sums of one process, in figures and in a checkpoint."""

from __future__ import annotations

import numpy as np
import pytest
from distributing import in_ranks

import dualnet as dn
from dualnet.training.metrics import metrics_of
from dualnet.training.several import LossOfSeveral, tally_of
from dualnet.training.shared_tally import SharedTally
from dualnet.training.tally import Tally

RNG = np.random.default_rng(0)
Y, T = RNG.normal(size=(20, 3)), RNG.integers(0, 3, 20)
CUTS = [0, 9, 9, 20]  # rank 1 has nothing


def tally(metrics=("f1", "top2")):
    y, t = dn.asarray(Y), dn.asarray(T)
    loss = dn.losses.softmax_cross_entropy
    return Tally(loss, metrics=metrics_of("fit", list(metrics), loss, y, t))


def shared(ranks, make, into=None):
    found = SharedTally(ranks, make())
    if into is not None:
        found.load_state_dict(into)
    for start, stop in ((0, 12), (12, 20)):
        first, last = (min(max(CUTS[ranks.rank + k], start), stop) for k in (0, 1))
        found.add(dn.asarray(Y[first:last]), dn.asarray(T[first:last]), None)
        found.gather(dn.get_backend())
    return found.figures(), found.glance(), found.state_dict()


def alone(make, times=1):
    expected = make()
    for _ in range(times):
        expected.add(dn.asarray(Y), dn.asarray(T), None)
    return expected


def test_figures_are_those_of_one_process():
    expected = alone(tally)
    for figures, glance, state in in_ranks(3, lambda r: shared(r, tally)):
        assert figures == pytest.approx(expected.figures(), abs=1e-15)
        assert glance == pytest.approx(expected.glance(), abs=1e-15)
        again = tally()
        again.load_state_dict(state)
        assert again.figures() == pytest.approx(figures, abs=1e-15)


def test_it_goes_on_from_the_sums_of_any_number_of_ranks():
    expected = alone(tally, 2).figures()
    state = alone(tally).state_dict()
    for figures, _, _ in in_ranks(3, lambda r: shared(r, tally, state)):
        assert figures == pytest.approx(expected, abs=1e-15)


def test_metrics_that_need_all_outputs():
    pytest.importorskip("sklearn")

    def make():
        return tally(["roc_auc"])

    expected = alone(make).figures()
    for figures, _, _ in in_ranks(3, lambda r: shared(r, make)):
        assert figures == pytest.approx(expected, abs=1e-15)


def test_several_outputs():
    loss = LossOfSeveral({"a": "softmax_cross_entropy", "b": (0.5, "mean_squared_error")})

    def add(into, first, last):
        y, t = dn.asarray(Y[first:last]), dn.asarray(T[first:last])
        into.add({"a": y, "b": y}, {"a": t, "b": y * 0.5})

    expected = tally_of(loss)
    add(expected, 0, 20)

    def once(ranks):
        found = SharedTally(ranks, tally_of(loss))
        add(found, *CUTS[ranks.rank :][:2])
        found.gather(dn.get_backend())
        return found.figures()

    for figures in in_ranks(3, once):
        assert figures == pytest.approx(expected.figures(), abs=1e-15)
