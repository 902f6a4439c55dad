"""A backend with faulty kernels, and a pretend GPU."""

from __future__ import annotations

from dataclasses import replace

import fake_cupy
import pytest

import dualnet as dn
from dualnet.backends import strict_backend
from dualnet.shim import loading


@pytest.fixture
def plant(monkeypatch):
    """``plant(kernel=function)`` gives the strict backend kernels; they get the reference as their first argument."""

    def with_kernels(**faults):
        def kernel(name, fault):
            def stand_in(*args, **options):
                return fault(dn.backend.references[name].reference, *args, **options)

            return stand_in

        faulty = replace(loading.load("strict"), kernels={name: kernel(name, fault) for name, fault in faults.items()})
        monkeypatch.setitem(loading._loaded, "strict", faulty)
        monkeypatch.setitem(loading._by_type, strict_backend.StrictArray, faulty)
        return faulty

    return with_kernels


@pytest.fixture
def pretend(monkeypatch):
    """A pretend CuPy whose kernels run on the host."""
    with fake_cupy.in_force(monkeypatch) as cupy:
        yield cupy
