"""Files of Keras: its own predictions from its own files, the order of layers, and proof that nothing else is read or
run."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest

import dualnet as dn
from dualnet.bridges import keras

h5py = pytest.importorskip("h5py")
FIXTURE = Path(__file__).resolve().parents[1] / "fixtures" / "keras.zip"
FORMATS = ["model.keras", "model.weights.h5", "model.h5"]


@pytest.fixture
def saved(tmp_path) -> Path:
    """The folder of files that Keras wrote, see ``fixtures/make_keras.py``."""
    with zipfile.ZipFile(FIXTURE) as archive:
        archive.extractall(tmp_path)
    return tmp_path


def network(momentum: float = 0.99, epsilon: float = 1e-3) -> dn.Sequential:
    block = [dn.SeparableConv2D(3, 3, padding="same"), dn.BatchNorm(momentum, epsilon)]
    layers = [
        dn.Conv2D(3, (3, 2), stride=2, padding="same", use_bias=False),
        dn.BatchNorm(momentum, epsilon, scale=False),
        dn.Sequential(block),
        dn.DepthwiseConv2D(2, depth_multiplier=2),
        dn.Conv2DTranspose(3, 3, stride=2, padding="same"),
        dn.Flatten(),
        dn.Dense(2),
    ]
    return dn.Sequential(layers).init((5, 4, 2), seed=3)


def value(net: dn.Layer, name: str) -> np.ndarray:
    return dn.to_numpy(net.state_dict()[name])


# -- what Keras saved and predicted ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FORMATS)
def test_the_network_predicts_what_keras_did(saved, name):
    predicted = np.load(saved / "predicted.npz")
    net = network()
    report = dn.load_weights(net, saved / name)
    assert len(report.rows) == len(net.state_dict()) and not report.differing
    y = dn.to_numpy(net(dn.asarray(predicted["x"])))
    assert np.abs(y - predicted["y"]).max() < 1e-6 * np.abs(predicted["y"]).max()


def test_the_report_has_the_names_of_keras_and_says_what_was_turned(saved):
    rows = {row.ours: row for row in dn.load_weights(network(), saved / "model.keras").rows}
    assert rows["2.0.depthwise.w"].theirs == "block.separable_conv2d.depthwise.kernel"
    assert rows["6.w"].theirs == "head.kernel" and not rows["6.w"].turned
    assert rows["3.w"].turned == "(k1, k2, C, M) to (k1, k2, 1, C·M)"


def test_rename_takes_the_names_of_keras(saved):
    net = network()
    report = dn.load_weights(net, saved / "model.keras", rename={"head": "6", "depthwise_conv2d": "3"})
    assert {row.theirs for row in report.rows if row.found == "name"} == {
        *("head.kernel", "head.bias", "depthwise_conv2d.kernel", "depthwise_conv2d.bias")
    }
    renamed = value(net, "3.w")
    dn.load_weights(net, saved / "model.keras")
    assert np.array_equal(value(net, "3.w"), renamed)


def test_another_epsilon_is_told(saved):
    with pytest.warns(
        UserWarning, match=r"epsilon is 0.001 in Keras but 1e-05 here \(layers 1, 2.1\)\. With different"
    ):
        report = dn.load_weights(network(epsilon=1e-5), saved / "model.keras")
    assert "other options: epsilon is 0.001" in repr(report) and len(report.differing) == 2
    with pytest.warns(UserWarning, match="momentum is 0.99 in Keras but 0.9 here"):
        dn.load_weights(network(momentum=0.9), saved / "model.h5")
    dn.load_weights(network(epsilon=1e-5), saved / "model.weights.h5")  # which does not say


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda layers: layers[:-1], "unexpected: head.kernel, head.bias"),
        (lambda layers: [*layers, dn.Dense(3)], "missing: 7.w, 7.b"),
        (lambda layers: [*layers[:-1], dn.Dense(4)], r"head.kernel for 6.w: \(24, 2\), expected \(24, 4\)"),
    ],
)
def test_another_network_is_refused_and_nothing_changes(saved, name, change, message):
    net = dn.Sequential(change(network().layers)).init((5, 4, 2))
    before = {name: dn.to_numpy(array).copy() for name, array in net.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        dn.load_weights(net, saved / name)
    assert all(np.array_equal(value(net, name), array) for name, array in before.items())


def test_a_mathematical_convolution_gets_keras_filters_turned(tmp_path, rng):
    w = rng.standard_normal((3, 3, 2, 3))
    with h5py.File(tmp_path / "m.h5", "w") as file:
        file["layers/conv2d/vars/0"] = w
    pair = [dn.Conv2D(3, 3, use_bias=False, mode=mode).init((5, 5, 2)) for mode in ("correlation", "convolution")]
    for net in pair:
        dn.load_weights(net, tmp_path / "m.h5")
    x = dn.asarray(rng.standard_normal((2, 5, 5, 2)))
    np.testing.assert_allclose(*(dn.to_numpy(net(x)) for net in pair), rtol=1e-5, atol=1e-5)
    assert np.array_equal(dn.to_numpy(pair[0].state_dict()["w"]), w.astype("float32"))


# -- order and classes without config.json -----------------------------------------------------------------------------


def test_numbers_are_counted_not_spelled(tmp_path):
    """HDF5 lists dense, dense_1, dense_10, dense_11, dense_2; and conv2d before all of them."""
    net = dn.Sequential([dn.Dense(3, use_bias=False) for _ in range(12)]).init((3,))
    with h5py.File(tmp_path / "m.weights.h5", "w") as file:
        for number in range(12):
            file[f"layers/dense_{number}/vars/0" if number else "layers/dense/vars/0"] = np.full((3, 3), float(number))
    dn.load_weights(net, tmp_path / "m.weights.h5")
    assert [value(net, f"{number}.w")[0, 0] for number in range(12)] == list(range(12))


def test_a_layer_gets_what_a_layer_of_its_class_had(tmp_path):
    """The alphabet puts the convolution before its transpose, and the group norm before the layer norm."""
    net = dn.Sequential(
        [dn.Conv2DTranspose(2, 3, use_bias=False), dn.Conv2D(2, 3, use_bias=False), dn.LayerNorm(), dn.GroupNorm(1)]
    ).init((3, 3, 2))
    with h5py.File(tmp_path / "m.weights.h5", "w") as file:
        for name, number in (("conv2d", 1.0), ("conv2d_transpose", 2.0)):
            file[f"layers/{name}/vars/0"] = np.full((3, 3, 2, 2), number)
        for name, number in (("group_normalization", 3.0), ("layer_normalization", 4.0)):
            file[f"layers/{name}/vars/0"] = file[f"layers/{name}/vars/1"] = np.full(2, number)
    dn.load_weights(net, tmp_path / "m.weights.h5")
    assert [value(net, name).max() for name in ("0.w", "1.w", "2.gamma", "3.gamma")] == [2, 1, 4, 3]


def test_config_json_tells_where_a_nested_model_stands(tmp_path):
    inner = {"class_name": "Sequential", "config": {"name": "first", "layers": [conv("a"), conv("b")]}}
    config = {"class_name": "Functional", "config": {"name": "m", "layers": [inner, conv("c"), conv("d")]}}
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        for number, name in enumerate(("sequential/layers/conv2d", "sequential/layers/conv2d_1", "conv2d", "conv2d_1")):
            file[f"layers/{name}/vars/0"] = np.full((1, 1, 2, 2), float(number))
    members = {"config.json": json.dumps(config).encode(), "model.weights.h5": buffer.getvalue()}
    net = dn.Sequential([dn.Conv2D(2, 1, use_bias=False) for _ in range(4)]).init((3, 3, 2))
    report = dn.load_weights(net, zipped(tmp_path / "m.keras", members))
    assert [row.theirs for row in report.rows] == ["first.a.kernel", "first.b.kernel", "c.kernel", "d.kernel"]
    assert [value(net, f"{at}.w").max() for at in range(4)] == [0, 1, 2, 3]


def conv(name: str) -> dict[str, object]:
    return {"class_name": "Conv2D", "config": {"name": name, "use_bias": False}}


def test_a_model_of_attributes_and_a_norm_without_gamma(tmp_path):
    """A subclassed model: groups are attributes, and their class is known by the automatic name, if at all."""
    net = dn.Sequential([dn.Dense(4), dn.BatchNorm(scale=False), dn.Dense(2)]).init((3,))
    with h5py.File(tmp_path / "m.weights.h5", "w") as file:
        file["a/vars/0"], file["a/vars/1"] = np.ones((3, 4)), np.ones(4)
        file["norm/vars/0"], file["norm/vars/1"], file["norm/vars/2"] = np.full((3, 4), [[1.0], [2.0], [3.0]])
        file["norm/vars"].attrs["name"] = "batch_normalization_7"
        file["z/vars/0"], file["z/vars/1"] = np.ones((4, 2)), np.ones(2)
        file["z/vars"].attrs["name"] = "dense_3"
        file["optimizer/vars/0"] = np.int64(7)
        file["drop/seed_generator/vars/0"] = np.zeros(2, "uint32")
    report = dn.load_weights(net, tmp_path / "m.weights.h5")
    assert [row.theirs for row in report.rows if row.ours.startswith("1.")] == [f"norm.vars/{n}" for n in range(3)]
    assert {row.ours: row.theirs for row in report.rows}["2.w"] == "z.kernel"
    assert [value(net, f"1.{name}")[0] for name in ("beta", "moving_mean", "moving_variance")] == [1, 2, 3]


def legacy(path: Path, layers: dict[str, dict[str, np.ndarray]], root: str = "model_weights", **attrs: object) -> Path:
    """A file as Keras 2 writes it: names are bytes, and weights end in ``:0``."""
    with h5py.File(path, "w") as file:
        group = file.create_group(root) if root else file
        group.attrs["layer_names"] = np.array([name.encode() for name in layers])
        group.attrs.update(attrs)
        for layer, weights in layers.items():
            at = group.create_group(layer)
            at.attrs["weight_names"] = np.array([name.encode() for name in weights])
            for name, array in weights.items():
                at[name] = array
    return path


@pytest.mark.parametrize("root", ["model_weights", ""])
def test_keras_2(tmp_path, rng, root):
    net = dn.Sequential(
        [
            dn.DepthwiseConv2D(2, depth_multiplier=2),
            dn.Sequential([dn.SeparableConv2D(3, 2, depth_multiplier=2)]),
            dn.Dense(5, use_bias=False),
        ]
    ).init((4, 4, 2))
    layers = {
        "z_first": {
            "z_first/depthwise_kernel:0": rng.standard_normal((2, 2, 2, 2)),
            "z_first/bias:0": rng.standard_normal(4),
        },
        "block": {
            "separable_conv2d/depthwise_kernel:0": rng.standard_normal((2, 2, 4, 2)),
            "separable_conv2d/pointwise_kernel:0": rng.standard_normal((1, 1, 8, 3)),
            "separable_conv2d/bias:0": rng.standard_normal(3),
        },
        "relu": {},
        "a_last": {"a_last/kernel:0": rng.standard_normal((3, 5))},
    }
    report = dn.load_weights(net, legacy(tmp_path / "m.h5", layers, root))
    arrays = [array for weights in layers.values() for array in weights.values()]
    assert [row.theirs for row in report.rows] == [
        *("z_first.kernel", "z_first.bias", "block.separable_conv2d.depthwise.kernel"),
        *("block.separable_conv2d.pointwise.kernel", "block.separable_conv2d.pointwise.bias", "a_last.kernel"),
    ]
    for row, array in zip(report.rows, arrays):
        assert np.array_equal(value(net, row.ours), array.astype("float32").reshape(row.shape))


def test_lists_of_names_that_were_cut(tmp_path):
    path = legacy(tmp_path / "m.h5", {"a": {"a/kernel:0": np.ones((3, 2)), "a/bias:0": np.ones(2)}})
    with h5py.File(path, "a") as file:
        for at, kind in (("model_weights", "layer_names"), ("model_weights/a", "weight_names")):
            names = file[at].attrs
            for number, name in enumerate(names.pop(kind)):
                names[f"{kind}{number}"] = np.array([name])
    assert len(dn.load_weights(dn.Dense(2).init((3,)), path).rows) == 2


def test_sixteen_bits(tmp_path):
    with h5py.File(tmp_path / "m.h5", "w") as file:
        upper = np.array([[1.5, -2.0]], "float32").view("uint32") >> 16
        file["layers/dense/vars/0"] = upper.astype("uint16").view("V2")
        file["layers/dense/vars/0"].attrs["dtype"] = "bfloat16"
        file["layers/dense/vars/1"] = np.array([0.5, 0.25], ">f2")
    net = dn.Dense(2).init((1,))
    dn.load_weights(net, tmp_path / "m.h5")
    assert value(net, "w").tolist() == [[1.5, -2.0]] and value(net, "b").tolist() == [0.5, 0.25]


# -- what is not read --------------------------------------------------------------------------------------------------


def dense(path: Path, build: object) -> Path:
    with h5py.File(path, "w") as file:
        file["layers/dense/vars/1"] = np.zeros(2)
        build(file, file["layers/dense/vars"])
    return path


def refused(path: Path, message: str) -> None:
    with pytest.raises(dn.CheckpointError, match=message):
        dn.load_weights(dn.Dense(2).init((3,)), path)


def test_links_are_not_followed(tmp_path):
    other = dense(tmp_path / "secret.h5", lambda file, group: file.update({"w": np.ones((3, 2))}))
    links = {"soft": h5py.SoftLink("/w"), "external": h5py.ExternalLink(str(other), "/w")}
    for name in links:
        path = dense(tmp_path / f"{name}.h5", lambda _, group, name=name: group.update({"0": links[name]}))
        refused(path, "links are not followed")
    refused(dense(tmp_path / "loop.h5", lambda file, group: group.update({"up": file["layers"]})), "two places")


def test_other_files_are_not_read(tmp_path):
    (tmp_path / "secret").write_bytes(np.ones((3, 2)).tobytes())
    raw = [(str(tmp_path / "secret"), 0, h5py.h5f.UNLIMITED)]
    refused(
        dense(tmp_path / "raw.h5", lambda _, group: group.create_dataset("0", (3, 2), "f8", external=raw)),
        "is in another file",
    )
    other = dense(tmp_path / "other.h5", lambda file, _: file.update({"w": np.ones((3, 2))}))
    layout = h5py.VirtualLayout((3, 2), "f8")
    layout[:] = h5py.VirtualSource(str(other), "w", (3, 2))
    refused(
        dense(tmp_path / "virtual.h5", lambda _, group: group.create_virtual_dataset("0", layout)),
        "is in another file",
    )


@pytest.mark.parametrize("options", [{}, {"chunks": (2**16, 2**16)}, {"chunks": (2**10, 2**10), "compression": "gzip"}])
def test_claims_are_compared_with_the_file(tmp_path, options):
    """Nothing was written, so HDF5 would fill terabytes with zeros."""
    path = dense(tmp_path / "m.h5", lambda _, group: group.create_dataset("0", (2**20, 2**20), "f8", **options))
    assert path.stat().st_size < 2**20
    refused(path, "claims to have shape")


def test_what_is_no_number(tmp_path):
    refused(dense(tmp_path / "m.h5", lambda _, group: group.update({"0": "text"})), "expected numbers")


def test_channels_first_and_theano_are_refused(tmp_path, saved):
    with zipfile.ZipFile(saved / "model.keras") as archive:
        config = archive.read("config.json").replace(b'"channels_last"', b'"channels_first"', 1)
        weights = archive.read("model.weights.h5")
    path = zipped(tmp_path / "first.keras", {"config.json": config, "model.weights.h5": weights})
    refused(path, "layer conv2d has data_format='channels_first'; expected 'channels_last'")
    refused(legacy(tmp_path / "m.h5", {"a": {"a/kernel:0": np.ones((3, 2))}}, backend=b"theano"), "Theano")


def zipped(path: Path, members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def weights() -> bytes:
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file["layers/dense/vars/0"], file["layers/dense/vars/1"] = np.ones((3, 2)), np.zeros(2)
    return buffer.getvalue()


def test_archives_that_are_no_model(tmp_path):
    whole = {"config.json": b"{}", "model.weights.h5": weights()}
    assert len(dn.load_weights(dn.Dense(2).init((3,)), zipped(tmp_path / "m.keras", whole)).rows) == 2
    refused(
        zipped(tmp_path / "a.keras", {"config.json": b"{}"}),
        "without model.weights.h5, so it is no Keras model; it holds config.json",
    )
    refused(
        zipped(tmp_path / "b.keras", whole, zipfile.ZIP_DEFLATED), "holds config.json and model.weights.h5 compressed"
    )
    refused(zipped(tmp_path / "c.keras", {**whole, "config.json": b"{"}), "c.keras")
    refused(zipped(tmp_path / "d.keras", {**whole, "model.weights.h5": b"x" * 99}), "HDF5 file is damaged")
    refused(zipped(tmp_path / "e.keras", {**whole, "config.json": b'{"config": {"layers": [3]}}'}), "e.keras")


def test_files_that_are_none(tmp_path):
    for name, data, got in (
        ("empty.h5", b"", "is empty"),
        ("text.keras", b"weights", "starts with the bytes 77 65 69"),
        ("pickle.h5", b"\x80\x05.", "starts with the bytes 80 05 2e"),
    ):
        (tmp_path / name).write_bytes(data)
        refused(tmp_path / name, f"it is not a Keras file: it {got}")
    refused(dense(tmp_path / "m.h5", lambda file, _: file.move("layers/dense/vars", "arrays")), "without Keras weights")
    path = legacy(tmp_path / "l.h5", {"a": {"a/kernel:0": np.ones((3, 2))}})
    with h5py.File(path, "a") as file:
        del file["model_weights/a/a/kernel:0"]
    refused(path, "it lists an array model_weights/a/a/kernel:0, but does not contain it")


@pytest.mark.parametrize("name", FORMATS)
def test_files_that_were_cut(saved, name):
    """At any place. (Other bytes in the middle of an HDF5 file can bring its C library down.)"""
    data = (saved / name).read_bytes()
    for part in range(1, 40):
        (saved / name).write_bytes(data[: len(data) * part // 40])
        with pytest.raises(dn.CheckpointError, match=name):
            dn.load_weights(network(), saved / name)


def test_a_lambda_layer_is_text(tmp_path):
    lambda_ = {"class_name": "Lambda", "config": {"name": "evil", "function": ["4wEAAAA", None, None]}}
    config = {"class_name": "Sequential", "config": {"name": "m", "layers": [lambda_]}}
    path = zipped(tmp_path / "m.keras", {"config.json": json.dumps(config).encode(), "model.weights.h5": weights()})
    assert len(dn.load_weights(dn.Dense(2).init((3,)), path).rows) == 2
    assert "marshal" not in vars(keras) and "pickle" not in vars(keras)
