"""``accumulate=k``: k small batches make the step of one large one."""

from __future__ import annotations

import numpy as np
import pytest
from bars import bars, small

import dualnet as dn
from dualnet.training.accumulating import added, apart, grouped, shares
from dualnet.training.weighting import Weighting

X, T = bars(40)


def network(seed=0, dtype="float64"):
    """Without batch norm and dropout, whose batches are the small ones."""
    return dn.Sequential([dn.Conv2D(4, 3), dn.ReLU(), dn.Flatten(), dn.Dense(2)]).init(
        (6, 6, 1), seed=seed, dtype=dtype
    )


def trained(x=X, t=T, dtype="float64", **options):
    net = network(dtype=dtype)
    options = {"epochs": 3, "optimizer": dn.SGD(lr=0.1, momentum=0.9), "verbose": 0} | options
    history = net.fit(x, t, **options)
    return np.concatenate([dn.to_numpy(p.value).ravel() for p in net.parameters().values()]), history


@pytest.mark.parametrize("size, k", [(10, 2), (4, 5), (3, 5), (7, 4), (40, 3)])  # 40 examples: uneven ends in three
def test_small_batches_make_the_step_of_a_large_one(backend, size, k):
    small_ones, history = trained(batch_size=size, accumulate=k)
    large, expected = trained(batch_size=size * k)
    np.testing.assert_allclose(small_ones, large, rtol=1e-11, atol=1e-13)
    assert history["loss"] == pytest.approx(expected["loss"], rel=1e-12) and history["accuracy"] == expected["accuracy"]


def test_uneven_batches_in_weights_as_well(backend, rng):
    options = {"sample_weight": rng.uniform(0.1, 3.0, 40), "class_weight": {1: 4.0}, "ignore_label": 7}
    t = np.where(np.arange(40) % 6 == 0, 7, T)
    small_ones, history = trained(t=t, batch_size=7, accumulate=3, **options)
    large, expected = trained(t=t, batch_size=21, **options)
    np.testing.assert_allclose(small_ones, large, rtol=1e-10, atol=1e-13)
    assert history["loss"] == pytest.approx(expected["loss"], rel=1e-11)


def test_a_batch_that_is_ignored_as_a_whole_takes_no_part(backend):
    t = T.copy()
    t[:8] = -1
    one, _ = trained(t=t, batch_size=8, accumulate=2, ignore_label=-1, shuffle=False, epochs=1)
    other, _ = trained(t=t, batch_size=16, ignore_label=-1, shuffle=False, epochs=1)
    np.testing.assert_allclose(one, other, rtol=1e-11, atol=1e-13)
    one, history = trained(t=t * 0 - 1, batch_size=8, accumulate=2, ignore_label=-1, optimizer=dn.SGD(lr=1.0))
    assert history["loss"] == [0.0] * 3 and np.isfinite(one).all()


def test_the_optimizer_steps_once_for_k_batches(backend):
    seen, optimizer = [], dn.SGD(lr=0.1)
    net = small()
    net.fit(
        X, T, batch_size=8, accumulate=2, optimizer=optimizer, verbose=0,
        callbacks=lambda run: seen.append((run.step, run.steps_per_epoch)),
    )  # fmt: skip
    assert seen == [(3, 3)] and optimizer.steps == 3
    batches = [(X[i : i + 8], T[i : i + 8]) for i in range(0, 40, 8)]
    optimizer = dn.SGD(lr=0.1)
    small().fit(iter(batches), accumulate=2, steps_per_epoch=2, epochs=1, optimizer=optimizer, verbose=0)
    assert optimizer.steps == 2


def test_batch_norm_sees_the_small_batches(backend):
    """Twice the same small batch: its statistics, and the gradient of one of them."""
    once, twice = small(), small()
    once.layers[4] = twice.layers[4] = dn.Identity()  # no dropout
    pair = [(X[:8], T[:8]), (X[:8], T[:8])]
    once.fit(pair[:1], optimizer=dn.SGD(lr=0.1), verbose=0)
    twice.fit(pair, accumulate=2, optimizer=dn.SGD(lr=0.1), verbose=0)
    for name, p in once.parameters().items():
        np.testing.assert_allclose(dn.to_numpy(p.value), dn.to_numpy(twice.parameters()[name].value), rtol=1e-5)


def test_captured_steps_accumulate_too(backend):
    one, history = trained(batch_size=10, accumulate=2, capture=True)
    other, expected = trained(batch_size=10, accumulate=2)
    assert (one == other).all() and history["loss"] == expected["loss"]


def test_float16_accumulates_in_float32(backend):
    one, history = trained(dtype="float16", batch_size=10, accumulate=4)
    assert np.isfinite(one).all() and history["loss"][-1] < history["loss"][0]
    half = {"w": dn.asarray([2.0**11], "float16")}
    assert dn.to_numpy(added(half, {"w": dn.asarray([1.0], "float16")})["w"]).tolist() == [2049.0]


def test_the_batch_of_a_nan_is_named(backend):
    x = X.copy()
    x[27] = np.nan
    with pytest.warns(UserWarning, match="x holds NaN"):
        with pytest.raises(FloatingPointError, match="fit: epoch 1, batch 4: the batch of inputs x holds 36 NaN"):
            trained(x, batch_size=8, accumulate=2, shuffle=False, check_finite=True)


def test_the_batch_of_a_nan_is_named_in_a_training_that_goes_on(backend, tmp_path):
    x, hook, seen = X.copy(), dn.Callback(), []
    x[35] = np.nan

    def interrupt(run):
        seen.append(run.step)
        if len(seen) == 2:
            raise KeyboardInterrupt

    hook.on_batch_end = interrupt
    options = {"batch_size": 8, "accumulate": 2, "shuffle": False, "check_finite": True, "resume": tmp_path}
    with pytest.warns(UserWarning, match="x holds NaN"), pytest.raises(KeyboardInterrupt):
        trained(x, checkpoint_every=1, callbacks=hook, **options)
    with pytest.warns(UserWarning, match="x holds NaN"):
        with pytest.raises(FloatingPointError, match="fit: epoch 1, batch 5: the batch of inputs x holds 36 NaN"):
            trained(x, checkpoint_every=1, callbacks=hook, **options)


def test_shares_add_up(backend):
    x, t = dn.asarray(np.zeros((3, 1))), dn.asarray(np.array([0, 1, 1]))
    weighting = Weighting(dn.asarray(np.array([1.0, 2.0])))
    parts = shares([(x, t, None), (x[:1], t[:1], None)], weighting)
    assert [dn.to_numpy(part).item() for part in parts] == pytest.approx([5 / 6, 1 / 6])
    assert [len(apart(some)) for some in grouped([(x, t, None)] * 5, 2, False)] == [2, 2, 1]


def test_wrong_numbers():
    for wrong in (0, -1, 1.5, "2"):
        with pytest.raises((ValueError, TypeError), match="fit: accumulate"):
            trained(accumulate=wrong)
