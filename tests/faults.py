"""A backend with a fault: what comparisons are tested with. Tests import ``plant``, a fixture."""

from __future__ import annotations

from dataclasses import replace

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


def scaled(reference, *args, **options):
    return reference(*args, **options) * (1 + 1e-4)


def one_element(reference, *args, **options):
    y = reference(*args, **options)
    y[(0,) * y.ndim] = y[(0,) * y.ndim] + 1e-4
    return y


def in_float64(reference, x, *args, **options):
    return reference(x, *args, **options).astype("float64")


def not_a_number(reference, *args, **options):
    y = reference(*args, **options)
    y[(0,) * y.ndim] = float("nan")
    return y


def cut_off(reference, *args, **options):
    return reference(*args, **options)[..., :-1]


def refusing(reference, *args, **options):
    raise RuntimeError("out of resources")
