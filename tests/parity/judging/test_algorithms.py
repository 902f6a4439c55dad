"""Every algorithm of a convolution alone: all have a row, and a mistake in one of them shows."""

from __future__ import annotations

import numpy as np
import pytest
from onednn_tools import needs_library

from dualnet.backends import numpy_backend
from dualnet.backends.cpu import blas
from dualnet.parity.judging import algorithms
from dualnet.parity.judging.ways import Way
from dualnet.shim import load

NUMPY = Way("numpy", kernels=True)
needs_blas = pytest.mark.skipif(blas.library() is None, reason="NumPy's BLAS is not known, and some kernels call it")


def registered():
    """What numpy_backend.py registers for the functions that are judged here, as the certificate prints it."""
    return {f"{name} ({k.algorithm})" for name in algorithms.FUNCTIONS for k in numpy_backend.KERNELS[name]}


@pytest.fixture(scope="module")
def rows():
    return algorithms.judge_algorithms(NUMPY)


@needs_blas
@needs_library
def test_every_algorithm_has_a_row_of_its_own(rows):
    assert {title for row in rows for title in row["kernels"]} == registered()
    assert all(len(row["kernels"]) == 1 for row in rows)
    in_both = {row["kernels"][0] for row in rows if row["dtype"] == "float64"}
    assert in_both == {title for title in registered() if "oneDNN" not in title}  # which has no float64


def test_they_all_agree(rows):
    assert rows and not any(row["failed"] or row["different"] for row in rows)
    assert all(0 <= row["ratio"] <= 1 and row["what"] == "numpy kernels" for row in rows)


def test_the_kernels_are_asked_as_before_afterwards(rows):
    kernels = load("numpy").kernels
    assert all(kernels[name] is numpy_backend.KERNELS[name] for name in algorithms.FUNCTIONS)


def test_a_backend_on_a_device_or_without_kernels_has_no_rows(pretend):
    assert algorithms.judge_algorithms(Way("cupy:0", kernels=True)) == []  # DUALNET_CUDNN says who is asked
    assert algorithms.judge_algorithms(Way("strict")) == []


@pytest.mark.parametrize("how", ["scaled", "one element"])
@pytest.mark.parametrize("name", algorithms.FUNCTIONS)
def test_a_mistake_in_one_algorithm_shows_in_its_row_alone(monkeypatch, name, how):
    before = load("numpy").kernels[name]
    right = before[-1]

    def spoiled(*given):
        found = right(*given)
        several = found if isinstance(found, tuple) else (found,)
        if found is NotImplemented:
            return found
        wrong = [a * np.asarray(1 + 1e-4, a.dtype) for a in several]
        if how == "one element":
            wrong = [a.copy() for a in several]
            wrong[0].flat[0] += np.abs(wrong[0]).max() * 1e-2
        return tuple(wrong) if isinstance(found, tuple) else wrong[0]

    spoiled.algorithm = right.algorithm
    monkeypatch.setitem(load("numpy").kernels, name, (*before[:-1], spoiled))
    monkeypatch.setattr(algorithms, "FUNCTIONS", (name,))
    failed = {(row["kernels"][0], row["dtype"]) for row in algorithms.judge_algorithms(NUMPY) if row["failed"]}
    assert failed == {(f"{name} ({right.algorithm})", dtype) for dtype in ("float32", "float64")}
