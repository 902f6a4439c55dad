"""The functions that are copied into scripts: all are used, and right where numbers are extreme."""

from __future__ import annotations

import numpy as np
import pytest
from bridge_nets import EVERY, made

import dualnet as dn
from dualnet.bridges import numpy_layers
from dualnet.bridges.numpy_code import functions
from dualnet.bridges.steps import plan


def test_every_function_is_used_by_a_network():
    used = {step.kind for name in EVERY for step in plan(made(name, np.random.default_rng(0)), "to_numpy").steps}
    assert used - {"add"} == set(functions()) - {"windows", "below_top"}


X = np.array([[-np.inf, -1e4, -88, -0.0, 1e-30, 88, 1e4, np.inf, np.nan]], "float32")
ACTIVATIONS = ("relu", "sigmoid", "tanh", "softplus", "silu", "gelu", "gelu_tanh", "leaky_relu", "elu")
OPTIONS = {"leaky_relu": {"alpha": 0.3}, "elu": {"alpha": 0.7}}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_at_extremes(name):
    op, more = ("gelu", {"approximate": True}) if name == "gelu_tanh" else (name, {})
    with np.errstate(all="ignore"):
        y = getattr(numpy_layers, name)(X, **OPTIONS.get(name, {}))
        r = dn.to_numpy(getattr(dn.ops, op)(dn.asarray(X), **OPTIONS.get(name, {}), **more)[0])
    assert y.dtype == "float32" and np.allclose(y, r, rtol=1e-6, atol=1e-7, equal_nan=True)


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_infinite_logits(name):
    x = np.array([[3, np.inf, 0, -np.inf], [-np.inf] * 4, [np.inf, 1, np.inf, 1e4], [1e4, -1e4, 0, 0]], "float32")
    with np.errstate(all="ignore"):
        y, r = getattr(numpy_layers, name)(x, axis=1), dn.to_numpy(getattr(dn.ops, name)(dn.asarray(x))[0])
    assert y.dtype == "float32" and np.allclose(y, r, rtol=1e-6)
