"""oneDNN's kernels against their references: odd shapes, odd arrays, again, and by several threads at once."""

from __future__ import annotations

import gc
import threading
from typing import Any

import numpy as np
import pytest
from onednn_tools import expected, float32, needs_library, served
from oracles import error, tau

from dualnet.backend import references
from dualnet.backends.onednn import kernels
from dualnet.backends.onednn import library as onednn
from dualnet.backends.onednn import passes as onednn_passes
from dualnet.backends.onednn import plans as onednn_plans
from dualnet.geometry import Windows, windows
from dualnet.ops.pooling import pool_windows

SPECIAL = [  # N, size, C, window, D, stride, padding, dilation, groups
    (1, (28, 28), 1, (5, 5), 6, 1, "same", 1, 1),
    (3, (14, 14), 6, (5, 5), 16, 1, 0, 1, 1),
    (2, (8, 9), 3, (3, 3), 32, 1, 1, 1, 1),
    (2, (8, 8), 32, (3, 3), 32, (2, 2), "same", 1, 1),
    (2, (7, 10), 4, (3, 2), 5, (2, 3), ((1, 0), (0, 1)), 1, 1),  # (H + 2p − k) mod s ≠ 0, padding on one side
    (1, (11, 12), 5, (3, 3), 7, 1, ((2, 3), (0, 4)), (2, 3), 1),
    (4, (6, 6), 64, (1, 1), 32, 1, 0, 1, 1),
    (2, (9, 9), 16, (1, 1), 32, 2, 0, 1, 1),
    (2, (9, 9), 6, (3, 3), 6, 1, 1, 1, 6),  # depthwise
    (2, (9, 9), 32, (3, 3), 16, 2, 1, 1, 4),
    (1, (5, 5), 2, (5, 5), 3, 1, "full", 1, 1),
    (1, (1, 1), 1, (1, 1), 1, 1, 0, 1, 1),
    (8, (11, 12), 1, (5, 5), 6, 1, 2, 1, 1),  # from here on, several columns at a time: 2
    (9, (9, 15), 3, (3, 2), 5, (2, 1), ((1, 0), (0, 1)), 1, 1),  # 3
    (8, (3, 17), 8, (1, 2), 2, 1, 0, 1, 1),  # 8
    (8, (4, 13), 2, (3, 3), 1, 1, 1, 1, 1),  # 13, a whole row
]


def convolution(rng: np.random.Generator, case: tuple[Any, ...]) -> tuple[Any, ...]:
    N, size, C, window, D, stride, padding, dilation, groups = case
    at = windows("test", size, window, stride=stride, padding=padding, dilation=dilation)
    x, w, b = float32(rng, N, *size, C), float32(rng, *window, C // groups, D), float32(rng, D)
    return x, w, b, float32(rng, N, *at.grid, D), at, groups


def drawn(seed: int) -> tuple[Any, ...]:
    rng = np.random.default_rng(seed)
    groups = int(rng.choice([1, 1, 1, 2, 3]))
    window, dilation = rng.integers(1, 6, 2), rng.integers(1, 3, 2)
    size = window * dilation + rng.integers(0, 9, 2)
    padding = tuple(tuple(int(p) for p in rng.integers(0, k, 2)) for k in window)
    channels, filters = (int(rng.choice([1, 2, 3, 5, 8, 16, 17, 33])) * groups for _ in range(2))
    ints = [tuple(int(i) for i in pair) for pair in (size, window, rng.integers(1, 4, 2), dilation)]
    return int(rng.integers(1, 5)), ints[0], channels, ints[1], filters, ints[2], padding, ints[3], groups


# -- the same numbers --------------------------------------------------------------------------------------------------


@needs_library
@pytest.mark.parametrize("case", SPECIAL + [drawn(seed) for seed in range(40)], ids=repr)
def test_convolution_agrees_with_its_reference(case: tuple[Any, ...], number: str, rng: np.random.Generator) -> None:
    x, w, b, dy, at, groups = convolution(rng, case)
    K, positions = at.taps * w.shape[2], len(x) * at.grid[0] * at.grid[1]
    kept = [a.tobytes() for a in (x, w, b, dy)]

    y = expected("correlate", x, w, b, at, groups)
    assert error(served("correlate", x, w, b, at, groups), y) <= tau("float32", K)
    assert error(served("correlate", x, w, None, at, groups), y - b) <= tau("float32", K)
    assert error(served("correlate", x, w, b, at, groups, relu=True), np.maximum(y, 0)) <= tau("float32", K)
    dw = expected("correlate_filters", x, dy, at, groups)
    assert error(served("correlate_filters", x, dy, at, groups), dw) <= tau("float32", positions)
    both = served("parameter_gradients", x, dy, at, groups, True)
    assert error(both[0], dw) <= tau("float32", positions)
    assert error(both[1], dy.astype(np.float64).sum((0, 1, 2))) <= tau("float32", positions)
    dx = expected("correlate_inputs", dy, w, at, groups)
    assert error(served("correlate_inputs", dy, w, at, groups), dx) <= tau("float32", at.taps * dy.shape[3])
    assert kept == [a.tobytes() for a in (x, w, b, dy)], "an input was changed"


@needs_library
def test_how_many_columns_at_a_time(rng: np.random.Generator) -> None:
    def of(case: tuple[Any, ...]) -> int:
        x, w, _, _, at, _ = convolution(rng, case)
        return kernels.columns_at_once(at, x.shape[3], w.shape[3], len(x))

    assert [of(case) for case in SPECIAL[-4:]] == [2, 3, 8, 13]
    assert of((8, (28, 28), 1, (5, 5), 9, 1, 2, 1, 1)) == 1  # nine filters leave no room for nine more
    assert of((8, (13, 13), 1, (3, 3), 6, 1, 1, 1, 1)) == 1  # 13 columns are no pairs
    assert of((8, (12, 12), 1, (3, 3), 6, (1, 2), 1, 1, 1)) == of((8, (12, 12), 1, (3, 3), 6, 1, 2, (1, 2), 1)) == 1
    assert of((7, (28, 28), 1, (5, 5), 6, 1, 2, 1, 1)) == of((8, (28, 28), 9, (5, 5), 6, 1, 2, 1, 1)) == 1


@needs_library
@pytest.mark.parametrize("seed", range(60))
def test_pooling_agrees_with_its_reference(seed: int, number: str) -> None:
    rng = np.random.default_rng(seed)
    window, stride = (tuple(int(i) for i in rng.integers(1, 5, 2)) for _ in range(2))
    size = tuple(int(k + i) for k, i in zip(window, rng.integers(0, 10, 2), strict=True))
    padding = tuple(tuple(int(p) for p in rng.integers(0, -(-k // 2), 2)) for k in window)
    at = pool_windows("test", size, window, stride=stride, padding=padding, ceil_mode=bool(seed % 2))
    shape = (int(rng.integers(1, 4)), *size, int(rng.choice([1, 2, 3, 6, 16, 17, 40])))
    x = np.round(rng.standard_normal(shape)).astype(np.float32)  # full of ties
    x = np.maximum(x, 0) if seed % 3 else x

    y, winners = served("max_pool", x, at)
    wanted, first = references["max_pool"].reference(x, at)
    assert np.array_equal(y, wanted) and np.array_equal(winners, first) and winners.dtype == first.dtype
    dy = float32(rng, *y.shape)
    assert error(served("max_unpool", dy, winners, at), expected("max_unpool", dy, first, at)) <= tau("float32", 9)
    for counted in (False, True):
        for name, array in (("avg_pool", x), ("avg_unpool", dy)):
            result = kernels.KERNELS[name](array, at, counted)
            if counted and at.overhang != (0, 0):
                assert result is NotImplemented, "oneDNN counts the overhang"
                continue
            assert error(result, expected(name, array, at, counted)) <= tau("float32", at.taps)


@needs_library
def test_products_agree_whichever_factor_is_transposed(
    number: str, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "PRODUCT", 0)
    for M, K, D in ((64, 400, 120), (1, 7, 3), (5, 1, 4), (9, 6, 1), (33, 65, 17)):
        whole = float32(rng, 2 * M, 2 * K)
        b = float32(rng, D)
        factors = (float32(rng, M, K), float32(rng, K, M).T, whole[:M, :K], whole[::2, ::2], whole[:M, K:])
        for x in factors:
            for w in (float32(rng, K, D), float32(rng, D, K).T, float32(rng, K, 2 * D)[:, :D]):
                for bias in (None, b):
                    assert error(served("affine", x, w, bias), expected("affine", x, w, bias)) <= tau("float32", K)


@needs_library
def test_many_channels_on_large_maps_are_left_to_winograd(rng: np.random.Generator) -> None:
    w = float32(rng, 3, 3, 128, 128)
    for size, left in (((16, 16), True), ((8, 8), False)):
        at, x = windows("test", size, (3, 3), padding=1), float32(rng, 8, *size, 128)
        assert (kernels.correlate(x, w, None, at) is NotImplemented) == left
        assert (kernels.correlate_inputs(x, w, at) is NotImplemented) == left
        assert kernels.correlate_filters(x, x, at) is not NotImplemented
        got, want = references["correlate"](x, w, None, at), references["correlate"].reference(x, w, None, at)
        assert error(got, want) <= 2 * tau("float32", 9 * 128)


# -- NaN and infinities ------------------------------------------------------------------------------------------------


@needs_library
@pytest.mark.parametrize("case", [SPECIAL[i] for i in (0, 1, 2, 3, 5, 7, 8, 9, 12, 14)], ids=repr)
def test_nan_and_infinities_reach_the_same_places(case: tuple[Any, ...], rng: np.random.Generator) -> None:
    x, w, b, dy, at, groups = convolution(rng, case)
    x[0, 2, 2, 0], x[-1, -1, -1, -1], x[0, 0, 3, -1] = np.nan, np.inf, -np.inf
    dy[0, 1, 1, 0], dy[-1, -1, -1, -1] = np.nan, np.inf
    with np.errstate(invalid="ignore"):
        y = references["correlate"].reference(x, w, b, at, groups)
        assert np.isnan(y).any() and np.isneginf(y).any()
        assert error(served("correlate", x, w, b, at, groups), y) < 1e-5
        rectified = served("correlate", x, w, b, at, groups, relu=True)
        assert error(rectified, np.maximum(y, 0)) < 1e-5, "ReLU lost a NaN"
        assert not np.signbit(rectified).any(), "ReLU made −0"
        dx = references["correlate_inputs"].reference(dy, w, at, groups)
        assert error(served("correlate_inputs", dy, w, at, groups), dx) < 1e-5


@needs_library
@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf, 1e30])
@pytest.mark.parametrize("place", [0, 1, 2], ids=["x", "w", "b"])
def test_the_librarys_own_relu_follows_only_where_no_nan_can_be(
    place: int, odd: float, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "MANY_RESULTS", 0)
    x, w, b, _, at, _ = convolution(rng, SPECIAL[2])
    assert kernels._relu(x, w, b, at) is kernels._relu(x, w, None, at) is onednn_passes.MAX_0
    (x, w, b)[place].flat[0] = odd
    assert kernels._relu(x, w, b, at) is onednn_passes.RELU
    y = served("correlate", x, w, b, at)
    assert error(served("correlate", x, w, b, at, relu=True), np.maximum(y, 0)) < 1e-5


@needs_library
@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf])
def test_max_pooling_leaves_what_it_would_pass_over_to_numpy(odd: float, rng: np.random.Generator) -> None:
    x, at = float32(rng, 2, 5, 4, 3), pool_windows("test", (5, 4), 2)
    x[1, 2, 3, 1] = 1e38
    assert kernels.max_pool(x, at)[0][1, 1, 1, 1] == 1e38
    x[1, 4, 2, 0] = odd  # in no window, but who knows
    assert kernels.max_pool(x, at) is NotImplemented
    x[1, 2, 3, 1], x[1, 4, 2, 0] = odd, 0
    assert kernels.max_pool(x, at) is NotImplemented


# -- arrays of every kind ----------------------------------------------------------------------------------------------


@needs_library
def test_inputs_may_be_strided_reversed_and_read_only(number: str, rng: np.random.Generator) -> None:
    x, w, b, dy, at, _ = convolution(rng, SPECIAL[2])
    wide = np.zeros((*x.shape[:3], 2 * x.shape[3]), np.float32)
    wide[..., ::2] = x
    strided, turned = wide[..., ::2], np.ascontiguousarray(w[::-1, ::-1])[::-1, ::-1]
    deltas = np.asfortranarray(dy)
    bias = np.repeat(b, 2)[::2]
    for array in (strided, turned, deltas, bias):
        assert not array.flags.c_contiguous
        array.flags.writeable = False
    for name, plain, odd in (
        ("correlate", (x, w, b, at), (strided, turned, bias, at)),
        ("correlate_filters", (x, dy, at), (strided, deltas, at)),
        ("correlate_inputs", (dy, w, at), (deltas, turned, at)),
    ):
        assert np.array_equal(served(name, *plain), served(name, *odd)), name


@needs_library
@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_other_dtypes_are_left_to_the_next(dtype: str, rng: np.random.Generator) -> None:
    x, w, b, dy, at, _ = (a.astype(dtype) if isinstance(a, np.ndarray) else a for a in convolution(rng, SPECIAL[2]))
    pool, vector = pool_windows("test", x.shape[1:3], 2), np.ones(x.shape[3], dtype)
    assert kernels.correlate(x, w, b, at) is NotImplemented
    assert kernels.correlate_filters(x, dy, at) is NotImplemented
    assert kernels.correlate_inputs(dy, w, at) is NotImplemented
    assert kernels.max_pool(x, pool) is kernels.avg_pool(x, pool) is kernels.avg_unpool(x, pool) is NotImplemented
    assert onednn_passes.normalise(x, vector, vector, vector, vector, 1e-5) is NotImplemented
    assert onednn_passes.normalise_backward(x, x, vector, vector, vector, 1e-5) is NotImplemented
    assert kernels.affine(np.ones((300, 300), dtype), np.ones((300, 300), dtype)) is NotImplemented
    assert onednn_passes.rectify_backward(np.ones(10**5, dtype), np.ones(10**5, dtype)) is NotImplemented
    assert onednn_passes.rectify(np.ones(10**5, dtype)) is NotImplemented
    assert onednn_passes.channel_sum(np.ones((9, 9, 99, 9), dtype)) is NotImplemented
    assert onednn_passes.sgd_update(np.ones(10**5, dtype), np.ones(10**5, dtype), {}, 0.1, 0.0, False) is NotImplemented


@needs_library
def test_nothing_and_misfits_are_left_to_the_reference(rng: np.random.Generator) -> None:
    x, w, b, dy, at, _ = convolution(rng, SPECIAL[2])
    assert kernels.correlate(x[:0], w, b, at) is NotImplemented
    assert kernels.correlate_filters(x[:0], dy[:0], at) is NotImplemented
    assert kernels.correlate_inputs(dy[:0], w, at) is NotImplemented
    assert kernels.correlate(x[:, 1:], w, b, at) is NotImplemented
    assert kernels.correlate(x, w, b[:1], at) is NotImplemented
    assert kernels.correlate_filters(x, dy[:, :-1], at) is NotImplemented
    assert kernels.correlate_filters(x[:1], dy, at) is NotImplemented
    assert kernels.correlate_inputs(dy[..., 1:], w, at) is NotImplemented
    pool = pool_windows("test", x.shape[1:3], 3, stride=2, dilation=2)
    assert kernels.max_pool(x, pool) is kernels.avg_pool(x, pool) is NotImplemented
    pool = pool_windows("test", x.shape[1:3], 2)
    y, winners = served("max_pool", x, pool)
    assert kernels.max_pool(x[:0], pool) is kernels.max_unpool(y[1:], winners, pool) is NotImplemented
    assert kernels.max_unpool(y, winners.astype(np.int32), pool) is NotImplemented
    empty = Windows((4, 4), (2, 2), (2, 2), ((2, 0), (0, 0)), (1, 1), (3, 2))
    assert kernels.avg_pool(float32(rng, 1, 4, 4, 1), empty, True) is NotImplemented


# -- again, at once, and many ------------------------------------------------------------------------------------------


def network(rng: np.random.Generator) -> Any:
    """Every kernel once, as one list of results."""
    x, w, b, dy, at, _ = convolution(rng, (8, (16, 16), 16, (3, 3), 32, 1, 1, 1, 1))
    left, right, vector = float32(rng, 64, 1024), float32(rng, 1024, 256), np.ones(16, np.float32)
    pool = pool_windows("test", (16, 16), 2)

    def run() -> list[np.ndarray]:
        y, winners = served("max_pool", x, pool)
        return [
            served("correlate", x, w, b, at, relu=True),
            *served("parameter_gradients", x, dy, at, 1, True),
            served("correlate_inputs", dy, w, at),
            y,
            served("max_unpool", y, winners, pool),
            served("avg_unpool", served("avg_pool", x, pool), pool),
            *served("batch_normalise", x, vector, vector, 1e-5, True),
            served("normalise", x, vector, vector, vector, vector, 1e-5),
            *served("normalise_backward", x, x, vector, vector, vector, 1e-5),
            served("channel_sum", dy),
            served("rectify", dy),
            served("rectify_backward", dy, dy),
            served("affine", left, right),
        ]

    return run


def same(one: list[np.ndarray], other: list[np.ndarray]) -> bool:
    return all(a.tobytes() == b.tobytes() for a, b in zip(one, other, strict=True))


@needs_library
def test_results_are_bit_identical_from_run_to_run(number: str, rng: np.random.Generator) -> None:
    run = network(rng)
    first = run()
    for _ in range(5):
        assert same(first, run())


@needs_library
def test_eight_threads_at_once_get_what_one_gets(number: str, rng: np.random.Generator) -> None:
    run = network(rng)
    expected, wrong, start = run(), [], threading.Barrier(8)

    def work() -> None:
        start.wait()
        for _ in range(5):
            if not same(expected, run()):
                wrong.append(threading.get_ident())

    workers = [threading.Thread(target=work) for _ in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


@needs_library
def test_plans_that_are_long_unused_are_destroyed(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onednn_plans, "KEPT", 4)
    x, w, b, dy, at, _ = convolution(rng, SPECIAL[2])
    first = served("correlate", x, w, b, at)
    destroyed: list[int] = []
    library = onednn.library()
    real = library.quick.dnnl_primitive_destroy
    monkeypatch.setattr(library.quick, "dnnl_primitive_destroy", lambda handle: destroyed.append(1) or real(handle))
    for n in range(1, 12):
        served("correlate", float32(rng, n, 5, 5, 3), w, b, windows("test", (5, 5), (3, 3)))
    gc.collect()
    assert len(onednn_plans._of_thread.plans) == 4 and len(destroyed) >= 7
    assert np.array_equal(first, served("correlate", x, w, b, at))


@needs_library
def test_the_callers_threads_are_put_back(monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator) -> None:
    library = onednn.library()
    if library.runtime != "OpenMP":
        pytest.skip("no OpenMP")
    monkeypatch.setenv("DUALNET_THREADS", "1")
    before = library.get_threads()
    library.set_threads(3)
    try:
        network(rng)()
        assert library.get_threads() == 3
    finally:
        library.set_threads(before)


def test_addresses_are_those_of_the_array_interface(rng: np.random.Generator) -> None:
    whole = float32(rng, 7, 9)
    mapped = np.frombuffer(bytearray(40), np.float32)
    for array in (whole, whole[2:], whole[::-1], whole.T, whole[1:1], mapped, np.asarray(1.0)):
        assert onednn_plans.address(array) == onednn_plans._by_interface(array) == array.ctypes.data
