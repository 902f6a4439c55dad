"""Weights of other frameworks: which belongs to which layer, how they are turned, and that all are loaded or none."""

from __future__ import annotations

import json

import numpy as np
import pytest

import dualnet as dn

SHAPE = (6, 7, 2)


def network() -> dn.Sequential:
    layers = [dn.Conv2D(3, 3), dn.BatchNorm(), dn.ReLU(), dn.Conv2D(3, (1, 2)), dn.Flatten(), dn.Dense(8), dn.Dense(4)]
    return dn.Sequential(layers).init(SHAPE, seed=1, dtype="float64")


NAMES = ["stem.conv", "stem.norm", "body", "hidden", "head"]  # of the layers 0, 1, 3, 5 and 6


def state(rng: np.random.Generator, names: list[str] = NAMES) -> dict[str, np.ndarray]:
    """A state_dict as PyTorch has it."""
    conv, norm, body, hidden, head = names
    shapes = {
        f"{conv}.weight": (3, 2, 3, 3),
        f"{conv}.bias": (3,),
        f"{norm}.weight": (3,),
        f"{norm}.bias": (3,),
        f"{norm}.running_mean": (3,),
        f"{norm}.running_var": (3,),
        f"{body}.weight": (3, 3, 1, 2),
        f"{body}.bias": (3,),
        f"{hidden}.weight": (8, 3 * 4 * 4),
        f"{hidden}.bias": (8,),
        f"{head}.weight": (4, 8),
        f"{head}.bias": (4,),
    }
    arrays = {name: np.asarray(rng.standard_normal(shape)) for name, shape in shapes.items()}
    arrays[f"{norm}.running_var"] **= 2
    return arrays | {f"{norm}.num_batches_tracked": np.array(7)}


def computed(s: dict[str, np.ndarray], x: np.ndarray, names: list[str] = NAMES) -> np.ndarray:
    """What PyTorch's network computes for x (N, C, H, W), one sum after the other."""
    conv, norm, body, hidden, head = names

    def correlate(x, w, b):
        windows = np.lib.stride_tricks.sliding_window_view(x, w.shape[2:], axis=(2, 3))
        return np.einsum("nchwij,dcij->ndhw", windows, w) + b[:, None, None]

    y = correlate(x, s[f"{conv}.weight"], s[f"{conv}.bias"])
    mean, spread = s[f"{norm}.running_mean"], np.sqrt(s[f"{norm}.running_var"] + 1e-5)
    y = (y - mean[:, None, None]) / spread[:, None, None] * s[f"{norm}.weight"][:, None, None]
    y = np.maximum(y + s[f"{norm}.bias"][:, None, None], 0)
    y = correlate(y, s[f"{body}.weight"], s[f"{body}.bias"]).reshape(len(x), -1)
    y = y @ s[f"{hidden}.weight"].T + s[f"{hidden}.bias"]
    return y @ s[f"{head}.weight"].T + s[f"{head}.bias"]


def right(net: dn.Layer, s: dict[str, np.ndarray], rng: np.random.Generator, names: list[str] = NAMES) -> None:
    x = rng.standard_normal((3, *SHAPE))
    expected = computed(s, x.transpose(0, 3, 1, 2), names)
    np.testing.assert_allclose(dn.to_numpy(net(dn.asarray(x))), expected, rtol=1e-12, atol=1e-12)


def unchanged(net: dn.Layer, before: dict[str, np.ndarray]) -> bool:
    return all(
        np.array_equal(dn.to_numpy(value), dn.to_numpy(before[name])) for name, value in net.state_dict().items()
    )


# -- whose is whose ----------------------------------------------------------------------------------------------------


def test_by_shape_and_order(rng):
    net, s = network(), state(rng)
    report = dn.load_weights(net, s)
    right(net, s, rng)
    assert {row.found for row in report.rows} == {"shape and order"} and len(report.rows) == 12
    assert report.ignored == ["stem.norm.num_batches_tracked"] and not report.faults()
    assert {row.theirs: row.ours for row in report.rows}["stem.norm.running_var"] == "1.moving_variance"


def test_by_name_in_whatever_order_they_come(rng):
    names = ["0", "1", "3", "5", "6"]
    net, s = network(), state(rng, names)
    shuffled = dict(sorted(s.items(), reverse=True))
    assert {row.found for row in dn.load_weights(net, shuffled).rows} == {"name"}
    right(net, s, rng, names)


def test_names_that_agree_by_chance_are_not_trusted(rng):
    """A source that counts its layers otherwise has names in common with the network, but not all of them."""
    net = dn.Sequential([dn.Conv2D(2, 1), dn.ReLU(), dn.Conv2D(2, 1), dn.Conv2D(2, 1)]).init((3, 3, 2))
    s = {f"{name}.weight": np.full((2, 2, 1, 1), float(name)) for name in ("0", "2", "4")}
    s |= {f"{name}.bias": np.zeros(2) for name in ("0", "2", "4")}
    dn.load_weights(net, s)
    assert [dn.to_numpy(net.parameters()[f"{at}.w"].value)[0, 0, 0, 0] for at in (0, 2, 3)] == [0, 2, 4]
    net = dn.Sequential([dn.Conv2D(2, 1), dn.Conv2D(2, 1), dn.Conv2D(2, 1)]).init((3, 3, 2))
    dn.load_weights(net, s)  # "2" is a name of both, and of another layer
    assert [dn.to_numpy(net.parameters()[f"{at}.w"].value)[0, 0, 0, 0] for at in (0, 1, 2)] == [0, 2, 4]


@pytest.mark.parametrize(
    "rename",
    [
        {"stem.conv": "0", "stem.norm": "1", "body": "3", "hidden": "5", "head": "6"},
        {"head": "6"},
        {"head.weight": "6.w", "head.bias": "6.bias"},
        lambda name: name.replace("head", "6"),
    ],
)
def test_rename(rename, rng):
    net, s = network(), state(rng)
    s = {"head.bias": s.pop("head.bias"), "head.weight": s.pop("head.weight"), **s}
    report = dn.load_weights(net, s, rename=rename)
    right(net, s, rng)
    assert {row.ours: row.found for row in report.rows}["6.w"] == "name"


def test_rename_chooses_between_layers_of_one_shape(rng):
    net = dn.Sequential([dn.Dense(3), dn.Dense(3)]).init((3,))
    s = {"late.weight": np.full((3, 3), 2.0), "late.bias": np.zeros(3)}
    s |= {"early.weight": np.full((3, 3), 1.0), "early.bias": np.zeros(3)}
    dn.load_weights(net, s, rename={"early": "0", "late": "1"})
    assert dn.to_numpy(net.parameters()["0.w"].value)[0, 0] == 1
    dn.load_weights(net, s)
    assert dn.to_numpy(net.parameters()["0.w"].value)[0, 0] == 2


def test_of_two_names_in_rename_the_longer_one_counts(rng):
    net = dn.Sequential([dn.Dense(3, use_bias=False), dn.Dense(3, use_bias=False)]).init((3,), dtype="float64")
    s = {"fc.head.weight": rng.standard_normal((3, 3)), "fc.weight": rng.standard_normal((3, 3))}
    dn.load_weights(net, s, rename={"fc": "0", "fc.head": "1"})
    for name, theirs in (("0.w", "fc.weight"), ("1.w", "fc.head.weight")):  # a square matrix is turned as well
        np.testing.assert_array_equal(dn.to_numpy(net.parameters()[name].value), s[theirs].T)


@pytest.mark.parametrize(("last", "first"), [("body.2", "downsample"), ("conv2_1_conv", "conv2_0_conv")])
def test_a_shortcut_of_the_shape_of_its_blocks_last_layer(last, first):
    """Some sources define it before the block, others behind; the name tells, if all shortcuts have such a name."""
    net = dn.Sequential([dn.Residual(dn.Conv2D(3, 1), dn.Conv2D(3, 1)), dn.Conv2D(3, 1)]).init((2, 2, 3))
    s = {f"{name}.bias": np.zeros(3) for name in (first, last, "head")}
    s |= {f"{name}.weight": np.full((3, 3, 1, 1), at) for at, name in enumerate((first, last, "head"))}
    rows = {row.ours: row.theirs for row in dn.load_weights(net, s).rows}
    assert [rows[name] for name in ("0.layer.w", "0.shortcut.w", "1.w")] == [
        f"{name}.weight" for name in (last, first, "head")
    ]
    plain = dn.Sequential([dn.Conv2D(3, 1), dn.Conv2D(3, 1), dn.Conv2D(3, 1)]).init((2, 2, 3))
    rows = {row.ours: row.theirs for row in dn.load_weights(plain, s).rows}
    assert [rows[f"{at}.w"] for at in range(3)] == [f"{name}.weight" for name in (first, last, "head")]


def test_rename_leaves_out(rng):
    net, s = network(), state(rng)
    report = dn.load_weights(net, {**s, "aux.weight": np.ones((4, 8)), "aux.bias": np.ones(4)}, rename={"aux": None})
    right(net, s, rng)
    assert {"aux.weight", "aux.bias"} <= set(report.ignored)


def test_rename_is_checked(rng):
    with pytest.raises(ValueError, match="rename has names that are not in the source: haed. The source has "):
        dn.load_weights(network(), state(rng), rename={"haed": "6"})
    with pytest.raises(ValueError, match="the same name 5.weight; expected two names"):
        dn.load_weights(network(), state(rng), rename={"head": "5", "hidden": "5"})


def test_our_own_names_and_layout_are_taken_as_they_are():
    net, other = network(), network().init(SHAPE, seed=5, dtype="float64")
    dn.load_weights(net, other.state_dict())
    assert unchanged(net, other.state_dict())


# -- how they are turned -----------------------------------------------------------------------------------------------


def test_a_mathematical_convolution_gets_its_filters_turned(rng):
    w = rng.standard_normal((3, 2, 3, 3))
    pair = [dn.Conv2D(3, 3, use_bias=False, mode=mode).init((5, 5, 2)) for mode in ("correlation", "convolution")]
    for net in pair:
        dn.load_weights(net, {"weight": w})
    x = dn.asarray(rng.standard_normal((2, 5, 5, 2)))
    np.testing.assert_allclose(*(dn.to_numpy(net(x)) for net in pair), rtol=1e-5, atol=1e-5)


def test_a_factor_for_each_channel_is_a_depthwise_convolution():
    net = dn.Sequential([dn.Conv2D(3, 1), dn.DepthwiseConv2D(1, use_bias=False)]).init((4, 4, 2))
    s = {"block.scale": np.array([1.0, 2.0, 3.0]), "block.conv.weight": np.ones((3, 2, 1, 1))}
    dn.load_weights(net, s | {"block.conv.bias": np.zeros(3)})
    assert dn.to_numpy(net.parameters()["1.w"].value).ravel().tolist() == [1, 2, 3]


def test_norms_of_whole_maps_and_of_flattened_ones(rng):
    net = dn.Sequential([dn.LayerNorm((1, 2, 3)), dn.Flatten(), dn.BatchNorm()]).init((2, 3, 4), dtype="float64")
    maps, row = rng.standard_normal((4, 2, 3)), np.arange(24.0)
    s = {"a.weight": maps, "a.bias": maps, "b.weight": row, "b.bias": row, "b.running_mean": row}
    dn.load_weights(net, s | {"b.running_var": row})
    np.testing.assert_array_equal(dn.to_numpy(net.state_dict()["0.gamma"]), maps.transpose(1, 2, 0))
    np.testing.assert_array_equal(
        dn.to_numpy(net.state_dict()["2.moving_mean"]), row.reshape(4, 2, 3).transpose(1, 2, 0).ravel()
    )


# -- all or nothing ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("head.bias"), r"missing: 6.w, 6.b; unexpected: head.weight"),
        (lambda s: s.update({"extra.weight": np.ones(5)}), r"unexpected: extra.weight"),
        (
            lambda s: s.update({"head.weight": np.ones((9, 8)), "head.bias": np.ones(9)}),
            r"of the wrong shape: head.weight for 6.w: \(9, 8\), expected \(4, 8\), head.bias for 6.b: \(9,\)",
        ),
        (lambda s: s.update({"body.weight": np.ones((3, 3, 2, 2))}), "of the wrong shape: body.weight for 3.w"),
    ],
)
def test_strict_lists_what_does_not_fit_and_changes_nothing(change, message, rng):
    net, s = network(), state(rng)
    before = dict(net.state_dict())
    change(s)
    with pytest.raises(ValueError, match=message):
        dn.load_weights(net, s)
    assert unchanged(net, before)


def test_without_strict_the_head_of_other_classes_stays(rng):
    net, s = network(), state(rng)
    head = dn.to_numpy(net.parameters()["6.w"].value).copy()
    s |= {"head.weight": np.ones((9, 8)), "head.bias": np.ones(9)}
    report = dn.load_weights(net, s, strict=False)
    assert [ours for _, ours, _ in report.misshaped] == ["6.w", "6.b"] and len(report.rows) == 10
    np.testing.assert_array_equal(dn.to_numpy(net.parameters()["6.w"].value), head)
    np.testing.assert_array_equal(dn.to_numpy(net.parameters()["3.w"].value), s["body.weight"].transpose(2, 3, 1, 0))
    assert "not loaded: of the wrong shape: head.weight for 6.w" in repr(report)


def test_the_dtype_and_the_backend_are_the_networks(backend, rng):
    net = dn.Sequential([dn.Dense(3)]).init((2,), dtype="float32")
    dn.load_weights(net, {"fc.weight": np.ones((3, 2)), "fc.bias": np.zeros(3)})
    value = net.parameters()["0.w"].value
    assert value.dtype == np.float32 and dn.backend.backend_of(value).name == backend


def test_a_shared_layer_and_a_layer_of_ones_own(rng):
    class Scale(dn.Layer):
        def build(self, input_shape, draw):
            self.factor = draw.parameter("ones", input_shape[-1:])

        def forward(self, x, train=False):
            return x, dn.Pullback("Scale", lambda dy: (dy, {}), x)

    shared = dn.Dense(3)
    net = dn.Sequential([shared, Scale(), shared]).init((3,))
    s = {"a.weight": np.ones((3, 3)), "a.bias": np.ones(3), "b.factor": np.array([1.0, 2.0, 3.0])}
    report = dn.load_weights(net, s)
    assert [row.ours for row in report.rows] == ["0.w", "0.b", "1.factor"]


# -- files -------------------------------------------------------------------------------------------------------------


def test_npz(tmp_path, rng):
    net, s = network(), state(rng)
    np.savez(tmp_path / "model.npz", **s)
    dn.load_weights(net, tmp_path / "model.npz")
    right(net, s, rng)


def test_a_file_of_our_own(tmp_path):
    net, other = network(), network().init(SHAPE, seed=5, dtype="float64")
    dn.load_weights(net, other.save(tmp_path / "model.npz"))
    assert unchanged(net, other.state_dict())


def test_safetensors(tmp_path, rng):
    numpy_files = pytest.importorskip("safetensors.numpy")
    net, s = network(), state(rng)
    numpy_files.save_file({name: np.ascontiguousarray(array) for name, array in s.items()}, tmp_path / "m.safetensors")
    dn.load_weights(net, str(tmp_path / "m.safetensors"))
    right(net, s, rng)


def test_safetensors_of_bfloat16(tmp_path):
    """The upper half of a float32. Written here byte by byte, since NumPy's part of the library lacks it."""
    pytest.importorskip("safetensors")
    pytest.importorskip("ml_dtypes")
    numbers = np.array([[1.5, -3.0, 0.25]], "f4")
    data = (numbers.view("u4") >> 16).astype("<u2").tobytes()
    head = json.dumps({"fc.weight": {"dtype": "BF16", "shape": [1, 3], "data_offsets": [0, len(data)]}}).encode()
    (tmp_path / "m.safetensors").write_bytes(len(head).to_bytes(8, "little") + head + data)
    net = dn.Dense(1, use_bias=False).init((3,))
    dn.load_weights(net, tmp_path / "m.safetensors")
    np.testing.assert_array_equal(dn.to_numpy(net.w.value), numbers.T)


@pytest.mark.parametrize("wrapped", [False, True])
def test_pt(tmp_path, rng, wrapped):
    torch = pytest.importorskip("torch")
    net, s = network(), state(rng)
    tensors = {name: torch.from_numpy(array) for name, array in s.items()}
    torch.save({"epoch": 3, "state_dict": tensors} if wrapped else tensors, tmp_path / "model.pt")
    dn.load_weights(net, tmp_path / "model.pt")
    right(net, s, rng)


def test_tensors_with_gradients_and_sixteen_bits(tmp_path, rng):
    torch, _ = pytest.importorskip("torch"), pytest.importorskip("ml_dtypes")
    files = pytest.importorskip("safetensors.torch")
    module = torch.nn.Sequential(torch.nn.Linear(4, 3)).bfloat16()
    net = dn.Sequential([dn.Dense(3)]).init((4,))
    dn.load_weights(net, dict(module.named_parameters()))
    expected = module[0].weight.detach().float().numpy().T
    np.testing.assert_array_equal(dn.to_numpy(net.parameters()["0.w"].value), expected)
    files.save_file(module.state_dict(), tmp_path / "m.safetensors")
    net.init((4,), seed=3)
    dn.load_weights(net, tmp_path / "m.safetensors")
    np.testing.assert_array_equal(dn.to_numpy(net.parameters()["0.w"].value), expected)


def test_code_in_a_file_is_not_run(tmp_path):
    torch = pytest.importorskip("torch")

    class Evil:
        def __reduce__(self):
            return (tmp_path.joinpath("ran").write_text, ("", "utf-8"))

    torch.save({"a.weight": Evil()}, tmp_path / "model.pt")
    with pytest.raises(dn.CheckpointError, match=r"model.pt: it holds a whole module .* write the weights alone"):
        dn.load_weights(network(), tmp_path / "model.pt")
    np.savez(tmp_path / "model.npz", a=np.array([Evil()], object))
    with pytest.raises(dn.CheckpointError, match="model.npz"):
        dn.load_weights(network(), tmp_path / "model.npz")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("end", [".npz", ".safetensors", ".pt"])
def test_damaged_files(tmp_path, end):
    pytest.importorskip({".npz": "numpy", ".safetensors": "safetensors", ".pt": "torch"}[end])
    path = tmp_path / f"model{end}"
    path.write_bytes(b"\x80\x02nothing of the kind" * 9)
    with pytest.raises(dn.CheckpointError, match="model"):
        dn.load_weights(network(), path)


@pytest.mark.parametrize(
    ("library", "name", "options"),
    [
        ("torchvision", "resnet18", {}),
        ("torchvision", "mobilenet_v2", {"dropout": 0.0}),
        ("torchvision", "convnext_tiny", {"stochastic_depth_prob": 0.0}),
        ("timm", "convnext_atto", {}),
        ("timm", "mobilenetv1_100", {}),
        ("timm", "resnetv2_50", {}),  # whose blocks define their shortcut first
    ],
)
def test_real_architectures(library, name, options):
    """A state_dict, by names and shapes alone, into a fresh network of the layers that from_torch makes of it."""
    torch, models = pytest.importorskip("torch"), pytest.importorskip(library)
    make = getattr(models, "models", models)
    module = getattr(make, name)(num_classes=10, **options) if make is not models else make.create_model(name)
    for parent in list(module.modules()):
        for at, child in parent.named_children():
            if isinstance(child, torch.nn.ReLU6):  # which has no layer here
                setattr(parent, at, torch.nn.ReLU())
    for array in module.state_dict().values():
        array.copy_(torch.arange(array.numel()).reshape(array.shape) % 97 + array.numel() % 13)
    net = dn.from_torch(module, (32, 32, 3))
    expected = {key: dn.to_numpy(value).copy() for key, value in net.state_dict().items()}
    net.init((32, 32, 3), seed=1)
    report = dn.load_weights(net, module.state_dict())
    assert len(report.rows) == len(expected) and unchanged(net, expected)


# -- what is no source -------------------------------------------------------------------------------------------------


def test_wrong_arguments(tmp_path):
    with pytest.raises(TypeError, match="expected a network, got int"):
        dn.load_weights(3, {})
    with pytest.raises(ValueError, match="call net.init"):
        dn.load_weights(dn.Dense(3), {})
    with pytest.raises(TypeError, match="source is a list; expected a state_dict or a path"):
        dn.load_weights(network(), [])
    with pytest.raises(TypeError, match="source is a module; expected module.state_dict"):
        dn.load_weights(network(), network())
    with pytest.raises(ValueError, match="ends with '.tar'; expected one of .npz"):
        dn.load_weights(network(), "model.tar")
    with pytest.raises(FileNotFoundError, match="there is no file"):
        dn.load_weights(network(), tmp_path / "none.npz")
    with pytest.raises(TypeError, match="names in source must be strings, got 3"):
        dn.load_weights(network(), {3: np.ones(1)})
