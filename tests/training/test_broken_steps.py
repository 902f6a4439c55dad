"""A step that is interrupted, anywhere, by lack of memory or by Ctrl-C, happens completely or not at all."""

from __future__ import annotations

import functools
import inspect
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import fake_cupy
import numpy as np
import pytest

import dualnet as dn
from dualnet.layers.state import all_or_nothing
from dualnet.training.loop import train_step
from dualnet.training.tally import Tally

PACKAGE = os.path.dirname(dn.__file__)


def ours(frame, event) -> bool:
    """Is this the call of a function of the package? (A generator that is only tidied up ignores errors.)"""
    code = frame.f_code
    return event == "call" and code.co_filename.startswith(PACKAGE) and not code.co_flags & inspect.CO_GENERATOR


def calls_of(act) -> int:
    """How many functions of the package ``act`` calls. Some backends need ten times as many as others for one step."""
    found, before = [], sys.gettrace()
    sys.settrace(lambda frame, event, argument: found.append(1) if ours(frame, event) else None)
    try:
        act()
    finally:
        sys.settrace(before)
    return len(found)


@contextmanager
def breaking_off(call: int, error: type[BaseException]) -> Iterator[list[str]]:
    """Raise at the ``call``-th call of a function of the package from here on; the list then tells which it was.

    That is where Python looks for signals, too. (At the last line of a ``with`` it does not: a lock would stay locked.)
    """
    left, where = [call], []

    def trace(frame, event, argument):
        if not where and ours(frame, event):
            left[0] -= 1
            if left[0] < 0:
                where.append(f"{frame.f_code.co_filename}:{frame.f_lineno}")
                raise error

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield where
    finally:
        sys.settrace(before)


def network(dtype, seed=0):
    twice = dn.Dropout(0.3)
    body = dn.Residual(dn.Sequential([dn.Conv2D(3, 3, padding="same"), dn.BatchNorm(), twice]), dn.Conv2D(3, 1))
    layers = [dn.Conv2D(3, 3, use_bias=False), dn.BatchNorm(), dn.ReLU(), body, twice, dn.Flatten(), dn.Dense(2)]
    return dn.Sequential(layers).init((5, 5, 1), seed=seed, dtype=dtype)


class Training:
    """A network, its optimizer, a loss scale and a tally; and all that a step changes of them, as bytes."""

    def __init__(self, dtype="float32"):
        self.net, self.optimizer = network(dtype), dn.Adam(0.01, weight_decay=1e-3)
        self.loss = dn.losses.unchecked("softmax_cross_entropy")
        self.scale, self.tally = dn.LossScale(2.0**10) if dtype == "float16" else None, Tally(self.loss)
        self.make = functools.partial(train_step, self.net, self.optimizer, self.loss, self.scale, self.tally)

    def state(self):
        found = {**self.net.state_dict(), **{f"optimizer {k}": v for k, v in self.optimizer.state_dict().items()}}
        found |= {f"tally {name}": value for name, value in vars(self.tally).items() if name not in ("right", "exact")}
        found |= {} if self.scale is None else self.scale.state_dict()
        return {name: dn.to_numpy(v).tobytes() if hasattr(v, "shape") else v for name, v in found.items()}


def batches(rng, n=3):
    return [(dn.asarray(rng.standard_normal((4, 5, 5, 1)), "float32"), dn.asarray([0, 1, 1, 0])) for _ in range(n)]


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("error", [MemoryError, KeyboardInterrupt])
def test_a_step_is_whole_or_not_made(backend, rng, dtype, error):
    """Broken off at more than 25 places: the state is that before or that after. Then it goes on as its twin."""
    given, one, other = batches(rng), Training(dtype), Training(dtype)
    for training in (one, other):
        training.make(*given[0])
    before = one.state()
    assert before == other.state()
    stride = max(13, calls_of(lambda: other.make(*given[1])) // 40)
    after, call, undone = other.state(), 2, 0
    assert len(before) > 20 and sum(before[name] != after[name] for name in before) > 15
    while True:
        with breaking_off(call, error) as where:
            try:
                one.make(*given[1])
            except error:
                pass
        now = one.state()
        if not where or now == after:
            break
        assert now == before, (where, [name for name in now if now[name] != before.get(name)])
        call, undone = call + stride, undone + 1
    assert undone > 25 and now == after
    one.make(*given[2]), other.make(*given[2])
    assert one.state() == other.state()


def test_the_first_step_as_well(backend, rng):
    """Then slots, scale and sums do not exist yet, and must not be there afterwards."""
    x, t = batches(rng)[0]
    one = Training("float16")
    before = one.state()
    for call in range(100, 500, 43):
        with breaking_off(call, MemoryError) as where, pytest.raises(MemoryError):
            one.make(x, t)
        assert where and one.state() == before, where
    other = Training("float16")
    one.make(x, t), other.make(x, t)
    assert one.state() == other.state()


def test_a_forward_pass_moves_all_statistics_or_none(backend, rng):
    """By hand as well: what a pass is that did not end, nobody could say."""
    (x, _), net = batches(rng)[0], network("float32")
    before = {name: np.array(dn.to_numpy(v) if hasattr(v, "shape") else v) for name, v in net.state_dict().items()}
    call, moved = 0, False
    while not moved:
        with breaking_off(call, MemoryError) as where:
            try:
                net.forward(x, train=True)
            except MemoryError:
                pass
        now = net.state_dict()
        same = [np.array_equal(dn.to_numpy(v) if hasattr(v, "shape") else v, before[n]) for n, v in now.items()]
        moved = not all(same)
        assert not moved or not where or sum(same) == len(same) - 5, where  # four statistics and a counter
        call += 7
    assert call > 60


def test_a_layer_of_ones_own_gets_its_attributes_back():
    class Counting(dn.Layer):
        passes = 0

        def forward(self, x, train=False):
            self.passes, self.last = self.passes + 1, x
            return x, dn.Pullback("counting", lambda dy: (dy, {}), x)

    class Failing(dn.Layer):
        def forward(self, x, train=False):
            raise RuntimeError("no")

    net = dn.Sequential([Counting(), Failing()]).init((2,))
    with pytest.raises(RuntimeError, match="no"):
        net.forward(dn.asarray([[1.0, 2.0]]), train=True)
    assert net[0].passes == 0 and "last" not in vars(net[0])


def test_what_raises_inside_is_what_comes_out():
    net = dn.Dense(2).init((2,))
    with pytest.raises(ZeroDivisionError), all_or_nothing(net):
        net.b.value = net.b.value + 1.0
        raise ZeroDivisionError
    assert (dn.to_numpy(net.b.value) == 0).all()


# -- a captured step on the pretend device -----------------------------------------------------------------------------


@pytest.fixture
def cupy(monkeypatch):
    with fake_cupy.in_force(monkeypatch) as module:
        yield module


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("steps", [0, 1, 2])  # two steps to warm up, which overwrite arrays in place; one is recorded
def test_a_captured_step_without_memory_changes_nothing(cupy, rng, monkeypatch, dtype, steps):
    device, given = cupy.now.graphs.device, batches(rng, 5)
    one, other = Training(dtype), Training(dtype)
    captured, plain = dn.capture(one.make), dn.capture(other.make)
    for x, t in given[:steps]:
        captured(x, t), plain(x, t)
    before, born = one.state(), type(device).born

    def failing_at(k):
        left = [k]

        def allocate(self, array):
            left[0] -= not self.replays  # a graph that is launched allocates nothing
            if left[0] < 0:
                raise MemoryError("no more")
            born(self, array)

        monkeypatch.setattr(type(device), "born", allocate)
        try:
            captured(*given[steps])
        except MemoryError:
            return True
        finally:
            monkeypatch.setattr(type(device), "born", born)
        return False

    k = failed = 0
    while failing_at(k):
        now = one.state()
        assert now == before, (k, [name for name in now if now[name] != before.get(name)])
        k, failed = k + 11, failed + 1
    assert failed > 4
    plain(*given[steps])
    assert one.state() == other.state()
    for x, t in given[steps + 1 :]:
        captured(x, t), plain(x, t)
    assert one.state() == other.state() and (steps < 2 or captured.graphs == 1)
