"""A bridge whose library is missing says what to install, and ``import dualnet`` needs none of them."""

from __future__ import annotations

import subprocess
import sys

import pytest

import dualnet as dn


def test_the_import_of_dualnet_imports_no_other_library():
    libraries = {"h5py", "keras", "onnx", "onnxruntime", "pooch", "sklearn", "tensorboardX", "torch"}
    ask = f"import dualnet, sys; print(sorted({libraries} & set(sys.modules)), 'sklearn' in dualnet.__all__)"
    told = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, encoding="utf-8", check=True)
    assert told.stdout.strip() == "[] False"  # in __all__ it would hide the library's own name from a star import


def test_without_scikit_learn_the_error_says_what_to_install(monkeypatch):
    monkeypatch.delitem(sys.modules, "dualnet.bridges.sklearn", raising=False)
    for module in {"sklearn", *(name for name in sys.modules if name.startswith("sklearn."))}:
        monkeypatch.setitem(sys.modules, module, None)  # import finds nothing
    with pytest.raises(ImportError, match=r'needs scikit-learn, 1\.6 or later: pip install "dualnet\[sklearn\]"'):
        _ = dn.sklearn


def test_without_h5py_the_error_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "h5py", None)
    (tmp_path / "model.keras").write_bytes(b"PK")
    with pytest.raises(ImportError, match=r'needs h5py: pip install "dualnet\[keras\]"'):
        dn.load_weights(dn.Dense(2).init((3,)), tmp_path / "model.keras")
