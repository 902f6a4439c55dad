"""Activations: loops, slopes, limits at ±inf, the normal distribution to 50 digits, softmax lines, errors."""

from __future__ import annotations

from decimal import Decimal, localcontext

import numpy as np
import pytest
import reference
from oracles import error, prove, tau

import dualnet as dn
from dualnet.ops.activation import normal_cdf

INF, NAN = float("inf"), float("nan")

# op, options, f(−inf), f(inf), f'(−inf), f'(inf), what is kept
ELEMENTWISE = [
    ("relu", {}, 0, INF, 0, 1, ["y"]),
    ("leaky_relu", {}, -INF, INF, 0.01, 1, ["y"]),
    ("leaky_relu", {"alpha": 0.25}, -INF, INF, 0.25, 1, ["y"]),
    ("leaky_relu", {"alpha": 0}, 0, INF, 0, 1, ["y"]),
    ("leaky_relu", {"alpha": 2.5}, -INF, INF, 2.5, 1, ["y"]),
    ("elu", {}, -1, INF, 0, 1, ["y"]),
    ("elu", {"alpha": 0.5}, -0.5, INF, 0, 1, ["y"]),
    ("elu", {"alpha": 0.0}, 0, INF, 0, 1, ["y"]),
    ("gelu", {}, 0, INF, 0, 1, ["x", "gate"]),
    ("gelu", {"approximate": True}, 0, INF, 0, 1, ["x", "gate"]),
    ("silu", {}, 0, INF, 0, 1, ["x"]),
    ("mish", {}, 0, INF, 0, 1, ["x"]),
    ("sigmoid", {}, 0, 1, 0, 0, ["y"]),
    ("tanh", {}, -1, 1, 0, 0, ["y"]),
    ("softplus", {}, 0, INF, 0, 1, ["y"]),
]
SOFT = ["softmax", "log_softmax"]
OPS = [row[:2] for row in ELEMENTWISE]


def run(op, x, options, dtype=None):
    """y and the slope f'(x) (the gradient for dy = 1) as NumPy arrays."""
    x = dn.asarray(x, dtype)
    y, pullback = getattr(dn.ops, op)(x, **options)
    dx = pullback(dn.asarray(np.ones(x.shape), x.dtype))
    assert y.dtype == dx.dtype == x.dtype and y.shape == dx.shape == x.shape
    return dn.to_numpy(y), dn.to_numpy(dx)


def away_from_zero(x):
    """ReLU and its kin have no slope at 0: a central difference must not reach over it."""
    return x + np.copysign(1e-3, x)


@pytest.mark.parametrize("op, options", OPS)
@pytest.mark.parametrize("shape", [(50,), (2, 3, 4, 5), (9, 1, 5)])
def test_elementwise(backend, rng, op, options, shape):
    prove(op, [away_from_zero(rng.uniform(-3, 3, shape))], options, K=1)


@pytest.mark.parametrize("op, options", OPS)
def test_one_number(backend, op, options):
    for one, many in zip(run(op, -1.5, options), run(op, [-1.5], options)):
        assert one.shape == () and one == many[0]


@pytest.mark.parametrize("op", SOFT)
@pytest.mark.parametrize(
    "shape, axis", [((4, 7), -1), ((4, 7), 0), ((2, 3, 4, 5), -1), ((2, 3, 4, 5), 1), ((1, 1), -1)]
)
def test_softmax(backend, rng, op, shape, axis):
    prove(op, [3 * rng.standard_normal(shape)], {"axis": axis}, K=shape[axis])


# -- limits ------------------------------------------------------------------------------------------------------------

SUBNORMAL = {"float16": 1e-6, "float32": 1e-40, "float64": 1e-310}


@pytest.mark.parametrize("op, options, low, high, low_slope, high_slope, kept", ELEMENTWISE)
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_limits_of_an_activation(backend, op, options, low, high, low_slope, high_slope, kept, dtype):
    values = [0.0, 1.0, -1.0, 1e4, -1e4, SUBNORMAL[dtype], -SUBNORMAL[dtype], 30.0, -30.0]
    x = np.asarray(values, dtype)
    y, slope = run(op, x, options)
    exact = x.astype(np.float64)
    unit, least = np.finfo(dtype).eps, np.finfo(dtype).smallest_subnormal
    least = least if "cupy" not in backend else np.finfo(dtype).tiny  # subnormals are 0 there
    want, want_slope = getattr(reference, op)(exact, **options), reference_slope(op, exact, options)
    rounded = 40 if op != "gelu" else 1000  # the loops' erfc(x/√2) and 1 + tanh lose digits, which x² magnifies
    np.testing.assert_allclose(y.astype(np.float64), want, rtol=rounded * unit, atol=2 * float(least))
    np.testing.assert_allclose(slope.astype(np.float64), want_slope, rtol=40 * unit, atol=4 * unit)

    y, slope = run(op, [-INF, INF, NAN], options, dtype)
    np.testing.assert_array_equal(y, np.asarray([low, high, NAN], dtype))
    np.testing.assert_array_equal(slope[:2], np.asarray([low_slope, high_slope], dtype))


def reference_slope(op, x, options):
    return getattr(reference, f"{op}_backward")(np.ones(x.shape), x, **options)


@pytest.mark.parametrize("op", ["sigmoid", "silu", "mish", "softplus", "elu", "tanh"])
def test_tails_keep_their_digits(backend, op):
    """The left tail of a function that goes to 0 is right in every digit, not only beside 1."""
    for dtype, unit in (("float64", 2.3e-16), ("float32", 1.2e-7)):
        x = np.linspace(-80, -2, 57).astype(dtype)
        y, _ = run(op, x, {}, dtype)
        np.testing.assert_allclose(y, getattr(reference, op)(x), rtol=8 * unit)


def test_the_tail_of_the_approximate_gelu_keeps_its_digits(backend):
    x = np.linspace(-9, -2, 57)
    y, _ = run("gelu", x, {"approximate": True}, "float64")
    v = np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)
    np.testing.assert_allclose(y, x * np.exp(2 * v) / (1 + np.exp(2 * v)), rtol=1e-13)  # ½ (1 + tanh v) has no tail


def test_relu_has_slope_0_at_0_and_keeps_its_result(backend):
    y, pullback = dn.ops.relu(dn.asarray([-0.0, 0.0, 1e-30, NAN]))
    assert dn.to_numpy(pullback(dn.asarray([1.0, 1.0, 1.0, 1.0])))[:3].tolist() == [0, 0, 1]
    assert pullback.saved["y"] is y and np.isnan(dn.to_numpy(y)[3])


def test_leaky_relu_hands_on_a_dy_that_its_slope_would_overflow(backend):
    """In float16 alpha · dy is inf here, and 0 · inf NaN: but y > 0, so dx is dy."""
    y, pullback = dn.ops.leaky_relu(dn.asarray([1.0, -1.0], "float16"), alpha=2.5)
    assert dn.to_numpy(pullback(dn.asarray([60000.0, 1.0], "float16"))).tolist() == [60000, 2.5]


@pytest.mark.parametrize("options", [{}, {"stride": 1, "padding": 1}, {"dilation": 2, "stride": 1}])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_relu_in_the_same_pass_as_a_max_pooling(backend, rng, options, dtype):
    """max_pool2d(relu=True) is max_pool2d, then relu (E7, E14), bit for bit; and relu, then max_pool2d."""
    x = rng.integers(-9, 7, (3, 8, 6, 5)).astype(dtype)  # with ties, and windows below 0
    x[0, 0] = np.nan
    x = dn.asarray(x)
    between, first = dn.ops.max_pool2d(x, 2, **options)
    y, second = dn.ops.relu(between)
    together, way = dn.ops.max_pool2d(x, 2, relu=True, **options)
    assert np.array_equal(dn.to_numpy(together), dn.to_numpy(y), equal_nan=True)
    assert (dn.to_numpy(y) == 0).any() and (dn.to_numpy(y) > 0).any() and np.isnan(dn.to_numpy(y)).any()
    dy = dn.asarray(rng.standard_normal(y.shape), dtype)
    assert np.array_equal(dn.to_numpy(way(dy)), dn.to_numpy(first(second(dy))))
    smaller, back = dn.ops.relu(x)
    other, undo = dn.ops.max_pool2d(smaller, 2, **options)
    assert np.array_equal(dn.to_numpy(other), dn.to_numpy(y), equal_nan=True)
    assert np.array_equal(dn.to_numpy(back(undo(dy))), dn.to_numpy(way(dy)))


@pytest.mark.parametrize("op, options, kept", [(row[0], row[1], row[-1]) for row in ELEMENTWISE])
def test_what_an_activation_keeps(backend, op, options, kept):
    x = dn.asarray([1.0, -2.0])
    assert list(getattr(dn.ops, op)(x, **options)[1].saved) == kept


# -- the normal distribution -------------------------------------------------------------------------------------------

ROOT_2_PI = Decimal("2.50662827463100050241576528481104525300698674060993831663")  # √(2π)


def phi(x: float) -> Decimal:
    """Φ(x) to 40 digits: Φ(−a) = φ(a) / (a + 1/(a + 2/(a + 3/(a + …)))) (Laplace), near 0 the series of Φ(a) − ½."""
    with localcontext() as context:
        context.prec = 60
        a = abs(Decimal(x))
        density = (-a * a / 2).exp() / ROOT_2_PI
        if a < 2:  # Φ(a) = ½ + φ(a) (a + a³/3 + a⁵/(3·5) + …)
            term, total, n = a, Decimal(0), 1
            while term > Decimal("1e-55"):
                total, n = total + term, n + 2
                term = term * a * a / n
            tail = Decimal("0.5") - density * total
        else:
            fraction = a
            for n in range(900, 0, -1):
                fraction = a + n / fraction
            tail = density / fraction
        return tail if x < 0 else 1 - tail


def test_the_oracle_of_the_normal_distribution():
    from math import erf, sqrt

    for x in (-1.5, -0.3, 0.0, 0.7, 2.0, 3.1):
        assert float(phi(x)) == pytest.approx(0.5 * (1 + erf(x / sqrt(2))), rel=1e-14)
    assert abs(phi(-2.0) / phi(-1.9999999999999) - 1) < Decimal("1e-12")  # the two formulas meet


@pytest.mark.parametrize("dtype, limit, lowest", [("float64", 1e-15, -37.4), ("float32", 4.5e-7, -12.9)])
def test_normal_cdf_is_right_in_every_digit(backend, rng, dtype, limit, lowest):
    x = np.concatenate([rng.uniform(lowest, 0, 250), rng.uniform(-3, 8, 150), [lowest, 0.0]]).astype(dtype)
    y = dn.to_numpy(normal_cdf(dn.asarray(x)))
    assert y.dtype == dtype
    for value, got in zip(x.tolist(), y.tolist()):
        want = phi(value)
        assert abs(Decimal(got) - want) <= Decimal(limit) * want, f"Φ({value}) = {want}, got {got}"


def test_normal_cdf_far_out(backend):
    far = dn.to_numpy(normal_cdf(dn.asarray([-INF, -1e30, -40.0, 9.0, 1e30, INF, NAN], "float64")))
    np.testing.assert_array_equal(far, [0, 0, 0, 1, 1, 1, NAN])
    half = normal_cdf(dn.asarray([-1.0, 0.0], "float16"))
    assert half.dtype == "float16" and dn.to_numpy(half).tolist() == [np.float16(0.15865525), 0.5]


# -- softmax -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_softmax_of_infinite_logits(backend, dtype):
    rows = [[INF, 0, INF, -INF], [-INF] * 4, [-INF, 3, -INF, 3], [1e4, -1e4, 0, 1e4], [INF] * 4, [0, NAN, 0, 0]]
    want = np.asarray([[0.5, 0, 0.5, 0], [0.25] * 4, [0, 0.5, 0, 0.5], [0.5, 0, 0, 0.5], [0.25] * 4, [NAN] * 4], dtype)
    y, dx = run("softmax", rows, {}, dtype)
    np.testing.assert_array_equal(y, want)
    np.testing.assert_array_equal(dx[:-1], np.zeros((5, 4)))  # the shares of a row always add up to 1
    logs, _ = run("log_softmax", rows, {}, dtype)
    log_want = np.asarray([[np.log(v) if v > 0 else -INF if v == 0 else v for v in row] for row in want])
    log_want[3, 1:3] = -2e4 - np.log(2), -1e4 - np.log(2)  # finite, where softmax itself is 0
    np.testing.assert_allclose(logs, log_want.astype(dtype), rtol=np.finfo(dtype).eps)


@pytest.mark.parametrize("dtype, limit", [("float16", 2e-3), ("float32", 1e-6), ("float64", 1e-14)])
def test_softmax_over_many_classes(backend, rng, dtype, limit):
    x = np.zeros((5000, 2), dtype)  # in float16, a sum of ones down a column would stop at 2048
    y, _ = run("softmax", x, {"axis": 0})
    np.testing.assert_allclose(y, 1 / 5000, rtol=limit)
    logs, _ = run("log_softmax", x, {"axis": 0})
    np.testing.assert_allclose(logs, -np.log(5000), rtol=limit)


def test_softmax_over_1e5_classes_and_over_one(backend, rng):
    x = rng.standard_normal((2, 100_000)).astype(np.float32)
    y, _ = run("softmax", x, {})
    e = np.exp(x.astype(np.float64))
    assert error(y, e / e.sum(axis=1, keepdims=True)) < tau("float32", 100_000)
    for op, value in (("softmax", 1), ("log_softmax", 0)):
        y, dx = run(op, [[-1e4], [INF], [-INF], [3.0]], {})
        assert y.tolist() == [[value]] * 4 and dx.tolist() == [[0]] * 4


@pytest.mark.parametrize("op", SOFT)
def test_softmax_refuses_an_axis_that_is_not_there(backend, op):
    softmax = getattr(dn.ops, op)
    with pytest.raises(ValueError, match=f"{op}: x has shape .2, 3., which has no axis 2"):
        softmax(dn.asarray(np.ones((2, 3))), axis=2)
    with pytest.raises(ValueError, match="has no elements"):
        softmax(dn.asarray(np.ones((2, 0))))
    for axis in (None, 1.0, True, "last", (0, 1)):
        with pytest.raises(TypeError, match="axis must be an integer"):
            softmax(dn.asarray(np.ones((2, 3))), axis=axis)
    assert softmax(dn.asarray(np.ones((0, 3))))[0].shape == (0, 3)


# -- any input ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [-0.1, NAN, INF, -INF, 10**400])
@pytest.mark.parametrize("op", ["leaky_relu", "elu"])
def test_alpha_out_of_range(backend, op, alpha):
    with pytest.raises(ValueError, match=f"{op}: alpha must be a finite number of at least 0, got"):
        getattr(dn.ops, op)(dn.asarray([1.0]), alpha=alpha)


def test_numpy_scalars_as_options_do_not_widen(backend):
    x = dn.asarray([-1.0, 2.0])
    assert dn.ops.elu(x, alpha=np.float64(0.5))[0].dtype == "float32"
    assert dn.ops.leaky_relu(x, alpha=np.float64(0.5))[1](x).dtype == "float32"


@pytest.mark.parametrize("value", [None, "yes", 1, 0.0, (True,)])
def test_strange_options_are_refused(value):
    with pytest.raises(TypeError, match="gelu: approximate"):
        dn.ops.gelu(dn.asarray([1.0]), approximate=value)
