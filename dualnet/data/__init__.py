"""Data sets as host arrays: ``(x_train, t_train), (x_test, t_test)``, ready for ``net.fit``.

Images are (N, H, W, C), float32 in [0, 1] or the file's own bytes with ``dtype="uint8"``; labels are int64.
``load_mnist(folder)`` and the like read files; ``mnist()`` and the like find them, and download what is missing. A
damaged or wrong file raises :class:`DataError`.
"""

from .augment import Augment
from .cifar import CIFAR10_CLASSES, CIFAR100_CLASSES, load_cifar10, load_cifar100
from .composing import Augmentation, augmentation
from .digits import load_digits
from .folder import load_folder
from .idx import read_idx, write_idx
from .images import read_image
from .inputs import InputSpec, prepare
from .mixing import CutMix, MixUp
from .mnist_files import EMNIST_CLASSES, FASHION_MNIST_CLASSES, load_emnist, load_mnist
from .reading import DataError
from .sources import cifar10, cifar100, fashion_mnist, kmnist, mnist
from .transforms import Brightness, Contrast, CutOut, Flip, Normalise, RandomCrop, RandomResizedCrop, Rotate, Transform

__all__ = [
    "Augment",
    "Augmentation",
    "Brightness",
    "CIFAR100_CLASSES",
    "CIFAR10_CLASSES",
    "Contrast",
    "CutMix",
    "CutOut",
    "DataError",
    "EMNIST_CLASSES",
    "FASHION_MNIST_CLASSES",
    "Flip",
    "InputSpec",
    "MixUp",
    "Normalise",
    "RandomCrop",
    "RandomResizedCrop",
    "Rotate",
    "Transform",
    "augmentation",
    "cifar10",
    "cifar100",
    "fashion_mnist",
    "kmnist",
    "load_cifar10",
    "load_cifar100",
    "load_digits",
    "load_emnist",
    "load_folder",
    "load_mnist",
    "mnist",
    "prepare",
    "read_idx",
    "read_image",
    "write_idx",
]
