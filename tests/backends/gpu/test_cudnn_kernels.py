"""cuDNN without cuDNN and without a GPU: what it is told, what is computed, and which plan is chosen.

The pretend frontend (fake_cudnn.py) computes what was declared to it, from the addresses that it was handed. So where
the result is the reference's, dims, strides, padding, stride, dilation, groups and the order of arrays were right.
That the real one accepts all this is what test_cudnn_plans.py shows.
"""

from __future__ import annotations

from collections import Counter

import cuda_host
import fake_cudnn
import fake_cupy
import numpy as np
import pytest
from fake_cudnn import agree, arrays, asked, dtype_of, placed
from oracles import error

import dualnet as dn
from dualnet.backend import calls, references
from dualnet.backends.gpu import cudnn_kernels, cudnn_plans
from dualnet.backends.gpu import cudnn_library as cudnn
from dualnet.backends.gpu import maps as cupy_kernels
from dualnet.geometry import windows
from dualnet.layers.parameter import round_all


@pytest.fixture
def world(monkeypatch):
    """A pretend GPU with a pretend cuDNN."""
    monkeypatch.setattr(cudnn_plans, "ROUNDS", 1)
    monkeypatch.setattr(cudnn_plans, "REPEATS", 1)
    with fake_cupy.in_force(monkeypatch) as cupy:
        yield fake_cudnn.install(monkeypatch, cupy)


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
    """Through conv2d and conv_transpose2d, on shapes of the kind that cuDNN serves."""
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


def test_what_lies_unaligned_or_apart_is_copied(world, rng):
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
    assert not set(cudnn_plans.reasons.values()) - {"sooner without"}


# -- the bank ----------------------------------------------------------------------------------------------------------


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
def test_a_bank_is_turned_and_turned_back(world, rng, dtype, shape):
    w = rng.standard_normal(shape).astype(dtype_of(dtype))
    there = cudnn_kernels.turned(world.cupy, dn.asarray(w))
    assert dn.to_numpy(there).tobytes() == np.ascontiguousarray(w.transpose(3, 0, 1, 2)).tobytes()
    assert dn.to_numpy(cudnn_kernels.turned_back(world.cupy, there)).tobytes() == w.tobytes()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_parameters_of_16_bits_lie_turned(world, rng, dtype):
    """Forty-five banks among other parameters: rounded as ever, and no convolution turns one of them again."""
    kind = np.dtype(dtype_of(dtype))
    shapes = [(3, 3, int(C), int(D)) for C, D in rng.integers(7, 70, (45, 2))]
    shapes[3:3] = [(64,), (3, 3, 3, 8), (7, 5)]  # few channels have kernels of their own
    host = [rng.standard_normal(shape, dtype="f4") for shape in shapes]
    cuda_host.launches.clear()
    made = round_all([dn.asarray(w) for w in host], kind)
    assert Counter(cuda_host.launches) == {"turn_all": 2, "round_all": 1}
    for w, got in zip(host, made, strict=True):
        assert got.dtype == kind and dn.to_numpy(got).tobytes() == w.astype(kind).tobytes()
        bank = w.ndim == 4 and w.shape[2] > cupy_kernels.FEW
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
    for epochs in (1, 2, 3):  # in the first, plans are tried out, and the first casts come one by one
        cuda_host.launches.clear()
        net.fit(x, t, epochs=epochs, batch_size=2, verbose=0)
        launched.append(Counter(cuda_host.launches))
    more = launched[2] - launched[1]
    assert more["turn_all"] == 2 and more["turn"] == 4, "once for all banks, and back for each gradient"


def test_a_bank_that_needs_no_turning_lies_on_16_bytes_too(world, rng, monkeypatch):
    """A view into a larger array, of one filter or of windows of one unit with one channel."""
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


# -- which plan --------------------------------------------------------------------------------------------------------


@pytest.fixture
def small(rng):
    at = windows("conv2d", (6, 5), (3, 3), padding=1)
    return at, *arrays(rng, at, 2, 8, 4, 1)


def plan_of(world):
    return world.executed[-1][1]


@pytest.mark.parametrize("precision", ["strict", "tf32"])
def test_tf32_only_where_it_was_asked_for(world, small, precision):
    at, x, w, b, dy = small
    dn.set_precision(precision)
    for kernel, given in (("correlate", (x, w, b)), ("correlate_inputs", (dy, w)), ("correlate_filters", (x, dy))):
        asked(kernel, *given, at)
        assert plan_of(world) == ("eng_tf32" if precision == "tf32" else "eng_good")
        barred = world.graphs[0].barred
        assert {"NONDETERMINISTIC", "WINOGRAD", "FFT", "REDUCED_PRECISION_REDUCTION"} <= barred
        assert ({"TENSOR_CORE", "DOWN_CONVERT_INPUTS"} <= barred) == (precision == "strict")


def test_precision_is_part_of_the_shape(world, small):
    at, x, w, b, _ = small
    for precision in ("strict", "tf32", "strict"):
        dn.set_precision(precision)
        asked("correlate", x, w, b, at)
        assert plan_of(world) == ("eng_tf32" if precision == "tf32" else "eng_good")


def test_16_bits_may_use_tensor_cores(world, small):
    at, x, w, b, _ = small
    asked("correlate", *(a.astype(np.float16) for a in (x, w, b)), at)
    assert plan_of(world) == "eng_tf32" and "TENSOR_CORE" not in world.graphs[0].barred


def test_a_relu_that_loses_nan_is_not_chosen(world, small, monkeypatch):
    monkeypatch.setattr(fake_cudnn, "PLANS", [("eng_loses_nan", "", 1e-6), ("eng_good", "", 5e-5)])
    at, x, w, b, _ = small
    x[0, 2, 3, 4] = np.nan
    y = asked("correlate", x, w, b, at, 1, True)
    want = references["correlate"].reference(x, w, b, at, 1, True)
    assert np.isnan(want).any() and error(y, want) < 1e-6
    asked("correlate", x, w, b, at, 1, False)
    assert plan_of(world) == "eng_loses_nan"  # without ReLU there is nothing to lose


def test_where_every_relu_loses_nan_it_is_a_pass_of_its_own(world, small, monkeypatch):
    monkeypatch.setattr(fake_cudnn, "PLANS", [("eng_loses_nan", "", 1e-6)])
    at, x, w, b, _ = small
    x[0, 2, 3, 4] = np.nan
    for autotune in ("1", "0"):
        monkeypatch.setenv("DUALNET_CUDNN_AUTOTUNE", autotune)
        cudnn_plans._choices.clear(), cudnn_plans._of_thread.plans.clear()
        agree("correlate", x, w, b, at, 1, True, K=72)
        assert world.executed[-1][:2] == ("forward", "eng_loses_nan")


def test_bias_and_relu_in_the_same_kernel_or_after_it_whichever_is_sooner(world, small, monkeypatch):
    at, x, w, b, _ = small
    agree("correlate", x, w, b, at, 1, True, K=72)
    assert world.executed[-1][0] == "forward+bias+relu"
    slow = fake_cudnn.Graph.execute_plan_at_index

    def execute(graph, *given):
        graph.world.clock += 1e-3 * ("bias" in graph.steps)
        slow(graph, *given)

    monkeypatch.setattr(fake_cudnn.Graph, "execute_plan_at_index", execute)
    cudnn_plans._choices.clear(), cudnn_plans._of_thread.plans.clear()
    world.product = 1.0
    agree("correlate", x, w, b, at, 1, True, K=72)
    assert world.executed[-1][0] == "forward"


def test_what_is_sooner_without_cudnn_is_left(world, small):
    at, x, w, b, dy = small
    world.product = 0.0
    before = fake_cudnn.LAUNCH
    try:
        fake_cudnn.LAUNCH = 0.0
        for kernel, given in (("correlate", (x, w, b)), ("correlate_inputs", (dy, w)), ("correlate_filters", (x, dy))):
            assert asked(kernel, *given, at) is NotImplemented
            executed = len(world.executed)
            assert asked(kernel, *given, at) is NotImplemented and len(world.executed) == executed
    finally:
        fake_cudnn.LAUNCH = before
    assert set(cudnn_plans.reasons.values()) == {"sooner without"}


@pytest.mark.parametrize("each", [2e-6, 18e-6])
def test_the_device_is_timed_and_not_python(world, small, monkeypatch, each):
    """Asking for a plan takes longer than computing it: still the fastest is found, and the rival compared with it."""
    monkeypatch.setattr(cudnn_plans, "REPEATS", 5)
    at, x, w, b, _ = small
    world.clocks.each = each
    agree("correlate", x, w, None, at, K=72)
    assert plan_of(world) == "eng_good"
    world.product = 0.0  # now two launches do it, in 2 µs
    assert asked("correlate", x[:1], w, None, at) is NotImplemented
    assert list(cudnn_plans.reasons.values()) == ["sooner without"]


def test_a_host_that_is_hopelessly_slow_ends_too(world, small):
    at, x, w, _, _ = small
    world.clocks.each = 1.0
    assert asked("correlate", x, w, None, at) is not NotImplemented


def test_without_autotuning_the_first_is_taken(world, small, monkeypatch):
    monkeypatch.setenv("DUALNET_CUDNN_AUTOTUNE", "0")
    at, x, w, b, dy = small
    agree("correlate", x, w, b, at, K=72)
    agree("correlate_inputs", dy, w, at, K=36)
    assert [name for _, name, _ in world.executed] == ["eng_loses_nan"] * 4 and world.counted["waits"] == 0
    agree("correlate", x, w, b, at, 1, True, K=72)
    assert plan_of(world) == "eng_plain"  # the first that keeps NaN


def test_a_plan_that_needs_too_much_memory_is_passed_over(world, small, monkeypatch):
    at, x, w, b, _ = small
    monkeypatch.setattr(cudnn_plans, "WORKSPACE", 64 * 8)
    asked("correlate", x, w, b, at)
    assert plan_of(world) == "eng_loses_nan"  # neither of the two that are sooner


# -- once, and never again ---------------------------------------------------------------------------------------------


def test_a_shape_is_planned_once(world, small):
    at, x, w, b, dy = small

    def step():
        for kernel, given in (("correlate", (x, w, b)), ("correlate_inputs", (dy, w)), ("correlate_filters", (x, dy))):
            asked(kernel, *given, at)

    step()
    counted, executed = Counter(world.counted), len(world.executed)
    assert (
        counted["planned"] == 2 * 2 + 2 + 2 - 1
    )  # what is proposed, and the chosen one; a plain road was looked at too
    step()
    assert world.counted == counted and len(world.executed) == executed + 3
    asked("correlate", x[:1], w, b, at)  # another batch
    asked("correlate", x, w, None, at)
    asked("correlate", x, w, b, at, 1, True)
    assert world.counted["planned"] == counted["planned"] + 3 + 2 + 3


def test_the_oldest_plans_go(world, small, monkeypatch):
    at, x, w, b, dy = small
    monkeypatch.setattr(cudnn_plans, "KEPT", 2)
    for n in (1, 2):
        asked("correlate", x[:n], w, None, at)
    asked("correlate", x[:1], w, None, at)
    asked("correlate_inputs", dy, w, at)
    kept = [key[2] for key in cudnn_plans._of_thread.plans]
    assert [(shape.way, shape.N) for shape in kept] == [("forward", 1), ("inputs", 2)]
    planned = world.counted["planned"]
    asked("correlate", x, w, None, at)
    assert world.counted["planned"] == planned + 1  # made again, not chosen again


def test_what_cudnn_refuses_is_refused_once_and_remembered(world, small):
    at, x, w, b, dy = small
    world.refuse = lambda graph: True
    for _ in range(3):
        moved = [dn.asarray(a) for a in (x, w, b)]
        assert cudnn_kernels.correlate(*moved, at) is NotImplemented
        y, _ = dn.ops.conv2d(*moved, padding=1)
        assert error(dn.to_numpy(y), references["correlate"].reference(x, w, b, at)) < 1e-6
    assert len(world.graphs) == 2 and world.counted["planned"] == 0
    (reason,) = cudnn_plans.reasons.values()
    assert reason == "cudnnGraphNotSupportedError: No valid engine configs for this graph"


def test_only_bias_is_refused(world, small):
    at, x, w, b, _ = small
    world.refuse = lambda graph: "b" in graph.conv
    agree("correlate", x, w, b, at, 1, True, K=72)
    assert world.executed[-1][0] == "forward"


def test_one_workspace_for_each_stream(world, small):
    at, x, w, b, dy = small
    step = lambda: (asked("correlate", x, w, b, at), asked("correlate_inputs", dy, w, at))  # noqa: E731
    step()
    world.workspaces.clear(), world.streams.clear()
    step(), step()
    assert len(set(world.workspaces)) == 1 and world.streams == []
    first, other = world.workspaces[0], world.cupy.cuda.Stream(non_blocking=True)
    with other:
        step()
    step()
    assert world.streams == [other.ptr, 0]
    assert {stream for stream, _ in world.workspaces} == {0, other.ptr}
    assert world.workspaces[-1] == first and len({address for _, address in world.workspaces}) == 2
    (handle,) = cudnn._of_thread.handles.values()
    assert handle.workspaces.keys() == {0, other.ptr} and len(world.handles) == 1


def test_another_shape_leaves_the_workspace_as_it_was(world, small):
    at, x, w, b, dy = small
    asked("correlate", x, w, b, at)
    (handle,) = cudnn._of_thread.handles.values()
    held = handle.workspaces[0]
    for n in (1, 2):
        asked("correlate_inputs", dy[:n], w, at)
        assert handle.workspaces[0] is held


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
