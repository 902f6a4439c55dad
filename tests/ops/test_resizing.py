"""Maps of another size: against NumPy, by hand, and one undoing another."""

from __future__ import annotations

import numpy as np
import pytest
from oracles import error, tau

import dualnet as dn

INF, NAN = float("inf"), float("nan")


def forward(name, x, *args, **options):
    return dn.to_numpy(getattr(dn.ops, name)(dn.asarray(x), *args, **options)[0])


def back(name, x, dy, *args, **options):
    return dn.to_numpy(getattr(dn.ops, name)(dn.asarray(x), *args, **options)[1](dn.asarray(dy)))


def test_nearest_is_numpys_repeat(backend, rng):
    x = rng.standard_normal((2, 3, 4, 5))
    want = x.repeat(3, axis=1).repeat(2, axis=2)
    assert np.array_equal(forward("upsample2d", x, (3, 2)), want)
    dy = rng.standard_normal(want.shape)
    fields = dy.reshape(2, 3, 3, 4, 2, 5).sum((2, 4))
    assert error(back("upsample2d", x, dy, (3, 2)), fields) <= tau("float64", 6)


def test_lines_stay_lines_between_the_outermost_units(backend):
    """Row i reads x at (i + ½) / s − ½: what is linear in x is linear in y, and flat beyond the first and last unit."""
    for s, t in [(2, 3), (4, 5), (1, 7)]:
        rows, columns = np.meshgrid(np.arange(5.0), np.arange(4.0), indexing="ij")
        x = (2.0 * rows - 3.0 * columns)[None, :, :, None]
        u, v = (np.clip((np.arange(n * k) + 0.5) / k - 0.5, 0, n - 1) for n, k in ((5, s), (4, t)))
        want = (2.0 * u[:, None] - 3.0 * v[None, :])[None, :, :, None]
        np.testing.assert_allclose(forward("upsample2d", x, (s, t), interpolation="bilinear"), want, atol=1e-13)


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear"])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_a_grey_map_stays_grey_and_no_error_is_lost(backend, rng, interpolation, dtype):
    """All shares that a place reads add up to 1; and back goes what came: Σ dx = Σ dy."""
    grey = np.full((1, 3, 2, 2), 0.7, dtype)
    y = forward("upsample2d", grey, (3, 4), interpolation=interpolation)
    np.testing.assert_allclose(y, np.full((1, 9, 8, 2), grey.max()), rtol=tau(dtype, 1), atol=0)
    dy = rng.uniform(1, 2, y.shape).astype(dtype)
    dx = back("upsample2d", grey, dy, (3, 4), interpolation=interpolation)
    assert error(dx.astype(float).sum((1, 2)), dy.astype(float).sum((1, 2))) <= tau(dtype, 144)


def test_an_infinite_unit_is_seen_where_it_is_read_and_nowhere_else(backend):
    """A product with a matrix of mostly zeros would make its whole row NaN: 0 · ∞."""
    x = np.zeros((1, 4, 4, 1))
    x[0, 1, 2] = INF
    y = forward("upsample2d", x, 2, interpolation="bilinear")[0, :, :, 0]
    assert not np.isnan(y).any() and np.isinf(y).sum() == 16 and np.isinf(y[1:5, 3:7]).all()
    dy = np.zeros((1, 8, 8, 1))
    dy[0, 0, 0] = NAN
    assert np.isnan(back("upsample2d", x, dy, 2, interpolation="bilinear")).sum() == 1


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear"])
def test_once_as_large_is_a_copy(backend, rng, interpolation):
    x = dn.asarray(rng.standard_normal((2, 3, 4, 5)))
    y, pullback = dn.ops.upsample2d(x, 1, interpolation=interpolation)
    assert np.array_equal(dn.to_numpy(y), dn.to_numpy(x)) and np.array_equal(dn.to_numpy(pullback(y)), dn.to_numpy(y))
    assert pullback.nbytes == 0


SIDES = [(1, ((1, 1), (1, 1))), ((0, 2), ((0, 0), (2, 2))), (((1, 0), (2, 3)), ((1, 0), (2, 3)))]


@pytest.mark.parametrize("given, sides", SIDES)
def test_padding_is_numpys(backend, rng, given, sides):
    x = rng.standard_normal((2, 5, 6, 3))
    wide = ((0, 0), *sides, (0, 0))
    assert np.array_equal(forward("zero_pad2d", x, given), np.pad(x, wide))
    assert np.array_equal(forward("reflect_pad2d", x, given), np.pad(x, wide, "reflect"))


@pytest.mark.parametrize("given, sides", SIDES)
def test_cropping_undoes_padding_and_each_is_the_others_way_back(backend, rng, given, sides):
    x = rng.standard_normal((2, 9, 12, 3))
    (t, b), (left, r) = sides
    inside = x[:, t : 9 - b, left : 12 - r]
    assert np.array_equal(forward("crop2d", x, given), inside)
    assert np.array_equal(back("crop2d", x, inside, given), forward("zero_pad2d", inside, given))
    for name in ("zero_pad2d", "reflect_pad2d"):
        assert np.array_equal(forward("crop2d", forward(name, inside, given), given), inside)
    assert np.array_equal(back("zero_pad2d", inside, x, given), inside)


def test_a_mirror_image_is_added_to_what_it_shows(backend):
    """3 2 1 2 3 2 1 of 1 2 3: the first unit is shown twice, the middle one three times, and the last twice."""
    x, dy = np.zeros((1, 1, 3, 1)), np.asarray([1.0, 10, 100, 1000, 1e4, 1e5, 1e6]).reshape(1, 1, 7, 1)
    assert back("reflect_pad2d", x, dy, ((0, 0), (2, 2))).ravel().tolist() == [1000100, 101010, 10001]
    dy = np.asarray([0, 1.0, 0, 2048, 0, 1, 0]).reshape(dy.shape).astype("float16")  # 2048 + 1 is 2048 in float16
    assert back("reflect_pad2d", x.astype("float16"), dy, ((0, 0), (2, 2))).ravel().tolist() == [0, 2050, 0]


@pytest.mark.parametrize("value", [None, "same", "1", 1.5, True, (1, 2, 3), ((1, 2), (3,)), -1, (0, -1), float("nan")])
def test_strange_sides_are_refused(value):
    x = dn.asarray(np.ones((1, 5, 5, 1)))
    for name, word in (("zero_pad2d", "padding"), ("reflect_pad2d", "padding"), ("crop2d", "cropping")):
        with pytest.raises((TypeError, ValueError), match=f"{name}: {word}"):
            getattr(dn.ops, name)(x, value)


@pytest.mark.parametrize("value", [None, "linear", 1, "Nearest", []])
def test_strange_interpolations_are_refused(value):
    with pytest.raises(ValueError, match="upsample2d: interpolation must be 'nearest' or 'bilinear', got"):
        dn.ops.upsample2d(dn.asarray(np.ones((1, 5, 5, 1))), 2, interpolation=value)


def test_what_no_machine_holds_is_refused_before_it_is_tried():
    with dn.use_backend("numpy"):
        x = dn.asarray(np.ones((1, 5, 5, 1), "float32"))
        for name, value in (("upsample2d", 10**6), ("zero_pad2d", 10**8), ("adaptive_avg_pool2d", 10**8)):
            with pytest.raises(MemoryError, match=f"{name}: for x of shape"):
                getattr(dn.ops, name)(x, value)
