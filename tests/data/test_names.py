"""Data files under all the names and in all the folders that people use."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from dualnet import data
from dualnet.data import DataError
from dualnet.data.reading import find

PARTS = [(part, kind) for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]
X, T = np.arange(2 * 5 * 4, dtype="uint8").reshape(2, 5, 4), np.array([3, 9], "uint8")


def write(folder: Path, name="{}-{}-ubyte", x=X, t=T, parts=("train", "t10k")) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for part in parts:
        for kind, array in (("images-idx3", x), ("labels-idx1", t)):
            data.write_idx(folder / "plain", array)
            content = (folder / "plain").read_bytes()
            path = folder / name.format(part, kind)
            path.write_bytes(gzip.compress(content) if ".gz" in path.name.lower() else content)
    (folder / "plain").unlink()
    return folder


@pytest.mark.parametrize(
    "name",
    [
        "{}-{}-ubyte (1)",
        "{}-{}-ubyte (12).gz",
        "{}-{}-ubyte.gz (1)",
        "{}-{}-ubyte(2).gz",
        "{}-{}-UBYTE.GZ",
        "{}-{}-ubyte",
    ],
)
def test_idx_files_under_odd_names(tmp_path, name):
    write(tmp_path, name)
    (x, t), (x_test, t_test) = data.load_mnist(tmp_path, dtype="uint8")
    assert np.array_equal(x[..., 0], X) and np.array_equal(x_test[..., 0], X)
    assert t.tolist() == t_test.tolist() == [3, 9]


@pytest.mark.parametrize("place", ["MNIST/raw", "mnist/RAW", "raw", ""])
def test_idx_files_in_torchvision_s_folders(tmp_path, place):
    write(tmp_path / place)
    assert data.load_mnist(tmp_path)[0][0].shape == (2, 5, 4, 1)


def test_a_name_of_its_own_comes_before_a_copy(tmp_path):
    write(tmp_path, x=X + 1)
    write(tmp_path, "{}-{}-ubyte (1)")
    assert np.array_equal(data.load_mnist(tmp_path, dtype="uint8")[0][0][..., 0], X + 1)


def test_files_of_two_places_are_not_mixed(tmp_path):
    """Two of one data set and two of another would train, on nonsense."""
    write(tmp_path, parts=["train"])
    write(tmp_path / "MNIST" / "raw", parts=["t10k"])
    with pytest.raises(FileNotFoundError, match="t10k-images-idx3-ubyte"):
        data.load_mnist(tmp_path)


def test_what_is_not_there_is_not_found(tmp_path):
    (tmp_path / "train.bin").mkdir()
    assert find(tmp_path, ["", "elsewhere/deeper"], ["train.bin", "test.bin"]) is None


# -- EMNIST ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["", "gzip", "EMNIST/raw"])
@pytest.mark.parametrize("split", sorted(data.EMNIST_CLASSES))
def test_emnist_is_turned_and_counts_from_0(tmp_path, place, split):
    x = np.zeros((2, 5, 5), "uint8")
    x[0, 1, 3] = 7  # in row 3, column 1 of the picture as it was written
    first = 1 if split == "letters" else 0
    last = len(data.EMNIST_CLASSES[split]) - 1
    t = np.array([first, first + last], "uint8")
    name = f"emnist-{split}-{{}}-{{}}-ubyte.gz"
    write(tmp_path / place, name, x, t, parts=["train", "test"])
    (images, labels), _ = data.load_emnist(tmp_path, split, dtype="uint8")
    assert images[0, 3, 1, 0] == 7 and images.sum() == 7 and labels.tolist() == [0, last]


def test_emnist_s_classes():
    assert {split: len(names) for split, names in data.EMNIST_CLASSES.items()} == {
        "balanced": 47,
        "byclass": 62,
        "bymerge": 47,
        "letters": 26,
        "digits": 10,
        "mnist": 10,
    }
    assert "".join(data.EMNIST_CLASSES["balanced"][36:]) == "abdefghnqrt"


@pytest.mark.parametrize("label", [0, 27])
def test_emnist_s_letters_are_numbered_from_1(tmp_path, label):
    write(tmp_path, "emnist-letters-{}-{}-ubyte", t=np.array([1, label], "uint8"), parts=["train", "test"])
    with pytest.raises(DataError, match=f"record 1 has label {label}; expected 1 to 26"):
        data.load_emnist(tmp_path, "letters")


def test_emnist_s_mistakes(tmp_path):
    with pytest.raises(ValueError, match="split is 'small'; expected one of balanced, byclass"):
        data.load_emnist(tmp_path, "small")
    with pytest.raises(
        FileNotFoundError, match=r"EMNIST: not in .*emnist-digits-train-images-idx3-ubyte or .*gzip\.zip"
    ):
        data.load_emnist(tmp_path, "digits")


# -- Keras' file -------------------------------------------------------------------------------------------------------


def save(path: Path, x=X, t=T, **others) -> Path:
    np.savez_compressed(path, **{"x_train": x, "y_train": t, "x_test": x[:1], "y_test": t[:1], **others})
    return path


@pytest.mark.parametrize("order", ["C", "F"])
def test_keras_mnist(tmp_path, order):
    save(tmp_path / "mnist.npz", np.array(X, order=order))
    (x, t), (x_test, t_test) = data.load_mnist(tmp_path, dtype="uint8")
    assert np.array_equal(x[..., 0], X) and t.tolist() == [3, 9] and len(x_test) == len(t_test) == 1


def test_idx_files_come_before_keras(tmp_path):
    save(write(tmp_path) / "mnist.npz", X + 1)
    assert np.array_equal(data.load_mnist(tmp_path, dtype="uint8")[0][0][..., 0], X)


def test_malformed_keras_files(tmp_path, rng):
    def fails(told: str, **arrays) -> None:
        save(tmp_path / "mnist.npz", **arrays)
        with pytest.raises(DataError, match=told):
            data.load_mnist(tmp_path)

    fails("x_train.npy holds '<i8'; expected bytes", x=X.astype("int64"))
    fails("record 0 has label 77", t=np.array([77, 1], "uint8"))
    fails("1 labels for the 2 images", y_train=T[:1])
    fails("expected images", x=X.reshape(2, 20))
    fails(r"y_test.npy holds '\|O'; expected bytes", y_test=np.array([print], object))
    np.savez(tmp_path / "mnist.npz", x=X)
    with pytest.raises(DataError, match="it has no x_train, y_train, x_test, y_test, only x.npy"):
        data.load_mnist(tmp_path)
    whole = save(tmp_path / "mnist.npz").read_bytes()
    for content in (b"", b"PK\3\4", whole[:-30], whole[: len(whole) // 2], whole.replace(X.tobytes()[:4], b"0000")):
        (tmp_path / "mnist.npz").write_bytes(content)
        try:
            data.load_mnist(tmp_path)
        except DataError as error:
            assert "mnist.npz" in str(error)
    for number in range(1500):
        damaged = bytearray(whole)
        place = rng.integers(len(damaged)) if number % 3 else -1 - rng.integers(300)  # often in the table at the end
        damaged[place] = rng.integers(256)
        (tmp_path / "mnist.npz").write_bytes(damaged)
        try:
            data.load_mnist(tmp_path)
        except DataError as error:
            assert "mnist.npz" in str(error)


def test_a_bomb_in_a_keras_file_is_not_unpacked(tmp_path):
    zeros = np.zeros((64, 2**10, 2**10), "uint8")  # 64 MB of which 64 kB are left
    path = save(tmp_path / "mnist.npz", zeros, np.zeros(64, "uint8"))
    assert path.stat().st_size < 2**20
    with pytest.raises(DataError, match="claims to unpack from .* bytes to .*; too many"):
        data.load_mnist(tmp_path)
