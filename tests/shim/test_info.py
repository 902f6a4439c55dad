"""``dn.info()``: the table that says what runs here."""

from __future__ import annotations

import time

import numpy as np
import pytest

import dualnet as dn

pytestmark = pytest.mark.usefixtures("fresh")


def test_info_is_a_table(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    with dn.use_backend("strict"):
        table = dn.info()
    assert table["backend"] == "strict" and table["chosen by"] == "use_backend"
    assert table["numpy"] == np.__version__ and table["dualnet"] == dn.__version__
    lines = str(table).splitlines()
    assert "backend    strict" in lines and "backends   numpy: available" in lines
    assert "           strict: available" in lines
    assert "threads    OMP_NUM_THREADS: 3" in lines
    assert repr(table) == str(table)
    assert str(type(table)()) == ""


def test_the_whole_is_quick():
    start = time.thread_time()
    dn.info()
    assert time.thread_time() - start < 1
