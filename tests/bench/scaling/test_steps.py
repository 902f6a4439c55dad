"""One step on many ranks: what the backward pass hides, the slowest rank, the input."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy
import pytest

import dualnet as dn
from dualnet.bench.scaling import BUCKET, Links, Work, slowest, step, work_of

QUIET = Links(latency=0.0, bandwidth=1e6)
"""1 MB/s: an all-reduce of n MB on 2 ranks takes n seconds."""
PLAIN = Work("two layers", ((250_000, 1), (250_000, 1)), per_image=0.3, variation=0.0, bucket=1e6)
"""1 MB of gradients in each of two layers. A batch of 10 takes 3 s: 1 s forward, 1 s back through each layer."""


def test_the_first_bucket_hides_behind_the_rest_of_the_backward_pass():
    """The last layer's MB travels while the first layer computes; then the first layer's MB is waited for."""
    found = step(PLAIN, 10, 2, QUIET, "ring")
    assert found.compute == pytest.approx(3.0) and found.transfer == pytest.approx(1.0) and found.latency == 0.0


def test_without_overlap_all_is_waited_for():
    assert step(replace(PLAIN, overlap=False), 10, 2, QUIET, "ring").transfer == pytest.approx(2.0)


def test_the_last_layer_goes_first():
    """All bytes in the last layer and all compute in the first: everything hides. The other way round nothing does."""
    bytes_last = replace(PLAIN, layers=((0, 1), (500_000, 0)))
    assert step(bytes_last, 10, 2, QUIET, "ring").transfer == pytest.approx(0.0)
    bytes_first = replace(PLAIN, layers=((500_000, 0), (0, 1)))
    assert step(bytes_first, 10, 2, QUIET, "ring").transfer == pytest.approx(2.0)


def test_one_bucket_cannot_hide():
    assert step(replace(PLAIN, bucket=1e9), 10, 2, QUIET, "ring").transfer == pytest.approx(2.0)


def test_buckets_queue_for_the_link():
    """At half the speed the first bucket still travels when the second is there: 2 s after the pass began to 4 s."""
    slow = replace(QUIET, bandwidth=0.5e6)
    assert step(PLAIN, 10, 2, slow, "ring").seconds == pytest.approx(1 + 1 + 2 + 2)


def test_sixteen_bits_halve_the_bytes():
    found = step(replace(PLAIN, gradient_bytes=2, overlap=False), 10, 2, QUIET, "ring")
    assert found.transfer == pytest.approx(1.0)


def test_latency_is_told_apart_from_bytes():
    late = Links(latency=0.25, bandwidth=1e6)
    found = step(replace(PLAIN, overlap=False), 10, 2, late, "ring")
    assert found.transfer == pytest.approx(2.0) and found.latency == pytest.approx(2 * 2 * 0.25)


@pytest.mark.parametrize("ranks", [1, 2, 4, 16, 64])
def test_the_slowest_of_many_by_drawing_them(ranks):
    rng = numpy.random.default_rng(0)
    drawn = rng.standard_normal((20_000, ranks)).max(axis=1)
    assert slowest(ranks) == pytest.approx(drawn.mean(), abs=0.04)


@pytest.mark.parametrize("ranks", [1, 2, 10, 1024, 10**6])
def test_the_slowest_stays_under_its_bound(ranks):
    assert 0.0 <= slowest(ranks) <= math.sqrt(2 * math.log(ranks))


def test_all_wait_for_the_slowest():
    varied = replace(PLAIN, variation=0.1)
    assert step(varied, 10, 8, QUIET).waiting == pytest.approx(3.0 * 0.1 * slowest(8))
    assert step(varied, 10, 1, QUIET).waiting == 0.0


def test_storage_that_is_too_slow():
    """4 ranks read 10 images of 1 kB each: at 5 kB/s that takes 8 s."""
    hungry = replace(PLAIN, image_bytes=1000, supply=5000.0)
    fast = Links(latency=0.0, bandwidth=1e15)
    found = step(hungry, 10, 4, fast)
    assert found.seconds == pytest.approx(8.0) and found.starving == pytest.approx(5.0)
    assert step(replace(hungry, supply=1e9), 10, 4, fast).starving == 0.0


def test_nothing_is_lost_between_network_and_buckets():
    net = dn.models.resnet20().init((32, 32, 3))
    work = work_of(net, per_image=1e-3, name="resnet20")
    assert work.parameters == sum(p.value.size for p in net.parameters().values())
    assert sum(adds for _, adds in work.layers) == net.multiply_adds((32, 32, 3))
    whole = step(replace(work, overlap=False, variation=0.0), 1, 2, QUIET, "ring").transfer
    assert whole == pytest.approx(4 * work.parameters / 1e6)


def test_buckets_are_as_large_as_those_of_a_training():
    assert BUCKET == dn.distributed.init("null").bucket_bytes
