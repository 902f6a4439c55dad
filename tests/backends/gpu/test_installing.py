"""Which CuPy and which driver are installed, and the command that the user sees."""

from __future__ import annotations

import importlib.metadata

import pytest

from dualnet.backends.gpu import installing


def test_which_wheels_are_installed():
    installed = {wheel for wheel in installing.WHEELS if installing.installed(wheel)}
    names = {distribution.metadata["Name"] for distribution in importlib.metadata.distributions()}
    assert installed == names & set(installing.WHEELS)


def test_the_driver_is_asked_without_cupy(monkeypatch):
    class Driver:
        def cuDriverGetVersion(self, version):
            version._obj.value = 12080

    def library(name):
        if name != "nvcuda.dll":
            raise OSError(name)
        return Driver()

    monkeypatch.setattr(installing.ctypes, "CDLL", library)
    assert installing.driver_version() == 12080
    monkeypatch.setattr(installing.ctypes, "CDLL", lambda name: library("libcuda.so.1"))
    assert installing.driver_version() == 0


@pytest.mark.parametrize(
    ("driver", "line"),
    [
        (12080, 'pip install "dualnet[cuda12x]"'),
        (13000, 'pip install "dualnet[cuda13x]"'),
        (0, 'pip install "dualnet[cuda12x]" (for a CUDA 13 driver: "dualnet[cuda13x]")'),
    ],
)
def test_the_driver_decides_what_is_installed(monkeypatch, driver, line):
    assert installing.install_line(driver) == line
    monkeypatch.setattr(installing, "driver_version", lambda: driver)
    assert installing.install_line() == line


def test_versions_are_dotted():
    assert [installing.dotted(number) for number in (12080, 11080, 13000)] == ["12.8", "11.8", "13.0"]


def test_an_error_in_one_line():
    assert installing.first_line(ImportError("\n=====\n  libcudart.so.12: not found\nmore")) == (
        "ImportError: libcudart.so.12: not found"
    )
    assert installing.first_line(RuntimeError()) == "RuntimeError"
