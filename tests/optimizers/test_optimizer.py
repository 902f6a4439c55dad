"""A step is all or nothing; states, backends, learning rates and clipping in a step."""

from __future__ import annotations

import copy
import json
import math

import numpy as np
import pytest
from optimizer_tools import CASES, SHAPES, Net, drawn, equal, on_device, run

import dualnet as dn
from dualnet import optimizers
from dualnet.optimizers import SGD, Adam, rules, schedules

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


def test_a_step_that_runs_out_of_memory_changes_nothing(rng, monkeypatch):
    monkeypatch.setenv("DUALNET_KERNELS", "reference")  # a kernel steps all parameters at once
    start, path = drawn(rng, 2)
    opt, net = SGD(0.1, momentum=0.9), Net(start)
    opt.step(net, on_device(path[0]))
    before, decayed, calls = net.values(), rules.decayed, []

    def failing(*args):
        calls.append(1)
        if len(calls) == 3:
            raise MemoryError
        return decayed(*args)

    monkeypatch.setattr(rules, "decayed", failing)
    with pytest.raises(MemoryError):
        opt.step(net, on_device(path[1]))
    assert equal(net.values(), before) and opt.steps == 1
    opt.step(net, on_device(path[1]))
    assert equal(net.values(), run(SGD(0.1, momentum=0.9), start, path))


class Plain(optimizers.Optimizer):
    """One of a user's own, which remembers the sum of its gradients."""

    slot_names = ("total",)

    def update(self, w, g, slots, lr):
        return w - lr * g, {"total": slots["total"] + g}


class Decoupled(Plain):
    decoupled = True


@pytest.mark.parametrize("kind", [Plain, Decoupled])
def test_weight_decay_of_a_class_of_ones_own(backend, rng, kind):
    """It is in the gradient that ``update`` gets, unless the class says that it sees to it itself."""
    start, (grads,) = drawn(rng, 1)
    opt, net = kind(0.1, weight_decay=0.5), Net(start)
    opt.step(net, on_device(grads))
    for name, w in start.items():
        g = grads[name] if kind is Decoupled else grads[name] + 0.5 * w
        assert np.array_equal(net.values()[name], w - 0.1 * g)
        assert np.array_equal(dn.to_numpy(opt.state_dict()[f"{name}.total"]), g)


def test_a_skipped_step_of_a_class_of_ones_own(backend, rng):
    start, (first, second) = drawn(rng, 2)
    opt, net = Plain(0.1), Net(start)
    for grads, finite in ((first, True), (second, False)):
        opt.step(net, on_device(grads), finite=dn.asarray(np.array(finite)))
    assert equal(net.values(), run(Plain(0.1), start, [first])) and opt.steps == 2
    assert all(np.array_equal(dn.to_numpy(opt.state_dict()[f"{name}.total"]), g) for name, g in first.items())
    assert int(dn.to_numpy(opt.state_dict()["skipped"])) == 1


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
        (opt, {"lr": 0.1}, "expected an optimizer's state, with its steps; got lr"),
        (opt, {"steps": 3}, "lr was a schedule when saved, and is a number here. Make the optimizer with"),
        (opt, {**good, "steps": -1}, "steps"),
        (opt, {**good, "steps": 1.5}, "steps"),
        (opt, {**good, "lr": -1.0}, "lr"),
        (opt, {**good, "schedule.now": 1.0}, "schedule.now"),
        (SGD(schedules.Cosine(0.1, 9), momentum=0.9), good, "lr was a number when saved, and is a schedule here"),
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


# -- learning rates, clipping, arguments -------------------------------------------------------------------------------


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


def test_clipping_in_a_step_comes_before_weight_decay(backend):
    for clip, wanted in (({"clip_norm": 1.0}, 1.0 / (1 + 1e-6 / 5)), ({"clip_value": 1.5}, 1.5 * math.sqrt(2))):
        net = Net({"w": np.array([10.0, 10.0])})
        SGD(1.0, weight_decay=0.1, **clip).step(net, {"w": dn.asarray(np.array([3.0, 4.0]))})
        change = net.values()["w"] - (10.0 - 0.1 * 10.0)
        assert np.linalg.norm(change) == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize("kind, loop, options", CASES)
def test_config(kind, loop, options):
    config = json.loads(json.dumps(kind(**options, clip_norm=3).config()))
    assert config.pop("name") == kind.__name__.lower()
    assert kind(**config).config() == kind(**options, clip_norm=3).config()
    assert all(config[name] == value for name, value in options.items())
    opt = kind(**{**options, "lr": schedules.Cosine(0.1, 10)})
    assert opt.config()["lr"] == {"name": "Cosine", "lr": 0.1, "steps": 10, "final": 0.0}
    assert "lr=Cosine(" in repr(opt)


def test_what_is_refused():
    for net, grads in (({"w": dn.asarray([1.0])}, Net({"w": [1.0]})), (Net({"w": [1.0]}), None)):
        with pytest.raises(TypeError, match=r"SGD.step: expected a network and its gradients"):
            SGD(0.1).step(net, grads)
    with pytest.raises(ValueError, match="clip_norm is a number above 0"):
        SGD(0.1, clip_norm=0)
    with pytest.raises(TypeError, match="write Cosine"):
        SGD(schedules.Cosine)
    with pytest.raises(TypeError, match="defines no update"):
        optimizers.Optimizer(0.1).step(Net({"w": np.ones(1)}), {"w": dn.asarray(np.ones(1))})
