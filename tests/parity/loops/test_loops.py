"""The loops themselves: small examples by hand, finite differences of their own forward pass, and PyTorch's stored
results."""

from __future__ import annotations

import ast
import math
from pathlib import Path

import numpy as np
import pytest
import reference
from oracles import error
from test_fixtures import as_tuple, cases, load, numbered

from dualnet.parity import loops

NAN, INF = float("nan"), float("inf")


def maps(*rows: list[float]) -> np.ndarray:
    """One image of one channel."""
    return np.array(rows, np.float64)[None, :, :, None]


def bank(*rows: list[float]) -> np.ndarray:
    """One filter that reads one channel."""
    return np.array(rows, np.float64)[:, :, None, None]


def test_the_loops_share_nothing_with_the_package() -> None:
    files = sorted(Path(loops.__file__).parent.glob("*.py"))
    assert {"losses", "maps", "units"} <= {path.stem for path in files}
    for path in files:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom):
                assert node.level <= 1 and not (node.module or "").startswith("dualnet"), path.name
            if isinstance(node, ast.Import):
                assert not any(alias.name.startswith("dualnet") for alias in node.names), path.name


# -- by hand -----------------------------------------------------------------------------------------------------------


def test_convolution_by_hand() -> None:
    x, w = maps([1, 2, 4]), bank([10, 1])
    assert reference.conv2d(x, w).ravel().tolist() == [12, 24]
    assert reference.conv2d(x, w, mode="convolution").ravel().tolist() == [21, 42]  # E3: the filter is turned
    assert reference.conv2d(x, w, np.array([0.5]), padding=(0, 1)).ravel().tolist() == [1.5, 12.5, 24.5, 40.5]
    assert reference.conv2d(x, w, padding=((0, 0), (0, 2)), stride=(1, 2)).ravel().tolist() == [12, 40]
    assert reference.conv2d(x, w, dilation=2).ravel().tolist() == [14]
    dx, dw, db = reference.conv2d_backward(maps([1, 100]), x, w, np.zeros(1))
    assert dx.ravel().tolist() == [10, 1001, 100]  # E13: the full convolution [1, 100] ∗ [10, 1]
    assert dw.ravel().tolist() == [201, 402]  # E11: [1·1 + 2·100, 2·1 + 4·100]
    assert db.tolist() == [101]  # E12
    assert reference.conv2d_backward(maps([1, 100]), x, w, need_dx=False)[::2] == (None, None)


def test_padding_by_name() -> None:
    x = np.ones((1, 5, 7, 1))
    sizes = {"valid": (2, 2), "same": (3, 3), "full": (4, 4)}
    for padding, size in sizes.items():
        y = reference.conv2d(x, np.ones((3, 4, 1, 1)), stride=(2, 3), padding=padding)
        assert y.shape == (1, *size, 1), padding
    odd = reference.conv2d(maps([1, 2, 3]), bank([1, 1]), padding="same")
    assert odd.ravel().tolist() == [3, 5, 3]  # the odd column of zeros is at the end


def test_groups_by_hand() -> None:
    x = np.array([1.0, 10.0, 100.0, 1000.0]).reshape(1, 1, 1, 4)
    w = np.array([[1.0, 2.0], [1.0, 0.0]]).reshape(1, 1, 2, 2)
    assert reference.conv2d(x, w, groups=2).ravel().tolist() == [11, 200]


def test_transposed_convolution_by_hand() -> None:
    x, w = maps([1, 2]), bank([10, 1])
    assert reference.conv_transpose2d(x, w).ravel().tolist() == [10, 21, 2]
    spread = reference.conv_transpose2d(x, w, stride=(1, 3), output_padding=(0, 1))
    assert spread.ravel().tolist() == [10, 1, 0, 20, 2, 0]
    assert reference.conv_transpose2d(x, w, padding=(0, 1)).ravel().tolist() == [21]
    assert reference.conv_transpose2d(np.ones((1, 3, 2, 1)), bank([1]), stride=2, padding="same").shape == (1, 6, 4, 1)


def test_pooling_by_hand() -> None:
    x = maps([0, 5, 5], [5, 1, 2], [7, 0, 0])
    assert reference.max_pool2d(x, 2, stride=1).ravel().tolist() == [5, 5, 7, 2]
    dx = reference.max_pool2d_backward(maps([1, 10], [100, 1000]), x, 2, stride=1)
    assert dx[0, :, :, 0].tolist() == [[0, 11, 0], [0, 0, 1000], [100, 0, 0]]  # ties go to the first; overlaps add up
    assert reference.max_pool2d(x, 2, ceil_mode=True).ravel().tolist() == [5, 5, 7, 0]
    assert reference.avg_pool2d(x, 2, ceil_mode=True).ravel().tolist() == [2.75, 3.5, 3.5, 0]
    padded = {"stride": 2, "padding": 1}
    assert reference.avg_pool2d(x, 2, **padded).ravel().tolist() == [0, 5, 6, 0.75]
    assert reference.avg_pool2d(x, 2, count_include_pad=True, **padded).ravel().tolist() == [0, 2.5, 3, 0.75]
    # with ceil_mode a third window hangs over the padding by one: its divisor counts the padding, not the overhang
    over = reference.avg_pool2d(maps([8, 8, 8, 8]), (1, 2), stride=(1, 3), ceil_mode=True, count_include_pad=True)
    assert over.ravel().tolist() == [8, 8]
    assert reference.l2_pool2d(maps([3, 4, 0, 0]), (1, 2)).ravel().tolist() == [5, 0]
    dx = reference.l2_pool2d_backward(maps([10, 10]), maps([3, 4, 0, 0]), (1, 2))
    assert dx.ravel().tolist() == [6, 8, 0, 0]  # none where y = 0


def test_ceil_mode_adds_no_window_that_starts_beyond_the_map() -> None:
    for n, positions in [(4, 2), (5, 2), (6, 2), (7, 3)]:  # pool 2, stride 3: windows at 0, 3, 6 …
        y = reference.max_pool2d(np.ones((1, 1, n, 1)), (1, 2), stride=(1, 3), ceil_mode=True)
        assert y.shape[2] == positions, n


def test_padding_never_wins_and_nan_does() -> None:
    assert reference.max_pool2d(maps([-INF, -3]), (1, 2), padding=(0, 1)).ravel().tolist() == [-INF, -3]
    assert reference.max_pool2d_backward(maps([1, 1]), maps([-INF, -INF]), (1, 2), padding=(0, 1)).sum() == 2
    y = reference.max_pool2d(maps([9, NAN, 3, 4]), (1, 2)).ravel()
    assert math.isnan(y[0]) and y[1] == 4
    assert reference.max_pool2d_backward(maps([1]), maps([9, NAN, NAN]), (1, 3)).ravel().tolist() == [0, 1, 0]


def test_normalisation_by_hand() -> None:
    x, two, one = np.array([[1.0, 3.0, 20.0, 40.0], [3.0, 9.0, 0.0, 0.0]]), np.full(4, 2.0), np.ones(4)
    batch = reference.batch_norm(x, two, one, epsilon=1e-12)
    np.testing.assert_allclose(batch, [[-1, -1, 3, 3], [3, 3, -1, -1]], rtol=1e-10)
    group = reference.group_norm(x, two, one, groups=2, epsilon=1e-12)
    np.testing.assert_allclose(group, [[-1, 3, -1, 3], [-1, 3, 1, 1]], rtol=1e-10)
    layer = reference.layer_norm(x[:, :2], two[:2], one[:2], epsilon=1e-12)
    np.testing.assert_allclose(layer, [[-1, 3], [-1, 3]], rtol=1e-10)


@pytest.mark.parametrize(
    "counter, key, words",
    [  # the known answers of the Random123 library
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox(counter: tuple, key: tuple, words: tuple) -> None:
    assert reference.philox4x32(counter, key) == words


def test_dropout_by_hand() -> None:
    """Key 0: the words are 0x66…, 0xE1…, 0xBC…, 0x9B…, of which only the first is below 2³¹."""
    assert reference.dropout(np.ones(4), 0.5, key=0).tolist() == [0, 2, 2, 2]
    assert reference.dropout(np.ones((2, 2)), 0.75, key=(0, 0)).tolist() == [[0, 4], [0, 0]]
    assert reference.dropout(np.ones(4), 0.0, key=0).tolist() == [1, 1, 1, 1]
    x = np.ones(4000)
    assert abs(reference.dropout(x, 0.3, key=(5, 7)).mean() - 1) < 0.05
    assert (reference.dropout(x, 0.3, key=(5, 7)) != reference.dropout(x, 0.3, key=(5, 8))).any()


def test_losses_by_hand() -> None:
    y, t = np.array([[0.0, 0.0], [0.0, math.log(3)]]), np.array([0, 0])
    assert reference.softmax_cross_entropy(y, t) == pytest.approx((math.log(2) + math.log(4)) / 2, rel=1e-15)
    dy = reference.softmax_cross_entropy_backward(y, t)
    np.testing.assert_allclose(dy, [[-0.25, 0.25], [-0.375, 0.375]], rtol=1e-15)
    smoothed = reference.softmax_cross_entropy(y[:1], t[:1], label_smoothing=0.5)
    assert smoothed == pytest.approx(math.log(2), rel=1e-15)
    assert reference.mean_squared_error(np.array([[1.0, 2.0], [3.0, 4.0]]), np.zeros((2, 2))) == 7.5  # ½·30 / 2
    assert reference.huber(np.array([0.5, -3.0]), np.zeros(2)) == (0.125 + 2.5) / 2
    assert reference.binary_cross_entropy(np.zeros(3), np.array([0.0, 1.0, 1.0])) == pytest.approx(math.log(2))


def test_activations_at_infinity() -> None:
    far = np.array([-INF, INF])
    limits = {"relu": 0, "leaky_relu": -INF, "elu": -1, "gelu": 0, "silu": 0, "sigmoid": 0, "tanh": -1, "softplus": 0}
    for name, limit in limits.items():
        above = 1 if name in ("sigmoid", "tanh") else INF
        assert getattr(reference, name)(far).tolist() == [limit, above], name
        below = 0.01 if name == "leaky_relu" else 0
        slopes = getattr(reference, f"{name}_backward")(np.ones(2), far)
        assert slopes.tolist() == [below, 0 if above == 1 else 1], name


# -- every gradient against differences of the loops' own forward ------------------------------------------------------

ONE = [(3, 4)]
MAP = [(2, 5, 6, 2)]
CONV = [(2, 4, 5, 4), (3, 2, 2, 2), (2,)]
TRANSPOSED = [(2, 2, 3, 2), (3, 2, 2, 2), (4,)]
POOL = {"pool_size": (3, 2), "stride": 2, "padding": ((1, 1), (0, 1)), "ceil_mode": True}
SLOPES = [
    ("conv2d", CONV, {"stride": (2, 1), "padding": ((1, 0), (0, 2)), "dilation": (1, 2), "groups": 2}),
    ("conv2d", CONV, {"stride": (1, 3), "padding": "same", "groups": 2, "mode": "convolution"}),
    ("conv2d", [(1, 3, 4, 2), (2, 3, 2, 1), (1,)], {"padding": "full"}),
    ("conv_transpose2d", TRANSPOSED, {"stride": 2, "padding": 1, "output_padding": (1, 0), "groups": 2}),
    ("conv_transpose2d", TRANSPOSED, {"stride": (2, 3), "padding": "same", "groups": 2}),
    ("conv_transpose2d", [(1, 3, 4, 2), (2, 2, 1, 2), (1,)], {"dilation": (1, 2), "padding": "full", "stride": 2}),
    *[(name, MAP, POOL) for name in ("max_pool2d", "avg_pool2d", "l2_pool2d")],
    *[(name, MAP, {"pool_size": 2, "dilation": (2, 1)}) for name in ("max_pool2d", "avg_pool2d", "l2_pool2d")],
    ("avg_pool2d", MAP, {**POOL, "count_include_pad": True}),
    *[(name, MAP, {}) for name in ("global_avg_pool2d", "global_max_pool2d", "flatten")],
    ("global_avg_pool2d", MAP, {"keepdims": True}),
    ("dense", [(3, 4), (4, 2), (2,)], {}),
    *[(name, ONE, {}) for name in "relu leaky_relu elu gelu silu sigmoid tanh softplus softmax log_softmax".split()],
    ("gelu", ONE, {"approximate": True}),
    ("elu", ONE, {"alpha": 0.3}),
    ("softmax", [(2, 3, 2)], {"axis": 1}),
    ("log_softmax", [(2, 3, 2)], {"axis": 1}),
    ("batch_norm", [(3, 2, 2, 3), (3,), (3,)], {"epsilon": 0.1}),
    ("batch_norm_inference", [(3, 2, 2, 3), (3,), (3,), (3,), (3,)], {}),
    ("layer_norm", [(3, 4), (4,), (4,)], {}),
    ("layer_norm", [(2, 3, 2, 3), (3, 2, 3), (3, 2, 3)], {"axis": (1, 2, 3)}),
    ("group_norm", [(2, 3, 2, 6), (6,), (6,)], {"groups": 3}),
    ("dropout", ONE, {"rate": 0.4, "key": (2**63 + 5, 7)}),
    ("dropout", MAP, {"rate": 0.4, "key": 3, "shared_axes": (1, 2)}),
    ("mean_squared_error", [(3, 4), (3, 4)], {}),
    ("huber", [(3, 4), (3, 4)], {"delta": 0.7}),
    ("binary_cross_entropy", [(3, 4), (3, 4)], {"label_smoothing": 0.1}),
    ("softmax_cross_entropy", [(3, 4), (3, 4)], {"label_smoothing": 0.1}),
]


@pytest.mark.parametrize("name, shapes, options", SLOPES)
def test_gradient_is_the_slope(name: str, shapes: list, options: dict, rng: np.random.Generator) -> None:
    arrays = [rng.standard_normal(shape) for shape in shapes]
    if name == "batch_norm_inference":
        arrays[4] = arrays[4] ** 2 + 0.5  # a variance
    forward, backward = getattr(reference, name), getattr(reference, f"{name}_backward")
    loss = np.ndim(forward(*arrays, **options)) == 0
    dy = 1.0 if loss else rng.standard_normal(forward(*arrays, **options).shape)
    gradients = as_tuple(backward(*arrays, **options) if loss else backward(dy, *arrays, **options))
    assert len(gradients) == (1 if loss else len(arrays))
    h = 1e-6
    for i, gradient in enumerate(gradients):
        v = rng.standard_normal(arrays[i].shape)
        up, down = (forward(*arrays[:i], arrays[i] + s * v, *arrays[i + 1 :], **options) for s in (h, -h))
        slope = np.sum((up - down) * dy) / (2 * h)
        assert abs(slope - np.vdot(v, gradient)) <= 1e-7 * np.linalg.norm(v) * np.linalg.norm(gradient), f"argument {i}"


# -- and PyTorch's stored results --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", cases("op"))
def test_agrees_with_pytorch(name: str) -> None:
    target, options, arrays = load(name)
    inputs = numbered(arrays, "input", sum(role.startswith("input") for role in arrays))
    assert error(getattr(reference, target)(*inputs, **options), arrays["y"]) <= 1e-12
    gradients = as_tuple(getattr(reference, f"{target}_backward")(arrays["dy"], *inputs, **options))
    for gradient, wanted in zip(gradients, numbered(arrays, "gradient", len(gradients)), strict=True):
        assert (gradient is None) == (wanted is None)
        assert gradient is None or error(gradient, wanted) <= 1e-12


@pytest.mark.parametrize("name", cases("loss") + cases("loss", extreme=True))
def test_losses_agree_with_pytorch(name: str) -> None:
    target, packed, arrays = load(name)
    t = arrays["t"].astype(np.int64) if packed["labels"] else arrays["t"]
    given, options = (arrays["y"], t, arrays.get("weights")), packed["options"]
    assert error(getattr(reference, target)(*given, **options), arrays["loss"]) <= 1e-12
    assert error(getattr(reference, f"{target}_backward")(*given, **options), arrays["dy"]) <= 1e-12
