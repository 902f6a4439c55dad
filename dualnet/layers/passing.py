"""Between layers: results are checked, gradients gathered by name, and errors get the layer's name in front."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

from ..ops.pullback import Pullback
from ..sharing import part
from ..shim import Array
from .state import LayerTree

Gradients = dict[str, Array]


def y_and_pullback(layer: LayerTree, result: Any) -> tuple[Array, Pullback]:
    """The result of ``forward``, checked to be y and its pullback."""
    if type(result) is tuple and len(result) == 2 and isinstance(result[1], Pullback):
        result[1].paired = True
        return result
    kinds = ", ".join(type(part).__name__ for part in (result if type(result) is tuple else (result,)))
    raise TypeError(
        f"{type(layer).__name__}: forward returned ({kinds}); expected y and its pullback, as in "
        "return y, dn.Pullback(name, function of dy, y)"
    )


def with_gradients(layer: LayerTree, way: Pullback, *names: str) -> Pullback:
    """Turn an op's pullback into its layer's: ``dx, dw, db`` become ``dx, {"w": dw, "b": db}``."""

    def convert(result: Any) -> tuple[Array, Gradients]:
        dx, *gradients = result if isinstance(result, tuple) else (result,)
        found = {name: gradient for name, gradient in zip(names, gradients) if gradient is not None}
        mine = part()
        if mine is not None and mine.filled is not None:  # these may travel to other ranks from now on
            mine.filled(layer, found)
        return dx, found

    return way.then(type(layer).__name__, convert)


def merge(owner: LayerTree, parts: Sequence[tuple[str, LayerTree, Gradients]]) -> Gradients:
    """The gradients of the layers inside, under the owner's names: ``w`` of layer 0 becomes ``0.w``.

    ``parts`` holds each layer's name, the layer, and its gradients. Those of a shared parameter add up.
    """
    parameters = owner.parameters()
    total: Gradients = {}
    for child, layer, gradients in parts:
        for local, gradient in gradients.items():
            name = f"{child}.{local}"
            if name not in parameters:  # it is shared, and listed under its first name
                inner = (layer.parameters() if layer.children() else vars(layer)).get(local)
                name = next((known for known, parameter in parameters.items() if parameter is inner), "")
            if not name:
                raise ValueError(
                    f"layer {child} ({type(layer).__name__}): its pullback returned a gradient {local!r}, but it has "
                    f"{', '.join(layer.parameters()) or 'no parameters'}. Create a parameter with draw.parameter(...) "
                    "in build, and return its gradient under the attribute's name."
                )
            total[name] = total[name] + gradient if name in total else gradient
    return {name: total[name] for name in parameters if name in total}


@contextmanager
def blaming(name: str, layer: LayerTree) -> Iterator[None]:
    """Put the layer's name in front of the message of any error raised inside."""
    try:
        yield
    except (ValueError, TypeError) as error:
        blame(name, layer, error)


def blame(name: str, layer: LayerTree, error: Exception) -> NoReturn:
    """Raise the error again, with the layer's name in front of its message; subclasses get a note instead."""
    if type(error) in (ValueError, TypeError, MemoryError):
        raise type(error)(f"layer {name} ({type(layer).__name__}): {error}") from error
    error.add_note(f"in layer {name} ({type(layer).__name__})")
    raise error
