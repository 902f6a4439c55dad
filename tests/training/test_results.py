"""What a captured step returns: taken apart once, built again for every step, or refused in clear words."""

from __future__ import annotations

import collections
import enum
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import pytest

import dualnet as dn
from dualnet.training.results import Results


class Found(NamedTuple):
    loss: object
    parts: object = None


@dataclass
class Figures:
    loss: object
    n: int = 0
    more: list = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Frozen:
    loss: object


class Kind(enum.Enum):
    GOOD = 1


class Numbered(dict):
    number = 3


class Pair(tuple):
    """A tuple subclass that takes what tuple takes."""


@pytest.fixture(autouse=True)
def on_numpy():
    with dn.use_backend("numpy"):
        yield


def results(value):
    return Results(value, dn.backend.load("numpy"), "step")


X, Y = (dn.asarray(np.full(2, k, "f4"), backend="numpy") for k in (1.0, 2.0))

KINDS = {
    "an array": (lambda a, b: a),
    "none": (lambda a, b: None),
    "a tuple": (lambda a, b: (a, b)),
    "a list in a tuple in a dictionary": (lambda a, b: {"one": ([a, 3], "name"), 2: None, "b": b}),
    "a namedtuple": (lambda a, b: Found(a, Found(b))),
    "an ordered dictionary": (lambda a, b: collections.OrderedDict(b=b, a=a)),
    "a dictionary with a default": (lambda a, b: collections.defaultdict(list, a=a)),
    "a dictionary of a kind of its own": (lambda a, b: Numbered(a=a)),
    "a dataclass": (lambda a, b: Figures(a, 4, [b])),
    "a frozen dataclass with slots": (lambda a, b: Frozen((a, b))),
    "constants": (lambda a, b: (True, 1, 1.5, float("nan"), 1j, "s", b"b", range(3), Kind.GOOD, len)),
    "empty": (lambda a, b: ((), [], {})),
    "the same array twice": (lambda a, b: (a, a)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_is_built_around_other_arrays(kind):
    made = KINDS[kind](X, Y)
    found = results(made)
    assert all(any(array is one for one in (X, Y)) for array in found.arrays)
    others = [10 * array for array in found.arrays]
    again = found.filled(others)
    wanted = KINDS[kind](10 * X, 10 * Y)
    assert type(again) is type(wanted) and repr(again) == repr(wanted)
    assert getattr(again, "__dict__", None).__class__ is getattr(wanted, "__dict__", None).__class__
    results(made).check(results(KINDS[kind](Y, X)))


def test_what_is_built_is_new_every_time_and_nothing_of_the_first_is_kept():
    given = {"parts": [X], "figures": Figures(Y)}
    found = results(given)
    given["parts"].append("changed")
    one, other = found.filled([X, Y]), found.filled([Y, X])
    one["parts"].append(3)
    one["figures"].loss = None
    assert other["parts"] == [Y] and other["figures"].loss is X


@pytest.mark.parametrize(
    ("first", "second", "told"),
    [
        ((X, 1), (X, 2), r"step returned 2 at result\[1\], but 1 before"),
        ((X, 1), (X, True), r"step returned True at result\[1\], but 1 before"),
        ({"n": 0.0}, {"n": -0.0}, r"returned -0.0 at result\['n'\], but 0.0 before"),
        ([object()], [object()], r"returned an? object at result\[0\], but another one before"),
        (X, (X,), r"returned result: tuple of 0; result\[0\]: array, but result: array before"),
        ((X, None), (X, Y), r"returned .*result\[1\]: array, but .*result\[1\]: NoneType before"),
        ({"a": X}, {"b": X}, r"returned result: dict of b.* but result: dict of a"),
        ([X], (X,), "returned result: tuple .* but result: list"),
    ],
)
def test_what_is_no_array_must_stay_as_it_is(first, second, told):
    with pytest.raises(dn.CaptureError, match=told):
        results(first).check(results(second))


def test_a_tuple_subclass_is_refused():
    with pytest.raises(dn.CaptureError, match=r"returned a Pair at result\['a'\], a tuple subclass, which cannot be"):
        results({"a": Pair((X,))})


def test_a_result_that_contains_itself_is_refused():
    circle = {"loss": X}
    circle["more"] = [1, Figures(X, more=[circle])]
    with pytest.raises(
        dn.CaptureError, match=r"returned a dict that contains itself, at result\['more'\]\[1\]\['more'\]\[0"
    ):
        results(circle)
    twice = [X]
    assert repr(results((twice, [twice])).filled([X, X])) == repr((twice, [twice]))


# -- in captured steps -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("eager", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_a_captured_step_returns_what_the_step_returns(kind, eager):
    def step(x):
        return KINDS[kind](x * 2, x + 1)

    captured = dn.capture(step, eager=eager)
    for k in range(6):
        x = dn.asarray(np.full(2, k, "f4"))
        made, wanted = captured(x), step(x)
        assert type(made) is type(wanted) and repr(made) == repr(wanted)


def test_a_number_that_python_counts_is_refused_and_nothing_has_changed():
    net, opt, calls = dn.Dense(2).init((3,)), dn.SGD(lr=0.5), []

    def step(x):
        calls.append(1)
        y, pullback = net.forward(x, train=True)
        opt.step(net, pullback(y)[1])
        return y, len(calls)

    captured, x = dn.capture(step), dn.asarray(np.ones((2, 3), "f4"))
    captured(x)
    before = {name: dn.to_numpy(value).tobytes() for name, value in net.state_dict().items()}
    with pytest.raises(dn.CaptureError, match=r"step returned 2 at result\[1\], but 1 before.*always return the same"):
        captured(x)
    assert {name: dn.to_numpy(value).tobytes() for name, value in net.state_dict().items()} == before
    assert opt.steps == 1


def test_a_numpy_number_is_an_array_without_axes(rng):
    """A sum is one as long as nothing watches it: on small batches the first loss may be, and the next ones not."""
    assert [array.shape for array in results((np.float32(2), X)).arrays] == [(), (2,)]
    results(np.float32(2)).check(results(np.asarray(3.0)))
    captured = dn.capture(lambda x: (x.sum(), np.float64(0.5)))
    for k in range(6):
        total, half = captured(dn.asarray(np.full(2, k, "f4")))
        assert (total.item(), half.item()) == (2.0 * k, 0.5)
    captured = dn.capture(lambda x: (x.sum(), np.float64(rng.random())))
    for _ in range(3):
        captured(X)
    with pytest.raises(dn.CaptureError, match=r"gives different numbers than Python does: what it returns \(float64"):
        captured(X)


def test_a_pullback_belongs_to_one_call_and_is_refused():
    net, x = dn.Dense(2).init((3,)), dn.asarray(np.ones((2, 3), "f4"))
    captured = dn.capture(lambda x: net.forward(x))
    captured(x)
    with pytest.raises(dn.CaptureError, match=r"returned a Pullback at result\[1\], but another one before"):
        captured(x)


def test_a_length_is_a_constant_of_its_shape():
    captured = dn.capture(lambda x: (x.sum(), x.shape, len(x)))
    for n in (2, 3, 2, 3, 2, 3, 2, 3, 2, 3):
        assert captured(dn.asarray(np.ones(n, "f4")))[1:] == ((n,), n)
    assert captured.graphs == 2


def test_an_array_that_was_not_recorded_is_copied_as_it_is_at_each_call():
    """A table of outside: the step itself would return it, and so what stands in it now."""
    table = np.arange(3.0)
    captured = dn.capture(lambda x: (x * 2, table))
    for k in range(6):
        table[0] = k
        made = captured(dn.asarray(np.full(2, k, "f4")))[1]
        assert made is not table and made.tolist() == [k, 1.0, 2.0]


def test_an_array_of_outside_that_is_another_at_each_call_is_refused():
    captured = dn.capture(lambda x: (x * 2, np.array([rng.random()])))
    rng, x = np.random.default_rng(0), dn.asarray(np.ones(2, "f4"))
    for _ in range(3):
        captured(x)
    with pytest.raises(
        dn.CaptureError, match=r"it gives different numbers than Python does: what it returns \(float64"
    ):
        captured(x)
