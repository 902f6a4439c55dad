"""Pooling layers: they shrink the map and learn nothing."""

from __future__ import annotations

from .. import ops
from ..arguments import extents, flag
from ..geometry import Extent, Padding, Windows, check_padding, height_and_width, placed
from ..ops.activation import rectify
from ..ops.pooling import check_no_window_is_empty, check_room, largest
from ..ops.pullback import Pullback
from ..shim import Array
from .bases import OpLayer
from .layer import Shape
from .passing import with_gradients

__all__ = ["AdaptiveAveragePool2D", "AveragePool2D", "GlobalAveragePool2D", "GlobalMaxPool2D", "L2Pool2D", "MaxPool2D"]


class _Pool2D(OpLayer):
    """Base class of the layers that pool over windows.

    ``pool_size`` is the height and width of a window; one number, such as 2, is used for both. Windows are
    ``stride`` pixels apart, by default side by side. ``padding`` puts zeros around the map that do not count: "same",
    "valid" (none), or a number. Neighbouring units of a window are ``dilation`` pixels apart. ``ceil_mode`` also keeps
    a last window that reaches beyond the map.
    """

    empty_windows = True  # may a window lie wholly in the padding?

    def __init__(
        self,
        pool_size: Extent,
        *,
        stride: Extent | None = None,
        padding: Padding = 0,
        dilation: Extent = 1,
        ceil_mode: bool = False,
    ) -> None:
        op = type(self).__name__
        self.pool_size = extents(pool_size, "pool_size", op=op)
        self.stride = None if stride is None else extents(stride, "stride", op=op)
        self.padding = check_padding(padding, op=op)
        self.dilation = extents(dilation, "dilation", op=op)
        self.ceil_mode = flag(ceil_mode, "ceil_mode", op=op)

    def output_shape(self, input_shape: Shape) -> Shape:
        return (*self._windows(height_and_width(input_shape, type(self).__name__)).grid, input_shape[2])

    def _windows(self, size: tuple[int, int]) -> Windows:
        op, stride = type(self).__name__, self.stride or self.pool_size
        at = placed(op, size, self.pool_size, stride, self.padding, self.dilation, self.ceil_mode)
        if not self.empty_windows:
            check_no_window_is_empty(op, at)
        return at


class MaxPool2D(_Pool2D):
    """The largest unit of every window: (H, W, C) -> (H', W', C). See :func:`dualnet.ops.max_pool2d`.

    >>> import dualnet as dn
    >>> dn.MaxPool2D(2).output_shape((28, 28, 6))
    (14, 14, 6)
    """

    takes_relu = commutes_with_relu = True
    op = staticmethod(ops.max_pool2d)
    empty_windows = False

    def infer(self, x: Array, relu: bool = False) -> Array:
        at = self._windows(x.shape[1:3])
        check_room("MaxPool2D", x, at)
        y = largest(x, at)  # no winners: there is no backward pass
        return rectify(y) if relu else y

    def forward(self, x: Array, train: bool = False, relu: bool = False) -> tuple[Array, Pullback]:
        y, way = self.op(x, **self.config(), relu=relu)
        return y, with_gradients(self, way)


class AveragePool2D(_Pool2D):
    """The mean of every window: (H, W, C) -> (H', W', C). See :func:`dualnet.ops.avg_pool2d`.

    >>> import dualnet as dn
    >>> dn.AveragePool2D(3, stride=2, padding="same").output_shape((28, 28, 6))
    (14, 14, 6)
    """

    op = staticmethod(ops.avg_pool2d)

    def __init__(
        self,
        pool_size: Extent,
        *,
        stride: Extent | None = None,
        padding: Padding = 0,
        dilation: Extent = 1,
        ceil_mode: bool = False,
        count_include_pad: bool = False,
    ) -> None:
        super().__init__(pool_size, stride=stride, padding=padding, dilation=dilation, ceil_mode=ceil_mode)
        self.count_include_pad = self.empty_windows = flag(count_include_pad, "count_include_pad", op="AveragePool2D")


class L2Pool2D(_Pool2D):
    """The Euclidean length of every window: (H, W, C) -> (H', W', C). See :func:`dualnet.ops.l2_pool2d`.

    >>> import dualnet as dn
    >>> dn.L2Pool2D((2, 3), ceil_mode=True).output_shape((7, 7, 6))
    (4, 3, 6)
    """

    op = staticmethod(ops.l2_pool2d)


class AdaptiveAveragePool2D(OpLayer):
    """Means of H' × W' windows that cover the map, whatever its size: (H, W, C) -> (H', W', C).

    ``output_size`` is H' = W' or (H', W'). See :func:`dualnet.ops.adaptive_avg_pool2d`.

    >>> import dualnet as dn
    >>> dn.AdaptiveAveragePool2D((3, 2)).output_shape((7, 7, 64))
    (3, 2, 64)
    """

    op = staticmethod(ops.adaptive_avg_pool2d)

    def __init__(self, output_size: Extent) -> None:
        self.output_size = extents(output_size, "output_size", op="AdaptiveAveragePool2D")

    def output_shape(self, input_shape: Shape) -> Shape:
        height_and_width(input_shape, "AdaptiveAveragePool2D")
        return (*self.output_size, input_shape[2])


class _GlobalPool2D(OpLayer):
    """Base class of the layers that pool over the whole map."""

    def __init__(self, keepdims: bool = False) -> None:
        self.keepdims = flag(keepdims, "keepdims", op=type(self).__name__)

    def output_shape(self, input_shape: Shape) -> Shape:
        height_and_width(input_shape, type(self).__name__)
        return (1, 1, input_shape[2]) if self.keepdims else (input_shape[2],)


class GlobalAveragePool2D(_GlobalPool2D):
    """The mean of every channel: (H, W, C) -> (C,), or (1, 1, C). See :func:`dualnet.ops.global_avg_pool2d`.

    >>> import dualnet as dn
    >>> dn.GlobalAveragePool2D().output_shape((7, 7, 64))
    (64,)
    """

    op = staticmethod(ops.global_avg_pool2d)


class GlobalMaxPool2D(_GlobalPool2D):
    """The largest unit of every channel: (H, W, C) -> (C,), or (1, 1, C). See :func:`dualnet.ops.global_max_pool2d`.

    >>> import dualnet as dn
    >>> dn.GlobalMaxPool2D(keepdims=True).output_shape((7, 7, 64))
    (1, 1, 64)
    """

    op = staticmethod(ops.global_max_pool2d)
