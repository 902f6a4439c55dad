"""Networks in files: the same bytes, the same bits, the same sharing; and an error at once for what cannot be saved."""

from __future__ import annotations

import os
import sys

import numpy as np
import pytest
from saving import BOTH, needs_safetensors, predictions, same_bits, small, trained

import dualnet as dn
from dualnet import models
from dualnet.files import network as files
from dualnet.files.formats import CheckpointError
from dualnet.files.network import load, save
from dualnet.layers import initializers

# -- there and back ----------------------------------------------------------------------------------------------------


@BOTH
def test_there_and_back(tmp_path, backend, suffix):
    net = trained(small())
    path = save(net, tmp_path / f"m{suffix}")
    back = load(path)
    assert path == tmp_path / f"m{suffix}" and repr(back) == repr(net) and same_bits(net, back)
    assert back.state_dict()["3.step"] == 2 and type(back.state_dict()["3.step"]) is int
    assert back.input_shape == (6, 5, 2) and back.dtype == net.dtype
    assert np.array_equal(predictions(net), predictions(back))
    assert type(next(iter(back.parameters().values())).value) is type(dn.asarray([1.0])), "on the backend in force"
    again = save(back, tmp_path / f"again{suffix}")
    assert again.read_bytes() == path.read_bytes()
    trained(back, 1)  # a loaded network can go on: nothing in it is read-only
    assert sorted(os.listdir(tmp_path)) == sorted([path.name, again.name])


@BOTH
def test_a_file_is_the_same_on_every_backend(tmp_path, suffix):
    written = set()
    for name in dn.available_backends():
        with dn.use_backend(name):
            written.add(save(small(), tmp_path / f"{name}{suffix}").read_bytes())
    assert len(written) == 1
    with dn.use_backend("strict"):
        back = load(tmp_path / f"numpy{suffix}")
    assert same_bits(back, small())


@BOTH
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_dtypes(tmp_path, suffix, dtype):
    net = dn.Sequential([dn.Dense(3), dn.ReLU()]).init((2,), dtype=dtype)
    back = load(save(net, tmp_path / f"m{suffix}"))
    assert back.dtype == dtype and same_bits(net, back)


@BOTH
@pytest.mark.parametrize("name", ["digits_cnn", "lenet5", "resnet20"])
def test_models(tmp_path, suffix, name):
    net = models.get(name)(classes=3).init(models.INPUT_SHAPES[name])
    assert same_bits(net, load(save(net, tmp_path / f"m{suffix}")))


def every_layer() -> list[dn.Layer]:
    return [
        dn.Conv2D(4, 3, dilation=2, padding="full", groups=2, mode="convolution"),
        dn.Conv2DTranspose(4, (2, 3), stride=2, output_padding=1),
        dn.DepthwiseConv2D(3, depth_multiplier=2),
        dn.SeparableConv2D(6, 3, padding="same", initializer="orthogonal"),
        dn.MaxPool2D((2, 3), stride=(1, 2), padding=1, dilation=1, ceil_mode=True),
        dn.AveragePool2D(3, padding="same", count_include_pad=True),
        *(dn.L2Pool2D(2), dn.BatchNorm(center=False), dn.LayerNorm(), dn.GroupNorm(2)),
        *(dn.Dropout(0.25), dn.SpatialDropout2D(0.5)),
        *(dn.GlobalAveragePool2D(keepdims=True), dn.GlobalMaxPool2D(), dn.Identity(), dn.Flatten(), dn.Dense(3)),
        *(dn.LeakyReLU(0.3), dn.ELU(), dn.GELU(), dn.SiLU(), dn.Sigmoid(), dn.Tanh(), dn.Softplus(), dn.Softmax()),
        *(dn.Mish(), dn.ReLU6(), dn.Hardsigmoid(), dn.Hardswish(), dn.PReLU(0.1, shared=True), dn.InstanceNorm()),
        *(
            dn.RMSNorm((1, 3), 1e-3),
            dn.UpSampling2D((2, 3), interpolation="bilinear"),
            dn.ZeroPadding2D(((1, 0), (2, 3))),
        ),
        *(dn.ReflectionPadding2D(2), dn.Cropping2D((1, 2)), dn.Reshape((3, -1)), dn.AdaptiveAveragePool2D((4, 5))),
        *(dn.LogSoftmax(), dn.ReLU(), models.PaddedShortcut(9, stride=2)),
        *(dn.Sequential([dn.ReLU()]), dn.Residual(dn.Conv2D(4, 1), dn.Identity()), dn.Parallel([dn.ReLU()])),
        every_merge(),
    ]


def every_merge() -> dn.Graph:
    kinds = (dn.Add, dn.Average, dn.Concatenate, dn.Maximum, dn.Multiply)
    merges = [(kind.merge, kind(), ["x", "x"]) for kind in kinds]
    return dn.Graph("x", [*merges, ("end", dn.Concatenate(), [kind.merge for kind in kinds])])


def every_sequence_layer() -> list[dn.Layer]:
    return [
        dn.Conv1D(6, 3, stride=2, padding=(4, 0), dilation=2, groups=2, use_bias=False, mode="convolution"),
        *(dn.MaxPool1D(3, stride=2, padding=1, ceil_mode=True), dn.AveragePool1D(3, padding="same")),
        *(dn.GlobalAveragePool1D(), dn.GlobalMaxPool1D(keepdims=True)),
    ]


@pytest.mark.parametrize("layer", every_sequence_layer(), ids=lambda layer: type(layer).__name__)
def test_every_layer_on_sequences(tmp_path, layer):
    net = dn.Sequential([layer]).init((12, 4), seed=3)
    back = load(save(net, tmp_path / "m.npz"))
    assert repr(back) == repr(net) and same_bits(net, back)
    assert back.output_shape((12, 4)) == net.output_shape((12, 4))


@pytest.mark.parametrize("layer", every_layer(), ids=lambda layer: type(layer).__name__)
def test_every_layer(tmp_path, layer):
    net = dn.Sequential([layer]).init((6, 6, 4), seed=3)
    back = load(save(net, tmp_path / "m.npz"))
    assert repr(back) == repr(net) and same_bits(net, back)
    assert back.output_shape((6, 6, 4)) == net.output_shape((6, 6, 4))


def test_every_layer_is_among_the_tested():
    layers = [*every_layer(), *every_sequence_layer()]
    tested = {type(inside).__name__ for layer in layers for _, inside in layer.walk()}
    assert tested == set(files.BUILT_IN)


# -- what is shared, what is one's own ---------------------------------------------------------------------------------


@BOTH
def test_shared_layers_stay_shared(tmp_path, suffix):
    shared = dn.Dense(4)
    net = dn.Sequential([shared, dn.ReLU(), dn.Parallel([shared, dn.Sequential([shared])])]).init((4,))
    path = save(net, tmp_path / f"m{suffix}")
    back = load(path)
    assert back[0] is back[2].layers[0] is back[2].layers[1][0]
    assert list(back.parameters()) == ["0.w", "0.b"] and np.array_equal(predictions(net), predictions(back))
    assert save(back, tmp_path / f"again{suffix}").read_bytes() == path.read_bytes()


@BOTH
def test_tied_parameters_stay_tied(tmp_path, suffix):
    net = dn.Sequential([dn.Dense(4), dn.ReLU(), dn.Dense(4)]).init((4,))
    net[2].w = net[0].w
    back = load(save(net, tmp_path / f"m{suffix}"))
    assert back[2].w is back[0].w and back[2].b is not back[0].b
    assert list(back.parameters()) == ["0.w", "0.b", "2.b"] and np.array_equal(predictions(net), predictions(back))


class Scale(dn.Layer):
    """A user's own layer, with arguments of every kind."""

    def __init__(self, start=1.0, sizes=(1, 2), names=None, inner=None, limit=float("inf")):
        self.start, self.sizes, self.names, self.inner, self.limit = start, sizes, names, inner, limit

    def children(self):
        return {} if self.inner is None else {"inner": self.inner}

    def build(self, input_shape, draw):
        self.g = draw.parameter("ones", (input_shape[-1],))
        if self.inner is not None:
            self.inner.init_from(input_shape, draw.child(0))

    def forward(self, x, train=False):
        return x * self.g.value * self.start, dn.Pullback("Scale", lambda dy: (dy, {}), x)


@BOTH
def test_layers_of_ones_own(tmp_path, suffix):
    own = Scale(np.float32(0.5), (1, [2, (3,)]), {"a": (None, True), "b": {}}, dn.ReLU(), -float("inf"))
    net = dn.Sequential([own]).init((3,))
    path = save(net, tmp_path / f"m{suffix}")
    with pytest.raises(CheckpointError, match=r"unknown layer class 'Scale'.*custom=\{\"Scale\": Scale\}"):
        load(path)
    back = load(path, custom={"Scale": Scale})
    assert back[0].config() | {"inner": 0} == own.config() | {"inner": 0} and type(back[0].inner) is dn.ReLU
    assert same_bits(net, back) and save(back, tmp_path / f"x{suffix}").read_bytes() == path.read_bytes()
    with pytest.raises(TypeError, match=r"custom\['Scale'\] is 3"):
        load(path, custom={"Scale": 3})


def test_an_own_class_with_the_name_of_one_of_ours(tmp_path):
    class Dense(dn.Dense):
        pass

    net = dn.Sequential([Dense(2), dn.Dense(2)]).init((3,))
    path = save(net, tmp_path / "m.npz")
    with pytest.raises(CheckpointError, match="unknown layer class 'Dense'"):
        load(path)
    back = load(path, custom={"Dense": Dense})
    assert type(back[0]) is Dense and type(back[1]) is dn.Dense

    class Twin(dn.ReLU):
        pass

    first = Twin

    class Twin(dn.ReLU):  # noqa: F811
        pass

    with pytest.raises(ValueError, match="two layer classes of the network have the name Twin"):
        save(dn.Sequential([first(), Twin()]).init((3,)), path)


# -- what cannot be saved is said before anything is written -----------------------------------------------------------


class Forgetful(dn.Layer):
    def __init__(self, size):
        self.length = size


class Boastful(dn.ReLU):
    def config(self):
        return {"size": 3}


def test_what_cannot_be_saved_leaves_the_file_alone(tmp_path):
    path = tmp_path / "m.npz"
    path.write_bytes(b"old")

    def draw_it(rng, shape, fan_in, fan_out):
        return np.zeros(shape)

    exchanged = dn.Sequential([dn.Dense(3)]).init((2,))
    exchanged.layers.append(dn.Dense(2).init((4,)))
    odd = dn.Dropout(0.5).init((3,))
    odd.seed = "x"
    for net, kind, told in [
        (
            dn.Lambda(lambda x: x, lambda dy, x, y: dy).init((3,)),
            TypeError,
            "Lambda.forward is .*not code. Write the la",
        ),
        (dn.Dense(2, initializer=draw_it).init((3,)), TypeError, "Dense.initializer is .*draw_it.*by its name"),
        (dn.Sequential([dn.Dense(3)]), ValueError, "call net.init"),
        (3, TypeError, "expected a layer or network, got int"),
        (Forgetful(3).init((3,)), TypeError, "Forgetful does not keep its arguments"),
        (Boastful().init((3,)), ValueError, "could not be rebuilt"),
        (exchanged, ValueError, r"could not be rebuilt.*1.w is float32 \(4, 2\), expected float32 \(3, 2\)"),
        (odd, TypeError, "state 'seed' is a str"),
    ]:
        with pytest.raises(kind, match=told):
            save(net, path)
        assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["m.npz"]


def test_our_own_initializers_are_stored_by_name(tmp_path):
    net = dn.Sequential([dn.Dense(2, initializer=initializers.lecun_normal)]).init((3,))
    assert load(save(net, tmp_path / "m.npz"))[0].initializer == "lecun_normal"


# -- names -------------------------------------------------------------------------------------------------------------


@needs_safetensors
def test_names_and_suffixes(tmp_path, monkeypatch):
    net = small()
    without = save(net, tmp_path / "m")
    assert without.name == "m.npz" and same_bits(load(tmp_path / "m"), net), "the same name in every environment"
    with_package = save(net, tmp_path / "only.safetensors")
    assert same_bits(load(tmp_path / "only"), net)
    assert save(net, str(tmp_path / "text.npz")).name == "text.npz"
    for name in ("m.pt", "m.h5", "m.pkl", "model.v1"):
        with pytest.raises(ValueError, match="expected .safetensors or .npz"):
            save(net, tmp_path / name)
    with pytest.raises(FileNotFoundError, match="no such folder"):
        save(net, tmp_path / "nowhere" / "m.npz")
    with pytest.raises(FileNotFoundError, match="there is no file .*x.safetensors.*x.npz"):
        load(tmp_path / "x")
    monkeypatch.setitem(sys.modules, "safetensors", None)
    monkeypatch.setitem(sys.modules, "safetensors.numpy", None)
    assert save(net, tmp_path / "m").name == "m.npz"
    with pytest.raises(ImportError, match=r'pip install "dualnet\[io\]"'):
        save(net, tmp_path / "n.safetensors")
    with pytest.raises(ImportError, match=r'pip install "dualnet\[io\]"'):
        load(with_package)
    os.rename(with_package, tmp_path / "m.safetensors")
    with pytest.raises(ValueError, match="say which one you mean"):
        load(tmp_path / "m")


def test_a_folder_of_the_same_name_does_not_hide_a_network(tmp_path):
    net = small()
    save(net, tmp_path / "m.npz")
    (tmp_path / "m").mkdir()
    assert same_bits(load(tmp_path / "m"), net)
    (tmp_path / "empty").mkdir()
    with pytest.raises(IsADirectoryError, match="empty"):
        load(tmp_path / "empty")


@needs_safetensors
def test_the_format_is_told_by_the_content(tmp_path):
    os.rename(save(small(), tmp_path / "a.npz"), tmp_path / "b.safetensors")
    os.rename(save(small(), tmp_path / "a.safetensors"), tmp_path / "b.npz")
    assert same_bits(load(tmp_path / "b.npz"), load(tmp_path / "b.safetensors"))


def test_a_link_stays_a_link_and_permissions_follow_the_mask(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link.npz").symlink_to(tmp_path / "real" / "m.npz")
    before = os.umask(0o027)
    try:
        save(small(), tmp_path / "link.npz")
    finally:
        os.umask(before)
    assert (tmp_path / "link.npz").is_symlink() and (tmp_path / "real" / "m.npz").stat().st_mode & 0o777 == 0o640


# -- the loss and the optimizer ----------------------------------------------------------------------------------------


def squares(y, t):
    return dn.losses.mean_squared_error(y, t)


@BOTH
@pytest.mark.parametrize("loss", ["mean_squared_error", dn.losses.mean_squared_error, squares, None])
def test_a_network_remembers_its_loss(tmp_path, backend, suffix, loss):
    net = dn.Sequential([dn.Flatten(), dn.Dense(2)]).init((2,))
    x, t = np.ones((4, 2), np.float32), np.full((4, 2), 0.5, np.float32)
    if loss is not None:
        net.fit(x, t, loss=loss, verbose=0)
    back = load(save(net, tmp_path / f"m{suffix}"))
    if loss is squares:
        with pytest.raises(ValueError, match="trained with a loss of your own, which is not in its file"):
            back.evaluate(x, t)
        assert back.evaluate(x, t, loss=squares) == net.evaluate(x, t)
        again = load(save(back, tmp_path / f"again{suffix}"))
        assert again.loss is None, "it is not forgotten that it is not known"
    else:
        assert back.evaluate(x, t) == net.evaluate(x, t)
        assert hasattr(back, "loss") == (loss is not None)


@BOTH
@pytest.mark.parametrize(
    "make",
    [
        lambda: dn.SGD(lr=0.1),
        lambda: dn.SGD(lr=dn.schedules.Plateau(0.1), momentum=0.9),
        lambda: dn.Adam(lr=dn.schedules.Cosine(0.1, steps=9)),
    ],
)
def test_the_optimizers_state_comes_along(tmp_path, backend, suffix, make):
    net, optimizer = trained(small()), make()
    x, t = np.ones((4, 6, 5, 2), np.float32), np.zeros(4, int)
    net.fit(x, t, epochs=2, optimizer=optimizer, verbose=0)
    path, fresh = save(net, tmp_path / f"m{suffix}", optimizer=optimizer), make()
    back = load(path, optimizer=fresh)
    assert same_bits(net, back) and fresh.state_dict().keys() == optimizer.state_dict().keys()
    for name, value in optimizer.state_dict().items():
        assert np.array_equal(dn.to_numpy(dn.asarray(value)), dn.to_numpy(dn.asarray(fresh.state_dict()[name]))), name
    assert same_bits(load(path), net), "who does not ask for it gets the network alone"


def test_another_schedule_is_warned_of(tmp_path):  # and every other warning is an error
    net, schedules = trained(small()), dn.schedules
    path = save(net, tmp_path / "m.npz", optimizer=dn.SGD(schedules.Warmup(schedules.Cosine(0.1, steps=9), 3)))
    load(path, optimizer=dn.SGD(schedules.Warmup(schedules.Cosine(0.1, steps=9), 3)))
    load(path)
    load(path, optimizer=dn.SGD(lambda step: 0.1))  # of code nothing is known
    with pytest.warns(
        UserWarning, match=r"was scheduled by Warmup\(.*steps=9.*\) and continues with Cosine\(lr=0.1, steps=20"
    ):
        load(path, optimizer=dn.SGD(schedules.Cosine(0.1, steps=20)))
    path = save(net, tmp_path / "own.npz", optimizer=dn.SGD(schedules.Warmup(lambda step: 0.1, 3)))
    load(path, optimizer=dn.SGD(schedules.Warmup(lambda step: 0.1, 3)))


def test_what_is_no_file_no_class_and_no_optimizer(tmp_path):
    net = small()
    for folder in (tmp_path, f"{tmp_path}/new/"):
        with pytest.raises(ValueError, match="is a folder; expected a file, such as '.*model.npz'"):
            save(net, folder)
    path = save(net, tmp_path / "m.npz", optimizer=dn.Adam())
    with pytest.raises(TypeError, match="load: optimizer is 'adam'; expected one, created with"):
        load(path, optimizer="adam")
    with pytest.raises(TypeError, match="load: custom is .*; expected classes by name"):
        load(path, custom=[Scale])


def test_an_optimizers_state_that_is_not_there_or_of_another(tmp_path):
    net, optimizer = trained(small()), dn.SGD(lr=0.1)
    path = save(net, tmp_path / "without.npz")
    with pytest.raises(ValueError, match=r"holds no optimizer state; save it with net.save\(path, optimizer=...\)"):
        load(path, optimizer=optimizer)
    path = save(net, tmp_path / "with.npz", optimizer=dn.Adam())
    with pytest.raises(CheckpointError, match="it holds the state of Adam, which SGD cannot take over"):
        load(path, optimizer=optimizer)
    with pytest.raises(TypeError, match="save: optimizer is 'adam'; expected the optimizer that trained"):
        save(net, tmp_path / "other.npz", optimizer="adam")
    assert not (tmp_path / "other.npz").exists()


@BOTH
def test_an_array_of_the_other_byte_order_is_written_like_any_other(tmp_path, suffix):
    net = small()
    plain = save(net, tmp_path / f"plain{suffix}").read_bytes()
    bank = net.parameters()["0.w"]
    bank.value = dn.to_numpy(bank.value).astype(np.dtype("float32").newbyteorder(">"))
    path = save(net, tmp_path / f"m{suffix}")
    assert path.read_bytes() == plain and np.array_equal(dn.to_numpy(load(path)[0].w.value), bank.value)
