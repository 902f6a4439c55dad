"""``dualnet predict``: the network's answers, by its loss; the inputs it takes; and those without an answer."""

from __future__ import annotations

import csv
import functools
import json
import re
import subprocess
import sys

import numpy as np
import pytest

import dualnet as dn
from dualnet import cli

SHAPE = (4, 4, 1)
SMOOTH = functools.partial(dn.losses.softmax_cross_entropy, label_smoothing=0.1)


def run(capsys, *arguments):
    """Run a command in this process: exit code, stdout, stderr."""
    code = cli.main(["predict", *map(str, arguments)])
    out = capsys.readouterr()
    return code, out.out, out.err


def saved(path, *layers, bias=None, loss="unknown", shape=SHAPE):
    """A network of which only the last bias counts, as a file."""
    net = dn.Sequential(layers or [dn.Flatten(), dn.Dense(2, initializer="zeros")]).init(shape)
    if bias is not None:
        next(layer for layer in reversed(net.layers) if isinstance(layer, dn.Dense)).b.value = dn.asarray(bias)
    if loss != "unknown":
        net.loss = loss
    return net.save(path / "net.npz")


def answers(bias, *more):
    return [dn.Flatten(), dn.Dense(len(bias), initializer="zeros"), *more]


@pytest.fixture
def x(tmp_path):
    """One image."""
    np.save(tmp_path / "x.npy", np.arange(16, dtype=np.float32).reshape(1, *SHAPE))
    return tmp_path / "x.npy"


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """A network that has seen the digits twice, and the images that it has not."""
    (images, t), (x, _) = dn.data.load_digits()
    net = dn.Sequential([dn.Flatten(), dn.Dense(10)])
    net.fit(images, t, epochs=2, optimizer=dn.Adam(lr=0.01), verbose=0)
    return net.save(tmp_path_factory.mktemp("digits") / "net.npz"), net, x


# -- what the network answers ------------------------------------------------------------------------------------------

WORDS = [  # biases (the logits of every image), loss, what is printed. By hand: e / (1 + e) = 73.1 %
    ([0.0, 1.0], "softmax_cross_entropy", "class 1 (73.1 %)"),
    ([0.0, 1.0], "unknown", "class 1 (73.1 %)"),
    ([1.0], "binary_cross_entropy", "yes (73.1 %)"),
    ([-1.0], "binary_cross_entropy", "no (73.1 %)"),
    ([0.0, 1.0, 1.0], "binary_cross_entropy", "label 1 (73.1 %), label 2 (73.1 %)"),
    ([-1.0, -3.0], "binary_cross_entropy", "none of the 2 labels (the likeliest is label 0, 26.9 %)"),
    ([0.5, -2.0], "mean_squared_error", "0.5, -2"),
    ([0.5], "huber", "0.5"),
    ([0.5], "unknown", "0.5"),
    ([0.5], "softmax_cross_entropy", "0.5"),
    ([0.5, -2.0], SMOOTH, "0.5, -2 (the largest is output 0)"),
    ([0.5, -2.0], None, "0.5, -2 (the largest is output 0)"),
]


@pytest.mark.parametrize("bias, loss, words", WORDS, ids=[f"{len(b)}-{w}" for b, _, w in WORDS])
def test_the_loss_says_what_the_outputs_are(capsys, tmp_path, x, bias, loss, words):
    path = saved(tmp_path, *answers(bias), bias=bias, loss=loss)
    code, out, err = run(capsys, path, x)
    assert (code, out) == (0, f"image 0: {words}\n")
    own = loss is SMOOTH or loss is None
    assert ("note: " in err and "loss of your own" in err) if own else not err


def test_probabilities_are_not_squashed_twice(capsys, tmp_path, x):
    """σ(σ(−1)) would be above ½: yes to everything."""
    path = saved(tmp_path, *answers([-1.0], dn.Sigmoid()), bias=[-1.0], loss="binary_cross_entropy")
    assert run(capsys, path, x)[1] == "image 0: no (73.1 %)\n"
    path = saved(tmp_path, *answers([0.0, 1.0], dn.Softmax()), bias=[0.0, 1.0])
    assert run(capsys, path, x)[1] == "image 0: class 1 (73.1 %)\n"


def test_an_image_as_the_answer(capsys, tmp_path, x):
    for loss in ("mean_squared_error", "softmax_cross_entropy"):
        code, out, err = run(capsys, saved(tmp_path, dn.ReLU(), loss=loss), x)
        assert (code, out) == (0, "image 0: 4 × 4 × 1 numbers from 0 to 15, on average 7.5\n")
        assert err == "note: for all the numbers, in Python: dn.load(MODEL).predict(x)\n"


def test_images_with_nan_and_networks_with_nan_have_no_answer(capsys, tmp_path):
    images = np.arange(48, dtype=np.float32).reshape(3, *SHAPE)
    images[1, 2, 2] = np.nan
    images[2, 0, 0] = np.inf
    np.save(tmp_path / "x.npy", images)
    path = saved(tmp_path, dn.ReLU(), dn.MaxPool2D(4), *answers([0.0, 1.0]), bias=[0.0, 1.0])
    code, out, err = run(capsys, path, tmp_path / "x.npy")
    no = "no answer: the image holds NaN or infinity"
    assert (code, out.splitlines()) == (1, ["image 0: class 1 (73.1 %)", f"image 1: {no}", f"image 2: {no}"]), err
    path = saved(tmp_path, bias=[0.0, np.nan])
    np.save(tmp_path / "x.npy", images[:1])
    code, out, err = run(capsys, path, tmp_path / "x.npy")
    assert (code, out) == (1, "image 0: no answer: the network gave NaN or infinity\n") and not err


# -- the test images of a data set -------------------------------------------------------------------------------------


def test_digits_and_images_from_files(capsys, tmp_path, digits):
    path, net, x = digits
    code, out, err = run(capsys, path, "digits")
    (_, _), (_, t) = dn.data.load_digits()
    share = 100 * float((net.predict(x).argmax(1) == t).mean())
    assert (code, out, err) == (0, f"360 images, accuracy {share:.2f} %\n", "") and 50 < share < 100
    np.save(tmp_path / "x.npy", x[:3, :, :, 0])
    dn.data.write_idx(tmp_path / "x.idx", np.rint(x[:3, :, :, 0] * 255).astype(np.uint8))
    (tmp_path / "numbers").write_bytes((tmp_path / "x.idx").read_bytes())  # recognized by its first bytes
    np.save(tmp_path / "one.npy", x[0])
    expected = net.predict(x[:3]).argmax(1).tolist()
    for name, count in (("x.npy", 3), ("x.idx", 3), ("numbers", 3), ("one.npy", 1)):
        code, out, _ = run(capsys, path, tmp_path / name)
        assert code == 0 and [int(line.split()[3]) for line in out.splitlines()] == expected[:count], name


def test_a_data_set_is_scored_as_the_loss_counts(capsys, tmp_path):
    """Yes to the first two of ten classes: of ten answers to an image, 9 are right for a 0 or 1, else 7."""
    bias = [1.0] * 2 + [-1.0] * 8
    path = saved(tmp_path, *answers(bias), bias=bias, loss="binary_cross_entropy", shape=(8, 8, 1))
    code, out, err = run(capsys, path, "digits")
    (_, _), (_, t) = dn.data.load_digits()
    share = 100 * ((t < 2) * 9 + (t >= 2) * 7).sum() / (10 * len(t))
    assert (code, out, err) == (0, f"360 images, 3,600 answers of yes or no, accuracy {share:.2f} %\n", "")
    path = saved(tmp_path, *answers(bias), bias=[float("nan")] * 10, shape=(8, 8, 1))
    code, out, err = run(capsys, path, "digits")
    assert (code, out) == (1, "360 images, accuracy 0.00 %\n") and err.startswith(
        "360 images got NaN or infinity instead of an answer"
    )


@pytest.mark.parametrize(
    "outputs, loss, words",
    [
        (1, "binary_cross_entropy", r"its output is \(1,\), and its loss is binary_cross_entropy"),
        (10, "mean_squared_error", r"its output is \(10,\), and its loss is mean_squared_error"),
        (
            12,
            "softmax_cross_entropy",
            r"digits has 10 classes, but \S*net.npz does not distinguish them: its output is \(12,",
        ),
    ],
)
def test_a_data_set_that_the_answers_do_not_fit(capsys, tmp_path, outputs, loss, words):
    path = saved(tmp_path, *answers([0.0] * outputs), loss=loss, shape=(8, 8, 1))
    code, out, err = run(capsys, path, "digits")
    assert code == 2 and not out and re.search(words, err) and err.count("\n") == 1


# -- what it is given --------------------------------------------------------------------------------------------------


def test_what_is_no_image_for_the_network(capsys, tmp_path):
    path = saved(tmp_path, shape=(8, 8, 1))
    np.savez(tmp_path / "archive.npz", x=np.zeros(1))
    dn.data.write_idx(tmp_path / "labels-idx1-ubyte", np.zeros(5, np.uint8))
    (tmp_path / "cut-idx3-ubyte").write_bytes(b"\0\0\x08")
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.txt").write_text("7")
    for name, array, words in [
        ("other.npy", np.zeros((3, 9, 9, 1)), r"it holds an array of \(3, 9, 9, 1\); the network takes .*\(8, 8, 1\)"),
        ("words.npy", np.array(["a"]), "it holds <U1; expected images"),
        ("things.npy", np.array([1, "a"], object), "things.npy: it "),
        ("whole.npy", np.zeros((1, 8, 8, 1), np.int64), r"it holds int64; expected bytes \(uint8\), or floating"),
        ("none.npy", np.zeros((0, 8, 8, 1), np.float32), r"it holds no images"),
        ("number.npy", np.float32(3), r"it holds an array of \(\)"),
        ("labels-idx1-ubyte", None, r"it holds an array of \(5,\); .*These look like labels"),
        ("cut-idx3-ubyte", None, "cut-idx3-ubyte: "),
        ("archive.npz", None, "Pillow cannot read it as an image"),
        ("text.txt", None, "Pillow cannot read it as an image"),
        ("empty.png", None, "empty.png: the file is empty"),
    ]:
        if array is not None:
            np.save(tmp_path / name, array)
        code, out, err = run(capsys, path, tmp_path / name)
        assert code == 2 and re.search(words, err) and err.count("\n") == 1 and not out, err
    assert "neither a file, a folder nor one of digits, mnist, " in run(capsys, path, tmp_path / "nowhere.npy")[2]
    code, _, err = run(capsys, saved(tmp_path), "digits")
    assert code == 2 and re.search(r"net.npz takes images of \(4, 4, 1\); those of digits are \(8, 8, 1\)\n$", err)
    (tmp_path / "empty.npz").touch()
    code, out, err = run(capsys, tmp_path / "empty.npz", "digits")
    assert code == 2 and "empty.npz: it is empty" in err


def test_an_image_file_is_for_networks_of_images(capsys, tmp_path):
    image = pytest.importorskip("PIL.Image")
    image.new("L", (4, 4)).save(tmp_path / "x.png")
    for shape in ((16,), (4, 4, 2)):
        code, out, err = run(capsys, saved(tmp_path, shape=shape), tmp_path / "x.png")
        assert code == 2 and not out and f"networks of (height, width, 1 or 3); this one takes {shape}" in err
    np.save(tmp_path / "x.npy", np.zeros((2, 16), np.float32))
    code, out, _ = run(capsys, saved(tmp_path, dn.Dense(2), shape=(16,)), tmp_path / "x.npy")
    assert code == 0 and len(out.splitlines()) == 2


def test_a_digit_on_paper_is_inverted(capsys, tmp_path, digits):
    """Dark ink, on white or on nothing, as a photo; the network has learned light ink on black."""
    image = pytest.importorskip("PIL.Image")
    path, net, x = digits
    for i, digit in enumerate(np.rint(x[:40, :, :, 0] * 255).astype(np.uint8)):
        ink = image.fromarray(digit)
        paper = image.new("RGBA", (8, 8), (0, 0, 0, 0))
        paper.paste((0, 0, 0, 255), mask=ink)
        paper.putalpha(ink)
        paper.save(tmp_path / f"{i}.png")
        image.fromarray(255 - digit).save(tmp_path / f"opaque{i}.png")
    found = {}
    for name in ("", "opaque"):
        lines = [run(capsys, path, "--invert", tmp_path / f"{name}{i}.png") for i in range(40)]
        assert {line[0] for line in lines} == {0}
        first = tmp_path / f"{name}0.png"
        assert lines[0][1].startswith(f"{first}: class ")
        found[name] = [int(line[1].split()[2]) for line in lines]
    assert found[""] == found["opaque"] == net.predict(x[:40]).argmax(1).tolist()
    assert "--invert is for your own images" in run(capsys, path, "digits", "--invert")[2]


def test_an_even_image_is_told(capsys, tmp_path, digits):
    """White ink on nothing is white on white."""
    image = pytest.importorskip("PIL.Image")
    image.new("LA", (8, 8), (255, 100)).save(tmp_path / "x.png")
    code, out, err = run(capsys, digits[0], tmp_path / "x.png")
    assert code == 0 and out and err == "note: the image is one even colour, so the answer says little\n"


def test_a_damaged_tiff_is_one_line(tmp_path, digits):
    """libtiff writes to stderr itself, past Python."""
    image = pytest.importorskip("PIL.Image")
    noise = np.random.default_rng(0).integers(0, 255, (64, 64), dtype=np.uint8)
    image.fromarray(noise).save(tmp_path / "x.tif", compression="tiff_adobe_deflate")
    whole = bytearray((tmp_path / "x.tif").read_bytes())
    whole[400:420] = bytes(20)
    (tmp_path / "x.tif").write_bytes(whole)
    command = [sys.executable, "-m", "dualnet", "predict", str(digits[0]), str(tmp_path / "x.tif")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and not done.stdout
    assert re.fullmatch(r"dualnet predict: \S*x.tif: Pillow cannot read it as an image \(.*\n", done.stderr)


# -- many of them ------------------------------------------------------------------------------------------------------


@pytest.fixture
def photos(tmp_path, digits):
    """A folder with ten test digits as photos, one of them damaged, one in a deeper folder, and a text; and x."""
    image = pytest.importorskip("PIL.Image")
    (tmp_path / "photos" / "deeper").mkdir(parents=True)
    for i, digit in enumerate(np.rint(digits[2][:10, :, :, 0] * 255).astype(np.uint8)):
        image.fromarray(digit).save(tmp_path / "photos" / ("deeper" if i == 9 else "") / f"{i}.png")
    (tmp_path / "photos" / "4.png").write_bytes(b"no picture")
    (tmp_path / "photos" / "notes.txt").write_text("mine")
    (tmp_path / "photos" / "deeper" / "phone.HEIC").touch()
    return tmp_path / "photos"


def test_a_folder_of_photos_is_answered_photo_by_photo(capsys, photos, digits):
    path, net, x = digits
    expected = net.predict(x[:10]).argmax(1)
    code, out, err = run(capsys, path, photos)
    found = dict(line.split(": ", 1) for line in out.splitlines())
    assert code == 1 and len(found) == 10, "a photo got no answer"
    assert found.pop(str(photos / "4.png")).startswith("no answer: Pillow cannot read it as an image")
    names = {str(photos / ("deeper" if i == 9 else "") / f"{i}.png"): i for i in range(10) if i != 4}
    assert {name: int(words.split()[1]) for name, words in found.items()} == {n: expected[i] for n, i in names.items()}
    skipped, failed = err.splitlines()
    assert skipped.startswith(f"note: {photos}: skipped 2 files (") and ".txt is not an image: notes.txt" in skipped
    assert ".heic cannot be read; save as JPEG: deeper/phone.HEIC" in skipped, "photos of a phone went missing silently"
    assert failed == f"note: 1 of 10 images got no answer: {photos / '4.png'}"
    several = run(capsys, path, photos / "0.png", photos / "deeper", photos / "1.png")
    lines = [line for line in out.splitlines() if re.search(r"(/0|/1|deeper/9)\.png", line)]
    assert several[0] == 0 and sorted(several[1].splitlines()) == sorted(lines) and "phone.HEIC" in several[2]
    assert [line.split(":")[0][-5] for line in several[1].splitlines()] == ["0", "9", "1"], "in the order given"


def test_batches_make_no_difference(capsys, photos, digits, monkeypatch):
    whole = run(capsys, digits[0], photos)
    monkeypatch.setattr(cli.predict, "AT_ONCE", 3)
    assert run(capsys, digits[0], photos)[1] == whole[1]


def test_names_of_classes_and_the_likeliest_of_them(capsys, tmp_path, x):
    net = dn.Sequential(answers([0.0, 2.0, 1.0])).init(SHAPE)
    net.layers[-1].b.value = dn.asarray([0.0, 2.0, 1.0], "float32")
    net.input = dn.data.InputSpec(SHAPE[:2], channels=1, classes=["cat", "dog", "cow"])
    path = net.save(tmp_path / "named.npz")
    assert run(capsys, path, x)[:2] == (0, "image 0: dog (66.5 %)\n")
    assert run(capsys, path, x, "--top", 2)[1] == "image 0: dog (66.5 %), cow (24.5 %)\n"
    assert run(capsys, path, x, "--top", 9)[1] == "image 0: dog (66.5 %), cow (24.5 %), cat (9.0 %)\n"
    (found,) = json.loads(run(capsys, path, x, "--top", 2, "--json")[1])["images"]
    assert (found["image"], found["class"], found["name"]) == ("image 0", 1, "dog")
    assert [(one["name"], round(one["probability"], 3)) for one in found["likeliest"]] == [
        ("dog", 0.665),
        ("cow", 0.245),
    ]
    number = saved(tmp_path, *answers([0.5]), bias=[0.5], loss="huber")
    assert "--top needs a network with several classes; this one has none" in run(capsys, number, x, "--top", 2)[2]


def test_yes_or_no_has_names_too(capsys, tmp_path, x):
    net = dn.Sequential(answers([1.0])).init(SHAPE)
    net.layers[-1].b.value, net.loss = dn.asarray([1.0], "float32"), "binary_cross_entropy"
    net.input = dn.data.InputSpec(SHAPE[:2], channels=1, classes=["night", "day"])
    path = net.save(tmp_path / "named.npz")
    assert run(capsys, path, x)[1] == "image 0: day (73.1 %)\n"
    assert run(capsys, path, x, "--top", 2)[1] == "image 0: day (73.1 %), night (26.9 %)\n"


def test_answers_as_a_table(capsys, tmp_path, photos, digits):
    path, net, x = digits
    table = tmp_path / "answers.csv"
    assert run(capsys, path, photos, "--csv", table, "--top", 2)[0] == 1
    rows = list(csv.DictReader(table.read_text("utf-8").splitlines()))
    by_name = {row["image"]: row for row in rows}
    order = np.argsort(-net.predict(x[:1])[0])
    first = by_name[str(photos / "0.png")]
    assert len(rows) == 10 and [int(first["class"]), int(first["class_2"])] == order[:2].tolist()
    damaged = by_name[str(photos / "4.png")]
    assert damaged["class"] == "" and damaged["error"].startswith("no answer: ") and not first["error"]
    numbers = saved(tmp_path, *answers([0.5, -2.0]), bias=[0.5, -2.0], loss="huber")
    np.save(tmp_path / "x.npy", np.zeros((2, *SHAPE), np.float32))
    assert run(capsys, numbers, tmp_path / "x.npy", "--csv", table)[0] == 0
    assert table.read_text("utf-8") == "image,output_0,output_1,error\nimage 0,0.5,-2,\nimage 1,0.5,-2,\n"
    code, out, err = run(capsys, path, photos, "--csv", tmp_path / "nowhere" / "answers.csv")
    assert code == 2 and not out and "nowhere" in err, "it is tried before the work"


def test_a_network_prepares_its_photos(capsys, tmp_path, photos, digits):
    """Normalised as in training; arrays of floating numbers are taken as they are."""
    path, net, x = digits
    seen = []
    net = dn.load(path)
    net.input = dn.data.InputSpec((8, 8), channels=1, mean=0.5, std=0.25)
    special = net.save(tmp_path / "special.npz")
    predict = dn.Sequential.predict
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dn.Sequential, "predict", lambda net, x, **o: seen.append(x) or predict(net, x, **o))
        run(capsys, special, photos / "0.png")
        np.save(tmp_path / "x.npy", x[:1])
        run(capsys, special, tmp_path / "x.npy")
    photo = np.rint(x[:1] * 255) / 255
    assert np.allclose(seen[0], (photo - 0.5) / 0.25, atol=1e-6) and np.array_equal(seen[1], x[:1])


def test_ink_on_paper_is_noticed(capsys, tmp_path, photos, digits):
    image = pytest.importorskip("PIL.Image")
    path, net, x = digits
    net = dn.load(path)
    net.input = dn.data.InputSpec((8, 8), channels=1, border=0.05)
    special = net.save(tmp_path / "special.npz")
    image.fromarray(255 - np.rint(x[0, :, :, 0] * 255).astype(np.uint8)).save(tmp_path / "paper.png")
    words = "note: the image is dark on light, but the network learned from light on dark: try --invert\n"
    assert run(capsys, special, tmp_path / "paper.png")[2] == words
    some = run(capsys, special, tmp_path / "paper.png", photos / "0.png", photos / "1.png", tmp_path / "paper.png")[2]
    assert some.startswith("note: 2 of 4 images are dark") and some.endswith("try --invert on those alone\n")
    assert not run(capsys, special, tmp_path / "paper.png", "--invert")[2]
    assert not run(capsys, special, photos / "0.png")[2] and not run(capsys, path, tmp_path / "paper.png")[2]


def test_a_data_set_stands_alone(capsys, digits, photos):
    path, net, x = digits
    found = json.loads(run(capsys, path, "digits", "--json")[1])
    assert found["images"] == 360 and 0.5 < found["accuracy"] < 1
    assert "digits is a data set, and is scored alone" in run(capsys, path, "digits", photos)[2]
    assert "--csv is for your own images" in run(capsys, path, "digits", "--csv", photos / "a.csv")[2]
    (photos / "empty").mkdir()
    assert "there are no images in" in run(capsys, path, photos / "empty")[2]
