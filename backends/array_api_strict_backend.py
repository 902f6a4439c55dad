"""The array API standard to the letter: the library array-api-strict has all of its names and no others.

It computes with NumPy, slowly, so it is for tests: what runs here needs nothing of NumPy but the standard, and what
:mod:`.adapter` makes of it. It has no 16-bit numbers.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import numpy

from dualnet.shim import Backend, BackendUnavailable

from . import adapter

DTYPES = "bool int8 int16 int32 int64 uint8 uint16 uint32 uint64 float32 float64".split()
OLDEST = (2, 3)


def load(device: int | None = None) -> Backend:
    """array-api-strict on the host. Raises :class:`BackendUnavailable` if it is not installed."""
    if device not in (None, 0):
        raise BackendUnavailable(f"array_api_strict:{device}: there is one device; use 'array_api_strict'")
    strict = _library()
    library = adapter.Library(
        name="array_api_strict",
        standard=strict,
        dtypes={name: getattr(strict, name) for name in DTYPES},
        to_held=lambda host: strict.asarray(host, copy=True),
        to_host=lambda held: numpy.array(held),
        write=lambda held, index, value: _write(strict, held, index, value),
        mend=_silent,
    )
    return adapter.backend(library, describe=lambda: {"library": f"array-api-strict {strict.__version__}"})


def _library() -> Any:
    try:
        strict = importlib.import_module("array_api_strict")
    except ImportError:
        raise BackendUnavailable(
            'array_api_strict: array-api-strict is not installed. Install it with: pip install "dualnet[array-api]"'
        ) from None
    if tuple(map(int, strict.__version__.split(".")[:2])) < OLDEST:
        raise BackendUnavailable(
            f"array_api_strict: version {strict.__version__} is installed; expected 2.3 or newer. "
            'Update it with: pip install -U "dualnet[array-api]"'
        )
    return strict


def _silent(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Without the warnings of the NumPy beneath: a device does not warn of an overflow."""
    return numpy.errstate(all="ignore")(function)


def _write(strict: Any, held: Any, index: tuple[Any, ...], value: Any) -> Any:
    """``held[index] = value``. The standard cannot assign to places given by an integer array."""
    if len(index) == 1 and getattr(index[0], "dtype", None) == strict.int64:
        held[...] = _scattered(strict, held, index[0], value)
    else:
        held[index] = value
    return held


def _scattered(strict: Any, held: Any, places: Any, value: Any) -> Any:
    """held (n,) with each value at its place; no place occurs twice. Each element looks up its value, if it has one."""
    if places.size == 0:
        return held
    value = strict.broadcast_to(strict.asarray(value, dtype=held.dtype), places.shape)
    places, value = strict.reshape(places, (-1,)), strict.reshape(value, (-1,))
    order = strict.argsort(places)
    ascending = strict.take(places, order, axis=0)
    everywhere = strict.arange(held.shape[0])
    found = strict.clip(strict.searchsorted(ascending, everywhere), 0, places.size - 1)
    hit = strict.take(ascending, found, axis=0) == everywhere
    return strict.where(hit, strict.take(strict.take(value, order, axis=0), found, axis=0), held)
