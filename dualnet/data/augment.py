"""Batches of images: gathered, shifted, flipped and normalised in one go, on the images' own backend.

    y[n, i, j, c] = (x[order[n], i + down, j′ + right, c] − mean[c]) · scale[c]      j′ = j, or W − 1 − j where flipped

Outside an image, x is 0, which is black: an image is padded with zeros, cropped, flipped and normalised, in this order.
On a GPU one CUDA kernel does it all (``backends/gpu/kernels/batch.cu``), and the images never leave the device.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy

from ..arguments import flag, integer, real
from ..shim import Array, accelerated, asarray, backend_of, to_numpy
from ..shim.dtypes import dtype_of, is_floating

__all__ = ["Augment"]

MOST = 127
"""The longest shift: moves are stored as bytes."""
STREAM = 2**31 + 1
"""The random stream of the moves, far from those of the layers and of the order of the batches."""

Numbers = float | Sequence[float] | None


class Augment:
    """The usual augmentation of small images: shifted by up to ``shift`` pixels each way, flipped, normalised.

    Every image is moved up or down and left or right by a random number of pixels; the free space is black
    (PyTorch calls this a random crop of the padded image). With ``flip`` about half of the images are mirrored. Then
    comes ``(x − mean) · scale``, by channel or with one number for all. Bytes are divided by 255 first, so the same
    ``Augment`` works for uint8 images and for floating ones in [0, 1]. By default ``mean`` is 0 and ``scale`` is 1;
    :meth:`measured` computes both from the images.

    Moves are drawn on the host from a seed, the epoch and the image's position in it: the same on every backend, in any
    order of calls. Source: Krizhevsky, Sutskever and Hinton (2012), section 4.1; He et al. (2016), section 4.2, for the
    numbers.

    >>> import numpy, dualnet as dn
    >>> augment = dn.data.Augment(shift=1)
    >>> images = numpy.arange(9, dtype="uint8").reshape(1, 3, 3, 1) * 17
    >>> y = augment.batch(images, [0], [[1, 0, 1]])  # read one row further down, and mirrored
    >>> print((15 * y[0, :, :, 0]).round(3))
    [[5. 4. 3.]
     [8. 7. 6.]
     [0. 0. 0.]]
    """

    def __init__(self, shift: int = 4, flip: bool = True, mean: Numbers = None, scale: Numbers = None) -> None:
        self.shift = integer(shift, "shift", op="Augment", least=0)
        if self.shift > MOST:
            raise ValueError(f"Augment: shift must be at most {MOST} pixels, got {shift!r}")
        self.flip = flag(flip, "flip", op="Augment")
        self.mean, self.scale = _numbers(mean, "mean"), _numbers(scale, "scale")
        self._vectors: dict[tuple, tuple[Array, Array]] = {}

    @classmethod
    def measured(cls, images: Array, shift: int = 4, flip: bool = True) -> Augment:
        """An Augment with the mean and 1 / standard deviation of each channel: batches get mean 0 and variance 1.

        Images on a device are summed there. A channel that is the same everywhere gets scale 1.

        >>> import numpy, dualnet as dn
        >>> images = numpy.array([0, 255, 255, 0], dtype="uint8").reshape(1, 2, 2, 1)
        >>> dn.data.Augment.measured(images)
        Augment(shift=4, flip=True, mean=(0.5,), scale=(2.0,))
        """
        xp, unit = check_images("Augment.measured", images), _to_unit(images)
        if not images.size:
            raise ValueError(f"Augment.measured: images of shape {tuple(images.shape)} have no pixels to measure")
        C, sums = images.shape[3], []
        for start in range(0, images.shape[0], BLOCK):  # float64 is eight times as large as a byte
            block = images[start : start + BLOCK].astype("float64") * unit
            sums.append(xp.stack([xp.sum(block, axis=(0, 1, 2)), xp.sum(block * block, axis=(0, 1, 2))]))
        total = to_numpy(xp.sum(xp.stack(sums), axis=0)) / (images.size // C)
        mean, spread = total[0], numpy.sqrt(numpy.maximum(total[1] - total[0] ** 2, 0.0))
        scale = 1 / numpy.where(spread > 1e-6, spread, 1.0)
        return cls(shift, flip, tuple(map(float, mean)), tuple(map(float, scale)))

    def moves(self, examples: int, *, seed: int = 0, epoch: int = 0) -> numpy.ndarray:
        """The moves of an epoch's images, in their order: (examples, 3) int8, for down, right and flipped.

        >>> import dualnet as dn
        >>> moves = dn.data.Augment(shift=2).moves(1000, seed=7)
        >>> moves.min(axis=0).tolist(), moves.max(axis=0).tolist()
        ([-2, -2, 0], [2, 2, 1])
        """
        examples = integer(examples, "examples", op="Augment.moves", least=0)
        stream = numpy.random.SeedSequence(
            integer(seed, "seed", op="Augment.moves", least=0),
            spawn_key=(STREAM, integer(epoch, "epoch", op="Augment.moves", least=0)),
        )
        rng = numpy.random.Generator(numpy.random.PCG64(stream))
        moves = rng.integers(-self.shift, self.shift + 1, (examples, 3), dtype=numpy.int8)
        flipped = rng.integers(0, 2, examples, dtype=numpy.int8)
        moves[:, 2] = flipped if self.flip else 0
        return moves

    def batch(self, images: Array, order: Any, moves: Any = None, *, dtype: Any = "float32") -> Array:
        """The images ``order`` (N,) of ``images`` (M, H, W, C), moved by ``moves`` (N, 3), on the images' backend.

        ``images`` are uint8 or floating. ``order`` and ``moves`` may be on the host, where they are checked, or on the
        images' device, where they are not, since the check would make the device wait. Without ``moves`` the images are
        only normalised. Raises ``TypeError`` and ``ValueError`` for arguments that do not fit.

        >>> import numpy, dualnet as dn
        >>> images = dn.asarray(numpy.full((5, 2, 2, 3), 255, "uint8"))
        >>> dn.data.Augment(mean=0.5, scale=2).batch(images, [4, 0]).shape
        (2, 2, 2, 3)
        """
        backend = backend_of(images)
        check_images("Augment.batch", images)
        order = check_order("Augment.batch", order, images, backend)
        moves = None if moves is None else _moves(moves, order, backend)
        dtype = dtype_of(dtype)
        if not is_floating(dtype):
            raise TypeError(f"Augment.batch: expected a floating dtype for the batch, got {dtype}")
        mean, scale = self._on(images, backend, "float64" if dtype.name == "float64" else "float32")
        return gather_batch(images, order, moves, mean, scale, dtype)

    def normalise(self, images: Array, *, dtype: Any = "float32") -> Array:
        """All images, normalised but not moved: to test a network that was trained with this.

        >>> import numpy, dualnet as dn
        >>> print(dn.data.Augment(scale=2).normalise(numpy.full((1, 1, 1, 1), 51, "uint8")).round(4))
        [[[[0.4]]]]
        """
        check_images("Augment.normalise", images)
        return self.batch(images, numpy.arange(images.shape[0]), dtype=dtype)

    def _on(self, images: Array, backend: Any, dtype: str) -> tuple[Array, Array]:
        """Mean and scale of each channel in the images' own units, on their backend; cached for the next batch."""
        C, unit = images.shape[3], _to_unit(images)
        for name, numbers in (("mean", self.mean), ("scale", self.scale)):
            if numbers is not None and len(numbers) not in (1, C):
                raise ValueError(
                    f"Augment: {name} has {len(numbers)} numbers, but the images have {C} channels; expected one for "
                    "each, or one for all"
                )
        key = (backend.name, C, unit, dtype)
        if key not in self._vectors:
            given = ((self.mean or (0.0,), 1 / unit), (self.scale or (1.0,), unit))
            vectors = [numpy.broadcast_to(numpy.array(n) * unit, (C,)).astype(dtype) for n, unit in given]
            mean, scale = (asarray(vector, backend=backend.name) for vector in vectors)
            self._vectors[key] = mean, scale
        return self._vectors[key]

    def __repr__(self) -> str:
        return f"Augment(shift={self.shift}, flip={self.flip}, mean={self.mean}, scale={self.scale})"


BLOCK = 1024
"""How many images are summed at once."""


@accelerated
def gather_batch(
    images: Array, order: Array, moves: Array | None, mean: Array, scale: Array, dtype: Any = "float32"
) -> Array:
    """The formula at the top of this file: images (M, H, W, C), order (N,), moves (N, 3) -> (N, H, W, C).

    order is int32 and moves int8; mean and scale (C,) are float64 if ``dtype`` is, else float32.
    """
    xp, (M, H, W, C) = backend_of(images).xp, images.shape
    if moves is None:
        x = xp.take(images, order, axis=0).astype(mean.dtype)
        return ((x - mean) * scale).astype(dtype, copy=False)
    down, right, flipped = (moves[:, k : k + 1].astype("int64") for k in range(3))  # (N, 1)
    row = xp.arange(H) + down  # (N, H)
    column = xp.where(flipped != 0, xp.arange(W - 1, -1, -1), xp.arange(W)) + right  # (N, W)
    inside = ((row >= 0) & (row < H))[:, :, None] & ((column >= 0) & (column < W))[:, None, :]  # (N, H, W)
    row, column = xp.clip(row, 0, H - 1)[:, :, None], xp.clip(column, 0, W - 1)[:, None, :]
    source = (order.astype("int64")[:, None, None] * H + row) * W + column  # (N, H, W)
    x = xp.take(images.reshape(M * H * W, C), source, axis=0).astype(mean.dtype)  # (N, H, W, C)
    x = xp.where(inside[..., None], x, xp.zeros((), dtype=mean.dtype))
    return ((x - mean) * scale).astype(dtype, copy=False)


# -- checks of arguments -----------------------------------------------------------------------------------------------


def _numbers(given: Numbers, name: str) -> tuple[float, ...] | None:
    if given is None:
        return None
    several = tuple(given) if isinstance(given, (tuple, list, numpy.ndarray)) and numpy.ndim(given) == 1 else (given,)
    numbers = tuple(real(number, name, op="Augment") for number in several)
    if not numbers or not numpy.isfinite(numbers).all():
        raise ValueError(f"Augment: {name} must be one finite number, or one for each channel; got {given!r}")
    return numbers


def check_images(owner: str, images: Array) -> Any:
    """Raise unless images are an array (M, H, W, C) of bytes or floating numbers. Returns their namespace."""
    backend = backend_of(images)
    if backend is None:
        raise TypeError(f"{owner}: images is a {type(images).__name__}; expected an array. Make one with dn.asarray.")
    if images.ndim != 4:
        raise ValueError(f"{owner}: images have shape {tuple(images.shape)}; expected (M, H, W, C)")
    if images.dtype.name != "uint8" and not is_floating(images.dtype):
        raise TypeError(f"{owner}: images are {images.dtype}; expected uint8 or floating numbers")
    return backend.xp


def _to_unit(images: Array) -> float:
    """The factor that brings the images' numbers to [0, 1]."""
    return 1 / 255 if images.dtype.name == "uint8" else 1.0


def check_order(owner: str, given: Any, images: Array, backend: Any) -> Array:
    """The positions (N,) of images, as int32 on their backend."""
    order, readable = beside(owner, "order", given, backend)
    if order.ndim != 1 or (order.dtype.kind not in "iu" and order.size):
        raise ValueError(f"{owner}: order is {_kind(order)}; expected integers (N,)")
    if readable and order.size and not 0 <= order.min() <= order.max() < len(images):
        raise ValueError(
            f"{owner}: order goes from {order.min()} to {order.max()}, but there are only images 0 … {len(images) - 1}"
        )
    return asarray(order.astype("int32", copy=False), backend=backend.name)


def _moves(given: Any, order: Array, backend: Any) -> Array:
    moves, readable = beside("Augment.batch", "moves", given, backend)
    if moves.dtype.kind not in "iu" or tuple(moves.shape) != (len(order), 3):
        raise ValueError(
            f"Augment.batch: moves are {_kind(moves)}; expected integers ({len(order)}, 3): down, right and flipped of "
            "each image"
        )
    if readable and moves.size and not -MOST <= moves.min() <= moves.max() <= MOST:
        raise ValueError(
            f"Augment.batch: moves go from {moves.min()} to {moves.max()}; expected at most {MOST} pixels either way"
        )
    return asarray(moves.astype("int8", copy=False), backend=backend.name)


def beside(op: str, name: str, given: Any, backend: Any) -> tuple[Array, bool]:
    """The array, and whether its values may be read: reading them from a device would make it wait."""
    owner = backend_of(given)
    if owner is None or owner.on_host:
        return numpy.asarray(given), True
    if owner is not backend:
        raise TypeError(
            f"{op}: {name} is on {owner.name}, but the images are on {backend.name}; expected both on one "
            f"backend. Move it with dn.asarray({name}, backend={backend.name!r})."
        )
    return given, False


def _kind(array: Array) -> str:
    return f"{array.dtype} of shape {tuple(array.shape)}"
