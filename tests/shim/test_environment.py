"""Processes as a whole: what the import does, and what DUALNET_BACKEND chooses; each test starts new ones."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import dualnet as dn

PACKAGES = Path(dn.__file__).resolve().parents[1]  # of the dualnet under test, installed or not
ASK = """
import sys
import dualnet as dn
import time
start = time.thread_time()
try:
    print(dn.get_backend())
except Exception as error:
    print(f"{type(error).__name__}: {error}")
assert time.thread_time() - start < 1
"""
NO_DEVICE = """
__version__ = "14.0.0"
class cuda:
    class runtime:
        def getDeviceCount():
            raise RuntimeError("cudaErrorInsufficientDriver: CUDA driver version is insufficient")
        def driverGetVersion():
            return 0
"""
HIDE = "import sys; sys.modules['cupy'] = None\n"


def run(tmp_path, code, **variables):
    """A Python process that sees dualnet, these variables, and an empty folder."""
    here = tmp_path / "here"
    here.mkdir()
    (tmp_path / "path" / "cupy").mkdir(parents=True)
    (tmp_path / "path" / "cupy" / "__init__.py").write_text(NO_DEVICE)
    environment = {
        "PYTHONPATH": os.pathsep.join([str(tmp_path / "path"), str(PACKAGES)]),
        "HOME": str(here),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    done = subprocess.run(
        [sys.executable, "-W", "always", "-c", textwrap.dedent(code)],
        env={**environment, "OMP_NUM_THREADS": "1", **variables},
        cwd=here,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert list(here.iterdir()) == []
    return done


@pytest.mark.parametrize(
    "variables, prelude, expected",
    [
        ({}, "", "numpy"),
        ({"DUALNET_BACKEND": ""}, "", "numpy"),
        ({"DUALNET_BACKEND": "numpy"}, "", "numpy"),
        ({"DUALNET_BACKEND": "Strict"}, "", "strict"),
        ({"DUALNET_BACKEND": "auto"}, "", "numpy"),
        ({"DUALNET_BACKEND": "auto"}, HIDE, "numpy"),
        (
            {"DUALNET_BACKEND": "jax"},
            "",
            "ValueError: DUALNET_BACKEND=jax: unknown backend 'jax'; the backends are",
        ),
        (
            {"DUALNET_BACKEND": "cupy:1.5"},
            "",
            "ValueError: DUALNET_BACKEND=cupy:1.5: backend 'cupy:1.5': expected a device number",
        ),
        (
            {"DUALNET_BACKEND": "cupy"},
            "",
            "BackendUnavailable: DUALNET_BACKEND=cupy: cupy: there is no NVIDIA driver here. "
            "CuPy is installed, but needs an NVIDIA GPU with its driver",
        ),
        (
            {"DUALNET_BACKEND": "CUPY:1"},
            HIDE,
            "BackendUnavailable: DUALNET_BACKEND=cupy:1: cupy: CuPy is not installed. "
            'Install it with: pip install "dualnet[cuda',
        ),
    ],
)
def test_the_variable_in_a_process_of_its_own(tmp_path, variables, prelude, expected):
    done = run(tmp_path, prelude + ASK, **variables)
    assert done.stdout.startswith(expected)
    assert len(done.stdout.splitlines()) == 1
    assert done.stderr == ""


def test_a_late_change_in_a_process_of_its_own(tmp_path):
    late = 'import os; dn.asarray([1.0]); os.environ["DUALNET_BACKEND"] = "strict"'
    done = run(tmp_path, f"import dualnet as dn\n{late}\nprint(dn.get_backend(), dn.get_backend(), dn.get_backend())")
    assert done.stdout == "numpy numpy numpy\n"
    assert done.stderr.count("Warning") == 1
    assert "DUALNET_BACKEND became 'strict' after 'numpy' was already in use" in done.stderr


LATE = """
dualnet.backends. dualnet.bench dualnet.bridges dualnet.check dualnet.cli dualnet.data dualnet.distributed dualnet.files
dualnet.models dualnet.parity. dualnet.seeing.explain. dualnet.seeing.graph dualnet.seeing.plan dualnet.seeing.summary
dualnet.seeing.tracing dualnet.seeing.viz. dualnet.terminal dualnet.training.callbacks. dualnet.training.loop
dualnet.writing dualnet.zoo
""".split()
"""What ``import dualnet`` leaves to whoever uses it first; a dot at the end: what lies inside."""
HEAVY = """
argparse bz2 concurrent.futures csv cupy gzip hmac html http importlib.metadata json logging lzma matplotlib
multiprocessing numpy.random numpy.testing pathlib pickle random safetensors secrets shutil socket ssl subprocess
tarfile tempfile tqdm unittest urllib zipfile
""".split()
"""Modules of Python and others that take milliseconds, or are optional."""


def test_import_is_silent_and_brings_nothing_heavy(tmp_path):
    """Python starts with some of them, and NumPy brings others: those are no fault of ours."""
    code = """
    import sys
    import numpy
    before = set(sys.modules)
    import dualnet
    print(*sorted(set(sys.modules) - before))
    """
    done = run(tmp_path, code, DUALNET_BACKEND="cupy")
    brought = done.stdout.split()
    assert done.stderr == "" and "dualnet.layers.convolution" in brought
    assert [name for name in brought if name in HEAVY or name.startswith(tuple(LATE))] == []


def test_dotted_imports(tmp_path):
    """Whatever folder a module lies in; and dn.explain and dn.parity stay functions beside the modules."""
    code = """
    import dualnet.explain, dualnet.parity
    import dualnet as dn
    from dualnet.explain import explain
    from dualnet.parity import certify, parity
    assert dn.explain is explain and dn.parity is parity and callable(certify)

    import dualnet.bench, dualnet.check, dualnet.data, dualnet.losses, dualnet.ops, dualnet.schedules
    import dualnet.viz, dualnet.zoo
    from dualnet.losses import huber
    from dualnet.schedules import Cosine
    from dualnet.viz import filters, saliency
    from dualnet.zoo import exercises
    assert (huber, Cosine, filters) == (dn.losses.huber, dn.schedules.Cosine, dn.viz.filters)
    assert dn.explain is explain and dn.parity is parity and dn.ops.losses is dn.losses is dualnet.losses
    assert set(dn.viz.__all__) <= set(dir(dn.viz)) and not hasattr(dn.viz, "flowers")
    """
    assert run(tmp_path, code).stderr == ""


def test_import_takes_70_ms_over_numpy(tmp_path):
    code = """
    import numpy, time
    start = time.thread_time()  # of this thread alone: another process on the machine does not count
    import dualnet
    print(time.thread_time() - start)
    """
    (tmp_path / "cache").mkdir()
    cached = {"PYTHONPYCACHEPREFIX": str(tmp_path / "cache"), "PYTHONDONTWRITEBYTECODE": ""}
    seconds = []
    for i in range(4):  # the first one compiles
        folder = tmp_path / str(i)
        folder.mkdir()
        seconds.append(float(run(folder, code, **cached).stdout))
    assert min(seconds) < 0.07
