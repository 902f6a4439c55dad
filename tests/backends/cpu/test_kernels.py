"""Every NumPy kernel against the reference it stands in for: drawn shapes, any number of threads, any memory layout."""

from __future__ import annotations

import numpy as np
import pytest
from oracles import error, tau

import dualnet as dn
from dualnet.backend import references
from dualnet.backends.cpu import bands as numpy_bands
from dualnet.backends.cpu import blas
from dualnet.backends.cpu import columns as numpy_kernels
from dualnet.backends.cpu import passes as numpy_passes
from dualnet.backends.cpu import rows as numpy_rows
from dualnet.geometry import windows

KERNELS = {**numpy_kernels.KERNELS, **numpy_passes.KERNELS}
REFERENCES = {name: dispatch.reference for name, dispatch in references.items()}


@pytest.fixture(params=["1 thread", "2 threads", "3 threads", "no BLAS of its own"])
def team(request, monkeypatch):
    """Each kernel runs with several team sizes, and without a BLAS that can be called directly."""
    if request.param.startswith("no"):
        monkeypatch.setattr(blas, "_found", [None])
    else:
        monkeypatch.setenv("DUALNET_THREADS", request.param[0])


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(numpy_kernels, "BLOCK_BYTES", 3000)
    monkeypatch.setattr(numpy_kernels, "LEAST_BYTES", 1)
    monkeypatch.setattr(numpy_passes, "BLOCK", 100)
    monkeypatch.setattr(numpy_passes, "SMALL", 0)
    monkeypatch.setattr(numpy_passes, "SHARED", 0)


def test_every_kernel_has_a_reference_of_its_name():
    assert KERNELS.keys() <= REFERENCES.keys()


def placed(rng, top=14):
    """Windows that were drawn: most shapes are odd ones."""
    window, stride, dilation = (tuple(int(v) for v in rng.integers(1, n, 2)) for n in (5, 4, 3))
    pads = tuple(tuple(int(v) for v in side) for side in rng.integers(0, 3, (2, 2)))
    extent = [r * (k - 1) + 1 for k, r in zip(window, dilation)]
    size = tuple(int(rng.integers(max(1, e - sum(p)), e + top)) for e, p in zip(extent, pads))
    return windows("conv2d", size, window, stride=stride, padding=pads, dilation=dilation)


def agree(name, *arguments, K, scale=1.0, **options):
    """The kernel serves, its numbers are the reference's, no input changes, and a second run gives the same bits."""
    before = [a.tobytes() if isinstance(a, np.ndarray) else None for a in arguments]
    result, again = (KERNELS[name](*arguments, **options) for _ in range(2))
    assert result is not NotImplemented
    assert before == [a.tobytes() if isinstance(a, np.ndarray) else None for a in arguments]
    expected = REFERENCES[name](*arguments, **options)
    as_tuple = lambda r: r if isinstance(r, tuple) else (r,)  # noqa: E731
    for got, twice, want in zip(as_tuple(result), as_tuple(again), as_tuple(expected), strict=True):
        assert got.dtype == want.dtype and got.shape == want.shape
        assert got.tobytes() == twice.tobytes(), "not the same bits from run to run"
        assert error(got, want) <= 2 * scale * tau(got.dtype, K), error(got, want)


@pytest.mark.parametrize("case", range(30))
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_convolution(team, small_blocks, monkeypatch, rng, case, dtype):
    if case % 3 == 1:  # by rows, where BLAS can be called
        monkeypatch.setattr(numpy_rows, "serves", lambda *a: blas.product(dtype) is not None)
    q = int(rng.integers(1, 9)) if case % 3 == 2 else 1  # several columns at a time, where they divide the row
    monkeypatch.setattr(numpy_bands, "at_once", lambda at, *a: 1 if at.grid[1] % q or at.dilation[1] > 1 else q)
    at, N, C, D = placed(rng), int(rng.integers(0, 5)), int(rng.integers(1, 12)), int(rng.integers(1, 9))
    x, dy = (rng.standard_normal(s).astype(dtype) for s in ((N, *at.size, C), (N, *at.grid, D)))
    w, b = rng.standard_normal((*at.window, C, D)).astype(dtype), rng.standard_normal(D).astype(dtype)
    K = max(at.taps * max(C, D), N * at.grid[0] * at.grid[1], 1)
    agree("correlate", x, w, b, at, K=K)
    agree("correlate", x, w, None, at, K=K)
    agree("correlate_filters", x, dy, at, K=K)
    agree("correlate_inputs", dy, w, at, K=K)


LAYERS = [  # of LeNet-5, VGG-6 and ResNet-20, with fewer images: the paths that real networks take
    (28, 1, 6, 5, 1, 2),
    (14, 6, 16, 5, 1, 0),
    (32, 3, 32, 3, 1, 1),
    (32, 32, 32, 3, 1, 1),
    (8, 128, 128, 3, 1, 1),
    (32, 16, 32, 3, 2, 1),
    (32, 16, 32, 1, 2, 0),
    (16, 8, 8, 1, 1, 0),
]


@pytest.mark.parametrize("size, C, D, k, stride, padding", LAYERS)
def test_layers_of_real_networks(team, rng, size, C, D, k, stride, padding):
    at = windows("conv2d", (size, size), (k, k), stride=stride, padding=padding)
    x, dy = (rng.standard_normal(s, dtype="f4") for s in ((3, *at.size, C), (3, *at.grid, D)))
    w, b = rng.standard_normal((k, k, C, D), dtype="f4"), rng.standard_normal(D, dtype="f4")
    K = max(at.taps * max(C, D), 3 * at.grid[0] * at.grid[1])
    agree("correlate", x, w, b, at, K=K)
    agree("correlate_filters", x, dy, at, K=K)
    agree("correlate_inputs", dy, w, at, K=K)


def test_maps_of_one_padded_shape_and_several_borders(rng):
    """What a kernel keeps between calls must not be taken for another layer's."""
    for top, left, size in [(0, 0, (14, 14)), (2, 2, (10, 10)), (4, 0, (10, 14)), (0, 2, (14, 10)), (1, 3, (10, 10))]:
        pads = ((top, 14 - size[0] - top), (left, 14 - size[1] - left))
        for window, dilation in (((5, 5), 1), ((3, 3), 2), ((5, 1), 1)):
            at = windows("conv2d", size, window, padding=pads, dilation=dilation)
            x, dy = (rng.standard_normal(s, dtype="f4") for s in ((9, *size, 24), (9, *at.grid, 24)))
            w = rng.standard_normal((*window, 24, 24), dtype="f4")
            agree("correlate", x, w, None, at, K=600)
            agree("correlate_filters", x, dy, at, K=1000)
            agree("correlate_inputs", dy, w, at, K=600)


def test_several_columns_at_a_time_where_that_was_measured_to_pay(rng):
    first, inner = windows("conv2d", (28, 28), (5, 5), padding=2), windows("conv2d", (14, 14), (5, 5))
    assert numpy_bands.at_once(first, 1, 6, 64) == 14 and numpy_bands.at_once(first, 1, 6, 1) == 1
    assert numpy_bands.at_once(inner, 6, 16, 64) in (2, 5) and numpy_bands.at_once(inner, 60, 16, 64) == 1
    assert numpy_bands.at_once(windows("conv2d", (32, 32), (3, 3), padding=1), 3, 32, 64) == 1
    x, w, b = (rng.standard_normal(shape, dtype="f4") for shape in ((9, 28, 28, 1), (5, 5, 1, 6), (6,)))
    agree("correlate", x, w, b, first, K=25)
    agree("correlate", x, w, b, first, relu=True, K=25)
    agree("correlate", x[:, ::-1, ::-1], w[::-1], None, first, K=25)
    dy = rng.standard_normal((9, 28, 28, 6), dtype="f4")
    agree("correlate_filters", x, dy[:, ::-1], first, K=9 * 784)
    agree("correlate_inputs", dy[:, :, ::-1], w[::-1], first, K=150)


def test_a_band_matrix_does_not_spread_what_is_not_finite(rng):
    """Beside the band stand zeros, and 0 · ∞ is NaN."""
    at = windows("conv2d", (28, 28), (5, 5), padding=2)
    x, w = rng.standard_normal((9, 28, 28, 1), dtype="f4"), rng.standard_normal((5, 5, 1, 6), dtype="f4")
    dy = rng.standard_normal((9, 28, 28, 6), dtype="f4")
    x[3, 10, 11, 0], x[5, 2, 3, 0] = np.inf, np.nan
    with np.errstate(invalid="ignore"):
        got, want = KERNELS["correlate"](x, w, None, at), REFERENCES["correlate"](x, w, None, at)
        assert np.array_equal(np.isnan(got), np.isnan(want)) and np.array_equal(np.isinf(got), np.isinf(want))
        dw, expected = KERNELS["correlate_filters"](x, dy, at), REFERENCES["correlate_filters"](x, dy, at)
        assert np.array_equal(np.isfinite(dw), np.isfinite(expected))


def test_rows_do_not_reach_what_no_window_reads(rng):
    """The rows between two windows, and the border, are multiplied by 0, and 0 · ∞ is NaN."""
    at = windows("conv2d", (6, 7), (3, 3), stride=2)  # the last row is read by none
    x, w = np.ones((16, 6, 7, 32), np.float32), np.ones((3, 3, 32, 6), np.float32)
    dy = rng.standard_normal((16, *at.grid, 6), dtype="f4")
    for place in ((0, 5, 6, 0), (0, 4, 3, 0)):
        spoiled = x.copy()
        spoiled[place] = np.inf
        dw, expected = KERNELS["correlate_filters"](spoiled, dy, at), REFERENCES["correlate_filters"](spoiled, dy, at)
        assert np.array_equal(np.isnan(dw), np.isnan(expected))
    for size, channels, step in (((9, 9), 32, 2), ((22, 9), 3, 1)):
        at = windows("conv2d", size, (3, 3), stride=step)
        w, dy = np.ones((3, 3, channels, 6), np.float32), rng.standard_normal((16, *at.grid, 6), dtype="f4")
        w[0, 0, 0, 0] = np.inf
        with np.errstate(invalid="ignore"):
            dx, expected = KERNELS["correlate_inputs"](dy, w, at), REFERENCES["correlate_inputs"](dy, w, at)
        assert np.array_equal(np.isnan(dx), np.isnan(expected)) and np.array_equal(np.isinf(dx), np.isinf(expected))


@pytest.mark.parametrize("by_rows", [False, True])
def test_any_memory_layout(team, small_blocks, monkeypatch, rng, by_rows):
    if by_rows:
        monkeypatch.setattr(numpy_rows, "serves", lambda *a: blas.product("float32") is not None)
    at = windows("conv2d", (9, 8), (3, 2), stride=(2, 1), padding=((1, 0), (1, 1)))
    x, w = rng.standard_normal((3, 9, 8, 4), dtype="f4"), rng.standard_normal((3, 2, 4, 5), dtype="f4")
    dy = rng.standard_normal((3, *at.grid, 5), dtype="f4")
    frozen = x.copy()
    frozen.flags.writeable = False
    for other in (frozen, np.asfortranarray(x), x[:, ::-1], x[::-1, :, ::-1], np.repeat(x, 2, axis=3)[..., ::2]):
        agree("correlate", other, w, None, at, K=24)
        agree("correlate_filters", other, dy, at, K=100)
    for other in (np.asfortranarray(dy), dy[:, :, ::-1], np.broadcast_to(dy[:, :1], dy.shape)):
        agree("correlate_filters", x, other, at, K=100)
        agree("correlate_inputs", other, w, at, K=30)
    for other in (np.asfortranarray(w), w[::-1, ::-1], w.transpose(0, 1, 3, 2).copy().transpose(0, 1, 3, 2)):
        agree("correlate", x, other, None, at, K=24)
        agree("correlate_inputs", dy, other, at, K=30)


def test_what_is_not_served(rng):
    at = windows("conv2d", (5, 5), (3, 3))
    x, w = rng.standard_normal((1, 5, 5, 4)), rng.standard_normal((3, 3, 2, 4))
    assert numpy_kernels.correlate(x, w, None, at, 2) is NotImplemented  # groups
    half = x.astype("float16")
    assert numpy_kernels.correlate(half, half[:, :3, :3].reshape(3, 3, 4, 1), None, at) is NotImplemented
    padded = windows("max_pool2d", (64, 64), (2, 2), padding=1)
    assert numpy_passes.max_pool(np.ones((2, 64, 64, 8)), padded) is NotImplemented
    assert numpy_passes.rectify(np.ones(5)) is NotImplemented  # small
    assert numpy_passes.rectify(np.ones((400, 400)).T[::2]) is NotImplemented  # not contiguous


SHAPES = [(5, 33, 31, 8), (64, 28, 28, 6), (40, 7, 130), (3, 64, 64, 3)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_passes_over_maps(team, monkeypatch, rng, shape, dtype):
    monkeypatch.setattr(numpy_passes, "SHARED", 0)
    x, dy = (rng.standard_normal(shape).astype(dtype) for _ in range(2))
    n, C = x.size // shape[-1], shape[-1]
    agree("rectify", x, K=1)
    agree("rectify_backward", dy, np.maximum(x, 0), K=1)
    x += 3
    gamma, beta = (rng.standard_normal(C).astype(dtype) for _ in range(2))
    mean, variance = REFERENCES["channel_moments"](x)
    agree("channel_sum", x, K=n)
    agree("channel_moments", x, K=n, scale=4)
    agree("normalise", x, mean, variance, gamma, beta, 1e-5, K=n)
    agree("normalise", x, mean, variance, gamma, beta, 1e-5, relu=True, K=n)
    agree("normalise_backward", dy, x, mean, variance, gamma, 1e-5, K=n, scale=4)
    agree("normalise_backward", dy, x, mean, variance, gamma, 1e-5, np.maximum(dy, 0), K=n, scale=4)
    agree("add", x, dy, K=1)
    agree("add", x, dy, relu=True, K=1)


def test_moments_far_from_zero(team, rng):
    x = (1e3 + rng.standard_normal((8, 33, 31, 8))).astype("float32")
    mean, variance = KERNELS["channel_moments"](x)
    assert error(mean, x.astype(float).mean((0, 1, 2))) <= tau("float32", 8)
    assert error(variance, x.astype(float).var((0, 1, 2))) <= 1e-4


@pytest.mark.parametrize(
    "window, stride, size", [((2, 2), (2, 2), (32, 32)), ((2, 3), (3, 3), (31, 34)), ((3, 3), (2, 1), (33, 30))]
)
def test_max_pooling_is_exact(team, small_blocks, rng, window, stride, size):
    at = windows("max_pool2d", size, window, stride=stride)
    x = np.maximum(rng.standard_normal((9, *size, 5), dtype="f4"), 0)  # half of them ties
    x[0, 3, 4] = x[1, 2:9, 2:9] = np.nan
    x[2, :8] = -np.inf
    y, winners = KERNELS["max_pool"](x, at)
    want, first = REFERENCES["max_pool"](x, at)
    assert y.tobytes() == want.tobytes() and winners.tobytes() == first.tobytes()
    dy = rng.standard_normal(y.shape, dtype="f4")
    dy[0, 0, 0, 0], dy[1, 2, 3, 1] = np.inf, np.nan
    dx = KERNELS["max_unpool"](dy, winners, at)
    if stride[0] >= window[0] and stride[1] >= window[1]:
        assert np.array_equal(dx, REFERENCES["max_unpool"](dy, winners, at), equal_nan=True)
    else:
        assert dx is NotImplemented


@pytest.mark.parametrize(
    "M, K, D", [(64, 400, 120), (7, 3, 2), (64, 2048, 256), (900, 300, 70), (3, 2000, 3000), (0, 4, 2)]
)
def test_dense(team, monkeypatch, rng, M, K, D):
    monkeypatch.setattr(numpy_passes, "TINY", 0)
    x, w, b = (rng.standard_normal(s, dtype="f4") for s in ((M, K), (K, D), (D,)))
    agree("affine", x, w, b, K=K)
    agree("affine", x.T, rng.standard_normal((M, D), dtype="f4"), K=max(M, 1))
    agree("affine", rng.standard_normal((M, D), dtype="f4"), w.T, K=D)


@pytest.mark.parametrize("shape", [(64, 10), (3, 5, 7), (1, 1)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_cross_entropy(rng, shape, dtype):
    y = (rng.standard_normal(shape) * 20).astype(dtype)
    for kind in ("int64", "uint8", "int32"):
        agree("cross_entropy", y, rng.integers(0, shape[-1], shape[:-1]).astype(kind), 0.0, K=y.size)
    t = rng.integers(0, shape[-1], shape[:-1])
    far = t.copy()
    far.flat[0] = shape[-1]
    for labels, smoothing in ((np.eye(shape[-1], dtype=dtype)[t], 0.0), (t, 0.1), (far, 0.0), (t - 99, 0.0)):
        assert KERNELS["cross_entropy"](y, labels, smoothing) is NotImplemented
    assert KERNELS["cross_entropy"](y.astype("f2"), t, 0.0) is NotImplemented


def test_the_limits_of_cross_entropy_are_the_references(rng):
    y, t = rng.standard_normal((4, 3), dtype="f4"), np.array([0, 1, 2, 0])
    y[0, 1] = -np.inf
    agree("cross_entropy", y, t, 0.0, K=12)
    for odd in (np.inf, np.nan, -np.inf):
        y[0, 0] = odd
        assert KERNELS["cross_entropy"](y, t, 0.0) is NotImplemented


def test_a_network_trains_to_the_same_numbers(team, monkeypatch, rng):
    """A step with the kernels and one without: the gradients agree within τ, layer by layer."""
    x, t = rng.standard_normal((6, 32, 32, 3), dtype="f4"), rng.integers(0, 10, 6)
    net = dn.models.vgg6().init((32, 32, 3)).to("numpy")
    found = []
    for mode in ("auto", "reference"):
        monkeypatch.setenv("DUALNET_KERNELS", mode)
        y, pullback = net.forward(x, train=True)
        found.append(pullback(dn.losses.softmax_cross_entropy(y, t)[1]())[1])
    for name, g in found[0].items():
        assert error(g, found[1][name]) <= 10 * tau("float32", 6 * 1024), name
