"""The judge: one loss for training and validation, and batches that are checked on their way."""

from __future__ import annotations

import numpy as np
import pytest
from bars import bars, small

import dualnet as dn
from dualnet.training.judging import Judge
from dualnet.training.sources import source

X, T = bars(20)


def test_without_weights_the_loss_is_the_loss(backend):
    net, data = small(), source("fit", X, T)
    judge = Judge.of("fit", net, data, None, dn.losses.softmax_cross_entropy, None, None)
    assert judge.weighting is None and judge.cleaned(data)[1] is data.t
    assert judge.figures(data) == net.evaluate(X, T)
    judge.watch(data)
    assert data.look is None  # arrays are looked at as a whole
    judge.choose([], data)
    assert judge.metrics == []


def test_weights_of_validation_data_are_enough_for_a_weighting(backend):
    net, weights = small(), np.linspace(1, 2, 20)
    data, held_out = source("fit", X, T), source("fit: validation_data", X, T, weights)
    judge = Judge.of("fit", net, data, held_out, dn.losses.softmax_cross_entropy, None, None)
    assert judge.figures(held_out) == net.evaluate(X, T, sample_weight=weights)
    assert judge.figures(data)["loss"] == pytest.approx(net.evaluate(X, T)["loss"], rel=1e-12)


def test_batches_are_looked_at_on_their_way(backend):
    net = small()
    data = source("evaluate", [(X, T), (X, T - 1)])
    judge = Judge.of("evaluate", net, data, None, dn.losses.softmax_cross_entropy, None, None)
    judge.watch(data)
    with pytest.raises(ValueError, match="evaluate: batch 2: label -1 is out of range"):
        judge.figures(data)
    judge = Judge.of("evaluate", net, data, None, dn.losses.softmax_cross_entropy, None, -1)
    judge.watch(data)
    assert judge.figures(data)["accuracy"] <= 1.0
