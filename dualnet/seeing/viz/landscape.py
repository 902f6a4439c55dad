"""The loss around a network's weights: a slice through a landscape with as many dimensions as there are weights."""

from __future__ import annotations

from typing import Any

import numpy

from ...arguments import integer, positive
from ...layers.layer import Layer
from ...ops import losses
from ...shim import Array, asarray, backend_of, to_numpy
from .canvas import BLUE, ORANGE, one_axes, plain
from .passes import batch_of, forward, target_batch

__all__ = ["landscape", "loss_landscape"]

Direction = dict[str, numpy.ndarray]
WIDE = 30
"""If the largest loss is this many times the smallest, contours are spaced by a factor."""


def loss_landscape(
    net: Layer,
    x: Any,
    t: Any,
    *,
    directions: int | str = 1,
    span: float | None = None,
    points: int = 21,
    loss: Any = None,
    seed: int = 0,
    ax: Any = None,
) -> Any:
    """Draw the loss on x, t along one or two directions through the weights w: E(w + α d) or E(w + α d + β e).

    ``directions`` is 1 (a curve) or 2 (a map of contours) for random directions, or ``"gradient"``: down the gradient,
    where a step of 1 is as long as the weights. Random ones are normalised filter by filter: each filter of d gets the
    length of that filter of w, and biases, γ and β (all parameters with one axis) stay where they are. So curves
    of different networks can be compared. α goes from ``-span`` to ``span`` (1; 0.2 for the gradient) in ``points``
    steps. Each point is a pass in inference. The network is not changed. Returns the Axes.

    Source: Li et al. (2018), "Visualizing the loss landscape of neural nets", section 4.

    >>> import dualnet as dn
    >>> (x, t), _ = dn.data.load_digits()
    >>> ax = dn.viz.loss_landscape(dn.models.digits_cnn().init((8, 8, 1)), x[:16], t[:16], points=3)
    >>> ax.get_xlabel(), ax.get_ylabel()
    ('α, along a random direction', 'loss')
    """
    op = "loss_landscape"
    if directions not in (1, 2, "gradient") or isinstance(directions, bool):
        raise ValueError(f"viz.{op}: directions must be 1, 2 or 'gradient', got {directions!r}")
    points = integer(points, "points", op=f"viz.{op}", least=2)
    span = (0.2 if directions == "gradient" else 1.0) if span is None else positive(span, "span", op=f"viz.{op}")
    steps, values = landscape(net, x, t, directions, span, points, loss, seed)
    ax = one_axes(ax, op)
    if values.ndim == 1:
        plain(ax).plot(steps, values, color=BLUE, linewidth=1.8)
        ax.plot(0, _at_zero(steps, values), "o", color=ORANGE, markersize=6)
        where = "down the gradient" if directions == "gradient" else "along a random direction"
        ax.set_xlabel(f"α, {where}")
        ax.set_ylabel("loss")
        ax.set_title("the loss around the weights (dot)", fontsize=10)
        return ax
    return _contours(ax, steps, values)


def landscape(
    net: Layer, x: Any, t: Any, directions: int | str, span: float, points: int, loss: Any, seed: int
) -> tuple[numpy.ndarray, numpy.ndarray]:
    """The steps (points,) and the losses (points,) or, with rows for β, (points, points)."""
    batch = batch_of(net, x, "loss_landscape")
    target = target_batch(net, t, int(batch.shape[0]), "loss_landscape")
    chosen = losses.of(net, loss)
    if not net.parameters():
        raise ValueError(f"viz.loss_landscape: the {type(net).__name__} has no weights to move")
    start = {name: to_numpy(p.value).astype(numpy.float64) for name, p in net.parameters().items()}
    moved = net.copy()  # has weights of its own: those of net do not change
    steps = numpy.linspace(-span, span, points)
    if directions == "gradient":
        ways = [_downhill(net, batch, target, chosen, start)]
    else:
        rng = numpy.random.default_rng(seed)
        ways = [_filterwise(rng, start) for _ in range(int(directions))]

    def at(*amounts: float) -> float:
        with numpy.errstate(over="ignore", invalid="ignore"):  # far out the loss may be NaN: a gap in the picture
            for name, parameter in moved.parameters().items():
                value = start[name] + sum(a * way[name] for a, way in zip(amounts, ways))
                parameter.value = asarray(value.astype(parameter.dtype.name), backend=backend_of(parameter.value).name)
            return float(to_numpy(chosen(moved(batch), target)[0]))

    if len(ways) == 1:
        return steps, numpy.array([at(a) for a in steps])
    return steps, numpy.array([[at(a, b) for a in steps] for b in steps])


def _filterwise(rng: numpy.random.Generator, start: Direction) -> Direction:
    """A random direction whose filters (last axis) are as long as those of the weights; 0 for one axis."""
    way = {}
    for name, w in start.items():
        d = rng.standard_normal(w.shape)
        axes = tuple(range(w.ndim - 1))
        length = numpy.sqrt((d * d).sum(axis=axes, keepdims=True))
        way[name] = d / length * numpy.sqrt((w * w).sum(axis=axes, keepdims=True)) if axes else numpy.zeros(w.shape)
    return way


def _downhill(net: Layer, batch: Array, target: Array, loss: Any, start: Direction) -> Direction:
    """−∂E/∂w, as long as the weights."""
    _, y, pullback = forward(net, batch)
    gradients = {name: to_numpy(g).astype(numpy.float64) for name, g in pullback(loss(y, target)[1]())[1].items()}
    length = numpy.sqrt(sum((g * g).sum() for g in gradients.values()))
    weights = numpy.sqrt(sum((w * w).sum() for w in start.values()))
    if not length > 0:
        raise ValueError("viz.loss_landscape: the gradient is 0 here; use random directions (directions=1 or 2)")
    return {name: -gradients[name] * (weights / length) for name in start}


def _at_zero(steps: numpy.ndarray, values: numpy.ndarray) -> float:
    return float(numpy.interp(0.0, steps, values))


def _contours(ax: Any, steps: numpy.ndarray, values: numpy.ndarray) -> Any:
    """Contours on given Axes, with the losses as rows for β."""
    finite = numpy.isfinite(values)
    if not finite.any():
        raise ValueError("viz.loss_landscape: the loss is not finite anywhere on this slice; use a smaller span")
    low, high = float(values[finite].min()), float(values[finite].max())
    shown = numpy.ma.masked_invalid(values)
    drawn = ax.contourf(
        steps,
        steps,
        shown,
        levels=(levels := _levels(low, high)),
        cmap="viridis",
        norm="log" if high > WIDE * low > 0 else "linear",
    )
    ax.contour(steps, steps, shown, levels=levels[::2], colors="white", linewidths=0.5, alpha=0.6)
    ax.plot(0, 0, "o", color=ORANGE, markersize=6)
    bar = ax.figure.colorbar(drawn, ax=ax, fraction=0.046, pad=0.02, format="%.3g")
    bar.set_label("loss", fontsize=9)
    ax.set_aspect("equal")
    ax.set_xlabel("α, along a random direction")
    ax.set_ylabel("β, along another")
    ax.set_title("the loss around the weights (dot)", fontsize=10)
    return ax


def _levels(low: float, high: float) -> numpy.ndarray:
    """Where the contours run: evenly spaced, or by equal factors if the losses differ widely."""
    if high > WIDE * low > 0:
        return numpy.geomspace(low, high, 21)
    return numpy.linspace(low, max(high, low + 1e-9 + abs(low) * 1e-6), 21)
