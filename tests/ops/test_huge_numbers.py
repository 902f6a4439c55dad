"""Huge, tiny and infinite numbers: a result that the dtype can hold comes out right, by every way to compute it.

The arguments are those of the parity certificate, made huge or tiny; the loops in float64 know the right results. Left
out are results that a dtype cannot hold, and sums of which a part overflows (Σ dy of huge deltas that nearly cancel).
"""

from __future__ import annotations

import contextlib
import functools

import numpy as np
import pytest
import reference
from ops.registry import run
from oracles import error, tau

import dualnet as dn
from dualnet.backends.cpu import passes as cpu_passes
from dualnet.backends.onednn import passes as onednn_passes
from dualnet.parity.cases import case as cases
from dualnet.parity.cases import truth

pytestmark = pytest.mark.once  # each test puts the backends that it computes on in force itself
INF, NAN = float("inf"), float("nan")
TOP = {"float32": 3.2e38, "float16": 65000.0}
SIZES = {"float32": (1e15, 1e19, 1e30, TOP["float32"], 1e-20, 1e-38), "float16": (3e3, TOP["float16"], 1e-4)}
NORMS = ("batch_norm", "batch_norm_relu", "layer_norm", "group_norm", "rms_norm")
OVERLAPPING = ("max_pool2d_relu", "reflect_pad2d", "upsample2d")
PRODUCTS = ("conv2d", "conv2d_relu", "conv_transpose2d", "dense", "dense_relu")
WAYS = [
    (backend, way)
    for backend in dn.available_backends()
    for way in (("reference", "NumPy", "oneDNN") if backend == "numpy" else ("",))
]


@pytest.fixture(params=WAYS, ids=lambda pair: " ".join(pair).strip())
def way(request, monkeypatch):
    """A backend in force and, on NumPy, which kernels are asked. They serve the smallest arrays, too."""
    backend, kernels = request.param
    monkeypatch.setenv("DUALNET_KERNELS", "reference" if kernels == "reference" else "auto")
    monkeypatch.setenv("DUALNET_ONEDNN", "1" if kernels == "oneDNN" else "0")
    monkeypatch.setenv("DUALNET_THREADS", "1")
    monkeypatch.setattr(cpu_passes, "SMALL", 0)
    monkeypatch.setattr(onednn_passes, "SMALL", 0)
    with dn.use_backend(backend):
        yield kernels or backend


def on_host(way):
    return way in ("reference", "NumPy", "oneDNN")


# -- huge and tiny -----------------------------------------------------------------------------------------------------


def scaled(a, size, dtype):
    """The largest element becomes TOP if that is the size; else every element is multiplied by it."""
    a = a.astype(np.float64)
    factor = size / np.abs(a).max() if size == TOP[dtype] and a.size else size
    return np.clip(a * factor, -TOP[dtype], TOP[dtype]).astype(dtype)


@functools.cache
def case_of(op, dtype, size, deltas):
    """A case with x of this size (and w of its inverse) and dy of size ``deltas``, and its right results by name."""
    case = cases.draw(op, 0, 1, dtype)
    values = "y" if case.loss else "x"
    case.arrays[values] = scaled(case.arrays[values], size, dtype)
    if op in PRODUCTS:
        case.arrays["w"] = scaled(case.arrays["w"], 1 / size, dtype)
    if not case.loss:
        truth.expected(case)  # draws dy
        case.dy = scaled(case.dy, deltas, dtype)
    return case, {name: each.value for name, each in truth.expected(case).items() if each.value is not None}


def asked(op, way, size, deltas, right):
    """The results that are promised."""
    for name, value in right.items():
        sums = name not in ("y", "dx", "dy", "loss")  # over the batch: of huge deltas they may overflow
        if (sums and (deltas != 1.0 or op in PRODUCTS)) or (op in PRODUCTS and name != "y"):
            continue
        if op in OVERLAPPING and name == "dx" and deltas != 1.0:
            continue  # windows overlap, and what overlaps is added up
        if way == "oneDNN" and op == "batch_norm_inference" and size > 1e30:
            continue  # the library multiplies by γ before it divides
        if name == "dvariance":
            continue  # a σ² that is given is not learned
        yield name, np.asarray(value, np.float64)


@pytest.mark.parametrize("op", cases.OPS)
@pytest.mark.parametrize("dtype", SIZES)
def test_right_wherever_the_right_result_is_a_number(way, op, dtype):
    compared = 0
    for size in SIZES[dtype]:
        for deltas in (1.0, TOP[dtype]):
            case, right = case_of(op, dtype, size, deltas)
            if not on_host(way) and (
                (op in NORMS and dtype == "float32" and (1e19 <= size or deltas > 1)) or op == "l2_pool2d"
            ):
                continue  # these look at numbers, for which a device would have to wait
            most = float(np.finfo(dtype).max)
            fits = deltas == 1.0 and op not in PRODUCTS and all((np.abs(v) <= most).all() for v in right.values())
            with contextlib.nullcontext() if fits else np.errstate(all="ignore"):
                found = run(
                    case,
                    {name: None if a is None else dn.asarray(a) for name, a in case.arrays.items()},
                    None if case.loss else dn.asarray(case.dy),
                )
            for name, value in asked(op, way, size, deltas, right):
                got, inside = dn.to_numpy(found[name]).astype(np.float64), np.abs(value) <= most
                what = f"{op} {name}, {dtype} of {size:g}, deltas of {deltas:g}"
                assert np.isfinite(got[inside]).all(), f"{what}: not finite"
                gap, norm = (float(np.linalg.norm(each[inside])) for each in (got - value, value))
                least = 8 * float(np.finfo(dtype).tiny) * np.sqrt(value.size)
                assert gap <= 8 * tau(dtype, value.size) * norm + least, f"{what}: off by {gap / (norm or 1):.1e}"
                compared += inside.sum()
    assert compared or op in ("flatten", "l2_pool2d", *NORMS)


@pytest.mark.parametrize("n, C", [(2, 3), (40, 1)])
def test_a_channel_of_huge_values_leaves_the_others_alone(way, rng, n, C):
    """Batch norm does not change if its channel is scaled, and neither does a set of layer norm or group norm."""
    if not on_host(way):
        pytest.skip("a device is not asked for its numbers")
    x, dy = rng.standard_normal((2, n, 4, 4, C)).astype("float32")
    one, zero = np.ones(C, "float32"), np.zeros(C, "float32")
    big = x.copy()
    big[..., 0] *= np.float32(2.0**100)
    for options in ({"relu": False}, {"relu": True}):
        y, back = dn.ops.batch_norm(*map(dn.asarray, (x, one, zero)), epsilon=1e-12, **options)
        same, way_back = dn.ops.batch_norm(*map(dn.asarray, (big, one, zero)), epsilon=1e-12, **options)
        assert error(same, y) <= tau("float32", n * 16)
        (dx, dgamma, dbeta), (small, *sums) = back(dy), way_back(dy)
        small[..., 0] *= np.float32(2.0**100)
        assert error(small, dx) <= 4 * tau("float32", n * 16)
        assert error(np.stack(sums), np.stack([dgamma, dbeta])) <= 4 * tau("float32", n * 16)
        assert error(way_back.saved["mean"], big.astype(float).mean((0, 1, 2))) <= tau("float32", n * 16)
        assert np.isinf(way_back.saved["variance"]).tolist() == [True, False, False][:C], "no number of float32"


def test_on_a_device_the_variance_of_huge_values_is_infinite(way, rng):
    """Then x̂ is 0, as in PyTorch. dn.ops.batch_norm says so in saved["variance"]."""
    if on_host(way):
        pytest.skip("the host looks at the variance")
    x = dn.asarray(1e30 * rng.standard_normal((4, 3)), "float32")
    one = dn.asarray(np.ones(3, "float32"))
    y, pullback = dn.ops.batch_norm(x, one, one)
    assert np.isinf(dn.to_numpy(pullback.saved["variance"])).all() and (dn.to_numpy(y) == 1).all()


@pytest.mark.parametrize("size", [3e38, 1e-30, 0.0])
def test_a_set_of_equal_values_is_0(way, size):
    if not on_host(way) and size > 1:
        pytest.skip("a device is not asked for its numbers")
    x, one = np.full((2, 8), size, "float32"), np.ones(8, "float32")
    arrays = [dn.asarray(a) for a in (x, one, 0 * one)]
    for y, _ in (dn.ops.layer_norm(*arrays), dn.ops.group_norm(*arrays, groups=2), dn.ops.batch_norm(*arrays)):
        assert not dn.to_numpy(y).any()


def test_running_variances_near_the_top(backend):
    """3e38 · 4/3 · 0.1: the product of the first two overflows."""
    from dualnet.ops.normalization import followed

    values = [dn.asarray([v], "float32") for v in (0.0, 1.0, 2e38, 3e38)]
    mean, variance = followed(*values, 0.9, 4)
    assert error(dn.to_numpy(mean), [2e37]) <= 1e-6 and error(dn.to_numpy(variance), [4e37]) <= 1e-6


def test_products_that_are_made_small_again(way):
    """dy − Σ dy y is 4.5e38 before the share of ¼; dy (x − μ) is 1e45 before the 1/s of 1e-10."""
    _, pullback = dn.ops.softmax(dn.asarray([[0.0, np.log(3.0)]], "float32"))
    assert error(dn.to_numpy(pullback(dn.asarray([[3e38, -3e38]]))), [[1.125e38, -1.125e38]]) <= tau("float32", 2)
    x, one, mean, variance = (dn.asarray(v) for v in ([[1e25], [2e25]], [1.0], [0.0], [1e20]))
    _, pullback = dn.ops.batch_norm_inference(x, one, one, mean, variance)
    dgamma = pullback(dn.asarray([[1e20], [1e20]]))[1]
    assert error(dn.to_numpy(dgamma), [3e35]) <= tau("float32", 2)


# -- losses ------------------------------------------------------------------------------------------------------------

FAR = [  # loss, y, t, options, the right loss
    ("binary_cross_entropy", [1e38, 2e38, -3e38, 5.0], [0, 0, 1, 1], {}, 1.5e38),
    ("binary_cross_entropy", [3e38] * 1000, [0] * 500 + [1] * 500, {"label_smoothing": 0.2}, 1.5e38),
    ("softmax_cross_entropy", [[3e38, 0.0], [0.0, 3e38]], [1, 0], {}, 3e38),
    ("softmax_cross_entropy", [[3e38, -3e38], [0.0, 0.0], [0.0, 0.0]], [1, 0, 0], {}, 2e38),  # 6e38 is no float32
    ("softmax_cross_entropy", [[3e38, -3e38]], [0], {"label_smoothing": 0.1}, 3e37),
    ("softmax_cross_entropy", [[3e38, -3e38]], [[0.9, 0.1]], {}, 6e37),
    ("mean_squared_error", [4e19, 1.0, 0.0, 0.0], [0] * 4, {}, 2e38),  # (4e19)² / 2 is 8e38
    ("mean_squared_error", [[2e19, 0.0], [-2e19, 0.0]], [[0, 0], [0, 0]], {}, 2e38),
    ("huber", [3e38, 3e38, -3e38, 0.0], [0] * 4, {}, 2.25e38),
    ("huber", [3e38, 0.0, 0.0, 0.0], [-3e38, 0, 0, 0], {}, 1.5e38),
    ("huber", [1e20, 0.0, 0.0, 0.0], [0] * 4, {"delta": 1e19}, 2.375e38),
    ("huber", [3e38, 3e38], [0, 0], {"delta": 1e-30}, 3e8),
]


@pytest.mark.parametrize("name, y, t, options, right", FAR)
def test_a_mean_of_losses_is_finite_where_their_sum_is_not(way, name, y, t, options, right):
    y, t = np.asarray(y, "float32"), np.asarray(t)
    assert getattr(reference, name)(y, t, **options) == pytest.approx(right, rel=1e-6)
    loss, pullback = getattr(dn.losses, name)(dn.asarray(y), dn.asarray(t), **options)
    assert loss.dtype == "float32" and error(dn.to_numpy(loss), right) <= tau("float32", y.size)
    dy = dn.to_numpy(pullback())
    assert error(dy, getattr(reference, f"{name}_backward")(y, t, **options)) <= tau("float32", y.size)


def test_a_residual_may_be_beyond_the_top_while_its_share_is_not(way):
    _, pullback = dn.losses.mean_squared_error(dn.asarray([3e38, 1.0, 2.0, 3.0]), dn.asarray([-3e38, 0.0, 0.0, 0.0]))
    with np.errstate(all="ignore"):  # the loss itself is infinite
        assert error(dn.to_numpy(pullback()), [1.5e38, 0.25, 0.5, 0.75]) <= tau("float32", 4)


def test_float16_losses_near_the_top(way):
    y = dn.asarray([6e4] * 8, "float16")
    loss, _ = dn.losses.binary_cross_entropy(y, dn.asarray([0, 0, 0, 0, 0, 0, 1, 1]))
    assert loss.dtype == "float16" and float(dn.to_numpy(loss)) == 44992  # 45000, rounded


def test_the_loss_of_an_infinite_logit_on_the_wrong_side_stays_infinite(way):
    for name, y, t in (("binary_cross_entropy", [INF, 1.0], [0, 1]), ("huber", [INF, 1.0], [0, 0])):
        loss, _ = getattr(dn.losses, name)(dn.asarray(y), dn.asarray(t))
        assert dn.to_numpy(loss) == INF
    loss, _ = dn.losses.softmax_cross_entropy(dn.asarray([[0.0, -INF], [1e38, 0.0]]), dn.asarray([1, 1]))
    assert dn.to_numpy(loss) == INF


# -- the branch not taken ----------------------------------------------------------------------------------------------

RECTIFIED = [op for op in cases.OPS if op.endswith("_relu") and op != "leaky_relu"]


@pytest.mark.parametrize("value", [INF, -INF, NAN])
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
def test_the_branch_not_taken_adds_exactly_0(way, value, dtype):
    x = dn.asarray([[-2.0, 3.0, 0.0, -0.0, -1e-30, -INF, INF, 1.0]] * 3, dtype)
    active = dn.to_numpy(x) > 0
    dy = dn.asarray(np.where(active, 2.0, value), dtype)
    _, pullback = dn.ops.relu(x)
    np.testing.assert_array_equal(dn.to_numpy(pullback(dy)), np.where(active, 2.0, 0.0))
    for op in ("leaky_relu", "elu"):
        _, pullback = getattr(dn.ops, op)(x, alpha=0.0)
        np.testing.assert_array_equal(dn.to_numpy(pullback(dy)), np.where(active, 2.0, 0.0))


@pytest.mark.parametrize("value", [INF, -INF, NAN])
@pytest.mark.parametrize("op", ["relu", "leaky_relu", "elu", "softplus", "silu", "gelu"])
def test_an_infinite_delta_passes_an_active_unit(way, op, value):
    x = dn.asarray([[50.0, 60.0, INF, -1.0]] * 3)
    _, pullback = getattr(dn.ops, op)(x)
    dx = dn.to_numpy(pullback(dn.asarray([[value, 2.0, value, 1.0]] * 3)))
    np.testing.assert_array_equal(dx[:, :3], [[value, 2.0, value]] * 3)
    assert np.isfinite(dx[:, 3]).all()


def test_a_nan_keeps_its_slope_to_itself(way):
    """relu(NaN) is NaN, and NaN is not above 0: ReLU gives it the gradient 0, leaky ReLU alpha · dy."""
    x, dy = dn.asarray([[NAN, 1.0]] * 3), dn.asarray([[2.0, INF]] * 3)
    for op, slope in (("relu", 0.0), ("leaky_relu", 0.02)):
        y, pullback = getattr(dn.ops, op)(x)
        assert np.isnan(dn.to_numpy(y)[:, 0]).all()
        np.testing.assert_allclose(dn.to_numpy(pullback(dy)), [[slope, INF]] * 3)


@pytest.mark.parametrize("value", [INF, NAN])
@pytest.mark.parametrize("op", RECTIFIED)
def test_a_relu_in_the_same_pass(way, op, value):
    """Deltas of inactive units may be anything: the gradients are those of deltas of 0."""
    case, _ = case_of(op, "float32", 1.0, 1.0)
    arrays = {name: None if a is None else dn.asarray(a) for name, a in case.arrays.items()}
    y = dn.to_numpy(run(case, arrays, dn.asarray(case.dy))["y"])
    assert (y == 0).any() and (y > 0).any()
    want = run(case, arrays, dn.asarray(np.where(y > 0, case.dy, 0).astype("float32")))
    found = run(case, arrays, dn.asarray(np.where(y > 0, case.dy, value).astype("float32")))
    for name, expected in want.items():
        if expected is not None:
            assert error(dn.to_numpy(found[name]), dn.to_numpy(expected)) <= 4 * tau("float32", case.dy.size), name


@pytest.mark.parametrize("shared", [(), (1, 2)])
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
def test_what_is_dropped_is_exactly_0(way, shared, dtype):
    ones = dn.asarray(np.ones((3, 4, 5, 6)), dtype)
    kept = dn.to_numpy(dn.ops.dropout(ones, 0.5, key=1, shared_axes=shared)[0]) > 0
    for value in (INF, NAN):
        y, pullback = dn.ops.dropout(dn.asarray(np.where(kept, 1, value), dtype), 0.5, key=1, shared_axes=shared)
        for result in (y, pullback(dn.asarray(np.where(kept, 1, value), dtype))):
            np.testing.assert_array_equal(dn.to_numpy(result), 2.0 * kept)
        y, _ = dn.ops.dropout(dn.asarray(np.full(kept.shape, value), dtype), 0.5, key=1, shared_axes=shared)
        np.testing.assert_array_equal(dn.to_numpy(y), np.where(kept, value, 0))


def test_a_window_of_zeros_gets_0_from_any_delta(way):
    x = np.zeros((1, 2, 4, 1))
    x[0, :, 2:] = 1.0
    _, pullback = dn.ops.l2_pool2d(dn.asarray(x, "float32"), 2)
    for value in (INF, NAN):
        dx = dn.to_numpy(pullback(dn.asarray([[[[value], [2.0]]]], "float32")))
        assert dx[0, :, :2].ravel().tolist() == [0] * 4 and dx[0, :, 2:].ravel().tolist() == [1] * 4


@pytest.mark.parametrize("value", [INF, NAN])
def test_losers_of_a_max_pooling_get_0(way, value):
    x = dn.asarray(np.arange(32.0).reshape(1, 4, 4, 2), "float32")
    for pool in (dn.ops.max_pool2d, dn.ops.global_max_pool2d):
        y, pullback = pool(x, 2) if pool is dn.ops.max_pool2d else pool(x)
        dx = dn.to_numpy(pullback(dn.asarray(np.full(y.shape, value), "float32")))
        assert (~np.isfinite(dx)).sum() == y.size and (dx == 0).sum() == dx.size - y.size
