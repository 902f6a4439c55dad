"""CIFAR-10 and CIFAR-100, in their binary or Python version, unpacked or in their archive.

A binary record is a label byte (CIFAR-100: two, coarse and fine) and 3 × 32 × 32 bytes of red, green and blue planes.
The Python version holds the same rows as pickled arrays, which are read as data (``pickled.py``).

Source: Krizhevsky, "Learning multiple layers of features from tiny images" (2009).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy

from .archives import read_tar
from .pickled import read_pickle
from .reading import DataError, Split, check_dtype, check_folder, check_labels, find, scaled

__all__ = ["CIFAR100_CLASSES", "CIFAR10_CLASSES", "load_cifar10", "load_cifar100"]

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
CIFAR100_CLASSES = tuple(
    """
    apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle
    caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant
    flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree
    motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate
    poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider
    squirrel streetcar sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle
    wardrobe whale willow_tree wolf woman worm
    """.split()
)
SIDE, PLANES = 32, 3
PIXELS = PLANES * SIDE * SIDE
MOST_RECORDS = 100_000
MOST_FILE = MOST_RECORDS * (PIXELS + 2) + 2**23
"""The largest file: the pictures, and in the Python version their names."""


@dataclass(frozen=True)
class Version:
    """One version of a data set's files."""

    folder: str
    archive: str
    train: tuple[str, ...]
    test: str
    pickled: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        return (*self.train, self.test)

    @property
    def places(self) -> tuple[str, ...]:
        """The folders in which to look for the files; Keras unpacks them in the third."""
        return "", self.folder, f"{self.folder}-target/{self.folder}"


@dataclass(frozen=True)
class Cifar:
    """The differences between CIFAR-10 and CIFAR-100."""

    name: str
    loader: str
    classes: int
    labels: int  # label bytes in a record; the last one counts
    key: str
    versions: tuple[Version, ...]

    @property
    def record(self) -> int:
        return self.labels + PIXELS

    @property
    def how(self) -> str:
        binary, python = self.versions
        return (
            f"Put {binary.archive} there (the 'binary version' at https://www.cs.toronto.edu/~kriz/cifar.html), packed "
            f"or unpacked; {python.archive} works as well."
        )


BATCHES = tuple(f"data_batch_{i}" for i in range(1, 6))
CIFAR10 = Cifar(
    *("CIFAR-10", "load_cifar10", 10, 1, "labels"),
    (
        Version(
            *("cifar-10-batches-bin", "cifar-10-binary.tar.gz"),
            *(tuple(f"{name}.bin" for name in BATCHES), "test_batch.bin"),
        ),
        Version("cifar-10-batches-py", "cifar-10-python.tar.gz", BATCHES, "test_batch", pickled=True),
    ),
)
CIFAR100 = Cifar(
    *("CIFAR-100", "load_cifar100", 100, 2, "fine_labels"),
    (
        Version("cifar-100-binary", "cifar-100-binary.tar.gz", ("train.bin",), "test.bin"),
        Version("cifar-100-python", "cifar-100-python.tar.gz", ("train",), "test", pickled=True),
    ),
)


def load_cifar10(folder: str | os.PathLike, *, dtype: str = "float32") -> tuple[Split, Split]:
    """CIFAR-10 from its files in ``folder``: the binary version, or the one for Python, unpacked or as ``.tar.gz``.

    Returns ``(x_train, t_train), (x_test, t_test)``: images (50000, 32, 32, 3) and (10000, 32, 32, 3), float32 in
    [0, 1] or, with ``dtype="uint8"``, the bytes 0 … 255; labels int64, 0 … 9, named by ``CIFAR10_CLASSES``.

    The files may be in ``folder`` or in the folder that the archive creates, ``cifar-10-batches-bin`` or
    ``cifar-10-batches-py``, where torchvision and Keras look for them too. An archive is read in place; nothing is
    unpacked to the disk. The Python version consists of pickles: they are read as data, and nothing in them is run.

    If a file is missing, the ``FileNotFoundError`` lists it. Raises :class:`DataError` for a malformed file; sizes are
    checked before anything is allocated.

    >>> import dualnet as dn
    >>> dn.data.CIFAR10_CLASSES[3]
    'cat'
    """
    return _load_cifar(CIFAR10, folder, dtype)


def load_cifar100(folder: str | os.PathLike, *, dtype: str = "float32") -> tuple[Split, Split]:
    """CIFAR-100 from its files in ``folder``, as :func:`load_cifar10` reads CIFAR-10.

    The labels are the fine ones, 0 … 99, named by ``CIFAR100_CLASSES``. The folders are ``cifar-100-binary`` and
    ``cifar-100-python``.

    >>> import dualnet as dn
    >>> dn.data.CIFAR100_CLASSES[-1], len(dn.data.CIFAR100_CLASSES)
    ('worm', 100)
    """
    return _load_cifar(CIFAR100, folder, dtype)


def _load_cifar(cifar: Cifar, folder: str | os.PathLike, dtype: str) -> tuple[Split, Split]:
    check_dtype(dtype, cifar.loader)
    base = check_folder(folder, cifar.name, cifar.how)
    missing: list[str] = []
    for version in cifar.versions:
        files = {name: find(base, version.places, (name,)) for name in version.names}
        absent = [name for name, path in files.items() if path is None]
        if not absent:
            return _from_files(cifar, version, {name: path for name, path in files.items() if path}, dtype)
        missing = absent if not missing or len(absent) < len(version.names) else missing
    for version in cifar.versions:
        archive = find(base, ("",), (version.archive,))
        if archive is not None:
            return _from_archive(cifar, version, archive, dtype)
    raise FileNotFoundError(f"{cifar.name}: not in {str(base)!r}: {', '.join(missing)}. {cifar.how}")


def holds(cifar: Cifar, folder: Path) -> bool:
    """Does the folder hold a complete version of the data set, unpacked or not?"""
    return any(
        find(folder, ("",), (version.archive,)) is not None
        or all(find(folder, version.places, (name,)) is not None for name in version.names)
        for version in cifar.versions
    )


# -- files and archives ------------------------------------------------------------------------------------------------

Read = Callable[[Path], bytes]


def _from_files(cifar: Cifar, version: Version, files: dict[str, Path], dtype: str) -> tuple[Split, Split]:
    for path in files.values():
        _check_size(cifar, version, path, path.stat().st_size)
    return _splits(cifar, version, files, lambda path: path.read_bytes(), dtype)


def _from_archive(cifar: Cifar, version: Version, archive: Path, dtype: str) -> tuple[Split, Split]:
    members = read_tar(archive, version.names, MOST_FILE)
    missing = [name for name in version.names if name not in members]
    if missing:
        raise DataError(f"{archive}: it has no {', '.join(missing)}. It is cut off, or the wrong archive.")
    files = {name: archive / name for name in version.names}  # a name for messages
    for name, path in files.items():
        _check_size(cifar, version, path, len(members[name]))
    return _splits(cifar, version, files, lambda path: members[path.name], dtype)


def _check_size(cifar: Cifar, version: Version, path: Path, size: int) -> None:
    """Raise unless a file of this size may belong to the data set; nothing is allocated before this check."""
    record = cifar.record
    if version.pickled:
        if not 0 < size <= MOST_FILE:
            raise DataError(f"{path}: {size} bytes; expected a batch of {cifar.name}, at most {MOST_FILE} bytes")
        return
    if size % record or not size or size > MOST_RECORDS * record:
        other, its = ("CIFAR-100", PIXELS + 2) if cifar is CIFAR10 else ("CIFAR-10", PIXELS + 1)
        hint = f" Records of {its} bytes belong to {other}." if size and size % its == 0 else ""
        raise DataError(
            f"{path}: {size} bytes; expected a multiple of {record}, the size of a record (at most {MOST_RECORDS} "
            f"records).{hint} The file is damaged or not {cifar.name}: download it again."
        )


def _splits(cifar: Cifar, version: Version, files: dict[str, Path], read: Read, dtype: str) -> tuple[Split, Split]:
    rows = _pickled_rows if version.pickled else _binary_rows
    train = [rows(cifar, files[name], read) for name in version.train]
    return _joined(train, dtype), _joined([rows(cifar, files[version.test], read)], dtype)


# -- records -----------------------------------------------------------------------------------------------------------


def _binary_rows(cifar: Cifar, path: Path, read: Read) -> Split:
    """The pixels (records, 3072) and the labels of a binary file."""
    data = read(path)
    if len(data) % cifar.record:
        raise DataError(f"{path}: the file became shorter while it was read. Load it again.")
    batch = numpy.frombuffer(data, numpy.uint8).reshape(-1, cifar.record)
    return batch[:, cifar.labels :], check_labels(batch[:, cifar.labels - 1], path, cifar.classes)


def _pickled_rows(cifar: Cifar, path: Path, read: Read) -> Split:
    """The pixels (records, 3072) and the labels of a file of the Python version."""
    batch = read_pickle(read(path), path)
    pixels, labels = _key(batch, "data", path), _key(batch, cifar.key, path)
    if not isinstance(pixels, numpy.ndarray) or pixels.ndim != 2 or pixels.shape[1] != PIXELS or not len(pixels):
        raise DataError(f"{path}: its data are {_kind(pixels)}; expected bytes of shape (N, {PIXELS})")
    if isinstance(labels, numpy.ndarray):
        labels = labels.tolist()
    if not isinstance(labels, list) or not all(type(label) is int and 0 <= label < 256 for label in labels):
        raise DataError(f"{path}: its {cifar.key} are not a list of class numbers")
    if len(labels) != len(pixels):
        raise DataError(
            f"{path}: {len(labels)} labels for {len(pixels)} images; expected equally many. Download it again."
        )
    return pixels, check_labels(numpy.array(labels, numpy.uint8), path, cifar.classes)


def _key(batch: dict[str, Any], key: str, path: Path) -> Any:
    if key not in batch:
        raise DataError(f"{path}: it has no {key!r}, only {', '.join(batch)[:80]}. It belongs to another data set.")
    return batch[key]


def _kind(value: Any) -> str:
    return f"an array of shape {value.shape}" if isinstance(value, numpy.ndarray) else f"a {type(value).__name__}"


def _joined(batches: list[Split], dtype: str) -> Split:
    """Planes to pictures, (N, 3072) -> (N, 32, 32, 3), batch after batch into one array."""
    total = sum(len(t) for _, t in batches)
    x = numpy.empty((total, SIDE, SIDE, PLANES), dtype)
    t = numpy.empty(total, numpy.int64)
    start = 0
    for rows, labels in batches:
        part = slice(start, start := start + len(labels))
        t[part] = labels
        planes = rows.reshape(len(labels), PLANES, SIDE, SIDE)
        images = numpy.ascontiguousarray(planes.transpose(0, 2, 3, 1))  # (N, C, H, W) -> (N, H, W, C)
        scaled(images, dtype, out=x[part])
    return x, t
