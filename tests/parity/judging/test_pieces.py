"""Kernels that no op calls by itself: the certificate compares them all, and a mistake in one shows."""

from __future__ import annotations

import pytest
from onednn_tools import needs_library

from dualnet.backends import cupy_backend, numpy_backend
from dualnet.backends.onednn import convolution
from dualnet.parity.cases.case import OPS
from dualnet.parity.judging import algorithms, kernels, pieces
from dualnet.parity.judging.ways import Way
from dualnet.shim import load

NUMPY = Way("numpy", kernels=True)
IN_NETWORKS = {"affine", "follow"}  # dense layers, and batch norm's running statistics, which no op keeps

ON_HOST_ONLY = {"correlate_normalise"}  # a GPU runs its parts

BY_OPS = set(
    "affine_relu avg_pool avg_unpool batch_normalise channel_moments channel_sum correlate correlate_filters "
    "correlate_inputs cross_entropy cross_entropy_backward drawn_above l2_pool l2_unpool masked max_pool "
    "max_pool_relu max_unpool max_unpool_relu normalise normalise_backward paint parameter_gradients rectify "
    "rectify_backward".split()
)


def test_every_piece_agrees_on_the_device(pretend):
    rows = pieces.judge_pieces(Way("cupy:0", kernels=True))
    assert {row["op"] for row in rows} == set(pieces.PIECES) - ON_HOST_ONLY <= cupy_backend.KERNELS.keys()
    for row in rows:
        assert row["failed"] == row["different"] == 0 and row["served"] == row["cases"], row
        assert row["kernels"] == [f"{row['op']} (cupy:0)"] and 0 <= row["ratio"] <= 1


def test_kernels_of_numpy_among_them_agree_too():
    rows = pieces.judge_pieces(NUMPY)
    assert {row["op"] for row in rows} == set(pieces.PIECES) & load("numpy").kernels.keys()
    assert not any(row["failed"] or row["different"] for row in rows)


def test_nothing_that_has_a_kernel_is_left_out(pretend):
    """Together with the ops, whose kernels their own cases reach: else no certificate of a GPU could ever pass."""
    assert {piece.name for piece in pieces.draw("float32")} == set(pieces.PIECES)
    reached = set(pieces.PIECES) | IN_NETWORKS | BY_OPS
    assert cupy_backend.KERNELS.keys() <= reached, "say who asks for it, or draw a piece of it"
    assert set(kernels.LARGE) <= set(OPS)


@needs_library
def test_onednns_convolution_with_batch_norm_has_a_row_of_its_own(monkeypatch):
    monkeypatch.setattr(pieces, "PIECES", ("correlate_normalise",))
    single, double = pieces.judge_pieces(NUMPY)
    assert single["kernels"] == ["correlate_normalise (oneDNN)"] and single["served"] == single["cases"] == 4
    assert double["kernels"] == [] and not single["failed"] and not double["failed"]
    assert 0.0 < single["ratio"] <= 1.0


@needs_library
@pytest.mark.parametrize("wrong", ["no branch", "no ReLU", "no bias", "another epsilon", "variance", "by 1e-4"])
def test_a_mistake_in_it_shows(monkeypatch, wrong):
    ours = convolution.correlate_normalise

    def spoiled(x, w, b, at, groups, norm, epsilon, relu, other):
        if wrong == "variance":
            norm = norm[0], norm[1] * (1 + 2e-4), *norm[2:]
        found = ours(
            x, w, None if wrong == "no bias" else b, at, groups, norm,
            3 * epsilon if wrong == "another epsilon" else epsilon,
            relu and wrong != "no ReLU", None if wrong == "no branch" else other,
        )  # fmt: skip
        return found * found.dtype.type(1 + 1e-4) if wrong == "by 1e-4" and found is not NotImplemented else found

    spoiled.algorithm = "oneDNN"
    monkeypatch.setitem(load("numpy").kernels, "correlate_normalise", (spoiled,))
    monkeypatch.setattr(pieces, "PIECES", ("correlate_normalise",))
    single, double = pieces.judge_pieces(NUMPY)
    assert single["failed"] and not double["failed"], single


@needs_library
def test_every_kernel_on_the_host_has_a_row(monkeypatch):
    """Of each function and each algorithm that numpy_backend.py registers. (An op's row names all that served it.)"""
    ops = ("dense_relu", "max_pool2d", "avg_pool2d", "batch_norm_relu", "relu", "dropout", "softmax_cross_entropy")
    monkeypatch.setattr(kernels, "LARGE", {op: kernels.LARGE[op][:1] for op in ops})
    judged = kernels.judge_kernels(NUMPY, ops), pieces.judge_pieces(NUMPY), algorithms.judge_algorithms(NUMPY)
    rows = {title for several in judged for row in several for title in row["kernels"]}
    registered = {f"{name} ({k.algorithm})" for name, several in numpy_backend.KERNELS.items() for k in several}
    assert registered - rows == set(), "draw a piece of it, or an op that asks for it"


@pytest.mark.parametrize("name", sorted(set(pieces.PIECES) - ON_HOST_ONLY))
def test_a_mistake_in_a_kernel_shows(pretend, monkeypatch, name):
    kernel = load("cupy").kernels[name]
    asked = kernel if callable(kernel) else kernel[-1]  # ours, behind what a library has

    def spoiled(value):
        if isinstance(value, dict):
            return {key: spoiled(inner) for key, inner in value.items()}
        if isinstance(value, (list, tuple)):
            return type(value)(map(spoiled, value))
        if value.dtype.kind == "f":
            return value * (1 + (1e-4 if value.itemsize > 2 else 1e-2))
        return ~value if value.dtype.kind == "b" else value + 1

    monkeypatch.setitem(load("cupy").kernels, name, lambda *a: spoiled(asked(*a)))
    monkeypatch.setattr(pieces, "PIECES", (name,))
    rows = pieces.judge_pieces(Way("cupy:0", kernels=True))
    assert all(row["failed"] for row in rows), rows
