"""What augmentation does to an image, before you spend hours on training with it."""

from __future__ import annotations

from typing import Any

import numpy

from ...arguments import integer
from ...data import augmentation
from ...data.inputs import normalising
from ...shim import to_numpy
from .canvas import axes_for, blank, images

__all__ = ["augmented"]


def augmented(x: Any, augment: Any, *, count: int = 12, seed: int = 0, axes: Any = None) -> Any:
    """Draw an image (H, W, C), and ``count`` images that ``augment`` makes from it. Returns an array of Axes.

    ``augment`` is the argument of ``net.fit(..., augment=...)``: a list of changes, or an
    :class:`dualnet.data.Augment`. x is as in ``fit``: bytes, or floating-point numbers from 0 to 1. Normalising is
    undone, so that colours stay as they are. If there are several images (N, H, W, C), the first one is drawn, and
    changes that mix images mix it with the others; a single image is mixed with itself.

    >>> import dualnet as dn, numpy
    >>> image = numpy.zeros((8, 8, 3), "uint8")
    >>> [ax.get_title() for ax in dn.viz.augmented(image, [dn.data.Flip()], count=2)]
    ['given', '1', '2']
    """
    op = "augmented"
    count, augment = integer(count, "count", op=f"viz.{op}"), augmentation(augment, f"viz.{op}")
    if augment is None:
        raise TypeError(f"viz.{op}: augment is None; expected a list such as [dn.data.Flip()]")
    given = to_numpy(x) if hasattr(x, "shape") else numpy.asarray(x)
    given = given if given.dtype == numpy.uint8 else images(given, op)
    given = given[None] if given.ndim == 3 else given
    order = numpy.zeros(2 * count, int)
    order[1::2] = (
        1 + numpy.arange(count) % max(1, len(given) - 1) if len(given) > 1 else 0
    )  # the images it is mixed with
    moves = augment.moves(2 * count, seed=integer(seed, "seed", op=f"viz.{op}", least=0))
    made = _plain(augment, augment.batch(given, order, moves))[::2]
    whole = given[0] / 255 if given.dtype == numpy.uint8 else given[0]
    panels = axes_for(count + 1, axes, op, size=1.5, most=max(3, round((1.6 * (count + 1)) ** 0.5)))
    for place, (ax, picture) in enumerate(zip(panels, [whole, *made])):
        shown = numpy.clip(picture, 0, 1)
        shown = shown if shown.shape[-1] == 3 else shown.mean(axis=-1)
        blank(ax).imshow(shown, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        ax.set_title(str(place) if place else "given", fontsize=9)
    return panels


def _plain(augment: Any, y: numpy.ndarray) -> numpy.ndarray:
    """The images as they were before normalising."""
    mean, std = normalising(augment)
    y = y if std is None else y * numpy.array(std, y.dtype)
    return y if mean is None else y + numpy.array(mean, y.dtype)
