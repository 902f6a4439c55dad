"""What every layer can do: shapes, init, inputs that fit or not, and how it prints."""

from __future__ import annotations

import ast
import inspect

import numpy as np
import pytest
from small_nets import small

import dualnet as dn
from dualnet.layers import layer as contract


def test_the_same_seed_gives_the_same_bits_on_every_backend():
    nets = []
    for name in dn.available_backends():
        with dn.use_backend(name):
            nets.append(small().init((5, 5, 2), seed=7))
    for net in nets[1:]:
        for name, parameter in net.parameters().items():
            assert dn.to_numpy(parameter.value).tobytes() == dn.to_numpy(nets[0].parameters()[name].value).tobytes()
    other = small().init((5, 5, 2), seed=8)
    assert not np.array_equal(dn.to_numpy(other.layers[0].w.value), dn.to_numpy(nets[0].layers[0].w.value))


def test_the_draw_does_not_depend_on_the_dtype():
    wide, narrow = (small().init((5, 5, 2), seed=7, dtype=d).layers[0].w.value for d in ("float64", "float32"))
    assert np.array_equal(dn.to_numpy(wide).astype("float32"), dn.to_numpy(narrow))


def test_default_dtype_comes_from_the_environment(monkeypatch):
    assert small().init((5, 5, 2)).layers[0].w.dtype == "float32"
    monkeypatch.setenv("DUALNET_DTYPE", "Float64")
    assert small().init((5, 5, 2)).layers[0].w.dtype == "float64"


def test_a_layer_of_ones_own(backend):
    net = small().init((5, 5, 2), dtype="float64")
    assert list(net.parameters()) == ["0.w", "0.b", "1.layer.g", "1.shortcut.w", "2.w", "2.b"]
    dn.check.gradient(net)


@pytest.mark.parametrize("dtype", ["uint8", "int64", "bool", "float64", "float32", ">f4"])
def test_a_network_converts_what_it_is_given(backend, dtype):
    net = small().init((5, 5, 2))
    x = (np.arange(50).reshape(1, 5, 5, 2) % 2).astype(dtype)
    y = net(dn.asarray(x))
    assert y.dtype == "float32"
    assert np.array_equal(dn.to_numpy(y), dn.to_numpy(net(dn.asarray(x.astype("float32")))))


GOLDEN = [
    (
        lambda n: dn.Conv2D(2, 3)(dn.asarray(np.ones((1, 4, 4, 1)))),
        ValueError,
        "Conv2D has no parameters yet: call net.init",
    ),
    (
        lambda n: n(np.ones((5, 5, 2)) if dn.get_backend() == "numpy" else dn.asarray(np.ones((5, 5, 2)))),
        ValueError,
        "The batch is missing: x.None.",
    ),
    (
        lambda n: n(dn.asarray(np.ones((1, 5, 5, 3)))),
        ValueError,
        r"Sequential: x has shape \(1, 5, 5, 3\); expected \(N, 5, 5, 2\)",
    ),
    (lambda n: n([[1.0]]), TypeError, "Sequential: x is a list; expected an array. Make one with dn.asarray"),
    (lambda n: n.init((28, 28)), ValueError, "layer 0 .Conv2D.: Conv2D: expected feature maps .H, W, C., got .28, 28."),
    (lambda n: n.init((7, 5, 5, 2)), ValueError, "got .7, 5, 5, 2.. Without the batch it is .5, 5, 2.."),
    (
        lambda n: n.init(np.ones((7, 5, 5, 2))),
        ValueError,
        r"got an array; its examples have the shape x.shape.1:., .5, 5, 2.",
    ),
    (lambda n: n.init((5, 5, 2), dtype="bf16"), TypeError, "dtype 'bf16' is unknown; expected float16, bfloat16, "),
    (lambda n: n.init((5, 5, 2), keep="yes"), TypeError, "init: keep must be True or False, got 'yes'"),
    (lambda n: n.load_state_dict(None), TypeError, "state is a NoneType; expected arrays by name.*dn.load.path."),
    (
        lambda n: n.load_state_dict({**n.state_dict(), "2.b": [1, 2]}),
        ValueError,
        r"the wrong shape: 2.b list, expected",
    ),
    (
        lambda n: n.backward(1),
        AttributeError,
        r"y, pullback = net.forward\(x, train=True\); dx, grads = pullback\(dy\)",
    ),
    (lambda n: n.add(dn.ReLU()), AttributeError, "Make a chain from a list"),
    (lambda n: n.init("28x28"), ValueError, "input_shape must be a shape without the batch, such as .28, 28, 1."),
    (lambda n: n.init((5, 5, 0)), ValueError, "input_shape must be a shape without the batch"),
    (lambda n: n.init((5, 5, 2), seed=-1), ValueError, "seed must be an integer of at least 0, got -1"),
    (
        lambda n: n.init((2, 2, 2)),
        ValueError,
        "layer 0 .Conv2D.: .*window of height 3 .*does not fit on a map of height 2",
    ),
    (lambda n: dn.Sequential([dn.Conv2D]), TypeError, "Sequential: item 0 is .*which is not a layer; write Conv2D.."),
    (lambda n: dn.Sequential(dn.Identity()), TypeError, "expected a list of layers, got Identity"),
    (
        lambda n: dn.Conv2D(2, 3, initializer="he"),
        ValueError,
        "Conv2D: unknown initializer 'he'; choose from zeros, ones, he_normal",
    ),
]


@pytest.mark.parametrize("act, kind, words", GOLDEN, ids=[words[:40] for *_, words in GOLDEN])
def test_common_mistakes_say_what_to_do(backend, act, kind, words):
    with pytest.raises(kind, match=words):
        act(small().init((5, 5, 2)))


def test_a_failed_init_draws_nothing(backend):
    net = small().init((5, 5, 2), seed=1)
    before = dn.to_numpy(net.layers[0].w.value)
    with pytest.raises(ValueError):
        net.init((2, 2, 2), seed=2)
    assert np.array_equal(before, dn.to_numpy(net.layers[0].w.value))


def test_repr_shows_what_was_given():
    assert repr(dn.Identity()) == "Identity()"
    assert repr(dn.Conv2D(4, 3)) == "Conv2D(filters=4, kernel_size=3)"
    assert (
        repr(dn.Conv2D(4, (3, 2), padding=1, groups=2)) == "Conv2D(filters=4, kernel_size=(3, 2), padding=1, groups=2)"
    )


# -- init, and trained layers ------------------------------------------------------------------------------------------


def bits(net):
    return {name: dn.to_numpy(value).tobytes() for name, value in net.state_dict().items() if hasattr(value, "dtype")}


def body():
    layers = [dn.Conv2D(3, 3), dn.BatchNorm(), dn.SeparableConv2D(2, 3), dn.Dropout(0.1), dn.Flatten()]
    net = dn.Sequential(layers).init((6, 6, 1), seed=3)
    net[1].moving_mean = net[1].moving_mean + 2.0
    return net


def test_trained_layers_keep_what_they_learned_under_a_new_head(backend):
    trained = body()
    before, identities = bits(trained), {name: id(p) for name, p in trained.parameters().items()}
    net = dn.Sequential([trained, dn.Dense(2)]).init((6, 6, 1), seed=9, keep=True)
    fresh = dn.Sequential([body(), dn.Dense(2)]).init((6, 6, 1), seed=9)
    assert bits(trained) == before and {name: id(p) for name, p in trained.parameters().items()} == identities
    assert bits(net[1]) == bits(fresh[1]), "what is drawn does not depend on what is kept"
    assert bits(fresh[0]) != before, "without keep all is drawn anew"


def test_kept_layers_settle_the_dtype(backend):
    trained = dn.Sequential([dn.Dense(3)]).init((4,), dtype="float64")
    net = dn.Sequential([trained, dn.Dense(2)]).init((4,), keep=True)
    assert {p.value.dtype.name for p in net.parameters().values()} == {"float64"}
    with pytest.raises(ValueError, match=r"its w is float64 \(4, 3\), but an input .* needs float32 \(4, 3\)"):
        dn.Sequential([trained]).init((4,), dtype="float32", keep=True)


def test_an_init_that_fails_changes_nothing(backend):
    trained = body()
    before, shapes = bits(trained), [layer.input_shape for _, layer in trained.walk()]
    net = dn.Sequential([*trained.layers, dn.Dense(2)]).init((6, 6, 1), keep=True)
    with pytest.raises(
        ValueError, match=r"layer 5 \(Dense\): its w is .* \(8, 2\), but an input .* Nothing was changed"
    ):
        net.init((7, 7, 1), keep=True)
    assert bits(trained) == before and [layer.input_shape for _, layer in trained.walk()] == shapes
    assert net.input_shape == (6, 6, 1) and net.output_shape((6, 6, 1)) == (2,)

    def late(rng, shape, fan_in, fan_out):
        raise RuntimeError("out of luck")

    with pytest.raises(RuntimeError, match="out of luck"):
        dn.Sequential([*trained.layers, dn.Dense(2, initializer=late)]).init((6, 6, 1))
    assert bits(trained) == before


def test_channels_that_seem_to_stand_first_are_asked_about(tmp_path):
    net = dn.Sequential([dn.Conv2D(2, 3, padding="same")])
    with pytest.warns(
        UserWarning, match=r"Sequential: input_shape \(3, 32, 32\) is read as maps of height 3 and width 32"
    ):
        net.init((3, 32, 32))
    assert dn.load(net.save(tmp_path / "m.npz")).summary(), "who reads its file is not asked again"
    assert net.init((3, 32, 3)) and net.init((4, 32, 32)) and net.init((1, 1, 1))


# -- what type checkers see --------------------------------------------------------------------------------------------


def test_methods_that_are_handed_in_have_the_signatures_that_type_checkers_see():
    """fit, save, ... are written above the layers; the class declares them for type checkers alone."""
    (kind,) = [node for node in ast.parse(inspect.getsource(contract)).body if getattr(node, "name", "") == "Layer"]
    (branch,) = [node for node in kind.body if isinstance(node, ast.If)]
    declared = {node.name: node.args for node in branch.body if node.name not in vars(contract.LayerTree)}
    handed_in = {
        name for name, method in vars(dn.Layer).items() if getattr(method, "__module__", "") != contract.__name__
    }
    assert set(declared) == {name for name in handed_in if inspect.isfunction(getattr(dn.Layer, name))}
    for name, arguments in declared.items():
        for argument in [*arguments.args, *arguments.kwonlyargs]:
            argument.annotation = None
        parameters = inspect.signature(getattr(dn.Layer, name)).parameters.values()
        real = inspect.Signature([parameter.replace(annotation=inspect.Parameter.empty) for parameter in parameters])
        assert f"({ast.unparse(arguments)})" == str(real).replace("(net", "(self"), name
