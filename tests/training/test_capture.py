"""A captured training step: the same bits as without, on a pretend device and on the CPU; and what cannot be
captured."""

from __future__ import annotations

import functools
import gc
import itertools
import signal
import sys

import fake_cupy
import numpy as np
import pytest

import dualnet as dn
from dualnet.backends.cpu import recorder
from dualnet.backends.gpu import cublas
from dualnet.bench import nets
from dualnet.training.capture import SIGNALS, _Whole


@pytest.fixture
def cupy(monkeypatch):
    """A pretend GPU."""
    with fake_cupy.in_force(monkeypatch) as module:
        yield module


@pytest.fixture
def cpu(monkeypatch):
    """NumPy. As on the pretend device, what a step leaves behind is filled with NaN before the next one."""
    launch = recorder.Recorder.launch

    def spoiled(self):
        self.arena.spoil()
        return launch(self)

    monkeypatch.setattr(recorder.Recorder, "launch", spoiled)
    with dn.use_backend("numpy"):
        yield recorder


@pytest.fixture(params=["pretend", "real", "numpy"])
def gpu(request):
    """What records steps: a GPU, of both kinds where there is one, and NumPy."""
    if request.param != "real":
        yield request.getfixturevalue({"pretend": "cupy", "numpy": "cpu"}[request.param])
        return
    if "cupy" not in dn.available_backends():
        pytest.skip("no GPU here")
    with dn.use_backend("cupy"):
        yield dn.backend.current().xp


def layers():
    twice = dn.Dropout(0.3)  # in two places: its second mask in a step is another one
    return [
        dn.Conv2D(8, 3, padding="same", use_bias=False), dn.BatchNorm(), dn.ReLU(), dn.MaxPool2D(2), dn.Conv2D(12, 3),
        dn.Residual(dn.Sequential([dn.Conv2D(12, 3, padding="same"), twice])), dn.ReLU(), dn.Flatten(), twice,
        dn.Dense(3),
    ]  # fmt: skip


def network(seed=0):
    return dn.Sequential(layers()).init((8, 8, 1), seed=seed)


def batches(rng, n=7, size=4):
    draw = rng.standard_normal((n, size, 8, 8, 1)).astype("f4"), rng.integers(0, 3, (n, size))
    return [(dn.asarray(x), dn.asarray(t)) for x, t in zip(*draw)]


def training_step(net, opt):
    def step(x, t):
        step.python += 1
        y, pullback = net.forward(x, train=True)
        loss, dloss = dn.losses.softmax_cross_entropy(y, t, check_labels=False)
        _, gradients = pullback(dloss())
        opt.step(net, gradients)
        return loss

    step.python = 0
    return step


def state(net, opt):
    """All that was learned, as bytes and numbers."""
    values = {**net.state_dict(), **{f"optimizer {k}": v for k, v in opt.state_dict().items()}}
    return {name: dn.to_numpy(v).tobytes() if hasattr(v, "shape") else v for name, v in values.items()}


OPTIMIZERS = {
    "sgd": lambda: dn.SGD(lr=0.05),
    "nesterov": lambda: dn.SGD(lr=dn.schedules.Cosine(0.01, 10), momentum=0.9, nesterov=True, weight_decay=1e-3),
    "adam": lambda: dn.Adam(lr=0.01, weight_decay=1e-3, clip_value=0.1),
    "adamw": lambda: dn.AdamW(lr=dn.schedules.Warmup(dn.schedules.Cosine(0.02, 10), 4)),
    "rmsprop": lambda: dn.optimizers.RMSProp(lr=0.01, momentum=0.9, centered=True, clip_norm=1.0),
}


class Descent(dn.optimizers.Optimizer):
    """One of a user's own, whose rule goes by the number of steps."""

    slot_names = ("mean",)

    def update(self, w, g, slots, lr):
        mean = 0.9 * slots["mean"] + 0.1 * g
        return w - lr * mean / (1 - 0.9 ** (self.steps + 1)), {"mean": mean}


@pytest.mark.parametrize("optimizer", [*OPTIMIZERS, "own"])
def test_the_graph_gives_the_bits_of_its_eager_switch_and_of_plain_python(gpu, rng, optimizer):
    data, found = batches(rng), {}
    for mode in ("plain", "eager", "graph"):
        net, opt = network(), Descent(lr=0.05) if optimizer == "own" else OPTIMIZERS[optimizer]()
        step = training_step(net, opt)
        run = step if mode == "plain" else dn.capture(step, eager=mode == "eager")
        losses = [dn.to_numpy(run(x, t)).tobytes() for x, t in data]
        found[mode] = losses, state(net, opt), opt.steps
        by_python = 3 + (gpu is recorder)  # two to warm up, one to record; on the CPU one more to compare
        assert step.python == (by_python if mode == "graph" else 7)
    assert found["graph"] == found["eager"]
    if optimizer == "own":  # its steps are an array of float64 where they were a number
        assert found["graph"][2] == found["plain"][2] == 7
        return
    assert found["eager"] == found["plain"]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("optimizer", ["nesterov", "adamw"])
def test_networks_of_16_bits(gpu, rng, dtype, optimizer):
    """Masters are float32 and their copies follow them, also where a master was set from outside."""
    if dtype == "bfloat16":
        pytest.importorskip("ml_dtypes")
    data, found = batches(rng, n=8), []
    for mode in ("plain", "graph"):
        net, opt = dn.Sequential(layers()).init((8, 8, 1), seed=0, dtype=dtype), OPTIMIZERS[optimizer]()
        step = training_step(net, opt) if mode == "plain" else dn.capture(training_step(net, opt))
        losses = [dn.to_numpy(step(x, t)).tobytes() for x, t in data[:6]]
        w = net.parameters()["0.w"]
        w.value = w.value * 2.0
        losses.append(dn.to_numpy(step(*data[6])).tobytes())
        w.value[...] = w.value * 0.5
        w.changed()
        losses.append(dn.to_numpy(step(*data[7])).tobytes())
        assert all(p.dtype == "float32" for p in net.parameters().values())
        found.append((losses, state(net, opt), net.predict(data[0][0]).tobytes()))
    assert found[0] == found[1]


def test_a_repeated_step_runs_no_python_and_moves_nothing(cupy, rng):
    data, net, opt = batches(rng), network(), dn.Adam()
    step = dn.capture(training_step(net, opt))
    for x, t in data[:3]:
        step(x, t)
    cupy.now.called.clear()
    with dn.transfers("forbid"):
        step(*data[3])
    assert step.graphs == 1 and cupy.now.graphs.launched == 2
    assert set(cupy.now.called) <= {"__setitem__", "copy"}  # the batch, three counts, the loss
    assert sum(cupy.now.called.values()) <= 6


def test_a_graph_for_each_shape(gpu, rng):
    net, opt = network(), dn.SGD(lr=0.05, momentum=0.9)
    plain, other = network(), dn.SGD(lr=0.05, momentum=0.9)
    step, run = dn.capture(training_step(net, opt)), training_step(plain, other)
    for (x, t), (a, b) in zip(batches(rng), batches(rng, size=2)):
        assert dn.to_numpy(step(x, t)) == dn.to_numpy(run(x, t))
        assert dn.to_numpy(step(a, b)) == dn.to_numpy(run(a, b))
    assert step.graphs == 2 and state(net, opt) == state(plain, other)


def test_what_changes_between_steps_reaches_the_graph(gpu, rng):
    """The learning rate, loaded parameters, a loaded optimizer, a parameter set by hand, moving statistics."""
    data = batches(rng, n=12)
    found = []
    for mode in ("plain", "graph"):
        net, opt = network(), dn.SGD(lr=0.05, momentum=0.9)
        run = training_step(net, opt) if mode == "plain" else dn.capture(training_step(net, opt))
        begun = {name: v.copy() if hasattr(v, "shape") else v for name, v in net.state_dict().items()}
        for x, t in data[:4]:
            run(x, t)
        opt.lr = 0.01
        run(*data[4])
        kept = opt.state_dict()
        kept = {name: v.copy() if hasattr(v, "shape") else v for name, v in kept.items()}
        net.load_state_dict(begun)
        run(*data[5])
        opt.load_state_dict(kept)
        run(*data[6])
        net.parameters()["0.w"].value = net.parameters()["0.w"].value * 0.5
        run(*data[7])
        opt.load_state_dict(dn.SGD(lr=0.02, momentum=0.9).state_dict())  # a new one, without velocities
        run(*data[8])
        run(*data[9])
        found.append(state(net, opt))
    assert found[0] == found[1]


def test_arrays_of_before_keep_their_values(gpu, rng):
    net, opt = network(), dn.SGD(lr=0.05, momentum=0.9)
    before = {name: (v, dn.to_numpy(v)) for name, v in net.state_dict().items() if hasattr(v, "shape")}
    step = dn.capture(training_step(net, opt))
    for x, t in batches(rng):
        step(x, t)
    for array, values in before.values():
        np.testing.assert_array_equal(dn.to_numpy(array), values)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_states_that_are_taken_between_steps_stay_as_they_are(gpu, rng, optimizer):
    """As without capture, where a step sets new arrays: no later step, load or weight set by hand reaches them."""
    data, found = batches(rng, n=9), []
    for mode in ("plain", "graph"):
        net, opt, taken = network(), OPTIMIZERS[optimizer](), []
        run = training_step(net, opt) if mode == "plain" else dn.capture(training_step(net, opt))
        predict = net if mode == "plain" else dn.capture(net)
        for place, (x, t) in enumerate(data):
            run(x, t)
            predict(x)
            taken.append((net.state_dict(), opt.state_dict()))
            if place == 6:
                net.load_state_dict(taken[1][0])
                opt.load_state_dict(taken[1][1])
            elif place == 7:
                w = net.parameters()["0.w"]
                w.value = w.value * 0.5
        found.append([{name: dn.to_numpy(v).tobytes() if hasattr(v, "shape") else v for name, v in one.items()}
                      for pair in taken for one in pair])  # fmt: skip
    assert found[0] == found[1]


def test_a_state_is_copied_only_if_a_step_may_overwrite_it(gpu, rng):
    net, opt = network(), dn.SGD(lr=0.05, momentum=0.9)
    captured = dn.capture(training_step(net, opt))

    def same():
        states = [(net.state_dict(), net.state_dict()), (opt.state_dict(), opt.state_dict())]
        pairs = [(one[name], other[name]) for one, other in states for name in one if hasattr(one[name], "shape")]
        return [one is other for one, other in pairs]

    assert all(same())
    for x, t in batches(rng)[:5]:
        captured(x, t)
    assert not any(same())
    del captured
    gc.collect()
    assert all(same())


def test_an_array_that_a_step_keeps_is_its_own(gpu):
    """Not the buffer of the arguments, which the next batch overwrites."""
    norm = dn.BatchNorm().init((3,))

    def step(x):
        seen = norm.moving_mean + 0.0
        dn.recording.assign(norm, "moving_mean", x)
        return seen

    captured = dn.capture(step)
    x = [dn.asarray(np.full(3, k, "f4")) for k in range(1, 6)]
    assert [dn.to_numpy(captured(a))[0] for a in x] == [0, 1, 2, 3, 4]


def test_what_it_returns_is_a_copy(gpu, rng):
    def step(x, t):
        return {"sum": (x + t, [x * 2]), "none": None, "name": "step"}

    captured, seen = dn.capture(step), []
    for k in range(5):
        x = dn.asarray(np.full(3, k, "f4"))
        seen.append(captured(x, x))
    assert [dn.to_numpy(s["sum"][0]).tolist() for s in seen] == [[2 * k] * 3 for k in range(5)]
    assert [dn.to_numpy(s["sum"][1][0]).tolist() for s in seen] == [[2 * k] * 3 for k in range(5)]
    assert seen[4]["none"] is None and seen[4]["name"] == "step"


def test_numbers_are_part_of_the_shape(gpu):
    captured = dn.capture(lambda x, factor: x * factor)
    x = dn.asarray(np.ones(3, "f4"))
    for factor in (2.0, 3.0):
        for _ in range(4):
            assert dn.to_numpy(captured(x, factor)).tolist() == [factor] * 3
    assert captured.graphs == 2
    whole, calls = dn.asarray(np.arange(3)), []
    captured = dn.capture(lambda x, factor: calls.append(factor) or x * factor)
    for factor in (2, 2.0, True, 1):
        for _ in range(4):
            made = dn.to_numpy(captured(whole, factor))
            assert made.dtype == (whole * factor).dtype and made.tolist() == [0, factor, 2 * factor]
    assert captured.graphs == 4 and {type(factor) for factor in calls} == {int, float, bool}
    with pytest.raises(TypeError, match="takes arrays, numbers and strings"):
        captured(x, [1.0])


# -- training ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["host", "device"])
def test_fit(gpu, rng, place):
    """Epochs with a smaller batch at the end, validation, early stopping that restores, a callback that saves."""
    x, t = rng.standard_normal((22, 8, 8, 1)).astype("f4"), rng.integers(0, 3, 22)
    if place == "device":
        x, t = dn.asarray(x), dn.asarray(t)
    found = []
    for capture in (False, True):
        net, opt, saved = network(), dn.SGD(lr=0.05, momentum=0.9), []
        hooks = [dn.EarlyStopping(1), lambda run, kept=saved: kept.append(state(run.net, run.optimizer))]
        history = net.fit(x, t, epochs=5, batch_size=4, optimizer=opt, validation_data=(x, t), callbacks=hooks,
                          verbose=0, capture=capture)  # fmt: skip
        history.pop("seconds")
        epochs = len(history["loss"])
        found.append((dict(history), saved, state(net, opt), net.predict(x).tobytes()))
    assert found[0] == found[1]
    if hasattr(gpu, "now"):
        assert epochs > 1  # two runs of each size before the first launch: five batches of four an epoch, one of two
        assert gpu.now.graphs.launched >= (5 * epochs - 2) + max(0, epochs - 2)


def test_fit_with_everything(gpu, rng):
    """float16 with a loss scale that overflows at first, images of uint8 moved anew in each epoch, a schedule."""
    x, t = rng.integers(0, 256, (16, 8, 8, 1)).astype("u1"), rng.integers(0, 3, 16)
    x, t = dn.asarray(x), dn.asarray(t)
    found = []
    for capture in (False, True):
        net = dn.Sequential(layers()).init((8, 8, 1), seed=0, dtype="float16")
        opt, scale = dn.Adam(lr=dn.schedules.Cosine(0.01, 20)), dn.LossScale(2.0**22, interval=3)
        history = net.fit(x, t, epochs=5, batch_size=4, optimizer=opt, augment=dn.data.Augment(2), loss_scale=scale,
                          verbose=0, capture=capture)  # fmt: skip
        history.pop("seconds")
        found.append((dict(history), state(net, opt), scale.state_dict()))
    assert found[0] == found[1]
    assert found[0][2]["skipped"] > 0 and opt.steps == 20


@pytest.mark.parametrize("options", [
    {"sample_weight": np.linspace(0.5, 2.0, 10)},
    {"class_weight": {1: 3.0}, "ignore_label": 2},
    {"metrics": ["f1", "top2", lambda y, t: dn.backend.backend_of(y).xp.mean(y)]},
    {"class_weight": {1: 3.0}},
    {"accumulate": 2},
    {"accumulate": 2, "class_weight": [1.0, 2.0, 3.0], "ignore_label": 0, "metrics": "precision"},
    {"batches": True},
])  # fmt: skip
def test_fit_with_weights_metrics_and_accumulation(gpu, rng, options):
    x, t = rng.standard_normal((10, 8, 8, 1)).astype("f4"), rng.integers(0, 3, 10)
    found, options = [], dict(options)
    cut = [(x[i : i + 4], t[i : i + 4]) for i in range(0, 8, 4)]
    data = (cut, None) if options.pop("batches", False) else (x, t)
    for capture in (False, True):
        net, opt = network(), dn.SGD(lr=0.005, momentum=0.9)
        history = net.fit(*data, epochs=5, batch_size=4, optimizer=opt, validation_data=(x, t), verbose=0,
                          capture=capture, **options)  # fmt: skip
        history.pop("seconds")
        found.append((dict(history), state(net, opt)))
    assert found[0] == found[1]
    assert not hasattr(gpu, "now") or gpu.now.graphs.launched > 5


@pytest.mark.parametrize("options", [{}, {"class_weight": {0: 1.0, 1: 2.0}}, {"accumulate": 2}])
@pytest.mark.parametrize("hidden", [[], ["norm"], ["dense", "relu"]])
def test_fit_on_rows(gpu, rng, hidden, options):
    """Small batches of two axes, whose sums may be NumPy's numbers without axes instead of arrays."""
    x, t = rng.standard_normal((16, 4)).astype("f4"), rng.integers(0, 2, 16)
    make, found = {"norm": dn.BatchNorm, "dense": lambda: dn.Dense(4), "relu": dn.ReLU}, []
    for capture in (False, True):
        net = dn.Sequential([*(make[name]() for name in hidden), dn.Dense(2)]).init((4,), seed=1)
        opt = dn.SGD(lr=0.1)
        history = net.fit(x, t, epochs=5, batch_size=4, optimizer=opt, verbose=0, capture=capture, **options)
        history.pop("seconds")
        found.append((dict(history), state(net, opt)))
    assert found[0] == found[1]


class Then(dn.Callback):
    """Does something after the second epoch."""

    def __init__(self, change):
        self.change = change

    def on_epoch_end(self, run):
        if run.epoch == 1:
            self.change(run)


CHANGES = {
    "unfreeze": lambda run: run.net.unfreeze(),
    "freeze": lambda run: run.net.freeze("4"),
    "momentum": lambda run: setattr(run.optimizer, "momentum", 0.5),
    "clip_norm": lambda run: setattr(run.optimizer, "clip_norm", 0.1),
    "weight_decay": lambda run: setattr(run.optimizer, "weight_decay", 0.1),
    "no_decay": lambda run: setattr(run.optimizer, "no_decay", ["w"]),
    "dropout": lambda run: setattr(run.net.layers[8], "rate", 0.5),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_callback_changes_a_setting(gpu, rng, change):
    """What the recorded step holds as a constant is recorded anew: six steps are before the change, six after it."""
    x, t = rng.standard_normal((12, 8, 8, 1)).astype("f4"), rng.integers(0, 3, 12)
    found = []
    for capture, changes in ((False, True), (True, True), (False, False)):
        net, opt = network(), dn.SGD(lr=0.005, momentum=0.9, weight_decay=1e-3)
        if change == "unfreeze":
            net.freeze("0", "1")
        hooks = [Then(CHANGES[change])] if changes else []
        net.fit(x, t, epochs=4, batch_size=4, optimizer=opt, callbacks=hooks, verbose=0, capture=capture)
        found.append(state(net, opt))
    assert found[0] == found[1] != found[2]
    assert not hasattr(gpu, "now") or gpu.now.graphs.launched >= 8  # on both sides of the change


def test_settings_of_a_loop_of_your_own(gpu, rng):
    """Freezing between two steps; what is set to the value that it has is no news."""
    found = []
    for mode in ("plain", "graph"):
        net, opt = network(), dn.SGD(lr=0.05, momentum=0.9)
        step = training_step(net, opt)
        run, data = step if mode == "plain" else dn.capture(step), batches(np.random.default_rng(1), n=12)
        for place, (x, t) in enumerate(data):
            if place == 6:
                net.freeze("0")
            opt.momentum, opt.lr = 0.9, 0.05 / (place + 1)
            run(x, t)
        found.append(state(net, opt))
    assert found[0] == found[1]
    assert step.python == 2 * (3 + (gpu is recorder)) and run.graphs == 1


def test_without_a_recorder_it_is_the_step_itself(rng):
    with dn.use_backend("strict"):
        net, opt = network(), dn.Adam()
        step = training_step(net, opt)
        captured = dn.capture(step)
        for x, t in batches(rng):
            captured(x, t)
        assert step.python == 7 and opt.steps == 7 and captured.graphs == 0


def test_switched_off_by_the_environment(gpu, rng, monkeypatch):
    monkeypatch.setenv("DUALNET_CAPTURE", "0")
    net, opt = network(), dn.Adam()
    step = training_step(net, opt)
    captured = dn.capture(step)
    for x, t in batches(rng):
        captured(x, t)
    assert step.python == 7 and captured.graphs == 0
    monkeypatch.setenv("DUALNET_CAPTURE", "maybe")
    with pytest.raises(ValueError, match="DUALNET_CAPTURE must be 0 .* or 1, got 'maybe'"):
        dn.capture(step)(*batches(rng)[0])


# -- what cannot be captured -------------------------------------------------------------------------------------------


class Average(dn.Layer):
    """Keeps the mean of what it has seen, without saying so."""

    state_names = ("seen",)
    seen = None

    def forward(self, x, train=False):
        self.seen = x if self.seen is None else 0.9 * self.seen + 0.1 * x
        return x, dn.Pullback("average", lambda dy: (dy, {}), x)


class Counts(dn.Layer):
    calls = 0

    def forward(self, x, train=False):
        self.calls += 1
        return x, dn.Pullback("counts", lambda dy: (dy, {}), x)


@pytest.mark.parametrize(
    ("layer", "told"),
    [(Average(), r"Average.seen is set .* dn.recording.assign\(self, 'seen'"), (Counts(), "Counts.calls is set")],
)
def test_state_that_is_not_said_is_refused(gpu, rng, layer, told):
    net = dn.Sequential([dn.Conv2D(2, 3), layer, dn.Flatten(), dn.Dense(3)]).init((8, 8, 1))
    with pytest.raises(dn.CaptureError, match=told):
        dn.capture(training_step(net, dn.Adam()))(*batches(rng)[0])


def test_a_parameter_set_by_hand_in_the_step_is_refused(gpu, rng):
    net = network()

    def step(x, t):
        w = net.parameters()["0.w"]
        w.value = w.value * 0.9

    with pytest.raises(dn.CaptureError, match="Parameter.value is set in a captured step"):
        dn.capture(step)(*batches(rng)[0])


@pytest.mark.parametrize("culprit", ["reads", "copies"])
def test_copies_are_refused_at_the_first_step(gpu, rng, culprit):
    def step(x, t):
        return dn.to_numpy(x) if culprit == "reads" else dn.asarray(np.ones(3, "f4")) * x[0, 0, 0, 0]

    if gpu is recorder and culprit == "copies":
        dn.capture(step)(*batches(rng)[0])  # an array of ones is a constant, and already where it should be
        return
    way = "from the device to the host" if culprit == "reads" else "from the host to the device"
    way = "for the host" if gpu is recorder else way
    with pytest.raises(dn.CaptureError, match=f"makes a copy of .* bytes {way}"):
        dn.capture(step)(*batches(rng)[0])


def test_waiting_is_refused_when_it_is_recorded_and_nothing_has_changed(cupy, rng):
    data, net, opt = batches(rng), network(), dn.Adam()
    inner = training_step(net, opt)

    def step(x, t):
        loss = inner(x, t)
        cupy.cuda.Device(0).synchronize()
        return loss

    captured = dn.capture(step)
    captured(*data[0]), captured(*data[1])
    before = state(net, opt)
    for _ in range(2):
        with pytest.raises(dn.CaptureError, match="cannot be recorded as a CUDA graph .*waits for the device"):
            captured(*data[2])
        assert state(net, opt) == before and opt.steps == 2
    inner(*data[2])  # and training goes on without
    assert opt.steps == 3


def test_a_step_that_takes_another_way_when_it_is_recorded_is_refused(gpu, rng):
    net, opts = network(), [dn.SGD(lr=0.1, momentum=0.9), dn.SGD(lr=0.1, momentum=0.9)]
    calls = []

    def step(x, t):
        calls.append(1)
        return training_step(net, opts[len(calls) > 2])(x, t)

    captured = dn.capture(step)
    captured(*batches(rng)[0]), captured(*batches(rng)[1])
    with pytest.raises(dn.CaptureError, match="appears for the first time while the step is captured"):
        captured(*batches(rng)[2])


def test_two_steps_of_a_scheduled_optimizer_in_one_are_refused(gpu, rng):
    net, opt = network(), dn.SGD(lr=dn.schedules.Cosine(0.1, 10))

    def step(x, t):
        training_step(net, opt)(x, t)
        training_step(net, opt)(x, t)

    with pytest.raises(dn.CaptureError, match="SGD.current_lr changes within the step"):
        dn.capture(step)(*batches(rng)[0])


def test_a_network_that_moved_away_is_refused(cupy, rng):
    data, net, opt = batches(rng), network(), dn.SGD(lr=0.1)
    captured = dn.capture(training_step(net, opt))
    for x, t in data[:4]:
        captured(x, t)
    net.to("numpy")
    with pytest.raises(dn.CaptureError, match="was .* on cupy:0 when the step was captured, but is now .* on numpy"):
        captured(*data[4])


def test_a_step_whose_products_are_cupys_says_so(cupy, rng, monkeypatch):
    monkeypatch.setattr(cublas, "library", lambda: None)
    data, net = batches(rng), network()
    captured = dn.capture(training_step(net, dn.Adam()))
    captured(*data[0]), captured(*data[1])
    with pytest.raises(dn.CaptureError, match="calling cuBLAS API during stream capture"):
        captured(*data[2])


def test_only_functions_are_captured():
    with pytest.raises(TypeError, match="expected a function of arrays"):
        dn.capture(3)
    with pytest.raises(TypeError, match="eager"):
        dn.capture(len, eager="yes")


# -- prediction --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["network", "forward", "function"])
def test_a_captured_network_predicts_with_the_weights_that_it_has(gpu, rng, way):
    """Also those that a load, an optimizer, a captured step or a hand has set since."""
    net, opt = network(), dn.SGD(lr=0.05, momentum=0.9)
    predict = dn.capture({"network": net, "forward": net.forward, "function": lambda x: net(x)}[way])
    step, data = training_step(net, opt), batches(rng, n=14)
    train = dn.capture(training_step(net, opt))
    begun = {name: v.copy() if hasattr(v, "shape") else v for name, v in net.state_dict().items()}

    def same(x):
        assert dn.to_numpy(predict(x)).tobytes() == dn.to_numpy(net(x)).tobytes()

    for x, _ in data[:5]:
        same(x)
    step(*data[5])
    same(data[0][0])
    for x, t in data[6:12]:
        train(x, t)
        same(x)
    net.load_state_dict(begun)
    same(data[12][0])
    net.parameters()["0.w"].value = net.parameters()["0.w"].value * 0.5
    same(data[13][0])
    assert predict.graphs == 1


def test_a_network_that_the_first_call_passes_by_follows_its_weights_too(gpu, rng):
    """The step names it: it counts, though the first call computes with another one."""
    net, other, calls = network(), network(), itertools.count()
    predict = dn.capture(lambda x: (net if next(calls) else other)(x))
    (first, _), *data = batches(rng, n=8)
    predict(first)
    for x, _ in data:
        assert dn.to_numpy(predict(x)).tobytes() == dn.to_numpy(net(x)).tobytes()
        net.parameters()["0.w"].value = net.parameters()["0.w"].value * 0.5
    assert predict.graphs == 1


class Predicts:
    """An object that is called, and holds a network."""

    def __init__(self, net):
        self.net = net

    def __call__(self, x):
        return self.net(x)


@pytest.mark.parametrize("way", ["object", "expression"])
def test_networks_inside_objects_and_expressions_follow_their_weights(gpu, rng, way):
    net = network()
    function = eval("lambda x: sum(net(x) for _ in range(2))", {"net": net, "__name__": __name__})
    predict = dn.capture({"object": Predicts(net), "expression": function}[way])
    x, t = rng.standard_normal((8, 8, 8, 1)).astype("f4"), rng.integers(0, 3, 8)
    given = dn.asarray(x)
    for _ in range(2):
        for _ in range(5):
            predict(given)
        net.fit(x, t, epochs=1, batch_size=4, verbose=0)
        expected = dn.to_numpy(net(given)) * (1 if way == "object" else 2)
        np.testing.assert_array_equal(dn.to_numpy(predict(given)), expected)
    assert predict.graphs == 1


class Slotted:
    __slots__ = ("net",)


class Holder:
    """Something of a user's that holds a network."""


def held(kind, net):
    """A function that reaches a network in a roundabout way."""
    if kind == "default by keyword":
        return lambda x, *, model=net: model(x)
    if kind == "slots":
        one = Slotted()
        one.net = net
        return lambda x: one.net(x)
    holder = Holder()
    holder.nets, holder.by_name, holder.inner = [net], {"a": (net,)}, Holder()
    holder.inner.net = net
    if kind == "global":
        names = {"holder": holder, "__name__": "elsewhere"}
        return eval("lambda x: holder.inner.net(x)", names)
    if kind == "called":
        return lambda x: (lambda: vars(holder)["by_name"]["a"][0])()(x)
    holder.predict = {
        "a list": lambda x: holder.nets[0](x),
        "layers": lambda x: functools.reduce(lambda y, layer: layer(y), net.layers[:8], x),
        "weights": lambda x: x[:, 0, 0] * holder.inner.net.parameters()["0.w"].value[0, 0],
    }[kind]
    return lambda x: holder.predict(x)


@pytest.mark.parametrize("kind", ["default by keyword", "slots", "global", "called", "a list", "layers", "weights"])
def test_new_weights_reach_a_network_wherever_the_step_finds_it(gpu, rng, kind):
    """Also running statistics and settings; and the layer's attributes are read as fast as before."""
    net = network()
    function = held(kind, net)
    x, t = rng.standard_normal((8, 8, 8, 1)).astype("f4"), rng.integers(0, 3, 8)
    given = dn.asarray(x)
    predict = dn.capture(function)
    for _ in range(3):
        for _ in range(5):
            np.testing.assert_array_equal(dn.to_numpy(predict(given)), dn.to_numpy(function(given)))
        net.fit(x, t, epochs=1, batch_size=4, verbose=0)
    assert predict.graphs == 1
    net.layers[1].epsilon = 0.5
    for _ in range(5):
        np.testing.assert_array_equal(dn.to_numpy(predict(given)), dn.to_numpy(function(given)))
    assert "__getattribute__" not in vars(dn.recording.Stateful)


def test_frozen_parameters_that_are_loaded_reach_the_recorded_step(gpu, rng):
    found = []
    for mode in ("plain", "graph"):
        net, opt = network(), dn.SGD(lr=0.05)
        net.layers[0].freeze()
        run = training_step(net, opt) if mode == "plain" else dn.capture(training_step(net, opt))
        data = batches(np.random.default_rng(1))
        for x, t in data[:5]:
            run(x, t)
        state_of = {name: v * 2 if name == "0.w" else v for name, v in net.state_dict().items()}
        net.load_state_dict(state_of)
        found.append([dn.to_numpy(run(x, t)).tobytes() for x, t in data[5:]])
    assert found[0] == found[1]


# -- on the CPU --------------------------------------------------------------------------------------------------------


def test_on_the_cpu_a_number_is_refused_at_the_first_step(cpu, rng):
    for culprit in (float, bool, int, lambda loss: loss.item(), lambda loss: loss.tolist(), lambda loss: [1][loss]):

        def step(x, culprit=culprit):
            return x * culprit((x * 0).sum().astype("int64"))

        with pytest.raises(dn.CaptureError, match=r"a captured step makes a Python value of an array \("):
            dn.capture(step)(batches(rng)[0][0])


def test_a_constant_in_silence_is_caught_before_it_counts(cpu, rng):
    """An array that is computed behind NumPy's back: the step is run by Python too, with another batch."""
    table = np.array([1.0, 2.0, 3.0])
    net, opt = network(), dn.SGD(lr=0.05)

    def step(x, t):
        loss = training_step(net, opt)(x, t)
        return loss * table[t].sum()

    captured, data = dn.capture(step), batches(rng)
    for x, t in data[:3]:
        captured(x, t)
    before = state(net, opt)
    with pytest.raises(
        dn.CaptureError, match=r"with another batch, it gives different numbers .* what it returns \(float64"
    ):
        captured(*data[3])
    assert state(net, opt) == before


def test_also_if_every_batch_is_the_same(cpu, rng):
    table = np.array([1.0, 2.0, 3.0, 4.0])
    captured, t = dn.capture(lambda t: table[t] + 0.0 * t), dn.asarray([0, 1, 2, 3])
    for _ in range(3):
        captured(t)
    with pytest.raises(dn.CaptureError, match="with another batch, it gives different numbers"):
        captured(t)


def test_writing_to_an_array_of_outside_is_refused(cpu):
    seen = np.zeros(3, "f4")

    def step(x):
        np.add(seen, x, out=seen)
        return x * 2.0

    captured, x = dn.capture(step), np.ones(3, "f4")
    captured(x), captured(x)
    with pytest.raises(dn.CaptureError, match=r"writes to an array \(3,\) that was made outside the step"):
        captured(x)


def test_a_step_that_goes_another_way_is_run_by_python(cpu, rng):
    """NaN takes the slow paths of the kernels, and the next batch is back on the recorded one."""
    data, found = batches(rng, n=8), []
    data[5][0][1, 2, 3, 0] = np.nan
    for mode in ("plain", "graph"):
        net, opt = network(), dn.SGD(lr=0.05, momentum=0.9)
        step = training_step(net, opt)
        run, losses = (step if mode == "plain" else dn.capture(step)), []
        begun = {name: v.copy() if hasattr(v, "shape") else v for name, v in net.state_dict().items()}
        for place, (x, t) in enumerate(data):
            losses.append(dn.to_numpy(run(x, t)).tobytes())
            if place == 5:
                found.append(state(net, opt))
                net.load_state_dict(begun)
                opt.load_state_dict(dn.SGD(lr=0.05, momentum=0.9).state_dict())
        found.append((losses, state(net, opt)))
    assert found[0] == found[2] and found[1] == found[3]
    assert step.python == 5  # two to warm up, one to record, one to compare, one for the NaN


@pytest.mark.parametrize("threads", ["1", "2"])
@pytest.mark.parametrize("onednn", ["0", "1"])
@pytest.mark.parametrize("name, size", [("lenet5", 1), ("lenet5", 64), ("resnet20", 4)])
def test_whole_networks(cpu, monkeypatch, rng, name, size, onednn, threads):
    """Shapes that every kernel serves; 1 and 2 threads."""
    monkeypatch.setenv("DUALNET_ONEDNN", onednn)
    monkeypatch.setenv("DUALNET_THREADS", threads)
    shape = nets.network(name, 0).input_shape
    data = [(rng.standard_normal((size, *shape)).astype("f4"), rng.integers(0, 10, size)) for _ in range(6)]
    found = []
    for mode in ("plain", "graph"):
        net, opt = nets.network(name, 0), dn.SGD(lr=0.01, momentum=0.9)
        run = training_step(net, opt) if mode == "plain" else dn.capture(training_step(net, opt))
        losses = [dn.to_numpy(run(x, t)).tobytes() for x, t in data]
        found.append((losses, state(net, opt)))
    assert found[0] == found[1] and run.graphs == 1


def test_another_number_of_threads_is_run_by_python(cpu, monkeypatch, rng):
    monkeypatch.setenv("DUALNET_THREADS", "2")
    net, opt = network(), dn.Adam()
    step = training_step(net, opt)
    captured = dn.capture(step)
    for x, t in batches(rng)[:5]:
        captured(x, t)
    assert step.python == 4
    monkeypatch.setenv("DUALNET_THREADS", "1")
    captured(*batches(rng)[5])
    assert step.python == 5


@pytest.mark.parametrize("size", [1, 3])
def test_a_constant_is_caught_however_late_its_argument_changes(cpu, size):
    """Calls 3 to 5 have the same labels, and turning them around changes nothing."""
    table = np.array([10.0, 20.0, 30.0])
    captured = dn.capture(lambda x, t: x.sum() + table[t].sum())
    for place, label in enumerate((0, 1, 2, 2, 2)):
        x = np.full((size, 2), place, "f4")
        assert captured(x, np.full(size, label)) == x.sum() + table[label] * size
    for _ in range(2):
        with pytest.raises(dn.CaptureError, match="with another batch, it gives different numbers"):
            captured(x, np.full(size, 1))
    assert captured(x, np.full(size, 2)) == x.sum() + table[2] * size


def test_python_runs_once_more_for_each_argument_that_changes_late(cpu):
    calls = []
    captured = dn.capture(lambda x, t, w: calls.append(1) or (x * w).sum() + t.sum())
    same, one, two = np.ones(3), np.zeros(1, int), np.ones(1, int)
    for place in range(12):
        x = np.full(3, float(place))
        t = two if place > 7 else one
        assert captured(x, t, same) == (x * same).sum() + t.sum()
    assert len(calls) == 5  # two to warm up, one to record, one for x, one for t


@pytest.mark.parametrize("where", ["launch", "move"])
def test_an_interrupt_leaves_weights_and_counts_consistent(cpu, rng, monkeypatch, where):
    """It comes while the recorded step runs, or between that and its counts; the step is then made as a whole."""
    data, found = batches(rng), []
    for interrupted in (False, True):
        net, opt = network(), dn.SGD(lr=0.05, momentum=0.9)
        captured = dn.capture(training_step(net, opt))
        for x, t in data[:5]:
            captured(x, t)
        (take,) = captured._takes.values()
        if interrupted:
            calls = take.recorder.last
            at = len(calls) // 2 if where == "launch" else len(calls) - 1

            def raises(call=calls[at]):
                call()
                signal.raise_signal(signal.SIGINT)

            calls[at] = raises
            before = signal.signal(signal.SIGINT, signal.default_int_handler)
            try:
                with pytest.raises(KeyboardInterrupt):
                    captured(*data[5])
                assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
            finally:
                signal.signal(signal.SIGINT, before)
        else:
            captured(*data[5])
        assert opt.steps == 6
        found.append(state(net, opt))
    assert found[0] == found[1]


# -- errors of the step itself -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_step_that_raises_changes_nothing_whichever_call_it_is(gpu, rng, optimizer):
    """Also the first one, which meets weights, statistics, slots and counts for the first time."""
    net, opt, failing = network(), OPTIMIZERS[optimizer](), []
    train = training_step(net, opt)

    def step(x, t):
        loss = train(x, t)
        if failing:
            raise ZeroDivisionError
        return loss

    captured, plain, other = dn.capture(step), network(), OPTIMIZERS[optimizer]()
    by_python = training_step(plain, other)
    for number, (x, t) in enumerate(batches(rng)):
        if number < 4:
            before = state(net, opt)
            failing.append(1)
            if number < 3 + (gpu is recorder):  # later no Python runs
                with pytest.raises(ZeroDivisionError):
                    captured(x, t)
                assert state(net, opt) == before and opt.steps == number
            failing.clear()
        assert dn.to_numpy(captured(x, t)).tobytes() == dn.to_numpy(by_python(x, t)).tobytes()
    assert state(net, opt) == state(plain, other)


# -- signals -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def handlers(monkeypatch):
    """A pretend ``signal`` module: which handler each signal has, and the signal that comes in the k-th call."""

    class Handlers(dict):
        def signal(self, number, handler):
            self[number] = handler
            self.calls += 1
            for come in self.coming.pop(self.calls, ()):
                self[come](come, None)

    def raises(number, frame):
        made.handled.append(number)
        raise KeyboardInterrupt(number)

    made = Handlers({number: raises for number in SIGNALS})
    made.getsignal, made.calls, made.coming, made.handled, made.before = made.get, 0, {}, [], raises
    monkeypatch.setattr(sys.modules[_Whole.__module__], "_signals", made)
    return made


@pytest.mark.parametrize("come", [[signal.SIGINT], [signal.SIGTERM], [signal.SIGTERM, signal.SIGINT]])
@pytest.mark.parametrize("call", range(1, 7))
def test_a_signal_while_the_handlers_are_changed_leaves_all_in_their_places(handlers, call, come):
    """At each of the calls that change a handler: the signal is handled, once, and no handler stays away."""
    if call > 2 * len(SIGNALS):
        pytest.skip("fewer signals here")
    handlers.coming |= {call: come[:1], call + 1: come[1:]}
    with pytest.raises(KeyboardInterrupt), _Whole():
        pass
    assert set(handlers.values()) == {handlers.before}
    came = come if call + 1 not in handlers.coming else come[:1]
    assert sorted(handlers.handled) == sorted(came)


def test_an_error_from_the_first_signal_does_not_lose_the_others(handlers):
    with pytest.raises(KeyboardInterrupt) as error, _Whole():
        for number in SIGNALS:
            handlers[number](number, None)
        assert handlers.handled == []
    assert handlers.handled == list(SIGNALS) and set(handlers.values()) == {handlers.before}
    assert error.value.args == (SIGNALS[-1],)
    assert error.value.__context__.args == (SIGNALS[-2],)


def test_a_handler_that_was_left_behind_makes_room_for_the_one_before(handlers):
    whole = _Whole()
    whole.__enter__()
    whole.over = True  # as if an error had come before anything else
    with pytest.raises(KeyboardInterrupt):
        handlers[signal.SIGINT](signal.SIGINT, None)
    assert handlers[signal.SIGINT] is handlers.before and handlers.handled == [signal.SIGINT]
