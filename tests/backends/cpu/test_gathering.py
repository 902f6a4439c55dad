"""E13 gathered: the deltas correlated with the rotated bank are the adjoint of the correlation."""

from __future__ import annotations

import numpy as np
import pytest
from cpu_tools import REFERENCES, drawn
from oracles import error, tau

from dualnet.backends.cpu import band_matrix, gathering
from dualnet.geometry import windows


@pytest.mark.parametrize("case", range(40))
def test_a_gathered_e13_is_the_reference(rng, case):
    at, _, w, _, dy, K = drawn(rng, "float64", stride=1)
    back = gathering.windows(at)
    reach = [r * (k - 1) for r, k in zip(at.dilation, at.window)]
    if any(side > r for sides, r in zip(at.pads, reach) for side in sides):
        assert back is None, "a window that reads nothing but padding has no place on the map of deltas"
        return
    assert back.size == at.grid and back.grid == at.size
    dx = REFERENCES["correlate"](dy, gathering.turned(w), None, back)
    assert error(dx, REFERENCES["correlate_inputs"](dy, w, at)) <= tau("float64", K)


def test_a_stride_cannot_be_gathered():
    assert gathering.windows(windows("t", (9, 9), (3, 3), stride=(1, 2))) is None
    assert gathering.windows(windows("t", (9, 9), (3, 3), dilation=(1, 2))) is not None


def test_the_bank_is_rotated_and_its_channels_and_filters_exchanged(rng):
    w = rng.standard_normal((2, 3, 4, 5))
    turned = gathering.turned(w)
    assert turned.shape == (2, 3, 5, 4) and np.shares_memory(turned, w)
    assert turned[0, 1, 4, 2] == w[1, 1, 2, 4]


def test_it_is_better_where_it_reads_at_most_twice_what_scattering_adds():
    at = windows("t", (8, 8), (3, 3), padding=1)
    assert gathering.better(at, 10, 20, 1) == gathering.windows(at)
    assert gathering.better(at, 10, 21, 1) is None
    shrinks = windows("t", (8, 8), (5, 5))  # 64 units, 16 windows
    assert gathering.better(shrinks, 10, 5, 1) and not gathering.better(shrinks, 10, 6, 1)
    assert gathering.better(windows("t", (8, 8), (3, 3), stride=2), 10, 1, 1) is None


def test_narrow_windows_are_gathered_whatever_they_read():
    at = windows("t", (28, 28), (5, 5), padding=2)  # LeNet-5's first layer
    back = gathering.windows(at)
    assert gathering.narrow(back, 1, 6, 64) and gathering.better(at, 1, 6, 64) == back
    few = band_matrix.IMAGES - 1
    assert not gathering.narrow(back, 1, 6, few) and gathering.better(at, 1, 6, few) is None
