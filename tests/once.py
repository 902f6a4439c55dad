"""Which tests end the same whatever DUALNET_BACKEND says, so that one run of them is enough; conftest.py marks them.

Each is held to it: it fails if it asks which backend is in force by default, even if the error that it gets then is
caught, and its processes see no such variable.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest

from dualnet.shim import choosing

HERE = Path(__file__).parent
ONCE = (
    # kernels, which a test calls by name with arrays of their own library; and backends that it names
    *("backends/cpu", "backends/gpu", "backends/onednn", "backends/test_adapter.py", "backends/test_cupy_backend.py"),
    *("backends/test_measuring.py", "backends/test_tuned.py", "backends/test_choice.py", "pretend"),
    "backends/test_numpy_backend.py",
    # what the parity certificate compares, each way with its own backend in force
    *("parity/cases", "parity/certificate", "parity/judging", "parity/loops"),
    # bytes: files from elsewhere, processes that find each other, numbers that were measured before
    *("data/test_cifar.py", "data/test_names.py", "data/test_sources.py", "bench/test_report.py"),
    *("bench/test_results.py", "distributed/test_launching.py", "distributed/test_meeting.py"),
    *("distributed/test_mesh.py", "distributed/test_starting.py", "cli/test_completion.py", "test_terminal.py"),
    "test_writing.py",
    # the text of the checkout, what is built from it, its tools, and pages in a browser, where NumPy computes
    *("test_anchors.py", "test_architecture.py", "test_docs.py", "test_gpu_results.py", "test_gpu_run.py"),
    *("test_mutants.py", "test_packaging.py", "test_site.py", "test_tutorials.py", "test_typing.py", "playground"),
)
"""Folders and files whose subject has no backend, or says itself which: they never ask for the default."""


def is_listed(path: Path, listed: tuple[str, ...] = ONCE) -> bool:
    return path.is_relative_to(HERE) and any(path.relative_to(HERE).is_relative_to(entry) for entry in listed)


from_environment, process = choosing._from_environment, choosing._process
ASKED = (
    "A test that is marked `once` asked which backend is in force by default: it would end differently with "
    "another DUALNET_BACKEND. Put one in force (dn.use_backend), or take its file out of tests/once.py."
)
noted: list[str] = []
"""Where the running test asked. Code under test may swallow the error, but not this."""


def unasked() -> choosing.Choice:
    """Instead of what DUALNET_BACKEND says. A test that pretends to be another process may ask there."""
    if choosing._process is not process:
        return from_environment()
    frames = [frame for frame in traceback.extract_stack()[:-1] if "/shim/" not in Path(frame.filename).as_posix()]
    noted.append(f"{frames[-1].filename}, line {frames[-1].lineno}: {frames[-1].line}")
    raise AssertionError(ASKED)


def taken() -> list[str]:
    """What was noted, which is then forgotten."""
    found = noted[:]
    noted.clear()
    return found


# -- hooks of pytest, which conftest.py takes over ---------------------------------------------------------------------


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[object]:
    """A test that is marked ``once`` is held to it: its processes see no DUALNET_BACKEND, and it fails if it asks."""
    if item.get_closest_marker("once") is None:
        return (yield)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("DUALNET_BACKEND", raising=False)
        patch.setattr(choosing, "_from_environment", unasked)
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown() -> Iterator[None]:
    """Fail a test that asked, even if it passed because something caught the error."""
    try:
        yield
    finally:
        found = taken()
    if found:
        pytest.fail("\n".join([ASKED, *found]), pytrace=False)
