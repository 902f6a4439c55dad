"""The named networks: known parameter counts, shapes, and that they learn."""

from __future__ import annotations

import inspect

import numpy as np
import oracles
import pytest

import dualnet as dn
from dualnet import models
from dualnet.files.network import BUILT_IN

COUNTS = [
    ("lenet5", {}, (28, 28, 1), 61_706),  # 156 + 2,416 + 48,120 + 10,164 + 850
    ("digits_cnn", {}, (8, 8, 1), 320 + 9_248 + 18_496 + 65_600 + 650),
    ("vgg6", {}, (32, 32, 3), 287_008 + 524_544 + 2_570),
    ("vgg16", {"classes": 1000, "batch_norm": False, "hidden": 4096}, (224, 224, 3), 138_357_544),  # the original
    ("vgg16", {"batch_norm": False}, (32, 32, 3), 14_714_688 + 262_656 + 262_656 + 5_130),
    ("vgg16", {}, (32, 32, 3), 14_714_688 + 4_224 + 262_656 + 262_656 + 5_130),  # 4,224 biases less, 8,448 γ and β more
    ("resnet20", {}, (32, 32, 3), 269_722),
    ("resnet20", {"shortcut": "projection"}, (32, 32, 3), 272_474),
    ("resnet18", {}, (32, 32, 3), 11_173_962),
    ("resnet18", {"classes": 1000, "stem": 7}, (224, 224, 3), 11_689_512),  # these four as in torchvision
    ("resnet34", {}, (224, 224, 3), 21_797_672),
    ("resnet50", {}, (224, 224, 3), 25_557_032),
    ("mobilenetv2", {}, (224, 224, 3), 3_504_872),
    ("unet", {}, (256, 256, 1), 31_030_658),  # with one class 31,030,593
]


@pytest.mark.parametrize("name, options, shape, count", COUNTS)
def test_parameter_counts_are_the_known_ones(name, options, shape, count):
    net = models.get(name)(**options)
    assert net.summary(shape).parameters == count
    classes = inspect.signature(models.get(name)).parameters["classes"].default
    assert net.output_shape(shape) == (*(shape[:2] if name == "unet" else ()), options.get("classes", classes))
    assert net.input_shape is None, "a model comes without parameters"


@pytest.mark.parametrize("name", ["lenet5", "digits_cnn", "vgg6", "resnet20"])
def test_the_count_is_that_of_the_parameters(name):
    net = models.get(name)(classes=3).init(models.INPUT_SHAPES[name])
    counted = sum(int(np.prod(parameter.shape)) for parameter in net.parameters().values())
    assert counted == net.summary().parameters


@pytest.mark.parametrize("name", ["lenet5", "digits_cnn", "resnet20"])
def test_forward_and_backward(backend, rng, name):
    net = models.get(name)(classes=3).init(models.INPUT_SHAPES[name])
    x = dn.asarray(rng.standard_normal((2, *net.input_shape)).astype("float32"))
    y, pullback = net.forward(x, train=True)
    dx, grads = pullback(dn.asarray(rng.standard_normal((2, 3)).astype("float32")))
    assert y.shape == (2, 3) and dx.shape == x.shape and grads.keys() == net.parameters().keys()
    assert all(dn.to_numpy(gradient).any() for gradient in grads.values()), "every parameter has a gradient"
    assert {str(gradient.dtype) for gradient in grads.values()} == {"float32"}


SMALL = {  # thin and shallow: a deep batch norm over a few numbers has gradients too small to check
    "two convolutions": lambda: models._resnet((2, 3), (1, 2), 3, "projection", stem=7),
    "bottlenecks": lambda: models._resnet((2, 3), (1, 2), 3, "projection", stem=3, bottleneck=4),
    "inverted": lambda: dn.Sequential([models._inverted(2, 3, 6, 2), models._inverted(3, 3, 6, 1)]),
    "inverted without expansion": lambda: models._inverted(2, 3, 1, 1),
    "unet": lambda: models.unet(2, filters=3, depth=2),
}


@pytest.mark.parametrize("name", SMALL)
def test_gradients_of_small_ones(backend, name):
    dn.check.gradient(SMALL[name]().init((8, 8, 2), seed=1))


def test_which_convolution_of_resnet50_has_the_stride():
    """The 3 × 3, as in the weights that are in use today; beside it the shortcuts', and the stem's."""
    layers = dn.models.resnet50().walk()
    strided = [layer.kernel_size for _, layer in layers if isinstance(layer, dn.Conv2D) and layer.stride == (2, 2)]
    assert strided == [(7, 7), *[(3, 3), (1, 1)] * 3]


def test_where_mobilenetv2_takes_a_detour():
    rows = dn.models.mobilenetv2().summary((224, 224, 3)).rows
    blocks = [row.output_shape for row in rows if row.layer == "Residual"]
    assert len(blocks) == 10 and sum(row.layer == "DepthwiseConv2D" for row in rows) == 17
    assert blocks[-1] == (7, 7, 160)
    wide = dn.models.mobilenetv2(width=1.4).summary((224, 224, 3))
    assert wide.parameters == 6_108_776  # as in torchvision


def test_unet_puts_the_way_down_before_the_way_up():
    """The first half of the channels that the first convolution on the way up reads is the skip, as in the source."""
    net = dn.models.unet(2, filters=4, depth=1).init((4, 4, 1))
    skip = next(layer for layer in net if isinstance(layer, dn.Parallel))
    assert isinstance(skip.layers[0], dn.Identity) and skip.merge == "concat"
    with pytest.raises(ValueError, match="the branches have shapes"):
        dn.models.unet(2, filters=4, depth=2).init((6, 6, 1))


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50", "mobilenet_v2"])
def test_torchvision_agrees(name, rng):
    """Its weights, all random, give its logits."""
    torch = pytest.importorskip("torch")
    theirs = getattr(pytest.importorskip("torchvision").models, name)(weights=None).eval()
    torch.manual_seed(0)
    for module in theirs.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            for tensor in (module.running_mean, module.bias.data):
                tensor.normal_(0, 0.1)
            for tensor in (module.running_var, module.weight.data):
                tensor.uniform_(0.5, 1.5)
    net = dn.models.resnet18(1000, stem=7) if name == "resnet18" else models.get(name.replace("_", ""))()
    dn.load_weights(net.init((32, 32, 3)), theirs.state_dict())
    x = rng.standard_normal((2, 32, 32, 3)).astype("float32")
    with torch.no_grad():
        logits = theirs(torch.tensor(x).permute(0, 3, 1, 2)).numpy()
    assert np.abs(dn.to_numpy(net(dn.asarray(x))) - logits).max() <= 1e-5 * np.abs(logits).max()


def test_resnet18_and_vgg16_run(rng):
    """On a small image: the shapes are free as long as the poolings have something to halve."""
    x = dn.asarray(rng.standard_normal((1, 8, 8, 3)).astype("float32"))
    assert dn.models.resnet18(classes=4).init((8, 8, 3))(x).shape == (1, 4)
    wide = dn.asarray(rng.standard_normal((1, 32, 32, 3)).astype("float32"))
    assert dn.models.vgg16(classes=4, hidden=16).init((32, 32, 3))(wide).shape == (1, 4)


def test_the_layout_of_lenet5_and_resnet20():
    shapes = [row.output_shape for row in dn.models.lenet5().summary((28, 28, 1)).rows if row.layer != "ReLU"]
    assert shapes == [(28, 28, 6), (14, 14, 6), (10, 10, 16), (5, 5, 16), (400,), (120,), (84,), (10,)]
    rows = dn.models.resnet20().summary((32, 32, 3)).rows
    assert sum(row.layer == "Conv2D" for row in rows) + sum(row.layer == "Dense" for row in rows) == 20
    blocks = [row.output_shape for row in rows if row.layer == "Residual"]
    assert blocks == [(32, 32, 16)] * 3 + [(16, 16, 32)] * 3 + [(8, 8, 64)] * 3
    assert sum(row.layer == "PaddedShortcut" for row in rows) == 2
    eighteen = dn.models.resnet18().summary((32, 32, 3)).rows
    assert sum(row.layer == "Conv2D" and "shortcut" not in row.name for row in eighteen) == 17


def test_digits_cnn_learns_the_digits():
    (x, t), (xt, tt) = dn.data.load_digits()
    net = dn.models.digits_cnn().init((8, 8, 1), seed=0)
    net.fit(x, t, epochs=3, batch_size=64, optimizer="adam", seed=0, verbose=0)
    assert net.evaluate(xt, tt)["accuracy"] >= 0.95


def test_names():
    assert set(models.NAMES) == set(models.INPUT_SHAPES) == {row[0] for row in COUNTS}
    assert models.get("vgg6") is models.vgg6
    for name in ("lenet", "", None, 5, ["vgg6"]):
        with pytest.raises(ValueError, match="the models are .*lenet5"):
            models.get(name)


@pytest.mark.parametrize("classes", [None, "ten", float("nan"), 1e18, -1, 0, (1, 2), 2.5, True])
def test_wrong_arguments(classes):
    for model in models.NAMES.values():
        with pytest.raises((TypeError, ValueError), match="classes"):
            model(classes=classes)
    for model in (models.resnet18, models.resnet20, models.resnet34):
        with pytest.raises(ValueError, match="shortcut must be 'identity' or 'projection'"):
            model(shortcut=classes)
    for model in (models.resnet18, models.resnet34, models.resnet50):
        with pytest.raises(ValueError, match="stem must be 3 .* or 7"):
            model(stem=5)
    for option in ("filters", "depth"):
        with pytest.raises((TypeError, ValueError), match=option):
            models.unet(**{option: classes})
    with pytest.raises((TypeError, ValueError), match="width"):
        models.mobilenetv2(width=-1.0)
    for option in ("filters", "stride"):
        with pytest.raises((TypeError, ValueError), match=option):
            models.PaddedShortcut(**{"filters": 3, option: classes})


# -- the shortcut without weights --------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape, filters, stride", [((2, 5, 4, 3), 5, 2), ((1, 6, 7, 2), 2, 3), ((3, 1, 1, 1), 4, 1)])
def test_padded_shortcut_by_its_definition_and_its_adjoint(backend, rng, shape, filters, stride):
    x = rng.standard_normal(shape)
    layer = models.PaddedShortcut(filters, stride).init(shape[1:], dtype="float64")
    y, pullback = layer.forward(dn.asarray(x))
    y = dn.to_numpy(y)
    assert y.shape == (shape[0], *layer.output_shape(shape[1:]))
    for n, i, j, d in np.ndindex(y.shape):
        assert y[n, i, j, d] == (x[n, i * stride, j * stride, d] if d < shape[3] else 0)
    g = rng.standard_normal(y.shape)
    dx, grads = pullback(dn.asarray(g))
    dx = dn.to_numpy(dx)
    assert grads == {} and dx.shape == x.shape
    left, right = (y * g).sum(), (x * dx).sum()
    assert abs(left - right) <= oracles.ADJOINT * np.linalg.norm(y) * np.linalg.norm(g)
    again, _ = pullback(dn.asarray(g))
    assert np.array_equal(dx, dn.to_numpy(again))


def test_padded_shortcut_only_adds_channels():
    with pytest.raises(ValueError, match="4 channels do not fit in filters=3"):
        models.PaddedShortcut(3).init((2, 2, 4))
    with pytest.raises(ValueError, match="expected feature maps"):
        models.PaddedShortcut(3).init((2,))
    assert BUILT_IN["PaddedShortcut"] is models.PaddedShortcut
