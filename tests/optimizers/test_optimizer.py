"""A step is all or nothing; states, backends, learning rates and clipping in a step."""

from __future__ import annotations

import copy
import gc
import json
import math
import pickle
import weakref

import fake_cupy
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
        (SGD(0.1), good, r"does not fit SGD\(.*\) \(0.w.velocity;.*\). Create the optimizer with"),
        (Adam(0.1), good, "0.w.velocity"),
        (opt, {**good, "0.w.speed": good["0.w.velocity"]}, "0.w.speed"),
        (opt, {**good, "0.w.velocity": [1.0]}, "0.w.velocity"),
        (opt, {**good, "0.w.velocity": np.zeros((3, 4), int)}, "0.w.velocity"),
        (opt, {"lr": 0.1}, "expected the state of an optimizer, with its steps; got lr"),
        (opt, {"steps": 3}, "lr was a schedule when saved, but is a number here. Create the optimizer with"),
        (opt, {**good, "steps": -1}, "steps"),
        (opt, {**good, "steps": 1.5}, "steps"),
        (opt, {**good, "lr": -1.0}, "lr"),
        (opt, {**good, "schedule.now": 1.0}, "schedule.now"),
        (SGD(schedules.Cosine(0.1, 9), momentum=0.9), good, "lr was a number when saved, but is a schedule here"),
        (SGD(schedules.Cosine(0.1, 9)), {"steps": 3, "schedule.now": 0.1}, "Cosine has no state.*Create the optimizer"),
        (Adam(), {"steps": 1, "lr": 0.1, "0.w.mean": good["0.w.velocity"]}, "0.w without its mean_square"),
    ]
    for target, state, message in cases:
        before = target.state_dict()
        with pytest.raises(ValueError, match=message):
            target.load_state_dict(state)
        assert target.state_dict().keys() == before.keys() and target.steps == before["steps"]
    opt.load_state_dict({**good, "lr": 0.5})
    assert opt.lr == 0.5


def test_a_loaded_state_of_another_network_is_refused(rng):
    start, path = drawn(rng, 1)
    trained, opt = Adam(), Adam()
    run(trained, start, path)
    opt.load_state_dict(trained.state_dict())
    with pytest.raises(ValueError, match=r"mean of 0\.w has shape \(3, 4\), the parameter \(2, 2\)"):
        opt.step(Net({"0.w": np.ones((2, 2))}), {"0.w": dn.asarray(np.ones((2, 2)))})
    with pytest.raises(
        ValueError, match=r"state that Adam has loaded \(1 step\) has nothing for 2\.w: it belongs to an"
    ):
        opt.step(Net({"0.w": start["0.w"], "2.w": np.ones(2)}), on_device({"0.w": path[0]["0.w"], "2.w": np.ones(2)}))
    assert opt.steps == 1
    opt.step(Net(start), on_device(path[0]))
    assert opt.steps == 2


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


# -- whose memory it is ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind, loop, options", CASES)
def test_an_optimizer_belongs_to_the_network_of_its_first_step(backend, rng, kind, loop, options):
    """Another network of the same names is refused, at once and for good; the first one goes on as if nothing was."""
    start, path = drawn(rng, 3)
    opt, net, other = kind(**options), Net(start), Net(start)
    opt.step(net, on_device(path[0]))
    for stranger in (other, copy.deepcopy(net)):
        before = stranger.values()
        with pytest.raises(
            ValueError, match=rf"{kind.__name__} has trained another network \(1 step\).*copy.deepcopy\(opt"
        ):
            opt.step(stranger, on_device(path[1]))
        assert equal(stranger.values(), before) and opt.steps == 1
    for grads in path[1:]:
        opt.step(net, on_device(grads))
    assert equal(net.values(), run(kind(**options), start, path))


def test_a_network_keeps_its_optimizer_when_it_is_loaded_moved_or_gets_new_values(backend, rng):
    net, opt = dn.Sequential([dn.Dense(2)]).init((3,), dtype="float64"), SGD(0.1, momentum=0.9)
    g = on_device({"0.w": rng.standard_normal((3, 2)), "0.b": rng.standard_normal(2)})
    opt.step(net, g)
    net.load_state_dict(net.copy().state_dict())
    net[0].w.value = net[0].w.value * 2.0
    net.to("numpy").to(backend)
    opt.step(net, g)
    assert np.allclose(dn.to_numpy(opt.state_dict()["0.w.velocity"]), 1.9 * dn.to_numpy(g["0.w"]))
    net.init((3,), seed=1, dtype="float64")
    with pytest.raises(ValueError, match="one that was initialised again, is another network"):
        opt.step(net, g)


def test_cross_validation_with_one_optimizer_is_refused_and_with_one_for_each_fold_is_right():
    x, t = np.random.default_rng(0).standard_normal((12, 3)).astype("f4"), np.arange(12) % 2

    def fold(opt):
        net = dn.Sequential([dn.Dense(2)])
        net.fit(x, t, epochs=2, batch_size=4, optimizer=opt, verbose=0)
        return {name: dn.to_numpy(v) for name, v in net.state_dict().items()}

    def fresh():
        return SGD(schedules.Cosine(0.1, steps=6), momentum=0.9)

    shared = fresh()
    first = fold(shared)
    with pytest.raises(ValueError, match="SGD has trained another network"):  # the first one is gone by now
        fold(shared)
    assert equal(first, fold(fresh())) and shared.steps == 6


@pytest.mark.parametrize("around", [lambda schedule: schedule, lambda schedule: schedules.Warmup(schedule, 2)])
def test_a_schedule_that_remembers_losses_belongs_to_one_optimizer(around):
    """A plateau that has come down for one network would start the next one with its lowest rate."""
    plateau = schedules.Plateau(0.1, factor=0.5, patience=0)
    first, early = SGD(around(plateau)), Adam(around(plateau))
    for loss in (1.0, 2.0):
        first.observe(loss)
    for act in (
        lambda: SGD(around(plateau)),
        lambda: setattr(Adam(), "lr", around(plateau)),
        lambda: early.observe(1.0),
    ):
        with pytest.raises(
            ValueError, match=r"this Plateau has watched the training of another optimizer.*Plateau\(\.\.\.\)"
        ):
            act()
    assert plateau(0) == 0.05
    first.lr = first.lr
    for again in (copy.deepcopy(first), pickle.loads(pickle.dumps(first))):  # a copy has a schedule of its own
        again.observe(3.0)
        assert again.lr(9) == 0.025 and plateau(0) == 0.05
    del first
    gc.collect()
    with pytest.raises(ValueError, match="another optimizer"):
        SGD(around(plateau))


def test_a_schedule_without_memory_may_be_shared():
    cosine = schedules.Cosine(0.1, 9)
    for opt in (SGD(cosine), Adam(cosine), SGD(schedules.Warmup(cosine, 3))):
        opt.observe(1.0)
    assert SGD(cosine).current_lr == 0.1


def test_no_network_is_kept_alive(rng):
    net, opt = dn.Sequential([dn.Dense(2)]).init((3,)), Adam()
    opt.step(net, {name: p.value for name, p in net.parameters().items()})
    left, steps = weakref.ref(net[0].w), opt.state_dict()
    del net
    gc.collect()
    assert left() is None
    assert opt.state_dict().keys() == steps.keys(), "what was learned can still be saved"
    with pytest.raises(ValueError, match="trained another network"):
        opt.step(other := dn.Sequential([dn.Dense(2)]).init((3,)), {n: p.value for n, p in other.parameters().items()})


@pytest.mark.parametrize("way", ["deepcopy", "pickle", "state", "together"])
def test_a_copy_of_network_and_optimizer_goes_on_by_itself(backend, rng, way):
    start, path = drawn(rng, 6)
    opt, net = Adam(schedules.Step(0.1, every=4)), Net(start)
    for grads in path[:3]:
        opt.step(net, on_device(grads))
    if way == "together":
        other, second = copy.deepcopy((net, opt))
    else:
        other = Net(net.values())
        if way == "state":
            second = Adam(schedules.Step(0.1, every=4))
            second.load_state_dict(opt.state_dict())
        else:
            array = next(iter(net.parameters().values())).value
            if way == "pickle" and "<locals>" in type(array).__qualname__:
                pytest.skip("the arrays of a pretend device are of a class that cannot be pickled")
            second = copy.deepcopy(opt) if way == "deepcopy" else pickle.loads(pickle.dumps(opt))
    for grads in path[3:]:
        second.step(other, on_device(grads))
    assert second.steps == 6 and opt.steps == 3
    assert equal(other.values(), run(Adam(schedules.Step(0.1, every=4)), start, path))
    with pytest.raises(ValueError, match="trained another network"):  # by now the copy belongs to the copy
        second.step(net, on_device(path[0]))
    for grads in path[3:]:
        opt.step(net, on_device(grads))
    assert equal(net.values(), other.values())


def test_a_state_that_is_loaded_goes_to_the_next_network(rng):
    """Also into an optimizer that has trained another one, as ``dn.load(path, optimizer=used)`` does it."""
    start, path = drawn(rng, 4)
    saved, used = SGD(0.1, momentum=0.9), SGD(0.1, momentum=0.9)
    net = Net(start)
    for grads in path[:2]:
        saved.step(net, on_device(grads))
    run(used, start, path)
    used.load_state_dict(saved.state_dict())
    other = Net(net.values())
    for grads in path[2:]:
        used.step(other, on_device(grads))
    assert equal(other.values(), run(SGD(0.1, momentum=0.9), start, path))


def test_part_of_a_network_under_other_names(backend, rng):
    """Memory follows the parameter: the head alone is called 0.w where it was 1.w in the whole."""
    start, path = drawn(rng, 3)
    opt, net = SGD(0.1, momentum=0.9), Net(start)
    opt.step(net, on_device(path[0]))
    head = Net({})
    head.held["0.w"] = net.held["1.w"]
    opt.step(head, on_device({"0.w": path[1]["1.w"]}))
    opt.step(net, on_device(path[2]))
    kept = {name: dn.to_numpy(v) for name, v in opt.state_dict().items() if name.endswith("velocity")}
    assert kept.keys() == {f"{name}.velocity" for name in SHAPES}
    first, second, third = (grads["1.w"] for grads in path)
    assert np.allclose(kept["1.w.velocity"], 0.9 * (0.9 * first + second) + third, rtol=1e-14)
    assert np.allclose(kept["0.w.velocity"], 0.9 * path[0]["0.w"] + path[2]["0.w"], rtol=1e-14)


def test_a_network_that_gains_a_parameter_needs_a_new_optimizer(rng):
    """Adam's corrections count its steps: a new parameter in its tenth step would take one three times too long."""
    start, (grads,) = drawn(rng, 1)
    opt, net = Adam(), Net(start)
    opt.step(net, on_device(grads))
    net.held["2.w"] = dn.Parameter(dn.asarray(np.ones(2)))
    with pytest.raises(
        ValueError, match=r"Adam has made 1 step without the parameters 2\.w, and has no memory of them"
    ):
        opt.step(net, on_device({**grads, "2.w": np.ones(2)}))
    assert opt.steps == 1


def test_a_first_step_that_fails_binds_nothing(rng, monkeypatch):
    monkeypatch.setenv("DUALNET_KERNELS", "reference")
    start, (grads,) = drawn(rng, 1)
    opt = Plain(0.1)
    monkeypatch.setattr(Plain, "update", lambda *args: (_ for _ in ()).throw(MemoryError))
    with pytest.raises(MemoryError):
        opt.step(Net(start), on_device(grads))
    monkeypatch.undo()
    opt.step(net := Net(start), on_device(grads))
    assert equal(net.values(), run(Plain(0.1), start, [grads]))


def test_a_captured_step_belongs_to_its_network_as_well(monkeypatch, rng):
    """Nothing about it is looked up while a graph runs; before and after, another network is refused."""
    g = [{"gamma": v} for v in rng.standard_normal((6, 3)).astype("f4")]
    with fake_cupy.in_force(monkeypatch):
        net, other, plain = (dn.BatchNorm(center=False).init((3,)) for _ in range(3))
        opt, alone = (SGD(schedules.Cosine(0.1, 9), momentum=0.9) for _ in range(2))
        step = dn.capture(lambda net_now, v: opt.step({"net": net, "other": other}[net_now], {"gamma": v}))
        for grads in g[:5]:
            step("net", dn.asarray(grads["gamma"]))
        with pytest.raises(ValueError, match=r"SGD has trained another network \(5 steps\)"):
            step("other", dn.asarray(g[5]["gamma"]))
        opt.step(net, on_device(g[5], "float32"))  # goes on without the graph
        for grads in g:
            alone.step(plain, on_device(grads, "float32"))
        assert opt.steps == 6 and dn.to_numpy(net.gamma.value).tobytes() == dn.to_numpy(plain.gamma.value).tobytes()
        assert dn.to_numpy(other.gamma.value).tolist() == [1, 1, 1]


def test_networks_that_share_a_layer_take_turns_only_with_an_optimizer_each(rng):
    shared = dn.Dense(2)
    one, two = (dn.Sequential([shared, dn.Dense(2)]).init((3,)) for _ in range(2))
    opt = SGD(0.1, momentum=0.9)
    opt.step(one, {name: p.value for name, p in one.parameters().items()})
    with pytest.raises(ValueError, match=r"SGD has made 1 step without the parameters 1\.w, 1\.b"):
        opt.step(two, {name: p.value for name, p in two.parameters().items()})


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
    with pytest.raises(ValueError, match="clip_norm must be a finite number above 0"):
        SGD(0.1, clip_norm=0)
    with pytest.raises(TypeError, match="write Cosine"):
        SGD(schedules.Cosine)
    with pytest.raises(TypeError, match="defines no update"):
        optimizers.Optimizer(0.1).step(Net({"w": np.ones(1)}), {"w": dn.asarray(np.ones(1))})
