"""Every equation E1 … E19 of docs/derivation.md has tagged code and a test that proves it.

``ANCHORS`` is the map. The tests below compare it with the package (the tag is in that function), with the tests (the
named one exists, and runs every time) and with the page (it says the same). Equations that no other test file is about
are proven at the end.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import io
import re
import tokenize
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from oracles import error, on_device, tau

import dualnet as dn

TESTS = Path(__file__).parent
PACKAGE = Path(dn.__file__).parent
PAGE = TESTS.parent / "docs" / "derivation.md"


class Anchor(NamedTuple):
    code: tuple[str, ...]  # "file under dualnet/:function"
    tests: tuple[str, ...]  # "file under tests/:test function"


ANCHORS = {
    "E1": Anchor(("ops/convolution.py:conv2d",), ("test_anchors.py:test_cross_correlation",)),
    "E2": Anchor(("ops/convolution.py:conv2d",), ("test_anchors.py:test_true_convolution",)),
    "E3": Anchor(
        ("ops/convolution.py:conv2d", "ops/convolution.py:rotate"),
        ("ops/test_convolution.py:test_convolution_is_correlation_with_the_rotated_kernel",),
    ),
    "E4": Anchor(("ops/convolution.py:correlate",), ("ops/test_convolution.py:test_conv2d",)),
    "E5": Anchor(("ops/convolution.py:correlate",), ("test_anchors.py:test_grey_scale_is_the_bank_without_channels",)),
    "E6": Anchor(
        ("ops/convolution.py:im2col", "geometry.py:_along"),
        (
            "ops/test_convolution.py:test_conv2d_drawn",
            "test_geometry.py:test_positions_are_those_that_can_be_counted",
        ),
    ),
    "E7": Anchor(
        ("ops/activation.py:relu", "ops/activation.py:sigmoid"),
        ("ops/test_activation.py:test_elementwise",),
    ),
    "E8": Anchor(
        ("ops/pooling.py:max_pool", "ops/pooling.py:avg_pool", "ops/pooling.py:l2_pool"),
        ("ops/test_pooling.py:test_pools",),
    ),
    "E9": Anchor(
        ("ops/dense.py:flatten", "ops/dense.py:dense"),
        ("ops/test_dense.py:test_flatten", "ops/test_dense.py:test_dense"),
    ),
    "E10": Anchor(
        ("ops/losses.py:softmax_cross_entropy", "ops/losses.py:mean_squared_error"),
        ("ops/test_losses.py:test_softmax_cross_entropy", "ops/test_losses.py:test_mean_squared_error"),
    ),
    "E11": Anchor(
        ("ops/convolution.py:correlate_filters",),
        ("ops/test_convolution.py:test_conv2d", "ops/test_convolution.py:test_one_gradient_in_three_spellings"),
    ),
    "E12": Anchor(("ops/convolution.py:conv2d",), ("ops/test_convolution.py:test_conv2d",)),
    "E13": Anchor(
        ("ops/convolution.py:correlate_inputs",),
        (
            "ops/test_convolution.py:test_one_gradient_in_three_spellings",
            "ops/test_convolution.py:test_transpose_is_the_adjoint_of_conv2d",
        ),
    ),
    "E14": Anchor(
        ("ops/activation.py:relu", "ops/activation.py:sigmoid"),
        (
            "ops/test_activation.py:test_elementwise",
            "ops/test_activation.py:test_relu_has_slope_0_at_0_and_keeps_its_result",
        ),
    ),
    "E15": Anchor(
        ("ops/pooling.py:max_unpool", "ops/pooling.py:avg_unpool", "ops/pooling.py:l2_unpool"),
        ("ops/test_pooling.py:test_pools", "ops/test_pooling.py:test_ties_go_to_the_first_in_row_major_order"),
    ),
    "E16": Anchor(
        ("ops/dense.py:dense",),
        (
            "ops/test_dense.py:test_dense",
            "ops/test_dense.py:test_a_convolution_over_the_whole_map_is_dense_after_flatten",
        ),
    ),
    "E17": Anchor(
        ("optimizers/rules.py:sgd_updates", "training/loop.py:train_step"),
        ("test_anchors.py:test_descent_goes_down_the_error_surface", "test_fixtures.py:test_optimizer"),
    ),
    "E18": Anchor(
        ("seeing/summary.py:_dense_weights",),
        (
            "test_anchors.py:test_a_convolution_is_a_sparse_matrix_that_shares_its_weights",
            "seeing/test_summary.py:test_weight_sharing_by_hand",
        ),
    ),
    "E19": Anchor(
        ("ops/resizing.py:repeated_backward", "ops/resizing.py:_lines_backward", "ops/resizing.py:unmirrored"),
        (
            "test_anchors.py:test_a_map_is_resized_by_a_matrix_and_its_transpose",
            "ops/test_resizing.py:test_a_mirror_image_is_added_to_what_it_shows",
        ),
    ),
}


# -- the map is true ---------------------------------------------------------------------------------------------------


def test_every_equation_of_the_page_is_on_the_map():
    assert list(ANCHORS) == [f"E{i}" for i in range(1, 20)] == [anchor for anchor, _ in sections()]


@pytest.mark.parametrize("anchor", ANCHORS)
def test_code_carries_the_tag(anchor):
    for place in ANCHORS[anchor].code:
        assert anchor in tags(inspect.getsource(inspect.unwrap(named(place)))), (
            f"dualnet/{place} is not tagged {anchor}"
        )


@pytest.mark.parametrize("anchor", ANCHORS)
def test_a_test_proves_it(anchor):
    assert ANCHORS[anchor].tests
    for place in ANCHORS[anchor].tests:
        file, _, name = place.partition(":")
        tests = {node.name: node for node in ast.parse((TESTS / file).read_text("utf-8")).body if is_test(node)}
        assert name in tests, f"tests/{file} has no test {name}"
        marks = " ".join(ast.unparse(mark) for mark in tests[name].decorator_list)
        assert not re.search(r"\b(slow|skip|skipif|xfail)\b", marks), f"tests/{place} does not run in every run"


@pytest.mark.parametrize("anchor", ANCHORS)
def test_the_page_says_the_same(anchor):
    lines = written(anchor)
    assert lines in dict(sections())[anchor], f"docs/derivation.md, {anchor}: expected\n{lines}"


def test_no_tag_without_an_equation():
    """A comment that names E0 or E20 is a slip of the pen; and every equation is on a line of code somewhere."""
    seen = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        for tag in tags(path.read_text("utf-8")):
            seen.setdefault(tag, path.name)
    assert seen.keys() == ANCHORS.keys(), seen


def sections() -> list[tuple[str, str]]:
    """The equations of the page, by their headings."""
    parts = re.split(r"^### (E\d+)\b", PAGE.read_text("utf-8"), flags=re.MULTILINE)
    return [(anchor, text.partition("\n## ")[0]) for anchor, text in zip(parts[1::2], parts[2::2])]


def written(anchor: str) -> str:
    """How the page names the code and the tests of an equation."""

    def links(folder: str, places: tuple[str, ...]) -> str:
        parts = [place.partition(":") for place in places]
        return ", ".join(f"[`{name}`](../{folder}/{file})" for file, _, name in parts)

    return f"- Code: {links('dualnet', ANCHORS[anchor].code)}\n- Tests: {links('tests', ANCHORS[anchor].tests)}\n"


def named(place: str) -> Any:
    file, _, name = place.partition(":")
    module = importlib.import_module("dualnet." + file.removesuffix(".py").replace("/", "."))
    result: Any = module
    for part in name.split("."):
        result = getattr(result, part)
    return result


def is_test(node: ast.AST) -> bool:
    return isinstance(node, ast.FunctionDef) and node.name.startswith("test_")


def tags(source: str) -> set[str]:
    """The anchors in the comments and docstrings of a piece of source."""
    tokens = tokenize.generate_tokens(io.StringIO(inspect.cleandoc(source)).readline)
    words = [
        t.string for t in tokens if t.type == tokenize.COMMENT or (t.type == tokenize.STRING and '"""' in t.string)
    ]
    return set(re.findall(r"\bE\d+\b", " ".join(words)))


# -- equations that no other file is about -----------------------------------------------------------------------------


def on_maps(x: np.ndarray, w: np.ndarray, **options: Any) -> np.ndarray:
    """conv2d of one grey map with one filter."""
    return dn.to_numpy(dn.ops.conv2d(*on_device([x[None, :, :, None], w[:, :, None, None]]), **options)[0])[0, :, :, 0]


def test_cross_correlation(backend, rng):
    """E1 as it is printed: (I ⊗ K)[i,j] = Σ_m Σ_n I[i+m, j+n] · K[m,n]."""
    image, kernel = rng.standard_normal((5, 6)), rng.standard_normal((2, 3))
    printed = np.zeros((4, 4))
    for i, j, m, n in np.ndindex(4, 4, 2, 3):
        printed[i, j] += image[i + m, j + n] * kernel[m, n]
    assert error(on_maps(image, kernel, mode="correlation"), printed) <= tau("float64", 6)
    assert error(on_maps(image, kernel[::-1, ::-1], mode="correlation"), printed) > 0.1  # the kernel has a direction


def test_true_convolution(backend, rng):
    """E2 as it is printed: (I ∗ K)[i,j] = Σ_m Σ_n I[i−m, j−n] · K[m,n], wherever any term is on the map."""
    image, kernel = rng.standard_normal((5, 6)), rng.standard_normal((2, 3))
    printed = np.zeros((6, 8))
    for i, j, m, n in np.ndindex(6, 8, 2, 3):
        if 0 <= i - m < 5 and 0 <= j - n < 6:
            printed[i, j] += image[i - m, j - n] * kernel[m, n]
    assert error(on_maps(image, kernel, mode="convolution", padding="full"), printed) <= tau("float64", 6)
    turned = on_maps(kernel, image, mode="convolution", padding="full")  # I ∗ K = K ∗ I, which E1 is not
    assert error(turned, printed) <= tau("float64", 6)


def test_grey_scale_is_the_bank_without_channels(backend, rng):
    """E5: with C = 1 the sum over c falls away; and E4 is nothing but that sum over grey-scale cases."""
    x, w = rng.standard_normal((2, 5, 6, 3)), rng.standard_normal((2, 3, 3, 4))
    grey = sum(dn.to_numpy(dn.ops.conv2d(*on_device([x[..., c : c + 1], w[:, :, c : c + 1]]))[0]) for c in range(3))
    assert error(dn.to_numpy(dn.ops.conv2d(*on_device([x, w]))[0]), grey) <= tau("float64", 18)
    printed = np.zeros((4, 4))
    for i, j, m, n in np.ndindex(4, 4, 2, 3):
        printed[i, j] += w[m, n, 0, 0] * x[0, i + m, j + n, 0]
    assert error(on_maps(x[0, :, :, 0], w[:, :, 0, 0]), printed) <= tau("float64", 6)


def test_descent_goes_down_the_error_surface(backend, rng):
    """E17: a step of w ← w − η ∂E/∂w, exactly; and E falls by η ‖∂E/∂w‖² as η → 0."""
    net = dn.Sequential([dn.Conv2D(3, 3), dn.Tanh(), dn.Flatten(), dn.Dense(2)]).init((5, 5, 1), dtype="float64")
    x, t = on_device([rng.standard_normal((4, 5, 5, 1)), np.array([0, 1, 1, 0])])

    def look():
        y, pullback = net.forward(x, train=True)
        loss, dloss = dn.losses.softmax_cross_entropy(y, t)
        return dn.to_numpy(loss).item(), pullback(dloss())[1]

    before, grads = look()
    old = {name: dn.to_numpy(p.value).copy() for name, p in net.parameters().items()}
    lr = 1e-5
    dn.SGD(lr=lr).step(net, grads)
    for name, p in net.parameters().items():
        assert error(dn.to_numpy(p.value), old[name] - lr * dn.to_numpy(grads[name])) <= tau("float64", 1)
    steepness = sum(float(np.sum(dn.to_numpy(g) ** 2)) for g in grads.values())
    assert abs((before - look()[0]) / (lr * steepness) - 1) < 1e-3


def test_a_convolution_is_a_sparse_matrix_that_shares_its_weights(backend, rng):
    """E18: its matrix, found with one unit vector per input, is mostly zero and repeats the few weights there are."""
    (H, W, C), (k1, k2, D) = (5, 6, 2), (3, 2, 3)
    layer = dn.Conv2D(D, (k1, k2)).init((H, W, C), dtype="float64")
    values = rng.permutation(k1 * k2 * C * D) + 1.0  # all different, none 0
    layer.load_state_dict({"w": values.reshape(k1, k2, C, D), "b": np.zeros(D)})
    P, Q, _ = layer.output_shape((H, W, C))

    units = np.eye(H * W * C).reshape(-1, H, W, C)
    matrix = dn.to_numpy(layer(dn.asarray(units))).reshape(H * W * C, P * Q * D)

    assert matrix.size == (H * W * C) * (P * Q * D)  # what a fully-connected layer would have to learn
    assert np.count_nonzero(matrix) == (P * Q * D) * (k1 * k2 * C)  # sparsity: an output reads one window
    found, times = np.unique(matrix[matrix != 0], return_counts=True)
    assert np.array_equal(found, np.sort(values))  # sharing: no more than k1·k2·C·D values
    assert np.all(times == P * Q)  # each once in every window
    x = rng.standard_normal((1, H, W, C))
    assert error(x.reshape(1, -1) @ matrix, dn.to_numpy(layer(dn.asarray(x))).reshape(1, -1)) <= tau("float64", 60)
    assert sum(p.value.size for p in layer.parameters().values()) == k1 * k2 * C * D + D


def test_a_map_is_resized_by_a_matrix_and_its_transpose(backend, rng):
    """E19: the matrix A is found with one unit vector per input; y = A x, and the pullback is Aᵀ."""
    H, W = 4, 3
    units = dn.asarray(np.eye(H * W).reshape(-1, H, W, 1))
    for op, options in [
        (dn.ops.upsample2d, {"size": (2, 3)}),
        (dn.ops.upsample2d, {"size": (3, 2), "interpolation": "bilinear"}),
        (dn.ops.zero_pad2d, {"padding": ((1, 0), (2, 1))}),
        (dn.ops.reflect_pad2d, {"padding": ((1, 2), (2, 0))}),
        (dn.ops.crop2d, {"cropping": ((1, 0), (0, 1))}),
    ]:
        images, _ = op(units, **options)
        A = dn.to_numpy(images).reshape(H * W, -1).T
        x = rng.standard_normal((1, H, W, 1))
        y, pullback = op(dn.asarray(x), **options)
        assert error(dn.to_numpy(y).ravel(), A @ x.ravel()) <= tau("float64", 4)
        dy = rng.standard_normal(y.shape)
        assert error(dn.to_numpy(pullback(dn.asarray(dy))).ravel(), A.T @ dy.ravel()) <= tau("float64", 12)
