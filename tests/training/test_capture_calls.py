"""How a captured step is called: arguments by name, as a method, under its own name, and in copies and pickles."""

from __future__ import annotations

import copy
import functools
import inspect
import pickle
import threading
import time
from concurrent.futures import ThreadPoolExecutor

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


@pytest.mark.parametrize(("one", "other"), [(float("nan"), -float("nan")), (0.0, -0.0)])
def test_a_float_is_the_same_constant_if_it_reads_the_same(one, other):
    captured = dn.capture(lambda x, k: dn.backend.backend_of(x).xp.copysign(x, k))
    for _ in range(6):
        assert captured(array(1), one).tolist() == np.copysign(np.ones(3, "f4"), one).tolist()
        if other == 0:
            assert captured(array(1), other).tolist() == [-1.0] * 3
        else:
            captured(array(1), float("nan"))  # a new object
    assert captured.graphs == len(captured._takes) == 1 + (other == 0)


@pytest.mark.parametrize(("places", "names"), [((), {"train": True}), ((True,), {})])
def test_a_captured_forward_says_that_it_is_a_prediction(places, names):
    net = dn.Sequential([dn.Dense(2)]).init((3,))
    predict = dn.capture(net.forward)
    assert predict(array(1, (4, 3))).tolist() == net(array(1, (4, 3))).tolist()
    with pytest.raises(
        TypeError, match=r"Sequential\(x.*: .*dn.capture\(net.forward\) is dn.capture\(net\), which predicts"
    ):
        predict(array(1, (4, 3)), *places, **names)
    with pytest.raises(TypeError, match=r"got an unexpected keyword argument 'train'$"):
        dn.capture(net)(array(1, (4, 3)), train=True)


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
        assert Trainer.doubled(array(k)).tolist() == Trainer(0).doubled(array(k)).tolist() == [k * 2] * 3


class Inherits(Trainer):
    """Methods of the same names, which call the captured ones."""

    def predict(self, x):
        return super().predict(x) + 100

    @dn.capture
    def step(self, x):
        return super().step(x) + 100


def test_a_method_of_a_subclass_is_found_before_the_captured_one():
    one, twin = Inherits(0), Trainer(0)
    for k in range(6):
        x = array(k, (4, 3))
        assert one.predict(x).tolist() == (twin.net(x) + 100).tolist()
        assert one.step(x).tolist() == (twin.plain(x) + 100).tolist()
    assert learned(one) == learned(twin) and one.python == 4
    assert {name for name in vars(one) if name[0] != "_"} == {"net", "opt", "python"}


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


def test_a_shallow_copy_of_an_object_has_captured_methods_of_its_own():
    one = Trainer(0)
    for k in range(5):
        one.predict(array(k, (4, 3)))
    again = copy.copy(one)
    again.net = dn.Dense(2).init((3,), seed=1)
    for k in range(5):
        x = array(k + 1, (4, 3))
        assert again.predict(x).tolist() == again.net(x).tolist() != one.net(x).tolist() == one.predict(x).tolist()


@pytest.mark.parametrize("way", [copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))])
def test_a_copy_of_an_object_whose_class_has_another_method_of_that_name(way):
    one = Inherits(0)
    one.predict(array(1, (4, 3)))
    again, x = way(one), array(1, (4, 3))
    again.net.w.value = again.net.w.value * 2
    assert again.predict(x).tolist() == (again.net(x) + 100).tolist() != one.predict(x).tolist()


# -- in threads --------------------------------------------------------------------------------------------------------


def in_threads(calls):
    """Each function in a thread of its own, all at once; what they return."""
    begin = threading.Barrier(len(calls))

    def run(call):
        begin.wait()
        with dn.use_backend("numpy"):
            return call()

    with ThreadPoolExecutor(len(calls)) as pool:
        return [made.result() for made in [pool.submit(run, call) for call in calls]]


def test_threads_that_call_one_captured_prediction_wait_for_each_other():
    net = dn.Sequential([dn.Dense(32), dn.ReLU(), dn.Dense(2)]).init((16,))
    predict = dn.capture(net)
    given = [np.full((64, 16), k + 1, "f4") for k in range(4)]
    wanted = [net(x).tolist() for x in given]

    def wrong(k):
        return lambda: sum(predict(given[k]).tolist() != wanted[k] for _ in range(50))

    assert in_threads([wrong(k) for k in range(4)]) == [0] * 4
    assert predict.graphs == 1


def test_threads_with_a_captured_prediction_each_of_the_same_network():
    net = dn.Sequential([dn.Dense(32), dn.ReLU(), dn.Dense(2)]).init((16,))
    given = [np.full((64, 16), k + 1, "f4") for k in range(4)]
    wanted = [net(x).tolist() for x in given]

    def wrong(k):
        predict = dn.capture(net)
        return lambda: sum(predict(given[k]).tolist() != wanted[k] for _ in range(20))

    assert in_threads([wrong(k) for k in range(4)]) == [0] * 4


def test_what_python_tries_in_one_thread_is_not_seen_in_another():
    """A step fails after it has set new weights; meanwhile a captured prediction of the network begins."""
    net, opt, x = dn.Dense(2).init((3,)), dn.SGD(lr=0.5), array(1, (4, 3))
    predict, tried, calls = dn.capture(net), threading.Event(), []
    for _ in range(5):
        wanted = predict(x).tolist()

    @dn.capture
    def step(x):
        y, pullback = net.forward(x, train=True)
        opt.step(net, pullback(y)[1])
        calls.append(1)
        if len(calls) == 3:
            tried.set()
            time.sleep(0.1)
            raise ZeroDivisionError
        return y

    def train():
        step(x)
        step(x)
        wanted[:] = net(x).tolist()
        with pytest.raises(ZeroDivisionError):
            step(x)

    def look():
        assert tried.wait(60)
        return predict(x).tolist()

    assert in_threads([train, look])[1] == wanted == net(x).tolist()


def test_a_captured_step_that_a_signal_handler_calls_while_it_runs_is_refused():
    captured = dn.capture(lambda x: x * 2)
    for k in range(5):
        captured(array(k))
    (take,) = captured._takes.values()
    take.recorder.first.append(lambda: captured(array(9)))
    with pytest.raises(dn.CaptureError, match=r"<lambda> is called while it runs, by the same thread"):
        captured(array(1))
    take.recorder.first.pop()
    assert captured(array(1)).tolist() == [2.0] * 3
