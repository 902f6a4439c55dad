"""Two images in one, and their targets in the same shares: ``MixUp`` and ``CutMix``.

The second image is the next one in the batch (for the last, the first): batches are shuffled, so it is a random one.
If λ is the share of the first image, the target is λ t + (1 − λ) t′, with class numbers as rows of 0 and 1. The
loss has to accept such targets; softmax cross-entropy does.
"""

from __future__ import annotations

from typing import Any

import numpy

from ..arguments import positive
from ..shim import Array, backend_of
from .transforms import RNG, Shape, Transform, box

__all__ = ["CutMix", "MixUp"]


class Mix(Transform):
    """Base class of changes that mix two images."""

    place = 1

    def __init__(self, alpha: float) -> None:
        self.alpha = positive(alpha, "alpha", op=type(self).__name__)

    def shares(self, drawn: Any, shape: Shape, xp: Any) -> Array:
        """λ, the share of the first image in each mixture (N,), for images of shape (H, W, C)."""
        raise NotImplementedError

    def targets(self, t: Array, drawn: Any, shape: Shape) -> Array:
        """λ t + (1 − λ) t′ for floating targets t (N, ...)."""
        xp = backend_of(t).xp
        share = self.shares(drawn, shape, xp).astype(t.dtype).reshape(len(t), *[1] * (t.ndim - 1))
        return share * t + (1 - share) * following(t)


class MixUp(Mix):
    """λ x + (1 − λ) x′, with λ drawn from the distribution Beta(``alpha``, ``alpha``) for each image.

    A small ``alpha`` leaves most images nearly unchanged; with 1 all shares are equally likely. Source: Zhang, Cisse,
    Dauphin and Lopez-Paz (2018), "mixup: beyond empirical risk minimization".

    >>> import dualnet as dn, numpy
    >>> augment, t = dn.data.augmentation([dn.data.MixUp(1.0)]), numpy.array([0, 1])
    >>> moves = augment.moves(2)
    >>> x = augment.batch(numpy.array([0.0, 1.0]).reshape(2, 1, 1, 1), [0, 1], moves)
    >>> soft = augment.targets(t, moves, classes=2, shape=(1, 1, 1))
    >>> bool(numpy.allclose(soft[:, 1], x[:, 0, 0, 0])), soft.sum(axis=1)
    (True, array([1., 1.], dtype=float32))
    """

    numbers = 1

    def draw(self, rng: RNG, examples: int) -> numpy.ndarray:
        return rng.beta(self.alpha, self.alpha, (examples, 1))

    def apply(self, x: Array, drawn: Array) -> Array:
        share = drawn[:, :, None, None].astype(x.dtype)
        return share * x + (1 - share) * following(x)

    def shares(self, drawn: Any, shape: Shape, xp: Any) -> Array:
        return drawn[:, 0]


class CutMix(Mix):
    """A box of the second image replaces the same box of the first.

    The box covers the share 1 − λ of the image's area, with λ drawn from Beta(``alpha``, ``alpha``), around a
    random pixel; the target counts the pixels that it really covers. Source: Yun et al. (2019), "CutMix: Regularization
    strategy to train strong classifiers with localizable features".

    >>> import dualnet as dn, numpy
    >>> augment, t = dn.data.augmentation([dn.data.CutMix(1.0)]), numpy.array([0, 1])
    >>> images = numpy.array([0.0, 1.0]).reshape(2, 1, 1, 1) * numpy.ones((1, 4, 4, 1))
    >>> moves = augment.moves(2, seed=1)
    >>> x, soft = augment.batch(images, [0, 1], moves), augment.targets(t, moves, classes=2, shape=(4, 4, 1))
    >>> bool((soft[:, 1] == x.mean(axis=(1, 2, 3))).all())
    True
    """

    numbers = 3

    def draw(self, rng: RNG, examples: int) -> numpy.ndarray:
        """√(1 − λ), the sides of the box as shares of the image's, and the position of its middle."""
        side = numpy.sqrt(1 - rng.beta(self.alpha, self.alpha, examples))
        return numpy.stack([side, *rng.random((2, examples))], axis=1)

    def apply(self, x: Array, drawn: Array) -> Array:
        return backend_of(x).xp.where(self._box(x, drawn)[..., None], following(x), x)

    def shares(self, drawn: Any, shape: Shape, xp: Any) -> Array:
        inside = self._box(xp.zeros((1, *shape[:2], 1), dtype="float32"), drawn)
        return 1 - xp.mean(inside.astype("float64"), axis=(1, 2))

    def _box(self, x: Array, drawn: Array) -> Array:
        _, H, W, _ = x.shape
        side = drawn[:, 0]
        return box(x, drawn[:, 1], drawn[:, 2], side * float(H), side * float(W))


def following(x: Array) -> Array:
    """For each example of a batch, the next one; for the last, the first.

    >>> import numpy
    >>> following(numpy.array([5, 6, 7]))
    array([6, 7, 5])
    """
    return backend_of(x).xp.roll(x, -1, axis=0)
