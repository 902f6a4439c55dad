"""Losses: loops, slopes, each against another, limits at ±inf, wrong targets, transfers, and the properties of each
loss."""

from __future__ import annotations

import functools
import math

import numpy as np
import pytest
import reference
from oracles import DIFFERENCE, error, hidden, tau

import dualnet as dn
from dualnet.ops import losses

INF, NAN = float("inf"), float("nan")
COMMON = ["softmax_cross_entropy", "mean_squared_error", "binary_cross_entropy", "huber"]
SHAPES = [(5, 3), (1, 1), (4, 1), (2, 3, 4, 5), (7, 2)]


def run(name, y, t, dtype="float64", **options):
    """Loss and dy as NumPy values."""
    y = dn.asarray(y, dtype)
    loss, pullback = getattr(dn.losses, name)(y, dn.asarray(t), **options)
    dy = pullback()
    assert loss.shape == () and loss.dtype == dy.dtype == y.dtype and dy.shape == y.shape
    return dn.to_numpy(loss)[()], dn.to_numpy(dy)


def prove_loss(name, y, t, **options):
    """Loops, in float64 and float32; the slope of the loss along a random direction; the pullback's promises."""
    for dtype in ("float64", "float32"):
        rounded = y.astype(dtype).astype(np.float64)
        q = t.astype(dtype).astype(np.float64) if t.dtype.kind == "f" else t
        loss, dy = run(name, rounded, q, dtype, **options)
        assert error(loss, getattr(reference, name)(rounded, q, **options)) <= tau(dtype, y.size)
        want = getattr(reference, f"{name}_backward")(rounded, q, **options)
        assert np.linalg.norm(dy - want) <= tau(dtype, y.shape[-1]) * max(np.linalg.norm(want), 1 / y.size)
    check_slope(name, y, t, options)
    given = dn.asarray(y), dn.asarray(t)
    before = [dn.to_numpy(a).tobytes() for a in given]
    loss, pullback = getattr(dn.losses, name)(*given, **options)
    dy = dn.to_numpy(pullback())
    np.testing.assert_array_equal(dn.to_numpy(pullback()), dy)
    np.testing.assert_allclose(dn.to_numpy(pullback(-2.5)), -2.5 * dy, rtol=1e-14)
    assert [dn.to_numpy(a).tobytes() for a in given] == before
    hidden(pullback)


def check_slope(name, y, t, options):
    v, h = np.random.default_rng(1).standard_normal(y.shape), 1e-6
    numeric = (run(name, y + h * v, t, **options)[0] - run(name, y - h * v, t, **options)[0]) / (2 * h)
    slope = np.vdot(v, run(name, y, t, **options)[1])
    assert abs(slope - numeric) <= DIFFERENCE * max(1.0, abs(slope))


# -- against loops and differences -------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_softmax_cross_entropy(backend, rng, shape, smoothing):
    y, labels = 3 * rng.standard_normal(shape), rng.integers(0, shape[-1], shape[:-1])
    prove_loss("softmax_cross_entropy", y, labels, label_smoothing=smoothing)
    soft = rng.dirichlet(np.ones(shape[-1]), shape[:-1])
    prove_loss("softmax_cross_entropy", y, soft, label_smoothing=smoothing)


@pytest.mark.parametrize("shape", [*SHAPES, (6,)])
def test_mean_squared_error(backend, rng, shape):
    prove_loss("mean_squared_error", rng.standard_normal(shape), rng.standard_normal(shape))


@pytest.mark.parametrize("shape", [*SHAPES, (6,)])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_binary_cross_entropy(backend, rng, shape, smoothing):
    y = 3 * rng.standard_normal(shape)
    prove_loss("binary_cross_entropy", y, rng.integers(0, 2, shape), label_smoothing=smoothing)
    prove_loss("binary_cross_entropy", y, rng.uniform(0, 1, shape), label_smoothing=smoothing)


@pytest.mark.parametrize("shape", [*SHAPES, (6,)])
@pytest.mark.parametrize("delta", [1.0, 0.3, 50])
def test_huber(backend, rng, shape, delta):
    prove_loss("huber", 2 * rng.standard_normal(shape), rng.standard_normal(shape), delta=delta)


def test_known_values(backend):
    """By hand: −log of 1/2 and of e/(1 + e); ½(1 + 4 + 9)/2; log 2 and log(1 + e⁻¹); ½ and 2 − ½."""
    y, t = [[0.0, 0.0], [1.0, 0.0]], [0, 1]
    loss, dy = run("softmax_cross_entropy", y, t)
    assert loss == pytest.approx((math.log(2) + math.log(1 + math.e)) / 2)
    p = math.e / (1 + math.e)
    np.testing.assert_allclose(dy, [[-0.25, 0.25], [p / 2, -p / 2]])
    loss, dy = run("mean_squared_error", [[1.0, 2.0], [3.0, 0.0]], [[0, 0], [0, 0]])
    assert loss == 3.5 and dy.tolist() == [[0.5, 1.0], [1.5, 0.0]]
    loss, dy = run("binary_cross_entropy", [0.0, 1.0], [1, 1])
    assert loss == pytest.approx((math.log(2) + math.log(1 + 1 / math.e)) / 2)
    loss, dy = run("huber", [1.0, -2.0], [0, 0])
    assert loss == 1.0 and dy.tolist() == [0.5, -0.5]


# -- against each other ------------------------------------------------------------------------------------------------


def test_one_hot_targets_are_labels(backend, rng):
    y, labels = rng.standard_normal((6, 4)), rng.integers(0, 4, 6)
    loss, dy = run("softmax_cross_entropy", y, labels)
    for kind in ("float64", "float32", "uint8", "bool"):
        same, same_dy = run("softmax_cross_entropy", y, np.eye(4, dtype=kind)[labels])
        assert error(same, loss) <= tau("float64", y.size)  # class numbers may have a kernel of their own
        assert np.array_equal(same_dy, dy)
    for kind in ("int8", "uint8", "uint64"):
        assert run("softmax_cross_entropy", y, labels.astype(kind))[0] == loss


def test_two_classes_are_a_yes_or_no(backend, rng):
    y, t = rng.standard_normal(9), rng.integers(0, 2, 9)
    loss, dy = run("binary_cross_entropy", y, t)
    same, same_dy = run("softmax_cross_entropy", np.stack([0 * y, y], axis=1), t)
    assert loss == pytest.approx(same, rel=1e-14)
    np.testing.assert_allclose(dy, same_dy[:, 1], rtol=1e-13)


def test_a_wide_huber_is_a_squared_error(backend, rng):
    y, t = rng.standard_normal((2, 4, 3))
    loss, dy = run("huber", y, t, delta=1e9)
    squared, squared_dy = run("mean_squared_error", y, t)
    assert 3 * loss == pytest.approx(squared, rel=1e-14)  # the mean over elements, and over examples of 3
    np.testing.assert_allclose(3 * dy, squared_dy, rtol=1e-14)


@pytest.mark.parametrize("name", COMMON)
def test_two_half_batches_are_one_batch(backend, rng, name):
    y, t = rng.standard_normal((8, 3)), rng.uniform(0, 1, (8, 3))
    t = rng.integers(0, 3, 8) if name.startswith("softmax") else t
    whole, dy = run(name, y, t)
    (first, dy_first), (second, dy_second) = run(name, y[:4], t[:4]), run(name, y[4:], t[4:])
    assert whole == pytest.approx((first + second) / 2, rel=1e-14)
    np.testing.assert_allclose(dy, np.concatenate([dy_first, dy_second]) / 2, rtol=1e-13)


# -- limits ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_cross_entropy_at_the_limits(backend, dtype):
    cases = [  # logits, label, loss, delta
        ([1e4, -1e4], 0, 0.0, [0, 0]),
        ([1e4, -1e4], 1, 2e4, [1, -1]),
        ([0.0, -INF], 0, 0.0, [0, 0]),  # 0 · log 0 = 0
        ([0.0, -INF], 1, INF, [1, -1]),
        ([INF, 5.0], 0, 0.0, [0, 0]),
        ([INF, INF], 1, math.log(2), [0.5, -0.5]),
        ([-INF, -INF], 0, math.log(2), [-0.5, 0.5]),
    ]
    for logits, label, want, delta in cases:
        for t in ([label], np.eye(2)[[label]]):
            loss, dy = run("softmax_cross_entropy", [logits], t, dtype)
            assert loss == pytest.approx(want, rel=2e-3 if dtype == "float16" else 1e-6)
            assert dy.tolist() == [delta]
    loss, _ = run("softmax_cross_entropy", [[0.0, -INF]], [0], dtype, label_smoothing=0.1)
    assert loss == INF  # smoothing wants a little of the class that cannot be


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_binary_cross_entropy_at_the_limits(backend, dtype):
    for y, t, want, delta in [
        (INF, 1, 0, 0),
        (-INF, 0, 0, 0),
        (INF, 0, INF, 1),
        (-INF, 1, INF, -1),
        (1e4, 1, 0, 0),
        (-1e4, 1, 1e4, -1),
        (1e4, 0.5, 5e3, 0.5),
        (0, 0.5, math.log(2), 0),
    ]:
        loss, dy = run("binary_cross_entropy", [y], [t], dtype)
        assert loss == pytest.approx(want, rel=2e-3 if dtype == "float16" else 1e-6) and dy.tolist() == [delta]
    assert np.isnan(run("binary_cross_entropy", [NAN], [1], dtype)[0])


def test_regression_at_the_limits(backend):
    loss, dy = run("huber", [INF, -INF, 1e30, -1e4], [0, 0, 0, 0], "float32")
    assert loss == INF and dy.tolist() == [0.25, -0.25, 0.25, -0.25]
    loss, dy = run("mean_squared_error", [1e4, -INF], [0, 0], "float32")
    assert loss == INF and dy.tolist() == [5e3, -INF]
    for name in COMMON:
        t = [0, 0] if name.startswith("softmax") else [[0.0], [0.0]]
        assert np.isnan(run(name, [[NAN], [1.0]], t, "float32")[0]), name


def test_one_class_and_many(backend, rng):
    loss, dy = run("softmax_cross_entropy", rng.standard_normal((3, 1)), [0, 0, 0])
    assert loss == 0 and not dy.any()
    y, t = rng.standard_normal((2, 100_000)).astype(np.float32), np.asarray([0, 99_999])
    loss, dy = run("softmax_cross_entropy", y, t, "float32", label_smoothing=0.1)
    p = np.exp(y.astype(np.float64))
    p /= p.sum(axis=1, keepdims=True)
    q = 0.9 * np.eye(100_000, 1)[:, 0] + 1e-6, 0.9 * np.eye(100_000, 1)[::-1, 0] + 1e-6
    assert error(loss, -(np.stack(q) * np.log(p)).sum() / 2) < tau("float32", 100_000)
    assert error(dy, (p - np.stack(q)) / 2) < tau("float32", 100_000)


def test_float16_adds_up_in_float32(backend):
    y, t = np.zeros((6000, 2), np.float16), np.zeros(6000, np.int64)
    assert run("softmax_cross_entropy", y, t, "float16")[0] == np.float16(math.log(2))
    assert run("mean_squared_error", y + 2, 0 * y, "float16")[0] == 4
    assert run("huber", y + 1, 0 * y, "float16")[0] == 0.5


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", COMMON)
def test_16_bits_are_rounded_once_at_the_end(backend, rng, name, dtype):
    """Loss and dy are those of float32, rounded; also with targets and an upstream gradient of other dtypes."""
    if dtype == "bfloat16":
        pytest.importorskip("ml_dtypes")
    y = dn.asarray(3 * rng.standard_normal((7, 3)), dtype)
    t = rng.integers(0, 3, 7) if name.startswith("softmax") else rng.uniform(0, 1, (7, 3))
    for target in (t,) if name.startswith("softmax") else (t, t.astype("float16"), t > 0.5):
        loss, pullback = losses.get(name)(y, dn.asarray(target))
        wide, wide_pullback = losses.get(name)(y.astype("float32"), dn.asarray(target))
        pairs = [(loss, wide), (pullback(3.0), wide_pullback(3.0))]
        for got, want in pairs:
            assert got.dtype == y.dtype and want.dtype == "float32"
            if not name.startswith("softmax"):  # which keeps log_p, rounded
                assert dn.to_numpy(got).tobytes() == dn.to_numpy(want.astype(dtype)).tobytes()


# -- dtypes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", COMMON)
def test_nothing_widens_float32(backend, name):
    y = dn.asarray(np.ones((4, 3), np.float32))
    t = np.zeros(4, np.int64) if name.startswith("softmax") else np.zeros((4, 3), np.float64)
    options = {"delta": np.float64(1)} if name == "huber" else {}
    if "entropy" in name:
        options = {"label_smoothing": np.float64(0.1)}
    loss, pullback = getattr(dn.losses, name)(y, dn.asarray(t), **options)
    assert loss.dtype == "float32"
    for seed in (1.0, 2, np.float64(2), np.float32(2), dn.asarray(np.asarray(2.0)), dn.asarray(np.asarray(2.0, "f4"))):
        assert pullback(seed).dtype == "float32"
    for array in pullback.saved.values():
        assert array.dtype in ("float32", "int64")


def test_targets_of_any_real_dtype(backend, rng):
    y = rng.standard_normal((3, 2)).astype(np.float32)
    for name in ("mean_squared_error", "binary_cross_entropy", "huber"):
        want = run(name, y, np.asarray([[0.0, 1], [1, 0], [1, 1]], np.float32), "float32")[0]
        for kind in ("bool", "uint8", "int64", "float16", "float64"):
            assert run(name, y, np.asarray([[0, 1], [1, 0], [1, 1]], kind), "float32")[0] == want


# -- errors ------------------------------------------------------------------------------------------------------------


def refused(name, y, t, message, kind=ValueError, **options):
    with pytest.raises(kind, match=f"{name}: {message}"):
        getattr(dn.losses, name)(y, t, **options)


@pytest.mark.parametrize("labels, message", [
    ([0, 3, 1], r"label 3 is out of range; 3 classes have the labels 0 … 2\. Labels that start at 1 need t - 1"),
    ([0, -1, 2], "label -1 is out of range"),
    ([0, 2**62, 2], f"label {2**62} is out of range"),
    ([0.0, 1.0, 2.0], "labels must be integers, got float"),
    ([True, False, True], "labels must be integers, got bool"),
    ([0, 1], r"t has shape \(2,\); for y \(3, 3\) expected class numbers \(3,\), or probabilities \(3, 3\)"),
    ([[0], [1], [2]], r"t has shape \(3, 1\)"),
    ([], r"t has shape \(0,\)"),
    (1, r"t has shape \(\)"),
])  # fmt: skip
def test_wrong_labels(backend, labels, message):
    refused("softmax_cross_entropy", dn.asarray(np.ones((3, 3))), dn.asarray(labels), message)


def test_unchecked_labels_must_still_be_integers(backend):
    y = dn.asarray(np.ones((2, 3)))
    refused("softmax_cross_entropy", y, dn.asarray([0.0, 1.0]), "labels must be integers", check_labels=False)
    refused("softmax_cross_entropy", y, dn.asarray([0]), "t has shape", check_labels=False)
    loss, _ = dn.losses.softmax_cross_entropy(y, dn.asarray([0, 2]), check_labels=False)
    assert float(dn.to_numpy(loss)) == pytest.approx(math.log(3))


@pytest.mark.parametrize("row", [[0.5, 0.4], [1.2, -0.2], [1, 1], [0, 0], [NAN, 1], [INF, 0], [3, 5]])
def test_wrong_probabilities(backend, row):
    y, t = dn.asarray(np.ones((2, 2))), dn.asarray(np.asarray([[0.5, 0.5], row]))
    refused("softmax_cross_entropy", y, t, "t has y's shape, so it must hold probabilities")


@pytest.mark.parametrize("t", [[-1, 1], [0, 255], [0.5, 1.001], [NAN, 0], [2, 1]])
def test_wrong_answers(backend, t):
    refused("binary_cross_entropy", dn.asarray([0.0, 0.0]), dn.asarray(t), "t must lie between 0 .no. and 1 .yes.")
    assert dn.losses.binary_cross_entropy(dn.asarray([0.0, 0.0]), dn.asarray(t), check_labels=False)


@pytest.mark.parametrize("name", COMMON)
def test_wrong_arrays(backend, name):
    y = dn.asarray(np.ones((4, 1)))
    if name.startswith("softmax"):
        refused(name, dn.asarray(np.ones(3)), dn.asarray(1), r"y has shape \(3,\); expected logits")
        refused(name, dn.asarray(np.ones((3, 0))), dn.asarray([0, 0, 0]), r"y has shape \(3, 0\)")
        refused(name, dn.asarray(np.ones((0, 3))), dn.asarray(np.ones(0, int)), "y has shape .* empty batch")
    else:
        refused(name, y, dn.asarray(np.ones(4)), r"y has shape \(4, 1\) and t \(4,\); expected one shape")
        refused(name, dn.asarray(np.ones((0, 3))), dn.asarray(np.ones((0, 3))), "y has shape .* empty batch")
        refused(name, dn.asarray(np.asarray(1.0)), dn.asarray(np.asarray(1.0)), "y has shape")
    refused(name, dn.asarray(np.ones((4, 1), int)), y, "y has dtype int64", TypeError)
    refused(name, y, [[0]] * 4, "t is a list; expected an array. Make one with dn.asarray", TypeError)
    refused(name, None, y, "y is None; expected an array", TypeError)
    if dn.get_backend() == "numpy":
        refused(name, y, np.ones((4, 1), complex), "t has dtype complex128; expected real numbers", TypeError)


def test_arrays_of_two_backends():
    y = dn.asarray(np.ones((2, 3)), backend="strict")
    for name in losses.NAMES:
        refused(name, y, np.ones((2, 3)), "y lives on strict and t on numpy", TypeError)


@pytest.mark.parametrize("value", [-0.1, 1.0, NAN, INF, None, "0.1", True, (0.1,)])
@pytest.mark.parametrize("name", ["softmax_cross_entropy", "binary_cross_entropy"])
def test_wrong_smoothing(name, value):
    t = dn.asarray([0]) if name.startswith("softmax") else dn.asarray([[0.0]])
    refused(name, dn.asarray([[1.0]]), t, "label_smoothing", (TypeError, ValueError), label_smoothing=value)


@pytest.mark.parametrize("value", [-1, 0, NAN, INF, None, "1", True])
def test_wrong_delta(value):
    refused("huber", dn.asarray([1.0]), dn.asarray([1.0]), "delta", (TypeError, ValueError), delta=value)


# -- the device waits for nothing but the labels -----------------------------------------------------------------------


def test_transfers():
    with dn.use_backend("strict"):
        y, labels, t = dn.asarray(np.ones((2, 3))), dn.asarray([0, 2]), dn.asarray(np.full((2, 3), 1 / 3))
        with dn.transfers("count") as moved:
            for loss, target in (
                ("softmax_cross_entropy", labels),
                ("softmax_cross_entropy", t),
                ("binary_cross_entropy", t),
            ):
                getattr(dn.losses, loss)(y, target)[1]()
            losses.check_labels("fit", labels, 3)
        assert (moved.to_host, moved.to_device) == (4, 0)  # one each, of two numbers
        with dn.transfers("forbid"):
            dn.losses.softmax_cross_entropy(y, labels, check_labels=False, label_smoothing=0.1)[1]()
            dn.losses.softmax_cross_entropy(y, t, check_labels=False)[1]()
            dn.losses.binary_cross_entropy(y, t, check_labels=False)[1]()
            dn.losses.mean_squared_error(y, t)[1](dn.losses.huber(y, t)[0])


def test_check_labels(backend):
    assert losses.check_labels("fit", dn.asarray(np.asarray([[0, 2]], np.uint8)), 3) is None
    assert losses.check_labels("fit", dn.asarray(np.ones(0, int)), 3) is None
    for t, message in [([0, 3], "fit: label 3"), ([-1], "fit: label -1"), ([0.0], "fit: labels must be integers")]:
        with pytest.raises(ValueError, match=message):
            losses.check_labels("fit", dn.asarray(t), 3)
    with pytest.raises(TypeError, match="fit: t is a list"):
        losses.check_labels("fit", [0, 1], 3)


# -- what each loss is -------------------------------------------------------------------------------------------------

OWN = lambda y, t: dn.losses.huber(y, t, delta=2.0)  # noqa: E731
SMOOTH = functools.partial(functools.partial(dn.losses.softmax_cross_entropy, label_smoothing=0.1))


def test_the_table_knows_a_loss_by_name_as_itself_and_with_options():
    for name, function in losses.NAMES.items():
        options = functools.partial(functools.partial(function), check_labels=True)
        for given in (name, function, options):
            assert losses.about(given).function is function
    assert losses.about(OWN) == losses.About(OWN)
    assert losses.about(SMOOTH).function is dn.losses.softmax_cross_entropy
    with pytest.raises(ValueError, match="unknown loss"):
        losses.about("none")


def test_unchecked_losses_keep_their_options_and_look_at_nothing(rng):
    with dn.use_backend("strict"):
        y, t = dn.asarray(rng.standard_normal((4, 3))), dn.asarray(rng.integers(0, 3, 4))
        q = dn.asarray(rng.uniform(0, 1, (4, 3)))
        want = dn.to_numpy(SMOOTH(y, t)[0])
        with dn.transfers("forbid"):
            found = losses.unchecked(SMOOTH)(y, t)[0]
            for name in ("binary_cross_entropy", "mean_squared_error", "huber"):
                losses.unchecked(name)(y, q)
        assert dn.to_numpy(found) == want != dn.to_numpy(losses.unchecked("softmax_cross_entropy")(y, t)[0])
    assert losses.unchecked(OWN) is OWN and losses.unchecked("huber") is dn.losses.huber


@pytest.mark.parametrize(
    "name, shape, right, wrong",
    [
        ("softmax_cross_entropy", (2, 3), [0, 2], [0, 3]),
        ("softmax_cross_entropy", (2, 2), [[0.5, 0.5], [0, 1]], [[0.5, 0.4], [0, 1]]),
        ("binary_cross_entropy", (2, 2), [[0, 1], [0.5, 1]], [[0, 1], [0.5, 2]]),
    ],
)
def test_targets_are_checked_as_the_loss_checks_them(backend, name, shape, right, wrong):
    y, check = dn.asarray(np.zeros(shape)), losses.about(name).check
    check("fit", y, dn.asarray(right))
    with pytest.raises(ValueError) as one:
        check("fit", y, dn.asarray(wrong))
    with pytest.raises(ValueError) as other:
        losses.get(name)(y, dn.asarray(wrong))
    assert str(one.value).removeprefix("fit: ") == str(other.value).removeprefix(f"{name}: ")
    assert losses.about("huber").check is losses.about("mean_squared_error").check is None


def test_which_answers_are_right(backend):
    y = dn.asarray([[2.0, 1.0, 0.0], [0.0, 1.0, 2.0]])
    right = losses.about("softmax_cross_entropy").right
    assert dn.to_numpy(right(y, dn.asarray([0, 1]))).tolist() == [True, False]
    assert dn.to_numpy(right(y, dn.asarray([[0.1, 0.8, 0.1], [0.2, 0.2, 0.6]]))).tolist() == [False, True]
    right = losses.about("binary_cross_entropy").right
    y, t = dn.asarray([[2.0, -1.0], [0.0, 3.0]]), dn.asarray([[1.0, 0.0], [1.0, 0.3]])
    assert dn.to_numpy(right(y, t)).tolist() == [[True, True], [False, False]]


def test_what_a_loss_contains_is_what_its_probabilities_are(backend, rng):
    """The slope of the loss is p − q: with q = 0 nearly everywhere, p is what the op makes of y."""
    y = rng.standard_normal((5, 3))
    p = dn.to_numpy(losses.about("binary_cross_entropy").contains(dn.asarray(y))[0])
    np.testing.assert_allclose(15 * run("binary_cross_entropy", y, np.zeros((5, 3)))[1], p, rtol=1e-12)
    p = dn.to_numpy(losses.about("softmax_cross_entropy").contains(dn.asarray(y))[0])
    np.testing.assert_allclose(
        5 * run("softmax_cross_entropy", y, np.zeros(5, int))[1] + np.eye(3)[[0] * 5], p, rtol=1e-12
    )
    assert losses.about("huber").contains is None


def test_outputs_in_words(backend):
    """By hand: e / (1 + e) is 73.1 %."""
    net, y = dn.Dense(2), dn.asarray([[0.0, 1.0], [-1.0, -3.0]])
    classes = ["class 1 (73.1 %)", "class 0 (88.1 %)"]
    raw = ["0, 1 (the largest is output 1)", "-1, -3 (the largest is output 0)"]
    assert losses.in_words(net, y) == classes  # before any training
    for loss, words in {
        "softmax_cross_entropy": classes,
        SMOOTH: classes,
        None: raw,  # a loss of your own, from a file
        OWN: raw,
        "binary_cross_entropy": ["label 1 (73.1 %)", "none of the 2 labels (the likeliest is label 0, 26.9 %)"],
        "mean_squared_error": ["0, 1", "-1, -3"],
        dn.losses.huber: ["0, 1", "-1, -3"],
    }.items():
        net.loss = loss
        assert losses.in_words(net, y) == words
        assert losses.in_words(net, y[:0]) == []


@pytest.mark.parametrize("shape", [(2, 1), (2,), (2, 1, 1, 1)])
def test_one_output_is_yes_or_no_or_a_number_but_no_class(backend, shape):
    net, y = dn.Dense(1), dn.asarray([1.0, -1.0]).reshape(shape)
    for loss, words in {
        "softmax_cross_entropy": ["1", "-1"],  # of one class, softmax would always say 100 %
        None: ["1", "-1"],
        OWN: ["1", "-1"],
        "binary_cross_entropy": ["yes (73.1 %)", "no (73.1 %)"],
        "huber": ["1", "-1"],
    }.items():
        net.loss = loss
        assert losses.in_words(net, y) == words


def test_a_network_that_ends_with_softmax_or_sigmoid_gives_probabilities_already(backend):
    """Softmax of (0.9, 0.1) would be 69.0 %, and σ(0.1) > ½ would always say yes."""
    y = dn.asarray([[0.9, 0.1]])
    classes, labels = dn.Sequential([dn.Dense(2), dn.Softmax()]), dn.Sequential([dn.Dense(2), dn.Sigmoid()])
    assert losses.in_words(classes, y) == ["class 0 (90.0 %)"] and losses.in_words(labels, y) == ["label 0 (90.0 %)"]
    classes.loss, labels.loss = None, "binary_cross_entropy"
    assert losses.in_words(classes, y) == ["class 0 (90.0 %)"] and losses.in_words(labels, y) == ["label 0 (90.0 %)"]
    logs = dn.Sequential([dn.Dense(2), dn.LogSoftmax()])
    assert losses.in_words(logs, dn.asarray(np.log([[0.9, 0.1]]))) == ["class 0 (90.0 %)"]


def test_no_answer_and_answers_that_are_no_row(backend):
    net = dn.Dense(2)
    no = "no answer: the network gave NaN or infinity"
    y = dn.asarray([[0.0, np.nan], [np.inf, 0.0], [-np.inf, 0.0], [-np.inf, -np.inf]])
    with np.errstate(invalid="ignore"):
        assert losses.in_words(net, y) == [no, no, "class 1 (100.0 %)", no]
        for loss in ("mean_squared_error", "binary_cross_entropy", None):
            net.loss = loss
            assert losses.in_words(net, y)[:2] == [no, no]
    maps = dn.asarray(np.arange(8.0).reshape(1, 2, 2, 2))
    assert losses.in_words(net, maps) == ["2 × 2 × 2 numbers from 0 to 7, on average 3.5"]
    net.loss = "mean_squared_error"
    assert losses.in_words(net, dn.asarray(np.arange(30.0)[None])) == ["0, 1, 2, 3, 4, 5, 6, 7, 8, 9, … (30 numbers)"]


# -- by name -----------------------------------------------------------------------------------------------------------


def test_get():
    for name in ("softmax_cross_entropy", "mean_squared_error", "binary_cross_entropy", "huber"):
        assert losses.get(name) is getattr(dn.losses, name)
    own = lambda y, t: dn.losses.huber(y, t, delta=2.0)  # noqa: E731
    assert losses.get(own) is own
    with pytest.raises(ValueError, match="unknown loss 'cross_entropy'; choose from softmax_cross_entropy, mean_sq"):
        losses.get("cross_entropy")
    for wrong in (None, 3, ["huber"]):
        with pytest.raises(TypeError, match="loss must be a name or a function"):
            losses.get(wrong)


# -- weights -----------------------------------------------------------------------------------------------------------


def example(name, rng, shape):
    """Outputs and targets that the loss takes."""
    y = 3 * rng.standard_normal(shape)
    if name == "kl_divergence":
        return y, rng.dirichlet(np.ones(shape[-1]), shape[:-1])
    return y, rng.integers(0, shape[-1], shape[:-1]) if name.startswith("softmax") else rng.uniform(0, 1, shape)


def axes_of(name, y):
    """The number of axes that the loss is averaged over."""
    rows = ("softmax_cross_entropy", "softmax_focal", "kl_divergence", "cosine_distance")
    return y.ndim - 1 if name in rows else 1 if name in ("mean_squared_error", "dice") else y.ndim


def weighed(name, y, t, weights, dtype="float64", **options):
    loss, pullback = losses.get(name)(dn.asarray(y, dtype), dn.asarray(t), dn.asarray(weights), **options)
    hidden(pullback)
    return dn.to_numpy(loss)[()], dn.to_numpy(pullback())


@pytest.mark.parametrize("name", list(losses.NAMES))
def test_weights_are_repeated_examples(backend, rng, name):
    """An example of weight 3 is that example three times, and one of weight 0 is not there."""
    y, t = example(name, rng, (4, 2, 3))
    times = np.asarray([1, 3, 0, 2])
    loss, dy = weighed(name, y, t, times)
    same, repeated = run(name, np.repeat(y, times, 0), np.repeat(t, times, 0))
    assert loss == pytest.approx(same, rel=1e-14)
    together = np.zeros_like(y)
    np.add.at(together, np.repeat(np.arange(4), times), repeated)
    np.testing.assert_allclose(dy, together, rtol=1e-12, atol=1e-16)
    for factor in (7.0, 1e-300, 1e300):  # only their ratio counts
        again, same_dy = weighed(name, y, t, factor * times)
        assert again == pytest.approx(loss, rel=1e-14)
        np.testing.assert_allclose(same_dy, dy, rtol=1e-12)


@pytest.mark.parametrize("name", list(losses.NAMES))
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_what_has_the_weight_0_is_left_out(backend, rng, name, dtype):
    """Its y and t may be anything, also impossible; its dy is exactly 0."""
    y, t = example(name, rng, (5, 3, 4))
    kept = np.asarray([True, False, True, True, False])
    want, want_dy = run(name, y[kept], t[kept], dtype)
    for nonsense in (NAN, INF, -INF):
        y[~kept], t[~kept] = nonsense, 255 if t.dtype.kind == "i" else NAN
        loss, dy = weighed(name, y, t, kept, dtype)
        assert loss == pytest.approx(want, rel=2 * tau(dtype, y.size))
        assert not dy[~kept].any() and error(dy[kept], want_dy) <= 2 * tau(dtype, y.size)


def test_probabilities_of_weight_0_are_not_looked_at(backend, rng):
    y, q = rng.standard_normal((3, 4)), rng.dirichlet(np.ones(4), 3)
    want = run("softmax_cross_entropy", y[:2], q[:2])[0]
    q[2] = [NAN, 7, -1, 0]
    assert weighed("softmax_cross_entropy", y, q, [0.5, 0.5, 0.0])[0] == pytest.approx(want, rel=1e-14)


@pytest.mark.parametrize("name", list(losses.NAMES))
def test_weights_of_places(backend, rng, name):
    """Against the loops, with weights of every number of axes that there can be."""
    y, t = example(name, rng, (3, 2, 4))
    for axes in range(1, axes_of(name, y) + 1):
        w = rng.uniform(0, 2, y.shape[:axes]) * (rng.random(y.shape[:axes]) < 0.7)
        w.reshape(-1)[0] = 1.0
        loss, dy = weighed(name, y, t, w)
        assert error(loss, getattr(reference, name)(y, t, w)) <= tau("float64", y.size)
        assert error(dy, getattr(reference, f"{name}_backward")(y, t, w)) <= tau("float64", y.size)


@pytest.mark.parametrize("name", list(losses.NAMES))
def test_no_weights_are_equal_weights_and_none_at_all_give_0(backend, rng, name):
    y, t = example(name, rng, (5, 2, 3))
    loss, dy = run(name, y, t)
    same, same_dy = weighed(name, y, t, np.full(5, 0.3))
    assert same == pytest.approx(loss, rel=1e-14)
    np.testing.assert_allclose(same_dy, dy, rtol=1e-13)
    for nothing in (np.zeros(5), np.zeros(5, bool), -np.zeros(5)):
        loss, dy = weighed(name, y, t, nothing)
        assert loss == 0 and not dy.any()


@pytest.mark.parametrize("name", list(losses.NAMES))
def test_wrong_weights(backend, name):
    y, t = dn.asarray(np.ones((3, 2, 2))), dn.asarray(np.zeros((3, 2) if "softmax" in name else (3, 2, 2), int))
    for shape in [(), (2,), (3, 1), (1,), (3, 2, 2, 1), (3, 2, 1)]:
        with pytest.raises(ValueError, match=rf"{name}: weights has shape .*; for y \(3, 2, 2\) expected \(3,\)"):
            losses.get(name)(y, t, dn.asarray(np.ones(shape)))
    with pytest.raises(TypeError, match=f"{name}: weights is a list"):
        losses.get(name)(y, t, [1.0, 1.0, 1.0])
    for value in (-1.0, NAN, INF):
        weights = dn.asarray(np.asarray([1.0, value, 0.0]))
        if dn.get_backend() == "numpy":
            with pytest.raises(ValueError, match=f"{name}: weights must be finite numbers of at least 0, got"):
                losses.get(name)(y, t, weights)
        else:  # which is not asked, and so cannot wait
            with dn.transfers("forbid"):
                options = losses.about(name).unchecked
                loss = losses.get(name)(y, t, weights, **options)[0]
            assert np.isnan(dn.to_numpy(loss))
