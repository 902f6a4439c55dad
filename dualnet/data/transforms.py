"""Changes of images, one class each, to put into a list: ``fit(..., augment=[RandomCrop(32, padding=4), Flip()])``.

Each class has two main methods. ``draw(rng, examples)`` draws the random numbers of an epoch on the host, (examples,
numbers) in float64: they do not depend on the images, so they are the same on every backend. ``apply(x, drawn)``
changes images x (N, H, W, C), floating numbers from 0 (black) to 1 (white), on their own backend. ``still(x)`` changes
images that are not trained on.

Geometric changes read the image at the points (row, column) of a grid. Between pixels they interpolate: the four pixels
around a point are weighted by their distance. Outside the image everything is black.
"""

from __future__ import annotations

import math
from typing import Any

import numpy

from ..arguments import extents, flag, integer, number, positive, real
from ..shim import Array, asarray, backend_of

__all__ = ["Brightness", "Contrast", "CutOut", "Flip", "Normalise", "RandomCrop", "RandomResizedCrop", "Rotate"]

RNG = numpy.random.Generator
Shape = tuple[int, ...]


class Transform:
    """Base class: one change of images. A class of your own defines ``numbers`` and ``apply``, and also ``draw`` if it
    needs numbers other than uniform ones from 0 to 1.

    numbers     how many random numbers an image needs
    place       0 for changes that move or recolour pixels, 1 for later ones: normalising and mixing

    >>> import dualnet as dn, numpy
    >>> class Dimmed(dn.data.Transform):
    ...     numbers = 1
    ...     def apply(self, x, drawn):
    ...         return x * drawn[:, :, None, None].astype(x.dtype)
    >>> augment = dn.data.augmentation([Dimmed()])
    >>> moves = augment.moves(3)
    >>> y = augment.batch(numpy.ones((3, 1, 1, 1)), range(3), moves, dtype="float64")
    >>> bool((y[:, 0, 0, 0] == moves[:, 0]).all())
    True
    """

    numbers = 0
    place = 0

    def draw(self, rng: RNG, examples: int) -> numpy.ndarray:
        """The random numbers of an epoch: (examples, numbers)."""
        return rng.random((examples, self.numbers))

    def apply(self, x: Array, drawn: Array) -> Array:
        """Images x (N, H, W, C), changed by the numbers ``drawn`` (N, numbers)."""
        raise NotImplementedError(f"{type(self).__name__} does not define apply(x, drawn)")

    def still(self, x: Array) -> Array:
        """Images x that are not trained on, changed for testing."""
        return x

    def shape(self, shape: Shape) -> Shape:
        """The new shape of an image of shape (H, W, C)."""
        return shape

    def check(self, shape: Shape) -> None:
        """Raise ``ValueError`` if images of shape (H, W, C) do not fit."""

    def __repr__(self) -> str:
        inside = ", ".join(f"{name}={value!r}" for name, value in vars(self).items() if not name.startswith("_"))
        return f"{type(self).__name__}({inside})"


# -- geometry ----------------------------------------------------------------------------------------------------------


class RandomCrop(Transform):
    """A window of ``size`` at a random position in the image, which gets ``padding`` black pixels on each side first.

    For images that are not trained on, it is the window in the middle. Source: Krizhevsky, Sutskever and Hinton (2012),
    section 4.1; with padding He et al. (2016), section 4.2.

    >>> import dualnet as dn, numpy
    >>> augment = dn.data.augmentation([dn.data.RandomCrop(2)])
    >>> augment.batch(numpy.arange(16.0).reshape(1, 4, 4, 1), [0])[0, :, :, 0]  # the middle: no moves were given
    array([[ 5.,  6.],
           [ 9., 10.]], dtype=float32)
    """

    numbers = 2

    def __init__(self, size: int | tuple[int, int], padding: int = 0) -> None:
        self.size = extents(size, "size", op="RandomCrop")
        self.padding = integer(padding, "padding", op="RandomCrop", least=0)

    def apply(self, x: Array, drawn: Array) -> Array:
        xp, (_, H, W, _), (h, w) = backend_of(x).xp, x.shape, self.size
        top, left = (
            xp.floor(drawn[:, k] * float(room + 2 * self.padding + 1)) - self.padding
            for k, room in enumerate((H - h, W - w))
        )
        return self._window(x, top, left)

    def still(self, x: Array) -> Array:
        xp, (N, H, W, _), (h, w) = backend_of(x).xp, x.shape, self.size
        top, left = (
            xp.full((N,), (room + 2 * self.padding) // 2 - self.padding, dtype="float64") for room in (H - h, W - w)
        )
        return self._window(x, top, left)

    def _window(self, x: Array, top: Array, left: Array) -> Array:
        xp, (h, w) = backend_of(x).xp, self.size
        rows = top.astype("int64")[:, None] + xp.arange(h)  # (N, h)
        columns = left.astype("int64")[:, None] + xp.arange(w)  # (N, w)
        return pixels_at(x, rows[:, :, None], columns[:, None, :])

    def shape(self, shape: Shape) -> Shape:
        return (*self.size, *shape[2:])

    def check(self, shape: Shape) -> None:
        for size, extent in zip(self.size, shape):
            if size > extent + 2 * self.padding:
                raise ValueError(f"{self}: a window of {size} does not fit into {extent} pixels; use more padding")


class RandomResizedCrop(Transform):
    """A random part of the image, of random size and shape, scaled to ``size``.

    The part's share of the image's area is drawn from ``area``, its ratio of width to height from ``ratio``; if it is
    larger than the image, it is cut off. For images that are not trained on, it is the largest part in the middle that
    has the shape of ``size``. Source: Szegedy et al. (2015), section 6.

    >>> import dualnet as dn, numpy
    >>> augment = dn.data.augmentation([dn.data.RandomResizedCrop(16)])
    >>> augment.batch(numpy.zeros((2, 24, 32, 3), "uint8"), [0, 1], augment.moves(2)).shape
    (2, 16, 16, 3)
    """

    numbers = 4

    def __init__(
        self,
        size: int | tuple[int, int],
        area: tuple[float, float] = (0.08, 1.0),
        ratio: tuple[float, float] = (3 / 4, 4 / 3),
    ) -> None:
        self.size = extents(size, "size", op="RandomResizedCrop")
        self.area, self.ratio = _range(area, "area", 1.0), _range(ratio, "ratio", math.inf)

    def draw(self, rng: RNG, examples: int) -> numpy.ndarray:
        """The part's height √(area / ratio), its width √(area · ratio), and its position as shares of the rest."""
        area = rng.uniform(*self.area, examples)
        least, most = map(math.log, self.ratio)
        ratio = numpy.exp(rng.uniform(least, most, examples))
        return numpy.stack([numpy.sqrt(area / ratio), numpy.sqrt(area * ratio), *rng.random((2, examples))], axis=1)

    def apply(self, x: Array, drawn: Array) -> Array:
        xp, (_, H, W, _), side = backend_of(x).xp, x.shape, math.sqrt(x.shape[1] * x.shape[2])
        height, width = (xp.clip(drawn[:, k] * side, 1.0, float(n)) for k, n in enumerate((H, W)))
        return self._part(x, drawn[:, 2] * (H - height), drawn[:, 3] * (W - width), height, width)

    def still(self, x: Array) -> Array:
        xp, (N, H, W, _), (h, w) = backend_of(x).xp, x.shape, self.size
        scale = min(H / h, W / w)
        box = (H - h * scale) / 2, (W - w * scale) / 2, h * scale, w * scale
        return self._part(x, *(xp.full((N,), value, dtype="float64") for value in box))

    def _part(self, x: Array, top: Array, left: Array, height: Array, width: Array) -> Array:
        """Pixel i of h covers the part's rows from i · height/h on, and reads their middle. The edge is repeated."""
        xp, (_, H, W, _) = backend_of(x).xp, x.shape
        (h, w), half = self.size, 0.5
        rows = top[:, None] + (xp.arange(h) + half) * (height / h)[:, None] - half  # (N, h)
        columns = left[:, None] + (xp.arange(w) + half) * (width / w)[:, None] - half  # (N, w)
        rows, columns = xp.clip(rows, 0.0, H - 1.0), xp.clip(columns, 0.0, W - 1.0)
        return between_pixels(x, rows[:, :, None], columns[:, None, :])

    def shape(self, shape: Shape) -> Shape:
        return (*self.size, *shape[2:])


class Flip(Transform):
    """Mirrors about half of the images: it swaps left and right, or top and bottom with ``vertical=True``.

    >>> import dualnet as dn, numpy
    >>> augment = dn.data.augmentation([dn.data.Flip()])
    >>> augment.batch(numpy.array([[[[0.0], [1.0]]]]), [0] * 4, augment.moves(4, seed=1))[:, 0, 0, 0]
    array([0., 0., 1., 0.], dtype=float32)
    """

    numbers = 1

    def __init__(self, vertical: bool = False) -> None:
        self.vertical = flag(vertical, "vertical", op="Flip")

    def apply(self, x: Array, drawn: Array) -> Array:
        xp = backend_of(x).xp
        return xp.where((drawn[:, 0] < 0.5)[:, None, None, None], xp.flip(x, axis=1 if self.vertical else 2), x)


class Rotate(Transform):
    """Rotates images about their middle by up to ``degrees`` either way; the free corners are black.

    >>> import dualnet as dn, numpy
    >>> augment = dn.data.augmentation([dn.data.Rotate(15)])
    >>> images = numpy.ones((3, 9, 9, 1))
    >>> y = augment.batch(images, [0, 1, 2], augment.moves(3))
    >>> y.shape, bool(y[:, 4, 4].min() > 0.99), bool(y[:, 0, 0].max() < 1)
    ((3, 9, 9, 1), True, True)
    """

    numbers = 2

    def __init__(self, degrees: float) -> None:
        self.degrees = number(degrees, "degrees", op="Rotate", most=180)

    def draw(self, rng: RNG, examples: int) -> numpy.ndarray:
        """cos and sin, computed on the host: a device's last bits may differ."""
        angle = numpy.deg2rad(rng.uniform(-self.degrees, self.degrees, examples))
        return numpy.stack([numpy.cos(angle), numpy.sin(angle)], axis=1)

    def apply(self, x: Array, drawn: Array) -> Array:
        xp, (_, H, W, _) = backend_of(x).xp, x.shape
        cos, sin = drawn[:, 0][:, None, None], drawn[:, 1][:, None, None]
        down = (xp.arange(H) - (H - 1) / 2)[None, :, None]
        right = (xp.arange(W) - (W - 1) / 2)[None, None, :]
        return between_pixels(x, cos * down - sin * right + (H - 1) / 2, sin * down + cos * right + (W - 1) / 2)


def pixels_at(x: Array, row: Array, column: Array) -> Array:
    """x[n, row, column] if that is inside the image, else 0: x (N, H, W, C), row and column (N, h, w) integers.

    >>> import numpy
    >>> pixels_at(numpy.ones((1, 2, 2, 1)), numpy.array([[[0, 2]]]), numpy.array([[[0, 1]]]))[0, :, :, 0]
    array([[1., 0.]])
    """
    xp, (N, H, W, C) = backend_of(x).xp, x.shape
    inside = (row >= 0) & (row < H) & (column >= 0) & (column < W)  # (N, h, w)
    first = (xp.arange(N) * H)[:, None, None]
    source = (first + xp.clip(row, 0, H - 1)) * W + xp.clip(column, 0, W - 1)
    y = xp.take(x.reshape(N * H * W, C), source, axis=0)  # (N, h, w, C)
    return xp.where(inside[..., None], y, xp.zeros((), dtype=x.dtype))


def between_pixels(x: Array, row: Array, column: Array) -> Array:
    """x at points between pixels, interpolated bilinearly: x (N, H, W, C), row and column (N, h, w) in float64.

    >>> import numpy
    >>> between_pixels(numpy.array([[[[0.0], [1.0]]]]), numpy.zeros((1, 1, 1)), numpy.array([[[0.25]]]))[0, 0, 0]
    array([0.25])
    """
    xp = backend_of(x).xp
    top, left = xp.floor(row), xp.floor(column)
    lower, right = ((a - b).astype(x.dtype)[..., None] for a, b in ((row, top), (column, left)))  # in [0, 1)
    top, left = top.astype("int64"), left.astype("int64")
    above = pixels_at(x, top, left) * (1 - right) + pixels_at(x, top, left + 1) * right
    below = pixels_at(x, top + 1, left) * (1 - right) + pixels_at(x, top + 1, left + 1) * right
    return above * (1 - lower) + below * lower


def _range(given: Any, name: str, most: float) -> tuple[float, float]:
    if not isinstance(given, (tuple, list)) or len(given) != 2:
        raise TypeError(f"RandomResizedCrop: {name} must be a pair (least, most), got {given!r}")
    least, largest = (positive(value, name, op="RandomResizedCrop", most=most) for value in given)
    if least > largest:
        raise ValueError(f"RandomResizedCrop: {name} must be (least, most), with most not below least; got {given!r}")
    return least, largest


# -- colour ------------------------------------------------------------------------------------------------------------


class CutOut(Transform):
    """A black square of ``size`` pixels around a random pixel, cut off at the edges of the image.

    Source: DeVries and Taylor (2017), "Improved regularization of convolutional neural networks with cutout".

    >>> import dualnet as dn, numpy
    >>> augment = dn.data.augmentation([dn.data.CutOut(2)])
    >>> augment.batch(numpy.ones((1, 3, 3, 1)), [0], augment.moves(1))[0, :, :, 0]
    array([[0., 1., 1.],
           [0., 1., 1.],
           [1., 1., 1.]], dtype=float32)
    """

    numbers = 2

    def __init__(self, size: int) -> None:
        self.size = integer(size, "size", op="CutOut")

    def apply(self, x: Array, drawn: Array) -> Array:
        xp = backend_of(x).xp
        inside = box(x, drawn[:, 0], drawn[:, 1], float(self.size), float(self.size))
        return xp.where(inside[..., None], xp.zeros((), dtype=x.dtype), x)


def box(x: Array, down: Array, right: Array, height: Any, width: Any) -> Array:
    """Which pixels are in a box around the pixel at these shares of the image's height and width: (N, H, W) bool.

    >>> import numpy
    >>> box(numpy.ones((1, 1, 4, 1)), numpy.array([0.0]), numpy.array([0.5]), 1.0, 2.0)
    array([[[False,  True,  True, False]]])
    """
    xp, (_, H, W, _) = backend_of(x).xp, x.shape
    sides = []
    for share, size, extent in ((down, height, H), (right, width, W)):
        start = xp.floor(share * float(extent)) - xp.floor(size / 2 + xp.zeros_like(share))
        place = xp.arange(extent).astype("float64")
        end = start + xp.rint(size + xp.zeros_like(share))
        sides.append((place >= start[:, None]) & (place < end[:, None]))  # (N, extent)
    return sides[0][:, :, None] & sides[1][:, None, :]


class Brightness(Transform):
    """Lighter or darker: pixels times a number from 1 − ``change`` to 1 + ``change``, and at most 1.

    >>> import dualnet as dn, numpy
    >>> augment = dn.data.augmentation([dn.data.Brightness(0.5)])
    >>> y = augment.batch(numpy.full((9, 1, 1, 1), 0.5), range(9), augment.moves(9))
    >>> bool(0.25 <= y.min() < 0.5 < y.max() <= 0.75)
    True
    """

    numbers = 1

    def __init__(self, change: float) -> None:
        self.change = number(change, "change", op=type(self).__name__, most=1)

    def draw(self, rng: RNG, examples: int) -> numpy.ndarray:
        return rng.uniform(1 - self.change, 1 + self.change, (examples, 1))

    def apply(self, x: Array, drawn: Array) -> Array:
        return backend_of(x).xp.clip(x * drawn[:, :, None, None].astype(x.dtype), 0.0, 1.0)


class Contrast(Brightness):
    """More or less contrast: the distance to the image's mean times a number from 1 − ``change`` to 1 + ``change``.

    The mean is taken over all pixels and channels of the image; the result is clipped to 0 … 1.

    >>> import dualnet as dn, numpy
    >>> augment = dn.data.augmentation([dn.data.Contrast(0.5)])
    >>> y = augment.batch(numpy.array([[[[0.4], [0.6]]]]), [0] * 9, augment.moves(9))
    >>> bool(numpy.allclose(y.mean(axis=(1, 2, 3)), 0.5)), bool(y.max() > 0.6)
    (True, True)
    """

    def apply(self, x: Array, drawn: Array) -> Array:
        xp = backend_of(x).xp
        mean = xp.mean(x, axis=(1, 2, 3), keepdims=True)
        return xp.clip(mean + (x - mean) * drawn[:, :, None, None].astype(x.dtype), 0.0, 1.0)


class Normalise(Transform):
    """(x − ``mean``) / ``std``, by channel or with one number for all; x goes from 0 to 1.

    It changes every image, even those that are not trained on.

    >>> import dualnet as dn, numpy
    >>> augment = dn.data.augmentation([dn.data.Normalise(mean=0.5, std=0.25)])
    >>> augment.batch(numpy.array([[[[0], [255]]]], "uint8"), [0])[0, 0, :, 0]
    array([-2.,  2.], dtype=float32)
    """

    place = 1

    def __init__(self, mean: Any, std: Any) -> None:
        self.mean, self.std = numbers_by_channel(mean, "mean"), numbers_by_channel(std, "std")
        if min(self.std) <= 0:
            raise ValueError(f"Normalise: std must be above 0, got {std!r}")
        self._vectors: dict[tuple[str, str], list[Array]] = {}  # sent to a device once

    def apply(self, x: Array, drawn: Array) -> Array:
        return self.still(x)

    def still(self, x: Array) -> Array:
        key = name, dtype = backend_of(x).name, x.dtype.name
        if key not in self._vectors:
            both = self.mean, self.std
            self._vectors[key] = [asarray(numpy.array(numbers, dtype), backend=name) for numbers in both]
        mean, std = self._vectors[key]
        return (x - mean) / std

    def check(self, shape: Shape) -> None:
        for name, numbers in (("mean", self.mean), ("std", self.std)):
            if len(numbers) not in (1, shape[-1]):
                raise ValueError(
                    f"{self}: {name} has {len(numbers)} numbers, but the images have {shape[-1]} channels; expected "
                    "one for each, or one for all"
                )


def numbers_by_channel(given: Any, name: str, op: str = "Normalise") -> tuple[float, ...]:
    """One finite number, or one for each channel, as a tuple.

    >>> numbers_by_channel(0.5, "mean"), numbers_by_channel([0.1, 0.2, 0.3], "mean")
    ((0.5,), (0.1, 0.2, 0.3))
    """
    several = tuple(given) if isinstance(given, (tuple, list, numpy.ndarray)) and numpy.ndim(given) == 1 else (given,)
    numbers = tuple(real(value, name, op=op) for value in several)
    if not numbers or not numpy.isfinite(numbers).all():
        raise ValueError(f"{op}: {name} must be one finite number, or one for each channel; got {given!r}")
    return numbers
