"""The one mechanism that watches a pass: which layers run and where, what it may change, and that it leaves nothing
behind."""

from __future__ import annotations

import gc
import time

import numpy as np
import pytest
from small_nets import Twice

import dualnet as dn
from dualnet.layers.containers import forward_of
from dualnet.seeing.watching import Probe, Stopwatch, Watch, sharing_copy


class Broken(dn.Layer):
    """Raises in the pass that is named."""

    def __init__(self, way):
        self.way = way

    def forward(self, x, train=False):
        def pullback(dy):
            raise RuntimeError("broken back")

        if self.way == "forward":
            raise RuntimeError("broken forward")
        return x, dn.Pullback("Broken", pullback, x)


class Notes:
    """Notes each layer that runs, and each that the error comes back to."""

    def __init__(self):
        self.visits, self.back = [], []

    def around(self, visit, run, x):
        self.visits.append(visit)
        y, way = run(x)

        def back(dy):
            self.back.append(visit.name)
            return way(dy)

        return y, back

    @property
    def names(self):
        return [visit.name for visit in self.visits]


def network():
    """Layers joined with a ReLU, a shared layer, a shared container, one that runs its layer twice."""
    shared = dn.Conv2D(4, 3, padding="same")
    block = dn.Sequential([dn.Conv2D(4, 1), dn.ReLU()])
    layers = [dn.Conv2D(4, 3), dn.ReLU(), dn.Residual(dn.Sequential([shared, dn.Tanh(), shared])), block, block]
    return dn.Sequential([*layers, Twice(dn.Conv2D(4, 1)), dn.Flatten(), dn.Dense(3)]).init((6, 6, 2), seed=1)


def data(rng):
    return dn.asarray(rng.standard_normal((2, 6, 6, 2)), "float32"), dn.asarray(rng.standard_normal((2, 3)), "float32")


def run(net, x, dy):
    """Bits of y, dx and all gradients."""
    y, pullback = net.forward(x, train=True)
    dx, gradients = pullback(dy)
    return {name: dn.to_numpy(a).tobytes() for name, a in {"y": y, "dx": dx, **gradients}.items()}


def contents(net):
    """The attributes of every layer, and what they refer to."""
    return [(name, id(layer), {k: id(v) for k, v in vars(layer).items()}) for name, layer in net.walk()]


# -- who runs, and where -----------------------------------------------------------------------------------------------


def test_every_layer_is_met_at_its_place(rng):
    net, notes = network(), Notes()
    with Watch(net, notes.around, apart=True):
        run(net, *data(rng))
    places = ["", "0", "1", "2", "2.layer", "2.layer.0", "2.layer.1", "2.layer.2", "3", "3.0", "3.1", "4", "4.0", "4.1"]
    assert notes.names == [*places, "5", "5.inner", "5.inner", "6", "7"]
    assert [(v.name, v.first) for v in notes.visits if v.name != v.first] == [
        ("2.layer.2", "2.layer.0"), ("4", "3"), ("4.0", "3.0"), ("4.1", "3.1"),
    ]  # fmt: skip
    layers = dict(net.walk())
    assert all(visit.layer is layers[visit.name] and visit.train for visit in notes.visits)
    assert [visit.depth for visit in notes.visits[:7]] == [0, 1, 1, 1, 2, 3, 3]
    assert [child.label for child in notes.visits[4].children] == [
        "2.layer.0 Conv2D",
        "2.layer.1 Tanh",
        "2.layer.2 Conv2D",
    ]
    inward = [name for name in reversed(notes.names) if name.count(".") < 1 and name]
    assert [name for name in notes.back if name.count(".") < 1 and name] == inward and notes.back[0] == ""


def test_chosen_layers_alone_are_watched(rng):
    net, notes = network(), Notes()
    with Watch(net, notes.around, at=["2.layer.0", "7"]):
        run(net, *data(rng))
    assert notes.names == ["2.layer.0", "2.layer.2", "7"]  # a shared layer at all its places
    assert notes.back == ["7", "2.layer.2", "2.layer.0"]
    with pytest.raises(KeyError, match="nowhere"):
        Watch(net, notes.around, at=["0", "nowhere"])
    assert not any("forward" in vars(layer) for _, layer in net.walk())


def test_a_layer_that_its_container_does_not_list_goes_by_its_first_place(rng):
    class Borrows(dn.Layer):
        def forward(self, x, train=False):
            return net[0].forward(x, train)

    net = dn.Sequential([dn.Tanh(), Borrows()]).init((3,))
    notes = Notes()
    with Watch(net, notes.around):
        net.forward(dn.asarray(np.ones((1, 3), "float32")))
    assert notes.names == ["", "0", "1", "0"]


def test_what_a_container_asks_of_a_layer_is_told_and_passed_on(rng):
    net, notes = network(), Notes()
    x, dy = data(rng)
    with Watch(net, notes.around):
        _, pullback = forward_of(net, x, True, False)
        assert pullback(dy)[0] is None
    told = {visit.name: visit.options for visit in notes.visits if visit.options}
    joined = {"0": {"need_dx": False, "relu": True}, "3.0": {"relu": True}, "4.0": {"relu": True}}
    assert told == {"": {"need_dx": False}, **joined} and "1" not in notes.names  # the ReLU runs with the convolution


# -- what it may change ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", [None, ["0", "2.layer.0", "7"]])
def test_watching_changes_no_bit(backend, rng, at):
    net, (x, dy) = network(), data(rng)
    expected = run(net, x, dy)
    with Watch(net, Notes().around, at=at):
        assert run(net, x, dy) == expected
    assert run(net, x, dy) == expected


def test_around_may_put_other_numbers_in_place(rng):
    net, (x, dy) = network(), data(rng)

    def doubled(visit, run, x):
        y, way = run(x)
        return 2 * y, lambda dy: (0 * way(dy)[0], {})

    y, _ = net.forward(x, train=True)
    with Watch(net, doubled, at=["7"]):
        twice, pullback = net.forward(x, train=True)
        dx, gradients = pullback(dy)
    np.testing.assert_array_equal(dn.to_numpy(twice), 2 * dn.to_numpy(y))
    assert not dn.to_numpy(dx).any() and "7.w" not in gradients and "0.w" in gradients


def test_the_pullback_itself_is_handed_on_where_it_is_not_watched(rng):
    net, ways = network(), []

    def around(visit, run, x):
        y, way = run(x)
        ways.append(way)
        return y, way

    with Watch(net, around, at=["7"]):
        _, pullback = net.forward(data(rng)[0], train=True)
    assert pullback.children["7"] is ways[0]
    with Watch(net, Notes().around):
        _, watched = net.forward(data(rng)[0], train=True)
    assert watched.nbytes == pullback.nbytes > 0
    watched.free()
    assert watched.nbytes == 0


def test_a_layer_that_returns_no_pullback_is_named():
    class Forgetful(dn.Layer):
        def forward(self, x, train=False):
            return x

    net = dn.Residual(Forgetful()).init((3,))
    with (
        Watch(net, Notes().around),
        pytest.raises(TypeError, match="Forgetful: forward returned .* expected y and its"),
    ):
        net.forward(dn.asarray(np.ones((1, 3), "float32")))


# -- nothing of it is left ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("apart", [False, True])
def test_every_layer_is_put_back_as_it_was(rng, apart):
    net, (x, dy) = network(), data(rng)
    net[3].together = False
    own = net[7].forward
    net[7].forward = lambda x, train=False, **options: own(x, train, **options)  # one that the user put there
    before = contents(net)
    with Watch(net, Notes().around, apart=apart):
        assert contents(net) != before
        run(net, x, dy)
    assert contents(net) == before
    watch = Watch(net, Notes().around, apart=apart)
    watch.end()
    watch.end()
    assert contents(net) == before


@pytest.mark.parametrize("way", ["forward", "back"])
def test_nothing_is_left_behind_by_an_error(rng, way):
    net = dn.Sequential([dn.Flatten(), dn.Dense(3), Broken(way)]).init((6, 6, 2))
    before, notes = contents(net), Notes()
    with pytest.raises(RuntimeError, match=f"broken {way}"):
        with Watch(net, notes.around):
            run(net, *data(rng))
    assert contents(net) == before
    with Watch(net, notes.around):
        for _ in range(2):  # the second pass is told right, although the first one broke off
            notes.visits.clear()
            with pytest.raises(RuntimeError, match=f"broken {way}"):
                run(net, *data(rng))
            assert [(visit.name, visit.depth) for visit in notes.visits] == [("", 0), ("0", 1), ("1", 1), ("2", 1)]


def test_a_copy_shares_parameters_and_nothing_else(rng):
    net = dn.Sequential([dn.Flatten(), dn.Dense(3), dn.BatchNorm(), dn.Dropout(0.5)]).init((6, 6, 2))
    before = contents(net)
    copied = sharing_copy(net)
    assert copied[1].w is net[1].w and copied[1] is not net[1] and copied[2].gamma is net[2].gamma
    mean, step = net[2].moving_mean, net[3].step
    copied.forward(data(rng)[0], train=True)
    assert copied[3].step != step == net[3].step and copied[2].moving_mean is not mean is net[2].moving_mean
    assert contents(net) == before


def classes():
    """How many classes there are. One that was made for a call, and that a cache knows, would stay."""
    gc.collect()
    return sum(isinstance(each, type) for each in gc.get_objects())


def test_explaining_and_tracing_leave_no_classes_behind(rng):
    net = dn.Sequential([dn.Dense(3), dn.ReLU(), dn.Softmax()]).init((4,))
    x, t = rng.standard_normal((2, 4)).astype("float32"), np.array([0, 1])

    def each():
        for target in ("0.dw[0,0]", "1.y[0,0]", "2.dx[0,0]"):
            repr(dn.explain(net, x, target, t=t))
        net.trace(x, t)

    each()
    before = classes()
    for _ in range(10):
        each()
    assert classes() == before


def test_three_hundred_explanations_leave_memory_flat(rng):
    layer, x = dn.ReLU().init((4,)), rng.standard_normal((2, 4)).astype("float32")

    def objects():
        gc.collect()
        return len(gc.get_objects())

    def explain(times):
        for _ in range(times):
            assert dn.explain(layer, x, "dx[0,0]").ok

    explain(10)
    before = objects()
    explain(300)
    assert objects() - before < 100  # fewer than one object for three explanations


# -- seconds -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def clock(monkeypatch):
    """A clock that a test sets: ``clock(2)`` lets two seconds pass."""
    seconds = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: seconds[0])

    def passes(more):
        seconds[0] += more
        return more

    return passes


def test_seconds_leave_out_those_of_timed_work_inside(clock):
    stopwatch, inside = Stopwatch(lambda: None), []

    def outer():
        clock(1)
        for seconds in (2, 4):
            inside.append(stopwatch.time(clock, seconds))
        return clock(8)

    assert stopwatch.time(outer) == (8, 9.0) and inside == [(2, 2.0), (4, 4.0)]


def test_a_device_is_waited_for_and_its_work_counts(clock):
    busy = [3.0]  # what is still to be done when the work is begun

    def wait():
        clock(busy[0])
        busy[0] = 0.0

    def launch(seconds):
        busy[0] += seconds

    assert Stopwatch(wait).time(launch, 5.0) == (None, 5.0)


def test_an_error_leaves_the_stopwatch_in_order(clock):
    stopwatch = Stopwatch(lambda: None)

    def fails():
        clock(2)
        raise ValueError("no")

    def outer():
        with pytest.raises(ValueError, match="no"):
            stopwatch.time(fails)
        return stopwatch.time(clock, 4)

    assert stopwatch.time(outer) == ((4, 4.0), 2.0)


# -- the probe ---------------------------------------------------------------------------------------------------------


def test_a_probe_holds_what_each_layer_gave_and_what_came_back(backend, rng):
    net, (x, dy) = network(), data(rng)
    probe = Probe(net)
    y, pullback = probe.run(x, train=True)
    assert all(visit.dy is None for visit in probe.visits)
    dx, gradients = pullback(dy)
    visits = {visit.name: visit for visit in probe.visits}
    assert visits[""].y is y and visits[""].dy is dy and visits["7"].dy is dy
    expected, way = dict(net.walk())["7"].forward(visits["6"].y, train=True)
    np.testing.assert_array_equal(dn.to_numpy(visits["7"].y), dn.to_numpy(expected))
    np.testing.assert_array_equal(dn.to_numpy(visits["6"].dy), dn.to_numpy(way(dy)[0]))
    assert sorted(visit.order for visit in probe.visits) == list(range(len(probe.visits)))
    assert visits[""].order == len(probe.visits) - 1 and visits["2.layer.0"].order < visits["2.layer"].order
    assert all(visit.forward_seconds >= 0 and visit.backward_seconds >= 0 for visit in probe.visits)
    before = len(probe.visits)
    probe.run(x, train=False)
    assert len(probe.visits) == before and not any(visit.train for visit in probe.visits)  # those of the last pass


def test_a_relu_that_runs_with_its_convolution_has_numbers_of_its_own(rng):
    net = dn.Sequential([dn.Conv2D(3, 3), dn.ReLU()]).init((6, 6, 2))
    probe = Probe(net)
    probe.run(data(rng)[0], train=True)
    assert [type(visit.layer).__name__ for visit in probe.visits] == ["Sequential", "Conv2D", "ReLU"]
    assert dn.to_numpy(probe.visits[1].y).min() < 0 <= dn.to_numpy(probe.visits[2].y).min()
