"""Backends by name: plug-ins of other distributions, threads that load at once, and the precision."""

from __future__ import annotations

import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import dualnet as dn
from dualnet.shim import loading

pytestmark = pytest.mark.usefixtures("fresh")
BACKENDS = "numpy, cupy, strict, torch, array_api_strict, cupy:N, torch:DEVICE, auto"


def test_precision():
    assert loading.get_precision() == dn.info()["precision"] == "strict"
    try:
        dn.set_precision("tf32")
        assert loading.get_precision() == dn.info()["precision"] == "tf32"
        x = dn.asarray(np.full((1, 1), 1 + 2**-20, np.float32), backend="numpy")
        assert dn.ops.dense(x, x)[0].item() == np.float32(x.item() * x.item())  # NumPy always computes in full
    finally:
        dn.set_precision("strict")
    with pytest.raises(ValueError, match="set_precision: expected one of strict, tf32, got 'fast'"):
        dn.set_precision("fast")


# -- plug-ins ----------------------------------------------------------------------------------------------------------

PLUGIN = """
import time
import numpy
from dualnet.backend import Backend, BackendUnavailable
loads = []
class Acme(numpy.ndarray):
    pass
def load(device):
    loads.append(device)
    time.sleep(0.02)
    return Backend(f"acme:{device or 0}", numpy, (Acme,), lambda host: host.view(Acme), numpy.asarray)
def absent(device):
    raise BackendUnavailable("absent: the Acme card is not plugged in")
def broken(device):
    raise OSError("libacme.so: cannot open\\n shared object")
def wrong(device):
    return 42
def greedy(device):
    return Backend("greedy", numpy, (numpy.ndarray,), lambda host: host, lambda array: array)
"""
POINTS = """
[dualnet.backends]
Acme = acme_backend:load
absent = acme_backend:absent
broken = acme_backend:broken
missing = no_such_module_anywhere:load
wrong = acme_backend:wrong
greedy = acme_backend:greedy
numpy = acme_backend:wrong
auto = acme_backend:wrong
"""


@pytest.fixture
def acme(tmp_path, monkeypatch):
    """A distribution that brings backends, good and bad."""
    (tmp_path / "acme_backend.py").write_text(PLUGIN)
    info = tmp_path / "acme-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(POINTS)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("acme_backend", None)


def test_a_plugin_is_a_backend_like_any_other(acme):
    assert "acme" in dn.available_backends()
    with dn.use_backend("ACME:1") as name:
        assert name == "acme:1"
        x = dn.asarray([1.0])
        assert type(x).__name__ == "Acme"
    assert dn.get_backend() == "numpy"
    with pytest.raises(ValueError, match=f"{BACKENDS}, absent, acme, broken, greedy, missing, wrong"):
        dn.set_backend("acne")


@pytest.mark.parametrize(
    "name, message",
    [
        ("absent", "^absent: the Acme card is not plugged in$"),
        ("broken", "broken: the plug-in acme_backend:broken failed: OSError: libacme.so: cannot open$"),
        ("missing", "missing: the plug-in .* failed: ModuleNotFoundError: No module named 'no_such_module_anywhere'"),
        ("wrong", r"wrong: .* load\(\) returned a int; expected a dualnet.backend.Backend"),
        ("greedy", "greedy: .* its arrays are ndarray, which belong to another backend"),
    ],
)
def test_a_plugin_that_fails_says_so_and_breaks_nothing_else(acme, name, message):
    with pytest.raises(dn.BackendUnavailable, match=message):
        dn.set_backend(name)
    assert dn.info()["backends"][name] not in ("", "available")
    assert dn.info()["backends"]["numpy"] == "available"


def test_eight_threads_load_one_backend_once(acme):
    barrier = threading.Barrier(8)

    def load(_):
        barrier.wait()
        return loading.load("acme")

    with ThreadPoolExecutor(8) as pool:
        backends = list(pool.map(load, range(8)))
    assert len(set(map(id, backends))) == 1
    assert sys.modules["acme_backend"].loads == [None]


def test_a_backend_is_shown_when_it_is_complete(monkeypatch):
    """Other threads look without the lock: what they find must know its arrays, and round as it should."""

    class Ours(np.ndarray):
        pass

    seen = []

    def look(precision):
        """Called while the backend is being loaded, as another thread may be."""
        seen.append((precision, "ours" in loading._loaded, Ours in loading._by_type))

    made = loading.Backend("ours", np, (Ours,), np.asarray, np.asarray, set_precision=look)
    monkeypatch.setattr(loading, "_loader", lambda base, key: lambda device: made)
    assert loading.load("ours") is made and seen == [("strict", False, False)]
    assert loading.load("OURS") is made and loading._by_type[Ours] is made and len(seen) == 1
