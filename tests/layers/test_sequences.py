"""Layers on sequences: against their two-dimensional twins, loops by hand, and what does not fit."""

from __future__ import annotations

import numpy as np
import pytest
from oracles import error, tau

import dualnet as dn

POOLS = {dn.MaxPool1D: dn.MaxPool2D, dn.AveragePool1D: dn.AveragePool2D}
GLOBAL = {dn.GlobalMaxPool1D: dn.GlobalMaxPool2D, dn.GlobalAveragePool1D: dn.GlobalAveragePool2D}
CONVS = [
    {},
    {"stride": 2, "padding": "same", "dilation": 2},
    {"padding": (4, 0), "dilation": 2, "groups": 2, "use_bias": False},
    {"padding": "full", "mode": "convolution", "groups": 2},
    {"padding": 1, "stride": 3},
]


@pytest.mark.parametrize("options", CONVS)
@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_conv1d_is_conv2d_of_height_1(backend, rng, options, dtype):
    layer = dn.Conv1D(6, 3, **options).init((11, 4), seed=3, dtype=dtype)
    flat = {name: value if name in ("groups", "use_bias", "mode") else (1, value) for name, value in options.items()}
    if "padding" in flat:
        before, after = options["padding"] if isinstance(options["padding"], tuple) else 2 * (options["padding"],)
        flat["padding"] = before if isinstance(before, str) else ((0, 0), (before, after))
    twin = dn.Conv2D(6, (1, 3), **flat).init((1, 11, 4), seed=3, dtype=dtype)
    assert np.array_equal(dn.to_numpy(twin.w.value)[0], dn.to_numpy(layer.w.value)), "one seed draws the same weights"
    x = dn.asarray(rng.standard_normal((2, 11, 4)), dtype)
    (y, pullback), (want, way) = layer.forward(x, train=True), twin.forward(x[:, None], train=True)
    assert np.array_equal(dn.to_numpy(y), dn.to_numpy(want)[:, 0]) and tuple(y.shape[1:]) == layer.output_shape((11, 4))
    assert layer.multiply_adds((11, 4)) == twin.multiply_adds((1, 11, 4))
    (dx, grads), (same, same_grads) = pullback(y), way(want)
    assert np.array_equal(dn.to_numpy(dx), dn.to_numpy(same)[:, 0]) and grads.keys() == same_grads.keys()
    for name, gradient in grads.items():
        assert gradient.shape == getattr(layer, name).shape
        assert dn.to_numpy(gradient).ravel().tolist() == dn.to_numpy(same_grads[name]).ravel().tolist()
    assert np.array_equal(dn.to_numpy(layer(x)), dn.to_numpy(y)) and pullback.op == "Conv1D"
    assert layer.forward(x, train=True, need_dx=False)[1](y)[0] is None
    assert type(layer)(**layer.config()).config() == layer.config()


def test_conv1d_by_hand(backend, rng):
    """y[n,i,d] = Σ_m Σ_c w[m,c,d] x[n,i·s + m,c] + b[d]."""
    layer = dn.Conv1D(2, 3, stride=2).init((8, 3), dtype="float64")
    x, w = rng.standard_normal((2, 8, 3)), dn.to_numpy(layer.w.value)
    want = np.zeros((2, 3, 2))
    for n, i, d, m, c in np.ndindex(2, 3, 2, 3, 3):
        want[n, i, d] += w[m, c, d] * x[n, 2 * i + m, c]
    assert error(dn.to_numpy(layer(dn.asarray(x))), want) <= tau("float64", 9)


def test_a_causal_convolution_reads_nothing_that_comes_later(backend, rng):
    layer = dn.Conv1D(2, 3, dilation=2, padding=(4, 0)).init((9, 1), dtype="float64")
    x = rng.standard_normal((1, 9, 1))
    y, later = dn.to_numpy(layer(dn.asarray(x))), x.copy()
    later[:, 5:] += 1.0
    changed = dn.to_numpy(layer(dn.asarray(later)))
    assert np.array_equal(changed[:, :5], y[:, :5]) and (changed[:, 5:] != y[:, 5:]).all() and y.shape == (1, 9, 2)


@pytest.mark.parametrize(
    "options",
    [{}, {"stride": 1, "padding": 1}, {"stride": 2, "padding": (0, 2), "ceil_mode": True}, {"padding": "same"}],
)
@pytest.mark.parametrize("kind", list(POOLS))
def test_pools_are_those_of_height_1(backend, rng, kind, options):
    layer = kind(3, **options).init((10, 4), dtype="float64")
    flat = dict(options)
    if "padding" in flat and flat["padding"] != "same":
        flat["padding"] = ((0, 0), flat["padding"] if isinstance(flat["padding"], tuple) else 2 * (flat["padding"],))
    if "stride" in flat:
        flat["stride"] = (1, flat["stride"])
    x = dn.asarray(rng.standard_normal((2, 10, 4)))
    (y, pullback), (want, way) = layer.forward(x, train=True), POOLS[kind]((1, 3), **flat).forward(x[:, None])
    assert np.array_equal(dn.to_numpy(y), dn.to_numpy(want)[:, 0]) and tuple(y.shape[1:]) == layer.output_shape((10, 4))
    (dx, grads), (same, _) = pullback(y), way(want)
    assert np.array_equal(dn.to_numpy(dx), dn.to_numpy(same)[:, 0]) and grads == {}
    assert kind(**layer.config()).config() == layer.config() and list(pullback.saved) == list(way.saved)


@pytest.mark.parametrize("keepdims", [False, True])
@pytest.mark.parametrize("kind", list(GLOBAL))
def test_global_pools(backend, rng, kind, keepdims):
    layer = kind(keepdims=keepdims).init((10, 4), dtype="float64")
    x = rng.standard_normal((2, 10, 4))
    y, pullback = layer.forward(dn.asarray(x), train=True)
    want = (np.max if "Max" in kind.__name__ else np.mean)(x, axis=1, keepdims=keepdims)
    assert error(dn.to_numpy(y), want) <= tau("float64", 10) and tuple(y.shape[1:]) == layer.output_shape((10, 4))
    dx = dn.to_numpy(pullback(y)[0])
    np.testing.assert_allclose(dx.sum(1), want.reshape(2, 4), rtol=1e-12)


EVERY = [dn.Conv1D(2, 3), dn.MaxPool1D(2), dn.AveragePool1D(2), dn.GlobalAveragePool1D(), dn.GlobalMaxPool1D()]


@pytest.mark.parametrize("layer", EVERY, ids=lambda layer: type(layer).__name__)
def test_what_is_no_sequence(backend, layer):
    name = type(layer).__name__
    for shape in [(10,), (4, 4, 1)]:
        with pytest.raises(ValueError, match=f"{name}: expected sequences"):
            layer.output_shape(shape)
    made = layer.copy().init((10, 4))
    with pytest.raises(ValueError, match=f"{name}: x has shape .*expected sequences"):
        made.forward(dn.asarray(np.ones((2, 10), "float32")))
    with pytest.raises(TypeError, match=f"{name}: x is a list"):
        made.forward([[1.0]])


def test_windows_that_do_not_fit():
    for layer in (dn.Conv1D(2, 5), dn.MaxPool1D(5), dn.AveragePool1D(5)):
        with pytest.raises(ValueError, match=f"{type(layer).__name__}: a window of width 5 .* on a map of width 4"):
            layer.init((4, 1))
    with pytest.raises(ValueError, match="MaxPool1D: the windows of output column 0 lie wholly in the padding"):
        dn.MaxPool1D(2, padding=2).init((5, 1))
    with pytest.raises(ValueError, match="Conv1D: groups=2 must divide the 3 channels"):
        dn.Conv1D(2, 1, groups=2).init((5, 3))
    with pytest.raises(ValueError, match="Conv1D: groups=2 must divide filters=3"):
        dn.Conv1D(3, 1, groups=2)


@pytest.mark.parametrize("value", [None, "three", float("nan"), -1, (1, 2, 3), (), 2.5, True, object()])
def test_constructors_refuse_nonsense(value):
    for name in ("kernel_size", "stride", "dilation", "padding", "groups", "filters"):
        with pytest.raises((TypeError, ValueError), match=f"Conv1D: {name}"):
            dn.Conv1D(**{"filters": 2, "kernel_size": 2, name: value})
    with pytest.raises((TypeError, ValueError), match="MaxPool1D: pool_size"):
        dn.MaxPool1D(value)
    with pytest.raises((TypeError, ValueError), match="AveragePool1D: padding"):
        dn.AveragePool1D(2, padding=value)
    if value is not True:
        with pytest.raises(TypeError, match="GlobalMaxPool1D: keepdims"):
            dn.GlobalMaxPool1D(value)
    with pytest.raises(ValueError, match="Conv1D: mode"):
        dn.Conv1D(2, 2, mode=value)


def test_a_network_on_sequences_learns_a_rhythm(rng):
    """Which of two periods does a wave have?"""
    t = rng.integers(0, 2, 80)
    phase = rng.uniform(0, 6, (80, 1))
    x = np.sin(np.arange(32) * np.where(t, 1.3, 0.6)[:, None] + phase).astype("float32")[..., None]
    net = dn.Sequential(
        [dn.Conv1D(6, 5), dn.ReLU(), dn.MaxPool1D(2), dn.Conv1D(6, 3), dn.Mish(), dn.GlobalAveragePool1D(), dn.Dense(2)]
    )
    net.fit(x, t, epochs=25, optimizer=dn.Adam(lr=0.02), batch_size=16, verbose=0)
    assert net.evaluate(x, t)["accuracy"] > 0.95
