"""Continuing with a captured step: a checkpoint's arrays are copied to the device before the graph is recorded."""

from __future__ import annotations

import signal

import fake_cupy
import pytest

import dualnet as dn

pytestmark = [pytest.mark.usefixtures("ordinary_signals"), pytest.mark.once]
X, T = (array[:256] for array in dn.data.load_digits()[0])


@pytest.fixture
def cupy(monkeypatch):
    """A pretend GPU."""
    with fake_cupy.in_force(monkeypatch) as module:
        yield module


class Ends(dn.Callback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_batch_end(self, run):
        if run.step == self.step:
            signal.raise_signal(signal.SIGINT)


def train(folder, *more, dtype=None):
    net = dn.Sequential([dn.Conv2D(4, 3), dn.BatchNorm(), dn.ReLU(), dn.Dropout(0.3), dn.Flatten(), dn.Dense(10)])
    net.init((8, 8, 1), dtype=dtype)
    optimizer = dn.Adam(dn.schedules.Cosine(0.01, 24))
    callbacks = [dn.callbacks.EMA(0.9), dn.EarlyStopping(9), *more]
    options = {"validation_data": (X[:16], T[:16]), "callbacks": callbacks, "resume": folder, "verbose": 0}
    net.fit(X[:64], T[:64], epochs=3, batch_size=8, optimizer=optimizer, capture=True, **options)
    state = {**net.state_dict(), **optimizer.state_dict()}
    figures = {name: values for name, values in net.history.items() if name != "seconds"}
    return {name: dn.to_numpy(value).tolist() for name, value in state.items()}, figures


def test_an_optimizer_from_a_file(cupy, tmp_path):
    net, optimizer = dn.Sequential([dn.Flatten(), dn.Dense(10)]), dn.Adam()
    net.fit(X, T, optimizer=optimizer, verbose=0)
    path, again = net.save(tmp_path / "net.npz", optimizer=optimizer), dn.Adam()
    loaded = dn.load(path, optimizer=again)
    loaded.fit(X, T, epochs=2, initial_epoch=1, optimizer=again, capture=True, verbose=0)
    net.fit(X, T, epochs=2, initial_epoch=1, optimizer=optimizer, verbose=0)
    assert net.history["loss"] == loaded.history["loss"]


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_ended_and_gone_on(cupy, tmp_path, dtype):
    for step in (1, 6, 8, 13, 20):  # the third step of each process is the one that is recorded
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path, Ends(step), dtype=dtype)
    assert train(tmp_path, dtype=dtype) == train(None, dtype=dtype)
