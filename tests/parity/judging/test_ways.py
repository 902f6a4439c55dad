"""The ways to compute a case: layouts of memory, and kernels switched off."""

from __future__ import annotations

import numpy as np
import pytest

import dualnet as dn
from dualnet.parity.cases.case import LAYOUTS
from dualnet.parity.judging.ways import kernels_on, placed


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_hold_the_same_numbers(backend, layout, rng):
    for shape in [(2, 3, 4), (5,), (0, 2), ()]:
        a = rng.standard_normal(shape)
        array = placed(a, layout)
        assert np.array_equal(dn.to_numpy(array), a)
    if backend == "numpy" and layout != "together":
        assert not placed(rng.standard_normal((3, 4, 5)), layout).flags.c_contiguous


def test_kernels_can_be_switched_off_for_a_while(monkeypatch):
    monkeypatch.setenv("DUALNET_KERNELS", "auto")
    with kernels_on(False):
        assert not dn.backend.kernels_allowed()
    assert dn.backend.kernels_allowed()
