"""Gradients in buckets: the same sums however they are packed, some of them while the backward pass still runs."""

from __future__ import annotations

import random
import threading
import time

import numpy as np
import pytest
from distributing import in_ranks, network, same, trained

import dualnet as dn
from dualnet.distributed import communicator, threads
from dualnet.distributed.buckets import Buckets
from dualnet.sharing import Part, taking


@pytest.mark.parametrize("size", [1, 300, 10**7])
def test_packages_of_any_size_and_no_overlap_are_the_same_bits(size):
    expected = in_ranks(3, lambda r: trained(r, sync_batch_norm=True), overlap=False)[0][1]
    found = in_ranks(3, lambda r: trained(r, sync_batch_norm=True), bucket_bytes=size)
    assert all(same(learned, expected) for _, learned in found)


@pytest.mark.parametrize("ranks", [3, 4])
def test_ranks_that_are_slow_by_turns(monkeypatch, ranks):
    """Sums of two messages each, under way together: all ranks begin them in one order, whoever is late."""
    monkeypatch.setattr(communicator, "SMALL", 0)
    real, chance = threads.Laid.test, random.Random(0)
    monkeypatch.setattr(threads.Laid, "test", lambda laid: chance.random() < 0.5 and real(laid))
    filled = Buckets.filled

    def slowly(buckets, layer, gradients):
        time.sleep(0.003 * chance.random())
        filled(buckets, layer, gradients)

    monkeypatch.setattr(Buckets, "filled", slowly)

    def once(r):
        return trained(r, network(norm=False), epochs=1)

    expected = in_ranks(ranks, once, overlap=False)[0][1]
    for size in (1, 200, 10**7):
        found = in_ranks(ranks, once, bucket_bytes=size)
        assert all(same(learned, expected) for _, learned in found)


def steps(buckets: Buckets, net: dn.Layer, x, count: int = 3):
    """Backward passes as a training makes them; when each bucket began to travel, and the gradients."""
    began, start = [], buckets._start
    gradients = {}

    def noted(arrays):
        began.append([tuple(a.shape) for a in arrays])
        return start(arrays)

    buckets._start = noted
    for _ in range(count):
        began.clear()
        buckets.begin(net.parameters())
        with taking(Part(0, len(x), len(x), lambda a: a, False, buckets.filled)):
            y, pullback = net.forward(x, train=True)
            gradients = pullback(y)[1]
        during = len(began)
        summed = buckets.summed(gradients)
    return during, list(began), gradients, summed


def test_full_buckets_leave_while_the_backward_pass_runs():
    net, x = network(norm=False, drop=False), dn.asarray(np.ones((2, 6, 6, 2)))
    during, began, gradients, summed = steps(Buckets(dn.distributed.Null(bucket_bytes=1)), net, x)
    assert during == len(began) == len(gradients)  # one bucket for each gradient
    assert began[0][0] in [g.shape for name, g in gradients.items() if name.startswith("5.")]  # the last layer's first
    for name, gradient in gradients.items():
        np.testing.assert_array_equal(dn.to_numpy(summed[name]), dn.to_numpy(gradient))


def test_the_gradients_of_a_shared_layer_travel_when_they_are_complete():
    shared = dn.Dense(4)
    net = dn.Sequential([dn.Flatten(), dn.Dense(4), shared, dn.ReLU(), shared]).init((6, 6, 2), seed=0, dtype="float64")
    x = dn.asarray(np.ones((2, 6, 6, 2)))
    during, began, gradients, summed = steps(Buckets(dn.distributed.Null(bucket_bytes=1)), net, x)
    assert during == 2 and len(began) == 4
    for name, gradient in gradients.items():
        np.testing.assert_array_equal(dn.to_numpy(summed[name]), dn.to_numpy(gradient))
    found = in_ranks(2, lambda r: r.all_reduce(np.ones(3)).tolist())
    assert found == [[2.0] * 3] * 2


def test_frozen_gradients_stay():
    net, x = network(norm=False, drop=False), dn.asarray(np.ones((2, 6, 6, 2)))
    net[0].freeze()
    _, began, gradients, summed = steps(Buckets(dn.distributed.Null(bucket_bytes=1)), net, x)
    assert len(began) == len(gradients) - 2 and summed["0.w"] is gradients["0.w"]
    net.unfreeze()


def test_a_layer_that_changes_what_its_child_has_reported(monkeypatch):
    """A container of one's own may scale the gradients of what is inside: what travels is what it returns."""

    class Halved(dn.Sequential):
        def forward(self, x, train=False, need_dx=True):
            y, way = super().forward(x, train, need_dx)
            return y, way.then("Halved", lambda r: (r[0], {name: g * 0.5 for name, g in r[1].items()}))

    net = Halved([dn.Flatten(), dn.Dense(3)]).init((6, 6, 2), seed=0, dtype="float64")
    x = dn.asarray(np.ones((2, 6, 6, 2)))
    buckets, pending, waited = Buckets(dn.distributed.Null()), [], []
    start, wait = buckets.communicator.start_all_reduce, communicator.Pending.wait
    buckets.communicator.start_all_reduce = lambda flat: pending.append(start(flat)) or pending[-1]
    monkeypatch.setattr(communicator.Pending, "wait", lambda one: waited.append(one) or wait(one))
    _, _, gradients, summed = steps(buckets, net, x)
    for name, gradient in gradients.items():
        np.testing.assert_array_equal(dn.to_numpy(summed[name]), dn.to_numpy(gradient))
    assert len(pending) == 5 and set(waited) == set(pending)  # two steps sent them twice, and waited for both


@pytest.mark.parametrize("size", [1, 10**7])
def test_small_batches_travel_with_the_last_of_them_and_have_the_same_bits(monkeypatch, size):
    began, filled, start = [], Buckets.filled, Buckets._start
    inside = threading.local()

    def noted(buckets, layer, gradients):
        inside.backward = True
        filled(buckets, layer, gradients)
        inside.backward = False

    def begun(buckets, gradients):
        began.append(getattr(inside, "backward", False))
        return start(buckets, gradients)

    monkeypatch.setattr(Buckets, "filled", noted)
    monkeypatch.setattr(Buckets, "_start", begun)
    options = {"accumulate": 3, "batch_size": 7, "examples": 51, "sync_batch_norm": True}
    expected = in_ranks(2, lambda r: trained(r, **options), overlap=False)[0][1]
    assert not any(began)
    began.clear()
    found = in_ranks(2, lambda r: trained(r, **options), bucket_bytes=size)
    assert all(same(learned, expected) for _, learned in found)
    steps, packages = 6, 1 if size > 1 else len(network().parameters())  # 8 batches: 3 steps in an epoch, 2 epochs
    assert began.count(True) == 2 * (steps - 1) * packages  # all but the first step, on both ranks
    assert began.count(False) == 2 * packages


class Repeated(dn.Layer):
    """Uses a layer as many times as ``times`` says."""

    def __init__(self, layer: dn.Layer) -> None:
        self.layer, self.times = layer, 1

    def children(self):
        return {"layer": self.layer}

    def output_shape(self, input_shape):
        return self.layer.output_shape(input_shape)

    def build(self, input_shape, draw):
        self.layer.init_from(input_shape, draw.child(0))

    def forward(self, x, train=False):
        ways = []
        for _ in range(self.times):
            x, way = self.layer.forward(x, train)
            ways.append(way)

        def back(dy):
            total = {}
            for way in reversed(ways):
                dy, gradients = way(dy)
                for name, g in gradients.items():
                    total[f"layer.{name}"] = total[f"layer.{name}"] + g if f"layer.{name}" in total else g
            return dy, total

        return x, dn.Pullback("Repeated", back, x)


@pytest.mark.parametrize("size", [1, 10**7])
def test_a_layer_that_is_used_once_in_the_first_step_and_twice_later(size):
    """Its gradients travel when they are whole, though the first step promised them earlier."""
    rng = np.random.default_rng(0)
    x, dy = rng.random((4, 6)), rng.random((4, 6))

    def stepped(ranks):
        net = dn.Sequential([dn.Dense(6), dn.Dense(6), Repeated(dn.Dense(6))]).init((6,), seed=0, dtype="float64")
        buckets, mine, off = Buckets(ranks), slice(ranks.rank * 2, ranks.rank * 2 + 2), []
        for times in (1, 2, 2, 1):
            net[2].times = times
            buckets.begin(net.parameters())
            with taking(Part(0, 2, 2, lambda a: a, False, buckets.filled)):
                _, way = net.forward(dn.asarray(x[mine]), train=True)
                gradients = way(dn.asarray(dy[mine]))[1]
            summed = buckets.summed(gradients)
            whole = net.forward(dn.asarray(x), train=True)[1](dn.asarray(dy))[1]
            off += [np.allclose(dn.to_numpy(summed[name]), dn.to_numpy(whole[name]), rtol=1e-10) for name in whole]
        return off

    assert all(map(all, in_ranks(2, stepped, bucket_bytes=size)))
