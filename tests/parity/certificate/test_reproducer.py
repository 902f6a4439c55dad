"""The code behind a reproducer: one case in every way, with its numbers."""

from __future__ import annotations

import pytest
from faults import scaled

from dualnet.parity.certificate.reproducer import one_case


def test_the_reproducer_of_a_large_case(plant):
    text, ok = one_case("dense", 0, seed=0, dtype="float32", backends=["strict"], large=True)
    assert ok and "x 64x400" in text
    plant(affine=scaled)
    text, ok = one_case("dense", 0, seed=0, dtype="float32", backends=["strict"], large=True)
    assert not ok


def test_a_backend_that_does_not_work_is_named():
    text, ok = one_case("relu", 0, seed=0, dtype="float32", backends=["cupy:99"])
    assert ok and "cupy:99: NOT-RUN: " in text


def test_a_call_that_must_be_refused():
    text, ok = one_case("softmax_cross_entropy", 6, seed=0, dtype="float32", backends=["strict"])
    assert ok and "must raise ValueError" in text and text.count("raised what it must") == text.count("\n") - 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("relu", -1, False), "the number of a case must be at least 0, got -1"),
        (("dense", 2, True), "op 'dense' has 2 large cases, numbered from 0; got 2"),
        (("elu", 0, True), "op 'elu' has 0 large cases"),
        (("relux", 0, False), "no cases for op 'relux'; the ops with cases are conv2d, "),
    ],
)
def test_a_case_that_does_not_exist(arguments, message):
    op, number, large = arguments
    with pytest.raises(ValueError, match=message):
        one_case(op, number, seed=0, dtype="float32", backends=["strict"], large=large)
