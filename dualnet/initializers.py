"""Where weights start: drawn on the host in float64, so that every backend and dtype begins with the same numbers.

Each parameter has its own stream, keyed by the network's seed, the layer's place and the parameter's number, so that
adding a layer at the end or a parameter to one layer leaves the others' initial weights alone.

An initializer is a name or a function ``f(rng, shape, fan_in, fan_out) -> numpy array``. ``fan_in`` is how many inputs
one output sees, ``fan_out`` how many outputs one input reaches.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy

from .backend import Array, accelerated, asarray, backend_of, default_dtype
from .dtypes import FLOATING, dtype_of, is_half, master_dtype
from .recording import Stateful, lasting

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

    Saxe et al. (2014); the signs are fixed as by Mezzadri (2007), so that the matrix is uniformly distributed.
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


def get(initializer: str | Initializer, owner: str = "initializer") -> Initializer:
    """The initializer of this name, or the function itself."""
    if callable(initializer):
        return initializer
    if initializer not in NAMES:
        raise ValueError(f"{owner}: unknown initializer {initializer!r}; choose from {', '.join(NAMES)}, or a function")
    return NAMES[initializer]


class Parameter(Stateful):
    """An array that training changes. Its identity stays when its value moves to another backend or is loaded.

    ``value`` is float32 in a network that computes in float16 or bfloat16 (the *master*: a step may be smaller than the
    distance of two numbers of 16 bits), and a layer computes with ``cast(x.dtype)``.

    >>> import dualnet as dn
    >>> net = dn.Sequential([dn.Dense(3)]).init((2,), dtype="float16")
    >>> w = net.parameters()["0.w"]
    >>> w.shape, w.dtype.name, w.cast(net.dtype).dtype.name
    ((2, 3), 'float32', 'float16')
    """

    # _shadow is the value in 16 bits, made of the array _of; it holds as long as that is the value. Who overwrites the
    # value in its place (a captured step) writes _shadow in the same launch, or says changed().
    __slots__ = ("_of", "_shadow", "name", "value")
    unwatched = ("_of", "_shadow")

    def __init__(self, value: Any, name: str = "Parameter") -> None:
        self._shadow: Any = None
        self.name = name  # for messages; init makes it the layer's kind and the attribute, such as "Conv2D.w"
        self.value: Any = value

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "value":
            self._check(value)
            self._of = None  # also where it is the same array: w.value *= 0.5
        super().__setattr__(name, value)

    def _check(self, value: Any) -> None:
        """A value keeps its shape: an optimizer's memory and the layers behind were made for that one."""
        if backend_of(value) is None:
            raise TypeError(
                f"{self.name}: value is a {type(value).__name__}; expected an array. Make one with dn.asarray(...)."
            )
        old = getattr(self, "value", None)
        if old is not None and tuple(value.shape) != tuple(old.shape):
            raise ValueError(
                f"{self.name}: value has shape {tuple(value.shape)}; expected {tuple(old.shape)}. Reshape it, or give "
                "the layer other arguments and call init again."
            )

    def __reduce__(self) -> tuple:
        return type(self), (self.value, self.name)  # a copy makes its own shadow

    def cast(self, dtype: Any) -> Array:
        """The value as a layer needs it that computes in ``dtype``: rounded to 16 bits, once for each new value.

        The value itself wherever that is not float32, or ``dtype`` not of 16 bits.
        """
        value = self.value
        own = value.dtype
        if own is dtype or dtype is None or own == dtype or not is_half(dtype) or own.name != "float32":
            return value
        if self._of is not value or self._shadow.dtype != dtype:
            self._shadow, self._of = lasting(lambda: value.astype(dtype)), value
        return self._shadow

    def changed(self) -> None:
        """Say that the elements of ``value`` were overwritten in place: ``w.value[0] = 0.0; w.changed()``."""
        self._of = None

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.value.shape)

    @property
    def dtype(self) -> numpy.dtype:
        return self.value.dtype

    def __repr__(self) -> str:
        return f"Parameter({self.shape}, {self.dtype})"


def cast_all(parameters: Iterable[Parameter], dtype: Any) -> None:
    """Cast at once all that were cast before and have a new value since: what the next forward pass will ask for."""
    stale = [p for p in parameters if p._shadow is not None and p._of is not p.value and p._shadow.dtype == dtype]
    if stale:
        for parameter, shadow in zip(stale, lasting(lambda: round_all([p.value for p in stale], dtype))):
            parameter._shadow, parameter._of = shadow, parameter.value


@accelerated
def round_all(values: list[Array], dtype: Any) -> list[Array]:
    """Each array in ``dtype``."""
    return [value.astype(dtype) for value in values]


def _computing(dtype: Any) -> numpy.dtype:
    """What a network may compute in."""
    result = dtype_of(dtype)
    if result.name not in FLOATING:
        raise TypeError(f"init: dtype is one of {', '.join(FLOATING)}; got {dtype!r}")
    return result


class Draw:
    """Draws the initial values of one layer's parameters; ``child(i)`` those of the layer inside it at place i.

    ``dtype`` is what the layer computes in; parameters of layers that compute in 16 bits are float32.
    """

    def __init__(self, seed: int, dtype: object = None, path: tuple[int, ...] = (), seen: dict | None = None) -> None:
        if isinstance(seed, bool) or not isinstance(seed, (int, numpy.integer)) or seed < 0:
            raise ValueError(f"seed must be an integer of at least 0, got {seed!r}")
        self.seed, self.path = int(seed), path
        self.dtype = _computing(default_dtype() if dtype is None else dtype)
        self.seen = {} if seen is None else seen  # layers built already in this init, by id: shared layers
        self._number = 0

    def child(self, place: int) -> Draw:
        return Draw(self.seed, self.dtype, (*self.path, place), self.seen)

    def parameter(
        self, initializer: str | Initializer, shape: tuple[int, ...], *, fan_in: int = 1, fan_out: int = 1
    ) -> Parameter:
        """A new parameter, on the backend in force."""
        value = get(initializer)(self._stream(), shape, fan_in, fan_out)
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
