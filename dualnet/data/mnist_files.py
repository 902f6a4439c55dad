"""MNIST and its relatives (Fashion-MNIST, KMNIST, EMNIST): four IDX files, or the single file that Keras uses."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy

from .archives import read_npz
from .idx import read_idx
from .reading import DataError, Split, check_dtype, check_folder, check_labels, find, scaled, sizes

__all__ = ["EMNIST_CLASSES", "FASHION_MNIST_CLASSES", "load_emnist", "load_mnist"]

FASHION_MNIST_CLASSES = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)
DIGITS = tuple("0123456789")
CAPITALS = tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
SMALL = tuple("abcdefghijklmnopqrstuvwxyz")
APART = tuple("abdefghnqrt")
"""The lower-case letters that EMNIST keeps apart from their capitals in the splits that merge the others."""
EMNIST_CLASSES = {
    "balanced": DIGITS + CAPITALS + APART,
    "byclass": DIGITS + CAPITALS + SMALL,
    "bymerge": DIGITS + CAPITALS + APART,
    "letters": SMALL,
    "digits": DIGITS,
    "mnist": DIGITS,
}
"""The classes of each of EMNIST's splits, in the order of the labels."""

KINDS = ("images-idx3-ubyte", "labels-idx1-ubyte")
PLACES = ("", "raw", "MNIST/raw")
KERAS = ("mnist.npz", ("x_train", "y_train", "x_test", "y_test"))
MNIST_HOW = (
    "Put the four files train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte and "
    "t10k-labels-idx1-ubyte there, gzipped (.gz) or not; https://ossci-datasets.s3.amazonaws.com/mnist/ has them."
)
EMNIST_HOW = (
    "Unpack gzip.zip of https://www.nist.gov/itl/products-and-services/emnist-dataset there; the files in it may stay "
    "gzipped."
)


def load_mnist(folder: str | os.PathLike, *, dtype: str = "float32") -> tuple[Split, Split]:
    """MNIST, or a data set of the same form (Fashion-MNIST, KMNIST), from its files in ``folder``.

    Returns ``(x_train, t_train), (x_test, t_test)``: images (60000, 28, 28, 1) and (10000, 28, 28, 1), float32 in
    [0, 1] or, with ``dtype="uint8"``, the bytes 0 … 255; labels int64, 0 … 9. ``FASHION_MNIST_CLASSES`` names those of
    Fashion-MNIST.

    The four IDX files may be gzipped or not, with ``-`` or ``.`` before ``idx`` in their names, in capitals, or with a
    browser's ``(1)``. They may be in ``folder/raw`` or ``folder/MNIST/raw``, where torchvision puts them. Keras'
    ``mnist.npz`` works too.

    If a file is missing, the ``FileNotFoundError`` lists the names that were tried. Raises :class:`DataError` for a
    malformed file.
    Source: LeCun, Bottou, Bengio and Haffner (1998).

    >>> import dualnet as dn, numpy, tempfile, pathlib
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> for part in ("train", "t10k"):  # two images instead of 70,000
    ...     dn.data.write_idx(folder / f"{part}-images-idx3-ubyte.gz", numpy.full((1, 28, 28), 51, "uint8"))
    ...     dn.data.write_idx(folder / f"{part}-labels-idx1-ubyte.gz", numpy.array([7], "uint8"))
    >>> (x_train, t_train), (x_test, t_test) = dn.data.load_mnist(folder)
    >>> x_train.shape, t_train, x_train[0, 0, 0]
    ((1, 28, 28, 1), array([7]), array([0.2], dtype=float32))
    """
    check_dtype(dtype, "load_mnist")
    base = check_folder(folder, "MNIST", MNIST_HOW)
    paths = found(base, PLACES, ("train", "t10k"))
    keras = find(base, PLACES, KERAS[:1]) if None in paths.values() else None
    splits = _from_keras(keras) if keras else _from_idx(base, paths, "MNIST", MNIST_HOW)
    return _finished(base, splits, dtype)


def load_emnist(folder: str | os.PathLike, split: str, *, dtype: str = "float32") -> tuple[Split, Split]:
    """One split of EMNIST, handwritten letters and digits, from its four IDX files in ``folder``.

    ``split`` is "balanced", "byclass", "bymerge", "letters", "digits" or "mnist". Returns what :func:`load_mnist` does;
    the labels count from 0, and ``EMNIST_CLASSES[split]`` names them. EMNIST's files store every image with rows and
    columns swapped, and number the ``letters`` from 1; both are corrected here.

    The files may be named and packed as in :func:`load_mnist`, and be in ``folder``, ``folder/gzip`` or
    ``folder/EMNIST/raw``. Raises the same errors as :func:`load_mnist`.
    Source: Cohen, Afshar, Tapson and van Schaik (2017).

    >>> import dualnet as dn, numpy, tempfile, pathlib
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> for part in ("train", "test"):
    ...     name = f"emnist-letters-{part}"
    ...     dn.data.write_idx(folder / f"{name}-images-idx3-ubyte", numpy.zeros((1, 28, 28), "uint8"))
    ...     dn.data.write_idx(folder / f"{name}-labels-idx1-ubyte", numpy.array([26], "uint8"))
    >>> (x_train, t_train), _ = dn.data.load_emnist(folder, "letters")
    >>> dn.data.EMNIST_CLASSES["letters"][t_train[0]]
    'z'
    """
    check_dtype(dtype, "load_emnist")
    if split not in EMNIST_CLASSES:
        raise ValueError(f"load_emnist: split is {split!r}; expected one of {', '.join(EMNIST_CLASSES)}")
    base = check_folder(folder, "EMNIST", EMNIST_HOW)
    parts = (f"emnist-{split}-train", f"emnist-{split}-test")
    first = 1 if split == "letters" else 0
    paths = found(base, ("", "gzip", "raw", "EMNIST/raw"), parts)
    splits = _from_idx(base, paths, "EMNIST", EMNIST_HOW, len(EMNIST_CLASSES[split]), first)
    turned = [(x.swapaxes(1, 2), t) for x, t in splits]  # the files swap rows and columns
    return _finished(base, turned, dtype)


def found(base: Path, places: Sequence[str], parts: Sequence[str]) -> dict[str, Path | None]:
    """The IDX files of a data set, training images first; None for a missing one. All are in the same folder."""
    missing: dict[str, Path | None] = {}
    for place in places:
        files = {f"{part}-{kind}": find(base, [place], _spellings(part, kind)) for part in parts for kind in KINDS}
        if None not in files.values():
            return files
        if not missing or sum(map(bool, files.values())) > sum(map(bool, missing.values())):
            missing = files
    return missing


def _spellings(part: str, kind: str) -> list[str]:
    names = [f"{part}-{kind}", f"{part}-{kind.replace('-idx', '.idx')}"]
    return [name + suffix for name in names for suffix in ("", ".gz")]


def _from_idx(
    base: Path, paths: dict[str, Path | None], data: str, how: str, classes: int = 10, first: int = 0
) -> list[Split]:
    missing = [" or ".join(_spellings(*_part_and_kind(name))) for name, path in paths.items() if path is None]
    if missing:
        raise FileNotFoundError(f"{data}: not in {str(base)!r}: {'; '.join(missing)}. {how}")
    images, labels, test_images, test_labels = [path for path in paths.values() if path is not None]
    return [_pair(images, labels, classes, first), _pair(test_images, test_labels, classes, first)]


def _part_and_kind(name: str) -> tuple[str, str]:
    kind = next(kind for kind in KINDS if name.endswith(kind))
    return name.removesuffix(f"-{kind}"), kind


def _pair(images: Path, labels: Path, classes: int, first: int) -> Split:
    return _checked(read_idx(images), read_idx(labels), images, labels, classes, first)


def _from_keras(path: Path) -> list[Split]:
    x, t, x_test, t_test = read_npz(path, KERAS[1])
    return [_checked(x, t, path, path), _checked(x_test, t_test, path, path)]


def _checked(
    x: numpy.ndarray, t: numpy.ndarray, images: Path, labels: Path, classes: int = 10, first: int = 0
) -> Split:
    for array, path, what, axes in ((x, images, "images (N, H, W)", 3), (t, labels, "labels (N,)", 1)):
        if array.ndim != axes or array.dtype != numpy.uint8 or not array.size:
            raise DataError(
                f"{path}: holds {array.dtype} of shape {array.shape}; expected {what} as uint8. Is it the right file?"
            )
    if len(x) != len(t):
        raise DataError(
            f"{labels}: {len(t)} labels for the {len(x)} images of {images.name}; expected equally many. "
            "The files belong to different data sets."
        )
    return x[..., None], check_labels(t, labels, classes, first=first)


def _finished(base: Path, splits: Sequence[Split], dtype: str) -> tuple[Split, Split]:
    (x, t), (x_test, t_test) = splits
    if x.shape[1:] != x_test.shape[1:]:
        raise DataError(
            f"{base}: training images are {sizes(x.shape[1:3])}, test images {sizes(x_test.shape[1:3])}; expected one "
            "size. The files belong to different data sets."
        )
    return (scaled(x, dtype), t), (scaled(x_test, dtype), t_test)
