"""Flattened maps: dualnet counts their units pixel by pixel, PyTorch and ONNX channel by channel.

Everything with one number per unit, up to the first dense layer after a Flatten, depends on this order.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy

from ..geometry import elements
from ..layers import Flatten, Graph, Parallel, Residual, SeparableConv2D, Sequential
from ..layers.layer import Layer, Shape

__all__ = ["Order", "leaves", "order_after", "same_order"]

Order = numpy.ndarray | None
"""``order[j]`` is the position of our unit j in the other frameworks; None if both orders are equal."""


def flattened(shape: Shape) -> Order:
    """The order of maps (H, W, C) in one row.

    >>> flattened((1, 2, 3)).tolist(), flattened((2, 2, 1))
    ([0, 2, 4, 1, 3, 5], None)
    """
    if len(shape) != 3:
        return None
    H, W, C = shape
    order = numpy.arange(elements(shape)).reshape(C, H, W).transpose(1, 2, 0).reshape(-1)
    return order if (order != numpy.arange(order.size)).any() else None


def order_after(layer: Layer, shape: Shape, order: Order = None) -> Order:
    """The order of a layer's output, for an input of this shape and order; ``ValueError`` if branches differ in it."""
    return list(_walked(layer, "", shape, order))[-1][-1]


def leaves(layer: Layer, shape: Shape) -> Iterator[tuple[str, Layer, Shape, Order]]:
    """Each layer inside that holds no others: its name, itself, and its input's shape and order.

    >>> import dualnet as dn
    >>> net = dn.Sequential([dn.Flatten(), dn.ReLU(), dn.Dense(2)])
    >>> [(name, order is not None) for name, _, _, order in leaves(net, (2, 2, 3))]
    [('0', False), ('1', True), ('2', True)]
    """
    for name, leaf, at, before, _ in _walked(layer, "", shape, None):
        if leaf is not None:
            yield name, leaf, at, before


def same_order(one: Order, other: Order) -> bool:
    """Are two orders equal?"""
    if one is None or other is None:
        return one is other
    return numpy.array_equal(one, other)


def _walked(
    layer: Layer, path: str, shape: Shape, order: Order
) -> Iterator[tuple[str, Layer | None, Shape, Order, Order]]:
    """The leaves with the order before and after each; the last entry has the order after the whole network."""
    inside = {name: (f"{path}.{name}" if path else name, child) for name, child in layer.children().items()}
    if isinstance(layer, (Sequential, SeparableConv2D)):
        for name, child in inside.values():
            found = list(_walked(child, name, shape, order))
            yield from found
            shape, order = child.output_shape(shape), found[-1][-1]
        yield path, None, shape, order, order
    elif isinstance(layer, (Residual, Parallel)):
        after = [] if not isinstance(layer, Residual) or layer.shortcut is not None else [(shape[-1], order)]
        for name, child in inside.values():
            found = list(_walked(child, name, shape, order))
            yield from found
            after.append((child.output_shape(shape)[-1], found[-1][-1]))
        yield path, None, shape, order, _merged(after, path, getattr(layer, "merge", "add"))
    elif isinstance(layer, Graph):
        orders: dict[str, Order] = dict.fromkeys(layer.inputs, order)
        for name, child, at in layer._shapes(shape):
            node = layer.nodes[name]
            if isinstance(node.inputs, str):
                found = list(_walked(child, inside[name][0], at, orders[node.inputs]))
                yield from found
                orders[name] = found[-1][-1]
            else:
                ways = [(one[-1], orders[source]) for one, source in zip(at, node.sources)]
                orders[name] = _merged(ways, inside[name][0], getattr(child, "merge", "add"))
        yield path, None, shape, order, orders[layer.ends()[0]]
    else:
        yield path, layer, shape, order, _after_leaf(layer, shape, order)


def _after_leaf(layer: Layer, shape: Shape, order: Order) -> Order:
    if isinstance(layer, Flatten) and len(shape) == 3:
        return flattened(shape)
    return order if layer.output_shape(shape) == tuple(shape) and type(layer).__name__ != "Dense" else None


def _merged(ways: list[tuple[int, Order]], path: str, merge: str) -> Order:
    """The order after branches that are added or concatenated, each given by its width and its order."""
    if merge != "concat":
        if not all(same_order(order, ways[0][1]) for _, order in ways):
            raise ValueError(
                f"{f'layer {path}' if path else 'it'} {'adds' if merge == 'add' else 'merges'} flattened maps and "
                "other rows, and other frameworks flatten maps in a different order. Flatten after the merge, or put a "
                "Dense after the Flatten"
            )
        return ways[0][1]
    if all(order is None for _, order in ways):
        return None
    starts = numpy.cumsum([0, *(width for width, _ in ways)])
    return numpy.concatenate(
        [start + (numpy.arange(width) if order is None else order) for start, (width, order) in zip(starts, ways)]
    )
