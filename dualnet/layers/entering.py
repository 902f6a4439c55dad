"""The input of a network: a batch of examples, copied to the network's backend."""

from __future__ import annotations

from typing import Any

from ..shim import Array, asarray, backend_of, current
from .layer import Layer

__all__ = ["as_batch", "home", "one_of_each"]


def as_batch(net: Layer, x: Any, op: str) -> Array:
    """x as a batch for the network: checked, on its backend, in its dtype.

    >>> import dualnet as dn
    >>> dn.to_numpy(as_batch(dn.Dense(3).init((2,)), [[1, 2]], "trace"))
    array([[1., 2.]], dtype=float32)
    """
    if net.input_shape is None:
        raise ValueError(f"{op}: {type(net).__name__} is not initialised; call net.init(input_shape) first")
    one_of_each(net, op)
    x = net.enter(asarray(x, backend=home(net)))
    if x.shape[0] == 0:
        raise ValueError(f"{op}: x holds no examples; expected at least one")
    return x


def one_of_each(net: Layer, op: str) -> None:
    """Raise ``ValueError`` for a network with several inputs or outputs, which ``op`` does not take.

    >>> import dualnet as dn
    >>> one_of_each(dn.Dense(3).init((2,)), "trace")
    """
    shape = net.input_shape
    if shape is not None and (isinstance(shape, dict) or isinstance(net.output_shape(shape), dict)):
        raise ValueError(f"{op}: the network has several inputs or outputs; {op} is for networks with one of each")


def home(net: Layer) -> str:
    """The name of the backend of a network's parameters; if it has none, that of the current backend."""
    for parameter in net.parameters().values():
        return backend_of(parameter.value).name
    return current().name
