"""Launching kernels: how arguments are converted, which arrays kernels take, and a training step that does nothing
else.

``pytest -m slow tests/backends/gpu/test_launch.py`` runs the ordinary tests of ops, layers, optimizers and training on
the pretend device.
"""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import cuda_host
import numpy as np
import pytest
from oracles import prove

import dualnet as dn
from dualnet.backends.gpu import launch, maps, registry, sums
from dualnet.geometry import windows

TESTS = Path(__file__).resolve().parents[2]
needs_compiler = pytest.mark.skipif(cuda_host.COMPILER is None, reason="g++ is not installed")


# -- arguments ---------------------------------------------------------------------------------------------------------


def test_arguments_become_what_the_signature_says():
    """``drawn_above(unsigned char*, int, Key, const unsigned long long*, unsigned int)``, and a number of ``wide``."""
    mask, key = object(), registry.structure("Key", seed_low=1, seed_high=2, step_low=3, step_high=4)
    made = launch._converted(registry.KERNELS["drawn_above"], (mask, 5, key, None, 2**32 - 1), "float32")
    assert made[0] is mask and made[2].tobytes() == key.tobytes()
    assert [type(value) for value in made[1::2]] == [np.int32, np.uint64] and made[3] == 0
    assert type(made[4]) is np.uint32 and made[4] == 2**32 - 1
    for wide in ("float32", "float64"):
        (*_, scale) = launch._converted(registry.KERNELS["masked"], (mask, mask, mask, 5, 0.5), wide)
        assert scale.dtype == wide and scale == 0.5


def test_structures_travel_as_bytes_without_fields():
    """CuPy reads ``__array_interface__``, in which NumPy describes every field: that takes longer than the launch."""
    at = registry.windows(windows("conv2d", (8, 8), (3, 3)), 4)
    made = launch._converted(registry.KERNELS["im2col"], (object(), object(), 5, at), "float32")[-1]
    assert made.shape == () and made.dtype == f"V{at.itemsize}" and made.tobytes() == at.tobytes()
    assert made.__array_interface__["data"] == at.__array_interface__["data"]  # a view: nothing is copied
    assert len(made.__array_interface__["descr"]) == 1 < len(at.__array_interface__["descr"])


def test_a_missing_argument_is_an_error():
    with pytest.raises(ValueError, match="argument"):
        launch._converted(registry.KERNELS["rectify"], (None, None), "float32")


def test_a_grid_is_a_number_of_threads_or_of_blocks(cupy):
    x, y, seen = dn.asarray(np.ones(300, "f4")), cupy.empty((300,), dtype="float32"), []

    def kernel(grid, block, arguments):
        seen.append((grid, block))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launch, "_function", lambda *_: kernel)
        launch.launch(cupy, "rectify", 300, y, x, 300, real="float32")
        launch.launch(cupy, "rectify", 256, y, x, 256, real="float32")
        launch.launch(cupy, "rectify", (3, 4), y, x, 300, real="float32")
    assert seen == [((2,), (256,)), ((1,), (256,)), ((3, 4), (256,))]


def test_a_file_is_compiled_once_for_each_combination_of_types(cupy, monkeypatch):
    made, born = [], cupy.RawModule
    monkeypatch.setattr(cupy, "RawModule", lambda **options: made.append(options["options"]) or born(**options))
    for dtype in ("f4", "f4", "f8"):
        x = dn.asarray(np.ones(3, dtype))
        maps.rectify(x), maps.add(x, x)
    assert made == [("-DREAL=float", "-DPACK=1"), ("-DREAL=double", "-DPACK=1")]


def test_options_are_those_of_the_kernel():
    assert launch.defines(registry.KERNELS["max_pool"], "float16", 8, "int32") == (
        "-DREAL=float16", "-DPACK=8", "-DTAP=int",
    )  # fmt: skip
    assert launch.defines(registry.KERNELS["gather_batch"], "float32", pixel="uint8")[1] == "-DPIXEL=unsigned char"
    assert launch.defines(registry.KERNELS["gather_batch"], "float32", pixel="float64")[1] == "-DPIXEL=double"


# -- which arrays ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "channels", "start", "pack"),
    [
        ("float32", 8, 0, 4), ("float32", 6, 0, 2), ("float32", 7, 0, 1), ("float32", 8, 1, 1), ("float32", 8, 2, 2),
        ("float16", 16, 0, 8), ("float16", 16, 4, 4), ("float64", 8, 0, 2), ("float64", 8, 1, 1),
    ],
)  # fmt: skip
def test_threads_read_as_many_channels_as_divide_them_and_the_address(cupy, dtype, channels, start, pack):
    whole = cupy.empty((64,), dtype=dtype)
    assert whole.data.ptr % 16 == 0
    assert launch.packing(channels, whole[start:]) == pack
    assert launch.packing(channels, whole, whole[start:]) == pack


def test_arrays_are_made_contiguous_where_they_are_not(cupy, rng):
    x = dn.asarray(rng.standard_normal((3, 4)))
    same, turned, nothing = launch.contiguous(x, x.T, None)
    assert same.data.ptr == x.data.ptr and turned.flags.c_contiguous and turned.shape == (4, 3) and nothing is None
    made = launch.empty_like(x.T)
    assert (made.shape, made.dtype, made.flags.c_contiguous) == ((4, 3), x.dtype, True)


def test_what_is_not_served(cupy, monkeypatch):
    empty = dn.asarray(np.zeros((0, 4, 4, 8), "f4"))
    at = windows("conv2d", (4, 4), (3, 3))
    assert maps.im2col(empty, at) is NotImplemented
    assert sums.channel_sum(empty) is NotImplemented
    assert maps.rectify(empty) is NotImplemented
    monkeypatch.setattr(launch, "LIMIT", 100)
    large = dn.asarray(np.zeros((1, 4, 4, 8), "f4"))
    assert maps.rectify(large) is NotImplemented
    monkeypatch.setenv("DUALNET_KERNELS", "reference")
    cuda_host.launches.clear()
    dn.ops.relu(dn.asarray([1.0]))
    assert cuda_host.launches == []


def test_arrays_of_several_dtypes_are_not_served(cupy):
    single, double, whole = (dn.asarray(np.ones(3, kind)) for kind in ("f4", "f8", "i4"))
    assert launch.served(single) and launch.served(double, double)
    assert not launch.served(single, double) and not launch.served(whole)


# -- ops and a training step -------------------------------------------------------------------------------------------


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


def test_a_step_launches_kernels_and_moves_nothing(cupy, rng):
    """CuPy itself computes nothing in a training step: kernels do, and cuBLAS."""
    layers = [dn.Conv2D(8, 3, padding="same"), dn.BatchNorm(), dn.ReLU(), dn.MaxPool2D(2), dn.Conv2D(4, 3), dn.ReLU()]
    layers.append(dn.Conv2D(4, 2, groups=4))
    net = dn.Sequential([*layers, dn.Flatten(), dn.Dropout(0.3), dn.Dense(3)]).init((8, 8, 1), seed=0)
    x, t = dn.asarray(rng.standard_normal((4, 8, 8, 1), dtype="f4")), dn.asarray(np.array([0, 1, 2, 1]))
    optimizer = dn.Adam()

    def step():
        y, pullback = net.forward(x, train=True)
        _, dloss = dn.losses.softmax_cross_entropy(y, t, check_labels=False)
        optimizer.step(net, pullback(dloss())[1])

    step()
    cupy.now.called.clear()
    cuda_host.launches.clear()
    with dn.transfers("forbid"):
        step()
    assert set(cuda_host.launches) >= {
        "correlate_few", "correlate_filters_few", "im2col", "col2im", "add_bias", "max_pool", "max_unpool", "masked",
        "channel_moments_part", "normalise_backward_dx", "drawn_above", "cross_entropy_rows", "adam_update",
        "channel_sum_short",
    }  # fmt: skip
    views = {"empty", "reshape", "ascontiguousarray", "astype", "T", "__getitem__"}
    assert set(cupy.now.called) - views == set(), cupy.now.called


@pytest.mark.slow
@needs_compiler
def test_the_ordinary_suite_on_the_pretend_device():
    topics = ["ops", "layers", "optimizers", "training/test_loop.py", "test_fixtures.py"]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    kept["PYTHONPATH"] = os.pathsep.join([str(TESTS / "pretend"), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "pytest", "-q", "-p", "pretend_device", "-p", "no:cacheprovider", "-k", "cupy"]
    if find_spec("xdist"):
        command += ["-n", "auto"]
    done = subprocess.run([*command, *topics], cwd=TESTS, capture_output=True, encoding="utf-8", env=kept)
    assert done.returncode == 0, done.stdout[-4000:]
