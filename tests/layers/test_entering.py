"""Arrays that enter a network: copied to its backend, in its dtype, or an error."""

from __future__ import annotations

import numpy as np
import pytest

import dualnet as dn
from dualnet.backend import backend_of
from dualnet.layers.entering import as_batch, home


@pytest.mark.parametrize(
    "given", [[[1, 2]], np.array([[1, 2]], "u1"), np.array([[1.0, 2.0]])], ids=["list", "u1", "f8"]
)
def test_a_batch_comes_to_the_network(backend, given):
    net = dn.Sequential([dn.Dense(3)]).init((2,))
    with dn.use_backend("strict"):  # what is in force does not matter
        x = as_batch(net, given, "trace")
    assert backend_of(x).name == backend == home(net)
    assert x.dtype.name == "float32" and dn.to_numpy(x).tolist() == [[1.0, 2.0]]


def test_from_one_backend_to_another():
    net = dn.Sequential([dn.Dense(3)]).init((2,)).to("strict")
    x = as_batch(net, dn.asarray([[1.0, 2.0]], backend="numpy"), "trace")
    assert backend_of(x).name == "strict" == home(net)


def test_a_network_without_parameters_is_at_home_on_the_backend_in_force(backend):
    net = dn.Sequential([dn.ReLU()]).init((2,))
    assert home(net) == backend
    with dn.use_backend("strict"):
        assert home(net) == "strict"


def test_what_is_refused(backend):
    net = dn.Sequential([dn.Dense(3)])
    with pytest.raises(ValueError, match=r"^trace: Sequential is not initialised; call net.init\(input_shape\) first"):
        as_batch(net, [[1.0, 2.0]], "trace")
    net.init((2,))
    with pytest.raises(ValueError, match="^trace: x holds no examples"):
        as_batch(net, np.zeros((0, 2)), "trace")
    with pytest.raises(ValueError, match=r"^Sequential: x has shape \(1, 3\); expected \(N, 2\)"):
        as_batch(net, [[1.0, 2.0, 3.0]], "trace")
