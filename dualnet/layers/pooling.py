"""Pooling layers: they shrink the map and learn nothing."""

from __future__ import annotations

from typing import Any

from .. import ops
from ..backend import Array
from ..geometry import Extent, Padding, check_padding, pair
from ..ops.pooling import flag, pool_windows
from ..ops.pullback import Pullback
from .layer import Layer, Shape, positions, with_gradients

__all__ = ["AveragePool2D", "GlobalAveragePool2D", "GlobalMaxPool2D", "L2Pool2D", "MaxPool2D"]


class _Pool2D(Layer):
    """What the layers that pool over windows share."""

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
        self.pool_size = pair(pool_size, "pool_size", op=op)
        self.stride = None if stride is None else pair(stride, "stride", op=op)
        self.padding = check_padding(padding, op=op)
        self.dilation = pair(dilation, "dilation", op=op)
        self.ceil_mode = flag(ceil_mode, "ceil_mode", op=op)

    def output_shape(self, input_shape: Shape) -> Shape:
        op = type(self).__name__
        at = pool_windows(op, positions(input_shape, op), empty_windows=self.empty_windows, **self._windows())
        return (*at.grid, input_shape[2])

    def _windows(self) -> dict[str, Any]:
        names = ("pool_size", "stride", "padding", "dilation", "ceil_mode")
        return {name: getattr(self, name) for name in names}


class MaxPool2D(_Pool2D):
    """The largest unit of every window: (H, W, C) -> (H', W', C). See :func:`dualnet.ops.max_pool2d`.

    >>> import dualnet as dn
    >>> dn.MaxPool2D(2).output_shape((28, 28, 6))
    (14, 14, 6)
    """

    empty_windows = False

    def forward(self, x: Array, train: bool = False) -> tuple[Array, Pullback]:
        y, way = ops.max_pool2d(x, **self._windows())
        return y, with_gradients(self, way)


class AveragePool2D(_Pool2D):
    """The mean of every window: (H, W, C) -> (H', W', C). See :func:`dualnet.ops.avg_pool2d`.

    >>> import dualnet as dn
    >>> dn.AveragePool2D(3, stride=2, padding="same").output_shape((28, 28, 6))
    (14, 14, 6)
    """

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

    def forward(self, x: Array, train: bool = False) -> tuple[Array, Pullback]:
        y, way = ops.avg_pool2d(x, **self._windows(), count_include_pad=self.count_include_pad)
        return y, with_gradients(self, way)


class L2Pool2D(_Pool2D):
    """The Euclidean length of every window: (H, W, C) -> (H', W', C). See :func:`dualnet.ops.l2_pool2d`.

    >>> import dualnet as dn
    >>> dn.L2Pool2D((2, 3), ceil_mode=True).output_shape((7, 7, 6))
    (4, 3, 6)
    """

    def forward(self, x: Array, train: bool = False) -> tuple[Array, Pullback]:
        y, way = ops.l2_pool2d(x, **self._windows())
        return y, with_gradients(self, way)


class _GlobalPool2D(Layer):
    """What the layers that pool over the whole map share."""

    def __init__(self, keepdims: bool = False) -> None:
        self.keepdims = flag(keepdims, "keepdims", op=type(self).__name__)

    def output_shape(self, input_shape: Shape) -> Shape:
        positions(input_shape, type(self).__name__)
        return (1, 1, input_shape[2]) if self.keepdims else (input_shape[2],)


class GlobalAveragePool2D(_GlobalPool2D):
    """The mean of every channel: (H, W, C) -> (C,), or (1, 1, C). See :func:`dualnet.ops.global_avg_pool2d`.

    >>> import dualnet as dn
    >>> dn.GlobalAveragePool2D().output_shape((7, 7, 64))
    (64,)
    """

    def forward(self, x: Array, train: bool = False) -> tuple[Array, Pullback]:
        y, way = ops.global_avg_pool2d(x, keepdims=self.keepdims)
        return y, with_gradients(self, way)


class GlobalMaxPool2D(_GlobalPool2D):
    """The largest unit of every channel: (H, W, C) -> (C,), or (1, 1, C). See :func:`dualnet.ops.global_max_pool2d`.

    >>> import dualnet as dn
    >>> dn.GlobalMaxPool2D(keepdims=True).output_shape((7, 7, 64))
    (1, 1, 64)
    """

    def forward(self, x: Array, train: bool = False) -> tuple[Array, Pullback]:
        y, way = ops.global_max_pool2d(x, keepdims=self.keepdims)
        return y, with_gradients(self, way)
