"""Environment variables read on every call: always the value of now."""

from __future__ import annotations

import os

from dualnet.shim.process import reader


def test_the_value_of_now(monkeypatch):
    read = reader("DUALNET_PROBE")
    monkeypatch.delenv("DUALNET_PROBE", raising=False)
    assert read() == ""
    monkeypatch.setenv("DUALNET_PROBE", "größer")
    assert read() == os.environ["DUALNET_PROBE"] == "größer"
    os.environ["DUALNET_PROBE"] = "other"
    assert read() == "other"
    del os.environ["DUALNET_PROBE"]
    assert read() == ""


def test_without_the_dictionary_beneath(monkeypatch):
    class Plain(dict):
        """An os.environ without CPython's inside."""

    monkeypatch.setattr(os, "environ", Plain(DUALNET_PROBE="7"))
    read = reader("DUALNET_PROBE")
    assert read() == "7"
    os.environ.pop("DUALNET_PROBE")
    assert read() == ""
