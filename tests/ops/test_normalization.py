"""Batch, layer and group norm: loops, differences, both backends, conditioning, errors."""

from __future__ import annotations

import numpy as np
import pytest
import reference
from oracles import error, gradients, on_device, prove

import dualnet as dn

OPS = ("batch_norm", "batch_norm_inference", "layer_norm", "group_norm")


def arrays(rng, op, shape, options):
    """x, gamma, beta and, for inference, a mean and a variance."""
    axis = options.get("axis", -1)
    axes = sorted(a % len(shape) for a in (axis if isinstance(axis, tuple) else (axis,)))
    inside = tuple(shape[a] for a in axes)
    made = [rng.standard_normal(shape), rng.standard_normal(inside), rng.standard_normal(inside)]
    if op == "batch_norm_inference":
        made += [rng.standard_normal(inside), rng.uniform(0.5, 2.0, inside)]
    return made


def drawn(rng, op):
    """A shape and options. Sets have 3 values or more: of 1 or 2, nothing but ε's share is left in dx."""
    rank = int(rng.integers(2, 6))
    shape = [int(rng.integers(1, 5)) for _ in range(rank)]
    shape[0] += 2 if op == "batch_norm" else 0
    options = {}
    if op == "group_norm":
        options["groups"] = int(rng.integers(1, 4))
        shape[-1] = options["groups"] * int(rng.integers(3, 6))
    if op == "layer_norm":
        axes = rng.permutation(np.arange(1, rank))[: int(rng.integers(1, rank))]
        options["axis"] = tuple(int(a) - rank * int(rng.integers(0, 2)) for a in axes)
        shape[int(axes[0])] += 2
    return tuple(shape), {**options, "epsilon": float(rng.choice([1e-5, 1e-2]))}


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("case", range(10))
def test_drawn(backend, rng, op, case):
    shape, options = drawn(rng, op)
    linear = [0, 1, 2] if op == "batch_norm_inference" else [1, 2]
    # with few channels a gradient is a few sums, whose terms may cancel, and dx what two projections leave of dy
    prove(op, arrays(rng, op, shape, options), options, K=int(np.prod(shape)), linear=linear, scale=8.0)


SETS = [
    ("batch_norm", (4, 5, 3, 6), {}, (0, 1, 2)),
    ("layer_norm", (3, 40), {}, (1,)),
    ("layer_norm", (3, 5, 4, 2), {"axis": (1, 2, 3)}, (1, 2, 3)),
    ("group_norm", (3, 5, 4, 1), {"groups": 1}, (1, 2, 3)),
]


@pytest.mark.parametrize("op, shape, options, axes", SETS)
def test_a_mean_a_thousand_times_the_spread(backend, rng, op, shape, options, axes):
    """The short cut Σx²/n − μ² has no correct digit of σ² left here in float32; the two passes keep theirs."""
    x, gamma, beta = arrays(rng, op, shape, options)
    n = int(np.prod([shape[a] for a in axes]))
    prove(op, [x + 1e3, gamma, beta], options, K=n, differentiable=(), scale=1 + 1e3)


@pytest.mark.parametrize("op, shape, options, axes", SETS)
def test_what_normalising_undoes_gets_no_gradient(backend, rng, op, shape, options, axes):
    """Shifting or scaling a whole set changes nothing in y (ε aside), so dx has no part along 1 or x̂."""
    x, gamma, beta = on_device(arrays(rng, op, shape, options))
    y, pullback = getattr(dn.ops, op)(x, gamma, beta, epsilon=1e-12, **options)
    dx = gradients(pullback, dn.asarray(rng.standard_normal(shape)))[0]
    size = np.linalg.norm(dx)
    assert size > 1e-3  # there is something to judge; how much depends on γ
    assert np.abs(dx.sum(axes)).max() < 1e-13 * size
    centred = dn.to_numpy(x) - dn.to_numpy(x).mean(axes, keepdims=True)
    assert np.abs((dx * centred).sum(axes)).max() < 1e-10 * size


def test_the_three_agree_where_their_sets_do(backend, rng):
    x, ones, zeros = rng.standard_normal((3, 4, 5, 6)), np.ones(6), np.zeros(6)
    group, _ = dn.ops.group_norm(*on_device([x, ones, zeros]), groups=1)
    layer, _ = dn.ops.layer_norm(*on_device([x, np.ones((4, 5, 6)), np.zeros((4, 5, 6))]), axis=(3, 1, -2))
    assert error(dn.to_numpy(group), dn.to_numpy(layer)) < 1e-14
    instance, _ = dn.ops.group_norm(*on_device([x, ones, zeros]), groups=6)
    batch, _ = dn.ops.batch_norm(*on_device([x[:1], ones, zeros]))
    assert error(dn.to_numpy(instance[:1]), dn.to_numpy(batch)) < 1e-14
    given, _ = dn.ops.batch_norm(*on_device([x, ones, zeros]))
    inferred, _ = dn.ops.batch_norm_inference(*on_device([x, ones, zeros, x.mean((0, 1, 2)), x.var((0, 1, 2))]))
    assert error(dn.to_numpy(given), dn.to_numpy(inferred)) < 1e-14


@pytest.mark.parametrize("op", OPS)
def test_half_precision_sums_in_single(backend, rng, op):
    """4096 values: summed in float16 along the batch, the mean would be far off."""
    options = {"groups": 2} if op == "group_norm" else {}
    shape = (4096, 4) if "batch" in op else (3, 4096)
    given = [a.astype(np.float16) for a in arrays(rng, op, shape, options)]
    given[0] += np.float16(2)
    y, pullback = getattr(dn.ops, op)(*on_device(given), **options)
    dy = rng.standard_normal(shape).astype(np.float16)
    parts = gradients(pullback, dn.asarray(dy))
    assert y.dtype == np.float16 and {part.dtype for part in parts} == {np.dtype(np.float16)}
    wanted = getattr(reference, op)(*given, **options)
    assert error(dn.to_numpy(y), wanted) < 2e-3
    for part, exact in zip(parts, getattr(reference, f"{op}_backward")(dy, *given, **options), strict=True):
        assert error(part, exact) < 4e-3


ERRORS = [
    ("batch_norm", (1, 4), {}, "1 value.*larger batch"),
    ("batch_norm", (1, 1, 1, 4), {}, "at least 2"),
    ("batch_norm", (4,), {}, r"expected \(N, ..., C\)"),
    ("batch_norm", (3, 5), {}, r"gamma has shape \(4,\); expected \(5,\)"),
    ("batch_norm", (3, 4), {"epsilon": 0}, "epsilon must be a number above 0 and at most 1, got"),
    ("batch_norm", (3, 4), {"epsilon": float("nan")}, "epsilon must be a number above 0 and at most 1, got"),
    ("layer_norm", (3, 4), {"axis": 0}, "Axis 0 is the batch"),
    ("layer_norm", (3, 4), {"axis": -2}, "Axis 0 is the batch"),
    ("layer_norm", (3, 4), {"axis": (1, -1)}, "each once"),
    ("layer_norm", (3, 4), {"axis": ()}, "one or several"),
    ("layer_norm", (3, 4), {"axis": 2}, "does not fit x with its 2 axes"),
    ("layer_norm", (3, 2, 4), {"axis": (1, 2)}, r"expected \(2, 4\)"),
    ("layer_norm", (4,), {}, "axis"),
    ("group_norm", (3, 4), {"groups": 3}, "must divide the 4 channels"),
    ("group_norm", (3, 4), {"groups": 0}, "at least 1"),
    ("group_norm", (3, 0, 4), {"groups": 2}, "no values to normalise"),
]


@pytest.mark.parametrize("op, shape, options, message", ERRORS)
def test_shapes_and_options_that_do_not_fit(backend, op, shape, options, message):
    with pytest.raises(ValueError, match=message):
        getattr(dn.ops, op)(*on_device([np.zeros(shape), np.ones(4), np.ones(4)]), **options)


def test_epsilon_is_a_number(backend):
    x, one = on_device([np.zeros((3, 4)), np.ones(4)])
    with pytest.raises(TypeError, match="epsilon"):
        dn.ops.batch_norm(x, one, one, epsilon="small")


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("size", [1.0, 1e25])  # the variance of these overflows
@pytest.mark.parametrize("given", [False, True])
def test_another_branch_is_added_before_the_relu(backend, rng, given, size, relu):
    x, other, dy = on_device(rng.standard_normal((3, 4, 5, 2)).astype("f4") for _ in range(3))
    x = x * size
    vectors = on_device(rng.random(2).astype("f4") + 1 for _ in range(4 if given else 2))
    op = dn.ops.batch_norm_inference if given else dn.ops.batch_norm
    y, pullback = op(x, *vectors, relu=relu, other=other)
    alone, way = op(x, *vectors)
    whole = alone + other
    z, clip = dn.ops.relu(whole) if relu else (whole, lambda dy: dy)
    assert np.array_equal(dn.to_numpy(y), dn.to_numpy(z))
    delta = clip(dy)
    *gradients, last = pullback(dy)
    assert np.array_equal(dn.to_numpy(last), dn.to_numpy(delta))
    for got, wanted in zip(gradients, way(delta), strict=True):
        assert np.array_equal(dn.to_numpy(got), dn.to_numpy(wanted))


def test_another_branch_must_fit(backend):
    x, one, thin, half = on_device([np.ones((3, 4)), np.ones(4), np.ones((3, 1)), np.ones((3, 4), "f4")])
    with pytest.raises(ValueError, match=r"other has shape \(3, 1\); expected \(3, 4\), that of x"):
        dn.ops.batch_norm(x, one, one, other=thin)
    with pytest.raises(TypeError, match="x is float64 and other is float32"):
        dn.ops.batch_norm_inference(x, one, one, one, one, other=half)
