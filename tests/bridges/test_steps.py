"""A network as a list of steps, and what cannot be written in any language."""

from __future__ import annotations

import numpy as np
import pytest
from bridge_nets import EVERY

import dualnet as dn
from dualnet.bridges import steps
from dualnet.bridges.steps import plan


def test_layers_that_do_nothing_are_no_steps():
    layers = [dn.Identity(), dn.Flatten(), dn.Dropout(0.5), dn.Parallel([dn.Sequential([dn.SpatialDropout2D(0.5)])])]
    made = plan(dn.Sequential([*layers[::-1], dn.Flatten()]).init((2, 3, 4)), "to_c")
    assert made.steps == [] and made.output.place == 0 and made.output.shape == (24,)


def test_a_detour_reads_its_input_twice():
    net = dn.Residual(dn.Sequential([dn.Dense(4), dn.ReLU()])).init((4,))
    made = plan(net, "to_c")
    assert [(s.kind, [x.place for x in s.inputs], s.output.place) for s in made.steps] == [
        ("dense", [0], 1),
        ("relu", [1], 2),
        ("add", [2, 0], 3),
    ]
    assert [s.title for s in made.steps] == ["layer.0 Dense(units=4)", "layer.1 ReLU()", "Residual"]


def test_the_tolerance_grows_with_the_steps_and_their_sums():
    one, two = (plan(dn.Sequential([dn.Dense(100)] * n).init((100,)), "to_c").tolerance for n in (1, 2))
    assert one == pytest.approx(2.0**-24 * (8 + 4 * 10)) and two == pytest.approx(2 * one)
    double = plan(dn.Dense(100).init((100,), dtype="float64"), "to_c").tolerance
    assert double == pytest.approx(one * 2.0**-29)


def test_inputs_to_test_with(rng):
    net = dn.Dense(2).init((3,))
    x, y = steps.vectors(net, None, 1, "to_c")
    assert x.shape == (4, 3) and (y == net.predict(x)).all() and (x == steps.vectors(net, None, 1, "to_c")[0]).all()
    assert steps.vectors(dn.ReLU().init((200, 200, 1)), None, 0, "to_c")[0].shape == (1, 200, 200, 1)
    given = rng.standard_normal((9, 3)).astype("float32")
    assert (steps.vectors(net, given, 0, "to_c")[0] == given).all()


# -- what is refused ---------------------------------------------------------------------------------------------------


class Own(dn.Layer):
    def forward(self, x, train=False):
        return x, dn.Pullback("own", lambda dy: (dy, {}), x)


def test_all_that_cannot_be_written_is_named_at_once(tmp_path):
    double = dn.Lambda(lambda x: 2 * x, lambda dy, x, y: 2 * dy)
    net = dn.Sequential([dn.Dense(2), double, dn.Residual(Own()), dn.ReLU()]).init((2,))
    for write, file in ((net.to_c, "net.h"), (net.to_numpy, "net.py")):
        with pytest.raises(ValueError) as error:
            write(tmp_path / file)
        told = str(error.value)
        assert "layer 1 (Lambda: its functions are code)" in told and "layer 2.layer (Own: a class of your own)" in told
        assert "net.save" in told and not list(tmp_path.iterdir())


@pytest.mark.parametrize("write", ["to_c", "to_numpy"])
def test_what_does_not_fit(tmp_path, write, monkeypatch):
    def call(net, file="net" + {"to_c": ".h", "to_numpy": ".py"}[write], *arguments, **options):
        return getattr(net, write)(tmp_path / file, *arguments, **options)

    net = dn.Dense(2).init((2,))
    with pytest.raises(ValueError, match=f"{write}: Dense has no parameters yet"):
        call(dn.Dense(2))
    with pytest.raises(ValueError, match="computes in float16; expected float32 or float64"):
        call(dn.Dense(2).init((2,), dtype="float16"))
    endings = {"to_c": r"\.h or \.hpp", "to_numpy": r"\.py"}[write]
    with pytest.raises(ValueError, match=f"{write}: .*net.txt' ends with '.txt'; expected {endings}$"):
        call(net, "net.txt")
    with pytest.raises(ValueError, match=f"{write}: .* is a folder; expected a file, such as"):
        call(net, "")
    with pytest.raises(ValueError, match="expected"):
        call(net, x=np.ones((3, 5)))
    with pytest.raises(ValueError, match="seed"):
        call(net, seed=-1)
    with pytest.raises(OSError, match="no such folder"):
        call(net, "nowhere/net" + (".h" if write == "to_c" else ".py"))
    monkeypatch.setattr(steps, "LIMIT", 50)
    with pytest.raises(ValueError, match=r"the limit is 0 MB.*net.save"):
        call(net)
    assert not list(tmp_path.iterdir())


def test_resnet18_is_too_large_for_a_header(tmp_path):
    with pytest.raises(ValueError, match=r"about 149 MB; the limit is 64 MB"):
        dn.models.resnet18().init((8, 8, 3)).to_c(tmp_path / "net.h")


def test_every_layer_of_the_library_is_known():
    known = {*steps.CONTAINERS, *steps.LEAVES, dn.Lambda, dn.Layer}
    public = {kind for kind in vars(dn).values() if isinstance(kind, type) and issubclass(kind, dn.Layer)}
    assert public <= known | steps.UNWRITTEN and {type(layer) for layer, _ in EVERY.values()} <= known
    assert {kind.__name__ for kind in known} - {"Lambda", "Layer"} <= {
        type(layer).__name__ for layer, _ in EVERY.values()
    } | {"Sequential"}


@pytest.mark.parametrize("merge", ["average", "max", "multiply"])
def test_merges_and_graphs_are_refused(merge):
    """They are not taken for sums."""
    net = dn.Parallel([dn.ReLU(), dn.Tanh()], merge=merge).init((2,))
    with pytest.raises(ValueError, match=f"merge='{merge}' is not supported yet"):
        steps.plan(net, "to_c")
    graph = dn.Graph("x", [("a", dn.ReLU(), "x"), ("b", dn.Multiply(), ["a", "x"])]).init((2,))
    with pytest.raises(ValueError, match="Graph: not supported yet"):
        steps.plan(graph, "to_c")
    several = dn.Graph(["x", "y"]).add("b", dn.Multiply(), ["x", "y"]).init({"x": (2,), "y": (2,)})
    with pytest.raises(ValueError, match="several inputs or outputs"):
        steps.plan(several, "to_c")
