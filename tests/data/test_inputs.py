"""What a network expects of its input: prepared images, and the way into a file and back."""

from __future__ import annotations

import re

import numpy as np
import pytest

import dualnet as dn
from dualnet import data
from dualnet.data import DataError, InputSpec, prepare


def net_of(shape=(4, 5, 3), classes=2):
    return dn.Sequential([dn.Flatten(), dn.Dense(classes)]).init(shape)


def photo(path, pixels):
    Image = pytest.importorskip("PIL.Image")
    Image.fromarray(pixels).save(path)
    return path


def test_a_photo_becomes_what_the_network_was_trained_on(tmp_path, rng):
    pixels, net = rng.integers(0, 256, (4, 5, 3), "uint8"), net_of()
    net.input = InputSpec((4, 5), mean=[0.1, 0.2, 0.3], std=[0.5, 1.0, 2.0], inverted=True)
    path = photo(tmp_path / "a.png", pixels)
    truth = ((1 - pixels / 255) - [0.1, 0.2, 0.3]) / [0.5, 1.0, 2.0]
    for image in (path, str(path), pixels, pixels[None], dn.asarray(pixels), (pixels / 255).astype("float32")):
        x = prepare(net, image)
        assert x.shape == (1, 4, 5, 3) and x.dtype == np.float32 and np.abs(x - truth).max() < 1e-6
    truth = (pixels / 255 - [0.1, 0.2, 0.3]) / [0.5, 1.0, 2.0]
    assert np.abs(prepare(net, path, invert=False) - truth).max() < 1e-6
    assert np.array_equal(prepare(net, np.stack([pixels, pixels]))[1:], prepare(net, pixels))


def test_it_is_what_augmentation_does_to_images_to_test_with(rng):
    images = rng.integers(0, 256, (3, 4, 5, 3), "uint8")
    for augment in ([data.Normalise([0.1, 0.2, 0.3], 0.5)], data.Augment(1, mean=0.4, scale=[2.0, 3.0, 4.0])):
        net = dn.Sequential([dn.Flatten(), dn.Dense(2)])
        net.fit(images, np.array([0, 1, 0]), augment=augment, verbose=0)
        assert np.abs(prepare(net, images) - data.augmentation(augment).normalise(images)).max() < 1e-6


def test_a_photo_is_scaled_and_made_grey(tmp_path):
    net = net_of((2, 2, 1))
    net.input = InputSpec((2, 2), channels=1)
    x = prepare(net, photo(tmp_path / "a.png", np.full((6, 8, 3), 51, "uint8")))
    assert x.shape == (1, 2, 2, 1) and np.allclose(x, 0.2)
    assert prepare(net, np.zeros((2, 2), "uint8")).shape == prepare(net, np.zeros((2, 2, 1))).shape == (1, 2, 2, 1)
    assert prepare(net, np.zeros((5, 2, 2), "uint8")).shape == (5, 2, 2, 1)


def test_a_network_that_says_nothing_gets_0_to_1(tmp_path):
    x = prepare(net_of(), np.full((4, 5, 3), 51, "uint8"))
    assert np.allclose(x, 0.2)


@pytest.mark.parametrize(
    "image, told",
    [
        (np.zeros((4, 4, 3), "uint8"), r"an array of shape (4, 4, 3), but the network takes images of (4, 5, 3)"),
        (np.zeros((4, 5), "uint8"), "an array of shape (4, 5)"),
        (np.zeros((4, 5, 3), "int64"), "images of int64; expected bytes"),
        (np.full((4, 5, 3), 255.0), "pixels go from 255 to 255; expected bytes, or floating numbers from 0 to 1"),
        (np.full((4, 5, 3), -0.5), "If they are already normalised, pass them to net.predict(x) as they are"),
        (np.full((4, 5, 3), np.nan), "pixels go from nan to nan"),
    ],
)
def test_images_that_do_not_fit(image, told):
    with pytest.raises(DataError, match=re.escape(told)):
        prepare(net_of(), image)


def test_networks_of_other_things():
    with pytest.raises(ValueError, match=r"prepare: the network takes \(7,\); expected images"):
        prepare(dn.Sequential([dn.Dense(2)]).init((7,)), np.zeros((4, 5)))
    with pytest.raises(ValueError, match="prepare: the network takes None"):
        prepare(dn.Dense(2), np.zeros((4, 5)))
    with pytest.raises(ValueError, match="an image file has 1 or 3 channels"):
        prepare(net_of((4, 5, 2)), "a.png")


WRONG = [
    (lambda: InputSpec("ab"), TypeError, "size must be an integer"),
    (lambda: InputSpec((4, 5), 0), ValueError, "channels must be at least 1"),
    (lambda: InputSpec((4, 5), mean=[1, 2]), ValueError, "mean has 2 numbers; expected one, or 3"),
    (lambda: InputSpec((4, 5), std=0), ValueError, "std must be above 0"),
    (lambda: InputSpec((4, 5), inverted=1), TypeError, "inverted must be True or False"),
    (lambda: InputSpec((4, 5), classes="cat"), TypeError, "classes must be names in the order of the outputs"),
    (lambda: InputSpec((4, 5), classes=["cat", "cat"]), ValueError, "different names"),
    (lambda: InputSpec((4, 5), classes=[]), ValueError, "at least one"),
]


@pytest.mark.parametrize("wrong, kind, words", WRONG, ids=[words for _, _, words in WRONG])
def test_mistakes_are_told(wrong, kind, words):
    with pytest.raises(kind, match=words):
        wrong()


# -- in files ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
@pytest.mark.parametrize(
    "spec",
    [
        InputSpec((4, 5)),
        InputSpec((4, 5), 3, 0.5, [0.1, 0.2, 0.3], True, ("Katze 猫", "dog")),
        InputSpec((4, 5), std=1 / 3, classes=["a", "b"]),
    ],
)
def test_it_goes_into_the_file_and_comes_back(tmp_path, suffix, spec):
    if suffix == ".safetensors":
        pytest.importorskip("safetensors")
    net = net_of()
    net.input = spec
    again = dn.load(net.save(tmp_path / f"model{suffix}"))
    assert again.input == spec
    again.save(tmp_path / f"again{suffix}")
    assert (tmp_path / f"model{suffix}").read_bytes() == (tmp_path / f"again{suffix}").read_bytes()


def test_a_network_without_one_has_none_in_its_file(tmp_path):
    assert dn.load(net_of().save(tmp_path / "model.npz")).input is None
    assert b'"input":' not in (tmp_path / "model.npz").read_bytes()


def test_a_copy_keeps_it():
    net = net_of()
    net.input = InputSpec((4, 5))
    assert net.copy().input == net.input


@pytest.mark.parametrize(
    "given, kind, told",
    [
        ({"size": [4, 5]}, TypeError, "save: net.input is .*; expected a dn.data.InputSpec, or None"),
        (InputSpec((5, 4)), ValueError, r"net.input is for images of \(5, 4, 3\), but the network takes \(4, 5, 3\)"),
        (InputSpec((4, 5), classes="abc".split()), ValueError, "names 1 classes, but the network has 2 outputs"),
    ],
)
def test_what_does_not_belong_to_the_network_is_not_saved(tmp_path, given, kind, told):
    net = net_of()
    net.input = given
    with pytest.raises(kind, match=told):
        net.save(tmp_path / "model.npz")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "wrong",
    [
        [],
        {},
        {"size": 4.5},
        {"size": [4, 5], "run": "me"},
        {"size": [4, 5], "classes": [1, 2]},
        {"size": [[4], 5]},
        None,
    ],
)
def test_a_file_with_a_wrong_one_is_refused(wrong):
    with pytest.raises((ValueError, TypeError)):
        InputSpec.from_json(wrong)


def test_a_graph_with_several_outputs_keeps_how_its_input_is_normalised(tmp_path):
    net = dn.Graph("x")
    net.add("flat", dn.Flatten(), "x")
    net.add("one", dn.Dense(2), "flat")
    net.add("two", dn.Dense(1), "flat")
    net.init((4, 4, 1))
    net.input = dn.data.InputSpec((4, 4), channels=1, mean=0.5, std=0.25)
    assert dn.load(net.save(tmp_path / "net.npz")).input == net.input
    net.input = dn.data.InputSpec((4, 4), channels=1, classes=["a", "b"])
    with pytest.raises(ValueError, match="a network with several outputs needs them for each"):
        net.save(tmp_path / "net.npz")


def test_what_does_not_fit_is_told_before_the_training():
    net = dn.Sequential([dn.Flatten(), dn.Dense(2)]).init((4, 4, 1))
    net.input = dn.data.InputSpec((4, 4), channels=1, classes=["a", "b", "c"])
    before = {name: dn.to_numpy(value).copy() for name, value in net.state_dict().items()}
    with pytest.raises(ValueError, match="names 3 classes, but the network has 2 outputs"):
        net.fit(np.zeros((4, 4, 4, 1), "float32"), np.arange(4) % 2, verbose=0)
    assert all((dn.to_numpy(value) == before[name]).all() for name, value in net.state_dict().items())


def test_a_scale_that_no_deviation_has_is_not_noted():
    x, t = np.random.default_rng(0).random((4, 4, 4, 1), "float32"), np.arange(4) % 2
    for scale in (-1.0, 0.0):
        net = dn.Sequential([dn.Flatten(), dn.Dense(2)])
        net.fit(x, t, augment=dn.data.Augment(shift=0, flip=False, scale=scale), verbose=0)
        assert net.input is None


def test_an_input_of_ones_own_class_is_its_own_matter(tmp_path):
    class Mine(dn.Identity):
        input = "left"

    net = dn.Sequential([Mine(), dn.Dense(2)]).init((3,))
    assert dn.load(net.save(tmp_path / "net.npz"), custom={"Mine": Mine})
    assert dn.load(Mine().init((3,)).save(tmp_path / "own.npz"), custom={"Mine": Mine})
    net.input = "left"
    with pytest.raises(TypeError, match="expected a dn.data.InputSpec"):
        net.save(tmp_path / "net.npz")
