"""The mistakes of the zoo, planted into the library's own references: the oracles that prove the library turn red."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pytest
from oracles import prove

import dualnet as dn
from dualnet.backend import backend_of
from dualnet.ops import activation, convolution, losses, normalization, pooling

pooled = pooling.avg_unpool
inputs, filters, col2im = convolution.correlate_inputs, convolution.correlate_filters, convolution.col2im


# -- the mistakes ------------------------------------------------------------------------------------------------------


def overwritten(columns, shape, at):
    xp = backend_of(columns).xp
    (N, H, W, C), (P, Q), ((top, bottom), (left, right)) = shape, at.grid, at.reach
    columns = xp.reshape(columns, (N, P, Q, at.taps, C))
    padded = xp.zeros((N, top + H + bottom, left + W + right, C), dtype=columns.dtype)
    for i, (rows, cols) in enumerate(at.slices()):
        padded[:, rows, cols, :] = columns[:, :, :, i, :]
    return padded[:, top : top + H, left : left + W, :]


def uncropped(columns, shape, at):
    N, H, W, C = shape
    (top, bottom), (left, right) = at.reach
    around = replace(at, size=(top + H + bottom, left + W + right), pads=((0, 0), (0, 0)), overhang=(0, 0))
    return col2im(columns, (N, *around.size, C), around)[:, :H, :W, :]


def unwritten(columns, shape, at):
    xp = backend_of(columns).xp
    dx = xp.empty(shape, dtype=columns.dtype)
    (N, _, _, C), (P, Q), s = shape, at.grid, at.stride  # for 1 × 1 filters without padding
    dx[:, : P * s[0] : s[0], : Q * s[1] : s[1], :] = xp.reshape(columns, (N, P, Q, C))
    return dx


def crowded(columns, shape, at):
    return col2im(columns, shape, replace(at, stride=(1, 1)))


def close(x, dy, at, groups=1):
    return filters(x, dy, replace(at, dilation=(1, 1)), groups)


def turned(x, dy, at, groups=1):
    return convolution.rotate(filters(x, dy, at, groups)).copy()


def unturned(dy, w, at, groups=1):
    return inputs(dy, convolution.rotate(w).copy(), at, groups)


def crossed(dy, w, at, groups=1):
    xp = backend_of(dy).xp
    *places, D = dy.shape
    dealt = xp.swapaxes(xp.reshape(dy, (*places, D // groups, groups)), -1, -2)
    return inputs(xp.reshape(dealt, dy.shape), w, at, groups)


def averaged(x):
    return backend_of(x).xp.mean(x, axis=tuple(range(x.ndim - 1)))


def by_delta(dy, y):
    return dy * (dy > 0.0)


def open_at_zero(dy, y):
    return dy * (y >= 0.0)


def padding_counted(dy, at, count_include_pad=False):
    return pooled(dy, at, True)


def lost(dy, winners, at):
    xp = backend_of(dy).xp
    dx = xp.zeros((dy.shape[0] * at.size[0] * at.size[1] * dy.shape[3],), dtype=dy.dtype)
    dx[pooling._addresses(xp, winners, at)] += dy
    return xp.reshape(dx, (dy.shape[0], *at.size, dy.shape[3]))


def divided_by_zero(dy, x, y, at):
    xp = backend_of(dy).xp
    dx = xp.zeros(x.shape, dtype=x.dtype)
    with np.errstate(all="ignore"):
        for rows, cols in at.slices():
            dx[:, rows, cols, :] += x[:, rows, cols, :] / y * dy
    return dx


def frozen(dy, x, mean, variance, gamma, epsilon, *beta):
    xp = backend_of(dy).xp
    inverse = 1 / xp.sqrt(variance + epsilon)
    x_hat = (x - mean) * inverse
    return dy * gamma * inverse, xp.sum(dy * x_hat, axis=0), xp.sum(dy, axis=0)


# -- where they are planted, and the proof that must fail --------------------------------------------------------------


def normal(*shapes):
    rng = np.random.default_rng(7)
    return [rng.standard_normal(shape) for shape in shapes]


def steps(shape):
    return np.random.default_rng(7).integers(-1, 3, shape).astype(float)


X, W = (2, 5, 6, 4), (3, 2, 4, 2)
EMPTY = np.where(np.arange(32).reshape(1, 4, 4, 2) < 12, 0.0, normal((1, 4, 4, 2))[0])
CONV = {"K": 200, "linear": (0, 1)}
POOL = {"K": 30, "differentiable": ()}

PLANTS = {  # exercise: (module, name, mistake), then what prove() is given
    "overwritten-windows": ((convolution, "col2im", overwritten), "conv2d", normal(X, W), {}, CONV),
    "uncropped-padding": ((convolution, "col2im", uncropped), "conv2d", normal(X, W), {"padding": 1}, CONV),
    "crowded-deltas": ((convolution, "col2im", crowded), "conv2d", normal(X, W), {"stride": 2}, CONV),
    "unwritten-pixels": ((convolution, "col2im", unwritten), "conv2d", normal(X, (1, 1, 4, 3)), {"stride": 2}, CONV),
    "close-taps": ((convolution, "correlate_filters", close), "conv2d", normal(X, W), {"dilation": 2}, CONV),
    "turned-gradient": ((convolution, "correlate_filters", turned), "conv2d", normal(X, W), {}, CONV),
    "unturned-kernel": ((convolution, "correlate_inputs", unturned), "conv2d", normal(X, W), {}, CONV),
    "crossed-groups": (
        (convolution, "correlate_inputs", crossed),
        "conv2d",
        normal(X, (3, 2, 2, 6)),
        {"groups": 2},
        CONV,
    ),
    "averaged-bias": (
        (sys.modules["dualnet.ops.dense"], "channel_sum", averaged),
        "dense",
        normal((4, 3), (3, 5), (5,)),
        {},
        {"K": 5, "differentiable": ()},
    ),
    "delta-mask": ((activation, "rectify_backward", by_delta), "relu", normal((4, 5)), {}, {"K": 1}),
    "slope-at-zero": (
        (activation, "rectify_backward", open_at_zero),
        "relu",
        [steps((4, 5))],
        {},
        {"K": 1, "differentiable": ()},
    ),
    "counted-padding": (
        (pooling, "avg_unpool", padding_counted),
        "avg_pool2d",
        normal(X),
        {"pool_size": 3, "padding": 1},
        POOL,
    ),
    "lost-winners": (
        (pooling, "max_unpool", lost),
        "max_pool2d",
        [steps((2, 7, 7, 2))],
        {"pool_size": 3, "stride": 2},
        POOL,
    ),
    "zero-window": ((pooling, "l2_unpool", divided_by_zero), "l2_pool2d", [EMPTY], {"pool_size": 2}, POOL),
    "frozen-statistics": (
        (normalization, "normalise_backward", frozen),
        "batch_norm",
        normal((6, 3), (3,), (3,)),
        {},
        {"K": 60, "scale": 8.0},
    ),
}


@pytest.mark.parametrize("name", PLANTS)
def test_the_library_with_this_mistake_is_not_proven(backend, name, monkeypatch):
    (module, function, mistake), op, arrays, options, how = PLANTS[name]
    assert name in {exercise.name for exercise in dn.zoo.exercises()}
    monkeypatch.setenv("DUALNET_KERNELS", "reference")
    prove(op, arrays, options, **how)
    monkeypatch.setattr(module, function, mistake)
    if name == "unwritten-pixels" and backend != "strict":
        return  # elsewhere it is a matter of luck
    with pytest.raises(AssertionError):
        prove(op, arrays, options, **how)


def test_a_loss_that_forgets_its_mean_is_not_proven(backend, monkeypatch):
    monkeypatch.setenv("DUALNET_KERNELS", "reference")
    y, t = dn.asarray(normal((4, 3))[0]), dn.asarray(np.array([0, 2, 1, 1]))
    assert dn.check.gradient(dn.losses.softmax_cross_entropy, y, t)
    monkeypatch.setattr(losses, "per_term", lambda dloss, y, over: dloss)
    assert not dn.check.gradient(dn.losses.softmax_cross_entropy, y, t, raises=False)
