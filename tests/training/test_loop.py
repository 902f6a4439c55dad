"""The loop: it learns, is repeatable, stays in its dtype and on its device, and stops where it should."""

from __future__ import annotations

import copy
import functools
import gc
import sys
import weakref

import numpy as np
import pytest
from bars import bars, small

import dualnet as dn
from dualnet.backend import backend_of


def test_learns(backend):
    (x, t), (xv, tv) = bars(300), bars(60, seed=1)
    net = dn.Sequential([dn.Conv2D(8, (3, 3)), dn.BatchNorm(), dn.ReLU(), dn.GlobalMaxPool2D(), dn.Dense(2)])
    history = net.fit(x, t, epochs=12, batch_size=16, optimizer=dn.Adam(lr=0.02), validation_data=(xv, tv), verbose=0)
    assert history.epochs == 12
    assert set(history) == {"loss", "accuracy", "val_loss", "val_accuracy", "seconds"}
    assert history["loss"][-1] < 0.5 * history["loss"][0]
    scores = net.evaluate(xv, tv)
    assert scores["accuracy"] > 0.9 and scores["loss"] == history["val_loss"][-1]
    assert all(type(v) is float for v in scores.values())
    predicted = net.predict(xv, batch_size=7)
    assert isinstance(predicted, np.ndarray) and predicted.shape == (60, 2)
    assert np.mean(predicted.argmax(1) == tv) == scores["accuracy"]


def test_training_is_repeatable_and_seeded(backend):
    x, t = bars()
    runs = []
    for seed in (5, 5, 6):
        net = dn.Sequential([dn.Conv2D(4, 3), dn.ReLU(), dn.Dropout(0.2), dn.Flatten(), dn.Dense(2)])
        history = net.fit(x, t, epochs=2, batch_size=10, seed=seed, verbose=0)
        runs.append((history["loss"], dn.to_numpy(net.parameters()["0.w"].value).tobytes()))
    assert runs[0] == runs[1] != runs[2]


def test_first_step_agrees_between_backends():
    """The same seed gives the same weights (bit for bit) and the same first gradients within τ."""
    x, t = bars(16)
    seen = {}
    for name in dn.available_backends():
        with dn.use_backend(name):
            # no bias before the batch norm: its gradient is 0, of which rounding leaves noise
            net = dn.Sequential([dn.Conv2D(4, 3, use_bias=False), dn.BatchNorm(), dn.ReLU(), dn.MaxPool2D(2)])
            net = dn.Sequential([net, dn.Dropout(0.1), dn.Flatten(), dn.Dense(2)]).init((6, 6, 1), seed=3)
            y, pullback = net.forward(dn.asarray(x), train=True)
            loss, dloss = dn.losses.softmax_cross_entropy(y, dn.asarray(t))
            seen[name] = {k: dn.to_numpy(g).astype(float) for k, g in pullback(dloss())[1].items()}
    reference = seen.pop("numpy")
    for grads in seen.values():
        for name, g in grads.items():
            tau = 5.96e-8 * (8 + 4 * np.sqrt(16 * 36))
            assert np.linalg.norm(g - reference[name]) <= 2 * tau * np.linalg.norm(reference[name]) + 1e-12, name


def arrays_in(thing, seen=None):
    """Every array that can be reached from an object, by walking it."""
    seen = {} if seen is None else seen
    if id(thing) in seen or isinstance(thing, (str, bytes, int, float, type(None), type, type(sys))):
        return
    seen[id(thing)] = thing
    if backend_of(thing) is not None:
        yield thing
        return
    if isinstance(thing, dict):
        parts = [*thing.keys(), *thing.values()]
    elif isinstance(thing, (list, tuple, set)):
        parts = list(thing)
    else:
        slots = [getattr(thing, s, None) for k in type(thing).__mro__ for s in getattr(k, "__slots__", ())]
        parts = [*getattr(thing, "__dict__", {}).values(), *slots]
        parts += [c.cell_contents for c in getattr(thing, "__closure__", None) or () if c is not None]
    for part in parts:
        yield from arrays_in(part, seen)


@pytest.mark.parametrize("optimizer", [
    dn.SGD(lr=np.float64(0.1), momentum=np.float64(0.9), nesterov=True, weight_decay=np.float64(1e-4)),
    dn.RMSProp(lr=np.float64(0.01), momentum=0.5, centered=True),
    dn.Adam(lr=np.float64(0.01), clip_norm=np.float64(1.0)),
    dn.AdamW(lr=dn.schedules.Cosine(np.float64(0.01), 10)),
], ids=["SGD", "RMSProp", "Adam", "AdamW"])  # fmt: skip
def test_a_float32_network_holds_no_float64_after_three_steps(backend, optimizer):
    x, t = bars(24)
    net, optimizer = small(), copy.deepcopy(optimizer)
    for start in (0, 8, 16):
        y, pullback = net.forward(dn.asarray(x[start : start + 8]), train=True)
        loss, dloss = dn.losses.softmax_cross_entropy(
            y, dn.asarray(t[start : start + 8]), label_smoothing=np.float64(0.1)
        )
        dx, grads = pullback(dloss())
        optimizer.step(net, grads)
    found = list(arrays_in([net, optimizer, pullback, dloss, loss, grads, dx, y]))
    assert len(found) > 20
    wide = [a for a in found if a.dtype == "float64"]
    assert not wide, f"{len(wide)} arrays of float64, of shapes {[a.shape for a in wide]}"


def test_a_step_moves_only_its_batch():
    """On a device each step copies the batch and its labels there, and nothing back; figures are read once an epoch."""
    x, t = bars(40)
    with dn.use_backend("strict"):
        net = small()
        with dn.transfers("count") as moved:
            net.fit(x, t, epochs=1, batch_size=8, verbose=0)
        assert (moved.to_device, moved.to_host) == (2 * 5 + 2, 2)  # and one example, tried before the first step
        x, t = dn.asarray(x), dn.asarray(t)
        with dn.transfers("count") as moved:
            net.fit(x, t, epochs=2, batch_size=8, verbose=0)
        assert moved.to_device == 2 * 2  # the order of the epoch, for x and for t
        assert moved.to_host == 2 * 2 + 2  # loss and hits of each epoch, and one look at all inputs and at all labels


def test_memory_stays_flat():
    x, t = bars(32)
    net = small()
    net.fit(x, t, epochs=2, verbose=0)
    gc.collect()
    before = len(gc.get_objects())
    net.fit(x, t, epochs=30, batch_size=32, verbose=0)
    gc.collect()
    assert len(gc.get_objects()) - before < 200


def test_inference_keeps_nothing(backend, monkeypatch):
    """Whatever pullback is made on the way is gone when its layer is done."""
    made, most = weakref.WeakSet(), [0]
    begin = dn.Pullback.__init__

    def watched(self, *arguments, **saved):
        begin(self, *arguments, **saved)
        made.add(self)
        most[0] = max(most[0], len(made))

    monkeypatch.setattr(dn.Pullback, "__init__", watched)
    net = dn.Sequential([dn.Conv2D(4, 3), dn.BatchNorm(), dn.GELU(), dn.Residual(dn.Tanh()), dn.Flatten(), dn.Dense(2)])
    net.init((6, 6, 1))(dn.asarray(bars(4)[0]))
    assert len(made) == 0 and most[0] <= 1


def test_two_half_batches_are_one(backend):
    x, t = bars(16)
    net = dn.Sequential([dn.Conv2D(4, 3), dn.ReLU(), dn.Flatten(), dn.Dense(2)]).init((6, 6, 1), dtype="float64")

    def gradients(part):
        y, pullback = net.forward(dn.asarray(x[part]))
        return pullback(dn.losses.softmax_cross_entropy(y, dn.asarray(t[part]))[1]())[1]

    whole, *halves = (gradients(part) for part in (slice(0, 16), slice(0, 8), slice(8, 16)))
    for name, g in whole.items():
        mean = (dn.to_numpy(halves[0][name]) + dn.to_numpy(halves[1][name])) / 2
        assert np.allclose(dn.to_numpy(g), mean, rtol=1e-12, atol=1e-14)


def test_other_losses(backend):
    x, t = bars()
    net = dn.Sequential([dn.Flatten(), dn.Dense(1)])
    history = net.fit(x, t[:, None].astype("float32"), loss="binary_cross_entropy", epochs=3, verbose=0)
    assert set(history) == {"loss", "accuracy", "seconds"} and "accuracy" in net.evaluate(
        x, t[:, None].astype("float32")
    )
    net = dn.Sequential([dn.Flatten(), dn.Dense(1)])
    history = net.fit(x, t[:, None].astype("float32"), loss=dn.losses.mean_squared_error, epochs=3, verbose=0)
    assert set(history) == {"loss", "seconds"} and set(net.evaluate(x, t[:, None].astype("float32"))) == {"loss"}
    one_hot = np.eye(2, dtype="float32")[t]
    net = dn.Sequential([dn.Flatten(), dn.Dense(2)])
    assert "accuracy" in net.fit(x, one_hot, verbose=0)


def test_a_plateau_lowers_the_rate(backend):
    x, t = bars(16)
    opt = dn.SGD(lr=dn.schedules.Plateau(1e-9, patience=1, factor=0.5))
    small().fit(x, t, epochs=6, optimizer=opt, verbose=0)
    assert opt.current_lr < 1e-9


def test_predict_of_nothing(backend):
    assert small().predict(bars(8)[0][:0]).shape == (0, 2)


@pytest.mark.parametrize("option", ["shuffle", "capture"])
def test_a_switch_is_on_or_off(option):
    with pytest.raises(TypeError, match=f"fit: {option} must be True or False, got 'no'"):
        small().fit(*bars(8), **{option: "no"}, verbose=0)


def test_an_epoch_is_in_order_or_shuffled(backend):
    x, t = bars(24)
    seen = {}
    for shuffle in (True, False):
        for place in ("host", "device"):
            data = (x, t) if place == "host" else (dn.asarray(x), dn.asarray(t))
            net = dn.Sequential([dn.Flatten(), dn.Dense(2)])
            net.fit(*data, batch_size=8, shuffle=shuffle, optimizer=dn.SGD(lr=0.1), verbose=0)
            seen[shuffle, place] = dn.to_numpy(net[1].w.value).tobytes()
    assert seen[True, "host"] == seen[True, "device"] != seen[False, "host"] == seen[False, "device"]


def test_stopping_in_the_middle_of_an_epoch_still_ends_it():
    """The figures are those of the steps that were made, the epoch's callbacks are called, and fit ends."""
    x, t = bars(40)
    told = []

    class Watch(dn.Callback):
        def on_epoch_begin(self, run):
            told.append(f"epoch {run.epoch}")

        def on_batch_end(self, run):
            run.stop = run.step == 2

        def on_epoch_end(self, run):
            told.append(sorted(run.logs))

        def on_fit_end(self, run):
            told.append((run.step, run.steps_per_epoch))

    history = small().fit(x, t, epochs=3, batch_size=8, validation_data=(x, t), callbacks=Watch(), verbose=0)
    assert told == ["epoch 0", ["accuracy", "loss", "seconds", "val_accuracy", "val_loss"], (2, 5)]
    assert history.epochs == 1


def test_an_error_in_a_step_still_ends_the_fit():
    x, t = bars(16)
    ended, calls = [], []

    def loss(y, t):
        calls.append(1)
        if len(calls) == 3:  # one try before the first step, and one step
            raise RuntimeError("no")
        return dn.losses.softmax_cross_entropy(y, t)

    callback = dn.Callback()
    callback.on_fit_end = lambda run: ended.append(run.step)
    with pytest.raises(RuntimeError, match="no"):
        small().fit(x, t, batch_size=8, loss=loss, callbacks=callback, verbose=0)
    assert ended == [1]


def test_every_callback_that_has_begun_ends_whatever_happens():
    told = []

    class Told(dn.Callback):
        def __init__(self, name, fails=""):
            self.name, self.fails = name, fails

        def on_fit_begin(self, run):
            if self.fails == "begin":
                raise RuntimeError("begin")
            told.append(f"{self.name} begins")

        def on_fit_end(self, run):
            told.append(f"{self.name} ends")
            if self.fails == "end":
                raise RuntimeError("end")

    for fails in ("end", "begin"):
        told.clear()
        with pytest.raises(RuntimeError, match=fails):
            small().fit(
                *bars(8), callbacks=[Told("a", "end" if fails == "end" else ""), Told("b"), Told("c", fails)], verbose=0
            )
        begun = ["a", "b", "c"] if fails == "end" else ["a", "b"]
        assert told == [f"{name} begins" for name in begun] + [f"{name} ends" for name in begun]


def test_the_history_is_there_whatever_happens(backend):
    (x, t), net = bars(24), small()
    assert net.history == {} and net.history.epochs == 0
    seen = []

    def interrupt(run):
        seen.append(run.net.history is run.history)
        if run.epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        net.fit(x, t, epochs=5, callbacks=interrupt, verbose=0)
    assert seen == [True] * 3 and net.history.epochs == 3 and set(net.history) == {"loss", "accuracy", "seconds"}
    copied = net.copy()
    with pytest.raises(ValueError, match="x holds 24"):
        net.fit(x, t[:3], verbose=0)
    assert net.history.epochs == 3  # a call that does not fit changes nothing
    assert net.fit(x, t, epochs=2, verbose=0) is net.history and net.history.epochs == 2
    assert copied.history.epochs == 3


def test_a_network_from_a_file_has_an_empty_history(tmp_path):
    net = small()
    net.fit(*bars(8), verbose=0)
    assert net.history.epochs == 1 and dn.load(net.save(tmp_path / "net.npz")).history == dn.History()


# -- going on, and building on what was trained ------------------------------------------------------------------------


def test_going_on_is_as_if_training_had_not_stopped(backend, tmp_path):
    x, t = bars(40)
    whole, optimizer = small(), dn.Adam(lr=0.01)
    history = whole.fit(x, t, epochs=4, batch_size=8, optimizer=optimizer, verbose=0)
    first, optimizer = small(), dn.Adam(lr=0.01)
    first.fit(x, t, epochs=2, batch_size=8, optimizer=optimizer, verbose=0)
    path = first.save(tmp_path / "half.npz", optimizer=optimizer)
    optimizer = dn.Adam(lr=0.01)
    second = dn.load(path, optimizer=optimizer)
    rest = second.fit(x, t, epochs=4, initial_epoch=2, batch_size=8, optimizer=optimizer, verbose=0)
    assert rest["loss"] == history["loss"][2:]
    for name, value in whole.state_dict().items():
        assert np.array_equal(dn.to_numpy(value), dn.to_numpy(second.state_dict()[name])), name
    assert second.fit(x, t, epochs=2, initial_epoch=2, verbose=0).epochs == 0


def test_a_new_head_in_its_place_is_drawn_and_the_rest_stays(backend):
    x, t = bars(40)
    net = small()
    w = net[0].w
    before = dn.to_numpy(w.value).copy()
    net.layers[-1] = dn.Dense(2)
    net.fit(x, t, epochs=0, verbose=0)
    assert net[0].w is w and np.array_equal(dn.to_numpy(w.value), before) and net[-1].w.shape == (16, 2)
    other = dn.Sequential([*net.layers[:-1], dn.Dense(3)])
    other.fit(x, t, epochs=1, verbose=0)
    assert other[0].w is w


def test_training_goes_on_with_its_loss(backend):
    x, t = bars(16)
    net, target = small(), np.eye(2, dtype=np.float32)[t]
    assert "accuracy" not in net.fit(x, target, loss="mean_squared_error", verbose=0)
    assert "accuracy" not in net.fit(x, target, verbose=0) and net.loss == "mean_squared_error"
    assert "accuracy" in net.fit(x, target, loss="softmax_cross_entropy", verbose=0)


def test_a_loss_with_options_still_tells_the_accuracy(backend):
    x, t = bars(16)
    smooth = functools.partial(dn.losses.softmax_cross_entropy, label_smoothing=0.1)
    net = small()
    assert "accuracy" in net.fit(x, t, loss=smooth, verbose=0) and "accuracy" in net.evaluate(x, t)
    with pytest.raises(ValueError, match="label 2 is out of range"):
        net.fit(x, t + 1, loss=smooth, verbose=0)


def test_evaluate_and_predict_run_in_inference(backend):
    """Batch norm uses its running statistics, dropout drops nothing, and no state moves."""
    x, t = bars(24)
    net = small()
    net.fit(x, t, epochs=1, batch_size=8, verbose=0)
    before = {name: dn.to_numpy(value).tolist() for name, value in net.state_dict().items()}
    y = net(dn.asarray(x))
    loss = float(dn.to_numpy(dn.losses.softmax_cross_entropy(y, dn.asarray(t))[0]))
    for size in (5, 24):
        assert net.evaluate(x, t, batch_size=size)["loss"] == pytest.approx(loss, rel=1e-5)
        np.testing.assert_allclose(net.predict(x, batch_size=size), dn.to_numpy(y), rtol=1e-4, atol=1e-5)
    assert {name: dn.to_numpy(value).tolist() for name, value in net.state_dict().items()} == before


def test_a_schedule_observes_the_loss_on_held_out_data_if_there_is_some():
    class Seen(dn.schedules.Schedule):
        def __init__(self):
            self.losses = []

        def __call__(self, step):
            return 0.01

        def observe(self, value):
            self.losses.append(value)

    x, t = bars(24)
    for held_out, name in ((None, "loss"), ((x[:8], t[:8]), "val_loss")):
        seen = Seen()
        history = small().fit(x, t, epochs=3, optimizer=dn.SGD(lr=seen), validation_data=held_out, verbose=0)
        assert seen.losses == history[name]


def test_a_negative_loss_that_turns_nan_is_warned_of():
    def falls(y, t):
        value, way = dn.losses.mean_squared_error(y, t)
        return value - 1e3, way

    net, (x, t) = dn.Sequential([dn.Dense(1)]), (np.ones((8, 1), "float32"), np.ones((8, 1), "float32"))

    def spoil(run):
        if run.epoch == 0:
            run.net[0].w.value = run.net[0].w.value * float("nan")

    with pytest.warns(UserWarning, match="the loss is nan in epoch 2"):
        net.fit(x, t, epochs=2, loss=falls, callbacks=spoil, verbose=0)
