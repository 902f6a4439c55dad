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
import ml_dtypes  # noqa: F401  makes "bfloat16" a name that NumPy knows
import numpy as np
import pytest
from oracles import error, prove, tau

import dualnet as dn
from dualnet.backend import references
from dualnet.backends import cublas, cuda_launch, cuda_registry, cupy_backend, cupy_kernels, cupy_sums
from dualnet.geometry import windows

DTYPES = ["float32", "float64", "float16", "bfloat16"]


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


def there(value):
    return dn.asarray(value) if isinstance(value, (np.ndarray, np.generic)) else value


def flat(result):
    parts = result if isinstance(result, tuple) else (result,)
    return [p for part in parts for p in (part.values() if isinstance(part, dict) else [part])]


def agree(name, *arguments, K, scale=1.0, **options):
    """The kernel serves, gives the reference's numbers, and the same bits when blocks and threads run last to first."""
    results = []
    for backwards in (False, True):
        cuda_host.order["backwards"] = backwards
        moved = [{k: there(v) for k, v in a.items()} if isinstance(a, dict) else there(a) for a in arguments]
        before = [dn.to_numpy(a).tobytes() for a in moved if hasattr(a, "shape")]
        result = cupy_backend.OWN[name](*moved, **options)
        assert result is not NotImplemented, name
        assert before == [dn.to_numpy(a).tobytes() for a in moved if hasattr(a, "shape")], f"{name}: an input changed"
        results.append([dn.to_numpy(part) for part in flat(result)])
    cuda_host.order["backwards"] = False
    with np.errstate(all="ignore"):
        expected = flat(references[name].reference(*arguments, **options))
    for got, again, want in zip(*results, expected, strict=True):
        want = np.asarray(want)
        assert got.tobytes() == again.tobytes(), f"{name}: the bits depend on the order of threads"
        assert (got.shape, got.dtype) == (want.shape, want.dtype), name
        if want.dtype.kind in "bui":
            assert np.array_equal(got, want), name
            continue
        limit = 2 * scale * tau(got.dtype, K)
        assert error(got, want) <= limit, f"{name}: {error(got, want):.2e} > {limit:.2e}"


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
    agree("max_unpool", dy, references["max_pool"].reference(x, at)[1], at, K=at.taps)
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
def test_channels_of_maps_off_their_packs(cupy, rng, monkeypatch, dtype):
    """Maps that do not begin on 16 bytes are read in smaller packs, and each map of a launch in the same."""
    monkeypatch.setattr(cupy_sums, "BLOCKS", 3)
    maps = [dn.asarray(rng.standard_normal(41 * 16).astype(dtype)) for _ in range(3)]
    packs = set()
    for starts in [(0, 0, 0), (1, 0, 0), (0, 2, 0), (0, 4, 4)]:
        dy, x, y = (dn.asarray(whole)[start : start + 40 * 16].reshape(40, 16) for whole, start in zip(maps, starts))
        packs.add(cupy_sums.Shared(3, dy, x, y).types["pack"])
        host = [dn.to_numpy(a) for a in (dy, x, y)]
        mean, variance = references["channel_moments"].reference(host[1])
        numbers = mean, variance, mean + 1, 1e-5
        got = cupy_backend.OWN["normalise_backward"](dy, x, *map(there, numbers[:3]), 1e-5, y)
        want = references["normalise_backward"].reference(host[0], host[1], *numbers, host[2])
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


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_optimizers_one_by_one(cupy, rng, dtype):
    w, g, a, b = (rng.standard_normal((37, 31)).astype(dtype) for _ in range(4))
    agree("sgd_update", w, g, {}, 0.1, 0.0, False, K=1)
    for nesterov in (False, True):
        agree("sgd_update", w, g, {"velocity": a}, 0.1, 0.9, nesterov, K=1)
    agree("adam_update", w, g, {"mean": a, "mean_square": b * b}, 0.1, (0.9, 0.999), 1e-8, 3, K=1)


# -- what no reference stands for yet ----------------------------------------------------------------------------------


@pytest.mark.parametrize("on_device", [False, True])
@pytest.mark.parametrize("kernel", ["sgd_update", "adam_update"])
def test_many_parameters_in_place_with_shadows(cupy, rng, kernel, on_device):
    """Fifty parameters in two launches: masters in float32, gradients and shadows in float16."""
    shapes = [(int(n),) for n in rng.integers(1, 2500, 49)] + [(3, 4)]
    w, a, b = ([rng.standard_normal(s).astype("f4") for s in shapes] for _ in range(3))
    g = [rng.standard_normal(s).astype("f2") for s in shapes]
    b = [v * v for v in b]
    shadows = [np.zeros(s, "f2") for s in shapes]
    there_w, there_a, there_b, there_g, there_s = ([dn.asarray(v) for v in part] for part in (w, a, b, g, shadows))
    cuda_host.launches.clear()
    adam = kernel == "adam_update"
    rule = {"first": 0.9, "weight_decay": 0.01, **({"second": 0.999, "epsilon": 1e-8} if adam else {"nesterov": True})}
    lr, t = (dn.asarray(np.full(1, 0.1, "f4")), dn.asarray(np.full(1, 4, "u8"))) if on_device else (np.float64(0.1), 5)
    second = there_b if adam else [None] * 50
    rows = list(zip(there_w, there_a, second, there_s, there_w, there_a, second, there_g))
    cupy_sums.update(kernel, rows, lr=lr, t=t, **rule)
    assert cuda_host.launches == [kernel] * 2
    for k in range(50):
        step = g[k].astype("f4") + np.float32(0.01) * w[k]
        if adam:
            slots = {"mean": a[k], "mean_square": b[k]}
            value, slots = references[kernel].reference(w[k], step, slots, 0.1, (0.9, 0.999), 1e-8, 5)
        else:
            value, slots = references[kernel].reference(w[k], step, {"velocity": a[k]}, 0.1, 0.9, True)
        for got, want in zip([there_w[k], there_a[k], there_b[k]], [value, *slots.values()]):
            assert error(dn.to_numpy(got), want) <= tau("float32", 1)
        assert (dn.to_numpy(there_s[k]) == dn.to_numpy(there_w[k]).astype("f2")).all()


@pytest.mark.parametrize("finite", [True, False])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("kernel", ["sgd_update", "adam_update"])
def test_a_step_with_a_loss_scale(cupy, rng, kernel, dtype, finite):
    """Scaled gradients of 16 bits, divided on the way; where they are not finite, what is new is what was old."""
    wide, adam = "float64" if dtype == "float64" else "float32", kernel == "adam_update"
    w, a, b = (rng.standard_normal((33, 40)).astype(wide) for _ in range(3))
    g = (64 * rng.standard_normal((33, 40))).astype(dtype)
    g[0, 1] = g[0, 1] if finite else np.inf
    there_w, there_a, there_b = (dn.asarray(v) for v in (w, a, b * b))
    new = [cupy.empty(w.shape, dtype=wide) for _ in range(3)]
    shadow, second = cupy.empty(w.shape, dtype=dtype), there_b if adam else None
    row = (new[0], new[1], new[2] if adam else None, shadow, there_w, there_a, second, dn.asarray(g))
    rule = {"first": 0.9, "lr": 0.1, **({"second": 0.999, "epsilon": 1e-8, "t": 3} if adam else {})}
    by, flag = dn.asarray(np.asarray(1 / 64, wide)), dn.asarray(np.asarray(finite))
    cupy_sums.update(kernel, [row], unscale=by, finite=flag, **rule)
    if not finite:
        wanted = [w, a, b * b]
    elif adam:
        slots = {"mean": a, "mean_square": b * b}
        value, slots = references[kernel].reference(w, g.astype(wide) / 64, slots, 0.1, (0.9, 0.999), 1e-8, 3)
        wanted = [value, *slots.values()]
    else:
        value, slots = references[kernel].reference(w, g.astype(wide) / 64, {"velocity": a}, 0.1, 0.9, False)
        wanted = [value, *slots.values()]
    for got, want in zip(new, wanted[: 3 if adam else 2]):
        exact = dn.to_numpy(got).tobytes() == want.tobytes()
        assert exact if not finite else error(dn.to_numpy(got), want) <= tau(wide, 1)
    assert dn.to_numpy(shadow).tobytes() == dn.to_numpy(new[0]).astype(dtype).tobytes()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_many_parameters_in_16_bits(cupy, rng, dtype):
    """Fifty in two launches, each as the host rounds it; and what is left to the reference."""
    values = [rng.standard_normal(int(n)).astype("f4") for n in rng.integers(1, 2500, 50)]
    kind, there_w = np.dtype(dtype), [dn.asarray(w) for w in values]
    cuda_host.launches.clear()
    for got, w in zip(cupy_sums.round_all(there_w, kind), values, strict=True):
        assert got.dtype == kind and dn.to_numpy(got).tobytes() == w.astype(kind).tobytes()
    assert cuda_host.launches == ["round_all"] * 2
    for wrong, to in (([dn.asarray(values[0], "float64")], kind), (there_w[:1], np.dtype("f4"))):
        assert cupy_sums.round_all(wrong, to) is NotImplemented


@pytest.mark.parametrize("dtype", DTYPES)
def test_over_all_gradients(cupy, rng, dtype):
    """Fifty gradients of two dtypes: launches of 40. Each of them may hold the one bad number."""
    wide = "float64" if dtype == "float64" else "float32"
    arrays = [rng.standard_normal(int(n)).astype(dtype if n % 3 else wide) for n in rng.integers(1, 2500, 50)]
    cuda_host.launches.clear()
    agree("all_finite", *arrays, K=0)
    agree("unscale", np.asarray(2.0**-9, wide), *arrays, K=0)
    assert set(cuda_host.launches) == {"all_finite", "unscale"}
    for k in (0, 17, 49):
        for bad in (np.inf, -np.inf, np.nan):
            worse = [array.copy() for array in arrays]
            worse[k][rng.integers(worse[k].size)] = bad
            agree("all_finite", *worse, K=0)
            assert not dn.to_numpy(cupy_sums.all_finite(*map(dn.asarray, worse)))
    empty = np.zeros(0, dtype)
    assert cupy_sums.all_finite(dn.asarray(empty)) is NotImplemented
    assert cupy_sums.unscale(dn.asarray(np.asarray(0.5, wide)), dn.asarray(empty)) is NotImplemented


@pytest.mark.parametrize("source", ["uint8", "float32"])
@pytest.mark.parametrize("moved", [False, True])
def test_a_batch_gathered_on_the_device(cupy, rng, source, moved):
    images = rng.integers(0, 256, (6, 5, 4, 3)).astype(source)
    order = rng.integers(0, 6, 7).astype("i4")
    moves = np.stack([*rng.integers(-3, 4, (2, 7)), rng.integers(0, 2, 7)], axis=1).astype("i1") if moved else None
    mean, scale = rng.random(3).astype("f4"), rng.random(3).astype("f4")
    y = cupy_sums.gather_batch(*(None if v is None else dn.asarray(v) for v in (images, order, moves, mean, scale)))
    for n, image in enumerate(images[order].astype("f4")):
        if moved:
            down, right, flipped = moves[n]
            image = np.pad(image, ((3, 3), (3, 3), (0, 0)))[3 + down : 8 + down, 3 + right : 7 + right]
            image = image[:, ::-1] if flipped else image
        assert error(dn.to_numpy(y)[n], (image - mean) * scale) <= tau("float32", 1)


def test_bfloat16_is_rounded_as_by_the_host(cupy, rng):
    """To the nearest, ties to even, from 1e-30 to 1e30."""
    x = (rng.standard_normal((3, 5, 8)) * 10 ** rng.uniform(-30, 30, (3, 5, 8))).astype("f4")
    x[0, 0, :4] = np.array([0x3F808000, 0x3F818000, 0x7F7F8000, 0xFF800000], "u4").view("f4")
    rounded = x.astype("bfloat16")
    agree("rectify", rounded, K=0)
    w, shadow = dn.asarray(x), cupy.empty(x.shape, dtype="bfloat16")
    g = dn.asarray(np.zeros(x.shape, "bfloat16"))
    flag = dn.asarray(np.asarray(False))  # a step that does not count rounds the masters
    cupy_sums.update("sgd_update", [(w, None, None, shadow, w, None, None, g)], lr=0.0, finite=flag)
    assert dn.to_numpy(shadow).tobytes() == rounded.tobytes()


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
