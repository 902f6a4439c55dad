"""A setting that changes between two captured steps: it takes effect as without capture, or is refused.

Each public attribute of every layer and every optimizer is changed, found by looking and not by a list, on NumPy with
and without capture. What lies inside lists and dictionaries is changed in place as well.
"""

from __future__ import annotations

import copy

import numpy as np
import pytest

import dualnet as dn
from dualnet.layers.graph import Node
from dualnet.recording import Settings

MAPS, ROWS, UNITS = (6, 6, 4), (8, 4), (4,)


@pytest.fixture(autouse=True)
def on_numpy():
    with dn.use_backend("numpy"):
        yield


def tanh(*layers):
    return dn.Sequential([dn.Dense(4), *layers, dn.Tanh()])


def merging(layer):
    net = dn.Graph(inputs="x", outputs="y")
    net.add("a", dn.Dense(3), "x")
    net.add("b", dn.Dense(3), "x")
    net.add("y", layer, ["a", "b"])
    return net


EXAMPLES = {
    "AdaptiveAveragePool2D": (MAPS, lambda: dn.AdaptiveAveragePool2D(2)),
    "Add": (UNITS, lambda: merging(dn.Add())),
    "Average": (UNITS, lambda: merging(dn.Average())),
    "AveragePool1D": (ROWS, lambda: dn.AveragePool1D(2, padding=1)),
    "AveragePool2D": (MAPS, lambda: dn.AveragePool2D(2, padding=1)),
    "BatchNorm": (MAPS, lambda: dn.BatchNorm()),
    "Concatenate": (UNITS, lambda: merging(dn.Concatenate())),
    "Conv1D": (ROWS, lambda: dn.Conv1D(3, 3)),
    "Conv2D": (MAPS, lambda: dn.Conv2D(4, 3)),
    "Conv2DTranspose": (MAPS, lambda: dn.Conv2DTranspose(4, 3, stride=2)),
    "Cropping2D": (MAPS, lambda: dn.Cropping2D(1)),
    "Dense": (UNITS, lambda: dn.Dense(3)),
    "DepthwiseConv2D": (MAPS, lambda: dn.DepthwiseConv2D(3)),
    "Dropout": (UNITS, lambda: dn.Dropout(0.5)),
    "ELU": (UNITS, lambda: dn.ELU()),
    "Flatten": (MAPS, lambda: dn.Flatten()),
    "GELU": (UNITS, lambda: dn.GELU()),
    "GlobalAveragePool1D": (ROWS, lambda: dn.GlobalAveragePool1D()),
    "GlobalAveragePool2D": (MAPS, lambda: dn.GlobalAveragePool2D()),
    "GlobalMaxPool1D": (ROWS, lambda: dn.GlobalMaxPool1D()),
    "GlobalMaxPool2D": (MAPS, lambda: dn.GlobalMaxPool2D()),
    "Graph": (UNITS, lambda: merging(dn.Add())),
    "GroupNorm": (MAPS, lambda: dn.GroupNorm(2)),
    "Hardsigmoid": (UNITS, lambda: dn.Hardsigmoid()),
    "Hardswish": (UNITS, lambda: dn.Hardswish()),
    "Identity": (UNITS, lambda: dn.Identity()),
    "InstanceNorm": (MAPS, lambda: dn.InstanceNorm()),
    "L2Pool2D": (MAPS, lambda: dn.L2Pool2D(2)),
    "Lambda": (UNITS, lambda: dn.Lambda(lambda x: 2 * x, lambda dy, x, y: 2 * dy)),
    "LayerNorm": (UNITS, lambda: dn.LayerNorm()),
    "LeakyReLU": (UNITS, lambda: dn.LeakyReLU()),
    "LogSoftmax": (ROWS, lambda: dn.LogSoftmax()),
    "MaxPool1D": (ROWS, lambda: dn.MaxPool1D(2)),
    "MaxPool2D": (MAPS, lambda: dn.MaxPool2D(2)),
    "Maximum": (UNITS, lambda: merging(dn.Maximum())),
    "Mish": (UNITS, lambda: dn.Mish()),
    "Multiply": (UNITS, lambda: merging(dn.Multiply())),
    "PReLU": (UNITS, lambda: dn.PReLU()),
    "Parallel": (UNITS, lambda: dn.Parallel([dn.Dense(4), dn.Tanh()])),
    "RMSNorm": (UNITS, lambda: dn.RMSNorm()),
    "ReLU": (UNITS, lambda: dn.ReLU()),
    "ReLU6": (UNITS, lambda: dn.ReLU6()),
    "ReflectionPadding2D": (MAPS, lambda: dn.ReflectionPadding2D(1)),
    "Reshape": (MAPS, lambda: dn.Reshape((36, 4))),
    "Residual": (UNITS, lambda: dn.Residual(tanh())),
    "SeparableConv2D": (MAPS, lambda: dn.SeparableConv2D(4, 3)),
    "Sequential": (UNITS, lambda: tanh(dn.ReLU())),
    "SiLU": (UNITS, lambda: dn.SiLU()),
    "Sigmoid": (UNITS, lambda: dn.Sigmoid()),
    "Softmax": (ROWS, lambda: dn.Softmax()),
    "Softplus": (UNITS, lambda: dn.Softplus()),
    "SpatialDropout2D": (MAPS, lambda: dn.SpatialDropout2D(0.5)),
    "Tanh": (UNITS, lambda: dn.Tanh()),
    "UpSampling2D": (MAPS, lambda: dn.UpSampling2D(2)),
    "ZeroPadding2D": (MAPS, lambda: dn.ZeroPadding2D(1)),
}
"""For every layer the shape of an input, and how it is made."""

OPTIMIZERS = {
    "SGD": lambda: dn.SGD(lr=0.05, momentum=0.9, nesterov=True, weight_decay=0.1, no_decay=["b"]),
    "RMSProp": lambda: dn.optimizers.RMSProp(lr=0.01, momentum=0.5, weight_decay=0.1, clip_value=0.1),
    "Adam": lambda: dn.Adam(lr=0.01, weight_decay=0.1, clip_norm=0.1),
    "AdamW": lambda: dn.AdamW(lr=0.01, no_decay=["b"]),
}

WORDS = {"padding": "same", "mode": "convolution", "merge": "concat", "interpolation": "bilinear"}
NONE = {"clip_norm": 0.01, "clip_value": 0.001, "stride": (1, 1), "shortcut": dn.Identity()}


def new_values(name, value):
    """Other values that an attribute may get."""
    kind = type(value)
    if kind is bool:
        return [not value]
    if kind in (int, float):
        return [value + 1 if kind is int else value / 2 or 0.25]
    if kind is str:
        return [WORDS.get(name, f"{value}?")]
    if kind is tuple:  # also as a list
        return [more(value), [*value]]
    if kind is list:
        return [value[:1], value[::-1]]
    if value is None:
        return [NONE[name]] if name in NONE else []
    if isinstance(value, np.dtype):
        return [np.dtype("float64")]
    if isinstance(value, dn.Parameter):
        return [dn.Parameter(0.5 * value.value)]
    return [dn.Tanh()] if isinstance(value, dn.Layer) else [lambda *given: 3 * given[0]] * callable(value)


def more(value):
    if isinstance(value, tuple):
        return tuple(map(more, value))
    return value + 1 if isinstance(value, int) else value


def holds_layers(value):
    return any(isinstance(each, dn.Layer) for each in value)


IN_PLACE = {
    list: [
        lambda value: value.append(dn.ReLU() if holds_layers(value) else "w"),
        lambda value: value.reverse(),
        lambda value: value.__setitem__(slice(1), [dn.Tanh() if holds_layers(value) else "w"]),
    ],
    dict: [lambda value: value.popitem(), lambda value: value.update(y=Node(dn.Maximum(), ["b", "a"]))],
}


def changes_of(name, value):
    """Functions of the owner, each of which changes this attribute."""
    changes = [lambda owner, new=new: setattr(owner, name, new) for new in new_values(name, value)]
    return changes + [lambda owner, way=way: way(getattr(owner, name)) for way in IN_PLACE.get(type(value), ())]


def outcomes(make, change, capture):
    """The losses and what was learned of steps before and after a change; or the error."""
    net, opt, owner = make()
    rng = np.random.default_rng(0)

    def step(x, t):
        y, pullback = net.forward(x, train=True)
        if not isinstance(owner, dn.LossScale):
            loss, dloss = dn.losses.mean_squared_error(y, t)
            opt.step(net, pullback(dloss())[1])
            return loss
        loss, dloss = dn.losses.mean_squared_error(y.astype("float32"), t)
        grads, finite = owner.unscale(pullback(dloss(owner.on(y)).astype(y.dtype))[1])
        opt.step(net, grads, finite=finite)
        owner.update(finite)
        return loss

    run, found = (dn.capture(step) if capture else step), []
    try:
        for k in range(10):
            if k == 5:
                change(owner)
            x = rng.standard_normal((3, *net.input_shape), dtype="f4")
            found.append(dn.to_numpy(run(x, rng.standard_normal((3, 2), dtype="f4"))).tobytes())
    except Exception as error:
        return found, error
    scale = owner.state_dict() if isinstance(owner, dn.LossScale) else None
    return found, [scale, *(dn.to_numpy(one.value).tobytes() for one in net.parameters().values())]


def compare(make, change, what):
    """True if the change has an effect; it has the same one with capture, or raises."""
    losses, end = outcomes(make, change, False)
    captured_losses, captured_end = outcomes(make, change, True)
    assert captured_losses[:5] == losses[:5], what
    if not isinstance(captured_end, Exception):
        assert captured_losses == losses and captured_end == end, what
    else:
        assert isinstance(captured_end, (dn.CaptureError, type(end))), f"{what}: {captured_end!r}, not {end!r}"
    return (losses, end) != outcomes(make, lambda owner: None, False)


def public(owner):
    no_settings = (*getattr(owner, "state_names", ()), "history", "input", "loss")
    inherited = [name for name in ("frozen", "together", "no_decay", "decoupled", "lr") if hasattr(owner, name)]
    return [*dict.fromkeys(name for name in [*vars(owner), *inherited] if name[0] != "_" and name not in no_settings)]


def change_each(make):
    """Change each attribute in each way; the names of those that had an effect."""
    effects, owner = [], make()[2]
    for name in public(owner):
        for place, _ in enumerate(changes_of(name, getattr(owner, name))):

            def change(one, name=name, place=place):
                changes_of(name, getattr(one, name))[place](one)

            if compare(make, change, f"{type(owner).__name__}.{name}, way {place}"):
                effects.append(name)
    return effects


def layer_in_a_network(name):
    shape, make = EXAMPLES[name]

    def made():
        layer = make()
        net = dn.Sequential([layer, dn.Flatten(), dn.Dense(2)]).init(shape, seed=1)
        merges = isinstance(layer, dn.Graph) and name != "Graph"
        return net, dn.SGD(lr=0.01, momentum=0.9), layer.nodes["y"].layer if merges else layer

    return made


WITHOUT = {"Add", "Average", "Concatenate", "Flatten", "Hardsigmoid", "Hardswish", "Identity", "Maximum", "Mish"}
WITHOUT |= {"Multiply", "ReLU", "ReLU6", "SiLU", "Sigmoid", "Softplus", "Tanh", "GlobalAveragePool1D"}
WITHOUT |= {"GlobalAveragePool2D", "GlobalMaxPool1D", "GlobalMaxPool2D"}
"""They have no settings that such a step depends on."""


@pytest.mark.parametrize("name", EXAMPLES)
def test_each_setting_of_a_layer(name):
    effects = change_each(layer_in_a_network(name))
    assert bool(effects) == (name not in WITHOUT)


def test_every_layer_is_here():
    kinds = {name for name in dn.layers.__all__ if issubclass(getattr(dn.layers, name), dn.Layer)} - {"Layer"}
    assert kinds == set(EXAMPLES) >= WITHOUT


def optimizer_of_a_network(name):
    def made():
        opt = OPTIMIZERS[name]()
        net = dn.Sequential([dn.Dense(4), dn.Tanh(), dn.Dense(2)]).init((3,), seed=1)
        opt.no_decay = [*opt.no_decay]  # which can change in place
        return net, opt, opt

    return made


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_each_setting_of_an_optimizer(name):
    effects = set(change_each(optimizer_of_a_network(name)))
    assert effects >= {"weight_decay", "clip_norm", "clip_value", "lr"}
    assert effects >= {"SGD": {"momentum", "nesterov", "no_decay"}, "RMSProp": {"rho", "momentum", "centered"}}.get(
        name, {"beta_1", "beta_2"}
    )


def test_each_setting_of_a_loss_scale():
    def made():
        net = dn.Sequential([dn.Dense(4), dn.Tanh(), dn.Dense(2)]).init((3,), seed=1, dtype="float16")
        return net, dn.SGD(lr=0.01), dn.LossScale(2.0**17, interval=2, most=2.0**18)

    with np.errstate(over="ignore", invalid="ignore"):
        assert set(change_each(made)) >= {"growth", "backoff", "interval"}


def test_a_schedule_that_changes_in_place_is_read_anew():
    def made():
        schedule = dn.schedules.Cosine(0.1, 10)
        return dn.Dense(2).init((3,), seed=1), dn.SGD(lr=schedule), schedule

    assert compare(made, lambda schedule: setattr(schedule, "final", 0.05), "Cosine.final")


@pytest.mark.parametrize("frozen", [True, False])
def test_freezing_one_parameter(frozen):
    def made():
        net = dn.Sequential([dn.Dense(4), dn.Tanh(), dn.Dense(2)]).init((3,), seed=1)
        net.parameters()["0.w"].frozen = not frozen
        return net, dn.SGD(lr=0.1), net.parameters()["0.w"]

    assert compare(made, lambda parameter: setattr(parameter, "frozen", frozen), "Parameter.frozen")


def test_a_setting_that_is_deleted():
    def made():
        layer = dn.LeakyReLU(0.5)
        return dn.Sequential([layer, dn.Dense(2)]).init((3,), seed=1), dn.SGD(lr=0.1), layer

    def change(layer):
        type(layer).alpha = 0.25  # what is left when the layer's own is gone
        del layer.alpha

    try:
        assert compare(made, change, "LeakyReLU.alpha")
    finally:
        del dn.LeakyReLU.alpha


def test_init_again_draws_new_weights_which_a_captured_prediction_uses():
    net, x = dn.Sequential([dn.Dense(2)]).init((3,), seed=0), np.ones((2, 3), "f4")
    predict = dn.capture(net)
    for _ in range(5):
        predict(x)
    net.init((3,), seed=1)
    for _ in range(5):
        assert dn.to_numpy(predict(x)).tobytes() == dn.to_numpy(net(x)).tobytes()


def test_another_dtype_of_a_weight_is_refused():
    net, x = dn.Dense(2).init((3,)), np.ones((2, 3), "f4")
    predict = dn.capture(net)
    for _ in range(5):
        predict(x)
    net.w.value = net.w.value.astype("float64")
    told = r"Parameter.value was \(3, 2\) float32 on numpy when the step was captured, but is now \(3, 2\) float64 on"
    with pytest.raises(dn.CaptureError, match=told):
        predict(x)


class Remembers(dn.Layer):
    """Keeps what it sees in a list, without saying so."""

    def __init__(self):
        self.seen = []

    def forward(self, x, train=False):
        self.seen.append(len(self.seen))
        return x, dn.Pullback("remembers", lambda dy: (dy, {}), x)


def test_a_list_that_the_step_itself_changes_is_refused():
    net, x = dn.Sequential([Remembers(), dn.Dense(2)]).init((3,)), np.ones((2, 3), "f4")
    predict = dn.capture(net)
    predict(x)
    with pytest.raises(dn.CaptureError, match=r"Remembers.seen is changed by the captured step Sequential itself"):
        predict(x)


@pytest.mark.parametrize(
    ("name", "value"),
    [("DUALNET_KERNELS", "reference"), ("DUALNET_ONEDNN", "0"), ("DUALNET_CAPTURE", "0"), ("DUALNET_CUDNN", "0")],
)
def test_a_switch_of_the_environment_is_obeyed_by_the_next_step(monkeypatch, rng, name, value):
    monkeypatch.delenv(name, raising=False)
    net, calls = dn.Sequential([dn.Conv2D(4, 3), dn.ReLU(), dn.Flatten(), dn.Dense(2)]).init((6, 6, 2)), []
    predict, x = dn.capture(lambda x: calls.append(1) or net(x)), rng.standard_normal((2, 6, 6, 2), dtype="f4")
    for _ in range(5):
        predict(x)
    assert len(calls) == 4
    monkeypatch.setenv(name, value)
    for _ in range(6):
        assert dn.to_numpy(predict(x)).tobytes() == dn.to_numpy(net(x)).tobytes()
    assert len(calls) == (10 if name == "DUALNET_CAPTURE" else 8)


def test_what_fit_leaves_behind_is_no_setting(rng):
    net, calls = dn.Sequential([dn.Flatten(), dn.Dense(2)]).init((8, 8, 1)), []
    predict, x = dn.capture(lambda x: calls.append(1) or net(x)), rng.standard_normal((4, 8, 8, 1), dtype="f4")
    for _ in range(5):
        predict(x)
    for made in (net, copy.deepcopy(net)):
        made.fit(
            x,
            np.array([0, 1, 0, 1]),
            loss="softmax_cross_entropy",
            augment=dn.data.Augment(2, mean=0.5, scale=4.0),
            verbose=0,
        )
        assert made.loss and made.input.mean == (0.5,) and made.history.epochs == 1
    net.layers[1].units = net.layers[1].units  # all settings are read again
    predict(x)
    assert len(calls) == 4
    assert Settings([net]).values[0].keys() == {"layers", "input_shape", "dtype"}


class KeepsItsLoss(dn.Layer):
    """Sets attributes that fit sets in a network."""

    def __init__(self, name, value):
        self.held, self.value = name, value

    def forward(self, x, train=False):
        setattr(self, self.held, (x * x).mean() if self.value is None else self.value)
        return x, dn.Pullback("keeps", lambda dy: (dy, {}), x)


@pytest.mark.parametrize("name", ["history", "input", "loss"])
@pytest.mark.parametrize("value", [None, "mean_squared_error"])
def test_a_layer_that_sets_what_fit_sets_is_refused(name, value):
    net, x = dn.Sequential([KeepsItsLoss(name, value), dn.Dense(2)]).init((3,)), np.ones((2, 3), "f4")
    with pytest.raises(dn.CaptureError, match=rf"KeepsItsLoss.{name} is set in a captured step"):
        dn.capture(net)(x)


class Scaled(dn.Layer):
    """A setting with the name of one that fit sets in a network."""

    loss = 1.0

    def forward(self, x, train=False):
        return x * self.loss, dn.Pullback("scaled", lambda dy: (dy * self.loss, {}), x)


def test_a_setting_of_a_layer_with_the_name_of_what_fit_sets():
    net, x = dn.Sequential([Scaled(), dn.Dense(2)]).init((3,)), np.ones((2, 3), "f4")
    predict = dn.capture(net)
    for loss in (1.0, 2.0, 0.5):
        net.layers[0].loss = loss
        for _ in range(5):
            assert dn.to_numpy(predict(x)).tobytes() == dn.to_numpy(net(x)).tobytes()
