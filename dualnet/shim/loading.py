"""Backends by name, built in or from plug-ins, and the backend of an array."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy

from .process import lock

__all__ = [
    "Array",
    "Backend",
    "BackendUnavailable",
    "available_backends",
    "backend_of",
    "backend_states",
    "get_precision",
    "load",
    "resolve",
    "set_precision",
]

Array = Any
"""An array of any backend: ``numpy.ndarray``, ``cupy.ndarray``, ..."""
HostArray = numpy.ndarray
"""An array on the host, for floors that name no library."""

BUILT_IN = ("numpy", "cupy", "strict", "torch", "array_api_strict")
NAMED_DEVICES = ("torch",)
"""Backends whose devices have names, as in ``torch:cuda:1``; all others number theirs."""
PRECISIONS = ("strict", "tf32")
ENTRY_POINTS = "dualnet.backends"


class BackendUnavailable(RuntimeError):
    """A backend that exists but cannot run here; the message holds the cause and the fix.

    >>> import dualnet as dn
    >>> dn.set_backend("strict:7")
    Traceback (most recent call last):
    ...
    dualnet.BackendUnavailable: strict:7: there is one pretend device; use 'strict'
    """

    __module__ = "dualnet"  # as users import it


@dataclass(frozen=True, eq=False)
class Backend:
    """One array library on one kind of device: what a ``backends/*_backend.py`` returns from ``load(device)``.

    ``array_types`` belong to this library alone. ``from_host`` and ``to_host`` copy between the device and NumPy;
    ``on_host`` says that there is nothing to copy. ``kernels`` holds code that stands in, by name, for functions marked
    with :func:`accelerated`: one kernel, or several in the order in which they are asked, or an object whose
    ``order(x, ...)`` returns them for a call, with ``why`` in words. A kernel may name itself in
    an attribute ``algorithm``, such as ``"numpy winograd"``; ``calls`` counts it under that name, others under their
    backend's. If there are several devices, ``locate`` names the backend of an array, and ``activate`` makes this
    backend's device the current one. ``adopt(x)`` takes an array of the library itself, such as a tensor of PyTorch,
    and returns ours of the same memory; None for anything else, and for arrays on another device. ``peers()`` returns
    an object that moves arrays to the devices of other processes, see :mod:`dualnet.distributed`.

    ``recorder()`` returns an object that records one captured step: ``run(f)`` runs f as it will be recorded,
    ``record(f)`` records it, ``launch()`` repeats it (or returns False: this time it would take a different path, and
    nothing has changed), and ``outputs`` is what f returned. As long as ``checked`` is False, ``rehearse(f)`` comes
    before a launch, which must then give the same bits. The recorder's memory is freed with it, except what is
    allocated inside ``lasting()``. ``watched(array, number)`` is an array that lasts as a recorded step sees it
    (``number``: it stands for a Python number), and ``plain`` undoes that.

    >>> backend = load("numpy")
    >>> backend.name, backend.on_host, backend.xp.__name__
    ('numpy', True, 'numpy')
    """

    name: str
    xp: Any
    array_types: tuple[type, ...]
    from_host: Callable[[numpy.ndarray], Array]
    to_host: Callable[[Array], numpy.ndarray]
    on_host: bool = False
    synchronize: Callable[[], None] = lambda: None
    describe: Callable[[], dict[str, Any]] = dict
    kernels: dict[str, Callable[..., Any] | tuple[Callable[..., Any], ...]] = field(default_factory=dict)
    locate: Callable[[Array], str] | None = None
    activate: Callable[[], None] = lambda: None
    adopt: Callable[[Any], Array | None] = lambda x: None
    set_precision: Callable[[str], None] = lambda name: None
    recorder: Callable[[], Any] | None = None
    lasting: Callable[[], AbstractContextManager] = nullcontext
    watched: Callable[[Array, bool], Array] = lambda array, number: array
    plain: Callable[[Array], Array] = lambda array: array
    peers: Callable[[], Any] | None = None


_loaded: dict[str, Backend] = {}
_by_type: dict[type, Backend] = {}
_lock = lock(again=True)
_precision = "strict"


# -- by name -----------------------------------------------------------------------------------------------------------


def load(name: str) -> Backend:
    """The backend of this name, loaded on first use.

    Raises ``ValueError`` for an unknown name and :class:`BackendUnavailable` for one that cannot run here.

    >>> load("NumPy") is load("numpy")
    True
    """
    return resolve(name)[0]


def resolve(name: str) -> tuple[Backend, str]:
    """The backend of this name, and why ``auto`` fell back: it is CuPy where CuPy works, else NumPy.

    >>> backend, cause = resolve("auto")
    >>> bool(cause) == backend.on_host
    True
    """
    if not isinstance(name, str):
        raise TypeError(f"a backend's name must be a string such as 'numpy', got {type(name).__name__}")
    key = name.strip().lower()
    if key != "auto":
        return _get(key), ""
    try:
        return _get("cupy"), ""
    except BackendUnavailable as cause:
        return _get("numpy"), str(cause)


def _get(key: str) -> Backend:
    backend = _loaded.get(key)
    if backend is None:
        with _lock:  # two threads must not make two backends of one name
            backend = _loaded.get(key) or _load(key)
    return backend


def _load(key: str) -> Backend:
    base, _, device = key.partition(":")
    place = (device or None) if base in NAMED_DEVICES else _device_number(key, device)
    backend = _loader(base, key)(place)
    backend = _loaded.get(backend.name, backend)
    backend.set_precision(_precision)
    for kind in backend.array_types:
        _by_type.setdefault(kind, backend)
    _loaded[backend.name] = _loaded[key] = backend  # last: other threads look here without the lock
    return backend


def _device_number(key: str, device: str) -> int | None:
    if ":" not in key:
        return None
    if not (device.isascii() and device.isdigit()):
        raise ValueError(f"backend {key!r}: expected a device number after the colon, as in 'cupy:1'")
    return int(device)


def _loader(base: str, key: str) -> Callable[[Any], Backend]:
    if base in BUILT_IN:
        return importlib.import_module(f"dualnet.backends.{base}_backend").load
    plugins = _plugins()
    if base in plugins:
        return functools.partial(_load_plugin, base, plugins[base])
    known = ", ".join([*BUILT_IN, "cupy:N", "torch:DEVICE", "auto", *sorted(plugins)])
    raise ValueError(f"unknown backend {key!r}; the backends are: {known}")


def _plugins() -> dict[str, Any]:
    """The backends of plug-ins: entry points of other distributions, each a function ``load(device)``."""
    from importlib.metadata import entry_points  # slow to import, and seldom needed

    found = {point.name.lower(): point for point in entry_points(group=ENTRY_POINTS)}
    return {name: point for name, point in found.items() if name not in (*BUILT_IN, "auto")}


def _load_plugin(base: str, point: Any, device: int | None) -> Backend:
    try:
        backend = point.load()(device)
        if not isinstance(backend, Backend):
            raise TypeError(f"load() returned a {type(backend).__name__}; expected a dualnet.backend.Backend")
        for kind in backend.array_types:
            owner = _by_type[kind].name if kind in _by_type else kind.__module__
            if owner.partition(".")[0] in BUILT_IN:
                raise TypeError(f"its arrays are {kind.__name__}, which belong to another backend")
    except BackendUnavailable:
        raise
    except Exception as error:  # whatever a plug-in raises must not break dn.info()
        line = str(error).partition("\n")[0]
        raise BackendUnavailable(f"{base}: the plug-in {point.value} failed: {type(error).__name__}: {line}") from error
    return backend


def available_backends() -> list[str]:
    """The names of the backends that work here, NumPy first.

    >>> import dualnet as dn
    >>> {"numpy", "strict"} <= set(dn.available_backends())
    True
    """
    return [name for name, state in backend_states().items() if state == "available"]


def backend_states() -> dict[str, str]:
    """For every known backend ``"available"``, or why it is not.

    >>> backend_states()["numpy"]
    'available'
    """
    states = {}
    for name in [*BUILT_IN, *sorted(_plugins())]:
        try:
            load(name)
            states[name] = "available"
        except BackendUnavailable as cause:
            states[name] = str(cause).removeprefix(f"{name}: ")
    return states


def set_precision(name: str) -> None:
    """How GPUs may round the factors of a float32 product: ``"strict"`` (not at all, the default) or ``"tf32"``.

    TF32 keeps 10 of the 23 bits, and is several times as fast on tensor cores. NumPy always computes in full.

    >>> import dualnet as dn
    >>> dn.set_precision("strict"); dn.info()["precision"]
    'strict'
    """
    if name not in PRECISIONS:
        raise ValueError(f"set_precision: expected one of {', '.join(PRECISIONS)}, got {name!r}")
    global _precision
    with _lock:
        _precision = name
        for backend in set(_loaded.values()):
            backend.set_precision(name)


def get_precision() -> str:
    """``"strict"`` or ``"tf32"``, as chosen with :func:`set_precision`.

    >>> get_precision()
    'strict'
    """
    return _precision


# -- by array ----------------------------------------------------------------------------------------------------------


def backend_of(array: Array) -> Backend | Any:  # Any for None: most callers know that they have an array
    """The backend that owns this array, or None for anything that is not an array.

    If a library drives several devices, the array's device becomes the current one: the caller will compute there.

    >>> import dualnet as dn
    >>> backend_of(dn.asarray([1.0], backend="strict")).name, backend_of([1.0])
    ('strict', None)
    """
    kind = type(array)
    backend = _by_type.get(kind) or _recognise(kind)
    if backend is not None and backend.locate is not None:
        place = backend.locate(array)
        backend = _loaded.get(place) or _get(place)
        backend.activate()
    return backend


def _recognise(kind: type) -> Backend | None:
    """The backend of a type seen for the first time: a subclass such as ``numpy.memmap``, or CuPy's array."""
    for ancestor in kind.__mro__:
        if ancestor.__name__ in ("matrix", "MaskedArray"):
            return None  # their arithmetic follows other rules
        if ancestor not in _by_type and ancestor.__name__ in ("ndarray", "generic"):
            if (library := ancestor.__module__.partition(".")[0]) in ("numpy", "cupy"):
                _get(library)
        if ancestor in _by_type:
            return _by_type.setdefault(kind, _by_type[ancestor])
    return None
