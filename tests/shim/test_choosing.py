"""Which backend new arrays are created on."""

from __future__ import annotations

import contextvars
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pristine
import pytest

import dualnet as dn
from dualnet import shim
from dualnet.shim import choosing

pytestmark = pytest.mark.usefixtures("fresh")
BACKENDS = "numpy, cupy, strict, torch, array_api_strict, cupy:N, torch:DEVICE, auto"


def test_the_first_that_speaks_decides(monkeypatch):
    assert dn.get_backend() == "numpy"
    monkeypatch.setattr(choosing, "_process", choosing._Process())
    monkeypatch.setenv("DUALNET_BACKEND", "strict")
    assert dn.get_backend() == "strict"
    dn.set_backend("numpy")
    assert dn.get_backend() == "numpy"
    with dn.use_backend("strict") as name:
        assert name == dn.get_backend() == "strict"
        with dn.use_backend("numpy"):
            assert dn.get_backend() == "numpy"
            assert shim.backend_of(dn.asarray([1.0], backend="strict")).name == "strict"
        assert dn.get_backend() == "strict"
    assert dn.get_backend() == "numpy"


@pytest.mark.parametrize(
    "text, name", [("STRICT", "strict"), (" Numpy ", "numpy"), ("numpy:0", "numpy"), ("", "numpy")]
)
def test_case_and_blanks_do_not_matter_and_empty_is_unset(monkeypatch, text, name):
    monkeypatch.setenv("DUALNET_BACKEND", text)
    assert dn.get_backend() == name
    if text:
        dn.set_backend(text)
        assert dn.get_backend() == name


def test_the_variable_is_read_on_first_use(monkeypatch):
    monkeypatch.setenv("DUALNET_BACKEND", "strict")  # after the import, before anything was asked
    assert shim.backend_of(dn.asarray([1.0])).name == "strict"


def test_a_late_change_of_the_variable_is_hinted_at_once(monkeypatch):
    assert dn.get_backend() == "numpy"
    monkeypatch.setenv("DUALNET_BACKEND", "Strict")
    with pytest.warns(
        UserWarning, match=r"became 'strict' after 'numpy' was .* call dn.set_backend\('strict'\)"
    ) as seen:
        assert dn.get_backend() == "numpy"
    assert seen[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert dn.get_backend() == "numpy"  # said once
        monkeypatch.setenv("DUALNET_BACKEND", "NUMPY")  # what is in use anyway
        assert dn.get_backend() == "numpy"
        dn.set_backend("strict")
        monkeypatch.setenv("DUALNET_BACKEND", "auto")  # the call speaks louder than the variable
        assert dn.get_backend() == "strict"


CHOOSE = [
    lambda name: dn.set_backend(name),
    lambda name: dn.use_backend(name).__enter__(),
    lambda name: dn.asarray([1.0], backend=name),
]


@pytest.mark.parametrize("choose", CHOOSE, ids=["set_backend", "use_backend", "asarray"])
def test_a_name_that_is_none(choose):
    with pytest.raises(ValueError, match=f"unknown backend 'nunpy'; the backends are: {BACKENDS}"):
        choose("nunpy")
    with pytest.raises(ValueError, match="unknown backend ''"):
        choose("")
    with pytest.raises(ValueError, match="'cupy:x': expected a device number after the colon, as in 'cupy:1'"):
        choose("cupy:x")
    with pytest.raises(ValueError, match="after the colon"):
        choose("numpy:")
    with pytest.raises(dn.BackendUnavailable, match="numpy:3: NumPy has no devices; use 'numpy'"):
        choose("numpy:3")
    with pytest.raises(dn.BackendUnavailable, match="strict:1: there is one pretend device"):
        choose("strict:1")
    with pytest.raises(TypeError, match="a backend's name must be a string such as 'numpy', got ndarray"):
        choose(np.ones(1))
    assert dn.get_backend() == "numpy"


def test_a_misspelt_variable_is_never_a_fallback(monkeypatch):
    monkeypatch.setenv("DUALNET_BACKEND", "cuppy")
    for _ in range(2):  # the failure is not remembered as a choice
        with pytest.raises(ValueError, match=f"DUALNET_BACKEND=cuppy: unknown backend 'cuppy'; .*: {BACKENDS}"):
            dn.asarray([1.0])
    monkeypatch.setenv("DUALNET_BACKEND", "strict")
    assert dn.get_backend() == "strict"


def test_only_auto_falls_back_and_info_says_why(monkeypatch):
    pristine.without_cupy(monkeypatch)
    with pytest.raises(dn.BackendUnavailable, match=r'cupy: CuPy is not installed.*pip install "dualnet\[cuda'):
        dn.set_backend("cupy")
    monkeypatch.setenv("DUALNET_BACKEND", "cupy:0")
    with pytest.raises(dn.BackendUnavailable, match="DUALNET_BACKEND=cupy:0: cupy: CuPy is not installed"):
        dn.get_backend()
    monkeypatch.setenv("DUALNET_BACKEND", "auto")
    assert dn.get_backend() == "numpy"
    assert dn.info()["chosen by"].startswith("DUALNET_BACKEND=auto (auto fell back: cupy: CuPy is not installed")
    assert dn.info()["backends"]["cupy"].startswith("CuPy is not installed")
    dn.set_backend("numpy")
    assert dn.info()["chosen by"] == "set_backend"


def test_set_backend_reaches_every_thread_and_use_backend_none_but_its_own():
    with ThreadPoolExecutor(1) as pool:
        dn.set_backend("strict")
        assert pool.submit(dn.get_backend).result() == "strict"
        with dn.use_backend("numpy"):
            assert dn.get_backend() == "numpy"
            assert pool.submit(dn.get_backend).result() == "strict"
            assert contextvars.copy_context().run(dn.get_backend) == "numpy"


def test_use_backend_ends_with_its_block_also_after_an_error():
    with pytest.raises(KeyError), dn.use_backend("strict"):
        raise KeyError
    assert dn.get_backend() == "numpy"
