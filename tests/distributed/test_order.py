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
