"""Fast code that stands in by name for a readable reference."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable
from typing import Any

from .loading import Array, backend_of
from .process import lock, reader

__all__ = ["accelerated", "kernels_allowed"]


_kernels = reader("DUALNET_KERNELS")


references: dict[str, Callable[..., Any]] = {}
"""Every function marked :func:`accelerated`, by name."""


calls: Counter[tuple[str, str]] = Counter()
"""How often each accelerated function was served, by ``(name, "kernel of numpy winograd")``: the algorithm, as in
:attr:`Backend.kernels`, or ``"reference"``. Hold ``counting`` to change it, or to go through it while other threads
compute."""
counting = lock()

reasons: Counter[tuple[str, str, str]] = Counter()
"""``(name, algorithm, reason)`` if a backend has a choice, with a reason such as "table for AVX2"."""


def accelerated(reference: Callable[..., Any]) -> Callable[..., Any]:
    """Mark a readable function as a reference, for which a backend may carry a kernel of the same name and signature.

    The first argument, an array or a list of arrays, decides the backend, whose kernels are asked in their order. A
    kernel that cannot serve the call returns ``NotImplemented``; then the next one is asked, and in the end the
    reference runs. ``DUALNET_KERNELS=reference`` turns all kernels off.

    >>> from dualnet.ops.convolution import im2col
    >>> im2col is references["im2col"]
    True
    """
    name = reference.__name__
    place = (reference.__module__, reference.__qualname__)
    if name in references and (references[name].__module__, references[name].__qualname__) != place:
        raise ValueError(f"two references are named {name!r}: a kernel would stand in for both")

    @functools.wraps(reference)
    def dispatch(x: Array, /, *args: Any, **options: Any) -> Any:
        backend = backend_of(x[0] if type(x) is list else x)
        if backend is not None and name in backend.kernels and kernels_allowed():
            kernels: Any = backend.kernels[name]
            if type(kernels) is not tuple:
                kernels = (kernels,) if callable(kernels) else kernels.order(x, *args, **options)
            for kernel in kernels:
                result = kernel(x, *args, **options)
                if result is not NotImplemented:
                    by = f"kernel of {getattr(kernel, 'algorithm', backend.name)}"
                    with counting:
                        calls[name, by] += 1
                        if type(kernels) is not tuple:
                            reasons[name, by, kernels.why] += 1
                    return result
        with counting:
            calls[name, "reference"] += 1
        return reference(x, *args, **options)

    dispatch.reference = reference  # type: ignore[attr-defined]
    references[name] = dispatch
    return dispatch


def why() -> dict[str, str]:
    """Why each algorithm in ``calls`` was asked, where a backend had several to choose from.

    >>> isinstance(why(), dict)
    True
    """
    with counting:
        said = [(f"{name} ({by})", reason) for name, by, reason in sorted(reasons) if (name, by) in calls]
    return {what: "; ".join(reason for other, reason in said if other == what) for what, _ in said}


def kernels_allowed() -> bool:
    """False under ``DUALNET_KERNELS=reference``.

    >>> kernels_allowed() in (True, False)
    True
    """
    if (asked := _kernels()) == "":
        return True  # as in most calls
    asked = asked.strip().lower()
    if asked not in ("", "auto", "reference"):
        raise ValueError(f"DUALNET_KERNELS must be 'auto' or 'reference', got {asked!r}")
    return asked != "reference"
