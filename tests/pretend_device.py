"""A pytest plug-in: the pretend CuPy for a whole run, so that any test with the fixture ``backend`` runs on it too.

``pytest -p pretend_device -k cupy tests/test_pooling.py`` runs the CUDA kernels, on the host, in the ordinary tests.
"""

from __future__ import annotations

import fake_cupy
import pytest

from dualnet.backends import cupy_backend

patch = pytest.MonkeyPatch()
patch.setattr(cupy_backend, "_installed", lambda wheel: wheel == "cupy-cuda12x")
fake_cupy.install(patch, devices=1)
