"""Convolution and pooling along one axis: sequences (L, C), such as sound, or text as vectors.

A sequence is a map of height 1, so each of these layers calls its two-dimensional op on (N, 1, L, C). Nothing is
written twice, and everything proved about the ops holds here too.
"""

from __future__ import annotations

from typing import Any

from .. import ops
from ..arguments import flag, integer
from ..geometry import PADDINGS, Windows, elements, not_a_padding, placed
from ..ops.pooling import check_no_window_is_empty
from ..ops.pullback import Pullback
from ..shim import Array, namespace
from .bases import WeightedLayer
from .convolution import Conv2D
from .initializers import Draw, Initializer
from .layer import Layer, Shape
from .parameter import Parameter
from .passing import with_gradients
from .pooling import AveragePool2D, GlobalAveragePool2D, GlobalMaxPool2D, MaxPool2D

__all__ = ["AveragePool1D", "Conv1D", "GlobalAveragePool1D", "GlobalMaxPool1D", "MaxPool1D"]

Sides = int | tuple[int, int] | str


class _Sequence(Layer):
    """Base class of layers on sequences: (N, L, C) as (N, 1, L, C), and back."""

    def on_maps(self) -> Layer:
        """The same layer on maps of height 1, with the same weights."""
        raise NotImplementedError

    def _length(self, input_shape: Shape) -> int:
        if len(input_shape) != 2:
            raise ValueError(
                f"{type(self).__name__}: expected sequences (L, C), got {tuple(input_shape)}. To get sequences of "
                "one channel, write x[..., None]."
            )
        return input_shape[0]

    def _maps(self, x: Array) -> Array:
        xp = namespace(type(self).__name__, x=x)
        if x.ndim != 3:
            raise ValueError(f"{type(self).__name__}: x has shape {tuple(x.shape)}; expected sequences (N, L, C)")
        return xp.reshape(x, (x.shape[0], 1, *x.shape[1:]))  # (N, 1, L, C)

    def _back(self, maps: Array, way: Pullback, x: Array) -> tuple[Array, Pullback]:
        """y and its pullback: those of maps of height 1 without that axis."""
        xp, before = namespace(type(self).__name__, x=maps), tuple(x.shape)
        y = xp.reshape(maps, (maps.shape[0], *maps.shape[2:])) if maps.ndim == 4 else maps

        def pullback(dy: Array) -> Any:
            dx, gradients = way(xp.reshape(dy, maps.shape))
            return None if dx is None else xp.reshape(dx, before), gradients

        return y, Pullback(type(self).__name__, pullback, y, **way.saved)


def sides(padding: Any, op: str) -> Any:
    """Any form of padding along one axis, checked: a name, or (before, after)."""
    if isinstance(padding, str):
        if padding not in PADDINGS:
            raise ValueError(f"{op}: {not_a_padding(padding)}")
        return padding
    both = padding if isinstance(padding, (tuple, list)) else (padding, padding)
    if len(both) != 2:
        raise ValueError(f"{op}: padding must be an integer or (before, after), got {padding!r}")
    return tuple(integer(side, "padding", op=op, least=0) for side in both)


def _both(padding: Any) -> Any:
    """The padding of a map of height 1."""
    return padding if isinstance(padding, str) else ((0, 0), padding)


class Conv1D(_Sequence, WeightedLayer):
    """Convolution along a sequence with ``filters`` filters: (L, C) -> (L', filters). See :func:`dualnet.ops.conv2d`.

    Parameters ``w`` (kernel_size, C/groups, filters) and, with ``use_bias``, ``b`` (filters,). ``padding`` is a number,
    (before, after), "valid", "same" or "full"; (dilation · (kernel_size − 1), 0) makes it causal: no output reads
    later inputs.

    >>> import dualnet as dn
    >>> dn.Conv1D(8, 5, stride=2, padding="same").output_shape((100, 1))
    (50, 8)
    """

    takes_need_dx = True

    def __init__(
        self,
        filters: int,
        kernel_size: int,
        *,
        stride: int = 1,
        padding: Sides = 0,
        dilation: int = 1,
        groups: int = 1,
        use_bias: bool = True,
        mode: str = "correlation",
        initializer: str | Initializer = "he_normal",
    ) -> None:
        self.filters, self.kernel_size = (
            integer(filters, "filters", op="Conv1D"),
            integer(kernel_size, "kernel_size", op="Conv1D"),
        )
        self.stride, self.dilation = (
            integer(stride, "stride", op="Conv1D"),
            integer(dilation, "dilation", op="Conv1D"),
        )
        self.padding, self.groups = sides(padding, "Conv1D"), integer(groups, "groups", op="Conv1D")
        if self.filters % self.groups:
            raise ValueError(f"Conv1D: groups={groups} must divide filters={filters}")
        if mode not in ("correlation", "convolution"):
            raise ValueError(f"Conv1D: mode must be 'correlation' or 'convolution', got {mode!r}")
        self.mode = mode
        self._set_weights(use_bias, initializer)

    def on_maps(self) -> Conv2D:
        twin = Conv2D(
            self.filters,
            (1, self.kernel_size),
            stride=(1, self.stride),
            padding=_both(self.padding),
            dilation=(1, self.dilation),
            groups=self.groups,
            use_bias=self.use_bias,
            mode=self.mode,
            initializer=self.initializer,
        )
        if self.input_shape is not None:
            twin.input_shape, twin.dtype = (1, *self.input_shape), self.dtype
            twin.w, twin.b = Parameter(self.w.value[None], self.w.name), self.b
        return twin

    def output_shape(self, input_shape: Shape) -> Shape:
        length = self._length(input_shape)
        if input_shape[1] % self.groups:
            raise ValueError(f"Conv1D: groups={self.groups} must divide the {input_shape[1]} channels")
        window, stride, dilation = (1, self.kernel_size), (1, self.stride), (1, self.dilation)
        return (placed("Conv1D", (1, length), window, stride, _both(self.padding), dilation).grid[1], self.filters)

    def build(self, input_shape: Shape, draw: Draw) -> None:
        k, channels, D = self.kernel_size, input_shape[1] // self.groups, self.filters
        self._build_weights(draw, (k, channels, D), D, fan_in=k * channels, fan_out=k * D // self.groups)

    def multiply_adds(self, input_shape: Shape) -> int:
        return elements(self.output_shape(input_shape)) * self.kernel_size * input_shape[1] // self.groups

    def forward(self, x: Array, train: bool = False, need_dx: bool = True) -> tuple[Array, Pullback]:
        maps, (w, b) = self._maps(x), self._weights(x)
        y, way = ops.conv2d(
            maps,
            w[None],  # (1, k, C/groups, D)
            b,
            stride=(1, self.stride),
            padding=_both(self.padding),
            dilation=(1, self.dilation),
            groups=self.groups,
            mode=self.mode,
            need_dx=need_dx,
        )

        def convert(result: Any) -> Any:
            dx, gradients = result
            return dx, gradients | {"w": gradients["w"][0]}

        return self._back(y, with_gradients(self, way, "w", "b").then("Conv1D", convert), x)


class _Pool1D(_Sequence):
    """Base class of the layers that pool over windows."""

    op: Any
    twin: Any
    empty_windows = False

    def on_maps(self) -> Layer:
        return self.twin((1, self.pool_size), **self._options())

    def _options(self) -> dict[str, Any]:
        """The options of the two-dimensional layer, except for the size of its windows."""
        options = {name: value for name, value in self.config().items() if name != "pool_size"}
        return options | {"stride": (1, self.stride or self.pool_size), "padding": _both(self.padding)}

    def __init__(
        self, pool_size: int, *, stride: int | None = None, padding: Sides = 0, ceil_mode: bool = False
    ) -> None:
        op = type(self).__name__
        self.pool_size = integer(pool_size, "pool_size", op=op)
        self.stride = None if stride is None else integer(stride, "stride", op=op)
        self.padding, self.ceil_mode = sides(padding, op), flag(ceil_mode, "ceil_mode", op=op)

    def _windows(self, length: int) -> Windows:
        op, stride = type(self).__name__, self.stride or self.pool_size
        at = placed(op, (1, length), (1, self.pool_size), (1, stride), _both(self.padding), (1, 1), self.ceil_mode)
        if not self.empty_windows:
            check_no_window_is_empty(op, at)
        return at

    def output_shape(self, input_shape: Shape) -> Shape:
        return (self._windows(self._length(input_shape)).grid[1], input_shape[1])

    def forward(self, x: Array, train: bool = False) -> tuple[Array, Pullback]:
        y, way = self.op(self._maps(x), (1, self.pool_size), **self._options())
        return self._back(y, with_gradients(self, way), x)


class MaxPool1D(_Pool1D):
    """The largest unit of every window of a sequence: (L, C) -> (L', C). See :func:`dualnet.ops.max_pool2d`.

    ``stride=None`` is ``pool_size``; ``padding`` is a number, (before, after) or a name, as in :class:`Conv1D`.

    >>> import dualnet as dn
    >>> dn.MaxPool1D(4).output_shape((100, 8))
    (25, 8)
    """

    op = staticmethod(ops.max_pool2d)
    twin = MaxPool2D


class AveragePool1D(_Pool1D):
    """The mean of every window of a sequence: (L, C) -> (L', C). See :func:`dualnet.ops.avg_pool2d`.

    ``stride=None`` is ``pool_size``; ``padding`` is a number, (before, after) or a name, as in :class:`Conv1D`.

    >>> import dualnet as dn
    >>> dn.AveragePool1D(3, stride=2, padding="same").output_shape((100, 8))
    (50, 8)
    """

    op = staticmethod(ops.avg_pool2d)
    twin = AveragePool2D

    def __init__(
        self,
        pool_size: int,
        *,
        stride: int | None = None,
        padding: Sides = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = False,
    ) -> None:
        super().__init__(pool_size, stride=stride, padding=padding, ceil_mode=ceil_mode)
        self.count_include_pad = self.empty_windows = flag(count_include_pad, "count_include_pad", op="AveragePool1D")


class _GlobalPool1D(_Sequence):
    """Base class of the layers that pool over the whole sequence."""

    op: Any
    twin: Any

    def on_maps(self) -> Layer:
        return self.twin(keepdims=self.keepdims)

    def __init__(self, keepdims: bool = False) -> None:
        self.keepdims = flag(keepdims, "keepdims", op=type(self).__name__)

    def output_shape(self, input_shape: Shape) -> Shape:
        self._length(input_shape)
        return (1, input_shape[1]) if self.keepdims else (input_shape[1],)

    def forward(self, x: Array, train: bool = False) -> tuple[Array, Pullback]:
        y, way = self.op(self._maps(x), keepdims=self.keepdims)
        return self._back(y, with_gradients(self, way), x)


class GlobalAveragePool1D(_GlobalPool1D):
    """The mean of every channel of a sequence: (L, C) -> (C,), or (1, C). See :func:`dualnet.ops.global_avg_pool2d`.

    >>> import dualnet as dn
    >>> dn.GlobalAveragePool1D().output_shape((25, 8))
    (8,)
    """

    op = staticmethod(ops.global_avg_pool2d)
    twin = GlobalAveragePool2D


class GlobalMaxPool1D(_GlobalPool1D):
    """The largest unit of every channel of a sequence: (L, C) -> (C,), or (1, C). See
    :func:`dualnet.ops.global_max_pool2d`.

    >>> import dualnet as dn
    >>> dn.GlobalMaxPool1D(keepdims=True).output_shape((25, 8))
    (1, 8)
    """

    op = staticmethod(ops.global_max_pool2d)
    twin = GlobalMaxPool2D
