"""Negative controls: each mistake is found, and a control that passes is noticed."""

from __future__ import annotations

import fake_graphs
import numpy as np
import pytest

from dualnet.parity import certify
from dualnet.parity.cases.case import OPS
from dualnet.parity.judging import controls
from dualnet.parity.judging.kernels import large_cases
from dualnet.parity.judging.ways import Way

NUMPY, STRICT = Way("numpy"), Way("strict")


@pytest.mark.parametrize("op", OPS)
def test_controls_fail_as_they_must(op):
    rows = list(controls.controls([STRICT], [op], seed=1, cases=4))
    assert rows and all(0 < row["made"] == row["found"] for row in rows), rows


def test_a_control_that_passes_makes_the_certificate_invalid(monkeypatch):
    monkeypatch.setattr(controls, "PLANTED", 0.0)
    found = certify(backends=["strict"], ops=["dense"], dtypes=["float32"], networks=[], quick=True)
    assert found.verdict == "INVALID"
    assert any("planted" in reason for reason in found.data["reasons"]["strict"])


def test_a_crash_does_not_count_as_found(monkeypatch):
    def broken(self, case):
        raise RuntimeError

    monkeypatch.setattr(controls.Planted, "compute", broken)
    (row,) = (r for r in controls.controls([NUMPY], ["relu"]) if "planted" in r["control"])
    assert row["found"] == 0 < row["made"]


def test_tf32_has_ten_bits(rng):
    x = rng.standard_normal(1000).astype("float32")
    rounded = controls.tf32(x)
    assert not np.any(rounded.view(np.uint32) & 0x1FFF)
    assert 1e-4 < np.max(np.abs(rounded - x) / np.abs(x)) <= 2**-11
    special = np.asarray([np.nan, np.inf, -np.inf, 0.0], "float32")
    assert np.array_equal(controls.tf32(special), special, equal_nan=True)


def test_tf32_that_is_switched_on_is_found(pretend, monkeypatch):
    """On products as large as in networks: on smaller ones a library may do without TF32 although it may use it."""
    for honours, found in ((True, True), (False, False)):
        monkeypatch.setattr(fake_graphs, "TF32", 77 if honours else None)
        rows = [
            r for op in controls.PRODUCTS for r in controls._switched_on(controls.SwitchedOn("cupy:0", True), op, 0)
        ]
        assert [(row["op"], row["made"], row["found"]) for row in rows] == [
            ("conv2d", 1, found),
            ("conv2d_relu", 1, found),
            ("dense", 1, found),
            ("dense_relu", 1, found),
        ]


def test_the_products_of_that_control_are_large():
    """8 images of 16 x 16 with 64 channels, and 256 x 512 x 512: every library uses TF32 for these if it may."""
    shapes = {
        op: [
            c.arrays["x"].shape for c in large_cases(op, "float32", 0) if controls._multiplications(c) >= controls.LARGE
        ]
        for op in controls.PRODUCTS
    }
    assert shapes == {
        "conv2d": [(8, 16, 16, 64)], "conv2d_relu": [(8, 16, 16, 64)], "conv_transpose2d": [], "dense": [(256, 512)],
        "dense_relu": [(256, 512)],
    }  # fmt: skip
