"""Pooling: loops, dot products, both backends, ties and other hard cases, errors."""

from __future__ import annotations

import numpy as np
import pytest
import reference
from oracles import error, prove, tau

import dualnet as dn
from dualnet.ops import pooling

POOLS, GLOBAL = ["max_pool2d", "avg_pool2d", "l2_pool2d"], ["global_avg_pool2d", "global_max_pool2d"]
ALL = [*POOLS, *GLOBAL]
CASES = [  # size, options: each names what it is there for
    ((4, 6), {"pool_size": 2}),  # windows side by side
    ((5, 7), {"pool_size": (3, 2)}),  # (H - k) mod s != 0: a row and a column that no window reads
    ((6, 7), {"pool_size": 3, "stride": 2}),  # windows that overlap
    ((6, 5), {"pool_size": 3, "stride": 1, "padding": 1}),
    ((7, 6), {"pool_size": (2, 3), "stride": (3, 1), "padding": ((1, 0), (0, 2)), "dilation": (3, 2)}),
    ((7, 6), {"pool_size": (3, 2), "stride": 2, "padding": "same"}),  # the odd row at the end
    ((5, 6), {"pool_size": 2, "stride": 3, "padding": "full"}),
    ((5, 5), {"pool_size": 2, "padding": "valid", "ceil_mode": True}),  # the last window hangs over
    ((6, 8), {"pool_size": 3, "stride": 2, "padding": 1, "ceil_mode": True}),  # ... over padding and beyond
    ((6, 6), {"pool_size": 1, "stride": 4}),  # windows that do not touch
    ((3, 4), {"pool_size": (3, 4)}),  # the whole map
    ((1, 1), {"pool_size": 1}),
]


def array(rng, size, N=2, C=3):
    return rng.standard_normal((N, *size, C))


def run(op, x, **options):
    """y, dx for a random dy and that dy, on the host."""
    y, pullback = getattr(dn.ops, op)(dn.asarray(x), **options)
    dy = np.random.default_rng(1).standard_normal(y.shape).astype(x.dtype)
    return dn.to_numpy(y), dn.to_numpy(pullback(dn.asarray(dy))), dy


def prove_pool(op, x, options):
    taps = int(np.prod(options["pool_size"])) ** (2 if isinstance(options["pool_size"], int) else 1)
    prove(op, [x], options, K=taps, linear=[0] if op == "avg_pool2d" else [])
    if op == "max_pool2d":
        prove_linear_at_fixed_winners(x, options)


def prove_linear_at_fixed_winners(x, options):
    """⟨A v, dy⟩ = ⟨v, Aᵀ dy⟩ with A the map that reads, in every window, the unit which won for x."""
    y, dx, dy = run("max_pool2d", x, **options)
    saved = dn.ops.max_pool2d(dn.asarray(x), **options)[1].saved
    _, windows = reference.pooled(x, **{**WINDOWS, **options})
    v = np.random.default_rng(2).standard_normal(x.shape)
    Av = np.zeros(y.shape)
    for at, units, _ in windows:
        Av[at] = v[reference.winner(x, units)]
    gap = abs(np.vdot(Av, dy) - np.vdot(v, dx))
    assert gap <= 1e-13 * np.linalg.norm(v) * (np.linalg.norm(dx) + np.linalg.norm(dy))
    assert list(saved) == ["winners"] and saved["winners"].shape == y.shape and saved["winners"].dtype == "uint8"


WINDOWS = {"stride": None, "padding": 0, "dilation": 1, "ceil_mode": False}


@pytest.mark.parametrize("op", POOLS)
@pytest.mark.parametrize("size, options", CASES)
def test_pools(backend, rng, op, size, options):
    """E8 and E15."""
    prove_pool(op, array(rng, size), options)


@pytest.mark.parametrize("size, options", CASES)
def test_average_that_counts_the_padding(backend, rng, size, options):
    prove_pool("avg_pool2d", array(rng, size), {**options, "count_include_pad": True})


def drawn(rng):
    pool_size, stride, dilation = (tuple(int(v) for v in rng.integers(1, top, 2)) for top in (5, 4, 4))
    extent = [r * (k - 1) + 1 for k, r in zip(pool_size, dilation)]
    pads = [tuple(int(v) for v in rng.integers(0, min(e, 4), 2)) for e in extent]
    size = tuple(int(rng.integers(max(1, e - sum(p)), e + 6)) for e, p in zip(extent, pads))
    options = {"pool_size": pool_size, "stride": stride, "dilation": dilation, "padding": tuple(pads)}
    return size, {**options, "ceil_mode": bool(rng.integers(2))}


@pytest.mark.parametrize("case", range(25))
def test_pools_drawn(backend, rng, case):
    size, options = drawn(rng)
    x = array(rng, size, N=1)
    prove_pool("l2_pool2d", x, options)
    prove_pool("avg_pool2d", x, {**options, "count_include_pad": True})
    _, windows = reference.pooled(x, **options)
    if all(units for _, units, _ in windows):
        prove_pool("max_pool2d", x, options)
        prove_pool("avg_pool2d", x, options)
    else:
        for op in ("max_pool2d", "avg_pool2d"):
            with pytest.raises(ValueError, match="lie wholly in the padding"):
                getattr(dn.ops, op)(dn.asarray(x), **options)


@pytest.mark.parametrize("op", GLOBAL)
@pytest.mark.parametrize("size", [(3, 5), (1, 1), (17, 16)])  # 272 units: the winners' places need more than a byte
def test_global_pools(backend, rng, op, size):
    """E8 and E15 with one window."""
    x = array(rng, size)
    prove(op, [x], K=size[0] * size[1], linear=[0] if op == "global_avg_pool2d" else [])
    y, pullback = getattr(dn.ops, op)(dn.asarray(x))
    kept, way = getattr(dn.ops, op)(dn.asarray(x), keepdims=True)
    assert kept.shape == (2, 1, 1, 3) and np.array_equal(dn.to_numpy(kept)[:, 0, 0], dn.to_numpy(y))
    assert np.array_equal(dn.to_numpy(way(kept)), dn.to_numpy(pullback(y)))
    if op == "global_max_pool2d":
        assert pullback.saved["winners"].dtype == ("uint8" if size[0] * size[1] <= 256 else "int32")


def test_a_global_pool_is_a_pool_over_the_whole_map(backend, rng):
    x = np.maximum(array(rng, (3, 4)), 0)  # with ties
    for name in ("avg", "max"):
        whole, dx, _ = run(f"{name}_pool2d", x, pool_size=(3, 4))
        once, dx2, _ = run(f"global_{name}_pool2d", x, keepdims=True)
        assert error(once, whole) <= tau("float64", 12) and error(dx2, dx) <= tau("float64", 12)


# -- what a maximum must do --------------------------------------------------------------------------------------------

OVERLAPPING = {"pool_size": 3, "stride": 2, "padding": 1, "ceil_mode": True}


@pytest.mark.parametrize("options", [{"pool_size": 2}, OVERLAPPING, {"pool_size": 2, "stride": 1, "dilation": 2}])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_ties_go_to_the_first_in_row_major_order(backend, rng, options, dtype):
    """Few values, and windows of zeros as they come out of a ReLU: exactly the winners of the loops, no rounding."""
    for x in (np.maximum(rng.integers(-4, 3, (2, 6, 7, 3)), 0), np.full((2, 6, 7, 3), -2.0)):
        y, pullback = dn.ops.max_pool2d(dn.asarray(x, dtype), **options)
        dy = rng.integers(1, 100, y.shape).astype(dtype)  # integers: sums are exact
        assert np.array_equal(dn.to_numpy(y), reference.max_pool2d(x, **options))
        dx = dn.to_numpy(pullback(dn.asarray(dy)))
        assert np.array_equal(dx, reference.max_pool2d_backward(dy, x, **options))
        assert dx.sum() == dy.sum()


@pytest.mark.parametrize("op", ["max_pool2d", "global_max_pool2d"])
def test_minus_infinity_everywhere_stays_and_padding_never_wins(backend, op):
    x = np.full((1, 4, 5, 2), -np.inf)
    options = OVERLAPPING if op == "max_pool2d" else {}
    y, dx, dy = run(op, x, **options)
    assert (y == -np.inf).all()
    assert np.array_equal(dx, getattr(reference, f"{op}_backward")(dy, x, **options))  # a unit of the map has won
    assert abs(dx.sum() - dy.sum()) < 1e-12


@pytest.mark.parametrize("op", ["max_pool2d", "global_max_pool2d"])
def test_the_first_nan_wins(backend, rng, op):
    x = array(rng, (5, 6))
    x[0, 1:3, 2:5, 0] = np.nan
    x[1, 4, 5, 1], x[1, 2, 2, 1] = np.nan, np.inf
    options = OVERLAPPING if op == "max_pool2d" else {}
    y, dx, dy = run(op, x, **options)
    assert np.array_equal(y, getattr(reference, op)(x, **options), equal_nan=True)
    expected = getattr(reference, f"{op}_backward")(dy, x, **options)
    assert np.array_equal(dx != 0, expected != 0)
    assert np.allclose(dx, expected, rtol=1e-15, atol=1e-14)  # windows overlap: four deltas, added in another order


@pytest.mark.parametrize("op", ["max_pool2d", "global_max_pool2d"])
def test_what_is_not_finite_in_dy_goes_to_the_winner_alone(backend, rng, op):
    x, options = array(rng, (5, 6)), OVERLAPPING if op == "max_pool2d" else {}
    y, pullback = getattr(dn.ops, op)(dn.asarray(x), **options)
    dy = rng.standard_normal(y.shape)
    dy[0, ..., 0], dy[1, ..., 1] = np.nan, np.inf
    expected = getattr(reference, f"{op}_backward")(dy, x, **options)
    assert error(dn.to_numpy(pullback(dn.asarray(dy))), expected) <= tau("float64", 9)


@pytest.mark.parametrize("side", [16, 17])
def test_the_winners_of_large_windows(backend, rng, side):
    """256 taps fit in a byte, 289 do not."""
    x = array(rng, (side, side + 2), N=1)
    x[0, -1, side, 0] = 9  # the last tap of the window at its right
    y, pullback = dn.ops.max_pool2d(dn.asarray(x), side, stride=1)
    winners = dn.to_numpy(pullback.saved["winners"])
    assert winners.dtype == ("uint8" if side == 16 else "int32") and winners[0, 0, 1, 0] == side * side - 1
    dy = rng.standard_normal(y.shape)
    expected = reference.max_pool2d_backward(dy, x, side, stride=1)
    assert error(dn.to_numpy(pullback(dn.asarray(dy))), expected) <= tau("float64", 3)


# -- averages and lengths ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{"pool_size": 2}, {"pool_size": (2, 3), "stride": 1, "padding": "same"}])
def test_mass_is_kept(backend, rng, options):
    """Σ dx = Σ dy: the error is handed on whole, also where windows overlap or lie half in the padding."""
    for op in ("max_pool2d", "avg_pool2d"):
        _, dx, dy = run(op, array(rng, (6, 6)), **options)
        assert abs(dx.sum() - dy.sum()) <= 1e-13 * np.abs(dy).sum()


def test_a_constant_map_keeps_its_average_up_to_the_border(backend):
    x = dn.asarray(np.full((1, 5, 5, 1), 3.0))
    options = {"pool_size": 3, "stride": 2, "padding": 1, "ceil_mode": True}
    assert np.array_equal(dn.to_numpy(dn.ops.avg_pool2d(x, **options)[0]), np.full((1, 3, 3, 1), 3.0))
    counted = dn.to_numpy(dn.ops.avg_pool2d(x, **options, count_include_pad=True)[0])[0, :, :, 0]
    assert np.allclose(counted, 3.0 * np.array([[4, 6, 4], [6, 9, 6], [4, 6, 4]]) / 9)
    # PyTorch's rule: what ceil_mode reaches beyond the padding does not count
    over = dn.ops.avg_pool2d(
        dn.asarray(np.full((1, 4, 4, 1), 3.0)), 3, padding=1, ceil_mode=True, count_include_pad=True
    )
    assert np.allclose(dn.to_numpy(over[0])[0, :, :, 0], 3.0 * np.array([[4 / 9, 4 / 9], [4 / 9, 4 / 9]]))
    over = dn.ops.avg_pool2d(
        dn.asarray(np.full((1, 5, 5, 1), 3.0)), 2, padding=0, ceil_mode=True, count_include_pad=True
    )
    assert np.array_equal(dn.to_numpy(over[0]), np.full((1, 3, 3, 1), 3.0))


@pytest.mark.parametrize("size", [1e25, 1e-25, 3e38, 1e-36])
def test_the_squares_of_l2_stay_in_range(backend, rng, size):
    x = (rng.uniform(0.1, 0.4, (2, 5, 6, 3)) * rng.choice([-1, 1], (2, 5, 6, 3)) * size).astype("float32")
    y, dx, dy = run("l2_pool2d", x, **OVERLAPPING)
    assert y.dtype == dx.dtype == "float32"
    assert error(y / size, reference.l2_pool2d(x, **OVERLAPPING) / size) <= tau("float32", 9)
    assert error(dx, reference.l2_pool2d_backward(dy, x, **OVERLAPPING)) <= tau("float32", 9)


def test_l2_of_nothing_is_nothing(backend):
    """Windows of zeros, and windows wholly in the padding: y = 0 and no error goes back."""
    x = np.pad([[-5.0]], ((2, 0), (2, 0)))[None, :, :, None]
    y, dx, dy = run("l2_pool2d", x, pool_size=2, padding=2)
    assert np.array_equal(y[0, :, :, 0], [[0, 0, 0], [0, 0, 0], [0, 0, 5]])
    assert np.array_equal(dx[0, :, :, 0], [[0, 0, 0], [0, 0, 0], [0, 0, -dy[0, 2, 2, 0]]])


def test_l2_lets_infinity_and_nan_through(backend):
    x = dn.asarray(np.array([3.0, np.inf, -np.inf, 4.0, np.nan, 1.0]).reshape(1, 1, 6, 1))
    assert np.array_equal(dn.to_numpy(dn.ops.l2_pool2d(x, (1, 2))[0]).ravel(), [np.inf, np.inf, np.nan], equal_nan=True)


def test_global_average_of_a_large_map_stays_accurate(backend):
    """Added up one by one in float32, 90,000 times 0.1 would be off by far more."""
    y, _ = dn.ops.global_avg_pool2d(dn.asarray(np.full((1, 300, 300, 2), 0.1, "float32")))
    assert error(dn.to_numpy(y), np.full((1, 2), np.float32(0.1))) <= tau("float32", 300)


@pytest.mark.parametrize("op", POOLS)
def test_float16_adds_up_in_float32(backend, op):
    x = np.ones((1, 65, 65, 1), "float16")
    y, dx, dy = run(op, x, pool_size=65)
    assert y.dtype == dx.dtype == "float16"
    assert y.ravel() == {"avg_pool2d": 1, "l2_pool2d": 65, "max_pool2d": 1}[op]


# -- properties --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("op", POOLS)
def test_batches_and_channels_are_pooled_by_themselves(backend, rng, op):
    x = array(rng, (6, 7), N=4)
    whole, dx, dy = run(op, x, **OVERLAPPING)
    order, channels = rng.permutation(4), [2, 0, 1]
    moved, pullback = getattr(dn.ops, op)(dn.asarray(x[order][..., channels]), **OVERLAPPING)
    assert np.array_equal(dn.to_numpy(moved), whole[order][..., channels])
    back = dn.to_numpy(pullback(dn.asarray(np.ascontiguousarray(dy[order][..., channels]))))
    assert np.array_equal(back, dx[order][..., channels])


def test_a_pool_of_one_unit_is_no_view_of_its_input(backend):
    x = dn.asarray(np.ones((1, 2, 2, 1)))
    for op in POOLS:
        y, _ = getattr(dn.ops, op)(x, 1)
        y += 1
    assert (dn.to_numpy(x) == 1).all()


def test_kernels_may_stand_in_by_name():
    for name in "max_pool max_unpool avg_pool avg_unpool l2_pool l2_unpool".split():
        assert callable(getattr(pooling, name).reference)


# -- errors ------------------------------------------------------------------------------------------------------------

X = np.zeros((2, 5, 6, 3))


@pytest.mark.parametrize("op", POOLS)
@pytest.mark.parametrize(
    "change, words",
    [
        ({"x": X[0]}, r"x has shape \(5, 6, 3\); expected feature maps"),
        ({"x": X[:, :0]}, r"x has shape \(2, 0, 6, 3\); expected feature maps .* at least one row"),
        ({"pool_size": 6}, "window of height 6 .6 taps, dilation 1. does not fit on a map of height 5.*padding='same'"),
        ({"pool_size": (2, 7)}, "window of width 7 .* map of width 6"),
        ({"dilation": 6}, "window of height 7 .2 taps, dilation 6. does not fit"),
        ({"pool_size": 0}, "pool_size must be at least 1"),
        ({"pool_size": (1, 2, 3)}, "pool_size must be an integer or .height, width."),
        ({"stride": 0}, "stride must be at least 1"),
        ({"padding": -1}, "padding must be at least 0"),
        ({"padding": "some"}, "'valid', 'same', 'full'"),
    ],
)
def test_windows_that_do_not_fit(backend, op, change, words):
    options = {"x": X, "pool_size": 2, **change}
    x = dn.asarray(options.pop("x"))
    with pytest.raises(ValueError, match=f"{op}: .*{words}"):
        getattr(dn.ops, op)(x, **options)


EMPTY = [
    ({"pool_size": 2, "padding": 2}, "output row 0 lie wholly .*5 rows, padding 2 . 2, pool_size 2"),
    ({"pool_size": 3, "stride": 1, "padding": ((2, 2), (2, 3))}, "output column 8 .*6 columns, padding 2 . 3"),
    ({"pool_size": (1, 2), "padding": ((0, 1), (0, 0)), "stride": 1}, "output row 5"),
]


@pytest.mark.parametrize("options, words", EMPTY)
def test_windows_wholly_in_the_padding(backend, options, words, monkeypatch):
    """They have no maximum and no mean, and are refused before anything is allocated; sums and lengths are 0."""
    x = dn.asarray(X + 1)
    for name in ("max_pool", "avg_pool"):
        monkeypatch.setattr(pooling, name, lambda *args: pytest.fail("computed before the check"))
    for op in ("max_pool2d", "avg_pool2d"):
        with pytest.raises(ValueError, match=f"{op}: .*{words}.*use less"):
            getattr(dn.ops, op)(x, **options)
    monkeypatch.undo()
    assert (dn.to_numpy(dn.ops.avg_pool2d(x, **options, count_include_pad=True)[0]) == 0).any()
    assert (dn.to_numpy(dn.ops.l2_pool2d(x, **options)[0]) == 0).any()


@pytest.mark.parametrize("value", [None, "three", float("nan"), 1e18, -1, 0, (1, 2, 3), (), 2.5, [1], object(), "2"])
def test_flags_are_true_or_false(value):
    flags = [(op, "ceil_mode", (2,)) for op in POOLS] + [("avg_pool2d", "count_include_pad", (2,))]
    for op, name, pool_size in flags + [(op, "keepdims", ()) for op in GLOBAL]:
        with pytest.raises(TypeError, match=f"{op}: {name} must be True or False, got"):
            getattr(dn.ops, op)(X, *pool_size, **{name: value})
