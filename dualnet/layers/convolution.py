"""Layers with filter banks: convolution, its transpose, depthwise and separable convolution."""

from __future__ import annotations

from typing import Any

from .. import ops
from ..arguments import extents, integer
from ..geometry import Extent, Padding, Windows, check_padding, height_and_width, placed, transposed
from ..ops.convolution import check_room, correlate, rotate
from ..ops.normalization import correlate_normalise
from ..ops.pullback import Pullback
from ..shim import Array, backend_of
from .bases import WeightedLayer
from .initializers import Draw, Initializer
from .layer import Layer, Shape
from .passing import Gradients, merge, with_gradients

__all__ = ["Conv2D", "Conv2DTranspose", "DepthwiseConv2D", "SeparableConv2D"]


class FilterBank(WeightedLayer):
    """Base class of convolution and its transpose: a bank of filters ``w`` and, with ``use_bias``, ``b`` (filters,).

    ``kernel_size`` is the height and width of a filter; one number, such as 3, is used for both. Windows are
    ``stride`` pixels apart. ``padding`` puts zeros around the map: with "same" the map keeps its size (at stride 1),
    with "valid" there are none, with "full" every window that touches the map counts; or give a number, or one for
    each side. Neighbouring taps of a filter are ``dilation`` pixels apart. Channels and filters are split into
    ``groups`` that do not see each other. With ``mode`` "correlation" each filter is used as it is stored, with
    "convolution" it is rotated by 180° first.
    """

    def _set_bank(
        self,
        filters: int,
        kernel_size: Extent,
        stride: Extent,
        padding: Padding,
        dilation: Extent,
        groups: int,
        use_bias: bool,
        initializer: str | Initializer,
    ) -> None:
        op = type(self).__name__
        self.filters = integer(filters, "filters", op=op)
        self.kernel_size = extents(kernel_size, "kernel_size", op=op)
        self.stride, self.dilation = extents(stride, "stride", op=op), extents(dilation, "dilation", op=op)
        self.padding = check_padding(padding, op=op)
        self.groups = integer(groups, "groups", op=op)
        if self.filters % self.groups:
            raise ValueError(f"{op}: groups={groups} must divide filters={filters}")
        self._set_weights(use_bias, initializer)

    def _check_groups(self, channels: int) -> None:
        if channels % self.groups:
            raise ValueError(f"{type(self).__name__}: groups={self.groups} must divide the {channels} channels")


class Conv2D(FilterBank):
    """Convolution with a bank of ``filters`` filters: (H, W, C) -> (H', W', filters). See :func:`dualnet.ops.conv2d`.

    Parameters ``w`` (k1, k2, C/groups, filters) and, with ``use_bias``, ``b`` (filters,).

    >>> import dualnet as dn
    >>> dn.Conv2D(6, 5, padding="same").output_shape((28, 28, 1))
    (28, 28, 6)
    """

    takes_need_dx = True
    takes_relu = leaves_relu = takes_norm = True

    def __init__(
        self,
        filters: int,
        kernel_size: Extent,
        *,
        stride: Extent = 1,
        padding: Padding = 0,
        dilation: Extent = 1,
        groups: int = 1,
        use_bias: bool = True,
        mode: str = "correlation",
        initializer: str | Initializer = "he_normal",
    ) -> None:
        self._set_bank(filters, kernel_size, stride, padding, dilation, groups, use_bias, initializer)
        self._set_mode(mode)

    def _set_mode(self, mode: str) -> None:
        if mode not in ("correlation", "convolution"):
            raise ValueError(f"{type(self).__name__}: mode must be 'correlation' or 'convolution', got {mode!r}")
        self.mode = mode

    def output_shape(self, input_shape: Shape) -> Shape:
        self._check_groups(input_shape[-1])
        return (*self._grid(input_shape), self.filters)

    def _grid(self, input_shape: Shape) -> tuple[int, int]:
        return self._windows(height_and_width(input_shape, type(self).__name__)).grid

    def _windows(self, size: tuple[int, int]) -> Windows:
        return placed(type(self).__name__, size, self.kernel_size, self.stride, self.padding, self.dilation)

    def build(self, input_shape: Shape, draw: Draw) -> None:
        (k1, k2), channels, D = self.kernel_size, input_shape[2] // self.groups, self.filters
        fan_in, fan_out = k1 * k2 * channels, k1 * k2 * D // self.groups
        self._build_weights(draw, (k1, k2, channels, D), D, fan_in=fan_in, fan_out=fan_out)

    def multiply_adds(self, input_shape: Shape) -> int:
        P, Q, D = self.output_shape(input_shape)
        return P * Q * D * self.kernel_size[0] * self.kernel_size[1] * input_shape[2] // self.groups

    def infer(self, x: Array, relu: bool = False, norm: Any = None, other: Array | None = None) -> Array:
        w, b = self.w.value, None if self.b is None else self.b.value
        if w.dtype is not x.dtype:
            w, b = self._weights(x)
        if type(x) is not type(w) and (norm is None or backend_of(x) is not backend_of(w)):
            return self.forward(x, relu=relu)[0]  # its error says what does not fit
        at = self._windows(x.shape[1:3])
        check_room(type(self).__name__, x, w.shape[3], at)
        w = rotate(w) if self.mode == "convolution" else w
        if norm is not None:
            return correlate_normalise(x, w, b, at, self.groups, norm.moving(x), norm.epsilon, relu, other)
        return correlate(x, w, b, at, self.groups, relu)

    def forward(
        self, x: Array, train: bool = False, need_dx: bool = True, relu: bool = False
    ) -> tuple[Array, Pullback]:
        y, way = ops.conv2d(
            x,
            *self._weights(x),
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            groups=self.groups,
            mode=self.mode,
            need_dx=need_dx,
            relu=relu,
        )
        return y, with_gradients(self, way, "w", "b")


class Conv2DTranspose(FilterBank):
    """The adjoint of a convolution, as a forward pass: (P, Q, D) -> (H, W, filters). See
    :func:`dualnet.ops.conv_transpose2d`.

    It enlarges maps: ``stride=2, padding="same"`` doubles height and width. Parameters ``w``
    (k1, k2, filters/groups, D), the bank of the convolution in the other direction, and ``b`` (filters,).

    >>> import dualnet as dn
    >>> dn.Conv2DTranspose(3, 4, stride=2, padding="same").output_shape((7, 7, 8))
    (14, 14, 3)
    """

    def __init__(
        self,
        filters: int,
        kernel_size: Extent,
        *,
        stride: Extent = 1,
        padding: Padding = 0,
        output_padding: Extent = 0,
        dilation: Extent = 1,
        groups: int = 1,
        use_bias: bool = True,
        initializer: str | Initializer = "he_normal",
    ) -> None:
        self._set_bank(filters, kernel_size, stride, padding, dilation, groups, use_bias, initializer)
        self.output_padding = extents(output_padding, "output_padding", op=type(self).__name__, least=0)

    def output_shape(self, input_shape: Shape) -> Shape:
        grid = height_and_width(input_shape, type(self).__name__)
        self._check_groups(input_shape[2])
        at = transposed(
            type(self).__name__,
            grid,
            self.kernel_size,
            stride=self.stride,
            padding=self.padding,
            output_padding=self.output_padding,
            dilation=self.dilation,
        )
        return (*at.size, self.filters)

    def build(self, input_shape: Shape, draw: Draw) -> None:
        (k1, k2), channels, D = self.kernel_size, self.filters // self.groups, input_shape[2]
        fan_in, fan_out = k1 * k2 * D // self.groups, k1 * k2 * channels
        self._build_weights(draw, (k1, k2, channels, D), self.filters, fan_in=fan_in, fan_out=fan_out)

    def multiply_adds(self, input_shape: Shape) -> int:
        P, Q, D = input_shape
        return P * Q * D * self.kernel_size[0] * self.kernel_size[1] * self.filters // self.groups

    def forward(self, x: Array, train: bool = False) -> tuple[Array, Pullback]:
        y, way = ops.conv_transpose2d(
            x,
            *self._weights(x),
            stride=self.stride,
            padding=self.padding,
            output_padding=self.output_padding,
            dilation=self.dilation,
            groups=self.groups,
        )
        return y, with_gradients(self, way, "w", "b")


class DepthwiseConv2D(Conv2D):
    """Convolves each channel with its own filters: (H, W, C) -> (H', W', C·depth_multiplier).

    It is a :class:`Conv2D` with as many groups as channels, and ``depth_multiplier`` filters for each. Output channel
    ``c·depth_multiplier + q`` is filter q of channel c. Parameters ``w`` (k1, k2, 1, C·depth_multiplier), ``b``.

    >>> import dualnet as dn
    >>> net = dn.DepthwiseConv2D(3, depth_multiplier=2, padding="same").init((8, 8, 5))
    >>> net.output_shape((8, 8, 5)), net.parameters()["w"].shape
    ((8, 8, 10), (3, 3, 1, 10))
    """

    def __init__(
        self,
        kernel_size: Extent,
        *,
        depth_multiplier: int = 1,
        stride: Extent = 1,
        padding: Padding = 0,
        dilation: Extent = 1,
        use_bias: bool = True,
        mode: str = "correlation",
        initializer: str | Initializer = "he_normal",
    ) -> None:
        self._set_bank(1, kernel_size, stride, padding, dilation, 1, use_bias, initializer)
        self._set_mode(mode)
        self.depth_multiplier = integer(depth_multiplier, "depth_multiplier", op="DepthwiseConv2D")

    def output_shape(self, input_shape: Shape) -> Shape:
        return (*self._grid(input_shape), input_shape[2] * self.depth_multiplier)

    def build(self, input_shape: Shape, draw: Draw) -> None:
        self.groups, self.filters = input_shape[2], input_shape[2] * self.depth_multiplier
        super().build(input_shape, draw)

    def multiply_adds(self, input_shape: Shape) -> int:
        P, Q, D = self.output_shape(input_shape)
        return P * Q * D * self.kernel_size[0] * self.kernel_size[1]


class SeparableConv2D(Layer):
    """A depthwise convolution followed by a 1×1 convolution (Chollet 2017): (H, W, C) -> (H', W', filters).

    It filters space first and then mixes the channels, with ``k1·k2·C·m + C·m·filters`` weights instead of
    ``k1·k2·C·filters`` (m is the depth multiplier). Parameters ``depthwise.w``, ``pointwise.w`` and ``pointwise.b``.

    >>> import dualnet as dn
    >>> net = dn.SeparableConv2D(16, 3, padding="same").init((8, 8, 4))
    >>> sorted(net.parameters())
    ['depthwise.w', 'pointwise.b', 'pointwise.w']
    """

    takes_need_dx = True

    def __init__(
        self,
        filters: int,
        kernel_size: Extent,
        *,
        depth_multiplier: int = 1,
        stride: Extent = 1,
        padding: Padding = 0,
        dilation: Extent = 1,
        use_bias: bool = True,
        mode: str = "correlation",
        initializer: str | Initializer = "he_normal",
    ) -> None:
        self.depthwise = DepthwiseConv2D(
            kernel_size,
            depth_multiplier=depth_multiplier,
            stride=stride,
            padding=padding,
            dilation=dilation,
            use_bias=False,
            mode=mode,
            initializer=initializer,
        )
        self.pointwise = Conv2D(filters, 1, use_bias=use_bias, initializer=initializer)
        self.filters, self.kernel_size = self.pointwise.filters, self.depthwise.kernel_size
        self.depth_multiplier, self.stride = self.depthwise.depth_multiplier, self.depthwise.stride
        self.padding, self.dilation = self.depthwise.padding, self.depthwise.dilation
        self.use_bias, self.mode, self.initializer = self.pointwise.use_bias, mode, initializer

    def children(self) -> dict[str, Layer]:
        return {"depthwise": self.depthwise, "pointwise": self.pointwise}

    def output_shape(self, input_shape: Shape) -> Shape:
        return self.pointwise.output_shape(self.depthwise.output_shape(input_shape))

    def build(self, input_shape: Shape, draw: Draw) -> None:
        between = self.depthwise.init_from(input_shape, draw.child(0))
        self.pointwise.init_from(between, draw.child(1))

    def multiply_adds(self, input_shape: Shape) -> int:
        between = self.depthwise.output_shape(input_shape)
        return self.depthwise.multiply_adds(input_shape) + self.pointwise.multiply_adds(between)

    def forward(self, x: Array, train: bool = False, need_dx: bool = True) -> tuple[Array, Pullback]:
        between, first = self.depthwise.forward(x, train, need_dx=need_dx)
        y, second = self.pointwise.forward(between, train)

        def pullback(dy: Array) -> tuple[Array | None, Gradients]:
            dbetween, pointwise = second(dy)
            dx, depthwise = first(dbetween)
            return dx, merge(self, [("depthwise", self.depthwise, depthwise), ("pointwise", self.pointwise, pointwise)])

        return y, Pullback("SeparableConv2D", pullback, y, children={"depthwise": first, "pointwise": second})
