"""The smallest convolution that shows what turning the kernel does. The story and docs/backprop.svg use it."""

from __future__ import annotations

from typing import Any

from ...layers import Conv2D
from ...shim import asarray

X = [[1, 2, 0, 1], [3, 1, 2, 0], [0, 2, 1, 3], [1, 0, 2, 1]]
W = [[1, 2], [3, 4]]
DY = [[1, -1, 2], [0, 2, 1], [-1, 1, 3]]
"""An input, a kernel that is not its own mirror image, and deltas: small enough to check by hand."""


def smallest() -> tuple[Conv2D, Any, Any]:
    """A convolution with one channel and one filter of 2 × 2, its input (1, 4, 4, 1) and its deltas (1, 3, 3, 1).

    >>> import dualnet as dn
    >>> from dualnet.seeing.explain.smallest import smallest
    >>> layer, x, dy = smallest()
    >>> dn.explain(layer, x, "dx[0,1,1,0]", dy=dy).value
    3.0
    """
    layer = Conv2D(1, 2).init((4, 4, 1))
    layer.w.value = asarray(W, "float32").reshape(2, 2, 1, 1)
    return layer, asarray(X, "float32").reshape(1, 4, 4, 1), asarray(DY, "float32").reshape(1, 3, 3, 1)
