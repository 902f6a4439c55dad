"""CIFAR-10 and CIFAR-100 in both versions, unpacked and in their archives; and pickles that hold no data."""

from __future__ import annotations

import gzip
import io
import os
import pickle
import pickletools
import tarfile
from pathlib import Path

import numpy as np
import pytest

from dualnet import data
from dualnet.data import DataError, archives
from dualnet.data.pickled import read_pickle

BINARY10 = {**{f"data_batch_{i}": f"data_batch_{i}.bin" for i in range(1, 6)}, "test_batch": "test_batch.bin"}
BINARY100 = {"train": "train.bin", "test": "test.bin"}


def rows(rng, names, classes, n=2):
    return {name: (rng.integers(0, 256, (n, 3072), "uint8"), rng.integers(0, classes, n).tolist()) for name in names}


def truth(parts):
    """Picture (i, j, c) of a row of planes, one by one."""
    x = np.concatenate([np.asarray(x) for x, _ in parts])
    images = np.stack([x[:, c * 1024 + i * 32 + j] for i in range(32) for j in range(32) for c in range(3)], axis=1)
    return images.reshape(len(x), 32, 32, 3), [label for _, labels in parts for label in labels]


def binary(x, t, coarse=False):
    """Coarse labels are all 99, so that they are not taken for the fine ones."""
    first = [np.full((len(x), 1), 99, "uint8")] if coarse else []
    return np.concatenate([*first, np.array(t, "uint8")[:, None], x], axis=1).tobytes()


def python2(x, t, key="labels", **others):
    """The bytes that Python 2 wrote: protocol 2, one type for bytes and text, long strings for arrays."""

    def text(words):
        return b"U" + bytes([len(words)]) + words

    def short(number):
        return b"K" + bytes([number]) if number < 256 else b"M" + number.to_bytes(2, "little")

    labels = b"]q\x05(" + b"".join(b"K" + bytes([label]) for label in t) + b"e"
    raw = x.tobytes()
    shape = short(x.shape[0]) + short(x.shape[1]) + b"\x86"
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\nq\x06cnumpy\nndarray\nq\x07K\x00\x85U\x01b\x87Rq\x08(K\x01"
        + shape
        + b"cnumpy\ndtype\nq\x09U\x02u1K\x00K\x01\x87Rq\x0a(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
        + b"T"
        + len(raw).to_bytes(4, "little")
        + raw
        + b"tb"
    )
    names = b"]q\x0c(" + b"".join(text(b"%d.png" % i) for i in range(len(t))) + b"e"
    content = text(b"batch_label") + text(b"training batch 1 of 5") + text(key.encode()) + labels
    content += text(b"data") + array + text(b"filenames") + names
    return b"\x80\x02}q\x01(" + content + b"u."


def python3(x, t, key="labels", protocol=4):
    return pickle.dumps({b"data": x, key.encode(): t, b"filenames": [b"a.png"] * len(t)}, protocol)


def tar(path: Path, members: dict[str, bytes], kind=tarfile.REGTYPE) -> None:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size, member.type = len(content), kind
            if kind != tarfile.REGTYPE:
                member.size, member.linkname = 0, "/etc/passwd"
            archive.addfile(member, io.BytesIO(content))


WRITERS = {"binary": binary, "python2": python2, "python3": python3}


@pytest.mark.parametrize("how", WRITERS)
@pytest.mark.parametrize("packed", [False, True])
def test_cifar10_in_every_version(tmp_path, rng, how, packed):
    made = rows(rng, BINARY10, 10)
    folder = "cifar-10-batches-bin" if how == "binary" else "cifar-10-batches-py"
    files = {(BINARY10[name] if how == "binary" else name): WRITERS[how](*part) for name, part in made.items()}
    if packed:
        archive = "cifar-10-binary.tar.gz" if how == "binary" else "cifar-10-python.tar.gz"
        tar(tmp_path / archive, {f"{folder}/readme.html": b"hello", **{f"{folder}/{k}": v for k, v in files.items()}})
    else:
        (tmp_path / folder).mkdir()
        for name, content in files.items():
            (tmp_path / folder / name).write_bytes(content)
    before = sorted(tmp_path.rglob("*"))
    (x, t), (x_test, t_test) = data.load_cifar10(tmp_path, dtype="uint8")
    images, labels = truth([part for name, part in made.items() if name != "test_batch"])
    assert np.array_equal(x, images) and t.tolist() == labels and t.dtype == np.int64
    images, labels = truth([made["test_batch"]])
    assert np.array_equal(x_test, images) and t_test.tolist() == labels
    assert sorted(tmp_path.rglob("*")) == before, "nothing is unpacked"


@pytest.mark.parametrize("how", ["binary", "python2", "python3"])
@pytest.mark.parametrize("place", ["", "{}", "{}-target/{}"])
def test_cifar100_has_fine_labels(tmp_path, rng, how, place):
    made = rows(rng, BINARY100, 100)
    folder = tmp_path / place.format(*["cifar-100-binary" if how == "binary" else "cifar-100-python"] * 2)
    folder.mkdir(parents=True, exist_ok=True)
    for name, (x, t) in made.items():
        written = binary(x, t, coarse=True) if how == "binary" else WRITERS[how](x, t, "fine_labels")
        (folder / (BINARY100[name] if how == "binary" else name)).write_bytes(written)
    (x, t), (x_test, t_test) = data.load_cifar100(tmp_path, dtype="uint8")
    assert np.array_equal(x, truth([made["train"]])[0]) and t.tolist() == made["train"][1]
    assert np.array_equal(x_test, truth([made["test"]])[0]) and t_test.tolist() == made["test"][1]
    with pytest.raises(FileNotFoundError, match="CIFAR-10: not in"):
        data.load_cifar10(tmp_path)


def test_the_classes_are_sorted_as_in_the_files():
    assert len(set(data.CIFAR100_CLASSES)) == 100 and list(data.CIFAR100_CLASSES) == sorted(data.CIFAR100_CLASSES)


def test_archives_that_are_something_else(tmp_path, rng, monkeypatch):
    path = tmp_path / "cifar-10-binary.tar.gz"
    one = binary(*rows(rng, ["x"], 10)["x"])

    def fails(told, content=None):
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(DataError, match=told) as caught:
            data.load_cifar10(tmp_path)
        assert str(path) in str(caught.value)

    tar(path, {name: one for name in list(BINARY10.values())[:-1]})
    fails("it has no test_batch.bin")
    tar(path, dict.fromkeys(BINARY10.values(), one), tarfile.SYMTYPE)  # a link is not followed
    fails("it has no data_batch_1.bin")
    tar(path, {f"../../{name}": one[:-1] for name in BINARY10.values()})
    fails("expected a multiple of 3073")
    assert sorted(tmp_path.iterdir()) == [path] and not list(tmp_path.parent.parent.glob("data_batch_*"))
    tar(path, dict.fromkeys(BINARY10.values(), one))
    whole = path.read_bytes()
    fails("damaged or cut off", whole[: len(whole) // 2])
    fails("damaged or cut off", b"no archive")
    fails("damaged or cut off", gzip.compress(b"no archive"))
    fails("damaged or cut off", b"")
    monkeypatch.setattr(archives, "MOST_MEMBERS", 3)
    fails("more than 3 files", whole)
    monkeypatch.setattr(archives, "MOST_MEMBERS", 1000)
    monkeypatch.setattr(archives, "MOST_UNPACKED", 20_000)
    monkeypatch.setattr(archives, "CHUNK", 4096)
    fails("unpacks to more than 20000 bytes", whole)


def test_a_bomb_of_an_archive_is_given_up(tmp_path, monkeypatch):
    path = tmp_path / "cifar-10-python.tar.gz"
    tar(path, {"zeros": bytes(40 * 2**20), **dict.fromkeys(BINARY10, b"")})
    monkeypatch.setattr(archives, "MOST_UNPACKED", 16 * 2**20)
    with pytest.raises(DataError, match="unpacks to more than"):
        data.load_cifar10(tmp_path)


# -- pickles -----------------------------------------------------------------------------------------------------------


class Command:
    """What makes a file as soon as it is unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


def numpy_array(*arguments):
    return pickle.dumps(np.zeros(3, *arguments), 2)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_that_runs_something_is_refused_by_name(tmp_path, protocol):
    marker = tmp_path / "was-run"
    with pytest.raises(DataError, match=f"names {os.name} system, which is not data; dualnet never runs it"):
        read_pickle(pickle.dumps({b"data": Command(marker)}, protocol), Path("train"))
    assert not marker.exists()


@pytest.mark.parametrize(
    "content, told",
    [
        (b"", "not a pickle, or a damaged one"),
        (b"\x80", "not a pickle"),
        (b"}", "not a pickle"),
        (b"]r\xff\xff\xff\xff.", "does not hold the dictionary"),  # a place in the memo that would take 32 GB
        (b"I1\n.", "does not hold the dictionary"),
        (b"(lp0\n.", "does not hold the dictionary"),
        (b"}K\x01K\x02s.", "a dictionary whose keys are not all texts"),
        (b"}(((" + b"tttt" + b"K\x01s.", "not a pickle|keys are not all texts"),
        (b"}" + b")" * 1 + b"\x85" * 200_000 + b"K\x01s.", "keys are not all texts"),  # a nest that would crash hash()
        (b"c__builtin__\neval\n(U\x021+tR.", "names __builtin__ eval"),
        (b"\x80\x04\x8c\x05numpy\x8c\x04load\x93.", "names numpy load"),
        (b"cnumpy\nndarray\n(K\x05tR.", "uses numpy ndarray in a way that no array does"),
        (b"cnumpy\ndtype\n(U\x01OtR}b.", "a tuple is missing"),
        (b"P1\n.", "uses the instruction PERSID"),
        (b"}(U\x04datacnumpy\nndarray\nK\x01\x85b" + b"u.", "sets the state of something other"),
        (pickle.dumps({b"data": np.zeros(2)}, 2), "holds an array of 'f8'"),
        (pickle.dumps({b"data": np.array([print])}, 2), "names (builtins|__builtin__) print"),
        (pickle.dumps({"data": {1, 2}}, 4), "uses the instruction"),
        (python2(np.zeros((1, 3072), "uint8"), [1])[:-40], "damaged"),
    ],
)
def test_pickles_that_are_no_data(content, told):
    with pytest.raises(DataError, match=told) as caught:
        read_pickle(content, Path("train"))
    assert str(caught.value).startswith("train: it is ") and len(str(caught.value)) < 300


def test_the_array_s_bytes_are_all_there():
    good = python2(np.ones((2, 3072), "uint8"), [1, 2])
    assert read_pickle(good, Path("b"))["data"].shape == (2, 3072)
    with pytest.raises(DataError, match="has 6144 bytes"):
        read_pickle(good.replace(b"K\x02M\x00\x0c\x86", b"K\x03M\x00\x0c\x86"), Path("b"))


def test_1000_damaged_pickles(rng):
    """Whatever stands in it, it is read as data or refused."""
    good = [python2(np.ones((1, 30), "uint8"), [1]), python3(np.ones((1, 30), "uint8"), [1], protocol=2)]
    good += [python3(np.ones((1, 30), "uint8"), [1]), pickletools.optimize(python3(np.ones((1, 9), "uint8"), [1]))]
    refused = 0
    for number in range(1000):
        damaged = bytearray(good[number % 4])
        for _ in range(rng.integers(1, 4)):
            damaged[rng.integers(len(damaged))] = rng.integers(256)
        try:
            read_pickle(bytes(damaged), Path("b"))
        except DataError:
            refused += 1
    assert 200 < refused < 1000


@pytest.mark.parametrize(
    "change, told",
    [
        ({b"data": [1]}, "its data are a list; expected bytes of shape"),
        ({b"data": np.zeros((2, 5), "uint8")}, r"an array of shape \(2, 5\)"),
        ({b"labels": [1]}, "1 labels for 2 images"),
        ({b"labels": [1, 10]}, "record 1 has label 10; expected 0 to 9"),
        ({b"labels": [1, -1]}, "its labels are not a list of class numbers"),
        ({b"labels": "ab"}, "its labels are not a list"),
    ],
)
def test_python_files_with_other_contents(tmp_path, change, told):
    whole = {b"data": np.zeros((2, 3072), "uint8"), b"labels": [0, 1]}
    for name in BINARY10:
        (tmp_path / name).write_bytes(pickle.dumps(whole, 2))
    assert data.load_cifar10(tmp_path)[1][1].tolist() == [0, 1]
    (tmp_path / "data_batch_3").write_bytes(pickle.dumps({**whole, **change}, 2))
    with pytest.raises(DataError, match=told):
        data.load_cifar10(tmp_path)
    (tmp_path / "data_batch_3").write_bytes(pickle.dumps({b"data": whole[b"data"]}, 2))
    with pytest.raises(DataError, match="it has no 'labels', only data"):
        data.load_cifar10(tmp_path)
