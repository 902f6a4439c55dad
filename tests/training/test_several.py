"""Training networks with several inputs and outputs: dictionaries of arrays, of targets and of losses."""

from __future__ import annotations

import fake_cupy
import numpy as np
import pytest

import dualnet as dn
from dualnet.training import several
from dualnet.training.several import LossOfSeveral, TallyOfSeveral, loss_of, targets_of, terms

LOSS = {"kind": "softmax_cross_entropy", "size": (0.5, "mean_squared_error")}
SHAPES = {"image": (6, 6, 1), "meta": (3,)}


def made(seed=0, dtype=None):
    net = dn.Graph(["image", "meta"])
    net.add("features", dn.Sequential([dn.Conv2D(4, 3), dn.ReLU(), dn.GlobalAveragePool2D()]), "image")
    net.add("joined", dn.Concatenate(), ["features", "meta"])
    net.add("hidden", dn.Sequential([dn.Dense(16), dn.ReLU()]), "joined")
    return (
        net.add("kind", dn.Dense(2), "hidden").add("size", dn.Dense(1), "hidden").init(SHAPES, seed=seed, dtype=dtype)
    )


@pytest.fixture
def data(rng):
    x = {name: rng.standard_normal((96, *shape)).astype("float32") for name, shape in SHAPES.items()}
    kind = (6 * x["image"].mean(axis=(1, 2, 3)) + x["meta"][:, 0] > 0).astype(int)
    return x, {"kind": kind, "size": 2 * x["meta"][:, 1:2] + 1}


def weights(net):
    return np.concatenate([dn.to_numpy(p.value).ravel() for p in net.parameters().values()])


def part(data, some):
    return tuple({name: a[some] for name, a in side.items()} for side in data)


def test_it_learns_and_tells_each_output_apart(backend, data):
    net = made()
    before = net.evaluate(*data, loss=LOSS)
    history = net.fit(*data, loss=LOSS, epochs=10, optimizer=dn.Adam(lr=0.01), verbose=0, validation_data=data)
    after = net.evaluate(*data)  # by the loss that it was trained with
    assert set(after) == {"loss", "kind_loss", "kind_accuracy", "size_loss"}
    assert after["loss"] == pytest.approx(after["kind_loss"] + 0.5 * after["size_loss"], rel=1e-12)
    assert after["loss"] < 0.5 * before["loss"] and after["kind_accuracy"] > 0.75
    assert history["val_loss"][-1] == pytest.approx(after["loss"], rel=1e-6)
    y = net.predict(data[0], batch_size=40)
    assert {name: a.shape for name, a in y.items()} == {"kind": (96, 2), "size": (96, 1)}
    assert after["kind_accuracy"] == (y["kind"].argmax(axis=1) == data[1]["kind"]).mean()


def test_a_step_is_the_sum_of_two(backend, data):
    """The gradient of the weighted sum is the weighted sum of the gradients of either loss alone."""
    net = made(dtype="float64")
    x, t = (
        {name: dn.asarray(a, "float64" if a.dtype.kind == "f" else None) for name, a in side.items()} for side in data
    )
    y, pullback = net.forward(x, train=True)
    _, dloss = LossOfSeveral(LOSS)(y, t)
    _, together = pullback(dloss())
    nothing = {name: 0.0 * a for name, a in y.items()}
    _, kind = pullback({**nothing, "kind": dn.losses.softmax_cross_entropy(y["kind"], t["kind"])[1]()})
    _, size = pullback({**nothing, "size": dn.losses.mean_squared_error(y["size"], t["size"])[1]()})
    for name, gradient in together.items():
        apart = dn.to_numpy(kind[name]) + 0.5 * dn.to_numpy(size[name])
        assert np.allclose(dn.to_numpy(gradient), apart, rtol=1e-12, atol=1e-13)


def test_one_loss_alone_trains_as_without_the_other(data):
    """With the weight 0 the other output changes nothing but its own layer, to the last bit."""
    x, t = data
    both, alone = made(), made()
    both.fit(x, t, loss={"kind": "softmax_cross_entropy", "size": (0.0, "huber")}, optimizer="sgd", epochs=2, verbose=0)
    one = dn.Graph(
        alone.inputs, [[name, node.layer, node.inputs] for name, node in alone.nodes.items() if name != "size"]
    )
    one.init(SHAPES, keep=True).fit(x, t["kind"], optimizer="sgd", epochs=2, verbose=0)
    assert np.array_equal(dn.to_numpy(both.nodes["kind"].layer.w.value), dn.to_numpy(one.nodes["kind"].layer.w.value))


@pytest.mark.parametrize(
    "options", [{"capture": True}, {"check_finite": True}, {"accumulate": 1}, {"batch_size": 24}], ids=str
)
def test_other_ways_to_train_give_the_same_bits(data, options):
    plain, other = made(), made()
    common = {"loss": LOSS, "epochs": 2, "verbose": 0, "batch_size": options.get("batch_size", 32)}
    plain.fit(*data, **common)
    other.fit(*data, **{**common, **options})
    assert np.array_equal(weights(plain), weights(other))


@pytest.mark.parametrize("options", [{}, {"accumulate": 2}, {"batch_size": 40}], ids=str)
def test_a_captured_step_on_a_pretend_gpu(monkeypatch, data, options):
    """Recorded, and repeated without Python: the same figures and the same bits."""
    with fake_cupy.in_force(monkeypatch) as gpu:
        found = []
        for capture in (False, True):
            net = made()
            common = {"loss": LOSS, "epochs": 4, "batch_size": 16, "verbose": 0}
            history = net.fit(*data, **{**common, **options}, validation_data=data, capture=capture)
            history.pop("seconds")
            found.append((dict(history), weights(net).tobytes()))
        assert found[0] == found[1] and gpu.now.graphs.launched > 3


def test_captured_batches_are_put_together_again(backend, data):
    """The step gets dictionaries, whatever a captured step is called with."""
    seen = []
    step = several.captured(lambda x, t: seen.append((list(x), t is data[1]["kind"])), data[0], data[1]["kind"])
    step({name: dn.asarray(a) for name, a in data[0].items()}, data[1]["kind"])
    assert seen[0][0] == ["image", "meta"]


def test_small_batches_make_one_step(data):
    large, small = made(dtype="float64"), made(dtype="float64")
    large.fit(*data, loss=LOSS, batch_size=32, epochs=1, optimizer="sgd", verbose=0, shuffle=False)
    small.fit(*data, loss=LOSS, batch_size=16, accumulate=2, epochs=1, optimizer="sgd", verbose=0, shuffle=False)
    assert np.allclose(weights(large), weights(small), rtol=1e-10, atol=1e-12)


def test_sixteen_bits(data):
    net = made(dtype="float16")
    before = net.evaluate(*data, loss=LOSS)["loss"]
    net.fit(*data, loss=LOSS, epochs=3, verbose=0)
    assert net.evaluate(*data)["loss"] < before


def test_a_step_that_fails_changes_nothing(data, monkeypatch):
    net = made()
    before = weights(net)
    monkeypatch.setattr(dn.Adam, "step", lambda *given, **options: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        net.fit(*data, loss=LOSS, verbose=0)
    assert np.array_equal(weights(net), before)


def test_files_keep_the_losses_and_their_weights(data, tmp_path):
    net = made()
    net.fit(*data, loss=LOSS, verbose=0)
    same = dn.load(net.save(tmp_path / "net.npz"))
    assert same.evaluate(*data) == net.evaluate(*data)
    net.fit(*data, loss={**LOSS, "kind": lambda y, t: dn.losses.softmax_cross_entropy(y, t)}, verbose=0)
    with pytest.raises(ValueError, match="a loss of your own, which is not in its file"):
        dn.load(net.save(tmp_path / "own.npz")).evaluate(*data)


def test_a_graph_with_one_output_takes_both_forms(data):
    x, t = data
    net = dn.Graph(["image", "meta"]).add("flat", dn.Flatten(), "image").add("all", dn.Concatenate(), ["flat", "meta"])
    net.add("kind", dn.Dense(2), "all")
    named = {"kind": t["kind"]}
    net.fit(x, named, loss={"kind": "softmax_cross_entropy"}, validation_data=(x, named), epochs=2, verbose=0)
    assert net.evaluate(x, named) == net.evaluate(x, t["kind"])
    assert net.predict(x).shape == (96, 2)


def test_nan_is_found_by_its_name(data):
    x, t = data
    x = {**x, "meta": x["meta"].copy()}
    x["meta"][3, 0] = np.nan
    with pytest.warns(UserWarning, match=r"x\['meta'\] holds NaN"), pytest.raises(FloatingPointError, match="'meta'"):
        made().fit(x, t, loss=LOSS, verbose=0, check_finite=True)


@pytest.mark.parametrize(
    "change, error, words",
    [
        (lambda x, t: (x, t, None), ValueError, r"loss must be a dictionary {'kind': loss, 'size': loss}; got none"),
        (lambda x, t: (x, t, "huber"), ValueError, "got 'huber'"),
        (lambda x, t: (x, t, {"kind": "huber"}), ValueError, "loss must be a dictionary"),
        (lambda x, t: (x, t, {**LOSS, "size": ("heavy", "huber")}), (ValueError, TypeError), "weight of 'size'"),
        (lambda x, t: (x, t, {**LOSS, "size": "hubert"}), ValueError, "unknown loss 'hubert'"),
        (lambda x, t: (x, t["kind"], LOSS), ValueError, "t must be a dictionary of 'kind', 'size'.*got one array"),
        (lambda x, t: (x, {"kind": t["kind"]}, LOSS), ValueError, "got one of 'kind'"),
        (lambda x, t: (x, {**t, "kind": t["kind"] + 5}, LOSS), ValueError, "output 'kind': label . is out of range"),
        (lambda x, t: (x, {**t, "size": t["size"][:9]}, LOSS), ValueError, r"t\['size'\] 9"),
        (lambda x, t: (x, {**t, "size": t["size"][:, 0]}, LOSS), ValueError, "output 'size': the loss does not take"),
        (lambda x, t: ({"image": x["image"]}, t, LOSS), TypeError, "x must be a dictionary of arrays, 'image', 'meta'"),
        (lambda x, t: ({**x, "meta": x["meta"][:, :2]}, t, LOSS), ValueError, "Graph input 'meta': x has shape"),
        (lambda x, t: ({**x, "meta": x["meta"][:, 0]}, t, LOSS), ValueError, r"x\['meta'\] has shape \(96,\)"),
        (lambda x, t: ({name: a[:0] for name, a in x.items()}, t, LOSS), ValueError, "at least one"),
    ],
)
def test_what_does_not_fit_is_named(data, change, error, words):
    x, t, loss = change(*data)
    net = made()
    before = weights(net)
    with pytest.raises(error, match=words):
        net.fit(x, t, loss=loss, verbose=0)
    assert np.array_equal(weights(net), before)


def test_what_only_one_array_can_do(data):
    x, t = data
    with pytest.raises(ValueError, match="augment"):
        made().fit(x, t, loss=LOSS, augment=dn.data.Augment(), verbose=0)
    with pytest.raises(ValueError, match="metrics are for networks with one output"):
        made().fit(x, t, loss=LOSS, metrics=["top5"], verbose=0)
    trained = made()
    trained.fit(x, t, loss=LOSS, verbose=0)
    for call in (made().trace, lambda x, t: dn.explain(trained, x, t), lambda x, t: dn.parity(made(), x, t)):
        with pytest.raises(ValueError, match="several inputs or outputs"):
            call(x, t)


def test_the_pieces_by_themselves(backend):
    loss = LossOfSeveral({"a": "huber", "b": (2.0, "huber")})
    y, t = ({name: dn.asarray([[v], [v]]) for name in "ab"} for v in (0.5, 0.0))
    value, pullback = loss(y, t)
    assert dn.to_numpy(value).item() == pytest.approx(3 * 0.125)
    assert {name: dn.to_numpy(d).ravel().tolist() for name, d in pullback(2.0).items()} == {
        "a": [0.5, 0.5],
        "b": [1.0, 1.0],
    }
    tally, again = TallyOfSeveral(loss), TallyOfSeveral(loss)
    tally.add(y, t)
    again.load_state_dict(tally.state_dict())
    assert again.figures() == tally.figures() == {"loss": 0.375, "a_loss": 0.125, "b_loss": 0.125}
    assert tally.glance() == {"loss": 0.375}
    tally.begin()
    assert tally.figures()["loss"] == 0.0
    assert [who for who, *_ in terms("fit", y, t, loss)] == ["fit: output 'a'", "fit: output 'b'"]
    assert loss_of(dn.Dense(2), None, "fit") is dn.losses.softmax_cross_entropy
    with pytest.raises(ValueError, match="one output: loss must be a name or a function; got {'a': 'huber'}"):
        loss_of(dn.Dense(2), {"a": "huber"}, "fit")
    assert targets_of(dn.Dense(2), {"a": 1}) == {"a": 1}
