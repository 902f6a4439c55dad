"""The learning rate finder: what it tries, what it suggests, and that it leaves everything as it was."""

from __future__ import annotations

import numpy as np
import pytest

import dualnet as dn

(X, T), TEST = dn.data.load_digits()


def state(net, optimizer):
    values = {**net.state_dict(), **optimizer.state_dict()}
    return {name: np.array(dn.to_numpy(value)) for name, value in values.items()}


def test_the_rates_grow_by_one_factor_and_the_losses_are_those_of_the_batches():
    losses = []

    def batch_loss(y, t):
        value, dloss = dn.losses.softmax_cross_entropy(y, t)
        losses.append(float(dn.to_numpy(value)))
        return value, dloss

    net = dn.Sequential([dn.Flatten(), dn.Dense(10)])
    found = dn.callbacks.LearningRateFinder(1e-4, 1e-1, steps=30).find(
        net, X, T, loss=batch_loss, optimizer=dn.SGD(1.0)
    )
    assert len(found.rates) == len(found.losses) == 30
    assert found.rates[0] == 1e-4 and found.rates[-1] == pytest.approx(0.1)
    ratios = np.diff(np.log(found.rates))
    assert np.allclose(ratios, ratios[0])
    full = [k for k in range(30) if (k + 1) % 23]  # the last batch of an epoch is smaller
    taken = losses[-30:]  # before them, one example is tried
    assert np.allclose(np.array(found.losses)[full[:20]], np.array(taken)[full[:20]], rtol=1e-5)
    assert net.input_shape is None


def test_it_stops_when_the_loss_explodes_and_suggests_a_rate_that_trains():
    net = dn.models.digits_cnn().init((8, 8, 1))
    optimizer = dn.SGD(0.01, momentum=0.9)
    net.fit(X, T, optimizer=optimizer, verbose=0)
    before, history = state(net, optimizer), net.history
    found = dn.callbacks.LearningRateFinder(1e-5, 100.0, steps=100).find(net, X, T, optimizer=optimizer)
    assert len(found.rates) < 100 and 1e-5 < found.suggestion < found.rates[-1] / 10
    after = state(net, optimizer)
    assert before.keys() == after.keys() and all(np.array_equal(before[n], after[n]) for n in before)
    assert net.history is history
    fresh = dn.models.digits_cnn()
    history = fresh.fit(X, T, epochs=2, optimizer=dn.SGD(found.suggestion, momentum=0.9), verbose=0)
    assert history["loss"][-1] < history["loss"][0]


def test_the_picture():
    pytest.importorskip("matplotlib").use("agg")
    finder = dn.callbacks.LearningRateFinder(steps=20)
    with pytest.raises(ValueError, match="no rates have been tried yet"):
        _ = finder.suggestion
    ax = finder.find(dn.Sequential([dn.Flatten(), dn.Dense(10)]), X, T).plot()
    assert ax.get_xscale() == "log" and list(ax.lines[0].get_xdata()) == finder.rates
    assert list(ax.lines[2].get_xdata()) == [finder.suggestion] * 2
    ax.figure.clear()


@pytest.mark.parametrize(
    "arguments, told",
    [
        ({"least": 1.0, "most": 0.1}, "expected most to be larger"),
        ({"steps": 3}, "steps must be at least 10"),
        ({"least": 0}, "least must be a finite number above 0"),
    ],
)
def test_arguments_that_make_no_sense(arguments, told):
    with pytest.raises(ValueError, match=told):
        dn.callbacks.LearningRateFinder(**arguments)


def test_what_it_sets_itself_is_refused():
    with pytest.raises(ValueError, match="find: leave out callbacks, epochs"):
        dn.callbacks.LearningRateFinder().find(dn.Dense(2), X, T, epochs=3, callbacks=[])
