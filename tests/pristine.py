"""For tests of the shim itself: a process in which nothing was chosen, set or loaded, restored afterwards."""

from __future__ import annotations

import sys
from contextvars import ContextVar

import pytest

from dualnet.shim import choosing, loading


def process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is chosen, no variable is set; what is loaded from here on will be forgotten."""
    for name in ("DUALNET_BACKEND", "DUALNET_DTYPE", "DUALNET_KERNELS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(choosing, "_process", choosing._Process())
    monkeypatch.setattr(choosing, "_in_context", ContextVar("pristine", default=None))
    monkeypatch.setattr(loading, "_loaded", {n: b for n, b in loading._loaded.items() if not n.startswith("cupy")})
    monkeypatch.setattr(loading, "_by_type", {k: b for k, b in loading._by_type.items() if b.name in loading._loaded})
    monkeypatch.setattr(loading, "_precision", "strict")


def without_cupy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which CuPy is not installed."""
    process(monkeypatch)
    monkeypatch.setitem(sys.modules, "cupy", None)
