"""All ranks send their messages in the same order, however fast each of them is."""

from __future__ import annotations

import time
from types import SimpleNamespace

import numpy
import pytest

import dualnet as dn
from dualnet.distributed.buckets import Buckets
from dualnet.distributed.communicator import SMALL

NAMES = [f"w{place}" for place in range(6)]


def summed(ranks):
    """Two steps with six buckets, each too large for one message. In between every rank dawdles in a way of its own."""
    layer = SimpleNamespace(**{name: SimpleNamespace(frozen=False) for name in NAMES})
    parameters = {name: getattr(layer, name) for name in NAMES}
    rng, buckets = numpy.random.default_rng(ranks.rank), Buckets(ranks)
    for _ in range(2):
        gradients = {n: dn.asarray(rng.standard_normal(SMALL + 3 * place + 1)) for place, n in enumerate(NAMES)}
        buckets.begin(parameters)
        for name in NAMES:
            time.sleep(0.004 * rng.integers(0, 4))
            buckets.filled(layer, {name: gradients[name]})
            ranks.all_reduce(dn.asarray([1.0]))  # as a synchronised batch norm does
        total = buckets.summed(gradients)
    return [dn.to_numpy(gradients[name]) for name in NAMES], [dn.to_numpy(total[name]) for name in NAMES]


@pytest.mark.parametrize("size", [2, 3, 5])
def test_buckets_that_travel_at_once_do_not_meet(size):
    for _ in range(3):
        found = dn.distributed.run_in_threads(summed, size, timeout=20.0, bucket_bytes=8)
        for place in range(len(NAMES)):
            total = found[0][0][place]
            for other in range(1, size):
                total = total + found[other][0][place]
            assert all(numpy.array_equal(one[1][place], total) for one in found)


def test_one_rank_alone_has_its_own_sum():
    (found,) = dn.distributed.run_in_threads(lambda ranks: ranks.all_reduce(dn.asarray([1.0, 2.0])), 1)
    assert dn.to_numpy(found).tolist() == [1.0, 2.0]


@pytest.mark.parametrize("several", [False, True])
def test_validation_where_a_rank_has_no_example(several):
    """5 examples in batches of 4 on 2 ranks, with a loss of one's own: nobody knows how it counts nothing."""

    def own(y, t):
        value, way = dn.losses.mean_squared_error(y, t)
        return value, way

    rng = numpy.random.default_rng(0)
    x, t = rng.random((5, 3), "float32"), rng.random((5, 2), "float32")

    def train(ranks=False):
        net = dn.Sequential([dn.Dense(2)])
        if several:
            net = dn.Graph("x").add("a", dn.Dense(2), "x").add("b", dn.Dense(2), "x")
        targets = {"a": t, "b": t} if several else t
        loss = {"a": own, "b": own} if several else own
        options = {"batch_size": 4, "seed": 0, "verbose": 0, "shuffle": False, "loss": loss, "distributed": ranks}
        return net.fit(x, targets, validation_data=(x, targets), **options)

    alone = train()
    for history in dn.distributed.run_in_threads(train, 2):
        assert history["loss"] == pytest.approx(alone["loss"], rel=1e-5)
        assert history["val_loss"] == pytest.approx(alone["val_loss"], rel=1e-5)
