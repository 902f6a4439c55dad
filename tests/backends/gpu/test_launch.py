"""CUDA kernels: the registry, NVIDIA's compiler, launches from a training step, and proof that the harness can fail."""

from __future__ import annotations

import configparser
import fnmatch
import os
import re
import subprocess
import sys
from pathlib import Path

import cuda_host
import fake_cupy
import numpy as np
import pytest

import dualnet as dn
from dualnet.backend import references
from dualnet.backends import cupy_backend
from dualnet.backends.gpu import cublas
from dualnet.backends.gpu import launch as cuda_launch
from dualnet.backends.gpu import maps as cupy_kernels
from dualnet.backends.gpu import registry as cuda_registry
from dualnet.geometry import windows

TESTS = Path(__file__).resolve().parents[2]
needs_compiler = pytest.mark.skipif(cuda_host.COMPILER is None, reason="g++ is not installed")
needs_nvrtc = pytest.mark.skipif(cuda_host.nvrtc() is None, reason="NVRTC is not installed")


@pytest.fixture
def cupy(monkeypatch):
    """A pretend CuPy whose kernels run on the host."""
    with fake_cupy.in_force(monkeypatch) as module:
        yield module


# -- the registry ------------------------------------------------------------------------------------------------------


def test_every_file_and_entry_is_registered():
    folder = cuda_registry.FOLDER
    assert sorted(cuda_registry.FILES) == sorted(path.name for path in folder.glob("*.cu"))
    for file in cuda_registry.FILES:
        text = re.sub(r"\s+", " ", (folder / file).read_text(encoding="utf-8"))
        found = dict(re.findall(r"ENTRY (\w+)\((.*?)\) \{", text))
        assert found == {k.name: k.signature for k in cuda_registry.KERNELS.values() if k.file == file}


@pytest.mark.skipif(not (TESTS.parent / "setup.cfg").exists(), reason="the list is in the checkout")
def test_every_file_ships():
    config = configparser.ConfigParser()
    config.read(TESTS.parent / "setup.cfg", encoding="utf-8")
    globs = config["options.package_data"]["dualnet.backends.gpu"].replace(" ", "").split(",")
    for path in cuda_registry.FOLDER.iterdir():
        assert any(fnmatch.fnmatch(f"kernels/{path.name}", glob) for glob in globs), path.name


def test_every_kernel_names_its_reference():
    named = {kernel.reference for kernel in cuda_registry.KERNELS.values()}
    assert named <= references.keys()
    assert cupy_backend.KERNELS.keys() <= references.keys()
    assert named <= cupy_backend.KERNELS.keys()


def test_no_kernel_uses_atomics_or_waits_for_the_host():
    for file in (*cuda_registry.FILES, "common.h"):
        text = re.sub(r"//.*", "", (cuda_registry.FOLDER / file).read_text(encoding="utf-8"))
        assert not re.search(r"atomic|printf|assert|cudaDevice|malloc", text), file


def test_kernels_that_work_together_are_marked():
    for file in cuda_registry.FILES:
        text = (cuda_registry.FOLDER / file).read_text(encoding="utf-8")
        bodies = dict(re.findall(r"^\w*ENTRY (\w+)\(.*?\{\n(.*?)^\}", text, flags=re.MULTILINE | re.DOTALL))
        for name, body in bodies.items():
            talks = bool(re.search(r"over_rows|over_block|add_rows|turn_tile|of_warp|__syncthreads|__shfl", body))
            assert cuda_registry.KERNELS[name].together == talks, name


@pytest.mark.parametrize("n", [1, 2, 3, 5, 7, 25, 28, 641, 1000, 2**16 - 1, 2**30 + 1, 2**31 - 1])
def test_division_by_multiplication(rng, n):
    _, magic, shift = cuda_registry.divisor(n)
    assert magic < 2**32
    edges = np.array([q * n + r for q in (0, 1, 2, (2**31 - 1) // n) for r in (-1, 0, 1)])
    values = np.concatenate([edges, rng.integers(0, 2**31, 2000), [2**31 - 1]])
    for i in map(int, values[(values >= 0) & (values < 2**31)]):
        high = i * magic >> 32
        assert high + i < 2**32 and (high + i) >> shift == i // n


# -- NVRTC -------------------------------------------------------------------------------------------------------------

COMBINATIONS = {
    "sm_75": [("bfloat16", 8)],
    "sm_80": [("float64", 1), ("float16", 8)],
    "sm_90": [("float32", 4), ("bfloat16", 2)],
}


@needs_nvrtc
@pytest.mark.parametrize("arch", COMBINATIONS)
@pytest.mark.parametrize("file", cuda_registry.FILES)
def test_nvrtc_compiles(file, arch):
    (kernel, *_) = kernels = [k for k in cuda_registry.KERNELS.values() if k.file == file]
    for real, pack in COMBINATIONS[arch]:
        code = cuda_host.compile_for(arch, file, cuda_launch.defines(kernel, real, pack, "int32", real))
        assert all(f".text.{k.name}".encode() in code for k in kernels)
        used = cuda_host.registers(code)
        for k in kernels:  # a processor has 65,536, and hands them out by 8 to each thread of a block
            assert 0 < -(-used[k.name] // 8) * 8 * np.prod(k.block) <= 65536, f"{k.name}: {used[k.name]} registers"


@needs_nvrtc
def test_nvrtc_would_complain(monkeypatch):
    monkeypatch.setattr(cuda_registry, "source", lambda file: "__global__ void broken() { int i = }")
    with pytest.raises(AssertionError, match="expected an expression"):
        cuda_host.compile_for("sm_90", "columns.cu", ())


# -- a training step ---------------------------------------------------------------------------------------------------


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


def test_filters_over_few_channels_learn_by_a_product(cupy, rng):
    """Without columns only where there are several groups: a thread for each weight is slow over a whole batch."""
    at = windows("conv2d", (6, 6), (3, 3))
    for C, D, groups, launched in ((1, 6, 1, "im2col"), (6, 16, 1, "im2col"), (4, 4, 4, "correlate_filters_few")):
        x, dy = (dn.asarray(rng.standard_normal(s, dtype="f4")) for s in ((2, 6, 6, C), (2, *at.grid, D)))
        cuda_host.launches.clear()
        before = cublas.library().products
        cupy_kernels.correlate_filters(x, dy, at, groups)
        assert cuda_host.launches[0] == launched and cublas.library().products - before == (groups == 1)


# -- that this can fail ------------------------------------------------------------------------------------------------


def test_wrong_arguments_are_caught(cupy):
    x, y = dn.asarray(np.zeros(8, "f4")), cupy.empty((8,), dtype="float32")
    cases = [
        ((dn.asarray(np.zeros(8)), x, np.int32(8)), "packs of 4 bytes|float64 for"),
        ((y, x, 8), "8 for int32"),
        ((y, x, np.int64(8)), "for int32"),
        ((y, x), "2 arguments"),
    ]
    function = cupy.RawModule(code=cuda_registry.source("elementwise.cu"), options=("-DREAL=float", "-DPACK=1"))
    rectify = function.get_function("rectify")
    rectify((1,), (256,), (y, x, np.int32(8)))
    for arguments, message in cases[1:]:
        with pytest.raises(AssertionError, match=message):
            rectify((1,), (256,), arguments)
    with pytest.raises(AssertionError, match="written beyond the array"):
        rectify((1,), (256,), (y, x, np.int32(9)))
    with pytest.raises(AssertionError, match="grid"):
        rectify((0,), (256,), (y, x, np.int32(8)))


def test_threads_that_wait_in_vain_are_caught(cupy, monkeypatch):
    text = cuda_registry.source("channels.cu")
    planted = text.replace(
        "wide sum = 0;\n    if (c < C)", "wide sum = 0;\n    if (threadIdx.x == 3) return;\n    if (c < C)"
    )
    assert planted != text
    monkeypatch.setattr(cuda_registry, "source", lambda file: planted)
    function = cuda_host.library.__wrapped__("channels.cu", ("-DREAL=float",))
    kernel = cuda_host.Function(cuda_registry.KERNELS["channel_sum_end"], function)
    arrays = [np.zeros(4, "f4"), np.zeros((2, 4), "f4")]
    with pytest.raises(AssertionError, match="wait for each other in vain"):
        kernel((1,), (32, 32), (*arrays, np.int32(2), np.int32(4), np.float32(1)))


@pytest.mark.slow
@needs_compiler
def test_the_ordinary_suite_on_the_pretend_device():
    topics = ["ops", "layers", "optimizers", "training/test_loop.py", "test_fixtures.py"]
    path = os.pathsep.join([str(TESTS / "pretend"), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "pytest", "-q", "-p", "pretend_device", "-p", "no:cacheprovider", "-k", "cupy"]
    done = subprocess.run(
        [*command, *topics], cwd=TESTS, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path}
    )
    assert done.returncode == 0, done.stdout[-4000:]
