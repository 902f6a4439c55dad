"""Which layers of a chain run together, in one pass over memory, and in which order.

A ReLU reads and writes a whole map only to clip it at 0. The layer before it writes that map anyway, and can clip it
right away. So can the max pooling after it, on a smaller map: max(0, ·) is monotonic, so the largest of the clipped
units is the largest unit, clipped. Class attributes say what a layer can do:

- ``takes_relu``: its ``forward`` and ``infer`` accept ``relu=True``, and then clip what they return. (Here and in
  ``takes_other``, ``forward`` is enough for a class without an ``infer`` of its own.)
- ``takes_other``: its ``forward`` and ``infer`` accept ``other=`` the output of another branch, and add it to their own
  before the ReLU; its pullback returns the two deltas as a list, like that of every layer with two inputs.
- ``takes_norm``: its ``infer`` accepts ``norm=`` the layer after it, which ``is_norm``, and does its work too.
- ``is_relu``: it is max(0, ·), so a layer before or after it may do its work.
- ``commutes_with_relu``: its output is the same, whether a ReLU comes before or after. It also sets ``takes_relu``.
- ``takes_need_dx``: forward accepts ``need_dx=False``, and then leaves out dx, which a network's first layer need not
  compute.
- ``leaves_relu``: in training, and on a CPU, it leaves its ReLU to a later layer that commutes with it: on the smaller
  map it is cheaper, and so is its backward pass.

These attributes are not inherited: a subclass may have a different ``forward``, so it must set them again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from ..shim import Array, backend_of
from .layer import Layer

METHODS = ("forward", "infer")
"""The methods that compute. If one of them is replaced on a layer, that layer runs alone."""


def passes(layers: Sequence[Layer], way_back: bool) -> Iterator[tuple[int, int | None]]:
    """The positions of a chain's layers in the order in which they run, each with the position of the ReLU it takes.

    ``way_back`` means that the pullback is needed too, or that a pass over a map costs as much as on a CPU: then a ReLU
    waits for the smaller map after a pooling.

    >>> import dualnet as dn
    >>> layers = [dn.Conv2D(4, 3), dn.ReLU(), dn.MaxPool2D(2), dn.Dense(3), dn.ReLU()]
    >>> list(passes(layers, way_back=False)), list(passes(layers, way_back=True))
    ([(0, 1), (2, None), (3, 4)], [(0, None), (2, 1), (3, 4)])
    """
    chain, place = [*layers, None, None], 0
    while place < len(layers):
        layer, relu, pooling = chain[place], chain[place + 1], chain[place + 2]
        if not (_says(relu, "is_relu") and _says(layer, "takes_relu")) or by_hand(layer) or by_hand(relu):
            yield place, None
            place += 1
        elif way_back and _says(layer, "leaves_relu") and _commutes(pooling):
            yield from ((place, None), (place + 2, place + 1))
            place += 3
        else:
            yield place, place + 1
            place += 2


def inferring(layers: Sequence[Layer], places: Iterator[tuple[int, int | None]]) -> Iterator[tuple[int, int, bool]]:
    """The :func:`passes` of inference, where batch norm runs in the pass of the convolution before it.

    Yields the first and last position of each pass, not counting the ReLU, and whether it takes a ReLU.

    >>> import dualnet as dn
    >>> net = dn.Sequential([dn.Conv2D(4, 3), dn.BatchNorm(), dn.ReLU(), dn.Flatten()]).init((5, 5, 1))
    >>> list(inferring(net.layers, passes(net.layers, way_back=False)))
    [(0, 1, True), (3, 3, False)]
    """
    for place, relu in places:
        end = place
        if relu is None and place + 1 < len(layers) and _normalised_by(layers[place], layers[place + 1]):
            end, relu = next(places)
        yield place, end, relu is not None


def _normalised_by(layer: Any, norm: Any) -> bool:
    """Can the layer do the work of the norm after it? Not if either is watched, or does not fit."""
    if not (_says(norm, "is_norm") and _says(layer, "takes_norm")) or replaced((layer, norm), *METHODS):
        return False
    if type(layer).infer is Layer.infer or getattr(layer, "w", None) is None or norm.moving_mean is None:
        return False
    w, learned = layer.w.value, [p.value for p in (norm.gamma, norm.beta) if p is not None]
    kind, shape, dtype = type(w), (layer.filters,), w.dtype
    return all(
        array.shape == shape and array.dtype == dtype and (type(array) is kind or backend_of(array) is backend_of(w))
        for array in (norm.moving_mean, norm.moving_variance, *learned)
    )


def meets(layer: Layer, x: Array, other: Array) -> bool:
    """Does another branch fit the layer's output for x, so that one pass can add the two?"""
    fits = backend_of(other) is backend_of(x) and other.dtype == x.dtype
    return fits and tuple(other.shape) == (x.shape[0], *layer.output_shape(tuple(x.shape[1:])))


def _commutes(pooling: Any) -> bool:
    """Can a ReLU change places with this pooling?"""
    return _says(pooling, "commutes_with_relu") and not by_hand(pooling)


def takes_need_dx(layer: Layer) -> bool:
    """Does the layer's ``forward`` accept ``need_dx=False``? A subclass with its own ``forward`` must say so itself.

    >>> import dualnet as dn
    >>> class Plain(dn.Conv2D):
    ...     def forward(self, x, train=False):
    ...         return super().forward(x, train)
    >>> takes_need_dx(dn.Conv2D(4, 3)), takes_need_dx(dn.DepthwiseConv2D(3)), takes_need_dx(Plain(4, 3))
    (True, True, False)
    """
    for kind in () if by_hand(layer) else type(layer).__mro__:
        if "takes_need_dx" in vars(kind):
            return kind.takes_need_dx  # type: ignore[attr-defined]
        if "forward" in vars(kind):
            break
    return False


def takes_other(layer: Layer) -> bool:
    """Can the layer add another branch to its output, in the same pass? A chain can if its last layer can.

    A layer that is watched runs alone: its output must not include another branch.

    >>> import dualnet as dn
    >>> takes_other(dn.BatchNorm()), takes_other(dn.Sequential([dn.Conv2D(4, 3), dn.BatchNorm()]))
    (True, True)
    >>> takes_other(dn.Sequential([dn.BatchNorm(), dn.ReLU()]))
    False
    """
    if replaced([layer], *METHODS):
        return False
    if _says(layer, "together"):  # a chain
        return bool(layer.together and len(layer)) and takes_other(layer[-1])  # type: ignore[attr-defined,arg-type,index]
    return _says(layer, "takes_other")


def replaced(layers: Sequence[Any], *methods: str) -> bool:
    """Does one of these layers itself hold a method that replaces its class's?"""
    for layer in layers:  # plain loops: generators would take three times as long, and every call of a network asks
        own = vars(layer)
        for method in methods:
            if method in own:
                return True
    return False


def by_hand(layer: Any) -> bool:
    """Did somebody set a ``forward`` or ``infer`` on the layer itself? Such a method takes only the usual arguments.

    A watched pass does not count: it calls the method that was there before, with all its arguments.

    >>> import dualnet as dn
    >>> relu = dn.ReLU()
    >>> relu.forward = lambda x, train=False: dn.ops.relu(2 * x)
    >>> by_hand(relu), by_hand(dn.ReLU())
    (True, False)
    """
    own = vars(layer)
    return "infer" in own or ("forward" in own and not getattr(own["forward"], "watches", False))


def told_by_hand(net: Layer) -> str:
    """The layers of a network that are :func:`by_hand`, for a message; ``""`` if there are none."""
    found = [f"{name or 'the network'} ({type(layer).__name__})" for name, layer in net.walk() if by_hand(layer)]
    return ", ".join(found)


def check_classes(net: Layer, op: str) -> None:
    """Raise ``ValueError`` if a layer is :func:`by_hand`, since ``op`` writes what its class computes."""
    if found := told_by_hand(net):
        raise ValueError(
            f"{op}: these layers have a forward that was set on the layer itself: {found}. {op} writes what "
            "their class computes. Write a class with that forward instead."
        )


def _says(layer: Any, what: str) -> bool:
    """Does this very class set the attribute? An inherited one does not count."""
    return vars(type(layer)).get(what, False)
