"""Layers of a chain that run in one pass: in which order, with the same results, and only if they say so."""

from __future__ import annotations

import contextlib
import gc
import inspect
import weakref

import numpy as np
import pytest
from oracles import error, tau
from small_nets import batch, conv

import dualnet as dn
from dualnet.backend import calls
from dualnet.layers import containers
from dualnet.layers.joining import inferring, passes, takes_other
from dualnet.layers.watching import Watch

RECTIFIED = {  # what Sequential runs in one pass, or the other way round
    "convolution, ReLU": lambda: [conv(3), dn.ReLU(), conv(2)],
    "convolution, ReLU, pooling": lambda: [conv(3), dn.ReLU(), dn.MaxPool2D(2), conv(2), dn.ReLU(), dn.MaxPool2D(2)],
    "overlapping, padded windows": lambda: [conv(3), dn.ReLU(), dn.MaxPool2D(3, stride=1, padding=1, dilation=1)],
    "batch norm, ReLU": lambda: [conv(3), dn.BatchNorm(), dn.ReLU(), dn.MaxPool2D(2)],
    "pooling, ReLU": lambda: [conv(3), dn.MaxPool2D(2), dn.ReLU(), dn.MaxPool2D(2, stride=1), dn.ReLU()],
    "dense, ReLU": lambda: [dn.Flatten(), dn.Dense(9), dn.ReLU(), dn.Dense(4, use_bias=False), dn.ReLU(), dn.ReLU()],
    "detour, ReLU": lambda: [dn.Residual(conv(2)), dn.ReLU(), dn.Residual(conv(3), conv(3, 1)), dn.ReLU(), dn.ReLU()],
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", RECTIFIED)
def test_neighbours_together_and_each_by_itself(backend, rng, monkeypatch, name, dtype):
    net = dn.Sequential(RECTIFIED[name]()).init((6, 4, 2), seed=2, dtype=dtype)
    x = batch(rng, 6, 4, 2)
    found = {}
    for together in (True, False):
        net.together = together
        twin = net.copy()  # batch norm moves its statistics
        y, pullback = twin.forward(x, train=True)
        dx, grads = pullback(y)
        assert list(pullback.children) == [str(place) for place in range(len(net))]
        found[together] = [y, dx, *grads.values(), twin(x), *twin.state_dict().values()]
    for one, other in zip(*found.values(), strict=True):
        assert np.array_equal(dn.to_numpy(one), dn.to_numpy(other)) or error(one, other) <= tau(dtype, 100)
    if dtype == "float64" and "pooling" not in name:
        dn.check.gradient(net)


def test_a_relu_changes_places_with_the_pooling_behind_it(backend):
    net = dn.Sequential([conv(3), dn.ReLU(), dn.MaxPool2D(2), dn.ReLU()]).init((6, 4, 2))
    x = np.full((1, 6, 4, 2), np.nan, "f4")
    x[:, :3] = 1
    x = dn.asarray(x)
    y, pullback = net.forward(x, train=True)
    assert pullback.children["1"].shape == (1, 3, 2, 3) and pullback.children["2"].op == "MaxPool2D"
    net.together = False
    whole, y = dn.to_numpy(net.forward(x)[0]), dn.to_numpy(y)
    assert np.array_equal(whole, y, equal_nan=True) and np.isnan(y).any(), "NaN is passed on"
    assert net.forward(x)[1].children["1"].shape == (1, 6, 4, 3)


def normed(*filters):
    return dn.Sequential([layer for f in filters for layer in (conv(f), dn.BatchNorm())])


MEETINGS = {
    "a block, and ReLU": lambda: [dn.Residual(normed(3, 2)), dn.ReLU(), conv(2)],
    "blocks in a row": lambda: [normed(2), dn.Residual(normed(2)), dn.ReLU(), dn.Residual(normed(2)), dn.ReLU()],
    "without ReLU": lambda: [normed(2), dn.Residual(normed(2)), dn.Residual(normed(2)), dn.BatchNorm(), conv(1)],
    "a shortcut that normalises": lambda: [dn.Residual(normed(2, 3), normed(3)), dn.ReLU(), dn.Residual(normed(3))],
    "a block in a block": lambda: [dn.Residual(dn.Sequential([dn.Residual(normed(2)), normed(2)])), dn.ReLU()],
    "chains in chains": lambda: [dn.Sequential([dn.Residual(dn.Sequential([normed(2)]))]), dn.ReLU(), conv(2)],
    "batch norm alone": lambda: [conv(2), dn.Residual(dn.BatchNorm(center=False)), dn.ReLU()],
    "frozen": lambda: [normed(2), dn.Residual(normed(2).freeze()), dn.ReLU(), conv(2)],
}


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
@pytest.mark.parametrize("name", MEETINGS)
def test_batch_norm_adds_the_other_branch_and_two_deltas_with_the_same_bits(backend, rng, monkeypatch, name, dtype):
    net = dn.Sequential(MEETINGS[name]()).init((6, 4, 2), seed=2, dtype=dtype)
    x, dy, found = batch(rng, 6, 4, 2).astype(net.dtype), None, []
    for apart in (False, True):
        twin = net.copy()  # batch norm moves its statistics
        if apart:
            monkeypatch.setattr(containers, "takes_other", lambda layer: False)
        before = calls.copy()
        y, pullback = twin.forward(x, train=True)
        dy = dn.asarray(rng.standard_normal(y.shape)).astype(y.dtype) if dy is None else dy
        dx, grads = pullback(dy)
        joined = {which for which, _ in calls - before} & {"batch_normalise_add", "normalise_add"}
        assert bool(joined) != apart and tuple(dx.shape) == tuple(x.shape)
        found.append([dn.to_numpy(a).tobytes() for a in (y, dx, *grads.values(), *twin.state_dict().values())])
    assert found[0] == found[1]
    if dtype == "float64" and "frozen" not in name:
        dn.check.gradient(net)


def test_who_can_add_another_branch(backend):
    class Mine(dn.BatchNorm):
        def forward(self, x, train=False, relu=False):
            return super().forward(x, train, relu)

    net = dn.Sequential([dn.Residual(normed(2)), dn.Residual(dn.Sequential([conv(2), Mine()])), dn.ReLU()])
    net.init((6, 4, 2), dtype="float64")
    assert [takes_other(net[place].layer) for place in (0, 1)] == [True, False]
    assert not takes_other(dn.Sequential([])) and not takes_other(dn.Sequential([dn.BatchNorm(), dn.ReLU()]))
    dn.check.gradient(net)
    with Watch(net, lambda visit, run, x: run(x)):
        assert not takes_other(net[0].layer), "a watched layer shows what it makes itself"
    with pytest.raises(TypeError, match="relu needs other="):
        net.forward(dn.asarray(np.ones((2, 6, 4, 2))), relu=True)


ALONE = [(0, None), (1, None), (2, None)]
CASES = {
    "convolution, ReLU, pooling": (
        lambda: [conv(3), dn.ReLU(), dn.MaxPool2D(2)],
        [(0, 1), (2, None)],
        [(0, None), (2, 1)],
    ),
    "batch norm, ReLU, pooling": (lambda: [dn.BatchNorm(), dn.ReLU(), dn.MaxPool2D(2)], [(0, 1), (2, None)], None),
    "detour, ReLU, pooling": (lambda: [dn.Residual(conv(2)), dn.ReLU(), dn.MaxPool2D(2)], [(0, 1), (2, None)], None),
    "pooling, ReLU, ReLU": (lambda: [dn.MaxPool2D(2), dn.ReLU(), dn.ReLU()], [(0, 1), (2, None)], None),
    "dense, ReLU, dense": (lambda: [dn.Dense(3), dn.ReLU(), dn.Dense(3)], [(0, 1), (2, None)], None),
    "convolution, ReLU, mean": (lambda: [conv(3), dn.ReLU(), dn.AveragePool2D(2)], [(0, 1), (2, None)], None),
    "ReLU first, ReLU last": (lambda: [dn.ReLU(), conv(3), dn.ReLU()], [(0, None), (1, 2)], None),
    "another activation": (lambda: [conv(3), dn.Tanh(), dn.MaxPool2D(2)], ALONE, None),
    "in groups of one": (lambda: [dn.DepthwiseConv2D(3), dn.ReLU(), dn.MaxPool2D(2)], ALONE, None),
    "transposed": (lambda: [dn.Conv2DTranspose(3, 2), dn.ReLU(), dn.MaxPool2D(2)], ALONE, None),
    "chain": (lambda: [dn.Sequential([conv(3)]), dn.ReLU(), dn.MaxPool2D(2)], ALONE, None),
    "nothing": (lambda: [], [], None),
}


@pytest.mark.parametrize("name", CASES)
def test_who_runs_with_whom(name):
    make, inferring, training = CASES[name]
    assert list(passes(make(), way_back=False)) == inferring
    assert list(passes(make(), way_back=True)) == (inferring if training is None else training)


@pytest.mark.parametrize("place", range(6))
@pytest.mark.parametrize("watch", [False, True], ids=["", "watched"])
def test_a_layer_with_a_forward_of_its_own_runs_by_it(backend, rng, place, watch):
    """net[1].forward = guided: the layer before the ReLU did its work, and the new forward was never called."""
    layers = [conv(3), dn.ReLU(), dn.MaxPool2D(2), dn.BatchNorm(), dn.ReLU(), dn.Residual(dn.BatchNorm())]
    net, x = dn.Sequential(layers).init((6, 4, 2), dtype="float64"), batch(rng, 6, 4, 2)
    usual, called = type(net[place]).forward, []

    def forward(x, train=False):
        called.append(train)
        y, pullback = usual(net[place], x, train)
        return 2 * y, dn.Pullback("twice", lambda dy: pullback(2 * dy), y)

    expected = x
    for layer in net:
        expected = layer.forward(expected)[0] * (2 if layer is net[place] else 1)
    net[place].forward = forward
    with Watch(net, lambda visit, run, x: run(x)) if watch else contextlib.nullcontext():
        for y in (net.forward(x)[0], net(x)):
            assert error(dn.to_numpy(y), dn.to_numpy(expected)) <= tau("float64", 100)
        net.forward(x, train=True, need_dx=False)
    assert called == [False, False, True]


def test_files_do_not_hold_a_forward_that_was_set_on_a_layer(tmp_path):
    """They held what the class computes, and nobody said so."""
    net = dn.Sequential([dn.Conv2D(3, 3), dn.ReLU(), dn.Flatten(), dn.Dense(2)]).init((6, 4, 2))
    net[1].forward = lambda x, train=False: dn.ops.relu(2 * x)
    told = r"these layers have a forward that was set on the layer itself: 1 \(ReLU\)"
    for write in (net.to_c, net.to_numpy, net.to_onnx):
        with pytest.raises(ValueError, match=f"{write.__name__}: {told}"):
            write(tmp_path / f"net{ {'to_c': '.h', 'to_numpy': '.py', 'to_onnx': '.onnx'}[write.__name__] }")
    with pytest.warns(UserWarning, match=f"save: {told}"):
        path = net.save(tmp_path / "net.npz")
    assert type(dn.load(path)[1]) is dn.ReLU
    del net[1].forward
    with Watch(net, lambda visit, run, x: run(x)):
        net.save(path)


def test_a_convolution_takes_batch_norm_along_in_inference(backend, rng):
    net = dn.Sequential([conv(3), dn.BatchNorm(), dn.ReLU(), conv(2), dn.BatchNorm(), dn.MaxPool2D(2), dn.BatchNorm()])
    x, places = batch(rng, 6, 4, 2), lambda: list(inferring(net.layers, passes(net.layers, way_back=False)))
    assert places() == [(place, place, place == 1) for place in (0, 1, 3, 4, 5, 6)], (
        "not before its parameters are there"
    )
    net.init((6, 4, 2), dtype="float64")
    assert places() == [(0, 1, True), (3, 4, False), (5, 5, False), (6, 6, False)]
    before = calls.copy()
    y = dn.to_numpy(net(x))
    assert sum(n for (which, _), n in (calls - before).items() if which == "correlate_normalise") == 2
    net.together = False
    assert error(y, dn.to_numpy(net(x))) <= tau("float64", 20)
    net.together = True
    with Watch(net, lambda visit, run, x: run(x)):
        assert all(first == last for first, last, _ in inferring(net.layers, passes(net.layers, False)))

    class Mine(dn.BatchNorm):
        def forward(self, x, train=False):
            return super().forward(x, train)

    other = dn.Sequential([conv(2), Mine(), dn.Sequential([conv(1), dn.ReLU(), dn.BatchNorm()])]).init((6, 4, 2))
    assert list(inferring(other.layers, passes(other.layers, False))) == [(n, n, False) for n in range(3)]


@pytest.mark.parametrize("name", MEETINGS)
def test_inference_adds_the_other_branch_in_the_pass_of_batch_norm(backend, rng, monkeypatch, name):
    net = dn.Sequential(MEETINGS[name]()).init((6, 4, 2), seed=2)
    net.forward(dn.asarray(rng.standard_normal((5, 6, 4, 2), dtype="f4")), train=True)  # moves the statistics
    x = dn.asarray(rng.standard_normal((5, 6, 4, 2), dtype="f4"))
    y = dn.to_numpy(net(x))
    assert error(y, dn.to_numpy(net.forward(x)[0])) <= tau("float32", 200)
    monkeypatch.setattr(containers, "takes_other", lambda layer: False)
    monkeypatch.setattr(containers, "inferring", lambda layers, places: ((p, p, r is not None) for p, r in places))
    assert error(y, dn.to_numpy(net(x))) <= tau("float32", 200)


PROMISES = ("takes_relu", "takes_other", "is_relu", "leaves_relu", "commutes_with_relu", "takes_norm", "is_norm")


def classes(kind):
    """A class and all below it that are ours."""
    below = [one for child in kind.__subclasses__() for one in classes(child)]
    return [kind, *below] if kind.__module__.startswith("dualnet.layers") else below


def test_what_the_layers_promise():
    said = {word: {kind.__name__ for kind in classes(dn.Layer) if vars(kind).get(word)} for word in PROMISES}
    assert said == {
        "takes_relu": {"BatchNorm", "Conv2D", "Dense", "MaxPool2D", "Residual"},
        "takes_other": {"BatchNorm"},
        "is_relu": {"ReLU"},
        "leaves_relu": {"Conv2D"},
        "commutes_with_relu": {"MaxPool2D"},
        "takes_norm": {"Conv2D"},
        "is_norm": {"BatchNorm"},
    }
    for kind in classes(dn.Layer):
        if vars(kind).get("takes_relu"):
            assert all("relu" in inspect.signature(method).parameters for method in (kind.forward, kind.infer)), kind
        for word, option in (("takes_other", "other"), ("takes_norm", "norm")):
            assert not vars(kind).get(word) or option in inspect.signature(kind.infer).parameters, kind
        assert vars(kind).get("takes_relu") or not vars(kind).get("commutes_with_relu"), kind


class Halved(dn.Conv2D):
    """A subclass whose forward knows no relu."""

    def forward(self, x, train=False, need_dx=True):
        y, way = super().forward(0.5 * x, train, need_dx)
        return y, dn.Pullback("halved", lambda dy: (lambda dx, grads: (0.5 * dx, grads))(*way(dy)), y)

    def infer(self, x):
        return super().infer(0.5 * x)


class Slanted(dn.ReLU):
    """A subclass of ReLU that is none."""

    def forward(self, x, train=False):
        y, way = dn.ops.leaky_relu(x, alpha=0.5)
        return y, dn.Pullback("slanted", lambda dy: (way(dy), {}), y)

    def infer(self, x):
        return dn.ops.leaky_relu(x, alpha=0.5)[0]


class Clipping(dn.Layer):
    """A user's layer that takes a ReLU along."""

    takes_relu = True
    seen = ()

    def infer(self, x, relu=False):
        self.seen = (*self.seen, relu)
        return dn.ops.relu(-x)[0] if relu else -x

    def forward(self, x, train=False, relu=False):
        y, way = dn.ops.relu(-x) if relu else (-x, lambda dy: dy)
        self.seen = (*self.seen, relu)
        return y, dn.Pullback("clipping", lambda dy: (-way(dy), {}), y)


def test_a_subclass_speaks_for_itself(backend, rng):
    x = batch(rng, 6, 4, 2)
    for layers in ([Halved(3, 3), dn.ReLU()], [conv(3), Slanted()], [Halved(3, 3), dn.ReLU(), dn.MaxPool2D(2)]):
        assert list(passes(layers, True)) == list(passes(layers, False)) == ALONE[: len(layers)]
        net = dn.Sequential(layers).init((6, 4, 2), dtype="float64")
        y, pullback = net.forward(x, train=True)
        assert np.array_equal(dn.to_numpy(net(x)), dn.to_numpy(y)) and pullback(y)[0].shape == x.shape
    assert (dn.to_numpy(dn.Sequential([conv(3), Slanted()]).init((6, 4, 2), dtype="float64")(x)) < 0).any()


def test_a_users_layer_takes_a_relu_along(backend, rng):
    net, x = dn.Sequential([Clipping(), dn.ReLU()]).init((3,), dtype="float64"), batch(rng, 3)
    y, pullback = net.forward(x, train=True)
    dx, _ = pullback(y)
    values = dn.to_numpy(x)
    assert np.array_equal(dn.to_numpy(y), np.maximum(-values, 0)) and np.array_equal(
        dn.to_numpy(net(x)), dn.to_numpy(y)
    )
    assert np.array_equal(dn.to_numpy(dx), np.minimum(values, 0)) and net[0].seen == (True, True)
    net.together = False
    assert np.array_equal(dn.to_numpy(net(x)), dn.to_numpy(y)) and net[0].seen[2:] == (False,)


def test_a_class_made_by_a_user_goes_when_it_is_no_longer_used():
    def use():
        class Mine(dn.Conv2D):
            takes_relu = True

        list(passes([Mine(3, 3), dn.ReLU()], way_back=True))
        return weakref.ref(Mine)

    gone = use()
    gc.collect()
    assert gone() is None


def test_a_subclass_with_another_forward_need_not_know_need_dx(backend, rng):
    """It stands first in the network, where dx is left out."""

    class Plain(dn.Conv2D):
        def forward(self, x, train=False):
            return super().forward(x, train)

    net = dn.Sequential([Plain(2, 3), dn.Flatten(), dn.Dense(3)])
    x, t = rng.random((4, 5, 5, 1)), rng.integers(0, 3, 4)
    assert len(net.fit(x, t, verbose=0)["loss"]) == 1


KINDS = {
    dn.Conv2D: lambda: (2, 3),
    dn.Dense: lambda: (2,),
    dn.MaxPool2D: lambda: (2,),
    dn.BatchNorm: lambda: (),
    dn.ReLU: lambda: (),
    dn.Flatten: lambda: (),
    dn.Sequential: lambda: ([conv(2), dn.BatchNorm()],),
    dn.Residual: lambda: (conv(2),),
    dn.Parallel: lambda: ([conv(2), conv(2)],),
}
PLACED = {
    "alone": lambda layer: layer,
    "in a chain": lambda layer: dn.Sequential([layer]),
    "in branches": lambda layer: dn.Parallel([layer]),
    "in a graph": lambda layer: dn.Graph("x").add("layer", layer, "x"),
}


def sevens(kind, how):
    """A layer of this kind whose forward returns 7: its class's own, that of a class beside, or its very own."""

    def forward(self, x, train=False):
        y, way = kind.forward(self, x, train)
        return y * 0 + 7, way

    if how == "its own":
        layer = kind(*KINDS[kind]())
        layer.forward = forward.__get__(layer)
        return layer
    if how == "its class's":
        return type("Mine", (kind,), {"forward": forward, "__init__": kind.__init__})(*KINDS[kind]())
    beside = type("Beside", (), {"forward": forward})
    return type("Mine", (beside, kind), {"__init__": kind.__init__})(*KINDS[kind]())


@pytest.mark.parametrize("how", ["its class's", "a class's beside", "its own"])
@pytest.mark.parametrize("place", PLACED)
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_inference_computes_with_another_forward(rng, kind, place, how):
    net = PLACED[place](sevens(kind, how)).init((6, 4, 2), dtype="float64")
    y = dn.to_numpy(net(batch(rng, 6, 4, 2)))
    assert y.size and (y == 7).all()


def test_an_infer_that_is_defined_is_used(backend, rng):
    class Both(dn.Conv2D):
        def forward(self, x, train=False):
            raise AssertionError

        def infer(self, x):
            return 0 * x + 3

    class Below(Both):
        """Has both from the class above."""

    net, x = dn.Sequential([Below(2, 3), dn.ReLU()]).init((6, 4, 2), dtype="float64"), batch(rng, 6, 4, 2)
    assert (dn.to_numpy(net(x)) == 3).all()
    net = dn.Sequential([dn.Conv2D(2, 3), dn.BatchNorm(), dn.ReLU(), dn.MaxPool2D(2)]).init((6, 4, 2), dtype="float64")
    for place, value in ((0, -3), (1, -4), (2, -5), (3, -6)):  # each alone, though they would run together
        net[place].infer = lambda x, value=value: 0 * x + value
        if place == 0:
            net[1].moving_mean = net[1].moving_mean - 9
            assert np.allclose(dn.to_numpy(net(x)), 6, atol=0.01)
        else:
            assert (dn.to_numpy(net(x)) == {1: 0, 2: -5, 3: -6}[place]).all()
    net = dn.Residual(dn.Sequential([dn.Conv2D(2, 1), dn.BatchNorm()])).init((6, 4, 2), dtype="float64")
    net.layer[1].infer = lambda x: 0 * x
    assert np.array_equal(dn.to_numpy(net(x)), dn.to_numpy(x))


class Adding(dn.Layer):
    """A user's layer that adds another branch, and clips; it has no ``infer``."""

    takes_relu = takes_other = True

    def forward(self, x, train=False, relu=False, other=None):
        y = -x if other is None else other - x
        y = dn.ops.relu(y)[0] if relu else y
        return y, dn.Pullback("adding", lambda dy: (-dy, {}) if other is None else ([-dy, dy], {}), y)


@pytest.mark.parametrize("inner", [lambda: Adding(), lambda: dn.Sequential([dn.ReLU(), Adding()])])
def test_a_forward_that_takes_options_is_enough(backend, rng, inner):
    x = batch(rng, 3)
    net = dn.Sequential([dn.Residual(inner()), dn.ReLU()]).init((3,), dtype="float64")
    assert takes_other(net[0].layer)
    assert np.array_equal(dn.to_numpy(net(x)), dn.to_numpy(net.forward(x)[0]))
    net = dn.Sequential([Adding(), dn.ReLU()]).init((3,), dtype="float64")
    assert np.array_equal(dn.to_numpy(net(x)), np.maximum(-dn.to_numpy(x), 0))


def test_the_layer_that_does_not_fit_is_blamed():
    def error_of(net, **options):
        with pytest.raises((TypeError, ValueError)) as error:
            net.infer(x, **options)
        return str(error.value)

    with dn.use_backend("numpy"):
        net = dn.Sequential([dn.Conv2D(4, 3), dn.BatchNorm(), dn.ReLU()]).init((6, 4, 2))
        pair = dn.Sequential([dn.Conv2D(4, 3), dn.BatchNorm()]).init((6, 4, 2))
        x = dn.asarray(np.ones((3, 6, 4, 2), "f4"))
    whole = net.copy()
    whole[1].to("strict")
    assert error_of(whole).startswith("layer 1 (BatchNorm): ")
    for name, change in {
        "moving_variance": lambda norm: norm.moving_variance[:1],
        "moving_mean": lambda norm: norm.moving_mean.astype("f8"),
    }.items():
        broken = net.copy()
        setattr(broken[1], name, change(broken[1]))
        assert error_of(broken).startswith("layer 1 (BatchNorm): "), name
    for other in (np.ones((1, 1, 1, 4), "f4"), np.ones((3, 4, 2, 4)), np.ones((3, 6, 4, 4), "f4")):
        assert error_of(pair, other=other).startswith("layer 1 (BatchNorm): ")
    with pytest.raises(ValueError, match=r"^layer 0 \(Conv2D\): "):
        pair.infer(x[:, :2])
