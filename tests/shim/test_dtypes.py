"""The number types by name: bfloat16 is one of them, and a type of any byte order becomes a native one."""

from __future__ import annotations

import importlib
import sys
from importlib.util import find_spec

import numpy as np
import pytest

from dualnet.shim.dtypes import FLOATING, HALVES, dtype_of, finfo, is_floating, is_half, is_real, master_dtype

KINDS = [  # name, is_half, is_floating, is_real
    ("float16", True, True, True),
    ("bfloat16", True, True, True),
    ("float32", False, True, True),
    ("float64", False, True, True),
    ("longdouble", False, True, True),
    ("int16", False, False, True),
    ("uint8", False, False, True),
    ("bool", False, False, True),
    ("complex64", False, False, False),
    ("object", False, False, False),
    ("V2", False, False, False),  # as wide as bfloat16, and of its kind
    ("datetime64[s]", False, False, False),
]


@pytest.mark.parametrize("name, half, floating, real", KINDS, ids=[kind[0] for kind in KINDS])
def test_kinds(name, half, floating, real):
    if name == "bfloat16":
        pytest.importorskip("ml_dtypes")
    dtype = dtype_of(name)
    assert (is_half(dtype), is_floating(dtype), is_real(dtype)) == (half, floating, real)
    assert (dtype.name in FLOATING and dtype.itemsize == 2) == half == (dtype.name in HALVES)
    assert master_dtype(dtype) == (np.dtype("float32") if half else dtype)


def test_a_dtype_is_native():
    for given in (">f4", "<f4", np.dtype(">f4"), np.float32, "float32"):
        assert dtype_of(given) == np.dtype("float32") and dtype_of(given).isnative
    assert is_floating(np.dtype(">f2")) and is_half(np.dtype(">f2"))


def test_a_dtype_of_another_library_is_known_by_its_name():
    class dtype:  # torch.float32 prints so
        def __str__(self):
            return "torch.float32"

    assert dtype_of(dtype()) == np.dtype("float32")
    with pytest.raises(TypeError, match="is unknown"):
        dtype_of("torch.float32")  # a name of NumPy's is asked for
    for library in ("torch", "array_api_strict"):
        if find_spec(library):
            other = importlib.import_module(library)
            assert dtype_of(other.float64) == np.float64 and dtype_of(other.uint8) == np.uint8


def test_unknown_names():
    with pytest.raises(TypeError, match=r"dtype 'flaot32' is unknown; expected float16, bfloat16, float32, float64"):
        dtype_of("flaot32")


def test_bfloat16_comes_from_a_package(monkeypatch):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    assert dtype_of("bfloat16") == dtype_of(ml_dtypes.bfloat16) == ml_dtypes.bfloat16
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    with pytest.raises(ImportError, match=r'bfloat16 needs the package ml_dtypes: pip install "dualnet\[bfloat16\]"'):
        dtype_of("bfloat16")


@pytest.mark.parametrize("name, digits", [("float16", 11), ("bfloat16", 8), ("float32", 24), ("float64", 53)])
def test_finfo_counts_binary_digits(name, digits):
    if name == "bfloat16":
        pytest.importorskip("ml_dtypes")
    assert float(finfo(name).eps) == 2.0 ** (1 - digits)
