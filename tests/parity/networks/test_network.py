"""A network of your own against float64."""

from __future__ import annotations

import numpy as np
import pytest
from faults import in_float64, scaled

import dualnet as dn
from dualnet.check import CheckError
from dualnet.parity.judging.ways import Way
from dualnet.parity.networks import network

NUMPY = Way("numpy")


def learner(dtype: str = "float32") -> dn.Sequential:
    layers = [dn.Conv2D(4, 3), dn.BatchNorm(), dn.ReLU(), dn.MaxPool2D(2), dn.Flatten(), dn.Dense(5)]
    return dn.Sequential(layers).init((8, 8, 2), seed=0, dtype=dtype)


@pytest.fixture
def examples(rng):
    return rng.standard_normal((6, 8, 8, 2)).astype("float32"), np.arange(6) % 5


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_network_agrees(examples, dtype):
    net = learner(dtype)
    before = {name: dn.to_numpy(value).tobytes() for name, value in net.state_dict().items()}
    found = dn.parity(net, *examples, backends=("numpy reference", "numpy", "strict"))
    assert found and found.top_1 == dict.fromkeys(found.top_1, 6) and len(found.twins) == 2
    assert {"y", "loss", "gradient 0.w", "gradient 5.b"} <= {row.result for row in found.rows}
    assert before == {name: dn.to_numpy(value).tobytes() for name, value in net.state_dict().items()}
    assert "PASS" in found._repr_html_() and "agrees" in str(found)


def test_a_network_on_a_faulty_backend(plant, examples):
    plant(affine=scaled)
    found = dn.parity(learner(), *examples)
    assert not found and "DISAGREES" in str(found) and "FAIL" in found._repr_html_()
    assert any("5 Dense" in str(t.stopped) for t in found.twins)
    with pytest.raises(CheckError, match="5 Dense"):
        dn.parity(learner(), *examples, raises=True)


def test_another_dtype_is_seen(plant, examples):
    plant(affine=in_float64)
    with pytest.raises(TypeError, match="float64"):  # the loss of float64 outputs has a float64 gradient
        dn.parity(learner(), *examples)


def test_other_answers_are_wrong_unless_they_were_nearly_equal():
    report = network.NetworkParity("net", "float32", 2)
    r = np.asarray([[1.0, 0.0], [1.0, 1.0 - 1e-9]])
    network._answers(report, NUMPY, r[:, ::-1], r)
    assert report.top_1 == {"numpy": 0} and report.wrong_answers == {"numpy": 0}  # so far apart that the rows show it
    network._answers(report, NUMPY, np.asarray([[0.1, 0.2], [1.0, 0.9]]), np.asarray([[0.9, 0.0], [1.0, 0.9]]))
    assert report.top_1 == {"numpy": 1}


def test_a_unit_moved_by_one_ulp(rng):
    net = learner()
    other = network.moved(net, rng)
    w, moved = (dn.to_numpy(n.parameters()["0.w"].value) for n in (net, other))
    steps = np.abs(moved - w) / np.abs(np.spacing(w))
    assert np.all(w != moved) and steps.max() <= 1 and 0.3 < np.mean(moved > w) < 0.7


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"backends": ()}, "expected names as backends"),
        ({"backends": "numpy"}, "expected names as backends"),
        ({"backends": ("numpy", "numpy fast")}, "'kernels' or 'reference'"),
        ({"backends": ("numpy", "nunpy")}, "unknown backend"),
        ({"t": np.arange(5)}, "do not fit"),
        ({"loss": "l3"}, "unknown loss"),
    ],
)
def test_wrong_arguments_are_named(examples, arguments, message):
    x, t = examples
    with pytest.raises(ValueError, match=message):
        dn.parity(learner(), x, arguments.pop("t", t), **arguments)
