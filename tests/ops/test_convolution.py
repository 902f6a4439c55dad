"""Convolution and its transpose: loops, dot products, both backends, spellings, errors."""

from __future__ import annotations

import numpy as np
import pytest
import reference
from oracles import error, hidden, on_device, prove, tau

import dualnet as dn
from dualnet import geometry
from dualnet.ops import convolution

CASES = [  # size, window, C, D, options: each names what it is there for
    ((5, 7), (3, 2), 3, 4, {}),
    ((6, 7), (3, 3), 2, 3, {"stride": (2, 3), "padding": ((1, 1), (2, 0))}),  # (H + 2p - k) mod s != 0
    ((9, 8), (2, 3), 2, 3, {"stride": (2, 1), "padding": ((1, 0), (1, 1)), "dilation": (3, 2)}),
    ((6, 5), (3, 3), 4, 6, {"groups": 2, "padding": 1}),
    ((5, 5), (3, 2), 3, 6, {"groups": 3, "padding": "full", "mode": "convolution"}),  # depthwise, two filters each
    ((7, 6), (4, 2), 2, 3, {"padding": "same", "stride": 2}),  # the odd row at the end
    ((7, 6), (3, 3), 1, 2, {"padding": "valid", "mode": "convolution"}),  # E5, the grey-scale case
    ((3, 3), (1, 1), 5, 2, {"stride": 3}),  # columns and rows that no window reads
    ((1, 1), (1, 1), 1, 1, {}),
    ((2, 3), (3, 3), 2, 2, {"padding": 3, "stride": 2}),  # windows that lie in the padding alone
]


def arrays(rng, size, window, C, D, groups=1, transposed=False):
    w = rng.standard_normal((*window, C // groups, D))
    return rng.standard_normal((2, *size, D if transposed else C)), w, rng.standard_normal(C if transposed else D)


@pytest.mark.parametrize("size, window, C, D, options", CASES)
def test_conv2d(backend, rng, size, window, C, D, options):
    x, w, b = arrays(rng, size, window, C, D, options.get("groups", 1))
    K = max(w[..., 0].size, 2 * size[0] * size[1])
    prove("conv2d", [x, w, b], options, K=K, linear=[0, 1, 2])
    prove("conv2d", [x, w, None], options, K=K, linear=[0])


def drawn(rng):
    groups = int(rng.choice([1, 1, 2, 3]))
    window, stride, dilation = (tuple(int(v) for v in rng.integers(1, top, 2)) for top in (5, 4, 4))
    extent = [r * (k - 1) + 1 for k, r in zip(window, dilation)]
    pads = rng.integers(0, 4, (2, 2))
    size = tuple(int(rng.integers(max(1, e - int(p.sum())), e + 6)) for e, p in zip(extent, pads))
    options = {"stride": stride, "dilation": dilation, "groups": groups}
    options["padding"] = tuple(tuple(int(v) for v in side) for side in pads)
    return size, window, groups * int(rng.integers(1, 3)), groups * int(rng.integers(1, 4)), options


@pytest.mark.parametrize("case", range(25))
def test_conv2d_drawn(backend, rng, case):
    size, window, C, D, options = drawn(rng)
    options["mode"] = str(rng.choice(["correlation", "convolution"]))
    x, w, b = arrays(rng, size, window, C, D, options["groups"])
    prove(
        "conv2d",
        [x, w, b],
        options,
        K=max(w[..., 0].size, 2 * size[0] * size[1], D * window[0] * window[1]),
        linear=[0, 1],
    )


GRID = [
    (k, s, p, r, g, n)
    for k in range(1, 5)
    for s in range(1, 4)
    for p in range(4)
    for r in range(1, 4)
    for g in (1, 2, 4)
    for n in range(1, 8)
    if n + 2 * p >= r * (k - 1) + 1
]


def grid_case(rng, k, s, p, r, g, n):
    """One cell of the exhaustive grid, rectangular: the width takes the neighbouring values."""
    k2, s2, m = min(4, k + 1), max(1, s - 1), n + 2
    pads = ((p, max(0, p - 1)), (p, p))
    if n + sum(pads[0]) < r * (k - 1) + 1 or m + 2 * p < r * (k2 - 1) + 1:
        return
    options = {"stride": (s, s2), "padding": pads, "dilation": r, "groups": g}
    x, w = rng.standard_normal((1, n, m, 4)), rng.standard_normal((k, k2, 4 // g, 4))
    y, pullback = dn.ops.conv2d(*on_device([x, w]), **options)
    expected = reference.conv2d(x, w, None, **options)
    assert error(dn.to_numpy(y), expected) <= tau("float64", w[..., 0].size)
    dy = rng.standard_normal(expected.shape)
    dx, dw, _ = pullback(dn.asarray(dy))
    want_dx, want_dw, _ = reference.conv2d_backward(dy, x, w, None, **options)
    assert error(dn.to_numpy(dx), want_dx) <= tau("float64", 64)
    assert error(dn.to_numpy(dw), want_dw) <= tau("float64", dy[..., 0].size)


def test_conv2d_grid_sample(backend, rng):
    for i in rng.choice(len(GRID), 40, replace=False):
        grid_case(rng, *GRID[i])


@pytest.mark.slow
@pytest.mark.parametrize("k", range(1, 5))
def test_conv2d_grid(rng, k):
    for cell in GRID:
        if cell[0] == k:
            grid_case(rng, *cell)


TRANSPOSED = [
    ((3, 4), (3, 2), 3, 4, {}),
    ((3, 4), (3, 3), 2, 3, {"stride": (2, 3), "padding": ((1, 1), (0, 2)), "output_padding": (1, 2)}),
    ((4, 3), (2, 3), 2, 3, {"stride": (3, 1), "dilation": (2, 2)}),
    ((3, 3), (4, 4), 4, 6, {"groups": 2, "stride": 2, "padding": "same"}),
    ((3, 2), (2, 2), 3, 3, {"stride": 3, "padding": "same"}),  # windows that do not touch
    ((5, 6), (3, 3), 2, 2, {"padding": "full"}),
    ((1, 1), (1, 1), 1, 1, {"padding": "valid"}),
]


@pytest.mark.parametrize("size, window, C, D, options", TRANSPOSED)
def test_conv_transpose2d(backend, rng, size, window, C, D, options):
    x, w, b = arrays(rng, size, window, C, D, options.get("groups", 1), transposed=True)
    prove("conv_transpose2d", [x, w, b], options, K=max(w.size, 2 * size[0] * size[1] * 9), linear=[0, 1, 2])


@pytest.mark.parametrize("padding", ["same", "full", "valid", 1, ((0, 2), (1, 0))])
@pytest.mark.parametrize("stride, dilation, groups", [(1, 1, 1), (2, 1, 2), (3, 2, 1)])
def test_transpose_is_the_adjoint_of_conv2d(backend, rng, padding, stride, dilation, groups):
    v, w = dn.asarray(rng.standard_normal((2, 9, 9, 4))), dn.asarray(rng.standard_normal((3, 3, 4 // groups, 6)))
    options = {"stride": stride, "dilation": dilation, "groups": groups, "padding": padding}
    y, _ = dn.ops.conv2d(v, w, **options)
    g = dn.asarray(rng.standard_normal(y.shape))
    if padding == "same":  # the same input size can only be asked for by its numbers
        at = geometry.windows("conv2d", (9, 9), (3, 3), stride=stride, padding="same", dilation=dilation)
        options["padding"] = at.pads
    back, _ = dn.ops.conv_transpose2d(g, w, **options)
    missing = [9 - n for n in back.shape[1:3]]
    back, _ = dn.ops.conv_transpose2d(g, w, output_padding=tuple(missing), **options)
    left, right = np.vdot(dn.to_numpy(y), dn.to_numpy(g)), np.vdot(dn.to_numpy(v), dn.to_numpy(back))
    assert abs(left - right) <= 1e-13 * np.linalg.norm(dn.to_numpy(y)) * np.linalg.norm(dn.to_numpy(g))


# -- E1 to E3, and three spellings of one gradient ---------------------------------------------------------------------


def test_convolution_is_correlation_with_the_rotated_kernel(backend, rng):
    """E3 on data: I ∗ K = I ⊗ rot180(K), and a bank learned in one mode is the other's, rotated."""
    x, w = rng.standard_normal((2, 6, 7, 3)), rng.standard_normal((3, 2, 3, 4))
    convolved, way = dn.ops.conv2d(*on_device([x, w]), mode="convolution")
    correlated, other = dn.ops.conv2d(*on_device([x, w[::-1, ::-1]]))
    assert np.array_equal(dn.to_numpy(convolved), dn.to_numpy(correlated))
    dy = dn.asarray(rng.standard_normal(convolved.shape))
    (dx, dw, _), (dx2, dw2, _) = way(dy), other(dy)
    assert np.array_equal(dn.to_numpy(dx), dn.to_numpy(dx2))
    assert np.array_equal(dn.to_numpy(dw), dn.to_numpy(dw2)[::-1, ::-1])


def test_one_gradient_in_three_spellings(backend, rng):
    """E11 and E13 as loops, as full convolutions with rot180 (the article's form), and as one matrix product."""
    x, w = rng.standard_normal((2, 6, 7, 3)), rng.standard_normal((3, 2, 3, 4))
    y, pullback = dn.ops.conv2d(*on_device([x, w]))
    dy = rng.standard_normal(y.shape)
    gemm_dx, gemm_dw, _ = (None if g is None else dn.to_numpy(g) for g in pullback(dn.asarray(dy)))

    loops_dx, loops_dw, _ = reference.conv2d_backward(dy, x, w, None)

    turned = np.ascontiguousarray(w[::-1, ::-1].transpose(0, 1, 3, 2))  # rot180(w), its channels and filters swapped
    flipped_dx, _ = dn.ops.conv2d(*on_device([dy, turned]), padding="full")  # E13
    maps, deltas = x.transpose(3, 1, 2, 0), dy[:, ::-1, ::-1].transpose(1, 2, 0, 3)  # rot180(δ) as a filter bank
    flipped_dw, _ = dn.ops.conv2d(*on_device([maps, deltas]), mode="convolution")  # E11  o ∗ rot180(δ)
    flipped_dw = dn.to_numpy(flipped_dw).transpose(1, 2, 0, 3)

    for spelling in (loops_dx, dn.to_numpy(flipped_dx)):
        assert error(gemm_dx, spelling) <= tau("float64", w.size)
    for spelling in (loops_dw, flipped_dw):
        assert error(gemm_dw, spelling) <= tau("float64", dy.size)


# -- properties --------------------------------------------------------------------------------------------------------


def test_shift_equivariance(backend, rng):
    x, w = rng.standard_normal((1, 9, 9, 2)), rng.standard_normal((3, 3, 2, 3))
    y = dn.to_numpy(dn.ops.conv2d(*on_device([x, w]))[0])
    moved = dn.to_numpy(dn.ops.conv2d(*on_device([np.roll(x, (1, 2), (1, 2)), w]))[0])
    assert error(moved[:, 1:, 2:], y[:, :-1, :-2]) <= tau("float64", 18)


def test_two_half_batches_are_one(backend, rng):
    x, w = rng.standard_normal((4, 6, 6, 2)), rng.standard_normal((3, 3, 2, 3))
    y, pullback = dn.ops.conv2d(*on_device([x, w]))
    dy = rng.standard_normal(y.shape)
    halves = [dn.ops.conv2d(*on_device([x[h], w]))[1](dn.asarray(dy[h]))[1] for h in (slice(0, 2), slice(2, 4))]
    whole = dn.to_numpy(pullback(dn.asarray(dy))[1])
    assert error(whole, sum(map(dn.to_numpy, halves))) <= tau("float64", dy.size)


@pytest.mark.parametrize("limit", [1, 700, 5000])
def test_columns_never_exceed_the_set_size(backend, rng, monkeypatch, limit):
    """Batches, and maps too large for one image's columns, are cut into blocks; the numbers stay."""
    monkeypatch.setenv("DUALNET_KERNELS", "reference")
    x, w = rng.standard_normal((3, 9, 7, 4)), rng.standard_normal((3, 3, 2, 6))
    options = {"stride": 2, "padding": ((2, 1), (0, 1)), "dilation": (2, 1), "groups": 2}
    y, pullback = dn.ops.conv2d(*on_device([x, w]), **options)
    dy = dn.asarray(rng.standard_normal(y.shape))
    whole = [y, *pullback(dy)[:2]]
    monkeypatch.setattr(geometry, "BLOCK_BYTES", limit)
    sizes, build = [], convolution.im2col.reference
    monkeypatch.setattr(convolution, "im2col", lambda x, at: sizes.append(build(x, at)) or sizes[-1])
    y, pullback = dn.ops.conv2d(*on_device([x, w]), **options)
    for cut, full in zip([y, *pullback(dy)[:2]], whole):
        assert error(dn.to_numpy(cut), dn.to_numpy(full)) <= tau("float64", 108)
    row = 4 * 18 * 4 * 8  # one output row's columns: Q · k1·k2·C · itemsize
    assert len(sizes) > 2 and max(columns.nbytes for columns in sizes) <= max(limit, row)


def test_im2col_and_col2im_are_adjoint(backend, rng):
    at = geometry.windows("im2col", (6, 7), (3, 2), stride=(2, 1), padding=((1, 0), (2, 1)), dilation=(1, 2))
    x = dn.asarray(rng.standard_normal((2, 6, 7, 3)))
    columns = convolution.im2col(x, at)
    g = dn.asarray(rng.standard_normal(columns.shape))
    left = np.vdot(dn.to_numpy(columns), dn.to_numpy(g))
    right = np.vdot(dn.to_numpy(x), dn.to_numpy(convolution.col2im(g, x.shape, at)))
    assert abs(left - right) <= 1e-13 * np.linalg.norm(dn.to_numpy(columns)) * np.linalg.norm(dn.to_numpy(g))


def test_need_dx_skips_the_input_gradient(backend, rng):
    y, pullback = dn.ops.conv2d(
        *on_device([rng.standard_normal((1, 4, 4, 1)), rng.standard_normal((2, 2, 1, 1))]), need_dx=False
    )
    dx, dw, db = pullback(y)
    assert dx is None and dw is not None and db is None


@pytest.mark.parametrize("op", ["conv2d", "conv_transpose2d"])
def test_the_gradient_of_the_bias_adds_up_in_float32(backend, op):
    """E12: in float16 itself a sum of ones stops at 2048."""
    x, w, b = on_device([np.ones((1, 2, 4096, 2)), np.ones((1, 1, 2, 2)), np.zeros(2)], "float16")
    y, pullback = getattr(dn.ops, op)(x, w, b)
    db = pullback(dn.asarray(np.ones(y.shape), "float16"))[2]
    assert db.dtype == "float16" and dn.to_numpy(db).tolist() == [8192, 8192]


def test_a_transposed_convolution_of_16_bits_is_rounded_once(backend):
    """2048 + 1 is 2048 in float16, and with the bias of 1 it is 2050."""
    if "cupy" in backend:
        pytest.skip("cuBLAS and cuDNN round the product, too")
    x, w, b = on_device([[[[[2048.0, 1.0]]]], np.ones((1, 1, 1, 2)), [1.0]], "float16")
    y, pullback = dn.ops.conv_transpose2d(x, w, b)
    assert y.dtype == "float16" and dn.to_numpy(y).ravel().tolist() == [2050]
    assert [part.dtype for part in pullback(w[:, :, :, :1])] == ["float16"] * 3


def test_relu_in_the_same_pass(backend, rng):
    """conv2d(relu=True) is conv2d, then relu: to the last bit forward, within rounding back."""
    x, w, b = rng.standard_normal((2, 9, 8, 3)), rng.standard_normal((3, 3, 3, 4)), rng.standard_normal(4)
    between, first = dn.ops.conv2d(*on_device([x, w, b]), padding=1)
    y, second = dn.ops.relu(between)
    together, way = dn.ops.conv2d(*on_device([x, w, b]), padding=1, relu=True)
    assert np.array_equal(dn.to_numpy(together), dn.to_numpy(y)) and not (dn.to_numpy(y) > 0).all()
    dy = dn.asarray(rng.standard_normal(y.shape))
    for one, two in zip(way(dy), first(second(dy))):
        assert error(dn.to_numpy(one), dn.to_numpy(two)) <= tau("float64", 144)
    hidden(way)


# -- errors ------------------------------------------------------------------------------------------------------------

X, W = np.zeros((2, 5, 5, 4)), np.zeros((3, 3, 4, 6))


@pytest.mark.parametrize(
    "change, words",
    [
        ({"x": X[0]}, "x has shape .5, 5, 4.; expected feature maps"),
        ({"w": W[0]}, "expected a filter bank"),
        ({"w": np.zeros((3, 3, 3, 6))}, "reads 3 channels.*has 4"),
        ({"b": np.zeros(5)}, "b has shape .5,.; expected .6,."),
        ({"groups": 3}, "groups=3 must divide both the 4 channels of x and the 6 filters"),
        ({"groups": 2}, "has 4 in 2 group.*w of shape .k1, k2, 2, D."),
        ({"padding": "some"}, "'valid', 'same', 'full'"),
        ({"padding": (1, 2, 3)}, "padding must be an integer or .height, width."),
        ({"padding": ((1, 2), 3)}, "top, bottom"),
        ({"padding": -1}, "at least 0"),
        ({"stride": 0}, "stride must be at least 1"),
        ({"dilation": 3}, "window of height 7 .3 taps, dilation 3. does not fit on a map of height 5"),
        ({"mode": "flip"}, "'correlation' or 'convolution'"),
        ({"x": np.zeros((1, 0, 5, 4))}, "does not fit on a map of height 0"),
    ],
)
def test_shapes_that_do_not_fit(backend, change, words):
    given = {"x": X, "w": W, "b": None, **{k: v for k, v in change.items() if k in "xwb"}}
    options = {k: v for k, v in change.items() if k not in "xwb"}
    with pytest.raises(ValueError, match=f"conv2d: .*{words}"):
        dn.ops.conv2d(*on_device(given.values()), **options)


@pytest.mark.parametrize("value", [1.5, "3", None, True, (1, 2.0)])
def test_extents_are_integers(value):
    with pytest.raises(TypeError, match="conv2d: stride must be an integer"):
        dn.ops.conv2d(X, W, stride=value)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"output_padding": 1}, "output_padding 1 must be smaller than stride 1"),
        ({"stride": 2, "padding": "same", "output_padding": 1}, "determines the output size"),
        ({"padding": 4}, "leaves nothing of the height"),
        ({"groups": 4}, "groups=4 must divide the 6 filters"),
        ({"w": np.zeros((3, 3, 2, 5))}, "x .* has 6 channels, but w .* has 5 filters"),
    ],
)
def test_transposed_shapes_that_do_not_fit(backend, change, words):
    options = {k: v for k, v in change.items() if k != "w"}
    with pytest.raises(ValueError, match=f"conv_transpose2d: .*{words}"):
        dn.ops.conv_transpose2d(*on_device([np.zeros((2, 5, 5, 6)), change.get("w", W)]), **options)
