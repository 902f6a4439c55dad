"""Freed memory stays with the process, unless the user or the system decides otherwise."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

from dualnet.backends.cpu import memory

COUNT = """
import resource, numpy, dualnet as dn
from dualnet.backends.cpu import memory
if {asked}:
    dn.asarray([1.0], backend="numpy")  # loads it
def faults():
    for _ in range(3):
        numpy.empty(6_000_000, "u1").fill(1), numpy.empty(2_000_000, "u1").fill(1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        one = numpy.empty(6_000_000, "u1"); two = numpy.empty(6_000_000, "u1")
        one.fill(1); two.fill(1)
        del one, two
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(faults())
"""
glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is asked to keep memory")


def faults(asked: bool, **environment: str) -> int:
    rest = {name: value for name, value in os.environ.items() if name not in memory.SAID}
    code = COUNT.format(asked=asked)
    environment = {"NUMPY_MADVISE_HUGEPAGE": "0", **rest, **environment}
    return int(subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=True).stdout)


@glibc
def test_arrays_of_the_same_size_cost_no_page_faults_again():
    with_numpy_alone, with_dualnet = faults(False), faults(True)
    assert with_dualnet < 5000 < with_numpy_alone, (with_dualnet, with_numpy_alone)


@glibc
def test_settings_of_the_user_are_left_alone():
    assert faults(True, MALLOC_TRIM_THRESHOLD_="131072") > 5000


@pytest.mark.parametrize("name", memory.SAID)
def test_nothing_is_set_if_the_user_has_a_setting(monkeypatch, name):
    monkeypatch.setenv(name, "1")
    assert memory.keep() is False


@pytest.mark.parametrize("error", [OSError("no library"), TypeError("no CDLL(None)"), AttributeError("no mallopt")])
def test_other_systems_are_left_alone(monkeypatch, error):
    def fail(name):
        raise error

    for variable in memory.SAID:
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(memory.ctypes, "CDLL", fail)
    assert memory.keep() is False
