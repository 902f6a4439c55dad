"""The two base classes of most layers: one only calls its op, the other has weights ``w`` and biases ``b``."""

from __future__ import annotations

from collections.abc import Callable

from ..arguments import flag
from ..ops.pullback import Pullback
from ..shim import Array
from .initializers import Draw, Initializer, as_initializer
from .layer import Layer, Shape
from .parameter import Parameter
from .passing import with_gradients


class OpLayer(Layer):
    """A layer without parameters that only calls its op: the op's options are the constructor's arguments."""

    op: Callable[..., tuple[Array, Pullback]]

    def forward(self, x: Array, train: bool = False) -> tuple[Array, Pullback]:
        y, way = self.op(x, **self.config())
        return y, with_gradients(self, way)


class WeightedLayer(Layer):
    """A layer with ``w`` and, with ``use_bias``, a ``b`` that starts at 0.

    ``initializer`` draws the first values of ``w``: "he_normal", "he_uniform", "glorot_normal", "glorot_uniform",
    "lecun_normal", "lecun_uniform", "orthogonal", "zeros" or "ones".
    """

    w: Parameter
    b: Parameter | None = None

    def _set_weights(self, use_bias: bool, initializer: str | Initializer) -> None:
        op = type(self).__name__
        self.use_bias, self.initializer = flag(use_bias, "use_bias", op=op), initializer
        as_initializer(initializer, op)

    def _build_weights(self, draw: Draw, shape: Shape, biases: int, *, fan_in: int, fan_out: int) -> None:
        self.w = draw.parameter(self.initializer, shape, fan_in=fan_in, fan_out=fan_out)
        self.b = draw.parameter("zeros", (biases,)) if self.use_bias else None

    def _weights(self, x: Array) -> tuple[Array, Array | None]:
        """w and b in the dtype of x: in a 16-bit network, copies of the values."""
        dtype = getattr(x, "dtype", None)  # if x is not an array, the op will say so
        return self.w.cast(dtype), None if self.b is None else self.b.cast(dtype)
