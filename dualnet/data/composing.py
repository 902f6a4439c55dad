"""A list of changes as one augmentation: drawn together, applied one after another, to images and targets.

``fit(..., augment=[...])`` creates one. Like :class:`Augment`, an augmentation offers ``fit`` these methods:

    moves(examples, seed=, epoch=)              the random numbers of an epoch, in the order of its images, on the host
    batch(images, order, moves, dtype=)         images as floating numbers; without moves, as in testing
    targets(t, moves, classes=, shape=)         the targets of that batch
    mixes                                       whether it changes the targets
    mixtures                                    how many of the following examples in a batch are mixed into each
    shape(shape)                                the new shape of an image (H, W, C)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy

from ..arguments import integer
from ..shim import Array, asarray, backend_of
from ..shim.dtypes import dtype_of, is_floating
from .augment import Augment, beside, check_images, check_order
from .mixing import Mix
from .transforms import Normalise, Transform

__all__ = ["Augmentation", "augmentation"]

STREAM = 2**31 + 2
"""The random stream of the changes, separate from that of :class:`Augment`."""

Shape = tuple[int, ...]


class Augmentation:
    """Several changes, one after another; :func:`augmentation` makes one from a list.

    Every change draws its numbers on the host, from the seed, the epoch and its position in the list. They are the same
    on every backend, whatever was called before, and whatever follows in the list. Images are changed on their own
    backend.

    >>> import dualnet as dn, numpy
    >>> images = numpy.zeros((8, 32, 32, 3), "uint8")
    >>> augment = dn.data.augmentation([dn.data.RandomCrop(28, padding=2), dn.data.Normalise(0.5, 0.25)])
    >>> augment.batch(images, [3, 5], augment.moves(2, seed=0, epoch=4)).shape
    (2, 28, 28, 3)
    """

    def __init__(self, transforms: Sequence[Transform], op: str = "Augmentation") -> None:
        self.transforms = _in_order(transforms, op)
        self.mixtures = sum(isinstance(transform, Mix) for transform in self.transforms)
        self.mixes = self.mixtures > 0

    def moves(self, examples: int, *, seed: int = 0, epoch: int = 0) -> numpy.ndarray:
        """The random numbers of an epoch's images, in their order: (examples, numbers) float64."""
        op = "Augmentation.moves"
        examples = integer(examples, "examples", op=op, least=0)
        key = integer(seed, "seed", op=op, least=0), integer(epoch, "epoch", op=op, least=0)
        drawn = [self._drawn(place, transform, examples, *key) for place, transform in enumerate(self.transforms)]
        return numpy.concatenate([numpy.empty((examples, 0)), *drawn], axis=1)

    def _drawn(self, place: int, transform: Transform, examples: int, seed: int, epoch: int) -> numpy.ndarray:
        stream = numpy.random.SeedSequence(seed, spawn_key=(STREAM, epoch, place))
        drawn = numpy.asarray(transform.draw(numpy.random.Generator(numpy.random.PCG64(stream)), examples), "float64")
        if drawn.shape != (examples, transform.numbers):
            raise ValueError(
                f"{transform}: draw returned shape {drawn.shape}; expected {transform.numbers} numbers for each image, "
                f"{(examples, transform.numbers)}"
            )
        return drawn

    def batch(self, images: Array, order: Any, moves: Any = None, *, dtype: Any = "float32") -> Array:
        """The images ``order`` (N,) of ``images`` (M, H, W, C), changed by ``moves`` (N, numbers), on their backend.

        ``images`` are uint8, or floating numbers in [0, 1]. Without ``moves`` they are changed as for testing: cropped
        in the middle and normalised.
        """
        op, dtype = "Augmentation.batch", dtype_of(dtype)
        check_images(op, images)
        backend = backend_of(images)
        order = check_order(op, order, images, backend)
        if not is_floating(dtype):
            raise TypeError(f"{op}: expected a floating dtype for the batch, got {dtype}")
        self.shape(tuple(images.shape[1:]))  # raises if a change does not fit
        x = backend.xp.take(images, order, axis=0)  # (N, H, W, C)
        wide = "float64" if "float64" in (dtype.name, x.dtype.name) else "float32"
        x = x.astype(wide) / 255 if x.dtype.name == "uint8" else x.astype(wide)
        pieces = None if moves is None else self._pieces(op, moves, len(order), backend)
        for place, transform in enumerate(self.transforms):
            x = transform.still(x) if pieces is None else transform.apply(x, pieces[place])
        return x.astype(dtype, copy=False)

    def normalise(self, images: Array, *, dtype: Any = "float32") -> Array:
        """All images as for testing: cropped in the middle and normalised, if the list does so.

        >>> import dualnet as dn, numpy
        >>> dn.data.augmentation([dn.data.RandomCrop(2)]).normalise(numpy.ones((1, 4, 4, 1))).shape
        (1, 2, 2, 1)
        """
        check_images("Augmentation.normalise", images)
        return self.batch(images, numpy.arange(images.shape[0]), dtype=dtype)

    def targets(self, t: Array, moves: Any, *, classes: int, shape: Shape) -> Array:
        """The targets of the batch: t itself, or mixed like its images, (N, classes) for class numbers t (N,).

        ``shape`` (H, W, C) is the original shape of the images.
        """
        if not self.mixes:
            return t
        op, backend = "Augmentation.targets", backend_of(t)
        xp = backend.xp
        if t.ndim == 1 and t.dtype.kind in "iu":
            t = t[:, None].astype("int64") == xp.arange(classes)  # one-hot   (N, classes)
        t = t if is_floating(t.dtype) else t.astype("float32")
        for transform, drawn in zip(self.transforms, self._pieces(op, moves, len(t), backend)):
            shape = transform.shape(shape)
            t = transform.targets(t, drawn, shape) if isinstance(transform, Mix) else t
        return t

    def shape(self, shape: Shape) -> Shape:
        """The new shape of an image of shape (H, W, C). Raises ``ValueError`` if a change does not fit."""
        for transform in self.transforms:
            transform.check(shape)
            shape = transform.shape(shape)
        return shape

    @property
    def normaliser(self) -> Normalise | None:
        """The change that normalises, if there is one."""
        return next((each for each in self.transforms if isinstance(each, Normalise)), None)

    def _pieces(self, op: str, moves: Any, examples: int, backend: Any) -> list[Array]:
        """The numbers of each change, (N, numbers), on the backend that needs them."""
        moves, _ = beside(op, "moves", moves, backend)
        numbers = sum(transform.numbers for transform in self.transforms)
        if tuple(moves.shape) != (examples, numbers):
            raise ValueError(
                f"{op}: moves have shape {tuple(moves.shape)}; expected ({examples}, {numbers}), as augment.moves "
                "draws them"
            )
        moves = asarray(moves, backend=backend.name).astype("float64", copy=False)
        ends = numpy.cumsum([transform.numbers for transform in self.transforms]).tolist()
        return [moves[:, end - each.numbers : end] for end, each in zip(ends, self.transforms)]

    def __repr__(self) -> str:
        return f"augmentation([{', '.join(map(repr, self.transforms))}])"


def augmentation(given: Any, op: str = "augmentation") -> Any:
    """A list of changes as one augmentation; anything with its methods is returned as it is.

    Changes that move or recolour pixels must come first, then ``Normalise``, ``MixUp`` and ``CutMix``: recolouring
    needs colours from 0 to 1, and if a mixture were cropped afterwards, its target would have the wrong shares.

    >>> import dualnet as dn
    >>> dn.data.augmentation([dn.data.Normalise(0.5, 0.5), dn.data.Flip()])
    Traceback (most recent call last):
    ValueError: augmentation: Flip(vertical=False) comes after Normalise; put it before Normalise, MixUp and CutMix
    """
    if given is None or isinstance(given, (Augment, Augmentation)):
        return given
    if isinstance(given, (list, tuple)):
        return Augmentation(given, op)
    if isinstance(given, Transform):
        raise TypeError(f"{op}: augment must be a list of changes, but this is a single one; write augment=[{given!r}]")
    if hasattr(given, "batch") and hasattr(given, "moves"):
        return given
    raise TypeError(f"{op}: augment must be a dn.data.Augment, or a list such as [dn.data.Flip()]; got {given!r}")


def _in_order(transforms: Sequence[Any], op: str) -> tuple[Transform, ...]:
    last: Transform | None = None
    for transform in transforms:
        if isinstance(transform, type):
            raise TypeError(f"{op}: {transform.__name__} is a class; write {transform.__name__}(...)")
        if isinstance(transform, Augment):
            raise TypeError(
                f"{op}: an Augment cannot be part of a list. Write RandomCrop(size, padding=shift), Flip() and "
                "Normalise(mean, std) there."
            )
        if not isinstance(transform, Transform):
            raise TypeError(f"{op}: {transform!r} is not a change of images; expected one such as dn.data.Flip()")
        if last is not None and transform.place < last.place:
            raise ValueError(
                f"{op}: {transform} comes after {type(last).__name__}; put it before Normalise, MixUp and CutMix"
            )
        last = transform
    return tuple(transforms)
