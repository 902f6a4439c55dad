"""Two results side by side: everything that must be equal, and what counts as equal."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from dualnet.parity.cases import limits
from dualnet.parity.cases.case import draw
from dualnet.parity.cases.truth import expected
from dualnet.parity.judging.compare import compare, measure
from dualnet.parity.judging.ways import Way

NUMPY = Way("numpy")


def test_another_dtype_is_seen():
    x = np.zeros(3)
    assert measure(x, x, limits.exact(x), "float32").mismatch == "dtype"


def test_another_shape_is_seen():
    case = draw("relu", 0)
    right, outcome = expected(case), NUMPY.run(case)
    assert compare(case, "", outcome, right).ok
    outcome.values["y"] = outcome.values["y"][..., :-1]
    assert compare(case, "", outcome, right).mismatches == ["shape"]


def test_infinities_of_the_other_sign_are_seen():
    limit = limits.exact(np.zeros(2))
    x, r = np.asarray([np.inf, 1.0]), np.asarray([-np.inf, 1.0])
    assert measure(x, r, limit, "float64").mismatch == "inf"
    assert measure(r, r, limit, "float64").ok


def test_subnormal_numbers_count_as_zero():
    x, r = np.asarray([1e-40, 1.0], "float32"), np.asarray([0.0, 1.0])
    assert measure(x, r, limits.exact(r), "float32").ok
    assert not measure(np.asarray([1e-30, 1.0], "float32"), r, limits.exact(r), "float32").ok


def test_a_call_that_must_be_refused_and_is_not():
    case = draw("softmax_cross_entropy", 6)
    assert case.refused == "ValueError" and NUMPY.run(case).error == "ValueError"
    accepted = replace(case, options=case.options | {"check_labels": False})
    found = compare(case, "", NUMPY.run(accepted), None)
    assert found.mismatch == "exception" and "nothing raised, expected ValueError" in found.note


def test_nan_belongs_where_the_truth_has_it_and_nowhere_else():
    limit = limits.exact(np.zeros(2))
    nan, number = np.asarray([np.nan, 1.0]), np.asarray([2.0, 1.0])
    assert measure(nan, number, limit, "float64").mismatch == "nan"
    assert measure(number, nan, limit, "float64").mismatch == "nan"
    assert measure(nan, nan, limit, "float64").ok
