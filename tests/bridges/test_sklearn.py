"""The estimators are scikit-learn's in every way: its own checks, and things that it does not check, such as the
weights."""

from __future__ import annotations

import functools
import importlib
import pickle

import numpy as np
import pytest

import dualnet as dn

sklearn = pytest.importorskip("sklearn")
from sklearn.base import clone  # noqa: E402
from sklearn.datasets import load_digits  # noqa: E402
from sklearn.exceptions import NotFittedError  # noqa: E402
from sklearn.metrics import accuracy_score, make_scorer  # noqa: E402
from sklearn.model_selection import GridSearchCV, cross_val_score  # noqa: E402
from sklearn.pipeline import make_pipeline  # noqa: E402
from sklearn.preprocessing import StandardScaler  # noqa: E402
from sklearn.utils.estimator_checks import check_estimator  # noqa: E402

from dualnet.bridges.sklearn import DualNetClassifier, DualNetRegressor, _each, weighted  # noqa: E402

KINDS = pytest.mark.parametrize("kind", [DualNetClassifier, DualNetRegressor])
CONVOLUTION = [dn.Conv2D(8, 3), dn.ReLU(), dn.MaxPool2D(2), dn.Flatten(), dn.Dense(10)]


@pytest.fixture(scope="module")
def digits():
    """Rows of 64 pixels from 0 to 1, and digits."""
    x, y = load_digits(return_X_y=True)
    return (x[:600] / 16).astype("float32"), y[:600]


def blobs(rng, n=90):
    """Three clouds of points in a plane."""
    y = np.arange(n) % 3
    return np.array([[0.0, 0.0], [4.0, 0.0], [0.0, 4.0]])[y] + rng.standard_normal((n, 2)), y


def line(rng, n=80):
    """y = x₀ − 2 x₁, and a little noise."""
    x = rng.standard_normal((n, 2))
    return x, x @ [1.0, -2.0] + 0.01 * rng.standard_normal(n)


def data_of(kind, rng):
    return blobs(rng) if kind is DualNetClassifier else line(rng)


def outputs(model, x):
    return model.predict_proba(x) if hasattr(model, "predict_proba") else model.predict(x)


# -- scikit-learn's own checks -----------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore")
@KINDS
def test_scikit_learns_checks_pass(kind):
    results = check_estimator(kind(), on_skip=None, on_fail=None)
    assert [(r["check_name"], r["exception"]) for r in results if r["status"] not in ("passed", "skipped")] == []
    passed = {r["check_name"] for r in results if r["status"] == "passed"}
    assert len(passed) > 50 and "check_sample_weight_equivalence_on_dense_data" in passed
    skipped = {str(r["exception"]).partition(" is not ")[0] for r in results if r["status"] == "skipped"}
    assert skipped <= {"pandas", "SCIPY_ARRAY_API"}  # what is missing here


# -- where estimators go -----------------------------------------------------------------------------------------------


def test_a_convolutional_network_in_a_pipeline_a_grid_and_folds(digits):
    x, y = digits
    net = DualNetClassifier(
        CONVOLUTION, input_shape=(8, 8, 1), epochs=5, batch_size=16, optimizer=dn.Adam(lr=0.01), random_state=0
    )
    model = make_pipeline(StandardScaler(), net)
    assert min(cross_val_score(model, x, y, cv=3, n_jobs=2)) > 0.7
    grid = {"dualnetclassifier__optimizer": [dn.SGD(lr=1e-6), dn.Adam(lr=0.01)], "dualnetclassifier__epochs": [5]}
    found = GridSearchCV(model, grid, cv=2).fit(x, y)
    assert isinstance(found.best_params_["dualnetclassifier__optimizer"], dn.Adam) and found.best_score_ > 0.7
    assert all(layer.input_shape is None for layer in CONVOLUTION), "the layers that were passed stay as they were"
    assert all(optimizer.steps == 0 for optimizer in grid["dualnetclassifier__optimizer"])


def test_in_parallel_it_is_what_it_is_alone(digits):
    x, y = digits
    model = DualNetClassifier(epochs=2, random_state=0)
    alone, together = (cross_val_score(model, x, y, cv=2, n_jobs=jobs) for jobs in (1, 2))
    assert alone.tolist() == together.tolist()


@KINDS
def test_a_pickle_predicts_and_goes_on_as_the_original(kind, rng):
    x, y = data_of(kind, rng)
    model = kind(
        [dn.Dense(4), dn.BatchNorm(), dn.ReLU(), dn.Dropout(0.5), dn.Dense(3 if kind is DualNetClassifier else 1)]
    )
    model.set_params(epochs=3, random_state=0).fit(x, y, sample_weight=rng.uniform(1, 2, len(x)))
    again = pickle.loads(pickle.dumps(model))
    assert np.array_equal(outputs(again, x), outputs(model, x))
    assert np.array_equal(outputs(again.partial_fit(x, y), x), outputs(model.partial_fit(x, y), x))
    assert again.n_iter_ == model.n_iter_ == 4 and again.optimizer_.steps == model.optimizer_.steps > 3


@KINDS
def test_a_clone_is_untrained_and_trains_to_the_same_bits(kind, rng):
    x, y = data_of(kind, rng)
    model = kind(epochs=3, random_state=5).fit(x, y)
    fresh = clone(model)
    assert not hasattr(fresh, "net_")
    with pytest.raises(NotFittedError):
        fresh.predict(x)
    assert np.array_equal(outputs(fresh.fit(x, y), x), outputs(model, x))
    assert np.array_equal(outputs(model.fit(x, y), x), outputs(fresh, x)), "a second fit starts anew"


def test_feature_names(rng):
    pandas = pytest.importorskip("pandas")
    x, y = blobs(rng)
    frame = pandas.DataFrame(x, columns=["height", "width"])
    model = make_pipeline(StandardScaler().set_output(transform="pandas"), DualNetClassifier(epochs=1)).fit(frame, y)
    assert model[-1].feature_names_in_.tolist() == ["height", "width"] and model[-1].n_features_in_ == 2
    with pytest.raises(ValueError, match="feature names should match"):
        model[-1].predict(frame[["width", "height"]])


def test_weights_are_routed(rng):
    x, y = blobs(rng)
    with sklearn.config_context(enable_metadata_routing=True):
        scaler = StandardScaler().set_fit_request(sample_weight=True)
        net = DualNetClassifier(epochs=20, random_state=0, optimizer=dn.Adam(lr=0.05)).set_fit_request(
            sample_weight=True
        )
        right = make_scorer(accuracy_score).set_score_request(sample_weight=True)
        search = GridSearchCV(make_pipeline(scaler, net), {}, cv=2, scoring=right)
        search.fit(x, y, sample_weight=np.where(y == 2, 0.0, 1.0))
    assert set(search.predict(x)) == {0, 1} and search.best_score_ > 0.9


# -- it is the network that dualnet trains -----------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_it_trains_what_net_fit_trains(backend, rng, dtype):
    """The same seed gives the same bits as ``net.fit``, in the dtype of X."""
    x, y = blobs(rng)
    x = x.astype(dtype)
    model = DualNetClassifier([dn.Dense(5), dn.ReLU(), dn.Dense(3)], epochs=3, batch_size=16, random_state=7).fit(x, y)
    net = dn.Sequential([dn.Dense(5), dn.ReLU(), dn.Dense(3)]).init((2,), seed=7, dtype=dtype)
    history = net.fit(x, y, epochs=3, batch_size=16, seed=7, verbose=0)
    for name, value in net.state_dict().items():
        assert np.array_equal(dn.to_numpy(model.net_.state_dict()[name]), dn.to_numpy(value)), name
    assert model.loss_curve_ == history["loss"] and model.n_iter_ == 3
    assert model.predict_proba(x).dtype == dtype
    assert np.array_equal(model.predict(x), net.predict(x).argmax(axis=1))


def test_probabilities_add_up_and_their_logarithms_never_end(rng):
    x, y = blobs(rng)
    model = DualNetClassifier([dn.Dense(3)], epochs=20, random_state=0, optimizer=dn.Adam(lr=0.1)).fit(x, y)
    p, log_p = model.predict_proba(1e4 * x), model.predict_log_proba(1e4 * x)
    assert np.allclose(p.sum(axis=1), 1.0, rtol=1e-12) and (p == 0.0).any() and np.isfinite(log_p).all()
    assert np.array_equal(np.exp(log_p), p)
    assert np.array_equal(model.classes_[p.argmax(axis=1)], model.predict(1e4 * x))


def test_labels_of_any_kind(rng):
    x, y = blobs(rng)
    numbers = DualNetClassifier(epochs=5, random_state=0).fit(x, y)
    words = DualNetClassifier(epochs=5, random_state=0).fit(x, np.array(["c", "a", "b"])[(y + 1) % 3])
    assert words.classes_.tolist() == ["a", "b", "c"]
    assert words.predict(x).tolist() == np.array(["a", "b", "c"])[numbers.predict(x)].tolist()
    two = DualNetClassifier(epochs=30, random_state=0, optimizer=dn.Adam(lr=0.02)).fit(x, y == 1)
    assert (
        two.classes_.tolist() == [False, True] and two.score(x, y == 1) > 0.95 and two.predict_proba(x).shape == (90, 2)
    )
    assert DualNetClassifier(epochs=1).fit(x, np.full(90, 4)).predict(x).tolist() == [4] * 90


def test_a_function_gets_the_number_of_outputs(rng):
    x, y = blobs(rng)
    asked = []

    def factory(outputs):
        asked.append(outputs)
        return [dn.Dense(outputs)]

    DualNetClassifier(factory, epochs=1).fit(x, y)
    DualNetRegressor(factory, epochs=1).fit(x, np.column_stack([y, y]))
    assert asked == [3, 2]
    rows = rng.standard_normal((40, 28 * 28)).astype("float32")
    assert DualNetClassifier(dn.models.lenet5, input_shape=(28, 28, 1), epochs=1).fit(
        rows, rows[:, 0] > 0
    ).net_.output_shape((28, 28, 1)) == (2,)


def test_trained_layers_go_on_from_what_they_have_learned(rng):
    x, y = blobs(rng)
    body = dn.Dense(4).init((2,), seed=3)  # float32
    before = dn.to_numpy(body.w.value).copy()
    model = DualNetClassifier([body, dn.ReLU(), dn.Dense(3)], epochs=1, optimizer=dn.SGD(lr=1e-9), random_state=0)
    learned = model.fit(x, y).net_.state_dict()
    assert np.array_equal(dn.to_numpy(learned["0.w"]), before) and learned["2.w"].dtype == "float32"
    first, second = (model.set_params(optimizer="sgd").fit(x, y).predict_proba(x) for _ in range(2))
    assert np.array_equal(first, second) and np.array_equal(dn.to_numpy(body.w.value), before), "a copy is trained"
    assert not np.array_equal(dn.to_numpy(model.net_.state_dict()["0.w"]), before)


def test_shared_layers_of_a_network_stay_shared(rng):
    x, y = line(rng)
    layer = dn.Dense(2)
    model = clone(DualNetRegressor(dn.Sequential([layer, layer, dn.Dense(1)]), epochs=1)).fit(x, y)
    assert model.net_[0] is model.net_[1] and len(model.net_.parameters()) == 4


def test_random_states(rng):
    x, y = line(rng)
    fits = [DualNetRegressor(epochs=1, random_state=s).fit(x, y).predict(x) for s in (None, None, 1, np.int64(1), 2)]
    assert not np.array_equal(fits[0], fits[1]) and not np.array_equal(fits[2], fits[4])
    assert np.array_equal(fits[2], fits[3])
    state = np.random.RandomState(0)
    first, second = (DualNetRegressor(epochs=1, random_state=state).fit(x, y).predict(x) for _ in range(2))
    assert not np.array_equal(first, second)


# -- regression --------------------------------------------------------------------------------------------------------


def test_one_target_or_several(rng):
    x, y = line(rng)
    fast = dict(epochs=100, random_state=0, optimizer=dn.Adam(lr=0.02))
    one, column = DualNetRegressor(**fast).fit(x, y), DualNetRegressor(**fast).fit(x, y[:, None])
    assert one.score(x, y) > 0.99 and one.predict(x).shape == (80,)
    assert np.array_equal(column.predict(x), one.predict(x)[:, None])
    two = DualNetRegressor(**fast).fit(x, np.column_stack([y, -y]))
    assert two.predict(x).shape == (80, 2) and two.score(x, np.column_stack([y, -y])) > 0.99
    with pytest.raises(ValueError, match="y has 1 targets for each example; expected 2"):
        two.partial_fit(x, y)


def test_hubers_loss_is_not_led_astray(rng):
    x, y = line(rng, 200)
    spoilt = y.copy()
    spoilt[::10] += 40.0
    scores = [
        DualNetRegressor([dn.Dense(1)], loss=loss, epochs=100, optimizer=dn.Adam(lr=0.05), random_state=0)
        .fit(x, spoilt)
        .score(x, y)
        for loss in (None, "huber")
    ]
    assert scores[0] < 0.0 < 0.95 < scores[1]


def test_targets_out_of_range(rng):
    x, y = line(rng)
    with pytest.raises(ValueError, match="y holds numbers too large for float32. Scale it, or pass a float64 X"):
        DualNetRegressor().fit(x.astype("float32"), 1e300 * y)


# -- going on ----------------------------------------------------------------------------------------------------------


@KINDS
def test_three_partial_fits_are_a_fit_of_three_epochs(kind, rng):
    x, y = data_of(kind, rng)
    whole, parts = kind(epochs=3, random_state=0, batch_size=16).fit(x, y), kind(random_state=0, batch_size=16)
    for place in range(3):
        parts.partial_fit(x, y, **({"classes": [2, 1, 0]} if kind is DualNetClassifier and not place else {}))
    assert np.array_equal(outputs(parts, x), outputs(whole, x)) and parts.loss_curve_ == whole.loss_curve_


@KINDS
def test_warm_start_goes_on(kind, rng):
    x, y = data_of(kind, rng)
    whole, warm = kind(epochs=5, random_state=0).fit(x, y), kind(epochs=2, random_state=0, warm_start=True).fit(x, y)
    warm.set_params(epochs=3).fit(x, y)
    assert np.array_equal(outputs(warm, x), outputs(whole, x)) and warm.n_iter_ == 5
    with pytest.raises(ValueError, match="features"):
        warm.fit(x[:, :1], y)


def test_classes_come_first_and_stay(rng):
    x, y = blobs(rng)
    model = DualNetClassifier(random_state=0)
    with pytest.raises(ValueError, match="classes must be passed on the first call"):
        model.partial_fit(x, y)
    model.partial_fit(x[y < 2], y[y < 2], classes=[0, 1, 2])
    assert model.predict_proba(x).shape == (90, 3)
    model.partial_fit(x, y, classes=[0, 1, 2])
    with pytest.raises(ValueError, match=r"y has the labels \[7\]; expected only \[0 1 2\]"):
        model.partial_fit(x, np.where(y == 1, 7, y))
    with pytest.raises(ValueError, match="expected the same as before"):
        model.partial_fit(x, y, classes=[0, 1])
    with pytest.raises(ValueError, match=r"continues with the classes \[0 1 2\]; y has \[0 1\]"):
        model.set_params(warm_start=True).fit(x[y < 2], y[y < 2])


def test_early_stopping_keeps_the_best_weights(rng):
    x, y = blobs(rng)
    y = rng.permutation(y)  # nothing to learn: the held-out loss soon grows
    model = DualNetClassifier(
        epochs=200,
        early_stopping=True,
        n_iter_no_change=3,
        validation_fraction=0.2,
        batch_size=18,
        random_state=0,
        optimizer=dn.Adam(lr=0.05),
    ).fit(x, y)
    held_out = model.history_["val_loss"]
    assert model.n_iter_ < 200 and len(held_out) == model.n_iter_ == int(np.argmin(held_out)) + 4
    assert model.optimizer_.steps == 4 * model.n_iter_  # 72 of the 90 examples
    with pytest.raises(ValueError, match="partial_fit trains for one epoch, so it cannot stop early"):
        model.partial_fit(x, y)


# -- weights -----------------------------------------------------------------------------------------------------------

LOSSES = [
    dn.losses.softmax_cross_entropy,
    functools.partial(dn.losses.softmax_cross_entropy, label_smoothing=0.1),
    dn.losses.mean_squared_error,
    dn.losses.huber,
    dn.losses.binary_cross_entropy,
]


@pytest.mark.parametrize("loss", LOSSES)
def test_the_weighted_loss_is_the_mean_of_each_times_its_weight(backend, rng, loss):
    """Against a loop over the examples, and its gradient against finite differences."""
    labels = dn.losses.about(loss).function is dn.losses.softmax_cross_entropy
    y, w = rng.standard_normal((6, 3)), rng.uniform(0.1, 3.0, 6)
    t = rng.integers(0, 3, 6) if labels else rng.uniform(0, 1, (6, 3))
    packed = dn.asarray(np.column_stack([t, w]))
    value, _ = weighted(dn.asarray(y), packed, loss=loss, labels=labels)
    each = [dn.to_numpy(loss(dn.asarray(y[i : i + 1]), dn.asarray(t[i : i + 1]))[0]) for i in range(6)]
    assert np.isclose(dn.to_numpy(value), np.mean(w * np.array(each)), rtol=1e-14)
    assert dn.check.gradient(weighted, dn.asarray(y), packed, wrt=[0], loss=loss, labels=labels)


def test_a_logit_of_minus_infinity_costs_nothing_where_it_is_not_the_answer(backend):
    y = dn.asarray([[0.0, -np.inf], [-np.inf, 1.0]])
    assert dn.to_numpy(_each(dn.losses.softmax_cross_entropy, y, dn.asarray([0, 1]))).tolist() == [0.0, 0.0]


@KINDS
def test_a_weight_of_two_is_the_example_twice(kind, rng):
    """In one batch: there the steps are the same, up to rounding."""
    x, y = data_of(kind, rng)
    w = rng.integers(0, 4, len(x))
    model = kind(
        [dn.Dense(4), dn.Tanh(), dn.Dense(3 if kind is DualNetClassifier else 1)], batch_size=400, random_state=0
    )
    for optimizer in (dn.SGD(lr=0.1), dn.Adam(lr=0.01)):
        model.set_params(epochs=20, optimizer=optimizer)
        once = clone(model).fit(x, y, sample_weight=0.3 * w)
        often = clone(model).fit(np.repeat(x, w, axis=0), np.repeat(y, w))
        assert np.allclose(outputs(once, x), outputs(often, x), rtol=1e-9, atol=1e-12)
        assert np.allclose(once.loss_curve_, often.loss_curve_, rtol=1e-10)


@KINDS
def test_an_example_without_weight_is_not_there(kind, rng):
    """To the bit: batches and batch norm do not see it."""
    x, y = data_of(kind, rng)
    w = np.where(np.arange(len(x)) % 4 == 0, 0.0, 2.0)
    layers = [dn.Dense(4), dn.BatchNorm(), dn.Dense(3 if kind is DualNetClassifier else 1)]
    model = kind(layers, epochs=3, batch_size=16, random_state=0)
    without = clone(model).fit(x[w > 0], y[w > 0])
    assert np.array_equal(outputs(clone(model).fit(x, y, sample_weight=w), x), outputs(without, x))


def test_partial_fit_takes_weights_as_they_are(rng):
    x, y = line(rng)
    model = DualNetRegressor([dn.Dense(1)], batch_size=400, random_state=0, optimizer=dn.SGD(lr=0.01))
    start = clone(model).set_params(optimizer=dn.SGD(lr=1e-300)).partial_fit(x, y).predict(x)
    moved = [clone(model).partial_fit(x, y, sample_weight=np.full(80, w)).predict(x) - start for w in (1.0, 3.0)]
    assert np.allclose(moved[1], 3.0 * moved[0], rtol=1e-8)
    assert np.allclose(clone(model).partial_fit(x, y).predict(x) - start, moved[0], rtol=1e-8)


def test_weights_in_early_stopping_and_a_loss_of_ones_own(rng):
    x, y = line(rng)

    def absolute(y, t):
        xp = dn.backend.backend_of(y).xp
        residual = y - t.astype(y.dtype)
        return xp.mean(xp.abs(residual)), dn.LossPullback(
            "absolute", lambda dloss: dloss * xp.sign(residual) / residual.size, residual
        )

    spoilt = np.where(np.arange(80) % 4 == 0, y + 100.0, y)
    w = np.where(np.arange(80) % 4 == 0, 1e-9, 1.0)
    model = DualNetRegressor(
        [dn.Dense(1)], loss=absolute, epochs=200, optimizer=dn.Adam(lr=0.05), early_stopping=True, random_state=0
    ).fit(x, spoilt, sample_weight=w)
    assert model.score(x, y) > 0.99 and max(model.history_["val_loss"][-3:]) < 1.0
    assert model.net_.loss is absolute


@KINDS
@pytest.mark.parametrize("wrong", [-1.0, 0.0])
def test_weights_that_make_no_sense(kind, wrong, rng):
    x, y = data_of(kind, rng)
    with pytest.raises(ValueError, match="sample_weight|Sample weights|sample weights"):
        kind().fit(x, y, sample_weight=np.full(len(x), wrong))


# -- what is refused, and what stays -----------------------------------------------------------------------------------

ROWS, NAMES = np.zeros((12, 6)), np.arange(12) % 3


@pytest.mark.parametrize(
    "arguments, error, words",
    [
        (
            dict(layers=3),
            TypeError,
            "layers must be a list of layers, a network, or a function that takes the number of outputs",
        ),
        (dict(layers=[dn.Dense(4)]), ValueError, r"outputs of shape \(4,\); expected \(3,\), one for each class"),
        (dict(layers=[dn.Dense(3), dn.Softmax()]), ValueError, "ends with Softmax, but .* Leave out the layer"),
        (
            dict(layers=[dn.Conv2D(2, 1)]),
            ValueError,
            r"To fold each row of X \(12, 6\) into an image, pass input_shape",
        ),
        (
            dict(layers=[dn.Flatten()], input_shape=(2, 2, 1)),
            ValueError,
            r"\(2, 2, 1\) takes 4 numbers, but each row of X has 6",
        ),
        (
            dict(layers=[dn.Flatten()], input_shape=6),
            TypeError,
            r"must be the shape of one example, such as \(28, 28, 1\); got 6",
        ),
        (dict(input_shape=(2, 3)), ValueError, "Pass layers too"),
        (dict(epochs=0), ValueError, "epochs must be at least 1"),
        (dict(epochs="3"), TypeError, "epochs must be an integer"),
        (dict(optimizer="adams"), ValueError, "unknown optimizer 'adams'"),
        (dict(loss="entropy"), ValueError, "unknown loss 'entropy'"),
        (
            dict(early_stopping=True, validation_fraction=2.0),
            ValueError,
            "validation_fraction must be a number above 0",
        ),
        (dict(early_stopping="yes"), TypeError, "early_stopping must be True or False"),
        (dict(warm_start="yes"), TypeError, "warm_start must be True or False"),
    ],
)
def test_wrong_arguments(arguments, error, words):
    with pytest.raises(error, match=words):
        DualNetClassifier(**arguments).fit(ROWS, NAMES)


def test_only_the_ratios_of_weights_count_in_every_figure(rng):
    x, y = line(rng)
    w = rng.uniform(1, 3, 80)
    model = DualNetRegressor([dn.Dense(1)], epochs=2, early_stopping=True, random_state=0, optimizer=dn.SGD(lr=0.01))
    one, other = (clone(model).fit(x, y, sample_weight=scale * w).history_ for scale in (1.0, 64.0))
    assert one["loss"] == other["loss"] and one["val_loss"] == other["val_loss"]


def test_the_optimizer_that_was_passed_is_not_used_up(rng):
    x, y = line(rng)
    model = DualNetRegressor([dn.Dense(1)], epochs=2, optimizer=(given := dn.SGD(lr=0.01)), random_state=0)
    first = model.fit(x, y).predict(x)
    assert given.steps == 0 and np.array_equal(model.fit(x, y).predict(x), first)


def test_an_optimizer_that_has_trained_is_refused():
    optimizer = dn.Adam()
    dn.Sequential([dn.Dense(3)]).fit(ROWS, NAMES, optimizer=optimizer, verbose=0)
    with pytest.raises(ValueError, match=r"already trained another network \(1 steps\)\. Pass a new one: Adam\(...\)"):
        DualNetClassifier(optimizer=optimizer).fit(ROWS, NAMES)


def test_images_are_rows():
    with pytest.raises(ValueError, match=r"Pass X.reshape\(len\(X\), -1\), and input_shape=\(2, 3, 1\)"):
        DualNetClassifier().fit(ROWS.reshape(12, 2, 3, 1), NAMES)


def test_a_fit_that_fails_changes_nothing(rng):
    x, y = blobs(rng)
    model = DualNetClassifier(epochs=1, random_state=0).fit(x, np.array(["a", "b", "c"])[y])
    before, said = dict(vars(model)), model.predict(x)
    for wrong in (dict(sample_weight=-np.ones(90)), dict(sample_weight=np.ones(3))):
        with pytest.raises(ValueError):
            model.fit(np.hstack([x, x]), y + 5, **wrong)
        assert vars(model) == before and np.array_equal(model.predict(x), said)


def test_what_was_trained_is_kept_however_it_ended(rng):
    x, y = blobs(rng)

    class Stops:
        """A loss that is stopped by Ctrl-C in the third epoch."""

        calls = 0

        def __call__(self, y, t):
            Stops.calls += 1
            if Stops.calls > 6:
                raise KeyboardInterrupt
            return dn.losses.softmax_cross_entropy(y, t)

    model = DualNetClassifier(loss=Stops(), epochs=50, random_state=0)
    with pytest.raises(KeyboardInterrupt):
        model.fit(x, y)
    assert 0 < model.n_iter_ < 50 and model.predict(x).shape == (90,)


def test_the_module_is_the_one_that_both_names_give():
    assert importlib.import_module("dualnet.bridges.sklearn") is dn.sklearn
    assert dn.sklearn.__all__ == ["DualNetClassifier", "DualNetRegressor"]
