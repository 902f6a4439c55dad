"""``@accelerated``: a kernel stands in for the reference of its name if it can."""

from __future__ import annotations

import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import dualnet as dn
from dualnet import shim
from dualnet.shim import kernels

pytestmark = pytest.mark.usefixtures("fresh")


@pytest.fixture
def double(monkeypatch):
    """A reference, and a kernel of NumPy that serves float32 alone; both tell how they were called."""
    monkeypatch.setattr(kernels, "references", dict(shim.references))
    before = shim.calls.copy()
    shim.calls.clear()

    @shim.accelerated
    def double(x, times=2, *, plus=0):
        """Twice x."""
        return "reference", x * times + plus

    def kernel(x, times=2, *, plus=0):
        return ("kernel", x * times + plus) if x.dtype == np.float32 else NotImplemented

    monkeypatch.setitem(shim.load("numpy").kernels, "double", kernel)
    yield double
    shim.calls.clear()
    shim.calls.update(before)


def test_a_kernel_stands_in_where_it_can(double):
    assert double(np.ones(1, np.float32), 3, plus=1) == ("kernel", 4.0)
    assert double(np.ones(1)) == ("reference", 2.0)
    by, y = double(dn.asarray([1.0], backend="strict"))  # that backend carries none
    assert by == "reference" and dn.to_numpy(y) == 2.0
    assert double(3) == ("reference", 6)
    assert dict(shim.calls) == {("double", "kernel of numpy"): 1, ("double", "reference"): 3}
    assert dn.info()["ran"] == {"double (kernel of numpy)": "1 times", "double (reference)": "3 times"}
    assert "double" in dn.info()["kernels"]
    assert double.__doc__ == "Twice x." and double.reference(1) == ("reference", 2)
    assert kernels.references["double"] is double


def test_several_kernels_are_asked_in_turn(double, monkeypatch):
    def tiny(x, times=2, *, plus=0):
        return ("tiny", x * times + plus) if x.size == 1 else NotImplemented

    def wide(x, times=2, *, plus=0):
        return ("wide", x * times + plus) if x.size > 9 else NotImplemented

    tiny.algorithm = "numpy tiny"
    monkeypatch.setitem(shim.load("numpy").kernels, "double", (tiny, wide))
    assert [double(np.ones(size))[0] for size in (1, 2, 10)] == ["tiny", "reference", "wide"]
    assert set(shim.calls) == {
        ("double", "kernel of numpy tiny"),  # by its own name
        ("double", "kernel of numpy"),  # by its backend's
        ("double", "reference"),
    }


def test_kernels_can_be_turned_off(double, monkeypatch):
    monkeypatch.setenv("DUALNET_KERNELS", "Reference")
    assert double(np.ones(1, np.float32)) == ("reference", 2.0)
    assert dn.info()["kernels"] == "off (DUALNET_KERNELS=reference)"
    monkeypatch.setenv("DUALNET_KERNELS", "auto")
    assert double(np.ones(1, np.float32)) == ("kernel", 2.0)
    monkeypatch.setenv("DUALNET_KERNELS", "of")
    with pytest.raises(ValueError, match="DUALNET_KERNELS must be 'auto' or 'reference', got 'of'"):
        double(np.ones(1, np.float32))


def test_two_references_of_one_name_are_refused(double):
    def other(x):
        return x

    other.__name__, other.__qualname__ = "double", "other"
    with pytest.raises(ValueError, match="two references are named 'double'"):
        shim.accelerated(other)


def test_every_kernel_has_a_reference(backend):
    assert set(shim.current().kernels) <= set(shim.references)


class Hesitant(Counter):
    """A counter that lets others go first between reading a number and writing it, as ``+= 1`` may do."""

    def __getitem__(self, key):
        number = super().__getitem__(key)
        time.sleep(0)
        return number


def test_calls_from_eight_threads_are_all_counted(double, monkeypatch):
    """And dn.info() may look on meanwhile."""
    monkeypatch.setattr(kernels, "calls", Hesitant())
    x, start = np.ones(1, np.float32), threading.Barrier(9, timeout=30)

    def work(i):
        start.wait()
        for _ in range(200 if i else 20):
            double(x) if i else dn.info()

    with ThreadPoolExecutor(9) as pool:
        list(pool.map(work, range(9)))
    assert kernels.calls["double", "kernel of numpy"] == 1600
