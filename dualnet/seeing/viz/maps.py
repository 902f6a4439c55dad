"""Many small maps at a time: filters, the outputs of layers, the deltas that come back."""

from __future__ import annotations

import math
from typing import Any

import numpy

from ...arguments import integer
from ...layers.layer import Layer
from ...layers.state import name_of
from ...ops import losses
from ...shim import to_numpy
from ..watching import Visit
from .canvas import at_most, blank, draw_mosaic, evenly, frames, host, mosaic, one_axes
from .passes import batch_of, checked, forward, maps_of, target_batch, visit_of

__all__ = ["deltas", "feature_maps", "filters"]


def filters(
    net: Layer, layer: str | Layer | None = None, *, channel: int | None = None, limit: int = 64, ax: Any = None
) -> Any:
    """Draw the filter bank of a convolution. Returns the Axes.

    ``layer`` is a layer's name, such as ``"3"``, or the layer itself; by default the first convolution. Filters on one
    channel are drawn side by side, those on three in colour (grey is 0). With more channels each row is a filter and
    each column a channel, unless ``channel`` picks one. ``limit`` is the largest number of small maps. Orange is
    positive, blue negative, white 0, on one scale for all.

    >>> import dualnet as dn
    >>> ax = dn.viz.filters(dn.models.lenet5().init((28, 28, 1)))
    >>> ax.get_title()
    '0 Conv2D: 6 filters, 5 × 5'
    """
    limit = at_most(limit, "filters")
    label, w = _bank(checked(net, "filters"), layer)
    k1, k2, C, D = w.shape
    if channel is not None:
        channel = integer(channel, "channel", op="viz.filters", least=0)
        if channel >= C:
            raise ValueError(f"viz.filters: {label} has the channels 0 … {C - 1}, got channel={channel}")
        w, C = w[:, :, channel : channel + 1], 1
    size = f"{k1} × {k2}"
    if C == 1:
        count = _of(min(D, limit), D, "filters")
        return draw_mosaic(ax, numpy.moveaxis(w[:, :, 0], -1, 0)[:limit], "filters", f"{label}: {count}, {size}")
    if C == 3:
        return _in_colour(numpy.moveaxis(w, -1, 0)[:limit], f"{label}: {_of(min(D, limit), D, 'filters')}, {size}", ax)
    columns = min(C, max(1, math.isqrt(limit)))
    rows = min(D, max(1, limit // columns))
    maps = numpy.moveaxis(w[:, :, :columns, :rows], (3, 2), (0, 1)).reshape(rows * columns, k1, k2)
    title = f"{label}: {_of(rows, D, 'filters')}, {_of(columns, C, 'channels')}, {size}"
    ax = draw_mosaic(ax, maps, "filters", title, columns=columns)
    ax.set_xlabel("channels →", fontsize=9)
    ax.set_ylabel("← filters", fontsize=9)
    return ax


def feature_maps(net: Layer, x: Any, layer: str | Layer | None = None, *, limit: int = 64, ax: Any = None) -> Any:
    """Draw the output of a layer for one image x (H, W, C): its channels as small maps, on one scale. Returns the Axes.

    ``layer`` is a layer's name or the layer itself; by default the first one that returns maps. The pass is as in
    inference. Above 0 is orange, below 0 blue, and 0 white.

    >>> import dualnet as dn
    >>> x = dn.data.load_digits()[0][0]
    >>> dn.viz.feature_maps(dn.models.digits_cnn().init((8, 8, 1)), x[0], "1").get_title()
    '1 ReLU: 32 maps, 8 × 8'
    """
    limit = at_most(limit, "feature_maps")
    x = _single(net, x, "feature_maps")
    probe, _, _ = forward(net, x)
    visit = maps_of(visit_of(net, probe, layer, "feature_maps", lambda: _first_maps(probe.visits)), "feature_maps")
    maps = numpy.moveaxis(host(visit.y)[0], -1, 0)
    return _channels(maps, visit, "maps", limit, ax, "feature_maps")


def deltas(
    net: Layer, x: Any, t: Any, layer: str | Layer | None = None, *, loss: Any = None, limit: int = 64, ax: Any = None
) -> Any:
    """Draw the delta that comes back to a layer's output, ∂E/∂y, for one image x (H, W, C) and its target t.

    Orange: a larger value would raise the loss; blue: it would lower it. ``loss`` is by default the one that the
    network was trained with, or softmax cross-entropy; the rest is as in :func:`feature_maps`. Returns the Axes.

    >>> import dualnet as dn
    >>> (x, t), _ = dn.data.load_digits()
    >>> dn.viz.deltas(dn.models.digits_cnn().init((8, 8, 1)), x[0], t[0], "1").get_title()
    '1 ReLU: deltas of 32 maps, 8 × 8'
    """
    limit = at_most(limit, "deltas")
    x = _single(net, x, "deltas")
    t = target_batch(net, t, 1, "deltas")
    chosen = losses.of(net, loss)
    probe, y, pullback = forward(net, x)
    visit = maps_of(visit_of(net, probe, layer, "deltas", lambda: _first_maps(probe.visits)), "deltas")
    pullback(chosen(y, t)[1]())
    maps = numpy.moveaxis(host(visit.dy)[0], -1, 0)
    return _channels(maps, visit, "deltas of", limit, ax, "deltas")


def _bank(net: Layer, layer: str | Layer | None) -> tuple[str, numpy.ndarray]:
    """The label and the filters (k1, k2, C, D) of the layer; by default of the first that has filters."""
    banks = {name: part for name, part in net.walk() if getattr(getattr(part, "w", None), "value", None) is not None}
    banks = {name: part for name, part in banks.items() if len(part.w.shape) == 4}  # type: ignore[attr-defined]
    if layer is None and not banks:
        why = "is not initialised: call net.init(input_shape)" if net.input_shape is None else "has no convolution"
        raise ValueError(f"viz.filters: the {type(net).__name__} {why}")
    name = next(iter(banks)) if layer is None else name_of(layer, net, "viz.filters")
    if name not in banks:
        raise ValueError(f"viz.filters: layer {name!r} has no filter bank; these have: {', '.join(map(repr, banks))}")
    part = banks[name]
    return f"{name} {type(part).__name__}".strip(), to_numpy(part.w.value).astype(numpy.float64)  # type: ignore[attr-defined]


def _in_colour(banks: numpy.ndarray, title: str, ax: Any) -> Any:
    """Filters on red, green and blue (K, k1, k2, 3); grey is 0."""
    top = float(numpy.abs(banks).max()) or 1.0
    columns = evenly(len(banks), math.ceil(math.sqrt(len(banks) * 1.5)))
    sheet = mosaic(0.5 + banks / (2 * top), columns)
    seen = numpy.isfinite(sheet).all(axis=-1, keepdims=True).astype(numpy.float64)  # the gaps stay empty
    ax = one_axes(ax, "filters", (5.5, 1.0 + 5.0 * sheet.shape[0] / sheet.shape[1]))
    blank(ax).imshow(numpy.concatenate([numpy.nan_to_num(sheet), seen], axis=-1), interpolation="nearest")
    ax.set_title(title, fontsize=10)
    frames(ax, banks, columns)
    ax.set_xlabel("red, green and blue as the channels; grey is 0", fontsize=9)
    return ax


def _single(net: Layer, x: Any, op: str) -> Any:
    x = batch_of(net, x, op)
    if x.shape[0] != 1:
        raise ValueError(f"viz.{op}: x holds {x.shape[0]} examples; expected one, such as x[0]")
    return x


def _first_maps(visits: list[Visit]) -> Visit:
    inside = [visit for visit in visits if visit.y.ndim == 4 and not visit.children]
    return inside[0] if inside else visits[0]


def _channels(maps: numpy.ndarray, visit: Visit, kind: str, limit: int, ax: Any, op: str) -> Any:
    K, h, w = maps.shape
    number = _of(min(K, limit), K, "maps")
    words = number if kind == "maps" else f"{kind} {number}"
    return draw_mosaic(ax, maps[:limit], op, f"{visit.label}: {words}, {h} × {w}")


def _of(shown: int, there: int, what: str) -> str:
    return f"{there} {what}" if shown == there else f"{shown} of {there} {what}"
