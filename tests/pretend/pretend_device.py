"""A pytest plug-in: the pretend CuPy for a whole run, so that every test with the fixture ``backend`` runs on it too.

``PYTHONPATH=tests/pretend pytest -p pretend_device -k cupy tests/ops`` runs the ordinary tests with the CUDA kernels,
on the host.
"""

from __future__ import annotations

import fake_cupy
import pytest

from dualnet.backends.gpu import installing

patch = pytest.MonkeyPatch()
patch.setattr(installing, "installed", lambda wheel: wheel == "cupy-cuda12x")
fake_cupy.install(patch, devices=1)
