"""Finding cuDNN, its switches, and why it is not used; its handles and workspaces, and those that captured graphs
keep."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
import threading

import fake_cudnn
import fake_cupy
import numpy as np
import pristine
import pytest
from fake_cudnn import agree, arrays, asked, captured
from oracles import error

import dualnet as dn
from dualnet.backend import references
from dualnet.backends.gpu import cudnn_kernels, cudnn_library, cudnn_plans, installing
from dualnet.geometry import windows

# -- the library -------------------------------------------------------------------------------------------------------


def test_switched_off(world, small, monkeypatch):
    at, x, w, b, _ = small
    monkeypatch.setenv("DUALNET_CUDNN", "0")
    assert asked("correlate", x, w, b, at) is NotImplemented
    assert dn.info()["cudnn"] == "no: switched off by DUALNET_CUDNN=0" and cudnn_library._found == []
    monkeypatch.setenv("DUALNET_CUDNN", "off")
    with pytest.raises(ValueError, match="DUALNET_CUDNN must be 0, 1 or all, got 'off'"):
        asked("correlate", x, w, b, at)
    assert dn.info()["cudnn"] == "no: DUALNET_CUDNN must be 0, 1 or all, got 'off'"
    monkeypatch.delenv("DUALNET_CUDNN")
    assert asked("correlate", x, w, b, at) is not NotImplemented
    monkeypatch.setenv("DUALNET_CUDNN_AUTOTUNE", "yes")
    with pytest.raises(ValueError, match="DUALNET_CUDNN_AUTOTUNE must be 0, 1 or a file .*, got 'yes'"):
        asked("correlate", x[:1], w, b, at)


def missing():
    """``backend_version`` without a library."""
    raise RuntimeError("Unable to find symbol cudnnGetVersion\nand more")


def absent(name, package=None, ordinary=importlib.import_module):
    """``import_module`` without cuDNN's frontend."""
    if name.partition(".")[0] == "cudnn":
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    return ordinary(name, package)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda m, p: p.setitem(sys.modules, "cudnn", None), "not installed; pip install"),
        (
            lambda m, p: p.setattr(m, "__version__", "1.23.9"),
            r"frontend 1.23.9 is too old, 1.24 or newer is needed; pip install",
        ),
        (
            lambda m, p: p.setattr(m, "__version__", "1.29.0"),
            r"frontend 1.29.0 is too new, one below 1.29 is needed; pip install",
        ),
        (lambda m, p: p.delattr(m, "pygraph"), "frontend 1.28.0 is too old"),
        (lambda m, p: setattr(m, "backend_version", lambda: 8905), r"cuDNN 8.9.5 is too old, 9.0.0 is needed"),
        (lambda m, p: setattr(m, "backend_version", missing), r"finds no library: RuntimeError: Unable to find symbol"),
    ],
)
def test_if_it_cannot_be_used_it_says_why(world, small, monkeypatch, spoil, said):
    at, x, w, b, _ = small
    spoil(sys.modules["cudnn"], monkeypatch)
    if said.startswith("not installed"):
        monkeypatch.setattr(cudnn_library.importlib, "import_module", absent)
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
    monkeypatch.setattr(cudnn_library.importlib, "import_module", absent)
    assert dn.info()["cudnn"] == f"no: not installed; {line}"


def loading(monkeypatch, libraries):
    """Let only these libraries be loaded; returns the list of those that were."""
    loaded = []

    def load(name):
        if name not in libraries:
            raise OSError(f"{name}: cannot open shared object file")
        loaded.append(name)

    monkeypatch.setattr(cudnn_library.ctypes, "CDLL", load)
    return loaded


@pytest.mark.parametrize("other", [False, True])
def test_the_library_is_loaded_from_any_folder_of_sys_path(world, monkeypatch, tmp_path, other):
    """As after --target. But a libcudnn on LD_LIBRARY_PATH goes first: its parts belong together."""
    path, elsewhere = tmp_path / "nvidia" / "cudnn" / "lib" / "libcudnn.so.9", tmp_path / "elsewhere"
    path.parent.mkdir(parents=True), elsewhere.mkdir()
    path.write_bytes(b""), (elsewhere / "libcudnn.so.8").write_bytes(b"")
    if other:
        (elsewhere / path.name).write_bytes(b"")
    monkeypatch.setenv("LD_LIBRARY_PATH", f":{elsewhere}")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, "cuda.pathfinder", None)
    loaded, seen = loading(monkeypatch, [str(path)]), []
    find = cudnn_library.importlib.import_module
    monkeypatch.setattr(
        cudnn_library.importlib,
        "import_module",
        lambda name: (name == "cudnn" and seen.append(list(loaded))) or find(name),
    )
    assert cudnn_library.library() is not None
    assert seen == [[] if other else [str(path)]]  # before the frontend looks for it


@pytest.mark.parametrize("finds", [True, False])
def test_the_library_is_loaded_by_pathfinder_where_it_knows_one(world, monkeypatch, tmp_path, finds):
    """A version of it that knows no cuDNN, or does not find it, leaves ``sys.path``."""
    path, asked_for = tmp_path / "nvidia" / "cudnn" / "lib" / "libcudnn.so.9", []
    path.parent.mkdir(parents=True), path.write_bytes(b"")

    def load(name):
        asked_for.append(name)
        if not finds:
            raise RuntimeError(f"{name} is not supported")

    pathfinder = fake_cupy.module("cuda.pathfinder", load_nvidia_dynamic_lib=load)
    monkeypatch.setitem(sys.modules, "cuda", fake_cupy.module("cuda", __path__=[], pathfinder=pathfinder))
    monkeypatch.setitem(sys.modules, "cuda.pathfinder", pathfinder)
    monkeypatch.setenv("LD_LIBRARY_PATH", "")
    monkeypatch.syspath_prepend(tmp_path)
    loaded = loading(monkeypatch, [str(path)])
    assert cudnn_library.library() is not None
    assert asked_for == ["cudnn"] and loaded == ([] if finds else [str(path)])


def test_a_module_that_breaks_while_it_is_imported(world, small, monkeypatch):
    for raised, said in (
        (ImportError("libstdc++ is too old"), "ImportError: libstdc"),
        (ModuleNotFoundError("No module named 'x'", name="x"), "ModuleNotFoundError: No module named 'x'"),
    ):

        def broken(name, raised=raised):
            raise raised

        monkeypatch.setattr(cudnn_library, "_found", [])
        monkeypatch.setattr(cudnn_library.importlib, "import_module", broken)
        assert cudnn_library.library() is None
        assert cudnn_library.available()[1].startswith("it cannot be imported: " + said)


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


# -- handles and workspaces --------------------------------------------------------------------------------------------


def test_a_device_that_gives_no_handle(world, small, monkeypatch):
    at, x, w, b, _ = small

    def refused():
        raise RuntimeError("CUDNN_STATUS_NOT_INITIALIZED")

    monkeypatch.setattr(sys.modules["cudnn"], "create_handle", refused)
    assert asked("correlate", x, w, b, at) is NotImplemented
    assert dn.info()["cudnn"] == "no: it does not start on this device: RuntimeError: CUDNN_STATUS_NOT_INITIALIZED"


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

    for _ in range(3):  # one after another: the pretend device serves one thread at a time
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert not failed, failed[0]
    assert len({handle.thread for handle in world.handles}) >= 1 and len(world.handles) == 4
    assert world.counted["built"] == built + 3  # each thread made its plan, and none chose again
    assert [handle.alive for handle in world.handles] == [True, False, False, False]


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
    (handle,) = cudnn_library._of_thread.handles.values()
    assert handle.workspaces.keys() == {0, other.ptr} and len(world.handles) == 1


def test_another_shape_leaves_the_workspace_as_it_was(world, small):
    at, x, w, b, dy = small
    asked("correlate", x, w, b, at)
    (handle,) = cudnn_library._of_thread.handles.values()
    held = handle.workspaces[0]
    for n in (1, 2):
        asked("correlate_inputs", dy[:n], w, at)
        assert handle.workspaces[0] is held


def test_plans_that_were_only_tried_out_leave_no_large_workspace(world, small, monkeypatch):
    at, x, w, b, _ = small
    asked("correlate", x, w, b, at)
    good = [name for name, _, _ in fake_cudnn.PLANS].index("eng_good")
    (held,) = cudnn_library._of_thread.handles[sys.modules["cudnn"], 0].workspaces.values()
    assert held.size == 64 * good < 64 * (len(fake_cudnn.PLANS) - 1)


def test_the_handle_and_workspace_of_a_graph_are_kept_for_ever(world, small, monkeypatch):
    at, x, w, b, _ = small
    monkeypatch.setattr(cudnn_plans, "KEPT", 1)
    moved = [dn.asarray(a) for a in (x, w, b)]
    stream, graph, _ = captured(world, lambda: cudnn_kernels.correlate(*moved, at))
    handle = world.handles[0]
    held = list(cudnn_library._captured.values())
    workspace = next(each for each in held if isinstance(each, world.cupy.ndarray))
    assert {type(each).__name__ for each in held} == {"Plan", "Handle", "ndarray"}
    with stream:  # a shape that needs more room, on the same stream
        monkeypatch.setattr(fake_cudnn, "PLANS", [("eng_idle", "", 1.0)] * 50 + [("eng_good", "", 5e-6)])
        monkeypatch.setattr(cudnn_plans, "CANDIDATES", 60)
        world.product = 10.0
        asked("correlate", x[:1], w, None, at)
    cudnn_library._of_thread.handles.clear()
    assert handle.alive and any(each is workspace for each in cudnn_library._captured.values())
    assert len({address for _, address in world.workspaces}) >= 2
    graph.launch(stream)
