"""The state of a network by name: read, loaded, moved, copied; and layers found by name."""

from __future__ import annotations

import numpy as np
import pytest
from small_nets import small

import dualnet as dn
from dualnet.layers.state import name_of


def test_state_dict_round_trip(backend):
    net, other = small().init((5, 5, 2), seed=1), small().init((5, 5, 2), seed=2)
    before = other.parameters()["0.w"]
    other.load_state_dict(net.state_dict())
    assert other.parameters()["0.w"] is before
    for name, value in net.state_dict().items():
        assert np.array_equal(dn.to_numpy(value), dn.to_numpy(other.state_dict()[name]))
    x = dn.asarray(np.ones((1, 5, 5, 2), "float32"))
    assert np.array_equal(dn.to_numpy(net(x)), dn.to_numpy(other(x)))


def test_a_state_that_does_not_fit_changes_nothing(backend):
    net = small().init((5, 5, 2), seed=1)
    before = {name: dn.to_numpy(value).copy() for name, value in net.state_dict().items()}
    state = {name: dn.to_numpy(value) + 1 for name, value in net.state_dict().items()}
    state["extra"] = state.pop("0.b")
    state["2.w"] = state["2.w"][..., :1]
    with pytest.raises(ValueError) as caught:
        net.load_state_dict(state)
    for words in ("missing: 0.b", "unexpected: extra", "of the wrong shape: 2.w (1, 1, 3, 1), expected (1, 1, 3, 2)"):
        assert words in str(caught.value)
    assert all(np.array_equal(before[name], dn.to_numpy(value)) for name, value in net.state_dict().items())


def test_moving_keeps_the_parameters(backend):
    net = small().init((5, 5, 2))
    kept = net.parameters()
    values = {name: dn.to_numpy(p.value) for name, p in kept.items()}
    for place in ("strict", "numpy", "strict"):
        assert net.to(place) is net
        assert all(p is kept[name] for name, p in net.parameters().items())
        assert all(np.array_equal(dn.to_numpy(p.value), values[name]) for name, p in net.parameters().items())
    with dn.use_backend("strict"):
        net(dn.asarray(np.ones((1, 5, 5, 2), "float32")))


def test_running_statistics_move_too(backend):
    net = dn.Sequential([dn.BatchNorm(), dn.Dropout(0.5)]).init((3,))
    net.to("strict")
    arrays = [net[0].moving_mean, net[0].moving_variance, net[0].gamma.value]
    assert {dn.backend.backend_of(array).name for array in arrays} == {"strict"} and type(net[1].step) is int


def test_a_copy_is_independent(backend):
    net = small().init((5, 5, 2))
    twin = net.copy()
    twin.layers[0].w.value = twin.layers[0].w.value * 0.0
    assert dn.to_numpy(net.layers[0].w.value).any()


def test_sharing_survives_a_copy(backend):
    shared = dn.Conv2D(2, 1)
    twin = dn.Sequential([shared, dn.Sequential([shared])]).init((3, 3, 2)).copy()
    assert twin.layers[0] is twin.layers[1].layers[0] and list(twin.parameters()) == ["0.w", "0.b"]


def test_the_state_of_a_shared_layer_stands_under_its_first_name(backend):
    norm, dropout = dn.BatchNorm(), dn.Dropout(0.5)
    net = dn.Sequential([norm, dropout, dn.Residual(norm), dropout]).init((2, 2, 3), seed=1)
    names = ["0.gamma", "0.beta", "0.moving_mean", "0.moving_variance", "1.seed", "1.step"]
    assert list(net.state_dict()) == names
    assert [name for name, _ in net.walk()] == ["", "0", "1", "2", "2.layer", "3"]


def test_loaded_values_become_copies_on_the_networks_backend_in_its_dtype(backend):
    net = dn.Sequential([dn.Dense(2), dn.Dropout(0.5)]).init((3,), dtype="float64")
    given = {"0.w": np.ones((3, 2)), "0.b": dn.asarray(np.ones(2, "f4"), backend="strict"), "1.seed": 7.0, "1.step": 3}
    net.load_state_dict(given)
    state = net.state_dict()
    assert {dn.backend.backend_of(state[name]).name for name in ("0.w", "0.b")} == {backend}
    assert {state[name].dtype.name for name in ("0.w", "0.b")} == {"float64"}
    assert (state["1.seed"], type(state["1.seed"]), state["1.step"]) == (7, int, 3)
    given["0.w"][:] = 5.0
    assert dn.to_numpy(state["0.w"]).tolist() == [[1.0, 1.0]] * 3


@pytest.mark.parametrize(
    ("state", "kind", "words"),
    [
        (None, TypeError, r"state is a NoneType; expected arrays by name.*dn.load\(path\)"),
        ({"w": [[1.0, 2.0]], "b": np.zeros(2)}, ValueError, r"of the wrong shape: w list, expected \(1, 2\)"),
        ({"w": np.zeros((1, 2)), "b": 0.0}, ValueError, r"of the wrong shape: b \(\), expected \(2,\)"),
    ],
)
def test_what_is_no_state(backend, state, kind, words):
    with pytest.raises(kind, match=words):
        dn.Dense(2).init((1,)).load_state_dict(state)


def test_a_parameter_is_not_replaced_by_an_array(backend):
    net = small().init((5, 5, 2))
    w, values = net[0].w, net[0].w.value
    with pytest.raises(TypeError, match=r"^Conv2D: w is a parameter, not an array. Write layer.w.value = array"):
        net[0].w = values
    assert net.parameters()["0.w"] is w and w.value is values
    net[0].w, net[0].b = dn.Parameter(values), None
    assert net.parameters()["0.w"] is net[0].w is not w and "0.b" not in net.parameters()


def test_a_layer_by_its_name_or_as_itself():
    shared = dn.ReLU()
    net = dn.Sequential([dn.Residual(dn.Dense(2)), shared, shared])
    for layer, name in [("0.layer", "0.layer"), (net[0].layer, "0.layer"), (shared, "1"), ("2", "2"), (net, "")]:
        assert name_of(layer, net, "viz.maps") == name
    for stranger in ("3", dn.ReLU(), None, ["0"]):
        with pytest.raises(
            ValueError, match="^viz.maps: the network has no layer .*; its layers are '0', '0.layer', '1'"
        ):
            name_of(stranger, net, "viz.maps")
    with pytest.raises(ValueError, match="has no layer '0'; its layers are none but itself"):
        name_of("0", shared, "viz.maps")
