"""Targets and weights: shares add up, ignored targets are replaced, and a mean of huge terms is a number."""

from __future__ import annotations

import numpy as np
import pytest
from oracles import error, tau

import dualnet as dn
from dualnet.ops import targets


@pytest.mark.parametrize("shape, axes", [((4,), 1), ((4,), 3), ((4, 2), 2), ((4, 2), 3), ((4, 2, 3), 3)])
def test_shares_add_up_to_1(backend, rng, shape, axes):
    y, w = dn.asarray(rng.standard_normal((4, 2, 3))), rng.uniform(0, 1, shape)
    shares = targets.shares_of("loss", y, dn.asarray(w), axes)
    assert tuple(shares.shape) == (*shape, *(1,) * (3 - len(shape)))
    repeated = np.broadcast_to(dn.to_numpy(shares), (*y.shape[:axes], *(1,) * (3 - axes)))
    assert repeated.sum() == pytest.approx(1.0, rel=1e-14)
    assert error(dn.to_numpy(shares).ravel() / w.ravel(), np.full(w.size, dn.to_numpy(shares).max() / w.max())) < 1e-14


def test_no_weights_have_no_shares(backend):
    assert targets.shares_of("loss", dn.asarray(np.ones((2, 3))), None, 1) is None


def test_what_counts(backend):
    values = dn.asarray([[1.0, np.nan], [np.inf, 4.0]])
    kept = targets.counted(values, dn.asarray([[0.0], [0.5]]), 7)
    assert dn.to_numpy(kept).tolist() == [[7.0, 7.0], [np.inf, 4.0]] and targets.counted(values, 4) is values


@pytest.mark.parametrize("over", [4, [0.1, 0.2, 0.3, 0.4]])
def test_a_mean_of_huge_terms_is_a_number(backend, over):
    terms = dn.asarray(np.full(4, 3e38, "float32"))
    mean = targets.mean_of(terms, over if isinstance(over, int) else dn.asarray(over, "float32"))
    assert error(dn.to_numpy(mean), 3e38) <= tau("float32", 4)
