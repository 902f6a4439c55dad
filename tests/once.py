"""Which tests end the same whatever DUALNET_BACKEND says, so that one run of them is enough; conftest.py marks them.

Each is held to it: it fails if it asks which backend is in force by default, and its processes see no such variable.
"""

from __future__ import annotations

from pathlib import Path

from dualnet.shim import choosing

HERE = Path(__file__).parent
ONCE = (
    # kernels, which a test calls by name with arrays of their own library; and backends that it names
    *("backends/cpu", "backends/gpu", "backends/onednn", "backends/test_adapter.py", "backends/test_cupy_backend.py"),
    *("backends/test_measuring.py", "backends/test_tuned.py", "pretend"),
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


def unasked() -> choosing.Choice:
    """Instead of what DUALNET_BACKEND says. A test that pretends to be another process may ask there."""
    assert choosing._process is not process, (
        "A test that is marked `once` asked which backend is in force by default: it would end differently with "
        "another DUALNET_BACKEND. Put one in force (dn.use_backend), or take its file out of tests/once.py."
    )
    return from_environment()
