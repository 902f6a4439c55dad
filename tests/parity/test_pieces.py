"""What kernels do that no op asks for: that the certificate compares it, and that a mistake in it shows."""

from __future__ import annotations

import fake_cupy
import pytest

import dualnet as dn
from dualnet.backend import get_precision, load
from dualnet.backends import cupy_backend
from dualnet.backends.gpu import maps
from dualnet.parity.cases import case as cases
from dualnet.parity.judging import controls, pieces
from dualnet.parity.judging import kernels as kernel_cases
from dualnet.parity.judging.ways import Way

IN_NETWORKS = {"affine", "follow"}  # dense layers, and batch norm's running statistics, which no op keeps


@pytest.fixture
def pretend(monkeypatch):
    """A pretend CuPy whose kernels run on the host."""
    with fake_cupy.in_force(monkeypatch) as cupy:
        yield cupy


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
    assert set(kernel_cases.LARGE) <= set(cases.OPS)


BY_OPS = set(
    "affine_relu avg_pool avg_unpool batch_normalise channel_moments channel_sum correlate correlate_filters "
    "correlate_inputs cross_entropy cross_entropy_backward drawn_above l2_pool l2_unpool masked max_pool "
    "max_pool_relu max_unpool max_unpool_relu normalise normalise_backward parameter_gradients rectify "
    "rectify_backward".split()
)


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


def test_tf32_that_is_switched_on_is_found(pretend, monkeypatch):
    """On products as networks have them, through the kernels: elsewhere TF32 may not be taken although it may be."""
    product = maps.product

    def rounding(a, b, *into, **how):
        if get_precision() == "tf32":
            a, b = (dn.asarray(controls.tf32(dn.to_numpy(v))) for v in (a, b))
        return product(a, b, *into, **how)

    for honours, found in ((True, True), (False, False)):
        monkeypatch.setattr(maps, "product", rounding if honours else product)
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
    """8 images of 16 x 16 with 64 channels, and 256 x 512 x 512: none that a library may rather compute in full."""
    shapes = {
        op: [
            c.arrays["x"].shape
            for c in kernel_cases.large_cases(op, "float32", 0)
            if controls._multiplications(c) >= controls.LARGE
        ]
        for op in controls.PRODUCTS
    }
    assert shapes == {
        "conv2d": [(8, 16, 16, 64)], "conv2d_relu": [(8, 16, 16, 64)], "conv_transpose2d": [], "dense": [(256, 512)],
        "dense_relu": [(256, 512)],
    }  # fmt: skip
