"""Networks whose parameters have a shape but no memory: for counting, and for checking a file before reading it."""

from __future__ import annotations

from typing import Any

from ..shim import current
from ..shim.dtypes import master_dtype
from .initializers import Draw, Initializer
from .layer import Layer, Shape
from .parameter import Parameter


class Sketch(Draw):
    """Draws nothing: each parameter is a single zero, broadcast to the shape."""

    def __init__(self, dtype: Any = None, **draw: Any) -> None:
        super().__init__(0, dtype, **draw)

    def child(self, place: int) -> Sketch:
        return Sketch(self.dtype, path=(*self.path, place), seen=self.seen)

    def parameter(
        self, initializer: str | Initializer, shape: tuple[int, ...], *, fan_in: int = 1, fan_out: int = 1
    ) -> Parameter:
        xp = current().xp
        return Parameter(xp.broadcast_to(xp.zeros((), dtype=master_dtype(self.dtype)), shape))

    def key(self) -> int:
        return 0


def sketch(net: Layer, input_shape: Shape, dtype: Any = None) -> Layer:
    """Build ``net`` in place as ``init`` does, with parameters that take no memory. Returns it."""
    shape = net.check_input_shape(input_shape)
    net.output_shape(shape)
    net.init_from(shape, Sketch(dtype))
    return net
