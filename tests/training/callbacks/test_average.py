"""The average of the weights: its formula, who uses it, and where the optimizer's weights are meanwhile."""

from __future__ import annotations

import numpy as np
import pytest

import dualnet as dn

X, T = (array[:128] for array in dn.data.load_digits()[0])


def network() -> dn.Sequential:
    layers = [dn.Conv2D(4, 3), dn.BatchNorm(), dn.ReLU(), dn.Dropout(0.2), dn.Flatten(), dn.Dense(10)]
    return dn.Sequential(layers).init((8, 8, 1), seed=1)


def state(net):
    return {name: dn.to_numpy(value).copy() for name, value in net.state_dict().items()}


class Notes(dn.Callback):
    """The state after each step, and at each moment by its name."""

    def __init__(self):
        self.steps, self.moments = [], []

    def on_epoch_begin(self, run):
        self.moments.append(("epoch_begin", state(run.net)))

    def on_batch_end(self, run):
        self.steps.append(state(run.net))

    def on_epoch_end(self, run):
        self.moments.append(("epoch_end", state(run.net)))

    def on_fit_end(self, run):
        self.moments.append(("fit_end", state(run.net)))


def averaged(states, decay, name):
    """In float64, by the formula in the docstring."""
    result = states[0][name].astype("float64")
    for t, now in enumerate(states[1:], 1):
        d = min(decay, (1 + t) / (10 + t))
        result = d * result + (1 - d) * now[name]
    return result


@pytest.mark.parametrize("capture", [False, True])
def test_the_formula_and_who_sees_what(backend, capture):
    net, notes, ema = network(), Notes(), dn.callbacks.EMA(0.3)
    first = state(net)
    options = {"batch_size": 32, "optimizer": dn.SGD(0.1, momentum=0.9), "capture": capture, "verbose": 0}
    history = net.fit(X, T, epochs=3, callbacks=[ema, notes], validation_data=(X, T), **options)
    states = [first, *notes.steps]
    floating = [name for name in first if first[name].dtype == "float32"]
    assert {"1.moving_mean", "5.w"} <= set(floating) and "3.step" in first
    for number, (moment, seen) in enumerate(notes.moments):
        epoch = min((number + 1) // 2, 3)
        for name in floating:
            if moment == "epoch_begin":  # the optimizer's own
                assert np.array_equal(seen[name], states[4 * epoch][name])
            else:
                expected = averaged(states[: 4 * epoch + 1], 0.3, name)
                # each step rounds three times, and what it has rounded shrinks by d <= 0.3 in the next: 3 / 0.7 < 5 ulp
                limit = 5 * 2.0**-24 * np.abs([s[name] for s in states]).max() * 2
                assert np.abs(seen[name] - expected).max() <= limit, (moment, name)
        assert seen["3.step"] == 4 * epoch  # counters of dropout are not averaged
    raw = ema.trained()
    assert all(np.array_equal(dn.to_numpy(raw[name]), states[-1][name]) for name in floating)
    assert history["val_loss"][-1] == net.evaluate(X, T)["loss"]


def test_the_training_itself_is_as_without():
    plain, with_it, ema = network(), network(), dn.callbacks.EMA()
    for net, callbacks in ((plain, []), (with_it, [ema])):
        net.fit(X, T, epochs=3, batch_size=32, callbacks=callbacks, verbose=0)
    raw = ema.trained()
    assert all(np.array_equal(dn.to_numpy(raw[name]), value) for name, value in state(plain).items())
    assert plain.history["loss"] == with_it.history["loss"]


def test_a_training_that_is_broken_off_leaves_the_average():
    class Stops(dn.Callback):
        def on_batch_end(self, run):
            if run.step == 3:
                self.own = state(run.net)
                raise KeyboardInterrupt

    net, ema, stops = network(), dn.callbacks.EMA(0.9), Stops()
    with pytest.raises(KeyboardInterrupt):
        net.fit(X, T, batch_size=32, callbacks=[ema, stops], verbose=0)
    assert np.array_equal(dn.to_numpy(ema.trained()["5.w"]), stops.own["5.w"])
    assert not np.array_equal(state(net)["5.w"], stops.own["5.w"])


def test_files_and_early_stopping_hold_the_average(tmp_path):
    net = network()
    keep = dn.callbacks.ModelCheckpoint(tmp_path / "best.npz")
    callbacks = [dn.callbacks.EMA(0.9), keep, dn.EarlyStopping(9)]
    history = net.fit(X, T, epochs=4, batch_size=32, callbacks=callbacks, validation_data=(X, T), verbose=0)
    best = min(history["val_loss"])
    assert dn.load(tmp_path / "best.npz").evaluate(X, T)["loss"] == best == net.evaluate(X, T)["loss"]


def test_arguments_and_a_question_too_early():
    with pytest.raises(ValueError, match="EMA: decay must be a number from 0 to below 1"):
        dn.callbacks.EMA(1.0)
    with pytest.raises(ValueError, match="the network has the optimizer's own weights now"):
        dn.callbacks.EMA().trained()
