"""CUDA kernels on feature maps, run on the host: each against its reference, over windows drawn at random."""

from __future__ import annotations

import weakref

import cuda_host
import fake_graphs
import numpy as np
import pytest
from cuda_oracles import DTYPES, agree, scalar, there

import dualnet as dn
from dualnet.backend import references
from dualnet.backends import cupy_backend
from dualnet.backends.gpu import cublas, maps
from dualnet.geometry import windows


@pytest.fixture(scope="module", autouse=True)
def compiled():
    """Compile all files at once: the tests would do it one after another."""
    cuda_host.compile_together("columns.cu", "convolution.cu", "pooling.cu", "elementwise.cu", "channels.cu")


def placed(rng, op="conv2d", top=6, **more):
    """Windows drawn at random; most have odd shapes."""
    window, stride, dilation = (tuple(int(v) for v in rng.integers(1, n, 2)) for n in (5, 4, 3))
    pads = tuple(tuple(int(rng.integers(0, k)) for _ in range(2)) for k in window)
    extent = [r * (k - 1) + 1 for k, r in zip(window, dilation)]
    size = tuple(int(rng.integers(max(1, e - sum(p)), e + top)) for e, p in zip(extent, pads))
    return windows(op, size, window, stride=stride, padding=pads, dilation=dilation, **more)


# -- convolution -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", range(8))
@pytest.mark.parametrize("dtype", DTYPES)
def test_columns_and_convolution(cupy, rng, monkeypatch, case, dtype):
    if case % 2:
        monkeypatch.setattr(maps, "COLUMN_BYTES", 2000)
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
    agree("paint", dy, w, rng.standard_normal(C).astype(dtype), at, groups, K=K, scale=2)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_gradients_of_filters_are_rounded_once(cupy, rng, monkeypatch, dtype):
    """For any number of blocks: the sums of these whole numbers are exact in float32, but not in 16 bits."""
    at = windows("conv2d", (9, 8), (3, 3))
    x, dy = rng.integers(0, 16, (4, 9, 8, 8)), rng.integers(0, 16, (4, *at.grid, 5))
    exact = references["correlate_filters"].reference(x.astype("f8"), dy.astype("f8"), at)
    x, dy = dn.asarray(x.astype("f4"), dtype), dn.asarray(dy.astype("f4"), dtype)
    for size in (maps.COLUMN_BYTES, 2000):
        monkeypatch.setattr(maps, "COLUMN_BYTES", size)
        before = cublas.library().products
        dw = dn.to_numpy(maps.correlate_filters(x, dy, at))
        assert (cublas.library().products - before > 10) == (size == 2000)
        assert dw.tobytes() == exact.astype(dtype).tobytes()


@pytest.mark.parametrize("name", ["correlate", "correlate_filters", "correlate_inputs"])
def test_columns_of_one_block_at_a_time(cupy, rng, monkeypatch, name):
    """The columns of a block take the memory of those before, which is in the L2 cache."""
    monkeypatch.setattr(maps, "COLUMN_BYTES", 2000)
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


def test_the_gradient_of_filters_over_few_channels_is_a_product(cupy, rng):
    """Unless there are several groups: one thread for each weight is slow over a whole batch."""
    at = windows("conv2d", (6, 6), (3, 3))
    for C, D, groups, launched in ((1, 6, 1, "im2col"), (6, 16, 1, "im2col"), (4, 4, 4, "correlate_filters_few")):
        x, dy = (dn.asarray(rng.standard_normal(s, dtype="f4")) for s in ((2, 6, 6, C), (2, *at.grid, D)))
        cuda_host.launches.clear()
        before = cublas.library().products
        maps.correlate_filters(x, dy, at, groups)
        assert cuda_host.launches[0] == launched and cublas.library().products - before == (groups == 1)


# -- pooling -----------------------------------------------------------------------------------------------------------


def pooled(rng, ceil_mode):
    """Windows drawn at random, each with a tap on the map."""
    while True:
        at = placed(rng, "pool", ceil_mode=ceil_mode)
        if at.first_empty() == (None, None):
            return at


@pytest.mark.parametrize("case", range(6))
@pytest.mark.parametrize("dtype", DTYPES)
def test_pooling(cupy, rng, case, dtype):
    at, N, C = pooled(rng, bool(case % 2)), int(rng.integers(1, 4)), [1, 3, 8, 7, 5, 16][case]
    x = np.maximum(rng.standard_normal((N, *at.size, C)), 0).astype(dtype)  # half of the units tie at 0
    dy = rng.standard_normal((N, *at.grid, C)).astype(dtype)
    if case == 2:
        x[rng.random(x.shape) < 0.1] = np.nan
        x[-1, :3] = -np.inf
    agree("max_pool", x, at, K=0)
    agree("largest", x, at, K=0)
    agree("max_pool_relu", x - scalar(0.5, dtype), at, K=0)
    y, winners = references["max_pool_relu"].reference(x - scalar(0.5, dtype), at)
    agree("max_unpool", dy, winners, at, K=at.taps)
    agree("max_unpool_relu", dy, y, winners, at, K=at.taps)
    x[~np.isfinite(x)] = 0
    for counted in (False, True):
        agree("avg_pool", x, at, counted, K=at.taps)
        agree("avg_unpool", dy, at, counted, K=at.taps)
    agree("l2_pool", x, at, K=at.taps)
    agree("l2_unpool", dy, x, references["l2_pool"].reference(x, at), at, K=at.taps)


def test_means_are_finite_where_sums_are_not(cupy):
    at = windows("pool", (4, 5), (3, 2), padding=1)
    x = np.full((1, 4, 5, 2), 3e38, "float32")
    x[..., 1] = 1.0
    for counted in (False, True):
        agree("avg_pool", x, at, counted, K=at.taps)
    assert np.isinf(dn.to_numpy(maps.avg_pool(dn.asarray(np.full_like(x, np.inf)), at))).all()


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_the_branch_not_taken_adds_exactly_0(cupy, rng, dtype, value):
    at = windows("pool", (4, 6), (2, 2), stride=(2, 2))
    x = rng.standard_normal((2, 4, 6, 8)).astype(dtype)
    y, winners = references["max_pool_relu"].reference(x - scalar(0.9, dtype), at)
    assert (y == 0).any()
    agree("max_unpool_relu", np.where(y > 0, y, scalar(value, dtype)), y, winners, at, K=at.taps)
    agree("rectify_backward", np.where(x > 0, x, scalar(value, dtype)), np.maximum(x, 0), K=1)
    agree("masked", np.where(x > 0, x, scalar(value, dtype)), x > 0, 2.0, K=1)
    x[0] = 0
    y = references["l2_pool"].reference(x, at)
    agree("l2_unpool", np.where(y > 0, y, scalar(value, dtype)), x, y, at, K=at.taps)


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


# -- dense, ReLU, dropout ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
def test_dense(cupy, rng, dtype):
    x, w, b = (rng.standard_normal(s).astype(dtype) for s in ((5, 12), (12, 7), (7,)))
    agree("affine", x, w, b, K=12)
    agree("affine", x, w, K=12)
    agree("affine_relu", x, w, b, K=12)
    agree("affine_relu", x, w, K=12)


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


@pytest.mark.parametrize("count", [1, 3, 4, 1001])
def test_random_words_are_the_hosts(cupy, count):
    for seed, step in [(0, 0), (2**64 - 1, 2**33 + 5), (7, 123456789012345)]:
        agree("philox", np.zeros(1, "f4"), count, seed, step, K=0)
        word = int(references["philox"].reference(np.zeros(1, "f4"), count, seed, step)[-1])
        agree("drawn_above", np.zeros(1, "f4"), count, seed, step, word, K=0)
        agree("drawn_above", np.zeros(1, "f4"), count, seed, step, 2**32 - 1, K=0)


def test_a_step_that_the_device_counts_draws_the_same_words(cupy):
    """In a captured step the number of the step is an array, which the kernel reads."""
    x, step = dn.asarray(np.zeros(1, "f4")), 2**33 + 5
    counted = dn.asarray(np.asarray(step, "u8"))
    words = references["philox"].reference(np.zeros(1, "f4"), 9, 3, step)
    assert np.array_equal(dn.to_numpy(maps.philox(x, 9, 3, counted)), words)
    assert np.array_equal(dn.to_numpy(maps.drawn_above(x, 9, 3, counted, 2**31)), words > 2**31)
