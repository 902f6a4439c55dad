"""Peers written in a test, and a network of one layer."""

from __future__ import annotations

import textwrap

import pytest

import dualnet as dn
from dualnet.bench import measure


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """A peer written in a test: ``fake(script, name=..., ...)`` registers it under its name."""

    def add(text: str, name: str = "fake", library: str = "json", variants: tuple[str, ...] = ("",)) -> None:
        script = tmp_path / f"{name}_peer.py"
        script.write_text(textwrap.dedent(text), encoding="utf-8")
        monkeypatch.setitem(measure.PROGRAMS, name, measure.Program(library, str(script), variants))

    return add


@pytest.fixture
def tiny(tmp_path):
    """A network of one dense layer, as a file."""
    net = dn.Sequential([dn.Flatten(), dn.Dense(3)]).init((2, 3, 2), seed=7)
    return str(net.save(tmp_path / "tiny.npz"))
