"""Networks in eight threads at once, which change places every microsecond: the same bits as one after another."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

import dualnet as dn

THREADS = 8


@pytest.fixture(autouse=True)
def hurried() -> Iterator[None]:
    """The interpreter changes threads as often as it can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.fixture
def device(backend: str) -> str:
    """Each backend that takes several threads."""
    if backend.startswith("cupy") and sys.modules["cupy"].__file__ == "fake":
        pytest.skip("the pretend GPU serves one thread")
    return backend


def at_once(function: Callable[[int], Any]) -> list[Any]:
    """function(0) … function(7), each in a thread of its own; all start together."""
    start = threading.Barrier(THREADS, timeout=30)

    def run(i: int) -> Any:
        start.wait()
        return function(i)

    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(run, range(THREADS)))


def network(dtype: str = "float32") -> dn.Sequential:
    """Every kind of kernel: convolutions of two sizes, pooling, batch norm, dropout and dense layers."""
    return dn.Sequential(
        [
            *(dn.Conv2D(8, 3, padding="same"), dn.BatchNorm(), dn.ReLU(), dn.MaxPool2D(2)),
            *(dn.Conv2D(16, 3, stride=2), dn.ReLU(), dn.AveragePool2D(2, stride=1)),
            *(dn.Flatten(), dn.Dense(32), dn.GELU(), dn.Dropout(0.25), dn.Dense(3)),
        ]
    ).init((16, 16, 2), seed=3, dtype=dtype)


def drawn(seed: int, N: int = 24) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((N, 16, 16, 2)).astype("float32"), rng.integers(0, 3, N)


def bits(*arrays: Any) -> list[bytes]:
    return [dn.to_numpy(array).tobytes() for array in arrays]


def trained(seed: int) -> list[bytes]:
    """The state of a network of this thread's own after two epochs, and its answers."""
    net, (x, t) = network(), drawn(seed)
    net.fit(x, t, epochs=2, batch_size=8, optimizer=dn.Adam(1e-2), verbose=0, seed=seed)
    return bits(*net.state_dict().values(), net.predict(x))


@pytest.mark.parametrize("onednn", ["1", "0"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_one_network_predicts_in_many(device, monkeypatch, dtype, onednn):
    """The first predictions come from all threads at once: they fill every cache together."""
    monkeypatch.setenv("DUALNET_ONEDNN", onednn)
    net, batches = network(dtype), [dn.asarray(drawn(i)[0], dtype) for i in range(THREADS)]

    def answers(i: int) -> list[bytes]:
        with dn.use_backend(device):
            return [b for _ in range(3) for b in bits(net.predict(batches[i]))]

    found = at_once(answers)
    assert found == [answers(i) for i in range(THREADS)] and len({tuple(f) for f in found}) == THREADS


@pytest.mark.parametrize("onednn", ["1", "0"])
def test_each_thread_trains_its_own(device, monkeypatch, onednn):
    monkeypatch.setenv("DUALNET_ONEDNN", onednn)

    def run(i: int) -> list[bytes]:
        with dn.use_backend(device):
            return trained(i)

    found = at_once(run)
    assert found == [run(i) for i in range(THREADS)] and len({tuple(f) for f in found}) == THREADS


def test_passes_through_one_network(device):
    """Nothing is kept on a layer: forward and backward passes of one network do not mix (batch norm and dropout do
    count, so they stand still here)."""
    net = dn.Sequential([dn.Conv2D(6, 3), dn.ReLU(), dn.MaxPool2D(2), dn.Flatten(), dn.Dense(3)]).init((16, 16, 2))

    def gradients(i: int) -> list[bytes]:
        with dn.use_backend(device):
            x, t = map(dn.asarray, drawn(i))
            y, pullback = net.forward(x, train=True)
            loss, from_loss = dn.losses.softmax_cross_entropy(y, t)
            dx, grads = pullback(from_loss())
            return bits(loss, dx, *grads.values())

    found = at_once(gradients)
    assert found == [gradients(i) for i in range(THREADS)]
