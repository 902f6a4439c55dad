"""Cases: the same on every machine, and as varied as they promise."""

from __future__ import annotations

import numpy as np

from dualnet.parity.cases.case import LAYOUTS, draw, skipped


def test_every_op_has_cases():
    assert skipped() == []


def test_a_case_is_the_same_everywhere():
    one, other = (draw("conv2d", 17, seed=5) for _ in range(2))
    assert str(one) == str(other) and np.array_equal(one.arrays["x"], other.arrays["x"])
    assert str(draw("conv2d", 17, seed=6)) != str(one)
    wide = draw("conv2d", 17, 5, "float64")
    assert wide.options == one.options and np.array_equal(wide.arrays["x"].astype("float32"), one.arrays["x"])


def test_cases_cover_what_they_promise():
    drawn = [draw("conv2d", number) for number in range(40)]
    assert {case.layout for case in drawn} == set(LAYOUTS)
    assert {0, 1} <= {case.arrays["x"].shape[0] for case in drawn}
    taps = [case.arrays["w"][..., 0].size for case in drawn if not case.refused]
    assert min(taps) == 1 and max(taps) == 10_000
    for option in ("stride", "dilation"):
        assert len({case.options.get(option) for case in drawn}) > 3
    assert {1, 2, 3} <= {case.options.get("groups", 1) for case in drawn}
    assert {str, int, tuple} <= {type(case.options["padding"]) for case in drawn if "padding" in case.options}
