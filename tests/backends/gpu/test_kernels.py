"""CUDA kernels without a GPU: compiled by NVRTC, and run on the host by the very wrappers that launch them on one.

The pretend CuPy (tests/fake_cupy.py) hands each launch to the kernel's own text, compiled by g++ (tests/cuda_shim.h),
and is strict about types, contiguity, alignment, and memory beyond an array. So what is proven here is kernel and
wrapper together: arithmetic, indices, sizes, the order and types of arguments. The whole suite runs that way with
``pytest -p pretend_device -k cupy``.
"""

from __future__ import annotations

import weakref
from concurrent.futures import ThreadPoolExecutor

import cuda_host
import fake_cupy
import fake_graphs
import numpy as np
import pytest
from cuda_oracles import DTYPES, agree, there
from oracles import error, prove, tau

import dualnet as dn
from dualnet.backend import references
from dualnet.backends import cupy_backend
from dualnet.backends.gpu import cublas
from dualnet.backends.gpu import launch as cuda_launch
from dualnet.backends.gpu import maps as cupy_kernels
from dualnet.backends.gpu import registry as cuda_registry
from dualnet.backends.gpu import sums as cupy_sums
from dualnet.geometry import windows


@pytest.fixture
def cupy(monkeypatch):
    """A pretend CuPy whose kernels run on the host."""
    with fake_cupy.in_force(monkeypatch) as module:
        yield module


@pytest.fixture(scope="session", autouse=True)
def compiled():
    """Compile side by side what the tests below will ask for one after another."""
    if cuda_host.COMPILER is None:
        return
    wanted = [
        (file, cuda_launch.defines(kernel, real, pack))
        for file in cuda_registry.FILES
        for kernel in [next(k for k in cuda_registry.KERNELS.values() if k.file == file)]
        for real, pack in [("float32", 1), ("float64", 1)]
    ]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda job: cuda_host.library(*job), dict.fromkeys(wanted)))


# -- every kernel against its reference --------------------------------------------------------------------------------


def placed(rng, op="conv2d", top=6, **more):
    """Windows that were drawn: most shapes are odd ones."""
    window, stride, dilation = (tuple(int(v) for v in rng.integers(1, n, 2)) for n in (5, 4, 3))
    pads = tuple(tuple(int(rng.integers(0, k)) for _ in range(2)) for k in window)
    extent = [r * (k - 1) + 1 for k, r in zip(window, dilation)]
    size = tuple(int(rng.integers(max(1, e - sum(p)), e + top)) for e, p in zip(extent, pads))
    return windows(op, size, window, stride=stride, padding=pads, dilation=dilation, **more)


@pytest.mark.parametrize("case", range(8))
@pytest.mark.parametrize("dtype", DTYPES)
def test_columns_and_convolution(cupy, rng, monkeypatch, case, dtype):
    if case % 2:
        monkeypatch.setattr(cupy_kernels, "COLUMN_BYTES", 2000)
    at, N = placed(rng), int(rng.integers(1, 4))
    C, D, groups = [(1, 3, 1), (8, 5, 1), (7, 3, 1), (16, 8, 1), (6, 4, 2), (5, 5, 5), (3, 6, 3), (8, 2, 2)][case]
    x, dy = (rng.standard_normal(s).astype(dtype) for s in ((N, *at.size, C), (N, *at.grid, D)))
    w = rng.standard_normal((*at.window, C // groups, D)).astype(dtype)
    b = rng.standard_normal(D).astype(dtype)
    columns = rng.standard_normal((N * at.grid[0] * at.grid[1], at.taps * C)).astype(dtype)
    agree("im2col", x, at, K=0)
    agree("col2im", columns, x.shape, at, K=at.taps)
    K = max(at.taps * max(C, D), dy.size // D)
    agree("correlate", x, w, b, at, groups, True, K=K)
    agree("correlate", x, w, None, at, groups, K=K)
    agree("correlate_filters", x, dy, at, groups, K=K)
    agree("correlate_inputs", dy, w, at, groups, K=K)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_gradients_of_filters_are_rounded_once(cupy, rng, monkeypatch, dtype):
    """However many blocks they are added up from: whole numbers, whose sums are exact in float32 and not in 16 bits."""
    at = windows("conv2d", (9, 8), (3, 3))
    x, dy = rng.integers(0, 16, (4, 9, 8, 8)), rng.integers(0, 16, (4, *at.grid, 5))
    exact = references["correlate_filters"].reference(x.astype("f8"), dy.astype("f8"), at)
    x, dy = dn.asarray(x.astype("f4"), dtype), dn.asarray(dy.astype("f4"), dtype)
    for size in (cupy_kernels.COLUMN_BYTES, 2000):
        monkeypatch.setattr(cupy_kernels, "COLUMN_BYTES", size)
        before = cublas.library().products
        dw = dn.to_numpy(cupy_kernels.correlate_filters(x, dy, at))
        assert (cublas.library().products - before > 10) == (size == 2000)
        assert dw.tobytes() == exact.astype(dtype).tobytes()


@pytest.mark.parametrize("name", ["correlate", "correlate_filters", "correlate_inputs"])
def test_columns_of_one_block_at_a_time(cupy, rng, monkeypatch, name):
    """The next block's take the memory of the last one's, which the L2 cache holds."""
    monkeypatch.setattr(cupy_kernels, "COLUMN_BYTES", 2000)
    at, alive = windows("conv2d", (6, 6), (3, 3)), []
    x, dy, w = (rng.standard_normal(s).astype("f4") for s in ((3, 6, 6, 8), (3, *at.grid, 5), (3, 3, 8, 5)))

    def empty(shape, dtype):
        made = born(shape, dtype)
        if shape[-1] == at.taps * 8:
            assert not any(ref() is not None for ref in alive), "two blocks of columns at a time"
            alive.append(weakref.ref(fake_graphs._base(made._held)))
        return made

    born = cupy.empty
    monkeypatch.setattr(cupy, "empty", empty)
    inputs = {"correlate": (x, w, None), "correlate_filters": (x, dy), "correlate_inputs": (dy, w)}[name]
    cupy_backend.OWN[name](*map(there, inputs), at)
    assert len(alive) > 2


def pooled(rng, ceil_mode):
    while True:
        at = placed(rng, "pool", ceil_mode=ceil_mode)
        if all(all(inside) for inside in at.taps_inside()):
            return at


@pytest.mark.parametrize("case", range(6))
@pytest.mark.parametrize("dtype", DTYPES)
def test_pooling(cupy, rng, case, dtype):
    at, N, C = pooled(rng, bool(case % 2)), int(rng.integers(1, 4)), [1, 3, 8, 7, 5, 16][case]
    x = np.maximum(rng.standard_normal((N, *at.size, C)), 0).astype(dtype)  # half of them ties
    dy = rng.standard_normal((N, *at.grid, C)).astype(dtype)
    if case == 2:
        x[rng.random(x.shape) < 0.1] = np.nan
        x[-1, :3] = -np.inf
    agree("max_pool", x, at, K=0)
    agree("largest", x, at, K=0)
    agree("max_pool_relu", x - dtype_of(0.5, dtype), at, K=0)
    y, winners = references["max_pool_relu"].reference(x - dtype_of(0.5, dtype), at)
    agree("max_unpool", dy, winners, at, K=at.taps)
    agree("max_unpool_relu", dy, y, winners, at, K=at.taps)
    x[~np.isfinite(x)] = 0
    for counted in (False, True):
        agree("avg_pool", x, at, counted, K=at.taps)
        agree("avg_unpool", dy, at, counted, K=at.taps)
    agree("l2_pool", x, at, K=at.taps)
    agree("l2_unpool", dy, x, references["l2_pool"].reference(x, at), at, K=at.taps)


def test_winners_of_large_windows(cupy, rng):
    at = windows("max_pool2d", (20, 19), (16, 17), stride=(3, 1))
    x, dy = rng.standard_normal((2, 20, 19, 3), dtype="f4"), rng.standard_normal((2, *at.grid, 3), dtype="f4")
    winners = references["max_pool"].reference(x, at)[1]
    assert winners.dtype == np.int32
    agree("max_pool", x, at, K=0)
    agree("max_unpool", dy, winners, at, K=at.taps)


def test_lengths_out_of_range(cupy):
    at = windows("l2_pool2d", (2, 6), (2, 2), stride=2)
    x = np.array([[1e30, 2e30, -np.inf, 1, 1e-30, 0], [1e30, 0, 2, 0, np.nan, 1]], "f4").reshape(1, 2, 6, 1)
    agree("l2_pool", x, at, K=4)


@pytest.mark.parametrize(
    "shape",
    [(5, 3, 3, 1), (2, 7, 5, 3), (300, 10), (7, 2, 3, 31), (3, 5, 4, 40), (9, 5, 3, 8), (4, 64), (37, 272), (2, 1)],
)
@pytest.mark.parametrize("dtype", DTYPES)
def test_channels_and_batch_norm(cupy, rng, monkeypatch, shape, dtype):
    monkeypatch.setattr(cupy_sums, "BLOCKS", 4)
    C, n = shape[-1], int(np.prod(shape[:-1]))
    x, dy = (rng.standard_normal(shape).astype(dtype) for _ in range(2))
    gamma, beta = (rng.standard_normal(C).astype(dtype) for _ in range(2))
    agree("channel_sum", x, K=n)  # by one block for 32 channels
    monkeypatch.setattr(cupy_sums, "SHORT", 0)
    agree("channel_sum", x, K=n)
    x += dtype_of(3, dtype)
    agree("channel_moments", x, K=n, scale=8)
    mean, variance = references["channel_moments"].reference(x)
    agree("normalise", x, mean, variance, gamma, beta, 1e-5, K=n, scale=4)
    agree("normalise", x, mean, variance, gamma, beta, 1e-5, True, K=n, scale=4)
    if n > 2:
        y = references["normalise"].reference(x, mean, variance, gamma, beta, 1e-5, True)
        agree("normalise_backward", dy, x, mean, variance, gamma, 1e-5, K=n, scale=8)
        agree("normalise_backward", dy, x, mean, variance, gamma, 1e-5, y, K=n, scale=8)
        moving = [rng.random(C).astype(mean.dtype) for _ in range(2)]
        agree("follow", *moving, mean, variance, 0.9, n, K=1)
        agree("follow", *moving, mean.astype(dtype), variance.astype(dtype), 0.75, n, K=1)
    given = (mean.astype(dtype), variance.astype(dtype))  # in inference they may have the dtype of x
    agree("normalise", x, *given, gamma, beta, 1e-5, K=n, scale=4)
    learned = [each.astype(mean.dtype) for each in (gamma, beta)]  # in a network of 16 bits these are float32
    agree("normalise", x, mean, variance, *learned, 1e-5, True, K=n, scale=4)
    if n > 2:
        agree("normalise_backward", dy, x, mean, variance, learned[0], 1e-5, y, K=n, scale=8)


@pytest.mark.parametrize("dtype", DTYPES)
def test_channels_of_maps_off_their_packs(cupy, rng, dtype):
    """Maps that do not begin on 16 bytes are read in smaller packs, and all maps of a launch in the same."""
    maps, packs = [dn.asarray(rng.standard_normal(41 * 16).astype(dtype)) for _ in range(3)], set()
    for starts in [(0, 0, 0), (1, 0, 0), (0, 2, 0), (0, 4, 4)]:
        dy, x, y = (whole[start : start + 40 * 16].reshape(40, 16) for whole, start in zip(maps, starts))
        packs.add(cupy_sums.Shared(3, dy, x, y).types["pack"])
        at_home = [dn.to_numpy(a) for a in (dy, x, y)]
        mean, variance = references["channel_moments"].reference(at_home[1])
        got = cupy_sums.normalise_backward(dy, x, *map(there, (mean, variance, mean + 1)), 1e-5, y)
        want = references["normalise_backward"].reference(*at_home[:2], mean, variance, mean + 1, 1e-5, at_home[2])
        for ours, theirs in zip(got, want, strict=True):
            assert error(dn.to_numpy(ours), theirs) <= 16 * tau(ours.dtype, 40)
    assert len(packs) > 1


def dtype_of(number, dtype):
    return np.dtype(dtype).type(number)


def test_moments_far_from_zero(cupy, rng):
    x = (1e3 + rng.standard_normal((8, 33, 31, 8))).astype("float32")
    x[0, 0, 0] = 0  # no sample of the values may be taken for their mean
    mean, variance = map(dn.to_numpy, cupy_sums.channel_moments(dn.asarray(x)))
    assert error(mean, x.astype(float).mean((0, 1, 2))) <= tau("float32", 8)
    assert error(variance, x.astype(float).var((0, 1, 2))) <= 1e-5


@pytest.mark.parametrize("shape", [(), (1,), (7,), (4, 8), (3, 5, 4, 16)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_passes_over_units(cupy, rng, shape, dtype):
    x, dy = (np.asarray(rng.standard_normal(shape)).astype(dtype) for _ in range(2))
    if shape == (4, 8):
        x[0, :3], dy[1, :2] = [np.nan, np.inf, -np.inf], [np.nan, np.inf]
    agree("rectify", x, K=0)
    agree("rectify_backward", dy, np.maximum(x, 0), K=0)
    agree("add", x, dy, K=1)
    agree("add", x, dy, True, K=1)
    agree("masked", x, np.asarray(rng.random(shape) < 0.5), 1 / 0.7, K=1, scale=4)


@pytest.mark.parametrize("dtype", DTYPES)
def test_dense(cupy, rng, dtype):
    x, w, b = (rng.standard_normal(s).astype(dtype) for s in ((5, 12), (12, 7), (7,)))
    agree("affine", x, w, b, K=12)
    agree("affine", x, w, K=12)
    agree("affine_relu", x, w, b, K=12)
    agree("affine_relu", x, w, K=12)


@pytest.mark.parametrize("count", [1, 3, 4, 1001])
def test_random_words_are_the_hosts(cupy, count):
    for seed, step in [(0, 0), (2**64 - 1, 2**33 + 5), (7, 123456789012345)]:
        agree("philox", np.zeros(1, "f4"), count, seed, step, K=0)
        word = int(references["philox"].reference(np.zeros(1, "f4"), count, seed, step)[-1])
        agree("drawn_above", np.zeros(1, "f4"), count, seed, step, word, K=0)
        agree("drawn_above", np.zeros(1, "f4"), count, seed, step, 2**32 - 1, K=0)


@pytest.mark.parametrize("shape", [(5, 10), (3, 1), (4, 100), (2, 3, 5)])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy(cupy, rng, shape, dtype, smoothing):
    y, t = (5 * rng.standard_normal(shape)).astype(dtype), rng.integers(0, shape[-1], shape[:-1])
    if smoothing == 0 and shape[-1] == 10:
        y[0, :4], t[0], y[1, 2] = [np.inf, np.inf, -np.inf, 0], 0, np.nan
        y[2], t[3], y[3] = -np.inf, 1, 1e4
        y[3, 1] = -1e4
    agree("cross_entropy", y, t, smoothing, K=shape[-1], scale=4)
    log_p = references["cross_entropy"].reference(y, t, smoothing)[1]
    for dloss in (1.0, np.asarray(0.25, dtype)):
        agree("cross_entropy_backward", log_p, t.astype("uint8"), dloss, smoothing, K=shape[-1], scale=4)


# -- ordinary ops, through the seam ------------------------------------------------------------------------------------


@pytest.mark.parametrize("op, shapes, options", [
    ("conv2d", [(2, 6, 5, 8), (3, 2, 8, 4), (4,)], {"stride": (2, 1), "padding": 1}),
    ("conv2d", [(2, 6, 5, 2), (3, 3, 2, 4), (4,)], {"padding": "same", "dilation": 2, "mode": "convolution"}),
    ("conv_transpose2d", [(2, 3, 3, 8), (3, 3, 7, 8), (7,)], {"stride": 2}),
    ("avg_pool2d", [(2, 5, 6, 4)], {"pool_size": 3, "stride": 2, "padding": 1}),
    ("dense", [(4, 6), (6, 5), (5,)], {}),
    ("batch_norm", [(4, 3, 5), (5,), (5,)], {}),
])  # fmt: skip
def test_ops_against_the_loops(cupy, rng, op, shapes, options):
    linear = () if op == "batch_norm" else range(min(2, len(shapes)))
    prove(op, [rng.standard_normal(s) for s in shapes], options, K=200, linear=linear, differentiable=[], scale=2)


def test_what_is_not_served(cupy, monkeypatch):
    empty = dn.asarray(np.zeros((0, 4, 4, 8), "f4"))
    at = windows("conv2d", (4, 4), (3, 3))
    assert cupy_kernels.im2col(empty, at) is NotImplemented
    assert cupy_sums.channel_sum(empty) is NotImplemented
    assert cupy_kernels.rectify(empty) is NotImplemented
    monkeypatch.setattr(cuda_launch, "LIMIT", 100)
    large = dn.asarray(np.zeros((1, 4, 4, 8), "f4"))
    assert cupy_kernels.rectify(large) is NotImplemented
    monkeypatch.setenv("DUALNET_KERNELS", "reference")
    cuda_host.launches.clear()
    dn.ops.relu(dn.asarray([1.0]))
    assert cuda_host.launches == []
