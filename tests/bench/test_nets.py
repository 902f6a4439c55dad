"""Networks as the peers get them: described completely, or an error that names what the peers lack."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from benching import shared_net

import dualnet as dn
from dualnet.bench import nets
from dualnet.bench.peers import runner


def test_the_wide_layer_is_trained_with_squared_errors(monkeypatch):
    monkeypatch.setattr(nets, "WIDE", 4)
    plan = nets.plan("wide")
    assert (plan["loss"], plan["output_shape"], plan["need_dx"]) == ("mean_squared_error", [16, 16, 4], True)
    x, t = runner.data({**plan, "batch": 2, "seed": 0})
    assert x.shape == t.shape == (2, 16, 16, 4) and x.dtype == t.dtype == np.float32
    classes = runner.data({**nets.plan("lenet5"), "batch": 50, "seed": 0})[1]
    assert classes.shape == (50,) and set(classes) == set(range(10))


LARGE = {"vgg16", "vgg16_bn", "resnet18", "resnet34", "resnet50"}
UNSUPPORTED = {"mobilenetv2", "unet"}


@pytest.mark.parametrize("name", sorted({*nets.NAMES} - LARGE - UNSUPPORTED))
def test_every_named_network_can_be_described(name):
    described = nets.describe(nets.network(name))
    named = set(re.findall(r"'(\w[\w.]*\.\w+)'", str(described)))
    assert named == set(nets.weights(name))  # every weight and statistic, by its right name
    assert json.loads(json.dumps(described))


@pytest.mark.parametrize("name", sorted(UNSUPPORTED))
def test_a_network_that_peers_cannot_build_is_measured_alone(name):
    assert nets.plan(name)["unsupported"].startswith("the peers' steps have no ")


@pytest.mark.parametrize(
    "chain, words",
    [
        ([dn.Conv2D(2, 3, dilation=2)], "dilation=2"),
        ([dn.Conv2D(2, 2, padding="same")], "padding='same'"),
        ([dn.MaxPool2D(2, ceil_mode=True)], "ceil_mode=True"),
        ([dn.Dense(3)], "Dense"),
        ([dn.Flatten(), dn.BatchNorm()], "BatchNorm"),
        ([dn.BatchNorm(scale=False)], "scale=False"),
        ([dn.Tanh()], "Tanh"),
        ([dn.Residual(dn.GELU())], "GELU"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_the_peers_lack_is_named(chain, words):
    with pytest.raises(NotImplementedError, match=re.escape(words)):
        nets.describe(dn.Sequential(chain).init((7, 7, 2)))
    with pytest.raises(NotImplementedError, match="no shared layers"):
        nets.describe(shared_net())
    with pytest.raises(NotImplementedError, match="float64"):
        nets.describe(dn.Sequential([dn.ReLU()]).init((7, 7, 2), dtype="float64"))


def test_a_dense_layer_knows_which_map_was_flattened():
    inner = dn.Sequential([dn.Flatten(), dn.ReLU()])
    net = dn.Sequential([inner, dn.Dense(4), dn.ReLU(), dn.Dense(2)]).init((2, 3, 5))
    assert [at["map"] for kind, at in nets.describe(net) if kind == "dense"] == [[2, 3, 5], None]
