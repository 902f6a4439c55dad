"""Batches of moved and normalised images: against loops, on every backend, and the CUDA kernel that stands in."""

from __future__ import annotations

import re

import cuda_host
import fake_cupy
import numpy as np
import pytest

import dualnet as dn
from dualnet.backend import calls, load
from dualnet.backends.gpu import steps
from dualnet.data import augment as module
from dualnet.data.augment import Augment


def by_loops(images, order, moves, mean, scale):
    """The batch in float64, one pixel at a time."""
    (_, H, W, C), share = images.shape, 255.0 if images.dtype == np.uint8 else 1.0
    y = np.empty((len(order), H, W, C))
    for n, image in enumerate(order):
        down, right, flipped = (0, 0, 0) if moves is None else moves[n]
        for i in range(H):
            for j in range(W):
                row, column = i + down, (W - 1 - j if flipped else j) + right
                for c in range(C):
                    on = 0 <= row < H and 0 <= column < W
                    pixel = float(images[image, row, column, c]) / share if on else 0.0
                    y[n, i, j, c] = (pixel - mean[c % len(mean)]) * scale[c % len(scale)]
    return y


def images_of(rng, dtype="uint8", shape=(6, 5, 4, 3)):
    return rng.integers(0, 256, shape).astype("uint8") if dtype == "uint8" else rng.random(shape).astype(dtype)


@pytest.fixture
def pretend(monkeypatch):
    """A pretend CuPy whose kernels run on the host."""
    with fake_cupy.in_force(monkeypatch) as cupy:
        yield cupy


# -- what it computes --------------------------------------------------------------------------------------------------

CASES = [
    ("uint8", "float32", 1e-6),
    ("float32", "float32", 1e-6),
    ("float64", "float64", 1e-15),
    ("uint8", "float64", 1e-15),
    ("uint8", "float16", 1e-3),
    ("float16", "float32", 1e-6),
]


def compared(rng, kind, dtype, limit):
    images, order = images_of(rng, kind), rng.integers(0, 6, 9)
    given = {"mean": [0.5, 0.25, 0.0], "scale": [2.0, 4.0, 1.5]}
    moves = np.stack([*rng.integers(-6, 7, (2, 9)), rng.integers(0, 2, 9)], axis=1)  # some see nothing of the image
    for numbers in (given, {"mean": 0.5}, {}):
        augment = Augment(6, **numbers)
        mean, scale = (np.atleast_1d(numbers.get(name, one)) for name, one in (("mean", 0.0), ("scale", 1.0)))
        for chosen in (moves, None):
            y = augment.batch(dn.asarray(images), order, chosen, dtype=dtype)
            assert y.shape == (9, 5, 4, 3) and y.dtype == np.dtype(dtype)
            truth = by_loops(images, order, chosen, mean, scale)
            assert np.abs(dn.to_numpy(y) - truth).max() <= limit * max(1.0, np.abs(truth).max())


@pytest.mark.parametrize("kind, dtype, limit", CASES)
def test_a_batch_is_what_the_loops_say(backend, rng, kind, dtype, limit):
    compared(rng, kind, dtype, limit)


@pytest.mark.parametrize("kind, dtype, limit", CASES)
def test_the_kernel_computes_the_same(pretend, rng, kind, dtype, limit):
    cuda_host.launches.clear()
    compared(rng, kind, dtype, limit)
    assert set(cuda_host.launches) == {"gather_batch"}


def test_the_kernel_gives_the_reference_s_bits(pretend, rng, monkeypatch):
    """Both subtract and multiply once in float32, so there is nothing to differ in."""
    augment, order = Augment(2, mean=[0.4, 0.5, 0.6], scale=[3.0, 4.0, 5.0]), rng.integers(0, 6, 8)
    images, moves = dn.asarray(images_of(rng)), augment.moves(8, seed=3)
    with_kernel = dn.to_numpy(augment.batch(images, order, moves))
    monkeypatch.setenv("DUALNET_KERNELS", "reference")
    assert with_kernel.tobytes() == dn.to_numpy(augment.batch(images, order, moves)).tobytes()


def test_what_the_kernel_leaves_to_the_reference(pretend, rng):
    images, before = dn.asarray(images_of(rng)), calls["gather_batch", "reference"]
    augment = Augment()
    assert augment.batch(images, np.zeros(0, int)).shape == (0, 5, 4, 3)
    turned = augment.batch(load("cupy").xp.permute_dims(images, (0, 2, 1, 3)), [0])
    assert turned.shape == (1, 4, 5, 3) and calls["gather_batch", "reference"] == before + 2
    assert "gather_batch" in steps.KERNELS


def test_bytes_and_shares_of_one_are_the_same_images(rng):
    images = images_of(rng)
    augment = Augment.measured(images)
    moves = augment.moves(6)
    one, other = (augment.batch(x, range(6), moves) for x in (images, (images / 255).astype("float32")))
    assert np.allclose(one, other, atol=1e-5)


def test_what_comes_from_outside_is_black_before_it_is_normalised():
    white = np.full((1, 3, 3, 1), 255, "uint8")
    (y,) = Augment(1, mean=0.5, scale=4).batch(white, [0], [[1, 0, 0]])
    assert y[:2].tolist() == [[[2.0]] * 3] * 2 and y[2].tolist() == [[-2.0]] * 3


def test_a_move_reads_further_down_and_right_and_mirrors_first(rng):
    images = images_of(rng, "float32", (1, 4, 5, 2))
    padded = np.pad(images[0], ((2, 2), (2, 2), (0, 0)))
    (y,) = Augment(2).batch(images, [0], [[1, -2, 0]])
    assert np.array_equal(y, padded[3:7, 0:5])
    (y,) = Augment(2).batch(images, [0], [[1, -2, 1]])
    assert np.array_equal(y, padded[3:7, 0:5][:, ::-1])  # the crop, mirrored


def test_nothing_is_written_into_the_images(backend, rng):
    host = images_of(rng)
    images = dn.asarray(host.copy())
    augment = Augment(3)
    augment.batch(images, [1, 1, 5], augment.moves(3))
    augment.normalise(images)
    assert np.array_equal(dn.to_numpy(images), host)


# -- moves -------------------------------------------------------------------------------------------------------------


def test_moves_depend_on_seed_epoch_and_place_alone():
    augment = Augment(4)
    moves = augment.moves(100, seed=5, epoch=2)
    assert moves.dtype == np.int8 and moves.shape == (100, 3)
    again = Augment(4, mean=0.5)
    again.moves(7, seed=1)  # calls before it change nothing
    assert np.array_equal(again.moves(100, seed=5, epoch=2), moves)
    for other in ({"seed": 6, "epoch": 2}, {"seed": 5, "epoch": 3}):
        assert (augment.moves(100, **other) != moves).any(axis=1).mean() > 0.9


def test_moves_are_all_that_may_be_and_equally_often():
    moves = Augment(2).moves(20_000)
    counts = np.unique(moves, axis=0, return_counts=True)[1]
    assert len(counts) == 5 * 5 * 2 and abs(counts / 400 - 1).max() < 0.25
    assert not Augment(2, flip=False).moves(100)[:, 2].any() and not Augment(0).moves(100)[:, :2].any()
    assert np.array_equal(Augment(2, flip=False).moves(50)[:, :2], Augment(2).moves(50)[:, :2])


def test_the_first_moves_never_change():
    """A recorded training must come out again years from now."""
    assert Augment(4).moves(4, seed=1, epoch=2).tolist() == FIRST


FIRST = [[0, 0, 1], [0, 4, 0], [1, 0, 0], [-4, 2, 0]]


@pytest.mark.parametrize("other", ["strict"])
def test_the_same_batches_on_every_backend(rng, other):
    images, augment = images_of(rng), Augment(2, mean=0.5, scale=3)
    order, moves = rng.permutation(6), augment.moves(6, seed=9)
    with dn.use_backend(other):
        there = dn.to_numpy(augment.batch(dn.asarray(images), order, moves))
    assert there.tobytes() == augment.batch(images, order, moves).tobytes()


def test_an_epoch_on_the_device_moves_nothing(rng):
    """Order and moves are sent once; each batch is then a slice of them."""
    augment = Augment(2, mean=0.5)
    with dn.use_backend("strict"):
        images, order = dn.asarray(images_of(rng)), dn.asarray(np.arange(6).astype("int32"))
        moves = dn.asarray(augment.moves(6))
        augment.batch(images, order[:2], moves[:2])  # sends mean and scale
        with dn.transfers("forbid"):
            for k in range(3):
                augment.batch(images, order[2 * k : 2 * k + 2], moves[2 * k : 2 * k + 2])


# -- mean and scale ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["uint8", "float32"])
def test_measured_images_have_mean_0_and_variance_1(backend, rng, kind, monkeypatch):
    monkeypatch.setattr(module, "BLOCK", 4)
    images = dn.asarray(images_of(rng, kind, (10, 5, 4, 3)))
    augment = Augment.measured(images, shift=1, flip=False)
    y = dn.to_numpy(augment.normalise(images, dtype="float64"))
    assert abs(y.mean(axis=(0, 1, 2))).max() < 1e-9 and abs(y.std(axis=(0, 1, 2)) - 1).max() < 1e-9
    assert (augment.shift, augment.flip) == (1, False)


def test_a_channel_without_spread_is_left_as_large_as_it_is():
    augment = Augment.measured(np.full((2, 2, 2, 1), 51, "uint8"))
    assert augment.scale == (1.0,) and np.abs(augment.normalise(np.full((2, 2, 2, 1), 51, "uint8"))).max() < 1e-6


# -- mistakes ----------------------------------------------------------------------------------------------------------

IMAGES = np.zeros((4, 3, 3, 3), "uint8")
WRONG = [
    (lambda: Augment(-1), ValueError, "Augment: shift must be at least 0"),
    (lambda: Augment(128), ValueError, "shift must be at most 127 pixels, got 128"),
    (lambda: Augment(1.5), TypeError, "shift must be an integer"),
    (lambda: Augment(flip=1), TypeError, "flip must be True or False"),
    (lambda: Augment(mean="grey"), TypeError, "mean must be a number"),
    (
        lambda: Augment(scale=[1.0, float("nan")]),
        ValueError,
        "scale must be one finite number, or one for each channel",
    ),
    (lambda: Augment(mean=[]), ValueError, "mean must be one finite number"),
    (lambda: Augment(mean=[0.1, 0.2]).batch(IMAGES, [0]), ValueError, "mean has 2 numbers, but the images have 3"),
    (lambda: Augment().batch(IMAGES[0], [0]), ValueError, "images have shape (3, 3, 3); expected (M, H, W, C)"),
    (lambda: Augment().batch(IMAGES.tolist(), [0]), TypeError, "images is a list; expected an array"),
    (lambda: Augment().batch(IMAGES.astype("int64"), [0]), TypeError, "images are int64; expected uint8"),
    (lambda: Augment().batch(IMAGES, [4]), ValueError, "order goes from 4 to 4, but there are only images 0 … 3"),
    (lambda: Augment().batch(IMAGES, [0, -1]), ValueError, "order goes from -1 to 0"),
    (lambda: Augment().batch(IMAGES, [0.5]), ValueError, "order is float64 of shape (1,); expected integers (N,)"),
    (lambda: Augment().batch(IMAGES, [[0]]), ValueError, "expected integers (N,)"),
    (lambda: Augment().batch(IMAGES, [0], [[0, 0]]), ValueError, "expected integers (1, 3)"),
    (lambda: Augment().batch(IMAGES, [0], [[0.0, 0, 0]]), ValueError, "moves are float64"),
    (lambda: Augment().batch(IMAGES, [0], [[0, 200, 0]]), ValueError, "moves go from 0 to 200"),
    (
        lambda: Augment().batch(IMAGES, [0], dtype="uint8"),
        TypeError,
        "expected a floating dtype for the batch, got uint8",
    ),
    (lambda: Augment().moves(-1), ValueError, "examples must be at least 0"),
    (lambda: Augment().moves(1, seed="0"), TypeError, "seed must be an integer"),
    (lambda: Augment.measured(IMAGES[:0]), ValueError, "no pixels to measure"),
    (lambda: Augment.measured(3), TypeError, "images is a int; expected an array"),
]


@pytest.mark.parametrize("wrong, kind, words", WRONG, ids=[words for _, _, words in WRONG])
def test_mistakes_are_told(wrong, kind, words):
    with pytest.raises(kind, match=re.escape(words)):
        wrong()


def test_what_lies_on_another_backend_is_refused(rng):
    with dn.use_backend("strict"):
        order, moves = dn.asarray(np.zeros(1, "int32")), dn.asarray(np.zeros((1, 3), "int8"))
    with pytest.raises(TypeError, match="order is on strict, but the images are on numpy"):
        Augment().batch(IMAGES, order)
    with pytest.raises(TypeError, match=r"Move it with dn.asarray\(moves, backend='numpy'\)"):
        Augment().batch(IMAGES, [0], moves)


# -- in training -------------------------------------------------------------------------------------------------------


def small_net():
    return dn.Sequential([dn.Conv2D(4, 3), dn.ReLU(), dn.Flatten(), dn.Dense(3)]).init((5, 4, 3), seed=1)


def trained(images, t, *, where=None, **options):
    net, seen = small_net(), []
    x = dn.asarray(images) if where == "device" else images
    augment = Augment(1, mean=[0.5, 0.4, 0.3], scale=4.0)
    history = net.fit(
        x,
        t,
        epochs=3,
        batch_size=4,
        optimizer=dn.SGD(0.05),
        augment=augment,
        seed=3,
        verbose=0,
        callbacks=[seen.append],
        **options,
    )
    return {name: dn.to_numpy(p.value) for name, p in net.parameters().items()}, history, net, augment


@pytest.mark.parametrize("where", ["host", "device"])
def test_fit_sees_the_moved_images_wherever_they_are(backend, rng, where):
    """The same as training by hand on batches that the loops made."""
    images, t = images_of(rng, "uint8", (10, 5, 4, 3)), rng.integers(0, 3, 10)
    weights, _, _, augment = trained(images, t, where=where)
    net, optimizer = small_net(), dn.SGD(0.05)
    for epoch in range(3):
        stream = np.random.SeedSequence(3, spawn_key=(2**31, epoch))
        order = np.random.Generator(np.random.PCG64(stream)).permutation(10)
        moves = augment.moves(10, seed=3, epoch=epoch)
        for start in (0, 4, 8):
            chosen, moved = order[start : start + 4], moves[start : start + 4]
            x = by_loops(images, chosen, moved, (0.5, 0.4, 0.3), (4.0,)).astype("float32")
            y, pullback = net.forward(dn.asarray(x), train=True)
            _, dloss = dn.losses.softmax_cross_entropy(y, dn.asarray(t[chosen]))
            optimizer.step(net, pullback(dloss())[1])
    for name, p in net.parameters().items():
        assert np.allclose(weights[name], dn.to_numpy(p.value), atol=2e-6), name


def test_a_captured_training_is_the_same(backend, rng):
    images, t = images_of(rng, "uint8", (10, 5, 4, 3)), rng.integers(0, 3, 10)
    plain, captured = (trained(images, t, where="device", capture=capture)[0] for capture in (False, True))
    assert all(np.array_equal(plain[name], captured[name]) for name in plain)


def test_images_held_out_are_normalised_and_not_moved(backend, rng):
    images, t = images_of(rng, "uint8", (10, 5, 4, 3)), rng.integers(0, 3, 10)
    _, history, net, augment = trained(images, t, validation_data=(images, t))
    by_hand = net.evaluate(augment.normalise(dn.asarray(images)), t)
    assert net.evaluate(images, t, augment=augment) == pytest.approx(by_hand, rel=1e-6)
    assert history["val_loss"][-1] == pytest.approx(by_hand["loss"], rel=1e-6)
    assert history["val_accuracy"][-1] == by_hand["accuracy"]


def test_a_step_of_an_epoch_on_the_device_sends_nothing(rng):
    images, t = images_of(rng, "uint8", (12, 5, 4, 3)), rng.integers(0, 3, 12)
    with dn.use_backend("strict"):
        counts = []
        for size in (12, 3):
            x, there, augment, net = dn.asarray(images), dn.asarray(t), Augment(1), small_net()
            with dn.transfers() as moved:
                net.fit(x, there, batch_size=size, augment=augment, verbose=0)
            counts.append((moved.to_device, moved.to_host))
        assert counts[0] == counts[1]  # once an epoch, however many batches it has


def test_what_is_no_augment_is_refused(rng):
    images, t = images_of(rng, "uint8", (4, 5, 4, 3)), np.zeros(4, int)
    with pytest.raises(TypeError, match=r"fit: augment must be a dn.data.Augment, or a list .*; got 'flip'"):
        small_net().fit(images, t, augment="flip")
    with pytest.raises(ValueError, match="mean has 2 numbers, but the images have 3 channels"):
        small_net().fit(images, t, augment=Augment(mean=[0.1, 0.2]))
    with pytest.raises(ValueError, match="expected"):
        small_net().evaluate(images.reshape(4, 60), t, augment=Augment())
