"""Measuring kernels: the fastest comes first, ties keep the usual order, and nothing is left behind."""

from __future__ import annotations

import threading
import types

import numpy as np
import pytest

from dualnet.backends import measuring, numpy_backend
from dualnet.backends.cpu import winograd_tiles
from dualnet.backends.cpu.table import ALL, FILTERS, FORWARD, INPUTS, Shape
from dualnet.geometry import windows

AT = windows("t", (6, 5), (3, 3), padding=1)
SHAPE = Shape(FORWARD, 2, 3, 4, AT, "f")
CLOCK = [0.0]
"""The seconds of a clock that only pretended kernels move."""


def kernel(name, seconds=0.0, serves=True, seen=None):
    def run(*arguments):
        if seen is not None:
            seen.append((threading.current_thread().name, arguments))
        CLOCK[0] += seconds
        return "result" if serves else NotImplemented

    run.algorithm = name
    return run


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(measuring, "SECONDS", 0.0)


@pytest.fixture
def clock(monkeypatch):
    monkeypatch.setattr(measuring, "time", types.SimpleNamespace(perf_counter=lambda: CLOCK[0]))


def test_the_fastest_comes_first_and_who_does_not_serve_not_at_all(clock):
    found = measuring.times(SHAPE, [kernel("slow", 0.03), kernel("quick", 0.001), kernel("none", serves=False)])
    assert [name for name, _ in found] == ["quick", "slow"]
    assert [seconds for _, seconds in found] == pytest.approx([0.001, 0.03])


def test_if_nobody_serves_there_is_nothing_to_say():
    assert measuring.times(SHAPE, [kernel("none", serves=False)], ["none"]) == []


def test_kernels_take_turns_and_a_quarter_of_the_calls_counts(monkeypatch):
    monkeypatch.setattr(measuring, "ROUNDS", 4)
    took = {"a": iter([9.0, 2.0, 1.0, 3.0]), "b": iter([5.0, 1.5, 1.6, 7.0])}
    turns = []

    def once(kernel, arguments):
        turns.append(kernel.algorithm)
        return next(took[kernel.algorithm])

    monkeypatch.setattr(measuring, "_once", once)
    assert measuring.times(SHAPE, [kernel("a"), kernel("b")]) == [("b", 1.6), ("a", 2.0)]
    assert turns == ["a", "b"] * 4


@pytest.mark.parametrize(
    "seconds, usual, wanted",
    [
        ({"a": 1.0, "b": 0.96}, ["a"], ["a", "b"]),  # not clearly faster
        ({"a": 1.0, "b": 0.94}, ["a"], ["b", "a"]),
        ({"a": 1.0, "b": 0.96, "c": 0.5}, ["a"], ["c", "b", "a"]),
        ({"a": 1.0, "b": 0.96}, ["x", "b"], ["b", "a"]),  # what is usually first does not serve
        ({"a": 1.0, "b": 0.96}, [], ["a", "b"]),
        ({"oneDNN": 1.4e-3, "b": 1.0e-3}, ["oneDNN"], ["oneDNN", "b"]),  # not worth waking NumPy's threads
        ({"oneDNN": 1.4e-3, "b": 0.8e-3}, ["oneDNN"], ["b", "oneDNN"]),
        ({"oneDNN": 1.0e-3, "b": 1.4e-3}, ["b"], ["oneDNN", "b"]),
    ],
)
def test_a_tie_keeps_the_usual_order(seconds, usual, wanted):
    assert [name for name, _ in measuring.sorted_by_time(seconds, usual)] == wanted


def test_it_happens_in_a_thread_of_its_own_on_arrays_of_its_own():
    seen = []
    measuring.times(SHAPE, [kernel("a", seen=seen)])
    assert {name for name, _ in seen} == {"dualnet-measuring"}
    x, w, b, at = seen[0][1]
    assert x.shape == (2, 6, 5, 3) and w.shape == (3, 3, 3, 4) and b is None and at is AT
    assert x.dtype == np.float32 and np.isfinite(x).all() and x.std() > 0.1


@pytest.mark.parametrize(
    "function, shapes", [(FILTERS, [(2, 6, 5, 3), (2, 6, 5, 4)]), (INPUTS, [(2, 6, 5, 4), (3, 3, 3, 4)])]
)
def test_the_arguments_of_each_function(function, shapes):
    one, other, at = measuring.drawn(SHAPE._replace(function=function, dtype="d"))
    assert [one.shape, other.shape] == shapes and one.dtype == other.dtype == np.float64 and at is AT


def test_an_error_reaches_the_caller():
    def broken(*arguments):
        raise MemoryError("no room")

    with pytest.raises(MemoryError, match="no room"):
        measuring.times(SHAPE, [broken])


def test_slow_ones_are_left_out_of_further_rounds(monkeypatch, clock):
    monkeypatch.setattr(measuring, "SECONDS", 0.2)
    seen = {"quick": [], "slow": []}
    measuring.times(SHAPE, [kernel("quick", 0.001, seen=seen["quick"]), kernel("slow", 0.01, seen=seen["slow"])])
    assert len(seen["slow"]) == 1 + measuring.ROUNDS < len(seen["quick"])


@pytest.mark.parametrize("function", ALL)
def test_real_kernels(monkeypatch, function):
    for name in ("LEAST", "PRODUCTS", "PLACES"):
        monkeypatch.setattr(winograd_tiles, name, 0)
    found = measuring.times(SHAPE._replace(function=function), numpy_backend.KERNELS[function])
    names = [name for name, _ in found]
    assert {"numpy winograd", "numpy winograd rows", "numpy columns"} <= set(names)
    assert all(0 < seconds < 10 for _, seconds in found) and len(set(names)) == len(names)
