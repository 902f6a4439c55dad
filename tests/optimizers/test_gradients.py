"""Gradients before a step: those that do not fit are refused, and clipping."""

from __future__ import annotations

import math

import numpy as np
import pytest
from optimizer_tools import Net, drawn, equal, on_device, run

import dualnet as dn
from dualnet import optimizers
from dualnet.optimizers import Adam

FAULTS = [
    (lambda g: g.pop("0.b"), ValueError, r"missing: 0\.b\)"),
    (lambda g: g.update({"0.b": None}), ValueError, r"missing: 0\.b\)"),
    (lambda g: g.update({"7.w": g["0.w"]}), ValueError, r"unknown: 7\.w\)"),
    (lambda g: g.update({"0.w": g["0.w"][:2]}), ValueError, r"another shape: 0\.w \(2, 4\), expected \(3, 4\)"),
    (lambda g: g.update({"0.b": 0.0}), ValueError, r"another shape: 0\.b \(\), expected \(4,\)"),
    (
        lambda g: g.update({"1.w": g["1.w"].astype("float32")}),
        TypeError,
        r"float64 and the gradient of 1\.w is float32",
    ),
]


@pytest.mark.parametrize("fault, error, message", FAULTS)
def test_gradients_that_do_not_fit_change_nothing(backend, rng, fault, error, message):
    start, path = drawn(rng, 2)
    opt, net = Adam(), Net(start)
    opt.step(net, on_device(path[0]))
    before, state, wrong = net.values(), opt.state_dict(), on_device(path[1])
    fault(wrong)
    with pytest.raises(error, match=message):
        opt.step(net, wrong)
    assert equal(net.values(), before) and opt.steps == 1
    assert all(opt.state_dict()[key] is value for key, value in state.items())
    opt.step(net, on_device(path[1]))
    assert equal(net.values(), run(Adam(), start, path))


def test_clip_by_global_norm(backend, rng):
    grads = drawn(rng, 1)[1][0]
    length = math.sqrt(sum(float(np.vdot(g, g)) for g in grads.values()))
    given = on_device(grads)
    with dn.transfers("forbid"):
        clipped, norm = optimizers.clip_by_global_norm(given, length / 4)
        same, _ = optimizers.clip_by_global_norm(given, length * 4)
    assert float(dn.to_numpy(norm)) == pytest.approx(length, rel=1e-14)
    for name, g in grads.items():
        np.testing.assert_allclose(dn.to_numpy(clipped[name]), g * (length / 4) / (length + 1e-6), rtol=1e-14)
        assert np.array_equal(dn.to_numpy(same[name]), g)
    still, norm = optimizers.clip_by_global_norm(on_device({"w": np.zeros(3)}, "float32"), 1.0)
    assert np.array_equal(dn.to_numpy(still["w"]), np.zeros(3)) and still["w"].dtype == np.float32
    half, norm = optimizers.clip_by_global_norm(on_device({"w": np.full(4096, 16.0)}, "float16"), 512.0)
    assert float(dn.to_numpy(norm)) == 1024 and half["w"].dtype == np.float16, "the squares overflow float16"
    assert np.array_equal(dn.to_numpy(half["w"]), np.full(4096, 8.0))
    assert optimizers.clip_by_global_norm({}, 1.0)[0] == {}


def test_clip_by_value(backend):
    clipped = optimizers.clip_by_value(on_device({"w": np.array([-3.0, 0.5, 2.0])}, "float32"), np.float64(1.0))
    assert np.array_equal(dn.to_numpy(clipped["w"]), [-1.0, 0.5, 1.0]) and clipped["w"].dtype == np.float32
    assert optimizers.clip_by_value({}, 1.0) == {}


def test_what_is_refused():
    with pytest.raises(ValueError, match="max_norm"):
        optimizers.clip_by_global_norm({}, -1)
