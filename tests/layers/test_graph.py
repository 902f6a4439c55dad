"""Networks with named nodes: branches that part and meet, several inputs and outputs, and incomplete graphs."""

from __future__ import annotations

import numpy as np
import pytest
from small_nets import batch, conv

import dualnet as dn

SHAPES = {"image": (5, 4, 2), "meta": (3,)}


def diamond():
    """One input, one output; "a" goes three ways, and one of them past "b"."""
    net = dn.Graph("x").add("a", conv(3), "x").add("b", dn.Tanh(), "a")
    net.add("product", dn.Multiply(), ["a", "b"]).add("sum", dn.Add(), ["product", "a"])
    return net.add("end", dn.Conv2D(2, 1), "sum")


def two_of_each():
    net = dn.Graph(["image", "meta"]).add("features", conv(3), "image")
    net.add("pool", dn.GlobalAveragePool2D(), "features").add("joined", dn.Concatenate(), ["pool", "meta"])
    return net.add("kind", dn.Dense(2), "joined").add("mask", dn.Conv2D(1, 1), "features")


def drawn(rng):
    return {name: dn.asarray(rng.standard_normal((2, *shape))) for name, shape in SHAPES.items()}


@pytest.mark.parametrize("make, shape", [(diamond, (5, 4, 2)), (two_of_each, SHAPES)])
def test_gradients(backend, make, shape):
    net = make().init(shape, seed=1, dtype="float64")
    report = dn.check.gradient(net)
    inputs = {"x"} if make is diamond else {"x['image']", "x['meta']"}
    assert {row.argument for row in report.rows} == inputs | set(net.parameters())


def test_a_graph_says_the_same_as_containers(backend, rng):
    """The same layers as a Sequential with branches, to the last bit, forward and back."""
    net = diamond().init((5, 4, 2), dtype="float64")
    a, b, end = (net.nodes[name].layer for name in ("a", "b", "end"))
    both = dn.Parallel([dn.Parallel([dn.Identity(), b], merge="multiply"), dn.Identity()])
    same = dn.Sequential([a, both, end]).init((5, 4, 2), dtype="float64", keep=True)
    x = batch(rng, 5, 4, 2)
    (y, way), (z, other) = net.forward(x, train=True), same.forward(x, train=True)
    (dx, grads), (dz, parts) = way(y), other(z)
    assert np.array_equal(dn.to_numpy(y), dn.to_numpy(z)) and np.array_equal(dn.to_numpy(net(x)), dn.to_numpy(y))
    assert np.allclose(dn.to_numpy(dx), dn.to_numpy(dz), rtol=1e-13, atol=1e-14)
    for ours, theirs in zip(grads.values(), parts.values(), strict=True):
        assert np.allclose(dn.to_numpy(ours), dn.to_numpy(theirs), rtol=1e-13, atol=1e-14)


def test_deltas_of_a_node_add_up(backend):
    """y = x + x·x behind an identity: dy/dx = 1 + 2x."""
    net = dn.Graph("x").add("same", dn.Identity(), "x").add("square", dn.Multiply(), ["same", "same"])
    net.add("sum", dn.Add(), ["same", "square"]).init((1,), dtype="float64")
    y, pullback = net.forward(dn.asarray([[3.0]], "float64"))
    assert dn.to_numpy(y).tolist() == [[12.0]]
    assert dn.to_numpy(pullback(dn.asarray([[1.0]], "float64"))[0]).tolist() == [[7.0]]


def test_an_output_in_the_middle_gets_its_delta_too(backend):
    net = dn.Graph("x", outputs=["a", "b"]).add("a", dn.Identity(), "x").add("b", dn.Multiply(), ["a", "a"])
    net.init((1,), dtype="float64")
    y, pullback = net.forward(dn.asarray([[3.0]], "float64"))
    one = dn.asarray([[1.0]], "float64")
    assert {name: dn.to_numpy(v).tolist() for name, v in y.items()} == {"a": [[3.0]], "b": [[9.0]]}
    assert dn.to_numpy(pullback({"a": one, "b": one})[0]).tolist() == [[7.0]]  # 1 + 2·3
    assert list(net(dn.asarray([[3.0]], "float64"))) == ["a", "b"]


def test_it_is_a_layer_inside_others(backend, rng, tmp_path):
    net = dn.Sequential([dn.Residual(diamond()), dn.Flatten(), dn.Dense(2)]).init((5, 4, 2), dtype="float64")
    dn.check.gradient(net)
    x = batch(rng, 5, 4, 2)
    assert "0.layer.a.w" in net.parameters()
    assert np.array_equal(dn.to_numpy(dn.load(net.save(tmp_path / "net.npz"))(x)), dn.to_numpy(net(x)))
    assert [name for name, _ in net.walk()][:4] == ["", "0", "0.layer", "0.layer.a"]
    assert np.array_equal(dn.to_numpy(net.copy()(x)), dn.to_numpy(net(x)))


def test_files_keep_nodes_in_their_order_and_what_is_shared(backend, rng, tmp_path):
    shared = dn.Dense(3)
    net = dn.Graph(["p", "q"], outputs=["z", "last"]).add("z", shared, "p").add("y", shared, "q")
    net.add("last", dn.Maximum(), ["y", "z", "y"]).init({"q": (2,), "p": (2,)})
    assert list(net.parameters()) == ["z.w", "z.b"]
    same = dn.load(net.save(tmp_path / "net.npz"))
    assert list(same.nodes) == ["z", "y", "last"] and same.nodes["y"].layer is same.nodes["z"].layer
    assert same.input_shape == {"p": (2,), "q": (2,)} and same.ends() == ["z", "last"]
    x = {name: dn.asarray(rng.standard_normal((2, 2)).astype("float32")) for name in "pq"}
    for name, y in net(x).items():
        assert np.array_equal(dn.to_numpy(y), dn.to_numpy(same(x)[name]))


def test_need_dx(backend, rng):
    net = two_of_each().init(SHAPES, dtype="float64")
    x = drawn(rng)
    y, pullback = net.forward(x, train=True, need_dx=False)
    dx, grads = pullback(y)
    full = net.forward(x, train=True)[1](y)[1]
    assert dx is None and list(grads) == list(net.parameters())
    assert all(np.array_equal(dn.to_numpy(grads[name]), dn.to_numpy(full[name])) for name in full)


def test_a_failing_node_moves_no_statistics(backend, rng):
    fails = dn.Lambda(lambda x: x[:, :1], lambda dy, x, y: dy)
    norm = dn.BatchNorm()
    net = dn.Graph("x").add("norm", norm, "x").add("odd", fails, "norm").init((3,), dtype="float64")
    net.add("sum", dn.Add(), ["norm", "odd"])
    before = dn.to_numpy(norm.moving_mean).copy()
    with pytest.raises(ValueError, match="layer sum .Add.: Add: the branches have shapes"):
        net.forward(dn.asarray(rng.standard_normal((4, 3))), train=True)
    assert np.array_equal(dn.to_numpy(norm.moving_mean), before)


def test_inputs_and_deltas_are_checked(backend, rng):
    net = two_of_each().init(SHAPES, dtype="float64")
    x = drawn(rng)
    for wrong in (x["image"], {"image": x["image"]}, {**x, "other": x["meta"]}):
        with pytest.raises(TypeError, match="x must be a dictionary of arrays, 'image', 'meta'; got"):
            net(wrong)
    with pytest.raises(ValueError, match="Graph input 'meta': x has shape"):
        net({**x, "meta": x["image"]})
    with pytest.raises(ValueError, match="different numbers of examples: {'image': 2, 'meta': 1}"):
        net({**x, "meta": x["meta"][:1]})
    y, pullback = net.forward(x)
    for wrong in (y["kind"], {"kind": y["kind"]}):
        with pytest.raises(TypeError, match="dy must be a dictionary of 'kind', 'mask'; got"):
            pullback(wrong)
    with pytest.raises(ValueError, match="Graph output 'mask' pullback: dy has shape"):
        pullback({**y, "mask": y["kind"]})
    pullback.free()
    with pytest.raises(RuntimeError, match="its memory was freed"):
        pullback(y)


def test_one_input_may_come_by_its_name(backend, rng):
    net = diamond().init({"x": (5, 4, 2)}, dtype="float64")
    x = batch(rng, 5, 4, 2)
    assert net.input_shape == (5, 4, 2)
    assert np.array_equal(dn.to_numpy(net({"x": x})), dn.to_numpy(net(x)))


@pytest.mark.parametrize(
    "make, error, words",
    [
        (
            lambda: dn.Graph("x").add("a", dn.ReLU(), "b"),
            ValueError,
            "node 'a' takes 'b', but so far there are only 'x'.*no cycles",
        ),
        (lambda: dn.Graph("x").add("a", dn.ReLU(), "a"), ValueError, "node 'a' takes 'a'"),
        (lambda: dn.Graph("x").add("a", dn.ReLU(), "x").add("a", dn.ReLU(), "x"), ValueError, "already a node 'a'"),
        (lambda: dn.Graph("x").add("x", dn.ReLU(), "x"), ValueError, "already an input 'x'"),
        (lambda: dn.Graph("x").add("a.b", dn.ReLU(), "x"), ValueError, "cannot contain a dot"),
        (lambda: dn.Graph("x").add("a", dn.ReLU, "x"), TypeError, "is not a layer; write ReLU"),
        (lambda: dn.Graph("x").add("a", dn.ReLU(), []), TypeError, "node 'a': inputs is .."),
        (lambda: dn.Graph(["x", "x"]), ValueError, "each name can appear only once"),
        (lambda: dn.Graph([]), TypeError, "expected a name, or a list of names"),
        (lambda: dn.Graph("x", [("a", dn.ReLU())]), TypeError, "expected nodes .name, layer, inputs."),
        (lambda: dn.Graph("x").init((2,)), ValueError, "it has no nodes yet"),
        (
            lambda: dn.Graph(["x", "y"]).add("a", dn.ReLU(), "x").init({"x": (2,), "y": (2,)}),
            ValueError,
            "no node takes the input 'y'",
        ),
        (
            lambda: dn.Graph("x", outputs="b").add("a", dn.ReLU(), "x").init((2,)),
            ValueError,
            "outputs names 'b', but the nodes are 'a'",
        ),
        (
            lambda: dn.Graph("x", outputs="a").add("a", dn.ReLU(), "x").add("b", dn.ReLU(), "a").init((2,)),
            ValueError,
            "node 'b' leads to no output",
        ),
        (
            lambda: two_of_each().init((5, 4, 2)),
            ValueError,
            "input_shape must be a dictionary {'image': shape, 'meta': shape}",
        ),
        (
            lambda: two_of_each().init({"image": (5, 4, 2), "meta": ()}),
            ValueError,
            "Graph input 'meta': input_shape must be a shape without the batch",
        ),
        (
            lambda: dn.Graph("x").add("a", conv(3), "x").add("sum", dn.Add(), ["a", "x"]).init((4, 4, 2)),
            ValueError,
            "layer sum .Add.: Add: the branches have shapes .4, 4, 3., .4, 4, 2.",
        ),
    ],
)
def test_graphs_that_are_not_whole(make, error, words):
    with pytest.raises(error, match=words):
        make()


def test_a_node_that_comes_late_is_drawn_alone(rng):
    net = dn.Graph("x").add("a", dn.Dense(3), "x").init((2,))
    kept = dn.to_numpy(net.nodes["a"].layer.w.value)
    net.add("b", dn.Dense(1), "a").init((2,), keep=True)
    assert np.array_equal(dn.to_numpy(net.nodes["a"].layer.w.value), kept) and net.output_shape((2,)) == (1,)


def test_inference_drops_what_nobody_needs_any_more(rng):
    """Between two nodes of a chain at most two maps live."""
    import tracemalloc

    net = dn.Graph("x").add("n0", dn.Lambda(lambda x: x + 1, lambda dy, x, y: dy), "x")
    for place in range(1, 12):
        net.add(f"n{place}", dn.Lambda(lambda x: x + 1, lambda dy, x, y: dy), f"n{place - 1}")
    x = net.init((64, 64, 8)).enter(dn.asarray(np.zeros((4, 64, 64, 8), "float32"), backend="numpy"))
    net.infer(x)
    tracemalloc.start()
    net.infer(x)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3.5 * x.nbytes


@pytest.mark.parametrize("first", ["a", "b"])
def test_an_input_that_several_nodes_take_trains(first):
    """The first layer of ``fit`` makes no dx; another node that takes the same input does."""
    net = dn.Graph("x")
    if first == "b":
        net.add("b", dn.Conv2D(1, 1), "x")
    net.add("a", dn.Conv2D(2, 1), "x")
    if first == "a":
        net.add("b", dn.Conv2D(1, 1), "x")
    net.add("joined", dn.Concatenate(), ["x", "a", "b"])
    net.add("y", dn.Sequential([dn.Flatten(), dn.Dense(2)]), "joined")
    rng = np.random.default_rng(0)
    x, t = rng.random((8, 3, 3, 1), "float32"), np.arange(8) % 2
    history = net.fit(x, t, epochs=2, verbose=0)
    assert len(history["loss"]) == 2 and dn.check.gradient(net)
