"""The formulas against loops over Python floats; dtypes, your own subclasses, arguments, names."""

from __future__ import annotations

import math

import fake_cupy
import numpy as np
import pytest
from optimizer_tools import CASES, Net, adam, adamw, drawn, equal, on_device, rmsprop, run, sgd

import dualnet as dn
from dualnet import optimizers
from dualnet.optimizers import SGD, Adam, AdamW, RMSProp


@pytest.mark.parametrize("kind, loop, options", CASES)
def test_against_the_loop(backend, rng, kind, loop, options):
    start, path = drawn(rng, 12)
    got = run(kind(**options), start, path)
    for name, w in start.items():
        wanted = [loop(float(w.flat[i]), [float(g[name].flat[i]) for g in path], **options) for i in range(w.size)]
        np.testing.assert_allclose(got[name].ravel(), wanted, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("kind, loop, options", CASES)
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_no_wider_dtype_creeps_in(backend, rng, kind, loop, options, dtype):
    options = {k: np.float64(v) if isinstance(v, float) else v for k, v in options.items()}
    start, path = drawn(rng, 3)
    exact = run(kind(**options), start, path)
    for clip in ({}, {"clip_norm": np.float64(1e3)}, {"clip_value": np.float32(1e3)}):
        opt, net = kind(**options, **clip), Net(start, dtype)
        for grads in path:
            opt.step(net, on_device(grads, dtype))
        assert {p.dtype.name for p in net.held.values()} == {dtype}
        arrays = [v for v in opt.state_dict().values() if hasattr(v, "dtype")]
        assert {a.dtype.name for a in arrays} <= {"float32"}, "slots are kept in float32, for float16 too"
        for name, value in net.values().items():
            np.testing.assert_allclose(value, exact[name], atol=2e-2 if dtype == "float16" else 2e-5)
    numbers = [v for v in vars(opt).values() if isinstance(v, (float, np.floating))]
    assert numbers and all(type(v) is float for v in numbers)


def test_small_steps_in_half_precision_are_not_lost(backend):
    """Adam's mean square of gradients of 1e-4 is 1e-11 after a step: 0 in float16."""
    net = Net({"w": np.ones(2)}, "float16")
    opt = Adam(lr=0.125)
    for _ in range(3):  # with a gradient that stays, every step is lr long
        opt.step(net, on_device({"w": np.array([1e-4, -1e-4])}, "float16"))
    np.testing.assert_allclose(net.values()["w"], [0.625, 1.375], atol=2e-3)


# -- classes of one's own that build on a rule -------------------------------------------------------------------------


def passing_on(kind):
    """A class of one's own whose update is that of its base."""

    class Own(kind):
        def update(self, w, g, slots, lr):
            return super().update(w, g, slots, lr)

    return Own


def state(net, opt):
    return {**net.values(), **{k: dn.to_numpy(v) for k, v in opt.state_dict().items() if hasattr(v, "shape")}}


@pytest.mark.parametrize("finite", [None, True, False])
@pytest.mark.parametrize("kind, loop, options", CASES)
def test_parameter_by_parameter_is_all_at_once(backend, rng, kind, loop, options, finite):
    (start, path), ends = drawn(rng, 5), []
    for opt in (kind(**options), passing_on(kind)(**options)):
        net = Net(start, "float32")
        for i, grads in enumerate(path):
            flag = None if finite is None else dn.asarray(np.array(finite or i % 2 == 0))
            opt.step(net, on_device(grads, "float32"), finite=flag)
        ends.append(state(net, opt))
    if backend.startswith("cupy"):  # there 1 − lr · λ is rounded in another way
        assert all(np.allclose(ends[0][name], value, rtol=1e-5, atol=1e-6) for name, value in ends[1].items())
    else:
        assert equal(*ends)


def with_its_own_formula(kind):
    """A class of one's own whose update is the gradient's sign, and notes what it is given."""

    class Own(kind):
        def update(self, w, g, slots, lr):
            self.seen = dn.to_numpy(w).copy(), dn.to_numpy(g).copy()
            return w - lr * dn.backend.backend_of(g).xp.sign(g), slots

    return Own


@pytest.mark.parametrize("kind", [SGD, RMSProp, Adam, AdamW])
def test_weight_decay_in_a_class_that_builds_on_a_rule(backend, rng, kind):
    """In the gradient; but AdamW leaves it to update, which then does it or not, and gets g and w as they are."""
    start, (grads,) = drawn(rng, 1)
    start, grads = {"0.w": start["0.w"]}, {"0.w": grads["0.w"]}
    opt, net = with_its_own_formula(kind)(lr=0.1, weight_decay=0.5), Net(start)
    opt.step(net, on_device(grads))
    w, g = start["0.w"], grads["0.w"] + (0 if kind is AdamW else 0.5 * start["0.w"])
    assert np.array_equal(opt.seen[0], w) and np.array_equal(opt.seen[1], g)
    assert np.array_equal(net.values()["0.w"], w - 0.1 * np.sign(g))


@pytest.mark.parametrize("kind, loop", [(Adam, adam), (AdamW, adamw), (RMSProp, rmsprop), (SGD, sgd)])
def test_weight_decay_in_a_class_that_calls_the_update_of_its_base(backend, rng, kind, loop):
    """Once, and not twice."""
    options = {"lr": 0.1, "weight_decay": 0.5}
    start, path = drawn(rng, 4)
    got = run(passing_on(kind)(**options), start, path)
    for name, w in start.items():
        wanted = [loop(float(w.flat[i]), [float(g[name].flat[i]) for g in path], **options) for i in range(w.size)]
        np.testing.assert_allclose(got[name].ravel(), wanted, rtol=1e-12, atol=1e-13)


@pytest.fixture
def cupy(monkeypatch):
    """A pretend CuPy, with kernels that run on the host."""
    with fake_cupy.in_force(monkeypatch) as module:
        yield module


@pytest.mark.parametrize("captured", [False, True])
@pytest.mark.parametrize("kind", [Adam, passing_on(Adam)])
def test_steps_are_counted_on_the_device(cupy, rng, kind, captured):
    """There the number of steps is an array, once a step may be skipped and in a captured step."""
    path = rng.standard_normal((7, 5)).astype("f4")
    net, opt = dn.BatchNorm(center=False).init((5,)), kind(0.1)

    def step(g, finite):
        opt.step(net, {"gamma": g}, finite=finite)

    run_it = dn.capture(step) if captured else step
    for i, g in enumerate(path):
        run_it(dn.asarray(g), dn.asarray(np.array(i != 2)))
    wanted = [adam(1.0, [float(g) for i, g in enumerate(column) if i != 2], lr=0.1) for column in path.T]
    np.testing.assert_allclose(dn.to_numpy(net.gamma.value), wanted, rtol=1e-5)


# -- names and arguments -----------------------------------------------------------------------------------------------


def test_get():
    assert repr(optimizers.get(" SGD ")).startswith("SGD(lr=0.01, momentum=0.9")
    assert [type(optimizers.get(name)) for name in ("rmsprop", "adam", "adamw")] == [RMSProp, Adam, AdamW]
    assert optimizers.get("adam") is not optimizers.get("adam")
    opt = Adam()
    assert optimizers.get(opt) is opt
    with pytest.raises(ValueError, match="choose from sgd, rmsprop, adam, adamw"):
        optimizers.get("adma")
    with pytest.raises(TypeError, match=r"write Adam\("):
        optimizers.get(Adam)
    with pytest.raises(TypeError, match="sgd, rmsprop"):
        optimizers.get(None)


BAD = [None, "three", math.nan, math.inf, -1, -0.5, (1, 2), [], ..., True]
NUMBERS = {
    SGD: ["lr", "momentum", "weight_decay"],
    RMSProp: ["lr", "rho", "momentum", "epsilon", "weight_decay"],
    Adam: ["lr", "beta_1", "beta_2", "epsilon", "weight_decay"],
    AdamW: ["lr", "beta_1", "beta_2", "epsilon", "weight_decay"],
}


@pytest.mark.parametrize("bad", BAD, ids=repr)
@pytest.mark.parametrize("kind", NUMBERS)
def test_constructors_refuse(kind, bad):
    for name in NUMBERS[kind]:
        with pytest.raises((TypeError, ValueError), match=f"{kind.__name__}: {name} (is|must be)"):
            kind(**{"lr": 0.1, name: bad})
    for name in ("clip_norm", "clip_value"):
        if bad is not None:
            with pytest.raises((TypeError, ValueError), match=f"{kind.__name__}: {name} (is|must be)"):
                kind(lr=0.1, **{name: bad})


def test_more_refusals():
    for name, kind in {"momentum": SGD, "rho": RMSProp, "beta_1": Adam, "beta_2": AdamW}.items():
        with pytest.raises(ValueError, match=f"{name} must be a number from 0 to below 1"):
            kind(**{"lr": 0.1, name: 1})
    with pytest.raises(ValueError, match="nesterov=True needs a momentum"):
        SGD(0.1, nesterov=True)
    with pytest.raises(TypeError, match="nesterov must be True or False"):
        SGD(0.1, momentum=0.9, nesterov="yes")
    with pytest.raises(TypeError, match="centered must be True or False"):
        RMSProp(centered=1)
