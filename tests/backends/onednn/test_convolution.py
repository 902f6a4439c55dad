"""oneDNN's convolutions against their references: odd shapes, odd arrays, and numbers that are not finite."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onednn_tools import SPECIAL, convolved, expected, float32, needs_library, served
from oracles import error, tau

from dualnet.backend import references
from dualnet.backends.cpu import machine
from dualnet.backends.onednn import convolution, passes, plans


def drawn(seed: int) -> tuple[Any, ...]:
    rng = np.random.default_rng(seed)
    groups = int(rng.choice([1, 1, 1, 2, 3]))
    window, dilation = rng.integers(1, 6, 2), rng.integers(1, 3, 2)
    size = window * dilation + rng.integers(0, 9, 2)
    padding = tuple(tuple(int(p) for p in rng.integers(0, k, 2)) for k in window)
    channels, filters = (int(rng.choice([1, 2, 3, 5, 8, 16, 17, 33])) * groups for _ in range(2))
    ints = [tuple(int(i) for i in pair) for pair in (size, window, rng.integers(1, 4, 2), dilation)]
    return int(rng.integers(1, 5)), ints[0], channels, ints[1], filters, ints[2], padding, ints[3], groups


@needs_library
@pytest.mark.parametrize("case", SPECIAL + [drawn(seed) for seed in range(40)], ids=repr)
def test_convolution_agrees_with_its_reference(case: tuple[Any, ...], number: str, rng: np.random.Generator) -> None:
    x, w, b, dy, at, groups = convolved(rng, case)
    K, positions = at.taps * w.shape[2], len(x) * at.grid[0] * at.grid[1]
    kept = [a.tobytes() for a in (x, w, b, dy)]

    y = expected("correlate", x, w, b, at, groups)
    assert error(served("correlate", x, w, b, at, groups), y) <= tau("float32", K)
    assert error(served("correlate", x, w, None, at, groups), y - b) <= tau("float32", K)
    assert error(served("correlate", x, w, b, at, groups, relu=True), np.maximum(y, 0)) <= tau("float32", K)
    dw = expected("correlate_filters", x, dy, at, groups)
    assert error(served("correlate_filters", x, dy, at, groups), dw) <= tau("float32", positions)
    both = served("parameter_gradients", x, dy, at, groups, True)
    assert error(both[0], dw) <= tau("float32", positions)
    assert error(both[1], dy.astype(np.float64).sum((0, 1, 2))) <= tau("float32", positions)
    dx = expected("correlate_inputs", dy, w, at, groups)
    assert error(served("correlate_inputs", dy, w, at, groups), dx) <= tau("float32", at.taps * dy.shape[3])
    assert kept == [a.tobytes() for a in (x, w, b, dy)], "an input was changed"


def normalised(rng: np.random.Generator, case: tuple[Any, ...]) -> tuple[Any, ...]:
    """The arguments of a convolution with batch norm behind it, without relu and other; and another branch."""
    x, w, b, other, at, groups = convolved(rng, case)
    mean, variance, gamma, beta = (float32(rng, len(b)) for _ in range(4))
    return (x, w, b, at, groups, (mean, variance**2 + 1, gamma, beta), 1e-5), other


@needs_library
@pytest.mark.parametrize("kind", [machine.AMD, machine.INTEL])
@pytest.mark.parametrize("case", SPECIAL, ids=repr)
def test_the_librarys_codes_agree_with_the_reference(
    case: tuple[Any, ...], kind: str, number: str, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "kind", lambda: kind)
    x, w, b, dy, at, groups = convolved(rng, case)
    y = served("correlate", x, w, b, at, groups)
    dx = served("correlate_inputs", dy, w, at, groups)
    assert error(y, expected("correlate", x, w, b, at, groups)) < tau("float32", w[..., 0].size)
    assert error(dx, expected("correlate_inputs", dy, w, at, groups)) < tau("float32", at.taps * w.shape[3])


@needs_library
@pytest.mark.parametrize(
    ("name", "case", "direct"),
    [
        ("correlate_inputs", (2, (16, 16), 16, (3, 3), 32, 2, 1, 1, 1), True),  # strides
        ("correlate", (2, (16, 16), 16, (3, 3), 32, 2, 1, 1, 1), True),
        ("correlate", (2, (14, 14), 16, (5, 5), 16, 1, 2, 1, 1), True),  # more than nine taps
        ("correlate_inputs", (2, (16, 16), 12, (3, 3), 32, 1, 1, 1, 1), True),  # channels that fill no register
        ("correlate", (2, (16, 16), 16, (3, 3), 16, 1, 1, 1, 1), False),
        ("correlate_inputs", (2, (16, 16), 32, (3, 3), 32, 1, 1, 1, 1), False),
        ("correlate_inputs", (2, (16, 16), 8, (1, 1), 32, 1, 0, 1, 1), False),
        ("correlate_inputs", (2, (16, 16), 32, (3, 3), 32, 2, 1, 1, 2), False),  # groups
    ],
)
def test_which_of_the_librarys_codes_computes(
    name: str, case: tuple[Any, ...], direct: bool, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On AMD's AVX-512 its direct code for some shapes; else always the one that it prefers."""
    x, w, b, dy, at, groups = convolved(rng, case)

    def code(kind: str) -> str:
        monkeypatch.setattr(machine, "kind", lambda: kind)
        plans._of_thread.plans.clear()
        served(name, *((x, w, b, at, groups) if name == "correlate" else (dy, w, at, groups)))
        (run,) = plans._of_thread.plans.values()
        return run.implementations[-1]

    with monkeypatch.context() as patch:
        patch.setattr(convolution, "_direct", lambda *given: False)
        preferred = code(machine.AMD)
    assert code(machine.INTEL) == preferred  # where nothing was measured
    products = direct and preferred.startswith("brg")
    assert code(machine.AMD) == ("jit:" + preferred.rpartition(":")[2] if products else preferred)
    assert code(machine.AVX2) == preferred


@needs_library
@pytest.mark.parametrize("case", SPECIAL[:12] + [drawn(seed) for seed in range(20)], ids=repr)
def test_batch_norm_behind_a_convolution_has_the_bits_of_both_one_after_the_other(
    case: tuple[Any, ...], number: str, rng: np.random.Generator
) -> None:
    (x, w, b, at, groups, norm, epsilon), other = normalised(rng, case)
    for bias in (b, None):
        y = served("correlate", x, w, bias, at, groups)
        mean, variance, gamma, beta = norm
        y = (y - mean) * (gamma / np.sqrt(variance + np.float32(epsilon))) + beta
        for relu, branch in ((False, None), (True, None), (False, other), (True, other)):
            wanted = y if branch is None else y + branch
            found = served("correlate_normalise", x, w, bias, at, groups, norm, epsilon, relu, branch)
            assert found.tobytes() == (np.maximum(wanted, 0) + 0 if relu else wanted).tobytes()
            exact = expected_normalised(x, w, bias, at, groups, norm, epsilon, relu, branch)
            assert error(found, exact) <= 8 * tau("float32", at.taps * w.shape[2])


def expected_normalised(x: Any, w: Any, b: Any, at: Any, groups: int, norm: Any, *rest: Any) -> Any:
    wide = tuple(each.astype(np.float64) for each in norm)
    return expected("correlate_normalise", x, w, b, at, groups, wide, *rest)


@needs_library
def test_a_nan_passes_batch_norm_and_relu_behind_a_convolution(rng: np.random.Generator) -> None:
    given, other = normalised(rng, SPECIAL[2])
    given[0][0, 2, 2, 0], other[0, 0, 0, 0], other[0, 0, 1, 0] = np.nan, -np.inf, np.inf
    found = served("correlate_normalise", *given, True, other)
    with np.errstate(invalid="ignore"):
        wanted = expected_normalised(*given, True, other)
    assert np.isnan(found).any() and np.isinf(found).any() and error(found, wanted) < 1e-5


@needs_library
def test_a_norm_or_a_branch_that_does_not_fit_is_left_to_the_reference(rng: np.random.Generator) -> None:
    (x, w, b, at, groups, norm, epsilon), other = normalised(rng, SPECIAL[2])
    kernel = convolution.correlate_normalise
    assert kernel(x, w, b, at, groups, norm, epsilon, True, other) is not NotImplemented
    assert kernel(x, w, b, at, groups, (norm[0][:1], *norm[1:]), epsilon, True, None) is NotImplemented
    assert kernel(x, w, b, at, groups, (norm[0].astype("f8"), *norm[1:]), epsilon, True, None) is NotImplemented
    assert kernel(x, w, b, at, groups, norm, epsilon, True, other[:1]) is NotImplemented
    assert kernel(x, w, b, at, groups, norm, epsilon, True, other.astype("f8")) is NotImplemented


@needs_library
def test_several_columns_of_dx_only_for_finite_numbers(rng: np.random.Generator) -> None:
    """Beside the band, and around the deltas, stand zeros; the library itself serves what is not finite."""
    x, w, _, dy, at, _ = convolved(rng, (8, (14, 14), 3, (3, 3), 16, 1, 0, 1, 1))
    asked = []
    original = convolution._by_bands
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(convolution, "_by_bands", lambda *given: asked.append(1) or original(*given))
        for places in ((), (dy,), (w,)):
            odd = [a.copy() for a in (dy, w)]
            for given, array in zip((dy, w), odd):
                if any(given is place for place in places):
                    array.flat[0] = np.inf
            with np.errstate(invalid="ignore"):
                wanted = references["correlate_inputs"].reference(*odd, at, 1)
            assert error(served("correlate_inputs", *odd, at, 1), wanted) < 1e-4
            assert len(asked) == 1, places


@needs_library
def test_how_many_columns_at_a_time(rng: np.random.Generator) -> None:
    def of(case: tuple[Any, ...]) -> int:
        x, w, _, _, at, _ = convolved(rng, case)
        return convolution.columns_at_once(at, x.shape[3], w.shape[3], len(x))

    assert [of(case) for case in SPECIAL[-4:]] == [2, 3, 8, 13]
    assert of((8, (28, 28), 1, (5, 5), 9, 1, 2, 1, 1)) == 1  # nine filters leave no room for nine more
    assert of((8, (13, 13), 1, (3, 3), 6, 1, 1, 1, 1)) == 1  # 13 columns are no pairs
    assert of((8, (12, 12), 1, (3, 3), 6, (1, 2), 1, 1, 1)) == of((8, (12, 12), 1, (3, 3), 6, 1, 2, (1, 2), 1)) == 1
    assert of((7, (28, 28), 1, (5, 5), 6, 1, 2, 1, 1)) == of((8, (28, 28), 9, (5, 5), 6, 1, 2, 1, 1)) == 1


@needs_library
@pytest.mark.parametrize("case", [SPECIAL[i] for i in (0, 1, 2, 3, 5, 7, 8, 9, 12, 14)], ids=repr)
def test_nan_and_infinities_reach_the_same_places(case: tuple[Any, ...], rng: np.random.Generator) -> None:
    x, w, b, dy, at, groups = convolved(rng, case)
    x[0, 2, 2, 0], x[-1, -1, -1, -1], x[0, 0, 3, -1] = np.nan, np.inf, -np.inf
    dy[0, 1, 1, 0], dy[-1, -1, -1, -1] = np.nan, np.inf
    with np.errstate(invalid="ignore"):
        y = references["correlate"].reference(x, w, b, at, groups)
        assert np.isnan(y).any() and np.isneginf(y).any()
        assert error(served("correlate", x, w, b, at, groups), y) < 1e-5
        rectified = served("correlate", x, w, b, at, groups, relu=True)
        assert error(rectified, np.maximum(y, 0)) < 1e-5, "ReLU lost a NaN"
        assert not np.signbit(rectified).any(), "ReLU made −0"
        dx = references["correlate_inputs"].reference(dy, w, at, groups)
        assert error(served("correlate_inputs", dy, w, at, groups), dx) < 1e-5


@needs_library
@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf, 1e30])
@pytest.mark.parametrize("place", [0, 1, 2], ids=["x", "w", "b"])
def test_the_librarys_own_relu_follows_only_where_no_nan_can_be(
    place: int, odd: float, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(convolution, "MANY_RESULTS", 0)
    x, w, b, _, at, _ = convolved(rng, SPECIAL[2])
    assert convolution._relu(x, w, b, at) is convolution._relu(x, w, None, at) is passes.MAX_0
    (x, w, b)[place].flat[0] = odd
    assert convolution._relu(x, w, b, at) is passes.RELU
    y = served("correlate", x, w, b, at)
    assert error(served("correlate", x, w, b, at, relu=True), np.maximum(y, 0)) < 1e-5


@needs_library
def test_inputs_may_be_strided_reversed_and_read_only(number: str, rng: np.random.Generator) -> None:
    x, w, b, dy, at, _ = convolved(rng, SPECIAL[2])
    wide = np.zeros((*x.shape[:3], 2 * x.shape[3]), np.float32)
    wide[..., ::2] = x
    strided, turned = wide[..., ::2], np.ascontiguousarray(w[::-1, ::-1])[::-1, ::-1]
    deltas = np.asfortranarray(dy)
    bias = np.repeat(b, 2)[::2]
    for array in (strided, turned, deltas, bias):
        assert not array.flags.c_contiguous
        array.flags.writeable = False
    for name, plain, odd in (
        ("correlate", (x, w, b, at), (strided, turned, bias, at)),
        ("correlate_filters", (x, dy, at), (strided, deltas, at)),
        ("correlate_inputs", (dy, w, at), (deltas, turned, at)),
    ):
        assert np.array_equal(served(name, *plain), served(name, *odd)), name


@needs_library
@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_other_dtypes_are_left_to_the_next(dtype: str, rng: np.random.Generator) -> None:
    x, w, b, dy, at, _ = (a.astype(dtype) if isinstance(a, np.ndarray) else a for a in convolved(rng, SPECIAL[2]))
    assert convolution.correlate(x, w, b, at) is NotImplemented
    assert convolution.correlate(x.astype("f4"), w.astype("f4"), b, at) is NotImplemented
    assert convolution.correlate_filters(x, dy, at) is convolution.correlate_inputs(dy, w, at) is NotImplemented
    assert convolution.parameter_gradients(x, dy, at, 1, True) is NotImplemented


@needs_library
def test_nothing_and_misfits_are_left_to_the_reference(rng: np.random.Generator) -> None:
    x, w, b, dy, at, _ = convolved(rng, SPECIAL[2])
    assert convolution.correlate(x[:0], w, b, at) is NotImplemented
    assert convolution.correlate_filters(x[:0], dy[:0], at) is NotImplemented
    assert convolution.correlate_inputs(dy[:0], w, at) is NotImplemented
    assert convolution.correlate(x[:, 1:], w, b, at) is NotImplemented
    assert convolution.correlate(x, w, b[:1], at) is NotImplemented
    assert convolution.correlate_filters(x, dy[:, :-1], at) is NotImplemented
    assert convolution.correlate_filters(x[:1], dy, at) is NotImplemented
    assert convolution.correlate_inputs(dy[..., 1:], w, at) is NotImplemented
