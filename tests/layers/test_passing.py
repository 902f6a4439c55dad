"""What passes between layers: what forward returns, gradients by name, errors with the layer's name."""

from __future__ import annotations

import numpy as np
import pytest
from small_nets import Scale

import dualnet as dn
from dualnet.layers.passing import blaming, merge, with_gradients, y_and_pullback


def test_y_and_its_pullback_and_nothing_else():
    layer, pullback = dn.ReLU(), dn.Pullback("relu", lambda dy: (dy, {}), np.zeros(1))
    assert y_and_pullback(layer, (0.0, pullback)) == (0.0, pullback) and pullback.paired
    for wrong, kinds in [
        ((0.0,), "float"),
        ([0.0, pullback], "list"),
        ((pullback, 0.0), "Pullback, float"),
        (None, "None"),
    ]:
        with pytest.raises(TypeError, match=f"^ReLU: forward returned .{kinds}.*; expected y and its pullback"):
            y_and_pullback(layer, wrong)


def test_an_ops_gradients_get_names(backend):
    x, w, b = (dn.asarray(a) for a in ([[1.0, 2.0]], [[3.0], [4.0]], [5.0]))
    for biases, names in [((b,), ["w", "b"]), ((), ["w"])]:
        _, way = dn.ops.dense(x, w, *biases)
        dx, gradients = with_gradients(dn.Dense(1), way, "w", "b")(dn.asarray([[2.0]]))
        assert list(gradients) == names and dn.to_numpy(gradients["w"]).tolist() == [[2.0], [4.0]]
        assert dn.to_numpy(dx).tolist() == [[6.0, 8.0]]
    assert with_gradients(dn.ReLU(), dn.ops.relu(x)[1])(x)[1] == {}


def test_gradients_of_a_shared_parameter_add_up_under_its_first_name():
    shared = Scale()
    net = dn.Sequential([shared, dn.Residual(shared)]).init((2,))
    assert merge(net, [("1", net[1], {"layer.g": 10.0}), ("0", shared, {"g": 1.0})]) == {"0.g": 11.0}
    assert merge(net, [("0", shared, {})]) == {}


def test_the_order_of_gradients_is_that_of_the_parameters():
    net = dn.Sequential([dn.Dense(2), dn.Dense(3)]).init((2,))
    parts = [("1", net[1], {"b": 4, "w": 3}), ("0", net[0], {"b": 2, "w": 1})]
    assert list(merge(net, parts).items()) == [("0.w", 1), ("0.b", 2), ("1.w", 3), ("1.b", 4)]


# -- what a user's layer may get wrong ---------------------------------------------------------------------------------


class Plain(Scale):
    def build(self, input_shape, draw):
        self.g = draw.parameter("ones", (input_shape[-1],))
        self.h = dn.asarray([1.0])

    def gradients(self, gradients):
        return {**gradients, "h": gradients["g"]}

    def forward(self, x, train=False):
        y, way = super().forward(x, train)
        return y, dn.Pullback("plain", lambda dy: (lambda dx, found: (dx, self.gradients(found)))(*way(dy)), y)


class Misnamed(Plain):
    def gradients(self, gradients):
        return {"gamma": gradients["g"]}


class Function(Scale):
    def forward(self, x, train=False):
        return x, lambda dy: (dy, {})


class Alone(Scale):
    def forward(self, x, train=False):
        return x


@pytest.mark.parametrize(
    "kind, message",
    [
        (Plain, r"layer 1 \(Plain\): its pullback returned a gradient 'h', but it has g. Create a parameter with"),
        (Misnamed, r"layer 1 \(Misnamed\): its pullback returned a gradient 'gamma', but it has g"),
        (
            Function,
            r"layer 1 \(Function\): Function: forward returned \(\w+, function\); expected y and its pullback",
        ),
        (Alone, r"layer 1 \(Alone\): Alone: forward returned \(\w+\); expected y and its pullback"),
    ],
)
def test_a_layer_of_ones_own_that_breaks_the_contract_is_told(kind, message):
    net, x = dn.Sequential([dn.Flatten(), kind()]).init((2,)), dn.asarray(np.ones((3, 2), np.float32))
    with pytest.raises((TypeError, ValueError), match=message):
        y, pullback = net.forward(x, train=True)
        pullback(y)


def test_an_error_inside_names_the_place_and_stays_of_its_class():
    class Wrong(dn.Layer):
        def forward(self, x, train=False):
            raise np.linalg.LinAlgError("as it was")

    net = dn.Sequential([dn.Identity(), dn.Sequential([Wrong()])]).init((2,))
    for run in (net, net.forward):
        with pytest.raises(np.linalg.LinAlgError, match="^as it was") as caught:
            run(np.ones((1, 2), np.float32))
        assert caught.value.__notes__ == ["in layer 0 (Wrong)", "in layer 1 (Sequential)"]


def test_other_errors_pass():
    with pytest.raises(KeyError) as caught, blaming("0", dn.ReLU()):
        raise KeyError("w")
    assert caught.value.args == ("w",) and not hasattr(caught.value, "__notes__")
    with pytest.raises(ValueError, match=r"^layer 3 \(ReLU\): too small") as caught, blaming("3", dn.ReLU()):
        raise ValueError("too small")
    assert type(caught.value.__cause__) is ValueError
