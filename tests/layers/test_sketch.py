"""Sketched networks: built like others, with parameters that take no memory."""

from __future__ import annotations

import numpy as np
import pytest

import dualnet as dn
from dualnet.layers.sketch import sketch
from dualnet.shim import backend_of


def net():
    shared = dn.Conv2D(2, 3, padding="same")
    branch = dn.Residual(dn.Sequential([shared, dn.BatchNorm(), dn.Dropout(0.5), shared]))
    return dn.Sequential([dn.SeparableConv2D(2, 3), branch, dn.Flatten(), dn.Dense(3), dn.LayerNorm()])


@pytest.mark.parametrize("dtype", [None, "float64", "float16"])
def test_the_parameters_are_those_of_init_by_name_shape_and_dtype(backend, dtype):
    sketched, drawn = sketch(net(), (6, 6, 1), dtype), net().init((6, 6, 1), dtype=dtype)
    found, expected = ({n: (p.shape, p.dtype.name) for n, p in one.parameters().items()} for one in (sketched, drawn))
    assert found == expected and list(found) == list(expected)
    assert [layer.input_shape for _, layer in sketched.walk()] == [layer.input_shape for _, layer in drawn.walk()]
    assert sketched.state_dict().keys() == drawn.state_dict().keys()
    assert all(backend_of(p.value).name == backend for p in sketched.parameters().values())


def test_they_take_no_memory():
    with dn.use_backend("numpy"):
        huge = sketch(dn.Sequential([dn.Dense(10**6)]), (10**6,))  # 4 TB, if it were drawn
    w = huge.parameters()["0.w"].value
    assert w.shape == (10**6, 10**6) and w.strides == (0, 0) and not np.any(w[0, :3])


def test_it_is_built_in_place_and_returned():
    one = dn.Sequential([dn.Dense(3)])
    assert sketch(one, 2) is one and one.input_shape == (2,)


def test_layers_that_do_not_fit_say_so():
    with pytest.raises(ValueError, match=r"layer 0 \(Conv2D\): .*does not fit on a map"):
        sketch(dn.Sequential([dn.Conv2D(2, 9)]), (4, 4, 1))
    with pytest.raises(ValueError, match="^Sequential: input_shape must be a shape without the batch"):
        sketch(dn.Sequential([]), "28x28")
