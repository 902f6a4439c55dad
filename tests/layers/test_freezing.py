"""Frozen layers: what training leaves unchanged, and what it still changes."""

from __future__ import annotations

import numpy as np
import pytest

import dualnet as dn

X, T = (array[:128] for array in dn.data.load_digits()[0])


def network() -> dn.Sequential:
    layers = [dn.Conv2D(4, 3), dn.BatchNorm(), dn.ReLU(), dn.MaxPool2D(2), dn.Flatten(), dn.Dense(8), dn.Dense(10)]
    return dn.Sequential(layers).init((8, 8, 1), seed=3)


def state(net):
    return {name: dn.to_numpy(value).copy() for name, value in net.state_dict().items()}


def changed(net, before):
    return {name for name, value in state(net).items() if (value != before[name]).any()}


OPTIMIZERS = {
    "sgd": lambda: dn.SGD(0.1, momentum=0.9, weight_decay=0.1),
    "adamw": lambda: dn.AdamW(0.01, weight_decay=0.1, clip_norm=1.0),
    "rmsprop": lambda: dn.RMSProp(0.01, momentum=0.9, weight_decay=0.1),
}


@pytest.mark.parametrize("capture", [False, True])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_frozen_layers_get_no_step_no_weight_decay_and_no_statistics(backend, optimizer, capture):
    net = network().freeze("0", "1")
    before = state(net)
    net.fit(X, T, epochs=2, optimizer=OPTIMIZERS[optimizer](), capture=capture, verbose=0)
    assert changed(net, before) == {"5.w", "5.b", "6.w", "6.b"}
    net.unfreeze()
    before = state(net)
    net.fit(X, T, optimizer=OPTIMIZERS[optimizer](), capture=capture, verbose=0)
    assert changed(net, before) == set(before)


def test_the_others_are_trained_as_if_the_frozen_part_were_data():
    """The head of a frozen body, and the same head on the body's outputs."""
    net = network().freeze("0", "1")
    head, body = dn.Sequential(net.copy().layers[5:]), dn.Sequential(net.layers[:5])
    head = head.init(body.init((8, 8, 1), keep=True).output_shape((8, 8, 1)), keep=True)
    outputs = body.predict(X)
    for trained, x in ((net, X), (head, outputs)):
        trained.fit(x, T, epochs=3, optimizer=dn.AdamW(0.01, clip_norm=0.5), verbose=0)
    for name, parameter in head.parameters().items():
        mine = net.parameters()[f"{int(name[0]) + 5}{name[1:]}"]
        assert np.array_equal(dn.to_numpy(mine.value), dn.to_numpy(parameter.value))


def test_batch_norm_that_is_frozen_runs_as_in_inference():
    norm = dn.BatchNorm().init((3,))
    norm.moving_mean = dn.asarray([1.0, 2.0, 3.0])
    x = dn.asarray(np.random.default_rng(0).normal(size=(16, 3)))
    y, _ = norm.freeze().forward(x, train=True)
    assert np.array_equal(dn.to_numpy(y), dn.to_numpy(norm(x)))
    assert dn.check.gradient(norm).ok
    assert not np.array_equal(dn.to_numpy(norm.unfreeze().forward(x, train=True)[0]), dn.to_numpy(norm(x)))


def test_before_init_and_through_copies_files_and_a_new_draw(tmp_path):
    net = dn.Sequential([dn.Dense(3), dn.Residual(dn.Sequential([dn.Dense(3), dn.BatchNorm()]))]).freeze("1.layer.0")

    def frozen(net):
        return [name for name, parameter in net.parameters().items() if parameter.frozen]

    assert frozen(net.init((3,))) == frozen(net.copy()) == ["1.layer.0.w", "1.layer.0.b"]
    net.init((3,), seed=1)
    same = dn.load(net.save(tmp_path / "net.npz"))
    assert frozen(same) == frozen(net) == ["1.layer.0.w", "1.layer.0.b"]
    assert [name for name, layer in same.walk() if layer.frozen] == ["1.layer.0"]
    assert frozen(net.freeze("1")) == [name for name in net.parameters() if name.startswith("1.")]
    assert frozen(net.unfreeze()) == []


def test_gradients_of_frozen_parameters_may_be_left_out():
    net = dn.Sequential([dn.Dense(3), dn.Dense(2)]).init((4,)).freeze("0")
    one = {name: p.value for name, p in net.parameters().items()}
    before, optimizer = state(net), dn.SGD(0.5)
    optimizer.step(net, {name: g for name, g in one.items() if name[0] == "1"})
    assert changed(net, before) == {"1.w"}  # biases are 0, and so are these gradients
    with pytest.raises(ValueError, match=r"missing: 1\.w"):
        optimizer.step(net, {"1.b": one["1.b"]})


def test_thawing_with_the_same_optimizer(backend):
    net, optimizer = network().freeze("0", "1"), dn.Adam(0.01)
    net.fit(X, T, optimizer=optimizer, verbose=0)
    before = state(net.unfreeze())
    net.fit(X, T, optimizer=optimizer, verbose=0)
    assert changed(net, before) == set(before) and optimizer.steps == 4


def test_clipping_leaves_frozen_gradients_out():
    """The length of all gradients is that of the trained ones."""
    net = dn.Sequential([dn.Dense(1, use_bias=False), dn.Dense(1, use_bias=False)]).init((1,)).freeze("0")
    w = dn.to_numpy(net[1].w.value).copy()
    dn.SGD(1.0, clip_norm=1.0).step(net, {"0.w": dn.asarray([[1e6]]), "1.w": dn.asarray([[0.5]])})
    assert dn.to_numpy(net[1].w.value) == w - 0.5


def test_an_unknown_layer_is_told():
    with pytest.raises(ValueError, match=r"freeze: the network has no layer '7'; its layers are '0', '1'"):
        network().freeze("7")


def test_the_summary_shows_it():
    told = str(network().freeze("0").summary())
    assert "0 Conv2D (frozen)" in told and "frozen: 40 of" in told
    assert "frozen" not in str(network().summary())


# -- weight decay ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", [dn.SGD, dn.RMSProp, dn.Adam, dn.AdamW])
@pytest.mark.parametrize(
    "no_decay, spared", [(["b", "gamma", "beta"], "0.b 1.gamma 1.beta 2.b"), (["0", "2.w"], "0.w 0.b 2.w")]
)
def test_parameters_left_out_of_weight_decay(backend, optimizer, no_decay, spared):
    """A zero gradient moves those with weight decay alone."""

    def moved(**options):
        net = dn.Sequential([dn.Dense(3), dn.BatchNorm(), dn.Dense(2)]).init((4,))
        for parameter in net.parameters().values():
            parameter.value = parameter.value * 0.0 + 1.0
        before = state(net)
        zeros = {name: 0.0 * p.value for name, p in net.parameters().items()}
        optimizer(lr=0.1, weight_decay=0.5, **options).step(net, zeros)
        return changed(net, before)

    assert moved() == {"0.w", "0.b", "1.gamma", "1.beta", "2.w", "2.b"}
    assert moved(no_decay=no_decay) == moved() - set(spared.split())


def test_no_decay_and_weight_decay_zero_give_the_same_bits():
    nets = network(), network()
    for net, given in zip(
        nets, (dn.AdamW(0.01, no_decay=["w", "b", "gamma", "beta"]), dn.AdamW(0.01, weight_decay=0.0))
    ):
        net.fit(X, T, optimizer=given, verbose=0)
    assert changed(nets[0], state(nets[1])) == set()


def test_no_decay_is_checked_and_shown():
    with pytest.raises(TypeError, match="no_decay must be a list of names such as"):
        dn.SGD(0.1, no_decay="b")
    net, optimizer = network(), dn.SGD(0.1, weight_decay=0.1, no_decay=["bias"])
    with pytest.raises(ValueError, match=r"no_decay=\['bias'\] names none of the parameters, which are 0\.w, 0\.b"):
        net.fit(X, T, optimizer=optimizer, verbose=0)
    assert optimizer.config()["no_decay"] == ["bias"] and "no_decay=('bias',)" in repr(optimizer)
    assert "no_decay" not in dn.SGD(0.1).config() and "no_decay" not in repr(dn.SGD(0.1))
