"""The certificate's networks in training: against NumPy's own envelope."""

from __future__ import annotations

import numpy as np

from dualnet.parity.judging.ways import Way
from dualnet.parity.networks import training

NUMPY, STRICT = Way("numpy"), Way("strict")


def test_training_stays_within_the_envelope():
    found = training.judge_network("lenet5", [NUMPY, STRICT], steps=4, seeds=1)
    assert found["verdict"] == "PASS" and found["lock_step"][0]["steps"] == 4
    assert found["training"]["rows"][0]["ratio"] == 0.0 and found["training"]["runs"] == 5


def test_training_that_strays_is_seen(plant):
    plant(affine=lambda reference, *args: reference(*args) * (1 + 1e-3))
    x, t = training.images((28, 28, 1))
    found = training._envelope("lenet5", [NUMPY, Way("strict", kernels=True)], x, t, 0, 3, 1)
    assert not found["ok"] and found["rows"][0]["ratio"] > 1 and found["runs"] == 20


def test_images_fit_the_networks():
    for _, shape in training.NETWORKS.values():
        x, t = training.images(shape)
        assert x.shape[1:] == shape and x.dtype == np.float32 and len(x) == len(t) and set(t) == set(range(10))
