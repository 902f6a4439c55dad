"""Activations made of straight pieces, as layers: ReLU6, hard sigmoid, hard swish, and PReLU with its learned slope."""

from __future__ import annotations

import math

from .. import ops
from ..arguments import flag, real
from ..ops.pullback import Pullback
from ..shim import Array
from .bases import OpLayer
from .initializers import Draw, ones
from .layer import Layer, Shape
from .parameter import Parameter
from .passing import with_gradients

__all__ = ["Hardsigmoid", "Hardswish", "PReLU", "ReLU6"]


class ReLU6(OpLayer):
    """``min(max(0, x), 6)``, as in MobileNetV2. See :func:`dualnet.ops.relu6`.

    >>> import dualnet as dn
    >>> dn.to_numpy(dn.ReLU6().init((3,))(dn.asarray([[-1.0, 2.0, 7.0]])))
    array([[0., 2., 6.]], dtype=float32)
    """

    op = staticmethod(ops.relu6)


class Hardsigmoid(OpLayer):
    """``min(max(0, x + 3), 6) / 6``, as in MobileNetV3. See :func:`dualnet.ops.hardsigmoid`.

    >>> import dualnet as dn
    >>> dn.to_numpy(dn.Hardsigmoid().init((3,))(dn.asarray([[-4.0, 0.0, 4.0]])))
    array([[0. , 0.5, 1. ]], dtype=float32)
    """

    op = staticmethod(ops.hardsigmoid)


class Hardswish(OpLayer):
    """``x · min(max(0, x + 3), 6) / 6``, as in MobileNetV3. See :func:`dualnet.ops.hardswish`.

    >>> import dualnet as dn
    >>> dn.to_numpy(dn.Hardswish().init((2,))(dn.asarray([[0.0, 4.0]])))
    array([[0., 4.]], dtype=float32)
    """

    op = staticmethod(ops.hardswish)


class PReLU(Layer):
    """ReLU with a learned slope below zero: (..., C) -> (..., C). See :func:`dualnet.ops.prelu`.

    The parameter ``alpha`` holds a slope for each channel, (C,), or with ``shared`` one for all, (1,); it starts at
    ``initial``. Leave it out of weight decay, which would pull PReLU towards ReLU.

    >>> import dualnet as dn
    >>> net = dn.PReLU(initial=0.5).init((2,))
    >>> dn.to_numpy(net(dn.asarray([[-1.0, 2.0]]))), net.alpha
    (array([[-0.5,  2. ]], dtype=float32), Parameter((2,), float32))
    """

    alpha: Parameter

    def __init__(self, initial: float = 0.25, *, shared: bool = False) -> None:
        self.initial, self.shared = real(initial, "initial", op="PReLU"), flag(shared, "shared", op="PReLU")
        if not math.isfinite(self.initial):
            raise ValueError(f"PReLU: initial must be a finite number, got {initial!r}")

    def build(self, input_shape: Shape, draw: Draw) -> None:
        shape = (1,) if self.shared else tuple(input_shape[-1:])
        self.alpha = draw.parameter(lambda *given: self.initial * ones(*given), shape)

    def forward(self, x: Array, train: bool = False) -> tuple[Array, Pullback]:
        x = self.enter(x)
        y, way = ops.prelu(x, self.alpha.cast(x.dtype))
        return y, with_gradients(self, way, "alpha")
