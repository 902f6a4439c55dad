"""Focal losses, hinge, Kullback and Leibler, Dice, cosine: by hand, against their neighbours, at their limits."""

from __future__ import annotations

import math

import numpy as np
import pytest
import reference
from oracles import DIFFERENCE, error, hidden, tau

import dualnet as dn

INF, NAN = float("inf"), float("nan")


def run(name, y, t, weights=None, dtype="float64", **options):
    y = dn.asarray(y, dtype)
    given = [] if weights is None else [dn.asarray(weights)]
    loss, pullback = getattr(dn.losses, name)(y, dn.asarray(t), *given, **options)
    hidden(pullback)
    dy = pullback()
    assert loss.shape == () and loss.dtype == dy.dtype == y.dtype and dy.shape == y.shape
    return dn.to_numpy(loss)[()], dn.to_numpy(dy)


def prove(name, y, t, weights=None, **options):
    """Loops, and the slope of the loss along a random direction."""
    loss, dy = run(name, y, t, weights, **options)
    given = [] if weights is None else [weights]
    assert error(loss, getattr(reference, name)(y, t, *given, **options)) <= tau("float64", y.size)
    want = getattr(reference, f"{name}_backward")(y, t, *given, **options)
    assert np.linalg.norm(dy - want) <= tau("float64", y.size) * max(np.linalg.norm(want), 1 / y.size)
    v, h = np.random.default_rng(1).standard_normal(y.shape), 1e-6
    ends = [run(name, y + sign * h * v, t, weights, **options)[0] for sign in (1, -1)]
    assert abs(np.vdot(v, dy) - (ends[0] - ends[1]) / (2 * h)) <= DIFFERENCE * max(1.0, abs(np.vdot(v, dy)))


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0, 5.0])
@pytest.mark.parametrize("weighted", [False, True])
def test_focal(backend, rng, gamma, weighted):
    y, labels = 2 * rng.standard_normal((6, 2, 4)), rng.integers(0, 4, (6, 2))
    w = rng.uniform(0, 2, 6) if weighted else None
    prove("softmax_focal", y, labels, w, gamma=gamma)
    prove("softmax_focal", y, rng.dirichlet(np.ones(4), (6, 2)), w, gamma=gamma)
    prove("binary_focal", y, rng.integers(0, 2, y.shape), w, gamma=gamma)
    prove("binary_focal", y, rng.uniform(0, 1, y.shape), w, gamma=gamma)


@pytest.mark.parametrize("weighted", [False, True])
def test_the_others(backend, rng, weighted):
    y, w = 2 * rng.standard_normal((6, 2, 4)), rng.uniform(0, 2, 6) if weighted else None
    prove("hinge", y, rng.integers(0, 2, y.shape), w)
    prove("kl_divergence", y, rng.dirichlet(np.ones(4), (6, 2)), w)
    prove("dice", y, rng.uniform(0, 1, y.shape), w, smooth=0.5)
    prove("cosine_distance", y, rng.standard_normal(y.shape), w)


def test_without_its_exponent_a_focal_loss_is_a_cross_entropy(backend, rng):
    y, labels, answers = 3 * rng.standard_normal((6, 4)), rng.integers(0, 4, 6), rng.integers(0, 2, (6, 4))
    for focal, plain, t in (
        ("softmax_focal", "softmax_cross_entropy", labels),
        ("binary_focal", "binary_cross_entropy", answers),
    ):
        (loss, dy), (want, want_dy) = run(focal, y, t, gamma=0.0), run(plain, y, t)
        assert loss == pytest.approx(want, rel=1e-14) and error(dy, want_dy) <= tau("float64", 4)


def test_two_classes_are_a_yes_or_no(backend, rng):
    y, t = rng.standard_normal(9), rng.integers(0, 2, 9)
    loss, dy = run("binary_focal", y, t, gamma=1.5)
    same, same_dy = run("softmax_focal", np.stack([0 * y, y], axis=1), t, gamma=1.5)
    assert loss == pytest.approx(same, rel=1e-13) and error(dy, same_dy[:, 1]) <= tau("float64", 4)


def test_what_is_easy_counts_little(backend):
    """At p = 0.9, (1 − p)² is a hundredth."""
    y = [[math.log(9.0), 0.0]]
    assert run("softmax_focal", y, [0])[0] == pytest.approx(0.01 * run("softmax_cross_entropy", y, [0])[0])


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_at_the_limits(backend, dtype, gamma):
    for y, t, want, delta in [
        (INF, 1, 0, 0),
        (-INF, 0, 0, 0),
        (1e4, 0, 1e4, 1),
        (-1e4, 1, 1e4, -1),
        (-INF, 1, INF, -1),
    ]:
        loss, dy = run("binary_focal", [y], [t], dtype=dtype, gamma=gamma)
        assert loss == pytest.approx(want, rel=2e-3 if dtype == "float16" else 1e-6) and dy.tolist() == [delta]
    for y, want, delta in [([1e4, -1e4], 0, [0, 0]), ([-1e4, 1e4], 2e4, [-1, 1]), ([0, -INF], 0, [0, 0])]:
        loss, dy = run("softmax_focal", [y], [0], dtype=dtype, gamma=gamma)
        assert loss == pytest.approx(want, rel=2e-3 if dtype == "float16" else 1e-6) and dy.tolist() == [delta]


def test_hinge_by_hand(backend):
    loss, dy = run("hinge", [2.0, 0.5, -3.0, 1.0, -INF], [1, 1, 1, 1, 0])
    assert loss == 4.5 / 5 and dy.tolist() == [0, -0.2, -0.2, 0, 0]


def test_a_divergence_is_a_cross_entropy_without_the_entropy(backend, rng):
    y, q = rng.standard_normal((5, 4)), rng.dirichlet(np.ones(4), 5)
    loss, dy = run("kl_divergence", y, q)
    want, want_dy = run("softmax_cross_entropy", y, q)
    assert loss == pytest.approx(want + (q * np.log(q)).sum() / 5, rel=1e-12) and error(dy, want_dy) <= tau(
        "float64", 4
    )
    equal = run("kl_divergence", np.log(q) + 7.0, q)
    assert abs(equal[0]) < 1e-15 and np.abs(equal[1]).max() < 1e-15
    assert (
        run("kl_divergence", [[0.0, -INF]], [[1.0, 0.0]])[0] == 0
        and run("kl_divergence", [[0.0, -INF]], [[0.0, 1.0]])[0] == INF
    )


def test_dice_by_hand(backend):
    """Half of one region is found: 1 − (2·1 + 1) / (1 + 2 + 1). The other is empty, and is found empty."""
    y = np.where([[[1, 0], [0, 0]]], 1e4, -1e4)
    loss, dy = run("dice", y, [[[1, 0], [1, 0]]])
    assert loss == 0.25 / 2 and not dy.any()
    assert run("dice", -y, [[[1, 0], [1, 0]]])[0] == pytest.approx(
        (1 / 4 + 2 / 3) / 2
    )  # and whole of the other, which is not there


def test_dice_leaves_out_whole_examples(backend, rng):
    y, t = rng.standard_normal((3, 4, 4, 2)), rng.integers(0, 2, (3, 4, 4, 2)).astype(float)
    want, want_dy = run("dice", y[:2], t[:2])
    y[2], t[2] = NAN, NAN
    loss, dy = run("dice", y, t, [1.0, 1.0, 0.0])
    assert loss == pytest.approx(want, rel=1e-14) and not dy[2].any() and error(dy[:2], want_dy) <= tau("float64", 16)


def test_directions_by_hand(backend):
    loss, dy = run("cosine_distance", [[2.0, 0.0], [0.0, 3.0], [0.0, 0.0]], [[5.0, 0.0], [0.0, -1.0], [1.0, 1.0]])
    assert loss == pytest.approx((0 + 2 + 1) / 3) and not dy.any()  # along itself, against itself, and from nowhere


@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_the_length_does_not_matter(backend, rng, size):
    y, t = rng.standard_normal((2, 4, 5)).astype("float32")
    loss, dy = run("cosine_distance", y, t, dtype="float32")
    same, same_dy = run("cosine_distance", np.float32(size) * y, t, dtype="float32")
    assert same == pytest.approx(loss, rel=1e-6) and error(np.float32(size) * same_dy, dy) <= 4 * tau("float32", 5)
    assert np.abs((dy * y).sum(-1)).max() < 1e-6


@pytest.mark.parametrize("value", [-0.1, NAN, INF, None, "2", True, (0.1,)])
def test_wrong_options(value):
    y = dn.asarray(np.ones((2, 2, 2)))
    for name, option in (("softmax_focal", "gamma"), ("binary_focal", "gamma"), ("dice", "smooth")):
        with pytest.raises((TypeError, ValueError), match=f"{name}: {option}"):
            getattr(dn.losses, name)(y, y, **{option: value})


def test_answers_of_minus_1_are_refused(backend):
    for name in ("hinge", "binary_focal"):
        with pytest.raises(ValueError, match=f"{name}: t must lie between 0 .no. and 1 .yes., got values from -1 to 1"):
            getattr(dn.losses, name)(dn.asarray([0.0, 0.0]), dn.asarray([-1, 1]))
    with pytest.raises(ValueError, match="kl_divergence: t has y's shape, so it must hold probabilities"):
        dn.losses.kl_divergence(dn.asarray([[0.0, 0.0]]), dn.asarray([[1.0, 1.0]]))


@pytest.mark.parametrize("name", ["softmax_focal", "binary_focal", "hinge", "kl_divergence", "dice", "cosine_distance"])
def test_a_network_learns_with_it(rng, name):
    x = rng.standard_normal((60, 3, 3, 1)).astype("float32")
    t = (x[:, :, :, 0].mean((1, 2)) > 0).astype("int64")
    if name in ("dice", "hinge", "binary_focal"):
        layers, t = [dn.Conv2D(1, 1)], (x > 0).astype("float32")
    else:
        layers = [dn.Flatten(), dn.Dense(2)]
    if name in ("kl_divergence", "cosine_distance"):
        t = np.eye(2, dtype="float32")[t]
    net = dn.Sequential(layers).init((3, 3, 1), seed=1)
    history = net.fit(x, t, epochs=12, loss=name, optimizer=dn.Adam(lr=0.05), verbose=0)
    assert history["loss"][-1] < 0.8 * history["loss"][0]
