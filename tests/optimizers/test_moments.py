"""Mean squares of gradients that cannot be squared: the formulas in float64 say what must come out."""

from __future__ import annotations

import math

import fake_cupy
import numpy as np
import pytest
from optimizer_tools import Net, adam, adamw, on_device, rmsprop

import dualnet as dn
from dualnet.optimizers import SGD, Adam, AdamW, RMSProp
from dualnet.optimizers.moments import LARGE, averaged, averaged_square, deviation, large

RULES = [
    (RMSProp, rmsprop, {}),
    (RMSProp, rmsprop, {"momentum": 0.5, "rho": 0.9}),
    (RMSProp, rmsprop, {"centered": True, "rho": 0.9}),
    (Adam, adam, {}),
    (Adam, adam, {"beta_1": 0.5, "beta_2": 0.9}),
    (AdamW, adamw, {"lr": 0.01}),
]


def trained(kind, options, path, dtype="float32", start=1.0):
    """w after these gradients, each a list of one number for each of several parameters."""
    net, opt = Net({"w": np.full(len(path[0]), start)}, dtype), kind(**options)
    for g in path:
        opt.step(net, on_device({"w": np.array(g)}, dtype))
    return net.values()["w"], opt


@pytest.mark.parametrize("spike", [1e20, -1e30, 3.4e38])
@pytest.mark.parametrize("kind, loop, options", RULES)
def test_one_huge_gradient_is_forgotten_as_fast_as_the_formula_says(backend, rng, kind, loop, options, spike):
    """And the parameters beside it do not notice."""
    rest = rng.standard_normal(150)
    path = [[spike if i == 3 else g, g, 1e-3 * g, 0.0] for i, g in enumerate(rest)]
    got, _ = trained(kind, options, path)
    for column, value in enumerate(got):
        wanted = loop(1.0, [g[column] for g in path], **options)
        assert value == pytest.approx(wanted, rel=2e-4, abs=2e-5), column
    alone, _ = trained(kind, options, [g[1:] for g in path])
    assert got[1:].tobytes() == alone.tobytes(), "every bit of ordinary numbers stays"


@pytest.mark.parametrize("kind, wanted", [(RMSProp, -10.443), (Adam, 0.99399)])
def test_training_goes_on_after_it(kind, wanted):
    """PyTorch's numbers: from 1.0 with a rate of 0.001, a gradient of 1e20 and then 20,000 of 1."""
    (got,), _ = trained(kind, {"lr": 1e-3}, [[1e20]] + [[1.0]] * 20_000)
    assert got == pytest.approx(wanted, abs=2e-3 if kind is RMSProp else 1e-5)


@pytest.mark.parametrize("kind, loop, options", RULES)
def test_float64_has_its_own_range(backend, kind, loop, options):
    path = [[1.0], [1e200], *[[(-1.0) ** i] for i in range(50)]]
    exact = [[math.ldexp(g[0], -300)] for g in path]  # every step but ε is the same for smaller numbers
    options = {**options, "epsilon": 1e-300}
    (got,), _ = trained(kind, options, path, "float64")
    assert got == pytest.approx(loop(1.0, [g[0] for g in exact], **options), rel=1e-12)


@pytest.mark.parametrize("kind, loop, options", RULES)
def test_a_huge_gradient_again_and_again(backend, kind, loop, options):
    """A mean square that stays a root from step to step, and passes from root to square and back."""
    sizes = [1e30, 1.0, -2e25, 1e19, 1.0, 0.0, -1e10, 3e38, -3e38, 1e18, 2e19]
    path = [[g] for g in sizes * 4]
    (got,), _ = trained(kind, options, path)
    assert got == pytest.approx(loop(1.0, [g[0] for g in path], **options), rel=1e-4)


def test_a_state_with_roots_is_saved_and_goes_on_with_the_same_bits(backend):
    path = [[1e30, 1.0]] + [[1.0, 1.0]] * 20
    whole, _ = trained(Adam, {}, path)
    net, opt = Net({"w": np.ones(2)}, "float32"), Adam()
    for g in path[:5]:
        opt.step(net, on_device({"w": np.array(g)}, "float32"))
    state = opt.state_dict()
    assert dn.to_numpy(state["w.mean_square"])[0] < -1e18 and dn.to_numpy(state["w.mean_square"])[1] > 0
    again = Adam()
    again.load_state_dict(state)
    for g in path[5:]:
        again.step(net, on_device({"w": np.array(g)}, "float32"))
    assert net.values()["w"].tobytes() == whole.tobytes()


def test_a_state_that_was_saved_near_the_top_of_the_range_is_read_as_it_is(backend):
    """Files hold mean squares up to 3.4e38."""
    opt, net = RMSProp(), Net({"w": np.ones(1)}, "float32")
    opt.load_state_dict({"steps": 1, "lr": 1e-3, "w.mean_square": dn.asarray([3e38], "float32")})
    opt.step(net, on_device({"w": np.ones(1)}, "float32"))
    assert dn.to_numpy(opt.state_dict()["w.mean_square"])[0] == pytest.approx(0.99 * 3e38)


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
def test_a_gradient_that_is_not_finite_spoils_its_own_parameter_only(backend, bad):
    with np.errstate(all="ignore"):
        got, _ = trained(Adam, {}, [[bad, 1e30, 1.0], [1.0, 1.0, 1.0], [1.0, 1.0, 1.0]])
        alone, _ = trained(Adam, {}, [[1e30, 1.0], [1.0, 1.0], [1.0, 1.0]])
    assert np.isnan(got[0]) and got[1:].tobytes() == alone.tobytes()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_each_formula(backend, rng, dtype):
    """Against Python's integers, which have no range."""
    most = LARGE[dtype]
    g = np.array([0.0, 1.5, most, most * 1.5, -most * 2.0**60, 3.0], dtype)
    mean = np.array([1.0, -2.0, -most, most * 2.0**60, most * 2.0**60, 0.5], dtype)
    square = np.array([4.0, 9.0, most, -most * 4, -most * 2.0**60, -most * 8], dtype)
    where = large(*(dn.asarray(a) for a in (g, square)))
    assert dn.to_numpy(where).tolist() == [False, False, False, True, True, True]
    exact = [int(s) ** 2 if s < 0 else int(s) for s in square]  # the mean squares themselves
    there_g, there_mean, there_square = map(dn.asarray, (g, mean, square))
    new, root = averaged_square(there_square, there_g, 0.75, where)
    average = averaged(there_mean, there_g, 0.75, where)
    spread = deviation(new, root, average, where)
    new, root, average, spread = map(dn.to_numpy, (new, root, average, spread))
    assert {a.dtype.name for a in (new, root, average, spread)} == {dtype}
    for i in range(g.size):
        s = (12 * exact[i] + int(2 * g[i]) ** 2) / 16 if exact[i] < 10**300 else None
        wanted = math.isqrt(12 * exact[i] + int(2 * g[i]) ** 2) / 4 if i > 2 else math.sqrt(s)
        assert root[i] == pytest.approx(wanted, rel=1e-6)
        assert new[i] == pytest.approx(-wanted if wanted > most else wanted * wanted, rel=1e-6)
        m = (int(mean[i] * 4) * 3 + int(g[i] * 4)) / 16
        assert average[i] == pytest.approx(m, rel=1e-6)
        assert spread[i] == pytest.approx(
            wanted * math.sqrt(max(1 - (m / wanted) ** 2, 0)), rel=1e-5, abs=1e-5 * wanted
        )


def test_nothing_is_read_back_and_nothing_is_made_that_is_not_needed():
    g = np.ones(3, "f4")
    assert large(g, g) is None and large(g[:0], g[:0]) is None
    with dn.use_backend("strict"):
        there = dn.asarray(g)
        with dn.transfers("forbid"):
            assert large(there, there) is not None


def test_weight_decay_is_in_the_gradient_that_is_squared(backend):
    """λ·w = 1e25 with a gradient of 1."""
    for kind, loop in ((Adam, adam), (RMSProp, rmsprop)):
        (got,), _ = trained(kind, {"weight_decay": 1e-5}, [[1.0]] * 3, start=1e30)
        assert got == pytest.approx(loop(1e30, [1.0] * 3, weight_decay=1e-5), rel=1e-6)


def test_sgd_squares_nothing(backend):
    (got,), _ = trained(SGD, {"lr": 1e-30, "momentum": 0.9, "nesterov": True}, [[1e37], [-1e37], [1.0]])
    assert np.isfinite(got)


@pytest.mark.parametrize("kind, loop, options", RULES)
def test_in_a_captured_step(monkeypatch, rng, kind, loop, options):
    """The graph takes both ways and chooses in every place: a huge gradient may come long after it was recorded."""
    path = rng.standard_normal((40, 2))
    path[9, 0], path[25, 1] = 1e30, -1e20
    with fake_cupy.in_force(monkeypatch):
        net, opt = dn.BatchNorm(center=False).init((2,)), kind(**options)
        step = dn.capture(lambda g: opt.step(net, {"gamma": g}))
        for g in path:
            step(dn.asarray(g.astype("f4")))
        assert step.graphs == 1
        for column, got in zip(path.T, dn.to_numpy(net.gamma.value), strict=True):
            assert got == pytest.approx(loop(1.0, [float(g) for g in column], **options), rel=2e-4, abs=2e-5)
