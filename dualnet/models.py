"""Well-known networks, ready for ``init``: layers as in their sources, for inputs of any size."""

from __future__ import annotations

from collections.abc import Callable

from .arguments import integer, positive
from .files.network import built_in
from .geometry import elements, height_and_width
from .layers import (
    BatchNorm,
    Conv2D,
    Conv2DTranspose,
    Dense,
    DepthwiseConv2D,
    Dropout,
    Flatten,
    GlobalAveragePool2D,
    Identity,
    MaxPool2D,
    Parallel,
    ReLU,
    Residual,
    Sequential,
)
from .layers.layer import Layer, Shape
from .layers.piecewise import ReLU6
from .ops.pullback import Pullback
from .shim import Array, namespace
from .shim.memory import check_memory

__all__ = ["INPUT_SHAPES", "NAMES", "PaddedShortcut", "digits_cnn", "get"]
__all__ += ["lenet5", "mobilenetv2", "resnet18", "resnet20", "resnet34", "resnet50", "unet", "vgg16", "vgg6"]


def lenet5(classes: int = 10) -> Sequential:
    """LeNet-5 for images (28, 28, 1): 61,706 parameters.

    Two 5 × 5 convolutions with pooling (28 → 14 → 10 → 5), then dense layers of 120, 84 and ``classes`` units. The
    original has scaled tanh, trained average pooling, sparse connections and radial outputs; this is the form used
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
    """Six convolutions in the style of VGG, for images (32, 32, 3): 814,122 parameters.

    Pairs of 3 × 3 convolutions with 32, 64 and 128 filters, each pair followed by pooling, then dense layers of 256 and
    ``classes`` units.

    Source: the style is that of Simonyan and Zisserman (2015); the size is a common choice for CIFAR-10.

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

    Thirteen 3 × 3 convolutions in five stages, then dense layers of ``hidden``, ``hidden`` and ``classes`` units
    with dropout between them. With ``batch_norm`` the convolutions have no bias, because the norm would cancel it.
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

    Three stages of three residual blocks with 16, 32 and 64 filters; the second and third halve the map. If a block
    changes the shape, its shortcut is the input without every other row and column, and with channels of zeros added
    (``"identity"``, the source's option A), or a 1 × 1 convolution with batch norm (``"projection"``, option B).

    Source: He, Zhang, Ren and Sun (2016), "Deep residual learning for image recognition", section 4.2.

    >>> import dualnet as dn
    >>> net = dn.models.resnet20()
    >>> net.output_shape((32, 32, 3)), net.summary((32, 32, 3)).parameters
    ((10,), 269722)
    """
    return _resnet((16, 32, 64), 3, _classes(classes, "resnet20"), _shortcut_kind(shortcut, "resnet20"))


def resnet18(classes: int = 10, *, shortcut: str = "projection", stem: int = 3) -> Sequential:
    """ResNet-18 for images (32, 32, 3): 11,173,962 parameters.

    Four stages of two residual blocks with 64, 128, 256 and 512 filters. With ``stem=3``, for small images, it starts
    with a 3 × 3 convolution; with ``stem=7``, like the original for (224, 224, 3), with 7 × 7, stride 2 and max
    pooling. ``resnet18(1000, stem=7)`` has 11,689,512 parameters.

    Source: He, Zhang, Ren and Sun (2016), table 1. ``shortcut`` as in :func:`resnet20`.

    >>> import dualnet as dn
    >>> net = dn.models.resnet18()
    >>> net.output_shape((32, 32, 3)), net.summary((32, 32, 3)).parameters
    ((10,), 11173962)
    """
    shortcut = _shortcut_kind(shortcut, "resnet18")
    return _resnet((64, 128, 256, 512), 2, _classes(classes, "resnet18"), shortcut, _stem(stem, "resnet18"))


def resnet34(classes: int = 1000, *, shortcut: str = "projection", stem: int = 7) -> Sequential:
    """ResNet-34 for images (224, 224, 3): 21,797,672 parameters.

    Four stages of 3, 4, 6 and 3 residual blocks with 64, 128, 256 and 512 filters. ``stem=3`` is for small images, see
    :func:`resnet18`, and ``shortcut`` as in :func:`resnet20`.

    Source: He, Zhang, Ren and Sun (2016), table 1.

    >>> import dualnet as dn
    >>> net = dn.models.resnet34()
    >>> net.output_shape((224, 224, 3)), net.summary((224, 224, 3)).parameters
    ((1000,), 21797672)
    """
    shortcut = _shortcut_kind(shortcut, "resnet34")
    return _resnet((64, 128, 256, 512), (3, 4, 6, 3), _classes(classes, "resnet34"), shortcut, _stem(stem, "resnet34"))


def resnet50(classes: int = 1000, *, stem: int = 7) -> Sequential:
    """ResNet-50 for images (224, 224, 3): 25,557,032 parameters.

    Four stages of 3, 4, 6 and 3 bottlenecks: 1 × 1 down to 64, 128, 256 or 512 filters, 3 × 3, and 1 × 1 up to four
    times as many. The 3 × 3 convolution has the stride, as in today's weights ("v1.5"); in the paper the first 1 × 1
    has it. ``stem=3`` is for small images, see :func:`resnet18`.

    Source: He, Zhang, Ren and Sun (2016), table 1 and figure 5.

    >>> import dualnet as dn
    >>> net = dn.models.resnet50()
    >>> net.output_shape((224, 224, 3)), net.summary((224, 224, 3)).parameters
    ((1000,), 25557032)
    """
    return _resnet(
        (64, 128, 256, 512),
        (3, 4, 6, 3),
        _classes(classes, "resnet50"),
        "projection",
        _stem(stem, "resnet50"),
        bottleneck=4,
    )


def mobilenetv2(classes: int = 1000, *, width: float = 1.0, dropout: float = 0.2) -> Sequential:
    """MobileNetV2 for images (224, 224, 3): 3,504,872 parameters.

    Seventeen inverted residual blocks: a 1 × 1 convolution to six times the channels, a depthwise 3 × 3, and a 1 × 1
    back down without an activation; if input and output have the same shape, the input is added. The activation is
    :class:`dualnet.ReLU6`. ``width`` scales the channels, rounded to multiples of 8.

    Source: Sandler, Howard, Zhu, Zhmoginov and Chen (2018), "MobileNetV2: inverted residuals and linear bottlenecks".

    >>> import dualnet as dn
    >>> net = dn.models.mobilenetv2()
    >>> net.output_shape((224, 224, 3)), net.summary((224, 224, 3)).parameters
    ((1000,), 3504872)
    """
    classes, width = _classes(classes, "mobilenetv2"), positive(width, "width", op="mobilenetv2")
    before = _of_eight(32 * width)
    layers = _clipped(Conv2D(before, 3, stride=2, padding=1, use_bias=False))
    for expand, channels, times, stride in MOBILENET:
        for block in range(times):
            filters = _of_eight(channels * width)
            layers.append(_inverted(before, filters, expand, stride if not block else 1))
            before = filters
    layers += _clipped(Conv2D(_of_eight(1280 * max(1.0, width)), 1, use_bias=False))
    return Sequential([*layers, GlobalAveragePool2D(), Dropout(dropout), Dense(classes)])


def unet(classes: int = 2, *, filters: int = 64, depth: int = 4) -> Sequential:
    """U-Net, which gives every pixel a class: (H, W, C) -> (H, W, classes) logits; 31,030,658 parameters for (H, W, 1).

    On the way down there are ``depth`` levels, each with two 3 × 3 convolutions and a pooling that halves the map; the
    filters double each time. On the way up a transposed 2 × 2 convolution doubles the map, the map of the same level is
    concatenated to it (:class:`dualnet.Parallel` with an :class:`dualnet.Identity`), and two convolutions take both. H
    and W must be multiples of 2 to the power of ``depth``: here the convolutions keep the size of the map, while those
    of the source lose its border. The number of parameters is the same.

    Source: Ronneberger, Fischer and Brox (2015), "U-Net: convolutional networks for biomedical image segmentation".

    >>> import dualnet as dn
    >>> net = dn.models.unet()
    >>> net.output_shape((256, 256, 1)), net.summary((256, 256, 1)).parameters
    ((256, 256, 2), 31030658)
    """
    filters, depth = integer(filters, "filters", op="unet"), integer(depth, "depth", op="unet")
    return Sequential([*_unet(filters, depth), Conv2D(_classes(classes, "unet"), 1)])


NAMES: dict[str, Callable[..., Sequential]] = {
    f.__name__: f for f in (digits_cnn, lenet5, vgg6, vgg16, resnet20, resnet18, resnet34, resnet50, mobilenetv2, unet)
}
"""Every model by its name."""

INPUT_SHAPES: dict[str, Shape] = {
    "digits_cnn": (8, 8, 1),
    "lenet5": (28, 28, 1),
    "vgg6": (32, 32, 3),
    "vgg16": (32, 32, 3),
    "resnet20": (32, 32, 3),
    "resnet18": (32, 32, 3),
    "resnet34": (224, 224, 3),
    "resnet50": (224, 224, 3),
    "mobilenetv2": (224, 224, 3),
    "unet": (256, 256, 1),
}
"""The shape of the images for which each model was designed."""


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

    (H, W, C) -> (⌈H / stride⌉, ⌈W / stride⌉, filters); the zeros come after the C channels. It is linear, and its
    pullback sends each delta back to the unit that it came from.

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
                f"PaddedShortcut: {input_shape[2]} channels do not fit in filters={self.filters}; it can only add "
                "channels. To reduce them, use Conv2D(filters, 1)."
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
    """``times`` convolutions, then a pooling that halves the map."""
    return [*(layer for _ in range(times) for layer in _convolution(filters, batch_norm)), MaxPool2D(2)]


def _resnet(
    widths: tuple[int, ...],
    blocks: int | tuple[int, ...],
    classes: int,
    shortcut: str,
    stem: int = 3,
    bottleneck: int = 0,
) -> Sequential:
    """``bottleneck``: each block has three convolutions, and multiplies the filters by this factor."""
    layers: list[Layer] = _convolution(widths[0], batch_norm=True)
    if stem == 7:
        layers = [Conv2D(widths[0], 7, stride=2, padding=3, use_bias=False), BatchNorm(), ReLU()]
        layers.append(MaxPool2D(3, stride=2, padding=1))
    before = widths[0]
    for stage, (filters, times) in enumerate(
        zip(widths, [blocks] * len(widths) if isinstance(blocks, int) else blocks)
    ):
        for block in range(times):
            stride, after = 2 if stage and not block else 1, filters * (bottleneck or 1)
            body = _bottleneck(filters, after, stride) if bottleneck else _two_convolutions(filters, stride)
            layers += [_residual(body, after, stride, shortcut if after != before else ""), ReLU()]
            before = after
    return Sequential([*layers, GlobalAveragePool2D(), Dense(classes)])


def _two_convolutions(filters: int, stride: int) -> list[Layer]:
    second = [Conv2D(filters, 3, padding=1, use_bias=False), BatchNorm()]
    return [*_convolution(filters, batch_norm=True, stride=stride), *second]


def _bottleneck(filters: int, after: int, stride: int) -> list[Layer]:
    down = [Conv2D(filters, 1, use_bias=False), BatchNorm(), ReLU()]
    return [*down, *_convolution(filters, True, stride), Conv2D(after, 1, use_bias=False), BatchNorm()]


def _residual(layers: list[Layer], filters: int, stride: int, shortcut: str) -> Residual:
    body = Sequential(layers)
    if not shortcut:
        return Residual(body)
    if shortcut == "identity":
        return Residual(body, shortcut=PaddedShortcut(filters, stride))
    return Residual(body, shortcut=Sequential([Conv2D(filters, 1, stride=stride, use_bias=False), BatchNorm()]))


MOBILENET = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
"""MobileNetV2's stages: their expansion factor, channels, number of blocks, and the stride of the first block."""


def _inverted(before: int, filters: int, expand: int, stride: int) -> Layer:
    """More channels, a depthwise convolution, fewer channels; with a shortcut if the shape stays."""
    up = _clipped(Conv2D(before * expand, 1, use_bias=False)) if expand > 1 else []
    across = _clipped(DepthwiseConv2D(3, stride=stride, padding=1, use_bias=False))
    block = Sequential([*up, *across, Conv2D(filters, 1, use_bias=False), BatchNorm()])
    return Residual(block) if stride == 1 and before == filters else block


def _clipped(layer: Layer) -> list[Layer]:
    return [layer, BatchNorm(), ReLU6()]


def _of_eight(channels: float) -> int:
    """The nearest multiple of 8, but at most a tenth below."""
    nearest = max(8, int(channels + 4) // 8 * 8)
    return nearest if nearest >= 0.9 * channels else nearest + 8


def _unet(filters: int, depth: int) -> list[Layer]:
    """A U-Net from one level down: two convolutions and, if there are deeper levels, those and two more."""
    two = [*_convolution(filters), *_convolution(filters)]
    if not depth:
        return two
    below = [MaxPool2D(2), *_unet(2 * filters, depth - 1), Conv2DTranspose(filters, 2, stride=2)]
    skip = Parallel([Identity(), Sequential(below)], merge="concat")
    return [*two, skip, *_convolution(filters), *_convolution(filters)]


def _stem(stem: int, owner: str) -> int:
    if stem not in (3, 7) or isinstance(stem, bool):
        raise ValueError(f"{owner}: stem must be 3 (for small images) or 7 (for images of 224 × 224), got {stem!r}")
    return stem


def _shortcut_kind(shortcut: str, owner: str) -> str:
    if shortcut not in ("identity", "projection"):
        raise ValueError(f"{owner}: shortcut must be 'identity' or 'projection', got {shortcut!r}")
    return shortcut


def _classes(classes: int, owner: str) -> int:
    return integer(classes, "classes", op=owner)
