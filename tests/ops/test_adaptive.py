"""Adaptive pooling: the poolings that it contains, and windows that overlap or repeat."""

from __future__ import annotations

import numpy as np
import pytest
from oracles import error, tau

import dualnet as dn
from dualnet.ops.adaptive import spans_of


def run(name, x, dy, *args, **options):
    y, pullback = getattr(dn.ops, name)(dn.asarray(x), *args, **options)
    return dn.to_numpy(y), dn.to_numpy(pullback(dn.asarray(dy)))


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_where_the_size_divides_the_map_it_is_average_pooling(backend, rng, dtype):
    x, dy = (rng.standard_normal((2, *size, 3)).astype(dtype) for size in ((6, 8), (3, 2)))
    for ours, theirs in zip(run("adaptive_avg_pool2d", x, dy, (3, 2)), run("avg_pool2d", x, dy, (2, 4))):
        assert error(ours, theirs) <= 2 * tau(dtype, 8)


def test_size_1_is_global_pooling_and_the_maps_own_size_a_copy(backend, rng):
    x, dy = rng.standard_normal((2, 5, 7, 3)), rng.standard_normal((2, 1, 1, 3))
    for ours, theirs in zip(run("adaptive_avg_pool2d", x, dy, 1), run("global_avg_pool2d", x, dy, keepdims=True)):
        assert error(ours, theirs) <= tau("float64", 35)
    assert all(np.array_equal(each, x) for each in run("adaptive_avg_pool2d", x, x, (5, 7)))


def test_windows_that_overlap_add_up(backend):
    y, dx = run(
        "adaptive_avg_pool2d", np.asarray([1.0, 2, 6, 8, 10]).reshape(1, 5, 1, 1), np.ones((1, 3, 1, 1)), (3, 1)
    )
    assert y.ravel().tolist() == [1.5, 16 / 3, 9]
    np.testing.assert_allclose(dx.ravel(), [1 / 2, 1 / 2 + 1 / 3, 1 / 3, 1 / 3 + 1 / 2, 1 / 2])


def test_a_size_beyond_the_map_repeats_units(backend, rng):
    x = rng.standard_normal((1, 2, 2, 1))
    y, dx = run("adaptive_avg_pool2d", x, np.ones((1, 4, 6, 1)), (4, 6))
    assert np.array_equal(y, x.repeat(2, axis=1).repeat(3, axis=2)) and np.array_equal(dx, np.full(x.shape, 6.0))


def test_every_unit_is_covered_and_no_window_is_empty():
    for n in range(1, 12):
        for count in range(1, 14):
            spans = spans_of(n, count)
            assert len(spans) == count and all(a < b for a, b in spans)
            assert {unit for a, b in spans for unit in range(a, b)} == set(range(n))


def test_means_of_huge_numbers_are_numbers(backend):
    x = np.full((1, 5, 4, 1), 3e38, "float32")
    y = run("adaptive_avg_pool2d", x, np.ones((1, 2, 3, 1), "float32"), (2, 3))[0]
    assert error(y, x[:, :2, :3]) <= tau("float32", 12)
