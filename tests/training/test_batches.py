"""Batches: every example once, in the order of seed and epoch, on the network's backend."""

from __future__ import annotations

import numpy as np
import pytest

import dualnet as dn
from dualnet.backend import backend_of
from dualnet.training.batches import batches, order_of

X = np.arange(10, dtype=np.float32).reshape(10, 1, 1, 1)
T = np.arange(10)


def network():
    return dn.Sequential([dn.Flatten(), dn.Dense(2)]).init((1, 1, 1))


def epoch(net, x=X, t=T, *, size=4, seed=0, number=0, shuffle=True, augment=None):
    """The batches as host arrays."""
    moves = None if augment is None else augment.moves(len(x), seed=seed, epoch=number)
    made = batches(net, x, t, size, order_of(len(x), seed, number, shuffle), augment, moves)
    return [(dn.to_numpy(a), dn.to_numpy(b)) for a, b in made]


@pytest.mark.parametrize("place", ["host", "device"])
def test_every_example_comes_once_beside_its_target(backend, place):
    x, t = (X, T) if place == "host" else (dn.asarray(X), dn.asarray(T))
    made = epoch(network(), x, t)
    assert [len(a) for a, _ in made] == [4, 4, 2]
    for a, b in made:
        assert a.shape == (len(b), 1, 1, 1) and np.array_equal(a.ravel(), b)
    assert sorted(np.concatenate([b for _, b in made])) == list(range(10))


def test_the_order_is_that_of_seed_and_epoch_on_every_backend():
    orders = {}
    for name in dn.available_backends():
        with dn.use_backend(name):
            for seed, number in ((0, 0), (0, 1), (1, 0)):
                order = tuple(int(i) for _, b in epoch(network(), seed=seed, number=number) for i in b)
                assert orders.setdefault((seed, number), order) == order
    assert len(set(orders.values())) == 3
    plain = [i for _, b in epoch(network(), shuffle=False, number=7) for i in b]
    assert plain == list(range(10))


def test_without_an_order_and_without_targets(backend):
    made = list(batches(network(), X, None, 4))
    assert [t for _, t in made] == [None, None, None]
    assert np.array_equal(np.concatenate([dn.to_numpy(x) for x, _ in made]), X)
    assert all(backend_of(x).name == dn.get_backend() for x, _ in made)


def test_from_the_host_a_batch_is_copied_when_its_turn_comes():
    with dn.use_backend("strict"):
        made = batches(network(), X, T, 4)
        with dn.transfers("count") as moved:
            next(made)
        assert (moved.to_device, moved.to_host) == (2, 0)


def test_on_the_device_only_the_order_is_copied():
    with dn.use_backend("strict"):
        net, x, t = network(), dn.asarray(X), dn.asarray(T)
        with dn.transfers("count") as moved:
            list(batches(net, x, t, 3))
        assert (moved.to_device, moved.to_host) == (2, 0)


def test_images_are_moved_anew_in_every_epoch_and_the_same_for_a_seed(backend, rng):
    x = rng.integers(0, 256, (10, 6, 6, 1)).astype(np.uint8)
    net = dn.Sequential([dn.Flatten(), dn.Dense(2)]).init((6, 6, 1), dtype="float64")
    augment = dn.data.Augment(shift=2, mean=0.5)

    def images(**options):
        return np.concatenate([a for a, _ in epoch(net, x, shuffle=False, augment=augment, **options)])

    first = images()
    assert first.dtype == np.float64 and np.array_equal(first, images())
    for options in ({"number": 1}, {"seed": 1}):
        assert not np.array_equal(first, images(**options))
    there = dn.asarray(x)
    assert np.array_equal(first, np.concatenate([a for a, _ in epoch(net, there, shuffle=False, augment=augment)]))
    plain = np.concatenate([dn.to_numpy(a) for a, _ in batches(net, x, T, 4, augment=augment)])
    np.testing.assert_allclose(plain, x / 255 - 0.5, rtol=1e-15, atol=1e-15)


def test_a_network_without_parameters_takes_images_where_they_are():
    with dn.use_backend("strict"):
        x = dn.asarray(np.zeros((3, 4, 4, 1), np.uint8))
    net = dn.Sequential([dn.Flatten()]).init((4, 4, 1))
    with dn.use_backend("numpy"):
        assert backend_of(next(batches(net, x, None, 2, augment=dn.data.Augment(1)))[0]).name == "strict"
        assert backend_of(next(batches(net, x, None, 2))[0]).name == "strict"
