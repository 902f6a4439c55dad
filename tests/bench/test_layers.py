"""Where the time of a step goes: every layer, each once, and no clocks left behind."""

from __future__ import annotations

import numpy as np
import pytest
from benching import shared_net

import dualnet as dn
from dualnet.bench import layers
from dualnet.layers.containers import forward_of


def test_layers_of_a_step(backend):
    net = shared_net()
    x, dy = dn.asarray(np.ones((2, 6, 6, 2), "float32")), dn.asarray(np.ones((2, 2), "float32"))
    seen = []

    def step():
        _, pullback = forward_of(net, x, True, False)
        seen.append({name: dn.to_numpy(g) for name, g in pullback(dy)[1].items()})
        pullback.free()

    step()
    result = layers.layer_times(net, step, 2, 0.0)
    assert all(np.array_equal(a[name], b[name]) for a, b in zip(seen, seen[1:]) for name in a)  # clocks change nothing
    rows = {row["name"]: row for row in result["rows"]}
    assert list(rows) == ["0", "1.layer.0", "1.layer.1", "2", "3"]  # the shared layer once
    for name, uses, ways in (("0", 1, 1), ("1.layer.0", 2, 2), ("3", 1, 2)):
        row, adds = rows[name], {"0": 36 * 9 * 2 * 3, "1.layer.0": 36 * 9 * 3 * 3, "3": 108 * 2}[name]
        flop = 2 * adds * uses * 2  # a batch of two
        assert row["forward_gflops"] * row["forward_ms"] * 1e6 == pytest.approx(flop)
        assert row["backward_gflops"] * row["backward_ms"] * 1e6 == pytest.approx(ways * flop)
    assert rows["2"]["forward_gflops"] is None and result["rest_ms"] >= 0 and result["runs"] == 3
    assert not any("forward" in vars(layer) for _, layer in net.walk())


def test_a_step_that_fails_leaves_no_clocks_behind():
    net = shared_net()
    with pytest.raises(ZeroDivisionError):
        layers.layer_times(net, lambda: 1 / 0, 1, 0.0)
    assert not any("forward" in vars(layer) for _, layer in net.walk())


def test_a_layer_that_runs_with_another_has_no_times():
    net = shared_net()
    (row, *_) = layers.layer_times(net, lambda: None, 1, 0.0)["rows"]
    assert row["forward_ms"] is row["forward_gflops"] is None
