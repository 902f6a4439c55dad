"""The changes that augmentation lists are made of: against loops, SciPy and Pillow, and the same on every backend."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest

import dualnet as dn
from dualnet import data

EPS32 = float(np.finfo("float32").eps)
LERPS = 16 * EPS32
"""Three interpolations of numbers in [0, 1], of two products and a sum each, and weights rounded to float32."""


def images_of(rng, shape=(6, 7, 5, 3), dtype="float64"):
    return rng.integers(0, 256, shape).astype("uint8") if dtype == "uint8" else rng.random(shape).astype(dtype)


def done(transform, images, moves, dtype="float64"):
    """The images changed, in the order in which they lie."""
    augment = data.augmentation([transform])
    return dn.to_numpy(augment.batch(dn.asarray(images), range(len(images)), moves, dtype=dtype))


def drawn(transform, examples, seed=0, epoch=0):
    return data.augmentation([transform]).moves(examples, seed=seed, epoch=epoch)


# -- one after another -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size, padding", [((7, 5), 2), ((4, 3), 0), ((3, 8), 2), (1, 0), ((11, 9), 2)])
def test_a_random_crop_is_a_window_of_the_padded_image(backend, rng, size, padding):
    images, transform = images_of(rng), data.RandomCrop(size, padding)
    h, w = size if isinstance(size, tuple) else (size, size)
    moves = drawn(transform, 6)
    padded = np.pad(images, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    rooms = 7 + 2 * padding - h, 5 + 2 * padding - w
    for image, (u, v), y in zip(padded, moves, done(transform, images, moves)):
        top, left = math.floor(u * (rooms[0] + 1)), math.floor(v * (rooms[1] + 1))
        assert np.array_equal(y, image[top : top + h, left : left + w])
    top, left = rooms[0] // 2, rooms[1] // 2
    assert np.array_equal(done(transform, images, None), padded[:, top : top + h, left : left + w])


def test_every_window_comes_and_equally_often():
    image = np.arange(12.0).reshape(1, 3, 4, 1) / 12
    transform = data.RandomCrop(2)
    many = np.repeat(image, 6000, axis=0)
    corners, counts = np.unique(done(transform, many, drawn(transform, 6000))[:, 0, 0, 0] * 12, return_counts=True)
    assert np.allclose(corners, [0, 1, 2, 4, 5, 6]) and abs(counts / 1000 - 1).max() < 0.15


@pytest.mark.parametrize("vertical", [False, True])
def test_a_flip_is_exact_and_comes_half_of_the_time(backend, rng, vertical):
    images, transform = images_of(rng, (400, 3, 4, 2)), data.Flip(vertical)
    moves = drawn(transform, 400)
    y = done(transform, images, moves)
    turned = moves[:, 0] < 0.5
    assert np.array_equal(y[turned], images[turned][:, ::-1] if vertical else images[turned][:, :, ::-1])
    assert np.array_equal(y[~turned], images[~turned]) and 150 < turned.sum() < 250


def test_a_rotation_is_scipy_s(backend, rng):
    ndimage = pytest.importorskip("scipy.ndimage")
    images, transform = images_of(rng, (5, 8, 11, 1)), data.Rotate(170)
    moves = drawn(transform, 5)
    for dtype, limit in (("float64", 1e-12), ("float32", LERPS)):
        y = done(transform, images.astype(dtype), moves, dtype)
        for image, (cos, sin), mine in zip(images, moves, y):
            matrix, middle = np.array([[cos, -sin], [sin, cos]]), np.array([3.5, 5.0])
            truth = ndimage.affine_transform(
                image[..., 0], matrix, middle - matrix @ middle, order=1, mode="grid-constant"
            )
            assert np.abs(mine[..., 0] - truth).max() <= limit


def test_a_quarter_turn_is_exact(rng):
    images = images_of(rng, (2, 5, 5, 2))
    quarter = np.array([[0.0, 1.0], [0.0, -1.0]])  # cos and sin of 90° and of −90°
    y = done(data.Rotate(90), images, quarter)
    assert np.array_equal(y[0], np.rot90(images[0], -1)) and np.array_equal(y[1], np.rot90(images[1]))
    assert np.array_equal(done(data.Rotate(0), images, drawn(data.Rotate(0), 2)), images)
    angles = np.rad2deg(np.arctan2(*drawn(data.Rotate(20), 4000).T[::-1]))
    assert np.abs(angles).max() <= 20 and angles.max() > 19 and angles.min() < -19 and abs(angles.mean()) < 1


@pytest.mark.parametrize("size", [(14, 12), (7, 30)])
def test_a_resized_crop_is_pillow_s(backend, rng, size):
    Image = pytest.importorskip("PIL.Image")
    images, transform = images_of(rng, (8, 7, 9, 1), "float32"), data.RandomResizedCrop(size, area=(0.1, 1.0))
    moves = drawn(transform, 8)
    for image, (a, b, u, v), mine in zip(images, moves, done(transform, images, moves, "float32")):
        height, width = min(max(a * math.sqrt(63), 1), 7), min(max(b * math.sqrt(63), 1), 9)
        top, left = u * (7 - height), v * (9 - width)
        box = (left, top, left + width, top + height)
        truth = Image.fromarray(image[..., 0]).resize(size[::-1], Image.Resampling.BILINEAR, box=box)
        assert np.abs(mine[..., 0] - np.asarray(truth)).max() < 2e-5  # Pillow rounds the box to float32


def test_what_is_cropped_and_resized_has_the_sizes_that_were_asked_for():
    transform = data.RandomResizedCrop(5, area=(0.2, 0.5), ratio=(0.5, 2.0))
    a, b, u, v = drawn(transform, 5000).T
    area, ratio = a * b, b / a
    assert 0.2 <= area.min() < 0.21 and 0.49 < area.max() <= 0.5 and abs(area.mean() - 0.35) < 0.01
    assert 0.5 <= ratio.min() < 0.51 and 1.95 < ratio.max() <= 2.0 and abs(np.log(ratio).mean()) < 0.02
    assert 0 <= min(u.min(), v.min()) and max(u.max(), v.max()) < 1


def test_images_to_test_with_show_their_middle():
    ramp = np.tile(np.arange(8.0) / 8, (1, 4, 1))[..., None]  # (1, 4, 8, 1)
    y = done(data.RandomResizedCrop(4), ramp, None)
    assert np.allclose(y[0, :, :, 0], np.arange(2, 6) / 8)  # the square in the middle
    assert np.allclose(done(data.RandomResizedCrop((4, 8)), ramp, None), ramp)


def test_a_cut_out_square_is_black_and_nothing_else_changes(backend, rng):
    images, transform = images_of(rng) + 0.5, data.CutOut(3)
    moves = drawn(transform, 6, seed=2)
    for image, (u, v), y in zip(images, moves, done(transform, images, moves)):
        top, left = math.floor(u * 7) - 1, math.floor(v * 5) - 1
        truth = image.copy()
        truth[max(top, 0) : top + 3, max(left, 0) : left + 3] = 0
        assert np.array_equal(y, truth)
    assert np.array_equal(done(transform, images, None), images)


def test_brightness_and_contrast(backend, rng):
    images = images_of(rng)
    for transform, middle in ((data.Brightness(0.4), 0.0), (data.Contrast(0.9), images.mean((1, 2, 3), keepdims=True))):
        moves = drawn(transform, 6)
        factor = moves[:, :, None, None]
        truth = np.clip(middle + factor * (images - middle), 0, 1)
        assert np.abs(done(transform, images, moves) - truth).max() < 1e-14
        assert np.abs(done(transform, images.astype("float32"), moves, "float32") - truth).max() < 8 * EPS32
        assert np.array_equal(done(transform, images, None), images)
    factors = drawn(data.Contrast(0.3), 3000)
    assert 0.7 <= factors.min() < 0.71 and 1.29 < factors.max() <= 1.3


def test_normalising(backend, rng):
    images = images_of(rng, dtype="uint8")
    transform = data.Normalise([0.5, 0.25, 0.1], [0.5, 0.25, 2.0])
    truth = (images / 255 - [0.5, 0.25, 0.1]) / [0.5, 0.25, 2.0]
    for moves in (None, drawn(transform, 6)):
        assert np.abs(done(transform, images, moves) - truth).max() < 1e-14
        assert np.abs(done(transform, images, moves, "float32") - truth).max() < 1e-6


# -- mixtures ----------------------------------------------------------------------------------------------------------


def mixed_by_loops(transform, images, moves):
    """Images, and the share of the first one in each."""
    y, shares = images.copy(), []
    for n, move in enumerate(moves):
        other = images[(n + 1) % len(images)]
        H, W = images.shape[1:3]
        if isinstance(transform, data.MixUp):
            y[n] = move[0] * images[n] + (1 - move[0]) * other
            shares.append(move[0])
            continue
        h, w = np.rint(move[0] * H), np.rint(move[0] * W)
        top, left = math.floor(move[1] * H) - move[0] * H // 2, math.floor(move[2] * W) - move[0] * W // 2
        covered = 0
        for i in range(H):
            for j in range(W):
                if top <= i < top + h and left <= j < left + w:
                    y[n, i, j] = other[i, j]
                    covered += 1
        shares.append(1 - covered / (H * W))
    return y, np.array(shares)


@pytest.mark.parametrize("transform", [data.MixUp(0.7), data.CutMix(1.0)], ids=repr)
@pytest.mark.parametrize("soft", [False, True])
def test_two_images_and_their_targets_are_mixed_alike(backend, rng, transform, soft):
    images, augment = images_of(rng, (30, 7, 5, 2)), data.augmentation([transform])
    moves = augment.moves(30, seed=4)
    truth, shares = mixed_by_loops(transform, images, moves)
    y = dn.to_numpy(augment.batch(dn.asarray(images), range(30), moves, dtype="float64"))
    assert np.abs(y - truth).max() < 1e-14
    labels = rng.integers(0, 4, 30)
    hot = np.eye(4)[labels]
    t = hot if soft else labels
    mixed = dn.to_numpy(augment.targets(dn.asarray(t), moves, classes=4, shape=(7, 5, 2)))
    expected = shares[:, None] * hot + (1 - shares[:, None]) * np.roll(hot, -1, axis=0)
    assert mixed.shape == (30, 4) and np.abs(mixed - expected).max() < (1e-14 if soft else 4 * EPS32)
    assert np.abs(mixed.sum(axis=1) - 1).max() < 4 * EPS32
    assert np.array_equal(dn.to_numpy(augment.batch(dn.asarray(images), range(30), dtype="float64")), images)


def test_shares_have_their_distribution():
    even = drawn(data.MixUp(1.0), 20_000)
    assert abs(even.mean() - 0.5) < 0.01 and abs(even.var() - 1 / 12) < 0.003
    assert abs(drawn(data.MixUp(0.2), 20_000).var() - 0.25 / 1.4) < 0.005  # Beta(α, α): 1 / (4 (2α + 1))
    side = drawn(data.CutMix(1.0), 20_000)[:, 0]
    assert abs((side**2).mean() - 0.5) < 0.01


def test_two_mixtures_are_mixed_one_after_another(rng):
    images, labels = images_of(rng, (5, 6, 6, 1)), np.array([0, 1, 2, 0, 1])
    both = data.augmentation([data.MixUp(1.0), data.CutMix(1.0)])
    moves = both.moves(5)
    colours = np.eye(3)[labels][:, None, None, :] * np.ones((1, 6, 6, 1))  # each class is a colour
    y = both.batch(colours, range(5), moves, dtype="float64")
    t = both.targets(labels, moves, classes=3, shape=images.shape[1:])
    assert np.allclose(y.mean(axis=(1, 2)), t, atol=1e-6)


def test_without_mixing_targets_stay_what_they_are():
    t = np.array([1, 2])
    assert data.augmentation([data.Flip()]).targets(t, np.zeros((2, 1)), classes=3, shape=(2, 2, 1)) is t


# -- a list of them ----------------------------------------------------------------------------------------------------

LIST = [
    data.RandomResizedCrop((9, 8)),
    data.RandomCrop((8, 8), padding=1),
    data.Flip(),
    data.Rotate(20),
    data.Brightness(0.3),
    data.Contrast(0.3),
    data.CutOut(3),
    data.Normalise(0.4, [0.2, 0.3, 0.4]),
    data.MixUp(0.4),
    data.CutMix(1.0),
]


def test_a_list_is_one_change_after_another(backend, rng):
    images, augment = images_of(rng, (6, 12, 10, 3), "float32"), data.augmentation(LIST)
    moves = augment.moves(6, seed=3, epoch=2)
    x, start = dn.asarray(images), 0
    for transform in LIST:
        x = transform.apply(x, dn.asarray(moves[:, start : start + transform.numbers], "float64"))
        start += transform.numbers
    y = augment.batch(dn.asarray(images), range(6), moves)
    assert start == moves.shape[1] and y.shape == (6, 8, 8, 3) and augment.shape((12, 10, 3)) == (8, 8, 3)
    assert dn.to_numpy(y).tobytes() == dn.to_numpy(x).tobytes()


@pytest.mark.parametrize("kind", ["uint8", "float32"])
def test_the_same_pictures_on_every_backend(rng, kind):
    images, augment, labels = images_of(rng, (6, 12, 10, 3), kind), data.augmentation(LIST), rng.integers(0, 3, 6)
    order, moves = rng.permutation(6), augment.moves(6, seed=9)
    here = augment.batch(images, order, moves), augment.targets(labels, moves, classes=3, shape=(12, 10, 3))
    with dn.use_backend("strict"):
        x = augment.batch(dn.asarray(images), order, moves)
        t = augment.targets(dn.asarray(labels), moves, classes=3, shape=(12, 10, 3))
    assert dn.to_numpy(x).tobytes() == here[0].tobytes() and dn.to_numpy(t).tobytes() == here[1].tobytes()


def test_numbers_depend_on_seed_epoch_and_place_in_the_list_alone():
    augment = data.augmentation(LIST)
    moves = augment.moves(50, seed=5, epoch=2)
    augment.moves(7, seed=1)  # calls before it change nothing
    assert np.array_equal(data.augmentation(LIST).moves(50, seed=5, epoch=2), moves)
    assert np.array_equal(data.augmentation(LIST[:4]).moves(50, seed=5, epoch=2), moves[:, :9])
    for other in ({"seed": 6, "epoch": 2}, {"seed": 5, "epoch": 3}):
        assert (augment.moves(50, **other) != moves).mean() > 0.9
    two = data.augmentation([data.Flip(), data.Flip(vertical=True)]).moves(50)
    assert (two[:, 0] != two[:, 1]).all(), "each place has numbers of its own"


def test_the_first_numbers_never_change():
    """A recorded training must come out again years from now."""
    moves = data.augmentation([data.Flip(), data.MixUp(1.0)]).moves(2, seed=1, epoch=2)
    assert moves.tolist() == FIRST


FIRST = [[0.014972822393151342, 0.06244080554350613], [0.5098684516464611, 0.5635899155912782]]


def test_a_list_does_what_augment_does(rng):
    """RandomCrop with padding, Flip and Normalise are what the kernel of Augment computes at once."""
    images = images_of(rng, (6, 8, 8, 3), "uint8")
    one = data.Augment(2, mean=[0.4, 0.5, 0.6], scale=[3.0, 4.0, 5.0])
    moves = one.moves(6, seed=2)
    several = data.augmentation(
        [data.Flip(), data.RandomCrop(8, padding=2), data.Normalise([0.4, 0.5, 0.6], [1 / 3, 1 / 4, 1 / 5])]
    )
    mirrored = moves[:, 2] != 0
    numbers = np.stack([np.where(mirrored, 0.0, 0.9), *((moves[:, k] + 2.5) / 5 for k in (0, 1))], axis=1)
    y = several.batch(images, range(6), numbers, dtype="float64")
    flipped = np.where(mirrored[:, None, None, None], images[:, :, ::-1], images)
    plain = moves.copy()
    plain[:, 2] = 0
    assert np.abs(y - one.batch(flipped, range(6), plain, dtype="float64")).max() < 1e-12


def test_nothing_is_written_into_the_images(backend, rng):
    host = images_of(rng, (6, 12, 10, 3), "float32")
    images, augment = dn.asarray(host.copy()), data.augmentation(LIST)
    augment.batch(images, range(6), augment.moves(6))
    assert np.array_equal(dn.to_numpy(images), host)


class Inverted(data.Transform):
    def apply(self, x, drawn):
        return 1 - x


def test_a_change_of_one_s_own(backend, rng):
    images = images_of(rng)
    assert np.array_equal(done(Inverted(), images, np.zeros((6, 0))), 1 - images)


# -- in training -------------------------------------------------------------------------------------------------------


def net_of(shape=None):
    net = dn.Sequential([dn.Conv2D(4, 3), dn.ReLU(), dn.Flatten(), dn.Dense(3)])
    return net if shape is None else net.init(shape, seed=1)


def trained(images, t, augment, *, device=False, **options):
    net = net_of()
    x, targets = (dn.asarray(images), dn.asarray(t)) if device else (images, t)
    fit = {"epochs": 2, "batch_size": 4, "optimizer": dn.SGD(0.05), "seed": 3, "verbose": 0, **options}
    return net, net.fit(x, targets, augment=augment, **fit)


@pytest.mark.parametrize("device", [False, True])
def test_fit_sees_the_changed_images_and_targets(backend, rng, device):
    """The same as training by hand, on batches made with the methods."""
    images, t = images_of(rng, (10, 12, 10, 3), "uint8"), rng.integers(0, 3, 10)
    net, history = trained(images, t, LIST, device=device, validation_data=(images, t))
    augment, by_hand, optimizer = data.augmentation(LIST), net_of((8, 8, 3)), dn.SGD(0.05)
    by_hand.init((8, 8, 3), seed=3)
    for epoch in range(2):
        stream = np.random.SeedSequence(3, spawn_key=(2**31, epoch))
        order = np.random.Generator(np.random.PCG64(stream)).permutation(10)
        moves = augment.moves(10, seed=3, epoch=epoch)
        for start in (0, 4, 8):
            chosen, moved = order[start : start + 4], moves[start : start + 4]
            x = dn.asarray(augment.batch(images, chosen, moved))
            soft = dn.asarray(augment.targets(t[chosen], moved, classes=3, shape=(12, 10, 3)))
            y, pullback = by_hand.forward(x, train=True)
            _, dloss = dn.losses.softmax_cross_entropy(y, soft)
            optimizer.step(by_hand, pullback(dloss())[1])
    assert net.input_shape == (8, 8, 3)
    for name, p in net.parameters().items():
        assert np.allclose(dn.to_numpy(p.value), dn.to_numpy(by_hand.parameters()[name].value), atol=1e-6), name
    still = net.evaluate(augment.normalise(dn.asarray(images)), t)
    assert history["val_loss"][-1] == pytest.approx(still["loss"], rel=1e-6)
    assert net.evaluate(images, t, augment=LIST) == pytest.approx(still, rel=1e-6)


def test_a_step_of_an_epoch_on_the_device_sends_nothing(rng):
    images, t = images_of(rng, (12, 12, 10, 3), "uint8"), rng.integers(0, 3, 12)
    with dn.use_backend("strict"):
        counts = []
        for size in (12, 3):
            x, there, net = dn.asarray(images), dn.asarray(t), net_of((8, 8, 3))
            with dn.transfers() as moved:
                net.fit(x, there, batch_size=size, augment=data.augmentation(LIST), verbose=0)
            counts.append((moved.to_device, moved.to_host))
        assert counts[0] == counts[1]  # once an epoch, however many batches it has


def test_a_captured_training_is_the_same(backend, rng):
    images, t = images_of(rng, (10, 12, 10, 3), "uint8"), rng.integers(0, 3, 10)
    nets = [trained(images, t, LIST, device=True, capture=capture)[0] for capture in (False, True)]
    plain, captured = ({name: dn.to_numpy(p.value) for name, p in net.parameters().items()} for net in nets)
    assert all(np.array_equal(plain[name], captured[name]) for name in plain)


class Examples:
    """A data set that gives an example for a number."""

    def __init__(self, images, t):
        self.images, self.t = images, t

    def __len__(self):
        return len(self.t)

    def __getitem__(self, place):
        return self.images[place], self.t[place]


def test_a_data_set_is_changed_as_arrays_are(backend, rng):
    images, t = images_of(rng, (10, 12, 10, 3), "uint8"), rng.integers(0, 3, 10)
    net, _ = trained(images, t, LIST)
    other = net_of()
    other.fit(Examples(images, t), epochs=2, batch_size=4, optimizer=dn.SGD(0.05), seed=3, verbose=0, augment=LIST)
    for name, p in net.parameters().items():
        assert np.array_equal(dn.to_numpy(p.value), dn.to_numpy(other.parameters()[name].value)), name


def test_targets_that_cannot_be_mixed_are_refused(rng):
    images = images_of(rng, (4, 6, 6, 3), "uint8")
    net = dn.Sequential([dn.Conv2D(2, 1)])  # a class for each pixel
    with pytest.raises(
        ValueError, match="mixes images together with their targets, so it needs a class for each image"
    ):
        net.fit(images, rng.integers(0, 2, (4, 6, 6)), augment=[data.MixUp(1.0)], verbose=0)


def test_numbers_are_mixed_as_images_are(rng):
    images, t = images_of(rng, (4, 6, 6, 3), "uint8"), rng.integers(0, 2, (4, 1))
    net = dn.Sequential([dn.Flatten(), dn.Dense(1)])
    history = net.fit(images, t, augment=[data.MixUp(1.0)], loss="binary_cross_entropy", verbose=0)
    assert np.isfinite(history["loss"][0])


def test_fit_notes_how_images_are_normalised(rng):
    images, t = images_of(rng, (6, 8, 8, 3), "uint8"), rng.integers(0, 3, 6)
    net, _ = trained(images, t, LIST[1:8])
    assert net.input == data.InputSpec((8, 8), 3, 0.4, [0.2, 0.3, 0.4])
    assert trained(images, t, [data.Flip()])[0].input is None
    net, _ = trained(images, t, data.Augment(1, mean=0.5, scale=4.0))
    assert net.input == data.InputSpec((8, 8), 3, 0.5, 0.25)


# -- mistakes ----------------------------------------------------------------------------------------------------------

IMAGES = np.zeros((4, 8, 8, 3), "uint8")
WRONG = [
    (lambda: data.RandomCrop(0), ValueError, "RandomCrop: size must be at least 1"),
    (lambda: data.RandomCrop(4, padding=-1), ValueError, "RandomCrop: padding must be at least 0"),
    (lambda: data.RandomResizedCrop(4, area=0.5), TypeError, "area must be a pair (least, most), got 0.5"),
    (lambda: data.RandomResizedCrop(4, area=(0.5, 2)), ValueError, "area must be a number above 0 and at most 1"),
    (
        lambda: data.RandomResizedCrop(4, ratio=(2, 1)),
        ValueError,
        "ratio must be (least, most), with most not below least; got (2, 1)",
    ),
    (lambda: data.Flip("vertical"), TypeError, "Flip: vertical must be True or False"),
    (lambda: data.Rotate(181), ValueError, "Rotate: degrees must be a finite number from 0 to 180"),
    (lambda: data.CutOut(0), ValueError, "CutOut: size must be at least 1"),
    (lambda: data.Brightness(2), ValueError, "Brightness: change must be a finite number from 0 to 1"),
    (lambda: data.Contrast(-1), ValueError, "Contrast: change must be a finite number"),
    (lambda: data.MixUp(0), ValueError, "MixUp: alpha must be a finite number above 0"),
    (lambda: data.CutMix(float("inf")), ValueError, "CutMix: alpha must be a finite number above 0"),
    (lambda: data.Normalise(0.5, 0), ValueError, "Normalise: std must be above 0"),
    (lambda: data.Normalise("a", 1), TypeError, "Normalise: mean must be a number"),
    (lambda: data.augmentation([data.Flip]), TypeError, "Flip is a class; write Flip(...)"),
    (
        lambda: data.augmentation(["flip"]),
        TypeError,
        "'flip' is not a change of images; expected one such as dn.data.Flip()",
    ),
    (lambda: data.augmentation([data.Augment()]), TypeError, "an Augment cannot be part of a list. Write RandomCrop"),
    (lambda: data.augmentation(data.Flip()), TypeError, "write augment=[Flip(vertical=False)]"),
    (lambda: data.augmentation([data.CutMix(1.0), data.Rotate(5)]), ValueError, "Rotate(degrees=5.0) comes after"),
    (lambda: data.augmentation([data.RandomCrop(9)]).shape((8, 8, 3)), ValueError, "a window of 9 does not fit into 8"),
    (lambda: data.augmentation([data.RandomCrop(9)]).batch(IMAGES, [0]), ValueError, "use more padding"),
    (lambda: data.augmentation([data.Normalise([0.1, 0.2], 1)]).batch(IMAGES, [0]), ValueError, "mean has 2 numbers"),
    (lambda: data.augmentation([data.Flip()]).batch(IMAGES, [4]), ValueError, "order goes from 4 to 4"),
    (lambda: data.augmentation([data.Flip()]).batch(IMAGES, [0], np.zeros((1, 2))), ValueError, "expected (1, 1)"),
    (
        lambda: data.augmentation([data.Flip()]).batch(IMAGES, [0], dtype="uint8"),
        TypeError,
        "floating dtype for the batch",
    ),
    (lambda: data.augmentation([data.Flip()]).batch(IMAGES[0], [0]), ValueError, "expected (M, H, W, C)"),
    (lambda: data.augmentation([data.Flip()]).moves(-1), ValueError, "examples must be at least 0"),
    (
        lambda: net_of().fit(IMAGES, np.zeros(4, int), augment="flip"),
        TypeError,
        "fit: augment must be a dn.data.Augment, or",
    ),
    (lambda: net_of().fit(IMAGES, np.zeros(4, int), augment=[data.RandomCrop(9)]), ValueError, "does not fit into 8"),
]


@pytest.mark.parametrize("wrong, kind, words", WRONG, ids=[words for _, _, words in WRONG])
def test_mistakes_are_told(wrong, kind, words):
    with pytest.raises(kind, match=re.escape(words)):
        wrong()


def test_a_change_that_draws_other_numbers_than_it_says():
    class Odd(data.Transform):
        numbers = 2

        def draw(self, rng, examples):
            return rng.random(examples)

    with pytest.raises(ValueError, match=r"Odd\(\): draw returned shape \(3,\); expected 2 numbers for each image"):
        data.augmentation([Odd()]).moves(3)
    with pytest.raises(NotImplementedError, match="Odd does not define apply"):
        data.augmentation([Odd()]).batch(IMAGES, [0], np.zeros((1, 2)))
