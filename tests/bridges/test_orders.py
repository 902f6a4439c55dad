"""The order of flattened maps, followed through a network up to the layer where it ends."""

from __future__ import annotations

import numpy as np
import pytest

import dualnet as dn
from dualnet.bridges.orders import flattened, leaves, order_after, same_order


def test_the_order_says_where_the_others_have_our_units(rng):
    x = rng.standard_normal((3, 4, 5))
    np.testing.assert_array_equal(x.transpose(2, 0, 1).reshape(-1)[flattened(x.shape)], x.reshape(-1))


@pytest.mark.parametrize("shape", [(4, 5, 1), (1, 1, 7), (12,), (3, 4)])
def test_where_there_is_one_order_only(shape):
    assert flattened(shape) is None


def test_it_goes_through_what_takes_units_one_by_one_and_ends_at_a_dense_layer():
    net = dn.Sequential(
        [dn.Conv2D(3, 2), dn.Flatten(), dn.ReLU(), dn.BatchNorm(), dn.Residual(dn.Tanh()), dn.Dropout(0.5), dn.Dense(2)]
    )
    found = {name: order for name, _, _, order in leaves(net, (4, 5, 2))}
    assert {name for name, order in found.items() if order is not None} == {"2", "3", "4.layer", "5", "6"}
    np.testing.assert_array_equal(found["6"], flattened((3, 4, 3)))
    assert order_after(net, (4, 5, 2)) is None
    assert order_after(dn.Sequential(net.layers[:-1]), (4, 5, 2)) is not None


def test_rows_that_are_joined_keep_their_orders():
    ways = [dn.Flatten(), dn.GlobalAveragePool2D(), dn.Sequential([dn.Conv2D(2, 1), dn.Flatten()])]
    order = order_after(dn.Parallel(ways, merge="concat"), (2, 2, 3))
    np.testing.assert_array_equal(order[:12], flattened((2, 2, 3)))
    assert order[12:15].tolist() == [12, 13, 14]
    np.testing.assert_array_equal(order[15:], 15 + flattened((2, 2, 2)))


def test_rows_of_two_orders_cannot_be_added():
    ways = [dn.Sequential([dn.Flatten(), dn.Dense(12)]), dn.Flatten()]
    with pytest.raises(ValueError, match="adds flattened maps and other rows"):
        order_after(dn.Parallel(ways), (2, 2, 3))


def test_equal_orders():
    assert same_order(None, None) and same_order(np.arange(3), np.arange(3))
    assert not same_order(None, np.arange(3)) and not same_order(np.arange(3), np.arange(3)[::-1])
