"""Layers that change the size or the shape of a map, and learn nothing."""

from __future__ import annotations

from typing import Any

from .. import ops
from ..arguments import extents
from ..geometry import Extent, Padding, height_and_width
from ..ops.dense import check_target, fitted
from ..ops.resizing import check_interpolation, check_mirrors, check_sides, cropped_size
from ..shim import Array
from .bases import OpLayer
from .layer import Shape

__all__ = ["Cropping2D", "ReflectionPadding2D", "Reshape", "UpSampling2D", "ZeroPadding2D"]


class UpSampling2D(OpLayer):
    """The map ``size`` times as large: (H, W, C) -> (H·s, W·t, C). See :func:`dualnet.ops.upsample2d`.

    ``interpolation`` is "nearest", which repeats units, or "bilinear", which draws lines between them.

    >>> import dualnet as dn
    >>> dn.UpSampling2D(2).output_shape((7, 7, 16))
    (14, 14, 16)
    """

    op = staticmethod(ops.upsample2d)

    def __init__(self, size: Extent = 2, *, interpolation: str = "nearest") -> None:
        self.size = extents(size, "size", op="UpSampling2D")
        self.interpolation = check_interpolation(interpolation, "UpSampling2D")

    def output_shape(self, input_shape: Shape) -> Shape:
        H, W = height_and_width(input_shape, "UpSampling2D")
        return (H * self.size[0], W * self.size[1], input_shape[2])


class _Padding2D(OpLayer):
    """Base class of the layers that pad."""

    def __init__(self, padding: Padding = 1) -> None:
        self.padding: Any = check_sides(padding, "padding", type(self).__name__)

    def output_shape(self, input_shape: Shape) -> Shape:
        H, W = height_and_width(input_shape, type(self).__name__)
        return (H + sum(self.padding[0]), W + sum(self.padding[1]), input_shape[2])


class ZeroPadding2D(_Padding2D):
    """Zeros around the map: (H, W, C) -> (top + H + bottom, left + W + right, C). See :func:`dualnet.ops.zero_pad2d`.

    ``padding`` is a number for all sides, (height, width), or ((top, bottom), (left, right)). Layers with windows have
    a ``padding`` of their own.

    >>> import dualnet as dn
    >>> dn.ZeroPadding2D(((1, 0), (2, 2))).output_shape((5, 5, 3))
    (6, 9, 3)
    """

    op = staticmethod(ops.zero_pad2d)


class ReflectionPadding2D(_Padding2D):
    """The map reflected at its outermost rows and columns. See :func:`dualnet.ops.reflect_pad2d`.

    ``padding`` is a number for all sides, (height, width), or ((top, bottom), (left, right)), each less than the map.

    >>> import dualnet as dn
    >>> dn.ReflectionPadding2D(2).output_shape((5, 5, 3))
    (9, 9, 3)
    """

    op = staticmethod(ops.reflect_pad2d)

    def output_shape(self, input_shape: Shape) -> Shape:
        check_mirrors(height_and_width(input_shape, "ReflectionPadding2D"), self.padding, "ReflectionPadding2D")
        return super().output_shape(input_shape)


class Cropping2D(OpLayer):
    """The map without its borders: (H, W, C) -> (H − top − bottom, W − left − right, C). See
    :func:`dualnet.ops.crop2d`.

    ``cropping`` is a number for all sides, (height, width), or ((top, bottom), (left, right)).

    >>> import dualnet as dn
    >>> dn.Cropping2D((1, 2)).output_shape((8, 8, 3))
    (6, 4, 3)
    """

    op = staticmethod(ops.crop2d)

    def __init__(self, cropping: Any = 1) -> None:
        self.cropping: Any = check_sides(cropping, "cropping", "Cropping2D")

    def output_shape(self, input_shape: Shape) -> Shape:
        size = height_and_width(input_shape, "Cropping2D")
        return (*cropped_size(size, self.cropping, "Cropping2D"), input_shape[2])


class Reshape(OpLayer):
    """Every image's units in a different shape, in the same order. See :func:`dualnet.ops.reshape`.

    ``shape`` leaves out the batch; one of its numbers may be −1, which means "whatever is left".

    >>> import dualnet as dn
    >>> dn.Reshape((7, 7, -1)).output_shape((784,))
    (7, 7, 16)
    """

    op = staticmethod(ops.reshape)

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = check_target(shape, "Reshape")

    def output_shape(self, input_shape: Shape) -> Shape:
        return fitted(self.shape, tuple(input_shape), "Reshape")

    def infer(self, x: Array) -> Array:
        return x.reshape((x.shape[0], *self.output_shape(x.shape[1:])))
