"""Gradients before a step: errors for those that do not fit, and clipping."""

from __future__ import annotations

import math

import numpy as np
import pytest
from optimizer_tools import Net, drawn, equal, on_device, run

import dualnet as dn
from dualnet import optimizers
from dualnet.optimizers import SGD, Adam

FAULTS = [
    (lambda g: g.pop("0.b"), ValueError, r"missing: 0\.b\)"),
    (lambda g: g.update({"0.b": None}), ValueError, r"missing: 0\.b\)"),
    (lambda g: g.update({"7.w": g["0.w"]}), ValueError, r"unknown: 7\.w\)"),
    (lambda g: g.update({"0.w": g["0.w"][:2]}), ValueError, r"wrong shape: 0\.w \(2, 4\), expected \(3, 4\)"),
    (lambda g: g.update({"0.b": 0.0}), ValueError, r"wrong shape: 0\.b \(\), expected \(4,\)"),
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


SIZES = {
    "float16": [-10, 0, 15],
    "float32": [-120, -51, -49, 0, 49, 51, 64, 127],
    "float64": [-1000, -300, 0, 500, 1022],
}


@pytest.mark.parametrize("dtype, size", [(dtype, size) for dtype, sizes in SIZES.items() for size in sizes])
@pytest.mark.parametrize("max_norm, sign", [(1e-3, 1), (1.0, -1), (1e30, 1)])
def test_the_norm_of_gradients_of_any_size(backend, rng, dtype, size, max_norm, sign):
    """Also where their squares are too large or too small for their dtype. The truth is in longer numbers."""
    shapes = {"w": (3, 5), "b": (4,), "none": (0,)}
    drawn = {name: np.ldexp(rng.uniform(0.5, 1, shape), size).astype(dtype) for name, shape in shapes.items()}
    drawn["w"][0] = 0
    drawn["b"] *= -1
    drawn["w"] *= sign
    given = {name: dn.asarray(g) for name, g in drawn.items()}
    with dn.transfers("forbid"), np.errstate(over="ignore"):  # the norm itself may be too large
        clipped, norm = optimizers.clip_by_global_norm(given, max_norm)
    true = {name: g.astype(np.longdouble) for name, g in drawn.items()}
    length = np.sqrt(sum((g * g).sum() for g in true.values()))
    rounding = {"float16": 2e-3, "float32": 1e-6, "float64": 1e-14}[dtype]
    wide = np.float32 if dtype == "float16" else dtype
    if length < np.finfo(wide).max:
        assert float(dn.to_numpy(norm)) == pytest.approx(float(length), rel=min(rounding, 1e-6), abs=0)
    else:
        assert np.isinf(dn.to_numpy(norm))
    for name, g in true.items():
        wanted = g * np.minimum(max_norm / (length + np.longdouble(1e-6)), 1)
        got = dn.to_numpy(clipped[name])
        assert got.dtype == dtype
        np.testing.assert_allclose(got.astype(np.longdouble), wanted, rtol=rounding, atol=float(np.finfo(dtype).tiny))
        if length + 1e-5 < max_norm:
            assert got.tobytes() == drawn[name].tobytes(), "shorter ones stay as they are"


def test_one_huge_gradient_among_ordinary_ones(backend):
    """The squares of 1e20 overflow float32; a step of SGD with clip_norm=1 is one long all the same."""
    g = {"w": np.array([1e20, -1e20]), "b": np.array([1.0, 0.0])}
    clipped, norm = optimizers.clip_by_global_norm(on_device(g, "float32"), 1.0)
    assert float(dn.to_numpy(norm)) == pytest.approx(math.sqrt(2) * 1e20, rel=1e-6)
    np.testing.assert_allclose(dn.to_numpy(clipped["w"]), [math.sqrt(0.5), -math.sqrt(0.5)], rtol=1e-6)
    np.testing.assert_allclose(dn.to_numpy(clipped["b"]), [math.sqrt(0.5) * 1e-20, 0], rtol=1e-6)
    net = Net({"w": np.zeros(2), "b": np.zeros(2)}, "float32")
    SGD(1.0, clip_norm=1.0).step(net, on_device(g, "float32"))
    np.testing.assert_allclose(net.values()["w"], [-math.sqrt(0.5), math.sqrt(0.5)], rtol=1e-6)


def test_a_small_factor_does_not_vanish_in_16_bits(backend):
    """60000 · 1e-8 is a number of float16, though 1e-8 is not."""
    clipped, _ = optimizers.clip_by_global_norm(on_device({"w": np.array([6e4, 0.0])}, "float16"), 6e-4)
    np.testing.assert_allclose(dn.to_numpy(clipped["w"]), [6e-4, 0], rtol=1e-3)


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
def test_the_norm_of_what_is_not_finite(backend, bad):
    """As PyTorch has it: infinite gradients become NaN and all others 0; a NaN makes all of them NaN."""
    with np.errstate(all="ignore"):
        clipped, norm = optimizers.clip_by_global_norm(
            on_device({"w": np.array([bad, 1.0]), "b": np.array([1e30])}, "float32"), 1.0
        )
    norm, w, b = (dn.to_numpy(a) for a in (norm, clipped["w"], clipped["b"]))
    assert np.isnan(w[0])
    if np.isnan(bad):
        assert np.isnan(norm) and np.isnan(w[1]) and np.isnan(b[0])
    else:
        assert np.isposinf(norm) and w[1] == b[0] == 0


def test_value_is_clipped_before_norm():
    """[9, 1] is limited to [2, 1], whose length √5 is then brought to 1. The other way round gives [0.99, 0.11]."""
    net = Net({"w": np.zeros(2)})
    SGD(1.0, clip_value=2.0, clip_norm=1.0).step(net, on_device({"w": np.array([9.0, 1.0])}))
    np.testing.assert_allclose(net.values()["w"], np.array([-2.0, -1.0]) / (math.sqrt(5) + 1e-6), rtol=1e-12)


def test_clip_by_value(backend):
    clipped = optimizers.clip_by_value(on_device({"w": np.array([-3.0, 0.5, 2.0])}, "float32"), np.float64(1.0))
    assert np.array_equal(dn.to_numpy(clipped["w"]), [-1.0, 0.5, 1.0]) and clipped["w"].dtype == np.float32
    assert optimizers.clip_by_value({}, 1.0) == {}


def test_what_is_refused():
    with pytest.raises(ValueError, match="max_norm"):
        optimizers.clip_by_global_norm({}, -1)
