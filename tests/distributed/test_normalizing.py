"""Synchronised batch norm: parts of a batch, normalised by the moments of the whole, forward and backward."""

from __future__ import annotations

import numpy as np
import pytest
from distributing import in_ranks

import dualnet as dn
from dualnet.sharing import Part, taking

CUTS = [(0, 3), (3, 3), (3, 4), (4, 9)]  # rank 1 has no examples


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("shape", [(9, 5), (9, 3, 2, 5)], ids=["rows", "maps"])
def test_parts_are_the_whole(backend, shape, relu):
    rng = np.random.default_rng(0)
    x, dy, gamma, beta = (rng.normal(size=s) + 2 for s in (shape, shape, 5, 5))
    given = [dn.asarray(a, "float64", backend=backend) for a in (x, gamma, beta)]
    y, way = dn.ops.batch_norm(*given, relu=relu)
    expected = [dn.to_numpy(a) for a in (y, *way(dn.asarray(dy, "float64", backend=backend)))]

    def once(ranks):
        mine = slice(*CUTS[ranks.rank])
        part = Part(mine.start, mine.stop - mine.start, 9, ranks.all_reduce)
        x_, g, b = (dn.asarray(a, "float64", backend=backend) for a in (x[mine], gamma, beta))
        y, way = dn.ops.batch_norm(x_, g, b, relu=relu, part=part)
        found = way(dn.asarray(dy[mine], "float64", backend=backend))
        return [dn.to_numpy(a) for a in (y, *found, way.saved["mean"], way.saved["variance"])]

    found = in_ranks(4, once)
    for place in (0, 1):  # y, dx
        np.testing.assert_allclose(np.concatenate([f[place] for f in found]), expected[place], rtol=0, atol=1e-13)
    for place in (2, 3):  # dgamma, dbeta: each rank has its share
        np.testing.assert_allclose(sum(f[place] for f in found), expected[place], rtol=0, atol=1e-12)
    for place, saved in ((4, "mean"), (5, "variance")):
        for f in found:
            np.testing.assert_allclose(f[place], dn.to_numpy(way.saved[saved]), rtol=0, atol=1e-13)


def test_running_statistics_are_those_of_the_whole_batch():
    x = np.random.default_rng(1).normal(size=(8, 3))
    alone = dn.BatchNorm().init((3,), dtype="float64")
    alone.forward(dn.asarray(x), train=True)

    def once(ranks):
        norm = dn.distributed.sync_batch_norm(dn.BatchNorm().init((3,), dtype="float64"))
        with taking(Part(ranks.rank * 4, 4, 8, ranks.all_reduce)):
            norm.forward(dn.asarray(x[ranks.rank * 4 :][:4]), train=True)
        return dn.to_numpy(norm.moving_mean), dn.to_numpy(norm.moving_variance)

    for mean, variance in in_ranks(2, once):
        np.testing.assert_allclose(mean, dn.to_numpy(alone.moving_mean), rtol=0, atol=1e-15)
        np.testing.assert_allclose(variance, dn.to_numpy(alone.moving_variance), rtol=0, atol=1e-15)


def test_a_whole_batch_of_one_value():
    x, one, zero = dn.asarray([[1.0]]), dn.asarray([1.0]), dn.asarray([0.0])
    with pytest.raises(ValueError, match=r"the whole batch has 1 value\(s\) per channel"):
        dn.ops.batch_norm(x, one, zero, part=Part(0, 1, 1, lambda a: a))


def test_it_is_switched_on_and_off_for_all_layers():
    net = dn.Sequential([dn.BatchNorm(), dn.Residual(dn.BatchNorm())])
    assert dn.distributed.sync_batch_norm(net) is net
    assert net[0].synchronised and net[1].layer.synchronised
    dn.distributed.sync_batch_norm(net, on=False)
    assert not net[0].synchronised and not net[1].layer.synchronised


def test_dropout_of_a_part_is_that_of_the_whole(backend):
    x = dn.asarray(np.ones((7, 3, 5)), backend=backend)
    for options in ({}, {"shared_axes": (1,)}):
        whole = dn.to_numpy(dn.ops.dropout(x, 0.5, key=(1, 2), **options)[0])
        for first, last in ((0, 2), (2, 3), (3, 7), (5, 5)):
            y, _ = dn.ops.dropout(x[first:last], 0.5, key=(1, 2), first_row=first, **options)
            np.testing.assert_array_equal(dn.to_numpy(y), whole[first:last])
