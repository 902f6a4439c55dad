"""Data sets: what the readers return, and that a malformed file leads to its documented error and nothing else."""

from __future__ import annotations

import gzip
import hashlib
import os
import pickle
import tempfile
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from drawn import drawn
from hypothesis import given
from hypothesis.extra.numpy import array_shapes, arrays, boolean_dtypes, floating_dtypes, integer_dtypes
from strangers import idx, mutated, npy, npys

from dualnet import data
from dualnet.data import DataError
from dualnet.data.reading import read_npy

ROOM = 64 * 2**20
REAL = boolean_dtypes() | integer_dtypes() | floating_dtypes(sizes=(16, 32, 64), endianness="?")

# -- the digits --------------------------------------------------------------------------------------------------------


def test_digits_are_the_ones_of_alpaydin_and_kaynak():
    (x, t), (xt, tt) = data.load_digits()
    assert (x.shape, xt.shape, t.shape, tt.shape) == ((1437, 8, 8, 1), (360, 8, 8, 1), (1437,), (360,))
    assert x.dtype == np.float32 and t.dtype == np.int64 and x.min() == 0 and x.max() == 1
    # the counts per class of the UCI data set's test part
    assert np.bincount(np.concatenate([t, tt])).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert np.bincount(tt).tolist() == [30, 36, 39, 41, 35, 36, 38, 41, 29, 35]


def test_digits_as_bytes_are_the_same_images_and_stay_what_they_are():
    (x, t), (xt, tt) = data.load_digits()
    (raw, _), (rawt, _) = data.load_digits(dtype="uint8")
    assert raw.dtype == np.uint8 and raw.max() == 16
    assert np.array_equal(raw / np.float32(16), x) and np.array_equal(rawt / np.float32(16), xt)
    content = b"".join(a.tobytes() for a in (raw, rawt, t.astype("u1"), tt.astype("u1")))
    assert hashlib.sha256(content).hexdigest() == "7f7cb422c3e0356929ccf02b7b79153593541a44383715a9bbfdaa553cbe1684"


def test_digits_come_with_their_licence():
    note = (Path(data.__file__).parent / "DIGITS-LICENSE.md").read_text(encoding="utf-8")
    assert "CC BY 4.0" in note and "Alpaydin" in note and "Kaynak" in note


# -- IDX ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16", "int32", "float32", "float64"])
def test_idx_returns_what_was_written(tmp_path, rng, dtype, suffix):
    for shape in [(5,), (2, 3), (3, 4, 5), (1, 2, 1, 3), (0,), (2, 0, 3)]:
        array = (rng.standard_normal(shape) * 50).astype(dtype)
        path = tmp_path / f"a{suffix}"
        data.write_idx(path, array)
        back = data.read_idx(path)
        assert back.dtype == np.dtype(dtype) and back.dtype.isnative and back.shape == shape
        assert np.array_equal(back, array)
        back[...] = 0  # it may be written to


def test_idx_files_are_big_endian_and_the_same_every_time(tmp_path):
    array = np.array([[1, 256], [-2, 3]], "int16")
    data.write_idx(tmp_path / "a", array)
    assert (tmp_path / "a").read_bytes() == bytes.fromhex("00000b02 00000002 00000002 0001 0100 fffe 0003")
    data.write_idx(tmp_path / "big", array.astype(">i2").T)
    assert np.array_equal(data.read_idx(tmp_path / "big"), array.T)
    for name in ("x.gz", "y.gz"):
        data.write_idx(tmp_path / name, array)
    assert (tmp_path / "x.gz").read_bytes() == (tmp_path / "y.gz").read_bytes()
    assert (tmp_path / "x.gz").read_bytes()[4:8] == bytes(4), "no time stamp"


@pytest.mark.parametrize("array", [np.zeros(3, "int64"), np.zeros(3, complex), np.array(["a"]), np.zeros(3, bool)])
def test_write_idx_refuses_types_that_the_format_lacks(tmp_path, array):
    with pytest.raises(TypeError, match="write_idx: dtype"):
        data.write_idx(tmp_path / "a", array)
    with pytest.raises(ValueError, match="write_idx: shape"):
        data.write_idx(tmp_path / "a", np.zeros((), "uint8"))
    assert not (tmp_path / "a").exists()


def zipped(content: bytes) -> bytes:
    """Without the time, which would be in the tests' names."""
    return gzip.compress(content, mtime=0)


@pytest.mark.parametrize(
    "content, told",
    [
        (b"", "starts with nothing"),
        (b"\0\0\x08", "starts with 00 00 08"),
        (b"\x89PNG\r\n\x1a\n", "expected an IDX header"),
        (b"\0\0\x07\x01\0\0\0\x01\0", "expected an IDX header"),
        (b"\0\0\x08\0" + bytes(9), "expected an IDX header"),
        (b"\0\0\x08\x11" + bytes(99), "expected an IDX header"),
        (b"\0\0\x08\x03\0\0\0\x01", "the header is cut off"),
        (idx((3,), b"ab"), "2 follow"),
        (idx((3,), b"abcd"), "4 follow"),
        (idx((2**31, 4)), "the limit is"),
        (idx((2**32 - 1,) * 3), "promises"),
        (idx((0, 2**32 - 1, 2**32 - 1)), "promises"),
        (zipped(idx((3,), b"ab")), "2 follow"),
        (zipped(idx((3,), b"abcd")), "more follow"),
        (zipped(idx((2**31,), b"ab")), "cannot hold them"),
        (zipped(idx((3,), b"abc"))[:-9], "damaged or cut off"),
        (zipped(idx((3,), b"abc")) + b"more", "damaged or cut off"),
        (zipped(b"")[:5], "damaged or cut off"),
    ],
)
def test_malformed_idx(tmp_path, content, told):
    path = tmp_path / "file-idx"
    path.write_bytes(content)
    with pytest.raises(DataError, match=told) as caught:
        data.read_idx(path)
    assert str(path) in str(caught.value) and isinstance(caught.value, ValueError)


def test_a_gzip_bomb_stops_at_what_its_header_promises(tmp_path):
    path = tmp_path / "bomb.gz"
    path.write_bytes(gzip.compress(idx((100,)) + bytes(200 * 2**20), 1))
    tracemalloc.start()
    with pytest.raises(DataError, match="more follow"):
        data.read_idx(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * 2**20
    with pytest.raises(DataError, match="the limit is 99"):
        data.read_idx(path, limit=99)


def test_a_gzip_file_packed_as_no_images_are_is_read_only_on_demand(tmp_path):
    """The header tells the truth, and yet 30 KB would become 33 MB; a stranger's 4 MB would become 4 GB."""
    path, size = tmp_path / "blank.gz", 33 * 2**20
    path.write_bytes(gzip.compress(idx((size,)) + bytes(size), 9))
    assert path.stat().st_size < 40_000
    with pytest.raises(DataError, match=r"times the size of the gzip file. If the file is genuine, .*limit="):
        data.read_idx(path)
    assert data.read_idx(path, limit=size).shape == (size,)
    path.write_bytes(gzip.compress(idx((2**20,)) + bytes(2**20), 9))  # a small one harms nobody
    assert data.read_idx(path).shape == (2**20,)


# -- .npy files --------------------------------------------------------------------------------------------------------


def same(a: np.ndarray, b: np.ndarray) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
@pytest.mark.parametrize("dtype", ["<f4", ">f8", "<f2", "|u1", "<i8", ">u2", "|b1", "|i1"])
def test_npy_returns_what_numpy_wrote(tmp_path, rng, dtype, version):
    for shape in [(), (5,), (2, 3), (3, 4, 5, 1), (0,), (2, 0, 3), (1,) * 20]:
        array = np.asarray(rng.standard_normal(shape) * 50).astype(dtype)
        for written in (array, np.array(array, order="F")):
            with open(tmp_path / "a.npy", "wb") as file:
                np.lib.format.write_array(file, written, version)
            back = read_npy(tmp_path / "a.npy")
            assert same(back, np.load(tmp_path / "a.npy")) and same(back, array)
            assert not array.size or isinstance(back, np.memmap), "it takes no memory"


@drawn
@given(array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=4).flatmap(lambda shape: arrays(REAL, shape)))
def test_npy_of_any_real_array(array):
    with tempfile.TemporaryDirectory() as folder:
        np.save(f"{folder}/a.npy", array)
        assert same(read_npy(f"{folder}/a.npy"), array)


HEADER = "{'descr': '%s', 'fortran_order': %s, 'shape': %s, }"


@pytest.mark.parametrize(
    "spelling",
    [
        "{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }",
        "{'descr':'<f4','fortran_order':False,'shape':(2,)}",
        '{"descr": "<f4", "fortran_order": False, "shape": (2)}',
        "  { 'descr' : 'f4' , 'fortran_order' : False , 'shape' : ( 2 , ) }  ",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (2L,), }",  # Python 2
    ],
)
def test_npy_headers_of_other_programs(tmp_path, spelling):
    (tmp_path / "a.npy").write_bytes(npy(spelling, np.array([1, 2], "<f4").tobytes()))
    assert read_npy(tmp_path / "a.npy").tolist() == [1, 2]


@pytest.mark.parametrize(
    "content, told",
    [
        (b"", "starts with nothing"),
        (b"\x93NUMPY", "starts with 93 4e"),
        (b"\x89PNG\r\n\x1a\n", "expected an .npy file"),
        (pickle.dumps([1]), "looks like a pickle; dualnet never reads these"),
        (b"PK\3\4" + bytes(30), "a zip archive, such as .npz. Save only the images"),
        (b"\x93NUMPY\4\0" + bytes(99), "version 4.0"),
        (b"\x93NUMPY\1\0\x76", "its header is ''"),
        (b"\x93NUMPY\2\0\xff\xff\xff\xff" + b" " * 9999, "its header is"),  # of 4 GB
        (npy("(" * 5000), "its header is"),
        (npy("-" * 5000 + "1"), "its header is"),
        (npy("{'a': " + "'" * 3), "its header is"),
        (npy("{'descr': ['\\x', 1j], 'b': {[]}}"), "its header is"),
        (npy(HEADER % ("<f4", False, "(" + "1" * 5000 + ",)")), "its header is"),
        (npy(HEADER % ("<f4", False, "(" + "1 " * 4000 + "!")), "its header is"),
        (npy(HEADER % ("<f4", False, "(1.5,)")), "its header is"),
        (npy(HEADER % ("<f4", False, "(-1,)")), "its header is"),
        (npy(HEADER % ("<f4", 0, "(1,)")), "its header is"),
        (npy(HEADER % ("<f4", "__import__('os')", "(1,)")), "its header is"),
        (npy("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,), }", bytes(4)), "Records and Python"),
        (npy("{'descr': '<f4', 'shape': (1,), }", bytes(4)), "its header is"),
        (npy(HEADER % ("|O", False, "(1,)"), pickle.dumps(print)), "it holds object; expected images"),
        (npy(HEADER % ("<c8", False, "(1,)"), bytes(8)), "it holds complex64"),
        (npy(HEADER % ("<U9", False, "(1,)"), bytes(36)), "it holds <U9"),
        (npy(HEADER % ("<q9", False, "(1,)"), bytes(9)), "it holds '<q9', a type unknown to NumPy"),
        (npy(HEADER % ("<f999999999", False, "(1,)"), bytes(9)), "a type unknown to NumPy"),
        (npy(HEADER % ("<f4", False, "(2147483647, 4)")), "promises 34359738352 bytes"),
        (npy(HEADER % ("<f4", False, "(3,)"), bytes(11)), "11 follow. The file is damaged or cut off"),
        (npy(HEADER % ("<f4", True, "(3, 3)"), bytes(35)), "35 follow"),
        (npy(HEADER % ("<f4", False, "(0, 99999999999, 99999999999999)")), "its header promises an array of shape"),
        (npy(HEADER % ("<f4", False, f"({'1, ' * 40})"), bytes(4)), "40 axes"),
        (npy(HEADER % ("<f4", False, f"({'99999999999999999999, ' * 40})"), bytes(4)), "40 axes"),
    ],
)
def test_malformed_npy(tmp_path, content, told):
    path = tmp_path / "x.npy"
    path.write_bytes(content)
    start = time.thread_time()
    with pytest.raises(DataError, match=told) as caught:
        read_npy(path)
    assert str(path) in str(caught.value) and len(str(caught.value).splitlines()) == 1
    assert time.thread_time() - start < 0.1


def test_3000_malformed_npys(tmp_path, rng):
    refused, path = 0, tmp_path / "x.npy"
    for _ in range(3000):
        path.write_bytes(npys(rng))
        try:
            read_npy(path).sum()  # all that it promises is there
        except DataError as error:
            refused += 1
            assert str(path) in str(error)
    assert refused > 2500


def test_a_missing_npy_is_not_called_damaged(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_npy(tmp_path / "none.npy")
    with pytest.raises(IsADirectoryError):
        read_npy(tmp_path)


# -- MNIST and CIFAR-10 from files -------------------------------------------------------------------------------------


def write_mnist(folder: Path, rng: np.random.Generator, name="{}-{}-{}-ubyte", n=(7, 3), size=(5, 4)) -> list:
    splits = []
    for part, count in zip(("train", "t10k"), n):
        x, t = rng.integers(0, 256, (count, *size), "uint8"), rng.integers(0, 10, count, "uint8")
        data.write_idx(folder / name.format(part, "images", "idx3"), x)
        data.write_idx(folder / name.format(part, "labels", "idx1"), t)
        splits.append((x, t))
    return splits


@pytest.mark.parametrize("name", ["{}-{}-{}-ubyte", "{}-{}-{}-ubyte.gz", "{}-{}.{}-ubyte", "{}-{}.{}-ubyte.gz"])
def test_mnist_under_all_its_names(tmp_path, rng, name):
    splits = write_mnist(tmp_path, rng, name)
    for dtype in ("float32", "uint8"):
        for (x, t), (raw, labels) in zip(data.load_mnist(tmp_path, dtype=dtype), splits):
            assert x.dtype == dtype and x.shape == (*raw.shape, 1) and t.dtype == np.int64
            assert np.array_equal(x[..., 0], raw if dtype == "uint8" else raw / np.float32(255))
            assert np.array_equal(t, labels)


def test_mnist_where_torchvision_puts_it(tmp_path, rng):
    (tmp_path / "MNIST" / "raw").mkdir(parents=True)
    write_mnist(tmp_path / "MNIST" / "raw", rng)
    assert data.load_mnist(str(tmp_path))[0][0].shape == (7, 5, 4, 1)


def test_missing_mnist_says_what_was_looked_for_and_what_to_do(tmp_path, rng):
    with pytest.raises(FileNotFoundError, match="does not exist.*Put the four files"):
        data.load_mnist(tmp_path / "nowhere")
    write_mnist(tmp_path, rng)
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(FileNotFoundError) as caught:
        data.load_mnist(tmp_path)
    told = str(caught.value)
    assert "t10k-labels-idx1-ubyte or t10k-labels-idx1-ubyte.gz or t10k-labels.idx1-ubyte" in told
    assert str(tmp_path) in told and "Put the four files" in told and "not in" in told
    assert "train-images-idx3-ubyte or" not in told, "what is there is not missing"
    with pytest.raises(FileNotFoundError, match="is a file, not a folder"):
        data.load_mnist(tmp_path / "train-images-idx3-ubyte")


def test_mnist_files_that_do_not_belong_together(tmp_path, rng):
    def fails(told: str, **files: np.ndarray) -> None:
        write_mnist(tmp_path, rng)
        for name, array in files.items():
            kind = "images-idx3" if "images" in name else "labels-idx1"
            data.write_idx(tmp_path / f"{name.split('_')[0]}-{kind}-ubyte", array)
        with pytest.raises(DataError, match=told):
            data.load_mnist(tmp_path)

    fails("6 labels for the 7 images", train_labels=np.zeros(6, "uint8"))
    fails("record 4 has label 10; expected 0 to 9", train_labels=np.array([0, 1, 2, 9, 10, 0, 0], "uint8"))
    fails("expected images", train_images=np.zeros((7, 20), "uint8"))
    fails("expected images", t10k_images=np.zeros((3, 5, 4), "int16"))
    fails("expected images", train_images=np.zeros((0, 5, 4), "uint8"), train_labels=np.zeros(0, "uint8"))
    fails("expected labels", train_labels=np.zeros((7, 1), "uint8"))
    fails("training images are 5 × 4, test images 4 × 5", t10k_images=np.zeros((3, 4, 5), "uint8"))


NAMES = [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]


def write_cifar(folder: Path, rng: np.random.Generator, records: int = 2) -> list[np.ndarray]:
    folder.mkdir(parents=True, exist_ok=True)
    batches = []
    for name in NAMES:
        batch = rng.integers(0, 256, (records, 3073), "uint8")
        batch[:, 0] %= 10
        (folder / name).write_bytes(batch.tobytes())
        batches.append(batch)
    return batches


@pytest.mark.parametrize("place", ["", "cifar-10-batches-bin"])
def test_cifar10_pixel_by_pixel(tmp_path, rng, place):
    batches = write_cifar(tmp_path / place, rng)
    (x, t), (xt, tt) = data.load_cifar10(tmp_path)
    (raw, _), (rawt, _) = data.load_cifar10(tmp_path, dtype="uint8")
    assert x.shape == raw.shape == (10, 32, 32, 3) and xt.shape == (2, 32, 32, 3) and rawt.dtype == np.uint8
    assert x.dtype == np.float32 and t.dtype == tt.dtype == np.int64 and x.flags.c_contiguous
    assert np.array_equal(raw / np.float32(255), x) and np.array_equal(rawt / np.float32(255), xt)
    record = batches[3][1]  # image 7: planes of red, green, blue, each in rows
    assert t[7] == record[0] and tt[0] == batches[5][0, 0]
    for row, column, channel in [(0, 0, 0), (0, 1, 0), (1, 0, 2), (31, 31, 2), (17, 5, 1)]:
        assert raw[7, row, column, channel] == record[1 + channel * 1024 + row * 32 + column]


def test_missing_cifar10_says_what_was_looked_for(tmp_path, rng):
    write_cifar(tmp_path, rng)
    (tmp_path / "data_batch_4.bin").unlink()
    with pytest.raises(FileNotFoundError, match=r": data_batch_4\.bin\. Put cifar-10-binary\.tar\.gz there"):
        data.load_cifar10(tmp_path)


@pytest.mark.parametrize("size", [0, 1, 3072, 3074, 2 * 3073 - 1])
def test_cifar10_files_of_a_wrong_size(tmp_path, rng, size):
    write_cifar(tmp_path, rng)
    (tmp_path / "data_batch_2.bin").write_bytes(bytes(size))
    with pytest.raises(DataError, match=f"{size} bytes; expected a multiple of 3073") as caught:
        data.load_cifar10(tmp_path)
    assert ("CIFAR-100" in str(caught.value)) == (size == 3074)


def test_a_sparse_cifar10_file_of_a_terabyte_is_refused_at_once(tmp_path, rng):
    write_cifar(tmp_path, rng)
    with open(tmp_path / "test_batch.bin", "wb") as file:
        file.truncate(3073 * 2**28)
    with pytest.raises(DataError, match="at most"):
        data.load_cifar10(tmp_path)


def test_cifar10_labels_are_checked(tmp_path, rng):
    write_cifar(tmp_path, rng)
    batch = np.zeros((2, 3073), "uint8")
    batch[1, 0] = 10
    (tmp_path / "test_batch.bin").write_bytes(batch.tobytes())
    with pytest.raises(DataError, match=r"test_batch\.bin: record 1 has label 10"):
        data.load_cifar10(tmp_path)


@pytest.mark.parametrize("dtype", ["float64", "int8", None, 8, "", np.float32])
def test_dtype_is_one_of_two(tmp_path, dtype):
    for load in (lambda: data.load_digits(dtype=dtype), lambda: data.load_mnist(tmp_path, dtype=dtype)):
        with pytest.raises(ValueError, match="dtype must be 'float32'"):
            load()
    with pytest.raises(ValueError, match="load_cifar10: dtype"):
        data.load_cifar10(tmp_path, dtype=dtype)


# -- files from strangers ----------------------------------------------------------------------------------------------


def test_500_malformed_files(tmp_path, rng):
    (tmp_path / "m").mkdir()
    write_mnist(tmp_path / "m", rng, n=(20, 20))
    write_cifar(tmp_path / "c", rng)
    image = (tmp_path / "m" / "train-images-idx3-ubyte").read_bytes()
    label = (tmp_path / "m" / "train-labels-idx1-ubyte").read_bytes()
    cifar = (tmp_path / "c" / "data_batch_1.bin").read_bytes()
    seeds = [
        ("m/train-images-idx3-ubyte", image, data.load_mnist),
        ("m/train-images-idx3-ubyte", gzip.compress(image), data.load_mnist),
        ("m/train-labels-idx1-ubyte", label, data.load_mnist),
        ("c/data_batch_1.bin", cifar, data.load_cifar10),
    ]
    refused, slowest = 0, 0.0
    tracemalloc.start()
    for i in range(500):
        name, content, load = seeds[i % len(seeds)]
        path = tmp_path / name
        path.write_bytes(mutated(content, rng, header=40))
        start = time.thread_time()
        try:
            load(path.parent)
        except DataError as error:
            refused += 1
            assert str(path) in str(error)
        slowest = max(slowest, time.thread_time() - start)
        path.write_bytes(content)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert refused > 350 and slowest < 1 and peak < ROOM, (refused, slowest, peak)


# -- the real ones, where somebody has them ----------------------------------------------------------------------------


def real(name: str) -> Path:
    folder = Path(os.environ.get("DUALNET_DATA", "")) / name
    if not os.environ.get("DUALNET_DATA") or not folder.is_dir():
        pytest.skip(f"DUALNET_DATA names no folder with {name}/")
    return folder


def test_the_real_mnist():
    (x, t), (xt, tt) = data.load_mnist(real("mnist"), dtype="uint8")
    assert x.shape == (60000, 28, 28, 1) and xt.shape == (10000, 28, 28, 1)
    assert np.bincount(t).tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert t[:5].tolist() == [5, 0, 4, 1, 9] and tt[:5].tolist() == [7, 2, 1, 0, 4]
    assert round(x.mean() / 255, 4) == 0.1307 and round(x.std() / 255, 4) == 0.3081


def test_the_real_cifar10():
    folder = real("cifar10")
    if not any(folder.rglob("data_batch_1.bin")):
        pytest.skip(f"{folder} does not hold the binary batches")
    (x, t), (xt, tt) = data.load_cifar10(folder, dtype="uint8")
    assert x.shape == (50000, 32, 32, 3) and xt.shape == (10000, 32, 32, 3)
    assert np.bincount(t).tolist() == [5000] * 10 and np.bincount(tt).tolist() == [1000] * 10
    assert np.abs(x.mean((0, 1, 2)) / 255 - [0.4914, 0.4822, 0.4465]).max() < 5e-4
