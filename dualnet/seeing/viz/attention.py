"""Which parts of an image decide a network's answer: saliency and Grad-CAM."""

from __future__ import annotations

from typing import Any

import numpy

from ...layers.layer import Layer
from .canvas import axes_for, blank, grey, host, image, one_axes
from .passes import batch_of, forward, last_maps, maps_of, score_gradient, targets, visit_of

__all__ = ["class_activation", "grad_cam", "saliency", "saliency_map"]


def saliency(net: Layer, x: Any, t: Any = None, *, classes: Any = None, ax: Any = None, axes: Any = None) -> Any:
    """Mark the pixels on which the score of a class depends most: |∂score/∂x|, the largest over the channels.

    One image x (H, W, C) is drawn on ``ax`` and its Axes returned; several (N, H, W, C) on ``axes``, an array of Axes.
    ``t`` is the class, or one for each image; by default the one that the network predicts. ``classes`` names the
    classes. The score is the network's output before any loss (logits, for a network that ends in a dense layer).

    Source: Simonyan, Vedaldi and Zisserman (2014), "Deep inside convolutional networks", section 3.1.

    >>> import dualnet as dn
    >>> (x, t), _ = dn.data.load_digits()
    >>> dn.viz.saliency(dn.models.digits_cnn().init((8, 8, 1)), x[0], 3).get_title()
    'saliency for 3'
    """
    batch = batch_of(net, x, "saliency")
    _maps_only(batch, "saliency")
    strength, chosen = saliency_map(net, batch, t)
    return _over(x, batch, strength, _titles("saliency", chosen, classes, "saliency"), "saliency", ax, axes, "nearest")


def grad_cam(
    net: Layer,
    x: Any,
    t: Any = None,
    *,
    layer: str | Layer | None = None,
    classes: Any = None,
    ax: Any = None,
    axes: Any = None,
) -> Any:
    """Mark the parts of an image that speak for a class, according to the maps A of a layer:

        α_k = mean over the map of ∂score/∂A_k          L = max(0, Σ_k α_k A_k)

    ``layer`` is a layer's name or the layer itself; by default the last one that still has maps and is not a pooling.
    Everything else is as in :func:`saliency`. The coarse map is stretched over the image.

    Source: Selvaraju et al. (2017), "Grad-CAM", equations 1 and 2.

    >>> import dualnet as dn
    >>> (x, t), _ = dn.data.load_digits()
    >>> axes = dn.viz.grad_cam(dn.models.digits_cnn().init((8, 8, 1)), x[:3], t[:3])
    >>> axes.shape, axes[0].get_title()
    ((3,), 'Grad-CAM for 5')
    """
    batch = batch_of(net, x, "grad_cam")
    _maps_only(batch, "grad_cam")
    strength, chosen = class_activation(net, batch, t, layer)
    return _over(x, batch, strength, _titles("Grad-CAM", chosen, classes, "grad_cam"), "grad_cam", ax, axes, "bilinear")


def saliency_map(net: Layer, batch: Any, t: Any = None) -> tuple[numpy.ndarray, numpy.ndarray]:
    """|∂score/∂x| (N, H, W), the largest over the channels, and the classes (N,)."""
    _, y, pullback = forward(net, batch)
    chosen = targets(t, y, "saliency")
    dx, _ = pullback(score_gradient(y, chosen))
    return numpy.abs(host(dx)).max(axis=-1), chosen


def class_activation(
    net: Layer, batch: Any, t: Any = None, layer: str | Layer | None = None
) -> tuple[numpy.ndarray, numpy.ndarray]:
    """Grad-CAM's L (N, h, w), of the size of the layer's maps, and the classes (N,)."""
    probe, y, pullback = forward(net, batch)
    chosen = targets(t, y, "grad_cam")
    visit = maps_of(visit_of(net, probe, layer, "grad_cam", lambda: last_maps(probe, "grad_cam")), "grad_cam")
    pullback(score_gradient(y, chosen))
    A, dA = host(visit.y), host(visit.dy)
    alpha = dA.mean(axis=(1, 2), keepdims=True)  # (N, 1, 1, K)
    return numpy.maximum(0.0, (alpha * A).sum(axis=-1)), chosen


def _maps_only(batch: Any, op: str) -> None:
    if batch.ndim != 4:
        raise ValueError(f"viz.{op}: the network takes {tuple(batch.shape[1:])}; expected images (H, W, C)")


def _titles(what: str, chosen: numpy.ndarray, classes: Any, op: str) -> list[str]:
    names = class_names(classes, int(chosen.max()) + 1, op)
    return [f"{what} for {names[int(c)]}" for c in chosen]


def class_names(classes: Any, count: int, op: str) -> list[str]:
    """The names of classes 0, 1, …: by default their numbers."""
    if classes is None:
        return [str(c) for c in range(count)]
    names = [str(name) for name in classes]
    if isinstance(classes, str) or len(names) < count:
        raise ValueError(f"viz.{op}: classes holds {len(names)} names; expected one for each of {count} classes")
    return names


def _over(
    x: Any, batch: Any, strength: numpy.ndarray, titles: list[str], op: str, ax: Any, axes: Any, smooth: str
) -> Any:
    """Each image in grey with the strength drawn over it: dark where it is 0, bright where it is largest."""
    pictures = host(batch)
    if ax is not None and axes is not None:
        raise ValueError(f"viz.{op}: give ax for one image or axes for several, not both")
    single = axes is None and (ax is not None or len(getattr(x, "shape", numpy.shape(x))) == batch.ndim - 1)
    if single and len(pictures) > 1:
        raise ValueError(f"viz.{op}: ax takes one image, got {len(pictures)}; give axes, or neither")
    panels = [one_axes(ax, op, (3.4, 3.4))] if single else axes_for(len(pictures), axes, op)
    for panel, picture, values, title in zip(panels, pictures, strength, titles):
        _glow(panel, image(picture), values, smooth)
        panel.set_title(title, fontsize=9)
    return panels[0] if single else panels


def _glow(ax: Any, picture: numpy.ndarray, values: numpy.ndarray, smooth: str) -> None:
    H, W = picture.shape[:2]
    top = float(values.max())
    share = values / top if top > 0 else values
    grey(ax, picture)
    edges = (-0.5, W - 0.5, H - 0.5, -0.5)
    blank(ax).imshow(share, cmap="inferno", vmin=0, vmax=1, alpha=0.65, extent=edges, interpolation=smooth)
    ax.set_xlim(-0.5, W - 0.5)
    ax.set_ylim(H - 0.5, -0.5)
