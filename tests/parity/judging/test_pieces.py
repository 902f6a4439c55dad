"""Kernels that no op calls by itself: the certificate compares them all, and a mistake in one shows."""

from __future__ import annotations

import pytest

from dualnet.backends import cupy_backend
from dualnet.parity.cases.case import OPS
from dualnet.parity.judging import kernels, pieces
from dualnet.parity.judging.ways import Way
from dualnet.shim import load

IN_NETWORKS = {"affine", "follow"}  # dense layers, and batch norm's running statistics, which no op keeps


BY_OPS = set(
    "affine_relu avg_pool avg_unpool batch_normalise channel_moments channel_sum correlate correlate_filters "
    "correlate_inputs cross_entropy cross_entropy_backward drawn_above l2_pool l2_unpool masked max_pool "
    "max_pool_relu max_unpool max_unpool_relu normalise normalise_backward paint parameter_gradients rectify "
    "rectify_backward".split()
)


def test_every_piece_agrees_on_the_device(pretend):
    rows = pieces.judge_pieces(Way("cupy:0", kernels=True))
    assert {row["op"] for row in rows} == set(pieces.PIECES) & cupy_backend.KERNELS.keys() == set(pieces.PIECES)
    for row in rows:
        assert row["failed"] == row["different"] == 0 and row["served"] == row["cases"], row
        assert row["kernels"] == [f"{row['op']} (cupy:0)"] and 0 <= row["ratio"] <= 1


def test_kernels_of_numpy_among_them_agree_too():
    rows = pieces.judge_pieces(Way("numpy", kernels=True))
    assert {row["op"] for row in rows} == set(pieces.PIECES) & load("numpy").kernels.keys()
    assert not any(row["failed"] or row["different"] for row in rows)


def test_nothing_that_has_a_kernel_is_left_out(pretend):
    """Together with the ops, whose kernels their own cases reach: else no certificate of a GPU could ever pass."""
    assert {piece.name for piece in pieces.draw("float32")} == set(pieces.PIECES)
    reached = set(pieces.PIECES) | IN_NETWORKS | BY_OPS
    assert cupy_backend.KERNELS.keys() <= reached, "say who asks for it, or draw a piece of it"
    assert set(kernels.LARGE) <= set(OPS)


@pytest.mark.parametrize("name", pieces.PIECES)
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
