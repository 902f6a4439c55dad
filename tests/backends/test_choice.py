"""Which kernels are asked first, and why: each algorithm on a grid of shapes, and what decides between them."""

from __future__ import annotations

import itertools
import json
import threading
from collections import Counter

import numpy as np
import pytest
from cpu_tools import REFERENCES, arrays, winograd_serves
from onednn_tools import needs_library
from oracles import error, tau

import dualnet as dn
from dualnet.backend import references
from dualnet.backends import choice, measuring, numpy_backend
from dualnet.backends.cpu import machine, table
from dualnet.backends.onednn import library
from dualnet.geometry import windows
from dualnet.shim.kernels import calls, reasons

VARIABLES = ("DUALNET_AUTOTUNE", "DUALNET_TUNED", "DUALNET_THREADS", "DUALNET_ONEDNN")


@pytest.fixture(autouse=True)
def as_new(monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DUALNET_KERNELS", "auto")
    choice.forget()
    before, whys = calls.copy(), reasons.copy()
    calls.clear()
    reasons.clear()
    with dn.use_backend("numpy"):
        yield
    choice.forget()
    for counter, known in ((calls, before), (reasons, whys)):
        counter.clear()
        counter.update(known)


@pytest.fixture
def quick(monkeypatch):
    """Measurements that take no time: how often each shape was measured."""
    asked: Counter = Counter()

    def times(shape, kernels, usual=()):
        asked[shape] += 1
        return [("numpy rows", 0.001), ("numpy columns", 0.002)]

    monkeypatch.setattr(measuring, "times", times)
    return asked


def case(rng, N=3, size=8, C=16, D=24, dtype="float32", **options):
    at = windows("t", (size, size), (3, 3), padding=1, **options)
    return (at, *arrays(rng, at, N, C, D, dtype))


def who(name, *arguments, **options):
    calls.clear()
    reasons.clear()
    references[name](*arguments, **options)
    return next((by.removeprefix("kernel of "), why) for n, by, why in reasons if n == name)


# -- every algorithm, whoever would choose it --------------------------------------------------------------------------

GRID = [  # N, size, C, D, k, stride, padding, dilation
    (4, 16, 16, 24, 3, 1, 1, 1),
    (3, 15, 33, 20, 3, 1, 1, 1),
    (2, 9, 64, 48, 3, 1, 2, 1),
    (5, 4, 80, 70, 3, 1, 1, 1),
    (9, 14, 1, 6, 5, 1, 2, 1),
    (2, 11, 8, 16, 3, 2, 1, 1),
    (2, 10, 5, 7, 2, 3, 0, 1),
    (2, 9, 6, 9, 3, 1, 2, 2),
    (3, 8, 24, 16, 1, 1, 0, 1),
    (9, 14, 6, 16, 5, 1, 0, 1),
]
ALGORITHMS = sorted({kernel.algorithm for name in table.ALL for kernel in numpy_backend.KERNELS[name]})


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("number", ["1", "2"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_each_algorithm_computes_what_the_reference_does(monkeypatch, rng, algorithm, number, dtype):
    """Forced in turn, on each shape that it serves; the same bits in a second run."""
    monkeypatch.setenv("DUALNET_THREADS", number)
    winograd_serves(monkeypatch)
    served = 0
    with choice.forced(algorithm):
        for N, size, C, D, k, stride, padding, dilation in GRID:
            at = windows("t", (size, size), (k, k), stride=stride, padding=padding, dilation=dilation)
            x, w, b, dy, K = arrays(rng, at, N, C, D, dtype)
            for name, arguments in {
                "correlate": (x, w, b, at, 1, True),
                "correlate_filters": (x, dy, at, 1),
                "correlate_inputs": (dy, w, at, 1),
                "parameter_gradients": (x, dy, at, 1, True),
            }.items():
                calls.clear()
                found, again = (references[name](*arguments) for _ in range(2))
                served += (name, f"kernel of {algorithm}") in calls
                assert {by for n, by in calls if n == name} <= {f"kernel of {algorithm}", "reference"}
                pairs = zip(
                    *(y if isinstance(y, tuple) else (y,) for y in (found, REFERENCES[name](*arguments), again))
                )
                for got, want, twice in pairs:
                    assert error(got, want) <= 2 * tau(dtype, K), (name, at)
                    assert got.tobytes() == twice.tobytes()
    if algorithm != "oneDNN":
        assert served, "no shape of the grid is served"


@needs_library
def test_onednn_is_among_those_that_are_forced(rng):
    at, x, w, b, dy, _ = case(rng)
    with choice.forced("oneDNN"):
        assert who("correlate", x, w, b, at) == ("oneDNN", "forced")


# -- what decides ------------------------------------------------------------------------------------------------------


def test_the_table_of_this_kind_of_processor(monkeypatch, rng):
    monkeypatch.setenv("DUALNET_ONEDNN", "0")
    at, x, w, b, dy, _ = case(rng, 8, 16, 64, 64)
    for kind, wanted in ((machine.AMD, "numpy winograd"), (machine.AVX2, "numpy winograd rows")):
        monkeypatch.setattr(machine, "kind", lambda kind=kind: kind)
        choice.forget()
        for name, arguments in {"correlate": (x, w, b, at), "parameter_gradients": (x, dy, at, 1, True)}.items():
            assert who(name, *arguments) == (wanted, f"table for {kind}")


def test_where_one_that_lacks_e12_comes_first_e11_goes_alone(monkeypatch, rng):
    monkeypatch.setattr(table, "first", lambda shape: ("numpy columns",))
    at, x, w, b, dy, _ = case(rng)
    references["parameter_gradients"](x, dy, at, 1, True)
    assert calls["parameter_gradients", "reference"] == calls["correlate_filters", "kernel of numpy columns"] == 1
    winograd_serves(monkeypatch)
    monkeypatch.setattr(table, "first", lambda shape: ("numpy winograd", "numpy columns"))
    choice.forget()
    references["parameter_gradients"](x, dy, at, 1, True)
    assert calls["parameter_gradients", "kernel of numpy winograd"] == 1


def test_nothing_is_measured_or_read_unless_asked(monkeypatch, rng, quick):
    monkeypatch.setattr(choice.tuned, "order", None)
    at, x, w, b, dy, _ = case(rng)
    who("correlate", x, w, b, at)
    monkeypatch.setenv("DUALNET_AUTOTUNE", "0")
    assert who("correlate", x, w, b, at)[1] != "measured in this process" and not quick


def test_a_shape_is_measured_once_and_the_choice_stays(monkeypatch, rng, quick):
    monkeypatch.setenv("DUALNET_AUTOTUNE", "1")
    at, x, w, b, dy, _ = case(rng)
    for relu in (False, True):
        assert who("correlate", x, w, b, at, 1, relu) == ("numpy rows", "measured in this process")
    assert who("correlate", x, w, None, at) == ("numpy rows", "measured in this process"), "a bias changes nothing"
    again = windows("t", (8, 8), (3, 3), padding=1)
    assert who("correlate", x.copy(), w, b, again, groups=1)[0] == "numpy rows"
    assert list(quick.values()) == [1]
    monkeypatch.delenv("DUALNET_AUTOTUNE")
    assert who("correlate", x, w, b, at)[1] != "measured in this process"
    monkeypatch.setenv("DUALNET_AUTOTUNE", "1")
    assert who("correlate", x, w, b, at)[0] == "numpy rows" and list(quick.values()) == [1]


def test_every_shape_dtype_function_and_number_of_threads_has_its_own_choice(monkeypatch, rng, quick):
    monkeypatch.setenv("DUALNET_AUTOTUNE", "1")
    for options in ({}, {"N": 4}, {"size": 9}, {"C": 17}, {"D": 25}, {"dtype": "float64"}, {"dilation": 2}):
        at, x, w, b, dy, _ = case(rng, **options)
        for name, arguments in {"correlate": (x, w, b, at), "correlate_filters": (x, dy, at)}.items():
            references[name](*arguments)
        references["parameter_gradients"](x, dy, at, 1, True)  # as correlate_filters
        references["correlate_inputs"](dy, w, at)
    assert len(quick) == 7 * 3 and set(quick.values()) == {1}
    monkeypatch.setenv("DUALNET_THREADS", "1")
    references["correlate"](x, w, b, at)
    assert max(quick.values()) == 2


def test_groups_and_whole_numbers_are_nobodys_choice(monkeypatch, rng, quick):
    monkeypatch.setenv("DUALNET_AUTOTUNE", "1")
    at, x, w, b, dy, _ = case(rng)
    half = w[:, :, :8]
    assert np.allclose(references["correlate"](x, half, b, at, 2), references["correlate"](x, half, b, at, groups=2))
    references["correlate"](x.astype("i4"), w.astype("i4"), None, at)
    assert not quick


def test_windows_that_are_gone_leave_no_choice_to_others(monkeypatch, rng):
    """A choice is known by its windows' place in memory, and keeps them there."""
    seen = set()
    for size in range(4, 60):
        at, x, w, b, dy, _ = case(rng, N=1, size=size, C=2, D=3)
        order = numpy_backend.KERNELS["correlate"].order(x[:, :4, :4], w, b, at, 1, False)  # all of one shape
        assert order.at is at
        seen.add(id(at))
        del at
    assert len(seen) == 56


def test_only_so_many_calls_are_known_by_heart(monkeypatch, rng):
    monkeypatch.setattr(choice, "KEPT", 5)
    for N in range(1, 9):
        at, x, w, b, dy, _ = case(rng, N=N, C=2, D=2)
        references["correlate"](x, w, b, at)
    assert len(numpy_backend.KERNELS["correlate"].known) == 3


def test_threads_that_see_a_shape_at_once_measure_it_once(monkeypatch, rng, quick):
    monkeypatch.setenv("DUALNET_AUTOTUNE", "1")
    at, x, w, b, dy, _ = case(rng)
    start, found = threading.Barrier(6, timeout=30), []

    def run():
        start.wait()
        found.append(references["correlate"](x, w, b, at).tobytes())

    team = [threading.Thread(target=run) for _ in range(6)]
    for thread in team:
        thread.start()
    for thread in team:
        thread.join(60)
    assert len(set(found)) == 1 and len(found) == 6 and list(quick.values()) == [1]


@pytest.mark.parametrize("asked", ["yes", "2", "on"])
def test_the_switch_is_0_or_1(monkeypatch, rng, asked):
    monkeypatch.setenv("DUALNET_AUTOTUNE", asked)
    at, x, w, b, dy, _ = case(rng)
    with pytest.raises(ValueError, match=f"DUALNET_AUTOTUNE must be 0 or 1, got '{asked}'"):
        references["correlate"](x, w, b, at)


# -- a file ------------------------------------------------------------------------------------------------------------


def test_a_measurement_is_kept_in_the_file_that_is_named_and_serves_from_there(monkeypatch, rng, quick, tmp_path):
    path = tmp_path / "tuned.json"
    monkeypatch.setenv("DUALNET_AUTOTUNE", "1")
    monkeypatch.setenv("DUALNET_TUNED", str(path))
    at, x, w, b, dy, _ = case(rng)
    assert who("correlate", x, w, b, at) == ("numpy rows", "measured in this process")
    what = "correlate 3x8x8x16 to 24, 3x3, padding 1 1 1 1, float32"
    assert json.loads(path.read_text())["choices"] == {what: [["numpy rows", 1.0], ["numpy columns", 2.0]]}
    choice.forget()
    monkeypatch.delenv("DUALNET_AUTOTUNE")
    assert who("correlate", x, w, b, at) == ("numpy rows", f"tuned in {path}") and list(quick.values()) == [1]
    assert who("correlate_filters", x, dy, at)[1] != f"tuned in {path}", "a shape that the file does not know"
    table = dn.info()
    assert list(table["ran"]) == ["correlate_filters (kernel of numpy winograd rows)"] or "oneDNN" in str(table["ran"])
    monkeypatch.setenv("DUALNET_AUTOTUNE", "1")
    who("correlate", x, w, b, at)
    who("correlate_filters", x, dy, at)
    assert list(quick.values()) == [1, 1], "only what is missing is measured"
    assert len(json.loads(path.read_text())["choices"]) == 2


# -- training ----------------------------------------------------------------------------------------------------------


def network():
    layers = [dn.Conv2D(16, 3, padding=1), dn.ReLU(), dn.Conv2D(20, 3, padding=1), dn.ReLU(), dn.Flatten(), dn.Dense(3)]
    return dn.Sequential(layers).init((12, 12, 2), seed=1).to("numpy")


def bits(net):
    return [value.tobytes() for _, value in sorted(net.state_dict().items()) if hasattr(value, "tobytes")]


def test_a_training_computes_the_same_bits_from_its_first_step_on(monkeypatch, rng):
    """Measured for real: the first step, in which shapes are measured, gives what it gives once all are known."""
    monkeypatch.setattr(measuring, "SECONDS", 0.01)
    monkeypatch.setenv("DUALNET_AUTOTUNE", "1")
    x, t = rng.standard_normal((32, 12, 12, 2), dtype="f4"), rng.integers(0, 3, 32)
    found = []
    for _ in range(2):
        net = network()
        net.fit(x, t, epochs=2, batch_size=16, optimizer=dn.SGD(lr=0.1, momentum=0.9), verbose=0)
        found.append(bits(net))
    assert found[0] == found[1]
    assert {why for *_, why in reasons} >= {"measured in this process"}


def test_the_table_gives_the_same_bits_under_any_load(rng):
    """Each choice depends on the shape alone: forgetting them all changes nothing."""
    x, t = rng.standard_normal((32, 12, 12, 2), dtype="f4"), rng.integers(0, 3, 32)
    found = []
    for _ in range(2):
        choice.forget()
        net = network()
        net.fit(x, t, epochs=1, batch_size=16, optimizer=dn.SGD(lr=0.1), verbose=0)
        found.append(bits(net))
    assert found[0] == found[1]


def test_batch_norm_runs_in_the_convolution_only_where_that_is_asked_first(rng):
    with dn.use_backend("numpy"):
        net = dn.Sequential([dn.Conv2D(4, 3), dn.BatchNorm()]).init((8, 8, 2))
    x = rng.standard_normal((2, 8, 8, 2), dtype="f4")
    for algorithm in ("oneDNN", "numpy columns"):
        with choice.forced(algorithm):
            before = calls.copy()
            net(x)
            ran = calls - before
            served = "kernel of oneDNN" if algorithm == "oneDNN" and library.available()[0] else "reference"
            assert ran["correlate_normalise", served] == 1
            assert bool(ran["correlate", "kernel of numpy columns"]) == (algorithm == "numpy columns")


def test_all_functions_with_a_choice_are_those_of_a_convolution():
    assert set(choice.SHAPES) == {*table.ALL, "parameter_gradients", "correlate_normalise"}
    assert set(choice.CANDIDATES) == set(table.ALL)
    for name, kernels in choice.CANDIDATES.items():
        assert list(itertools.chain(kernels)) == list(numpy_backend.KERNELS[name])
