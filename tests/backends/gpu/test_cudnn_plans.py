"""cuDNN's real plans for an H100, made without one: a profile of the device stands in for it.

Nothing is computed here. What is shown is that cuDNN takes every convolution of the networks that dualnet knows,
forward and both ways back, in every precision, as dualnet describes it, with what is never chosen left out. It needs
the wheels ``nvidia-cudnn-frontend`` and ``nvidia-cudnn-cu12``, 0.9 GB with what they need (9.19 plans without any part
of a driver, 9.28 wants its ``libcuda``), and takes a quarter of a minute: ``pytest -m slow tests/test_cudnn_plans.py``.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from dualnet.backends.gpu import cudnn_library as cudnn
from dualnet.backends.gpu import cudnn_plans
from dualnet.backends.gpu.cudnn_plans import FILTERS, FORWARD, INPUTS, Shape
from dualnet.geometry import windows

pytestmark = pytest.mark.slow
PROFILE = Path(__file__).resolve().parents[2] / "fixtures" / "h100_profile.json"
PRECISIONS = {"float32": ("float32", False), "tf32": ("float32", True), "float16": ("float16", False),
              "bfloat16": ("bfloat16", False)}  # fmt: skip
N = 256


@pytest.fixture(scope="module")
def here():
    """The module, and what tells it to plan for an H100."""
    if importlib.util.find_spec("cudnn") is None:
        pytest.skip("the wheel nvidia-cudnn-frontend is not installed")
    module, why = cudnn._search()
    if module is None:
        pytest.skip(f"cuDNN cannot be used: {why}")
    try:
        profile = module.create_device_properties(PROFILE.read_text(encoding="utf-8"))
    except RuntimeError as error:
        pytest.skip(f"this cuDNN does not plan for a device that is not there: {str(error)[:100]}")
    sizes = json.loads(PROFILE.read_text(encoding="utf-8"))
    return module, {"device_property": profile, "sm_version": 90, "sm_count": sizes["multiProcessorCount"]}


def convolution(size, C, D, k=3, stride=1, padding="same"):
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
    plain = Shape(FORWARD, N, C, D, groups, at, dtype, tf32)
    biased = plain._replace(biased=True)
    return [
        plain, biased, biased._replace(relu=True), plain._replace(way=INPUTS), plain._replace(way=FILTERS),
    ]  # fmt: skip


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


def test_what_is_left_out(here):
    """Strict float32 has fewer plans than TF32, and none in common with the first of those."""
    module, where = here
    C, D, at = convolution(32, 64, 64)
    for way in (FORWARD, INPUTS, FILTERS):
        strict = cudnn_plans.proposals(module, Shape(way, N, C, D, 1, at, "float32"), 100, **where)[1]
        tf32 = cudnn_plans.proposals(module, Shape(way, N, C, D, 1, at, "float32", True), 100, **where)[1]
        assert {p.name for p in strict} < {p.name for p in tf32} and tf32[0].name not in {p.name for p in strict}


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
