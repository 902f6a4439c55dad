"""What the step in PyTorch asks ``torch.compile`` for, by variant."""

from __future__ import annotations

import json

import pytest

from dualnet.bench import nets
from dualnet.bench.peers import runner, torch_peer

torch = pytest.importorskip("torch")


@pytest.fixture
def task(tmp_path):
    import numpy

    numpy.savez(tmp_path / "weights.npz", **nets.weights("lenet5"))
    sizes = {
        "batch": 2,
        "mode": "training",
        "dtype": "float32",
        "device": "cpu",
        "seed": 0,
        "momentum": 0.0,
        "threads": 1,
    }
    return json.loads(json.dumps({**nets.plan("lenet5"), **sizes, "weights": str(tmp_path / "weights.npz")}))


@pytest.mark.parametrize(
    ("variant", "compiles"),
    [("contiguous", False), ("channels_last", False), ("compiled", True), ("reduce-overhead", True)],
)
def test_compiled_variants_are_compiled(task, monkeypatch, variant, compiles):
    asked = []
    monkeypatch.setattr(torch, "compile", lambda function, **how: asked.append(how) or function)
    task["variant"] = variant
    run, value = torch_peer.build(task, *runner.data(task), runner.weights(task))
    assert value(run()) > 0 and asked == [{"dynamic": False}] * compiles


def test_the_modes_are_pytorchs_own():
    modes = torch._inductor.list_mode_options()
    assert set(torch_peer.COMPILED.values()) == {"max-autotune", "reduce-overhead"} <= modes.keys()
    assert modes["max-autotune"]["max_autotune"] and not modes["reduce-overhead"].get("max_autotune")
