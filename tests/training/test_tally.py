"""The tally: loss and right answers over unequal batches are those over all examples, and nothing is read back in
between."""

from __future__ import annotations

import functools

import numpy as np
import pytest

import dualnet as dn
from dualnet.training import tally as tallying
from dualnet.training.tally import Tally

SIZES = ((0, 5), (5, 12), (12, 13))
ACCURATE = [name for name in dn.losses.NAMES if dn.losses.about(name).right is not None]


def drawn(name, rng, n=13):
    y = rng.standard_normal((n, 2, 3) if name == "dice" else (n, 3))
    if name == "kl_divergence":
        return y, np.eye(3)[rng.integers(0, 3, n)]
    if name == "dice":
        return y, rng.integers(0, 2, y.shape)
    return y, rng.integers(0, 3, n) if name.startswith("softmax") else rng.integers(0, 2, (n, 3))


@pytest.mark.parametrize("name", list(dn.losses.NAMES))
def test_batches_add_up_to_all_examples(backend, rng, name):
    y, t = drawn(name, rng)
    function, tally = dn.losses.get(name), Tally(dn.losses.get(name))
    for start, stop in SIZES:
        batch = dn.asarray(y[start:stop]), dn.asarray(t[start:stop])
        tally.add(*batch, function(*batch)[0])
    figures = tally.figures()
    whole = float(dn.to_numpy(function(dn.asarray(y), dn.asarray(t))[0]))
    assert figures["loss"] == pytest.approx(whole, rel=1e-13)
    assert set(figures) == ({"loss", "accuracy"} if name in ACCURATE else {"loss"})
    if name in ACCURATE:
        labels = t.argmax(1) if name == "kl_divergence" else t
        right = y.argmax(1) == labels if t.ndim == 1 or name == "kl_divergence" else (y > 0) == (t == 1)
        assert figures["accuracy"] == right.mean()
    tally.begin()
    assert tally.figures() == {"loss": 0.0}


def test_many_small_batches_lose_no_digits(backend):
    """A loss of one's own is added up as it is; a sum in float32 would drift to 0.69316."""
    value, tally = dn.asarray(np.log(2.0), "float32"), Tally(lambda y, t: None)
    batch = dn.asarray(np.zeros((8, 2)), "float32")
    for _ in range(20_000):
        tally.add(batch, batch, value)
    assert tally.figures()["loss"] == pytest.approx(float(np.float32(np.log(2.0))), rel=1e-14)


@pytest.mark.parametrize("name", list(dn.losses.NAMES))
def test_the_mean_does_not_depend_on_the_batches(backend, rng, name):
    """float32 outputs: in any batches the float64 mean over the examples, and log 2 for all-zero logits."""
    y, t = drawn(name, rng, 2048)
    y32, means = y.astype("float32"), []
    whole = float(dn.to_numpy(dn.losses.get(name)(dn.asarray(y32, "float64"), dn.asarray(t))[0]))
    for size in (8, 64, 1000, 2048):
        tally = Tally(dn.losses.get(name))
        for start in range(0, len(y), size):
            tally.add(dn.asarray(y32[start : start + size]), dn.asarray(t[start : start + size]))
        means.append(tally.figures()["loss"])
    assert means == pytest.approx([whole] * 4, rel=1e-13)


@pytest.mark.parametrize("size", [8, 1000])
def test_all_zero_weights_have_a_loss_of_log_2(backend, size):
    net = dn.Sequential([dn.Flatten(), dn.Dense(2, initializer="zeros")]).init((2,))
    x, t = np.ones((4000, 2), "float32"), np.arange(4000) % 2
    assert net.evaluate(x, t, batch_size=size)["loss"] == pytest.approx(np.log(2.0), rel=1e-14)
    seen = net.fit(x, t, batch_size=size, optimizer=dn.SGD(lr=1e-30), verbose=0)
    assert seen["loss"][0] == pytest.approx(np.log(2.0), rel=1e-14)


def test_large_outputs_are_read_in_parts(backend, rng, monkeypatch):
    y, t = rng.standard_normal((7, 4, 5, 3)).astype("float32"), rng.integers(0, 3, (7, 4, 5))
    figures = []
    for at_once in (2**21, 130, 1):
        monkeypatch.setattr(tallying, "AT_ONCE", at_once)
        tally = Tally(dn.losses.softmax_cross_entropy)
        tally.add(dn.asarray(y), dn.asarray(t))
        figures.append(tally.figures()["loss"])
    assert figures == pytest.approx([figures[0]] * 3, rel=1e-14)


def test_answers_for_every_place_of_a_map(backend, rng):
    """Class numbers and one-hot targets of maps: each place is an answer."""
    y, t = rng.standard_normal((2, 4, 5, 3)), rng.integers(0, 3, (2, 4, 5))
    for target in (t, np.eye(3)[t]):
        tally = Tally(dn.losses.softmax_cross_entropy)
        tally.add(dn.asarray(y), dn.asarray(target), dn.asarray(0.0))
        assert tally.figures()["accuracy"] == (y.argmax(-1) == t).mean() and tally.answers == 40


def test_a_loss_of_ones_own_and_one_with_options(rng):
    y, t = rng.standard_normal((4, 2)), np.asarray([0, 1, 1, 0])
    smooth = functools.partial(dn.losses.softmax_cross_entropy, label_smoothing=0.1)
    for loss, names in ((smooth, {"loss", "accuracy"}), (lambda y, t: dn.losses.huber(y, t), {"loss"})):
        tally = Tally(loss)
        tally.add(y, t, np.asarray(1.0))
        assert set(tally.figures()) == names


def test_only_reading_the_figures_waits_for_the_device(rng):
    with dn.use_backend("strict"):
        y, t = (dn.asarray(a) for a in drawn("softmax_cross_entropy", rng))
        whole = float(dn.to_numpy(dn.losses.softmax_cross_entropy(y, t)[0]))
        tally = Tally(dn.losses.softmax_cross_entropy)
        with dn.transfers("forbid"):
            tally.add(y, t)
            tally.add(y, t)
        with dn.transfers("count") as moved:
            assert tally.figures()["loss"] == pytest.approx(whole, rel=1e-14)
        assert (moved.to_host, moved.to_device) == (2, 0)
