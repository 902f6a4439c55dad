"""Arrays from device to device, on the pretend CuPy with the pretend NCCL, where ranks are threads."""

from __future__ import annotations

import sys

import fake_cupy
import fake_nccl
import numpy as np
import pytest
from distributing import furthest, in_ranks, network, same, trained

import dualnet as dn
from dualnet.distributed.nccl import NCCL

pytestmark = pytest.mark.once


@pytest.fixture
def cupy(monkeypatch):
    with fake_cupy.in_force(monkeypatch) as fake:
        fake_nccl.install(monkeypatch, fake)
        yield fake


def on_devices(number, function):
    return in_ranks(number, lambda hosts: function(NCCL(hosts, timeout=10.0)))


@pytest.mark.parametrize("size", [2, 3])
def test_collectives(cupy, size):
    def once(ranks):
        x = dn.asarray(np.arange(20000.0) * (ranks.rank + 1), "float64")
        total = ranks.all_reduce(x)
        assert dn.backend.backend_of(total).name == "cupy:0"
        every = ranks.all_gather(dn.asarray([[ranks.rank, 7]], "float32"))
        first = ranks.broadcast(dn.asarray([float(ranks.rank)]), root=size - 1)
        host = ranks.all_reduce(np.array([1.0]))
        assert isinstance(host, np.ndarray) and host[0] == size
        return [dn.to_numpy(a) for a in (total, every, first)], ranks.gather_words("x" * ranks.rank)

    for (total, every, first), words in on_devices(size, once):
        assert (total == np.arange(20000.0) * sum(range(1, size + 1))).all()
        assert every[:, 0].tolist() == [[rank, 7] for rank in range(size)]
        assert first.tolist() == [size - 1] and words == ["x" * rank for rank in range(size)]


def test_a_training(cupy, monkeypatch):
    monkeypatch.setenv("DUALNET_KERNELS", "reference")  # kernels on the pretend device know one thread at a time
    _, expected = trained(False, network("float32"), epochs=1)
    found = on_devices(2, lambda ranks: trained(ranks, network("float32"), epochs=1, sync_batch_norm=True))
    assert same(found[0][1], found[1][1])
    assert furthest(found[0][1], expected) < 1e-4


def test_a_rank_that_does_not_come(cupy):
    def once(ranks):
        if ranks.rank == 0:
            with pytest.raises(dn.distributed.RankError):
                ranks.all_reduce(dn.asarray([1.0]))
            assert ranks.devices.wires.aborted

    on_devices(2, once)


def test_without_nccl_or_without_a_device(cupy, monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy.cuda.nccl", None)
    with pytest.raises(ImportError, match="pip install nvidia-nccl"):
        dn.backend.backend_of(dn.asarray([1.0])).peers()
    with dn.use_backend("numpy"), pytest.raises(ValueError, match="call dn.set_backend"):
        NCCL(dn.distributed.Null())
