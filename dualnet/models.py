"""Networks with a name, ready for ``init``: the shapes are those of their sources, the size of the input is free."""

from __future__ import annotations

from collections.abc import Callable

from .arguments import integer
from .files.network import built_in
from .geometry import elements, height_and_width
from .layers import (
    BatchNorm,
    Conv2D,
    Dense,
    Dropout,
    Flatten,
    GlobalAveragePool2D,
    MaxPool2D,
    ReLU,
    Residual,
    Sequential,
)
from .layers.layer import Layer, Shape
from .ops.pullback import Pullback
from .shim import Array, namespace
from .shim.memory import check_memory

__all__ = ["INPUT_SHAPES", "NAMES", "PaddedShortcut", "digits_cnn", "get"]
__all__ += ["lenet5", "resnet18", "resnet20", "vgg16", "vgg6"]


def lenet5(classes: int = 10) -> Sequential:
    """LeNet-5 for images (28, 28, 1): 61,706 parameters.

    Two convolutions of 5 × 5 with pooling (28 → 14 → 10 → 5), then dense layers of 120, 84 and ``classes`` units. The
    original has scaled tanh, trained average pooling, sparse connections and radial outputs; this is the form in use
    today, with ReLU and max pooling.

    Source: LeCun, Bottou, Bengio and Haffner (1998), "Gradient-based learning applied to document recognition".

    >>> import dualnet as dn
    >>> net = dn.models.lenet5()
    >>> net.output_shape((28, 28, 1)), net.summary((28, 28, 1)).parameters
    ((10,), 61706)
    """
    return Sequential(
        [
            *(Conv2D(6, 5, padding=2), ReLU(), MaxPool2D(2)),
            *(Conv2D(16, 5), ReLU(), MaxPool2D(2)),
            Flatten(),
            *(Dense(120), ReLU()),
            *(Dense(84), ReLU()),
            Dense(_classes(classes, "lenet5")),
        ]
    )


def digits_cnn(classes: int = 10) -> Sequential:
    """A small network for the 8 × 8 maps of :func:`dualnet.data.load_digits`: 94,314 parameters.

    >>> import dualnet as dn
    >>> net = dn.models.digits_cnn()
    >>> net.output_shape((8, 8, 1)), net.summary((8, 8, 1)).parameters
    ((10,), 94314)
    """
    return Sequential(
        [
            *_convolution(32),
            *_convolution(32),
            MaxPool2D(2),
            *_convolution(64),
            Flatten(),
            *(Dense(64), ReLU()),
            Dense(_classes(classes, "digits_cnn")),
        ]
    )


def vgg6(classes: int = 10) -> Sequential:
    """Six convolutions in the manner of VGG, for images (32, 32, 3): 814,122 parameters.

    Pairs of 3 × 3 convolutions with 32, 64 and 128 filters, each pair followed by pooling, then dense layers of 256 and
    ``classes`` units.

    Source: the manner is Simonyan and Zisserman's (2015); the size is a common choice for CIFAR-10.

    >>> import dualnet as dn
    >>> net = dn.models.vgg6()
    >>> net.output_shape((32, 32, 3)), net.summary((32, 32, 3)).parameters
    ((10,), 814122)
    """
    return Sequential(
        [
            *_stage(32, 2),
            *_stage(64, 2),
            *_stage(128, 2),
            Flatten(),
            *(Dense(256), ReLU()),
            Dense(_classes(classes, "vgg6")),
        ]
    )


def vgg16(classes: int = 10, *, batch_norm: bool = True, hidden: int = 512, dropout: float = 0.5) -> Sequential:
    """VGG-16 (configuration D) for images (32, 32, 3): 15,249,354 parameters, 15,245,130 without batch norm.

    Thirteen convolutions of 3 × 3 in five stages, then dense layers of ``hidden``, ``hidden`` and ``classes`` units
    with dropout between them. With ``batch_norm`` the convolutions have no bias, which the norm would take away again.
    ``vgg16(1000, batch_norm=False, hidden=4096)`` on (224, 224, 3) is the original, with 138,357,544.

    Source: Simonyan and Zisserman (2015), "Very deep convolutional networks for large-scale image recognition"; batch
    norm and 512 hidden units for CIFAR after Liu and Deng (2015).

    >>> import dualnet as dn
    >>> net = dn.models.vgg16()
    >>> net.output_shape((32, 32, 3)), net.summary((32, 32, 3)).parameters
    ((10,), 15249354)
    """
    stages = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
    return Sequential(
        [
            *(layer for filters, times in stages for layer in _stage(filters, times, batch_norm)),
            Flatten(),
            *(Dense(hidden), ReLU(), Dropout(dropout)),
            *(Dense(hidden), ReLU(), Dropout(dropout)),
            Dense(_classes(classes, "vgg16")),
        ]
    )


def resnet20(classes: int = 10, *, shortcut: str = "identity") -> Sequential:
    """ResNet-20 for images (32, 32, 3): 269,722 parameters; 272,474 with ``shortcut="projection"``.

    Three stages of three residual blocks with 16, 32 and 64 filters; the second and third halve the map. Where a block
    changes the shape, its shortcut is the input with every other row and column left out and channels of zeros added
    (``"identity"``, the source's option A), or a 1 × 1 convolution with batch norm (``"projection"``, option B).

    Source: He, Zhang, Ren and Sun (2016), "Deep residual learning for image recognition", section 4.2.

    >>> import dualnet as dn
    >>> net = dn.models.resnet20()
    >>> net.output_shape((32, 32, 3)), net.summary((32, 32, 3)).parameters
    ((10,), 269722)
    """
    return _resnet((16, 32, 64), 3, _classes(classes, "resnet20"), _shortcut_kind(shortcut, "resnet20"))


def resnet18(classes: int = 10, *, shortcut: str = "projection") -> Sequential:
    """ResNet-18 for images (32, 32, 3): 11,173,962 parameters.

    Four stages of two residual blocks with 64, 128, 256 and 512 filters. For small images it starts with a convolution
    of 3 × 3 and without pooling, where the original, for 224 × 224, has 7 × 7, stride 2 and a max pooling.

    Source: He, Zhang, Ren and Sun (2016), table 1. ``shortcut`` as in :func:`resnet20`.

    >>> import dualnet as dn
    >>> net = dn.models.resnet18()
    >>> net.output_shape((32, 32, 3)), net.summary((32, 32, 3)).parameters
    ((10,), 11173962)
    """
    return _resnet((64, 128, 256, 512), 2, _classes(classes, "resnet18"), _shortcut_kind(shortcut, "resnet18"))


NAMES: dict[str, Callable[..., Sequential]] = {
    f.__name__: f for f in (digits_cnn, lenet5, vgg6, vgg16, resnet20, resnet18)
}
"""Every model by its name."""

INPUT_SHAPES: dict[str, Shape] = {
    "digits_cnn": (8, 8, 1),
    "lenet5": (28, 28, 1),
    "vgg6": (32, 32, 3),
    "vgg16": (32, 32, 3),
    "resnet20": (32, 32, 3),
    "resnet18": (32, 32, 3),
}
"""The shape of one image that each model was made for."""


def get(name: str) -> Callable[..., Sequential]:
    """The function that makes the model of this name; ``ValueError`` lists the names.

    >>> import dualnet as dn
    >>> len(dn.models.get("lenet5")(classes=3))
    12
    """
    if not isinstance(name, str) or name not in NAMES:
        raise ValueError(f"unknown model {name!r}; the models are {', '.join(NAMES)}")
    return NAMES[name]


@built_in
class PaddedShortcut(Layer):
    """The shortcut without weights: every ``stride``-th row and column, and channels of zeros up to ``filters``.

    (H, W, C) -> (⌈H / stride⌉, ⌈W / stride⌉, filters); the zeros stand behind the C channels. It is linear, and its
    pullback puts each delta back to where its unit came from.

    Source: He et al. (2016), section 3.3, option A.

    >>> import dualnet as dn
    >>> dn.models.PaddedShortcut(32, stride=2).output_shape((32, 32, 16))
    (16, 16, 32)
    """

    def __init__(self, filters: int, stride: int = 1) -> None:
        self.filters = integer(filters, "filters", op="PaddedShortcut")
        self.stride = integer(stride, "stride", op="PaddedShortcut")

    def output_shape(self, input_shape: Shape) -> Shape:
        H, W = height_and_width(input_shape, "PaddedShortcut")
        if input_shape[2] > self.filters:
            raise ValueError(
                f"PaddedShortcut: {input_shape[2]} channels do not fit in filters={self.filters}; it only adds some. "
                "Use Conv2D(filters, 1) to have fewer."
            )
        return -(-H // self.stride), -(-W // self.stride), self.filters

    def forward(self, x: Array, train: bool = False) -> tuple[Array, Pullback]:
        xp = namespace("PaddedShortcut", x=x)
        s, C, shape, dtype = self.stride, x.shape[3], x.shape, x.dtype
        output = (shape[0], *self.output_shape(shape[1:]))  # (N, H', W', filters)
        check_memory("PaddedShortcut", x, elements(output) * x.itemsize, "the output", "Use fewer filters.")
        y = xp.zeros(output, dtype=dtype)
        y[..., :C] = x[:, ::s, ::s, :]  # (N, H, W, C) -> (N, H', W', C)

        def pullback(dy: Array) -> tuple[Array, dict[str, Array]]:
            dx = xp.zeros(shape, dtype=dtype)
            dx[:, ::s, ::s, :] = dy[..., :C]
            return dx, {}

        return y, Pullback("PaddedShortcut", pullback, y)


def _convolution(filters: int, batch_norm: bool = False, stride: int = 1) -> list[Layer]:
    norm = [BatchNorm()] if batch_norm else []
    return [Conv2D(filters, 3, stride=stride, padding=1, use_bias=not batch_norm), *norm, ReLU()]


def _stage(filters: int, times: int, batch_norm: bool = False) -> list[Layer]:
    """So many convolutions, then a pooling that halves the map."""
    return [*(layer for _ in range(times) for layer in _convolution(filters, batch_norm)), MaxPool2D(2)]


def _resnet(widths: tuple[int, ...], blocks: int, classes: int, shortcut: str) -> Sequential:
    layers, before = _convolution(widths[0], batch_norm=True), widths[0]
    for stage, filters in enumerate(widths):
        for block in range(blocks):
            stride = 2 if stage and not block else 1
            layers += [_residual(filters, stride, shortcut if filters != before else ""), ReLU()]
            before = filters
    return Sequential([*layers, GlobalAveragePool2D(), Dense(classes)])


def _residual(filters: int, stride: int, shortcut: str) -> Residual:
    second = [Conv2D(filters, 3, padding=1, use_bias=False), BatchNorm()]
    body = Sequential([*_convolution(filters, batch_norm=True, stride=stride), *second])
    if not shortcut:
        return Residual(body)
    if shortcut == "identity":
        return Residual(body, shortcut=PaddedShortcut(filters, stride))
    return Residual(body, shortcut=Sequential([Conv2D(filters, 1, stride=stride, use_bias=False), BatchNorm()]))


def _shortcut_kind(shortcut: str, owner: str) -> str:
    if shortcut not in ("identity", "projection"):
        raise ValueError(f"{owner}: shortcut is 'identity' or 'projection', got {shortcut!r}")
    return shortcut


def _classes(classes: int, owner: str) -> int:
    return integer(classes, "classes", op=owner)
