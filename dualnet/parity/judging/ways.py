"""The ways to compute a case: on a backend, with its kernels or with the references that they stand in for."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy

from ... import ops
from ...shim import Array, asarray, backend_of, calls, kernels_allowed, load, to_numpy, use_backend
from ..cases.case import Case
from ..cases.truth import gradient_names, output_name

__all__ = ["Outcome", "Way", "kernels_on", "ran_since", "titles", "ways_of"]

Kernel = tuple[str, str]
"""The function that a kernel computes, and whose kernel it is: ``("correlate", "kernel of oneDNN")``."""


@dataclass
class Outcome:
    """The outcome: host arrays by name, or the name of an exception; and the kernels that took part."""

    values: dict[str, numpy.ndarray | None] = field(default_factory=dict)
    error: str = ""
    message: str = ""
    kernels: tuple[Kernel, ...] = ()

    def bits(self) -> tuple:
        """Everything that was computed, to the bit."""
        return self.error, tuple(
            None if v is None else (v.dtype.str, v.shape, v.tobytes()) for v in self.values.values()
        )


@dataclass(frozen=True)
class Way:
    """A backend, with ``kernels`` or without. A kernel may decline a call; then the reference runs."""

    backend: str
    kernels: bool = False

    @property
    def name(self) -> str:
        """``"strict"``, or ``"strict kernels"``."""
        return f"{self.backend} kernels" if self.kernels else self.backend

    @classmethod
    def parse(cls, name: str | Way) -> Way:
        """A way by its name: ``"numpy"`` is the backend as users get it, ``"numpy reference"`` is without kernels.

        >>> Way.parse("numpy reference"), Way.parse("strict")
        (Way(backend='numpy', kernels=False), Way(backend='strict', kernels=False))
        """
        if isinstance(name, Way):
            return name
        if not isinstance(name, str):
            raise TypeError(f"parity: a backend's name must be a string such as 'numpy', got {type(name).__name__}")
        backend, _, kind = name.strip().lower().partition(" ")
        if kind not in ("", "kernels", "reference"):
            raise ValueError(f"parity: only 'kernels' or 'reference' may follow a backend's name, got {name!r}")
        loaded = load(backend)
        return cls(loaded.name, bool(loaded.kernels) and (kind == "kernels" or not kind and kernels_allowed()))

    @contextmanager
    def in_force(self) -> Iterator[None]:
        """Use this backend, with or without its kernels, and silence NumPy's warnings: NaN and ∞ are meant to occur."""
        with use_backend(self.backend), kernels_on(self.kernels), numpy.errstate(all="ignore"):
            yield

    def run(self, case: Case) -> Outcome:
        """Forward and every gradient. An exception is an outcome too."""
        with self.in_force():
            before = dict(calls)
            try:
                outcome = Outcome(self.compute(case))
            except Exception as error:  # its type is compared
                outcome = Outcome(error=type(error).__name__, message=str(error))
            outcome.kernels = tuple(sorted(ran_since(before)))
            return outcome

    def compute(self, case: Case) -> dict[str, numpy.ndarray | None]:
        """The output and each gradient by name, on the host."""
        given = [placed(a, case.layout) for a in case.arrays.values()]
        y, pullback = function(case)(*given, **case.options)
        if case.refused:
            return {output_name(case): to_numpy(y)}
        gradients = pullback() if case.loss else pullback(placed(case.dy, case.layout))
        several = gradients if isinstance(gradients, tuple) else (gradients,)
        found = {output_name(case): y, **dict(zip(gradient_names(case), several))}
        return {name: None if a is None else to_numpy(a) for name, a in found.items()}


def ways_of(backend: str) -> list[Way]:
    """The references of a backend and, where it has any, its kernels."""
    return [Way(backend), Way(backend, kernels=True)] if load(backend).kernels else [Way(backend)]


@contextmanager
def kernels_on(allowed: bool) -> Iterator[None]:
    """Switch kernels on or off for the whole process, until the block ends."""
    before = os.environ.get("DUALNET_KERNELS")
    os.environ["DUALNET_KERNELS"] = "auto" if allowed else "reference"
    try:
        yield
    finally:
        if before is None:
            del os.environ["DUALNET_KERNELS"]
        else:
            os.environ["DUALNET_KERNELS"] = before


def ran_since(before: dict[Kernel, int]) -> set[Kernel]:
    """The kernels that have served since ``before``, a copy of :data:`dualnet.shim.calls`."""
    return {key for key, n in calls.items() if key[1] != "reference" and n > before.get(key, 0)}


def titles(kernels: Iterable[Kernel]) -> set[str]:
    """Kernels as the certificate prints them.

    >>> titles([("correlate", "kernel of oneDNN")])
    {'correlate (oneDNN)'}
    """
    return {f"{name} ({by.removeprefix('kernel of ')})" for name, by in kernels}


def function(case: Case) -> Any:
    """The op or loss of a case, with ``relu=True`` if it includes a ReLU."""
    op = getattr(ops.losses if case.loss else ops, case.base)
    return functools.partial(op, relu=True) if case.rectified else op


def placed(array: numpy.ndarray | None, layout: str) -> Array | None:
    """The array on the backend in use, in this memory layout. (A copy to a device would make it contiguous.)"""
    if array is None:
        return None
    if layout == "together" or array.ndim == 0:
        return asarray(array.copy())
    if layout == "sliced":
        wide = numpy.zeros((*array.shape[:-1], 2 * array.shape[-1]), array.dtype)
        wide[..., 1::2] = array
        return asarray(wide)[..., 1::2]
    if layout == "reversed":
        return asarray(numpy.ascontiguousarray(array[::-1, ..., ::-1] if array.ndim > 1 else array[::-1]))[
            (slice(None, None, -1), ..., slice(None, None, -1)) if array.ndim > 1 else slice(None, None, -1)
        ]
    turned = asarray(numpy.ascontiguousarray(array.T))
    return backend_of(turned).xp.permute_dims(turned, tuple(reversed(range(array.ndim))))
