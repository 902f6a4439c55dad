"""Where branches meet: each merge against its definition, its backward pass, and what does not fit."""

from __future__ import annotations

import numpy as np
import pytest

import dualnet as dn
from dualnet.layers.merging import MERGES, merged, merged_shape

LAYERS = {
    "add": (dn.Add, [(3, 2, 4)] * 3),
    "average": (dn.Average, [(3, 2, 4)] * 3),
    "max": (dn.Maximum, [(3, 2, 4)] * 3),
    "multiply": (dn.Multiply, [(3, 2, 4), (1, 1, 4), (3, 2, 1)]),
    "concat": (dn.Concatenate, [(3, 2, 4), (3, 2, 1), (3, 2, 2)]),
}
BY_NUMPY = {
    "add": lambda a, b, c: a + b + c,
    "average": lambda a, b, c: (a + b + c) / 3,
    "max": lambda a, b, c: np.stack([a, b, c]).max(axis=0),
    "multiply": lambda a, b, c: a * b * c,
    "concat": lambda a, b, c: np.concatenate([a, b, c], axis=-1),
}


def drawn(rng, merge, dtype="float64"):
    return [rng.standard_normal((2, *shape)).astype(dtype) for shape in LAYERS[merge][1]]


def test_every_merge_has_a_layer():
    assert set(LAYERS) == set(MERGES) == {kind.merge for kind, _ in LAYERS.values()}


@pytest.mark.parametrize("merge", MERGES)
def test_forward_is_its_definition_and_the_way_back_its_transpose(backend, rng, merge):
    kind, shapes = LAYERS[merge]
    layer, given = kind().init(shapes, dtype="float64"), drawn(rng, merge)
    y = dn.to_numpy(layer([dn.asarray(a) for a in given]))
    assert np.allclose(y, BY_NUMPY[merge](*given), rtol=1e-14, atol=1e-14)
    assert y.shape == (2, *layer.output_shape(shapes))
    assert {row.argument for row in dn.check.gradient(layer).rows} == {"x[0]", "x[1]", "x[2]"}


@pytest.mark.parametrize("merge", MERGES)
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_dtypes_stay(backend, rng, merge, dtype):
    y, back, _ = merged("test", merge, [dn.asarray(a) for a in drawn(rng, merge, dtype)])
    assert y.dtype.name == dtype
    deltas = back(y)
    assert [(d.dtype.name, tuple(d.shape[1:])) for d in deltas] == [(dtype, shape) for shape in LAYERS[merge][1]]


def test_of_equal_ones_the_first_wins(backend):
    ways = [dn.asarray([[1.0, 2.0, 0.0]]), dn.asarray([[1.0, 3.0, 0.0]]), dn.asarray([[1.0, 3.0, -1.0]])]
    y, back, kept = merged("test", "max", ways)
    assert dn.to_numpy(y).tolist() == [[1.0, 3.0, 0.0]]
    deltas = [dn.to_numpy(d).tolist() for d in back(dn.asarray([[5.0, 6.0, 7.0]]))]
    assert deltas == [[[5.0, 0.0, 7.0]], [[0.0, 6.0, 0.0]], [[0.0, 0.0, 0.0]]]
    assert dn.to_numpy(kept["winner"]).tolist() == [[0, 1, 0]]


def test_nan_is_the_largest(backend):
    ways = [dn.asarray([[1.0, np.nan]]), dn.asarray([[np.nan, 2.0]])]
    assert np.isnan(dn.to_numpy(merged("test", "max", ways)[0])).all()


def test_a_gate_gets_the_sum_over_its_map(backend, rng):
    """E12: its number was used H·W times."""
    maps, gate, dy = (
        rng.standard_normal((2, 3, 2, 4)),
        rng.standard_normal((2, 1, 1, 4)),
        rng.standard_normal((2, 3, 2, 4)),
    )
    _, back, _ = merged("test", "multiply", [dn.asarray(maps), dn.asarray(gate)])
    d_maps, d_gate = map(dn.to_numpy, back(dn.asarray(dy)))
    assert np.allclose(d_maps, dy * gate, rtol=1e-14) and d_gate.shape == gate.shape
    loops = np.zeros_like(gate)
    for n, i, j, c in np.ndindex(maps.shape):
        loops[n, 0, 0, c] += dy[n, i, j, c] * maps[n, i, j, c]
    assert np.allclose(d_gate, loops, rtol=1e-13, atol=1e-14)


def test_a_sum_of_16_bits_does_not_stop_at_2048(backend):
    """4,096 ones for each of two channels."""
    ones = dn.asarray(np.ones((1, 64, 64, 2)), "float16")
    _, back, _ = merged("test", "multiply", [ones, dn.asarray(np.ones((1, 1, 1, 2)), "float16")])
    assert dn.to_numpy(back(ones)[1]).tolist() == [[[[4096.0, 4096.0]]]]


@pytest.mark.parametrize(
    "merge, shapes, words",
    [
        ("add", [(4, 4, 2), (1, 1, 2)], r"the branches have shapes \(4, 4, 2\), \(1, 1, 2\); expected equal shapes"),
        ("max", [(4,), (3,)], "expected equal shapes"),
        ("multiply", [(4, 4, 2), (2,)], r"equal numbers of axes.*GlobalAveragePool2D\(keepdims=True\)"),
        ("multiply", [(4, 4, 2), (1, 1, 3)], "the same extent or 1"),
        ("concat", [(4, 4, 2), (4, 3, 2)], "expected equal heights and widths"),
    ],
)
def test_what_does_not_fit(merge, shapes, words):
    with pytest.raises(ValueError, match=words):
        merged_shape("test", merge, shapes)
    with pytest.raises(ValueError, match=words):
        LAYERS[merge][0]().init(shapes)


def test_wrong_inputs():
    layer = dn.Add().init([(2,), (2,)])
    one = dn.asarray([[1.0, 2.0]])
    with pytest.raises(TypeError, match="Add: expected a list of 2 arrays, got a"):
        layer(one)
    with pytest.raises(TypeError, match="expected a list of 2 arrays, got 3 of them"):
        layer([one] * 3)
    with pytest.raises(ValueError, match="x has shape .1, 3.; expected .N, 2."):
        layer([one, dn.asarray([[1.0, 2.0, 3.0]])])
    with pytest.raises(ValueError, match="its input is a list of arrays; expected their shapes, got .4, 4."):
        dn.Add().init((4, 4))
    with pytest.raises(ValueError, match="at least one shape"):
        dn.Add().init([])
    with pytest.raises(ValueError, match="no parameters yet"):
        dn.Add()([one, one])
    with pytest.raises(TypeError, match="way 0 is float32 and way 1 is float64"):
        layer.forward([one, dn.asarray([[1.0, 2.0]], "float64")])
