"""Gradients before a step: checked against the parameters, and clipped."""

from __future__ import annotations

from typing import Any

from ..arguments import positive
from ..layers.parameter import Parameter
from ..ops.sums import wide
from ..shim import Array, asarray, backend_of, namespace

__all__ = ["Gradients", "check_gradients", "clip_by_global_norm", "clip_by_value"]

Gradients = dict[str, Array]
"""By the parameter's name, as a pullback returns them."""


def check_gradients(owner: str, parameters: dict[str, Parameter], grads: Gradients) -> None:
    """Raise unless each parameter has one gradient, with its shape and backend, and its dtype or a 16-bit one."""
    if len(grads) == len(parameters) and all(_fits(grads.get(name), p.value) for name, p in parameters.items()):
        return
    shapes = {name: tuple(getattr(g, "shape", ())) for name, g in grads.items() if g is not None}
    faults = {
        "missing": parameters.keys() - shapes.keys(),
        "unknown": shapes.keys() - parameters.keys(),
        "of the wrong shape": {
            f"{name} {shapes[name]}, expected {parameter.shape}"
            for name, parameter in parameters.items()
            if shapes.get(name, parameter.shape) != parameter.shape
        },
    }
    if any(faults.values()):
        listed = "; ".join(f"{fault}: {', '.join(sorted(names))}" for fault, names in faults.items() if names)
        raise ValueError(f"{owner}: the gradients do not fit the parameters ({listed}). Nothing was changed.")
    for name, parameter in parameters.items():
        namespace(owner, **{name: parameter.cast(grads[name].dtype), f"the gradient of {name}": grads[name]})


def _fits(gradient: Any, value: Array) -> bool:
    """A quick check: does the gradient clearly fit? (A 16-bit gradient may fit too, but needs a closer look.)"""
    backend = backend_of(gradient)
    if backend is None or backend is not backend_of(value):
        return False
    return gradient.shape == value.shape and gradient.dtype == value.dtype and value.dtype.kind == "f"


def clip_by_global_norm(grads: Gradients, max_norm: float) -> tuple[Gradients, Array]:
    """Scale all gradients by one factor, so that together they are at most ``max_norm`` long (Pascanu et al. 2013).

    Returns the gradients, g · min(1, max_norm / (‖g‖ + 10⁻⁶)) as in PyTorch, and ‖g‖ as a 0-d array: nothing is read
    back from the device. The length is right for gradients of any size, even if their squares would overflow or vanish.
    An infinite gradient makes ‖g‖ infinite: it becomes NaN itself, and all others become 0.

    >>> import dualnet as dn
    >>> grads = {"w": dn.asarray([3.0, 0.0]), "b": dn.asarray([4.0])}
    >>> clipped, norm = dn.clip_by_global_norm(grads, max_norm=1.0)
    >>> dn.to_numpy(clipped["w"]).round(4), float(dn.to_numpy(norm))
    (array([0.6, 0. ], dtype=float32), 5.0)
    """
    max_norm = positive(max_norm, "max_norm", op="clip_by_global_norm")
    _named(grads, "clip_by_global_norm")
    if not grads:
        return {}, asarray(0.0)
    xp = namespace("clip_by_global_norm", **grads)
    arrays = [wide(g) for g in grads.values()]
    scale = _scale(arrays)
    if scale is None:
        norm = xp.sqrt(sum(xp.sum(g * g) for g in arrays))
        factor = xp.minimum(max_norm / (norm + 1e-6), 1.0)
        clipped = [g * factor for g in arrays]
    else:  # the same with scale · g; a power of two changes no digit
        scaled = [g * scale for g in arrays]
        length = xp.sqrt(sum(xp.sum(g * g) for g in scaled))
        norm, factor = length / scale, max_norm / (length + 1e-6 * scale)
        short = factor * scale >= 1  # not so for NaN
        clipped = [xp.where(short, g, s * factor) for g, s in zip(arrays, scaled)]
    return {name: g.astype(old.dtype, copy=False) for (name, old), g in zip(grads.items(), clipped)}, norm


RANGE = {"float32": (50, 80), "float64": (400, 600)}
"""(k, s): squares of numbers from 2⁻ᵏ to 2ᵏ can be added up. Larger numbers are divided by 2ˢ first, smaller ones
multiplied by it."""


def _scale(arrays: list[Array]) -> Array | None:
    """The power of two that makes all numbers safe to square, as an array; None if they are safe already.

    On a device the answer is always an array, since a look at the numbers would have to wait for the device.
    """
    backend, (k, s) = backend_of(arrays[0]), RANGE[arrays[0].dtype.name]
    xp, largest = backend.xp, None
    for g in arrays:
        if g.size:
            most = xp.max(xp.abs(g))
            largest = most if largest is None else xp.maximum(largest, most)
    if largest is None or (backend.on_host and 2.0**-k <= largest <= 2.0**k):
        return None
    one = xp.ones((), dtype=arrays[0].dtype)
    return xp.where(largest > 2.0**k, one * 2.0**-s, xp.where(largest < 2.0**-k, one * 2.0**s, one))


def clip_by_value(grads: Gradients, limit: float) -> Gradients:
    """Limit every element of every gradient to [−limit, limit].

    >>> import dualnet as dn
    >>> dn.to_numpy(dn.clip_by_value({"w": dn.asarray([3.0, -0.5])}, 1.0)["w"])
    array([ 1. , -0.5], dtype=float32)
    """
    limit = positive(limit, "limit", op="clip_by_value")
    _named(grads, "clip_by_value")
    if not grads:
        return {}
    xp = namespace("clip_by_value", **grads)
    return {name: xp.clip(g, -limit, limit) for name, g in grads.items()}


def _named(grads: Any, op: str) -> None:
    if not isinstance(grads, dict):
        raise TypeError(f"{op}: grads is a {type(grads).__name__}; expected gradients by name, as from a pullback")
