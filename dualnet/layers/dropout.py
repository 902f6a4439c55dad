"""Dropout as a layer: a new mask for each training step, and no effect in inference."""

from __future__ import annotations

from .. import ops
from ..arguments import fraction
from ..geometry import height_and_width
from ..ops.pullback import Pullback
from ..recording import live
from ..sharing import part
from ..shim import Array
from .initializers import Draw
from .layer import Layer, Shape
from .passing import with_gradients

__all__ = ["Dropout", "SpatialDropout2D"]


class Dropout(Layer):
    """Drop the share ``rate`` of the units in training, 0 <= rate < 1; keep all of them in inference.

    Its state is two integers: ``seed``, drawn by ``init``, and ``step``, which counts the training passes. The mask
    depends only on these two and is the same on every backend. So a network that is saved in the middle of training and
    loaded again continues with the same masks. See :func:`dualnet.ops.dropout`.

    >>> import dualnet as dn
    >>> layer, x = dn.Dropout(0.5).init((4,), seed=1), dn.asarray([[1.0, 2.0, 3.0, 4.0]])
    >>> dn.to_numpy(layer(x))
    array([[1., 2., 3., 4.]], dtype=float32)
    >>> y, pullback = layer.forward(x, train=True)
    >>> dn.to_numpy(y), layer.step
    (array([[2., 0., 6., 8.]], dtype=float32), 1)
    """

    state_names = ("seed", "step")
    shared_axes: tuple[int, ...] = ()
    seed: int = 0
    step: int = 0

    def __init__(self, rate: float) -> None:
        self.rate = fraction(rate, "rate", op=type(self).__name__)

    def build(self, input_shape: Shape, draw: Draw) -> None:
        self.seed, self.step = draw.key(), 0

    def forward(self, x: Array, train: bool = False) -> tuple[Array, Pullback]:
        if not train:
            return x, Pullback(type(self).__name__, lambda dy: (dy, {}), x)
        mine = part()  # of a batch that several ranks share: each row gets the mask it would get in the whole batch
        key, row = (self.seed, live(self, "step")), 0 if mine is None else mine.start
        y, way = ops.dropout(x, self.rate, key=key, shared_axes=self.shared_axes, first_row=row)
        self.step += 1  # so the next mask is different
        return y, with_gradients(self, way)


class SpatialDropout2D(Dropout):
    """Drop whole channels of feature maps (H, W, C): a single dropped unit could be guessed from its neighbours.

    Source: Tompson et al. (2015). See :class:`Dropout`.

    >>> import dualnet as dn
    >>> layer = dn.SpatialDropout2D(0.5).init((1, 2, 3), seed=1)
    >>> x = dn.asarray([[[[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]]])
    >>> dn.to_numpy(layer.forward(x, train=True)[0])[0, 0]
    array([[ 2.,  0.,  6.],
           [ 8.,  0., 12.]], dtype=float32)
    """

    shared_axes = (1, 2)

    def output_shape(self, input_shape: Shape) -> Shape:
        height_and_width(input_shape, type(self).__name__)
        return tuple(input_shape)
