"""Networks whose parameters have a shape and no memory: for counting, and for checking a file before it is read."""

from __future__ import annotations

import math
from typing import Any

from .backend import current
from .initializers import Draw, Initializer, Parameter
from .layers.layer import Layer, Shape, check_shape


class Sketch(Draw):
    """Draws nothing: each parameter is a single zero, broadcast to the shape. ``most`` limits their elements in all."""

    def __init__(self, dtype: Any = None, most: float = math.inf, count: list[int] | None = None, **draw: Any) -> None:
        super().__init__(0, dtype, **draw)
        self.most, self.count = most, [0] if count is None else count

    def child(self, place: int) -> Sketch:
        return Sketch(self.dtype, self.most, self.count, path=(*self.path, place), seen=self.seen)

    def parameter(
        self, initializer: str | Initializer, shape: tuple[int, ...], *, fan_in: int = 1, fan_out: int = 1
    ) -> Parameter:
        self.count[0] += math.prod(shape)
        if self.count[0] > self.most:
            raise ValueError(f"the layers need more than the {self.most} weights that there are")
        xp = current().xp
        return Parameter(xp.broadcast_to(xp.zeros((), dtype=self.dtype), shape))

    def key(self) -> int:
        return 0


def sketch(net: Layer, input_shape: Shape, dtype: Any = None, most: float = math.inf) -> Layer:
    """Build ``net`` in place as ``init`` does, with parameters that take no memory. Returns it."""
    shape = check_shape(input_shape, type(net).__name__)
    net.output_shape(shape)
    net.init_from(shape, Sketch(dtype, most))
    return net
