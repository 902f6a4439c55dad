"""Steps of the CPU that are recorded: repeated in little memory, all or nothing, and believed only when compared."""

from __future__ import annotations

import numpy as np
import pytest

from dualnet.backends.cpu import recorder, threads, tracing
from dualnet.backends.cpu.tape import Section, Unrecordable


def recorded(step, *arrays):
    one = recorder.Recorder()
    one.record(lambda: step(*map(tracing.watched, arrays)))
    return one


def test_memory_is_planned(rng):
    """Twenty arrays one after another need the room of two."""
    x = rng.standard_normal(1000)

    def step(x):
        for _ in range(20):
            x = x * 1.5 + 1.0
        return x

    one = recorded(step, x)
    assert 2 * x.nbytes <= one.arena.size <= 2 * x.nbytes + 128
    assert one.launch() and one.outputs.tobytes() == step(x).tobytes()


def test_what_only_python_needs_is_let_go(rng):
    """When the step has been compared, with the launch after that: until then there are copies to compare with."""
    x = rng.standard_normal(1000)

    def step(x):
        return np.multiply(x, 0.5, out=threads.workspace("half", x.shape, x.dtype)) + 1.0

    step(x)
    one = recorded(step, x)
    assert one.launch() and not one.checked and threads._local.workspaces
    one.rehearse(lambda: step(tracing.watched(x)))
    assert one.launch() and one.checked
    assert one.launch() and "workspaces" not in threads._local.__dict__
    assert one.outputs.tobytes() == step(x).tobytes()
    threads.workspace("half", (10,), x.dtype)
    assert one.launch() and threads._local.workspaces  # only once


@pytest.mark.parametrize("team", ["1", "2", "3"])
def test_items_are_shared_out(monkeypatch, rng, team):
    """Each thread has a room of its own, and the sum is that of Python to the last bit."""
    monkeypatch.setenv("DUALNET_THREADS", team)
    x = rng.standard_normal((16, 500)).astype("f4")

    def step(x):
        y = np.empty(16, "f4")

        def work(worker, row):
            half = np.multiply(x[row], 0.5, out=threads.workspace("half", (500,), x.dtype))
            y[row] = (half * half).sum()

        threads.parallel_for(range(16), work)
        return y

    one = recorded(step, x)
    for _ in range(20):
        x[...] = rng.standard_normal(x.shape)
        one.arena.spoil()
        assert one.launch() and one.outputs.tobytes() == step(x).tobytes()
    assert one.arena.size < int(team) * 3 * 4096 + 4096


def test_each_thread_has_a_room_of_its_own(monkeypatch, rng):
    """All items that one thread takes use the same memory, and no two threads do."""
    monkeypatch.setenv("DUALNET_THREADS", "2")
    x, y = rng.standard_normal((4, 100)), np.zeros(4)

    def step(x, y):
        def work(worker, row):
            half = np.multiply(x[row], 0.5, out=threads.workspace("half", (100,), x.dtype))
            y[row] = half.sum()

        threads.parallel_for(range(4), work)
        return y * 1.0

    one = recorded(step, x, y)
    (shared,) = [call for call in one.first if call.func is threads.parallel_for]
    (items, _), rooms = shared.args, [set(), set()]
    for item in items:
        for room, calls in zip(rooms, item, strict=True):
            room.add(calls[0].args[-1].ctypes.data)
    assert len(rooms[0]) == len(rooms[1]) == 1 and rooms[0] != rooms[1]


def test_an_interrupt_leaves_all_or_nothing(rng):
    """In the first part nothing has changed; in the last one everything will."""
    kept = [np.zeros(2), np.zeros(2), np.zeros(2)]
    x = np.ones(2)

    def step(x, *seen):
        made = [x + place for place in range(3)]
        for target, value in zip(seen, made):
            target[...] = value
        return made[0] * 1.0

    for list_name in ("first", "last"):
        one = recorded(step, x, *kept)
        for array in kept:
            array[...] = 0
        calls = getattr(one, list_name)

        def interrupted(call=calls[0]):
            call()
            raise KeyboardInterrupt

        calls[0] = interrupted
        with pytest.raises(KeyboardInterrupt):
            one.launch()
        assert [array[0] for array in kept] == ([0, 0, 0] if list_name == "first" else [1, 2, 3])


def test_what_is_read_again_after_it_was_written_is_saved_first():
    """It cannot wait for the end. If the step then goes another way, it is put back."""
    kept, x = np.array([5.0]), np.array([1.0])
    names = {"__name__": "dualnet.way"}
    exec("def step(x, kept):\n    kept[...] = kept + x\n    return x if kept.sum() < 9 else -x", names)
    one = recorded(names["step"], x, kept)
    assert len(one.saved) == 1 and kept.tolist() == [5.0]
    assert one.launch() and kept.tolist() == [6.0]
    x[...] = 8.0
    assert not one.launch() and kept.tolist() == [6.0]


def test_a_launch_that_differs_from_python_is_an_error_and_changes_nothing(rng):
    kept, x, hidden = np.zeros(3), np.ones(3), [1.0]

    def step():
        seen, mine = tracing.watched(x), tracing.watched(kept)
        mine[...] = seen * hidden[0]
        return seen + 0.0

    one = recorder.Recorder()
    one.record(step)
    hidden[0] = 2.0
    one.rehearse(step)
    with pytest.raises(
        Unrecordable, match=r"with another batch, it gives different .* an array that it keeps \(float64"
    ):
        one.launch()
    assert kept.tolist() == [0.0] * 3 and not one.checked
    hidden[0] = 1.0
    one.rehearse(step)
    assert one.launch() and one.checked and kept.tolist() == [1.0] * 3


def test_sections_without_use_are_left_out(rng):
    x = rng.standard_normal(10)

    def step(x):
        y = np.empty(10)
        threads.parallel_for(range(2), lambda worker, k: np.multiply(x, k, out=y))
        return x + 1.0

    one = recorded(step, x)
    assert len(one.first) == 1 and not isinstance(one.first[0], Section)


def test_a_step_may_return_what_it_writes_where_it_lasts(rng):
    x, last = rng.standard_normal(1000), np.zeros(1000)

    def step(x, last):
        y = x * 2.0
        np.copyto(last, y)
        return y

    one = recorded(step, x, last)
    assert one.launch()
    assert one.outputs.tobytes() == last.tobytes() == (x * 2.0).tobytes()
    assert not np.shares_memory(one.outputs, last)
