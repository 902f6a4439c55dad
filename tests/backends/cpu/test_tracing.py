"""Arrays that tell of the calls that compute with them: what NumPy does is noted, and gives the same when repeated."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from dualnet.backend import TransferForbidden
from dualnet.backends.cpu import recorder, tracing
from dualnet.backends.cpu.tape import Tape, Unrecordable


def changed_in_place(x, t):
    y = x.copy()
    y[1:, ::2] *= 3.0
    y[0] = 7.0
    y[x > 1.0] = -1.0
    y[1, 2] = x[0, 0]
    np.add.at(y, (t, 0), 1.0)
    np.negative(y, out=y, where=y < 0)
    y.fill(0.0) if y.shape == (0,) else y.sort(axis=1)
    return y


CALLS = {
    "ufuncs": lambda x, t: np.exp(-x) + 2.0 * x - 1 / (1 + x * x),
    "two results": lambda x, t: np.modf(x)[0] + np.divmod(x, 2.0)[1],
    "reductions": lambda x, t: x.sum(axis=0) + x.max(axis=0) - x.mean(axis=0) + np.sum(x, axis=0) + np.clip(x, 0, 1)[0],
    "one number": lambda x, t: x.sum() * x.mean() + np.max(x),
    "elements": lambda x, t: x[0, 1] * x[-1] + x[2, 3],
    "fancy indexing": lambda x, t: x[np.arange(len(t)), t] + x[x > -9].sum() + np.take(np.arange(5.0), t),
    "where": lambda x, t: np.where(x > 0, x, 0.0) + np.where(x > 0, 1, x),
    "copies": lambda x, t: x.T.reshape(-1) + x.ravel(order="F") + x.T.flatten() + np.array(x.T).reshape(-1),
    "dtypes": lambda x, t: x.astype("f8") + x.astype("f2").astype("f4") + t.astype("f4").sum(),
    "products": lambda x, t: x @ x.T + np.dot(x, x.T) + np.einsum("ij,kj->ik", x, x) + np.tensordot(x, x, (1, 1)),
    "together": lambda x, t: np.concatenate([x, x * 2])[:3] + np.stack([x, x])[1] + np.tile(x[:, :1], 4),
    "new arrays": lambda x, t: np.zeros_like(x) + np.ones((3, 4), "f4") + np.full(4, x[0, 0]) + np.empty(0).sum(),
    "views": lambda x, t: x[::-1].T[1:].T + np.moveaxis(x, 0, 1).swapaxes(0, 1)[:, 1:] + x.view("i4").view("f4")[:, :3],
    "argmax": lambda x, t: x.argmax(axis=1) + np.argmin(x, axis=1) + x.argsort(axis=1)[:, 0],
    "rows": lambda x, t: sum(row * place for place, row in enumerate(x)),
    "in place": changed_in_place,
}


@pytest.mark.parametrize("name", CALLS)
def test_what_numpy_does_is_noted(name, rng):
    """Repeated with other numbers, in memory that was full of NaN, it gives the bits that NumPy gives."""
    call, x, t = CALLS[name], rng.standard_normal((3, 4)).astype("f4"), rng.integers(0, 3, 3)
    one = recorder.Recorder()
    one.record(lambda: call(tracing.watched(x), tracing.watched(t)))
    for _ in range(3):
        x[...], t[...] = rng.standard_normal((3, 4)), rng.integers(0, 3, 3)
        one.arena.spoil()
        expected = np.asarray(call(x, t))
        assert one.launch() and one.outputs.tobytes() == expected.tobytes() and one.outputs.dtype == expected.dtype


def test_what_is_computed_while_recording_is_right_too(rng):
    x, t = rng.standard_normal((3, 4)).astype("f4"), rng.integers(0, 3, 3)
    for call in CALLS.values():
        with tracing.recording(Tape()):
            got = call(tracing.watched(x), tracing.watched(t))
        np.testing.assert_array_equal(tracing.plain(got), call(x, t))


def test_nothing_that_lasts_changes_while_recording(rng):
    x = rng.standard_normal(4)
    before = x.copy()
    one = recorder.Recorder()

    def step():
        seen = tracing.watched(x)
        seen *= 2.0
        return seen + 1.0

    one.record(step)
    np.testing.assert_array_equal(x, before)
    assert one.launch()
    np.testing.assert_array_equal(x, 2 * before)


def test_other_threads_are_not_watched(rng):
    found = []
    with tracing.recording(tape := Tape()):
        thread = threading.Thread(target=lambda: found.append(np.zeros(3) + 1.0))
        thread.start()
        thread.join()
        assert type(np.zeros(3)) is tracing.Watched
    assert type(found[0]) is np.ndarray and len(tape.steps) == 1
    assert type(np.zeros(3)) is np.ndarray and np.zeros is tracing._real["zeros"]


def test_a_number_takes_part_as_a_python_number():
    rate, steps = np.array(0.1), np.array(3, "uint64")
    x = np.array([1.0, 3.0], "f4")

    def step(rate, steps):
        bias = (1 - 0.999 ** (steps + 1)) ** 0.5
        return x * rate / bias - rate * 0.3 * x, np.arange(3) * steps

    one = recorder.Recorder()
    one.record(lambda: step(tracing.watched(rate, True), tracing.watched(steps, True)))
    for value, count in ((0.1, 3), (0.7, 12), (1e-9, 10**6)):
        rate[...], steps[...] = value, count
        assert one.launch()
        for got, expected in zip(one.outputs, step(value, count)):
            assert got.dtype == expected.dtype and got.tobytes() == expected.tobytes()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (lambda n: n * 0.0, lambda n: n * -0.0),
        (lambda n: n * 2, lambda n: n * 2.0),
        (lambda n: n - 1, lambda n: 1 - n),
        (lambda n: n**2, lambda n: 2**n),
        (lambda n: n + float("nan"), lambda n: n + float("inf")),
        (lambda n: n + 1 - n, lambda n: n - (1 + n)),
    ],
)
def test_what_is_known_of_a_number_is_not_taken_for_something_else(one, other):
    """What was computed from it is computed once: for the same operation with the same number."""
    rate, ways = np.array(0.3), (one, other, one, other)

    def step():
        number = tracing.watched(rate, True)
        return [way(number) for way in ways]

    recorded = recorder.Recorder()
    recorded.record(step)
    for value in (0.3, 7.0):
        rate[...] = value
        assert recorded.launch()
        assert [repr(made.item()) for made in recorded.outputs] == [repr(way(value)) for way in ways]


READ = [lambda x: x.item(), lambda x: x.tolist(), lambda x: x.tobytes(), lambda x: [0][x]]


@pytest.mark.parametrize("culprit", [bool, float, int, complex, *READ, lambda x: np.array_equal(x, x)])
def test_reading_a_value_is_refused(culprit):
    x = np.array(0, "i8")
    with tracing.running():
        seen = tracing.watched(x)
    with pytest.raises(TransferForbidden, match="a Python value of an array"):
        culprit(seen)


def test_questions_of_our_own_code_are_asked_again(monkeypatch):
    x = np.array([1.0, 2.0])
    one = recorder.Recorder()
    code = compile("def way(x):\n    return x + 1 if x.sum() > 0 and float(x[0]) < 9 else x - 1", "way", "exec")
    names = {"__name__": "dualnet.way"}
    exec(code, names)
    one.record(lambda: names["way"](tracing.watched(x)))
    assert len(one.answers) == 2 and one.launch() and one.outputs.tolist() == [2.0, 3.0]
    x[...] = [-1.0, -2.0]
    assert not one.launch()
    x[...] = [np.inf, 0.0]
    assert not one.launch()
    x[...] = [3.0, 0.0]
    assert one.launch() and one.outputs.tolist() == [4.0, 1.0]


def test_writing_outside_is_refused():
    outside = np.ones(3)
    with tracing.recording(Tape()), pytest.raises(Unrecordable, match="made outside the step"):
        np.add(tracing.watched(np.ones(3)), 1.0, out=outside)
