"""CIFAR-10 in its binary version: records of one label byte and 3 × 32 × 32 bytes of red, green and blue planes.

Source: Krizhevsky, "Learning multiple layers of features from tiny images" (2009).
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy

from .reading import DataError, Split, check_dtype, check_folder, check_labels, find, scaled

__all__ = ["CIFAR10_CLASSES", "load_cifar10"]

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
SIDE, PLANES = 32, 3
RECORD = 1 + PLANES * SIDE * SIDE
MOST_RECORDS = 100_000
PLACES = ("", "cifar-10-batches-bin")
TRAIN, TEST = tuple(f"data_batch_{i}.bin" for i in range(1, 6)), ("test_batch.bin",)
HOW = (
    "Unpack cifar-10-binary.tar.gz (the 'binary version' at https://www.cs.toronto.edu/~kriz/cifar.html) there: it "
    "holds data_batch_1.bin … data_batch_5.bin and test_batch.bin in a folder cifar-10-batches-bin."
)


def load_cifar10(folder: str | os.PathLike, *, dtype: str = "float32") -> tuple[Split, Split]:
    """CIFAR-10 from its six binary files in ``folder`` or ``folder/cifar-10-batches-bin``.

    Returns ``(x_train, t_train), (x_test, t_test)``: images (50000, 32, 32, 3) and (10000, 32, 32, 3), float32 in
    [0, 1] or, with ``dtype="uint8"``, the bytes 0 … 255; labels int64, 0 … 9, named by ``CIFAR10_CLASSES``.

    If a file is missing, the ``FileNotFoundError`` lists it. Raises :class:`DataError` for a malformed file; sizes are
    checked before anything is allocated.

    >>> import dualnet as dn
    >>> dn.data.CIFAR10_CLASSES[3]
    'cat'
    """
    check_dtype(dtype, "load_cifar10")
    base = check_folder(folder, "CIFAR-10", HOW)
    found = {name: find(base, PLACES, (name,)) for name in (*TRAIN, *TEST)}
    missing = [name for name, path in found.items() if path is None]
    if missing:
        pickled = find(base, ("", "cifar-10-batches-py"), ("data_batch_1",))
        hint = " The Python version is there, but it is made of pickles, which are never read." if pickled else ""
        raise FileNotFoundError(f"CIFAR-10: not in {str(base)!r}: {', '.join(missing)}.{hint} {HOW}")
    files = {name: (path, _records(path)) for name, path in found.items() if path is not None}
    return _load([files[name] for name in TRAIN], dtype), _load([files[name] for name in TEST], dtype)


def _records(path: Path) -> int:
    """How many records a file of this size holds."""
    size = path.stat().st_size
    if size % RECORD or not size or size > MOST_RECORDS * RECORD:
        other = " Records of 3074 bytes are CIFAR-100's." if size and size % (RECORD + 1) == 0 else ""
        raise DataError(
            f"{path}: {size} bytes; expected a multiple of {RECORD}, the size of a record (30730000 in the original, "
            f"at most {MOST_RECORDS} records).{other} The file is damaged or not CIFAR-10: get it again."
        )
    return size // RECORD


def _load(files: list[tuple[Path, int]], dtype: str) -> Split:
    total = sum(records for _, records in files)
    x = numpy.empty((total, SIDE, SIDE, PLANES), dtype)
    t = numpy.empty(total, numpy.int64)
    start = 0
    for path, records in files:
        batch = numpy.fromfile(path, numpy.uint8, count=records * RECORD)
        if batch.size != records * RECORD:
            raise DataError(f"{path}: the file became shorter while it was read. Load it again.")
        batch = batch.reshape(records, RECORD)
        part = slice(start, start := start + records)
        t[part] = check_labels(batch[:, 0], path)
        planes = batch[:, 1:].reshape(records, PLANES, SIDE, SIDE)
        images = numpy.ascontiguousarray(planes.transpose(0, 2, 3, 1))  # (N, C, H, W) -> (N, H, W, C)
        scaled(images, dtype, out=x[part])
    return x, t
