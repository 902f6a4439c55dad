"""The dense product and flatten: loops, dot products, both backends, layouts, errors."""

from __future__ import annotations

import importlib

import numpy as np
import pytest
from oracles import error, on_device, prove, tau

import dualnet as dn


@pytest.mark.parametrize("shape, D", [((4, 3), 5), ((1, 1), 1), ((3, 2, 4), 3), ((2, 3, 1, 6), 2), ((1, 40), 2)])
def test_dense(backend, rng, shape, D):
    """E9 and E16."""
    x, w, b = rng.standard_normal(shape), rng.standard_normal((shape[-1], D)), rng.standard_normal(D)
    K = max(shape[-1], D, x.size // shape[-1])
    prove("dense", [x, w, b], K=K, linear=[0, 1, 2])
    prove("dense", [x, w, None], K=K, linear=[0, 1])


@pytest.mark.parametrize("case", range(25))
def test_dense_drawn(backend, rng, case):
    N, K, D = (int(v) for v in rng.integers(1, 9, 3))
    middle = tuple(int(v) for v in rng.integers(1, 4, rng.integers(3)))
    x, w, b = rng.standard_normal((N, *middle, K)), rng.standard_normal((K, D)), rng.standard_normal(D)
    prove("dense", [x, w, b if rng.integers(2) else None], K=max(K, D, x.size // K), linear=[0, 1])


@pytest.mark.parametrize("shape, biased", [((4, 3), True), ((3, 2, 5), False), ((200, 30), True)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_relu_in_the_same_pass(backend, rng, shape, biased, dtype):
    """dense(relu=True) is dense, then relu (E7, E14): to the last bit forward, within rounding back."""
    w, b = rng.standard_normal((shape[-1], 6)), rng.standard_normal(6) if biased else None
    x, w, b = (None if a is None else dn.asarray(a, dtype) for a in (rng.standard_normal(shape), w, b))
    between, first = dn.ops.dense(x, w, b)
    y, second = dn.ops.relu(between)
    together, way = dn.ops.dense(x, w, b, relu=True)
    assert together.shape == (*shape[:-1], 6) and np.array_equal(dn.to_numpy(together), dn.to_numpy(y))
    assert 0 < (dn.to_numpy(y) > 0).mean() < 1
    dy, limit = dn.asarray(rng.standard_normal(y.shape), dtype), tau(dtype, x.size)
    for one, two in zip(way(dy), first(second(dy)), strict=True):
        assert (one is None) == (two is None) and (one is None or error(*map(dn.to_numpy, (one, two))) <= limit)
    assert dn.ops.dense(x, w, b, relu=True, need_dx=False)[1](dy)[0] is None


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (3, 7), (1, 1, 1, 1), (2, 3, 1)])
def test_flatten(backend, rng, shape):
    """E9: a permutation of nothing, there and back."""
    prove("flatten", [rng.standard_normal(shape)], K=1, linear=[0])


def test_a_convolution_over_the_whole_map_is_dense_after_flatten(backend, rng):
    """E18: the bank that sees everything at once is the matrix, row by row."""
    x, w, b = rng.standard_normal((2, 3, 4, 2)), rng.standard_normal((3, 4, 2, 5)), rng.standard_normal(5)
    rows, fold = dn.ops.flatten(dn.asarray(x))
    y, pullback = dn.ops.dense(rows, *on_device([w.reshape(24, 5), b]))
    same, way = dn.ops.conv2d(*on_device([x, w, b]))
    assert error(dn.to_numpy(y), dn.to_numpy(same)[:, 0, 0]) <= tau("float64", 24)
    dx, dw, db = pullback(y)
    for left, right in zip((fold(dx), dw, db), way(same)):
        assert error(dn.to_numpy(left).ravel(), dn.to_numpy(right).ravel()) <= tau("float64", 24)


def test_two_half_batches_are_one(backend, rng):
    x, w, dy = rng.standard_normal((6, 4)), rng.standard_normal((4, 3)), rng.standard_normal((6, 3))
    whole = dn.ops.dense(*on_device([x, w]))[1](dn.asarray(dy))[1]
    halves = [dn.ops.dense(*on_device([x[h], w]))[1](dn.asarray(dy[h]))[1] for h in (slice(0, 3), slice(3, 6))]
    assert error(dn.to_numpy(halves[0]) + dn.to_numpy(halves[1]), dn.to_numpy(whole)) <= tau("float64", 6)


def test_need_dx_skips_the_input_gradient(backend, rng):
    x, w = on_device([rng.standard_normal((4, 3)), rng.standard_normal((3, 2))])
    y, pullback = dn.ops.dense(x, w, need_dx=False)
    dx, dw, db = pullback(y)
    assert dx is None and db is None and np.array_equal(dn.to_numpy(dw), dn.to_numpy(dn.ops.dense(x, w)[1](y)[1]))


def test_float16_adds_up_in_float32(backend):
    """NumPy's own sum of 4096 ones in float16 along the first axis is 2048."""
    x, w, b = on_device([np.ones((4096, 1)), np.ones((1, 2)), np.zeros(2)], "float16")
    y, pullback = dn.ops.dense(x, w, b)
    assert y.dtype == "float16" and dn.to_numpy(pullback(y)[2]).tolist() == [4096, 4096]


def test_a_kernel_stands_in_by_name(rng, monkeypatch):
    x, w = rng.standard_normal((4, 3)), rng.standard_normal((3, 2))
    monkeypatch.delenv("DUALNET_KERNELS", raising=False)
    monkeypatch.setitem(dn.backend.load("numpy").kernels, "affine", lambda x, w, b=None: np.full((4, 2), 7.0))
    assert (dn.ops.dense(x, w)[0] == 7).all()
    module = importlib.import_module("dualnet.ops.dense")  # dualnet.ops.dense itself is the op
    assert np.array_equal(module.affine.reference(x, w), x @ w)


# -- errors ------------------------------------------------------------------------------------------------------------

X, W = np.zeros((2, 4)), np.zeros((4, 3))


@pytest.mark.parametrize(
    "change, words",
    [
        ({"x": X[0]}, r"x has shape \(4,\); expected \(N, ..., K\)"),
        ({"w": W[0]}, r"w has shape \(3,\); expected a matrix \(K, D\)"),
        ({"w": W[:0], "x": X[:, :0]}, r"w has shape \(0, 3\)"),
        ({"w": W.T}, r"x \(2, 4\) has rows of 4, but w \(3, 4\) reads 3. Expected w of shape \(4, D\)"),
        ({"x": np.zeros((2, 5, 5, 3))}, "has rows of 3, but w .* reads 4.*Feature maps are flattened first"),
        ({"b": np.zeros(4)}, r"b has shape \(4,\); expected \(3,\)"),
        ({"b": np.zeros((1, 3))}, r"b has shape \(1, 3\); expected \(3,\)"),
    ],
)
def test_shapes_that_do_not_fit(backend, change, words):
    given = {"x": X, "w": W, "b": None, **change}
    with pytest.raises(ValueError, match=f"dense: .*{words}"):
        dn.ops.dense(*on_device(given.values()))
