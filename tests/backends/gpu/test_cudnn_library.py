"""cuDNN's surroundings: CUDA graphs, threads, devices, what is not served, switches, and why it is not there."""

from __future__ import annotations

import re
import subprocess
import sys
import threading

import fake_cudnn
import fake_cupy
import numpy as np
import pristine
import pytest
from fake_cudnn import agree, arrays, asked, dtype_of
from oracles import error

import dualnet as dn
from dualnet.backend import calls, references
from dualnet.backends.gpu import cudnn_kernels, cudnn_plans, installing
from dualnet.backends.gpu import cudnn_library as cudnn
from dualnet.geometry import windows


@pytest.fixture
def world(monkeypatch):
    """A pretend GPU with a pretend cuDNN."""
    monkeypatch.setattr(cudnn_plans, "ROUNDS", 1)
    monkeypatch.setattr(cudnn_plans, "REPEATS", 1)
    with fake_cupy.in_force(monkeypatch) as cupy:
        yield fake_cudnn.install(monkeypatch, cupy)


@pytest.fixture
def small(rng):
    at = windows("conv2d", (6, 5), (3, 3), padding=1)
    return at, *arrays(rng, at, 2, 8, 4, 1)


# -- CUDA graphs -------------------------------------------------------------------------------------------------------


def captured(world, work):
    stream = world.cupy.cuda.Stream(non_blocking=True)
    with stream:
        work()
        stream.begin_capture()
        try:
            result = work()
        finally:
            graph = stream.end_capture()
        graph.upload(stream)
    return stream, graph, result


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
    assert world.cupy.now.graphs.device.beside_the_default_pool() == 0  # where cuDNN's workspaces do not lie
    assert cudnn._captured


def test_what_a_graph_uses_is_never_let_go(world, small, monkeypatch):
    at, x, w, b, _ = small
    monkeypatch.setattr(cudnn_plans, "KEPT", 1)
    moved = [dn.asarray(a) for a in (x, w, b)]
    stream, graph, _ = captured(world, lambda: cudnn_kernels.correlate(*moved, at))
    handle = world.handles[0]
    held = list(cudnn._captured.values())
    workspace = next(each for each in held if isinstance(each, world.cupy.ndarray))
    assert {type(each).__name__ for each in held} == {"Plan", "Handle", "ndarray"}
    with stream:  # a shape that needs more room, on the same stream
        monkeypatch.setattr(fake_cudnn, "PLANS", [("eng_idle", "", 1.0)] * 50 + [("eng_good", "", 5e-6)])
        monkeypatch.setattr(cudnn_plans, "CANDIDATES", 60)
        world.product = 10.0
        asked("correlate", x[:1], w, None, at)
    cudnn._of_thread.handles.clear()
    assert handle.alive and any(each is workspace for each in cudnn._captured.values())
    assert len({address for _, address in world.workspaces}) >= 2
    graph.launch(stream)


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


# -- threads and devices -----------------------------------------------------------------------------------------------


def test_threads_have_handles_of_their_own_and_one_choice(world, small):
    at, x, w, b, _ = small
    want = agree("correlate", x, w, b, at, K=72)
    built, failed = world.counted["built"], []

    def work():
        try:
            with dn.use_backend("cupy"):
                for _ in range(3):
                    np.testing.assert_array_equal(asked("correlate", x, w, b, at), want)
        except BaseException as error:
            failed.append(error)

    for _ in range(3):  # one after another: the pretend device itself is for one thread at a time
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert not failed, failed[0]
    assert len({handle.thread for handle in world.handles}) >= 1 and len(world.handles) == 4
    assert world.counted["built"] == built + 3  # each thread made its plan, none chose anew
    assert [handle.alive for handle in world.handles] == [True, False, False, False]


def test_a_plan_that_moved_is_not_taken_for_another(world, small, monkeypatch):
    at, x, w, b, _ = small
    asked("correlate", x, w, b, at)
    cudnn_plans._of_thread.plans.clear()
    monkeypatch.setattr(fake_cudnn, "PLANS", fake_cudnn.PLANS[::-1])
    with pytest.raises(RuntimeError, match="cuDNN no longer proposes eng_good for forward, float32"):
        asked("correlate", x, w, b, at)


def test_every_device_has_its_own(monkeypatch, rng):
    monkeypatch.setattr(installing, "installed", lambda wheel: wheel == "cupy-cuda12x")
    pristine.without_cupy(monkeypatch)
    cupy = fake_cupy.install(monkeypatch, devices=2)
    world = fake_cudnn.install(monkeypatch, cupy)
    at = windows("conv2d", (6, 5), (3, 3), padding=1)
    x, w, b, _ = arrays(rng, at, 2, 8, 4, 1)
    want = references["correlate"].reference(x, w, b, at)
    for name in ("cupy:0", "cupy:1", "cupy:0"):
        with dn.use_backend(name):
            y, _ = dn.ops.conv2d(*(dn.asarray(a, backend=name) for a in (x, w, b)), padding=1)
            assert error(dn.to_numpy(y), want) < 1e-6
    assert [handle.device for handle in world.handles] == [0, 1]
    assert {key[1] for key in cudnn_plans._choices} == {0, 1}


# -- where it is not used ----------------------------------------------------------------------------------------------


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


def test_what_was_tried_out_leaves_no_room_behind(world, small, monkeypatch):
    at, x, w, b, _ = small
    asked("correlate", x, w, b, at)
    good = [name for name, _, _ in fake_cudnn.PLANS].index("eng_good")
    (held,) = cudnn._of_thread.handles[sys.modules["cudnn"], 0].workspaces.values()
    assert held.size == 64 * good < 64 * (len(fake_cudnn.PLANS) - 1)


def test_few_channels_and_windows_of_one_unit_go_to_whoever_is_sooner(world, small, monkeypatch):
    monkeypatch.setattr(fake_cudnn, "LAUNCH", 1e-5)
    at, x, w, b, dy = small
    one = windows("conv2d", (6, 5), (1, 1))
    agree("correlate", x, w[:1, :1], b, one, K=8)  # a product takes longer here
    agree("correlate_filters", x[..., :3], dy, at, K=60)  # and so do two launches
    assert asked("correlate", x[..., :3], w[:, :, :3], None, at) is NotImplemented  # but not a single one
    assert list(cudnn_plans.reasons.values()) == ["sooner without"]


@pytest.mark.parametrize("autotune", ["0", "1"])
def test_all_means_all(world, monkeypatch, small, autotune):
    at, x, w, b, dy = small
    monkeypatch.setenv("DUALNET_CUDNN", "all")
    monkeypatch.setenv("DUALNET_CUDNN_AUTOTUNE", autotune)
    agree("correlate", x[..., :1], w[:, :, :1], b, at, K=9)
    agree("correlate_inputs", dy, w[:1, :1], windows("conv2d", (6, 5), (1, 1)), K=4)
    agree("correlate_filters", x, dy, windows("conv2d", (6, 5), (3, 3), padding=1), 2, K=60)


def test_switched_off(world, small, monkeypatch):
    at, x, w, b, _ = small
    monkeypatch.setenv("DUALNET_CUDNN", "0")
    assert asked("correlate", x, w, b, at) is NotImplemented
    assert dn.info()["cudnn"] == "no: switched off by DUALNET_CUDNN=0" and cudnn._found == []
    monkeypatch.setenv("DUALNET_CUDNN", "off")
    with pytest.raises(ValueError, match="DUALNET_CUDNN is 0, 1 or all, got 'off'"):
        asked("correlate", x, w, b, at)
    assert dn.info()["cudnn"] == "no: DUALNET_CUDNN is 0, 1 or all, got 'off'"
    monkeypatch.delenv("DUALNET_CUDNN")
    assert asked("correlate", x, w, b, at) is not NotImplemented
    monkeypatch.setenv("DUALNET_CUDNN_AUTOTUNE", "yes")
    with pytest.raises(ValueError, match="DUALNET_CUDNN_AUTOTUNE is 0 or 1, got 'yes'"):
        asked("correlate", x[:1], w, b, at)


def test_info(world, small):
    at, x, w, b, _ = small
    assert dn.info()["cudnn"] == "9.19.0, frontend 1.28.0"
    assert dn.info()["cublas"] == "12.8.4"
    asked("correlate", x, w, b, at)
    world.refuse = lambda graph: True
    cudnn_kernels.correlate(dn.asarray(x[:1]), dn.asarray(w), None, at)
    assert dn.info()["cudnn"] == "9.19.0, frontend 1.28.0; 1 of 2 shapes so far"


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda m, p: p.setitem(sys.modules, "cudnn", None), "not installed; pip install"),
        (
            lambda m, p: p.setattr(m, "__version__", "1.23.9"),
            r"frontend 1.23.9 is too old, 1.24 is needed; pip install",
        ),
        (lambda m, p: p.delattr(m, "pygraph"), "frontend 1.28.0 is too old"),
        (lambda m, p: setattr(m, "backend_version", lambda: 8905), r"cuDNN 8.9.5 is too old, 9.0.0 is needed"),
        (lambda m, p: setattr(m, "backend_version", missing), r"finds no library: RuntimeError: Unable to find symbol"),
    ],
)
def test_what_cannot_be_used_says_why(world, small, monkeypatch, spoil, said):
    at, x, w, b, _ = small
    spoil(sys.modules["cudnn"], monkeypatch)
    if said.startswith("not installed"):
        monkeypatch.setattr(cudnn.importlib, "import_module", absent)
    assert asked("correlate", x, w, b, at) is NotImplemented
    words = dn.info()["cudnn"]
    assert re.match("no: " + said, words) or re.search(said, words), words
    assert words.count("\n") == 0 and not world.graphs
    y, _ = dn.ops.conv2d(*(dn.asarray(a) for a in (x, w, b)), padding=1)
    assert error(dn.to_numpy(y), references["correlate"].reference(x, w, b, at)) < 1e-6


@pytest.mark.parametrize(
    ("libraries", "driver", "line"),
    [
        (["libcudnn.so.9"], 13000, 'pip install "dualnet[cudnn]"'),  # as beside PyTorch
        ([], 13000, 'pip install "dualnet[cudnn13x]"'),
        ([], 12080, 'pip install "dualnet[cudnn12x]"'),
        ([], 0, 'pip install "dualnet[cudnn12x]" (for a CUDA 13 driver: "dualnet[cudnn13x]")'),
    ],
)
def test_the_hint_installs_no_library_over_another(world, monkeypatch, libraries, driver, line):
    loading(monkeypatch, libraries)
    monkeypatch.setattr(installing, "driver_version", lambda: driver)
    monkeypatch.setattr(cudnn.importlib, "import_module", absent)
    assert dn.info()["cudnn"] == f"no: not installed; {line}"


def loading(monkeypatch, libraries):
    """Only these can be loaded; those that were."""
    loaded = []

    def load(name):
        if name not in libraries:
            raise OSError(f"{name}: cannot open shared object file")
        loaded.append(name)

    monkeypatch.setattr(cudnn.ctypes, "CDLL", load)
    return loaded


@pytest.mark.parametrize("other", [False, True])
def test_the_library_is_loaded_from_wherever_python_has_its_package(world, monkeypatch, tmp_path, other):
    """Installed with --target, say. But a libcudnn on LD_LIBRARY_PATH is left alone: its parts belong together."""
    path, elsewhere = tmp_path / "nvidia" / "cudnn" / "lib" / "libcudnn.so.9", tmp_path / "elsewhere"
    path.parent.mkdir(parents=True), elsewhere.mkdir()
    path.write_bytes(b""), (elsewhere / "libcudnn.so.8").write_bytes(b"")
    if other:
        (elsewhere / path.name).write_bytes(b"")
    monkeypatch.setenv("LD_LIBRARY_PATH", f":{elsewhere}")
    monkeypatch.syspath_prepend(tmp_path)
    loaded, seen = loading(monkeypatch, [str(path)]), []
    find = cudnn.importlib.import_module
    monkeypatch.setattr(cudnn.importlib, "import_module", lambda name: seen.append(list(loaded)) or find(name))
    assert cudnn.library() is not None
    assert seen == [[] if other else [str(path)]]  # before the frontend looks


def missing():
    raise RuntimeError("Unable to find symbol cudnnGetVersion\nand more")


def absent(name):
    raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def test_a_module_that_breaks_while_it_is_imported(world, small, monkeypatch):
    for raised, said in (
        (ImportError("libstdc++ is too old"), "ImportError: libstdc"),
        (ModuleNotFoundError("No module named 'x'", name="x"), "ModuleNotFoundError: No module named 'x'"),
    ):

        def broken(name, raised=raised):
            raise raised

        monkeypatch.setattr(cudnn, "_found", [])
        monkeypatch.setattr(cudnn.importlib, "import_module", broken)
        assert cudnn.library() is None
        assert cudnn.available()[1].startswith("it cannot be imported: " + said)


def test_a_device_that_gives_no_handle(world, small, monkeypatch):
    at, x, w, b, _ = small

    def refused():
        raise RuntimeError("CUDNN_STATUS_NOT_INITIALIZED")

    monkeypatch.setattr(sys.modules["cudnn"], "create_handle", refused)
    assert asked("correlate", x, w, b, at) is NotImplemented
    assert dn.info()["cudnn"] == "no: it does not start on this device: RuntimeError: CUDNN_STATUS_NOT_INITIALIZED"


def test_it_is_not_imported_before_it_is_needed():
    code = (
        "import sys, dualnet as dn, numpy as np\n"
        "net = dn.Sequential([dn.Conv2D(8, 3), dn.Conv2D(8, 3)]).init((9, 9, 3), seed=0)\n"
        "net(dn.asarray(np.ones((1, 9, 9, 3), 'f4'))); dn.info()\n"
        "import dualnet.backends.cupy_backend\n"
        "assert 'cudnn' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
