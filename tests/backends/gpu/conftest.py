"""Shared by the tests of this folder: a pretend GPU, a pretend cuDNN on it, and kernels with a planted mistake."""

from __future__ import annotations

import shutil
from pathlib import Path

import fake_cudnn
import fake_cupy
import pytest

from dualnet.backends.gpu import cudnn_plans, sources
from dualnet.geometry import windows


@pytest.fixture
def cupy(monkeypatch):
    """A pretend CuPy whose kernels run on the host."""
    with fake_cupy.in_force(monkeypatch) as module:
        yield module


@pytest.fixture
def world(cupy, monkeypatch):
    """A pretend cuDNN on the pretend GPU."""
    monkeypatch.setattr(cudnn_plans, "ROUNDS", 1)
    monkeypatch.setattr(cudnn_plans, "REPEATS", 1)
    return fake_cudnn.install(monkeypatch, cupy)


@pytest.fixture
def small(rng):
    """The windows of a small convolution, and its x, w, b and dy."""
    at = windows("conv2d", (6, 5), (3, 3), padding=1)
    return at, *fake_cudnn.arrays(rng, at, 2, 8, 4, 1)


@pytest.fixture
def planted(monkeypatch, tmp_path):
    """``planted(file, old, new)`` changes the text of a kernel file for one test."""

    def plant(file, old, new):
        path = folder / file
        text = path.read_text(encoding="utf-8")
        assert old in text
        path.write_text(text.replace(old, new, 1), encoding="utf-8")
        forget()

    def forget():
        sources.source.cache_clear()
        sources.entries.cache_clear()

    folder = Path(shutil.copytree(sources.FOLDER, tmp_path / "kernels"))
    monkeypatch.setattr(sources, "FOLDER", folder)
    forget()
    yield plant
    forget()
