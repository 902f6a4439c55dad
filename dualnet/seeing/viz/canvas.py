"""What all pictures share: axes to draw on, images for the screen, colours, many small maps in one."""

from __future__ import annotations

import math
from typing import Any

import numpy

from ...arguments import integer
from ...markup import BLUE, NEGATIVE, ORANGE, POSITIVE
from ...shim import asarray, to_numpy

__all__ = [
    "BLUE",
    "CYCLE",
    "ORANGE",
    "around_zero",
    "axes_for",
    "blank",
    "colourbar",
    "host",
    "image",
    "images",
    "mosaic",
    "one_axes",
]

CYCLE = (BLUE, ORANGE, "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Colours that colour-blind readers can tell apart; all but the first two are those of Okabe and Ito (2008)."""
FINE = 12
"""The least size of a map in a mosaic, in pixels, so that the gaps between maps can be small."""


def around_zero() -> Any:
    """The colours of every picture for values of both signs, for matplotlib's ``cmap=``: blue, white at 0, orange.

    Give ``imshow`` the same number as ``-vmin`` and ``vmax``, so that 0 is white. Colour-blind readers can tell the two
    signs apart.

    >>> import dualnet as dn
    >>> [float(part) for part in dn.viz.around_zero()(0.5)]
    [1.0, 1.0, 1.0, 1.0]
    """
    pyplot("around_zero")
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("dualnet", [NEGATIVE["light"], "#ffffff", POSITIVE["light"]], N=257)


def pyplot(op: str) -> Any:
    """Import matplotlib.pyplot now, and return it."""
    try:
        import matplotlib.pyplot
    except ImportError as error:
        raise ImportError(f'viz.{op}: drawing needs matplotlib: pip install "dualnet[plot]"') from error
    return matplotlib.pyplot


def one_axes(ax: Any, op: str, size: tuple[float, float] = (5.0, 4.0)) -> Any:
    """The given Axes, or those of a new figure."""
    if ax is not None:
        if not hasattr(ax, "imshow"):
            raise TypeError(f"viz.{op}: expected ax to be a matplotlib Axes, got {type(ax).__name__}")
        return ax
    return pyplot(op).subplots(figsize=size, layout="compressed")[1]


def axes_for(count: int, axes: Any, op: str, *, size: float = 1.9, most: int = 6) -> numpy.ndarray:
    """``count`` Axes as an array: the first of those given, or those of a new figure in rows of at most ``most``."""
    if axes is not None:
        flat = numpy.array(axes, dtype=object).ravel()
        if not all(hasattr(ax, "imshow") for ax in flat):
            raise TypeError(f"viz.{op}: expected axes to be matplotlib Axes, as plt.subplots makes them")
        if len(flat) < count:
            raise ValueError(f"viz.{op}: {count} panels do not fit on {len(flat)} Axes; give more, or show fewer")
        return flat[:count]
    columns = evenly(count, most)
    rows = math.ceil(count / columns)
    options = {"figsize": (size * columns, size * rows * 1.18), "squeeze": False, "layout": "compressed"}
    flat = pyplot(op).subplots(rows, columns, **options)[1].ravel()
    for spare in flat[count:]:
        spare.set_axis_off()
    return flat[:count]


def evenly(count: int, most: int) -> int:
    """How many of ``count`` panels go in a row of at most ``most``: the fewest that need no extra row.

    >>> evenly(8, 6), evenly(16, 5), evenly(3, 6)
    (4, 4, 3)
    """
    return math.ceil(count / math.ceil(count / most))


def blank(ax: Any) -> Any:
    """Axes for an image: no ticks, no frame."""
    ax.set_xticks([])
    ax.set_yticks([])
    for spine in ax.spines.values():
        spine.set_visible(False)
    return ax


def plain(ax: Any) -> Any:
    """Axes for a curve: two spines, a faint grid."""
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(True, alpha=0.25, linewidth=0.8)
    ax.set_axisbelow(True)
    return ax


def colourbar(drawn: Any, ax: Any, label: str = "") -> None:
    """A slim scale beside the Axes."""
    bar = ax.figure.colorbar(drawn, ax=ax, fraction=0.046, pad=0.02)
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=8)
    if label:
        bar.set_label(label, fontsize=9)


# -- arrays ------------------------------------------------------------------------------------------------------------


def host(array: Any) -> numpy.ndarray:
    """An array of any backend, or a list, as a NumPy array; floats as float64."""
    result = to_numpy(asarray(array, backend="numpy"))
    return result.astype(numpy.float64) if result.dtype.kind == "f" else result


def images(x: Any, op: str) -> numpy.ndarray:
    """Images (N, H, W, C) on the host; a single one (H, W, C) becomes a batch of one."""
    result = host(x)
    if result.ndim == 3:
        result = result[None]
    if result.ndim != 4 or 0 in result.shape:
        raise ValueError(f"viz.{op}: x has shape {numpy.shape(x)}; expected images (N, H, W, C), or one (H, W, C)")
    return result


def image(x: numpy.ndarray) -> numpy.ndarray:
    """One image (H, W, C) from 0 to 1, as (H, W) or (H, W, 3): unless there are three channels, they are averaged."""
    low, high = float(numpy.min(x)), float(numpy.max(x))
    scaled = (x - low) / (high - low) if high > low else numpy.zeros(x.shape)
    return scaled if x.shape[-1] == 3 else scaled.mean(axis=-1)


def grey(ax: Any, picture: numpy.ndarray) -> Any:
    """Draw an image from 0 to 1."""
    return blank(ax).imshow(picture, cmap="gray", vmin=0, vmax=1, interpolation="nearest")


def mosaic(maps: numpy.ndarray, columns: int) -> numpy.ndarray:
    """Maps (K, h, w[, 3]) side by side in rows, with empty (NaN) pixels between them; small maps are enlarged."""
    split = math.ceil(FINE / max(maps.shape[1:3]))
    maps = maps.repeat(split, axis=1).repeat(split, axis=2)
    K, h, w = maps.shape[:3]
    (down, across), rows = _steps(h, w), math.ceil(K / columns)
    sheet = numpy.full((rows * down - (down - h), columns * across - (across - w), *maps.shape[3:]), numpy.nan)
    for k in range(K):
        top, left = (k // columns) * down, (k % columns) * across
        sheet[top : top + h, left : left + w] = maps[k]
    return sheet


def _steps(h: int, w: int) -> tuple[int, int]:
    """From one map to the next, down and across."""
    gap = max(1, round(max(h, w) / 12))
    return h + gap, w + gap


def frames(ax: Any, maps: numpy.ndarray, columns: int) -> None:
    """A fine line around each map of a mosaic: without it, a map of values near 0 would have no edge."""
    split = math.ceil(FINE / max(maps.shape[1:3]))
    h, w = (n * split for n in maps.shape[1:3])
    down, across = _steps(h, w)
    for k in range(len(maps)):
        left, top = (k % columns) * across - 0.5, (k // columns) * down - 0.5
        edges = [left, left + w, left + w, left, left], [top, top, top + h, top + h, top]
        ax.plot(*edges, color=(0.5, 0.5, 0.5, 0.45), linewidth=0.6, scalex=False, scaley=False, clip_on=False)


def draw_mosaic(ax: Any, maps: numpy.ndarray, op: str, title: str, *, columns: int | None = None, bar: str = "") -> Any:
    """Draw many maps on one scale, 0 in white; the bar begins at 0 if nothing is below."""
    if maps.size and not numpy.isfinite(maps).any():
        raise ValueError(f"viz.{op}: all values are NaN or infinite")
    columns = columns or evenly(len(maps), math.ceil(math.sqrt(len(maps) * 1.5 * maps.shape[1] / maps.shape[2])))
    sheet = mosaic(maps, columns)
    finite = maps[numpy.isfinite(maps)]
    top = float(numpy.max(numpy.abs(finite))) or 1.0
    ax = one_axes(ax, op, _size(sheet.shape))
    shown = numpy.ma.masked_invalid(sheet)
    drawn = blank(ax).imshow(shown, cmap=around_zero(), vmin=-top, vmax=top, interpolation="nearest")
    frames(ax, maps, columns)
    ax.set_title(title, fontsize=10)
    colourbar(drawn, ax, bar)
    if not (finite < 0).any():
        drawn.colorbar.ax.set_ylim(0.0, top)
    return ax


def _size(shape: tuple[int, ...]) -> tuple[float, float]:
    """The size in inches for a sheet of this shape: about six across, and never too narrow."""
    height, width = shape[:2]
    scale = 5.2 / max(height, width)
    return max(3.2, width * scale) + 0.9, max(1.6, height * scale) + 0.5


def at_most(limit: Any, op: str) -> int:
    """The argument ``limit``."""
    return integer(limit, "limit", op=f"viz.{op}")
