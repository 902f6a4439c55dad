"""What a captured step knows: live numbers, arrays that stay in place, and attributes that it guards."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

import dualnet as dn
from dualnet.backend import backend_of
from dualnet.recording import CaptureError, Recording, Settings, Stateful, assign, counted, lasting, live, owned


class Thing(Stateful):
    """Keeps a count, a rate, an array and a dictionary of arrays."""

    unwatched = ("note",)

    def __init__(self):
        self.steps, self.rate, self.note = 0, 0.5, ""
        self.mean = None
        self.slots = {}


@pytest.fixture
def recording(backend):
    return Recording(dn.backend.load(backend))


def number(array):
    return dn.to_numpy(array).item()


def values(array):
    return dn.to_numpy(array).tolist()


# -- without a recording -----------------------------------------------------------------------------------------------


def test_outside_a_captured_step_all_is_plain(backend):
    thing = Thing()
    assert live(thing, "steps") == 0 and live(thing, "rate", "float32") == 0.5
    counted(thing, "steps")
    thing.steps += 1
    x = dn.asarray([1.0, 2.0])
    assign(thing, "mean", x)
    assign(thing, ("slots", "0.w", "velocity"), x)
    assert thing.mean is x and thing.slots == {"0.w": {"velocity": x}} and live(thing, "steps") == 1
    assert not owned(thing, "mean") and not owned(thing, ("slots", "0.w", "velocity"))
    made = object()
    assert lasting(lambda: made) is made


# -- numbers -----------------------------------------------------------------------------------------------------------


def test_a_live_number_is_an_array_that_is_written_before_each_step(recording):
    thing = Thing()
    with recording.running():
        steps, rate = live(thing, "steps"), live(thing, "rate", "float32")
        assert live(thing, "steps") is steps and live(thing, "rate", "float64") is not rate
    assert (steps.dtype.name, rate.dtype.name, steps.shape) == ("uint64", "float32", ())
    assert (number(steps), number(rate)) == (0, 0.5)
    thing.steps, thing.rate = 7, 0.25
    assert (number(steps), number(rate)) == (0, 0.5), "not before the next step"
    recording.prepare()
    assert (number(steps), number(rate)) == (7, 0.25)
    assert live(thing, "steps") == 7, "outside it is the number"
    with recording.running():
        assert live(thing, "steps") is steps


def test_a_count_may_move_within_a_step_and_a_rate_may_not(recording):
    thing = Thing()
    with recording.running():
        first = live(thing, "steps")
        thing.steps += 1
        assert number(live(thing, "steps")) == 1 and number(first) == 0
        live(thing, "rate", "float32")
        thing.rate = 0.25
        with pytest.raises(CaptureError, match="Thing.rate changes within the step, from 0.5 to 0.25"):
            live(thing, "rate", "float32")


def test_counts_are_moved_on_without_python(recording):
    thing = Thing()
    with recording.running():
        counted(thing, "steps")
        live(thing, "rate", "float32")
        thing.steps += 2
    counts = recording.counts()
    assert list(counts.values()) == [2], "a rate is not a count"
    recording.move({key: 3 for key in counts})
    assert thing.steps == 5 and thing.rate == 0.5


# -- arrays ------------------------------------------------------------------------------------------------------------


def test_an_assigned_array_stays_in_place(recording):
    thing, x, y = Thing(), dn.asarray([1.0, 2.0]), dn.asarray([3.0, 4.0])
    thing.mean = old = dn.asarray([0.0, 0.0])
    with recording.running():
        assert not owned(thing, "mean")
        assign(thing, "mean", x)
        kept = thing.mean
        assert kept is not x and kept is not old and owned(thing, "mean")
        assign(thing, "mean", y)
    assert thing.mean is kept and values(kept) == [3.0, 4.0]
    assert values(x) == [1.0, 2.0] and values(old) == [0.0, 0.0], "whoever holds these keeps their values"
    assert not owned(thing, "mean")
    thing.mean = y
    with recording.running():
        assert not owned(thing, "mean"), "set by somebody else since"


def test_an_assigned_array_keeps_its_dtype(recording):
    thing = Thing()
    thing.mean = dn.asarray([0.0], "float64")
    with recording.running():
        assign(thing, "mean", dn.asarray([1.0], "float32"))
        assign(thing, ("slots", "w"), dn.asarray([1.0], "float32"))
    assert thing.mean.dtype.name == "float64" and thing.slots["w"].dtype.name == "float32"


def test_what_is_set_between_two_steps_moves_into_the_array_that_the_steps_know(recording):
    thing = Thing()
    with recording.running():
        assign(thing, "mean", dn.asarray([1.0, 2.0]))
        assign(thing, ("slots", "w", "velocity"), dn.asarray([1.0]))
    mean, velocity = thing.mean, thing.slots["w"]["velocity"]
    thing.mean, thing.slots = dn.asarray([5.0, 6.0]), {}  # loaded anew; a memory that was forgotten is 0
    recording.prepare()
    assert thing.mean is mean and values(mean) == [5.0, 6.0]
    assert thing.slots["w"]["velocity"] is velocity and values(velocity) == [0.0]


@pytest.mark.parametrize("elsewhere", [False, True])
def test_an_array_that_no_longer_fits_is_refused(elsewhere):
    with dn.use_backend("numpy"):
        thing, recording = Thing(), Recording(dn.backend.load("numpy"))
        with recording.running():
            assign(thing, "mean", dn.asarray([1.0, 2.0]))
        thing.mean = dn.asarray([1.0, 2.0], backend="strict") if elsewhere else dn.asarray([1.0])
    now = r"\(2,\) float32 on strict" if elsewhere else r"\(1,\) float32 on numpy"
    with pytest.raises(
        CaptureError, match=rf"Thing.mean was \(2,\) float32 on numpy when .*, but is now {now}. Capture the step"
    ):
        recording.prepare()


def test_a_parameter_hears_of_its_new_value(recording):
    w = dn.Parameter(dn.asarray([1.0, 2.0]))
    half = np.dtype("float16")
    with recording.running():
        first = w.cast(half)
        assign(w, "value", dn.asarray([3.0, 4.0]))
        assign(w, "value", dn.asarray([5.0, 6.0]))
        assert values(w.cast(half)) == [5.0, 6.0] and values(first) == [1.0, 2.0]
    w.value[0] = 7.0  # a step that ran without Python
    recording.prepare()
    assert values(w.cast(half)) == [7.0, 6.0]


# -- what is refused, and what is kept ---------------------------------------------------------------------------------


def test_attributes_are_guarded_in_a_captured_step_alone(recording):
    thing = Thing()
    with recording.running():
        with pytest.raises(
            CaptureError, match=r"^Thing.mean is set in a captured step.* dn.recording.assign\(self, 'mean', arr"
        ):
            thing.mean = dn.asarray([1.0])
        with pytest.raises(CaptureError, match=r"^Thing.steps is set .* dn.recording.live\(self, 'steps'\)"):
            thing.steps += 1
        thing.note = "unwatched"
        live(thing, "steps")
        thing.steps += 1
    thing.mean = None
    assert (thing.steps, thing.note) == (1, "unwatched")


@pytest.mark.parametrize(
    "act",
    [
        lambda thing: live(thing, "steps"),
        lambda thing: live(thing, "rate", "float64"),  # known, but not in this dtype
        lambda thing: counted(thing, "steps"),
        lambda thing: assign(thing, "mean", dn.asarray([1.0])),
    ],
)
def test_nothing_new_turns_up_in_the_last_run(recording, act):
    thing = Thing()
    with recording.running():
        live(thing, "rate", "float32")
        recording.closed = True
        assert number(live(thing, "rate", "float32")) == 0.5
        with pytest.raises(CaptureError, match="appears for the first time while the step is captured"):
            act(thing)


def test_what_is_made_to_last_in_the_last_run_is_kept_alive(recording):
    with recording.running():
        lasting(lambda: dn.asarray([1.0]))
        assert recording.kept == []
        recording.closed = True
        made = lasting(lambda: dn.asarray([2.0]))
    assert recording.kept[0] is made and len(recording.kept) == 1


def test_a_recording_ends_with_its_block_even_by_an_error(recording):
    thing = Thing()
    with pytest.raises(RuntimeError), recording.running():
        raise RuntimeError
    thing.steps = 3
    assert live(thing, "steps") == 3 and backend_of(live(thing, "steps")) is None


# -- settings ----------------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Options:
    low: float = 0.0
    names: list = dataclasses.field(default_factory=list)


class Set(Thing):
    """Settings of every kind."""

    unwatched = ("aside",)

    def __init__(self):
        super().__init__()
        self.plain, self.several, self.by_name = True, [1, [2, 3]], {"a": 1, "b": {"c": 2}}
        self.chosen, self.options, self.aside, self.function = {1}, Options(), [], len


SETTINGS = {
    "plain": lambda one: setattr(one, "plain", 1),  # equal to True, and another setting
    "several": lambda one: one.several.append(2),
    "several, inside": lambda one: one.several[1].append(2),
    "several, another order": lambda one: one.several.reverse(),
    "by_name": lambda one: one.by_name.update(a=2),
    "by_name, inside": lambda one: one.by_name["b"].clear(),
    "chosen": lambda one: one.chosen.add(2),
    "options": lambda one: setattr(one.options, "low", 1.0),
    "options, inside": lambda one: one.options.names.append("a"),
    "function": lambda one: setattr(one, "function", max),
    "new": lambda one: setattr(one, "new", None),
    "note": lambda one: delattr(one, "plain"),
}


@pytest.mark.parametrize("way", SETTINGS)
def test_a_setting_that_is_another(way):
    one = Set()
    settings = Settings([one])
    assert not settings.changed()
    SETTINGS[way](one)
    assert settings.difference() == f"Set.{'plain' if way == 'note' else way.partition(',')[0]}"
    assert settings.changed() and not Settings([one]).changed()


class Node:
    """An object that is compared by identity."""


@dataclasses.dataclass
class Tree:
    depth: float
    above: Tree | None = None
    below: list = dataclasses.field(default_factory=list)

    def __post_init__(self):
        if self.above is not None:
            self.above.below.append(self)


def test_settings_that_contain_themselves_and_long_chains():
    one = Set()
    one.options = Tree(0.0)
    one.several, leaf = [one.options], Tree(1.0, Tree(0.5, one.options))
    one.several.append(one.several)
    one.by_name["chain"] = chain = [Node()]
    for _ in range(5000):
        one.by_name["chain"] = [one.by_name["chain"]]
    settings = Settings([one])
    assert not settings.changed() and not Settings([one]).changed()
    one.plain = True  # all is read again
    assert not settings.changed()
    for change, name in (
        (lambda: setattr(leaf, "depth", 2.0), "several"),
        (lambda: setattr(leaf, "above", one.options), "several"),
        (lambda: chain.append(1), "by_name"),
    ):
        settings = Settings([one])
        change()
        assert settings.difference() == f"Set.{name}"


@pytest.mark.parametrize("new", [0.0, 0, 1e-300, complex(0.0, -0.0)])
def test_a_number_is_the_same_setting_if_it_reads_the_same(new):
    one = Set()
    one.rates, one.plain = [float("nan")], complex(0.0) if isinstance(new, complex) else -0.0
    settings = Settings([one])
    one.rates = [float("nan")]
    assert not settings.changed()
    one.plain = new
    assert settings.difference() == "Set.plain"


def test_what_is_no_setting_and_what_is_set_to_what_it_was():
    one = Set()
    settings = Settings([one], {(id(one), "steps")})
    one.steps, one.plain, one.several, one.by_name = 7, True, [1, [2, 3]], {"a": 1, "b": {"c": 2}}
    one.aside.append(1)
    one.aside, one.note, one._hidden = [], "aside, and so is a base's", 3
    assert settings.difference() == ""
    one.several[1].pop()
    assert settings.difference() == "Set.several", "the new list is watched, too"
