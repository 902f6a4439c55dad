"""Convolution by a pretend cuDNN on a pretend GPU: the arguments it gets, the results, and which calls it serves.

The pretend frontend (fake_cudnn.py) computes what was declared to it, from the addresses it was given. So if the result
is the reference's, then dims, strides, padding, dilation, groups and the order of the arrays were right. That the real
one accepts all this is shown in test_cudnn_plans.py.
"""

from __future__ import annotations

from collections import Counter

import cuda_host
import fake_cudnn
import numpy as np
import pytest
from fake_cudnn import agree, arrays, asked, captured, dtype_of, placed
from oracles import error

import dualnet as dn
from dualnet.backend import calls, references
from dualnet.backends.gpu import cudnn_kernels, cudnn_library, cudnn_plans, maps, steps
from dualnet.geometry import windows
from dualnet.layers.parameter import round_all

CASES = [(8, 5, 1), (7, 3, 1), (16, 8, 1), (14, 4, 2), (24, 12, 3), (9, 1, 1), (32, 8, 4), (8, 40, 1)]


# -- what is computed --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", range(len(CASES)))
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_the_three_sums(world, rng, monkeypatch, dtype, case):
    monkeypatch.setenv("DUALNET_CUDNN", "all")
    C, D, groups = CASES[case]
    at, N = placed(rng), int(rng.integers(1, 4))
    x, w, b, dy = arrays(rng, at, N, C, D, groups, dtype)
    K = max(at.taps * max(C, D), dy.size // D)
    agree("correlate", x, w, b, at, groups, K=K)
    agree("correlate", x, w, b, at, groups, True, K=K)
    agree("correlate", x, w, None, at, groups, K=K)
    agree("correlate", x, w, None, at, groups, True, K=K)
    agree("correlate_inputs", dy, w, at, groups, K=K)
    agree("correlate_filters", x, dy, at, groups, K=K)
    names = {name for _, name, _ in world.executed[-6:]}
    assert names <= {"eng_plain", "eng_good", "eng_alike", "eng_tf32"}


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_an_op_and_its_pullback(world, rng, dtype):
    """Of conv2d and conv_transpose2d, on shapes that cuDNN serves."""
    x, w, b = (rng.standard_normal(s).astype(dtype) for s in ((2, 9, 7, 16), (3, 2, 8, 12), (12,)))
    y, pullback = dn.ops.conv2d(x, w, b, stride=(2, 1), padding="same", dilation=(1, 2), groups=2, relu=True)
    there = [dn.asarray(a) for a in (x, w, b)]
    calls.clear()
    y_there, pullback_there = dn.ops.conv2d(*there, stride=(2, 1), padding="same", dilation=(1, 2), groups=2, relu=True)
    dy = rng.standard_normal(y.shape).astype(dtype)
    got, want = pullback_there(dn.asarray(dy)), pullback(dy)
    served = {name for (name, by), _ in calls.items() if by == "kernel of cuDNN"}
    assert served == {"correlate", "correlate_inputs", "correlate_filters"}
    for ours, theirs in zip((y, *want), (y_there, *got), strict=True):
        assert error(dn.to_numpy(theirs), ours) < (1e-6 if dtype == "float32" else 2e-3)

    x, w = rng.standard_normal((2, 4, 3, 12)).astype(dtype), w
    y, pullback = dn.ops.conv_transpose2d(x, w, stride=3, padding=1, output_padding=(2, 0), groups=2)
    y_there, pullback_there = dn.ops.conv_transpose2d(
        dn.asarray(x), dn.asarray(w), stride=3, padding=1, output_padding=(2, 0), groups=2
    )
    dy = rng.standard_normal(y.shape).astype(dtype)
    got, want = pullback_there(dn.asarray(dy)), pullback(dy)
    for ours, theirs in zip((y, *want[:2]), (y_there, *got[:2]), strict=True):
        assert error(dn.to_numpy(theirs), ours) < (1e-6 if dtype == "float32" else 2e-3)


def test_unaligned_and_noncontiguous_arrays_are_copied(world, rng):
    at = windows("conv2d", (5, 6), (3, 2))
    x, w, b, dy = arrays(rng, at, 3, 7, 9, 1)
    off = dn.asarray(np.concatenate([b[:1], b]))[1:]
    for x_there in (dn.asarray(np.concatenate([x[:1], x]))[1:], dn.asarray(np.concatenate([x, x], axis=3))[..., :7]):
        for w_there, bank in ((dn.asarray(w), w), (dn.asarray(w)[::-1, ::-1], w[::-1, ::-1])):
            y = cudnn_kernels.correlate(x_there, w_there, off, at)
            assert error(dn.to_numpy(y), references["correlate"].reference(x, bank, b, at)) < 1e-6
            dx = cudnn_kernels.correlate_inputs(dn.asarray(dy), w_there, at)
            assert error(dn.to_numpy(dx), references["correlate_inputs"].reference(dy, bank, at)) < 1e-6
        dw = cudnn_kernels.correlate_filters(x_there, dn.asarray(dy), at)
        assert error(dn.to_numpy(dw), references["correlate_filters"].reference(x, dy, at)) < 1e-6
    assert not cudnn_plans.reasons


def test_a_network_trains_to_the_same_numbers(world, rng):
    x, t = rng.standard_normal((8, 8, 8, 1)).astype(np.float32), rng.integers(0, 3, 8)
    layers = [dn.Conv2D(8, 3, padding="same"), dn.ReLU(), dn.Conv2D(12, 3), dn.ReLU(), dn.Conv2D(8, 3, padding="same")]
    net = dn.Sequential([*layers, dn.BatchNorm(), dn.ReLU(), dn.Flatten(), dn.Dense(3)])
    trained = {}
    for backend in ("numpy", "cupy"):
        with dn.use_backend(backend):
            model = net.copy().init((8, 8, 1), seed=1)
            model.fit(x, t, epochs=2, batch_size=4, optimizer=dn.SGD(0.05), verbose=0)
            trained[backend] = {name: dn.to_numpy(p) for name, p in model.state_dict().items()}
    assert Counter(operation for operation, _, _ in world.executed).keys() >= {"forward+bias+relu", "inputs", "filters"}
    for name, value in trained["numpy"].items():
        np.testing.assert_allclose(trained["cupy"][name], value, rtol=1e-3, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_network_of_16_bits(world, rng, dtype):
    dtype_of(dtype)
    x, t = rng.standard_normal((4, 8, 8, 8)).astype(np.float32), rng.integers(0, 3, 4)
    net = dn.Sequential([dn.Conv2D(8, 3), dn.ReLU(), dn.Conv2D(8, 3), dn.BatchNorm(), dn.Flatten(), dn.Dense(3)])
    net.init((8, 8, 8), seed=1, dtype=dtype).fit(x, t, epochs=2, batch_size=2, optimizer=dn.SGD(0.01), verbose=0)
    assert {kind.name for _, _, kind in world.executed} == {{"float16": "HALF", "bfloat16": "BFLOAT16"}[dtype]}
    assert {way.split("+")[0] for way, _, _ in world.executed} == {"forward", "inputs", "filters"}
    assert not set(cudnn_plans.reasons.values()) - {"faster without"}


def test_a_captured_step_gives_the_same_bits(world, small, rng):
    at, x, w, b, dy = small
    x_there, w_there, dy_there = (dn.asarray(a) for a in (x, w, dy))
    b_there = dn.asarray(b)

    def work():
        y = cudnn_kernels.correlate(x_there, w_there, b_there, at, 1, True)
        return (
            y,
            cudnn_kernels.correlate_inputs(dy_there, w_there, at),
            cudnn_kernels.correlate_filters(x_there, dy_there, at),
        )

    stream, graph, results = captured(world, work)
    for _ in range(2):
        x_there[...] = dn.asarray(rng.standard_normal(x.shape).astype("f4"))
        graph.launch(stream)
        eager = work()
        for one, two in zip(results, eager, strict=True):
            assert dn.to_numpy(one).tobytes() == dn.to_numpy(two).tobytes()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_captured_training_gives_the_same_bits(world, rng, dtype):
    dtype_of(dtype)
    x, t = rng.standard_normal((8, 8, 8, 3)).astype(np.float32), rng.integers(0, 3, 8)
    layers = [dn.Conv2D(8, 3, padding="same"), dn.ReLU(), dn.Conv2D(12, 3), dn.ReLU(), dn.Flatten(), dn.Dense(3)]
    trained = []
    for capture in (False, True):
        net = dn.Sequential(layers).copy().init((8, 8, 3), seed=1, dtype=dtype)
        calls.clear()
        net.fit(x, t, epochs=3, batch_size=4, optimizer=dn.SGD(0.05, momentum=0.9), verbose=0, capture=capture)
        assert {name for name, by in calls if by == "kernel of cuDNN"} >= {"correlate", "correlate_inputs"}
        trained.append({name: dn.to_numpy(p).tobytes() for name, p in net.state_dict().items()})
    assert world.cupy.now.graphs.launched and trained[0] == trained[1]
    assert world.cupy.now.graphs.device.beside_the_default_pool() == 0  # cuDNN's workspaces are not in the graph's pool
    assert cudnn_library._captured


def test_nothing_waits_after_the_first_time(world, small):
    at, x, w, b, dy = small
    moved = [dn.asarray(a) for a in (x, w, b, dy)]

    def step():
        x, w, b, dy = moved
        cudnn_kernels.correlate(x, w, b, at, 1, True)
        cudnn_kernels.correlate_inputs(dy, w, at)
        cudnn_kernels.correlate_filters(x, dy, at)

    step()
    waits, called = world.counted["waits"], Counter(world.cupy.now.called)
    with dn.transfers("forbid"):
        step()
    assert world.counted["waits"] == waits
    assert set(world.cupy.now.called - called) <= {"empty", "ascontiguousarray", "permute_dims", "reshape"}


# -- filter banks ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
@pytest.mark.parametrize(
    "shape",
    [
        (3, 3, 8, 16),
        (1, 1, 33, 65),
        (5, 2, 7, 1),
        (1, 1, 1, 9),
        (2, 2, 5, 2),
        (1, 2, 1, 9),
        (2, 3, 11, 31),
        (1, 1, 32, 32),
    ],
)
def test_a_bank_is_turned_and_its_gradient_is_turned_back(world, rng, dtype, shape):
    w = rng.standard_normal(shape).astype(dtype_of(dtype))
    there = cudnn_kernels.turned(world.cupy, dn.asarray(w))
    assert dn.to_numpy(there).tobytes() == np.ascontiguousarray(w.transpose(3, 0, 1, 2)).tobytes()
    (back,) = steps.turned_gradients([world.cupy.permute_dims(there, (1, 2, 3, 0))])
    assert back.flags.c_contiguous and dn.to_numpy(back).tobytes() == w.tobytes()


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_a_step_turns_the_gradients_of_all_banks_at_once(world, rng, dtype):
    """Forty-five banks and a bias: the same bits as with gradients that lie like their parameters."""
    kind = np.dtype(dtype_of(dtype))
    shapes = [(3, 3, int(C), int(D)) for C, D in rng.integers(2, 40, (45, 2))]
    shapes[3:3] = [(64,), (3, 3, 3, 3)]
    w = [dn.asarray(rng.standard_normal(shape, dtype="f4")) for shape in shapes]
    plain = [dn.asarray(rng.standard_normal(shape).astype(kind)) for shape in shapes]
    turned = [
        g if g.ndim == 1 else world.cupy.permute_dims(cudnn_kernels.turned(world.cupy, g), (1, 2, 3, 0)) for g in plain
    ]
    results, launched = [], []
    for gradients in (plain, turned):
        cuda_host.launches.clear()
        slots = [{"velocity": dn.asarray(np.zeros(a.shape, "f4"))} for a in w]
        made = steps.sgd_updates(w, gradients, slots, 0.1, 0.9, False, 0.0, None, False)
        scaled = steps.unscale(dn.asarray(np.float32(0.5)), *gradients)
        assert bool(dn.to_numpy(steps.all_finite(*gradients)))
        launched.append(Counter(cuda_host.launches))
        results.append([dn.to_numpy(a).tobytes() for a in (*(value for value, _ in made), *scaled)])
    assert results[0] == results[1]
    assert launched[1] - launched[0] == {"turn_gradients": 2} and not launched[0] - launched[1]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_parameters_of_16_bits_are_stored_turned(world, rng, dtype):
    """Forty-five banks among other parameters: rounded as always, and no convolution turns any of them again."""
    kind = np.dtype(dtype_of(dtype))
    shapes = [(3, 3, int(C), int(D)) for C, D in rng.integers(7, 70, (45, 2))]
    shapes[3:3] = [(64,), (3, 3, 3, 8), (7, 5)]  # few channels have kernels of their own
    host = [rng.standard_normal(shape, dtype="f4") for shape in shapes]
    cuda_host.launches.clear()
    made = round_all([dn.asarray(w) for w in host], kind)
    assert Counter(cuda_host.launches) == {"turn_all": 2, "round_all": 1}
    for w, got in zip(host, made, strict=True):
        assert got.dtype == kind and dn.to_numpy(got).tobytes() == w.astype(kind).tobytes()
        bank = w.ndim == 4 and w.shape[2] > maps.FEW
        assert got.flags.c_contiguous != bank
        if bank:
            cuda_host.launches.clear()
            turned = cudnn_kernels.turned(world.cupy, got)
            assert turned.data.ptr == got.data.ptr and turned.flags.c_contiguous and not cuda_host.launches
    alone = round_all([dn.asarray(host[0])], kind)
    assert dn.to_numpy(alone[0]).tobytes() == host[0].astype(kind).tobytes()
    assert cudnn_kernels.round_all([dn.asarray(host[3])], kind) is NotImplemented
    assert cudnn_kernels.round_all([dn.asarray(host[0])], np.dtype("f4")) is NotImplemented


def test_a_step_of_16_bits_turns_banks_in_one_launch(world, rng, monkeypatch):
    monkeypatch.setenv("DUALNET_CUDNN", "all")
    dtype_of("bfloat16")
    x, t = dn.asarray(rng.standard_normal((4, 8, 8, 8), dtype="f4"), "bfloat16"), dn.asarray(rng.integers(0, 3, 4))
    net = dn.Sequential([dn.Conv2D(16, 3), dn.ReLU(), dn.Conv2D(8, 3), dn.ReLU(), dn.Flatten(), dn.Dense(3)])
    net.init((8, 8, 8), seed=1, dtype="bfloat16")
    launched = []
    for epochs in (1, 2, 3):  # the first tries out plans, and rounds parameters one by one
        cuda_host.launches.clear()
        net.fit(x, t, epochs=epochs, batch_size=2, verbose=0)
        launched.append(Counter(cuda_host.launches))
    more = launched[2] - launched[1]
    assert more["turn_all"] == 2 and more["turn_gradients"] == 2 and not more["turn"], "once a step, there and back"


def test_a_bank_that_needs_no_turning_is_aligned_too(world, rng, monkeypatch):
    """Views into a larger array: a bank of one filter, and one with windows of one unit and one channel."""
    monkeypatch.setenv("DUALNET_CUDNN", "all")
    for at, D in ((windows("conv2d", (6, 5), (3, 3)), 1), (windows("conv2d", (6, 5), (1, 1)), 4)):
        x, w, _, dy = arrays(rng, at, 2, 1, D, 1)
        held = dn.asarray(np.concatenate([np.zeros(1, np.float32), w.ravel()]))
        view = dn.backend.backend_of(held).xp.reshape(held[1:], w.shape)
        assert view.data.ptr % 16
        for kernel, given in (("correlate", (x, w, None)), ("correlate_inputs", (dy, w))):
            moved = [view if a is w else a if a is None else dn.asarray(a) for a in given]
            y = getattr(cudnn_kernels, kernel)(*moved, at)
            assert y is not NotImplemented, cudnn_plans.reasons
            assert error(dn.to_numpy(y), references[kernel].reference(*given, at)) < 1e-6


# -- which calls it serves ---------------------------------------------------------------------------------------------


def test_what_is_not_served(world, small, monkeypatch):
    monkeypatch.setenv("DUALNET_CUDNN_AUTOTUNE", "0")
    at, x, w, b, dy = small
    empty = np.zeros((0, 6, 5, 8), np.float32)
    few = windows("conv2d", (6, 5), (3, 3))
    one = windows("conv2d", (6, 5), (1, 1))
    for given in (
        ("correlate", x.astype("f8"), w.astype("f8"), None, at),
        ("correlate", x, w, b.astype("f2"), at),
        ("correlate", empty, w, b, at),
        ("correlate", x[..., :6], w[:, :, :6], b, few),
        ("correlate", x, w[:, :, :2], b, few, 4),
        ("correlate", x, w[:1, :1], b, one),
        ("correlate_inputs", dy.astype("f8"), w.astype("f8"), at),
        ("correlate_inputs", np.zeros((0, 6, 5, 4), np.float32), w, at),
        ("correlate_filters", empty, np.zeros((0, 6, 5, 4), np.float32), at),
        ("correlate_filters", x[..., :3], dy, at),
    ):
        assert asked(*given) is NotImplemented, given
    assert not world.graphs


def test_few_channels_and_windows_of_one_unit_go_to_the_faster_kernel(world, small, monkeypatch):
    monkeypatch.setattr(fake_cudnn, "LAUNCH", 1e-5)
    at, x, w, b, dy = small
    one = windows("conv2d", (6, 5), (1, 1))
    agree("correlate", x, w[:1, :1], b, one, K=8)  # a product takes longer here
    agree("correlate_filters", x[..., :3], dy, at, K=60)  # and so do two launches
    assert asked("correlate", x[..., :3], w[:, :, :3], None, at) is NotImplemented  # but not a single one
    assert list(cudnn_plans.reasons.values()) == ["faster without"]


@pytest.mark.parametrize("autotune", ["0", "1"])
def test_all_means_all(world, monkeypatch, small, autotune):
    at, x, w, b, dy = small
    monkeypatch.setenv("DUALNET_CUDNN", "all")
    monkeypatch.setenv("DUALNET_CUDNN_AUTOTUNE", autotune)
    agree("correlate", x[..., :1], w[:, :, :1], b, at, K=9)
    agree("correlate_inputs", dy, w[:1, :1], windows("conv2d", (6, 5), (1, 1)), K=4)
    agree("correlate_filters", x, dy, windows("conv2d", (6, 5), (3, 3), padding=1), 2, K=60)
