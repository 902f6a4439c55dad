"""Parameters: a value that keeps its shape, and its copy in 16 bits."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
from small_nets import small

import dualnet as dn
from dualnet.layers.parameter import cast_all
from dualnet.shim.dtypes import dtype_of


def test_a_parameter_keeps_its_shape(backend):
    net = small().init((5, 5, 2))
    w = net[0].w
    before = dn.to_numpy(w.value).copy()
    with pytest.raises(
        ValueError,
        match=r"^Conv2D.w: value has shape \(3, 3\); expected \(3, 3, 2, 3\)\. Reshape it, or give the layer",
    ):
        w.value = dn.asarray(np.zeros((3, 3), "float32"))
    with pytest.raises(TypeError, match=r"^Scale.g: value is a list; expected an array. Make one with dn.asarray"):
        net[1].layer.g.value = [1.0, 2.0, 3.0]
    assert net.parameters()["0.w"] is w and np.array_equal(dn.to_numpy(w.value), before)
    w.value = dn.asarray(before + 1.0)
    w.value *= 2.0
    assert np.array_equal(dn.to_numpy(net[0].w.value), 2.0 * (before + 1.0))
    assert repr(w) == "Parameter((3, 3, 2, 3), float32)"


def test_a_copied_parameter_still_knows_its_name(backend):
    with pytest.raises(ValueError, match="^Conv2D.w: value has shape"):
        small().init((5, 5, 2)).copy()[0].w.value = dn.asarray(np.zeros((3, 3), "float32"))


def test_float32_and_float64_are_not_cast(backend):
    for dtype in ("float32", "float64"):
        x = dn.asarray([1.0, 2.0], dtype)
        w = dn.Parameter(x)
        assert w.cast(x.dtype) is x and w.cast(None) is x
    assert dn.Parameter(dn.asarray([1.0], "float64")).cast(np.dtype("float16")).dtype == "float64"


def test_a_parameter_is_cast_once_for_each_value(backend):
    pytest.importorskip("ml_dtypes")
    w, half = dn.Parameter(dn.asarray([1.0, 2.0])), np.dtype("float16")
    first = w.cast(half)
    assert first.dtype == half and w.cast(half) is first
    w.value = w.value + 1.0
    assert dn.to_numpy(w.cast(half)).tolist() == [2.0, 3.0] and dn.to_numpy(first).tolist() == [1.0, 2.0]
    assert w.cast(dtype_of("bfloat16")).dtype.name == "bfloat16" and w.cast(half).dtype == half
    w.value *= 2.0  # the same array on NumPy
    assert dn.to_numpy(w.cast(half)).tolist() == [4.0, 6.0]
    w.value[0] = 0.5
    w.changed()
    assert dn.to_numpy(w.cast(half)).tolist() == [0.5, 6.0]


def test_all_are_cast_at_once_where_they_were_cast_before(backend):
    pytest.importorskip("ml_dtypes")
    first, second, never = (dn.Parameter(dn.asarray([float(n), 0.1])) for n in range(3))
    half, other = np.dtype("float16"), dtype_of("bfloat16")
    kept = first.cast(half), second.cast(other)
    cast_all([first, second, never], half)
    assert (first._shadow, second._shadow, never._shadow) == (kept[0], kept[1], None)
    for parameter in (first, second, never):
        parameter.value = parameter.value + 1.0
    cast_all([first, second, never], half)
    assert first._of is first.value and first.cast(half) is first._shadow is not kept[0]
    assert dn.to_numpy(first._shadow).tolist() == [1.0, np.float16(1.1)]
    assert second._shadow is kept[1] and never._shadow is None


def test_a_copy_makes_its_own_16_bits():
    w, half = dn.Parameter(dn.asarray([1.0], backend="numpy"), "Dense.w"), np.dtype("float16")
    w.cast(half)
    for again in (copy.copy(w), copy.deepcopy(w), pickle.loads(pickle.dumps(w))):
        assert again._shadow is None and again.cast(half).tolist() == [1.0] and again.name == "Dense.w"
