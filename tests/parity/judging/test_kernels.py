"""Kernels against their references, and those that were never asked."""

from __future__ import annotations

import fake_cudnn
import fake_cupy
import pytest

import dualnet as dn
from dualnet.parity.judging import kernels
from dualnet.parity.judging.ways import Way


def test_kernels_against_references():
    rows = kernels.judge_kernels(Way.parse("numpy kernels"), ["dense", "relu"])
    assert all(row["failed"] == 0 == row["different"] for row in rows)
    assert any(row["kernels"] for row in rows)


def test_a_kernel_that_serves_only_large_shapes_is_found(plant):
    def large_only(reference, x, w, b=None):
        y = reference(x, w, b)
        return y * (1 + 1e-4) if x.shape[0] * x.shape[1] > 20_000 else y

    plant(affine=large_only)
    rows = kernels.judge_kernels(Way("strict", kernels=True), ["dense"])
    assert all(row["failed"] for row in rows if row["dtype"] == "float32")


def test_kernels_that_were_never_asked_are_named():
    found = kernels.reached(["numpy"], {("affine", "kernel of numpy"): 3}, {"numpy": {"onednn": "3.2"}})
    assert found["numpy"]["served"]["affine (numpy)"] == 3
    assert "affine" not in found["numpy"]["never"] and {"correlate", "avg_pool"} <= set(found["numpy"]["never"])


def test_kernels_of_a_library_that_does_not_work_here_are_not_missed():
    """Else no certificate could pass on a machine without oneDNN, which alone has kernels for average pooling."""
    found = kernels.reached(["numpy"], {}, {"numpy": {"onednn": "no: not installed"}})
    assert "correlate" in found["numpy"]["never"]  # NumPy has kernels too
    assert not {"avg_pool", "correlate_normalise"} & set(found["numpy"]["never"])


def test_each_library_is_counted():
    """Beside a kernel of its own, cuDNN's for the same function may not have been asked."""
    with pytest.MonkeyPatch.context() as patch, fake_cupy.in_force(patch) as cupy:
        fake_cudnn.install(patch, cupy)
        for served, times in (({}, 0), ({("correlate", "kernel of cuDNN"): 2}, 2)):
            found = kernels.reached(["cupy"], {("correlate", "kernel of cupy"): 3, **served}, {"cupy": dn.info()})[
                "cupy"
            ]
            assert found["libraries"] == {"cuDNN": times, "cupy": 3} and "correlate" not in found["never"]
            assert kernels.idle(found["libraries"], dn.info()) == ([] if times else ["cuDNN"])
