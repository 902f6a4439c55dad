"""Data sets as host arrays: ``(x_train, t_train), (x_test, t_test)``, ready for ``net.fit``.

Images are (N, H, W, C), float32 in [0, 1] or the file's own bytes with ``dtype="uint8"``; labels are int64. Nothing is
downloaded: for a missing file, ``FileNotFoundError`` says where to get it and where to put it. A damaged file, or the
wrong one, raises :class:`DataError`.
"""

from .augment import Augment
from .cifar import CIFAR10_CLASSES, load_cifar10
from .digits import load_digits
from .folder import load_folder
from .idx import load_mnist, read_idx, write_idx
from .images import read_image
from .reading import DataError

__all__ = [
    "Augment",
    "CIFAR10_CLASSES",
    "DataError",
    "load_cifar10",
    "load_digits",
    "load_folder",
    "load_mnist",
    "read_idx",
    "read_image",
    "write_idx",
]
