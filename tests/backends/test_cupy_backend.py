"""The CuPy backend: on a pretend CuPy with two devices, without CuPy, and on the real one if it is installed."""

from __future__ import annotations

import ast
import inspect
import os
import subprocess
import sys
from pathlib import Path

import fake_cupy
import numpy as np
import pristine
import pytest

import dualnet as dn
from dualnet.backends.gpu import installing
from dualnet.shim import loading

PACKAGES = Path(dn.__file__).resolve().parents[1]  # of the dualnet under test, installed or not


@pytest.fixture
def unloaded(monkeypatch):
    """CuPy is not loaded yet; one wheel is installed, and a driver for CUDA 12."""
    pristine.without_cupy(monkeypatch)
    monkeypatch.setattr(installing, "installed", lambda wheel: wheel == "cupy-cuda12x")
    monkeypatch.setattr(installing, "driver_version", lambda: 12080)


@pytest.fixture
def cupy(unloaded, monkeypatch):
    """A pretend CuPy, on a machine with two GPUs."""
    return fake_cupy.install(monkeypatch)


# -- loading -----------------------------------------------------------------------------------------------------------


def test_a_device_by_name(cupy):
    assert "cupy" in dn.available_backends()
    one, two = loading.load("cupy"), loading.load("CuPy:1")
    assert (one.name, two.name) == ("cupy:0", "cupy:1")
    assert loading.load("cupy:0") is one and one.xp is cupy and not one.on_host
    assert cupy.now.device == 0  # loading the other one does not change the current device
    two.synchronize()
    assert cupy.now.synchronized == [1]


def test_the_current_device_is_the_default(cupy):
    cupy.cuda.Device(1).use()
    with dn.use_backend("cupy") as name:
        assert name == "cupy:1"


def test_auto_takes_it_if_it_works(cupy):
    with dn.use_backend("auto") as name:
        assert name == "cupy:0"
        assert dn.info()["chosen by"] == "use_backend"


def test_info_describes_the_device(cupy):
    with dn.use_backend("cupy:1"):
        held = [dn.asarray(np.zeros((n, 2**20), np.uint8)) for n in (2, 3)]
        held.pop(0)
        table = dn.info()
    assert table["gpu"] == "Pretend H100 (cupy:1)"
    assert table["cupy"] == "14.2.0" and table["driver"] == "CUDA 12.8" and table["cuda"] == "12.9"
    assert table["gpu memory"] == "3 MiB used and 5 MiB reserved by CuPy's pool; 60 MiB of 80 MiB free"


def test_precision_reaches_cupy_whenever_it_is_set(cupy):
    assert cupy.computed == {}
    loading.set_precision("tf32")
    loading.load("cupy")
    assert cupy.computed == {"float32": fake_cupy.COMPUTE_TYPES["COMPUTE_TYPE_TF32"]}
    loading.set_precision("strict")
    assert cupy.computed == {"float32": fake_cupy.COMPUTE_TYPES["COMPUTE_TYPE_DEFAULT"]}


# -- computing ---------------------------------------------------------------------------------------------------------


def test_arrays_go_there_and_back(cupy, rng):
    host = rng.standard_normal((3, 4))[:, ::2]
    with dn.transfers() as moved:
        there = dn.asarray(host, backend="cupy:1")
        assert type(there) is cupy.ndarray and there.data.device_id == 1
        assert dn.asarray(there, backend="cupy:1") is there
        np.testing.assert_array_equal(dn.to_numpy(there), host)
        across = dn.asarray(there, "float32", backend="cupy:0")
        assert across.data.device_id == 0 and across.dtype == np.float32
    assert (moved.to_device, moved.to_host, moved.nbytes) == (2, 2, 48 * 3 + 24)


def test_an_op_computes_where_its_arrays_are(cupy, rng):
    x, w, b = (rng.standard_normal(shape) for shape in ((2, 5, 5, 2), (3, 3, 2, 3), (3,)))
    y, pullback = dn.ops.conv2d(x, w, b, padding=1)
    there = [dn.asarray(a, backend="cupy:1") for a in (x, w, b)]
    assert cupy.now.device == 0
    with dn.transfers("forbid"):
        y_there, pullback_there = dn.ops.conv2d(*there, padding=1)
        cupy.cuda.Device(0).use()  # other work between the passes
        gradients = pullback_there(y_there)
    assert loading.backend_of(y_there).name == "cupy:1"
    for ours, theirs in zip((y, *pullback(y)), (y_there, *gradients), strict=True):
        np.testing.assert_allclose(dn.to_numpy(theirs), ours, rtol=1e-12)


def test_a_network_lives_on_the_second_device(cupy, rng):
    x = rng.standard_normal((2, 6, 6, 1)).astype(np.float32)
    layers = [dn.Conv2D(2, 3, padding="same"), dn.ReLU(), dn.MaxPool2D(2), dn.Flatten(), dn.Dense(3)]
    net = dn.Sequential(layers).init((6, 6, 1), seed=1)
    expected, pullback = net.forward(x, train=True)
    _, gradients = pullback(expected)
    net.to("cupy:1")
    cupy.cuda.Device(0).use()
    with dn.use_backend("cupy:1"):
        there = dn.asarray(x)
        with dn.transfers("forbid"):
            y, pullback = net.forward(there, train=True)
            _, gradients_there = pullback(y)
    np.testing.assert_allclose(dn.to_numpy(y), dn.to_numpy(expected), rtol=1e-5)
    assert gradients_there.keys() == gradients.keys()
    for name, gradient in gradients_there.items():
        assert loading.backend_of(gradient).name == "cupy:1"
        np.testing.assert_allclose(dn.to_numpy(gradient), dn.to_numpy(gradients[name]), rtol=1e-4, atol=1e-6)


def test_mixed_arrays_are_refused_with_argument_place_and_fix(cupy):
    host = np.ones((2, 3), np.float32)
    zero, one = (dn.asarray(np.ones((3, 2), np.float32), backend=name) for name in ("cupy:0", "cupy:1"))
    with pytest.raises(TypeError, match=r"dense: x lives on numpy and w on cupy:0; .*dn.asarray\(w, backend='numpy'\)"):
        dn.ops.dense(host, zero)
    with pytest.raises(
        TypeError, match=r"dense: x lives on cupy:1 and w on numpy; .*dn.asarray\(w, backend='cupy:1'\)"
    ):
        dn.ops.dense(one, host)
    with pytest.raises(TypeError, match="x lives on cupy:0 and w on cupy:1"):
        dn.ops.dense(zero, one)
    _, pullback = dn.ops.relu(zero)
    with pytest.raises(TypeError, match="dy is on numpy, the output on cupy:0"):
        pullback(np.ones((3, 2), np.float32))


def test_cupys_own_arrays_are_recognised_before_anything_was_loaded(cupy):
    y, _ = dn.ops.relu(cupy.asarray(np.array([-1.0, 2.0])))
    assert dn.to_numpy(y).tolist() == [0.0, 2.0]


# -- what can be missing -----------------------------------------------------------------------------------------------


def fails(name: str = "cupy") -> str:
    """The one-line message of a backend that cannot be loaded."""
    with pytest.raises(dn.BackendUnavailable) as caught:
        dn.set_backend(name)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert dn.info()["backends"]["cupy"] != "available" or ":" in name
    return message


def test_not_installed(unloaded, monkeypatch):
    assert fails() == 'cupy: CuPy is not installed. Install it with: pip install "dualnet[cuda12x]"'
    monkeypatch.setattr(installing, "driver_version", lambda: 13000)
    assert fails().endswith('pip install "dualnet[cuda13x]"')
    monkeypatch.setattr(installing, "driver_version", lambda: 0)
    assert fails().endswith('pip install "dualnet[cuda12x]" (for a CUDA 13 driver: "dualnet[cuda13x]")')


def test_a_driver_that_opens_and_is_empty_is_none(monkeypatch):
    """In a browser a library that is not there opens, if it is asked for a second time."""
    monkeypatch.setattr(installing.ctypes, "CDLL", lambda library: object())
    assert installing.driver_version() == 0


def test_two_wheels(cupy, monkeypatch):
    monkeypatch.setattr(installing, "installed", lambda wheel: wheel in ("cupy-cuda12x", "cupy-cuda13x"))
    message = fails()
    assert "2 CuPy packages are installed and break each other (cupy-cuda12x, cupy-cuda13x)" in message
    assert "pip uninstall -y cupy-cuda12x cupy-cuda13x; then install one with: pip install" in message


def test_a_broken_installation(unloaded, monkeypatch, tmp_path):
    monkeypatch.delitem(sys.modules, "cupy", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    for code, cause in [
        (
            "raise ImportError('\\n=====\\nlibcudart.so.12: cannot open\\nmore')",
            "ImportError: libcudart.so.12: cannot open.",
        ),
        ("import no_such_part_of_cupy", "ModuleNotFoundError: No module named 'no_such_part_of_cupy'."),
        ("raise RuntimeError", "RuntimeError."),
    ]:
        (tmp_path / "cupy.py").write_text(code)
        assert fails().startswith(f"cupy: CuPy cannot be imported: {cause} Reinstall it with: pip install")
    (tmp_path / "cupy.py").write_text("__version__ = '13.6.0'  # of another length, so that no stale pyc is used")
    assert "CuPy 13.6.0 is installed; expected 14 or newer. Update it with: pip install" in fails()


@pytest.mark.parametrize(
    "error, driver, expected",
    [
        (
            "cudaErrorInsufficientDriver: CUDA driver version is insufficient",
            0,
            "there is no NVIDIA driver here. CuPy is installed, but needs",
        ),
        (
            "cudaErrorInsufficientDriver: ...",
            11080,
            "the NVIDIA driver supports CUDA 11.8, but this CuPy needs 12.9. Update",
        ),
        (
            "cudaErrorNoDevice: no CUDA-capable device is detected",
            12080,
            "there is no NVIDIA device here. CuPy is installed, but needs",
        ),
        ("cudaErrorUnknown: unknown\nerror", 12080, "the CUDA runtime does not start: RuntimeError: cudaErrorUnknown"),
    ],
)
def test_no_driver_and_no_device(cupy, error, driver, expected):
    def count():
        raise RuntimeError(error)

    cupy.cuda.runtime.getDeviceCount = count
    cupy.cuda.runtime.driverGetVersion = lambda: driver
    message = fails()
    assert message.startswith(f"cupy: {expected}")
    hint = (
        'pip install "dualnet[cuda12x]"' if driver == 11080 else "--gpus all. Without a GPU, choose 'numpy' or 'auto'"
    )
    assert hint in message


def test_no_such_device(cupy):
    assert fails("cupy:2") == "cupy: there is no device 2; the devices are cupy:0, cupy:1"


def test_no_device_at_all(unloaded, monkeypatch):
    fake_cupy.install(monkeypatch, devices=0)
    assert fails("cupy:0").startswith("cupy: there is no NVIDIA device here")


def test_a_tiny_kernel_that_fails(cupy):
    def matmul(a, b):
        raise ImportError("\nlibcublas.so.12: cannot open shared object file\nTry this and that")

    working, cupy.matmul = cupy.matmul, matmul
    message = fails()
    assert message.startswith(
        "cupy: a tiny kernel failed on device 0: ImportError: libcublas.so.12: cannot open shared"
    )
    assert message.endswith('The parts of CUDA that CuPy needs come with: pip install "dualnet[cuda12x]"')
    cupy.matmul = lambda a, b: working(a, b) * 0
    assert fails() == "cupy: a tiny kernel on device 0 computed 4.0, not 12.0"
    cupy.matmul = working
    dn.set_backend("cupy")  # a failure is not remembered


# -- the real one ------------------------------------------------------------------------------------------------------


def test_the_real_cupy_without_a_device_fails_in_one_clear_line():
    cupy = pytest.importorskip("cupy")
    if cupy.cuda.is_available():
        pytest.skip("there is a device here: the whole suite runs on it")
    done = subprocess.run(
        [sys.executable, "-c", "import dualnet as dn; dn.asarray([1.0])"],
        env={**os.environ, "DUALNET_BACKEND": "cupy", "PYTHONPATH": str(PACKAGES)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1 and done.stdout == ""
    last = done.stderr.splitlines()[-1]
    assert "BackendUnavailable: DUALNET_BACKEND=cupy: cupy: there is no NVIDIA d" in last
    assert "needs an NVIDIA GPU" in last and "'numpy'" in last
    assert "cudaError" not in done.stderr  # and not CuPy's own traceback


def calls(path: Path) -> list[ast.Call]:
    """Every ``xp.name(...)`` in a file."""
    nodes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    return [n for n in nodes if isinstance(n.func, ast.Attribute) and getattr(n.func.value, "id", "") == "xp"]


def misfit(cupy, call: ast.Call) -> str:
    """Why CuPy's function of this name does not take these arguments; empty if it does."""
    function, options = getattr(cupy, call.func.attr), {option.arg: None for option in call.keywords}
    if isinstance(function, cupy.ufunc):
        return ", ".join(options.keys() - {"out", "dtype"})
    try:
        inspect.signature(function).bind(*call.args, **options)
    except TypeError as error:
        return str(error)
    return ""


def test_every_call_of_an_op_has_arguments_that_cupy_takes():
    cupy = pytest.importorskip("cupy")
    package = Path(dn.__file__).parent
    found = [(path, call) for path in sorted((package / "ops").glob("*.py")) for call in calls(path)]
    assert len(found) > 50
    assert [(path.name, ast.unparse(call), why) for path, call in found if (why := misfit(cupy, call))] == []
    (planted,) = (node.value for node in ast.parse("xp.sum(x, where=mask)").body)
    assert "where" in misfit(cupy, planted)
