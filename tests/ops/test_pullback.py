"""The object that every op returns: what it shows, what it frees, and its errors."""

from __future__ import annotations

import numpy as np
import pytest

import dualnet as dn
from dualnet.ops.pullback import LossPullback, Pullback, TwoDeltas, added_up


def test_saved_shows_what_is_kept(backend):
    x, w = dn.asarray(np.ones((1, 4, 4, 2))), dn.asarray(np.ones((3, 3, 2, 5)))
    y, pullback = dn.ops.conv2d(x, w)
    assert pullback.saved["x"] is x and pullback.saved["w"] is w
    assert pullback.nbytes == x.nbytes + w.nbytes
    assert "conv2d" in repr(pullback) and str(pullback.nbytes) in repr(pullback)


def test_an_array_kept_twice_counts_once(backend):
    x = dn.asarray(np.ones((2, 3)))
    assert Pullback("op", lambda dy: dy, x, a=x, b=x, c=None).nbytes == x.nbytes


def test_forward_twice_before_backward(backend):
    """Nothing is cached on the op: each pullback belongs to its own forward pass."""
    w = dn.asarray(np.ones((1, 1, 1, 1)))
    a, b = dn.asarray(np.full((1, 2, 2, 1), 2.0)), dn.asarray(np.full((1, 2, 2, 1), 3.0))
    (_, way_a), (_, way_b) = dn.ops.conv2d(a, w), dn.ops.conv2d(b, w)
    one = dn.asarray(np.ones((1, 2, 2, 1)))
    assert float(dn.to_numpy(way_a(one)[1]).item()) == 8.0 and float(dn.to_numpy(way_b(one)[1]).item()) == 12.0


def test_free_reaches_the_layers_inside(backend):
    net = dn.Sequential([dn.Conv2D(2, 3), dn.Residual(dn.Conv2D(2, 1))]).init((5, 5, 1))
    x = dn.asarray(np.ones((1, 5, 5, 1), "float32"))
    y, pullback = net.forward(x, train=True)
    inner = pullback.children["1"].children["layer"]
    assert {"0.x", "0.w", "1.layer.x", "1.layer.w"} <= pullback.saved.keys()
    pullback.free()
    assert pullback.nbytes == 0 and not pullback.saved and "freed" in repr(inner)
    for way in (pullback, inner):
        with pytest.raises(RuntimeError, match="its memory was freed"):
            way(y)


def test_a_loss_starts_from_one(backend):
    loss = dn.asarray(np.asarray(3.0))
    pullback = LossPullback("loss", lambda dloss: dloss * loss, loss)
    assert float(dn.to_numpy(pullback())) == 3.0
    assert float(dn.to_numpy(pullback(2))) == 6.0
    with pytest.raises(ValueError, match="a loss is one number"):
        pullback(dn.asarray(np.ones(3)))


@pytest.mark.parametrize("shape", [(1, 3), (2, 1), (2, 4), (3,), (2, 3, 1)])
def test_a_dy_that_would_only_be_broadcast_is_refused(backend, shape):
    _, pullback = dn.ops.relu(dn.asarray(np.ones((2, 3))))
    with pytest.raises(ValueError, match=r"dy has shape \(.*\); expected \(2, 3\), the shape of the output"):
        pullback(dn.asarray(np.ones(shape)))


def test_free_keeps_no_array(backend):
    _, pullback = dn.ops.conv2d(dn.asarray(np.ones((1, 4, 4, 2))), dn.asarray(np.ones((3, 3, 2, 5))))
    pullback.free()
    assert pullback.saved == {} and pullback.nbytes == 0


def test_two_deltas_are_added_up_unless_both_are_wanted(backend):
    one, two = (dn.asarray(np.full((2, 3), v)) for v in (1.0, 2.0))
    given = []

    def back(dy):
        given.append(dy)
        return TwoDeltas(one, two), {}

    way = Pullback("op", back, one)
    assert type(way.onward(TwoDeltas(one, two))[0]) is TwoDeltas and float(dn.to_numpy(given[0])[0, 0]) == 3.0
    dx, _ = way.taking_two()(one)
    assert type(dx) is not TwoDeltas and float(dn.to_numpy(dx)[0, 0]) == 3.0 and given[1] is one
    way.onward(TwoDeltas(two, one))
    assert type(given[2]) is TwoDeltas and given[2].first is two and added_up(one) is one
    with pytest.raises(ValueError, match=r"dy has shape \(2, 1\); expected \(2, 3\)"):
        way.onward(TwoDeltas(one, dn.asarray(np.ones((2, 1)))))


def test_outside_containers_a_delta_is_one_array(backend, rng):
    """A layer of one's own that converts the result of a block gets dx as an array."""
    block = dn.Residual(dn.Sequential([dn.Dense(3), dn.BatchNorm()])).init((3,), dtype="float64")
    y, way = block.forward(dn.asarray(rng.random((4, 3))), train=True)
    assert type(way.onward(y)[0]) is TwoDeltas, "or this test shows nothing"
    dx, _ = way.then("Doubled", lambda r: (2 * r[0], r[1]))(y)
    assert dx.shape == (4, 3) and np.array_equal(dn.to_numpy(dx), 2 * dn.to_numpy(way(y)[0]))


class Doubled(Pullback):
    def __call__(self, dy):
        return super().__call__(2 * dy)


class Doubling(dn.Layer):
    def forward(self, x, train=False):
        return x, Doubled("Doubling", lambda dy: (dy, {}), x)


def test_containers_call_the_pullback_of_a_subclass(backend):
    x = dn.asarray(np.ones((2, 3)))
    net = dn.Sequential([Doubling(), dn.Residual(dn.BatchNorm())]).init((3,), dtype="float64")
    y, way = net.forward(x, train=True)
    after = dn.to_numpy(way.children["1"](y)[0])
    assert np.array_equal(dn.to_numpy(way(y)[0]), 2 * after) and after.any()


def test_a_pullback_may_return_nothing(backend):
    x = dn.asarray(np.ones((2, 3)))
    assert Pullback("op", lambda dy: (), x)(x) == ()


class Looking(dn.layers.Layer):
    """Changes nothing; on the way back it looks at a pullback that has run before it, and at one that has not."""

    def forward(self, x, train=False):
        def pullback(dy):
            Looking.seen.append((Looking.whole.children["2"].nbytes, Looking.whole.children["0"].nbytes > 0))
            return dy, {}

        return x, Pullback("Looking", pullback, x)

    def infer(self, x):
        return x


class Twice(dn.Sequential):
    """A container of a user's own, which goes back through its layers twice."""

    def forward(self, x, train=False, need_dx=True):
        y, way = super().forward(x, train, need_dx)

        def pullback(dy):
            first, second = way(dy), way(dy)
            return first[0] + second[0], second[1]

        return y, Pullback("Twice", pullback, y, children={"inner": way})


def looked_at(run, *layers):
    """What ``Looking`` sees between the first and the last layer."""
    net = dn.Sequential([layers[0], Looking(), *layers[1:]]).init((5, 5, 1), seed=0)
    x = dn.asarray(np.ones((1, 5, 5, 1), "float32"))
    Looking.seen = []
    y, Looking.whole = net.forward(x, train=True)
    whole, results = Looking.whole, run(Looking.whole, y)
    return whole, results, Looking.seen


def test_a_spent_pullback_frees_each_layer_once_it_is_passed(backend):
    layers = dn.Conv2D(2, 3), dn.Conv2D(2, 1), dn.Residual(dn.Conv2D(2, 1))
    way, (dx, gradients), [(kept, waiting)] = looked_at(lambda way, y: way(y), *layers)
    assert kept > 0 and waiting and way.nbytes > 0
    spent, (same, others), [(left, waits)] = looked_at(lambda way, y: way.spend(y), *layers)
    assert left == 0 and waits and spent.nbytes == 0
    assert dn.to_numpy(dx).tobytes() == dn.to_numpy(same).tobytes()
    for name, g in gradients.items():
        assert dn.to_numpy(g).tobytes() == dn.to_numpy(others[name]).tobytes()
    with pytest.raises(RuntimeError, match="its memory was freed; run the forward pass again"):
        spent(dn.asarray(np.ones(spent.shape, "float32")))


def test_a_container_of_yours_may_go_back_twice(backend):
    inner = Twice([dn.Conv2D(2, 1), dn.ReLU()])
    _, (dx, gradients), _ = looked_at(lambda way, y: way.spend(y), dn.Conv2D(2, 3), inner)
    assert dx.shape == (1, 5, 5, 1) and "2.0.w" in gradients


def test_a_spent_pullback_that_fails_is_freed(backend):
    def fails(dy):
        raise ValueError("no")

    x = dn.asarray(np.ones((2, 3)))
    way = Pullback("op", fails, x, x=x)
    with pytest.raises(ValueError, match="no"):
        way.spend(x)
    assert way.nbytes == 0


def test_training_frees_each_layer_once_it_is_passed(backend):
    class Noting(dn.Sequential):
        def forward(self, x, train=False, need_dx=True):
            y, Looking.whole = super().forward(x, train, need_dx)
            return y, Looking.whole

    Looking.seen = []
    net = Noting([dn.Conv2D(2, 3), Looking(), dn.Conv2D(2, 3), dn.Flatten(), dn.Dense(2)]).init((5, 5, 1), seed=0)
    net.fit(np.ones((2, 5, 5, 1), "float32"), np.array([0, 1]), epochs=1, verbose=0)
    assert Looking.seen == [(0, True)]
