"""Fixtures for tests of the seam itself: whatever they choose, set or load is forgotten after them."""

from __future__ import annotations

import sys

import pytest

from dualnet import backend as seam
from dualnet import loading


@pytest.fixture
def pristine(monkeypatch):
    """As at the start of a process: nothing chosen, no variable set."""
    for name in ("DUALNET_BACKEND", "DUALNET_DTYPE", "DUALNET_KERNELS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(seam, "_process", seam._Process())
    monkeypatch.setattr(loading, "_loaded", dict(loading._loaded))
    monkeypatch.setattr(loading, "_by_type", dict(loading._by_type))
    monkeypatch.setattr(loading, "_precision", "strict")
    token = seam._in_context.set(None)
    yield
    seam._in_context.reset(token)


@pytest.fixture
def no_cupy(pristine, monkeypatch):
    """A machine on which CuPy is not installed, and was not loaded."""
    monkeypatch.setitem(sys.modules, "cupy", None)
    monkeypatch.setattr(loading, "_loaded", {n: b for n, b in loading._loaded.items() if not n.startswith("cupy")})
    monkeypatch.setattr(loading, "_by_type", {k: b for k, b in loading._by_type.items() if "cupy" not in b.name})
