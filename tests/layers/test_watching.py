"""A watched pass: every layer at each of its places, what it did, and that nothing is left afterwards.

tests/seeing/test_watching.py has more, with the tools that are built on it.
"""

from __future__ import annotations

import numpy as np
import pytest
from small_nets import Scale, Twice

import dualnet as dn
from dualnet.layers.watching import Watch, sharing_copy


def run(net, around, **options):
    with Watch(net, around, **options):
        return net.forward(dn.asarray(np.ones((2, 3)), "float32"), train=True)


def test_each_place_is_visited_in_the_order_of_the_data(backend):
    shared = Scale()
    net = dn.Sequential([shared, dn.Dense(3), dn.ReLU(), Twice(shared)]).init((3,))
    labels = []

    def around(visit, run, x):
        y, way = run(x)
        labels.append((visit.label, visit.first, visit.depth))
        return y, way

    run(net, around, apart=True)
    assert labels == [
        ("0 Scale", "0", 1), ("1 Dense", "1", 1), ("2 ReLU", "2", 1), ("3.inner Scale", "0", 2),
        ("3.inner Scale", "0", 2), ("3 Twice", "3", 1), ("Sequential", "", 0),
    ]  # fmt: skip


@pytest.mark.parametrize("apart", [True, False])
def test_an_error_inside_leaves_no_trace(apart):
    net = dn.Sequential([dn.Dense(3), dn.ReLU()]).init((3,))
    before = [dict(vars(layer)) for _, layer in net.walk()]

    def around(visit, run, x):
        raise MemoryError

    with pytest.raises(MemoryError):
        run(net, around, apart=apart)
    assert [dict(vars(layer)) for _, layer in net.walk()] == before


def test_a_copy_shares_parameters_and_nothing_else(backend):
    net = dn.Sequential([dn.Dense(3), dn.BatchNorm(), dn.Dropout(0.5)]).init((3,))
    copy, before = sharing_copy(net), dn.to_numpy(net[1].moving_mean).copy()
    run(copy, lambda visit, run, x: run(x))
    assert copy[0].w is net[0].w and copy[2].step == 1 and net[2].step == 0
    assert np.array_equal(dn.to_numpy(net[1].moving_mean), before)
    assert not np.array_equal(dn.to_numpy(copy[1].moving_mean), before)
