"""Hints: a method of another framework, a layer without parameters, an image without its batch."""

from __future__ import annotations

import numpy as np
import pytest

import dualnet as dn
from dualnet.layers.hints import HABITS, attribute_hint, shape_hint


def test_a_layer_without_parameters_says_what_to_do():
    with pytest.raises(
        AttributeError,
        match=r"'Dense' object has no attribute 'w'. If it is a parameter, the layer has none yet: call init",
    ):
        dn.Dense(2).forward(np.ones((1, 2), np.float32))
    layer = dn.Dense(2).init((2,))
    with pytest.raises(AttributeError, match="has no attribute 'weights'$"):
        layer.weights  # noqa: B018
    assert not hasattr(dn.Dense(2), "w") and hasattr(layer, "w")


@pytest.mark.parametrize("name", HABITS)
def test_methods_of_other_frameworks_are_answered(name):
    assert not hasattr(dn.Layer, name), "then the hint would never be read"
    for layer in (dn.Dense(2), dn.Dense(2).init((2,))):
        with pytest.raises(AttributeError) as caught:
            getattr(layer, name)
        assert str(caught.value) == f"'Dense' object has no attribute {name!r}. {HABITS[name]}"


def test_nothing_is_guessed_about_private_names():
    assert attribute_hint("_w", initialised=False) == "" and "call init(input_shape)" in attribute_hint("w", False)


@pytest.mark.parametrize(
    ("shape", "expected", "hint"),
    [
        ((28, 28, 1), (28, 28, 1), " The batch is missing: x[None] is a batch of one."),
        ((7, 28, 28), (28, 28, 1), " The channels are missing: x[..., None] has one."),
        ((7, 28, 28), (28, 28, 3), ""),
        ((7, 3, 32, 30), (32, 30, 3), " The channels come first: x.transpose(0, 2, 3, 1) has them last."),
        ((7, 32, 30, 4), (32, 30, 3), ""),
        ((7, 5), (4,), ""),
    ],
)
def test_shapes_that_nearly_fit(shape, expected, hint):
    assert shape_hint(np.zeros(shape), expected) == hint
