"""How a captured step is called: arguments by name, as a method, under its own name, and in copies and pickles."""

from __future__ import annotations

import copy
import functools
import inspect
import pickle

import numpy as np
import pytest

import dualnet as dn
from dualnet.training.capture import Captured


@pytest.fixture(autouse=True)
def on_numpy():
    with dn.use_backend("numpy"):
        yield


def array(k, n=3):
    return dn.asarray(np.full(n, k, "f4"), backend="numpy")


def scaled(x, t, rate=0.5, *, shift=0.0, weight=None):
    """x · rate + t + shift."""
    made = x * rate + t + shift
    return made if weight is None else made * weight


CALLED = []


@dn.capture
def decorated(x):
    """Twice x."""
    CALLED.append(1)
    return 2 * x


# -- arguments ---------------------------------------------------------------------------------------------------------

WAYS = {
    "defaults": ((), {}),
    "a number in its place": ((0.25,), {}),
    "a number by name": ((), {"rate": 0.25}),
    "only by name": ((), {"shift": 2.0}),
    "both": ((0.25,), {"shift": 2.0}),
    "none by name": ((), {"weight": None}),
    "an array by name": ((), {"weight": 5.0}),
}


@pytest.mark.parametrize("way", WAYS)
def test_arguments_by_name(way):
    places, names = WAYS[way]
    captured = dn.capture(scaled)
    for k in range(7):
        given = {name: array(k + value) if name == "weight" and value else value for name, value in names.items()}
        made, wanted = captured(array(k), array(1), *places, **given), scaled(array(k), array(1), *places, **given)
        assert made.tolist() == wanted.tolist()
    assert captured.graphs == 1


def test_an_argument_by_name_or_in_its_place_is_the_same_recording():
    calls = []

    def step(x, t, rate=0.5, **more):
        calls.append(1)
        return x * rate + t + more.get("b", 0.0) - more.get("a", 0.0)

    captured = dn.capture(step)
    for _ in range(2):
        captured(array(1), array(2), 0.5)
        captured(array(1), t=array(2), rate=0.5)
        captured(rate=0.5, t=array(2), x=array(1))
        assert captured(t=array(3), x=array(4), rate=0.5).tolist() == [5.0] * 3
    assert len(calls) == 4 and captured.graphs == 1
    for _ in range(3):
        one, other = captured(array(1), array(2), a=1.0, b=2.0), captured(array(1), array(2), b=2.0, a=1.0)
        assert one.tolist() == other.tolist() == [3.5] * 3
    assert len(calls) == 8 and captured.graphs == 2
    assert captured(array(1), array(2), rate=2.0).tolist() == [4.0] * 3  # another number is another recording


@pytest.mark.parametrize(
    ("places", "names", "told"),
    [
        ((), {"x": 1}, r"scaled\(x, t, rate=0.5, \*, shift=0.0, weight=None\): missing a required argument: 't'"),
        ((array(1), array(1)), {"rat": 1}, r"scaled\(.*\): got an unexpected keyword argument 'rat'"),
        ((array(1), array(1)), {"rate": [1]}, r"takes arrays, numbers and strings, got \[1\]"),
    ],
)
def test_arguments_that_do_not_fit(places, names, told):
    with pytest.raises(TypeError, match=told):
        dn.capture(scaled)(*places, **names)


def test_a_network_takes_its_input_by_name():
    net = dn.Dense(2).init((3,))
    predict, x = dn.capture(net), array(1, (4, 3))
    for _ in range(5):
        assert predict(x=x).tolist() == net(x).tolist()


def test_without_a_recorder_arguments_by_name_arrive():
    with dn.use_backend("strict"):
        x = dn.asarray([1.0])
        made = dn.capture(scaled)(x, t=x, shift=1.0)
        assert dn.to_numpy(made).tolist() == [2.5]


# -- its name ----------------------------------------------------------------------------------------------------------


def test_it_has_the_name_the_docstring_and_the_signature_of_the_step():
    captured = dn.capture(scaled)
    assert captured.__name__ == "scaled" and captured.__doc__ == "x · rate + t + shift."
    assert captured.__module__ == __name__ and captured.__wrapped__ is scaled
    assert inspect.signature(captured) == inspect.signature(scaled)
    scaled.mark = 1
    try:
        assert not hasattr(dn.capture(scaled), "mark"), "attributes stay with the function"
    finally:
        del scaled.mark


@pytest.mark.parametrize("step", [functools.partial(scaled, rate=0.5), lambda x, t: scaled(x, t)])
def test_what_has_no_name_is_captured_too(step):
    captured = dn.capture(step)
    for k in range(5):
        assert captured(array(k), array(1)).tolist() == [0.5 * k + 1] * 3


# -- methods -----------------------------------------------------------------------------------------------------------


class Trainer:
    """A class whose methods are captured."""

    def __init__(self, seed):
        self.net = dn.Dense(2).init((3,), seed=seed)
        self.opt = dn.SGD(lr=0.1, momentum=0.9)
        self.python = 0

    def plain(self, x):
        self.python += 1
        y, pullback = self.net.forward(x, train=True)
        self.opt.step(self.net, pullback(y)[1])
        return y.sum()

    step = dn.capture(plain)

    @dn.capture
    def predict(self, x):
        """The prediction."""
        return self.net(x)

    @staticmethod
    @dn.capture
    def halved(x):
        return x / 2

    @dn.capture
    @staticmethod
    def doubled(x):
        return x * 2


class Slotted:
    __slots__ = ("net",)

    @dn.capture
    def predict(self, x):
        return x


def learned(trainer):
    return [dn.to_numpy(value).tobytes() for value in trainer.net.state_dict().values()]


def test_a_captured_method_records_for_each_object():
    one, other, plain = Trainer(0), Trainer(1), [Trainer(0), Trainer(1)]
    for k in range(7):
        x = array(k, (4, 3))
        for trainer, twin in zip((one, other), plain):
            assert trainer.step(x).tolist() == twin.plain(x).tolist()
            assert trainer.predict(x).tolist() == twin.net(x).tolist()
    assert learned(one) == learned(plain[0]) and learned(other) == learned(plain[1]) != learned(one)
    assert one.python == other.python == 4 and one.step is one.step is not other.step
    assert one.step.graphs == one.predict.graphs == 1 and Trainer.step.graphs == 0
    assert one.predict.__doc__ == "The prediction." and one.predict.__name__ == "predict"
    assert isinstance(Trainer.step, Captured)


def test_a_captured_bound_method():
    one, twin = Trainer(0), Trainer(0)
    step = dn.capture(one.plain)
    for k in range(6):
        assert step(array(k, (4, 3))).tolist() == twin.plain(array(k, (4, 3))).tolist()
    assert learned(one) == learned(twin) and one.python == 4


def test_static_methods_take_no_object():
    for k in range(5):
        assert Trainer.halved(array(k)).tolist() == Trainer(0).halved(array(k)).tolist() == [k / 2] * 3
        assert Trainer.doubled(array(k)).tolist() == [k * 2] * 3


def test_a_captured_network_in_a_class_is_no_method():
    net = dn.Dense(2).init((3,))

    class Holds:
        predict = dn.capture(net)

    assert Holds().predict(array(1, (4, 3))).tolist() == net(array(1, (4, 3))).tolist()


def test_a_method_of_objects_that_can_keep_nothing_is_refused():
    with pytest.raises(TypeError, match=r"Slotted.predict is a captured method, and Slotted has __slots__.*dn.capture"):
        Slotted().predict  # noqa: B018


# -- copies ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", [copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))])
def test_a_copied_network_that_was_captured_is_captured_anew(way):
    net = dn.Dense(2).init((3,))
    predict = dn.capture(net, eager=True)
    predict(array(1, (4, 3)))
    again = way(predict)
    assert again.step is not net and again.graphs == 0 and again.eager and not again._takes
    net.w.value = net.w.value * 2
    assert again(array(1, (4, 3))).tolist() != predict(array(1, (4, 3))).tolist()


def test_a_shallow_copy_is_of_the_same_network():
    net = dn.Dense(2).init((3,))
    predict = dn.capture(net)
    predict(array(1, (4, 3)))
    again = copy.copy(predict)
    assert again.step is net and not again._takes and again is not predict


@pytest.mark.parametrize("way", [copy.copy, copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))])
def test_a_decorated_function_is_found_by_its_name_as_functions_are(way):
    assert way(decorated) is decorated and way(Trainer.halved) is Trainer.halved


def test_a_function_that_pickle_cannot_find_is_refused_by_pickle():
    with pytest.raises((pickle.PicklingError, AttributeError), match="lambda"):
        pickle.dumps(dn.capture(lambda x: x))
    again = copy.deepcopy(dn.capture(scaled))
    assert again.step is scaled and again(array(1), array(1)).tolist() == [1.5] * 3


@pytest.mark.parametrize("way", [copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))])
def test_a_copied_object_has_captured_methods_of_its_own(way):
    one, twin = Trainer(0), Trainer(0)
    for k in range(5):
        assert one.step(array(k, (4, 3))).tolist() == twin.plain(array(k, (4, 3))).tolist()
    again, twin_again = way(one), copy.deepcopy(twin)
    assert again.step is not one.step and again.step.step.__self__ is again and not again.step._takes
    for k in range(6):
        assert again.step(array(k, (4, 3))).tolist() == twin_again.plain(array(k, (4, 3))).tolist()
    assert learned(again) == learned(twin_again) != learned(one) == learned(twin)
