"""Weights: the loss is the weighted mean, ignored examples count nowhere, and no metric is weighted."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from bars import bars, small

import dualnet as dn
from dualnet.training.weighting import Weighting, sample_weights

X, T = bars(24)
W = np.linspace(0.5, 2.0, 24)


def fit(x=X, t=T, net=None, **options):
    net = small() if net is None else net
    options = {"epochs": 2, "batch_size": 8, "optimizer": dn.SGD(lr=0.05), "verbose": 0} | options
    history = net.fit(x, t, **options)
    return np.concatenate([dn.to_numpy(p.value).ravel() for p in net.parameters().values()]), history


def gradient(net, x, t, **options):
    """The gradient that one step of fit makes, from the parameters before and after it."""
    before = {name: np.array(dn.to_numpy(p.value)) for name, p in net.parameters().items()}
    options |= {"batch_size": len(x), "optimizer": dn.SGD(lr=1.0), "verbose": 0, "shuffle": False}
    net.fit(x, t, **options)
    return {name: before[name] - dn.to_numpy(p.value) for name, p in net.parameters().items()}


def plain(dtype="float64", classes=3, shape=(6, 6, 1)):
    return dn.Sequential([dn.Conv2D(4, 3), dn.ReLU(), dn.Flatten(), dn.Dense(classes)]).init(shape, dtype=dtype)


def each(net, x, t):
    """The loss and the gradients of each example, by batches of one."""
    found = []
    for i in range(len(x)):
        y, pullback = net.forward(dn.asarray(x[i : i + 1], net.dtype), train=True)
        loss, dloss = dn.losses.softmax_cross_entropy(y, dn.asarray(t[i : i + 1]))
        grads = {name: dn.to_numpy(g) for name, g in pullback(dloss())[1].items()}
        found.append((dn.to_numpy(loss).item(), grads))
    return found


@pytest.mark.parametrize("classes", [None, {2: 5.0}, [1.0, 0.25, 5.0]])
@pytest.mark.parametrize("samples", [False, True])
def test_a_step_has_the_gradient_of_the_weighted_mean(backend, rng, classes, samples):
    t = rng.integers(0, 3, 24)
    weights = W if samples else np.ones(24)
    table = np.array([1.0, 1.0, 5.0] if isinstance(classes, dict) else classes or [1.0, 1.0, 1.0])
    w = weights * table[t]
    net = plain()
    known = each(net, X, t)
    loss = sum(w[i] * known[i][0] for i in range(24)) / w.sum()
    options = {"class_weight": classes, "sample_weight": W if samples else None}
    assert net.evaluate(X, t, batch_size=7, **options)["loss"] == pytest.approx(loss, rel=1e-12)
    found = gradient(net, X, t, **options)
    for name, g in found.items():
        expected = sum(w[i] * known[i][1][name] for i in range(24)) / w.sum()
        np.testing.assert_allclose(g, expected, rtol=1e-9, atol=1e-12)
    assert net.history["loss"][0] == pytest.approx(loss, rel=1e-12)


def test_weights_of_one_are_no_weights(backend):
    plain_weights, history = fit()
    for options in ({"sample_weight": np.ones(24)}, {"class_weight": {}}, {"class_weight": [3.0, 3.0]}):
        weights, weighted = fit(**options)
        np.testing.assert_allclose(weights, plain_weights, rtol=1e-4, atol=1e-6)
        assert weighted["loss"] == pytest.approx(history["loss"], rel=1e-5)
        assert weighted["accuracy"] == history["accuracy"]


def test_ignored_answers_count_nowhere(backend, rng):
    """As if they were not there: in the loss, the gradient, the accuracy, and the number that each mean is over."""
    t = rng.integers(0, 3, 24)
    ignored = t.copy()
    ignored[::3] = -1
    keep = ignored >= 0
    net, other = plain(), plain()
    assert net.evaluate(X, ignored, ignore_label=-1, batch_size=5) == pytest.approx(
        other.evaluate(X[keep], t[keep]), rel=1e-12
    )
    found, expected = gradient(net, X, ignored, ignore_label=-1), gradient(other, X[keep], t[keep])
    for name, g in found.items():
        np.testing.assert_allclose(g, expected[name], rtol=1e-9, atol=1e-12)
    assert net.history["accuracy"] == other.history["accuracy"]


def test_ignored_places_of_maps(backend, rng):
    """Segmentation: each place has a label, and those at the border are ignored."""
    x, t = rng.standard_normal((4, 5, 5, 2)), rng.integers(0, 3, (4, 5, 5)).astype("uint8")
    t[:, 0] = t[:, :, -1] = 255
    net = dn.Sequential([dn.Conv2D(3, 3, padding="same")]).init((5, 5, 2), dtype="float64")
    y = net.predict(x)
    p = np.exp(y - y.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    inside = t != 255
    loss = -np.log(p[inside][np.arange(inside.sum()), t[inside]]).mean()
    scores = net.evaluate(x, t, batch_size=3, ignore_label=255)
    assert scores["loss"] == pytest.approx(loss, rel=1e-12)
    assert scores["accuracy"] == (y.argmax(-1) == t)[inside].mean()
    history = net.fit(x, t, ignore_label=255, class_weight={0: 2.0}, batch_size=2, verbose=0)
    assert np.isfinite(history["loss"]).all()


def test_where_all_is_ignored_nothing_moves(backend):
    net = plain("float32")
    before = {name: dn.to_numpy(p.value).tobytes() for name, p in net.parameters().items()}
    t = np.full(24, -1)
    history = net.fit(X, t, ignore_label=-1, optimizer=dn.SGD(lr=1.0), batch_size=8, verbose=0)
    assert history["loss"] == [0.0] and history["accuracy"] == [0.0]
    assert {name: dn.to_numpy(p.value).tobytes() for name, p in net.parameters().items()} == before


def test_batches_bring_their_weights(backend):
    batches = [(X[i : i + 8], T[i : i + 8], W[i : i + 8]) for i in range(0, 24, 8)]
    one, history = fit(batches, None)
    other, expected = fit(sample_weight=W, shuffle=False)
    assert (one == other).all() and history["loss"] == expected["loss"]
    _, history = fit(validation_data=(X, T, W))
    assert set(history) > {"val_loss"}


def test_validation_data_with_and_without_weights(backend):
    net = small()
    _, history = fit(net=net, sample_weight=W, validation_data=(X, T, W), epochs=1)
    assert history["val_loss"][0] == net.evaluate(X, T, sample_weight=W)["loss"] != net.evaluate(X, T)["loss"]
    _, history = fit(net=net, sample_weight=W, validation_data=(X, T), epochs=1)
    assert history["val_loss"][0] == pytest.approx(net.evaluate(X, T)["loss"], rel=1e-12)
    _, history = fit(net=net, validation_data=(X, T, W), epochs=1)
    assert history["val_loss"][0] == net.evaluate(X, T, sample_weight=W)["loss"]


def test_weights_with_16_bits_and_with_a_loss_scale(backend):
    _, history = fit(net=small(dtype="float16"), sample_weight=W, class_weight={1: 3.0}, ignore_label=-1)
    assert np.isfinite(history["loss"]).all()
    fit(sample_weight=W, check_finite=True)


def test_a_loss_of_ones_own_takes_weights_or_says_so(backend):
    def own(y, t, weights=None):
        return dn.losses.softmax_cross_entropy(y, t, weights)

    one, history = fit(sample_weight=W, loss=own)
    other, expected = fit(sample_weight=W)
    assert (one == other).all() and history["loss"] == pytest.approx(expected["loss"], rel=1e-6)
    with pytest.raises(
        ValueError, match=r"sample_weight needs a loss that takes weights; .* def loss\(y, t, weights=None"
    ):
        fit(sample_weight=W, loss=lambda y, t: dn.losses.softmax_cross_entropy(y, t))
    fit(sample_weight=W, loss=functools.partial(dn.losses.softmax_cross_entropy, label_smoothing=0.1))


MISTAKES = [
    ({"sample_weight": W[:5]}, r"sample_weight has shape \(5,\); expected one number for each example, \(24,\)"),
    ({"sample_weight": -W}, "sample_weight must hold finite numbers of at least 0"),
    ({"sample_weight": W * np.nan}, "sample_weight must hold finite numbers of at least 0"),
    ({"sample_weight": W * 0}, "not all of them 0"),
    ({"class_weight": {2: 1.0}}, "class_weight has class 2, but the network has classes 0 … 1"),
    ({"class_weight": {0: -1.0}}, r"class_weight\[0\] must be a finite number of at least 0"),
    (
        {"class_weight": [1.0]},
        r"class_weight has shape \(1,\); expected {class: weight}, or a weight for each of the 2",
    ),
    ({"class_weight": {"cat": 1.0}}, "a key of class_weight must be an integer, got 'cat'"),
    ({"class_weight": [0.0, 0.0]}, "not all 0"),
    ({"ignore_label": "none"}, "ignore_label must be an integer"),
    ({"ignore_label": -1, "t": np.eye(2)[T]}, "ignore_label needs class numbers, integers with one axis less"),
    ({"class_weight": {}, "t": np.eye(2)[T], "loss": "mean_squared_error"}, "class_weight needs class numbers"),
    ({"t": T - 1}, "label -1 is out of range"),
    ({"validation_data": (X, T, W[:3])}, r"validation_data: sample_weight has shape \(3,\)"),
]


@pytest.mark.parametrize("options, words", MISTAKES, ids=[words[:40] for _, words in MISTAKES])
def test_mistakes_are_told_before_the_first_step(options, words):
    net, begun = small(), []
    callback = dn.Callback()
    callback.on_fit_begin = begun.append
    with pytest.raises((ValueError, TypeError), match=f"^fit.*{words}"):
        net.fit(**{"x": X, "t": T, "callbacks": callback, "verbose": 0} | options)
    assert begun == []


def test_captured_steps_are_weighted_too(backend):
    options = {"sample_weight": W, "class_weight": {1: 2.0}, "ignore_label": -1}
    one, history = fit(capture=True, **options)
    other, expected = fit(**options)
    np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7)
    assert history["accuracy"] == expected["accuracy"]


def test_weights_of_a_batch(backend):
    t, w = dn.asarray(np.array([[0, 1], [-1, 1]])), dn.asarray(np.array([2.0, 3.0]))
    weighting = Weighting(dn.asarray(np.array([1.0, 5.0])), -1)
    assert dn.to_numpy(weighting(t, w)).tolist() == [[2, 10], [0, 15]]
    assert dn.to_numpy(weighting(t)).tolist() == [[1, 5], [0, 5]]
    assert dn.to_numpy(Weighting()(t)).tolist() == [1, 1] and Weighting().kept(t) is None
    assert dn.to_numpy(weighting.cleaned(t)).tolist() == [[0, 1], [0, 1]]
    assert sample_weights("fit", None, 3) is None


def test_the_weighted_mean_of_pytorch(backend, rng):
    torch = pytest.importorskip("torch")
    x, t, w = rng.standard_normal((16, 4)), rng.integers(0, 3, 16), rng.uniform(0.1, 4.0, 3)
    t[::5] = -100
    net = dn.Sequential([dn.Dense(3)]).init((4,), dtype="float64")
    y = torch.tensor(net.predict(x), requires_grad=True)
    loss = torch.nn.functional.cross_entropy(y, torch.tensor(t), weight=torch.tensor(w), ignore_index=-100)
    loss.backward()
    assert net.evaluate(x, t, class_weight=w, ignore_label=-100)["loss"] == pytest.approx(loss.item(), rel=1e-12)
    found = gradient(net, x, t, class_weight=w, ignore_label=-100)
    np.testing.assert_allclose(found["0.w"], x.T @ y.grad.numpy(), rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("given", [{"class_weight": {0: 2.0}}, {"ignore_label": 1}])
@pytest.mark.parametrize("mixing", [dn.data.MixUp(0.2), dn.data.CutMix(1.0)])
def test_mixed_images_have_no_class_of_their_own(given, mixing):
    x, t = np.random.default_rng(0).random((8, 4, 4, 1), "float32"), np.arange(8) % 2
    net = dn.Sequential([dn.Flatten(), dn.Dense(2)])
    with pytest.raises(ValueError, match=f"fit: {next(iter(given))} needs one class for each image, but MixUp"):
        net.fit(x, t, augment=[mixing], verbose=0, **given)
    assert net.input_shape is None, "nothing was initialised"
    net.fit(x, t, augment=[mixing], verbose=0)
    net.fit(x, t, augment=[dn.data.Flip()], verbose=0, **given)
