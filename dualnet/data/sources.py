"""Data sets by name: found where people usually put them, or else downloaded, checked and stored.

They may be in the folder that ``DUALNET_DATA`` names, in dualnet's own folder ``~/.cache/dualnet``, in
``~/.keras/datasets``, or in ``data`` of the current folder, as with torchvision. Downloads go to the first of these
(without ``DUALNET_DATA``, to the second). ``DUALNET_OFFLINE=1`` forbids downloads.

Every file has a known SHA-256, the one in TensorFlow Datasets' public lists of checksums
(``tensorflow_datasets/url_checksums``). A download that differs is thrown away, so it does not matter that some mirrors
speak plain http.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..terminal import say
from . import cifar
from .mnist_files import KERAS, MNIST_HOW, found, load_mnist
from .reading import Split, check_dtype, find

__all__ = ["cifar10", "cifar100", "fashion_mnist", "kmnist", "mnist"]

SECONDS = 30.0
"""How long a server may be silent."""
ATTEMPTS = 2
"""How many times the mirrors are tried, one after another."""


@dataclass(frozen=True)
class File:
    """One file of a data set: its name, its size in bytes and its SHA-256."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Source:
    """A data set: its name, the folders where it may be, and the addresses of its files.

    places      folders inside a folder of data sets; downloads go to the first
    holds       ``holds(folder)`` says whether the complete data set is there
    load        ``load(folder, dtype=...)``
    mirrors     addresses to which a file's name is added, in the order in which they are tried
    """

    title: str
    places: tuple[str, ...]
    holds: Callable[[Path], bool]
    load: Callable[..., tuple[Split, Split]]
    mirrors: tuple[str, ...]
    files: tuple[File, ...]
    how: str


def _idx(folder: Path) -> bool:
    return None not in found(folder, ("",), ("train", "t10k")).values()


def _keras_alone(folder: Path) -> bool:
    """In a folder with many data sets, the four files have ambiguous names: they may belong to MNIST's relatives."""
    return not _idx(folder) and find(folder, ("",), KERAS[:1]) is not None


def _idx_or_keras(folder: Path) -> bool:
    return _idx(folder) or find(folder, ("",), KERAS[:1]) is not None


def _four(sizes: tuple[int, int, int, int], *sums: str) -> tuple[File, ...]:
    parts = [f"{part}-{kind}-ubyte.gz" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]
    return tuple(File(*each) for each in zip(parts, sizes, sums, strict=True))


SOURCES = {
    "mnist": Source(
        *("MNIST", ("mnist", "MNIST/raw", ""), _idx_or_keras, load_mnist),
        ("https://storage.googleapis.com/cvdf-datasets/mnist/", "https://ossci-datasets.s3.amazonaws.com/mnist/"),
        _four(
            (9912422, 28881, 1648877, 4542),
            "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
            "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
            "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
            "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
        ),
        MNIST_HOW,
    ),
    "fashion_mnist": Source(
        *("Fashion-MNIST", ("fashion_mnist", "fashion-mnist", "FashionMNIST/raw"), _idx, load_mnist),
        (
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
            "https://storage.googleapis.com/tensorflow/tf-keras-datasets/",
        ),
        _four(
            (26421880, 29515, 4422102, 5148),
            "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
            "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
            "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
            "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
        ),
        "Put its four files there, as https://github.com/zalandoresearch/fashion-mnist offers them.",
    ),
    "kmnist": Source(
        *("KMNIST", ("kmnist", "KMNIST/raw"), _idx, load_mnist),
        ("http://codh.rois.ac.jp/kmnist/dataset/kmnist/",),
        _four(
            (18165135, 29497, 3041136, 5120),
            "51467d22d8cc72929e2a028a0428f2086b092bb31cfb79c69cc0a90ce135fde4",
            "e38f9ebcd0f3ebcdec7fc8eabdcdaef93bb0df8ea12bee65224341c8183d8e17",
            "edd7a857845ad6bb1d0ba43fe7e794d164fe2dce499a1694695a792adfac43c5",
            "20bb9a0ef54c7db3efc55a92eef5582c109615df22683c380526788f98e42a1c",
        ),
        "Put its four files there, as https://github.com/rois-codh/kmnist offers them.",
    ),
    "cifar10": Source(
        *("CIFAR-10", ("cifar10", ""), lambda folder: cifar.holds(cifar.CIFAR10, folder), cifar.load_cifar10),
        ("https://www.cs.toronto.edu/~kriz/",),
        (
            File(
                *("cifar-10-binary.tar.gz", 170052171),
                "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
            ),
        ),
        cifar.CIFAR10.how,
    ),
    "cifar100": Source(
        *("CIFAR-100", ("cifar100", ""), lambda folder: cifar.holds(cifar.CIFAR100, folder), cifar.load_cifar100),
        ("https://www.cs.toronto.edu/~kriz/",),
        (
            File(
                *("cifar-100-binary.tar.gz", 168513733),
                "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
            ),
        ),
        cifar.CIFAR100.how,
    ),
}
"""The data sets that have a name."""


def mnist(*, dtype: str = "float32") -> tuple[Split, Split]:
    """MNIST, from the files on this machine, or downloaded (11 MB) if there are none.

    Returns what :func:`load_mnist` does: ``(x_train, t_train), (x_test, t_test)``.

    The files may be in the folder that ``DUALNET_DATA`` names, in ``~/.cache/dualnet``, in ``~/.keras/datasets`` or in
    ``./data``, in the subfolders that dualnet, Keras and torchvision create there. Downloads are compared with their
    known SHA-256 before they get their name, and go to the folder that ``DUALNET_DATA`` names, or ``~/.cache/dualnet``.

    Downloading needs ``pip install "dualnet[data]"`` (or raises ``ImportError``); with ``DUALNET_OFFLINE=1`` it is
    forbidden (``FileNotFoundError``). If all mirrors fail, a ``ConnectionError`` says why, and where to put the files.

    >>> import dualnet as dn
    >>> (x, t), test = dn.data.mnist()  # doctest: +SKIP
    """
    return _loaded("mnist", dtype)


def fashion_mnist(*, dtype: str = "float32") -> tuple[Split, Split]:
    """Fashion-MNIST, found or downloaded (31 MB) like :func:`mnist`; ``FASHION_MNIST_CLASSES`` names the labels.

    >>> import dualnet as dn
    >>> (x, t), test = dn.data.fashion_mnist()  # doctest: +SKIP
    """
    return _loaded("fashion_mnist", dtype)


def kmnist(*, dtype: str = "float32") -> tuple[Split, Split]:
    """Kuzushiji-MNIST, ten Japanese characters, found or downloaded (21 MB) like :func:`mnist`.

    >>> import dualnet as dn
    >>> (x, t), test = dn.data.kmnist()  # doctest: +SKIP
    """
    return _loaded("kmnist", dtype)


def cifar10(*, dtype: str = "float32") -> tuple[Split, Split]:
    """CIFAR-10, found or downloaded (170 MB) like :func:`mnist`. Returns what :func:`load_cifar10` does.

    >>> import dualnet as dn
    >>> (x, t), test = dn.data.cifar10()  # doctest: +SKIP
    """
    return _loaded("cifar10", dtype)


def cifar100(*, dtype: str = "float32") -> tuple[Split, Split]:
    """CIFAR-100, found or downloaded (169 MB) like :func:`mnist`. Returns what :func:`load_cifar100` does.

    >>> import dualnet as dn
    >>> (x, t), test = dn.data.cifar100()  # doctest: +SKIP
    """
    return _loaded("cifar100", dtype)


# -- finding -----------------------------------------------------------------------------------------------------------


def _loaded(name: str, dtype: str) -> tuple[Split, Split]:
    check_dtype(dtype, name)
    return SOURCES[name].load(placed(name), dtype=dtype)


def placed(name: str) -> Path:
    """The folder that holds this data set; if there is none, the data set is downloaded."""
    source = SOURCES[name]
    folder = _found(source)
    if folder is None:
        folder = roots()[0] / source.places[0]
        _download(name, source, folder)
    return folder


def roots() -> list[Path]:
    """The folders in which to look for data sets; downloads go to the first."""
    named = os.environ.get("DUALNET_DATA")
    home = Path(os.path.expanduser("~"))  # raises no error if there is no home folder
    usual = [home / ".cache" / "dualnet", home / ".keras" / "datasets", Path("data")]
    return [Path(named).expanduser(), *usual] if named else usual


def _found(source: Source) -> Path | None:
    """The first folder that holds the complete data set."""
    for root in roots():
        for place in source.places:
            holds = source.holds if place or source.holds is not _idx_or_keras else _keras_alone
            if (root / place).is_dir() and holds(root / place):
                return root / place
    return None


# -- downloading -------------------------------------------------------------------------------------------------------


def _download(name: str, source: Source, folder: Path) -> None:
    by_hand = f"To do it by hand, create the folder {str(folder)!r}. {source.how}"
    if os.environ.get("DUALNET_OFFLINE", "") not in ("", "0"):
        raise FileNotFoundError(
            f"{name}: {source.title} is in none of {', '.join(map(str, roots()))}, and DUALNET_OFFLINE forbids "
            f"downloading it. {by_hand}"
        )
    try:
        import pooch
    except ImportError as error:
        raise ImportError(
            f'{name}: downloading {source.title} needs pooch; pip install "dualnet[data]". {by_hand}'
        ) from error
    folder.mkdir(parents=True, exist_ok=True)
    for file in source.files:
        if not (folder / file.name).is_file():
            _fetch(pooch, name, source, file, folder, by_hand)


def _fetch(pooch: Any, name: str, source: Source, file: File, folder: Path, by_hand: str) -> None:
    """Download one file from the first mirror that has the right one. Until it is checked, it has a temporary name."""
    failures: list[str] = []
    say(f"{name}: downloading {file.name} ({file.size / 1e6:.1f} MB) to {folder}", "stderr")
    logger = pooch.get_logger()
    level = logger.level
    logger.setLevel("ERROR")  # it would print each step to stderr
    try:
        for _ in range(ATTEMPTS):
            for mirror in source.mirrors:
                try:
                    known, reader = f"sha256:{file.sha256}", _reader(pooch, file)
                    pooch.retrieve(mirror + file.name, known, file.name, folder, downloader=reader)
                    return
                except (OSError, ValueError) as error:  # OSError from requests; ValueError for a wrong checksum
                    failures.append(f"{mirror}: {_in_short(error)}")
    finally:
        logger.setLevel(level)
    why = "; ".join(dict.fromkeys(failures))
    raise ConnectionError(f"{name}: {file.name} could not be downloaded ({why}). Try again later. {by_hand}")


def _reader(pooch: Any, file: File) -> Any:
    """Reads an address. Without ``identity`` a server might unpack the file, and its checksum would be wrong."""
    headers = {"Accept-Encoding": "identity"}
    return pooch.HTTPDownloader(timeout=SECONDS, chunk_size=2**16, progressbar=_Bound(file.size), headers=headers)


def _in_short(error: Exception) -> str:
    text = " ".join(str(error).split())
    if "does not match the known hash" in text:
        return "it sent a file with the wrong SHA-256"
    if refused := re.search(r"Max retries exceeded .*\(Caused by (\w+)", text):
        return f"no connection ({refused[1]})"
    return f"{type(error).__name__}, {text[:160]}"


class _Bound:
    """Pooch reports each chunk to it; it ends a download that grows beyond the file's size."""

    total = 0  # pooch sets it

    def __init__(self, size: int) -> None:
        self.size, self.seen = size, 0

    def update(self, chunk: int) -> None:
        """One more chunk: all but the last have this size, so the sum may be a chunk too large."""
        self.seen += chunk
        if self.seen - chunk > self.size:
            raise ValueError(f"it sends more than the {self.size} bytes of the file")

    def reset(self) -> None:
        """The end: pooch then counts the total again."""
        self.seen = -self.total

    def close(self) -> None:
        """Nothing to close."""
