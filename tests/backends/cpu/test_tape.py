"""The list of calls of a recorded step: which are left out, which are put off, and where buffers lie."""

from __future__ import annotations

import itertools
import weakref

import numpy as np
import pytest

from dualnet.backends.cpu import tape
from dualnet.backends.cpu.tape import Buffer, Call, Memory, Part, Places, Section


def part(buffer, shape=(4,)):
    array = np.empty(shape, "f4")
    return Part(buffer, 0, array.shape, array.strides, array.dtype)


def added(one, other, out):
    """out = one + other."""
    return Call(np.add, [one, other], {"out": out}, [one.buffer, other.buffer], [out.buffer])


def copied(target, source):
    return Call(np.copyto, [target, source], {}, [source.buffer], [target.buffer])


@pytest.fixture
def abcd():
    return [part(Buffer(16)) for _ in range(4)]


@pytest.fixture
def kept():
    """Something that lasts."""
    return part(Buffer(16, np.zeros(4, "f4")))


def test_memory_knows_arrays_by_their_addresses_as_long_as_they_live():
    memory, a = Memory(), np.arange(12.0).reshape(3, 4)
    buffer = memory.add(a)
    for view in (a, a[1:, ::2], a[::-1].T, np.lib.stride_tricks.as_strided(a[1:], (2, 2), (8, 8)), a[2, 3, ...]):
        found = memory.part(view)
        places = Places()
        places.put(buffer, tape.raw(a.ctypes.data, a.nbytes), 0)
        np.testing.assert_array_equal(found.bound(places), view)
        assert found.buffer is buffer and found.bound(places).ctypes.data == view.ctypes.data
    assert memory.part(np.empty(3)) is None and memory.part(a[:0]) is None
    address = a.ctypes.data
    assert memory.find(address + a.nbytes - 1) == (buffer, a.nbytes - 1) and memory.find(address + a.nbytes) is None
    del a, view, found
    assert memory.find(address) is None


def test_only_what_is_read_later_is_kept(abcd, kept):
    a, b, c, d = abcd
    useful, check = added(a, a, b), added(b, b, c)
    last = copied(kept, b)
    assert tape.read_later([useful, check, last], {kept.buffer}) == [useful, last]
    assert tape.read_later([useful, check, last], {kept.buffer, c.buffer}) == [useful, check, last]
    section = Section([[useful, check], [added(a, a, d)]], alone=False)
    assert tape.read_later([section, last], {kept.buffer}) == [section, last]
    assert section.items == [[useful]] and section.writes == {b.buffer}


def test_a_constant_that_nothing_overwrites_is_made_once(abcd):
    a, b, c, _ = abcd
    filled = [Call(np.copyto, [p, 3.0], {}, [], [p.buffer]) for p in (a, b)]
    steps = [*filled, added(b, b, b), added(a, b, c)]
    assert tape.settled(steps, set()) == steps[1:]
    assert a.buffer.home.view("f4").tolist() == [3.0] * 4 and b.buffer.home is None


def test_a_new_array_is_written_where_it_lasts(abcd, kept):
    a, b, c, _ = abcd
    made = added(a, a, b)
    assert tape.into_place([made, copied(kept, b)], {kept.buffer}) == [made]
    assert made.options["out"] == kept and made.writes == {kept.buffer}


@pytest.mark.parametrize("between", ["reads what lasts", "reads the new one", "is another copy"])
def test_unless_something_needs_it_as_it_is(abcd, kept, between):
    a, b, c, _ = abcd
    made = added(a, a, b)
    other = {
        "reads what lasts": added(kept, a, c),
        "reads the new one": added(b, a, c),
        "is another copy": copied(c, b),
    }
    steps = [made, other[between], copied(kept, b)]
    assert tape.into_place(list(steps), {kept.buffer}) == steps and made.options["out"] == b


def test_what_the_step_returns_stays_where_it_is(abcd, kept):
    a, b, _, _ = abcd
    steps = [added(a, a, b), copied(kept, b)]
    assert tape.into_place(list(steps), {kept.buffer}, {b.buffer}) == steps


def test_a_result_in_some_places_only_is_not_written_where_it_lasts(abcd, kept):
    a, b, c, _ = abcd
    some = Call(np.add, [a, a], {"out": b, "where": c}, [a.buffer, b.buffer, c.buffer], [b.buffer])
    steps = [added(a, a, b), some, copied(kept, b)]
    assert tape.into_place(list(steps), {kept.buffer}) == steps and some.options["out"] == b


def test_what_lasts_is_written_last(abcd, kept):
    a, b, c, _ = abcd
    write, more = copied(kept, a), added(a, a, b)
    assert tape.put_off([write, more], {kept.buffer}) == ([more], [write])
    for later in (added(kept, a, b), added(b, b, a)):  # it is read again, or its source is overwritten
        assert tape.put_off([write, later], {kept.buffer}) == ([write, later], [])


def test_calls_for_the_last_part_alone_move_there(abcd, kept):
    a, b, c, d = abcd
    made, other, write = added(a, a, b), added(a, a, c), copied(kept, b)
    assert tape.just_before([made, other], [write]) == ([other], [made, write])
    overwrites = added(c, c, a)
    assert tape.just_before([made, overwrites], [write]) == ([made, overwrites], [write])
    chain = [added(a, a, d), added(d, a, b)]
    assert tape.just_before(chain, [write]) == ([], [*chain, write])


def test_no_two_buffers_in_use_overlap_and_others_share(rng):
    for _ in range(20):
        needs = {}
        for _ in range(30):
            first = int(rng.integers(0, 20))
            size, aligned = int(rng.integers(1, 500)), int(rng.choice([64, 4096]))
            needs[Buffer(size, aligned=aligned)] = first, first + int(rng.integers(0, 6))
        offsets, total = tape.plan(needs)
        assert all(offset % b.aligned == 0 and offset + b.size <= total for b, offset in offsets.items())
        for one, other in itertools.combinations(needs, 2):
            (a, b), (c, d) = needs[one], needs[other]
            apart = offsets[one] + one.size <= offsets[other] or offsets[other] + other.size <= offsets[one]
            assert apart or b < c or d < a
    chain = {Buffer(100): (place, place + 1) for place in range(10)}
    assert tape.plan(chain)[1] == 128 + 100  # two at a time


def test_lives(abcd, kept):
    a, b, c, d = abcd
    steps = [added(a, a, b), added(b, b, c), added(a, kept, d)]
    assert tape.lives(steps, {d.buffer}) == {a.buffer: (0, 2), b.buffer: (0, 1), c.buffer: (1, 1), d.buffer: (2, 3)}


def test_what_one_item_alone_uses(abcd):
    a, b, c, d = abcd
    section = Section([[added(a, a, b), added(b, b, d)], [added(a, a, c)]], alone=False)
    assert set(tape.inside([section], {d.buffer})) == {b.buffer, c.buffer}
    assert set(tape.inside([section, added(c, c, d)], set())) == {b.buffer}


class NoInterface(np.ndarray):
    @property
    def __array_interface__(self):
        raise AssertionError("its keys are interned anew at each call, until Python's table of strings has doubled")


def test_addresses_cost_no_strings():
    array = np.zeros(3)
    expected = array.__array_interface__["data"][0]
    assert tape.address_of(array.view(NoInterface)) == expected
    assert tape.address_of(array.view(NoInterface)[1:]) == expected + 8


def test_memory_that_is_cleared_knows_nothing_and_dies_at_once():
    memory, array = Memory(), np.zeros(3)
    memory.add(array)
    assert memory.part(array) is not None
    gone = weakref.ref(memory)
    memory.clear()
    assert memory.part(array) is None
    del memory
    assert gone() is None
