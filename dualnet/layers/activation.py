"""Activations as layers: each calls its op, and takes the op's options in its constructor. None has parameters."""

from __future__ import annotations

from .. import ops
from ..arguments import flag, index, number
from ..ops.activation import rectify
from ..shim import Array
from .bases import OpLayer
from .layer import Shape

__all__ = ["ELU", "GELU", "LeakyReLU", "LogSoftmax", "Mish", "ReLU", "SiLU", "Sigmoid", "Softmax", "Softplus", "Tanh"]


class ReLU(OpLayer):
    """``max(0, x)``. See :func:`dualnet.ops.relu`.

    >>> import dualnet as dn
    >>> dn.to_numpy(dn.ReLU().init((2,))(dn.asarray([[-1.0, 2.0]])))
    array([[0., 2.]], dtype=float32)
    """

    is_relu = True
    op = staticmethod(ops.relu)

    def infer(self, x: Array) -> Array:
        return rectify(x)


class LeakyReLU(OpLayer):
    """ReLU with a slope ``alpha`` ≥ 0 below zero. See :func:`dualnet.ops.leaky_relu`.

    >>> import dualnet as dn
    >>> dn.to_numpy(dn.LeakyReLU(0.5).init((2,))(dn.asarray([[-1.0, 2.0]])))
    array([[-0.5,  2. ]], dtype=float32)
    """

    op = staticmethod(ops.leaky_relu)

    def __init__(self, alpha: float = 0.01) -> None:
        self.alpha = number(alpha, "alpha", op="LeakyReLU")


class ELU(OpLayer):
    """``x`` above zero, ``alpha (eˣ − 1)`` below, alpha ≥ 0. See :func:`dualnet.ops.elu`.

    >>> import dualnet as dn
    >>> dn.to_numpy(dn.ELU(alpha=2.0).init((2,))(dn.asarray([[-100.0, 2.0]])))
    array([[-2.,  2.]], dtype=float32)
    """

    op = staticmethod(ops.elu)

    def __init__(self, alpha: float = 1.0) -> None:
        self.alpha = number(alpha, "alpha", op="ELU")


class GELU(OpLayer):
    """``x Φ(x)``, or its formula with tanh if ``approximate``. See :func:`dualnet.ops.gelu`.

    >>> import dualnet as dn
    >>> dn.to_numpy(dn.GELU().init((2,))(dn.asarray([[0.0, 100.0]])))
    array([[  0., 100.]], dtype=float32)
    """

    op = staticmethod(ops.gelu)

    def __init__(self, approximate: bool = False) -> None:
        self.approximate = flag(approximate, "approximate", op="GELU")


class SiLU(OpLayer):
    """``x σ(x)``, also called swish. See :func:`dualnet.ops.silu`.

    >>> import dualnet as dn
    >>> dn.to_numpy(dn.SiLU().init((2,))(dn.asarray([[0.0, 100.0]])))
    array([[  0., 100.]], dtype=float32)
    """

    op = staticmethod(ops.silu)


class Mish(OpLayer):
    """``x tanh(log(1 + eˣ))``. See :func:`dualnet.ops.mish`.

    >>> import dualnet as dn
    >>> dn.to_numpy(dn.Mish().init((2,))(dn.asarray([[0.0, 100.0]])))
    array([[  0., 100.]], dtype=float32)
    """

    op = staticmethod(ops.mish)


class Sigmoid(OpLayer):
    """``1 / (1 + e⁻ˣ)``. See :func:`dualnet.ops.sigmoid`. For training, ``binary_cross_entropy`` takes x, not this.

    >>> import dualnet as dn
    >>> dn.to_numpy(dn.Sigmoid().init((2,))(dn.asarray([[0.0, 100.0]])))
    array([[0.5, 1. ]], dtype=float32)
    """

    op = staticmethod(ops.sigmoid)


class Tanh(OpLayer):
    """Hyperbolic tangent. See :func:`dualnet.ops.tanh`.

    >>> import dualnet as dn
    >>> dn.to_numpy(dn.Tanh().init((2,))(dn.asarray([[0.0, 100.0]])))
    array([[0., 1.]], dtype=float32)
    """

    op = staticmethod(ops.tanh)


class Softplus(OpLayer):
    """``log(1 + eˣ)``. See :func:`dualnet.ops.softplus`.

    >>> import dualnet as dn
    >>> dn.to_numpy(dn.Softplus().init((2,))(dn.asarray([[-200.0, 100.0]])))
    array([[  0., 100.]], dtype=float32)
    """

    op = staticmethod(ops.softplus)


class Softmax(OpLayer):
    """Shares that add up to 1 along an axis; the batch is axis 0. See :func:`dualnet.ops.softmax`.

    For training, ``softmax_cross_entropy`` takes the logits, not this layer's output.

    >>> import dualnet as dn
    >>> dn.to_numpy(dn.Softmax().init((2,))(dn.asarray([[3.0, 3.0]])))
    array([[0.5, 0.5]], dtype=float32)
    """

    op = staticmethod(ops.softmax)

    def __init__(self, axis: int = -1) -> None:
        op = type(self).__name__
        self.axis = index(axis, "axis", op=op)
        if self.axis == 0:
            raise ValueError(f"{op}: axis 0 is the batch; its examples must not mix. The channels are axis -1.")

    def output_shape(self, input_shape: Shape) -> Shape:
        axes = len(input_shape) + 1
        if not -axes < self.axis < axes:
            raise ValueError(
                f"{type(self).__name__}: the input (N, {', '.join(map(str, input_shape))}) has no axis {self.axis} "
                f"apart from the batch; expected 1 … {axes - 1} or -1 … {1 - axes}"
            )
        return tuple(input_shape)


class LogSoftmax(Softmax):
    """The logarithm of :class:`Softmax`, exact even if that is too small. See :func:`dualnet.ops.log_softmax`.

    >>> import dualnet as dn
    >>> dn.to_numpy(dn.LogSoftmax().init((2,))(dn.asarray([[1e4, 0.0]]))).tolist()
    [[0.0, -10000.0]]
    """

    op = staticmethod(ops.log_softmax)
