"""Initial weights: drawn on the host in float64, so that every backend and dtype begins with the same numbers.

Each parameter has its own stream, keyed by the network's seed, the layer's position and the parameter's number. So if
you add a layer at the end, or a parameter to one layer, the initial weights of the others stay the same.

An initializer is a name or a function ``f(rng, shape, fan_in, fan_out) -> numpy array``. ``fan_in`` is how many inputs
one output sees, ``fan_out`` how many outputs one input reaches.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy

from ..shim import asarray, default_dtype
from ..shim.dtypes import FLOATING, dtype_of, master_dtype
from .parameter import Parameter

Initializer = Callable[..., numpy.ndarray]
"""``f(rng, shape, fan_in, fan_out)``."""


def zeros(rng: numpy.random.Generator, shape: tuple[int, ...], fan_in: int, fan_out: int) -> numpy.ndarray:
    """All 0: biases, β."""
    return numpy.zeros(shape)


def ones(rng: numpy.random.Generator, shape: tuple[int, ...], fan_in: int, fan_out: int) -> numpy.ndarray:
    """All 1: γ."""
    return numpy.ones(shape)


def he_normal(rng: numpy.random.Generator, shape: tuple[int, ...], fan_in: int, fan_out: int) -> numpy.ndarray:
    """Normal with variance 2 / fan_in, for ReLU (He et al. 2015)."""
    return rng.standard_normal(shape) * math.sqrt(2 / fan_in)


def he_uniform(rng: numpy.random.Generator, shape: tuple[int, ...], fan_in: int, fan_out: int) -> numpy.ndarray:
    """Uniform with variance 2 / fan_in (He et al. 2015)."""
    return _uniform(rng, shape, math.sqrt(6 / fan_in))


def glorot_normal(rng: numpy.random.Generator, shape: tuple[int, ...], fan_in: int, fan_out: int) -> numpy.ndarray:
    """Normal with variance 2 / (fan_in + fan_out), for tanh and sigmoid (Glorot and Bengio 2010)."""
    return rng.standard_normal(shape) * math.sqrt(2 / (fan_in + fan_out))


def glorot_uniform(rng: numpy.random.Generator, shape: tuple[int, ...], fan_in: int, fan_out: int) -> numpy.ndarray:
    """Uniform with variance 2 / (fan_in + fan_out) (Glorot and Bengio 2010)."""
    return _uniform(rng, shape, math.sqrt(6 / (fan_in + fan_out)))


def lecun_normal(rng: numpy.random.Generator, shape: tuple[int, ...], fan_in: int, fan_out: int) -> numpy.ndarray:
    """Normal with variance 1 / fan_in (LeCun et al. 1998)."""
    return rng.standard_normal(shape) * math.sqrt(1 / fan_in)


def lecun_uniform(rng: numpy.random.Generator, shape: tuple[int, ...], fan_in: int, fan_out: int) -> numpy.ndarray:
    """Uniform with variance 1 / fan_in (LeCun et al. 1998)."""
    return _uniform(rng, shape, math.sqrt(3 / fan_in))


def orthogonal(rng: numpy.random.Generator, shape: tuple[int, ...], fan_in: int, fan_out: int) -> numpy.ndarray:
    """The bank as a matrix (everything but the last axis × last axis) with orthonormal rows or columns.

    Saxe et al. (2014); the signs are chosen as in Mezzadri (2007), so that the matrix is uniformly distributed.
    """
    rows, columns = math.prod(shape[:-1]), shape[-1]
    gaussian = rng.standard_normal((max(rows, columns), min(rows, columns)))
    q, r = numpy.linalg.qr(gaussian)
    q = q * numpy.sign(numpy.diagonal(r))
    return (q if rows >= columns else q.T).reshape(shape)


def _uniform(rng: numpy.random.Generator, shape: tuple[int, ...], limit: float) -> numpy.ndarray:
    return rng.uniform(-limit, limit, shape)


NAMES: dict[str, Initializer] = {
    f.__name__: f
    for f in (
        zeros,
        ones,
        he_normal,
        he_uniform,
        glorot_normal,
        glorot_uniform,
        lecun_normal,
        lecun_uniform,
        orthogonal,
    )
}


def as_initializer(initializer: str | Initializer, owner: str = "initializer") -> Initializer:
    """The initializer of this name, or the function itself."""
    if callable(initializer):
        return initializer
    if initializer not in NAMES:
        raise ValueError(f"{owner}: unknown initializer {initializer!r}; choose from {', '.join(NAMES)}, or a function")
    return NAMES[initializer]


def _checked_dtype(dtype: Any) -> numpy.dtype:
    """The dtype that a network computes in."""
    result = dtype_of(dtype)
    if result.name not in FLOATING:
        raise TypeError(f"init: dtype must be one of {', '.join(FLOATING)}; got {dtype!r}")
    return result


class Draw:
    """Draws the initial values of one layer's parameters: the second argument of ``build(input_shape, draw)``.

    The layer computes in ``dtype``; the parameters of layers that compute in 16 bits are float32.

    >>> import dualnet as dn
    >>> class Scale(dn.Layer):
    ...     def build(self, input_shape, draw: dn.Draw):
    ...         self.g = draw.parameter("ones", (input_shape[-1],))
    >>> Scale().init((28, 28, 3)).g
    Parameter((3,), float32)
    """

    def __init__(self, seed: int, dtype: object = None, path: tuple[int, ...] = (), seen: dict | None = None) -> None:
        if isinstance(seed, bool) or not isinstance(seed, (int, numpy.integer)) or seed < 0:
            raise ValueError(f"seed must be an integer of at least 0, got {seed!r}")
        self.seed, self.path = int(seed), path
        self.dtype = _checked_dtype(default_dtype() if dtype is None else dtype)
        self.seen = {} if seen is None else seen  # layers already built in this init, by id: shared layers
        self._number = 0

    def child(self, place: int) -> Draw:
        """Draws for the layer at position ``place`` inside this one."""
        return Draw(self.seed, self.dtype, (*self.path, place), self.seen)

    def parameter(
        self, initializer: str | Initializer, shape: tuple[int, ...], *, fan_in: int = 1, fan_out: int = 1
    ) -> Parameter:
        """A new parameter, on the current backend."""
        value = as_initializer(initializer)(self._stream(), shape, fan_in, fan_out)
        if numpy.shape(value) != tuple(shape):
            raise ValueError(f"initializer {initializer!r} returned shape {numpy.shape(value)}, expected {shape}")
        return Parameter(asarray(value, master_dtype(self.dtype)))

    def key(self) -> int:
        """A seed of 64 bits for a layer's own generator (dropout)."""
        return int(self._sequence().generate_state(1, numpy.uint64)[0])

    def _stream(self) -> numpy.random.Generator:
        return numpy.random.Generator(numpy.random.PCG64(self._sequence()))

    def _sequence(self) -> numpy.random.SeedSequence:
        number, self._number = self._number, self._number + 1
        return numpy.random.SeedSequence(self.seed, spawn_key=(*self.path, number))
