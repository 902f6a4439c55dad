"""The measuring process: memory from a fresh peak, and as many runs as fit in the time."""

from __future__ import annotations

import mmap
import os
import platform
import types

import pytest

from dualnet.bench.peers import runner


@pytest.mark.skipif(not runner.status(), reason="the system does not report memory")
def test_peak_memory_begins_anew():
    before = runner.resident()
    with mmap.mmap(-1, 64 * 2**20) as pages:  # from the system: NumPy may have that much in stock
        for start in range(0, 64 * 2**20, mmap.PAGESIZE):
            pages[start] = 1
    high = runner.resident(peak=True)
    assert high >= before + 60 * 2**20
    runner.forget_peak()
    assert runner.resident(peak=True) < high - 30 * 2**20 or not os.access("/proc/self/clear_refs", os.W_OK)


@pytest.mark.skipif("glibc" not in platform.libc_ver(), reason="another allocator")
@pytest.mark.skipif(not runner.status(), reason="the system does not report memory")
def test_freed_memory_does_not_count():
    """Below a piece that is still in use: there an allocator keeps it."""
    pieces = [bytearray(b"x") * 2**16 for _ in range(512)]  # 32 MiB, each too small for pages of its own
    held = runner.resident()
    del pieces[:-1]
    runner.give_back()
    assert runner.resident() < held - 24 * 2**20


def test_runs_are_counted_by_the_clock(monkeypatch):
    ticks = iter(range(1000))
    monkeypatch.setattr(runner.time, "perf_counter", lambda: next(ticks))
    assert runner.timed(lambda: None, 0.5) == [1]  # far too slow for three
    assert runner.timed(lambda: None, 1.0) == [1, 1]  # four times the time after two
    assert runner.timed(lambda: None, 9.0) == [1] * 5  # one tick a run, and one between


def test_bursts_are_long_enough_and_the_device_is_waited_for(monkeypatch):
    clock, waits = [0.0], []
    monkeypatch.setattr(runner.time, "perf_counter", lambda: clock[0])

    def run():
        clock[0] += 0.001

    def wait():
        clock[0] += 0.002
        waits.append(clock[0])

    times = runner.bursts(run, wait, 0.5)
    assert 0.00102 <= min(times) <= max(times) <= 0.00105 and len(times) >= 8 and len(waits) >= 16


def test_a_version_that_only_the_installer_knows():
    """tinygrad's modules do not say which release they are."""
    numpy = pytest.importorskip("numpy")
    silent = types.ModuleType("numpy")
    assert runner.version_of(numpy) == runner.version_of(silent) == numpy.__version__
    assert runner.version_of(types.ModuleType("no_such_package")) == "unknown"
