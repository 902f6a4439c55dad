"""The conditions for the tests of NumPy's kernels: sizes of the team, and blocks so small that there are many."""

from __future__ import annotations

import pytest

from dualnet.backends.cpu import blas, im2col, passes


@pytest.fixture(params=["1 thread", "2 threads", "3 threads", "no BLAS of its own"])
def team(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each kernel runs with several team sizes, and without a BLAS that can be called directly."""
    if request.param.startswith("no"):
        monkeypatch.setattr(blas, "_found", [None])
    else:
        monkeypatch.setenv("DUALNET_THREADS", request.param[0])


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(im2col, "BLOCK_BYTES", 3000)
    monkeypatch.setattr(im2col, "LEAST_BYTES", 1)
    monkeypatch.setattr(passes, "BLOCK", 100)
    monkeypatch.setattr(passes, "SMALL", 0)
    monkeypatch.setattr(passes, "SHARED", 0)
