"""Checks of single arguments: a good one comes out as a Python value; for bad ones all errors have one wording."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

import dualnet as dn
from dualnet.arguments import LIMIT, can_take, count, extents, flag, fraction, index, integer, number, positive, real

NAN, INF = float("nan"), float("inf")
NO_NUMBER = [None, "1", b"1", (1,), [], {}, ..., 1j, True, np.ones(1), np.ones((2, 2))]
NO_INTEGER = [*NO_NUMBER, 1.0, 1e18, np.float32(1), NAN]


def plain(value):
    return type(value), value


def test_python_numbers_come_out():
    for given in (2, np.int8(2), np.uint64(2), np.array(2)):
        for check in (integer, index, count):
            assert plain(check(given, "n", op="op")) == (int, 2)
        assert [plain(side) for side in extents((given, given), "n", op="op")] == [(int, 2)] * 2
    for given in (0.5, np.float16(0.5), np.float64(0.5), np.array(0.5), Fraction(1, 2)):
        for check in (real, number, positive, fraction):
            assert plain(check(given, "x", op="op")) == (float, 0.5)
    assert flag(True, "f", op="op") is True and flag(False, "f", op="op") is False


def test_whole_numbers():
    assert integer(0, "n", op="op", least=0) == 0 and integer(-3, "n", op="op", least=-3) == -3
    assert integer(LIMIT, "n", op="op") == LIMIT == 2147483647
    assert index(-(10**30), "n", op="op") == -(10**30)
    assert extents([2, 3], "n", op="op") == (2, 3) and extents(4, "n", op="op") == (4, 4)
    assert count(1e4, "n", op="op") == 10_000 and count(0.0, "n", op="op", least=0) == 0


def test_real_numbers():
    assert real(-INF, "x", op="op") == -INF and np.isnan(real(NAN, "x", op="op"))
    assert real(10**400, "x", op="op") == INF and real(-(10**400), "x", op="op") == -INF
    assert number(0, "x", op="op") == 0.0 and number(1, "x", op="op", most=1) == 1.0
    assert positive(1e-300, "x", op="op") == 1e-300 and positive(1, "x", op="op", most=1) == 1.0
    assert fraction(0, "x", op="op") == 0.0


@pytest.mark.parametrize("bad", NO_INTEGER, ids=repr)
def test_no_integers(bad):
    with pytest.raises(TypeError, match="^op: n must be an integer, got "):
        integer(bad, "n", op="op")
    with pytest.raises(TypeError, match="^op: n must be an integer, got "):
        index(bad, "n", op="op")
    with pytest.raises((TypeError, ValueError), match="^op: n "):
        extents((1, bad), "n", op="op")


@pytest.mark.parametrize("bad", NO_NUMBER, ids=repr)
def test_no_numbers(bad):
    for check in (real, number, positive, fraction, count):
        with pytest.raises(TypeError, match="^op: x must be a number, got "):
            check(bad, "x", op="op")


@pytest.mark.parametrize(
    "check, options, bad, message",
    [
        (integer, {}, 0, r"n must be at least 1, got 0"),
        (integer, {"least": -2}, -3, "n must be at least -2, got -3"),
        (integer, {}, LIMIT + 1, "n must be at most 2147483647, got 2147483648"),
        (extents, {}, (10**18, 1), r"n must be at most 2147483647, got \(1000000000000000000, 1\)"),
        (extents, {}, (1, 0), r"n must be at least 1, got \(1, 0\)"),
        (extents, {}, (1, 2, 3), r"n must be an integer or \(height, width\), got \(1, 2, 3\)"),
        (count, {}, 0, "n must be a whole number of at least 1, got 0"),
        (count, {}, 1.5, "n must be a whole number of at least 1, got 1.5"),
        (count, {}, INF, "n must be a whole number of at least 1, got inf"),
        (number, {}, -1e-9, "n must be a finite number of at least 0, got -1e-09"),
        (number, {}, INF, "n must be a finite number of at least 0, got inf"),
        (number, {"most": 1}, 30, "n must be a finite number from 0 to 1, got 30"),
        (positive, {}, 0, "n must be a finite number above 0, got 0"),
        (positive, {}, INF, "n must be a finite number above 0, got inf"),
        (positive, {"most": 1}, 1.5, "n must be a number above 0 and at most 1, got 1.5"),
        (fraction, {}, 1, "n must be a number from 0 to below 1, got 1"),
        (fraction, {}, -0.1, "n must be a number from 0 to below 1, got -0.1"),
        (fraction, {}, -(10**400), "n must be a number from 0 to below 1, got -1000"),
    ],
)
def test_out_of_bounds(check, options, bad, message):
    with pytest.raises(ValueError, match=f"^op: {message}"):
        check(bad, "n", op="op", **options)


@pytest.mark.parametrize("check", [count, number, positive, fraction])
def test_nan_is_out_of_all_bounds(check):
    with pytest.raises(ValueError, match="^op: x .*got nan"):
        check(NAN, "x", op="op")


@pytest.mark.parametrize("bad", [None, 0, 1, "no", "", [], np.True_, NAN], ids=repr)
def test_flags_are_true_or_false(bad):
    with pytest.raises(TypeError, match="^op: f must be True or False, got "):
        flag(bad, "f", op="op")


@pytest.mark.parametrize(
    "make",
    [
        lambda bad: dn.Conv2D(1, 1, use_bias=bad),
        lambda bad: dn.Conv2DTranspose(1, 1, use_bias=bad),
        lambda bad: dn.DepthwiseConv2D(1, use_bias=bad),
        lambda bad: dn.SeparableConv2D(1, 1, use_bias=bad),
        lambda bad: dn.Dense(1, use_bias=bad),
    ],
)
def test_a_bias_is_no_word(make):
    for bad in ("no", None, 1):
        with pytest.raises(TypeError, match="use_bias must be True or False, got "):
            make(bad)
    assert make(False).use_bias is False


def test_early_stopping_counts_with_numbers():
    for options in ({"least": "0.1"}, {"restore_best": "no"}, {"patience": 1.5}):
        with pytest.raises(TypeError, match=f"EarlyStopping: {next(iter(options))} "):
            dn.EarlyStopping(**options)


def test_how_many_arguments_a_function_can_take():
    def two(a, b, *, c=1):
        pass

    assert [can_take(two, n) for n in range(4)] == [False, False, True, False]
    assert [can_take(lambda *given: given, n) for n in range(3)] == [True] * 3
    assert not can_take(lambda *, x: x, 0) and can_take(dict, 5), "unknown: believed"
