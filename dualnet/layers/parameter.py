"""Parameters: the arrays that training changes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..recording import Stateful, lasting
from ..shim import Array, accelerated, backend_of
from ..shim.dtypes import is_half


class Parameter(Stateful):
    """An array that training changes. It stays the same object when its value moves to another backend or is loaded.

    In a network that computes in float16 or bfloat16, ``value`` is float32 (the *master*: a step may be smaller than
    the distance between two 16-bit numbers), and a layer computes with ``cast(x.dtype)``.

    >>> import dualnet as dn
    >>> net = dn.Sequential([dn.Dense(3)]).init((2,), dtype="float16")
    >>> w = net.parameters()["0.w"]
    >>> w.shape, w.dtype.name, w.cast(net.dtype).dtype.name
    ((2, 3), 'float32', 'float16')
    """

    # _shadow is a copy of the value in 16 bits, made from the array _of, and valid as long as that array is the value.
    # Code that overwrites the value in place (a captured step) writes _shadow in the same launch, or calls changed().
    # An optimizer holds only weak references to its parameters, so there is a __weakref__.
    __slots__ = ("__weakref__", "_of", "_shadow", "frozen", "name", "value")
    unwatched = ("_of", "_shadow")

    def __init__(self, value: Any, name: str = "Parameter", frozen: bool = False) -> None:
        self._shadow: Any = None
        self.frozen = frozen  # does an optimizer leave it as it is? See Layer.freeze
        self.name = name  # for messages; init sets the layer's class and the attribute, such as "Conv2D.w"
        self.value: Any = value

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "value":
            self._check(value)
            self._of = None  # even if it is the same array: w.value *= 0.5
        super().__setattr__(name, value)

    def _check(self, value: Any) -> None:
        """A value must keep its shape: an optimizer's memory and the next layers were made for it."""
        if backend_of(value) is None:
            raise TypeError(
                f"{self.name}: value is a {type(value).__name__}; expected an array. Make one with dn.asarray(...)."
            )
        old = getattr(self, "value", None)
        if old is not None and tuple(value.shape) != tuple(old.shape):
            raise ValueError(
                f"{self.name}: value has shape {tuple(value.shape)}; expected {tuple(old.shape)}. Reshape it, or give "
                "the layer different arguments and call init again."
            )

    def __reduce__(self) -> tuple:
        return type(self), (self.value, self.name, self.frozen)  # a copy creates its own shadow

    def cast(self, dtype: Any) -> Array:
        """The value for a layer that computes in ``dtype``: rounded to 16 bits, once for each new value.

        It is the value itself, unless the value is float32 and ``dtype`` has 16 bits.
        """
        value = self.value
        own = value.dtype
        if own is dtype or dtype is None or own == dtype or not is_half(dtype) or own.name != "float32":
            return value
        if self._of is not value or self._shadow.dtype != dtype:
            self._shadow, self._of = lasting(lambda: value.astype(dtype)), value
        return self._shadow

    def changed(self) -> None:
        """Call this after you overwrite elements of ``value`` in place: ``w.value[0] = 0.0; w.changed()``."""
        if self._of is not None:
            self._of = None

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.value.shape)

    @property
    def dtype(self) -> Any:
        return self.value.dtype

    def __repr__(self) -> str:
        return f"Parameter({self.shape}, {self.dtype})"


def cast_all(parameters: Iterable[Parameter], dtype: Any) -> None:
    """Cast, all at once, what was cast before and has a new value: the next forward pass needs it."""
    stale = [p for p in parameters if p._shadow is not None and p._of is not p.value and p._shadow.dtype == dtype]
    if stale:
        for parameter, shadow in zip(stale, lasting(lambda: round_all([p.value for p in stale], dtype))):
            parameter._shadow, parameter._of = shadow, parameter.value


@accelerated
def round_all(values: list[Array], dtype: Any) -> list[Array]:
    """Each array in ``dtype``."""
    return [value.astype(dtype) for value in values]
