"""Callbacks: when they are called, early stopping, what can be a callback; and the history that they read."""

from __future__ import annotations

import math

import numpy as np
import pytest
from bars import bars, small

import dualnet as dn
from dualnet.history import best_epoch, in_one_line
from dualnet.training.tally import Tally


def test_callbacks_and_early_stopping(backend):
    x, t = bars(32)
    told = []

    class Watch(dn.Callback):
        def on_fit_begin(self, run):
            told.append("begin")

        def on_batch_end(self, run):
            run.stop = run.step == 5

        def on_fit_end(self, run):
            told.append("end")

    history = small().fit(
        x, t, epochs=9, batch_size=8, callbacks=[Watch(), lambda run: told.append(run.epoch)], verbose=0
    )
    assert told == ["begin", 0, 1, "end"] and history.epochs == 2

    net = small()
    best = []
    stop = dn.EarlyStopping(patience=1)
    worse = dn.schedules.Step(0.01, every=8, factor=1.0)
    opt = dn.SGD(lr=worse)

    def spoil(run):  # from the second epoch on, the weights get worse
        best.append(run.logs["val_loss"])
        if run.epoch >= 1:
            run.net.layers[-1].w.value = run.net.layers[-1].w.value * -3.0

    history = net.fit(
        x, t, epochs=9, batch_size=8, optimizer=opt, validation_data=(x, t), callbacks=[stop, spoil], verbose=0
    )
    assert history.epochs < 9
    assert net.evaluate(x, t)["loss"] == pytest.approx(min(best), abs=1e-6)


@pytest.mark.parametrize("patience, epochs", [(0, 2), (1, 2), (2, 3), (3, 4)])
def test_patience_counts_the_epochs_that_were_no_better(patience, epochs):
    x, t = bars(16)
    stop, net = dn.EarlyStopping(patience=patience, monitor="worse"), small()

    def worse(run):
        run.logs["worse"] = run.epoch

    history = net.fit(x, t, epochs=9, callbacks=[worse, stop], verbose=0)
    assert history.epochs == epochs and history["worse"] == list(range(epochs))


@pytest.mark.parametrize(
    "monitor, mode, kept",
    [("kappa", "max", 4), ("kappa", "min", 0), ("kappa", "auto", 0), ("my_accuracy", "auto", 4), ("my_f1", "auto", 4)],
)
def test_what_is_better(monitor, mode, kept):
    """A figure that grows: the last weights are the best, or the first."""
    x, t = bars(16)
    seen = []

    def score(run):
        run.logs[monitor] = 0.1 * run.epoch
        seen.append(dn.to_numpy(run.net[-1].w.value).copy())

    net = small()
    net.fit(x, t, epochs=5, callbacks=[score, dn.EarlyStopping(9, monitor=monitor, mode=mode)], verbose=0)
    assert np.array_equal(dn.to_numpy(net[-1].w.value), seen[kept])
    with pytest.raises(ValueError, match="mode must be 'auto', 'max' or 'min', got 'most'"):
        dn.EarlyStopping(mode="most")


def stopped_by(figures, monitor="figure", **options):
    """How many epochs there are with these figures, and in which one the kept weights were the network's."""
    net, seen = small(), []

    def score(run):
        run.logs[monitor] = figures[run.epoch]
        seen.append(dn.to_numpy(run.net[-1].w.value).copy())

    stop = dn.EarlyStopping(monitor=monitor, **options)
    history = net.fit(*bars(16), epochs=len(figures), callbacks=[score, stop], verbose=0)
    kept = dn.to_numpy(net[-1].w.value)
    return history.epochs, next(i for i, w in enumerate(seen) if np.array_equal(w, kept))


@pytest.mark.parametrize(
    "figures, options, wanted",
    [
        ([1.0, 0.95, 0.89, 0.8, 0.79], {"least": 0.1, "patience": 2}, (5, 2)),  # 0.11 better, then 0.09 and 0.10
        ([1.0, 0.95, 0.89, 0.8, 0.79], {"patience": 2}, (5, 4)),
        ([1.0, 0.95, 0.91, 0.8], {"least": 0.1, "patience": 2}, (3, 0)),  # small gains count against the best
        ([-1.0, -1.05, -1.2, -1.25, -1.28], {"least": 0.1, "patience": 2}, (5, 2)),  # losses may be below 0
        ([1.0, 1.05, 1.2, 1.25, 1.28], {"least": 0.1, "patience": 2, "mode": "max"}, (5, 2)),
        ([-1.0, -0.95, -0.8, -0.75], {"least": 0.1, "patience": 1, "mode": "max"}, (2, 0)),
        ([1.0, 0.75, 0.5], {"least": 0.25, "patience": 1}, (2, 0)),  # "by more than": 0.25 is not enough
        ([math.nan, 1.0, math.nan, 0.9], {"patience": 2}, (4, 3)),
        ([1.0, math.inf, -math.inf], {"patience": 2}, (3, 2)),
    ],
)
def test_the_least_improvement(figures, options, wanted):
    assert stopped_by(figures, **options) == wanted


@pytest.mark.parametrize("least", [-0.1, math.nan, math.inf, "much"])
def test_a_least_improvement_that_is_none(least):
    with pytest.raises((TypeError, ValueError), match="EarlyStopping: least must be"):
        dn.EarlyStopping(least=least)


# -- a callback that raises --------------------------------------------------------------------------------------------

EVENTS = ["on_fit_begin", "on_epoch_begin", "on_batch_end", "on_epoch_end", "on_fit_end"]


class Told(dn.Callback):
    """Notes what it is told, and raises at one event."""

    def __init__(self, name, notes, raises=None, error=RuntimeError):
        for event in EVENTS:
            setattr(self, event, self.noting(name, notes, event, event == raises, error))

    def noting(self, name, notes, event, raises, error):
        def hook(run):
            notes.append((name, event))
            if raises:
                raise error(f"{name} in {event}")

        return hook


@pytest.mark.parametrize("error", [RuntimeError, MemoryError, KeyboardInterrupt])
@pytest.mark.parametrize("event", EVENTS[1:])
@pytest.mark.parametrize("guilty", [0, 1, 2])
def test_the_end_is_told_to_all_callbacks_whichever_raises(event, guilty, error):
    notes, net = [], small()
    callbacks = [Told(i, notes, event if i == guilty else None, error) for i in range(3)]
    with pytest.raises(error, match=f"{guilty} in {event}"):
        net.fit(*bars(16), epochs=2, batch_size=8, callbacks=callbacks, verbose=0)
    ends = [name for name, told in notes if told == "on_fit_end"]
    assert ends == [0, 1, 2] and notes[-3:] == [(i, "on_fit_end") for i in range(3)]
    before = {"on_epoch_begin": 0, "on_batch_end": 1, "on_epoch_end": 2, "on_fit_end": 4}[event]
    assert notes.count((0, "on_batch_end")) == before, "it ended where the error was"


@pytest.mark.parametrize("guilty", [0, 1, 2])
def test_who_has_not_begun_is_not_ended(guilty):
    notes = []
    callbacks = [Told(i, notes, "on_fit_begin" if i == guilty else None) for i in range(3)]
    with pytest.raises(RuntimeError, match=f"{guilty} in on_fit_begin"):
        small().fit(*bars(16), callbacks=[*callbacks, dn.EarlyStopping()], verbose=0)
    assert [name for name, told in notes if told == "on_fit_end"] == list(range(guilty))
    assert not [told for _, told in notes if told == "on_batch_end"]


def test_the_best_weights_are_back_also_after_an_error_elsewhere():
    seen, net = [], small()

    def spoil(run):
        seen.append(dn.to_numpy(run.net[-1].w.value).copy())
        run.logs["figure"] = [1.0, 0.5, 0.9][run.epoch]
        if run.epoch == 2:
            raise RuntimeError("in the third epoch")

    callbacks = [spoil, dn.EarlyStopping(9, monitor="figure"), Told("last", [], "on_fit_end", ValueError)]
    with pytest.raises(ValueError, match="last in on_fit_end") as caught:
        net.fit(*bars(16), epochs=5, callbacks=callbacks, verbose=0)
    assert "in the third epoch" in str(caught.value.__context__), "the first error is not lost"
    assert len(seen) == 3 and np.array_equal(dn.to_numpy(net[-1].w.value), seen[1])


def test_one_callback_needs_no_list():
    x, t = bars(16)
    assert small().fit(x, t, epochs=5, callbacks=dn.EarlyStopping(patience=9), verbose=0).epochs == 5
    told = []
    small().fit(x, t, epochs=2, callbacks=told.append, verbose=0)
    assert len(told) == 2


def test_a_callback_must_be_one():
    for given in ([3], None, "stop", dn.EarlyStopping, [dn.EarlyStopping]):
        with pytest.raises(TypeError, match="a callback must be a dn.Callback or a function") as caught:
            small().fit(*bars(8), callbacks=given, verbose=0)
    assert str(caught.value).endswith("Write EarlyStopping().")
    small().fit(*bars(8), callbacks=iter([dn.Callback()]), verbose=0)


# -- the history -------------------------------------------------------------------------------------------------------


def test_a_history_grows_by_an_epoch():
    history = dn.History()
    assert history.epochs == 0 and str(history) == "no epochs"
    history.add({"loss": 0.5, "seconds": 1.25})
    history.add({"loss": 0.25, "seconds": 1.0, "f1": 0.75})
    assert history == {"loss": [0.5, 0.25], "seconds": [1.25, 1.0], "f1": [0.75]} and history.epochs == 2
    lines = str(history).splitlines()
    assert lines[1] == "epoch   2  loss 0.2500  seconds 1.0 s" and "f1 0.7500" in lines[0]
    for wrong in ("0.5", [0.5], {"mean": 0.5}):
        with pytest.raises(TypeError, match="History: loss is .*; expected a number, one for each epoch"):
            history.add({"loss": wrong})


def test_what_a_callback_adds_is_in_the_history_once():
    def add(run):
        run.logs["loss"] = 0.0  # noted already
        run.logs["epoch"] = run.epoch

    history = small().fit(*bars(16), epochs=2, callbacks=add, verbose=0)
    assert history["epoch"] == [0, 1] and len(history["loss"]) == 2 and 0.0 not in history["loss"]


@pytest.mark.parametrize(
    "name, values, place",
    [
        ("loss", [3.0, 1.0, 2.0], 1),
        ("val_accuracy", [0.1, 0.9, 0.9], 1),
        ("loss", [math.nan, math.inf, 2.0], 2),
        ("loss", [math.nan], None),
        ("accuracy", [], None),
        ("kappa", [0.1, 0.2], None),
        ("val_f1", [0.1, 0.2], 1),
        ("top5", [0.3, 0.2], 0),
    ],
)
def test_the_best_epoch(name, values, place):
    assert best_epoch(name, values) == place


def test_figures_in_one_line():
    assert in_one_line({"loss": 1.0, "val_accuracy": 0.123456}) == "loss 1.0000  val_accuracy 0.1235"
    assert in_one_line({}) == ""


def test_a_figure_that_is_not_there():
    with pytest.raises(
        ValueError, match="EarlyStopping: there is no figure 'val_loss'; this training has loss, accuracy, seco"
    ):
        small().fit(*bars(8), callbacks=dn.EarlyStopping(monitor="val_loss"), verbose=0)


def test_figures_within_an_epoch_are_those_so_far_and_are_read_only_when_asked_for(backend, monkeypatch):
    x, t = bars(32)
    looks, seen, glance = [], [], Tally.glance

    class Look(dn.Callback):
        def on_batch_end(self, run):
            if run.step in (1, 3, 4, 8):
                assert run.logs is run.logs
                seen.append((run.step, run.batch, run.logs["loss"]))

    net = dn.Sequential([dn.Flatten(), dn.Dense(2)])
    options = {"batch_size": 8, "optimizer": dn.SGD(1e-30), "shuffle": False, "verbose": 0}
    with monkeypatch.context() as patched:
        patched.setattr(Tally, "glance", lambda tally: looks.append(1) or glance(tally))
        history = net.fit(x, t, epochs=2, callbacks=Look(), **options)
    asked = len(looks)
    looks.clear()
    with monkeypatch.context() as patched:
        patched.setattr(Tally, "glance", lambda tally: looks.append(1) or glance(tally))
        net.fit(x, t, epochs=2, **options)
    assert asked - len(looks) == 4
    assert [(step, batch) for step, batch, _ in seen] == [(1, 1), (3, 3), (4, 4), (8, 4)]
    assert seen[2][2] == history["loss"][0] and seen[3][2] == history["loss"][1]
    # the rate is next to nothing, so the first batch has the loss that it has now
    assert seen[0][2] == net.evaluate(x[:8], t[:8], batch_size=8)["loss"]


def test_nobody_looks_nothing_is_read(backend):
    """Copies to the host in an epoch are as many with a callback that looks at nothing."""
    x, t = bars(32)

    def copies(*callbacks):
        with dn.transfers("count") as counted:
            small().fit(x, t, batch_size=4, callbacks=callbacks, verbose=0)
        return counted.to_host

    class Passive(dn.Callback):
        def on_batch_end(self, run):
            self.step = run.step

    class Looks(dn.Callback):
        def on_batch_end(self, run):
            self.loss = run.logs["loss"]

    assert copies() == copies(Passive())
    assert (copies() < copies(Looks())) == (not dn.backend.load(backend).on_host)


def test_the_moment_between_the_last_step_and_validation():
    x, t = bars(16)
    told = []

    class Moments(dn.Callback):
        def on_batch_end(self, run):
            told.append(f"step {run.step}")

        def on_steps_end(self, run):
            told.append("steps end")

        def on_epoch_end(self, run):
            told.append(f"epoch end {'val_loss' in run.logs}")

    small().fit(x, t, epochs=2, batch_size=8, validation_data=(x, t), callbacks=Moments(), verbose=0)
    assert told == [
        "step 1",
        "step 2",
        "steps end",
        "epoch end True",
        "step 3",
        "step 4",
        "steps end",
        "epoch end True",
    ]


def test_a_training_that_goes_on_says_so():
    x, t = bars(16)
    told = []

    class Begin(dn.Callback):
        def on_fit_begin(self, run):
            told.append((run.goes_on, run.epoch))

    for first in (0, 1):
        small().fit(x, t, epochs=2, initial_epoch=first, callbacks=Begin(), verbose=0)
    assert told == [(False, 0), (True, 1)]
