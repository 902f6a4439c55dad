"""The fully-connected part after the maps: Flatten and Dense."""

from __future__ import annotations

from .. import ops
from ..arguments import integer
from ..geometry import elements
from ..ops.dense import affine, affine_relu
from ..ops.pullback import Pullback
from ..shim import Array
from .bases import OpLayer, WeightedLayer
from .initializers import Draw, Initializer
from .layer import Shape
from .passing import with_gradients

__all__ = ["Dense", "Flatten"]


class Flatten(OpLayer):
    """Every image's units in one row: (H, W, C) -> (H·W·C,). See :func:`dualnet.ops.flatten`.

    >>> import dualnet as dn
    >>> dn.Flatten().output_shape((7, 7, 16))
    (784,)
    """

    op = staticmethod(ops.flatten)

    def output_shape(self, input_shape: Shape) -> Shape:
        return (elements(input_shape),)

    def infer(self, x: Array) -> Array:
        return x.reshape((x.shape[0], elements(x.shape[1:])))


class Dense(WeightedLayer):
    """``units`` weighted sums of all inputs: (K,) -> (units,). See :func:`dualnet.ops.dense`.

    Parameters ``w`` (K, units) and, with ``use_bias``, ``b`` (units,). If the input has more axes, (..., K), each row
    is one input.

    >>> import dualnet as dn
    >>> dn.Dense(10).init((784,)).w.shape
    (784, 10)
    """

    takes_need_dx = True
    takes_relu = True

    def __init__(self, units: int, *, use_bias: bool = True, initializer: str | Initializer = "he_normal") -> None:
        self.units = integer(units, "units", op="Dense")
        self._set_weights(use_bias, initializer)

    def output_shape(self, input_shape: Shape) -> Shape:
        return (*input_shape[:-1], self.units)

    def build(self, input_shape: Shape, draw: Draw) -> None:
        K = input_shape[-1]
        self._build_weights(draw, (K, self.units), self.units, fan_in=K, fan_out=self.units)

    def multiply_adds(self, input_shape: Shape) -> int:
        return elements(input_shape) * self.units

    def infer(self, x: Array, relu: bool = False) -> Array:
        w, b = self.w.value, None if self.b is None else self.b.value
        if w.dtype is not x.dtype:
            w, b = self._weights(x)
        if type(x) is not type(w) or x.ndim != 2 or x.shape[1] != w.shape[0]:
            return self.forward(x, relu=relu)[0]  # its error says what does not fit
        return affine_relu(x, w, b) if relu else affine(x, w, b)

    def forward(
        self, x: Array, train: bool = False, need_dx: bool = True, relu: bool = False
    ) -> tuple[Array, Pullback]:
        y, way = ops.dense(x, *self._weights(x), need_dx=need_dx, relu=relu)
        return y, with_gradients(self, way, "w", "b")
