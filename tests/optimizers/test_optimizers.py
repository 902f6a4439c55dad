"""Optimizers against loops over Python floats; dtypes, states, backends, clipping, errors."""

from __future__ import annotations

import copy
import json
import math

import numpy as np
import pytest

import dualnet as dn
from dualnet import optimizers
from dualnet.optimizers import schedules
from dualnet.optimizers import updates as descent
from dualnet.optimizers.rules import SGD, Adam, AdamW, RMSProp

SHAPES = {"0.w": (3, 4), "0.b": (4,), "1.w": (4, 2)}


class Net:
    """A network as an optimizer sees it."""

    def __init__(self, values, dtype="float64"):
        self.held = {name: dn.Parameter(dn.asarray(value, dtype)) for name, value in values.items()}

    def parameters(self):
        return self.held

    def values(self):
        return {name: dn.to_numpy(p.value).copy() for name, p in self.held.items()}

    def to(self, backend):
        for p in self.held.values():
            p.value = dn.asarray(p.value, backend=backend)


def drawn(rng, steps):
    start = {name: rng.standard_normal(shape) for name, shape in SHAPES.items()}
    return start, [{name: rng.standard_normal(shape) for name, shape in SHAPES.items()} for _ in range(steps)]


def on_device(grads, dtype="float64"):
    return {name: dn.asarray(g, dtype) for name, g in grads.items()}


def run(opt, start, path, dtype="float64"):
    net = Net(start, dtype)
    for grads in path:
        opt.step(net, on_device(grads, dtype))
    return net.values()


def equal(one, other):
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


# -- each formula again, for one number --------------------------------------------------------------------------------


def sgd(w, path, lr=0.1, momentum=0.0, nesterov=False, weight_decay=0.0):
    v = 0.0
    for g in path:
        g += weight_decay * w
        v = momentum * v + g
        w -= lr * (g + momentum * v if nesterov else v)
    return w


def rmsprop(w, path, lr=1e-3, rho=0.99, momentum=0.0, epsilon=1e-8, centered=False, weight_decay=0.0):
    square = mean = v = 0.0
    for g in path:
        g += weight_decay * w
        square = rho * square + (1 - rho) * g * g
        mean = rho * mean + (1 - rho) * g
        v = momentum * v + g / (math.sqrt(square - (mean * mean if centered else 0.0)) + epsilon)
        w -= lr * v
    return w


def adam(w, path, lr=1e-3, beta_1=0.9, beta_2=0.999, epsilon=1e-8, weight_decay=0.0, decoupled=False):
    m = v = 0.0
    for t, g in enumerate(path, 1):
        g, w = (g, w - lr * weight_decay * w) if decoupled else (g + weight_decay * w, w)
        m = beta_1 * m + (1 - beta_1) * g
        v = beta_2 * v + (1 - beta_2) * g * g
        w -= lr * (m / (1 - beta_1**t)) / (math.sqrt(v / (1 - beta_2**t)) + epsilon)
    return w


def adamw(w, path, **options):
    return adam(w, path, decoupled=True, **{"weight_decay": 0.01, **options})


CASES = [
    (SGD, sgd, {"lr": 0.1}),
    (SGD, sgd, {"lr": 0.1, "momentum": 0.9}),
    (SGD, sgd, {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.05}),
    (SGD, sgd, {"lr": 0.1, "weight_decay": 0.3}),
    (RMSProp, rmsprop, {}),
    (RMSProp, rmsprop, {"lr": 0.1, "rho": 0.8, "momentum": 0.5, "weight_decay": 0.05, "epsilon": 1e-2}),
    (RMSProp, rmsprop, {"lr": 0.1, "centered": True}),
    (RMSProp, rmsprop, {"lr": 0.1, "centered": True, "momentum": 0.9}),
    (Adam, adam, {}),
    (Adam, adam, {"lr": 0.1, "beta_1": 0.5, "beta_2": 0.8, "epsilon": 1e-2, "weight_decay": 0.1}),
    (AdamW, adamw, {"lr": 0.1}),
    (AdamW, adamw, {"lr": 0.1, "weight_decay": 0.3, "beta_1": 0.0}),
]


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


# -- what a step may and may not touch ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind, loop, options", CASES)
def test_nothing_is_overwritten(backend, rng, kind, loop, options):
    start, path = drawn(rng, 3)
    opt, net = kind(**options, clip_norm=0.5), Net(start)
    for grads in path:
        given, held = on_device(grads), {name: p.value for name, p in net.held.items()}
        state = {name: value for name, value in opt.state_dict().items() if hasattr(value, "dtype")}
        before = [{name: dn.to_numpy(a).copy() for name, a in group.items()} for group in (given, held, state)]
        opt.step(net, given)
        after = [{name: dn.to_numpy(a) for name, a in group.items()} for group in (given, held, state)]
        assert all(equal(old, new) for old, new in zip(before, after, strict=True))
    assert not equal(net.values(), start)


FAULTS = [
    (lambda g: g.pop("0.b"), ValueError, r"missing: 0\.b\)"),
    (lambda g: g.update({"0.b": None}), ValueError, r"missing: 0\.b\)"),
    (lambda g: g.update({"7.w": g["0.w"]}), ValueError, r"unknown: 7\.w\)"),
    (lambda g: g.update({"0.w": g["0.w"][:2]}), ValueError, r"another shape: 0\.w \(2, 4\), expected \(3, 4\)"),
    (lambda g: g.update({"0.b": 0.0}), ValueError, r"another shape: 0\.b \(\), expected \(4,\)"),
    (
        lambda g: g.update({"1.w": g["1.w"].astype("float32")}),
        TypeError,
        r"float64 and the gradient of 1\.w is float32",
    ),
]


@pytest.mark.parametrize("fault, error, message", FAULTS)
def test_gradients_that_do_not_fit_change_nothing(backend, rng, fault, error, message):
    start, path = drawn(rng, 2)
    opt, net = Adam(), Net(start)
    opt.step(net, on_device(path[0]))
    before, state, wrong = net.values(), opt.state_dict(), on_device(path[1])
    fault(wrong)
    with pytest.raises(error, match=message):
        opt.step(net, wrong)
    assert equal(net.values(), before) and opt.steps == 1
    assert all(opt.state_dict()[key] is value for key, value in state.items())
    opt.step(net, on_device(path[1]))
    assert equal(net.values(), run(Adam(), start, path))


def test_a_step_that_runs_out_of_memory_changes_nothing(rng, monkeypatch):
    monkeypatch.setenv("DUALNET_KERNELS", "reference")  # a kernel steps all parameters at once
    start, path = drawn(rng, 2)
    opt, net = SGD(0.1, momentum=0.9), Net(start)
    opt.step(net, on_device(path[0]))
    before, update, calls = net.values(), descent.sgd_update, []

    def failing(*args):
        calls.append(1)
        if len(calls) == 3:
            raise MemoryError
        return update(*args)

    monkeypatch.setattr(descent, "sgd_update", failing)
    with pytest.raises(MemoryError):
        opt.step(net, on_device(path[1]))
    assert equal(net.values(), before) and opt.steps == 1
    opt.step(net, on_device(path[1]))
    assert equal(net.values(), run(SGD(0.1, momentum=0.9), start, path))


def test_it_trains_a_network(backend, rng):
    """The gradient of ½‖y‖² is y itself; every optimizer brings a small network's output down."""
    x = dn.asarray(rng.standard_normal((8, 3)), "float32")
    for name in ("sgd", "rmsprop", "adam", "adamw"):
        net, opt = dn.LayerNorm().init((3,)), optimizers.get(name)
        opt.lr, sizes = 0.05, []
        for _ in range(10):
            y, pullback = net.forward(x, train=True)
            sizes.append(float(np.linalg.norm(dn.to_numpy(y))))
            opt.step(net, pullback(y)[1])
        assert sizes[-1] < 0.8 * sizes[0], name


# -- states and backends -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind, loop, options", CASES)
def test_a_saved_state_goes_on_with_the_same_bits(backend, rng, kind, loop, options):
    start, path = drawn(rng, 8)
    options = {**options, "lr": schedules.Warmup(schedules.Plateau(0.1, factor=0.5, patience=0), 3)}
    opt, net = kind(**copy.deepcopy(options)), Net(start)
    for i, grads in enumerate(path):
        if i == 4:
            state = {k: dn.to_numpy(v).copy() if hasattr(v, "dtype") else v for k, v in opt.state_dict().items()}
            counters = {k: v for k, v in state.items() if not hasattr(v, "dtype")}
            assert json.loads(json.dumps(counters, allow_nan=False)) == counters
            second, other = kind(**copy.deepcopy(options)), Net(net.values())
            second.load_state_dict(state)
        opt.step(net, on_device(grads))
        opt.observe(1.0)
        if i >= 4:
            second.step(other, on_device(grads))
            second.observe(1.0)
    assert second.steps == opt.steps == 8 and second.current_lr == opt.current_lr < 0.1
    assert equal(net.values(), other.values())


def test_a_loaded_state_is_a_copy(rng):
    start, path = drawn(rng, 1)
    opt = SGD(0.1, momentum=0.9)
    run(opt, start, path)
    state, second = opt.state_dict(), SGD(0.1, momentum=0.9)
    state["0.w.velocity"] = dn.to_numpy(state["0.w.velocity"]).copy()
    second.load_state_dict(state)
    state["0.w.velocity"][...] = 7
    assert np.array_equal(dn.to_numpy(second.state_dict()["0.w.velocity"]), path[0]["0.w"])


def test_a_state_of_another_optimizer_is_refused(rng):
    start, path = drawn(rng, 1)
    opt = SGD(0.1, momentum=0.9)
    run(opt, start, path)
    good = opt.state_dict()
    cases = [
        (SGD(0.1), good, r"does not fit SGD\(.*\) \(0.w.velocity;.*\). Make the optimizer with"),
        (Adam(0.1), good, "0.w.velocity"),
        (opt, {**good, "0.w.speed": good["0.w.velocity"]}, "0.w.speed"),
        (opt, {**good, "0.w.velocity": [1.0]}, "0.w.velocity"),
        (opt, {**good, "0.w.velocity": np.zeros((3, 4), int)}, "0.w.velocity"),
        (opt, {"lr": 0.1}, "state has steps, and what else it needs; got lr"),
        (opt, {"steps": 3}, "lr was a schedule, and is a number here. Make the optimizer with the arguments of"),
        (opt, {**good, "steps": -1}, "steps"),
        (opt, {**good, "steps": 1.5}, "steps"),
        (opt, {**good, "lr": -1.0}, "lr"),
        (opt, {**good, "schedule.now": 1.0}, "schedule.now"),
        (SGD(schedules.Cosine(0.1, 9), momentum=0.9), good, "lr was a number, and is a schedule here"),
        (SGD(schedules.Cosine(0.1, 9)), {"steps": 3, "schedule.now": 0.1}, "Cosine keeps no state.*Make the optimizer"),
        (Adam(), {"steps": 1, "lr": 0.1, "0.w.mean": good["0.w.velocity"]}, "0.w without its mean_square"),
    ]
    for target, state, message in cases:
        before = target.state_dict()
        with pytest.raises(ValueError, match=message):
            target.load_state_dict(state)
        assert target.state_dict().keys() == before.keys() and target.steps == before["steps"]
    opt.load_state_dict({**good, "lr": 0.5})
    assert opt.lr == 0.5


def test_a_state_of_another_network_is_refused(rng):
    start, path = drawn(rng, 1)
    opt = Adam()
    run(opt, start, path)
    with pytest.raises(ValueError, match=r"mean of 0\.w has shape \(3, 4\), the parameter \(2, 2\)"):
        opt.step(Net({"0.w": np.ones((2, 2))}), {"0.w": dn.asarray(np.ones((2, 2)))})
    assert opt.steps == 1


@pytest.mark.parametrize("kind, loop, options", CASES)
def test_the_state_follows_the_network(rng, kind, loop, options):
    """NumPy, strict, NumPy in mid-training: the same bits as without moving, and no copies but at the moves."""
    start, path = drawn(rng, 6)
    with dn.use_backend("numpy"):
        wanted = run(kind(**options), start, path)
        opt, net = kind(**options), Net(start)
    for i, grads in enumerate(path):
        place = "strict" if 2 <= i < 4 else "numpy"
        net.to(place)
        with dn.use_backend(place):
            given = on_device(grads)
            with dn.transfers("count") as moved:
                opt.step(net, given)
        slots = len(opt.slot_names) * len(SHAPES)
        assert (moved.to_device, moved.to_host) == {2: (slots, 0), 4: (0, slots)}.get(i, (0, 0))
    assert equal(net.values(), wanted)
    with dn.use_backend("strict"), pytest.raises(TypeError, match="lives on numpy and the gradient"):
        opt.step(net, on_device(path[0]))


# -- learning rates and clipping ---------------------------------------------------------------------------------------


def test_schedules_and_setting_the_rate(backend):
    net = Net({"w": np.zeros(1)})
    opt = SGD(schedules.Step(1.0, every=2, factor=0.5))
    rates = []
    for _ in range(5):
        rates.append(opt.current_lr)
        opt.step(net, {"w": dn.asarray(np.ones(1))})
    assert rates == [1.0, 1.0, 0.5, 0.5, 0.25] and opt.steps == 5
    assert net.values()["w"][0] == -sum(rates)
    opt.lr = np.float64(2.0)
    opt.step(net, {"w": dn.asarray(np.ones(1))})
    assert net.values()["w"][0] == -sum(rates) - 2 and type(opt.lr) is float
    opt.observe(1.0)  # a number does not listen
    for bad, error in ((-1, ValueError), (math.nan, ValueError), ("fast", TypeError), (None, TypeError)):
        with pytest.raises(error, match="SGD: lr"):
            opt.lr = bad
    opt.lr = lambda step: -1.0
    before = net.values()
    with pytest.raises(ValueError, match="rate at step 6"):
        opt.step(net, {"w": dn.asarray(np.ones(1))})
    assert equal(net.values(), before) and opt.steps == 6
    assert opt.state_dict() == {"steps": 6}


def test_clip_by_global_norm(backend, rng):
    grads = drawn(rng, 1)[1][0]
    length = math.sqrt(sum(float(np.vdot(g, g)) for g in grads.values()))
    given = on_device(grads)
    with dn.transfers("forbid"):
        clipped, norm = optimizers.clip_by_global_norm(given, length / 4)
        same, _ = optimizers.clip_by_global_norm(given, length * 4)
    assert float(dn.to_numpy(norm)) == pytest.approx(length, rel=1e-14)
    for name, g in grads.items():
        np.testing.assert_allclose(dn.to_numpy(clipped[name]), g * (length / 4) / (length + 1e-6), rtol=1e-14)
        assert np.array_equal(dn.to_numpy(same[name]), g)
    still, norm = optimizers.clip_by_global_norm(on_device({"w": np.zeros(3)}, "float32"), 1.0)
    assert np.array_equal(dn.to_numpy(still["w"]), np.zeros(3)) and still["w"].dtype == np.float32
    half, norm = optimizers.clip_by_global_norm(on_device({"w": np.full(4096, 16.0)}, "float16"), 512.0)
    assert float(dn.to_numpy(norm)) == 1024 and half["w"].dtype == np.float16, "the squares overflow float16"
    assert np.array_equal(dn.to_numpy(half["w"]), np.full(4096, 8.0))
    assert optimizers.clip_by_global_norm({}, 1.0)[0] == {}


def test_clip_by_value(backend):
    clipped = optimizers.clip_by_value(on_device({"w": np.array([-3.0, 0.5, 2.0])}, "float32"), np.float64(1.0))
    assert np.array_equal(dn.to_numpy(clipped["w"]), [-1.0, 0.5, 1.0]) and clipped["w"].dtype == np.float32
    assert optimizers.clip_by_value({}, 1.0) == {}


def test_clipping_in_a_step_comes_before_weight_decay(backend):
    for clip, wanted in (({"clip_norm": 1.0}, 1.0 / (1 + 1e-6 / 5)), ({"clip_value": 1.5}, 1.5 * math.sqrt(2))):
        net = Net({"w": np.array([10.0, 10.0])})
        SGD(1.0, weight_decay=0.1, **clip).step(net, {"w": dn.asarray(np.array([3.0, 4.0]))})
        change = net.values()["w"] - (10.0 - 0.1 * 10.0)
        assert np.linalg.norm(change) == pytest.approx(wanted, rel=1e-12)


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


@pytest.mark.parametrize("kind, loop, options", CASES)
def test_config(kind, loop, options):
    config = json.loads(json.dumps(kind(**options, clip_norm=3).config()))
    assert config.pop("name") == kind.__name__.lower()
    assert kind(**config).config() == kind(**options, clip_norm=3).config()
    assert all(config[name] == value for name, value in options.items())
    opt = kind(**{**options, "lr": schedules.Cosine(0.1, 10)})
    assert opt.config()["lr"] == {"name": "Cosine", "lr": 0.1, "steps": 10, "final": 0.0}
    assert "lr=Cosine(" in repr(opt)


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
        with pytest.raises((TypeError, ValueError), match=f"{kind.__name__}: {name} is"):
            kind(**{"lr": 0.1, name: bad})
    for name in ("clip_norm", "clip_value"):
        if bad is not None:
            with pytest.raises((TypeError, ValueError), match=f"{kind.__name__}: {name} is"):
                kind(lr=0.1, **{name: bad})


def test_more_refusals():
    for net, grads in (({"w": dn.asarray([1.0])}, Net({"w": [1.0]})), (Net({"w": [1.0]}), None)):
        with pytest.raises(TypeError, match=r"SGD.step: expected a network and its gradients"):
            SGD(0.1).step(net, grads)
    for name, kind in {"momentum": SGD, "rho": RMSProp, "beta_1": Adam, "beta_2": AdamW}.items():
        with pytest.raises(ValueError, match=f"{name} is a number from 0 to below 1"):
            kind(**{"lr": 0.1, name: 1})
    with pytest.raises(ValueError, match="nesterov=True needs a momentum"):
        SGD(0.1, nesterov=True)
    with pytest.raises(TypeError, match="nesterov is True or False"):
        SGD(0.1, momentum=0.9, nesterov="yes")
    with pytest.raises(TypeError, match="centered is True or False"):
        RMSProp(centered=1)
    with pytest.raises(ValueError, match="clip_norm is a number above 0"):
        SGD(0.1, clip_norm=0)
    with pytest.raises(ValueError, match="max_norm"):
        optimizers.clip_by_global_norm({}, -1)
    with pytest.raises(TypeError, match="write Cosine"):
        SGD(schedules.Cosine)
    with pytest.raises(TypeError, match="defines no update"):
        optimizers.Optimizer(0.1).step(Net({"w": np.ones(1)}), {"w": dn.asarray(np.ones(1))})
