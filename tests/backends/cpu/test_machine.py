"""The kind of processor, from what NumPy and the system report."""

from __future__ import annotations

import pytest

from dualnet.backends.cpu import machine

WIDE = {"AVX2": True, "FMA3": True, "AVX512F": True, "AVX512VL": True}


@pytest.fixture(autouse=True)
def asked_anew():
    machine.kind.cache_clear()
    machine.processor.cache_clear()
    yield
    machine.kind.cache_clear()
    machine.processor.cache_clear()


@pytest.mark.parametrize(
    "features, maker, kind",
    [
        (WIDE, "GenuineIntel", machine.INTEL),
        (WIDE, "AuthenticAMD", machine.AMD),
        (WIDE, "AMD64 Family 25 Model 17 Stepping 1, AuthenticAMD", machine.AMD),  # as Windows says it
        (WIDE, "", machine.INTEL),
        ({**WIDE, "AVX512F": False}, "AuthenticAMD", machine.AVX2),
        ({**WIDE, "AVX512VL": False}, "GenuineIntel", machine.AVX2),
        ({"AVX2": True, "FMA3": False}, "GenuineIntel", machine.OTHER),
        ({"NEON": True}, "", machine.OTHER),
        ({}, "AuthenticAMD", machine.OTHER),
    ],
)
def test_the_kind(monkeypatch, features, maker, kind):
    monkeypatch.setattr(machine, "_features", lambda: features)
    monkeypatch.setattr(machine, "_maker", lambda: maker)
    assert machine.kind() == kind


def test_it_is_one_of_the_kinds_here_and_has_a_name():
    assert machine.kind() in (machine.INTEL, machine.AMD, machine.AVX2, machine.OTHER)
    assert machine.processor() == machine.processor().strip() != ""


def test_without_the_systems_file_python_knows_a_name(monkeypatch):
    def refused(*arguments, **options):
        raise OSError

    monkeypatch.setattr(machine, "open", refused, raising=False)
    monkeypatch.setattr(machine.platform, "processor", lambda: "some chip")
    assert machine.processor() == "some chip" == machine._maker()
