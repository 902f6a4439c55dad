"""An op, judged: that all ops agree, and that each comparison can fail."""

from __future__ import annotations

import pytest
from faults import in_float64, not_a_number, one_element, refusing, scaled

from dualnet.parity.cases.case import KINDS, OPS, draw
from dualnet.parity.cases.truth import expected
from dualnet.parity.judging.judge import judge, repeats
from dualnet.parity.judging.ways import Way

NUMPY, STRICT = Way("numpy"), Way("strict")


@pytest.mark.parametrize("op", OPS)
def test_every_op_agrees(op):
    row = judge(op, "float32", [NUMPY, STRICT], seed=3, cases=10)
    assert row["verdict"] == "PASS", row
    assert set(row["kinds"]) == set(KINDS)


@pytest.mark.parametrize(
    ("fault", "seen"),
    [(scaled, ""), (one_element, ""), (in_float64, "exception"), (not_a_number, "nan"), (refusing, "exception")],
)
def test_each_comparison_can_fail(plant, fault, seen):
    plant(affine=fault)
    way = Way("strict", kernels=True)
    row = judge("dense", "float32", [NUMPY, STRICT, way], cases=4)
    by_way = {tally["what"]: tally for tally in row["ways"]}
    assert row["verdict"] == "FAIL"
    assert by_way["strict kernels"]["failed"] > 0 and by_way["strict"]["failed"] == by_way["numpy"]["failed"] == 0
    assert not seen or by_way["strict kernels"]["mismatches"][seen] > 0
    pairs = {tally["what"]: tally["failed"] for tally in row["pairs"]}
    assert pairs["strict kernels ↔ strict"] > 0 and pairs["strict ↔ numpy"] == 0  # three culprits: this is the kernel


def test_results_that_change_are_seen(plant):
    runs = iter(range(10_000))

    def restless(reference, *args):
        y = reference(*args)
        return y * (1 + 1e-7 * (next(runs) % 2))

    plant(affine=restless)
    case = draw("dense", 0)
    expected(case)  # gives the case its dy
    assert repeats(Way("strict", kernels=True), case) > 5
    assert repeats(STRICT, case) == repeats(NUMPY, case) == 0
