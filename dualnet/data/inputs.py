"""What a network expects of its input: this belongs to the network, and is saved in its file.

A network that learned from normalised grey images of 28 × 28 pixels also answers for any other picture, but wrongly.
``net.input`` says how to turn a photo into an input of the network, and :func:`prepare` does it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy

from ..arguments import extents, flag, integer, real
from ..shim import backend_of, to_numpy
from .augment import Augment
from .images import read_image
from .reading import DataError
from .transforms import numbers_by_channel

__all__ = ["InputSpec", "prepare"]

FIELDS = ("size", "channels", "mean", "std", "inverted", "classes", "border")
SLACK = 1e-3
"""How far rounding may push a pixel beyond 0 … 1."""


@dataclass(frozen=True)
class InputSpec:
    """The images that a network takes, and the names of its classes.

    ``size`` is (height, width), ``channels`` 1 for grey and 3 for colour. Pixels go from 0 (black) to 1 (white), and
    the network gets ``(x − mean) / std``, by channel or with one number for all; None means 0 and 1. ``inverted`` swaps
    black and white first, for a network that learned light digits on black and now sees dark ink on paper. ``classes``
    are the names, in the order of the outputs. ``border`` is the mean brightness at the edges of the images from which
    the network learned: it distinguishes light digits on black from dark ones on paper.

    ``net.fit(..., augment=...)`` sets mean and std for you if the augmentation normalises; ``net.save`` and
    ``dn.load`` preserve everything.

    >>> import dualnet as dn
    >>> net = dn.Sequential([dn.Flatten(), dn.Dense(2)]).init((8, 8, 1))
    >>> net.input = dn.data.InputSpec((8, 8), channels=1, mean=0.5, std=0.25, classes=["night", "day"])
    >>> net.input.mean, net.input.classes
    ((0.5,), ('night', 'day'))
    """

    size: tuple[int, int]
    channels: int = 3
    mean: Any = None
    std: Any = None
    inverted: bool = False
    classes: Any = None
    border: float | None = None

    def __post_init__(self) -> None:
        op, put = "InputSpec", object.__setattr__  # it is frozen
        put(self, "size", extents(self.size, "size", op=op))
        put(self, "channels", integer(self.channels, "channels", op=op))
        put(self, "inverted", flag(self.inverted, "inverted", op=op))
        for name in ("mean", "std"):
            given = getattr(self, name)
            numbers = None if given is None else numbers_by_channel(given, name, op)
            if numbers is not None and len(numbers) not in (1, self.channels):
                raise ValueError(f"{op}: {name} has {len(numbers)} numbers; expected one, or {self.channels}")
            put(self, name, numbers)
        if self.std is not None and min(self.std) <= 0:
            raise ValueError(f"{op}: std must be above 0, got {self.std}")
        put(self, "classes", None if self.classes is None else _names(self.classes))
        put(self, "border", None if self.border is None else real(self.border, "border", op=op))
        if self.border is not None and not 0 <= self.border <= 1:
            raise ValueError(f"{op}: border must be a brightness from 0 to 1, got {self.border!r}")

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape of an image: (height, width, channels)."""
        return (*self.size, self.channels)

    def normalised(self, x: numpy.ndarray) -> numpy.ndarray:
        """Images x (N, H, W, C), from 0 to 1, normalised as the network expects."""
        x = 1 - x if self.inverted else x
        x = x if self.mean is None else x - numpy.array(self.mean, x.dtype)
        return x if self.std is None else x / numpy.array(self.std, x.dtype)

    def check(self, net: Any) -> None:
        """Raise ``ValueError`` if the network takes different images, or if its outputs do not match the classes."""
        if net.input_shape != self.shape:
            raise ValueError(f"net.input is for images of {self.shape}, but the network takes {net.input_shape}")
        if self.classes is None:
            return
        outputs = net.output_shape(net.input_shape)
        if isinstance(outputs, dict):
            raise ValueError(
                "net.input has class names, but a network with several outputs needs them for each. Leave them out"
            )
        known = (1, 2) if outputs[-1] == 1 else (outputs[-1],)  # one output distinguishes two classes
        if len(self.classes) not in known:
            raise ValueError(f"net.input names {len(self.classes)} classes, but the network has {outputs[-1]} outputs")

    def as_json(self) -> dict[str, Any]:
        """The fields to save: those that were given."""
        values = {name: getattr(self, name) for name in FIELDS}
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in values.items()
            if value is not None
        }

    @classmethod
    def from_json(cls, given: Any) -> InputSpec:
        """The spec from the result of :meth:`as_json`. Raises ``ValueError`` or ``TypeError`` for anything else.

        >>> InputSpec.from_json({"size": [8, 8], "channels": 1, "inverted": False}).shape
        (8, 8, 1)
        """
        if not isinstance(given, dict) or not {"size"} <= set(given) <= set(FIELDS):
            raise ValueError(f"its input is {str(given)[:80]}; expected {', '.join(FIELDS)}")
        fields: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in given.items()}
        return cls(**fields)


def border_of(x: numpy.ndarray) -> numpy.ndarray:
    """The average brightness of the outermost pixels of each image x (N, H, W, C); for bytes, from 0 to 255.

    >>> border_of(numpy.array([[[[0], [0], [0]], [[0], [9], [0]], [[0], [0], [8]]]], "float32"))
    array([1.], dtype=float32)
    """
    edges = (x[:, 0], x[:, -1], x[:, 1:-1, 0], x[:, 1:-1, -1])  # (N, ..., C) each
    return numpy.concatenate([edge.reshape(len(x), -1) for edge in edges], axis=1).mean(axis=1, dtype=numpy.float32)


def _names(given: Any) -> tuple[str, ...]:
    if isinstance(given, str) or not isinstance(given, Sequence) or not all(isinstance(name, str) for name in given):
        raise TypeError(f"InputSpec: classes must be names in the order of the outputs, got {given!r}")
    if len(set(given)) != len(given) or not given:
        raise ValueError("InputSpec: classes must be different names, and at least one")
    return tuple(given)


def learned(known: InputSpec | None, shape: tuple[int, ...] | None, augment: Any) -> InputSpec | None:
    """What is known about a network's input after training with this augmentation on images of this shape.

    >>> learned(None, (8, 8, 1), Augment(mean=0.5, scale=4.0))
    InputSpec(size=(8, 8), channels=1, mean=(0.5,), std=(0.25,), inverted=False, classes=None, border=None)
    """
    mean, std = normalising(augment)
    if not isinstance(shape, tuple) or len(shape) != 3 or (mean is None and std is None):
        return known
    size, channels = (shape[0], shape[1]), shape[2]
    if known is None:
        return InputSpec(size, channels, mean, std)
    return replace(known, size=size, channels=channels, mean=mean, std=std)


def normalising(augment: Any) -> tuple[Any, Any]:
    """The mean and standard deviation with which an augmentation normalises; None if it does not, or in another way.

    >>> normalising(Augment()), normalising(Augment(scale=2.0))
    ((None, None), (None, (0.5,)))
    """
    if isinstance(augment, Augment):
        if augment.scale is not None and min(augment.scale) <= 0:
            return None, None  # no standard deviation has this effect
        return augment.mean, None if augment.scale is None else tuple(1 / scale for scale in augment.scale)
    found = getattr(augment, "normaliser", None)
    return (None, None) if found is None else (found.mean, found.std)


def prepare(net: Any, image: Any, *, invert: bool | None = None) -> numpy.ndarray:
    """Turn an image file, or an array of images, into an input of the network: x (N, H, W, C) for ``net.predict(x)``.

    :func:`read_image` reads a file (a path or an open file) in the network's size, grey or in colour. An array is one
    image (H, W, C) or (H, W), or several (N, H, W, C), of the network's size: bytes, which are divided by 255, or
    floating numbers from 0 to 1. Then ``net.input`` decides whether it is inverted and normalised. ``invert`` overrides
    ``net.input.inverted``.

    A network without ``input`` simply gets the image, from 0 to 1. Raises :class:`DataError` for an image that does not
    fit, such as one that is already normalised.

    >>> import dualnet as dn, numpy
    >>> net = dn.Sequential([dn.Flatten(), dn.Dense(2)]).init((1, 2, 1))
    >>> net.input = dn.data.InputSpec((1, 2), channels=1, mean=0.5, std=0.5)
    >>> dn.data.prepare(net, numpy.array([[0, 255]], "uint8")).tolist()
    [[[[-1.0], [1.0]]]]
    """
    spec = getattr(net, "input", None)
    shape = net.input_shape if spec is None else spec.shape
    if not isinstance(shape, tuple) or len(shape) != 3:
        raise ValueError(f"prepare: the network takes {shape}; expected images (height, width, channels)")
    spec = InputSpec(tuple(shape[:2]), shape[2]) if spec is None else spec
    if invert is not None:
        spec = replace(spec, inverted=flag(invert, "invert", op="prepare"))
    if isinstance(image, (str, os.PathLike)) or hasattr(image, "read"):
        if spec.channels not in (1, 3):
            raise ValueError(f"prepare: the network takes {shape}, but an image file has 1 or 3 channels")
        x = read_image(image, spec.size, grey=spec.channels == 1)[None]
    else:
        x = _from_array(image, spec)
    return numpy.ascontiguousarray(spec.normalised(x), dtype=numpy.float32)


def _from_array(image: Any, spec: InputSpec) -> numpy.ndarray:
    """Images (N, H, W, C) from 0 to 1."""
    x = to_numpy(image) if backend_of(image) is not None else numpy.asarray(image)
    given = x.shape
    if spec.channels == 1 and x.ndim in (2, 3) and x.shape[-2:] == spec.size and x.shape != spec.shape:
        x = x[..., None]
    x = x[None] if x.ndim == 3 else x
    if x.ndim != 4 or x.shape[1:] != spec.shape:
        raise DataError(f"prepare: got an array of shape {given}, but the network takes images of {spec.shape}")
    if x.dtype == numpy.uint8:
        return x.astype(numpy.float32) / 255
    if x.dtype.kind != "f":
        raise DataError(f"prepare: got images of {x.dtype}; expected bytes (uint8), or floating numbers from 0 to 1")
    least, largest = (float(x.min()), float(x.max())) if x.size else (0.0, 1.0)
    if not -SLACK <= least <= largest <= 1 + SLACK:
        raise DataError(
            f"prepare: pixels go from {least:.4g} to {largest:.4g}; expected bytes, or floating numbers from 0 to 1. "
            "If they are already normalised, pass them to net.predict(x) as they are."
        )
    return x.astype(numpy.float32, copy=False)
