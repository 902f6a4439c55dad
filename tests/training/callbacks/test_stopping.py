"""Stopping at a NaN, and what early stopping remembers."""

from __future__ import annotations

import math

import pytest
from bars import bars, small

import dualnet as dn


@pytest.mark.parametrize("every, step", [(1, 3), (2, 4), (3, 3), (10, 8)])
def test_the_first_nan_ends_the_training_at_the_next_look(every, step):
    x, t = bars(64)

    class Spoils(dn.Callback):
        def on_batch_end(self, run):
            if run.step == 2:
                run.net[-1].w.value = run.net[-1].w.value * float("nan")
            self.steps = run.step

    net, spoils = small(), Spoils()
    with pytest.warns(UserWarning) as caught:
        net.fit(x, t, epochs=3, batch_size=8, callbacks=[spoils, dn.callbacks.TerminateOnNaN(every)], verbose=0)
    assert f"the loss is nan in epoch 1, after batch {step}; training was stopped" in str(caught[0].message)
    assert spoils.steps == step and net.history.epochs == 1 and math.isnan(net.history["loss"][0])


def test_a_sound_training_goes_through():
    x, t = bars(64)
    history = small().fit(x, t, epochs=2, batch_size=8, callbacks=dn.callbacks.TerminateOnNaN(1), verbose=0)
    assert history.epochs == 2


def test_early_stopping_goes_on_where_it_was():
    x, t = bars(16)

    def best(run):
        run.logs["figure"] = [3.0, 1.0, 2.0, 2.0, 2.0][run.epoch]

    whole, part, rest = (dn.EarlyStopping(3, monitor="figure") for _ in range(3))
    small().fit(x, t, epochs=5, callbacks=[best, whole], verbose=0)
    small().fit(x, t, epochs=3, callbacks=[best, part], verbose=0)
    assert (part.best, part.waited) == (1.0, 1)
    rest.load_state_dict(part.state_dict())
    assert (rest.best, rest.waited) == (1.0, 1) and rest.weights is not None
    assert (whole.best, whole.waited) == (1.0, 3)
    fresh = dn.EarlyStopping()
    fresh.on_fit_begin(None)
    rest.load_state_dict(fresh.state_dict())
    assert rest.best == math.inf and rest.weights is None
