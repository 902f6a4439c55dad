"""Layers that normalise: batch, layer, group, instance and RMS norm. All learn a spread γ; all but RMS a mean β too."""

from __future__ import annotations

from typing import Any

from .. import ops
from ..arguments import flag, fraction, integer
from ..geometry import elements
from ..ops.normalization import check_axes, check_epsilon, check_groups
from ..ops.pullback import Pullback
from ..ops.sums import wide_dtype
from ..sharing import Part, part
from ..shim import Array, backend_of
from .following import move
from .initializers import Draw
from .layer import Layer, Shape
from .parameter import Parameter
from .passing import with_gradients

__all__ = ["BatchNorm", "GroupNorm", "InstanceNorm", "LayerNorm", "RMSNorm"]


class Normalization(Layer):
    """Base class of these layers: γ (``gamma``, unless ``scale=False``) and β (``beta``, unless ``center=False``).

    ``epsilon`` is added to the variance, so that nothing is divided by 0.
    """

    gamma: Parameter | None = None
    beta: Parameter | None = None
    center: bool
    scale: bool

    def _set(self, epsilon: float, center: bool, scale: bool) -> None:
        owner = type(self).__name__
        self.epsilon = check_epsilon(epsilon, owner)
        self.center, self.scale = flag(center, "center", op=owner), flag(scale, "scale", op=owner)

    def _build(self, shape: Shape, draw: Draw) -> None:
        self.gamma = draw.parameter("ones", shape) if self.scale else None
        self.beta = draw.parameter("zeros", shape) if self.center else None

    def _values(self, x: Array, shape: Shape) -> tuple[Array, Array]:
        """γ and β, in float32 even if x has 16 bits; 1 and 0 if they are not learned."""
        xp, dtype = backend_of(x).xp, wide_dtype(x)
        return (
            xp.ones(shape, dtype=dtype) if self.gamma is None else self.gamma.value,
            xp.zeros(shape, dtype=dtype) if self.beta is None else self.beta.value,
        )

    def _named(self, way: Pullback) -> Pullback:
        """The op's pullback as the layer's: only learned parameters have a gradient."""
        learned = {name for name, parameter in (("gamma", self.gamma), ("beta", self.beta)) if parameter is not None}

        def convert(result: tuple[Array, dict[str, Array]]) -> tuple[Array, dict[str, Array]]:
            dx, gradients = result
            return dx, {name: gradient for name, gradient in gradients.items() if name in learned}

        return with_gradients(self, way, "gamma", "beta").then(type(self).__name__, convert)


class BatchNorm(Normalization):
    """Normalise every channel: by the batch in training, by running statistics in inference. (..., C) -> (..., C).

    See :func:`dualnet.ops.batch_norm`. Parameters ``gamma`` (C,) and ``beta`` (C,). The state ``moving_mean`` (C,) and
    ``moving_variance`` (C,) starts at 0 and 1. Each forward pass with ``train=True`` moves it when the pass ends:
    ``moving ← momentum · moving + (1 − momentum) · batch``. ``momentum`` is the share of the old value that stays (as
    in Keras; PyTorch's momentum of 0.1 is 0.9 here). The batch is normalised by its biased variance, while the
    running variance gets the unbiased one, · n / (n − 1) (as in PyTorch).

    Source: Ioffe and Szegedy (2015), algorithms 1 and 2.

    >>> import dualnet as dn
    >>> norm = dn.BatchNorm(momentum=0.5).init((1,))
    >>> y, pullback = norm.forward(dn.asarray([[1.0], [3.0]]), train=True)
    >>> dn.to_numpy(y).ravel().round(3)
    array([-1.,  1.], dtype=float32)
    >>> dn.to_numpy(norm.moving_mean), dn.to_numpy(norm.moving_variance)  # half of 0 and 2; half of 1 and 2
    (array([1.], dtype=float32), array([1.5], dtype=float32))
    """

    takes_relu = True
    takes_other = is_norm = True
    synchronised = False
    """Are the statistics taken over all ranks? See :func:`dualnet.distributed.sync_batch_norm`."""
    state_names = ("moving_mean", "moving_variance")
    moving_mean: Any = None
    moving_variance: Any = None

    def __init__(self, momentum: float = 0.9, epsilon: float = 1e-5, center: bool = True, scale: bool = True) -> None:
        self.momentum = fraction(momentum, "momentum", op="BatchNorm")
        self._set(epsilon, center, scale)

    def build(self, input_shape: Shape, draw: Draw) -> None:
        channels = tuple(input_shape[-1:])
        self._build(channels, draw)
        self.moving_mean = draw.parameter("zeros", channels).value
        self.moving_variance = draw.parameter("ones", channels).value

    def infer(self, x: Array, relu: bool = False, other: Array | None = None) -> Array:
        return self.forward(x, relu=relu, other=other)[0]

    def moving(self, x: Array) -> tuple[Array, Array, Array, Array]:
        """μ, σ², γ, β (C,), by which inference normalises maps of x's dtype."""
        return self.moving_mean, self.moving_variance, *self._values(x, self.moving_mean.shape)

    def forward(
        self, x: Array, train: bool = False, relu: bool = False, other: Array | None = None
    ) -> tuple[Array, Pullback]:
        x = self.enter(x)
        gamma, beta = self._values(x, x.shape[-1:])
        after: dict[str, Any] = {"relu": relu, "other": other}
        mine = part()  # of a batch that several ranks share
        if not train or self.frozen or (mine is not None and not mine.rows and not self._shares(mine)):
            moving = self.moving_mean, self.moving_variance
            y, way = ops.batch_norm_inference(x, gamma, beta, *moving, epsilon=self.epsilon, **after)
            return y, self._named(way if other is None else way.then("BatchNorm", _joined))
        whole = mine if self._shares(mine) else None
        y, way = ops.batch_norm(x, gamma, beta, epsilon=self.epsilon, part=whole, **after)
        n = elements(x.shape[:-1]) if whole is None else whole.whole * elements(x.shape[1:-1])
        move(self, way.saved["mean"], way.saved["variance"], n)
        return y, self._named(way if other is None else way.then("BatchNorm", _joined))

    def _shares(self, mine: Part | None) -> bool:
        """Are the statistics those of the whole batch, over all ranks?"""
        return mine is not None and (self.synchronised or mine.synchronised)


def _joined(gradients: tuple[Array, ...]) -> tuple[Any, ...]:
    """Batch norm's gradients, with a list of two deltas instead of dx: of x, and of the other branch."""
    dx, *others, delta = gradients
    return [dx, delta], *others


class AlongAxes(Normalization):
    """Base class of layer norm and RMS norm: it knows the normalised axes, whose shape γ and β have."""

    def _set_axis(self, axis: int | tuple[int, ...]) -> None:
        op, several = type(self).__name__, axis if isinstance(axis, (tuple, list)) else None
        given = tuple(integer(a, "axis", op=op, least=-8) for a in several or (axis,))
        if not given or 0 in given or len(set(given)) < len(given):
            raise ValueError(f"{op}: axis={axis!r}; expected one axis or several, each once, and never the batch, 0")
        self.axis: int | tuple[int, ...] = given[0] if several is None else given

    def _inside(self, shape: tuple[int, ...]) -> Shape:
        """The part of a shape, batch included, that is normalised."""
        return tuple(shape[a] for a in check_axes(self.axis, len(shape), type(self).__name__))

    def output_shape(self, input_shape: Shape) -> Shape:
        self._inside((1, *input_shape))
        return tuple(input_shape)

    def build(self, input_shape: Shape, draw: Draw) -> None:
        self._build(self._inside((1, *input_shape)), draw)


class LayerNorm(AlongAxes):
    """Normalise every example along some axes, in training as in inference. See :func:`dualnet.ops.layer_norm`.

    ``axis`` counts the batch: -1 is the channels, (1, 2, 3) a whole feature map (N, H, W, C). Parameters ``gamma`` and
    ``beta`` have the shape of the input along those axes.

    Source: Ba, Kiros and Hinton (2016).

    >>> import dualnet as dn
    >>> norm = dn.LayerNorm().init((2,))
    >>> dn.to_numpy(norm(dn.asarray([[1.0, 3.0], [20.0, 40.0]]))).round(3)
    array([[-1.,  1.],
           [-1.,  1.]], dtype=float32)
    """

    def __init__(
        self, axis: int | tuple[int, ...] = -1, epsilon: float = 1e-5, center: bool = True, scale: bool = True
    ) -> None:
        self._set_axis(axis)
        self._set(epsilon, center, scale)

    def forward(self, x: Array, train: bool = False) -> tuple[Array, Pullback]:
        x = self.enter(x)
        gamma, beta = self._values(x, self._inside(x.shape))
        y, way = ops.layer_norm(x, gamma, beta, axis=self.axis, epsilon=self.epsilon)
        return y, self._named(way)


class GroupNorm(Normalization):
    """Normalise groups of channels of every example, in training as in inference. See :func:`dualnet.ops.group_norm`.

    ``groups`` must divide the channels. Parameters ``gamma`` (C,) and ``beta`` (C,).

    Source: Wu and He (2018).

    >>> import dualnet as dn
    >>> norm = dn.GroupNorm(2).init((4,))
    >>> dn.to_numpy(norm(dn.asarray([[1.0, 3.0, 20.0, 40.0]]))).round(3)
    array([[-1.,  1., -1.,  1.]], dtype=float32)
    """

    def __init__(self, groups: int, epsilon: float = 1e-5, center: bool = True, scale: bool = True) -> None:
        self.groups = integer(groups, "groups", op="GroupNorm")
        self._set(epsilon, center, scale)

    def output_shape(self, input_shape: Shape) -> Shape:
        check_groups(self.groups, input_shape[-1], "GroupNorm")
        return tuple(input_shape)

    def build(self, input_shape: Shape, draw: Draw) -> None:
        self._build(tuple(input_shape[-1:]), draw)

    def forward(self, x: Array, train: bool = False) -> tuple[Array, Pullback]:
        x = self.enter(x)
        gamma, beta = self._values(x, x.shape[-1:])
        y, way = ops.group_norm(x, gamma, beta, groups=self.groups, epsilon=self.epsilon)
        return y, self._named(way)


class InstanceNorm(GroupNorm):
    """Normalise every channel of every image by itself: a group norm with as many groups as channels.

    (..., C) -> (..., C), in training as in inference; the image needs at least two places. Parameters ``gamma`` (C,)
    and ``beta`` (C,). It removes the contrast of a picture, which is why style transfer networks use it.

    Source: Ulyanov, Vedaldi and Lempitsky (2016).

    >>> import dualnet as dn
    >>> norm = dn.InstanceNorm().init((2, 1, 2))
    >>> dn.to_numpy(norm(dn.asarray([[[[1.0, 5.0]], [[3.0, 50.0]]]]))).round(3).tolist()
    [[[[-1.0, -1.0]], [[1.0, 1.0]]]]
    """

    def __init__(self, epsilon: float = 1e-5, center: bool = True, scale: bool = True) -> None:
        self._set(epsilon, center, scale)

    def output_shape(self, input_shape: Shape) -> Shape:
        if elements(tuple(input_shape[:-1])) < 2:
            raise ValueError(
                f"InstanceNorm: in an input {tuple(input_shape)} each channel has only one value, so nothing is left "
                "after subtracting the mean; expected maps (H, W, C). LayerNorm normalises rows."
            )
        return tuple(input_shape)

    def build(self, input_shape: Shape, draw: Draw) -> None:
        self.groups = input_shape[-1]
        super().build(input_shape, draw)


class RMSNorm(AlongAxes):
    """Divide every example by its root mean square along some axes: a layer norm without means.

    See :func:`dualnet.ops.rms_norm`. ``axis`` counts the batch: -1 is the channels. The parameter ``gamma``, unless
    ``scale=False``, has the shape of the input along those axes. PyTorch's and Keras's default ε differ from ours.

    Source: Zhang and Sennrich (2019).

    >>> import dualnet as dn
    >>> norm = dn.RMSNorm().init((2,))
    >>> dn.to_numpy(norm(dn.asarray([[3.0, 4.0], [0.0, 5.0]]))).round(3)
    array([[0.849, 1.131],
           [0.   , 1.414]], dtype=float32)
    """

    def __init__(self, axis: int | tuple[int, ...] = -1, epsilon: float = 1e-5, scale: bool = True) -> None:
        self._set_axis(axis)
        self._set(epsilon, False, scale)

    def forward(self, x: Array, train: bool = False) -> tuple[Array, Pullback]:
        x = self.enter(x)
        gamma, _ = self._values(x, self._inside(x.shape))
        y, way = ops.rms_norm(x, gamma, axis=self.axis, epsilon=self.epsilon)
        return y, self._named(way)
