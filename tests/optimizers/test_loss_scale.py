"""The loss scale of float16: gradients that would vanish are kept, and a step that overflows changes nothing."""

from __future__ import annotations

import numpy as np
import pytest

import dualnet as dn
from dualnet.backend import backend_of
from dualnet.optimizers.loss_scale import all_finite, as_loss_scale, guarded, unscale

SCALE = 2.0**10


def net_of(dtype="float16", seed=0):
    layers = [dn.Conv2D(3, 3), dn.BatchNorm(), dn.ReLU(), dn.Flatten(), dn.Dense(3)]
    return dn.Sequential(layers).init((5, 5, 2), dtype=dtype, seed=seed)


def batch(rng, n=8):
    return dn.asarray(rng.standard_normal((n, 5, 5, 2), dtype="f4")), dn.asarray(rng.integers(0, 3, n))


def step(net, optimizer, scale, x, t):
    """A step as `fit` makes it, by hand."""
    put_back = guarded(net)
    with np.errstate(all="ignore"):
        y, pullback = net.forward(x, train=True)
        loss, dloss = dn.losses.softmax_cross_entropy(y.astype("float32"), t)
        grads = pullback(dloss(scale.on(y)).astype(y.dtype))[1]
        grads, finite = scale.unscale(grads)
        optimizer.step(net, grads, finite=finite)
    put_back(finite)
    scale.update(finite)
    return loss


def state(*owners):
    """Every number that a step may change, as bytes."""
    found = {}
    for owner in owners:
        for name, value in owner.state_dict().items():
            found[type(owner).__name__, name] = dn.to_numpy(value).tobytes() if backend_of(value) else value
    return found


# -- over all gradients ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
def test_one_bad_number_is_found(backend, rng, dtype, bad):
    arrays = [rng.standard_normal(shape).astype(dtype) for shape in ((3,), (), (5, 7), (0,), (2, 2, 2))]
    arrays[3:3] = [np.array([np.finfo(dtype).max, np.finfo(dtype).tiny / 2], dtype)]
    found = all_finite(*map(dn.asarray, arrays))
    assert found.shape == () and found.dtype == bool and bool(dn.to_numpy(found))
    for where in (0, 1, 2, 3, 5):
        worse = [array.copy() for array in arrays]
        worse[where][tuple(n - 1 for n in worse[where].shape)] = bad
        assert not bool(dn.to_numpy(all_finite(*map(dn.asarray, worse)))), where


def test_unscaling_widens(backend, rng):
    given = [rng.standard_normal((4, 3)).astype(dtype) for dtype in ("float16", "float32")]
    by = dn.asarray(np.array(2.0**-7, "f4"))
    for got, want in zip(unscale(by, *map(dn.asarray, given)), given):
        assert got.dtype == "float32" and np.array_equal(dn.to_numpy(got), want.astype("f4") * np.float32(2.0**-7))
    (got,) = unscale(by, dn.asarray(given[0], "float64"))
    assert got.dtype == "float64"


# -- the scale ---------------------------------------------------------------------------------------------------------


def test_it_grows_and_shrinks_between_its_bounds(backend):
    scale, yes, no = dn.LossScale(8.0, interval=3, least=2.0, most=16.0), *map(dn.asarray, (True, False))
    seen = []
    for finite in (yes, yes, yes, yes, yes, yes, no, yes, yes, no, no, no, yes, yes, yes):
        scale.update(finite)
        seen.append((scale.state_dict()["scale"], scale.state_dict()["good"]))
    assert seen == [
        (8, 1), (8, 2), (16, 0), (16, 1), (16, 2), (16, 0), (8, 0), (8, 1), (8, 2), (4, 0), (2, 0), (2, 0), (2, 1),
        (2, 2), (4, 0),
    ]  # fmt: skip
    assert scale.state_dict()["skipped"] == 4


def test_nothing_is_read_back(backend, rng):
    net, optimizer, scale, (x, t) = net_of(), dn.Adam(), dn.LossScale(SCALE), batch(rng)
    step(net, optimizer, scale, x, t)
    y, pullback = net.forward(x, train=True)
    dy = dn.losses.softmax_cross_entropy(y.astype("float32"), t, check_labels=False)[1](scale.on(y)).astype(y.dtype)
    with dn.transfers("forbid"):
        grads, finite = scale.unscale(pullback(dy)[1])
        optimizer.step(net, grads, finite=finite)
        scale.update(finite)


def test_a_fixed_scale_stays(backend):
    scale = dn.FixedLossScale(1000.0)
    for finite in (True, False, True):
        scale.update(dn.asarray(finite))
    assert scale.state_dict() == {"scale": 1000.0, "good": 2, "skipped": 1} and repr(scale) == "FixedLossScale(1000)"


def test_its_state_can_be_saved(backend):
    scale = dn.LossScale(8.0, interval=3)
    for finite in (False, True, True):
        scale.update(dn.asarray(finite))
    again = dn.LossScale(interval=3)
    again.load_state_dict(scale.state_dict())
    assert again.state_dict() == scale.state_dict() == {"scale": 4.0, "good": 2, "skipped": 1}
    for each in (scale, again):
        each.update(dn.asarray(True))
    assert again.state_dict() == scale.state_dict() == {"scale": 8.0, "good": 0, "skipped": 1}
    for wrong in (
        {},
        {"scale": 1.0},
        {"scale": 0.0, "good": 0, "skipped": 0},
        {"scale": 1.0, "good": -1, "skipped": 0},
    ):
        with pytest.raises(ValueError, match="LossScale.load_state_dict"):
            again.load_state_dict(wrong)
    assert again.state_dict()["scale"] == 8.0


def test_it_moves_with_the_network():
    scale = dn.LossScale(8.0)
    for name in ("numpy", "strict", "numpy"):
        with dn.use_backend(name):
            assert backend_of(scale.on(dn.asarray([1.0]))).name == name and scale.state_dict()["scale"] == 8.0
            scale.update(dn.asarray(True))
    assert scale.state_dict()["good"] == 3


@pytest.mark.parametrize("wrong", [
    {"scale": 0.0}, {"scale": np.nan}, {"scale": "auto"}, {"interval": 0}, {"growth": 0.5}, {"backoff": 2.0},
    {"scale": 2.0, "least": 4.0}, {"scale": 2.0**30}, {"least": None},
])  # fmt: skip
def test_what_is_no_scale(wrong):
    with pytest.raises((ValueError, TypeError), match="LossScale: "):
        dn.LossScale(**wrong)


def test_by_name():
    half, single = np.dtype("float16"), np.dtype("float32")
    assert (
        type(as_loss_scale("auto", half)) is dn.LossScale
        and as_loss_scale("auto", single) is None
        and as_loss_scale(None, half) is None
    )
    mine = dn.LossScale()
    assert as_loss_scale(mine, single) is mine and as_loss_scale(64, half).state_dict()["scale"] == 64
    for wrong in ("dynamic", -1, 0, True, [1]):
        with pytest.raises((ValueError, TypeError), match="loss_scale"):
            as_loss_scale(wrong, half)


# -- steps -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [
    lambda: dn.Adam(lr=0.01), lambda: dn.SGD(0.1, momentum=0.9), lambda: dn.AdamW(0.01), lambda: dn.RMSProp(0.01),
    lambda: dn.SGD(0.1, weight_decay=0.1, clip_norm=1.0),
])  # fmt: skip
def test_an_overflowing_step_changes_nothing(backend, rng, make):
    """With one such step in between, training goes on to the very bits that it reaches without."""
    ends = []
    for overflow in (False, True):
        net, optimizer, scale = net_of(), make(), dn.FixedLossScale(SCALE)
        batches = [batch(np.random.default_rng(n)) for n in range(4)]
        for n, (x, t) in enumerate(batches):
            if overflow and n == 2:
                before = state(net, optimizer)
                step(net, optimizer, scale, dn.asarray(np.full(x.shape, np.inf, "f4")), t)
                after = state(net, optimizer)
                changed = {name for key, name in after if after[key, name] != before.get((key, name))}
                assert changed <= {"steps", "skipped"}, changed
            step(net, optimizer, scale, x, t)
        assert scale.state_dict() == {"scale": SCALE, "good": 4, "skipped": int(overflow)}
        ends.append(state(net, optimizer))
        ends[-1] = {key: v for key, v in ends[-1].items() if key[1] not in ("steps", "skipped")}
    assert ends[0] == ends[1]


def test_an_overflow_on_the_way_back_alone(backend, rng):
    """The activations are in order, the scaled error is not: the scale is halved until it fits, and nothing moves."""
    net, optimizer, scale, (x, t) = net_of(), dn.Adam(), dn.LossScale(2.0**24), batch(rng)
    before = state(net)
    step(net, optimizer, scale, x, t)
    assert state(net) == before and scale.state_dict() == {"scale": 2.0**23, "good": 0, "skipped": 1}
    for _ in range(12):
        step(net, optimizer, scale, x, t)
    assert state(net) != before and scale.state_dict()["good"] > 0 and optimizer.steps == 13


def vanishing(dtype, rng):
    """The error that reaches the first layer is about 1e-8."""
    net = dn.Sequential([dn.Dense(8), dn.Tanh(), dn.Dense(2)]).init((4,), dtype=dtype, seed=3)
    last = net.parameters()["2.w"]
    last.value = last.value * 1e-4
    return net


@pytest.mark.parametrize("loss_scale", [None, "auto", 1024.0])
def test_small_gradients_do_not_vanish(backend, rng, loss_scale):
    x = rng.standard_normal((4096, 4), dtype="f4")
    t = (x[:, 0] > 0).astype("int64")
    found = {}
    for dtype in ("float32", "float16"):
        net = vanishing(dtype, rng)
        start = dn.to_numpy(net.parameters()["0.w"].value)
        net.fit(x, t, batch_size=4096, optimizer=dn.Adam(lr=1e-3), loss_scale=loss_scale, verbose=0)
        found[dtype] = dn.to_numpy(net.parameters()["0.w"].value) - start
    if loss_scale is None:
        assert not found["float16"].any() and found["float32"].all()
    else:
        assert (np.sign(found["float16"]) == np.sign(found["float32"])).mean() > 0.95


def test_training_with_a_scale_that_is_too_large(backend):
    (x, t), _ = dn.data.load_digits()
    net = dn.Sequential([dn.Flatten(), dn.Dense(32), dn.ReLU(), dn.Dense(10)]).init((8, 8, 1), dtype="float16")
    scale = dn.LossScale(2.0**24)
    history = net.fit(x[:512], t[:512], epochs=10, optimizer=dn.Adam(lr=5e-3), loss_scale=scale, verbose=0)
    told = scale.state_dict()
    assert 2 < told["skipped"] < 15 and told["good"] + told["skipped"] == 80 and told["scale"] < 2.0**24
    assert history["accuracy"][-1] > 0.85


def test_fit_keeps_running_statistics_in_order(backend, rng):
    """A batch whose activations overflow float16: its mean would be inf for good."""
    net, (x, t) = net_of(), batch(rng)
    start = dn.to_numpy(net[0].w.value)
    net[0].w.value = dn.asarray(start * 6e4)
    before = state(net)
    with pytest.warns(UserWarning, match="the loss is nan in epoch 1"):
        net.fit(x, t, batch_size=8, verbose=0)
    assert state(net) == before
    net[0].w.value = dn.asarray(start)
    net.fit(x, t, batch_size=8, verbose=0)
    assert all(np.isfinite(dn.to_numpy(v)).all() for v in net.state_dict().values()) and state(net) != before


def test_float32_needs_none_and_may_have_one(backend, rng):
    x, t = batch(rng)
    ends = []
    for loss_scale in ("auto", None, 4096.0):
        net = net_of("float32")
        net.fit(x, t, epochs=3, loss_scale=loss_scale, verbose=0)
        ends.append([dn.to_numpy(v) for v in net.state_dict().values()])
    for one, two, three in zip(*ends):
        assert np.array_equal(one, two)
        np.testing.assert_allclose(one, three, rtol=1e-3, atol=1e-5)


def test_no_gradients():
    with pytest.raises(ValueError, match="LossScale.unscale: expected at least one gradient"):
        dn.LossScale().unscale({})


def test_skipped_steps_follow_the_network_to_another_backend():
    """Adam's t counts the steps that changed something, wherever the count was made or loaded."""
    net, opt = dn.Sequential([dn.Dense(2)]).init((3,)), dn.Adam()
    for name, finite in (("strict", False), ("strict", True), ("numpy", None), ("numpy", False), ("strict", True)):
        net.to(name)
        grads = {key: dn.asarray(np.ones(p.shape, "f4"), backend=name) for key, p in net.parameters().items()}
        opt.step(net, grads, finite=None if finite is None else dn.asarray(np.array(finite), backend=name))
        fresh = dn.Adam()
        fresh.load_state_dict(opt.state_dict())
        opt = fresh
    assert opt.steps == 5 and int(dn.to_numpy(opt.state_dict()["skipped"])) == 2


@pytest.mark.parametrize("wrong", [{"scale": 1e39, "most": 1e39}, {"scale": 1e-39, "least": 1e-39}, {"most": 1e300}])
def test_a_scale_that_float32_cannot_hold_is_refused(wrong):
    """It would be infinite, and every step an overflow; or 0, and every gradient infinite."""
    with pytest.raises(ValueError, match=r"LossScale: a scale must be from 1.18e-38 to 8.51e\+37, got"):
        dn.LossScale(**wrong)
    with pytest.raises(ValueError, match="FixedLossScale: a scale must be from"):
        dn.optimizers.loss_scale.FixedLossScale(1e39)
    scale = dn.LossScale(2.0**126, most=2.0**126, interval=1)
    with pytest.raises(ValueError, match="scale must be a number above 0 and at most"):
        scale.load_state_dict({"scale": 1e300, "good": 0, "skipped": 0})
    grads, finite = scale.unscale({"w": dn.asarray([2.0**126, -(2.0**100)])})
    assert dn.to_numpy(grads["w"]).tolist() == [1.0, -(2.0**-26)] and dn.to_numpy(finite)
