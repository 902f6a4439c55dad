"""Which of cuDNN's plans is chosen, and that it is chosen once: with a pretend cuDNN, and with the real one.

The slow tests plan with the real cuDNN for an H100 that is not there; a profile of the device stands in for it. They
compute nothing. They show that cuDNN accepts every convolution of the networks in dualnet, forward and both ways back,
in every precision, as dualnet describes it, even without the plans that are never chosen. They need the wheels
``nvidia-cudnn-frontend`` and ``nvidia-cudnn-cu12``, 0.9 GB with their requirements (version 9.19 plans without any part
of a driver, 9.28 needs its ``libcuda``), and a quarter of a minute:
``pytest -m slow tests/backends/gpu/test_cudnn_plans.py``.
"""

from __future__ import annotations

import importlib.util
import json
from collections import Counter
from pathlib import Path

import fake_cudnn
import numpy as np
import pytest
from fake_cudnn import agree, asked
from oracles import error

import dualnet as dn
from dualnet.backend import references
from dualnet.backends.gpu import cudnn_kernels, cudnn_library, cudnn_plans
from dualnet.backends.gpu.cudnn_plans import FILTERS, FORWARD, INPUTS, Shape
from dualnet.geometry import windows

# -- which plan --------------------------------------------------------------------------------------------------------


def plan_of(world):
    """The name of the plan that ran last."""
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


def test_if_every_relu_loses_nan_it_is_a_pass_of_its_own(world, small, monkeypatch):
    monkeypatch.setattr(fake_cudnn, "PLANS", [("eng_loses_nan", "", 1e-6)])
    at, x, w, b, _ = small
    x[0, 2, 3, 4] = np.nan
    for autotune in ("1", "0"):
        monkeypatch.setenv("DUALNET_CUDNN_AUTOTUNE", autotune)
        cudnn_plans._choices.clear(), cudnn_plans._of_thread.plans.clear()
        agree("correlate", x, w, b, at, 1, True, K=72)
        assert world.executed[-1][:2] == ("forward", "eng_loses_nan")


def test_bias_and_relu_run_in_the_same_kernel_or_after_it_whichever_is_faster(world, small, monkeypatch):
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


def test_shapes_that_are_faster_without_cudnn_are_left(world, small):
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
    assert set(cudnn_plans.reasons.values()) == {"faster without"}


@pytest.mark.parametrize("each", [2e-6, 18e-6])
def test_the_device_is_timed_and_not_python(world, small, monkeypatch, each):
    """A launch takes longer than the computation: still the fastest plan is found, and compared with the rival."""
    monkeypatch.setattr(cudnn_plans, "REPEATS", 5)
    at, x, w, b, _ = small
    world.clocks.each = each
    agree("correlate", x, w, None, at, K=72)
    assert plan_of(world) == "eng_good"
    world.product = 0.0  # now two launches do it, in 2 µs
    assert asked("correlate", x[:1], w, None, at) is NotImplemented
    assert list(cudnn_plans.reasons.values()) == ["faster without"]


def test_a_graphs_own_pool_holds_nothing_of_the_autotuning(world, small, monkeypatch):
    """The zeros that keep the device busy come from CuPy's pool: a graph would keep 128 MiB for as long as it lives."""
    monkeypatch.setattr(cudnn_plans, "FILLING", 2**20)
    at, x, w, b, _ = small
    x, w, b = (dn.asarray(a) for a in (x, w, b))
    step, device = dn.capture(lambda x: cudnn_kernels.correlate(x, w, b, at)), world.cupy.now.graphs.device
    step(x)
    assert world.counted["waits"] > 0 and device.default.total_bytes() >= 2**20
    assert 0 < device.beside_the_default_pool() < 2**19


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
    assert plan_of(world) == "eng_loses_nan"  # neither of the two faster ones


def test_only_bias_is_refused(world, small):
    at, x, w, b, _ = small
    world.refuse = lambda graph: "b" in graph.conv
    agree("correlate", x, w, b, at, 1, True, K=72)
    assert world.executed[-1][0] == "forward"


# -- once, and never again ---------------------------------------------------------------------------------------------


def test_a_shape_is_planned_once(world, small):
    at, x, w, b, dy = small

    def step():
        for kernel, given in (("correlate", (x, w, b)), ("correlate_inputs", (dy, w)), ("correlate_filters", (x, dy))):
            asked(kernel, *given, at)

    step()
    counted, executed = Counter(world.counted), len(world.executed)
    # a graph of proposals and one of the chosen plan for each shape; forward also a graph without bias
    assert counted["planned"] == 2 * 2 + 2 + 2 - 1
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


def test_a_plan_that_moved_is_not_taken_for_another(world, small, monkeypatch):
    at, x, w, b, _ = small
    asked("correlate", x, w, b, at)
    cudnn_plans._of_thread.plans.clear()
    monkeypatch.setattr(fake_cudnn, "PLANS", fake_cudnn.PLANS[::-1])
    with pytest.raises(RuntimeError, match="cuDNN no longer proposes eng_good for forward, float32"):
        asked("correlate", x, w, b, at)


def test_a_new_shape_while_capturing_is_a_clear_error(world, small):
    at, x, w, b, _ = small
    moved = [dn.asarray(a) for a in (x, w, b)]
    stream = world.cupy.cuda.Stream(non_blocking=True)
    with stream:
        stream.begin_capture()
        try:
            with pytest.raises(
                RuntimeError, match=r"first time .* captured.*forward, float32, x \(2, 6, 5, 8\).*Run the step"
            ):
                cudnn_kernels.correlate(*moved, at)
        finally:
            stream.end_capture()
    assert not world.graphs and not world.handles
    agree("correlate", x, w, b, at, K=72)  # nothing was remembered


def test_info(world, small):
    at, x, w, b, _ = small
    assert dn.info()["cudnn"] == "9.19.0, frontend 1.28.0"
    assert dn.info()["cublas"] == "12.8.4"
    asked("correlate", x, w, b, at)
    world.refuse = lambda graph: True
    cudnn_kernels.correlate(dn.asarray(x[:1]), dn.asarray(w), None, at)
    assert dn.info()["cudnn"] == "9.19.0, frontend 1.28.0; 1 of 2 shapes so far"


# -- the real cuDNN ----------------------------------------------------------------------------------------------------

PROFILE = Path(__file__).resolve().parents[2] / "fixtures" / "h100_profile.json"
PRECISIONS = {"float32": ("float32", False), "tf32": ("float32", True), "float16": ("float16", False),
              "bfloat16": ("bfloat16", False)}  # fmt: skip
N = 256


@pytest.fixture(scope="module")
def here():
    """The module, and the options that make it plan for an H100."""
    if importlib.util.find_spec("cudnn") is None:
        pytest.skip("the wheel nvidia-cudnn-frontend is not installed")
    module, why = cudnn_library._search()
    if module is None:
        pytest.skip(f"cuDNN cannot be used: {why}")
    try:
        profile = module.create_device_properties(PROFILE.read_text(encoding="utf-8"))
    except RuntimeError as error:
        pytest.skip(f"this cuDNN does not plan for a device that is not there: {str(error)[:100]}")
    sizes = json.loads(PROFILE.read_text(encoding="utf-8"))
    return module, {"device_property": profile, "sm_version": 90, "sm_count": sizes["multiProcessorCount"]}


def convolution(size, C, D, k=3, stride=1, padding="same"):
    """Channels, filters and windows of a layer on square maps."""
    return C, D, windows("conv2d", (size, size), (k, k), stride=stride, padding=padding)


LENET = [convolution(28, 1, 6, 5), convolution(14, 6, 16, 5, padding=0)]
VGG = [
    convolution(size, C, D)
    for size, C, D in [
        (32, 3, 64), (32, 64, 64), (16, 64, 128), (16, 128, 128), (8, 128, 256), (8, 256, 256), (4, 256, 512),
        (4, 512, 512), (2, 512, 512),
    ]
]  # fmt: skip
RESNET = [
    *(convolution(size, C, C, padding=1) for size, C in [(32, 64), (16, 128), (8, 256), (4, 512)]),
    *(convolution(size, C, 2 * C, stride=2, padding=1) for size, C in [(32, 64), (16, 128), (8, 256)]),
    *(convolution(size, C, 2 * C, 1, stride=2, padding=0) for size, C in [(32, 64), (16, 128), (8, 256)]),
    convolution(32, 3, 64, padding=1),
]
NETWORKS = {"lenet5": LENET, "vgg16": VGG, "resnet18": RESNET}


def shapes(N, C, D, groups, at, dtype, tf32):
    """Forward, with bias, and with ReLU; and both gradients."""
    plain = Shape(FORWARD, N, C, D, groups, at, dtype, tf32)
    biased = plain._replace(biased=True)
    return [
        plain, biased, biased._replace(relu=True), plain._replace(way=INPUTS), plain._replace(way=FILTERS),
    ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("network", NETWORKS)
def test_every_convolution_of_a_network_has_plans(here, network, precision):
    module, where = here
    for C, D, at in NETWORKS[network]:
        for shape in shapes(N, C, D, 1, at, *PRECISIONS[precision]):
            _, found = cudnn_plans.proposals(module, shape, **where)
            assert found, f"no plan: {shape}"
            first = found[0]
            made = cudnn_plans.chosen_alone(module, shape, first, **where)
            assert made.get_workspace_size_plan_at_index(first.place) == first.bytes <= cudnn_plans.WORKSPACE


@pytest.mark.slow
@pytest.mark.parametrize("precision", PRECISIONS)
def test_odd_shapes_have_plans_too(here, precision):
    """Groups, dilation, strides, padding on one side; what cuDNN refuses, it refuses with an error and not a crash."""
    module, where = here
    rng, planned, refused = np.random.default_rng(5), 0, []
    for _ in range(60):
        window, stride, dilation = (tuple(int(v) for v in rng.integers(1, n, 2)) for n in (6, 4, 4))
        pads = tuple(tuple(int(v) for v in rng.integers(0, 4, 2)) for _ in range(2))
        extent = [r * (k - 1) + 1 for k, r in zip(window, dilation)]
        size = tuple(int(rng.integers(max(1, e - sum(p)), e + 30)) for e, p in zip(extent, pads))
        at = windows("conv2d", size, window, stride=stride, padding=pads, dilation=dilation)
        groups = int(rng.choice([1, 1, 1, 2, 4]))
        C, D = (groups * int(n) for n in rng.integers(1, 40, 2))
        for shape in shapes(int(rng.integers(1, 9)), C, D, groups, at, *PRECISIONS[precision]):
            try:
                found = cudnn_plans.proposals(module, shape, **where)[1]
            except (module.cudnnGraphNotSupportedError, RuntimeError) as error:
                refused.append((shape, str(error)))
                continue
            planned += bool(found)
            if not found:
                refused.append((shape, "none is left"))
    print(f"{precision}: {planned} planned, {len(refused)} refused")
    assert planned >= 0.9 * (planned + len(refused)), refused[:3]


@pytest.mark.slow
def test_what_is_left_out(here):
    """Strict float32 has fewer plans than TF32, and none in common with the first of those."""
    module, where = here
    C, D, at = convolution(32, 64, 64)
    for way in (FORWARD, INPUTS, FILTERS):
        strict = cudnn_plans.proposals(module, Shape(way, N, C, D, 1, at, "float32"), 100, **where)[1]
        tf32 = cudnn_plans.proposals(module, Shape(way, N, C, D, 1, at, "float32", True), 100, **where)[1]
        assert {p.name for p in strict} < {p.name for p in tf32} and tf32[0].name not in {p.name for p in strict}


@pytest.mark.slow
def test_a_plan_is_found_again_in_its_place(here):
    module, where = here
    C, D, at = convolution(16, 64, 128)
    shape = Shape(FILTERS, N, C, D, 1, at, "bfloat16")
    _, found = cudnn_plans.proposals(module, shape, **where)
    assert len(found) > 3
    for proposed in found:
        cudnn_plans.chosen_alone(module, shape, proposed, **where)
    with pytest.raises(RuntimeError, match="no longer proposes"):
        cudnn_plans.chosen_alone(module, shape, found[0]._replace(name="eng_other"), **where)
