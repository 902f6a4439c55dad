"""Windows on maps: sizes, padding, blocks, and windows that do not fit."""

from __future__ import annotations

import time

import numpy as np
import pytest
from drawn import drawn
from hypothesis import example, given, reject
from hypothesis import strategies as st

import dualnet as dn
from dualnet.geometry import _sum_of_floors, check_padding, check_shape, elements, height_and_width, transposed, windows


@pytest.mark.parametrize("size", range(1, 9))
@pytest.mark.parametrize("k, s, r", [(1, 1, 1), (2, 1, 1), (3, 2, 1), (2, 3, 2), (3, 1, 2), (4, 3, 1)])
@pytest.mark.parametrize("padding", [0, 1, (2, 3), "same", "full"])
def test_positions_are_those_that_can_be_counted(size, k, s, r, padding):
    """E6 against a walk: the window starts at −p_before and takes steps of s while it fits."""
    extent = r * (k - 1) + 1
    sides = (padding, padding) if isinstance(padding, int) else padding
    if padding == "same":
        at = windows("op", (size, size), (k, k), stride=s, padding=padding, dilation=r)
        assert at.grid == (-(-size // s),) * 2
        before, after = at.pads[0]
        assert 0 <= after - before <= 1  # the odd row at the end
        return
    if padding == "full":
        sides = (extent - 1, extent - 1)
    starts = [i for i in range(0, size + sum(sides), s) if i + extent <= size + sum(sides)]
    given = "full" if padding == "full" else (sides, sides)
    if not starts:
        with pytest.raises(ValueError, match="does not fit on a map"):
            windows("op", (size, size), (k, k), stride=s, padding=given, dilation=r)
    else:
        assert windows("op", (size, size), (k, k), stride=s, padding=given, dilation=r).grid == (len(starts),) * 2


@pytest.mark.parametrize("size", range(1, 12))
@pytest.mark.parametrize("k, s, p", [(2, 2, 0), (3, 2, 1), (2, 3, 1), (1, 2, 0), (3, 3, 0), (3, 3, 1)])
def test_ceil_mode_counts_every_window_that_starts_on_the_map(size, k, s, p):
    if size + 2 * p < k:
        return
    at = windows("op", (size, size), (k, k), stride=s, padding=p, ceil_mode=True)
    starts = [
        i for i in range(-p, size, s) if i < size and i - s + k < size + p
    ]  # the one before did not reach the end
    assert at.grid[0] == len(starts)
    assert at.overhang[0] == max(0, starts[-1] + k - (size + p))
    assert at.first_empty() == (None, None)


@pytest.mark.parametrize("first, last", [(0, 1), (0, 2), (1, 3), (2, 4), (0, 4)])
def test_rows_alone_read_what_they_read_together(first, last):
    at = windows("op", (7, 5), (3, 2), stride=(2, 1), padding=((2, 1), (1, 0)), dilation=(2, 1))
    assert at.grid == (3, 5)
    last = min(last, 3)
    if first >= last:
        return
    inside, part = at.rows(first, last)
    padded = np.pad(np.arange(1, 36).reshape(7, 5), at.pads)
    own = np.pad(np.arange(1, 36).reshape(7, 5)[inside], part.pads)
    for whole, alone in zip(at.slices(), part.slices()):
        assert np.array_equal(padded[whole][first:last], own[alone])


def test_blocks_cover_every_window_once(monkeypatch):
    at = windows("op", (9, 9), (3, 3), padding=1)
    for limit in (1, 100, 2000, 10**6):
        monkeypatch.setattr("dualnet.geometry.BLOCK_BYTES", limit)
        seen = np.zeros((5, 9), int)
        for images, rows, _, part in at.blocks(5, 4):
            seen[images, rows] += 1
            assert part.grid[0] == rows.stop - rows.start
        assert (seen == 1).all()


# -- closed forms, against loops ---------------------------------------------------------------------------------------


def first_by_a_walk(at, axis):
    """The first window along an axis that has no tap on the map, found by looking at every tap of every window."""
    for i in range(at.grid[axis]):
        start = i * at.stride[axis] - at.pads[axis][0]
        taps = [start + m * at.dilation[axis] for m in range(at.window[axis])]
        if not any(0 <= place < at.size[axis] for place in taps):
            return i
    return None


small, side = st.integers(1, 12), st.integers(0, 40)


@drawn
@given(
    st.tuples(small, small),
    st.tuples(small, small),
    st.tuples(small, small),
    st.tuples(st.tuples(side, side), st.tuples(side, side)),
    st.tuples(small, small),
    st.booleans(),
)
@example((1, 5), (2, 2), (1, 3), ((3, 0), (9, 0)), (4, 9), False)  # windows that step over a narrow map
@example((3, 3), (1, 1), (2, 1), ((0, 0), (0, 5)), (1, 1), True)  # windows that begin behind the map
def test_windows_beside_the_map_are_found_as_by_a_walk(size, window, stride, padding, dilation, ceil_mode):
    try:
        at = windows("op", size, window, stride=stride, padding=padding, dilation=dilation, ceil_mode=ceil_mode)
    except ValueError:
        reject()
    assert at.first_empty() == (first_by_a_walk(at, 0), first_by_a_walk(at, 1))


@drawn
@given(st.integers(0, 30), st.integers(0, 99), st.integers(-99, 99), st.integers(1, 40))
def test_a_sum_of_floors(count, a, b, m):
    assert _sum_of_floors(count, a, b, m) == sum((a * i + b) // m for i in range(count))


@pytest.mark.parametrize(
    "size, window, options, found",
    [
        ((28, 28), (12000, 12000), {"padding": 4000 * 2}, (None, None)),
        ((1, 1), (2**31 - 1, 1), {"padding": ((2**31 - 2, 2**31 - 2), (2**31 - 1, 0))}, (None, 0)),
        ((2**31 - 1, 1), (1, 1), {"padding": ((0, 2**31 - 1), (0, 0))}, (2**31 - 1, None)),
        # Window i has its second tap at 2·i + 10⁹, and its first before the map: the first to reach 2·10⁹ misses it.
        (
            (2 * 10**9, 1),
            (2, 1),
            {"dilation": (2 * 10**9 + 1, 1), "stride": 2, "padding": ((10**9 + 1, 10**9), (0, 0))},
            (500_000_000, None),
        ),
    ],
)
def test_billions_of_windows_are_judged_at_once(size, window, options, found):
    start = time.thread_time()
    assert windows("op", size, window, **options).first_empty() == found
    assert time.thread_time() - start < 0.1


@pytest.mark.parametrize("k, s, p, more, r", [(3, 2, 1, 1, 1), (4, 2, 1, 0, 1), (2, 3, 0, 2, 1), (3, 1, 1, 0, 2)])
@pytest.mark.parametrize("grid", [1, 2, 5])
def test_transposed_is_the_map_a_convolution_starts_from(k, s, p, more, r, grid):
    if (grid - 1) * s + r * (k - 1) + 1 - 2 * p + more < 1:
        return
    back = transposed("op", (grid, grid), (k, k), stride=s, padding=p, output_padding=more, dilation=r)
    forth = windows("op", back.size, (k, k), stride=s, padding=p, dilation=r)
    assert forth.grid == (grid, grid)


def test_paddings():
    assert check_padding([1, 2], op="op") == ((1, 1), (2, 2))
    assert check_padding(((0, 1), [2, 3]), op="op") == ((0, 1), (2, 3))
    for wrong in ("some", (1, 2, 3), ((1, 2), 3), ((1, 2), (3,)), -1):
        with pytest.raises(ValueError, match="op: padding"):
            check_padding(wrong, op="op")


@pytest.mark.parametrize(
    "act, words",
    [
        (lambda a: dn.ops.conv2d(a(5, 5), a(3, 3)), r"x has shape \(5, 5\); .* channel, write x\[None, :, :, None\]"),
        (lambda a: dn.ops.max_pool2d(a(2, 5, 5), 2), r"x has shape \(2, 5, 5\); .* channel, x\[..., None\]"),
        (
            lambda a: dn.ops.conv2d(a(1, 3, 8, 8), a(2, 2, 3, 4)),
            r"or x.transpose\(0, 2, 3, 1\) if its channels come first",
        ),
        (lambda a: dn.ops.conv2d(a(1, 5, 8, 8), a(2, 2, 3, 4)), r"Expected w of shape \(k1, k2, 8, D\)\.$"),
    ],
)
def test_axes_that_are_missing_or_in_another_order_are_named(backend, act, words):
    with pytest.raises(ValueError, match=words):
        act(lambda *shape: dn.asarray(np.ones(shape)))


# -- the shape of an input ---------------------------------------------------------------------------------------------


def test_shapes_of_one_input():
    assert check_shape([28, np.int64(28), 1.0], "net") == (28, 28, 1) and check_shape(7, "net") == (7,)
    for wrong in (True, "28", (), (1,) * 5, (3, 0), (3, -1), (2.5,), (True, 3), None, (float("inf"),), {}):
        with pytest.raises(
            ValueError, match="^net: input_shape must be a shape without the batch, such as .28, 28, 1.; got "
        ):
            check_shape(wrong, "net")
    with pytest.raises(ValueError, match=r"got an array; its examples have the shape x.shape\[1:\], \(5, 2\)"):
        check_shape(np.zeros((3, 5, 2)), "net")


def test_height_and_width():
    assert height_and_width((5, 4, 3), "MaxPool2D") == (5, 4) and elements((5, 4, 3)) == 60 and elements(()) == 1
    for shape, hint in [
        ((28, 28), r"Images \(N, H, W\) lack their channel"),
        ((7, 5, 4, 3), r"Without the batch it is \(5, 4, 3\)"),
        ((10,), "It is no longer a map"),
    ]:
        with pytest.raises(ValueError, match=rf"^MaxPool2D: expected feature maps \(H, W, C\), got .*{hint}"):
            height_and_width(shape, "MaxPool2D")
