"""Finding oneDNN's library: switched off, missing, too old, the wrong one, loaded late, and in a forked child."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import dualnet as dn
from dualnet.backends.onednn import library

WORKS, WHY = library.available()
needs_library = pytest.mark.skipif(not WORKS, reason=f"oneDNN: {WHY}")
HERE = str(Path(dn.__file__).resolve().parents[1])


def run_python(script: str, expected: str, **environment: str) -> None:
    lines = [line[8:] for line in script.splitlines()]
    cleared = {k: v for k, v in os.environ.items() if not k.startswith(("DUALNET_", "GOMP_", "OMP_"))}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", "\n".join(lines)],
        env={**cleared, "PYTHONPATH": HERE, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        cwd=HERE,
    )
    assert expected in done.stdout, done.stdout + done.stderr


CORRELATE = """
        import numpy as np
        from dualnet.backends.onednn import convolution, library
        from dualnet.geometry import windows
        x, w, at = np.ones((1, 3, 3, 1), np.float32), np.ones((3, 3, 1, 2), np.float32), windows("t", (3, 3), (3, 3))
        def correlate():
            try:
                return convolution.correlate(x, w, None, at)
            except ValueError as error:
                return error
        print(library.available(), correlate(), library.describe())
        """


def test_zero_switches_it_off() -> None:
    run_python(CORRELATE, "(False, 'switched off by DUALNET_ONEDNN=0') NotImplemented", DUALNET_ONEDNN="0")


def test_a_switch_of_another_kind_is_an_error() -> None:
    run_python(CORRELATE, "DUALNET_ONEDNN must be 0 or 1, got 'off'", DUALNET_ONEDNN="off")


def test_a_wrong_path_is_an_error_that_names_it() -> None:
    run_python(CORRELATE, "DUALNET_ONEDNN_LIBRARY=/no/such.so cannot be used", DUALNET_ONEDNN_LIBRARY="/no/such.so")


def test_another_library_is_an_error_that_says_so() -> None:
    import _ctypes

    path = getattr(_ctypes, "__file__", None)
    if path is None:
        pytest.skip("no library at hand that is not oneDNN")
    run_python(CORRELATE, "it is not oneDNN: it has no dnnl_version", DUALNET_ONEDNN_LIBRARY=path)


def test_an_old_library_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Old:
        def __init__(self, major: int, runtime: int) -> None:
            found = library._Version(major, 7, 1, b"", runtime, 0)
            self.dnnl_version = lambda: library.ctypes.pointer(found)

    with pytest.raises(OSError, match=r"it is oneDNN 2\.7\.1; expected version 3"):
        library.Library._checked(_Loose(Old(2, 2)))
    with pytest.raises(OSError, match="CPU runtime is number 8"):
        library.Library._checked(_Loose(Old(3, 8)))
    assert library.Library._checked(_Loose(Old(3, 1))) == ("3.7.1", "sequential")


class _Loose:
    """A stand-in for a loaded library, whose functions take any attribute."""

    def __init__(self, inner: Any) -> None:
        class Function:
            restype: Any = None

            def __call__(self) -> Any:
                return inner.dnnl_version()

        self.dnnl_version = Function()


def test_a_missing_library_is_one_clear_line() -> None:
    script = CORRELATE.replace(
        "import numpy as np",
        "import numpy as np; import dualnet.backends.onednn.library as o; o._candidates = lambda: ['no.so']",
    )
    run_python(script, "(False, 'no library found; pip install dualnet[onednn], or set DUALNET_ONEDNN_LIBRARY")


@needs_library
def test_it_is_loaded_by_the_first_call_and_not_before() -> None:
    script = """
        import os, numpy as np, dualnet as dn
        from dualnet.backends.onednn import convolution, library
        from dualnet.geometry import windows
        before = dict(os.environ)
        assert not library._found
        x, w, at = np.ones((1, 3, 3, 1), np.float32), np.ones((3, 3, 1, 2), np.float32), windows("t", (3, 3), (3, 3))
        assert convolution.correlate(x, w, None, at) is not NotImplemented
        assert library._found and dict(os.environ) == before
        print("fine")
        """
    run_python(script, "fine")


@needs_library
def test_info_names_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DUALNET_THREADS", "2")
    lines = library.describe()
    assert lines["onednn"].startswith("3.") and library.library().path in lines["onednn"]
    assert lines["onednn threads"] == "2"


@needs_library
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_computes() -> None:
    run_python(
        """
        import os, numpy as np
        from dualnet.backends.onednn import convolution, library
        from dualnet.geometry import windows
        x, w, at = np.ones((4, 9, 9, 3), np.float32), np.ones((3, 3, 3, 8), np.float32), windows("t", (9, 9), (3, 3))
        y = convolution.correlate(x, w, None, at)
        child = os.fork()
        if child == 0:
            ok = np.array_equal(convolution.correlate(x, w, None, at), y) and library.count() == 1
            os._exit(0 if ok else 1)
        assert os.waitpid(child, 0)[1] == 0
        print("fine")
        """,
        "fine",
        DUALNET_THREADS="2",
    )
