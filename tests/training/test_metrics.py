"""Metrics over a whole epoch are those over all examples at once, whatever the batches are."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from bars import bars, small

import dualnet as dn
from dualnet.training import metrics as metrics_module
from dualnet.training.metrics import metrics_of

RATIOS = ["precision", "recall", "f1"]


def network(outputs=4):
    return dn.Sequential([dn.Dense(outputs)]).init((5,), dtype="float64")


def drawn(rng, n=101, classes=4):
    return rng.standard_normal((n, 5)), rng.choice(classes, n, p=[0.6, 0.25, 0.15, 0.0])


def ratios(t, answers, classes):
    """Macro means over the classes that occur, by counting."""
    each = []
    for c in classes:
        right, given, true = ((t == c) & (answers == c)).sum(), (answers == c).sum(), (t == c).sum()
        if given or true:
            each.append((right / given if given else 0, right / true if true else 0, 2 * right / (given + true)))
    return dict(zip(RATIOS, np.mean(each, axis=0)))


@pytest.mark.parametrize("size", [7, 101])
def test_ratios_of_classes(backend, rng, size):
    (x, t), net = drawn(rng), network()
    scores = net.evaluate(x, t, batch_size=size, metrics=RATIOS)
    expected = ratios(t, net.predict(x).argmax(1), range(4))
    assert {name: scores[name] for name in RATIOS} == pytest.approx(expected, rel=1e-14)
    assert net.evaluate(x, np.eye(4)[t], batch_size=size, metrics=RATIOS) == pytest.approx(scores)
    assert net.evaluate(x, t, metrics="f1")["f1"] == pytest.approx(expected["f1"])
    net[0].b.value = dn.asarray(np.array([0.0, 0.0, 0.0, -1e3]))  # then class 3 occurs nowhere
    expected = ratios(t, net.predict(x).argmax(1), range(4))
    assert {name: net.evaluate(x, t, metrics=RATIOS)[name] for name in RATIOS} == pytest.approx(expected, rel=1e-14)


def test_ratios_are_those_of_scikit_learn(rng):
    sk = pytest.importorskip("sklearn.metrics")
    (x, t), net = drawn(rng), network()
    scores, answers = net.evaluate(x, t, metrics=RATIOS), net.predict(x).argmax(1)
    for name in RATIOS:
        function = getattr(sk, f"{name}_score")
        assert scores[name] == pytest.approx(function(t, answers, average="macro", zero_division=0), rel=1e-14)


def test_ratios_of_yes_or_no(backend, rng):
    x, net = rng.standard_normal((60, 5)), network(1)
    t = (rng.random((60, 1)) < 0.3).astype("float64")
    scores = net.evaluate(x, t, batch_size=9, loss="binary_cross_entropy", metrics=RATIOS)
    expected = ratios(t, net.predict(x) > 0, [1])
    assert {name: scores[name] for name in RATIOS} == pytest.approx(expected)


def test_ratios_of_maps_with_ignored_places(backend, rng, monkeypatch):
    x, t = rng.standard_normal((6, 4, 4, 2)), rng.integers(-1, 3, (6, 4, 4))
    net = dn.Sequential([dn.Conv2D(3, 1)]).init((4, 4, 2), dtype="float64")
    inside, answers = t >= 0, net.predict(x).argmax(-1)
    for at_once in (2**22, 10):
        monkeypatch.setattr(metrics_module, "AT_ONCE", at_once)
        scores = net.evaluate(x, t, batch_size=4, ignore_label=-1, metrics=[*RATIOS, "top2"])
        assert {name: scores[name] for name in RATIOS} == pytest.approx(ratios(t[inside], answers[inside], range(3)))
    rank = (net.predict(x)[inside] > np.take_along_axis(net.predict(x)[inside], t[inside][:, None], 1)).sum(1)
    assert scores["top2"] == pytest.approx((rank < 2).mean())


def test_the_k_largest(backend, rng):
    (x, t), net = drawn(rng), network()
    order = np.argsort(-net.predict(x), axis=1)
    scores = net.evaluate(x, t, batch_size=10, metrics=["top1", "top2", "top3"])
    for k in (1, 2, 3):
        assert scores[f"top{k}"] == (order[:, :k] == t[:, None]).any(1).mean()
    assert scores["top1"] == scores["accuracy"]
    flat = dn.Sequential([dn.Dense(4, initializer="zeros")]).init((5,))  # all logits are equal: as argmax has it
    assert flat.evaluate(x, t, metrics="top1")["top1"] == (t == 0).mean() == flat.evaluate(x, t)["accuracy"]


def test_a_function_is_averaged_over_examples(backend, rng):
    (x, t), net = drawn(rng), network()

    def sure(y, t):
        xp = dn.backend.backend_of(y).xp
        return xp.mean(xp.max(y, axis=1))

    scores = net.evaluate(x, t, batch_size=7, metrics=[sure, "f1", lambda y, t: 3.0])
    assert scores["sure"] == pytest.approx(net.predict(x).max(1).mean(), rel=1e-12)
    assert scores["<lambda>"] == 3.0 and list(scores) == ["loss", "accuracy", "sure", "f1", "<lambda>"]


def test_areas_under_curves(backend, rng):
    sk = pytest.importorskip("sklearn.metrics")
    x, t, net = rng.standard_normal((80, 5)), rng.integers(0, 3, 80), network(3)
    y = net.predict(x)
    p = np.exp(y) / np.exp(y).sum(1, keepdims=True)
    scores = net.evaluate(x, t, batch_size=7, metrics=["roc_auc", "average_precision"])
    assert scores["roc_auc"] == pytest.approx(sk.roc_auc_score(t, p, multi_class="ovr"))
    assert scores["average_precision"] == pytest.approx(sk.average_precision_score(np.eye(3)[t], p))
    two = network(2)
    y = two.predict(x)
    assert two.evaluate(x, t % 2, metrics="roc_auc")["roc_auc"] == pytest.approx(
        sk.roc_auc_score(t % 2, y[:, 1] - y[:, 0])
    )
    yes = network(1)
    scores = yes.evaluate(x, (t > 0)[:, None].astype(float), loss="binary_cross_entropy", metrics="roc_auc")
    assert scores["roc_auc"] == pytest.approx(sk.roc_auc_score(t > 0, yes.predict(x)))
    ignored = np.where(np.arange(80) % 4 == 0, -1, t)
    keep = ignored >= 0
    assert net.evaluate(x, ignored, ignore_label=-1, metrics="roc_auc")["roc_auc"] == pytest.approx(
        sk.roc_auc_score(t[keep], p[keep], multi_class="ovr")
    )
    history = net.fit(x, t, epochs=2, batch_size=9, metrics=["roc_auc"], verbose=0)
    assert len(history["roc_auc"]) == 2
    with pytest.raises(ValueError, match="the metric 'roc_auc' needs all outputs of an epoch, but a captured step"):
        net.fit(x, t, metrics="roc_auc", capture=True, verbose=0)


def test_without_scikit_learn_the_error_says_what_to_install(monkeypatch):
    for module in {"sklearn", "sklearn.metrics"}:
        monkeypatch.setitem(sys.modules, module, None)  # import finds nothing
    with pytest.raises(ImportError, match=r"metrics: 'roc_auc' needs scikit-learn: pip install \"dualnet\[sklearn\]\""):
        small().evaluate(*bars(8), metrics="roc_auc")


def test_several_outputs_have_no_metrics_or_weights_yet(backend):
    net = dn.Graph(inputs=["x"])
    net.add("flat", dn.Flatten(), "x"), net.add("a", dn.Dense(2), "flat"), net.add("b", dn.Dense(2), "flat")
    x, t = bars(8)
    loss = {"a": "softmax_cross_entropy", "b": "softmax_cross_entropy"}
    for options, word in (({"metrics": "f1"}, "metrics are"), ({"sample_weight": np.ones(8)}, "sample_weight is")):
        with pytest.raises(ValueError, match=f"{word} for networks with one output; this one has several"):
            net.fit({"x": x}, {"a": t, "b": t}, loss=loss, verbose=0, **options)
    assert "a_loss" in net.fit({"x": x}, {"a": t, "b": t}, loss=loss, accumulate=2, batch_size=2, verbose=0)
    assert net.fit({"x": x}, {"a": t, "b": t}, loss=loss, accumulate=2, capture=True, verbose=0).epochs == 1


def test_in_training_they_stand_in_the_history_and_for_validation_data_too(backend, capsys):
    x, t = bars(40)
    net = small()
    options = {"metrics": ["f1", "top1"], "validation_data": (x, t), "batch_size": 8, "epochs": 2}
    history = net.fit(x, t, verbose=2, **options)
    assert {"f1", "top1", "val_f1", "val_top1"} < set(history) and history["top1"] == history["accuracy"]
    assert history["val_f1"][-1] == net.evaluate(x, t, metrics="f1")["f1"]
    assert f"f1 {history['f1'][-1]:.4f}" in "".join(capsys.readouterr())
    captured = small().fit(x, t, capture=True, verbose=0, **options)
    assert captured["f1"] == history["f1"] and captured["val_f1"] == history["val_f1"]


def test_accuracy_of_a_loss_that_has_none(backend):
    x, t = bars(24)

    def own(y, t):
        return dn.losses.softmax_cross_entropy(y, t)

    net = small()
    assert "accuracy" not in net.evaluate(x, t, loss=own)
    assert net.evaluate(x, t, loss=own, metrics="accuracy")["accuracy"] == net.evaluate(x, t)["accuracy"]
    assert list(net.evaluate(x, t, metrics=["accuracy"])) == ["loss", "accuracy"]


MISTAKES = [
    (["auc"], "unknown metric 'auc'; choose from 'accuracy', 'top5'"),
    ([5], "unknown metric 5"),
    ("top0", "unknown metric 'top0'"),
    (["top2"], "with 2 classes the metric 'top2' is 1 for every network"),
    (["f1", "top1", "top1"], "two figures with the name 'top1'"),
    ([lambda y, t: y], "metrics: <lambda>.y, t. returned an array of shape .16, 2.; expected one number"),
    ([lambda y, t: None], "metrics: <lambda>.y, t. returned None; expected one number"),
]


@pytest.mark.parametrize("metrics, words", MISTAKES, ids=[words[:40] for _, words in MISTAKES])
def test_mistakes_are_told_before_the_first_step(metrics, words):
    net, begun = small(), []
    callback = dn.Callback()
    callback.on_fit_begin = begun.append
    with pytest.raises((ValueError, TypeError), match=words):
        net.fit(*bars(16), metrics=metrics, callbacks=callback, verbose=0)
    assert begun == []


def test_figures_of_classes_need_classes(rng):
    net, x = network(2), rng.standard_normal((8, 5))
    for name in ("f1", "accuracy", "roc_auc"):
        with pytest.raises(
            ValueError, match=f"the metric '{name}' needs classes, but the targets of this loss are not classes"
        ):
            net.evaluate(x, x[:, :2], loss="mean_squared_error", metrics=name)
    with pytest.raises(ValueError, match="'top1' needs classes"):
        net.evaluate(x, x[:, :2] > 0, loss="binary_cross_entropy", metrics="top1")


def test_names_without_a_batch(backend):
    y, t = dn.asarray([[0.0, 1.0, 2.0]]), dn.asarray([2])
    (ratio,) = metrics_of("fit", ["recall", "precision"], "softmax_cross_entropy", y, t)
    assert ratio.names == ("recall", "precision")
    assert ratio.figures(ratio.of(y, t, None)) == {"recall": 1.0, "precision": 1.0}
    assert ratio.figures(ratio.of(y, t, dn.asarray([0.0]))) == {"recall": 0.0, "precision": 0.0}


def test_nan_is_no_right_answer_in_top_k(backend):
    y = dn.asarray(np.array([[np.nan] * 4, [1.0, np.nan, 0.0, 0.0], [3.0, 2.0, 1.0, 0.0]], "float32"))
    t = dn.asarray(np.array([1, 1, 1]))
    for k, right in ((1, 0), (2, 1), (3, 1)):
        metric = metrics_module.TopK(k)
        assert metric.figures(metric.of(y, t, None)) == {f"top{k}": pytest.approx(right / 3)}
