"""Captured steps and the code of a user's: what it refers to by name may change between two steps."""

from __future__ import annotations

import functools
import importlib
import types
from dataclasses import dataclass

import numpy as np
import pytest

import dualnet as dn
from dualnet import recording
from dualnet.training.own_code import named_by

capturing = importlib.import_module("dualnet.training.capture")  # the function has the same name
Take = capturing.Take

WEIGHT = 1.0
BOX = {"weight": 1.0}


def weighted(y, t, weight):
    r = y - t
    loss = (r * r).mean() * weight
    return loss, dn.LossPullback("weighted", lambda d: d * 2 * weight * r / r.size, loss)


def by_global(y, t):
    return weighted(y, t, WEIGHT)


def helper(y, t):
    return weighted(y, t, BOX["weight"])


def by_box(y, t):
    return helper(y, t)


class Loss:
    weight = 1.0

    def __call__(self, y, t):
        return weighted(y, t, self.weight)


@dataclass
class Settings:
    weight: float = 1.0


def set_global(weight):
    global WEIGHT  # noqa: PLW0603
    WEIGHT = weight


def global_name():
    return by_global, set_global


def dictionary():
    return by_box, functools.partial(BOX.__setitem__, "weight")


def closure():
    weight = 1.0

    def loss(y, t):
        return weighted(y, t, weight)

    def change(now):
        nonlocal weight
        weight = now

    return loss, change


def of_an_object():
    loss = Loss()
    return loss, functools.partial(setattr, loss, "weight")


def bound_method():
    loss = Loss()
    return loss.__call__, functools.partial(setattr, loss, "weight")


def of_a_partial():
    loss = functools.partial(weighted, weight=1.0)
    return loss, functools.partial(loss.keywords.__setitem__, "weight")


def of_dualnets_own():
    loss = functools.partial(dn.losses.huber, delta=1.0)
    return loss, functools.partial(loss.keywords.__setitem__, "delta")


def of_a_dataclass():
    held = Settings()
    return lambda y, t: weighted(y, t, held.weight), functools.partial(setattr, held, "weight")


WAYS = [global_name, dictionary, closure, of_an_object, bound_method, of_a_partial, of_dualnets_own, of_a_dataclass]


def learned(capture, loss, change, layers=()):
    """What a network has learned while a callback changes a number after each epoch."""
    rng = np.random.default_rng(0)
    x, t = rng.standard_normal((24, 4)).astype("f4"), rng.standard_normal((24, 2)).astype("f4")
    with dn.use_backend("numpy"):
        net = dn.Sequential([dn.Dense(3), *layers, dn.Dense(2)]).init((4,), seed=0)
        change(1.0)
        options = {"epochs": 4, "batch_size": 4, "callbacks": lambda run: change(1 / (run.epoch + 2)), "verbose": 0}
        net.fit(x, t, loss=loss, optimizer=dn.SGD(0.1), capture=capture, **options)
        return net.state_dict()


def same(one, other):
    return all(dn.to_numpy(one[name]).tobytes() == dn.to_numpy(other[name]).tobytes() for name in one)


def test_a_number_of_a_layer_and_of_a_lambda_changes_between_steps():
    class Scaled(dn.Layer):
        def forward(self, x, train=False):
            k = BOX["weight"]
            return k * x, dn.Pullback("scaled", lambda dy: (k * dy, {}), x)

    change = functools.partial(BOX.__setitem__, "weight")
    by_lambda = dn.Lambda(lambda x: BOX["weight"] * x, lambda dy, x, y: BOX["weight"] * dy)
    for layer in (Scaled(), by_lambda):
        expected = learned(False, "mean_squared_error", change, [layer])
        assert same(learned(True, "mean_squared_error", change, [layer]), expected)


def test_a_number_of_an_optimizer_changes_between_steps():
    class Slower(dn.optimizers.Optimizer):
        def update(self, w, g, slots, lr):
            return w - lr * BOX["weight"] * g, {}

    with dn.use_backend("numpy"):
        found = []
        for capture in (False, True):
            net, x = dn.Dense(2).init((3,), seed=0), np.ones((24, 3), "f4")
            BOX["weight"] = 1.0
            options = {"callbacks": lambda run: BOX.update(weight=1 / (run.epoch + 2)), "verbose": 0, "epochs": 6}
            net.fit(x, x[:, :2], loss="huber", optimizer=Slower(0.1), batch_size=4, capture=capture, **options)
            found.append(net.state_dict())
        assert same(*found)


def test_a_loss_that_counts_its_calls_is_told():
    """Without Python nothing would count them."""
    calls = []

    def loss(y, t):
        calls.append(1)
        return weighted(y, t, 1.0)

    with pytest.warns(UserWarning, match=r"calls of .*loss is changed by the captured step") as told:
        learned(True, loss, lambda weight: None)
    assert len(told) == 1 and len(calls) < 24


class Focal:
    """Holds its weight in an attribute with an underscore; computes in a method."""

    def __init__(self):
        self._weight = 1.0

    def __call__(self, y, t):
        return self.loss(y, t)

    def loss(self, y, t):
        return weighted(y, t, self._weight)


class ByMethods:
    @property
    def weight(self):
        return WEIGHT

    def __call__(self, y, t):
        return weighted(y, t, self.weight)


class Constants:
    weight = 1.0


FOCAL = Focal()


def by_object(y, t):
    return FOCAL(y, t)


def numpys_scalar():
    return by_global, lambda weight: set_global(np.float64(weight))


def another_method():
    focal = Focal()
    return focal.loss, functools.partial(setattr, focal, "_weight")


def object_in_a_closure():
    focal = Focal()
    return lambda y, t: focal(y, t), functools.partial(setattr, focal, "_weight")


def object_by_a_global_name():
    return by_object, functools.partial(setattr, FOCAL, "_weight")


def property_of_a_global_name():
    return ByMethods(), set_global


def namespace():
    held = types.SimpleNamespace(weight=1.0)
    return lambda y, t: weighted(y, t, held.weight), functools.partial(setattr, held, "weight")


def of_a_class():
    return lambda y, t: weighted(y, t, Constants.weight), functools.partial(setattr, Constants, "weight")


def default_argument():
    box = {"weight": 1.0}

    def loss(y, t, box=box):
        return weighted(y, t, box["weight"])

    return loss, functools.partial(box.__setitem__, "weight")


def global_in_inner_code():
    def loss(y, t):
        def weight():
            return WEIGHT

        return weighted(y, t, weight())

    return loss, set_global


def place_in_a_partial():
    box = {"weight": 1.0}
    return functools.partial(lambda box, y, t: weighted(y, t, box["weight"]), box), functools.partial(
        box.__setitem__, "weight"
    )


MORE_WAYS = [
    *(numpys_scalar, another_method, object_in_a_closure, object_by_a_global_name, property_of_a_global_name),
    *(namespace, of_a_class, default_argument, global_in_inner_code, place_in_a_partial),
]


@pytest.mark.parametrize("way", [*WAYS, *MORE_WAYS])
def test_a_number_of_the_loss_changes_between_steps(way):
    """A weight that a callback lowers from epoch to epoch stayed as it was recorded."""
    loss, change = way()
    expected = learned(False, loss, change)
    assert same(learned(True, loss, change), expected)
    assert not same(learned(True, loss, lambda weight: None), expected)


@pytest.mark.parametrize("way", [global_name, of_an_object, object_in_a_closure])
@pytest.mark.parametrize("ends", [1, 2])
def test_networks_with_several_inputs_or_outputs(way, ends):
    """Their step hid the loss, and their losses stand in a dictionary."""
    loss, change = way()
    rng = np.random.default_rng(0)
    x, z = rng.standard_normal((2, 24, 4)).astype("f4")
    targets = dict(zip("ab", rng.standard_normal((2, 24, 2)).astype("f4")))
    found = []
    with dn.use_backend("numpy"):
        for capture in (False, True):
            nodes = [("s", dn.Add(), ["x", "z"]), *((name, dn.Dense(2), "s") for name in "ab"[:ends])]
            net = dn.Graph(["x", "z"], nodes).init({"x": (4,), "z": (4,)}, seed=0)
            t, given = (targets, {"a": loss, "b": (0.5, loss)}) if ends == 2 else (targets["a"], loss)
            change(1.0)
            options = {"epochs": 4, "batch_size": 4, "callbacks": lambda run: change(1 / (run.epoch + 2)), "verbose": 0}
            net.fit({"x": x, "z": z}, t, loss=given, optimizer=dn.SGD(0.1), capture=capture, **options)
            found.append(net.state_dict())
    assert same(*found)


class Scaling(dn.Layer):
    """Multiplies x by a number; the classes below say where it comes from."""

    shared = 1.0

    def forward(self, x, train=False):
        k = self.number()
        return k * x, dn.Pullback("factor", lambda dy: (k * dy, {}), x)


class Factor(Scaling):
    def number(self):
        return WEIGHT


class OfItsClass(Scaling):
    def number(self):
        return self.shared


class Static(Scaling):
    @staticmethod
    def number():
        return WEIGHT


class OfClassMethod(Scaling):
    @classmethod
    def number(cls):
        return WEIGHT


class OfProperty(Scaling):
    @property
    def seen(self):
        return WEIGHT

    def number(self):
        return self.seen


@pytest.mark.parametrize("kind", [Factor, OfItsClass, Static, OfClassMethod, OfProperty])
def test_all_functions_of_a_layers_class_are_followed(kind):
    change = functools.partial(setattr, Scaling, "shared") if kind is OfItsClass else set_global
    expected = learned(False, "huber", change, [kind()])
    assert same(learned(True, "huber", change, [kind()]), expected)


def test_properties_and_empty_slots_are_never_read():
    """A property was evaluated before each step, and an error in it ended fit."""

    class Watched:
        __slots__ = ("__dict__", "unset")

        def __init__(self):
            self.weight = 1.0

        @property
        def mean(self):
            raise ZeroDivisionError("no steps yet")

        def __call__(self, y, t):
            return weighted(y, t, self.weight)

    loss = Watched()
    change = functools.partial(setattr, loss, "weight")
    expected = learned(False, loss, change)
    assert same(learned(True, loss, change), expected)


def steps_of(net, optimizer):
    def step(x, t):
        y, pullback = net.forward(x, train=True)
        loss, dloss = dn.losses.mean_squared_error(y, t)
        _, gradients = pullback(dloss())
        optimizer.step(net, gradients)
        return loss

    return step


def trained(layer, between, steps=60, capture=True):
    """Steps of an own loop, ``between(i)`` before each; returns the state and the number of recordings."""
    with dn.use_backend("numpy"):
        net = dn.Sequential([dn.Dense(3), layer, dn.Dense(2)]).init((4,), seed=0)
        step = steps_of(net, dn.SGD(0.1))
        step = dn.capture(step) if capture else step
        rng = np.random.default_rng(0)
        for i in range(steps):
            between(i)
            step(rng.standard_normal((4, 4)).astype("f4"), rng.standard_normal((4, 2)).astype("f4"))
        return net.state_dict(), getattr(step, "graphs", None)


def test_a_number_that_changes_in_every_step_ends_recording():
    """It was recorded again and again, which took six times as long as no capture at all; and nobody was told."""

    def between(i):
        set_global(1 / (1 + i))

    expected, _ = trained(Factor(), between, capture=False)
    with pytest.warns(UserWarning, match=r"WEIGHT of Factor.number changes so often.*dn\.recording\.live") as told:
        found, graphs = trained(Factor(), between)
    assert same(found, expected) and graphs == 0 and len(told) == 1


def test_recordings_that_are_repeated_in_between_are_not_in_vain():
    """The number changes five times in a row, then stays for seven steps; four of these recordings were in vain."""

    def between(i):
        set_global(1 / (1 + min(i % 12, 4) + i // 12))

    found, graphs = trained(Factor(), between, steps=36)
    assert same(found, trained(Factor(), between, steps=36, capture=False)[0]) and graphs == 1


class LiveFactor(Scaling):
    def __init__(self):
        self.weight = 1.0

    def number(self):
        return dn.recording.live(self, "weight", "float32")


class LiveLoss:
    weight = 1.0

    def __call__(self, y, t):
        return weighted(y, t, dn.recording.live(self, "weight", "float32"))


@pytest.mark.parametrize("place", ["layer", "loss"])
def test_what_that_warning_advises_is_recorded_once(place):
    found = []
    for capture in (False, True):
        layer, loss = (LiveFactor(), "huber") if place == "layer" else (dn.ReLU(), LiveLoss())

        def change(weight, one=layer if place == "layer" else loss):
            one.weight = weight

        with pytest.MonkeyPatch.context() as patch:
            takes = []
            patch.setattr(capturing, "Take", lambda *given, takes=takes: takes.append(Take(*given)) or takes[-1])
            found.append(learned(capture, loss, change, [layer]))
    assert len(takes) == 1
    for name, value in found[0].items():
        np.testing.assert_allclose(dn.to_numpy(found[1][name]), dn.to_numpy(value), rtol=1e-5)


# -- the step's own marks


STEP = STEPS = 0
KEPT = {"x": None}


class Counting(dn.Layer):
    def forward(self, x, train=False):
        global STEP  # noqa: PLW0603
        STEP += 1
        return x * 1, dn.Pullback("counting", lambda dy: (dy, {}), x)


class Keeping(dn.Layer):
    def forward(self, x, train=False):
        KEPT["x"] = x
        return x * 1, dn.Pullback("keeping", lambda dy: (dy, {}), x)


def test_a_layer_that_counts_its_calls_is_told_once():
    """It was refused, by a message that named neither the layer nor a remedy."""
    with pytest.warns(UserWarning, match=r"STEP of Counting.forward is changed .* look at it\. .* make it an") as told:
        found, graphs = trained(Counting(), lambda i: None)
    assert same(found, trained(Counting(), lambda i: None, capture=False)[0]) and graphs == 1 and len(told) == 1
    with dn.use_backend("numpy"), pytest.warns(UserWarning, match="STEP of Counting.forward"):
        predict = dn.capture(dn.Sequential([Counting()]).init((4,)))
        for _ in range(5):
            predict(np.ones((2, 4), "f4"))


class CountingTwice(dn.Layer):
    def forward(self, x, train=False):
        global STEP, STEPS  # noqa: PLW0603
        STEP, STEPS = STEP + 1, STEPS + 2
        return x * 1, dn.Pullback("counting", lambda dy: (dy, {}), x)


def test_all_that_a_layer_changes_is_told_at_once():
    both = (
        r"STEP of CountingTwice.forward, STEPS of CountingTwice.forward are changed .* look at them\. .* make each an"
    )
    with pytest.warns(UserWarning, match=both) as told:
        _, graphs = trained(CountingTwice(), lambda i: None)
    assert graphs == 1 and len(told) == 1


def test_a_layer_may_keep_an_array_to_look_at():
    found, graphs = trained(Keeping(), lambda i: None)
    assert same(found, trained(Keeping(), lambda i: None, capture=False)[0]) and graphs == 1


def test_a_count_that_the_step_computes_with_is_refused():
    """Python makes something else of the fourth step."""

    class Fading(dn.Layer):
        def forward(self, x, train=False):
            global STEP  # noqa: PLW0603
            STEP += 1
            k = 1 / STEP
            return k * x, dn.Pullback("fading", lambda dy: (k * dy, {}), x)

    with (
        pytest.warns(UserWarning, match="STEP of"),
        pytest.raises(dn.CaptureError, match="different numbers than Python"),
    ):
        trained(Fading(), lambda i: None)


# -- what the check before each step costs


def test_long_containers_count_by_identity_and_length():
    """A list of 100000 numbers was compared before every step, which took 3 ms."""
    many = [1.0] * 100

    def loss(y, t):
        return weighted(y, t, many[0])

    settings = recording.Settings(named_by(functools.partial(dn.capture, loss), []))
    assert len(settings.contents) < 10
    many[0] = 2.0
    assert not settings.changed()
    many.append(1.0)
    assert settings.difference().startswith("many of ")
    for many in ([2.0] * 101, [2.0] * 100):  # noqa: B007
        assert settings.changed()


def test_every_name_is_read_once_and_only_names_that_matter():
    def outside():
        return STEP

    class Loss:
        def __init__(self):
            self.unused = outside()

        def output_shape(self, shape):
            return BOX

        def __call__(self, y, t):
            return np.mean(y) * WEIGHT, dn

    found = named_by(functools.partial(dn.capture, Loss()), [])
    assert [(one.label.rpartition(".")[2], one.names) for one in found] == [
        ("Loss", ["unused"]),
        ("__call__", ["WEIGHT"]),
    ]
    settings, read = recording.Settings(found), []
    for one in found:
        one.get = lambda name, get=one.get: read.append(name) or get(name)
    assert not settings.changed() and sorted(read) == ["WEIGHT", "unused"]
    assert named_by(functools.partial(dn.capture, "huber"), [dn.ReLU(), dn.SGD(0.1)]) == []
