"""The array API standard to the letter: every op runs on it, with NumPy's bits; if it is missing, the error says how to
install it."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import numpy as np
import pytest
from bars import bars, small
from ops.registry import ENTRIES, cases_of, run

import dualnet as dn
from dualnet.backends import array_api_strict_backend
from dualnet.shim import loading


@pytest.fixture
def strict():
    return pytest.importorskip("array_api_strict")


def test_without_the_library(monkeypatch):
    monkeypatch.setitem(sys.modules, "array_api_strict", None)
    with pytest.raises(dn.BackendUnavailable, match=r'Install it with: pip install "dualnet\[array-api\]"'):
        array_api_strict_backend.load()
    monkeypatch.setitem(sys.modules, "array_api_strict", SimpleNamespace(__version__="1.1.1"))
    with pytest.raises(dn.BackendUnavailable, match="version 1.1.1 is installed; expected 2.3 or newer"):
        array_api_strict_backend.load()
    with pytest.raises(dn.BackendUnavailable, match="array_api_strict:3: there is one device"):
        array_api_strict_backend.load(3)


def test_it_is_listed(strict):
    assert "array_api_strict" in dn.available_backends() and dn.info()["backends"]["array_api_strict"] == "available"
    with dn.use_backend("array_api_strict"):
        assert dn.info()["library"] == f"array-api-strict {strict.__version__}"
        assert isinstance(dn.asarray([1.0]).held, type(strict.zeros(1)))
    assert loading.resolve("auto")[0].name in ("numpy", "cupy:0")  # never chosen unasked


@pytest.mark.parametrize("name", ENTRIES)
def test_every_op_computes_the_bits_of_numpy(strict, name, monkeypatch):
    """NumPy lies underneath, and the formulas are the same. (A device takes the second way of a sum that overflows.)"""
    monkeypatch.setenv("DUALNET_KERNELS", "reference")
    for case in cases_of(name, "float32", 3):
        found = {}
        for place in ("numpy", "array_api_strict"):
            with dn.use_backend(place):
                given = {key: None if a is None else dn.asarray(a.copy()) for key, a in case.arrays.items()}
                results = run(case, given)
            found[place] = {key: None if a is None else dn.to_numpy(a) for key, a in results.items()}
        for key, wanted in found["numpy"].items():
            made = found["array_api_strict"][key]
            assert wanted is made is None or np.array_equal(made, wanted, equal_nan=True), f"{case}: {key}"


def test_fit_computes_the_bits_of_numpy(strict, monkeypatch):
    monkeypatch.setenv("DUALNET_KERNELS", "reference")
    x, t = bars()
    ends = []
    for place in ("numpy", "array_api_strict"):
        with dn.use_backend(place):
            net = small()
            net.fit(x, t, epochs=2, batch_size=32, optimizer=dn.Adam(), verbose=0)
            ends.append({name: dn.to_numpy(p.value) for name, p in net.parameters().items()})
    for name, wanted in ends[0].items():
        assert np.array_equal(ends[1][name], wanted), name


def test_16_bits_are_refused_by_name(strict):
    with pytest.raises(TypeError, match="array_api_strict has no float16; it has bool, int8, .*float32, float64"):
        dn.asarray([1.0], "float16", backend="array_api_strict")


def test_its_own_arrays_are_read(strict):
    given = strict.asarray(np.arange(6.0).reshape(2, 3))
    with dn.use_backend("array_api_strict"):
        assert dn.to_numpy(dn.asarray(given)).tolist() == [[0, 1, 2], [3, 4, 5]]
        assert dn.asarray([1.0], strict.float64).dtype == np.float64
